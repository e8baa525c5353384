"""Tests of `qkspace.inline`: what is shown is the attention of models that compute it in their own lines."""

from __future__ import annotations

import gc
import threading
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import _get_current_dispatch_mode
from transformers import AutoConfig, AutoModel, FunnelModel

from qkspace.capture import AttentionCall, forward, listening
from qkspace.inline import unrolled, watching

N_WORDS, N_TOKENS, N_SHORT, N_TARGET = 60, 12, 8, 7  # two sequences, the second one padded
Call = dict[str, Any]

_WIDE = {"vocab_size": N_WORDS, "initializer_range": 0.25, "pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 3}
_BERT = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "max_position_embeddings": 128,
}
_DEBERTA = {**_BERT, "relative_attention": True, "pos_att_type": ["c2p", "p2c"], "max_relative_positions": 16}
_GPT = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 128}
_XLM = {"emb_dim": 32, "n_layers": 2, "n_heads": 4, "max_position_embeddings": 128}
_FALCON = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
_BART = {
    "d_model": 32,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 48,
    "decoder_ffn_dim": 48,
    "max_position_embeddings": 128,
}
_VIT = {**_BERT, "image_size": 16, "patch_size": 4}
_LAYOUT = {"visual_embed": False, "coordinate_size": 6, "shape_size": 4, "has_relative_attention_bias": True}
_PROPHET = {
    "hidden_size": 32,
    "num_encoder_layers": 2,
    "num_decoder_layers": 2,
    "num_encoder_attention_heads": 4,
    "num_decoder_attention_heads": 4,
    "encoder_ffn_dim": 48,
    "decoder_ffn_dim": 48,
    "max_position_embeddings": 128,
}
_WAVLM = {
    **_BERT,
    "conv_dim": [16, 16],
    "conv_stride": [4, 2],
    "conv_kernel": [4, 2],
    "num_feat_extract_layers": 2,
    "num_conv_pos_embeddings": 8,
    "num_conv_pos_embedding_groups": 2,
}
_WINDOW = {"attention_window": 8}
_SWIN = {"image_size": 16, "patch_size": 2, "embed_dim": 16, "depths": [2, 1], "num_heads": [2, 4], "window_size": 4}
INLINE: dict[str, dict[str, Any]] = {  # name, a colon and what is special: sizes and options
    "big_bird": {**_BERT, "attention_type": "original_full"},
    "bloom": {"hidden_size": 32, "n_layer": 2, "n_head": 4},
    "bros": {**_BERT, "hidden_size": 64},
    "canine": {**_BERT, "downsampling_rate": 2, "num_hash_functions": 4, "num_hash_buckets": 50},
    "codegen": {**_GPT, "rotary_dim": 4},
    "convbert": {**_BERT, "embedding_size": 32, "head_ratio": 2, "conv_kernel_size": 3},
    "deberta": _DEBERTA,
    "deberta-v2": _DEBERTA,
    "falcon:one key": {**_FALCON, "multi_query": True},
    "falcon:alibi": {**_FALCON, "multi_query": False, "alibi": True},
    "falcon:grouped": {**_FALCON, "num_kv_heads": 2, "new_decoder_architecture": True},
    "flaubert": _XLM,
    "fsmt": {**_BART, "src_vocab_size": N_WORDS, "tgt_vocab_size": N_WORDS, "langs": ["en", "de"]},
    "funnel": {"block_sizes": [1, 1], "num_decoder_layers": 1, "d_model": 32, "n_head": 4, "d_head": 8, "d_inner": 48},
    "gpt_neo": {
        "hidden_size": 32,
        "num_layers": 2,
        "num_heads": 4,
        "attention_types": [[["global", "local"], 1]],
        "window_size": 4,
        "max_position_embeddings": 128,
    },
    "gpt_neox_japanese": {**_FALCON, "intermediate_multiple_size": 2, "max_position_embeddings": 128},
    "gptj": {**_GPT, "rotary_dim": 4},
    "ibert": _BERT,
    "imagegpt": _GPT,
    "layoutlmv3": {**_BERT, **_LAYOUT},
    "luke": {**_BERT, "entity_vocab_size": 10, "entity_emb_size": 32},
    "megatron-bert": _BERT,
    "mpnet": _BERT,
    "mpt": {"d_model": 32, "n_layers": 2, "n_heads": 4, "max_seq_len": 128},
    "mvp": _BART,
    "nystromformer": {**_BERT, "num_landmarks": 64},
    "openai-gpt": _GPT,
    "perceiver": {
        "num_latents": 5,
        "d_latents": 32,
        "d_model": 24,
        "num_blocks": 1,
        "num_self_attends_per_block": 2,
        "num_self_attention_heads": 4,
        "num_cross_attention_heads": 4,
    },
    "rembert": {**_BERT, "input_embedding_size": 32, "output_embedding_size": 32},
    "roformer": {**_BERT, "embedding_size": 32},
    "tapas": _BERT,
    "visual_bert": {**_BERT, "visual_embedding_dim": 16},
    "vitdet": _VIT,
    "xglm": {
        "d_model": 32,
        "num_layers": 2,
        "attention_heads": 4,
        "ffn_dim": 48,
        "max_position_embeddings": 128,
    },
    "xlm": _XLM,
    "xlnet": {"d_model": 32, "n_layer": 2, "n_head": 4, "d_inner": 48},
}
INTERFACE: dict[str, dict[str, Any]] = {
    "bert": _BERT,
    "gemma2": {
        **_BERT,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "attn_logit_softcapping": 2.0,
        "query_pre_attn_scalar": 8,
    },
    "gpt2": _GPT,
    "llama": {**_BERT, "num_key_value_heads": 2},
    "t5": {"d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 2, "num_decoder_layers": 2, "num_heads": 4},
    "vit": _VIT,
}
UNLIKE: dict[str, dict[str, Any]] = {  # what these report as `attentions` is not one matrix of weights an attention
    "led": {**_BART, "max_encoder_position_embeddings": 128, "max_decoder_position_embeddings": 128, **_WINDOW},
    "lilt": {**_BERT, "hidden_size": 48},
    "longformer": {**_BERT, **_WINDOW},
    "prophetnet": {**_PROPHET, "ngram": 2},
    "squeezebert": {**_BERT, "embedding_size": 32},
    "swinv2": _SWIN,
    "wavlm": _WAVLM,
}
MODELS = INLINE | INTERFACE | UNLIKE


def make(name: str, implementation: str = "eager", **options: Any) -> Any:
    """Make a tiny model whose weights, biases included, are drawn so wide that its attention is far from uniform."""
    torch.manual_seed(0)
    config = AutoConfig.for_model(name.split(":")[0], **{**_WIDE, **MODELS[name], **options})
    config.use_cache = False
    model = (
        FunnelModel(config) if name == "funnel" else AutoModel.from_config(config, attn_implementation=implementation)
    )
    with torch.no_grad():
        for key, weight in model.named_parameters():
            if "norm" not in key.lower() and "scale" not in key:
                weight.normal_(0, 0.25)
    return model.eval()


def batch_of(name: str) -> dict[str, Tensor]:
    """Return two sequences (or images), the second one padded."""
    generator = torch.Generator().manual_seed(2)
    name = name.split(":")[0]
    if name in ("swinv2", "vit", "vitdet"):
        return {"pixel_values": torch.randn(2, 3, 16, 16, generator=generator)}
    if name == "wavlm":
        return {"input_values": torch.randn(2, 160, generator=generator)}
    mask = (torch.arange(N_TOKENS) < torch.tensor([[N_TOKENS], [N_SHORT]])).long()
    if name == "perceiver":
        return {"inputs": torch.randn(2, N_TOKENS, 24, generator=generator), "attention_mask": mask}
    ids = torch.randint(5, N_WORDS, (2, N_TOKENS), generator=generator) * mask
    batch = {"input_ids": ids, "attention_mask": mask}
    if name in ("layoutlmv3", "lilt", "bros"):
        corner, size = torch.randint(0, 50, (2, 2, N_TOKENS, 2), generator=generator)
        box = torch.cat((corner, corner + size), dim=-1)
        batch["bbox"] = box / 100 if name == "bros" else box
    if name == "visual_bert":
        batch["visual_embeds"] = torch.randn(2, 5, 16, generator=generator)
        batch["visual_attention_mask"] = torch.ones(2, 5, dtype=torch.long)
    if name in ("fsmt", "led", "mvp", "prophetnet", "t5"):
        batch["decoder_input_ids"] = torch.randint(5, N_WORDS, (2, N_TARGET), generator=generator)
    return batch


def watched(model: nn.Module, batch: dict[str, Tensor], **options: Any) -> tuple[Any, list[Call]]:
    calls: list[Call] = []
    with watching(model, lambda module, **call: calls.append({"module": module, **call})):
        output = model(**batch, **options)
    return output, calls


def reported(output: Any) -> list[Tensor]:
    """Return the weights that a model reports, in the order in which it computes them."""
    if "encoder_attentions" not in output:
        cross = output.get("cross_attentions") or ()
        return [*cross, *output.attentions]  # Perceiver reads its input first
    pairs = zip(output.decoder_attentions, output.cross_attentions, strict=True)
    return [*output.encoder_attentions, *(weights for pair in pairs for weights in pair)]


def recomputed(call: Call) -> Tensor:
    """Return softmax(cap(scale * query . key) + added)."""
    groups = call["query"].shape[1] // call["key"].shape[1]
    logit = call["scale"] * call["query"] @ call["key"].repeat_interleave(groups, dim=1).transpose(-1, -2)
    if call["softcap"] is not None:
        logit = call["softcap"] * torch.tanh(logit / call["softcap"])
    return torch.softmax(logit if call["added"] is None else logit + call["added"], dim=-1)


def tensors(output: Any) -> Iterator[Tensor]:
    if isinstance(output, Tensor):
        yield output
    elif isinstance(output, (dict, tuple, list)):
        for part in output.values() if isinstance(output, dict) else output:
            yield from tensors(part)


@pytest.mark.parametrize("name", [*INLINE, *INTERFACE])
def test_shown_attention_is_what_the_model_reports_and_follows_from_query_and_key(name: str) -> None:
    model, batch = make(name), batch_of(name)
    with torch.no_grad():
        output, calls = watched(model, batch, output_attentions=True)
    want = reported(output)
    assert len(calls) == len(want)
    for call, weights in zip(calls, want, strict=True):
        n, n_heads, n_queries, n_keys = weights.shape
        assert call["query"].shape[:3] == (n, n_heads, n_queries)
        assert call["key"].shape[0] == n and call["key"].shape[2] == n_keys
        assert call["value"].shape[:3] == call["key"].shape[:3]
        torch.testing.assert_close(call["attention"], weights, rtol=0, atol=1e-5)
        torch.testing.assert_close(recomputed(call), weights, rtol=0, atol=1e-5)
        assert weights.max(dim=-1).values.mean() > 1.3 / n_keys  # not near uniform, where much would pass


@pytest.mark.parametrize("name", MODELS)
def test_watching_changes_no_bit_of_the_result(name: str) -> None:
    model, batch = make(name), batch_of(name)
    with torch.inference_mode():
        want = list(tensors(model(**batch, output_attentions=True)))
        output, _ = watched(model, batch, output_attentions=True)
    got = list(tensors(output))
    assert len(got) == len(want)
    assert all(torch.equal(a, b) for a, b in zip(got, want, strict=True))


@pytest.mark.parametrize("name", ["deberta", "bloom", "xlnet", "falcon:grouped", "swinv2", "fsmt", "longformer"])
def test_attention_times_value_is_what_the_modules_pass_on(name: str) -> None:
    """The values meet the weights: their product, put through the output map, is in what the module returns."""
    model, batch = make(name), batch_of(name)
    if name == "longformer":
        batch = {
            "input_ids": torch.randint(5, N_WORDS, (2, 16))
        }  # whole windows: it sets padding to zero after the softmax
    products: list[Tensor] = []
    with torch.no_grad(), watching(model, lambda module, **call: products.append(_mixed(call))), _Products() as seen:
        model(**batch)
    for mixed in products:
        assert any(s.numel() == mixed.numel() and _same_numbers(s, mixed) for s in seen.results)


def _mixed(call: Call) -> Tensor:
    groups = call["query"].shape[1] // call["value"].shape[1]
    return call["attention"] @ call["value"].repeat_interleave(groups, dim=1)


def _same_numbers(one: Tensor, other: Tensor) -> bool:
    return torch.allclose(one.flatten().sort().values, other.flatten().sort().values, atol=1e-5)


class _Products(torch.overrides.TorchFunctionMode):
    """Remember what every product of tensors gave."""

    def __init__(self) -> None:
        super().__init__()
        self.results: list[Tensor] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if getattr(func, "__name__", "") in ("matmul", "bmm", "einsum", "__matmul__", "baddbmm"):
            self.results.append(result.clone())
        return result


@pytest.mark.parametrize("name", ["deberta", "bloom", "longformer"])
def test_a_pass_ends_with_the_last_attention_that_is_wanted(name: str) -> None:
    """Nothing of the next layer runs, and the next pass is whole and as it was."""
    model, batch = make(name), batch_of(name)
    with torch.inference_mode():
        expected = model(**batch)[0]
    seen: list[AttentionCall] = []
    with listening(model, seen.append, route="inline"):
        forward(model, batch)
    whole = len(seen)
    with listening(model, seen.append, route="inline", last=0):
        assert forward(model, batch) is None
    assert whole > 1 and len(seen) == whole + 1
    assert seen[whole].module == seen[0].module and torch.equal(seen[whole].query, seen[0].query)
    assert torch.equal(forward(model, batch)[0], expected)


@pytest.mark.parametrize("name", ["deberta", "bloom", "t5"])
def test_the_same_is_shown_with_gradients(name: str) -> None:
    model, batch = make(name), batch_of(name)
    _, graded = watched(model, batch)
    for mode in (torch.no_grad, torch.inference_mode):
        with mode():
            _, calls = watched(model, batch)
        assert [call["module"] for call in calls] == [call["module"] for call in graded]
        assert all(torch.equal(a["query"], b["query"]) for a, b in zip(calls, graded, strict=True))


def test_head_counts_of_keys_are_the_models_own() -> None:
    for name, n_kv_heads in [("falcon:one key", 1), ("falcon:grouped", 2), ("llama", 2), ("falcon:alibi", 4)]:
        with torch.no_grad():
            _, calls = watched(make(name), batch_of(name))
        assert {call["key"].shape[1] for call in calls} == {call["value"].shape[1] for call in calls} == {n_kv_heads}


def test_modules_are_named_and_in_order() -> None:
    with torch.no_grad():
        _, calls = watched(make("deberta"), batch_of("deberta"))
    assert [call["module"] for call in calls] == [f"encoder.layer.{i}.attention.self" for i in range(2)]
    with torch.no_grad():  # its softmax is a module of its own
        _, calls = watched(make("ibert"), batch_of("ibert"))
    assert [call["module"] for call in calls] == [f"encoder.layer.{i}.attention.self" for i in range(2)]


def test_scale_mask_and_position_part_are_told_apart() -> None:
    with torch.no_grad():
        (mpnet, *_), (gptj, *_) = (watched(make(name), batch_of(name))[1] for name in ("mpnet", "gptj"))
        (bloom, *_), (gemma, *_) = (watched(make(name), batch_of(name))[1] for name in ("bloom", "gemma2"))
        (vit, *_) = watched(make("vit"), batch_of("vit"))[1]
    assert vit["added"] is None
    assert mpnet["scale"] == pytest.approx(8**-0.5) and gemma["softcap"] == 2.0
    causal = torch.ones(N_TOKENS, N_TOKENS, dtype=torch.bool).tril()
    added = gptj["added"][0]
    assert (added[:, causal] == 0).all() and (added[:, ~causal] == -torch.inf).all()
    assert (mpnet["added"][1, ..., N_SHORT:] == -torch.inf).all() and mpnet["added"][
        1, ..., :N_SHORT
    ].abs().max() > 0.01
    slopes = 2.0 ** (
        -2 * torch.arange(1, 5)
    )  # of ALiBi (Press et al. 2022) for four heads; rows are free up to a constant
    bias = bloom["added"][0][:, -1]
    torch.testing.assert_close(bias - bias[:, :1], slopes[:, None] * torch.arange(N_TOKENS), rtol=0, atol=1e-4)


@pytest.mark.parametrize("name", ["xlnet", "funnel", "deberta", "deberta-v2", "bloom"])
def test_of_several_products_that_of_the_tokens_is_shown(name: str) -> None:
    """Where positions are only relative, one word all over has one key; products with positions would differ."""
    model = make(name, **({"position_biased_input": False} if "deberta" in name else {}))
    ids = torch.full((1, 10), 7)
    with torch.no_grad():
        _, calls = watched(model, {"input_ids": ids})
    key = calls[0]["key"]  # of the first layer
    torch.testing.assert_close(key, key[:, :, :1].expand_as(key), rtol=0, atol=1e-5)
    assert calls[0]["added"] is not None


def test_models_that_report_something_else_are_shown_as_they_compute() -> None:
    with torch.no_grad():
        output, calls = watched(make("wavlm"), batch_of("wavlm"), output_attentions=True)
        for call, mean in zip(calls, output.attentions, strict=True):  # the mean of the heads, once a head
            torch.testing.assert_close(call["attention"].mean(dim=1), mean[:, 0], rtol=0, atol=1e-5)
        output, calls = watched(make("squeezebert"), batch_of("squeezebert"), output_attentions=True)
        for call, logit in zip(calls, output.attentions, strict=True):  # before the softmax
            torch.testing.assert_close(call["attention"], logit.softmax(-1), rtol=0, atol=1e-5)
        output, calls = watched(make("prophetnet"), batch_of("prophetnet"), output_attentions=True)
        for call, logit in zip(calls, output.encoder_attentions, strict=False):  # before the softmax, too
            torch.testing.assert_close(call["attention"], logit.softmax(-1), rtol=0, atol=1e-5)
        _, calls = watched(make("lilt"), batch_of("lilt"))
        assert sorted({call["query"].shape[-1] for call in calls}) == [3, 12]  # boxes and words attend apart


@pytest.mark.parametrize("name", ["longformer", "led"])
def test_sliding_windows_are_unrolled(name: str) -> None:
    with torch.no_grad():
        output, calls = watched(make(name), batch_of(name), output_attentions=True)
    bands = output.attentions if name == "longformer" else output.encoder_attentions
    assert len(calls) == (2 if name == "longformer" else 6)
    for call, band in zip(calls, bands, strict=False):
        want = unrolled(band)
        assert want.shape == (2, 4, N_TOKENS, N_TOKENS)
        for s, n in enumerate((N_TOKENS, N_SHORT)):  # the model pads to whole windows
            torch.testing.assert_close(call["attention"][s, :, :n, :n], want[s, :, :n, :n], rtol=0, atol=1e-5)
        far = (torch.arange(N_TOKENS)[:, None] - torch.arange(N_TOKENS)).abs() > 4
        assert (call["added"][0, :, :N_TOKENS, :N_TOKENS][:, far] == -torch.inf).all()


@pytest.mark.parametrize("name", UNLIKE)
def test_weights_follow_from_query_and_key_everywhere(name: str) -> None:
    with torch.no_grad():
        _, calls = watched(make(name), batch_of(name))
    assert calls
    for call in calls:
        torch.testing.assert_close(recomputed(call), call["attention"], rtol=0, atol=1e-5)
        assert call["value"] is not None


@pytest.mark.parametrize("name", ["bert", "gpt2", "llama", "vit"])
def test_fused_attention_is_shown_too(name: str) -> None:
    model, batch = make(name), batch_of(name)
    with torch.no_grad():
        _, eager = watched(model, batch)
        model.set_attn_implementation("sdpa")
        _, fused = watched(model, batch)
    assert [call["module"] for call in fused] == [call["module"] for call in eager]
    for one, other in zip(fused, eager, strict=True):
        n = torch.tensor([N_TOKENS, N_SHORT]) if "attention_mask" in batch else torch.tensor([17, 17])
        for s in range(2):  # what padding attends to is nobody's
            torch.testing.assert_close(
                one["attention"][s, :, : n[s]], other["attention"][s, :, : n[s]], rtol=0, atol=1e-5
            )


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_rounding_is_no_position_part(dtype: torch.dtype) -> None:
    for name, has_position in [("megatron-bert", False), ("mpt", True), ("xlnet", True), ("gptj", False)]:
        with torch.no_grad():
            _, calls = watched(make(name).to(dtype), batch_of(name))
        assert [bool((call["added"].nan_to_num(neginf=0.0) != 0).any()) for call in calls] == [has_position] * 2
        for call in calls:
            wide = call | {side: call[side].float() for side in ("query", "key")}
            torch.testing.assert_close(
                recomputed(wide), call["attention"].float(), rtol=0, atol=8 * torch.finfo(dtype).eps
            )


class _OwnHeads(nn.Module):
    """Attention through torch's own module, whose inside no Python line computes."""

    def __init__(self, **options: Any) -> None:
        super().__init__()
        self.inner = nn.MultiheadAttention(32, 4, **options)

    def forward(self, x: Tensor, y: Tensor, need_weights: bool = True) -> Any:
        return self.inner(x, y, y, need_weights=need_weights, average_attn_weights=False)


@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize("need_weights", [True, False])
def test_attention_inside_torchs_own_module_is_shown(batch_first: bool, need_weights: bool) -> None:
    torch.manual_seed(0)
    model = _OwnHeads(batch_first=batch_first).eval()
    x, y = torch.randn(2, 5, 32) * 3, torch.randn(2, 7, 32) * 3
    if not batch_first:
        x, y = x.transpose(0, 1), y.transpose(0, 1)
    with torch.no_grad():
        _, want = model(x, y)
        _, (call,) = watched(model, {"x": x, "y": y, "need_weights": need_weights})
    assert call["module"] == "inner" and call["query"].shape == (2, 4, 5, 8) and call["value"].shape == (2, 4, 7, 8)
    torch.testing.assert_close(call["attention"], want, rtol=0, atol=1e-5)
    torch.testing.assert_close(recomputed(call), want, rtol=0, atol=1e-5)


class _NotAttention(nn.Module):
    """Softmaxes that are none of queries and keys: a gate, a code book, a pooling over heads, one over half the keys."""

    def __init__(self) -> None:
        super().__init__()
        self.gate, self.book = nn.Linear(8, 4, bias=False), nn.Parameter(torch.randn(3, 8))

    def forward(self, x: Tensor) -> Tensor:  # (batch, token, d)
        heads = (x @ x.transpose(1, 2)).view(2, 1, 6, 6)
        parts = [self.gate(x).softmax(-1), (x @ self.book.T).softmax(-1), x.softmax(-1)]
        parts += [heads.softmax(0), heads.view(2, 6, 2, 3).softmax(-1), (heads * heads).softmax(-1)]
        parts += [(x @ x.transpose(1, 2)).softmax(1) @ x]  # tokens share out, nothing is averaged
        return torch.stack([part.sum() for part in parts])


def test_other_softmaxes_are_not_shown() -> None:
    with torch.no_grad():
        _, calls = watched(_NotAttention(), {"x": torch.randn(2, 6, 8)})
    assert calls == []


class _KeysFirst(nn.Module):
    """Attention whose product is keys times queries."""

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return (y @ x.transpose(1, 2) / 2).softmax(1).transpose(1, 2) @ y


def test_keys_are_what_the_softmax_runs_over() -> None:
    x, y = torch.randn(2, 5, 8), torch.randn(2, 7, 8)
    with torch.no_grad():
        _, (call,) = watched(_KeysFirst(), {"x": x, "y": y})
    assert (
        torch.equal(call["query"][:, 0], x)
        and torch.equal(call["key"][:, 0], y)
        and torch.equal(call["value"][:, 0], y)
    )
    torch.testing.assert_close(call["attention"][:, 0], (x @ y.transpose(1, 2) / 2).softmax(-1))
    assert call["scale"] == 0.5 and call["added"] is None


class _Untraced(nn.Module):
    """Attention whose scores take a way on which their factor cannot be followed."""

    def forward(self, x: Tensor) -> Tensor:
        scores = x @ x.transpose(1, 2) * torch.full((6, 6), 0.3)
        return scores.masked_fill(torch.ones(6, 6).triu(1).bool(), -1e9).softmax(-1) @ x


def test_a_scale_that_cannot_be_followed_is_measured() -> None:
    with torch.no_grad():
        _, (call,) = watched(_Untraced(), {"x": torch.randn(2, 6, 8)})
    assert call["scale"] == pytest.approx(0.3, abs=1e-5)
    assert set(call["added"].unique().tolist()) == {0.0, -torch.inf}
    torch.testing.assert_close(recomputed(call), call["attention"], rtol=0, atol=1e-5)


def test_nothing_is_left_behind_after_an_exception() -> None:
    model, batch = make("deberta"), batch_of("deberta")

    def refuse(module: str, **call: Any) -> None:
        raise KeyError(module)

    for mode in (torch.no_grad, torch.inference_mode):
        with pytest.raises(KeyError, match=r"layer\.0"), mode(), watching(model, refuse):
            model(**batch)
        with pytest.raises(KeyboardInterrupt), watching(model, _interrupt), mode():
            model(**batch)
        assert not torch.is_inference_mode_enabled() and torch.is_grad_enabled()
        assert _get_current_dispatch_mode() is None
        assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
    with torch.no_grad():
        assert len(watched(model, batch)[1]) == 2


def _interrupt(module: str, **call: Any) -> None:
    raise KeyboardInterrupt


def test_threads_do_not_meet() -> None:
    names, seen = ("bloom", "deberta"), dict[str, list[str]]()
    models = {name: make(name) for name in names}
    start = threading.Barrier(2)

    def run(name: str, other: str) -> None:
        modules: list[str] = []
        with torch.no_grad(), watching(models[name], lambda module, **call: modules.append(module)):
            start.wait()
            for _ in range(5):
                models[name](**batch_of(name))
                models[other](**batch_of(other))  # the other thread watches this one
        seen[name] = modules

    threads = [threading.Thread(target=run, args=pair) for pair in (names, names[::-1])]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert seen["bloom"] == [f"h.{i}.self_attention" for i in range(2)] * 5
    assert seen["deberta"] == [f"encoder.layer.{i}.attention.self" for i in range(2)] * 5


@pytest.mark.parametrize("name", ["deberta", "megatron-bert", "xlnet"])
def test_no_scores_of_earlier_layers_are_held(name: str) -> None:
    layers = "n_layer" if name == "xlnet" else "num_hidden_layers"
    most = {}
    gc.collect()
    gc.freeze()  # all that libraries hold is looked through no more
    try:
        for n_layers in (2, 6):
            model, batch = make(name, **{layers: n_layers}), batch_of(name)
            held: list[int] = []
            with torch.no_grad(), watching(model, lambda module, held=held, **call: held.append(_n_scores())):
                model(**batch)
            assert len(held) == n_layers
            most[n_layers] = max(held)
    finally:
        gc.unfreeze()
    assert most[6] == most[2] > 0


def _n_scores() -> int:
    """Count the tensors that live, were made since the freeze and have the size of the scores."""
    gc.collect()
    size = 2 * 4 * N_TOKENS**2
    return sum(issubclass(type(thing), Tensor) and thing.numel() == size for thing in gc.get_objects())
