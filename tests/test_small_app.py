"""Tests of small things that the page says and gives: of a typed sentence, of how heads were measured, and figures as files."""

from __future__ import annotations

import re
import shutil
from html import unescape
from pathlib import Path
from typing import Any, get_args
from xml.etree import ElementTree

import pytest
from browsing import WAIT, Visit, bokeh_serve, free_port, running
from PIL import Image
from test_app import Visitor

from qkspace.app.language import say, strings
from qkspace.app.lists import live_says
from qkspace.app.select import shown_of
from qkspace.app.state import Page, State
from qkspace.heads import behaviours, distances, kept, relations
from qkspace.heads.splits import split, told
from qkspace.index import Index
from qkspace.live import LiveModel

PAGES: tuple[Page, ...] = get_args(Page)
OURS = {"behaviours": "behaviours", "relations": "relations-best", "among": "distances"}  # figure -> table that tells


@pytest.mark.parametrize("language", ["en", "ja"])
def test_only_the_map_says_that_tokens_are_on_it(unmapped_index: Index, language: Any) -> None:
    """Each page says what it shows of a typed sentence, and the others where it is shown; of no map nothing is on it."""
    live, shown = LiveModel.of(unmapped_index).run("Once there was a boat."), shown_of(unmapped_index)
    n = len(live.tokens)
    for page in PAGES:
        state = State(page=page, layer=1, head=1, language=language)
        said = live_says(live, shown, state)
        assert str(n) in said
        assert (said == say(language, "live_ready", n=n)) == (page == "map"), page
        assert (say(language, "page_plots") in said) == (page in ("atlas", "heads", "head")), page
    unmapped = State(layer=1, head=2, language=language)
    assert shown.view(unmapped).reason
    assert live_says(live, shown, unmapped) == say(language, "live_drawn", n=n)


# ---------------------------------------------------------------------------------------------- heads


@pytest.fixture(scope="module")
def analysed(small_index: Index, tmp_path_factory: pytest.TempPathFactory) -> Index:
    root = tmp_path_factory.mktemp("analysed") / "index"
    shutil.copytree(small_index.root, root)
    index = Index(root)
    found = {
        "behaviours": behaviours.analyse(index, n_sequences=2, length=6, device="cpu"),
        "relations": relations.analyse(index, min_count=5, max_sequences=20),
        "distances": distances.analyse(index),
    }
    for name, each in found.items():
        index = kept.keep(index, name, each.tables, head_columns=each.head_columns, parameters=each.parameters)
    return index


@pytest.mark.parametrize("figure", OURS)
def test_how_heads_were_measured_is_said_in_the_language_of_the_page(analysed: Index, figure: str) -> None:
    """The page's own sentences hold every number of the note that the analysis tells; nothing of it is left in English."""
    attrs = kept.read(analysed, OURS[figure]).attrs
    numbers = [value for _, values in attrs["told"] for value in values.values() if isinstance(value, int)]
    assert numbers and all(f"{number:,}" in attrs["note"] for number in numbers)
    for language in ("en", "ja"):
        said = unescape(Visitor(analysed, page="heads", figure=figure, language=language).widget("heads_note").text)
        assert all(say(language, name, **values) in said for name, values in attrs["told"])
        assert strings(language)["heads_how_told"] + "</summary>" in said
        assert 'lang="en"' not in said and attrs["note"] not in said


def test_a_note_of_which_the_page_knows_no_sentence_is_shown_as_it_is(analysed: Index, tmp_path: Path) -> None:
    """So are notes of an index that was analysed before, and of a later version, in either language."""
    shutil.copytree(analysed.root, tmp_path / "index")
    table, index = kept.read(analysed, "behaviours"), Index(tmp_path / "index")
    for lost in ({}, {"told": [["how_never", {}]]}):
        table.attrs = {"note": "Shares of <attention>."} | lost
        index = kept.keep(index, "behaviours", {"behaviours": table}, head_columns=["induction"])
        said = Visitor(index, page="heads", figure="behaviours", language="ja").widget("heads_note").text
        assert '<p class="small" lang="en">Shares of &lt;attention&gt;.</p>' in said
        assert strings("ja")["heads_how"] + "</summary>" in said


def test_how_sequences_were_parted_is_told_as_the_note_says_it(small_index: Index) -> None:
    """Of several files by their names, of one by the seed."""
    for among in (None, small_index.sequences.index[small_index.sequences["corpus"] == "plain.txt"].to_numpy()):
        *places, how = split(small_index, seed=7, among=among)
        name, values = told(small_index, places, 7)
        assert name == ("how_files" if among is None else "how_dealt")
        assert all(str(value) in how for value in values.values())


def test_a_figure_of_panels_can_be_saved_and_one_of_words_cannot(analysed: Index) -> None:
    seen = {
        figure: Visitor(analysed, page="heads", figure=figure).widget("figure_save")
        for figure in ("entropy", "relations", "coreference", "matters")
    }
    assert {figure: button.visible for figure, button in seen.items()} == {
        "entropy": True,
        "relations": True,
        "coreference": False,  # which says by which command it is made
        "matters": False,
    }
    assert seen["relations"].tags == [f"{analysed.root.name}-heads-relations"]


@pytest.mark.browser
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_all_panels_of_a_figure_are_in_one_file(
    visit: Visit, analysed: Index, tmp_path_factory: pytest.TempPathFactory, tmp_path: Path, theme: str
) -> None:
    """As PNG on the ground of the page, and as SVG whose words are text and whose dots are lines, of the same size."""
    log, port = tmp_path_factory.mktemp("log") / "bokeh.log", free_port()
    serve = bokeh_serve(port, "--index", str(analysed.root))
    with running(serve, f"http://localhost:{port}/app", log) as url:
        seen = visit(f"{url}?page=heads&figure=entropy&layer=2&head=3&theme={theme}")
        seen.until("() => (qk.model('heads_panel_1')?.inner_width ?? 0) > 80")
        for kind in ("png", "svg"):
            seen.page.get_by_role("button", name="Save figure").click()
            with seen.page.expect_download(timeout=WAIT) as arriving:
                seen.page.get_by_text(kind.upper(), exact=True).locator("visible=true").click()
            assert arriving.value.suggested_filename == f"index-heads-entropy.{kind}"
            arriving.value.save_as(tmp_path / f"figure.{kind}")
    picture = Image.open(tmp_path / "figure.png").convert("RGB")
    corner, colours = picture.getpixel((1, 1)), {"light": (255, 255, 255), "dark": (0x1B, 0x20, 0x28)}
    assert corner == colours[theme]
    halves = [picture.crop((i * picture.width // 2, 0, (i + 1) * picture.width // 2, picture.height)) for i in (0, 1)]
    assert all(len(half.getcolors(maxcolors=1 << 24) or []) > 20 for half in halves), "both panels are in it"
    svg = ElementTree.parse(tmp_path / "figure.svg").getroot()
    size = [round(float(re.sub("[a-z]+", "", svg.attrib[name]))) for name in ("width", "height")]
    assert size == pytest.approx(list(picture.size), abs=1)
    texts = {"".join(each.itertext()) for each in svg.iter("{http://www.w3.org/2000/svg}text")}
    assert {strings("en")["panel_entropy"], strings("en")["panel_entropy_first"]} <= texts
    assert not list(svg.iter("{http://www.w3.org/2000/svg}image"))
