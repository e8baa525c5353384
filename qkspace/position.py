"""Position: what attention is besides the product of query and key, and how attention is made of all of it.

In: the files of an index that hold the position part of each layer, or the values that a model added to its logits. Out:
records of one head or of all heads of a layer, and attention. Knows no model and no map.

    position/L00.npz    bias (head, 2 n_max - 1) where it is a function of the offset i - j, at i - j + n_max - 1, 0 at i == j;
                        bias (head, n_max, n_max) where it is one grid for all sequences, -inf where a mask of no simple form
                        does not allow it; sink (head) where there are sinks
    position/L00.npy    (head, pair) float16, of each sequence its own n * n values, row by row; -inf where not allowed

A first axis of 1 instead of `head` stands for all heads. Constants of a row, which attention cannot see, are taken off.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from qkspace import store
from qkspace.schema import BoolArray, FloatArray, IntArray, LayerSpec, QKSpaceError, is_source

Kind = Literal["offset", "grid", "sequence"]
Added = FloatArray  # or a tensor: (head, n, n), what was added to the logits of one sequence

FOLDER = "position"
TOLERANCE = 1e-4  # of the spread of the values: what differs by less is the same
NOTHING = 1e-5  # a logit; and of the largest value a tenth of it: below it, what is left is rounding
LOWEST = float(np.finfo(np.float32).min)


@dataclass(frozen=True, slots=True)
class PositionPart:
    """The position part of one head; arrays may be memory maps, see the head of this module.

    bias: (2 n_max - 1), (n_max, n_max) or (pair), by `kind`; pair_starts: (sequence + 1), of kind "sequence".
    """

    kind: Kind | None = None
    bias: NDArray[Any] | None = None
    pair_starts: IntArray | None = None
    sink: float | None = None

    def of(self, n: int, number: int | None = None) -> FloatArray | None:
        """Return what is added to the logits of a sequence of n tokens, a view (query token, key token); None for nothing.

        number: the place of the sequence among the stored ones, which kind "sequence" needs.

        Raises:
            QKSpaceError: the sequence is longer than any that was stored, or another one.
        """
        if self.bias is None:
            return None
        added: FloatArray = _of_sequence(self.kind, self.bias[None], self.pair_starts, n, number)[0]
        return added


@dataclass(frozen=True, slots=True)
class LayerPosition:
    """The position parts of all heads of a layer: as `PositionPart`, with the head first; sink: (head)."""

    kind: Kind | None = None
    bias: NDArray[Any] | None = None
    pair_starts: IntArray | None = None
    sink: FloatArray | None = None

    def head(self, head: int) -> PositionPart:
        """Return the part of one head."""
        bias = None if self.bias is None else self.bias[head if len(self.bias) > 1 else 0]
        return PositionPart(self.kind, bias, self.pair_starts, None if self.sink is None else float(self.sink[head]))

    def of(self, n: int, number: int | None = None) -> FloatArray | None:
        """Return what is added in each head: a view (head or 1, query token, key token); as `PositionPart.of`."""
        return None if self.bias is None else _of_sequence(self.kind, self.bias, self.pair_starts, n, number)

    def taken(self, heads: IntArray) -> LayerPosition:
        """Return the parts of some heads."""
        bias = None if self.bias is None else self.bias if len(self.bias) == 1 else self.bias[heads]
        return LayerPosition(self.kind, bias, self.pair_starts, None if self.sink is None else self.sink[heads])


def _of_sequence(
    kind: Kind | None, bias: NDArray[Any], pair_starts: IntArray | None, n: int, number: int | None
) -> FloatArray:
    """Return a view (head, n, n) of bias (head, ...)."""
    if kind == "sequence":
        if pair_starts is None or number is None:
            raise QKSpaceError("This layer's position part differs by sequence: say which of the stored ones it is.")
        start, end = int(pair_starts[number]), int(pair_starts[number + 1])
        if end - start != n * n:
            raise QKSpaceError(
                f"The stored sequence {number} has {end - start} pairs of tokens; {n * n} were asked for."
            )
        return bias[:, start:end].reshape(len(bias), n, n)
    longest = bias.shape[1] if kind == "grid" else (bias.shape[1] + 1) // 2
    if n > longest:
        raise QKSpaceError(
            f"The position part of this layer is known for sequences of up to {longest} tokens; got one of {n}. Shorten it."
        )
    if kind == "grid":
        return bias[:, :n, :n]
    # of the reversed table row r holds what is at n_max - 1 - r and down
    rows: FloatArray = np.lib.stride_tricks.sliding_window_view(bias[:, ::-1], n, axis=1)
    return rows[:, longest - n : longest][:, ::-1]


# -------------------------------------------------------------------------------------------------- attention


def allowed_alike(layer: LayerSpec, position: LayerPosition | None, n: int, queries: slice = slice(None)) -> BoolArray:
    """Return who may attend to whom in any sequence of n tokens, where that is the same for all: (query, key token).

    queries: of which tokens alone, as all of a long text take a while.
    """
    grid = position.of(n) if position is not None and position.kind == "grid" else None
    allowed = layer.allowed(n, at=np.arange(n)[queries])
    return allowed if grid is None else allowed & (grid[0, queries] > -np.inf)


def attend(
    query: FloatArray,
    key: FloatArray,
    spec: LayerSpec,
    part: PositionPart | None = None,
    *,
    n_source: int | None = None,
    number: int | None = None,
) -> FloatArray:
    """Return the attention of one head over one sequence: (query token, key token).

    Rows sum to 1, to less where the head has a sink, and are 0 where a token asks nothing.

    Args:
        query: (token, d_head).
        key: (token, d_head).
        spec: how the layer attends.
        part: the position part of the head, where its layer has one or a sink.
        n_source: tokens of the source, where the layer crosses.
        number: the place of the sequence among the stored ones, where its position part is its own.

    Raises:
        QKSpaceError: what the layer needs beyond query and key is missing.
    """
    refuse_bare(spec, part)
    n = len(query)
    logit = add_part(spec.scale * (query @ key.T), spec, None if part is None else part.of(n, number))
    logit[~spec.allowed(n, n_source)] = -np.inf
    return softmax(logit, None if part is None else part.sink)


def attend_heads(
    query: FloatArray,
    key: FloatArray,
    spec: LayerSpec,
    position: LayerPosition | None = None,
    *,
    at: IntArray | None = None,
    n_source: int | None = None,
    number: int | None = None,
) -> FloatArray:
    """Return the attention of some queries of one sequence in several heads of a layer: (head, query, key token), float32.

    Args:
        query: (head, query, d_head).
        key: (kv_head, key token, d_head), where heads share keys each kv_head serves as many heads in turn.
        spec: how the layer attends.
        position: its position part, of these heads.
        at: (query), the positions of the queries; all of the sequence where left out.
        n_source: see `attend`.
        number: see `attend`.
    """
    refuse_bare(spec, position)
    n, n_heads = key.shape[1], len(query)
    at = np.arange(n) if at is None else at
    grouped = query.reshape(len(key), -1, *query.shape[1:])
    logit: FloatArray = (spec.scale * (grouped @ key[:, None].swapaxes(-1, -2))).reshape(n_heads, len(at), n)
    bias = None if position is None else position.of(n, number)
    logit = add_part(logit, spec, None if bias is None else bias[:, at])
    np.copyto(logit, -np.inf, where=~spec.allowed(n, n_source, at=at))
    sink = None if position is None or position.sink is None else position.sink[:, None, None]
    return np.asarray(softmax(logit, sink), dtype=np.float32)


def with_sink(attention: FloatArray) -> FloatArray:
    """Return attention of heads that have a sink with one more key, which holds what the sink takes: (..., query, key + 1)."""
    left = np.maximum(1 - attention.sum(axis=-1, keepdims=True), 0)
    return np.concatenate([attention, left], axis=-1)


def refuse_bare(spec: LayerSpec, part: PositionPart | LayerPosition | None) -> None:
    """Raise where a layer's attention is more than query and key, and the rest is not at hand."""
    if (spec.position or spec.has_sink) and part is None:
        raise QKSpaceError(
            f"{spec.module}: its attention is more than query . key, and the position part was not given: read it from the "
            "index (Index.position)."
        )


def add_part(product: FloatArray, spec: LayerSpec, bias: FloatArray | None) -> FloatArray:
    """Return logits made of scaled products: capped where the layer caps them, then with what position adds."""
    logit = product if spec.softcap is None else np.asarray(spec.softcap * np.tanh(product / spec.softcap))
    return logit if bias is None else logit + np.asarray(bias, dtype=logit.dtype)


def softmax(logit: FloatArray, sink: float | FloatArray | None = None) -> FloatArray:
    """Return the softmax of rows (..., key), -inf for what is not allowed; rows of nothing else are 0.

    sink: one more logit (broadcast to rows), which takes its share and is not returned.
    """
    top = np.maximum(logit.max(axis=-1, keepdims=True), LOWEST)
    if sink is not None:
        top = np.maximum(top, np.asarray(sink, dtype=logit.dtype))
    weight = np.exp(logit - top)
    total = weight.sum(axis=-1, keepdims=True)
    if sink is not None:
        total += np.exp(np.asarray(sink, dtype=logit.dtype) - top)
    return np.asarray(weight / np.where(total == 0, 1, total))


# -------------------------------------------------------------------------------------------------- on disk


class Layout(NamedTuple):
    """How the stored sequences lie in an index: lengths (sequence), and n_source (sequence) of an encoder-decoder."""

    lengths: IntArray
    n_source: IntArray | None

    def sides(self, layer: LayerSpec) -> tuple[BoolArray, BoolArray] | None:
        """Return which tokens ask and which answer in a layer, (token) both; None where all do both."""
        if not layer.crosses:
            return None
        if self.n_source is None:
            raise QKSpaceError(f"{layer.module} reads another sequence, and sequences.parquet has no column n_source.")
        is_key = is_source(self.lengths, self.n_source)
        return ~is_key, is_key


def needs_layout(layer: LayerSpec) -> bool:
    """Tell whether the attention of a sequence needs to know which of the stored ones it is, or where its target begins."""
    return layer.crosses or layer.position == "sequence"


def read_layout(root: Path) -> Layout:
    """Read how the sequences of an index lie, also of one that is not finished."""
    import pyarrow.parquet as pq

    path = root / "sequences.parquet"
    names = [name for name in ("n_tokens", "n_source") if name in pq.read_schema(path).names]
    table = pq.read_table(path, columns=names)
    columns = [table[name].to_numpy().astype(np.int64) if name in names else None for name in ("n_tokens", "n_source")]
    if columns[0] is None:
        raise QKSpaceError(f"{path}: damaged, it lacks n_tokens. Build the index again with --overwrite.")
    return Layout(columns[0], columns[1])


def pair_starts(lengths: IntArray) -> IntArray:
    """Return where the pairs of each sequence begin among those of all, and where the last end: (sequence + 1)."""
    return np.concatenate([[0], np.cumsum(np.asarray(lengths, dtype=np.int64) ** 2)])


def path_of(root: Path, number: int, suffix: Literal["npz", "npy"]) -> Path:
    """Return the file of a layer."""
    return root / FOLDER / f"L{number:02d}.{suffix}"


def write(root: Path, number: int, *, bias: FloatArray | None = None, sink: FloatArray | None = None) -> None:
    """Write the table of a layer (of kind "offset" or "grid") and its sinks (head), either where there is one."""
    arrays = {name: np.asarray(a, dtype=np.float32) for name, a in (("bias", bias), ("sink", sink)) if a is not None}
    with store.disk_errors(root):
        store.write_arrays(path_of(root, number, "npz"), arrays)


def pair_file(root: Path, number: int, n_heads: int, lengths: IntArray) -> store.RowFile:
    """Open, or make in full size, the file of a layer of kind "sequence": (head, pair) float16.

    Write a run of sequences by `file.write(pair_starts(lengths)[first], np.concatenate([...], axis=1))` of what `as_pairs`
    returns for each.
    """
    return store.RowFile(path_of(root, number, "npy"), (n_heads, int(pair_starts(lengths)[-1])), "float16")


def as_pairs(added: Added, allowed: BoolArray) -> NDArray[np.float16]:
    """Return what is stored of one sequence, (head, n * n): the largest allowed value of each row 0, -inf where not allowed.

    added: (head, n, n) or a tensor; allowed: (n, n) or (head, n, n).
    """
    values = np.where(allowed, _array(added), -np.inf)
    values = values - np.maximum(values.max(axis=-1, keepdims=True), LOWEST)
    with np.errstate(over="ignore"):  # what is beyond float16 is never attended to
        return np.asarray(values.reshape(len(values), -1), dtype=np.float16)


def read(root: Path, number: int, spec: LayerSpec, lengths: IntArray | None = None) -> LayerPosition | None:
    """Read the position part of a layer; None where its attention is made of the product alone (and its cap).

    lengths: (sequence), of the stored ones, where kind is "sequence".

    Raises:
        QKSpaceError: its file is missing or damaged.
    """
    if spec.position is None and not spec.has_sink:
        return None
    of_table = spec.has_sink or spec.position != "sequence"
    arrays = store.read_arrays(path_of(root, number, "npz")) if of_table else {}
    if spec.position != "sequence":
        needed = ["bias"] * (spec.position is not None) + ["sink"] * spec.has_sink
        if missing := [name for name in needed if name not in arrays]:
            raise QKSpaceError(f"{path_of(root, number, 'npz')}: damaged, it lacks {', '.join(missing)}.")
        return LayerPosition(spec.position, arrays.get("bias"), None, arrays.get("sink"))
    if lengths is None:
        raise QKSpaceError(f"Layer {number} has a position part of its own for each sequence: give their lengths.")
    bias = store.read_array(path_of(root, number, "npy"))
    return LayerPosition("sequence", bias, pair_starts(lengths), arrays.get("sink"))


def of_one_sequence(added: Added, allowed: BoolArray, sink: FloatArray | None = None) -> LayerPosition:
    """Return as a grid what was added to the logits of one sequence, such as a live text; arguments as of `as_pairs`."""
    values = np.where(allowed, _array(added), -np.inf)
    values = values - np.maximum(values.max(axis=-1, keepdims=True), LOWEST)
    return LayerPosition("grid", np.asarray(values, dtype=np.float32), None, sink)


# -------------------------------------------------------------------------------------------------- which form it has


def form_of(
    added: Sequence[Added], allowed: Sequence[BoolArray], *, tolerance: float = TOLERANCE
) -> tuple[Kind | None, NDArray[np.float32] | None]:
    """Tell which form the position part of a layer has, and return its table, where it is not each sequence's own.

    Args:
        added: of two sequences or more of unlike content, what was added to the logits: (head or 1, n, n).
        allowed: of each, who may attend to whom: (n, n).
        tolerance: of the spread of the values; coarser types need more (bfloat16 2^-8).

    Returns:
        The kind, None where only constants of rows are added, and the table (head or 1, ...) of "offset" or "grid".
    """
    if is_nothing(added, allowed):
        return None, None
    if (table := as_offset(added, allowed, tolerance=tolerance)) is not None:
        return "offset", table
    table = as_grid(added, allowed, tolerance=tolerance) if len(added) > 1 else None
    return ("sequence", None) if table is None else ("grid", table)


def is_nothing(added: Sequence[Added], allowed: Sequence[BoolArray]) -> bool:
    """Tell whether what is added is the same along every row, which attention cannot see."""
    for values, mask in zip(added, allowed, strict=True):
        array = _array(values)
        span = np.where(mask, array, -np.inf).max(axis=2) - np.where(mask, array, np.inf).min(axis=2)
        largest = float(np.abs(np.where(mask, array, 0)).max(initial=0.0))
        if span.max(initial=0.0) > NOTHING * (1 + largest / 10):
            return False
    return True


def as_offset(
    added: Sequence[Added], allowed: Sequence[BoolArray], *, tolerance: float = TOLERANCE
) -> NDArray[np.float32] | None:
    """Return the table (head, 2 n_max - 1) where what is added depends on the offset i - j alone, up to constants of rows.

    So it is with ALiBi (Press et al. 2022), whatever constant of a row a model leaves in it, and with the buckets of T5.
    Offsets that no sequence allows are 0. None where it is something else, or where tokens may not attend to themselves.
    Arguments as of `form_of`; n_max is the longest sequence.
    """
    n_max = max(len(mask) for mask in allowed)
    n_heads = max(len(values) for values in added)
    sums, count = np.zeros((n_heads, 2 * n_max - 1)), np.zeros(2 * n_max - 1)
    taken = []
    for values, mask in zip(added, allowed, strict=True):
        if (mask.any(axis=1) & ~np.diag(mask)).any():
            return None
        rows, columns = np.nonzero(mask)
        array, offset = _array(values), rows - columns + n_max - 1
        relative = array[:, rows, columns] - array[:, rows, rows]  # (head, pair)
        count += np.bincount(offset, minlength=len(count))
        for head in range(n_heads):
            sums[head] += np.bincount(offset, weights=relative[head % len(relative)], minlength=len(count))
        taken.append((offset, relative))
    table = sums / np.maximum(count, 1)
    spread = np.ptp(np.concatenate([relative for _, relative in taken], axis=1), axis=1)[:, None]
    for offset, relative in taken:
        if not (np.abs(relative - table[:, offset]) <= tolerance * spread + NOTHING / 10).all():
            return None
    return table.astype(np.float32)


def as_grid(
    added: Sequence[Added], allowed: Sequence[BoolArray], *, tolerance: float = TOLERANCE
) -> NDArray[np.float32] | None:
    """Return the grid (head, n_max, n_max) where what is added is the same for every sequence, up to constants of rows.

    The largest allowed value of a row is 0, what is not allowed too. None where sequences differ. Arguments as of `form_of`.
    """
    longest = max(range(len(added)), key=lambda s: len(allowed[s]))
    whole, mask = _array(added[longest]), allowed[longest]
    top = np.where(mask, whole, -np.inf).max(axis=2, keepdims=True)
    grid = np.where(mask, whole - np.maximum(top, LOWEST), 0.0)
    spread = np.ptp(grid, axis=(1, 2))[:, None, None]
    for values, here in zip(added, allowed, strict=True):
        n = len(here)
        if (here & ~mask[:n, :n]).any():
            return None
        difference = np.where(here, _array(values) - grid[:, :n, :n], 0.0)
        constant = difference.sum(axis=2, keepdims=True) / np.maximum(here.sum(axis=1), 1)[:, None]
        apart = np.abs(np.where(here, difference - constant, 0.0))
        if not (apart <= tolerance * spread + NOTHING / 10).all():
            return None
    return grid.astype(np.float32)


def _array(values: Any) -> NDArray[np.float64]:
    """Return values or a tensor of any device and type as an array."""
    return np.asarray(values.detach().double().cpu().numpy() if hasattr(values, "detach") else values, dtype=np.float64)
