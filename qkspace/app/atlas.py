"""Atlas: the maps of all heads as one image with a table of its cells, and the order in which heads come.

In: an index and a `State`, or whatever else says what each cell shows (`Look`). Out: a mosaic of rasters, tables and orders
of heads. Knows no widgets.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Protocol

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from qkspace import store
from qkspace.app.colours import colour_of_share, colour_tokens
from qkspace.app.language import strings
from qkspace.app.raster import KEY, NOWHERE, QUERY, Extent, Image, Places, paint, quantise
from qkspace.app.select import NORM, OF_A_HEAD, Shown, colouring
from qkspace.app.state import Language, State
from qkspace.report import verdict
from qkspace.schema import BoolArray, FloatArray, IntArray, QKSpaceError

UNBELIEVED = 0.35  # opacity of a map that must not be believed
CELL_TOKENS = 4_000  # whole sequences of at most so many tokens stand for the corpus in a cell of the atlas
EXTRA_HITS = 2_000  # hits outside these sequences that are drawn too
ROBUST = (0.5, 99.5)  # percentiles between which a map lies; it is cut there only where outliers would shrink it
# What is best, or clearest, where it is low: sorted by it, the lowest comes first unless one asks otherwise.
LOW_FIRST = ("attention_kl", "weighted_correlation", "spearman", "entropy")


@dataclass(frozen=True, slots=True)
class Mosaic:
    """The atlas: maps of heads side by side in one image.

    cells: one value a head that is shown: index (its row in `Shown.head_table`), layer, head, name, row and column in the
    grid, x0, x1, y0, y1 (its place in the image, pixels from the bottom left), mapped, and outside (share of its points
    that lie beyond its cell). place: the part of the mosaic that the image shows, in the pixels that the cells are given
    in: all of it, or the cells in view, which may be drawn finer.
    """

    image: Image
    cells: dict[str, NDArray[Any]]
    cell_px: int
    width: int
    height: int
    place: Extent


def mosaic(
    shown: Shown,
    state: State,
    *,
    cell_px: int,
    heads_order: IntArray | None = None,
    columns: int | None = None,
    gap: int = 4,
    title_px: int = 0,
    hits: IntArray | None = None,
    fade_unbelieved: bool = False,
    n_tokens: int = CELL_TOKENS,
    view: Extent | None = None,
    finer: int = 1,
) -> Mosaic:
    """Draw the map of every head by the chosen method, coloured as the single map is.

    Args:
        shown: what is drawn of the index; the cells show the same whole sequences of it.
        state: the method, the colour and the theme count.
        cell_px: width and height of a cell.
        heads_order: rows of `shown.head_table`, laid out in reading order; without it layer down and head across.
        columns: of the grid, where heads_order is given.
        gap: pixels between cells.
        title_px: room above each cell.
        hits: rows of the index that stand out, all else being faded.
        fade_unbelieved: whether a map that must not be believed is drawn faint.
        n_tokens: tokens of a cell at most.
        view: only cells that are in it are drawn, after zooming; all are in the table.
        finer: pixels of the image to a pixel of cell_px; of use with `view`.
    """
    table = shown.head_table
    dim = _unbelieved(table, state.method) & fade_unbelieved
    return draw(
        table,
        _Look(shown, state, _cell_places(shown, state.method, n_tokens), hits, n_tokens, dim),
        cell_px=cell_px,
        heads_order=heads_order,
        columns=columns,
        gap=gap,
        title_px=title_px,
        view=view,
        finer=finer,
    )


class Look(Protocol):
    """What the cells of a mosaic show. mapped, outside: see `Mosaic`, (row of the table of heads)."""

    @property
    def mapped(self) -> BoolArray: ...  # noqa: D102
    @property
    def outside(self) -> FloatArray: ...  # noqa: D102
    def cell(self, i: int, cell_px: int) -> Image: ...  # noqa: D102


def draw(
    table: pd.DataFrame,
    look: Look,
    *,
    cell_px: int,
    heads_order: IntArray | None = None,
    columns: int | None = None,
    gap: int = 4,
    title_px: int = 0,
    view: Extent | None = None,
    finer: int = 1,
) -> Mosaic:
    """Lay out the cells of all heads and draw them; table: layer and head of each; for the rest see `mosaic`."""
    if cell_px < 1 or (columns is not None and columns < 1):
        raise QKSpaceError(f"A cell and a grid have at least one pixel and column; got {cell_px} and {columns}.")
    order = np.arange(len(table)) if heads_order is None else np.asarray(heads_order, dtype=np.int64)
    if heads_order is None:
        row, column = table["layer"].to_numpy(), table["head"].to_numpy()
    else:
        columns = columns or max(1, math.ceil(math.sqrt(1.6 * len(order))))
        row, column = np.divmod(np.arange(len(order)), columns)
    n_rows, n_columns = (int(at.max()) + 1 if len(at) else 1 for at in (row, column))
    step_x, step_y = cell_px + gap, cell_px + title_px + gap
    width, height = n_columns * step_x - gap, n_rows * step_y - gap
    x0, y0 = column * step_x, height - row * step_y - title_px - cell_px
    drawn = np.ones(len(order), dtype=bool) if view is None else _in_view(x0, y0, cell_px, view)
    place = Extent(0, width, 0, height)
    if view is not None and drawn.any():
        lefts, bottoms = x0[drawn], y0[drawn]
        place = Extent(lefts.min(), lefts.max() + cell_px, bottoms.min(), bottoms.max() + cell_px)
    image = np.zeros((finer * int(place.y1 - place.y0), finer * int(place.x1 - place.x0)), dtype=np.uint32)
    size = finer * cell_px
    for i in np.flatnonzero(drawn).tolist():
        left, bottom = finer * int(x0[i] - place.x0), finer * int(y0[i] - place.y0)
        image[bottom : bottom + size, left : left + size] = look.cell(int(order[i]), size)
    layer, head = table["layer"].to_numpy()[order], table["head"].to_numpy()[order]
    cells = {
        "index": order,
        "layer": layer,
        "head": head,
        "name": np.asarray([f"L{a}H{b}" for a, b in zip(layer, head, strict=True)], dtype=object),
        "row": row,
        "column": column,
        "x0": x0,
        "x1": x0 + cell_px,
        "y0": y0,
        "y1": y0 + cell_px,
        "mapped": look.mapped[order],
        "outside": look.outside[order],
    }
    return Mosaic(image, cells, cell_px, width, height, place)


def _in_view(x0: IntArray, y0: IntArray, cell_px: int, view: Extent) -> BoolArray:
    across = (x0 < view.x1) & (x0 + cell_px > view.x0)
    return np.asarray(across & (y0 < view.y1) & (y0 + cell_px > view.y0))


def cell_size(n_rows: int, n_columns: int, width: int, height: int, *, gap: int = 4, title_px: int = 0) -> int:
    """Return the largest cell, in pixels, of which a grid fits into so many."""
    across = (width + gap) // n_columns - gap
    down = (height + gap) // n_rows - gap - title_px
    return max(1, min(across, down))


def best_columns(n_cells: int, width: int, height: int, *, gap: int = 4, title_px: int = 0) -> int:
    """Return the number of columns for which cells in reading order are largest; the fewest of equals."""
    sizes = [
        cell_size(-(-n_cells // columns), columns, width, height, gap=gap, title_px=title_px)
        for columns in range(1, n_cells + 1)
    ]
    return int(np.argmax(sizes)) + 1 if sizes else 1


@dataclass(frozen=True, slots=True)
class CellPlaces:
    """Places of the sample in every head's cell.

    rows: (token); x, y: (head, query or key, token), and so are places of several checkpoints, which come before the kind;
    extent: (head, 4); mapped, outside: see `Mosaic`, (head).
    """

    rows: IntArray
    x: NDArray[np.uint16]
    y: NDArray[np.uint16]
    extent: FloatArray
    mapped: BoolArray
    outside: FloatArray


def cell_places(
    heads: Sequence[tuple[int, int]],
    rows: IntArray,
    read: Callable[[int, int], FloatArray],
    shape: tuple[int, ...] = (2,),
) -> CellPlaces:
    """Read the sample's places from every head's map, once: 16 bytes a token and head are kept, whatever the cell size.

    read: of a layer and a head, (*shape, row, 2); shape: query and key, of several checkpoints (checkpoint, 2), which share
    the extent of a cell.
    """
    x = np.full((len(heads), *shape, len(rows)), NOWHERE, dtype=np.uint16)
    y = np.full_like(x, NOWHERE)
    extents = np.full((len(heads), 4), np.nan)
    outside = np.zeros(len(heads))
    for i, (layer, head) in enumerate(heads):
        place = read(layer, head)
        extent = cell_extent(place)
        if extent is None:
            continue
        found = quantise(place[..., 0], place[..., 1], extent)
        x[i], y[i], extents[i] = found.x, found.y, extent
        outside[i] = float((found.x == NOWHERE).mean())
    return CellPlaces(rows, x, y, extents, ~np.isnan(extents[:, 0]), outside)


@lru_cache(maxsize=4)
def _cell_places(shown: Shown, method: str, n_tokens: int) -> CellPlaces:
    """Return the places of an index's own maps."""
    _check_method(shown, method)
    rows = _sample_rows(shown, n_tokens)

    def read(layer: int, head: int) -> FloatArray:
        return _read_places(shown, method, layer, head, rows)

    return cell_places(heads_of(shown.head_table), rows, read)


def _check_method(shown: Shown, method: str) -> None:
    if method not in shown.methods:
        raise QKSpaceError(f"The atlas needs a map in 2-D by {method!r}; there is one by {', '.join(shown.methods)}.")


def heads_of(table: pd.DataFrame) -> list[tuple[int, int]]:
    """Return layer and head of each row of a table of heads."""
    return list(zip(table["layer"].tolist(), table["head"].tolist(), strict=True))


def _read_places(shown: Shown, method: str, layer: int, head: int, rows: IntArray) -> FloatArray:
    """Read rows of a map in the plane: (query or key, row, 2)."""
    stored = store.read_array(shown.index.map_path(method, 2, layer, head, "npy"))
    return np.asarray(stored[:, rows] if len(rows) < stored.shape[1] else stored, dtype=np.float32)


def cell_extent(place: FloatArray) -> Extent | None:
    """Return the square that a cell shows of a map, (..., 2); outliers are left outside. None where nothing is mapped."""
    flat = place.reshape(-1, 2)
    flat = flat[np.isfinite(flat).all(axis=1)]
    if len(flat) == 0:
        return None
    low, high = np.percentile(flat, ROBUST, axis=0)
    least, most = flat.min(axis=0), flat.max(axis=0)
    pad = 0.1 * (high - low)  # what lies just beyond a percentile is no outlier
    low, high = np.maximum(low - pad, least), np.minimum(high + pad, most)
    if float((most - least).max()) <= 1.4 * float((high - low).max()):
        low, high = least, most
    half = 0.52 * float((high - low).max()) or 0.5  # all in one place: any square around it
    x, y = ((low + high) / 2).tolist()
    return Extent(x - half, x + half, y - half, y + half)


def _unbelieved(table: pd.DataFrame, method: str) -> BoolArray:
    return np.asarray([word not in ("good", "fair") for word in _verdicts(table, method)], dtype=bool)


def _verdicts(table: pd.DataFrame, method: str) -> list[str]:
    nothing = pd.Series(np.nan, index=table.index)
    scores = (table.get(f"{method}2_{name}", nothing) for name in ("recall1", "recall1_content"))
    return [verdict(*pair) for pair in zip(*scores, strict=True)]


class _Look:
    """How the cells of an index's mosaic are coloured, which of their points stand out, and which are dim as a whole."""

    def __init__(
        self, shown: Shown, state: State, places: CellPlaces, hits: IntArray | None, n_tokens: int, dim: BoolArray
    ) -> None:
        self.shown, self.state, self.places, self.n_tokens, self.dim = shown, state, places, n_tokens, dim
        self.mapped, self.outside = places.mapped, places.outside
        self.heads = heads_of(shown.head_table)
        self.extra: IntArray = np.zeros(0, dtype=np.int64)  # hits that the sample lacks
        strong = None
        if hits is not None:
            missing = np.setdiff1d(hits, places.rows)
            self.extra = missing[np.linspace(0, len(missing) - 1, min(len(missing), EXTRA_HITS)).astype(np.int64)]
            strong = np.concatenate([np.isin(places.rows, hits), np.ones(len(self.extra), dtype=bool)])
        self.rows = np.concatenate([places.rows, self.extra])
        self.strong = None if strong is None else np.tile(strong, 2)
        self.kind = np.repeat(np.asarray([QUERY, KEY], dtype=np.uint8), len(self.rows))
        if state.colour not in OF_A_HEAD:
            colours = colouring(shown, state)
            self.colour = np.concatenate([colours.query[self.rows], colours.key[self.rows]])

    def cell(self, i: int, cell_px: int) -> Image:
        """Draw the map of one head, a row of the head table."""
        if not self.places.mapped[i]:
            return np.zeros((cell_px, cell_px), dtype=np.uint32)
        x, y = self.places.x[i], self.places.y[i]
        if len(self.extra):
            place = _read_places(self.shown, self.state.method, *self.heads[i], self.extra)
            more = quantise(place[..., 0], place[..., 1], Extent(*self.places.extent[i].tolist()))
            x, y = np.concatenate([x, more.x], axis=1), np.concatenate([y, more.y], axis=1)
        colour = _head_colours(self, i) if self.state.colour in OF_A_HEAD else self.colour
        alpha = UNBELIEVED if self.dim[i] else 1.0
        return paint(Places(x.ravel(), y.ravel()), colour, self.kind, cell_px, cell_px, strong=self.strong, alpha=alpha)


def _head_colours(look: _Look, i: int) -> NDArray[np.uint32]:
    """Colour the points of one head, queries and then keys, by the length of their vectors or all alike by its share."""
    if look.state.colour != NORM:
        share = look.shown.position_share(*look.heads[i])
        return np.full(2 * len(look.rows), colour_of_share(share, look.state.theme), dtype=np.uint32)
    norms = _sample_norms(look.shown, look.n_tokens)[i]
    if len(look.extra):
        norms = np.concatenate([norms, _read_norms(look.shown, *look.heads[i], look.extra)], axis=1)
    return colour_tokens(NORM, pd.Series(norms.ravel()), look.state.theme).query


@lru_cache(maxsize=2)
def _sample_norms(shown: Shown, n_tokens: int) -> FloatArray:
    """Read the lengths of the sample's vectors, once: (head, query or key, token)."""
    rows = _sample_rows(shown, n_tokens)
    return np.stack([_read_norms(shown, layer, head, rows) for layer, head in heads_of(shown.head_table)])


def _read_norms(shown: Shown, layer: int, head: int, rows: IntArray) -> FloatArray:
    """Read rows of a head's queries and keys, and return their lengths: (query or key, row)."""
    of = {"query": head, "key": shown.index.head(layer, head).kv_head}
    files = {name: store.read_array(shown.index.root / name / f"L{layer:02d}.npy") for name in of}
    vectors = [store.float_array(files[name][which, rows]) for name, which in of.items()]
    return np.stack([np.linalg.norm(vector, axis=1).astype(np.float32) for vector in vectors])


def _sample_rows(shown: Shown, n_tokens: int) -> IntArray:
    """Return the rows that stand for the corpus: whole sequences, the same for every head."""
    return shown.rows if len(shown.rows) <= n_tokens else Shown(shown.index, n_tokens).rows


def atlas_table(shown: Shown, state: State) -> pd.DataFrame:
    """Return what heads are sorted and filtered by, one row a head in the order of `shown.head_table`.

    Columns: layer, head, name, verdict on the map by the chosen method (good, fair, poor, not scored), the statistics and
    the scores of that map (recall1, ...).
    """
    table = shown.head_table
    _check_method(shown, state.method)
    scores = f"{state.method}2_"
    others = tuple(f"{method}{dims}_" for method, dims in shown.index.maps)
    statistics = [name for name in table.columns if not name.startswith(others)]
    found = table[statistics].copy()
    found.insert(2, "name", [f"L{layer}H{head}" for layer, head in heads_of(table)])
    found.insert(3, "verdict", _verdicts(table, state.method))
    return found.join(table.filter(regex=f"^{re.escape(scores)}").rename(columns=lambda name: name[len(scores) :]))


def order_labels(table: pd.DataFrame, language: Language = "en") -> dict[str, str]:
    """Return the columns of an atlas table that heads can be sorted by, scores first, with what the page calls them."""
    called = strings(language)
    names = {f"{prefix}_{name}": name for prefix in ("score", "stat") for name in table.columns}
    return {name: called[of] for of, name in names.items() if of in called and name != "entropy_uniform"}


def order_heads(
    table: pd.DataFrame,
    by: str,
    *,
    descending: bool = True,
    minimum: float | None = None,
    maximum: float | None = None,
) -> IntArray:
    """Return rows of the table sorted by a column, those between minimum and maximum; equals in the order of the model.

    A head without a value comes last, and not at all where there is a minimum or maximum. by "": the model's order.

    Raises:
        QKSpaceError: there is no such column to sort by.
    """
    if not by:
        return np.arange(len(table))
    labels = order_labels(table)
    if by not in labels:
        raise QKSpaceError(f"Heads cannot be sorted by {by!r}; they can by {', '.join(labels)}.")
    values = table[by].to_numpy(dtype=np.float64)
    order = np.argsort(-values if descending else values, kind="stable")  # nan last either way
    keep = np.ones(len(values), dtype=bool)
    if minimum is not None:
        keep &= values >= minimum
    if maximum is not None:
        keep &= values <= maximum
    return order[keep[order]]


def chosen_heads(table: pd.DataFrame, state: State) -> IntArray | None:
    """Return the heads that the atlas shows, in order; None where they stand by layer and head (`state.order` is empty).

    After a "-" the lowest come first, and `state.least` is the value up to which heads are shown, and not from which on.
    """
    if not state.order:
        return None
    by, is_upwards = state.order.removeprefix("-"), state.order.startswith("-")
    limit = {"maximum" if is_upwards else "minimum": state.least}
    return order_heads(table, by, descending=not is_upwards, **limit)
