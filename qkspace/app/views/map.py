"""Map: the view of one head, its queries and keys in the plane or in space.

In: a `Scene`. Out: the figure and its data sources, which this module alone writes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from bokeh.events import SelectionGeometry, Tap
from bokeh.layouts import column
from bokeh.models import ColumnDataSource, CustomJS
from numpy.typing import NDArray

from qkspace.app import figures, select
from qkspace.app.colours import KEY_COLOUR, QUERY_COLOUR
from qkspace.app.scripts import script
from qkspace.app.select import KINDS, Links, Scene, Shown
from qkspace.app.state import MAX_CORNERS, Kind, State
from qkspace.app.style import PANEL
from qkspace.schema import FloatArray

Change = Callable[..., None]
MOVES = ("layer", "head", "method", "dims", "by_norm")  # what moves or resizes the points
LIVE = ("live_query", "live_key", "live_links", "live_labels")
NAMES = ("query", "key", "own_query", "own_key", "links", "own", "labels", "picked", "frame", *LIVE)


class MapView:
    """The map of the chosen head, its links, the clicked token's sequence, and the live sentence."""

    def __init__(self, shown: Shown, state: State, change: Change, place: ColumnDataSource) -> None:
        """Make the figure; `change` takes over what the visitor does, `place` says which head is shown, and comes last."""
        self.change, self.last = change, None
        self.state = state
        self.sources = {name: ColumnDataSource() for name in NAMES} | _fixed_sources(shown) | {"place": place}
        self.pixel = 0.0  # not known before the first click
        self.figure = figures.map_figure(self.sources, state.theme, 2 * len(shown.rows), language=state.language)
        self.figure.on_event(Tap, self._tap)
        self.figure.on_event(SelectionGeometry, self._select)
        self.sources["camera"].on_change("data", self._turned)
        drag = CustomJS(args={"plot": self.figure, "camera": self.sources["camera"]}, code=script("drag"))
        self.sources["camera"].js_on_change("data", drag)
        self.sources["query"].js_on_change("data", CustomJS(args={"plot": self.figure}, code=script("wait")))
        place.js_on_change("data", CustomJS(args={"plot": self.figure, "place": place}, code=script("refit")))
        self.figure.tags = [shown.head(state).name + _map_name(state)]
        self.shown = shown
        self.root = column(self.figure, sizing_mode="stretch_both", styles={**PANEL, "padding": "6px"}, margin=0)

    last: State | None

    # ---------------------------------------------------------------- what the visitor does

    def _tap(self, event: Tap) -> None:
        """Choose the point that was clicked, or nothing."""
        if event.x is None or event.y is None:
            return
        x_range, width = self.figure.x_range, self.figure.inner_width or 600
        self.pixel = abs(float(x_range.end) - float(x_range.start)) / width  # in units of the map
        radius = figures.CLICK_PIXELS * self.pixel
        self.change(selected=select.nearest(self.shown, self.state, float(event.x), float(event.y), radius))

    def _select(self, event: SelectionGeometry) -> None:
        """Take over a region that was lassoed or boxed."""
        region = _corners(event.geometry) if event.final else None
        if region is not None:
            self.change(region=region)

    def _turned(self, _attr: str, _old: Any, new: dict[str, Any]) -> None:
        """Take over from where the visitor now looks at a map in space."""
        self.change(yaw=float(new["yaw"][0]), pitch=float(new["pitch"][0]))

    # ---------------------------------------------------------------- what is shown

    def show(self, scene: Scene) -> None:
        """Write what the state asks for; points are only sent when another head or map moved them."""
        state, last = scene.state, self.last
        self.state = self.last = state
        moved = last is None or any(getattr(state, name) != getattr(last, name) for name in MOVES)
        turned = last is None or (state.yaw, state.pitch) != (last.yaw, last.pitch)
        packed = select.packed_colours(scene.shown, state, scene.colours, scene.hit_rows)
        if moved:
            self._show_points(scene, packed)
        else:
            for kind in KINDS:
                source = self.sources[kind]
                source.data["colour"] = packed[kind]
        if last is None or turned or state.dims != last.dims:
            self._show_camera(state)
        self._show_links(scene)
        self._show_selected(scene)
        self._show_live(scene)

    def _show_points(self, scene: Scene, packed: dict[Kind, NDArray[np.uint32]]) -> None:
        size = select.sizes(scene.shown, scene.state)
        for kind, points in select.points(scene.shown, scene.state).items():
            columns: dict[str, Any] = {"row": points.row.astype(np.int32), "colour": packed[kind], "size": size[kind]}
            for i in range(select.N_TOP):
                columns[f"partner{i}"] = points.partner[:, i].astype(np.int32)
                columns[f"weight{i}"] = points.weight[:, i].astype(np.float32)
            self.sources[kind].data = columns | placed(points.place, scene.state)
        self.sources["frame"].data = _frame(scene)

    def _show_camera(self, state: State) -> None:
        self.figure.select_one({"name": "turn"}).visible = state.dims == 3
        self.sources["camera"].data = {"yaw": [state.yaw], "pitch": [state.pitch], "dims": [state.dims]}

    def _show_links(self, scene: Scene) -> None:
        shown, state = scene.shown, scene.state
        picked_out = state.selected is not None or scene.live is not None
        faint = 0.15 if picked_out else 1.0
        self.sources["links"].data = segments(select.corpus_links(shown, state), state, faint)
        self.sources["own"].data = segments(select.selected_links(shown, state), state, 1.0, least=0.15, width=2.5)

    def _show_selected(self, scene: Scene) -> None:
        """Draw the clicked token's sequence on top, ring the clicked point, and label it and its strongest partners."""
        state = scene.state
        chosen = select.sequence_points(scene.shown, state, self.pixel)
        colours = {"query": scene.colours.query, "key": scene.colours.key}
        for kind in KINDS:
            self.sources[f"own_{kind}"].data = {
                "row": chosen.rows.astype(np.int32),
                "colour": colours[kind][chosen.rows] | np.uint32(0xFF),
                **placed(chosen.place[kind], state),
            }
        self.sources["picked"].data = placed(chosen.picked, state)
        hues = {"query": QUERY_COLOUR[state.theme], "key": KEY_COLOUR[state.theme]}
        self.sources["labels"].data = {
            "text": chosen.label_text,
            "colour": [hues[kind] for kind in chosen.label_kind],
            **placed(chosen.label_place, state),
        }

    def _show_live(self, scene: Scene) -> None:
        """Draw the live sentence, larger and labelled, with its strongest links."""
        live = select.live_points(scene)
        for kind in KINDS:
            self.sources[f"live_{kind}"].data = placed(live.place[kind], scene.state)
        self.sources["live_links"].data = segments(live.links, scene.state, 1.0, least=0.15, width=2.0)
        self.sources["live_labels"].data = {
            "text": live.text,
            "colour": [QUERY_COLOUR[scene.state.theme]] * len(live.text),
            **placed(live.place["query"], scene.state),
        }

    def paint(self, theme: str) -> None:
        """Take on the colours of a theme."""
        figures.paint(self.figure, theme)


def placed(solid: FloatArray, state: State, end: str = "") -> dict[str, Any]:
    """Return columns x and y, and for a map in space also u, v and w, which the browser turns: `end` is put after each."""
    seen = select.seen(solid, state)
    columns = {f"x{end}": seen[:, 0], f"y{end}": seen[:, 1]}
    if solid.shape[1] == 3:
        columns |= {f"{axis}{end}": np.ascontiguousarray(solid[:, i]) for i, axis in enumerate("uvw")}
    return columns


def segments(links: Links, state: State, strength: float, *, least: float = 0.0, width: float = 1.2) -> dict[str, Any]:
    """Return lines whose opacity is their attention, at least `least`, times `strength`."""
    return {
        **placed(links.start, state, "0"),
        **placed(links.end, state, "1"),
        "alpha": np.clip(links.attention, least, 1).astype(np.float32) * np.float32(strength),
        "width": np.full(len(links.attention), width, dtype=np.float32),
    }


def _frame(scene: Scene) -> dict[str, Any]:
    """Return two corners that the map must hold: those of all points, and in space those of them however it is turned."""
    shown, state = scene.shown, scene.state
    places = np.concatenate([shown.solid(state, kind, shown.rows) for kind in KINDS])
    places = places[np.isfinite(places).all(axis=1)]
    if not len(places):
        return {"x": [0.0, 1.0], "y": [0.0, 1.0]}
    if state.dims == 3:
        middle = select.seen(places.mean(axis=0, keepdims=True), state)[0]
        radius = float(np.quantile(np.linalg.norm(places - places.mean(axis=0), axis=1), 0.999))
        low, high = middle - radius, middle + radius
    else:
        low, high = places.min(axis=0), places.max(axis=0)
    return {"x": np.array([low[0], high[0]]), "y": np.array([low[1], high[1]])}


def _map_name(state: State) -> str:
    return f"{state.method}{state.dims}"


def _corners(geometry: dict[str, Any]) -> tuple[tuple[float, float], ...] | None:
    """Return the corners of a lassoed or boxed region, no more than an address holds; None for another geometry."""
    if geometry.get("type") == "rect":
        x0, x1, y0, y1 = (float(geometry[name]) for name in ("x0", "x1", "y0", "y1"))
        return ((x0, y0), (x1, y0), (x1, y1), (x0, y1))
    if geometry.get("type") != "poly":
        return None
    corners = list(zip(geometry["x"], geometry["y"], strict=True))
    step = -(-len(corners) // MAX_CORNERS)
    return tuple((float(f"{x:.5g}"), float(f"{y:.5g}")) for x, y in corners[:: max(step, 1)])


def _fixed_sources(shown: Shown) -> dict[str, ColumnDataSource]:
    """Return what tooltips say of tokens: sent once, the same for every head."""
    tokens, sequences = shown.index.tokens, shown.index.sequences
    lengths = sequences["n_tokens"].to_numpy()
    return {
        "tokens": ColumnDataSource(
            {
                "text": tokens["text"].astype(str).tolist(),
                "sentence": shown.sequence_number.astype(np.int32),
                "position": tokens["position"].to_numpy(dtype=np.int32),
                "start": tokens["start"].to_numpy(dtype=np.int32),
                "end": tokens["end"].to_numpy(dtype=np.int32),
                "length": np.repeat(lengths, lengths).astype(np.int32),
            }
        ),
        "sentences": ColumnDataSource({"text": sequences["text"].astype(str).tolist()}),
        "near": ColumnDataSource({"x": [], "y": [], "kind": [], "index": []}, syncable=False),  # the browser's own
        "camera": ColumnDataSource({"yaw": [0.0], "pitch": [0.0], "dims": [2]}),
    }
