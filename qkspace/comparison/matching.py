"""Matching: heads of two models of different shape, paired by what they do.

In: two indexes and the units that they have in common. Out: for each head of the base the head of the tuned model that
attends most like it, all heads considered together. Recomputes attention of a sample of queries; knows no weights, no map
and no page.

    units = common_units(base, tuned)
    matching = match_heads(base, tuned, units)
    matching.tuned[5], matching.cost[5]                             # what the sixth head of the base is compared with
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from qkspace.behaviour import BLOCK_PAIRS, add_mixtures, attention_of_all, divergence, draw_weighted
from qkspace.comparison.units import CommonSequence, Units
from qkspace.index import Index
from qkspace.pooling import pool_keys, pool_queries
from qkspace.schema import BoolArray, FloatArray, IntArray, QKSpaceError

HELD = 16 * BLOCK_PAIRS  # attention weights of all heads of both models held at a time
BEYOND = 10.0  # of a head that cannot be measured, in place of at most ln 2: it is given away last


@dataclass(frozen=True, slots=True, eq=False)
class Matching:
    """Which head of the tuned model each head of the base is compared with, in the order of the base's heads.

    base, tuned: (head of the base, layer and head); cost: (head of the base), the mean Jensen-Shannon divergence of the two,
    nats, nan where the vectors of one are not finite; is_shared: (head of the base), whether the tuned model had too few
    heads, so that this one was given the nearest, which another has too; distance: (head of the base, head of the tuned
    model) float32, of any layer; n_queries: that it is a mean over.
    """

    base: IntArray
    tuned: IntArray
    cost: FloatArray
    is_shared: BoolArray
    distance: FloatArray
    n_queries: int


def same_shape(base: Index, tuned: Index) -> bool:
    """Tell whether two models have as many layers, and as many heads as wide in each, so that heads need no matching."""

    def shape(index: Index) -> list[tuple[int, int]]:
        return [(layer.n_heads, layer.d_head) for layer in index.layers]

    return shape(base) == shape(tuned)


def match_heads(base: Index, tuned: Index, units: Units, *, max_queries: int = 2_000, seed: int = 0) -> Matching:
    """Pair every head of the base with a head of the tuned model by what they attend to.

    The distance of two heads is the mean Jensen-Shannon divergence of their attention over the same queries, in units, as in
    `qkspace.behaviour.head_distances`; what words leave outside is one more key. Heads are assigned one to one so that the
    sum of distances is least (Kuhn 1955; `scipy.optimize.linear_sum_assignment`), over all layers together. Where the base
    has more heads, those left over get their nearest.

    Args:
        base: an index.
        tuned: another of the same corpus.
        units: `common_units(base, tuned)`.
        max_queries: units to use as queries, drawn at random, each with the same chance; fewer for many heads or long
            sequences, so that the work is bounded.
        seed: of the draw.

    Raises:
        QKSpaceError: max_queries is less than 1, or no query has a choice of keys.
    """
    from scipy.optimize import linear_sum_assignment

    if max_queries < 1:
        raise QKSpaceError(f"Heads are matched over 1 query or more; got max_queries {max_queries}.")
    heads, tuned_heads = _heads(base), _heads(tuned)
    distance, n_queries = _distances(base, tuned, units, max_queries, seed)
    cost = np.where(np.isnan(distance), BEYOND, distance).astype(np.float64)
    chosen = cost.argmin(axis=1)  # stays so where heads are left over
    is_shared = np.ones(len(heads), dtype=bool)
    assigned, to = linear_sum_assignment(cost)
    chosen[assigned], is_shared[assigned] = to, False
    return Matching(heads, tuned_heads[chosen], distance[np.arange(len(heads)), chosen], is_shared, distance, n_queries)


def _heads(index: Index) -> IntArray:
    return np.array([(number, head) for number, layer in enumerate(index.layers) for head in range(layer.n_heads)])


def _distances(base: Index, tuned: Index, units: Units, max_queries: int, seed: int) -> tuple[FloatArray, int]:
    """Return how differently heads attend, (head of the base, head of the tuned model), and over how many queries."""
    n_base, n_tuned = len(_heads(base)), len(_heads(tuned))
    n_heads = n_base + n_tuned
    sums, n_queries, total = np.zeros((n_heads, n_heads)), 0, 0.0
    least = 2 if units.kind == "token" else 1  # a single word may still attend to what is outside
    drawn = draw_weighted(np.diff(units.starts), max_queries, n_base * n_tuned + n_heads, seed=seed, least=least)
    for place, at, weight in drawn:
        one, each, of_sequence = units.sequence(place), weight / len(at), np.zeros_like(sums)
        for part in _parts(one, at, n_base, n_tuned):
            of_base = _pooled(base, one.base_rows, one.base_unit, part, one.n_units)
            of_tuned = _pooled(tuned, one.tuned_rows, one.tuned_unit, part, one.n_units)
            weights = np.concatenate([of_base, of_tuned])  # (head of either, query, key)
            used = (weights > 0).any(axis=0)  # (query, key); where all are 0 they add nothing
            add_mixtures(of_sequence, weights[:, used], n_base)
            n_asking = int((used.sum(axis=1) > 1).sum())
            n_queries, total = n_queries + n_asking, total + each * n_asking
        sums += each * of_sequence
    if not n_queries:
        raise QKSpaceError(
            f"{base.root} and {tuned.root}: heads cannot be matched by behaviour, because in no common sequence a query has a "
            "choice of keys. Use a corpus of longer sequences."
        )
    return divergence(sums, total)[:n_base, n_base:], n_queries


def _parts(one: CommonSequence, at: IntArray, n_base: int, n_tuned: int) -> list[IntArray]:
    """Return the units drawn from a sequence in parts of which the attention fits into memory."""
    n_weights = (n_base + n_tuned) * len(at) * (one.n_units + 1)
    for n_heads, unit in ((n_base, one.base_unit), (n_tuned, one.tuned_unit)):
        n_weights += n_heads * int(np.isin(unit, at).sum()) * len(unit)
    return np.array_split(at, min(len(at), math.ceil(n_weights / HELD)))


def _pooled(index: Index, rows: slice, unit: IntArray, at: IntArray, n_units: int) -> FloatArray:
    """Return the attention of some units of one sequence in every head: (head of any layer, query, key unit or outside)."""
    drawn = np.full(n_units + 1, -1)  # the last is of tokens outside, whose unit is -1
    drawn[at] = np.arange(len(at))
    query = drawn[unit]
    tokens = np.flatnonzero(query >= 0)
    attention = attention_of_all(index, rows.start, len(unit), tokens)
    return pool_queries(pool_keys(attention, unit, n_units), query[tokens], len(at))
