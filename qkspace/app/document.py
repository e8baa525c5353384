"""Document: one visitor's page.

In: an index and a first state. Out: a Bokeh document with its widgets wired. All state of a visitor is in the `_Page` of
their document; `_Page.show` alone writes the data sources.
"""

from __future__ import annotations

from collections.abc import Sequence
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
    GlobalInlineStyleSheet,
    InlineStyleSheet,
    LayoutDOM,
    Select,
    Slider,
)
from numpy.typing import NDArray

from qkspace.app import figures, select, words
from qkspace.app.colours import KEY_COLOUR, QUERY_COLOUR, QUERY_KEY
from qkspace.app.select import Kind, Links, Shown, State, Theme, shown_of
from qkspace.app.style import CARD_CSS, HEADER_CSS, THEMES, WIDGET_CSS, root_css, variables_css
from qkspace.index import Index
from qkspace.schema import QKSpaceError

HIDE = {"special": "special tokens", "itself": "a token with itself", "first": "the first token"}
METHODS = {
    "unfold": "unfold",
    "pca": "PCA",
    "tsne": "t-SNE",
    "umap": "UMAP",
    "attentionviz-pca": "PCA as in AttentionViz",
    "attentionviz-tsne": "t-SNE as in AttentionViz",
    "attentionviz-umap": "UMAP as in AttentionViz",
}

KEYS_JS = """
const unframe = (root) => {  // a clicked map needs no dotted frame; it lies too deep for a style sheet of ours
  for (const el of root.querySelectorAll("*")) {
    if (el.classList.contains("bk-events")) el.style.outline = "none"
    if (el.shadowRoot) unframe(el.shadowRoot)
  }
}
unframe(document)
const bound = "qkspace_keys_" + page.id
if (window[bound]) return
window[bound] = true
const step = (select, by) => {
  const at = select.options.indexOf(select.value) + by
  if (at >= 0 && at < select.options.length) select.value = select.options[at]
}
document.addEventListener("keydown", (event) => {
  if (event.altKey || event.ctrlKey || event.metaKey) return  // the browser's own
  const inside = event.composedPath().some((el) => el instanceof HTMLElement && el.dataset.rootId == page.id)
  if (notebook && !inside) return  // a notebook has keys of its own
  if (event.key == "Escape") { page.tags = [(page.tags[0] ?? 0) + 1]; return }
  const target = event.composedPath()[0]
  if (target instanceof HTMLElement && target.isContentEditable) return
  if (target instanceof HTMLElement && /^(INPUT|SELECT|TEXTAREA)$/.test(target.tagName)) return
  if (target instanceof HTMLElement && target.classList.contains("noUi-handle")) return
  const moves = {ArrowLeft: [head, -1], ArrowRight: [head, 1], ArrowUp: [layer, -1], ArrowDown: [layer, 1]}
  if (event.key in moves) { step(...moves[event.key]); event.preventDefault() }
})
"""
THEME_JS = """
if (window.matchMedia("(prefers-color-scheme: dark)").matches) theme.tags = ["dark"]
"""
WAIT_JS = """
// A message changes many sources, and the page may paint between two of them: wait for `place`, which comes last.
plot.hold_render = true
setTimeout(() => plot.hold_render = false, 1000)  // should the rest never come
"""
REFIT_JS = """
const where = place.data.name[0] + place.data.map[0]
if (plot.tags[0] != where) {  // another head or map has arrived: show it whole
  plot.tags = [where]
  plot.reset.emit()
}
setTimeout(() => plot.hold_render = false)
"""
OPEN_JS = "window.location.search = '?index=' + encodeURIComponent(cb_obj.value)"
ADDRESS_JS = """
const query = new URLSearchParams(window.location.search)
for (const [name, value] of Object.entries(place.data)) if (!["name", "map", "turn"].includes(name)) query.set(name, value[0])
window.history.replaceState(null, "", "?" + query.toString())
"""


def make_document(
    doc: Document,
    index: Index,
    *,
    layer: int | None = None,
    head: int | None = None,
    theme: Theme | None = None,
    indexes: Sequence[str] = (),
    address: bool = True,
) -> None:
    """Fill a document with the page of an index.

    Args:
        doc: an empty document; every visitor has one.
        index: what to show; shared by all visitors, only read.
        layer: what to show first, and head; None for the head whose map says most about ordinary words.
        head: see layer.
        theme: "light" or "dark"; None for what the browser prefers.
        indexes: names of all indexes that are served, to choose among.
        address: keep the browser's address in step with what is shown, so that it can be sent to somebody.

    Raises:
        QKSpaceError: there is no such layer or head, or the index has no map in the plane.
    """
    shown = shown_of(index)
    if not shown.methods:
        raise QKSpaceError(f"{index.root} has no map in the plane, which the page draws. Build it with --dims 2.")
    if layer is None and head is None:
        layer, head = shown.most_faithful()
    chosen = index.head(layer or 0, head or 0)  # refuses what is not there
    state = State(layer=chosen.layer, head=chosen.head, method=shown.methods[0], theme=theme or "light")
    page = _Page(shown, state, list(indexes), whole=address)
    doc.add_root(page.root)
    doc.title = f"{index.model_name} - qkspace"
    doc.js_on_event(
        DocumentReady,
        CustomJS(
            code=KEYS_JS, args={"layer": page.layer, "head": page.head, "page": page.root, "notebook": not address}
        ),
    )
    if theme is None:
        doc.js_on_event(DocumentReady, CustomJS(code=THEME_JS, args={"theme": page.theme}))
    if address:
        page.sources["place"].js_on_change("data", CustomJS(code=ADDRESS_JS, args={"place": page.sources["place"]}))


class _Page:
    """The widgets, sources and state of one visitor."""

    def __init__(self, shown: Shown, state: State, indexes: list[str], *, whole: bool) -> None:
        self.whole = whole  # whether the browser shows nothing else
        self.shown, self.index, self.state = shown, shown.index, state
        names = ("query", "key", "own_query", "own_key", "links", "own", "labels", "picked", "heads", "here")
        self.sources = {name: ColumnDataSource() for name in names}
        self.sources |= self._fixed_sources()
        self.indexes = indexes
        self.turn = 0
        self.pixel = 0.0  # not known before the first click
        self._make_widgets()
        self.map = figures.map_figure(self.sources, self.state.theme, 2 * len(self.shown.rows))
        self.heads = figures.heads_figure(
            self.sources["heads"], self.sources["here"], self.index.n_layers, self.index.n_heads
        )
        self._wire()
        self.root = self._layout()
        self.root.on_change("tags", lambda _attr, _old, _new: self.change(selected=None))
        self._paint()
        self.show(moved=True)

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
            "near": ColumnDataSource({"x": [], "y": [], "kind": [], "index": []}, syncable=False),  # the browser's own
        }

    # ---------------------------------------------------------------- widgets

    def _make_widgets(self) -> None:
        sheet = InlineStyleSheet(css=WIDGET_CSS)
        common: dict[str, Any] = {"stylesheets": [sheet], "sizing_mode": "stretch_width", "margin": 0}
        state = self.state
        numbers = [str(i) for i in range(self.index.n_layers)]
        self.layer = Select(title="Layer", value=str(state.layer), options=numbers, name="layer", **common)
        self.head = Select(title="Head", value=str(state.head), options=self._head_options(), name="head", **common)
        methods = [(m, METHODS.get(m, m)) for m in self.shown.methods]
        self.method = Select(title="Map", value=self.state.method, options=methods, name="method", **common)
        self.colour = Select(
            title="Colour by", value=state.colour, options=self.shown.colour_labels, name="colour", **common
        )
        self.n_links = Slider(
            title="Strongest pairs linked", start=0, end=1000, step=10, value=state.n_links, name="n_links", **common
        )
        self.threshold = Slider(
            title="Least attention of a linked pair",
            start=0,
            end=1,
            step=0.01,
            value=state.threshold,
            name="threshold",
            **common,
        )
        self.hide = CheckboxGroup(
            labels=list(HIDE.values()), active=[i for i, name in enumerate(HIDE) if not getattr(state, name)], **common
        )
        self.theme = Button(
            label="Dark" if state.theme == "light" else "Light", width=64, stylesheets=[sheet], name="theme"
        )
        card = InlineStyleSheet(css=CARD_CSS)
        cards: dict[str, Any] = {"stylesheets": [card], "sizing_mode": "stretch_width", "margin": 0}
        self.header = Div(
            text=words.header(self.index), stylesheets=[InlineStyleSheet(css=HEADER_CSS)], sizing_mode="stretch_width"
        )
        self.legend, self.head_card, self.token_card = Div(**cards), Div(**cards), Div(**cards)
        self.hide_title = Div(text='<h2 style="margin:0">Leave out of the links</h2>', **cards)
        self.note = Div(text=self._note(), **cards)
        self.heads_title = Div(text=words.HEADS_TITLE, **cards)
        self.variables = GlobalInlineStyleSheet(css=variables_css(state.theme, whole=self.whole))
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
        self.hide.on_change(
            "active", lambda _attr, _old, new: self.change(**{n: i not in new for i, n in enumerate(HIDE)})
        )
        self.theme.on_click(lambda _event: self.change(theme="dark" if self.state.theme == "light" else "light"))
        self.theme.on_change("tags", lambda _attr, _old, new: self.change(theme=new[0]))
        self.map.on_event(Tap, self._tap)
        self.heads.on_event(Tap, self._tap_head)
        wait = CustomJS(args={"plot": self.map}, code=WAIT_JS)
        self.sources["query"].js_on_change("data", wait)
        refit = CustomJS(args={"plot": self.map, "place": self.sources["place"]}, code=REFIT_JS)
        self.sources["place"].js_on_change("data", refit)
        self.map.tags = [self.shown.head(self.state).name + self.state.method]

    def _layout(self) -> LayoutDOM:
        gap = {"gap": "10px"}
        pick = row(self.layer, self.head, sizing_mode="stretch_width", styles={"gap": "8px"}, margin=0)
        panel = {
            "background": "var(--card)",
            "border": "1px solid var(--line)",
            "border-radius": "10px",
            "padding": "12px 14px",
            "box-sizing": "border-box",
        }
        widgets = [pick, self.method, self.colour, self.n_links, self.threshold, self.hide_title, self.hide]
        controls = column(
            *(widgets if not self.note.text else [*widgets, self.note]),
            sizing_mode="stretch_width",
            styles={**panel, "gap": "7px"},
            margin=0,
        )
        navigator = column(
            self.heads_title, self.heads, sizing_mode="stretch_width", styles={**panel, "flex": "none"}, margin=0
        )
        side = {"overflow-y": "auto", "overflow-x": "hidden", "scrollbar-width": "thin", **gap}
        left = column(controls, navigator, self.legend, width=272, sizing_mode="stretch_height", styles=side, margin=0)
        right = column(self.head_card, self.token_card, width=330, sizing_mode="stretch_height", styles=side, margin=0)
        centre = column(self.map, sizing_mode="stretch_both", styles={**panel, "padding": "6px"}, margin=0)
        return column(
            row(
                self.header,
                *self._index_choice(),
                self.theme,
                sizing_mode="stretch_width",
                styles={"align-items": "center"},
            ),
            row(left, centre, right, sizing_mode="stretch_both", styles={**gap, "min-height": "0"}),
            sizing_mode="stretch_both",
            stylesheets=[self.variables, self.sheet],
            styles={"padding": "8px 12px 12px", "box-sizing": "border-box", "min-height": "480px"},
            tags=[0],
            name="page",
        )

    def _index_choice(self) -> list[LayoutDOM]:
        """Return a drop-down of the indexes that are served, where there are several; choosing one opens its page."""
        if len(self.indexes) < 2:
            return []
        choice = Select(
            value=self.index.root.name,
            options=self.indexes,
            width=190,
            stylesheets=[InlineStyleSheet(css=WIDGET_CSS)],
            name="index",
        )
        choice.js_on_change("value", CustomJS(code=OPEN_JS))
        return [choice]

    # ---------------------------------------------------------------- changes

    def _tap(self, event: Tap) -> None:
        """Choose the point that was clicked, or nothing."""
        x_range, width = self.map.x_range, self.map.inner_width or 600
        self.pixel = abs(float(x_range.end) - float(x_range.start)) / width  # in units of the map
        radius = figures.CLICK_PIXELS * self.pixel
        self.change(selected=select.nearest(self.shown, self.state, float(event.x), float(event.y), radius))

    def _tap_head(self, event: Tap) -> None:
        layer, head = round(float(event.y)), round(float(event.x))
        if 0 <= layer < self.index.n_layers and 0 <= head < self.index.layers[layer].n_heads:
            self.change(layer=layer, head=head)

    def change(self, **what: Any) -> None:
        """Take over a choice and show it; a head that the new layer does not have becomes its last one."""
        new = replace(self.state, **what)
        new = replace(new, head=min(new.head, self.index.layers[new.layer].n_heads - 1))
        if new == self.state:
            return
        old, self.state = self.state, new
        document = self.root.document
        if document is None:
            self._show_change(old)
            return
        document.hold("combine")  # the browser gets one message and draws once
        try:
            self._show_change(old)
        finally:
            document.unhold()

    def _show_change(self, old: State) -> None:
        new = self.state
        self.layer.value, self.head.options, self.head.value = str(new.layer), self._head_options(), str(new.head)
        if new.theme != old.theme:
            self._paint()
        self.show(moved=(new.layer, new.head, new.method) != (old.layer, old.head, old.method))

    def show(self, *, moved: bool) -> None:
        """Write what the state asks for into sources and cards; points are only sent when another head or map moved them."""
        shown, state = self.shown, self.state
        self.turn += 1
        colours = select.colouring(shown, state)
        packed = select.packed_colours(shown, state, colours)
        if moved:
            for kind, points in select.points(shown, state).items():
                columns = {"row": points.row.astype(np.int32), "x": points.x, "y": points.y, "colour": packed[kind]}
                for i in range(select.N_TOP):
                    columns[f"partner{i}"] = points.partner[:, i].astype(np.int32)
                    columns[f"weight{i}"] = points.weight[:, i].astype(np.float32)
                self.sources[kind].data = columns
            self.sources["heads"].data = select.all_heads(shown, state)
            self.sources["here"].data = {"layer": [state.layer], "head": [state.head]}
            self.head_card.text = words.head_card(shown, state)
        else:
            for kind in select.KINDS:
                self.sources[kind].data["colour"] = packed[kind]
        where: dict[str, Any] = {"name": shown.head(state).name, "map": state.method}
        where |= {"layer": state.layer, "head": state.head}
        where |= {"theme": state.theme, "turn": self.turn}  # a turn always differs: what stays the same is not sent
        self._show_links()
        self._show_selected({"query": colours.query, "key": colours.key})
        self.legend.text = words.legend(colours.legend, markers=state.colour != QUERY_KEY)
        self.token_card.text = words.token_card(shown, state)
        self.sources["place"].data = {name: [value] for name, value in where.items()}  # last: the map waits for it

    def _paint(self) -> None:
        """Give everything the colours of the theme."""
        theme = self.state.theme
        self.sheet.css = root_css(theme)
        self.variables = GlobalInlineStyleSheet(css=variables_css(theme, whole=self.whole))  # one keeps its first text
        self.root.stylesheets = [self.variables, self.sheet]
        self.theme.label = "Dark" if theme == "light" else "Light"
        self.n_links.bar_color = self.threshold.bar_color = THEMES[theme]["accent"]
        for plot in (self.map, self.heads):
            figures.paint(plot, theme)

    def _show_links(self) -> None:
        faint = 1.0 if self.state.selected is None else 0.15
        self.sources["links"].data = _segments(select.corpus_links(self.shown, self.state), faint)
        self.sources["own"].data = _segments(select.selected_links(self.shown, self.state), 1.0, least=0.15, width=2.5)

    def _show_selected(self, colours: dict[Kind, NDArray[np.uint32]]) -> None:
        """Draw the clicked token's sequence on top, ring the clicked point, and label it and its strongest partners."""
        chosen = select.sequence_points(self.shown, self.state, self.pixel)
        for kind in select.KINDS:
            place = chosen.place[kind]
            self.sources[f"own_{kind}"].data = {
                "row": chosen.rows.astype(np.int32),
                "x": place[:, 0],
                "y": place[:, 1],
                "colour": colours[kind][chosen.rows] | np.uint32(0xFF),
            }
        picked = chosen.picked
        self.sources["picked"].data = {"x": picked[:, 0], "y": picked[:, 1]}
        hues = {"query": QUERY_COLOUR[self.state.theme], "key": KEY_COLOUR[self.state.theme]}
        self.sources["labels"].data = {
            "x": chosen.label_place[:, 0],
            "y": chosen.label_place[:, 1],
            "text": chosen.label_text,
            "colour": [hues[kind] for kind in chosen.label_kind],
        }


def _segments(links: Links, strength: float, *, least: float = 0.0, width: float = 1.2) -> dict[str, Any]:
    """Return lines whose opacity is their attention, at least `least`, times `strength`."""
    return {
        "x0": links.start[:, 0],
        "y0": links.start[:, 1],
        "x1": links.end[:, 0],
        "y1": links.end[:, 1],
        "alpha": np.clip(links.attention, least, 1).astype(np.float32) * np.float32(strength),
        "width": np.full(len(links.attention), width, dtype=np.float32),
    }
