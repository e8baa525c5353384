"""Mentions: which words of a sequence name a thing, and which mentions name the same one.

In: an index whose corpus has a column of mention chains, and the words of a sequence. Out: its mentions, with the head word,
the kind and the chains of each. Knows no attention.

    marks = marks_of(index)                                         # the column of chains, and what else helps
    mentions, broken = mentions_of(marks, words_of(index, 12))
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from qkspace.heads.agreement import PRONOUNS, Traits, listed, traits
from qkspace.heads.words import Words
from qkspace.index import Index
from qkspace.schema import IntArray, QKSpaceError

if TYPE_CHECKING:
    import pandas as pd

CHAIN_COLUMNS = ("entity", "coref", "chain", "mention")
KINDS = ("pronoun", "proper", "nominal")
NOMINAL = {"PRON": "pronoun", "PROPN": "proper", "NOUN": "nominal"}  # upos of words that can be the head of a mention
PROFORMS = ("PRON", "ADV")  # upos of words that stand for others; of adverbs: where, there
GAP_KINDS = {"pronoun": "pronoun", "A": "proper", "B": "proper"}  # of the column `mention` beside one of chains
PART_COLUMN = "mention"  # parts mentions of one chain that stand side by side, as in GAP
# A mention ends, for its head word, before the first of these that does not begin it.
_BREAKS = listed(
    ", ; : ( of in on at by for from with to into under over between among about as after before during near"
)
_TAILS = listed(". , 's \u2019s ' \u2019 \" )")  # at the end of a mention, never its head
# A bracket of CorefUD's Entity: (e1-person-1 opens, e1) closes, (e1-person-1) does both; e1[1/2] is a part of a mention.
_BRACKET = re.compile(r"\((?P<opened>[^()\-]+)(?:-[^()]*)?(?P<whole>\))?|(?P<closed>[^()\-]+)\)")
_BRACKETS = re.compile(r"(?:\([^()\-]+(?:-[^()]*)?\)?|[^()\-]+\))+")
_PART = re.compile(r"(?P<name>.*)\[(?P<number>[0-9]+)/(?P<of>[0-9]+)\]")

Values = NDArray[Any]  # (token), strings and None


@dataclass(frozen=True, slots=True, eq=False)
class Marks:
    """What the tokens of an index say of mentions: (token) each, None where the corpus has no such column."""

    column: str
    has_brackets: bool
    chain: Values
    text: Values
    part: Values | None = None
    upos: Values | None = None
    xpos: Values | None = None
    feats: Values | None = None
    head: NDArray[np.float64] | None = None

    def of(self, name: str, row: int) -> str | None:
        """Return the value of a column of strings in a row of `index.tokens`; None where there is none."""
        values = getattr(self, name)
        return None if values is None else values[row]


@dataclass(frozen=True, slots=True)
class Mention:
    """A mention: its units of the sequence ascending, its head word among them, and the chains that it is of.

    text: its words in lower case; traits: number, gender and person, as far as they are known.
    """

    units: tuple[int, ...]
    head: int
    chains: frozenset[str]
    kind: str
    text: tuple[str, ...]
    head_text: str
    traits: Traits


# ---------------------------------------------------------------------------------------------- columns


def marks_of(index: Index, column: str | None = None) -> Marks:
    """Return the column of chains and the columns that tell head words and kinds.

    Raises:
        QKSpaceError: the corpus has no column of chains, or none of its words has a value there.
    """
    tokens = index.tokens
    if "word" not in tokens:
        raise QKSpaceError(f"{index.root} has no words, so no mentions: expected an index of text.")
    there = [name for name in CHAIN_COLUMNS if name in tokens and tokens[name].notna().any()]
    chosen = column or next(iter(there), None)
    if chosen is None or chosen not in tokens or not tokens[chosen].notna().any():
        asked = (
            f"a column {column!r} with values" if column else f"a column of mention chains ({', '.join(CHAIN_COLUMNS)})"
        )
        raise QKSpaceError(
            f"{index.root}: its corpus has no {asked.removeprefix('a ')}. Build the index of a corpus whose words say which "
            "chain they are of (CoNLL-U with Entity= in MISC, GAP, or JSONL with a list of values), or name the column."
        )
    chain = _strings(tokens[chosen])
    brackets = all(_BRACKETS.fullmatch(value) for value in tokens[chosen].dropna().astype(str).unique())
    others = {name: _strings(tokens[name]) for name in ("upos", "xpos", "feats") if name in tokens}
    if PART_COLUMN in tokens and chosen != PART_COLUMN:
        others["part"] = _strings(tokens[PART_COLUMN])
    head = tokens["head"].to_numpy(dtype=np.float64) if _is_number(tokens, "head") else None
    return Marks(chosen, brackets, chain, _strings(tokens["word_text"]), head=head, **others)


def _strings(column: pd.Series[Any]) -> Values:
    """Return a column as strings, None where it has no value: (token)."""
    values = column.to_numpy(dtype=object)
    is_missing = column.isna().to_numpy()
    return np.array(
        [None if gone else str(value) for value, gone in zip(values, is_missing, strict=True)], dtype=object
    )


def _is_number(tokens: pd.DataFrame, name: str) -> bool:
    return name in tokens and tokens[name].dtype.kind in "if"


# ---------------------------------------------------------------------------------------------- mentions


def mentions_of(marks: Marks, words: Words) -> tuple[list[Mention], int]:
    """Return the mentions of a sequence in the order of their head words, and how many brackets lack the other end.

    Consecutive words of one chain are one mention (of one value of the column `mention`, where there is that too), except
    for a pronoun whose head in the tree is none of them, as in "the baker who"; a value such as "ada+tomas" is of both
    chains. Where values are brackets of CorefUD, a mention is what they hold;
    one that a window cuts, or a word without a token, is left out.
    """
    units = words.words
    values = marks.chain[words.row[units]]
    if not len(values) or not any(value is not None for value in values):
        return [], 0
    parts = None if marks.part is None else marks.part[words.row[units]]
    found, broken = _bracketed(values) if marks.has_brackets else (_runs(values, parts), 0)
    chains: dict[tuple[int, ...], set[str]] = {}
    if not marks.has_brackets:
        found = [(chain, piece) for chain, places in found for piece in _without_pronouns(marks, words, units, places)]
    for chain, places in found:
        chains.setdefault(places, set()).add(chain)
    mentions = [mention(marks, words, units[list(places)], names) for places, names in chains.items()]
    return sorted(mentions, key=lambda each: (each.head, each.units)), broken


def nominals_of(marks: Marks, words: Words) -> list[Mention]:
    """Return every noun, name and pronoun of a sequence as a mention of its own, by upos; of no chain."""
    return [
        mention(marks, words, np.array([unit]), ())
        for unit in words.words
        if marks.of("upos", words.row[unit]) in NOMINAL
    ]


def singles_of(marks: Marks, words: Words) -> list[Mention]:
    """Return every word of a sequence as a mention of its own; of no chain."""
    return [mention(marks, words, np.array([unit]), ()) for unit in words.words]


def mention(marks: Marks, words: Words, units: IntArray, chains: Sequence[str] | set[str]) -> Mention:
    """Return the mention of some units."""
    head = _head_word(marks, words, units)
    row = int(words.row[head])
    text = tuple(str(marks.text[r]).lower() for r in words.row[units])
    head_text = str(marks.text[row])
    known = traits(text, head_text.lower(), xpos=marks.of("xpos", row), feats=marks.of("feats", row))
    kind = GAP_KINDS.get(marks.of("part", row) or "") or _kind(head_text, marks.of("upos", row))
    return Mention(tuple(units.tolist()), head, frozenset(chains), kind, text, head_text.lower(), known)


def _runs(values: Values, parts: Values | None) -> list[tuple[str, tuple[int, ...]]]:
    """Return the runs of words of each chain, and of one part: (chain, places)."""
    found: list[tuple[str, tuple[int, ...]]] = []
    open_since: dict[str, int] = {}
    before: tuple[str, ...] = ()
    for place in range(len(values) + 1):
        value = values[place] if place < len(values) else None
        now = tuple(name for name in value.split("+") if name) if value else ()
        is_same_part = parts is None or (0 < place < len(values) and parts[place] == parts[place - 1])
        for chain in dict.fromkeys(before):
            if chain not in now or not is_same_part:
                found.append((chain, tuple(range(open_since.pop(chain), place))))
        for chain in now:
            open_since.setdefault(chain, place)
        before = now
    return found


def _without_pronouns(marks: Marks, words: Words, units: IntArray, places: tuple[int, ...]) -> list[tuple[int, ...]]:
    """Return a run of words as what lies between its pronouns that depend on none of them, and these pronouns."""
    if len(places) == 1 or marks.head is None or marks.upos is None:
        return [places]
    run = units[list(places)]
    heads = marks.head[words.row[run]]
    apart = np.isin(marks.upos[words.row[run]], PROFORMS) & ~np.isnan(heads) & ~np.isin(heads, words.word[run] + 1)
    piece = np.cumsum(apart | np.concatenate([[False], apart[:-1]]))
    return [tuple(np.array(places)[piece == number].tolist()) for number in np.unique(piece)]


def _bracketed(values: Values) -> tuple[list[tuple[str, tuple[int, ...]]], int]:
    """Return what the brackets of CorefUD hold, (chain, places), and how many of them have no other end."""
    found: list[tuple[str, tuple[int, ...]]] = []
    opened: dict[str, list[int]] = {}
    parted: dict[str, list[int]] = {}  # places of mentions of several parts, so far
    broken = 0
    for place, name, opens, closes in _ends(values):
        if opens:
            opened.setdefault(name, []).append(place)
        if not closes:
            continue
        if not opened.get(name):
            broken += 1
            continue
        places = range(opened[name].pop(), place + 1)
        part = _PART.fullmatch(name)
        if part is None:
            found.append((name, tuple(places)))
            continue
        so_far = parted.setdefault(part["name"], [])
        so_far += places
        if part["number"] == part["of"]:
            found.append((part["name"], tuple(sorted(set(parted.pop(part["name"]))))))
    return found, broken + sum(map(len, opened.values())) + len(parted)


def _ends(values: Values) -> Iterator[tuple[int, str, bool, bool]]:
    """Yield the brackets of each word: place, name, whether it opens, whether it closes."""
    for place, value in enumerate(values):
        for bracket in _BRACKET.finditer(value or ""):
            closed = bracket["closed"]
            yield place, closed or bracket["opened"], closed is None, closed is not None or bracket["whole"] is not None


# ---------------------------------------------------------------------------------------------- head words, kinds


def _head_word(marks: Marks, words: Words, units: IntArray) -> int:
    """Return the head word of a mention: the first word whose head lies outside it; without a tree, by rule.

    The rule is of English: the last word before the first comma or preposition that does not begin the mention, but no
    closing mark and no possessive 's.
    """
    if marks.head is not None:
        inside = set((words.word[units] + 1).tolist())
        for unit, head in zip(units.tolist(), marks.head[words.row[units]].tolist(), strict=True):
            if head == head and int(head) not in inside:
                return int(unit)
    text = [str(marks.text[row]).lower() for row in words.row[units]]
    end = next((place for place in range(1, len(text)) if text[place] in _BREAKS), len(text))
    while end > 1 and text[end - 1] in _TAILS:
        end -= 1
    return int(units[end - 1])


def _kind(form: str, upos: str | None) -> str:
    """Return the kind of a mention by its head word: by upos, else pronouns by list and names by their capital."""
    if upos is not None:
        return "pronoun" if upos in PROFORMS else NOMINAL.get(upos, "nominal")
    if form.lower() in PRONOUNS:
        return "pronoun"
    return "proper" if form[:1].isupper() else "nominal"
