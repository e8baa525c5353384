"""Figures of profiles: attention by relative distance, of one head among those of its layer, or of all heads at once.

In: `Profiles`. Out: Bokeh pictures. No data logic here.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from bokeh.models import (
    ColorBar,
    ColumnDataSource,
    FixedTicker,
    HoverTool,
    LayoutDOM,
    LogColorMapper,
    NumeralTickFormatter,
    PlainText,
    Range1d,
    TapTool,
)
from bokeh.plotting import figure

from qkspace.app.figures import paint, renderer, speak
from qkspace.app.figures_drift import palette
from qkspace.app.figures_heads import TOOLTIP, Opens, panel_figure, titled
from qkspace.app.heads_curves import Profiles
from qkspace.app.heads_data import head_names
from qkspace.app.heads_look import Look
from qkspace.app.language import say
from qkspace.app.state import Language
from qkspace.app.style import THEMES

NEAR = 16  # tokens to either side that are shown at first
LEAST = 1e-3  # share of attention below which the heat map tells nothing apart
CLICK_PX = 6


class ProfileCurves:
    """The profile of the chosen head, bold, among those of its layer, with what equal attention would give."""

    def __init__(self, heads: pd.DataFrame, profiles: Profiles, language: Language, opens: Opens) -> None:
        """Make the figure; what lies beyond the last distance is not drawn, but told."""
        self.heads, self.profiles, self.language, self.opens = heads, profiles, language, opens
        self.names = head_names(heads["layer"].to_numpy(), heads["head"].to_numpy())
        self.said = [""] * len(heads)
        self.sources = {name: ColumnDataSource() for name in ("others", "own", "uniform", "points")}
        self.plot = self._figure()
        self.figures, self.root = [self.plot], self.plot
        self.rows: list[int] = []
        self.sources["others"].selected.on_change("indices", lambda _attr, _old, new: self._tapped(new))

    root: LayoutDOM

    def _figure(self) -> figure:
        plot = panel_figure("heads_profile")
        stay = {f"{which}_line_alpha": 0.4 for which in ("nonselection", "selection")}
        others = plot.multi_line(
            "xs",
            "ys",
            source=self.sources["others"],
            line_width=1.2,
            line_alpha=0.4,
            name="others",
            hover_line_alpha=1,
            **stay,
        )
        uniform = plot.line(
            "x", "y", source=self.sources["uniform"], line_width=1.5, line_dash="dashed", name="uniform"
        )
        plot.line("x", "y", source=self.sources["own"], line_width=3, name="own")
        points = plot.scatter("x", "y", source=self.sources["own"], size=7, name="own_points")
        plot.ray(x=[0], y=[0], length=0, angle=np.pi / 2, line_dash="dotted", line_width=1, name="zero")
        tip = TOOLTIP.replace("@TIP", "@tip")
        plot.add_tools(
            HoverTool(renderers=[others, points], tooltips=tip, line_policy="nearest", limit=1, visible=False),
            TapTool(renderers=[others], visible=False),
        )
        del uniform
        plot.xaxis.axis_label = PlainText(text=say(self.language, "axis_offset"))
        plot.yaxis.axis_label = PlainText(text=say(self.language, "axis_attention"))
        plot.yaxis.formatter = NumeralTickFormatter(format="0 %")
        inner = self.profiles.offset[1:-1]
        shown = self.profiles.attention[:, 1:-1].sum(axis=0) > 0
        low, high = max(-NEAR, int(inner[shown].min())), min(NEAR, int(inner[shown].max()))
        plot.x_range = Range1d(low - 0.5, high + 0.5)
        plot.x_range.reset_start, plot.x_range.reset_end = low - 0.5, high + 0.5
        speak(plot, self.language)
        return plot

    def look(self, look: Look) -> None:
        """Take over what each head is in words."""
        self.said = look.said

    def mark(self, layer: int, head: int) -> None:
        """Draw the chosen head, and thin the others of its layer."""
        number = self.heads["head"].to_numpy()
        of_layer = np.flatnonzero(self.heads["layer"].to_numpy() == layer)
        (own,) = of_layer[number[of_layer] == head]
        self.rows = [int(i) for i in of_layer if i != own]
        x, attention = self.profiles.offset[1:-1], self.profiles.attention
        self.sources["others"].data = {
            "xs": [x] * len(self.rows),
            "ys": [attention[i, 1:-1] for i in self.rows],
            "name": [self.names[i] for i in self.rows],
            "said": [self.said[i] for i in self.rows],
            "tip": [strongest(self.profiles, i, self.language) for i in self.rows],
        }
        y = attention[own, 1:-1]
        tips = [say(self.language, "profile_at", offset=f"{at:+d}" if at else "0", share=f"{100 * of:.1f} %")
                for at, of in zip(x.tolist(), y.tolist(), strict=True)]  # fmt: skip
        n = len(x)
        self.sources["own"].data = {
            "x": x,
            "y": y,
            "name": [self.names[own]] * n,
            "said": [self.said[own]] * n,
            "tip": tips,
        }
        self.sources["uniform"].data = {"x": x, "y": self.profiles.uniform[own, 1:-1]}
        before, after = attention[own, 0], attention[own, -1]
        title = say(
            self.language,
            "profile_title",
            head=self.names[own],
            before=f"{100 * before:.1f} %",
            after=f"{100 * after:.1f} %",
            most=int(self.profiles.offset[-1]) - 1,
        )
        titled(self.plot, title)

    def _tapped(self, indices: list[int]) -> None:
        if not indices:
            return
        row = self.rows[int(indices[-1])]
        self.sources["others"].selected.indices = []
        self.opens(int(self.heads["layer"].iloc[row]), int(self.heads["head"].iloc[row]))

    def paint(self, theme: str) -> None:
        """Take on the colours of a theme."""
        paint(self.plot, theme)
        colours = THEMES[theme]
        self.plot.title.text_color = colours["ink"]
        self.plot.xgrid.grid_line_color = None
        names = {"others": "muted", "uniform": "ink", "own": "poor", "zero": "line"}
        for name, of in names.items():
            renderer(self.plot, name).glyph.line_color = colours[of]
        others = renderer(self.plot, "others")
        others.hover_glyph.line_color = colours["accent"]
        for glyph in (others.selection_glyph, others.nonselection_glyph):
            glyph.line_color = colours["muted"]
        points = renderer(self.plot, "own_points").glyph
        points.fill_color, points.line_color = colours["poor"], colours["card"]


class ProfileHeat:
    """The profiles of all heads as a picture: a row a head, layer below layer."""

    def __init__(self, heads: pd.DataFrame, profiles: Profiles, language: Language, opens: Opens) -> None:
        """Make the figure; values are on a logarithmic scale, since most attention goes to few distances."""
        self.heads, self.opens, self.language = heads, opens, language
        layer, head = (heads[name].to_numpy() for name in ("layer", "head"))
        n, offsets = len(heads), profiles.offset[1:-1]
        low, width = float(offsets[0]) - 0.5, float(len(offsets))
        plot = panel_figure("heads_heat")
        mapper = LogColorMapper(palette=palette("light", signed=False), low=LEAST, high=1.0)
        image = np.flipud(np.clip(profiles.attention[:, 1:-1], LEAST, 1)).astype(
            np.float32
        )  # the first row is the lowest
        plot.image([image], x=low, y=-0.5, dw=width, dh=n, color_mapper=mapper, name="heat")
        data: dict[str, Any] = {
            "y": n - 1 - np.arange(n),
            "layer": layer,
            "head": head,
            "name": head_names(layer, head),
        }
        data |= {"said": [""] * n, "tip": [strongest(profiles, i, language) for i in range(n)]}
        self.rows, self.here = ColumnDataSource(data), ColumnDataSource({"y": []})
        rows = plot.hbar("y", 1, low, low + width, source=self.rows, fill_alpha=0, line_color=None, name="rows",
                         nonselection_fill_alpha=0, selection_fill_alpha=0)  # fmt: skip
        plot.hbar("y", 1, low, low + width, source=self.here, fill_alpha=0, line_width=2, name="here")
        self.rows.selected.on_change("indices", lambda _attr, _old, new: self._tapped(new))
        tip = TOOLTIP.replace("@TIP", "@tip")
        plot.add_tools(
            HoverTool(renderers=[rows], tooltips=tip, point_policy="follow_mouse", visible=False),
            TapTool(renderers=[rows], visible=False),
        )
        plot.y_range = Range1d(-0.5, n - 0.5, bounds=(-0.5, n - 0.5))
        plot.x_range = Range1d(max(low, -NEAR - 0.5), min(low + width, NEAR + 0.5), bounds=(low, low + width))
        begins = {
            int(n - 1 - i): f"{say(language, 'axis_layer')} {layer[i]}" for i in np.unique(layer, return_index=True)[1]
        }
        step = max(1, len(begins) // 32)
        plot.yaxis.ticker = FixedTicker(ticks=list(begins)[::step])
        plot.yaxis.major_label_overrides = begins
        plot.xaxis.axis_label = PlainText(text=say(language, "axis_offset"))
        plot.ygrid.visible = plot.xgrid.visible = False
        self.bar = ColorBar(
            color_mapper=mapper,
            formatter=NumeralTickFormatter(format="0.0 %"),
            title=say(language, "axis_attention"),
            width=10,
            padding=6,
        )
        plot.add_layout(self.bar, "right")
        speak(plot, language)
        self.plot, self.mapper = plot, mapper
        self.figures, self.root = [plot], plot

    root: LayoutDOM

    def _tapped(self, indices: list[int]) -> None:
        if indices:
            at = int(indices[-1])
            self.rows.selected.indices = []
            self.opens(int(self.heads["layer"].iloc[at]), int(self.heads["head"].iloc[at]))

    def look(self, look: Look) -> None:
        """Take over what each head is in words."""
        self.rows.data = dict(self.rows.data) | {"said": look.said}

    def mark(self, layer: int, head: int) -> None:
        """Frame the row of the chosen head."""
        at = np.flatnonzero(((self.heads["layer"] == layer) & (self.heads["head"] == head)).to_numpy())
        self.here.data = {"y": len(self.heads) - 1 - at}

    def paint(self, theme: str) -> None:
        """Take on the colours of a theme."""
        paint(self.plot, theme)
        colours = THEMES[theme]
        self.mapper.palette = list(palette(theme, signed=False))
        renderer(self.plot, "here").glyph.line_color = colours["poor"]
        self.bar.background_fill_color = None
        self.bar.major_label_text_color = self.bar.title_text_color = colours["muted"]
        self.bar.title_text_font_style = "normal"
        self.bar.title_text_font_size = self.bar.major_label_text_font_size = "11px"


def strongest(profiles: Profiles, row: int, language: Language) -> str:
    """Say at which distance a head looks most."""
    inner = profiles.attention[row, 1:-1]
    if np.isnan(inner).all():
        return ""
    at = int(np.nanargmax(inner))
    offset = int(profiles.offset[1:-1][at])
    return say(language, "profile_at", offset=f"{offset:+d}" if offset else "0", share=f"{100 * inner[at]:.1f} %")
