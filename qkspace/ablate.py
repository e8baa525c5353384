"""Ablate: run a model while what some of its heads put out is replaced, and measure how much worse it does.

In: an index, its model and heads. Out: the loss on a sample of the index, with and without those heads. What a head puts out
is attention times value, before the output projection; all else of the model stays. Knows no tables.

    ablation = Ablation.of(qkspace.open("out/demo"), method="mean")
    ablation.change([(3, 5)])                                       # one head
    ablation.change([(3, 5), (4, 0)])                               # two at once
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from qkspace import bootstrap
from qkspace.bootstrap import Float64Array
from qkspace.capture import AttentionCall, Route, forward, listening
from qkspace.console import SILENT, Console
from qkspace.extract import make_batches
from qkspace.index import Index
from qkspace.loss import Measure, Sample, Task, draw_sample, task_of
from qkspace.memory import Room, run_halving
from qkspace.schema import BoolArray, IntArray, QKSpaceError
from qkspace.weights import input_device

if TYPE_CHECKING:
    from torch import Tensor

    from qkspace.model import Device

Method = Literal["zero", "mean"]
METHODS = ("zero", "mean")
MAX_TOKENS = 4096  # of the sample: one forward pass over it a head
BATCH_TOKENS = 2048
LOGIT_BYTES = 512 << 20  # of a batch: a model with a large vocabulary gets smaller ones
Heads = Sequence[tuple[int, int]]  # (layer, head)


@dataclass(frozen=True, slots=True)
class Change:
    """How much the loss changes where heads are taken out: ablated minus intact, a prediction, with its 95 % interval.

    measure, unit: what the loss is (`qkspace.loss`); n_predictions: how many it is the mean of.
    """

    loss_change: float
    low: float
    high: float
    base_loss: float
    n_predictions: int
    method: str
    measure: str
    unit: str


class Ablation:
    """The model of an index, a sample of its sequences, and what is measured of them with and without heads."""

    def __init__(
        self,
        index: Index,
        task: Task,
        *,
        method: Method = "zero",
        batch_tokens: int = BATCH_TOKENS,
        seed: int = 0,
        console: Console = SILENT,
    ) -> None:
        """Take what the model is asked; `of` loads it.

        Raises:
            QKSpaceError: an unknown method.
        """
        if method not in METHODS:
            raise QKSpaceError(f"There is no method {method!r} to take a head out. Choose one of {', '.join(METHODS)}.")
        self.index, self.task, self.method, self.seed = index, task, method, seed
        found = index.manifest["check"]
        self._route: Route = found.get("route", "interface")
        self._calls: list[int] = list(found.get("calls") or range(index.n_layers))
        self._say, self._room, self._lengths = console.say, Room(), task.sample.tokens.lengths
        vocabulary = int(getattr(task.model.config.get_text_config(), "vocab_size", 1) or 1)
        fits = LOGIT_BYTES // (4 * vocabulary) if task.measure in ("causal", "masked") else batch_tokens
        equal = bool(getattr(task.feed, "equal_lengths", False))
        self._batches = make_batches(self._lengths, max(1, min(batch_tokens, fits)), index.n_heads, equal=equal)
        self._times = bootstrap.draw(len(self._lengths), seed)

    @classmethod
    def of(
        cls,
        index: Index,
        *,
        method: Method = "zero",
        measure: Measure = "auto",
        max_tokens: int = MAX_TOKENS,
        predict: str | None = None,
        seed: int = 0,
        model: str | Path | None = None,
        trust_remote_code: bool = False,
        batch_tokens: int = BATCH_TOKENS,
        device: Device = "auto",
        console: Console = SILENT,
    ) -> Ablation:
        """Load the model of an index and draw a sample of its sequences.

        Args:
            index: of text, of pairs of texts, or of images.
            method: what stands in the place of what a head puts out: "zero", or the "mean" of what it puts out over the
                ordinary tokens of the sample.
            measure: the loss (`qkspace.loss`): "causal", "masked", "output", or what the checkpoint has a head for.
            max_tokens: of the sample, which is of whole sequences.
            predict: "COLUMN:VALUE", which tokens are predicted, such as "origin:continuation" or "upos:NOUN"; None for all.
            seed: of the sample, of the tokens that are masked and of the intervals.
            model: where the checkpoint is now, if not where it was at the build.
            trust_remote_code: run code that comes with the checkpoint.
            batch_tokens: padded tokens of one forward pass.
            device: "auto" takes a GPU where there is one.
            console: where remarks go.

        Raises:
            QKSpaceError: the checkpoint is not there or another one, or it cannot be asked for this measure.
        """
        from qkspace.live import checkpoint_of

        sample = draw_sample(index, max_tokens, seed)
        checkpoint = checkpoint_of(index, model, device=device, trust_remote_code=trust_remote_code)
        asked: dict[str, Any] = {"seed": seed, "predict": predict, "trust_remote_code": trust_remote_code}
        task = task_of(index, checkpoint, sample, measure, **asked)
        return cls(index, task, method=method, batch_tokens=batch_tokens, seed=seed, console=console)

    @cached_property
    def intact(self) -> Float64Array:
        """The loss of the whole model, summed over each sequence, and the number of predictions in it: (sequence, 2)."""
        return self._run(_Nothing())

    def without(self, heads: Heads) -> Float64Array:
        """Return what `intact` is, where these heads are taken out: (sequence, 2).

        Raises:
            QKSpaceError: there is no such head, or the model computes attention in a way that cannot be replaced.
        """
        _ = self.intact  # first: outputs are compared with it
        by_layer: dict[int, list[int]] = {}
        for layer, head in dict.fromkeys((int(layer), int(head)) for layer, head in heads):
            self.index.head(layer, head)  # refuses what is not there
            by_layer.setdefault(layer, []).append(head)
        if not by_layer:
            raise QKSpaceError("No head was named. Give pairs of layer and head, such as [(3, 5)].")
        replaced = {}
        for layer, some in by_layer.items():
            values = None if self.method == "zero" else self.means[layer][some]
            replaced[self._calls[layer]] = _Heads(self.index.layers[layer].n_heads, some, values)
        return self._run(_Replace(replaced))

    @cached_property
    def means(self) -> tuple[Float64Array, ...]:
        """What each head of each layer puts out in the mean over the ordinary tokens of the sample: (head, d_value)."""
        _ = self.intact
        average = _Average(self._calls, self.task.sample)
        self._run(average)
        return tuple(average.mean(call) for call in self._calls)

    def change(self, heads: Heads) -> Change:
        """Return how much the loss changes where these heads are taken out together; raises as `without`."""
        return self.compared(self.without(heads)[:, 0])

    def compared(self, losses: Float64Array) -> Change:
        """Return how far these losses, the sum over each sequence, are from those of the whole model.

        The interval is from a bootstrap over sequences, each with its own loss before and after.
        """
        base, n = self.intact.T
        low, high = bootstrap.interval(np.stack([losses - base, n], axis=1), _mean, self._times)
        change = float((losses - base).sum() / n.sum())
        measured = {"method": self.method, "measure": self.task.measure, "unit": self.task.unit}
        return Change(change, low, high, float(base.sum() / n.sum()), int(n.sum()), **measured)

    def _run(self, edit: _Edit) -> Float64Array:
        """Run the sample through the model, some sequences at a time: (sequence, loss and number of predictions)."""
        task, device = self.task, input_device(self.task.model)
        found = np.zeros((len(self._lengths), 2))

        def once(sequences: IntArray) -> Float64Array:
            edit.begin(sequences)
            output = forward(task.model, task.feed.batch(sequences, device), task.runner)
            edit.end()
            return task.judge(output, sequences)

        with listening(task.model, self._refuse_unlike, route=self._route, edit=edit):
            for batch in self._batches:
                parts = run_halving(batch, once, self._say, lengths=self._lengths, room=self._room)
                found[batch] = np.concatenate(parts)
        return found

    def _refuse_unlike(self, call: AttentionCall) -> None:
        """Refuse where the model with a head does not attend in the order of the model that the index was made of."""
        if call.index not in self._calls:
            return
        expected = self.index.layers[self._calls.index(call.index)].module
        if not f".{call.module}".endswith(f".{expected}"):
            raise QKSpaceError(
                f"{type(self.task.model).__name__}: its attention number {call.index} is of {call.module}; expected "
                f"{expected}. Measure the output of the model without a head: measure='output'."
            )


def loss_without(index: Index | Ablation, heads: Heads, **options: Any) -> Change:  # of `Ablation.of`
    """Return how much the loss of a model changes where heads are taken out, all of them at once.

    Args:
        index: an index, whose model is loaded, or an `Ablation`, which has it loaded.
        heads: pairs of layer and head.
        **options: as of `Ablation.of`, where an index is given.

    Raises:
        QKSpaceError: there is no such head, or as `Ablation.of`.
    """
    return (index if isinstance(index, Ablation) else Ablation.of(index, **options)).change(heads)


def _mean(sums: Float64Array) -> Float64Array:
    return np.asarray(sums[..., 0] / sums[..., 1])


# ---------------------------------------------------------------------------------------------- what is done to outputs


class _Edit:
    """What is done to the outputs of attention of a forward pass: nothing."""

    def begin(self, sequences: IntArray) -> None:
        """Get ready for a forward pass over some sequences."""

    def __call__(self, number: int, output: Tensor) -> Tensor:
        """Return what the model goes on with instead of the output of an attention: (batch, query token, head, d_value)."""
        return output

    def end(self) -> None:
        """Be told that the forward pass is over."""


_Nothing = _Edit


@dataclass(frozen=True, slots=True, eq=False)
class _Heads:
    """Some heads of an attention that has `of` of them, and what each puts out instead, (head, d_value); None: nothing."""

    of: int
    heads: list[int]
    values: Float64Array | None


class _Replace(_Edit):
    """Puts zeros or means in the place of what some heads put out."""

    def __init__(self, replaced: Mapping[int, _Heads]) -> None:
        """replaced: by the number of the attention."""
        self._replaced = replaced
        self._seen: set[int] = set()

    def begin(self, sequences: IntArray) -> None:
        """Forget what was seen."""
        self._seen.clear()

    def __call__(self, number: int, output: Tensor) -> Tensor:
        """Return an output with the heads replaced."""
        import torch

        if (wanted := self._replaced.get(number)) is None:
            return output
        _refuse_shape(output, wanted.of)
        self._seen.add(number)
        changed = output.clone()
        changed[:, :, wanted.heads] = 0 if wanted.values is None else torch.from_numpy(wanted.values).to(output)
        return changed

    def end(self) -> None:
        """Refuse an attention that never came by."""
        _refuse_unseen(self._replaced, self._seen)


class _Average(_Edit):
    """Adds up what heads put out at ordinary tokens, and changes nothing."""

    def __init__(self, calls: Sequence[int], sample: Sample) -> None:
        self._calls, self._sample, self._is_ordinary = set(calls), sample, np.zeros((0, 0), dtype=bool)
        self._sums: dict[int, tuple[Float64Array, int]] = {}
        self._batch: dict[int, tuple[Float64Array, int]] = {}

    def begin(self, sequences: IntArray) -> None:
        """Note which tokens of the batch are ordinary; what a broken-off pass left is dropped."""
        self._batch = {}
        self._is_ordinary = self._sample.laid(self._sample.is_ordinary, sequences, False)

    def __call__(self, number: int, output: Tensor) -> Tensor:
        """Add up an output and return it."""
        import torch

        if number in self._calls:
            rows = output[torch.from_numpy(_fitted(self._is_ordinary, output)).to(output.device)]
            self._batch[number] = rows.double().sum(dim=0).cpu().numpy(), len(rows)
        return output

    def end(self) -> None:
        """Count the batch in."""
        _refuse_unseen(self._calls, self._batch)
        for number, (total, n) in self._batch.items():
            before, n_before = self._sums.get(number, (np.zeros_like(total), 0))
            self._sums[number] = before + total, n_before + n

    def mean(self, number: int) -> Float64Array:
        """Return the mean of an attention: (head, d_value).

        Raises:
            QKSpaceError: no token of the sample is an ordinary one.
        """
        total, n = self._sums[number]
        if not n:
            raise QKSpaceError(
                "No token of the sample is ordinary, so no head has a mean over them. Allow more tokens."
            )
        return total / n


def _fitted(is_ordinary: BoolArray, output: Tensor) -> BoolArray:
    """Return which rows of an output (batch, query token) are of ordinary tokens."""
    batch, n = is_ordinary.shape
    if output.shape[0] == batch and output.shape[1] >= n:  # some models fill their last window themselves
        return np.pad(is_ordinary, ((0, 0), (0, output.shape[1] - n)))
    if is_ordinary.all():  # windows of a picture
        return np.ones(output.shape[:2], dtype=bool)
    raise QKSpaceError(
        f"The model attends over {tuple(output.shape[:2])} tokens where the sample has {is_ordinary.shape}, so it cannot be "
        "told which are ordinary ones and a head has no mean. Use method='zero'."
    )


def _refuse_shape(output: Tensor, n_heads: int) -> None:
    if output.dim() != 4 or output.shape[2] != n_heads:
        raise QKSpaceError(
            f"An attention puts out {tuple(output.shape)}; expected (batch, query token, {n_heads} heads, d_value), so what is "
            "of one head cannot be told."
        )


def _refuse_unseen(wanted: Iterable[int], seen: Container[int]) -> None:
    if missing := [number for number in wanted if number not in seen]:
        raise QKSpaceError(
            f"Attention number {missing[0]} of this model is computed in a way in which what one head puts out cannot be "
            "replaced (a sliding window cut into pieces, for instance)."
        )
