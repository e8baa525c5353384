"""Atlas picture: the maps of all heads, a row a layer and a column a head.

In: an index and a method. Out: a matplotlib figure. However many heads there are, their points are two clouds on one pair
of axes, and of a model of many heads each map shows fewer tokens.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure

from qkspace.app import select
from qkspace.app.colours import QUERY_KEY, Colouring
from qkspace.app.select import NORM, Shown
from qkspace.app.state import Kind, State, Theme
from qkspace.captions import corpus_words, titled
from qkspace.drawing import MARGIN, WIDEST, Font, Sheet, check_width, height_of, unpack, visible
from qkspace.index import Index, View
from qkspace.legend import draw_legend, legend_height
from qkspace.report import verdict
from qkspace.schema import FloatArray, QKSpaceError

POINTS = 250_000  # tokens drawn over all maps, and at most
POINTS_EACH = 3_000  # on one of them
CELL = 0.55  # inches: the least width of a map
SCORES = 0.15  # inches below a map for its scores
LEFT = 0.5  # inches beside the maps for the numbers of layers
LEGEND = 2.2  # inches that the legend takes


def atlas_picture(
    index: Index,
    *,
    method: str | None = None,
    dims: int = 2,
    colour: str = QUERY_KEY,
    theme: Theme = "light",
    width: float | None = None,
) -> Figure:
    """Draw the maps of all heads small, each with its scores below it.

    Args:
        index: the index.
        method: which maps; None for unfold's, or the first there are.
        dims: of the maps; of those in space the first two dimensions are drawn.
        colour: what the points are coloured by, as in `map_picture`.
        theme: "light" or "dark".
        width: of the picture in inches; None for 7, or more where a layer has more than 12 heads.

    Raises:
        QKSpaceError: there are no such maps, no such colour, or too little width.
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
    shown = Shown(index, max_tokens=min(POINTS_EACH, max(POINTS // n_heads, 100)))
    state = State(method=method, colour=colour, theme=theme)
    colours = titled(select.colouring(shown, state))
    caption = _caption(shown, method, dims)
    font = Font.of([caption, colours.legend.title, *(visible(name) for name, _, _ in colours.legend.entries)])
    lines = font.wrap(caption, 7, width - 2 * MARGIN)
    title, row = 0.55, cell + SCORES
    end = title + index.n_layers * row + 0.1
    known: dict[str, Any] = {"markers": colour != QUERY_KEY, "links": False, "selected": None}
    key = legend_height(colours.legend, **known)
    sheet = Sheet.of(width, end + key + 2 * MARGIN + height_of(lines), font, theme)
    name = f"{visible(index.model_name)}: all heads"
    sheet.text(MARGIN, MARGIN * 0.7, font.shorten(name, 9, 0.9 * width - 2 * MARGIN), size=9, weight="bold")
    axes = sheet.axes(LEFT + MARGIN, title, index.n_heads * cell, index.n_layers * row, inches=True)
    _draw_maps(axes, sheet, shown, state, dims, cell)
    _write_scores(sheet, shown, f"{method}{dims}", (LEFT + MARGIN, title), cell)
    for head in range(index.n_heads):
        words = f"head {head}" if head == 0 or cell >= CELL else str(head)
        sheet.text(LEFT + MARGIN + (head + 0.5) * cell, title - 0.15, words, size=6.5, colour="muted", ha="center")
    for layer in range(index.n_layers):
        y = title + layer * row + cell / 2
        sheet.text(MARGIN, y, f"layer {layer}", size=6.5, colour="muted", va="center")
    draw_legend(sheet, MARGIN, end, LEGEND, colours.legend, **known)
    sheet.paragraph(MARGIN, end + key + MARGIN, lines)
    return sheet.figure


def default_width(n_heads: int) -> float:
    """Return how wide the picture is, in inches, where nobody says so: maps of many heads are smaller."""
    return min(max(7.0, LEFT + 2 * MARGIN + n_heads * CELL), WIDEST)


def _draw_maps(axes: Axes, sheet: Sheet, shown: Shown, state: State, dims: int, cell: float) -> None:
    """Draw every map into its square, `cell` inches wide, all of them at once."""
    places: dict[Kind, list[FloatArray]] = {"query": [], "key": []}
    looks: dict[Kind, list[FloatArray]] = {"query": [], "key": []}
    frames, crosses = [], []
    colours = select.colouring(shown, state)
    for layer, spec in enumerate(shown.index.layers):
        for head in range(spec.n_heads):
            corner = np.array([head * cell, layer * (cell + SCORES)]) + 0.02
            side = cell - 0.04
            x, y = corner
            frames.append([(x, y), (x + side, y), (x + side, y + side), (x, y + side), (x, y)])
            view = shown.index.head(layer, head).projection(state.method, dims)
            if view.reason:
                crosses += [[(x, y), (x + side, y + side)], [(x + side, y), (x, y + side)]]
                continue
            if state.colour == NORM:
                colours = select.colouring(shown, replace(state, layer=layer, head=head))
            for kind, place in _small(view, shown).items():
                places[kind].append(corner + place * side)
                looks[kind].append(_look(colours, kind, shown))
    grey = sheet.colour("line")
    axes.add_collection(LineCollection(frames + crosses, colors=grey, linewidths=0.4, clip_on=False), autolim=False)
    for kind, marker in (("key", "D"), ("query", "o")):
        if places[kind]:
            x, y = np.concatenate(places[kind]).T
            look: dict[str, Any] = {
                "c": np.concatenate(looks[kind]),
                "s": 0.35 if cell < 0.7 else 0.8,
                "marker": marker,
                "linewidths": 0,
                "gid": kind,
            }
            axes.scatter(x, y, rasterized=True, **look)


def _small(view: View, shown: Shown) -> dict[Kind, FloatArray]:
    """Return the drawn points of a map inside a square of side 1, y down; a hundredth of them, the farthest, may be cut off."""
    place = np.concatenate([view.query[shown.rows, :2], view.key[shown.rows, :2]])
    low, high = np.percentile(place, [0.5, 99.5], axis=0)
    place = 0.5 + (place - (low + high) / 2) * [1, -1] / max(float((high - low).max()), 1e-9) * 0.92
    place = np.where(((place >= 0) & (place <= 1)).all(axis=1, keepdims=True), place, np.nan)
    return {"query": place[: len(shown.rows)], "key": place[len(shown.rows) :]}


def _look(colours: Colouring, kind: Kind, shown: Shown) -> FloatArray:
    return unpack((colours.query if kind == "query" else colours.key)[shown.rows] | np.uint32(0xB0))


def _write_scores(sheet: Sheet, shown: Shown, name: str, corner: tuple[float, float], cell: float) -> None:
    """Write below each map for how many of 100 tokens it is right, of all and of ordinary words, in red where it is poor."""
    table = shown.head_table
    for row in table.to_dict(orient="records"):
        recall, content = (float(row.get(f"{name}_{score}", np.nan)) for score in ("recall1", "recall1_content"))
        word = verdict(recall, content)
        numbers = " / ".join(f"{100 * share:.0f}" for share in (recall, content) if not np.isnan(share)) or "-"
        x = corner[0] + (row["head"] + 0.5) * cell
        y = corner[1] + row["layer"] * (cell + SCORES) + cell + 0.005
        size = 6 if cell >= 0.45 else 4.5
        sheet.text(x, y, numbers, size=size, ha="center", colour="poor" if word == "poor" else "muted")


def _caption(shown: Shown, method: str, dims: int) -> str:
    index = shown.index
    drawn = "" if shown.is_shown.all() else f"; each map shows {len(shown.rows):,} of them, whole sequences at random"
    return (
        f"Maps of all heads of {visible(index.model_name)}, {method} in {dims}-D, on {corpus_words(index)}{drawn}. "
        "Below a map: for how many of 100 tokens the nearest key of the sequence is the one attended to most, and for how many "
        "among ordinary words alone, on sequences held out from fitting; red: a poor map, not to be believed. "
        "Each map has a scale of its own."
    )
