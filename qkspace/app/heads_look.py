"""Heads' look: the colour and shape of the dots of all heads, and what they mean.

In: an index, what dots are coloured by, a theme and a language. Out: a value a head for each, and the legend as HTML. Knows no
figure.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from html import escape

import numpy as np
import pandas as pd
from bokeh.palettes import Cividis256

from qkspace.app import heads_data
from qkspace.app.colours import CATEGORIES, DARK_CATEGORIES, MISSING, OTHER
from qkspace.app.language import say, strings
from qkspace.app.select import Shown
from qkspace.app.state import Language
from qkspace.heads.labels import DEFAULTS, UNMEASURED

# Shapes that a label has beside its colour, with how the legend draws each in a square of 12.
SHAPES = {
    "circle": "M6,1 a5,5 0 1,0 .01,0 Z",
    "triangle": "M6,1 L11,10.5 H1 Z",
    "diamond": "M6,.5 L9.7,6 L6,11.5 L2.3,6 Z",
    "square": "M1.5,1.5 h9 v9 h-9 Z",
    "inverted_triangle": "M6,11 L1,1.5 H11 Z",
    "star": "M6,.5 L7.4,4.3 L11.5,4.5 L8.3,7 L9.4,11 L6,8.7 L2.6,11 L3.7,7 L.5,4.5 L4.6,4.3 Z",
    "plus": "M4.4,1 h3.2 v3.4 h3.4 v3.2 h-3.4 v3.4 h-3.2 v-3.4 h-3.4 v-3.2 h3.4 Z",
    "hex": "M6,.8 L10.6,3.4 V8.6 L6,11.2 L1.4,8.6 V3.4 Z",
    "square_pin": "M1,1 Q6,3.4 11,1 Q8.6,6 11,11 Q6,8.6 1,11 Q3.4,6 1,1 Z",
    "triangle_pin": "M6,.5 Q7,6 11.5,10.5 Q6,8.4 .5,10.5 Q5,6 6,.5 Z",
}
# How much larger or smaller than a circle a shape is drawn, so that all cover as much.
SIZES = {"triangle": 1.2, "diamond": 1.45, "square": 0.9, "inverted_triangle": 1.2, "star": 1.3, "triangle_pin": 1.3}
# The colour (of CATEGORIES) and shape of each label, the same on every index so that two can be compared. Where labels share a
# colour or a shape, they seldom come together.
LABELS = {
    "induction": (0, "star"),
    "duplicate": (7, "plus"),
    "previous": (1, "triangle"),
    "next": (2, "inverted_triangle"),
    "self": (3, "diamond"),
    "row": (7, "star"),
    "column": (0, "plus"),
    "first": (4, "square"),
    "special": (5, "hex"),
    "punctuation": (6, "square_pin"),
    "sink": (8, "triangle_pin"),
    "broad": (9, "circle"),
    "positional": (7, "diamond"),
}
UNMEASURED_SHAPE = "square"  # grey, as what has no label
KINDS = ("cluster",)  # numbers that name and do not measure
PERCENTILES = (1, 99)  # between which colours are spread: an outlier does not take the whole scale


@dataclass(frozen=True, slots=True, eq=False)
class Look:
    """The dots of all heads: colour, shape, what each is in words (row of the table of heads); the legend, as HTML."""

    colour: list[str]
    marker: list[str]
    said: list[str]
    legend: str


def look_of(shown: Shown, by: str, theme: str, language: Language) -> Look:
    """Return how the dots look; by: one of `heads_data.colour_choices`."""
    name = heads_data.colour_choices(shown, language).get(by, by)
    if by == "label":
        return _labels(name, heads_data.labels_of(shown), theme, language)
    values = shown.head_table[by].to_numpy(dtype=np.float64)
    if by in KINDS:
        said = ["" if np.isnan(value) else f"{name} {value:.0f}" for value in values]
        return _kinds(name, said, theme, language)
    return _scale(name, values, theme, language, by)


def sizes(look: Look, size: float) -> list[float]:
    """Return how large dots of a look are drawn; size: of a circle."""
    return [size * SIZES.get(marker, 1.0) for marker in look.marker]


def _labels(name: str, labels: list[str], theme: str, language: Language) -> Look:
    """Give each label its own colour and shape; heads of none are grey circles."""
    palette, known = _palette(theme), strings(language)
    look = {label: (palette[place], shape) for label, (place, shape) in LABELS.items()}
    look |= {UNMEASURED: (OTHER[theme], UNMEASURED_SHAPE), "": (OTHER[theme], "circle")}
    called = {label: known.get(f"label_{label or 'other'}", label) for label in {*look, *labels}}
    counts = pd.Series(labels, dtype=object).value_counts()
    least = asdict(DEFAULTS)
    entries = []
    for label in [*(label for label in look if label in counts), *sorted(set(counts.index) - look.keys())]:
        above = "heads_above_broad" if label == "broad" else "heads_above"
        words = say(language, above, share=100 * least[label]) if label in least else ""
        entries.append(_entry(called[label], *look.get(label, look[""]), int(counts[label]), words))
    drawn = [look.get(label, look[""]) for label in labels]
    legend = f'<span class="muted">{escape(say(language, "legend_labels", name=name))}</span> {" ".join(entries)}'
    return Look(
        [colour for colour, _ in drawn], [shape for _, shape in drawn], [called[each] for each in labels], legend
    )


def _kinds(name: str, said: list[str], theme: str, language: Language) -> Look:
    """Give the commonest kinds a colour of their own; all others, and what is of none, are grey."""
    palette = _palette(theme)
    counts = pd.Series([kind for kind in said if kind], dtype=object).value_counts()
    named = [str(kind) for kind in counts.index[: len(palette)]]
    colour = dict(zip(named, palette, strict=False))
    entries = [_entry(kind, colour[kind], "circle", int(counts[kind])) for kind in named]
    n_rare, n_none = int(counts.iloc[len(named) :].sum()), said.count("")
    if n_rare:
        entries.append(_entry(say(language, "legend_rest", n=len(counts) - len(named)), OTHER[theme], "circle", n_rare))
    if n_none:
        entries.append(_entry(say(language, "legend_missing"), OTHER[theme], "circle", n_none))
    legend = f'<span class="muted">{escape(say(language, "legend_counts", name=name))}</span> {" ".join(entries)}'
    return Look([colour.get(kind, OTHER[theme]) for kind in said], ["circle"] * len(said), said, legend)


def _palette(theme: str) -> tuple[str, ...]:
    return CATEGORIES if theme == "light" else DARK_CATEGORIES


def _entry(name: str, colour: str, marker: str, count: int, least: str = "") -> str:
    svg = f'<svg width="12" height="12" aria-hidden="true"><path d="{SHAPES[marker]}" fill="{colour}"/></svg>'
    above = f' <span class="muted">{escape(least)}</span>' if least else ""
    return f'<span class="kind">{svg} {escape(name)}{above} <b>{count:,}</b></span>'


def _scale(
    name: str, values: np.ndarray[tuple[int], np.dtype[np.float64]], theme: str, language: Language, by: str
) -> Look:
    """Spread values over a scale of colours; what has none is grey."""
    finite = values[np.isfinite(values)]
    low, high = (float(end) for end in np.percentile(finite, PERCENTILES)) if len(finite) else (0.0, 1.0)
    if by == "layer":
        low, high = float(values.min()), float(values.max())
    share = np.clip((values - low) / (high - low), 0, 1) if high > low else np.zeros_like(values)
    colour = [MISSING[theme] if math.isnan(s) else Cividis256[round(255 * s)] for s in share.tolist()]
    words = [f"{name}: {number(value, by)}" for value in values.tolist()]
    ends = ", ".join(Cividis256[i] for i in range(0, 256, 51))
    legend = (
        f'<span class="muted">{escape(name)}:</span> {number(low, by)} '
        f'<span class="ramp" style="background:linear-gradient(to right, {ends})"></span> {number(high, by)}'
    )
    if len(finite) < len(values):
        legend += f" {_entry(say(language, 'legend_missing'), MISSING[theme], 'circle', len(values) - len(finite))}"
    return Look(colour, ["circle"] * len(colour), words, legend)


def number(value: float, of: str) -> str:
    """Write the value of a statistic as the page does: shares as per cent."""
    if math.isnan(value):
        return "-"
    if of == "layer" or of in KINDS:
        return f"{value:.0f}"
    return heads_data.per_cent(value) if heads_data.is_share(of) else f"{value:.3g}"
