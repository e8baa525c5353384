"""Tests of `qkspace.project`: PCA is PCA, maps are repeatable, and come back from disk as they were."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from sklearn.decomposition import PCA

from qkspace import project
from qkspace.project import Projection
from qkspace.schema import HeadSample, LayerSpec, QKSpaceError


def make_sample(seed: int = 0, *, d: int = 6, n: int = 200, precision: str = "float32") -> HeadSample:
    rng = np.random.default_rng(seed)
    query, key = ((rng.normal(size=(n, d)) @ rng.normal(size=(d, d)) + offset).astype(precision) for offset in (1, -2))
    layer = LayerSpec("planted", n_heads=1, n_kv_heads=1, d_head=d, scale=d**-0.5, causal=False)
    return HeadSample(query, key, np.arange(0, n + 1, 10), np.ones(n, dtype=bool), layer)


@pytest.mark.parametrize("dims", [1, 2, 3, 6])
@pytest.mark.parametrize("precision", ["float16", "float32", "float64"])
def test_pca_equals_that_of_scikit_learn_up_to_sign(dims: int, precision: str) -> None:
    sample = make_sample(precision=precision)
    positions = project.fit("pca", sample, dims=dims, seed=0).transform(sample.query, sample.key)
    rows = np.concatenate([sample.query, sample.key]).astype(np.float64)
    theirs = PCA(dims, svd_solver="full")
    expected = theirs.fit_transform(rows)
    ours = np.concatenate([positions.query, positions.key])
    signs = np.sign(np.sum(ours * expected, axis=0))
    np.testing.assert_allclose(ours * signs, expected, atol=1e-9)
    explained = project.fit("pca", sample, dims=dims, seed=0).state["explained_variance"]
    np.testing.assert_allclose(explained, theirs.explained_variance_ratio_, rtol=1e-9)


def test_the_same_input_gives_the_same_map_whatever_the_order_and_sign_of_the_solver() -> None:
    sample = make_sample()
    one, other = (project.fit("pca", sample, dims=3, seed=seed) for seed in (0, 7))
    np.testing.assert_array_equal(one.state["query_matrix"], other.state["query_matrix"])
    order = np.random.default_rng(0).permutation(len(sample.query))
    shuffled = HeadSample(sample.query[order], sample.key[order], sample.starts, sample.is_content, sample.layer)
    again = project.fit("pca", shuffled, dims=3, seed=0)
    np.testing.assert_allclose(again.state["query_matrix"], one.state["query_matrix"], atol=1e-10)
    largest = np.abs(one.state["query_matrix"]).argmax(axis=0)
    assert (one.state["query_matrix"][largest, range(3)] > 0).all()


def test_a_map_places_each_row_alone() -> None:
    sample = make_sample()
    projection = project.fit("pca", sample, dims=2, seed=0)
    whole = projection.transform(sample.query, sample.key)
    part = projection.transform(query=sample.query[5:7])
    np.testing.assert_allclose(part.query, whole.query[5:7], atol=1e-12)
    assert part.key.shape == (0, 2)
    np.testing.assert_allclose(projection.transform(key=sample.key[:1]).key, whole.key[:1], atol=1e-12)
    assert projection.transform().query.shape == (0, 2)
    np.testing.assert_allclose(whole.query.mean(axis=0) + whole.key.mean(axis=0), 0, atol=1e-6)


def test_a_map_of_points_that_are_all_one_is_finite() -> None:
    sample = make_sample()
    ones = np.ones_like(sample.query)
    flat = HeadSample(ones, ones, sample.starts, sample.is_content, sample.layer)
    projection = project.fit("pca", flat, dims=2, seed=0)
    np.testing.assert_allclose(projection.transform(ones, ones).query, 0, atol=1e-12)
    np.testing.assert_array_equal(projection.state["explained_variance"], 0)


def test_a_projection_comes_back_exactly_from_disk(tmp_path: Path) -> None:
    sample = make_sample()
    projection = project.fit("pca", sample, dims=3, seed=4)
    np.savez(tmp_path / "map.npz", **projection.arrays())
    with np.load(tmp_path / "map.npz", allow_pickle=False) as stored:
        back = Projection.from_arrays(stored)
    assert (back.method, back.dims, back.seed) == ("pca", 3, 4)
    one, other = (p.transform(sample.query, sample.key) for p in (projection, back))
    np.testing.assert_array_equal(one.query, other.query)
    np.testing.assert_array_equal(one.key, other.key)
    assert set(back.state) == set(projection.state)


def test_errors_say_what_to_do() -> None:
    sample = make_sample()
    with pytest.raises(QKSpaceError, match=r"'isomap'; choose one of .*pca"):
        project.fit("isomap", sample, dims=2, seed=0)
    with pytest.raises(QKSpaceError, match=r"7 dimensions .* have 6"):
        project.fit("pca", sample, dims=7, seed=0)
    with pytest.raises(QKSpaceError, match="length 6; got key"):
        project.fit("pca", sample, dims=2, seed=0).transform(key=sample.key[:, :3])
    with pytest.raises(QKSpaceError, match="lacks method, dims, seed"):
        Projection.from_arrays({})
    nothing = HeadSample(sample.query[:0], sample.key[:0], np.array([0]), sample.is_content[:0], sample.layer)
    with pytest.raises(QKSpaceError, match="no tokens"):
        project.fit("pca", nothing, dims=2, seed=0)
