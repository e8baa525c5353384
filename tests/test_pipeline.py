"""Tests of `qkspace.pipeline`: a build that is killed anywhere ends in the index of a build that was not."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from conftest import MakeCheckpoint
from killing import KILLED, OUT_OF_TIME, Driver, assert_same_index, listing

from qkspace import store
from qkspace.cli import main
from qkspace.index import Index
from qkspace.pipeline import build
from qkspace.plan import Parameters
from qkspace.project import METHODS
from qkspace.reading import asked_modality
from qkspace.schema import QKSpaceError


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Driver:
    return Driver(tmp_path_factory.mktemp("driver"), {"extract.UNIT_TOKENS": 600})


def write_corpus(path: Path, sentences: list[str], n_words: int) -> Path:
    """Write real words in lines of unlike length, `n_words` of them."""
    words = " ".join(sentences).split()
    draw = random.Random(0)
    lines, left = [], n_words
    while left > 0:
        n = min(left, draw.randint(3, 40))
        lines.append(" ".join(draw.choices(words, k=n)))
        left -= n
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


@pytest.fixture
def corpus(tmp_path: Path, sentences: list[str]) -> Path:
    path = tmp_path / "corpus.txt"
    path.write_text("\n".join(sentences[:40]) + "\n", encoding="utf-8")
    return path


QUICK: dict[str, Any] = {"methods": ["pca"], "dims": [2], "normalise": "none", "n_jobs": 1}  # the same, of `build`


def arguments(model: Path, corpus: Path, out: Path, *more: str) -> list[str]:
    """Return a command that makes the quickest of maps; what stands in `more` comes last and wins."""
    command = [
        "build",
        "--model",
        str(model),
        "--corpus",
        str(corpus),
        "--out",
        str(out),
        "--n-jobs",
        "1",
        "--methods",
        "pca",
    ]
    return [*command, "--dims", "2", "--normalise", "none", *more]


# ---------------------------------------------------------------------------------------------- killed


def phase(root: Path) -> str:
    """Tell from what is on the disk what a build was at when it was killed."""
    if (root / store.MANIFEST).exists():
        return "end"
    if (root / "sequences.parquet").exists() and any((root / "maps").rglob("*.npy")):
        return "maps"
    if (root / "heads.parquet").exists():
        return "tables"
    if any((root / store.WORK / "units").glob("*.npz")):
        return "extraction"
    if (root / store.WORK / "read.json").exists():
        return "check"
    return "reading" if (root / store.WORK / "corpus" / "ids").exists() else "start"


def test_a_build_killed_at_random_ends_in_the_same_index(
    driver: Driver, tmp_path: Path, make_checkpoint: MakeCheckpoint, sentences: list[str]
) -> None:
    """Each build is killed at random moments of a stage, each time going on from there, until all have been hit."""
    model = make_checkpoint(
        "bert", num_attention_heads=2
    )  # the maps of one of its two layers are written before the other's
    corpus = write_corpus(tmp_path / "corpus.txt", sentences, 3_000)
    expected = tmp_path / "whole"
    more = ("--normalise", "auto")  # maps that take a while
    assert driver.run(arguments(model, corpus, expected, *more)) == 0, driver.log.read_text()
    seconds = driver.seconds()
    draw = random.Random(0)
    kills: list[str] = []
    builds = 0
    while builds < 2 or not {"reading", "extraction", "maps"} <= set(kills):
        builds += 1
        assert builds <= 20, f"too few kills: {kills}"
        out = tmp_path / f"killed-{builds}"
        command = arguments(model, corpus, out, *more)
        for aim in ("reading", "reading", "extraction", "extraction", "extraction", "maps", "maps", "maps"):
            status = driver.run(command, stage=(aim, draw.uniform(0, seconds[aim])))
            if status == 0:
                break
            assert status == OUT_OF_TIME, driver.log.read_text()
            kills.append(phase(out))
        assert driver.run(command) == 0, driver.log.read_text()
        assert_same_index(out, expected)


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory, make_checkpoint: MakeCheckpoint, sentences: list[str]) -> Any:
    """The smallest build that has everything: one layer, two heads, three units; its command but for --out."""
    folder = tmp_path_factory.mktemp("small")
    model = make_checkpoint("bert", num_hidden_layers=1, num_attention_heads=2)
    corpus = write_corpus(folder / "corpus.txt", sentences, 900)

    def command(out: Path) -> list[str]:
        return arguments(model, corpus, out, "--quiet")

    return command


@pytest.fixture(scope="module")
def small_whole(driver: Driver, small: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("small-whole") / "whole"
    assert driver.run(small(out)) == 0
    return out


def test_a_build_killed_before_any_flush_ends_in_the_same_index(
    driver: Driver, small: Any, small_whole: Path, tmp_path: Path
) -> None:
    """Each file is written beside its place, flushed and renamed: the build is killed before every single flush."""
    faults: dict[int, str] = {}
    n = 0
    while True:
        n += 1
        out = tmp_path / f"killed-{n}"
        status = driver.run(small(out), flush=n)
        if status == 0:
            break
        assert status == KILLED, driver.log.read_text()
        assert phase(out) != "end"
        with pytest.raises(QKSpaceError, match=r"not finished|no index"):
            Index(out)
        assert driver.run(small(out)) == 0, driver.log.read_text()
        try:
            assert_same_index(out, small_whole)
        except AssertionError as error:
            faults[n] = str(error).splitlines()[0]
    assert n > 15
    assert not faults  # such as a temporary file that stayed, and that the manifest takes for a part


def killed(
    driver: Driver, command: Callable[[Path], list[str]], folder: Path, when: Callable[[Path], bool], step: int = 0
) -> Path:
    """Return the folder of a build that was killed again and again, until it is as `when` says.

    Once the text is read, every run is killed before its third flush, or each `step` flushes later than the one before.
    """
    out = folder / "killed"
    for n in itertools.chain([9], itertools.count(3, step)):
        assert driver.run(command(out), flush=n) == KILLED
        if when(out):
            break
    return out


def markers(out: Path) -> dict[Path, int]:
    """Return the markers of the finished units, and when each was written."""
    return {path: path.stat().st_mtime_ns for path in sorted((out / store.WORK / "units").glob("*.npz"))}


def test_a_unit_damaged_between_kill_and_resume_is_done_again(
    driver: Driver, small: Any, small_whole: Path, tmp_path: Path
) -> None:
    out = killed(driver, small, tmp_path, lambda out: 2 <= len(markers(out)) < 4)
    for name in ("query", "top_attention"):
        path = out / name / "L00.npy"
        content = bytearray(path.read_bytes())
        content[200] ^= 0xFF  # in the first row, which the first unit wrote
        path.write_bytes(content)
    before = markers(out)
    assert driver.run(small(out), flush=2) == KILLED  # the damaged unit is written anew, and another begun
    assert [markers(out)[path] != written for path, written in before.items()] == [True, *[False] * (len(before) - 1)]
    assert driver.run(small(out)) == 0
    assert_same_index(out, small_whole)


def test_finished_units_and_maps_are_not_done_again(
    driver: Driver, small: Any, small_whole: Path, tmp_path: Path
) -> None:
    out = killed(driver, small, tmp_path, lambda out: any(out.glob("maps/*/*.npz")), step=1)
    kept = [*out.glob("maps/*/*.npz"), *out.glob("*/L00.npy")]
    assert len(kept) >= 6
    before = {path: path.stat().st_mtime_ns for path in kept}
    assert driver.run(small(out)) == 0
    assert {path: path.stat().st_mtime_ns for path in kept} == before
    assert_same_index(out, small_whole)


def test_a_build_killed_after_its_manifest_leaves_no_work_behind(
    driver: Driver, small: Any, small_whole: Path, tmp_path: Path
) -> None:
    # Killed between the manifest and the removal of the work.
    out = tmp_path / "finished"
    assert driver.run(small(out)) == 0
    (out / store.WORK / "corpus").mkdir(parents=True)
    (out / store.WORK / "corpus" / "ids").write_bytes(b"left over")
    assert driver.run(small(out)) == 0
    assert_same_index(out, small_whole)


def test_the_command_itself_is_killed_and_run_again(
    driver: Driver, tmp_path: Path, make_checkpoint: MakeCheckpoint, sentences: list[str]
) -> None:
    """As a user has it: a process of its own, units of their usual size, and several processes for the maps."""
    model = make_checkpoint("bert", num_attention_heads=2)  # of two layers: a process works on heads of one
    corpus = write_corpus(tmp_path / "corpus.txt", sentences, 8_000)
    usual = Driver(tmp_path)
    out, more = tmp_path / "killed", ("--normalise", "auto")
    assert usual.run(arguments(model, corpus, tmp_path / "whole", *more)) == 0, usual.log.read_text()
    command = [sys.executable, "-m", "qkspace.cli", *arguments(model, corpus, out, *more, "--n-jobs", "2")]
    with ExitStack() as stack:
        for _ in range(9):  # on a busy machine the build may end before it is killed
            shutil.rmtree(out, ignore_errors=True)
            killed_in_its_maps(command, out, stack)
            if phase(out) == "maps":
                break
        assert phase(out) == "maps"
        done = subprocess.run(command, check=True, capture_output=True, text=True)
    assert "Going on with the unfinished build" in done.stderr
    assert_same_index(out, tmp_path / "whole")


def killed_in_its_maps(command: list[str], out: Path, stack: ExitStack) -> None:
    """Run a command and kill it at its first map, not the processes it has started: those end with `stack`."""
    streams: dict[str, Any] = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    process = subprocess.Popen(command, start_new_session=True, **streams)
    stack.callback(kill_group, process.pid)
    while phase(out) != "maps" and process.poll() is None:
        time.sleep(0.005)
    process.kill()
    process.wait()


def kill_group(process: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process, signal.SIGKILL)


# ---------------------------------------------------------------------------------------------- the same again, and others


def run(capsys: pytest.CaptureFixture[str], *command: str) -> tuple[int, str]:
    status = main(command)
    return status, capsys.readouterr().err


def test_two_builds_give_the_same_bytes(tmp_path: Path, make_checkpoint: MakeCheckpoint, corpus: Path) -> None:
    """The maps of one are made in this process, those of the other in two more: how many there were decides nothing."""
    model = str(make_checkpoint("llama", num_attention_heads=2, num_key_value_heads=1))
    first, second = tmp_path / "first", tmp_path / "second"
    for out, n_jobs in ((first, 1), (second, 2)):
        build(model, corpus, out=out, n_jobs=n_jobs, max_tokens=500, dims=[2])
    assert_same_index(second, first)


def test_the_same_command_again_finds_nothing_to_do(
    tmp_path: Path, make_checkpoint: MakeCheckpoint, corpus: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = arguments(make_checkpoint("bert"), corpus, tmp_path / "index")
    assert main(command) == 0
    before = {p: (p.stat().st_mtime_ns, p.stat().st_ino) for p in (tmp_path / "index").rglob("*")}
    capsys.readouterr()
    status, said = run(capsys, *command)
    assert status == 0
    assert "already built: nothing to do" in said
    assert {p: (p.stat().st_mtime_ns, p.stat().st_ino) for p in (tmp_path / "index").rglob("*")} == before


@pytest.fixture(scope="module")
def standing(tmp_path_factory: pytest.TempPathFactory, make_checkpoint: MakeCheckpoint, sentences: list[str]) -> Any:
    """Commands, by whether their index is finished. Only to be refused."""
    folder = tmp_path_factory.mktemp("standing")
    corpus = folder / "corpus.txt"
    corpus.write_text("\n".join(sentences[:40]) + "\n", encoding="utf-8")
    commands = {done: arguments(make_checkpoint("bert"), corpus, folder / str(done)) for done in (True, False)}
    assert main(commands[True]) == 0
    with pytest.MonkeyPatch.context() as patch, pytest.raises(ZeroDivisionError):
        patch.setattr(store, "file_records", lambda root: 1 / 0)
        main(commands[False])
    return commands


@pytest.mark.parametrize("finished", [True, False])
@pytest.mark.parametrize(
    ("change", "named"),
    [
        (["--seed", "5"], "seed was 0, now 5"),
        (["--max-tokens", "200"], "max_tokens was None, now 200"),
        (["--dims", "3"], r"dims was 2, now 3"),
        (["--storage", "float32"], "storage was 'float16', now 'float32'"),
    ],
)
def test_other_parameters_are_refused_by_name(
    change: list[str], named: str, finished: bool, standing: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    command = standing[finished]
    out = Path(command[command.index("--out") + 1])
    assert (out / store.MANIFEST).exists() == finished
    before = listing(out)
    capsys.readouterr()
    status, said = run(capsys, *command, *change)
    assert status == 1
    assert re.search(named, said)
    assert str(out) in said
    assert "--overwrite, or another --out" in said
    assert listing(out) == before


@pytest.mark.parametrize("what", ["model", "corpus", "weights"])
def test_another_model_or_corpus_is_refused(
    what: str, tmp_path: Path, make_checkpoint: MakeCheckpoint, corpus: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # "weights" is a checkpoint that was trained on in its folder.
    first, second = make_checkpoint("bert"), make_checkpoint("bert", seed=1)
    model = tmp_path / "model"
    shutil.copytree(first, model)
    command = arguments(model, corpus, tmp_path / "index")
    assert main(command) == 0
    capsys.readouterr()
    if what == "model":
        command[2] = str(second)
    elif what == "corpus":
        corpus.write_text("Another text.\nIn the same file.\n")
    else:
        shutil.copy(second / "model.safetensors", model / "model.safetensors")
    status, said = run(capsys, *command)
    assert status == 1
    assert "is an index of something else" in said
    assert {"weights": "model"}.get(what, what) + " was" in said  # weights are a part of the model


def test_an_unfinished_build_does_not_go_on_with_other_weights(
    tmp_path: Path, make_checkpoint: MakeCheckpoint, corpus: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tmp_path / "model"
    shutil.copytree(make_checkpoint("bert"), model)
    out = tmp_path / "index"
    with monkeypatch.context() as patch, pytest.raises(ZeroDivisionError):
        patch.setattr(store, "file_records", lambda root: 1 / 0)
        build(str(model), corpus, out=out, **QUICK)
    shutil.copy(make_checkpoint("bert", seed=1) / "model.safetensors", model / "model.safetensors")
    with pytest.raises(QKSpaceError, match="something else"):
        build(str(model), corpus, out=out, **QUICK)


def test_overwrite_replaces(tmp_path: Path, make_checkpoint: MakeCheckpoint, corpus: Path) -> None:
    out, fresh = tmp_path / "index", tmp_path / "fresh"
    model = str(make_checkpoint("bert"))
    build(model, corpus, out=out, **{**QUICK, "dims": [2, 3]})
    build(model, corpus, out=out, seed=3, max_tokens=300, overwrite=True, **QUICK)
    build(model, corpus, out=fresh, seed=3, max_tokens=300, **QUICK)
    assert_same_index(out, fresh)


def test_overwrite_leaves_a_sound_index_of_the_same_and_replaces_a_damaged_one(
    tmp_path: Path, make_checkpoint: MakeCheckpoint, corpus: Path
) -> None:
    model, out = str(make_checkpoint("bert")), tmp_path / "index"
    index = build(model, corpus, out=out, max_tokens=300, **QUICK)
    written = (out / "manifest.json").stat().st_mtime_ns
    build(model, corpus, out=out, max_tokens=300, overwrite=True, **QUICK)
    assert (out / "manifest.json").stat().st_mtime_ns == written
    (out / "query" / "L00.npy").write_bytes(b"damaged")
    build(model, corpus, out=out, max_tokens=300, overwrite=True, **QUICK)
    assert store.verify(out) == []
    assert index.manifest["files"] == Index(out).manifest["files"]


def test_overwrite_goes_on_with_its_own_unfinished_build(driver: Driver, small: Any, tmp_path: Path) -> None:
    # The message of an interrupted build says to run the same command again, and --overwrite may be in it.
    out = killed(driver, lambda out: [*small(out), "--overwrite"], tmp_path, lambda out: 2 <= len(markers(out)) < 4)
    before = markers(out)
    assert driver.run([*small(out), "--overwrite"], flush=1) == KILLED
    assert {path: written for path, written in markers(out).items() if path in before} == before


# ---------------------------------------------------------------------------------------------- what is stored


def test_max_tokens_stores_whole_sequences_and_the_seed_chooses_them(
    tmp_path: Path, make_checkpoint: MakeCheckpoint, corpus: Path
) -> None:
    model = str(make_checkpoint("llama"))
    whole = build(model, corpus, out=tmp_path / "whole", storage="float32", **QUICK)
    options: dict[str, Any] = {**QUICK, "storage": "float32", "max_tokens": 400}
    parts = [build(model, corpus, out=tmp_path / str(i), seed=seed, **options) for i, seed in enumerate((0, 0, 1))]
    chosen = [set(part.sequences["sequence"]) for part in parts]
    assert chosen[0] == chosen[1] != chosen[2]
    longest = int(whole.sequences["n_tokens"].max())
    for part, sequences in zip(parts, chosen, strict=True):
        assert 400 - longest < part.n_tokens <= 400
        assert part.n_tokens == len(part.tokens)
        expected = whole.tokens[whole.tokens["sequence"].isin(sequences)]
        pd.testing.assert_frame_equal(part.tokens, expected.reset_index(drop=True))
        kept = expected.index.to_numpy()
        for layer in range(2):
            np.testing.assert_array_equal(part.head(layer, 3).query, whole.head(layer, 3).query[kept])
            np.testing.assert_array_equal(part.head(layer, 3).key, whole.head(layer, 3).key[kept])
        found, all_of_it = part.head_table(), whole.head_table()
        statistics = [name for name in all_of_it if not name.startswith("pca")]
        pd.testing.assert_frame_equal(found[statistics], all_of_it[statistics])  # over all that was read


@pytest.mark.parametrize("seed", range(4))
def test_max_tokens_stores_what_fits_whichever_sequence_is_drawn_first(
    seed: int, tmp_path: Path, make_checkpoint: MakeCheckpoint, sentences: list[str]
) -> None:
    # One of the four seeds draws first a sequence that is too long: the others fit all the same.
    corpus = tmp_path / "corpus.txt"
    corpus.write_text("\n".join([*[" ".join(sentences[:3])] * 3, "Seal it.", "No.", "A bat flew."]) + "\n")
    index = build(
        str(make_checkpoint("bert")),
        corpus,
        out=tmp_path / "i",
        seed=seed,
        max_tokens=25,
        **QUICK,
    )
    assert 0 < index.n_tokens <= 25


def test_maps_are_scored_on_sequences_they_were_not_fitted_on(small_index: Index, decoder_index: Index) -> None:
    for index in (small_index, decoder_index):
        fold = index.sequences["fold"]
        assert set(fold) <= {"fit", "score", "neither"}
        fitted, scored = (set(index.sequences["sequence"][fold == name]) for name in ("fit", "score"))
        assert fitted
        assert scored
        assert not fitted & scored
        share = index.sequences["n_tokens"][fold == "score"].sum() / index.n_tokens
        assert 0.1 < share < 0.4
        scores = index.head(0, 0).projection("pca", 2).scores
        assert scores is not None
        assert scores.n_sequences == len(scored)
        assert scores.n_queries == index.sequences["n_tokens"][fold == "score"].sum()


def test_the_map_does_not_see_what_is_held_out(tmp_path: Path, make_checkpoint: MakeCheckpoint, corpus: Path) -> None:
    """Fit the maps again by hand on the rows of fold "fit" alone: the stored projection is that one."""
    from qkspace import project
    from qkspace.normalise import normalise
    from qkspace.schema import HeadSample

    index = build(str(make_checkpoint("bert")), corpus, out=tmp_path / "index", methods=["pca"], dims=[2], n_jobs=1)
    fit = index.sequences[index.sequences["fold"] == "fit"]["sequence"]
    parts = [index.rows(sequence) for sequence in fit]
    rows = np.concatenate([np.arange(part.start, part.stop) for part in parts])
    starts = np.concatenate([[0], np.cumsum([part.stop - part.start for part in parts])])
    head = index.head(1, 2)
    content = ~index.tokens["is_special"].to_numpy()[rows]
    sample = HeadSample(head.query[rows], head.key[rows], starts, content, head.spec)
    gauge = normalise(sample, dims=2)
    projection = project.fit("pca", gauge.apply_to(sample), dims=2, seed=0)
    expected = projection.transform(*gauge.apply(head.query, head.key))
    view = head.projection("pca", 2)
    np.testing.assert_allclose(view.query, expected.query, atol=1e-4)
    np.testing.assert_allclose(view.key, expected.key, atol=1e-4)


def test_a_single_sequence_is_mapped_but_not_scored(tmp_path: Path, make_checkpoint: MakeCheckpoint) -> None:
    corpus = tmp_path / "one.txt"
    corpus.write_text("She left her savings in the bank and her shoes on the bank.\n")
    index = build(str(make_checkpoint("bert")), corpus, out=tmp_path / "index", methods=["pca"], dims=[2], n_jobs=1)
    view = index.head(0, 0).projection("pca", 2)
    assert view.scores is None
    assert view.query.shape == (index.n_tokens, 2)
    assert list(index.sequences["fold"]) == ["fit"]


def test_several_corpora_are_told_apart(small_index: Index, small_corpus: tuple[Path, Path]) -> None:
    parsed, plain = small_corpus
    names = small_index.sequences["corpus"]
    assert names.value_counts().to_dict() == {parsed.name: 40, plain.name: 20}
    assert set(small_index.tokens["corpus"]) == {parsed.name, plain.name}
    first_plain = small_index.sequences[names == plain.name].iloc[0]
    assert first_plain["text"] == plain.read_text(encoding="utf-8").splitlines()[0]
    upos = small_index.tokens["upos"]
    assert upos[(small_index.tokens["corpus"] == plain.name)].isna().all()  # plain text has no trees
    assert upos[(small_index.tokens["corpus"] == parsed.name) & ~small_index.tokens["is_special"]].notna().all()


def test_columns_of_the_corpus_are_not_lost_to_our_own(tmp_path: Path, make_checkpoint: MakeCheckpoint) -> None:
    # "fold" and "corpus" are also names that the index gives.
    files = [tmp_path / "a.jsonl", tmp_path / "b.jsonl"]
    for path in files:
        record = {"text": "The bank by the river was closed.", "fold": "mine", "corpus": "Brown"}
        path.write_text((json.dumps(record) + "\n") * 3)
    index = build(str(make_checkpoint("bert")), files, out=tmp_path / "index", **QUICK)
    values = {name: set(index.sequences[name].astype(str)) for name in index.sequences}
    assert {"mine"} in values.values()
    assert {"Brown"} in values.values()
    assert values["fold"] <= {"fit", "score", "neither"}
    assert values["corpus"] == {"a.jsonl", "b.jsonl"}


# ---------------------------------------------------------------------------------------------- said in words


def bad_byte(folder: Path) -> Path:
    path = folder / "latin.txt"
    path.write_bytes(b"one line\nna\xefve\n")
    return path


def empty(folder: Path) -> Path:
    path = folder / "empty.txt"
    path.write_text("\n \n\n")
    return path


def odd_suffix(folder: Path) -> Path:
    path = folder / "notes.xyz"
    path.write_text("words")
    return path


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (empty, [r"empty\.txt: no sequence with a token in it"]),
        (lambda folder: folder / "nowhere.txt", [r"nowhere\.txt: no such file", "Check the path"]),
        (bad_byte, [r"latin\.txt", "line 2|byte", "--encoding"]),
        (odd_suffix, [r"notes\.xyz: the suffix '\.xyz'", "--format, one of text"]),
    ],
    ids=["no token", "missing", "undecodable", "unknown suffix"],
)
def test_a_corpus_that_cannot_be_used_is_named_with_the_remedy(
    make: Callable[[Path], Path],
    expected: list[str],
    tmp_path: Path,
    make_checkpoint: MakeCheckpoint,
    capsys: pytest.CaptureFixture[str],
) -> None:
    status, said = run(capsys, *arguments(make_checkpoint("bert"), make(tmp_path), tmp_path / "index"))
    assert status == 1
    assert "Traceback" not in said
    for pattern in expected:
        assert re.search(pattern, said)


def test_a_build_that_was_refused_can_be_run_again_when_its_corpus_is_mended(
    tmp_path: Path, make_checkpoint: MakeCheckpoint, capsys: pytest.CaptureFixture[str], corpus: Path
) -> None:
    # The refused attempt read nothing and stored nothing, so it is nothing to protect.
    bad = bad_byte(tmp_path)
    command = arguments(make_checkpoint("bert"), bad, tmp_path / "index")
    assert run(capsys, *command)[0] == 1
    bad.write_bytes(corpus.read_bytes())
    status, said = run(capsys, *command)
    assert status == 0, said


@pytest.mark.parametrize(
    ("damage", "expected"),
    [
        (lambda model: (model / "model.safetensors").unlink(), "could not be loaded"),
        (lambda model: os.truncate(model / "model.safetensors", 3000), "could not be loaded"),
        (lambda model: (model / "config.json").write_text("{"), "could not be loaded"),
        (lambda model: (model / "tokenizer.json").unlink(), "no tokenizer"),
    ],
    ids=["no weights", "cut weights", "broken config", "no tokenizer"],
)
def test_a_checkpoint_that_cannot_be_loaded_is_named(
    damage: Callable[[Path], Any],
    expected: str,
    tmp_path: Path,
    make_checkpoint: MakeCheckpoint,
    corpus: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    model = tmp_path / "model"
    shutil.copytree(make_checkpoint("bert"), model)
    damage(model)
    status, said = run(capsys, *arguments(model, corpus, tmp_path / "index"))
    assert status == 1
    assert f"--model {model}" in said
    assert expected in said


def test_a_folder_that_is_not_there_is_no_name_on_the_hub(
    tmp_path: Path, corpus: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    status, said = run(capsys, *arguments(tmp_path / "nowhere", corpus, tmp_path / "index"))
    assert status == 1
    assert f"--model {tmp_path}/nowhere: no such folder. Give a folder with config.json" in said


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        (["--methods", "pca,tsne2"], "Unknown projection 'tsne2'; choose among unfold"),
        (["--max-tokens", "0"], "max_tokens must be at least 1; got 0"),
        (["--normalise", "spheer"], "Unknown normalisation 'spheer'; choose"),
        (["--max-length", "2"], "no room for text"),
        (["--max-tokens", "3"], "--max-tokens 3 is less than"),
    ],
)
def test_a_wrong_value_is_refused_before_anything_is_captured(
    more: list[str],
    expected: str,
    tmp_path: Path,
    make_checkpoint: MakeCheckpoint,
    corpus: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    status, said = run(capsys, *arguments(make_checkpoint("bert"), corpus, tmp_path / "index", *more))
    assert status == 1
    assert expected in said
    assert not (tmp_path / "index" / "query").exists()


def test_a_number_of_dimensions_that_cannot_be_drawn_is_refused(tmp_path: Path, corpus: Path) -> None:
    with pytest.raises(QKSpaceError, match=r"dims of 2, 3 or both; got .*4"):
        build("model", corpus, out=tmp_path / "index", dims=[4])


def test_unknown_options_list_the_choices(tmp_path: Path, corpus: Path) -> None:
    with pytest.raises(QKSpaceError, match=r"Unknown option maxtokens; choose among methods, dims, .*max_tokens"):
        build("model", corpus, out=tmp_path / "index", maxtokens=5)


def test_a_file_in_the_place_of_the_index_is_said(
    tmp_path: Path, make_checkpoint: MakeCheckpoint, corpus: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "letter.txt"
    out.write_text("dear")
    for more in ([], ["--overwrite"]):
        status, said = run(capsys, *arguments(make_checkpoint("bert"), corpus, out, *more))
        assert status == 1
        assert f"{out}: " in said
        assert "no such folder" not in said
        assert out.read_text() == "dear"


def test_a_damaged_index_is_named_with_the_remedy(
    tmp_path: Path, make_checkpoint: MakeCheckpoint, corpus: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "index"
    command = arguments(make_checkpoint("bert"), corpus, out)
    assert main(command) == 0
    sound = listing(out)
    for name in ("heads.parquet", "maps/pca2/scores.parquet", "manifest.json"):
        (out / name).write_bytes(sound[name][: len(sound[name]) // 2])
        capsys.readouterr()
        status, said = run(capsys, "report", str(out))
        assert status == 1
        assert f"{out / name}: " in said
        assert "damaged" in said
        assert "verify" in said or "--overwrite" in said
        (out / name).write_bytes(sound[name])
    (out / "maps/pca2/L01H02.npz").unlink()
    status, said = run(capsys, *command)  # "nothing to do" would be wrong
    assert status == 1
    assert "maps/pca2/L01H02.npz" in said
    assert "--overwrite" in said
    assert main([*command, "--overwrite"]) == 0
    assert listing(out).keys() == sound.keys()


def test_maps_normalised_as_attentionviz_does_are_its_own() -> None:
    p = Parameters(methods=("pca", "tsne", "unfold"), dims=(2,), normalise="attentionviz")
    assert p.maps == [("attentionviz-pca", 2), ("attentionviz-tsne", 2), ("unfold", 2)]
    assert METHODS["attentionviz-pca"].gauge == "attentionviz"
    assert Parameters(methods=("pca", "tsne"), dims=(2,)).maps == [("pca", 2), ("tsne", 2)]


def test_more_tokens_than_the_model_has_positions_for_are_refused(
    tmp_path: Path, make_checkpoint: MakeCheckpoint, corpus: Path
) -> None:
    with pytest.raises(QKSpaceError, match=r"--max-length 500: BertModel has a context of 128 tokens"):
        build(str(make_checkpoint("bert")), corpus, out=tmp_path / "bert", max_length=500, **QUICK)
    rotary = build(str(make_checkpoint("llama")), corpus, out=tmp_path / "llama", max_length=300, **QUICK)
    assert rotary.manifest["corpus"]["max_length"] == 300  # positions that are turned go on and on


def test_images_are_no_texts(tmp_path: Path, make_checkpoint: MakeCheckpoint) -> None:
    (tmp_path / "images" / "cats").mkdir(parents=True)
    (tmp_path / "images" / "cats" / "one.png").write_bytes(b"")
    with pytest.raises(QKSpaceError, match=r"these are images, and BertModel reads text"):
        build(str(make_checkpoint("bert")), tmp_path / "images", out=tmp_path / "out")


def test_what_was_refused_after_reading_does_not_stand_in_the_way(
    tmp_path: Path, make_checkpoint: MakeCheckpoint, corpus: Path
) -> None:
    out, model = tmp_path / "out", str(make_checkpoint("bert"))
    with pytest.raises(QKSpaceError, match=r"no vectors before rotary positions"):
        build(model, corpus, out=out, before_rope=True, **QUICK)
    assert build(model, corpus, out=out, **QUICK).n_layers == 2


def test_a_picture_beside_texts_does_not_make_them_images(
    tmp_path: Path, make_checkpoint: MakeCheckpoint, sentences: list[str]
) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / "logo.png").write_bytes(b"")
    rows = "\n".join(json.dumps({"text": sentence}) for sentence in sentences[:6])
    (folder / "train.jsonl").write_text(rows, encoding="utf-8")
    index = build(str(make_checkpoint("bert")), folder / "train.jsonl", out=tmp_path / "out", **QUICK)
    assert len(index.sequences) == 6
    assert asked_modality([str(folder)], Parameters()) is None
    (folder / "train.jsonl").unlink()
    assert asked_modality([str(folder)], Parameters()) == "image"
