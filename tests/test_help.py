"""Tests of what helps a visitor on: the help dialog, the tour, the link to copy, and the way from hit to hit."""

from __future__ import annotations

import re
from collections.abc import Iterator
from html import unescape
from typing import Any

import numpy as np
import pytest
from bokeh.document import Document
from bokeh.events import ButtonClick
from browsing import READY_JS, SIZES, WAIT, Seen, Visit, bokeh_serve, free_port, running

from qkspace.app import lists
from qkspace.app.document import make_document
from qkspace.app.help import N_STEPS, help_html, tour_steps
from qkspace.app.language import SUBJECTS, strings
from qkspace.app.select import Colouring, Scene, Shown
from qkspace.app.state import State
from qkspace.index import Index
from qkspace.search import Hits, search

QUERY = "upos:VERB"


def _document(index: Index, **chosen: Any) -> Document:
    document = Document()
    make_document(document, index, address=False, **chosen)
    return document


def _click(document: Document, name: str) -> None:
    button = document.get_model_by_name(name)
    assert not button.disabled, name
    button._trigger_event(ButtonClick(button))


def _found(document: Document) -> str:
    """Return what the header says of the search."""
    return unescape(re.sub(r"<[^>]*>", "", document.get_model_by_name("found").text))


@pytest.fixture(scope="module")
def address(small_index: Index, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    port = free_port()
    command = bokeh_serve(port, "--index", str(small_index.root))
    with running(command, f"http://localhost:{port}/app", tmp_path_factory.mktemp("log") / "bokeh.log") as url:
        yield url


@pytest.fixture(scope="module")
def hits(small_index: Index) -> Hits:
    found = search(small_index, QUERY)
    assert 5 < found.n < small_index.n_tokens
    return found


# ---------------------------------------------------------------- from hit to hit


def _selected(document: Document, index: Index) -> tuple[str, int]:
    """Return kind and row of the clicked point, as the map marks it."""
    picked = document.get_model_by_name("map").select_one({"name": "picked"}).data_source.data
    assert len(picked["x"]) == 1
    for kind in ("query", "key"):
        drawn = document.get_model_by_name("map").select_one({"name": kind}).data_source.data
        here = np.flatnonzero((drawn["x"] == picked["x"][0]) & (drawn["y"] == picked["y"][0]))
        if len(here):
            return kind, int(drawn["row"][here[0]])
    raise AssertionError("what is marked is no point of the map")


def test_the_buttons_go_through_all_hits_and_round(small_index: Index, hits: Hits) -> None:
    document = _document(small_index, search=QUERY, layer=2, head=3)
    assert _found(document) == f"{hits.n:,} hits"
    for i in (0, 1, 2):
        _click(document, "next_hit")
        assert _found(document) == f"hit {i + 1:,} of {hits.n:,}"
        assert _selected(document, small_index) == ("query", hits.rows[i])
    for i in (1, 0, hits.n - 1, hits.n - 2):
        _click(document, "previous_hit")
        assert _found(document) == f"hit {i + 1:,} of {hits.n:,}"
    for i in (hits.n - 1, 0):
        _click(document, "next_hit")
        assert _found(document) == f"hit {i + 1:,} of {hits.n:,}"
    assert _selected(document, small_index) == ("query", hits.rows[0])


def test_the_way_from_hit_to_hit_begins_at_what_is_selected_and_keeps_its_kind(small_index: Index, hits: Hits) -> None:
    between = next(int(row) + 1 for row in hits.rows[:-1] if int(row) + 1 not in hits.rows)
    document = _document(small_index, search=QUERY, layer=2, head=3, selected=("key", between))
    assert _found(document) == f"{hits.n:,} hits", "what is selected is no hit"
    at = int(np.searchsorted(hits.rows, between))
    _click(document, "next_hit")
    assert _selected(document, small_index) == ("key", hits.rows[at])
    _click(document, "previous_hit")
    assert _selected(document, small_index) == ("key", hits.rows[at - 1])


def test_beside_a_sentence_the_next_hit_is_in_it_or_after_it(small_index: Index, hits: Hits) -> None:
    for name in ("next_hit", "previous_hit"):
        for sequence in (int(number) for number in hits.sequences["sequence"][1:4]):
            document = _document(small_index, search=QUERY, page="sentence", sequence=sequence)
            _click(document, name)
            at = int(re.search(r"hit ([\d,]+) of", _found(document))[1].replace(",", "")) - 1  # type: ignore[index]
            rows = small_index.rows(sequence)
            mine = np.flatnonzero((hits.rows >= rows.start) & (hits.rows < rows.stop))
            assert at == (mine[0] if name == "next_hit" else mine[0] - 1)


@pytest.mark.parametrize("query", ["", "no-such-token-anywhere"])
def test_without_hits_there_is_nowhere_to_go(small_index: Index, query: str) -> None:
    document = _document(small_index, search=query)
    assert all(document.get_model_by_name(name).disabled for name in ("next_hit", "previous_hit"))
    assert not document.get_model_by_name("hits_card").visible


def test_a_search_is_cleared(small_index: Index) -> None:
    document = _document(small_index, search=QUERY)
    assert document.get_model_by_name("search_clear").visible
    _click(document, "search_clear")
    assert document.get_model_by_name("search").value == _found(document) == ""
    assert not document.get_model_by_name("search_clear").visible


def test_what_is_wrong_with_a_search_has_a_line_of_its_own(small_index: Index) -> None:
    document = _document(small_index, search="no-such-column:x")
    trouble = document.get_model_by_name("trouble")
    assert trouble.visible and "no column" in trouble.text and _found(document) == ""
    document.get_model_by_name("search").value = QUERY
    assert not trouble.visible and "hits" in _found(document)


def test_the_card_of_hits_counts_every_text_and_sequence(small_index: Index, hits: Hits) -> None:
    shown = Shown(small_index)
    colours: Any = Colouring
    html = lists.hits_card(Scene(shown, State(search=QUERY), colours, hits))
    rows = small_index.tokens["text"].astype(str).iloc[hits.rows].value_counts()
    chips = re.findall(r'class="chip" title="[^"]*">(.*?) <span class="muted">([\d,]+)</span>', html)
    assert len(chips) == min(lists.MAX_TEXTS, len(rows))
    for text, count in chips:
        assert rows[unescape(text)] == int(count.replace(",", ""))
    assert [int(count.replace(",", "")) for _, count in chips] == sorted(rows, reverse=True)[: len(chips)]
    sequences = small_index.tokens["sequence"].iloc[hits.rows].nunique()
    assert f"{hits.n:,} hits in {sequences:,} sequences" in html
    assert 'data-go="page=sentence"' in html
    assert "data-go" not in lists.hits_card(Scene(shown, State(search=QUERY, page="sentence"), colours, hits))


def test_one_hit_is_not_called_hits(small_index: Index) -> None:
    counts = small_index.tokens["text"].astype(str).value_counts()
    once = next(text for text in counts[counts == 1].index if text.isalpha())
    document = _document(small_index, search=once)
    assert _found(document) == "1 hit"
    assert "1 hit in 1 sequence<" in document.get_model_by_name("hits_card").text


# ---------------------------------------------------------------- what is said


def _text(html: str) -> str:
    return unescape(re.sub(r"<[^>]*>", " ", html))


def test_japanese_help_and_tour_hold_no_english() -> None:
    said = " ".join([_text(help_html("ja")), *tour_steps("ja")])
    assert set(re.findall(r"[A-Za-z]{2,}", said)) <= {"Esc"}
    assert len(re.findall(r"[\u3040-\u30ff]", said)) > 300


def test_the_help_names_every_key_word_and_badge() -> None:
    said, known = _text(help_html("en")), strings("en")
    for name, sentence in known.items():
        if (
            name.startswith(("help_", "what_is_", "badge_"))
            and not name.endswith(("_tip", *(f"_{subject}" for subject in SUBJECTS)))
            and "{" not in sentence
        ):
            assert sentence in said, name
    assert known["not_importance"] in said
    assert "70 % of all tokens" in said and "40 % and 25 %" in said


# ---------------------------------------------------------------- in a browser

DIALOG = "[role=dialog][aria-modal=true]"
FOCUS_JS = """() => { let el = document.activeElement
  while (el?.shadowRoot?.activeElement) el = el.shadowRoot.activeElement
  return [el?.getAttribute("role") ?? "", el?.textContent?.trim().slice(0, 40) ?? "", el?.tagName ?? ""] }"""
BUBBLE_JS = """() => {  // the bubble, the point of its arrow, and the parts of the page
  const root = document.querySelector("#qkspace-tour")?.shadowRoot
  if (!root) return null
  const box = (el) => { const r = el.getBoundingClientRect(); return [r.left, r.top, r.right, r.bottom] }
  const arrow = root.querySelector(".arrow"), [left, top, right, bottom] = box(arrow)
  const point = {below: [(left + right) / 2, top], above: [(left + right) / 2, bottom],
                 right: [left, (top + bottom) / 2], left: [right, (top + bottom) / 2]}[arrow.className.split(" ")[1]]
  return {bubble: box(root.querySelector(".bubble")), ring: box(root.querySelector(".ring")), point,
          text: root.querySelector("p").textContent, step: root.querySelector(".step").textContent}
}"""


def _open(seen: Seen) -> bool:
    return bool(seen.page.locator(DIALOG).is_visible())


@pytest.mark.browser
@pytest.mark.parametrize("size", SIZES, ids="{0[0]}x{0[1]}".format)
@pytest.mark.parametrize("language", ["en", "ja"])
def test_the_help_opens_and_closes_and_gives_the_focus_back(
    visit: Visit,
    address: str,
    size: tuple[int, int],
    language: str,
) -> None:
    seen = visit(f"{address}?language={language}&layer=2&head=3", size)
    page = seen.page
    dialog, button = page.locator(DIALOG), page.get_by_role("button", name="?", exact=True)
    closes: list[Any] = [
        lambda: page.keyboard.press("Escape"),
        lambda: page.keyboard.press("?"),
        lambda: page.locator('button[data-help="close"]').click(),
        lambda: page.mouse.click(4, size[1] - 4),
    ]
    for close in closes:
        button.click()
        dialog.wait_for(timeout=WAIT)
        page.wait_for_function(f"() => ({FOCUS_JS})()[0] == 'dialog'", timeout=WAIT)
        box = dialog.bounding_box()
        assert min(box["x"], box["y"]) >= 0
        assert box["x"] + box["width"] <= size[0] and box["y"] + box["height"] <= size[1]
        for _ in range(4):  # the focus goes round inside
            page.keyboard.press("Tab")
            assert seen.ask(FOCUS_JS)[1] in (strings(language)["help_close"], strings(language)["tour_again"])  # type: ignore[arg-type]
        page.keyboard.press("ArrowRight")
        close()
        dialog.wait_for(state="hidden", timeout=WAIT)
        assert seen.ask(FOCUS_JS)[1] == "?", "the focus is back on the button"
    seen.until("() => qk.column('here', 'head')[0] == 3")  # the arrows meant the dialog, not the map
    page.keyboard.press("?")
    dialog.wait_for(timeout=WAIT)
    said = dialog.inner_text()
    other = strings("ja" if language == "en" else "en")
    assert not [name for name in other if name.startswith(("help_", "what_is_")) and other[name] in said]
    page.locator(".dialog h1").click()
    assert _open(seen), "a click inside leaves it open"
    assert seen.ask("() => qk.cut()") == []


def _forced(seen: Seen) -> None:
    """Load the page again as somebody who was never here."""
    seen.ask("() => sessionStorage.setItem('qkspace_tour', 'force')")
    seen.page.reload()
    seen.page.wait_for_function(READY_JS, timeout=WAIT)
    seen.page.wait_for_timeout(500)


@pytest.mark.browser
@pytest.mark.parametrize(("size", "language"), [(SIZES[0], "en"), (SIZES[1], "ja")])
def test_the_tour_has_five_steps_that_point_into_the_window_and_comes_once(
    visit: Visit,
    address: str,
    size: tuple[int, int],
    language: Any,
) -> None:
    seen = visit(f"{address}?language={language}&layer=2&head=3", size)
    assert seen.ask(BUBBLE_JS) is None, "a browser that is driven is not shown round"
    _forced(seen)
    said, points = [], []
    for step in range(N_STEPS):
        at = seen.ask(BUBBLE_JS)
        left, top, right, bottom = at["bubble"]
        assert left >= 0 and top >= 0 and right <= size[0] and bottom <= size[1], step
        (x, y), ring = at["point"], at["ring"]
        assert 0 <= x <= size[0] and 0 <= y <= size[1]
        assert ring[0] - 1 <= x <= ring[2] + 1 and ring[1] - 1 <= y <= ring[3] + 1, "it points at what is ringed"
        assert at["step"].startswith(str(step + 1)) and at["step"].endswith(str(N_STEPS))
        said.append(at["text"])
        points.append((x, y))
        if step == 2:  # the page can be used meanwhile, and the bubble follows
            seen.page.keyboard.press("ArrowRight")
            seen.until("() => qk.column('here', 'head')[0] == 4")
            seen.page.set_viewport_size({"width": size[0] - 200, "height": size[1] - 60})
            seen.page.wait_for_timeout(600)
            inside = seen.ask(BUBBLE_JS)["bubble"]
            assert inside[2] <= size[0] - 200 and inside[3] <= size[1] - 60
            seen.page.set_viewport_size({"width": size[0], "height": size[1]})
            seen.page.wait_for_timeout(600)
        seen.page.keyboard.press("Enter")
        seen.page.wait_for_timeout(300)
    assert said == tour_steps(language)
    assert len(set(points)) == N_STEPS, "each step points at something else"
    assert seen.ask(BUBBLE_JS) is None
    _forced(seen)
    assert seen.ask(BUBBLE_JS) is None, "it comes once"
    seen.page.keyboard.press("?")
    seen.page.locator("button[data-tour]").click()
    seen.page.wait_for_function(f"() => ({BUBBLE_JS})() != null", timeout=WAIT)
    assert not _open(seen)
    seen.page.keyboard.press("Escape")
    seen.page.wait_for_function(f"() => ({BUBBLE_JS})() == null", timeout=WAIT)


@pytest.mark.browser
def test_a_tour_that_is_skipped_stays_away_and_needs_a_memory(visit: Visit, address: str) -> None:
    seen = visit(f"{address}?layer=2&head=3&page=atlas")
    _forced(seen)
    seen.page.locator("#qkspace-tour .skip").click()
    assert seen.ask(BUBBLE_JS) is None
    _forced(seen)
    assert seen.ask(BUBBLE_JS) is None
    other = visit(f"{address}?layer=2&head=3")
    other.page.add_init_script(
        "Object.defineProperty(window, 'localStorage', {get() { throw new DOMException('denied', 'SecurityError') }})"
    )
    _forced(other)
    assert other.ask(BUBBLE_JS) is None


@pytest.mark.browser
@pytest.mark.parametrize("allowed", [True, False])
def test_the_link_that_is_copied_is_the_address(visit: Visit, address: str, allowed: bool) -> None:
    seen = visit(f"{address}?layer=2&head=3")
    if allowed:
        seen.page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    else:
        seen.ask("() => { navigator.clipboard.writeText = () => Promise.reject(new Error('denied')) }")
        seen.ask("() => document.addEventListener('copy', () => { window.qk.copied = getSelection().toString() "
                 "|| document.activeElement.value })")  # fmt: skip
    seen.page.keyboard.press("ArrowRight")
    seen.until("() => location.search.includes('head=4')")
    seen.page.get_by_role("button", name="Copy link").click()
    seen.page.get_by_role("button", name="Address copied").wait_for(timeout=WAIT)
    copied = seen.ask("() => navigator.clipboard.readText()") if allowed else seen.ask("() => qk.copied")
    assert copied == seen.page.url and "head=4" in copied
    seen.page.get_by_role("button", name="Copy link").wait_for(timeout=WAIT)


@pytest.mark.browser
def test_keys_go_from_hit_to_hit(visit: Visit, address: str, hits: Hits) -> None:
    seen = visit(f"{address}?layer=2&head=3&page=sentence&search={QUERY}")
    i = 0
    for key, by in (("n", 0), ("n", 1), ("n", 1), ("p", -1), ("Shift+N", -1), ("p", -1), ("/", 0), ("Enter", 1)):
        seen.page.keyboard.press(key)
        i = (i + by) % hits.n
        seen.page.get_by_text(f"hit {i + 1:,} of {hits.n:,}", exact=True).wait_for(timeout=WAIT)
        seen.until_address(selected=f"query-{hits.rows[i]}")
    assert seen.ask(FOCUS_JS)[2] != "INPUT", "the keys are the page's again"
    seen.page.keyboard.press("/")
    assert seen.ask(FOCUS_JS)[2] == "INPUT"
    seen.page.keyboard.type("not wanted")
    seen.page.keyboard.press("Escape")
    assert seen.ask(FOCUS_JS)[2] != "INPUT"
    assert f"hit 1 of {hits.n:,}" in seen.deep_text(), "what was typed and not entered is let go"
    seen.page.keyboard.press("/")
    seen.page.keyboard.press("Control+a")
    seen.page.keyboard.type("word_text:the")
    assert f"hit 1 of {hits.n:,}" in seen.deep_text(), "nothing moves while one types"
    seen.page.keyboard.press("Enter")
    seen.page.get_by_text(re.compile(r"^[\d,]+ hits$")).first.wait_for(timeout=WAIT)
    seen.page.keyboard.press("n")
    seen.page.get_by_text(re.compile(r"^hit [\d,]+ of [\d,]+$")).first.wait_for(timeout=WAIT)
    assert "search=word_text" in seen.page.url


@pytest.mark.browser
@pytest.mark.parametrize("language", ["en", "ja"])
def test_the_header_holds_long_words(visit: Visit, address: str, language: str) -> None:
    for query in (f"search={QUERY}&selected=query-7&pair=x", "search=nothing-like-this", "search=foo:bar&text="):
        seen = visit(f"{address}?layer=2&head=3&language={language}&{query}")
        for width, height in SIZES:
            seen.page.set_viewport_size({"width": width, "height": height})
            seen.page.wait_for_timeout(300)
            assert seen.ask("() => qk.cut()") == [], query
            field = seen.page.locator("input[type=text]:visible")
            boxes = [field.nth(i).bounding_box() for i in range(field.count())]
            assert len(boxes) == 3
            assert all(box["width"] >= 200 and box["y"] + box["height"] < 100 for box in boxes)
            assert sum(box["width"] for box in boxes[1:]) > width * 0.4, "the sentences have what the line leaves them"


@pytest.mark.browser
def test_a_sentence_in_the_address_is_read_and_can_be_cleared(visit: Visit, address: str) -> None:
    seen = visit(f"{address}?layer=2&head=3&text=The boat floats&pair=It is wet")
    seen.page.get_by_text(re.compile("tokens on the map")).wait_for(timeout=60_000)
    assert len(seen.column("live_query", "x")) > 3
    seen.page.get_by_role("button", name="\u00d7").click()
    seen.until("() => qk.column('live_query', 'x').length == 0")
    assert seen.ask("() => [qk.model('text').value, qk.model('pair').value]") == ["", ""]
    assert "text=" not in seen.page.url and "pair=" not in seen.page.url
