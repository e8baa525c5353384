"""Drift: how far every head changed, and what changed in the chosen one.

In: a `CompareScene`. Out: the heat map of all heads, their table, the curves over checkpoints, and cards of one head. What
reads the arrays of tokens is done beside the server's loop.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from html import escape
from typing import TYPE_CHECKING, Any

import numpy as np
from bokeh.events import Tap
from bokeh.layouts import column, row
from bokeh.models import ColumnDataSource, Div, InlineStyleSheet, Select

from qkspace.app import compare_words as words
from qkspace.app import drift, figures_drift
from qkspace.app.compare_state import CompareScene, CompareState, columns_of
from qkspace.app.language import say
from qkspace.app.loop import beside
from qkspace.app.style import CARD_CSS, COMPARE_CSS, PANEL, WIDGET_CSS
from qkspace.schema import QKSpaceError

if TYPE_CHECKING:
    import pandas as pd

    from qkspace.comparison.reader import Comparison

LINKS = 20_000  # of a head that are looked through for those of each status that changed most
EXAMPLES = 6  # sequences that are listed
TICKS = 7  # names of checkpoints below the curves


def _card(name: str) -> Div:
    sheet = InlineStyleSheet(css=CARD_CSS + COMPARE_CSS)
    return Div(stylesheets=[sheet], sizing_mode="stretch_width", margin=0, name=name)


class DriftView:
    """Heads by how much their attention changed, and the chosen one in words."""

    def __init__(self, comparison: Comparison, state: CompareState, change: Callable[..., None]) -> None:
        """Make the figures and empty cards."""
        self.comparison, self.change, self.language = comparison, change, state.language
        self.scene: CompareScene | None = None
        self.last: dict[str, tuple[Any, ...]] = {}
        self.text: dict[str, str] = {}
        names = ("loud", "quiet", "here", "heads", "mean", "own", "points", "now")
        self.sources = {name: ColumnDataSource() for name in names}
        base = comparison.base
        self.heat = figures_drift.drift_figure(self.sources, base.n_layers, base.n_heads, state.language)
        self.heat.on_event(Tap, self._tap_head)
        self.curves = figures_drift.curves_figure(self.sources, state.language)
        self.curves.on_event(Tap, self._tap_checkpoint)
        self.heat_title, self.curves_title, self.table_title = (
            _card(name) for name in ("heat_title", "curves_title", "table_title")
        )
        self.table, self.head, self.links, self.sequences, self.classes = (
            _card(name) for name in ("heads_table", "drift_head", "drift_links", "drift_sequences", "drift_classes")
        )
        self.column = Select(
            title=say(state.language, "compare_column"),
            value=self._column(state),
            options=columns_of(comparison),
            stylesheets=[InlineStyleSheet(css=WIDGET_CSS)],
            sizing_mode="stretch_width",
            margin=0,
            name="compare_column",
        )
        self.column.on_change("value", lambda _attr, _old, new: change(column=new))
        self.root = self._layout()

    def _layout(self) -> Any:
        gap = {"gap": "10px"}
        framed: dict[str, Any] = {
            "sizing_mode": "stretch_both",
            "styles": {**PANEL, "padding": "10px 12px"},
            "margin": 0,
        }
        charts = [column(self.heat_title, self.heat, **framed)]
        if len(self.comparison.labels) > 1:
            charts.append(column(self.curves_title, self.curves, **framed))
        top = row(*charts, sizing_mode="stretch_both", styles={**gap, "flex": "1 1 44%", "min-height": "0"}, margin=0)
        scroll = {"overflow": "auto", "scrollbar-width": "thin", "min-height": "0"}
        listed = column(self.table, sizing_mode="stretch_both", styles=scroll, margin=0)
        heads = column(
            *(self.table_title, listed),
            sizing_mode="stretch_both",
            styles={**PANEL, "padding": "10px 12px", "flex": "1 1 56%", "min-height": "0"},
            margin=0,
        )
        middle = column(top, heads, sizing_mode="stretch_both", styles={**gap, "min-width": "0"}, margin=0)
        of_classes = column(
            *(self.column, self.classes),
            sizing_mode="stretch_width",
            styles={**PANEL, "flex": "none", "gap": "6px"},
            margin=0,
        )
        cards = column(
            *(self.head, self.links, self.sequences, of_classes),
            width=344,
            sizing_mode="stretch_height",
            styles={"overflow-y": "auto", "overflow-x": "hidden", "scrollbar-width": "thin", **gap},
            margin=0,
        )
        return row(middle, cards, sizing_mode="stretch_both", styles={**gap, "min-height": "0"}, margin=0)

    # ---------------------------------------------------------------- what the visitor does

    def _tap_head(self, event: Tap) -> None:
        layer, head = round(float(event.y)), round(float(event.x))
        base = self.comparison.base
        if 0 <= layer < base.n_layers and 0 <= head < base.layers[layer].n_heads:
            self.change(layer=layer, head=head)

    def _tap_checkpoint(self, event: Tap) -> None:
        """Choose the checkpoint nearest to a click; the base, where curves begin, is none to choose."""
        if self.scene is None or event.x is None:
            return
        state = self.scene.state
        x = drift.curves(self.comparison, state.measure, state.layer, state.head).x[1:]
        self.change(checkpoint=self.comparison.labels[int(np.abs(x - float(event.x)).argmin())])

    # ---------------------------------------------------------------- what is shown

    def _column(self, state: CompareState) -> str:
        """Return the column whose classes are compared: the chosen one, or parts of speech where the corpus has them."""
        known = columns_of(self.comparison)
        return state.column or ("upos" if "upos" in known else known[0])

    def _is_new(self, part: str, *what: Any) -> bool:
        """Tell whether a part must be shown anew, `what` being all that it depends on."""
        if self.last.get(part) == what:
            return False
        self.last[part] = what
        return True

    def show(self, scene: CompareScene) -> None:
        """Show what has changed of what is chosen."""
        self.scene, state = scene, scene.state
        table = self.comparison.head_drift(state.checkpoint)
        head = (state.layer, state.head)
        if self._is_new("heat", state.checkpoint, state.measure, state.theme):
            self._show_heat(table, state)
        self.sources["here"].data = {"layer": [state.layer], "head": [state.head]}
        if self._is_new("table", state.checkpoint, state.measure, *head):
            self._show_table(table, state)
        if len(self.comparison.labels) > 1 and self._is_new("curves", state.checkpoint, state.measure, *head):
            self._show_curves(state)
        if self._is_new("head", state.checkpoint, state.method, *head):
            self.head.text = words.head_card(scene, table)
        self.column.value = self._column(state)
        if self._is_new("cards", state.checkpoint, *head, self._column(state)):
            for name, card in self._cards().items():
                card.text = self._titled(name, f'<p class="muted">{escape(say(self.language, "measuring"))}</p>')
            if self.root.document is not None:
                self.measure()

    def _show_heat(self, table: pd.DataFrame, state: CompareState) -> None:
        low, high = drift.span(self.comparison, state.measure)
        signed = drift.is_signed(state.measure)
        is_quiet = drift.is_quiet(table)
        columns = {
            "layer": table["layer"].to_numpy(),
            "head": table["head"].to_numpy(),
            "value": table[state.measure].to_numpy(dtype=np.float32),
            "name": self._tips(table, state),
            "said": np.array(words.tooltips(table, self.language), dtype=object),
        }
        for name, rows in (("quiet", is_quiet), ("loud", ~is_quiet)):
            self.sources[name].data = {key: values[rows] for key, values in columns.items()}
        colours = figures_drift.palette(state.theme, signed=signed)
        if state.measure in drift.ALIKE:
            colours = tuple(reversed(colours))
        figures_drift.paint_drift(self.heat, state.theme, colours, low=low, high=high)
        self.heat_title.text = words.heat_title(state, low, high, colours, int(is_quiet.sum()))

    def _tips(self, table: pd.DataFrame, state: CompareState) -> np.ndarray[Any, Any]:
        """Return what stands in bold above each head's tooltip: its name and the value that is coloured."""
        name = words.measure_name(self.language, state.measure)
        tips = [
            f"{words.head_name(layer, head)} \u00b7 {name}: {words.measured(self.language, state.measure, float(value))}"
            for layer, head, value in zip(table["layer"], table["head"], table[state.measure], strict=True)
        ]
        return np.array(tips, dtype=object)

    def _show_table(self, table: pd.DataFrame, state: CompareState) -> None:
        matched = self.comparison.is_matched(state.checkpoint)
        self.table.text = words.heads_table(table, state, matched=matched)
        self.table_title.text = words.table_title(table, state, matched=matched)

    def _show_curves(self, state: CompareState) -> None:
        found = drift.curves(self.comparison, state.measure, state.layer, state.head)
        names = [words.head_name(layer, head) for layer, head in zip(found.layer, found.head, strict=True)]
        xs = [found.x] * (len(names) - 1)
        self.sources["heads"].data = {"xs": xs, "ys": list(found.values[:-1]), "name": names[:-1]}
        mean_name = say(self.language, "compare_layer_mean", layer=state.layer)
        mean = drift.layer_curve(self.comparison, state.measure, state.layer)
        self.sources["mean"].data = {"xs": [found.x], "ys": [mean], "name": [mean_name]}
        own = found.values[-1]
        self.sources["own"].data = {"xs": [found.x], "ys": [own], "name": [names[-1]]}
        self.sources["points"].data = {"x": found.x, "y": own}
        at = found.labels.index(state.checkpoint) + 1
        self.sources["now"].data = {"x": [found.x[at]]}
        labels = [self.comparison.base_label, *found.labels]
        if found.is_step:
            labels = [f"{x:g}" for x in found.x]
        shown = sorted({round(i) for i in np.linspace(0, len(labels) - 1, min(TICKS, len(labels)))})
        title = say(self.language, "compare_axis_step" if found.is_step else "compare_axis_checkpoint")
        figures_drift.tick(self.curves, [float(found.x[i]) for i in shown], [labels[i] for i in shown], title)
        self.curves_title.text = words.curves_title(state, names[-1], mean_name)

    # ---------------------------------------------------------------- what takes more than a moment

    def _cards(self) -> dict[str, Div]:
        return {"links": self.links, "sequences": self.sequences, "classes": self.classes}

    def measure(self) -> None:
        """Look through the tokens of the chosen head, beside the server's loop where there is one."""
        document, now, scene = self.root.document, self.last.get("cards"), self.scene
        if now is None or scene is None:
            return

        def is_wanted() -> bool:  # else another head has been chosen meanwhile
            return now == self.last["cards"]

        def work(name: str) -> str:
            return self._measured(name, scene) if is_wanted() else ""

        def fill(name: str, text: str) -> None:
            if is_wanted():
                self._cards()[name].text = self._titled(name, text)

        for name in self._cards():
            beside(document, partial(work, name), partial(fill, name))

    def _measured(self, name: str, scene: CompareScene) -> str:
        """Return what a card holds; where nothing can be said, why."""
        comparison, state = scene.comparison, scene.state
        chosen = (state.checkpoint, state.layer, state.head)
        table = comparison.head_drift(state.checkpoint)
        if drift.is_quiet(table)[drift.place(table, state.layer, state.head)]:
            return f'<p class="muted">{escape(say(self.language, "compare_nothing"))}</p>'
        try:
            if name == "links":
                links = comparison.links(*chosen, top=LINKS)
                return words.links_card(links, comparison.units(state.checkpoint), state)
            if name == "sequences":
                return words.sequences_list(comparison.sequences(*chosen, top=EXAMPLES))
            return words.classes(comparison.by(self._column(state), *chosen), self.language)
        except QKSpaceError as error:
            return f'<p class="muted">{escape(str(error))}</p>'

    def _titled(self, name: str, text: str) -> str:
        """Return the text of a card with its title; the classes stand in a frame of their own."""
        assert self.scene is not None
        state = self.scene.state
        head = words.head_name(state.layer, state.head)
        differ = "differ_" if self.comparison.is_matched(state.checkpoint) else ""
        names = f"compare_{differ}{name}", f"compare_{name}_tip"
        title, tip = (escape(say(self.language, each, name=head, n=LINKS)) for each in names)
        body = f'<h2 class="why" title="{tip}">{title}</h2>{text}'
        return body if name == "classes" else f'<div class="card">{body}</div>'

    def paint(self, theme: str) -> None:
        """Take on the colours of a theme; the heat map is painted with its scale."""
        figures_drift.paint_curves(self.curves, theme)
