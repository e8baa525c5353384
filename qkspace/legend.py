"""Legend: what the colours, markers and lines of a picture mean.

In: a sheet, a place, a legend of `app.colours`. Out: nothing; it is drawn. Knows no index.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from bokeh.palettes import Cividis256
from matplotlib.axes import Axes
from matplotlib.colors import Colormap, LinearSegmentedColormap, ListedColormap, to_rgba

from qkspace.app.colours import LINK_COLOUR, Legend
from qkspace.drawing import Sheet, visible

ROW = 0.165  # inches from one line of the legend to the next
GAP = 0.09  # and more between its parts
Entry = tuple[str, str, str, str]  # sign, colour, words, number


def _parts(
    what: Legend, *, markers: bool, links: bool, selected: tuple[str, int] | None
) -> Iterator[tuple[str, list[Entry]]]:
    """Yield the parts of the legend: a title and its entries."""
    plain = not markers
    named = [
        ("D" if plain and i else "o" if plain else "s", colour, visible(name), "" if count < 0 else f"{count:,}")
        for i, (name, colour, count) in enumerate(what.entries)
    ]
    if what.continuous:
        ends = (what.low, what.high) if what.scale else (f"{what.low} or less", f"{what.high} or more")
        named = [("scale", " ".join(what.scale), *ends)]
    yield ("" if plain else f"Colour: {visible(what.title)}"), named
    if markers:
        yield "", [("o", "muted", "query: what a token looks for", ""), ("D", "muted", "key: what a token offers", "")]
    if links:
        fainter = ", fainter" if selected else ""
        yield (
            f"Line: attention of the pair{fainter}",
            [("line", str(share), f"{share:g}", "") for share in (1.0, 0.5, 0.2)],
        )
    if selected:
        kind, other = (selected[0], "keys" if selected[0] == "query" else "queries")
        yield "Chosen token", [("ring", "", f"its {kind}", ""), ("thick", "1", f"to {other} of its sequence", "")]


def legend_height(what: Legend, *, markers: bool, links: bool, selected: tuple[str, int] | None) -> float:
    """Return how much room a legend takes, in inches."""
    parts = list(_parts(what, markers=markers, links=links, selected=selected))
    rows = sum(bool(title) + len(entries) + sum(e[0] == "scale" for e in entries) for title, entries in parts)
    return rows * ROW + (len(parts) - 1) * GAP


def draw_legend(
    sheet: Sheet,
    x: float,
    y: float,
    width: float,
    what: Legend,
    *,
    markers: bool,
    links: bool,
    selected: tuple[str, int] | None,
) -> None:
    """Draw a legend whose upper left corner is at a place.

    markers: whether shape alone tells queries from keys; links: whether lines are drawn; selected: the chosen token.
    """
    height = legend_height(what, markers=markers, links=links, selected=selected)
    axes = sheet.axes(x, y, width, height, inches=True)
    at = 0.0
    for title, entries in _parts(what, markers=markers, links=links, selected=selected):
        if title:
            sheet.text(x, y + at, sheet.font.shorten(title, 7.5, width), weight="bold", colour="muted")
            at += ROW
        for entry in entries:
            at = _draw_entry(sheet, axes, (x, y), at, width, entry)
        at += GAP


def _draw_entry(sheet: Sheet, axes: Axes, corner: tuple[float, float], at: float, width: float, entry: Entry) -> float:
    """Draw one line of the legend and return where the next begins."""
    sign, colour, words, number = entry
    x, y = corner
    if sign == "scale":
        steps = LinearSegmentedColormap.from_list("", colour.split()) if colour else ListedColormap(Cividis256)
        draw_scale(sheet, x, y + at + 0.03, width, steps)
        sheet.text(x, y + at + ROW, words)
        sheet.text(x + width, y + at + ROW, number, ha="right")
        return at + 2 * ROW
    middle = at + 0.054
    link = LINK_COLOUR[sheet.theme]
    if sign in ("line", "thick"):
        look: dict[str, Any] = {"color": to_rgba(link, float(colour)), "linewidth": 0.6 if sign == "line" else 1.6}
        axes.plot([0.02, 0.24], [middle, middle], solid_capstyle="round", **look)
    elif sign == "ring":
        axes.scatter([0.1], [middle], s=50, facecolors="none", edgecolors=link, linewidths=1.3)
    else:
        axes.scatter([0.1], [middle], s=20 if sign == "D" else 26, marker=sign, c=[sheet.colour(colour)], linewidths=0)
    left = 0.32 if sign in ("line", "thick") else 0.23
    room = width - left - (sheet.font.width(number, 7.5) + 0.08 if number else 0)
    sheet.text(x + left, y + at, sheet.font.shorten(words, 7.5, room))
    sheet.text(x + width, y + at, number, ha="right", colour="muted")
    return at + ROW


def draw_scale(sheet: Sheet, x: float, y: float, width: float, colours: Colormap) -> None:
    """Draw a strip of all colours of a scale, low ones left."""
    strip = sheet.axes(x, y, width, 0.1)
    strip.imshow(np.arange(256)[None, :], aspect="auto", cmap=colours, interpolation="nearest")
