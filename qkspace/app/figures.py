"""Figures: from arrays to Bokeh pictures.

In: data sources that `document` fills. Out: the map of a head, and the small chart of all heads. No data logic here.
"""

from __future__ import annotations

from typing import Any

from bokeh.events import MouseMove, Pan, PanEnd, PanStart
from bokeh.models import (
    BoxSelectTool,
    BoxZoomTool,
    ColumnDataSource,
    CustomAction,
    CustomJS,
    CustomJSHover,
    HoverTool,
    LassoSelectTool,
    LinearColorMapper,
    LinearInterpolator,
    PanTool,
    ResetTool,
    SaveTool,
    Tool,
    WheelZoomTool,
)
from bokeh.palettes import Cividis256
from bokeh.plotting import figure

from qkspace.app.colours import KEY_COLOUR, LINK_COLOUR, QUERY_COLOUR
from qkspace.app.figures_pictures import PICTURE_TOOLTIP, add_pictures, picture_args
from qkspace.app.language import say, strings
from qkspace.app.scripts import script
from qkspace.app.state import Language
from qkspace.app.style import FONT, THEMES, TOOLBAR_CSS

STILL = (
    *("frame", "near", "tokens", "sentences", "place", "raster", "mouse", "drawn"),
    *("sprites", "own_sprite", "grid", "look", "tapped"),
)  # sources of what does not turn
CLICK_PIXELS = 9  # how far from a point a click, or the mouse for a tooltip, may be
TOOLS = {  # what the page calls them
    PanTool: "pan_tip",
    BoxZoomTool: "box_zoom_tip",
    LassoSelectTool: "lasso_tip",
    BoxSelectTool: "box_select_tip",
    WheelZoomTool: "wheel_zoom_tip",
    ResetTool: "reset_tip",
    SaveTool: "export_png_tip",
}

TOOLTIP = f"""
<div style="width:max-content;max-width:340px;font:13px/1.45 {FONT};background:var(--card,#fff);color:var(--ink,#1D2430);
 margin:-6px;padding:8px 11px;border-radius:3px;white-space:normal;overflow-wrap:anywhere">
 <div style="color:var(--muted,#5D6778)">@index{{before}}<b style="color:var(--ink,#1D2430)">@index{{token}}</b
 >@index{{after}}</div>
 <div style="margin-top:4px;color:var(--muted,#5D6778)">@index{{where}}</div>
 <div style="margin-top:4px">@index{{partners}}</div>
</div>
"""
# Everything in a tooltip is put there as text by Bokeh, never as HTML: a corpus may hold anything.
NEAR_JS = """
// Find the point nearest to the mouse, as a click would (select.nearest), and keep it in `near` for the tooltip.
const radius = pixels * Math.abs(plot.x_range.end - plot.x_range.start) / plot.inner_width
const mouse = pictures ? under(pictures, plot, cb_obj) : cb_obj
let best = {kind: null, index: -1}
const seek = (own) => {
  let least = radius * radius
  for (const [kind, points, picked] of [["query", query, own_query], ["key", key, own_key]]) {
    const {x, y} = own ? picked.data : points.data
    for (let i = 0; i < x.length; i++) {
      const d = (x[i] - mouse.x) ** 2 + (y[i] - mouse.y) ** 2
      if (d < least) {
        least = d
        best = {kind, index: own ? points.data.row.indexOf(picked.data.row[i]) : i}
      }
    }
  }
}
seek(true)
if (best.index < 0) seek(false)
const was = near.data
if (best.index < 0) {
  if (was.x.length) near.data = {x: [], y: [], kind: [], index: []}
} else if (was.kind[0] != best.kind || was.index[0] != best.index) {
  const points = (best.kind == "query" ? query : key).data
  near.data = {x: [points.x[best.index]], y: [points.y[best.index]], kind: [best.kind], index: [best.index]}
  if (pictures) near.data.picture = [marked(grid, sprites, points.row[best.index])]
}
"""
TOOLTIP_JS = """
if (near.data.token) return near.data[format][0]  // of a large index the server says it
const kind = near.data.kind[0]
const i = near.data.index[0]
const source = kind == "query" ? query : key
const row = source.data.row[i]
const t = tokens.data
const sentence = Array.from(sentences.data.text[t.sentence[row]])  // characters, not UTF-16 units
if (format == "token") return t.text[row]
if (format == "before" || format == "after") {
  const start = t.start[row], end = t.end[row]
  if (start < 0) return format == "after" && t.position[row] == 0 ? " " + sentence.slice(0, 80).join("") : ""
  if (format == "before") return (start > 70 ? "\u2026" : "") + sentence.slice(Math.max(0, start - 70), start).join("")
  return sentence.slice(end, end + 70).join("") + (sentence.length > end + 70 ? "\u2026" : "")
}
const fill = (sentence, values) => sentence.replace(/\\{(\\w+)\\}/g, (_, name) => values[name])
if (format == "where") {
  const at = say.places?.[t.position[row]]
  return fill(say.where, {kind: say[kind], head: place.data.name[0], i: t.position[row] + 1, n: t.length[row], at})
}
const named = []
for (let k = 0; k < 3; k++) {
  const other = source.data["partner" + k][i]
  if (other >= 0) named.push(`${t.text[other]} ${(100 * source.data["weight" + k][i]).toFixed(0)} %`)
}
if (!named.length) return ""
return fill(kind == "query" ? say.attends : say.attended, {tokens: named.join(" \u00b7 ")})
"""


def map_figure(sources: dict[str, ColumnDataSource], theme: str, n_points: int, language: Language = "en") -> figure:
    """Return the map: links below, then keys, queries, the clicked token's links and labels; many points are smaller.

    sources: "query" and "key" (row, x, y, colour, partner0.., weight0..), "own_query" and "own_key" (x, y, colour; the
    clicked token's sequence), "links" and "own" (x0, y0, x1, y1, alpha, width), "labels" (x, y, text, colour), "picked"
    (x, y), and for tooltips "near" (x, y, kind, index), "tokens", "sentences" and "place". Of a large index also "raster"
    (image, x, y, dw, dh), which stands for the points where they are many, and "mouse" (x, y), from which the server
    finds "near" (x, y, and what the tooltip says). Of images also those of `figures_pictures`.
    """
    plot = figure(
        sizing_mode="stretch_both",
        match_aspect=True,
        output_backend="webgl",
        toolbar_location="above",
        tools=_map_tools(),
        min_width=300,
        min_height=300,
        min_border_left=42,
        min_border_bottom=28,
        margin=0,
        name="map",
    )
    plot.toolbar.active_scroll = tool_of(plot, WheelZoomTool)
    plot.toolbar.logo = None
    plot.toolbar.stylesheets = [TOOLBAR_CSS]
    plot.segment("x0", "y0", "x1", "y1", source=sources["links"], line_alpha="alpha", line_width="width", name="links")
    if "raster" in sources:
        plot.image_rgba("image", "x", "y", "dw", "dh", source=sources["raster"], name="raster")
    frame = plot.scatter("x", "y", source=sources["frame"], size=0.1, alpha=0, name="frame")
    _add_points(plot, sources, theme, small=n_points > 8_000)
    if "pictures" in sources:
        add_pictures(plot, sources)
    plot.add_tools(_turning(plot, sources))
    _write(plot, "labels", sources["labels"], text_color="colour")
    _write(plot, "names", sources["names"], text_font_size="11px", background_fill_alpha=0.6, padding=1)
    _add_live(plot, sources)
    _add_tooltips(plot, sources)
    speak(plot, language)
    for axis_range in (plot.x_range, plot.y_range):
        axis_range.renderers = [frame]
        axis_range.range_padding = 0.06
    return plot


def _add_points(plot: figure, sources: dict[str, ColumnDataSource], theme: str, *, small: bool) -> None:
    """Draw keys and queries, and above them the clicked token's links, its sequence, and a ring around it."""
    for kind, marker, size in (("key", "diamond", 5 if small else 8), ("query", "circle", 3.5 if small else 5.5)):
        plot.scatter(
            "x",
            "y",
            source=sources[kind],
            marker=marker,
            size={"field": "size", "transform": LinearInterpolator(x=[0, 10], y=[0, 10 * size])},
            fill_color="colour",
            line_color=None,
            name=kind,
        )
    plot.segment("x0", "y0", "x1", "y1", source=sources["own"], line_alpha="alpha", line_width="width", name="own")
    for kind, marker, size in (("key", "diamond", 11), ("query", "circle", 7.5)):
        plot.scatter(
            *("x", "y"),
            source=sources[f"own_{kind}"],
            marker=marker,
            size=size,
            fill_color="colour",
            line_color=(QUERY_COLOUR if kind == "query" else KEY_COLOUR)[theme],
            line_width=1.8,
            name=f"own_{kind}",
        )
    plot.scatter(
        "x", "y", source=sources["picked"], marker="circle", size=15, fill_alpha=0, line_width=2, name="picked"
    )


def renderer(plot: figure, name: str) -> Any:
    """Return the renderer of that name. Bokeh's own search goes through all that is tied to a figure, the whole page."""
    return next(each for each in plot.renderers if each.name == name)


def tool_of(plot: figure, kind: type[Tool]) -> Any:
    """Return the tool of a kind."""
    return next(each for each in plot.tools if isinstance(each, kind))


def _map_tools() -> list[Tool]:
    """Return the tools of the map; what a lasso or a box selects is worked out on the server, from its corners."""
    selecting = {"renderers": [], "persistent": False}
    return [
        PanTool(),
        BoxZoomTool(match_aspect=True),
        LassoSelectTool(continuous=False, **selecting),
        BoxSelectTool(continuous=False, **selecting),
        WheelZoomTool(),
        ResetTool(),
        SaveTool(),
    ]


def _turning(plot: figure, sources: dict[str, ColumnDataSource]) -> CustomAction:
    """Let a drag turn a map in space while no other tool takes drags; return the tool that turns it back."""
    moved = [source for name, source in sources.items() if name not in STILL]
    swapped = [renderer(plot, name) for name in ("raster", "query", "key")] if "raster" in sources else []
    args = {"plot": plot, "sources": moved, "camera": sources["camera"], "swapped": swapped}
    turn = CustomJS(code=script("turned") + script("turn"), args=args)
    for event in (PanStart, Pan, PanEnd):
        plot.js_on_event(event, turn)
    back = "camera.data = {...camera.data, yaw: [30], pitch: [20]}"
    return CustomAction(
        name="turn",
        description="Turn back",
        callback=CustomJS(code=back, args={"camera": sources["camera"]}),
        visible=False,
        icon="undo",
    )


def _write(plot: figure, name: str, source: ColumnDataSource, **look: Any) -> None:
    """Write words (source: x, y, text) above and right of their places, on a ground that lets the points show through."""
    usual = {"text_font_size": "12px", "background_fill_alpha": 0.8, "padding": 2}
    plot.text(
        *("x", "y"),
        text="text",
        source=source,
        text_font={"value": "Inter, Segoe UI, Noto Sans, sans-serif"},
        border_radius=3,
        anchor="bottom_left",
        x_offset=6,
        y_offset=-4,
        name=name,
        **(usual | look),
    )


def _add_live(plot: figure, sources: dict[str, ColumnDataSource]) -> None:
    """Draw the live sentence: links, keys and queries, larger than the corpus, and its words."""
    plot.segment(
        *("x0", "y0", "x1", "y1"),
        source=sources["live_links"],
        line_alpha="alpha",
        line_width="width",
        name="live_links",
    )
    for kind, marker, size in (("key", "diamond", 13), ("query", "circle", 10)):
        plot.scatter(
            *("x", "y"),
            source=sources[f"live_{kind}"],
            marker=marker,
            size=size,
            line_width=1.5,
            name=f"live_{kind}",
        )
    _write(plot, "live_labels", sources["live_labels"], text_color="colour")


def _add_tooltips(plot: figure, sources: dict[str, ColumnDataSource]) -> None:
    """Show a tooltip for the point nearest to the mouse: the one that a click there would choose."""
    names = ("query", "key", "own_query", "own_key", "near")
    points = {name: sources[name] for name in names}
    of_pictures, library = picture_args(sources), script("patches") if "pictures" in sources else ""
    seek = CustomJS(code=library + NEAR_JS, args={**points, **of_pictures, "plot": plot, "pixels": CLICK_PIXELS})
    if "mouse" in sources:
        args = {"near": sources["near"], "mouse": sources["mouse"], "plot": plot, "pixels": CLICK_PIXELS}
        seek = CustomJS(code=library + script("rest"), args=args | of_pictures)
    plot.js_on_event(MouseMove, seek)
    target = plot.scatter("x", "y", source=sources["near"], size=2 * CLICK_PIXELS + 2, alpha=0, name="near")
    texts = {name: sources[name] for name in ("tokens", "sentences", "place")}
    plot.add_tools(
        HoverTool(
            renderers=[target],
            tooltips=TOOLTIP.replace("<div", PICTURE_TOOLTIP, 1) if library else TOOLTIP,
            formatters={"@index": CustomJSHover(code=TOOLTIP_JS, args={**points, **texts})},
            point_policy="snap_to_data",
            visible=False,
        )
    )


def heads_figure(
    source: ColumnDataSource, here: ColumnDataSource, n_layers: int, n_heads: int, language: Language = "en"
) -> figure:
    """Return the chart of all heads, layer down and head across, coloured by how far each map can be trusted.

    source: layer, head, recall, size (of the square, 1 fills its place); here: layer and head of the one that is shown.
    """
    height = max(84, min(300, 40 + round(200 * n_layers / max(n_heads, 1))))
    plot = figure(
        height=height,
        margin=0,
        sizing_mode="stretch_width",
        x_range=(-0.5, n_heads - 0.5),
        y_range=(n_layers - 0.5, -0.5),
        tools=[],
        toolbar_location=None,
        name="heads",
    )
    colours = LinearColorMapper(palette=Cividis256, low=0, high=1, nan_color="#999999")
    heads = plot.rect(
        "head",
        "layer",
        "size",
        "size",
        source=source,
        fill_color={"field": "recall", "transform": colours},
        line_color=None,
    )
    plot.rect("head", "layer", 0.98, 0.98, source=here, fill_alpha=0, line_width=2.5, name="here")
    plot.add_tools(HoverTool(renderers=[heads]))
    speak(plot, language)
    for axis, n in ((plot.xaxis, n_heads), (plot.yaxis, n_layers)):
        axis.ticker = list(range(0, n, 1 if n <= 10 else 2 if n <= 20 else 8))
    plot.grid.visible = False
    return plot


def speak(plot: figure, language: Language) -> None:
    """Give a figure the words of a language."""
    for tool in plot.tools:
        if name := "turn_back" if tool.name == "turn" else TOOLS.get(type(tool)):
            tool.description = say(language, name)
    hover = tool_of(plot, HoverTool)
    if plot.name == "map":
        names = {name: f"tooltip_{name}" for name in ("where", "attends", "attended")} | {
            "query": "query",
            "key": "key",
        }
        words: dict[str, Any] = {name: strings(language)[sentence] for name, sentence in names.items()}
        if any(each.name == "pictures" for each in plot.renderers):
            words["places"] = renderer(plot, "pictures").data_source.tags[1]
        formatter = hover.formatters["@index"]
        formatter.args = {**formatter.args, "say": words}
    if plot.name == "heads":
        hover.tooltips = say(language, "heads_tooltip", head="L@{layer}H@{head}", share="@recall{0 %}")
        plot.xaxis.axis_label, plot.yaxis.axis_label = say(language, "axis_head"), say(language, "axis_layer")


def paint(plot: figure, theme: str) -> None:
    """Give a figure the colours of a theme."""
    colours = THEMES[theme]
    plot.background_fill_color = colours["plot"] if plot.name == "map" else colours["card"]
    plot.border_fill_color = None  # the card behind shows through
    plot.outline_line_color = colours["line"] if plot.name == "map" else None
    plot.grid.grid_line_color = colours["grid"]
    for axis in plot.axis:
        axis.axis_line_color = axis.major_tick_line_color = colours["line"]
        axis.minor_tick_line_color = None
        axis.major_label_text_color = axis.axis_label_text_color = colours["muted"]
        axis.axis_label_text_font_style = "normal"
        axis.axis_label_text_font_size = axis.major_label_text_font_size = "11px"
        axis.axis_label_text_font = axis.major_label_text_font = "Inter, Segoe UI, Noto Sans, sans-serif"
    if plot.name == "map":
        for kind in ("query", "key"):
            hue = (QUERY_COLOUR if kind == "query" else KEY_COLOUR)[theme]
            plot.select_one({"name": f"own_{kind}"}).glyph.line_color = hue
            live = plot.select_one({"name": f"live_{kind}"}).glyph
            live.fill_color, live.line_color = hue, colours["ink"]
        for name in ("labels", "live_labels", "names"):
            renderer(plot, name).glyph.background_fill_color = colours["plot"]
        renderer(plot, "names").glyph.text_color = colours["ink"]
        for name in ("links", "own", "picked", "live_links"):
            renderer(plot, name).glyph.line_color = LINK_COLOUR[theme]
    if plot.name == "heads":
        renderer(plot, "here").glyph.line_color = colours["poor"]
        plot.axis.axis_line_color = plot.axis.major_tick_line_color = None
