"""Colours: from a column of the token table to a colour for each token and a legend.

In: values, a theme and a language. Out: packed colours and legend entries. Knows no heads, no widgets and no picture.
Categorical colours are Paul Tol's "muted" scheme, which colour-blind readers can tell apart; continuous ones are cividis,
made for the same purpose (Nunez et al. 2018).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from bokeh.palettes import Cividis256
from numpy.typing import NDArray

from qkspace.app.language import say, strings

if TYPE_CHECKING:
    from qkspace.app.state import Language

QUERY_KEY = "query / key"
QUERY_COLOUR = {"light": "#1F6FB5", "dark": "#62A9E8"}
KEY_COLOUR = {"light": "#D9622B", "dark": "#F5A06B"}
LINK_COLOUR = {"light": "#5B4B8A", "dark": "#D9CDFB"}
OTHER = {"light": "#7D8694", "dark": "#8F99A8"}
MISSING = {"light": "#E1E4E9", "dark": "#333A45"}  # near the background: what has no value is not the news
CATEGORIES = (
    "#332288",
    "#88CCEE",
    "#CC6677",
    "#117733",
    "#DDCC77",
    "#AA4499",
    "#44AA99",
    "#882255",
    "#999933",
    "#6699CC",
)
DARK_CATEGORIES = ("#8F85E8", *CATEGORIES[1:3], "#4CB36B", *CATEGORIES[4:7], "#D65C8F", *CATEGORIES[8:])
SHARES = tuple(Cividis256[::15])  # along a scale from nothing to all
HUE_VALUE = {"light": 0.86, "dark": 0.95}  # brightness of the colours of hues
RARE, NONE = "*rare*", "*none*"  # the legend's entries of what has no colour of its own, and of what has no value
MAX_CATEGORIES = 200  # a column of more kinds than that (sentence ids, words) says nothing by colour


@dataclass(frozen=True, slots=True)
class Legend:
    """What colours mean: entries (name, colour, tokens) of a categorical column, or the ends of a continuous one.

    Title and names are in the visitor's language. scale: colours along one whose ends no value is beyond (hues, shares).
    note: what the values are, where the title does not say it all. kinds: what the entries are in every language, as
    `State.hidden` has it.
    """

    title: str
    entries: tuple[tuple[str, str, int], ...] = ()
    low: str = ""
    high: str = ""
    kinds: tuple[str, ...] = ()
    scale: tuple[str, ...] = ()
    note: str = ""

    @property
    def continuous(self) -> bool:
        """Whether this is a scale and not a list."""
        return not self.entries


@dataclass(frozen=True, slots=True)
class Colouring:
    """Colours of queries and of keys, packed 0xRRGGBBAA without their alpha, (token) each, and their legend."""

    query: NDArray[np.uint32]
    key: NDArray[np.uint32]
    legend: Legend


def colourable(tokens: pd.DataFrame, own: Sequence[str] = ("kind", "position")) -> list[str]:
    """Return the columns of the token table whose values say something by colour, ours first."""
    own = [name for name in own if name in tokens]
    skip = {"sequence", "token", "token_id", "text", "word", "word_text", "start", "end", "is_special", *own}
    return own + [name for name in tokens.columns if name not in skip and _has_kinds(tokens[name])]


def _has_kinds(column: pd.Series[Any]) -> bool:
    """Tell whether a column has at least two values, on more than a hundredth of the tokens, and not too many kinds."""
    filled = column.dropna()
    if len(filled) < 0.01 * len(column):
        return False
    n = filled.nunique()
    return n >= 2 and (n <= MAX_CATEGORIES or bool(pd.api.types.is_numeric_dtype(column)))


def colour_tokens(name: str, values: pd.Series[Any] | None, theme: str, language: Language = "en") -> Colouring:
    """Colour each token by `values`, queries and keys alike; without values queries and keys are told apart."""
    if values is None:
        return _query_key(theme, language)
    if pd.api.types.is_numeric_dtype(values) and not pd.api.types.is_bool_dtype(values):
        return _continuous(name, values.to_numpy(dtype=np.float64, na_value=np.nan), theme)
    return _categorical(name, values, theme, language)


def _query_key(theme: str, language: Language) -> Colouring:
    query, key = pack([QUERY_COLOUR[theme]]), pack([KEY_COLOUR[theme]])
    entries = (
        (say(language, "legend_query"), QUERY_COLOUR[theme], -1),
        (say(language, "legend_key"), KEY_COLOUR[theme], -1),
    )
    return Colouring(query, key, Legend(say(language, "legend_query_key"), entries, kinds=("query", "key")))


def _continuous(name: str, values: NDArray[np.floating[Any]], theme: str) -> Colouring:
    """Spread values over the scale between their 1st and 99th percentile, so that an outlier does not take it all."""
    values = np.where(np.isfinite(values), values, np.nan)
    low, high = np.nanpercentile(values, [1, 99])
    palette = pack([*Cividis256, MISSING[theme]])
    share = (values - low) / (high - low) if high > low else np.zeros_like(values)
    step = np.where(np.isnan(values), 256, np.clip(np.nan_to_num(share), 0, 1) * 255).astype(int)
    colours = palette[step]
    return Colouring(colours, colours, Legend(name, (), _short(low), _short(high)))


def colour_hues(name: str, degrees: NDArray[np.floating[Any]], theme: str) -> Colouring:
    """Colour each token by a hue (degrees, nan where there is none) in that hue itself, so that 359 is beside 0."""
    from matplotlib.colors import hsv_to_rgb

    wheel = np.stack([np.arange(361) / 360, np.full(361, 0.78), np.full(361, HUE_VALUE[theme])], axis=1)
    red, green, blue = np.rint(255 * hsv_to_rgb(wheel)).astype(np.uint32).T
    palette = np.append((red << 24) | (green << 16) | (blue << 8), pack([MISSING[theme]]))
    step = np.where(np.isnan(degrees), 361, np.rint(np.nan_to_num(degrees) % 360)).astype(int)
    colours = palette[step].astype(np.uint32)
    scale = tuple(f"#{palette[i] >> 8:06X}" for i in range(0, 361, 30))
    return Colouring(colours, colours, Legend(name, (), "0°", "360°", scale=scale))


def colour_of_share(share: float, theme: str) -> np.uint32:
    """Return the colour of a share of a whole, 0 to 1 along the scale; that of what has no value where it is nan."""
    return np.uint32(
        pack([MISSING[theme] if np.isnan(share) else Cividis256[round(255 * min(max(share, 0.0), 1.0))]])[0]
    )


def _short(value: float) -> str:
    return f"{value:,.0f}" if value == round(value) else f"{value:.3g}"


def _categorical(name: str, values: pd.Series[Any], theme: str, language: Language) -> Colouring:
    """Give the commonest kinds a colour of their own and the rest, and what is missing, grey."""
    palette = CATEGORIES if theme == "light" else DARK_CATEGORIES
    text = values.astype("string")
    counts = text.value_counts()
    named = list(counts.index[: len(palette)])
    number = {kind: i for i, kind in enumerate(named)}
    code = text.map(number).fillna(len(named)).to_numpy(dtype=int, copy=True)
    code[text.isna().to_numpy()] = len(named) + 1
    colours = pack([*palette[: len(named)], OTHER[theme], MISSING[theme]])[code]
    entries = [(_kind(language, name, kind), palette[i], int(counts.iloc[i])) for i, kind in enumerate(named)]
    kinds = [str(kind) for kind in named]
    n_more, n_missing = len(counts) - len(named), int(text.isna().sum())
    if n_more:
        entries.append((say(language, "legend_rest", n=n_more), OTHER[theme], int(counts.iloc[len(named) :].sum())))
        kinds.append(RARE)
    if n_missing:
        entries.append((say(language, "legend_missing"), MISSING[theme], n_missing))
        kinds.append(NONE)
    return Colouring(colours, colours, Legend(name, tuple(entries), kinds=tuple(kinds)))


def _kind(language: Language, column: str, kind: str) -> str:
    """Return what the page calls a kind: as it stands in the corpus, or in the visitor's language where it is ours."""
    return strings(language).get(f"kind_{kind}", kind) if column == "kind" else str(kind)


def hidden_kinds(values: pd.Series[Any], hidden: Sequence[str]) -> NDArray[np.bool_]:
    """Tell which values (token) are of a kind that the legend hides: a name, `RARE` (no colour of its own) or `NONE`."""
    if pd.api.types.is_numeric_dtype(values) and not pd.api.types.is_bool_dtype(values):
        return np.zeros(len(values), dtype=bool)
    text = values.astype("string")
    found = text.isin([kind for kind in hidden if kind not in (RARE, NONE)]).to_numpy(dtype=bool, copy=True)
    missing = text.isna().to_numpy(dtype=bool)
    if NONE in hidden:
        found |= missing
    if RARE in hidden:
        named = text.value_counts().index[: len(CATEGORIES)]
        found |= ~missing & ~text.isin(named).to_numpy(dtype=bool)
    return found


def pack(colours: list[str]) -> NDArray[np.uint32]:
    """Return hexadecimal colours as 0xRRGGBB00."""
    return np.asarray([int(colour[1:], 16) << 8 for colour in colours], dtype=np.uint32)
