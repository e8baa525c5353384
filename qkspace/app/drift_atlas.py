"""Drift atlas: the maps of all heads of a comparison, every query in the colour of its drift, as pure functions.

In: a `Comparison` and a `CompareState`. Out: a mosaic (`qkspace.app.atlas`), the order of its heads and what is said of them.
Knows no widgets.

All cells share one scale of colours, and so do all checkpoints. Its steps are even in the square root of the divergence,
which is a distance (Endres and Schindelin 2003): most tokens change little, and by their divergence itself all would look
alike. Where the tuned tokens lie on the base's maps, a cell shows the same part of its map for both.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache, partial
from typing import TYPE_CHECKING

import numpy as np

from qkspace import store
from qkspace.app import compare_select as chosen
from qkspace.app import compare_words as words
from qkspace.app import drift
from qkspace.app.atlas import CELL_TOKENS, CellPlaces, Mosaic, cell_places, draw, heads_of
from qkspace.app.colours import pack
from qkspace.app.compare_select import SAME, SIDES, SideName
from qkspace.app.language import say
from qkspace.app.raster import FADED, KEY, QUERY, Extent, Image, Places, paint
from qkspace.app.words import plain, verdict_of
from qkspace.schema import BoolArray, FloatArray, IntArray, QKSpaceError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    import pandas as pd

    from qkspace.app.compare_state import CompareScene, CompareState
    from qkspace.comparison.reader import Comparison

MOST_POINTS = 1_500_000  # tokens of all cells together: of very many heads, which are small, fewer stand for the corpus
LEAST_TOKENS = 500  # of a cell
QUIET = 0.5  # opacity of the map of a head that did not change
FAINT = 0.45  # opacity of keys, which have no drift of their own; less where a search picks tokens out
PERCENTILE = 99  # of the divergence of all queries, at which the scale ends


@dataclass(frozen=True, slots=True)
class Sample:
    """The tokens that a cell shows, whole sequences, the same for every head.

    rows: of the base's tokens (token); js: divergence of each as a query, nats (head, token); nan where it is not compared,
    as of the tokens of a word but the first, and where the head has no counterpart.
    """

    rows: IntArray
    js: FloatArray


def n_tokens(comparison: Comparison) -> int:
    """Return how many tokens a cell shows at most."""
    n_heads = sum(spec.n_heads for spec in comparison.base.layers)
    return min(CELL_TOKENS, max(LEAST_TOKENS, MOST_POINTS // n_heads))


@lru_cache(maxsize=4)
def sample_of(comparison: Comparison, label: str) -> Sample:
    """Return the tokens of a cell and their drift in every head; only these are read."""
    most = n_tokens(comparison)
    rows, units = chosen.shown_of(comparison, most).rows, chosen.units_of(comparison, label, most)
    at = chosen.find(rows, units.row["base"])
    parts = []
    for layer, spec in enumerate(comparison.base.layers):
        stored = store.read_array(comparison.root / "drift" / label / f"L{layer:02d}.npy")
        js = np.full((spec.n_heads, len(rows)), np.nan, dtype=np.float32)
        js[:, at] = store.float_array(stored[:, units.unit])
        parts.append(js)
    found = np.concatenate(parts)
    found[~np.isfinite(comparison.head_drift(label)["js"].to_numpy())] = np.nan
    return Sample(rows, found)


def hit_rows(scene: CompareScene) -> IntArray | None:
    """Return the rows of the base that stand for what a search found, of a word its first token; None without a search."""
    units = chosen.hit_units(scene)
    label = scene.state.checkpoint
    if units is None or scene.comparison.unit(label) == "token":
        return units
    return np.asarray(scene.comparison.units(label)["base_row"].to_numpy()[units])


@lru_cache(maxsize=8)
def scale_top(comparison: Comparison) -> float:
    """Return the divergence that has the last colour, in nats: nearly all queries lie below it in every checkpoint.

    It is that of the checkpoint whose heads changed most on average.
    """
    tables = [comparison.head_drift(label)["js"].to_numpy() for label in comparison.labels]
    much = [float(js[np.isfinite(js)].mean()) if np.isfinite(js).any() else 0.0 for js in tables]
    js = sample_of(comparison, comparison.labels[int(np.argmax(much))]).js
    js = js[np.isfinite(js)]
    return (float(np.percentile(js, PERCENTILE)) if len(js) else 0.0) or float(np.log(2))


def method_of(comparison: Comparison, state: CompareState) -> tuple[str, bool]:
    """Return whose maps of the base are shown, and whether the tuned tokens lie on them too.

    Raises:
        QKSpaceError: the base has no map in the plane.
    """
    methods = chosen.shown_of(comparison).methods
    if not methods:
        raise QKSpaceError(say(state.language, "compare_atlas_none", label=comparison.base_label))
    method = state.method if state.method in methods else methods[0]
    return method, method in chosen.common_methods(comparison, state.checkpoint)


@lru_cache(maxsize=2)
def _places(comparison: Comparison, label: str, method: str, common: bool) -> CellPlaces:
    """Return where the sample lies in every cell: (head, base or tuned, query or key, token); the base alone if not common."""
    base, rows = comparison.base, sample_of(comparison, label).rows

    def read(layer: int, head: int) -> FloatArray:
        own = store.read_array(base.map_path(method, 2, layer, head, "npy"))[:, rows]
        if not common:
            return np.asarray(own[None], dtype=np.float32)
        view = comparison.view(label, method, 2, layer, head)
        return np.stack([own, np.stack([view.query[rows], view.key[rows]])]).astype(np.float32)

    heads = heads_of(comparison.head_drift(label))
    return cell_places(heads, rows, read, (2 if common else 1, 2))


@dataclass(frozen=True, slots=True)
class Worth:
    """What the base's maps are worth: share of queries whose nearest key is the most attended one, nan where not scored.

    before, after: of the base's and of the tuned attention (head); poor: for the tuned attention (head).
    """

    before: FloatArray
    after: FloatArray
    poor: BoolArray


@lru_cache(maxsize=8)
def worth_of(comparison: Comparison, label: str, method: str) -> Worth:
    """Return what the base's maps are worth for a tuned checkpoint: a small file a head is read, once."""
    shares, poor = [], []
    for layer, head in heads_of(comparison.head_drift(label)):
        own = comparison.base.head(layer, head).projection(method, 2).scores
        tuned = comparison.view(label, method, 2, layer, head).scores
        shares.append([np.nan if each is None else each.recall1 for each in (own, tuned)])
        poor.append(verdict_of(tuned) == "poor")
    before, after = np.array(shares, dtype=np.float64).T
    return Worth(before, after, np.array(poor))


class DriftLook:
    """What the cells show: queries in the colour of their drift, keys faint, and faint as a whole what did not change."""

    def __init__(self, comparison: Comparison, state: CompareState, side: SideName, hits: IntArray | None) -> None:
        """Read what all cells need; hits: rows of the base that stand out, all else being faded."""
        method, common = method_of(comparison, state)
        label = state.checkpoint
        self.sample, self.places = sample_of(comparison, label), _places(comparison, label, method, common)
        self.side = SIDES.index(side) if common else 0
        self.mapped, self.outside = self.places.mapped, self.places.outside
        self.quiet = drift.is_quiet(comparison.head_drift(label))
        self.top = scale_top(comparison)
        self.palette = pack([*chosen.drift_scale(state.theme), SAME[state.theme]])
        n = len(self.sample.rows)
        self.kind = np.repeat(np.asarray([QUERY, KEY], dtype=np.uint8), n)
        self.hit = np.ones(n, dtype=bool) if hits is None else np.isin(self.sample.rows, hits)
        self.faint = FAINT if hits is None else FADED
        self.neutral = np.repeat(self.palette[-1:], n)

    def colours(self, i: int) -> Any:
        """Return the colour of every query of a head, packed: (token)."""
        js, last = self.sample.js[i], len(self.palette) - 2
        share = np.sqrt(np.clip(js / self.top, 0, 1))
        known = np.isfinite(share)
        return self.palette[np.where(known, np.rint(np.nan_to_num(share) * last), last + 1).astype(int)]

    def cell(self, i: int, cell_px: int) -> Image:
        """Draw the map of one head, a row of the table of heads."""
        if not self.mapped[i]:
            return np.zeros((cell_px, cell_px), dtype=np.uint32)
        strong = np.concatenate([np.isfinite(self.sample.js[i]) & self.hit, np.zeros(len(self.hit), dtype=bool)])
        colour = np.concatenate([self.colours(i), self.neutral])
        image = np.zeros((cell_px, cell_px), dtype=np.uint32)
        for which, alpha in ((~strong, self.faint), (strong, 1.0)):
            if which.any():
                above = self._points(i, which, colour, cell_px, alpha)
                image = np.where(above != 0, above, image)
        return fainter(image, QUIET) if self.quiet[i] else image

    def _points(self, i: int, which: BoolArray, colour: Any, cell_px: int, alpha: float) -> Image:
        """Draw some of the points of a head: opaque, or all as faint as `alpha` says."""
        x, y = (at[i, self.side].ravel()[which] for at in (self.places.x, self.places.y))
        strong = np.ones(len(x), dtype=bool) if alpha == 1 else None
        size = (cell_px, cell_px)
        return paint(Places(x, y), colour[which], self.kind[which], *size, strong=strong, alpha=alpha)


def fainter(image: Image, share: float) -> Image:
    """Return an image of a share of its opacity."""
    parts = image.view(np.uint8).reshape(*image.shape, 4).copy()
    parts[..., 3] = np.rint(parts[..., 3] * share)
    return parts.view(np.uint32)[..., 0]


def mosaic(
    comparison: Comparison,
    state: CompareState,
    *,
    side: SideName = "base",
    hits: IntArray | None = None,
    view: Extent | None = None,
    finer: int = 1,
    **layout: Any,  # what `figures_atlas.fit` found
) -> Mosaic:
    """Draw the maps of all heads of the base; side: at which places, those of the base or of the tuned checkpoint."""
    table = comparison.head_drift(state.checkpoint)
    return draw(table, DriftLook(comparison, state, side, hits), view=view, finer=finer, **layout)


def cells_words(
    comparison: Comparison, state: CompareState, found: Mosaic, worth: Worth | None = None
) -> dict[str, list[str]]:
    """Return what the cells say: said and told (of the tooltip), js (in the corner) and value (of the chosen measure).

    worth: of the maps where the tuned places are shown, else None.
    """
    table = comparison.head_drift(state.checkpoint)
    called = words.measure_name(state.language, state.measure)
    said = words.tooltips(table, state.language)
    rows = table.to_dict("records")
    own = [_value(row, state.measure) for row in rows]
    long = [words.measured(state.language, state.measure, float(row[state.measure])) for row in rows]
    result: dict[str, list[str]] = {"told": [], "said": [], "js": [], "value": []}
    for i, mapped in zip(found.cells["index"].tolist(), found.cells["mapped"], strict=True):
        row = rows[i]
        name = words.head_name(int(row["layer"]), int(row["head"]))
        result["told"].append(f"{name} \u00b7 {called}: {long[i]}")
        more = [] if mapped else [say(state.language, "badge_no_map")]
        result["said"].append("\n".join([said[i], *_paired(row, state), *more, *_unfit(worth, i, state)]))
        result["js"].append(_value(row, "js"))
        result["value"].append("" if state.measure == "js" else own[i])
    return result


def _value(row: Mapping[Any, Any], measure: str) -> str:
    return words.number(measure, float(row[measure]), signed=drift.is_signed(measure))


def _paired(row: Mapping[Any, Any], state: CompareState) -> list[str]:
    """Say which head of the tuned checkpoint a head is paired with, where it is."""
    if int(row["matched_layer"]) < 0:
        return []
    other = words.head_name(int(row["matched_layer"]), int(row["matched_head"]))
    cost = words.number("match_cost", float(row["match_cost"]))
    return [say(state.language, "compare_is_matched", other=other, cost=cost)]


def _unfit(worth: Worth | None, i: int, state: CompareState) -> list[str]:
    """Say of a map that is poor for the tuned attention how poor it is."""
    if worth is None or not worth.poor[i]:
        return []
    shares = {"before": float(worth.before[i]), "after": float(worth.after[i])}
    said = {name: words.share(value) if np.isfinite(value) else "\u2013" for name, value in shares.items()}
    return [say(state.language, "compare_atlas_unfit", **said)]


def unfit_cells(worth: Worth | None, found: Mosaic) -> tuple[IntArray, list[str]]:
    """Return the cells, by number, of maps that are poor for the tuned attention, and what stands in them."""
    if worth is None:
        return np.zeros(0, dtype=np.int64), []
    heads = found.cells["index"]
    at = np.flatnonzero(worth.poor[heads])
    return at, [f"! {words.share(float(worth.after[i]))}" for i in heads[at]]


def quiet_cells(table: pd.DataFrame, found: Mosaic) -> IntArray:
    """Return the cells, by their number in the mosaic, of heads that changed no more than storage may make them seem to."""
    return np.flatnonzero(drift.is_quiet(table)[found.cells["index"]])


def legend(comparison: Comparison, state: CompareState, hits: IntArray | None, worth: Worth | None = None) -> str:
    """Explain the colours, what is faint, hatched or marked: HTML; hits: see `hit_rows`; worth: see `cells_words`."""
    t = partial(plain, state.language)
    stops, top = chosen.drift_scale(state.theme), scale_top(comparison)
    ramp = f"linear-gradient(90deg, {', '.join(stops[:: max(len(stops) // 12, 1)])})"
    numbers = ("0", words.number("js", top / 4), f"&ge; {words.number('js', top)}")  # at even steps of the root
    ends = "".join(f"<span>{number}</span>" for number in numbers)
    is_word = comparison.unit(state.checkpoint) == "word"
    key = '<span class="swatch key" style="background:var(--muted);opacity:.4"></span>'
    parts = [
        f'<h2><span class="why" title="{t("compare_atlas_legend_tip")}">{t("compare_atlas_legend")}</span></h2>',
        f'<span class="ramp"><div class="scale" style="background:{ramp}"></div><div class="ends">{ends}</div></span>',
        f'<span class="entry muted">{key}{t("compare_atlas_rest" if is_word else "compare_atlas_keys")}</span>',
    ]
    n_quiet = int(drift.is_quiet(comparison.head_drift(state.checkpoint)).sum())
    if n_quiet:
        text = t("compare_n_quiet", n=n_quiet)
        parts.append(f'<span class="entry muted"><span class="swatch hatch"></span>{text}</span>')
    if worth is not None and worth.poor.any():
        text = t("compare_atlas_n_unfit", n=int(worth.poor.sum()))
        parts.append(f'<span class="entry poor why" title="{t("compare_atlas_unfit_tip")}"><b>!</b>&nbsp;{text}</span>')
    if is_word:
        parts.append(f'<span class="muted">{t("compare_atlas_words")}</span>')
    if hits is not None:
        shown = int(np.isin(hits, sample_of(comparison, state.checkpoint).rows).sum())
        text = t("compare_atlas_hits", shown=f"{shown:,}", n=f"{len(hits):,}")
        parts.append(f'<span class="muted">{text}</span>')
    return f'<div class="legend">{"".join(parts)}</div>'
