"""Extract: run a unit of the corpus through the model and gather what the index keeps of it.

In: a model, its checked layers and some whole sequences of token ids. Out: for each layer the stored rows of query,
key, value norm and top attended keys, and sums of head statistics over everything that was read. Knows no files.
Memory is bounded by the unit, whatever the size of the corpus; a unit always gives the same result.
"""

from __future__ import annotations

import copy
from collections import deque
from collections.abc import Generator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from qkspace.capture import AttentionCall, forward, listening, observed_mask
from qkspace.schema import BoolArray, IntArray, LayerSpec, QKSpaceError

if TYPE_CHECKING:
    import torch
    from torch import Tensor
    from transformers import PreTrainedModel

KEY_CLASSES = (
    "attention_to_special",
    "attention_to_first",
    "attention_to_previous",
    "attention_to_next",
    "attention_to_self",
    "attention_distance",
)
STATISTICS = (*KEY_CLASSES, "entropy", "entropy_uniform", "attention_max", "value_norm")
# Means over all tokens read, each as a query. Attention to a class of keys is summed over those keys; a query without a
# previous (next) token counts 0. Entropy is in nats, and entropy_uniform is that of equal attention to all allowed keys;
# distance is in tokens; value_norm is Euclidean.
UNIT_TOKENS, UNIT_BYTES = 12_288, 256 << 20  # a unit ends at whichever comes first
TINY = 1e-30  # whose logarithm is finite, so that no weight times it is 0; torch's own 0 log 0 = 0 is five times slower
ATTENTION_BYTES = 128 << 20  # the attention of one layer and batch
IN_WORK = 2  # units whose batches run at a time, so that threads need not wait for the last batch of one
MAX_WORKERS = 4  # batches that are run side by side on a CPU, each with its share of the threads


@dataclass(frozen=True, slots=True)
class Tokens:
    """A tokenised corpus: token_ids and is_special are flat, sequence s is starts[s]:starts[s + 1].

    is_stored (sequence) marks the sequences whose vectors are kept; statistics run over all.
    """

    token_ids: IntArray
    is_special: BoolArray
    starts: IntArray
    is_stored: BoolArray

    @property
    def lengths(self) -> IntArray:
        """Tokens of each sequence."""
        return np.diff(self.starts)


@dataclass(frozen=True, slots=True)
class Unit:
    """Sequences first:last of the corpus, whose stored tokens are rows row:row + n_rows of the index."""

    number: int
    first: int
    last: int
    row: int
    n_rows: int


@dataclass(frozen=True, slots=True)
class LayerRows:
    """What the index keeps of one layer and unit.

    query (head, row, d_head), key (kv_head, row, d_head), value_norm (kv_head, row),
    top_key and top_attention (head, row, k): row in the index of each query's most attended keys and the weight.
    """

    query: NDArray[Any]
    key: NDArray[Any]
    value_norm: NDArray[Any]
    top_key: NDArray[Any]
    top_attention: NDArray[Any]


@dataclass(frozen=True, slots=True)
class UnitResult:
    """Rows of each layer, and sums over the unit's tokens of each statistic: layer -> (head, statistic)."""

    rows: tuple[LayerRows, ...]
    sums: tuple[NDArray[np.float64], ...]
    n_tokens: int


def plan_units(tokens: Tokens, layers: tuple[LayerSpec, ...], top_k: int, storage: str) -> list[Unit]:
    """Cut the corpus into units of whole sequences, bounded in tokens and in bytes held while one is worked on."""
    limit = min(UNIT_TOKENS, UNIT_BYTES // bytes_per_token(layers, top_k, storage))
    lengths = tokens.lengths
    stored = np.concatenate([[0], np.cumsum(np.where(tokens.is_stored, lengths, 0))])
    units: list[Unit] = []
    first = 0
    for last in range(1, len(lengths) + 1):
        full = last < len(lengths) and tokens.starts[last + 1] - tokens.starts[first] > limit
        if full or last == len(lengths):
            units.append(Unit(len(units), first, last, int(stored[first]), int(stored[last] - stored[first])))
            first = last
    return units


def bytes_per_token(layers: tuple[LayerSpec, ...], top_k: int, storage: str) -> int:
    """Return what one stored token takes in the index, over all layers."""
    width = np.dtype(storage).itemsize
    return sum(
        (layer.d_head * (layer.n_heads + layer.n_kv_heads) + layer.n_kv_heads) * width + 6 * top_k * layer.n_heads
        for layer in layers
    )


def make_batches(lengths: IntArray, batch_tokens: int, n_heads: int) -> list[IntArray]:
    """Group sequences of like length so that padded tokens, and the attention of one layer, stay within bounds."""
    order = np.argsort(-lengths, kind="stable")
    batches: list[IntArray] = []
    start = 0
    while start < len(order):
        longest = int(lengths[order[start]])
        by_attention = ATTENTION_BYTES // (4 * n_heads * longest**2)
        size = max(1, min(batch_tokens // longest, by_attention))
        batches.append(order[start : start + size])
        start += size
    return batches


def pad_batch(tokens: Tokens, sequences: IntArray, pad_id: int, device: torch.device) -> dict[str, Tensor]:
    """Return input_ids and attention_mask, (sequence, token), padded on the right."""
    import torch

    lengths = tokens.starts[sequences + 1] - tokens.starts[sequences]
    ids = np.full((len(sequences), int(lengths.max())), pad_id, dtype=np.int64)
    for i, s in enumerate(sequences):
        ids[i, : lengths[i]] = tokens.token_ids[tokens.starts[s] : tokens.starts[s + 1]]
    mask = np.arange(ids.shape[1])[None, :] < lengths[:, None]
    arrays = {"input_ids": ids, "attention_mask": mask.astype(np.int64)}
    return {name: torch.from_numpy(array).to(device) for name, array in arrays.items()}


def extract(
    model: PreTrainedModel,
    layers: tuple[LayerSpec, ...],
    tokens: Tokens,
    units: Sequence[Unit],
    *,
    pad_id: int,
    batch_tokens: int,
    top_k: int,
    storage: str,
) -> Generator[UnitResult, None, None]:
    """Run units through the model and yield what is kept of each, in their order.

    Two are in work at a time, and what was yielded holds until the next but one is asked for, when its memory is used
    again. On a CPU batches run side by side, each in a thread with its share of the processor.

    Args:
        model: a model whose `check` gave `layers`.
        layers: how each layer attends.
        tokens: the whole corpus; only the part of each unit is read.
        units: which sequences.
        pad_id: any token id; what stands there is masked and never stored.
        batch_tokens: padded tokens of one forward pass.
        top_k: how many of each query's most attended keys are kept.
        storage: "float16" or "float32", the type of stored queries and keys.

    Raises:
        QKSpaceError: a vector too large for float16, or a mask unlike the one seen at the check.
    """
    import torch

    threads = torch.get_num_threads()
    n_workers = min(threads, MAX_WORKERS) if model.device.type == "cpu" else 1
    free: SimpleQueue[tuple[PreTrainedModel, _Watcher]] = SimpleQueue()

    def run(rows: _UnitRows, batch: IntArray) -> list[NDArray[np.float64]]:
        """Run one batch on a model that is free; return its sums of statistics, layer -> (head, statistic)."""
        model, watcher = free.get()
        try:
            watcher.begin(rows, batch, model.device)
            forward(model, pad_batch(tokens, batch, pad_id, model.device))
            return watcher.sums
        finally:
            free.put((model, watcher))

    def result(rows: _UnitRows, batches: list[Future[list[NDArray[np.float64]]]]) -> UnitResult:
        sums = [batch.result() for batch in batches]  # added up in their order, whichever ended first
        return rows.result([np.sum(layer, axis=0) for layer in zip(*sums, strict=True)])

    with ExitStack() as stack:
        stack.callback(torch.set_num_threads, threads)  # threads to come would begin with what the workers set
        for worker in range(n_workers):
            own, watcher = sharing_weights(model) if worker else model, _Watcher()
            stack.enter_context(listening(own, watcher.see))
            free.put((own, watcher))
        pool = ThreadPoolExecutor(n_workers, initializer=torch.set_num_threads, initargs=(threads // n_workers,))
        stack.callback(pool.shutdown, cancel_futures=True)
        n_rows = max((unit.n_rows for unit in units), default=0)
        buffers = [_buffers(layers, n_rows, top_k, storage) for _ in range(min(len(units), IN_WORK + 1))]
        ahead: deque[tuple[_UnitRows, list[Future[list[NDArray[np.float64]]]]]] = deque()
        for number, unit in enumerate(units):
            rows = _UnitRows(layers, tokens, unit, buffers[number % len(buffers)])
            sequences = np.arange(unit.first, unit.last)
            batches = make_batches(tokens.lengths[sequences], batch_tokens, max(layer.n_heads for layer in layers))
            ahead.append((rows, [pool.submit(run, rows, sequences[batch]) for batch in batches]))
            if len(ahead) == IN_WORK:
                yield result(*ahead.popleft())
        while ahead:
            yield result(*ahead.popleft())


def sharing_weights(model: PreTrainedModel) -> PreTrainedModel:
    """Return a second model with the same weights in memory, so that two threads can run it: a module may keep state."""
    return copy.deepcopy(model, memo={id(t): t for t in (*model.parameters(), *model.buffers())})


def _buffers(layers: tuple[LayerSpec, ...], n_rows: int, top_k: int, storage: str) -> list[dict[str, Tensor]]:
    """Return room for the rows of a unit, a layer each, laid out as the model lays out what is taken from it."""
    import torch

    dtype = {"float16": torch.float16, "float32": torch.float32}[storage]
    n = n_rows + 1  # the last row takes what is not kept
    return [
        {
            "query": torch.empty(n, layer.n_heads, layer.d_head, dtype=dtype),
            "key": torch.empty(n, layer.n_kv_heads, layer.d_head, dtype=dtype),
            "value_norm": torch.empty(n, layer.n_kv_heads, dtype=dtype),
            "top": torch.empty(layer.n_heads, n, top_k, dtype=torch.int32),  # packed, see `pack_strongest`
        }
        for layer in layers
    ]


class _UnitRows:
    """The rows of one unit, which batches of it fill a layer at a time."""

    def __init__(
        self, layers: tuple[LayerSpec, ...], tokens: Tokens, unit: Unit, buffers: list[dict[str, Tensor]]
    ) -> None:
        self.layers, self.tokens, self.unit, self.buffers = layers, tokens, unit, buffers
        stored = tokens.is_stored[unit.first : unit.last]
        lengths = tokens.lengths[unit.first : unit.last]
        self.row_of = np.concatenate([[0], np.cumsum(np.where(stored, lengths, 0))])  # within the unit
        for buffer in buffers:
            buffer["top"].zero_()  # a sequence shorter than k fills a part only
        self.low = (1 << int(lengths.max()).bit_length()) - 1

    def result(self, sums: list[NDArray[np.float64]]) -> UnitResult:
        """Return the filled buffers as arrays, head first, with the sums of the statistics."""
        n_tokens = int(self.tokens.starts[self.unit.last] - self.tokens.starts[self.unit.first])
        return UnitResult(tuple(self._layer(i) for i in range(len(self.layers))), tuple(sums), n_tokens)

    def _layer(self, number: int) -> LayerRows:
        import torch

        buffer, layer, n = self.buffers[number], self.layers[number], self.unit.n_rows
        first_row = torch.from_numpy(np.repeat(self.row_of[:-1], np.diff(self.row_of)) + self.unit.row).to(torch.int32)
        vectors = {name: buffer[name][:n].numpy() for name in ("query", "key", "value_norm")}
        for name, values in vectors.items():
            _refuse_overflow(values, f"{layer.module}: a {name}")
        attention, position = unpack_strongest(buffer["top"][:, :n], self.low)
        top_attention = attention.to(torch.float16)
        top_key = (position + first_row[:, None]).masked_fill_(top_attention == 0, -1)
        return LayerRows(
            **{name: values.swapaxes(0, 1) for name, values in vectors.items()},
            top_key=top_key.numpy(),
            top_attention=top_attention.numpy(),
        )


class _Watcher:
    """Takes from one forward pass at a time what a unit keeps, and sums its statistics."""

    def begin(self, rows: _UnitRows, sequences: IntArray, device: torch.device) -> None:
        """Prepare what every layer of the coming forward pass shares."""
        import torch

        self.unit, tokens, unit = rows, rows.tokens, rows.unit
        lengths = tokens.starts[sequences + 1] - tokens.starts[sequences]
        n = int(lengths.max())
        self.lengths = lengths
        inside = np.arange(n)[None, :] < lengths[:, None]  # (sequence, token)
        special = np.zeros_like(inside)
        for i, s in enumerate(sequences):
            special[i, : lengths[i]] = tokens.is_special[tokens.starts[s] : tokens.starts[s + 1]]
        self.inside = torch.from_numpy(inside).to(device)
        self.classes = _key_classes(self.inside, torch.from_numpy(special).to(device))
        first_row = rows.row_of[sequences - unit.first]
        kept = inside & tokens.is_stored[sequences][:, None]
        self.any_kept = bool(kept.any())
        places = np.where(kept, first_row[:, None] + np.arange(n)[None, :], len(rows.buffers[0]["query"]) - 1)
        self.rows = torch.from_numpy(places.ravel())  # of each place in sequence x token
        self.sums: list[NDArray[np.float64]] = []  # layer -> (head, statistic)

    def see(self, call: AttentionCall) -> None:
        """Take what is kept of one layer from one forward pass."""
        layer, buffer = self.unit.layers[len(self.sums)], self.unit.buffers[len(self.sums)]
        longest = int(np.argmax(self.lengths))
        n = int(self.lengths[longest])
        if not np.array_equal(observed_mask(call, longest, n), layer.allowed(n)):
            raise QKSpaceError(f"{call.module}: its attention mask over {n} tokens is not the one seen at the check.")
        value_norm = call.value.float().norm(dim=-1)  # (sequence, kv_head, token)
        attention = call.attention.float()  # (sequence, head, query token, key token)
        top = pack_strongest(attention, min(buffer["top"].shape[2], n), self.unit.low)
        self.sums.append(self._statistics(attention, top, layer, value_norm).cpu().double().numpy())
        if not self.any_kept:
            return
        self._keep_vectors(buffer["query"], call.query)
        self._keep_vectors(buffer["key"], call.key)
        self._keep_vectors(buffer["value_norm"], value_norm)
        by_head = top.transpose(0, 1).flatten(1, 2)  # (head, place, k)
        buffer["top"][:, :, : by_head.shape[2]].index_copy_(1, self.rows, by_head.cpu())

    def _keep_vectors(self, buffer: Tensor, values: Tensor) -> None:
        """Store values (sequence, head, token, ...) at this batch's rows of buffer (row, head, ...)."""
        buffer.index_copy_(0, self.rows, values.to(buffer.dtype).transpose(1, 2).flatten(0, 1).cpu())

    def _statistics(self, attention: Tensor, top: Tensor, layer: LayerSpec, value_norm: Tensor) -> Tensor:
        """Return the sums of STATISTICS over the batch's tokens, in that order: (head, statistic)."""
        import torch

        rows = self.inside.float().unsqueeze(2)  # (sequence, token, 1): padding counts nothing

        def total(per_token: Tensor) -> Tensor:  # (sequence, head, token) -> (head, 1)
            return torch.bmm(per_token, rows).sum(dim=0)

        group = layer.n_heads // layer.n_kv_heads
        uniform = (_allowed_counts(layer, self.inside).log() * self.inside).sum()
        columns = [
            torch.bmm(attention.flatten(2), self.classes).sum(dim=0),  # KEY_CLASSES
            total(attention.clamp_min(TINY).log_().mul_(attention).sum(dim=-1)).neg_(),
            uniform.expand(layer.n_heads, 1),
            total(unpack_strongest(top[..., 0], self.unit.low)[0]),
            total(value_norm).repeat_interleave(group, dim=0),
        ]
        return torch.cat(columns, dim=1)


def pack_strongest(attention: Tensor, k: int, low: int) -> Tensor:
    """Return the k largest weights of each row with their positions, largest first: (..., key token) to (..., k).

    A weight and its position are packed into one integer (a positive float sorts as its bits do), `low` being the bits of
    the position, and the rows sorted, which on a CPU is six times faster than torch's top-k. The weight loses its last
    bits to the position: for 1,024 keys it is exact to 1 part in 4,096, twice as fine as the float16 it is stored in. Equal
    weights come in order of position. `unpack_strongest` is the way back.
    """
    import torch

    position = torch.arange(attention.shape[-1], dtype=torch.int32, device=attention.device)
    packed = (attention.contiguous().view(torch.int32) & ~low).bitwise_or_(low - position)
    if packed.device.type != "cpu":
        return packed.topk(k, dim=-1).values
    packed.numpy().sort(axis=-1)
    return packed[..., -k:].flip(-1)


def unpack_strongest(packed: Tensor, low: int) -> tuple[Tensor, Tensor]:
    """Return the weights and positions that `pack_strongest` packed."""
    import torch

    return (packed & ~low).view(torch.float32), low - (packed & low)


def _key_classes(inside: Tensor, special: Tensor) -> Tensor:
    """Return weights that sum attention over classes of keys: (sequence, query token x key token, class)."""
    import torch

    n = inside.shape[1]
    position = torch.arange(n, device=inside.device)
    offset = position[:, None] - position[None, :]  # (query token, key token)
    shared = [position[None, :].expand(n, n) == 0, offset == 1, offset == -1, offset == 0, offset.abs()]
    columns = [special[:, None, :].expand(-1, n, -1), *(c.expand(len(inside), n, n) for c in shared)]
    return (torch.stack([c.float() for c in columns], dim=-1) * inside[:, :, None, None]).flatten(1, 2)


def _allowed_counts(layer: LayerSpec, inside: Tensor) -> Tensor:
    """Return how many keys each query may attend to: (sequence, query token), at least 1."""
    import torch

    allowed = torch.from_numpy(layer.allowed(inside.shape[1])).to(inside.device)
    return (inside.float() @ allowed.float().T).clamp(min=1)


def _refuse_overflow(values: NDArray[Any], what: str) -> None:
    """Raise where a number is infinite or nan; float16 is read as integers, several times faster than asking for it."""
    if values.dtype == np.float32 and not np.isfinite(values).all():
        raise QKSpaceError(f"{what} has a component that is infinite or not a number. Try --dtype float32.")
    if values.dtype != np.float16 or not values.size:
        return
    if values.view(np.int16).max() >= 0x7C00 or values.view(np.uint16).max() >= 0xFC00:  # the bits of inf and -inf
        raise QKSpaceError(f"{what} has a component beyond 65,504, too large for float16. Use --storage float32.")
