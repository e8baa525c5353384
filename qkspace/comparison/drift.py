"""Drift: how far a tuned checkpoint's attention moved from its base's, measured in many heads at once.

In: the attention of one sequence in two checkpoints, or blocks of their queries and keys. Out: the divergence of every
query, the keys it turned to and from, and the sums that tables of heads are made of.
Pure mathematics: knows no disk, no model and no page.

    part = sequence_drift(base, tuned, base_value_norm, tuned_value_norm, marks)      # a sequence
    columns = head_table(np.stack([part.sums for part in parts]), seed=0)             # a layer
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from qkspace import bootstrap
from qkspace.schema import BoolArray, FloatArray, IntArray, QKSpaceError

Float64Array = NDArray[np.float64]
Float32Array = NDArray[np.float32]

# Means over queries. A neighbour that is not there counts 0. The sink is the special tokens, and in a causal layer the
# first token. value_*: of attention times the norm of the value, what is added up in the end, rows scaled to sum to 1.
STATISTICS = (
    "entropy",
    "attention_to_sink",
    "attention_to_special",
    "attention_to_first",
    "attention_to_previous",
    "attention_to_next",
    "attention_to_self",
    "value_attention_to_sink",
)
# What is summed of each sequence and head: two counts, three divergences, and STATISTICS of each checkpoint.
PARTS = (
    "queries",
    "content_queries",
    "js",
    "js_content",
    "value_js",
    *(f"{name}_base" for name in STATISTICS),
    *(f"{name}_tuned" for name in STATISTICS),
)
_PART = {name: i for i, name in enumerate(PARTS)}
_BASE = slice(_PART[f"{STATISTICS[0]}_base"], _PART[f"{STATISTICS[0]}_tuned"])
_TUNED = slice(_PART[f"{STATISTICS[0]}_tuned"], len(PARTS))

BLOCK_PAIRS = 1 << 16  # attention weights worked on at a time: they stay in the processor's cache
TINY = 1e-30  # whose logarithm is finite, so that no weight times it is 0


# ---------------------------------------------------------------------------------------------- one sequence


@dataclass(frozen=True, slots=True, eq=False)
class SequenceMarks:
    """What is known of the units (tokens or words) of one sequence.

    is_special, is_content: (unit); causal: whether the first unit is a sink because nothing stands before it; asks: (unit),
    whether it attends at all, which in a layer that reads another sequence not every unit does; None where all do.
    """

    is_special: BoolArray
    is_content: BoolArray
    causal: bool
    asks: BoolArray | None = None


@dataclass(frozen=True, slots=True, eq=False)
class SequenceDrift:
    """How the attention of one sequence changed in every head.

    divergence: (head, query), Jensen-Shannon divergence in nats, from 0 to ln 2. changed_key: (head, query, 2), the
    position in the sequence of the key whose attention grew most, and of the one whose attention shrank most; -1 where
    none did. changed_attention: (head, query, 2, 2), [grew, shrank] x [base, tuned], 0 where there is no such key.
    sums: (head, part), see PARTS; nan in the parts that values are needed for, where none were given.
    """

    divergence: Float32Array
    changed_key: NDArray[np.int32]
    changed_attention: Float32Array
    sums: Float64Array


def sequence_drift(
    base: FloatArray,
    tuned: FloatArray,
    base_value_norm: FloatArray | None,
    tuned_value_norm: FloatArray | None,
    marks: SequenceMarks,
) -> SequenceDrift:
    """Measure how the attention of one sequence changed between two checkpoints, in many heads at once.

    JS(p, q) = (KL(p || m) + KL(q || m)) / 2 with m = (p + q) / 2, in nats (Lin 1991): the square of
    `scipy.spatial.distance.jensenshannon`, exactly 0 for equal rows.

    Args:
        base: attention, (head, query unit, key unit), rows summing to 1. One more last key may hold what goes to no unit: of
            words, the attention to what is "outside" them, and of tokens what the sinks of heads take. It counts in the
            divergence and as special, but is never a changed key.
        tuned: the same of the tuned checkpoint.
        base_value_norm: norms of the values, (head, key unit); None where they are not known of units.
        tuned_value_norm: the same of the tuned checkpoint.
        marks: what is known of the units.

    Raises:
        QKSpaceError: the arrays are not of the same heads and units.
    """
    _check(base, tuned, base_value_norm, tuned_value_norm, marks)
    n_heads, n, n_keys = base.shape
    out = SequenceDrift(
        divergence=np.zeros((n_heads, n), dtype=np.float32),
        changed_key=np.full((n_heads, n, 2), -1, dtype=np.int32),
        changed_attention=np.zeros((n_heads, n, 2, 2), dtype=np.float32),
        sums=np.zeros((n_heads, len(PARTS))),
    )
    together = max(1, BLOCK_PAIRS // max(1, n * n_keys))  # heads, so that a block is one piece of memory
    step = max(1, BLOCK_PAIRS // max(1, together * n_keys))
    for head in range(0, n_heads, together):
        heads = slice(head, head + together)
        sides = _Side.of(base, base_value_norm, marks, heads), _Side.of(tuned, tuned_value_norm, marks, heads)
        part = SequenceDrift(*(getattr(out, field.name)[heads] for field in fields(out)))  # views
        for first in range(0, n, step):
            _add_rows(part, *sides, marks, np.arange(first, min(first + step, n)))
    if base_value_norm is None:
        out.sums[:, [i for name, i in _PART.items() if name.startswith("value_")]] = np.nan
    return out


def _check(
    base: FloatArray,
    tuned: FloatArray,
    base_norm: FloatArray | None,
    tuned_norm: FloatArray | None,
    marks: SequenceMarks,
) -> None:
    """Raise unless everything is of the same heads and units."""
    n = len(marks.is_special)
    if base.shape != tuned.shape or base.ndim != 3 or base.shape[1] != n or base.shape[2] not in (n, n + 1):
        raise QKSpaceError(
            f"The attention of two checkpoints is compared as (head, {n} queries, {n} keys, or one more for what is "
            f"outside) of each; got {base.shape} and {tuned.shape}."
        )
    norms = [norm for norm in (base_norm, tuned_norm) if norm is not None]
    expected = (base.shape[0], base.shape[2])
    if len(norms) == 1 or any(norm.shape != expected for norm in norms):
        shapes = [None if norm is None else norm.shape for norm in (base_norm, tuned_norm)]
        raise QKSpaceError(
            f"Norms of values must be (head, key) = {expected} of both checkpoints, or None; got {shapes}."
        )
    if marks.is_content.shape != (n,):
        raise QKSpaceError(f"Each of the {n} units needs a content mark; got {marks.is_content.shape}.")


@dataclass(frozen=True, slots=True, eq=False)
class _Side:
    """One checkpoint: attention (head, query, key), norms of values (head, key), and `weights` that sum over keys.

    weights: (1 or head, key, column): whether a key is a sink, special, first; the norm of its value, and that of sinks.
    """

    attention: FloatArray
    value_norm: FloatArray | None
    weights: FloatArray

    @classmethod
    def of(cls, attention: FloatArray, value_norm: FloatArray | None, marks: SequenceMarks, heads: slice) -> _Side:
        """Prepare what all blocks of queries of some heads share."""
        n_keys = attention.shape[2]
        special = np.ones(n_keys, dtype=bool)
        special[: len(marks.is_special)] = marks.is_special
        first = (np.arange(n_keys) == 0) & (len(marks.is_special) > 0)
        sink = special | first if marks.causal else special
        weights = np.stack([sink, special, first], axis=1).astype(np.float32)[None]
        norm = None
        if value_norm is not None:
            norm = np.ascontiguousarray(value_norm[heads], dtype=np.float32)
            shared = np.broadcast_to(weights, (len(norm), n_keys, 3))
            weights = np.concatenate([shared, norm[:, :, None], (norm * sink)[:, :, None]], axis=2)
        return cls(attention[heads], norm, weights)

    def taken(self, rows: slice, n_keys: int) -> _Side:
        """Return some queries and the first so many keys."""
        norm = None if self.value_norm is None else self.value_norm[:, :n_keys]
        return _Side(self.attention[:, rows, :n_keys], norm, self.weights[:, :n_keys])

    def of_heads(self, heads: IntArray) -> _Side:
        """Return some heads."""
        norm = None if self.value_norm is None else self.value_norm[heads]
        weights = self.weights if len(self.weights) == 1 else self.weights[heads]
        return _Side(self.attention[heads], norm, weights)


def _add_rows(out: SequenceDrift, base: _Side, tuned: _Side, marks: SequenceMarks, at: IntArray) -> None:
    """Measure the queries at some consecutive positions, write what is theirs and add to the sums."""
    rows = slice(int(at[0]), int(at[-1]) + 1)
    n_keys = base.attention.shape[2]
    if marks.causal and not any(side.attention[:, rows, rows.stop :].any() for side in (base, tuned)):
        n_keys = rows.stop  # of a causal layer the rest is 0
    base, tuned = base.taken(rows, n_keys), tuned.taken(rows, n_keys)
    n = min(len(marks.is_special), n_keys)
    base_log, content = x_log_x(base.attention), marks.is_content[at]
    asks = np.ones(len(at), dtype=bool) if marks.asks is None else marks.asks[at]
    sums = _statistic_sums(base, base_log, at, n)
    out.sums[:, _PART["queries"]] += np.count_nonzero(asks)  # what does not ask adds 0 to all else
    out.sums[:, _PART["content_queries"]] += np.count_nonzero(content & asks)
    out.sums[:, _BASE] += sums

    same = (base.attention == tuned.attention).all(axis=2)  # (head, query)
    same_value = np.ones(len(same), dtype=bool)  # (head)
    if base.value_norm is not None and tuned.value_norm is not None:
        same_value = (base.value_norm == tuned.value_norm).all(axis=1)
    heads = np.flatnonzero(~(same.all(axis=1) & same_value))  # the others need no work twice
    if len(heads):
        if len(heads) < len(same):
            base, tuned, base_log = base.of_heads(heads), tuned.of_heads(heads), base_log[heads]
        tuned_log = x_log_x(tuned.attention)
        sums[heads] = _statistic_sums(tuned, tuned_log, at, n)
        differs = divergence(base.attention, tuned.attention, base_log, tuned_log)
        differs[same[heads]] = 0.0
        valued = _value_divergence(base, tuned)
        valued[same[heads] & same_value[heads, None]] = 0.0
        for name, values in (("js", differs), ("js_content", differs[:, content]), ("value_js", valued)):
            out.sums[heads, _PART[name]] += values.sum(axis=1, dtype=np.float64)
        out.divergence[heads, rows] = differs
        out.changed_key[heads, rows], out.changed_attention[heads, rows] = _changed_keys(base, tuned, n)
    out.sums[:, _TUNED] += sums


def x_log_x(x: FloatArray) -> FloatArray:
    """Return x ln x, 0 where x is 0."""
    result: FloatArray = np.log(np.maximum(x, x.dtype.type(TINY)))
    result *= x
    return result


def divergence(base: FloatArray, tuned: FloatArray, base_log: FloatArray, tuned_log: FloatArray) -> FloatArray:
    """Return the Jensen-Shannon divergence of rows (..., key): (...); base_log and tuned_log: their x ln x.

    JS = sum(p ln p + q ln q) / 2 - sum(m ln m), each key's difference taken before the sum.
    """
    terms = base_log + tuned_log
    terms *= 0.5
    terms -= x_log_x((base + tuned) * 0.5)
    divergence: FloatArray = np.clip(terms.sum(axis=-1), 0.0, math.log(2))  # beyond is rounding
    return divergence


def _value_divergence(base: _Side, tuned: _Side) -> FloatArray:
    """Return the divergence of the rows times the norms of the values, scaled to sum to 1: (head, query)."""
    if base.value_norm is None or tuned.value_norm is None:
        return np.zeros(base.attention.shape[:2], dtype=np.float32)
    before, after = _weighted(base.attention, base.value_norm), _weighted(tuned.attention, tuned.value_norm)
    return divergence(before, after, x_log_x(before), x_log_x(after))


def _weighted(attention: FloatArray, value_norm: FloatArray) -> FloatArray:
    """Return the rows times the norms of the values, scaled to sum to 1: (head, query, key)."""
    rows: FloatArray = attention * value_norm[:, None]
    rows /= np.maximum(rows.sum(axis=2, keepdims=True), TINY)
    return rows


def _statistic_sums(side: _Side, log: FloatArray, at: IntArray, n: int) -> Float64Array:
    """Return STATISTICS of the queries at some positions among n units, added up: (head, statistic); log: their x ln x."""
    attention = side.attention
    received = attention @ side.weights  # (head, query, column)
    sums = np.zeros((len(attention), len(STATISTICS)))
    sums[:, 0] = -log.sum(axis=2).sum(axis=1, dtype=np.float64)
    sums[:, 1:4] = received[:, :, :3].sum(axis=1, dtype=np.float64)
    for column, offset in ((4, -1), (5, 1), (6, 0)):
        there = np.flatnonzero((at + offset >= 0) & (at + offset < n))
        sums[:, column] = attention[:, there, at[there] + offset].sum(axis=1, dtype=np.float64)
    if side.value_norm is not None:
        share = received[:, :, 4] / np.maximum(received[:, :, 3], TINY)
        sums[:, 7] = share.sum(axis=1, dtype=np.float64)
    return sums


def _changed_keys(base: _Side, tuned: _Side, n: int) -> tuple[NDArray[np.int32], Float32Array]:
    """Return the key among the n units that gained most and the one that lost most, with their attention before and after.

    (head, query, [grew, shrank]), -1 where there is none, and (head, query, [grew, shrank], [base, tuned]).
    """
    before, after = base.attention[:, :, :n], tuned.attention[:, :, :n]
    change = after - before
    key = np.stack([change.argmax(axis=2), change.argmin(axis=2)], axis=2)
    moved = np.take_along_axis(change, key, axis=2) * np.array([1, -1], dtype=np.float32) > 0
    attention = np.stack([np.take_along_axis(rows, key, axis=2) for rows in (before, after)], axis=3)
    return np.where(moved, key, -1).astype(np.int32), np.where(moved[..., None], attention, 0).astype(np.float32)


# ---------------------------------------------------------------------------------------------- heads


def head_table(sums: Float64Array, seed: int) -> dict[str, Float64Array]:
    """Return the columns of the table of heads, each (head), from the sums of sequences: (sequence, head, part).

        head_table(np.stack([part.sums for part in parts]), seed=0)["js"]

    Columns: js with the ends of its 95 % interval js_low and js_high, js_content, value_js, and for each of STATISTICS
    s_base, s_tuned, s_change (tuned less base), s_change_low and s_change_high. The intervals are over sequences drawn
    again with `seed` (`bootstrap`), nan where fewer than two sequences have queries. A mean over nothing is nan.
    """
    if sums.ndim != 3 or sums.shape[2] != len(PARTS):
        raise QKSpaceError(f"A table of heads is made of sums (sequence, head, {len(PARTS)}); got {sums.shape}.")
    total = sums.sum(axis=0)
    mean = ratio(total, total[:, _PART["queries"], None])  # (head, part)
    change = sums[:, :, _TUNED] - sums[:, :, _BASE]
    low, high = _interval(sums[:, :, _PART["queries"]], np.dstack([sums[:, :, _PART["js"]], change]), seed)
    columns = {"js": mean[:, _PART["js"]], "js_low": low[:, 0], "js_high": high[:, 0]}
    columns["js_content"] = ratio(total[:, _PART["js_content"]], total[:, _PART["content_queries"]])
    columns["value_js"] = mean[:, _PART["value_js"]]
    mean_change = ratio(change.sum(axis=0), total[:, _PART["queries"], None])
    for i, name in enumerate(STATISTICS):
        columns[f"{name}_base"] = mean[:, _PART[f"{name}_base"]]
        columns[f"{name}_tuned"] = mean[:, _PART[f"{name}_tuned"]]
        columns[f"{name}_change"] = mean_change[:, i]
        columns[f"{name}_change_low"], columns[f"{name}_change_high"] = low[:, i + 1], high[:, i + 1]
    return columns


def ratio(total: Float64Array, count: Float64Array) -> Float64Array:
    """Return total / count, nan where nothing was counted."""
    count = np.broadcast_to(count, total.shape)
    ratio: Float64Array = np.divide(total, count, out=np.full(total.shape, np.nan), where=count != 0)
    return ratio


def _interval(queries: Float64Array, values: Float64Array, seed: int) -> tuple[Float64Array, Float64Array]:
    """Return the ends of the intervals of means over queries: (head, value) each.

    queries: (sequence, head), how many each sequence has; values: (sequence, head, value), sums over them.
    """
    n_heads, n_values = values.shape[1:]
    told = np.flatnonzero(queries.any(axis=1))
    if len(told) < 2:
        nothing = np.full((n_heads, n_values), np.nan)
        return nothing, nothing.copy()
    times = bootstrap.draw(len(told), seed)
    # not @: the same to the last digit on any number of cores
    total = np.einsum("rs,sp->rp", times, values[told].reshape(len(told), -1)).reshape(-1, n_heads, n_values)
    count = np.einsum("rs,sp->rp", times, queries[told])
    low, high = np.percentile(ratio(total, count[:, :, None]), bootstrap.ENDS, axis=0)
    return low, high
