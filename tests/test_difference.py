"""Tests of the difference of attention over one sequence: its numbers against the attention itself, its page in Chromium."""

from __future__ import annotations

import asyncio
import base64
import json
import re
import threading
import zlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from bokeh.document import Document
from bokeh.events import DocumentReady
from bokeh.layouts import column
from browsing import SIZES, WAIT, Seen, Visit, new_page, save
from conftest import MakeCheckpoint
from numpy.typing import NDArray

from qkspace.app.compare_state import CompareScene, CompareState
from qkspace.app.language import LANGUAGES, SUBJECTS, strings
from qkspace.app.scripts import script
from qkspace.app.style import THEMES, variables_css
from qkspace.app.views.difference import PREFIX, DifferenceView
from qkspace.comparison import difference
from qkspace.comparison.difference import (
    LEVELS,
    PAGE_LEVELS,
    THUMB_LEVELS,
    difference_data,
    difference_page,
    encode,
    encode_change,
    pooled_change,
    strongest_head,
)
from qkspace.comparison.reader import Comparison
from qkspace.index import Index
from qkspace.schema import QKSpaceError

ATTACK = "</script><img src=x onerror=alert(1)>"
QUERY, KEY = ".token[data-side=query]", ".token[data-side=key]"
TUNED, WORDS = "tuned", "words"
MAX_LINES = 2000
MINUS = "\u2212"  # as the page writes it
LOOK_JS = """(path) => { const style = getComputedStyle(path)
  return [style.stroke, style.strokeDasharray] }"""
DRAWN_JS = """(paths) => paths.map((path) => [+path.dataset.query, +path.dataset.key, +path.getAttribute("stroke-width"),
  +path.getAttribute("stroke-opacity")])"""
INSIDE_JS = """() => { const stage = document.querySelector("#view > div").shadowRoot.querySelector(".stage")
  const box = stage.getBoundingClientRect()
  return [box.x + box.width * .3, box.y + box.height * .4] }"""


@pytest.fixture(scope="module")
def comparison(
    tmp_path_factory: pytest.TempPathFactory, decoder_index: Index, make_checkpoint: MakeCheckpoint
) -> Comparison:
    """A tiny Llama beside another of the same tokenizer, and beside a tiny BERT, whose tokens are others. Only to be read."""
    from qkspace.comparison.build import compare

    tuned = [str(make_checkpoint("llama", seed=1)), str(make_checkpoint("bert"))]
    out = tmp_path_factory.mktemp("comparison") / "c"
    return compare(str(decoder_index.root), tuned, out=out, names=["base", TUNED, WORDS], n_jobs=1)


class Renamed:
    """A comparison whose units have other texts."""

    def __init__(self, comparison: Comparison, texts: list[str]) -> None:
        self.comparison, self.texts = comparison, texts

    def __getattr__(self, name: str) -> Any:
        return getattr(self.comparison, name)

    def units(self, label: str) -> pd.DataFrame:
        """Return the units with the other texts."""
        units = self.comparison.units(label)
        return units.assign(text=[self.texts[i % len(self.texts)] for i in range(len(units))])


def codes(record: dict[str, Any]) -> NDArray[Any]:
    """Return the array of a record as it was before it was made flat."""
    return np.asarray(record["data"]).reshape(record["shape"])


def longest(comparison: Comparison, label: str = TUNED) -> int:
    numbers, lengths = comparison.sequence_numbers(label), np.diff(comparison.unit_starts(label))
    return int(numbers[lengths.argmax()])


def change_of(comparison: Comparison, sequence: int, layer: int, head: int, label: str = TUNED) -> NDArray[Any]:
    base, tuned = comparison.attention(label, sequence, layer, head)
    return np.asarray(tuned - base)


# ------------------------------------------------------------------------------------------------ Python


@pytest.mark.parametrize("levels", [LEVELS, PAGE_LEVELS])
def test_encoded_weights_are_as_near_as_promised(levels: int) -> None:
    weight = np.concatenate([np.linspace(0, 1, 100_001), np.geomspace(1e-9, 1, 10_001)])
    assert np.abs(encode(weight, levels) / levels - weight).max() <= 1 / (2 * levels) + 1e-12


def test_changes_of_small_pictures_are_as_near_as_promised() -> None:
    change = np.concatenate(
        [np.linspace(-1, 1, 100_001), np.geomspace(1e-9, 1, 10_001), -np.geomspace(1e-9, 1, 10_001)]
    )
    code = encode_change(change).astype(int) - 128
    back = np.sign(code) * (code / THUMB_LEVELS) ** 2
    assert np.all(np.abs(back - change) <= np.sqrt(np.abs(change)) / THUMB_LEVELS + 1 / (4 * THUMB_LEVELS**2) + 1e-12)
    assert np.all(back * change >= 0) and encode_change(np.zeros(1))[0] == 128


@pytest.mark.parametrize("shape", [(7, 7), (70, 71), (200, 33), (1, 1)])
def test_a_pixel_is_the_largest_change_that_falls_into_it(shape: tuple[int, int]) -> None:
    change = np.random.default_rng(0).normal(size=shape)
    picture = pooled_change(change, 32)
    height, width = (min(32, n) for n in shape)
    assert picture.shape == (height, width)
    y, x = np.arange(shape[0]) * height // shape[0], np.arange(shape[1]) * width // shape[1]
    for i in range(height):
        for j in range(width):
            inside = change[np.ix_(y == i, x == j)].ravel()
            assert picture[i, j] == inside[np.abs(inside).argmax()]


def test_what_is_sent_is_tuned_minus_base(comparison: Comparison) -> None:
    sequence = longest(comparison)
    data = difference_data(comparison, TUNED, sequence, heads=[(1, 2), (0, 3), (1, 2)])
    assert set(data["weights"]) == {"1/2", "0/3"}
    rows = comparison.base.rows(sequence)
    assert data["tokens"] == comparison.base.tokens["text"].iloc[rows].tolist()
    assert data["isSpecial"] == comparison.base.tokens["is_special"].iloc[rows].tolist() and not data["outside"]
    for layer, head in ((1, 2), (0, 3)):
        sent = data["weights"][f"{layer}/{head}"]
        base, tuned = (codes(sent[name]).astype(float) / LEVELS for name in ("base", "tuned"))
        expected = change_of(comparison, sequence, layer, head)
        assert np.abs(expected).max() > 0.05
        assert np.abs((tuned - base) - expected).max() <= 1 / LEVELS + 1e-7
        assert np.array_equal(codes(sent["js"]), comparison.token_drift(TUNED, layer, head)[rows])


def test_the_bars_are_the_divergence_of_what_is_drawn(comparison: Comparison) -> None:
    for label in (TUNED, WORDS):
        sequence = longest(comparison, label)
        sent = difference_data(comparison, label, sequence, heads=[(1, 1)])["weights"]["1/1"]
        p, q = (codes(sent[name]).astype(float) / LEVELS for name in ("base", "tuned"))
        middle = (p + q) / 2

        def entropy(weight: NDArray[Any]) -> NDArray[Any]:
            return np.asarray(-(weight * np.log(np.where(weight > 0, weight, 1))).sum(axis=1))

        js = entropy(middle) - (entropy(p) + entropy(q)) / 2
        assert np.allclose(codes(sent["js"]), js, atol=2e-3)


def test_words_have_a_last_column_of_what_is_outside(comparison: Comparison) -> None:
    sequence = longest(comparison, WORDS)
    data = difference_data(comparison, WORDS, sequence, heads=[(0, 0)])
    n = len(data["tokens"])
    assert data["unit"] == "word" and data["outside"] and not any(data["isSpecial"])
    for name in ("base", "tuned"):
        weight = codes(data["weights"]["0/0"][name]) / LEVELS
        assert weight.shape == (n, n + 1) and np.allclose(weight.sum(axis=1), 1, atol=1e-3)
        assert weight[:, n].max() > 0.01


def test_small_pictures_are_those_of_every_head_of_a_layer(comparison: Comparison) -> None:
    sequence = longest(comparison)
    data = difference_data(comparison, TUNED, sequence, thumbs=[1])
    assert not data["weights"] and list(data["thumbs"]) == ["1"]
    pictures = codes(data["thumbs"]["1"])
    for head in range(4):
        expected = encode_change(pooled_change(change_of(comparison, sequence, 1, head)))
        assert np.array_equal(pictures[head], expected)


def test_what_cannot_be_shown_is_refused_in_words(comparison: Comparison, monkeypatch: pytest.MonkeyPatch) -> None:
    sequence = longest(comparison)
    with pytest.raises(
        QKSpaceError, match=r"Sequence 9999 is not in both base and tuned, which share 30 between 0 and 29"
    ):
        difference_data(comparison, TUNED, 9999)
    with pytest.raises(QKSpaceError, match="no head 9 in layer 0"):
        difference_data(comparison, TUNED, sequence, heads=[(0, 9)])
    with pytest.raises(QKSpaceError, match="'lines', 'heat', 'pair', 'all'"):
        difference_page(comparison, TUNED, sequence, mode="bars")  # type: ignore[arg-type]
    with pytest.raises(QKSpaceError, match="'auto', 'light', 'dark'"):
        difference_page(comparison, TUNED, sequence, theme="blue")  # type: ignore[arg-type]
    with pytest.raises(QKSpaceError, match="no layer 1 to show: the page holds layers 0"):
        difference_page(comparison, TUNED, sequence, layers=[0], layer=1)
    with pytest.raises(QKSpaceError, match="No layer was asked for"):
        difference_page(comparison, TUNED, sequence, layers=[])
    monkeypatch.setattr(difference, "MOST_WEIGHTS", 100)
    with pytest.raises(QKSpaceError, match="a browser takes up to 100"):
        difference_data(comparison, TUNED, sequence, heads=[(0, 0)])


def held(page: str) -> dict[str, Any]:
    """Return what a page holds."""
    found: dict[str, Any] = json.loads(re.search(r'id="held">(.*?)</script>', page, re.DOTALL)[1])  # type: ignore[index]
    return found


def test_a_page_holds_every_head_and_opens_at_the_one_that_drifted_most(
    comparison: Comparison, monkeypatch: pytest.MonkeyPatch
) -> None:
    sequence = longest(comparison)
    given = held(difference_page(comparison, TUNED, sequence))
    assert set(given["data"]["weights"]) == {f"{layer}/{head}" for layer in range(2) for head in range(4)}
    assert (given["options"]["layer"], given["options"]["head"]) == strongest_head(comparison, TUNED)
    monkeypatch.setattr(difference, "MANY_WEIGHTS", 10)
    coarse = held(difference_page(comparison, TUNED, sequence, layers=[1], layer=1, head=2))
    assert set(coarse["data"]["weights"]) == {f"1/{head}" for head in range(4)} and coarse["options"]["head"] == 2
    assert coarse["data"]["levels"] == PAGE_LEVELS
    base, tuned = (
        np.frombuffer(zlib.decompress(base64.b64decode(record["data"]), -15), np.uint16).reshape(record["shape"])
        for record in (coarse["data"]["weights"]["1/2"][name] for name in ("base", "tuned"))
    )
    change = (tuned.astype(float) - base) / PAGE_LEVELS
    assert np.abs(change - change_of(comparison, sequence, 1, 2)).max() <= 1 / PAGE_LEVELS + 1e-7


def test_the_page_has_no_address_and_no_token_ends_its_script(comparison: Comparison) -> None:
    texts = [ATTACK, "<!--", "\u2028"]
    page = difference_page(Renamed(comparison, texts), TUNED, longest(comparison))  # type: ignore[arg-type]
    assert page.count("</script>") == 3 and ATTACK not in page and "<!--" not in page
    without = page.replace("http://www.w3.org/2000/svg", "")  # the name of SVG's elements, which nobody asks for
    assert not re.search(r"https?://|@import|fetch\(|XMLHttpRequest", without)
    assert set(held(page)["data"]["tokens"]) == set(texts)


def test_the_view_is_given_all_of_its_sentences() -> None:
    block = re.search(r"const STRINGS = \{(.*?)\n\s*\}\n", script("difference"), re.DOTALL)
    assert block is not None
    own = dict(re.findall(r'(\w+):\s*"((?:[^"\\]|\\.)*)"', block[1]))
    assert len(own) > 40
    for language in LANGUAGES:
        of_view = {name.removeprefix(PREFIX) for name in strings(language) if name.startswith(PREFIX)}
        assert of_view - {f"{name}_{subject}" for name in own for subject in SUBJECTS} == set(own)
    assert {name: strings("en")[f"{PREFIX}{name}"] for name in own} == own


# ------------------------------------------------------------------------------------------------ what the app sends


class Page:
    """A page that holds the view and nothing else, as `qkspace.app.compare_document` holds it among others."""

    def __init__(self, comparison: Any, **chosen: Any) -> None:
        self.comparison, self.changes = comparison, []
        self.state = CompareState(**{"page": "sentence", "checkpoint": TUNED, "layer": 1, "head": 2, **chosen})
        self.view = DifferenceView(comparison, self.state, self.change)
        self.view.paint(self.state.theme)

    @classmethod
    def shown(cls, comparison: Any, **chosen: Any) -> Page:
        """Return a page that stands."""
        page = cls(comparison, **chosen)
        page.show()
        return page

    def change(self, **parts: Any) -> None:
        """Take over a choice and show it."""
        self.changes.append(parts)
        self.state = replace(self.state, **parts)
        self.show()

    def show(self) -> None:
        """Show what the state asks for."""
        self.view.show(CompareScene(self.comparison, self.state))

    @property
    def sent(self) -> tuple[dict[str, Any] | None, dict[str, Any]]:
        """What went to the browser last: data and what is chosen."""
        return self.view.host.tags[1], self.view.host.tags[2]

    def says(self, what: str, value: Any) -> None:
        """Do what the browser would say."""
        self.view.answers.tags = [what, value, len(self.view.answers.tags)]


def test_the_sequence_with_most_drift_comes_first(comparison: Comparison) -> None:
    page = Page.shown(comparison)
    data, chosen = page.sent
    most = comparison.sequences(TUNED, 1, 2, top=20)
    assert data is not None and data["sequence"] == most["sequence"].iloc[0]
    assert page.view.sequence == data["sequence"]
    assert list(data["weights"]) == ["1/2"] and (chosen["layer"], chosen["head"]) == (1, 2)
    page.change(layer=0)
    assert page.view.sequence == comparison.sequences(TUNED, 0, 2, top=1)["sequence"].iloc[0]


def test_only_what_is_asked_for_is_sent(comparison: Comparison) -> None:
    page = Page.shown(comparison, sequence=3)
    page.change(theme="dark")
    chosen = {"layer": 1, "head": 2, "selected": None, "mode": "lines", "theme": "dark", "trouble": ""}
    assert page.sent == (None, chosen)
    page.says("need", {"id": f"{TUNED}/3", "heads": [[0, 1]]})
    data = page.sent[0]
    assert data is not None and list(data["weights"]) == ["0/1"] and not data["thumbs"]
    page.says("need", {"id": f"{TUNED}/3", "thumbs": [0]})
    assert page.sent[0] is not None and list(page.sent[0]["thumbs"]) == ["0"] and not page.sent[0]["weights"]
    turn = page.view.turn
    page.says("need", {"id": f"{TUNED}/4", "heads": [[0, 1]]})  # of a sequence that is gone
    assert page.view.turn == turn
    page.says("need", {"id": f"{TUNED}/3", "heads": [[7, 1]]})
    assert "no layer 7" in page.sent[1]["trouble"]


def test_sequences_are_picked_by_number_and_in_order(comparison: Comparison) -> None:
    page = Page.shown(comparison, sequence=3)
    for what, expected in (
        ({"step": 1}, 4),
        ({"step": -1}, 3),
        ({"sequence": 12}, 12),
        ({"sequence": 999}, 29),
        ({"step": 1}, 29),
    ):
        page.says("pick", what)
        assert page.state.sequence == expected and page.view.drawn == (TUNED, expected)


@pytest.mark.parametrize("label", [TUNED, WORDS])
def test_a_token_clicked_here_is_the_one_clicked_elsewhere(comparison: Comparison, label: str) -> None:
    page = Page.shown(comparison, checkpoint=label, sequence=5)
    page.says("view", {"mode": "lines", "layer": 1, "head": 2, "selected": {"side": "key", "token": 2}})
    assert page.state.selected is not None and page.state.sequence == 5
    side, row = page.state.selected
    unit = comparison.units(label).iloc[int(comparison.unit_starts(label)[5]) + 2]
    assert side == "key" and row == (unit["base_row"] if label == WORDS else comparison.base.rows(5).start + 2)
    assert page.sent[1]["selected"] == {"side": "key", "token": 2}
    outside = {"side": "key", "token": len(page.comparison.units(label))}
    page.says("view", {"mode": "lines", "layer": 1, "head": 2, "selected": outside})
    assert page.state.selected is None  # what is outside is no token
    page.change(selected=("query", comparison.base.rows(8).start + 1), sequence=None)
    assert page.view.drawn == (label, 8) and page.sent[1]["selected"]["side"] == "query"


def test_a_change_of_nothing_but_the_picture_changes_nothing_else(comparison: Comparison) -> None:
    page = Page.shown(comparison, sequence=5)
    page.says("view", {"mode": "lines", "layer": 1, "head": 2, "selected": None})
    assert page.changes == []
    page.says("view", {"mode": "lines", "layer": 0, "head": 3, "selected": None})
    assert page.changes == [{"mode": "lines", "layer": 0, "head": 3, "selected": None, "sequence": 5}]
    page.says("view", {"mode": "heat", "layer": 0, "head": 3, "selected": None})
    assert page.state.mode == "heat" and page.sent[1]["mode"] == "heat"


def test_a_sequence_that_is_not_there_is_said_and_another_shown(comparison: Comparison) -> None:
    page = Page.shown(comparison, sequence=9999)
    data, chosen = page.sent
    assert data is not None and data["sequence"] == comparison.sequences(TUNED, 1, 2, top=1)["sequence"].iloc[0]
    assert "Sequence 9999 is not in both" in chosen["trouble"]
    page.change(sequence=4)
    assert page.sent[1]["trouble"] == ""


def test_all_is_sent_again_when_the_browser_missed_it(comparison: Comparison) -> None:
    page = Page.shown(comparison, sequence=3)
    page.show()
    assert page.sent[0] is None
    page.says("again", None)
    assert page.sent[0] is not None and list(page.sent[0]["weights"]) == ["1/2"]


# ------------------------------------------------------------------------------------------------ browser

Open = Callable[..., Any]


@pytest.fixture
def open_page(context: Any, tmp_path: Path) -> Iterator[Open]:
    """Open a page from a file; at the end none may have complained, opened a dialog or asked for anything."""
    faults: list[str] = []
    pages: list[Any] = []

    def show(html: str, *, scheme: str = "light", size: tuple[int, int] = SIZES[0]) -> Any:
        path = tmp_path / f"page{len(pages)}.html"
        path.write_text(html, encoding="utf-8")
        page = new_page(context, size, scheme)
        pages.append(page)
        page.on("console", lambda message: faults.append(message.text))
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.on("dialog", lambda dialog: (faults.append(dialog.message), dialog.dismiss()))
        page.on("request", lambda request: None if request.url == path.as_uri() else faults.append(request.url))
        page.goto(path.as_uri())
        settle(page)
        return page

    yield show
    for page in pages:
        page.close()
    assert not faults, faults


def settle(page: Any) -> None:
    """Wait until everything is unpacked and drawn."""
    page.evaluate("() => view.ready()")


def choose(page: Any, **state: Any) -> None:
    page.evaluate("(state) => view.set(state)", state)
    settle(page)


def tip(page: Any) -> str:
    """Return the text of the tooltip; empty where none is shown."""
    found = page.locator(".tip")
    return str(found.inner_text()) if found.is_visible() else ""


def lines(page: Any, kind: str, group: str = "every") -> set[tuple[int, int]]:
    """Return the pairs (query, key) of the lines of a sign."""
    found = page.locator(f"g.{group} path.{kind}").evaluate_all(
        "(paths) => paths.map((path) => [Number(path.dataset.query), Number(path.dataset.key)])"
    )
    return {(query, key) for query, key in found}


def pairs(mask: NDArray[Any]) -> set[tuple[int, int]]:
    return {(int(query), int(key)) for query, key in np.argwhere(mask)}


def rounded(page_change: NDArray[Any]) -> NDArray[Any]:
    return np.asarray(np.rint(page_change * LEVELS) / LEVELS)


@pytest.mark.browser
def test_mathematics_is_that_of_numpy(open_page: Open, comparison: Comparison) -> None:
    page = open_page(difference_page(comparison, TUNED, longest(comparison)))
    random = np.random.default_rng(1)
    values = random.normal(size=500).astype(np.float32) * 0.3
    values[:50] = 0
    order = [int(i) for i in np.argsort(-np.abs(values), kind="stable") if abs(values[i]) >= 0.2]
    for most in (len(order) + 1, 20, 1):
        found = page.evaluate(
            "([v, n]) => qkspaceDifferenceView.maths.largestOf(Float32Array.from(v), .2, n)", [values.tolist(), most]
        )
        assert found == {"places": order[:most], "count": len(order)}
    equal = page.evaluate(
        "() => qkspaceDifferenceView.maths.largestOf(new Float32Array(9000).fill(-.5), .1, 70).places"
    )
    assert equal == list(range(70))
    base, tuned = random.integers(0, LEVELS, (2, 30))
    change = page.evaluate(
        "([b, t, n]) => [...qkspaceDifferenceView.maths.changeOf(b, t, n)]", [base.tolist(), tuned.tolist(), LEVELS]
    )
    assert np.allclose(change, (tuned - base) / LEVELS, atol=1e-7)
    code = np.arange(1, 256)
    back = page.evaluate("(codes) => codes.map(qkspaceDifferenceView.maths.thumbChange)", code.tolist())
    assert np.allclose(back, np.sign(code - 128) * ((code - 128) / THUMB_LEVELS) ** 2)


@pytest.mark.browser
def test_lines_are_red_and_whole_for_more_blue_and_dashed_for_less(open_page: Open, comparison: Comparison) -> None:
    sequence = longest(comparison)
    page = open_page(difference_page(comparison, TUNED, sequence, layer=1, head=2))
    change = rounded(change_of(comparison, sequence, 1, 2))
    assert lines(page, "more") == pairs(change >= 0.02) and lines(page, "less") == pairs(change <= -0.02)
    assert min(len(lines(page, "more")), len(lines(page, "less"))) > 3
    for kind, red in (("more", True), ("less", False)):
        colour, dashes = page.locator(f"g.every path.{kind}").first.evaluate(LOOK_JS)
        r, _, b = (int(x) for x in re.findall(r"\d+", colour)[:3])
        assert (r > b + 60) is red and (b > r + 60) is not red and (dashes == "none") is red
    widths = page.locator("g.every path").evaluate_all(DRAWN_JS)
    sizes = np.array([abs(change[int(query), int(key)]) for query, key, *_ in widths])
    drawn = np.array(widths)[:, 2:]
    assert np.all(np.diff(drawn[np.argsort(sizes)], axis=0) >= -0.011)  # wider and stronger the larger the change is
    foot = page.locator(".foot").inner_text()
    assert "tuned attends more" in foot and "tuned attends less" in foot and f"{np.abs(change).max():.3f}" in foot
    assert "Changes are rounded, by 0.00002 at most" in foot
    page.locator("[data-role=threshold]").fill("45")
    settle(page)
    assert lines(page, "more") == pairs(change >= 0.203) and lines(page, "less") == pairs(change <= -0.203)


@pytest.mark.browser
def test_hover_shows_only_the_lines_of_a_token_and_its_numbers(open_page: Open, comparison: Comparison) -> None:
    sequence = longest(comparison)
    page = open_page(difference_page(comparison, TUNED, sequence, layer=1, head=2))
    base, tuned = comparison.attention(TUNED, sequence, 1, 2)
    change = rounded(tuned - base)
    row = int(np.abs(change).max(axis=1).argmax())
    page.hover(f"{QUERY}[data-unit='{row}']")
    mask = np.zeros_like(change, dtype=bool)
    mask[row] = True
    assert lines(page, "more", "only") == pairs(mask & (change >= 0.02))
    assert lines(page, "less", "only") == pairs(mask & (change <= -0.02))
    assert not page.locator("g.every").is_visible()
    best = int(np.abs(change[row]).argmax())
    said = tip(page)
    assert f"{base[row, best]:.3f}" in said and f"→ {tuned[row, best]:.3f}" in said
    assert f"{'+' if change[row, best] > 0 else MINUS}{abs(change[row, best]):.3f}" in said
    assert f"JS {comparison.token_drift(TUNED, 1, 2)[comparison.base.rows(sequence)][row]:.3f} nats" in said
    figures = page.locator("g.only text").all_text_contents()
    assert len(figures) == len(lines(page, "more", "only")) + len(lines(page, "less", "only"))
    assert all(re.fullmatch(r"(1\.0|0|\.\d\d) → (1\.0|0|\.\d\d)", text) for text in figures)
    page.mouse.move(2, 2)
    assert page.locator("g.only path").count() == 0 and page.locator("g.every").is_visible() and not tip(page)


@pytest.mark.browser
def test_a_click_keeps_a_token_and_keys_do_what_the_mouse_does(open_page: Open, comparison: Comparison) -> None:
    sequence = longest(comparison)
    page = open_page(difference_page(comparison, TUNED, sequence, layer=1, head=2))
    base, tuned = comparison.attention(TUNED, sequence, 1, 2)
    page.click(f"{QUERY}[data-unit='5']")
    page.mouse.move(2, 2)
    assert page.evaluate("() => view.state().selected") == {"side": "query", "token": 5}
    assert {query for query, _ in lines(page, "more", "only") | lines(page, "less", "only")} == {5}
    page.hover(f"{KEY}[data-unit='0']")
    assert f"{base[5, 0]:.3f}" in tip(page) and f"{tuned[5, 0]:.3f}" in tip(page)
    page.keyboard.press("Escape")
    assert page.evaluate("() => view.state().selected") is None
    page.focus(f"{QUERY}[data-unit='0']")
    for key in ("ArrowDown", "ArrowDown", "ArrowRight", "ArrowUp", "Enter"):
        page.keyboard.press(key)
    assert page.evaluate("() => view.state().selected") == {"side": "key", "token": 1}
    page.keyboard.press("ArrowDown")  # the focus is where it was, though all was drawn anew
    page.keyboard.press("Enter")
    assert page.evaluate("() => view.state().selected") == {"side": "key", "token": 2}


@pytest.mark.browser
@pytest.mark.parametrize("mode", ["heat", "pair"])
def test_a_cell_says_base_tuned_and_change(open_page: Open, comparison: Comparison, mode: Any) -> None:
    sequence = longest(comparison)
    page = open_page(difference_page(comparison, TUNED, sequence, layer=1, head=2, mode=mode))
    base, tuned = comparison.attention(TUNED, sequence, 1, 2)
    page.focus(".stage")
    for key in ["ArrowDown"] * 4 + ["ArrowRight"] * 2:  # the first one enters the map
        page.keyboard.press(key)
    said = tip(page)
    expected = tuned[3, 2] - base[3, 2]
    assert f"{base[3, 2]:.3f}" in said and f"{tuned[3, 2]:.3f}" in said
    assert (f"{'+' if expected > 0 else MINUS}{abs(expected):.3f}" if abs(expected) >= 0.0005 else "\t0") in said
    assert page.locator(".unseen").text_content().split()[-2:] == said.split()[-2:]  # and to who hears the page
    page.mouse.move(*page.evaluate(INSIDE_JS))
    assert "→" in tip(page) and tip(page) != said


@pytest.mark.browser
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_cells_are_red_where_attention_grew(open_page: Open, comparison: Comparison, theme: Any) -> None:
    sequence = longest(comparison)
    page = open_page(difference_page(comparison, TUNED, sequence, layer=1, head=2, mode="all", theme=theme))
    page.wait_for_function(
        "() => document.querySelector('#view > div').shadowRoot.querySelectorAll('.thumb[data-painted]').length == 8"
    )
    pixels = page.locator(".thumb[data-layer='1'][data-head='2'] canvas").evaluate(
        "(c) => [...c.getContext('2d').getImageData(0, 0, c.width, c.height).data]"
    )
    picture = pooled_change(change_of(comparison, sequence, 1, 2))
    red, _, blue, _ = np.moveaxis(np.array(pixels).reshape(*picture.shape, 4), 2, 0)
    assert np.all(red[picture > 0.03] > blue[picture > 0.03] + 10) and np.all(
        blue[picture < -0.03] > red[picture < -0.03] + 10
    )
    assert (picture > 0.03).sum() > 3 and (picture < -0.03).sum() > 3


@pytest.mark.browser
def test_modes_follow_each_other_and_a_small_picture_opens_its_head(open_page: Open, comparison: Comparison) -> None:
    page = open_page(difference_page(comparison, TUNED, longest(comparison), layer=0, head=0))
    seen = {}
    for mode in ("heat", "pair", "all", "lines"):
        page.locator(f"[data-mode={mode}]").click()
        settle(page)
        assert page.locator("[role=tab][aria-selected=true]").get_attribute("data-mode") == mode
        seen[mode] = [page.locator(name).count() for name in ("g.every", ".pin canvas", ".thumb")]
    assert seen == {"heat": [0, 1, 0], "pair": [0, 1, 0], "all": [0, 0, 8], "lines": [1, 0, 0]}
    page.locator("[data-mode=heat]").click()
    page.locator("[data-mode=all]").click()
    page.locator(".thumb[data-layer='1'][data-head='3']").click()
    settle(page)
    now = page.evaluate("() => view.state()")
    assert (now["mode"], now["layer"], now["head"]) == ("heat", 1, 3)
    page.get_by_role("button", name="Previous head").click()
    assert page.evaluate("() => view.state().head") == 2
    assert page.get_by_role("button", name="Next layer").is_disabled()


@pytest.mark.browser
def test_special_tokens_oneself_and_outside_can_be_hidden(open_page: Open, comparison: Comparison) -> None:
    sequence = longest(comparison)
    page = open_page(difference_page(comparison, TUNED, sequence, layer=1, head=2))
    special = comparison.base.tokens["is_special"].iloc[comparison.base.rows(sequence)].to_numpy()
    change = rounded(change_of(comparison, sequence, 1, 2))
    page.check("[data-role=hideSpecial]")
    page.check("[data-role=hideSelf]")
    settle(page)
    assert special.any() and page.locator(QUERY).count() == page.locator(KEY).count() == (~special).sum()
    left = ~special[:, None] & ~special[None] & ~np.eye(len(special), dtype=bool)
    assert lines(page, "more") == pairs(left & (change >= 0.02)) and lines(page, "less") == pairs(
        left & (change <= -0.02)
    )
    to_oneself = int((np.abs(np.diag(change)) * ~special).argmax())
    page.hover(f"{QUERY}[data-unit='{to_oneself}']")
    assert abs(change[to_oneself, to_oneself]) >= 0.02
    alone = lines(page, "more", "only") | lines(page, "less", "only")
    assert alone == {(query, key) for query, key in pairs(left & (np.abs(change) >= 0.02)) if query == to_oneself}

    sequence = longest(comparison, WORDS)
    page = open_page(difference_page(comparison, WORDS, sequence, layer=1, head=2))
    n = page.locator(QUERY).count()
    assert page.locator(KEY).count() == n + 1 and page.locator(".token.outside").inner_text() == "outside"
    change = rounded(change_of(comparison, sequence, 1, 2, WORDS))
    assert (n - 1 >= 1) and lines(page, "more") == pairs(change >= 0.02)
    page.get_by_label("Hide outside").check()
    assert page.locator(KEY).count() == n and page.locator(".token.outside").count() == 0


@pytest.mark.browser
@pytest.mark.parametrize("mode", ["lines", "heat", "pair", "all"])
def test_tokens_are_text_and_nothing_else(open_page: Open, comparison: Comparison, mode: Any) -> None:
    texts = [ATTACK, "\n", " ", "日本語", "", "<b onclick=alert(2)>x"]
    page = open_page(difference_page(Renamed(comparison, texts), TUNED, longest(comparison), mode=mode))  # type: ignore[arg-type]
    if mode == "lines":
        found = page.locator(QUERY).all_inner_texts()
        assert set(found) == {ATTACK, "⏎", "␣", "日本語", "∅", texts[5]}
        page.locator(QUERY, has_text=ATTACK).first.hover()
        assert ATTACK in tip(page)
    elif mode != "all":
        page.focus(".stage")
        for _ in range(len(texts)):
            page.keyboard.press("ArrowDown")
            assert "→" in tip(page)
    assert (
        page.evaluate(
            "() => document.querySelector('#view > div').shadowRoot.querySelectorAll('img, script, .stage b, .tip b').length"
        )
        == 0
    )


LONG_JS = """(n) => {
  const of = (fill) => ({dtype: "uint16", shape: [n, n], data: Uint16Array.from({length: n * n}, fill)})
  const noise = (i) => (i * 7919 + (i >> 7) * 104729) % 20011
  const js = {dtype: "float32", shape: [n], data: new Float32Array(n).fill(.1)}
  const data = {id: "long", sequence: 0, base: "base", tuned: "tuned", unit: "token", outside: false, levels: 65535, heads: [1],
    tokens: Array.from({length: n}, (_, i) => `token${i}`), isSpecial: new Array(n).fill(false), thumbs: {},
    weights: {"0/0": {base: of((_, i) => noise(i)), tuned: of((_, i) => noise(i + 5)), js}}}
  view.update(data)
}"""


@pytest.mark.browser
def test_of_a_long_sequence_only_the_largest_changes_are_drawn(open_page: Open, comparison: Comparison) -> None:
    page = open_page(difference_page(comparison, TUNED, longest(comparison)))
    page.evaluate(LONG_JS, 1024)
    choose(page, mode="lines", threshold=0)
    assert page.locator("g.every path").count() == MAX_LINES
    assert re.search(r"Drawn: the largest 2000 of \d{6,} changes", page.locator(".foot").inner_text())
    for mode in ("lines", "heat", "pair"):
        choose(page, mode=mode)
        stage = page.locator(".stage").evaluate(
            "(s) => [s.scrollHeight > s.clientHeight, s.getBoundingClientRect().bottom <= innerHeight]"
        )
        assert stage == [True, True]  # it scrolls inside the card
    page.locator(".stage").evaluate("(s) => s.scrollTo(s.scrollWidth, s.scrollHeight)")
    settle(page)
    box = page.locator(".stage").bounding_box()
    page.mouse.move(box["x"] + box["width"] - 40, box["y"] + box["height"] - 40)
    assert re.search(r"token10\d\d → token10\d\d", tip(page))  # the last corner can be reached


MANY_HEADS_JS = """(n) => {
  const codes = {dtype: "uint16", shape: [n, n], data: new Uint16Array(n * n).fill(9)}
  const js = {dtype: "float32", shape: [n], data: new Float32Array(n)}
  const data = {id: "many", sequence: 0, base: "base", tuned: "tuned", unit: "token", outside: false, levels: 65535,
    heads: [14], tokens: Array.from({length: n}, (_, i) => `token${i}`), isSpecial: new Array(n).fill(false),
    thumbs: {}, weights: {}}
  const asked = [], root = document.getElementById("view"), shown = []
  view.destroy()
  const many = qkspaceDifferenceView(root, data, {mode: "heat", need: (what) => asked.push(what.heads[0][1])})
  for (let head = 0; head < 14; head++) {
    many.set({head})
    many.update({id: "many", weights: {[`0/${head}`]: {base: codes, tuned: codes, js}}})
    many.update({id: "many"})
    shown.push(root.firstChild.shadowRoot.querySelectorAll(".pin canvas").length)
  }
  return Promise.resolve().then(() => { asked.length = 0; many.set({head: 13}); many.set({head: 0}) })
    .then(() => [shown, asked])
}"""


@pytest.mark.browser
def test_heads_of_a_long_sequence_are_forgotten_and_asked_for_again(open_page: Open, comparison: Comparison) -> None:
    page = open_page(difference_page(comparison, TUNED, longest(comparison)))
    shown, asked = page.evaluate(MANY_HEADS_JS, 1024)
    assert shown == [1] * 14 and asked == [0]  # the last is still there, the first is not


@pytest.mark.browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", SIZES)
def test_nothing_sticks_out_and_text_can_be_read(
    open_page: Open, comparison: Comparison, scheme: str, size: tuple[int, int]
) -> None:
    page = open_page(difference_page(comparison, TUNED, longest(comparison)), scheme=scheme, size=size)
    for mode in ("lines", "heat", "pair", "all"):
        choose(page, mode=mode)
        found = page.evaluate(
            """() => { const root = document.querySelector("#view > div").shadowRoot, box = root.querySelector(".view")
            const of = (name) => getComputedStyle(box).getPropertyValue("--" + name).trim()
            const contrast = qkspaceDifferenceView.maths.contrast
            return { theme: box.dataset.theme, wide: document.documentElement.scrollWidth - innerWidth,
              tall: document.documentElement.scrollHeight - innerHeight, stage: root.querySelector(".stage").clientHeight,
              contrasts: ["ink", "muted", "more", "less"].map((name) => contrast(of(name), of("card"))),
              tab: contrast(of("accent"), of("accent-ink")), signs: contrast(of("more"), of("less")) } }"""
        )
        assert found["theme"] == scheme and found["wide"] <= 0 and found["tall"] <= 0 and found["stage"] > 400
        assert min(*found["contrasts"], found["tab"]) >= 4.5


# ------------------------------------------------------------------------------------------------ in the app


@pytest.fixture
def served(comparison: Comparison) -> Iterator[Callable[..., tuple[str, list[Page]]]]:
    """Serve a page with the view by Bokeh's own server, in a thread."""
    from bokeh.server.server import Server

    running: list[tuple[Any, threading.Thread]] = []

    def serve(*, later: bool = False, **chosen: Any) -> tuple[str, list[Page]]:
        pages: list[Page] = []
        ready = threading.Event()

        def make(doc: Document) -> None:
            page = Page(comparison, **chosen)
            pages.append(page)
            root = column(sizing_mode="stretch_both", styles={"height": "100vh"})

            def put() -> None:
                doc.hold("combine")  # as the page does: all that one choice changes goes together
                root.children = [page.view.root]
                page.show()
                doc.unhold()

            if later:
                doc.on_event(DocumentReady, lambda _event: put())
            else:
                put()
                doc.js_on_event(DocumentReady, page.view.draw)
            doc.add_root(root)

        def run() -> None:
            asyncio.set_event_loop(asyncio.new_event_loop())
            server = Server({"/": make}, port=0)
            server.start()
            running.append((server, threading.current_thread()))
            ready.set()
            server.io_loop.start()

        threading.Thread(target=run, daemon=True).start()
        assert ready.wait(20)
        return f"http://localhost:{running[-1][0].port}/", pages

    yield serve
    for server, thread in running:
        server.io_loop.add_callback(server.io_loop.stop)
        thread.join(10)


@pytest.mark.browser
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_the_app_sends_what_the_visitor_looks_at(
    served: Callable[..., tuple[str, list[Page]]], visit: Visit, comparison: Comparison, tmp_path: Path, theme: Any
) -> None:
    url, pages = served(theme=theme)
    seen: Seen = visit(url)
    page = seen.page
    page.add_style_tag(content=f"{variables_css(theme, whole=True)} body {{ background: {THEMES[theme]['page']}; }}")
    page.locator(QUERY).first.wait_for(timeout=WAIT)
    sequence = int(comparison.sequences(TUNED, 1, 2, top=1)["sequence"].iloc[0])
    assert page.locator("[data-role=sequence]").input_value() == str(sequence)

    page.locator("select[data-role=layer]").select_option("0")
    expected = rounded(change_of(comparison, sequence, 0, 2))
    page.locator("g.every path").first.wait_for(state="attached", timeout=WAIT)
    assert lines(page, "more") == pairs(expected >= 0.02) and pages[-1].state.layer == 0

    page.locator("[data-mode=all]").click()
    page.locator(".thumb[data-layer='1'][data-painted]").nth(3).wait_for(timeout=WAIT)
    assert page.locator(".thumb[data-painted]").count() == 8
    save(seen, tmp_path, f"difference-all-{theme}")
    page.locator(".thumb[data-layer='1'][data-head='0']").click()
    page.locator("g.every").wait_for(state="attached", timeout=WAIT)
    assert (pages[-1].state.layer, pages[-1].state.head) == (1, 0)

    page.locator("[data-role=sequence]").fill("7")
    page.keyboard.press("Enter")
    first = comparison.base.tokens["text"].iloc[comparison.base.rows(7)].tolist()
    page.locator(QUERY).nth(len(first) - 1).wait_for(timeout=WAIT)
    page.get_by_role("button", name="Next sequence").click()
    texts = comparison.base.tokens["text"].iloc[comparison.base.rows(8)].tolist()
    page.locator(QUERY).nth(len(texts) - 1).wait_for(timeout=WAIT)
    page.locator(QUERY).nth(2).click()
    page.locator(f"{QUERY}.pinned").wait_for(timeout=WAIT)
    for _ in range(100):  # until the server has heard of it
        if pages[-1].state.selected is not None:
            break
        page.wait_for_timeout(50)
    assert pages[-1].state.selected == ("query", comparison.base.rows(8).start + 2)
    save(seen, tmp_path, f"difference-lines-{theme}")
    assert page.locator(".view").get_attribute("data-theme") == theme


@pytest.mark.browser
def test_a_view_that_is_opened_later_is_drawn_too(
    served: Callable[..., tuple[str, list[Page]]], visit: Visit, comparison: Comparison
) -> None:
    url, pages = served(later=True, sequence=6)
    page = visit(url).page
    texts = comparison.base.tokens["text"].iloc[comparison.base.rows(6)].tolist()
    page.locator(QUERY).nth(len(texts) - 1).wait_for(timeout=WAIT)
    assert page.locator(QUERY).count() == len(texts) and page.locator(".view").count() == 1
    page.get_by_role("button", name="Next head").click()
    expected = rounded(change_of(comparison, 6, 1, 3))
    page.locator("g.every path").first.wait_for(state="attached", timeout=WAIT)
    assert lines(page, "more") == pairs(expected >= 0.02) and pages[-1].state.sequence == 6
