"""Units: what two indexes of one corpus have in common, tokens or words.

In: two indexes, of which only the tables are read. Out: the units that both have, and where each stands in either index.
Knows no vectors, no attention, no measure of change and no page.

    units = common_units(base, tuned)
    one = units.sequence(0)
    pool(attention, one.base_unit, one.base_unit, one.n_units)      # qkspace.pooling: (head, query unit, key unit or outside)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from qkspace.index import Index
from qkspace.schema import BoolArray, IntArray, QKSpaceError

if TYPE_CHECKING:
    import pandas as pd

Kind = Literal["token", "word"]


@dataclass(frozen=True, slots=True, eq=False)
class CommonSequence:
    """One sequence that both indexes have.

    base_rows, tuned_rows: its rows of each index's tokens; base_unit, tuned_unit: (token), the unit that each is of,
    counted from the first of the sequence, -1 outside.
    """

    base_rows: slice
    tuned_rows: slice
    base_unit: IntArray
    tuned_unit: IntArray
    n_units: int


@dataclass(frozen=True, slots=True, eq=False)
class Units:
    """What two indexes have in common: tokens, or words of which both have tokens.

    kind: what a unit is. table: one row a unit in the order of the base: sequence (a value of the base's column), text,
    base_row and tuned_row (of its first token). starts: (sequence + 1), where the units of each common sequence start; all
    have some. base_rows, tuned_rows: (sequence, start and end) among each index's tokens. base_unit, tuned_unit: (token of
    that index), its unit, counted from the first of its sequence; -1 outside: special tokens, words that one alone has, and
    sequences that are not common. note: what had to be left out, "" where nothing was.
    """

    kind: Kind
    table: pd.DataFrame
    starts: IntArray
    base_rows: IntArray
    tuned_rows: IntArray
    base_unit: IntArray
    tuned_unit: IntArray
    note: str = ""

    @property
    def n_sequences(self) -> int:
        """Sequences that both indexes have."""
        return len(self.starts) - 1

    def sequence(self, place: int) -> CommonSequence:
        """Return one common sequence by its place among them, from 0."""
        base, tuned = (slice(*map(int, rows[place])) for rows in (self.base_rows, self.tuned_rows))
        n_units = int(self.starts[place + 1] - self.starts[place])
        return CommonSequence(base, tuned, self.base_unit[base], self.tuned_unit[tuned], n_units)


def common_units(base: Index, tuned: Index) -> Units:
    """Return what two indexes have in common: tokens where all are the same, else words.

    Tokens are the same where sequence, position and id are, and the ids mean the same: the vocabularies are equal, or the
    strings of all tokens that occur are (a vocabulary may have grown in tuning). Otherwise sequences are paired by their
    text, and repeated texts in their order; windows of a long text where both begin and end at the same characters. A word
    of such a pair is a unit if both checkpoints have tokens of it. A token is of the word that its first character is in.

    Raises:
        QKSpaceError: no sequence is in both indexes, or none of which the windows and the words are the same.
    """
    return _tokens_as_units(base) if _have_same_tokens(base, tuned) else _words_as_units(base, tuned)


def _have_same_tokens(base: Index, tuned: Index) -> bool:
    if base.n_tokens != tuned.n_tokens:
        return False

    def is_same(column: str) -> bool:
        return np.array_equal(base.tokens[column].to_numpy(), tuned.tokens[column].to_numpy())

    digests = {index.manifest["model"]["vocabulary_digest"] for index in (base, tuned)}
    return all(map(is_same, ("sequence", "position", "token_id"))) and (len(digests) == 1 or is_same("token"))


def _tokens_as_units(base: Index) -> Units:
    row, position = np.arange(len(base.tokens)), base.tokens["position"].to_numpy()
    rows = np.stack([base.row_starts[:-1], base.row_starts[1:]], axis=1)
    table = base.tokens[["sequence", "text"]].assign(base_row=row, tuned_row=row)
    return Units("token", table, base.row_starts, rows, rows, position, position)


# ---------------------------------------------------------------------------------------------- words


@dataclass(frozen=True, slots=True, eq=False)
class _Words:
    """The words that both indexes have in some pairs of sequences.

    key: (word), pair * width + number in the text, ascending; base_row, tuned_row: (word), its first token; base_key,
    tuned_key: (token of that index), -1 for special tokens, tokens of no word and sequences of no pair.
    """

    key: IntArray
    width: int
    base_row: IntArray
    tuned_row: IntArray
    base_key: IntArray
    tuned_key: IntArray


def _words_as_units(base: Index, tuned: Index) -> Units:
    found = _pairs(base, tuned)
    pairs = found[_have_same_window(base, tuned, found)]
    if not len(pairs):
        lengths = " and ".join(f"{index.manifest['corpus'].get('max_length', 0):,}" for index in (base, tuned))
        raise QKSpaceError(
            f"{base.root} and {tuned.root}: all {len(found):,} sequences that are in both are windows of long texts that end "
            f"at different words (--max-length is {lengths}). Build both with a --max-length that holds whole texts, or over "
            "shorter texts."
        )
    words = _common_words(base, tuned, pairs)
    has_units = np.bincount(words.key // words.width, minlength=len(pairs)) > 0
    unlike = _unlike(base, tuned, words, len(pairs))
    if not (has_units & ~unlike).any():
        reason = "mark different words" if unlike.any() else "have no word in common"
        raise QKSpaceError(
            f"{base.root} and {tuned.root}: in all {len(pairs):,} sequences that are in both, the two indexes {reason}. "
            "Build both from the same file of the corpus."
        )
    note = _note(base, tuned, int((has_units & ~unlike).sum()), len(found) - len(pairs), int(unlike.sum()))
    if not (has_units & ~unlike).all():
        pairs = pairs[has_units & ~unlike]
        words = _common_words(base, tuned, pairs)
    return _units_of_words(base, tuned, pairs, words, note)


def _pairs(base: Index, tuned: Index) -> IntArray:
    """Return the places of sequences of the same text and window in both indexes: (pair, base and tuned)."""
    tables = []
    for index in (base, tuned):
        table = index.sequences[["text", "window"]]
        tables.append(table.assign(copy=table.groupby(["text", "window"]).cumcount(), place=np.arange(len(table))))
    pairs = tables[0].merge(tables[1], on=["text", "window", "copy"], suffixes=("_base", "_tuned"))
    pairs = pairs.sort_values("place_base")
    if not len(pairs):
        first = [str(index.sequences["text"].iloc[0])[:60] for index in (base, tuned)]
        raise QKSpaceError(
            f"{base.root} and {tuned.root} have no sequence in common: the first are {first[0]!r} and {first[1]!r}. Build both "
            "over the same corpus; of a part of it (--max-tokens), each tokenizer may draw other sequences."
        )
    return np.asarray(pairs[["place_base", "place_tuned"]].to_numpy(dtype=np.int64))


def _have_same_window(base: Index, tuned: Index, pairs: IntArray) -> BoolArray:
    """Return which pairs are windows of the same part of their texts: (pair).

    A window that is not full is the last of its text, so that where both are they end alike, whatever characters a
    tokenizer drops; so with the begin of first windows. Other windows must begin and end at the same characters.
    """
    (begin, end, is_last), (begin_tuned, end_tuned, is_last_tuned) = (
        tuple(values[places] for values in _edges(index)) for index, places in zip((base, tuned), pairs.T, strict=True)
    )
    is_first = base.sequences["window"].to_numpy()[pairs[:, 0]] == 0
    return np.asarray((is_first | (begin == begin_tuned)) & ((is_last & is_last_tuned) | (end == end_tuned)))


def _edges(index: Index) -> tuple[IntArray, IntArray, BoolArray]:
    """Return the first and the last character in a word of each sequence, and whether it is the last of its text."""
    lengths = index.sequences["n_tokens"].to_numpy()
    begin, end = np.full((2, len(lengths)), -1)
    rows = np.flatnonzero(index.tokens["word"].to_numpy() >= 0)
    places = np.repeat(np.arange(len(lengths)), lengths)[rows]
    changes = np.flatnonzero(np.diff(places, prepend=-1, append=len(lengths)))  # where a sequence starts, and the end
    begin[places[changes[:-1]]] = index.tokens["start"].to_numpy()[rows[changes[:-1]]]
    end[places[changes[:-1]]] = index.tokens["end"].to_numpy()[rows[changes[1:] - 1]]
    return begin, end, lengths < index.manifest["corpus"].get("max_length", np.inf)


def _common_words(base: Index, tuned: Index, pairs: IntArray) -> _Words:
    """Return the words of which both indexes have tokens in some pairs of sequences."""
    width = 1 + max(0, *(int(index.tokens["word"].max()) for index in (base, tuned)))
    base_key, tuned_key = (_keys(index, pairs[:, side], width) for side, index in enumerate((base, tuned)))
    (base_words, base_row), (tuned_words, tuned_row) = (
        np.unique(key, return_index=True) for key in (base_key, tuned_key)
    )
    key, in_base, in_tuned = np.intersect1d(base_words, tuned_words, assume_unique=True, return_indices=True)
    is_word = key >= 0
    rows = base_row[in_base[is_word]], tuned_row[in_tuned[is_word]]
    return _Words(key[is_word], width, *rows, base_key, tuned_key)


def _keys(index: Index, places: IntArray, width: int) -> IntArray:
    """Return pair * width + number in the text of the word that each token is of: (token), -1 where there is none."""
    pair = np.full(len(index.sequences), -1)
    pair[places] = np.arange(len(places))
    of_token = np.repeat(pair, index.sequences["n_tokens"].to_numpy())
    word = index.tokens["word"].to_numpy()
    return np.where((of_token >= 0) & (word >= 0), of_token * width + word, -1)


def _unlike(base: Index, tuned: Index, words: _Words, n_pairs: int) -> BoolArray:
    """Return in which pairs a word of one number is another in the other index, words having been marked anew: (pair)."""
    texts = [
        index.tokens["word_text"].to_numpy()[row] for index, row in ((base, words.base_row), (tuned, words.tuned_row))
    ]
    pair = words.key // words.width
    return np.bincount(pair[np.asarray(texts[0] != texts[1], dtype=bool)], minlength=n_pairs) > 0


def _units_of_words(base: Index, tuned: Index, pairs: IntArray, words: _Words, note: str) -> Units:
    import pandas as pd

    starts = np.searchsorted(words.key, np.arange(len(pairs) + 1) * words.width)
    tokens = base.tokens
    table = pd.DataFrame(
        {
            "sequence": tokens["sequence"].to_numpy()[words.base_row],
            "text": tokens["word_text"].to_numpy()[words.base_row],
            "base_row": words.base_row,
            "tuned_row": words.tuned_row,
        }
    )
    base_rows, tuned_rows = (
        np.stack([index.row_starts[places], index.row_starts[places + 1]], axis=1)
        for index, places in zip((base, tuned), pairs.T, strict=True)
    )
    base_unit, tuned_unit = (_unit_of_tokens(key, words, starts) for key in (words.base_key, words.tuned_key))
    return Units("word", table, starts, base_rows, tuned_rows, base_unit, tuned_unit, note)


def _unit_of_tokens(key: IntArray, words: _Words, starts: IntArray) -> IntArray:
    """Return the unit that each token is of, counted from the first of its sequence: (token), -1 outside."""
    found = np.minimum(np.searchsorted(words.key, key), len(words.key) - 1)
    first = starts[np.maximum(key, 0) // words.width]
    return np.where(words.key[found] == key, found - first, -1).astype(np.int32)


def _note(base: Index, tuned: Index, n_common: int, n_windows: int, n_unlike: int) -> str:
    """Say what had to be left out; nothing where all sequences of both indexes are compared."""
    n_base, n_tuned = len(base.sequences), len(tuned.sequences)
    if n_common == n_base == n_tuned:
        return ""
    parts = [f"{n_common:,} sequences are in both indexes, of {n_base:,} of the base and {n_tuned:,} of the tuned one."]
    if n_windows:
        parts.append(f"Windows of long texts left out, which do not hold the same words: {n_windows:,}.")
    if n_unlike:
        parts.append(f"Sequences left out, in which the two indexes mark different words: {n_unlike:,}.")
    if 2 * n_common < max(n_base, n_tuned):
        parts.append("That is less than half: build both over the same corpus without --max-tokens to compare more.")
    return " ".join(parts)
