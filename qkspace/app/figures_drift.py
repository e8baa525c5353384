"""Figures of drift: the heat map of all heads, and the curves of a measure from checkpoint to checkpoint.

In: data sources that `views.drift` fills. Out: Bokeh pictures. No data logic here.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

from bokeh.models import ColumnDataSource, FixedTicker, HoverTool, LinearColorMapper
from bokeh.palettes import interp_palette
from bokeh.plotting import figure

from qkspace.app.colours import MISSING
from qkspace.app.figures import paint, renderer
from qkspace.app.language import say
from qkspace.app.state import Language
from qkspace.app.style import FONT, THEMES

DIVERGING = {  # less to more; told apart also by those who do not see red
    "light": ("#2166AC", "#67A9CF", "#F7F7F7", "#EF8A62", "#B2182B"),
    "dark": ("#6FB1E8", "#3D6E9C", "#2A303B", "#A65A4B", "#F4907A"),
}
SEQUENTIAL = {  # little to much: from the ground to the end of cividis that stands out from it
    "light": ("#EAEDF2", "#AEB8CA", "#5F7396", "#1E3F75", "#00224E"),
    "dark": ("#27303D", "#4E576C", "#7C7B78", "#BCAF6F", "#FEE838"),
}
TOOLTIP = f"""
<div style="width:max-content;max-width:320px;font:13px/1.45 {FONT};background:var(--card,#fff);color:var(--ink,#1D2430);
 margin:-6px;padding:8px 11px;border-radius:3px;white-space:pre-line"><b>@name</b>\n@said</div>
"""


@lru_cache(maxsize=8)
def palette(theme: str, *, signed: bool) -> tuple[str, ...]:
    """Return the colours of a scale, of little change (or of less) first."""
    return tuple(interp_palette((DIVERGING if signed else SEQUENTIAL)[theme], 255))


def drift_figure(sources: dict[str, ColumnDataSource], n_layers: int, n_heads: int, language: Language) -> figure:
    """Return the heat map, layer down and head across.

    sources: "loud" and "quiet" (layer, head, value, name, said), heads that changed and those that changed no more than
    storage may make them seem to, which are hatched; "here" (layer, head), the chosen one.
    """
    plot = figure(
        sizing_mode="stretch_both",
        min_height=120,
        margin=0,
        x_range=(-0.5, n_heads - 0.5),
        y_range=(n_layers - 0.5, -0.5),
        tools=[],
        toolbar_location=None,
        name="drift",
    )
    mapper = LinearColorMapper(palette=palette("light", signed=False), low=0, high=1)
    size = 0.94 if n_heads <= 48 else 1.0
    field = {"field": "value", "transform": mapper}
    loud = plot.rect(
        "head", "layer", size, size, source=sources["loud"], fill_color=field, line_color=None, name="loud"
    )
    quiet = plot.rect(
        *("head", "layer", size, size),
        source=sources["quiet"],
        fill_color=MISSING["light"],
        line_color=None,
        hatch_pattern="right_diagonal_line",
        hatch_scale=9,
        hatch_weight=0.7,
        hatch_alpha=0.45,
        name="quiet",
    )
    for name, width in (("here_halo", 5), ("here", 2.5)):
        plot.rect("head", "layer", size, size, source=sources["here"], fill_alpha=0, line_width=width, name=name)
    plot.add_tools(HoverTool(renderers=[loud, quiet], tooltips=TOOLTIP, point_policy="follow_mouse"))
    plot.xaxis.axis_label, plot.yaxis.axis_label = say(language, "axis_head"), say(language, "axis_layer")
    for axis, n in ((plot.xaxis, n_heads), (plot.yaxis, n_layers)):
        axis.ticker = list(range(0, n, 1 if n <= 16 else 2 if n <= 32 else 8))
    plot.grid.visible = False
    return plot


def paint_drift(plot: figure, theme: str, scale: Sequence[str], *, low: float, high: float) -> None:
    """Give the heat map the colours of a theme and the scale of a measure."""
    paint(plot, theme)
    colours = THEMES[theme]
    mapper = renderer(plot, "loud").glyph.fill_color.transform
    mapper.palette, mapper.low, mapper.high, mapper.nan_color = list(scale), low, high, MISSING[theme]
    quiet = renderer(plot, "quiet").glyph
    quiet.fill_color, quiet.hatch_color = colours["page"], colours["muted"]
    renderer(plot, "here").glyph.line_color = colours["poor"]
    renderer(plot, "here_halo").glyph.line_color = colours["card"]
    plot.axis.axis_line_color = plot.axis.major_tick_line_color = None


def curves_figure(sources: dict[str, ColumnDataSource], language: Language) -> figure:
    """Return the curves: thin for all heads, bold for the chosen one, dashed for the mean of its layer.

    sources: "heads", "mean" and "own" (xs, ys, name), "points" (x, y; of the chosen head), "now" (x, the chosen checkpoint).
    """
    plot = figure(sizing_mode="stretch_both", min_height=120, margin=0, tools=[], toolbar_location=None, name="curves")
    heads = plot.multi_line("xs", "ys", source=sources["heads"], line_width=1, line_alpha=0.35, name="heads_curves")
    plot.vspan("x", source=sources["now"], line_width=1.5, line_dash="dotted", name="now")
    mean = plot.multi_line("xs", "ys", source=sources["mean"], line_width=2, line_dash="dashed", name="mean_curve")
    own = plot.multi_line("xs", "ys", source=sources["own"], line_width=3, name="own_curve")
    plot.scatter("x", "y", source=sources["points"], size=7, name="own_points")
    tip = TOOLTIP.replace("\n@said", "")
    plot.add_tools(HoverTool(renderers=[heads, mean, own], tooltips=tip, line_policy="nearest"))
    plot.xgrid.visible = False
    plot.xaxis.axis_label = say(language, "compare_checkpoint")
    return plot


def tick(plot: figure, places: list[float], labels: list[str], title: str) -> None:
    """Write the names of checkpoints below the curves."""
    plot.xaxis.ticker = FixedTicker(ticks=places)
    plot.xaxis.major_label_overrides = dict(zip(places, labels, strict=True))
    plot.xaxis.axis_label = title


def paint_curves(plot: figure, theme: str) -> None:
    """Give the curves the colours of a theme."""
    paint(plot, theme)
    colours = THEMES[theme]
    renderer(plot, "heads_curves").glyph.line_color = colours["muted"]
    renderer(plot, "mean_curve").glyph.line_color = colours["ink"]
    renderer(plot, "own_curve").glyph.line_color = colours["poor"]
    renderer(plot, "now").glyph.line_color = colours["accent"]
    points = renderer(plot, "own_points").glyph
    points.fill_color, points.line_color = colours["poor"], colours["card"]
