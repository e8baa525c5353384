"""Labels: which tokens are named on the map, so that no name lies over another.

In: a `Scene` and the part of it in view. Out: which rows to name. Draws nothing. A point keeps its rank, so that names stay
while one zooms in and others join them.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from qkspace.app.raster import Extent
from qkspace.app.select import KINDS, Scene, emphasis
from qkspace.app.state import Kind
from qkspace.schema import BoolArray, FloatArray, IntArray

CANDIDATES = 600  # points in view, by rank, that are tried
CROWD = 1_500  # points in view: above, only a few of the many are named
FEW, MANY = 18, 70  # names at most, in a crowd and else
CHARACTER, HEIGHT = 6.5, 15  # pixels of a name
MIX = np.uint64(0x9E3779B97F4A7C15)  # 2^64 over the golden ratio: products of it are spread evenly


def rank(rows: IntArray) -> NDArray[np.uint64]:
    """Return the rank of each row, the same for ever: evenly spread, lowest first."""
    return rows.astype(np.uint64) * MIX


def choose(
    place: FloatArray,
    rows: IntArray,
    length: IntArray,
    name: IntArray,
    view: Extent,
    frame: tuple[int, int],
    wanted: BoolArray,
) -> IntArray:
    """Return which points are named, in the order of their rank.

    Args:
        place: on the screen, (point, 2).
        rows: of the points, by which they are ranked.
        length: characters of each name.
        name: a number that equal names share; in a crowd each is written once.
        view: what of the map is in view.
        frame: its width and height in pixels.
        wanted: points that may be named.
    """
    x = (place[:, 0] - view.x0) / (view.x1 - view.x0) * frame[0]
    y = (place[:, 1] - view.y0) / (view.y1 - view.y0) * frame[1]
    inside = np.flatnonzero(wanted & (x > 0) & (x < frame[0] - 20) & (y > 0) & (y < frame[1] - HEIGHT))
    is_crowd = len(inside) > CROWD
    most = FEW if is_crowd else MANY
    written: set[int] = set()
    tried = inside[np.argsort(rank(rows[inside]), kind="stable")[:CANDIDATES]]
    width = CHARACTER * length + 8
    taken = np.zeros((0, 3))  # x, y and width of each name
    chosen: list[int] = []
    for i in tried.tolist():
        if is_crowd and int(name[i]) in written:
            continue
        apart = (
            (x[i] >= taken[:, 0] + taken[:, 2])
            | (taken[:, 0] >= x[i] + width[i])
            | (np.abs(taken[:, 1] - y[i]) >= HEIGHT)
        )
        if apart.all():
            chosen.append(i)
            written.add(int(name[i]))
            taken = np.vstack([taken, (x[i], y[i], width[i])])
            if len(chosen) == most:
                break
    return np.asarray(chosen, dtype=np.int64)


def named(
    scene: Scene, view: Extent, frame: tuple[int, int], rows: dict[Kind, IntArray] | None
) -> list[tuple[Kind, IntArray]]:
    """Return which tokens are named on the map: of those drawn (`rows`, or all that `Shown` draws), or picked out."""
    shown, state = scene.shown, scene.state
    drawn = {kind: shown.rows if rows is None else rows[kind] for kind in KINDS}
    both = np.concatenate([drawn[kind] for kind in KINDS])
    place = np.concatenate([shown.place(state, kind, drawn[kind]) for kind in KINDS])
    wanted = np.isfinite(place).all(axis=1)
    if rows is None:
        strong = [emphasis(shown, state, kind, scene.hit_rows) for kind in KINDS]
        if strong[0] is not None and strong[1] is not None:
            wanted &= np.concatenate([strong[0], strong[1]])
    n_queries = len(drawn["query"])
    name = 2 * shown.text_code[both] + (np.arange(len(both)) >= n_queries)  # a query and a key are two things
    chosen = choose(place, both, shown.text_length[both], name, view, frame, wanted)
    queries, keys = chosen[chosen < n_queries], chosen[chosen >= n_queries] - n_queries
    return [("query", drawn["query"][queries]), ("key", drawn["key"][keys])]
