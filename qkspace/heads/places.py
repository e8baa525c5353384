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
from qkspace.behaviour import draw_queries
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
    """Queries drawn of one stored sequence: its place, its first row and length, and their positions (query)."""

    place: int
    start: int
    n: int
    at: IntArray


def of_index(index: Index, seed: int = 0, console: Console = SILENT) -> tuple[pd.DataFrame, int]:
    """Return POSITIONAL, and of images OF_IMAGES, one row a head in the order of layers, and over how many queries.

    `NAME_uniform` is what equal attention gives, `NAME_error` half of the 95 % interval over sequences.
    """
    import pandas as pd

    drawn = _draw(index, seed)
    grid = index.manifest.get("image")
    names = (
        *POSITIONAL,
        *(f"{name}{suffix}" for name in OF_IMAGES * bool(grid) for suffix in ("", "_uniform", "_error")),
    )
    columns: dict[str, list[Float64Array]] = {name: [] for name in names}
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
    usable = lengths[lengths > 1]
    row = index.n_heads * (float(usable.mean()) if len(usable) else 1.0)
    n_queries = max(1, min(MAX_QUERIES, int(MAX_WEIGHTS / row)))
    drawn = draw_queries(lengths - n_source, n_queries, index.n_heads, seed=seed, first=first, least=first + 1)
    return [_Drawn(s, int(index.row_starts[s]), int(lengths[s]), at + int(n_source[s])) for s, at in drawn]


@dataclass(frozen=True, slots=True, eq=False)
class _LayerRows:
    """Attention of the drawn queries in all heads of a layer, over the pairs that are allowed.

    attention: (head, pair), a sink being one more key. All else is (pair): positions of query and key in their sequence, the
    key's -1 for a sink; start, the row of `index.tokens` where the sequence starts; n_source, how many of its tokens are of
    the source where the layer crosses, else 0.
    """

    attention: FloatArray
    pairs: Pairs
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
    attention, counts, sequence, positions = [], [], [], []
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
        of_pairs = np.full(len(at), one.start), np.full(len(at), n_source if layer.crosses else 0)
        positions.append(np.stack([one.at[at], key_position[keys_at], *of_pairs]))
    if not counts:
        return None
    starts = np.concatenate([[0], np.cumsum(np.concatenate(counts))])
    pairs = Pairs(starts, np.concatenate(sequence))
    whole = np.concatenate(attention, axis=1)
    query_at, key_at, first, source = np.concatenate(positions, axis=1)
    return _LayerRows(whole, pairs, query_at, key_at, first, source, index.manifest.get("image"))


def _allowed(layer: LayerSpec, position: LayerPosition | None, one: _Drawn, n_source: int | None) -> BoolArray:
    """Return which keys the drawn queries of a sequence may attend to: (query, key token)."""
    allowed = layer.allowed(one.n, n_source, at=one.at)
    added = None if position is None else position.of(one.n, one.place)
    return allowed if added is None else np.asarray(allowed & (added[0, one.at] > -np.inf))


def _positional(rows: _LayerRows) -> dict[str, Float64Array]:
    """Return POSITIONAL of the heads of a layer: (head) each."""
    of_offset = foretold(rows.attention, rows.pairs, rows.offset_cell)
    of_place = foretold(rows.attention, rows.pairs, rows.absolute_cell)
    offset, place = of_offset.mean(axis=1), of_place.mean(axis=1)
    better = np.where((offset >= place)[:, None], of_offset, of_place)
    values = (
        *(better.mean(axis=1), _error(better, rows.pairs.sequence), offset, place),
        uniform(rows.attention, rows.pairs).mean(axis=1),
    )
    return dict(zip(POSITIONAL, values, strict=True))


def _image_shares(rows: _LayerRows, index: Index, grid: dict[str, Any]) -> dict[str, Float64Array]:
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
    found: dict[str, Float64Array] = {}
    for name, keys in zip(OF_IMAGES, sets, strict=True):
        there = rows.pairs.summed(keys.astype(np.float64))
        undefined = np.nan if name == "to_cls" and not keys.any() else 1.0
        shares = undefined * rows.pairs.summed(rows.attention * keys)
        found[name] = shares.mean(axis=1)
        equal = undefined * float((there / np.diff(rows.pairs.starts)).mean())
        found[f"{name}_uniform"] = np.full(len(shares), equal)
        found[f"{name}_error"] = _error(shares, rows.pairs.sequence)
    return found


def _grid_offsets(query: IntArray, key: IntArray, grid: dict[str, Any]) -> IntArray:
    """Return the cell of how many rows and columns a key is away from a query; tokens before the patches have their own."""
    n_prefix, n_rows, width = (int(grid[name]) for name in ("n_prefix", "rows", "columns"))
    patch, other = query - n_prefix, key - n_prefix
    down, right = other // width - patch // width + n_rows - 1, other % width - patch % width + width - 1
    cells = (2 * n_rows - 1) * (2 * width - 1)
    return np.where(key < n_prefix, cells + np.maximum(key, 0), down * (2 * width - 1) + right)


def _error(values: Float64Array, sequence: IntArray) -> Float64Array:
    """Return half of the 95 % interval of the mean of values (head, query), as whole sequences might have been drawn: (head).

    nan where there is one sequence only.
    """
    numbers, of_sequence = np.unique(sequence, return_inverse=True)
    n = len(numbers)
    if n < 2:
        return np.full(len(values), np.nan)
    apart = values - values.mean(axis=1, keepdims=True)
    sums = np.stack([np.bincount(of_sequence, weights=row) for row in apart])
    return np.asarray(1.96 * np.sqrt(n / (n - 1) * (sums**2).sum(axis=1)) / values.shape[1])
