"""Compare controls: the header and the left column of a comparison's page.

In: a `CompareScene`. Out: widgets; what a visitor does with them goes to `change`. Draws nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from html import escape
from typing import TYPE_CHECKING, Any

from bokeh.layouts import column, row
from bokeh.models import Button, Div, InlineStyleSheet, RadioButtonGroup, Select, Slider

from qkspace.app import compare_words, drift, lists, two_maps_words
from qkspace.app.compare_state import COMPARE_PAGES, CompareScene, CompareState, methods_of
from qkspace.app.controls import GAP, SearchBox, share_button, visits
from qkspace.app.language import say
from qkspace.app.state import Theme
from qkspace.app.style import CARD_CSS, COMPARE_CSS, HEADER_CSS, PANEL, SAID_CSS, THEMES, WIDGET_CSS

if TYPE_CHECKING:
    from qkspace.comparison.reader import Comparison
    from qkspace.search import Hits

Change = Callable[..., None]
SEQUENCES = 12  # listed at once
LINK_CSS = ".what a { color: inherit; text-decoration: underline dotted; text-underline-offset: 3px; }"


class CompareHeader:
    """The line at the top (what is compared, search, language, theme) and the bar of views below it."""

    def __init__(
        self,
        comparison: Comparison,
        state: CompareState,
        indexes: Sequence[str],
        served: Mapping[str, str],
        change: Change,
        *,
        whole: bool,
    ) -> None:
        """Make the widgets; served: checkpoint -> name under which its own index is served; whole: see `Header`."""
        self.comparison, self.change = comparison, change
        common: dict[str, Any] = {"stylesheets": [InlineStyleSheet(css=WIDGET_CSS)], "margin": 0}
        t = self.say = partial(say, state.language)
        self.title = Div(
            text=compare_words.header(comparison, served, state.language),
            stylesheets=[InlineStyleSheet(css=HEADER_CSS + LINK_CSS)],
            sizing_mode="stretch_width",
        )
        self.state: CompareState = state
        self.hits: Hits | None = None
        self.told: tuple[Any, ...] = ()  # what was said last of the hits depends on this
        self.searching = SearchBox(comparison.base, state.search, state.language, change, self._go)
        self.theme = Button(label=t("theme_dark"), width=64, name="theme", **common)
        self.theme.on_click(lambda _event: change(theme="dark" if self.state.theme == "light" else "light"))
        self.help = Button(label="?", width=30, name="help", **common)
        self.pages = RadioButtonGroup(
            labels=[t(f"compare_page_{page}") for page in COMPARE_PAGES],
            active=COMPARE_PAGES.index(state.page),
            name="compare_pages",
            **common,
        )
        self.pages.on_change("active", lambda _attr, _old, new: change(page=COMPARE_PAGES[new]))
        said: dict[str, Any] = {"stylesheets": [InlineStyleSheet(css=CARD_CSS + SAID_CSS)], "margin": 0}
        self.summary = Div(name="summary", sizing_mode="stretch_width", **said)
        self.of_hits = Div(
            name="of_hits", sizing_mode="stretch_width", visible=False, styles={"padding": "0 2px 8px"}, **said
        )
        self.trouble = Div(name="trouble", sizing_mode="stretch_width", visible=False, **said)
        self.share = share_button(state.language, visible=whole)
        others = visits(state.language, comparison.root.name, indexes) if whole else []
        line = {"align-items": "center", "gap": "6px"}
        self.top = row(
            *(self.title, *self.searching.parts, *others, self.theme, self.help),
            sizing_mode="stretch_width",
            styles=line,
        )
        self.bar = row(
            *(self.pages, self.summary, self.share),
            sizing_mode="stretch_width",
            styles={**line, "margin-bottom": "8px", "gap": "12px"},
        )

    def show(self, scene: CompareScene, hits: Hits | None) -> None:
        """Show what is chosen, how many hits a search has, and how many heads changed."""
        state = self.state = scene.state
        self.hits = hits
        self.pages.active = COMPARE_PAGES.index(state.page)
        self.searching.show(state.search, hits, None if state.selected is None else state.selected[1])
        heads, layers = self.comparison.head_drift(state.checkpoint), self.comparison.layer_drift(state.checkpoint)
        said = compare_words.summary(heads, layers, state.language)
        self.summary.text = f'<span class="small muted" role="status">{said}</span>'
        now = state.search, state.checkpoint, state.layer, state.head
        if now != self.told:
            self.told, found = now, compare_words.hits_line(scene)
            self.of_hits.text = f'<span class="small" role="status">{escape(found)}</span>'
            self.of_hits.visible = bool(found)
        self.complain(scene.trouble)

    def complain(self, trouble: str) -> None:
        """Say on a line of its own what is wrong with what was asked for; nothing: take the line away."""
        self.trouble.text, self.trouble.visible = lists.trouble(trouble), bool(trouble)

    def _go(self, forward: bool) -> None:
        """Select the hit after or before what is selected, and its sequence."""
        if self.hits is None:
            return
        kind, at = self.state.selected or ("query", -1)
        found = self.hits.next_hit(at) if forward else self.hits.previous_hit(at)
        if found is not None:
            sequence = int(self.comparison.base.tokens["sequence"].to_numpy()[found])
            self.change(selected=(kind, found), sequence=sequence)

    def paint(self, theme: Theme) -> None:
        """Take on the colours of a theme."""
        self.theme.label = self.say("theme_dark" if theme == "light" else "theme_light")


class CompareControls:
    """The left column: checkpoint, head, map and measure; beside a sentence, those that changed most."""

    def __init__(self, comparison: Comparison, state: CompareState, change: Change) -> None:
        """Make the widgets."""
        self.comparison, self.change = comparison, change
        self.labels, self.methods = comparison.labels, methods_of(comparison)
        t = self.say = partial(say, state.language)
        sheet, card = InlineStyleSheet(css=WIDGET_CSS), InlineStyleSheet(css=CARD_CSS + COMPARE_CSS)
        common: dict[str, Any] = {"stylesheets": [sheet], "sizing_mode": "stretch_width", "margin": 0}
        cards: dict[str, Any] = {"stylesheets": [card], "sizing_mode": "stretch_width", "margin": 0}
        self.of_checkpoint = Div(name="checkpoint_text", **cards)
        self.slider = Slider(
            title=None,
            start=0,
            end=max(len(self.labels) - 1, 1),
            step=1,
            value=self.labels.index(state.checkpoint),
            show_value=False,
            tooltips=False,
            name="compare_checkpoint",
            **common,
        )
        buttons = {"stylesheets": [sheet], "width": 30, "margin": 0}
        self.earlier = Button(label="\u2039", name="compare_earlier", **buttons)
        self.later = Button(label="\u203a", name="compare_later", **buttons)
        steps = row(
            *(self.earlier, self.slider, self.later),
            sizing_mode="stretch_width",
            styles={"gap": "12px", "align-items": "center"},
            margin=0,
            visible=len(self.labels) > 1,
            name="checkpoint_steps",
        )
        base = comparison.base
        self.layer = Select(
            title=t("layer"),
            value=str(state.layer),
            options=[str(i) for i in range(base.n_layers)],
            name="layer",
            **common,
        )
        self.head = Select(title=t("head"), value=str(state.head), options=self._heads(state), name="head", **common)
        known = [(name, compare_words.measure_name(state.language, name)) for name in drift.measures(comparison.drift)]
        self.measure = Select(
            title=t("compare_measure"), value=state.measure, options=known, name="compare_measure", **common
        )
        self.explained = Div(name="measure_text", **cards)
        maps = [(name, t(f"method_{name}")) for name in self.methods]
        self.method = Select(title=t("method"), value=state.method, options=maps, name="method", **common)
        self.clicked = Div(name="compare_clicked", **cards)
        self.sequences = Div(name="compare_sequences", **cards)
        self._wire()
        self.pick = row(self.layer, self.head, sizing_mode="stretch_width", styles={"gap": "8px"}, margin=0)
        parts = (self.of_checkpoint, steps, self.pick, self.measure, self.explained, self.method)
        chosen = column(*parts, sizing_mode="stretch_width", styles={**PANEL, **GAP, "flex": "none"}, margin=0)
        self.parts = [chosen, self.clicked, self.sequences]

    def _heads(self, state: CompareState) -> list[str]:
        return [str(i) for i in range(self.comparison.base.layers[state.layer].n_heads)]

    def _wire(self) -> None:
        change = self.change
        self.layer.on_change("value", lambda _attr, _old, new: change(layer=int(new)))
        self.head.on_change("value", lambda _attr, _old, new: change(head=int(new)))
        self.measure.on_change("value", lambda _attr, _old, new: change(measure=new))
        self.method.on_change("value", lambda _attr, _old, new: change(method=new))
        self.slider.on_change("value_throttled", lambda _attr, _old, new: change(checkpoint=self.labels[int(new)]))
        self.earlier.on_click(lambda _event: self._step(-1))
        self.later.on_click(lambda _event: self._step(1))

    def _step(self, by: int) -> None:
        at = int(self.slider.value) + by
        if 0 <= at < len(self.labels):
            self.change(checkpoint=self.labels[at])

    def show(self, scene: CompareScene, opened: int | None = None) -> None:
        """Show what is chosen; opened: the sequence that is drawn beside, where one is."""
        state = scene.state
        at = self.labels.index(state.checkpoint)
        self.slider.value = at
        self.earlier.disabled, self.later.disabled = at == 0, at == len(self.labels) - 1
        self.of_checkpoint.text = compare_words.checkpoint(self.comparison, state)
        self.layer.value, self.head.options = str(state.layer), self._heads(state)
        self.head.value, self.measure.value = str(state.head), state.measure
        self.measure.visible = self.explained.visible = state.page in ("drift", "atlas")
        self.explained.text = compare_words.measure_text(state)
        self.method.visible = state.page in ("maps", "atlas") and bool(self.methods)
        if self.methods:
            self.method.value = state.method
        self.pick.visible = state.page != "sentence"  # there the picture has its own
        self.clicked.text = two_maps_words.clicked_card(scene) if state.page == "maps" else ""
        self.clicked.visible = bool(self.clicked.text)
        self.sequences.visible = state.page == "sentence"
        if self.sequences.visible:
            found = self.comparison.sequences(state.checkpoint, state.layer, state.head, top=SEQUENCES)
            self.sequences.text = compare_words.sequences_card(
                found, state, opened, matched=self.comparison.is_matched(state.checkpoint)
            )

    def paint(self, theme: Theme) -> None:
        """Take on the colours of a theme."""
        self.slider.bar_color = THEMES[theme]["accent"]
