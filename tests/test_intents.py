"""The labelled sentences are what their generator writes, balanced, and not to be told apart by one word or mark."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from qkspace import corpus

ROOT = Path(__file__).resolve().parent.parent
FILES = {part: ROOT / "data" / f"intents-{part}.jsonl" for part in ("train", "test")}
GENERATOR = ROOT / "scripts" / "make_intents.py"


@pytest.fixture(scope="module")
def parts() -> dict[str, pd.DataFrame]:
    """The committed files, each with the first word of a sentence and its text without the final mark."""
    tables = {part: pd.read_json(path, lines=True) for part, path in FILES.items()}
    for table in tables.values():
        table["bare"] = table["text"].str.lower().str.rstrip(".?!")
        table["first"] = table["bare"].str.split(r"[ ,]").str[0]
    return tables


def test_generator_reproduces_the_files(tmp_path: Path) -> None:
    """The default seed gives the committed bytes, in a process of its own."""
    subprocess.run([sys.executable, str(GENERATOR), "--out", str(tmp_path)], check=True)
    for path in FILES.values():
        assert (tmp_path / path.name).read_bytes() == path.read_bytes()


def test_check_names_the_changed_file(tmp_path: Path) -> None:
    """`--check` accepts the committed files, and of changed ones names those that are."""
    for path in FILES.values():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    command = [sys.executable, str(GENERATOR), "--check", "--out", str(tmp_path)]
    assert subprocess.run(command, check=False).returncode == 0
    with (tmp_path / "intents-test.jsonl").open("ab") as file:
        file.write(b"\n")
    result = subprocess.run(command, check=False, capture_output=True, text=True)
    assert result.returncode == 1
    assert "intents-test.jsonl" in result.stderr and "intents-train.jsonl" not in result.stderr


def test_labels_and_topics_are_balanced(parts: dict[str, pd.DataFrame]) -> None:
    """Each label has as many sentences of each topic as every other, 50 for training and 10 for testing."""
    for part, count in (("train", 50), ("test", 10)):
        sizes = parts[part].groupby(["label", "topic"]).size()
        assert len(sizes) == 3 * 10 and set(sizes) == {count}


def test_no_sentence_occurs_twice(parts: dict[str, pd.DataFrame]) -> None:
    """No sentence of the test is one of training, not even with another mark or capital."""
    bare = pd.concat([table["bare"] for table in parts.values()])
    assert bare.is_unique


@pytest.mark.parametrize(("column", "most"), [("mark", 0.7), ("first", 0.8), ("topic", 0.34)])
def test_no_single_sign_gives_the_label_away(parts: dict[str, pd.DataFrame], column: str, most: float) -> None:
    """Whoever knows the mark, the first word or the topic, and its commonest label in training, is often wrong."""
    guess = parts["train"].groupby(column)["label"].agg(lambda labels: labels.mode()[0])
    test = parts["test"]
    assert 1 / 3 <= (test[column].map(guess) == test["label"]).mean() <= most


def test_misleading_words_stand_under_every_label(parts: dict[str, pd.DataFrame]) -> None:
    """Question words, `you`, `if` and sentences without a mark are under each label; question marks not only in questions."""
    train = parts["train"]
    for word in ("why", "who", "when", "you", "if"):
        found = train[train["bare"].str.contains(rf"\b{word}\b")]
        assert set(found["label"]) == set(train["label"]), word
    unmarked = train[train["mark"] == "none"]["label"].value_counts(normalize=True)
    assert unmarked.min() > 0.25
    assert set(train[train["text"].str.endswith("?")]["label"]) == {"question", "command"}


def test_qkspace_reads_labels_as_metadata() -> None:
    """The columns colour points: each sequence has its label, topic, construction and mark."""
    rows = list(corpus.read(FILES["test"]))
    assert len(rows) == 300
    assert {"label", "topic", "construction", "mark"} <= set(rows[0].metadata)
    assert {row.metadata["label"] for row in rows} == {"question", "statement", "command"}
