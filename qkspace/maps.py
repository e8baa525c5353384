"""Maps: all maps of one head, in a process of its own: normalise, project, score, write.

In: where the index is, the head, and which sequences to fit and to score on. Out: two files a map, the second of which
marks it as done. Heads are independent of each other.
"""

from __future__ import annotations

import ctypes
import multiprocessing
import signal
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from qkspace import store
from qkspace.schema import FloatArray, HeadSample, IntArray, LayerSpec

PLACE_TOKENS = 65_536  # placed on a map at once
PR_SET_PDEATHSIG = 1  # of linux/prctl.h


@dataclass(frozen=True, slots=True)
class SampleRows:
    """Some whole sequences of the index: rows (token), starts (sequence + 1), is_special and is_first (token)."""

    rows: IntArray
    starts: IntArray
    is_special: NDArray[np.bool_]
    is_first: NDArray[np.bool_]

    def sample(self, query: FloatArray, key: FloatArray, layer: LayerSpec) -> HeadSample:
        """Join a head's vectors of these rows; the first token of a decoder is no content, being the usual sink."""
        is_content = ~self.is_special & ~(self.is_first & layer.causal)
        return HeadSample(query, key, self.starts, is_content, layer)


@dataclass(frozen=True, slots=True)
class HeadMaps:
    """The maps to make of one head."""

    root: str
    layer_number: int
    head: int
    layer: LayerSpec
    maps: tuple[tuple[str, int], ...]
    normalise: str
    seed: int


def _end_with_parent() -> None:
    """Let Linux end this process when the one that began it is killed, which could not tell it so itself."""
    if sys.platform == "linux" and multiprocessing.parent_process() is not None:
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def make_maps(job: HeadMaps, fit: SampleRows, score: SampleRows) -> None:
    """Normalise, project and score one head, and write each map; runs in a process of its own."""
    _end_with_parent()
    from qkspace import fidelity, project
    from qkspace.normalise import normalise

    root = Path(job.root)
    query_path, key_path = (root / name / f"L{job.layer_number:02d}.npy" for name in ("query", "key"))
    kv_head = job.head // (job.layer.n_heads // job.layer.n_kv_heads)

    def vectors(rows: IntArray | slice) -> tuple[FloatArray, FloatArray]:
        """Read some rows; the file is opened each time, so that what was read before need not stay in memory."""
        query, key = store.read_array(query_path)[job.head], store.read_array(key_path)[kv_head]  # (token, d_head)
        return store.float_array(query[rows]), store.float_array(key[rows])

    fit_sample = fit.sample(*vectors(fit.rows), job.layer)
    score_sample = score.sample(*vectors(score.rows), job.layer)
    n_tokens = store.read_array(query_path).shape[1]
    for method, dims in job.maps:
        gauge = normalise(fit_sample, dims=dims, method=job.normalise)  # type: ignore[arg-type]  # checked there
        projection = project.fit(method, gauge.apply_to(fit_sample), dims=dims, seed=job.seed)
        arrays = {f"gauge.{k}": v for k, v in gauge.arrays().items()}
        arrays |= {f"projection.{k}": v for k, v in projection.arrays().items()}
        if len(score.rows):
            held_out = gauge.apply_to(score_sample)
            scores = fidelity.score(held_out, projection.transform(held_out.query, held_out.key), seed=job.seed)
            arrays |= {f"scores.{k}": np.asarray(v) for k, v in asdict(scores).items()}
        with store.disk_errors(root):
            positions, state = (
                store.map_path(root, method, dims, job.layer_number, job.head, s) for s in ("npy", "npz")
            )
            with store.writing_rows(positions, (2, n_tokens, dims), "float32") as file:  # (query or key, token, dims)
                for start in range(0, n_tokens, PLACE_TOKENS):
                    placed = projection.transform(*gauge.apply(*vectors(slice(start, start + PLACE_TOKENS))))
                    file.write(start, np.stack([placed.query, placed.key]))
            store.write_arrays(state, arrays)  # last: it marks the map as done
