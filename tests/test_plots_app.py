"""Tests of the page of plots, without a browser: what its figures hold is the matrix of the sequence that is chosen."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from bokeh.document import Document
from bokeh.events import ButtonClick

from qkspace.app.document import make_document
from qkspace.app.select import shown_of
from qkspace.app.state import State
from qkspace.app.views.plots import MOST, PlotsView
from qkspace.index import Index
from qkspace.matrix import matrix_of


def opened(index: Index, **chosen: Any) -> tuple[Document, dict[str, Any]]:
    """Return a visitor's document on that page, and its figures by name."""
    document = Document()
    make_document(document, index, page="plots", **chosen)
    names = ("matrix_heat", "matrix_received", "matrix_space")
    return document, {name: document.select_one({"name": name}) for name in names}


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


def test_words_of_a_stranger_are_text(small_index: Index) -> None:
    """Tokens reach the browser as labels and as data of a tooltip, never within its HTML."""
    _, figures = opened(small_index, sequence=3)
    texts = small_index.tokens["text"].iloc[small_index.rows(3)].tolist()
    plot = figures["matrix_heat"]
    assert plot.tags == [texts, texts]
    assert list(plot.xaxis.major_label_overrides.values()) == texts
    for each in figures.values():
        for tool in each.tools:
            assert not any(word in str(getattr(tool, "tooltips", "")) for word in texts if len(word) > 3)


@pytest.mark.parametrize("plot", ["bars", "scatter"])
def test_space_holds_the_weights(decoder_index: Index, plot: str) -> None:
    """In space stand the weights of the matrix, and nothing above the diagonal of a decoder."""
    _, figures = opened(decoder_index, sequence=3, plot=plot, layer=1, theme="dark")
    found = figures["matrix_space"]
    callback = found.js_property_callbacks["change:tags"][0]
    solid = callback.args["solid"].data
    expected = matrix_of(decoder_index, 3, layer=1).attention
    np.testing.assert_allclose(solid["height"], expected[solid["query"], solid["key"]])
    assert (np.asarray(solid["key"]) <= np.asarray(solid["query"])).all()
    assert callback.args["camera"].data["bars"] == [plot == "bars"]
    assert all(
        len(colour) == 7 and colour.startswith("#") for name in ("top", "left", "right") for colour in solid[name]
    )


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
    assert "4" in words and str(n) in words


def test_choices_reach_the_page(small_index: Index) -> None:
    """A click on a kind of plot, on the mean and on the last layer asks the page for it."""
    changes: list[dict[str, Any]] = []
    view = PlotsView(shown_of(small_index), State(page="plots"), lambda **what: changes.append(what))
    view.kind.active = 2
    view.averaged.active = [0]
    view.averaged.active = []
    view.to_last._trigger_event(ButtonClick(view.to_last))
    assert changes == [{"plot": "bars"}, {"averaged": True}, {"averaged": False}, {"layer": 5}]
