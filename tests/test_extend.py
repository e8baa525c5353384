"""Tests of `qkspace.extend`: an index gets the maps that a build would have made, and is whole at every moment."""

from __future__ import annotations

import errno
import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import MakeCheckpoint
from killing import KILLED, Driver, assert_same_index, listing

from qkspace import store, unfold
from qkspace.cli import main
from qkspace.extend import project
from qkspace.index import Index
from qkspace.pipeline import build
from qkspace.schema import QKSpaceError

Make = Callable[..., Path]
STEPS = 20  # of unfold, in this process and in those that are killed: what is added is the same however good it is


@pytest.fixture(scope="module", autouse=True)
def few_steps() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(unfold, "STEPS", STEPS)
        yield


@pytest.fixture(scope="module")
def make_index(tmp_path_factory: pytest.TempPathFactory, make_checkpoint: MakeCheckpoint, sentences: list[str]) -> Make:
    """Build an index of a tiny Llama of one layer, its four heads of queries reading two of keys."""
    folder = tmp_path_factory.mktemp("extend")
    corpus = folder / "corpus.txt"
    corpus.write_text("\n".join(sentences[:16]) + "\n", encoding="utf-8")
    model = str(make_checkpoint("llama", num_hidden_layers=1))

    def make(name: str, **options: Any) -> Path:
        return build(model, corpus, out=folder / name, **{"dims": [2], "n_jobs": 1, "seed": 5, **options}).root

    return make


@pytest.fixture(scope="module")
def base(make_index: Make) -> Path:
    """An index with the plainest map alone. Only to be read."""
    return make_index("base", methods=["pca"])


@pytest.fixture(scope="module")
def expected(make_index: Make) -> dict[str, Path]:
    """Whole builds, each with what a test adds to `base`. Only to be read."""
    return {
        "unfold2": make_index("unfold2", methods=["pca", "unfold"]),
        "pca3": make_index("pca3", methods=["pca"], dims=[2, 3]),
    }


@pytest.fixture
def root(base: Path, tmp_path: Path) -> Path:
    return shutil.copytree(base, tmp_path / "index")


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Driver:
    return Driver(tmp_path_factory.mktemp("driver"), {"unfold.STEPS": STEPS})


def command(root: Path, method: str, dims: int, *more: str) -> list[str]:
    return ["project", str(root), "--methods", method, "--dims", str(dims), "--n-jobs", "1", *more]


def assert_extended(found: Path, built: Path) -> None:
    """Compare with a build that made all maps at once; only what was asked for first may differ."""
    ours, theirs = (store.read_manifest(root) for root in (found, built))
    assert store.verify(found) == []
    assert {**ours, "created": "", "made_from": ""} == {**theirs, "created": "", "made_from": ""}
    assert {name for name in listing(found) if name != store.MANIFEST} == set(ours["files"])  # no work is left


def assert_as_before(root: Path, base: Path, added: str) -> None:
    """Tell that an index whose extension is unfinished is the one that it was, but for files of no account."""
    assert (root / store.MANIFEST).read_bytes() == (base / store.MANIFEST).read_bytes()
    assert all(fault.startswith(f"maps/{added}/") and "not in the manifest" in fault for fault in store.verify(root))
    index = Index(root)
    assert index.maps == (("pca", 2),)
    np.testing.assert_array_equal(index.head(0, 3).projection("pca", 2).key, Index(base).head(0, 3).projection().key)
    assert "pca2_recall1" in index.head_table()


# ---------------------------------------------------------------------------------------------- what is added


@pytest.mark.parametrize(("method", "dims"), [("unfold", 2), ("pca", 3)])
def test_a_map_is_added_as_a_build_would_have_made_it(
    method: str, dims: int, root: Path, base: Path, expected: dict[str, Path]
) -> None:
    before = listing(base)
    index = project(root, (method,), dims=(dims,), n_jobs=1)
    assert index.maps == (("pca", 2), (method, dims))
    after = listing(root)
    assert {name: after[name] for name in before if name != store.MANIFEST} == {
        name: content for name, content in before.items() if name != store.MANIFEST
    }
    old, new = store.read_manifest(base), store.read_manifest(root)
    assert {name: new["files"][name] for name in old["files"]} == old["files"]
    assert list(new["files"]) == sorted(new["files"])
    assert {k: v for k, v in new.items() if k not in ("maps", "files")} == {
        k: v for k, v in old.items() if k not in ("maps", "files")
    }
    assert new["maps"][:1] == old["maps"]
    assert_extended(root, expected[f"{method}{dims}"])


def test_several_processes_make_the_same_maps(root: Path, make_index: Make) -> None:
    """A process works on one map of up to six heads of a layer: three maps keep two processes busy."""
    methods = ("pca", "attentionviz-pca")
    built = make_index("several", methods=list(methods), dims=[2, 3])
    project(root, methods, dims=(2, 3), n_jobs=2)
    assert_extended(root, built)


def test_an_added_map_is_used_like_any_other(root: Path) -> None:
    index = project(root, ("pca",), dims=(3,), n_jobs=1)
    head = index.head(0, 2)
    view = head.projection("pca", 3)
    places = view.transform(head.query, head.key)
    np.testing.assert_allclose(places.query, view.query, atol=1e-4)
    np.testing.assert_allclose(places.key, view.key, atol=1e-4)
    assert view.scores is not None
    assert index.head_table()["pca3_attention_kl"][2] == view.scores.attention_kl
    assert view.fitted.seed == 5  # that of the index


def test_what_is_there_already_is_not_made_again(root: Path, expected: dict[str, Path]) -> None:
    project(root, ("pca",), dims=(3,), n_jobs=1)
    before = {path: path.stat().st_mtime_ns for path in root.rglob("*")}
    index = project(root, ("pca",), dims=(2, 3), n_jobs=1)
    assert index.maps == (("pca", 2), ("pca", 3))
    assert {path: path.stat().st_mtime_ns for path in root.rglob("*")} == before
    old = {path: path.stat().st_mtime_ns for path in (root / "maps" / "pca3").iterdir()}
    project(root, ("pca", "unfold"), dims=(2,), n_jobs=1)
    assert {path: path.stat().st_mtime_ns for path in old} == old
    assert Index(root).maps == (("pca", 2), ("pca", 3), ("unfold", 2))
    assert store.verify(root) == []
    for name in ("unfold2", "pca3"):
        whole = listing(expected[name] / "maps" / name)
        assert listing(root / "maps" / name) == whole


def test_maps_of_one_text_are_added_without_scores(make_checkpoint: MakeCheckpoint, tmp_path: Path) -> None:
    corpus = tmp_path / "one.txt"
    corpus.write_text("She left her savings in the bank.\n", encoding="utf-8")
    model = str(make_checkpoint("llama", num_hidden_layers=1))
    one, both = (tmp_path / name for name in ("one", "both"))
    build(model, corpus, out=one, methods=["pca"], dims=[2], n_jobs=1)
    build(model, corpus, out=both, methods=["pca"], dims=[2, 3], n_jobs=1)
    assert project(one, ("pca",), dims=(3,), n_jobs=1).head(0, 1).projection("pca", 3).scores is None
    assert_extended(one, both)


def test_a_build_of_the_same_finds_its_index_and_leaves_what_was_added(make_index: Make) -> None:
    index = make_index("twice", methods=["pca"])
    project(index, ("pca",), dims=(3,), n_jobs=1)
    before = listing(index)
    assert make_index("twice", methods=["pca"]) == index
    assert listing(index) == before


# ---------------------------------------------------------------------------------------------- what is refused


def test_another_normalisation_of_a_map_is_refused_with_the_remedy(root: Path) -> None:
    before = listing(root)
    with pytest.raises(QKSpaceError, match=r"has pca in 2-D already, normalised by 'auto'.*another index"):
        project(root, ("unfold", "pca"), dims=(2,), normalise="none")
    assert listing(root) == before
    index = project(root, ("pca",), dims=(3,), normalise="none", n_jobs=1)  # it has none in 3-D
    assert [entry["normalise"] for entry in index.manifest["maps"]] == ["auto", "none"]
    assert index.head(0, 0).projection("pca", 3).gauge.matrix_name == "identity"
    with pytest.raises(QKSpaceError, match="has pca in 3-D already, normalised by 'none'"):
        project(root, ("pca",), dims=(3,))


@pytest.mark.parametrize(
    ("methods", "options", "said"),
    [
        (("isomap",), {}, "Unknown projection 'isomap'; choose among .*unfold"),
        ((), {}, "at least one method"),
        (("pca",), {"dims": (4,)}, "dims of 2, 3 or both"),
        (("pca",), {"normalise": "whiten"}, "Unknown normalisation 'whiten'; choose one of auto"),
        (("pca",), {"n_jobs": 0}, "n_jobs must be at least 1"),
    ],
)
def test_what_cannot_be_made_is_refused_and_nothing_is_touched(
    methods: tuple[str, ...], options: dict[str, Any], said: str, root: Path
) -> None:
    before = listing(root)
    with pytest.raises(QKSpaceError, match=said):
        project(root, methods, **options)
    assert listing(root) == before


def test_only_one_command_writes_at_a_time(root: Path, base: Path) -> None:
    with store.locked(root), pytest.raises(QKSpaceError, match="another build is writing there"):
        project(root, ("pca",), dims=(3,), n_jobs=1)
    assert_as_before(root, base, "pca3")


def test_what_another_command_adds_in_the_meantime_is_kept(
    root: Path, expected: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The index was read before the other had finished, and the lock taken after."""
    locked = store.locked

    @contextmanager
    def locked_after_another(folder: Path) -> Iterator[None]:
        monkeypatch.setattr(store, "locked", locked)
        project(folder, ("pca",), dims=(3,), n_jobs=1)
        with locked(folder):
            yield

    monkeypatch.setattr(store, "locked", locked_after_another)
    with pytest.raises(QKSpaceError, match=r"has just changed it\. Run this one again"):
        project(root, ("pca",), dims=(3,), normalise="none", n_jobs=1)
    assert store.verify(root) == []
    assert listing(root / "maps") == listing(expected["pca3"] / "maps")


# ---------------------------------------------------------------------------------------------- killed


def test_a_run_killed_before_any_flush_leaves_the_old_index_and_ends_in_the_same(
    driver: Driver, base: Path, expected: dict[str, Path], tmp_path: Path
) -> None:
    """Each file is written beside its place, flushed and renamed: the run is killed before every single flush."""
    n = 0
    while True:
        n += 1
        root = shutil.copytree(base, tmp_path / f"killed-{n}")
        status = driver.run(command(root, "pca", 3), flush=n)
        if status == 0:
            break
        assert status == KILLED, driver.log.read_text()
        assert_as_before(root, base, "pca3")
        assert driver.run(command(root, "pca", 3)) == 0, driver.log.read_text()
        assert_extended(root, expected["pca3"])
    assert n == 1 + 1 + 2 * 4 + 1 + 1  # the plan, two files a head, the scores, the manifest


def test_heads_that_were_finished_are_not_made_again(
    driver: Driver, root: Path, base: Path, expected: dict[str, Path]
) -> None:
    """Heads that are fitted together are finished one after another; the rest is fitted without them."""
    assert driver.run(command(root, "unfold", 2), flush=5) == KILLED
    assert_as_before(root, base, "unfold2")
    kept = {path: path.stat().st_mtime_ns for path in (root / "maps" / "unfold2").glob("*.npz")}
    assert 0 < len(kept) < 4
    assert driver.run(command(root, "unfold", 2)) == 0, driver.log.read_text()
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    assert_extended(root, expected["unfold2"])


@pytest.mark.parametrize("other", [("unfold", 2), ("pca", 3)])
def test_what_an_unfinished_run_of_something_else_left_is_removed(
    other: tuple[str, int], driver: Driver, root: Path, base: Path, tmp_path: Path
) -> None:
    """Another method, or the same one normalised otherwise, whose files must not pass for this one's."""
    assert driver.run(command(root, *other), flush=5) == KILLED
    assert any((root / "maps" / "{}{}".format(*other)).glob("*.npz"))
    plain = shutil.copytree(base, tmp_path / "plain")
    for folder in (plain, root):
        project(folder, ("pca",), dims=(3,), normalise="none", n_jobs=1)
    assert_same_index(root, plain)


def test_a_run_killed_after_its_manifest_leaves_no_work_behind(root: Path, expected: dict[str, Path]) -> None:
    project(root, ("pca",), dims=(3,), n_jobs=1)
    plan = {"maps": [["pca", 3]], "normalise": "auto", "seed": 5}
    store.write_json(root / store.WORK / "project.json", plan)
    project(root, ("pca",), dims=(3,), n_jobs=1)
    assert_extended(root, expected["pca3"])


def test_an_unfinished_run_is_kept_when_there_is_nothing_else_to_do(
    driver: Driver, root: Path, expected: dict[str, Path]
) -> None:
    assert driver.run(command(root, "pca", 3), flush=5) == KILLED
    left = {path: path.stat().st_mtime_ns for path in (root / "maps" / "pca3").glob("*.npz")}
    project(root, ("pca",), dims=(2,), n_jobs=1)
    assert {path: path.stat().st_mtime_ns for path in left} == left != {}
    assert driver.run(command(root, "pca", 3)) == 0
    assert {path: path.stat().st_mtime_ns for path in left} == left
    assert_extended(root, expected["pca3"])


def test_a_build_that_finds_its_index_leaves_an_unfinished_run_alone(
    driver: Driver, make_index: Make, expected: dict[str, Path]
) -> None:
    root = make_index("built again", methods=["pca"])
    assert driver.run(command(root, "pca", 3), flush=5) == KILLED
    left = {path: path.stat().st_mtime_ns for path in (root / "maps" / "pca3").glob("*.npz")}
    assert make_index("built again", methods=["pca"]) == root  # already built
    assert driver.run(command(root, "pca", 3)) == 0
    assert {path: path.stat().st_mtime_ns for path in left} == left != {}
    assert_extended(root, expected["pca3"])


def test_a_full_disk_is_said_and_what_was_finished_is_kept(
    root: Path, base: Path, expected: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    write_arrays, calls = store.write_arrays, []

    def full(path: Path, arrays: Any) -> None:
        calls.append(path)
        if len(calls) == 3:
            raise OSError(errno.ENOSPC, "No space left on device")
        write_arrays(path, arrays)

    monkeypatch.setattr(store, "write_arrays", full)
    with pytest.raises(QKSpaceError, match=r"the disk is full\. What was finished is kept"):
        project(root, ("pca",), dims=(3,), n_jobs=1)
    assert_as_before(root, base, "pca3")
    project(root, ("pca",), dims=(3,), n_jobs=1)
    assert len(calls) == 3 + 2  # the head that failed, and the one after it
    assert_extended(root, expected["pca3"])


# ---------------------------------------------------------------------------------------------- the command


def test_the_command_adds_a_map(root: Path, expected: dict[str, Path], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(command(root, "pca", 3)) == 0
    out, err = capsys.readouterr()
    assert out == ""  # progress is no result
    assert f"{root} has these maps now: pca2, pca3" in " ".join(err.split())
    assert_extended(root, expected["pca3"])
    assert main(command(root, "pca", 3)) == 0
    assert "has these maps already: nothing to do" in " ".join(capsys.readouterr().err.split())
    assert main(["report", str(root), "--json"]) == 0
    assert all("pca3_recall1" in head for head in json.loads(capsys.readouterr().out)["heads"])
    assert main(["verify", str(root)]) == 0


def test_quiet_prints_nothing(root: Path, capfd: pytest.CaptureFixture[str]) -> None:
    for _ in range(2):
        assert main(command(root, "pca", 3, "--quiet")) == 0
        assert capfd.readouterr() == ("", "")


def test_errors_are_said_with_status_1(root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    nowhere = tmp_path / "nowhere"
    for arguments, said in [
        (command(nowhere, "pca", 3), f"error: {nowhere}: no such folder"),
        (command(root, "isomap", 3), "error: Unknown projection 'isomap'; choose among"),
        (command(root, "pca", 2, "--normalise", "none"), "has pca in 2-D already, normalised by 'auto'"),
        (command(root, "pca", 3, "--normalise", "whiten"), "error: Unknown normalisation 'whiten'"),
        (command(root, "pca", 5), "dims of 2, 3 or both"),
    ]:
        assert main(arguments) == 1
        out, err = capsys.readouterr()
        assert out == ""
        assert said in err
        assert "Traceback" not in err
    assert not nowhere.exists()
    assert Index(root).maps == (("pca", 2),)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["project"], "--methods"),
        (["project", "index"], "--methods"),
        (["project", "i", "--methods", "pca", "--dims", "two"], "--dims"),
    ],
)
def test_wrong_usage_is_explained_with_status_2(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as left:
        main(arguments)
    assert left.value.code == 2
    assert said in capsys.readouterr().err


def test_the_command_explains_itself(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        main(["project", "--help"])
    assert left.value.code == 0
    out = capsys.readouterr().out
    assert out.startswith("usage: qkspace project")
    assert all(option in out for option in ("--methods", "--dims", "--normalise", "--n-jobs", "--quiet"))
