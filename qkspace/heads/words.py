"""Words: the attention of a sequence counted from word to word.

In: an index and the place of a sequence. Out: its words, and the attention of a layer between them. Knows no annotation and
no measure.

    words = words_of(index, 12)
    word_attention(index, 3, words)                                 # (head, unit, unit), rows sum to 1
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from qkspace import store
from qkspace.index import Index
from qkspace.pooling import pool
from qkspace.position import LayerPosition, attend_heads
from qkspace.schema import BoolArray, FloatArray, IntArray

Rows = Literal["mean", "first"]


@dataclass(frozen=True, slots=True, eq=False)
class Words:
    """The words of one stored sequence; every special token, and every token of no word, is a unit of its own.

    place: of the sequence among the stored ones; rows: its rows of `index.tokens`. unit: (token), ascending from 0.
    word: (unit), the number of the word in its text (column `word`), -1 where the unit is no word. row: (unit), its first
    row of `index.tokens`.
    """

    place: int
    rows: slice
    unit: IntArray
    word: IntArray
    row: IntArray

    @property
    def n_units(self) -> int:
        """Words, and tokens that are of none."""
        return len(self.word)

    @property
    def words(self) -> IntArray:
        """The units that are words: (word)."""
        return np.flatnonzero(self.word >= 0)


def words_of(index: Index, place: int) -> Words:
    """Return the words of a stored sequence, by its place among them, from 0."""
    rows = slice(int(index.row_starts[place]), int(index.row_starts[place + 1]))
    word = _joined(index.tokens["word"].to_numpy()[rows], index.tokens["is_special"].to_numpy(dtype=bool)[rows])
    begins = np.ones(len(word), dtype=bool)
    begins[1:] = (word[1:] != word[:-1]) | (word[1:] < 0)
    first = np.flatnonzero(begins)
    return Words(place, rows, np.cumsum(begins) - 1, word[first].astype(np.int64), rows.start + first)


def _joined(word: IntArray, is_special: BoolArray) -> IntArray:
    """Return the word of each token, where what is of none inside a word (the space of "10 000") is of that word."""
    said = np.flatnonzero((word >= 0) | is_special)
    if len(said) in (0, len(word)):
        return word
    place = np.arange(len(word))
    before = said[np.maximum(np.searchsorted(said, place, side="right") - 1, 0)]
    after = said[np.minimum(np.searchsorted(said, place), len(said) - 1)]
    inside = (before <= place) & (place <= after) & (word[before] == word[after])
    return np.where(inside, word[before], word)


def word_attention(index: Index, layer: int, words: Words, *, rows: Rows = "mean") -> FloatArray:
    """Return the attention of all heads of a layer from unit to unit of a sequence: (head, unit, unit).

    What the pieces of a word receive is summed, and what they give is averaged, so that rows still sum to 1 (Clark et al.
    2019, What Does BERT Look At?, section 4.1). rows: "first" takes the row of a word's first piece instead of the mean.
    """
    return pooled(layer_attention(index, layer, words.place), words, rows=rows)


def pooled(attention: FloatArray, words: Words, *, rows: Rows = "mean") -> FloatArray:
    """Return attention from token to token, (head, token, token), as attention from unit to unit: (head, unit, unit)."""
    unit = words.unit
    asking = unit if rows == "mean" else np.where(np.diff(unit, prepend=-1) > 0, unit, -1)
    return pool(attention, asking, unit, words.n_units)[..., :-1]


def layer_attention(
    index: Index,
    layer: int,
    place: int,
    *,
    at: IntArray | None = None,
    heads: Sequence[int] | None = None,
) -> FloatArray:
    """Return the attention of heads of a layer over a stored sequence, by its place: (head, query token, key token).

    at: the positions of the queries that are wanted; heads: which heads. All where left out; what is left out costs nothing.
    """
    rows = slice(int(index.row_starts[place]), int(index.row_starts[place + 1]))
    spec, position = index.layers[layer], index.position(layer)
    query, key = (store.read_array(index.root / name / f"L{layer:02d}.npy")[:, rows] for name in ("query", "key"))
    asking = slice(None) if at is None else at
    more: dict[str, Any] = {"at": at, "n_source": index.n_source(place), "number": place}
    if heads is None:
        return attend_heads(store.float_array(query[:, asking]), store.float_array(key), spec, position, **more)
    group = spec.n_heads // spec.n_kv_heads
    return np.concatenate(
        [
            attend_heads(
                store.float_array(query[head, asking][None]),
                store.float_array(key[head // group][None]),
                spec,
                _of_head(position, head),
                **more,
            )
            for head in heads
        ]
    )


def _of_head(position: LayerPosition | None, head: int) -> LayerPosition | None:
    """Return the part of one head as a layer of one, a view: what is stored of all sequences is not read."""
    if position is None:
        return None
    one = slice(head, head + 1)
    bias = position.bias if position.bias is None or len(position.bias) == 1 else position.bias[one]
    sink = None if position.sink is None else position.sink[one]
    return LayerPosition(position.kind, bias, position.pair_starts, sink)
