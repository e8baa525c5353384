"""Tests of `qkspace.neighbours`: maps are repeatable, place what they fitted, and keep neighbours near."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from qkspace import neighbours
from qkspace.neighbours import State, nearest, place_neighbours
from qkspace.schema import HeadSample, IntArray, LayerSpec

Fit = Callable[[HeadSample, int, int], State]
OURS: list[Fit] = [neighbours.fit_tsne, neighbours.fit_umap]
THEIRS: list[Fit] = [neighbours.fit_attentionviz_tsne, neighbours.fit_attentionviz_umap]
LAYER = LayerSpec("planted", n_heads=1, n_kv_heads=1, d_head=8, scale=8**-0.5, causal=False)


def make_sample(n: int = 120, *, seed: int = 0, n_clusters: int = 2) -> tuple[HeadSample, IntArray]:
    """Plant clusters, each of queries and keys about one centre; return the sample and the cluster of each token."""
    rng = np.random.default_rng(seed)
    centres = 20 * np.eye(8)[:n_clusters]
    cluster = rng.integers(n_clusters, size=n)
    query, key = ((centres[cluster] + rng.normal(size=(n, 8))).astype(np.float32) for _ in range(2))
    starts = np.append(np.arange(0, n, 10), n)
    return HeadSample(query, key, starts, np.ones(n, dtype=bool), LAYER), cluster


@pytest.mark.parametrize("fit", OURS + THEIRS)
@pytest.mark.parametrize("dims", [2, 3])
def test_the_same_seed_gives_the_same_plain_arrays(fit: Fit, dims: int) -> None:
    sample, _ = make_sample(60)
    one, again = fit(sample, dims, 3), fit(sample, dims, 3)
    assert set(one) == set(again)
    for name, array in one.items():
        assert isinstance(array, np.ndarray) and not array.dtype.hasobject
        np.testing.assert_array_equal(array, again[name])
    assert one["query_position"].shape == one["key_position"].shape == (60, dims)
    assert np.isfinite(one["query_position"]).all() and np.isfinite(one["key_position"]).all()


@pytest.mark.parametrize("fit", OURS + THEIRS)
def test_what_was_fitted_is_placed_where_the_fit_put_it(fit: Fit) -> None:
    sample, _ = make_sample()
    state = fit(sample, 2, 0)
    for name, rows in (("query", sample.query), ("key", sample.key)):
        if state["is_cosine"]:
            rows = rows / np.linalg.norm(rows, axis=1, keepdims=True)
        kept = ((rows - state["centre"]) / state["spread"]).astype(np.float32)
        index, _ = nearest(kept, state[name].astype(np.float32), 1)
        assert sorted(index[:, 0]) == list(range(len(rows)))  # each token its own fitted row
        placed = getattr(place_neighbours(state, sample.query, sample.key), name)
        expected = state[f"{name}_position"][index[:, 0]]
        np.testing.assert_allclose(placed, expected, atol=1e-3 * np.ptp(expected))


@pytest.mark.parametrize("fit", OURS + THEIRS)
@pytest.mark.parametrize("n", [1, 2, 5])
@pytest.mark.parametrize("is_constant", [False, True])
def test_few_tokens_and_constant_vectors_are_placed(fit: Fit, n: int, is_constant: bool) -> None:
    sample, _ = make_sample(n)
    if is_constant:
        ones = np.ones((n, 8), dtype=np.float32)
        sample = HeadSample(ones, ones, sample.starts, sample.is_content, LAYER)
    for dims in (2, 3):
        placed = place_neighbours(fit(sample, dims, 0), sample.query, sample.key)
        assert placed.query.shape == placed.key.shape == (n, dims)
        assert np.isfinite(placed.query).all() and np.isfinite(placed.key).all()


@pytest.mark.parametrize("fit", OURS + THEIRS)
def test_constant_keys_and_vectors_of_zero_are_placed(fit: Fit) -> None:
    sample, _ = make_sample(40)
    for query, key in ((sample.query, np.ones_like(sample.key)), (np.zeros_like(sample.query), sample.key)):
        flat = HeadSample(query, key, sample.starts, sample.is_content, LAYER)
        placed = place_neighbours(fit(flat, 2, 0), query, key)
        assert np.isfinite(placed.query).all() and np.isfinite(placed.key).all()


@pytest.mark.parametrize("fit", OURS + THEIRS)
@pytest.mark.parametrize("dims", [2, 3])
def test_clusters_stay_apart_and_held_out_rows_join_theirs(fit: Fit, dims: int) -> None:
    sample, cluster = make_sample(200)
    held_out, truth = make_sample(100, seed=1)
    state = fit(sample, dims, 0)
    fitted = place_neighbours(state, sample.query, sample.key)
    placed = place_neighbours(state, held_out.query, held_out.key)
    for rows in (placed.query, placed.key):
        for others in (fitted.query, fitted.key):  # queries find keys of their cluster, and keys queries
            index, _ = nearest(rows.astype(np.float32), others.astype(np.float32), 5)
            assert (cluster[index] == truth[:, None]).mean() > 0.95


@pytest.mark.parametrize("fit", OURS)
def test_equal_vectors_are_one_point(fit: Fit) -> None:
    sample, _ = make_sample(50)
    twice = HeadSample(
        np.tile(sample.query, (2, 1)),
        np.tile(sample.key, (2, 1)),
        np.arange(0, 101, 10),
        np.ones(100, dtype=bool),
        LAYER,
    )
    one, other = fit(sample, 2, 0), fit(twice, 2, 0)
    np.testing.assert_array_equal(one["query_position"], other["query_position"])
    np.testing.assert_array_equal(one["key_position"], other["key_position"])


def test_whole_sequences_are_fitted_up_to_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    sample, _ = make_sample(60)
    for limit, expected in ((35, 30), (4, 10), (100, 60)):
        monkeypatch.setattr(neighbours, "FIT_TOKENS", limit)
        state = neighbours.fit_umap(sample, 2, 0)
        assert len(state["query"]) == len(state["key"]) == expected


@pytest.mark.parametrize("is_cosine", [False, True])
def test_chunks_change_nothing(monkeypatch: pytest.MonkeyPatch, is_cosine: bool) -> None:
    sample, _ = make_sample(150)
    state = (neighbours.fit_attentionviz_tsne if is_cosine else neighbours.fit_umap)(sample, 2, 0)
    new, _ = make_sample(150, seed=2)
    whole = place_neighbours(state, new.query, new.key)
    monkeypatch.setattr(neighbours, "CHUNK", 7)
    parts = place_neighbours(state, new.query, new.key)
    np.testing.assert_allclose(parts.query, whole.query, atol=1e-3)
    np.testing.assert_allclose(parts.key, whole.key, atol=1e-3)
    assert place_neighbours(state, new.query[:0], new.key[:0]).query.shape == (0, 2)


def test_cosine_sees_no_length() -> None:
    sample, _ = make_sample(80)
    state = neighbours.fit_attentionviz_tsne(sample, 2, 0)
    one, other = (place_neighbours(state, factor * sample.query, sample.key) for factor in (1, 10))
    np.testing.assert_allclose(one.query, other.query, atol=1e-3)


def test_nearest_equals_a_search_over_all_distances() -> None:
    rng = np.random.default_rng(0)
    rows, fitted = (rng.normal(size=(n, 5)).astype(np.float32) for n in (30, 40))
    index, distance = nearest(rows, fitted, 7)
    expected = np.linalg.norm(rows[:, None] - fitted[None], axis=2)
    np.testing.assert_array_equal(index, np.argsort(expected, axis=1)[:, :7])
    np.testing.assert_allclose(distance, np.sort(expected, axis=1)[:, :7], atol=1e-5)
