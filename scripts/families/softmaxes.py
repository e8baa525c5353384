"""Softmaxes: how often does a model attend, if at all? Decided by what runs in its forward pass and by what it returns.

In: a model and inputs. Out: a count, and yes or no. Knows no names of families, and is on purpose another way than qkspace's
capture, so that an attention which that misses is not taken for none.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.weak import WeakTensorKeyDictionary

from .tiny import run

_PRODUCTS = ("bmm", "baddbmm")
_FUSED = ("scaled_dot_product", "native_multi_head_attention", "transformer_encoder_layer")
_ENDS = ("bmm", "baddbmm", "mm", "addmm", "convolution", "native_layer_norm", "embedding")  # no scores any more


class _Watch(TorchDispatchMode):
    """Follows batched products until a softmax runs over them; counts those."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0
        self._products = WeakTensorKeyDictionary()

    def __torch_dispatch__(self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        name = func.overloadpacket.__name__
        comes_of_product = any(isinstance(a, Tensor) and a in self._products for a in tree_leaves((args, kwargs)))
        if any(fused in name for fused in _FUSED) or ("softmax" in name and comes_of_product):
            self.count += 1
        elif name in _PRODUCTS or (comes_of_product and name not in _ENDS and "softmax" not in name):
            for tensor in tree_leaves(result):
                if isinstance(tensor, Tensor) and tensor.is_floating_point():
                    self._products[tensor] = True
        return result


def count_softmaxes(model: Any, inputs: dict[str, Tensor]) -> int:
    """Count the softmaxes that run over a product of two batches of vectors."""
    with _Watch() as watch:
        run(model, inputs)
    return watch.count


def reports_attention(model: Any, inputs: dict[str, Tensor]) -> bool:
    """Tell whether the output holds tensors of four axes under a name with "attention"."""
    return next(_attentions(model, inputs), None) is not None


def _attentions(model: Any, inputs: dict[str, Tensor]) -> Iterator[Tensor]:
    try:
        output = run(model, {**inputs, "output_attentions": True})
    except (TypeError, ValueError, NotImplementedError, AttributeError):  # it does not know the argument
        return
    for name, value in output.items() if hasattr(output, "items") else ():
        if "attention" in name:
            yield from (tensor for tensor in tree_leaves(value) if isinstance(tensor, Tensor) and tensor.ndim > 3)
