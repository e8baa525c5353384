"""Tests of `qkspace.fidelity`: each score against the plain definition, planted maps, and what must not matter."""

from __future__ import annotations

import math
from dataclasses import asdict

import numpy as np
import pytest
from scipy.stats import spearmanr

from qkspace import fidelity
from qkspace.schema import HeadSample, LayerSpec, Positions, QKSpaceError


def make_sample(seed: int = 0, *, causal: bool = False, window: int | None = None, d: int = 4) -> HeadSample:
    """Plant a head on sequences of 1 to 12 tokens, the first of each (and the last) being special."""
    rng = np.random.default_rng(seed)
    starts = np.concatenate([[0], np.cumsum([1, 2, 3, 12, *rng.integers(3, 12, 12)])])
    n = int(starts[-1])
    is_content = np.ones(n, dtype=bool)
    is_content[starts[:-1]] = is_content[starts[1:] - 1] = False
    layer = LayerSpec("planted", 1, 1, d_head=d, scale=0.7, causal=causal, window=window)
    return HeadSample(rng.normal(size=(n, d)), rng.normal(size=(n, d)), starts, is_content, layer)


def make_positions(sample: HeadSample, seed: int = 1, dims: int = 2) -> Positions:
    rng = np.random.default_rng(seed)
    return Positions(rng.normal(size=(len(sample.query), dims)), rng.normal(size=(len(sample.query), dims)))


def rows_of(sample: HeadSample, positions: Positions, *, content: bool = False) -> list[dict[str, list[float]]]:
    """Return logits, attention and distances of every query, in plain Python, straight from the definitions."""
    rows = []
    for start, end in zip(sample.starts[:-1], sample.starts[1:], strict=True):
        for i in range(start, end):
            keys = [j for j in range(start, end) if not (sample.layer.causal and j > i)]
            keys = [j for j in keys if sample.layer.window is None or abs(i - j) < sample.layer.window]
            if content:
                keys = [j for j in keys if sample.is_content[j]] if sample.is_content[i] else []
            logit = [
                sample.layer.scale * sum(a * b for a, b in zip(sample.query[i], sample.key[j], strict=True))
                for j in keys
            ]
            total = sum(math.exp(x) for x in logit)
            distance = [math.dist(positions.query[i], positions.key[j]) for j in keys]
            rows.append({"logit": logit, "attention": [math.exp(x) / total for x in logit], "distance": distance})
    return [row for row in rows if row["logit"]]


def plain_weighted_correlation(rows: list[dict[str, list[float]]]) -> float:
    covariance = logit_variance = distance_variance = 0.0
    for row in rows:
        weights = row["attention"]
        logit_mean = sum(w * x for w, x in zip(weights, row["logit"], strict=True))
        distance_mean = sum(w * x for w, x in zip(weights, row["distance"], strict=True))
        for w, logit, distance in zip(weights, row["logit"], row["distance"], strict=True):
            covariance += w * (logit - logit_mean) * (distance - distance_mean)
            logit_variance += w * (logit - logit_mean) ** 2
            distance_variance += w * (distance - distance_mean) ** 2
    return covariance / math.sqrt(logit_variance * distance_variance)


def plain_recall(rows: list[dict[str, list[float]]], k: int) -> float:
    hits = []
    for row in rows:
        if len(row["logit"]) >= k + 1:
            best = row["logit"].index(max(row["logit"]))
            as_near = [d for j, d in enumerate(row["distance"]) if j != best and d <= row["distance"][best]]
            hits.append(len(as_near) < k)
    return sum(hits) / len(hits)


def plain_kl(rows: list[dict[str, list[float]]], beta: float) -> float:
    total = 0.0
    for row in rows:
        nearest = min(row["distance"])
        total += math.log(sum(math.exp(-beta * (d**2 - nearest**2)) for d in row["distance"]))
        for a, d in zip(row["attention"], row["distance"], strict=True):
            total += a * (math.log(a) + beta * (d**2 - nearest**2))
    return total / len(rows)


MASKS = [(False, None), (True, None), (True, 4), (False, 3)]


@pytest.mark.parametrize(("causal", "window"), MASKS)
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_every_score_equals_its_plain_definition(seed: int, causal: bool, window: int | None) -> None:
    sample = make_sample(seed, causal=causal, window=window)
    positions = make_positions(sample, seed + 10)
    scores = fidelity.score(sample, positions)
    rows, content = rows_of(sample, positions), rows_of(sample, positions, content=True)
    assert scores.weighted_correlation == pytest.approx(plain_weighted_correlation(rows), abs=1e-9)
    assert scores.recall1 == pytest.approx(plain_recall(rows, 1))
    assert scores.recall3 == pytest.approx(plain_recall(rows, 3))
    assert scores.recall1_content == pytest.approx(plain_recall(content, 1))
    assert scores.recall3_content == pytest.approx(plain_recall(content, 3))
    ranked = [spearmanr(row["logit"], row["distance"]).statistic for row in rows if len(row["logit"]) >= 3]
    assert scores.spearman == pytest.approx(np.mean(ranked), abs=1e-9)
    assert scores.attention_kl == pytest.approx(plain_kl(rows, scores.beta), abs=1e-9)
    assert scores.attention_kl <= min(plain_kl(rows, beta) for beta in [0, *np.geomspace(1e-3, 1e2, 100)]) + 1e-6
    assert (scores.n_queries, scores.n_sequences) == (len(sample.query), len(sample.starts) - 1)


def test_spearman_shares_the_ranks_of_ties() -> None:
    sample = make_sample()
    positions = make_positions(sample)
    rounded = Positions(np.round(positions.query), np.round(positions.key))
    rows = [row for row in rows_of(sample, rounded) if len(row["logit"]) >= 3]
    expected = [spearmanr(row["logit"], row["distance"]).statistic if np.ptp(row["distance"]) else 0.0 for row in rows]
    assert fidelity.score(sample, rounded).spearman == pytest.approx(np.mean(expected), abs=1e-9)


def planted_map(sample: HeadSample) -> tuple[HeadSample, Positions]:
    """Make a head whose logit is -D^2 plus a constant of the row: keys (2z, -|z|^2), queries (z, 1)."""
    positions = make_positions(sample, dims=3)
    norm = np.sum(positions.key**2, axis=1, keepdims=True)
    query = np.concatenate([positions.query, np.ones((len(norm), 1))], axis=1) / sample.layer.scale
    key = np.concatenate([2 * positions.key, -norm], axis=1)
    return HeadSample(query, key, sample.starts, sample.is_content, sample.layer), positions


@pytest.mark.parametrize(("causal", "window"), MASKS)
def test_a_map_that_is_the_attention_scores_perfectly(causal: bool, window: int | None) -> None:
    scores = fidelity.score(*planted_map(make_sample(causal=causal, window=window)))
    assert scores.recall1 == scores.recall3 == scores.recall1_content == 1
    assert scores.attention_kl == pytest.approx(0, abs=1e-6)
    assert scores.beta == pytest.approx(1, rel=1e-2)
    assert scores.spearman == pytest.approx(-1)
    assert scores.weighted_correlation < -0.9


@pytest.mark.parametrize("place", [0.0, 0.1, 1e6])
def test_a_collapsed_map_scores_nothing(place: float) -> None:
    sample = make_sample()
    where = np.full((len(sample.query), 2), place)
    scores = fidelity.score(sample, Positions(where, where))
    assert scores.recall1 == scores.recall1_content == scores.weighted_correlation == scores.spearman == 0
    assert scores.beta == 0
    far = fidelity.score(sample, Positions(where + 3.3, where))  # all at one distance that is not 0
    assert far.recall1 == far.weighted_correlation == far.spearman == 0


def test_a_map_turned_round_finds_nothing_and_is_no_worse_than_uniform() -> None:
    sample, positions = planted_map(make_sample())
    turned = HeadSample(-sample.query, sample.key, sample.starts, sample.is_content, sample.layer)
    scores = fidelity.score(turned, positions)
    assert scores.beta == 0
    assert scores.spearman == pytest.approx(1)
    uniform = [a * math.log(a * len(row["attention"])) for row in rows_of(turned, positions) for a in row["attention"]]
    assert scores.attention_kl == pytest.approx(sum(uniform) / len(turned.query))


def assert_same_scores(one: fidelity.Scores, other: fidelity.Scores, *, but: str = "") -> None:
    for name, value in asdict(one).items():
        if name != but:
            assert asdict(other)[name] == pytest.approx(value, abs=1e-6, rel=1e-6, nan_ok=True), name


@pytest.mark.parametrize("causal", [False, True])
def test_what_attention_cannot_see_does_not_count(causal: bool) -> None:
    sample = make_sample(causal=causal)
    positions = make_positions(sample)
    rng = np.random.default_rng(3)
    matrix = rng.normal(size=(4, 4))
    query, key = sample.query @ np.linalg.inv(matrix).T, sample.key @ matrix + rng.normal(size=4) * 20
    changed = HeadSample(query, key, sample.starts, sample.is_content, sample.layer)
    one, other = fidelity.score(sample, positions), fidelity.score(changed, positions)
    assert_same_scores(one, other, but="trustworthiness")


def test_moving_turning_and_stretching_the_map_changes_only_beta() -> None:
    sample = make_sample()
    positions = make_positions(sample)
    turn = 3 * np.array([[0.6, 0.8], [0.8, -0.6]])
    changed = Positions(positions.query @ turn + 7, positions.key @ turn + 7)
    one, other = fidelity.score(sample, positions), fidelity.score(sample, changed)
    assert_same_scores(one, other, but="beta")
    assert other.beta == pytest.approx(one.beta / 9, rel=1e-2)


@pytest.mark.parametrize("causal", [False, True])
def test_the_order_of_sequences_changes_nothing(causal: bool) -> None:
    sample = make_sample(causal=causal)
    positions = make_positions(sample)
    order = np.random.default_rng(0).permutation(len(sample.starts) - 1)
    tokens = np.concatenate([np.arange(sample.starts[s], sample.starts[s + 1]) for s in order])
    starts = np.concatenate([[0], np.cumsum(np.diff(sample.starts)[order])])
    shuffled = HeadSample(sample.query[tokens], sample.key[tokens], starts, sample.is_content[tokens], sample.layer)
    moved = Positions(positions.query[tokens], positions.key[tokens])
    assert_same_scores(fidelity.score(sample, positions), fidelity.score(shuffled, moved))


def test_without_a_map_distances_are_those_of_the_full_space() -> None:
    sample = make_sample()
    full = fidelity.score(sample, Positions(sample.query, sample.key))
    assert_same_scores(full, fidelity.no_map_scores(sample))
    assert fidelity.no_map_scores(sample).trustworthiness == 1


@pytest.mark.parametrize(("causal", "window"), MASKS)
def test_attention_is_the_masked_softmax_of_each_sequence(causal: bool, window: int | None) -> None:
    sample = make_sample(causal=causal, window=window)
    matrices = fidelity.attention(sample)
    for matrix, start, end in zip(matrices, sample.starts[:-1], sample.starts[1:], strict=True):
        logit = sample.layer.scale * sample.query[start:end] @ sample.key[start:end].T
        allowed = sample.layer.allowed(end - start)
        weight = np.exp(logit) * allowed
        np.testing.assert_allclose(matrix, weight / weight.sum(axis=1, keepdims=True), atol=1e-12)
        assert (matrix[~allowed] == 0).all()


def test_attention_skips_no_sequence_that_is_empty() -> None:
    sample = make_sample()
    starts = np.concatenate([[0], sample.starts, sample.starts[-1:]])
    padded = HeadSample(sample.query, sample.key, starts, sample.is_content, sample.layer)
    assert [len(m) for m in fidelity.attention(padded)] == [0, *np.diff(sample.starts), 0]


def test_keys_that_are_the_same_do_not_stand_in_each_others_way() -> None:
    """Two tokens with one key vector share one place and one attention: the map is right, though they tie."""
    sample, positions = planted_map(make_sample())
    twin = np.arange(len(sample.query)) // 2 * 2
    planted = HeadSample(sample.query, sample.key[twin], sample.starts, sample.is_content, sample.layer)
    assert fidelity.score(planted, Positions(positions.query, positions.key[twin])).recall1 == 1


def test_scores_that_are_undefined_are_nan() -> None:
    sample = make_sample()
    equal = HeadSample(sample.query, np.ones_like(sample.key), sample.starts, sample.is_content, sample.layer)
    scores = fidelity.score(equal, make_positions(sample))
    assert all(np.isnan(x) for x in (scores.weighted_correlation, scores.recall1, scores.spearman))
    assert scores.attention_kl == pytest.approx(0, abs=1e-3)
    no_content = HeadSample(sample.query, sample.key, sample.starts, np.zeros_like(sample.is_content), sample.layer)
    scores = fidelity.score(no_content, make_positions(sample))
    assert np.isnan(scores.recall1_content) and np.isnan(scores.recall3_content)
    assert not np.isnan(scores.recall1)


def test_pairs_are_bounded_by_a_share_of_the_queries_of_every_sequence_chosen_by_seed() -> None:
    sample = make_sample()
    every = fidelity.gather_pairs(sample, max_pairs=None)
    some = [fidelity.gather_pairs(sample, max_pairs=300, seed=seed) for seed in (0, 0, 1)]
    assert len(every.row) == int(np.sum(np.diff(sample.starts) ** 2))
    assert all(len(pairs.row) <= 300 and pairs.n_sequences == every.n_sequences for pairs in some)
    np.testing.assert_array_equal(some[0].query_token, some[1].query_token)
    assert not np.array_equal(some[0].query_token, some[2].query_token)
    np.testing.assert_allclose(np.add.reduceat(some[0].attention, some[0].row_starts), 1)
    full = {(q, k): a for q, k, a in zip(every.query_token, every.key_token, every.attention, strict=True)}
    for q, k, a in zip(some[2].query_token, some[2].key_token, some[2].attention, strict=True):
        assert a == pytest.approx(full[q, k])  # what is drawn keeps all its keys, so its attention is the same


@pytest.mark.parametrize("precision", ["float16", "float32"])
def test_low_precision_is_computed_in_float64(precision: str) -> None:
    sample = make_sample()
    query, key = sample.query.astype(precision), sample.key.astype(precision)
    low = HeadSample(query, key, sample.starts, sample.is_content, sample.layer)
    high = HeadSample(query.astype(float), key.astype(float), sample.starts, sample.is_content, sample.layer)
    assert fidelity.score(low, make_positions(sample)) == fidelity.score(high, make_positions(sample))


def test_logits_far_beyond_exp_stay_finite() -> None:
    sample = make_sample()
    hot = HeadSample(sample.query * 100, sample.key * 100, sample.starts, sample.is_content, sample.layer)
    scores = asdict(fidelity.score(hot, make_positions(sample)))
    assert np.isnan(scores.pop("weighted_correlation"))  # all attention is on one key: nothing is left to correlate
    assert all(np.isfinite(value) for value in scores.values())


def test_errors_say_what_to_do() -> None:
    sample = make_sample()
    positions = make_positions(sample)
    with pytest.raises(QKSpaceError, match="one query and one key for each"):
        fidelity.score(sample, Positions(positions.query[1:], positions.key[1:]))
    with pytest.raises(QKSpaceError, match="nan or infinity"):
        fidelity.score(sample, Positions(positions.query * np.nan, positions.key))
    broken = HeadSample(sample.query * np.inf, sample.key, sample.starts, sample.is_content, sample.layer)
    with pytest.raises(QKSpaceError, match="must be finite"):
        fidelity.score(broken, positions)
    nothing = HeadSample(sample.query[:0], sample.key[:0], np.array([0]), sample.is_content[:0], sample.layer)
    with pytest.raises(QKSpaceError, match="no tokens"):
        fidelity.no_map_scores(nothing)
