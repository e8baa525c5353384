"""Tests of `qkspace.matrix` and its pictures: against sums over whole attention matrices, and what stands on a picture."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pandas as pd
import pytest
from conftest import MakeCheckpoint
from mpl_toolkits.mplot3d import Axes3D
from mpl_toolkits.mplot3d.art3d import Poly3DCollection
from test_any_model import CASES

import qkspace
from qkspace import matrix
from qkspace.app import figures_matrix
from qkspace.export import export
from qkspace.heads.words import layer_attention
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
    place, every = np.arange(n), np.full(n, n)
    return Matrix(words, words, attention, allowed, special, place, every, "model", "layer 0", "sequence 0", (0, n), n)


def test_mean_of_the_last_layer(index: Index) -> None:
    """Without a layer and a head it is the mean over the heads of the last layer; with a head, that head's own."""
    sequence = int(index.sequences["sequence"].iloc[3])
    last = index.n_layers - 1
    every = [index.head(last, head).attention(sequence) for head in range(index.layers[last].n_heads)]
    found = matrix_of(index, sequence)
    np.testing.assert_allclose(found.attention, np.mean(every, axis=0), atol=1e-6)
    np.testing.assert_allclose(
        matrix_of(index, sequence, layer=0, head=1).attention, index.head(0, 1).attention(sequence), atol=1e-6
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
    np.testing.assert_allclose(part.attention, whole.attention[1:4, 1:4], atol=1e-6)
    np.testing.assert_array_equal(part.allowed, whole.allowed[1:4, 1:4])
    assert part.answering == whole.answering[1:4]
    assert part.where == f"sequence {sequence}, tokens 2 to 4 of {len(whole.answering)}"
    with pytest.raises(QKSpaceError, match=r"tokens must be within \(0, "):
        matrix_of(index, sequence, tokens=(2, 9_999))
    for wrong in ((3,), (1, 2, 3), (0, None)):
        with pytest.raises(QKSpaceError, match="tokens are two numbers, the first token and the one after the last"):
            matrix_of(index, sequence, tokens=wrong)  # type: ignore[arg-type]
    with pytest.raises(QKSpaceError, match="There is no layer 99"):
        matrix_of(index, sequence, layer=99)


def test_received_of_some_tokens(index: Index) -> None:
    """Of some tokens, sums are over their queries, and equal attention still goes to all keys of the whole sequence."""
    sequence = int(index.sequences["sequence"].iloc[3])
    whole = matrix_of(index, sequence)
    found, n = received(matrix_of(index, sequence, tokens=(2, 5))), len(whole.answering)
    assert n > 5
    assert found["position"].tolist() == [2, 3, 4]
    np.testing.assert_allclose(found["total"], whole.attention[2:5, 2:5].sum(axis=0), rtol=1e-5)
    equal = [1 / 3 + 1 / 4 + 1 / 5, 1 / 4 + 1 / 5, 1 / 5] if index.layers[-1].causal else [3 / n] * 3
    np.testing.assert_allclose(found["uniform"], equal)


BART = {
    f"{side}_{name}": 1 + 3 * i
    for side in ("encoder", "decoder")
    for i, name in enumerate(("layers", "attention_heads"))
}
BART |= {"d_model": 32, "encoder_ffn_dim": 32, "decoder_ffn_dim": 32, "init_std": 0.25, "max_position_embeddings": 128}


@pytest.fixture(scope="module", params=["minilm", "llama", "deberta-v2", "gpt_oss", "bart"])
def any_index(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    make_checkpoint: MakeCheckpoint,
    sentences: list[str],
) -> Index:
    """An encoder, grouped keys, positions of each sequence's own, sinks, and one text that asks another."""
    family = str(request.param)
    ready = {"minilm": "small_index", "llama": "decoder_index"}
    if family in ready:
        return cast("Index", request.getfixturevalue(ready[family]))
    sizes: dict[str, Any] = {**BART, "decoder_start_token_id": 3} if family == "bart" else CASES[family][0]
    folder = tmp_path_factory.mktemp(family)
    (folder / "corpus.txt").write_text("\n".join(sentences[:12]))
    options: dict[str, Any] = {"storage": "float32", "methods": ["pca"], "dims": [2], "progress": False}
    if family == "bart":
        options |= {"attention": "cross", "max_tokens": 300}
    return qkspace.build(str(make_checkpoint(family, **sizes)), folder / "corpus.txt", out=folder / "index", **options)


def test_only_what_is_asked_for_is_worked_out(any_index: Index) -> None:
    """Some queries of some heads have the attention that they have among all, and so has the matrix of a head or of all."""
    index = any_index
    spec, last = index.layers[-1], index.n_layers - 1
    sequence = int(index.sequences["sequence"].iloc[3])
    every = np.stack([index.head(last, head).attention(sequence) for head in range(spec.n_heads)])
    at = np.array([0, 2, 3, every.shape[1] - 1])
    heads = [spec.n_heads - 1, 0]
    for expected, more in (
        (every[:, at], {"at": at}),
        (every[heads], {"heads": heads}),
        (every[heads][:, at], {"at": at, "heads": heads}),
    ):
        np.testing.assert_allclose(layer_attention(index, last, 3, **more), expected, atol=1e-6)  # type: ignore[arg-type]
    assert not np.allclose(every[0], every[-1], atol=1e-3), "the heads could not be told apart"
    allowed = index.allowed(last, sequence)
    asks, answers = (allowed.any(axis=axis) for axis in (1, 0))
    for head, expected in ((1, every[1]), (None, every.mean(axis=0))):
        found = matrix_of(index, sequence, head=head)
        np.testing.assert_allclose(found.attention, expected[asks][:, answers], atol=1e-6)
        np.testing.assert_array_equal(found.allowed, allowed[asks][:, answers])
        np.testing.assert_array_equal(found.position, np.flatnonzero(answers))
    if spec.crosses:
        with pytest.raises(QKSpaceError, match=r"2 that answer\. Choose tokens on both sides of the border"):
            matrix_of(index, sequence, tokens=(0, 2))


def test_a_long_sequence_is_refused_before_it_costs_anything(
    small_index: Index, monkeypatch: pytest.MonkeyPatch
) -> None:
    """More pairs than one matrix may hold are refused and nothing is computed; a part of them is drawn."""
    sequence = int(small_index.sequences["sequence"].iloc[3])
    n = len(matrix_of(small_index, sequence).answering)
    monkeypatch.setattr(matrix, "MOST_PAIRS", 3 * n)
    assert matrix_of(small_index, sequence, tokens=(1, 4)).attention.shape == (3, 3)
    monkeypatch.setattr(matrix, "layer_attention", None)
    with pytest.raises(
        QKSpaceError, match=r"queries of sequence \d+ with \d+ keys each .* Choose some: tokens=\(0, 3\)"
    ):
        matrix_of(small_index, sequence)


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
    found = written(JAPANESE)
    query, key = np.nonzero(found.attention >= LEAST_BAR)
    assert 0 < len(query) < found.attention.size
    axes = matrix_picture(found, "bars").axes[0]
    assert isinstance(axes, Axes3D)
    (solid,) = [each for each in axes.collections if isinstance(each, Poly3DCollection)]
    axes.figure.canvas.draw()  # which gives the collection its faces
    low, high = axes.get_zlim()
    assert low == 0 and high == pytest.approx(1.0)
    assert len(solid.get_facecolor()) == 6 * len(query), "six faces a bar"
    data = figures_matrix.solid_data(found, "light")
    np.testing.assert_array_equal(np.stack([data["query"], data["key"]]), np.stack([query, key]))
    np.testing.assert_allclose(data["height"], found.attention[query, key])


@pytest.mark.parametrize("style", ["bars", "scatter"])
def test_nothing_worth_a_bar(style: str) -> None:
    """Where no weight is worth a bar the picture has none, and its words all the same."""
    found = replace(written(JAPANESE), attention=np.full((6, 6), 0.001, dtype=np.float32))
    figure = matrix_picture(found, style)  # type: ignore[arg-type]
    texts = {text.get_text() for text in figure.findobj(lambda each: hasattr(each, "get_text"))}
    assert texts >= set(JAPANESE)
    assert not [each for each in figure.axes[0].collections if len(each.get_facecolor()) > 1]


def test_both_texts_of_cross_attention_stand_on_their_own_sides() -> None:
    """Rows are named by what asks and columns by what answers, be there as many or not."""
    asking, answering = ["der", "Hund", "bellt"], ["the", "dog", "is", "barking"]
    found = replace(
        written(answering),
        asking=asking,
        attention=np.eye(4, dtype=np.float32)[:3],
        allowed=np.ones((3, 4), dtype=bool),
        n_allowed=np.full(3, 4),
    )
    for each in (found, replace(found, answering=answering[:3], attention=found.attention[:, :3],
                                allowed=found.allowed[:, :3])):  # fmt: skip
        figure = matrix_picture(each, "heatmap")
        places = {text.get_text(): text.get_position() for text in figure.findobj(lambda one: hasattr(one, "get_text"))}
        rows, columns = ([places[word] for word in words] for words in (each.asking, each.answering))
        assert len({round(x, 6) for x, _ in rows}) == 1 and len({round(y, 6) for _, y in columns}) == 1
        assert len({round(y, 6) for _, y in rows}) == 3 and len({round(x, 6) for x, _ in columns}) == len(columns)
        assert max(x for x, _ in rows) < min(x for x, _ in columns)


def test_received_line_is_what_tokens_receive() -> None:
    """The line of the picture and that of the page are the sums of the columns, the dashed one what is equal."""
    found = written(JAPANESE)
    sums = found.attention.sum(axis=0)
    assert np.ptp(sums) > 0.5
    dashed, line, special = matrix_picture(found, "received").axes[0].lines
    np.testing.assert_allclose(line.get_ydata(), sums, rtol=1e-6)
    np.testing.assert_allclose(dashed.get_ydata(), 1.0)
    assert special.get_xdata().tolist() == [0, 5]
    data = figures_matrix.received_data(found)
    np.testing.assert_allclose(data["total"], sums, rtol=1e-6)
    np.testing.assert_allclose(data["uniform"], 1.0)


def test_heat_data_runs_down() -> None:
    """The image of the page has the first query at its top: Bokeh counts rows from below."""
    found = written(JAPANESE)
    data = figures_matrix.heat_data(found)
    np.testing.assert_array_equal(data["image"][0][-2], found.attention[1])
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
