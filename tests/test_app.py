"""Tests of `qkspace.app` without a browser: what a document holds is what the index says."""

from __future__ import annotations

import dataclasses
import html
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, parse_qsl

import numpy as np
import pandas as pd
import pytest
from bokeh.document import Document
from bokeh.events import Tap
from bokeh.models import ColumnDataSource, Div, Select, Slider
from bokeh.palettes import Cividis256
from bokeh.plotting import figure
from numpy.typing import NDArray

from qkspace import store
from qkspace.app import colours, files, select, words
from qkspace.app.document import make_document
from qkspace.app.select import N_TOP, Kind, Shown, State
from qkspace.app.server import fill, find_indexes, open_shared
from qkspace.app.state import from_address
from qkspace.index import Index
from qkspace.live import LiveModel
from qkspace.report import verdict
from qkspace.schema import QKSpaceError
from qkspace.search import search

ATTACK = "</script><img src=x onerror=alert(1)>"


class Visitor:
    """One visitor's document, and what a test asks of it."""

    def __init__(self, index: Index, **options: Any) -> None:
        self.doc = Document()
        make_document(self.doc, index, **options)

    def widget(self, name: str) -> Any:
        """Return the model of that name."""
        found = self.doc.get_model_by_name(name)
        assert found is not None, name
        return found

    def source(self, renderer: str) -> ColumnDataSource:
        """Return what a renderer of the map draws."""
        found: ColumnDataSource = self.widget("map").select_one({"name": renderer}).data_source
        return found

    def data(self, renderer: str, *columns: str) -> NDArray[Any]:
        """Return columns of what a renderer draws: (row, column)."""
        data = self.source(renderer).data
        return np.stack([np.asarray(data[name]) for name in columns], axis=-1)

    def tap(self, x: float, y: float, *, on: str = "map") -> None:
        """Click a place of a figure, given in its own units."""
        plot: figure = self.widget(on)
        if on == "map":  # what the browser reports of itself
            plot.x_range.start, plot.x_range.end = -10, 10
            plot._property_values["inner_width"] = 2_000  # read-only in Python: a pixel is a hundredth
        plot._trigger_event(Tap(plot, x=x, y=y))

    def everything(self) -> dict[str, str]:
        """Return what the document holds: all properties of all models, arrays and text alike, by place."""
        return {
            f"{i} {type(model).__name__}.{name}": _written(value)
            for i, model in enumerate(self.doc.models)
            for name, value in model.properties_with_values(include_defaults=False).items()
        }

    def text(self) -> str:
        """Return the HTML of every piece of text on the page."""
        return "\n".join(div.text for div in self.doc.select({"type": Div}))


def _written(value: Any) -> str:
    """Write a property so that equal ones read the same; a model is named by its kind, an array in full."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{k}: {_written(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(_written(v) for v in value) + "]"
    if isinstance(value, np.ndarray):
        return repr(value.tolist())
    return re.sub(r"0x[0-9a-f]+|id='[^']*'|p\d+", "", repr(value))


@pytest.fixture
def visitor(small_index: Index) -> Visitor:
    return Visitor(small_index, layer=2, head=3)


@pytest.fixture(scope="module")
def still(small_index: Index) -> Visitor:
    """A visitor who only looks: nothing of the page may be touched."""
    return Visitor(small_index, layer=2, head=3)


@pytest.fixture(scope="module")
def live_model(small_index: Index) -> LiveModel:
    return LiveModel.of(small_index)


@pytest.fixture(scope="module")
def shown(small_index: Index) -> Shown:
    return Shown(small_index)


@pytest.fixture(scope="module")
def part(small_index: Index) -> Shown:
    """Half of the index, as of one that is too large to be drawn whole."""
    return Shown(small_index, max_tokens=small_index.n_tokens // 2)


@pytest.fixture(scope="module")
def uneven(small_index: Index, tmp_path_factory: pytest.TempPathFactory) -> Index:
    """The small index with layers 1 and 4 cut down to 5 heads: what stands on disk is an index of such a model."""
    root = tmp_path_factory.mktemp("uneven") / "index"
    shutil.copytree(small_index.root, root)
    manifest = store.read_manifest(root)
    heads = pd.read_parquet(root / "heads.parquet")
    for layer in (1, 4):
        manifest["layers"][layer] |= {"n_heads": 5, "n_kv_heads": 5}
        heads = heads[(heads["layer"] != layer) | (heads["head"] < 5)]
        for name in ("query", "key", "value_norm", "top_key", "top_attention"):
            path = root / name / f"L{layer:02d}.npy"
            np.save(path, np.load(path)[:5])
    heads.reset_index(drop=True).to_parquet(root / "heads.parquet")
    store.write_json(root / store.MANIFEST, manifest)
    return Index(root)


def _isolated(index: Index, layer: int, head: int, kind: Kind) -> int:
    """Return the row whose point of that kind is furthest from any other point."""
    view = index.head(layer, head).projection()
    place = {"query": view.query, "key": view.key}
    every = np.concatenate([place["query"], place["key"]])
    distance = np.linalg.norm(place[kind][:, None] - every[None], axis=2)
    own = np.arange(index.n_tokens) + (index.n_tokens if kind == "key" else 0)
    distance[np.arange(index.n_tokens), own] = np.inf
    return int(distance.min(axis=1).argmax())


# -------------------------------------------------------------------------------------------------- points


@pytest.mark.parametrize("kind", select.KINDS)
def test_points_lie_where_the_map_says(still: Visitor, small_index: Index, kind: Kind) -> None:
    view = small_index.head(2, 3).projection()
    place = view.query if kind == "query" else view.key
    np.testing.assert_array_equal(still.data(kind, "row")[:, 0], np.arange(small_index.n_tokens))
    np.testing.assert_array_equal(still.data(kind, "x", "y"), place)


def test_a_query_lists_its_strongest_keys(still: Visitor, small_index: Index) -> None:
    head = small_index.head(2, 3)
    partners, weights = (still.data("query", *(f"{name}{i}" for i in range(N_TOP))) for name in ("partner", "weight"))
    np.testing.assert_array_equal(partners, head.top_key[:, :N_TOP])
    np.testing.assert_array_equal(weights, head.top_attention[:, :N_TOP])


def test_a_key_lists_its_strongest_queries(still: Visitor, small_index: Index) -> None:
    head = small_index.head(2, 3)
    expected = _queries_by_brute_force(head.top_key, head.top_attention)
    found = still.data("key", *(f"weight{i}" for i in range(N_TOP)))
    np.testing.assert_array_equal(found, expected)


def _queries_by_brute_force(top_key: NDArray[Any], top_attention: NDArray[Any]) -> NDArray[np.float32]:
    """Return the N_TOP largest weights onto each key, zero where there are fewer."""
    weights = np.zeros((len(top_key), N_TOP), dtype=np.float32)
    for key in range(len(top_key)):
        onto = np.sort(top_attention[top_key == key])[::-1][:N_TOP]
        weights[key, : len(onto)] = onto
    return weights


@pytest.mark.parametrize("seed", range(20))
def test_strongest_queries_against_brute_force(seed: int) -> None:
    generator = np.random.default_rng(seed)
    n, k = int(generator.integers(1, 40)), int(generator.integers(1, 6))
    top_key = generator.integers(-1, n, size=(n, k))
    top_attention = np.where(top_key >= 0, generator.permutation(n * k).reshape(n, k) + 1.0, 0).astype(np.float32)
    queries, weights = select.strongest_queries(top_key, top_attention)
    np.testing.assert_array_equal(weights, _queries_by_brute_force(top_key, top_attention))
    for key, rank in np.ndindex(n, N_TOP):
        query, weight = queries[key, rank], weights[key, rank]
        assert query == -1 if weight == 0 else weight in top_attention[query][top_key[query] == key]


# -------------------------------------------------------------------------------------------------- colours


def _rgb(colour: str) -> int:
    return int(colour[1:], 16)


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_queries_and_keys_have_the_colours_of_the_legend(small_index: Index, theme: Any) -> None:
    visitor = Visitor(small_index, layer=0, head=0, theme=theme)
    for kind, colour in (("query", colours.QUERY_COLOUR[theme]), ("key", colours.KEY_COLOUR[theme])):
        packed = visitor.data(kind, "colour")[:, 0]
        assert set(packed >> 8) == {_rgb(colour)}
        assert colour in visitor.text()


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_a_tag_has_one_colour_and_the_legend_counts_it(shown: Shown, theme: Any) -> None:
    tags = shown.index.tokens["upos"]
    found = select.colouring(shown, State(colour="upos", theme=theme))
    counts = tags.value_counts()
    for name, colour, count in found.legend.entries:
        if name in counts.index:
            assert count == counts[name]
            np.testing.assert_array_equal(found.query[(tags == name).to_numpy()] >> 8, _rgb(colour))
    named = [name for name, _, _ in found.legend.entries]
    assert named[: len(counts)][:10] == list(counts.index[:10]), "the commonest come first"
    assert sum(count for _, _, count in found.legend.entries) == shown.index.n_tokens
    np.testing.assert_array_equal(found.query, found.key)


def test_what_is_missing_is_grey_and_said_to_be(shown: Shown) -> None:
    found = select.colouring(shown, State(colour="upos"))
    missing = shown.index.tokens["upos"].isna().to_numpy()
    assert missing.any(), "[CLS] has no part of speech"
    assert set(found.query[missing] >> 8) == {_rgb(colours.MISSING["light"])}
    assert found.legend.entries[-1] == ("none", colours.MISSING["light"], int(missing.sum()))


def test_more_kinds_than_colours_share_one_grey() -> None:
    names = [f"kind {i:02d}" for i in range(25) for _ in range(30 - i)]
    found = colours.colour_tokens("genre", pd.Series(names), "light")
    own = [entry for entry in found.legend.entries if entry[1] != colours.OTHER["light"]]
    assert [name for name, _, _ in own] == [f"kind {i:02d}" for i in range(len(colours.CATEGORIES))]
    assert len({colour for _, colour, _ in own}) == len(own), "no two kinds look alike"
    n_rest = 25 - len(own)
    assert found.legend.entries[-1][0] == f"{n_rest} rarer kinds"
    rest = np.asarray([int(name[5:]) >= len(own) for name in names])
    assert set(found.query[rest] >> 8) == {_rgb(colours.OTHER["light"])}
    assert _rgb(colours.OTHER["light"]) not in set(found.query[~rest] >> 8)


def test_numbers_run_along_the_scale(shown: Shown) -> None:
    found = select.colouring(shown, State(colour="position"))
    assert found.legend.continuous
    scale = {_rgb(colour): i for i, colour in enumerate(Cividis256)}
    step = np.asarray([scale[int(colour)] for colour in found.query >> 8])
    position = shown.index.tokens["position"].to_numpy()
    assert (np.diff(step[np.argsort(position, kind="stable")]) >= 0).all(), "a later position is never darker"
    assert (step.min(), step.max()) == (0, 255)


def test_numbers_that_are_missing_do_not_bend_the_scale() -> None:
    values = pd.Series([0.0, 1.0, None, 2.0] * 50)
    found = colours.colour_tokens("size", values, "dark")
    whole = colours.colour_tokens("size", values.dropna(), "dark")
    assert set(found.query[values.isna().to_numpy()] >> 8) == {_rgb(colours.MISSING["dark"])}
    np.testing.assert_array_equal(found.query[values.notna().to_numpy()], whole.query)
    assert (found.legend.low, found.legend.high) == ("0", "2")


def test_an_infinite_number_does_not_break_the_scale() -> None:
    values = pd.Series([float(i) for i in range(100)] + [np.inf] * 5)
    found = colours.colour_tokens("size", values, "light")  # JSONL may hold Infinity
    assert len(set(found.query[:100] >> 8)) > 50, "finite values still differ"


def test_a_corpus_column_called_norm_can_be_told_from_the_vectors_length(small_index: Index, tmp_path: Path) -> None:
    root = tmp_path / "index"
    shutil.copytree(small_index.root, root)
    tokens = pd.read_parquet(root / "tokens.parquet")
    tokens["norm"] = np.where(tokens["position"] % 2 == 0, "even", "odd")
    tokens.to_parquet(root / "tokens.parquet")
    choices = Shown(Index(root)).colour_choices
    assert len(set(choices)) == len(choices), choices


def test_every_choice_of_colour_can_be_shown(visitor: Visitor, small_index: Index) -> None:
    for choice, _label in visitor.widget("colour").options:
        visitor.widget("colour").value = choice
        packed = {kind: visitor.data(kind, "colour")[:, 0] for kind in select.KINDS}
        assert all(len(p) == small_index.n_tokens for p in packed.values())
        if choice == select.NORM:
            head = small_index.head(2, 3)
            length = np.linalg.norm(head.query, axis=1)
            scale = {_rgb(colour): i for i, colour in enumerate(Cividis256)}
            step = np.asarray([scale[int(colour)] for colour in packed["query"] >> 8])
            assert (np.diff(step[np.argsort(length)]) >= 0).all()


# -------------------------------------------------------------------------------------------------- links


@pytest.mark.parametrize("special", [False, True])
@pytest.mark.parametrize("itself", [False, True])
@pytest.mark.parametrize("first", [False, True])
def test_links_are_those_of_the_index(shown: Shown, special: bool, itself: bool, first: bool) -> None:
    state = State(layer=1, head=7, n_links=60, threshold=0.2, special=special, itself=itself, first=first)
    head = shown.index.head(1, 7)
    expected = head.links(top=60, threshold=0.2, special=special, itself=itself, first=first)
    found = select.corpus_links(shown, state)
    view = head.projection()
    np.testing.assert_array_equal(found.attention, expected["attention"])
    np.testing.assert_array_equal(found.start, view.query[expected["query"]])
    np.testing.assert_array_equal(found.end, view.key[expected["key"]])


@pytest.mark.parametrize("kind", select.KINDS)
def test_links_of_a_token_are_its_attention(shown: Shown, kind: Kind) -> None:
    row = int(shown.index.row_starts[5]) + 3
    state = State(layer=2, head=3, threshold=0.0, selected=(kind, row))
    sequence = int(shown.index.tokens["sequence"].iloc[row])
    rows = shown.index.rows(sequence)
    attention = shown.index.head(2, 3).attention(sequence)
    view = shown.index.head(2, 3).projection()
    found = select.selected_links(shown, state)
    own, others = (attention[3], view.key) if kind == "query" else (attention[:, 3], view.query)
    rows = np.arange(rows.start, rows.stop)[own >= select.LEAST_SHOWN]
    own = own[own >= select.LEAST_SHOWN]
    np.testing.assert_allclose(found.attention, own, rtol=1e-6)
    ends, starts = (found.end, found.start) if kind == "query" else (found.start, found.end)
    np.testing.assert_array_equal(ends, others[rows])
    np.testing.assert_array_equal(starts, np.repeat(_places(view, kind)[[row]], len(own), axis=0))


def _places(view: Any, kind: Kind) -> NDArray[Any]:
    """Return where the points of that kind lie: (token, 2)."""
    places: NDArray[Any] = view.query if kind == "query" else view.key
    return places


def test_a_clicked_decoder_token_attends_to_nothing_later(decoder_index: Index) -> None:
    shown = Shown(decoder_index)
    row = int(decoder_index.row_starts[4]) + 5
    state = State(threshold=0.0, selected=("query", row))
    attention = select.selected_attention(shown, state)
    assert (attention[6:] == 0).all()
    assert attention[:6].sum() == pytest.approx(1, abs=1e-5)
    assert (select.selected_attention(shown, dataclasses.replace(state, selected=("key", row)))[:5] == 0).all()


# -------------------------------------------------------------------------------------------------- clicks


def test_nearest_finds_each_point_and_nothing_beyond_the_radius(shown: Shown) -> None:
    state = State(layer=2, head=3)
    view = shown.index.head(2, 3).projection()
    every = np.concatenate([view.query, view.key])
    n = shown.index.n_tokens
    for i in np.random.default_rng(0).choice(2 * n, size=50, replace=False):
        x, y = every[i] + 1e-4
        distance = np.hypot(every[:, 0] - x, every[:, 1] - y)
        found = select.nearest(shown, state, x, y, 0.01)
        assert found is not None
        kind, row = found
        assert distance[row + (n if kind == "key" else 0)] == pytest.approx(distance.min())
        assert select.nearest(shown, state, x, y, 0.99 * float(distance.min())) is None


def test_nearest_prefers_the_sequence_that_is_picked_out(shown: Shown) -> None:
    view = shown.index.head(2, 3).projection()
    x, y = view.query[40]
    free = select.nearest(shown, State(layer=2, head=3), float(x), float(y), 1.0)
    sequence = shown.sequence_number
    for other in (100, 300):
        found = select.nearest(shown, State(layer=2, head=3, selected=("query", other)), float(x), float(y), 1.0)
        assert free == ("query", 40)
        assert found is not None
        reach = np.concatenate([view.query, view.key])
        near = np.hypot(reach[:, 0] - x, reach[:, 1] - y) <= 1.0
        own = np.tile(sequence == sequence[other], 2)
        assert (sequence[found[1]] == sequence[other]) == bool((near & own).any())


@pytest.mark.parametrize("kind", select.KINDS)
def test_a_click_shows_the_tokens_links_and_a_second_elsewhere_clears_them(
    visitor: Visitor, small_index: Index, kind: Kind
) -> None:
    row = _isolated(small_index, 2, 3, kind)
    x, y = visitor.data(kind, "x", "y")[row]
    visitor.tap(x, y)
    sequence = int(small_index.tokens["sequence"].iloc[row])
    rows = small_index.rows(sequence)
    attention = small_index.head(2, 3).attention(sequence)
    at = row - rows.start
    weights = attention[at] if kind == "query" else attention[:, at]
    np.testing.assert_allclose(
        visitor.data("own", "alpha")[:, 0], np.clip(weights[weights >= 0.02], 0.15, 1), rtol=1e-5
    )
    np.testing.assert_array_equal(visitor.data("picked", "x", "y"), [[x, y]])
    assert len(visitor.data("own_query", "x")) == rows.stop - rows.start
    assert f"Sequence {sequence}, token {at + 1} of {rows.stop - rows.start}" in visitor.text()
    assert f"{100 * weights.max():.1f} %" in visitor.text()
    visitor.tap(1e6, 1e6)
    for name in ("own", "picked", "own_query", "own_key", "labels"):
        assert all(len(column) == 0 for column in visitor.source(name).data.values()), name
    assert "Click a point" in visitor.text()


def test_escape_clears_the_choice(visitor: Visitor, small_index: Index) -> None:
    row = _isolated(small_index, 2, 3, "query")
    visitor.tap(*visitor.data("query", "x", "y")[row])
    assert len(visitor.data("picked", "x")) == 1
    visitor.doc.roots[0].tags = ["escape", "", 1]  # what the key does in the browser
    assert len(visitor.data("picked", "x")) == 0


def test_the_clicked_token_stays_when_the_head_changes(visitor: Visitor, small_index: Index) -> None:
    row = _isolated(small_index, 2, 3, "query")
    visitor.tap(*visitor.data("query", "x", "y")[row])
    visitor.widget("head").value = "4"
    np.testing.assert_array_equal(visitor.data("picked", "x", "y"), small_index.head(2, 4).projection().query[[row]])


# -------------------------------------------------------------------------------------------------- widgets


def test_another_head_moves_the_points(visitor: Visitor, small_index: Index) -> None:
    visitor.widget("head").value = "9"
    np.testing.assert_array_equal(visitor.data("key", "x", "y"), small_index.head(2, 9).projection().key)
    visitor.widget("layer").value = "5"
    np.testing.assert_array_equal(visitor.data("key", "x", "y"), small_index.head(5, 9).projection().key)
    assert "Layer 5, head 9" in visitor.text()


def test_sliders_choose_the_links(visitor: Visitor, small_index: Index) -> None:
    options: dict[str, bool] = {"special": False, "itself": False, "first": False}
    for n_links, threshold in ((10, 0.1), (0, 0.1), (1000, 0.0), (1000, 0.5)):
        n_slider: Slider = visitor.widget("n_links")
        t_slider: Slider = visitor.widget("threshold")
        n_slider.trigger("value_throttled", None, n_links)
        t_slider.trigger("value_throttled", None, threshold)
        expected = small_index.head(2, 3).links(top=max(n_links, 1), threshold=threshold, **options)[:n_links]
        np.testing.assert_allclose(visitor.data("links", "alpha")[:, 0], expected["attention"], rtol=1e-6)


def test_the_chart_of_heads_opens_the_one_that_is_clicked(visitor: Visitor, small_index: Index) -> None:
    visitor.tap(10.2, 4.4, on="heads")
    assert (visitor.widget("layer").value, visitor.widget("head").value) == ("4", "10")
    np.testing.assert_array_equal(visitor.data("query", "x", "y"), small_index.head(4, 10).projection().query)
    visitor.tap(40, 40, on="heads")
    assert (visitor.widget("layer").value, visitor.widget("head").value) == ("4", "10")


def test_the_first_head_is_the_one_whose_map_says_most(small_index: Index) -> None:
    recall = small_index.head_table().set_index(["layer", "head"])["pca2_recall1_content"]
    layer, head = recall.idxmax()  # type: ignore[misc]
    visitor = Visitor(small_index)
    assert (visitor.widget("layer").value, visitor.widget("head").value) == (str(layer), str(head))


def test_the_card_says_how_far_the_map_can_be_trusted(small_index: Index) -> None:
    """Every head, so that all three verdicts come up: a poor map, and only that, says not to believe it and is drawn small."""
    visitor, seen = Visitor(small_index, layer=0, head=0), set()
    squares = pd.DataFrame(visitor.widget("heads").renderers[0].data_source.data).set_index(["layer", "head"])
    for layer in range(small_index.n_layers):
        visitor.widget("layer").value = str(layer)
        for head in range(small_index.n_heads):
            visitor.widget("head").value = str(head)
            scores = small_index.head(layer, head).projection("pca", 2).scores
            assert scores is not None
            word, text = verdict(scores.recall1, scores.recall1_content), visitor.text()
            seen.add(word)
            assert f">{word} map<" in text
            assert ("Do not believe this map" in text) == (word == "poor") == (squares["size"][layer, head] < 0.9)
            said = re.search(r"between ([0-9.]+) and ([0-9.]+) of 100", text)
            assert said is not None
            low, high = (100 * end for end in (scores.recall1_low, scores.recall1_high))
            assert (float(said[1]), float(said[2])) == (pytest.approx(low, abs=0.51), pytest.approx(high, abs=0.51))
            assert said[1] != said[2] or high - low < 0.11
            assert "Before the projection, in the full space, it is" in text
            assert f"{scores.recall1_low:.2f} to {scores.recall1_high:.2f}" in text
    assert "poor" in seen and len(seen) > 1


def test_a_head_that_is_not_mapped_is_shown_with_the_reason(unmapped_index: Index) -> None:
    visitor = Visitor(unmapped_index, layer=1, head=2)
    text = visitor.text()
    assert "This head is not mapped: 7 of 9 of its query and key vectors hold nan or infinity." in text
    assert ">no map<" in text
    assert "Do not believe" not in text
    visitor.widget("head").value = "1"
    assert "is not mapped" not in visitor.text()


def test_the_theme_changes_and_the_choice_stays(visitor: Visitor, small_index: Index) -> None:
    row = _isolated(small_index, 2, 3, "query")
    visitor.tap(*visitor.data("query", "x", "y")[row])
    visitor.doc.roots[0].tags = ["theme", "dark", 1]  # what a browser does that prefers dark
    assert visitor.widget("map").background_fill_color == "#161A21"
    assert len(visitor.data("picked", "x")) == 1


def test_a_layer_with_fewer_heads_takes_its_last_one(uneven: Index) -> None:
    visitor = Visitor(uneven, layer=0, head=11)
    head: Select = visitor.widget("head")
    visitor.widget("layer").value = "1"
    assert (head.options, head.value) == ([str(i) for i in range(5)], "4")
    np.testing.assert_array_equal(visitor.data("query", "x", "y"), uneven.head(1, 4).projection().query)
    visitor.widget("layer").value = "2"
    assert (head.options, head.value) == ([str(i) for i in range(12)], "4")
    visitor.tap(11, 0, on="heads")
    assert (visitor.widget("layer").value, head.value) == ("0", "11")
    visitor.tap(8, 4, on="heads")  # a hole of the chart: layer 4 has no head 8
    assert (visitor.widget("layer").value, head.value) == ("0", "11")


def _told(visitor: Visitor, what: str, value: Any) -> None:
    """Say what the browser says: an address that was gone back to, or a button of a card."""
    page = visitor.widget("page")
    page.tags = [what, value, page.tags[2] + 1]


def _address(visitor: Visitor) -> dict[str, str]:
    """Return what the page says that its address is."""
    tagged = [div.tags for div in visitor.doc.select({"type": Div}) if len(div.tags) == 2]
    assert len(tagged) == 1
    return dict(parse_qsl(tagged[0][0]))


def test_the_way_back_keeps_what_was_hidden_of_another_colour(visitor: Visitor) -> None:
    _told(visitor, "address", "?layer=2&head=3&colour=kind&hidden=special")
    address = _address(visitor)
    assert (address["colour"], address["hidden"]) == ("kind", "special")


def test_the_way_back_keeps_the_order_of_the_atlas(small_index: Index) -> None:
    visitor = Visitor(small_index, page="atlas")
    _told(visitor, "address", "?page=atlas&order=entropy&least=0.5")
    address = _address(visitor)
    assert (address["order"], address["least"]) == ("entropy", "0.5"), "highest first, as the address says"
    assert visitor.widget("order").value == "entropy"
    assert visitor.widget("direction").label == "\u2193"


def test_a_region_is_let_go_with_the_map_that_it_was_drawn_on(small_index: Index) -> None:
    visitor = Visitor(small_index, arguments={"region": [b"-9~-9_9~-9_9~9_-9~9"]}, layer=2, head=3)
    assert "region" in _address(visitor)
    _told(visitor, "go", "selected=query-3")
    assert "region" in _address(visitor)
    _told(visitor, "go", "layer=1&head=4")
    assert "region" not in _address(visitor)


@pytest.mark.parametrize("what", ["address", "go"])
def test_an_address_that_cannot_be_shown_is_told_and_nothing_changes(visitor: Visitor, what: str) -> None:
    for i, value in enumerate(("layer=99", "yaw=", "order=nothing&page=atlas", "selected=query-999999999")):
        before = _address(visitor)
        _told(visitor, what, value)
        assert visitor.widget("trouble").visible, value
        assert "asks for" in visitor.widget("trouble").text or "no layer" in visitor.widget("trouble").text
        assert _address(visitor) == before
        _told(visitor, "go", f"layer={i}")
        assert not visitor.widget("trouble").visible
        assert _address(visitor)["layer"] == str(i)


def test_an_example_of_a_head_is_shown_in_the_place_of_a_live_sentence(small_index: Index) -> None:
    visitor = Visitor(small_index, page="head")
    goes = re.findall('data-go="([^"]*sequence=[^"]*)"', visitor.widget("head_typical").text)
    assert goes
    for each in goes:
        said = parse_qs(html.unescape(each), keep_blank_values=True)
        assert said["text"] == said["pair"] == said["selected"] == [""]


def test_the_sentence_keeps_several_heads_until_another_is_chosen(small_index: Index) -> None:
    visitor = Visitor(small_index, page="sentence", layer=2, head=3)
    assert visitor.widget("sentence").tags[2]["heads"] == [3]
    now = {"layer": 2, "heads": None, "head": 3, "mode": "lines", "selected": {"side": "query", "token": 1}}
    _told(visitor, "view", now)
    assert _address(visitor)["selected"].startswith("query-")
    assert "heads" not in visitor.widget("sentence").tags[2], "all of them stay"
    _told(visitor, "view", now | {"selected": {"side": "query", "token": 10**6}})
    assert "selected" not in _address(visitor), "a token of another sequence, which was open before"
    visitor.widget("head").value = "5"
    assert visitor.widget("sentence").tags[2]["heads"] == [5]


def test_a_live_sentence_is_on_no_map_of_a_head_that_has_none(unmapped_index: Index) -> None:
    shown = Shown(unmapped_index)
    live = LiveModel.of(unmapped_index).run("Once there was a boat.")
    for head, n in ((2, 0), (1, len(live.tokens))):
        state = State(layer=1, head=head)
        scene = select.Scene(shown, state, select.colouring(shown, state), live=live)
        assert len(select.live_points(scene).text) == n


@pytest.mark.parametrize("special", [False, True])
@pytest.mark.parametrize("itself", [False, True])
@pytest.mark.parametrize("first", [False, True])
def test_links_of_a_live_sentence_leave_out_what_those_of_the_corpus_do(
    shown: Shown, live_model: LiveModel, special: bool, itself: bool, first: bool
) -> None:
    live = live_model.run("The old bank of the river was closed.")
    state = State(layer=2, head=3, special=special, itself=itself, first=first)
    found = select.live_points(select.Scene(shown, state, select.colouring(shown, state), live=live))
    touched = [
        i
        for i, token in enumerate(live.tokens.to_dict("records"))
        if (special or not token["is_special"]) and (first or token["position"] > 0)
    ]
    attention, expected, ends = live.attention(2, 3), [], set()
    for query in touched:
        keys = [key for key in touched if itself or key != query]
        best = max(keys, key=lambda key: attention[query, key])
        expected.append(attention[query, best])
        ends.add(best)
    np.testing.assert_allclose(found.links.attention, expected, rtol=1e-6)
    np.testing.assert_array_equal(found.links.start, found.place["query"][touched])
    assert set(found.linked.tolist()) == ends
    assert {tuple(end) for end in found.links.end} == {tuple(found.place["key"][i]) for i in ends}
    far = select.live_points(select.Scene(shown, state, select.colouring(shown, state), live=live), pixel=1e6)
    assert not len(far.linked), "where all lie over each other, no name is written twice"


@pytest.mark.parametrize("query", ["bank", "upos:VERB"])
def test_hits_are_larger_than_the_rest(visitor: Visitor, small_index: Index, query: str) -> None:
    hits = np.isin(visitor.data("query", "row")[:, 0], search(small_index, query).rows)
    assert set(visitor.data("query", "size")[:, 0]) == {1}
    visitor.widget("search").value = query
    size = visitor.data("query", "size")[:, 0]
    assert hits.any() and size[hits].min() > 1.4 * size[~hits].max()
    visitor.widget("search").value = " "
    assert set(visitor.data("query", "size")[:, 0]) == {1}, "a blank is no search"


def test_an_address_of_a_blank_search_and_a_limit_of_no_score_asks_for_neither(shown: Shown) -> None:
    state = from_address({"search": [b"  "], "least": [b"5"]}, State(), shown)
    assert (state.search, state.least) == ("", None)


@pytest.mark.parametrize("kind", ["exe", "/../x.png", ""])
def test_only_files_of_known_kinds_are_made(small_index: Index, kind: str) -> None:
    shown, state = Shown(small_index), State()
    with pytest.raises(QKSpaceError, match=r"png, svg, html, csv, parquet\.$"):
        files.make(kind, select.Scene(shown, state, select.colouring(shown, state)))


def _scene(index: Index, *, shown: Shown | None = None, **chosen: Any) -> select.Scene:
    shown, state = shown or Shown(index), State(**chosen)
    hits = index.search(state.search) if state.search else None
    return select.Scene(shown, state, select.colouring(shown, state), hits)


def _saved(index: Index, **chosen: Any) -> tuple[str, pd.DataFrame]:
    name, _, content = files.make("csv", _scene(index, **chosen))
    return name, pd.read_csv(BytesIO(content))


@pytest.mark.parametrize("kind", ["svg", "html"])
def test_a_saved_map_shows_what_the_page_does(small_index: Index, kind: str) -> None:
    shown = Shown(small_index, max_tokens=small_index.n_tokens // 4)
    chosen: dict[str, Any] = {"shown": shown, "layer": 2, "head": 3, "colour": "upos", "n_links": 20}
    plain = files.make(kind, _scene(small_index, **chosen))[2]
    for other in (
        {"hidden": ("NOUN",)},
        {"search": "upos:VERB"},
        {"region": ((-1.0, -1.0), (1.0, -1.0), (1.0, 1.0))},
        {"by_norm": True},
    ):
        assert files.make(kind, _scene(small_index, **chosen, **other))[2] != plain
    content = files.make(kind, _scene(small_index, **chosen, hidden=("NOUN",), search="upos:VERB"))[2].decode()
    words = re.sub(r"\s+", " ", re.sub(r"<[^>]*>", " ", content.split("<p>")[-1]))
    assert "hits of the search “upos:VERB”" in words and "not “NOUN”" in words
    assert files.make(kind, _scene(small_index, **chosen, hidden=("of another colour",)))[2]


def test_the_table_of_a_head_is_its_scores_and_of_the_atlas_those_of_its_heads(small_index: Index) -> None:
    every = small_index.head_table()
    name, table = _saved(small_index, page="head", layer=2, head=3, selected=("query", 5))
    assert name.endswith("-head-L2H3.csv")
    expected = every[(every["layer"] == 2) & (every["head"] == 3)].reset_index(drop=True)
    assert len(expected) == 1
    pd.testing.assert_frame_equal(table, expected, check_dtype=False, rtol=1e-5)
    least = float(every["entropy"].median())
    _, table = _saved(small_index, page="atlas", order="entropy", least=least)
    kept = every[every["entropy"] >= least].sort_values("entropy", ascending=False, kind="stable")
    assert table[["layer", "head"]].values.tolist() == kept[["layer", "head"]].values.tolist()


def test_the_table_of_a_sentence_is_of_its_tokens(small_index: Index) -> None:
    rows = small_index.rows(3)
    _, table = _saved(small_index, page="sentence", sequence=3, search="the")
    assert table["row"].tolist() == 2 * list(range(rows.start, rows.stop))


def test_a_page_of_one_head_is_called_a_map_wherever_it_is_saved(small_index: Index) -> None:
    for page in ("atlas", "head", "map"):
        name, _, content = files.make("html", _scene(small_index, page=page, layer=2, head=3))
        assert name.endswith("-map-L2H3.html")
        assert b"layer 2, head 3" in content


def test_two_visitors_share_nothing_that_changes(decoder_index: Index) -> None:
    mine, other = Visitor(decoder_index, layer=1, head=2), Visitor(decoder_index, layer=1, head=2)
    assert not {id(m) for m in mine.doc.models} & {id(m) for m in other.doc.models}
    before = other.everything()
    row = _isolated(decoder_index, 1, 2, "key")
    mine.tap(*mine.data("key", "x", "y")[row])
    mine.widget("colour").value = "kind"
    mine.widget("layer").value = "0"
    mine.doc.roots[0].tags = ["theme", "dark", 1]
    assert len(mine.data("picked", "x")) == 1
    assert other.everything() == before
    assert mine.everything() != before


# -------------------------------------------------------------------------------------------------- large indexes


def test_of_a_large_index_whole_sequences_are_drawn(part: Shown, small_index: Index) -> None:
    assert 0 < len(part.rows) <= small_index.n_tokens // 2
    for start, stop in zip(small_index.row_starts[:-1], small_index.row_starts[1:], strict=True):
        assert len(set(part.is_shown[start:stop])) == 1, "a sequence is drawn whole or not at all"
    np.testing.assert_array_equal(part.rows, Shown(small_index, max_tokens=small_index.n_tokens // 2).rows)


def test_of_a_large_index_only_what_is_drawn_is_linked(part: Shown) -> None:
    state = State(layer=1, head=7, n_links=40, threshold=0.0)
    head = part.index.head(1, 7)
    every = head.links(top=10**6, special=False, itself=False, first=False)
    drawn = every[part.is_shown[every["query"]] & part.is_shown[every["key"]]][:40]
    np.testing.assert_array_equal(select.corpus_links(part, state).attention, drawn["attention"])
    assert select.points(part, state)["key"].row.tolist() == part.rows.tolist()


def test_of_a_large_index_only_what_is_drawn_is_clicked(part: Shown) -> None:
    view = part.index.head(2, 3).projection()
    for row in np.flatnonzero(~part.is_shown)[::20]:
        found = select.nearest(part, State(layer=2, head=3), *map(float, view.query[row]), 0.5)
        assert found is None or part.is_shown[found[1]]


def test_a_page_of_a_large_index_says_what_it_leaves_out(
    small_index: Index, part: Shown, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("qkspace.app.document.shown_of", lambda _index: part)
    visitor = Visitor(small_index, layer=2, head=3)
    assert all(f"{n:,}" in visitor.text() for n in (len(part.rows), small_index.n_tokens))
    row = int(part.rows[len(part.rows) // 2])
    at = int(np.flatnonzero(visitor.data("query", "row")[:, 0] == row)[0])
    view = small_index.head(2, 3).projection()
    np.testing.assert_array_equal(visitor.data("query", "x", "y")[at], view.query[row])
    visitor.widget("colour").value = "upos"
    assert len(visitor.data("query", "colour")) == len(part.rows)


# -------------------------------------------------------------------------------------------------- addresses


def _page(root: Path, **arguments: str) -> Document:
    doc = Document()
    fill(doc, [root], {name: [value.encode()] for name, value in arguments.items()})
    return doc


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"layer": "6"}, "has layers 0 to 5"),
        ({"layer": "0", "head": "12"}, "it has heads 0 to 11"),
        ({"layer": "-1"}, "expected a number"),
        ({"head": "two"}, "expected a number"),
        ({"layer": "9" * 5000}, "layer"),
        ({"theme": "blue"}, "expected light or dark"),
        ({"index": "elsewhere"}, "there are small"),
        ({"index": "../small"}, "there are small"),
        ({"index": ATTACK}, "there are small"),
        ({"theme": ATTACK}, "expected light or dark"),
        ({"layer": ATTACK}, "expected a number"),
    ],
    ids=lambda value: next(iter(value)) + "=" + next(iter(value.values()))[:12] if isinstance(value, dict) else None,
)
def test_a_wrong_address_becomes_a_page_that_says_so(small_index: Index, arguments: dict[str, str], said: str) -> None:
    doc = _page(small_index.root, **arguments)
    (root,) = doc.roots
    assert isinstance(root, Div)
    assert said in root.text
    assert "<img" not in root.text and "<script" not in root.text and "</script" not in root.text
    assert '<a href="?index=small">' in root.text, "a way on"


def test_a_wrong_address_where_no_index_was_named_leads_to_all_of_them(
    small_index: Index, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "a & b").symlink_to(small_index.root)
    monkeypatch.chdir(tmp_path)
    for name, links in (("a & b", ["?index=a%20%26%20b", "?"]), ("nowhere", ["?"])):
        doc = Document()
        fill(doc, [], {"index": [name.encode()], "layer": [b"99"]})
        assert re.findall('href="([^"]*)"', doc.roots[0].text) == links


def test_an_address_opens_what_it_names(small_index: Index) -> None:
    doc = _page(small_index.root, index="small", layer="4", head="7", theme="dark")
    assert doc.get_model_by_name("layer").value == "4"
    assert doc.get_model_by_name("head").value == "7"
    assert doc.get_model_by_name("map").background_fill_color == "#161A21"


def test_an_index_that_is_damaged_becomes_a_page(small_index: Index, tmp_path: Path) -> None:
    root = tmp_path / "<b>broken"
    shutil.copytree(small_index.root, root)
    (root / "tokens.parquet").write_bytes(b"not a table")
    (div,) = _page(root, layer="1").roots
    assert isinstance(div, Div)
    assert "tokens.parquet" in div.text and "&lt;b&gt;broken" in div.text


def test_an_index_that_was_built_anew_is_read_anew(small_index: Index, tmp_path: Path) -> None:
    root = tmp_path / "index"
    shutil.copytree(small_index.root, root)
    first = open_shared(root)
    assert open_shared(root) is first
    os.utime(root / store.MANIFEST, (1, 1))
    assert open_shared(root) is not first


def test_indexes_are_found_newest_first_and_unfinished_ones_are_not(tmp_path: Path) -> None:
    for age, name in enumerate(("newest", "middle", "oldest")):
        (tmp_path / name).mkdir()
        (tmp_path / name / store.MANIFEST).write_text(json.dumps({"format": store.FORMAT}))
        os.utime(tmp_path / name / store.MANIFEST, (1000 - age, 1000 - age))
    (tmp_path / "unfinished").mkdir()
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / store.MANIFEST).write_text('{"name": "an app"}')
    assert [path.name for path in find_indexes(tmp_path)] == ["newest", "middle", "oldest"]


def test_a_head_that_is_not_there_is_refused(small_index: Index) -> None:
    with pytest.raises(QKSpaceError, match="layers 0 to 5"):
        make_document(Document(), small_index, layer=6, head=0)


# -------------------------------------------------------------------------------------------------- what it is built on


@pytest.fixture
def notebook(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Callable[[Document], None], dict[str, Any]]]:
    """What a notebook is given to show: the page's function and its options."""
    given: list[tuple[Callable[[Document], None], dict[str, Any]]] = []
    monkeypatch.setattr("bokeh.io.output_notebook", lambda *_args, **_options: None)
    monkeypatch.setattr("bokeh.io.show", lambda page, **options: given.append((page, options)))
    return given


def test_a_notebook_shows_the_head_that_was_asked_for(small_index: Index, notebook: list[Any]) -> None:
    small_index.show(3, 5, theme="dark", height=500, url="http://far.away:8888")
    ((page, options),) = notebook
    assert options == {"notebook_url": "http://far.away:8888"}
    doc = Document()
    page(doc)
    assert (doc.get_model_by_name("layer").value, doc.get_model_by_name("head").value) == ("3", "5")
    assert doc.roots[0].height == 500


def test_a_notebook_is_refused_a_head_that_is_not_there(small_index: Index, notebook: list[Any]) -> None:
    with pytest.raises(QKSpaceError, match="heads 0 to 11"):
        small_index.show(3, 12)
    assert not notebook


def test_outside_a_notebook_show_says_what_to_do(small_index: Index) -> None:
    """Without IPython there is nothing to show below; the error says so in words of ours."""
    program = (
        "import sys; sys.modules['IPython'] = None\n"
        "import qkspace\n"
        "from qkspace.schema import QKSpaceError\n"
        "try:\n"
        "    qkspace.open(sys.argv[1]).show(0, 0)\n"
        "except QKSpaceError as error:\n"
        "    print('said:', error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(small_index.root)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-600:]
    assert "notebook" in done.stdout and "qkspace serve" in done.stdout


def test_neither_the_app_nor_making_a_page_loads_a_model_or_a_projection_engine(small_index: Index) -> None:
    program = (
        "import sys, qkspace, qkspace.app.server\n"
        "from bokeh.document import Document\n"
        "from qkspace.app.document import make_document\n"
        "make_document(Document(), qkspace.open(sys.argv[1]))\n"
        "print(*sorted(m for m in sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(small_index.root)], capture_output=True, text=True, check=True
    )
    assert not set(done.stdout.split()) & {"torch", "transformers", "umap", "numba", "sklearn", "datasets"}


def test_the_curves_that_chose_the_gauge_are_drawn_with_the_chosen_one_marked(decoder_index: Index) -> None:
    gauge = decoder_index.head(1, 2).projection("pca").gauge
    assert len(gauge.curve_names) == 6, "normalised by auto"
    drawn = words.gauge_curves(gauge)
    assert drawn.count("<polyline") == len(gauge.curve_names)
    assert drawn.count("var(--accent)") == 1
    assert f"{gauge.matrix_name}/{gauge.translation_name}." in drawn
    heights = [float(point.split(",")[1]) for line in re.findall(r'points="([^"]*)"', drawn) for point in line.split()]
    assert len(heights) == gauge.curve_correlation.size
    assert (min(heights), max(heights)) == (4.0, 86.0), "the strongest correlation, the most negative, is drawn lowest"
    assert words.gauge_curves(dataclasses.replace(gauge, curve_names=())) == "", "nothing was searched"


def test_a_click_links_the_whole_sequence_where_that_is_wanted(small_index: Index) -> None:
    shown = Shown(small_index)
    row = int(np.flatnonzero(~small_index.tokens["is_special"].to_numpy())[0])
    state = State(layer=2, head=3, method=shown.methods[0], selected=("query", row), threshold=0.15, whole=True)
    links = select.selected_links(shown, state)
    attention = small_index.head(2, 3).attention(int(small_index.tokens["sequence"].iloc[row]))
    np.testing.assert_array_equal(np.sort(links.attention), np.sort(attention[attention >= 0.15]))
    one = select.selected_links(shown, dataclasses.replace(state, whole=False))
    assert 0 < len(one.attention) < len(links.attention)
