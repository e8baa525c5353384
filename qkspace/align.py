"""Align tokens with the words and the characters of a text.

In: the sequences of a batch, and where the tokenizer says each token is. Out: the word of each token, what stands at
its place, and its kind. Knows no tokenizer and no table.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, chain

import numpy as np
import regex

from qkspace.schema import BoolArray, IntArray, QKSpaceError, TextSequence
from qkspace.spans import Span, find_words

KINDS = ("special", "word", "subword", "number", "punctuation", "other")
_NUMBER = regex.compile(r"\d+([.,]\d+)*")
_PUNCTUATION = regex.compile(r"[\p{P}\p{S}][\p{P}\p{S}\p{M}\p{Cf}]*")
_LETTER = regex.compile(r"[\p{L}\p{N}\p{M}]")


@dataclass(frozen=True, slots=True)
class Words:
    """The words of a batch, laid end to end.

    start, end: (word), characters in the texts of the batch with one character between two texts; text: (word);
    first_word, first_character: (sequence + 1).
    """

    start: IntArray
    end: IntArray
    text: list[str]
    first_word: IntArray
    first_character: IntArray


@dataclass(frozen=True, slots=True)
class Surface:
    """What stands in the texts at the place of each token, without the white space around it.

    text: (token), the string of the vocabulary where nothing stands there; start, end: (token), characters of its
    sequence, -1 for special tokens; is_blank: (token), whether nothing stands there.
    """

    text: list[str]
    start: IntArray
    end: IntArray
    is_blank: BoolArray


def shown_sequence(sequence: TextSequence) -> str:
    """Return what a message calls a sequence."""
    return sequence.source or f"The sequence {sequence.text[:40]!r}"


def words_of(batch: Sequence[TextSequence]) -> Words:
    """Return the words of a batch, having checked that they fit the texts and their metadata."""
    spans = [find_words(s.text) if s.word_spans is None else s.word_spans for s in batch]
    for sequence, found in zip(batch, spans, strict=True):
        if sequence.word_spans is not None:
            _check_spans(sequence, found)
        for name, values in sequence.word_metadata.items():
            if len(values) != len(found):
                raise QKSpaceError(
                    f"{shown_sequence(sequence)}: column {name!r} has {len(values)} values for {len(found)} words; "
                    f"expected one a word."
                )
    first_character = np.fromiter(accumulate((len(s.text) + 1 for s in batch), initial=0), dtype=np.int64)
    first_word = np.fromiter(accumulate(map(len, spans), initial=0), dtype=np.int64)
    flat = np.fromiter(chain.from_iterable(chain.from_iterable(spans)), dtype=np.int64)
    base = np.repeat(first_character[:-1], np.diff(first_word))
    text = [s.text[start:end] for s, found in zip(batch, spans, strict=True) for start, end in found]
    return Words(flat[0::2] + base, flat[1::2] + base, text, first_word, first_character)


def _check_spans(sequence: TextSequence, spans: tuple[Span, ...]) -> None:
    last_start, last_end = 0, 0
    for number, (start, end) in enumerate(spans):
        if not (last_start <= start <= end <= len(sequence.text) and last_end <= end):
            raise QKSpaceError(
                f"{shown_sequence(sequence)}: word {number} is at [{start}, {end}); expected words in order within the "
                f"{len(sequence.text)} characters of the text."
            )
        last_start, last_end = start, end


def word_of_tokens(words: Words, surface: Surface, sample: IntArray) -> IntArray:
    """Return the first word that each token shares characters with, among all words of the batch; -1 for none."""
    base = words.first_character[sample]
    found = np.searchsorted(words.end, surface.start + base, side="right")
    inside = (found < len(words.end)) & ~surface.is_blank
    inside[inside] = words.start[found[inside]] < (surface.end + base)[inside]
    return np.where(inside, found, -1)


def surface_of_tokens(
    texts: Sequence[str],
    start: IntArray,
    end: IntArray,
    is_special: BoolArray,
    sample: IntArray,
    vocabulary: Sequence[str],
) -> Surface:
    """Return what stands in the texts at the place of each token.

    The space that a tokenizer puts before a text is a token that claims the first character; it covers nothing.

    Args:
        texts: (sequence)
        start: (token), the first character, as the tokenizer says.
        end: (token), the character after the last one.
        is_special: (token)
        sample: (token), the sequence that it is of.
        vocabulary: (token), its string in the vocabulary.
    """
    start, end, is_blank = start.copy(), end.copy(), is_special.copy()
    shown = list(vocabulary)
    tokens = zip(is_special.tolist(), sample.tolist(), start.tolist(), end.tolist(), vocabulary, strict=True)
    for place, (special, of, left, right, string) in enumerate(tokens):
        if special:
            start[place] = end[place] = -1
            continue
        covered = texts[of][left:right]
        stripped = covered.strip()
        if not stripped:
            is_blank[place] = True
        elif stripped != string and not string.strip("▁Ġ"):
            is_blank[place] = True
            end[place] = left
        else:
            shown[place] = stripped
            start[place] = left + len(covered) - len(covered.lstrip())
            end[place] = start[place] + len(stripped)
    return Surface(shown, start, end, is_blank)


def kind_of_tokens(surface: Surface, is_special: BoolArray, word: IntArray) -> IntArray:
    """Return the kind of each token, as its place in `KINDS`.

    A token begins its word when the one before it is of another.
    """
    shapes = {text: KINDS.index(_shape(text)) for text in set(surface.text)}
    kind = np.array([shapes[text] for text in surface.text], dtype=np.int32)
    shown = np.flatnonzero(~surface.is_blank)
    of_word = word[shown]
    inside = np.zeros(len(kind), dtype=bool)
    inside[shown[1:]] = (of_word[1:] == of_word[:-1]) & (of_word[1:] >= 0)
    kind[(kind == KINDS.index("word")) & inside] = KINDS.index("subword")
    kind[surface.is_blank] = KINDS.index("other")
    kind[is_special] = KINDS.index("special")
    return kind


def _shape(text: str) -> str:
    """Return the kind that the characters of a token tell."""
    if _NUMBER.fullmatch(text):
        return "number"
    if _PUNCTUATION.fullmatch(text):
        return "punctuation"
    return "word" if _LETTER.search(text) else "other"
