"""Draw the queries and keys of one head by their nearest neighbours: t-SNE and UMAP, and AttentionViz's own of both.

In: a head sample (already normalised). Out: named arrays of state, and the positions of new rows by them.
Knows no model, no layer, no disk: rows in, positions out, like `qkspace.project`, which lists these methods.

`fit_tsne` and `fit_umap` ask each query only for its nearest keys and each key only for its nearest queries. What is
shown is which key a query finds, and in most heads the neighbours of a query are other queries: in a graph among all,
few of its edges, or none, join a query to a key (recall@1 0.18 instead of 0.75 for MiniLM L3H0).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qkspace.schema import FloatArray, HeadSample, IntArray, Positions

Float32Array = NDArray[np.float32]
State = dict[str, NDArray[Any]]
Embed = Callable[[IntArray, Float32Array, Float32Array, int], FloatArray]

FIT_TOKENS = 2_500
CHUNK = 1_024  # rows whose distances to all fitted rows are held at once
JITTER = 1e-4  # of the start, by which points that start as one come apart

# Neighbours are three times the perplexity. A query meets few of its nearest keys of the corpus in its own sequence: the
# more of them the graph knows, the better, and the slower. A step in space takes four times as long as one in the plane.
GRAPH_NEIGHBOURS = 150
GRAPH_NEIGHBOURS_3D, FIT_TOKENS_3D = 60, 1_600
STEPS, STEPS_3D = 150, 75
# The start knows the whole already: with its own spread (of the first axis) and no phase of strong exaggeration t-SNE
# scores as from a speck after 100 and 300 steps, in a third of the time.
START_SPREAD = 5.0
EXAGGERATION = 1.5
# openTSNE's own, finer grid for the repulsion takes two to three times as long for the same loss.
GRID = {"n_interpolation_points": 3, "min_num_intervals": 10, "ints_in_interval": 4}
ANGLE = 1.2  # of Barnes and Hut, in three dimensions, where there is no grid

UMAP_NEIGHBOURS = 20
UMAP_EPOCHS = 100
UMAP_RATE = 0.01  # of learning, at first: at 1, the default, the graph tears apart what the start had right
UMAP_MIN_DIST = 0.1
UMAP_UNION = 0.4  # share of the union in the graph, the rest being mutual neighbours

PLACE_NEIGHBOURS = 20
PLACE_POWER = 4
NEAREST = 1e-4  # of a row's mean distance to its neighbours: nearer is as near as float16 can tell

ATTENTIONVIZ_PERPLEXITY = 50
ATTENTIONVIZ_STEPS = 300
ATTENTIONVIZ_NEIGHBOURS = 15  # umap-learn's default


def fit_tsne(sample: HeadSample, dims: int, seed: int) -> State:
    """Fit t-SNE (van der Maaten & Hinton 2008; openTSNE) to the graph of queries and their nearest keys.

    At most `FIT_TOKENS` tokens of `sample` are fitted (`FIT_TOKENS_3D` in space), in whole sequences; equal vectors of
    one kind are one point. It starts from principal axes. State: that of `place_neighbours`.
    """
    neighbours, tokens = (GRAPH_NEIGHBOURS, FIT_TOKENS) if dims < 3 else (GRAPH_NEIGHBOURS_3D, FIT_TOKENS_3D)
    return _fit_bipartite(sample, dims, seed, _embed_tsne, neighbours, tokens)


def fit_umap(sample: HeadSample, dims: int, seed: int) -> State:
    """Fit UMAP (McInnes et al. 2018; umap-learn) to the graph of queries and their nearest keys.

    At most `FIT_TOKENS` tokens of `sample` are fitted, in whole sequences; equal vectors of one kind are one point.
    It starts from principal axes. State: that of `place_neighbours`.
    """
    return _fit_bipartite(sample, dims, seed, _embed_umap, UMAP_NEIGHBOURS, FIT_TOKENS)


def fit_attentionviz_tsne(sample: HeadSample, dims: int, seed: int) -> State:
    """Fit t-SNE as AttentionViz did (Yeh et al. 2023): scikit-learn, cosine, perplexity 50, 300 steps.

    Theirs has no seed. At most `FIT_TOKENS` tokens, in whole sequences. State: that of `place_neighbours`.
    """
    from sklearn.manifold import TSNE

    query, key = _first_rows(sample, FIT_TOKENS)
    rows = np.concatenate([query, key])
    perplexity = min(ATTENTIONVIZ_PERPLEXITY, (len(rows) - 1) / 3)
    method = TSNE(
        dims, perplexity=perplexity, metric="cosine", max_iter=ATTENTIONVIZ_STEPS, init="random", random_state=seed
    )
    return _state(query, key, method.fit_transform(rows), is_cosine=True)


def fit_attentionviz_umap(sample: HeadSample, dims: int, seed: int) -> State:
    """Fit UMAP as AttentionViz did (Yeh et al. 2023): umap-learn's defaults, cosine, a random start.

    At most `FIT_TOKENS` tokens, in whole sequences. State: that of `place_neighbours`.
    """
    from umap import UMAP

    query, key = _first_rows(sample, FIT_TOKENS)
    rows = np.concatenate([query, key])
    neighbours = min(ATTENTIONVIZ_NEIGHBOURS, len(rows) - 1)
    placed = np.zeros((len(rows), dims))
    if neighbours > 1:  # umap-learn takes no fewer
        method = UMAP(neighbours, dims, metric="cosine", init="random", random_state=seed, n_jobs=1)
        placed = method.fit_transform(rows)
    return _state(query, key, placed, is_cosine=True)


def _first_rows(sample: HeadSample, n_tokens: int) -> tuple[Float32Array, Float32Array]:
    """Return queries and keys, (token that asks, d_head) and (token that answers, d_head), of the first whole sequences.

    They have at most `n_tokens` tokens, but for a first that is longer.
    """
    n_sequences = max(1, int(np.searchsorted(sample.starts, n_tokens, side="right")) - 1)
    end = int(sample.starts[n_sequences])
    query, key = sample.query[:end], sample.key[:end]
    if sample.n_source is not None:
        query, key = query[sample.is_query[:end]], key[sample.is_key[:end]]
    return query.astype(np.float32), key.astype(np.float32)


def _fit_bipartite(sample: HeadSample, dims: int, seed: int, embed: Embed, neighbours: int, n_tokens: int) -> State:
    """Embed the first sequences of a sample by the graph that joins queries to their nearest keys and back."""
    query, key = (np.unique(rows, axis=0) for rows in _first_rows(sample, n_tokens))
    neighbours = min(neighbours, len(query), len(key))
    query_nearest, query_distance = nearest(query, key, neighbours)
    key_nearest, key_distance = nearest(key, query, neighbours)
    index = np.concatenate([query_nearest + len(query), key_nearest])
    distance = np.concatenate([query_distance, key_distance])
    start = _start(np.concatenate([query, key]), dims, seed)
    return _state(query, key, embed(index, distance, start, seed), is_cosine=False)


def _embed_tsne(index: IntArray, distance: Float32Array, start: Float32Array, seed: int) -> FloatArray:
    """Embed a graph by openTSNE: neighbours and their distance (point, neighbour), start and result (point, dims)."""
    import openTSNE
    from openTSNE.affinity import PerplexityBasedNN
    from openTSNE.nearest_neighbors import PrecomputedNeighbors

    # Perplexity is that of a third of the neighbours, as openTSNE asks for.
    perplexity = max(1.0, index.shape[1] / 3)
    graph = PrecomputedNeighbors(index, distance.astype(np.float64))
    affinities = PerplexityBasedNN(perplexity=perplexity, knn_index=graph, n_jobs=1)
    is_flat = start.shape[1] < 3
    repulsion = (
        {"negative_gradient_method": "fft", **GRID} if is_flat else {"negative_gradient_method": "bh", "theta": ANGLE}
    )
    embedding = openTSNE.TSNEEmbedding(START_SPREAD * start, affinities, n_jobs=1, random_state=seed, **repulsion)
    return np.asarray(embedding.optimize(STEPS if is_flat else STEPS_3D, exaggeration=EXAGGERATION, momentum=0.8))


def _embed_umap(index: IntArray, distance: Float32Array, start: Float32Array, seed: int) -> FloatArray:
    """Embed a graph by umap-learn: neighbours and their distance (point, neighbour), start and result (point, dims)."""
    from umap.umap_ import find_ab_params, fuzzy_simplicial_set, simplicial_set_embedding

    index = index.astype(np.int32)
    random = np.random.RandomState(seed)  # what umap-learn asks for
    graph, _, _ = fuzzy_simplicial_set(
        start, index.shape[1], random, "euclidean", knn_indices=index, knn_dists=distance, set_op_mix_ratio=UMAP_UNION
    )
    a, b = find_ab_params(spread=1.0, min_dist=UMAP_MIN_DIST)
    embedding, _ = simplicial_set_embedding(
        start,
        graph,
        n_components=start.shape[1],
        initial_alpha=UMAP_RATE,
        a=a,
        b=b,
        gamma=1.0,
        negative_sample_rate=5,
        n_epochs=UMAP_EPOCHS,
        init=start,
        random_state=random,
        metric="euclidean",
        metric_kwds={},
        densmap=False,
        densmap_kwds={},
        output_dens=False,
    )
    return np.asarray(embedding)


def _start(rows: Float32Array, dims: int, seed: int) -> Float32Array:
    """Return where points begin: principal axes of rows (point, d), the first of unit variance, and a little noise."""
    centred = rows - rows.mean(axis=0, dtype=np.float64)
    axes = np.linalg.eigh(centred.T @ centred)[1][:, ::-1][:, :dims]
    placed = centred @ (axes * np.sign(axes[np.argmax(np.abs(axes), axis=0), np.arange(dims)]))
    spread = float(placed[:, 0].std())
    noise = JITTER * np.random.default_rng(seed).normal(size=placed.shape)
    return np.asarray(placed / spread + noise if spread > 0 else noise, dtype=np.float32)


def nearest(rows: Float32Array, fitted: Float32Array, neighbours: int) -> tuple[IntArray, Float32Array]:
    """Find the nearest of fitted (fitted, d) of each row (row, d), exactly: index and distance (row, neighbour).

    Neighbours ascend by distance. The product of matrices leaves an error of about 1e-3 of the vectors' norm.
    """
    index = np.empty((len(rows), neighbours), dtype=np.int64)
    distance = np.empty((len(rows), neighbours), dtype=np.float32)
    half_norm = np.sum(fitted**2, axis=1) / 2
    for start in range(0, len(rows), CHUNK):
        chunk = rows[start : start + CHUNK]
        squared = half_norm - chunk @ fitted.T  # (row, fitted), less |row|^2 / 2, halved
        found = np.argpartition(squared, neighbours - 1, axis=1)[:, :neighbours]
        near = np.take_along_axis(squared, found, axis=1)
        order = np.argsort(near, axis=1, kind="stable")
        near = 2 * np.take_along_axis(near, order, axis=1) + np.sum(chunk**2, axis=1)[:, None]
        index[start : start + CHUNK] = np.take_along_axis(found, order, axis=1)
        distance[start : start + CHUNK] = np.sqrt(np.maximum(near, 0.0))
    return index, distance


def _state(query: FloatArray, key: FloatArray, placed: FloatArray, *, is_cosine: bool) -> State:
    """Assemble the state that `place_neighbours` reads from vectors (token, d) and places (query then key, dims)."""
    query, key = (_directions(rows) if is_cosine else rows.astype(np.float64) for rows in (query, key))
    centre = (query.mean(axis=0) + key.mean(axis=0)) / 2
    spread = float(np.sqrt(np.mean((query - centre) ** 2) + np.mean((key - centre) ** 2)))
    spread = spread if spread > 0 else 1.0
    state: State = {"centre": centre, "spread": np.asarray(spread), "is_cosine": np.asarray(is_cosine)}
    for name, rows, places in (("query", query, placed[: len(query)]), ("key", key, placed[len(query) :])):
        vectors, which, count = np.unique(
            ((rows - centre) / spread).astype(np.float16), axis=0, return_inverse=True, return_counts=True
        )
        summed = np.zeros((len(vectors), placed.shape[1]))
        np.add.at(summed, which, places)
        state[name], state[f"{name}_position"] = vectors, (summed / count[:, None]).astype(np.float32)
    return state


def _directions(rows: FloatArray) -> NDArray[np.float64]:
    """Scale rows (row, d) to length 1, so that distance tells the cosine; rows of zeros stay."""
    rows = rows.astype(np.float64)
    norm = np.linalg.norm(rows, axis=1, keepdims=True)
    return np.asarray(rows / np.where(norm > 0, norm, 1.0))


def place_neighbours(state: Mapping[str, NDArray[Any]], query: FloatArray, key: FloatArray) -> Positions:
    """Place queries at the weighted mean of the fitted queries nearest to them, and keys at that of keys: (token, dims).

    The weights are distance^-4 over `PLACE_NEIGHBOURS` neighbours (Shepard 1968), so that a fitted row is placed
    where the fit put it. State: query and key (fitted row, d_head), float16, which are (row - centre) / spread, of
    rows of length 1 if is_cosine, equal rows once; query_position and key_position (fitted row, dims).
    """
    return Positions(_place(state, "query", query), _place(state, "key", key))


def _place(state: Mapping[str, NDArray[Any]], name: str, rows: FloatArray) -> Float32Array:
    """Place rows (row, d_head) among the fitted ones of that name, in chunks."""
    fitted, positions = state[name].astype(np.float32), state[f"{name}_position"]
    placed = np.empty((len(rows), positions.shape[1]), dtype=np.float32)
    for start in range(0, len(rows), CHUNK):
        chunk = rows[start : start + CHUNK]
        chunk = _directions(chunk) if state["is_cosine"] else chunk
        chunk = ((chunk - state["centre"]) / state["spread"]).astype(np.float32)
        index, distance = nearest(chunk, fitted, min(PLACE_NEIGHBOURS, len(fitted)))
        scale = distance.mean(axis=1, keepdims=True)
        relative = np.divide(distance, scale, out=np.ones_like(distance), where=scale > 0)
        weight = np.maximum(relative, NEAREST) ** -PLACE_POWER
        weight /= weight.sum(axis=1, keepdims=True)
        placed[start : start + CHUNK] = np.einsum("rn,rnd->rd", weight, positions[index])
    return placed
