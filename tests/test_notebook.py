"""Tests of `qkspace.notebook`: what a cell shows is what was asked for, whole in itself, and nothing else is taken."""

from __future__ import annotations

import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from bokeh.document import Document

from qkspace.attention_view import AttentionView
from qkspace.index import Index
from qkspace.live import LiveSequence
from qkspace.schema import QKSpaceError

LOADED = {"src", "href", "data", "action", "poster", "srcset"}  # attributes that make a browser ask for something


class _Frame(HTMLParser):
    """Reads the page out of the frame that a cell gets."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.page = ""
        self.loaded: list[tuple[str, str]] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.page += dict(attrs).get("srcdoc") or ""
        self.loaded += [(tag, f"{name}={value}") for name, value in attrs if name in LOADED]


def page_of(html: str) -> str:
    """Return the page inside a cell's frame; neither may name anything to load."""
    frame = _Frame(html)
    page = _Frame(frame.page)
    assert frame.page and not frame.loaded and not page.loaded, (frame.loaded, page.loaded)
    assert not re.search(r"@import|url\(\s*['\"]?https?:", re.sub(r"(?s)<script.*?</script>", "", frame.page))
    return frame.page


# ---------------------------------------------------------------------------------------------------- one view


def test_the_map_below_a_cell_is_of_its_head_and_loads_nothing(small_index: Index) -> None:
    page = page_of(small_index.head(3, 5).map(colour="upos", theme="dark")._repr_html_())
    assert "layer 3, head 5" in page
    assert "layer 3, head 4" not in page
    assert "NOUN" in page, "the legend names the kinds of the column it was coloured by"


def test_the_frame_of_a_map_cannot_reach_the_notebook(small_index: Index) -> None:
    html = small_index.head(0, 1).map(height=321)._repr_html_()
    (sandbox,) = re.findall(r'sandbox="([^"]*)"', html)
    assert "allow-same-origin" not in sandbox and "allow-scripts" in sandbox
    assert "height: 321px" in html


def test_a_saved_map_is_what_export_writes(small_index: Index, tmp_path: Path) -> None:
    from qkspace.export import export

    shown = small_index.head(2, 7).map(method="pca", links=30, selected=("query", 12), width=6)
    for suffix in ("html", "svg", "csv"):
        path = shown.save(tmp_path / f"saved.{suffix}")
        other = export(
            *(small_index, "map", tmp_path / f"exported.{suffix}"),
            layer=2, heads=[7], method="pca", links=30, selected=("query", 12), theme="light", width=6,
        )  # fmt: skip
        if suffix == "html":  # Bokeh draws new ids
            assert "layer 2, head 7" in path.read_text(encoding="utf-8")
            assert abs(path.stat().st_size - other.stat().st_size) < 500
        else:
            assert path.read_bytes() == other.read_bytes()
    table = pd.read_csv(tmp_path / "saved.csv")
    query = small_index.head(2, 7).projection("pca").query
    np.testing.assert_allclose(table.loc[table["kind"] == "query", ["x", "y"]], query[: len(table) // 2], atol=1e-5)


def test_the_sentence_below_a_cell_is_its_attention_and_loads_nothing(small_index: Index) -> None:
    sequence = int(small_index.sequences["sequence"].iloc[3])
    view = small_index.head(4, 9).sentence(sequence, mode="heat")
    assert view.options == {"mode": "heat", "theme": "auto", "layer": 4, "heads": [9]}
    assert view.data["layers"] == [4], "a head's view holds its layer alone"
    whole = small_index.sentence(sequence, layer=4, heads=[9])
    assert whole.data["layers"] == list(range(small_index.n_layers))
    for each in (view, whole):
        page = page_of(each._repr_html_())
        assert all(text in page for text in view.data["queryTokens"][:3])
    assert small_index.sentence(sequence, layers=[1, 4]).data["layers"] == [1, 4]


def test_the_atlas_below_a_cell_is_a_picture_of_every_head(small_index: Index, tmp_path: Path) -> None:
    atlas = small_index.atlas(method="pca", theme="dark", width=8)
    png, size = atlas._repr_png_()
    assert png.startswith(b"\x89PNG") and size["width"] == 8 * 96
    wide, high = (int.from_bytes(png[at : at + 4], "big") for at in (16, 20))
    assert wide == 2 * size["width"] and abs(high - 2 * size["height"]) <= 2, "sharp on fine screens"
    svg = atlas.save(tmp_path / "atlas.svg").read_text(encoding="utf-8")
    assert "layer 5" in svg and "head 0" in svg
    assert atlas.save(tmp_path / "atlas.pdf").read_bytes().startswith(b"%PDF")


@pytest.mark.parametrize(
    ("view", "options", "expected"),
    [
        ("map", {"color": "upos"}, "takes no 'color'; it takes method, dims, colour"),
        ("map", {"theme": "sepia"}, "light, dark"),
        ("map", {"colour": "flavour"}, "flavour"),
        ("map", {"method": "tsne"}, "has no tsne map"),
        ("atlas", {"heads": 3}, "takes no 'heads'; it takes method, dims, colour, theme, width"),
        ("atlas", {"theme": "sepia"}, "light, dark"),
        ("show", {"colours": "upos"}, "takes no 'colours'; it takes page, layer, head"),
        (
            "show",
            {"page": "globe"},
            "asked for page 'globe'; expected map or atlas or heads or sentence or plots or head",
        ),
        ("show", {"theme": "sepia"}, "expected light or dark"),
        ("show", {"language": "fr"}, "expected en or ja"),
        ("show", {"colour": "flavour"}, "expected one of query / key"),
        ("show", {"method": "tsne"}, "the index has pca in 2-D"),
        ("show", {"dims": 4}, "the index has pca in 2-D"),
        ("show", {"sequence": 10**6}, "not in this index"),
        ("show", {"n_links": "many"}, "n_links 'many'; expected a number"),
        ("show", {"selected": ("value", 3)}, "query-ROW or key-ROW"),
    ],
)
def test_an_option_that_is_not_there_is_refused_with_the_choices(
    small_index: Index, cell: list[Any], view: str, options: dict[str, Any], expected: str
) -> None:
    """Whether a name or a value is wrong, the call says so; nothing is shown and nothing is ignored."""
    of = small_index if view == "atlas" else small_index.head(0, 0)
    with pytest.raises(QKSpaceError, match=re.escape(expected)):
        getattr(of, view)(**options)
    assert not cell


# ---------------------------------------------------------------------------------------------------- the whole page


@pytest.fixture
def cell(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The pages that are shown below a cell."""
    shown: list[Any] = []
    monkeypatch.setattr("bokeh.io.output_notebook", lambda *_args, **_options: None)
    monkeypatch.setattr("bokeh.io.show", lambda page, **_options: shown.append(page))
    return shown


def _document(page: Any) -> Document:
    doc = Document()
    page(doc)
    return doc


def test_a_page_begins_with_what_was_asked_for(small_index: Index, cell: list[Any]) -> None:
    small_index.head(2, 3).show(colour="upos", dims=3, search="bank", theme="dark", language="ja")
    doc = _document(cell[0])
    values = {name: doc.get_model_by_name(name).value for name in ("layer", "head", "colour", "search")}
    assert values == {"layer": "2", "head": "3", "colour": "upos", "search": "bank"}
    assert "頭" in str(doc.to_json()) or "ヘッド" in str(doc.to_json()), "in Japanese"


def test_a_page_without_a_head_begins_with_the_best_map(small_index: Index, cell: list[Any]) -> None:
    """As the app does: the head whose map says most about ordinary words."""
    small_index.show(page="sentence", sequence=int(small_index.sequences["sequence"].iloc[2]))
    doc = _document(cell[0])
    table = small_index.head_table()
    best = table.loc[table["pca2_recall1_content"].idxmax()]
    assert [doc.get_model_by_name(name).value for name in ("layer", "head")] == [
        str(int(best["layer"])), str(int(best["head"])),
    ]  # fmt: skip


# ---------------------------------------------------------------------------------------------------- a live sentence


def test_a_live_sentence_is_read_once_by_the_model_of_the_index(small_index: Index) -> None:
    """What a stored sequence says, said again, is attended to alike; the page and Python share what was read."""
    from qkspace.app.document import worker_of

    sequence = int(small_index.sequences["sequence"].iloc[5])
    text = str(small_index.sequences["text"].iloc[5])
    live = small_index.live(text)
    np.testing.assert_allclose(live.attention(3, 5), small_index.head(3, 5).attention(sequence), atol=0.01)
    assert small_index.live(text) is live
    assert worker_of(small_index).submit(text).result() is live
    view = small_index.head(3, 5).sentence(live)
    assert view.options["layer"] == 3 and view.options["heads"] == [5]
    assert live.tokens["text"].tolist() == view.data["queryTokens"]
    page_of(view._repr_html_())


def test_a_pair_is_two_sentences(small_index: Index) -> None:
    live = small_index.live("The river rose.", "The bank held.")
    view = small_index.sentence(live, mode="heat")
    assert isinstance(live, LiveSequence) and isinstance(view, AttentionView)
    assert view.data["sentenceB"] == live.sentence_b_start
    assert live.tokens["text"].iloc[live.sentence_b_start].casefold() == "the"


def test_a_live_sentence_needs_its_own_checkpoint(small_index: Index, tmp_path: Path) -> None:
    with pytest.raises(QKSpaceError, match="there is no such folder"):
        small_index.live("The river rose.", model=tmp_path / "nowhere")


# ---------------------------------------------------------------------------------------------------- thin methods


def test_methods_answer_as_their_modules_do(small_index: Index) -> None:
    from qkspace.behaviour import nearest_heads
    from qkspace.search import search

    np.testing.assert_array_equal(small_index.search("the", case=True).rows, search(small_index, "the", case=True).rows)
    assert small_index.search("the", case=True).n < small_index.search("the").n
    near = small_index.nearest_heads(3, 5, top=4)
    pd.testing.assert_frame_equal(near, nearest_heads(small_index, 3, 5, top=4))
    assert near["distance"].is_monotonic_increasing and (3, 5) not in set(zip(near["layer"], near["head"], strict=True))


def test_showing_an_index_loads_no_model() -> None:
    program = "import sys, qkspace.notebook; print(*sorted(sys.modules))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert not set(done.stdout.split()) & {"torch", "transformers", "umap", "sklearn", "datasets"}


# ---------------------------------------------------------------------------------------------------- in a browser


@pytest.mark.browser
def test_cells_draw_without_a_server_or_a_network(small_index: Index, chromium: Any, tmp_path: Path) -> None:
    """A notebook that is opened later, anywhere, still shows its map and its sentence, beside each other."""
    head, sequence = small_index.head(3, 5), int(small_index.sequences["sequence"].iloc[0])
    cells = [head.map()._repr_html_(), head.sentence(sequence)._repr_html_()]
    path = tmp_path / "notebook.html"
    path.write_text("<!doctype html><meta charset=utf-8>" + "".join(f"<div>{html}</div>" for html in cells), "utf-8")
    page = chromium.new_page(viewport={"width": 1280, "height": 1300})
    asked: list[str] = []
    faults: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.on("console", lambda message: faults.append(message.text) if message.type == "error" else None)
    page.goto(path.as_uri())
    of_map, of_sentence = page.frame_locator("iframe").first, page.frame_locator("iframe").last
    of_map.locator("canvas").first.wait_for(timeout=30_000)
    of_sentence.locator(".token").first.wait_for(timeout=30_000)
    assert of_map.locator("h1").inner_text().endswith("layer 3, head 5")
    assert of_map.locator("canvas").first.bounding_box()["width"] > 300
    assert [url for url in asked if not url.startswith(("file:", "about:", "data:", "blob:"))] == []
    assert not faults
    page.screenshot(path=tmp_path / "notebook.png")
    page.close()
