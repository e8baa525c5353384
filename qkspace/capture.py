"""Capture: watch the queries and keys of a model meet, in one forward pass, for every architecture alike.

In: a model of transformers and batches of token ids. Out: per layer the query, key, value and attention tensors, handed
to a function as they arise. Knows no files and no corpora.

One mechanism: transformers lets a model be switched to a registered attention function
(`AttentionInterface.register`). Ours calls the modelling file's own eager function, so that soft caps, sinks and
grouped keys are the model's own mathematics, and shows what went in and came out to a listener. The eager mask is
registered under the same name; without it a decoder would silently lose its causal mask.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from qkspace.schema import BoolArray, LayerSpec, QKSpaceError

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn
    from transformers import PreTrainedModel

IMPLEMENTATION = "qkspace_capture"  # must not contain "sdpa", "flex" or "flash": transformers looks for those words
TOLERANCE = {"torch.float32": 1e-4, "torch.float16": 5e-3, "torch.bfloat16": 3e-2, "torch.float64": 1e-6}


@dataclass(frozen=True, slots=True)
class AttentionCall:
    """One attention of one forward pass, as the model computed it.

    query (batch, head, token, d_head) and key, value (batch, kv_head, token, d_head) are the vectors that meet in the
    dot product, after rotary positions and normalisation; attention (batch, head, query token, key token) is the
    model's own. `mask` is added to the logits, or None where everything is allowed.
    """

    index: int
    module: str
    query: Tensor
    key: Tensor
    value: Tensor
    attention: Tensor
    mask: Tensor | None
    scale: float
    extras: tuple[str, ...]


Listener = Callable[[AttentionCall], None]
_listeners: dict[int, tuple[str, Callable[..., None]]] = {}  # id(attention module) -> (its name, who listens)


@contextmanager
def listening(model: PreTrainedModel, listener: Listener) -> Iterator[None]:
    """Show every attention of `model` to `listener` while the context lasts; calls are numbered from 0 in order.

    The model is in evaluation mode meanwhile and left as it was found, also after an exception; `forward` runs it. Models
    are independent of each other; one model can only be listened to once at a time.

    Raises:
        QKSpaceError: the model does not use the attention interface, or somebody listens already.
    """
    if not model._can_set_attn_implementation():
        raise QKSpaceError(
            f"{type(model).__name__} computes attention on its own and not through transformers' attention interface, so "
            "its queries and keys cannot be captured yet. Models that can: BERT, RoBERTa, DistilBERT, GPT-2, Llama, "
            "Mistral, Qwen and most others since transformers 5."
        )
    modules = {id(module): name for name, module in model.named_modules()}
    if any(key in _listeners for key in modules):
        raise QKSpaceError("This model is being captured already; wait until that is done.")
    n_calls = 0

    def number(name: str, **call: Any) -> None:
        nonlocal n_calls
        listener(AttentionCall(index=n_calls, module=name, **call))
        n_calls += 1

    state = _ModelState(model)
    _listeners.update({key: (name, number) for key, name in modules.items()})
    try:
        _register()
        model.set_attn_implementation(IMPLEMENTATION)
        yield
    finally:
        for key in modules:
            _listeners.pop(key, None)
        state.restore()


class _ModelState:
    """Training flags and attention implementations of a model, to be put back as they were."""

    def __init__(self, model: PreTrainedModel) -> None:
        self._training = [(module, module.training) for module in model.modules()]
        configs = {id(c): c for m in model.modules() if (c := getattr(m, "config", None)) is not None}
        for config in list(configs.values()):
            subs = [getattr(config, name, None) for name in getattr(config, "sub_configs", {})]
            configs.update({id(c): c for c in subs if c is not None})
        self._implementations = [(c, getattr(c, "_attn_implementation_internal", None)) for c in configs.values()]
        model.eval()

    def restore(self) -> None:
        """Put everything back."""
        for module, training in self._training:
            module.training = training
        for config, implementation in self._implementations:
            config._attn_implementation_internal = implementation


def _register() -> None:
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import eager_mask

    AttentionInterface.register(IMPLEMENTATION, _attend)
    AttentionMaskInterface.register(IMPLEMENTATION, eager_mask)


def _attend(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **options: Any
) -> tuple[Tensor, Tensor | None]:
    """Compute attention by the modelling file's own eager function and show it to who listens to this module."""
    eager = getattr(sys.modules[type(module).__module__], "eager_attention_forward", None)
    if eager is None:
        raise QKSpaceError(
            f"{type(module).__name__} uses the attention interface, but its file has no eager function to compute with; "
            "qkspace cannot capture it yet."
        )
    output, attention = eager(module, query, key, value, attention_mask, **options)
    if id(module) in _listeners:
        name, show = _listeners[id(module)]
        scaling = options.get("scaling")
        extras = tuple(sorted(k for k, v in options.items() if k in _EXTRAS and v is not None))
        scale = float(scaling if scaling is not None else getattr(module, "scaling", query.shape[-1] ** -0.5))
        show(
            name,
            query=query,
            key=key,
            value=value,
            attention=attention,
            mask=attention_mask,
            scale=scale,
            extras=extras,
        )
    return output, attention


_EXTRAS = ("position_bias", "softcap", "s_aux")  # what makes logits more than a scaled product, by transformers' names


@dataclass(frozen=True, slots=True)
class Check:
    """What the self-check found: the model's layers and the largest differences of attention weights.

    `captured_error`: attention as captured against the model's own eager attention; `recomputed_error`: the softmax of
    `scale * query . key` over what is allowed, computed from the captured vectors alone, against the same;
    `stored_error`: the same from the vectors rounded to the type that they are stored in.
    """

    layers: tuple[LayerSpec, ...]
    captured_error: float
    recomputed_error: float
    stored_error: float
    tolerance: float
    n_sequences: int
    n_tokens: int


def check(
    model: PreTrainedModel, batch: Mapping[str, Tensor], longest: Mapping[str, Tensor], storage: str = "float32"
) -> Check:
    """Compare what is captured on a short padded batch with the model's own eager attention.

    Args:
        model: any model of transformers whose `forward` takes the batch.
        batch: input_ids and attention_mask, (sequence, token), padded on the right.
        longest: the same for one sequence as long as any that will follow: only there do sliding windows show.
        storage: "float16" or "float32", the type whose rounding `stored_error` measures.

    Raises:
        QKSpaceError: the model cannot be captured, or attention is not the softmax of the captured product.
    """
    if getattr(model.config, "is_encoder_decoder", False):
        raise QKSpaceError(
            f"{type(model).__name__} is an encoder-decoder: queries and keys come from different sequences there, which "
            "this version does not handle. Encoders and decoders work."
        )
    reference = _eager_attentions(model, batch)
    calls: list[AttentionCall] = []
    with listening(model, calls.append):
        forward(model, batch)
    if len(calls) != len(reference) or not calls:
        raise QKSpaceError(
            f"{type(model).__name__}: {len(calls)} of its {len(reference)} attention layers go through transformers' "
            "attention interface, so its queries and keys cannot be captured completely. It is refused."
        )
    extras = sorted({extra for call in calls for extra in call.extras})
    if extras:  # a soft cap may not show on a short batch and yet matter later
        raise QKSpaceError(
            f"{type(model).__name__}: its attention is more than query . key: the model adds {', '.join(extras)}, which the "
            "product does not hold. A map of its queries and keys would mislead, so it is refused."
        )
    lengths = batch["attention_mask"].sum(dim=1).tolist()
    layers = _layer_specs(model, longest)
    captured, recomputed, stored = np.zeros((3, len(calls)))
    for i, (call, layer, own) in enumerate(zip(calls, layers, reference, strict=True)):
        for s, n in enumerate(lengths):
            want = own[s, :, :n, :n].float().cpu()
            seen, again = call.attention[s, :, :n, :n].float().cpu(), _recompute(call, layer, s, n)
            captured[i] = np.maximum(captured[i], (seen - want).abs().max().item())  # keeps nan, as max() would not
            recomputed[i] = np.maximum(recomputed[i], (again - want).abs().max().item())
            rounded = _recompute(call, layer, s, n, storage)
            stored[i] = np.maximum(stored[i], (rounded - want).abs().max().item())
    tolerance = TOLERANCE.get(str(calls[0].query.dtype), 1e-4)
    if not (captured.max() <= tolerance and recomputed.max() <= tolerance):  # written so that nan is refused too
        worst = calls[int(np.argmax(recomputed))]
        raise QKSpaceError(
            f"{type(model).__name__}: attention recomputed from query . key differs from the model's own by up to "
            f"{recomputed.max():.2g} (captured weights: {captured.max():.2g}; allowed: {tolerance:g}), most in "
            f"{worst.module}. A map of its queries and keys would mislead, so it is refused."
        )
    stored_error = float(np.nan_to_num(stored.max(), nan=1.0))  # nan where a float16 overflows, which is refused later
    worst_errors = (float(captured.max()), float(recomputed.max()), stored_error)
    return Check(layers, *worst_errors, tolerance, len(lengths), int(sum(lengths)))


def forward(model: PreTrainedModel, batch: Mapping[str, Tensor]) -> None:
    """Run one forward pass for its attention alone; no cache is kept where the model has one, and no gradients."""
    import torch

    with torch.inference_mode():
        model(**batch, use_cache=False) if getattr(model.config, "use_cache", False) else model(**batch)


def _eager_attentions(model: PreTrainedModel, batch: Mapping[str, Tensor]) -> tuple[Tensor, ...]:
    """Return the attention the model itself reports, each (sequence, head, query token, key token)."""
    import torch

    state = _ModelState(model)
    try:
        model.set_attn_implementation("eager")
        options = {"use_cache": False} if getattr(model.config, "use_cache", False) else {}
        with torch.inference_mode():
            attentions = getattr(model(**batch, output_attentions=True, **options), "attentions", None)
    finally:
        state.restore()
    if not attentions or any(a is None for a in attentions):
        raise QKSpaceError(
            f"{type(model).__name__} reports no attention of its own, so nothing can be checked against it."
        )
    return tuple(attentions)


def _layer_specs(model: PreTrainedModel, longest: Mapping[str, Tensor]) -> tuple[LayerSpec, ...]:
    """Describe every layer from one forward pass over one sequence; its mask tells causality and window."""
    layers: list[LayerSpec] = []

    def describe(call: AttentionCall) -> None:
        causal, window = read_mask(observed_mask(call, 0, call.query.shape[2]), call.module)
        n_heads, n_kv_heads, d_head = call.query.shape[1], call.key.shape[1], call.query.shape[3]
        layers.append(LayerSpec(call.module, n_heads, n_kv_heads, d_head, call.scale, causal, window))

    with listening(model, describe):
        forward(model, longest)
    return tuple(layers)


def observed_mask(call: AttentionCall, sequence: int, n: int) -> BoolArray:
    """Return who may attend to whom in one sequence of a batch: (query token, key token)."""
    if call.mask is None:
        return np.ones((n, n), dtype=bool)
    mask = call.mask.expand(call.query.shape[0], -1, call.query.shape[2], -1)[sequence, 0, :n, :n]
    allowed = mask if mask.dtype == _bool_dtype() else mask > -1e4  # "not allowed" is the type's lowest number
    return np.asarray(allowed.cpu().numpy(), dtype=bool)


def _bool_dtype() -> torch.dtype:
    import torch

    return torch.bool


def read_mask(allowed: BoolArray, module: str) -> tuple[bool, int | None]:
    """Describe a mask as (causal, window).

    Raises:
        QKSpaceError: the mask is neither full nor causal, with or without a sliding window.
    """
    n = len(allowed)
    offset = np.arange(n)[:, None] - np.arange(n)[None, :]
    causal = n > 1 and not allowed[offset < 0].any()
    reach = int(np.abs(offset[allowed]).max()) + 1
    window = reach if reach < n else None
    spec = LayerSpec(module, 1, 1, 1, 1.0, causal, window)
    if not np.array_equal(spec.allowed(n), allowed):
        raise QKSpaceError(
            f"{module}: its attention mask is neither full nor causal, with or without a sliding window; qkspace cannot "
            "rebuild such attention from an index yet."
        )
    return causal, window


def _recompute(call: AttentionCall, layer: LayerSpec, sequence: int, n: int, storage: str = "float32") -> Tensor:
    """Return softmax(scale * query . key) of one sequence from the captured vectors alone, in float32: (head, n, n).

    The vectors are first rounded to `storage`.
    """
    import torch

    dtype = {"float16": torch.float16, "float32": torch.float32}[storage]
    query = call.query[sequence, :, :n].to(dtype).float().cpu()
    key = call.key[sequence, :, :n].to(dtype).float().cpu().repeat_interleave(layer.n_heads // layer.n_kv_heads, dim=0)
    logit = layer.scale * query @ key.transpose(1, 2)  # (head, query token, key token)
    return torch.softmax(logit.masked_fill(~torch.from_numpy(layer.allowed(n)), -torch.inf), dim=-1)
