"""Blocks: the attention between some words of a sequence, a few rows at a time.

In: an index, the vectors of a layer, and of which word each token is. Out: pooled attention, block by block, so that a long
text needs no more memory than a short one. Knows no measure.

    vectors = vectors_of(index, 3)                                  # opened once, read for every sequence
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qkspace import store
from qkspace.heads.words import Rows, Words
from qkspace.index import Index
from qkspace.pooling import pool_keys, pool_queries
from qkspace.position import attend_heads
from qkspace.schema import FloatArray, IntArray

BLOCK_WEIGHTS = 1 << 23  # attention weights held at a time

Vectors = tuple[NDArray[Any], NDArray[Any]]  # queries and keys of a layer, on disk: (head, token, d_head) each


def vectors_of(index: Index, layer: int) -> Vectors:
    """Open the queries and keys of a layer by memory map."""
    query, key = (store.read_array(index.root / name / f"L{layer:02d}.npy") for name in ("query", "key"))
    return np.asarray(query), np.asarray(key)  # still on disk; a plain array is cut faster than a memmap


def blocks(
    index: Index,
    layer: int,
    vectors: Vectors,
    words: Words,
    asking: IntArray,
    receiving: IntArray,
    *,
    rows: Rows = "mean",
) -> Iterator[tuple[IntArray, FloatArray]]:
    """Yield which words ask, ascending, and what they give to those that receive: (head, asking, receiving).

    Summed over the pieces of a word that receive and averaged over those that ask, as in `qkspace.heads.words`.

    Args:
        index: of the sequence.
        layer: of the index.
        vectors: of that layer.
        words: of the sequence.
        asking: (token), ascending where it counts: the number of the word whose row each token's is part of, -1 for none.
        receiving: (token), the same for columns, from 0 without a gap.
        rows: "first" takes the row of a word's first piece instead of the mean.
    """
    spec, (query, key) = index.layers[layer], vectors
    keys = store.float_array(key[:, words.rows])
    if rows == "first":
        asking = np.where(np.diff(words.unit, prepend=-1) > 0, asking, -1)
    positions = np.flatnonzero(asking >= 0)
    n_receiving = int(receiving.max(initial=-1)) + 1
    more: dict[str, Any] = {"n_source": index.n_source(words.place), "number": words.place}
    for first, last in _whole_words(asking[positions], max(1, BLOCK_WEIGHTS // (spec.n_heads * keys.shape[1]))):
        at = positions[first:last]
        queries = store.float_array(query[:, words.rows.start + at])
        attention = attend_heads(queries, keys, spec, index.position(layer), at=at, **more)
        some = np.unique(asking[at])
        pooled = pool_keys(attention, receiving, n_receiving)[..., :-1]
        yield some, pool_queries(pooled, np.searchsorted(some, asking[at]), len(some))


def _whole_words(asking: IntArray, size: int) -> Iterator[tuple[int, int]]:
    """Yield [first, last) of runs of about `size` rows that hold whole words; asking: (row), ascending."""
    first = 0
    while first < len(asking):
        last = min(first + size, len(asking))
        while last < len(asking) and asking[last] == asking[last - 1]:
            last += 1
        yield first, last
        first = last
