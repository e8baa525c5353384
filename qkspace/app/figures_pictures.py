"""Pictures on the map: the patches of images drawn as what they are.

In: data sources that `views.map` fills. Out: a renderer that the browser fills (`static/patch_choose.js` chooses which patches
are drawn, so that none hides another), and what clicks and tooltips need of it. No data logic here.
"""

from __future__ import annotations

from typing import Any

from bokeh.events import Tap
from bokeh.models import ColumnDataSource, CustomJS
from bokeh.plotting import figure

from qkspace.app.scripts import script

NAMES = ("pictures", "sprites", "own_sprite", "look", "few_query", "few_key", "tapped")
LOCAL = ("pictures",)  # the browser's own
# The address of the picture is made by the page itself, from pixels.
PICTURE_TOOLTIP = (
    '<div style="margin:-6px -6px 4px;padding:8px 11px 0;background:var(--card,#fff)">'
    "<style>:host { opacity: 1 !important; background: var(--card, #fff) !important }</style>"
    '<img src="@picture" alt="" style="display:block;max-width:300px"></div><div'
)
TAP_JS = """
const {x, y} = under(pictures, plot, cb_obj)
if (x != null && y != null) tapped.data = {x: [x], y: [y], turn: [(tapped.data.turn?.[0] ?? 0) + 1]}
"""


def picture_sources(sprites: dict[str, Any]) -> dict[str, ColumnDataSource]:
    """Return the data sources of patches; sprites: place (of an image among those stored) and uri of its picture."""
    sources = {name: ColumnDataSource(syncable=name not in LOCAL) for name in NAMES}
    sources["pictures"].data = {
        name: [] for name in ("row", "kind", "x", "y", "colour", "size", "picked")
    }  # which its renderer asks for
    sources["sprites"].data = sprites
    sources["own_sprite"].data = {"place": [], "uri": []}
    return sources


def picture_args(sources: dict[str, ColumnDataSource]) -> dict[str, Any]:
    """Return what a script is given to draw, find or enlarge patches; of an index of texts, that there are none."""
    if "pictures" not in sources:
        return {"pictures": None}
    named = {name: sources[name] for name in ("pictures", "look")}
    return {**named, "sprites": [sources["sprites"], sources["own_sprite"]], "grid": sources["pictures"].tags[0]}


def add_pictures(plot: figure, sources: dict[str, ColumnDataSource]) -> None:
    """Draw patches above the points, choose them anew whenever the view or the points change, and let a click hit them."""
    args = picture_args(sources)
    draw = CustomJS(args=args, code=script("patches") + script("patch_draw"))
    plot.scatter(
        *("x", "y"),
        source=sources["pictures"],
        marker="@patch",
        defs={"@patch": draw},
        size="size",
        name="pictures",
    )
    points = {name: sources[name] for name in ("query", "key", "own_query", "own_key", "few_query", "few_key")}
    choose = CustomJS(args={**args, **points, "plot": plot}, code=script("patch_choose"))
    sources["look"].js_on_change("data", choose)  # which comes last of what moves or colours points
    for axis_range in (plot.x_range, plot.y_range):
        axis_range.js_on_change("start", choose)
        axis_range.js_on_change("end", choose)
    for name in ("inner_width", "inner_height"):
        plot.js_on_change(name, choose)
    for source in ("sprites", "own_sprite"):
        sources[source].js_on_change("data", choose)
    tap = CustomJS(args={**args, "plot": plot, "tapped": sources["tapped"]}, code=script("patches") + TAP_JS)
    plot.js_on_event(Tap, tap)
