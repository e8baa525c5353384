"""Pointing: the other word that each word attends to most, and the one that attends to it most.

In: attention between words, or an index and the words of a sequence. Out: a word for each word, of every head and in both
directions. Knows no tree.

    pointers(index, 3, words_of(index, 12))                         # (direction, head, word)
"""

from __future__ import annotations

from typing import Literal, get_args

import numpy as np

from qkspace.heads.blocks import Vectors, blocks, vectors_of
from qkspace.heads.words import Rows, Words
from qkspace.index import Index
from qkspace.schema import FloatArray, IntArray

Direction = Literal["dependent to head", "head to dependent"]  # by the row of a word, by its column
DIRECTIONS: tuple[Direction, ...] = get_args(Direction)


def pointers(
    index: Index, layer: int, words: Words, *, rows: Rows = "mean", vectors: Vectors | None = None
) -> IntArray:
    """Return where all heads of a layer point from the words of a sequence: (direction, head, word), as `pointers_of`.

    What `pointers_of` says of `word_attention` between words, some rows at a time, so that a long text needs no more
    memory than a short one. vectors: of the layer, where they are open (`qkspace.heads.blocks.vectors_of`).
    """
    number = _number(words)
    best = _Best(index.layers[layer].n_heads, len(words.words))
    given = vectors or vectors_of(index, layer)
    for some, attention in blocks(index, layer, given, words, number, number, rows=rows):
        best.add(attention, some)
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
