"""Antecedents: for each mention, the earlier ones that it can mean, and which of them it does mean.

In: an index and the marks of its mentions. Out: items, as many as can be paid for. Knows no attention.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from qkspace.heads.mentions import PART_COLUMN, Marks, Mention, mention, mentions_of, nominals_of
from qkspace.heads.words import Words, words_of
from qkspace.index import Index
from qkspace.schema import BoolArray, IntArray

Candidates = Literal["mentions", "nominals", "words"]
WAYS = ("mention to antecedent", "antecedent to mention")  # directions of attention

MAX_WEIGHTS = 5_000_000_000  # attention weights recomputed, of all heads: a minute or two
MAX_CANDIDATES = 10_000_000  # of all items together, held
MAX_SCORES = 50_000_000  # scores of items in heads and directions held: 200 MB
MAX_HELD = 1 << 26  # weights between the mentions and the words of one sequence, of a layer, held: 256 MB each way


@dataclass(frozen=True, slots=True, eq=False)
class Item:
    """A mention of the sequence at a place, and what it can mean: (candidate), in the order of the text.

    heads: (candidate), the unit of the head word of each; gold: (candidate), which of them it does mean; group: what it is
    counted under besides "all". candidates: as mentions; none where they are all earlier words.
    """

    place: int
    mention: Mention
    heads: IntArray
    gold: BoolArray
    group: str
    candidates: tuple[Mention, ...] = ()


@dataclass(frozen=True, slots=True, eq=False)
class Items:
    """The items of an index, by place, and what is not among them.

    n_mentions: all mentions. n_elsewhere: mentions whose chain occurs earlier only in another window of their text.
    n_broken: brackets that are malformed or without their other end. n_all: items before some were drawn.
    """

    items: list[Item]
    n_mentions: int
    n_elsewhere: int
    n_broken: int
    n_all: int

    @property
    def places(self) -> IntArray:
        """The sequence of each item: (item)."""
        return np.array([item.place for item in self.items], dtype=np.int64)

    @property
    def groups(self) -> list[str]:
        """The group of each item."""
        return [item.group for item in self.items]


# ---------------------------------------------------------------------------------------------- items


def antecedents(
    index: Index, marks: Marks, candidates: Candidates, *, seed: int = 0, places: Collection[int] | None = None
) -> Items:
    """Return the mentions that have an earlier mention of their chain in their sequence, with their candidates.

    A mention is earlier when its head word is, and they share no word. Candidates are of another head word each: all
    earlier mentions; all earlier nouns, names and pronouns, and heads of mentions; or all earlier words. Where there are
    too many, the items are those of some sequences, and some of those of a very long one, drawn by the seed; or of the
    sequences at `places`, where given.
    """
    n_sequences = len(index.sequences)
    n_all, n_items, n_asked, n_candidates = (np.zeros(n_sequences, dtype=np.int64) for _ in range(4))
    n_mentions = n_elsewhere = n_broken = 0
    is_first = index.sequences["window"].to_numpy() == 0
    seen: set[str] = set()  # chains of the text so far
    for place in range(n_sequences):
        if is_first[place]:
            seen = set()
        if not _has_any(index, marks, place):
            continue
        words = words_of(index, place)
        mentions, broken = mentions_of(marks, words)
        meant = _meant(mentions)
        n_mentions, n_broken = n_mentions + len(mentions), n_broken + broken
        n_elsewhere += sum(
            not true and not seen.isdisjoint(one.chains) for one, true in zip(mentions, meant, strict=True)
        )
        seen |= {chain for each in mentions for chain in each.chains}
        heads = [one.head for one, true in zip(mentions, meant, strict=True) if true]
        n_all[place] = len(heads)
        n_items[place] = min(len(heads), most := _most(index, words.n_units))
        n_asked[place] = words.n_units if candidates == "words" else min(words.n_units, 3 * len(mentions))
        n_others = len(mentions) * len(heads) if candidates == "mentions" else sum(heads)
        n_candidates[place] = min(n_others, most * words.n_units)
    kept = _kept(index, n_items, n_asked, n_candidates, seed) if places is None else sorted(places)
    items = [item for place in kept for item in _items(index, marks, words_of(index, place), candidates, seed)]
    return Items(items, n_mentions, n_elsewhere, n_broken, int(n_all.sum()))


def _most(index: Index, n_units: int) -> int:
    """Return how many items of one sequence can be held, with their candidates, weights and scores."""
    n_heads = [layer.n_heads for layer in index.layers]
    held = min(
        MAX_HELD // (n_units * max(n_heads)), MAX_CANDIDATES // n_units, MAX_SCORES // (len(WAYS) * sum(n_heads))
    )
    return max(1, held)


def _kept(index: Index, n_items: IntArray, n_asked: IntArray, n_candidates: IntArray, seed: int) -> list[int]:
    """Return as many sequences with items as cost no more than the limits, ascending; all where they are few.

    n_items, n_asked, n_candidates: (sequence), items, units that ask, and candidates of all items together.
    """
    n_heads = sum(layer.n_heads for layer in index.layers)
    lengths = np.diff(index.row_starts)
    order = np.random.default_rng(seed).permutation(np.flatnonzero(n_items))
    fits = np.ones(len(order), dtype=bool)
    for cost, most in (
        (np.minimum(2 * n_asked, lengths) * lengths * n_heads, MAX_WEIGHTS),  # about two tokens a word
        (n_items * n_heads * len(WAYS), MAX_SCORES),
        (n_candidates, MAX_CANDIDATES),
    ):
        fits &= np.cumsum(cost[order]) <= most
    return sorted(order[: max(1, int(fits.sum()))].tolist())


def _has_any(index: Index, marks: Marks, place: int) -> bool:
    rows = slice(int(index.row_starts[place]), int(index.row_starts[place + 1]))
    return any(value is not None for value in marks.chain[rows])


def _with_heads(marks: Marks, words: Words, mentions: Sequence[Mention]) -> list[Mention]:
    """Return the nouns, names and pronouns of a sequence, and the head words of its mentions, each by itself."""
    found = nominals_of(marks, words)
    there = {each.head for each in found}
    missing = sorted({each.head for each in mentions} - there)
    return sorted(
        [*found, *(mention(marks, words, np.array([unit]), ()) for unit in missing)], key=lambda each: each.head
    )


def _meant(mentions: Sequence[Mention]) -> list[set[int]]:
    """Return the head words of the antecedents of each mention: those earlier, without a word in common."""
    of_chain: dict[str, list[Mention]] = {}
    found = []
    for one in mentions:
        before = [other for chain in one.chains for other in of_chain.get(chain, ())]
        found.append({each.head for each in before if each.head < one.head and not set(each.units) & set(one.units)})
        for chain in one.chains:
            of_chain.setdefault(chain, []).append(one)
    return found


def _items(index: Index, marks: Marks, words: Words, candidates: Candidates, seed: int) -> list[Item]:
    """Return the items of a sequence, of a very long one as many as can be held."""
    mentions, _ = mentions_of(marks, words)
    asked = [(one, true) for one, true in zip(mentions, _meant(mentions), strict=True) if true]
    if len(asked) > (most := _most(index, words.n_units)):
        drawn = np.random.default_rng([seed, words.place]).permutation(len(asked))[:most]
        asked = [asked[i] for i in np.sort(drawn)]
    if candidates == "words":
        return [_among_words(words, one, true) for one, true in asked]
    others = mentions if candidates == "mentions" else _with_heads(marks, words, mentions)
    heads = [each.head for each in others]
    return [_among(words, one, true, others[: bisect_left(heads, one.head)]) for one, true in asked]


def _among_words(words: Words, one: Mention, true: set[int]) -> Item:
    """Return a mention among all earlier words, its own left out."""
    before = words.words[words.words < one.head]
    heads = before[~np.isin(before, one.units)].astype(np.int32)
    return Item(words.place, one, heads, np.isin(heads, list(true)), one.kind)


def _among(words: Words, one: Mention, true: set[int], before: Sequence[Mention]) -> Item:
    """Return a mention among those before it that share no word with it, one for each head word."""
    own = set(one.units)
    by_head: dict[int, Mention] = {}
    for other in before:
        is_new = other.head not in by_head or not one.chains.isdisjoint(other.chains)
        if is_new and own.isdisjoint(other.units):
            by_head[other.head] = other
    gold = np.array([head in true for head in by_head])
    return Item(words.place, one, np.array(list(by_head), dtype=np.int32), gold, one.kind, tuple(by_head.values()))


def is_gap(index: Index, marks: Marks) -> bool:
    """Tell whether an index is of GAP."""
    return marks.has_gap_kinds and {"a_coref", "b_coref", "gender"} <= set(index.sequences)


def choices(index: Index, marks: Marks, *, seed: int = 0) -> Items:
    """Return the pronouns of GAP, each with its two names, of which it means exactly one; all three in one window.

    Where there are too many, some are drawn by the seed.
    """
    assert marks.part is not None, "asked of GAP alone"
    marks = replace(marks, column=PART_COLUMN, chain=marks.part, part=None, has_brackets=False, has_gap_kinds=False)
    truth = index.sequences[["a_coref", "b_coref"]].to_numpy(dtype=object)
    gender = index.sequences["gender"].to_numpy(dtype=object)
    items: list[Item] = []
    n_mentions = n_elsewhere = 0
    for place in range(len(index.sequences)):
        if not _has_any(index, marks, place):
            continue
        found = mentions_of(marks, words_of(index, place))[0]
        by_name = {name: each for each in reversed(found) for name in each.chains}
        n_mentions += len(found)
        gold = np.array([value is True or value == 1 for value in truth[place]])
        if gold.sum() != 1:
            continue
        if not {"pronoun", "A", "B"} <= set(by_name):
            n_elsewhere += "pronoun" in by_name
            continue
        order = sorted(range(2), key=lambda i: by_name["AB"[i]].head)
        candidates = tuple(by_name["AB"[i]] for i in order)
        heads = np.array([each.head for each in candidates], dtype=np.int32)
        items.append(Item(place, by_name["pronoun"], heads, gold[order], str(gender[place]), candidates))
    counts = np.bincount([item.place for item in items], minlength=len(truth)).astype(np.int64)
    kept = set(_kept(index, counts, 3 * counts, 2 * counts, seed)) if items else set()
    return Items([item for item in items if item.place in kept], n_mentions, n_elsewhere, 0, len(items))
