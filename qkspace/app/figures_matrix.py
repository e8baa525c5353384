"""Figures of a matrix: a heat map, a line of what tokens receive, and the matrix in space.

In: a matrix of one sequence. Out: Bokeh pictures and the data that they show. Words of a corpus are drawn as text, never as
HTML.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any
from unicodedata import east_asian_width

import numpy as np
from bokeh.core.properties import value
from bokeh.events import Pan, PanEnd, PanStart
from bokeh.models import (
    BasicTicker,
    ColorBar,
    ColumnDataSource,
    CustomJS,
    CustomJSHover,
    CustomJSTicker,
    CustomJSTickFormatter,
    HoverTool,
    LinearColorMapper,
    NumeralTickFormatter,
)
from bokeh.palettes import interp_palette
from bokeh.plotting import figure

from qkspace.app.colours import KEY_COLOUR, QUERY_COLOUR
from qkspace.app.figures import paint, renderer
from qkspace.app.language import say
from qkspace.app.scripts import script
from qkspace.app.state import Language, Theme
from qkspace.app.style import FONT, THEMES
from qkspace.matrix import Matrix, received
from qkspace.schema import FloatArray

MOST_UPRIGHT = 32  # columns that leave room for upright words
MOST_LETTERS = 20  # of a token that is named along an edge
SLANTED = np.pi / 4
SIGNS = str.maketrans({"\n": "↵", "\r": "↵", "\t": "→"})  # for what would break a line
# Which tokens are named: those in view, or every second, third ... of them, so that each has `room` pixels.
TICKS_JS = """
const drawn = plot.properties[across ? "inner_width" : "inner_height"], side = drawn.is_unset ? 600 : drawn.get_value()
const {start, end} = cb_data
const [low, high] = [Math.min(start, end), Math.max(start, end)]
const every = Math.max(1, Math.ceil(room * (high - low) / Math.max(side, 1))), ticks = []
for (let i = 0; i < words.length; i += every) {
  const place = first + step * i
  if (place >= low && place <= high) ticks.push(place)
}
return ticks
"""
NAMES_JS = (
    "return words[Math.round((tick - first) * step)] ?? ''"  # as text: an axis would typeset formulae in its labels
)
LEAST_SCALE = 0.05  # attention that the colours of a heat map reach at least
LEAST_BAR = 0.005  # attention below which there is no bar
RAMP = {
    "light": ("#FFFFFF", "#CFC7E8", "#8F80C0", "#5B4B8A", "#2B1F57"),
    "dark": ("#161A21", "#3A3357", "#6B5BA6", "#B7A6EE", "#F1ECFF"),
}
LOWEST = {"light": "#DCDFE6", "dark": "#39414E"}  # of a bar, which must stand out from the ground
SHADES = (1.0, 0.86, 0.7)  # of the top of a box and its two sides
TOOLTIP = f"""
<div style="width:max-content;max-width:320px;font:13px/1.45 {FONT};background:var(--card,#fff);color:var(--ink,#1D2430);
 margin:-6px;padding:8px 11px;border-radius:3px;white-space:pre-line">%s</div>
"""


@lru_cache(maxsize=2)
def palette(theme: str) -> tuple[str, ...]:
    """Return the colours of attention from 0 to 1."""
    return tuple(interp_palette(RAMP[theme], 256))


# ---------------------------------------------------------------------------------------------- heat map


def heat_figure(sources: dict[str, ColumnDataSource], language: Language) -> figure:
    """Return the heat map: a row a query, a column a key. sources: "heat" (image, x, y, dw, dh)."""
    plot = figure(
        sizing_mode="stretch_both",
        match_aspect=True,
        min_height=200,
        margin=0,
        x_axis_location="above",
        x_range=(0, 1),
        y_range=(-1, 0),
        tools="box_zoom,wheel_zoom,reset,save",
        toolbar_location="right",
        name="matrix_heat",
    )
    plot.toolbar.logo = None
    mapper = LinearColorMapper(palette=palette("light"), low=0, high=1)
    cells = plot.image(
        "image", source=sources["heat"], x="x", y="y", dw="dw", dh="dh", color_mapper=mapper, name="cells"
    )
    code = "return plot.tags[side]?.[Math.floor(side ? special_vars.x : -special_vars.y)] ?? ''"
    words = {
        f"${axis}": CustomJSHover(args={"plot": plot, "side": side}, code=code) for axis, side in (("y", 0), ("x", 1))
    }
    said = say(language, "plots_heat_tip", query="$y{custom}", key="$x{custom}", share="@image{0.0 %}")
    plot.add_tools(HoverTool(renderers=[cells], tooltips=TOOLTIP % said, formatters=words, point_policy="follow_mouse"))
    plot.xaxis.axis_label, plot.yaxis.axis_label = say(language, "key"), say(language, "query")
    plot.grid.visible = False
    shares = {"ticker": BasicTicker(desired_num_ticks=5), "formatter": NumeralTickFormatter(format="0.[0] %")}
    plot.add_layout(ColorBar(color_mapper=mapper, width=10, padding=6, name="heat_bar", **shares), "right")
    return plot


def heat_data(matrix: Matrix) -> dict[str, Any]:
    """Return the image of the heat map; queries run down, from 0 to minus their number."""
    m, n = matrix.attention.shape
    image = np.where(matrix.allowed, matrix.attention, np.nan).astype(np.float32)
    return {"image": [image[::-1]], "x": [0], "y": [-m], "dw": [n], "dh": [m]}


def name_heat(plot: figure, matrix: Matrix) -> None:
    """Write the tokens along the axes, frame the whole matrix, and let colours reach from 0 to its largest weight."""
    m, n = matrix.attention.shape
    largest = float(matrix.attention.max(initial=0, where=matrix.allowed))
    renderer(plot, "cells").glyph.color_mapper.high = max(LEAST_SCALE, largest)
    plot.tags = [list(matrix.asking), list(matrix.answering)]
    _name(plot, matrix.answering, 0.5, across=True)
    _name(plot, matrix.asking, -0.5, across=False)
    plot.x_range.update(start=0, end=n, reset_start=0, reset_end=n)
    plot.y_range.update(start=-m, end=0, reset_start=-m, reset_end=0)


def _name(plot: figure, words: Sequence[str], first: float, *, across: bool) -> None:
    """Name the tokens along an axis, the first at a place, and those to the right or below it."""
    axis = plot.xaxis if across else plot.yaxis
    angle = _orientation(words) if across else 0.0
    room = 18 if angle == SLANTED else 14
    named = {"words": [shortened(word) for word in words], "first": first, "step": 1 if across else -1}
    axis.ticker = CustomJSTicker(major_code=TICKS_JS, args={**named, "plot": plot, "across": across, "room": room})
    axis.formatter = CustomJSTickFormatter(code=NAMES_JS, args=named)
    axis.major_label_orientation = angle


def shortened(word: str) -> str:
    """Return a token as it is named where there is little room, on one line."""
    word = word.translate(SIGNS)
    return word if len(word) <= MOST_LETTERS else f"{word[: MOST_LETTERS - 1]}\u2026"


def _orientation(words: Sequence[str]) -> float:
    """Return how the words of columns run: as they are read where nearly all are one character, as of Japanese.

    Longer words of wide characters would lie on their sides: they are slanted.
    """
    n_short = sum(len(word) == 1 for word in words)
    if len(words) <= MOST_UPRIGHT and n_short >= 0.8 * len(words):
        return 0.0
    is_wide = any(east_asian_width(character) in "WF" for word in words for character in word)
    return SLANTED if is_wide else np.pi / 2


# ---------------------------------------------------------------------------------------------- attention received


def received_figure(sources: dict[str, ColumnDataSource], language: Language) -> figure:
    """Return the line of what tokens receive. sources: "received" (position, text, total, mean, uniform)."""
    plot = figure(
        sizing_mode="stretch_both",
        min_height=200,
        margin=0,
        x_range=(0, 1),
        tools="xpan,xwheel_zoom,reset,save",
        toolbar_location="right",
        name="matrix_received",
    )
    plot.toolbar.logo = None
    source = sources["received"]
    plot.line("position", "uniform", source=source, line_dash="dashed", line_width=1.5, name="uniform")
    plot.line("position", "total", source=source, line_width=2, name="total")
    dots = plot.scatter("position", "total", source=source, size=8, name="dots")
    said = say(
        language,
        "plots_received_tip",
        text="@text",
        total="@total{0.00}",
        uniform="@uniform{0.00}",
        mean="@mean{0.0 %}",
    )
    plot.add_tools(HoverTool(renderers=[dots], tooltips=TOOLTIP % said, mode="vline", attachment="above"))
    plot.y_range.start = 0
    plot.yaxis.axis_label = say(language, "plots_received_axis")
    plot.xgrid.visible = False
    return plot


def name_received(plot: figure, matrix: Matrix) -> None:
    """Write the tokens below the line."""
    _name(plot, matrix.answering, 0, across=True)
    n = len(matrix.answering)
    plot.x_range.update(start=-0.6, end=n - 0.4, reset_start=-0.6, reset_end=n - 0.4)


def received_data(matrix: Matrix) -> dict[str, Any]:
    """Return what each token receives."""
    table = received(matrix).assign(position=np.arange(len(matrix.answering)))  # as it is drawn
    return {name: table[name].to_numpy() for name in SOURCES["received"]}


# ---------------------------------------------------------------------------------------------- in space

OF_SPACE = {
    "faces": ("xs", "ys", "colour"),
    "stems": ("xs", "ys"),
    "tips": ("x", "y", "colour", "asks", "answers", "share"),
    "labels": ("x", "y", "text", "colour", "align"),
    "box": ("xs", "ys"),
}  # what the browser works out of where one stands
SOURCES = OF_SPACE | {
    "heat": ("image", "x", "y", "dw", "dh"),
    "received": ("position", "text", "total", "mean", "uniform"),
    "solid": ("query", "key", "height", "top", "left", "right"),
}


def space_figure(sources: dict[str, ColumnDataSource], language: Language) -> figure:
    """Return the matrix in space; a drag turns it.

    sources: "solid" (query, key, height, top, left, right), "camera" (yaw, pitch, bars), and those of OF_SPACE, which the
    browser fills.
    """
    plot = figure(
        sizing_mode="stretch_both",
        min_height=200,
        margin=0,
        x_range=(-1, 1),
        y_range=(-1, 1),
        tools="save",
        toolbar_location="right",
        name="matrix_space",
    )
    plot.toolbar.logo = None
    plot.multi_line("xs", "ys", source=sources["box"], line_width=1, name="box")
    plot.patches(
        "xs", "ys", source=sources["faces"], fill_color="colour", line_color="colour", line_width=0.5, name="faces"
    )
    plot.multi_line("xs", "ys", source=sources["stems"], line_width=1, name="stems")
    tips = plot.scatter("x", "y", source=sources["tips"], size=9, fill_color="colour", line_color=None, name="tips")
    look: dict[str, Any] = {"text_font_size": "11px", "text_baseline": "middle", "text_font": value(FONT)}
    plot.text(
        "x", "y", "text", source=sources["labels"], text_color="colour", text_align="align", name="labels", **look
    )
    said = say(language, "plots_heat_tip", query="@asks", key="@answers", share="@share")
    plot.add_tools(HoverTool(renderers=[tips], tooltips=TOOLTIP % said, point_policy="snap_to_data"))
    plot.axis.visible = plot.grid.visible = False
    parts = {"plot": plot} | {name: sources[name] for name in ("camera", "solid", *OF_SPACE)}
    draw = CustomJS(code=f"{script('space')}\ndraw_space(parts)", args={"parts": parts})
    for source in ("camera", "solid"):
        sources[source].js_on_change("data", draw)
    for name in ("inner_width", "inner_height", "tags"):
        plot.js_on_change(name, draw)
    turn = CustomJS(code=f"{script('space')}\n{script('space_turn')}", args={"parts": parts})
    for event in (PanStart, Pan, PanEnd):
        plot.js_on_event(event, turn)
    return plot


def name_space(plot: figure, matrix: Matrix, theme: Theme, language: Language) -> None:
    """Give the picture in space the tokens of its edges, their colours and what each edge is."""
    colours = {"query": QUERY_COLOUR[theme], "key": KEY_COLOUR[theme], "scale": THEMES[theme]["muted"]}
    short = ([shortened(word) for word in words] for words in (matrix.asking, matrix.answering))
    plot.tags = [
        list(matrix.asking),
        list(matrix.answering),
        colours,
        *short,
        {kind: say(language, kind) for kind in ("query", "key")},
    ]


def solid_data(matrix: Matrix, theme: Theme) -> dict[str, Any]:
    """Return the boxes of a matrix: where they stand, how high, and the colours of what is seen of them."""
    query, key = np.nonzero(matrix.attention >= LEAST_BAR)
    height = matrix.attention[query, key].astype(np.float64)
    colours = _shaded(height / max(float(height.max(initial=0)), LEAST_BAR), theme)
    return {"query": query, "key": key, "height": height, **dict(zip(("top", "left", "right"), colours, strict=True))}


def _shaded(share: FloatArray, theme: Theme) -> list[list[str]]:
    """Return the colours of shares of the highest box, for its top and its two sides."""
    ramp = np.array([_rgb(colour) for colour in interp_palette((LOWEST[theme], *RAMP[theme][2:]), 256)])
    lit = ramp[np.clip((255 * share).astype(int), 0, 255)]
    return [[f"#{r:02X}{g:02X}{b:02X}" for r, g, b in (lit * shade).astype(int).tolist()] for shade in SHADES]


def _rgb(colour: str) -> tuple[int, int, int]:
    return int(colour[1:3], 16), int(colour[3:5], 16), int(colour[5:7], 16)


def paint_matrix(plot: figure, theme: Theme) -> None:
    """Give a figure of a matrix the colours of a theme."""
    paint(plot, theme)
    colours = THEMES[theme]
    if plot.name == "matrix_heat":
        mapper = renderer(plot, "cells").glyph.color_mapper
        mapper.palette, mapper.nan_color = list(palette(theme)), colours["line"]
        plot.xaxis.major_label_text_color, plot.yaxis.major_label_text_color = KEY_COLOUR[theme], QUERY_COLOUR[theme]
        bar = next(each for each in plot.right if isinstance(each, ColorBar))
        bar.background_fill_color, bar.major_label_text_color = None, colours["muted"]
        bar.major_label_text_font, bar.major_label_text_font_size = FONT, "11px"
    elif plot.name == "matrix_received":
        renderer(plot, "uniform").glyph.line_color = colours["muted"]
        renderer(plot, "total").glyph.line_color = KEY_COLOUR[theme]
        dots = renderer(plot, "dots").glyph
        dots.fill_color, dots.line_color = KEY_COLOUR[theme], colours["card"]
        plot.xaxis.major_label_text_color = KEY_COLOUR[theme]
    else:
        renderer(plot, "box").glyph.line_color = colours["line"]
        renderer(plot, "stems").glyph.line_color = colours["muted"]
        renderer(plot, "stems").glyph.line_alpha = 0.6


def show_tips(plot: figure, *, dots: bool) -> None:
    """Let the dots be seen, or lie unseen on the boxes, where they carry what the tooltip says."""
    renderer(plot, "tips").glyph.fill_alpha = 1.0 if dots else 0.0
