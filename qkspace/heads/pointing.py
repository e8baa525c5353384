"""Pointing: the other word that each word attends to most, and the one that attends to it most.

In: attention between words, or an index and the words of a sequence. Out: a word for each word, of every head and in both
directions. Knows no tree.

    pointers(index, 3, words_of(index, 12))                         # (direction, head, word)
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal, get_args

import numpy as np

from qkspace import store
from qkspace.heads.words import Rows, Words
from qkspace.index import Index
from qkspace.pooling import pool_keys, pool_queries
from qkspace.position import attend_heads
from qkspace.schema import FloatArray, IntArray, QKSpaceError

Direction = Literal["dependent to head", "head to dependent"]  # by the row of a word, by its column
DIRECTIONS: tuple[Direction, ...] = get_args(Direction)

BLOCK_WEIGHTS = 1 << 23  # attention weights held at a time


def pointers(index: Index, layer: int, words: Words, *, rows: Rows = "mean") -> IntArray:
    """Return where all heads of a layer point from the words of a sequence: (direction, head, word), as `pointers_of`.

    What `pointers_of` says of `word_attention` between words, some rows at a time, so that a long text needs no more
    memory than a short one.
    """
    spec, sequence = index.layers[layer], words.rows
    query, key = (store.read_array(index.root / name / f"L{layer:02d}.npy") for name in ("query", "key"))
    keys = store.float_array(key[:, sequence])
    asking, receiving = _asking(words, rows), _number(words)
    positions = np.flatnonzero(asking >= 0)
    n_words, n_tokens = len(words.words), len(receiving)
    best = _Best(spec.n_heads, n_words)
    more: dict[str, Any] = {"n_source": index.n_source(words.place), "number": words.place}
    for first, last in _blocks(asking[positions], max(1, BLOCK_WEIGHTS // (spec.n_heads * n_tokens))):
        at = positions[first:last]
        queries = store.float_array(query[:, sequence.start + at])
        attention = attend_heads(queries, keys, spec, index.position(layer), at=at, **more)
        some = np.unique(asking[at])
        pooled = pool_keys(attention, receiving, n_words)[..., :-1]
        best.add(pool_queries(pooled, asking[at] - some[0], len(some)), some)
    return best.found


def pointers_of(attention: FloatArray) -> IntArray:
    """Return the word that each word points to: (direction, head, word), a number from 0, -1 for none.

    attention: (head, word, word), from word to word. No word points to itself, and one without any attention in a
    direction, as the first word of a decoder, to none. Of equal weights the first word is taken.
    """
    best = _Best(attention.shape[0], attention.shape[1])
    best.add(attention, np.arange(attention.shape[1]))
    return best.found


class _Best:
    """The strongest other word in both directions, of rows of attention that come one block after another."""

    def __init__(self, n_heads: int, n_words: int) -> None:
        self.found = np.full((len(DIRECTIONS), n_heads, n_words), -1, dtype=np.int32)
        self._received = np.zeros((n_heads, n_words), dtype=np.float32)  # the most that each word got so far

    def add(self, attention: FloatArray, at: IntArray) -> None:
        """Take in the rows of some words; attention: (head, row, word), at: (row), which words they are, ascending."""
        if not attention.size:
            return
        attention = attention.copy()
        attention[:, np.arange(len(at)), at] = 0  # itself
        key = attention.argmax(axis=2)
        there = np.take_along_axis(attention, key[..., None], axis=2)[..., 0] > 0
        self.found[0][:, at] = np.where(there, key, -1)
        row = attention.argmax(axis=1)
        most = np.take_along_axis(attention, row[:, None], axis=1)[:, 0]
        more = most > self._received
        self.found[1][more] = at[row][more]
        self._received[more] = most[more]


def _number(words: Words) -> IntArray:
    """Return which word each token is of, counted among those of the sequence, -1 for none: (token)."""
    is_word = words.word >= 0
    return np.where(is_word, np.cumsum(is_word) - 1, -1)[words.unit]


def _asking(words: Words, rows: Rows) -> IntArray:
    """Return of which word each token's row of attention counts, -1 for none: (token)."""
    if rows not in get_args(Rows):
        raise QKSpaceError(f"Rows of a word's pieces are pooled by {', '.join(get_args(Rows))}; got {rows!r}.")
    number = _number(words)
    return number if rows == "mean" else np.where(np.diff(words.unit, prepend=-1) > 0, number, -1)


def _blocks(asking: IntArray, size: int) -> Iterator[tuple[int, int]]:
    """Yield [first, last) of runs of about `size` rows that hold whole words; asking: (row), ascending."""
    first = 0
    while first < len(asking):
        last = min(first + size, len(asking))
        while last < len(asking) and asking[last] == asking[last - 1]:
            last += 1
        yield first, last
        first = last
