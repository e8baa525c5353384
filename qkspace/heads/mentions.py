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
GAP_KINDS = {"pronoun": "pronoun", "A": "proper", "B": "proper"}  # of the column `mention` that the reader of GAP makes
PART_COLUMN = "mention"  # parts mentions of one chain that stand side by side, as in GAP
# A column of types of named entities has few values, and each is in many sequences.
MOST_TYPES, SEQUENCES_OF_A_TYPE = 20, 5
NEARLY_ALL = 0.9  # of the values of a column that must be brackets for it to be read as such
# A mention ends, for its head word, before the first of these that does not begin it.
_BREAKS = listed(
    ", ; : ( of in on at by for from with to into under over between among about as after before during near"
)
_TAILS = listed(". , 's \u2019s ' \u2019 \" )")  # at the end of a mention, never its head
# A bracket of CorefUD's Entity: (e1-person-1 opens, e1) closes, (e1-person-1) does both; e1[1/2] is a part of a mention.
_BRACKET = re.compile(r"\((?P<opened>[^()\-]+)(?:-[^()]*)?(?P<whole>\))?|(?P<closed>[^()\-]+)\)")
_BRACKETS = re.compile(r"(?:\([^()\-]+(?:-[^()]*)?\)?|[^()\-]+\))+")
_TAG = re.compile(r"O|[BIESLU]-[^\W\d].*")  # of named entities, such as B-PER
_PART = re.compile(r"(?P<name>.*)\[(?P<number>[0-9]+)/(?P<of>[0-9]+)\]")

Values = NDArray[Any]  # (token), strings and None


@dataclass(frozen=True, slots=True, eq=False)
class Marks:
    """What the tokens of an index say of mentions: (token) each, None where the corpus has no such column.

    has_brackets: whether chains are brackets of CorefUD; has_gap_kinds: whether `part` holds what the reader of GAP says.
    """

    column: str
    has_brackets: bool
    chain: Values
    text: Values
    part: Values | None = None
    has_gap_kinds: bool = False
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


def column_of(index: Index, column: str | None = None) -> tuple[str, str]:
    """Return the column of chains, a given one or the first of `CHAIN_COLUMNS` that can be; "" and why where none can."""
    tokens = index.tokens
    asked = CHAIN_COLUMNS if column is None else (column,)
    there = [name for name in asked if name in tokens and tokens[name].notna().any()]
    if not there:
        what = f"column {column!r} with values" if column else f"column of mention chains ({', '.join(CHAIN_COLUMNS)})"
        return "", (
            f"its corpus has no {what}. Build the index of a corpus whose words say which chain they are of (CoNLL-U with "
            "Entity= in MISC, GAP, or JSONL with a list of values), or name the column (--column)"
        )
    troubles = [no_chains(index, name, is_default=column is None) for name in there]
    fit = next((name for name, trouble in zip(there, troubles, strict=True) if not trouble), "")
    return (fit, "") if fit else ("", troubles[0])


def no_chains(index: Index, name: str, *, is_default: bool) -> str:
    """Say why the values of a column are no chains, but tags or types of named entities; "" where they may be chains."""
    column = index.tokens[name].dropna()
    values = sorted(column.astype(str).unique())
    shown = ", ".join(values[:4])
    if 2 * sum(_TAG.fullmatch(value) is not None for value in values) > len(values):
        return (
            f"its column {name!r} holds tags of named entities ({shown}), which do not say which mentions name the same "
            "thing. Name a column of mention chains (--column)"
        )
    n_sequences = index.tokens["sequence"][column.index].nunique()
    are_few = len(values) <= MOST_TYPES and n_sequences >= SEQUENCES_OF_A_TYPE * len(values)
    is_known = set(values) <= GAP_KINDS.keys() or any(map(str.isdigit, "".join(values)))
    if not is_default or not are_few or is_known:
        return ""
    return (
        f"its column {name!r} has {len(values)} values ({shown}) in {n_sequences:,} sequences: these look like types of "
        f"entities, which do not say which mentions name the same thing. If they are mention chains, say so (--column {name}); "
        "else name another column"
    )


def marks_of(index: Index, column: str | None = None) -> Marks:
    """Return the column of chains and the columns that tell head words and kinds.

    Raises:
        QKSpaceError: the corpus has no column of chains, or none of its words has a value there.
    """
    tokens = index.tokens
    chosen, trouble = column_of(index, column)
    if trouble:
        raise QKSpaceError(f"{index.root}: {trouble}.")
    chain = _strings(tokens[chosen])
    values = tokens[chosen].dropna().astype(str).unique()
    n_brackets = sum(_BRACKETS.fullmatch(value) is not None for value in values)
    others: dict[str, Any] = {name: _strings(tokens[name]) for name in ("upos", "xpos", "feats") if name in tokens}
    if PART_COLUMN in tokens and chosen != PART_COLUMN:
        others["part"] = _strings(tokens[PART_COLUMN])
        others["has_gap_kinds"] = set(tokens[PART_COLUMN].dropna().astype(str)) == GAP_KINDS.keys()
    head = tokens["head"].to_numpy(dtype=np.float64) if _is_number(tokens, "head") else None
    has_brackets = n_brackets >= NEARLY_ALL * len(values)
    return Marks(chosen, has_brackets, chain, _strings(tokens["word_text"]), head=head, **others)


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
    """Return the mentions of a sequence in the order of their head words, and how many brackets are malformed or open.

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


def mention(marks: Marks, words: Words, units: IntArray, chains: Sequence[str] | set[str]) -> Mention:
    """Return the mention of some units."""
    head = _head_word(marks, words, units)
    row = int(words.row[head])
    text = tuple(str(marks.text[r]).lower() for r in words.row[units])
    head_text = str(marks.text[row])
    known = traits(text, head_text.lower(), xpos=marks.of("xpos", row), feats=marks.of("feats", row))
    of_gap = GAP_KINDS.get(marks.of("part", row) or "") if marks.has_gap_kinds else None
    kind = of_gap or _kind(head_text, marks.of("upos", row))
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
    """Return a run of words as what lies between its pronouns that depend on none of them, and these pronouns.

    Where no other word hangs outside, the first of them is the head of the run, as in "everyone in the room".
    """
    if len(places) == 1 or marks.head is None or marks.upos is None:
        return [places]
    run = units[list(places)]
    heads = marks.head[words.row[run]]
    outside = ~np.isnan(heads) & ~np.isin(heads, words.word[run] + 1)
    apart = outside & np.isin(marks.upos[words.row[run]], PROFORMS)
    if not (outside & ~apart).any():
        apart[np.flatnonzero(apart)[:1]] = False
    piece = np.cumsum(apart | np.concatenate([[False], apart[:-1]]))
    return [tuple(np.array(places)[piece == number].tolist()) for number in np.unique(piece)]


def _bracketed(values: Values) -> tuple[list[tuple[str, tuple[int, ...]]], int]:
    """Return what the brackets of CorefUD hold, (chain, places), and how many of them have no other end.

    A value that is no such bracket is left out and counted among these.
    """
    is_malformed = np.array([value is not None and _BRACKETS.fullmatch(value) is None for value in values])
    values = values.copy()
    values[is_malformed] = None
    found: list[tuple[str, tuple[int, ...]]] = []
    opened: dict[str, list[int]] = {}
    parted: dict[str, list[int]] = {}  # places of mentions of several parts, so far
    broken = int(is_malformed.sum())
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
