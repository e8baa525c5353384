"""Tests of the two maps of a comparison: what is drawn is what the comparison says, in Python and in a real Chromium."""

from __future__ import annotations

import html
import re
import sys
from collections.abc import Iterator
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from bokeh.document import Document
from bokeh.events import Tap
from browsing import SIZES, Seen, Visit, bokeh_serve, free_port, isolated, running, save

from qkspace.app import compare_select, figures_two_maps, two_maps_words
from qkspace.app.compare_select import SIDES
from qkspace.app.compare_state import CompareScene, CompareState
from qkspace.app.select import KINDS, LEAST_SHOWN
from qkspace.app.style import THEMES
from qkspace.app.views.two_maps import TwoMapsView
from qkspace.index import Head, Index
from qkspace.schema import FloatArray

HEAD = {"layer": 2, "head": 3}
SHIFT = 0.15  # of the width of the map, by which every fifth token is moved
LABELS = ("tuned", "matched", "words")


class Moved:
    """A comparison of an index with three checkpoints that are made of it, each in another way.

    tuned: every fifth token lies elsewhere, and queries turn half of their attention to the first token. matched: head H of
    a layer is compared with head H + 1. words: its units are words.
    """

    def __init__(self, base: Index) -> None:
        self.base, self.base_label, self.labels = base, "base", LABELS
        self.maps = tuple((method, dims) for method, dims in base.maps if dims == 2)
        self.steps = dict.fromkeys(LABELS)

    def tuned(self, label: str) -> Index:
        """Return the index itself."""
        return self.base

    def is_matched(self, label: str) -> bool:
        """Say whether heads were paired."""
        return label == "matched"

    def unit(self, label: str) -> str:
        """Return what is compared."""
        return "word" if label == "words" else "token"

    @cached_property
    def _words(self) -> Any:
        tokens = self.base.tokens
        word = tokens["word"].to_numpy(dtype=np.float64, na_value=np.nan)
        inside = np.isfinite(word) & (word >= 0)
        table = tokens[inside].assign(base_row=np.flatnonzero(inside))
        first = table.drop_duplicates(["sequence", "word"])
        starts = self.base.row_starts
        rows = first["base_row"].to_numpy()
        unit = np.full(len(tokens), -1)
        key = tokens["sequence"].to_numpy() * 10_000.0 + np.nan_to_num(word, nan=-1)
        at = np.searchsorted(key[rows], key[inside])
        in_words = np.searchsorted(rows, starts)
        number = np.repeat(np.arange(len(starts) - 1), np.diff(starts))
        unit[inside] = at - in_words[number[inside]]
        columns = {"sequence": first["sequence"].to_numpy(), "text": first["word_text"].to_numpy()}
        return SimpleNamespace(
            table=pd.DataFrame({**columns, "base_row": rows, "tuned_row": rows}),
            starts=in_words,
            base_rows=np.stack([starts[:-1], starts[1:]], axis=1),
            base_unit=unit,
        )

    def common(self, label: str) -> Any:
        """Return the words."""
        return self._words

    def units(self, label: str) -> pd.DataFrame:
        """Return one row a unit."""
        return self._words.table if label == "words" else self.base.tokens

    def unit_starts(self, label: str) -> Any:
        """Return where sequences start."""
        return self._words.starts if label == "words" else self.base.row_starts

    def sequence_numbers(self, label: str) -> Any:
        """Return the values of the column sequence."""
        return self.base.sequences["sequence"].to_numpy()

    def pair(self, label: str, layer: int, head: int) -> tuple[Head, Head]:
        """Return the two heads."""
        other = (head + 1) % self.base.n_heads if label == "matched" else head
        return self.base.head(layer, head), self.base.head(layer, other)

    def attention(self, label: str, sequence: int, layer: int, head: int) -> tuple[FloatArray, FloatArray]:
        """Return the attention over one sequence in both."""
        one, other = self.pair(label, layer, head)
        before, after = one.attention(sequence), other.attention(sequence).copy()
        if label == "tuned":
            after *= 0.5
            after[:, 0] += 0.5
        if label != "words":
            return before, after
        unit = self._words.base_unit[self.base.rows(sequence)]
        n = int(unit.max()) + 1
        group = (unit[None] == np.arange(n)[:, None]).astype(np.float64)
        pooled = group @ before @ group.T / group.sum(axis=1)[:, None]
        pooled = np.concatenate([pooled, 1 - pooled.sum(axis=1, keepdims=True)], axis=1)
        return pooled, pooled

    def token_drift(self, label: str, layer: int | None = None, head: int | None = None) -> FloatArray:
        """Return more drift the later a unit stands."""
        n = len(self.units(label))
        return (np.linspace(0, 0.6, n) ** 2).astype(np.float32)

    def view(self, label: str, method: str, dims: int, layer: int, head: int) -> Any:
        """Return places of which every fifth is another."""
        own = self.base.head(layer, head).projection(method, dims)
        width = float(np.nan_to_num(np.ptp(own.query, axis=0)).max())  # nan where the head has no map
        shift = np.zeros((len(own.query), 2), dtype=np.float32)
        turn = np.random.default_rng(0).uniform(0, 2 * np.pi, len(shift))
        far = SHIFT * width * np.random.default_rng(1).uniform(0.2, 1.8, len(shift))
        shift[::5] = (far[:, None] * np.stack([np.cos(turn), np.sin(turn)], axis=1))[::5]
        scores = None if own.scores is None else replace(own.scores, recall1=0.31, recall1_content=0.2)
        return SimpleNamespace(query=own.query + shift, key=own.key - shift / 2, scores=scores)


class Page:
    """A page that holds the view and nothing else, as `qkspace.app.compare_document` holds it among others."""

    def __init__(self, doc: Document, index: Index, **chosen: Any) -> None:
        self.doc, self.comparison, self.hits = doc, Moved(index), chosen.pop("hits", None)
        method = next(method for method, dims in index.maps if dims == 2)
        self.state = CompareState(**{"checkpoint": "tuned", "page": "maps", "method": method, **chosen})
        self.view = TwoMapsView(self.comparison, self.state, self.change)  # type: ignore[arg-type]
        self.view.paint(self.state.theme)
        self.show()
        doc.add_root(self.view.root)

    def change(self, **parts: Any) -> None:
        """Take over a choice, as the page does."""
        self.state = replace(self.state, **parts)
        self.show()

    def show(self) -> None:
        """Show the state."""
        self.scene = CompareScene(self.comparison, self.state, self.hits)  # type: ignore[arg-type]
        self.view.show(self.scene)

    @property
    def maps(self) -> compare_select.Pair:
        """Return both maps."""
        assert self.view.pair is not None
        return self.view.pair

    def data(self, source: str, *columns: str) -> Any:
        """Return columns of a source: (row, column)."""
        return np.stack([np.asarray(self.view.sources[source].data[name]) for name in columns], axis=-1)

    def tap(self, side: str, x: float, y: float) -> None:
        """Click a place of one of the maps, where a pixel is a hundredth."""
        plot = self.view.plots[side]  # type: ignore[index]
        plot.x_range.start, plot.x_range.end = -10, 10
        self.view.width = dict.fromkeys(SIDES, 2_000)
        plot._trigger_event(Tap(plot, x=x, y=y))

    def click(self, side: str, kind: str, row: int) -> None:
        """Click the point of a row."""
        place = self.maps.side(side).place[kind]  # type: ignore[arg-type, index]
        self.tap(side, *place[list(self.maps.units.row["base"]).index(row)].tolist())


@pytest.fixture
def page(small_index: Index) -> Page:
    return Page(Document(), small_index, **HEAD)


# ---------------------------------------------------------------- what is drawn


def test_each_map_shows_its_checkpoint_on_the_map_of_the_base(page: Page, small_index: Index) -> None:
    base = small_index.head(**HEAD).projection("pca", 2)
    tuned = page.comparison.view("tuned", "pca", 2, **HEAD)
    for side, view in (("base", base), ("tuned", tuned)):
        np.testing.assert_array_equal(page.data(f"{side}_query", "x", "y"), view.query)
        np.testing.assert_array_equal(page.data(f"{side}_key", "x", "y"), view.key)
    left, right = page.view.plots["base"], page.view.plots["tuned"]
    assert left.x_range is right.x_range and left.y_range is right.y_range, "one zoom for both"
    every = np.concatenate([base.query, base.key, tuned.query, tuned.key])
    for side in SIDES:
        frame = page.data(f"{side}_frame", "x", "y")
        np.testing.assert_allclose(frame, [every.min(axis=0), every.max(axis=0)], rtol=1e-6)


def test_no_more_is_drawn_than_asked_and_sequences_stay_whole(page: Page, small_index: Index) -> None:
    most = small_index.n_tokens // 3
    for label in ("tuned", "words"):
        units = compare_select.units_of(page.comparison, label, most)  # type: ignore[arg-type]
        assert 0 < len(units.unit) <= most
        lengths = np.diff(page.comparison.unit_starts(label))
        drawn, n = np.unique(units.sequence, return_counts=True)
        np.testing.assert_array_equal(n, lengths[drawn])
        sequence = small_index.tokens["sequence"].to_numpy()[units.row["base"]]
        np.testing.assert_array_equal(page.comparison.sequence_numbers(label)[units.sequence], sequence)


def test_a_point_has_one_number_on_both_maps(small_index: Index) -> None:
    for label in LABELS:
        page = Page(Document(), small_index, checkpoint=label, **HEAD)
        text = [page.comparison.units(label)["text"].iloc[unit] for unit in page.maps.units.unit]
        assert list(page.view.sources["tokens"].data["text"]) == text
        lengths = {len(page.view.sources[f"{side}_{kind}"].data["x"]) for side in SIDES for kind in KINDS}
        assert lengths == {len(text)}


def test_tooltips_tell_the_most_attended_key_of_each_checkpoint(small_index: Index) -> None:
    page = Page(Document(), small_index, checkpoint="matched", **HEAD)
    facts, known = page.view.sources["facts"].data, page.view.sources["vocabulary"].data["text"]
    text = small_index.tokens["text"].to_numpy()
    for side, head in zip(SIDES, page.comparison.pair("matched", **HEAD), strict=True):
        assert [known[i] for i in facts[f"{side}_query"]] == list(text[head.top_key[:, 0]])
        np.testing.assert_array_equal(facts[f"{side}_query_weight"], head.top_attention[:, 0])
        key = int(head.top_key[5, 0])
        attending = np.flatnonzero((head.top_key == key).any(axis=1))
        weights = np.where(head.top_key == key, head.top_attention, 0).max(axis=1)[attending]
        assert known[facts[f"{side}_key"][key]] == text[attending[weights.argmax()]]


# ---------------------------------------------------------------- what moved


def test_arrows_go_from_base_to_tuned_for_what_moved_furthest(small_index: Index) -> None:
    page = Page(Document(), small_index, overlay=True, n_arrows=40, **HEAD)
    base = small_index.head(**HEAD).projection("pca", 2)
    tuned = page.comparison.view("tuned", "pca", 2, **HEAD)
    start = np.concatenate([base.query, base.key])
    end = np.concatenate([tuned.query, tuned.key])
    distance = np.linalg.norm(end - start, axis=1)
    best = np.argsort(-distance, kind="stable")[:40]
    np.testing.assert_array_equal(page.data("arrows", "x0", "y0"), start[best])
    np.testing.assert_array_equal(page.data("arrows", "x1", "y1"), end[best])
    page.change(n_arrows=0)
    assert len(page.data("arrows", "x0")) == 0
    page.change(n_arrows=100_000)
    assert len(page.data("arrows", "x0")) == (distance > 0).sum(), "what stays where it was has no arrow"
    marker = page.view.sources["arrows"].data["marker"]
    order = np.argsort(-distance, kind="stable")[: len(marker)]
    assert marker == np.where(order >= len(base.query), "diamond", "circle").tolist()


def test_arrows_keep_to_the_hits_and_to_the_clicked_sequence(small_index: Index) -> None:
    text = small_index.tokens["text"].to_numpy()
    hits = np.flatnonzero(text == "the")
    page = Page(Document(), small_index, overlay=True, n_arrows=1_000, hits=hits, **HEAD)
    found = compare_select.arrows(page.maps, 1_000, page.view.strong)
    assert len(found.number) and set(page.maps.units.unit[found.number]) <= set(hits)
    page.hits = None
    page.change(selected=("query", 60))
    span = small_index.rows(int(small_index.tokens["sequence"].iloc[60]))
    starts = page.data("arrows", "x0", "y0")
    view = small_index.head(**HEAD).projection("pca", 2)
    own = np.concatenate([view.query[span], view.key[span]])
    assert len(starts) and all((own == place).all(axis=1).any() for place in starts)


def test_the_more_arrows_there_are_the_thinner_and_fainter_each_is() -> None:
    looks = [figures_two_maps.arrow_looks(n) for n in (1, 10, 30, 100, 1_000)]
    for name in ("alpha", "width", "size"):
        values = [float(each[name][0]) for each in looks]
        assert values[0] == values[1] and (np.diff(values[1:]) < 0).all() and values[-1] > 0.15, name
    assert len(figures_two_maps.arrow_looks(0)["alpha"]) == 0


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("label", LABELS)
def test_the_clicked_token_is_told_with_its_partners_in_both_checkpoints(
    small_index: Index, label: str, kind: str
) -> None:
    row = int(np.flatnonzero(small_index.tokens["text"].to_numpy() == "the")[3])
    page = Page(Document(), small_index, checkpoint=label, selected=(kind, row), **HEAD)
    card = two_maps_words.clicked_card(page.scene)
    said = html.unescape(re.sub(r"<[^>]*>", "", card))
    sequence = int(small_index.tokens["sequence"].iloc[row])
    assert f"page=sentence&amp;sequence={sequence}&amp;selected={kind}-{row}" in card
    start, text = int(small_index.tokens["start"].iloc[row]), small_index.sequences["text"].iloc[sequence]
    assert text[start - 20 : start + 20] in said and ">the</b>" in card
    unit = int(compare_select.unit_of_rows(page.comparison, label, np.array([row]))[0])  # type: ignore[arg-type]
    drift = page.comparison.token_drift(label)[unit]
    assert (f"JS {drift:.3f}" in said) == (kind == "query")
    both = page.comparison.attention(label, sequence, **HEAD)
    starts = page.comparison.unit_starts(label)
    at = unit - starts[np.searchsorted(starts, unit, side="right") - 1]
    before, after = ((each[at] if kind == "query" else each[:, at]) for each in both)
    n = len(before) - (label == "words" and kind == "query")
    best = int(np.maximum(before, after)[:n].argmax())
    partner = page.comparison.units(label)["text"].iloc[unit - at + best]
    assert f"{partner}{100 * before[best]:.0f} % → {100 * after[best]:.0f} %" in said
    page.change(selected=None)
    assert two_maps_words.clicked_card(page.scene) == ""


def test_arrows_belong_to_one_map_alone(page: Page, small_index: Index) -> None:
    assert len(page.data("arrows", "x0")) == 0 and len(page.view.maps.children) == 2
    page.change(overlay=True)
    assert len(page.data("arrows", "x0")) == 30 and page.view.maps.children == [page.view.plots["tuned"]]
    page.change(overlay=False)
    assert page.view.maps.children == [page.view.plots["base"], page.view.plots["tuned"]]


def test_the_sentence_says_how_far_and_warns_where_the_map_is_poor(page: Page, small_index: Index) -> None:
    pair = page.maps
    far = {kind: np.linalg.norm(pair.tuned.place[kind] - pair.base.place[kind], axis=1) for kind in KINDS}
    place = np.concatenate([pair.base.place[kind] for kind in KINDS])
    width = np.ptp(place, axis=0).max()
    found = compare_select.movement(page.comparison, page.state, pair)  # type: ignore[arg-type]
    assert found is not None
    assert found.most == pytest.approx(max(far["query"].max(), far["key"].max()) / width)
    assert found.median == {kind: pytest.approx(np.median(far[kind]) / width) for kind in KINDS}
    scores = small_index.head(**HEAD).projection("pca", 2).scores
    assert scores is not None
    said = page.view.says.text
    assert f"{100 * scores.recall1:.0f} %" in said and "31 %" in said
    assert 'class="poor"' in said and "Do not read nearness as attention" in said
    page.comparison.view = lambda *_: small_index.head(**HEAD).projection("pca", 2)  # type: ignore[method-assign]
    same = Page(Document(), small_index, **HEAD)
    same.comparison.view = page.comparison.view  # type: ignore[method-assign]
    same.change(layer=2, head=4)
    assert len(compare_select.arrows(compare_select.pair_of(same.comparison, page.state), 50).number) == 0  # type: ignore[arg-type]


# ---------------------------------------------------------------- each on its own map


@pytest.mark.parametrize("label", ["matched", "words"])
def test_what_has_no_common_map_is_shown_on_its_own(small_index: Index, label: str) -> None:
    page = Page(Document(), small_index, checkpoint=label, overlay=True, selected=("query", 60), **HEAD)
    assert not page.maps.common and len(page.view.maps.children) == 2, "nothing can be laid over another"
    assert len(page.data("arrows", "x0")) == 0
    assert page.view.plots["base"].x_range is not page.view.plots["tuned"].x_range
    assert page.view.controls.how.disabled and not page.view.controls.arrows.visible
    rows = page.maps.units.row
    for side, head in zip(SIDES, page.comparison.pair(label, **HEAD), strict=True):
        np.testing.assert_array_equal(page.data(f"{side}_query", "x", "y"), head.projection("pca", 2).query[rows[side]])
    assert "no arrows" in page.view.says.text
    assert ("(compared)" in page.view.plots["tuned"].title.text) == (label == "matched"), "another model is not tuned"
    page.change(checkpoint="tuned")
    assert page.maps.common and page.view.plots["base"].x_range is page.view.plots["tuned"].x_range
    assert len(page.data("arrows", "x0"))


def test_every_token_of_a_word_is_that_word(small_index: Index) -> None:
    page = Page(Document(), small_index, checkpoint="words", **HEAD)
    tokens, table = small_index.tokens, page.comparison.units("words")
    unit = compare_select.unit_of_rows(page.comparison, "words", np.arange(len(tokens)))  # type: ignore[arg-type]
    assert (tokens["kind"] == "subword").any(), "the corpus has words of several tokens"
    for row, found in enumerate(unit):
        if tokens["is_special"].iloc[row]:
            assert found == -1
        else:
            assert table["text"].iloc[found] == tokens["word_text"].iloc[row]
            assert table["sequence"].iloc[found] == tokens["sequence"].iloc[row]


def test_a_head_without_a_map_says_why(unmapped_index: Index) -> None:
    page = Page(Document(), unmapped_index, layer=1, head=2)
    assert "7 of 9 of its query and key vectors hold nan or infinity" in page.view.says.text
    page.change(head=1)
    assert "moved" in page.view.says.text


def test_where_there_is_no_map_the_page_says_what_to_do(small_index: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    page = Page(Document(), small_index, checkpoint="matched", **HEAD)
    monkeypatch.setattr(Index, "maps", (("pca", 3),))
    page.change(head=5)
    assert "qkspace project" in page.view.says.text and not page.view.maps.visible
    monkeypatch.undo()
    page.change(head=6)
    assert page.view.maps.visible and "qkspace project" not in page.view.says.text


# ---------------------------------------------------------------- clicking and colours


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("kind", KINDS)
def test_a_click_shows_the_attention_of_each_checkpoint(page: Page, small_index: Index, side: str, kind: str) -> None:
    row = isolated(small_index, 2, 3, kind)
    page.click(side, kind, row)
    assert page.state.selected == (kind, row)
    sequence = int(small_index.tokens["sequence"].iloc[row])
    rows = small_index.rows(sequence)
    for name, attention in zip(SIDES, page.comparison.attention("tuned", sequence, **HEAD), strict=True):
        weight = attention[row - rows.start] if kind == "query" else attention[:, row - rows.start]
        others = np.flatnonzero(weight >= LEAST_SHOWN)
        places = page.maps.side(name).place["key" if kind == "query" else "query"][rows][others]
        ends = page.data(f"{name}_own", *(("x1", "y1") if kind == "query" else ("x0", "y0")))
        np.testing.assert_array_equal(ends, places)
        drawn = page.data(f"{name}_own_{kind}", "x", "y")
        np.testing.assert_array_equal(drawn, page.maps.side(name).place[kind][rows])  # type: ignore[index]
    page.tap(side, 9.9, 9.9)
    assert page.state.selected is None and len(page.data(f"{side}_own", "x0")) == 0


def test_hits_are_larger_and_the_rest_is_faint_on_both(small_index: Index) -> None:
    hits = np.flatnonzero(small_index.tokens["text"].to_numpy() == "the")
    page = Page(Document(), small_index, hits=hits, **HEAD)
    others = np.setdiff1d(np.arange(small_index.n_tokens), hits)
    for name in (f"{side}_{kind}" for side in SIDES for kind in KINDS):
        size, colour = (np.asarray(page.view.sources[name].data[column]) for column in ("size", "colour"))
        assert size[hits].min() > size[others].max()
        assert (colour[hits] & 0xFF).min() > 4 * (colour[others] & 0xFF).max()


def test_attention_is_gained_by_some_keys_and_lost_by_others(page: Page, small_index: Index) -> None:
    change = compare_select.received_change(page.comparison, "tuned", **HEAD)  # type: ignore[arg-type]
    starts = small_index.row_starts
    np.testing.assert_allclose(np.add.reduceat(change, starts[:-1]), 0, atol=1e-4)
    assert (change[starts[:-1]] > 0).all(), "the first token of each sequence gains"
    page.change(colour="received")
    colour = np.asarray(page.view.sources["base_key"].data["colour"])
    red, blue = colour >> 24 & 0xFF, colour >> 8 & 0xFF
    top = starts[:-1][change[starts[:-1]] > np.percentile(np.abs(change), 99)]
    assert (red[top] > blue[top]).all(), "what gained is red"
    least = change.argmin()
    assert blue[least] > red[least], "what lost is blue"


def test_what_keys_gained_is_measured_beside_the_loop_and_shown_when_it_is_known(
    page: Page, monkeypatch: pytest.MonkeyPatch
) -> None:
    waiting: list[Any] = []
    monkeypatch.setattr("qkspace.app.views.two_maps.beside", lambda _document, *what: waiting.append(what))
    page.change(colour="received")
    assert "Being measured" in page.view.controls.legend.text
    assert len(set(np.asarray(page.view.sources["base_key"].data["colour"]).tolist())) == 1
    page.change(layer=1)  # another head meanwhile: what comes of the first is not its
    for work, tell in waiting:
        tell(work())
    colours = compare_select.colouring(page.comparison, page.state, page.maps)  # type: ignore[arg-type]
    drawn = np.asarray(page.view.sources["base_key"].data["colour"]) & ~np.uint32(0xFF)
    np.testing.assert_array_equal(drawn, colours.key & ~np.uint32(0xFF))
    assert len(np.unique(drawn)) > 10 and "Attention that the key gained" in page.view.controls.legend.text


def test_each_colour_of_the_explorer_can_be_chosen(page: Page, small_index: Index) -> None:
    values = [value for value, _ in compare_select.colour_choices(page.comparison)]  # type: ignore[arg-type]
    assert {"drift", "received", "query / key", "upos", "kind", "position"} <= set(values)
    page.change(colour="upos")
    tag = small_index.tokens["upos"].to_numpy()
    for side in SIDES:
        colour = np.asarray(page.view.sources[f"{side}_key"].data["colour"])
        assert len(set(colour[tag == "NOUN"])) == 1 and set(colour[tag == "NOUN"]) != set(colour[tag == "DET"])
    assert "NOUN" in page.view.controls.legend.text


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_drift_can_be_seen_at_every_step_and_its_steps_told_apart(theme: str) -> None:
    ground = _luminance(THEMES[theme]["plot"])
    scale = [_luminance(colour) for colour in compare_select.drift_scale(theme)]
    for light in [*scale, *(_luminance(colour) for colour in compare_select.received_scale(theme))]:
        assert (max(light, ground) + 0.05) / (min(light, ground) + 0.05) >= 3, "WCAG 2: graphical objects"
    steps = np.diff(scale)
    assert (steps[np.abs(steps) > 1e-4] < 0).all() if theme == "light" else (steps[np.abs(steps) > 1e-4] > 0).all()


def test_hardly_any_drift_looks_like_hardly_any(page: Page) -> None:
    scale = compare_select.drift_scale("light")
    drift = np.zeros(len(page.maps.units.unit), dtype=np.float32)
    drift[0] = 0.001
    page.comparison.token_drift = lambda *_: drift  # type: ignore[method-assign]
    colours = compare_select.colouring(page.comparison, page.state, page.maps)  # type: ignore[arg-type]
    step = [int(colour[1:], 16) << 8 for colour in scale].index(int(colours.query[0]))
    assert 0 < step < 0.2 * len(scale) and colours.legend.high == "0.01"


def _luminance(colour: str) -> float:
    parts = np.array([int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)])
    linear = np.where(parts <= 0.04045, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4)
    return float(linear @ [0.2126, 0.7152, 0.0722])


def test_what_a_label_or_a_token_holds_is_never_markup(page: Page, small_index: Index) -> None:
    attack = "<img src=x onerror=alert(1)>"
    named = small_index.tokens.assign(text=attack)
    page.comparison.base_label = "<b>base"
    page.comparison.units = lambda _label: named  # type: ignore[method-assign]
    said = two_maps_words.said(page.comparison, page.state, page.maps)  # type: ignore[arg-type]
    assert attack not in said and "&lt;img src=x" in said
    assert "<b>base" not in said.replace("<b>&lt;b&gt;base</b>", "") and "&lt;b&gt;base" in said
    page.change(selected=("query", 60))
    assert "<img" not in two_maps_words.clicked_card(page.scene)


def test_a_sequence_that_is_not_among_those_drawn_can_be_clicked(page: Page, small_index: Index) -> None:
    pair = compare_select.pair_of(page.comparison, page.state, small_index.n_tokens // 3)  # type: ignore[arg-type]
    row = int(np.setdiff1d(np.arange(small_index.n_tokens), pair.units.unit)[2])
    page.change(selected=("key", row))
    found = compare_select.clicked(page.scene, pair)
    assert found is not None and (found.number == -1).all() and found.unit[found.at] == row
    view = page.comparison.view("tuned", "pca", 2, **HEAD)
    np.testing.assert_array_equal(found.place["tuned"]["key"], view.key[found.unit])


def test_only_what_has_changed_is_sent(page: Page) -> None:
    before = {name: source.data["x"] for name, source in page.view.sources.items() if name.endswith(("query", "key"))}
    facts = page.view.sources["facts"].data["drift"]
    page.change(colour="upos", selected=("query", 60), theme="dark", overlay=True)
    for name in (f"{side}_{kind}" for side in SIDES for kind in KINDS):
        assert page.view.sources[name].data["x"] is before[name]
    assert page.view.sources["facts"].data["drift"] is facts


# ---------------------------------------------------------------- in a browser

FIGURE_JS = """
window.maps = {
  view: (side) => { const plot = qk.model("compare_" + side)
    return Array.from(Bokeh.index.roots).map((root) => qk.find(root, plot)).find((view) => view) },
  pixel: (side, x, y) => { const view = maps.view(side), box = view.canvas_view.el.getBoundingClientRect()
    return [box.x + view.frame.x_scale.compute(x), box.y + view.frame.y_scale.compute(y)] },
  range: (side) => { const {x_range: x, y_range: y} = qk.model("compare_" + side)
    return [x.start, x.end, y.start, y.end] },
  middle: (side) => { const box = maps.view(side).canvas_view.el.getBoundingClientRect()
    return [box.x + box.width / 2, box.y + box.height / 2] },
  scale: (side) => { const [x0, y0] = maps.pixel(side, 0, 0), [x1, y1] = maps.pixel(side, 1, 1)
    return [x1 - x0, y0 - y1] },
}
"""
APP = """
import sys
sys.path.insert(0, {tests!r})
from bokeh.io import curdoc
from bokeh.models import GlobalInlineStyleSheet
from qkspace.app.style import variables_css
from qkspace.index import Index
from test_two_maps import Page
asked = {{name: values[0].decode() for name, values in curdoc().session_context.request.arguments.items()}}
page = Page(curdoc(), Index({index!r}), layer=2, head=3, overlay="overlay" in asked,
            theme=asked.get("theme", "light"), checkpoint=asked.get("checkpoint", "tuned"))
page.view.root.stylesheets = [GlobalInlineStyleSheet(css=variables_css(page.state.theme, whole=True))]
"""


@pytest.fixture(scope="module")
def address(small_index: Index, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The view alone, served."""
    folder = tmp_path_factory.mktemp("served") / "view"
    folder.mkdir()
    tests = str(Path(__file__).parent)
    (folder / "main.py").write_text(APP.format(tests=tests, index=str(small_index.root)), encoding="utf-8")
    port = free_port()
    command = [sys.executable, "-m", "bokeh", "serve", str(folder), "--port", str(port)]
    assert command[:4] == bokeh_serve(port)[:4]
    with running(command, f"http://localhost:{port}/view", folder / "log") as url:
        yield url


def _opened(visit: Visit, url: str, size: tuple[int, int] = SIZES[0]) -> Seen:
    seen = visit(url, size)
    seen.ask(FIGURE_JS)
    seen.until("() => maps.view('tuned') != null && qk.model('compare_tuned').x_range.fitted != null")
    return seen


def _pixel(seen: Seen, side: str, kind: str, i: int) -> tuple[float, float]:
    place = [float(seen.column(f"{side}_{kind}", axis)[i]) for axis in ("x", "y")]
    x, y = seen.ask("([s, x, y]) => maps.pixel(s, x, y)", [side, *place])
    return float(x), float(y)


@pytest.mark.browser
@pytest.mark.parametrize("size", SIZES, ids="{0[0]}x{0[1]}".format)
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_both_maps_have_one_scale(
    visit: Visit, address: str, tmp_path: Path, size: tuple[int, int], theme: str
) -> None:
    seen = _opened(visit, f"{address}?theme={theme}", size)
    save(seen, tmp_path, f"two-maps-{size[0]}-{theme}")
    for side in SIDES:
        across, up = seen.ask("(s) => maps.scale(s)", side)
        assert across == pytest.approx(up, rel=0.01), "a unit is as long across as up"
    left, right = (seen.ask("(s) => maps.scale(s)", side) for side in SIDES)
    assert left == pytest.approx(right, rel=0.001)
    assert seen.ask("() => qk.cut()") == []


@pytest.mark.browser
def test_the_mouse_marks_a_token_on_both_maps(visit: Visit, address: str, small_index: Index) -> None:
    seen = _opened(visit, address)
    row = isolated(small_index, 2, 3)
    seen.page.mouse.move(*_pixel(seen, "base", "query", row))
    seen.until("(i) => qk.column('tuned_near', 'index')[0] == i", row)
    for side in SIDES:
        place = [seen.column(f"{side}_near", axis)[0] for axis in ("x", "y")]
        assert place == [seen.column(f"{side}_query", axis)[row] for axis in ("x", "y")]
    assert seen.column("tuned_near", "label").tolist() == [small_index.tokens["text"].iloc[row]]
    seen.page.wait_for_timeout(300)
    text = " ".join(seen.deep_text().split())
    head = small_index.head(**HEAD)
    best = small_index.tokens["text"].iloc[int(head.top_key[row, 0])]
    assert f"base attends most to: {best} {100 * float(head.top_attention[row, 0]):.0f} %" in text
    assert f"tuned attends most to: {best}" in text and "nats (0 to 0.69)" in text
    seen.page.mouse.move(5, 5)
    seen.until("() => qk.column('tuned_near', 'x').length == 0 && qk.column('base_near', 'x').length == 0")


@pytest.mark.browser
def test_a_click_on_one_map_selects_on_both(visit: Visit, address: str, small_index: Index) -> None:
    seen = _opened(visit, address)
    row = isolated(small_index, 2, 3)
    seen.page.mouse.click(*_pixel(seen, "tuned", "query", row))
    seen.until("() => qk.column('base_picked', 'x').length == 1 && qk.column('tuned_own', 'alpha').length > 0")
    for side in SIDES:
        assert seen.column(f"{side}_picked", "x")[0] == seen.column(f"{side}_query", "x")[row]
    left, right, _, top = seen.ask("() => maps.range('base')")
    corner = [0.99 * left + 0.01 * right, top - 0.01 * (right - left)]
    seen.page.mouse.click(*seen.ask("([x, y]) => maps.pixel('base', x, y)", corner))
    seen.until("() => qk.column('base_picked', 'x').length == 0 && qk.column('tuned_picked', 'x').length == 0")


@pytest.mark.browser
def test_zoom_is_shared_where_the_map_is(visit: Visit, address: str) -> None:
    for checkpoint, shared in (("tuned", True), ("matched", False)):
        seen = _opened(visit, f"{address}?checkpoint={checkpoint}")
        before = {side: seen.ask("(s) => maps.range(s)", side) for side in SIDES}
        box = seen.ask("() => maps.middle('base')")
        seen.page.mouse.move(*box)
        seen.page.mouse.wheel(0, -400)
        seen.until("(x) => maps.range('base')[0] > x + 1e-6", before["base"][0])
        after = {side: seen.ask("(s) => maps.range(s)", side) for side in SIDES}
        if shared:
            assert after["tuned"] == after["base"]
        else:
            assert after["tuned"] == before["tuned"]
        for side in SIDES:
            across, up = seen.ask("(s) => maps.scale(s)", side)
            assert across == pytest.approx(up, rel=0.01)
        seen.ask("() => qk.model('compare_base').reset.emit()")
        seen.until("(x) => Math.abs(maps.range('base')[0] - x) < 1e-6", before["base"][0])
        assert {side: seen.ask("(s) => maps.range(s)", side) for side in SIDES} == before


@pytest.mark.browser
def test_arrow_heads_lie_on_their_arrows_just_before_the_tuned_place(
    visit: Visit, address: str, tmp_path: Path
) -> None:
    seen = _opened(visit, f"{address}?overlay=1")
    seen.until("() => qk.column('heads', 'x').length == 30")
    save(seen, tmp_path, "two-maps-overlay")

    def check() -> None:
        start, end, head = (
            np.stack([seen.column(name, column) for column in columns], axis=1).astype(float)
            for name, columns in (("arrows", ("x0", "y0")), ("arrows", ("x1", "y1")), ("heads", ("x", "y")))
        )
        per_unit = seen.ask("() => maps.scale('tuned')")[0]
        back = np.linalg.norm(end - head, axis=1) * per_unit
        length = np.linalg.norm(end - start, axis=1) * per_unit
        np.testing.assert_allclose(back, np.minimum(8, length / 2), atol=0.2)
        toward, line = (end - head), (end - start)
        cosine = (toward * line).sum(axis=1) / np.linalg.norm(toward, axis=1) / np.linalg.norm(line, axis=1)
        np.testing.assert_allclose(cosine, 1, atol=1e-3)
        angle = seen.column("heads", "angle") + np.pi / 2
        unit = line / np.linalg.norm(line, axis=1)[:, None]
        np.testing.assert_allclose(np.stack([np.cos(angle), np.sin(angle)], axis=1), unit, atol=1e-3)

    check()
    before = seen.ask("() => maps.range('tuned')")
    seen.page.mouse.move(*seen.ask("() => maps.middle('tuned')"))
    seen.page.mouse.wheel(0, -600)
    seen.until("(x) => maps.range('tuned')[0] > x + 1e-6", before[0])
    seen.page.wait_for_timeout(300)
    check()


@pytest.mark.browser
@pytest.mark.parametrize("zoomed", [False, True], ids=["whole", "zoomed"])
def test_one_map_and_two_can_be_changed_to_and_fro(visit: Visit, address: str, *, zoomed: bool) -> None:
    seen = _opened(visit, address)
    if zoomed:
        left = seen.ask("() => maps.range('base')")[0]
        seen.page.mouse.move(*seen.ask("() => maps.middle('base')"))
        seen.page.mouse.wheel(0, -400)
        seen.until("(x) => maps.range('base')[0] > x + 1e-6", left)
    first = seen.ask("() => [maps.scale('base'), maps.range('base')]")
    seen.ask("() => { qk.model('compare_overlay').active = 1 }")
    alike = "() => { const [x, y] = maps.scale('tuned'); return Math.abs(x / y - 1) < 0.01 }"
    seen.until("() => maps.view('base') == null && qk.column('heads', 'x').length == 30")
    seen.until(alike)
    if zoomed:
        assert seen.ask("() => maps.range('tuned')")[2:] == pytest.approx(first[1][2:]), (
            "what was looked at is still seen"
        )
    seen.ask("() => { qk.model('compare_overlay').active = 0 }")
    seen.until("() => maps.view('base') != null && qk.column('arrows', 'x0').length == 0")
    seen.until(alike)
    for side in SIDES:
        assert seen.ask("(s) => maps.scale(s)", side) == pytest.approx(first[0], rel=0.02)
        assert seen.ask("(s) => maps.range(s)", side) == pytest.approx(first[1], rel=0.02)
