"""Tests of `qkspace.position` and of all that makes attention of an index: planted heads whose attention is known by hand."""

from __future__ import annotations

import math
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from qkspace import fidelity, position, project, store, unfold
from qkspace.attention_view import attention_data
from qkspace.behaviour import attention_of_all, head_distances, sequence_scores
from qkspace.comparison.drift import PARTS, SequenceMarks, sequence_drift
from qkspace.comparison.noise import noise_floor
from qkspace.comparison.scan import _Side
from qkspace.console import SILENT
from qkspace.index import Index
from qkspace.maps import SampleRows, Wanted, make_maps, pool
from qkspace.normalise import normalise
from qkspace.position import LayerPosition, Layout, PositionPart, attend, attend_heads
from qkspace.schema import BoolArray, FloatArray, HeadSample, IntArray, LayerSpec, Positions, QKSpaceError

SLOPES = np.array([0.5, 0.25, 1 / 16])


def lower(n: int) -> BoolArray:
    return np.tril(np.ones((n, n), dtype=bool))


def everything(n: int) -> BoolArray:
    return np.ones((n, n), dtype=bool)


def alibi(n: int) -> NDArray[np.float32]:
    """ALiBi as BLOOM adds it: slope * j, with another constant in each row: (head, n, n)."""
    rows = np.random.default_rng(n).normal(size=(1, n, 1))
    return (SLOPES[:, None, None] * np.arange(n)[None, None, :] + rows).astype(np.float32)


def t5_bucket(offset: int, *, bidirectional: bool, n_buckets: int = 8, furthest: int = 12) -> int:
    """T5's bucket of key minus query, written out one offset at a time (Raffel et al. 2020)."""
    bucket = 0
    if bidirectional:
        n_buckets //= 2
        bucket, offset = (n_buckets if offset > 0 else 0), abs(offset)
    else:
        offset = max(-offset, 0)
    exact = n_buckets // 2
    if offset < exact:
        return bucket + offset
    far = exact + int(math.log(offset / exact) / math.log(furthest / exact) * (n_buckets - exact))
    return bucket + min(far, n_buckets - 1)


def t5(n: int, *, bidirectional: bool = True, n_heads: int = 3) -> NDArray[np.float64]:
    table = np.random.default_rng(5).normal(size=(n_heads, 8))
    buckets = np.array([[t5_bucket(j - i, bidirectional=bidirectional) for j in range(n)] for i in range(n)])
    return table[:, buckets]


def row_centred(values: FloatArray) -> FloatArray:
    return np.asarray(values - values.max(axis=-1, keepdims=True))


# ---------------------------------------------------------------------------------------------- which form it has


def test_alibi_is_a_table_of_offsets_whatever_is_added_to_its_rows() -> None:
    kind, table = position.form_of([alibi(6), alibi(19)], [lower(6), lower(19)])
    assert kind == "offset" and table is not None and table.shape == (3, 37)
    for head, slope in enumerate(SLOPES):
        added = LayerPosition(kind, table).head(head).of(11)
        assert added is not None
        expected = [[-slope * (i - j) if j <= i else 0 for j in range(11)] for i in range(11)]
        np.testing.assert_allclose(added, expected, atol=1e-5)


@pytest.mark.parametrize("bidirectional", [True, False])
def test_buckets_of_t5_are_a_table_of_offsets_beyond_their_limit_too(bidirectional: bool) -> None:
    """20 tokens reach beyond the furthest bucket (12): what is there is one value."""
    mask = everything if bidirectional else lower
    whole = [t5(n, bidirectional=bidirectional) for n in (7, 20)]
    kind, table = position.form_of([torch.from_numpy(values) for values in whole], [mask(7), mask(20)])
    assert kind == "offset" and table is not None
    added = LayerPosition(kind, table).of(20)
    assert added is not None and added.base is not None  # a view: a table serves sequences without a copy
    expected = whole[1] - whole[1][:, range(20), range(20)][:, :, None]
    np.testing.assert_allclose(np.where(mask(20), added - expected, 0), 0, atol=1e-6)
    np.testing.assert_array_equal(LayerPosition(kind, table).of(7), added[:, :7, :7])


def test_a_grid_is_told_from_what_each_sequence_has_of_its_own() -> None:
    rng = np.random.default_rng(0)
    grid = rng.normal(size=(2, 9, 9))
    same = [grid + rng.normal(size=(2, 9, 1)), grid[:, :6, :6], grid]
    masks = [everything(9), everything(6), everything(9)]
    kind, table = position.form_of(same, masks)
    assert kind == "grid" and table is not None and table.shape == grid.shape
    added = LayerPosition(kind, table).of(6)
    assert added is not None
    np.testing.assert_allclose(row_centred(added), row_centred(grid[:, :6, :6]), atol=1e-6)
    other = [*same[:2], grid + 1e-2 * rng.normal(size=grid.shape)]
    assert position.form_of(other, masks) == ("sequence", None)
    assert position.form_of(same[:1], masks[:1]) == ("sequence", None)  # one sequence says nothing of others


def test_constants_of_rows_are_nothing() -> None:
    rng = np.random.default_rng(1)
    added = [rng.normal(size=(2, n, 1)) * 100 + np.zeros((2, n, n)) for n in (4, 8)]
    assert position.form_of(added, [lower(4), lower(8)]) == (None, None)
    lowest = np.finfo(np.float32).min  # what a model adds where nobody may look
    masked = [np.where(lower(n), values, lowest) for n, values in zip((4, 8), added, strict=True)]
    assert position.form_of(masked, [lower(4), lower(8)]) == (None, None)


def test_what_is_not_allowed_is_not_looked_at() -> None:
    lowest = np.finfo(np.float32).min
    kind, table = position.form_of([np.where(lower(9), alibi(9), lowest)], [lower(9)])
    assert kind == "offset" and table is not None and np.abs(table).max() < 10


# ---------------------------------------------------------------------------------------------- attention


def by_hand(
    query: FloatArray, key: FloatArray, spec: LayerSpec, mask: BoolArray, bias: FloatArray, sink: float | None
) -> FloatArray:
    """Attention one number at a time."""
    out = np.zeros((len(query), len(key)))
    for i in range(len(query)):
        weight = {}
        for j in np.flatnonzero(mask[i] & (bias[i] > -np.inf)):
            logit = spec.scale * sum(float(a) * float(b) for a, b in zip(query[i], key[j], strict=True))
            logit = logit if spec.softcap is None else spec.softcap * math.tanh(logit / spec.softcap)
            weight[j] = math.exp(logit + float(bias[i, j]))
        total = sum(weight.values()) + (0 if sink is None else math.exp(sink))
        for j, each in weight.items():
            out[i, j] = each / total
    return out


N = 7


def planted_layer(kind: str) -> tuple[LayerSpec, LayerPosition | None, int | None]:
    """A layer of 4 heads on 2 keys, with what each kind adds; the source ends before token 3 where it crosses."""
    rng = np.random.default_rng(2)
    plain = LayerSpec("planted", 4, 2, 5, 0.9, causal=kind in ("offset", "everything"))
    if kind == "softcap":
        return replace(plain, softcap=1.5), None, None
    if kind == "sink":
        return replace(plain, has_sink=True), LayerPosition(sink=rng.normal(size=4) + 1), None
    if kind == "crosses":
        return replace(plain, crosses=True), None, 3
    if kind == "offset":
        table = rng.normal(size=(4, 2 * 11 - 1)).astype(np.float32)
        return replace(plain, position="offset"), LayerPosition("offset", table), None
    if kind == "grid":
        return replace(plain, position="grid"), LayerPosition("grid", rng.normal(size=(1, N, N))), None
    added = rng.normal(size=(4, N * N)).astype(np.float16)
    added[:, rng.random(N * N) < 0.3] = -np.inf
    added[:, :N] = -np.inf  # the first token asks nothing
    part = LayerPosition("sequence", added, position.pair_starts(np.array([N])), rng.normal(size=4))
    softcap = 1.5 if kind == "everything" else None
    return replace(plain, position="sequence", has_sink=True, softcap=softcap), part, None


KINDS = ("softcap", "sink", "crosses", "offset", "grid", "sequence", "everything")


@pytest.mark.parametrize("kind", KINDS)
def test_attention_is_what_a_computation_by_hand_gives(kind: str) -> None:
    spec, part, n_source = planted_layer(kind)
    rng = np.random.default_rng(3)
    query, key = rng.normal(size=(4, N, 5)), rng.normal(size=(2, N, 5))
    at = np.array([0, 3, 6])
    rows = attend_heads(query[:, at], key, spec, part, at=at, n_source=n_source, number=0)
    mask = spec.allowed(N, n_source)
    for head in range(4):
        own = None if part is None else part.head(head)
        added = None if own is None else own.of(N, 0)
        bias = np.zeros((N, N)) if added is None else np.asarray(added, dtype=float)
        sink = None if own is None else own.sink
        expected = by_hand(query[head], key[head // 2], spec, mask, bias, sink)
        found = attend(query[head], key[head // 2], spec, own, n_source=n_source, number=0)
        np.testing.assert_allclose(found, expected, atol=1e-9)
        np.testing.assert_allclose(rows[head], expected[at], atol=1e-6)
        total = found.sum(axis=1)
        asks = (mask & (bias > -np.inf)).any(axis=1)
        assert (total[~asks] == 0).all()
        assert (total[asks] < 1).all() if sink is not None else np.allclose(total[asks], 1)


def test_alibi_alone_is_a_softmax_of_minus_slope_times_distance() -> None:
    _, table = position.form_of([alibi(10)], [lower(10)])
    spec = LayerSpec("planted", 3, 3, 2, 1.0, causal=True, position="offset")
    found = attend(np.zeros((10, 2)), np.ones((10, 2)), spec, LayerPosition("offset", table).head(1))
    expected = np.array([[2.0 ** (-0.25 * (i - j) / math.log(2)) * (j <= i) for j in range(10)] for i in range(10)])
    np.testing.assert_allclose(found, expected / expected.sum(axis=1, keepdims=True), atol=1e-6)


def test_a_layer_with_more_than_a_product_is_not_computed_without_it() -> None:
    spec = LayerSpec("model.layers.0", 1, 1, 2, 1.0, causal=True, position="offset")
    vectors = np.zeros((4, 2))
    with pytest.raises(QKSpaceError, match=r"model\.layers\.0.*more than query . key"):
        attend(vectors, vectors, spec)
    with pytest.raises(QKSpaceError, match="needs bias of each"):
        HeadSample(vectors, vectors, np.array([0, 4]), np.ones(4, dtype=bool), spec)
    part = PositionPart("offset", np.zeros(2 * 3 - 1))
    with pytest.raises(QKSpaceError, match="up to 3 tokens; got one of 4"):
        attend(vectors, vectors, spec, part)
    with pytest.raises(QKSpaceError, match="how many tokens are of the source"):
        attend(vectors, vectors, LayerSpec("cross", 1, 1, 2, 1.0, causal=False, crosses=True))


# ---------------------------------------------------------------------------------------------- on disk


def test_what_is_written_is_what_is_read(tmp_path: Path) -> None:
    rng = np.random.default_rng(4)
    lengths = np.array([3, 5, 2])
    table, sink = rng.normal(size=(2, 9)), rng.normal(size=2)
    position.write(tmp_path, 0, bias=table, sink=sink)
    position.write(tmp_path, 1, sink=sink)
    starts = position.pair_starts(lengths)
    added = [rng.normal(size=(2, n, n)) for n in lengths]
    masks = [lower(n) for n in lengths]
    with_diagonal = [mask & (rng.random(mask.shape) < 0.7) | np.eye(len(mask), dtype=bool) for mask in masks]
    for first, last in ((2, 3), (0, 2)):  # units in any order, each a run of whole sequences
        file = position.pair_file(tmp_path, 2, 2, lengths)
        block = [position.as_pairs(torch.from_numpy(added[s]), with_diagonal[s]) for s in range(first, last)]
        file.write(int(starts[first]), np.concatenate(block, axis=1))
        file.close()
    plain = LayerSpec("planted", 2, 2, 4, 1.0, causal=True)
    assert position.read(tmp_path, 0, plain) is None
    found = position.read(tmp_path, 0, replace(plain, position="offset", has_sink=True))
    assert found is not None and found.bias is not None and found.sink is not None
    np.testing.assert_array_equal(found.bias, table.astype(np.float32))
    only = position.read(tmp_path, 1, replace(plain, has_sink=True))
    assert only is not None and only.of(3) is None and only.head(1).sink == pytest.approx(sink[1])
    stored = position.read(tmp_path, 2, replace(plain, position="sequence"), lengths)
    assert stored is not None and isinstance(stored.bias, np.memmap)
    for s, n in enumerate(lengths):
        values = stored.of(int(n), s)
        assert values is not None and np.shares_memory(values, stored.bias)
        np.testing.assert_array_equal(values > -np.inf, np.stack([with_diagonal[s]] * 2))
        expected = row_centred(np.where(with_diagonal[s], added[s], -np.inf))
        np.testing.assert_allclose(values, expected, atol=2e-3, rtol=1e-3)
    with pytest.raises(QKSpaceError, match="L03"):
        position.read(tmp_path, 3, replace(plain, position="grid"))
    with pytest.raises(QKSpaceError, match="lacks bias"):
        position.read(tmp_path, 1, replace(plain, position="grid", has_sink=True))


# ---------------------------------------------------------------------------------------------- a planted head


def with_places(
    query: FloatArray, key: FloatArray, lengths: IntArray, spec: LayerSpec, bias: tuple[FloatArray, ...] | None = None
) -> HeadSample:
    """A head whose content logit is -|query - key|^2 of places (token, dims), in dims + 2 dimensions."""
    ones, norm = np.ones((len(query), 1)), np.sum(key**2, axis=1, keepdims=True)
    vectors = np.hstack([2 * query, ones]), np.hstack([key, -norm])
    starts = np.concatenate([[0], np.cumsum(lengths)])
    content = np.ones(len(query), dtype=bool)
    return HeadSample(*(v.astype(np.float32) for v in vectors), starts, content, spec, bias)


def half_by_position(seed: int = 0, n_sequences: int = 60, form: str = "alibi") -> tuple[HeadSample, Positions]:
    """A head whose attention is decided by content and position in like measure, and its content map."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(6, 16, n_sequences)
    places = rng.normal(size=(2, int(lengths.sum()), 2))
    if form == "alibi":
        offset = np.arange(-15, 16)
        part = PositionPart("offset", -0.35 * np.abs(offset).astype(np.float32))
    else:
        part = PositionPart("offset", 2.5 * np.random.default_rng(9).normal(size=31).astype(np.float32))
    spec = LayerSpec("planted", 1, 1, 3, 1.0, causal=False, position="offset")
    bias = tuple(part.of(int(n)) for n in lengths)
    return with_places(places[0], places[1], lengths, spec, bias), Positions(*places)  # type: ignore[arg-type]


def without_part(sample: HeadSample) -> HeadSample:
    """The same vectors as if position added nothing."""
    return replace(sample, bias=None, layer=replace(sample.layer, position=None))


def test_a_change_of_gauge_leaves_attention_with_a_position_part_as_it_is() -> None:
    sample, _ = half_by_position()
    gauge = normalise(sample, dims=2)
    assert gauge.matrix_name == "balanced" or gauge.translation_name != "none"
    pairs = zip(fidelity.attention(sample), fidelity.attention(gauge.apply_to(sample)), strict=True)
    for before, after in pairs:
        np.testing.assert_allclose(after, before, atol=1e-4)


@pytest.mark.parametrize("method", ["auto", "sphere", "attentionviz"])
@pytest.mark.parametrize("what", ["cap", "sink"])
def test_a_translation_of_the_keys_is_seen_by_no_cap_and_no_sink(what: str, method: Any) -> None:
    sample, _ = half_by_position()
    if what == "cap":
        sample = replace(sample, layer=replace(sample.layer, softcap=2.0))
    else:
        sample = replace(sample, sink=np.full(60, 0.4), layer=replace(sample.layer, has_sink=True))
    gauge = normalise(sample, dims=2, method=method)
    assert np.linalg.norm(gauge.translation) > 1
    changed, own = gauge.apply_to(sample), fidelity.attention(sample)
    for before, after in zip(own, fidelity.attention(changed), strict=True):
        np.testing.assert_allclose(after, before, atol=1e-4)
    lengths = np.diff(sample.starts)
    vectors = [torch.from_numpy(array)[None].float() for array in (changed.query, changed.key)]
    for batch in unfold._batches([changed], *vectors):  # what a map is fitted to
        for place, index in enumerate(batch.index):
            s = int(np.searchsorted(sample.starts, int(index[0]), side="right")) - 1
            n = int(lengths[s])
            np.testing.assert_allclose(batch.attention[0, place, :n, :n].numpy(), own[s], atol=1e-4)


def test_scores_are_made_of_the_models_own_attention() -> None:
    sample, _ = half_by_position()
    sample = replace(sample, sink=np.full(60, 0.4), layer=replace(sample.layer, has_sink=True, softcap=2.0))
    assert sample.bias is not None
    for s, found in enumerate(fidelity.attention(sample)):
        rows = slice(sample.starts[s], sample.starts[s + 1])
        bias = np.asarray(sample.bias[s])
        expected = by_hand(sample.query[rows], sample.key[rows], sample.layer, everything(len(bias)), bias, 0.4)
        np.testing.assert_allclose(found, expected, atol=1e-9)
    pairs = fidelity.gather_pairs(sample)
    assert (np.abs(pairs.content) <= 2).all() and np.abs(pairs.product).max() > 2
    distance = np.linalg.norm(sample.query[pairs.query_token] - sample.key[pairs.key_token], axis=1)
    np.testing.assert_allclose(fidelity.full_distance(pairs, sample), distance, atol=1e-3)  # from the product alone


@pytest.mark.parametrize("form", ["alibi", "table"])
def test_a_perfect_map_of_the_content_loses_nothing_where_position_is_known(form: str) -> None:
    """The map cannot hold what position adds, and is not asked to; recall asks for the model's own attention still."""
    sample, places = half_by_position(form=form)
    apart = [
        0.5 * np.abs(own - alone).sum(axis=1)
        for own, alone in zip(fidelity.attention(sample), fidelity.attention(without_part(sample)), strict=True)
    ]
    assert np.concatenate(apart).mean() > 0.25  # as much as position decides
    found = fidelity.score(sample, places)
    assert found.attention_kl < 1e-6 and found.beta == pytest.approx(1, abs=1e-2)
    assert found.weighted_correlation < -0.94
    assert found.recall1 < 0.6 < fidelity.score(without_part(sample), places).recall1 == 1
    pairs = fidelity.gather_pairs(sample)
    unknowing = replace(pairs, content=pairs.logit)
    lost, _ = fidelity.attention_kl(unknowing, fidelity.pair_distance(pairs, places))
    assert lost[:, 0].mean() > 0.2


def test_a_sink_takes_its_share_before_the_map_is_judged() -> None:
    sample, places = half_by_position()
    with_sink = replace(sample, sink=np.full(60, -0.5), layer=replace(sample.layer, has_sink=True))
    pairs = fidelity.gather_pairs(with_sink)
    assert pairs.row_attention is not None and 0.2 < pairs.row_attention.mean() < 0.9
    found, plain = fidelity.score(with_sink, places), fidelity.score(sample, places)
    assert found.attention_kl < 1e-6 and found.recall1 == plain.recall1 and found.spearman == plain.spearman
    worse = Positions(places.query[::-1].copy(), places.key)
    lost = [
        fidelity.attention_kl(fidelity.gather_pairs(each), fidelity.pair_distance(pairs, worse))[0][:, 0].mean()
        for each in (with_sink, sample)
    ]
    assert 0 < lost[0] < lost[1]  # a row counts by what it attends to


@pytest.mark.parametrize("form", ["alibi", "table"])
def test_unfold_finds_the_content_better_when_it_is_told_what_position_adds(
    form: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    fit, (held_out, _) = half_by_position(0, 80, form)[0], half_by_position(1, 60, form)
    gradients = unfold._gradients
    content = []
    for told in (True, False):
        if not told:
            monkeypatch.setattr(unfold, "_gradients", lambda q, k, batch: gradients(q, k, replace(batch, bias=None)))
        placed = project.fit("unfold", fit, dims=2, seed=0).transform(held_out.query, held_out.key)
        content.append(fidelity.score(without_part(held_out), placed))
    assert content[0].recall1 > 0.98 > content[1].recall1 + 0.03
    assert content[0].attention_kl < 1e-3 < content[1].attention_kl / 5


def test_unfold_descends_the_loss_with_position_cap_and_sink() -> None:
    """Of a map that is the attention already the gradient is 0."""
    sample, places = half_by_position(n_sequences=5)
    vectors = [torch.from_numpy(array)[None].double() for array in (sample.query, sample.key)]
    spots = [torch.from_numpy(array)[None] for array in (places.query, places.key)]
    for one in (sample, replace(sample, sink=np.zeros(5), layer=replace(sample.layer, has_sink=True))):
        for batch in unfold._batches([one], *vectors):
            assert batch.bias is not None and batch.bias.abs().max() > 1
            for gradient in unfold._gradients(spots[0][:, batch.index], spots[1][:, batch.index], batch):
                assert gradient.abs().max() < 1e-6
            off = unfold._gradients(spots[0][:, batch.index] * 2, spots[1][:, batch.index], batch)
            assert off[0].abs().max() > 1e-3


# ---------------------------------------------------------------------------------------------- two sequences


def crossing(seed: int, n_sequences: int = 40, dims: int = 2) -> tuple[HeadSample, IntArray, IntArray]:
    """A head that reads another sequence: each target token sits on the key of a source token; which, and the lengths."""
    rng = np.random.default_rng(seed)
    n_source, n_target = rng.integers(4, 9, n_sequences), rng.integers(3, 7, n_sequences)
    lengths = n_source + n_target
    spec = LayerSpec("cross", 1, 1, dims + 2, 1.0, causal=False, crosses=True)
    query, key = (np.full((int(lengths.sum()), dims), 0.0) for _ in range(2))
    which = np.full(len(query), -1)
    start = 0
    for source, target in zip(n_source, n_target, strict=True):
        key[start : start + source] = 4 * rng.normal(size=(source, dims))
        chosen = rng.integers(0, source, target)
        query[start + source : start + source + target] = key[start + chosen]
        which[start + source : start + source + target] = start + chosen
        start += source + target
    starts = np.concatenate([[0], np.cumsum(lengths)])
    ones, norm = np.ones((len(query), 1)), np.sum(key**2, axis=1, keepdims=True)
    vectors = [np.hstack([2 * query, ones, 0 * ones]), np.hstack([key, -norm, 0 * ones])]
    for side, absent in zip(vectors, (which < 0, which >= 0), strict=True):
        side[absent] = 0  # as an index holds them
    content = np.ones(len(query), dtype=bool)
    sample = HeadSample(*(v.astype(np.float32) for v in vectors), starts, content, spec, n_source=n_source)
    return sample, lengths, which


def test_a_head_that_reads_another_sequence_is_scored_on_what_it_reads() -> None:
    sample, _, which = crossing(0)
    assert sample.is_query.sum() == (which >= 0).sum() and (sample.is_key == (which < 0)).all()
    query, key = sample.query[:, :2] / 2, sample.key[:, :2].copy()
    query[~sample.is_query], key[~sample.is_key] = np.nan, np.nan  # as a map holds them
    found = fidelity.score(sample, Positions(query, key))
    assert found.recall1 == found.recall1_content == 1
    assert found.n_queries == sample.is_query.sum() and found.n_sequences == 40
    assert found.attention_kl < 1e-6 and math.isfinite(found.trustworthiness)
    astray = Positions(query + 50, key)
    assert fidelity.score(sample, astray).recall1 < 0.6
    query[sample.is_query.argmax()] = np.nan
    with pytest.raises(QKSpaceError, match="must be finite"):
        fidelity.score(sample, Positions(query, key))


@pytest.mark.parametrize("method", ["pca", "unfold", "tsne", "umap"])
def test_what_absent_tokens_hold_changes_no_map(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unfold, "STEPS", 150)
    fit, held_out = crossing(0)[0], crossing(1)[0]
    noisy = fit.changed(
        np.where(fit.is_query[:, None], fit.query, np.float32(37)),
        np.where(fit.is_key[:, None], fit.key, np.float32(-9)),
    )
    placed = []
    for sample in (fit, noisy):
        gauge = normalise(sample, dims=2)
        fitted = project.fit(method, gauge.apply_to(sample), dims=2, seed=0)
        there = gauge.apply_to(held_out)
        placed.append((fitted.transform(there.queries, there.keys), there, fitted))
    np.testing.assert_allclose(placed[0][0].query, placed[1][0].query, atol=1e-5)
    np.testing.assert_allclose(placed[0][0].key, placed[1][0].key, atol=1e-5)
    _, there, fitted = placed[0]
    found = fidelity.score(there, fitted.transform(there.query, there.key))
    assert found.recall1 > (0.9 if method in ("pca", "unfold") else 0.6)


# ---------------------------------------------------------------------------------------------- samples of an index


def test_a_sample_has_what_belongs_to_its_sequences() -> None:
    """Sequences 2 and 0 of three, of 4, 2 and 3 tokens, in that order."""
    layout = Layout(np.array([4, 2, 3]), np.array([1, 1, 2]))
    first = np.array([6, 0])
    rows = SampleRows.of(first, np.array([3, 4]), np.zeros(7, dtype=bool))
    vectors = np.zeros((2, 7, 3))
    spec = LayerSpec("planted", 1, 1, 3, 1.0, causal=False, position="sequence")
    starts = position.pair_starts(layout.lengths)
    part = PositionPart("sequence", np.arange(int(starts[-1])), starts, sink=0.25)
    sample = rows.sample(*vectors, replace(spec, has_sink=True), part, layout)
    assert sample.bias is not None and sample.sink is not None
    np.testing.assert_array_equal(sample.bias[0], np.arange(20, 29).reshape(3, 3))
    np.testing.assert_array_equal(sample.bias[1], np.arange(16).reshape(4, 4))
    np.testing.assert_array_equal(sample.sink, [0.25, 0.25])
    crossing_rows = rows.sample(*vectors, replace(spec, position=None, crosses=True), None, layout)
    np.testing.assert_array_equal(crossing_rows.n_source, [2, 1])
    other = rows.take(np.array([1])).sample(
        *vectors[:, :4], replace(spec, has_sink=True), replace(part, sink=9.0), layout
    )
    pooled = pool([sample, other])
    assert pooled.bias is not None and pooled.sink is not None
    assert [len(bias) for bias in pooled.bias] == [3, 4, 4]
    np.testing.assert_array_equal(pooled.sink, [0.25, 9, 0.25])


def test_the_noise_floor_takes_in_what_position_adds() -> None:
    """A head that position alone decides does not feel how its vectors are stored."""
    rng = np.random.default_rng(6)
    query, key = (rng.normal(size=(1, 40, 8)).astype(np.float32) for _ in range(2))
    spec = LayerSpec("planted", 1, 1, 8, 1.0, causal=True)
    starts = np.array([0, 25, 40])
    sharp = LayerPosition("offset", -40 * np.abs(np.arange(-24, 25, dtype=np.float32))[None])
    plain = noise_floor(query, key, spec, starts, 0)
    decided = noise_floor(query, key, replace(spec, position="offset"), starts, 0, position=sharp)
    assert decided[0] < 1e-3 * plain[0]


# ---------------------------------------------------------------------------------------------- an index


def planted_index(root: Path, spec: LayerSpec, lengths: list[int], **more: NDArray[np.int64]) -> Index:
    """An index of one layer with vectors drawn at random; more: columns of sequences.parquet."""
    rng = np.random.default_rng(7)
    n = sum(lengths)
    query, key = rng.normal(size=(spec.n_heads, n, spec.d_head)), rng.normal(size=(spec.n_kv_heads, n, spec.d_head))
    for name, array in (("query", query), ("key", key), ("value_norm", np.ones((spec.n_kv_heads, n)))):
        store.write_array(root / name / "L00.npy", array.astype(np.float32))
    place = np.concatenate([np.arange(length) for length in lengths])
    tokens = {
        "sequence": np.repeat(np.arange(len(lengths)), lengths),
        "position": place,
        "text": [f"t{p}" for p in place],
    }
    store.write_table(root / "tokens.parquet", {**tokens, "is_special": place < 0, "word": place})
    sequences = {"sequence": np.arange(len(lengths)), "text": ["text"] * len(lengths), "n_tokens": np.array(lengths)}
    store.write_table(root / "sequences.parquet", {**sequences, **more})
    manifest = {"format": store.FORMAT, "format_version": store.FORMAT_VERSION, "layers": [asdict(spec)], "check": {}}
    manifest |= {"corpus": {"n_tokens_stored": n}, "model": {"name": "planted"}, "made_from": {"name": "planted"}}
    store.write_json(root / store.MANIFEST, {**manifest, "maps": [], "files": {}})
    return Index(root)


def test_an_index_says_the_models_own_attention(tmp_path: Path) -> None:
    """With a mask of each sequence's own, as a model may have it, and sinks."""
    lengths = [5, 3, 6]
    spec = LayerSpec("planted", 2, 1, 4, 0.8, causal=False, position="sequence", has_sink=True, softcap=3.0)
    rng = np.random.default_rng(8)
    masks = [np.eye(n, dtype=bool) | (rng.random((n, n)) < 0.5) for n in lengths]
    added = [rng.normal(size=(2, n, n)) for n in lengths]
    file = position.pair_file(tmp_path, 0, 2, np.array(lengths))
    file.write(0, np.concatenate([position.as_pairs(a, m) for a, m in zip(added, masks, strict=True)], axis=1))
    file.close()
    position.write(tmp_path, 0, sink=np.array([0.3, -1.0]))
    index = planted_index(tmp_path, spec, lengths)
    for s, n in enumerate(lengths):
        np.testing.assert_array_equal(index.allowed(0, s), masks[s])
        together = attention_of_all(index, int(index.row_starts[s]), n, np.arange(n))
        for h in range(2):
            head = index.head(0, h)
            vectors = head.query[index.rows(s)], head.key[index.rows(s)]
            bias = row_centred(np.where(masks[s], added[s][h], -np.inf))
            expected = by_hand(*vectors, spec, masks[s], bias, [0.3, -1.0][h])
            np.testing.assert_allclose(head.attention(s), expected, atol=2e-3)  # what position adds is in float16
            np.testing.assert_allclose(together[h], head.attention(s), atol=1e-6)
    distance = head_distances(index)
    assert 0 < distance[0, 1] < math.log(2) and distance[0, 0] == distance[1, 1] == 0
    shares = sequence_scores(index, 0, 0)
    assert shares["attention_to_self"].between(0, 1).all()


def test_maps_of_a_layer_that_crosses_have_no_places_for_who_does_not_take_part(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(unfold, "STEPS", 50)
    rng = np.random.default_rng(9)
    n_source, n_target = rng.integers(3, 8, 30), rng.integers(2, 7, 30)
    lengths = n_source + n_target
    spec = LayerSpec("cross", 2, 2, 4, 1.0, causal=False, crosses=True)
    index = planted_index(tmp_path, spec, lengths.tolist(), n_source=n_source)
    is_key = np.concatenate([np.arange(n) < source for n, source in zip(lengths, n_source, strict=True)])
    attention = index.head(0, 1).attention(4)
    assert not attention[: n_source[4]].any() and not attention[:, n_source[4] :].any()
    np.testing.assert_allclose(attention[n_source[4] :].sum(axis=1), 1, atol=1e-6)
    for sequence in (0, 4):
        mask, source = index.allowed(0, sequence), n_source[sequence]
        assert mask[source:, :source].all() and mask.sum() == source * n_target[sequence]
        assert attention_data(index, sequence)["nSource"] == source
    wanted = Wanted((("pca", 2), ("unfold", 2), ("tsne", 2), ("joint-pca", 2)), "auto", 0)
    parts = []
    for chosen in (np.arange(20), np.arange(20, 30)):
        first, sizes = index.row_starts[chosen], lengths[chosen]
        parts.append(SampleRows.of(first, sizes, np.zeros(int(sizes.sum()), dtype=bool)))
    make_maps(tmp_path, index.layers, wanted, parts[0], parts[1], n_jobs=1, console=SILENT)
    for method, dims in wanted.maps:
        placed = store.read_array(index.map_path(method, dims, 0, 1, "npy"))
        np.testing.assert_array_equal(np.isnan(placed[0]).all(axis=1), is_key)
        np.testing.assert_array_equal(np.isnan(placed[1]).all(axis=1), ~is_key)
        scores = store.read_arrays(index.map_path(method, dims, 0, 1, "npz"))
        assert scores["scores.n_queries"] == (~is_key[parts[1].rows]).sum()
        assert 0 <= scores["scores.recall1"] <= 1 and scores["scores.attention_kl"] >= 0


def test_two_checkpoints_are_compared_by_all_that_their_attention_is_made_of(tmp_path: Path) -> None:
    """Heads picked in another order, of a layer with tables of offsets and sinks."""
    spec = LayerSpec("planted", 4, 2, 3, 0.7, causal=True, position="offset", has_sink=True)
    rng = np.random.default_rng(10)
    position.write(tmp_path, 0, bias=rng.normal(size=(4, 13)), sink=rng.normal(size=4))
    index = planted_index(tmp_path, spec, [4, 7, 3])
    heads = np.array([(0, 2), (0, 0), (0, 3)])
    for s in range(3):
        found = _Side(index, heads).attention(index.rows(s), np.array([2, 0]))
        for row, head in zip(found, (3, 2), strict=True):
            np.testing.assert_allclose(row, index.head(0, head).attention(s), atol=1e-6)
        assert (found.sum(axis=2) < 1).all()


def test_what_goes_to_a_sink_counts_in_a_comparison_and_who_does_not_ask_does_not() -> None:
    base, tuned = np.zeros((2, 1, 4, 4), dtype=np.float32)
    base[0, 2:, 0] = 1.0  # tokens 2 and 3 ask; in the tuned checkpoint 3 turns to the sink
    tuned[0, 2, 0] = 1.0
    whole = position.with_sink(base), position.with_sink(tuned)
    for side in whole:
        side[:, :2, 4] = 0  # the others ask nothing
    marks = SequenceMarks(np.zeros(4, dtype=bool), np.ones(4, dtype=bool), False, np.array([False, False, True, True]))
    norms = np.ones((1, 5), dtype=np.float32)
    found = sequence_drift(*whole, norms, norms, marks)
    np.testing.assert_allclose(found.divergence, [[0, 0, 0, math.log(2)]], atol=1e-6)
    sums = dict(zip(PARTS, found.sums[0], strict=True))
    assert sums["queries"] == sums["content_queries"] == 2
    assert sums["js"] == pytest.approx(math.log(2)) and sums["attention_to_sink_tuned"] == 1


def test_a_sequence_that_no_index_holds_has_its_part_as_the_model_made_it() -> None:
    rng = np.random.default_rng(11)
    added, mask = torch.randn(2, 5, 5), lower(5)
    spec = LayerSpec("planted", 2, 1, 3, 1.0, causal=True, position="sequence")
    query, key = rng.normal(size=(2, 5, 3)), rng.normal(size=(5, 3))
    part = position.of_one_sequence(added, mask)
    for head in range(2):
        found = attend(query[head], key, spec, part.head(head))
        expected = by_hand(query[head], key, spec, mask, added[head].numpy().astype(float), None)
        np.testing.assert_allclose(found, expected, atol=1e-6)
