"""Tests of the app in a real Chromium, served as users serve it: what is seen is what the index says."""

from __future__ import annotations

import json
import logging
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from browsing import (
    READY_JS,
    SIZES,
    WAIT,
    Visit,
    background,
    bokeh_serve,
    free_port,
    isolated,
    rgb,
    running,
    save,
)
from conftest import REPOSITORY, MakeCheckpoint

from qkspace.app.colours import LINK_COLOUR, QUERY_COLOUR
from qkspace.app.style import THEMES
from qkspace.index import Index

pytestmark = pytest.mark.browser

ATTACK = "</script><img src=x onerror=alert(1)>"
BOLD = '<b onclick="alert(2)">bold</b>'


# -------------------------------------------------------------------------------------------------- servers


@pytest.fixture(scope="module")
def address(small_index: Index, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The small index, served as the README says: `bokeh serve qkspace/app --port N --args --index INDEX`."""
    port = free_port()
    command = bokeh_serve(port, "--index", str(small_index.root))
    with running(command, f"http://localhost:{port}/app", tmp_path_factory.mktemp("log") / "bokeh.log") as url:
        yield url


@pytest.fixture(scope="module")
def hostile_index(tmp_path_factory: pytest.TempPathFactory, make_checkpoint: MakeCheckpoint) -> Index:
    """An index in which everything that can be named is named like HTML: model, file, columns, values, tokens."""
    from transformers import AutoTokenizer

    from qkspace.pipeline import build

    folder = tmp_path_factory.mktemp("hostile")
    model = folder / "<b>model<img src=x onerror=alert(3)>"
    shutil.copytree(make_checkpoint("bert", vocab_size=500), model)
    tokenizer = AutoTokenizer.from_pretrained(model)
    tokenizer.add_tokens([ATTACK, BOLD])
    tokenizer.save_pretrained(model)
    corpus = folder / "<b>corpus<img src=x onerror=alert(4)>.jsonl"
    lines = (REPOSITORY / "data" / "curious.txt").read_text(encoding="utf-8").splitlines()
    attacking = [line.split() for line in lines if ATTACK in line or "<b>" in line]
    assert attacking, "data/curious.txt holds no line with a tag"
    words = [*attacking, *([f"the lamp {i} says".split() + [ATTACK, "and", BOLD, "again"] for i in range(12)])]
    records = [
        {
            "words": sentence,
            "<i>tag": [ATTACK if i % 2 else BOLD for i in range(len(sentence))],
            ATTACK: ATTACK if n % 2 else "plain",
            "genre": BOLD if n % 3 else ATTACK,
        }
        for n, sentence in enumerate(words)
    ]
    corpus.write_text("\n".join(json.dumps(record) for record in records), encoding="utf-8")
    return build(str(model), corpus, out=folder / "<i>index", methods=["pca"], dims=[2], n_jobs=1, top_k=4)


@pytest.fixture(scope="module")
def two_served(small_index: Index, hostile_index: Index, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The hostile index and the small one, served by `qkspace serve`."""
    port = free_port()
    command = [sys.executable, "-m", "qkspace.cli", "serve", str(hostile_index.root), str(small_index.root)]
    log = tmp_path_factory.mktemp("log") / "qkspace.log"
    with running([*command, "--port", str(port)], f"http://localhost:{port}/", log) as url:
        yield url


# -------------------------------------------------------------------------------------------------- first sight


@pytest.mark.parametrize("size", SIZES, ids="{0[0]}x{0[1]}".format)
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_the_page_opens_and_draws_the_points(
    visit: Visit, address: str, small_index: Index, tmp_path: Path, size: tuple[int, int], theme: str
) -> None:
    began = time.perf_counter()
    seen = visit(f"{address}?layer=2&head=3&theme={theme}", size)
    logging.info("first picture at %dx%d, %s: %.2f s", *size, theme, time.perf_counter() - began)
    name = f"{size[0]}x{size[1]}-{theme}"
    save(seen, tmp_path, name)
    assert seen.head() == "Layer 2, head 3"
    x, y = map(round, seen.pixel("query", isolated(small_index, 2, 3)))
    seen.choose("n_links", 0)
    seen.until("() => qk.column('links', 'alpha').length == 0")
    with_points = seen.picture()[y, x]
    seen.ask("() => { qk.model('query').visible = qk.model('key').visible = false }")
    seen.page.wait_for_timeout(300)
    without = seen.picture()[y, x]
    assert np.abs(without - rgb(THEMES[theme]["plot"])).max() <= 2, "without points there is the ground alone"
    toward = rgb(QUERY_COLOUR[theme]) - without
    share = float((with_points - without) @ toward / (toward @ toward))
    assert 0.5 < share <= 1.02, "a query is drawn there, in the colour of queries"
    seen.ask("() => { qk.model('query').visible = qk.model('key').visible = true }")
    seen.choose("n_links", 100)
    seen.choose("colour", "upos")
    seen.page.get_by_text("Colour: upos").wait_for(timeout=WAIT)
    seen.click_token("query", isolated(small_index, 2, 3))
    save(seen, tmp_path, f"{name}-upos-clicked")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_takes_the_browsers_theme_until_told_otherwise(visit: Visit, address: str, scheme: str) -> None:
    seen = visit(address, scheme=scheme)
    seen.until("(t) => qk.model('map').background_fill_color.toLowerCase() == t", THEMES[scheme]["plot"].lower())
    assert np.abs(background(seen) - rgb(THEMES[scheme]["page"])).max() <= 2


# -------------------------------------------------------------------------------------------------- choosing a head


def test_the_drop_down_changes_title_positions_and_address(visit: Visit, address: str, small_index: Index) -> None:
    seen = visit(f"{address}?layer=2&head=3")
    began = time.perf_counter()
    seen.page.get_by_label("Head", exact=True).select_option("7")
    seen.until_head(2, 7)
    logging.info("another head: %.2f s", time.perf_counter() - began)
    view = small_index.head(2, 7).projection()
    np.testing.assert_allclose(seen.column("query", "x"), view.query[:, 0], rtol=1e-6)
    np.testing.assert_allclose(seen.column("key", "y"), view.key[:, 1], rtol=1e-6)
    seen.until_address(layer=2, head=7)
    again = visit(seen.page.url)
    assert again.head() == "Layer 2, head 7", "the address can be sent to somebody"


def test_arrow_keys_change_head_and_layer(visit: Visit, address: str, small_index: Index) -> None:
    seen = visit(f"{address}?layer=2&head=3")
    for key, layer, head in (("ArrowRight", 2, 4), ("ArrowDown", 3, 4), ("ArrowLeft", 3, 3), ("ArrowUp", 2, 3)):
        seen.page.keyboard.press(key)
        seen.until_head(layer, head)
        place = small_index.head(layer, head).projection().query
        np.testing.assert_allclose(seen.column("query", "x"), place[:, 0], rtol=1e-6)
        seen.until_address(layer=layer, head=head)
    for _ in range(6):
        seen.page.keyboard.press("ArrowLeft")
    seen.until_head(2, 0)


def test_an_arrow_key_in_a_drop_down_moves_one_step(visit: Visit, address: str) -> None:
    seen = visit(f"{address}?layer=2&head=3")
    seen.page.get_by_label("Head", exact=True).focus()
    seen.page.keyboard.press("ArrowDown")
    seen.until_head(2, 4)
    seen.page.wait_for_timeout(500)
    assert seen.head() == "Layer 2, head 4"


def test_an_arrow_key_with_alt_is_the_browsers(visit: Visit, address: str) -> None:
    seen = visit(f"{address}?layer=2&head=3")
    seen.page.keyboard.press("Control+ArrowRight")
    seen.page.keyboard.press("Alt+ArrowUp")
    seen.page.wait_for_timeout(600)
    assert seen.head() == "Layer 2, head 3"


def test_the_chart_of_heads_opens_the_one_that_is_clicked(visit: Visit, address: str) -> None:
    seen = visit(f"{address}?layer=2&head=3")
    x, y = seen.ask(
        "() => { const v = Array.from(Bokeh.index.roots).map((r) => qk.find(r, qk.model('heads'))).find((f) => f), "
        "b = v.canvas_view.el.getBoundingClientRect(); "
        "return [b.x + v.frame.x_scale.compute(9), b.y + v.frame.y_scale.compute(4)] }"
    )
    seen.page.mouse.click(x, y)
    seen.until_head(4, 9)


@pytest.mark.parametrize("size", SIZES, ids="{0[0]}x{0[1]}".format)
def test_a_unit_is_as_long_up_as_across(visit: Visit, address: str, size: tuple[int, int]) -> None:
    seen = visit(f"{address}?layer=2&head=3", size)
    for layer, head in ((2, 3), (2, 4), (5, 4)):
        seen.choose("layer", str(layer))
        seen.choose("head", str(head))
        seen.until_head(layer, head)
        seen.page.wait_for_timeout(300)
        across, up = seen.ask("() => qk.scale()")
        assert across == pytest.approx(up, rel=0.02), (layer, head)
        left, top, right, bottom = seen.frame()
        places = np.concatenate([seen.ask("(r) => qk.pixels(r)", kind) for kind in ("query", "key")])
        assert left <= places[:, 0].min() and places[:, 0].max() <= right, "another head is shown whole"
        assert top <= places[:, 1].min() and places[:, 1].max() <= bottom, "another head is shown whole"


def test_a_first_click_does_not_undo_a_zoom(visit: Visit, address: str, small_index: Index) -> None:
    seen = visit(f"{address}?layer=2&head=3")
    row = isolated(small_index, 2, 3)
    x, y = seen.pixel("query", row)
    seen.page.mouse.move(x, y)
    before = seen.ask("() => qk.scale()")[0]
    seen.page.mouse.wheel(0, -300)
    seen.until("(s) => qk.scale()[0] > 1.1 * s", before)
    zoomed = seen.ask("() => qk.scale()")[0]
    seen.click_token("query", row)
    seen.page.wait_for_timeout(500)
    assert seen.ask("() => qk.scale()")[0] == pytest.approx(zoomed, rel=0.01)
    seen.page.keyboard.press("ArrowRight")
    seen.until_head(2, 4)
    across, up = seen.ask("() => qk.scale()")
    assert across == pytest.approx(up, rel=0.02)


# -------------------------------------------------------------------------------------------------- tokens


@pytest.mark.parametrize("kind", ["query", "key"])
def test_hovering_tells_the_token_its_sentence_and_its_partners(
    visit: Visit, address: str, small_index: Index, kind: str
) -> None:
    seen = visit(f"{address}?layer=2&head=3")
    row = isolated(small_index, 2, 3, kind)
    x, y = seen.pixel(kind, row)
    seen.page.mouse.move(x, y + 2)
    seen.page.mouse.move(x, y)
    tooltip = seen.page.locator(".bk-tooltip-content")
    tooltip.first.wait_for(timeout=WAIT)
    assert tooltip.count() == 1
    text = re.sub(r"\s+", " ", tooltip.inner_text())
    token = small_index.tokens.iloc[row]
    sequence = small_index.sequences.set_index("sequence").loc[token["sequence"]]
    head = small_index.head(2, 3)
    assert tooltip.locator("b").inner_text().strip() == token["text"]
    around = sequence["text"][max(0, token["start"] - 40) : token["end"] + 40]
    assert re.sub(r"\s+", " ", around).strip() in text
    assert f"token {token['position'] + 1} of {sequence['n_tokens']}" in text
    assert f"{kind} · L2H3" in text
    if kind == "query":
        others, weights = head.top_key[row, :3], head.top_attention[row, :3]
    else:
        attended, weight = np.nonzero(head.top_key == row), head.top_attention[head.top_key == row]
        order = np.argsort(-weight, kind="stable")[:3]
        others, weights = attended[0][order], weight[order]
    named = " · ".join(
        f"{small_index.tokens['text'].iloc[other]} {100 * weight:.0f} %"
        for other, weight in zip(others, weights, strict=True)
    )
    assert ("attends to: " if kind == "query" else "attended by: ") + named in text


@pytest.mark.parametrize("kind", ["query", "key"])
def test_clicking_a_token_shows_its_attention_and_escape_clears_it(
    visit: Visit, address: str, small_index: Index, kind: str
) -> None:
    seen = visit(f"{address}?layer=2&head=3")
    row = isolated(small_index, 2, 3, kind)
    seen.click_token(kind, row)
    rows = small_index.rows(int(small_index.tokens["sequence"].iloc[row]))
    attention = small_index.head(2, 3).attention(int(small_index.tokens["sequence"].iloc[row]))
    weights = attention[row - rows.start] if kind == "query" else attention[:, row - rows.start]
    np.testing.assert_allclose(seen.column("own", "alpha"), np.clip(weights[weights >= 0.02], 0.15, 1), rtol=1e-5)
    card = re.sub(r"\s+", " ", seen.page.locator(".sentence").inner_text())
    for word in small_index.tokens["text"].iloc[rows.start + 1 : rows.stop - 1]:
        assert word in card
    assert seen.page.locator(".token.clicked").inner_text() == small_index.tokens["text"].iloc[row]
    assert seen.page.locator(".token").count() == rows.stop - rows.start
    shares = [
        float(text.split()[0])
        for text in seen.page.locator("td.number").all_inner_texts()
        if re.match(r"[\d.]+ %$", text)
    ]
    strongest = [float(f"{100 * w:.1f}") for w in np.sort(weights)[::-1][:6]]
    assert shares[-len(strongest) :] == strongest
    x, y = map(round, seen.pixel(kind, row))
    seen.page.mouse.move(5, 5)
    seen.page.wait_for_timeout(300)
    ring = seen.picture()[y, x - 10 : x - 4]
    assert np.abs(ring - rgb(LINK_COLOUR["light"])).sum(axis=1).min() < 90, "the clicked point is ringed"
    seen.page.keyboard.press("Escape")
    seen.until("() => qk.column('picked', 'x').length == 0 && qk.column('own', 'alpha').length == 0")
    seen.page.get_by_text("Click a point to see").wait_for(timeout=WAIT)


def test_clicking_an_empty_place_clears_the_choice(visit: Visit, address: str, small_index: Index) -> None:
    seen = visit(f"{address}?layer=2&head=3")
    seen.click_token("query", isolated(small_index, 2, 3))
    seen.page.mouse.click(*seen.empty_place())
    seen.until("() => qk.column('picked', 'x').length == 0 && qk.column('own', 'alpha').length == 0")


@pytest.mark.parametrize("where", ["a drop-down", "a box"])
def test_escape_clears_wherever_the_focus_is(visit: Visit, address: str, small_index: Index, where: str) -> None:
    seen = visit(f"{address}?layer=2&head=3")
    seen.click_token("query", isolated(small_index, 2, 3))
    if where == "a drop-down":
        seen.page.get_by_label("Colour by").select_option(label="position in the sequence")
        seen.page.get_by_label("Colour by").focus()
    else:
        seen.page.get_by_label("a token with itself").click()
    seen.page.wait_for_timeout(500)
    seen.page.keyboard.press("Escape")
    seen.until("() => qk.column('picked', 'x').length == 0")


def test_two_visitors_do_not_share_a_choice(visit: Visit, address: str, small_index: Index) -> None:
    mine, other = visit(f"{address}?layer=2&head=3"), visit(f"{address}?layer=2&head=3")
    mine.click_token("query", isolated(small_index, 2, 3))
    mine.choose("colour", "upos")
    mine.page.get_by_text("Colour: upos").wait_for(timeout=WAIT)
    other.page.wait_for_timeout(500)
    assert len(other.column("picked", "x")) == len(other.column("own", "alpha")) == 0
    assert "Click a point to see" in other.deep_text() and "Colour: Query and key" in other.deep_text()
    other.page.keyboard.press("ArrowRight")
    other.until_head(2, 4)
    assert mine.head() == "Layer 2, head 3"


# -------------------------------------------------------------------------------------------------- widgets


def test_the_sliders_choose_the_links(visit: Visit, address: str, small_index: Index) -> None:
    seen = visit(f"{address}?layer=2&head=3")
    options: dict[str, bool] = {"special": False, "itself": False, "first": False}
    head = small_index.head(2, 3)
    for n_links, threshold in ((20, 0.1), (1000, 0.1), (1000, 0.6), (0, 0.6)):
        seen.choose("n_links", n_links)
        seen.choose("threshold", threshold)
        expected = head.links(top=n_links, threshold=threshold, **options)["attention"].to_numpy()
        seen.until("(n) => qk.column('links', 'alpha').length == n", len(expected))
        np.testing.assert_allclose(seen.column("links", "alpha"), expected, rtol=1e-6)
    seen.page.get_by_label("a token with itself").click()
    seen.choose("n_links", 50)
    expected = head.links(top=50, threshold=0.6, special=False, itself=True, first=False)["attention"].to_numpy()
    seen.until("(n) => qk.column('links', 'alpha').length == n", len(expected))
    np.testing.assert_allclose(seen.column("links", "alpha"), expected, rtol=1e-6)


def test_every_colour_can_be_chosen_and_its_legend_names_its_kinds(
    visit: Visit, address: str, small_index: Index
) -> None:
    seen = visit(f"{address}?layer=2&head=3")
    for choice, label in seen.ask("() => qk.model('colour').options"):
        before = seen.column("query", "colour")
        seen.page.get_by_label("Colour by").select_option(label=label)
        title = {"query / key": "Query and key"}.get(choice, choice if label.endswith("(of the corpus)") else label)
        seen.page.get_by_text(f"Colour: {title}", exact=False).first.wait_for(timeout=WAIT)
        if choice == "upos":
            legend = dict(
                zip(
                    seen.page.locator(".entry .label").all_inner_texts(),
                    seen.page.locator(".entry .count").all_inner_texts(),
                    strict=True,
                )
            )
            counts = small_index.tokens["upos"].value_counts()
            for tag in counts.index[:10]:
                assert legend[tag] == f"{counts[tag]:,}"
            assert len(set(seen.column("query", "colour"))) > 5
            assert (seen.column("query", "colour") != before).any()


def test_the_theme_changes_the_page_and_keeps_the_choice(visit: Visit, address: str, small_index: Index) -> None:
    seen = visit(f"{address}?layer=2&head=3&theme=light")
    seen.click_token("query", isolated(small_index, 2, 3))
    for button, theme in (("Dark", "dark"), ("Light", "light")):
        seen.page.get_by_role("button", name=button, exact=True).click()
        seen.until("(t) => qk.model('map').background_fill_color.toLowerCase() == t", THEMES[theme]["plot"].lower())
        seen.page.wait_for_timeout(400)
        assert np.abs(background(seen) - rgb(THEMES[theme]["page"])).max() <= 2
        assert len(seen.column("picked", "x")) == 1 and len(seen.column("own", "alpha")) > 0
        if theme == "dark":
            seen.until_address(theme="dark")
        left, top, _, _ = map(round, seen.frame())
        margin = seen.picture()[top - 20 : top + 200, left - 60 : left - 2].reshape(-1, 3)
        strangest = np.abs(margin - rgb(THEMES[theme]["card"])).max(axis=1)
        ink = np.abs(rgb(THEMES[theme]["muted"]) - rgb(THEMES[theme]["card"])).max()
        assert strangest.max() <= ink + 2, "nothing of the other theme is left around the map"
    assert seen.head() == "Layer 2, head 3"


def test_light_chosen_in_a_dark_browser_outlasts_a_reload(visit: Visit, address: str) -> None:
    seen = visit(f"{address}?layer=2&head=3", scheme="dark")
    seen.until("(t) => qk.model('map').background_fill_color.toLowerCase() == t", THEMES["dark"]["plot"].lower())
    seen.page.get_by_role("button", name="Light", exact=True).click()
    seen.until("(t) => qk.model('map').background_fill_color.toLowerCase() == t", THEMES["light"]["plot"].lower())
    seen.until_address(theme="light")


# -------------------------------------------------------------------------------------------------- layout


@pytest.mark.parametrize("size", SIZES, ids="{0[0]}x{0[1]}".format)
def test_nothing_is_cut_off(visit: Visit, address: str, small_index: Index, size: tuple[int, int]) -> None:
    seen = visit(f"{address}?layer=2&head=3", size)
    for state in ("first", "clicked", "upos"):
        if state == "clicked":
            seen.click_token("query", isolated(small_index, 2, 3))
            seen.page.locator("summary").click()
        if state == "upos":
            seen.choose("colour", "upos")
            seen.page.get_by_text("Colour: upos").wait_for(timeout=WAIT)
        seen.page.wait_for_timeout(300)
        assert seen.ask("() => qk.cut()") == [], state
        wide, tall = seen.ask(
            "() => [document.documentElement.scrollWidth - innerWidth, document.documentElement.scrollHeight - innerHeight]"
        )
        assert wide <= 0 and tall <= 0, "the page itself does not scroll"
        columns = seen.ask("() => qk.columns()")
        assert len(columns) == 2, "controls at the left, cards at the right"
        for column in columns:
            assert column["left"] >= 0 and column["right"] <= size[0] and column["bottom"] <= size[1]
            assert column["wide"] <= 0, "a column scrolls down, not sideways"
            assert column["end"] <= column["bottom"] + 1, "the last card can be scrolled into sight"


# -------------------------------------------------------------------------------------------------- strangers' words


def test_text_that_looks_like_html_stays_text_everywhere(
    visit: Visit, two_served: str, hostile_index: Index, tmp_path: Path
) -> None:
    seen = visit(two_served)
    tokens = hostile_index.tokens

    def is_harmless() -> str:
        seen.page.wait_for_timeout(250)
        assert seen.page.locator("img[src=x], b[onclick]").count() == 0
        return seen.deep_text()

    assert hostile_index.model_name in is_harmless(), "the header names the model"
    assert "<b>corpus<img src=x onerror=alert(4)>.jsonl" in is_harmless(), "the header names the file"
    header = seen.page.locator(".what").bounding_box()
    choice = seen.page.locator("select").filter(has_text="<i>index").bounding_box()
    assert header["x"] + header["width"] <= choice["x"], "a long name does not run under the drop-down beside it"
    choices = seen.ask("() => qk.model('colour').options")
    assert {"<i>tag", ATTACK, "genre"} <= {choice for choice, _label in choices}
    for choice, label in choices:
        seen.page.get_by_label("Colour by").select_option(label=label)
        if choice in ("<i>tag", ATTACK, "genre"):
            seen.page.get_by_text(f"Colour: {choice}", exact=False).first.wait_for(timeout=WAIT)
            assert ATTACK in seen.page.locator(".entry .label").all_inner_texts()
        is_harmless()
    rows = np.flatnonzero((tokens["text"] == ATTACK).to_numpy())
    assert len(rows), "the tokenizer kept the tag in one piece"
    for kind in ("query", "key"):
        row = int(rows[0])
        x, y = seen.pixel(kind, row)
        seen.page.mouse.move(x, y + 2)
        seen.page.mouse.move(x, y)
        seen.page.locator(".bk-tooltip-content").first.wait_for(timeout=WAIT)
        assert "<img" in seen.page.locator(".bk-tooltip-content").first.inner_text()
        is_harmless()
        seen.page.mouse.click(x, y)
        seen.until("() => qk.column('picked', 'x').length == 1")
        assert ATTACK in seen.page.locator(".sentence").inner_text()
        assert ATTACK in is_harmless()
        save(seen, tmp_path, f"hostile-{kind}")
        assert seen.ask("() => qk.cut()") == []
        seen.page.keyboard.press("Escape")
        seen.until("() => qk.column('picked', 'x').length == 0")
    assert not seen.faults, "no alert was raised"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_wrong_address_gives_a_page_that_says_so_in_readable_text(
    visit: Visit, address: str, two_served: str, tmp_path: Path, scheme: str
) -> None:
    for server, name in ((address, "bokeh"), (two_served, "qkspace")):
        for query, said in ((f"index={ATTACK}", "No index"), ("theme=<img src=x onerror=alert(5)>", "asks for theme")):
            seen = visit(f"{server}?{query}", scheme=scheme)
            seen.page.get_by_text(said).wait_for(timeout=WAIT)
            assert seen.page.locator("img[src=x]").count() == 0
            assert query.partition("=")[2] in seen.deep_text()
            save(seen, tmp_path, f"error-{scheme}-{name}-{query[:5]}")
            brightness = seen.picture().mean(axis=2)
            contrast = float(brightness.max() - brightness.min())
            assert contrast > 120, f"the text of {name} stands out from the page"


def test_qkspace_serve_offers_its_indexes(visit: Visit, two_served: str, small_index: Index) -> None:
    seen = visit(f"{two_served}?index=small&layer=1&head=2")
    assert small_index.model_name in seen.deep_text() and seen.head() == "Layer 1, head 2"
    assert set(seen.ask("() => qk.model('index').options")) == {"<i>index", "small"}
    with seen.page.expect_navigation():
        seen.choose("index", "<i>index")
    seen.page.wait_for_function(READY_JS, timeout=WAIT)
    seen.page.get_by_text("<b>model", exact=False).first.wait_for(timeout=WAIT)


def test_without_an_index_those_in_out_are_listed(
    visit: Visit, small_index: Index, hostile_index: Index, tmp_path: Path
) -> None:
    """Each with what it is of, and a link to its page; what cannot be opened with the reason, and without a link."""
    out = tmp_path / "out"
    out.mkdir()
    (out / "one").symlink_to(small_index.root, target_is_directory=True)
    (out / "two").symlink_to(hostile_index.root, target_is_directory=True)
    manifest = json.loads((small_index.root / "manifest.json").read_text(encoding="utf-8"))
    for name, what in {"damaged": {}, "newer": {"format_version": 99}, BOLD.replace("/", " "): {}}.items():
        (out / name).mkdir()
        (out / name / "manifest.json").write_text(json.dumps(manifest | what), encoding="utf-8")
    (out / "no index").mkdir()
    port = free_port()
    with running(bokeh_serve(port), f"http://localhost:{port}/app", tmp_path / "log", cwd=tmp_path) as url:
        listed = visit(url, wait=False)
        listed.page.get_by_text("Indexes in").wait_for(timeout=WAIT)
        rows = {row.locator("td").first.inner_text(): row for row in listed.page.locator("tr").all()[1:]}
        assert set(rows) == {"one", "two", "damaged", "newer", BOLD.replace("/", " ")}
        for said in (
            small_index.model_name,
            "parsed.conllu + plain.txt",
            f"{small_index.n_tokens:,}",
            "6 \u00d7 12",
            "pca 3-D",
        ):
            assert said in rows["one"].inner_text()
        for name in ("damaged", "newer", BOLD.replace("/", " ")):
            assert rows[name].locator("a").count() == 0, "what cannot be opened has no link"
            assert rows[name].locator(".wrong").count() == 1
        assert "format version 99" in rows["newer"].inner_text()
        assert "missing" in rows["damaged"].inner_text() or "not there" in rows["damaged"].inner_text()
        assert listed.page.locator("b[onclick], img[src=x]").count() == 0

        save(listed, tmp_path, "indexes")
        cut = listed.ask("() => qk.cut()")
        listed.page.get_by_role("link", name="two").click()
        listed.page.get_by_text("<b>model", exact=False).first.wait_for(timeout=WAIT)
        seen = visit(f"{url}?index=one&layer=0&head=1")
        assert small_index.model_name in seen.deep_text()
        seen.choose("head", "5")
        seen.until_address(index="one", head=5)
        for name, said in (("three", "No index 'three' is served here"), ("newer", "format version 99")):
            refused = visit(f"{url}?index={name}", wait=False)
            refused.page.get_by_text(said).wait_for(timeout=WAIT)
    assert not cut


# -------------------------------------------------------------------------------------------------- the command


def _serve_command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "qkspace.cli", "serve", *arguments]


def test_a_taken_port_is_said_to_be_taken(small_index: Index) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        done = subprocess.run(
            _serve_command(str(small_index.root), "--port", port, "--address", "127.0.0.1"),
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
            cwd=REPOSITORY,
        )
    assert done.returncode == 1
    assert f"Port {port} is taken" in done.stderr and "--port" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_folder_without_an_index_is_said_to_hold_none(tmp_path: Path) -> None:
    for arguments in ([str(tmp_path)], []):
        done = subprocess.run(
            _serve_command(*arguments, "--port", "0"),
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        )
        assert done.returncode == 1
        assert "Traceback" not in done.stderr and str(tmp_path) in done.stderr.replace("\n", "")


def test_an_interrupt_ends_the_server_quietly(small_index: Index, tmp_path: Path) -> None:
    log = tmp_path / "log"
    with log.open("w") as output:
        server = subprocess.Popen(
            _serve_command(str(small_index.root), "--port", "0"),
            stdout=output,
            stderr=output,
            cwd=REPOSITORY,
            preexec_fn=lambda: signal.signal(
                signal.SIGINT, signal.SIG_DFL
            ),  # which tests in the background do not have
        )
        for _ in range(300):
            if "Ctrl-C" in log.read_text():
                break
            time.sleep(0.1)
        url = re.search(r"http://\S+", log.read_text())
        assert url is not None, log.read_text()
        urllib.request.urlopen(url.group(), timeout=10).close()
        server.send_signal(signal.SIGINT)
        assert server.wait(timeout=20) == 0
    assert "Traceback" not in log.read_text() and "Stopped" in log.read_text()


# -------------------------------------------------------------------------------------------------- notebook

NOTEBOOK = """
import sys, bokeh.io, qkspace
from bokeh.application import Application
from bokeh.application.handlers.function import FunctionHandler
from bokeh.embed import server_document
from bokeh.server.server import Server
from tornado.web import RequestHandler

class Notebook(RequestHandler):  # an editable cell, and below it the page, as Bokeh puts it there
    def get(self):
        script = server_document(f"http://localhost:{sys.argv[2]}/cell")
        self.write(f'<!doctype html><body><div id="code" contenteditable="true">print(1)</div>{script}</body>')

pages = []
bokeh.io.output_notebook = lambda *args, **options: None
bokeh.io.show = lambda page, **options: pages.append(page)
qkspace.open(sys.argv[1]).show(2, 3)
served = {"/cell": Application(FunctionHandler(pages[0]))}
server = Server(served, port=int(sys.argv[2]), extra_patterns=[("/notebook", Notebook)])
server.start()
server.io_loop.start()
"""


def test_below_a_notebooks_cell_the_arrow_keys_still_move_the_cursor(
    visit: Visit, small_index: Index, tmp_path: Path
) -> None:
    """Bokeh puts the page into the notebook's own, whose editor is an element that is edited, not a text field."""
    port = free_port()
    command = [sys.executable, "-c", NOTEBOOK, str(small_index.root), str(port)]
    with running(command, f"http://localhost:{port}/notebook", tmp_path / "log") as url:
        seen = visit(url)
        assert seen.head() == "Layer 2, head 3"
        width, height = seen.ask("() => { const r = qk.view().el.getBoundingClientRect(); return [r.width, r.height] }")
        assert min(width, height) > 300, "the map has room in a cell"
        save(seen, tmp_path, "notebook")
        assert "head=" not in seen.page.url, "the notebook keeps its own address"
        seen.page.locator("#code").click()
        seen.page.keyboard.press("Home")
        for _ in range(3):
            seen.page.keyboard.press("ArrowRight")
        seen.page.wait_for_timeout(600)
        caret = seen.ask("() => window.getSelection().anchorOffset")
        assert (caret, seen.head()) == (3, "Layer 2, head 3")
