"""Worker: a process that makes one family after the other and surveys it; it may die of any of them.

In: model types, one a line on standard input. Out: a JSON line a family on standard output, in the form of
`qkspace/families.json`. `Workers`, in the process that asks, starts it anew where it died or took too long.
"""

from __future__ import annotations

import json
import logging
import math
import os
import queue
import resource
import subprocess
import sys
import threading
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

SECONDS, GIBIBYTES = 60, 9


def survey_all(
    names: Sequence[str], show: Callable[[dict[str, Any]], None], n_workers: int = 2
) -> list[dict[str, Any]]:
    """Return what was found of each family, in the order of their names; `show` is told of each as it comes."""
    left: queue.SimpleQueue[str | None] = queue.SimpleQueue()
    for name in [*names, *[None] * n_workers]:
        left.put(name)
    found: list[dict[str, Any]] = []

    def serve() -> None:
        worker = None
        while (name := left.get()) is not None:
            worker = worker or _start()
            record = _ask(worker, name)
            if record is None:
                worker, record = None, _not_made(name, f"took more than {SECONDS} s or {GIBIBYTES} GiB")
            found.append(record)
            show(record)
        if worker is not None:
            worker.communicate()

    threads = [threading.Thread(target=serve) for _ in range(n_workers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sorted(found, key=lambda record: record["model_type"])


def _start() -> subprocess.Popen[str]:
    scripts = str(Path(__file__).resolve().parents[1])
    environment = {**os.environ, "PYTHONPATH": scripts, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, "-m", "families.worker"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env=environment,
    )


def _ask(worker: subprocess.Popen[str], name: str) -> dict[str, Any] | None:
    """Return a worker's answer, None where it died of the question or had to be ended."""
    assert worker.stdin and worker.stdout
    guard = threading.Timer(SECONDS, worker.kill)
    guard.start()
    try:
        worker.stdin.write(name + "\n")
        worker.stdin.flush()
        line = worker.stdout.readline()
    except BrokenPipeError:
        line = ""
    finally:
        guard.cancel()
    if line:
        return dict(json.loads(line))
    worker.kill()
    worker.wait()
    return None


def _not_made(name: str, reason: str) -> dict[str, Any]:
    return {"model_type": name, "status": "not instantiated", "reason": reason, "parts": []}


def look_at(name: str) -> dict[str, Any]:
    """Make a family small, run its self-check and return what is to be recorded of it."""
    from families import tiny
    from families.softmaxes import count_softmaxes, reports_attention
    from qkspace.schema import QKSpaceError
    from qkspace.selfcheck import survey

    try:
        made = tiny.make(name)
    except tiny.NotMade as error:
        return _not_made(name, str(error))
    record: dict[str, Any] = {
        "model_type": name,
        "class": type(made.model).__name__,
        "modality": made.modality,
        "inputs": sorted(made.inputs),
        "parts": [],
    }
    n_softmaxes = count_softmaxes(made.model, made.inputs)
    if not n_softmaxes and not reports_attention(made.model, made.inputs):
        return {**record, "status": "no attention"}
    try:
        parts = [_part(check) for check in survey(made.model, made.inputs)]
    except QKSpaceError as error:
        return {**record, "status": "refused", "reason": str(error)}
    except Exception as error:  # a fault of the capture: to be seen in the table, not to end it
        return {**record, "status": "refused", "reason": f"fails: {tiny.short(error)}"}
    record["unseen"] = max(n_softmaxes - sum(part["layers"] for part in parts), 0)
    if any(part["error"] is None or part["error"] > 1e-4 for part in parts):
        return {
            **record,
            "parts": parts,
            "status": "refused",
            "reason": "attention recomputed differs from the model's",
        }
    return {**record, "parts": parts, "status": "verified"}


def _part(check: Any) -> dict[str, Any]:
    """Return what is recorded of one part; an error is rounded up to a power of ten, as the last digits are a machine's."""
    layers = check.layers
    worst = max(check.captured_error, check.recomputed_error)
    return {
        "name": check.part,
        "route": check.route,
        "layers": len(layers),
        "positions": sorted({str(layer.position or "none") for layer in layers}),
        "softcap": any(layer.softcap is not None for layer in layers),
        "sink": any(layer.has_sink for layer in layers),
        "against": check.against,
        "error": None if math.isnan(worst) else decade(worst),
    }


def decade(error: float) -> float:
    """Return the smallest power of ten, from 1e-7 on, that an error does not pass."""
    return float(f"1e{max(math.ceil(math.log10(error)), -7) if error > 0 else -7}")


def main() -> None:
    """Answer until standard input ends; what libraries print does not reach the answers."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    resource.setrlimit(resource.RLIMIT_AS, (GIBIBYTES * 2**30,) * 2)
    warnings.simplefilter("ignore")
    logging.disable(logging.CRITICAL)
    import torch

    torch.set_num_threads(1)
    for line in sys.stdin:
        print(json.dumps(look_at(line.strip())), file=answers, flush=True)


if __name__ == "__main__":
    main()
