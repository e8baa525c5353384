"""Measure maps on held-out sentences, ours beside AttentionViz's recipe in the same run; `benchmark.py fidelity` calls it."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import benchmark_images
import numpy as np
from numpy.typing import NDArray

import qkspace
from qkspace.extend import sample_rows
from qkspace.fidelity import Scores, score
from qkspace.index import Index
from qkspace.maps import SampleRows
from qkspace.normalise import normalise
from qkspace.project import METHODS, Method, fit_heads
from qkspace.schema import HeadSample
from qkspace.unfold import fit_unfold

VISION = Path(__file__).resolve().parents[2] / "shared" / "models" / "deit-tiny"
MAX_TOKENS = 24_000  # stored of EWT dev and test; maps are fitted on 6,000 of them and scored on 6,000 others
SPEED_TOKENS = 2_500  # of a head, where methods are timed
SCORES = ("recall1", "recall1_content", "attention_kl", "weighted_correlation", "spearman")
LINEAR = "unfold, linear"
OURS = ("unfold", "pca", "tsne", "umap")
THEIRS = tuple(f"attentionviz-{name}" for name in ("pca", "tsne", "umap"))


class Row(NamedTuple):
    """What is measured: a method, the normalisation before it, and whether it is slow enough to be run on few heads."""

    method: str
    gauge: str
    slow: bool = False


ROWS = (
    *(Row("attentionviz-pca", "attentionviz"), Row("attentionviz-tsne", "attentionviz", slow=True)),
    *(Row("attentionviz-umap", "attentionviz", slow=True), Row("pca", "none"), Row("pca", "auto")),
    *(Row("tsne", "auto"), Row("umap", "auto"), Row(LINEAR, "auto"), Row("unfold", "auto")),
)


class Heads(NamedTuple):
    """The heads of one layer: which they are, and their samples to fit and to score on."""

    layer: int
    heads: list[int]
    fit: list[HeadSample]
    held_out: list[HeadSample]


def fidelity(models: dict[str, str], corpus: Sequence[Path], out: Path, every: int, few: int) -> None:
    """Print, for each model, the scores of every method over its heads, and what the methods take."""
    METHODS[LINEAR] = Method(
        lambda samples, dims, seed: fit_unfold(samples, dims, seed, hidden=0), METHODS["unfold"].place
    )
    for name, folder in models.items():
        index = qkspace.build(
            folder,
            list(corpus),
            out=out / f"benchmark-{name}",
            max_tokens=MAX_TOKENS,
            methods=["pca"],
            dims=[2],
            progress=False,
        )
        layers = [heads for layer in range(index.n_layers) if (heads := read_heads(index, layer, every)).heads]
        n_heads = sum(layer.n_heads for layer in index.layers)
        table(f"{name}, {n_heads} heads, every {every}th; slow methods on {few}; held-out EWT", layers, few)
        speed(spread(layers, 3))
    images(every, few)


def images(every: int, few: int) -> None:
    """Print the scores of every method over the heads of the vision model, if that is here."""
    if not VISION.exists():
        print(f"\nfidelity: {VISION.name} is skipped, since {VISION} is not here")
        return
    layers, n_heads = [], 0
    for layer, (fit, held_out) in enumerate(zip(*benchmark_images.read_samples(VISION), strict=True)):
        chosen = [head for head in range(len(fit)) if (n_heads + head) % every == 0]
        layers.append(Heads(layer, chosen, [fit[h] for h in chosen], [held_out[h] for h in chosen]))
        n_heads += len(fit)
    title = f"{VISION.name}, {n_heads} heads, every {every}th; slow methods on {few}; held-out images"
    table(title, [heads for heads in layers if heads.heads], few)
    share = np.mean([benchmark_images.cls_share(sample) for heads in layers for sample in heads.held_out])
    print(f"  recall1 of always answering [CLS]: {share:.3f}")


def table(title: str, layers: list[Heads], few: int) -> None:
    """Print the mean scores of every method in the plane, of the slow ones over few heads."""
    print(f"\nfidelity: {title}, in the plane")
    print(f"  {'method':<20}{'gauge':<14}{'heads':>6}{''.join(f'{s:>22}' for s in SCORES)}{'no map @1':>12}")
    for row in ROWS:
        chosen = layers if not row.slow else spread(layers, few)
        scores = [s for heads in chosen for s in measure(heads, row)]
        means = "".join(f"{np.nanmean([getattr(s, c) for s in scores]):>22.3f}" for c in SCORES)
        without = np.nanmean([s.no_map_recall1 for s in scores])
        print(f"  {row.method:<20}{row.gauge:<14}{len(scores):>6}{means}{without:>12.3f}", flush=True)


def read_heads(index: Index, layer: int, every: int) -> Heads:
    """Read every so many-th head of a layer, counted over all layers."""
    before = sum(spec.n_heads for spec in index.layers[:layer])
    heads = [h for h in range(index.layers[layer].n_heads) if (before + h) % every == 0]
    parts = [sample_rows(index, fold) for fold in ("fit", "score")]
    fit, held_out = ([head_sample(index, layer, head, part) for head in heads] for part in parts)
    return Heads(layer, heads, fit, held_out)


def head_sample(index: Index, layer: int, head: int, part: SampleRows) -> HeadSample:
    """Read the vectors of some sequences of a head."""
    chosen = index.head(layer, head)
    query, key = (np.asarray(rows[part.rows], dtype=np.float32) for rows in (chosen.query, chosen.key))
    return part.sample(query, key, chosen.spec)


def spread(layers: list[Heads], few: int) -> list[Heads]:
    """Return at most so many heads, one a layer, from the first layer to the last."""
    chosen = np.unique(np.linspace(0, len(layers) - 1, few).astype(int))
    return [Heads(h.layer, h.heads[:1], h.fit[:1], h.held_out[:1]) for h in (layers[i] for i in chosen)]


def measure(heads: Heads, row: Row) -> list[Scores]:
    """Normalise, fit and score the heads of a layer by one method in the plane."""
    gauges = [normalise(sample, dims=2, method=row.gauge) for sample in heads.fit]  # type: ignore[arg-type]
    normalised = [gauge.apply_to(sample) for gauge, sample in zip(gauges, heads.fit, strict=True)]
    scores = []
    for gauge, map_, sample in zip(
        gauges, fit_heads(row.method, normalised, dims=2, seed=0), heads.held_out, strict=True
    ):
        held_out = gauge.apply_to(sample)
        scores.append(score(held_out, map_.transform(held_out.query, held_out.key)))
    return scores


def speed(layers: list[Heads]) -> None:
    """Print what the methods take a head at 2,500 tokens, in 2-D and 3-D together, ours against the recipe's."""
    samples = [[first_tokens(sample, SPEED_TOKENS) for sample in heads.fit] for heads in layers]
    n_heads = sum(len(group) for group in samples)
    print(
        f"  seconds a head for {SPEED_TOKENS:,} tokens ({2 * SPEED_TOKENS:,} points), {n_heads} heads: normalise, fit and place"
    )
    total = {}
    for side, methods, gauge in (("AttentionViz's recipe", THEIRS, "attentionviz"), ("ours", OURS, "auto")):
        seconds = {}
        for method in methods:
            for dims in (2, 3):
                seconds[f"{method}{dims}"] = (
                    timed(lambda m=method, d=dims, g=gauge: run_all(samples, m, d, g)) / n_heads
                )
        total[side] = sum(seconds.values())
        print(f"    {side}: {total[side]:.1f} s: " + ", ".join(f"{name} {s:.2f}" for name, s in seconds.items()))
    print(f"    ratio: {total[next(iter(total))] / total['ours']:.1f} times as fast")
    together = [first_tokens(sample, SPEED_TOKENS) for heads in layers[:1] for sample in heads.fit] * 6
    rounds = [timed(lambda: fit_unfold(together, 2, 0)) / len(together) for _ in range(3)]
    print(f"    unfold alone, 2-D, six heads fitted together: {statistics.median(rounds):.2f} s a head")


def run_all(groups: list[list[HeadSample]], method: str, dims: int, gauge: str) -> None:
    """Normalise, fit and place all heads."""
    for samples in groups:
        gauges = [normalise(sample, dims=dims, method=gauge) for sample in samples]  # type: ignore[arg-type]
        normalised = [g.apply_to(sample) for g, sample in zip(gauges, samples, strict=True)]
        for map_, sample in zip(fit_heads(method, normalised, dims=dims, seed=0), normalised, strict=True):
            map_.transform(sample.query, sample.key)


def first_tokens(sample: HeadSample, limit: int) -> HeadSample:
    """Return the first whole sequences of a sample that have at most so many tokens."""
    n = max(1, int(np.searchsorted(sample.starts, limit, side="right")) - 1)
    end = int(sample.starts[n])
    starts: NDArray[np.int64] = sample.starts[: n + 1]
    return HeadSample(sample.query[:end], sample.key[:end], starts, sample.is_content[:end], sample.layer)


def timed(run: Callable[[], object]) -> float:
    """Return the seconds that a call takes."""
    start = time.perf_counter()
    run()
    return time.perf_counter() - start
