"""Passages of GAP: an ambiguous pronoun, two names, and which of them it means.

In: the name of a TSV file of GAP (Webster et al. 2018, Mind the GAP). Out: a `TextSequence` a passage, whose words say
which mention and which chain they are of. Knows no tokenizer.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise

from qkspace.files import read_lines
from qkspace.rows import Row, delimited_rows
from qkspace.schema import QKSpaceError, Scalar, TextSequence
from qkspace.spans import Span, find_words

COLUMNS = (
    *("ID", "Text", "Pronoun", "Pronoun-offset"),
    *("A", "A-offset", "A-coref", "B", "B-offset", "B-coref", "URL"),
)
PRONOUN, NAMES = "pronoun", ("A", "B")  # values of the column `mention`
_COLUMN_OF_MENTION = {PRONOUN: "Pronoun", "A": "A", "B": "B"}
_GENDERS = dict.fromkeys(("he", "him", "his"), "masculine") | dict.fromkeys(("she", "her", "hers"), "feminine")
_TRUTH = {"TRUE": True, "FALSE": False}


def is_gap(name: str, encoding: str) -> bool:
    """Tell whether the first line of a file names the columns of GAP."""
    header = next(iter(read_lines(name, encoding)), (0, ""))[1]
    return set(COLUMNS) <= set(header.split("\t"))


def read_gap(name: str, encoding: str) -> Iterator[TextSequence]:
    """Yield the passages of a file of GAP.

    Words are found by rule (`find_words`) and cut where a mention begins or ends, so that of "Simon's" Simon is a word.
    They carry `mention` (pronoun, A or B) and `coref`, their chain: that of the pronoun is "pronoun", which a name shares
    that it means, and any other name is a chain of its own. A passage carries id, gender (of the pronoun), a_coref and
    b_coref, and url. Offsets count characters; quotes mean nothing.

    Raises:
        QKSpaceError: a line is not GAP; the message names it.
    """
    for where, row in delimited_rows(name, encoding, tabs=True):
        missing = [column for column in COLUMNS if column not in row]
        if missing:
            raise QKSpaceError(
                f"{where}: not GAP, whose columns are {', '.join(COLUMNS)}; there is no {', '.join(missing)}. "
                "Other tables with tabs are --format tsv."
            )
        yield _passage(row, where)


def _passage(row: Row, where: str) -> TextSequence:
    """Return the sequence of one row."""
    mentions = {mention: _span(row, column, where) for mention, column in _COLUMN_OF_MENTION.items()}
    means = {mention: _truth(row, f"{mention}-coref", where) for mention in NAMES}
    text = str(row["Text"])
    words = _cut(find_words(text), sorted({end for span in mentions.values() for end in span}))
    chain = {mention: PRONOUN if means.get(mention, True) else mention for mention in mentions}
    labels: dict[str, tuple[Scalar, ...]] = {
        "mention": tuple(_joined(_covering(mentions, word)) for word in words),
        "coref": tuple(_joined(dict.fromkeys(chain[m] for m in _covering(mentions, word))) for word in words),
    }
    metadata: dict[str, Scalar] = {
        "id": row["ID"],
        "gender": _GENDERS.get(str(row["Pronoun"]).lower()),
        **{f"{mention.lower()}_coref": means[mention] for mention in NAMES},
        "url": row["URL"],
    }
    return TextSequence(text, metadata, words, labels, where)


def _span(row: Row, column: str, where: str) -> Span:
    """Return the characters of a mention, having checked that it stands there."""
    offset, form, text = str(row[f"{column}-offset"]), str(row[column]), str(row["Text"])
    start = int(offset) if offset.isdecimal() else -1
    if not form or start < 0 or text[start : start + len(form)] != form:
        found = repr(text[start : start + len(form)]) if start >= 0 else "no number"
        raise QKSpaceError(
            f"{where}: expected {form!r} ({column}) at character {offset!r} of the text, counted from 0; found {found}. "
            "Repair the offset, or remove the line."
        )
    return start, start + len(form)


def _truth(row: Row, column: str, where: str) -> bool:
    """Return a truth value."""
    value = str(row[column])
    if value.upper() not in _TRUTH:
        raise QKSpaceError(f"{where}: expected TRUE or FALSE in {column}, got {value!r}.")
    return _TRUTH[value.upper()]


def _cut(words: Sequence[Span], borders: Sequence[int]) -> tuple[Span, ...]:
    """Return the words, cut at each border that lies within one."""
    pieces: list[Span] = []
    for start, end in words:
        ends = [start, *(border for border in borders if start < border < end), end]
        pieces += pairwise(ends)
    return tuple(pieces)


def _covering(mentions: Mapping[str, Span], word: Span) -> list[str]:
    """Return the mentions that hold a word."""
    return [mention for mention, (start, end) in mentions.items() if start <= word[0] and word[1] <= end]


def _joined(names: Sequence[str] | Mapping[str, None]) -> str | None:
    return "+".join(names) or None
