"""Numbers where they are read: axes of pictures in space, tables of a matrix, and bars of progress."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from qkspace.console import Console
from qkspace.index import Index
from qkspace.live import LiveModel
from qkspace.matrix import matrix_of, received
from qkspace.matrix_picture import Style, matrix_picture
from qkspace.schema import QKSpaceError

TEXT = 'A "small", red\nboat.'


@pytest.mark.parametrize("style", ["bars", "scatter"])
def test_a_picture_in_space_is_in_per_cent(small_index: Index, style: Style) -> None:
    """Heights stay shares of 1; the axis calls them what the page does."""
    figure = matrix_picture(matrix_of(small_index, 3), style)
    figure.canvas.draw()
    axis = figure.axes[0].zaxis  # type: ignore[attr-defined]
    said = [label.get_text() for label in axis.get_ticklabels()]
    assert all(text.endswith(" %") for text in said)
    shares = [float(text.removesuffix(" %")) / 100 for text in said]
    np.testing.assert_allclose(shares, axis.get_majorticklocs(), atol=5e-3)


@pytest.mark.parametrize("name", ["small_index", "decoder_index"])
def test_the_table_of_a_typed_sentence_is_its_matrix(name: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    """Each pair that a query may attend to has a row, none is twice, and a file gives back the same."""
    index: Index = request.getfixturevalue(name)
    live = LiveModel.of(index).run(TEXT)
    picture = index.matrix(live, layer=1, head=2)
    table, expected = picture.table(), live.attention(1, 2)
    n = len(live.tokens)
    assert len(table) == (n * (n + 1) // 2 if index.layers[1].causal else n * n)
    assert not table.duplicated(["query", "key"]).any()
    np.testing.assert_array_equal(table["attention"], expected[table["query"], table["key"]])
    np.testing.assert_allclose(table.groupby("query")["attention"].sum(), 1, atol=1e-5)
    texts = live.tokens["text"].astype(str).to_numpy()
    for side in ("query", "key"):
        assert table[f"{side}_text"].tolist() == texts[table[side]].tolist()
    again = pd.read_csv(picture.save(tmp_path / "matrix.csv"), keep_default_na=False)
    pd.testing.assert_frame_equal(again, table, check_dtype=False)
    with pytest.raises(QKSpaceError, match="must end in"):
        picture.save(tmp_path / "matrix.txt")


def test_the_table_of_some_tokens_names_their_places_in_the_sequence(small_index: Index) -> None:
    found = matrix_of(small_index, 3, tokens=(2, 5)).table()
    whole = matrix_of(small_index, 3).table()
    part = whole[whole["query"].between(2, 4) & whole["key"].between(2, 4)]
    pd.testing.assert_frame_equal(found, part.reset_index(drop=True))


def test_the_table_of_what_tokens_receive_is_what_is_drawn(small_index: Index, tmp_path: Path) -> None:
    picture = small_index.matrix(3, "received")
    pd.testing.assert_frame_equal(picture.table(), received(matrix_of(small_index, 3)))
    assert picture.save(tmp_path / "received.svg").read_text(encoding="utf-8").startswith("<?xml")


LABEL = "Relations: choosing heads on [the] corpus"
MOST = 1_234_567


def _bar(total: int | None, capsys: pytest.CaptureFixture[str]) -> str:
    list(Console().track([0], total, LABEL, done=(total or 1) - 1, unit="sequences"))
    return capsys.readouterr().err.rstrip("\n")


@pytest.mark.parametrize("width", [80, 100, 200])
def test_a_bar_of_progress_keeps_its_numbers(
    width: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What is being done is cut first, and only where the terminal is too narrow."""
    monkeypatch.setenv("COLUMNS", str(width))
    line = _bar(MOST, capsys)
    assert len(line) <= width
    assert f"{MOST}/{MOST} sequences 0:00:00 gone, 0:00:00 left" in line
    assert line.startswith(LABEL) if width >= 100 else line[: line.index("…")] in LABEL and line[0] == "R"


def test_a_bar_of_progress_is_whole_in_a_file(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Where no terminal says how wide it is, nothing is cut."""
    monkeypatch.delenv("COLUMNS", raising=False)
    assert _bar(MOST, capsys).startswith(LABEL)
    assert _bar(None, capsys).startswith(LABEL)
