"""Gather: take from one forward pass what the index keeps of it, and sum the statistics of its heads.

In: the attentions of a pass as they arise, and where the rows of its sequences lie in a unit. Out: filled buffers and
sums. Attention is looked at some query tokens at a time, so that no sequence is too long. Knows no files and no threads.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from qkspace import masks
from qkspace.capture import AttentionCall, cropped, weights
from qkspace.feed import Tokens
from qkspace.position import LayerPosition, allowed_alike, as_pairs
from qkspace.schema import BoolArray, IntArray, LayerSpec, QKSpaceError
from qkspace.surface import FIRST, HEAD_COLUMNS, NEIGHBOURS, REACH, SPECIAL, SharedBatch, SurfaceSums, uniform_attention
from qkspace.windows import whole

if TYPE_CHECKING:
    import torch
    from torch import Tensor

KEY_CLASSES = (
    "attention_to_special",
    "attention_to_first",
    "attention_to_previous",
    "attention_to_next",
    "attention_to_self",
    "attention_distance",
)
SUMMED = (*KEY_CLASSES, "entropy", "entropy_uniform", "attention_max", "value_norm", "position_share")
STATISTICS = (*SUMMED, *HEAD_COLUMNS)
# Means over all tokens read, each as a query. Attention to a class of keys is summed over those keys; a query without a
# previous (next) token counts 0. Entropy is in nats, and entropy_uniform is that of equal attention to all allowed keys;
# distance is in tokens; value_norm is Euclidean. position_share is the total variation distance between the model's own
# attention and the softmax of the product alone (a sink counts as a key): what share of attention is where it is because of
# position; nan where the layer has no position part that could be told from the product.
OF_ONE_SEQUENCE = (*KEY_CLASSES[2:], *(f"attention_to_{name}_by_value" for name in NEIGHBOURS))
# which mean nothing where queries and keys are of two sequences
LONG_ROW = 1024  # keys from which on the strongest are looked for in blocks first
TINY = 1e-30  # whose logarithm is finite, so that no weight times it is 0; torch's own 0 log 0 = 0 is five times slower

ENTROPY_BLOCK = 1 << 17  # weights whose entropy is taken at a time, so that they stay in the processor's cache


class Rows(Protocol):
    """Where what is gathered goes: the rows of one unit."""

    layers: tuple[LayerSpec, ...]
    positions: tuple[LayerPosition | None, ...]
    tokens: Tokens
    row: int  # in the index, of the first
    buffers: list[dict[str, Tensor]]
    pairs: list[NDArray[np.float16] | None]
    low: int

    def first_rows(self, sequences: IntArray) -> IntArray:
        """Return the row in the unit of the first token of some sequences."""

    def first_pairs(self, sequences: IntArray) -> IntArray:
        """Return the place in `pairs` of the first pair of some sequences."""


class Gatherer:
    """Takes from one forward pass at a time what a unit keeps, and sums its statistics."""

    def __init__(self, calls: tuple[int, ...], *, statistics: bool = True) -> None:
        """calls: which attentions of a pass are of the part that is captured, one a layer; statistics: whether to sum them."""
        self._layer_of = {call: layer for layer, call in enumerate(calls)}
        self.statistics = statistics

    def begin(self, rows: Rows, sequences: IntArray, device: torch.device) -> None:
        """Prepare what every layer of the coming forward pass shares."""
        import torch

        self.unit, self.sequences = rows, sequences
        tokens = rows.tokens
        lengths = tokens.starts[sequences + 1] - tokens.starts[sequences]
        self.asking, self.answering = _sides(tokens, sequences, lengths)
        first_row = rows.first_rows(sequences)
        kept = tokens.is_stored[sequences]
        last = rows.buffers[0]["query"].shape[1] - 1  # which takes what is not kept
        self.first_key = torch.from_numpy(first_row + rows.row).to(torch.int32)[:, None, None, None]
        self.any_kept = bool(kept.any())
        self.kept = kept
        self.queries = _Side(self.asking, first_row, kept, last)
        self.keys = self.queries if self.answering is self.asking else _Side(self.answering, first_row, kept, last)
        self.shared = SharedBatch(tokens, sequences, self.asking, self.answering)
        self.crosses = tokens.n_source is not None
        self.longest = int(np.argmax(self.queries.lengths))
        self.sums: list[NDArray[np.float64]] = []  # layer -> (head, SUMMED)
        self.surface: list[NDArray[np.float64]] = []  # layer -> (head, sum), with equal attention as one more head
        self._move(device)

    def _move(self, device: torch.device) -> None:
        """Have what layers share on the device of the next one: a model may be spread over several."""
        self.device = device
        for part in (self.queries, self.keys, self.shared):
            part.move(device)
        self._verified: dict[tuple[bool, int | None], Tensor | None] = {}  # the mask that was seen to be so
        self.uniform: dict[tuple[bool, int | None], tuple[Tensor, Tensor]] = {}  # what it sums to, by mask

    def see(self, call: AttentionCall) -> None:
        """Take what is kept of one layer from one forward pass."""
        number = self._layer_of.get(call.index)
        if number is None:
            return
        call, n = whole(call), self.queries.inside.shape[1]
        if n < call.query.shape[2] == call.key.shape[2]:
            call = cropped(call, n)  # the model itself fills its last window
        if call.query.device != self.device:
            self._move(call.query.device)
        layer, buffer = self.unit.layers[number], self.unit.buffers[number]
        self._verify(call, layer, self.unit.positions[number])
        value_norm = self._value_norm(call)  # (sequence, kv_head, key token)
        sums = _HeadSums(self, call, layer, value_norm) if self.statistics else None
        top: Tensor | None = None
        for rows, attention in call.rows():
            attention = attention.float()
            if layer.causal and rows.stop < attention.shape[3] and not layer.crosses:
                attention = attention[..., : rows.stop]  # what follows is not attended to
            top = pack_strongest(attention, min(buffer["top_key"].shape[2], attention.shape[3]), self.unit.low)
            if sums is not None:
                sums.add(rows, attention, unpack_strongest(top[..., 0], self.unit.low)[0])
            if self.any_kept:
                self._keep_strongest(top.cpu(), self.queries.rows[:, rows], buffer)
        if top is None:
            raise QKSpaceError(f"{call.module}: no attention came out of it.")
        self._sum(layer, sums)
        if self.any_kept:
            self._keep(call, buffer, value_norm)
            self._keep_pairs(call, number)

    def _sum(self, layer: LayerSpec, sums: _HeadSums | None) -> None:
        """Add the sums of a layer to those of the pass; nan where statistics are switched off."""
        width = self.shared.layout.width
        if sums is None:
            found = np.full((layer.n_heads + 1, len(SUMMED) + width), np.nan)
        else:
            found = sums.finish().cpu().double().numpy()
        self.sums.append(found[:-1, : len(SUMMED)])
        self.surface.append(found[:, len(SUMMED) :])

    def _keep_strongest(self, packed: Tensor, places: IntArray, buffer: dict[str, Tensor]) -> None:
        """Store the keys that each query attends to most, and the weights; packed: (sequence, head, query token, k)."""
        import torch

        weight, position = unpack_strongest(packed, self.unit.low)
        weight = weight.to(torch.float16)
        k = weight.shape[3]  # fewer than are kept, where sequences are that short
        _put(buffer["top_attention"][:, :, :k], places, weight)
        _put(buffer["top_key"][:, :, :k], places, position.add_(self.first_key).masked_fill_(weight == 0, -1))

    def _keep(self, call: AttentionCall, buffer: dict[str, Tensor], value_norm: Tensor) -> None:
        kept = [
            ("query", call.query, self.queries),
            ("key", call.key, self.keys),
            ("value_norm", value_norm.unsqueeze(3), self.keys),
        ]
        if "query_unrotated" in buffer:
            if call.before_rotation is None:
                raise QKSpaceError(
                    f"{call.module}: there are no vectors before rotary positions: this model has none, or turns them in an "
                    "unusual place. Leave out --before-rope."
                )
            query, key = call.before_rotation
            kept += [("query_unrotated", query, self.queries), ("key_unrotated", key, self.keys)]
        for name, values, side in kept:
            _put(buffer[name], side.rows[:, : values.shape[2]], values.to(buffer[name].dtype).cpu())

    def _keep_pairs(self, call: AttentionCall, number: int) -> None:
        """Store what is added to the logits of each sequence, where that is its own."""
        pairs = self.unit.pairs[number]
        if pairs is None:
            return
        first = self.unit.first_pairs(self.sequences)
        for i in np.flatnonzero(self.kept):
            asking, answering = self.asking[i], self.answering[i]
            n = max(asking.stop, answering.stop)
            shape = asking.stop - asking.start, answering.stop - answering.start
            added = masks.added(call, int(i), *shape)
            given = np.zeros((1, *shape), dtype=np.float32) if added is None else added
            padded = np.full((len(given), n, n), -np.inf, dtype=np.float32)
            padded[:, asking, answering] = given
            flat = as_pairs(np.where(np.isfinite(padded), padded, 0), np.isfinite(padded))
            pairs[:, first[i] : first[i] + n * n] = flat

    def _verify(self, call: AttentionCall, layer: LayerSpec, position: LayerPosition | None) -> None:
        """Refuse a mask or position part that is not the one of the check, as the longest sequence of the batch has it."""
        n = int(self.queries.lengths[self.longest])
        if layer.position == "sequence" or layer.crosses:
            return
        form, is_plain = (layer.causal, layer.window), call.bias is None and position is None
        if is_plain and form in self._verified and self._verified[form] is call.mask:
            return  # the layers of most models share one mask
        self._verified[form] = call.mask
        allowed = allowed_alike(layer, position, n)
        if not np.array_equal(masks.observed_mask(call, self.longest, n), allowed):
            raise QKSpaceError(f"{call.module}: its attention mask over {n} tokens is not the one seen at the check.")
        bias = None if position is None else position.of(n)
        if bias is None:
            return
        found = masks.added(call, self.longest, n, n)
        bias = np.where(allowed, bias, 0)
        apart = np.where(allowed, (0 if found is None else found) - bias, np.nan)
        spread = np.nanmax(apart, axis=-1) - np.nanmin(apart, axis=-1)  # a constant of a row is nothing
        if spread.max() > 1e-2 + 1e-2 * float(np.ptp(bias)):
            raise QKSpaceError(f"{call.module}: what position adds over {n} tokens is not what it was at the check.")

    def position(self, call: AttentionCall) -> LayerPosition | None:
        """Return the position part of the layer of a call."""
        return self.unit.positions[self._layer_of[call.index]]

    def _value_norm(self, call: AttentionCall) -> Tensor:
        """Return the Euclidean length of each value: (sequence, kv_head, key token), nan where no values were seen."""
        if call.value is not None:
            norms: Tensor = call.value.float().norm(dim=-1)
            return norms
        return call.key.new_full(call.key.shape[:3], float("nan")).float()


class _HeadSums:
    """The sums of the statistics of one layer over a batch."""

    def __init__(self, batch: Gatherer, call: AttentionCall, layer: LayerSpec, value_norm: Tensor) -> None:
        self._batch, self._call, self._layer, self._value_norm = batch, call, layer, value_norm
        self._asking = batch.shared.asking.unsqueeze(2)  # (sequence, token, 1): padding counts nothing
        norm = None if call.value is None else value_norm
        causal = layer.causal and not layer.crosses
        self._surface = SurfaceSums(batch.shared, layer.n_heads, norm, causal=causal)
        self._columns: list[
            Tensor
        ] = []  # of each piece: entropy, attention_max and any position_share, (statistic, head, 1)
        form, is_alike = (layer.causal, layer.window), batch.position(call) is None and layer.position is None
        self._form = form if is_alike and not layer.crosses else None  # None: a mask that other layers do not share
        self._known = batch.uniform.get(form) if self._form is not None else None
        self._uniform = SurfaceSums(batch.shared, 1, None, causal=causal)
        self._uniform_entropy = value_norm.new_zeros(())

    def add(self, rows: slice, attention: Tensor, strongest: Tensor) -> None:
        """Add some query tokens: their attention, and its largest weight (sequence, head, query token)."""
        import torch

        asking = self._asking[:, rows]
        entropy = _entropy(attention)
        share = self._position_share(attention, rows)
        per_query = torch.stack([entropy, strongest] if share is None else [entropy, strongest, share])
        self._columns.append((per_query @ asking).sum(dim=1))
        self._surface.add(rows, attention, entropy)
        if self._known is None:
            allowed = self._allowed(rows)[:, :1, :, : attention.shape[3]]
            equal, its_entropy = uniform_attention(allowed)
            self._uniform.add(rows, equal, its_entropy)
            self._uniform_entropy += torch.bmm(its_entropy, asking).sum()

    def finish(self) -> Tensor:
        """Return sums of SUMMED and of `surface.Layout`, of each head and last of equal attention: (head + 1, sum)."""
        import torch

        layer, batch = self._layer, self._batch
        known = (self._uniform_entropy, self._uniform.finish()) if self._known is None else self._known
        if self._form is not None:
            batch.uniform[self._form] = known
        surface = self._surface.finish(has_sink=layer.has_sink)
        places = batch.shared.layout.slices
        profile = surface[:, places["profile"]]
        of_keys = [surface[:, [SPECIAL, FIRST]], profile[:, [REACH + offset for offset in NEIGHBOURS.values()]]]
        entropy, strongest, *shares = torch.stack(self._columns).sum(dim=0)  # (head, 1) each
        share = shares[0] if shares else torch.full_like(entropy, torch.nan)
        uniform = known[0].expand(layer.n_heads, 1)
        norms = self._norms()
        summed = torch.cat([*of_keys, surface[:, places["distance"]], entropy, uniform, strongest, norms, share], dim=1)
        found = torch.cat([summed, surface], dim=1)
        return torch.cat([found, torch.nn.functional.pad(known[1], (len(SUMMED), 0))])

    def _norms(self) -> Tensor:
        """Return the length of the values of each head, summed: (head, 1)."""
        import torch

        layer, batch = self._layer, self._batch
        inside = batch.keys.inside.float().unsqueeze(2)
        norms = torch.bmm(self._value_norm, inside).sum(dim=0)
        norms = norms.repeat_interleave(layer.n_heads // layer.n_kv_heads, dim=0)
        if batch.crosses:  # a mean over queries, as the others are
            norms = norms * (float(batch.queries.lengths.sum()) / max(1.0, float(batch.keys.lengths.sum())))
        return norms

    def _position_share(self, attention: Tensor, rows: slice) -> Tensor | None:
        """Return the distance of each query's attention from that of the product alone: (sequence, head, token)."""
        call = self._call
        if call.before_rotation is not None:
            query, key = call.before_rotation
        elif not self._layer.is_product:
            query, key = call.query, call.key
        else:
            return None
        n_keys = attention.shape[3]
        content = weights(query, key, self._layer.scale, mask=self._allowed(rows), rows=rows)
        apart = (attention - content[..., :n_keys]).abs().sum(dim=-1)
        return (apart + (1 - attention.sum(dim=-1)).clamp_min(0)) / 2

    def _allowed(self, rows: slice) -> Tensor:
        batch = self._batch
        return _allowed(self._call, self._layer, batch.position(self._call), batch.keys.inside, rows)


class _Side:
    """The tokens of a batch that ask, or that answer, laid out as the model lays them out: each sequence from 0.

    inside (sequence, token): what is no padding; rows (sequence, token): where each goes in the unit.
    """

    def __init__(self, chosen: list[slice], first_row: IntArray, kept: BoolArray, last: int) -> None:
        import torch

        self.lengths = np.array([side.stop - side.start for side in chosen])
        start = np.array([side.start for side in chosen])
        place = np.arange(int(self.lengths.max()))[None, :]
        inside = place < self.lengths[:, None]
        self.rows = np.where(inside & kept[:, None], (first_row + start)[:, None] + place, last)
        self._inside = self.inside = torch.from_numpy(inside)

    def move(self, device: torch.device) -> None:
        """Have `inside` on a device."""
        self.inside = self._inside.to(device)


def _put(room: Tensor, places: IntArray, values: Tensor) -> None:
    """Write values (sequence, head, token, n) to the places (sequence, token) of room (head, place, n).

    Numpy moves a vector as one item, five times faster than torch moves its components.
    """
    if values.shape != (len(places), len(room), places.shape[1], room.shape[2]):
        raise ValueError(f"{tuple(values.shape)} does not fit {places.shape} places of {tuple(room.shape)}.")
    if values.stride(3) != 1:
        values = values.contiguous()
    n_bytes = values.shape[3] * values.element_size()
    items, found = (part.numpy().view(f"V{n_bytes}")[..., 0] for part in (room, values))
    items[:, places] = found.swapaxes(0, 1)


def _sides(tokens: Tokens, sequences: IntArray, lengths: IntArray) -> tuple[list[slice], list[slice]]:
    """Return which tokens of each sequence ask, and which answer; the same list where all do both."""
    if tokens.n_source is None:
        both = [slice(0, int(n)) for n in lengths]
        return both, both
    source = tokens.n_source[sequences]
    asking = [slice(int(m), int(n)) for m, n in zip(source, lengths, strict=True)]
    return asking, [slice(0, int(m)) for m in source]


def _entropy(attention: Tensor) -> Tensor:
    """Return the entropy of each row in nats: (sequence, head, token)."""
    import torch

    if attention.device.type != "cpu" or not attention.is_contiguous():
        return attention.clamp_min(TINY).log_().mul_(attention).sum(dim=-1).neg_()
    rows = attention.flatten(0, 2)
    n = max(1, ENTROPY_BLOCK // rows.shape[1])
    out, room = rows.new_empty(len(rows)), rows.new_empty(min(n, len(rows)), rows.shape[1])
    for first in range(0, len(rows), n):
        part = rows[first : first + n]
        logs = torch.clamp_min(part, TINY, out=room[: len(part)])
        torch.sum(logs.log_().mul_(part), dim=-1, out=out[first : first + n])
    return out.neg_().view(attention.shape[:3])


def _allowed(
    call: AttentionCall, layer: LayerSpec, position: LayerPosition | None, answering: Tensor, rows: slice
) -> Tensor:
    """Return who may attend to whom in every sequence, of some query tokens: (sequence, 1 or head, query, key token)."""
    import torch

    if layer.position == "sequence":
        n_queries, n_keys = call.query.shape[2], call.key.shape[2]
        per_sequence = [masks.added(call, s, n_queries, n_keys) for s in range(len(call.query))]
        shown = [np.zeros((1, n_queries, n_keys)) if part is None else part for part in per_sequence]
        finite = torch.from_numpy(np.isfinite(np.stack(shown))).to(answering.device)
        return finite[:, :, rows] & answering[:, None, None, :]
    if layer.crosses:
        return answering[:, None, None, :].expand(-1, 1, rows.stop - rows.start, -1)
    allowed = torch.from_numpy(allowed_alike(layer, position, answering.shape[1], rows)).to(answering.device)
    return allowed[None, None] & answering[:, None, None, :]


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
    if packed.shape[-1] >= LONG_ROW:
        packed = _candidates(packed, k)
    if packed.device.type != "cpu":
        return packed.topk(k, dim=-1).values
    packed.numpy().sort(axis=-1)
    return packed[..., -k:].flip(-1)


def _candidates(packed: Tensor, k: int) -> Tensor:
    """Return what can be among the k largest of long rows: all of the k blocks whose largest are largest."""
    import torch

    n = packed.shape[-1]
    size = 1 << (int((n / k) ** 0.5) - 1).bit_length()
    filled = torch.nn.functional.pad(packed, (0, -n % size), value=0)
    blocks = filled.reshape(*packed.shape[:-1], -1, size)
    best = blocks.amax(dim=-1).topk(min(k, blocks.shape[-2]), dim=-1).indices
    found: Tensor = blocks.gather(-2, best[..., None].expand(*best.shape, size)).flatten(-2)
    return found


def unpack_strongest(packed: Tensor, low: int) -> tuple[Tensor, Tensor]:
    """Return the weights and positions that `pack_strongest` packed."""
    import torch

    return (packed & ~low).view(torch.float32), low - (packed & low)
