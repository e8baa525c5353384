"""Tests of `qkspace.comparison.units`: the same tokens, words of two tokenizers, windows, samples, and pooled attention."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import MakeCheckpoint
from numpy.typing import NDArray

from qkspace import store
from qkspace.comparison.units import Units, common_units
from qkspace.index import Index
from qkspace.pipeline import build
from qkspace.pooling import pool
from qkspace.schema import QKSpaceError


@pytest.fixture(scope="module")
def tiny_index(tmp_path_factory: pytest.TempPathFactory, make_checkpoint: MakeCheckpoint, small_corpus: tuple) -> Index:
    """A tiny BERT with a WordPiece of its own over the corpus of `small_index`."""
    return make(tmp_path_factory.mktemp("tiny"), make_checkpoint("bert"), list(small_corpus))


def make(folder: Path, model: Path, corpus: list[Path], **options: object) -> Index:
    return build(
        str(model),
        corpus,
        out=folder / "index",
        methods=["pca"],
        dims=[2],
        normalise="none",
        storage="float32",
        n_jobs=1,
        **options,
    )


def write(path: Path, lines: list[str]) -> list[Path]:
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return [path]


def by_hand(root: Path, texts: list[str], tokens: list[tuple[int, int, str, int, int]], **options: object) -> Index:
    """Make the tables of an index; tokens: sequence, word (-1 none), text of the word, and its characters in the text."""
    sequence, word, word_text, start, end = (list(column) for column in zip(*tokens, strict=True))
    lengths = np.bincount(sequence, minlength=len(texts))
    columns = {"sequence": sequence, "word": word, "word_text": word_text, "start": start, "end": end}
    position = np.concatenate([np.arange(n) for n in lengths])
    columns |= {"position": position, "token_id": options.get("ids", position), "text": word_text, "token": word_text}
    store.write_table(root / "tokens.parquet", columns)
    windows = options.get("windows", [0] * len(texts))
    of_windows = {"sequence": np.arange(len(texts)), "text": texts, "n_tokens": lengths, "window": windows}
    store.write_table(root / "sequences.parquet", of_windows)
    manifest = {"format": store.FORMAT, "format_version": store.FORMAT_VERSION, "layers": [], "maps": [], "files": {}}
    corpus = {"n_tokens_stored": len(tokens), "max_length": options.get("max_length", 512)}
    manifest |= {"corpus": corpus, "made_from": {"name": "hand"}, "check": {}}
    model = {"name": "hand", "vocabulary_digest": options.get("digest", str(root))}
    store.write_json(root / store.MANIFEST, {**manifest, "model": model})
    return Index(root)


def literal_words(base: Index, tuned: Index, sequence: int, other: int) -> list[tuple[str, int, int]]:
    """Return the words that both have in one sequence: its text and its first row in either index."""
    found = []
    for word in sorted(set(base.tokens["word"][base.rows(sequence)]) - {-1}):
        rows = [
            [row for row in range(*rows.indices(index.n_tokens)) if index.tokens["word"].iloc[row] == word]
            for index, rows in ((base, base.rows(sequence)), (tuned, tuned.rows(other)))
        ]
        if rows[1]:
            found.append((str(base.tokens["word_text"].iloc[rows[0][0]]), rows[0][0], rows[1][0]))
    return found


def check(units: Units, base: Index, tuned: Index) -> None:
    """Check what must hold of all units of words."""
    table = units.table
    assert units.starts[-1] == len(table)
    assert (np.diff(units.starts) > 0).all()
    for index, column, per_token in ((base, "base_row", units.base_unit), (tuned, "tuned_row", units.tuned_unit)):
        assert index.tokens["word_text"].to_numpy()[table[column]].tolist() == table["text"].tolist()
        assert len(per_token) == index.n_tokens
    seen = 0
    for place in range(units.n_sequences):
        one = units.sequence(place)
        here = table.iloc[units.starts[place] : units.starts[place + 1]]
        for index, rows, unit, column in (
            (base, one.base_rows, one.base_unit, "base_row"),
            (tuned, one.tuned_rows, one.tuned_unit, "tuned_row"),
        ):
            assert index.tokens["sequence"].iloc[rows].nunique() == 1
            assert set(unit) - {-1} == set(range(one.n_units))
            first = [rows.start + int(np.flatnonzero(unit == u)[0]) for u in range(one.n_units)]
            assert here[column].tolist() == first
            words = index.tokens["word"].to_numpy()[rows]
            for u in range(one.n_units):  # all tokens of a word, and of that word alone
                assert (words[unit == u] == words[unit == u][0]).all()
                assert (unit == u).sum() == (words == words[unit == u][0]).sum()
        seen += one.n_units
    assert seen == len(table)


# ---------------------------------------------------------------------------------------------- tokens


def test_an_index_and_itself_have_all_tokens_in_common(small_index: Index) -> None:
    units = common_units(small_index, Index(small_index.root))
    assert units.kind == "token"
    assert units.note == ""
    np.testing.assert_array_equal(units.starts, small_index.row_starts)
    assert units.table["base_row"].tolist() == units.table["tuned_row"].tolist() == list(range(small_index.n_tokens))
    assert units.table["text"].tolist() == small_index.tokens["text"].tolist()
    one = units.sequence(3)
    assert one.base_rows == one.tuned_rows == small_index.rows(3)
    assert one.base_unit.tolist() == one.tuned_unit.tolist() == list(range(one.n_units))


def test_a_vocabulary_that_grew_in_tuning_leaves_tokens_as_they_are_and_another_one_does_not(tmp_path: Path) -> None:
    words = [(0, 0, "so", 0, 2), (0, 1, "far", 3, 6)]
    base = by_hand(tmp_path / "base", ["so far"], words, digest="old")
    assert common_units(base, by_hand(tmp_path / "grown", ["so far"], words, digest="new")).kind == "token"
    other = by_hand(tmp_path / "other", ["so far"], [(0, 0, "so", 0, 2), (0, 1, "fa", 3, 5)], digest="new")
    with pytest.raises(QKSpaceError, match="mark different words"):  # equal ids, which mean something else
        common_units(base, other)
    ids = by_hand(tmp_path / "ids", ["so far"], words, digest="old", ids=[4, 9])
    assert common_units(base, ids).kind == "word"


# ---------------------------------------------------------------------------------------------- words


def test_words_of_two_tokenizers_are_those_that_both_have(small_index: Index, tiny_index: Index) -> None:
    units = common_units(small_index, tiny_index)
    assert units.kind == "word"
    assert units.note == ""
    assert units.n_sequences == len(small_index.sequences)
    check(units, small_index, tiny_index)
    for place in (0, 17, 45):
        here = units.table.iloc[units.starts[place] : units.starts[place + 1]]
        found = list(here[["text", "base_row", "tuned_row"]].itertuples(index=False, name=None))
        assert found == literal_words(small_index, tiny_index, place, place)
    for index, unit in ((small_index, units.base_unit), (tiny_index, units.tuned_unit)):
        special = index.tokens["is_special"].to_numpy()
        assert (unit[special] == -1).all()
        assert (unit[~special] >= 0).all()
    assert np.count_nonzero(units.tuned_unit >= 0) > np.count_nonzero(units.base_unit >= 0) >= len(units.table)


def test_an_encoder_and_a_decoder_have_words_in_common(
    tiny_index: Index, make_checkpoint: MakeCheckpoint, small_corpus: tuple, tmp_path: Path
) -> None:
    decoder = make(tmp_path, make_checkpoint("gpt2"), list(small_corpus))
    units = common_units(decoder, tiny_index)
    assert units.kind == "word"
    check(units, decoder, tiny_index)
    assert units.n_sequences == len(tiny_index.sequences)


def test_words_that_one_alone_has_are_outside(tmp_path: Path) -> None:
    whole = [(0, -1, "", -1, -1), (0, 0, "so", 0, 2), (0, 1, "very", 3, 7), (0, 2, "far", 8, 11)]
    base = by_hand(tmp_path / "base", ["so very far"], whole)
    tuned = by_hand(tmp_path / "tuned", ["so very far"], [whole[3], whole[1], whole[1]])  # far so so: in any order
    units = common_units(base, tuned)
    assert units.table["text"].tolist() == ["so", "far"]
    assert units.base_unit.tolist() == [-1, 0, -1, 1]
    assert units.tuned_unit.tolist() == [1, 0, 0]
    assert units.table["tuned_row"].tolist() == [1, 0]


def test_repeated_texts_are_paired_in_their_order(tmp_path: Path) -> None:
    texts = ["no", "so far", "no"]
    base = by_hand(
        tmp_path / "a", texts, [(0, 0, "no", 0, 2), (1, 0, "so", 0, 2), (1, 1, "far", 3, 6), (2, 0, "no", 0, 2)]
    )
    tuned = by_hand(tmp_path / "b", ["no", "no", "no"], [(s, 0, "no", 0, 2) for s in range(3)])
    units = common_units(base, tuned)
    assert units.table["base_row"].tolist() == [0, 3]
    assert units.table["tuned_row"].tolist() == [0, 1]
    assert units.table["sequence"].tolist() == [0, 2]
    assert "2 sequences are in both indexes, of 3 of the base and 3 of the tuned one" in units.note


def test_samples_are_compared_where_they_meet_and_it_is_said(
    small_index: Index, make_checkpoint: MakeCheckpoint, small_corpus: tuple, tmp_path: Path
) -> None:
    part = make(tmp_path, make_checkpoint("bert"), list(small_corpus), max_tokens=300)
    stored = set(part.sequences["text"])
    units = common_units(small_index, part)
    check(units, small_index, part)
    texts = small_index.sequences.set_index("sequence")["text"]
    assert set(texts.loc[units.table["sequence"]]) == stored
    assert f"{len(part.sequences)} sequences are in both" in units.note
    assert "less than half" in units.note
    assert common_units(part, small_index).table["text"].tolist() == units.table["text"].tolist()


def test_two_samples_with_the_same_tokenizer_are_compared_in_words(
    make_checkpoint: MakeCheckpoint, small_corpus: tuple, tmp_path: Path
) -> None:
    model = make_checkpoint("bert")
    base, tuned = (make(tmp_path / str(s), model, list(small_corpus), max_tokens=900, seed=s) for s in (1, 2))
    common = set(base.sequences["text"]) & set(tuned.sequences["text"])
    units = common_units(base, tuned)
    check(units, base, tuned)
    assert 0 < units.n_sequences == len(common) < len(base.sequences)


# ---------------------------------------------------------------------------------------------- windows


def test_windows_that_hold_other_words_are_left_out(
    small_index: Index, make_checkpoint: MakeCheckpoint, sentences: list[str], tmp_path: Path
) -> None:
    """The long text is cut into windows by both, which end at other words."""
    corpus = write(tmp_path / "plain.txt", [" ".join(sentences[:8]), *sentences[8:12]])
    base = make(tmp_path / "a", make_checkpoint("bert"), corpus, max_length=60)
    tuned = make(tmp_path / "b", make_checkpoint("gpt2"), corpus, max_length=60)
    assert base.sequences["window"].max() > 0
    units = common_units(base, tuned)
    check(units, base, tuned)
    compared = base.sequences.set_index("sequence")["text"].loc[units.table["sequence"]]
    assert set(compared) == set(sentences[8:12])
    assert "Windows of long texts left out" in units.note
    alone = write(tmp_path / "long.txt", [" ".join(sentences[:8])])
    base = make(tmp_path / "c", make_checkpoint("bert"), alone, max_length=60)
    tuned = make(tmp_path / "d", make_checkpoint("bert"), alone, max_length=50)
    with pytest.raises(QKSpaceError, match=r"--max-length is 60 and 50\). Build both with a --max-length"):
        common_units(base, tuned)


def test_windows_that_hold_the_same_words_are_compared(tmp_path: Path) -> None:
    words = [(0, 0, "so", 0, 2), (0, 1, "very", 3, 7), (1, 2, "far", 8, 11), (1, 3, "off", 12, 15)]
    base = by_hand(tmp_path / "a", ["so very far off"] * 2, words, windows=[0, 1], max_length=2)
    split = [words[0], (0, 1, "very", 3, 5), (0, 1, "very", 5, 7), words[2], (1, 3, "off", 12, 13), words[3]]
    same = by_hand(tmp_path / "b", ["so very far off"] * 2, split, windows=[0, 1], max_length=3)
    units = common_units(base, same)
    assert units.table["text"].tolist() == ["so", "very", "far", "off"]
    assert units.starts.tolist() == [0, 2, 4]
    # One window of the second ends within a word that the first has whole, so that both parts differ.
    cut = [words[0], (0, 1, "very", 3, 5), (1, 1, "very", 5, 7), words[2], words[3]]
    other = by_hand(tmp_path / "c", ["so very far off"] * 2, cut, windows=[0, 1], max_length=2)
    with pytest.raises(QKSpaceError, match="end at different words"):
        common_units(base, other)


def test_a_text_cut_by_one_is_not_compared_with_the_whole_of_it(tmp_path: Path) -> None:
    words = [(0, 0, "so", 0, 2), (0, 1, "very", 3, 7), (0, 2, "far", 8, 11)]
    whole = by_hand(tmp_path / "a", ["so very far"], words, max_length=9)
    cut = by_hand(tmp_path / "b", ["so very far"], words[:2], max_length=2)
    with pytest.raises(QKSpaceError, match="--max-length is 9 and 2"):
        common_units(whole, cut)
    shorter = by_hand(tmp_path / "c", ["so very far"], words[:2], max_length=9)  # not full: its tokenizer drops a word
    assert common_units(whole, shorter).table["text"].tolist() == ["so", "very"]


# ---------------------------------------------------------------------------------------------- refusals


def test_another_corpus_is_refused_and_a_sequence_of_each_is_named(
    small_index: Index, make_checkpoint: MakeCheckpoint, tmp_path: Path
) -> None:
    lines = ["A corpus of something else altogether.", "Another line of it."]
    other = make(tmp_path, make_checkpoint("bert"), write(tmp_path / "other.txt", lines))
    with pytest.raises(QKSpaceError, match="no sequence in common") as error:
        common_units(small_index, other)
    assert small_index.sequences["text"].iloc[0][:40] in str(error.value)
    assert lines[0] in str(error.value)
    assert "over the same corpus" in str(error.value)


def test_texts_with_words_marked_anew_are_refused(tmp_path: Path) -> None:
    texts = ["so far", "not yet"]
    words = [(0, 0, "so", 0, 2), (0, 1, "far", 3, 6), (1, 0, "not", 0, 3), (1, 1, "yet", 4, 7)]
    base = by_hand(tmp_path / "a", texts, words)
    other = by_hand(tmp_path / "b", texts, [(0, 0, "so far", 0, 2), (0, 0, "so far", 3, 6), *words[2:]])
    units = common_units(base, other)
    assert units.table["text"].tolist() == ["not", "yet"]
    assert units.base_unit.tolist() == [-1, -1, 0, 1]
    assert "in which the two indexes mark different words: 1." in units.note
    alone = by_hand(tmp_path / "c", texts, [(0, -1, "", -1, -1), (1, -1, "", -1, -1)])
    with pytest.raises(QKSpaceError, match="no word in common"):
        common_units(base, alone)


# ---------------------------------------------------------------------------------------------- attention


def literal_pool(
    attention: NDArray[np.float32], query_unit: NDArray[np.int64], key_unit: NDArray[np.int64], n_units: int
) -> NDArray[np.float64]:
    pooled = np.zeros((len(attention), n_units, n_units + 1))
    for h, matrix in enumerate(attention):
        for i, q in enumerate(query_unit):
            for j, k in enumerate(key_unit):
                if q >= 0:
                    pooled[h, q, k] += matrix[i, j] / (query_unit == q).sum()
    return pooled


@pytest.mark.parametrize("seed", range(5))
def test_pooled_attention_is_that_of_loops_and_rows_sum_to_one(seed: int) -> None:
    rng = np.random.default_rng(seed)
    n_units, n = 5, 5 + 4 * seed
    unit = rng.permutation(np.concatenate([np.arange(n_units), rng.integers(-1, n_units, n - n_units)]))
    attention = rng.dirichlet(np.full(n, 0.3), size=(3, n)).astype(np.float32)
    pooled = pool(attention, unit, unit, n_units)
    assert pooled.dtype == np.float32
    np.testing.assert_allclose(pooled, literal_pool(attention, unit, unit, n_units), atol=1e-6)
    np.testing.assert_allclose(pooled.sum(axis=2), 1, atol=1e-5)
    some = rng.permutation(n)[:4]
    part = pool(attention[:, some], unit[some], unit, n_units)
    np.testing.assert_allclose(part, literal_pool(attention[:, some], unit[some], unit, n_units), atol=1e-6)


def test_tokens_that_are_units_keep_their_attention_to_the_last_digit(small_index: Index) -> None:
    units = common_units(small_index, small_index)
    one, attention = units.sequence(1), small_index.head(2, 3).attention(1)
    pooled = pool(attention[None], one.base_unit, one.tuned_unit, one.n_units)[0]
    np.testing.assert_array_equal(pooled[:, :-1], attention)
    np.testing.assert_array_equal(pooled[:, -1], 0)


def test_what_special_tokens_get_is_outside(small_index: Index, tiny_index: Index) -> None:
    units = common_units(small_index, tiny_index)
    for place in (0, 20):
        one, attention = units.sequence(place), tiny_index.head(1, 1).attention(place)
        pooled = pool(attention[None], one.tuned_unit, one.tuned_unit, one.n_units)[0]
        special = tiny_index.tokens["is_special"].to_numpy()[one.tuned_rows]
        for unit in range(one.n_units):
            expected = attention[one.tuned_unit == unit][:, special].sum(axis=1).mean()
            assert pooled[unit, -1] == pytest.approx(expected, abs=1e-6)
        np.testing.assert_allclose(pooled.sum(axis=1), 1, atol=1e-5)


def test_units_are_frames_that_others_may_join(small_index: Index, tiny_index: Index) -> None:
    """The order is the base's, so that a column of its tokens is taken by row."""
    units = common_units(small_index, tiny_index)
    assert list(units.table.columns) == ["sequence", "text", "base_row", "tuned_row"]
    assert units.table["sequence"].is_monotonic_increasing
    taken = small_index.tokens["sequence"].iloc[units.table["base_row"]]
    pd.testing.assert_series_equal(taken.reset_index(drop=True), units.table["sequence"], check_dtype=False)
