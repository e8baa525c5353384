"""Units: the vectors of an index on disk, written a unit at a time, and which units are finished.

In: what `extract` returns for a unit. Out: one file a layer and kind of array, and a marker for each finished unit with
the sums of its statistics and the check sums of what it wrote. Knows no model.
"""

from __future__ import annotations

import shutil
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qkspace import store
from qkspace.extract import Keep, Unit, UnitResult, bytes_per_token
from qkspace.position import pair_file
from qkspace.schema import IntArray, LayerSpec, QKSpaceError

WRITERS = 4  # files written at a time


@dataclass(frozen=True, slots=True)
class Totals:
    """Sums over all units: as in `extract.UnitResult`, whose n_tokens they are over."""

    sums: list[NDArray[np.float64]]
    surface: list[NDArray[np.float64]]
    counts: NDArray[np.float64]
    n_tokens: int


class UnitFiles:
    """The files that units are written into, made in full size, to be used in a `with` statement.

    Raises:
        QKSpaceError: the disk has not the room.
    """

    def __init__(self, root: Path, layers: tuple[LayerSpec, ...], lengths: IntArray, keep: Keep) -> None:
        """Open the files of an unfinished build, or make them; lengths: of the sequences that are stored."""
        self.root, self.layers, self.keep, self.lengths = root, layers, keep, lengths
        self._refuse_small_disk()
        self._pool = ThreadPoolExecutor(WRITERS)
        self._files = [self._open(i, layer) for i, layer in enumerate(layers)]

    def __enter__(self) -> UnitFiles:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._pool:  # the disk takes them side by side
            list(self._pool.map(store.RowFile.close, (file for layer in self._files for file in layer.values())))

    def _refuse_small_disk(self) -> None:
        keep, n_tokens = self.keep, int(self.lengths.sum())
        needed = n_tokens * bytes_per_token(self.layers, keep.top_k, keep.storage, unrotated=keep.unrotated)
        n_pairs = int((self.lengths.astype(np.int64) ** 2).sum())
        needed += 2 * n_pairs * sum(layer.n_heads for layer in self.layers if layer.position == "sequence")
        free = shutil.disk_usage(self.root).free
        if not (self.root / "query").exists() and needed > free:
            raise QKSpaceError(
                f"{self.root}: the vectors of {n_tokens:,} tokens take {needed / 2**30:.1f} GiB, the disk has "
                f"{free / 2**30:.1f} GiB free. Store less with --max-tokens, shorter sequences with --max-length, or choose "
                "another --out."
            )

    def _open(self, number: int, layer: LayerSpec) -> dict[str, store.RowFile]:
        keep, n_tokens = self.keep, int(self.lengths.sum())
        vectors = [("query", layer.n_heads), ("key", layer.n_kv_heads)]
        if keep.unrotated:
            vectors += [(f"{name}_unrotated", n_heads) for name, n_heads in vectors]
        kinds: list[tuple[str, int, tuple[int, ...], str]] = [
            *((name, n_heads, (layer.d_head,), keep.storage) for name, n_heads in vectors),
            ("value_norm", layer.n_kv_heads, (), keep.storage),
            ("top_key", layer.n_heads, (keep.top_k,), "int32"),
            ("top_attention", layer.n_heads, (keep.top_k,), "float16"),
        ]
        files = {
            name: store.RowFile(self.root / name / f"L{number:02d}.npy", (n_heads, n_tokens, *rest), dtype)
            for name, n_heads, rest, dtype in kinds
        }
        if layer.position == "sequence":
            files["pairs"] = pair_file(self.root, number, layer.n_heads, self.lengths)
        return files

    def _marker(self, unit: Unit) -> Path:
        return self.root / store.WORK / "units" / f"{unit.number:06d}.npz"

    def finish(self, unit: Unit, result: UnitResult) -> None:
        """Write a unit's rows, then its marker with the check sums of what was written."""
        parts = [
            (unit.pair if name == "pairs" else unit.row, getattr(rows, name), files[name])
            for rows, files in zip(result.rows, self._files, strict=True)
            for name in files
        ]

        def write(part: tuple[int, NDArray[Any], store.RowFile]) -> int:
            first, values, file = part
            checksum = file.write(first, values)
            file.flush()
            return checksum

        checksums = list(self._pool.map(write, parts))
        sums = {f"sums{i:02d}": values for i, values in enumerate(result.sums)}
        sums |= {f"surface{i:02d}": values for i, values in enumerate(result.surface)} | {"counts": result.counts}
        marks = {"n_tokens": np.asarray(result.n_tokens), "xxh3": np.asarray(checksums, dtype=np.uint64)}
        store.write_arrays(self._marker(unit), {**sums, **marks})

    def is_finished(self, unit: Unit) -> bool:
        """Tell whether a unit has its marker and its rows are what was written, also after a loss of power."""
        if not self._marker(unit).exists():
            return False
        try:
            marker = store.read_arrays(self._marker(unit))
        except QKSpaceError:  # a marker damaged since is none: the unit is done again
            return False
        if "counts" not in marker:  # by a version that summed less
            return False
        places = {"pairs": (unit.pair, unit.n_pairs)}
        found = [
            file.checksum(*places.get(name, (unit.row, unit.n_rows)))
            for files in self._files
            for name, file in files.items()
        ]
        return np.array_equal(marker["xxh3"], np.asarray(found, dtype=np.uint64))

    def totals(self, units: list[Unit]) -> Totals:
        """Return the sums of the statistics over all units, added up in their order."""
        results = [store.read_arrays(self._marker(unit)) for unit in units]
        sums, surface = (
            [np.sum([r[f"{name}{i:02d}"] for r in results], axis=0) for i in range(len(self.layers))]
            for name in ("sums", "surface")
        )
        counts = np.sum([r["counts"] for r in results], axis=0)
        return Totals(sums, surface, counts, int(sum(int(r["n_tokens"]) for r in results)))
