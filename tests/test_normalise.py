"""Tests of `qkspace.normalise`: a gauge never changes attention, and the one that is chosen is the best there is."""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
from conftest import MakeCheckpoint

from qkspace import fidelity, normalise, project
from qkspace.index import Index
from qkspace.normalise import Gauge, Method
from qkspace.pipeline import build
from qkspace.position import attend
from qkspace.schema import HeadSample, LayerSpec, QKSpaceError

METHODS = get_args(Method)


def make_sample(seed: int = 0, *, d: int = 8, causal: bool = False, n_sequences: int = 40) -> HeadSample:
    """Plant a head: correlated queries and keys, off-centre, in sequences of 3 to 20 tokens."""
    rng = np.random.default_rng(seed)
    starts = np.concatenate([[0], np.cumsum(rng.integers(3, 21, n_sequences))])
    n = int(starts[-1])
    query = rng.normal(size=(n, d)) @ rng.normal(size=(d, d)) * 0.6 + rng.normal(size=d)
    key = rng.normal(size=(n, d)) @ rng.normal(size=(d, d)) * 0.6 + rng.normal(size=d)
    is_content = np.ones(n, dtype=bool)
    is_content[starts[:-1]] = False
    layer = LayerSpec("planted", n_heads=1, n_kv_heads=1, d_head=d, scale=d**-0.5, causal=causal)
    return HeadSample(query, key, starts, is_content, layer)


@pytest.fixture(scope="module")
def grouped(
    tmp_path_factory: pytest.TempPathFactory, make_checkpoint: MakeCheckpoint, sentences: list[str]
) -> dict[str, Index]:
    """An index of a tiny Llama whose heads share keys two by two, for each type of stored vectors. Only to be read."""
    folder = tmp_path_factory.mktemp("grouped")
    corpus = folder / "corpus.txt"
    corpus.write_text("\n".join(sentences[:12]) + "\n", encoding="utf-8")
    options = {"methods": ["pca"], "dims": [2], "normalise": "none", "n_jobs": 1}
    model = str(make_checkpoint("llama"))
    return {t: build(model, corpus, out=folder / t, storage=t, **options) for t in ("float16", "float32")}


def with_vectors(sample: HeadSample, query: Any, key: Any) -> HeadSample:
    return HeadSample(query, key, sample.starts, sample.is_content, sample.layer)


def assert_same_attention(one: HeadSample, other: HeadSample, tolerance: float) -> None:
    for before, after in zip(fidelity.attention(one), fidelity.attention(other), strict=True):
        np.testing.assert_allclose(after, before, atol=tolerance, rtol=0)


def pca_scores(sample: HeadSample, gauge: Gauge) -> fidelity.Scores:
    changed = gauge.apply_to(sample)
    positions = project.fit("pca", changed, dims=2, seed=0).transform(changed.query, changed.key)
    return fidelity.score(changed, positions)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(("precision", "tolerance"), [("float64", 1e-11), ("float32", 1e-5), ("float16", 1e-5)])
def test_attention_before_equals_attention_after(
    method: Method, causal: bool, precision: str, tolerance: float
) -> None:
    sample = make_sample(causal=causal)
    sample = with_vectors(sample, sample.query.astype(precision), sample.key.astype(precision))
    gauge = normalise.normalise(sample, dims=2, method=method)
    changed = gauge.apply_to(sample)
    assert changed.query.dtype == (np.float64 if precision == "float64" else np.float32)
    assert_same_attention(sample, changed, tolerance)
    np.testing.assert_allclose(gauge.query_matrix @ gauge.key_matrix.T, np.eye(8), atol=1e-9)


@pytest.mark.parametrize("storage", ["float16", "float32"])
@pytest.mark.parametrize("method", METHODS)
def test_attention_of_heads_that_share_their_keys_is_kept_for_vectors_as_stored(
    method: Method, storage: str, grouped: dict[str, Index]
) -> None:
    """Each head has its own gauge, and with it moves the keys that it shares otherwise than its neighbour does."""
    index = grouped[storage]
    assert np.load(index.root / "key" / "L00.npy", mmap_mode="r").dtype == storage
    assert index.layers[0].n_heads == 2 * index.layers[0].n_kv_heads
    is_content = np.ones(index.n_tokens, dtype=bool)
    for layer in range(index.n_layers):
        for head in (index.head(layer, number) for number in range(index.layers[layer].n_heads)):
            sample = HeadSample(head.query, head.key, index.row_starts, is_content, head.spec)
            changed = normalise.normalise(sample, dims=2, method=method).apply_to(sample)
            assert_same_attention(sample, changed, 1e-5)
            for sequence in index.sequences["sequence"][:3]:
                rows = index.rows(sequence)
                after = attend(changed.query[rows], changed.key[rows], head.spec)
                np.testing.assert_allclose(after, head.attention(sequence), atol=1e-5, rtol=0)


def test_attention_is_kept_for_rounded_keys_of_a_large_norm() -> None:
    """One direction of the keys is 30 times the others, as the outlier dimensions of trained models are."""
    sample = make_sample()
    stretch = np.array([30.0] + [1.0] * 7)
    sample = with_vectors(
        sample, (sample.query / stretch).astype(np.float32), (sample.key * stretch).astype(np.float32)
    )
    for method in METHODS:
        assert_same_attention(sample, normalise.normalise(sample, dims=2, method=method).apply_to(sample), 1e-4)


def test_two_gauges_in_a_row_keep_attention() -> None:
    sample = make_sample()
    once = normalise.normalise(sample, dims=2, method="sphere").apply_to(sample)
    twice = normalise.normalise(once, dims=2, method="balanced").apply_to(once)
    assert_same_attention(sample, twice, 1e-11)


def test_a_random_gauge_of_the_input_does_not_change_what_auto_shows() -> None:
    """Auto picks among identity and balanced; for any gauge of the input the balanced part is found again."""
    sample = make_sample()
    rng = np.random.default_rng(1)
    matrix = rng.normal(size=(8, 8))
    changed = with_vectors(sample, sample.query @ np.linalg.inv(matrix).T, sample.key @ matrix)
    assert_same_attention(sample, changed, 1e-10)
    one, other = (pca_scores(s, normalise.normalise(s, dims=2, method="balanced")) for s in (sample, changed))
    assert other.weighted_correlation == pytest.approx(one.weighted_correlation, abs=2e-3)
    assert other.attention_kl == pytest.approx(one.attention_kl, abs=5e-3)


def test_sphere_centring_is_exact_for_keys_on_a_sphere() -> None:
    rng = np.random.default_rng(0)
    centre, direction = rng.normal(size=8) * 5, rng.normal(size=(500, 8))
    key = centre + 3 * direction / np.linalg.norm(direction, axis=1, keepdims=True)
    np.testing.assert_allclose(normalise.sphere_centre(key), -centre, atol=1e-10)
    sample = make_sample()
    planted = with_vectors(sample, sample.query, key[: len(sample.key)])
    gauge = normalise.normalise(planted, dims=2, method="sphere")
    norms = np.linalg.norm(gauge.apply(planted.query, planted.key)[1], axis=1)
    np.testing.assert_allclose(norms, 3 * gauge.scale, rtol=1e-10)


def test_sphere_centring_beats_every_other_translation() -> None:
    sample = make_sample()
    rng = np.random.default_rng(0)
    best = normalise.sphere_centre(sample.key)

    def spread(translation: Any) -> float:
        return float(np.var(np.sum((sample.key + translation) ** 2, axis=1)))

    assert all(spread(best) < spread(best + rng.normal(size=8) * size) for size in (1e-3, 0.1, 1, 10))


def test_balancing_gives_both_covariances() -> None:
    sample = make_sample()
    gauge = normalise.normalise(sample, dims=2, method="balanced")
    query, key = gauge.apply(sample.query, sample.key)
    ratio = gauge.scale**4  # c takes the covariances apart again: query / c, key * c
    np.testing.assert_allclose(np.cov(query.T) * ratio, np.cov(key.T), rtol=1e-3, atol=1e-3)


def test_attentionviz_puts_the_keys_on_the_centroid_of_the_queries() -> None:
    sample = make_sample()
    gauge = normalise.normalise(sample, dims=2, method="attentionviz")
    query, key = gauge.apply(sample.query, sample.key)
    np.testing.assert_array_equal(query, sample.query)
    np.testing.assert_allclose(key.mean(axis=0), query.mean(axis=0), atol=1e-12)
    assert gauge.scale == 1.0


@pytest.mark.parametrize("method", ["auto", "sphere", "balanced"])
def test_a_planted_scale_is_undone(method: Method) -> None:
    sample = make_sample()
    planted = with_vectors(sample, sample.query * 8, sample.key / 8)
    one, other = (normalise.normalise(s, dims=2, method=method) for s in (sample, planted))
    assert other.matrix_name == one.matrix_name and other.translation_name == one.translation_name
    if one.matrix_name == "identity":
        assert other.scale == pytest.approx(8 * one.scale, rel=1e-6)
    first, second = pca_scores(sample, one), pca_scores(planted, other)
    assert second.weighted_correlation == pytest.approx(first.weighted_correlation, abs=1e-6)
    assert second.recall1 == first.recall1


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("dims", [2, 3])
def test_the_correlation_that_is_searched_is_the_one_of_the_fitted_map(causal: bool, dims: int) -> None:
    """The search works from moments; the projection from the points. Both must measure the same picture."""
    sample = make_sample(causal=causal)
    gauge = normalise.normalise(sample, dims=dims)
    changed = gauge.apply_to(sample)
    positions = project.fit("pca", changed, dims=dims, seed=0).transform(changed.query, changed.key)
    reached = fidelity.score(changed, positions).weighted_correlation
    best = float(gauge.curve_correlation.min())
    assert reached <= best + 1e-9  # refined beyond the best point of the grid
    assert reached == pytest.approx(best, abs=0.05)


def test_auto_is_at_least_as_good_as_every_other_method() -> None:
    for seed in range(4):
        sample = make_sample(seed)
        reached = {
            method: pca_scores(sample, normalise.normalise(sample, dims=2, method=method)).weighted_correlation
            for method in ("auto", "sphere", "balanced")
        }
        assert reached["auto"] <= min(reached.values()) + 1e-3


def test_pairs_beyond_the_bound_are_left_out_and_the_choice_is_repeatable(monkeypatch: pytest.MonkeyPatch) -> None:
    sample = make_sample(n_sequences=80)
    monkeypatch.setattr(normalise, "MAX_PAIRS", 2_000)
    one, other = (normalise.normalise(sample, dims=2) for _ in range(2))
    for name, array in one.arrays().items():
        np.testing.assert_array_equal(array, other.arrays()[name])
    assert_same_attention(sample, one.apply_to(sample), 1e-11)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("case", ["equal keys", "equal queries", "all zero", "one direction", "one token"])
def test_degenerate_heads_give_finite_gauges_that_keep_attention(method: Method, case: str) -> None:
    sample = make_sample()
    query, key = sample.query.astype(np.float32), sample.key.astype(np.float32)
    if case == "equal keys":
        key = np.broadcast_to(key[:1], key.shape)
    elif case == "equal queries":
        query = np.broadcast_to(query[:1], query.shape)
    elif case == "all zero":
        query, key = np.zeros_like(query), np.zeros_like(key)
    elif case == "one direction":
        query, key = query[:, :1] * np.ones(8), key[:, :1] * np.ones(8)
    sample = with_vectors(sample, query, key)
    if case == "one token":
        sample = HeadSample(query[:1], key[:1], np.array([0, 1]), np.ones(1, dtype=bool), sample.layer)
    gauge = normalise.normalise(sample, dims=2, method=method)
    assert all(np.isfinite(a).all() for a in (gauge.query_matrix, gauge.key_matrix, gauge.translation))
    assert_same_attention(sample, gauge.apply_to(sample), 1e-4)
    np.testing.assert_allclose(gauge.query_matrix @ gauge.key_matrix.T, np.eye(8), atol=1e-6)


@pytest.mark.parametrize("method", METHODS)
def test_a_gauge_comes_back_exactly_from_disk(method: Method, tmp_path: Path) -> None:
    gauge = normalise.normalise(make_sample(), dims=2, method=method)
    np.savez(tmp_path / "gauge.npz", **gauge.arrays())
    with np.load(tmp_path / "gauge.npz", allow_pickle=False) as stored:
        back = Gauge.from_arrays(stored)
    assert back.curve_names == gauge.curve_names and back.scale == gauge.scale
    assert (back.matrix_name, back.translation_name) == (gauge.matrix_name, gauge.translation_name)
    for name, array in gauge.arrays().items():
        np.testing.assert_array_equal(back.arrays()[name], array)


def test_errors_say_what_to_do() -> None:
    sample = make_sample()
    with pytest.raises(QKSpaceError, match="'procrustes'; choose one of auto, none, attentionviz, sphere, balanced"):
        normalise.normalise(sample, dims=2, method="procrustes")  # type: ignore[arg-type]
    with pytest.raises(QKSpaceError, match=r"9 dimensions .* have 8"):
        normalise.normalise(sample, dims=9)
    with pytest.raises(QKSpaceError, match="finite"):
        normalise.normalise(with_vectors(sample, sample.query * np.nan, sample.key), dims=2, method="none")
    gauge = normalise.normalise(sample, dims=2, method="none")
    with pytest.raises(QKSpaceError, match="length 8; got"):
        gauge.apply(sample.query[:, :4], sample.key)
    with pytest.raises(QKSpaceError, match="lacks translation, "):
        Gauge.from_arrays({"query_matrix": gauge.query_matrix, "key_matrix": gauge.key_matrix})
