"""Checkpoints on disk: FOLDER/step-0005 and so on, each whole or not there at all.

In: a folder, the settings of a run, a learner. Out: folders that `AutoModel` and `AutoTokenizer` load (or adapters that
`peft` loads), and what was measured at each. Knows no training.

    finetune.json                 the settings; written first: another run is refused here
    step-0005/config.json, model.safetensors, tokenizer ...      a checkpoint like any other
    step-0005/adapter_config.json, adapter_model.safetensors     instead, of a run with adapters
    step-0005/classifier.safetensors                             the head for labels: weight and bias
    step-0005/finetune.json                                      step, losses, accuracy, names of the labels
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from finetuning.learner import Learner
from qkspace.schema import QKSpaceError
from qkspace.store import disk_errors, read_json, write_json

RECORD = "finetune.json"


def claim(folder: Path, settings: Mapping[str, Any]) -> None:
    """Make a folder this run's, or find it so; what an interrupted run left half-written is removed.

    Raises:
        QKSpaceError: the folder holds something else, or a run with other settings.
    """
    with disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        if not (folder / RECORD).is_file():
            if any(folder.iterdir()):
                raise QKSpaceError(f"--out {folder}: the folder holds something else. Give a new one, or empty it.")
            write_json(folder / RECORD, settings)
            return
        before = read_json(folder / RECORD)
        if other := sorted(key for key in {*before, *settings} if before.get(key) != settings.get(key)):
            key = other[0]
            raise QKSpaceError(
                f"--out {folder}: holds a run with another {', '.join(other)} ({key} was {before.get(key)!r}, now "
                f"{settings.get(key)!r}). Give a new folder, or delete this one."
            )
        for rest in folder.glob(".step-*.tmp"):
            shutil.rmtree(rest)


def step_folder(folder: Path, step: int) -> Path:
    """Return where the checkpoint of a step is."""
    return folder / f"step-{step:04d}"


def is_saved(folder: Path, step: int) -> bool:
    """Tell whether the checkpoint of a step is there, whole: its folder gets its name when all of it is written."""
    return (step_folder(folder, step) / RECORD).is_file()


def record(folder: Path, step: int) -> dict[str, Any]:
    """Return what was measured at a step."""
    return read_json(step_folder(folder, step) / RECORD)


def save(folder: Path, step: int, learner: Learner, measured: Mapping[str, Any]) -> None:
    """Write the checkpoint of a step into a folder of another name, which is then renamed."""
    from safetensors.torch import save_file

    temporary = folder / f".step-{step:04d}.{os.getpid()}.tmp"
    with disk_errors(folder):
        try:
            temporary.mkdir()
            if learner.adapted is None:
                learner.whole.save_pretrained(temporary)
            else:
                learner.adapted.save_pretrained(temporary, save_embedding_layers=False)
            learner.tokenizer.save_pretrained(temporary)
            if learner.head is not None:
                tensors = {name: tensor.detach().contiguous() for name, tensor in learner.head.named_parameters()}
                save_file(tensors, temporary / "classifier.safetensors")
            write_json(temporary / RECORD, measured)
            _sync(temporary)
            temporary.rename(step_folder(folder, step))
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def _sync(folder: Path) -> None:
    """Have everything of a folder on the disk before its name says that it is."""
    for path in (*folder.rglob("*"), folder):
        number = os.open(path, os.O_RDONLY)
        try:
            os.fsync(number)
        finally:
            os.close(number)
