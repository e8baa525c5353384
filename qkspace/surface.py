"""Surface: what a head looks at, summed while its attention is at hand: classes of keys, neighbours, distance, sinks.

In: the attention of one layer over a batch, some query tokens at a time. Out: sums over the batch, a row a head, which
`qkspace.surface_tables` makes means of. Attention is gone over three times: for how much each key receives, weighted by
queries, for its sum over the batch by offset, and for what each query's values weigh. Knows no files and no model.

The statistics are those of Clark et al. 2019 (What does BERT look at?, section 3), but over all tokens alike and not a mean
of texts; attention weighted by values is that of Kobayashi et al. 2020 (Attention is not only a weight), a_ij |v_j|, before
the output projection and divided by its sum over the keys of a query.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from qkspace.feed import Tokens
from qkspace.schema import BoolArray, IntArray

if TYPE_CHECKING:
    import torch
    from torch import Tensor

REACH = 64  # tokens before and after a query whose offset is told apart; what is beyond counts with the last
OFFSETS = np.arange(-REACH, REACH + 1)  # position of the key less that of the query
NEIGHBOURS = {"previous": -1, "next": 1, "self": 0}  # the offset of each
SPECIAL, FIRST = 0, 1  # the classes of keys before those of metadata
N_BUILT_IN = 2
COUNTS = ("n_keys", "n_queries", "n_special_queries", "n_sequences")  # what follows the classes in `SharedBatch.counts`
HEAD_COLUMNS = (
    "attention_to_punctuation",
    "attention_special_to_special",
    "sink_share",
    "sink_share_uniform",
    "entropy_first",
    "entropy_first_uniform",
    *(f"attention_to_{name}_by_value" for name in ("special", "first", "punctuation", *NEIGHBOURS)),
    "attention_special_to_special_by_value",
)
# What is said of each head. attention_special_to_special is a mean over special tokens, entropy_first one over sequences, of
# the row of the first token. sink_share: of the attention of a sequence what the one key receives that receives most, and
# what goes to a learned sink; a mean over sequences weighted by their queries. _uniform: what equal attention would give.
BLOCK = 64  # query tokens that are summed by offset at a time, so that the room for it stays in the processor's cache


@dataclass(frozen=True, slots=True)
class Layout:
    """Where each sum is in a row of them: `classes` and `classes_by_value` have one a class, `profile` one an offset."""

    n_classes: int
    slices: dict[str, slice] = field(init=False)

    def __post_init__(self) -> None:
        sizes = {
            "classes": self.n_classes,
            "classes_by_value": self.n_classes,
            "special_to_special": 1,
            "special_to_special_by_value": 1,
            "neighbours_by_value": len(NEIGHBOURS),
            "sink": 1,
            "entropy_first": 1,
            "distance": 1,
            "profile": len(OFFSETS),
        }
        ends = np.cumsum(list(sizes.values())).tolist()
        places = {name: slice(end - size, end) for (name, size), end in zip(sizes.items(), ends, strict=True)}
        object.__setattr__(self, "slices", places)

    @property
    def width(self) -> int:
        """Sums of a head."""
        return int(self.slices["profile"].stop)


class SharedBatch:
    """What the layers share of a batch: who asks, who asks and is special, and which keys are in which class.

    asking, special: (sequence, query token), 1 or 0; classes: (sequence x key token, class).
    counts: tokens in each class, then COUNTS of them.
    """

    def __init__(self, tokens: Tokens, sequences: IntArray, asking: list[slice], answering: list[slice]) -> None:
        """asking, answering: which tokens of each sequence do."""
        import torch

        starts = tokens.starts[sequences]
        inside, queries = _laid_out(starts, asking)
        is_special = np.zeros(inside.shape, dtype=np.float32)
        is_special[inside] = tokens.is_special[queries]
        among, keys = _laid_out(starts, answering)
        place = np.broadcast_to(np.arange(among.shape[1]), among.shape)[among]
        columns = [np.stack([tokens.is_special[keys], place == 0], axis=1).astype(np.float32)]
        if tokens.classes is not None:
            columns.append(np.asarray(tokens.classes.one_hot(keys), dtype=np.float32))
        found = np.concatenate(columns, axis=1)
        classes = np.zeros((among.size, found.shape[1]), dtype=np.float32)
        classes[among.ravel()] = found
        self.shortest = min(side.stop - side.start for side in asking)
        self.n_keys, self.layout = among.shape[1], Layout(found.shape[1])
        totals = [len(keys), len(queries), is_special.sum(), len(sequences)]
        self.counts = np.concatenate([found.sum(axis=0, dtype=np.float64), np.asarray(totals, dtype=np.float64)])
        given = (inside.astype(np.float32), is_special, classes)
        self._given = [torch.from_numpy(values) for values in given]
        self.asking, self.special, self.classes = self._given

    def move(self, device: torch.device) -> None:
        """Have the tensors on a device."""
        self.asking, self.special, self.classes = (tensor.to(device) for tensor in self._given)


class SurfaceSums:
    """The sums of one layer over a batch, to which attention is added some query tokens at a time."""

    def __init__(self, shared: SharedBatch, n_heads: int, value_norm: Tensor | None, *, causal: bool) -> None:
        """value_norm: (sequence, kv_head, key token), None where no values were seen; causal: no key follows its query."""
        self._shared, self._causal = shared, causal
        zeros, n_queries = shared.asking.new_zeros, shared.asking.shape[1]
        self._norm: Tensor | None = None  # (sequence, head, key token)
        if value_norm is not None:
            self._norm = value_norm.repeat_interleave(n_heads // value_norm.shape[1], dim=1)
        self._received: Tensor | None = (
            None  # (sequence, head, weight, key token): of all queries, of special ones, by value
        )
        self._entropy_first: Tensor | None = None
        self._by_offset = zeros(n_heads, n_queries + shared.n_keys - 1)  # from key 0 and the last query on
        self._neighbours = zeros(n_heads, len(NEIGHBOURS))

    def add(self, rows: slice, attention: Tensor, entropy: Tensor) -> None:
        """Add the attention of some query tokens, (sequence, head, query, key token), and its entropy without the last axis."""
        import torch

        n_heads, n_keys, n = attention.shape[1], attention.shape[3], rows.stop - rows.start
        asking = torch.stack([self._shared.asking[:, rows], self._shared.special[:, rows]], dim=1)[:, None]
        weights = asking.expand(-1, n_heads, -1, -1)  # (sequence, head, weight, query token)
        if self._norm is not None:
            norm = self._norm[:, :, :n_keys]
            whole = norm.unsqueeze(2) @ attention.transpose(2, 3)  # (sequence, head, 1, query token)
            by_value = torch.where(whole > 0, asking / whole, 0)
            self._add_neighbours(rows.start, attention, norm, by_value[:, :, 0])
            weights = torch.cat([weights, by_value], dim=2)
        received = weights @ attention
        whole_keys = n_keys == self._shared.n_keys
        received = received if whole_keys else torch.nn.functional.pad(received, (0, self._shared.n_keys - n_keys))
        self._received = received if self._received is None else self._received.add_(received)
        for first in range(0, n, BLOCK):
            self._add_offsets(rows.start, slice(first, min(first + BLOCK, n)), attention)
        if rows.start == 0:
            self._entropy_first = entropy[:, :, 0].sum(dim=0).unsqueeze(1)

    def _add_neighbours(self, start: int, attention: Tensor, norm: Tensor, share: Tensor) -> None:
        """Add attention to the neighbours by value; share: (sequence, head, query token), what divides it, 0 for padding."""
        for i, offset in enumerate(NEIGHBOURS.values()):
            ahead = start + offset  # of the key, from its query's place among the rows
            weight = attention.diagonal(ahead, dim1=2, dim2=3)  # (sequence, head, query token)
            n, first = weight.shape[2], max(0, -ahead)
            key = first + ahead
            weighted = (weight * norm[:, :, key : key + n]).mul_(share[:, :, first : first + n])
            self._neighbours[:, i] += weighted.sum(dim=(0, 2))

    def _add_offsets(self, start: int, block: slice, attention: Tensor) -> None:
        """Add the attention of a block of query tokens, of which the first is `start` + block.start, by offset.

        Each row is written so far into its own of a wider table that, read in rows one longer, equal offsets are a column.
        """
        import torch

        asking, first = self._shared.asking, start + block.start
        n_keys = min(attention.shape[3], start + block.stop) if self._causal else attention.shape[3]
        n = block.stop - block.start
        width = n_keys + n - 1
        room = attention.new_zeros(attention.shape[1], n * (width + 1))
        table = room[:, : n * width].view(-1, n, width)[:, :, n - 1 :]  # (head, query token, key token)
        part = attention[:, :, block, :n_keys]
        full = min(max(self._shared.shortest - first, 0), n)  # rows that are padding in no sequence
        if full:
            torch.sum(part[:, :, :full], dim=0, out=table[:, :full])
        if full < n:
            inside = asking[:, None, first + full : first + n, None]
            torch.sum(part[:, :, full:] * inside, dim=0, out=table[:, full:])
        place = asking.shape[1] - start - block.stop
        self._by_offset[:, place : place + width] += room.view(-1, n, width + 1).sum(dim=1)[:, :width]

    def finish(self, *, has_sink: bool = False) -> Tensor:
        """Return the sums, laid out by `Layout`: (head, sum); has_sink: what rows lack to 1 goes to a sink of no key."""
        import torch

        shared, received = self._shared, self._received
        if received is None or self._entropy_first is None:
            raise ValueError("Surface sums of no attention: call add before finish.")
        strongest = received[:, :, 0].amax(dim=-1).sum(dim=0)  # (head)
        if has_sink:
            strongest = strongest + shared.asking.sum() - received[:, :, 0].sum(dim=(0, 2))
        if self._norm is not None:
            received[:, :, 2:] *= self._norm.unsqueeze(2)
        by_key = received.permute(2, 1, 0, 3).flatten(2)  # (weight, head, sequence x key token)
        classes, special = by_key[0::2] @ shared.classes, by_key[1::2] @ shared.classes[:, SPECIAL]
        neighbours = self._neighbours
        if self._norm is None:
            unknown = (torch.full_like(each, torch.nan) for each in (classes, special, neighbours))
            missing, of_special, neighbours = unknown
            classes, special = torch.cat([classes, missing]), torch.cat([special, of_special])
        distance, profile = _profile(self._by_offset, shared.asking.shape[1])
        columns = [*classes, *special.unsqueeze(2), neighbours, strongest.unsqueeze(1), self._entropy_first]
        return torch.cat([*columns, distance, profile], dim=1)


def _profile(by_offset: Tensor, n_queries: int) -> tuple[Tensor, Tensor]:
    """Return the sum of |offset| x attention, (head, 1), and attention by OFFSETS: (head, offset)."""
    import torch

    n_after = by_offset.shape[1] - n_queries  # offsets beyond 0
    away = torch.arange(1 - n_queries, n_after + 1, device=by_offset.device).abs().to(by_offset.dtype)
    padded = torch.nn.functional.pad(by_offset, (max(0, REACH + 1 - n_queries), max(0, REACH - n_after)))
    zero = max(REACH, n_queries - 1)  # where the offset is 0
    ends = (padded[:, : zero - REACH + 1], padded[:, zero + REACH :])
    before, after = (end.sum(dim=1, keepdim=True) for end in ends)
    return (by_offset @ away).unsqueeze(1), torch.cat(
        [before, padded[:, zero - REACH + 1 : zero + REACH], after], dim=1
    )


def uniform_attention(allowed: Tensor) -> tuple[Tensor, Tensor]:
    """Return equal attention to all allowed keys, (..., query token, key token), and its entropy without the last axis."""
    counts = allowed.sum(dim=-1).clamp(min=1).float()
    return allowed / counts.unsqueeze(-1), counts.log()


def _laid_out(starts: IntArray, sides: list[slice]) -> tuple[BoolArray, IntArray]:
    """Return which places of sequence x token hold one, as booleans, and the tokens of the corpus that stand there."""
    lengths = np.array([side.stop - side.start for side in sides])
    inside = np.arange(int(lengths.max()))[None, :] < lengths[:, None]
    tokens = [np.arange(start + side.start, start + side.stop) for start, side in zip(starts, sides, strict=True)]
    return inside, np.concatenate(tokens)
