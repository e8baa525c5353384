"""Choose the gauge of a head: how its vectors may be changed so that nearness shows attention, attention unchanged.

In: the captured vectors of some sequences. Out: a `Gauge` to apply to any vectors of that head.
Knows no disk and no projection but PCA, whose picture the choice is judged by.

Attention does not see an invertible A (query A^-T, key A), a scale c (query / c, key * c) nor a translation of
the keys. The order is fixed: matrix and scale first, then translation. A soft cap and a sink would see the constant that a
translation adds to the logits of a query: the sample remembers it (`HeadSample.shift`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from qkspace.fidelity import ZERO_VARIANCE, Pairs, correlate, gather_pairs, row_centred
from qkspace.schema import FloatArray, HeadSample, QKSpaceError

Float64Array = NDArray[np.float64]
Method = Literal["auto", "none", "attentionviz", "sphere", "balanced"]

MAX_PAIRS = 200_000
# Where c is sought, in units of the c that gives queries and keys equal spread. The correlation is flat towards small
# c, where the keys shrink to a speck among the queries: 0.25 gains 0.002 (MiniLM) but lets them be 16 times smaller.
SCALE_RANGE = (0.5, 2.0)
SCALE_STEPS = 9
RIDGE = 1e-6  # of the mean variance, added before a covariance is inverted: bounds the condition of A

TRANSLATIONS = ("none", "centroid", "sphere")
CANDIDATES: dict[str, tuple[tuple[str, str], ...]] = {  # (matrix, translation) pairs that a method chooses among
    "auto": tuple((matrix, translation) for matrix in ("identity", "balanced") for translation in TRANSLATIONS),
    "sphere": (("identity", "sphere"),),
    "balanced": tuple(("balanced", translation) for translation in TRANSLATIONS),
}


@dataclass(frozen=True, slots=True)
class Gauge:
    """An invertible change of a head's query and key that leaves its attention as it is.

    query' = query @ query_matrix and key' = key @ key_matrix + translation, where both matrices are (d, d),
    `query_matrix @ key_matrix.T` is the identity and translation is (d). The rest says how it was chosen:
    `matrix_name` ("identity" | "balanced"), `translation_name` ("none" | "centroid" | "sphere"), `scale` c, which
    the matrices contain already, and the curves that were searched: `curve_names` (curve) such as
    "balanced/sphere", `curve_scale` and `curve_correlation` (curve, c), the latter 0 for a head whose
    attention shows no variance; no curve where nothing was searched.
    """

    query_matrix: Float64Array
    key_matrix: Float64Array
    translation: Float64Array
    matrix_name: str
    translation_name: str
    scale: float
    curve_names: tuple[str, ...]
    curve_scale: Float64Array
    curve_correlation: Float64Array

    def apply(self, query: FloatArray, key: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Return the changed vectors, (token, d) as given, computed in float64, at least float32.

        Raises:
            QKSpaceError: if the vectors are not of this head's length.
        """
        d = len(self.translation)
        if query.shape[-1] != d or key.shape[-1] != d:
            raise QKSpaceError(f"This gauge is for vectors of length {d}; got query {query.shape} and key {key.shape}.")
        new_query = query.astype(np.float64) @ self.query_matrix
        new_key = key.astype(np.float64) @ self.key_matrix + self.translation
        return (
            new_query.astype(np.promote_types(query.dtype, np.float32)),
            new_key.astype(np.promote_types(key.dtype, np.float32)),
        )

    def apply_to(self, sample: HeadSample) -> HeadSample:
        """Return the sample with its vectors changed, and its attention as it was."""
        query, key = self.apply(sample.query, sample.key)
        if sample.layer.softcap is None and not sample.layer.has_sink:
            return sample.changed(query, key)
        shift: Float64Array = sample.layer.scale * (query.astype(np.float64) @ self.translation)
        return sample.changed(query, key, shift if sample.shift is None else sample.shift + shift)

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Return everything as named arrays without objects, to be saved by `np.savez`."""
        return {field.name: np.asarray(getattr(self, field.name)) for field in fields(self)}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]]) -> Gauge:
        """Rebuild a gauge from what `arrays` returned.

        Raises:
            QKSpaceError: if an array is missing.
        """
        missing = [field.name for field in fields(cls) if field.name not in arrays]
        if missing:
            raise QKSpaceError(f"A stored gauge lacks {', '.join(missing)}; it holds {', '.join(sorted(arrays))}.")
        return cls(
            query_matrix=arrays["query_matrix"],
            key_matrix=arrays["key_matrix"],
            translation=arrays["translation"],
            matrix_name=str(arrays["matrix_name"]),
            translation_name=str(arrays["translation_name"]),
            scale=float(arrays["scale"]),
            curve_names=tuple(str(name) for name in arrays["curve_names"]),
            curve_scale=arrays["curve_scale"],
            curve_correlation=arrays["curve_correlation"],
        )


def normalise(sample: HeadSample, *, dims: int, method: Method = "auto") -> Gauge:
    """Choose the gauge of a head for maps of `dims` dimensions.

    "none" changes nothing. "attentionviz" moves the keys onto the centroid of the queries, with c = 1, as the
    published AttentionViz pipeline does. The others choose what makes `fidelity.weighted_correlation` between
    logit (of content, see there) and distance on the PCA map strongest, on at most about `MAX_PAIRS` pairs: "sphere" with
    sphere-centred keys, "balanced" with equal covariances and any translation, "auto" among all of these. c runs
    over a log grid about the c of equal spread, and is refined by a bounded search. A head without variance gets
    the first candidate at that c.

    Raises:
        QKSpaceError: for an unknown method, for dims that do not fit the vectors, for vectors that are not finite.
    """
    d = sample.query.shape[1]
    if method not in get_args(Method):
        raise QKSpaceError(f"Unknown normalisation {method!r}; choose one of {', '.join(get_args(Method))}.")
    if not 1 <= dims <= d:
        raise QKSpaceError(f"A map of {dims} dimensions needs vectors at least as long; this head's have {d}.")
    if not (np.isfinite(sample.queries).all() and np.isfinite(sample.keys).all()):
        raise QKSpaceError("The query and key vectors must be finite. Capture the head again.")
    if method in ("none", "attentionviz"):
        translation_name = "none" if method == "none" else "centroid"
        no_curve = np.zeros((0, SCALE_STEPS))
        return _gauge(_Matrix.of("identity", sample), translation_name, 1.0, (), no_curve, no_curve)
    return _search(sample, dims, CANDIDATES[method])


@dataclass(frozen=True, slots=True)
class _Matrix:
    """A head's vectors after one choice of matrix (before c and translation), and their moments.

    query_matrix, key_matrix, query_covariance, key_covariance: (d, d); query, key: (token, d); the means and
    `sphere`, the translation that makes |key + a|^2 as constant as it can be: (d).
    """

    name: str
    query_matrix: Float64Array
    key_matrix: Float64Array
    query: Float64Array
    key: Float64Array
    query_mean: Float64Array
    key_mean: Float64Array
    query_covariance: Float64Array
    key_covariance: Float64Array
    sphere: Float64Array

    @classmethod
    def of(cls, name: str, sample: HeadSample) -> _Matrix:
        """Measure the moments of a sample under the matrix of that name."""
        query: Float64Array = sample.query.astype(np.float64)
        key: Float64Array = sample.key.astype(np.float64)
        query_matrix: Float64Array = np.eye(query.shape[1])
        key_matrix = query_matrix
        if name == "balanced":
            key_matrix = balancing_matrix(
                *(_covariance(side.astype(np.float64)) for side in (sample.queries, sample.keys))
            )
            query_matrix = np.asarray(np.linalg.inv(key_matrix).T, dtype=np.float64)
            query, key = query @ query_matrix, key @ key_matrix
        asked, read = (query, key) if sample.n_source is None else (query[sample.is_query], key[sample.is_key])
        return cls(
            name=name,
            query_matrix=query_matrix,
            key_matrix=key_matrix,
            query=query,
            key=key,
            query_mean=asked.mean(axis=0),
            key_mean=read.mean(axis=0),
            query_covariance=_covariance(asked),
            key_covariance=_covariance(read),
            sphere=sphere_centre(read),
        )

    @property
    def equal_spread(self) -> float:
        """The c at which query / c and key * c have equal total variance; 1 where one has none."""
        query, key = float(np.trace(self.query_covariance)), float(np.trace(self.key_covariance))
        return (query / key) ** 0.25 if query > 0 and key > 0 else 1.0

    def translation(self, name: str, c: float) -> Float64Array:
        """Return what is added to the keys after they were multiplied by c: (d)."""
        if name == "none":
            return np.zeros_like(self.key_mean)
        return self.query_mean / c - self.key_mean * c if name == "centroid" else self.sphere * c


def _covariance(rows: Float64Array) -> Float64Array:
    """Return the covariance (d, d) of rows (token, d), exactly 0 where rows that are all one leave rounding only."""
    centred = rows - rows.mean(axis=0)
    covariance: Float64Array = centred.T @ centred / len(rows)
    is_rounding = np.trace(covariance) <= ZERO_VARIANCE * np.mean(np.sum(rows**2, axis=1))
    return np.zeros_like(covariance) if is_rounding else covariance


def sphere_centre(key: FloatArray) -> Float64Array:
    """Return the translation a (d) that makes |key + a|^2 as constant as it can be over keys (token, d).

    |key + a|^2 = |key|^2 + 2 key.a + |a|^2, so a solves the linear least squares of -|key|^2 / 2 on key, both
    taken from their means; the shortest such a (seen from the mean key) where the keys do not span the space.
    """
    mean = key.mean(axis=0, dtype=np.float64)
    centred = key - mean
    squared = np.sum(centred**2, axis=1)
    covariance = centred.T @ centred
    solution = np.linalg.lstsq(covariance, -0.5 * (centred.T @ (squared - squared.mean())), rcond=RIDGE)[0]
    translation: Float64Array = solution - mean
    return translation


def balancing_matrix(query_covariance: Float64Array, key_covariance: Float64Array) -> Float64Array:
    """Return the symmetric A (d, d) for which query A^-1 and key A have one covariance.

    A A = P with query_covariance = P key_covariance P, the geometric mean of key_covariance^-1 and
    query_covariance (Bhatia, Positive Definite Matrices, 2007, ch. 4). A ridge of `RIDGE` of the mean variance
    keeps both invertible, so that A is bounded for heads that use part of their dimensions only.
    """
    query_covariance, key_covariance = _ridged(query_covariance), _ridged(key_covariance)
    root = _power(key_covariance, 0.5)
    inverse_root = _power(key_covariance, -0.5)
    return _power(inverse_root @ _power(root @ query_covariance @ root, 0.5) @ inverse_root, 0.5)


def _ridged(covariance: Float64Array) -> Float64Array:
    """Add the ridge to a covariance (d, d); the identity where there is no variance at all."""
    mean_variance = float(np.trace(covariance)) / len(covariance)
    return (
        covariance + RIDGE * mean_variance * np.eye(len(covariance)) if mean_variance > 0 else np.eye(len(covariance))
    )


def _power(matrix: Float64Array, exponent: float) -> Float64Array:
    """Return the power of a symmetric positive definite matrix (d, d)."""
    values, vectors = np.linalg.eigh((matrix + matrix.T) / 2)
    power: Float64Array = (vectors * values**exponent) @ vectors.T
    return power


def _search(sample: HeadSample, dims: int, candidates: tuple[tuple[str, str], ...]) -> Gauge:
    """Choose among (matrix, translation) candidates and c what measures best on the PCA map."""
    from scipy.optimize import minimize_scalar

    pairs = gather_pairs(sample, max_pairs=MAX_PAIRS)
    centred_logit = row_centred(pairs, pairs.content)
    matrices = {name: _Matrix.of(name, sample) for name, _ in candidates}
    log_steps = np.linspace(np.log(SCALE_RANGE[0]), np.log(SCALE_RANGE[1]), SCALE_STEPS)

    def scale(matrix: _Matrix, log_step: float) -> float:
        return matrix.equal_spread * float(np.exp(log_step))

    def measure(candidate: tuple[str, str], log_step: float) -> float:
        matrix = matrices[candidate[0]]
        return _map_correlation(matrix, candidate[1], scale(matrix, log_step), pairs, centred_logit, dims)

    curves = np.array([[measure(candidate, step) for step in log_steps] for candidate in candidates])
    best, at = (int(i) for i in np.unravel_index(np.argmin(curves), curves.shape))
    around = (log_steps[max(at - 1, 0)], log_steps[min(at + 1, SCALE_STEPS - 1)])
    found = minimize_scalar(
        lambda log_step: measure(candidates[best], log_step), bounds=around, method="bounded", options={"xatol": 1e-2}
    )
    log_step = float(found.x) if found.fun < curves[best, at] else float(log_steps[at])
    if not curves[best, at] < 0:  # no candidate shows the attention at all, or the head has none to show
        best, log_step = 0, 0.0
    scales = np.array([[scale(matrices[name], step) for step in log_steps] for name, _ in candidates])
    return _gauge(
        matrices[candidates[best][0]],
        candidates[best][1],
        scale(matrices[candidates[best][0]], log_step),
        tuple("/".join(candidate) for candidate in candidates),
        scales,
        curves,
    )


def _gauge(
    matrix: _Matrix, translation_name: str, c: float, names: tuple[str, ...], scales: Float64Array, curves: Float64Array
) -> Gauge:
    """Assemble a gauge from what was chosen and the curves it was chosen by."""
    return Gauge(
        query_matrix=matrix.query_matrix / c,
        key_matrix=matrix.key_matrix * c,
        translation=matrix.translation(translation_name, c),
        matrix_name=matrix.name,
        translation_name=translation_name,
        scale=c,
        curve_names=names,
        curve_scale=scales,
        curve_correlation=curves,
    )


def _map_correlation(
    matrix: _Matrix, translation_name: str, c: float, pairs: Pairs, centred_logit: Float64Array, dims: int
) -> float:
    """Return the weighted correlation of logit and distance on the PCA map of one candidate.

    The principal axes come from the moments: queries and keys in equal number have the mean of their covariances
    plus a quarter of the outer square of the difference of their means.
    """
    from scipy.linalg import eigh

    d = len(matrix.sphere)
    translation = matrix.translation(translation_name, c)
    apart = matrix.query_mean / c - matrix.key_mean * c - translation
    covariance = (matrix.query_covariance / c**2 + matrix.key_covariance * c**2) / 2 + np.outer(apart, apart) / 4
    axes = eigh(covariance, subset_by_index=(d - dims, d - 1))[1]
    query, key = (matrix.query @ (axes / c)).T, (matrix.key @ (axes * c) + translation @ axes).T
    squared = np.zeros(len(pairs.row))
    for query_axis, key_axis in zip(query, key, strict=True):
        squared += (query_axis[pairs.query_token] - key_axis[pairs.key_token]) ** 2
    return correlate(pairs, centred_logit, np.sqrt(squared))
