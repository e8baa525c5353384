"""Tests of `qkspace.fidelity`: each score against the plain definition, planted maps, and what must not matter."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict

import numpy as np
import pytest
from scipy.stats import spearmanr

from qkspace import bootstrap, fidelity
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
    norm = math.sqrt(logit_variance * distance_variance)
    return covariance / norm if norm > 1e-12 else math.nan if logit_variance <= 1e-24 else 0.0


def plain_recall(rows: list[dict[str, list[float]]], k: int) -> float:
    hits = []
    for row in rows:
        if len(row["logit"]) >= k + 1:
            best = row["logit"].index(max(row["logit"]))
            as_near = [d for j, d in enumerate(row["distance"]) if j != best and d <= row["distance"][best]]
            hits.append(len(as_near) < k)
    return sum(hits) / len(hits) if hits else math.nan


def plain_kl(rows: list[dict[str, list[float]]], beta: float) -> float:
    total = 0.0
    for row in rows:
        nearest = min(row["distance"])
        total += math.log(sum(math.exp(-beta * (d**2 - nearest**2)) for d in row["distance"]))
        for a, d in zip(row["attention"], row["distance"], strict=True):
            total += a * (math.log(a) + beta * (d**2 - nearest**2))
    return total / len(rows)


def plain_spearman(rows: list[dict[str, list[float]]]) -> float:
    return float(
        np.mean([spearmanr(row["logit"], row["distance"]).statistic for row in rows if len(row["logit"]) >= 3])
    )


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
    assert scores.spearman == pytest.approx(plain_spearman(rows), abs=1e-9)
    assert scores.attention_kl == pytest.approx(plain_kl(rows, scores.beta), abs=1e-9)
    assert scores.attention_kl <= min(plain_kl(rows, beta) for beta in [0, *np.geomspace(1e-3, 1e2, 100)]) + 1e-6
    assert (scores.n_queries, scores.n_sequences) == (len(sample.query), len(sample.starts) - 1)


@pytest.mark.parametrize(("causal", "window"), MASKS)
def test_the_scores_of_no_map_are_those_of_distance_in_the_full_space(causal: bool, window: int | None) -> None:
    sample = make_sample(causal=causal, window=window)
    scores = fidelity.score(sample, make_positions(sample))
    vectors = Positions(sample.query, sample.key)
    full, as_map = fidelity.score(sample, vectors), asdict(fidelity.score(sample, vectors))
    for name in fidelity.STATISTICS:
        assert asdict(scores)[f"no_map_{name}"] == pytest.approx(as_map[name], abs=1e-9), name
    rows, content = rows_of(sample, vectors), rows_of(sample, vectors, content=True)
    assert scores.no_map_recall1 == pytest.approx(plain_recall(rows, 1))
    assert scores.no_map_recall3_content == pytest.approx(plain_recall(content, 3))
    assert scores.no_map_attention_kl == pytest.approx(plain_kl(rows, full.beta), abs=1e-9)
    assert full.trustworthiness == 1


@pytest.mark.parametrize("seed", [0, 1])
def test_intervals_equal_scoring_every_resample_of_whole_sequences_anew(
    seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bootstrap, "RESAMPLES", 50)
    sample = make_sample(seed)
    positions = make_positions(sample, seed + 10)
    scores = asdict(fidelity.score(sample, positions, seed=seed))
    parts: list[tuple[list[dict[str, list[float]]], list[dict[str, list[float]]]]] = []
    for start, end in zip(sample.starts[:-1], sample.starts[1:], strict=True):
        vectors = (sample.query[start:end], sample.key[start:end], np.array([0, end - start]))
        one = HeadSample(*vectors, sample.is_content[start:end], sample.layer)
        place = Positions(positions.query[start:end], positions.key[start:end])
        parts.append((rows_of(one, place), rows_of(one, place, content=True)))
    plain: dict[str, Callable[[list[dict[str, list[float]]]], float]] = {
        "weighted_correlation": plain_weighted_correlation,
        "recall1": lambda rows: plain_recall(rows, 1),
        "recall3": lambda rows: plain_recall(rows, 3),
        "attention_kl": lambda rows: plain_kl(rows, scores["beta"]),
        "spearman": plain_spearman,
    }
    names = [*plain, "recall1_content", "recall3_content"]
    assert sorted(names) == sorted(fidelity.STATISTICS)
    resamples: dict[str, list[float]] = {name: [] for name in names}
    for times in bootstrap.draw(len(parts), seed).astype(int):
        rows, content = ([row for part, n in zip(parts, times, strict=True) for row in part[i] * n] for i in (0, 1))
        for name in names:
            chosen = content if name.endswith("content") else rows
            resamples[name].append(plain[name.removesuffix("_content")](chosen))
    for name in names:
        low, high = np.nanpercentile(resamples[name], [2.5, 97.5])
        assert scores[f"{name}_low"] == pytest.approx(low, abs=1e-9), name
        assert scores[f"{name}_high"] == pytest.approx(high, abs=1e-9), name
        assert low <= scores[name] <= high


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


def assert_same_scores(one: fidelity.Scores, other: fidelity.Scores, *, but: tuple[str, ...] = ()) -> None:
    """Compare every field whose name has none of `but` in it."""
    for name, value in asdict(one).items():
        if not any(part in name for part in but):
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
    assert_same_scores(one, other, but=("trustworthiness", "no_map"))  # these two are of the vectors, not of the map


def test_moving_turning_and_stretching_the_map_changes_only_beta() -> None:
    sample = make_sample()
    positions = make_positions(sample)
    turn = 3 * np.array([[0.6, 0.8], [0.8, -0.6]])
    changed = Positions(positions.query @ turn + 7, positions.key @ turn + 7)
    one, other = fidelity.score(sample, positions), fidelity.score(sample, changed)
    assert_same_scores(one, other, but=("beta",))
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
    one, other = fidelity.score(sample, positions), fidelity.score(shuffled, moved)
    assert_same_scores(one, other, but=("low", "high"))  # other sequences are drawn again
    for name in fidelity.STATISTICS:
        (low, high), (lower, higher) = ((asdict(s)[f"{name}_low"], asdict(s)[f"{name}_high"]) for s in (one, other))
        assert abs(low - lower) + abs(high - higher) < 0.5 * (high - low) + 1e-9, name


def test_the_same_seed_gives_the_same_scores_and_another_only_other_resamples() -> None:
    sample = make_sample()
    positions = make_positions(sample)
    one, again, other = (fidelity.score(sample, positions, seed=seed) for seed in (0, 0, 1))
    assert one == again
    assert_same_scores(one, other, but=("low", "high"))
    assert one != other


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
    for name, value in asdict(fidelity.score(hot, make_positions(sample))).items():
        # All attention is on one key: nothing is left to correlate.
        assert np.isnan(value) if "weighted_correlation" in name else np.isfinite(value), name


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
        fidelity.score(nothing, Positions(positions.query[:0], positions.key[:0]))


# ---------------------------------------------------------------------------------------------- heads planted by hand


def one_hot_head(match: list[list[int]], gap: float = 20.0, *, causal: bool = False) -> HeadSample:
    """Plant a head: the logit of query i with each key of match[i] is `gap`, with every other 0; one sequence, twice."""
    n = len(match)
    query = np.zeros((n, n))
    for i, keys in enumerate(match):
        query[i, keys] = gap
    twice = (np.concatenate([query, query]), np.concatenate([np.eye(n), np.eye(n)]))
    content = np.tile(np.arange(n) > 0, 2)
    return HeadSample(*twice, np.array([0, n, 2 * n]), content, LayerSpec("planted", 1, 1, n, 1.0, causal=causal))


def twice(query: list[float], key: list[float]) -> Positions:
    """Place both copies of a planted sequence on a line."""
    return Positions(np.tile(query, 2)[:, None], np.tile(key, 2)[:, None])


@pytest.mark.parametrize("causal", [False, True])
def test_a_head_of_the_previous_token(causal: bool) -> None:
    n = 8
    sample = one_hot_head([[max(i - 1, 0)] for i in range(n)], causal=causal)
    line = [float(i) for i in range(n)]
    right = fidelity.score(sample, twice([max(i - 1.0, 0.0) for i in range(n)], line))
    assert right.recall1 == right.recall3 == right.recall1_content == right.recall1_low == right.recall1_high == 1
    assert right.attention_kl == pytest.approx(0, abs=1e-4)
    # The map of a same-token head: a query lies on its own key, the previous one beside it, as near as the next one.
    wrong = fidelity.score(sample, twice(line, line))
    counted = n - 1 if causal else n  # the first token of a decoder has one key only
    assert wrong.recall1 == pytest.approx((0 if causal else 1) / counted)  # only the first token attends to itself
    assert wrong.recall3 == 1


def test_a_head_of_the_same_token() -> None:
    kinds = [0, 1, 2, 2, 1, 3, 3, 3]
    sample = one_hot_head([[j for j, other in enumerate(kinds) if other == kind] for kind in kinds])
    right = fidelity.score(sample, twice([float(k) for k in kinds], [float(k) for k in kinds]))
    assert right.recall1 == right.recall3 == 1
    assert right.attention_kl == pytest.approx(0, abs=1e-4)
    merged = [0.0 if kind in (0, 1) else float(kind) for kind in kinds]  # a map that cannot tell kind 0 from kind 1
    scores = fidelity.score(sample, twice(merged, merged))
    assert scores.recall1 == 5 / 8
    lost = (math.log(3 / 1) + 2 * math.log(3 / 2)) / 8  # attention is equal over n keys, the map's over 3
    assert scores.attention_kl == pytest.approx(lost, abs=1e-4)


@pytest.mark.parametrize("gap", [1.0, 3.0, 20.0])
def test_a_head_that_attends_to_one_sink(gap: float) -> None:
    n = 8
    sample = one_hot_head([[0]] * n, gap)
    right = fidelity.score(sample, twice([0.0] * n, [0.0, *[5.0] * (n - 1)]))
    assert right.recall1 == 1
    assert right.attention_kl == pytest.approx(0, abs=1e-4)  # two distances can say any share of attention
    assert right.weighted_correlation == pytest.approx(-1)
    assert right.spearman == pytest.approx(-1)
    assert math.isnan(right.recall1_content)  # the sink is no content, and all else is alike
    collapsed = fidelity.score(sample, twice([0.0] * n, [0.0] * n))
    share = math.exp(gap) / (math.exp(gap) + n - 1)
    uniform = share * math.log(share * n) + (1 - share) * math.log((1 - share) * n / (n - 1))
    assert collapsed.recall1 == 0
    assert collapsed.attention_kl == pytest.approx(uniform, abs=1e-9)


def test_a_head_of_two_clusters() -> None:
    side = [0, 0, 0, 1, 1, 1, 1, 1]
    sample = one_hot_head([[j for j, other in enumerate(side) if other == own] for own in side], 4.0)
    place = [float(s) for s in side]
    right = fidelity.score(sample, twice(place, place))
    assert right.recall1 == right.recall1_content == 1
    assert right.weighted_correlation == pytest.approx(-1)
    assert right.spearman == pytest.approx(-1)
    assert (right.attention_kl, right.beta) == pytest.approx((0, 4), abs=1e-2)  # D is 1 across, and the logit 4
    swapped = fidelity.score(sample, twice([1 - p for p in place], place))
    assert swapped.recall1 == swapped.recall3 == 0
    assert swapped.weighted_correlation == pytest.approx(1)


def even_sample(n_sequences: int, n: int = 12, seed: int = 0) -> HeadSample:
    rng = np.random.default_rng(seed)
    starts = np.arange(n_sequences + 1) * n
    vectors = rng.normal(size=(2, n * n_sequences, 4))
    content = np.arange(n * n_sequences) % n > 1
    return HeadSample(vectors[0], vectors[1], starts, content, LayerSpec("planted", 1, 1, 4, 0.7, causal=False))


def test_a_random_map_scores_what_chance_does() -> None:
    sample = even_sample(250)
    scores = fidelity.score(sample, make_positions(sample))
    chance = {"recall1": 1 / 12, "recall3": 3 / 12, "recall1_content": 1 / 10, "recall3_content": 3 / 10}
    for name, expected in {**chance, "spearman": 0.0, "weighted_correlation": 0.0}.items():
        assert asdict(scores)[name] == pytest.approx(expected, abs=0.03), name
    uniform = fidelity.score(sample, Positions(np.zeros((3000, 2)), np.zeros((3000, 2))))
    assert scores.attention_kl == pytest.approx(uniform.attention_kl, rel=0.01)
    assert scores.attention_kl <= uniform.attention_kl


def test_a_causal_random_map_scores_the_mean_chance_of_its_rows() -> None:
    sample = even_sample(250)
    layer = LayerSpec("planted", 1, 1, 4, 0.7, causal=True)
    causal = HeadSample(sample.query, sample.key, sample.starts, sample.is_content, layer)
    scores = fidelity.score(causal, make_positions(sample))
    assert scores.recall1 == pytest.approx(np.mean([1 / n for n in range(2, 13)]), abs=0.03)
    assert scores.recall3 == pytest.approx(np.mean([3 / n for n in range(4, 13)]), abs=0.03)


# ---------------------------------------------------------------------------------------------- intervals


def test_an_interval_covers_the_truth_about_as_often_as_it_says() -> None:
    """Sequences of 5 to 30 tokens, each with a share of hits of its own: tokens of a sequence are alike."""
    rng = np.random.default_rng(0)
    covered = by_token = 0
    for repetition in range(300):
        counts = rng.integers(5, 31, 60)
        hits = rng.binomial(counts, rng.beta(3, 2, 60))  # the mean share is 0.6
        sums = np.stack([hits, counts], axis=1).astype(float)
        low, high = bootstrap.interval(sums, fidelity.mean, bootstrap.draw(60, repetition))
        covered += low <= 0.6 <= high
        share = hits.sum() / counts.sum()
        by_token += abs(share - 0.6) < 1.96 * math.sqrt(share * (1 - share) / counts.sum())
    assert 0.9 <= covered / 300 <= 0.98
    assert by_token / 300 < 0.75  # what would come of taking tokens for independent


def test_the_interval_of_a_score_covers_chance_on_random_maps() -> None:
    covered = 0
    for seed in range(60):
        sample = even_sample(40, seed=seed)
        scores = fidelity.score(sample, make_positions(sample, seed + 100), seed=seed)
        covered += scores.recall1_low <= 1 / 12 <= scores.recall1_high
    assert covered / 60 >= 0.85


def test_more_sequences_make_an_interval_narrower() -> None:
    widths = []
    for n in (20, 180):
        sample = even_sample(n)
        scores = fidelity.score(sample, make_positions(sample))
        widths.append(scores.recall1_high - scores.recall1_low)
    assert widths[1] == pytest.approx(widths[0] / 3, rel=0.4)


# ---------------------------------------------------------------------------------------------- degenerate heads


def test_one_sequence_has_scores_and_no_intervals() -> None:
    scores = asdict(fidelity.score(even_sample(1), make_positions(even_sample(1))))
    assert all(np.isnan(value) == name.endswith(("_low", "_high")) for name, value in scores.items())


def test_one_token_is_scored_without_a_crash() -> None:
    sample = even_sample(1, n=1)
    scores = fidelity.score(sample, make_positions(sample))
    assert (scores.n_queries, scores.attention_kl, scores.no_map_attention_kl) == (1, 0, 0)
    undefined = [scores.recall1, scores.recall1_content, scores.spearman, scores.weighted_correlation]
    assert all(np.isnan(value) for value in [*undefined, scores.trustworthiness, scores.recall1_low])


def test_keys_that_are_all_one_have_undefined_scores_with_and_without_a_map() -> None:
    sample = make_sample()
    equal = HeadSample(sample.query, np.ones_like(sample.key), sample.starts, sample.is_content, sample.layer)
    scores = asdict(fidelity.score(equal, make_positions(sample)))
    for name in fidelity.STATISTICS:
        if name != "attention_kl":
            assert all(np.isnan(scores[n]) for n in (name, f"{name}_low", f"{name}_high", f"no_map_{name}")), name
    assert scores["no_map_attention_kl"] == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_head_that_is_not_finite_says_so(bad: float) -> None:
    sample = even_sample(2)
    assert fidelity.fault(sample, sample) is None
    sample.key[[3, 5]] = bad
    assert fidelity.fault(even_sample(2), sample) == "2 of 96 of its query and key vectors hold nan or infinity"


def test_scores_of_before_there_were_intervals_can_be_read() -> None:
    sample = make_sample()
    stored = asdict(fidelity.score(sample, make_positions(sample)))
    old = {
        name: v for name, v in stored.items() if not name.startswith("no_map") and not name.endswith(("low", "high"))
    }
    read = asdict(fidelity.Scores(**old))
    assert {name: read[name] for name in old} == old
    assert all(np.isnan(value) for name, value in read.items() if name not in old)
