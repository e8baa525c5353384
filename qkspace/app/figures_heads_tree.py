"""Figure of the tree of heads: which attend alike, joined from the most alike to the least.

In: a `Tree` and how dots look. Out: a Bokeh picture, whose leaves open heads. No data logic here.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from bokeh.models import (
    ColumnDataSource,
    CustomJS,
    CustomJSTickFormatter,
    HoverTool,
    LayoutDOM,
    PlainText,
    Range1d,
    TapTool,
)

from qkspace.app.figures import paint, renderer, speak
from qkspace.app.figures_heads import STILL, TITLE_FONT, TOOLTIP, Opens, panel_figure, titled
from qkspace.app.heads_curves import Tree
from qkspace.app.heads_data import head_names
from qkspace.app.heads_look import Look, sizes
from qkspace.app.language import say
from qkspace.app.state import Language
from qkspace.app.style import THEMES

LEAF_PX = 8  # for the name of a leaf; of more leaves than fit into MOST_PX one zooms in for names
MOST_PX = 1_000

# Names of leaves stand there when there is room for them; zooming in makes room.
ROOM_JS = """
const px = plot.inner_height / Math.abs(plot.y_range.end - plot.y_range.start)
names.visible = px >= 7.5
names.glyph.text_font_size = `${Math.max(8, Math.min(12, Math.floor(px - 1)))}px`
"""
NO_NEGATIVE_JS = "return tick < 0 ? '' : String(+tick.toFixed(6))"  # where names stand there is no height


class TreeFigure:
    """The dendrogram, leaves at the right, one above the other."""

    def __init__(self, heads: pd.DataFrame, tree: Tree, tips: list[str], language: Language, opens: Opens) -> None:
        """Make the figure; tips: what a tooltip says of each head (row)."""
        self.heads, self.tree, self.opens = heads, tree, opens
        layer, head = (heads[name].to_numpy()[tree.leaves] for name in ("layer", "head"))
        n = len(tree.leaves)
        data: dict[str, Any] = {
            "x": np.zeros(n),
            "y": np.arange(n),
            "name": head_names(layer, head),
            "said": [""] * n,
            "tip": [tips[i] for i in tree.leaves],
            "colour": ["#888888"] * n,
            "marker": ["circle"] * n,
            "size": [leaf_size(n)] * n,
        }
        self.leaves, self.here = ColumnDataSource(data), ColumnDataSource({"x": [], "y": []})
        self.leaves.selected.on_change("indices", lambda _attr, _old, new: self._tapped(new))
        self.plot = self._figure(n, language)
        self.figures, self.root = [self.plot], self.plot

    root: LayoutDOM

    def _figure(self, n: int, language: Language) -> Any:
        plot = panel_figure("heads_tree", axis_above=True)
        plot.min_border_left = 8
        plot.min_height = max(plot.min_height, min(LEAF_PX * n + 70, MOST_PX))
        titled(plot, say(language, "panel_tree"))
        lines = ColumnDataSource({"xs": list(self.tree.xs), "ys": list(self.tree.ys)})
        plot.multi_line("xs", "ys", source=lines, line_width=1.2, name="tree")
        dots = plot.scatter(
            "x",
            "y",
            source=self.leaves,
            marker="marker",
            size="size",
            fill_color="colour",
            line_width=0.5,
            name="dots",
            **STILL,
        )
        plot.scatter("x", "y", source=self.here, size=leaf_size(n) + 7, fill_alpha=0, line_width=2.5, name="here")
        names = plot.text(
            *("x", "y"),
            text="name",
            source=self.leaves,
            x_offset=8,
            text_baseline="middle",
            text_font={"value": TITLE_FONT},
            text_font_size="9px",
            visible=False,
            name="names",
            nonselection_text_alpha=1.0,
        )
        plot.add_tools(
            HoverTool(renderers=[dots, names], tooltips=TOOLTIP.replace("@TIP", "@tip"), limit=1, visible=False),
            TapTool(renderers=[dots, names], visible=False),
        )
        highest = float(self.tree.xs.max()) if self.tree.xs.size else 1.0
        plot.x_range = Range1d(1.04 * highest, -0.22 * highest)
        plot.y_range = Range1d(n - 0.3, -0.7)
        plot.yaxis.visible = False
        plot.xaxis.formatter = CustomJSTickFormatter(code=NO_NEGATIVE_JS)
        plot.ygrid.visible = False
        plot.xaxis.axis_label = PlainText(text=say(language, "axis_distance"))
        room = CustomJS(code=ROOM_JS, args={"plot": plot, "names": names})
        plot.js_on_change("inner_height", room)
        plot.y_range.js_on_change("start", room)
        plot.y_range.js_on_change("end", room)
        speak(plot, language)
        return plot

    def _tapped(self, indices: list[int]) -> None:
        if indices:
            row = int(self.tree.leaves[int(indices[-1])])
            self.leaves.selected.indices = []
            self.opens(int(self.heads["layer"].iloc[row]), int(self.heads["head"].iloc[row]))

    def look(self, look: Look) -> None:
        """Give the leaves colours and shapes."""
        every: dict[str, list[Any]] = {"colour": look.colour, "marker": look.marker, "said": look.said}
        every["size"] = sizes(look, leaf_size(len(self.tree.leaves)))
        parts = {name: [values[i] for i in self.tree.leaves] for name, values in every.items()}
        self.leaves.data = dict(self.leaves.data) | parts

    def mark(self, layer: int, head: int) -> None:
        """Put a ring around the chosen head."""
        is_it = ((self.heads["layer"] == layer) & (self.heads["head"] == head)).to_numpy()[self.tree.leaves]
        at = np.flatnonzero(is_it)
        self.here.data = {"x": np.zeros(len(at)), "y": at}

    def paint(self, theme: str) -> None:
        """Take on the colours of a theme."""
        paint(self.plot, theme)
        colours = THEMES[theme]
        self.plot.title.text_color = colours["ink"]
        for name, of in (("tree", "muted"), ("here", "poor"), ("dots", "card")):
            renderer(self.plot, name).glyph.line_color = colours[of]
        names = renderer(self.plot, "names")
        for glyph in (names.glyph, names.selection_glyph, names.nonselection_glyph):
            if glyph not in (None, "auto"):
                glyph.text_color = colours["ink"]


def leaf_size(n: int) -> float:
    """Return how large the dots of n leaves are, in pixels."""
    return 8.0 if n <= 100 else 5.0
