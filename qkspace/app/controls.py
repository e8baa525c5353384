"""Controls: the drop-downs, sliders and boxes of a page, which say what is to be shown.

In: a `Scene`. Out: the widgets of the header, the left column and the bar of views; what a visitor does with them goes to
`change`. Draws nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from html import escape
from typing import TYPE_CHECKING, Any, get_args

import numpy as np
from bokeh.events import ButtonClick
from bokeh.layouts import column, row
from bokeh.models import (
    Button,
    CheckboxGroup,
    CustomJS,
    Div,
    Dropdown,
    InlineStyleSheet,
    LayoutDOM,
    RadioButtonGroup,
    Select,
    Slider,
    TextInput,
)

from qkspace.app import lists, words
from qkspace.app.language import LANGUAGES, say, tongue
from qkspace.app.scripts import script
from qkspace.app.select import Scene, Shown
from qkspace.app.state import MAX_LINKS, Language, Page, State, Theme
from qkspace.app.style import CARD_CSS, CLEAR_CSS, HEADER_CSS, HELP_CSS, PANEL, SAID_CSS, THEMES, WIDGET_CSS

if TYPE_CHECKING:
    from qkspace.index import Index
    from qkspace.search import Hits

Change = Callable[..., None]
PAGES: tuple[Page, ...] = get_args(Page)
HIDE = ("special", "itself", "first")
EXPORTS = ("png", "svg", "html", "csv", "parquet")
GAP = {"gap": "7px"}


class Header:
    """The line at the top (what is shown, search, language, theme) and the bar of views below it."""

    def __init__(
        self,
        shown: Shown,
        state: State,
        indexes: Sequence[str],
        change: Change,
        export: Callable[[str], None],
        *,
        whole: bool,
    ) -> None:
        """Make the widgets; `whole`: the browser shows nothing else, so that the address can say another language."""
        sheet = InlineStyleSheet(css=WIDGET_CSS)
        common: dict[str, Any] = {"stylesheets": [sheet], "margin": 0}
        self.language = state.language
        t = self.say = partial(say, state.language)
        self.title = Div(
            text=words.header(shown.index, language=state.language),
            stylesheets=[InlineStyleSheet(css=HEADER_CSS)],
            sizing_mode="stretch_width",
        )
        self.painted: Theme = state.theme
        self.searching = SearchBox(shown.index, state.search, state.language, change, self._go)
        self.search, self.previous, self.next = self.searching.field, self.searching.previous, self.searching.next
        said: dict[str, Any] = {"stylesheets": [InlineStyleSheet(css=CARD_CSS + SAID_CSS)], "margin": 0}
        self.change, self.scene = change, None
        self.theme = Button(label=t("theme_dark"), width=64, name="theme", **common)
        self.theme.on_click(lambda _event: change(theme="dark" if self.painted == "light" else "light"))
        self.pages = RadioButtonGroup(
            labels=[t(f"page_{page}") for page in PAGES], active=PAGES.index(state.page), name="pages", **common
        )
        self.pages.on_change("active", lambda _attr, _old, new: change(page=PAGES[new]))
        self.export = Dropdown(
            label=t("export"),
            menu=[(t(f"export_{kind}"), kind) for kind in EXPORTS],
            width=100,
            name="export",
            **common,
        )
        self.export.on_click(lambda event: export(str(event.item)))
        self.help = Button(label="?", width=30, name="help", **common)
        self.text = TextInput(
            value=state.text, placeholder=t("text"), name="text", sizing_mode="stretch_width", **common
        )
        self.pair = TextInput(
            value=state.pair, placeholder=t("pair"), name="pair", sizing_mode="stretch_width", **common
        )
        for widget in (self.text, self.pair):
            widget.on_change("value", lambda _attr, _old, _new: change(text=self.text.value, pair=self.pair.value))
        self.text.visible = self.pair.visible = shown.reads_texts
        self.live_clear = _clear("live_clear", sheet)
        self.live_clear.on_click(lambda _event: change(text="", pair=""))
        self.status = Div(name="status", styles={"max-width": "34%", "flex": "none"}, **said)
        self.trouble = Div(name="trouble", sizing_mode="stretch_width", visible=False, **said)
        self.share = share_button(state.language, visible=whole)
        others = visits(state.language, shown.index.root.name, indexes) if whole else []
        line = {"align-items": "center", "gap": "6px"}
        self.top = row(
            self.title,
            *self.searching.parts,
            *others,
            *(self.theme, self.help),
            sizing_mode="stretch_width",
            styles=line,
        )
        self.bar = row(
            *(self.pages, self.text, self.pair, self.live_clear, self.status, self.share, self.export),
            sizing_mode="stretch_width",
            styles={**line, "margin-bottom": "8px"},
        )

    scene: Scene | None

    def show(self, scene: Scene) -> None:
        """Show what is chosen, how many hits a search has, and what became of the live sentence."""
        self.scene, state = scene, scene.state
        self.pages.active = PAGES.index(state.page)
        self.text.value, self.pair.value = state.text, state.pair
        self.searching.show(state.search, scene.hits, None if state.selected is None else state.selected[1])
        self.complain(scene.trouble)
        self.status.text = f'<span class="small muted" role="status">{escape(scene.live_says)}</span>'
        self.status.visible = bool(scene.live_says)
        self.live_clear.visible = bool(state.text or state.pair) and self.text.visible

    def complain(self, trouble: str) -> None:
        """Say on a line of its own what is wrong with what was asked for; nothing: take the line away."""
        self.trouble.text, self.trouble.visible = lists.trouble(trouble), bool(trouble)

    def _go(self, forward: bool) -> None:
        """Select the hit after or before what is selected; beside a sentence, after or before what is shown of it."""
        if self.scene is None or self.scene.hits is None:
            return
        state, hits = self.scene.state, self.scene.hits
        is_reading = state.page == "sentence"
        kind, row = state.selected or ("query", -1)
        if state.selected is None and is_reading and state.sequence is not None:
            row = self.scene.shown.index.rows(state.sequence).start - forward
        found = hits.next_hit(row) if forward else hits.previous_hit(row)
        if found is not None:
            self.change(selected=(kind, found), **({"text": "", "pair": ""} if is_reading else {}))

    def paint(self, theme: Theme) -> None:
        """Take on the colours of a theme."""
        self.painted = theme
        self.theme.label = self.say("theme_dark" if theme == "light" else "theme_light")


class SearchBox:
    """The field of the search, the buttons to the hit before and after, and how many there are."""

    def __init__(
        self, index: Index, search: str, language: Language, change: Change, go: Callable[[bool], None]
    ) -> None:
        """Make the widgets; index: what is searched; `go`: what selects the next hit (True) or the one before."""
        sheet = InlineStyleSheet(css=WIDGET_CSS)
        common: dict[str, Any] = {"stylesheets": [sheet], "margin": 0}
        t = self.say = partial(say, language)
        self.field = TextInput(
            value=search,
            placeholder=t("search_placeholder" if "upos" in index.tokens else "search_placeholder_plain"),
            width=230,
            name="search",
            css_classes=["search"],
            **common,
        )
        self.field.on_change("value", lambda _attr, _old, new: change(search=new.strip()))
        self.clear = _clear("search_clear", sheet)
        self.clear.on_click(lambda _event: change(search=""))
        self.found = Div(
            name="found",
            styles={"min-width": "76px", "white-space": "nowrap", "flex": "none"},
            stylesheets=[InlineStyleSheet(css=CARD_CSS + SAID_CSS)],
            margin=0,
        )
        self.previous, self.next = (Button(label=label, width=30, name=name, **common) for label, name in
                                    (("\u2039", "previous_hit"), ("\u203a", "next_hit")))  # fmt: skip
        self.previous.on_click(lambda _event: go(False))
        self.next.on_click(lambda _event: go(True))
        self.parts = (self.field, self.clear, self.previous, self.next, self.found)

    def show(self, search: str, hits: Hits | None, row: int | None) -> None:
        """Show what is searched for and how many hits it has; `row`: the selected token."""
        self.field.value, self.clear.visible = search, bool(search)
        for button in (self.previous, self.next):
            button.disabled = hits is None or hits.n == 0
        self.found.text = f'<span class="small muted" role="status">{escape(self._found(hits, row))}</span>'

    def _found(self, hits: Hits | None, row: int | None) -> str:
        """Say how many tokens a search has found, or which of them is selected."""
        if hits is None:
            return ""
        at = 0 if row is None else int(np.searchsorted(hits.rows, row))
        if row is not None and at < hits.n and hits.rows[at] == row:
            return self.say("search_hit", i=at + 1, n=hits.n)
        if hits.n == 1:
            return self.say("search_hit_one")
        return self.say("search_hits" if hits.n else "search_none", n=hits.n)


def help_dialog(text: str) -> Div:
    """Return the dialog with what a page's help says, hidden."""
    return Div(
        text=text,
        name="help_text",
        visible=False,
        styles={"position": "fixed", "inset": "0", "z-index": "1000"},
        stylesheets=[InlineStyleSheet(css=CARD_CSS + HELP_CSS)],
        margin=0,
    )


def share_button(language: Language, *, visible: bool) -> Button:
    """Return the button that copies the address of what is shown."""
    label = say(language, "share")
    button = Button(
        label=label,
        name="share",
        visible=visible,
        styles={"flex": "none"},
        stylesheets=[InlineStyleSheet(css=WIDGET_CSS)],
        margin=0,
    )
    shared = {"share": button, "label": label, "says": say(language, "share_done")}
    button.js_on_event(ButtonClick, CustomJS(code=script("share"), args=shared))
    return button


def _clear(name: str, sheet: InlineStyleSheet) -> Button:
    """Return a small cross, which lies over the end of the field before it and takes no room of the line."""
    over = {"margin-left": "-34px", "z-index": "1", "flex": "none"}
    look = InlineStyleSheet(css=CLEAR_CSS)
    return Button(label="\u00d7", name=name, width=28, styles=over, visible=False, stylesheets=[sheet, look], margin=0)


def visits(spoken: Language, current: str, indexes: Sequence[str]) -> list[LayoutDOM]:
    """Return drop-downs of languages and, where several are served, of indexes; choosing opens the page anew."""
    common: dict[str, Any] = {"stylesheets": [InlineStyleSheet(css=WIDGET_CSS)], "margin": 0}
    language = Select(value=tongue(spoken), options=list(LANGUAGES.items()), width=100, name="language", **common)
    language.js_on_change("value", CustomJS(code=script("visit"), args={"name": "language"}))
    if len(indexes) < 2:
        return [language]
    index = Select(value=current, options=list(indexes), width=170, name="index", **common)
    index.js_on_change("value", CustomJS(code=script("visit"), args={"name": "index"}))
    return [index, language]


class Controls:
    """The left column: which head and map, what colours mean, which links are drawn, and the chart of all heads."""

    def __init__(self, shown: Shown, state: State, change: Change) -> None:
        """Make the widgets."""
        self.shown, self.index, self.change = shown, shown.index, change
        self.chosen_colour = state.colour
        t = self.say = partial(say, state.language)
        sheet, card = InlineStyleSheet(css=WIDGET_CSS), InlineStyleSheet(css=CARD_CSS)
        common: dict[str, Any] = {"stylesheets": [sheet], "sizing_mode": "stretch_width", "margin": 0}
        cards: dict[str, Any] = {"stylesheets": [card], "sizing_mode": "stretch_width", "margin": 0}
        numbers = [str(i) for i in range(self.index.n_layers)]
        self.layer = Select(title=t("layer"), value=str(state.layer), options=numbers, name="layer", **common)
        self.head = Select(
            title=t("head"), value=str(state.head), options=self._head_options(state), name="head", **common
        )
        methods = [(m, t(f"method_{m}")) for m in shown.methods]
        self.method = Select(title=t("method"), value=state.method, options=methods, name="method", **common)
        narrow: dict[str, Any] = {"stylesheets": [sheet], "width": 84, "margin": 0}
        self.dims = Select(
            title=t("dims"), value=str(state.dims), options=self._dims_options(state), name="dims", **narrow
        )
        self.colour = Select(
            title=t("colour"), value=state.colour, options=shown.colour_labels(state.language), name="colour", **common
        )
        self.by_norm = CheckboxGroup(
            labels=[t("by_norm")], active=[0] if state.by_norm else [], name="by_norm", **common
        )
        self.patches = RadioButtonGroup(
            labels=[t("patches"), t("points")], active=0 if state.patches else 1, name="patches", **common
        )
        self.labels = CheckboxGroup(labels=[t("labels")], active=[0] if state.labels else [], name="labels", **common)
        self.n_links = Slider(
            title=t("n_links"), start=0, end=MAX_LINKS, step=10, value=state.n_links, name="n_links", **common
        )
        self.threshold = Slider(
            title=t("threshold"), start=0, end=1, step=0.01, value=state.threshold, name="threshold", **common
        )
        self.hide_title = Div(text=f'<h2 style="margin:0">{t("hide")}</h2>', **cards)
        self.hidable = [name for name in HIDE if not (name == "itself" and shown.subject == "cross")]
        self.hide = CheckboxGroup(labels=[t(name) for name in self.hidable], name="hide", **common)
        self.whole = CheckboxGroup(labels=[t("whole")], active=[0] if state.whole else [], name="whole", **common)
        self.note = Div(text=self._note(), **cards)
        self._wire()
        self.pick = row(self.layer, self.head, sizing_mode="stretch_width", styles={"gap": "8px"}, margin=0)
        of_map = row(self.method, self.dims, sizing_mode="stretch_width", styles={"gap": "8px"}, margin=0)
        self.links = column(
            self.n_links,
            self.threshold,
            self.whole,
            self.hide_title,
            self.hide,
            sizing_mode="stretch_width",
            styles=GAP,
            margin=0,
        )
        self.of_points = column(
            self.patches, self.colour, self.by_norm, self.labels, sizing_mode="stretch_width", styles=GAP, margin=0
        )
        self.of_map = of_map
        parts = [self.pick, of_map, self.of_points, self.links, *([self.note] if self.note.text else [])]
        self.root = column(*parts, sizing_mode="stretch_width", styles={**PANEL, **GAP}, margin=0)

    def _note(self) -> str:
        n, drawn = self.index.n_tokens, len(self.shown.rows)
        if drawn == n:
            return ""
        return f'<p class="small muted">{self.say("drawn_files", drawn=drawn, total=n)}</p>'

    def _head_options(self, state: State) -> list[str]:
        return [str(i) for i in range(self.index.layers[state.layer].n_heads)]

    def _dims_options(self, state: State) -> list[tuple[str, str]]:
        return [(str(dims), self.say(f"dims_{dims}")) for dims in self.shown.dims(state.method)]

    def _wire(self) -> None:
        change = self.change
        self.layer.on_change("value", lambda _attr, _old, new: change(layer=int(new)))
        self.head.on_change("value", lambda _attr, _old, new: change(head=int(new)))
        self.method.on_change("value", lambda _attr, _old, new: change(method=new))
        self.dims.on_change("value", lambda _attr, _old, new: change(dims=int(new)))
        self.colour.on_change("value", lambda _attr, _old, new: self._recolour(new))
        self.by_norm.on_change("active", lambda _attr, _old, new: change(by_norm=bool(new)))
        self.whole.on_change("active", lambda _attr, _old, new: change(whole=bool(new)))
        self.patches.on_change("active", lambda _attr, _old, new: change(patches=not new))
        self.labels.on_change("active", lambda _attr, _old, new: change(labels=bool(new)))
        self.n_links.on_change("value_throttled", lambda _attr, _old, new: change(n_links=int(new)))
        self.threshold.on_change("value_throttled", lambda _attr, _old, new: change(threshold=float(new)))
        self.hide.on_change(
            "active", lambda _attr, _old, new: change(**{n: i not in new for i, n in enumerate(self.hidable)})
        )

    def _recolour(self, colour: str) -> None:
        if colour != self.chosen_colour:  # else the page said so, and what is hidden of it stays
            self.change(colour=colour, hidden=())

    def show(self, scene: Scene) -> None:
        """Show what is chosen."""
        state = scene.state
        self.chosen_colour = state.colour
        self.layer.value, self.head.options, self.head.value = (
            str(state.layer),
            self._head_options(state),
            str(state.head),
        )
        self.dims.options = self._dims_options(state)
        self.method.value, self.dims.value, self.colour.value = state.method, str(state.dims), state.colour
        self.by_norm.active = [0] if state.by_norm else []
        self.n_links.value, self.threshold.value = state.n_links, state.threshold
        self.hide.active = [i for i, name in enumerate(self.hidable) if not getattr(state, name)]
        self.of_map.visible = state.page not in ("heads", "plots")  # whose figures are of no map
        self.head.disabled = state.page == "plots" and state.averaged  # over all heads
        self.links.visible = state.page == "map"
        self.of_points.visible = state.page in ("map", "atlas")
        self.whole.active = [0] if state.whole else []
        self.labels.active = [0] if state.labels else []
        self.by_norm.visible = self.labels.visible = state.page == "map"
        self.patches.visible = state.page == "map" and self.shown.modality == "image"
        self.patches.active = 0 if state.patches else 1

    def paint(self, theme: str) -> None:
        """Take on the colours of a theme."""
        self.n_links.bar_color = self.threshold.bar_color = THEMES[theme]["accent"]
