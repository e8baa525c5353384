"""Measure comparing: its time beside building two indexes, false alarms, adapters; `benchmark.py compare` calls it."""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import qkspace

ROOT = Path(__file__).resolve().parents[1]
INTENTS = ROOT / "data" / "intents-train.jsonl"
TOKENS = 10_000
ADAPTED = ((0,), (2, 3), (5,))  # layers that adapters are trained on


def compare(model: str, decoder: str, corpus: Sequence[Path], rounds: int) -> None:
    """Print all three."""
    sources = [str(path) for path in corpus]
    with tempfile.TemporaryDirectory(dir=ROOT / "out") as folder:
        out = Path(folder)
        tuned = finetune(model, out / "tuned", "--steps", "40")
        times(model, tuned, sources, out, rounds)
        false_alarms({"MiniLM": model, "stories260K": decoder}, sources, out)
        adapters(model, sources, out)


def finetune(model: str, out: Path, *options: str) -> str:
    """Fine-tune a model on the intents that the project ships; return the folder of its last checkpoint."""
    command = [sys.executable, str(ROOT / "scripts" / "finetune.py"), "--model", model, "--data", str(INTENTS)]
    subprocess.run([*command, "--out", str(out), *options], check=True, capture_output=True)
    return str(max(out.glob("step-*")))


def times(model: str, tuned: str, corpus: list[str], out: Path, rounds: int) -> None:
    """Time comparing two checkpoints from nothing beside building the two indexes separately, in turn."""
    print(f"\ncompare: MiniLM and a fine-tuned version, {TOKENS:,} tokens, default maps, from nothing")
    ratios = []
    for number in range(rounds):
        start = time.perf_counter()
        for name, folder in (("a", model), ("b", tuned)):
            qkspace.build(folder, corpus, out=out / f"{name}{number}", max_tokens=TOKENS, progress=False)
        apart = time.perf_counter() - start
        start = time.perf_counter()
        qkspace.compare(model, tuned, corpus, out=out / f"c{number}", max_tokens=TOKENS, progress=False)
        together = time.perf_counter() - start
        start = time.perf_counter()
        qkspace.compare(out / f"a{number}", out / f"b{number}", out=out / f"d{number}", progress=False)
        after = time.perf_counter() - start
        ratios.append(together / apart)
        print(
            f"  round {number + 1}: two indexes {apart:.1f} s; comparison with its indexes {together:.1f} s, ratio "
            f"{together / apart:.2f}; comparison of the two indexes {after:.1f} s, with them {1 + after / apart:.2f}",
            flush=True,
        )
    print(f"  ratio: median {statistics.median(ratios):.2f}")


def false_alarms(models: dict[str, str], corpus: list[str], out: Path) -> None:
    """Compare indexes of one checkpoint that were built with other batches and stored otherwise."""
    print(
        f"\nfalse alarms: one checkpoint, {TOKENS:,} tokens; float32 and batches of 1,024, float16 and batches of 300"
    )
    common: dict[str, Any] = {"methods": ["pca"], "dims": [2], "max_tokens": TOKENS, "progress": False}
    for name, model in models.items():
        roots = [out / f"{name}-{storage}" for storage in ("float32", "float16")]
        for root, storage, batch in zip(roots, ("float32", "float16"), (1024, 300), strict=True):
            qkspace.build(model, corpus, out=root, storage=storage, batch_tokens=batch, **common)
        table = qkspace.compare(*roots, out=out / f"{name}-alarms", progress=False).drift
        share = table["js"] / table["noise_floor"]
        print(
            f"  {name}: {len(table)} heads, JS {table['js'].min():.1e} to {table['js'].max():.1e}, noise floor "
            f"{table['noise_floor'].min():.1e} to {table['noise_floor'].max():.1e}; largest share of its floor "
            f"{share.max():.2f}; above it: {int((share >= 1).sum())}"
        )


def adapters(model: str, corpus: list[str], out: Path) -> None:
    """Train adapters on queries and keys of some layers, and see where the comparison finds them."""
    print("\nadapters: LoRA on queries and keys of some layers of MiniLM, 40 steps")
    options: dict[str, Any] = {"methods": ["pca"], "dims": [2], "max_tokens": TOKENS, "progress": False}
    for layers in ADAPTED:
        named = ",".join(map(str, layers))
        tuned = finetune(model, out / f"lora-{named}", "--steps", "40", "--lora", named, "--learning-rate", "2e-3")
        found = qkspace.compare(model, tuned, corpus, out=out / f"lora-{named}-compared", **options)
        table = found.layer_drift(found.labels[0])
        by_js, by_product = (table.sort_values(name, ascending=False) for name in ("js", "product_change"))
        print(
            f"  layers {named}: by JS "
            + ", ".join(f"L{int(row.layer)} {row.js:.4f}" for row in by_js.itertuples())
            + "; by change of the product "
            + ", ".join(f"L{int(row.layer)} {row.product_change:.3f}" for row in by_product.itertuples())
        )
