"""Tests of the self-check: it accepts what is the model's own attention, on both routes, and finds every planted error."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from conftest import MakeCheckpoint
from test_capture import DEBERTA, GEMMA, T5, padded, t5_encoder, tiny

from qkspace import capture, masks, observe, rotation, selfcheck
from qkspace.capture import forward, listening
from qkspace.model import load
from qkspace.position import attend, attend_heads
from qkspace.schema import QKSpaceError
from qkspace.selfcheck import check, survey

BATCH = padded([list(range(5, 19)), [7, 8, 9]])
LONG = padded([list(range(5, 35))])
PAIR = {**BATCH, "decoder_input_ids": torch.tensor([[0, 5, 6, 7, 8], [0, 9, 9, 7, 8]])}
MAMBA = {"hidden_size": 16, "num_hidden_layers": 1, "state_size": 4}
BLOOM = {"hidden_size": 32, "n_layer": 2, "n_head": 4}
OSS = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "intermediate_size": 48,
    "num_local_experts": 2,
    "num_experts_per_tok": 1,
    "sliding_window": 5,
}


def sinking() -> Any:
    model = tiny("gpt_oss", **OSS)
    with torch.no_grad():
        for layer in model.layers:
            layer.self_attn.sinks.normal_()
    return model


@pytest.mark.parametrize(
    ("make", "route", "form"),
    [
        (t5_encoder, "interface", ("offset", None, False)),
        (lambda: tiny("gemma2", **GEMMA), "interface", (None, 1.0, False)),
        (sinking, "interface", (None, None, True)),
        (lambda: tiny("bloom", **BLOOM), "inline", ("offset", None, False)),
        (lambda: tiny("deberta-v2", **DEBERTA), "inline", ("sequence", None, False)),
    ],
    ids=["T5 encoder", "Gemma 2 with soft cap", "gpt-oss with sinks", "BLOOM", "DeBERTa"],
)
def test_attention_beyond_the_product_is_described_and_rebuilt(
    make: Callable[[], Any], route: str, form: tuple[Any, ...]
) -> None:
    result = check(make(), BATCH, LONG)
    assert result.route == route
    assert max(result.captured_error, result.recomputed_error) <= result.tolerance == 1e-4
    assert {(layer.position, layer.softcap, layer.has_sink) for layer in result.layers} == {form}


@pytest.mark.parametrize(
    "make", [t5_encoder, sinking, lambda: tiny("gemma2", **GEMMA)], ids=["T5", "gpt-oss", "Gemma 2"]
)
def test_a_longer_text_is_rebuilt_from_what_the_check_stores(make: Callable[[], Any]) -> None:
    """The form is read off one batch; attention over other texts must follow from it, in numpy, as an index has it."""
    model = make()
    result = check(model, BATCH, LONG)
    other = padded([[(7 * i) % 50 + 3 for i in range(30)]])
    calls: list[Any] = []
    with listening(model, calls.append, route=result.route):
        forward(model, other)
    for call, layer, part in zip(calls, result.layers, result.positions, strict=True):
        query, key = call.query[0].numpy(), call.key[0].numpy()
        for head in range(layer.n_heads):
            own = call.attention[0, head].numpy()
            at = head // (layer.n_heads // layer.n_kv_heads)
            again = attend(query[head], key[at], layer, None if part is None else part.head(head))
            np.testing.assert_allclose(again, own, atol=1e-5)
        np.testing.assert_allclose(attend_heads(query, key, layer, part), call.attention[0].numpy(), atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize(
    "make",
    [
        lambda: tiny("bloom", **BLOOM),
        lambda: tiny("gptj", n_embd=32, n_layer=2, n_head=4, rotary_dim=4, n_positions=64),
        lambda: tiny("deberta-v2", **DEBERTA),
    ],
    ids=["BLOOM", "GPT-J", "DeBERTa"],
)
def test_half_precision_passes_inline_although_weights_are_reported_rounded(
    make: Callable[[], Any], dtype: Any
) -> None:
    """BLOOM and GPT-J take the softmax, and GPT-J queries and keys too, in float32, and report what they round after it."""
    found = check(make().to(dtype), BATCH, LONG)
    assert found.route == "inline" and found.against == "output_attentions"
    assert found.recomputed_error <= found.tolerance == observe.TOLERANCE[str(dtype)]


def test_what_is_added_over_a_long_text_is_held_for_one_layer_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of all layers together it would be more than attention itself, which is never held so."""
    describe, seen, alive = selfcheck._describe, [], []

    def watched(call: Any, long: Any, *rest: Any, **options: Any) -> Any:
        alive.append(sum(mask() is not None for mask in seen))
        seen.append(weakref.ref(long.mask))
        return describe(call, long, *rest, **options)

    monkeypatch.setattr(selfcheck, "_describe", watched)
    check(tiny("bloom", **{**BLOOM, "n_layer": 4}), BATCH, LONG)
    assert len(seen) == 4 and max(alive) <= 1


def test_the_three_attentions_of_an_encoder_decoder_are_told_apart() -> None:
    found = {result.part: result for result in survey(tiny("t5", **T5), PAIR)}
    assert set(found) == {"encoder", "decoder", "cross"}
    assert [layer.causal for layer in found["decoder"].layers] == [True, True]
    assert all(layer.crosses for layer in found["cross"].layers)
    assert not any(layer.causal or layer.crosses for layer in found["encoder"].layers)
    assert all(result.recomputed_error <= result.tolerance for result in found.values())


def test_a_part_must_be_chosen_where_there_are_several() -> None:
    model = tiny("t5", **T5)
    with pytest.raises(QKSpaceError, match=r"3 kinds of attention.*--attention encoder or decoder or cross"):
        check(model, PAIR, PAIR)
    with pytest.raises(QKSpaceError, match=r"no part 'crosss'. Its parts: encoder, decoder, cross"):
        selfcheck.choose(model, "crosss")  # before anything is read
    encoder = check(model, BATCH, LONG, part="encoder")
    assert encoder.runner == "encoder"
    assert [layer.position for layer in encoder.layers] == ["offset", "offset"]


def test_a_model_without_attention_is_refused_by_name() -> None:
    with pytest.raises(QKSpaceError, match=r"MambaModel has no attention"):
        check(tiny("mamba", **MAMBA), BATCH, LONG)


# ---------------------------------------------------------------------------------------------- planted errors


def spoilt(patch: pytest.MonkeyPatch, spoil: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    own = capture._Ear.tell
    patch.setattr(capture._Ear, "tell", lambda ear, module, **call: own(ear, module, **spoil(call)))


def wrong_scale(patch: pytest.MonkeyPatch) -> None:
    spoilt(patch, lambda call: {**call, "scale": call["scale"] * 1.1})


def swapped_heads(patch: pytest.MonkeyPatch) -> None:
    spoilt(patch, lambda call: {**call, "query": call["query"].flip(1)})


def forgotten_rotation(patch: pytest.MonkeyPatch) -> None:
    def plain(call: dict[str, Any]) -> dict[str, Any]:
        unrotated = call["before_rotation"]
        assert unrotated is not None
        return {**call, "query": unrotated[0], "key": unrotated[1]}

    own = capture.listening
    for module in (observe, selfcheck):
        patch.setattr(module, "listening", lambda *given, **options: own(*given, **{**options, "unrotated": True}))
    patch.setattr(observe, "ROUTES", ("interface",))
    spoilt(patch, plain)


def dropped_mask(patch: pytest.MonkeyPatch) -> None:
    spoilt(patch, lambda call: {**call, "mask": None})


@pytest.mark.parametrize("plant", [dropped_mask, wrong_scale, swapped_heads], ids=lambda plant: plant.__name__)
def test_planted_errors_are_found_on_the_interface(
    plant: Callable[[pytest.MonkeyPatch], None], make_checkpoint: MakeCheckpoint
) -> None:
    model = load(str(make_checkpoint("llama")), device="cpu").model
    check(model, BATCH, LONG)
    with pytest.MonkeyPatch.context() as patch:
        plant(patch)
        with pytest.raises(QKSpaceError, match=r"refused"):
            check(model, BATCH, LONG)
    check(model, BATCH, LONG)


def test_a_mask_that_vanishes_on_the_interface_is_found(make_checkpoint: MakeCheckpoint) -> None:
    """As it does where a name is registered without a mask: the route is given up, and the other one sees the truth."""
    own = capture._attend

    def attend_without(module: Any, query: Any, key: Any, value: Any, attention_mask: Any, **options: Any) -> Any:
        return own(module, query, key, value, None, **options)

    model = load(str(make_checkpoint("llama")), device="cpu").model
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(capture, "_attend", attend_without)
        patch.setattr(observe, "ROUTES", ("interface",))
        with pytest.raises(QKSpaceError, match=r"2 of the 2 attentions that it reports were not seen"):
            check(model, BATCH, LONG)
        patch.setattr(observe, "ROUTES", ("interface", "inline"))
        assert check(model, BATCH, LONG).route == "inline"


def test_vectors_before_rotation_are_found_not_to_be_those_of_attention(make_checkpoint: MakeCheckpoint) -> None:
    model = load(str(make_checkpoint("llama")), device="cpu").model
    with pytest.MonkeyPatch.context() as patch:
        forgotten_rotation(patch)
        with pytest.raises(QKSpaceError, match=r"attention recomputed from query . key differs"):
            check(model, BATCH, LONG)


@pytest.mark.parametrize("plant", [wrong_scale, swapped_heads, dropped_mask], ids=lambda plant: plant.__name__)
def test_planted_errors_are_found_inline(plant: Callable[[pytest.MonkeyPatch], None]) -> None:
    model = tiny("gptj", n_embd=32, n_layer=2, n_head=4, rotary_dim=4, n_positions=64)
    assert check(model, BATCH, LONG).route == "inline"
    with pytest.MonkeyPatch.context() as patch:
        plant(patch)
        with pytest.raises(QKSpaceError, match=r"refused"):
            check(model, BATCH, LONG)


@pytest.mark.parametrize("family", ["bert", "llama"])
def test_padding_that_leaks_is_found(family: str, make_checkpoint: MakeCheckpoint) -> None:
    """A model that mixes a neighbour into every token: the last token of a short text then depends on its padding."""
    model = load(str(make_checkpoint(family)), device="cpu").model
    embedding = model.get_input_embeddings()
    handle = embedding.register_forward_hook(lambda module, given, out: out + out.roll(-1, dims=1))
    with pytest.raises(QKSpaceError, match=r"padding"):
        check(model, BATCH, LONG)
    handle.remove()
    check(model, BATCH, LONG)


# ---------------------------------------------------------------------------------------------- long input, other kernels


def test_attention_in_pieces_is_attention(make_checkpoint: MakeCheckpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    for family in ("bert", "mistral", "llama"):
        model = load(str(make_checkpoint(family)), device="cpu").model
        seen: list[list[torch.Tensor]] = []
        outputs = []
        for budget in (1 << 30, 4 * 2 * 4 * 14 * 3):  # whole, and three query tokens at a time
            monkeypatch.setattr(capture, "CHUNK_BYTES", budget)
            pieces: list[int] = []
            whole: list[torch.Tensor] = []

            def take(call: Any, pieces: list[int] = pieces, whole: list[torch.Tensor] = whole) -> None:
                parts = list(call.rows())
                pieces.append(len(parts))
                whole.append(torch.cat([part for _, part in parts], dim=2))

            with listening(model, take):
                outputs.append(forward(model, BATCH).last_hidden_state)
            seen.append(whole)
            assert set(pieces) == ({1} if budget == 1 << 30 else {5})
        for one, other in zip(*seen, strict=True):
            torch.testing.assert_close(one, other, atol=1e-6, rtol=0)
        torch.testing.assert_close(*outputs, atol=1e-5, rtol=0)


@pytest.mark.parametrize("family", ["bert", "gpt2", "llama", "mistral"])
def test_the_fused_kernel_gives_the_same_vectors_and_attention(family: str, make_checkpoint: MakeCheckpoint) -> None:
    model = load(str(make_checkpoint(family)), device="cpu").model
    inside = BATCH["attention_mask"].bool()
    calls: dict[str, list[Any]] = {"exact": [], "sdpa": []}
    for how, kept in calls.items():
        with listening(model, lambda call, kept=kept: kept.append((call, call.attention)), how=how):  # type: ignore[misc]
            forward(model, BATCH)
    for (exact, own), (fused, again) in zip(calls["exact"], calls["sdpa"], strict=True):
        torch.testing.assert_close(
            exact.query.transpose(1, 2)[inside], fused.query.transpose(1, 2)[inside], atol=1e-5, rtol=0
        )
        torch.testing.assert_close(own.transpose(1, 2)[inside], again.transpose(1, 2)[inside], atol=1e-5, rtol=0)


# ---------------------------------------------------------------------------------------------- before rotary positions


def test_vectors_before_rotation_know_no_position(make_checkpoint: MakeCheckpoint) -> None:
    """The same token at every place has one query before rotation in the first layer, and others after it."""
    model = load(str(make_checkpoint("llama")), device="cpu").model
    calls: list[Any] = []
    with listening(model, calls.append, unrotated=True):
        forward(model, padded([[9] * 6]))
    query, key = calls[0].before_rotation
    for before, after in ((query, calls[0].query), (key, calls[0].key)):
        assert before.shape == after.shape
        torch.testing.assert_close(before, before[:, :, :1].expand_as(before))
        assert (after - after[:, :, :1]).abs().max() > 0.01
        torch.testing.assert_close(before.norm(dim=-1), after.norm(dim=-1))
    assert "noting" not in str(vars(rotation)["_replaced"])
    import transformers.models.llama.modeling_llama as file

    assert not hasattr(file.apply_rotary_pos_emb, "__wrapped__")


def test_a_model_without_rotary_positions_has_no_vectors_before_them(make_checkpoint: MakeCheckpoint) -> None:
    model = load(str(make_checkpoint("bert")), device="cpu").model
    calls: list[Any] = []
    with listening(model, calls.append, unrotated=True):
        forward(model, BATCH)
    assert all(call.before_rotation is None for call in calls)


def test_a_mask_of_ten_thousand_is_a_mask() -> None:
    """Old models add -10,000 and not the lowest number of the type, sometimes with a bias on top."""
    model = tiny("deberta-v2", **DEBERTA)
    calls: list[Any] = []
    with listening(model, calls.append, route="inline"):
        forward(model, BATCH)
    spoilt_call = replace(calls[0], mask=torch.where(calls[0].mask.isfinite(), 0.0, -10_000.0) + 5.0)
    found = masks.added(spoilt_call, 1, 14, 14)
    assert found is not None
    assert np.isinf(found[:, :3, 3:]).all()
    assert (found[:, :3, :3] == 5).all()
