"""Draw the queries and keys of one head in one space of two or three dimensions.

In: a head sample (already normalised). Out: a `Projection`, which places new rows on the same map.
Knows no model, no layer, no disk: rows in, positions out.

A method is one entry in `METHODS`: a function that fits (samples, dims, seed -> named arrays of state, for each sample)
and one that places (state, query, key -> positions). `fit` gets samples and not bare rows because a method may learn
from the attention within sequences, and not only from where the vectors lie; it gets those of several heads because a
method may fit them together. A method named joint-... is the same on one sample pooled of all heads of a model.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from qkspace.neighbours import fit_attentionviz_tsne, fit_attentionviz_umap, fit_tsne, fit_umap, place_neighbours
from qkspace.schema import FloatArray, HeadSample, Positions, QKSpaceError
from qkspace.unfold import JOINT_STEPS, State, fit_unfold, place_unfold

FitOne = Callable[[HeadSample, int, int], State]
Fit = Callable[[Sequence[HeadSample], int, int], list[State]]
Place = Callable[[Mapping[str, NDArray[Any]], FloatArray, FloatArray], Positions]

JOINT = "joint-"  # before the name of a method: one map for all heads of a model


@dataclass(frozen=True, slots=True)
class Projection:
    """A fitted map of one head: `method`, `dims`, `seed`, and `state`, the arrays that the method's place reads.

    What `state` holds is said by the method's fit function; all of it is plain arrays, none of objects.
    """

    method: str
    dims: int
    seed: int
    state: Mapping[str, NDArray[Any]]

    def transform(self, query: FloatArray | None = None, key: FloatArray | None = None) -> Positions:
        """Place rows on the map: (token, d_head), normalised like the fitted ones, to (token, dims).

        Either may be left out; its positions are then (0, dims).

        Raises:
            QKSpaceError: if the rows are not as long as those of the fit.
        """
        d = int(self.state["d_head"])
        for name, rows in (("query", query), ("key", key)):
            if rows is not None and (rows.ndim != 2 or rows.shape[1] != d):
                raise QKSpaceError(f"This map places rows of length {d}; got {name} {rows.shape}.")
        nothing = np.zeros((0, d))
        place = METHODS[self.method].place
        return place(self.state, nothing if query is None else query, nothing if key is None else key)

    def arrays(self) -> State:
        """Return everything as named arrays without objects, to be saved by `np.savez`."""
        return {
            "method": np.asarray(self.method),
            "dims": np.asarray(self.dims),
            "seed": np.asarray(self.seed),
            **{f"state.{name}": array for name, array in self.state.items()},
        }

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]]) -> Projection:
        """Rebuild a projection from what `arrays` returned.

        Raises:
            QKSpaceError: if an array is missing or the method is unknown.
        """
        missing = [name for name in ("method", "dims", "seed", "state.d_head") if name not in arrays]
        if missing:
            raise QKSpaceError(f"A stored projection lacks {', '.join(missing)}; it holds {', '.join(sorted(arrays))}.")
        method = str(arrays["method"])
        _check_method(method)
        state = {name.removeprefix("state."): arrays[name] for name in arrays if name.startswith("state.")}
        return cls(method, int(arrays["dims"]), int(arrays["seed"]), state)


def fit(method: str, sample: HeadSample, *, dims: int, seed: int) -> Projection:
    """Fit a map of `dims` dimensions to a normalised sample; the same seed gives the same map.

    Raises:
        QKSpaceError: for an unknown method, for dims that the vectors do not have, for an empty sample or vectors
            that are not finite.
    """
    return fit_heads(method, [sample], dims=dims, seed=seed)[0]


def fit_heads(method: str, samples: Sequence[HeadSample], *, dims: int, seed: int) -> list[Projection]:
    """Fit a map to each of several heads of one layer, whose samples are of the same sequences; see `fit`."""
    _check_method(method)
    for sample in samples:
        n_tokens, d = sample.query.shape
        if not 1 <= dims <= d:
            raise QKSpaceError(f"A map of {dims} dimensions needs vectors at least as long; this head's have {d}.")
        if not n_tokens:
            raise QKSpaceError("The head sample holds no tokens; expected at least one sequence.")
        if not (np.isfinite(sample.queries).all() and np.isfinite(sample.keys).all()):
            raise QKSpaceError("The query and key vectors must be finite. Capture the head again.")
    states = METHODS[method].fit(samples, dims, seed) if samples else []
    return [
        Projection(method, dims, seed, {"d_head": np.asarray(sample.query.shape[1]), **state})
        for sample, state in zip(samples, states, strict=True)
    ]


def _check_method(method: str) -> None:
    """Raise QKSpaceError, listing the choices, if there is no such method."""
    if method not in METHODS:
        raise QKSpaceError(f"Unknown projection {method!r}; choose one of {', '.join(sorted(METHODS))}.")


def fit_pca(sample: HeadSample, dims: int, seed: int) -> State:
    """Fit principal axes to queries and keys together (Pearson 1901); nothing is random, `seed` is not used.

    State: that of `place_linear`, and `explained_variance` (dims), the share of the total variance of each axis.
    The sign of an axis is such that its entry of largest size is positive.
    """
    query, key = sample.queries.astype(np.float64), sample.keys.astype(np.float64)
    mean = (query.mean(axis=0) + key.mean(axis=0)) / 2
    centred = np.concatenate([query - mean, key - mean])
    values, vectors = np.linalg.eigh(centred.T @ centred / len(centred))
    values, axes = np.maximum(values[::-1], 0.0), vectors[:, ::-1][:, :dims]
    axes = axes * np.sign(axes[np.argmax(np.abs(axes), axis=0), np.arange(dims)])
    total = float(values.sum())
    return {
        "query_matrix": axes,
        "key_matrix": axes,
        "query_offset": -mean @ axes,
        "key_offset": -mean @ axes,
        "explained_variance": values[:dims] / total if total > 0 else np.zeros(dims),
    }


def place_linear(state: Mapping[str, NDArray[Any]], query: FloatArray, key: FloatArray) -> Positions:
    """Place rows by one matrix product: query @ query_matrix + query_offset, and the same for keys.

    query_matrix, key_matrix: (d_head, dims); query_offset, key_offset: (dims).
    """
    return Positions(
        query=query.astype(np.float64) @ state["query_matrix"] + state["query_offset"],
        key=key.astype(np.float64) @ state["key_matrix"] + state["key_offset"],
    )


def each(fit_one: FitOne) -> Fit:
    """Make of a function that fits one head one that fits several, one after another."""
    return lambda samples, dims, seed: [fit_one(sample, dims, seed) for sample in samples]


class Method(NamedTuple):
    """How a projection is fitted and how it places rows; `gauge` is a normalisation that belongs to the method itself."""

    fit: Fit
    place: Place
    gauge: str | None = None


_PLAIN = {
    "unfold": Method(fit_unfold, place_unfold),
    "pca": Method(each(fit_pca), place_linear),
    "tsne": Method(each(fit_tsne), place_neighbours),
    "umap": Method(each(fit_umap), place_neighbours),
}
METHODS: dict[str, Method] = {
    **_PLAIN,
    **{JOINT + name: method for name, method in _PLAIN.items()},
    JOINT + "unfold": Method(partial(fit_unfold, steps=JOINT_STEPS), place_unfold),
    "attentionviz-pca": Method(each(fit_pca), place_linear, "attentionviz"),
    "attentionviz-tsne": Method(each(fit_attentionviz_tsne), place_neighbours, "attentionviz"),
    "attentionviz-umap": Method(each(fit_attentionviz_umap), place_neighbours, "attentionviz"),
}


def joint_method(method: str) -> str:
    """Return the name of the joint form of a method, which is itself where it is joint already.

    Raises:
        QKSpaceError: it has none.
    """
    name = method if is_joint(method) else JOINT + method
    if name not in METHODS:
        raise QKSpaceError(f"{method!r} has no joint form; --joint takes {', '.join(_PLAIN)}.")
    return name


def is_joint(method: str) -> bool:
    """Tell whether a method makes one map for all heads of a model."""
    return method.startswith(JOINT)
