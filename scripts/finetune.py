r"""Fine-tune a checkpoint on a CPU, saving complete checkpoints along the way.

python scripts/finetune.py --model NAME_OR_FOLDER --data data/intents-train.jsonl --test data/intents-test.jsonl \
    --out out/finetuned --steps 120 --save-at 5,20,60,120
python scripts/finetune.py --task lm --model DECODER --data TEXT --out out/tuned --steps 100

The same command on the same machine gives the same weights. Run again, it keeps the checkpoints that are there; if some
are missing, it trains again from the start and writes those.
"""

from __future__ import annotations

import argparse
import hashlib
import math
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from finetuning import saving
from finetuning.examples import Examples, blocks, labelled
from finetuning.learner import Learner, load, with_head
from finetuning.training import Plan, evaluate, train

from qkspace.schema import QKSpaceError

COLUMNS = ("step", "loss", "held_out_loss", "accuracy")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one fine-tuning and return the exit status: 0 done, 1 something to mend, 130 interrupted."""
    options = _parser().parse_args(arguments)
    try:
        finetune(options, save_at=_steps(options.save_at, options.steps))
    except QKSpaceError as error:
        print(f"finetune: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("Interrupted. Checkpoints that were saved are whole, and are kept.", file=sys.stderr)
        return 130
    return 0


def finetune(options: argparse.Namespace, save_at: Sequence[int]) -> None:
    """Train as the options say, and write the checkpoint of each step that is not there yet."""
    import torch
    from transformers.utils import logging

    logging.disable_progress_bar()
    start = time.monotonic()
    torch.manual_seed(options.seed)
    learner = load(options.model, options.task, _names(options.freeze), _numbers("--lora", options.lora))
    learner, training, held_out = _examples(options, learner)
    if not learner.parameters():
        raise QKSpaceError(f"--freeze {options.freeze}: nothing is left to train.")
    saving.claim(options.out, _settings(options, learner))
    wanted = [step for step in save_at if not saving.is_saved(options.out, step)]
    print("  ".join(f"{name.replace('_', ' '):>13}" for name in COLUMNS))
    if not wanted:
        for step in save_at:
            _show(saving.record(options.out, step))
        print(f"{options.out}: all of it is there already")
        return
    plan = Plan(options.steps, options.batch_size, options.learning_rate, options.seed)
    torch.manual_seed(options.seed)  # what is drawn from here on does not depend on how the model was made
    for step, loss in train(learner, training, plan, save_at):
        measured = {"step": step, "loss": None if math.isnan(loss) else loss, "labels": list(training.names)}
        if held_out is not None:
            measured["held_out_loss"], measured["accuracy"] = evaluate(learner, held_out)
        if step in wanted:
            saving.save(options.out, step, learner, measured)
        _show(measured)
    print(f"{options.out}: {len(wanted)} checkpoints written in {time.monotonic() - start:.0f} s")


def _examples(options: argparse.Namespace, learner: Learner) -> tuple[Learner, Examples, Examples | None]:
    """Return the learner with its head, what it learns from, and what it is tested on."""
    length = min(options.length, learner.context or options.length)
    if options.task == "lm":
        at_most = options.steps * options.batch_size
        training = blocks(options.data, learner.tokenizer, length, options.text_column, at_most)
        held_out = options.test and blocks(options.test, learner.tokenizer, length, options.text_column, 200)
        return learner, training, held_out or None
    columns = (options.text_column, options.label_column)
    training = labelled(options.data, learner.tokenizer, length, *columns)
    held_out = options.test and labelled(options.test, learner.tokenizer, length, *columns, training.names)
    return with_head(learner, len(training.names)), training, held_out or None


def _settings(options: argparse.Namespace, learner: Learner) -> dict[str, Any]:
    """Return what decides the weights and the measures: two runs with the same settings are one."""
    kept = (
        "task",
        "text_column",
        "label_column",
        "length",
        "steps",
        "batch_size",
        "learning_rate",
        "seed",
        "freeze",
        "lora",
    )
    digests = {name: _digest(getattr(options, name)) for name in ("data", "test")}
    return {"model": learner.identity["weights_digest"], **digests, **{name: getattr(options, name) for name in kept}}


def _digest(source: str | None) -> str | None:
    """Return what tells a source from another: the digest of a file, else its name."""
    if source is None or not Path(source).is_file():
        return source
    with Path(source).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _show(measured: dict[str, Any]) -> None:
    values = [measured.get(name) for name in COLUMNS]
    shown = ["" if value is None else f"{value:.3f}" if isinstance(value, float) else str(value) for value in values]
    print("  ".join(f"{text:>13}" for text in shown), flush=True)


def _names(text: str | None) -> list[str]:
    return [name.strip() for name in (text or "").split(",") if name.strip()]


def _numbers(option: str, text: str | None) -> list[int] | None:
    """Read numbers with commas between them; None where there is no such option."""
    if text is None:
        return None
    parts = _names(text)
    if not parts or not all(part.isdecimal() for part in parts):
        raise QKSpaceError(f"{option} {text}: expected whole numbers with commas between them, such as 5,20,60.")
    return [int(part) for part in parts]


def _steps(text: str | None, steps: int) -> list[int]:
    """Return the steps to save at, in order; the last one of all where none are asked for."""
    asked = sorted(set(_numbers("--save-at", text) or [steps]))
    if asked[-1] > steps:
        raise QKSpaceError(
            f"--save-at {text}: step {asked[-1]} is after the last one; give --steps {asked[-1]} or more."
        )
    return asked


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number from 1 on, got {text!r}")
    return int(text)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="Fine-tune a checkpoint on a CPU, saving checkpoints along the way.")
    parser.add_argument("--model", required=True, help="folder of a checkpoint, or its name on the Hugging Face hub")
    parser.add_argument("--data", required=True, help="what is learnt: any file that qkspace reads as a corpus")
    parser.add_argument("--out", required=True, type=Path, help="folder of the checkpoints: OUT/step-0005 ...")
    parser.add_argument("--test", help="held-out file: its loss and accuracy are printed at each checkpoint")
    parser.add_argument(
        "--task", choices=("classify", "lm"), default="classify", help="labels of texts, or the next token (decoders)"
    )
    parser.add_argument("--text-column", default="text", help="column of the text (default text)")
    parser.add_argument("--label-column", default="label", help="column of the label (default label)")
    parser.add_argument("--steps", type=_positive, default=120, help="steps of training (default 120)")
    parser.add_argument("--save-at", help="steps to save at, with commas; 0 is before all training (default: the last)")
    parser.add_argument("--batch-size", type=_positive, default=32, help="examples a step (default 32)")
    parser.add_argument(
        "--learning-rate", type=float, default=2e-4, help="the highest, after the warm-up (default 2e-4)"
    )
    parser.add_argument("--length", type=_positive, default=128, help="most tokens of an example (default 128)")
    parser.add_argument("--seed", type=int, default=0, help="seed of order, head and dropout (default 0)")
    parser.add_argument("--freeze", help="parts that stay as they are, with commas, such as embeddings,encoder.layer.0")
    parser.add_argument(
        "--lora", help="train adapters on query and key of these layers alone, such as 2,3 (needs peft)"
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
