"""Atlas: the maps of all heads at a glance.

In: a `Scene`. Out: one picture made on the server, and a rectangle a head that tells about it and opens it. Zooming in
draws what is in view finer, and at last opens the head itself.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

from bokeh.events import RangesUpdate, Reset, Tap
from bokeh.layouts import column, row
from bokeh.models import Button, CheckboxGroup, ColumnDataSource, Div, InlineStyleSheet, NumericInput, Select

from qkspace.app import atlas, figures_atlas
from qkspace.app.language import say
from qkspace.app.raster import Extent
from qkspace.app.select import Scene, Shown
from qkspace.app.state import Language, State
from qkspace.app.style import CARD_CSS, PANEL, WIDGET_CSS

Change = Callable[..., None]
FRAME = (640, 560)  # pixels, until the browser says how large the frame is
FINER = 4  # most pixels to a pixel of a cell
ZOOMED = 0.99  # share of the atlas across the view below which it is zoomed in
OPENS = 0.95  # share of a cell across the view below which zooming in opens the head


class Picture:
    """The figure of a mosaic, as large as its frame; what is in view is drawn finer, and at last opened.

    draw: make the mosaic anew, all of it or what is in view, and `put` it; opens: a layer and a head.
    """

    def __init__(
        self,
        figure: Any,
        sources: dict[str, ColumnDataSource],
        draw: Callable[[Extent | None], None],
        opens: Callable[[int, int], None],
    ) -> None:
        """Listen to the figure, which `figures_atlas.atlas_figure` has made; nothing is seen until its size is known."""
        self.figure, self.sources, self.draw, self.opens = figure, sources, draw, opens
        self.mosaic: atlas.Mosaic | None = None
        self.view: Extent | None = None  # what is drawn, where one has zoomed in
        self.frame = FRAME
        self.cells = [each for each in figure.renderers if each.name != "titles"]
        for each in self.cells:  # until the browser says how large the frame is, they would lie wrong
            each.visible = False
        figure.on_event(RangesUpdate, self._zoom)
        figure.on_event(Reset, lambda _event: draw(None))
        self.size: dict[str, int | None] = {"inner_width": None, "inner_height": None}  # until the browser says it
        for name in self.size:
            figure.on_change(name, self._resized)

    def at(self, x: float | None, y: float | None) -> tuple[int, int] | None:
        """Return layer and head of the cell at a place of the figure."""
        if x is None or y is None or self.mosaic is None:
            return None
        cells = self.mosaic.cells
        hit = (cells["x0"] <= x) & (x <= cells["x1"]) & (cells["y0"] <= y) & (y <= cells["y1"])
        at = hit.nonzero()[0]
        return (int(cells["layer"][at[0]]), int(cells["head"][at[0]])) if len(at) else None

    def _zoom(self, event: RangesUpdate) -> None:
        """Draw what is in view finer; a cell that fills the view is opened."""
        if None in (event.x0, event.x1, event.y0, event.y1) or self.mosaic is None:
            return
        view = Extent(float(event.x0), float(event.x1), float(event.y0), float(event.y1))
        if view.x1 - view.x0 < OPENS * self.mosaic.cell_px:
            found = self.at((view.x0 + view.x1) / 2, (view.y0 + view.y1) / 2)
            if found is not None:
                self.draw(None)
                self.opens(*found)
                return
        self.draw(view)

    def _resized(self, attr: str, _old: object, new: int) -> None:
        self.size[attr] = new
        if None in (self.size["inner_width"], self.size["inner_height"]):
            return
        frame = (int(self.size["inner_width"] or 0), int(self.size["inner_height"] or 0))
        for each in self.cells:
            each.visible = True
        if min(frame) > 50 and frame != self.frame:
            self.frame = frame
            if not self._is_zoomed():  # there the frame changes with the labels that are in view
                self.draw(None)

    def _is_zoomed(self) -> bool:
        """Tell whether less than the whole atlas is in view."""
        x_range = self.figure.x_range
        if x_range.reset_end is None:
            return False
        return bool(x_range.end - x_range.start < ZOOMED * (x_range.reset_end - x_range.reset_start))

    def finer(self, view: Extent | None) -> int:
        """Return how many pixels of the image a pixel of a cell has, of use where one has zoomed in."""
        return 1 if view is None else max(1, min(FINER, round(self.frame[0] / max(view.x1 - view.x0, 1))))

    def put(self, mosaic: atlas.Mosaic, view: Extent | None, *, matrix: bool, language: Language) -> None:
        """Show a mosaic; matrix: layer down and head across. What was drawn finer lies where it was."""
        self.mosaic, self.view = mosaic, view
        figures_atlas.label_axes(self.figure, mosaic, matrix=matrix, language=language)
        self.sources["mosaic"].data = figures_atlas.mosaic_data(mosaic)
        if view is None:
            across, up = figures_atlas.frame_ranges(mosaic, *self.frame)
            x_range, y_range = self.figure.x_range, self.figure.y_range
            (x_range.start, x_range.end), (y_range.start, y_range.end) = across, up
            x_range.reset_start, x_range.reset_end, y_range.reset_start, y_range.reset_end = *across, *up

    def show_here(self, layer: int, head: int) -> None:
        """Frame the cell of the chosen head."""
        if self.mosaic is not None:
            self.sources["here"].data = figures_atlas.here_data(self.mosaic, layer, head)


class AtlasView:
    """All heads side by side, in the model's order or sorted by a score or statistic."""

    def __init__(self, shown: Shown, state: State, change: Change) -> None:
        """Make the figure and its row of choices."""
        self.shown, self.change, self.state = shown, change, state
        self.scene: Scene | None = None
        self.last: tuple[Any, ...] = ()
        self.sources = {name: ColumnDataSource() for name in ("mosaic", "cells", "here")}
        self.figure = figures_atlas.atlas_figure(self.sources, state.theme)
        self._make_choices(shown, state)
        self.figure.on_event(Tap, self._tap)
        self.picture = Picture(self.figure, self.sources, self._draw, self._open)
        self.root = column(
            self.choices, self.figure, sizing_mode="stretch_both", styles={**PANEL, "padding": "6px 8px"}, margin=0
        )

    def _make_choices(self, shown: Shown, state: State) -> None:
        sheet = InlineStyleSheet(css=WIDGET_CSS)
        common: dict[str, Any] = {"stylesheets": [sheet], "margin": 0}
        t = self.say = partial(say, state.language)
        labels = atlas.order_labels(atlas.atlas_table(shown, state), state.language)
        options = [("", t("order_place")), *labels.items()]
        self.order = Select(
            title=t("order"), value=state.order.lstrip("-"), options=options, width=270, name="order", **common
        )
        self.order.on_change("value", lambda _attr, _old, new: self._sort(new))
        self.direction = Button(label="", width=34, name="direction", **(common | {"align": "end"}))
        self.direction.on_click(lambda _event: self._turn_round())
        self.least = NumericInput(title=t("least"), value=state.least, mode="float", width=100, name="least", **common)
        self.least.on_change("value", lambda _attr, _old, new: self.change(least=new))
        self.faded = CheckboxGroup(labels=[t("fade_poor")], active=[], name="fade_poor", **(common | {"align": "end"}))
        self.faded.on_change("active", lambda _attr, _old, _new: self._draw())
        card = InlineStyleSheet(css=CARD_CSS)  # which is as wide as its place; this one stands at the end of a row
        self.count = Div(name="count", stylesheets=[card], styles={"width": "auto"}, margin=0, align="end")
        parts = (self.order, self.direction, self.least, self.faded, self.count)
        self.choices = row(
            *parts, sizing_mode="stretch_width", styles={"gap": "10px", "padding-bottom": "4px"}, margin=0
        )

    # ---------------------------------------------------------------- what the visitor does

    def _sort(self, by: str) -> None:
        if by != self.state.order.lstrip("-"):  # else the page said so, and its direction stays
            self.change(order=f"-{by}" if by in atlas.LOW_FIRST else by, least=None)

    def _turn_round(self) -> None:
        order = self.state.order
        if order:
            self.change(order=order[1:] if order.startswith("-") else f"-{order}")

    def _tap(self, event: Tap) -> None:
        found = self.picture.at(event.x, event.y)
        if found is not None:
            self.change(page="map", layer=found[0], head=found[1], selected=self.state.selected)

    def _open(self, layer: int, head: int) -> None:
        self.change(page="map", layer=layer, head=head)

    # ---------------------------------------------------------------- what is shown

    def show(self, scene: Scene) -> None:
        """Draw the atlas where something of it has changed."""
        state = scene.state
        self.scene, self.state = scene, state
        self.order.value, self.least.value = state.order.lstrip("-"), state.least
        self.direction.label = "↑" if state.order.startswith("-") else "↓"
        self.direction.disabled = self.least.disabled = not state.order
        hits = None if scene.hits is None else scene.hits.query
        now = (state.method, state.colour, state.theme, state.order, state.least, hits)
        if now != self.last:
            self.last = now
            self._draw()
        self.picture.show_here(state.layer, state.head)

    def _draw(self, view: Extent | None = None) -> None:
        """Draw all cells, or those in view, finer."""
        if self.scene is None:
            return
        state = replace(self.state, dims=2)
        table = atlas.atlas_table(self.shown, state)
        order = atlas.chosen_heads(table, state)
        mosaic = atlas.mosaic(
            self.shown,
            state,
            **figures_atlas.fit(table, *self.picture.frame, order),
            hits=self.scene.hit_rows,
            fade_unbelieved=bool(self.faded.active),
            view=view,
            finer=self.picture.finer(view),
        )
        self.picture.put(mosaic, view, matrix=order is None, language=state.language)
        if view is None:
            self.sources["cells"].data = figures_atlas.cells_data(mosaic, table, state.language)
            n, total = len(mosaic.cells["layer"]), len(table)
            text = "" if n == total else self.say("heads_shown", n=n, total=total)
            self.count.text = f'<span class="small muted">{text}</span>'
        self.picture.show_here(state.layer, state.head)

    def paint(self, theme: str) -> None:
        """Take on the colours of a theme."""
        figures_atlas.paint_atlas(self.figure, theme)
