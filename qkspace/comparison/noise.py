"""Noise: how large a drift storage alone makes, below which a head says nothing.

In: the stored vectors of a layer. Out: a floor for each of its heads. Knows no disk, no model and no page.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qkspace.comparison.drift import BLOCK_PAIRS, divergence, x_log_x
from qkspace.position import LayerPosition, attend_heads, with_sink
from qkspace.schema import FloatArray, IntArray, LayerSpec

Float64Array = NDArray[np.float64]
Float32Array = NDArray[np.float32]

STORAGE_UNIT = 2.0**-11  # of a number stored as float16: how far rounding moves it at most

MAX_NOISE_QUERIES = 2_000

SAFETY = 4.0  # two roundings instead of one double the divergence, and a sample may miss the queries that feel it most


def noise_floor(
    query: FloatArray,
    key: FloatArray,
    layer: LayerSpec,
    starts: IntArray,
    seed: int,
    *,
    position: LayerPosition | None = None,
    n_source: IntArray | None = None,
) -> Float64Array:
    """Return the drift below which a head may differ for no other reason than how its vectors are stored: (head).

    The mean divergence between the attention of the stored vectors and that of the same vectors with every number moved at
    random by up to a rounding unit of float16 (2^-11 of it), times SAFETY. Over a sample of whole sequences with about
    `MAX_NOISE_QUERIES` queries, so many queries of one that has more.

    Args:
        query: (head, token, d_head), as stored; only the sample is read.
        key: (kv_head, token, d_head).
        layer: how the layer attends.
        starts: where each sequence begins, and where the last ends: (sequence + 1).
        seed: of the sample and of the moves.
        position: what the layer's attention is besides the product.
        n_source: (sequence), tokens of the source, where the layer crosses.
    """
    rng = np.random.default_rng(seed)
    total, n = np.zeros(layer.n_heads), 0
    for s, at in _sampled(starts, rng):
        first, last = int(starts[s]), int(starts[s + 1])
        queries = np.asarray(query[:, first + at], dtype=np.float32)
        keys = np.asarray(key[:, first:last], dtype=np.float32)  # (kv_head, token, d_head)
        moved_queries, moved_keys = _moved(queries, rng), _moved(keys, rng)
        step = max(1, BLOCK_PAIRS // (layer.n_heads * (last - first)))
        more: dict[str, Any] = {"n_source": None if n_source is None else int(n_source[s]), "number": s}
        for i in range(0, len(at), step):
            rows = slice(i, i + step)
            stored = attend_heads(queries[:, rows], keys, layer, position, at=at[rows], **more)
            moved = attend_heads(moved_queries[:, rows], moved_keys, layer, position, at=at[rows], **more)
            if layer.has_sink:
                stored, moved = with_sink(stored), with_sink(moved)
            differs = divergence(stored, moved, x_log_x(stored), x_log_x(moved))
            total += differs.sum(axis=1, dtype=np.float64)
        n += len(at)
    return SAFETY * total / max(n, 1)


def _sampled(starts: IntArray, rng: np.random.Generator) -> Iterator[tuple[int, IntArray]]:
    """Yield the sequences drawn, by their numbers, and the positions of their queries that are used."""
    lengths = np.diff(starts)
    order = rng.permutation(np.flatnonzero(lengths))
    n_whole = int(np.searchsorted(np.cumsum(lengths[order]), MAX_NOISE_QUERIES, side="right"))
    for s in order[: max(1, n_whole)]:
        yield int(s), np.sort(rng.permutation(int(lengths[s]))[:MAX_NOISE_QUERIES])


def _moved(vectors: Float32Array, rng: np.random.Generator) -> Float32Array:
    """Return vectors with every number moved at random by up to a rounding unit of float16."""
    steps = rng.random(vectors.shape, dtype=np.float32) * np.float32(2) - np.float32(1)
    return np.asarray(vectors * (1 + np.float32(STORAGE_UNIT) * steps), dtype=np.float32)
