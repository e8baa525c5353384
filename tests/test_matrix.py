"""Tests of `qkspace.matrix` and its pictures: against sums over whole attention matrices, and what stands on a picture."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib.collections import LineCollection
from mpl_toolkits.mplot3d import Axes3D
from mpl_toolkits.mplot3d.art3d import Poly3DCollection

from qkspace.app import figures_matrix
from qkspace.export import export
from qkspace.index import Index
from qkspace.matrix import Matrix, matrix_of, received
from qkspace.matrix_picture import LEAST_BAR, matrix_picture
from qkspace.schema import QKSpaceError

JAPANESE = ["[CLS]", "猫", "が", "魚", "を", "[SEP]"]


@pytest.fixture(params=["small_index", "decoder_index"])
def index(request: pytest.FixtureRequest) -> Index:
    """An encoder, and a decoder whose first token is all that the first query may see."""
    found: Index = request.getfixturevalue(request.param)
    return found


def written(words: list[str]) -> Matrix:
    """Return a matrix by hand, in which the second token asks the fourth alone."""
    n = len(words)
    attention = np.full((n, n), 1 / n, dtype=np.float32)
    attention[1] = np.eye(n, dtype=np.float32)[3]
    allowed = np.ones((n, n), dtype=bool)
    special = np.array([word.startswith("[") for word in words])
    return Matrix(words, words, attention, allowed, special, "model", "layer 0", "sequence 0")


def test_mean_of_the_last_layer(index: Index) -> None:
    """Without a layer and a head it is the mean over the heads of the last layer; with a head, that head's own."""
    sequence = int(index.sequences["sequence"].iloc[3])
    last = index.n_layers - 1
    every = [index.head(last, head).attention(sequence) for head in range(index.layers[last].n_heads)]
    found = matrix_of(index, sequence)
    np.testing.assert_allclose(found.attention, np.mean(every, axis=0), atol=1e-6)
    np.testing.assert_allclose(
        matrix_of(index, sequence, layer=0, head=1).attention, index.head(0, 1).attention(sequence)
    )
    assert found.answering == index.tokens["text"].iloc[index.rows(sequence)].tolist()
    assert f"layer {last}" in found.of and "mean" in found.of


def test_received_is_the_sum_of_columns(index: Index) -> None:
    """What tokens receive sums to the number of queries, and what equal attention would give does too."""
    found = matrix_of(index, int(index.sequences["sequence"].iloc[3]))
    table, n = received(found), len(found.answering)
    np.testing.assert_allclose(table["total"], found.attention.sum(axis=0), rtol=1e-6)
    assert table["total"].sum() == pytest.approx(n, abs=1e-4) and table["uniform"].sum() == pytest.approx(n)
    is_causal = index.layers[-1].causal
    if is_causal:  # the first of n tokens: 1 + 1/2 + ... + 1/n
        assert table["uniform"].iloc[0] == pytest.approx(sum(1 / i for i in range(1, n + 1)))
        assert table["mean"].iloc[-1] == pytest.approx(table["total"].iloc[-1])  # one query alone may ask the last
    else:
        np.testing.assert_allclose(table["uniform"], 1.0)
        np.testing.assert_allclose(table["mean"], table["total"] / n)


def test_some_tokens(index: Index) -> None:
    """Tokens cuts queries and keys alike, and refuses what is not there."""
    sequence = int(index.sequences["sequence"].iloc[3])
    whole, part = matrix_of(index, sequence), matrix_of(index, sequence, tokens=(1, 4))
    np.testing.assert_array_equal(part.attention, whole.attention[1:4, 1:4])
    assert part.answering == whole.answering[1:4]
    with pytest.raises(QKSpaceError, match=r"tokens must be within \(0, "):
        matrix_of(index, sequence, tokens=(2, 9_999))
    with pytest.raises(QKSpaceError, match="There is no layer 99"):
        matrix_of(index, sequence, layer=99)


def test_live_matrix(small_index: Index) -> None:
    """A typed text has the same matrix as the mean of its heads."""
    live = small_index.live("The bank by the river was closed.")
    found = matrix_of(small_index, live, layer=2)
    every = [live.attention(2, head) for head in range(small_index.n_heads)]
    np.testing.assert_allclose(found.attention, np.mean(every, axis=0), atol=1e-6)
    assert found.allowed.all() and found.answering[1] == "The"


@pytest.mark.parametrize("style", ["heatmap", "received", "bars", "scatter"])
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_every_word_stands_on_the_picture(style: str, theme: str, recwarn: pytest.WarningsRecorder) -> None:
    """Each picture names all tokens, Japanese ones too, in a font that has them where one is installed."""
    figure = matrix_picture(written(JAPANESE), style, theme=theme)  # type: ignore[arg-type]
    texts = {text.get_text() for text in figure.findobj(lambda each: hasattr(each, "get_text"))}
    assert texts >= set(JAPANESE)
    families = {
        family
        for text in figure.findobj(lambda each: hasattr(each, "get_fontfamily"))
        if text.get_text() == "猫"
        for family in text.get_fontfamily()
    }
    from qkspace.drawing import Font

    assert families >= set(Font.of(["猫"]).families)


def test_bars_are_the_weights() -> None:
    """A picture in space has one bar for each weight worth one, as high as it."""
    matrix = written(JAPANESE)
    axes = matrix_picture(matrix, "bars").axes[0]
    assert isinstance(axes, Axes3D)
    (solid,) = [each for each in axes.collections if isinstance(each, Poly3DCollection)]
    faces = np.asarray(solid._vec if hasattr(solid, "_vec") else solid._faces)
    assert (matrix.attention >= LEAST_BAR).sum() * 6 * 4 in (faces.shape[-1], np.prod(faces.shape[:2]))
    data = figures_matrix.solid_data(matrix, "light")
    for query, key, height in zip(data["query"], data["key"], data["height"], strict=True):
        assert height == pytest.approx(float(matrix.attention[query, key]))
    assert len(data["height"]) == (matrix.attention >= LEAST_BAR).sum()


def test_received_line_is_what_tokens_receive() -> None:
    """The line of the picture and that of the page are the sums of the columns."""
    matrix = written(JAPANESE)
    lines = [line for line in matrix_picture(matrix, "received").axes[0].lines if line.get_linestyle() == "-"]
    np.testing.assert_allclose(lines[0].get_ydata(), matrix.attention.sum(axis=0), rtol=1e-6)
    np.testing.assert_allclose(figures_matrix.received_data(matrix)["total"], matrix.attention.sum(axis=0), rtol=1e-6)
    assert not any(isinstance(each, LineCollection) for each in lines)


def test_heat_data_runs_down() -> None:
    """The image of the page has the first query at its top: Bokeh counts rows from below."""
    matrix = written(JAPANESE)
    data = figures_matrix.heat_data(matrix)
    np.testing.assert_array_equal(data["image"][0][-2], matrix.attention[1])
    assert data["y"] == [-6] and data["dh"] == [6]


def test_refused_pictures(small_index: Index) -> None:
    """Too many tokens, an unknown style and a camera of a flat picture are refused with the remedy."""
    long = written([f"w{i}" for i in range(60)])
    with pytest.raises(QKSpaceError, match="60 tokens of sequence 0 would hide each other in space"):
        matrix_picture(long, "bars")
    with pytest.raises(QKSpaceError, match="Unknown style 'pie'; choose among heatmap"):
        matrix_picture(long, "pie")  # type: ignore[arg-type]
    with pytest.raises(QKSpaceError, match="A received takes no yaw"):
        matrix_picture(long, "received", yaw=3.0)
    with pytest.raises(QKSpaceError, match=r"index\.matrix takes no 'colour'"):
        small_index.matrix(0, colour="red")


@pytest.mark.parametrize("view", ["matrix", "received", "bars", "scatter"])
def test_export_and_notebook(small_index: Index, tmp_path: Path, view: str) -> None:
    """Every plot is written as a picture; what tokens receive as a table too; a cell of a notebook gets a PNG."""
    path = export(small_index, view, tmp_path / f"{view}.svg", sequence=0)
    assert path.read_bytes().startswith(b"<?xml")
    assert path.read_bytes() == export(small_index, view, tmp_path / "again.svg", sequence=0).read_bytes()
    picture = small_index.matrix(0, {"matrix": "heatmap"}.get(view, view))
    png, size = picture._repr_png_()
    assert png.startswith(b"\x89PNG") and size["width"] > 200
    if view == "received":
        table = pd.read_parquet(export(small_index, view, tmp_path / "received.parquet", sequence=0))
        np.testing.assert_allclose(table["total"], matrix_of(small_index, 0).attention.sum(axis=0), rtol=1e-5)
    with pytest.raises(QKSpaceError, match="One matrix is of one head"):
        export(small_index, view, tmp_path / "two.png", heads=(1, 2))
