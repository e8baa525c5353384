"""Plots: the attention of one sequence as a matrix, of a head or averaged over a layer.

In: a `Scene`. Out: a heat map, a line of what each token receives, or bars or dots in space, which a drag turns.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from html import escape
from typing import Any, get_args

from bokeh.layouts import column, row
from bokeh.models import Button, CheckboxGroup, ColumnDataSource, Div, InlineStyleSheet, RadioButtonGroup

from qkspace.app import figures_matrix as figures
from qkspace.app.language import say
from qkspace.app.plotted import IN_SPACE, clicked_row, plotted_matrix
from qkspace.app.select import Scene, Shown, sequence_of
from qkspace.app.state import Plot, State, Theme
from qkspace.app.style import CARD_CSS, PANEL, WIDGET_CSS
from qkspace.matrix import Matrix

PLOTS: tuple[Plot, ...] = get_args(Plot)


class PlotsView:
    """One sequence as one matrix."""

    def __init__(self, shown: Shown, state: State, change: Callable[..., None]) -> None:
        """Make the choices and an empty figure of each kind, of which one is seen."""
        self.shown, self.change, self.state = shown, change, state
        self.last: tuple[Any, ...] = ()
        t = self.say = partial(say, state.language)
        self.sources = {name: ColumnDataSource({key: [] for key in of}) for name, of in figures.SOURCES.items()}
        self.sources["camera"] = ColumnDataSource({"yaw": [state.yaw], "pitch": [state.pitch], "bars": [True]})
        self.sources["camera"].on_change("data", self._turned)
        self.tells_camera = False  # while this page, and not the visitor, turns the matrix
        self.figures = {
            "heatmap": figures.heat_figure(self.sources, state.language),
            "received": figures.received_figure(self.sources, state.language),
            "space": figures.space_figure(self.sources, state.language),
        }
        common: dict[str, Any] = {"stylesheets": [InlineStyleSheet(css=WIDGET_CSS)], "margin": 0}
        self.kind = RadioButtonGroup(labels=[t(f"plot_{plot}") for plot in PLOTS], name="plot", **common)
        self.kind.on_change("active", lambda _attr, _old, new: self.change(plot=PLOTS[new]))
        self.averaged = CheckboxGroup(labels=[t("plots_averaged")], name="averaged", **common)
        self.averaged.on_change("active", lambda _attr, _old, new: self.change(averaged=bool(new)))
        self.to_last = Button(label=t("plots_last"), name="plots_last", **common)
        self.to_last.on_click(lambda _event: self.change(layer=shown.index.n_layers - 1))
        card = InlineStyleSheet(css=CARD_CSS)
        self.words = Div(name="plots_words", stylesheets=[card], sizing_mode="stretch_width", margin=0)
        choices = row(
            *(self.kind, self.averaged, self.to_last),
            sizing_mode="stretch_width",
            styles={"gap": "12px", "align-items": "center", "padding-bottom": "4px"},
            margin=0,
        )
        self.root = column(
            *(choices, self.words, *self.figures.values()),
            sizing_mode="stretch_both",
            styles={**PANEL, "padding": "6px 8px"},
            margin=0,
        )

    def show(self, scene: Scene) -> None:
        """Draw the sequence where it, or what is shown of it, has changed."""
        state = self.state = scene.state
        self.kind.active, self.averaged.active = PLOTS.index(state.plot), [0] if state.averaged else []
        self.to_last.disabled = state.layer == self.shown.index.n_layers - 1
        what = None if scene.live is None else (scene.live.text, scene.live.pair)
        if scene.live is None and state.text.strip() and self.shown.reads_texts:
            self._wait(scene)
            return
        chosen = (state.plot, state.averaged, state.layer, state.head, state.selected, state.theme)
        now = (*chosen, sequence_of(self.shown, state), what)
        if now == self.last:
            self._show_camera(state)
            return
        self.last = now
        matrix = plotted_matrix(scene)
        which = self.say("plots_mean" if state.averaged else "plots_head", layer=state.layer, head=state.head)
        said = self.say("plots_heat_says" if state.plot == "heatmap" else f"plots_{state.plot}_says", which=which)
        self.words.text = f'<p class="small muted">{said} {self._cut(matrix, scene)}</p>'
        self._draw(matrix, state)

    def _wait(self, scene: Scene) -> None:
        """Draw nothing while the model reads the visitor's sentence, or where it could not."""
        self.last = ()
        for plot in self.figures.values():
            plot.visible = False
        says = " ".join(filter(None, (scene.live_says, self.say("plots_reading"))))
        self.words.text = f'<p class="small muted" role="status">{escape(says)}</p>'

    def _cut(self, matrix: Matrix, scene: Scene) -> str:
        """Say which tokens of a sequence that is too long are shown."""
        if not matrix.is_part:
            return ""
        first, end = matrix.tokens
        name = "plots_cut_first" if first == 0 else "plots_cut" if clicked_row(scene) is not None else "plots_cut_from"
        said = self.say(name, n=end - first, total=matrix.n_tokens, first=first + 1, last=end)
        return f"{said} {self.say('plots_cut_received')}" if scene.state.plot == "received" else said

    def _turned(self, _attr: str, _old: Any, new: dict[str, Any]) -> None:
        """Take over from where the visitor now looks, unless it is this page that said so."""
        if not self.tells_camera:
            self.change(yaw=float(new["yaw"][0]), pitch=float(new["pitch"][0]))

    def _show_camera(self, state: State) -> None:
        camera = {"yaw": [state.yaw], "pitch": [state.pitch], "bars": [state.plot == "bars"]}
        if dict(self.sources["camera"].data) != camera:
            self.tells_camera = True
            self.sources["camera"].data = camera
            self.tells_camera = False

    def _draw(self, matrix: Matrix, state: State) -> None:
        shown = "space" if state.plot in IN_SPACE else state.plot
        for name, plot in self.figures.items():
            plot.visible = name == shown
        plot = self.figures[shown]
        if shown == "heatmap":
            figures.name_heat(plot, matrix)
            self.sources["heat"].data = figures.heat_data(matrix)
        elif shown == "received":
            figures.name_received(plot, matrix)
            self.sources["received"].data = figures.received_data(matrix)
        else:
            figures.name_space(plot, matrix, state.theme, state.language)
            self.sources["solid"].data = figures.solid_data(matrix, state.theme)
            self._show_camera(state)
            figures.show_tips(plot, dots=state.plot == "scatter")

    def paint(self, theme: Theme) -> None:
        """Take on the colours of a theme."""
        for plot in self.figures.values():
            figures.paint_matrix(plot, theme)
