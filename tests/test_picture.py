"""Tests of pictures for print and of exported tables and pages: what is in the files, seen from outside."""

from __future__ import annotations

import html
import json
import re
import threading
import warnings
import xml.etree.ElementTree as ET
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from bokeh.document import Document
from conftest import MakeCheckpoint
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text
from PIL import Image

from qkspace.app.select import FAINT, KINDS, LEAST_SHOWN
from qkspace.atlas_picture import default_width
from qkspace.cli import main
from qkspace.drawing import PICTURES, Font, Sheet, check_width, missing_characters, visible
from qkspace.export import SUFFIXES, export, selection_table, write_table
from qkspace.index import Index
from qkspace.map_html import map_html
from qkspace.picture import atlas_picture, map_picture, save, sentence_picture
from qkspace.schema import QKSpaceError

SVG = "{http://www.w3.org/2000/svg}"
JAPANESE = ["青い鳥が庭の木にとまった。", "カタカナとひらがなを読む。", "東京は雨です。"]


def svg_of(figure: Figure, folder: Path) -> ET.Element:
    return ET.parse(save(figure, folder / "picture.svg")).getroot()


def texts(root: ET.Element) -> list[str]:
    return ["".join(element.itertext()) for element in root.iter(f"{SVG}text")]


def group(root: ET.Element, name: str) -> ET.Element:
    return next(element for element in root.iter(f"{SVG}g") if element.get("id") == name)


def n_lines(root: ET.Element, name: str) -> int:
    return sum(1 for element in group(root, name).iter() if element.tag in (f"{SVG}path", f"{SVG}use"))


def with_tokens(index: Index, sequence: int, words: list[str]) -> Index:
    """Return the index with other texts for the first tokens of a sequence: what a corpus might hold."""
    other = Index(index.root)
    tokens = index.tokens.copy()
    rows = index.rows(sequence)
    tokens.loc[rows.start : rows.start + len(words) - 1, "text"] = words
    other.__dict__["tokens"] = tokens  # what the cached property would have read
    return other


@pytest.fixture(scope="module")
def japanese_index(tmp_path_factory: pytest.TempPathFactory, make_checkpoint: MakeCheckpoint) -> Index:
    """An index of Japanese sentences whose tokens are characters."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    from qkspace.pipeline import build

    folder = tmp_path_factory.mktemp("japanese")
    characters = sorted(set("".join(JAPANESE)))
    vocabulary = {token: i for i, token in enumerate(["[PAD]", "[UNK]", *characters])}
    pieces = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    pieces.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    import shutil

    shutil.copytree(make_checkpoint("bert"), folder / "checkpoint")
    named = {"pad_token": "[PAD]", "unk_token": "[UNK]"}
    PreTrainedTokenizerFast(tokenizer_object=pieces, **named).save_pretrained(folder / "checkpoint")
    (folder / "corpus.txt").write_text("\n".join(JAPANESE) + "\n", encoding="utf-8")
    options = {"methods": ["pca"], "dims": [2], "normalise": "none", "n_jobs": 1}
    return build(str(folder / "checkpoint"), folder / "corpus.txt", out=folder / "index", **options)


# ---------------------------------------------------------------------------------------------- pictures


@pytest.mark.parametrize("dims", [2, 3])
def test_a_map_has_as_many_lines_as_links_are_asked_for_and_all_of_them_are_lines(
    small_index: Index, tmp_path: Path, dims: int
) -> None:
    few, more = (svg_of(map_picture(small_index, 3, 5, dims=dims, links=n, threshold=0), tmp_path) for n in (7, 25))
    assert (n_lines(few, "links"), n_lines(more, "links")) == (7, 25)
    none = svg_of(map_picture(small_index, 3, 5, dims=dims, links=0), tmp_path)
    assert all(element.get("id") != "links" or not len(element) for element in none.iter(f"{SVG}g"))


def test_the_lines_of_a_map_join_the_pairs_that_the_head_says_are_strongest(small_index: Index) -> None:
    figure = map_picture(small_index, 3, 5, links=9, threshold=0)
    lines = next(c for axes in figure.axes for c in axes.collections if c.get_gid() == "links")
    head = small_index.head(3, 5)
    strongest = head.links(top=9, special=False, itself=False, first=False)
    view = head.projection("pca")
    ends = np.stack([view.query[strongest["query"]], view.key[strongest["key"]]], axis=1)
    np.testing.assert_allclose([path.vertices for path in lines.get_paths()], ends, rtol=1e-6)
    np.testing.assert_allclose(lines.get_colors()[:, 3], strongest["attention"], atol=1e-6)


def test_a_unit_of_a_map_is_as_long_across_as_up_and_every_point_is_within(small_index: Index) -> None:
    for dims in (2, 3):
        figure = map_picture(small_index, 2, 1, dims=dims)
        axes = figure.axes[0]
        box = axes.get_window_extent()
        (left, right), (low, high) = axes.get_xlim(), axes.get_ylim()
        assert (right - left) / box.width == pytest.approx((high - low) / box.height, rel=1e-6)
        for cloud in (c for c in axes.collections if c.get_gid() in ("query", "key")):
            x, y = np.asarray(cloud.get_offsets()).T
            assert len(x) == small_index.n_tokens
            assert left < x.min() and x.max() < right and low < y.min() and y.max() < high


def test_lengths_along_the_paper_are_no_longer_than_in_space(small_index: Index) -> None:
    figure = map_picture(small_index, 2, 1, dims=3, yaw=70, pitch=35)
    cloud = next(c for c in figure.axes[0].collections if c.get_gid() == "query")
    paper = np.asarray(cloud.get_offsets())
    solid = small_index.head(2, 1).projection("pca", 3).query
    assert np.var(paper, axis=0).sum() < np.var(solid, axis=0).sum()
    front = map_picture(
        small_index, 2, 1, dims=3, yaw=0, pitch=0
    )  # along the second axis: the first and the third are seen
    seen = np.asarray(next(c for c in front.axes[0].collections if c.get_gid() == "query").get_offsets())
    np.testing.assert_allclose(np.sort(seen, axis=0), np.sort(solid[:, [0, 2]], axis=0), atol=1e-4)


def test_the_caption_says_model_corpus_head_method_and_scores(small_index: Index, tmp_path: Path) -> None:
    words = " ".join(texts(svg_of(map_picture(small_index, 0, 4), tmp_path)))
    view = small_index.head(0, 4).projection("pca")
    assert view.scores is not None
    assert f"L0H4 of {small_index.model_name}, pca in 2-D" in words
    assert "parsed.conllu + plain.txt" in words
    assert f"For {100 * view.scores.recall1:.0f} of 100 tokens" in words
    assert "held-out" in words


def test_a_chosen_token_and_its_partners_are_labelled(small_index: Index, tmp_path: Path) -> None:
    row = small_index.rows(3).start + 2
    picture = map_picture(small_index, 0, 2, selected=("query", row))
    attention = small_index.head(0, 2).attention(3)[2]
    drawn = texts(svg_of(picture, tmp_path))
    best = small_index.tokens["text"].iloc[small_index.rows(3).start + int(attention.argmax())]
    assert small_index.tokens["text"].iloc[row] in drawn
    assert best in drawn
    assert n_lines(svg_of(picture, tmp_path), "own") == int((attention >= 0.02).sum())


def cloud(figure: Figure, name: str) -> Any:
    return next(c for axes in figure.axes for c in axes.collections if c.get_gid() == name)


def strong_points(figure: Figure, kind: str) -> int:
    """How many points are opaque; all others must be as faint as the page draws them."""
    opacity = np.asarray(cloud(figure, kind).get_facecolors())[:, 3]
    np.testing.assert_allclose(opacity[opacity < 1], FAINT / 255)
    return int((opacity == 1).sum())


def test_what_the_legend_hides_is_faint_in_the_picture(small_index: Index, tmp_path: Path) -> None:
    is_noun = (small_index.tokens["upos"] == "NOUN").to_numpy()
    plain, faded = (map_picture(small_index, 2, 1, colour="upos", hidden=hidden) for hidden in ((), ("NOUN",)))
    assert [strong_points(faded, kind) for kind in KINDS] == [int((~is_noun).sum())] * 2
    words = " ".join(texts(svg_of(faded, tmp_path)))
    assert "not “NOUN”; the others are faint" in words
    files = [save(figure, tmp_path / f"{i}.png").read_bytes() for i, figure in enumerate((plain, faded))]
    assert files[0] != files[1]
    of_queries = map_picture(small_index, 2, 1, hidden=["query"])
    assert [strong_points(of_queries, kind) for kind in KINDS] == [0, small_index.n_tokens]
    with pytest.raises(QKSpaceError, match=r"no kind 'noun' to hide; it has .*NOUN"):
        map_picture(small_index, 2, 1, colour="upos", hidden=["noun"])


def test_the_hits_of_a_search_and_a_region_are_strong_in_the_picture(small_index: Index, tmp_path: Path) -> None:
    hits = small_index.search("upos:VERB").rows
    figure = map_picture(small_index, 2, 1, search="upos:VERB")
    opacity = np.asarray(cloud(figure, "key").get_facecolors())[:, 3]
    assert np.flatnonzero(opacity == 1).tolist() == hits.tolist()
    assert f"hits of the search “upos:VERB” ({len(hits):,} tokens)" in " ".join(texts(svg_of(figure, tmp_path)))
    view = small_index.head(2, 1).projection("pca")
    x, y = (np.median(view.query, axis=0) + 1e-4).tolist()  # no point lies on an edge
    region = [(x, y), (x + 99, y), (x + 99, y + 99), (x, y + 99)]
    inside = {kind: ((place > (x, y)) & (place < (x + 99, y + 99))).all(axis=1) for kind, place in zip(
        KINDS, (view.query, view.key), strict=True)}  # fmt: skip
    both = map_picture(small_index, 2, 1, search="upos:VERB", region=region)
    alone = map_picture(small_index, 2, 1, region=region)
    for kind in KINDS:
        assert 0 < strong_points(alone, kind) == int(inside[kind].sum()) < small_index.n_tokens
        assert strong_points(both, kind) == int(inside[kind][hits].sum())
    with pytest.raises(QKSpaceError, match="three or more corners"):
        map_picture(small_index, 2, 1, region=region[:2])


def test_points_of_a_picture_are_as_large_as_their_vectors_are_long(small_index: Index) -> None:
    norms = np.linalg.norm(small_index.head(2, 1).query, axis=1)
    size = cloud(map_picture(small_index, 2, 1, by_norm=True), "query").get_sizes()
    assert np.all(np.diff(size[np.argsort(norms)]) >= -1e-6)
    assert size.max() > 4 * size.min()
    assert len(cloud(map_picture(small_index, 2, 1), "query").get_sizes()) == 1
    hits = small_index.search("upos:VERB").rows
    size = cloud(map_picture(small_index, 2, 1, search="upos:VERB"), "query").get_sizes()
    assert np.flatnonzero(size > size.min()).tolist() == hits.tolist(), "few hits are drawn larger, as on the page"


@pytest.mark.parametrize("dims", [2, 3])
def test_the_lines_of_a_whole_sequence_are_all_its_strong_pairs(small_index: Index, tmp_path: Path, dims: int) -> None:
    attention = small_index.head(2, 1).attention(3)
    figure = map_picture(
        small_index, 2, 1, dims=dims, selected=("query", small_index.rows(3).start + 2), whole=True, threshold=0.2
    )
    own = svg_of(figure, tmp_path)
    assert n_lines(own, "own") == int((attention >= 0.2).sum()) > 1
    assert "all its pairs of at least 0.2 attention joined" in " ".join(texts(own))


def test_a_page_of_a_map_fades_what_a_picture_does(small_index: Index) -> None:
    page = map_html(small_index, 2, 1, colour="upos", hidden=["NOUN"], search="upos:VERB", by_norm=True)
    data = re.search(r'<script type="application/json"[^>]*>(.*?)</script>', page, re.DOTALL)
    assert data is not None
    document = Document.from_json(next(iter(json.loads(html.unescape(data.group(1))).values())))
    picture = map_picture(small_index, 2, 1, colour="upos", hidden=["NOUN"], search="upos:VERB", by_norm=True)
    for kind in KINDS:
        found = document.select_one({"name": kind})
        assert found is not None
        points = found.data_source.data  # type: ignore[attr-defined]
        alpha = np.asarray(points["colour"]) & 0xFF
        assert set(alpha.tolist()) <= {0xFF, FAINT}
        assert int((alpha == 0xFF).sum()) == strong_points(picture, kind) > 0
        ratio = np.asarray(points["size"]) ** 2 / cloud(picture, kind).get_sizes()
        np.testing.assert_allclose(ratio, ratio[0], rtol=1e-4)


@pytest.mark.parametrize("style", ["lines", "heatmap"])
def test_the_tokens_of_a_sentence_are_text_as_queries_and_as_keys(
    small_index: Index, tmp_path: Path, style: str
) -> None:
    words = small_index.tokens["text"].iloc[small_index.rows(5)].tolist()
    drawn = texts(svg_of(sentence_picture(small_index, 5, 2, [3], style=style), tmp_path))
    for word in set(words):
        assert drawn.count(word) >= 2 * words.count(word)


def test_lines_and_cells_are_the_attention(small_index: Index, tmp_path: Path) -> None:
    attention = small_index.head(2, 3).attention(5)
    lines = svg_of(sentence_picture(small_index, 5, 2, [3]), tmp_path)
    assert n_lines(lines, "layer 2, head 3") == int((attention >= 0.02).sum())
    heat = svg_of(sentence_picture(small_index, 5, 2, [3], style="heatmap"), tmp_path)
    numbers = sorted(int(text) for text in texts(heat) if text.isdecimal())
    words = small_index.tokens["text"].iloc[small_index.rows(5)]
    own = [int(w) for w in words if w.isdecimal()] * 2 + [0, 1][1:]  # the end of the scale
    expected = [int(f"{100 * value:.0f}") for value in attention[attention >= 0.005]]
    assert numbers == sorted(expected + own)


def test_a_decoder_shows_what_cannot_be_looked_at_and_all_heads_by_default(
    decoder_index: Index, tmp_path: Path
) -> None:
    sequence = int(decoder_index.sequences["sequence"].iloc[0])
    figure = sentence_picture(decoder_index, sequence, 1, style="heatmap")
    drawn = texts(svg_of(figure, tmp_path))
    assert [f"head {i}" for i in range(4)] == [text for text in drawn if text.startswith("head ")]
    assert "cannot look there" in " ".join(drawn)


def test_an_atlas_has_every_head_and_its_scores(small_index: Index, unmapped_index: Index, tmp_path: Path) -> None:
    drawn = texts(svg_of(atlas_picture(small_index), tmp_path))
    table = small_index.head_table()
    expected = [
        f"{100 * a:.0f} / {100 * b:.0f}"
        for a, b in zip(table["pca2_recall1"], table["pca2_recall1_content"], strict=True)
    ]
    assert sorted(text for text in drawn if " / " in text) == sorted(expected)
    assert "-" in texts(svg_of(atlas_picture(unmapped_index), tmp_path))


def test_a_sorted_atlas_has_the_heads_of_the_page_in_its_order(small_index: Index, tmp_path: Path) -> None:
    table = small_index.head_table().sort_values("entropy", kind="stable")
    least = float(table["entropy"].iloc[9])
    low = texts(svg_of(atlas_picture(small_index, order="-entropy", least=least), tmp_path))
    names = [f"L{layer}H{head}" for layer, head in zip(table["layer"], table["head"], strict=True)]
    assert [text for text in low if re.fullmatch(r"L\d+H\d+", text)] == names[:10]
    assert f"10 of {len(table)} heads by “entropy” (lowest first" in " ".join(low)
    high = texts(svg_of(atlas_picture(small_index, order="entropy"), tmp_path))
    assert [text for text in high if re.fullmatch(r"L\d+H\d+", text)] == names[::-1]
    with pytest.raises(QKSpaceError, match="nothing to show"):
        atlas_picture(small_index, order="entropy", least=10**6)
    with pytest.raises(QKSpaceError, match="cannot be sorted by 'beauty'"):
        atlas_picture(small_index, order="beauty")


def test_the_hits_of_a_search_are_strong_on_all_maps_of_the_atlas(small_index: Index) -> None:
    hits = small_index.search("upos:VERB").rows
    opacity = np.asarray(cloud(atlas_picture(small_index, search="upos:VERB"), "query").get_facecolors())[:, 3]
    assert set(np.round(opacity * 255).astype(int).tolist()) == {FAINT, 0xFF}
    assert int((opacity == 1).sum()) == len(hits) * len(small_index.head_table())


def test_maps_of_any_number_of_heads_that_a_model_has_fit_a_sheet_without_asking() -> None:
    assert default_width(8) == 7
    for n_heads in (12, 25, 64, 128, 160):
        check_width(default_width(n_heads))
        assert default_width(n_heads) >= 0.3 * n_heads


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_a_png_has_the_asked_size_and_is_not_blank(small_index: Index, tmp_path: Path, theme: str) -> None:
    figure = map_picture(small_index, 1, 1, theme=theme, width=6.0)
    image = Image.open(save(figure, tmp_path / "map.png", dpi=100)).convert("RGB")
    assert image.width == 600
    pixels = np.asarray(image, dtype=float)
    assert (pixels[0, 0].mean() > 128) == (theme == "light")
    different = (np.abs(pixels - pixels[0, 0]).sum(axis=2) > 60).mean()
    assert 0.01 < different < 0.6


@pytest.mark.parametrize("suffix", PICTURES)
def test_the_same_picture_gives_the_same_bytes(small_index: Index, tmp_path: Path, suffix: str) -> None:
    first, second = (
        save(map_picture(small_index, 1, 1, selected=("key", 20)), tmp_path / f"{i}{suffix}").read_bytes()
        for i in (1, 2)
    )
    assert first == second
    assert len(first) > 10_000


def test_two_threads_draw_what_one_does(small_index: Index, tmp_path: Path) -> None:
    alone = [save(map_picture(small_index, 0, head), tmp_path / f"alone{head}.svg").read_bytes() for head in range(4)]
    together: dict[int, bytes] = {}

    def draw(head: int) -> None:
        together[head] = save(map_picture(small_index, 0, head), tmp_path / f"thread{head}.svg").read_bytes()

    threads = [threading.Thread(target=draw, args=(head,)) for head in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [together[head] for head in range(4)] == alone


# ---------------------------------------------------------------------------------------------- text


def test_text_of_a_corpus_stays_text(small_index: Index, tmp_path: Path) -> None:
    words = ["$x^2$", "</text>", "<script>alert(1)</script>", "a\nb", "\x00\x1b", "&amp;", "$\\frac{1", "\u202eabc"]
    index = with_tokens(small_index, 5, words)
    shown = ["$x^2$", "</text>", "<script>alert(1)</script>", "a↵b", "<00><1B>", "&amp;", "$\\frac{1", "<202E>abc"]
    for style in ("lines", "heatmap"):
        drawn = texts(svg_of(sentence_picture(index, 5, 1, [0], style=style), tmp_path))
        tokens = small_index.rows(5).stop - small_index.rows(5).start
        for word in shown[:tokens]:
            assert word in drawn
        save(sentence_picture(index, 5, 1, [0], style=style), tmp_path / "sentence.png", dpi=50)
    row = small_index.rows(5).start
    assert "$x^2$" in texts(svg_of(map_picture(index, 1, 0, selected=("query", row)), tmp_path))


def test_nothing_of_a_token_is_hidden() -> None:
    assert visible("a b") == "a b"
    assert visible(" ") == "␣"
    assert visible("") == "∅"
    assert visible("東京") == "東京"
    assert visible("\ud800") == "\ufffd"
    for code in (*range(0x20), 0x7F, 0x85, 0x2028, 0xFFFE, 0xD800, 0x200B):
        shown = visible(f"a{chr(code)}b")
        assert shown not in ("ab", f"a{chr(code)}b")
        ET.fromstring(f"<t>{shown.replace('<', '&lt;')}</t>")


def test_japanese_has_its_glyphs_and_is_text(japanese_index: Index, tmp_path: Path) -> None:
    words = japanese_index.tokens["text"].iloc[japanese_index.rows(0)].tolist()
    assert "青" in words and "鳥" in words
    figure = sentence_picture(japanese_index, 0, 1)
    if missing_characters(figure):
        pytest.skip("no font for Japanese is installed here")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        drawn = texts(svg_of(figure, tmp_path))
        for suffix in (".png", ".pdf"):
            save(figure, tmp_path / f"sentence{suffix}")
    for word in words:
        assert word in drawn
    box = Sheet.of(2, 1, Font.of(words), "light")
    assert box.font.width("青い鳥", 10) == pytest.approx(30 / 72, rel=0.1)  # each as wide as it is high


def test_a_character_that_no_font_has_is_named_with_the_remedy(small_index: Index, tmp_path: Path) -> None:
    absent = "\U0001bc00"  # Duployan shorthand
    index = with_tokens(small_index, 5, [absent])
    figure = sentence_picture(index, 5, 1, [0])
    if not missing_characters(figure):
        pytest.skip("a font for shorthand is installed here")
    with pytest.warns(UserWarning, match=r"DUPLOYAN \(U\+1BC00\).*fonts-noto-core") as warned:
        save(figure, tmp_path / "sentence.png", dpi=50)
    assert len(warned) == 1
    sheet = Sheet.of(1, 1, replace(Font.of(["a"]), families=("DejaVu Sans",)), "light")
    sheet.text(0, 0, "青")
    assert "CJK" in missing_characters(sheet.figure)[0]
    assert "fonts-noto-cjk" in missing_characters(sheet.figure)[0]


def test_no_text_stands_off_the_sheet(small_index: Index) -> None:
    pictures = [
        map_picture(small_index, 3, 5, colour="upos", width=3.4),
        map_picture(small_index, 3, 5, colour="position", selected=("key", 30)),
        sentence_picture(small_index, 5, 1),
        sentence_picture(small_index, 5, 1, style="heatmap"),
        atlas_picture(small_index),
        atlas_picture(small_index, order="entropy", search="bank"),
    ]
    for figure in pictures:
        sheet, renderer = figure.bbox, FigureCanvasAgg(figure).get_renderer()  # else each text makes one of its own
        for text in figure.findobj(Text):
            assert isinstance(text, Text)
            if text.get_text() and text.axes is None:
                box = text.get_window_extent(renderer)
                assert sheet.x0 - 1 <= box.x0 and box.x1 <= sheet.x1 + 1, text.get_text()
                assert sheet.y0 - 1 <= box.y0 and box.y1 <= sheet.y1 + 1, text.get_text()


def test_long_text_is_wrapped_without_loss() -> None:
    font = Font.of(["a"])
    words = "one two three " + "x" * 200 + " four"
    lines = font.wrap(words, 7, 1.0)
    assert "".join(lines).replace(" ", "") == words.replace(" ", "")
    assert all(font.width(line, 7) <= 1.0 for line in lines)


# ---------------------------------------------------------------------------------------------- errors


def test_what_cannot_be_drawn_is_refused_in_words(small_index: Index, unmapped_index: Index, tmp_path: Path) -> None:
    with pytest.raises(QKSpaceError, match=r"must end in \.png or \.svg or \.pdf"):
        save(Figure(), tmp_path / "map.jpeg")
    with pytest.raises(QKSpaceError, match="there is no folder"):
        save(Figure(), tmp_path / "nowhere" / "map.png")
    with pytest.raises(QKSpaceError, match="L1H2 has no pca map"):
        map_picture(unmapped_index, 1, 2)
    with pytest.raises(QKSpaceError, match="there are"):
        map_picture(small_index, 0, 0, colour="taste")
    with pytest.raises(QKSpaceError, match="a row from 0"):
        map_picture(small_index, 0, 0, selected=("query", 10**7))
    with pytest.raises(QKSpaceError, match="choose among lines, heatmap"):
        sentence_picture(small_index, 0, 0, style="pie")  # type: ignore[arg-type]
    with pytest.raises(QKSpaceError, match="is not in this index"):
        sentence_picture(small_index, 10**6, 0)
    with pytest.raises(QKSpaceError, match="tokens must be within"):
        sentence_picture(small_index, 0, 0, tokens=(3, 3))


def test_a_failed_picture_leaves_what_was_there(
    small_index: Index, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "map.png"
    path.write_bytes(b"what was there")
    figure = map_picture(small_index, 0, 0)

    def fail(file: object, **_: object) -> None:
        file.write(b"half")  # type: ignore[attr-defined]
        raise MemoryError

    monkeypatch.setattr(figure, "savefig", fail)
    with pytest.raises(MemoryError):
        save(figure, path)
    assert path.read_bytes() == b"what was there"
    assert list(tmp_path.iterdir()) == [path]


# ---------------------------------------------------------------------------------------------- pages


def test_a_page_of_a_map_loads_nothing_and_keeps_text_text(small_index: Index) -> None:
    evil = "</script><script>window.evil = 1</script>"
    index = with_tokens(small_index, 5, [evil])
    page = map_html(index, 3, 5, links=12, threshold=0)
    markup = re.sub(r"(<script[^>]*>).*?</script>", r"\1", page, flags=re.DOTALL)  # Bokeh's code names addresses
    assert not re.search(r"""(src|href)\s*=|url\(""", markup)
    assert "@import" not in markup
    assert evil not in page
    data = re.search(r'<script type="application/json"[^>]*>(.*?)</script>', page, re.DOTALL)
    assert data is not None
    documents = json.loads(html.unescape(data.group(1)))
    assert evil in json.dumps(documents, ensure_ascii=False)
    assert "L3H5 of" in page
    assert len(page) < 3_000_000


def test_a_page_of_a_map_draws_the_chosen_token_and_its_sequence_as_its_caption_says(small_index: Index) -> None:
    row = 17
    page = map_html(small_index, 3, 5, selected=("key", row))
    data = re.search(r'<script type="application/json"[^>]*>(.*?)</script>', page, re.DOTALL)
    assert data is not None
    document = Document.from_json(next(iter(json.loads(html.unescape(data.group(1))).values())))
    view, span = small_index.head(3, 5).projection(), small_index.rows(int(small_index.tokens["sequence"].iloc[row]))

    def drawn(name: str) -> dict[str, Any]:
        found = document.select_one({"name": name})
        assert found is not None
        return dict(found.data_source.data)  # type: ignore[attr-defined]

    for kind, place in (("query", view.query), ("key", view.key)):
        own = drawn(f"own {kind}")
        np.testing.assert_array_equal(np.stack([own["x"], own["y"]], axis=1), place[span])
    assert [*drawn("picked")["x"], *drawn("picked")["y"]] == view.key[row].tolist()
    asks = small_index.head(3, 5).attention(int(small_index.tokens["sequence"].iloc[row]))[:, row - span.start]
    assert len(drawn("own links")["x1"]) == int((asks >= LEAST_SHOWN).sum())
    assert "drawn large" in page


# ---------------------------------------------------------------------------------------------- tables


def test_a_selection_says_where_points_lie_and_whom_they_attend_to(small_index: Index) -> None:
    rows = np.array([3, 40, 7])
    table = selection_table(small_index, rows, layer=2, head=4)
    assert table["kind"].tolist() == ["query"] * 3 + ["key"] * 3
    assert table["row"].tolist() == [*rows, *rows]
    head = small_index.head(2, 4)
    view = head.projection("pca")
    np.testing.assert_array_equal(table[["x", "y"]].to_numpy()[:3], view.query[rows])
    np.testing.assert_array_equal(table[["x", "y"]].to_numpy()[3:], view.key[rows])
    np.testing.assert_array_equal(table["partner_row"][:3].to_numpy(dtype=int), head.top_key[rows, 0])
    for i, row in enumerate(rows):
        asks, which = np.nonzero(head.top_key == row)
        best = np.argmax(head.top_attention[asks, which]) if len(asks) else None
        attention = table["attention"].iloc[3 + i]
        if best is None:
            assert np.isnan(attention) and pd.isna(table["partner"].iloc[3 + i])
        else:
            assert attention == head.top_attention[asks, which][best]
            partner = table["partner_row"].iloc[3 + i]
            assert table["partner"].iloc[3 + i] == small_index.tokens["text"].iloc[partner]
            assert row in head.top_key[partner]
    assert "upos" in table and "token_kind" in table
    only = selection_table(small_index, {"key": rows}, layer=2, head=4, dims=3)
    assert only["kind"].tolist() == ["key"] * 3 and "z" in only
    with pytest.raises(QKSpaceError, match="Rows of this index run from 0"):
        selection_table(small_index, [-1], layer=0, head=0)


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_a_table_comes_back_from_its_file(small_index: Index, tmp_path: Path, suffix: str) -> None:
    index = with_tokens(small_index, 0, ['"quoted", with comma', "two\nlines", "=1+1", "NA"])
    table = selection_table(index, np.arange(60), layer=1, head=1)
    path = write_table(table, tmp_path / f"points{suffix}")
    if suffix == ".csv":
        back = pd.read_csv(path, keep_default_na=False, dtype=str)
        assert back.columns.tolist() == table.columns.tolist()
        for name in ("kind", "token", "text"):
            assert back[name].tolist() == table[name].tolist()
        np.testing.assert_array_equal(back["x"].astype(np.float32), table["x"])
    else:
        pd.testing.assert_frame_equal(pd.read_parquet(path), table, check_dtype=False)
    with pytest.raises(QKSpaceError, match=r"must end in \.csv or \.parquet"):
        write_table(table, tmp_path / "points.xlsx")


# ---------------------------------------------------------------------------------------------- command line


@pytest.mark.parametrize(
    ("view", "suffix"), [(view, suffix) for view, suffixes in SUFFIXES.items() for suffix in suffixes]
)
def test_the_command_line_writes_every_view_in_every_form(
    small_index: Index, tmp_path: Path, capsys: pytest.CaptureFixture[str], view: str, suffix: str
) -> None:
    path = tmp_path / f"figure{suffix}"
    head = [] if view == "atlas" else ["--layer", "1", "--head", "2"]
    status = main(["export", str(small_index.root), "--view", view, *head, "--out", str(path)])
    assert status == 0, capsys.readouterr().err
    begins = {".png": b"\x89PNG", ".svg": b"<?xml", ".pdf": b"%PDF", ".html": b"<!DOCTYPE html>", ".parquet": b"PAR1"}
    begins[".csv"] = b"position,text" if view == "received" else b"kind,row"
    assert path.read_bytes().lstrip().lower().startswith(begins[suffix].lower())
    assert f"{path.stat().st_size:,} bytes" in " ".join(capsys.readouterr().out.split())
    assert list(tmp_path.iterdir()) == [path]


def test_the_command_line_draws_what_python_does(small_index: Index, tmp_path: Path) -> None:
    path, same = tmp_path / "map.svg", tmp_path / "same.svg"
    options = ["--layer", "2", "--head", "1", "--dims", "3", "--colour", "upos", "--links", "5", "--theme", "dark"]
    options += ["--selected", "key:17", "--threshold", "0", "--width", "5.5", "--method", "pca"]
    assert main(["export", str(small_index.root), *options, "--out", str(path)]) == 0
    chosen = {"dims": 3, "colour": "upos", "links": 5, "theme": "dark", "selected": ("key", 17), "threshold": 0.0}
    save(map_picture(small_index, 2, 1, width=5.5, **chosen), same)
    assert path.read_bytes() == same.read_bytes()
    assert main(["export", str(small_index.root), "--view", "sentence", "--sequence", "5", "--tokens", "2-4", "--head", "0,3",
                 "--out", str(path)]) == 0  # fmt: skip
    drawn = texts(ET.parse(path).getroot())
    words = small_index.tokens["text"].iloc[small_index.rows(5)].tolist()
    assert [text for text in drawn if text in words] == [word for _ in range(4) for word in words[1:4]]


def test_the_command_line_says_what_it_cannot_write(
    small_index: Index, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for options, says in (
        (["--out", str(tmp_path / "map.jpg")], ".png or .svg or .pdf or .html or .csv or .parquet"),
        (["--view", "atlas", "--out", str(tmp_path / "map.html")], ".png or .svg or .pdf"),
        (["--out", str(tmp_path / "no" / "map.svg")], "there is no folder"),
        (["--head", "1,2", "--out", str(tmp_path / "map.svg")], "--view atlas"),
        (
            ["--view", "atlas", "--sequence", "3", "--out", str(tmp_path / "map.svg")],
            "says nothing about the view 'atlas'",
        ),
        (["--width", "0.1", "--out", str(tmp_path / "map.svg")], "2.5 to 60 inches"),
        (["--links", "-1", "--out", str(tmp_path / "map.svg")], "0 or more"),
        (
            ["--view", "heatmap", "--tokens", "1-3", "--out", str(tmp_path / "map.html")],
            "a page shows all tokens of a sequence",
        ),
        (["--layer", "99", "--out", str(tmp_path / "map.svg")], "There is no layer 99"),
        (["--method", "umap", "--out", str(tmp_path / "map.svg")], "has no umap map"),
    ):
        assert main(["export", str(small_index.root), *options]) == 1
        assert says in " ".join(capsys.readouterr().err.split())
    assert not list(tmp_path.iterdir())
    with pytest.raises(
        QKSpaceError, match="choose among map, sentence, heatmap, matrix, received, bars, scatter, atlas"
    ):
        export(small_index, "pie", tmp_path / "pie.svg")
