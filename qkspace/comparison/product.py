"""How far training moved W_Q^T W_K of each head, read from the weights of two checkpoints.

In: two loaded models and the layers of the base. Out: a relative change a head, or None for a layer whose weights alone do
not say it. Knows no corpus and no disk.

A head attends by softmax(scale * (x W_Q + b_Q) (y W_K + b_K)^T) over y, with x and y what enters its module. So what counts
is the product scale * [W_Q; b_Q] W_K^T, (d_model + 1, d_model), which is the same in every gauge. The key's bias adds
scale * (x W_Q + b_Q) b_K^T, the same for every y, and the softmax does not see it. That holds for a plain product only: with
rotary positions or normalised queries and keys something stands between the two weights, and there is no number.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from qkspace.capture import AttentionCall, forward, listening
from qkspace.observe import TOLERANCE
from qkspace.schema import LayerSpec
from qkspace.weights import input_device

if TYPE_CHECKING:
    from torch import Tensor, nn
    from transformers import PreTrainedModel

Float64Array = NDArray[np.float64]

PAIRS = (("query", "key"), ("q_proj", "k_proj"), ("q_lin", "k_lin"), ("q", "k"))  # what modules call the two
FUSED = "c_attn"  # GPT-2's: queries, keys and values side by side
BETWEEN = ("q_norm", "k_norm", "rotary_emb")  # what a module has where more than a product makes its logits
N_TOKENS = 8  # of the input that the reading of the weights is checked on


def weight_product_change(
    base_model: PreTrainedModel, tuned_model: PreTrainedModel, layers: Sequence[LayerSpec]
) -> dict[int, Float64Array | None]:
    """Return |P_tuned - P_base| / |P_base| (Frobenius) of P = scale * [W_Q; b_Q] W_K^T for each head: layer -> (head).

    0 means that the same inputs attend the same. What enters the module is not part of it: a layer before it, or the
    gain of a norm, may change with no trace here. A base whose product is 0 gives 0 where the tuned one is too, else inf.

    None stands for a layer with rotary positions, a position part, normalised queries or keys, projections of an unknown
    kind, or shapes that differ between the two; so does a model that reads anything but one text. Nothing is taken on
    trust: both models run on a short input, and the weights that were found must give the queries and keys captured there.
    """
    from threadpoolctl import threadpool_limits

    base, tuned = (_projections(model, layers) for model in (base_model, tuned_model))
    with threadpool_limits(1):  # of small matrices, over which threads only wait for each other
        return {layer: _change(one, other) for layer, (one, other) in enumerate(zip(base, tuned, strict=True))}


@dataclass(frozen=True, slots=True)
class _Projections:
    """What makes the queries and keys of one layer: views of weights (d_model, head * d_head), biases (head * d_head)."""

    query: Tensor
    query_bias: Tensor | None
    key: Tensor
    key_bias: Tensor | None
    d_head: int
    scale: float

    @property
    def shape(self) -> tuple[int, int, int]:
        """Length of an input, heads, and heads of keys."""
        return int(self.query.shape[0]), self.query.shape[1] // self.d_head, self.key.shape[1] // self.d_head

    def query_of(self, head: int) -> Float64Array:
        """Return [W_Q; b_Q] of a head: (d_model + 1, d_head)."""
        return self._of(self.query, self.query_bias, head)

    def key_of(self, kv_head: int) -> Float64Array:
        """Return [W_K; b_K] of a head of keys: (d_model + 1, d_head)."""
        return self._of(self.key, self.key_bias, kv_head)

    def _of(self, weight: Tensor, bias: Tensor | None, head: int) -> Float64Array:
        columns = slice(head * self.d_head, (head + 1) * self.d_head)
        bias_row = np.zeros((1, self.d_head)) if bias is None else _array(bias[columns])[None]
        return np.concatenate([_array(weight[:, columns]), bias_row])


def _change(base: _Projections | None, tuned: _Projections | None) -> Float64Array | None:
    """Return the relative change of each head's product: (head); None where one is missing or shaped otherwise."""
    if base is None or tuned is None or base.shape != tuned.shape:
        return None
    _, n_heads, n_kv_heads = base.shape
    change = np.zeros(n_heads)
    for kv_head in range(n_kv_heads):
        keys = base.key_of(kv_head)[:-1], tuned.key_of(kv_head)[:-1]  # without the bias
        key_root, base_key_root = _root(np.hstack(keys)), _root(keys[0])
        group = n_heads // n_kv_heads
        for head in range(kv_head * group, (kv_head + 1) * group):
            queries = base.scale * base.query_of(head), tuned.scale * tuned.query_of(head)
            if np.array_equal(*queries) and np.array_equal(*keys):
                continue
            query_root = _root(np.hstack([-queries[0], queries[1]]))
            size = np.linalg.norm(_root(queries[0]) @ base_key_root.T)
            change[head] = _ratio(float(np.linalg.norm(query_root @ key_root.T)), float(size))
    return change


def _root(rows: Float64Array) -> Float64Array:
    """Return R with |rows @ x| = |R @ x| for any x, so that |A B^T| = |R_A R_B^T| and no (d_model, d_model) is formed."""
    return np.asarray(np.linalg.qr(rows, mode="r"))


def _ratio(change: float, size: float) -> float:
    """Return change / size, whatever is 0."""
    return change / size if size > 0 else np.inf if change > 0 else 0.0


def _projections(model: PreTrainedModel, layers: Sequence[LayerSpec]) -> list[_Projections | None]:
    """Return the weights of each layer that were seen to make its queries and keys."""
    found: list[_Projections | None] = [None] * len(layers)
    if _is_rotary(model) or not _reads_one_text(model) or not model._can_set_attn_implementation():
        return found
    modules = dict(model.named_modules())
    entering: dict[str, Tensor] = {}

    def compare(call: AttentionCall) -> None:
        is_known = call.index < len(layers) and call.module == layers[call.index].module
        if is_known and call.module in entering and layers[call.index].is_product:
            read = _read(modules[call.module], call)
            found[call.index] = read if read and _makes(read, entering[call.module], call) else None

    with _inputs({layer.module: modules.get(layer.module) for layer in layers}, entering), listening(model, compare):
        forward(model, _short_input(model))
    return found


def _reads_one_text(model: PreTrainedModel) -> bool:
    from torch import nn

    try:
        embedding = model.get_input_embeddings()
    except NotImplementedError:
        return False
    return isinstance(embedding, nn.Embedding) and not model.config.is_encoder_decoder


def _is_rotary(model: PreTrainedModel) -> bool:
    """Tell whether queries and keys are turned by their positions, so that W_Q^T W_K stands nowhere alone."""
    config = model.config.get_text_config()
    says_so = any(getattr(config, name, None) is not None for name in ("rope_parameters", "rope_theta", "rope_scaling"))
    return says_so or any("rotary" in name for name, _ in model.named_modules())


def _short_input(model: PreTrainedModel) -> dict[str, Tensor]:
    """Return one sequence of tokens from all over the vocabulary."""
    import torch

    embedding: Any = model.get_input_embeddings()
    n = int(embedding.weight.shape[0])
    ids = torch.linspace(0, n - 1, N_TOKENS, device=input_device(model)).long()[None]
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


@contextmanager
def _inputs(modules: dict[str, nn.Module | None], entering: dict[str, Tensor]) -> Iterator[None]:
    """Keep in `entering`, while the context lasts, what last entered each module: (batch, token, d_model)."""

    def keep(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, positional: tuple[Any, ...], named: dict[str, Any]) -> None:
            hidden = positional[0] if positional else named.get("hidden_states")
            if hidden is not None:
                entering[name] = hidden

        return hook

    with ExitStack() as stack:
        for name, module in modules.items():
            if module is not None:
                stack.callback(module.register_forward_pre_hook(keep(name), with_kwargs=True).remove)
        yield


def _read(module: nn.Module, call: AttentionCall) -> _Projections | None:
    """Find the two projections of an attention module by their names; None where there are none such."""
    if any(hasattr(module, name) for name in BETWEEN):
        return None
    n_query, n_key, d_head = call.query.shape[1], call.key.shape[1], call.query.shape[3]
    for query_name, key_name in PAIRS:
        query, key = (_oriented(getattr(module, name, None)) for name in (query_name, key_name))
        if query and key:
            return _Projections(*query, *key, d_head, call.scale)
    fused = _oriented(getattr(module, FUSED, None))
    if not fused:
        return None
    weight, bias = fused
    first, second = slice(n_query * d_head), slice(n_query * d_head, (n_query + n_key) * d_head)
    biases = (None, None) if bias is None else (bias[first], bias[second])
    return _Projections(weight[:, first], biases[0], weight[:, second], biases[1], d_head, call.scale)


def _oriented(projection: object) -> tuple[Tensor, Tensor | None] | None:
    """Return weight (in, out) and bias (out) of a Linear or a Conv1D; None for anything else."""
    from torch import nn
    from transformers.pytorch_utils import Conv1D

    if isinstance(projection, nn.Linear):
        return projection.weight.detach().T, None if projection.bias is None else projection.bias.detach()
    if isinstance(projection, Conv1D):
        return projection.weight.detach(), projection.bias.detach()
    return None


def _makes(read: _Projections, hidden: Tensor, call: AttentionCall) -> bool:
    """Tell whether the weights, given what entered the module, make the queries and keys that were captured."""
    d_model, n_heads, n_kv_heads = read.shape
    fits = n_heads == call.query.shape[1] and n_kv_heads == call.key.shape[1] and n_heads % max(n_kv_heads, 1) == 0
    if not fits or hidden.shape != (1, call.query.shape[2], d_model):
        return False
    tolerance = TOLERANCE.get(str(call.query.dtype), 1e-4)
    entered = np.pad(_array(hidden[0]), ((0, 0), (0, 1)), constant_values=1.0)  # (token, d_model + 1)
    for captured, n, part in ((call.query, n_heads, read.query_of), (call.key, n_kv_heads, read.key_of)):
        wanted = _array(captured[0])  # (head, token, d_head)
        made = np.stack([entered @ part(head) for head in range(n)])
        if not np.abs(made - wanted).max() <= tolerance * max(1.0, float(np.abs(wanted).max())):  # nan is refused too
            return False
    return True


def _array(tensor: Tensor) -> Float64Array:
    import torch

    return np.asarray(tensor.detach().to("cpu", torch.float64).numpy())
