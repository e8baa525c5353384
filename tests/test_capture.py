"""Tests of `qkspace.capture`: what is captured is the model's own attention, and the model is left as it was found."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import FAMILIES, Eager, MakeCheckpoint
from numpy.typing import NDArray
from transformers import AutoConfig, AutoModel, T5EncoderModel

from qkspace.capture import AttentionCall, forward, listening
from qkspace.masks import observed_mask, read_mask
from qkspace.model import Checkpoint, load
from qkspace.schema import LayerSpec, QKSpaceError
from qkspace.selfcheck import check

FAMILY_NAMES = sorted(FAMILIES)
REAL = ["minilm", "stories", "nano_sort"]
Batch = dict[str, torch.Tensor]


@pytest.fixture(params=[*FAMILY_NAMES, *REAL])
def folder(request: pytest.FixtureRequest, make_checkpoint: MakeCheckpoint) -> Path:
    """Each tiny family in turn, and each real model."""
    found: Path = (
        make_checkpoint(request.param) if request.param in FAMILIES else request.getfixturevalue(request.param)
    )
    return found


@pytest.fixture
def ids_of(sentences: list[str]) -> Callable[[Checkpoint], list[list[int]]]:
    """Return token ids of sentences of unlike length that the model knows."""

    def ids(checkpoint: Checkpoint) -> list[list[int]]:
        if checkpoint.tokenizer.vocab_size < 10:  # gpt-nano-sort reads letters of ABC
            return [[0, 1, 2, 2, 1, 0, 0, 0, 1, 2, 2], [2, 1, 0], [1]]
        texts = [sentences[2], sentences[0] + " " + sentences[1], "Seal it."]
        return [checkpoint.tokenizer(text)["input_ids"] for text in texts]

    return ids


def padded(sequences: list[list[int]]) -> Batch:
    n = max(map(len, sequences))
    ids = torch.tensor([[*sequence, *[0] * (n - len(sequence))] for sequence in sequences])
    mask = torch.tensor([[1] * len(sequence) + [0] * (n - len(sequence)) for sequence in sequences])
    return {"input_ids": ids, "attention_mask": mask}


def captured(model: Any, batch: Batch) -> list[AttentionCall]:
    calls: list[AttentionCall] = []
    with listening(model, calls.append):
        forward(model, batch)
    return calls


def by_hand(call: AttentionCall, sequence: int, allowed: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Compute softmax(scale * query . key) over what is allowed, one head and query after another."""
    n = len(allowed)
    query, key = (x[sequence, :, :n].double().numpy() for x in (call.query, call.key))
    attention = np.zeros((len(query), n, n))
    for head in range(len(query)):
        kv_head = head * len(key) // len(query)
        for i in range(n):
            logit = np.array([call.scale * float(query[head, i] @ key[kv_head, j]) for j in range(n)])
            weight = np.where(allowed[i], np.exp(logit - logit[allowed[i]].max()), 0.0)
            attention[head, i] = weight / weight.sum()
    return attention


def test_attention_from_the_captured_vectors_is_the_models_own(
    folder: Path, eager: Eager, ids_of: Callable[[Checkpoint], list[list[int]]]
) -> None:
    checkpoint = load(str(folder), device="cpu")
    sequences = ids_of(checkpoint)
    calls = captured(checkpoint.model, padded(sequences))
    for s, sequence in enumerate(sequences):
        own = eager(folder, sequence)
        assert len(calls) == len(own)
        for call, expected in zip(calls, own, strict=True):
            n = len(sequence)
            assert call.query.shape[1] == len(expected)
            np.testing.assert_allclose(call.attention[s, :, :n, :n].numpy(), expected, atol=1e-5)
            np.testing.assert_allclose(by_hand(call, s, observed_mask(call, s, n)), expected, atol=1e-5)


def test_the_check_describes_every_layer_so_that_attention_can_be_rebuilt(
    folder: Path, eager: Eager, ids_of: Callable[[Checkpoint], list[list[int]]]
) -> None:
    checkpoint = load(str(folder), device="cpu")
    sequences = ids_of(checkpoint)
    longest = max(sequences, key=len)
    result = check(checkpoint.model, padded(sequences), padded([longest]))
    config = checkpoint.model.config
    assert max(result.captured_error, result.recomputed_error) <= result.tolerance == 1e-4
    assert (result.n_sequences, result.n_tokens) == (3, sum(map(len, sequences)))
    assert len(result.layers) == config.num_hidden_layers
    calls = captured(checkpoint.model, padded([longest]))
    for layer, call, expected in zip(result.layers, calls, eager(folder, longest), strict=True):
        assert layer.n_heads == config.num_attention_heads == call.query.shape[1]
        assert layer.n_kv_heads == (getattr(config, "num_key_value_heads", None) or layer.n_heads) == call.key.shape[1]
        assert layer.d_head == call.query.shape[3] == call.key.shape[3]
        assert isinstance(checkpoint.model.get_submodule(layer.module), torch.nn.Module)
        allowed = layer.allowed(len(longest))
        np.testing.assert_array_equal(allowed, (expected > 0).any(axis=0))
        np.testing.assert_allclose(by_hand(call, 0, allowed), expected, atol=1e-5)


@pytest.mark.parametrize("family", ["llama", "mistral", "qwen2", "qwen3"])
def test_grouped_keys_are_captured_as_few_as_they_are(
    family: str, make_checkpoint: MakeCheckpoint, sentences: list[str]
) -> None:
    checkpoint = load(str(make_checkpoint(family)), device="cpu")
    for call in captured(checkpoint.model, padded([checkpoint.tokenizer(sentences[0])["input_ids"]])):
        assert (call.query.shape[1], call.key.shape[1], call.value.shape[1]) == (4, 2, 2)


def test_causality_and_windows_are_read_off_the_model(make_checkpoint: MakeCheckpoint, sentences: list[str]) -> None:
    found = {}
    for family in FAMILY_NAMES:
        checkpoint = load(str(make_checkpoint(family)), device="cpu")
        batch = padded([checkpoint.tokenizer(sentences[0])["input_ids"]])
        found[family] = {(layer.causal, layer.window) for layer in check(checkpoint.model, batch, batch).layers}
    encoders = {family: {(False, None)} for family in ("bert", "roberta", "distilbert")}
    decoders = {family: {(True, None)} for family in ("gpt2", "llama", "qwen2", "qwen3")}
    assert found == {**encoders, **decoders, "mistral": {(True, 6)}}


def test_layers_of_one_model_may_have_unlike_windows(
    make_checkpoint: MakeCheckpoint, sentences: list[str], eager: Eager
) -> None:
    folder = make_checkpoint("qwen2", use_sliding_window=True, sliding_window=5, max_window_layers=1)
    checkpoint = load(str(folder), device="cpu")
    ids = checkpoint.tokenizer(sentences[0])["input_ids"]
    layers = check(checkpoint.model, padded([ids[:4]]), padded([ids])).layers
    assert [layer.window for layer in layers] == [None, 5]
    for layer, expected in zip(layers, eager(folder, ids), strict=True):
        np.testing.assert_array_equal(layer.allowed(len(ids)), (expected > 0).any(axis=0))


def test_a_window_is_found_only_where_a_sequence_is_longer(make_checkpoint: MakeCheckpoint) -> None:
    model = load(str(make_checkpoint("mistral")), device="cpu").model
    for n, window in ((5, None), (6, None), (7, 6)):
        batch = padded([list(range(10, 10 + n))])
        assert {layer.window for layer in check(model, batch, batch).layers} == {window}


def test_the_scale_is_the_models_own_also_where_it_differs_by_layer(
    make_checkpoint: MakeCheckpoint, sentences: list[str]
) -> None:
    checkpoint = load(str(make_checkpoint("gpt2", scale_attn_by_inverse_layer_idx=True)), device="cpu")
    batch = padded([checkpoint.tokenizer(sentences[0])["input_ids"]])
    scales = [layer.scale for layer in check(checkpoint.model, batch, batch).layers]
    np.testing.assert_allclose(scales, [8**-0.5, 8**-0.5 / 2])


@pytest.mark.parametrize("n", [1, 2, 3, 7, 12])
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("window", [None, 1, 2, 5, 12, 40])
def test_a_mask_is_rebuilt_from_its_description(n: int, causal: bool, window: int | None) -> None:
    allowed = LayerSpec("attention", 1, 1, 1, 1.0, causal, window).allowed(n)
    read = read_mask(allowed, "attention")
    np.testing.assert_array_equal(LayerSpec("attention", 1, 1, 1, 1.0, *read).allowed(n), allowed)


def test_a_mask_of_another_shape_is_refused_by_the_name_of_its_module() -> None:
    blocks = np.kron(np.eye(3, dtype=bool), np.ones((2, 2), dtype=bool))
    prefix = np.tril(np.ones((6, 6), dtype=bool))
    prefix[:3, :3] = True
    for allowed in (blocks, prefix):
        with pytest.raises(QKSpaceError, match=r"layers\.3\.attention: .*mask is neither full nor causal"):
            read_mask(allowed, "layers.3.attention")


# ---------------------------------------------------------------------------------------------- left as it was found


def state_of(model: Any) -> tuple[Any, ...]:
    configs = [module.config for module in model.modules() if hasattr(module, "config")]
    return (
        [config._attn_implementation for config in configs],
        [module.training for module in model.modules()],
        [parameter.requires_grad for parameter in model.parameters()],
        [parameter.clone() for parameter in model.state_dict().values()],
    )


def assert_unchanged(before: tuple[Any, ...], model: Any) -> None:
    after = state_of(model)
    assert before[:3] == after[:3]
    assert all(torch.equal(a, b) for a, b in zip(before[3], after[3], strict=True))
    assert not torch.is_inference_mode_enabled()
    assert not any(parameter.is_inference() for parameter in model.state_dict().values())


@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
@pytest.mark.parametrize("fails", [False, True])
@pytest.mark.parametrize("family", FAMILY_NAMES)
def test_the_model_is_left_as_it_was_found(
    family: str, fails: bool, implementation: str, make_checkpoint: MakeCheckpoint
) -> None:
    model = AutoModel.from_pretrained(make_checkpoint(family), attn_implementation=implementation)
    batch = padded([list(range(5, 19)), [7, 8]])
    with torch.no_grad():
        outputs = model.eval()(**batch).last_hidden_state
    for number, module in enumerate(model.modules()):  # a mixture that nobody would leave by chance
        module.training = number % 3 == 0
    next(model.parameters()).requires_grad_(False)
    before = state_of(model)

    def listener(call: AttentionCall) -> None:
        if fails and call.index == 1:
            raise ZeroDivisionError("a listener that fails")

    for _ in range(2):  # a failure must not keep the model busy either
        if fails:
            with pytest.raises(ZeroDivisionError), listening(model, listener):
                forward(model, batch)
        else:
            with listening(model, listener):
                forward(model, batch)
        assert_unchanged(before, model)
    with torch.no_grad():
        assert torch.equal(model.eval()(**batch).last_hidden_state, outputs)
    model(**batch).last_hidden_state.sum().backward()
    assert all(p.grad is None or torch.isfinite(p.grad).all() for p in model.parameters())
    assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in model.parameters())


def test_the_check_leaves_the_model_as_it_was_found_also_when_it_refuses(make_checkpoint: MakeCheckpoint) -> None:
    good = AutoModel.from_pretrained(make_checkpoint("llama")).train()
    broken = tiny("gemma2", **GEMMA).train()
    with torch.no_grad():
        broken.layers[0].self_attn.q_proj.weight.fill_(torch.nan)
    batch = padded([list(range(5, 19)), [7, 8]])
    before_good, before_broken = state_of(good), state_of(broken)
    check(good, batch, batch)
    assert_unchanged(before_good, good)
    with pytest.raises(QKSpaceError):
        check(broken, batch, batch)
    assert before_broken[:2] == state_of(broken)[:2]


def test_capture_changes_no_output(folder: Path, ids_of: Callable[[Checkpoint], list[list[int]]]) -> None:
    checkpoint = load(str(folder), device="cpu")
    batch = padded(ids_of(checkpoint))
    inside = batch["attention_mask"].bool()
    model = AutoModel.from_pretrained(folder, attn_implementation="eager").eval()
    with torch.no_grad():
        expected = model(**batch).last_hidden_state
    with listening(model, lambda call: None):
        observed = model(**batch).last_hidden_state
    assert torch.equal(observed[inside], expected[inside])


@pytest.mark.parametrize("family", ["bert", "llama", "qwen3"])
def test_a_pass_ends_with_the_last_attention_that_is_wanted(family: str, make_checkpoint: MakeCheckpoint) -> None:
    """What comes after it is not computed, what was seen is the same, and the next pass is whole and as it was."""
    model = load(str(make_checkpoint(family)), device="cpu").model
    batch = padded([list(range(5, 15)), [2, 9, 3]])
    whole, expected = captured(model, batch), forward(model, batch).last_hidden_state
    ran: list[str] = []
    handles = [
        module.register_forward_hook(lambda *_, name=name: ran.append(name)) for name, module in model.named_modules()
    ]
    calls: list[AttentionCall] = []
    with listening(model, calls.append, last=0):
        assert forward(model, batch) is None
        assert forward(model, batch) is None
    for handle in handles:
        handle.remove()
    assert [call.index for call in calls] == [0, 0]
    for call in calls:
        assert torch.equal(call.query, whole[0].query) and torch.equal(call.key, whole[0].key)
    assert ran and not [name for name in ran if ".1." in name]
    assert torch.equal(forward(model, batch).last_hidden_state, expected)
    assert len(captured(model, batch)) == len(whole) == 2


# ---------------------------------------------------------------------------------------------- several models


def test_one_model_is_listened_to_once_at_a_time(make_checkpoint: MakeCheckpoint) -> None:
    model = load(str(make_checkpoint("bert")), device="cpu").model
    outer: list[AttentionCall] = []
    with listening(model, outer.append):
        with pytest.raises(QKSpaceError, match="being captured already"), listening(model, lambda call: None):
            pass
        forward(model, padded([[2, 9, 3]]))  # the refused one has not cut off the first
    assert [call.index for call in outer] == [0, 1]
    assert len(captured(model, padded([[2, 9, 3]]))) == 2  # and is free again afterwards


def test_a_part_of_a_captured_model_counts_as_that_model(make_checkpoint: MakeCheckpoint) -> None:
    model = load(str(make_checkpoint("bert")), device="cpu").model
    head = AutoModel.from_config(model.config)
    head.encoder = model.encoder  # two models that share their layers
    refused = pytest.raises(QKSpaceError, match="already")
    with listening(model, lambda call: None), refused, listening(head, lambda call: None):
        pass


def test_two_models_are_captured_within_each_other(make_checkpoint: MakeCheckpoint) -> None:
    names = ("bert", "llama")
    first, second = (load(str(make_checkpoint(name)), device="cpu").model for name in names)
    batch = padded([list(range(5, 15))])
    alone = [captured(model, batch) for model in (first, second)]
    seen: tuple[list[AttentionCall], list[AttentionCall]] = ([], [])
    with listening(first, seen[0].append):
        forward(first, batch)
        with listening(second, seen[1].append):
            forward(second, batch)
            forward(first, batch)
    assert first.config._attn_implementation == second.config._attn_implementation == "sdpa"
    assert [call.index for call in seen[0]] == [0, 1, 0, 1]
    assert [call.index for call in seen[1]] == [0, 1]
    for calls, expected in zip(seen, alone, strict=True):
        for call, other in zip(calls, [*expected, *expected], strict=False):
            assert call.module == other.module
            assert torch.equal(call.attention, other.attention)


def test_two_copies_of_one_checkpoint_are_two_models(make_checkpoint: MakeCheckpoint) -> None:
    first, second = (load(str(make_checkpoint("gpt2")), device="cpu").model for _ in range(2))
    batch = padded([list(range(5, 15))])
    seen: list[AttentionCall] = []
    with listening(first, seen.append), listening(second, lambda call: None):
        forward(second, batch)
        assert not seen
        forward(first, batch)
    assert len(seen) == 2


# ---------------------------------------------------------------------------------------------- refused

GEMMA = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "intermediate_size": 48,
    "query_pre_attn_scalar": 8,
    "attn_logit_softcapping": 1.0,
}
T5 = {"d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 2, "num_heads": 4, "decoder_start_token_id": 0}
DEBERTA = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "relative_attention": True,
    "pos_att_type": ["c2p", "p2c"],
    "position_buckets": 8,
}


def tiny(family: str, *, model_class: Any = AutoModel, **options: Any) -> Any:
    torch.manual_seed(0)
    config = AutoConfig.for_model(family, vocab_size=60, **{"initializer_range": 0.3, **options})
    model = model_class.from_config(config) if model_class is AutoModel else model_class(config)
    return model.eval()


def t5_encoder() -> Any:
    model = tiny("t5", model_class=T5EncoderModel, **T5)
    with torch.no_grad():  # the bias is what makes T5's logits more than a product
        model.encoder.block[0].layer[0].SelfAttention.relative_attention_bias.weight.normal_()
    return model


def test_gemma_2_without_the_soft_cap_is_accepted() -> None:
    batch = padded([list(range(5, 19)), [7, 8]])
    result = check(tiny("gemma2", **{**GEMMA, "attn_logit_softcapping": None}), batch, batch)
    assert result.recomputed_error <= result.tolerance


def test_weights_that_are_not_numbers_are_refused(make_checkpoint: MakeCheckpoint) -> None:
    # max(0.0, nan) is 0.0: a check that is written so lets nan pass.
    model = load(str(make_checkpoint("bert")), device="cpu").model
    with torch.no_grad():
        model.encoder.layer[1].attention.self.query.weight.fill_(torch.nan)
    batch = padded([[2, 9, 10, 3]])
    with pytest.raises(QKSpaceError, match=r"encoder\.layer\.1\.attention\.self hold nan"):
        check(model, batch, batch)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_models_in_half_precision_pass_the_check(dtype: Any, make_checkpoint: MakeCheckpoint, eager: Eager) -> None:
    folder = make_checkpoint("bert")
    model = load(str(folder), device="cpu", dtype=dtype).model
    ids = list(range(5, 25))
    result = check(model, padded([ids, ids[:4]]), padded([ids]))
    assert result.recomputed_error <= result.tolerance < 0.05
    for call, expected in zip(captured(model, padded([ids])), eager(folder, ids), strict=True):
        assert call.query.dtype == getattr(torch, dtype)
        np.testing.assert_allclose(call.attention[0].float().numpy(), expected, atol=0.1)
