"""Measure capture over long texts: peak memory and time of a forward pass, beside what transformers itself offers.

In: a length. Out: printed figures, each way in a process of its own. The model is a Llama with random weights (8 layers, 16
heads, 4 of keys), for no decoder with a context of 4,096 tokens is at hand: neither memory nor time depends on the weights.
"""

from __future__ import annotations

import resource
import subprocess
import sys
import time
from typing import Any

import numpy as np

LENGTHS = (1024, 2048, 4096)
WAYS = {
    "bare": "the model alone, torch's fused kernel",
    "attentions": "transformers, eager, output_attentions=True",
    "exact": "qkspace, --forward exact",
    "sdpa": "qkspace, --forward sdpa",
}
SHAPE = {
    "hidden_size": 512,
    "intermediate_size": 1024,
    "num_hidden_layers": 8,
    "num_attention_heads": 16,
    "num_key_value_heads": 4,
    "vocab_size": 2000,
    "max_position_embeddings": 4096,
    "initializer_range": 0.06,
}


def long(rounds: int) -> None:
    """Print peak memory and median time of every way and length, and how far the two forwards of qkspace are apart."""
    print(
        "\nlong: one text of n tokens through a Llama of 8 layers x 16 heads, float32; peak memory above that of the model"
    )
    for n in LENGTHS:
        base = _run("load", n, 1)[0]
        found = {way: _run(way, n, rounds) for way in WAYS}
        for way, (peak, seconds) in found.items():
            memory, exact = peak - base, max(found["exact"][0] - base, 1)
            print(
                f"  {n:>5} tokens  {WAYS[way]:<46} {memory:>8,.0f} MiB {seconds:>7.2f} s  "
                f"{memory / exact:.2f} of exact in memory, {seconds / found['bare'][1]:.2f} of bare"
            )
    apart, rebuilt = _differences(2048)
    print(
        f"  2,048 tokens: exact and sdpa differ by at most {apart:.1e} in a weight; exact and transformers by {rebuilt:.1e}"
    )


def _run(way: str, n: int, rounds: int) -> tuple[float, float]:
    result = subprocess.run(
        [sys.executable, __file__, way, str(n), str(rounds)], check=True, capture_output=True, text=True
    )
    peak, seconds = (float(word) for word in result.stdout.split()[-2:])
    return peak, seconds


def make() -> Any:
    """Return the model."""
    import torch
    from transformers import LlamaConfig, LlamaModel

    torch.manual_seed(0)
    return LlamaModel(LlamaConfig(**SHAPE)).eval()


def one(way: str, n: int, rounds: int) -> None:
    """Run one way and print its peak memory in MiB and the median of its seconds."""
    import torch

    model = make()
    ids = torch.randint(0, 2000, (1, n), generator=torch.Generator().manual_seed(0))
    batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    seconds = [_timed(model, batch, way) for _ in range(rounds)]
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, np.median(seconds))


def _timed(model: Any, batch: dict[str, Any], way: str) -> float:
    import torch

    from qkspace.capture import forward
    from qkspace.extract import Keep, Unit, extract
    from qkspace.feed import TextFeed, Tokens
    from qkspace.selfcheck import check

    start = time.perf_counter()
    if way == "bare":
        model.set_attn_implementation("sdpa")
        forward(model, batch)
    elif way == "attentions":
        model.set_attn_implementation("eager")
        with torch.inference_mode():
            model(**batch, use_cache=False, output_attentions=True)
    elif way in ("exact", "sdpa"):
        n = batch["input_ids"].shape[1]
        short = {name: values[:, :32] for name, values in batch.items()}
        found = check(model, short, short)
        ids = batch["input_ids"][0].numpy()
        tokens = Tokens(ids, np.zeros(n, dtype=bool), np.array([0, n]), np.ones(1, dtype=bool))
        start = time.perf_counter()
        keep = Keep(8, "float16", how=way)  # type: ignore[arg-type]
        for _ in extract(model, found, tokens, [Unit(0, 0, 1, 0, n)], TextFeed(tokens, 0), keep, batch_tokens=n):
            pass
    return time.perf_counter() - start


def _differences(n: int) -> tuple[float, float]:
    """Return the largest difference of a weight between the two forwards, and between exact and transformers' own."""
    import torch

    from qkspace.capture import forward, listening

    model = make()
    ids = torch.randint(0, 2000, (1, n), generator=torch.Generator().manual_seed(0))
    batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    kept: dict[str, list[Any]] = {"exact": [], "sdpa": []}
    for how, calls in kept.items():
        with listening(model, lambda call, calls=calls: calls.append(call.attention[:, :, ::64].clone()), how=how):  # type: ignore[arg-type]
            forward(model, batch)
    model.set_attn_implementation("eager")
    with torch.inference_mode():
        own = model(**batch, use_cache=False, output_attentions=True).attentions
    apart = max(float((a - b).abs().max()) for a, b in zip(*kept.values(), strict=True))
    return apart, max(float((a - o[:, :, ::64]).abs().max()) for a, o in zip(kept["exact"], own, strict=True))


if __name__ == "__main__":
    one(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
