"""Atlas picture: the maps of all heads, a row a layer and a column a head, or sorted by a score.

In: an index and a method, perhaps an order of heads. Out: a matplotlib figure. However many heads there are, their points
are two clouds on one pair of axes, and of a model of many heads each map shows fewer tokens.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure

from qkspace.app import atlas, select
from qkspace.app.colours import QUERY_KEY, Colouring
from qkspace.app.select import OF_A_HEAD, Shown
from qkspace.app.state import Kind, State, Theme
from qkspace.captions import corpus_words, titled
from qkspace.drawing import MARGIN, WIDEST, Font, Sheet, check_width, height_of, unpack, visible
from qkspace.index import Index, View
from qkspace.legend import draw_legend, legend_height
from qkspace.report import verdict
from qkspace.schema import BoolArray, FloatArray, IntArray, QKSpaceError

POINTS = 250_000  # tokens drawn over all maps, and at most
POINTS_EACH = 3_000  # on one of them
CELL = 0.55  # inches: the least width of a map
SCORES = 0.15  # inches below a map for its scores
LEFT = 0.5  # inches beside the maps for the numbers of layers
LEGEND = 2.2  # inches that the legend takes
NAME = 0.13  # inches above a map for its name, where heads are sorted


@dataclass(frozen=True, slots=True)
class _Grid:
    """Where maps stand: rows of the table of heads, layer, head, row and column, each (map); how wide a map is, in inches."""

    index: IntArray
    layer: IntArray
    head: IntArray
    row: IntArray
    column: IntArray
    cell: float
    name: float  # inches above a map

    @property
    def step(self) -> float:
        """Inches from one row of maps to the next."""
        return self.name + self.cell + SCORES

    @property
    def height(self) -> float:
        """Inches that all rows take."""
        return (int(self.row.max()) + 1) * self.step

    def corner(self, i: int) -> FloatArray:
        """Return where a map begins, inches to the right and down."""
        return np.array([self.column[i] * self.cell, self.row[i] * self.step + self.name])


def atlas_picture(
    index: Index,
    *,
    method: str | None = None,
    dims: int = 2,
    colour: str = QUERY_KEY,
    theme: Theme = "light",
    width: float | None = None,
    order: str = "",
    least: float | None = None,
    search: str = "",
) -> Figure:
    """Draw the maps of all heads small, each with its scores below it.

    Args:
        index: the index.
        method: which maps; None for unfold's, or the first there are.
        dims: of the maps; of those in space the first two dimensions are drawn.
        colour: what the points are coloured by, as in `map_picture`.
        theme: "light" or "dark".
        width: of the picture in inches; None for 7, or more where a layer has more than 12 heads.
        order: a score or statistic by which heads are sorted, such as "recall1", lowest first after a "-"; "" for a row a
            layer.
        least: from which value of it on a head is drawn, or up to which after a "-".
        search: what is searched for, as in `index.search`; the hits are strong and all else is faint.

    Raises:
        QKSpaceError: there are no such maps, no such colour, order or head, or too little width.
    """
    method = index.head(0, 0).projection(method, dims).method
    width = width or default_width(index.n_heads)
    check_width(width)
    cell = (width - LEFT - 2 * MARGIN) / index.n_heads
    if cell < 0.3:
        least = LEFT + 2 * MARGIN + index.n_heads * 0.3
        raise QKSpaceError(f"{index.n_heads} maps across need a width of {least:.1f} inches at least; got {width:g}.")
    cell = min(cell, 1.2)
    n_heads = sum(layer.n_heads for layer in index.layers)
    most = min(POINTS_EACH, max(POINTS // n_heads, 100))
    shown = Shown(index, max_tokens=most)
    state = State(method=method, colour=colour, theme=theme, order=order, least=least, search=search)
    grid = _grid(shown, state, cell)
    hits = index.search(search).rows if search else None
    rows, strong = _drawn_rows(shown, hits, most)
    colours = titled(select.colouring(shown, state))
    caption = _caption(
        shown,
        state,
        dims,
        len(grid.index),
        n_hits=None if hits is None or strong is None else (len(hits), int(strong.sum())),
    )
    font = Font.of([caption, colours.legend.title, *(visible(name) for name, _, _ in colours.legend.entries)])
    lines = font.wrap(caption, 7, width - 2 * MARGIN)
    title = 0.4 if order else 0.55
    end = title + grid.height + 0.1
    known: dict[str, Any] = {"markers": colour != QUERY_KEY, "links": False, "selected": None}
    key = legend_height(colours.legend, **known)
    sheet = Sheet.of(width, end + key + 2 * MARGIN + height_of(lines), font, theme)
    n = len(grid.index)
    name = f"{visible(index.model_name)}: {'all heads' if n == n_heads else f'{n} of {n_heads} heads'}"
    sheet.text(MARGIN, MARGIN * 0.7, font.shorten(name, 9, 0.9 * width - 2 * MARGIN), size=9, weight="bold")
    axes = sheet.axes(LEFT + MARGIN, title, index.n_heads * cell, grid.height, inches=True)
    _draw_maps(axes, sheet, shown, state, dims, grid, rows, strong)
    _write_scores(sheet, shown, f"{method}{dims}", (LEFT + MARGIN, title), grid)
    _write_names(sheet, index, (LEFT + MARGIN, title), grid)
    draw_legend(sheet, MARGIN, end, LEGEND, colours.legend, **known)
    sheet.paragraph(MARGIN, end + key + MARGIN, lines)
    return sheet.figure


def default_width(n_heads: int) -> float:
    """Return how wide the picture is, in inches, where nobody says so: maps of many heads are smaller."""
    return min(max(7.0, LEFT + 2 * MARGIN + n_heads * CELL), WIDEST)


def sorted_heads(shown: Shown, state: State) -> IntArray:
    """Return the heads of the atlas, rows of `shown.head_table`, in the order of a state and from its least value on.

    Raises:
        QKSpaceError: there is no such score or statistic, or no such head.
    """
    order = atlas.chosen_heads(atlas.atlas_table(shown, state), state)
    if order is None:
        return np.arange(len(shown.head_table))
    if not len(order):
        by, side = state.order.removeprefix("-"), "less" if state.order.startswith("-") else "more"
        raise QKSpaceError(f"No head has {by} of {state.least:g} or {side}: nothing to show.")
    return order


def _grid(shown: Shown, state: State, cell: float) -> _Grid:
    """Lay out the heads: a row a layer, or in reading order of a score."""
    order = sorted_heads(shown, state)
    layer, head = (shown.head_table[name].to_numpy()[order] for name in ("layer", "head"))
    if not state.order:
        return _Grid(order, layer, head, layer, head, cell, 0.0)
    return _Grid(order, layer, head, *np.divmod(np.arange(len(order)), shown.index.n_heads), cell, NAME)


def _drawn_rows(shown: Shown, hits: IntArray | None, most: int) -> tuple[IntArray, BoolArray | None]:
    """Return the rows of each map, and which of them are hits; some hits that the sample lacks are drawn too, on top."""
    if hits is None:
        return shown.rows, None
    missing = np.setdiff1d(hits, shown.rows)
    extra = missing[np.linspace(0, len(missing) - 1, min(len(missing), most)).astype(np.int64)]
    rows = np.concatenate([shown.rows, extra])
    strong = np.isin(rows, hits)
    order = np.argsort(strong, kind="stable")
    return rows[order], strong[order]


def _draw_maps(
    axes: Axes,
    sheet: Sheet,
    shown: Shown,
    state: State,
    dims: int,
    grid: _Grid,
    rows: IntArray,
    strong: BoolArray | None,
) -> None:
    """Draw every map into its square, all of them at once."""
    places: dict[Kind, list[FloatArray]] = {"query": [], "key": []}
    looks: dict[Kind, list[FloatArray]] = {"query": [], "key": []}
    frames, crosses = [], []
    colours = select.colouring(shown, state)
    for i, (layer, head) in enumerate(zip(grid.layer.tolist(), grid.head.tolist(), strict=True)):
        corner = grid.corner(i) + 0.02
        side = grid.cell - 0.04
        x, y = corner
        frames.append([(x, y), (x + side, y), (x + side, y + side), (x, y + side), (x, y)])
        view = shown.index.head(layer, head).projection(state.method, dims)
        if view.reason:
            crosses += [[(x, y), (x + side, y + side)], [(x + side, y), (x, y + side)]]
            continue
        if state.colour in OF_A_HEAD:
            colours = select.colouring(shown, replace(state, layer=layer, head=head))
        for kind, place in _small(view, rows).items():
            places[kind].append(corner + place * side)
            looks[kind].append(_look(colours, kind, rows, strong))
    grey = sheet.colour("line")
    axes.add_collection(LineCollection(frames + crosses, colors=grey, linewidths=0.4, clip_on=False), autolim=False)
    for kind, marker in (("key", "D"), ("query", "o")):
        if places[kind]:
            x, y = np.concatenate(places[kind]).T
            look: dict[str, Any] = {
                "c": np.concatenate(looks[kind]),
                "s": 0.35 if grid.cell < 0.7 else 0.8,
                "marker": marker,
                "linewidths": 0,
                "gid": kind,
            }
            axes.scatter(x, y, rasterized=True, **look)


def _small(view: View, rows: IntArray) -> dict[Kind, FloatArray]:
    """Return the drawn points of a map inside a square of side 1, y down; a hundredth of them, the farthest, may be cut off."""
    place = np.concatenate([view.query[rows, :2], view.key[rows, :2]])
    low, high = np.nanpercentile(place, [0.5, 99.5], axis=0)
    place = 0.5 + (place - (low + high) / 2) * [1, -1] / max(float((high - low).max()), 1e-9) * 0.92
    place = np.where(((place >= 0) & (place <= 1)).all(axis=1, keepdims=True), place, np.nan)
    return {"query": place[: len(rows)], "key": place[len(rows) :]}


def _look(colours: Colouring, kind: Kind, rows: IntArray, strong: BoolArray | None) -> FloatArray:
    alpha = np.uint32(0xB0) if strong is None else np.where(strong, 0xFF, select.FAINT).astype(np.uint32)
    return unpack((colours.query if kind == "query" else colours.key)[rows] | alpha)


def _write_names(sheet: Sheet, index: Index, corner: tuple[float, float], grid: _Grid) -> None:
    """Write the numbers of heads above and of layers beside the maps, or the name of each head above its map."""
    look: dict[str, Any] = {"size": 6.5, "colour": "muted"}
    if grid.name:
        for i, (layer, head) in enumerate(zip(grid.layer, grid.head, strict=True)):
            x, y = grid.corner(i) + corner
            size = 6 if grid.cell >= 0.45 else 4.5
            sheet.text(x + grid.cell / 2, y - 0.11, f"L{layer}H{head}", ha="center", **(look | {"size": size}))
        return
    for head in range(index.n_heads):
        words = f"head {head}" if head == 0 or grid.cell >= CELL else str(head)
        sheet.text(corner[0] + (head + 0.5) * grid.cell, corner[1] - 0.15, words, ha="center", **look)
    for layer in range(index.n_layers):
        y = corner[1] + layer * grid.step + grid.cell / 2
        sheet.text(MARGIN, y, f"layer {layer}", va="center", **look)


def _write_scores(sheet: Sheet, shown: Shown, name: str, corner: tuple[float, float], grid: _Grid) -> None:
    """Write below each map for how many of 100 tokens it is right, of all and of ordinary words, in red where it is poor."""
    table = shown.head_table.iloc[grid.index]
    for i, row in enumerate(table.to_dict(orient="records")):
        recall, content = (float(row.get(f"{name}_{score}", np.nan)) for score in ("recall1", "recall1_content"))
        word = verdict(recall, content)
        numbers = " / ".join(f"{100 * share:.0f}" for share in (recall, content) if not np.isnan(share)) or "-"
        x, y = grid.corner(i) + corner + [grid.cell / 2, grid.cell + 0.005]
        size = 6 if grid.cell >= 0.45 else 4.5
        sheet.text(x, y, numbers, size=size, ha="center", colour="poor" if word == "poor" else "muted")


def _caption(shown: Shown, state: State, dims: int, n_heads: int, *, n_hits: tuple[int, int] | None) -> str:
    index = shown.index
    found = ""
    if n_hits is not None:
        n, n_drawn = n_hits
        here = "" if n == n_drawn else f", of which {n_drawn:,} are drawn"
        found = f" Strong are the hits of the search “{visible(state.search)}” ({n:,} token{'s' * (n != 1)}{here}); the others "
        found += "are faint."
    drawn = "" if shown.is_shown.all() else f"; each map shows {len(shown.rows):,} of them, whole sequences at random"
    return (
        f"Maps of {_heads_words(shown, state, n_heads)} of {visible(index.model_name)}, {state.method} in {dims}-D, "
        f"on {corpus_words(index)}{drawn}. "
        "Below a map: for how many of 100 tokens the nearest key of the sequence is the one attended to most, and for how many "
        "among ordinary words alone, on sequences held out from fitting; red: a poor map, not to be believed. "
        f"Each map has a scale of its own.{found}"
    )


def _heads_words(shown: Shown, state: State, n_heads: int) -> str:
    """Say which heads there are, and in what order."""
    if not state.order:
        return "all heads"
    is_low_first = state.order.startswith("-")
    name = atlas.order_labels(atlas.atlas_table(shown, state))[state.order.removeprefix("-")]
    least = "" if state.least is None else f", {state.least:g} or {'less' if is_low_first else 'more'}"
    total = len(shown.head_table)
    which = f"all {total}" if n_heads == total else f"{n_heads} of {total}"
    return f"{which} heads by “{name}” ({'lowest' if is_low_first else 'highest'} first{least})"
