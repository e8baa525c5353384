"""Tests of `qkspace.heads.coreference` and what it stands on: planted heads, hand-made chains, and real rows of GAP."""

from __future__ import annotations

import csv
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from conftest import _shared

from qkspace import corpus, store
from qkspace.gap import read_gap
from qkspace.heads import antecedents as module
from qkspace.heads import blocks
from qkspace.heads.agreement import Traits, agree, traits
from qkspace.heads.antecedents import WAYS, Item, antecedents, choices
from qkspace.heads.coreference import analyse, can_be_analysed
from qkspace.heads.mentions import Mention, marks_of, mentions_of
from qkspace.heads.picks import (
    chance,
    first_name,
    head_match,
    head_scores,
    nearest,
    nearest_name,
    share,
    sieves,
)
from qkspace.heads.splits import split
from qkspace.heads.words import word_attention, words_of
from qkspace.index import Index
from qkspace.pipeline import build
from qkspace.schema import LayerSpec, QKSpaceError

TO_ANTECEDENT, TO_MENTION = WAYS
Sentence = Sequence[tuple[str, str | None]]  # words, each with its value in the column of chains


# ---------------------------------------------------------------------------------------------- planted heads


def planted(
    root: Path,
    sentences: Sequence[Sentence],
    links: Callable[[Sentence], list[tuple[int, int]]],
    *,
    causal: bool = False,
    column: str = "coref",
    windows: Sequence[int] | None = None,
    texts: Sequence[str] | None = None,
    crosses: bool = False,
    **columns: Sequence[Any],  # of words
) -> Index:
    """Make an index of one layer of two heads, a token a word; the first attends along `links`, the second to all alike."""
    lengths = [len(sentence) for sentence in sentences]
    width, n = max(lengths), sum(lengths)
    layer = LayerSpec("attention", n_heads=2, n_kv_heads=1, d_head=width, scale=1.0, causal=causal, crosses=crosses)
    position = np.concatenate([np.arange(length) for length in lengths])
    query = np.zeros((2, n, width), dtype=np.float32)
    start = 0
    for sentence in sentences:
        for asking, answering in links(sentence):
            query[0, start + asking, answering] = 30.0
        start += len(sentence)
    store.write_array(root / "query" / "L00.npy", query)
    store.write_array(root / "key" / "L00.npy", np.eye(width, dtype=np.float32)[position][None])
    words = [word for sentence in sentences for word, _ in sentence]
    tokens = {"sequence": np.repeat(np.arange(len(lengths)), lengths), "position": position, "text": words}
    tokens |= {"is_special": np.zeros(n, dtype=bool), "word": position, "word_text": words}
    tokens |= {column: [value for sentence in sentences for _, value in sentence], **columns}
    pd.DataFrame(tokens).to_parquet(root / "tokens.parquet")
    whole = [" ".join(word for word, _ in sentence) for sentence in sentences]
    sequences = {"sequence": np.arange(len(lengths)), "text": texts or whole, "n_tokens": lengths}
    sequences["window"] = list(windows or np.zeros(len(lengths), dtype=np.int64))
    pd.DataFrame(sequences).to_parquet(root / "sequences.parquet")
    manifest = {"format": store.FORMAT, "format_version": store.FORMAT_VERSION, "layers": [asdict(layer)]}
    manifest |= {"corpus": {"n_tokens_stored": n}, "model": {"name": "planted"}, "made_from": {"name": "planted"}}
    store.write_json(root / store.MANIFEST, {**manifest, "check": {}, "maps": [], "files": {}})
    return Index(root)


def tagged(text: str) -> Sentence:
    """Read "Ada/ada met the/dog dog/dog": words with their chains."""
    return [(word, value or None) for word, _, value in (piece.partition("/") for piece in text.split())]


STORIES = [
    tagged("Ada/ada met Tomas/tomas because she/ada liked the/dog dog/dog that/x barked"),
    tagged("the/cook cook/cook saw Ada/ada and Rosa/rosa before he/cook left with Ada/ada ."),
    tagged("my/i brother/bro told the/vet vet/vet that the/vet old/vet vet/vet knew his/bro cat/cat well"),
    tagged("Rosa/rosa , the boy/boy said , is Rosa/rosa but the/boy boy/boy and she/rosa laughed"),
]
STORIES = [*STORIES, *([(f"{number}", None), *story] for number, story in enumerate(STORIES))]  # of other texts


def gold_links(sentence: Sentence, *, turned: bool = False) -> list[tuple[int, int]]:
    """Link each word to the last word of the last earlier run of its chain: head words, as none of these has a tail."""
    heads: list[tuple[int, str]] = [
        (place, value)
        for place, (_, value) in enumerate(sentence)
        if value and (place + 1 == len(sentence) or sentence[place + 1][1] != value)
    ]
    links = []
    for place, chain in heads:
        before = [other for other, value in heads if other < place and value == chain]
        links += [(place, before[-1])] if before else []
    return [(there, here) for here, there in links] if turned else links


@pytest.mark.parametrize("candidates", ["mentions", "words"])
def test_a_head_that_attends_to_the_antecedent_is_always_right(tmp_path: Path, candidates: Any) -> None:
    found = analyse(planted(tmp_path, STORIES, gold_links), candidates=candidates)
    heads = found.tables["coreference"].set_index("head")
    for name in ("accuracy", "accuracy_pronoun", "accuracy_proper", "accuracy_nominal", "coreference"):
        assert heads.loc[0, name] == 1
        assert heads.loc[1, name] < 1
    assert heads.loc[0, "direction"] == TO_ANTECEDENT
    best = found.tables["coreference-best"].set_index("kind")
    assert list(best.index) == ["all", "pronoun", "proper", "nominal"]
    assert (best["head"] == 0).all()
    assert (best["accuracy"] == 1).all()
    assert (best["accuracy_choose"] == 1).all()


def test_the_way_back_is_a_direction_of_its_own(tmp_path: Path) -> None:
    found = analyse(planted(tmp_path, STORIES, lambda sentence: gold_links(sentence, turned=True)), candidates="words")
    table = found.tables["coreference"].set_index("head")
    assert table.loc[0, "direction"] == TO_MENTION
    assert table.loc[0, "accuracy"] == 1


def test_equal_attention_is_as_right_as_chance(tmp_path: Path) -> None:
    for number, candidates in enumerate(("mentions", "words")):
        index = planted(tmp_path / str(number), STORIES, gold_links)
        found = analyse(index, candidates=candidates)  # type: ignore[arg-type]
        every = found.tables["coreference-all"]
        uniform = every[(every["head"] == 1) & (every["split"] == "report")].groupby("kind")["accuracy"]
        rules = found.tables["coreference-baselines"]
        expected = rules[rules["baseline"] == "chance"].set_index("kind")["accuracy"]
        for kind, accuracies in uniform:
            assert accuracies.to_numpy() == pytest.approx(expected[kind])


def test_a_decoder_has_no_way_back(tmp_path: Path) -> None:
    found = analyse(planted(tmp_path, STORIES, gold_links, causal=True))
    assert set(found.tables["coreference-all"]["direction"]) == {TO_ANTECEDENT}
    assert found.tables["coreference"].set_index("head").loc[0, "accuracy"] == 1


def test_alike_candidates_share_the_pick() -> None:
    attention = np.array([[0.2, 0.2, 0.2], [0.5, 0.1, 0.1], [0.1, 0.4, 0.4], [0, 0, 0]], dtype=np.float32)
    assert share(attention, np.array([False, True, True])).tolist() == pytest.approx([2 / 3, 0, 1, 2 / 3])


@pytest.mark.parametrize("rows", ["mean", "first"])
@pytest.mark.parametrize("name", ["small_index", "blocks"])
def test_scores_are_those_of_whole_matrices_of_words(
    small_index: Index, rows: Any, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if name == "blocks":
        monkeypatch.setattr(blocks, "BLOCK_WEIGHTS", 300)
    items = antecedents(small_index, marks_of(small_index), "words").items
    assert len(items) > 5
    scores = head_scores(small_index, items, rows=rows)
    for item, got in zip(items, scores, strict=True):
        words = words_of(small_index, item.place)
        heads = item.heads
        for layer in (0, 5):
            attention = word_attention(small_index, layer, words, rows=rows)
            part = slice(12 * layer, 12 * layer + 12)
            there = attention[:, item.mention.head, heads].argmax(axis=1)
            back = attention[:, heads, item.mention.head].argmax(axis=1)
            assert got[0, part].tolist() == item.gold[there].tolist()
            assert got[1, part].tolist() == item.gold[back].tolist()


# ---------------------------------------------------------------------------------------------- chains


def chains_of(index: Index, place: int = 0) -> list[tuple[str, str, list[str], str]]:
    """Return the mentions of a sequence as text, head word, chains and kind."""
    found = mentions_of(marks_of(index), words_of(index, place))[0]
    return [(" ".join(each.text), each.head_text, sorted(each.chains), each.kind) for each in found]


def nothing(_: Sentence) -> list[tuple[int, int]]:
    return []


def test_chains_of_the_demo_corpus_are_those_of_its_gold_antecedents(small_index: Index) -> None:
    tokens = small_index.tokens
    items = {
        (item.place, item.mention.head): item
        for item in antecedents(small_index, marks_of(small_index), "mentions").items
    }
    gold = tokens[tokens["antecedent"].notna() & (tokens["kind"] != "subword")]
    n = 0
    for row in gold.itertuples():
        if int(row.antecedent) > row.word:
            continue  # it follows the pronoun
        place = small_index.place(row.sequence)
        words = words_of(small_index, place)
        unit = int(np.flatnonzero(words.word == row.word)[0])
        item = items[place, unit]
        true = [int(words.word[each.head]) for each, right in zip(item.candidates, item.gold, strict=True) if right]
        assert int(row.antecedent) - 1 in true
        n += 1
    assert n > 5


def test_consecutive_words_of_a_chain_are_a_mention_and_a_plus_joins_chains(tmp_path: Path) -> None:
    sentence = tagged("the/cook old/cook cook/cook and Ada/ada saw their/cook+ada dog")
    index = planted(tmp_path, [sentence], nothing)
    assert chains_of(index) == [
        ("the old cook", "cook", ["cook"], "nominal"),
        ("ada", "ada", ["ada"], "proper"),
        ("their", "their", ["ada", "cook"], "pronoun"),
    ]
    (item,) = antecedents(index, marks_of(index), "mentions").items
    assert item.gold.tolist() == [True, True]


def test_a_mention_within_another_is_a_mention(tmp_path: Path) -> None:
    index = planted(tmp_path, [tagged("the/m sister/m of/m Tomas/m+t slept")], nothing)
    assert chains_of(index)[:2] == [
        ("the sister of tomas", "sister", ["m"], "nominal"),
        ("tomas", "tomas", ["t"], "proper"),
    ]


@pytest.mark.parametrize(
    ("phrase", "head"),
    [
        ("the king of France", "king"),
        ("Paris , the capital", "paris"),
        ("New York", "york"),
        ("Simon 's", "simon"),
        ("of mice", "mice"),
    ],
)
def test_without_a_tree_the_head_is_found_by_rule(tmp_path: Path, phrase: str, head: str) -> None:
    index = planted(tmp_path, [[(word, "x") for word in phrase.split()]], nothing)
    assert [each[1] for each in chains_of(index)] == [head]


def test_with_a_tree_the_head_is_the_word_that_hangs_outside(tmp_path: Path) -> None:
    index = planted(tmp_path, [tagged("the/x king/x himself/x slept")], nothing, head=[2.0, 4.0, 2.0, 0.0])
    assert [each[1] for each in chains_of(index)] == ["king"]


def test_a_relative_word_is_no_part_of_its_antecedent(tmp_path: Path) -> None:
    upos = ["DET", "NOUN", "PRON", "VERB", "VERB"]
    index = planted(
        tmp_path, [tagged("the/x baker/x who/x sang slept")], nothing, head=[2.0, 5.0, 4.0, 2.0, 0.0], upos=upos
    )
    assert chains_of(index) == [("the baker", "baker", ["x"], "nominal"), ("who", "who", ["x"], "pronoun")]


def test_a_mention_headed_by_a_pronoun_is_whole(tmp_path: Path) -> None:
    sentence = tagged("everyone/x in/x the/x room/x who/x sang slept")
    upos = ["PRON", "ADP", "DET", "NOUN", "PRON", "VERB", "VERB"]
    index = planted(tmp_path, [sentence], nothing, head=[7.0, 4.0, 4.0, 1.0, 6.0, 1.0, 0.0], upos=upos)
    assert chains_of(index) == [
        ("everyone in the room", "everyone", ["x"], "pronoun"),
        ("who", "who", ["x"], "pronoun"),
    ]
    alone = planted(tmp_path / "alone", [sentence[:4]], nothing, head=[7.0, 4.0, 4.0, 1.0], upos=upos[:4])
    assert chains_of(alone) == [("everyone in the room", "everyone", ["x"], "pronoun")]


def test_a_column_mention_of_other_values_tells_no_kinds(tmp_path: Path) -> None:
    sentence = tagged("Ada/a met the/t tutor/t before she/a left")
    mine, gap = (
        planted(tmp_path / str(n), [sentence], nothing, mention=values)
        for n, values in enumerate(
            ([None, None, "A", "A", None, "B", None], ["A", None, "B", "B", None, "pronoun", None])
        )
    )
    assert [each[3] for each in chains_of(mine)] == ["proper", "nominal", "pronoun"]
    assert [each[3] for each in chains_of(gap)] == ["proper", "proper", "pronoun"]


def test_one_malformed_bracket_spoils_no_others(tmp_path: Path) -> None:
    sentence = [(f"w{n}", f"(e{n}-person)") for n in range(12)] + [("x", "(e3"), ("y", "e3)"), ("z", "(e1-person-")]
    sentence[5] = ("w5", "(e5-person))")
    index = planted(tmp_path, [sentence], nothing, column="entity")
    mentions, broken = mentions_of(marks_of(index), words_of(index, 0))
    assert ("x", "y") in {each.text for each in mentions}
    assert {chain for each in mentions for chain in each.chains} == {f"e{n}" for n in range(12) if n != 5}
    assert broken == 2  # w5, and z that stays open


# ---------------------------------------------------------------------------------------------- no chains


TAGGED = [tagged("Ada/B-PER Lovelace/I-PER met/O Ada/B-PER in/O Oslo/B-LOC")] * 4
TYPED = [tagged("Ada/PER Lovelace/PER met Ada/PER in Oslo/LOC")] * 12


@pytest.mark.parametrize("column", [None, "entity"])
def test_tags_of_named_entities_are_no_chains(tmp_path: Path, column: str | None) -> None:
    index = planted(tmp_path, TAGGED, nothing, column="entity")
    with pytest.raises(QKSpaceError, match=r"'entity' holds tags of named entities \(B-LOC, B-PER.*--column"):
        analyse(index, column=column)
    assert "tags of named entities" in can_be_analysed(index)


def test_types_of_entities_are_no_chains_unless_the_column_is_named(tmp_path: Path) -> None:
    texts = [f"text {n}" for n in range(len(TYPED))]
    index = planted(tmp_path, TYPED, nothing, column="entity", texts=texts)
    with pytest.raises(QKSpaceError, match=r"2 values \(LOC, PER\) in 12 sequences.*--column entity"):
        analyse(index)
    assert "types of entities" in can_be_analysed(index)
    assert can_be_analysed(index, "entity") == ""
    assert analyse(index, column="entity").parameters["n_items"] == 12


def test_another_column_that_can_be_chains_is_taken_instead_of_tags(tmp_path: Path) -> None:
    tags = [value for sentence in TAGGED for _, value in sentence]
    chains = [tagged("Ada/a Lovelace/a met Ada/a in Oslo/o")] * 4
    index = planted(tmp_path, chains, nothing, entity=tags)
    assert marks_of(index).column == "coref"


def test_attention_from_one_text_to_another_has_no_antecedents(tmp_path: Path) -> None:
    index = planted(tmp_path, STORIES, nothing, crosses=True)
    assert "from one text to another" in can_be_analysed(index)
    with pytest.raises(QKSpaceError, match=r"from one text to another.*--attention"):
        analyse(index)


def test_brackets_of_corefud(tmp_path: Path) -> None:
    values = ["(e1-person-2-new(e2-place)", None, "e1)", "(e1-person)", "(e3[1/2]-x", "e3[1/2])", None, "(e3[2/2]-x)"]
    sentence = list(zip(("Oslo", "'s", "mayor", "he", "all", "of", "us", "here"), values, strict=True))
    index = planted(tmp_path, [sentence], nothing, column="entity")
    assert {text: chains for text, _, chains, _ in chains_of(index)} == {
        "oslo": ["e2"],
        "oslo 's mayor": ["e1"],
        "he": ["e1"],
        "all of here": ["e3"],
    }


def test_brackets_without_their_other_end_are_counted(tmp_path: Path) -> None:
    sentence = list(zip("abcd", ["(e1-x", "e2)", "(e3)", None], strict=True))
    index = planted(tmp_path, [sentence], nothing, column="entity")
    mentions, broken = mentions_of(marks_of(index), words_of(index, 0))
    assert [each.text for each in mentions] == [("c",)]
    assert broken == 2


def test_values_that_only_hold_a_bracket_are_no_brackets(tmp_path: Path) -> None:
    index = planted(tmp_path, [[("Paris", "Paris (Texas)"), ("Paris", None), ("it", "Paris (Texas)")]], nothing)
    assert [each[2] for each in chains_of(index)] == [["Paris (Texas)"], ["Paris (Texas)"]]


def test_antecedents_in_other_windows_are_left_out_and_counted(tmp_path: Path) -> None:
    sentences = [
        tagged("Ada/ada met Tomas/tomas"),
        tagged("she/ada liked Rosa/rosa and her/rosa dog"),
        tagged("he/ada slept"),
    ]
    index = planted(tmp_path, sentences, nothing, windows=[0, 1, 0], texts=["one", "one", "two"])
    found = antecedents(index, marks_of(index), "mentions")
    assert [(item.place, item.mention.head_text) for item in found.items] == [(1, "her")]
    assert found.n_elsewhere == 1
    assert found.n_mentions == 6


# ---------------------------------------------------------------------------------------------- rules


def said(text: str, kind: str = "nominal", place: int = 0) -> Mention:
    words = tuple(text.lower().split())
    return Mention((place,), place, frozenset(), kind, words, words[-1], traits(words, words[-1]))


def item_of(mention: str, candidates: Sequence[str], gold: Sequence[int]) -> Item:
    """Make an item of words by hand; gold: numbers of the candidates that the mention means."""
    others = tuple(said(text, place=place) for place, text in enumerate(candidates))
    right = np.isin(np.arange(len(candidates)), gold)
    return among(said(mention, place=len(candidates)), others, right)


def among(mention: Mention, candidates: tuple[Mention, ...], gold: Any) -> Item:
    heads = np.array([each.head for each in candidates])
    return Item(0, mention, heads, np.asarray(gold), "nominal", candidates)


@pytest.mark.parametrize(
    ("mention", "candidates", "right"),
    [
        ("the cook", ["the cook", "a cook", "the dog"], 0),  # the same words before the same head word
        ("the cook", ["an old cook", "the dog"], 0),  # the same head word before agreement
        ("she", ["my sister", "my brother", "the boys and girls"], 0),  # agreement before nearness
        ("they", ["Ada and Rosa", "he"], 0),
        ("he", ["she", "her sister"], 1),  # nothing agrees: the nearest
        ("i", ["my dog", "he", "me"], 2),
    ],
)
def test_sieves_pick_the_nearest_that_passes_the_earliest(mention: str, candidates: list[str], right: int) -> None:
    for gold in range(len(candidates)):
        assert sieves(item_of(mention, candidates, [gold])) == float(gold == right)


def test_simple_rules() -> None:
    item = item_of("the cook", ["a cook", "the cook", "Ada", "the dog"], [1, 2])
    assert nearest(item) == 0
    assert head_match(item) == 1
    assert chance(item) == 0.5
    assert head_match(item_of("she", ["Ada"], [0])) == 0  # none has her head word


def test_rules_of_names() -> None:
    names = said("ada", place=1), said("rosa", place=3)
    before, after, around = (
        among(said("she", place=place), names, [not right, right])
        for place, right in ((5, True), (0, False), (2, True))
    )
    assert [nearest_name(each) for each in (before, after, around)] == [1, 1, 0]
    assert [first_name(each) for each in (before, after, around)] == [0, 1, 0]


def test_annotation_goes_before_the_lists() -> None:
    assert traits(["sheep"], "sheep", xpos="NNS").number == "plur"
    assert traits(["Frau"], "frau", feats="Gender=Fem|Number=Sing") == Traits("sing", "fem", "3")
    assert agree(Traits("sing", None, "3"), Traits(None, "fem", "3"))
    assert not agree(Traits("sing", None, "3"), Traits("plur", None, "3"))


# ---------------------------------------------------------------------------------------------- GAP


@pytest.fixture(scope="module")
def gap_file() -> Path:
    return _shared("data", "gap-coreference") / "gap-development.tsv"


@pytest.fixture(scope="module")
def gap_rows(gap_file: Path) -> list[dict[str, str]]:
    with gap_file.open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream, delimiter="\t", quoting=csv.QUOTE_NONE))


def test_words_of_gap_are_its_mentions_to_the_letter(gap_file: Path, gap_rows: list[dict[str, str]]) -> None:
    n = 0
    for row, passage in zip(gap_rows, read_gap(str(gap_file), "utf-8"), strict=True):
        assert passage.text == row["Text"]
        assert passage.metadata["id"] == row["ID"]
        assert passage.metadata["a_coref"] is (row["A-coref"] == "TRUE")
        spans, mention, chain = (
            passage.word_spans or (),
            passage.word_metadata["mention"],
            passage.word_metadata["coref"],
        )
        for name, column in (("pronoun", "Pronoun"), ("A", "A"), ("B", "B")):
            mine = [place for place, value in enumerate(mention) if value == name]
            start, end = spans[mine[0]][0], spans[mine[-1]][1]
            assert start == int(row[f"{column}-offset"])
            assert passage.text[start:end] == row[column]
            means = name == "pronoun" or row[f"{name}-coref"] == "TRUE"
            assert {chain[place] for place in mine} == {"pronoun" if means else name}
        n += 1
    assert n == 2000


def test_gap_is_known_by_its_header(gap_file: Path, tmp_path: Path) -> None:
    first = next(iter(corpus.read(gap_file)))
    assert set(first.word_metadata) == {"mention", "coref"}
    assert not next(iter(corpus.read(gap_file, text_column="Text"))).word_metadata
    assert not next(iter(corpus.read(gap_file, format="tsv"))).word_metadata
    other = tmp_path / "other.tsv"
    other.write_text("text\tlabel\nAda slept.\t1\n", encoding="utf-8")
    assert next(iter(corpus.read(other))).metadata == {"label": 1}
    with pytest.raises(QKSpaceError, match=r"other.tsv line 2: not GAP.*there is no ID"):
        list(corpus.read(other, format="gap"))


def test_a_wrong_offset_is_named(gap_file: Path, tmp_path: Path) -> None:
    header, line, *_ = gap_file.read_text(encoding="utf-8").split("\n")
    broken = tmp_path / "broken.tsv"
    moved, unsure = line.replace("\t274\t", "\t275\t"), line.replace("\tTRUE\t", "\tyes\t")
    broken.write_text("\n".join([header, line, moved]), encoding="utf-8")
    with pytest.raises(QKSpaceError, match=r"broken.tsv line 3: expected 'her' \(Pronoun\) at character '275'"):
        list(corpus.read(broken))
    broken.write_text("\n".join([header, unsure]), encoding="utf-8")
    with pytest.raises(QKSpaceError, match=r"line 2: expected TRUE or FALSE in A-coref, got 'yes'"):
        list(corpus.read(broken))


@pytest.fixture(scope="module")
def gap_index(tmp_path_factory: pytest.TempPathFactory, minilm: Path, gap_file: Path) -> Index:
    folder = tmp_path_factory.mktemp("gap")
    header, *lines = gap_file.read_text(encoding="utf-8").rstrip("\n").split("\n")
    files = []
    for name, part in (("dev.tsv", lines[:8]), ("test.tsv", lines[8:16])):
        (folder / name).write_text("\n".join([header, *part]) + "\n", encoding="utf-8")
        files.append(folder / name)
    return build(
        str(minilm), files, out=folder / "index", methods=["pca"], dims=[2], normalise="none", max_length=256, n_jobs=1
    )


def test_the_task_of_gap_is_a_literal_comparison_of_two_names(gap_index: Index, gap_rows: list[dict[str, str]]) -> None:
    found = analyse(gap_index)
    right: list[bool] = []
    for place, row in enumerate(gap_rows[:16]):
        if row["A-coref"] == row["B-coref"]:
            continue
        tokens = gap_index.tokens[gap_index.tokens["sequence"] == place]
        words = words_of(gap_index, place)

        def last_word(name: str, tokens: pd.DataFrame = tokens, words: Any = words) -> int:
            numbers = tokens["word"][tokens["mention"] == name].to_numpy()
            forms = tokens["word_text"][tokens["mention"] == name].tolist()
            assert not {",", "of", "de"} & set(forms)
            return int(np.flatnonzero(words.word == numbers[-1])[0])

        attention = word_attention(gap_index, 4, words)[10]
        a, b = (attention[last_word("pronoun"), last_word(name)] for name in "AB")
        right.append((a > b) == (row["A-coref"] == "TRUE"))
    table = found.tables["coreference-gap"].set_index(["layer", "head"])
    items = choices(gap_index, marks_of(gap_index))
    scores = head_scores(gap_index, items.items)
    assert scores[:, 0, 58].tolist() == [float(each) for each in right]
    reported = items.places >= 8  # of the second file
    assert table.loc[(4, 10), "n"] == reported.sum()
    direction = int(scores[~reported, :, 58].mean(axis=0).argmax())  # chosen on the first
    assert table.loc[(4, 10), "direction"] == WAYS[direction]
    assert table.loc[(4, 10), "accuracy"] == pytest.approx(scores[reported, direction, 58].mean())
    both = table.loc[(4, 10)]
    assert both["n_feminine"] + both["n_masculine"] == both["n"]
    best = found.tables["coreference-gap-best"].set_index("gender")
    assert best.loc["all", "n_choose"] + best.loc["all", "n"] == len(right)
    assert "Chosen on dev.tsv and reported on test.tsv" in best.attrs["note"]


# ---------------------------------------------------------------------------------------------- splits and errors


def test_texts_are_on_one_side(small_index: Index) -> None:
    choose, report, how = split(small_index)
    corpora = small_index.sequences["corpus"].to_numpy()
    assert set(corpora[choose]) == {"parsed.conllu"}
    assert set(corpora[report]) == {"plain.txt"}
    assert "Chosen on parsed.conllu" in how


def test_windows_and_repeated_texts_are_dealt_together(tmp_path: Path) -> None:
    sentences = [tagged(f"w{number} word") for number in range(12)]
    texts = ["one"] * 4 + ["two"] * 3 + [f"text {number}" for number in range(5)]
    index = planted(tmp_path, sentences, nothing, texts=texts)
    for seed in range(5):
        choose, report, _ = split(index, seed=seed)
        assert sorted([*choose, *report]) == list(range(12))
        assert not {texts[place] for place in choose} & {texts[place] for place in report}
    assert len({tuple(split(index, seed=seed)[0]) for seed in range(5)}) > 1
    assert split(index, seed=3)[0].tolist() == split(index, seed=3)[0].tolist()
    with pytest.raises(QKSpaceError, match="two at least"):
        split(index, among=np.array([0, 1, 2]))


def test_files_to_split_by_must_be_there(small_index: Index) -> None:
    with pytest.raises(QKSpaceError, match=r"a file 'dev'; there is parsed.conllu, plain.txt"):
        split(small_index, choose="dev")
    with pytest.raises(QKSpaceError, match="chosen and reported on one file"):
        split(small_index, choose="plain.txt", report="plain.txt")


def test_many_sequences_are_drawn_and_it_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    index = planted(tmp_path, STORIES, gold_links)
    whole = analyse(index, candidates="mentions")
    monkeypatch.setattr(module, "MAX_WEIGHTS", 2_000)
    part = analyse(index, candidates="mentions")
    assert 0 < part.parameters["n_items"] < whole.parameters["n_items"]
    assert "were drawn" in part.tables["coreference"].attrs["note"]
    assert "were drawn" not in whole.tables["coreference"].attrs["note"]


def test_of_one_long_text_some_mentions_are_drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    long = tagged(" ".join(f"w{n}/{n % 7}" for n in range(60)))
    index = planted(tmp_path, [long, STORIES[0]], nothing)
    whole = antecedents(index, marks_of(index), "words")
    monkeypatch.setattr(module, "MAX_CANDIDATES", 600)
    for candidates in ("words", "mentions"):
        found = antecedents(index, marks_of(index), candidates, seed=1)  # type: ignore[arg-type]
        assert sum(len(item.heads) for item in found.items) <= 600
        assert found.n_all == len(whole.items)
        assert {item.mention.head for item in found.items} <= {item.mention.head for item in whole.items}
        again = antecedents(index, marks_of(index), "nominals", seed=1, places=set(found.places.tolist()))
        assert [item.mention for item in again.items] == [item.mention for item in found.items]


def test_the_direction_of_a_head_is_chosen_on_other_text_than_it_is_scored_on(tmp_path: Path) -> None:
    index = planted(tmp_path, STORIES, nothing)
    choose = split(index, among=antecedents(index, marks_of(index), "mentions").places)[0]
    backward = {index.sequences["text"].iloc[place] for place in choose}

    def links(sentence: Sentence) -> list[tuple[int, int]]:
        return gold_links(sentence, turned=" ".join(word for word, _ in sentence) in backward)

    found = analyse(planted(tmp_path / "turned", STORIES, links), candidates="words").tables
    head = found["coreference"].set_index("head").loc[0]
    every = found["coreference-all"].set_index(["split", "head", "direction", "kind"])["accuracy"]
    assert head["direction"] == TO_MENTION  # always right on the side to choose by
    assert every["choose", 0, TO_MENTION, "all"] == 1
    assert head["accuracy"] == every["report", 0, TO_MENTION, "all"] < every["report", 0, TO_ANTECEDENT, "all"] == 1
    assert head["n"] == found["coreference-best"].set_index("kind").loc["all", "n"]


def test_where_mentions_leave_no_choice_others_are_candidates(small_index: Index) -> None:
    found = analyse(small_index)
    assert found.parameters["candidates"] == "nominals"
    rules = found.tables["coreference-baselines"].set_index(["baseline", "kind"])
    assert rules.loc[("chance", "all"), "accuracy"] < 1


def test_the_same_seed_gives_the_same_tables(small_index: Index) -> None:
    one, other = (analyse(small_index, seed=4).tables for _ in range(2))
    for name, table in one.items():
        pd.testing.assert_frame_equal(table, other[name])


def test_no_chains_are_said_with_a_remedy(decoder_index: Index, small_index: Index, tmp_path: Path) -> None:
    with pytest.raises(QKSpaceError, match=r"has no column of mention chains \(entity, coref, chain, mention\)"):
        analyse(decoder_index)
    with pytest.raises(QKSpaceError, match="has no column 'chains' with values"):
        analyse(small_index, column="chains")
    with pytest.raises(QKSpaceError, match="Unknown candidates 'all': expected one of mentions, nominals, words"):
        analyse(small_index, candidates="all")  # type: ignore[arg-type]
    lonely = planted(tmp_path, [tagged("Ada/ada met Tomas/tomas")], nothing)
    with pytest.raises(QKSpaceError, match="none of 2 mentions by the column 'coref' has an earlier one"):
        analyse(lonely, candidates="mentions")
    with pytest.raises(QKSpaceError, match="column upos, which its corpus has not"):
        analyse(lonely, candidates="nominals")
