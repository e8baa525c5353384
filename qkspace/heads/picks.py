"""Picks: which antecedent each head picks, and which one rules do.

In: items, and for heads the index that they are of. Out: how right each pick is, 0 to 1. Knows no table and no split.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import groupby

import numpy as np

from qkspace.console import SILENT, Console
from qkspace.heads.agreement import agree
from qkspace.heads.antecedents import WAYS, Item
from qkspace.heads.blocks import Vectors, blocks, vectors_of
from qkspace.heads.words import Rows, Words, words_of
from qkspace.index import Index
from qkspace.schema import BoolArray, FloatArray, IntArray

TIE = 1e-6  # weights that differ by less than this share of the largest are equal


# ---------------------------------------------------------------------------------------------- heads


def head_scores(index: Index, items: Sequence[Item], *, rows: Rows = "mean", console: Console = SILENT) -> FloatArray:
    """Return how right each head is about each item: (item, direction, head of any layer), 0 to 1; nan where undefined.

    A head picks the candidate whose head word the mention's head word most attends to, or that most attends to it. Those
    that get alike share the pick, so that equal attention is as right as chance. A causal layer has no way back.
    """
    sizes = [layer.n_heads for layer in index.layers]
    vectors = [vectors_of(index, layer) for layer in range(len(sizes))]
    scores = np.full((len(items), len(WAYS), sum(sizes)), np.nan, dtype=np.float32)
    at = 0
    by_place = groupby(items, key=lambda item: item.place)
    total = len({item.place for item in items})
    for place, group in console.track(by_place, total, "attention between mentions", unit="sequences"):
        these = list(group)
        words = words_of(index, place)
        asking = np.unique([item.mention.head for item in these])
        units = np.unique(np.concatenate([asking, *(item.heads for item in these)]))
        start = 0
        for layer, size in enumerate(sizes):
            there, back = _between(index, layer, vectors[layer], words, asking, units, rows)
            for i, item in enumerate(these):
                mention_at = int(np.searchsorted(asking, item.mention.head))
                columns = np.searchsorted(units, item.heads)
                scores[at + i, 0, start : start + size] = share(there[:, mention_at, columns], item.gold)
                if back is not None:
                    scores[at + i, 1, start : start + size] = share(back[:, columns, mention_at], item.gold)
            start += size
        at += len(these)
    return scores


def _between(
    index: Index, layer: int, vectors: Vectors, words: Words, asking: IntArray, units: IntArray, rows: Rows
) -> tuple[FloatArray, FloatArray | None]:
    """Return the attention of a layer from some units to others, (head, asking, unit), and back, (head, unit, asking).

    Recomputed for the tokens of these units alone; None for the way back of a causal layer. asking: some of the units.
    """
    spec = index.layers[layer]
    there = np.empty((spec.n_heads, len(asking), len(units)), dtype=np.float32)
    back = None if spec.causal else np.empty((spec.n_heads, len(units), len(asking)), dtype=np.float32)
    asked = asking if spec.causal else units
    places = np.searchsorted(units, asking)
    row = np.full(len(asked), -1)  # of each that is asked, in `there`
    row[np.searchsorted(asked, asking)] = np.arange(len(asking))
    of_units = (_compact(words.unit, asked), _compact(words.unit, units))
    for some, attention in blocks(index, layer, vectors, words, *of_units, rows=rows):
        is_asking = row[some] >= 0
        there[:, row[some][is_asking]] = attention[:, is_asking]
        if back is not None:
            back[:, some] = attention[:, :, places]
    return there, back


def _compact(unit: IntArray, units: IntArray) -> IntArray:
    """Return the place of each token's unit among some units, ascending; -1 where it is none of them: (token)."""
    place = np.minimum(np.searchsorted(units, unit), len(units) - 1)
    return np.where(units[place] == unit, place, -1)


def share(attention: FloatArray, gold: BoolArray) -> FloatArray:
    """Return how right it is to pick the candidate with most attention, (head, candidate): (head).

    Several that are alike share the pick.
    """
    tied = attention >= attention.max(axis=-1, keepdims=True) * (1 - TIE)
    return np.asarray((tied & gold).sum(axis=-1) / tied.sum(axis=-1))


# ---------------------------------------------------------------------------------------------- rules

Rule = Callable[[Item], float]  # how right it is about an item


def _last(item: Item, fits: Iterator[bool] | Sequence[bool]) -> float | None:
    """Return whether the last candidate that fits is right; None where none fits."""
    places = [place for place, fit in enumerate(fits) if fit]
    return float(item.gold[places[-1]]) if places else None


def chance(item: Item) -> float:
    """Pick any candidate."""
    return float(item.gold.mean())


def nearest(item: Item) -> float:
    """Pick the nearest candidate."""
    return float(item.gold[-1])


def head_match(item: Item) -> float:
    """Pick the nearest candidate with the same head word; wrong where there is none."""
    return _last(item, [each.head_text == item.mention.head_text for each in item.candidates]) or 0.0


def sieves(item: Item) -> float:
    """Pick the nearest candidate by the first of four sieves that any passes.

    The same words; the same head word; number, gender and person that agree; any.
    """
    one = item.mention
    passing = (
        [each.text == one.text for each in item.candidates],
        [each.head_text == one.head_text for each in item.candidates],
        [agree(each.traits, one.traits) for each in item.candidates],
    )
    found = (_last(item, fits) for fits in passing)
    return next((right for right in found if right is not None), nearest(item))


def nearest_name(item: Item) -> float:
    """Pick the nearer of two names before the pronoun; where neither is before it, the nearer one after."""
    before = [each.head < item.mention.head for each in item.candidates]
    right = _last(item, before)
    return float(item.gold[0]) if right is None else right


def first_name(item: Item) -> float:
    """Pick the name that comes first in the text."""
    return float(item.gold[0])


RULES: dict[str, Rule] = {"nearest": nearest, "head match": head_match, "rules": sieves, "chance": chance}
NAME_RULES: dict[str, Rule] = {"nearest before": nearest_name, "first mentioned": first_name, "chance": chance}
