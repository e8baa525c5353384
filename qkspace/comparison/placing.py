"""Placing: the tokens of a tuned checkpoint on the base's maps, in the gauge in which only changes of attention move them.

In: two indexes of the same tokens, and maps of the base. Out: two files a map and head. Layers are independent; each runs in
a process of its own. Where a token lies changes by what `alignment` says, and the base's map is left as it is.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qkspace import fidelity, store
from qkspace.comparison.alignment import Alignment, align
from qkspace.comparison.reader import placed_path
from qkspace.extend import sample_rows
from qkspace.index import Head, Index, View
from qkspace.maps import PLACE_TOKENS, SampleRows, end_with_parent
from qkspace.position import Layout, PositionPart
from qkspace.schema import FloatArray, IntArray, LayerSpec, QKSpaceError


@dataclass(frozen=True, slots=True)
class PlaceJob:
    """The maps of one layer of the base, for one tuned checkpoint; root: of the comparison."""

    root: Path
    label: str
    base: Path
    tuned: Path
    layer: int
    maps: tuple[tuple[str, int], ...]

    @property
    def marker(self) -> Path:
        """The file that says that this layer is done."""
        return self.root / store.WORK / "maps" / self.label / f"L{self.layer:02d}.json"


@dataclass(frozen=True, slots=True)
class _Vectors:
    """Queries and keys of a head as they are stored, (token, d_head) each, read from disk where they are asked for."""

    query: NDArray[Any]
    key: NDArray[Any]
    spec: LayerSpec
    part: PositionPart | None
    layout: Layout

    @classmethod
    def of(cls, head: Head) -> _Vectors:
        """Open the vectors of a head."""
        query, key = (store.read_array(head.index.root / kind / f"L{head.layer:02d}.npy") for kind in ("query", "key"))
        return cls(query[head.head], key[head.kv_head], head.spec, head.position, head.index.layout)

    def read(self, rows: slice | IntArray) -> tuple[FloatArray, FloatArray]:
        """Return the vectors of some tokens as float32."""
        return store.float_array(self.query[rows]), store.float_array(self.key[rows])


def place_layer(job: PlaceJob) -> None:
    """Place the tokens of all heads of a layer on all maps."""
    end_with_parent()
    base, tuned = Index(job.base), Index(job.tuned)
    score = sample_rows(base, "score")
    for number in range(base.layers[job.layer].n_heads):
        heads = base.head(job.layer, number), tuned.head(job.layer, number)
        old, new = (_Vectors.of(head) for head in heads)
        try:
            alignment = align(old.query, old.key, new.query, new.key)
        except QKSpaceError as error:
            raise QKSpaceError(f"{job.label}, {heads[0].name}: {error}") from error
        for method, dims in job.maps:
            _place(job, heads[0].projection(method, dims), new, alignment, score)
    with store.disk_errors(job.root):
        store.write_json(job.marker, {"done": True})


def _place(job: PlaceJob, view: View, tuned: _Vectors, alignment: Alignment, score: SampleRows) -> None:
    """Place all tokens of a tuned head on one map of the base, and score its own attention there."""
    head = view.head
    path = placed_path(job.root, view.method, view.dims, job.label, head.layer, head.head, "npy")
    arrays: dict[str, NDArray[Any]] = {f"alignment.{name}": array for name, array in alignment.arrays().items()}
    if view.reason is None and len(score.rows):
        vectors = alignment.apply(*tuned.read(score.rows))
        sample = view.gauge.apply_to(score.sample(*vectors, tuned.spec, tuned.part, tuned.layout))
        seed = int(head.index.manifest["made_from"]["seed"])
        found = fidelity.score(sample, view.fitted.transform(sample.query, sample.key), seed=seed)
        arrays |= {f"scores.{name}": np.asarray(value) for name, value in asdict(found).items()}

    def place(rows: slice) -> FloatArray:
        of_base = np.stack([view.query[rows], view.key[rows]])
        if alignment.is_same or view.reason is not None:  # of a head without a map the base's places are nan too
            return of_base
        placed = view.transform(*alignment.apply(*tuned.read(rows)))
        return np.where(
            np.isnan(of_base), of_base, np.stack([placed.query, placed.key])
        )  # nan where a token has no place

    n_tokens = len(tuned.query)
    with (
        store.disk_errors(job.root),
        store.writing_rows(path, (2, n_tokens, view.dims), "float32") as file,
    ):
        for start in range(0, n_tokens, PLACE_TOKENS):
            file.write(start, place(slice(start, min(start + PLACE_TOKENS, n_tokens))))
    with store.disk_errors(job.root):
        store.write_arrays(path.with_suffix(".npz"), arrays)
