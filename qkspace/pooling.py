"""Pooling: attention between tokens as attention between units, such as words.

In: attention and the unit that each token is of. Out: attention from unit to unit. Knows no index and no tokenizer.
"""

from __future__ import annotations

from typing import Literal

import numpy as np

from qkspace.schema import FloatArray, IntArray


def pool(attention: FloatArray, query_unit: IntArray, key_unit: IntArray, n_units: int) -> FloatArray:
    """Return attention between units: (head, query token, key token) to (head, n_units, n_units + 1).

    What the keys of a unit get is summed, what goes outside is the last column, and the queries of a unit are averaged, so
    that rows still sum to 1. Queries outside do not count.

    Args:
        attention: of one sequence, or of some of its queries.
        query_unit: (query token), the unit that each is of, -1 outside; the row of a unit without a query is 0.
        key_unit: (key token), likewise.
        n_units: of the sequence.
    """
    return pool_queries(pool_keys(attention, key_unit, n_units), query_unit, n_units)


def pool_keys(attention: FloatArray, key_unit: IntArray, n_units: int) -> FloatArray:
    """Return attention to units, what goes outside last: (..., key token) to (..., n_units + 1)."""
    return _sums(attention, np.where(key_unit < 0, n_units, key_unit), n_units + 1, axis=-1)


def pool_queries(attention: FloatArray, query_unit: IntArray, n_units: int) -> FloatArray:
    """Return the mean of the queries of each unit: (..., query token, key) to (..., n_units, key)."""
    inside = query_unit >= 0
    if not inside.all():
        attention, query_unit = attention[..., inside, :], query_unit[inside]
    count = np.bincount(query_unit, minlength=n_units)
    return _sums(attention, query_unit, n_units, axis=-2) / np.maximum(count, 1).astype(np.float32)[:, None]


def _sums(values: FloatArray, group: IntArray, n_groups: int, *, axis: Literal[-1, -2]) -> FloatArray:
    """Return the sums of values of each group along an axis, which becomes n_groups long; 0 for a group without any."""
    order = np.argsort(group, kind="stable")
    grouped = group[order]
    first = np.flatnonzero(np.diff(grouped, prepend=-1))
    shape = list(values.shape)
    shape[axis] = n_groups
    sums = np.zeros(shape, dtype=values.dtype)
    if len(first):
        place = (..., grouped[first]) if axis == -1 else (..., grouped[first], slice(None))
        sums[place] = np.add.reduceat(values.take(order, axis=axis), first, axis=axis)
    return sums
