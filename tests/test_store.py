"""Tests of `qkspace.store`: what is written comes back exactly, whole or not at all, and damage is found."""

from __future__ import annotations

import errno
import itertools
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from conftest import MakeCheckpoint
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from numpy.typing import NDArray
from pyarrow import parquet

from qkspace import store
from qkspace.cli import main
from qkspace.index import Index
from qkspace.pipeline import build
from qkspace.schema import QKSpaceError

MAPS: dict[str, Any] = {"methods": ["pca"], "dims": [2], "normalise": "none", "n_jobs": 1}
DTYPES = ["float16", "float32", "float64", "int32", "int64", "uint8", "bool"]
any_array = st.sampled_from(DTYPES).flatmap(
    lambda dtype: arrays.arrays(dtype, arrays.array_shapes(min_dims=0, max_dims=4, max_side=5, min_side=0))
)


def listing(root: Path) -> dict[str, bytes]:
    return {p.relative_to(root).as_posix(): p.read_bytes() for p in sorted(root.rglob("*")) if p.is_file()}


# ---------------------------------------------------------------------------------------------- files


@given(any_array)
def test_an_array_comes_back_as_it_was(array: NDArray[Any]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "deep" / "array.npy"
        store.write_array(path, array)
        found = store.read_array(path)
        assert (found.dtype, found.shape) == (array.dtype, array.shape)
        assert found.tobytes() == array.tobytes()  # also which nan it was, and minus zero
        assert not found.flags.writeable


@given(st.dictionaries(st.text("abc.", min_size=1, max_size=5), any_array, max_size=4))
def test_named_arrays_come_back_as_they_were_and_give_the_same_bytes_again(named: dict[str, NDArray[Any]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        first, second = Path(folder) / "a.npz", Path(folder) / "b.npz"
        store.write_arrays(first, named)
        store.write_arrays(second, named)
        found = store.read_arrays(first)
        assert found.keys() == named.keys()
        for name, array in named.items():
            assert (found[name].dtype, found[name].shape) == (array.dtype, array.shape)
            assert found[name].tobytes() == array.tobytes()
        assert first.read_bytes() == second.read_bytes()


def test_objects_are_never_pickled(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="allow_pickle"):
        store.write_array(tmp_path / "a.npy", np.array([{"a": 1}], dtype=object))
    np.save(tmp_path / "b.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(QKSpaceError, match=r"b\.npy: missing or damaged"):
        store.read_array(tmp_path / "b.npy")
    assert list(listing(tmp_path)) == ["b.npy"]


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=10,
)


@given(st.dictionaries(st.text(), json_values, max_size=4))
def test_json_comes_back_as_it_was(value: dict[str, Any]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "value.json"
        store.write_json(path, value)
        assert store.read_json(path) == value


@pytest.mark.parametrize("content", [b"", b"{", b"[1]", b'"a"', b"\xff\xfe", b'{"a": 1}}'])
def test_what_is_no_json_object_is_named_with_the_remedy(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    path.write_bytes(content)
    with pytest.raises(QKSpaceError, match=r"plan\.json: .*--overwrite"):
        store.read_json(path)


@pytest.mark.parametrize("cut", [0, 1, 50, -1])
def test_a_damaged_array_is_named(cut: int, tmp_path: Path) -> None:
    array = np.arange(12.0)
    store.write_array(tmp_path / "a.npy", array)
    store.write_arrays(tmp_path / "a.npz", {"x": array})
    for name, read in (("a.npy", store.read_array), ("a.npz", store.read_arrays)):
        path = tmp_path / name
        path.write_bytes(path.read_bytes()[:cut])
        with pytest.raises(QKSpaceError, match=rf"{name}: missing or damaged .*qkspace verify"):
            read(path)
        path.unlink()
        with pytest.raises(QKSpaceError, match=rf"{name}: missing or damaged"):
            read(path)


@pytest.mark.parametrize("old", [None, b"what stood there"])
def test_a_failure_while_writing_leaves_what_stood_there_and_nothing_else(old: bytes | None, tmp_path: Path) -> None:
    path = tmp_path / "file"
    if old is not None:
        path.write_bytes(old)
    before = listing(tmp_path)
    with pytest.raises(ZeroDivisionError), store.replacing(path) as file:
        file.write(b"half of ")
        file.flush()
        assert listing(tmp_path).get("file") == old  # not even a reader meanwhile sees it
        raise ZeroDivisionError
    assert listing(tmp_path) == before
    with store.replacing(path) as file:
        file.write(b"the new content")
    assert listing(tmp_path) == {"file": b"the new content"}


# ---------------------------------------------------------------------------------------------- rows


@given(
    st.sampled_from(["float16", "float32", "int32"]),
    arrays.array_shapes(min_dims=2, max_dims=4, min_side=1, max_side=6),
    st.data(),
)
def test_rows_written_in_any_order_make_the_array(dtype: str, shape: tuple[int, ...], data: st.DataObject) -> None:
    whole = data.draw(arrays.arrays(dtype, shape))  # (head, token, ...)
    cuts = sorted(data.draw(st.sets(st.integers(0, shape[1]))) | {0, shape[1]})
    runs = data.draw(st.permutations(list(itertools.pairwise(cuts))))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "query" / "L00.npy"
        for start, end in runs:  # each run by a process of its own, as it were: the file is opened anew
            file = store.RowFile(path, shape, dtype)
            written = file.write(start, whole[:, start:end])
            assert file.checksum(start, end - start) == written
            file.close()
        if not runs:
            store.RowFile(path, shape, dtype).close()
        found = np.load(path, allow_pickle=False)
        assert (found.dtype, found.shape) == (whole.dtype, whole.shape)
        assert found.tobytes() == whole.tobytes()
        assert store.read_array(path).tobytes() == whole.tobytes()


def test_a_row_file_takes_its_space_when_it_is_made(tmp_path: Path) -> None:
    path = tmp_path / "L00.npy"
    store.RowFile(path, (3, 5000, 16), "float32").close()
    assert path.stat().st_size >= 3 * 5000 * 16 * 4
    assert path.stat().st_blocks * 512 >= 3 * 5000 * 16 * 4  # really taken: the file has no holes
    assert not np.load(path).any()


def test_an_index_without_a_stored_token_has_row_files_too(tmp_path: Path) -> None:
    file = store.RowFile(tmp_path / "L00.npy", (3, 0, 16), "float32")
    assert file.write(0, np.zeros((3, 0, 16), dtype=np.float32)) == file.checksum(0, 0)
    file.close()
    assert np.load(tmp_path / "L00.npy").shape == (3, 0, 16)


@pytest.mark.parametrize(("shape", "dtype"), [((2, 5), "float16"), ((2, 4), "float32"), ((2, 4, 1), "float16")])
def test_a_row_file_of_another_shape_is_refused(shape: tuple[int, ...], dtype: str, tmp_path: Path) -> None:
    path = tmp_path / "L00.npy"
    store.RowFile(path, (2, 4), "float16").close()
    with pytest.raises(QKSpaceError, match=r"L00\.npy: holds float16 \(2, 4\), expected .*--overwrite"):
        store.RowFile(path, shape, dtype)


def test_a_short_write_is_continued(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pwrite = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda number, data, at: pwrite(number, bytes(data)[:7], at))
    rows = np.random.default_rng(0).normal(size=(3, 20, 4)).astype(np.float32)
    file = store.RowFile(tmp_path / "L00.npy", rows.shape, "float32")
    file.write(0, rows)
    file.close()
    np.testing.assert_array_equal(np.load(tmp_path / "L00.npy"), rows)


# ---------------------------------------------------------------------------------------------- verify


@pytest.fixture
def index_copy(small_index: Index, tmp_path: Path) -> Path:
    root = tmp_path / "index"
    shutil.copytree(small_index.root, root)
    return root


def test_a_finished_index_is_sound_and_its_manifest_lists_every_file(small_index: Index) -> None:
    assert store.verify(small_index.root) == []
    on_disk = set(listing(small_index.root))
    assert on_disk == {store.MANIFEST, *small_index.manifest["files"]}
    layers = {f"{name}/L{i:02d}.npy" for name in ("query", "key", "value_norm") for i in range(6)}
    maps = {
        f"maps/pca{d}/L{i:02d}H{h:02d}.{s}" for d in (2, 3) for i in range(6) for h in range(12) for s in ("npy", "npz")
    }
    assert layers | maps | {"tokens.parquet", "sequences.parquet", "heads.parquet"} <= on_disk


@pytest.mark.parametrize(
    "name", ["query/L03.npy", "top_key/L00.npy", "tokens.parquet", "maps/pca2/L05H11.npz", "heads.parquet"]
)
def test_every_kind_of_damage_is_found_and_named(name: str, index_copy: Path) -> None:
    path = index_copy / name
    content = path.read_bytes()
    middle = len(content) // 2
    path.write_bytes(content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :])  # one bit
    assert store.verify(index_copy) == [f"{name}: its content changed (sha256 differs)"]
    path.write_bytes(content[:-1])
    assert store.verify(index_copy) == [f"{name}: {len(content) - 1} bytes, the manifest says {len(content)}"]
    path.unlink()
    assert store.verify(index_copy) == [f"{name}: missing"]
    extra = index_copy / "maps" / "more.npy"
    extra.write_bytes(content)
    assert store.verify(index_copy) == sorted([f"{name}: missing", "maps/more.npy: not in the manifest"])
    path.write_bytes(content)
    extra.unlink()
    assert store.verify(index_copy) == []


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"format": "zarr"}, r"manifest\.json: format is 'zarr', expected 'qkspace-index'"),
        (
            {"format_version": 99},
            r"manifest\.json: format version 99, this qkspace reads 1 and 2.*Build the index again",
        ),
    ],
)
def test_another_format_is_refused(change: dict[str, Any], expected: str, index_copy: Path) -> None:
    manifest = store.read_json(index_copy / store.MANIFEST)
    store.write_json(index_copy / store.MANIFEST, {**manifest, **change})
    with pytest.raises(QKSpaceError, match=expected):
        Index(index_copy)


def test_what_is_no_index_is_said_to_be_none(tmp_path: Path) -> None:
    with pytest.raises(QKSpaceError, match=r"nowhere: no such folder.*qkspace build"):
        store.read_manifest(tmp_path / "nowhere")
    with pytest.raises(QKSpaceError, match=r"a folder without manifest\.json.*qkspace build"):
        store.read_manifest(tmp_path)
    (tmp_path / store.WORK).mkdir()
    with pytest.raises(QKSpaceError, match=r"not finished\. Run the command that began it again: it resumes"):
        store.read_manifest(tmp_path)


def test_an_index_that_lost_a_file_is_not_opened(index_copy: Path) -> None:
    (index_copy / "query" / "L02.npy").unlink()
    with pytest.raises(QKSpaceError, match=r"1 of its files are missing, query/L02\.npy first\. Restore"):
        Index(index_copy)


# ---------------------------------------------------------------------------------------------- one build at a time


@pytest.fixture
def tiny_corpus(tmp_path: Path, sentences: list[str]) -> Path:
    path = tmp_path / "corpus.txt"
    path.write_text("\n".join(sentences[:24]) + "\n", encoding="utf-8")
    return path


HOLD = """
import sys
from pathlib import Path
from qkspace import store
with store.locked(Path(sys.argv[1])):
    print("locked", flush=True)
    sys.stdin.read()
"""


def test_a_second_build_is_kept_out(tmp_path: Path, make_checkpoint: MakeCheckpoint, tiny_corpus: Path) -> None:
    out = tmp_path / "index"
    command = [sys.executable, "-c", HOLD, str(out)]
    holder = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None
    assert holder.stdout.readline() == "locked\n"
    before = listing(out)
    try:
        for overwrite in (False, True):
            with pytest.raises(QKSpaceError, match=r"index: another build is writing there\. Wait .*--out"):
                build(str(make_checkpoint("bert")), tiny_corpus, out=out, overwrite=overwrite, **MAPS)
            assert listing(out) == before
    finally:
        holder.communicate()
    index = build(str(make_checkpoint("bert")), tiny_corpus, out=out, **MAPS)  # its owner is gone
    assert store.verify(index.root) == []


# ---------------------------------------------------------------------------------------------- removing


def test_an_index_is_removed_whole(index_copy: Path) -> None:
    store.clear(index_copy)
    assert not index_copy.exists()
    store.clear(index_copy)  # nothing there is nothing to do


@pytest.mark.parametrize(
    "files",
    [
        {"letter.txt": "dear"},
        {"work/thesis.tex": "chapter", "photo.jpg": "x"},
        {"manifest.json": '{"manifest_version": 3, "name": "a browser extension"}', "main.js": "x"},
        {"manifest.json": "no json at all", "main.js": "x"},
    ],
    ids=["a file", "a folder named work", "another manifest", "a broken manifest"],
)
def test_a_foreign_folder_is_left_alone(files: dict[str, str], tmp_path: Path) -> None:
    root = tmp_path / "mine"
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(content)
    before = listing(root)
    with pytest.raises(QKSpaceError, match=r"mine.*left alone\. Choose another --out"):
        store.clear(root)
    assert listing(root) == before


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("name", ["letter.txt", "work/thesis.tex"])
def test_a_build_into_a_foreign_folder_is_refused(
    name: str, overwrite: bool, tmp_path: Path, make_checkpoint: MakeCheckpoint, tiny_corpus: Path
) -> None:
    root = tmp_path / "mine"
    (root / name).parent.mkdir(parents=True)
    (root / name).write_text("dear")
    with pytest.raises(QKSpaceError, match=r"mine: .*no index of qkspace"):
        build(str(make_checkpoint("bert")), tiny_corpus, out=root, overwrite=overwrite, **MAPS)
    assert listing(root) == {name: b"dear"}


def test_an_empty_folder_is_built_into(tmp_path: Path, make_checkpoint: MakeCheckpoint, tiny_corpus: Path) -> None:
    root = tmp_path / "empty"
    root.mkdir()
    build(str(make_checkpoint("bert")), tiny_corpus, out=root, **MAPS)
    assert store.verify(root) == []


# ---------------------------------------------------------------------------------------------- a full disk


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A real file system of two megabytes."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False) if shutil.which("mount") else None
    if done is None or done.returncode:
        pytest.skip(f"no small file system can be mounted here: {done.stderr.strip() if done else 'no mount'}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk_is_said_and_the_same_command_goes_on_when_there_is_space(
    small_disk: Path, make_checkpoint: MakeCheckpoint, tiny_corpus: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = small_disk / "index"
    command = ["build", "--model", str(make_checkpoint("bert")), "--corpus", str(tiny_corpus), "--out", str(out)]
    command += ["--methods", "pca", "--dims", "2", "--normalise", "none", "--n-jobs", "1", "--quiet"]
    free = os.statvfs(small_disk)
    ballast = small_disk / "ballast"
    full = 0
    for left in (0, 6, 20, 60, 100, 140, 180, 220):  # kilobytes: further and further into the build
        ballast.unlink(missing_ok=True)
        taken = sum(p.stat().st_blocks * 512 for p in out.rglob("*") if p.is_file()) if out.exists() else 0
        ballast.write_bytes(b"x" * max(0, free.f_bavail * free.f_frsize - taken - left * 1024))
        status = main(command)
        error = capsys.readouterr().err
        if status == 0:
            break
        full += 1
        assert status == 1
        assert "Traceback" not in error
        assert str(out) in error
        assert "disk" in error
        assert "--max-tokens" in error
    assert full >= 3
    ballast.unlink()
    assert main(command) == 0
    assert store.verify(out) == []
    other = small_disk.parent / "elsewhere"
    assert main([*command[:5], "--out", str(other), *command[7:]]) == 0
    expected, found = (store.read_manifest(root)["files"] for root in (other, out))
    assert found == expected


@pytest.mark.parametrize("call", ["posix_fallocate", "pwrite", "fsync"])
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
def test_a_disk_that_fills_in_any_call_is_said(
    call: str,
    code: int,
    tmp_path: Path,
    make_checkpoint: MakeCheckpoint,
    tiny_corpus: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    out = tmp_path / "index"

    def fail(*arguments: object) -> int:
        raise OSError(code, os.strerror(code))

    def make() -> Index:
        return build(str(make_checkpoint("bert")), tiny_corpus, out=out, **MAPS)

    with monkeypatch.context() as patch:
        patch.setattr(os, call, fail)
        with pytest.raises(QKSpaceError, match=r"index: the disk is full\. .*same command again.*--max-tokens"):
            make()
    assert store.verify(make().root) == []


def test_a_folder_that_may_not_be_written_is_named(
    tmp_path: Path, make_checkpoint: MakeCheckpoint, tiny_corpus: Path, request: pytest.FixtureRequest
) -> None:
    if os.geteuid() == 0:  # root may write anywhere but on a disk that takes nothing
        folder: Path = request.getfixturevalue("small_disk")
        subprocess.run(["mount", "-o", "remount,ro", str(folder)], check=True)
    else:
        folder = tmp_path / "forbidden"
        folder.mkdir(mode=0o500)
    with pytest.raises(QKSpaceError, match=rf"{folder}/index.*: not allowed to write there"):
        build(str(make_checkpoint("bert")), tiny_corpus, out=folder / "index", methods=["pca"])


# ---------------------------------------------------------------------------------------------- tables


def test_tables_with_unlike_columns_are_joined(tmp_path: Path) -> None:
    parts = [
        pd.DataFrame({"sequence": [0, 1], "year": [1999, 2001], "place": ["Ghent", None]}),
        pd.DataFrame({"sequence": [2], "year": [2.5], "mood": ["calm"]}),
        pd.DataFrame({"sequence": [3], "year": [None], "place": [7], "mood": [None]}),
    ]
    paths = [tmp_path / f"part-{i}.parquet" for i in range(3)]
    for part, path in zip(parts, paths, strict=True):
        part.astype({"sequence": "int32"}).to_parquet(path, index=False)
    store.concatenate_tables(paths, tmp_path / "all.parquet")
    assert parquet.read_table(tmp_path / "all.parquet").to_pydict() == {
        "sequence": [0, 1, 2, 3],
        "year": [1999, 2001, 2.5, None],
        "place": ["Ghent", None, None, "7"],
        "mood": [None, None, "calm", None],
    }
    store.concatenate_tables(paths, tmp_path / "some.parquet", keep=np.array([1, 3]))
    assert pd.read_parquet(tmp_path / "some.parquet")["sequence"].tolist() == [1, 3]
