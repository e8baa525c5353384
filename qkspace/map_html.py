"""Map as a page: one file of HTML in which the map of a head can be moved, enlarged and read, with no server and no network.

In: an index and what is to be seen of it. Out: HTML that holds Bokeh's own code, the points and the sentences. Whatever a
corpus holds stays text in it.
"""

from __future__ import annotations

from html import escape
from typing import Any

import numpy as np
from bokeh.document import Document
from bokeh.embed import file_html
from bokeh.models import ColumnDataSource, CustomJSHover, HoverTool, WheelZoomTool
from bokeh.palettes import Cividis256
from bokeh.plotting import figure
from bokeh.resources import INLINE

from qkspace.app import select
from qkspace.app.colours import LINK_COLOUR, QUERY_KEY, Colouring, Legend
from qkspace.app.state import Kind, Theme
from qkspace.app.style import FONT, THEMES
from qkspace.captions import titled
from qkspace.drawing import visible
from qkspace.index import Index
from qkspace.layout import MapLayout, map_caption, map_layout, own_lines, pairs_of

PAGE = """
{% block preamble %}<meta name="viewport" content="width=device-width">
<style>
html { background: {{ page }}; }
#page { color: {{ ink }}; font: 14px/1.45 {{ font }}; display: grid; grid-template: auto 1fr auto / 1fr auto; gap: 8px 16px;
  height: 100vh; padding: 12px 16px; box-sizing: border-box; }
h1 { font-size: 18px; margin: 0; grid-column: 1 / 3; }
p { margin: 0; color: {{ muted }}; grid-column: 1 / 3; }
aside { min-width: 180px; max-width: 260px; overflow: auto; }
aside div { display: flex; gap: 8px; align-items: center; overflow-wrap: anywhere; }
i { width: 10px; height: 10px; flex: none; } i.o { border-radius: 50%; } i.D { transform: rotate(45deg) scale(.8); }
b { font-weight: 600; } span { margin-left: auto; color: {{ muted }}; }
main { min-height: 300px; min-width: 0; display: grid; }
</style>{% endblock %}
{% block contents %}<div id="page"><h1>{{ heading }}</h1><main>{{ embed(roots[0]) }}</main><aside>{{ legend }}</aside>
<p>{{ caption }}</p></div>{% endblock %}
"""
TOOLTIP = f"""
<div style="max-width:340px;white-space:normal;overflow-wrap:anywhere;font:13px/1.45 {FONT}">
<div>@index{{before}}<b>@index{{token}}</b>@index{{after}}</div><div style="opacity:.75">@index{{where}}</div>
<div>@index{{partner}}</div></div>
"""
# A formatter's answer is put there as text by Bokeh, never as HTML.
TOOLTIP_JS = """
const t = tokens.data, i = value, points = source.data
const sentence = Array.from(sentences.data.text[t.sentence[i]])  // characters, not UTF-16 units
const start = t.start[i], end = t.end[i]
if (format == "token") return t.text[i]
if (format == "before" || format == "after") {
  if (start < 0) return ""
  if (format == "before") return (start > 70 ? "\u2026" : "") + sentence.slice(Math.max(0, start - 70), start).join("")
  return sentence.slice(end, end + 70).join("") + (sentence.length > end + 70 ? "\u2026" : "")
}
if (format == "where") return `${kind} \u00b7 token ${t.position[i] + 1} of sequence ${t.sequence[i]}`
const other = points.partner[i]
return other < 0 ? "" : `${says} ${t.text[other]} (${(100 * points.weight[i]).toFixed(0)} %)`
"""


def map_html(
    index: Index,
    layer: int,
    head: int,
    *,
    method: str | None = None,
    dims: int = 2,
    colour: str = QUERY_KEY,
    links: int = 100,
    threshold: float = 0.1,
    theme: Theme = "light",
    **options: Any,  # special, itself, first, selected, yaw, pitch, hidden, search, region, by_norm, whole: as in map_picture
) -> str:
    """Return the map of a head as one page of HTML that works from a file: drag, scroll, hover.

    It holds the code of Bokeh (1.4 MB), and with the sentences about 50 bytes for each token that is drawn, or more where
    tokens and sentences are long.
    What is drawn is what `map_picture` draws of the same arguments; a map in space lies as it is seen from one side.

    Raises:
        QKSpaceError: there is no such head, map, colour, row or kind, or the head is not mapped.
    """
    chosen: dict[str, Any] = {"colour": colour, "links": links, "threshold": threshold, "theme": theme}
    layout = map_layout(index, layer, head, method=method, dims=dims, **chosen, **options)
    pairs, attention = pairs_of(layout)
    colours = titled(select.colouring(layout.shown, layout.state))
    look = THEMES[theme]
    plot = _figure(look)
    _add_points(plot, layout, select.packed_colours(layout.shown, layout.state, colours, layout.hits))
    start, end = layout.place["query"][pairs[:, 0]], layout.place["key"][pairs[:, 1]]
    lines = {"x0": start[:, 0], "y0": start[:, 1], "x1": end[:, 0], "y1": end[:, 1], "alpha": np.clip(attention, 0, 1)}
    lines["alpha"] *= 1.0 if layout.state.selected is None else 0.3
    drawn = plot.segment("x0", "y0", "x1", "y1", source=ColumnDataSource(lines), line_alpha="alpha", name="links")
    drawn.glyph.line_color = LINK_COLOUR[theme]
    _add_selected(plot, layout, colours)
    heading = f"{visible(index.model_name)}: layer {layer}, head {head}"
    words = {
        "heading": escape(heading),
        "caption": escape(map_caption(layout, len(attention))),
        "legend": _legend(colours.legend, markers=colour != QUERY_KEY),
        "page": look["plot"],
        "font": FONT,
        "ink": look["ink"],
        "muted": look["muted"],
    }
    document = Document()  # of its own: a server's would bring the page's callbacks along
    document.add_root(plot)
    return str(file_html(document, INLINE, title=heading, template=PAGE, template_variables=words))


def _figure(look: dict[str, str]) -> figure:
    plot = figure(
        sizing_mode="stretch_both",
        match_aspect=True,
        output_backend="webgl",
        tools="pan,box_zoom,wheel_zoom,reset,save",
        background_fill_color=look["plot"],
        border_fill_color=look["plot"],
        outline_line_color=look["line"],
    )
    plot.toolbar.active_scroll = plot.select_one(WheelZoomTool)
    plot.toolbar.logo = None
    plot.axis.visible = plot.grid.visible = False
    return plot


def _add_points(plot: figure, layout: MapLayout, colours: dict[Any, Any]) -> None:
    """Draw the points, and let a tooltip say which token one is and what it attends to most."""
    shown, tokens = layout.shown, layout.shown.index.tokens.iloc[layout.shown.rows]
    number, sentence = np.unique(shown.sequence_number[shown.rows], return_inverse=True)
    texts = {
        "text": tokens["text"].astype(str).tolist(),
        "sentence": sentence.astype(np.int32),
        **{name: tokens[name].to_numpy(dtype=np.int32) for name in ("sequence", "position", "start", "end")},
    }
    said = {
        "tokens": ColumnDataSource(texts),
        "sentences": ColumnDataSource({"text": shown.index.sequences["text"].iloc[number].astype(str).tolist()}),
    }
    partners = select.points(shown, layout.state)
    larger = select.stressed(shown, layout.state, layout.hits)
    usual = {"key": 5, "query": 3.5} if len(shown.rows) > 4_000 else {"key": 8, "query": 5.5}
    markers: dict[Kind, str] = {"key": "diamond", "query": "circle"}
    for kind, marker in markers.items():
        place = layout.place[kind][shown.rows].astype(np.float32)
        partner, weight = partners[kind].partner[:, 0], partners[kind].weight[:, 0]
        here = np.where(partner >= 0, np.searchsorted(shown.rows, partner), -1)  # among those that are drawn
        columns = {"x": place[:, 0], "y": place[:, 1], "colour": colours[kind], "partner": here.astype(np.int32)}
        columns |= {"weight": weight.astype(np.float32), "i": np.arange(len(shown.rows), dtype=np.int32)}
        columns["size"] = (usual[kind] * larger[kind]).astype(np.float32)
        source = ColumnDataSource(columns)
        glyph: dict[str, Any] = {"marker": marker, "size": "size", "fill_color": "colour", "line_color": None}
        points = plot.scatter("x", "y", source=source, name=kind, **glyph)
        says = "attends to" if kind == "query" else "attended to by"
        formatter = CustomJSHover(code=TOOLTIP_JS, args={**said, "source": source, "kind": kind, "says": says})
        hover: dict[str, Any] = {"tooltips": TOOLTIP.replace("@index", "@i"), "formatters": {"@i": formatter}}
        plot.add_tools(HoverTool(renderers=[points], point_policy="snap_to_data", limit=1, visible=False, **hover))


def _add_selected(plot: figure, layout: MapLayout, colours: Colouring) -> None:
    """Draw the chosen token's sequence large, its own lines, and a ring around it."""
    if layout.state.selected is None:
        return
    kind, row = layout.state.selected
    span, ring = layout.shown.sequence_rows(row), LINK_COLOUR[layout.state.theme]
    x, y = layout.place[kind][row]
    lines, attention = own_lines(layout)
    ends = {f"{axis}{end}": lines[:, end, i] for end in (0, 1) for i, axis in enumerate("xy")}
    source = ColumnDataSource({**ends, "alpha": np.clip(attention, 0.15, 1)})
    look: dict[str, Any] = {"line_color": ring, "line_width": 2, "name": "own links"}
    plot.segment("x0", "y0", "x1", "y1", source=source, line_alpha="alpha", **look)
    for each in select.KINDS:
        place = layout.place[each][span].astype(np.float32)
        colour = (colours.query if each == "query" else colours.key)[span] | np.uint32(0xFF)
        source = ColumnDataSource({"x": place[:, 0], "y": place[:, 1], "colour": colour})
        size, marker = (9, "circle") if each == "query" else (12, "diamond")
        plot.scatter("x", "y", source=source, name=f"own {each}", marker=marker, size=size, color="colour")
    plot.scatter([x], [y], name="picked", size=20, fill_color=None, line_color=ring, line_width=2)


def _legend(what: Legend, *, markers: bool) -> str:
    """Explain colours and markers."""
    rows = [f"<b>{'Colour: ' if markers else ''}{escape(visible(what.title))}</b>"]
    if what.continuous:
        steps = ", ".join(what.scale or (Cividis256[i] for i in range(0, 256, 15)))
        rows.append(f'<i style="width:100%;background:linear-gradient(90deg, {steps})"></i>')
        less, more = ("", "") if what.scale else (" or less", " or more")
        rows.append(f"{escape(what.low)}{less}<span>{escape(what.high)}{more}</span>")
    for i, (name, colour, count) in enumerate(what.entries):
        sign = "" if markers else "D" if i else "o"
        number = "" if count < 0 else f"<span>{count:,}</span>"
        rows.append(f'<i class="{sign}" style="background:{colour}"></i>{escape(visible(name))}{number}')
    if markers:
        for sign, name in (("o", "query"), ("D", "key")):
            rows.append(f'<i class="{sign}" style="background:currentColor"></i>{name}')
    rows.append("The stronger a line, the more attention.")
    return "".join(f"<div>{row}</div>" for row in rows)
