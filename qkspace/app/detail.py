"""Detail: the map of a large index, which shows all its tokens: an image of them, or the points in view once they are few.

In: a `Scene` and the part of the map in view. Out: a `Sight` of it, the point nearest to a place, and what is said of that
point. Points are sorted for viewports once a map. Knows no widgets.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qkspace import store
from qkspace.app import select
from qkspace.app.language import say
from qkspace.app.pictures import album_of, caption, place_words
from qkspace.app.raster import KEY, QUERY, Extent, Image, paint, quantise
from qkspace.app.select import KINDS, Scene, Shown
from qkspace.app.state import Kind, State
from qkspace.schema import BoolArray, FloatArray, IntArray

DETAIL_POINTS = 20_000  # more than that in view are drawn as an image
DRAGGED_POINTS = 10_000  # stand for the image while a map in space is turned
PADDING = 0.06  # of the ranges of the map, as Bokeh adds it
CONTEXT = 70  # characters of a sentence before and after a token
LARGEST = 1.7  # how much larger than usual few points are drawn


@dataclass(frozen=True, slots=True)
class Detail:
    """The points of one head, sorted for a viewport: columns of equally many points by x, each sorted by y.

    x, y, kind and order (the point's own number) in that order; starts: (column + 1); left, right: ends of each column.
    """

    x: FloatArray
    y: FloatArray
    kind: NDArray[np.uint8]
    order: IntArray
    starts: IntArray
    left: FloatArray
    right: FloatArray

    def visible(self, view: Extent) -> IntArray:
        """Return the numbers of the points in view, ascending."""
        near = self._near(view)
        x = self.x[near]
        return np.sort(self.order[near][(x >= view.x0) & (x <= view.x1)])

    def drawn(self, view: Extent, most: int = DETAIL_POINTS) -> IntArray | None:
        """Return the points in view where they can be drawn one by one; None where they are more and need an image."""
        first, last = self._spans(view)
        inner = (self.left >= view.x0) & (self.right <= view.x1)
        if int((last - first)[inner].sum()) > most:
            return None  # seen without looking at a point
        points = self.visible(view)
        return points if len(points) <= most else None

    def raster(
        self,
        view: Extent,
        width: int,
        height: int,
        colour: NDArray[np.uint32],
        strong: BoolArray | None = None,
        *,
        most: int = 3,
    ) -> Image:
        """Draw the view; colour and strong: one value a point, in the order of the points; most: see `paint`."""
        near = self._near(view)
        order = self.order[near]
        places = quantise(self.x[near], self.y[near], view)
        chosen = None if strong is None else strong[order]
        return paint(places, colour[order], self.kind[near], width, height, strong=chosen, most=most)

    def nearest_point(self, x: float, y: float, radius: float) -> int | None:
        """Return the number of the point nearest to a place, no further than `radius`; None if there is none."""
        near = self._near(Extent(x - radius, x + radius, y - radius, y + radius))
        distance = np.hypot(self.x[near].astype(np.float64) - x, self.y[near].astype(np.float64) - y)
        if len(distance) == 0:
            return None
        best = float(distance.min())
        return int(self.order[near][distance == best].min()) if best <= radius else None

    def _spans(self, view: Extent) -> tuple[IntArray, IntArray]:
        """Return where the points between y0 and y1 lie in each column: first and after the last, equal where none."""
        first, last = self.starts[:-1].copy(), self.starts[:-1].copy()
        low, high = self.y.dtype.type(view.y0), self.y.dtype.type(view.y1)  # else each search would convert its column
        for i in np.flatnonzero((self.right >= view.x0) & (self.left <= view.x1)).tolist():
            y = self.y[self.starts[i] : self.starts[i + 1]]
            first[i] += np.searchsorted(y, low, side="left")
            last[i] += np.searchsorted(y, high, side="right")
        return first, last

    def _near(self, view: Extent) -> Any:
        """Return the points of the columns in view between y0 and y1, as a slice where they are all there is."""
        first, last = self._spans(view)
        some = np.flatnonzero(last > first)
        if len(some) == 0:
            return slice(0, 0)
        if (first[some[1:]] == last[some[:-1]]).all():
            return slice(int(first[some[0]]), int(last[some[-1]]))
        return np.concatenate([np.arange(first[i], last[i]) for i in some])


def detail_of(x: FloatArray, y: FloatArray, kind: IntArray) -> Detail:
    """Sort the points of a head, (point) each, for viewports; points that are nowhere (nan) are left out."""
    point: IntArray = np.flatnonzero(np.isfinite(x) & np.isfinite(y))
    point = point[np.argsort(x[point])]
    n_columns = max(1, min(round(math.sqrt(len(point)) / 4), np.iinfo(np.uint16).max))
    starts: IntArray = np.linspace(0, len(point), n_columns + 1).astype(np.int64)
    by_x = x[point]
    left, right = by_x[starts[:-1]] if len(point) else by_x, by_x[starts[1:] - 1] if len(point) else by_x
    column = np.repeat(np.arange(n_columns, dtype=np.uint16), np.diff(starts))
    by_y = np.argsort(y[point])
    point = point[by_y[np.argsort(column[by_y], kind="stable")]]  # of 16 bits: a radix sort
    if len(point) == 0:
        starts = starts[:1]
    return Detail(x[point], y[point], kind[point].astype(np.uint8), point.astype(np.int32), starts, left, right)


def head_detail(shown: Shown, state: State) -> Detail:
    """Return the points of the chosen map as they are on the screen: queries numbered by their rows, then keys."""
    yaw, pitch = (state.yaw, state.pitch) if state.dims == 3 else (0.0, 0.0)
    asked = State(
        layer=state.layer, head=state.head, method=state.method, dims=state.dims, yaw=yaw, pitch=pitch
    )  # and no more, so that others find it again
    return _head_detail(shown, asked)


@lru_cache(maxsize=4)
def _head_detail(shown: Shown, state: State) -> Detail:
    """Read and sort the points; 13 bytes of each are kept."""
    place = np.concatenate([shown.place(state, kind, slice(None)) for kind in KINDS])
    kind = np.repeat(np.asarray([QUERY, KEY], dtype=np.uint8), shown.index.n_tokens)
    return detail_of(np.ascontiguousarray(place[:, 0]), np.ascontiguousarray(place[:, 1]), kind)


@dataclass(frozen=True, slots=True)
class Sight:
    """What is drawn of a view: an image, or rows of each kind whose points lie in it, with their colours and sizes.

    Where there is an image of a map in space, the rows are a sample that is drawn while the map is turned.
    """

    view: Extent
    image: Image | None
    rows: dict[Kind, IntArray]
    colour: dict[Kind, NDArray[np.uint32]]
    size: dict[Kind, FloatArray]


def sight(scene: Scene, view: Extent, width: int, height: int) -> Sight:
    """Draw the part of a map that is in view, width x height pixels."""
    shown, state = scene.shown, scene.state
    detail, n = head_detail(shown, state), shown.index.n_tokens
    drawn, image = detail.drawn(view, DETAIL_POINTS), None
    if drawn is None:
        image = detail.raster(view, width, height, *_look(scene), most=4)
        sample = np.zeros(0, dtype=np.int64) if state.dims == 2 else shown.rows[:: _step(len(shown.rows))]
        rows: dict[Kind, IntArray] = dict.fromkeys(KINDS, sample)
    else:
        split = int(np.searchsorted(drawn, n))
        rows = {"query": drawn[:split], "key": drawn[split:] - n}
    n_drawn = max(1, sum(len(of) for of in rows.values()))
    larger = min(LARGEST, (DETAIL_POINTS / n_drawn) ** 0.2) if image is None else 1.0  # 1 where the image gives way
    size = {kind: of * np.float32(larger) for kind, of in select.sizes(shown, state, rows).items()}
    return Sight(view, image, rows, select.packed_colours(shown, state, scene.colours, scene.hit_rows, rows), size)


def _step(n_rows: int) -> int:
    return max(1, -(-2 * n_rows // DRAGGED_POINTS))


def _look(scene: Scene) -> tuple[NDArray[np.uint32], BoolArray | None]:
    """Return the colours of all points, and which stand out: (point) each, queries and then keys."""
    every = slice(None)
    strong = [select.emphasis(scene.shown, scene.state, kind, scene.hit_rows, every) for kind in KINDS]
    found = [mask for mask in strong if mask is not None]
    colour = np.concatenate([scene.colours.query, scene.colours.key])
    return colour, np.concatenate(found) if found else None


def frame(shown: Shown, state: State) -> Extent:
    """Return what the map must hold: all points, and in space most of them however it is turned."""
    if state.dims == 2:
        return _frame(shown, State(layer=state.layer, head=state.head, method=state.method))
    middle, radius = _ball(shown, State(layer=state.layer, head=state.head, method=state.method, dims=3))
    x, y = select.seen(np.asarray([middle], dtype=np.float32), state)[0].tolist()
    return Extent(x - radius, x + radius, y - radius, y + radius)


@lru_cache(maxsize=16)
def _frame(shown: Shown, state: State) -> Extent:
    detail = head_detail(shown, state)
    if not len(detail.x):
        return Extent(0.0, 1.0, 0.0, 1.0)
    ends = (detail.left[0], detail.right[-1], detail.y.min(), detail.y.max())
    return Extent(*(float(end) for end in ends))


@lru_cache(maxsize=16)
def _ball(shown: Shown, state: State) -> tuple[tuple[float, ...], float]:
    """Return the middle of a map in space, and how far from it all but a thousandth of its points lie."""
    place = np.concatenate([shown.solid(state, kind, slice(None)) for kind in KINDS])
    place = place[np.isfinite(place).all(axis=1)]
    if not len(place):
        return (0.0, 0.0, 0.0), 1.0
    middle = place.mean(axis=0, dtype=np.float64)
    radius = float(np.quantile(np.linalg.norm(place - middle.astype(np.float32), axis=1), 0.999))
    return tuple(middle.tolist()), radius or 1.0


def whole_view(held: Extent, width: int, height: int) -> Extent:
    """Return the ranges that Bokeh gives a figure of matched aspect, in pixels, so that it holds an extent."""
    across, up = held.x1 - held.x0 or 1.0, held.y1 - held.y0 or 1.0
    unit = max(across / width, up / height) * (1 + PADDING)
    x, y = (held.x0 + held.x1) / 2, (held.y0 + held.y1) / 2
    return Extent(x - unit * width / 2, x + unit * width / 2, y - unit * height / 2, y + unit * height / 2)


def nearest(shown: Shown, state: State, x: float, y: float, radius: float) -> tuple[Kind, int] | None:
    """Return kind and row of the point nearest to a place on the map, no further than `radius`; None if there is none.

    While a sequence is picked out, its points come before all others.
    """
    if state.selected is not None:
        span = shown.sequence_rows(state.selected[1])
        place = np.stack([shown.place(state, kind, span) for kind in KINDS])
        distance = np.hypot(place[..., 0] - x, place[..., 1] - y)
        if np.nanmin(distance, initial=np.inf) <= radius:
            which, at = np.unravel_index(int(np.nanargmin(distance)), distance.shape)
            return KINDS[int(which)], span.start + int(at)
    point = head_detail(shown, state).nearest_point(x, y, radius)
    if point is None:
        return None
    i, row = divmod(point, shown.index.n_tokens)
    return KINDS[i], row


def told(shown: Shown, state: State, kind: Kind, row: int) -> dict[str, str]:
    """Return what a tooltip says of a point: token, the sentence before and after it, where it stands, and partners."""
    tokens, span = shown.index.tokens, shown.sequence_rows(row)
    position, start, end = (int(tokens[name].iloc[row]) for name in ("position", "start", "end"))
    place = int(shown.sequence_number[row])
    album = album_of(shown.index)
    sentence = str(shown.index.sequences["text"].iloc[place])
    if shown.modality != "text":  # the name of a picture or a sound
        sentence, start, end = f" \u00b7 {caption(shown.index, place)}", 0, 0
    before = after = ""
    if start >= 0:
        before = ("\u2026" if start > CONTEXT else "") + sentence[max(0, start - CONTEXT) : start]
        after = sentence[end : end + CONTEXT] + ("\u2026" if len(sentence) > end + CONTEXT else "")
    elif position == 0:
        after = " " + sentence[:80]
    named = [
        f"{tokens['text'].iloc[other]} {100 * weight:.0f} %" for other, weight in partners(shown, state, kind, row)
    ]
    sentence_of = "tooltip_attends" if kind == "query" else "tooltip_attended"
    values = {"kind": say(state.language, kind), "head": shown.head(state).name, "i": position + 1}
    values["at"] = "" if album is None else place_words(album, position, state.language)
    return {
        "token": str(tokens["text"].iloc[row]),
        "before": before,
        "after": after,
        "where": say(state.language, "tooltip_where", **values, n=span.stop - span.start),
        "partners": say(state.language, sentence_of, tokens=" \u00b7 ".join(named)) if named else "",
    }


def partners(shown: Shown, state: State, kind: Kind, row: int) -> list[tuple[int, float]]:
    """Return rows and attention of a query's top keys or a key's top queries, as `select.points` does for all."""
    span = slice(row, row + 1) if kind == "query" else shown.sequence_rows(row)
    key, attention = (
        store.read_array(shown.index.root / name / f"L{state.layer:02d}.npy")[state.head, span]
        for name in ("top_key", "top_attention")
    )
    weight = store.float_array(attention)
    if kind == "query":
        found = [(int(k), float(w)) for k, w in zip(key[0], weight[0], strict=True) if k >= 0]
        return found[: select.N_TOP]
    query, which = np.nonzero(key == row)
    order = np.argsort(-weight[query, which], kind="stable")[: select.N_TOP]
    return [(span.start + int(query[i]), float(weight[query[i], which[i]])) for i in order]
