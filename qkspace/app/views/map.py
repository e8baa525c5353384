"""Map: the view of one head, its queries and keys in the plane or in space.

In: a `Scene`. Out: the figure and its data sources, which this module alone writes. Of a large index they hold an image of
what is in view, or its points where they are few; the browser says where the visitor looks.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
from bokeh.events import RangesUpdate, Reset, SelectionGeometry, Tap
from bokeh.layouts import column
from bokeh.models import ColumnDataSource, CustomAction, CustomJS
from numpy.typing import NDArray

from qkspace.app import detail, figures, labels, select
from qkspace.app.colours import KEY_COLOUR, QUERY_COLOUR, QUERY_KEY
from qkspace.app.figures_pictures import picture_sources
from qkspace.app.pictures import MOST_SPRITES, Album, album_of, caption, marked, pixels, place_words, small
from qkspace.app.raster import Extent
from qkspace.app.scripts import script
from qkspace.app.select import KINDS, Links, Scene, Shown
from qkspace.app.state import MAX_CORNERS, Kind, State
from qkspace.app.style import PANEL, THEMES
from qkspace.schema import FloatArray, IntArray

Change = Callable[..., None]
MOVES = ("layer", "head", "method", "dims", "by_norm")  # what moves or resizes the points
LIVE = ("live_query", "live_key", "live_links", "live_labels")
REFITS = ("layer", "head", "method", "dims")  # another map, which is shown whole (static/refit.js)
SEEN_BY = (
    *MOVES,
    "yaw",
    "pitch",
    "colour",
    "theme",
    "hidden",
    "selected",
    "region",
    "search",
)  # what changes its points
FRAME = (640, 560)  # pixels, until the browser says how large the frame is
MOST_PIXELS = 2_560  # of a side of the image, whatever a browser says
MOST_CHARACTERS = 24  # of a name on the map
REST = 80  # milliseconds without a change of the view before it is drawn
SAID = ("x", "y", "kind", "index", "token", "before", "after", "where", "partners")  # of the point under the mouse
NAMES = ("query", "key", "own_query", "own_key", "links", "own", "labels", "names", "picked", "frame", *LIVE)


class MapView:
    """The map of the chosen head, its links, the clicked token's sequence, and the live sentence."""

    def __init__(self, shown: Shown, state: State, change: Change, place: ColumnDataSource) -> None:
        """Make the figure; `change` takes over what the visitor does, `place` says which head is shown, and comes last."""
        self.change, self.last = change, None
        self.state = state
        self.scene: Scene | None = None
        self.drawn_rows: dict[Kind, IntArray] | None = None  # that are drawn as points, of a large index
        self.view: Extent | None = None  # what was drawn last, of a large index
        self.waiting: Any = None
        self.tells_camera = False  # while this page, and not the visitor, turns the map
        self.size = {"inner_width": 0, "inner_height": 0}
        fixed = _large_sources() if shown.is_large else _fixed_sources(shown)
        self.album = album_of(shown.index)
        if self.album is not None:
            fixed |= _picture_sources(self.album, shown, state)
        self.sources = {name: ColumnDataSource() for name in NAMES} | fixed | {"place": place}
        self.turn = 0  # of what is sent again
        self.pixel = 0.0  # not known before the first click
        self.figure = figures.map_figure(self.sources, state.theme, 2 * len(shown.rows), language=state.language)
        if state.dims == 3:  # a drag turns it: static/drag.js, which runs once the browser is there
            self.figure.toolbar.active_drag = None
        if self.album is None:
            self.figure.on_event(Tap, self._tap)
        else:  # the browser knows which picture was clicked
            self.sources["tapped"].on_change("data", self._tapped)
        self.figure.on_event(SelectionGeometry, self._select)
        self.sources["camera"].on_change("data", self._turned)
        drag = CustomJS(
            args={"plot": self.figure, "camera": self.sources["camera"]}, code=script("turned") + script("drag")
        )
        self.sources["camera"].js_on_change("data", drag)
        held = {"plot": self.figure} | ({"drawn": self.sources["drawn"]} if shown.is_large else {})
        self.sources["query"].js_on_change("data", CustomJS(args=held, code=script("wait")))
        place.js_on_change("data", CustomJS(args={"plot": self.figure, "place": place}, code=script("refit")))
        self.figure.tags = [shown.head(state).name + _map_name(state)]
        self.shown = shown
        self._follow()
        if shown.is_large:
            self._follow_closely()
        self.root = column(self.figure, sizing_mode="stretch_both", styles={**PANEL, "padding": "6px"}, margin=0)

    last: State | None

    def _follow(self) -> None:
        """Follow where the visitor looks."""
        for event in (RangesUpdate, Reset):
            self.figure.on_event(event, lambda _event: self._moved())
        for name in self.size:
            self.figure.on_change(name, self._resized)
        for axis_range in (self.figure.x_range, self.figure.y_range):
            for end in ("start", "end"):
                axis_range.on_change(end, lambda _attr, _old, _new: self._moved())

    def _follow_closely(self) -> None:
        """Follow the mouse, and what of a large index is in view."""
        self.drawn_frame = FRAME
        self.renderers = {name: figures.renderer(self.figure, name) for name in ("raster", *KINDS)}
        drawn = CustomJS(args={"plot": self.figure}, code=script("drawn"))
        self.sources["drawn"].js_on_change("data", drawn)
        self.sources["mouse"].on_change("data", self._rested)

    # ---------------------------------------------------------------- what the visitor does

    def _tap(self, event: Tap) -> None:
        """Choose the point that was clicked, or nothing."""
        if event.x is not None and event.y is not None:
            self._choose(float(event.x), float(event.y))

    def _tapped(self, _attr: str, _old: Any, new: dict[str, Any]) -> None:
        """Choose the point whose picture was clicked, else the one that is near."""
        self._choose(float(new["x"][0]), float(new["y"][0]))

    def _choose(self, x: float, y: float) -> None:
        x_range, width = self.figure.x_range, self.figure.inner_width or 600
        self.pixel = abs(float(x_range.end) - float(x_range.start)) / width  # in units of the map
        radius = figures.CLICK_PIXELS * self.pixel
        nearest = detail.nearest if self.shown.is_large else select.nearest
        self.change(selected=nearest(self.shown, self.state, x, y, radius))

    def _select(self, event: SelectionGeometry) -> None:
        """Take over a region that was lassoed or boxed."""
        region = _corners(event.geometry) if event.final else None
        if region is not None:
            self.change(region=region)

    def _turned(self, _attr: str, _old: Any, new: dict[str, Any]) -> None:
        """Take over from where the visitor now looks at a map in space, unless it is this page that said so."""
        if self.tells_camera:
            return
        self.view = None
        self.change(yaw=float(new["yaw"][0]), pitch=float(new["pitch"][0]))
        if self.view is None:  # back where it was: the image that points stood for is due again
            self._moved()

    def _moved(self) -> None:
        """Draw the view again once it has come to rest."""
        document = self.figure.document
        if document is None or self.scene is None:
            return
        if self.waiting is not None:
            document.remove_timeout_callback(self.waiting)
        self.waiting = document.add_timeout_callback(self._look_again, REST)

    def _resized(self, attr: str, _old: Any, new: int) -> None:
        self.size[attr] = int(new or 0)
        self._moved()

    def _look_again(self) -> None:
        """Draw what is in view, unless that is what is drawn, in one message."""
        self.waiting = None
        document, scene = self.figure.document, self.scene
        if document is None or scene is None:
            return
        frame, view = self._frame_size(), self._view_now(scene)
        self._show_names(scene, view)
        if not scene.shown.is_large:
            return
        if self.view is not None and frame == self.drawn_frame and _alike(view, self.view, frame):
            return
        document.hold("combine")
        try:
            self._draw_view(scene, view)
            self.turn += 1  # always another, else it would not be sent
            self.sources["drawn"].data = {"turn": [self.turn]}
        finally:
            document.unhold()

    def _rested(self, _attr: str, _old: Any, new: dict[str, Any]) -> None:
        """Say what lies under the mouse."""
        if self.scene is None:
            return
        x, y = float(new["x"][0]), float(new["y"][0])
        view, (width, _) = self._view_now(self.scene), self._frame_size()
        radius = figures.CLICK_PIXELS * (view.x1 - view.x0) / width
        found = detail.nearest(self.shown, self.state, x, y, radius)
        said: dict[str, Any] = {name: [] for name in SAID}
        if found is not None:
            kind, row = found
            place = self.shown.place(self.state, kind, slice(row, row + 1))[0].tolist()
            words = detail.told(self.shown, self.state, kind, row)
            said = {name: [value] for name, value in zip(SAID, [*place, kind, row], strict=False)}
            said |= {name: [text] for name, text in words.items()}
            if self.album is not None:
                said["picture"] = [marked(self.album, row)]
        if {name: list(value) for name, value in self.sources["near"].data.items()} != said:
            self.sources["near"].data = said

    # ---------------------------------------------------------------- what is shown

    def show(self, scene: Scene) -> None:
        """Write what the state asks for; points are only sent when another head or map moved them."""
        state, last = scene.state, self.last
        self.state = self.last = state
        self.scene = scene
        moved = last is None or any(getattr(state, name) != getattr(last, name) for name in MOVES)
        turned = last is None or (state.yaw, state.pitch) != (last.yaw, last.pitch)
        if scene.shown.is_large:
            self._show_large(scene, last)
        else:
            self._show_small(scene, moved=moved)
        if last is None or turned or state.dims != last.dims:
            self._show_camera(state)
        self._show_links(scene)
        self._show_selected(scene)
        self._show_live(scene)
        if self.album is not None:
            self._show_pictures(scene, self.album, moved=moved)
        another = last is None or any(getattr(state, name) != getattr(last, name) for name in REFITS)
        self._show_names(scene, self._whole(scene) if another else self._view_now(scene))

    def _show_names(self, scene: Scene, view: Extent) -> None:
        """Name some of the points in view, or of those that are picked out; a chosen token's sequence has its own names."""
        state, shown = scene.state, scene.shown
        found: list[tuple[Kind, IntArray]] = []
        is_named = state.labels and (self.album is None or not state.patches)
        if is_named and state.selected is None and scene.live is None:
            found = labels.named(scene, view, self._frame_size(), self.drawn_rows)
        solid = [shown.solid(state, kind, rows) for kind, rows in found]
        self.sources["names"].data = {
            "text": [_short(text) for _, rows in found for text in shown.index.tokens["text"].iloc[rows].astype(str)],
            **placed(np.concatenate([np.zeros((0, state.dims), dtype=np.float32), *solid]), state),
        }

    def _show_small(self, scene: Scene, *, moved: bool) -> None:
        """Write all points, or their colours alone, and their sizes where these have changed."""
        size = select.stressed(scene.shown, scene.state, scene.hit_rows)
        packed = select.packed_colours(scene.shown, scene.state, scene.colours, scene.hit_rows)
        if moved:
            self._show_points(scene, packed, size)
            return
        for kind in KINDS:
            source = self.sources[kind]
            source.data["colour"] = packed[kind]
            if not np.array_equal(source.data["size"], size[kind]):
                source.data["size"] = size[kind]

    def _show_large(self, scene: Scene, last: State | None) -> None:
        """Draw the view that the visitor has, or all of another map; what is in view is known before the browser says it."""
        state = scene.state
        another = last is None or any(getattr(state, name) != getattr(last, name) for name in REFITS)
        if last is None or any(getattr(state, name) != getattr(last, name) for name in SEEN_BY):
            held = detail.frame(scene.shown, state)
            if another:
                self.sources["frame"].data = {"x": [held.x0, held.x1], "y": [held.y0, held.y1]}
                self.sources["near"].data = {name: [] for name in SAID}
            self._draw_view(scene, self._whole(scene) if another else self._view_now(scene))

    def _draw_view(self, scene: Scene, view: Extent) -> None:
        """Write the image or the points of a view."""
        self.view, self.drawn_frame = view, self._frame_size()
        seen = detail.sight(scene, view, *self.drawn_frame)
        self.drawn_rows = None if seen.image is not None else seen.rows
        for kind in KINDS:
            rows = seen.rows[kind]
            if len(rows) or len(self.sources[kind].data.get("row", " ")):  # else there are none, as before
                columns = {"row": rows.astype(np.int32), "colour": seen.colour[kind], "size": seen.size[kind]}
                self.sources[kind].data = columns | placed(self.shown.solid(scene.state, kind, rows), scene.state)
        self.sources["raster"].data = _image(seen)
        for name, renderer in self.renderers.items():
            renderer.visible = (name == "raster") == (seen.image is not None)

    def _frame_size(self) -> tuple[int, int]:
        """Return width and height of the frame in pixels."""
        width, height = self.size["inner_width"], self.size["inner_height"]
        return (min(width, MOST_PIXELS), min(height, MOST_PIXELS)) if min(width, height) > 1 else FRAME

    def _whole(self, scene: Scene) -> Extent:
        if scene.shown.is_large:
            held = detail.frame(scene.shown, scene.state)
        else:
            (x0, x1), (y0, y1) = (self.sources["frame"].data[name] for name in ("x", "y"))
            held = Extent(float(x0), float(x1), float(y0), float(y1))
        return detail.whole_view(held, *self._frame_size())

    def _view_now(self, scene: Scene) -> Extent:
        """Return what the visitor has in view; before the browser has said it, the whole map."""
        x, y = self.figure.x_range, self.figure.y_range
        ends = (x.start, x.end, y.start, y.end)
        if not all(isinstance(end, int | float) and np.isfinite(end) for end in ends):
            return self._whole(scene)
        view = Extent(*(float(end) for end in ends))
        return view if view.x0 < view.x1 and view.y0 < view.y1 else self._whole(scene)

    def _show_points(self, scene: Scene, packed: dict[Kind, NDArray[np.uint32]], size: dict[Kind, FloatArray]) -> None:
        for kind, points in select.points(scene.shown, scene.state).items():
            columns: dict[str, Any] = {"row": points.row.astype(np.int32), "colour": packed[kind], "size": size[kind]}
            for i in range(select.N_TOP):
                columns[f"partner{i}"] = points.partner[:, i].astype(np.int32)
                columns[f"weight{i}"] = points.weight[:, i].astype(np.float32)
            self.sources[kind].data = columns | placed(points.place, scene.state)
        self.sources["frame"].data = _frame(scene)

    def _show_camera(self, state: State) -> None:
        figures.tool_of(self.figure, CustomAction).visible = state.dims == 3
        self.tells_camera = True
        self.sources["camera"].data = {"yaw": [state.yaw], "pitch": [state.pitch], "dims": [state.dims]}
        self.tells_camera = False

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
        if self.album is not None and state.patches:  # a patch is its own name
            chosen = _labels_without_patches(chosen)
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
        """Draw the live sentence, larger, with its strongest links; its queries and the keys that these end at are named."""
        state, view = scene.state, self._view_now(scene)
        live = select.live_points(scene, (view.x1 - view.x0) / self._frame_size()[0])
        for kind in KINDS:
            self.sources[f"live_{kind}"].data = placed(live.place[kind], state)
        self.sources["live_links"].data = segments(live.links, state, 1.0, least=0.15, width=2.0)
        hues = [QUERY_COLOUR[state.theme]] * len(live.text) + [KEY_COLOUR[state.theme]] * len(live.linked)
        self.sources["live_labels"].data = {
            "text": [*live.text, *(live.text[j] for j in live.linked)],
            "colour": hues,
            **placed(np.concatenate([live.place["query"], live.place["key"][live.linked]]), state),
        }

    def _show_pictures(self, scene: Scene, album: Album, *, moved: bool) -> None:
        """Say which patches are drawn first, and in which colours; of a large index also where some of them lie."""
        shown, state = scene.shown, scene.state
        if shown.is_large:
            packed = select.packed_colours(shown, state, scene.colours, scene.hit_rows)
            for kind in KINDS:
                source = self.sources[f"few_{kind}"]
                columns = {"row": shown.rows.astype(np.int32), "colour": packed[kind]}
                source.data = columns | placed(shown.solid(state, kind, shown.rows), state)
            place = [] if state.selected is None else [album.place_of(state.selected[1])[0]]
            self.sources["own_sprite"].data = {"place": place, "uri": [small(album, each) for each in place]}
        first = select.first_partners(shown, state)
        names = figures.renderer(self.figure, "labels").glyph
        names.x_offset, names.y_offset = (20, -16) if state.patches else (6, -4)  # beside the picture
        colours = THEMES[state.theme]
        self.turn += 1
        self.sources["look"].data = {
            "patches": [state.patches],
            "first_row": [[row for _, row in first]],
            "first_kind": [[KINDS.index(kind) for kind, _ in first]],
            "query": [QUERY_COLOUR[state.theme]],
            "key": [KEY_COLOUR[state.theme]],
            "ink": [colours["ink"]],
            "ground": [colours["line"]],
            "same": [state.colour == QUERY_KEY],
            "turn": [self.turn],  # always another, else it would not be sent
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


def _alike(one: Extent, other: Extent, frame: tuple[int, int]) -> bool:
    """Tell whether two views differ by less than half a pixel."""
    pixel = (other.x1 - other.x0) / frame[0]
    return max(abs(a - b) for a, b in zip(one, other, strict=True)) < pixel / 2


def _image(seen: detail.Sight) -> dict[str, Any]:
    """Return the image of a view, or none."""
    view, image = seen.view, seen.image
    if image is None:
        return {name: [] for name in ("image", "x", "y", "dw", "dh")}
    return {"image": [image], "x": [view.x0], "y": [view.y0], "dw": [view.x1 - view.x0], "dh": [view.y1 - view.y0]}


def _short(text: str) -> str:
    return text if len(text) <= MOST_CHARACTERS else text[: MOST_CHARACTERS - 1] + "\u2026"


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


def _large_sources() -> dict[str, ColumnDataSource]:
    """Return what is sent of a large index beside its points in view: no token but the one under the mouse."""
    names = ("raster", "mouse", "drawn", "tokens", "sentences")
    return {name: ColumnDataSource() for name in names} | {
        "near": ColumnDataSource({name: [] for name in SAID}),
        "camera": ColumnDataSource({"yaw": [0.0], "pitch": [0.0], "dims": [2]}),
    }


def _picture_sources(album: Album, shown: Shown, state: State) -> dict[str, ColumnDataSource]:
    """Return what patches are drawn from: the pictures of images that are drawn, small, and how they are cut."""
    places = np.unique(shown.sequence_number[shown.rows])[:MOST_SPRITES].tolist()
    sources = picture_sources({"place": places, "uri": [small(album, place) for place in places]})
    height, width = pixels(album, places[0]).shape[:2]
    grid = {name: getattr(album, name) for name in ("rows", "columns", "n_prefix", "patch_height", "patch_width")}
    named = [place_words(album, position, state.language) for position in range(album.n_tokens)]
    sources["pictures"].tags = [grid | {"n": album.n_tokens, "width": width, "height": height}, named]
    return sources


def _labels_without_patches(chosen: select.Chosen) -> select.Chosen:
    """Return what is chosen with the labels of the clicked token and of tokens that are no patch, such as [CLS]."""
    kept = [i for i, text in enumerate(chosen.label_text) if i == 0 or text.startswith("[")]
    return replace(
        chosen,
        label_place=chosen.label_place[kept],
        label_text=[chosen.label_text[i] for i in kept],
        label_kind=[chosen.label_kind[i] for i in kept],
    )


def _captions(shown: Shown) -> list[str]:
    """Return what the tooltips say of each sequence: its text; of an image or a sound, what it is called."""
    if shown.modality == "text":
        return shown.index.sequences["text"].astype(str).tolist()
    return [f" \u00b7 {caption(shown.index, place)}" for place in range(len(shown.index.sequences))]


def _fixed_sources(shown: Shown) -> dict[str, ColumnDataSource]:
    """Return what tooltips say of tokens: sent once, the same for every head."""
    tokens, sequences = shown.index.tokens, shown.index.sequences
    lengths = sequences["n_tokens"].to_numpy()
    start, end = (tokens[name].to_numpy(dtype=np.int32) for name in ("start", "end"))
    if shown.modality != "text":  # after every token comes the whole name
        start, end = np.zeros_like(start), np.zeros_like(end)
    return {
        "tokens": ColumnDataSource(
            {
                "text": tokens["text"].astype(str).tolist(),
                "sentence": shown.sequence_number.astype(np.int32),
                "position": tokens["position"].to_numpy(dtype=np.int32),
                "start": start,
                "end": end,
                "length": np.repeat(lengths, lengths).astype(np.int32),
            }
        ),
        "sentences": ColumnDataSource({"text": _captions(shown)}),
        "near": ColumnDataSource({"x": [], "y": [], "kind": [], "index": []}, syncable=False),  # the browser's own
        "camera": ColumnDataSource({"yaw": [0.0], "pitch": [0.0], "dims": [2]}),
    }
