"""Moments: what the vectors of two checkpoints say of each other, gathered some rows at a time.

In: queries and keys of the same tokens in two checkpoints. Out: the change of the query-key product, and how alike the
vectors are laid out. Both are the same in every gauge. Pure mathematics: knows no disk, no model and no page.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from qkspace.comparison.drift import ratio
from qkspace.schema import BoolArray, FloatArray, QKSpaceError

Float64Array = NDArray[np.float64]

BLOCK_NUMBERS = 1 << 21  # numbers of vectors held in float64 at a time
SMALLEST = 1e-7  # of the largest singular value: below it a direction is rounding, as Gram matrices square conditions
ROUNDING = 1e-14  # of the sum of squares: what is left of vectors that are all one in float32
_NAMES = ("base_query", "base_key", "tuned_query", "tuned_key")
_PAIRS = (*((name, name) for name in _NAMES), ("base_query", "tuned_query"), ("base_key", "tuned_key"))


class Moments:
    """Sums and products of the queries and keys of two checkpoints, many heads at once, over as many rows as are added.

        moments = Moments()
        moments.add(base_query, base_key, tuned_query, tuned_key)   # (head, row, d) each; as often as there are blocks
        moments.product_change(base_scale, tuned_scale)

    What is held does not grow with the rows. Vectors are first moved by the first row, so that means far from 0 cost no
    digits. d may differ between the checkpoints. A head with vectors that are not finite gives nan.
    """

    def __init__(self) -> None:
        self._n = 0
        self._shapes: list[tuple[int, int]] = []  # (head, d) of _NAMES
        self._same: BoolArray = np.zeros(0, dtype=bool)  # (head)
        self._shift: dict[str, Float64Array] = {}  # (head, d)
        self._sum: dict[str, Float64Array] = {}  # (head, d)
        self._gram: dict[tuple[str, str], Float64Array] = {}  # (head, d of one, d of the other)

    def add(self, base_query: FloatArray, base_key: FloatArray, tuned_query: FloatArray, tuned_key: FloatArray) -> None:
        """Add rows of the same tokens: (head, row, d) each, keys repeated for the heads that share them.

        Raises:
            QKSpaceError: the arrays are not of the same heads and rows, or not like those added before.
        """
        arrays = dict(zip(_NAMES, (base_query, base_key, tuned_query, tuned_key), strict=True))
        shapes = [(array.shape[0], array.shape[-1]) for array in arrays.values()]
        alike = len({array.shape[:2] for array in arrays.values()}) == 1 and {a.ndim for a in arrays.values()} == {3}
        if not alike or shapes[0] != shapes[1] or shapes[2] != shapes[3] or shapes != (self._shapes or shapes):
            raise QKSpaceError(
                "Vectors are added as (head, row, d), of the same heads and rows, d alike for the queries and keys of a "
                f"checkpoint, and as before; got {[array.shape for array in arrays.values()]} after {self._shapes}."
            )
        n_heads, n, _ = base_query.shape
        if not n:
            return
        if not self._shapes:
            self._begin(arrays, shapes)
        step = max(1, BLOCK_NUMBERS // (n_heads * max(d for _, d in shapes)))
        with np.errstate(invalid="ignore", over="ignore"):  # of vectors that are not finite
            for first in range(0, n, step):
                self._add({name: array[:, first : first + step] for name, array in arrays.items()})

    def _begin(self, arrays: dict[str, FloatArray], shapes: list[tuple[int, int]]) -> None:
        self._shapes = shapes
        self._same = np.full(shapes[0][0], shapes[0] == shapes[2])
        for name, array in arrays.items():
            self._shift[name] = array[:, 0].astype(np.float64)
            self._sum[name] = np.zeros((array.shape[0], array.shape[2]))
        for left, right in _PAIRS:
            self._gram[left, right] = np.zeros((*self._sum[left].shape, self._sum[right].shape[1]))

    def _add(self, arrays: dict[str, FloatArray]) -> None:
        for kind in ("query", "key"):
            if self._same.any():
                self._same &= (arrays[f"base_{kind}"] == arrays[f"tuned_{kind}"]).all(axis=(1, 2))
        rows = {name: array.astype(np.float64) - self._shift[name][:, None] for name, array in arrays.items()}
        self._n += rows["base_query"].shape[1]
        for name in _NAMES:
            self._sum[name] += rows[name].sum(axis=1)
        for left, right in _PAIRS:
            self._gram[left, right] += rows[left].swapaxes(1, 2) @ rows[right]

    def product_change(self, base_scale: float, tuned_scale: float) -> Float64Array:
        """Return ||L - L'||_F / ||L||_F over all pairs of a query and a key that were added: (head).

        L = scale * query (key - mean key)^T holds the logits of the base, L' those of the tuned, but for a constant of each
        query that attention does not see. Norms and products of L are traces of products of Gram matrices, so that L is
        never made; changes below about 1e-8 are lost in rounding. Exactly 0 for equal inputs, the same in every gauge, nan
        where the logits of the base do not vary.
        """
        self._need_rows()
        # tr(L^T L') = scale scale' tr((query^T query') (key^T key')^T), keys less their mean
        squared = {}
        for left, right in (("base", "base"), ("tuned", "tuned"), ("base", "tuned")):
            query, key = self._raw(f"{left}_query", f"{right}_query"), self._centred(f"{left}_key", f"{right}_key")
            squared[left, right] = np.sum(query * key, axis=(1, 2))
        base = base_scale**2 * squared["base", "base"]
        difference = base + tuned_scale**2 * squared["tuned", "tuned"]
        difference -= 2 * base_scale * tuned_scale * squared["base", "tuned"]
        change = np.sqrt(ratio(np.maximum(difference, 0.0), np.maximum(base, 0.0)))
        return np.where(self._same & (base_scale == tuned_scale), 0.0, change)

    def cka(self) -> tuple[Float64Array, Float64Array]:
        """Return how alike the queries, and the keys, of the two checkpoints are laid out: (head) each, from 0 to 1.

        Linear centred kernel alignment (Kornblith et al. 2019, Similarity of Neural Network Representations Revisited),
        ||Y^T X||_F^2 / (||X^T X||_F ||Y^T Y||_F) with centred columns. It forgives turns and a scale but no other change of
        gauge, which attention would: so it is taken of balanced vectors (`balanced_matrices`), which are the same in every
        gauge but for a turn. Directions below `SMALLEST` of a head's largest are dropped, as no logit shows them. Exactly 1
        for equal inputs, nan where vectors do not vary.
        """
        self._need_rows()
        matrices: dict[str, Float64Array] = {}
        for side in ("base", "tuned"):
            query, key = f"{side}_query", f"{side}_key"
            matrices[query], matrices[key] = balanced_matrices(self._raw(query, query), self._centred(key, key))
        return self._alignment("query", matrices), self._alignment("key", matrices)

    def _alignment(self, kind: str, matrices: dict[str, Float64Array]) -> Float64Array:
        base, tuned = f"base_{kind}", f"tuned_{kind}"
        norms = {}
        for left, right in ((base, base), (tuned, tuned), (base, tuned)):
            gram = matrices[left].swapaxes(1, 2) @ self._centred(left, right) @ matrices[right]
            norms[left, right] = np.sqrt(np.sum(gram**2, axis=(1, 2)))
        found = ratio(norms[base, tuned] ** 2, norms[base, base] * norms[tuned, tuned])
        return np.where(self._same & ~np.isnan(found), 1.0, np.minimum(found, 1.0))

    def _need_rows(self) -> None:
        if not self._n:
            raise QKSpaceError("No vectors were added, so nothing can be said of them. Add rows first.")

    def _centred(self, left: str, right: str) -> Float64Array:
        """Return the products of vectors less their means: (head, d, d'); exactly 0 where these leave rounding only."""
        with np.errstate(invalid="ignore"):  # of vectors that are not finite
            products = self._gram[left, right] - _outer(self._sum[left], self._sum[right]) / self._n
        if left != right:
            return products
        spread, everything = (
            np.trace(gram, axis1=1, axis2=2) for gram in (products, self._moved_back(left, right, products))
        )
        return np.where((spread <= ROUNDING * everything)[:, None, None], 0.0, products)

    def _raw(self, left: str, right: str) -> Float64Array:
        """Return the products of vectors as they are: (head, d, d')."""
        return self._moved_back(left, right, self._centred(left, right))

    def _moved_back(self, left: str, right: str, centred: Float64Array) -> Float64Array:
        means = (self._shift[name] + self._sum[name] / self._n for name in (left, right))
        return centred + self._n * _outer(*means)


def _outer(left: Float64Array, right: Float64Array) -> Float64Array:
    """Return the outer products of (head, d) and (head, d'): (head, d, d')."""
    return left[:, :, None] * right[:, None, :]


def balanced_matrices(query_gram: Float64Array, key_gram: Float64Array) -> tuple[Float64Array, Float64Array]:
    """Return the matrices that bring queries and keys into the gauge in which both have one diagonal Gram matrix.

    With Gq = Rq^T Rq, Gk = Rk^T Rk and Rq Rk^T = U S V^T, the matrices Rk^T V S^-1/2 for queries and Rq^T U S^-1/2 for keys
    leave every product of a query and a key as it is and make both Gram matrices S: the singular value decomposition of the
    logits, halved. It is the same for any gauge of the head, but for signs and turns among equal singular values.

    Directions with a singular value below `SMALLEST` of the largest are dropped, their columns 0: Gram matrices know a
    direction to the root of the rounding only. So a head of lower rank loses what no product shows.

    Args:
        query_gram: query^T query, (..., d, d).
        key_gram: the same of keys, less their mean.

    Returns:
        Of queries and of keys, (..., d, d), columns by falling singular value; nan where a Gram matrix is not finite.
    """
    finite = (np.isfinite(query_gram) & np.isfinite(key_gram)).all(axis=(-2, -1), keepdims=True)
    query_root, key_root = (_root(np.where(finite, gram, 0.0)) for gram in (query_gram, key_gram))
    left, values, right = np.linalg.svd(query_root @ key_root.swapaxes(-1, -2))
    kept = values > SMALLEST * values[..., :1]
    shrink = np.where(kept, 1.0, 0.0) / np.sqrt(np.where(kept, values, 1.0))
    query_matrix = key_root.swapaxes(-1, -2) @ right.swapaxes(-1, -2) * shrink[..., None, :]
    key_matrix = query_root.swapaxes(-1, -2) @ left * shrink[..., None, :]
    return np.where(finite, query_matrix, np.nan), np.where(finite, key_matrix, np.nan)


def _root(gram: Float64Array) -> Float64Array:
    """Return R (..., d, d) with R^T R = gram, for a positive semi-definite matrix; eigenvalues that are rounding count 0."""
    values, vectors = np.linalg.eigh((gram + gram.swapaxes(-1, -2)) / 2)
    least = gram.shape[-1] * np.finfo(np.float64).eps * values[..., -1:]
    root = np.sqrt(np.where(values > least, values, 0.0))
    return np.asarray(root[..., None] * vectors.swapaxes(-1, -2))
