"""Figures of heads' bars: what the best heads and probes reach, with intervals and baselines.

In: `Bars`. Out: Bokeh pictures, whose rows open the head that they are of. No data logic here.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from unicodedata import east_asian_width

import numpy as np
from bokeh.models import (
    ColumnDataSource,
    HoverTool,
    LayoutDOM,
    NumeralTickFormatter,
    PlainText,
    Range1d,
    TapTool,
)
from bokeh.plotting import figure

from qkspace.app.colours import KEY_COLOUR, QUERY_COLOUR
from qkspace.app.figures import paint, renderer, speak
from qkspace.app.figures_heads import TITLE_FONT, TOOLTIP, Opens, in_rows, panel_figure, titled
from qkspace.app.heads_data import Bars
from qkspace.app.heads_look import Look
from qkspace.app.language import say
from qkspace.app.state import Language
from qkspace.app.style import THEMES

ROW_PX = 21  # least height of a row
END, CLOSE, FAR = 1.5, 1.75, 2.75  # of the axis, so that there is room for what is said beside the rows
BESIDE = 1.03  # where words of dumbbells stand, in one column
WIDE, NARROW = 590, 300  # least width of a chart with such words, and of one of several
NAME_GAP, LETTER, WIDE_LETTER = 14, 6, 12  # pixels that names of rows take
NOTHING = {"nonselection_fill_alpha": 0.0, "selection_fill_alpha": 0.0}


class Rows:
    """One or several charts of rows; a click on a row opens its head."""

    def __init__(
        self, groups: Sequence[Bars], language: Language, opens: Opens, *, axis: str, across: int = 1, here: bool = True
    ) -> None:
        """Make the figures; axis: the name of the sentence that says what is measured; here: whether rows open heads."""
        self.language, self.groups, self.opens = language, list(groups), opens
        self.sources = [self._source(group) for group in self.groups]
        self.here = [ColumnDataSource({"y": []}) for _ in self.groups]
        several = len(self.groups) > 1
        self.left = max(map(name_width, (name for group in self.groups for name in group.name)), default=0)
        self.figures = [
            self._figure(i, group, say(language, axis), opens_heads=here, several=several)
            for i, group in enumerate(self.groups)
        ]
        self.root: LayoutDOM = in_rows(self.figures, across)

    def _source(self, bars: Bars) -> ColumnDataSource:
        worth = np.nanmax(np.stack([bars.value, np.nan_to_num(bars.high), np.nan_to_num(bars.base_high)]), axis=0)
        tips = [self._tip(bars, i) for i in range(len(bars.name))]
        data: dict[str, Any] = {
            "y": bars.name,
            "name": bars.name,
            "said": bars.says,
            "tip": tips,
            "at": np.full(len(worth), BESIDE) if np.isfinite(bars.base).any() else np.maximum(worth, 0),
            "is_base": bars.is_base,
            "colour": ["#888888"] * len(bars.name),
        }
        names = ("value", "low", "high", "base", "base_low", "base_high", "layer", "head")
        return ColumnDataSource(data | {name: getattr(bars, name) for name in names})

    def _tip(self, bars: Bars, i: int) -> str:
        text = f"{100 * bars.value[i]:.1f} %"
        if np.isfinite(bars.low[i]):
            low, high = (f"{100 * end:.1f} %" for end in (bars.low[i], bars.high[i]))
            text += f" ({say(self.language, 'tip_interval', low=low, high=high)})"
        if np.isfinite(bars.base[i]):
            text += f"\n{say(self.language, 'bar_baseline')}: {100 * bars.base[i]:.1f} %"
        return text

    def _figure(self, i: int, bars: Bars, axis: str, *, opens_heads: bool, several: bool) -> figure:
        plot = panel_figure(f"heads_rows_{i}", several=True, axis_above=not several, rows=bars.name)
        plot.min_height = max(120, ROW_PX * len(bars.name) + 46)
        is_compared = bool(np.isfinite(bars.base).any())
        plot.x_range = Range1d(0, FAR if is_compared else CLOSE if several else END)
        plot.min_width = WIDE if is_compared else NARROW
        plot.xaxis.formatter = NumeralTickFormatter(format="0 %")
        plot.xaxis.ticker = [0, 0.5, 1] if several else [0, 0.2, 0.4, 0.6, 0.8, 1]
        counted = axis if bars.n is None else say(self.language, "bar_n", axis=axis, n=bars.n)
        plot.xaxis.axis_label = PlainText(text=counted)
        if several:  # else panels in one column would begin at different places
            plot.min_border_left = self.left
        if bars.title:
            titled(plot, bars.title)
        source = self.sources[i]
        plot.hbar("y", 0.96, 0, 1, source=self.here[i], line_color=None, fill_alpha=0.13, name="here")
        if is_compared:
            self._dumbbells(plot, source)
        else:
            plot.hbar(
                "y", 0.62, 0, "value", source=source, line_color=None, fill_color="colour", name="bars", **_stay(0.85)
            )
            plot.segment("low", "y", "high", "y", source=source, line_width=2, name="interval", **_stay_line(1.0))
        plot.text(
            *("at", "y"),
            text="said",
            source=source,
            x_offset=8,
            text_baseline="middle",
            text_font={"value": TITLE_FONT},
            text_font_size="11px",
            name="said",
            nonselection_text_alpha=1.0,
        )
        row = plot.hbar(
            "y", 0.98, 0, plot.x_range.end, source=source, line_color=None, fill_alpha=0, name="row", **NOTHING
        )
        tip = TOOLTIP.replace("@TIP", "@tip")
        plot.add_tools(HoverTool(renderers=[row], tooltips=tip, point_policy="follow_mouse", visible=False))
        if opens_heads:
            plot.add_tools(TapTool(renderers=[row], visible=False))
            source.selected.on_change("indices", lambda _attr, _old, new: self._tapped(i, new))
        speak(plot, self.language)
        return plot

    def _dumbbells(self, plot: figure, source: ColumnDataSource) -> None:
        """Draw each row as two marks with their intervals, and how far they are apart."""
        plot.segment("base", "y", "value", "y", source=source, line_width=1, name="gain", **_stay_line(0.6))
        ends = {"base_interval": ("base_low", "base_high", 5.0, 0.35), "interval": ("low", "high", 3.0, 0.8)}
        for name, (low, high, width, alpha) in ends.items():
            plot.segment(low, "y", high, "y", source=source, line_width=width, name=name, **_stay_line(alpha))
        plot.scatter(
            *("base", "y"),
            source=source,
            marker="dash",
            angle=np.pi / 2,
            size=15,
            line_width=3,
            name="base",
            **_stay_line(1.0),
        )
        plot.scatter("value", "y", source=source, marker="circle", size=9, line_color=None, name="value", **_stay(1.0))

    def _tapped(self, i: int, indices: Sequence[int]) -> None:
        if not indices:
            return
        at, bars = int(indices[-1]), self.groups[i]
        self.sources[i].selected.indices = []
        if bars.layer[at] >= 0:
            self.opens(int(bars.layer[at]), int(bars.head[at]))

    def look(self, look: Look) -> None:
        """Nothing: rows have colours of their own."""

    def mark(self, layer: int, head: int) -> None:
        """Lay a ground under the rows of the chosen head."""
        for bars, source in zip(self.groups, self.here, strict=True):
            at = np.flatnonzero((bars.layer == layer) & (bars.head == head))
            source.data = {"y": [bars.name[i] for i in at]}

    def paint(self, theme: str) -> None:
        """Take on the colours of a theme."""
        own, other, colours = QUERY_COLOUR[theme], KEY_COLOUR[theme], THEMES[theme]
        for plot, source, bars in zip(self.figures, self.sources, self.groups, strict=True):
            paint(plot, theme)
            plot.title.text_color = colours["ink"]
            plot.ygrid.grid_line_color = None
            plot.yaxis.major_label_text_color = colours["ink"]
            plot.yaxis.major_tick_line_color = None
            source.data = dict(source.data) | {"colour": [other if base else own for base in bars.is_base]}
            named = {each.name for each in plot.renderers}
            _ink(plot, "interval", "line_color", colours["ink"] if "bars" in named else own)
            _ink(plot, "said", "text_color", colours["muted"])
            renderer(plot, "here").glyph.fill_color = colours["poor"]
            if "base" in named:
                _ink(plot, "value", "fill_color", own)
                _ink(plot, "gain", "line_color", colours["muted"])
                for name in ("base", "base_interval"):
                    _ink(plot, name, "line_color", other)


def name_width(name: str) -> int:
    """Return how much room the name of a row takes, in pixels: enough for its letters, and the ticks beside them."""
    return NAME_GAP + sum(WIDE_LETTER if east_asian_width(letter) in "WF" else LETTER for letter in name)


def _stay(alpha: float) -> dict[str, float]:
    """Return the looks by which a click fades no area."""
    return {f"{which}fill_alpha": alpha for which in ("", "selection_", "nonselection_")}


def _stay_line(alpha: float) -> dict[str, float]:
    return {f"{which}line_alpha": alpha for which in ("", "selection_", "nonselection_")}


def _ink(plot: figure, name: str, what: str, colour: str) -> None:
    """Colour what a renderer draws, also while a row is selected."""
    each = renderer(plot, name)
    for glyph in (each.glyph, each.selection_glyph, each.nonselection_glyph):
        if glyph not in (None, "auto"):
            setattr(glyph, what, colour)
