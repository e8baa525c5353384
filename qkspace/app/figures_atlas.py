"""Figures of the atlas: the maps of all heads at a glance, as one picture.

In: data sources that `document` fills with the help of the functions here. Out: a Bokeh figure. Reads no index.

One unit of the axes is one pixel of the mosaic (`atlas.mosaic`), so that it is crisp as long as the ranges are as wide
as the frame: see `frame_ranges`.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
from bokeh.models import (
    BoxZoomTool,
    ColumnDataSource,
    HoverTool,
    PanTool,
    Range1d,
    ResetTool,
    SaveTool,
    TapTool,
    WheelZoomTool,
)
from bokeh.plotting import figure

from qkspace.app.atlas import best_columns, cell_size
from qkspace.app.figures import renderer, tool_of
from qkspace.app.language import say
from qkspace.app.style import FONT, THEMES, TOOLBAR_CSS

if TYPE_CHECKING:
    import pandas as pd

    from qkspace.app.atlas import Mosaic
    from qkspace.app.state import Language
    from qkspace.schema import IntArray

TITLE_PX = 15  # room that a cell's name takes above it
LEAST_TITLED = 44  # pixels of a cell under which its name does not fit
GAP = 5  # pixels between cells
LABEL_PX = 30  # that the label of a head needs across
LEAST_SHARE = 0.05  # of attention that a tooltip speaks of
OUTLINES = {  # of a cell under the mouse, after a tap, and when another was tapped
    **{f"{when}_fill_alpha": 0 for when in ("hover", "selection", "nonselection")},
    **{f"{when}_line_alpha": 1 for when in ("hover", "selection", "nonselection")},
    "hover_line_color": "black",  # `paint_atlas` says which
    "hover_line_width": 2,
    "selection_line_width": 2,
}
TOOLTIP_COLUMNS = ("title", "says", "recall", "content", "attends", "rest")
MARGIN = 3  # pixels around the mosaic, for the outlines of the cells at its edge

# Bokeh puts each value into a tooltip as text, never as HTML.
TOOLTIP = f"""
<div style="width:max-content;max-width:330px;font:13px/1.45 {FONT};background:var(--card,#fff);color:var(--ink,#1D2430);
 margin:-6px;padding:8px 11px;border-radius:3px;white-space:normal">
 <div><b>@title</b> <span style="color:var(--muted,#5D6778)">&middot; @says</span></div>
 <div style="margin-top:4px">@recall</div>
 <div>@content</div>
 <div style="margin-top:4px;color:var(--muted,#5D6778)">@attends</div>
 <div style="color:var(--muted,#5D6778)">@rest</div>
</div>
"""


def atlas_figure(
    sources: dict[str, ColumnDataSource], theme: str, *, titled: bool = False, tooltip: str = TOOLTIP
) -> figure:
    """Return the atlas: the mosaic, and over it a rectangle a head that answers to the mouse.

    sources: "mosaic" (`mosaic_data`), "cells" (`cells_data`) and "here" (x, y, w, h of the head that is open elsewhere).
    A tap selects the row of "cells" (`selected.indices`). titled: whether cells bear their names, as they must where they
    are not laid out by layer and head. tooltip: names columns of "cells".
    """
    plot = figure(
        sizing_mode="stretch_both",
        match_aspect=True,
        output_backend="canvas",  # an image of whole pixels: WebGL would smooth it
        toolbar_location="above",
        tools=[PanTool(), BoxZoomTool(match_aspect=True), WheelZoomTool(), ResetTool(), SaveTool()],
        x_axis_location="above",
        min_border_left=56,
        x_range=Range1d(0, 1),
        y_range=Range1d(0, 1),
        min_width=300,
        min_height=300,
        margin=0,
        name="atlas",
    )
    plot.toolbar.active_scroll = tool_of(plot, WheelZoomTool)
    plot.toolbar.logo = None
    plot.toolbar.stylesheets = [TOOLBAR_CSS]
    plot.image_rgba("image", "x", "y", "dw", "dh", source=sources["mosaic"], name="mosaic")
    cells = plot.rect("x", "y", "w", "h", source=sources["cells"], fill_alpha=0, line_width=1, name="cells", **OUTLINES)
    plot.rect("x", "y", "w", "h", source=sources["here"], fill_alpha=0, line_width=2.5, name="here")
    plot.text(
        "x",
        "top",
        "name",
        source=sources["cells"],
        text_font_size="11px",
        text_font={"value": "Inter, Segoe UI, Noto Sans, sans-serif"},
        text_align="center",
        text_baseline="bottom",
        visible=titled,
        name="titles",
    )
    plot.add_tools(
        HoverTool(renderers=[cells], tooltips=tooltip, point_policy="follow_mouse", visible=False),
        TapTool(renderers=[cells]),
    )
    plot.grid.visible = False
    paint_atlas(plot, theme)
    return plot


def paint_atlas(plot: figure, theme: str) -> None:
    """Give the atlas the colours of a theme; the mosaic has its own, from the colours of its points."""
    colours = THEMES[theme]
    plot.background_fill_color = colours["plot"]
    plot.border_fill_color = None  # the card behind shows through
    plot.outline_line_color = None
    for axis in plot.axis:
        axis.axis_line_color = axis.major_tick_line_color = axis.minor_tick_line_color = None
        axis.major_label_text_color = axis.axis_label_text_color = colours["muted"]
        axis.axis_label_text_font_style = "normal"
        axis.axis_label_text_font_size = axis.major_label_text_font_size = "11px"
        axis.axis_label_text_font = axis.major_label_text_font = "Inter, Segoe UI, Noto Sans, sans-serif"
        axis.major_label_standoff = 2
    cells = renderer(plot, "cells")
    cells.glyph.line_color = colours["line"]
    cells.nonselection_glyph.line_color = colours["line"]
    cells.hover_glyph.line_color = cells.selection_glyph.line_color = colours["accent"]
    renderer(plot, "here").glyph.line_color = colours["poor"]
    renderer(plot, "titles").glyph.text_color = colours["muted"]


def label_axes(plot: figure, mosaic: Mosaic, *, matrix: bool, language: Language = "en") -> None:
    """Number the layers and heads beside the cells; in reading order the cells bear names, and the axes nothing."""
    plot.axis.visible = matrix
    plot.min_border_left = 56 if matrix else MARGIN
    renderer(plot, "titles").visible = not matrix and mosaic.cell_px >= LEAST_TITLED
    if not matrix:
        return
    cells = mosaic.cells
    axes = ((plot.xaxis[0], "head", "x0", LABEL_PX), (plot.yaxis[0], "layer", "y0", LABEL_PX / 2))
    for axis, what, low, room in axes:
        called = say(language, f"axis_{what}")
        step = max(1, math.ceil(room / (mosaic.cell_px + GAP)))
        place = {
            int(number): float(at) + mosaic.cell_px / 2 for number, at in zip(cells[what], cells[low], strict=True)
        }
        axis.ticker = [at for number, at in place.items() if number % step == 0]
        axis.major_label_overrides = {at: f"{number}" if number else f"{called} 0" for number, at in place.items()}


def fit(table: pd.DataFrame, width: int, height: int, order: IntArray | None = None) -> dict[str, Any]:
    """Return the layout with the largest cells that a frame of width x height pixels holds, as `atlas.mosaic` takes it.

    table: of all heads; order: those shown, in reading order; without it layer down and head across.
    """
    inner = (max(width - 2 * MARGIN, 1), max(height - 2 * MARGIN, 1))
    gap = GAP
    for gap in (GAP, 2):  # small cells stand closer
        if order is None:
            columns = None
            n_rows, n_columns = int(table["layer"].max()) + 1, int(table["head"].max()) + 1
            title = 0
            size = cell_size(n_rows, n_columns, *inner, gap=gap)
        else:
            title = TITLE_PX
            columns, size = _grid(len(order), inner, gap, title)
            if size < LEAST_TITLED:
                title = 0
                columns, size = _grid(len(order), inner, gap, title)
        if size >= 12 * gap:
            break
    return {"heads_order": order, "columns": columns, "cell_px": size, "gap": gap, "title_px": title}


def _grid(n: int, inner: tuple[int, int], gap: int, title: int) -> tuple[int, int]:
    """Return the columns of a grid of n cells, and the pixels of a cell."""
    columns = best_columns(n, *inner, gap=gap, title_px=title)
    return columns, cell_size(max(1, -(-n // columns)), columns, *inner, gap=gap, title_px=title)


def frame_ranges(mosaic: Mosaic, width: int, height: int) -> tuple[tuple[float, float], tuple[float, float]]:
    """Return ranges of x and y that show the mosaic pixel by pixel in a frame of width x height pixels, at the top left.

    Where the mosaic is larger than the frame, it is shown whole, and smaller.
    """
    scale = max(1.0, (mosaic.width + 2 * MARGIN) / width, (mosaic.height + 2 * MARGIN) / height)
    top = mosaic.height + MARGIN
    return (-MARGIN, width * scale - MARGIN), (top - height * scale, top)


def mosaic_data(mosaic: Mosaic) -> dict[str, list[Any]]:
    """Return the data of the source "mosaic"."""
    x0, x1, y0, y1 = mosaic.place
    return {"image": [mosaic.image], "x": [x0], "y": [y0], "dw": [x1 - x0], "dh": [y1 - y0]}


def cells_data(mosaic: Mosaic, table: pd.DataFrame, language: Language = "en") -> dict[str, Any]:
    """Return the data of the source "cells"; table: `atlas.atlas_table`, from which tooltips are worded."""
    cells = mosaic.cells
    chosen = table.iloc[cells["index"]]
    words = [
        _words(row, bool(on), language)
        for (_, row), on, out in zip(chosen.iterrows(), cells["mapped"], cells["outside"], strict=True)
    ]
    return {**cell_boxes(mosaic), **{column: [word[column] for word in words] for column in TOOLTIP_COLUMNS}}


def cell_boxes(mosaic: Mosaic) -> dict[str, Any]:
    """Return where the cells are and which heads they show, as columns of the source "cells"."""
    cells = mosaic.cells
    n, size = len(cells["index"]), mosaic.cell_px + 2  # the outline lies just outside the picture
    return {
        "x": (cells["x0"] + cells["x1"]) / 2,
        "y": (cells["y0"] + cells["y1"]) / 2,
        "w": np.full(n, size, dtype=np.float32),
        "h": np.full(n, size, dtype=np.float32),
        "top": (cells["y1"] + 2).astype(np.float32),
        "layer": cells["layer"].astype(np.int32),
        "head": cells["head"].astype(np.int32),
        "name": [str(name) for name in cells["name"]],
    }


def here_data(mosaic: Mosaic, layer: int, head: int) -> dict[str, Any]:
    """Return the data of the source "here"; empty where the filter left the head out."""
    cells = mosaic.cells
    at = np.flatnonzero((cells["layer"] == layer) & (cells["head"] == head))
    size = np.full(len(at), mosaic.cell_px + 4, dtype=np.float32)
    return {
        "x": (cells["x0"][at] + cells["x1"][at]) / 2,
        "y": (cells["y0"][at] + cells["y1"][at]) / 2,
        "w": size,
        "h": size,
    }


def _words(row: pd.Series[Any], mapped: bool, language: Language) -> dict[str, str]:
    """Say of a head how far its map can be trusted and what it looks at."""

    def said(name: str, form: str) -> str:
        value = float(row.get(name.split("_", 1)[1], math.nan))
        return "" if math.isnan(value) else f"{say(language, name)}: {value:{form}}"

    shares = {name: float(row[name]) for name in row.index if "_to_" in name and float(row[name]) >= LEAST_SHARE}
    attends = [said(f"stat_{name}", ".0%") for name in sorted(shares, key=lambda name: -shares[name])]
    word = f"verdict_{row['verdict'].replace(' ', '_')}" if mapped else "badge_no_map"
    rest = [said("stat_attention_distance", ".1f"), said("stat_entropy", ".2f"), said("stat_entropy_uniform", ".2f")]
    rest.append(said("stat_position_share", ".0%"))
    return {
        "title": say(language, "layer_head", layer=row["layer"], head=row["head"]),
        "says": say(language, word),
        "recall": said("score_recall1", ".0%") if mapped else "",
        "content": said("score_recall1_content", ".0%") if mapped else "",
        "attends": " · ".join(attends),
        "rest": " · ".join(part for part in rest if part),
    }
