"""The index on disk: its format, and how its files are written whole or not at all.

In: arrays, tables and records. Out: a folder of plain `.npy` arrays and Parquet tables whose `manifest.json`, written
last by atomic rename, lists every file with its size and sha256. Knows no model, no mathematics and no picture.

    manifest.json                what the index is, and every other file with bytes and sha256
    tokens.parquet               one row per stored token, in corpus order
    sequences.parquet            one row per stored sequence
    heads.parquet                one row per head: statistics over all that was read
    surface.parquet              one row per head and class of keys: attention to it, over all that was read
    profile.parquet              one row per head and offset of the key from the query: attention to it
    query/L00.npy                (head, token, d_head)       one file a layer
    key/L00.npy                  (kv_head, token, d_head)
    value_norm/L00.npy           (kv_head, token)
    top_key/L00.npy              (head, token, k)            row of the attended key in tokens.parquet, -1 = none
    top_attention/L00.npy        (head, token, k)            the model's own attention, strongest first
    maps/pca2/L00H00.npy         (query or key, token, dims) one file a head
    maps/pca2/L00H00.npz         the gauge and the projection that made it, and its scores
    maps/pca2/scores.parquet     one row per head: the scores of all heads together
    maps/joint-pca2/common.npz   the one gauge and projection of all heads; those of each head hold its scores alone
    qkspace-work/                only while a build is unfinished
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import shutil
import time
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
from xxhash import xxh3_64

from qkspace.schema import FloatArray, IntArray, QKSpaceError

FORMAT = "qkspace-index"
FORMAT_VERSION = 2
READABLE = (1, 2)  # 2 added position parts, pictures, sound and sources
MANIFEST = "manifest.json"
WORK = "qkspace-work"  # a name that no folder of somebody else's has
COMPARISON_MARK = "comparison.json"  # in the work folder of an unfinished comparison, which is no unfinished build


@contextmanager
def disk_errors(folder: Path) -> Iterator[None]:
    """Turn a full or forbidden disk into an error that names the folder and the remedy."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise QKSpaceError(
                f"{folder}: the disk is full. What was finished is kept: free some space and run the same command "
                "again, or store less with --max-tokens or --storage float16."
            ) from error
        if error.errno in (errno.ENOTDIR, errno.EEXIST):
            raise QKSpaceError(f"{folder}: a file stands where a folder is needed. Choose another --out.") from error
        if error.errno in (errno.EACCES, errno.EROFS, errno.EPERM):
            raise QKSpaceError(f"{error.filename or folder}: not allowed to write there ({error.strerror}).") from error
        raise


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """Write a file that appears whole or not at all: a temporary beside it, fsync, rename."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Write JSON atomically."""
    with replacing(path) as file:
        file.write(json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False).encode() + b"\n")


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        QKSpaceError: the file is not a JSON object.
    """
    try:
        value = json.loads(path.read_bytes())
    except ValueError as error:
        raise QKSpaceError(f"{path}: damaged, not JSON ({error}). Build the index again with --overwrite.") from error
    if not isinstance(value, dict):
        raise QKSpaceError(f"{path}: expected a JSON object, got {type(value).__name__}. Build again with --overwrite.")
    return value


def write_array(path: Path, array: NDArray[Any]) -> None:
    """Write one `.npy` atomically."""
    with replacing(path) as file:
        np.save(file, array, allow_pickle=False)


def write_arrays(path: Path, arrays: Mapping[str, NDArray[Any]]) -> None:
    """Write one `.npz` atomically; the same arrays give the same bytes."""
    with replacing(path) as file:
        np.savez(file, allow_pickle=False, **arrays)


def read_array(path: Path) -> NDArray[Any]:
    """Open one `.npy` by read-only memory map.

    Raises:
        QKSpaceError: the file is missing, cut short or not an array.
    """
    try:
        return np.load(path, mmap_mode="r", allow_pickle=False)  # type: ignore[no-any-return]  # numpy says Any
    except (OSError, ValueError, EOFError) as error:
        raise QKSpaceError(f"{path}: missing or damaged ({error}). Run `qkspace verify` on the index.") from error


def read_arrays(path: Path) -> dict[str, NDArray[Any]]:
    """Read every array of one `.npz`.

    Raises:
        QKSpaceError: the file is missing or damaged.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            return dict(file)
    except Exception as error:  # numpy raises a dozen kinds here (zipfile, zlib, struct, ...), all with one meaning
        raise QKSpaceError(f"{path}: missing or damaged ({error}). Run `qkspace verify` on the index.") from error


class RowFile:
    """A preallocated `.npy` of shape (head, token, ...) written a run of tokens at a time.

    The space is taken when the file is made, so that a disk too small is noticed before the first forward pass.
    """

    def __init__(self, path: Path, shape: tuple[int, ...], dtype: str) -> None:
        """Open `path`, or make it with `shape` and `dtype` if it is not there yet."""
        self.shape, self.dtype = shape, np.dtype(dtype)
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            self._make(path)
        self._file = path.open("r+b")
        np.lib.format.read_magic(self._file)
        found_shape, _, found_dtype = np.lib.format.read_array_header_2_0(self._file)
        if (tuple(found_shape), found_dtype) != (shape, self.dtype):
            raise QKSpaceError(f"{path}: holds {found_dtype} {found_shape}, expected {dtype} {shape}; use --overwrite.")
        self._start = self._file.tell()
        self._row_bytes = self.dtype.itemsize * int(np.prod(shape[2:], dtype=np.int64))

    def _make(self, path: Path) -> None:
        temporary = path.with_suffix(".tmp")
        header = {"descr": np.lib.format.dtype_to_descr(self.dtype), "fortran_order": False, "shape": self.shape}
        with temporary.open("wb") as file:
            np.lib.format.write_array_header_2_0(file, header)
            n_bytes = self.dtype.itemsize * int(np.prod(self.shape, dtype=np.int64))
            if n_bytes:
                os.posix_fallocate(file.fileno(), file.tell(), n_bytes)
        temporary.replace(path)

    def _offset(self, head: int, row: int) -> int:
        return self._start + (head * self.shape[1] + row) * self._row_bytes

    def write(self, row: int, block: NDArray[Any]) -> int:
        """Write block (head, run, ...) at tokens row:row + run of every head; return the check sum of its bytes."""
        seen = xxh3_64()
        for head in range(self.shape[0]):  # one at a time, so that a block in another order is never copied whole
            part = np.ascontiguousarray(block[head], dtype=self.dtype)
            data = part.data.cast("B") if part.size else memoryview(b"")
            seen.update(data)
            position = self._offset(head, row)
            while data:  # a write may be short
                written = os.pwrite(self._file.fileno(), data, position)
                data, position = data[written:], position + written
        return seen.intdigest()

    def checksum(self, row: int, run: int) -> int:
        """Return the check sum of tokens row:row + run of every head as they are in the file."""
        seen = xxh3_64()
        for head in range(self.shape[0]):
            seen.update(os.pread(self._file.fileno(), run * self._row_bytes, self._offset(head, row)))
        return seen.intdigest()

    def flush(self) -> None:
        """Wait until what was written is on the disk."""
        os.fdatasync(self._file.fileno())

    def close(self) -> None:
        """Wait until everything is on the disk, and close."""
        os.fsync(self._file.fileno())
        self._file.close()


@contextmanager
def writing_rows(path: Path, shape: tuple[int, ...], dtype: str) -> Iterator[RowFile]:
    """Write a `.npy` some tokens at a time; it appears whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    temporary.unlink(missing_ok=True)
    file = RowFile(temporary, shape, dtype)
    try:
        yield file
        file.close()
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def file_records(root: Path, folders: Iterable[Path] = ()) -> dict[str, dict[str, Any]]:
    """Return {relative path: {bytes, sha256}} of every file of an index but its manifest and its work folder.

    With `folders`, of what lies in those alone.
    """
    paths = [
        path
        for path in sorted(p for folder in list(folders) or [root] for p in folder.rglob("*"))
        if path.is_file() and path.suffix != ".tmp" and path.relative_to(root).parts[0] not in (WORK, MANIFEST)
    ]

    with ThreadPoolExecutor() as pool:  # hashing releases the interpreter's lock
        return {p.relative_to(root).as_posix(): r for p, r in zip(paths, pool.map(file_record, paths), strict=True)}


def file_record(path: Path) -> dict[str, Any]:
    """Return what a manifest says of a file: bytes and sha256."""
    with path.open("rb") as file:
        return {"bytes": path.stat().st_size, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}


def read_manifest(root: Path) -> dict[str, Any]:
    """Read the manifest of a finished index.

    Raises:
        QKSpaceError: no index there, an unfinished one, or one of another format.
    """
    path = root / MANIFEST
    if not path.is_file():
        if (root / WORK).is_dir():
            raise QKSpaceError(f"{root}: this build is not finished. Run the command that began it again: it resumes.")
        what = "a folder without manifest.json" if root.is_dir() else "no such folder"
        raise QKSpaceError(
            f"{root}: {what}, so no index of qkspace. Make one with `qkspace build --model ... --corpus ... --out {root}`."
        )
    manifest = read_json(path)
    if manifest.get("format") == "qkspace-comparison":
        raise QKSpaceError(
            f"{root}: this is a comparison and no index. In Python: qkspace.open_comparison({str(root)!r})"
        )
    if manifest.get("format") != FORMAT:
        raise QKSpaceError(
            f"{path}: format is {manifest.get('format')!r}, expected {FORMAT!r}. Is this another tool's?"
        )
    if manifest.get("format_version") not in READABLE:
        raise QKSpaceError(
            f"{path}: format version {manifest.get('format_version')}, this qkspace reads {' and '.join(map(str, READABLE))}. "
            "Build the index again, or install the version that made it."
        )
    missing = [
        name for name in ("made_from", "model", "layers", "check", "corpus", "maps", "files") if name not in manifest
    ]
    if missing:
        raise QKSpaceError(f"{path}: damaged, it lacks {', '.join(missing)}. Build the index again with --overwrite.")
    return manifest


UNNAMED = "not in the manifest"  # how a fault ends that takes nothing from the index


def verify(root: Path) -> list[str]:
    """Compare every file with the manifest and return what is wrong, a line a fault; an empty list means sound."""
    return differences(read_manifest(root)["files"], file_records(root))


def differences(expected: Mapping[str, dict[str, Any]], found: Mapping[str, dict[str, Any]]) -> list[str]:
    """Compare the records of files that a manifest holds with those of the files that are there: a line a fault."""
    faults = [f"{name}: missing" for name in expected.keys() - found.keys()]
    faults += [f"{name}: {UNNAMED}" for name in found.keys() - expected.keys()]
    for name in expected.keys() & found.keys():
        if found[name]["bytes"] != expected[name]["bytes"]:
            faults.append(f"{name}: {found[name]['bytes']} bytes, the manifest says {expected[name]['bytes']}")
        elif found[name]["sha256"] != expected[name]["sha256"]:
            faults.append(f"{name}: its content changed (sha256 differs)")
    return sorted(faults)


@contextmanager
def locked(root: Path, *, wait: float = 0.0) -> Iterator[None]:
    """Keep a second build out of the folder while this one runs; wait: seconds in which another may come to its end."""
    end = time.monotonic() + wait
    while True:
        (root / WORK).mkdir(parents=True, exist_ok=True)
        with (root / WORK / "lock").open("w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() >= end:
                    raise QKSpaceError(
                        f"{root}: another build is writing there. Wait for it, or choose another --out."
                    ) from None
            else:
                yield
                return
        time.sleep(0.2)


def sweep(root: Path) -> None:
    """Remove what a killed build left half-written; what is whole never carries this suffix."""
    for path in root.rglob("*.tmp"):
        path.unlink(missing_ok=True)


def start_over(root: Path) -> None:
    """Remove all that an earlier index or build left beside the work folder; that goes last, being what marks it as ours."""
    for path in root.iterdir():
        if path.name != WORK:
            shutil.rmtree(path) if path.is_dir() else path.unlink()


def remove_folders(paths: Iterable[Path]) -> None:
    """Remove folders with all that is in them."""
    for path in list(paths):
        shutil.rmtree(path)


def end_work(root: Path) -> None:
    """Remove what a build needed only while it ran; the manifest stands already."""
    shutil.rmtree(root / WORK, ignore_errors=True)


def give_up(root: Path) -> None:
    """Leave nothing behind of a build that was refused before anything was finished."""
    if not (root / WORK / "read.json").exists():
        end_work(root)
        if not any(root.iterdir()):
            root.rmdir()


def is_ours(root: Path) -> bool:
    """Tell whether the manifest of a folder is that of an index, of whatever version."""
    try:
        return bool(read_json(root / MANIFEST).get("format") == FORMAT)
    except (OSError, QKSpaceError):
        return False


def refuse_foreign(root: Path) -> None:
    """Raise unless the folder is missing, empty, a finished index or an unfinished build."""
    if not root.exists() or (root.is_dir() and not any(root.iterdir())):
        return
    if (root / WORK / COMPARISON_MARK).exists():
        raise QKSpaceError(f"{root}: an unfinished comparison is there; it is left alone. Choose another --out.")
    if (root / WORK).is_dir() and not (root / MANIFEST).exists():
        return
    if not is_ours(root):
        raise QKSpaceError(f"{root}: holds files, but no index of qkspace; it is left alone. Choose another --out.")


def clear(root: Path) -> None:
    """Remove an index, its manifest first so that it is never taken for whole; refuse a folder of something else."""
    refuse_foreign(root)
    if root.exists():
        with locked(root):
            (root / MANIFEST).unlink(missing_ok=True)
            start_over(root)
            shutil.rmtree(root)


def map_path(root: Path, method: str, dims: int, layer: int, head: int, suffix: str) -> Path:
    """Return where a map of a head is stored: positions in .npy, gauge, projection and scores in .npz."""
    return root / "maps" / f"{method}{dims}" / f"L{layer:02d}H{head:02d}.{suffix}"


def common_path(root: Path, method: str, dims: int) -> Path:
    """Return where the gauge and the projection of a joint map are stored, which its heads share."""
    return root / "maps" / f"{method}{dims}" / "common.npz"


def read_column(folder: Path, name: str, column: str) -> NDArray[Any]:
    """Return one column of the Parquet parts `name`-*.parquet of a folder, end to end."""
    import pyarrow.parquet as pq

    parts = sorted(folder.glob(f"{name}-*.parquet"))
    return np.concatenate([pq.read_table(part, columns=[column])[column].to_numpy() for part in parts])


def write_table(path: Path, columns: Mapping[str, Any]) -> None:
    """Write a Parquet table of these columns atomically."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    with replacing(path) as file:
        pq.write_table(pa.table(dict(columns)), file)


def concatenate_tables(
    parts: Iterable[Path], path: Path, keep: IntArray | None = None, groups: Mapping[str, IntArray] | None = None
) -> None:
    """Join Parquet files with differing columns into one, a part at a time; `keep` chooses values of `sequence`.

    Columns that some parts lack are null there. A column that is text in one part and number in another becomes text.
    With `groups` a column `fold` is added: the name of the group that a row's sequence is in, or "neither".
    """
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    def is_in(table: pa.Table, sequences: IntArray) -> pa.ChunkedArray:
        return pc.is_in(table["sequence"], pa.array(sequences, pa.int32()))

    parts = list(parts)
    schema = _common_schema([pq.read_schema(part) for part in parts])
    final = schema if groups is None else schema.append(pa.field("fold", pa.string()))
    with replacing(path) as file, pq.ParquetWriter(file, final, compression="zstd") as writer:
        for part in parts:
            table = pq.read_table(part)
            if keep is not None:
                table = table.filter(is_in(table, keep))
            columns = [
                table[name].cast(type_) if name in table.column_names else pa.nulls(len(table), type_)
                for name, type_ in zip(schema.names, schema.types, strict=True)
            ]
            if groups is not None:
                fold = pa.scalar("neither")
                for name, sequences in groups.items():
                    fold = pc.if_else(is_in(table, sequences), name, fold)
                columns.append(fold)
            writer.write_table(pa.table(columns, schema=final))


def _common_schema(schemas: list[Any]) -> Any:
    """Return the union of columns: numbers widen, a mixture becomes text, dictionaries become their values."""
    import pyarrow as pa

    types: dict[str, Any] = {}
    for schema in schemas:
        for field in schema:
            new = field.type.value_type if pa.types.is_dictionary(field.type) else field.type
            old = types.get(field.name, pa.null())
            if old == new or pa.types.is_null(new):
                types[field.name] = old
            elif pa.types.is_null(old):
                types[field.name] = new
            elif {old, new} == {pa.int64(), pa.float64()}:
                types[field.name] = pa.float64()
            else:
                types[field.name] = pa.string()
    return pa.schema([(name, pa.string() if pa.types.is_null(t) else t) for name, t in types.items()])


def float_array(array: NDArray[Any]) -> FloatArray:
    """Return stored numbers as float32, the type that the mathematics runs in."""
    return np.asarray(array, dtype=np.float32)
