"""Cards: what the page says beside the views, and the small chart of all heads.

In: a `Scene`. Out: pieces of HTML from `words` in their places, and the chart, which a click opens heads on.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from bokeh.events import Tap
from bokeh.layouts import column, row
from bokeh.models import Button, ColumnDataSource, Div, InlineStyleSheet

from qkspace.app import figures, lists, select, words
from qkspace.app.colours import QUERY_KEY
from qkspace.app.image_words import patch_card
from qkspace.app.pictures import album_of
from qkspace.app.select import Scene, Shown
from qkspace.app.state import State
from qkspace.app.style import CARD_CSS, PANEL, WIDGET_CSS
from qkspace.search import sequence_list

Change = Callable[..., None]
SEQUENCES = 12  # listed at once
IMAGES = 20  # likewise


def _card(**options: Any) -> Div:
    return Div(stylesheets=[InlineStyleSheet(css=CARD_CSS)], sizing_mode="stretch_width", margin=0, **options)


class Navigator:
    """The chart of all heads by how far their maps can be trusted, and the legend of the colours."""

    def __init__(self, shown: Shown, state: State, change: Change) -> None:
        """Make the chart; a click opens a head."""
        self.index, self.change = shown.index, change
        self.sources = {"heads": ColumnDataSource(), "here": ColumnDataSource()}
        self.figure = figures.heads_figure(
            self.sources["heads"],
            self.sources["here"],
            self.index.n_layers,
            self.index.n_heads,
            language=state.language,
        )
        self.figure.on_event(Tap, self._tap)
        self.legend = _card(name="legend")
        title = _card(text=words.heads_title(state.language))
        chart = column(title, self.figure, sizing_mode="stretch_width", styles={**PANEL, "flex": "none"}, margin=0)
        self.parts = [chart, self.legend]

    def _tap(self, event: Tap) -> None:
        layer, head = round(float(event.y)), round(float(event.x))
        if 0 <= layer < self.index.n_layers and 0 <= head < self.index.layers[layer].n_heads:
            self.change(layer=layer, head=head)

    def show(self, scene: Scene) -> None:
        """Show where the chosen head is, and what the colours mean."""
        state = scene.state
        self.sources["heads"].data = select.all_heads(scene.shown, state)
        self.sources["here"].data = {"layer": [state.layer], "head": [state.head]}
        self.legend.text = words.legend(
            scene.colours.legend, markers=state.colour != QUERY_KEY, hidden=state.hidden, language=state.language
        )
        if scene.shown.modality == "image" and state.page == "map":
            note = words.plain(state.language, "legend_frames")
            self.legend.text = self.legend.text.removesuffix("</div>") + f'<p class="small muted">{note}</p></div>'
        self.legend.visible = state.page in ("map", "atlas")

    def paint(self, theme: str) -> None:
        """Take on the colours of a theme."""
        figures.paint(self.figure, theme)


class Cards:
    """The right column: how far the map can be trusted and what the head does, the clicked token, what is selected or found."""

    def __init__(self, shown: Shown, state: State, change: Change) -> None:
        """Make empty cards."""
        self.head, self.token, self.region, self.hits = (
            _card(name=f"{name}_card") for name in ("head", "token", "region", "hits")
        )
        self.parts = [self.hits, self.head, self.region, self.token]  # what was searched for comes first

    def show(self, scene: Scene) -> None:
        """Say what the state asks for."""
        state = scene.state
        self.head.text = words.head_card(scene.shown, state)
        album = album_of(scene.shown.index)
        token = words.token_card(scene.shown, state) if album is None else patch_card(scene.shown, album, state)
        self.token.text = token
        if scene.shown.modality != "text":  # whose picture is what was asked for
            self.token.styles = {"order": "0" if state.selected is None else "-1"}
        self.region.text = lists.region_card(scene.shown, state)
        self.region.visible = bool(state.region) and state.page == "map"
        self.hits.text = lists.hits_card(scene)
        self.hits.visible = bool(self.hits.text)


class Sequences:
    """The list of sequences beside the sentence, those with hits where there is a search, some at a time."""

    def __init__(self, shown: Shown, state: State, change: Change) -> None:
        """Make an empty list and its two buttons."""
        self.index, self.language = shown.index, state.language
        self.start, self.scene = 0, None
        self.count = SEQUENCES if shown.modality == "text" else IMAGES
        self.card = _card(name="sequences")
        common: dict[str, Any] = {"stylesheets": [InlineStyleSheet(css=WIDGET_CSS)], "width": 40, "margin": 0}
        self.back = Button(label="\u2039", name="sequences_back", **common)
        self.on = Button(label="\u203a", name="sequences_on", **common)
        self.back.on_click(lambda _event: self._go(-self.count))
        self.on.on_click(lambda _event: self._go(self.count))
        buttons = row(self.back, self.on, styles={"gap": "6px"}, margin=0)
        self.root = column(self.card, buttons, sizing_mode="stretch_width", styles={**PANEL, "flex": "none"}, margin=0)

    def _go(self, by: int) -> None:
        self.start = max(0, self.start + by)
        if self.scene is not None:
            self._fill(self.scene)

    def show(self, scene: Scene) -> None:
        """Fill the list where the search has changed."""
        self.root.visible = scene.state.page in ("sentence", "plots")
        if self.scene is None or self.scene.state.search != scene.state.search:
            self.start = 0
        self.scene = scene
        if self.root.visible:
            self._fill(scene)

    scene: Scene | None

    def _fill(self, scene: Scene) -> None:
        table = sequence_list(self.index, scene.hits, start=self.start, count=self.count)
        total = len(self.index.sequences) if scene.hits is None else len(scene.hits.sequences)
        self.card.text = lists.sequences_card(table, scene, self.start, total)
        self.back.disabled, self.on.disabled = self.start == 0, self.start + self.count >= total
