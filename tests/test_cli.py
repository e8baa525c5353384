"""Tests of the command line: results on standard output, errors in words, and an exit status for programs."""

from __future__ import annotations

import io
import json
import math
import shutil
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from conftest import REPOSITORY, MakeCheckpoint

import qkspace
from qkspace.cli import build_main, main
from qkspace.index import Index
from qkspace.report import SCORE_TITLES

COMMANDS = ["build", "compare", "project", "report", "export", "verify", "serve", "models"]


@pytest.fixture
def index_copy(decoder_index: Index, tmp_path: Path) -> Path:
    root = tmp_path / "index"
    shutil.copytree(decoder_index.root, root)
    return root


@pytest.fixture
def build_command(make_checkpoint: MakeCheckpoint, tmp_path: Path, sentences: list[str]) -> list[str]:
    corpus = tmp_path / "corpus.txt"
    corpus.write_text("\n".join(sentences[:12]) + "\n", encoding="utf-8")
    command = [
        "build",
        "--model",
        str(make_checkpoint("bert")),
        "--corpus",
        str(corpus),
        "--out",
        str(tmp_path / "out"),
    ]
    return [*command, "--methods", "pca", "--dims", "2", "--n-jobs", "1", "--normalise", "none"]


def qkspace_command(*arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "qkspace.cli", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, **options)


# ---------------------------------------------------------------------------------------------- report


def test_the_report_prints_every_score_of_every_head(small_index: Index, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", str(small_index.root)]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert f"{small_index.n_layers} layers x {small_index.n_heads} heads, d_head {small_index.d_head}" in out
    assert f"stored {small_index.n_tokens:,} tokens of 60 sequences" in out
    table = small_index.head_table().set_index(["layer", "head"])
    for dims in (2, 3):
        part = (
            out[out.index(f"pca in {dims}-D") :].split("pca in 3-D")[0] if dims == 2 else out[out.index("pca in 3-D") :]
        )
        for title in SCORE_TITLES.values():
            assert title in part
        rows = {cells[0]: cells for line in part.splitlines() if len(cells := line.replace("│", " ").split()) > 3}
        for (layer, head), scores in table.iterrows():
            cells = rows[f"L{layer}H{head}"]
            assert cells[1] == f"{scores[f'pca{dims}_recall1']:.3f}"
            assert cells[-1] in ("good", "fair", "poor")
        assert rows["mean"][1] == f"{table[f'pca{dims}_recall1'].mean():.3f}"


def test_the_report_as_json_has_every_head_and_every_score(
    small_index: Index, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["report", str(small_index.root), "--json"]) == 0
    out, err = capsys.readouterr()
    assert err == ""

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    found = json.loads(out, parse_constant=refuse)  # NaN and Infinity are not JSON, though Python reads them
    table = small_index.head_table()
    assert [(h["layer"], h["head"]) for h in found["heads"]] == list(zip(table["layer"], table["head"], strict=True))
    for record, row in zip(found["heads"], table.to_dict("records"), strict=True):
        assert record.keys() == row.keys()
        for name, value in row.items():
            assert record[name] is None if math.isnan(value) else record[name] == value
    assert found["model"]["class"] == "BertModel"
    assert found["corpus"]["n_tokens_stored"] == small_index.n_tokens
    assert "files" not in found


def test_scores_that_are_undefined_are_null(build_command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """Three sequences of one word: no row has three content keys, so recall3_content is nan for every head."""
    Path(build_command[4]).write_text("bank\nbank\nbat\n")
    assert main([*build_command, "--quiet"]) == 0
    assert main(["report", build_command[6], "--json"]) == 0
    heads = json.loads(capsys.readouterr().out)["heads"]
    assert all(head["pca2_recall3_content"] is None for head in heads)
    assert main(["report", build_command[6]]) == 0
    assert " - " in capsys.readouterr().out


def test_the_report_says_what_the_projection_loses_and_how_sure_a_score_is(
    small_index: Index, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["report", str(small_index.root)]) == 0
    plain = capsys.readouterr().out
    assert main(["report", str(small_index.root), "--intervals"]) == 0
    sure = capsys.readouterr().out
    assert all(len(line) <= 120 for line in (plain + sure).splitlines() if line.startswith(("│", "┃")))
    scores = small_index.head(2, 3).projection("pca", 2).scores
    assert scores is not None
    found = [
        next(line for line in out.splitlines() if line.startswith("│ L2H3 ")).replace("│", " ").split()
        for out in (plain, sure)
    ]
    assert found[0][-2] == f"{scores.no_map_recall1:.3f}"
    assert found[1][1] == f"{scores.recall1_low:.2f}-{scores.recall1_high:.2f}"
    assert f" {scores.spearman_low:.2f} to {scores.spearman_high:.2f} " in " ".join(found[1])
    assert found[0][-1] == found[1][-1]


def test_a_head_that_is_not_mapped_is_reported_with_the_reason(
    unmapped_index: Index, capsys: pytest.CaptureFixture[str]
) -> None:
    reason = "7 of 9 of its query and key vectors hold nan or infinity"
    assert main(["report", str(unmapped_index.root)]) == 0
    out = capsys.readouterr().out
    assert f"L1H2 is not mapped: {reason}" in out
    rows = [line for line in out.splitlines() if "not mapped" in line and line.startswith("│")]
    assert [line.replace("│", " ").split()[0] for line in rows] == ["L1H2"]
    assert "nan " not in out.replace(reason, "")
    assert main(["report", str(unmapped_index.root), "--json"]) == 0
    heads = json.loads(capsys.readouterr().out)["heads"]
    assert [(h["layer"], h["head"]) for h in heads if "pca2_reason" in h] == [(1, 2)]
    bad = next(h for h in heads if "pca2_reason" in h)
    assert bad["pca2_reason"] == reason
    assert bad["pca2_recall1"] is bad["pca2_recall1_low"] is bad["pca2_no_map_recall1"] is None


def test_an_index_of_one_sequence_is_reported_without_scores(
    build_command: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    Path(build_command[4]).write_text("She left her savings in the bank.\n")
    assert main([*build_command, "--quiet"]) == 0
    assert main(["report", build_command[6], "--json"]) == 0
    heads = json.loads(capsys.readouterr().out)["heads"]
    assert len(heads) == 8
    assert all(head.get("pca2_recall1") is None for head in heads)
    assert main(["report", build_command[6]]) == 0
    out = capsys.readouterr().out
    assert "1 sequences read" in out
    assert "not scored" in out
    assert "nan" not in out


@pytest.mark.parametrize("command", ["report", "verify", "serve"])
def test_a_folder_that_is_no_index_is_said(command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for folder in (tmp_path, tmp_path / "nowhere"):
        assert main([command, str(folder)]) == 1
        out, err = capsys.readouterr()
        assert out == ""
        assert err.startswith(f"error: {folder}: ")
        assert "qkspace build" in err


def test_a_reader_that_goes_away_is_no_error(small_index: Index) -> None:
    report = f"'{sys.executable}' -m qkspace.cli report '{small_index.root}' --json"
    command = f"{report} | head -c 10 > /dev/null; echo ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=True)
    assert done.stderr == ""
    assert done.stdout == "0\n"


# ---------------------------------------------------------------------------------------------- verify


def test_verify_tells_a_sound_index_from_a_damaged_one(index_copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", str(index_copy)]) == 0
    out, err = capsys.readouterr()
    n_files = sum(path.is_file() for path in index_copy.rglob("*")) - 1
    assert out == f"{index_copy}: sound, {n_files} files are what the manifest says\n"
    assert err == ""
    path = index_copy / "key" / "L01.npy"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    (index_copy / "tokens.parquet").unlink()
    assert main(["verify", str(index_copy)]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines() == [
        f"error: {index_copy}: key/L01.npy: its content changed (sha256 differs)",
        f"error: {index_copy}: tokens.parquet: missing",
        "Make it again with the command that made it and --overwrite.",
    ]


def test_verify_does_not_ask_for_a_new_build_where_only_more_maps_were_left_unfinished(
    index_copy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = index_copy / "maps" / "joint-pca2"
    folder.mkdir()
    (folder / "common.npz").write_bytes(b"whole, but of maps that are not all there")
    assert main(["verify", str(index_copy)]) == 1
    err = " ".join(capsys.readouterr().err.split())
    assert "maps/joint-pca2/common.npz: not in the manifest" in err
    assert "qkspace project" in err and "--overwrite" not in err


# ---------------------------------------------------------------------------------------------- usage


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        main([command, "--help"])
    assert left.value.code == 0
    out = capsys.readouterr().out
    assert out.startswith(f"usage: qkspace {command}")
    assert "--quiet" in out
    with pytest.raises(SystemExit):
        main(["--help"])
    assert command in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "COMMAND"),
        (["paint"], "invalid choice: 'paint'"),
        (["report"], "index"),
        (["build", "--model", "./no-folder"], "--corpus, --out"),
        (["build", "--model", "./no-folder", "--corpus", "c", "--out", "o", "--dims", "two"], "--dims"),
        (["build", "--model", "./no-folder", "--corpus", "c", "--out", "o", "--max-tokens", "many"], "--max-tokens"),
        (
            ["build", "--model", "./no-folder", "--corpus", "c", "--out", "o", "--storage", "int8"],
            "'float16', 'float32'",
        ),
        (["build", "--model", "./no-folder", "--corpus", "c", "--out", "o", "--max-tok", "5"], "--max-tok"),
        (["serve", "--port", "http"], "--port"),
    ],
)
def test_wrong_usage_is_explained_with_status_2(
    arguments: list[str],
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as left:
        main(arguments)
    assert left.value.code == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert said in err
    assert "_numbers" not in err  # names of our own functions mean nothing to a user


def test_the_version_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        main(["--version"])
    assert left.value.code == 0
    assert capsys.readouterr().out == f"qkspace {qkspace.__version__}\n"


def test_an_interruption_is_said_with_status_130(
    build_command: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupt(*arguments: object, **options: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("qkspace.pipeline.build", interrupt)
    assert main(build_command) == 130
    assert "run the same command again" in capsys.readouterr().err


# ---------------------------------------------------------------------------------------------- build


def test_quiet_prints_nothing(build_command: list[str], capfd: pytest.CaptureFixture[str]) -> None:
    assert main([*build_command, "--quiet"]) == 0
    assert capfd.readouterr() == ("", "")
    assert main([*build_command, "--quiet"]) == 0  # nothing to do is nothing to say
    assert capfd.readouterr() == ("", "")


def test_a_build_says_where_it_is_and_what_to_do_next(
    build_command: list[str], capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    assert main([*build_command, "--verbose"]) == 0
    out, err = capfd.readouterr()
    assert out == ""  # progress is no result
    for said in ("Reading corpus.txt", "Check passed", "Capturing queries and keys", "Mapping heads", "qkspace serve"):
        assert said in err
    assert "Traceback" not in err


def test_a_corpus_comes_through_standard_input(
    build_command: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    text = Path(build_command[4]).read_text(encoding="utf-8")
    assert main([*build_command, "--quiet"]) == 0
    from_file = Index(build_command[6])
    build_command[4], build_command[6] = "-", str(tmp_path / "piped")
    done = qkspace_command(*build_command, "--quiet", input=text)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    piped = Index(build_command[6])
    assert piped.sequences["text"].tolist() == from_file.sequences["text"].tolist() == text.splitlines()
    assert (piped.head(1, 2).query == from_file.head(1, 2).query).all()
    capsys.readouterr()
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"Quite another text.\n")))
    assert main(build_command) == 1  # must not pass for "already built"
    assert "--overwrite, or another --out" in capsys.readouterr().err


def test_the_script_is_the_same_command(build_command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    script = [sys.executable, str(REPOSITORY / "scripts" / "build_index.py")]
    done = subprocess.run([*script, "--help"], capture_output=True, text=True, check=True)
    with pytest.raises(SystemExit):
        main(["build", "--help"])
    assert "--corpus" in done.stdout
    assert set(done.stdout.split()) == set(capsys.readouterr().out.split())
    assert build_main([*build_command[1:], "--quiet"]) == 0
    assert Index(build_command[6]).n_layers == 2


# ---------------------------------------------------------------------------------------------- serve


@pytest.mark.parametrize("address", ["localhost", "127.0.0.1"])
def test_a_taken_port_is_said(address: str, small_index: Index, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert main(["serve", str(small_index.root), "--port", str(port), "--address", address]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert f"Port {port} is taken by another program. Choose another with --port" in err


def test_nothing_to_serve_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["serve", "--port", "0"]) == 1
    assert "Make one with `qkspace build`" in capsys.readouterr().err
