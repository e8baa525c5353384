"""Tests of the attention view: its mathematics against numpy, its page in a real Chromium, its errors in words."""

from __future__ import annotations

import base64
import json
import re
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from browsing import new_page
from numpy.typing import NDArray

import qkspace
from qkspace.attention_view import (
    AttentionView,
    attention_data,
    attention_view,
    index_attention_view,
    quantise,
    readable_tokens,
    script,
    token_words,
)
from qkspace.index import Index
from qkspace.schema import QKSpaceError

ATTACK = "</script><img src=x onerror=alert(1)>"
TOKENS = ["[CLS]", "the", "play", "##ing", "cat", "[SEP]", "it", "sat", "[SEP]"]
SENTENCE_B = 6
QUERY, KEY = ".token[data-side=query]", ".token[data-side=key]"


def softmax_like(n_heads: int, n: int, m: int | None = None, seed: int = 0, spread: float = 2.0) -> NDArray[Any]:
    """Random attention: (head, query, key)."""
    logit = np.random.default_rng(seed).normal(size=(n_heads, n, m or n)) * spread
    weight = np.exp(logit)
    return np.asarray(weight / weight.sum(axis=-1, keepdims=True), dtype=np.float32)


@pytest.fixture(scope="module")
def layers() -> list[NDArray[Any]]:
    """Three layers of 4, 2 and 12 heads."""
    return [softmax_like(heads, len(TOKENS), seed=heads) for heads in (4, 2, 12)]


# ------------------------------------------------------------------------------------------------ Python


def test_quantised_weights_are_as_near_as_promised() -> None:
    weight = np.concatenate([np.linspace(0, 1, 100_001), np.geomspace(1e-7, 1, 10_001)])
    for levels in (255, 150):
        back = (quantise(weight, levels).astype(float) / levels) ** 2
        assert np.all(np.abs(back - weight) <= np.sqrt(weight) / levels + 1 / (4 * levels**2) + 1e-12)


def test_byte_level_tokens_become_characters() -> None:
    assert readable_tokens(["Ġcaf", "Ã©", "Ċ", "ä\u00b8Ń", "<|endoftext|>", "Ġ"]) == [
        *("caf", "é", "\n", "中", "<|endoftext|>", " ")
    ]
    assert readable_tokens(["ðŁ", "ĺĢ", "Ġx"]) == ["<F0 9F>", "<98 80>", "x"]


def test_word_marks_go_and_other_letters_stay() -> None:
    assert readable_tokens(["▁Hello", "wor", "▁", "<0x0A>"]) == ["Hello", "wor", " ", "\n"]
    assert readable_tokens(["play", "##ing", "##", "low</w>"]) == ["play", "ing", "##", "low"]
    assert readable_tokens(["był", "Überfall", "日本", "é"]) == ["był", "Überfall", "日本", "é"]  # of no byte-level BPE


def test_words_are_read_from_marks() -> None:
    special = [True, False, False, False, True]
    assert token_words(["[CLS]", "play", "##ing", "cat", "[SEP]"], special) == [None, 1, 1, 2, None]
    assert token_words(["<s>", "▁play", "ing", "▁cat", "</s>"], special) == [None, 1, 1, 2, None]
    assert token_words(["play", "ing"], [False, False]) is None


def test_a_page_of_128_tokens_and_144_heads_is_below_two_megabytes() -> None:
    attentions = [softmax_like(12, 128, seed=i, spread=1.0) for i in range(12)]
    assert len(attention_view(attentions, [f"token{i}" for i in range(128)]).html.encode()) < 2_000_000


def test_what_the_page_holds_is_the_attention(layers: list[NDArray[Any]]) -> None:
    view = attention_view(layers, TOKENS, include_layers=[2, 0])
    assert view.data["layers"] == [0, 2] and view.data["heads"] == [4, 12]
    for record, attention in zip(view.data["attention"], (layers[0], layers[2]), strict=True):
        codes = np.frombuffer(zlib.decompress(base64.b64decode(record["data"]), -15), np.uint8).reshape(attention.shape)
        assert record["shape"] == list(attention.shape)
        assert np.array_equal(codes, quantise(attention))


def test_tensors_outputs_and_batches_of_one_are_taken(layers: list[NDArray[Any]]) -> None:
    import torch

    expected = attention_view(layers, TOKENS).data
    tensors = tuple(torch.from_numpy(a)[None].requires_grad_() for a in layers)
    assert attention_view(tensors, TOKENS).data == expected
    assert attention_view(SimpleNamespace(attentions=tensors), TOKENS).data == expected
    assert attention_view(iter(layers), TOKENS).data == expected
    bfloat = [a.to(torch.bfloat16) for a in tensors]
    assert attention_view(bfloat, TOKENS).data["heads"] == expected["heads"]


def test_causality_is_seen() -> None:
    lower = np.tril(np.ones((1, 4, 4)))
    lower /= lower.sum(-1, keepdims=True)
    view = attention_view([lower, softmax_like(1, 4)], list("abcd"))
    assert view.data["causal"] == [True, False]


@pytest.mark.parametrize(
    ("given", "options", "says"),
    [
        ((), {}, 'attn_implementation="eager"'),
        (SimpleNamespace(attentions=None), {}, 'attn_implementation="eager"'),
        (SimpleNamespace(cross_attentions=()), {}, "outputs.cross_attentions"),
        ([None], {}, "Layer 0 has no attention (None)"),
        ([np.ones((2, 1, 9, 9)) / 9], {}, "a[i:i+1]"),
        ([np.ones((1, 12, 12)) / 12], {}, "a[..., :9, :9]"),
        ([np.ones((9, 9)) / 9], {}, "shape (9, 9)"),
        ([np.full((1, 9, 9), -3.0)], {}, "after the softmax"),
        ([np.full((1, 9, 9), np.nan)], {}, "after the softmax"),
        (7, {}, "type int"),
        (None, {"mode": "bars"}, "'lines', 'heat', 'model', 'neurons'"),
        (None, {"theme": "blue"}, "'auto', 'light', 'dark'"),
        (None, {"layer": 3}, "no layer 3"),
        (None, {"layer": 1, "heads": [2]}, "between 0 and 1"),
        (None, {"include_layers": [5]}, "between 0 and 2"),
        (None, {"sentence_b_start": 9}, "between 1 and 8"),
        (None, {"words": [0]}, "1 values for 9 tokens"),
        (None, {"queries": [np.ones((4, 9, 8))]}, "queries is of 1 layers"),
        (None, {"scales": [0.5]}, "scales is of 1 layers"),
        (None, {"keys": [np.ones((3, 9, 8))] * 3}, "keys of layer 0 has shape (3, 9, 8)"),
    ],
)
def test_errors_say_what_to_do(layers: list[NDArray[Any]], given: Any, options: dict[str, Any], says: str) -> None:
    with pytest.raises(QKSpaceError, match=re.escape(says)):
        attention_view(layers if options else given, TOKENS, **options)


def test_the_function_is_what_the_package_exports() -> None:
    assert qkspace.attention_view is attention_view


def test_the_page_has_no_address_and_no_token_ends_its_script(layers: list[NDArray[Any]]) -> None:
    tokens = [ATTACK, "<!--", "\u2028", "\ud800", *TOKENS[4:]]
    view = attention_view(layers, tokens)
    page = view.html
    assert page.count("</script>") == 3
    assert ATTACK not in page and "<!--" not in page
    assert not re.search(r"""(?:src|href)\s*=\s*["']?(?:https?:)?//|@import|fetch\(|XMLHttpRequest""", page)
    held = json.loads(re.search(r'id="held">(.*?)</script>', page, re.DOTALL)[1])  # type: ignore[index]
    assert held["data"]["queryTokens"] == tokens


def test_a_page_that_cannot_be_written_leaves_what_was_there(
    layers: list[NDArray[Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "page.html"
    path.write_text("what was there")

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space"):
        attention_view(layers, TOKENS).save(path)
    assert path.read_text() == "what was there"
    assert list(tmp_path.iterdir()) == [path]


def test_no_layer_of_an_index_is_refused_in_words(decoder_index: Index) -> None:
    sequence = int(decoder_index.sequences["sequence"].iloc[3])
    with pytest.raises(QKSpaceError, match="No layer was asked for"):
        decoder_index.sentence(sequence, layers=[])


def test_data_of_an_index_is_its_attention(decoder_index: Index) -> None:
    sequence = int(decoder_index.sequences["sequence"].iloc[3])
    data = attention_data(decoder_index, sequence, layers=[1], thumbs=True)
    assert data["attention"][0] is None and data["thumbs"][1] is None
    record, n = data["attention"][1], len(data["queryTokens"])
    codes = record["data"].reshape(record["shape"])
    for head in range(4):
        assert np.array_equal(codes[head], quantise(decoder_index.head(1, head).attention(sequence)))
    rows = decoder_index.rows(sequence)
    key = data["key"][1]
    half = key["data"].view(np.float16).reshape(key["shape"])
    assert key["shape"] == [2, n, decoder_index.d_head]  # two heads of keys for four of queries
    assert np.allclose(half[1], decoder_index.head(1, 2).key[rows], atol=2e-3)
    assert data["queryTokens"] == decoder_index.tokens["text"].iloc[rows].tolist()
    with pytest.raises(QKSpaceError, match="no layer 9"):
        attention_data(decoder_index, sequence, layers=[9])


# ------------------------------------------------------------------------------------------------ browser


Open = Callable[..., Any]


@pytest.fixture
def open_view(context: Any, tmp_path: Path) -> Iterator[Open]:
    """Open a saved view; at the end no page may have complained, opened a dialog or asked for anything."""
    faults: list[str] = []
    pages: list[Any] = []

    def show(view: AttentionView | str, *, scheme: str = "light", size: tuple[int, int] = (1280, 800)) -> Any:
        path = tmp_path / f"view{len(pages)}.html"
        path.write_text(view if isinstance(view, str) else view.html, encoding="utf-8")
        page = new_page(context, size, scheme)
        pages.append(page)
        page.on("console", lambda message: faults.append(message.text))
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.on("dialog", lambda dialog: (faults.append(dialog.message), dialog.dismiss()))
        page.on("request", lambda request: None if request.url == path.as_uri() else faults.append(request.url))
        page.goto(path.as_uri())
        if not isinstance(view, str):
            settle(page)
        return page

    yield show
    for page in pages:
        page.close()
    assert not [fault for fault in faults if not fault.startswith("blob:")], faults


def settle(page: Any) -> None:
    """Wait until everything is unpacked and drawn."""
    page.evaluate("() => view.ready()")


def state(page: Any) -> dict[str, Any]:
    """Return the view's state."""
    return dict(page.evaluate("() => view.state()"))


def tip(page: Any) -> str:
    """Return the text of the tooltip; empty where none is shown."""
    found = page.locator(".tip")
    return str(found.inner_text()) if found.is_visible() else ""


@pytest.mark.browser
def test_mathematics_is_that_of_numpy(open_view: Open, layers: list[NDArray[Any]]) -> None:
    page = open_view(attention_view(layers, TOKENS))
    random = np.random.default_rng(1)
    n, weight = len(TOKENS), layers[0][1].astype(float)

    def js(body: str, *arguments: Any) -> NDArray[Any]:
        given = [a.tolist() if isinstance(a, np.ndarray) else a for a in arguments]
        wrapped = (
            "([a, b, c, d]) => { const m = qkspaceAttentionView.maths, f = (x) => Float32Array.from(x.flat()); return "
        )
        return np.asarray(page.evaluate(f"{wrapped}[...({body})] }}", [*given, None, None, None, None][:4]))

    assert np.array_equal(js("m.quantise(a.flat(), 255)", weight), quantise(weight).ravel())
    codes = quantise(weight, 150)
    assert np.allclose(js("m.dequantise(a.flat(), 150)", codes), (codes.ravel() / 150) ** 2)
    norms = random.uniform(0.1, 3, n)
    weighted = weight * norms / (weight * norms).sum(1, keepdims=True)
    assert np.allclose(
        js("m.renormalise(m.scaleColumns(f(a), b), b.length)", weight, norms), weighted.ravel(), atol=1e-6
    )

    words, hidden = [None, 1, 2, 2, 3, None, 4, 5, None], [True] + [False] * 4 + [True, False, False, True]
    units = page.evaluate("([w, h]) => qkspaceAttentionView.maths.unitsOf(9, w, h)", [words, hidden])
    assert units == [[1], [2, 3], [4], [6], [7]]
    kept = np.where(hidden, 0, weighted)
    kept /= kept.sum(1, keepdims=True)
    columns = np.stack([kept[:, unit].sum(1) for unit in units], axis=1)
    merged = np.stack([columns[unit].mean(0) for unit in units])
    assert np.allclose(merged.sum(1), 1)
    options = "{ norms: b, hidden: c, rows: d, columns: d }"
    assert np.allclose(js(f"m.transform(f(a), 9, {options})", weight, norms, hidden, units), merged.ravel(), atol=1e-6)

    order = [j for j in np.argsort(-weight[2], kind="stable") if weight[2, j] >= 0.05]
    assert js("m.strongestOf(f(a), .05, 0)", weight[2]).tolist() == order
    assert js("m.strongestOf(f(a), .05, 2)", weight[2]).tolist() == order[:2]
    mean = layers[0].mean(0)
    assert np.allclose(js("m.average(a.map(f))", layers[0].astype(float)), mean.ravel(), atol=1e-6)

    query, key = random.normal(size=8), random.normal(size=(n, 8))
    logit = 0.3 * key @ query
    assert np.allclose(js("m.logitsOf(f(a), f(b), 8, .3)", query, key), logit, atol=1e-5)
    causal = np.where(np.arange(n) <= 4, np.exp(logit), 0)
    assert np.allclose(js("m.softmax(f(a), (j) => j <= 4)", logit), causal / causal.sum(), atol=1e-6)
    half = np.array([0, 1, -2.5, 6e-8, 65504, 1 / 3], dtype=np.float16)
    assert np.array_equal(js("m.fromHalf(a)", half.view(np.uint16)), half.astype(float))
    assert np.allclose(
        js("m.pool(f(a), 9, 9, 3).pixels", weight), weight.reshape(3, 3, 3, 3).max((1, 3)).ravel(), atol=1e-6
    )


@pytest.mark.browser
@pytest.mark.parametrize("dark", [False, True])
def test_heads_have_colours_of_their_own(open_view: Open, layers: list[NDArray[Any]], dark: bool) -> None:
    page = open_view(attention_view(layers, TOKENS))
    colours = page.evaluate(
        "(d) => Array.from({length: 40}, (_, h) => qkspaceAttentionView.maths.headColour(h, d))", dark
    )
    rgb = np.array([[int(colour[i : i + 2], 16) for i in (1, 3, 5)] for colour in colours], dtype=float)
    apart = np.linalg.norm(rgb[:, None] - rgb[None], axis=2) + 999 * np.eye(40)
    assert apart[:12, :12].min() > 40 and apart[:32, :32].min() > 12
    assert np.diag(apart, 1).min() > 80  # neighbours
    card = "#1B2028" if dark else "#FFFFFF"
    contrast = page.evaluate(
        "([c, b]) => c.map((x) => qkspaceAttentionView.maths.contrast(x, b.toLowerCase()))", [colours, card]
    )
    assert min(contrast) > 2.9


@pytest.mark.browser
def test_heads_toggle_isolate_and_come_back(open_view: Open, layers: list[NDArray[Any]]) -> None:
    page = open_view(attention_view(layers, TOKENS))
    assert page.locator(".chip").count() == 4 and state(page)["heads"] is None
    page.click(".chip[data-head='1']")
    assert state(page)["heads"] == [0, 2, 3]
    page.click(".chip[data-head='1']", delay=600)
    page.dblclick(".chip[data-head='2']")
    assert state(page)["heads"] == [2]
    page.dblclick(".chip[data-head='2']")
    assert state(page)["heads"] is None
    page.get_by_role("button", name="None").click()
    assert state(page)["heads"] == [] and "No head is chosen" in page.locator(".stage").inner_text()
    page.get_by_role("button", name="All", exact=True).click()
    assert state(page)["heads"] is None and page.locator(QUERY).count() == len(TOKENS)


@pytest.mark.browser
def test_hover_shows_only_the_lines_of_a_token_and_its_weights(open_view: Open, layers: list[NDArray[Any]]) -> None:
    page = open_view(attention_view(layers, TOKENS))

    def lines() -> int:
        return int(page.evaluate("() => (view.svg().match(/<path /g) || []).length"))

    drawn = (quantise(layers[0]) / 255.0) ** 2 >= 0.02
    assert lines() == drawn.sum()
    page.hover(f"{QUERY}[data-unit='4']")
    assert lines() == drawn[:, 4].sum()
    best = int(layers[0].mean(0)[4].argmax())
    assert f"{layers[0].mean(0)[4, best]:.2f}" in tip(page)
    page.hover(f"{KEY}[data-unit='2']")
    assert lines() == drawn[:, :, 2].sum()
    page.mouse.move(2, 2)
    assert lines() == drawn.sum() and not tip(page)
    page.evaluate("() => view.set({topK: 1, threshold: 0, heads: [3]})")
    assert lines() == len(TOKENS)


@pytest.mark.browser
def test_a_click_pins_and_escape_lets_go(open_view: Open, layers: list[NDArray[Any]]) -> None:
    page = open_view(attention_view(layers, TOKENS))
    page.click(f"{QUERY}[data-unit='2']")
    assert state(page)["selected"] == {"side": "query", "token": 2}
    assert page.locator(f"{QUERY}[data-unit='2']").get_attribute("aria-pressed") == "true"
    page.hover(f"{KEY}[data-unit='4']")
    for head in range(4):
        weight = layers[0][head, 2, 4]
        shown = float(re.search(rf"Head {head}\s*([\d.]+)", tip(page))[1])  # type: ignore[index]
        assert abs(shown - weight) < 0.01
    page.click(f"{KEY}[data-unit='4']")
    assert state(page)["selected"] == {"side": "key", "token": 4}
    page.keyboard.press("Escape")
    assert state(page)["selected"] is None
    page.click(f"{QUERY}[data-unit='2']")
    page.click(f"{QUERY}[data-unit='2']")
    assert state(page)["selected"] is None


@pytest.mark.browser
def test_keys_do_what_the_mouse_does(open_view: Open, layers: list[NDArray[Any]]) -> None:
    page = open_view(attention_view(layers, TOKENS))
    page.focus(f"{QUERY}[data-unit='0']")
    for key in ("ArrowDown", "ArrowDown", "ArrowRight", "ArrowUp"):
        page.keyboard.press(key)
    assert page.evaluate("() => document.querySelector('#view > div').shadowRoot.activeElement.dataset") == {
        "side": "key",
        "unit": "1",
    }
    page.keyboard.press("Enter")
    assert state(page)["selected"] == {"side": "key", "token": 1}
    page.keyboard.press("ArrowDown")  # the focus is where it was, though all was drawn anew
    page.keyboard.press("Space")
    assert state(page)["selected"] == {"side": "key", "token": 2}
    page.keyboard.press("Escape")
    assert state(page)["selected"] is None
    reached = set()
    page.evaluate("() => document.activeElement?.blur()")
    for _ in range(60):
        page.keyboard.press("Tab")
        reached.add(
            page.evaluate(
                "() => { const e = document.querySelector('#view > div').shadowRoot.activeElement;"
                " return e && (e.dataset.mode || e.dataset.role || e.dataset.side || e.dataset.head || e.textContent) }"
            )
        )
    wanted = {
        "lines",
        "layer",
        "threshold",
        "topK",
        "hideSpecial",
        "hideSink",
        "mergeWords",
        "query",
        "key",
        "svg",
        "All",
    }
    assert wanted | {"0", "1", "2", "3"} <= reached


@pytest.mark.browser
def test_layers_of_other_heads_keep_what_they_can(open_view: Open, layers: list[NDArray[Any]]) -> None:
    page = open_view(attention_view(layers, TOKENS, heads=[0, 3]))
    page.get_by_role("button", name="Next layer").click()
    settle(page)
    assert state(page)["layer"] == 1 and state(page)["heads"] == [0] and page.locator(".chip").count() == 2
    page.locator("select[data-role=layer]").select_option("2")
    settle(page)
    assert page.locator(".chip").count() == 12
    assert page.get_by_role("button", name="Next layer").is_disabled()


@pytest.mark.browser
def test_hidden_tokens_words_and_pairs(open_view: Open, layers: list[NDArray[Any]]) -> None:
    page = open_view(attention_view(layers, TOKENS, sentence_b_start=SENTENCE_B, mode="heat", heads=[1]))

    def texts(side: str) -> list[str]:
        return list(page.locator(side).all_inner_texts())

    page.check("[data-role=hideSpecial]")
    assert texts(QUERY) == texts(KEY) == ["the", "play", "ing", "cat", "it", "sat"]
    page.check("[data-role=mergeWords]")
    assert texts(QUERY) == ["the", "playing", "cat", "it", "sat"]
    weight = np.delete(layers[0][1].astype(float), [0, 5, 8], axis=1)
    weight /= weight.sum(1, keepdims=True)
    page.hover(f"{QUERY}[data-unit='1']")
    expected = (weight[2:4, 1:3].sum(1)).mean()
    assert f"{expected:.2f}"[:3] in tip(page)
    page.locator("select[data-role=pair]").select_option("ab")
    assert texts(QUERY) == ["the", "playing", "cat"] and texts(KEY) == ["it", "sat"]
    page.locator("select[data-role=pair]").select_option("bb")
    assert texts(QUERY) == texts(KEY) == ["it", "sat"]


@pytest.mark.browser
def test_every_head_has_its_picture_and_opens(open_view: Open, layers: list[NDArray[Any]]) -> None:
    page = open_view(attention_view(layers, TOKENS, mode="model"))
    page.wait_for_function(
        "() => document.querySelector('#view > div').shadowRoot.querySelectorAll('.thumb[data-painted]').length == 18"
    )
    pixel = page.locator(".thumb[data-at='2'][data-head='7'] canvas").evaluate(
        "(c) => [...c.getContext('2d').getImageData(0, 0, c.width, c.height).data].filter((_, i) => i % 4 == 0)"
    )
    ink = np.argsort(pixel, kind="stable")[0]  # the darkest is the strongest
    assert ink == layers[2][7].argmax()
    page.hover(".thumb[data-at='2'][data-head='7']")
    assert tip(page) == "Layer 2, head 7"
    page.click(".thumb[data-at='2'][data-head='7']")
    settle(page)
    now = state(page)
    assert (now["mode"], now["layer"], now["heads"]) == ("lines", 2, [7])


@pytest.mark.browser
def test_neurons_compute_the_attention(open_view: Open, decoder_index: Index) -> None:
    sequence = int(decoder_index.sequences["sequence"].iloc[2])
    page = open_view(index_attention_view(decoder_index, sequence, mode="neurons", layer=1))
    assert "Click another token" in page.locator(".hint").inner_text()
    page.click(f"{KEY}[data-unit='3']")
    assert state(page)["selected"] == {"side": "query", "token": 3}
    page.locator("select[data-role=head]").select_option("2")
    settle(page)
    assert "differs" not in page.locator(".foot").inner_text()  # softmax of the vectors is the attention


@pytest.mark.browser
def test_neurons_without_vectors_say_so(open_view: Open, layers: list[NDArray[Any]]) -> None:
    page = open_view(attention_view(layers, TOKENS, mode="neurons"))
    assert "vectors of this layer are not in this view" in page.locator(".stage").inner_text()


@pytest.mark.browser
def test_cross_attention_has_its_own_keys(open_view: Open) -> None:
    page = open_view(attention_view([softmax_like(2, 3, 5)], list("abc"), key_tokens=list("vwxyz"), sentence_b_start=1))
    assert page.locator(QUERY).all_inner_texts() == list("abc") and page.locator(KEY).all_inner_texts() == list("vwxyz")
    page.evaluate("() => view.set({mode: 'heat'})")
    assert page.locator(KEY).count() == 5 and not page.locator("select[data-role=pair]").is_visible()


@pytest.mark.browser
@pytest.mark.parametrize("mode", ["lines", "heat", "model", "neurons"])
def test_tokens_are_text_and_nothing_else(open_view: Open, mode: Any) -> None:
    tokens = [ATTACK, "\n", " ", "日本語", "", "<b onclick=alert(2)>x"]
    vectors = [np.ones((1, 6, 4))]
    view = attention_view([softmax_like(1, 6)], tokens, queries=vectors, keys=vectors, mode=mode, prettify=False)
    page = open_view(view)
    if mode != "model":
        assert page.locator(QUERY).all_inner_texts() == [ATTACK, "⏎", "␣", "日本語", "∅", tokens[5]]
        page.hover(f"{QUERY}[data-unit='0']")
    assert (
        page.evaluate("() => document.querySelector('#view > div').shadowRoot.querySelectorAll('img, .stage b').length")
        == 0
    )
    if mode == "lines":
        assert (
            page.evaluate(
                "() => new DOMParser().parseFromString(view.svg(), 'image/svg+xml').querySelector('parsererror')"
            )
            is None
        )


@pytest.mark.browser
@pytest.mark.parametrize("mode", ["lines", "heat", "model"])
def test_one_token_is_shown(open_view: Open, mode: Any) -> None:
    page = open_view(attention_view([np.ones((1, 1, 1))], ["only"], mode=mode))
    assert page.locator(".thumb" if mode == "model" else QUERY).count() == 1
    page.check("[data-role=hideSink]")
    assert "Nothing is left to show" in page.locator(".stage").inner_text()


@pytest.mark.browser
def test_a_page_may_hold_several_and_keeps_its_own_style(open_view: Open, layers: list[NDArray[Any]]) -> None:
    view = attention_view(layers, TOKENS)
    page = open_view(
        f"<body style='--card: #101418'><div id=a></div><div id=b></div><button>mine</button><script>{script()}</script></body>"
    )
    before = page.evaluate(
        "() => [Object.keys(globalThis).length, getComputedStyle(document.querySelector('button')).height]"
    )
    page.evaluate(
        """([data]) => { const said = window.said = [], root = (id) => document.getElementById(id)
        const part = {...data, attention: [data.attention[0], null, null], id: "x"}
        window.one = qkspaceAttentionView(root("a"), part, {
          needLayer: (layer) => said.push(layer), onChange: (state) => said.push(state.heads), strings: {lines: "Linien"}})
        window.two = qkspaceAttentionView(root("b"), data, {theme: "light", layer: 2}) }""",
        [view.data],
    )
    page.evaluate("() => Promise.all([one.ready(), two.ready()])")
    boxes = page.evaluate(
        "() => ['a', 'b'].map((id) => document.querySelector(`#${id} > div`).shadowRoot.querySelector('.view').dataset.theme)"
    )
    assert boxes == ["dark", "light"]  # the first takes the page's colours
    assert page.locator("#a .tabs button").first.inner_text() == "Linien"
    page.locator("#a .chip").first.click()
    assert page.evaluate("() => said") == [[1, 2, 3]] and page.evaluate("() => two.state().heads") is None
    page.evaluate("() => one.set({layer: 1})")
    page.wait_for_function("() => said.length == 2")
    assert page.evaluate("() => said[1]") == 1 and page.locator("#a .token").count() == 0
    page.evaluate("([d]) => one.update({...d, attention: [null, d.attention[1], null], id: 'x'})", [view.data])
    page.evaluate("() => one.ready()")
    assert page.locator("#a .token").count() == 2 * len(TOKENS)
    page.evaluate("() => one.set({layer: 0})")
    page.evaluate("() => one.ready()")
    assert page.locator("#a .token").count() == 2 * len(TOKENS)  # what was there is kept
    page.evaluate("() => { one.destroy(); two.destroy() }")
    after = page.evaluate(
        "() => [Object.keys(globalThis).length, getComputedStyle(document.querySelector('button')).height]"
    )
    assert after == [before[0] + 3, before[1]]  # said, one, two: the test's own
    assert page.evaluate("() => document.querySelector('#a').childElementCount") == 0


@pytest.mark.browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", [(1280, 800), (1920, 1080)])
def test_nothing_sticks_out_and_text_can_be_read(
    open_view: Open, small_index: Index, scheme: str, size: tuple[int, int]
) -> None:
    lengths = small_index.sequences.set_index("sequence")["n_tokens"]
    page = open_view(index_attention_view(small_index, int(lengths.idxmax())), scheme=scheme, size=size)
    for mode in ("lines", "heat", "model", "neurons"):
        page.evaluate("(mode) => view.set({mode})", mode)
        settle(page)
        found = page.evaluate(
            """() => { const root = document.querySelector("#view > div").shadowRoot, m = qkspaceAttentionView.maths
            const style = getComputedStyle(root.querySelector(".view"))
            const of = (name) => style.getPropertyValue("--" + name).trim().toLowerCase()
            return { wide: document.documentElement.scrollWidth - innerWidth,
              tall: document.documentElement.scrollHeight - innerHeight,
              contrasts: ["ink", "muted"].map((name) => m.contrast(of(name), of("card"))),
              tab: m.contrast(of("accent"), of("accent-ink")), stage: root.querySelector(".stage").clientHeight } }"""
        )
        assert found["wide"] <= 0 and found["tall"] <= 0 and found["stage"] > 400
        assert min(*found["contrasts"], found["tab"]) >= 4.5


@pytest.mark.browser
def test_two_views_live_below_two_cells(open_view: Open, layers: list[NDArray[Any]]) -> None:
    cells = "".join(
        attention_view(layers, [ATTACK, *TOKENS[1:]], mode=mode)._repr_html_() for mode in ("lines", "heat")
    )
    page = open_view(f"<!doctype html><body>{cells}</body>")
    frames = page.frames[1:]
    assert len(frames) == 2
    for frame in frames:
        frame.wait_for_function("() => globalThis.view")
        frame.evaluate("() => view.ready()")
        assert frame.locator(QUERY).first.inner_text() == ATTACK
