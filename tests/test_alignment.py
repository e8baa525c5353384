"""Tests of `qkspace.comparison.alignment`: attention is kept, what did not change stays put, what changed moves."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from qkspace import store
from qkspace.comparison import alignment
from qkspace.comparison.alignment import Alignment, align
from qkspace.index import Index
from qkspace.schema import QKSpaceError

Rows = NDArray[np.floating]


def make_head(seed: int = 0, *, n: int = 500, d: int = 16, rank: int | None = None) -> tuple[Rows, Rows]:
    """Plant a head: off-centre, correlated queries and keys; of a lower rank if asked for."""
    rng = np.random.default_rng(seed)
    rank = rank or d
    query, key = (rng.normal(size=(n, rank)) @ rng.normal(size=(rank, d)) + rng.normal(size=d) for _ in range(2))
    return query, key


def random_gauge(d: int, seed: int = 1, condition: float = 30.0) -> Rows:
    rng = np.random.default_rng(seed)
    left, right = (np.linalg.qr(rng.normal(size=(d, d)))[0] for _ in range(2))
    return (left * np.geomspace(1, condition, d)) @ right


def regauged(query: Rows, key: Rows, seed: int = 1) -> tuple[Rows, Rows]:
    matrix = random_gauge(query.shape[1], seed)
    offset = np.random.default_rng(seed).normal(size=query.shape[1]) * 5
    return query @ np.linalg.inv(matrix).T, key @ matrix + offset


def attention(query: Rows, key: Rows) -> Rows:
    logit = query.astype(np.float64)[:80] @ key.astype(np.float64).T / 4
    weight = np.exp(logit - logit.max(axis=1, keepdims=True))
    return weight / weight.sum(axis=1, keepdims=True)


def assert_near(found: Rows, wanted: Rows, tolerance: float) -> None:
    assert np.linalg.norm(found - wanted) <= tolerance * np.linalg.norm(wanted - wanted.mean(axis=0))


@pytest.mark.parametrize(("precision", "tolerance"), [("float64", 1e-9), ("float32", 1e-4)])
def test_attention_is_kept_whatever_the_base_is(precision: str, tolerance: float) -> None:
    tuned = tuple(rows.astype(precision) for rows in make_head(1))
    found = align(*make_head(0), *tuned)
    query, key = found.apply(*tuned)
    assert query.dtype == key.dtype == precision
    np.testing.assert_allclose(attention(query, key), attention(*tuned), atol=tolerance, rtol=0)
    np.testing.assert_allclose(found.query_matrix @ found.key_matrix.T, np.eye(16), atol=1e-8)


@pytest.mark.parametrize("precision", ["float16", "float32", "float64"])
def test_the_same_vectors_are_not_touched(precision: str) -> None:
    query, key = (rows.astype(precision) for rows in make_head())
    found = align(query, key, query.copy(), key.copy())
    assert found.is_same
    for after, before in zip(found.apply(query, key), (query, key), strict=True):
        assert after.dtype == np.promote_types(precision, np.float32)
        np.testing.assert_array_equal(after, before)
    np.testing.assert_array_equal(found.query_matrix, np.eye(16))


def test_one_bit_is_enough_not_to_be_the_same() -> None:
    query, key = (rows.astype(np.float32) for rows in make_head())
    other = key.copy()
    other[-1, -1] = np.nextafter(other[-1, -1], np.float32(np.inf))
    found = align(query, key, query, other)
    assert not found.is_same
    for after, before in zip(found.apply(query, other), (query, key), strict=True):
        assert_near(after, before, 1e-6)


@pytest.mark.parametrize("seed", range(5))
def test_a_head_in_another_gauge_comes_back(seed: int) -> None:
    query, key = (rows.astype(np.float32) for rows in make_head(seed))
    tuned = tuple(rows.astype(np.float32) for rows in regauged(query, key, seed + 10))
    assert np.linalg.norm(tuned[0] - query) > 0.5 * np.linalg.norm(query)
    found = align(query, key, *tuned).apply(*tuned)
    assert_near(found[0], query, 1e-4)
    assert_near(found[1], key, 1e-4)


def test_trained_heads_in_another_gauge_come_back(small_index: Index, decoder_index: Index) -> None:
    for index in (small_index, decoder_index):
        for layer in range(index.n_layers):
            for number in range(index.layers[layer].n_heads):
                head = index.head(layer, number)
                query, key = head.query.astype(np.float32), head.key.astype(np.float32)
                tuned = tuple(rows.astype(np.float32) for rows in regauged(query, key, number))
                found = align(query, key, *tuned).apply(*tuned)
                assert_near(found[0], query, 1e-3)  # trained heads are ill-conditioned themselves
                assert_near(found[1], key, 1e-3)


def test_only_the_tokens_that_changed_move() -> None:
    """In another gauge, three tokens in a hundred attend differently: they move far, and the others hardly."""
    rng = np.random.default_rng(5)
    query, key = make_head(2, n=1000)
    changed = query.copy()
    moved = rng.permutation(1000)[:30]
    changed[moved] += rng.normal(size=(30, 16)) * query.std()
    tuned = regauged(changed, key)
    found_query, found_key = align(query, key, *tuned).apply(*tuned)
    distance = np.linalg.norm(found_query - query, axis=1)
    still = np.setdiff1d(np.arange(1000), moved)
    assert distance[moved].min() > 10 * distance[still].max()
    assert_near(found_key, key, 0.01)


def test_nearer_than_without() -> None:
    """A tuned head that changed a little and was turned a little lies nearer after alignment than it was captured."""
    rng = np.random.default_rng(6)
    query, key = make_head(3)
    matrix = np.eye(16) + 0.1 * rng.normal(size=(16, 16))
    tuned = (query + 0.02 * rng.normal(size=query.shape)) @ np.linalg.inv(matrix).T, key @ matrix
    found = align(query, key, *tuned).apply(*tuned)
    for after, before, wanted in zip(found, tuned, (query, key), strict=True):
        assert np.linalg.norm(after - wanted) < 0.2 * np.linalg.norm(before - wanted)


def test_rank_deficient_heads_lose_what_no_product_sees() -> None:
    query, key = make_head(0)
    key = make_head(1, rank=5)[1]
    tuned = regauged(query, key)
    after_query, after_key = align(query, key, *tuned).apply(*tuned)
    np.testing.assert_allclose(attention(after_query, after_key), attention(*tuned), atol=1e-8, rtol=0)
    assert_near(after_key, key, 1e-6)  # queries see all that keys are made of
    centred = key - key.mean(axis=0)
    np.testing.assert_allclose(after_query @ centred.T, query @ centred.T, atol=1e-6)
    assert np.linalg.matrix_rank(after_query, tol=1e-6) == 5


@pytest.mark.parametrize(("base_rank", "tuned_rank"), [(16, 4), (4, 16), (4, 9), (9, 4)])
def test_attention_is_kept_where_ranks_differ(base_rank: int, tuned_rank: int) -> None:
    base, tuned = make_head(0, rank=base_rank), make_head(1, rank=tuned_rank)
    after = align(*base, *tuned).apply(*tuned)
    np.testing.assert_allclose(attention(*after), attention(*tuned), atol=1e-8, rtol=0)


@pytest.mark.parametrize("n", [1, 5])
def test_fewer_tokens_than_directions(n: int) -> None:
    base, tuned = make_head(0, n=n), make_head(1, n=n)
    after = align(*base, *tuned).apply(*tuned)
    np.testing.assert_allclose(attention(*after), attention(*tuned), atol=1e-8, rtol=0)


def test_a_head_without_any_attention_to_show() -> None:
    """Keys that are all one: attention is equal whatever the queries are, before and after, on either side."""
    query, key = make_head(0)
    flat = np.full_like(key, 1234.5678)
    for base, tuned in (((query, key), (query, flat)), ((query, flat), (query, key)), ((query, flat), (-query, flat))):
        after = align(*base, *tuned).apply(*tuned)
        assert all(np.isfinite(rows).all() for rows in after)
        np.testing.assert_allclose(attention(*after), attention(*tuned), atol=1e-8, rtol=0)


def test_heads_of_another_length() -> None:
    base, tuned = make_head(0, d=16), make_head(1, d=12)
    found = align(*base, *tuned)
    after = found.apply(*tuned)
    assert after[0].shape == (500, 16)
    np.testing.assert_allclose(attention(*after), attention(*tuned), atol=1e-8, rtol=0)
    narrow = make_head(1, d=24, rank=10)
    after = align(*base, *narrow).apply(*narrow)
    np.testing.assert_allclose(attention(*after), attention(*narrow), atol=1e-8, rtol=0)
    with pytest.raises(QKSpaceError, match="24 directions"):
        align(*base, *make_head(1, d=24))


def test_blocks_and_a_share_of_the_tokens_find_the_same_gauge(monkeypatch: pytest.MonkeyPatch) -> None:
    base, tuned = make_head(0, n=3000), make_head(1, n=3000)
    whole = align(*base, *tuned)
    monkeypatch.setattr(alignment, "BLOCK", 77)
    blocks = align(*base, *tuned)
    np.testing.assert_allclose(blocks.query_matrix, whole.query_matrix, rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(blocks.apply(*tuned)[1], whole.apply(*tuned)[1], rtol=1e-6, atol=1e-6)
    monkeypatch.setattr(alignment, "MAX_TOKENS", 1000)
    query, key = make_head(2, n=3000)
    other = regauged(query, key)
    found = align(query, key, *other).apply(*other)
    assert_near(found[0], query, 1e-6)
    assert_near(found[1], key, 1e-2)  # the mean key is that of a third of the tokens
    last = key.copy()
    last[-2] += 1.0  # a row that is not among the third
    assert not align(query, key, query, last).is_same


def test_round_trip_through_disk_is_exact(tmp_path: Path) -> None:
    base, tuned = make_head(0), make_head(1)
    for found in (align(*base, *tuned), align(*base, *base)):
        store.write_arrays(tmp_path / "L00H00.npz", found.arrays())
        again = Alignment.from_arrays(store.read_arrays(tmp_path / "L00H00.npz"))
        assert again.is_same is found.is_same
        for one, other in zip(found.apply(*tuned), again.apply(*tuned), strict=True):
            np.testing.assert_array_equal(one, other)
    with pytest.raises(QKSpaceError, match="key_offset"):
        Alignment.from_arrays({"query_matrix": np.eye(2), "key_matrix": np.eye(2), "is_same": np.asarray(False)})


def test_unusable_input_is_refused() -> None:
    base, tuned = make_head(0), make_head(1)
    with pytest.raises(QKSpaceError, match="same tokens"):
        align(*base, tuned[0][:-1], tuned[1][:-1])
    with pytest.raises(QKSpaceError, match="same tokens"):
        align(base[0][:0], base[1][:0], tuned[0][:0], tuned[1][:0])
    broken = tuned[0].copy()
    broken[3, 4] = np.nan
    with pytest.raises(QKSpaceError, match="finite"):
        align(*base, broken, tuned[1])
    with pytest.raises(QKSpaceError, match="length 16"):
        align(*base, *tuned).apply(tuned[0][:, :8], tuned[1][:, :8])
