"""Document: one visitor's page.

In: an index and a first state. Out: a Bokeh document with its widgets wired. All state of a visitor is in the `_Page` of
their document; `_Page.show` alone writes the data sources.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from bokeh.document import Document
from bokeh.events import DocumentReady, Tap
from bokeh.layouts import column, row
from bokeh.models import (
    Button,
    CheckboxGroup,
    ColumnDataSource,
    CustomJS,
    Div,
    InlineStyleSheet,
    LayoutDOM,
    Select,
    Slider,
)

from qkspace.app import figures, select, words
from qkspace.app.colours import KEY_COLOUR, LINK_COLOUR, QUERY_COLOUR, QUERY_KEY, Colouring
from qkspace.app.select import Links, Shown, State
from qkspace.app.style import CARD_CSS, HEADER_CSS, WIDGET_CSS, root_css
from qkspace.index import Index

HIDE = {"special": "special tokens", "itself": "a token with itself", "first": "the first token"}
METHODS = {"pca": "PCA", "tsne": "t-SNE", "umap": "UMAP", "unfold": "unfold"}
CLICK_PIXELS = 9  # how far from a point a click may be
LABELS = 60  # tokens of the clicked sequence that are labelled on the map

KEYS_JS = """
if (window.qkspace_keys) return
window.qkspace_keys = true
const step = (select, by) => {
  const at = select.options.findIndex((o) => (Array.isArray(o) ? o[0] : o) == select.value) + by
  if (at >= 0 && at < select.options.length) select.value = Array.isArray(select.options[at]) ? select.options[at][0] : select.options[at]
}
document.addEventListener("keydown", (event) => {
  const target = event.composedPath()[0]
  if (target instanceof HTMLElement && /^(INPUT|SELECT|TEXTAREA)$/.test(target.tagName)) return
  if (target instanceof HTMLElement && target.classList.contains("noUi-handle")) return
  const moves = {ArrowLeft: [head, -1], ArrowRight: [head, 1], ArrowUp: [layer, -1], ArrowDown: [layer, 1]}
  if (event.key in moves) { step(...moves[event.key]); event.preventDefault() }
  if (event.key == "Escape") clear.tags = [(clear.tags[0] ?? 0) + 1]
})
"""
THEME_JS = """
if (!chosen && window.matchMedia("(prefers-color-scheme: dark)").matches) theme.tags = ["dark"]
"""
ADDRESS_JS = """
const query = new URLSearchParams(window.location.search)
for (const [name, value] of Object.entries(place.data)) if (name != "name") query.set(name, value[0])
window.history.replaceState(null, "", "?" + query.toString())
"""


def make_document(doc: Document, index: Index, state: State | None = None, *, address: bool = True) -> None:
    """Fill a document with the page of an index.

    Args:
        doc: an empty document; every visitor has one.
        index: what to show; shared by all visitors, only read.
        state: what to show first; None for the first head, in the theme the browser prefers.
        address: keep the browser's address in step with what is shown, so that it can be sent to somebody.
    """
    page = _Page(index, state or State())
    doc.add_root(page.root)
    doc.title = f"{index.model_name} - qkspace"
    doc.js_on_event(DocumentReady, CustomJS(code=KEYS_JS, args={"layer": page.layer, "head": page.head, "clear": page.root}))
    if state is None:
        doc.js_on_event(DocumentReady, CustomJS(code=THEME_JS, args={"chosen": False, "theme": page.theme}))
    if address:
        page.sources["place"].js_on_change("data", CustomJS(code=ADDRESS_JS, args={"place": page.sources["place"]}))


class _Page:
    """The widgets, sources and state of one visitor."""

    def __init__(self, index: Index, state: State) -> None:
        self.index, self.state = index, state
        self.shown = Shown(index)
        self.table = index.head_table()
        if state.method not in self.shown.methods:
            self.state = replace(state, method=self.shown.methods[0])
        self.sources = {name: ColumnDataSource() for name in ("query", "key", "links", "own", "labels", "picked", "heads", "here")}
        self.sources |= self._fixed_sources()
        self._make_widgets()
        self.map = figures.map_figure(self.sources, self.state.theme)
        self.heads = figures.heads_figure(self.sources["heads"], self.sources["here"], index.n_layers, index.n_heads)
        self._wire()
        self.root = self._layout()
        self.root.on_change("tags", lambda _attr, _old, _new: self.change(selected=None))
        self.show(everything=True)

    def _fixed_sources(self) -> dict[str, ColumnDataSource]:
        """Return what tooltips say of tokens: sent once, the same for every head."""
        tokens, sequences = self.index.tokens, self.index.sequences
        lengths = sequences["n_tokens"].to_numpy()
        return {
            "tokens": ColumnDataSource(
                {
                    "text": tokens["text"].astype(str).tolist(),
                    "sentence": self.shown.sequence_number.astype(np.int32),
                    "position": tokens["position"].to_numpy(dtype=np.int32),
                    "start": tokens["start"].to_numpy(dtype=np.int32),
                    "end": tokens["end"].to_numpy(dtype=np.int32),
                    "length": np.repeat(lengths, lengths).astype(np.int32),
                }
            ),
            "sentences": ColumnDataSource({"text": sequences["text"].astype(str).tolist()}),
            "place": ColumnDataSource({"name": [""]}),
        }

    # ---------------------------------------------------------------- widgets

    def _make_widgets(self) -> None:
        sheet = InlineStyleSheet(css=WIDGET_CSS)
        common: dict[str, Any] = {"stylesheets": [sheet], "sizing_mode": "stretch_width"}
        state = self.state
        numbers = [str(i) for i in range(self.index.n_layers)]
        self.layer = Select(title="Layer", value=str(state.layer), options=numbers, name="layer", **common)
        self.head = Select(title="Head", value=str(state.head), options=self._head_options(), name="head", **common)
        methods = [(m, METHODS.get(m, m)) for m in self.shown.methods]
        self.method = Select(title="Map", value=self.state.method, options=methods, name="method", **common)
        self.colour = Select(
            title="Colour by", value=state.colour, options=self.shown.colour_choices, name="colour", **common
        )
        self.n_links = Slider(
            title="Strongest pairs linked", start=0, end=1000, step=10, value=state.n_links, name="n_links", **common
        )
        self.threshold = Slider(
            title="Attention of a link at least", start=0, end=1, step=0.01, value=state.threshold, name="threshold", **common
        )
        self.hide = CheckboxGroup(
            labels=list(HIDE.values()), active=[i for i, name in enumerate(HIDE) if not getattr(state, name)], **common
        )
        self.theme = Button(label="Dark" if state.theme == "light" else "Light", width=64, stylesheets=[sheet], name="theme")
        card = InlineStyleSheet(css=CARD_CSS)
        cards: dict[str, Any] = {"stylesheets": [card], "sizing_mode": "stretch_width"}
        self.header = Div(
            text=words.header(self.index), stylesheets=[InlineStyleSheet(css=HEADER_CSS)], sizing_mode="stretch_width"
        )
        self.legend, self.head_card, self.token_card = Div(**cards), Div(**cards), Div(**cards)
        self.hide_title = Div(text='<h2 style="margin:0">Leave out of the links</h2>', **cards)
        self.note = Div(text=self._note(), **cards)
        self.heads_title = Div(text="<h2 style='margin:0'>All heads: brighter maps can be trusted more</h2>", **cards)
        self.sheet = InlineStyleSheet(css=root_css(state.theme))

    def _note(self) -> str:
        n, drawn = self.index.n_tokens, len(self.shown.rows)
        if drawn == n:
            return ""
        return f'<p class="small muted">Drawn: {drawn:,} of {n:,} tokens, whole sequences chosen at random.</p>'

    def _head_options(self) -> list[str]:
        return [str(i) for i in range(self.index.layers[self.state.layer].n_heads)]

    def _wire(self) -> None:
        self.layer.on_change("value", lambda _attr, _old, new: self.change(layer=int(new)))
        self.head.on_change("value", lambda _attr, _old, new: self.change(head=int(new)))
        self.method.on_change("value", lambda _attr, _old, new: self.change(method=new))
        self.colour.on_change("value", lambda _attr, _old, new: self.change(colour=new))
        self.n_links.on_change("value_throttled", lambda _attr, _old, new: self.change(n_links=int(new)))
        self.threshold.on_change("value_throttled", lambda _attr, _old, new: self.change(threshold=float(new)))
        self.hide.on_change("active", lambda _attr, _old, new: self.change(**{n: i not in new for i, n in enumerate(HIDE)}))
        self.theme.on_click(lambda _event: self.change(theme="dark" if self.state.theme == "light" else "light"))
        self.theme.on_change("tags", lambda _attr, _old, new: self.change(theme=new[0]))
        self.map.on_event(Tap, self._tap)
        self.heads.on_event(Tap, self._tap_head)
        refit = CustomJS(args={"plot": self.map}, code="plot.reset.emit()")  # a new head is shown whole
        for widget in (self.layer, self.head, self.method):
            widget.js_on_change("value", refit)

    def _layout(self) -> LayoutDOM:
        gap = {"gap": "10px"}
        pick = row(self.layer, self.head, sizing_mode="stretch_width", styles={"gap": "8px"})
        panel = {
            "background": "var(--card)",
            "border": "1px solid var(--line)",
            "border-radius": "10px",
            "padding": "12px 14px",
            "box-sizing": "border-box",
        }
        controls = column(
            *(pick, self.method, self.colour, self.n_links, self.threshold, self.hide_title, self.hide, self.note),
            sizing_mode="stretch_width",
            styles={**panel, "gap": "6px"},
        )
        navigator = column(self.heads_title, self.heads, sizing_mode="stretch_width", styles=panel)
        side = {"overflow-y": "auto", "overflow-x": "hidden", "scrollbar-width": "thin", **gap}
        left = column(controls, self.legend, navigator, width=272, sizing_mode="stretch_height", styles=side)
        right = column(self.head_card, self.token_card, width=330, sizing_mode="stretch_height", styles=side)
        centre = column(self.map, sizing_mode="stretch_both", styles={**panel, "padding": "6px"})
        return column(
            row(self.header, self.theme, sizing_mode="stretch_width", styles={"align-items": "center"}),
            row(left, centre, right, sizing_mode="stretch_both", styles={**gap, "min-height": "0"}),
            sizing_mode="stretch_both",
            stylesheets=[self.sheet],
            styles={"padding": "8px 12px 12px", "box-sizing": "border-box", "min-height": "480px"},
            tags=[0],
            name="page",
        )

    # ---------------------------------------------------------------- changes

    def _tap(self, event: Tap) -> None:
        """Choose the point that was clicked, or nothing."""
        x_range, width = self.map.x_range, self.map.inner_width or 600
        radius = CLICK_PIXELS * abs(float(x_range.end) - float(x_range.start)) / width
        self.change(selected=select.nearest(self.shown, self.state, float(event.x), float(event.y), radius))

    def _tap_head(self, event: Tap) -> None:
        layer, head = round(float(event.y)), round(float(event.x))
        if 0 <= layer < self.index.n_layers and 0 <= head < self.index.layers[layer].n_heads:
            self.map.tags = [*self.map.tags, 0][-1:]
            self.layer.value, self.head.value = str(layer), str(head)

    def change(self, **what: Any) -> None:
        """Take over a choice and show it; a head that the new layer does not have becomes its last one."""
        new = replace(self.state, **what)
        if new == self.state:
            return
        if new.layer != self.state.layer:
            last = self.index.layers[new.layer].n_heads - 1
            new = replace(new, head=min(new.head, last))
        old, self.state = self.state, new
        if new.layer != old.layer:
            self.head.options = self._head_options()
            self.head.value = str(new.head)
        moved = (new.layer, new.head, new.method) != (old.layer, old.head, old.method)
        self.show(everything=moved or new.theme != old.theme)

    def show(self, *, everything: bool) -> None:
        """Write what the state asks for into sources and cards; points only move when the head or map changes."""
        shown, state = self.shown, self.state
        colours = select.colouring(shown, state)
        packed = select.packed_colours(shown, state, colours)
        if everything:
            for kind, points in select.points(shown, state).items():
                columns = {"row": points.row.astype(np.int32), "x": points.x, "y": points.y, "colour": packed[kind]}
                for i in range(select.N_TOP):
                    columns[f"partner{i}"] = points.partner[:, i].astype(np.int32)
                    columns[f"weight{i}"] = points.weight[:, i].astype(np.float32)
                self.sources[kind].data = columns
            self._show_head()
        else:
            for kind in ("query", "key"):
                self.sources[kind].data["colour"] = packed[kind]  # type: ignore[index]  # both kinds are there
        self._show_links()
        self._show_selected()
        self.legend.text = words.legend(colours.legend, markers=state.colour != QUERY_KEY)
        self.token_card.text = words.token_card(shown, state)

    def _show_head(self) -> None:
        state = self.state
        recall = self.table.get(f"{state.method}2_recall_1", np.full(len(self.table), np.nan))
        layer, head = self.table["layer"].to_numpy(dtype=np.int32), self.table["head"].to_numpy(dtype=np.int32)
        self.sources["heads"].data = {"layer": layer, "head": head, "recall": np.asarray(recall, dtype=np.float32)}
        self.sources["here"].data = {"layer": [state.layer], "head": [state.head]}
        self.sources["place"].data = {
            "name": [self.shown.head(state).name],
            "layer": [state.layer],
            "head": [state.head],
            "theme": [state.theme],
        }
        self.head_card.text = words.head_card(self.shown, state, self.table)
        self.sheet.css = root_css(state.theme)
        self.theme.label = "Dark" if state.theme == "light" else "Light"
        for plot in (self.map, self.heads):
            figures.paint(plot, state.theme)
        for name in ("links", "own"):
            self.map.select_one({"name": name}).glyph.line_color = LINK_COLOUR[state.theme]
        labels = self.map.select_one({"name": "labels"}).glyph
        labels.text_outline_color = self.map.background_fill_color
        self.map.select_one({"name": "picked"}).glyph.line_color = LINK_COLOUR[state.theme]

    def _show_links(self) -> None:
        faint = 1.0 if self.state.selected is None else 0.15
        self.sources["links"].data = _segments(select.corpus_links(self.shown, self.state), faint)
        self.sources["own"].data = _segments(select.selected_links(self.shown, self.state), 1.0, width=2.5)

    def _show_selected(self) -> None:
        """Ring the clicked point and label the tokens of its sequence: its own kind's neighbours by the other kind."""
        if self.state.selected is None:
            self.sources["picked"].data = {"x": [], "y": []}
            self.sources["labels"].data = {"x": [], "y": [], "text": [], "colour": []}
            return
        kind, row = self.state.selected
        view, theme = self.shown.view(self.state), self.state.theme
        places = {"query": view.query, "key": view.key}
        self.sources["picked"].data = {"x": places[kind][[row], 0], "y": places[kind][[row], 1]}
        rows = self.shown.sequence_rows(row)
        near = np.arange(rows.start, rows.stop)
        near = near[np.argsort(np.abs(near - row), kind="stable")[:LABELS]]
        other = "key" if kind == "query" else "query"
        place = np.concatenate([places[other][near], places[kind][[row]]])
        texts = [str(text) for text in self.index.tokens["text"].iloc[[*near, row]]]
        colours = {"query": QUERY_COLOUR[theme], "key": KEY_COLOUR[theme]}
        self.sources["labels"].data = {
            "x": place[:, 0],
            "y": place[:, 1],
            "text": texts,
            "colour": [colours[other]] * len(near) + [colours[kind]],
        }


def _segments(links: Links, strength: float, *, width: float = 1.2) -> dict[str, Any]:
    """Return lines whose opacity is their attention, times `strength`."""
    return {
        "x0": links.start[:, 0],
        "y0": links.start[:, 1],
        "x1": links.end[:, 0],
        "y1": links.end[:, 1],
        "alpha": np.clip(links.attention, 0, 1).astype(np.float32) * np.float32(strength),
        "width": np.full(len(links.attention), width, dtype=np.float32),
    }
