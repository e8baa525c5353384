"""Tests of the whole page in a real Chromium: every view and control, over an encoder, a decoder, Japanese and oddities."""

from __future__ import annotations

import re
import shutil
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from io import BytesIO
from itertools import pairwise
from pathlib import Path
from urllib.parse import quote, urlencode

import numpy as np
import pandas as pd
import pytest
from browsing import READY_JS, SIZES, WAIT, Seen, Visit, bokeh_serve, free_port, isolated, running, save
from conftest import SHARED, MakeCheckpoint
from numpy.typing import NDArray

from qkspace.app import atlas, select
from qkspace.app.language import say
from qkspace.app.select import Shown
from qkspace.app.state import State
from qkspace.index import Index
from qkspace.search import search

pytestmark = pytest.mark.browser

ATTACK = "</script><img src=x onerror=alert(1)>"
LONG = "abcdefghij" * 30  # one token
NEW = "The old sailor painted a small boat."
PAGES = ("Map", "Atlas", "Sentence", "Head")
STATE_JS = """() => Object.fromEntries(
  ["layer", "head", "method", "dims", "colour", "by_norm", "n_links", "threshold", "hide", "pages", "search", "order", "least"]
  .map((name) => [name, qk.model(name)]).filter(([_, m]) => m).map(([name, m]) => [name, m.value ?? m.active ?? null]))"""
WEIGHTS_JS = """([layer, head]) => {  // what the browser holds of a head's attention over the sequence that is open
  const d = [...qkspace_views.values()][0].data, a = d.attention[layer]
  if (!a) return null
  const size = a.shape[1] * a.shape[2]
  return Array.from(a.data).slice(head * size, (head + 1) * size).map((code) => (code / d.levels) ** 2)
}"""
QUERY, KEY = ".token[data-side=query]", ".token[data-side=key]"
EXACT = 0.005  # of a weight that was rounded to a byte


# -------------------------------------------------------------------------------------------------- indexes and server


def _japanese(folder: Path, minilm: Path) -> Index | None:
    """An index of MiniLM over forty Japanese sentences; None where they are not there."""
    from qkspace.pipeline import build

    treebank = SHARED / "data" / "ud-japanese-gsd" / "ja_gsd-ud-dev.conllu"
    if not treebank.exists():
        return None
    corpus = folder / "nihongo.conllu"
    corpus.write_text("\n\n".join(treebank.read_text(encoding="utf-8").split("\n\n")[:40]) + "\n\n", encoding="utf-8")
    return build(str(minilm), corpus, out=folder / "japanese", methods=["pca"], dims=[2])


def _curious(folder: Path, checkpoint: Path, sentences: list[str]) -> Index:
    """An index with sequences of one and of 512 tokens, a token of 300 letters, and one that would end a script.

    Its model is no longer there.
    """
    from tokenizers.processors import TemplateProcessing
    from transformers import AutoTokenizer

    from qkspace.pipeline import build

    model = folder / "model"
    shutil.copytree(checkpoint, model)
    tokenizer = AutoTokenizer.from_pretrained(model)
    tokenizer.add_tokens([ATTACK, LONG])
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single="$A")
    tokenizer.save_pretrained(model)
    corpus = folder / "curious.txt"
    odd = ["a", f"the {LONG} says {ATTACK} again", ATTACK, " ".join(sentences)[:1600]]
    corpus.write_text("\n".join([*sentences[:8], *odd]) + "\n", encoding="utf-8")
    index = build(str(model), corpus, out=folder / "curious", methods=["pca"], dims=[2], top_k=4, n_jobs=1)
    shutil.rmtree(model)
    return index


@pytest.fixture(scope="module")
def indexes(
    small_index: Index,
    decoder_index: Index,
    minilm: Path,
    make_checkpoint: MakeCheckpoint,
    sentences: list[str],
    tmp_path_factory: pytest.TempPathFactory,
) -> dict[str, Index]:
    folder = tmp_path_factory.mktemp("explorer")
    checkpoint = make_checkpoint("llama", vocab_size=500, max_position_embeddings=512)
    found = {"small": small_index, "decoder": decoder_index, "curious": _curious(folder, checkpoint, sentences)}
    japanese = _japanese(folder, minilm)
    return found if japanese is None else {**found, "japanese": japanese}


@pytest.fixture(scope="module")
def server(indexes: dict[str, Index], tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """All indexes, served under their names by one server."""
    folder, port = tmp_path_factory.mktemp("served"), free_port()
    arguments: list[str] = []
    for name, index in indexes.items():
        (folder / name).symlink_to(index.root, target_is_directory=True)
        arguments += ["--index", str(folder / name)]
    with running(bokeh_serve(port, *arguments), f"http://localhost:{port}/app", folder / "log") as url:
        yield url


class Explorer:
    """Opens pages of the served indexes."""

    def __init__(self, url: str, indexes: dict[str, Index], visit: Visit) -> None:
        self.url, self.indexes, self._visit = url, indexes, visit

    def __call__(self, index: str = "small", size: tuple[int, int] = SIZES[0], **said: object) -> Seen:
        """Open a page; `said` is what its address asks for."""
        if index not in self.indexes:
            pytest.skip("the Japanese treebank is not there")
        seen = self._visit(f"{self.url}?{urlencode({'index': index, **said})}", size)
        if said.get("page") == "sentence":
            until_drawn(seen)
        return seen


@pytest.fixture
def explore(server: str, indexes: dict[str, Index], visit: Visit) -> Explorer:
    return Explorer(server, indexes, visit)


# -------------------------------------------------------------------------------------------------- helpers


def open_page(seen: Seen, name: str) -> None:
    """Open a view by its button."""
    seen.page.get_by_role("button", name=name, exact=True).click()
    seen.until_address(page=None if name == PAGES[0] else name.lower())
    if name == PAGES[2]:
        until_drawn(seen)
    elif name == PAGES[0]:
        seen.until("() => qk.view() && qk.column('query', 'x').length > 0")
    elif name == PAGES[1]:
        until_fitted(seen)
    else:
        seen.page.get_by_text("Heads that attend most like this one").wait_for(timeout=WAIT)


def until_fitted(seen: Seen) -> None:
    """Wait until the atlas is drawn for the frame that it has: a unit is as long up as across."""
    seen.until(
        """() => {
          const v = qk.model("atlas") && Array.from(Bokeh.index.roots).map((r) => qk.find(r, qk.model("atlas"))).find((f) => f)
          if (!v || !qk.column("cells", "x").length) return false
          const {x_scale: x, y_scale: y} = v.frame
          return Math.abs((x.compute(9) - x.compute(0)) / (y.compute(0) - y.compute(9)) - 1) < 0.02
        }"""
    )


def until_drawn(seen: Seen) -> None:
    """Wait until the sentence view shows tokens."""
    seen.page.locator(QUERY).first.wait_for(timeout=WAIT)
    seen.until("() => true")


def pick(seen: Seen, label: str, option: str) -> None:
    """Choose an option of a drop-down by its text."""
    seen.page.get_by_label(label, exact=True).first.select_option(label=option)


def atlas_pixel(seen: Seen, layer: int, head: int) -> tuple[float, float]:
    """Return where in the window the middle of a head's cell lies."""
    x, y = seen.ask(
        """([layer, head]) => {
          const l = qk.column("cells", "layer"), h = qk.column("cells", "head")
          const i = l.findIndex((_, i) => l[i] == layer && h[i] == head)
          const v = Array.from(Bokeh.index.roots).map((r) => qk.find(r, qk.model("atlas"))).find((f) => f)
          const b = v.canvas_view.el.getBoundingClientRect()
          return [b.x + v.frame.x_scale.compute(qk.column("cells", "x")[i]),
                  b.y + v.frame.y_scale.compute(qk.column("cells", "y")[i])]
        }""",
        [layer, head],
    )
    return float(x), float(y)


def weights(seen: Seen, layer: int, head: int, n: int) -> NDArray[np.float64]:
    """Return what the browser holds of a head's attention over the open sequence: (query, key)."""
    seen.until("(a) => (" + WEIGHTS_JS + ")(a) != null", [layer, head])
    return np.asarray(seen.ask(WEIGHTS_JS, [layer, head])).reshape(n, n)


def tip(seen: Seen) -> str:
    """Return what the sentence view says of what is under the mouse."""
    return re.sub(r"\s+", " ", seen.page.locator(".tip").inner_text())


def until_tip(seen: Seen, place: str, weight: float) -> None:
    """Hold the mouse over a place until the tip there says a weight, to two places."""
    for _ in range(40):
        seen.page.hover(place)
        if any(abs(float(number) - weight) < EXACT + 0.005 for number in re.findall(r"[01]?\.\d+", tip(seen))):
            return
        seen.page.wait_for_timeout(250)
    pytest.fail(f"the tip says {tip(seen)!r}, and not {weight}")


def first_rows(index: Index) -> slice:
    return index.rows(int(index.sequences["sequence"].iloc[0]))


def download(seen: Seen, kind: str) -> tuple[str, bytes]:
    """Save a file of what is shown; return its name and content."""
    seen.page.get_by_role("button", name="Save", exact=True).click()
    with seen.page.expect_download(timeout=WAIT) as arriving:
        seen.page.get_by_text(kind, exact=True).first.click()
    return arriving.value.suggested_filename, Path(arriving.value.path()).read_bytes()


# -------------------------------------------------------------------------------------------------- every view


@pytest.mark.parametrize("name", ["small", "decoder", "japanese", "curious"])
def test_every_view_is_whole_at_both_sizes_in_both_themes(explore: Explorer, tmp_path: Path, name: str) -> None:
    """Nothing is cut off, nothing scrolls but the columns, no view complains; pictures of all are kept."""
    seen = explore(name, theme="light")
    for theme, sizes in (
        ("light", SIZES if name == "small" else SIZES[:1]),
        ("dark", SIZES[::-1] if name == "small" else SIZES[1:]),
    ):
        for size in sizes:
            seen.page.set_viewport_size({"width": size[0], "height": size[1]})
            for page in PAGES:
                open_page(seen, page)
                where = f"{name}-{page.lower()}-{size[0]}-{theme}"
                save(seen, tmp_path, where)
                assert seen.ask("() => qk.cut()") == [], where
                beyond = seen.ask(
                    "() => [document.documentElement.scrollWidth - innerWidth,"
                    " document.documentElement.scrollHeight - innerHeight]"
                )
                assert max(beyond) <= 0, where
        if theme == "light":
            seen.page.get_by_role("button", name="Dark", exact=True).click()
            seen.until_address(theme="dark")


def test_every_control_stands_in_the_address_and_comes_back_with_it(explore: Explorer, small_index: Index) -> None:
    """Whoever is sent the address sees the same: the same widgets, points, links, selection and legend."""
    mine = explore("small", layer=2, head=3)
    mine.click_token("query", isolated(small_index, 2, 3))
    pick(mine, "Colour by", "upos (of the corpus)")
    mine.page.get_by_text("Colour: upos").wait_for(timeout=WAIT)
    mine.page.locator(".entry .label", has_text="NOUN").click()
    mine.until_address(hidden="NOUN")
    mine.page.get_by_label("Size by length of the vector").click()
    mine.page.get_by_label("a token with itself").click()
    mine.choose("n_links", 40)
    mine.choose("threshold", 0.3)
    mine.page.locator("input[placeholder*='upos:VERB']").fill("the")
    mine.page.keyboard.press("Enter")
    mine.until_address(search="the", colour="upos", by_norm=1, itself=1, n_links=40, threshold=0.3)
    other = explore("small", **{n: v for n, v in mine.address().items() if n != "index"})
    assert other.ask(STATE_JS) == mine.ask(STATE_JS)
    for renderer, columns in {"query": "x colour size", "key": "y colour", "links": "x0 alpha", "own": "alpha"}.items():
        for column in columns.split():
            np.testing.assert_array_equal(other.column(renderer, column), mine.column(renderer, column))
    assert other.page.locator(".token.clicked").inner_text() == mine.page.locator(".token.clicked").inner_text()
    assert other.page.locator(".entry[aria-pressed=true]").count() == 1
    other.until_address(**mine.address())


@pytest.mark.parametrize("name", ["decoder", "japanese"])
def test_every_choice_of_every_drop_down_is_shown(explore: Explorer, indexes: dict[str, Index], name: str) -> None:
    seen = explore(name, layer=0, head=0)
    index = indexes[name]
    for colour, _ in seen.ask("() => qk.model('colour').options"):
        seen.choose("colour", colour)
        seen.until_address(colour=None if colour == "query / key" else colour)
        shown, state = Shown(index), State(layer=0, head=0, method="pca", colour=colour)
        expected = select.packed_colours(shown, state, select.colouring(shown, state))
        np.testing.assert_array_equal(seen.column("key", "colour"), expected["key"])
    for layer in range(index.n_layers):
        seen.choose("layer", str(layer))
        seen.choose("head", str(index.n_heads - 1))
        seen.until_head(layer, index.n_heads - 1)
        place = index.head(layer, index.n_heads - 1).projection("pca", 2)
        np.testing.assert_allclose(seen.column("key", "x"), place.key[:, 0], rtol=1e-6)
    open_page(seen, "Atlas")
    for order, _ in seen.ask("() => qk.model('order').options")[1:]:
        seen.choose("order", order)
        seen.until("(o) => new URLSearchParams(location.search).get('order')?.replace('-', '') == o", order)
        assert len(seen.column("cells", "layer")) == index.n_layers * index.n_heads


# -------------------------------------------------------------------------------------------------- atlas


def test_the_atlas_tells_about_a_head_and_opens_it(explore: Explorer, small_index: Index) -> None:
    seen = explore("small", page="atlas")
    until_fitted(seen)
    x, y = atlas_pixel(seen, 4, 7)
    seen.page.mouse.move(x, y + 2)
    seen.page.mouse.move(x, y)
    tooltip = seen.page.locator(".bk-tooltip-content")
    tooltip.first.wait_for(timeout=WAIT)
    scores = small_index.head(4, 7).projection().scores
    assert scores is not None
    assert "Layer 4, head 7" in tooltip.first.inner_text()
    assert f": {scores.recall1:.0%}" in tooltip.first.inner_text()
    seen.page.mouse.click(x, y)
    seen.until_head(4, 7)
    seen.until_address(layer=4, head=7, page=None)


def test_the_atlas_is_sorted_filtered_and_turned_round(explore: Explorer, small_index: Index) -> None:
    seen = explore("small", page="atlas")
    table = atlas.atlas_table(Shown(small_index), State(method="pca"))

    def shown() -> list[float]:
        layers, heads = seen.column("cells", "layer"), seen.column("cells", "head")
        values = table.set_index(["layer", "head"])["attention_to_special"]
        return [float(values[pair]) for pair in zip(layers, heads, strict=True)]

    seen.choose("order", "attention_to_special")
    seen.until_address(order="attention_to_special")
    assert shown() == sorted(shown(), reverse=True) and len(shown()) == 72
    least = float(np.median(shown()))
    seen.choose("least", least)
    seen.until("() => qk.column('cells', 'x').length < 72")
    assert len(shown()) == int((table["attention_to_special"] >= float(f"{least:.6g}")).sum())
    assert f"{len(shown())} of 72 heads" in seen.deep_text()
    seen.page.get_by_role("button", name="\u2193").click()
    seen.until_address(order="-attention_to_special")
    assert shown() == sorted(shown())
    seen.choose("order", "")
    seen.until("() => qk.column('cells', 'x').length == 72")
    before = seen.picture()
    seen.page.get_by_label("Fade poor maps").click()
    seen.until("() => true")
    seen.page.wait_for_timeout(300)
    assert (seen.picture() != before).any()


def test_zooming_into_a_cell_opens_the_head(explore: Explorer) -> None:
    seen = explore("small", page="atlas")
    until_fitted(seen)
    for _ in range(40):
        if "page" not in seen.address():
            break
        place = atlas_pixel(seen, 2, 5)
        if not np.isfinite(place).all():  # the atlas has just given way to the map
            break
        seen.page.mouse.move(*place)
        seen.page.mouse.wheel(0, -400)
        seen.page.wait_for_timeout(120)
    seen.until_head(2, 5)


# -------------------------------------------------------------------------------------------------- map


def test_points_are_as_large_as_their_vectors_are_long(explore: Explorer, small_index: Index) -> None:
    seen = explore("small", layer=2, head=3, n_links=0)
    assert len(set(seen.column("query", "size"))) == 1
    seen.page.get_by_label("Size by length of the vector").click()
    seen.until("() => new Set(qk.column('query', 'size')).size > 1")
    length = np.linalg.norm(small_index.head(2, 3).query, axis=1)
    order = np.argsort(length)
    assert np.all(np.diff(seen.column("query", "size")[order].astype(float)) >= 0)


def test_a_drag_turns_a_map_in_space_and_the_address(explore: Explorer, small_index: Index) -> None:
    seen = explore("small", layer=2, head=3, n_links=50)
    pick(seen, "Dimensions", "3-D")
    seen.until_address(dims=3)
    before = seen.column("query", "x")
    left, top, right, bottom = seen.frame()
    middle = ((left + right) / 2, (top + bottom) / 2)
    seen.page.mouse.move(*middle)
    seen.page.mouse.down()
    seen.page.mouse.move(middle[0] + 60, middle[1] + 20, steps=4)
    seen.page.mouse.move(middle[0] + 120, middle[1] + 45, steps=4)
    seen.page.mouse.up()
    seen.until("() => new URLSearchParams(location.search).has('yaw')")
    said = seen.address()
    state = State(layer=2, head=3, dims=3, yaw=float(said["yaw"]), pitch=float(said["pitch"]))
    assert state.yaw != 30 and state.pitch != 20
    place = select.seen(small_index.head(2, 3).projection("pca", 3).query, state)
    assert not np.allclose(before, seen.column("query", "x"))
    np.testing.assert_allclose(seen.column("query", "x"), place[:, 0], atol=2e-3 * np.abs(place).max())
    np.testing.assert_allclose(seen.column("query", "y"), place[:, 1], atol=2e-3 * np.abs(place).max())
    again = explore("small", **{n: v for n, v in said.items() if n != "index"})
    np.testing.assert_allclose(again.column("query", "x"), seen.column("query", "x"), atol=2e-3 * np.abs(place).max())
    seen.page.get_by_title("Turn back").click()
    seen.until_address(yaw=None, pitch=None)
    np.testing.assert_allclose(seen.column("query", "x"), before, rtol=1e-5)


def _lasso(seen: Seen) -> None:
    """Draw a loop around the left half of the map."""
    seen.page.get_by_title("Draw a loop", exact=False).click()
    left, top, right, bottom = seen.frame()
    middle = (left + right) / 2
    corners = [
        (left + 8, top + 8),
        (middle, top + 8),
        (middle, bottom - 8),
        (left + 8, bottom - 8),
        (left + 8, top + 12),
    ]
    seen.page.mouse.move(*corners[0])
    seen.page.mouse.down()
    for corner in corners[1:]:
        seen.page.mouse.move(*corner, steps=5)
    seen.page.mouse.up()
    seen.until("() => new URLSearchParams(location.search).has('region')")


def test_what_is_lassoed_is_listed_and_saved(explore: Explorer, small_index: Index) -> None:
    seen = explore("small", layer=2, head=3, n_links=0)
    _lasso(seen)
    corners = tuple((float(x), float(y)) for x, _, y in (c.partition("~") for c in seen.address()["region"].split("_")))
    state = State(layer=2, head=3, method="pca", region=corners)
    rows = select.region_rows(Shown(small_index), state)
    n = {kind: len(found) for kind, found in rows.items()}
    assert 0 < n["query"] + n["key"] < 2 * small_index.n_tokens
    said = say("en", "region_count", n=sum(n.values()), n_queries=n["query"], n_keys=n["key"])
    assert said in re.sub(r"\s+", " ", seen.deep_text())
    assert small_index.tokens["text"].iloc[rows["query"][0]] in seen.page.locator("td.text").all_inner_texts()
    name, content = download(seen, "CSV")
    table = pd.read_csv(BytesIO(content), keep_default_na=False)
    assert name.endswith(".csv")
    for kind in ("query", "key"):
        chosen = table[table["kind"] == kind]
        assert chosen["row"].tolist() == rows[kind].tolist()
        view = small_index.head(2, 3).projection("pca", 2)
        np.testing.assert_allclose(chosen["x"].astype(float), getattr(view, kind)[rows[kind], 0], rtol=1e-5)
    parquet = pd.read_parquet(BytesIO(download(seen, "Parquet")[1]))
    assert parquet["row"].tolist() == table["row"].tolist()


BROKEN = "`from_address` refuses the empty `selected` and `region` of the cards' own buttons"


def test_a_selected_region_is_let_go_by_its_button(explore: Explorer) -> None:
    seen = explore("small", layer=2, head=3, n_links=0)
    _lasso(seen)
    seen.page.get_by_role("button", name="Clear the selection").click()
    seen.until_address(region=None)


@pytest.mark.parametrize("page", ["map", "atlas", "sentence"])
def test_pictures_and_pages_are_saved(explore: Explorer, visit: Visit, tmp_path: Path, page: str) -> None:
    from PIL import Image

    seen = explore("small", layer=2, head=3, page=page, theme="light")
    name, content = download(seen, "PNG")
    picture = np.asarray(Image.open(BytesIO(content)).convert("RGB"))
    assert name == f"small-{page}-L2H3.png" and picture.min() < 200 < picture.max()
    svg = ElementTree.fromstring(download(seen, "SVG")[1])
    assert svg.tag.endswith("svg") and len(list(svg.iter())) > 20
    if page != "sentence":
        return  # see below
    content = download(seen, "HTML")[1]
    assert b"http://localhost" not in content
    (tmp_path / f"{page}.html").write_bytes(content)
    saved = visit(f"file://{tmp_path / page}.html", wait=False)
    saved.page.locator(QUERY).first.wait_for(timeout=WAIT)


@pytest.mark.parametrize("page", ["map", "atlas"])
def test_a_saved_map_draws_itself(explore: Explorer, visit: Visit, tmp_path: Path, page: str) -> None:
    seen = explore("small", layer=2, head=3, page=page, theme="light")
    (tmp_path / "map.html").write_bytes(download(seen, "HTML")[1])
    saved = visit(f"file://{tmp_path}/map.html", wait=False)
    saved.page.locator("canvas").first.wait_for(timeout=WAIT)


def test_a_click_in_the_legend_fades_a_kind_and_brings_it_back(explore: Explorer, small_index: Index) -> None:
    seen = explore("small", layer=2, head=3, colour="upos", n_links=0)
    is_noun = (small_index.tokens["upos"] == "NOUN").to_numpy()
    before = seen.column("query", "colour")
    assert len(set(before & 0xFF)) == 1
    entry = seen.page.locator(".entry", has_text="NOUN")
    entry.click()
    seen.until_address(hidden="NOUN")
    alpha = seen.column("query", "colour") & 0xFF
    assert set(alpha[is_noun]) == {select.FAINT} and set(alpha[~is_noun]) == {0xFF}
    assert seen.page.locator(".entry", has_text="NOUN").get_attribute("aria-pressed") == "true"
    seen.page.locator(".entry", has_text="NOUN").click()
    seen.until_address(hidden=None)
    np.testing.assert_array_equal(seen.column("query", "colour"), before)


# -------------------------------------------------------------------------------------------------- sentence


@pytest.mark.parametrize("name", ["small", "decoder", "japanese"])
def test_the_sentence_view_shows_the_attention_of_the_head_that_is_open(
    explore: Explorer, indexes: dict[str, Index], name: str
) -> None:
    index = indexes.get(name)
    seen = explore(name, layer=1, head=3, page="sentence")
    assert index is not None
    rows = first_rows(index)
    n, sequence = rows.stop - rows.start, int(index.sequences["sequence"].iloc[0])
    assert seen.page.locator(QUERY).count() == n
    for layer, head in ((1, 3), (0, 2)):
        if layer == 0:
            seen.page.locator("select[data-role=layer]").select_option("0")
            seen.page.locator(f".chip[data-head='{head}']").dblclick()
            seen.until_address(layer=0, head=head)
            seen.until("(h) => [...qkspace_views.values()][0].view.state().heads?.join() == String(h)", head)
        attention = index.head(layer, head).attention(sequence)
        np.testing.assert_allclose(weights(seen, layer, head, n), attention, atol=EXACT)
        for token in (1, n - 1):  # what is drawn: the tip says the weights of the lines, to two places
            until_tip(seen, f"{QUERY}[data-unit='{token}']", float(attention[token].max()))


def test_a_token_clicked_in_the_sentence_is_ringed_on_the_map(explore: Explorer, small_index: Index) -> None:
    seen = explore("small", layer=2, head=3)
    open_page(seen, "Sentence")
    rows = first_rows(small_index)
    seen.page.click(f"{QUERY}[data-unit='4']")
    seen.until_address(selected=f"query-{rows.start + 4}")
    assert seen.page.locator(".token.clicked").inner_text() == small_index.tokens["text"].iloc[rows.start + 4]
    open_page(seen, "Map")
    seen.until("() => qk.column('picked', 'x').length == 1")
    place = small_index.head(2, 3).projection().query[rows.start + 4]
    np.testing.assert_allclose([seen.column("picked", "x")[0], seen.column("picked", "y")[0]], place, rtol=1e-5)
    open_page(seen, "Sentence")
    assert seen.page.locator(f"{QUERY}[aria-pressed=true]").get_attribute("data-unit") == "4"
    seen.page.keyboard.press("Escape")
    seen.until_address(selected=None)
    assert seen.page.locator(f"{QUERY}[aria-pressed=true]").count() == 0


def test_a_page_that_began_with_a_sentence_opens_the_map(explore: Explorer) -> None:
    seen = explore("small", layer=2, head=3, page="sentence")
    open_page(seen, "Map")
    assert len(seen.column("query", "x")) > 0


def test_heat_map_all_heads_and_neurons(explore: Explorer, small_index: Index) -> None:
    seen = explore("small", layer=2, head=3, page="sentence")
    rows = first_rows(small_index)
    n = rows.stop - rows.start
    attention = small_index.head(2, 3).attention(int(small_index.tokens["sequence"].iloc[rows.start]))
    seen.page.get_by_role("tab", name="Heat map").click()
    until_tip(seen, f"{QUERY}[data-unit='2']", float(attention[2].max()))
    seen.page.get_by_role("tab", name="All heads").click()
    assert seen.page.locator(".thumb").count() == 72
    seen.page.locator(".thumb[data-at='4'][data-head='7']").click()
    seen.until_address(layer=4, head=7)
    weight = small_index.head(4, 7).attention(int(small_index.tokens["sequence"].iloc[rows.start]))
    np.testing.assert_allclose(weights(seen, 4, 7, n), weight, atol=EXACT)
    seen.page.get_by_role("tab", name="Neurons").click()
    seen.page.locator(".heading.q").first.wait_for(timeout=WAIT)
    assert "differs" not in seen.page.locator(".foot").inner_text(), "softmax of the vectors is the attention"
    stage = seen.page.locator(".stage")
    assert stage.evaluate("(el) => el.scrollWidth - el.clientWidth") == 0, "all columns are in view"
    boxes = [box for box in (each.bounding_box() for each in seen.page.locator(".heading").all()) if box is not None]
    assert len(boxes) == 7
    assert all(one["x"] + one["width"] <= other["x"] + 1 for one, other in pairwise(boxes))


def test_the_list_of_sequences_opens_them_and_follows_the_search(explore: Explorer, small_index: Index) -> None:
    seen = explore("small", page="sentence")
    total = len(small_index.sequences)
    entries = seen.page.locator("ul.plain > li button")
    assert entries.count() == 12 and f"1 - 12 / {total}" in seen.deep_text()
    seen.page.get_by_role("button", name="\u203a").last.click()
    seen.page.get_by_text(f"13 - 24 / {total}").wait_for(timeout=WAIT)
    entries.nth(2).click()
    sequence = int(small_index.sequences["sequence"].iloc[14])
    seen.until_address(sequence=sequence)
    rows = small_index.rows(sequence)
    seen.until(
        "([q, n]) => [...qkspace_views.values()][0].data.queryTokens.length == n", [QUERY, rows.stop - rows.start]
    )
    assert seen.page.locator(QUERY).nth(1).inner_text() == small_index.tokens["text"].iloc[rows.start + 1]
    _search(seen, "the")
    hits = search(small_index, "the")
    seen.page.get_by_text(f"1 - 12 / {len(hits.sequences)}").wait_for(timeout=WAIT)
    assert entries.first.locator(".chip").inner_text() == str(hits.sequences["hits"].iloc[0])


# -------------------------------------------------------------------------------------------------- search


def _search(seen: Seen, query: str) -> None:
    seen.page.locator("input[placeholder*='upos:VERB']").fill(query)
    seen.page.keyboard.press("Enter")
    seen.until_address(search=query or None)


def test_a_search_finds_marks_and_tells(explore: Explorer, small_index: Index) -> None:
    seen = explore("small", layer=2, head=3, n_links=0)
    for query in ("the", "th*", "/^[A-Z]/", "upos:VERB"):
        _search(seen, query)
        hits = search(small_index, query)
        assert hits.n > 0 and f"{hits.n:,} hits" in seen.deep_text()
        strong = np.flatnonzero((seen.column("query", "colour") & 0xFF) == 0xFF)
        np.testing.assert_array_equal(strong, hits.rows)
    _search(seen, "/(/")
    seen.page.locator("[role=alert]").wait_for(timeout=WAIT)
    assert len(seen.page.locator("[role=alert]").inner_text()) > 20
    _search(seen, "zzzzzz")
    seen.page.get_by_text("No token matches.").wait_for(timeout=WAIT)
    assert seen.page.locator("[role=alert]:visible").count() == 0
    _search(seen, "")
    assert len(set(seen.column("query", "colour") & 0xFF)) == 1


def test_next_and_previous_hit_move_the_selection(explore: Explorer, small_index: Index) -> None:
    seen = explore("small", layer=2, head=3)
    _search(seen, "the")
    rows = search(small_index, "the").rows
    for name, row in (
        ("next_hit", rows[0]),
        ("next_hit", rows[1]),
        ("previous_hit", rows[0]),
        ("previous_hit", rows[-1]),
    ):
        seen.page.get_by_role("button", name="\u203a" if name == "next_hit" else "\u2039").first.click()
        seen.until_address(selected=f"query-{row}")


# -------------------------------------------------------------------------------------------------- live sentence


def _type(seen: Seen, box: str, text: str) -> None:
    seen.page.get_by_placeholder(box).fill(text)
    seen.page.keyboard.press("Enter")


def test_a_typed_sentence_lands_on_the_map_and_in_the_sentence_view(explore: Explorer, small_index: Index) -> None:
    from qkspace.live import LiveModel, place

    seen = explore("small", layer=2, head=3)
    _type(seen, "Your own sentence", NEW)
    seen.page.get_by_text("tokens on the map").wait_for(timeout=60_000)
    model = LiveModel.of(small_index, device="cpu")
    live = model.run(NEW)
    placed = place(small_index, live, 2, 3, "pca", 2)
    np.testing.assert_allclose(seen.column("live_query", "x"), placed.query[:, 0], atol=1e-3)
    np.testing.assert_allclose(seen.column("live_key", "y"), placed.key[:, 1], atol=1e-3)
    open_page(seen, "Sentence")
    n = len(live.tokens)
    seen.until("(n) => [...qkspace_views.values()][0].data.queryTokens.length == n", n)
    np.testing.assert_allclose(weights(seen, 2, 3, n), live.attention(2, 3), atol=EXACT)
    _type(seen, "Second sentence", "He sold it.")
    paired = model.run(NEW, "He sold it.")
    seen.until("(n) => [...qkspace_views.values()][0].data.queryTokens.length == n", len(paired.tokens))
    assert seen.page.locator("select[data-role=pair]").is_visible()
    _type(seen, "Second sentence", "")
    _type(seen, "Your own sentence", "")
    seen.until_address(text=None, pair=None)
    rows = first_rows(small_index)
    seen.until("(n) => [...qkspace_views.values()][0].data.queryTokens.length == n", rows.stop - rows.start)


def test_a_model_that_is_gone_is_told_beside_the_box(explore: Explorer) -> None:
    seen = explore("curious")
    _type(seen, "Your own sentence", "a b")
    seen.until("() => /model/.test(qk.model('status').text) && !/being loaded/.test(qk.model('status').text)")
    assert "Put it back" in seen.ask("() => qk.model('status').text")
    assert len(seen.column("live_query", "x")) == 0


# -------------------------------------------------------------------------------------------------- address and keys


def test_back_and_forward(explore: Explorer) -> None:
    seen = explore("small", layer=2, head=3)
    seen.page.keyboard.press("ArrowRight")
    seen.until_head(2, 4)
    open_page(seen, "Atlas")
    seen.page.keyboard.press("ArrowDown")
    seen.until_address(layer=3, head=4, page="atlas")
    seen.page.go_back()
    seen.until("() => qk.model('layer').value == '2' && qk.model('pages').active == 1")
    seen.page.go_back()
    seen.until("() => qk.model('pages').active == 0 && qk.view()")
    seen.page.go_back()
    seen.until_head(2, 3)
    seen.page.go_forward()
    seen.until_head(2, 4)
    seen.until_address(layer=2, head=4, page=None)


def test_keys_open_views_search_and_help(explore: Explorer, small_index: Index) -> None:
    seen = explore("small", layer=2, head=3)
    for key, page in (("2", "atlas"), ("3", "heads"), ("4", "sentence"), ("5", "plots"), ("6", "head"), ("1", None)):
        seen.page.keyboard.press(key)
        seen.until_address(page=page)
    seen.page.keyboard.press("/")
    seen.page.keyboard.type("the 3")
    seen.page.keyboard.press("Enter")
    seen.until_address(search="the 3", page=None)
    seen.ask("() => document.activeElement.blur()")
    seen.page.keyboard.press("?")
    seen.until("() => qk.model('help_text').visible")
    seen.page.keyboard.press("Escape")
    seen.until("() => !qk.model('help_text').visible")


def test_tab_reaches_every_control(explore: Explorer) -> None:
    seen = explore("small", layer=2, head=3)
    reached = set()
    for _ in range(60):
        seen.page.keyboard.press("Tab")
        reached.add(
            seen.ask(
                "() => { let e = document.activeElement; while (e?.shadowRoot?.activeElement) e = e.shadowRoot.activeElement;"
                " return (e?.labels?.[0]?.innerText || e?.innerText || e?.placeholder || e?.ariaLabel || '').trim() }"
            )
        )
    wanted = {
        "Layer",
        "Head",
        "Map",
        "Atlas",
        "Sentence",
        "Colour by",
        "Dimensions",
        "Save",
        "Dark",
        "?",
        "special tokens",
    }
    wanted |= {"Your own sentence", "Second sentence", "Size by length of the vector"}
    assert wanted <= reached, wanted - reached


def test_another_language_changes_the_words_and_keeps_the_state(explore: Explorer, small_index: Index) -> None:
    seen = explore("small", layer=2, head=3, colour="upos", n_links=40)
    seen.click_token("query", isolated(small_index, 2, 3))
    before, points = seen.ask(STATE_JS), seen.column("query", "colour")
    with seen.page.expect_navigation():
        seen.choose("language", "ja")
    seen.page.wait_for_function(READY_JS, timeout=WAIT)
    seen.until("() => qk.view() && qk.column('picked', 'x').length == 1")
    assert seen.ask(STATE_JS) == before
    np.testing.assert_array_equal(seen.column("query", "colour"), points)
    for name in ("page_map", "colour", "n_links", "theme_dark", "export", "token_shading_query"):
        assert say("ja", name) in seen.deep_text() and say("en", name) not in seen.deep_text().replace("qkspace", "")
    assert seen.page.get_by_placeholder(say("ja", "text")).count() == 1


NONSENSE = {
    "page": ["", "maps", "<b>"],
    "layer": ["-1", "99", "x", ""],
    "head": ["99", "1e3"],
    "method": ["umap", "<i>", ""],
    "dims": ["5", "0"],
    "yaw": ["north", "1e60", "nan"],
    "pitch": ["900000", "--1"],
    "colour": ["#fff", ""],
    "by_norm": ["2"],
    "n_links": ["-5", "999999999", "many"],
    "threshold": ["7", "-3", "nan"],
    "special": ["yes"],
    "itself": [""],
    "first": ["no"],
    "hidden": ["nothing of the kind", "\x00"],
    "selected": ["query-99999999", "value-3", "query-", "query-\u0663"],
    "region": ["1", "1~2", "~_~", "1~2_x~y", "1e99~1_2~2_3~3"],
    "sequence": ["99999", "-1", "x"],
    "search": ["/(/", 'colour:"', "a" * 3000, "nosuchcolumn:x"],
    "order": ["beauty", "-", "--recall1", "<b>"],
    "least": ["high", "1e300"],
    "text": [" ", "\x00", "a" * 4001],
    "pair": ["b"],
    "theme": ["sepia"],
    "language": ["tlh"],
    "nobody": ["asks"],
}


@pytest.mark.parametrize("page", ["map", "atlas", "sentence"])
def test_nonsense_in_the_address_gives_a_readable_page(explore: Explorer, page: str) -> None:
    """Either the page as usual, or one sentence that names what was asked for; never nothing, nor a traceback."""
    seen = explore("decoder", page=page)
    of_view = {
        "map": set(NONSENSE) - {"order", "least"},
        "atlas": {"order", "least", "hidden"},
        "sentence": {"sequence", "selected"},
    }
    for name in sorted(of_view[page]):
        for value in NONSENSE[name][:1]:  # all of them are tried without a browser, in test_state
            seen.page.goto(f"{explore.url}?index=decoder&page={page}&{name}={quote(value)}")
            seen.page.wait_for_function(READY_JS, timeout=WAIT)
            text = seen.deep_text()
            assert "Traceback" not in text and "Internal Server Error" not in text
            is_page = seen.ask("() => qk.model('page') != null")
            assert is_page or len(text.strip()) > 40, (name, value, text)


# -------------------------------------------------------------------------------------------------- oddities


def test_long_and_short_sequences_and_odd_tokens(explore: Explorer, indexes: dict[str, Index], tmp_path: Path) -> None:
    index = indexes["curious"]
    lengths = index.sequences.set_index("sequence")["n_tokens"]
    assert lengths.max() == 512 and lengths.min() == 1
    text = index.tokens["text"]
    attack = int(index.tokens.loc[text == ATTACK, "sequence"].iloc[0])
    for sequence in (int(lengths.idxmax()), int(lengths.idxmin()), attack):
        n = int(lengths[sequence])
        seen = explore("curious", sequence=sequence, layer=1, head=1)
        open_page(seen, "Sentence")
        np.testing.assert_allclose(weights(seen, 1, 1, n), index.head(1, 1).attention(sequence), atol=EXACT)
        for tab in ("Heat map", "All heads", "Neurons", "Lines"):
            seen.page.get_by_role("tab", name=tab).click()
            seen.until("() => true")
            assert seen.ask("() => document.documentElement.scrollWidth <= innerWidth"), tab
            save(seen, tmp_path, f"curious-{n}-{tab}")
        seen.page.locator(QUERY).first.click()
        seen.until_address(selected=f"query-{index.rows(sequence).start}")
        open_page(seen, "Map")
        assert len(seen.column("picked", "x")) == 1
        open_page(seen, "Head")
        assert seen.page.locator("img[src=x]").count() == 0
    seen = explore("curious", search=LONG)
    assert len(seen.page.locator(".card").all()) > 1 and seen.ask("() => qk.cut()") == []


def test_tokens_that_look_like_html_stay_text_in_every_file(
    explore: Explorer, visit: Visit, tmp_path: Path, indexes: dict[str, Index]
) -> None:
    index = indexes["curious"]
    row = int(np.flatnonzero((index.tokens["text"] == ATTACK).to_numpy())[0])
    for page in ("map", "sentence"):
        seen = explore("curious", page=page, selected=f"query-{row}")
        if page == "sentence":
            content = download(seen, "HTML")[1]
            (tmp_path / f"{page}.html").write_bytes(content)
            saved = visit(f"file://{tmp_path / page}.html", wait=False)
            saved.page.locator(QUERY).first.wait_for(timeout=WAIT)
            assert saved.page.locator("img[src=x]").count() == 0
        ElementTree.fromstring(download(seen, "SVG")[1])
