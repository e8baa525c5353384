"""Unfold: a map of one head on which nearness is attention, learnt from the attention itself.

In: the normalised samples of some heads that attend alike over the same sequences. Out: the state of one map each.
Fitting needs torch; placing is numpy alone, so that a page can do it.

Queries and keys are placed by two functions f, g such that softmax_j(-|f(query_i) - g(key_j)|^2) is as near as it can be to
attention: multidimensional unfolding (Coombs, A Theory of Data, 1964) with the loss of stochastic neighbour embedding (Hinton
and Roweis 2002). What position adds to the logits is added to -|f - g|^2 too, and the map is left with the content. f and g
are a linear map plus a small network, as in parametric t-SNE (van der Maaten 2009), so that new vectors are placed without
any search. docs/method.md derives it and gives its limits.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from qkspace.schema import FloatArray, HeadSample, IntArray, Positions

if TYPE_CHECKING:
    import torch
    from torch import Tensor

State = dict[str, NDArray[Any]]

HIDDEN = 64  # width of both layers of the networks; 128 gains 0.001 of recall@1
STEPS = 400
JOINT_STEPS = 2_000  # of one map for all heads of a model, which share what a head has for itself otherwise
BATCH_TOKENS = 768  # padded tokens of one step
LINEAR_RATE, NETWORK_RATE = 0.05, 0.006  # of Adam, at their highest
WARM_UP = 10  # steps
CONTENT_WEIGHT = 1.0  # of the loss among content tokens alone, which the sinks would drown
LEAST_SPREAD = 0.1  # of the mean spread: a dimension in which a head hardly moves is not blown up
PAIR_BYTES = 192 << 20  # attention of the heads that are fitted together
MASKED = -1e30  # a logit that softmax makes 0, without the nan that -inf gives a row with nothing allowed


@dataclass(frozen=True, slots=True)
class _Batch:
    """Some sequences of like length: index of their tokens (sequence, token), and who attends to whom.

    allowed and content (sequence, query token, key token); attention and content_attention (head, sequence, query token,
    key token), rows of padding 0. bias: (head, sequence, query token, key token), what position adds to the logits; None
    for nothing. share: (head, sequence, query token, 1), what a sink leaves to the keys of a row; None where there is none.
    """

    index: Tensor
    allowed: Tensor
    content: Tensor
    attention: Tensor
    content_attention: Tensor
    bias: Tensor | None
    share: Tensor | None


def fit_unfold(
    samples: Sequence[HeadSample], dims: int, seed: int, *, hidden: int = HIDDEN, steps: int | None = None
) -> list[State]:
    """Fit the maps of some heads; their samples must be of the same sequences and attend by the same mask and scale.

    The loss of a head is the mean over queries of KL(attention || softmax_j(-|z_query_i - z_key_j|^2 + bias_ij)), plus
    `CONTENT_WEIGHT` times the same among content tokens alone. It starts from principal axes and takes `steps` (`STEPS`) of
    Adam. With `hidden` 0 the map is linear. The same seed gives the same maps.

    State: `mean` and `spread` (d_head), which queries and keys are standardised by; `query_matrix`, `key_matrix`
    (d_head, dims) and `key_offset` (dims), the linear part; `query_weight0`..2, `query_bias0`..2 and those of `key`,
    the networks.
    """
    maps: list[State] = []
    with _one_thread():
        for group in _groups(samples):
            maps += _fit(group, dims, seed, hidden, steps or STEPS)
    return maps


def place_unfold(state: Mapping[str, NDArray[Any]], query: FloatArray, key: FloatArray) -> Positions:
    """Place rows (token, d_head) by the linear part and the network of each side: (token, dims)."""
    placed = {}
    for side, rows in (("query", query), ("key", key)):
        x = ((rows - state["mean"]) / state["spread"]).astype(np.float32)
        out = x @ state[f"{side}_matrix"]
        if f"{side}_weight0" in state:
            for layer in range(3):
                x = x @ state[f"{side}_weight{layer}"] + state[f"{side}_bias{layer}"]
                x = _gelu(x) if layer < 2 else x
            out = out + x
        placed[side] = out
    return Positions(query=placed["query"], key=placed["key"] + state["key_offset"])


def _gelu(x: FloatArray) -> FloatArray:
    """Return the tanh form of the Gaussian error linear unit (Hendrycks and Gimpel 2016)."""
    inner = np.float32(math.sqrt(2 / math.pi)) * (x + np.float32(0.044715) * x * x * x)
    activated: FloatArray = np.float32(0.5) * x * (1 + np.tanh(inner))
    return activated


@contextmanager
def _one_thread() -> Iterator[None]:
    """Keep torch to one thread: steps are small, and on a busy machine to wait for each other made them 20 times slower."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _groups(samples: Sequence[HeadSample]) -> Iterator[Sequence[HeadSample]]:
    """Cut heads into groups whose attention takes at most `PAIR_BYTES`."""
    pairs = int(np.sum(np.diff(samples[0].starts).astype(np.int64) ** 2))
    size = max(1, PAIR_BYTES // ((8 if samples[0].bias is None else 12) * max(pairs, 1)))
    for first in range(0, len(samples), size):
        yield samples[first : first + size]


def _fit(samples: Sequence[HeadSample], dims: int, seed: int, hidden: int, steps: int) -> list[State]:
    """Fit heads together: every tensor has the head first."""
    import torch

    query, key = (torch.from_numpy(np.stack([getattr(s, side) for s in samples])) for side in ("query", "key"))
    query, key = query.float(), key.float()  # (head, token, d_head)
    asked, read = query, key
    if samples[0].n_source is not None:
        asked, read = query[:, samples[0].is_query], key[:, samples[0].is_key]
    mean = (asked.mean(dim=1, keepdim=True) + read.mean(dim=1, keepdim=True)) / 2
    spread = ((asked.var(dim=1, keepdim=True, correction=0) + read.var(dim=1, keepdim=True, correction=0)) / 2).sqrt()
    spread = spread + LEAST_SPREAD * spread.mean(dim=2, keepdim=True)
    spread = torch.where(spread > 0, spread, torch.ones_like(spread))
    batches = _batches(samples, query, key)
    inputs = {"query": (query - mean) / spread, "key": (key - mean) / spread}
    start = _principal_axes(asked - mean, read - mean, dims) * math.sqrt(samples[0].layer.scale / 2)
    weights = _weights(spread.transpose(1, 2) * start, hidden, torch.Generator().manual_seed(seed))
    _descend(weights, inputs, batches, steps, np.random.default_rng(seed))
    arrays = {name: w.detach().numpy() for name, w in weights.items()}
    fixed = {"mean": mean[:, 0].numpy(), "spread": spread[:, 0].numpy()}
    return [
        {
            name: array[h].squeeze(0) if "bias" in name or "offset" in name else array[h]
            for name, array in {**fixed, **arrays}.items()
        }
        for h in range(len(samples))
    ]


def _principal_axes(query: Tensor, key: Tensor, dims: int) -> Tensor:
    """Return the first axes of centred queries and keys together: (head, d_head, dims)."""
    import torch

    rows = torch.cat([query, key], dim=1)
    axes: Tensor = torch.linalg.eigh(rows.transpose(1, 2) @ rows)[1][..., -dims:].flip(-1)
    sign = axes.gather(1, axes.abs().argmax(dim=1, keepdim=True)).sign()
    return axes * sign


def _weights(start: Tensor, hidden: int, generator: torch.Generator) -> dict[str, Tensor]:
    """Return the parameters before the first step: the linear parts at `start`, the networks near 0."""
    import torch

    n_heads, d_head, dims = start.shape
    weights = {"query_matrix": start.clone(), "key_matrix": start.clone(), "key_offset": torch.zeros(n_heads, 1, dims)}
    sizes = (d_head, hidden, hidden, dims)
    for side in ("query", "key") if hidden else ():
        for layer, (n_in, n_out) in enumerate(itertools.pairwise(sizes)):
            gain = math.sqrt(2 / n_in) if layer < 2 else 1e-2 / math.sqrt(n_in)
            drawn = torch.randn(n_in, n_out, generator=generator) * gain  # the same for every head: alone or in a group
            weights[f"{side}_weight{layer}"] = drawn.repeat(n_heads, 1, 1)
            weights[f"{side}_bias{layer}"] = torch.zeros(n_heads, 1, n_out)
    return {name: w.requires_grad_() for name, w in weights.items()}


def _batches(samples: Sequence[HeadSample], query: Tensor, key: Tensor) -> list[_Batch]:
    """Group sequences of like length, and compute the attention of every head over each group."""
    import torch

    from qkspace.extract import make_batches

    sample = samples[0]
    lengths = np.diff(sample.starts)
    content = torch.from_numpy(sample.is_content)
    batches = []
    for chosen in make_batches(lengths[lengths > 0], BATCH_TOKENS, len(query)):
        chosen = np.flatnonzero(lengths > 0)[chosen]
        n = int(lengths[chosen].max())
        inside = torch.from_numpy(np.arange(n) < lengths[chosen, None])  # (sequence, token)
        index = torch.from_numpy(sample.starts[chosen, None] + np.arange(n)) * inside
        allowed = inside[:, :, None] & inside[:, None, :] & _allowed(sample, chosen, n)
        is_content = content[index] & inside
        among = allowed & is_content[:, :, None] & is_content[:, None, :]
        logit = sample.layer.scale * query[:, index] @ key[:, index].transpose(-1, -2)
        if sample.shift is not None:
            logit = logit - torch.from_numpy(np.stack([np.asarray(s.shift) for s in samples]))[:, index, None].float()
        if sample.layer.softcap is not None:
            logit = sample.layer.softcap * torch.tanh(logit / sample.layer.softcap)
        bias = None if sample.bias is None else _bias(samples, chosen, n)
        logit = logit if bias is None else logit + bias
        attention, of_content = (_softmax(logit, mask) for mask in (allowed, among))
        share = None
        if sample.sink is not None:
            sink = torch.from_numpy(np.stack([np.asarray(s.sink)[chosen] for s in samples]))[:, :, None].float()
            share = _share(logit, allowed, sink)
            attention *= share
        batches.append(_Batch(index, allowed, among, attention, of_content, bias, share))
    return batches


def _allowed(sample: HeadSample, chosen: IntArray, n: int) -> Tensor:
    """Return who may attend to whom in some sequences, padded to n tokens: (sequence or 1, query token, key token)."""
    import torch

    if sample.n_source is None and sample.bias is None:
        return torch.from_numpy(sample.layer.allowed(n))[None]
    allowed = np.zeros((len(chosen), n, n), dtype=bool)
    for i, s in enumerate(chosen):
        mask = sample.allowed(int(s))
        allowed[i, : len(mask), : len(mask)] = mask
    return torch.from_numpy(allowed)


def _bias(samples: Sequence[HeadSample], chosen: IntArray, n: int) -> Tensor:
    """Return what position adds to the logits of some sequences: (head, sequence, query token, key token)."""
    import torch

    bias = np.zeros((len(samples), len(chosen), n, n), dtype=np.float32)
    for head, sample in enumerate(samples):
        for i, s in enumerate(chosen):
            values = np.asarray(sample.bias[s] if sample.bias is not None else 0, dtype=np.float32)
            bias[head, i, : len(values), : len(values)] = np.maximum(values, MASKED)  # -inf would leave a nan behind
    return torch.from_numpy(bias)


def _share(logit: Tensor, allowed: Tensor, sink: Tensor) -> Tensor:
    """Return the share of each row that a sink leaves to keys: (head, sequence, query token, 1); sink (head, sequence, 1)."""
    import torch

    of_keys = torch.logsumexp(logit.masked_fill(~allowed, MASKED), dim=-1)
    return torch.sigmoid(of_keys - sink)[..., None]


def _softmax(logit: Tensor, allowed: Tensor) -> Tensor:
    """Return the softmax of each row over what is allowed, 0 in rows where nothing is."""
    import torch

    return torch.softmax(logit.masked_fill(~allowed, MASKED), dim=-1) * allowed.any(dim=-1, keepdim=True)


def _descend(
    weights: dict[str, Tensor], inputs: dict[str, Tensor], batches: list[_Batch], steps: int, rng: np.random.Generator
) -> None:
    """Take `steps` of Adam, a batch each in random order, its rate rising at first and falling as a cosine."""
    import torch

    linear = [w for name, w in weights.items() if "matrix" in name or "offset" in name]
    network = [w for name, w in weights.items() if "weight" in name or "bias" in name]
    rates = (LINEAR_RATE, NETWORK_RATE)
    optimiser = torch.optim.Adam([{"params": p} for p in (linear, network) if p], betas=(0.9, 0.99))
    order: list[int] = []
    for step in range(steps):
        order = order or rng.permutation(len(batches)).tolist()
        batch = batches[order.pop()]
        factor = min(1.0, (step + 1) / WARM_UP) * 0.5 * (1 + math.cos(math.pi * step / steps))
        for group, rate in zip(optimiser.param_groups, rates, strict=False):
            group["lr"] = rate * factor
        placed = {side: _place(weights, side, x[:, batch.index]) for side, x in inputs.items()}
        with torch.no_grad():
            gradients = _gradients(placed["query"].detach(), placed["key"].detach(), batch)
        optimiser.zero_grad()
        torch.autograd.backward([placed["query"], placed["key"]], gradients)
        optimiser.step()


def _place(weights: dict[str, Tensor], side: str, rows: Tensor) -> Tensor:
    """Place standardised rows (head, sequence, token, d_head): (head, sequence, token, dims)."""
    from torch.nn.functional import gelu

    shape, x = rows.shape, rows.flatten(1, 2)
    out = x @ weights[f"{side}_matrix"]
    if f"{side}_weight0" in weights:
        for layer in range(3):
            x = weights[f"{side}_bias{layer}"].baddbmm(x, weights[f"{side}_weight{layer}"])
            x = gelu(x, approximate="tanh") if layer < 2 else x
        out = out + x
    if side == "key":
        out = out + weights["key_offset"]
    return out.view(*shape[:3], -1)


def _gradients(query: Tensor, key: Tensor, batch: _Batch) -> list[Tensor]:
    """Return the gradients of the loss with respect to the places of queries and keys (head, sequence, token, dims).

    With logit l_ij = -|z_i - z_j|^2, of which |z_i|^2 is the same along a row, the gradient with respect to l is
    (softmax - attention) / rows; that of the places follows by the product rule.
    """
    logit = 2 * query @ key.transpose(-1, -2) - (key * key).sum(dim=-1).unsqueeze(-2)
    logit = logit if batch.bias is None else logit + batch.bias
    shown = _softmax(logit, batch.allowed)
    shown = shown if batch.share is None else shown * batch.share
    slope = (shown - batch.attention) / batch.allowed.any(dim=-1).sum()
    if batch.content.any():
        among = _softmax(logit, batch.content) - batch.content_attention
        slope = slope + among * (CONTENT_WEIGHT / batch.content.any(dim=-1).sum())
    back = slope.transpose(-1, -2)
    return [2 * slope @ key, 2 * back @ query - 2 * key * back.sum(dim=-1, keepdim=True)]
