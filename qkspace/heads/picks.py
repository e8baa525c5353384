"""Picks: which antecedent each head picks, and which one rules do.

In: items, and for heads the index that they are of. Out: how right each pick is, 0 to 1. Knows no table and no split.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import groupby

import numpy as np

from qkspace import store
from qkspace.console import SILENT, Console
from qkspace.heads.agreement import agree
from qkspace.heads.antecedents import DIRECTIONS, Item
from qkspace.heads.words import Rows, Words, words_of
from qkspace.index import Index
from qkspace.pooling import pool_keys, pool_queries
from qkspace.position import attend_heads
from qkspace.schema import BoolArray, FloatArray, IntArray

TIE = 1e-6  # weights that differ by less than this share of the largest are equal
BLOCK_WEIGHTS = 1 << 24  # attention weights held at a time


# ---------------------------------------------------------------------------------------------- heads


def head_scores(index: Index, items: Sequence[Item], *, rows: Rows = "mean", console: Console = SILENT) -> FloatArray:
    """Return how right each head is about each item: (item, direction, head of any layer), 0 to 1; nan where undefined.

    A head picks the candidate whose head word the mention's head word most attends to, or that most attends to it. Those
    that get alike share the pick, so that equal attention is as right as chance. A causal layer has no way back, and one
    that reads another sequence neither.
    """
    sizes = [layer.n_heads for layer in index.layers]
    stored = [
        tuple(store.read_array(index.root / name / f"L{layer:02d}.npy") for name in ("query", "key"))
        for layer in range(len(sizes))
    ]
    scores = np.full((len(items), len(DIRECTIONS), sum(sizes)), np.nan, dtype=np.float32)
    at = 0
    by_place = groupby(items, key=lambda item: item.place)
    total = len({item.place for item in items})
    for place, group in console.track(by_place, total, "attention between mentions", unit="sequences"):
        these = list(group)
        words = words_of(index, place)
        asking = np.unique([item.mention.head for item in these])
        units = np.unique([u for item in these for u in (item.mention.head, *(c.head for c in item.candidates))])
        start = 0
        for layer, size in enumerate(sizes):
            if not index.layers[layer].crosses:
                there, back = _between(index, layer, stored[layer], words, asking, units, rows)
                for i, item in enumerate(these):
                    mention_at = int(np.searchsorted(asking, item.mention.head))
                    columns = np.searchsorted(units, [candidate.head for candidate in item.candidates])
                    scores[at + i, 0, start : start + size] = share(there[:, mention_at, columns], item.gold)
                    if back is not None:
                        scores[at + i, 1, start : start + size] = share(back[:, columns, mention_at], item.gold)
            start += size
        at += len(these)
    return scores


def _between(
    index: Index,
    layer: int,
    stored: tuple[FloatArray, ...],
    words: Words,
    asking: IntArray,
    units: IntArray,
    rows: Rows,
) -> tuple[FloatArray, FloatArray | None]:
    """Return the attention of a layer from some units to others, (head, asking, unit), and back, (head, unit, asking).

    Recomputed for the tokens of these units alone, some at a time; None for the way back of a causal layer.
    """
    spec = index.layers[layer]
    query, key = stored
    keys = store.float_array(key[:, words.rows])
    n = keys.shape[1]
    key_unit = _compact(words.unit, units)
    asked = asking if spec.causal else units
    step = max(1, BLOCK_WEIGHTS // (spec.n_heads * n))
    found: list[FloatArray] = []
    for first in range(0, len(asked), step):
        block = asked[first : first + step]
        query_unit = _compact(words.unit, block)
        if rows == "first":
            query_unit = np.where(np.diff(words.unit, prepend=-1) > 0, query_unit, -1)
        at = np.flatnonzero(query_unit >= 0)
        queries = store.float_array(query[:, words.rows.start + at])
        attention = attend_heads(
            *(queries, keys, spec, index.position(layer)),
            at=at,
            n_source=index.n_source(words.place),
            number=words.place,
        )
        found.append(pool_queries(pool_keys(attention, key_unit, len(units)), query_unit[at], len(block))[..., :-1])
    whole = np.concatenate(found, axis=1)  # (head, asked, unit)
    if spec.causal:
        return whole, None
    places = np.searchsorted(units, asking)
    return whole[:, places], whole[:, :, places]


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
