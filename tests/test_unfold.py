"""Tests of `qkspace.unfold`: planted heads are found again, gradients are the loss's, and what must not matter does not."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import MakeCheckpoint
from numpy.typing import NDArray
from torch import Tensor

from qkspace import fidelity, normalise, project, unfold
from qkspace.extend import sample_rows
from qkspace.fidelity import Scores
from qkspace.pipeline import build
from qkspace.project import Projection
from qkspace.schema import FloatArray, HeadSample, LayerSpec, Positions

MASKS = [(False, None), (True, None), (True, 3), (False, 3)]
WIDTH = 16  # of the vectors of planted heads; no sequence is longer


def layer_of(d: int, *, causal: bool = True, window: int | None = None, scale: float = 1.0) -> LayerSpec:
    return LayerSpec("planted", 1, 1, d_head=d, scale=scale, causal=causal, window=window)


def in_sequences(n_sequences: int, rng: np.random.Generator) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Draw sequences of 4 to 15 tokens: where each begins, and the position of each token in its own."""
    lengths = rng.integers(4, WIDTH, n_sequences)
    starts = np.concatenate([[0], np.cumsum(lengths)])
    return starts, np.arange(starts[-1]) - np.repeat(starts[:-1], lengths)


def one_hot_head(kind: str, seed: int, *, n_sequences: int = 30, causal: bool = True) -> HeadSample:
    """Plant a head whose query is the one-hot key it looks for, times 8; a little noise on both.

    A match is e^8 times as heavy as anything else: attention is all but certain, where only one key matches.
    """
    rng = np.random.default_rng(seed)
    starts, position = in_sequences(n_sequences, rng)
    basis = np.eye(WIDTH)
    cluster = rng.integers(0, 2, len(position))
    word = 1 + rng.integers(0, 5, len(position))
    sought, found = {
        "previous": (np.maximum(position - 1, 0), position),
        "same": (position, position),
        "sink": (np.zeros_like(position), np.where(position == 0, 0, word)),
        "clusters": (cluster, cluster),
    }[kind]
    query, key = (rows + 0.05 * rng.normal(size=rows.shape) for rows in (8 * basis[sought], basis[found]))
    content = position > 0 if causal else np.ones(len(position), dtype=bool)
    return HeadSample(query.astype(np.float32), key.astype(np.float32), starts, content, layer_of(WIDTH, causal=causal))


def drawn_on_a_map(dims: int, seed: int, *, n_sequences: int = 30, causal: bool = True) -> HeadSample:
    """Plant a head that a linear map of `dims` shows without loss: its logit is -|z_query - z_key|^2 but for the row.

    Keys are (2 z, -|z|^2), queries (z, 1), and a matrix that is the same for every seed hides it.
    """
    rng = np.random.default_rng(seed)
    starts, position = in_sequences(n_sequences, rng)
    z_query, z_key = 2 * rng.normal(size=(2, len(position), dims))
    hidden = np.random.default_rng(99).normal(size=(dims + 1, dims + 1)) + 2 * np.eye(dims + 1)
    query = np.concatenate([z_query, np.ones((len(position), 1))], axis=1) @ np.linalg.inv(hidden).T
    key = np.concatenate([2 * z_key, -np.sum(z_key**2, axis=1, keepdims=True)], axis=1) @ hidden
    return HeadSample(query, key, starts, position > 0, layer_of(dims + 1, causal=causal))


def turning_head(seed: int, *, n_sequences: int = 30) -> HeadSample:
    """Plant a head that looks a quarter turn ahead on a circle: query (cos a, sin a) for key angle a + 90 degrees."""
    rng = np.random.default_rng(seed)
    starts, position = in_sequences(n_sequences, rng)
    query_angle, key_angle = rng.uniform(0, 2 * np.pi, (2, len(position)))
    query = 6 * np.stack([np.cos(query_angle), np.sin(query_angle)], axis=1)
    key = np.stack([np.sin(key_angle), -np.cos(key_angle)], axis=1)
    shifted = np.stack([np.cos(key_angle + 0.4), np.sin(key_angle + 0.4)], axis=1)  # something else to look at
    noise = np.zeros_like(shifted)
    return HeadSample(
        np.concatenate([query, noise], axis=1),
        np.concatenate([key, shifted], axis=1),
        starts,
        np.ones(len(position), dtype=bool),
        layer_of(4, causal=False),
    )


def random_heads(n: int, *, d: int = 8, causal: bool = True, window: int | None = None) -> list[HeadSample]:
    """Draw heads over the same sequences, some tokens of which are no content."""
    starts, position = in_sequences(20, np.random.default_rng(0))
    content = position > 0
    heads = []
    for seed in range(n):
        rng = np.random.default_rng(seed + 1)
        query, key = (rng.normal(size=(len(position), d)) @ rng.normal(size=(d, d)) / 2 for _ in range(2))
        layer = layer_of(d, causal=causal, window=window, scale=d**-0.5)
        heads.append(HeadSample(query.astype(np.float32), key.astype(np.float32), starts, content, layer))
    return heads


def scores_of(fitted: Projection, sample: HeadSample) -> Scores:
    return fidelity.score(sample, fitted.transform(sample.query, sample.key))


def squared_distances(places: Positions) -> FloatArray:
    """Return those of every query to every key, of whatever sequence: (query token, key token)."""
    squared: FloatArray = np.sum((places.query[:, None] - places.key[None]) ** 2, axis=2)
    return squared


def assert_same_state(one: Mapping[str, NDArray[Any]], other: Mapping[str, NDArray[Any]]) -> None:
    assert one.keys() == other.keys()
    for name, array in one.items():
        np.testing.assert_array_equal(array, other[name], err_msg=name)


# ---------------------------------------------------------------------------------------------- planted heads


@pytest.mark.parametrize("kind", ["previous", "same"])
@pytest.mark.parametrize("dims", [2, 3])
def test_a_head_of_positions_is_shown_on_sequences_that_were_not_fitted(kind: str, dims: int) -> None:
    fit, held_out = one_hot_head(kind, 0), one_hot_head(kind, 1)
    found, by_pca = (scores_of(project.fit(m, fit, dims=dims, seed=0), held_out) for m in ("unfold", "pca"))
    assert found.recall1 > 0.98
    assert found.recall1_content > 0.98
    assert found.attention_kl < 0.05
    assert found.attention_kl < 0.1 * by_pca.attention_kl
    assert found.beta == pytest.approx(1, abs=0.25)  # distances are logits as they are, in no unit of their own


def test_attention_that_goes_both_ways_is_shown_on_a_line_bent_in_two_dimensions() -> None:
    fit, held_out = (one_hot_head("same", seed, causal=False) for seed in (0, 1))
    found, by_pca = (scores_of(project.fit(m, fit, dims=2, seed=0), held_out) for m in ("unfold", "pca"))
    assert found.recall1 > 0.98
    assert found.attention_kl < 0.2 * by_pca.attention_kl


@pytest.mark.parametrize("causal", [True, False])
def test_a_sink_is_nearest_to_every_query(causal: bool) -> None:
    fit, held_out = (one_hot_head("sink", seed, causal=causal) for seed in (0, 1))
    fitted = project.fit("unfold", fit, dims=2, seed=0)
    found = scores_of(fitted, held_out)
    assert found.recall1 == 1
    assert found.attention_kl < 0.01
    places = fitted.transform(held_out.query, held_out.key)
    is_sink = np.isin(np.arange(len(held_out.query)), held_out.starts[:-1])
    squared = squared_distances(places)
    assert (squared[:, ~is_sink].min(axis=1) - squared[:, is_sink].max(axis=1)).min() > 2  # e^2 times less, anywhere


@pytest.mark.parametrize("causal", [True, False])
def test_a_query_is_nearer_to_all_keys_of_its_cluster_than_to_any_other(causal: bool) -> None:
    fit, held_out = (one_hot_head("clusters", seed, causal=causal) for seed in (0, 1))
    fitted = project.fit("unfold", fit, dims=2, seed=0)
    assert scores_of(fitted, held_out).attention_kl < 0.02
    places = fitted.transform(held_out.query, held_out.key)
    of_query, of_key = (rows[:, 0] > rows[:, 1] for rows in (held_out.query, held_out.key))
    squared = squared_distances(places)
    together = of_query[:, None] == of_key[None]
    farthest = np.where(together, squared, 0).max(axis=1)
    assert (farthest < np.where(together, np.inf, squared).min(axis=1)).all()


@pytest.mark.parametrize("hidden", [0, unfold.HIDDEN])
@pytest.mark.parametrize("dims", [1, 2])
def test_attention_that_is_a_map_is_found_again_once_it_is_normalised(dims: int, hidden: int) -> None:
    fit, held_out = (drawn_on_a_map(dims, seed) for seed in (0, 1))
    gauge = normalise.normalise(fit, dims=dims)
    fit, held_out = gauge.apply_to(fit), gauge.apply_to(held_out)
    state = unfold.fit_unfold([fit], dims, 0, hidden=hidden)[0]
    found = fidelity.score(held_out, unfold.place_unfold(state, held_out.query, held_out.key))
    assert found.attention_kl < 0.001
    assert found.recall1 > 0.99
    assert found.beta == pytest.approx(1, abs=0.05)


@pytest.mark.parametrize("dims", [1, 2])
def test_attention_that_is_a_map_is_found_again_in_a_skew_gauge(dims: int) -> None:
    fit, held_out = (drawn_on_a_map(dims, seed) for seed in (0, 1))
    found, by_pca = (scores_of(project.fit(m, fit, dims=dims, seed=0), held_out) for m in ("unfold", "pca"))
    assert found.attention_kl < 0.05 < 0.5 < by_pca.attention_kl
    assert found.recall1 > 0.9


def test_a_head_that_turns_is_turned_back_by_a_linear_map() -> None:
    """With keys on a circle about c, -|z_query - z_key|^2 is 2 |z_query - c| |z_key - c| cos but for the row: 6 cos here."""
    fit, held_out = turning_head(0), turning_head(1)
    state = unfold.fit_unfold([fit], 2, 0, hidden=0)[0]
    places = unfold.place_unfold(state, held_out.query, held_out.key)
    found = fidelity.score(held_out, places)
    assert found.attention_kl < 0.01
    assert found.recall1 > 0.98
    corners = np.concatenate([places.key, np.ones((len(places.key), 1))], axis=1)
    solution = np.linalg.lstsq(corners, np.sum(places.key**2, axis=1), rcond=None)[0]  # |z|^2 = 2 c.z + r^2 - |c|^2
    centre = solution[:2] / 2
    radius = np.sqrt(solution[2] + centre @ centre)
    np.testing.assert_allclose(np.linalg.norm(places.key - centre, axis=1), radius, rtol=0.1)
    np.testing.assert_allclose(np.linalg.norm(places.query - centre, axis=1) * radius, 3, rtol=0.1)


@pytest.mark.parametrize(("causal", "window"), MASKS)
def test_a_map_loses_less_than_principal_axes_on_what_it_was_fitted_to(causal: bool, window: int | None) -> None:
    sample = random_heads(1, causal=causal, window=window)[0]
    found, by_pca = (scores_of(project.fit(m, sample, dims=2, seed=0), sample) for m in ("unfold", "pca"))
    assert found.attention_kl < 0.5 * by_pca.attention_kl
    assert found.recall1 > by_pca.recall1


# ---------------------------------------------------------------------------------------------- the loss


def plain_attention(logit: Tensor) -> Tensor:
    return torch.exp(logit - logit.max()) / torch.exp(logit - logit.max()).sum()


def plain_loss(sample: HeadSample, query: Tensor, key: Tensor, sequences: list[int]) -> Tensor:
    """Return the loss of one head over some sequences, a query after another; query, key: places (token, dims)."""
    total, among_content = [], []
    vectors = [torch.from_numpy(array) for array in (sample.query, sample.key)]
    for s in sequences:
        tokens = range(int(sample.starts[s]), int(sample.starts[s + 1]))
        for i in tokens:
            allowed = [j for j in tokens if not (sample.layer.causal and j > i)]
            allowed = [j for j in allowed if sample.layer.window is None or abs(i - j) < sample.layer.window]
            content = [j for j in allowed if sample.is_content[j]] if sample.is_content[i] else []
            for keys, losses in ((allowed, total), (content, among_content)):
                if keys:
                    p = plain_attention(sample.layer.scale * torch.stack([vectors[0][i] @ vectors[1][j] for j in keys]))
                    q = plain_attention(torch.stack([-((query[i] - key[j]) ** 2).sum() for j in keys]))
                    losses.append((p * (p.log() - q.log())).sum())
    loss = torch.stack(total).mean()
    return loss + unfold.CONTENT_WEIGHT * torch.stack(among_content).mean() if among_content else loss


@pytest.mark.parametrize(("causal", "window"), MASKS)
def test_the_gradients_are_those_of_the_loss_as_it_is_written(
    causal: bool, window: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sequences of unlike length are padded together; the longest, in a batch of its own, has no content."""
    monkeypatch.setattr(unfold, "BATCH_TOKENS", 16)
    monkeypatch.setattr(unfold, "CONTENT_WEIGHT", 0.7)
    rng = np.random.default_rng(0)
    starts = np.cumsum([0, 3, 0, 12, 5, 1, 4, 2])
    n, d, dims = int(starts[-1]), 5, 2
    content = rng.random(n) < 0.7
    content[starts[3] - 12 : starts[3]] = False
    layer = layer_of(d, causal=causal, window=window, scale=0.8)
    heads = [HeadSample(*rng.normal(size=(2, n, d)), starts, content, layer) for _ in range(2)]
    vectors = [torch.from_numpy(np.stack([getattr(head, side) for head in heads])) for side in ("query", "key")]
    query, key = (torch.from_numpy(rng.normal(size=(2, n, dims))).requires_grad_() for _ in range(2))
    batches = unfold._batches(heads, *vectors)
    assert sorted(bool(batch.content.any()) for batch in batches)[:2] == [False, True]
    assert any(len(set(batch.allowed.any(dim=-1).sum(dim=-1).tolist())) > 1 for batch in batches)  # one is padded
    covered: list[int] = []
    for batch in batches:
        inside = batch.allowed.any(dim=-1)  # (sequence, token)
        sequences = [int(np.searchsorted(starts, int(first), side="right")) - 1 for first in batch.index[:, 0]]
        covered += sequences
        loss = torch.stack([plain_loss(head, query[h], key[h], sequences) for h, head in enumerate(heads)]).sum()
        expected = torch.autograd.grad(loss, [query, key])
        placed = [places.detach()[:, batch.index] for places in (query, key)]
        for gradient, right in zip(unfold._gradients(placed[0], placed[1], batch), expected, strict=True):
            assert gradient.dtype == torch.float64
            assert (gradient[:, ~inside] == 0).all()
            by_token = torch.zeros_like(right)
            by_token[:, batch.index[inside]] = gradient[:, inside]
            torch.testing.assert_close(by_token, right, rtol=1e-6, atol=1e-8)  # a weight is rounded to float32
    assert sorted(covered) == [0, 2, 3, 4, 5, 6]


def test_a_map_that_is_the_attention_already_has_no_gradient() -> None:
    sample = drawn_on_a_map(2, 0, n_sequences=6)
    rng = np.random.default_rng(0)  # the draws of the planted places, again
    in_sequences(6, rng)
    places = [torch.from_numpy(z)[None] for z in 2 * rng.normal(size=(2, len(sample.query), 2))]
    vectors = [torch.from_numpy(array)[None] for array in (sample.query, sample.key)]
    for batch in unfold._batches([sample], vectors[0], vectors[1]):
        for gradient in unfold._gradients(places[0][:, batch.index], places[1][:, batch.index], batch):
            assert gradient.abs().max() < 1e-12


# ---------------------------------------------------------------------------------------------- what must not matter


def test_the_same_seed_gives_the_same_map_and_another_seed_one_as_good() -> None:
    sample = random_heads(1)[0]
    one, again, other = (project.fit("unfold", sample, dims=2, seed=seed) for seed in (3, 3, 4))
    assert_same_state(one.state, again.state)
    assert (one.state["query_weight0"] != other.state["query_weight0"]).any()
    scores = [scores_of(fitted, sample) for fitted in (one, other)]
    assert scores[0].attention_kl == pytest.approx(scores[1].attention_kl, rel=0.2)


def test_a_fit_leaves_torch_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    """The seed is the map's alone: the state that others draw from is not moved, nor is the number of threads."""
    monkeypatch.setattr(unfold, "STEPS", 20)
    threads = torch.get_num_threads()
    sample = random_heads(1)[0]
    before = torch.get_rng_state()
    project.fit("unfold", sample, dims=2, seed=0)
    assert torch.get_num_threads() == threads
    assert torch.equal(torch.get_rng_state(), before)


def assert_same_maps(one: list[Projection], other: list[Projection], samples: list[HeadSample]) -> None:
    """Compare maps by where they place their samples; sums in another order may move the last digits."""
    for first, second, sample in zip(one, other, samples, strict=True):
        a, b = (fitted.transform(sample.query, sample.key) for fitted in (first, second))
        np.testing.assert_allclose(a.query, b.query, atol=0.05)
        np.testing.assert_allclose(a.key, b.key, atol=0.05)
        kls = [scores_of(fitted, sample).attention_kl for fitted in (first, second)]
        assert kls[0] == pytest.approx(kls[1], abs=2e-3)


def test_heads_fitted_together_are_those_fitted_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unfold, "STEPS", 100)
    samples = random_heads(2)
    assert len(list(unfold._groups(samples))) == 1
    together = project.fit_heads("unfold", samples, dims=2, seed=0)
    monkeypatch.setattr(unfold, "PAIR_BYTES", 1)
    assert [list(group) for group in unfold._groups(samples)] == [[sample] for sample in samples]
    assert_same_maps(project.fit_heads("unfold", samples, dims=2, seed=0), together, samples)


def test_groups_keep_to_their_bytes_and_to_the_order_of_heads(monkeypatch: pytest.MonkeyPatch) -> None:
    samples = random_heads(7, d=2)
    pairs = int(np.sum(np.diff(samples[0].starts) ** 2))
    monkeypatch.setattr(
        unfold, "PAIR_BYTES", 3 * 8 * pairs
    )  # two float32 a pair, for the attention and that of content
    groups = [list(group) for group in unfold._groups(samples)]
    assert [len(group) for group in groups] == [3, 3, 1]
    assert [sample for group in groups for sample in group] == samples


def test_the_precision_of_the_vectors_is_not_that_of_the_map(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unfold, "STEPS", 50)
    rounded = random_heads(1)[0]
    rounded = HeadSample(*(a.astype(np.float16) for a in (rounded.query, rounded.key)), *the_rest(rounded))
    states = []
    for precision in ("float16", "float32", "float64"):
        vectors = (array.astype(precision) for array in (rounded.query, rounded.key))
        states.append(project.fit("unfold", HeadSample(*vectors, *the_rest(rounded)), dims=2, seed=0).state)
    assert_same_state(states[0], states[1])
    assert_same_state(states[0], states[2])


def the_rest(sample: HeadSample) -> tuple[NDArray[Any], NDArray[Any], LayerSpec]:
    return sample.starts, sample.is_content, sample.layer


# ---------------------------------------------------------------------------------------------- placing


@pytest.fixture(scope="module")
def fitted() -> Projection:
    return project.fit("unfold", random_heads(1)[0], dims=3, seed=0)


def placed_by_torch(state: Mapping[str, FloatArray], sample: HeadSample) -> Positions:
    weights = {
        name: torch.from_numpy(np.asarray(array))[None, None] if array.ndim == 1 else torch.from_numpy(array)[None]
        for name, array in state.items()
        if name not in ("mean", "spread", "d_head")
    }
    standardised = {side: (getattr(sample, side) - state["mean"]) / state["spread"] for side in ("query", "key")}
    rows = {side: torch.from_numpy(x.astype(np.float32))[None, None] for side, x in standardised.items()}
    return Positions(*(unfold._place(weights, side, rows[side])[0, 0].numpy() for side in ("query", "key")))


@pytest.mark.parametrize("hidden", [0, unfold.HIDDEN])
def test_numpy_places_what_torch_fitted(hidden: int) -> None:
    sample = random_heads(1)[0]
    state = unfold.fit_unfold([sample], 2, 0, hidden=hidden)[0]
    ours, theirs = unfold.place_unfold(state, sample.query, sample.key), placed_by_torch(state, sample)
    np.testing.assert_allclose(ours.query, theirs.query, atol=1e-5)
    np.testing.assert_allclose(ours.key, theirs.key, atol=1e-5)


def test_without_a_network_a_map_is_linear() -> None:
    sample = random_heads(1)[0]
    state = unfold.fit_unfold([sample], 2, 0, hidden=0)[0]
    assert state.keys() == {"mean", "spread", "query_matrix", "key_matrix", "key_offset"}
    for side in ("query", "key"):
        a, b, c = (getattr(sample, side)[i : i + 20] for i in (0, 20, 40))
        at = [getattr(unfold.place_unfold(state, rows, rows), side) for rows in (a, b, c, a + b - c)]
        np.testing.assert_allclose(at[0] + at[1] - at[2], at[3], atol=1e-4)


def test_each_row_is_placed_alone(fitted: Projection) -> None:
    sample = random_heads(1)[0]
    whole = fitted.transform(sample.query, sample.key)
    assert whole.query.shape == whole.key.shape == (len(sample.query), 3)
    np.testing.assert_allclose(fitted.transform(query=sample.query[5:7]).query, whole.query[5:7], atol=1e-5)
    np.testing.assert_allclose(fitted.transform(key=sample.key[:1]).key, whole.key[:1], atol=1e-5)
    assert fitted.transform().query.shape == fitted.transform().key.shape == (0, 3)


def test_a_map_is_plain_arrays_that_come_back_from_disk(fitted: Projection, tmp_path: Path) -> None:
    d, hidden = 8, unfold.HIDDEN
    shapes = {
        "d_head": (),
        "mean": (d,),
        "spread": (d,),
        "query_matrix": (d, 3),
        "key_matrix": (d, 3),
        "key_offset": (3,),
    }
    for side in ("query", "key"):
        for layer, (n_in, n_out) in enumerate([(d, hidden), (hidden, hidden), (hidden, 3)]):
            shapes |= {f"{side}_weight{layer}": (n_in, n_out), f"{side}_bias{layer}": (n_out,)}
    assert {name: array.shape for name, array in fitted.state.items()} == shapes
    assert all(type(array) is np.ndarray and array.dtype.kind in "fi" for array in fitted.state.values())
    np.savez(tmp_path / "map.npz", **fitted.arrays(), allow_pickle=False)
    with np.load(tmp_path / "map.npz", allow_pickle=False) as stored:
        back = Projection.from_arrays(stored)
    assert (back.method, back.dims, back.seed) == ("unfold", 3, 0)
    assert_same_state(back.state, fitted.state)


# ---------------------------------------------------------------------------------------------- degenerate heads


def degenerate(kind: str) -> HeadSample:
    sample = random_heads(1)[0]
    query, key, starts, content, layer = sample.query, sample.key, *the_rest(sample)
    one = int(starts[1])
    constant, huge = np.where(np.arange(8) == 2, 0, 1), np.where(np.arange(8) == 2, 1e4, 1)
    one_token = HeadSample(query[:1], key[:1], np.array([0, 1]), content[:1], layer)
    one_sequence = HeadSample(query[:one], key[:one], np.array([0, one]), content[:one], layer)
    with_empty = np.insert(starts, [0, 3, len(starts)], [0, starts[3], starts[-1]])
    return {
        "constant keys": HeadSample(query, np.full_like(key, 3), starts, content, layer),
        "constant queries": HeadSample(np.full_like(query, -2), key, starts, content, layer),
        "all zero": HeadSample(0 * query, 0 * key, starts, content, layer),
        "one token": one_token,
        "one sequence": one_sequence,
        "nothing but itself": HeadSample(query, key, starts, content, layer_of(8, window=1)),
        "an empty sequence": HeadSample(query, key, with_empty, content, layer),
        "no content": HeadSample(query, key, starts, np.zeros_like(content), layer),
        "very sharp": HeadSample(1e4 * query, key, starts, content, layer),
        "a dimension that is constant": HeadSample(query * constant + 1, key * constant + 1, starts, content, layer),
        "a dimension that is huge": HeadSample(query * huge, key / huge, starts, content, layer),
    }[kind]


DEGENERATE = [
    "constant keys",
    "constant queries",
    "all zero",
    "one token",
    "one sequence",
    "nothing but itself",
    "an empty sequence",
    "no content",
    "very sharp",
    "a dimension that is constant",
    "a dimension that is huge",
]


@pytest.mark.parametrize("kind", DEGENERATE)
def test_a_degenerate_head_has_a_finite_map(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unfold, "STEPS", 100)
    sample = degenerate(kind)
    fitted = project.fit("unfold", sample, dims=2, seed=0)
    assert all(np.isfinite(array).all() for array in fitted.state.values())
    places = fitted.transform(sample.query, sample.key)
    assert np.isfinite(places.query).all()
    assert np.isfinite(places.key).all()
    found, by_pca = (scores_of(p, sample) for p in (fitted, project.fit("pca", sample, dims=2, seed=0)))
    if kind != "a dimension that is huge":  # which is for a normalisation to mend
        assert found.attention_kl <= by_pca.attention_kl + 1e-3
    if kind in ("constant keys", "all zero", "one token", "nothing but itself"):  # every allowed key is alike, or alone
        assert found.attention_kl == pytest.approx(0, abs=1e-6)


# ---------------------------------------------------------------------------------------------- grouped keys


def test_each_query_head_is_unfolded_with_the_keys_of_its_group(
    make_checkpoint: MakeCheckpoint, sentences: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Four heads of queries read two of keys: each map is that of its own queries and the shared keys."""
    monkeypatch.setattr(unfold, "STEPS", 100)
    corpus = tmp_path / "corpus.txt"
    corpus.write_text("\n".join(sentences[:16]) + "\n", encoding="utf-8")
    model = str(make_checkpoint("llama", num_hidden_layers=1))
    index = build(
        model, corpus, out=tmp_path / "index", methods=["unfold", "pca"], dims=[2], storage="float32", n_jobs=1
    )
    fit = sample_rows(index, "fit")
    layer = index.layers[0]
    assert (layer.n_heads, layer.n_kv_heads) == (4, 2)
    samples, kept = [], []
    for h in range(4):
        head = index.head(0, h)
        view = head.projection("unfold", 2)
        places = view.transform(head.query, head.key)
        np.testing.assert_allclose(places.query, view.query, atol=1e-4)
        np.testing.assert_allclose(places.key, view.key, atol=1e-4)
        captured = fit.sample(head.query[fit.rows], head.key[fit.rows], layer)
        samples.append(view.gauge.apply_to(captured))
        kept.append(view.fitted)
        by_pca = head.projection("pca", 2)
        kls = [scores_of(v.fitted, v.gauge.apply_to(captured)).attention_kl for v in (view, by_pca)]
        assert kls[0] < kls[1]
    again = [project.fit("unfold", sample, dims=2, seed=0) for sample in samples[1:3]]  # one of each group
    assert_same_maps(again, kept[1:3], samples[1:3])
