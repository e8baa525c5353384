"""Scan: what changed in the attention of one layer between two indexes, sequence by sequence, a block at a time.

In: two indexes, what their sequences have in common, and which heads are compared. Out: the arrays of a layer on disk, and
last a marker with the sums that the table of heads is made of. Layers are independent; each runs in a process of its own.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qkspace import store
from qkspace.comparison.drift import SequenceMarks, sequence_drift
from qkspace.comparison.moments import Moments
from qkspace.comparison.noise import noise_floor
from qkspace.comparison.units import CommonSequence, common_units
from qkspace.index import Index
from qkspace.maps import end_with_parent
from qkspace.pooling import pool
from qkspace.position import attend_heads, with_sink
from qkspace.schema import FloatArray, IntArray

BLOCK_UNITS = 16_384  # written at a time
BLOCK_WEIGHTS = 1 << 24  # attention weights of some heads of one sequence, held at a time
KINDS = {"drift": ((), "float16"), "changed_key": ((2,), "int32"), "changed_attention": ((2, 2), "float16")}


@dataclass(frozen=True, slots=True)
class LayerJob:
    """One layer of the base against the heads of a tuned checkpoint that its heads are compared with.

    root: of the comparison; heads: (head, 2), layer and head in the tuned index of each head.
    """

    root: Path
    label: str
    base: Path
    tuned: Path
    layer: int
    heads: IntArray

    @property
    def marker(self) -> Path:
        """The file that says that this layer is done."""
        return self.root / store.WORK / "drift" / self.label / f"L{self.layer:02d}.npz"

    def path(self, kind: str) -> Path:
        """Return where an array of this layer is stored."""
        return self.root / kind / self.label / f"L{self.layer:02d}.npy"


class _Side:
    """The vectors of some heads, of any layers of an index, read where they are asked for."""

    def __init__(self, index: Index, heads: IntArray) -> None:
        """Open the files; heads: (head, 2), layer and head."""
        self.index, self.heads = index, heads
        names = {layer: f"L{layer:02d}.npy" for layer in np.unique(heads[:, 0])}
        self._stored = {
            (kind, layer): store.read_array(index.root / kind / name)
            for kind in ("query", "key", "value_norm")
            for layer, name in names.items()
        }

    @property
    def has_sink(self) -> bool:
        """Whether a part of the attention of some of the heads goes to no token."""
        return any(self.index.layers[layer].has_sink for layer in np.unique(self.heads[:, 0]))

    def read(self, kind: str, rows: slice, heads: IntArray) -> FloatArray:
        """Return query, key or value_norm of some rows, keys repeated for the heads that share them: (head, row, ...)."""
        parts = []
        for layer, head in self.heads[heads]:
            spec = self.index.layers[layer]
            at = head if kind == "query" else head // (spec.n_heads // spec.n_kv_heads)
            parts.append(self._stored[kind, layer][at, rows])
        return store.float_array(np.stack(parts))

    def attention(self, rows: slice, heads: IntArray) -> FloatArray:
        """Return the attention of some heads over the sequence in some rows: (head, query token, key token)."""
        n = rows.stop - rows.start
        place = int(np.searchsorted(self.index.row_starts, rows.start, side="right")) - 1
        more: dict[str, Any] = {"n_source": self.index.n_source(place), "number": place}
        out = np.empty((len(heads), n, n), dtype=np.float32)
        for layer in np.unique(self.heads[heads, 0]):
            which = np.flatnonzero(self.heads[heads, 0] == layer)
            query, key = (self.read(kind, rows, heads[which]) for kind in ("query", "key"))
            position = self.index.position(int(layer))
            position = None if position is None else position.taken(self.heads[heads[which], 1])
            out[which] = attend_heads(query, key, self.index.layers[layer], position, **more)
        return out


def scan_layer(job: LayerJob) -> None:
    """Compare the attention of a layer over all common sequences; write its arrays, and the sums of its heads last."""
    end_with_parent()
    base, tuned = Index(job.base), Index(job.tuned)
    units = common_units(base, tuned)
    own = np.array([(job.layer, head) for head in range(len(job.heads))])
    sides = _Side(base, own), _Side(tuned, job.heads)
    is_special = base.tokens["is_special"].to_numpy(dtype=bool)

    def special_of(s: int) -> NDArray[np.bool_] | None:
        return is_special[slice(*units.base_rows[s])] if units.kind == "token" else None

    n_heads, n_units = len(job.heads), int(units.starts[-1])
    sums: list[NDArray[np.float64]] = []
    with store.disk_errors(job.root), ExitStack() as stack:
        files = {
            kind: stack.enter_context(store.writing_rows(job.path(kind), (n_heads, n_units, *rest), dtype))
            for kind, (rest, dtype) in KINDS.items()
        }
        for first, last in _blocks(units.starts):
            start, stop = int(units.starts[first]), int(units.starts[last])
            block = {kind: np.zeros((n_heads, stop - start, *rest), dtype) for kind, (rest, dtype) in KINDS.items()}
            for s in range(first, last):
                at = slice(int(units.starts[s]) - start, int(units.starts[s + 1]) - start)
                sums.append(_compare(sides, units.sequence(s), special_of(s), block, at, start))
            for kind, file in files.items():
                file.write(start, block[kind])
    result: dict[str, NDArray[Any]] = {"sums": np.stack(sums)}
    if units.kind == "token":
        result |= _of_vectors(sides, job)
    with store.disk_errors(job.root):
        store.write_arrays(job.marker, result)


def _blocks(starts: IntArray) -> Iterator[tuple[int, int]]:
    """Yield runs of whole sequences of about `BLOCK_UNITS` units, as (first, last + 1)."""
    first = 0
    while first < len(starts) - 1:
        last = max(first + 1, int(np.searchsorted(starts, starts[first] + BLOCK_UNITS, side="right")) - 1)
        yield first, last
        first = last


def _compare(
    sides: tuple[_Side, _Side],
    part: CommonSequence,
    is_special: NDArray[np.bool_] | None,
    block: dict[str, NDArray[Any]],
    at: slice,
    first_unit: int,
) -> NDArray[np.float64]:
    """Compare one sequence in all heads of a layer, write what changed into `block`, and return the sums: (head, part).

    is_special: (token), None where units are words.
    """
    rows, spec = (part.base_rows, part.tuned_rows), sides[0].index.layers[sides[0].heads[0, 0]]
    has_sink = any(side.has_sink for side in sides)
    longest = max(r.stop - r.start for r in rows)
    together = max(1, BLOCK_WEIGHTS // longest**2)
    sums = []
    for start in range(0, len(sides[0].heads), together):
        heads = np.arange(start, min(start + together, len(sides[0].heads)))
        base, tuned = (side.attention(r, heads) for side, r in zip(sides, rows, strict=True))
        if is_special is None:
            base = pool(base, part.base_unit, part.base_unit, part.n_units)
            tuned = pool(tuned, part.tuned_unit, part.tuned_unit, part.n_units)
            if has_sink:  # what it takes goes outside too
                for rows_of in (base, tuned):
                    rows_of[..., -1] += np.maximum(1 - rows_of.sum(axis=-1), 0)
            marks = _marks(np.zeros(part.n_units, dtype=bool), causal=False, asks=_asks(base, tuned))
            found = sequence_drift(base, tuned, None, None, marks)
        else:
            norms = [side.read("value_norm", r, heads) for side, r in zip(sides, rows, strict=True)]
            marks = _marks(is_special, causal=spec.causal, asks=_asks(base, tuned))
            if has_sink:  # one more key, whose value is 0
                base, tuned = with_sink(base), with_sink(tuned)
                norms = [np.pad(norm, ((0, 0), (0, 1))) for norm in norms]
            found = sequence_drift(base, tuned, norms[0], norms[1], marks)
        changed = np.where(found.changed_key >= 0, found.changed_key + first_unit + at.start, -1)
        for kind, values in (("drift", found.divergence), ("changed_key", changed)):
            block[kind][heads, at] = values
        block["changed_attention"][heads, at] = found.changed_attention
        sums.append(found.sums)
    return np.concatenate(sums)


def _asks(base: FloatArray, tuned: FloatArray) -> NDArray[np.bool_] | None:
    """Return which units attend to anything, (unit), from the attention of both sides; None where all do."""
    asks = np.asarray((base.any(axis=2) | tuned.any(axis=2)).any(axis=0))
    return None if asks.all() else asks


def _marks(is_special: NDArray[np.bool_], *, causal: bool, asks: NDArray[np.bool_] | None = None) -> SequenceMarks:
    """Mark the units of a sequence: of words the first is no sink, which lies outside the words."""
    is_first = np.arange(len(is_special)) == 0
    return SequenceMarks(is_special, ~is_special & ~(is_first & causal), causal, asks)


def _of_vectors(sides: tuple[_Side, _Side], job: LayerJob) -> dict[str, NDArray[Any]]:
    """Return what vectors tell of each head: the noise floor, and of layers of one make the change of the product and CKA."""
    base = sides[0].index
    spec = base.layers[job.layer]
    floors = {layer: _floors(sides[1].index, layer) for layer in np.unique(job.heads[:, 0])}
    of_tuned = [floors[layer][head] for layer, head in job.heads]
    found: dict[str, NDArray[Any]] = {"noise_floor": np.maximum(_floors(base, job.layer), of_tuned)}
    makes = {(other.d_head, other.scale) for other in (sides[1].index.layers[layer] for layer in job.heads[:, 0])}
    if len(makes) == 1:
        moments, heads = Moments(), np.arange(len(job.heads))
        step = max(1, BLOCK_WEIGHTS // (2 * len(heads) * spec.d_head))
        for start in range(0, base.n_tokens, step):
            rows = slice(start, min(start + step, base.n_tokens))
            moments.add(*(side.read(kind, rows, heads) for side in sides for kind in ("query", "key")))
        found["product_change"] = moments.product_change(spec.scale, makes.pop()[1])
        found["query_cka"], found["key_cka"] = moments.cka()
    return found


def _floors(index: Index, layer: int) -> NDArray[np.float64]:
    """Return the noise floor of each head of a layer."""
    query, key = (store.read_array(index.root / kind / f"L{layer:02d}.npy") for kind in ("query", "key"))
    more: dict[str, Any] = {"position": index.position(layer), "n_source": index.layout.n_source}
    return noise_floor(query, key, index.layers[layer], index.row_starts, seed=0, **more)
