"""Tabulate: what the tables of several analyses of heads are made of.

In: an index, or what was right. Out: the heads in the order of every table, and shares with their intervals.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from qkspace.bootstrap import Float64Array, interval
from qkspace.index import Index
from qkspace.schema import IntArray


def heads_of(index: Index) -> IntArray:
    """Return the layer and the number of every head, layer by layer: (head of any layer, 2)."""
    return np.array([(layer, head) for layer, spec in enumerate(index.layers) for head in range(spec.n_heads)])


def share(part: NDArray[Any], whole: NDArray[Any]) -> Float64Array:
    """Return a part of a whole, nan where there is nothing."""
    out: Float64Array = np.full(np.shape(part), np.nan)
    np.divide(part, whole, out=out, where=np.asarray(whole) > 0)
    return out


def accuracy(right: NDArray[Any], sequence: IntArray, times: Float64Array) -> tuple[float, float, float]:
    """Return the mean over items, and the ends of its 95 % interval over sequences.

    right: (item); sequence: (item), from 0; times: how often each sequence is drawn (`qkspace.bootstrap.draw`).
    """
    sums = [np.bincount(sequence, weights=each, minlength=times.shape[1]) for each in (right, np.ones(len(right)))]
    low, high = interval(np.stack(sums, axis=1), lambda each: share(each[..., 0], each[..., 1]), times)
    return float(np.mean(right, dtype=np.float64)), low, high
