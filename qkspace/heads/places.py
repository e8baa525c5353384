"""Places: what the stored attention of an index says of heads that look at places: positional ones, and rows of images.

In: an index. Out: a table, one row a head, over queries that are drawn of the corpus. Needs no model.

    table, n_queries = of_index(index, seed=0)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from qkspace import store
from qkspace.behaviour import RatioSums, draw_weighted
from qkspace.console import SILENT, Console
from qkspace.heads.positional import Pairs, binned, foretold, offset_cells, uniform
from qkspace.index import Index
from qkspace.position import LayerPosition, attend_heads, with_sink
from qkspace.schema import BoolArray, FloatArray, IntArray, LayerSpec

if TYPE_CHECKING:
    import pandas as pd

Float64Array = NDArray[np.float64]
POSITIONAL = ("positional", "positional_error", "positional_offset", "positional_absolute", "positional_uniform")
OF_IMAGES = ("to_self", "to_row", "to_column", "to_cls")

MAX_QUERIES = 2_000  # of the corpus, that attention is foretold from position for
MAX_WEIGHTS = 15_000_000  # attention weights of a layer held at a time; fewer queries where a row is long


@dataclass(frozen=True, slots=True)
class _Drawn:
    """Queries drawn of one stored sequence: its place, its first row and length, their positions (query) and each's weight."""

    place: int
    start: int
    n: int
    at: IntArray
    weight: float


def of_index(index: Index, seed: int = 0, console: Console = SILENT) -> tuple[pd.DataFrame, int]:
    """Return POSITIONAL, and of images OF_IMAGES, one row a head in the order of layers, and over how many queries.

    Means are over the queries of the corpus, each counting alike (`qkspace.behaviour.draw_weighted`). `NAME_uniform` is what
    equal attention gives, `NAME_error` half of the 95 % interval over sequences.
    """
    import pandas as pd

    drawn = _draw(index, seed)
    grid = index.manifest.get("image")
    names = (
        *POSITIONAL,
        *(f"{name}{suffix}" for name in OF_IMAGES * bool(grid) for suffix in ("", "_uniform", "_error")),
    )
    columns: dict[str, list[FloatArray]] = {name: [] for name in names}
    n_queries = sum(len(each.at) for each in drawn)
    for number, layer in console.track(
        list(enumerate(index.layers)), index.n_layers, "Attention by place", unit="layers"
    ):
        found = _of_layer(index, number, drawn)
        if found is None:  # no query has a choice
            of_layer = {name: np.full(layer.n_heads, np.nan) for name in names}
        else:
            of_layer = _positional(found)
            if grid:
                of_layer |= _image_shares(found, index, grid)
        for name in names:
            columns[name].append(of_layer[name])
    return pd.DataFrame({name: np.concatenate(values) for name, values in columns.items()}), n_queries


def _draw(index: Index, seed: int) -> list[_Drawn]:
    """Draw queries that have a choice; of an image patches alone."""
    lengths = index.sequences["n_tokens"].to_numpy(dtype=np.int64)
    crosses = any(layer.crosses for layer in index.layers)
    n_source = np.array([index.n_source(i) or 0 for i in range(len(lengths))]) if crosses else np.zeros_like(lengths)
    n_prefix = int(index.manifest.get("image", {}).get("n_prefix", 0))
    first = max(n_prefix, int(all(layer.causal for layer in index.layers)))
    asking = lengths - n_source
    row = (
        index.n_heads * float(np.sum(asking * lengths)) / max(int(asking.sum()), 1)
    )  # of a query of the corpus, on average
    n_queries = max(1, min(MAX_QUERIES, int(MAX_WEIGHTS / max(row, 1))))
    drawn = draw_weighted(asking, n_queries, index.n_heads, seed=seed, first=first, least=1 if crosses else 2)
    starts = index.row_starts
    return [
        _Drawn(s, int(starts[s]), int(lengths[s]), at + int(n_source[s]), weight / len(at)) for s, at, weight in drawn
    ]


@dataclass(frozen=True, slots=True, eq=False)
class _LayerRows:
    """Attention of the drawn queries in all heads of a layer, over the pairs that are allowed.

    attention: (head, pair), a sink being one more key; weight: (query), what it counts for the corpus. All else is (pair):
    positions of query and key in their sequence, the key's -1 for a sink; start, the row of `index.tokens` where the sequence
    starts; n_source, how many of its tokens are of the source where the layer crosses, else 0.
    """

    attention: FloatArray
    pairs: Pairs
    weight: Float64Array
    query_position: IntArray
    key_position: IntArray
    start: IntArray
    n_source: IntArray
    grid: dict[str, Any] | None

    @property
    def offset_cell(self) -> IntArray:
        """The cell of the offset of each pair: (pair); in an image of rows and columns."""
        key, query = self.key_position, self.query_position - self.n_source
        cell = offset_cells(key - query) if self.grid is None else _grid_offsets(query, key, self.grid)
        return np.where(key < 0, cell.max(initial=0) + 1, cell)

    @property
    def absolute_cell(self) -> IntArray:
        """The cell of the position of each key: (pair)."""
        cell = binned(np.maximum(self.key_position, 0)) if self.grid is None else self.key_position
        return np.where(self.key_position < 0, cell.max(initial=0) + 1, cell)


def _of_layer(index: Index, number: int, drawn: list[_Drawn]) -> _LayerRows | None:
    """Return the attention of the drawn queries in a layer; None where none of them has a choice."""
    layer, position = index.layers[number], index.position(number)
    query, key = (store.read_array(index.root / name / f"L{number:02d}.npy") for name in ("query", "key"))
    attention, counts, sequence, weight, positions = [], [], [], [], []
    for i, one in enumerate(drawn):
        n_source, rows = index.n_source(one.place), slice(one.start, one.start + one.n)
        more: dict[str, Any] = {"at": one.at, "n_source": n_source, "number": one.place}
        keys, queries = store.float_array(key[:, rows]), store.float_array(query[:, one.start + one.at])
        weights = attend_heads(queries, keys, layer, position, **more)
        allowed = _allowed(layer, position, one, n_source)
        key_position = np.arange(one.n)
        if layer.has_sink:
            weights = with_sink(weights)
            allowed = np.concatenate([allowed, allowed.any(axis=1, keepdims=True)], axis=1)
            key_position = np.append(key_position, -1)
        allowed &= allowed.sum(axis=1, keepdims=True) > 1
        at, keys_at = np.nonzero(allowed)
        if not len(at):
            continue
        asked = np.unique(at)
        attention.append(weights[:, at, keys_at])
        counts.append(allowed.sum(axis=1)[asked])
        sequence.append(np.full(len(asked), i))
        weight.append(np.full(len(asked), one.weight))
        of_pairs = np.full(len(at), one.start), np.full(len(at), n_source if layer.crosses else 0)
        positions.append(np.stack([one.at[at], key_position[keys_at], *of_pairs]))
    if not counts:
        return None
    starts = np.concatenate([[0], np.cumsum(np.concatenate(counts))])
    pairs = Pairs(starts, np.concatenate(sequence))
    whole = np.concatenate(attention, axis=1)
    query_at, key_at, first, source = np.concatenate(positions, axis=1)
    grid = index.manifest.get("image")
    return _LayerRows(whole, pairs, np.concatenate(weight), query_at, key_at, first, source, grid)


def _allowed(layer: LayerSpec, position: LayerPosition | None, one: _Drawn, n_source: int | None) -> BoolArray:
    """Return which keys the drawn queries of a sequence may attend to: (query, key token)."""
    allowed = layer.allowed(one.n, n_source, at=one.at)
    added = None if position is None else position.of(one.n, one.place)
    return allowed if added is None else np.asarray(allowed & (added[0, one.at] > -np.inf))


def _positional(rows: _LayerRows) -> dict[str, FloatArray]:
    """Return POSITIONAL of the heads of a layer: (head) each."""
    of_offset = foretold(rows.attention, rows.pairs, rows.offset_cell)
    of_place = foretold(rows.attention, rows.pairs, rows.absolute_cell)
    (offset, offset_error), (place, place_error) = _mean(of_offset, rows), _mean(of_place, rows)
    is_offset = offset >= place
    better, error = np.where(is_offset, offset, place), np.where(is_offset, offset_error, place_error)
    equal, _ = _mean(uniform(rows.attention, rows.pairs), rows)
    return dict(zip(POSITIONAL, (better, error, offset, place, equal), strict=True))


def _image_shares(rows: _LayerRows, index: Index, grid: dict[str, Any]) -> dict[str, FloatArray]:
    """Return the attention of patches to OF_IMAGES, with what equal attention gives and its error: (head) each."""
    n_prefix, width = int(grid["n_prefix"]), int(grid["columns"])
    query, key = rows.query_position - n_prefix, rows.key_position - n_prefix
    is_other = (key >= 0) & (key != query)
    is_cls = (index.tokens["token"] == "[CLS]").to_numpy()[rows.start + np.maximum(rows.key_position, 0)]
    sets = (
        key == query,
        is_other & (key // width == query // width),
        is_other & (key % width == query % width),
        is_cls & (rows.key_position >= 0),
    )
    found: dict[str, FloatArray] = {}
    for name, keys in zip(OF_IMAGES, sets, strict=True):
        there = rows.pairs.summed(keys.astype(np.float64)) / np.diff(rows.pairs.starts)
        undefined = np.nan if name == "to_cls" and not keys.any() else 1.0
        shares = undefined * rows.pairs.summed(rows.attention * keys)
        found[name], found[f"{name}_error"] = _mean(shares, rows)
        found[f"{name}_uniform"] = np.full(len(shares), _mean(undefined * there[None], rows)[0])
    return found


def _grid_offsets(query: IntArray, key: IntArray, grid: dict[str, Any]) -> IntArray:
    """Return the cell of how many rows and columns a key is away from a query; tokens before the patches have their own."""
    n_prefix, n_rows, width = (int(grid[name]) for name in ("n_prefix", "rows", "columns"))
    patch, other = query - n_prefix, key - n_prefix
    down, right = other // width - patch // width + n_rows - 1, other % width - patch % width + width - 1
    cells = (2 * n_rows - 1) * (2 * width - 1)
    return np.where(key < n_prefix, cells + np.maximum(key, 0), down * (2 * width - 1) + right)


def _mean(values: Float64Array, rows: _LayerRows) -> tuple[FloatArray, FloatArray]:
    """Return the mean of values (head, query) over the queries of the corpus, and its 95 % error: (head) each.

    The error is of whole sequences, since queries of one are alike; nan where there is one sequence only.
    """
    starts = np.flatnonzero(np.diff(rows.pairs.sequence, prepend=-1))
    above = np.add.reduceat(values * rows.weight, starts, axis=1)
    total = RatioSums((len(values),))
    for of_sequence, weight in zip(above.T, np.add.reduceat(rows.weight, starts), strict=True):
        total.add(of_sequence, float(weight))
    return total.ratio()
