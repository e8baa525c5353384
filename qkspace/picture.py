"""Picture: the map of a head, and of all heads, for print.

In: an index and what is to be seen of it. Out: matplotlib figures, which `save` writes as PNG, SVG or PDF. Needs no
browser and no display, and shares with the app what is drawn (`app.select`), its colours and its words.
The attention over one sentence is in `sentence_picture`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure

from qkspace.app import select
from qkspace.app.colours import KEY_COLOUR, LINK_COLOUR, OTHER, QUERY_COLOUR, QUERY_KEY, Colouring
from qkspace.app.select import KINDS, LEAST_SHOWN, N_LABELS
from qkspace.app.state import Kind, Theme
from qkspace.atlas_picture import atlas_picture
from qkspace.captions import titled
from qkspace.drawing import LEADING, MARGIN, Font, Sheet, check_width, height_of, save, unpack, visible
from qkspace.index import Index
from qkspace.layout import MapLayout, map_caption, map_layout, own_lines, pairs_of
from qkspace.legend import draw_legend, legend_height
from qkspace.schema import FloatArray, IntArray
from qkspace.sentence_picture import sentence_picture

__all__ = ["atlas_picture", "map_picture", "save", "sentence_picture"]

LEGEND = 1.75  # inches that the legend takes beside the map
MANY = 20_000  # points from which on a cloud is an image inside an SVG or PDF; text and lines stay what they are
HUES = {"query": QUERY_COLOUR, "key": KEY_COLOUR}
MARKERS = {"query": "o", "key": "D"}


def map_picture(
    index: Index,
    layer: int,
    head: int,
    *,
    method: str | None = None,
    dims: int = 2,
    colour: str = QUERY_KEY,
    links: int = 100,
    threshold: float = 0.1,
    special: bool = False,
    itself: bool = False,
    first: bool = False,
    selected: tuple[Kind, int] | None = None,
    theme: Theme = "light",
    width: float = 7.0,
    yaw: float = 30.0,
    pitch: float = 20.0,
    hidden: Sequence[str] = (),
    search: str = "",
    region: Sequence[tuple[float, float]] = (),
    by_norm: bool = False,
    whole: bool = False,
) -> Figure:
    """Draw the map of a head: queries as circles, keys as diamonds, and lines between the strongest pairs.

    Args:
        index: the index.
        layer: which layer, from 0.
        head: which of its heads, from 0.
        method: which map; None for unfold's, or the first there is.
        dims: 2, or 3 for the map in space, which is seen from `yaw` and `pitch` along parallel lines of sight.
        colour: what the points are coloured by, as in the app: "query / key", "position", a column of the corpus ...
        links: how many of the strongest pairs of the corpus are joined by a line.
        threshold: the least attention of a joined pair.
        special: whether lines may touch special tokens.
        itself: whether lines may join a token to itself.
        first: whether lines may touch the first token of a sequence.
        selected: kind ("query" or "key") and row of `index.tokens` of a token that is picked out with its sequence; it
            and its strongest partners are labelled.
        theme: "light" or "dark".
        width: of the picture in inches; below 5 the legend stands below the map.
        yaw: degrees by which a map in space is turned about its third axis, as in the app.
        pitch: degrees by which that axis is tilted towards the reader.
        hidden: kinds of the legend whose points are faint, such as "NOUN", or "query" where colour tells queries from keys.
        search: what is searched for, as in `index.search`; the hits are strong and all else is faint.
        region: corners (x, y) of an area of the map, as it is seen, whose points are strong.
        by_norm: whether a point is the larger, the longer its vector is.
        whole: whether all pairs of the chosen token's sequence of at least `threshold` attention are joined.

    Raises:
        QKSpaceError: there is no such head, map, colour, row or kind, or the head is not mapped.
    """
    check_width(width)
    layout = map_layout(
        *(index, layer, head),
        method=method,
        dims=dims,
        colour=colour,
        links=links,
        threshold=threshold,
        special=special,
        itself=itself,
        first=first,
        selected=selected,
        theme=theme,
        yaw=yaw,
        pitch=pitch,
        hidden=hidden,
        search=search,
        region=region,
        by_norm=by_norm,
        whole=whole,
    )
    colours = titled(select.colouring(layout.shown, layout.state))
    pairs, attention = pairs_of(layout)
    rows, labels = _labels(layout)
    caption = map_caption(layout, len(attention))
    font = Font.of([caption, *labels, *_legend_words(colours)])
    beside = width >= 5
    map_width = width - 2 * MARGIN - (LEGEND + MARGIN if beside else 0)
    height = map_width * _aspect(layout)
    lines = font.wrap(caption, 7, width - 2 * MARGIN)
    title = 2 * MARGIN + 0.1
    known: dict[str, Any] = {"markers": colour != QUERY_KEY, "links": len(attention) > 0, "selected": selected}
    below = 0 if beside else legend_height(colours.legend, **known) + MARGIN
    sheet = Sheet.of(width, title + height + below + 2 * MARGIN + height_of(lines), font, theme)
    name = f"{visible(index.model_name)}: layer {layer}, head {head}"
    sheet.text(MARGIN, MARGIN * 0.7, font.shorten(name, 9, 0.9 * width - 2 * MARGIN), size=9, weight="bold")
    axes = sheet.axes(MARGIN, title, map_width, height)
    _frame(axes, sheet)
    _limits(axes, layout, height / map_width)
    _draw_points(axes, layout, colours)
    _draw_pairs(axes, layout, pairs, attention)
    _draw_selected(axes, sheet, layout, colours, rows, labels)
    at = (MARGIN + map_width + MARGIN, title) if beside else (MARGIN, title + height + MARGIN)
    draw_legend(sheet, *at, LEGEND if beside else map_width, colours.legend, **known)
    sheet.paragraph(MARGIN, title + height + below + MARGIN, lines)
    return sheet.figure


def _labels(layout: MapLayout) -> tuple[IntArray, list[str]]:
    """Return rows and texts that are labelled: of the chosen token and its strongest partners."""
    if layout.state.selected is None:
        return np.zeros(0, dtype=int), []
    row = layout.state.selected[1]
    attention = select.selected_attention(layout.shown, layout.state)
    strong = [i for i in np.argsort(-attention, kind="stable")[:N_LABELS] if attention[i] >= LEAST_SHOWN]
    rows = np.array([row, *(layout.shown.sequence_rows(row).start + i for i in strong)])
    return rows, [visible(str(text)) for text in layout.shown.index.tokens["text"].iloc[rows]]


def _aspect(layout: MapLayout) -> float:
    """Return the height of the map for a width of 1: that of its points, if it is not too far from a square."""
    width, height = np.ptp(_drawn(layout), axis=0)
    return float(np.clip(height / max(float(width), 1e-9), 0.6, 1.1))


def _drawn(layout: MapLayout) -> FloatArray:
    places = [layout.place[kind][layout.shown.rows] for kind in KINDS]
    if layout.state.selected is not None:  # of a large index its sequence may not be among those drawn
        places += [layout.place[kind][layout.shown.sequence_rows(layout.state.selected[1])] for kind in KINDS]
    drawn = np.concatenate([*places, layout.box.reshape(-1, 2)])
    return np.asarray(drawn[np.isfinite(drawn).all(axis=1)])


def _limits(axes: Axes, layout: MapLayout, aspect: float) -> None:
    """Show everything, a unit being as long across as up."""
    places = _drawn(layout)
    low, high = places.min(axis=0), places.max(axis=0)
    middle, size = (low + high) / 2, 1.06 * np.maximum(high - low, 1e-9)
    width = max(size[0], size[1] / aspect)
    axes.set(xlim=middle[0] + np.array([-0.5, 0.5]) * width, ylim=middle[1] + np.array([-0.5, 0.5]) * width * aspect)


def _frame(axes: Axes, sheet: Sheet) -> None:
    axes.set_axis_on()
    axes.set(xticks=[], yticks=[], frame_on=True, facecolor=sheet.colour("plot"))
    for spine in axes.spines.values():
        spine.set(color=sheet.colour("line"), linewidth=0.6)


def _draw_points(axes: Axes, layout: MapLayout, colours: Colouring) -> None:
    rows = layout.shown.rows
    axes.add_collection(
        LineCollection(list(layout.box), colors=OTHER[layout.state.theme], linewidths=0.4, alpha=0.5, gid="box")
    )
    packed = select.packed_colours(layout.shown, layout.state, colours, layout.hits)
    larger = select.stressed(layout.shown, layout.state, layout.hits)
    size = float(np.clip(40_000 / len(rows), 3, 16))  # square points
    for kind in ("key", "query"):
        order = np.argsort(layout.nearness[kind], kind="stable")  # those behind first
        scale = larger[kind][order] ** 2 if np.ptp(larger[kind]) else 1.0  # one size for all keeps an SVG small
        rgba = unpack(packed[kind])[order]
        rgba[:, 3] *= 0.3 + 0.7 * layout.nearness[kind][order]
        place = layout.place[kind][rows[order]]
        look: dict[str, Any] = {
            "s": size * (0.7 if kind == "key" else 1) * scale,
            "marker": MARKERS[kind],
            "linewidths": 0,
            "gid": kind,
        }
        axes.scatter(place[:, 0], place[:, 1], c=rgba, rasterized=2 * len(rows) > MANY, zorder=2, **look)


def _draw_pairs(axes: Axes, layout: MapLayout, pairs: IntArray, attention: FloatArray) -> None:
    faint = 1.0 if layout.state.selected is None else 0.3
    lines = np.stack([layout.place["query"][pairs[:, 0]], layout.place["key"][pairs[:, 1]]], axis=1)
    _draw_lines(axes, lines, np.clip(attention, 0, 1) * faint, layout.state.theme, 0.6, "links")


def _draw_lines(axes: Axes, lines: FloatArray, opacity: FloatArray, theme: str, width: float, name: str) -> None:
    colours = [to_rgba(LINK_COLOUR[theme], float(alpha)) for alpha in opacity]
    axes.add_collection(
        LineCollection(list(lines), colors=colours, linewidths=width, gid=name, zorder=3, capstyle="round"),
        autolim=False,
    )


def _draw_selected(
    axes: Axes, sheet: Sheet, layout: MapLayout, colours: Colouring, labelled: IntArray, labels: list[str]
) -> None:
    """Draw the chosen token's sequence on top, its own lines, a ring around it, and labels."""
    if layout.state.selected is None:
        return
    kind, row = layout.state.selected
    other: Kind = "key" if kind == "query" else "query"
    span = layout.shown.sequence_rows(row)
    lines, attention = own_lines(layout)
    _draw_lines(axes, lines, np.clip(attention, 0.15, 1), layout.state.theme, 1.4, "own")
    for each in ("key", "query"):
        colour = unpack((colours.query if each == "query" else colours.key)[span] | np.uint32(0xFF))
        size = float(np.clip(900 / len(colour), 7, 22))  # a long sequence must not hide itself
        look: dict[str, Any] = {
            "marker": MARKERS[each],
            "s": size * (0.7 if each == "key" else 1),
            "linewidths": 0.7,
            "zorder": 4,
        }
        x, y = layout.place[each][span].T
        axes.scatter(x, y, c=colour, edgecolors=HUES[each][layout.state.theme], gid=f"own {each}", **look)
    x, y = layout.place[kind][[row]].T
    ring = LINK_COLOUR[layout.state.theme]
    axes.scatter(x, y, s=90, facecolors="none", edgecolors=ring, linewidths=1.4, zorder=5, gid="picked")
    kinds: list[Kind] = [kind, *[other] * (len(labels) - 1)]
    places = np.array([layout.place[k][r] for k, r in zip(kinds, labelled, strict=True)])
    _draw_labels(axes, sheet, places, labels, [HUES[k][layout.state.theme] for k in kinds])


def _draw_labels(axes: Axes, sheet: Sheet, places: FloatArray, labels: list[str], colours: list[str]) -> None:
    """Write each label near its point, the first ones first, where no other stands; a thin line leads to one further off."""
    w, h = sheet.figure.get_size_inches()
    box = axes.get_position()
    extent = np.array([box.width * w, box.height * h])
    low = np.array([axes.get_xlim()[0], axes.get_ylim()[0]])
    inch = (axes.get_xlim()[1] - low[0]) / extent[0]
    taken = [np.stack([point - 0.08, point + 0.08]) for point in (places - low) / inch]
    for point, label, colour in zip((places - low) / inch, labels, colours, strict=True):
        size = np.array([sheet.font.width(label, 8) + 0.05, 8 * LEADING / 72])
        corner = _free_place(point, size, extent, taken)
        taken.append(np.stack([corner, corner + size]))
        middle = corner + size / 2
        if np.abs(middle - point)[1] > 0.25:
            ends = np.stack([point, middle]) * inch + low
            axes.plot(ends[:, 0], ends[:, 1], color=colour, linewidth=0.5, zorder=5)
        look: dict[str, Any] = {"ha": "center", "va": "center", "zorder": 6, "color": colour}
        look["bbox"] = {"facecolor": sheet.colour("plot"), "alpha": 0.85, "pad": 0.8, "edgecolor": "none"}
        x, y = middle * inch + low
        axes.text(x, y, label, parse_math=False, fontproperties=sheet.font.properties(8), **look)


def _free_place(point: FloatArray, size: FloatArray, extent: FloatArray, taken: list[FloatArray]) -> FloatArray:
    """Return the lower left corner of a label by its point, all in inches: to the right if it can be, else around it."""
    corners = []
    for away in (0.1, 0.25, 0.4, 0.55, 0.7):
        for right, up in (
            (1, 0.3),
            (1, -0.3),
            (-1, 0.3),
            (-1, -0.3),
            (0.0, 1),
            (0.0, -1),
            (1, 1),
            (1, -1),
            (-1, 1),
            (-1, -1),
        ):
            middle = point + np.array([right, up]) * (away + size / 2) * [1, 1]
            corners.append(np.clip(middle - size / 2, 0.03, extent - size - 0.03))
    free = (c for c in corners if not any(np.all(c < t[1]) and np.all(t[0] < c + size) for t in taken))
    return next(free, corners[0])


def _legend_words(colours: Colouring) -> list[str]:
    return [visible(text) for text in (colours.legend.title, *(name for name, _, _ in colours.legend.entries))]
