"""Extract: run a unit of the corpus through the model and gather what the index keeps of it.

In: a model, its checked layers, some whole sequences and the feed of its inputs. Out: for each layer the stored rows of
query, key, value norm and top attended keys, and sums of head statistics over everything that was read. Knows no files.
Memory is bounded by the unit, whatever the size of the corpus; a unit always gives the same result.
"""

from __future__ import annotations

import copy
from collections import deque
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from qkspace.capture import CHUNK_BYTES, Forward, forward, listening
from qkspace.feed import Feed, Tokens
from qkspace.gather import Gatherer
from qkspace.memory import Room, run_halving
from qkspace.schema import IntArray, LayerSpec, QKSpaceError
from qkspace.weights import input_device

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel

    from qkspace.selfcheck import Check

UNIT_TOKENS, UNIT_BYTES = 12_288, 256 << 20  # a unit ends at whichever comes first
IN_WORK = 2  # units whose batches run at a time, so that threads need not wait for the last batch of one
MAX_WORKERS = 4  # batches that are run side by side on a CPU, each with its share of the threads


@dataclass(frozen=True, slots=True)
class Unit:
    """Sequences first:last of the corpus, whose stored tokens are rows row:row + n_rows of the index.

    pair, n_pairs: likewise the pairs of tokens of its stored sequences, where a layer has a position part of each sequence.
    """

    number: int
    first: int
    last: int
    row: int
    n_rows: int
    pair: int = 0
    n_pairs: int = 0


@dataclass(frozen=True, slots=True)
class Keep:
    """What is kept of each token: top_k attended keys, vectors as "float16" or "float32", and those before rotary positions.

    how: by which function the model attends (`capture.listening`). statistics: switched off to measure what they cost.
    """

    top_k: int
    storage: str
    unrotated: bool = False
    how: Forward = "exact"
    statistics: bool = True


@dataclass(frozen=True, slots=True)
class LayerRows:
    """What the index keeps of one layer and unit.

    query (head, row, d_head), key (kv_head, row, d_head), value_norm (kv_head, row),
    top_key and top_attention (head, row, k): row in the index of each query's most attended keys and the weight;
    query_unrotated and key_unrotated as query and key; pairs (head, pair): what is added to the logits of each sequence.
    """

    query: NDArray[Any]
    key: NDArray[Any]
    value_norm: NDArray[Any]
    top_key: NDArray[Any]
    top_attention: NDArray[Any]
    query_unrotated: NDArray[Any] | None = None
    key_unrotated: NDArray[Any] | None = None
    pairs: NDArray[Any] | None = None


@dataclass(frozen=True, slots=True)
class UnitResult:
    """Rows of each layer, and sums over the unit's queries.

    sums: layer -> (head, statistic), those of `gather.SUMMED`; surface: layer -> (head + 1, sum), those of `surface.Layout`,
    of equal attention in the last row; counts: tokens of each class of keys and `surface.COUNTS`.
    """

    rows: tuple[LayerRows, ...]
    sums: tuple[NDArray[np.float64], ...]
    n_tokens: int
    surface: tuple[NDArray[np.float64], ...]
    counts: NDArray[np.float64]


def plan_units(tokens: Tokens, layers: tuple[LayerSpec, ...], keep: Keep) -> list[Unit]:
    """Cut the corpus into units of whole sequences, bounded in tokens and in bytes held while one is worked on."""
    limit = min(UNIT_TOKENS, UNIT_BYTES // bytes_per_token(layers, keep.top_k, keep.storage, unrotated=keep.unrotated))
    lengths = tokens.lengths
    stored = np.concatenate([[0], np.cumsum(np.where(tokens.is_stored, lengths, 0))])
    pair_bytes = 2 * sum(layer.n_heads for layer in layers if layer.position == "sequence")
    pairs = np.concatenate(
        [[0], np.cumsum(np.where(tokens.is_stored & (pair_bytes > 0), lengths.astype(np.int64) ** 2, 0))]
    )
    units: list[Unit] = []
    first = 0
    for last in range(1, len(lengths) + 1):
        full = last < len(lengths) and (
            tokens.starts[last + 1] - tokens.starts[first] > limit
            or (pairs[last + 1] - pairs[first]) * pair_bytes > UNIT_BYTES
        )
        if full or last == len(lengths):
            rows, places = (
                (int(stored[first]), int(stored[last] - stored[first])),
                (int(pairs[first]), int(pairs[last] - pairs[first])),
            )
            units.append(Unit(len(units), first, last, *rows, *places))
            first = last
    return units


def bytes_per_token(layers: tuple[LayerSpec, ...], top_k: int, storage: str, *, unrotated: bool = False) -> int:
    """Return what one stored token takes in the index, over all layers."""
    width = np.dtype(storage).itemsize
    kinds = 2 if unrotated else 1
    return sum(
        (kinds * layer.d_head * (layer.n_heads + layer.n_kv_heads) + layer.n_kv_heads) * width
        + 6 * top_k * layer.n_heads
        for layer in layers
    )


def make_batches(lengths: IntArray, batch_tokens: int, n_heads: int, *, equal: bool = False) -> list[IntArray]:
    """Group sequences of like length so that padded tokens, and the attention of one layer, stay within bounds.

    equal: only sequences of one length are put together, as where padding would change what the model makes of them.
    """
    order = np.argsort(-lengths, kind="stable")
    batches: list[IntArray] = []
    start = 0
    while start < len(order):
        longest = int(lengths[order[start]])
        by_attention = CHUNK_BYTES // (4 * n_heads * longest**2)
        size = max(1, min(batch_tokens // longest, by_attention))
        if equal:
            size = int((lengths[order[start : start + size]] == longest).sum())
        batches.append(order[start : start + size])
        start += size
    return batches


Sums = list[NDArray[np.float64]]  # the `sums` of each layer, then the `surface` of each, then `counts` of a UnitResult


def extract(
    model: PreTrainedModel,
    check: Check,
    tokens: Tokens,
    units: Sequence[Unit],
    feed: Feed,
    keep: Keep,
    *,
    batch_tokens: int,
    say: Callable[[str], None] = lambda message: None,
) -> Generator[UnitResult, None, None]:
    """Run units through the model and yield what is kept of each, in their order.

    Two are in work at a time, and what was yielded holds until the next but one is asked for, when its memory is used
    again. On a CPU batches run side by side, each in a thread with its share of the processor. A batch that the memory
    cannot take is halved. What the model would do after the last attention that is kept is not computed.

    Args:
        model: the model that was checked.
        check: what the self-check found: how each layer attends, and how it is captured.
        tokens: the whole corpus; only the part of each unit is read.
        units: which sequences.
        feed: where the inputs of the model come from.
        keep: what is kept of each token.
        batch_tokens: padded tokens of one forward pass.
        say: told when a batch had to be halved.

    Raises:
        QKSpaceError: a vector too large for float16, a mask unlike the one seen at the check, or too little memory for a
            single sequence.
    """
    import torch

    layers = check.layers
    threads = torch.get_num_threads()
    n_workers = min(threads, MAX_WORKERS) if can_be_copied(model) else 1
    if len(units) == 1:
        n_workers = min(n_workers, units[0].last - units[0].first)
    room, lengths = Room(), tokens.lengths
    free: SimpleQueue[tuple[PreTrainedModel, Gatherer]] = SimpleQueue()

    def run(rows: _UnitRows, batch: IntArray) -> list[Sums]:
        """Run one batch on a model that is free; return the sums of statistics of each part that it was run in."""
        model, gatherer = free.get()
        device = input_device(model)

        def once(sequences: IntArray) -> Sums:
            gatherer.begin(rows, sequences, device)
            forward(model, feed.batch(sequences, device), check.runner)
            return [*gatherer.sums, *gatherer.surface, gatherer.shared.counts]

        try:
            return run_halving(batch, once, say, lengths=lengths, room=room)
        finally:
            free.put((model, gatherer))

    def result(rows: _UnitRows, batches: list[Future[list[Sums]]]) -> UnitResult:
        sums = [part for batch in batches for part in batch.result()]  # added up in their order, whichever ended first
        return rows.result([np.sum(layer, axis=0) for layer in zip(*sums, strict=True)])

    with ExitStack() as stack:
        stack.callback(torch.set_num_threads, threads)  # threads to come would begin with what the workers set
        for worker in range(n_workers):
            own = sharing_weights(model) if worker else model
            gatherer = Gatherer(check.calls, statistics=keep.statistics)
            heard = listening(
                own, gatherer.see, route=check.route, how=keep.how, unrotated=keep.unrotated, last=max(check.calls)
            )
            stack.enter_context(heard)
            free.put((own, gatherer))
        pool = ThreadPoolExecutor(n_workers, initializer=torch.set_num_threads, initargs=(threads // n_workers,))
        stack.callback(pool.shutdown, cancel_futures=True)
        n_rows = max((unit.n_rows for unit in units), default=0)
        buffers = [_buffers(layers, n_rows, keep) for _ in range(min(len(units), IN_WORK + 1))]
        ahead: deque[tuple[_UnitRows, list[Future[list[Sums]]]]] = deque()
        for number, unit in enumerate(units):
            rows = _UnitRows(check, tokens, unit, buffers[number % len(buffers)])
            sequences = np.arange(unit.first, unit.last)
            most_heads, equal = max(layer.n_heads for layer in layers), getattr(feed, "equal_lengths", False)
            batches = make_batches(tokens.lengths[sequences], batch_tokens, most_heads, equal=equal)
            ahead.append((rows, [pool.submit(run, rows, sequences[batch]) for batch in batches]))
            if len(ahead) == IN_WORK:
                yield result(*ahead.popleft())
        while ahead:
            yield result(*ahead.popleft())


def can_be_copied(model: PreTrainedModel) -> bool:
    """Tell whether threads can run copies of a model: on a CPU, and not where accelerate or a quantiser moves its weights."""
    is_moved = getattr(model, "hf_device_map", None) is not None or getattr(model, "hf_quantizer", None) is not None
    return not is_moved and all(p.device.type == "cpu" for p in model.parameters())


def sharing_weights(model: PreTrainedModel) -> PreTrainedModel:
    """Return a second model with the same weights in memory, so that two threads can run it: a module may keep state."""
    return copy.deepcopy(model, memo={id(t): t for t in (*model.parameters(), *model.buffers())})


def _buffers(layers: tuple[LayerSpec, ...], n_rows: int, keep: Keep) -> list[dict[str, Tensor]]:
    """Return room for the rows of a unit, a layer each, laid out as in the index: (head, row, ...)."""
    import torch

    dtype = {"float16": torch.float16, "float32": torch.float32}[keep.storage]
    n = n_rows + 1  # the last row takes what is not kept
    buffers = []
    for layer in layers:
        query, key = (layer.n_heads, n, layer.d_head), (layer.n_kv_heads, n, layer.d_head)
        shapes = {"query": query, "key": key, "value_norm": (*key[:2], 1)}
        if keep.unrotated:
            shapes |= {"query_unrotated": query, "key_unrotated": key}
        room = {name: torch.empty(shape, dtype=dtype) for name, shape in shapes.items()}
        room["top_key"] = torch.empty(layer.n_heads, n, keep.top_k, dtype=torch.int32)
        room["top_attention"] = torch.empty(layer.n_heads, n, keep.top_k, dtype=torch.float16)
        buffers.append(room)
    return buffers


class _UnitRows:
    """The rows of one unit, which batches of it fill a layer at a time."""

    def __init__(self, check: Check, tokens: Tokens, unit: Unit, buffers: list[dict[str, Tensor]]) -> None:
        self.layers, self.positions = check.layers, check.positions
        self.tokens, self.unit, self.row, self.buffers = tokens, unit, unit.row, buffers
        stored = tokens.is_stored[unit.first : unit.last]
        lengths = tokens.lengths[unit.first : unit.last]
        kept = np.where(stored, lengths, 0)
        self.row_of = np.concatenate([[0], np.cumsum(kept)])  # within the unit
        self._pair_of = np.concatenate([[0], np.cumsum(kept.astype(np.int64) ** 2)])
        self.pairs = [
            np.zeros((layer.n_heads, unit.n_pairs), dtype=np.float16) if layer.position == "sequence" else None
            for layer in check.layers
        ]
        for buffer in buffers:
            if tokens.n_source is not None:  # a token asks or answers, and leaves the other empty
                for name in buffer:
                    buffer[name].zero_()
            buffer["top_key"].fill_(-1)  # a sequence shorter than k fills a part only
            buffer["top_attention"].zero_()
        self.low = (1 << int(lengths.max()).bit_length()) - 1

    def first_rows(self, sequences: IntArray) -> IntArray:
        """Return the row in the unit of the first token of some sequences."""
        return np.asarray(self.row_of[sequences - self.unit.first])

    def first_pairs(self, sequences: IntArray) -> IntArray:
        """Return the place of the first pair of some sequences."""
        return np.asarray(self._pair_of[sequences - self.unit.first])

    def result(self, sums: Sums) -> UnitResult:
        """Return the filled buffers as arrays, head first, with the sums of the statistics."""
        chosen = slice(self.unit.first, self.unit.last)
        n_asking = int(self.tokens.lengths[chosen].sum())
        if self.tokens.n_source is not None:
            n_asking -= int(self.tokens.n_source[chosen].sum())
        n, (*of_layers, counts) = len(self.layers), sums
        return UnitResult(
            rows=tuple(self._layer(i) for i in range(n)),
            sums=tuple(of_layers[:n]),
            n_tokens=n_asking,
            surface=tuple(of_layers[n:]),
            counts=counts,
        )

    def _layer(self, number: int) -> LayerRows:
        rows = {name: room[:, : self.unit.n_rows].numpy() for name, room in self.buffers[number].items()}
        rows["value_norm"] = rows["value_norm"][..., 0]
        for name in rows.keys() - {"top_key", "top_attention"}:
            if name != "value_norm" or not np.isnan(rows[name]).all():  # which is so where no values were seen
                _refuse_overflow(rows[name], f"{self.layers[number].module}: a {name}")
        return LayerRows(**rows, pairs=self.pairs[number])


def _refuse_overflow(values: NDArray[Any], what: str) -> None:
    """Raise where a number is infinite or nan; float16 is read as integers, several times faster than asking for it."""
    if values.dtype == np.float32 and not np.isfinite(values).all():
        raise QKSpaceError(f"{what} has a component that is infinite or not a number. Try --dtype float32.")
    if values.dtype != np.float16 or not values.size:
        return
    if values.view(np.int16).max() >= 0x7C00 or values.view(np.uint16).max() >= 0xFC00:  # the bits of inf and -inf
        raise QKSpaceError(f"{what} has a component beyond 65,504, too large for float16. Use --storage float32.")
