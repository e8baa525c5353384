"""Figures of heads: panels in which every head is a dot.

In: panels (`heads_data`) and how dots look (`heads_look`). Out: Bokeh pictures, whose dots tell about a head and open it. No
data logic here.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pandas as pd
from bokeh.layouts import column, row
from bokeh.models import (
    BasicTicker,
    BasicTickFormatter,
    BoxZoomTool,
    ColumnDataSource,
    FactorRange,
    FixedTicker,
    HoverTool,
    LayoutDOM,
    NumeralTickFormatter,
    PanTool,
    PlainText,
    Range1d,
    ResetTool,
    SaveTool,
    Spacer,
    TapTool,
    WheelZoomTool,
)
from bokeh.plotting import figure

from qkspace.app.figures import paint, renderer, speak, tool_of
from qkspace.app.heads_data import Panel, by_layer_of, head_names, per_cent
from qkspace.app.heads_look import Look, sizes
from qkspace.app.language import say
from qkspace.app.state import Language
from qkspace.app.style import FONT, THEMES, TOOLBAR_CSS
from qkspace.schema import FloatArray, IntArray

Opens = Callable[[int, int], None]
SPREAD = 0.62  # of the room between two layers, over which the heads of a layer stand side by side
MANY = 200  # heads, whose dots would hide the lines
PANEL_PX = 150  # least height of a panel of several
BORDER, NAMED_BORDER = 50, 66  # left of a panel, for its numbers, and for the name of the axis too
TITLE_FONT = "Inter, Segoe UI, Noto Sans, Noto Sans CJK JP, sans-serif"
# Bokeh puts each value into a tooltip as text, never as HTML.
TOOLTIP = f"""
<div style="width:max-content;max-width:320px;font:13px/1.45 {FONT};background:var(--card,#fff);color:var(--ink,#1D2430);
 margin:-6px;padding:8px 11px;border-radius:3px;white-space:pre-line"><b>@name</b> <span
 style="color:var(--muted,#5D6778)">@said</span>\n@TIP</div>
"""
MOST_TIPS = 3  # heads that one tooltip tells of, where dots lie upon each other
STILL = {f"nonselection_{part}_alpha": value for part, value in (("fill", 0.9), ("line", 0.7))}  # a click fades nothing


class Dots:
    """Panels side by side; their dots share one source, so that what is chosen in one is chosen in all.

    root: to be laid out; figures: to be painted.
    """

    def __init__(
        self,
        heads: pd.DataFrame,
        panels: Sequence[Panel],
        language: Language,
        opens: Opens,
        *,
        across: int | None = None,
    ) -> None:
        """Make the figures; heads: layer and head of each row; opens: what a click on a dot does."""
        self.heads, self.panels, self.language = heads, list(panels), language
        layer, head = (heads[name].to_numpy(dtype=np.int64) for name in ("layer", "head"))
        data: dict[str, Any] = {"layer": layer, "head": head, "name": head_names(layer, head)}
        n = len(layer)
        several = len(self.panels) > 1
        self.size = dot_size(n, several=several)
        data |= {"colour": ["#888888"] * n, "marker": ["circle"] * n, "said": [""] * n, "size": [self.size] * n}
        for i, panel in enumerate(self.panels):
            data |= self._columns(i, panel, layer, head)
        self.dots, self.here = ColumnDataSource(data), ColumnDataSource()
        self.dots.selected.on_change("indices", lambda _attr, _old, new: self._opened(new, opens))
        self.mark(-1, -1)
        self.columns = across or columns_of(len(self.panels))
        self.figures = [self._figure(i, panel, several=several) for i, panel in enumerate(self.panels)]
        self.root = in_rows(self.figures, self.columns)

    def _columns(self, i: int, panel: Panel, layer: IntArray, head: IntArray) -> dict[str, Any]:
        """Return what the source holds for one panel: places, ends of intervals, and what tooltips say."""
        x = beside(layer, head) if panel.x is None else panel.x
        found = {f"x{i}": x, f"y{i}": panel.y, f"tip{i}": tips(panel, layer, self.language)}
        if panel.low is not None and panel.high is not None:
            found |= {f"low{i}": panel.low, f"high{i}": panel.high}
        return found

    def _opened(self, indices: Sequence[int], opens: Opens) -> None:
        if not indices:
            return
        at = int(indices[-1])  # which lies on top
        self.dots.selected.indices = []
        opens(int(self.heads["layer"].iloc[at]), int(self.heads["head"].iloc[at]))

    def _figure(self, i: int, panel: Panel, *, several: bool) -> figure:
        plot = panel_figure(f"heads_panel_{i}", several=several, is_map=panel.is_map)
        if panel.title:
            titled(plot, panel.title)
        if not panel.is_map:
            self._axes(plot, i, panel, several=several)
            self._lines(plot, panel)
        if panel.low is not None:
            plot.segment(
                f"x{i}", f"low{i}", f"x{i}", f"high{i}", source=self.dots, line_alpha=0.35, name="intervals", **NO_FADE
            )
        dots = plot.scatter(
            *(f"x{i}", f"y{i}"),
            source=self.dots,
            marker="marker",
            size="size",
            fill_color="colour",
            fill_alpha=0.9,
            line_alpha=0.7,
            line_width=0.6,
            name="dots",
            **STILL,
        )
        plot.scatter(
            f"x{i}",
            f"y{i}",
            source=self.here,
            marker="circle",
            size=self.size + 8,
            fill_alpha=0,
            line_width=2.5,
            name="here",
        )
        tip = TOOLTIP.replace("@TIP", f"@tip{i}")
        plot.add_tools(
            HoverTool(renderers=[dots], tooltips=tip, limit=MOST_TIPS, point_policy="snap_to_data", visible=False),
            TapTool(renderers=[dots], visible=False),
        )
        speak(plot, self.language)
        return plot

    def _axes(self, plot: figure, i: int, panel: Panel, *, several: bool) -> None:
        n_layers = int(self.heads["layer"].max()) + 1
        if panel.x is None:
            plot.x_range = Range1d(-0.6, n_layers - 0.4)
            step = max(1, math.ceil(n_layers / (12 if several else 16)))
            plot.xaxis.ticker = FixedTicker(ticks=list(range(0, n_layers, step)))
            plot.x_range.bounds = (-1, n_layers)
        last_row = i + self.columns >= len(self.panels)
        x_name = say(self.language, "axis_layer") if panel.x is None else panel.x_name
        plot.xaxis.axis_label = PlainText(text=x_name) if last_row else None
        if i % self.columns == 0:
            plot.yaxis.axis_label, plot.min_border_left = PlainText(text=panel.y_name), NAMED_BORDER
        low, high = span_of(panel)
        plot.y_range = Range1d(low, high)
        plot.yaxis.formatter = BasicTickFormatter()
        if panel.is_share:
            plot.yaxis.formatter = NumeralTickFormatter(format=share_format(high))
        if several:
            plot.yaxis.ticker = BasicTicker(desired_num_ticks=4)
        if panel.x_is_share:
            plot.xaxis.formatter = NumeralTickFormatter(format="0 %")

    def _lines(self, plot: figure, panel: Panel) -> None:
        """Draw the mean of each layer and what equal attention would give."""
        if panel.x is not None:
            plot.hspan(y=[0.0], line_width=1, line_dash="dashed", name="uniform")
            return
        layer = self.heads["layer"].to_numpy()
        x = np.arange(int(layer.max()) + 1)
        level = "glyph" if len(layer) <= MANY else "annotation"  # over so many dots
        if panel.mean:
            plot.line(x, by_layer_of(layer, panel.y), line_width=2, line_alpha=0.75, level=level, name="mean")
        if panel.uniform is not None and np.isfinite(panel.uniform).any():
            ends = np.stack([x - 0.5, x + 0.5], axis=1).ravel()  # so that one layer alone has a line too
            plot.line(
                ends, np.repeat(panel.uniform, 2), line_width=1.5, line_dash="dashed", level=level, name="uniform"
            )

    def look(self, look: Look) -> None:
        """Give the dots colours and shapes."""
        parts = {"colour": look.colour, "marker": look.marker, "said": look.said, "size": sizes(look, self.size)}
        self.dots.data = dict(self.dots.data) | parts

    def mark(self, layer: int, head: int) -> None:
        """Put a ring around the chosen head."""
        is_it = (self.heads["layer"] == layer) & (self.heads["head"] == head)
        at = np.flatnonzero(is_it.to_numpy())
        places = [f"{axis}{i}" for i in range(len(self.panels)) for axis in "xy"]
        self.here.data = {name: np.asarray(self.dots.data[name])[at] for name in places}

    def paint(self, theme: str) -> None:
        """Take on the colours of a theme."""
        for plot in self.figures:
            paint_panel(plot, theme)


NO_FADE = {"nonselection_line_alpha": 0.35, "selection_line_alpha": 0.35}


def beside(layer: IntArray, head: IntArray) -> FloatArray:
    """Return where heads stand across: at their layer, side by side in the order of their numbers."""
    n = pd.Series(head).groupby(layer).transform("max").to_numpy() + 1
    return np.asarray(layer + SPREAD * ((head + 0.5) / n - 0.5), dtype=np.float64)


def tips(panel: Panel, layer: IntArray, language: Language) -> list[str]:
    """Return what the tooltip of each head says of a panel."""
    if panel.is_map:
        return [""] * len(panel.y)

    def said(value: float) -> str:
        return per_cent(value) if panel.is_share else f"{value:.3g}"

    found = [f"{panel.title or panel.y_name}: {said(value)}" for value in panel.y.tolist()]
    if panel.low is not None and panel.high is not None:
        ends = zip(found, panel.low.tolist(), panel.high.tolist(), strict=True)
        found = [
            f"{text} ({say(language, 'tip_interval', low=said(low), high=said(high))})" for text, low, high in ends
        ]
    if panel.x is not None:
        across = [per_cent(x) if panel.x_is_share else f"{x:.3g}" for x in panel.x.tolist()]
        found = [f"{text}\n{panel.x_name}: {x}" for text, x in zip(found, across, strict=True)]
    elif panel.uniform is not None:
        equal = panel.uniform[layer]
        found = [
            text if np.isnan(of) else f"{text}\n{say(language, 'tip_dashed', value=said(of))}"
            for text, of in zip(found, equal, strict=True)
        ]
    return found


def span_of(panel: Panel) -> tuple[float, float]:
    """Return the ends of the axis of y: 0 and all values, with room for the ring around a dot that lies at an end."""
    every = [panel.y, *(each for each in (panel.low, panel.high, panel.uniform) if each is not None)]
    values = np.concatenate([each[np.isfinite(each)] for each in every])
    low, high = (float(values.min()), float(values.max())) if len(values) else (0.0, 1.0)
    low, high = min(low, 0.0), max(high, 0.0)
    room = 0.11 * (high - low or 1.0)
    return low - room, high + room


def share_format(high: float) -> str:
    """Return how an axis of shares up to `high` is written, with so many decimals that no two ticks read alike."""
    decimals = int(np.clip(math.ceil(-math.log10(max(high, 1e-9)) - 1.25), 0, 4))
    return f"0.{'0' * decimals} %" if decimals else "0 %"


def columns_of(n: int) -> int:
    """Return how many of n panels stand side by side."""
    return next((columns for most, columns in ((1, 1), (2, 2), (3, 3), (4, 2), (9, 3)) if n <= most), 4)


def in_rows(figures: Sequence[LayoutDOM], across: int) -> LayoutDOM:
    """Lay figures out in rows, all of one size."""
    filled = [*figures, *(Spacer(sizing_mode="stretch_both") for _ in range(-len(figures) % across))]
    return stacked(*(side_by_side(*filled[i : i + across]) for i in range(0, len(filled), across)))


def side_by_side(*roots: LayoutDOM, gap: int = 0) -> LayoutDOM:
    """Lay things out beside each other, as high as the highest must be."""
    high, wide = max(root.min_height or 0 for root in roots), sum(root.min_width or 0 for root in roots)
    return row(
        *roots, sizing_mode="stretch_both", min_height=high, min_width=wide, styles={"gap": f"{gap}px"}, margin=0
    )


def stacked(*roots: LayoutDOM) -> LayoutDOM:
    """Lay things out one above the other; where they do not fit, what holds them scrolls."""
    high, wide = sum(root.min_height or 0 for root in roots), max(root.min_width or 0 for root in roots)
    return column(*roots, sizing_mode="stretch_both", min_height=high, min_width=wide, margin=0)


def dot_size(n: int, *, several: bool) -> float:
    """Return how large dots are, in pixels: the more heads, the smaller."""
    return max(4.0, (8.5 if several else 10.5) - 1.6 * math.log10(max(n, 10) / 10))


def panel_figure(
    name: str, *, several: bool = False, is_map: bool = False, axis_above: bool = False, rows: Sequence[str] = ()
) -> figure:
    """Return an empty figure; one of several has no bar of tools.

    axis_above: the axis of x is above what may be higher than the window. rows: names, where y is no number.
    """
    tools = [] if several else [PanTool(), BoxZoomTool(), WheelZoomTool(), ResetTool(), SaveTool()]
    plot = figure(
        sizing_mode="stretch_both",
        match_aspect=is_map,
        x_axis_location="above" if axis_above else "below",
        tools=tools,
        toolbar_location=None if several else "above",
        min_width=140,
        min_height=PANEL_PX,
        min_border_left=8 if is_map else BORDER,
        min_border_right=8,
        margin=0,
        name=name,
        **({"y_range": FactorRange(factors=[*reversed(rows)], range_padding=0.02)} if rows else {}),
    )
    plot.toolbar.logo = None
    plot.toolbar.stylesheets = [TOOLBAR_CSS]
    if not several:
        plot.toolbar.active_scroll = tool_of(plot, WheelZoomTool)
    if is_map:
        plot.axis.visible = plot.grid.visible = False
    return plot


def titled(plot: figure, title: str) -> None:
    """Write a title as it stands: it may be of the corpus."""
    plot.title.text = PlainText(text=title)
    plot.title.text_font, plot.title.text_font_size = TITLE_FONT, "12px"
    plot.title.standoff = 4


COLOURS = {"mean": "ink", "uniform": "muted", "here": "poor", "intervals": "muted"}


def paint_panel(plot: figure, theme: str) -> None:
    """Give a figure of heads the colours of a theme."""
    paint(plot, theme)
    colours = THEMES[theme]
    plot.title.text_color = colours["ink"]
    plot.xgrid.grid_line_color = None
    named = {each.name for each in plot.renderers}
    for name in named & COLOURS.keys():
        renderer(plot, name).glyph.line_color = colours[COLOURS[name]]
    if "intervals" in named:
        for which in ("selection_glyph", "nonselection_glyph"):
            getattr(renderer(plot, "intervals"), which).line_color = colours["muted"]
    if "dots" in named:
        for which in ("glyph", "nonselection_glyph", "selection_glyph"):
            if (glyph := getattr(renderer(plot, "dots"), which)) not in (None, "auto"):
                glyph.line_color = colours["card"]
