"""Sentence: the attention of every head over one sequence, or over the live sentence.

In: a `Scene`. Out: what `static/attention_view.js` draws (lines, heat map, all heads, neurons), a layer at a time. What the
visitor does there comes back by `told`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from bokeh.layouts import column
from bokeh.models import ColumnDataSource, CustomJS, Div

from qkspace.app.language import strings
from qkspace.app.scripts import script
from qkspace.app.select import Scene, Shown, sequence_of
from qkspace.app.state import Kind, State
from qkspace.app.style import PANEL
from qkspace.attention_view import Payload, attention_data, live_data, sides

THUMBNAIL_WEIGHTS = 40_000_000  # of all heads together, beyond which small pictures of the other layers are not sent


class SentenceView:
    """Who attends to whom in one sequence."""

    def __init__(self, shown: Shown, state: State, change: Callable[..., None]) -> None:
        """Make an empty place for the picture."""
        self.shown, self.change = shown, change
        self.scene: Scene | None = None
        self.drawn: tuple[Any, ...] = ()
        self.layers: set[int] = set()
        self.turn = 0
        self.head: int | None = None  # that the picture was told of last, or told of itself
        self.host = Div(sizing_mode="stretch_both", margin=0, name="sentence", styles={"position": "relative"})
        self.root = column(self.host, sizing_mode="stretch_both", styles={**PANEL, "padding": "8px 10px"}, margin=0)
        self.strings = {
            name.removeprefix("view_"): text
            for name, text in strings(state.language).items()
            if name.startswith("view_")
        }

    def wire(self, page: Any, place: ColumnDataSource) -> CustomJS:
        """Let the browser draw what is sent, and tell `page` what the visitor does.

        `place` comes last in every message: what came with the view itself is drawn then, as it changes nothing. Returns
        what draws, for a page that begins with this view.
        """
        args = {"host": self.host, "page": page, "strings": self.strings}
        draw = CustomJS(code=script("attention_view") + script("sentence"), args=args)
        self.host.js_on_change("tags", draw)
        place.js_on_change("data", draw)
        return draw

    def show(self, scene: Scene) -> None:
        """Send the sequence where it is another one, the chosen layer where it was not sent yet, and what is chosen."""
        self.scene, state = scene, scene.state
        now = self._what(scene)
        if now != self.drawn:
            self.drawn, self.layers = now, set()
        data = None
        if state.layer not in self.layers:
            data = self._data(scene, state.layer, thumbs=not self.layers)
            self.layers.add(state.layer)
        chosen = self._chosen(scene)
        if state.head != self.head:  # else the picture may show others beside it
            chosen |= {"heads": [state.head], "head": state.head}
        self.head = state.head
        self._send(data, chosen)

    def need(self, layer: int) -> None:
        """Send a layer that the visitor looks at."""
        if self.scene is None or not 0 <= layer < self.shown.index.n_layers or layer in self.layers:
            return
        self.layers.add(layer)
        self._send(self._data(self.scene, layer, thumbs=False), {})

    def _send(self, data: Payload | None, chosen: dict[str, Any]) -> None:
        self.turn += 1
        self.host.tags = [self.turn, data, chosen]

    def told(self, now: dict[str, Any]) -> None:
        """Take over what the visitor chose in the picture: layer, a single head, and the token."""
        if self.scene is None:
            return
        what: dict[str, Any] = {"layer": int(now["layer"])}
        heads = [int(now["head"])] if now.get("mode") == "neurons" else now.get("heads")
        if heads is not None and len(heads) == 1:
            what["head"] = self.head = int(heads[0])
        if self.scene.live is None:
            selected, what["selected"] = now.get("selected"), None
            if selected is not None:
                rows = self._rows(self.scene, selected["side"])
                if 0 <= int(selected["token"]) < rows.stop - rows.start:
                    what["selected"] = (str(selected["side"]), rows.start + int(selected["token"]))
            what["sequence"] = sequence_of(self.shown, self.scene.state)
        self.change(**what)

    # ---------------------------------------------------------------- what is sent

    def _what(self, scene: Scene) -> tuple[Any, ...]:
        if scene.live is not None:
            return ("live", scene.live.text, scene.live.pair)
        return ("sequence", sequence_of(self.shown, scene.state))

    def _rows(self, scene: Scene, side: Kind) -> slice:
        """Return the rows of the sequence on one side of the picture."""
        asks, answers = sides(self.shown.index, sequence_of(self.shown, scene.state))
        return asks if side == "query" else answers

    def _data(self, scene: Scene, layer: int, *, thumbs: bool) -> Payload:
        if scene.live is not None:
            return live_data(scene.live, layers=[layer], thumbs=thumbs)
        index, asks, answers = self.shown.index, self._rows(scene, "query"), self._rows(scene, "key")
        n_weights = (
            (asks.stop - asks.start) * (answers.stop - answers.start) * sum(spec.n_heads for spec in index.layers)
        )
        small = thumbs and n_weights <= THUMBNAIL_WEIGHTS
        return attention_data(index, sequence_of(self.shown, scene.state), layers=[layer], thumbs=small)

    def _chosen(self, scene: Scene) -> dict[str, Any]:
        state = scene.state
        selected = None
        if state.selected is not None and scene.live is None:
            side, row = state.selected
            rows = self._rows(scene, side)
            selected = {"side": side, "token": row - rows.start} if rows.start <= row < rows.stop else None
        return {"layer": state.layer, "selected": selected}

    def paint(self, theme: str) -> None:
        """Nothing: the picture takes its colours from the page."""
