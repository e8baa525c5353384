"""Tests of `qkspace.extract`: what is stored and counted is the model's own, however the corpus was cut and padded."""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import Eager, MakeCheckpoint
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from transformers import AutoModel

from qkspace import capture, gather
from qkspace import extract as extract_module
from qkspace.extract import Keep, LayerRows, Unit, UnitResult, bytes_per_token, extract, make_batches, plan_units
from qkspace.feed import TextFeed, Tokens
from qkspace.gather import SUMMED, pack_strongest, unpack_strongest
from qkspace.model import Checkpoint, load
from qkspace.schema import LayerSpec, QKSpaceError
from qkspace.selfcheck import Check, check

STATISTICS = SUMMED[:-1]  # position_share is nan in these families; see test_position_share

FAMILIES = ["bert", "llama", "mistral"]  # an encoder, grouped keys, a sliding window


@dataclass(frozen=True)
class Case:
    """A loaded model, its layers, and a small corpus of sequences of unlike length."""

    folder: Path
    checkpoint: Checkpoint
    check: Check
    tokens: Tokens

    @property
    def layers(self) -> tuple[LayerSpec, ...]:
        """How each layer attends."""
        return self.check.layers

    def ids(self, sequence: int) -> list[int]:
        """Token ids of a sequence."""
        return self.tokens.token_ids[self.rows(sequence)].tolist()

    def rows(self, sequence: int) -> slice:
        """Rows of a sequence."""
        return slice(int(self.tokens.starts[sequence]), int(self.tokens.starts[sequence + 1]))


def make_case(folder: Path, texts: Sequence[str], stored: Sequence[bool] | None = None) -> Case:
    checkpoint = load(str(folder), device="cpu")
    encoded = [checkpoint.tokenizer(text, return_special_tokens_mask=True) for text in texts]
    starts = np.concatenate([[0], np.cumsum([len(e["input_ids"]) for e in encoded])])
    tokens = Tokens(
        token_ids=np.concatenate([e["input_ids"] for e in encoded]),
        is_special=np.concatenate([e["special_tokens_mask"] for e in encoded]).astype(bool),
        starts=starts,
        is_stored=np.ones(len(texts), dtype=bool) if stored is None else np.asarray(stored),
    )
    longest = np.argsort(tokens.lengths)[-1:]
    model = checkpoint.model
    batch, last = (TextFeed(tokens, 0).batch(s, model.device) for s in (np.arange(len(texts)), longest))
    return Case(folder, checkpoint, check(model, batch, last), tokens)


@pytest.fixture
def texts(sentences: list[str]) -> list[str]:
    """Real sentences of 3 to about 60 tokens; the long ones stand between the short ones."""
    long = " ".join(sentences[:2])
    return [sentences[5], "Seal it.", long, sentences[9], "No", " ".join(sentences[2:4]), sentences[12]]


@pytest.fixture(params=FAMILIES)
def case(request: pytest.FixtureRequest, make_checkpoint: MakeCheckpoint, texts: list[str]) -> Case:
    return make_case(make_checkpoint(request.param), texts)


def run(case: Case, unit: Unit | None = None, **options: Any) -> UnitResult:
    n = len(case.tokens.lengths)
    whole = Unit(0, 0, n, 0, int(case.tokens.lengths[case.tokens.is_stored].sum()))
    (result,) = extract_units(case, [unit or whole], **options)
    return result


def extract_units(
    case: Case,
    units: list[Unit],
    *,
    pad_id: int = 0,
    batch_tokens: int = 4096,
    top_k: int = 5,
    storage: str = "float32",
    **keep: Any,
) -> list[UnitResult]:
    feed = TextFeed(case.tokens, pad_id)
    chosen = Keep(top_k, storage, **keep)
    found = []
    for result in extract(
        case.checkpoint.model, case.check, case.tokens, units, feed, chosen, batch_tokens=batch_tokens
    ):
        found.append(copy.deepcopy(result))  # whose memory is used again
    return found


def test_units_side_by_side_are_what_each_gives_alone_and_in_order(case: Case) -> None:
    """Threads share the weights: the result of a unit is the same to the bit, whichever batch ended first."""
    lengths = case.tokens.lengths * case.tokens.is_stored
    cuts = [0, 2, 3, len(lengths)]
    units = [
        Unit(i, first, last, int(lengths[:first].sum()), int(lengths[first:last].sum()))
        for i, (first, last) in enumerate(itertools.pairwise(cuts))
    ]
    each = [run(case, unit, batch_tokens=32) for unit in units]
    together = extract_units(case, units, batch_tokens=32)
    for alone, found in zip(each, together, strict=True):
        for one, other in zip(found.sums, alone.sums, strict=True):
            np.testing.assert_array_equal(one, other)
        for rows, expected in zip(found.rows, alone.rows, strict=True):
            np.testing.assert_array_equal(rows.query, expected.query)
            np.testing.assert_array_equal(rows.top_key, expected.top_key)


def test_a_failing_batch_ends_the_rest_and_leaves_model_and_threads_as_they_were(case: Case) -> None:
    threads, implementation = torch.get_num_threads(), case.checkpoint.model.config._attn_implementation
    layers = tuple(replace(layer, causal=not layer.causal) for layer in case.layers)
    wrong = replace(case, check=replace(case.check, layers=layers))
    units = [Unit(i, i, i + 1, 0, int(case.tokens.lengths[i])) for i in range(3)]
    with pytest.raises(QKSpaceError, match="not the one seen at the check"):
        extract_units(wrong, units, batch_tokens=32)
    assert torch.get_num_threads() == threads
    assert case.checkpoint.model.config._attn_implementation == implementation
    assert len(run(case).rows) == len(case.layers)


def assert_same_rows(found: LayerRows, expected: LayerRows, atol: float = 1e-5) -> None:
    """Compare rows up to rounding; top keys only where their weight is apart from its neighbours'."""
    np.testing.assert_allclose(found.query, expected.query, atol=atol)
    np.testing.assert_allclose(found.key, expected.key, atol=atol)
    np.testing.assert_allclose(found.value_norm, expected.value_norm, rtol=2e-3)
    np.testing.assert_allclose(found.top_attention, expected.top_attention, atol=1e-3)
    gaps = np.abs(np.diff(expected.top_attention.astype(np.float64), axis=2, append=0.0))
    apart = np.minimum(gaps, np.concatenate([np.ones_like(gaps[..., :1]), gaps[..., :-1]], axis=2)) > 1e-3
    assert apart.any()
    np.testing.assert_array_equal(found.top_key[apart], expected.top_key[apart])


# ---------------------------------------------------------------------------------------------- batches and padding


def test_the_size_of_a_batch_changes_nothing_beyond_rounding(case: Case) -> None:
    small, large = run(case, batch_tokens=64), run(case, batch_tokens=4096)
    assert len(make_batches(case.tokens.lengths, 64, 4)) > len(make_batches(case.tokens.lengths, 4096, 4)) == 1
    for found, expected in zip(small.rows, large.rows, strict=True):
        assert_same_rows(found, expected)
    for sums, others in zip(small.sums, large.sums, strict=True):
        np.testing.assert_allclose(sums, others, rtol=1e-4, atol=1e-3)


def test_the_same_unit_gives_the_same_bytes(case: Case) -> None:
    first, second = run(case), run(case)
    for found, expected in zip(first.rows, second.rows, strict=True):
        for name in ("query", "key", "value_norm", "top_key", "top_attention"):
            np.testing.assert_array_equal(getattr(found, name), getattr(expected, name))
    np.testing.assert_array_equal(first.sums, second.sums)


def test_padding_never_leaks_into_a_sequence(case: Case) -> None:
    """A sequence alone gives what it gives among much longer ones, whatever token id pads it."""
    alone = case.tokens.lengths.argmin()
    rows = case.rows(int(alone))
    only = Unit(0, int(alone), int(alone) + 1, rows.start, rows.stop - rows.start)
    expected = run(case, only)
    for pad_id in (0, 7):
        together = run(case, pad_id=pad_id)
        for found, other in zip(together.rows, expected.rows, strict=True):
            part = LayerRows(
                *(getattr(found, name)[:, rows] for name in ("query", "key", "value_norm", "top_key", "top_attention"))
            )
            assert_same_rows(part, other)


def test_a_corpus_cut_in_units_gives_the_same_rows_and_sums(case: Case) -> None:
    whole = run(case)
    last = len(case.tokens.lengths)
    row = [int(case.tokens.starts[i]) for i in (0, 3, last)]
    parts = [
        run(case, Unit(0, 0, 3, 0, row[1])),
        run(case, Unit(1, 3, last, row[1], row[2] - row[1])),
    ]
    for i, expected in enumerate(whole.rows):
        joined = LayerRows(
            *(
                np.concatenate([getattr(part.rows[i], name) for part in parts], axis=1)
                for name in ("query", "key", "value_norm", "top_key", "top_attention")
            )
        )
        assert_same_rows(joined, expected)
        np.testing.assert_allclose(sum(part.sums[i] for part in parts), whole.sums[i], rtol=1e-4, atol=1e-3)
    assert sum(part.n_tokens for part in parts) == whole.n_tokens == len(case.tokens.token_ids)


lengths_of_sequences = st.lists(st.integers(1, 300), min_size=1, max_size=60).map(np.array)


@given(lengths_of_sequences, st.integers(1, 5000))
def test_every_sequence_is_in_one_batch_that_keeps_its_bounds(lengths: NDArray[np.int64], batch_tokens: int) -> None:
    batches = make_batches(lengths, batch_tokens, n_heads=4)
    assert sorted(np.concatenate(batches).tolist()) == list(range(len(lengths)))
    for batch in batches:
        padded = len(batch) * int(lengths[batch].max())
        assert len(batch) == 1 or padded <= batch_tokens


def test_the_attention_of_a_batch_is_bounded_too() -> None:
    lengths = np.full(50, 2000)
    sizes = [len(batch) for batch in make_batches(lengths, 10**6, n_heads=32)]
    assert sum(sizes) == 50
    assert all(size == 1 or 4 * 32 * size * 2000**2 <= capture.CHUNK_BYTES for size in sizes)


@given(lengths_of_sequences, st.data(), st.integers(1, 700))
def test_units_cover_every_sequence_and_every_stored_row_once(
    lengths: NDArray[np.int64], data: st.DataObject, limit: int
) -> None:
    stored = np.array(data.draw(st.lists(st.booleans(), min_size=len(lengths), max_size=len(lengths))))
    starts = np.concatenate([[0], np.cumsum(lengths)])
    tokens = Tokens(np.zeros(starts[-1], int), np.zeros(starts[-1], bool), starts, stored)
    layers = (LayerSpec("attention", 4, 2, 8, 1.0, causal=True),)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(extract_module, "UNIT_TOKENS", limit)
        units = plan_units(tokens, layers, Keep(4, "float16"))
    assert [unit.number for unit in units] == list(range(len(units)))
    assert [s for unit in units for s in range(unit.first, unit.last)] == list(range(len(lengths)))
    assert [r for u in units for r in range(u.row, u.row + u.n_rows)] == list(range(int(lengths[stored].sum())))
    for unit in units:
        assert unit.last > unit.first
        assert unit.n_rows == lengths[unit.first : unit.last][stored[unit.first : unit.last]].sum()
        assert unit.last - unit.first == 1 or starts[unit.last] - starts[unit.first] <= limit


def test_a_stored_token_takes_as_many_bytes_as_is_said(case: Case) -> None:
    for storage in ("float16", "float32"):
        result = run(case, storage=storage)
        arrays = [getattr(rows, name) for rows in result.rows for name in LayerRows.__dataclass_fields__]
        n_bytes = sum(array.nbytes for array in arrays if array is not None)
        assert n_bytes == len(case.tokens.token_ids) * bytes_per_token(case.layers, 5, storage)


# ---------------------------------------------------------------------------------------------- the model's own numbers


def test_value_norms_are_those_of_the_models_own_value_projection(minilm: Path, texts: list[str]) -> None:
    case = make_case(minilm, texts[:3])
    result = run(case)
    model = AutoModel.from_pretrained(minilm).eval()
    values: list[torch.Tensor] = []
    for layer in model.encoder.layer:
        layer.attention.self.value.register_forward_hook(lambda module, given, out: values.append(out))
    for s in range(3):
        values.clear()
        with torch.no_grad():
            model(input_ids=torch.tensor([case.ids(s)]))
        for rows, value in zip(result.rows, values, strict=True):
            norms = value.reshape(value.shape[1], 12, 32).norm(dim=-1).T.numpy()  # (head, token)
            np.testing.assert_allclose(rows.value_norm[:, case.rows(s)], norms, rtol=1e-3)


@pytest.mark.parametrize("model", [*FAMILIES, "minilm", "stories"])
def test_top_keys_are_the_sorted_attention_of_the_model(
    model: str, request: pytest.FixtureRequest, make_checkpoint: MakeCheckpoint, texts: list[str], eager: Eager
) -> None:
    folder = make_checkpoint(model) if model in FAMILIES else request.getfixturevalue(model)
    case = make_case(folder, texts[:5])
    top_k = 6
    result = run(case, top_k=top_k, storage="float16")
    for s in range(5):
        rows = case.rows(s)
        n = rows.stop - rows.start
        for stored, own in zip(result.rows, eager(folder, case.ids(s)), strict=True):
            weight, key = stored.top_attention[:, rows].astype(np.float64), stored.top_key[:, rows]
            k = min(top_k, n)
            order = np.argsort(-own, axis=2, kind="stable")[:, :, :k]
            expected = np.take_along_axis(own, order, axis=2)
            np.testing.assert_allclose(weight[:, :, :k], expected, atol=5e-4)
            there = key[:, :, :k] >= 0
            position = np.where(there, key[:, :, :k] - rows.start, 0)
            assert position.min() >= 0
            assert position.max() < n
            np.testing.assert_allclose(np.take_along_axis(own, position, axis=2)[there], expected[there], atol=5e-4)
            assert (weight[:, :, :k][~there] == 0).all()  # -1 exactly where no weight is left, as behind a causal mask
            assert there[expected > 1e-6].all()
            assert (key[:, :, k:] == -1).all()  # a sequence shorter than top_k has no more keys
            assert (weight[:, :, k:] == 0).all()


def statistics_by_hand(
    attention: NDArray[np.float32], is_special: Sequence[bool], layer: LayerSpec
) -> dict[str, float]:
    """Sum every statistic but the value norm over the queries of one head, in plain Python."""
    n = len(attention)
    sums = dict.fromkeys(STATISTICS, 0.0)
    for i in range(n):
        allowed = [
            j for j in range(n) if (not layer.causal or j <= i) and (layer.window is None or abs(i - j) < layer.window)
        ]
        sums["entropy_uniform"] += math.log(len(allowed))
        sums["attention_max"] += max(float(a) for a in attention[i])
        for j in range(n):
            weight = float(attention[i, j])
            sums["entropy"] -= weight * math.log(weight) if weight > 0 else 0.0
            sums["attention_distance"] += weight * abs(i - j)
            sums["attention_to_special"] += weight * is_special[j]
            sums["attention_to_first"] += weight * (j == 0)
            sums["attention_to_previous"] += weight * (j == i - 1)
            sums["attention_to_next"] += weight * (j == i + 1)
            sums["attention_to_self"] += weight * (j == i)
    return sums


@pytest.mark.parametrize("model", [*FAMILIES, "minilm"])
def test_statistics_are_those_counted_by_hand(
    model: str, request: pytest.FixtureRequest, make_checkpoint: MakeCheckpoint, texts: list[str], eager: Eager
) -> None:
    folder = make_checkpoint(model) if model in FAMILIES else request.getfixturevalue(model)
    case = make_case(folder, texts[:4])
    result = run(case)
    assert result.n_tokens == len(case.tokens.token_ids)
    expected = [[dict.fromkeys(STATISTICS, 0.0) for _ in range(layer.n_heads)] for layer in case.layers]
    for s in range(4):
        special = case.tokens.is_special[case.rows(s)].tolist()
        for i, (layer, own) in enumerate(zip(case.layers, eager(folder, case.ids(s)), strict=True)):
            for head in range(layer.n_heads):
                for name, value in statistics_by_hand(own[head], special, layer).items():
                    expected[i][head][name] += value
    for i, layer in enumerate(case.layers):
        for head in range(layer.n_heads):
            norms = result.rows[i].value_norm[head // (layer.n_heads // layer.n_kv_heads)].astype(np.float64)
            expected[i][head]["value_norm"] = float(norms.sum())
            for name in STATISTICS:
                found = result.sums[i][head, STATISTICS.index(name)]
                assert found == pytest.approx(expected[i][head][name], rel=1e-3, abs=1e-3), (i, head, name)


def test_no_key_gets_more_than_the_largest_weight_and_no_head_is_flatter_than_flat(case: Case) -> None:
    for sums in run(case).sums:
        mean = dict(zip(SUMMED, sums.T / len(case.tokens.token_ids), strict=True))
        assert (mean["entropy"] <= mean["entropy_uniform"] + 1e-6).all()
        assert (mean["attention_max"] <= 1 + 1e-6).all()
        for name in ("first", "previous", "next", "self"):  # classes of one key each
            assert (mean[f"attention_to_{name}"] <= mean["attention_max"] + 1e-6).all()


@pytest.mark.parametrize("keep", [[True, False, True, False, False, True, False], [False] * 7])
def test_statistics_run_over_all_that_is_read_though_a_part_is_stored(keep: list[bool], case: Case) -> None:
    whole = run(case)
    part_case = replace(case, tokens=replace(case.tokens, is_stored=np.array(keep)))
    part = run(part_case)
    np.testing.assert_array_equal(np.array(part.sums), np.array(whole.sums))
    assert part.n_tokens == whole.n_tokens
    kept = np.repeat(keep, case.tokens.lengths)
    new_row = np.cumsum(kept) - 1
    for found, expected in zip(part.rows, whole.rows, strict=True):
        np.testing.assert_array_equal(found.query, expected.query[:, kept])
        np.testing.assert_array_equal(found.key, expected.key[:, kept])
        np.testing.assert_array_equal(found.top_attention, expected.top_attention[:, kept])
        before = expected.top_key[:, kept]
        np.testing.assert_array_equal(found.top_key, np.where(before < 0, -1, new_row[before]))


# ---------------------------------------------------------------------------------------------- storage and refusals


def test_float16_is_the_float32_rounded_once(case: Case) -> None:
    for half, full in zip(run(case, storage="float16").rows, run(case, storage="float32").rows, strict=True):
        assert (half.query.dtype, full.query.dtype) == (np.float16, np.float32)
        np.testing.assert_array_equal(half.query, full.query.astype(np.float16))
        np.testing.assert_array_equal(half.key, full.key.astype(np.float16))


def test_a_query_too_large_for_float16_is_refused_and_float32_holds_it(
    make_checkpoint: MakeCheckpoint, texts: list[str]
) -> None:
    case = make_case(make_checkpoint("bert", scale_query=1e5), texts)
    with pytest.raises(QKSpaceError, match=r"encoder\.layer\.\d.*query.*65,504.*--storage float32"):
        run(case, storage="float16")
    assert max(np.abs(rows.query).max() for rows in run(case, storage="float32").rows) > 65_504


def test_a_value_too_large_for_float16_does_not_stop_a_build_in_float32(
    make_checkpoint: MakeCheckpoint, texts: list[str]
) -> None:
    # The message says to use float32, so that must help for value norms too.
    case = make_case(make_checkpoint("bert", scale_value=1e5), texts)
    norms = [rows.value_norm for rows in run(case, storage="float32").rows]
    assert all(np.isfinite(norm).all() for norm in norms)
    assert max(norm.max() for norm in norms) > 65_504


def test_layers_may_lie_on_other_devices_than_the_input(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    """As where accelerate spreads a model; "meta" stands for another GPU."""
    together, begin = run(case), gather.Gatherer.begin

    def elsewhere(self: Any, rows: Any, sequences: Any, device: Any) -> None:
        begin(self, rows, sequences, torch.device("meta"))

    monkeypatch.setattr(gather.Gatherer, "begin", elsewhere)
    apart = run(case)
    for one, other in zip(together.rows, apart.rows, strict=True):
        assert_same_rows(other, one)
    for one, other in zip(together.sums, apart.sums, strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_mask_unlike_the_one_at_the_check_is_refused(make_checkpoint: MakeCheckpoint, texts: list[str]) -> None:
    case = make_case(make_checkpoint("mistral"), texts)
    layers = tuple(replace(layer, window=None) for layer in case.layers)
    wrong = replace(case, check=replace(case.check, layers=layers))
    with pytest.raises(QKSpaceError, match=r"layers\.0.*mask over \d+ tokens is not the one seen at the check"):
        run(wrong)


def test_a_single_token_is_a_sequence(make_checkpoint: MakeCheckpoint) -> None:
    case = make_case(make_checkpoint("gpt2"), ["", "a"])  # <s> alone, and with one byte
    result = run(case)
    for rows, sums in zip(result.rows, result.sums, strict=True):
        np.testing.assert_array_equal(rows.top_attention[:, 0, 0], 1)
        np.testing.assert_array_equal(rows.top_key[:, 0], [[0, -1, -1, -1, -1]] * 4)
        np.testing.assert_allclose(sums[:, STATISTICS.index("entropy_uniform")], math.log(2))


# ---------------------------------------------------------------------------------------------- long texts


@given(n=st.integers(1024, 1500), k=st.integers(1, 9), seed=st.integers(0, 99), levels=st.sampled_from([2, 40, 10**6]))
def test_the_strongest_of_a_long_row_are_those_of_a_full_sort(n: int, k: int, seed: int, levels: int) -> None:
    weights = torch.from_numpy(np.random.default_rng(seed).integers(0, levels, size=(2, 3, n)).astype(np.float32))
    weights /= weights.sum(dim=-1, keepdim=True)
    low = (1 << n.bit_length()) - 1
    found, position = unpack_strongest(pack_strongest(weights, k, low), low)
    rounded = (weights.view(torch.int32) & ~low).view(torch.float32)
    order = np.lexsort([np.broadcast_to(np.arange(n), weights.shape), -rounded.numpy()], axis=-1)[..., :k]
    np.testing.assert_array_equal(position.numpy(), order)
    np.testing.assert_array_equal(found.numpy(), np.take_along_axis(rounded.numpy(), order, axis=-1))


def test_statistics_and_rows_in_pieces_are_those_of_the_whole(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = run(case)
    monkeypatch.setattr(capture, "CHUNK_BYTES", 4 * 4 * 64 * 5)  # a few query tokens at a time
    pieces = run(case)
    for one, other in zip(whole.rows, pieces.rows, strict=True):
        assert_same_rows(other, one)
    for one, other in zip(whole.sums, pieces.sums, strict=True):
        np.testing.assert_allclose(other[:, :-1], one[:, :-1], rtol=1e-4)
