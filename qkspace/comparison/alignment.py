"""Align a tuned head with its base: the gauge of its vectors in which only what attention changed moves.

In: the captured vectors of the same tokens in two checkpoints. Out: an `Alignment` to apply to any vectors of the tuned
head. Knows no disk and no map.

Attention sees of a head its products alone, so training may turn and stretch the space of queries and keys freely:
query A^-T, key A + a. To compare positions, that freedom is used up. Both checkpoints are brought into one canonical
gauge, that of the singular value decomposition query (key - mean key)^T = U S V^T, which gives U S^1/2 and V S^1/2:
unique up to a rotation. The tuned is rotated onto the base (orthogonal Procrustes: Schönemann 1966, Psychometrika 31:1)
and taken back into the gauge of the base, where the base's own maps apply.

Least squares would have everything move a little where a few tokens changed much. So vectors are weighed by one over the
distance that they still have, again and again, which makes for the least sum of distances (iteratively reweighted
least squares): most stay put, and those that changed move.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from qkspace.fidelity import ZERO_VARIANCE
from qkspace.schema import FloatArray, QKSpaceError

Float64Array = NDArray[np.float64]

MAX_TOKENS = 10_000  # evenly spaced, that the gauge is found from
ROUNDS = 5  # of weighing; 30 change no figure of scripts/benchmark_compare.py by 0.002
UNMOVED = (
    0.02  # of the typical length in the canonical gauge: what is nearer than that has not moved, and weighs no more
)
BLOCK = 16_384  # rows that are changed at a time
SMALLEST = 1e-7  # of the largest singular value: below it a direction is rounding, as Gram matrices square conditions


@dataclass(frozen=True, slots=True)
class Alignment:
    """A change of a tuned head's query and key that leaves its attention as it is and brings it near to the base.

    query' = query @ query_matrix and key' = key @ key_matrix + key_offset, with matrices (d_tuned, d_base) and offset
    (d_base). `is_same` tells that both checkpoints had the same vectors, bit for bit, which are then not touched.
    """

    query_matrix: Float64Array
    key_matrix: Float64Array
    key_offset: Float64Array
    is_same: bool

    def apply(self, query: FloatArray, key: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Return the changed vectors, (token, d_tuned) to (token, d_base), computed in float64, at least float32.

        Raises:
            QKSpaceError: if the vectors are not of this head's length.
        """
        d = len(self.query_matrix)
        if query.shape[-1] != d or key.shape[-1] != d:
            raise QKSpaceError(
                f"This alignment is for vectors of length {d}; got query {query.shape} and key {key.shape}."
            )
        if self.is_same:
            return tuple(rows.astype(np.promote_types(rows.dtype, np.float32)) for rows in (query, key))  # type: ignore[return-value]
        return _changed(query, self.query_matrix, 0.0), _changed(key, self.key_matrix, self.key_offset)

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Return everything as named arrays without objects, to be saved by `np.savez`."""
        return {field.name: np.asarray(getattr(self, field.name)) for field in fields(self)}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]]) -> Alignment:
        """Rebuild an alignment from what `arrays` returned.

        Raises:
            QKSpaceError: if an array is missing.
        """
        missing = [field.name for field in fields(cls) if field.name not in arrays]
        if missing:
            raise QKSpaceError(f"A stored alignment lacks {', '.join(missing)}; it holds {', '.join(sorted(arrays))}.")
        return cls(arrays["query_matrix"], arrays["key_matrix"], arrays["key_offset"], bool(arrays["is_same"]))


def align(base_query: FloatArray, base_key: FloatArray, tuned_query: FloatArray, tuned_key: FloatArray) -> Alignment:
    """Find the gauge in which a tuned head lies as near to its base as it can, by the least sum of distances.

    The rows of all four are the same tokens: base (token, d_base), tuned (token, d_tuned). Equality is judged on all of
    them, the gauge found from at most `MAX_TOKENS`, in bounded memory.

    A head of full rank loses nothing: the change is invertible, and attention the same for any vectors. Of a head whose
    products use fewer directions than it has, that part of the queries is lost which no key of these tokens meets, and
    that part of the keys which no query meets, along with the constant that the mean key adds to every logit of a row;
    attention among these tokens (those the gauge is found from) sees none
    of them. A vector that is all lost lies at 0, or at the mean key.

    Raises:
        QKSpaceError: the arrays are not of the same tokens, hold values that are not finite, or the tuned head uses more
            directions than the base has.
    """
    _check(base_query, base_key, tuned_query, tuned_key)
    d_base = base_query.shape[1]
    if np.array_equal(base_query, tuned_query) and np.array_equal(base_key, tuned_key):
        return Alignment(np.eye(d_base), np.eye(d_base), np.zeros(d_base), is_same=True)
    every = slice(None, None, -(-len(base_query) // MAX_TOKENS))
    base = _Vectors(*(rows[every].astype(np.float64) for rows in (base_query, base_key)))
    tuned = _Vectors(*(rows[every].astype(np.float64) for rows in (tuned_query, tuned_key)))
    weight = _Vectors(np.ones(len(base.query)), np.ones(len(base.key)))
    for _ in range(ROUNDS):
        found, far = _lay_onto(base, tuned, weight)
        if max(rows.max() for rows in far) <= 1:
            break
        weight = _Vectors(*(1 / np.maximum(rows, 1) for rows in far))
    return found


class _Vectors(NamedTuple):
    """Something for each query and for each key: vectors (token, d), weights or distances (token)."""

    query: Float64Array
    key: Float64Array


def _lay_onto(base: _Vectors, tuned: _Vectors, weight: _Vectors) -> tuple[Alignment, _Vectors]:
    """Find the alignment of least weighted squares, and how far each vector still is in the canonical gauge of the base.

    The distances are in units of `UNMOVED`.
    """
    target, source = _Canonical.of(base, weight), _Canonical.of(tuned, weight)
    d_base = base.query.shape[1]
    if source.rank > d_base:
        raise QKSpaceError(
            f"The attention of the tuned head uses {source.rank} directions and vectors of the base have {d_base}: they cannot "
            "be laid into one space. Compare such heads by their attention."
        )
    old, new = target.of_vectors(base), source.of_vectors(tuned)
    wider = target.widened(source.rank)
    old = _Vectors(*(np.pad(rows, ((0, 0), (0, wider.rank - target.rank))) for rows in old))
    parts = zip(new, old, weight, strict=True)
    left, _, right = np.linalg.svd(sum((a.T * w) @ b for a, b, w in parts), full_matrices=False)
    rotation = left @ right  # (rank of tuned, rank of base), orthonormal rows
    key_matrix: Float64Array = source.key_matrix @ rotation @ wider.query_matrix.T
    found = Alignment(
        query_matrix=source.query_matrix @ rotation @ wider.key_matrix.T,
        key_matrix=key_matrix,
        key_offset=target.key_mean - source.key_mean @ key_matrix,
        is_same=False,
    )
    unit = UNMOVED * float(np.sqrt(np.mean([np.mean(np.sum(rows**2, axis=1)) for rows in old])))
    unit = unit if unit > 0 else np.inf  # a base without attention to show: nothing can be weighed
    return found, _Vectors(*(np.linalg.norm(a @ rotation - b, axis=1) / unit for a, b in zip(new, old, strict=True)))


@dataclass(frozen=True, slots=True)
class _Canonical:
    """The way into a head's canonical gauge, where queries and centred keys have one diagonal Gram matrix.

    query_matrix, key_matrix: (d, rank) with key_matrix.T @ query_matrix the identity, so that the transpose of each is
    the way back for the other: query = canonical query @ key_matrix.T; key_mean: (d).
    """

    query_matrix: Float64Array
    key_matrix: Float64Array
    key_mean: Float64Array

    @property
    def rank(self) -> int:
        """How many directions there are."""
        return int(self.query_matrix.shape[1])

    @classmethod
    def of(cls, vectors: _Vectors, weight: _Vectors) -> _Canonical:
        """Find the canonical gauge of weighted vectors.

        With Gram matrices query^T query = Rq^T Rq and Rk likewise, and Rq Rk^T = U S V^T, query @ (Rk^T V S^-1/2) has
        the Gram matrix S, and so has key @ (Rq^T U S^-1/2).
        """
        mean: Float64Array = weight.key @ vectors.key / weight.key.sum()
        query_root, key_root = _root(vectors.query, weight.query), _root(vectors.key - mean, weight.key)
        if np.sum(key_root**2) <= ZERO_VARIANCE * weight.key.sum() * np.sum(mean**2):  # keys all one leave rounding
            key_root = np.zeros_like(key_root)
        left, values, right = np.linalg.svd(query_root @ key_root.T)
        used = (values > SMALLEST * values[0]) & (values > np.finfo(np.float64).tiny)
        scale = np.sqrt(values[used])
        return cls(key_root.T @ right.T[:, used] / scale, query_root.T @ left[:, used] / scale, mean)

    def of_vectors(self, vectors: _Vectors) -> _Vectors:
        """Return vectors in the canonical gauge: (token, rank) each."""
        return _Vectors(vectors.query @ self.query_matrix, (vectors.key - self.key_mean) @ self.key_matrix)

    def widened(self, rank: int) -> _Canonical:
        """Return this with directions that it does not use added, up to a rank; nothing is known of their scale."""
        if rank <= self.rank:
            return self
        meets_no_key = np.linalg.svd(self.key_matrix)[0][:, self.rank :]
        meets_no_query = np.linalg.svd(self.query_matrix)[0][:, self.rank :]
        left, values, right = np.linalg.svd(meets_no_query.T @ meets_no_key)
        n, scale = rank - self.rank, np.sqrt(values)
        more_query, more_key = meets_no_key @ right.T / scale, meets_no_query @ left / scale
        return _Canonical(
            np.hstack([self.query_matrix, more_query[:, :n]]),
            np.hstack([self.key_matrix, more_key[:, :n]]),
            self.key_mean,
        )


def _check(base_query: FloatArray, base_key: FloatArray, tuned_query: FloatArray, tuned_key: FloatArray) -> None:
    """Raise QKSpaceError unless the vectors are finite and of the same tokens."""
    shapes = [array.shape for array in (base_query, base_key, tuned_query, tuned_key)]
    is_table = all(len(shape) == 2 and min(shape) > 0 for shape in shapes)
    if not is_table or shapes[0] != shapes[1] or shapes[2] != shapes[3] or shapes[0][0] != shapes[2][0]:
        raise QKSpaceError(
            "Heads are aligned on the vectors of the same tokens in both checkpoints, one query and one key each; got base "
            f"query {shapes[0]} and key {shapes[1]}, tuned query {shapes[2]} and key {shapes[3]}."
        )
    if not all(np.isfinite(array).all() for array in (base_query, base_key, tuned_query, tuned_key)):
        raise QKSpaceError("The query and key vectors of both checkpoints must be finite; one holds nan or infinity.")


def _root(rows: Float64Array, weight: Float64Array) -> Float64Array:
    """Return R (d, d) with R^T R the weighted Gram matrix of rows (token, d)."""
    values, vectors = np.linalg.eigh((rows.T * weight) @ rows)
    root: Float64Array = (vectors * np.sqrt(np.maximum(values, 0.0))).T
    return root


def _changed(rows: FloatArray, matrix: Float64Array, offset: Float64Array | float) -> FloatArray:
    """Return rows @ matrix + offset, computed in float64 a block at a time, at least float32."""
    out = np.empty((len(rows), matrix.shape[1]), dtype=np.promote_types(rows.dtype, np.float32))
    for start in range(0, len(rows), BLOCK):
        block = slice(start, start + BLOCK)
        out[block] = rows[block].astype(np.float64) @ matrix + offset
    return out
