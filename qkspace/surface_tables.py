"""Surface tables: means of what heads look at, of the sums that `qkspace.surface` gathered.

In: the sums of each layer over a corpus, and how many tokens they are over. Out: columns of three tables: what is said of each
head, of each head and class of keys, of each head and offset. Knows no tensors and no disk.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qkspace.classes import TokenClasses
from qkspace.schema import FloatArray, LayerSpec
from qkspace.surface import COUNTS, FIRST, N_BUILT_IN, NEIGHBOURS, OFFSETS, REACH, SPECIAL, Layout

BUILT_IN = ("special", "first", "punctuation", *NEIGHBOURS, "special_to_special", "other_to_special")
PUNCTUATION = ("kind", "punctuation")
_SPECIAL, _PUNCTUATION, _PAIR = BUILT_IN.index("special"), BUILT_IN.index("punctuation"), len(BUILT_IN) - 2
_NEIGHBOURS = slice(_PUNCTUATION + 1, _PAIR)

Columns = dict[str, NDArray[Any]]


@dataclass(frozen=True, slots=True)
class SurfaceTables:
    """Columns of tables, heads in order; shares are nan where nothing can be said.

    heads: `surface.HEAD_COLUMNS`, a row a head. surface: layer, head, column ("" = one of BUILT_IN), value, share_of_tokens,
    attention, attention_by_value, uniform. profile: layer, head, offset, attention, uniform.
    """

    heads: Columns
    surface: Columns
    profile: Columns


@dataclass(frozen=True, slots=True)
class _Counts:
    """Tokens that sums are over: in each class as keys, and in all."""

    classes: FloatArray
    n_keys: float
    n_queries: float
    n_special_queries: float
    n_sequences: float


def surface_tables(
    layers: tuple[LayerSpec, ...],
    sums: Sequence[FloatArray],
    counts: FloatArray,
    classes: TokenClasses | None,
) -> SurfaceTables:
    """Return the tables of all heads.

    Args:
        layers: how each layer attends.
        sums: of each layer, (head + 1, sum) laid out by `surface.Layout`; the last row is of equal attention.
        counts: as `surface.SharedBatch.counts` has them, over all that was read.
        classes: the names of the classes of metadata, None where there are none.
    """
    names = [] if classes is None else classes.names
    of = _Counts(counts[: -len(COUNTS)], *(float(n) for n in counts[-len(COUNTS) :]))
    layout = Layout(N_BUILT_IN + len(names))
    numbers = [(layer, head) for layer, spec in enumerate(layers) for head in range(spec.n_heads)]
    found = [
        _of_layer(values, layout, of, names, is_known=classes is not None, crosses=spec.crosses)
        for values, spec in zip(sums, layers, strict=True)
    ]
    attention, by_value, uniform, heads, profile, equal = (np.concatenate(part) for part in zip(*found, strict=True))
    labels = [*(("", value) for value in BUILT_IN), *names]
    surface = {
        **_numbered(numbers, len(labels)),
        "column": np.tile(np.asarray([column for column, _ in labels], dtype=object), len(numbers)),
        "value": np.tile(np.asarray([value for _, value in labels], dtype=object), len(numbers)),
        "share_of_tokens": np.tile(_shares(of, names, crosses=any(spec.crosses for spec in layers)), len(numbers)),
        "attention": attention.ravel(),
        "attention_by_value": by_value.ravel(),
        "uniform": uniform.ravel(),
    }
    offsets = {
        **_numbered(numbers, len(OFFSETS)),
        "offset": np.tile(OFFSETS, len(numbers)),
        "attention": profile.ravel(),
        "uniform": equal.ravel(),
    }
    return SurfaceTables(_head_columns(attention, by_value, heads), surface, offsets)


def _numbered(numbers: list[tuple[int, int]], n_rows: int) -> Columns:
    layer, head = np.repeat(np.asarray(numbers), n_rows, axis=0).T
    return {"layer": layer, "head": head}


def _of_layer(
    sums: FloatArray, layout: Layout, of: _Counts, names: list[tuple[str, str]], *, is_known: bool, crosses: bool
) -> tuple[FloatArray, ...]:
    """Return the means of one layer.

    Returns:
        attention to each class, that by value and that of equal attention, (head, class) each; sink_share and entropy_first,
        then both of equal attention, (head, 4); attention by offset and that of equal attention, (head, offset) each.
    """
    part = {name: sums[:, place] for name, place in layout.slices.items()}
    profile, weighted = part["profile"] / of.n_queries, part["neighbours_by_value"] / of.n_queries
    if crosses:  # positions in two sequences
        profile, weighted = np.full_like(profile, np.nan), np.full_like(weighted, np.nan)
    near = profile[:, [REACH + offset for offset in NEIGHBOURS.values()]]
    plain = part["classes"], part["special_to_special"], near
    valued = part["classes_by_value"], part["special_to_special_by_value"], weighted
    attention, by_value = (_classes(*given, of, names, is_known=is_known) for given in (plain, valued))
    single = np.concatenate([part["sink"] / of.n_queries, part["entropy_first"] / of.n_sequences], axis=1)  # (head, 2)
    equal = [np.repeat(values[-1:], len(sums) - 1, axis=0) for values in (attention, single, profile)]
    heads = np.concatenate([single[:-1], equal[1]], axis=1)
    return attention[:-1], by_value[:-1], equal[0], heads, profile[:-1], equal[2]


def _classes(
    classes: FloatArray,
    special: FloatArray,
    neighbours: FloatArray,
    of: _Counts,
    names: list[tuple[str, str]],
    *,
    is_known: bool,
) -> FloatArray:
    """Return the share of attention to each class, BUILT_IN first: (head, class)."""
    means = classes / of.n_queries
    if PUNCTUATION in names:
        punctuation = means[:, [N_BUILT_IN + names.index(PUNCTUATION)]]
    else:  # none occurs, or nobody looked
        punctuation = np.full((len(means), 1), 0.0 if is_known else np.nan)
    of_special, n_others = classes[:, [SPECIAL]], of.n_queries - of.n_special_queries
    pair = [_share(special, of.n_special_queries), _share(of_special - special, n_others)]
    first = means[:, [SPECIAL, FIRST]]
    return np.concatenate([first, punctuation, neighbours, *pair, means[:, N_BUILT_IN:]], axis=1)


def _share(sums: FloatArray, n: float) -> FloatArray:
    return sums / n if n else np.full_like(sums, np.nan)


def _shares(of: _Counts, names: list[tuple[str, str]], *, crosses: bool) -> FloatArray:
    """Return which share of the tokens is in each class; of a neighbour, the share of queries that have one."""
    shares = of.classes / of.n_keys
    punctuation = shares[N_BUILT_IN + names.index(PUNCTUATION)] if PUNCTUATION in names else 0.0
    beside = 1 - of.n_sequences / of.n_queries
    near = [np.nan] * len(NEIGHBOURS) if crosses else [1.0 if offset == 0 else beside for offset in NEIGHBOURS.values()]
    special = shares[SPECIAL]
    return np.asarray([special, shares[FIRST], punctuation, *near, special, special, *shares[N_BUILT_IN:]])


def _head_columns(attention: FloatArray, by_value: FloatArray, heads: FloatArray) -> Columns:
    """Return `surface.HEAD_COLUMNS`: a row a head."""
    sink, entropy, sink_uniform, entropy_uniform = heads.T
    return {
        "attention_to_punctuation": attention[:, _PUNCTUATION],
        "attention_special_to_special": attention[:, _PAIR],
        "sink_share": sink,
        "sink_share_uniform": sink_uniform,
        "entropy_first": entropy,
        "entropy_first_uniform": entropy_uniform,
        **{f"attention_to_{name}_by_value": by_value[:, i] for i, name in enumerate(BUILT_IN[:_PAIR])},
        "attention_special_to_special_by_value": by_value[:, _PAIR],
    }
