"""Tests of `qkspace.app.language`: both languages say everything, and every sentence the code asks for is there."""

from __future__ import annotations

import ast
import json
import re
import string
from collections.abc import Iterator
from dataclasses import fields, replace
from html import unescape
from importlib.resources import files
from pathlib import Path
from urllib.parse import parse_qs

import numpy as np
import pandas as pd
import pytest

from qkspace.app import colours, select, words
from qkspace.app.language import LANGUAGES, SUBJECTS, say, strings
from qkspace.app.select import Shown
from qkspace.app.state import Language, Page, State, from_address
from qkspace.gather import STATISTICS
from qkspace.index import Index
from qkspace.project import METHODS
from qkspace.report import SCORE_TITLES, VERDICTS

APP = Path(str(files("qkspace.app")))
ATTACK = "</script><img src=x onerror=alert(1)>{name}{0}"
SPEAKS = {"say", "_say", "plain", "explained", "t"}  # functions of the page whose first text is the name of a sentence
SAME = {  # sentences that are alike in both languages: names of methods and formats, signs
    "export_csv",
    "export_html",
    "export_parquet",
    "export_png",
    "export_svg",
    "method_pca",
    "method_tsne",
    "method_umap",
    "method_unfold",
    "scores_interval",
    "view_bandKey",
    "view_bandProduct",
    "view_bandQuery",
}
CONTROLS = {  # what a page has besides the fields of `State` and the views
    *("hide", "next_hit", "previous_hit", "run", "share", "index", "pages", "help", "hidden"),
    *("export", "export_png", "export_svg", "export_html", "export_csv", "export_parquet"),
    *("lasso", "box_select", "reset", "rotate", "pan", "box_zoom", "wheel_zoom", "badge", "heads_title"),
    *("scores_no_map", "scores_interval"),
}
NO_CONTROL = {"page", "selected", "yaw", "pitch"}  # of a state: chosen by clicking and turning the map
LATIN = {"CLS", "SEP", "PCA", "KL", "AttentionViz"}  # words that Japanese writes in Latin letters


def _places(sentence: str) -> set[str]:
    """Return what a sentence wants filled in."""
    return {name for _, name, _, _ in string.Formatter().parse(sentence) if name is not None}


def _asked() -> Iterator[tuple[str, str]]:
    """Yield the file and pattern of each name of a sentence that the page's code asks for."""
    for path in sorted(APP.rglob("*.py")):
        source = path.read_text(encoding="utf-8")
        if "qkspace.app.language" not in source and "words" not in source:
            continue  # `say` is then that of the console
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.Call):
                called = getattr(node.func, "id", getattr(node.func, "attr", ""))
                found = [name for argument in node.args[:2] for name in _patterns(argument)] if called in SPEAKS else []
                yield from ((path.name, name) for name in found[:2])
                if called == "explained":
                    yield from ((path.name, f"{name}_tip") for name in found)
            if isinstance(node, ast.Subscript) and getattr(getattr(node.value, "func", None), "id", "") == "strings":
                yield from ((path.name, name) for name in _patterns(node.slice))


def _patterns(node: ast.expr) -> list[str]:
    """Return expressions for the names that a literal, a choice of two or an f-string may be; none for anything else."""
    if isinstance(node, ast.Constant):
        return [re.escape(node.value)] if isinstance(node.value, str) else []
    if isinstance(node, ast.IfExp):
        return _patterns(node.body) + _patterns(node.orelse)
    if isinstance(node, ast.JoinedStr):
        parts = [re.escape(str(p.value)) if isinstance(p, ast.Constant) else ".*" for p in node.values]
        return ["".join(parts)]
    return []


def _text(html: str) -> str:
    """Return what a piece of HTML shows, tooltips too."""
    shown = re.sub(r"<[^>]*>", " ", html)
    return unescape(" ".join([shown, *re.findall(r'(?:title|aria-label)="([^"]*)"', html)]))


# ---------------------------------------------------------------- the files


def test_all_languages_have_the_same_sentences_with_the_same_places() -> None:
    english = strings("en")
    for language in LANGUAGES:
        other = strings(language)
        assert set(other) == set(english), language
        for name, sentence in english.items():
            assert _places(other[name]) == _places(sentence), (language, name)
            assert other[name].strip(), (language, name)


def test_no_sentence_stands_twice_in_a_file() -> None:
    for language in LANGUAGES:
        pairs: list[tuple[str, str]] = json.loads(
            (APP / "strings" / f"{language}.json").read_text(encoding="utf-8"), object_pairs_hook=list
        )
        assert len(pairs) == len(dict(pairs)), language


def test_nothing_was_left_in_english() -> None:
    japanese = strings("ja")
    alike = {name for name, sentence in strings("en").items() if japanese[name] == sentence}
    assert alike == SAME & set(japanese)
    without = {name for name, text in japanese.items() if not re.search(r"[\u3040-\u30ff\u4e00-\u9fff]", text)}
    assert without - SAME <= {name for name in japanese if not re.search(r"[A-Za-z]{2}", _bare(japanese[name]))}


def _bare(sentence: str) -> str:
    """Return a sentence without what is filled in."""
    return re.sub(r"\{[^}]*\}", "", sentence)


def test_japanese_has_japanese_punctuation() -> None:
    for name, sentence in strings("ja").items():
        text = re.sub(r"<[^>]*>|&\w+;", "", sentence)
        assert not re.search(r"[\u3040-\u30ff\u4e00-\u9fff][,.;!?]|[,;!?] ?[\u3040-\u30ff\u4e00-\u9fff]", text), name


def test_every_sentence_that_the_code_asks_for_is_there() -> None:
    asked = set(_asked())
    assert len(asked) > 50, "the code was not read"
    missing = {(file, name) for file, name in asked if not any(re.fullmatch(name, known) for known in strings("en"))}
    assert not missing


# ---------------------------------------------------------------- what must be explained


def test_every_control_says_what_it_does_and_has_a_name() -> None:
    known, controls = strings("en"), {field.name for field in fields(State)} - NO_CONTROL
    assert not {name for name in controls | CONTROLS if f"{name}_tip" not in known}
    assert not {name for name in controls if name not in known and name != "region"}
    for page in Page.__args__:  # type: ignore[attr-defined]
        assert {f"page_{page}", f"page_{page}_tip"} <= set(known)


def test_every_method_score_statistic_and_verdict_has_a_name_and_is_explained() -> None:
    known = set(strings("en"))
    names = [f"method_{name}" for name in METHODS]
    names += [f"score_{name}" for name in SCORE_TITLES] + [f"stat_{name}" for name in STATISTICS]
    assert not {name for name in names if not {name, f"{name}_tip"} <= known}
    for word in (*(word for word, _, _ in VERDICTS), "poor", "not_scored"):
        assert {f"verdict_{word}", f"badge_{word}"} <= known


def test_the_glossary_and_the_tour_are_whole() -> None:
    known = set(strings("en"))
    assert {f"what_is_{name}" for name in ("query", "key", "attention", "map")} | {"not_importance"} <= known
    assert {*(f"tour_{i}" for i in range(1, 6)), "tour_next", "tour_skip", "tour_done"} <= known
    keys = ("title", "arrows", "search", "escape", "question", "views", "theme")
    assert {f"help_{name}" for name in keys} <= known


def test_the_viewer_is_given_all_of_its_sentences() -> None:
    source = (APP / "static" / "attention_view.js").read_text(encoding="utf-8")
    block = re.search(r"const STRINGS = \{(.*?)\n\s*\}\n", source, re.DOTALL)
    assert block is not None
    bare = re.sub(r'"(?:[^"\\]|\\.)*"', '""', block[1])
    own = set(re.findall(r"(\w+):\s*\"\"", bare))
    assert len(own) > 30
    for language in LANGUAGES:
        of_view = {name.removeprefix("view_") for name in strings(language) if name.startswith("view_")}
        of_others = {f"{name}_{subject}" for name in own for subject in SUBJECTS}  # where it is not of texts
        assert of_view - of_others == own


# ---------------------------------------------------------------- what the page says


@pytest.fixture(scope="module")
def shown(small_index: Index) -> Shown:
    return Shown(small_index)


@pytest.mark.parametrize("layer", [0, 2, 5])
def test_a_japanese_page_is_japanese(shown: Shown, layer: int) -> None:
    for head in range(12):
        state = State(layer=layer, head=head, language="ja", colour="kind")
        view = shown.view(state)
        legend = select.colouring(shown, state).legend
        said = {
            "head": words.head_card(shown, state),
            "token": words.token_card(shown, state).replace("<kbd>Esc</kbd>", ""),
            "legend": words.legend(legend, markers=True, language="ja"),
            "heads": words.heads_title("ja"),
            "gauge": words.gauge_curves(view.gauge, "ja"),
        }
        for name, html in said.items():
            assert set(re.findall(r"[A-Za-z]{2,}", _text(html))) <= LATIN, name
            assert re.search(r"[\u3040-\u30ff]", html), name


def test_numbers_are_the_same_in_every_language(shown: Shown) -> None:
    """The scores, shares and counts of a card do not depend on who reads it (a share in ten is told in words)."""
    for head in range(6):
        said = {
            language: words.head_card(shown, State(layer=1, head=head, language=language)) for language in LANGUAGES
        }
        numbers = {language: sorted(re.findall(r"\d+\.\d+", _text(html))) for language, html in said.items()}
        assert numbers["en"] == numbers["ja"]
        assert len(numbers["en"]) > 10


def test_a_choice_of_colour_has_one_value_and_a_name_in_each_language(shown: Shown) -> None:
    english, japanese = shown.colour_labels("en"), shown.colour_labels("ja")
    assert [choice for choice, _ in english] == [choice for choice, _ in japanese] == shown.colour_choices
    for (choice, name), (_, other) in zip(english, japanese, strict=True):
        assert name != other, choice
    assert len({name for _, name in japanese}) == len(japanese)


def test_what_a_legend_hides_is_named_alike_in_every_language() -> None:
    names = pd.Series([f"kind {i:02d}" for i in range(25) for _ in range(30 - i)] + [None, "none", "*"])
    english, japanese = (colours.colour_tokens("genre", names, "light", language).legend for language in LANGUAGES)
    assert english.kinds == japanese.kinds
    assert english.kinds[-2:] == (colours.RARE, colours.NONE)
    assert [colour for _, colour, _ in english.entries] == [colour for _, colour, _ in japanese.entries]
    assert english.entries[:-2] == japanese.entries[:-2], "what stands in the corpus is not translated"
    assert english.entries[-2:] != japanese.entries[-2:]
    for kind, (_, _, count) in zip(english.kinds, english.entries, strict=True):
        assert int(colours.hidden_kinds(names, (kind,)).sum()) == count, kind


def test_a_click_on_the_legend_hides_a_kind_and_another_shows_it(shown: Shown) -> None:
    state = State(colour="upos", hidden=("NOUN", colours.NONE))
    legend = select.colouring(shown, state).legend
    html = words.legend(legend, markers=True, hidden=state.hidden)
    entries = re.findall(r'data-go="([^"]*)" style="([^"]*)"', html)
    assert len(entries) == len(legend.kinds) > 3
    for kind, (address, style) in zip(legend.kinds, entries, strict=True):
        arguments = {name: [text.encode() for text in values] for name, values in parse_qs(unescape(address)).items()}
        clicked = from_address(arguments, state, shown).hidden
        assert set(clicked) == set(state.hidden) ^ {kind}
        assert ("opacity" in style) == (kind in state.hidden)


@pytest.mark.parametrize("language", LANGUAGES)
def test_what_is_filled_in_stays_text(language: Language) -> None:
    said = words.plain(language, "token_query", token=ATTACK)
    assert "<" not in said and ATTACK in unescape(said), "neither markup nor places of the text are followed"
    entry = ((ATTACK, "#000000", 3),)
    html = words.legend(
        colours.Legend(ATTACK, entry, kinds=(ATTACK,)), markers=True, hidden=(ATTACK,), language=language
    )
    assert "<img" not in html and "</script" not in html


def test_a_sentence_that_lacks_a_place_is_refused() -> None:
    with pytest.raises(KeyError):
        say("en", "layer_head", layer=1)
    with pytest.raises(KeyError):
        say("ja", "no_such_sentence")


def test_scores_are_put_in_words(shown: Shown) -> None:
    """Of ten tokens, so many as the score says, in both languages."""
    scores = shown.index.head(0, 0).projection("pca").scores
    assert scores is not None
    shares = ((0.02, "almost no", "ごく一部"), (0.72, "7 of 10", "約 7 割"), (0.97, "nearly all", "ほぼすべて"))
    for recall, english, japanese in shares:
        changed = replace(scores, recall1=recall, recall1_content=np.nan, no_map_recall1=np.nan)
        assert f"For {english} tokens" in words.in_words(changed)[0]
        assert f"トークンの{japanese}で" in words.in_words(changed, language="ja")[0]
