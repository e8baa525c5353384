"""Tests of the page of plots, without a browser: what its figures hold is the matrix of the sequence that is chosen."""

from __future__ import annotations

from dataclasses import replace
from io import BytesIO
from typing import Any

import numpy as np
import pandas as pd
import pytest
from bokeh.document import Document
from bokeh.events import ButtonClick
from bokeh.models import ColumnDataSource

from qkspace.app import figures_matrix, files
from qkspace.app.document import make_document
from qkspace.app.language import say
from qkspace.app.plotted import MOST
from qkspace.app.select import Scene, Shown, colouring, shown_of
from qkspace.app.state import State
from qkspace.app.views.plots import PlotsView
from qkspace.index import Index
from qkspace.matrix import Matrix, matrix_of, received
from qkspace.matrix_picture import matrix_picture
from qkspace.schema import QKSpaceError


def opened(index: Index, **chosen: Any) -> tuple[Document, dict[str, Any]]:
    """Return a visitor's document on that page, and its figures by name."""
    document = Document()
    make_document(document, index, page="plots", **chosen)
    names = ("matrix_heat", "matrix_received", "matrix_space")
    return document, {name: document.select_one({"name": name}) for name in names}


def scene_of(shown: Shown, state: State) -> Scene:
    """Return what a view shows of a state."""
    return Scene(shown, state, colouring(shown, state))


def glyph_data(plot: Any, name: str) -> dict[str, Any]:
    """Return what a renderer of a figure shows."""
    return next(each for each in plot.renderers if each.name == name).data_source.data


def test_heat_map_is_the_mean_of_the_layer(small_index: Index) -> None:
    """The page begins with the mean of the heads of the chosen layer; without the mean it is the chosen head."""
    _, figures = opened(small_index, sequence=3, layer=5, head=2)
    expected = matrix_of(small_index, 3, layer=5).attention
    np.testing.assert_allclose(glyph_data(figures["matrix_heat"], "cells")["image"][0][::-1], expected, atol=1e-6)
    assert figures["matrix_heat"].visible and not figures["matrix_space"].visible
    _, figures = opened(small_index, sequence=3, layer=5, head=2, averaged=False)
    expected = small_index.head(5, 2).attention(3)
    np.testing.assert_allclose(glyph_data(figures["matrix_heat"], "cells")["image"][0][::-1], expected, atol=1e-6)


def test_colours_reach_to_the_largest_weight(small_index: Index) -> None:
    """The bar tells how far: weights of a long sequence are small, and would all be white on a scale to 100 %."""
    _, figures = opened(small_index, sequence=3, layer=5)
    mapper = next(each for each in figures["matrix_heat"].renderers if each.name == "cells").glyph.color_mapper
    largest = matrix_of(small_index, 3, layer=5).attention.max()
    assert 0.05 < largest < 1 and mapper.high == pytest.approx(largest) and mapper.low == 0
    n = 40
    words, every, place = ["a"] * n, np.ones((n, n), dtype=bool), np.arange(n)
    figures_matrix.name_heat(
        figures["matrix_heat"],
        Matrix(words, words, every / n, every, every[0], place, place + n, "m", "l", "s", (0, n), n),
    )
    assert mapper.high == 0.05, "differences of nothing are not blown up"


def test_nothing_of_the_corpus_is_drawn_while_a_sentence_is_read(small_index: Index) -> None:
    """While the model reads a typed sentence the page says so; then it draws what it drew before the sentence was typed."""
    shown, state = shown_of(small_index), State(page="plots", sequence=3)
    view = PlotsView(shown, state, lambda **_what: None)
    view.show(scene_of(shown, state))
    view.show(replace(scene_of(shown, replace(state, text="A cat.")), live_says="reading <b>"))
    assert not any(plot.visible for plot in view.figures.values())
    assert say("en", "plots_reading") in view.words.text and "reading &lt;b&gt;" in view.words.text
    view.show(scene_of(shown, state))
    assert view.figures["heatmap"].visible and say("en", "plots_reading") not in view.words.text


def test_words_of_a_stranger_are_text(small_index: Index) -> None:
    """Tokens reach the browser as labels and as data of a tooltip, never within its HTML."""
    _, figures = opened(small_index, sequence=3)
    texts = small_index.tokens["text"].iloc[small_index.rows(3)].tolist()
    plot = figures["matrix_heat"]
    assert plot.tags == [texts, texts]
    for axis in (plot.xaxis, plot.yaxis):
        assert axis.formatter.args["words"] == texts and not axis.major_label_overrides, (
            "what overrides is typeset as TeX"
        )
    for each in figures.values():
        for tool in each.tools:
            assert not any(word in str(getattr(tool, "tooltips", "")) for word in texts if len(word) > 3)


@pytest.mark.parametrize("plot", ["bars", "scatter"])
def test_space_holds_the_weights(decoder_index: Index, plot: str) -> None:
    """In space stand the weights of the matrix, and nothing above the diagonal of a decoder."""
    _, figures = opened(decoder_index, sequence=3, plot=plot, layer=1, theme="dark")
    found = figures["matrix_space"]
    callback = found.js_property_callbacks["change:tags"][0]
    solid = callback.args["parts"]["solid"].data
    expected = matrix_of(decoder_index, 3, layer=1).attention
    np.testing.assert_allclose(solid["height"], expected[solid["query"], solid["key"]])
    assert (np.asarray(solid["key"]) <= np.asarray(solid["query"])).all()
    assert callback.args["parts"]["camera"].data["bars"] == [plot == "bars"]
    assert all(
        len(colour) == 7 and colour.startswith("#") for name in ("top", "left", "right") for colour in solid[name]
    )


def test_the_first_query_is_at_the_back_of_saved_bars_too(small_index: Index) -> None:
    """A picture in space of a notebook stands as that of the page does."""
    axes = matrix_picture(matrix_of(small_index, 3, layer=5), "bars").axes[0]
    assert axes.yaxis_inverted() and not axes.xaxis_inverted()


@pytest.mark.parametrize("plot", ["heatmap", "received", "bars", "scatter"])
@pytest.mark.parametrize("averaged", [True, False])
def test_what_is_saved_is_what_is_shown(small_index: Index, plot: Any, averaged: bool) -> None:
    """Numbers and picture are of the matrix on the page; a page of HTML there is none of."""
    state = State(page="plots", sequence=3, layer=5, head=2, plot=plot, averaged=averaged)
    scene = scene_of(shown_of(small_index), state)
    name, _, content = files.make("csv", scene)
    matrix = matrix_of(small_index, 3, layer=5, head=None if averaged else 2)
    expected = received(matrix) if plot == "received" else matrix.table()
    found = pd.read_csv(BytesIO(content))
    assert name.endswith("-plots-L5.csv" if averaged else "-plots-L5H2.csv") and list(found) == list(expected)
    numbers = "total" if plot == "received" else "attention"
    np.testing.assert_allclose(found[numbers], expected[numbers], rtol=1e-5)
    drawn = files.make("svg", scene)[2].decode("utf-8")
    assert "layer 5" in drawn and ("head 2" in drawn) != averaged
    with pytest.raises(QKSpaceError, match="PNG or SVG"):
        files.make("html", scene)


def test_saved_bars_are_turned_as_on_the_page(small_index: Index) -> None:
    """Where the page is as it opens, the picture is as a notebook draws it, but for how far it is tilted."""
    shown, state = shown_of(small_index), State(page="plots", sequence=3, layer=5, plot="bars", pitch=35.0)
    found = files.make("svg", scene_of(shown, state))[2]
    figure = matrix_picture(matrix_of(small_index, 3, layer=5), "bars")
    assert figure.axes[0].azim == state.yaw + files.TO_AZIMUTH
    turned = files.make("svg", scene_of(shown, replace(state, yaw=state.yaw + 40)))[2]
    assert turned != found


@pytest.mark.parametrize("kind", ["png", "svg", "html"])
def test_figures_of_heads_are_saved_where_they_stand(small_index: Index, kind: str) -> None:
    """Nothing else is saved in their place."""
    with pytest.raises(QKSpaceError, match="Save figure"):
        files.make(kind, scene_of(shown_of(small_index), State(page="heads")))
    assert len(pd.read_csv(BytesIO(files.make("csv", scene_of(shown_of(small_index), State(page="heads")))[2]))) == 72


def test_a_sentence_that_the_model_still_reads_is_not_saved(small_index: Index) -> None:
    with pytest.raises(QKSpaceError, match="has read it"):
        files.make("csv", scene_of(shown_of(small_index), State(page="plots", text="The boat")))


def test_long_sequence_is_cut_and_says_so(decoder_index: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a long sequence the tokens around the clicked one are drawn, and the page says how many there are."""
    monkeypatch.setitem(MOST, "heatmap", 4)
    lengths = decoder_index.sequences["n_tokens"]
    place = int(lengths.argmax())
    row = int(decoder_index.row_starts[place + 1]) - 1  # its last token
    document, figures = opened(decoder_index, selected=("query", row), layer=0)
    n, sequence = int(lengths[place]), int(decoder_index.sequences["sequence"][place])
    expected = matrix_of(decoder_index, sequence, layer=0, tokens=(n - 4, n)).attention
    np.testing.assert_allclose(
        glyph_data(figures["matrix_heat"], "cells")["image"][0][::-1][3, 3], expected[3, 3], atol=1e-6
    )
    words = document.select_one({"name": "plots_words"}).text
    assert say("en", "plots_cut", n=4, total=n) in words
    document, _ = opened(decoder_index, sequence=sequence, layer=0)
    assert say("en", "plots_cut_first", n=4, total=n) in document.select_one({"name": "plots_words"}).text
    monkeypatch.setitem(MOST, "received", 4)
    document, _ = opened(decoder_index, sequence=sequence, layer=0, plot="received")
    assert say("en", "plots_cut_received") in document.select_one({"name": "plots_words"}).text


def test_the_matrix_is_turned_for_good(small_index: Index) -> None:
    """Where a drag ends is part of the page's state; what the page itself turns is told to nobody."""
    changes: list[dict[str, Any]] = []
    shown, state = shown_of(small_index), State(page="plots", plot="bars", sequence=3, yaw=12.0, pitch=50.0)
    view = PlotsView(shown, state, lambda **what: changes.append(what))
    camera = view.sources["camera"]
    view.show(scene_of(shown, state))
    changes.clear()  # of its buttons, which took on what is chosen
    view.show(scene_of(shown, replace(state, yaw=-30.0)))
    assert (camera.data["yaw"], camera.data["pitch"]) == ([-30.0], [50.0]) and not changes
    solid = view.sources["solid"].data
    camera.data = {**camera.data, "yaw": [70.0], "pitch": [25.0]}
    assert changes == [{"yaw": 70.0, "pitch": 25.0}]
    view.show(scene_of(shown, replace(state, yaw=70.0, pitch=25.0)))
    assert len(changes) == 1 and view.sources["solid"].data is solid


@pytest.mark.parametrize(
    ("words", "angle"),
    [
        (["[CLS]", *"猫が魚を食べた。"], 0.0),
        (["[CLS]", "東京", "に", "行き", "ました"], np.pi / 4),
        (["the", "cat", "sat"], np.pi / 2),
    ],
)
def test_how_columns_are_named(words: list[str], angle: float) -> None:
    """Single characters stand upright, longer words of wide ones are slanted, Latin ones run up."""
    plot = figures_matrix.heat_figure(
        {"heat": ColumnDataSource({name: [] for name in ("image", "x", "y", "dw", "dh")})}, "en"
    )
    n = len(words)
    every, place = np.ones((n, n), dtype=bool), np.arange(n)
    made = Matrix(words, words, every / n, every, every[0], place, place + n, "m", "l", "s", (0, n), n)
    figures_matrix.name_heat(plot, made)
    assert plot.xaxis.major_label_orientation == pytest.approx(angle)
    assert plot.yaxis.major_label_orientation == 0.0


def test_long_tokens_are_shortened_where_they_are_named() -> None:
    """A token takes one line of twenty letters at most; formulae are left as they are, for the axis does not read them."""
    assert figures_matrix.shortened("a" * 40) == "a" * 19 + "\u2026"
    assert figures_matrix.shortened("a\nb") == "a↵b"
    assert figures_matrix.shortened("$$x^2$$") == "$$x^2$$"


def test_a_head_is_not_to_be_chosen_of_the_mean(small_index: Index) -> None:
    """The choice of a head rests while the mean of all is shown."""
    for averaged in (True, False):
        document, _ = opened(small_index, sequence=3, averaged=averaged)
        assert document.select_one({"name": "head"}).disabled == averaged
    document = Document()
    make_document(document, small_index)
    assert not document.select_one({"name": "head"}).disabled


def test_choices_reach_the_page(small_index: Index) -> None:
    """A click on a kind of plot, on the mean and on the last layer asks the page for it."""
    changes: list[dict[str, Any]] = []
    view = PlotsView(shown_of(small_index), State(page="plots"), lambda **what: changes.append(what))
    view.kind.active = 2
    view.averaged.active = [0]
    view.averaged.active = []
    view.to_last._trigger_event(ButtonClick(view.to_last))
    assert changes == [{"plot": "bars"}, {"averaged": True}, {"averaged": False}, {"layer": 5}]
