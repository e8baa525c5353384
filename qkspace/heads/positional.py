"""Positional: how far the attention of a head can be told from places alone, without looking at any token.

In: attention of some queries, and a cell of each query-key pair: its offset, or the place of its key. Out: of each head and
query the share of attention that stands where the cells foretell it. Knows no model, no index and no token.

A table gives each cell a weight w, and foretells that query i attends to key j by w[cell(i, j)] / sum_k w[cell(i, k)] over
the keys k that i may attend to. That is what a head does whose logits depend on cells alone: the table then fits exactly,
also at the ends of a sequence, where mean attention at an offset would not. Weights are those of greatest likelihood, found
by the iteration of Zermelo (1929; Hunter 2004, MM algorithms for generalized Bradley-Terry models).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from qkspace.schema import BoolArray, FloatArray, IntArray

STEPS = 60  # of the iteration: what depends on cells alone is then foretold to 0.999
EXACT = 64  # distances below it have a cell each; farther ones share cells,
WIDER = 1.1  # each so many times as wide as the one before
TINY = 1e-12  # of the largest weight: cells that no attention fell on
Float64Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class Pairs:
    """Some queries, and the pairs with the keys that each may attend to, laid end to end query by query.

    starts: (query + 1), query i has the pairs starts[i]:starts[i + 1], at least one; sequence: (query), which one it is of.
    """

    starts: IntArray
    sequence: IntArray

    @property
    def query(self) -> IntArray:
        """The query of each pair: (pair)."""
        return np.repeat(np.arange(len(self.sequence)), np.diff(self.starts))

    def summed(self, values: FloatArray) -> Float64Array:
        """Sum values of pairs over each query: (..., pair) to (..., query)."""
        return np.asarray(np.add.reduceat(values, self.starts[:-1], axis=-1, dtype=np.float64))

    @property
    def halves(self) -> list[BoolArray]:
        """Two halves of the queries, by sequences; of a single sequence by turns. Both hold some, of two queries or more."""
        numbers = np.unique(self.sequence, return_inverse=True)[1]
        odd = (numbers if numbers.any() else np.arange(len(numbers))) % 2 == 1
        return [odd, ~odd]


def binned(distance: IntArray) -> IntArray:
    """Return the number of the cell of a distance (0 or more): its own below EXACT, then cells that grow by WIDER."""
    far = np.log(np.maximum(distance, EXACT) / EXACT) / np.log(WIDER)
    return np.where(distance < EXACT, distance, EXACT + far.astype(np.int64))


def offset_cells(offset: IntArray) -> IntArray:
    """Return cells of offsets, key position - query position, from 0."""
    cell = np.sign(offset) * binned(np.abs(offset))
    return np.asarray(cell - cell.min(initial=0))


def foretold(attention: FloatArray, pairs: Pairs, cell: IntArray) -> Float64Array:
    """Return the share of each query's attention that its cells foretell: (head, query); nan for a query alone.

    1 - half the sum of |attention - foretold| along the row (their total variation distance): 1 where every key gets what
    its cell says, near 0 where none does. The table of each half of the sequences is fitted on the other half.

    Args:
        attention: (head, pair); rows of a query sum to 1.
        pairs: which pairs these are.
        cell: (pair).
    """
    found = np.full((len(attention), len(pairs.sequence)), np.nan)
    if found.shape[1] < 2:  # one to be judged, and none to fit on
        return found
    count, kind, query = _counted(pairs, cell)
    for judged in pairs.halves:
        fitted = ~judged
        weight = _fit(attention, fitted[query], cell, count, np.bincount(kind[fitted], minlength=count.shape[1]))
        total = (weight @ count)[:, kind]  # (head, query)
        for head in range(len(attention)):
            expected = weight[head, cell] / total[head, query]
            apart = pairs.summed(np.abs(attention[head] - expected))
            found[head, judged] = 1 - apart[judged] / 2
    return found


def uniform(attention: FloatArray, pairs: Pairs) -> Float64Array:
    """Return the share of each query's attention that equal attention to all allowed keys foretells: (head, query)."""
    equal = np.repeat(1 / np.diff(pairs.starts), np.diff(pairs.starts))
    return np.stack([1 - pairs.summed(np.abs(row - equal)) / 2 for row in attention])


def _counted(pairs: Pairs, cell: IntArray) -> tuple[Float64Array, IntArray, IntArray]:
    """Return how often each cell is in each kind of row, (cell, kind), the kind of each query, and the query of each pair."""
    query, n_cells = pairs.query, int(cell.max(initial=0)) + 1
    n_queries = len(pairs.sequence)
    rows = np.bincount(query * n_cells + cell, minlength=n_queries * n_cells).reshape(n_queries, n_cells)
    number: dict[bytes, int] = {}
    kind = np.array([number.setdefault(row.tobytes(), len(number)) for row in rows], dtype=np.int64)
    first = np.unique(kind, return_index=True)[1]
    return rows[first].T.astype(np.float64), kind, query


def _fit(attention: FloatArray, used: BoolArray, cell: IntArray, count: Float64Array, times: IntArray) -> Float64Array:
    """Return the weights of cells: (head, cell).

    used: (pair), those to fit on; count: (cell, kind of row); times: (kind of row), how often it is among those.
    """
    n_cells = len(count)
    mass = np.stack([np.bincount(cell[used], weights=row[used], minlength=n_cells) for row in attention])
    seen = np.flatnonzero(count @ times > 0)
    within, mass = count[np.ix_(seen, np.flatnonzero(times))], mass[:, seen]
    times = times[times > 0].astype(np.int64)
    weight = mass / (within @ times)
    for _ in range(STEPS):
        weight = np.maximum(weight, TINY * np.maximum(weight.max(axis=1, keepdims=True), TINY))
        weight = mass / ((times / (weight @ within)) @ within.T)
    weight = np.maximum(weight, TINY * np.maximum(weight.max(axis=1, keepdims=True), TINY))
    right = np.searchsorted(seen, np.arange(n_cells)).clip(0, len(seen) - 1)
    left = np.maximum(right - 1, 0)
    is_right = seen[right] - np.arange(n_cells) <= np.arange(n_cells) - seen[left]
    return np.asarray(weight[:, np.where(is_right, right, left)])  # what was not seen is as what is next to it
