"""Masks: who may attend to whom, read off what a model adds to its logits.

In: the tensors of one attention. Out: a mask of booleans, or its description, and what is added beside it. Runs no model.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from qkspace.schema import BoolArray, FloatArray, LayerSpec, QKSpaceError

if TYPE_CHECKING:
    from torch import Tensor

    from qkspace.capture import AttentionCall

NOT_ALLOWED = -9e3  # a logit below this is a mask's: some models add -10,000, most the lowest number of the type

FORM_TOLERANCE = {"torch.float32": 1e-4, "torch.float64": 1e-4, "torch.float16": 2e-3, "torch.bfloat16": 1e-2}


def added(call: AttentionCall, sequence: int, n_queries: int, n_keys: int) -> FloatArray | None:
    """Return what is added to the logits of one sequence of a batch: (head or 1, query token, key token).

    float32, -inf where a query may not attend; None where nothing is added.
    """
    parts = [_part(tensor, call, sequence, n_queries, n_keys) for tensor in (call.mask, call.bias)]
    found = [part for part in parts if part is not None]
    if not found:
        return None
    total = np.asarray(found[0] if len(found) == 1 else found[0] + found[1], dtype=np.float32)
    return np.where(total > NOT_ALLOWED, total, np.float32(-np.inf))


def _part(tensor: Tensor | None, call: AttentionCall, sequence: int, n_queries: int, n_keys: int) -> FloatArray | None:
    import torch

    if tensor is None:
        return None
    part = of_sequence(tensor, call, sequence)[:, :n_queries, :n_keys]
    if part.dtype == torch.bool:
        part = torch.zeros(part.shape, device=part.device).masked_fill(~part, -torch.inf)
    return np.asarray(part.float().cpu().numpy())


def of_sequence(tensor: Tensor, call: AttentionCall, sequence: int) -> Tensor:
    """Return a mask or bias, however few of its axes are there, of one sequence: (head or 1, query token, key token)."""
    whole = tensor.reshape((1,) * (4 - tensor.dim()) + tuple(tensor.shape))
    return whole.expand(len(call.query), -1, call.query.shape[2], call.key.shape[2])[sequence]


def observed_mask(call: AttentionCall, sequence: int, n: int, n_keys: int | None = None) -> BoolArray:
    """Return who may attend to whom in one sequence of a batch: (query token, key token), as its first head has it."""
    import torch

    n_keys = n if n_keys is None else n_keys
    allowed = np.ones((n, n_keys), dtype=bool)
    for tensor in (call.mask, call.bias):
        if tensor is not None:
            part = of_sequence(tensor, call, sequence)[0, :n, :n_keys]
            here = part if part.dtype == torch.bool else part > NOT_ALLOWED
            allowed &= np.asarray(here.cpu().numpy(), dtype=bool)
    return allowed


def read_mask(allowed: BoolArray, module: str) -> tuple[bool, int | None]:
    """Describe a mask as (causal, window).

    Raises:
        QKSpaceError: the mask is neither full nor causal, with or without a sliding window.
    """
    n = len(allowed)
    offset = np.arange(n)[:, None] - np.arange(n)[None, :]
    causal = n > 1 and not allowed[offset < 0].any()
    reach = int(np.abs(offset[allowed]).max(initial=0)) + 1
    window = reach if reach < n else None
    if not np.array_equal(LayerSpec(module, 1, 1, 1, 1.0, causal, window).allowed(n), allowed):
        raise QKSpaceError(
            f"{module}: its attention mask is neither full nor causal, with or without a sliding window."
        )
    return causal, window
