"""Where words stand in a text.

In: a text, or words that are to become one. Out: the [start, end) characters of each word. Knows no format of corpus
and no tokenizer.
"""

from __future__ import annotations

from collections.abc import Iterable

import regex

Span = tuple[int, int]

_UNSPACED = r"[[\p{L}\p{Nl}]&&[\p{scx=Han}\p{scx=Hira}\p{scx=Kana}\p{sc=Thai}\p{sc=Laoo}\p{sc=Khmr}\p{sc=Mymr}]]"
_RUN = rf"[[\p{{L}}\p{{N}}\p{{M}}]--{_UNSPACED}]+"
_INNER = r"['\u2019\-\u2010\u2011\u00AD\u200C\u200D]"  # apostrophes, hyphens, joiners of Persian and Indic words
_BLANK = r"[\s\x1C-\x1F]"  # what str.strip() takes away
# \X is a grapheme cluster; \p{GCB=Prepend} stands before it because such a character takes what follows into its own.
_WORDS = regex.compile(rf"(?V1)(?={_UNSPACED})\X|{_RUN}(?:{_INNER}{_RUN})*|\p{{GCB=Prepend}}|(?!{_BLANK})\X")


def find_words(text: str) -> tuple[Span, ...]:
    """Return the [start, end) of each word of a text, by rule.

    A word is a run of letters, digits and marks, with single apostrophes, hyphens and zero-width joiners inside; or one
    letter of a script that is written without spaces (Han, Hiragana, Katakana, Thai, Lao, Khmer, Burmese) with its
    marks; or any other character that is not white space, with what belongs to it (an emoji with its joiners). All
    characters but white space are in exactly one word, and no word holds white space.
    """
    return tuple(found.span() for found in _WORDS.finditer(text))


def join_words(words: Iterable[tuple[str, str]]) -> tuple[str, tuple[Span, ...]]:
    """Return the text of words, each given with what follows it (but not at the end), and the span of each."""
    pieces, spans, place = [], [], 0
    for word, after in words:
        spans.append((place, place + len(word)))
        pieces += [word, after]
        place += len(word) + len(after)
    return "".join(pieces[:-1]), tuple(spans)
