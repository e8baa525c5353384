"""Ablation: how much the loss of a model grows when one head at a time is taken out.

In: an index, whose model is loaded. Out: a table with a row a head. Knows no page.

Attention says where a head looks, not whether the model uses it. Here each head in turn puts out zeros, or its own mean, and
the model is asked again (Michel et al. 2019, Are Sixteen Heads Really Better than One?; Voita et al. 2019). What is finished
is kept a head at a time in the work folder of the index, so that a run that was killed goes on where it was; `kept.keep`
removes it. Zeros and means are two analyses, so that an index can hold both (`qkspace.heads.analyse`).
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from qkspace import store
from qkspace.ablate import BATCH_TOKENS, MAX_TOKENS, Ablation, Change, Heads, Method
from qkspace.bootstrap import Float64Array
from qkspace.console import SILENT, Console
from qkspace.heads.found import Found
from qkspace.index import Index
from qkspace.loss import Measure

if TYPE_CHECKING:
    import pandas as pd

    from qkspace.model import Device

NAMES: dict[Method, tuple[str, str]] = {  # of the table and the folder of what is finished of it, and of the change
    "zero": ("ablation", "loss_change"),
    "mean": ("mean-ablation", "loss_change_mean"),
}
WORTH_SAYING = 10.0  # seconds that the rest takes
Sums = dict[tuple[int, int], Float64Array]  # (layer, head) -> loss of each sequence without it


def analyse(
    index: Index,
    *,
    method: Method = "zero",
    measure: Measure = "auto",
    max_tokens: int = MAX_TOKENS,
    predict: str | None = None,
    heads: Heads | None = None,
    seed: int = 0,
    model: str | Path | None = None,
    trust_remote_code: bool = False,
    batch_tokens: int = BATCH_TOKENS,
    device: Device = "auto",
    console: Console = SILENT,
) -> Found:
    """Take out one head at a time and measure how much the loss changes; arguments as of `Ablation.of`.

    Args:
        index: of text, of pairs of texts, or of images.
        method: see `Ablation.of`, and so for the others.
        measure: the loss.
        max_tokens: of the sample.
        predict: which tokens are predicted.
        heads: pairs of layer and head; None for all.
        seed: of the sample.
        model: where the checkpoint is now.
        trust_remote_code: run its code.
        batch_tokens: of one forward pass.
        device: where the model runs.
        console: where progress is shown.

    Returns:
        One table, by zeros `ablation` and by means `mean-ablation`: layer, head, loss_change or loss_change_mean (ablated minus
        intact, a prediction), low, high (95 %, over sequences), method, measure, base_loss (of the whole model) and
        n_predictions.

    Raises:
        QKSpaceError: as `Ablation.of`, or another command is writing to the index.
    """
    options: dict[str, Any] = {"max_tokens": max_tokens, "seed": seed, "batch_tokens": batch_tokens, "device": device}
    options |= {"predict": predict, "model": model, "trust_remote_code": trust_remote_code, "console": console}
    ablation = Ablation.of(index, method=method, measure=measure, **options)
    every = [(layer, head) for layer, spec in enumerate(index.layers) for head in range(spec.n_heads)]
    chosen = every if heads is None else sorted({(index.head(*pair).layer, index.head(*pair).head) for pair in heads})
    if ablation.task.reason:
        console.say(f"Measuring the output: {ablation.task.reason}.")
    table, column = NAMES[method]
    folder = index.root / store.WORK / table
    sums = _all(ablation, chosen, folder / f"{_key(ablation, batch_tokens, predict)}.jsonl", console)
    found = _table({pair: ablation.compared(sums[pair]) for pair in chosen}, column)
    sample = ablation.task.sample
    n_sequences, n_tokens = len(sample.places), len(sample.tokens.token_ids)
    found.attrs["note"] = _note(ablation, n_sequences, n_tokens, predict)
    parameters = {"method": method, "measure": ablation.task.measure, "unit": ablation.task.unit, "seed": seed}
    parameters |= {"max_tokens": max_tokens, "predict": predict, "n_sequences": n_sequences, "n_tokens": n_tokens}
    return Found({table: found}, (column,), {**parameters, "reason": ablation.task.reason})


def _table(changes: dict[tuple[int, int], Change], column: str) -> pd.DataFrame:
    import pandas as pd

    names = ("loss_change", "low", "high", "method", "measure", "base_loss", "n_predictions")
    rows = [{"layer": a, "head": b, **{n: getattr(each, n) for n in names}} for (a, b), each in changes.items()]
    return pd.DataFrame(rows, columns=["layer", "head", *names]).rename(columns={"loss_change": column})


def _note(ablation: Ablation, n_sequences: int, n_tokens: int, predict: str | None) -> str:
    task, n = ablation.task, int(ablation.intact[:, 1].sum())
    instead = {"zero": "zeros", "mean": "its mean over ordinary tokens"}[ablation.method]
    over = f"{n_sequences:,} sequences ({n_tokens:,} tokens, {n:,} predictions{f' of {predict}' if predict else ''})"
    if task.measure == "output":
        says = f"How far the output of the model moves ({task.unit}) when a head puts out {instead}, over {over}"
        because = f" The output is measured because {task.reason}." if task.reason else ""
        return f"{says}: 0 is not at all.{because}"
    return (
        f"How much the {task.measure} loss ({task.unit}) grows when a head puts out {instead}, over {over}: 0 is not at all, "
        "below 0 the model does better without it."
    )


def can_be_analysed(index: Index) -> str:
    """Say why an index cannot be analysed so; "" where it can, as far as is quickly told."""
    is_sound = index.manifest.get("modality", "text") == "audio"
    return "it holds no sounds, only their outlines, so the model cannot be run on them again" if is_sound else ""


# ---------------------------------------------------------------------------------------------- head after head


def _all(ablation: Ablation, chosen: Heads, path: Path, console: Console) -> Sums:
    """Return the losses without each head, from a file of the work folder where they are there."""
    root, n_sequences = ablation.index.root, len(ablation.task.sample.places)
    with store.disk_errors(root), store.locked(root), _kept(path, n_sequences) as (found, keep):
        left = [pair for pair in chosen if pair not in found]
        begin = time.monotonic()
        if left:
            _ = ablation.intact
            seconds = (time.monotonic() - begin) * len(left)
            if seconds > WORTH_SAYING:
                console.say(f"{len(left):,} heads, a forward pass over the sample each: about {_duration(seconds)}.")
        n_done = len(chosen) - len(left)
        for pair in console.track(left, len(chosen), "Taking out heads", done=n_done, unit="heads"):
            keep(pair, ablation.without([pair])[:, 0])
        return dict(found)


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} seconds" if seconds < 120 else f"{seconds / 60:.0f} minutes"


def _key(ablation: Ablation, batch_tokens: int, predict: str | None) -> str:
    """Return a digest of all that decides the numbers."""
    from qkspace.weights import input_device

    task, manifest = ablation.task, ablation.index.manifest
    digest = hashlib.sha256()
    for part in (manifest["created"], manifest["model"]["weights_digest"], ablation.method, task.measure, task.unit):
        digest.update(f"{part}\n".encode())
    digest.update(f"{ablation.seed} {batch_tokens} {predict} {input_device(task.model).type}".encode())
    digest.update(task.sample.places.astype("<i8").tobytes())
    return digest.hexdigest()[:16]


@contextmanager
def _kept(path: Path, n_sequences: int) -> Iterator[tuple[Sums, Any]]:
    """Open the file of the heads that are done, a line each: what it holds, and the function that adds a head."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+b") as file:
        file.seek(0)
        found, whole = _read(file.read(), n_sequences)
        file.truncate(whole)  # a line that was being written

        def keep(pair: tuple[int, int], losses: Float64Array) -> None:
            found[pair] = losses
            line = {"layer": pair[0], "head": pair[1], "losses": losses.tolist()}
            file.write(json.dumps(line).encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())

        yield found, keep


def _read(content: bytes, n_sequences: int) -> tuple[Sums, int]:
    """Return the heads of a file, and how many of its bytes are whole lines."""
    found: Sums = {}
    whole = 0
    for line in content.splitlines(keepends=True):
        try:
            entry = json.loads(line)
            losses = np.array(entry["losses"], dtype=np.float64)
            pair = int(entry["layer"]), int(entry["head"])
        except (ValueError, KeyError, TypeError):
            break
        if not line.endswith(b"\n") or losses.shape != (n_sequences,):
            break
        found[pair] = losses
        whole += len(line)
    return found, whole
