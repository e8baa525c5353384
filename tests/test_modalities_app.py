"""Tests of the page of sounds and of encoder-decoders: it speaks of what it shows, and shows who asks and who answers."""

from __future__ import annotations

import json
import re
import string
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import pytest
from bokeh.document import Document
from bokeh.models import ColumnDataSource, Div, RadioButtonGroup
from browsing import Visit, bokeh_serve, free_port, running
from conftest import _byte_pairs
from PIL import Image
from test_pairs import FAMILIES
from test_sound import CONVOLUTIONAL, tone, wav

from qkspace import captions
from qkspace.app import detail, select, words
from qkspace.app.colours import Legend
from qkspace.app.compare_document import make_compare_document
from qkspace.app.compare_state import CompareState
from qkspace.app.compare_state import to_address as compare_to_address
from qkspace.app.document import make_document
from qkspace.app.language import LANGUAGES, SUBJECTS, spoken, strings
from qkspace.app.select import SHARE, Scene, Shown, colouring
from qkspace.app.sound_words import sound_strip
from qkspace.app.state import Kind, Language, State
from qkspace.app.views.map import _fixed_sources
from qkspace.app.views.sentence import SentenceView
from qkspace.attention_view import attention_data
from qkspace.comparison.build import compare
from qkspace.comparison.reader import Comparison
from qkspace.index import Index
from qkspace.pipeline import build

ATTACK = "<img src=x onerror=alert(1)>&amp;"
VISION = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "image_size": 64,
    "patch_size": 16,
    "initializer_range": 0.25,
}
MAPS: dict[str, Any] = {"methods": ["pca"], "dims": [2], "normalise": "none", "storage": "float32", "n_jobs": 1}


@pytest.fixture(scope="module")
def sounds(tmp_path_factory: pytest.TempPathFactory) -> Index:
    """Eight tones, half of each silent, one of them with a name and a label that are markup."""
    import torch
    from transformers import AutoConfig, AutoModel, Wav2Vec2FeatureExtractor

    folder = tmp_path_factory.mktemp("sounds")
    torch.manual_seed(0)
    AutoModel.from_config(AutoConfig.for_model("wavlm", **CONVOLUTIONAL)).save_pretrained(folder / "model")
    Wav2Vec2FeatureExtractor().save_pretrained(folder / "model")
    for i in range(8):
        place = folder / "corpus" / (ATTACK if i == 3 else f"kind{i % 2}")
        place.mkdir(parents=True, exist_ok=True)
        samples = np.concatenate([tone(300 + 100 * i, 0.2 + 0.03 * i), np.zeros(4000, dtype=np.float32)])
        (place / (f"{ATTACK}.wav" if i == 3 else f"tone{i}.wav")).write_bytes(wav(samples))
    return build(str(folder / "model"), folder / "corpus", out=folder / "index", **MAPS)


@pytest.fixture(scope="module")
def compared(tmp_path_factory: pytest.TempPathFactory) -> Comparison:
    """A tiny vision transformer beside itself with other queries, over eight images."""
    import torch
    from transformers import AutoConfig, AutoModel, ViTImageProcessorPil

    folder = tmp_path_factory.mktemp("compared")
    torch.manual_seed(1)
    model = AutoModel.from_config(AutoConfig.for_model("vit", **VISION))
    for name in ("base", "tuned"):
        model.save_pretrained(folder / name)
        ViTImageProcessorPil(size={"height": 64, "width": 64}).save_pretrained(folder / name)
        with torch.no_grad():
            for part, weight in model.named_parameters():
                if re.search(r"(query|q_proj)\.weight$", part):
                    weight.add_(0.2 * weight.std() * torch.randn_like(weight))
    (folder / "corpus").mkdir()
    for i in range(8):
        pixels = np.random.default_rng(i).integers(0, 255, (4, 4, 3), dtype=np.uint8)
        Image.fromarray(pixels).resize((64, 64), Image.Resampling.NEAREST).save(folder / "corpus" / f"{i}.png")
    given = {"out": folder / "comparison", **MAPS}
    return compare(str(folder / "base"), str(folder / "tuned"), folder / "corpus", **given)


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory, sentences: list[str]) -> Callable[..., Index]:
    """Build an index of a part of a tiny encoder-decoder over twelve pairs; without a target, the source is read again."""
    import torch
    from tokenizers import processors
    from transformers import AutoConfig, AutoModelForSeq2SeqLM

    folder = tmp_path_factory.mktemp("pairs")
    tokenizer = _byte_pairs(sentences)
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 2), ("</s>", 3)]
    )
    torch.manual_seed(0)
    config = AutoConfig.for_model("bart", vocab_size=len(tokenizer), **FAMILIES["bart"])
    AutoModelForSeq2SeqLM.from_config(config).save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    rows = [{"text": sentences[i], "target": sentences[39 - i]} for i in range(12)]
    (folder / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")

    @cache
    def make(part: str, target: str | None = "target") -> Index:
        of_target = {} if part == "encoder" or target is None else {"target_column": target}
        out = folder / f"{part}-{target}"
        given = {**MAPS, **of_target, "attention": part, "text_column": "text"}
        return build(str(folder / "model"), folder / "pairs.jsonl", out=out, **given)

    return make


def page_of(index: Index, **chosen: Any) -> Document:
    doc = Document()
    make_document(doc, index, **chosen)
    return doc


def said_by(doc: Document) -> str:
    return re.sub(r"<[^>]*>", " ", " ".join(div.text for div in doc.select({"type": Div})))


def scene_of(shown: Shown, **options: Any) -> Scene:
    state = State(**{"language": spoken("en", shown.subject), **options})
    return Scene(shown, state, colouring(shown, state))


def _places(sentence: str) -> set[str]:
    return {name for _, name, _, _ in string.Formatter().parse(sentence) if name}


# -------------------------------------------------------------------------------------------------- words


@pytest.mark.parametrize("language", list(LANGUAGES))
@pytest.mark.parametrize("subject", SUBJECTS)
def test_what_is_said_instead_asks_for_no_more_than_what_is_said_of_texts(language: Language, subject: str) -> None:
    known, instead = strings(language), strings(spoken(language, subject))
    free = {"tooltip_where", "token_place"}  # which are told the place in an image and its name as well
    changed = [name for name in known if f"{name}_{subject}" in known]
    assert len(changed) > {"image": 80, "audio": 100, "cross": 10, "decoder": 0}[subject]
    for name in changed:
        assert instead[name] == known[f"{name}_{subject}"] != known[name], name
        if name not in free:
            assert _places(instead[name]) <= _places(known[name]), name


@pytest.mark.parametrize("page", ["map", "atlas", "sentence", "head"])
@pytest.mark.parametrize(
    ("language", "own", "others"),
    [
        ("en", ("frame", "sound"), r"\b(token|tokens|word|words|sentence|sentences|sequence|sequences)\b"),
        ("ja", ("フレーム", "音声"), "トークン|単語|系列"),
    ],
)
def test_the_page_of_sounds_speaks_of_frames(
    sounds: Index, page: str, language: str, own: tuple[str, str], others: str
) -> None:
    doc = page_of(sounds, page=page, language=language, selected=("query", 5), theme="light")
    said = said_by(doc)
    assert all(word in said for word in own)
    assert not re.search(others, said)
    assert not doc.get_model_by_name("text").visible and not doc.get_model_by_name("pair").visible


def test_the_columns_of_frames_are_named_and_none_of_them_is_of_the_corpus(sounds: Index) -> None:
    shown = Shown(sounds)
    names = dict(shown.colour_labels("en"))
    assert {"time", "loudness", "frequency", "duration", "label"} <= set(names)
    assert not {select.FREQUENCY, select.MOD5} & set(names)
    for column in ("time", "loudness", "frequency", "duration"):
        assert "(of the sounds)" not in names[column]
        assert colouring(shown, State(colour=column)).legend.title == names[column]  # also of a picture that is saved
    assert names["label"] == "label (of the sounds)"
    assert dict(shown.colour_labels("ja"))["time"] == strings("ja")["colour_time_audio"]


def test_tooltip_and_card_name_the_file_of_the_sound(sounds: Index) -> None:
    shown = Shown(sounds)
    for place in range(len(sounds.sequences)):
        row = int(sounds.row_starts[place]) + 4
        state = State(language="en+audio", selected=("key", row))
        name = str(sounds.sequences["text"].iloc[place])
        told = detail.told(shown, state, "key", row)
        assert name in told["after"] and "frame 5 of" in told["where"] and not told["before"]
        card = words.token_card(shown, state)
        if name.startswith("<"):
            assert ATTACK not in card and "&lt;img src=x" in card
        else:
            assert f"Sound {name}" in card
    sources = [set(each.data) for each in page_of(sounds).select({"type": ColumnDataSource})]
    assert {"text", "sentence", "position", "start", "end", "length"} in sources
    of_tooltips = _fixed_sources(shown)
    for name in ("start", "end"):
        assert not of_tooltips["tokens"].data[name].any()  # the whole name comes after every token
    names = of_tooltips["sentences"].data["text"]
    assert [str(text) in name for text, name in zip(sounds.sequences["text"], names, strict=True)] == [True] * 8


def test_the_strip_of_a_sound_is_high_where_it_is_loud_and_strong_where_attention_goes(sounds: Index) -> None:
    rows = sounds.rows(0)
    tokens = sounds.tokens.iloc[rows]
    attention = sounds.head(1, 2).attention(0)[6]
    html = sound_strip(tokens, attention, 6, "query")
    height = np.array([float(h) for h in re.findall(r'height="([\d.]+)" style="fill:color-mix', html)])
    strength = np.array([int(s) for s in re.findall(r"var\(--key\) (\d+)%", html)])
    assert len(height) == len(strength) == len(tokens)
    loudness = tokens["loudness"].to_numpy()
    silent = loudness < -80
    assert silent.any() and height[silent].max() == 4 and height[loudness > -20].min() > 30
    np.testing.assert_allclose(strength, 100 * np.sqrt(attention), atol=0.51)
    long = sound_strip(sounds.tokens, np.full(sounds.n_tokens, 0.1), 7, "key")  # as if all were one sound
    assert long.count("<title>") <= 145


def test_pictures_say_of_what_the_tokens_are(sounds: Index, small_index: Index) -> None:
    assert captions.corpus_words(sounds).endswith(f"({sounds.n_tokens:,} frames of 8 sounds)")
    said = captions.scores_words(sounds.head(0, 0).projection("pca"))
    assert "of 100 frames the nearest key of the sound" in said and "token" not in said
    assert re.search(r"tokens of [\d,]+ sequences\)$", captions.corpus_words(small_index))
    assert "of 100 tokens the nearest key of the sequence" in captions.scores_words(
        small_index.head(0, 0).projection("pca")
    )


# -------------------------------------------------------------------------------------------------- encoder-decoders


def test_targets_ask_and_sources_answer_in_what_the_view_is_sent(pairs: Callable[..., Index]) -> None:
    index = pairs("cross")
    for sequence in (0, 7):
        data = attention_data(index, sequence, layers=[1], thumbs=True)
        tokens = index.tokens.iloc[index.rows(sequence)]
        side = tokens["side"].astype(str).to_numpy()
        text = tokens["text"].astype(str).to_numpy()
        assert data["queryTokens"] == text[side == "target"].tolist()
        assert data["keyTokens"] == text[side == "source"].tolist()
        n_target, n_source = (side == "target").sum(), (side == "source").sum()
        assert data["nSource"] == n_source and data["sentenceB"] is None
        assert data["attention"][1]["shape"] == [4, n_target, n_source]
        codes = np.asarray(data["attention"][1]["data"]).reshape(4, n_target, n_source)
        weights = (codes / data["levels"]) ** 2
        np.testing.assert_allclose(weights.sum(axis=2), 1, atol=0.05)  # nothing was cut off
        whole = index.head(1, 2).attention(sequence)
        np.testing.assert_allclose(weights[2], whole[n_source:, :n_source], atol=0.004)
        for name, n in (("query", n_target), ("key", n_source), ("valueNorms", n_source)):
            assert data[name][1]["shape"][1] == n
            assert np.asarray(data[name][1]["data"]).reshape(4, n, -1).any(axis=2).all()  # none is of an absent one
        assert data["thumbs"][0]["shape"] == [4, min(32, n_target), min(32, n_source)]
        assert not any(data["isSink"]) and data["keyIsSpecial"][0]  # of the source the first, which the view takes


class Told:
    """What a view asked to be changed."""

    def __init__(self) -> None:
        self.what: dict[str, Any] = {}

    def change(self, **what: Any) -> None:
        """Take note."""
        self.what |= what


@pytest.mark.parametrize("part", ["cross", "encoder"])
def test_a_token_of_the_sentence_view_is_the_one_of_the_map(pairs: Callable[..., Index], part: str) -> None:
    index = pairs(part)
    shown, told = Shown(index), Told()
    view = SentenceView(shown, State(), told.change)
    rows = index.rows(3)
    n_source = index.n_source(3) if part == "cross" else rows.stop - rows.start
    assert n_source is not None
    asks = rows.start + n_source if part == "cross" else rows.start
    kinds: tuple[tuple[Kind, int], ...] = (("query", asks + 2), ("key", rows.start + 4))
    for side, row in kinds:
        view.show(scene_of(shown, page="sentence", selected=(side, row)))
        selected = view.host.tags[2]["selected"]
        data = attention_data(index, 3)
        named = data["queryTokens"] if side == "query" else data.get("keyTokens", data["queryTokens"])
        assert named[selected["token"]] == str(index.tokens["text"].iloc[row])
        view.told({"layer": 0, "selected": selected})
        assert told.what["selected"] == (side, row)
        view.told({"layer": 0, "selected": {"side": side, "token": len(named)}})
        assert told.what["selected"] is None
    if part == "cross":  # an address may ask for one that has no query
        view.show(scene_of(shown, page="sentence", selected=("query", rows.start + 1)))
        assert view.host.tags[2]["selected"] is None


def test_the_first_token_that_is_left_out_is_that_of_the_source(pairs: Callable[..., Index]) -> None:
    index = pairs("cross")
    shown = Shown(index)
    places = index.tokens["position"].to_numpy()
    first_of_target = np.array(
        [index.row_starts[i] + (index.n_source(i) or 0) for i in range(len(index.sequences))], dtype=int
    )
    with_first, without = (
        select._strongest_pairs(shown, State(special=True, first=first, n_links=1000, threshold=0.0))[1]
        for first in (True, False)
    )
    assert (places[with_first[:, 1]] == 0).any() and not (places[without] == 0).any()
    assert np.isin(first_of_target, without[:, 0]).any()
    for language in LANGUAGES:
        known = strings(spoken(language, "cross"))
        assert known["first"] != strings(language)["first"] != known["view_hideSink"]


def test_partners_of_a_token_are_on_the_other_side(pairs: Callable[..., Index]) -> None:
    index = pairs("cross")
    shown = Shown(index)
    rows = index.rows(0)
    n_source = index.n_source(0) or 0
    for kind, row in (("query", rows.start + n_source + 1), ("key", rows.start + 2)):
        card = words.token_card(shown, State(language="en+cross", selected=(kind, row)))  # type: ignore[arg-type]
        numbers = [int(n) for n in re.findall(r'class="number muted small"[^>]*>(\d+)<', card)]
        assert len(numbers) == 6
        assert all((n <= n_source) == (kind == "query") for n in numbers)
        assert card.count("<br>") == 1  # source and target stand apart
    absent = words.token_card(shown, State(language="en+cross", selected=("query", rows.start)))
    assert "<table></table>" in absent


@pytest.mark.parametrize(
    ("part", "english", "japanese", "reads"),
    [("cross", "cross-attention", "クロスアテンション", False), ("decoder", "decoder", "デコーダ", False),
     ("encoder", "encoder", "エンコーダ", True)],
)  # fmt: skip
def test_the_header_names_the_part_and_texts_are_typed_only_where_they_are_read(
    pairs: Callable[..., Index], part: str, english: str, japanese: str, reads: bool
) -> None:
    index = pairs(part)
    assert english in words.header(index, "en") and japanese in words.header(index, "ja")
    doc = page_of(index, text="A sentence of my own.")
    assert doc.get_model_by_name("text").visible is reads
    assert (strings("en")["live_loading"] in said_by(doc)) is reads
    said = said_by(page_of(index))
    assert ("nan" not in said.split()) and ("to the previous token" in said) == (part != "cross")


def test_the_header_of_a_model_with_one_part_is_as_it_was(small_index: Index) -> None:
    assert "(" not in re.sub(r"<[^>]*>", "", words.header(small_index))
    assert Shown(small_index).reads_texts and spoken("ja", Shown(small_index).subject) == "ja"


def test_the_same_text_on_both_sides_still_is_two_sequences(pairs: Callable[..., Index]) -> None:
    index = pairs("cross", None)
    data = attention_data(index, 2)
    assert len(data["queryTokens"]) == len(data["keyTokens"]) == data["nSource"]


# -------------------------------------------------------------------------------------------------- legends, comparisons


def test_a_scale_of_shares_ends_at_nothing_and_all(sounds: Index) -> None:
    shown = Shown(sounds)
    assert SHARE in shown.colour_choices  # WavLM adds what depends on position
    legend = colouring(shown, State(colour=SHARE)).legend
    for language in LANGUAGES:
        html = re.sub(r"<[^>]*>", " ", words.legend(legend, markers=True, language=language))
        assert " 0 % " in html and " 100 % " in html
        assert strings(language)["legend_low"].replace("{value}", "0 %") not in html
        usual = words.legend(Legend("title", (), "1", "2"), markers=True, language=language)
        assert strings(language)["legend_low"].replace("{value}", "1") in usual


def test_the_address_of_a_comparison_says_no_modality() -> None:
    first = CompareState(language="en+image")
    assert compare_to_address(CompareState(language="ja+image"), first)["language"] == "ja"
    assert "language" not in compare_to_address(first, first)


@pytest.mark.parametrize("page", ["drift", "maps", "atlas", "sentence"])
def test_the_page_of_a_comparison_of_images_speaks_of_patches(compared: Comparison, page: str) -> None:
    doc = Document()
    make_compare_document(doc, compared, page=page, arguments={"language": [b"en"]})
    said = re.sub("special tokens", "", said_by(doc), flags=re.IGNORECASE)
    assert "patches" in said and not re.search(r"\b(tokens|words|sentence)\b", said)
    assert [each.labels[-1] for each in doc.select({"type": RadioButtonGroup}) if len(each.labels) == 4] == ["Image"]
    japanese = Document()
    make_compare_document(japanese, compared, page=page, arguments={"language": [b"ja"]})
    assert "パッチ" in said_by(japanese) and not re.search("系列|単語", said_by(japanese))


# -------------------------------------------------------------------------------------------------- in a browser


@pytest.mark.browser
def test_the_view_has_targets_at_the_left_and_sources_at_the_right(
    visit: Visit, pairs: Callable[..., Index], tmp_path_factory: pytest.TempPathFactory
) -> None:
    index = pairs("cross", None)
    port = free_port()
    command = bokeh_serve(port, "--index", str(index.root))
    data = attention_data(index, 1)
    with running(command, f"http://localhost:{port}/app", tmp_path_factory.mktemp("log") / "bokeh.log") as url:
        seen = visit(f"{url}?page=sentence&sequence=1")
        seen.page.locator(".token.left").first.wait_for()
        for side, name in (("left", "queryTokens"), ("right", "keyTokens")):
            shown = seen.page.locator(f".token.{side}").all_inner_texts()
            assert [text.strip() for text in shown] == [text.strip() for text in data[name]]
        seen.page.locator(".token.left").nth(3).click()
        seen.until_address(selected=f"query-{index.rows(1).start + data['nSource'] + 3}")
        seen.page.locator(".token.right").nth(2).click()
        seen.until_address(selected=f"key-{index.rows(1).start + 2}")
        seen.page.get_by_role("checkbox", name="Hide first source token").click()
        assert seen.page.locator(".token.left").count() == len(data["queryTokens"])
        assert seen.page.locator(".token.right").count() == len(data["keyTokens"]) - 1
