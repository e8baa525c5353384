"""Figures of the two maps: from arrays to Bokeh pictures.

In: data sources that `views/two_maps` fills, and arrays of `compare_select`. Out: one of the two maps, and columns for its
sources. Chooses nothing.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from bokeh.events import MouseLeave, MouseMove
from bokeh.models import (
    BoxZoomTool,
    ColumnDataSource,
    CustomJS,
    CustomJSHover,
    HoverTool,
    PanTool,
    Range1d,
    ResetTool,
    SaveTool,
    WheelZoomTool,
)
from bokeh.plotting import figure

from qkspace.app import compare_select as chosen
from qkspace.app import figures, select
from qkspace.app.colours import KEY_COLOUR, LINK_COLOUR, QUERY_COLOUR
from qkspace.app.compare_select import SIDES, Clicked, SideName
from qkspace.app.figures import CLICK_PIXELS, TOOLS, tool_of
from qkspace.app.language import say
from qkspace.app.scripts import script
from qkspace.app.select import KINDS, LARGER, Links
from qkspace.app.state import Kind, Language
from qkspace.app.style import FONT, THEMES, TOOLBAR_CSS
from qkspace.schema import BoolArray, FloatArray

Data = dict[str, Any]
MANY = 4_000  # units drawn, above which points are smaller and fainter
PIXELS = {"query": 5.5, "key": 8.0}  # size of a point; of many
SMALL = {"query": 3.5, "key": 5.0}
GHOST = 0.45  # of the alpha of points: those of the base under the tuned checkpoint's
MARKERS: dict[Kind, str] = {"query": "circle", "key": "diamond"}
NAMES = ("query", "key", "links", "own", "own_query", "own_key", "picked", "labels", "near", "frame")
HEADS = ("x", "y", "angle", "size", "alpha")  # of arrows
FEW_ARROWS = 10  # that are drawn thick; of more each is thinner and fainter, so that they do not run into one
NOWHERE: Data = {"x": [], "y": [], "kind": [], "index": [], "label": []}
NO_LINE: Data = {"x0": [], "y0": [], "x1": [], "y1": []}
TOOLTIP = f"""
<div style="width:max-content;max-width:340px;font:13px/1.45 {FONT};background:var(--card,#fff);color:var(--ink,#1D2430);
 margin:-6px;padding:8px 11px;border-radius:3px;white-space:normal;overflow-wrap:anywhere">
 <div style="color:var(--muted,#5D6778)">@index{{before}}<b style="color:var(--ink,#1D2430)">@index{{token}}</b
 >@index{{after}}</div>
 <div style="margin-top:4px;color:var(--muted,#5D6778)">@index{{where}}</div>
 <div style="margin-top:4px">@index{{drift}}</div>
 <div>@index{{base}}</div>
 <div>@index{{tuned}}</div>
</div>
"""


def map_figure(sources: dict[str, ColumnDataSource], side: SideName, ranges: tuple[Range1d, Range1d]) -> figure:
    """Return one of the two maps: links below, keys, queries, the clicked sequence, and what the mouse points at."""
    plot = figure(
        sizing_mode="stretch_both",
        output_backend="webgl",
        toolbar_location="above",
        tools=[PanTool(), BoxZoomTool(match_aspect=True), WheelZoomTool(), ResetTool(), SaveTool()],
        x_range=ranges[0],
        y_range=ranges[1],
        min_width=240,
        min_height=200,
        min_border_left=42,
        min_border_bottom=28,
        margin=0,
        name=f"compare_{side}",
        title=" ",
    )
    plot.toolbar.active_scroll = tool_of(plot, WheelZoomTool)
    plot.toolbar.logo = None
    plot.toolbar.stylesheets = [TOOLBAR_CSS]
    plot.title.text_font = "Inter, Segoe UI, Noto Sans, sans-serif"
    plot.title.text_font_size = "13px"
    own = {name: sources[f"{side}_{name}"] for name in NAMES}
    line = {"line_alpha": "alpha", "line_width": "width"}
    plot.segment("x0", "y0", "x1", "y1", source=own["links"], name=f"{side}_links", **line)
    if side == "tuned":
        for kind in reversed(KINDS):
            _scatter(plot, sources[f"base_{kind}"], kind, "ghost", f"ghost_{kind}", visible=False)
    for kind in reversed(KINDS):
        _scatter(plot, own[kind], kind, "colour", f"{side}_{kind}")
    if side == "tuned":
        _add_arrows(plot, sources)
    plot.segment("x0", "y0", "x1", "y1", source=own["own"], name=f"{side}_own", **line)
    for kind, size in (("key", 11), ("query", 7.5)):
        look = {"marker": MARKERS[kind], "size": size, "fill_color": "colour", "line_width": 1.8}
        plot.scatter("x", "y", source=own[f"own_{kind}"], name=f"{side}_own_{kind}", **look)
    ring = {"marker": "circle", "size": 15, "fill_alpha": 0, "line_width": 2}
    plot.scatter("x", "y", source=own["picked"], name=f"{side}_picked", **ring)
    _write(plot, own["labels"], "text", f"{side}_labels", text_color="colour")
    _add_hover(plot, sources, side)
    fit = CustomJS(args={"plot": plot, "place": sources["place"], "frame": own["frame"]}, code=script("compare_fit"))
    sources["place"].js_on_change("data", fit)
    for length in ("inner_width", "inner_height"):
        plot.js_on_change(length, fit)
    return plot


def _scatter(plot: figure, source: ColumnDataSource, kind: Kind, colour: str, name: str, **look: Any) -> None:
    marker = MARKERS[kind]
    plot.scatter(
        *("x", "y"), source=source, marker=marker, size="size", fill_color=colour, line_color=None, name=name, **look
    )


def _write(plot: figure, source: ColumnDataSource, text: str, name: str, **look: Any) -> None:
    """Write words above and right of their places."""
    plot.text(
        *("x", "y"),
        text=text,
        source=source,
        text_font={"value": "Inter, Segoe UI, Noto Sans, sans-serif"},
        text_font_size="12px",
        background_fill_alpha=0.85,
        padding=2,
        border_radius=3,
        anchor="bottom_left",
        x_offset=7,
        y_offset=-5,
        name=name,
        **look,
    )


def _add_hover(plot: figure, sources: dict[str, ColumnDataSource], side: SideName) -> None:
    """Mark the point nearest to the mouse on both maps, and tell of it beside the mouse."""
    near = {each: sources[f"{each}_near"] for each in SIDES}
    kinds = (*KINDS, *(f"own_{kind}" for kind in KINDS))
    points = {f"{each}_{kind}": sources[f"{each}_{kind}"] for each in SIDES for kind in kinds}
    fixed = {"side": side, "place": sources["place"], "tokens": sources["tokens"]}
    args = {**fixed, "plot": plot, "points": points, "near": near, "line": sources["near_line"], "pixels": CLICK_PIXELS}
    plot.js_on_event(MouseMove, CustomJS(args=args, code=script("compare_near")))
    gone = [(near["base"], NOWHERE), (near["tuned"], NOWHERE), (sources["near_line"], NO_LINE)]
    leave = "for (const [source, empty] of gone) if (Object.values(source.data)[0].length) source.data = {...empty}"
    clear = CustomJS(args={"gone": gone}, code=leave)
    plot.js_on_event(MouseLeave, clear)
    sources["place"].js_on_change("data", clear)  # what is marked may lie elsewhere now
    ring = {"size": 2 * CLICK_PIXELS, "fill_alpha": 0, "line_width": 1.6}
    plot.segment("x0", "y0", "x1", "y1", source=sources["near_line"], line_dash="dashed", name=f"{side}_near_line")
    target = plot.scatter("x", "y", source=near[side], name=f"{side}_near", **ring)
    _write(plot, near[side], "label", f"{side}_near_label")
    texts = {name: sources[name] for name in ("sentences", "vocabulary", "facts")} | {"near": near[side]}
    said = CustomJSHover(code=script("compare_said"), args={**fixed, **texts})
    hover = HoverTool(
        renderers=[target],
        tooltips=TOOLTIP,
        formatters={"@index": said},
        point_policy="snap_to_data",
        visible=False,
    )
    plot.add_tools(hover)


def _add_arrows(plot: figure, sources: dict[str, ColumnDataSource]) -> None:
    """Draw arrows: a hollow point at the base's place, a line that ends at the tuned one, a head just before that."""
    arrows = sources["arrows"]
    plot.segment("x0", "y0", "x1", "y1", source=arrows, line_alpha="alpha", line_width="width", name="arrows")
    start = {"marker": "marker", "size": "size", "line_width": "width", "line_alpha": "alpha", "fill_alpha": "alpha"}
    plot.scatter("x0", "y0", source=arrows, name="starts", **start)
    look = {"marker": "triangle", "angle": "angle", "size": "size", "line_color": None, "fill_alpha": "alpha"}
    plot.scatter("x", "y", source=sources["heads"], name="heads", **look)
    args = {"plot": plot, "arrows": arrows, "heads": sources["heads"]}
    place = CustomJS(args=args, code=script("compare_heads"))
    arrows.js_on_change("data", place)
    for end in ("start", "end"):
        plot.x_range.js_on_change(end, place)
    plot.js_on_change("inner_width", place)


# ---------------------------------------------------------------- columns


def segments(links: Links, strength: float, *, own: bool = False) -> Data:
    """Return lines whose opacity is their attention times `strength`; those of a clicked point (`own`) are also wider."""
    return {
        **ends(links.start, links.end),
        "alpha": np.clip(links.attention, 0.35 if own else 0, 1).astype(np.float32) * np.float32(strength),
        "width": (1.2 + (5 * links.attention if own else 0 * links.attention)).astype(np.float32),
    }


def arrow_looks(n: int) -> Data:
    """Return opacity, width and size of the start of n arrows: the more there are, the thinner and fainter each is."""
    crowd = min(1.0, FEW_ARROWS / n) if n else 1.0
    looks = {"alpha": 0.85 * crowd**0.35, "width": 1.6 * crowd**0.25, "size": 7 * crowd**0.2}
    return {name: np.full(n, value, dtype=np.float32) for name, value in looks.items()}


def ends(start: FloatArray, end: FloatArray) -> Data:
    """Return columns of the ends of lines: (line, 2) each."""
    columns = {"x0": start[:, 0], "y0": start[:, 1], "x1": end[:, 0], "y1": end[:, 1]}
    return {name: np.ascontiguousarray(values) for name, values in columns.items()}


def empty(name: str) -> Data:
    """Return the columns of what a clicked sequence has, without any row."""
    columns = {
        "own": ("x0", "y0", "x1", "y1", "alpha", "width"),
        "labels": ("x", "y", "text", "colour"),
        "picked": ("x", "y"),
    }
    return {column: [] for column in columns.get(name, ("x", "y", "number", "colour"))}


def put(source: ColumnDataSource, columns: Data) -> None:
    """Replace columns of a source, those alone that have changed."""
    for name, values in columns.items():
        if not np.array_equal(source.data[name], values):
            source.data[name] = values


def packed(colour: str) -> np.uint32:
    """Return a hexadecimal colour as 0xRRGGBB00."""
    return np.uint32(int(colour[1:], 16) << 8)


def alphas(n: int, strong: BoolArray | None, faint: int) -> Any:
    """Return the opacity of points: all alike, or what is picked out strong and the rest `faint`."""
    if strong is None:
        return np.full(n, 0x90 if n > MANY else 0xB8, dtype=np.uint32)
    return np.where(strong, 0xFF, faint).astype(np.uint32)


def sizes(n: int, kind: Kind, strong: BoolArray | None) -> FloatArray:
    """Return sizes in pixels; what is picked out is larger, where it is the smaller part."""
    size = np.full(n, (SMALL if n > MANY else PIXELS)[kind], dtype=np.float32)
    if strong is not None and strong.mean() < 0.5:
        size[strong] *= LARGER
    return size


def labels(found: Clicked, side: SideName, theme: str, pixel: float) -> Data:
    """Return the texts of the clicked point and of its strongest partners in one checkpoint, none over another."""
    other: Kind = "key" if found.kind == "query" else "query"
    attention = found.attention[side]
    best = [i for i in np.argsort(-attention, kind="stable")[: chosen.N_LABELS] if attention[i] >= select.LEAST_SHOWN]
    place = np.concatenate([found.place[side][found.kind][[found.at]], found.place[side][other][best]])
    texts, kinds = [found.text[i] for i in [found.at, *best]], [found.kind, *[other] * len(best)]
    free = select.without_overlap(place, [len(text) for text in texts], pixel)
    hues = {"query": QUERY_COLOUR[theme], "key": KEY_COLOUR[theme]}
    return {
        "x": place[free, 0],
        "y": place[free, 1],
        "text": [texts[i] for i in free],
        "colour": [hues[kinds[i]] for i in free],
    }


def arrow_labels(arrows: chosen.Arrows, texts: list[str], theme: str, pixel: float) -> Data:
    """Return the texts of the points that moved furthest, at the ends of their arrows, none over another."""
    place, is_key = arrows.end[: len(texts)], arrows.is_key[: len(texts)]
    free = select.without_overlap(place, [len(text) for text in texts], pixel)
    return {
        "x": place[free, 0],
        "y": place[free, 1],
        "text": [texts[i] for i in free],
        "colour": [(KEY_COLOUR if is_key[i] else QUERY_COLOUR)[theme] for i in free],
    }


def speak(plot: figure, language: Language) -> None:
    """Give the tools of a map the words of a language."""
    for tool in plot.tools:
        if name := TOOLS.get(type(tool)):
            tool.description = say(language, name)


def paint(plot: figure, side: SideName, theme: str) -> None:
    """Give a map the colours of a theme."""
    colours = THEMES[theme]
    figures.paint(plot, theme)
    plot.background_fill_color, plot.outline_line_color = colours["plot"], colours["line"]
    plot.title.text_color = colours["ink"]
    glyph = {each.name: each.glyph for each in plot.renderers}
    glyph[f"{side}_own_query"].line_color = QUERY_COLOUR[theme]
    glyph[f"{side}_own_key"].line_color = KEY_COLOUR[theme]
    for name in ("links", "own", "picked"):
        glyph[f"{side}_{name}"].line_color = LINK_COLOUR[theme]
    for name in ("near", "near_line"):
        glyph[f"{side}_{name}"].line_color = colours["ink"]
    for name in ("labels", "near_label"):
        glyph[f"{side}_{name}"].background_fill_color = colours["plot"]
    glyph[f"{side}_near_label"].text_color = colours["ink"]
    if side == "tuned":
        glyph["arrows"].line_color = glyph["heads"].fill_color = LINK_COLOUR[theme]
        glyph["starts"].line_color, glyph["starts"].fill_color = colours["muted"], colours["plot"]
