"""Tests of `qkspace.heads.relations` and what it stands on: planted heads, and literal counts over real sentences."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from conftest import MakeCheckpoint
from numpy.typing import NDArray

from qkspace import store
from qkspace.conllu import read_conllu
from qkspace.heads import attachment, blocks
from qkspace.heads.attachment import at_offsets, correct
from qkspace.heads.pointing import DIRECTIONS, pointers, pointers_of
from qkspace.heads.relations import OFFSETS, analyse, can_be_analysed
from qkspace.heads.splits import split
from qkspace.heads.trees import Tree, tree_of
from qkspace.heads.words import word_attention, words_of
from qkspace.index import Index
from qkspace.pipeline import build
from qkspace.schema import LayerSpec, QKSpaceError, TextSequence

TO_HEAD, TO_DEPENDENT = DIRECTIONS
Gold = list[tuple[int, str]]  # of each word of a sentence: its head, and its relation


# ---------------------------------------------------------------------------------------------- planted heads


def sentences_of(path: Path, n: int, *, least: int = 4, most: int = 18) -> list[TextSequence]:
    """Read the first sentences of a treebank of some length."""
    found = (each for each in read_conllu(str(path), "utf-8") if each.word_spans is not None)
    return [
        each for each, _ in zip((s for s in found if least <= len(s.word_spans or ()) <= most), range(n), strict=False)
    ]


def gold_of(sentence: TextSequence) -> Gold:
    head, relation = (sentence.word_metadata[name] for name in ("head", "deprel"))
    return [(int(h), str(r)) for h, r in zip(head, relation, strict=True)]  # type: ignore[arg-type]


Logits = Callable[[int, Gold], NDArray[np.float32]]  # number of a sentence, its tree: (word, word)


def copies_gold(strength: float, *, turned: bool = False) -> Logits:
    """Return logits that are high from each word to its head, or, turned, from each head to its dependents."""

    def logits(_: int, gold: Gold) -> NDArray[np.float32]:
        found = np.zeros((len(gold), len(gold)), dtype=np.float32)
        for word, (head, _relation) in enumerate(gold):
            if head:
                found[word, head - 1] = strength
        return found.T if turned else found

    return logits


def equal(_: int, gold: Gold) -> NDArray[np.float32]:
    """Return logits of equal attention."""
    return np.zeros((len(gold), len(gold)), dtype=np.float32)


def planted(
    root: Path,
    golds: Sequence[Gold],
    corpora: Sequence[Any],
    heads: Sequence[Logits],
    *,
    files: Sequence[str] | None = None,
    crosses: bool = False,
    **columns: Any,
) -> Index:
    """Make an index of one layer by hand: every third word has two pieces, [CLS] and [SEP] stand around each sentence.

    Keys are one-hot by position, so that queries are logits; those of a word's pieces are all those of the word.
    corpora: of each sentence the column `corpus`; files: what the index was built of, if not one file for each of these.
    columns: others of the tokens than these trees give.
    """
    pieces = [
        np.concatenate([[-1], np.repeat(np.arange(len(g)), np.where(np.arange(len(g)) % 3 == 0, 2, 1)), [-1]])
        for g in golds
    ]
    lengths = np.array([len(each) for each in pieces])
    width, n = int(lengths.max()), int(lengths.sum())
    query = np.zeros((len(heads), n, width), dtype=np.float32)
    starts = np.concatenate([[0], np.cumsum(lengths)])
    for sequence, (word, gold) in enumerate(zip(pieces, golds, strict=True)):
        asked = np.flatnonzero(word >= 0)
        for h, logits in enumerate(heads):
            grid = logits(sequence, gold)
            query[h, starts[sequence] + asked[:, None], asked[None, :]] = grid[
                word[asked][:, None], word[asked][None, :]
            ]
    position = np.concatenate([np.arange(length) for length in lengths])
    layer = LayerSpec(
        "attention", n_heads=len(heads), n_kv_heads=1, d_head=width, scale=1.0, causal=False, crosses=crosses
    )
    store.write_array(root / "query" / "L00.npy", query)
    store.write_array(root / "key" / "L00.npy", np.eye(width, dtype=np.float32)[position][None])
    word = np.concatenate(pieces)
    of = np.repeat(np.arange(len(golds)), lengths)
    label = [(np.nan, None) if w < 0 else golds[s][w] for s, w in zip(of, word, strict=True)]
    tokens = {
        "sequence": of,
        "position": position,
        "text": [f"t{p}" for p in position],
        "is_special": word < 0,
        "word": word,
    }
    tokens |= {"head": np.array([float(h) for h, _ in label]), "deprel": [r for _, r in label]}
    store.write_table(root / "tokens.parquet", tokens | columns)
    texts = [f"sentence {i}" for i in range(len(golds))]
    numbers = {"sequence": np.arange(len(golds)), "text": texts, "n_tokens": lengths, "corpus": list(corpora)}
    store.write_table(root / "sequences.parquet", numbers)
    manifest = {"format": store.FORMAT, "format_version": store.FORMAT_VERSION, "layers": [asdict(layer)]}
    manifest |= {"corpus": {"n_tokens_stored": n}, "model": {"name": "planted"}}
    sources = list(dict.fromkeys(corpora)) if files is None else files
    manifest["made_from"] = {"name": "planted", "corpus": [{"source": source} for source in sources]}
    store.write_json(root / store.MANIFEST, {**manifest, "check": {}, "maps": [], "files": {}})
    return Index(root)


@pytest.fixture(scope="module")
def golds(ewt: Path) -> list[Gold]:
    return [gold_of(sentence) for sentence in sentences_of(ewt / "en_ewt-ud-dev.conllu", 60)]


HALVES = ["a.conllu"] * 30 + ["b.conllu"] * 30


def test_a_head_that_copies_the_tree_is_right_about_every_relation(tmp_path: Path, golds: list[Gold]) -> None:
    index = planted(tmp_path, golds, HALVES, [equal, copies_gold(9.0), copies_gold(9.0, turned=True)])
    tables = analyse(index, min_count=1).tables
    table = tables["relations-all"]
    for head, direction in ((1, TO_HEAD), (2, TO_DEPENDENT)):
        some = table[(table["head"] == head) & (table["direction"] == direction) & (table["n"] > 0)]
        assert (some["accuracy"] == 1).all()
        assert (some["correct"] == some["n"]).all()
        for side, part in (("choose", golds[:30]), ("report", golds[30:])):
            counted = Counter(
                relation for gold in part for h, relation in gold if h
            )  # a relation without errors is there
            here = some[some["split"] == side].set_index("relation")["n"]
            assert {relation: here[relation] for relation in counted if ":" in relation} == {
                relation: n for relation, n in counted.items() if ":" in relation
            }
            main = Counter(relation.partition(":")[0] for gold in part for h, relation in gold if h)
            assert {relation: here[relation] for relation in main} == dict(main)
            assert here["all with punctuation"] == sum(counted.values())
            assert here["all"] == sum(counted.values()) - main["punct"]
    by_head = tables["relations"].set_index("head")
    assert by_head.loc[[1, 2], "uas"].tolist() == [1.0, 1.0]
    assert by_head.loc[[1, 2], "uas_with_punctuation"].tolist() == [1.0, 1.0]
    assert by_head.loc[[1, 2], "uas_direction"].tolist() == [TO_HEAD, TO_DEPENDENT]
    assert by_head.loc[0, "uas"] < 0.3
    best = tables["relations-best"]
    assert set(best["relation"]) == set(
        table[table["n"] > 0].groupby("relation").filter(lambda g: g["split"].nunique() > 1)["relation"]
    )
    assert (best["accuracy"] == 1).all()
    assert (best.loc[best["n_report"] > 20, ["low", "high"]] == 1).all(axis=None)
    main = ~best["relation"].str.contains(":") & ~best["relation"].str.startswith("all")
    assert 0 < main.sum() < len(best) - 2  # there are subtypes
    assert by_head["n_best"].sum() == main.sum()


def test_the_head_is_chosen_on_one_split_and_reported_on_the_other(tmp_path: Path, golds: list[Gold]) -> None:
    def only_in(first: bool) -> Logits:
        return lambda number, gold: (copies_gold(9.0) if (number < 30) == first else equal)(number, gold)

    index = planted(tmp_path, golds, HALVES, [only_in(False), only_in(True)])
    best = analyse(index, min_count=5).tables["relations-best"].set_index("relation")
    assert (best["head"] == 1).all()  # the one that is right about the first file
    assert (best["accuracy_choose"] == 1).all()
    assert best.loc["all", "accuracy"] < 0.3  # and wrong about the second
    turned = analyse(index, choose="b.conllu", report="a.conllu", min_count=5).tables["relations-best"]
    assert (turned["head"] == 0).all()


def test_sentences_of_one_file_are_dealt_by_seed(tmp_path: Path, golds: list[Gold]) -> None:
    index = planted(tmp_path, golds, ["a.conllu"] * 60, [copies_gold(1.0)])
    found = [analyse(index, seed=seed, min_count=5).tables["relations-best"] for seed in (0, 0, 1)]
    pd.testing.assert_frame_equal(found[0], found[1])
    assert found[0]["n_report"].tolist() != found[2]["n_report"].tolist()


@pytest.mark.parametrize("values", [["wiki", "news", "blog"], [1, 2, 3]])
def test_a_column_corpus_of_the_users_own_is_no_file(tmp_path: Path, golds: list[Gold], values: list[Any]) -> None:
    index, plain = (
        planted(tmp_path / str(n), golds, 20 * each, [copies_gold(1.0)], files=["one.jsonl"])
        for n, each in enumerate((values, ["same"] * 3))
    )
    found, without = (analyse(each, min_count=5).tables["relations-best"] for each in (index, plain))
    pd.testing.assert_frame_equal(found, without)
    assert "dealt half and half" in found.attrs["note"]
    with pytest.raises(QKSpaceError, match="there is one file only"):
        analyse(index, choose="wiki")


def test_a_built_index_of_one_file_is_not_parted_by_its_own_column_corpus(
    tmp_path: Path, make_checkpoint: MakeCheckpoint, ewt: Path
) -> None:
    plain = shortened(ewt / "en_ewt-ud-dev.conllu", tmp_path / "plain.conllu", 12)
    blocks = plain.read_text(encoding="utf-8").strip().split("\n\n")
    names = ("wiki", "news", "blog")
    marked = tmp_path / "marked.conllu"
    marked.write_text("".join(f"# corpus = {names[i % 3]}\n{each}\n\n" for i, each in enumerate(blocks)), "utf-8")
    options: Any = {"methods": ["pca"], "dims": [2], "normalise": "none", "n_jobs": 1}
    model = str(make_checkpoint("bert"))
    one = build(model, marked, out=tmp_path / "one", **options)
    assert set(one.sequences["corpus"]) == set(names)
    assert "dealt half and half" in split(one)[2]
    two = build(model, [marked, plain], out=tmp_path / "two", **options)
    with pytest.raises(QKSpaceError, match=r"file 'wiki'; there is marked\.conllu, plain\.conllu"):
        split(two, choose="wiki")


def test_files_whose_names_are_numbers_part_an_index(tmp_path: Path, golds: list[Gold]) -> None:
    index = planted(tmp_path, golds, [1] * 40 + [2] * 20, [copies_gold(1.0)], files=["1", "2"])
    note = analyse(index, min_count=5).tables["relations"].attrs["note"]
    assert "Chosen on 1 and reported on 2: 40 and 20 sequences" in note
    assert "Chosen on 2 and reported on 1" in analyse(index, choose="2").tables["relations"].attrs["note"]


def test_one_parsed_sentence_is_too_little_to_split(tmp_path: Path, golds: list[Gold]) -> None:
    empty: Gold = [(np.nan, "")] * 4  # type: ignore[list-item]
    index = planted(tmp_path, [golds[0], empty, empty], ["a"] * 3, [equal])
    assert can_be_analysed(index) == ""
    with pytest.raises(QKSpaceError, match=r"0 sequences to choose by and 1 to report on.*two at least.*more text"):
        analyse(index)


def test_where_there_is_only_punctuation_to_report_on_there_is_no_score(tmp_path: Path) -> None:
    words: Gold = [(2, "det"), (3, "nsubj"), (0, "root"), (3, "punct")]
    marks: Gold = [(0, "root"), (1, "punct"), (1, "punct")]
    index = planted(tmp_path, [words] * 4 + [marks] * 4, ["a"] * 4 + ["b"] * 4, [copies_gold(9.0), equal])
    table = analyse(index, min_count=1).tables["relations"].set_index("head")
    assert table["uas"].isna().all()
    assert table.loc[0, "uas_with_punctuation"] == 1


def test_offsets_beyond_the_sentence_are_wrong_and_the_best_is_chosen_on_the_first_split(tmp_path: Path) -> None:
    to_next: Gold = [(2, "x"), (3, "x"), (4, "x"), (0, "root")]
    to_previous: Gold = [(0, "root"), (1, "x"), (2, "x"), (3, "x")]
    index = planted(tmp_path, [to_next] * 6 + [to_previous] * 6, ["a"] * 6 + ["b"] * 6, [equal])
    row = analyse(index, min_count=1).tables["relations-best"].set_index("relation").loc["x"]
    assert (row["offset"], row["offset_accuracy"]) == (1, 0.0)
    assert at_offsets(4, [1, -2]).tolist() == [[1, 2, 3, -1], [-1, -1, 0, 1]]


def test_words_whose_head_has_no_token_are_counted_and_wrong(tmp_path: Path) -> None:
    gold: Gold = [(2, "det"), (3, "nsubj"), (0, "root"), (3, "obj"), (9, "dep")]  # there is no ninth word here
    index = planted(
        tmp_path, [gold] * 8, ["a"] * 4 + ["b"] * 4, [lambda _n, g: copies_gold(9.0)(0, [*g[:-1], (0, "")])]
    )
    words = words_of(index, 0)
    tree = tree_of(index, words)
    assert tree.head.tolist() == [2, 3, 0, 3, -1]
    assert tree.is_outside.tolist() == [False] * 4 + [True]
    assert tree.has_head.tolist() == [True, True, False, True, True]
    found = analyse(index, min_count=1).tables
    best = found["relations-best"].set_index("relation")
    assert best.loc["dep", ["n_report", "accuracy", "offset_accuracy"]].tolist() == [4, 0.0, 0.0]
    assert best.loc["all", "accuracy"] == pytest.approx(3 / 4)
    assert "8 words whose head has no token" in found["relations"].attrs["note"]


def test_heads_are_numbered_among_the_words_that_have_tokens(tmp_path: Path) -> None:
    gold: Gold = [(2, "det"), (4, "nsubj"), (4, "aux"), (0, "root"), (4, "obj")]
    index = planted(tmp_path, [gold], ["a"], [equal])
    tokens = index.tokens
    tokens.loc[tokens["word"] == 2, "word"] = (
        1  # the third word shares the token of the second, and has none of its own
    )
    assert tree_of(index, words_of(index, 0)).head.tolist() == [2, 3, 0, 3]


def test_a_space_inside_a_word_is_of_the_word(tmp_path: Path) -> None:
    index = planted(tmp_path, [[(2, "a"), (3, "b"), (0, "root"), (3, "c")]], ["a"], [equal])
    tokens = index.tokens
    assert tokens["word"].tolist() == [-1, 0, 0, 1, 2, 3, 3, -1]
    tokens["word"] = [-1, 0, -1, 0, -1, 1, -1, -1]  # spaces in word 0, between the words, and after them
    words = words_of(index, 0)
    assert words.word.tolist() == [-1, 0, -1, 1, -1, -1]
    assert words.unit.tolist() == [0, 1, 1, 1, 2, 3, 4, 5]


# ---------------------------------------------------------------------------------------------- real models and text


def shortened(source: Path, target: Path, n: int) -> Path:
    """Write the first sentences of a treebank that are long enough to have a tree worth looking at."""
    blocks = [each for each in source.read_text(encoding="utf-8").split("\n\n") if 6 < each.count("\n") < 40]
    target.write_text("\n\n".join(blocks[:n]) + "\n\n", encoding="utf-8")
    return target


@pytest.fixture(scope="module")
def english(tmp_path_factory: pytest.TempPathFactory, minilm: Path, ewt: Path) -> Index:
    """MiniLM over 30 sentences to choose by and 30 to report on."""
    folder = tmp_path_factory.mktemp("english")
    files = [shortened(ewt / f"en_ewt-ud-{part}.conllu", folder / f"{part}.conllu", 30) for part in ("dev", "test")]
    return build(str(minilm), files, out=folder / "index", methods=["pca"], dims=[2], normalise="none", n_jobs=1)


@pytest.fixture(scope="module")
def japanese(tmp_path_factory: pytest.TempPathFactory, minilm: Path, ewt: Path) -> Index:
    """MiniLM, which knows little Japanese, over Japanese sentences."""
    folder = tmp_path_factory.mktemp("japanese")
    source = ewt.parent / "ud-japanese-gsd"
    files = [shortened(source / f"ja_gsd-ud-{part}.conllu", folder / f"{part}.conllu", 12) for part in ("dev", "test")]
    return build(str(minilm), files, out=folder / "index", methods=["pca"], dims=[2], normalise="none", n_jobs=1)


@pytest.fixture(scope="module")
def causal(tmp_path_factory: pytest.TempPathFactory, stories: Path, ewt: Path) -> Index:
    """stories260K, a decoder with sentence pieces, over English sentences."""
    folder = tmp_path_factory.mktemp("causal")
    corpus = shortened(ewt / "en_ewt-ud-dev.conllu", folder / "dev.conllu", 24)
    return build(str(stories), corpus, out=folder / "index", methods=["pca"], dims=[2], normalise="none", n_jobs=1)


@pytest.fixture(params=["english", "japanese", "causal", "decoder_index"])
def any_index(request: pytest.FixtureRequest) -> Index:
    """Word pieces of English and Japanese, sentence pieces, and pairs of bytes."""
    found: Index = request.getfixturevalue(request.param)
    return found


def literal_words(index: Index, place: int) -> dict[int, list[int]]:
    """Return the tokens of each word of a sequence that has any, by the word's number, by a loop over tokens."""
    rows = slice(int(index.row_starts[place]), int(index.row_starts[place + 1]))
    tokens: dict[int, list[int]] = {}
    for i, word in enumerate(index.tokens["word"].tolist()[rows]):
        if word >= 0:
            tokens.setdefault(word, []).append(i)
    return tokens


def literal_word_attention(attention: NDArray[np.float32], tokens: list[list[int]]) -> NDArray[np.float64]:
    """Return attention from word to word, weight by weight."""
    out = np.zeros((len(tokens), len(tokens)))
    for i, asking in enumerate(tokens):
        for j, receiving in enumerate(tokens):
            for query in asking:
                for key in receiving:
                    out[i, j] += float(attention[query, key]) / len(asking)
    return out


def test_merging_the_pieces_of_words_is_the_literal_sum_and_keeps_rows_at_one(any_index: Index) -> None:
    longest = int(any_index.sequences["n_tokens"].argmax())
    several = 0
    for place in {0, 5, longest}:
        words = words_of(any_index, place)
        tokens = list(literal_words(any_index, place).values())
        several += sum(len(each) > 1 for each in tokens)
        merged = word_attention(any_index, 1, words)
        assert merged.sum(axis=2) == pytest.approx(1, abs=1e-5)
        number = int(any_index.sequences["sequence"].iloc[place])
        for head in (0, any_index.n_heads - 1):
            literal = literal_word_attention(any_index.head(1, head).attention(number), tokens)
            assert merged[head][np.ix_(words.words, words.words)] == pytest.approx(literal, abs=1e-5)
    assert several  # words of more than one piece


@pytest.mark.parametrize("rows", ["mean", "first"])
def test_pointers_are_those_of_the_attention_between_words_however_it_is_cut(
    any_index: Index, rows: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    for place in (0, 3, int(any_index.sequences["n_tokens"].argmax())):
        words = words_of(any_index, place)
        between = word_attention(any_index, 1, words, rows=rows)[:, words.words][:, :, words.words]
        whole = pointers(any_index, 1, words, rows=rows)
        assert (whole == pointers_of(between)).mean() > 0.999  # rounding may part two that are equal
        monkeypatch.setattr(blocks, "BLOCK_WEIGHTS", 150)
        assert (whole == pointers(any_index, 1, words, rows=rows)).mean() > 0.999
        monkeypatch.undo()


def literal_counts(index: Index, part: str, layer: int, head: int, sentences: list[TextSequence]) -> Counter[Any]:
    """Count by plain loops: for each relation and direction the words, and those whose head is found."""
    counts: Counter[Any] = Counter()
    golds = {sentence.text: gold_of(sentence) for sentence in sentences}
    places = [i for i, corpus in enumerate(index.sequences["corpus"]) if corpus == part]
    for place in places:
        gold = golds[index.sequences["text"].iloc[place]]
        number = int(index.sequences["sequence"].iloc[place])
        tokens = literal_words(index, place)
        attention = literal_word_attention(index.head(layer, head).attention(number), list(tokens.values()))
        place_of = {word: i for i, word in enumerate(tokens)}  # a word that shares its token with another may have none
        for word, here in place_of.items():
            head_of_word, relation = gold[word]
            if head_of_word == 0:
                continue
            wanted = place_of.get(head_of_word - 1)
            names = {
                relation,
                relation.partition(":")[0],
                "all with punctuation",
                "punct" if relation == "punct" else "all",
            }
            others = [other for other in range(len(tokens)) if other != here]
            for direction, weights in ((TO_HEAD, attention[here]), (TO_DEPENDENT, attention[:, here])):
                strongest = max(float(weights[other]) for other in others)
                found = next(other for other in others if weights[other] == strongest)
                for name in names:
                    counts["n", direction, name] += 1
                    counts["correct", direction, name] += found == wanted
    return counts


@pytest.mark.parametrize(("part", "side"), [("dev", "choose"), ("test", "report")])
def test_counts_are_those_of_plain_loops_over_real_sentences(english: Index, ewt: Path, part: str, side: str) -> None:
    sentences = list(read_conllu(str(ewt / f"en_ewt-ud-{part}.conllu"), "utf-8"))
    table = analyse(english).tables["relations-all"]
    for layer, head in ((2, 8), (4, 1)):
        literal = literal_counts(english, f"{part}.conllu", layer, head, sentences)
        rows = table[(table["layer"] == layer) & (table["head"] == head) & (table["split"] == side) & (table["n"] > 0)]
        assert {(r.direction, r.relation): (r.n, r.correct) for r in rows.itertuples()} == {
            (direction, name): (n, literal["correct", direction, name])
            for (what, direction, name), n in literal.items()
            if what == "n"
        }


def test_the_best_offset_is_that_of_plain_loops(english: Index, ewt: Path) -> None:
    row = analyse(english, min_count=5).tables["relations-best"].set_index("relation").loc["det"]
    shares = {}
    for part in ("dev", "test"):
        texts = set(english.sequences["text"][english.sequences["corpus"] == f"{part}.conllu"])
        golds = [gold_of(s) for s in read_conllu(str(ewt / f"en_ewt-ud-{part}.conllu"), "utf-8") if s.text in texts]
        words = [(i + 1, head) for gold in golds for i, (head, relation) in enumerate(gold) if relation == "det"]
        shares[part] = {k: sum(i + k == head for i, head in words) / len(words) for k in OFFSETS}
    assert row["offset"] == max(OFFSETS, key=lambda k: shares["dev"][k])
    assert row["offset_accuracy"] == pytest.approx(shares["test"][row["offset"]])


@pytest.mark.parametrize("name", ["english", "japanese", "causal"])
def test_every_treebank_gives_tables_that_agree_with_each_other(name: str, request: pytest.FixtureRequest) -> None:
    index: Index = request.getfixturevalue(name)
    found = analyse(index, min_count=10)
    by_head, every, best = (found.tables[table] for table in ("relations", "relations-all", "relations-best"))
    assert len(by_head) == index.n_layers * index.n_heads
    assert len(best) > 5
    assert (best["low"] <= best["accuracy"]).all()
    assert (best["accuracy"] <= best["high"]).all()
    assert (best["gain_low"] <= best["gain"]).all()
    assert (best["gain"] <= best["gain_high"]).all()
    assert best["gain"].to_numpy() == pytest.approx((best["accuracy"] - best["offset_accuracy"]).to_numpy())
    key = ["layer", "head", "direction", "relation"]
    for side, accuracy in (("choose", "accuracy_choose"), ("report", "accuracy")):
        some = every[every["split"] == side].set_index(key)["accuracy"]
        assert best[accuracy].to_numpy() == pytest.approx(some.loc[list(map(tuple, best[key].to_numpy()))].to_numpy())
    most = every[(every["split"] == "choose") & (every["n"] > 0)].groupby("relation")["accuracy"].max()
    assert best["accuracy_choose"].tolist() == most[best["relation"]].tolist()
    assert by_head["uas"].max() >= best.set_index("relation").loc["all", "accuracy"]
    assert all("sequences" in table.attrs["note"] for table in found.tables.values())


def test_a_decoder_points_back_from_a_word_and_on_to_what_attends_to_it(causal: Index) -> None:
    words = words_of(causal, 2)
    for layer in range(causal.n_layers):
        back, on = pointers(causal, layer, words)
        place = np.arange(len(words.words))
        assert (back[:, 0] == -1).all()
        assert (on[:, -1] == -1).all()
        assert ((back < place) & (back[:, 1:] >= 0).any()).all()
        assert ((on > place) | (on == -1)).all()


def test_a_relation_includes_its_subtypes(english: Index) -> None:
    table, whole = (analyse(english, subtypes=subtypes).tables["relations-all"] for subtypes in (True, False))
    assert table["relation"].str.contains(":").any()
    assert not whole["relation"].str.contains(":").any()
    main = table[~table["relation"].str.contains(":")].reset_index(drop=True)
    key = ["layer", "head", "direction", "split", "relation"]
    pd.testing.assert_frame_equal(main.sort_values(key, ignore_index=True), whole.sort_values(key, ignore_index=True))


def test_a_large_corpus_is_sampled_and_the_note_says_so(english: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    found = analyse(english, max_sequences=10)
    assert "10 of 30 and 10 of 30" in found.tables["relations"].attrs["note"]
    monkeypatch.setattr(attachment, "MAX_COST", 0)
    assert "1 of 30 and 1 of 30" in analyse(english).tables["relations"].attrs["note"]


# ---------------------------------------------------------------------------------------------- one sentence


def test_words_point_to_no_word_where_they_attend_to_none() -> None:
    attention = np.array([[[0.9, 0.1, 0.0], [0.0, 0.0, 0.0], [0.2, 0.3, 0.5]]], dtype=np.float32)
    assert pointers_of(attention).tolist() == [[[1, -1, 1]], [[2, 2, -1]]]
    assert pointers_of(np.zeros((2, 0, 0), dtype=np.float32)).shape == (2, 2, 0)


def test_neither_roots_nor_words_without_a_tree_are_ever_right() -> None:
    empty = np.array(["root", "a", "", "b"], dtype=object)
    tree = Tree(np.array([0, 1, -1, -1]), empty, np.array([True, True, False, True]), np.zeros(4, dtype=bool))
    assert correct(np.array([[-1, 0, -1, -1], [3, 1, 1, 1]]), tree).tolist() == [
        [False, True, False, False],
        [False] * 4,
    ]


def test_what_cannot_be_done_is_said_with_its_remedy(decoder_index: Index, english: Index, tmp_path: Path) -> None:
    with pytest.raises(QKSpaceError, match=r"no column head.*CoNLL-U"):
        analyse(decoder_index)
    with pytest.raises(QKSpaceError, match=r"dev\.conllu, test\.conllu"):
        analyse(english, choose="train.conllu")
    with pytest.raises(QKSpaceError, match="Offsets"):
        analyse(english, offsets=[0, 1])
    with pytest.raises(QKSpaceError, match="mean, first"):
        analyse(english, rows="last")  # type: ignore[arg-type]
    index = planted(tmp_path, [[(2, "a"), (0, "root")]] * 4, ["a"] * 4, [equal])
    for wrong, shown in ((1.5, r"1\.5"), (np.inf, "inf"), (1e18, r"1e\+18"), (-1, "-1")):
        index.tokens["head"] = np.where(index.tokens["word"] < 0, np.nan, wrong)
        with pytest.raises(QKSpaceError, match=rf"holds {shown}.*expected 1 for the first word"):
            tree_of(index, words_of(index, 0))
    index.tokens["head"] = np.nan
    assert "no column head with values" in can_be_analysed(index)


def test_attention_from_one_text_to_another_has_no_relations(tmp_path: Path) -> None:
    index = planted(tmp_path, [[(2, "a"), (0, "root")]] * 4, ["a"] * 4, [equal], crosses=True)
    assert "from one text to another" in can_be_analysed(index)
    with pytest.raises(QKSpaceError, match=r"from one text to another.*--attention"):
        analyse(index)
