"""The loop of training: AdamW, a warm-up, then a straight line down to nothing.

In: a learner and examples. Out: the loss at each step that was asked for, the learner changed in place; and how well it
does on others. Knows no files. The same seed gives the same weights, whichever steps are asked for.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from finetuning.examples import Examples, batch, order
from finetuning.learner import Learner, predict

WARM_UP = 0.1  # share of the steps
WEIGHT_DECAY, LONGEST_GRADIENT = 0.01, 1.0


@dataclass(frozen=True, slots=True)
class Plan:
    """How to train."""

    steps: int
    batch_size: int
    learning_rate: float
    seed: int


def train(learner: Learner, examples: Examples, plan: Plan, save_at: Sequence[int]) -> Iterator[tuple[int, float]]:
    """Train, and yield (step, mean training loss since the last yield) at the steps asked for; 0 is before all training."""
    import torch

    optimizer = torch.optim.AdamW(learner.parameters(), lr=plan.learning_rate, weight_decay=WEIGHT_DECAY)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: rate(step, plan.steps))
    losses: list[float] = []
    if 0 in save_at:
        yield 0, float("nan")
    for step, rows in enumerate(order(len(examples), plan.batch_size, plan.seed), start=1):
        if step > max(save_at):
            return
        learner.whole.train()
        logits, classes = predict(learner, batch(examples, rows, learner.pad))
        loss = torch.nn.functional.cross_entropy(logits, classes)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]  # torch's own
        torch.nn.utils.clip_grad_norm_(learner.parameters(), LONGEST_GRADIENT)
        optimizer.step()
        schedule.step()
        losses.append(loss.item())
        if step in save_at:
            yield step, float(np.mean(losses))
            losses.clear()


def rate(step: int, steps: int) -> float:
    """Return the share of the learning rate for a step: up to 1 over the warm-up, then down to 0 at the end."""
    rise = max(1, round(WARM_UP * steps))
    return (step + 1) / rise if step < rise else max(0.0, (steps - step) / max(1, steps - rise))


def evaluate(learner: Learner, examples: Examples, batch_size: int = 32) -> tuple[float, float]:
    """Return the mean loss and the accuracy over examples, without dropout."""
    import torch

    learner.whole.eval()
    loss, right, total = 0.0, 0, 0
    with torch.no_grad():
        for start in range(0, len(examples), batch_size):
            rows = np.arange(start, min(start + batch_size, len(examples)))
            logits, classes = predict(learner, batch(examples, rows, learner.pad))
            loss += torch.nn.functional.cross_entropy(logits, classes, reduction="sum").item()
            right += int((logits.argmax(-1) == classes).sum())
            total += len(classes)
    return loss / total, right / total
