"""Difference: how the attention over one sequence changed from the base to a tuned checkpoint.

In: a `CompareScene`. Out: what `static/difference.js` draws (lines, heat maps, all heads), a head or a layer of small
pictures at a time, as the browser asks for them. What the visitor does there comes back through `change`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
from bokeh.layouts import column
from bokeh.models import ColumnDataSource, CustomJS, Div

from qkspace.app.language import say, strings
from qkspace.app.scripts import script
from qkspace.app.style import PANEL
from qkspace.comparison.difference import Payload, difference_data, unit_rows
from qkspace.schema import QKSpaceError

if TYPE_CHECKING:
    from qkspace.app.compare_state import CompareScene, CompareState
    from qkspace.comparison.reader import Comparison

MOST_CHANGED = 20  # sequences of which one is opened where none is asked for
PREFIX = "compare_difference_"  # of the view's own sentences
Drawn = tuple[str, int]  # label and sequence


class DifferenceView:
    """What of the attention over one sequence grew and what shrank."""

    def __init__(self, comparison: Comparison, state: CompareState, change: Callable[..., None]) -> None:
        """Make an empty place for the picture; what the visitor does there comes back in the tags of `answers`."""
        self.comparison, self.change = comparison, change
        self.scene: CompareScene | None = None
        self.drawn: Drawn | None = None
        self.turn = 0
        self.is_placed = False
        self.host = Div(sizing_mode="stretch_both", margin=0, name="difference", styles={"position": "relative"})
        self.answers = ColumnDataSource(name="difference_answers")
        self.answers.on_change("tags", self._told)
        self.root = column(self.host, sizing_mode="stretch_both", styles={**PANEL, "padding": "8px 10px"}, margin=0)
        own = {
            name.removeprefix(PREFIX): text for name, text in strings(state.language).items() if name.startswith(PREFIX)
        }
        if all(comparison.is_matched(label) for label in comparison.labels):
            own["after"] = say(state.language, "compare_other_side")
        self.draw = CustomJS(  # a page that begins with this view runs it when it is there
            code=script("difference") + script("difference_host"),
            args={"host": self.host, "answers": self.answers, "strings": own},
        )
        self.host.js_on_change("tags", self.draw)

    def show(self, scene: CompareScene) -> None:
        """Send the sequence where it is another one, and what is chosen."""
        self.scene = scene
        data, trouble = self._first(self._asked(scene), scene.state)
        self._send(data, self._chosen(scene) | {"trouble": trouble})
        self._place()

    def _place(self) -> None:
        """Send all again where this view has just come into a page that stands: what came with it changes nothing there."""
        document = self.host.document
        if document is not None and not self.is_placed:
            document.add_next_tick_callback(self._again)
        self.is_placed = True

    def _again(self) -> None:
        self.drawn = None
        if self.scene is not None:
            self.show(self.scene)

    def paint(self, theme: str) -> None:
        """Nothing: `show` says the theme."""

    # ---------------------------------------------------------------- what is sent

    def _send(self, data: Payload | None, chosen: dict[str, Any]) -> None:
        self.turn += 1
        self.host.tags = [self.turn, data, chosen]

    def _label(self, state: CompareState) -> str:
        return state.checkpoint or self.comparison.labels[0]

    def _id(self) -> str:
        return "" if self.drawn is None else f"{self.drawn[0]}/{self.drawn[1]}"

    @property
    def sequence(self) -> int | None:
        """The sequence that is drawn."""
        return None if self.drawn is None else self.drawn[1]

    def _asked(self, scene: CompareScene) -> Iterator[int]:
        """Yield the sequence that is to be shown, and then those to take where it cannot be: what changed most."""
        state, tokens = scene.state, self.comparison.base.tokens
        if state.selected is not None and 0 <= state.selected[1] < len(tokens):
            yield int(tokens["sequence"].iloc[state.selected[1]])
        elif state.sequence is not None:
            yield state.sequence
        most = self.comparison.sequences(self._label(state), state.layer, state.head, top=MOST_CHANGED)
        yield from map(int, most["sequence"])

    def _first(self, sequences: Iterable[int], state: CompareState) -> tuple[Payload | None, str]:
        """Return the data of the first sequence that can be shown, None where it is drawn; and why the first cannot."""
        label, trouble = self._label(state), ""
        for sequence in sequences:
            if (label, sequence) == self.drawn:
                return None, trouble
            try:
                data = difference_data(self.comparison, label, sequence, heads=[(state.layer, state.head)])
            except QKSpaceError as error:
                trouble = trouble or str(error)
                continue
            self.drawn = label, sequence
            return data, trouble
        return None, trouble

    def _chosen(self, scene: CompareScene) -> dict[str, Any]:
        state = scene.state
        at = {"layer": state.layer, "head": state.head, "selected": self._selected(state)}
        return {**at, "mode": state.mode, "theme": state.theme}

    def _selected(self, state: CompareState) -> dict[str, Any] | None:
        """Return the unit of the clicked token, None where it is not one of this sequence."""
        if state.selected is None or self.drawn is None:
            return None
        side, row = state.selected
        label, sequence = self.drawn
        if not 0 <= row < len(tokens := self.comparison.base.tokens) or int(tokens["sequence"].iloc[row]) != sequence:
            return None
        is_word = self.comparison.unit(label) == "word"
        start = unit_rows(self.comparison, label, sequence).start
        unit = int(self.comparison.common(label).base_unit[row]) if is_word else row - start
        return {"side": side, "token": unit} if unit >= 0 else None

    # ---------------------------------------------------------------- what comes back

    def _told(self, _name: str, _old: Any, now: list[Any]) -> None:
        """Do what the visitor asked for in the picture."""
        if self.scene is None or self.drawn is None or len(now) < 2:
            return
        what, value = now[0], now[1]
        if what == "again":
            self._again()
        elif what == "need":
            self.need(value)
        elif what == "pick":
            self.pick(value)
        elif what == "view":
            self.told(value)

    def need(self, what: dict[str, Any]) -> None:
        """Send heads, or a layer's small pictures, that the visitor looks at."""
        if self.drawn is None or what.get("id") != self._id():
            return  # of a sequence that is gone
        heads = [(int(layer), int(head)) for layer, head in what.get("heads", [])]
        layers = [int(layer) for layer in what.get("thumbs", [])]
        try:
            data = difference_data(self.comparison, *self.drawn, heads=heads, thumbs=layers)
        except QKSpaceError as error:
            self._send(None, {"trouble": str(error)})
            return
        self._send(data, {})

    def pick(self, what: dict[str, Any]) -> None:
        """Open another sequence: the one before or after, or the one nearest to a number."""
        if self.drawn is None:
            return
        numbers = self.comparison.sequence_numbers(self.drawn[0])
        if "step" in what:
            place = int(np.searchsorted(numbers, self.drawn[1])) + int(what["step"])
            chosen = numbers[min(max(place, 0), len(numbers) - 1)]
        else:
            chosen = numbers[np.abs(numbers - int(what["sequence"])).argmin()]
        self.change(sequence=int(chosen), selected=None)

    def told(self, now: dict[str, Any]) -> None:
        """Take over mode, layer, head and token that the visitor chose in the picture; its sequence stays."""
        if self.scene is None or self.drawn is None:
            return
        state = self.scene.state
        new = {"layer": int(now["layer"]), "head": int(now["head"]), "mode": now["mode"]}
        new["selected"] = self._row(now.get("selected"))
        if any(value != getattr(state, name) for name, value in new.items()):
            self.change(**new, sequence=self.drawn[1])

    def _row(self, selected: dict[str, Any] | None) -> tuple[str, int] | None:
        """Return the row of `base.tokens` of a unit of the sequence that is shown; None of what is outside."""
        if selected is None or self.drawn is None:
            return None
        rows = unit_rows(self.comparison, *self.drawn)
        unit = rows.start + int(selected["token"])
        if not rows.start <= unit < rows.stop:
            return None
        is_word = self.comparison.unit(self.drawn[0]) == "word"
        row = int(self.comparison.units(self.drawn[0])["base_row"].iloc[unit]) if is_word else unit
        return str(selected["side"]), row
