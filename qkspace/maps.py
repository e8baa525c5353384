"""Maps: the maps of all heads, some heads at a time in processes of their own: normalise, project, score, write.

In: where the index is, its layers, and which sequences to fit and to score on. Out: two files a map and head, the second
of which marks it as done, and a table of scores for each map. Knows neither how the index was made nor its manifest.

A joint map has one gauge and one projection for all heads. They are fitted first, to a sample pooled of all heads, and
stand in a file of the map; then its heads are scored and placed like those of any other.
"""

from __future__ import annotations

import ctypes
import multiprocessing
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from qkspace import position, store
from qkspace.console import Console
from qkspace.parallel import results_of
from qkspace.position import Layout, PositionPart, needs_layout, read_layout, refuse_bare
from qkspace.schema import FloatArray, HeadSample, IntArray, LayerSpec, QKSpaceError

if TYPE_CHECKING:
    from qkspace.normalise import Gauge
    from qkspace.project import Projection

PLACE_TOKENS = 65_536  # placed on a map at once
JOINT_TOKENS_A_HEAD, LEAST_JOINT_TOKENS, MOST_JOINT_TOKENS = 250, 6_000, 24_000  # that a joint map is fitted on
HEADS_TOGETHER = 6  # of one layer, that a process works on at a time; a method may fit them together
PR_SET_PDEATHSIG = 1  # of linux/prctl.h


@dataclass(frozen=True, slots=True)
class SampleRows:
    """Some whole sequences of the index: rows (token), starts (sequence + 1), is_special and is_first (token)."""

    rows: IntArray
    starts: IntArray
    is_special: NDArray[np.bool_]
    is_first: NDArray[np.bool_]

    @classmethod
    def of(cls, first_row: IntArray, lengths: IntArray, is_special: NDArray[np.bool_]) -> SampleRows:
        """Describe sequences by where each begins in the index, their lengths, and which of their tokens are special."""
        starts = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
        return cls(ranges(first_row, lengths), starts, is_special, np.isin(np.arange(starts[-1]), starts[:-1]))

    def take(self, sequences: IntArray) -> SampleRows:
        """Return some of the sequences, in the order given."""
        lengths = np.diff(self.starts)[sequences]
        chosen = ranges(self.starts[:-1][sequences], lengths)
        starts = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
        return SampleRows(self.rows[chosen], starts, self.is_special[chosen], self.is_first[chosen])

    def sample(
        self,
        query: FloatArray,
        key: FloatArray,
        layer: LayerSpec,
        part: PositionPart | None = None,
        layout: Layout | None = None,
    ) -> HeadSample:
        """Join a head's vectors of these rows; the first token of a decoder is no content, being the usual sink.

        part: what position adds in this head; layout: how the stored sequences lie, needed with some parts (`needs_layout`).
        """
        is_content = ~self.is_special & ~(self.is_first & layer.causal)
        if layer.is_product and not layer.crosses:
            return HeadSample(query, key, self.starts, is_content, layer)
        lengths = np.diff(self.starts)
        numbers: list[int | None] = [None] * len(lengths)
        n_source = None
        if layout is not None:
            chosen = np.searchsorted(np.cumsum(layout.lengths), self.rows[self.starts[:-1]], side="right")
            numbers = chosen.tolist()
            n_source = layout.n_source[chosen] if layer.crosses and layout.n_source is not None else None
        part = part or PositionPart()
        refuse_bare(layer, part)
        added = [part.of(int(n), number) for n, number in zip(lengths, numbers, strict=True)]
        bias = tuple(values for values in added if values is not None) if part.bias is not None else None
        sink = None if part.sink is None else np.full(len(lengths), part.sink, dtype=np.float32)
        return HeadSample(query, key, self.starts, is_content, layer, bias, sink, n_source)


@dataclass(frozen=True, slots=True)
class Wanted:
    """The maps that are asked for: (method, dims) each, the normalisation and the seed of all."""

    maps: tuple[tuple[str, int], ...]
    normalise: str
    seed: int

    def entries(self) -> list[dict[str, Any]]:
        """Return what the manifest says of each map."""
        how = {"normalise": self.normalise, "seed": self.seed}
        return [{"name": f"{method}{dims}", "method": method, "dims": dims, **how} for method, dims in self.maps]


@dataclass(frozen=True, slots=True)
class _Job:
    """One map of some heads of one layer."""

    root: Path
    layer_number: int
    heads: tuple[int, ...]
    layer: LayerSpec
    method: str
    dims: int
    normalise: str
    seed: int


def ranges(first: IntArray, lengths: IntArray) -> IntArray:
    """Return the indices of ranges laid end to end."""
    ends = np.cumsum(lengths)
    indices: IntArray = np.arange(ends[-1] if len(ends) else 0) + np.repeat(first - (ends - lengths), lengths)
    return indices


def shares(lengths: IntArray, n_heads: int, seed: int) -> list[IntArray]:
    """Deal out sequences of these lengths: return those of each head, as many for each, none twice for one.

    Heads have about `JOINT_TOKENS_A_HEAD` tokens each, all together between `LEAST_JOINT_TOKENS` and
    `MOST_JOINT_TOKENS`, where there are so many. Where a sequence for each were more than that, some heads,
    drawn by `seed`, have none.
    """
    rng = np.random.default_rng(seed)
    order, place = rng.permutation(len(lengths)), rng.permutation(n_heads)
    wanted = min(max(LEAST_JOINT_TOKENS, JOINT_TOKENS_A_HEAD * n_heads), MOST_JOINT_TOKENS)
    each = min(len(lengths), max(1, int(wanted / (n_heads * lengths.mean()))))
    dealt = order[(np.arange(n_heads)[:, None] * each + np.arange(each)) % len(lengths)]  # (head in turn, sequence)
    n_dealt = max(1, int((np.cumsum(lengths[dealt].sum(axis=1)) <= MOST_JOINT_TOKENS).sum()))
    return [dealt[turn] if turn < n_dealt else dealt[0][:0] for turn in place]


def pool(samples: Sequence[HeadSample]) -> HeadSample:
    """Lay the samples of several heads that attend alike end to end, a sequence of each in turn.

    A method that fits no more than the first sequences then sees all heads.
    """
    most = max(len(sample.starts) for sample in samples) - 1
    parts = [
        (sample, slice(sample.starts[turn], sample.starts[turn + 1]))
        for turn in range(most)
        for sample in samples
        if turn < len(sample.starts) - 1
    ]
    turns = [(sample, turn) for turn in range(most) for sample in samples if turn < len(sample.starts) - 1]
    return HeadSample(
        query=np.concatenate([sample.query[rows] for sample, rows in parts]),
        key=np.concatenate([sample.key[rows] for sample, rows in parts]),
        starts=np.cumsum([0, *(rows.stop - rows.start for _, rows in parts)]),
        is_content=np.concatenate([sample.is_content[rows] for sample, rows in parts]),
        layer=samples[0].layer,
        bias=_of_each([None if sample.bias is None else sample.bias[turn] for sample, turn in turns], tuple),
        sink=_of_each([None if sample.sink is None else sample.sink[turn] for sample, turn in turns], np.asarray),
        n_source=_of_each([None if s.n_source is None else s.n_source[turn] for s, turn in turns], np.asarray),
    )


def _of_each(values: list[Any], collect: Callable[[list[Any]], Any]) -> Any:
    """Collect what is known of each sequence; None where it is known of none."""
    return None if any(value is None for value in values) else collect(values)


def refuse_unlike(layers: Sequence[LayerSpec], wanted: Wanted, longest: int) -> None:
    """Refuse a joint map of layers that attend unlike each other; a window no shorter than the longest sequence is none.

    Raises:
        QKSpaceError: it names the first layer that differs, and in what.
    """
    from qkspace.project import is_joint

    def attends(layer: LayerSpec) -> dict[str, Any]:
        window = None if layer.window is None or layer.window >= longest else layer.window
        how = {"d_head": layer.d_head, "scale": layer.scale, "causal": layer.causal, "window": window}
        more = {"softcap": layer.softcap, "position": layer.position, "sinks": layer.has_sink, "crosses": layer.crosses}
        return how | more

    joint = [method for method, _ in wanted.maps if is_joint(method)]
    first = attends(layers[0])
    for number, layer in enumerate(layers):
        different = [f"{k} {v} and not {first[k]}" for k, v in attends(layer).items() if v != first[k]]
        if joint and different:
            raise QKSpaceError(
                f"{joint[0]} needs layers that attend alike, but layer {number} has {', '.join(different)} as layer 0 has: "
                "one gauge and one projection cannot serve both. Leave the joint maps out."
            )


def make_maps(
    root: Path,
    layers: Sequence[LayerSpec],
    wanted: Wanted,
    fit: SampleRows,
    score: SampleRows,
    *,
    n_jobs: int | None = None,
    console: Console,
) -> None:
    """Make every map of every head that is not there yet, in parallel, and the table of scores of each map.

    Raises:
        QKSpaceError: vectors that cannot be mapped so, or a full disk.
    """
    root = root.absolute()  # workers may have been begun in another folder
    _fit_common(root, layers, wanted, fit, n_jobs=n_jobs, console=console)
    jobs = _jobs(root, layers, wanted)
    n_maps = len(wanted.maps) * sum(layer.n_heads for layer in layers)
    done = n_maps - sum(len(job.heads) for job in jobs)
    results = results_of(_run, [(job, fit, score) for job in jobs], n_jobs)
    each = (1 for n_heads in results for _ in range(n_heads))
    for _ in console.track(each, n_maps, "Mapping heads", done=done, unit="maps"):
        pass
    for method, dims in wanted.maps:
        _gather_scores(root, layers, method, dims)


def _fit_common(
    root: Path, layers: Sequence[LayerSpec], wanted: Wanted, fit: SampleRows, *, n_jobs: int | None, console: Console
) -> None:
    """Fit each joint map that is not there yet, in parallel."""
    from qkspace.project import is_joint

    jobs = [
        _Job(root, 0, (), layers[0], method, dims, wanted.normalise, wanted.seed)
        for method, dims in wanted.maps
        if is_joint(method) and not store.common_path(root, method, dims).exists()
    ]
    if not jobs:
        return
    results = results_of(_run_common, [(job, layers, fit) for job in jobs], n_jobs)
    for _ in console.track(results, len(jobs), "Fitting maps of all heads together", unit="maps"):
        pass


def _jobs(root: Path, layers: Sequence[LayerSpec], wanted: Wanted) -> list[_Job]:
    """Return what is left to do, the heads of each layer in groups."""
    jobs = []
    for method, dims in wanted.maps:
        for number, layer in enumerate(layers):
            left = [
                h for h in range(layer.n_heads) if not store.map_path(root, method, dims, number, h, "npz").exists()
            ]
            for first in range(0, len(left), HEADS_TOGETHER):
                heads = tuple(left[first : first + HEADS_TOGETHER])
                jobs.append(_Job(root, number, heads, layer, method, dims, wanted.normalise, wanted.seed))
    return jobs


def _gather_scores(root: Path, layers: Sequence[LayerSpec], method: str, dims: int) -> None:
    """Write the scores of all heads of a map into one table; nan where nothing was scored."""
    from qkspace.fidelity import Scores

    heads = [(i, head) for i, layer in enumerate(layers) for head in range(layer.n_heads)]
    stored = [store.read_arrays(store.map_path(root, method, dims, *head, "npz")) for head in heads]
    columns = {
        field.name: [float(arrays.get(f"scores.{field.name}", np.nan)) for arrays in stored] for field in fields(Scores)
    }
    where = {"layer": [layer for layer, _ in heads], "head": [head for _, head in heads]}
    store.write_table(root / "maps" / f"{method}{dims}" / "scores.parquet", {**where, **columns})


# -------------------------------------------------------------------- in a process of its own


def end_with_parent() -> None:
    """Let Linux end this process when the one that began it is killed, which could not tell it so itself."""
    if sys.platform == "linux" and multiprocessing.parent_process() is not None:
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def _run(job: _Job, fit: SampleRows, score: SampleRows) -> int:
    """Normalise, project, score and write the heads of a job; return how many they were."""
    end_with_parent()
    from qkspace.fidelity import fault
    from qkspace.project import is_joint

    samples = {}
    for head in job.heads:
        sample, held_out = (_sample(job, head, part) for part in (fit, score))
        reason = fault(sample, held_out)
        if reason is None:
            samples[head] = sample
        else:
            _write_unmapped(job, head, reason)
    find = _read_common if is_joint(job.method) else _fit
    for head, (gauge, projection) in zip(samples, find(job, list(samples.values())), strict=True):
        _write_map(job, head, gauge, projection, score)
    return len(job.heads)


def _fit(job: _Job, samples: Sequence[HeadSample]) -> list[tuple[Gauge, Projection]]:
    """Normalise samples, each by itself, and project them."""
    from qkspace import project
    from qkspace.normalise import normalise

    method = project.METHODS[job.method].gauge or job.normalise
    gauges = [normalise(sample, dims=job.dims, method=method) for sample in samples]  # type: ignore[arg-type]
    normalised = [gauge.apply_to(sample) for gauge, sample in zip(gauges, samples, strict=True)]
    return list(zip(gauges, project.fit_heads(job.method, normalised, dims=job.dims, seed=job.seed), strict=True))


def _run_common(job: _Job, layers: Sequence[LayerSpec], fit: SampleRows) -> None:
    """Fit a joint map to a sample pooled of all heads, and write what its heads share; nothing where no head can be mapped."""
    end_with_parent()
    from qkspace.fidelity import fault

    heads = [(i, head) for i, layer in enumerate(layers) for head in range(layer.n_heads)]
    samples = []
    for (number, head), sequences in zip(heads, shares(np.diff(fit.starts), len(heads), job.seed), strict=True):
        if not len(sequences):
            continue
        part = fit.take(sequences)
        of_layer = replace(job, layer_number=number, layer=layers[number])
        sample = _sample(of_layer, head, part)
        if fault(sample) is None:
            samples.append(sample)
    state = _state(*_fit(job, [pool(samples)])[0]) if samples else {}
    with store.disk_errors(job.root):
        store.write_arrays(store.common_path(job.root, job.method, job.dims), state)


def _state(gauge: Gauge, projection: Projection) -> dict[str, NDArray[Any]]:
    """Return the arrays that a gauge and a projection are rebuilt from."""
    arrays = {f"gauge.{k}": v for k, v in gauge.arrays().items()}
    return arrays | {f"projection.{k}": v for k, v in projection.arrays().items()}


def _read_common(job: _Job, samples: Sequence[HeadSample]) -> list[tuple[Gauge, Projection]]:
    """Read the gauge and the projection that the heads of a joint map share: the same for each sample."""
    from qkspace.index import prefixed
    from qkspace.normalise import Gauge
    from qkspace.project import Projection

    if not samples:
        return []
    arrays = store.read_arrays(store.common_path(job.root, job.method, job.dims))
    gauge = Gauge.from_arrays(prefixed("gauge.", arrays))
    return [(gauge, Projection.from_arrays(prefixed("projection.", arrays)))] * len(samples)


def head_sample(root: Path, number: int, layer: LayerSpec, head: int, part: SampleRows) -> HeadSample:
    """Read some sequences of a head: its vectors, and what its attention is besides their product."""
    layout = read_layout(root) if needs_layout(layer) else None
    part_of_layer = position.read(root, number, layer, None if layout is None else layout.lengths)
    vectors = _read_vectors(root, number, layer, head, part.rows)
    return part.sample(*vectors, layer, None if part_of_layer is None else part_of_layer.head(head), layout)


def _sample(job: _Job, head: int, part: SampleRows) -> HeadSample:
    return head_sample(job.root, job.layer_number, job.layer, head, part)


def _vectors(job: _Job, head: int, rows: IntArray | slice) -> tuple[FloatArray, FloatArray]:
    return _read_vectors(job.root, job.layer_number, job.layer, head, rows)


def _read_vectors(
    root: Path, number: int, layer: LayerSpec, head: int, rows: IntArray | slice
) -> tuple[FloatArray, FloatArray]:
    """Read some rows of a head; the file is opened each time, so that what was read before need not stay in memory."""
    group = layer.n_heads // layer.n_kv_heads
    query, key = (store.read_array(root / name / f"L{number:02d}.npy") for name in ("query", "key"))
    return store.float_array(query[head][rows]), store.float_array(key[head // group][rows])


def _write_map(job: _Job, head: int, gauge: Gauge, projection: Projection, score: SampleRows) -> None:
    """Score a map on what was held out, place all tokens on it, and write both, with the state that no other head has."""
    from qkspace import fidelity
    from qkspace.project import is_joint

    arrays = {} if is_joint(job.method) else _state(gauge, projection)
    if len(score.rows):
        held_out = gauge.apply_to(_sample(job, head, score))
        scores = fidelity.score(held_out, projection.transform(held_out.query, held_out.key), seed=job.seed)
        arrays |= {f"scores.{k}": np.asarray(v) for k, v in asdict(scores).items()}

    def place(rows: slice) -> FloatArray:
        placed = projection.transform(*gauge.apply(*_vectors(job, head, rows)))
        return np.stack([placed.query, placed.key])

    _write(job, head, place, arrays)


def _write_unmapped(job: _Job, head: int, reason: str) -> None:
    """Write a map without places, and why it has none."""

    def nowhere(rows: slice) -> FloatArray:
        return np.full((2, rows.stop - rows.start, job.dims), np.nan, dtype=np.float32)

    _write(job, head, nowhere, {"reason": np.asarray(reason)})


def _write(job: _Job, head: int, place: Callable[[slice], FloatArray], arrays: Mapping[str, NDArray[Any]]) -> None:
    """Write the places of all tokens, some at a time, and then what else is known of the map: it marks it as done.

    Where the layer crosses, a token that does not ask has no place as a query, nor one that does not answer as a key: nan.
    """
    sides = read_layout(job.root).sides(job.layer) if job.layer.crosses else None
    n_tokens = store.read_array(job.root / "query" / f"L{job.layer_number:02d}.npy").shape[1]
    where = (job.root, job.method, job.dims, job.layer_number, head)
    with (
        store.disk_errors(job.root),
        store.writing_rows(store.map_path(*where, "npy"), (2, n_tokens, job.dims), "float32") as file,
    ):  # (query or key, token, dims)
        for start in range(0, n_tokens, PLACE_TOKENS):
            rows = slice(start, min(start + PLACE_TOKENS, n_tokens))
            placed = place(rows)
            if sides is not None:
                placed[~np.stack([side[rows] for side in sides])] = np.nan
            file.write(start, placed)
    with store.disk_errors(job.root):
        store.write_arrays(store.map_path(*where, "npz"), arrays)
