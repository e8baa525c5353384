"""Tests of `qkspace.comparison.drift`: against scipy, literal loops over keys, and whole matrices of logits."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.spatial.distance import jensenshannon
from scipy.special import rel_entr

from qkspace import store
from qkspace.comparison import drift, noise
from qkspace.comparison.drift import (
    PARTS,
    STATISTICS,
    SequenceDrift,
    SequenceMarks,
    head_table,
    sequence_drift,
)
from qkspace.comparison.moments import Moments, balanced_matrices
from qkspace.comparison.noise import noise_floor
from qkspace.index import Index
from qkspace.position import attend_heads
from qkspace.schema import LayerSpec, QKSpaceError

Array = NDArray[np.float64]
Float32 = NDArray[np.float32]


def rows_of(
    seed: int, n_heads: int, n: int, *, causal: bool = False, outside: bool = False, sharp: float = 2.0
) -> Float32:
    """Return random attention (head, query, key), rows summing to 1."""
    rng = np.random.default_rng(seed)
    weight = np.exp(sharp * rng.normal(size=(n_heads, n, n + outside)))
    if causal:
        weight[:, :, :n][:, ~np.tril(np.ones((n, n), dtype=bool))] = 0.0
    return (weight / weight.sum(axis=2, keepdims=True)).astype(np.float32)


def norms_of(seed: int, n_heads: int, n: int) -> Float32:
    return np.random.default_rng(seed).uniform(0.1, 3.0, (n_heads, n)).astype(np.float32)


def marks_of(n: int, *, causal: bool = False) -> SequenceMarks:
    """First and last units special, as in an encoder; in a causal layer only the last."""
    special = np.isin(np.arange(n), [n - 1] if causal else [0, n - 1])
    return SequenceMarks(special, ~special & (np.arange(n) > 0), causal)


def part(found: SequenceDrift, name: str) -> Array:
    return found.sums[:, PARTS.index(name)]


# ---------------------------------------------------------------------------------------------- divergence


@pytest.mark.parametrize("n", [1, 2, 9, 70, 300])  # the last takes several blocks
@pytest.mark.parametrize("causal", [False, True])
def test_divergence_is_scipys_squared(n: int, causal: bool) -> None:
    base, tuned = rows_of(0, 3, n, causal=causal), rows_of(1, 3, n, causal=causal)
    found = sequence_drift(base, tuned, norms_of(2, 3, n), norms_of(3, 3, n), marks_of(n, causal=causal))
    expected = jensenshannon(base.astype(np.float64), tuned.astype(np.float64), axis=2) ** 2
    assert found.divergence.dtype == np.float32
    np.testing.assert_allclose(found.divergence, np.nan_to_num(expected), atol=1e-6)
    np.testing.assert_allclose(part(found, "js"), found.divergence.sum(axis=1), rtol=1e-5)


def test_divergence_is_symmetric_and_zero_for_equal_attention() -> None:
    base, tuned, norm, marks = rows_of(0, 4, 33), rows_of(1, 4, 33), norms_of(2, 4, 33), marks_of(33)
    tuned[2], tuned[1, 5] = base[2], base[1, 5]  # one head, and one row of another, did not change
    there, back = sequence_drift(base, tuned, norm, norm, marks), sequence_drift(tuned, base, norm, norm, marks)
    np.testing.assert_array_equal(there.divergence, back.divergence)
    np.testing.assert_array_equal(there.changed_key, back.changed_key[:, :, ::-1])
    unchanged = np.zeros((4, 33), dtype=bool)
    unchanged[2], unchanged[1, 5] = True, True
    np.testing.assert_array_equal(there.divergence == 0, unchanged)
    assert (there.changed_key[unchanged] == -1).all() and (there.changed_key[~unchanged] >= 0).all()
    assert (there.changed_attention[unchanged] == 0).all()
    same = sequence_drift(base, base.copy(), norm, norm.copy(), marks)
    for name in ("js", "js_content", "value_js"):
        assert (part(same, name) == 0).all()
    for name in STATISTICS:
        np.testing.assert_array_equal(part(same, f"{name}_base"), part(same, f"{name}_tuned"))


def test_attention_to_other_keys_altogether_is_ln_2() -> None:
    base, tuned = np.zeros((2, 1, 5, 5), dtype=np.float32)
    base[0, :, :2], tuned[0, :, 2:] = 1 / 2, 1 / 3
    norm = np.ones((1, 5), dtype=np.float32)
    found = sequence_drift(base, tuned, norm, norm, marks_of(5))
    np.testing.assert_allclose(found.divergence, math.log(2), rtol=1e-6)
    assert found.divergence.max() <= np.float32(math.log(2))


def test_values_alone_can_change() -> None:
    """Equal attention to values of other lengths: no divergence of the attention, but of what is added up."""
    base, marks = rows_of(0, 2, 12), marks_of(12)
    before = norms_of(1, 2, 12)
    after = before.copy()
    after[1] = norms_of(2, 1, 12)
    found = sequence_drift(base, base.copy(), before, after, marks)
    assert (found.divergence == 0).all() and (found.changed_key == -1).all()
    weighted = [base * norm[:, None] for norm in (before, after)]
    expected = jensenshannon(*(w.astype(np.float64) for w in weighted), axis=2) ** 2  # scipy scales rows itself
    np.testing.assert_allclose(part(found, "value_js"), expected.sum(axis=1), atol=1e-5)
    assert part(found, "value_js")[0] == 0 and part(found, "value_js")[1] > 0.01


def test_blocks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    base, tuned = rows_of(0, 5, 40, causal=True), rows_of(1, 5, 40, causal=True)
    arguments = (base, tuned, norms_of(2, 5, 40), norms_of(3, 5, 40), marks_of(40, causal=True))
    whole = sequence_drift(*arguments)
    for pairs in (1, 3 * 40, 4_000):
        monkeypatch.setattr(drift, "BLOCK_PAIRS", pairs)
        found = sequence_drift(*arguments)
        np.testing.assert_allclose(found.divergence, whole.divergence, atol=2e-7)
        np.testing.assert_array_equal(found.changed_key, whole.changed_key)
        np.testing.assert_array_equal(found.changed_attention, whole.changed_attention)
        np.testing.assert_allclose(found.sums, whole.sums, rtol=1e-5, atol=1e-6)


def test_a_tuned_layer_may_look_ahead_where_its_base_did_not(monkeypatch: pytest.MonkeyPatch) -> None:
    """The marks say causal, which skips keys ahead; attention to them must count all the same."""
    monkeypatch.setattr(drift, "BLOCK_PAIRS", 100)
    base, tuned = rows_of(0, 2, 20, causal=True), rows_of(1, 2, 20)
    found = sequence_drift(base, tuned, None, None, marks_of(20, causal=True))
    expected = jensenshannon(base.astype(np.float64), tuned.astype(np.float64), axis=2) ** 2
    np.testing.assert_allclose(found.divergence, expected, atol=1e-6)


# ---------------------------------------------------------------------------------------------- changed keys


def test_planted_change_is_found_with_its_values() -> None:
    base = np.full((2, 6, 6), 1 / 6, dtype=np.float32)
    tuned = base.copy()
    tuned[1, 4] = [0.05, 0.55, 1 / 6, 1 / 6, 1 / 30, 1 / 30]
    tuned[1, 4, 4] = 0.01
    found = sequence_drift(base, tuned, None, None, marks_of(6))
    assert found.changed_key.dtype == np.int32
    assert found.changed_key[1, 4].tolist() == [1, 4]
    np.testing.assert_allclose(found.changed_attention[1, 4], [[1 / 6, 0.55], [1 / 6, 0.01]], rtol=1e-6)
    others = np.ones((2, 6), dtype=bool)
    others[1, 4] = False
    assert (found.changed_key[others] == -1).all() and (found.divergence[others] == 0).all()


def test_only_one_key_may_have_moved() -> None:
    """Where attention only grew (its row does not sum to 1), nothing shrank."""
    base = np.full((1, 3, 3), 0.25, dtype=np.float32)
    tuned = base.copy()
    tuned[0, 1, 2] = 0.5
    found = sequence_drift(base, tuned, None, None, marks_of(3))
    assert found.changed_key[0, 1].tolist() == [2, -1]
    assert found.changed_attention[0, 1].tolist() == [[0.25, 0.5], [0.0, 0.0]]


def test_changed_keys_are_those_of_a_literal_search() -> None:
    base, tuned = rows_of(3, 3, 25), rows_of(4, 3, 25)
    found = sequence_drift(base, tuned, None, None, marks_of(25))
    for h in range(3):
        for i in range(25):
            change = tuned[h, i] - base[h, i]
            keys = [int(np.argmax(change)), int(np.argmin(change))]
            assert found.changed_key[h, i].tolist() == keys
            assert found.changed_attention[h, i].tolist() == [[base[h, i, k], tuned[h, i, k]] for k in keys]


# ---------------------------------------------------------------------------------------------- statistics


def literal(attention: Float32, norm: Float32 | None, marks: SequenceMarks) -> dict[str, float]:
    """Return STATISTICS of one head, summed over its queries, key by key."""
    n, total = len(marks.is_special), dict.fromkeys(STATISTICS, 0.0)
    for i, row in enumerate(attention.astype(np.float64)):
        weighted = row * norm.astype(np.float64) if norm is not None else row
        for j, weight in enumerate(row):
            outside = j >= n
            special = outside or bool(marks.is_special[j])
            sink = special or (marks.causal and j == 0)
            total["entropy"] -= weight * math.log(weight) if weight else 0.0
            total["attention_to_sink"] += weight * sink
            total["attention_to_special"] += weight * special
            total["attention_to_first"] += weight * (j == 0)
            total["attention_to_previous"] += weight * (j == i - 1)
            total["attention_to_next"] += weight * (j == i + 1 and not outside)
            total["attention_to_self"] += weight * (j == i)
            total["value_attention_to_sink"] += weighted[j] / weighted.sum() * sink
    return total


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("outside", [False, True])
def test_statistics_are_those_of_literal_loops(causal: bool, outside: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drift, "BLOCK_PAIRS", 200)  # so that neighbours stand in other blocks
    n, marks = 23, marks_of(23, causal=causal)
    sides = [rows_of(seed, 3, n, causal=causal, outside=outside) for seed in (0, 1)]
    norms = [None, None] if outside else [norms_of(seed, 3, n) for seed in (2, 3)]
    found = sequence_drift(sides[0], sides[1], norms[0], norms[1], marks)
    for name, rows, norm in zip(("base", "tuned"), sides, norms, strict=True):
        for h in range(3):
            expected = literal(rows[h], None if norm is None else norm[h], marks)
            for statistic in STATISTICS:
                value = part(found, f"{statistic}_{name}")[h]
                if outside and statistic.startswith("value_"):
                    assert math.isnan(value)
                else:
                    assert value == pytest.approx(expected[statistic], rel=1e-5, abs=1e-5), statistic
    assert (part(found, "queries") == n).all()
    assert (part(found, "content_queries") == marks.is_content.sum()).all()
    content = found.divergence[:, marks.is_content].sum(axis=1)
    np.testing.assert_allclose(part(found, "js_content"), content, rtol=1e-5)


def test_outside_counts_in_the_divergence_but_is_no_changed_key() -> None:
    """All that changed is how much goes to what is no word."""
    base = np.full((1, 4, 5), 0.2, dtype=np.float32)
    tuned = np.tile(np.array([0.15, 0.15, 0.15, 0.15, 0.4], dtype=np.float32), (1, 4, 1))
    found = sequence_drift(base, tuned, None, None, SequenceMarks(np.zeros(4, bool), np.ones(4, bool), False))
    expected = jensenshannon(base[0, 0].astype(np.float64), tuned[0, 0].astype(np.float64)) ** 2
    np.testing.assert_allclose(found.divergence, expected, rtol=1e-4)
    assert (found.changed_key[:, :, 0] == -1).all() and (found.changed_key[:, :, 1] < 4).all()
    assert part(found, "attention_to_special_tuned")[0] == pytest.approx(4 * 0.4)
    assert part(found, "attention_to_sink_tuned")[0] == pytest.approx(4 * 0.4)
    assert np.isnan(part(found, "value_js")).all()


def test_a_head_that_is_not_finite_spoils_no_other() -> None:
    base, tuned, norm, marks = rows_of(0, 3, 10), rows_of(1, 3, 10), norms_of(2, 3, 10), marks_of(10)
    clean = sequence_drift(base, tuned, norm, norm, marks)
    tuned[1] = np.nan
    found = sequence_drift(base, tuned, norm, norm, marks)
    assert np.isnan(found.divergence[1]).all() and (found.changed_key[1] == -1).all()
    assert np.isnan(part(found, "js")[1])
    for h in (0, 2):
        np.testing.assert_array_equal(found.divergence[h], clean.divergence[h])
        np.testing.assert_allclose(found.sums[h], clean.sums[h], rtol=1e-6)


def test_a_sequence_without_units_counts_nothing() -> None:
    empty = np.zeros((2, 0, 1), dtype=np.float32)
    marks = SequenceMarks(np.zeros(0, dtype=bool), np.zeros(0, dtype=bool), False)
    found = sequence_drift(empty, empty, None, None, marks)
    assert found.divergence.shape == (2, 0) and (np.nan_to_num(found.sums) == 0).all()


def test_arrays_of_other_units_are_refused() -> None:
    base, norm = rows_of(0, 2, 5), norms_of(0, 2, 5)
    for wrong in (
        lambda: sequence_drift(base, rows_of(0, 2, 6), None, None, marks_of(5)),
        lambda: sequence_drift(base, base, None, None, marks_of(6)),
        lambda: sequence_drift(base, base, norm, None, marks_of(5)),
        lambda: sequence_drift(base, base, norm[:1], norm[:1], marks_of(5)),
    ):
        with pytest.raises(QKSpaceError):
            wrong()


# ---------------------------------------------------------------------------------------------- table of heads


def sums_of(n_sequences: int, seed: int = 0) -> Array:
    """Return the sums of random sequences of 4 to 30 units, 3 heads, the second of which did not change."""
    rng = np.random.default_rng(seed)
    found = []
    for s in range(n_sequences):
        n = int(rng.integers(4, 31))
        base, tuned = rows_of(2 * s, 3, n), rows_of(2 * s + 1, 3, n)
        tuned[1] = base[1]
        norm = norms_of(s, 3, n)
        found.append(sequence_drift(base, tuned, norm, norm, marks_of(n)).sums)
    return np.stack(found)


def test_table_holds_means_over_queries() -> None:
    sums = sums_of(20)
    table = head_table(sums, seed=0)
    names = ["js", "js_low", "js_high", "js_content", "value_js"]
    ends = ("base", "tuned", "change", "change_low", "change_high")
    assert sorted(table) == sorted([*names, *(f"{s}_{end}" for s in STATISTICS for end in ends)])
    total = sums.sum(axis=0)
    queries, content = total[:, 0], total[:, 1]
    np.testing.assert_allclose(table["js"], total[:, PARTS.index("js")] / queries)
    np.testing.assert_allclose(table["js_content"], total[:, PARTS.index("js_content")] / content)
    np.testing.assert_allclose(table["value_js"], total[:, PARTS.index("value_js")] / queries)
    for s in STATISTICS:
        np.testing.assert_allclose(table[f"{s}_base"], total[:, PARTS.index(f"{s}_base")] / queries)
        np.testing.assert_allclose(table[f"{s}_change"], table[f"{s}_tuned"] - table[f"{s}_base"], atol=1e-12)


def test_intervals_hold_the_mean_and_shrink_with_more_sequences() -> None:
    few, many = head_table(sums_of(12), seed=0), head_table(sums_of(300), seed=0)
    for name in ("js", *(f"{s}_change" for s in STATISTICS)):
        for table in (few, many):
            assert (table[f"{name}_low"] <= table[name] + 1e-12).all(), name
            assert (table[name] <= table[f"{name}_high"] + 1e-12).all(), name
        changed = [0, 2]
        width = [(table[f"{name}_high"] - table[f"{name}_low"])[changed] for table in (few, many)]
        assert (width[0] > 0).all() and (width[1] < 0.6 * width[0]).all(), name  # the root of 25 times as many
        assert few[f"{name}_low"][1] == few[f"{name}_high"][1] == few[name][1] == 0.0, name


def test_intervals_cover_the_truth_as_often_as_they_say() -> None:
    """Sequences of normal means about 0.3: about 95 % of the intervals hold 0.3 (the bootstrap of 60: some less)."""
    rng = np.random.default_rng(0)
    sums = np.zeros((60, 400, len(PARTS)))
    sums[:, :, 0] = 10.0
    sums[:, :, PARTS.index("js")] = 10 * rng.normal(0.3, 0.1, (60, 400))
    table = head_table(sums, seed=1)
    held = np.mean((table["js_low"] <= 0.3) & (table["js_high"] >= 0.3))
    assert 0.90 <= held <= 0.98


def test_the_interval_is_that_of_the_scores_of_maps() -> None:
    """The same draws and percentiles as `qkspace.bootstrap.interval`, which takes one score at a time."""
    from qkspace import bootstrap, fidelity

    sums = sums_of(15)
    table = head_table(sums, seed=3)
    times = bootstrap.draw(15, 3)
    for h in range(3):
        pair = sums[:, h][:, [PARTS.index("js"), 0]]
        expected = bootstrap.interval(pair, fidelity.mean, times)
        assert (table["js_low"][h], table["js_high"][h]) == pytest.approx(expected)


def test_sequences_without_units_change_no_interval() -> None:
    """As words leave them: a sequence of special tokens only."""
    sums = sums_of(9)
    table = head_table(np.insert(sums, [0, 4, 9], 0.0, axis=0), seed=0)
    for name, values in head_table(sums, seed=0).items():
        np.testing.assert_allclose(table[name], values, rtol=1e-12, err_msg=name)


def test_one_sequence_shows_no_spread() -> None:
    sums = sums_of(1)
    empty = np.zeros_like(sums)
    for table in (head_table(sums, seed=0), head_table(np.concatenate([sums, empty]), seed=0)):
        assert np.isfinite(table["js"]).all()
        assert np.isnan(table["js_low"]).all() and np.isnan(table["entropy_change_high"]).all()


def test_a_head_that_is_nan_stays_alone_and_no_content_is_nan() -> None:
    sums = sums_of(10)
    clean = head_table(sums, seed=0)
    sums[4, 2, PARTS.index("js") :] = np.nan
    sums[:, :, 1] = 0.0
    table = head_table(sums, seed=0)
    assert np.isnan(table["js"][2]) and np.isnan(table["js_low"][2]) and np.isnan(table["js_content"]).all()
    np.testing.assert_array_equal(table["js_low"][:2], clean["js_low"][:2])


def test_sums_of_another_shape_are_refused() -> None:
    with pytest.raises(QKSpaceError, match="sums"):
        head_table(np.zeros((3, 2, 4)), seed=0)


# ---------------------------------------------------------------------------------------------- moments


def vectors(seed: int, n_heads: int = 3, n: int = 80, d: int = 6) -> tuple[Array, Array]:
    """Return queries and keys that are neither centred nor of equal spread: (head, row, d) each."""
    rng = np.random.default_rng(seed)
    mix = rng.normal(size=(2, n_heads, d, d)) * np.geomspace(2.0, 0.2, d)
    query, key = rng.normal(size=(2, n_heads, n, d))
    return query @ mix[0] + rng.normal(size=(n_heads, 1, d)), key @ mix[1] + 3 * rng.normal(size=(n_heads, 1, d))


def tuned_from(query: Array, key: Array, seed: int, size: float = 0.2) -> tuple[Array, Array]:
    """Return the vectors with a part of random others added."""
    other_query, other_key = vectors(seed, *query.shape)
    return query + size * other_query, key + size * other_key


def regauged(query: Array, key: Array, seed: int, width: int) -> tuple[Array, Array]:
    """Return vectors of some width with the same attention: query B, key A + a with B A^T = 1."""
    rng = np.random.default_rng(seed)
    n_heads, _, d = query.shape
    key_matrix = rng.normal(size=(n_heads, d, width)) * np.geomspace(1.0, 5.0, width)
    query_matrix = np.linalg.pinv(key_matrix).swapaxes(1, 2)
    return query @ query_matrix, key @ key_matrix + 4 * rng.normal(size=(n_heads, 1, width))


def moments_of(base: tuple[Array, Array], tuned: tuple[Array, Array], blocks: int = 3) -> Moments:
    found = Moments()
    for rows in np.array_split(np.arange(base[0].shape[1]), blocks):
        found.add(*(array[:, rows] for array in (*base, *tuned)))
    return found


def logits(query: Array, key: Array, scale: float) -> Array:
    """Return all of them, less what the mean key adds to each query's: (head, query, key)."""
    return scale * query @ (key - key.mean(axis=1, keepdims=True)).swapaxes(1, 2)


def literal_cka(x: Array, y: Array) -> float:
    """Return linear CKA by the kernels, as Kornblith et al. define it (equation 1 with centred K and L)."""
    n = len(x)
    centring = np.eye(n) - 1 / n
    left, right = (centring @ rows @ rows.T @ centring for rows in (x, y))
    return float(np.sum(left * right) / math.sqrt(np.sum(left * left) * np.sum(right * right)))


def halves(query: Array, key: Array) -> tuple[Array, Array]:
    """Return one head's balanced queries and keys from the singular value decomposition of its whole logits."""
    left, values, right = np.linalg.svd(query @ (key - key.mean(axis=0)).T)
    rank = int(np.sum(values > 1e-9 * values[0]))
    return left[:, :rank] * np.sqrt(values[:rank]), right[:rank].T * np.sqrt(values[:rank])


@pytest.mark.parametrize("width", [6, 9])
def test_product_change_is_that_of_whole_logits(width: int) -> None:
    base = vectors(0)
    tuned = regauged(*tuned_from(*base, seed=1), seed=2, width=width)
    before, after = logits(*base, 0.5), logits(*tuned, 0.7)
    expected = np.linalg.norm(after - before, axis=(1, 2)) / np.linalg.norm(before, axis=(1, 2))
    np.testing.assert_allclose(moments_of(base, tuned).product_change(0.5, 0.7), expected, rtol=1e-8)


@pytest.mark.parametrize("width", [6, 9])
def test_cka_is_that_of_halved_logits(width: int) -> None:
    base = vectors(0)
    tuned = regauged(*tuned_from(*base, seed=1), seed=2, width=width)
    found = moments_of(base, tuned).cka()
    for h in range(3):
        pairs = zip(halves(base[0][h], base[1][h]), halves(tuned[0][h], tuned[1][h]), strict=True)
        for i, (x, y) in enumerate(pairs):
            assert found[i][h] == pytest.approx(literal_cka(x, y), abs=1e-6)
            assert 0.3 < found[i][h] < 0.999


@pytest.mark.parametrize("width", [6, 8, 12])
def test_neither_sees_the_gauge(width: int) -> None:
    base = vectors(3)
    tuned = tuned_from(*base, seed=4)
    plain = moments_of(base, tuned)
    for seed in range(5):
        moved = moments_of(regauged(*base, seed, 6), regauged(*tuned, seed + 50, width))
        np.testing.assert_allclose(moved.product_change(1.0, 1.0), plain.product_change(1.0, 1.0), rtol=1e-6)
        for found, expected in zip(moved.cka(), plain.cka(), strict=True):
            np.testing.assert_allclose(found, expected, atol=1e-6)
    same = moments_of(base, regauged(*base, 9, width))
    assert same.product_change(1.0, 1.0).max() < 1e-6
    assert min(array.min() for array in same.cka()) > 1 - 1e-6


def test_equal_vectors_give_exactly_nothing() -> None:
    base = vectors(5)
    tuned = tuned_from(*base, seed=6)
    for array, own in zip(tuned, base, strict=True):
        array[1] = own[1]
    found = moments_of(base, tuned)
    change, ckas = found.product_change(0.3, 0.3), found.cka()
    assert change[1] == 0.0 and (change[[0, 2]] > 0.01).all()
    for cka in ckas:
        assert cka[1] == 1.0 and (cka[[0, 2]] < 0.999).all()
    assert found.product_change(0.3, 0.6)[1] == pytest.approx(1.0)  # twice the logits


def test_a_head_of_lower_rank_is_measured_where_it_has_directions() -> None:
    """Queries span 2 of 6 dimensions: keys may move in the other 4 without any logit to show it."""
    query, key = vectors(7)
    query[:, :, 2:] = 0.0
    hidden = key.copy()
    hidden[:, :, 2:] = 10 * vectors(8)[1][:, :, 2:]
    found = moments_of((query, key), (query, hidden))
    assert found.product_change(1.0, 1.0).max() < 1e-6
    np.testing.assert_allclose(found.cka(), 1.0, atol=1e-6)
    turned = moments_of(regauged(query, key, 1, 6), tuned_from(query, key, seed=2))
    expected = moments_of((query, key), tuned_from(query, key, seed=2))
    np.testing.assert_allclose(turned.cka(), expected.cka(), atol=1e-5)


def test_vectors_that_do_not_vary_or_are_not_finite_give_nan() -> None:
    base, tuned = vectors(9), tuned_from(*vectors(9), seed=10)
    base[1][0] = base[1][0, :1]  # all keys of a head are one
    tuned[0][1, 5, 2] = np.inf
    found = moments_of(base, tuned)
    for values in (found.product_change(1.0, 1.0), *found.cka()):
        assert np.isnan(values[:2]).all() and np.isfinite(values[2])


def test_moments_stand_means_far_from_zero() -> None:
    """A thousand times the spread away: what is centred in float64 by sums alone would lose six digits."""
    query, key = vectors(11)
    tuned = tuned_from(query, key, seed=12)
    far = (tuned[0], tuned[1] + 1e4)
    plain, found = moments_of((query, key), tuned), moments_of((query, key + 1e4), far)
    np.testing.assert_allclose(found.product_change(1.0, 1.0), plain.product_change(1.0, 1.0), rtol=1e-8)
    np.testing.assert_allclose(found.cka(), plain.cka(), atol=1e-8)


def test_moments_refuse_other_shapes() -> None:
    query, key = vectors(0)
    with pytest.raises(QKSpaceError, match="No vectors"):
        Moments().cka()
    found = moments_of((query, key), (query, key))
    for wrong in ((query, key, query[:2], key[:2]), (query, key, query[..., :4], key), (query, key[:, :5], query, key)):
        with pytest.raises(QKSpaceError, match="Vectors are added"):
            found.add(*wrong)
    with pytest.raises(QKSpaceError, match="as before"):
        found.add(query, key, query[..., :4], key[..., :4])


def test_balanced_matrices_keep_every_product() -> None:
    query, key = vectors(13)
    key -= key.mean(axis=1, keepdims=True)
    query[1, :, 3:] = 0.0
    matrices = balanced_matrices(query.swapaxes(1, 2) @ query, key.swapaxes(1, 2) @ key)
    left, right = query @ matrices[0], key @ matrices[1]
    np.testing.assert_allclose(left @ right.swapaxes(1, 2), query @ key.swapaxes(1, 2), atol=1e-6)
    for h in range(3):
        values = np.linalg.svd(query[h] @ key[h].T, compute_uv=False)[:6]
        for rows in (left[h], right[h]):
            np.testing.assert_allclose(rows.T @ rows, np.diag(values), atol=1e-6 * values[0])
    assert (matrices[0][1, :, 3:] == 0).all() and (matrices[1][1, :, 3:] == 0).all()


# ---------------------------------------------------------------------------------------------- noise

SPEC = LayerSpec("attention", n_heads=4, n_kv_heads=2, d_head=8, scale=0.5, causal=True)


def test_noise_floor_is_what_random_moves_do() -> None:
    """Against moves in float64 and scipy's relative entropy, over every sequence."""
    rng = np.random.default_rng(0)
    starts = np.array([0, 30, 30, 41, 90])
    query, key = 6 * rng.normal(size=(4, 90, 8)), rng.normal(size=(2, 90, 8))
    key *= np.array([1.0, 3.0])[:, None, None]
    total, n_draws = np.zeros(4), 40
    for _ in range(n_draws):
        moved = [array * (1 + 2.0**-11 * rng.uniform(-1, 1, array.shape)) for array in (query, key)]
        for first, last in ((0, 30), (30, 41), (41, 90)):
            rows = []
            for q, k in ((query, key), moved):
                logit = 0.5 * q[:, first:last] @ np.repeat(k, 2, axis=0)[:, first:last].swapaxes(1, 2)
                weight = np.exp(logit - logit.max(axis=2, keepdims=True)) * SPEC.allowed(last - first)
                rows.append(weight / weight.sum(axis=2, keepdims=True))
            middle = (rows[0] + rows[1]) / 2
            total += np.sum([rel_entr(row, middle) for row in rows], axis=(0, 2, 3)) / 2
    found = np.mean([noise_floor(query, key, SPEC, starts, seed) for seed in range(n_draws)], axis=0)
    np.testing.assert_allclose(found, noise.SAFETY * total / (n_draws * 90), rtol=0.25)
    assert found[2:].min() > 2 * found[:2].max()  # the heads with larger keys


class Counted:
    """An array that counts how many of its rows were read."""

    def __init__(self, array: NDArray[np.float16]) -> None:
        self.array, self.n_read = array, 0

    def __getitem__(self, at: tuple[slice, NDArray[np.int64] | slice]) -> NDArray[np.float16]:
        found = self.array[at]
        self.n_read += found.shape[1]
        return found


@pytest.mark.parametrize("starts", [[0, 500], list(range(0, 501, 20))])
def test_noise_floor_bounds_what_it_reads(starts: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    """Of one long sequence some queries, of many sequences some; the size of blocks changes nothing but the last digits."""
    rng = np.random.default_rng(1)
    query, key = ((5 * rng.normal(size=(n, 500, 8))).astype(np.float16) for n in (4, 2))
    monkeypatch.setattr(noise, "MAX_NOISE_QUERIES", 100)
    counted = Counted(query)
    found = noise_floor(counted, key, SPEC, np.array(starts), 0)  # type: ignore[arg-type]
    assert counted.n_read == 100
    monkeypatch.setattr(noise, "BLOCK_PAIRS", 5_000)
    np.testing.assert_allclose(noise_floor(query, key, SPEC, np.array(starts), 0), found, rtol=0.05)
    assert (noise_floor(0 * query, key, SPEC, np.array(starts), 0) == 0).all()  # all keys alike, whatever they are


@pytest.fixture(scope="module")
def minilm_twice(
    tmp_path_factory: pytest.TempPathFactory, minilm: Path, small_corpus: tuple[Path, Path], small_index: Index
) -> tuple[Index, Index]:
    """MiniLM over the small corpus: stored in float16, and in float32 from batches of another size."""
    return small_index, again(str(minilm), list(small_corpus), tmp_path_factory.mktemp("twice"), "float32", 256)


@pytest.fixture(scope="module")
def stories_twice(
    tmp_path_factory: pytest.TempPathFactory, stories: Path, small_corpus: tuple[Path, Path]
) -> tuple[Index, Index]:
    """stories260K over sentences: the same."""
    folder, corpus = tmp_path_factory.mktemp("twice"), [small_corpus[1]]
    return again(str(stories), corpus, folder, "float16", 1024), again(str(stories), corpus, folder, "float32", 256)


def again(model: str, corpus: list[Path], folder: Path, storage: str, batch_tokens: int) -> Index:
    from qkspace.pipeline import build

    options = {"methods": ["pca"], "dims": [2], "normalise": "none", "n_jobs": 1}
    return build(model, corpus, out=folder / storage, storage=storage, batch_tokens=batch_tokens, **options)


def layer_of(index: Index, layer: int) -> dict[str, Float32]:
    names = ("query", "key", "value_norm")
    return {name: store.float_array(store.read_array(index.root / name / f"L{layer:02d}.npy")) for name in names}


@pytest.mark.parametrize(("name", "most"), [("minilm_twice", 1e-5), ("stories_twice", 1e-3)])
def test_storage_alone_stays_below_the_noise_floor(name: str, most: float, request: pytest.FixtureRequest) -> None:
    """Two indexes of one checkpoint: no head drifts beyond the floor of either, and the floor is far below any real drift."""
    pair: tuple[Index, Index] = request.getfixturevalue(name)
    base = pair[0]
    special = base.tokens["is_special"].to_numpy()
    for number, spec in enumerate(base.layers):
        sides = [layer_of(index, number) for index in pair]
        group, sums = spec.n_heads // spec.n_kv_heads, []
        for first, last in zip(base.row_starts[:-1], base.row_starts[1:], strict=True):
            rows = slice(first, last)
            attention, norms = [], []
            for side in sides:
                attention.append(attend_heads(side["query"][:, rows], side["key"][:, rows], spec))
                norms.append(np.repeat(side["value_norm"][:, rows], group, axis=0))
            marks = SequenceMarks(special[rows], ~special[rows], spec.causal)
            sums.append(sequence_drift(attention[0], attention[1], norms[0], norms[1], marks).sums)
        js = head_table(np.stack(sums), seed=0)["js"]
        assert (js > 0).all()  # the two do differ
        for side in sides:
            floor = noise_floor(side["query"], side["key"], spec, base.row_starts, seed=0)
            assert (js < floor).all(), (number, js / floor)
            assert floor.max() < most
