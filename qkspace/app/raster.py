"""Raster: points as pixels, where there are too many to draw one by one.

In: places, kinds and colours of points. Out: images as Bokeh's image_rgba takes them (uint32 of RGBA bytes, row 0 at the
bottom). Knows no heads and draws nothing else.

Queries and keys are counted apart, and each kind's counts are equalised by their own histogram, so that the commoner
never drowns the rarer; a pixel that holds anything is more than half opaque.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from qkspace.schema import BoolArray, FloatArray, IntArray, QKSpaceError

Image = NDArray[np.uint32]  # (height, width)
QUERY, KEY = 0, 1  # the kind of a point, and its place on the first axis of a stored map
LEVELS = 65_536  # steps of a quantised coordinate
NOWHERE = LEVELS - 1  # the coordinate of a point that lies outside or nowhere (nan)
SQUARES = np.arange(256, dtype=np.float64) ** 2
LEAST_ALPHA = 0.55  # of a pixel that holds a single point
MAX_COUNT = 4_095  # counts above are drawn alike
FOOTPRINTS = {  # pixels that a point covers beside its own, by its diameter
    2: [(0, 0), (1, 0), (0, 1), (1, 1)],
    3: [(0, 0), (-1, 0), (1, 0), (0, -1), (0, 1)],
    4: [(x, y) for x in range(-1, 3) for y in range(-1, 3) if x in (0, 1) or y in (0, 1)],
}
FADED = 0.16  # opacity of what does not stand out


class Extent(NamedTuple):
    """The part of a map that an image shows."""

    x0: float
    x1: float
    y0: float
    y1: float


@dataclass(frozen=True, slots=True)
class Places:
    """Coordinates of points within an extent, in steps of 1 / LEVELS of it: x and y (point); NOWHERE outside."""

    x: NDArray[np.uint16]
    y: NDArray[np.uint16]


def quantise(x: FloatArray, y: FloatArray, extent: Extent) -> Places:
    """Return the places of points within an extent; nan is nowhere."""
    column, row = _steps(x, extent.x0, extent.x1), _steps(y, extent.y0, extent.y1)
    out = (column == NOWHERE) | (row == NOWHERE)
    column[out] = row[out] = NOWHERE
    return Places(column, row)


def _steps(values: FloatArray, low: float, high: float) -> NDArray[np.uint16]:
    if not low < high:
        raise QKSpaceError(f"An extent goes from a number to a larger one; got {low:g} to {high:g}.")
    step = (np.asarray(values, dtype=np.float32) - np.float32(low)) * np.float32(LEVELS / (high - low))
    inside = (step >= 0) & (step <= LEVELS)  # False for nan
    return np.where(inside, np.minimum(step, NOWHERE - 1), NOWHERE).astype(np.uint16)


def rasterise(
    x: FloatArray,
    y: FloatArray,
    colour: NDArray[np.uint32],
    extent: Extent,
    width: int,
    height: int,
    *,
    kind: IntArray | None = None,
    strong: BoolArray | None = None,
    spread: int | None = None,
    alpha: float = 1.0,
) -> Image:
    """Draw points as an image of an extent, (height, width), transparent where there is none.

    Args:
        x: (point), as y and all of one value a point; nan is not drawn.
        y: see x.
        colour: packed 0xRRGGBBAA; the alpha is not used, as opacity says how many points a pixel holds.
        extent: what the image shows.
        width: in pixels.
        height: in pixels.
        kind: QUERY or KEY; without it all are of one kind.
        strong: points that stand out: opaque, larger and above the others, which are faded.
        spread: diameter of a point in pixels, 1 to 4; by default larger where points are few.
        alpha: opacity of the whole image.
    """
    kind = np.zeros(len(x), dtype=np.uint8) if kind is None else kind
    return paint(quantise(x, y, extent), colour, kind, width, height, strong=strong, spread=spread, alpha=alpha)


def paint(
    places: Places,
    colour: NDArray[np.uint32],
    kind: IntArray,
    width: int,
    height: int,
    *,
    strong: BoolArray | None = None,
    spread: int | None = None,
    most: int = 3,
    alpha: float = 1.0,
) -> Image:
    """Draw quantised points, as `rasterise` does; most: diameter of a point where points are few, 3 or 4."""
    image = np.zeros((height * width, 4), dtype=np.uint8)
    spread = spread or _spread(len(places.x), width * height, most)
    if strong is None:
        layers = [(places.x != NOWHERE, spread, alpha, False)]
    else:
        inside = places.x != NOWHERE
        n_strong = int(np.count_nonzero(strong))
        larger = max(spread, _spread(n_strong, width * height, most))
        layers = [(inside & ~strong, spread, alpha * FADED, False), (inside & strong, larger, 1.0, True)]
    for chosen, size, opacity, opaque in layers:
        if not chosen.any():
            continue
        point = slice(None) if chosen.all() else np.flatnonzero(chosen)
        pixel, of = _pixels(places, point, width, height, size)
        lit, light, level = _blend(pixel, kind[of], colour[of], width * height)
        image[lit, :3] = np.sqrt(light).T + 0.5
        image[lit, 3] = np.full(len(lit), 255) if opaque else level * (255 * opacity) + 0.5
    return image.view(np.uint32).reshape(height, width)


def _spread(n_points: int, n_pixels: int, most: int) -> int:
    """Choose the diameter of a point: few points are drawn larger, so that each can be seen."""
    share = n_points / n_pixels
    if most == 4:
        return 1 if share > 0.6 else 2 if share > 0.3 else 3 if share > 0.12 else 4
    return 1 if share > 0.45 else 2 if share > 0.08 else 3


def _pixels(places: Places, point: IntArray | slice, width: int, height: int, spread: int) -> tuple[IntArray, Any]:
    """Return the pixels that points cover, and which point covers each; diameter 2 is a square, 3 a plus, 4 a disc.

    point: the numbers of the points, or all of them.
    """
    column = (places.x[point].astype(np.int64) * width) >> 16
    row = (places.y[point].astype(np.int64) * height) >> 16
    if spread == 1:
        return row * width + column, point
    offset = np.asarray(FOOTPRINTS[spread])
    columns, rows = column[:, None] + offset[:, 0], row[:, None] + offset[:, 1]
    inside = (columns >= 0) & (columns < width) & (rows >= 0) & (rows < height)
    number = np.arange(len(places.x))[point]
    return (rows * width + columns)[inside], np.broadcast_to(number[:, None], columns.shape)[inside]


def _blend(
    pixel: IntArray, kind: IntArray, colour: NDArray[np.uint32], n_pixels: int
) -> tuple[IntArray, FloatArray, FloatArray]:
    """Mix the points of each pixel: lit pixels, their light (channel, lit) and how full they are (lit), from 0 to 1.

    Light adds, and screens show about its square root: channels are squared, averaged within a kind by count and between
    the kinds by how full the pixel is of each.
    """
    of_kind = kind.astype(np.int64) * n_pixels + pixel
    counts = np.bincount(of_kind, minlength=2 * n_pixels).reshape(2, n_pixels)
    lit = np.flatnonzero(counts[QUERY] | counts[KEY])
    count = counts[:, lit]
    level = np.stack([_level(count[QUERY]), _level(count[KEY])]).astype(np.float32)
    weight = np.square(level)
    weight /= weight.sum(axis=0)
    light = np.empty((3, len(lit)), dtype=np.float32)
    plain = [_only_colour(colour, kind == which) for which in (QUERY, KEY)]
    for channel, byte in enumerate((3, 2, 1)):  # of a little-endian 0xRRGGBBAA
        if plain[QUERY] is not None and plain[KEY] is not None:
            mean: Any = SQUARES[[[colour_bytes[byte]] for colour_bytes in plain if colour_bytes is not None]]
        else:
            squares = SQUARES[_bytes(colour)[:, byte]]
            sums = np.bincount(of_kind, weights=squares, minlength=2 * n_pixels).reshape(2, n_pixels)[:, lit]
            mean = sums / np.maximum(count, 1)
        light[channel] = (weight * mean).sum(axis=0)
    return lit, light, level.max(axis=0)


def _bytes(colour: NDArray[np.uint32]) -> NDArray[np.uint8]:
    """Return packed colours as alpha, blue, green and red: (point, 4)."""
    return np.ascontiguousarray(colour, dtype="<u4").view(np.uint8).reshape(-1, 4)


def _only_colour(colour: NDArray[np.uint32], among: BoolArray) -> NDArray[np.uint8] | None:
    """Return the bytes of the colour that some points all have (any where there are none); None where they have several."""
    first = int(np.argmax(among))
    same = (colour == colour[first]) | ~among
    return _bytes(colour[first : first + 1])[0] if bool(same.all()) or not among.any() else None


def _level(count: IntArray) -> FloatArray:
    """Equalise the histogram of the counts of one kind: 0 for none, LEAST_ALPHA for the fewest, 1 for the most."""
    capped = np.minimum(count, MAX_COUNT)
    histogram = np.bincount(capped, minlength=2)
    histogram[0] = 0
    n = int(histogram.sum())
    if n == 0:
        return np.zeros(len(count))
    below = np.cumsum(histogram) / n
    fewest = below[int(np.flatnonzero(histogram)[0])]
    share = (below - fewest) / (1 - fewest) if fewest < 1 else np.ones(len(below))
    table = LEAST_ALPHA + (1 - LEAST_ALPHA) * share
    table[0] = 0
    return np.asarray(table[capped])
