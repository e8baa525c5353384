"""Drift atlas: the maps of all heads at a glance, every token in the colour of its drift.

In: a `CompareScene`. Out: one picture made on the server, and a rectangle a head that tells about it and chooses it. Where
the tuned tokens lie on the base's maps, the places of either checkpoint can be looked at.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from html import escape
from typing import TYPE_CHECKING, Any

import numpy as np
from bokeh.events import DoubleTap, Tap
from bokeh.layouts import column, row
from bokeh.models import Button, ColumnDataSource, Div, InlineStyleSheet, RadioButtonGroup, TapTool

from qkspace.app import compare_select as chosen
from qkspace.app import compare_words, drift, drift_atlas, figures_atlas
from qkspace.app.compare_state import CompareScene, CompareState
from qkspace.app.figures import renderer, tool_of
from qkspace.app.language import say
from qkspace.app.loop import beside, held
from qkspace.app.raster import Extent
from qkspace.app.style import CARD_CSS, FONT, PANEL, THEMES, WIDGET_CSS
from qkspace.app.views.atlas import Picture
from qkspace.schema import IntArray, QKSpaceError

if TYPE_CHECKING:
    from bokeh.plotting import figure

    from qkspace.comparison.reader import Comparison

LEAST_CORNER = 40  # pixels of a cell under which the drift of its head does not fit into its corner
LEAST_VALUE = 76  # under which the value of the chosen measure does not fit beside the head's name
LEGEND_CSS = """
:host { font-size: 12px; width: auto; }
.bk-clearfix { width: auto; }
.legend { display: flex; flex-wrap: wrap; align-items: center; gap: 2px 12px; }
.legend h2 { margin: 0; }
.ramp { display: inline-block; width: 150px; }
.ramp .scale { margin: 0; height: 9px; }
.ramp .ends { display: flex; justify-content: space-between; font-size: 11px; line-height: 1.2; color: var(--muted); }
.hatch { border-radius: 2px; background: repeating-linear-gradient(135deg, var(--muted) 0 1px, var(--page) 1px 4px); }
"""
TOOLTIP = f"""
<div style="width:max-content;max-width:320px;font:13px/1.45 {FONT};background:var(--card,#fff);color:var(--ink,#1D2430);
 margin:-6px;padding:8px 11px;border-radius:3px;white-space:pre-line"><b>@told</b>\n@said
<span style="color:var(--muted,#5D6778)">@hint</span></div>
"""


class DriftAtlasView:
    """All heads of the base side by side, in the model's order or by how much they changed."""

    def __init__(self, comparison: Comparison, state: CompareState, change: Callable[..., None]) -> None:
        """Make the figure and its row of choices."""
        self.comparison, self.change, self.state = comparison, change, state
        self.scene: CompareScene | None = None
        self.last: tuple[Any, ...] = ()
        self.hits: IntArray | None = None  # what was searched for last, and where it stands
        self.hit_rows: IntArray | None = None
        self.worth: drift_atlas.Worth | None = None  # of the maps at the tuned places, once it has been read
        self.worth_of: tuple[str, str] = ("", "")  # checkpoint and method
        self.sources = {name: ColumnDataSource() for name in ("mosaic", "cells", "here", "quiet", "unfit")}
        self.figure = _figure(self.sources, state.theme)
        self.picture = Picture(self.figure, self.sources, self._draw, self._open)
        self.figure.on_event(Tap, self._tap)
        self.figure.on_event(DoubleTap, self._double_tap)
        self.says = Div(
            visible=False, stylesheets=[InlineStyleSheet(css=CARD_CSS)], margin=0, name="compare_atlas_says"
        )
        self.root = column(
            *(self._make_choices(), self.says, self.figure),
            sizing_mode="stretch_both",
            styles={**PANEL, "padding": "6px 8px"},
            margin=0,
        )

    def _make_choices(self) -> Any:
        common: dict[str, Any] = {"stylesheets": [InlineStyleSheet(css=WIDGET_CSS)], "margin": 0}
        t = self.say = partial(say, self.state.language)
        labels = [t("compare_atlas_by_place"), t("compare_atlas_by_measure")]
        self.order = RadioButtonGroup(labels=labels, active=0, name="compare_atlas_order", **common)
        labels = [t("compare_atlas_at_base"), t("compare_atlas_at_tuned")]
        self.places = RadioButtonGroup(labels=labels, active=0, name="compare_atlas_places", **common)
        for each in (self.order, self.places):
            each.on_change("active", lambda _attr, _old, _new: self._redraw())
        self.open = Button(label="", name="compare_atlas_open", **common)
        self.open.on_click(lambda _event: self._open(self.state.layer, self.state.head))
        sheet = InlineStyleSheet(css=CARD_CSS + LEGEND_CSS)
        self.legend = Div(name="compare_atlas_legend", stylesheets=[sheet], margin=0)
        line = {"gap": "6px 12px", "align-items": "center", "flex-wrap": "wrap", "padding-bottom": "4px"}
        parts = (self.order, self.places, self.open, self.legend)
        return row(*parts, sizing_mode="stretch_width", styles=line, margin=0)

    # ---------------------------------------------------------------- what the visitor does

    def _tap(self, event: Tap) -> None:
        found = self.picture.at(event.x, event.y)
        if found is not None:
            self.change(layer=found[0], head=found[1])

    def _double_tap(self, event: DoubleTap) -> None:
        found = self.picture.at(event.x, event.y)
        if found is not None:
            self._open(*found)

    def _open(self, layer: int, head: int) -> None:
        self.change(page="maps", layer=layer, head=head)

    def _redraw(self) -> None:
        """Draw again after a choice of this view alone."""
        if self.scene is not None:
            self.show(self.scene)

    # ---------------------------------------------------------------- what is shown

    def show(self, scene: CompareScene) -> None:
        """Draw the atlas where something of it has changed; what one has zoomed in on stays in view."""
        self.scene, state = scene, scene.state
        order_changed = self._order(self.state) != self._order(state)
        self.state = state
        try:
            method, common = drift_atlas.method_of(self.comparison, state)
        except QKSpaceError as error:
            self.says.text, self.says.visible = f'<p class="poor">{escape(str(error))}</p>', True
            self.figure.visible = False
            return
        self.places.visible = common
        self.open.label = self.say("compare_atlas_open", name=compare_words.head_name(state.layer, state.head))
        asked = (state.checkpoint, method) if common and self.places.active else ("", "")
        if asked != self.worth_of:
            self.worth_of, self.worth = asked, None
        now = (state.checkpoint, state.method, state.measure, state.theme, self.order.active, self.places.active)
        if now != self.last or scene.hits is not self.hits:
            is_laid_out = bool(self.last) and self.last[4] == self.order.active and not order_changed
            self.last, self.hits, self.hit_rows = now, scene.hits, drift_atlas.hit_rows(scene)
            self._draw(self.picture.view if is_laid_out else None)
        self.picture.show_here(state.layer, state.head)
        if self.worth is None and asked[0] and self.root.document is not None:
            self._read_worth(*asked)

    def _read_worth(self, label: str, method: str) -> None:
        """Read how well the maps fit the tuned attention, a file a head, beside the server's loop where there is one."""

        def work() -> str:
            drift_atlas.worth_of(self.comparison, label, method)  # kept, so that it is not read again
            return ""

        def tell(_text: str) -> None:
            if (label, method) == self.worth_of and self.worth is None:
                self.worth = drift_atlas.worth_of(self.comparison, label, method)
                held(self.root.document, self._say)

        beside(self.root.document, work, tell)

    def _order(self, state: CompareState) -> tuple[str, str]:
        """Return what the places of the cells depend on."""
        return (state.checkpoint, state.measure) if self.order.active else ("", "")

    def _draw(self, view: Extent | None = None) -> None:
        """Draw all cells, or those in view, finer."""
        if self.scene is None:
            return
        state, table = self.state, self.comparison.head_drift(self.state.checkpoint)
        order = drift.order(table, state.measure) if self.order.active else None
        layout = figures_atlas.fit(table, *self.picture.frame, order)
        mosaic = drift_atlas.mosaic(
            self.comparison,
            state,
            side=chosen.SIDES[self.places.active],
            hits=self.hit_rows,
            view=view,
            finer=self.picture.finer(view),
            **layout,
        )
        self.picture.put(mosaic, view, matrix=order is None, language=state.language)
        self._say()
        quiet, boxes = drift_atlas.quiet_cells(table, mosaic), figures_atlas.cell_boxes(mosaic)
        self.sources["quiet"].data = {name: np.asarray(boxes[name])[quiet] for name in ("x", "y", "w", "h")}
        self.picture.show_here(state.layer, state.head)

    def _say(self) -> None:
        """Write what the cells and the legend say."""
        mosaic, state = self.picture.mosaic, self.state
        if mosaic is None:
            return
        boxes = figures_atlas.cell_boxes(mosaic)
        said = drift_atlas.cells_words(self.comparison, state, mosaic, self.worth)
        corner = said.pop("js") if mosaic.cell_px >= LEAST_CORNER else [""] * len(boxes["name"])
        value = said.pop("value")
        if mosaic.cell_px >= LEAST_VALUE:
            boxes["name"] = [f"{name}  {text}".rstrip() for name, text in zip(boxes["name"], value, strict=True)]
        at = {"left": mosaic.cells["x0"] + 1, "under": mosaic.cells["y1"] - 1}
        hint = [self.say("compare_atlas_hint")] * len(corner)
        self.sources["cells"].data = {**boxes, **said, **at, "corner": corner, "hint": hint}
        unfit, marks = drift_atlas.unfit_cells(self.worth, mosaic)
        if mosaic.cell_px < LEAST_CORNER:
            marks = ["!"] * len(marks)
        corners = {"left": mosaic.cells["x0"][unfit] + 1, "over": mosaic.cells["y0"][unfit] + 1}
        self.sources["unfit"].data = {**corners, "mark": marks}
        self.legend.text = drift_atlas.legend(self.comparison, state, self.hit_rows, self.worth)

    def paint(self, theme: str) -> None:
        """Take on the colours of a theme; the picture has its own."""
        _paint(self.figure, theme)


def _figure(sources: dict[str, ColumnDataSource], theme: str) -> figure:
    """Return the figure of the explorer's atlas with hatched ground below the noise floor and numbers in the corners.

    sources: as for `figures_atlas.atlas_figure`, "cells" with left, under, corner, told, said and hint too; "quiet" (x, y, w,
    h); and "unfit" (left, over, mark) of maps that are poor for the tuned attention.
    """
    plot = figures_atlas.atlas_figure(sources, theme, tooltip=TOOLTIP)
    plot.remove_tools(tool_of(plot, TapTool))  # the chosen head is framed, and not what was tapped
    plot.name = "drift_atlas"
    plot.rect(
        *("x", "y", "w", "h"),
        source=sources["quiet"],
        line_color=None,
        hatch_pattern="right_diagonal_line",
        hatch_scale=9,
        hatch_weight=0.7,
        hatch_alpha=0.22,
        level="underlay",
        name="quiet",
    )
    plot.text(
        *("left", "under", "corner"),
        source=sources["cells"],
        text_font_size="10px",
        text_font={"value": "Inter, Segoe UI, Noto Sans, sans-serif"},
        text_baseline="top",
        background_fill_alpha=0.85,
        padding=1,
        name="corners",
    )
    plot.text(
        *("left", "over", "mark"),
        source=sources["unfit"],
        text_font_size="10px",
        text_font={"value": "Inter, Segoe UI, Noto Sans, sans-serif"},
        text_font_style="bold",
        text_baseline="bottom",
        background_fill_alpha=0.85,
        padding=1,
        name="unfit",
    )
    _paint(plot, theme)
    return plot


def _paint(plot: figure, theme: str) -> None:
    figures_atlas.paint_atlas(plot, theme)
    colours = THEMES[theme]
    quiet, corner = renderer(plot, "quiet").glyph, renderer(plot, "corners").glyph
    quiet.fill_color, quiet.hatch_color = colours["page"], colours["muted"]
    corner.text_color, corner.background_fill_color = colours["ink"], colours["plot"]
    unfit = renderer(plot, "unfit").glyph
    unfit.text_color, unfit.background_fill_color = colours["poor"], colours["plot"]
