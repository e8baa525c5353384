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
from qkspace.maps import PLACE_TOKENS, SampleRows
from qkspace.schema import FloatArray


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


def place_layer(job: PlaceJob) -> None:
    """Place the tokens of all heads of a layer on all maps."""
    base, tuned = Index(job.base), Index(job.tuned)
    score = sample_rows(base, "score")
    for number in range(base.layers[job.layer].n_heads):
        heads = base.head(job.layer, number), tuned.head(job.layer, number)
        alignment = align(heads[0].query, heads[0].key, heads[1].query, heads[1].key)
        for method, dims in job.maps:
            _place(job, heads, alignment, method, dims, score)
    with store.disk_errors(job.root):
        store.write_json(job.marker, {"done": True})


def _place(
    job: PlaceJob, heads: tuple[Head, Head], alignment: Alignment, method: str, dims: int, score: SampleRows
) -> None:
    """Place all tokens of a tuned head on one map of the base, and score its own attention there."""
    base, tuned = heads
    view = base.projection(method, dims)
    path = placed_path(job.root, method, dims, job.label, base.layer, base.head, "npy")
    n_tokens = len(base.query)
    arrays: dict[str, NDArray[Any]] = {f"alignment.{name}": array for name, array in alignment.arrays().items()}
    if view.reason is None and len(score.rows):
        query, key = tuned.query[score.rows], tuned.key[score.rows]
        sample = score.sample(query, key, tuned.spec)
        found = fidelity.score(sample, _places(view, alignment, query, key))
        arrays |= {f"scores.{name}": np.asarray(value) for name, value in asdict(found).items()}
    with store.disk_errors(job.root), store.writing_rows(path, (2, n_tokens, dims), "float32") as file:
        for start in range(0, n_tokens, PLACE_TOKENS):
            rows = slice(start, min(start + PLACE_TOKENS, n_tokens))
            placed = np.full((2, rows.stop - start, dims), np.nan, dtype=np.float32)
            if alignment.is_same:
                placed = np.stack([view.query[rows], view.key[rows]])
            elif view.reason is None:
                found_places = _places(view, alignment, tuned.query[rows], tuned.key[rows])
                placed = np.stack([found_places.query, found_places.key])
            file.write(start, placed)
    with store.disk_errors(job.root):
        store.write_arrays(path.with_suffix(".npz"), arrays)


def _places(view: View, alignment: Alignment, query: FloatArray, key: FloatArray) -> Any:
    return view.transform(*alignment.apply(query, key))
