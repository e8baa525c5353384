"""Tests of `qkspace.search`: what a query finds is what a plain look at the table finds."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest

from qkspace.index import Index
from qkspace.schema import QKSpaceError
from qkspace.search import Hits, parse, search, sequence_list


def plainly(index: Index, keep: Callable[[pd.Series], bool]) -> list[int]:
    """Return the rows of the tokens that a condition holds of, looked at one by one."""
    return [row for row, (_, token) in enumerate(index.tokens.iterrows()) if keep(token)]


def texts_of(token: pd.Series) -> list[str]:
    return [token[name] for name in ("text", "word_text") if isinstance(token[name], str)]


@pytest.fixture
def index(small_index: Index) -> Index:
    """The English sentences with trees, whose words are in pieces here and there."""
    return small_index


def with_texts(index: Index, texts: list[str]) -> Index:
    """Return a copy of an index of one table whose first tokens have these texts, without words."""
    changed = Index(index.root)
    tokens = index.tokens.copy()
    tokens["text"] = [*texts, *tokens["text"].tolist()[len(texts) :]]
    changed.__dict__["tokens"] = tokens.drop(columns=["word_text"])
    return changed


# ---------------------------------------------------------------------------------------------- texts and words


def test_a_token_is_found_by_its_text_as_shown_and_by_its_word(index: Index) -> None:
    tokens = index.tokens
    piece = tokens[(tokens["kind"] == "subword")].iloc[0]
    assert piece["token"] != piece["text"]  # ## in the vocabulary
    row = int(piece.name)
    assert row in search(index, piece["text"]).rows
    assert row in search(index, piece["word_text"]).rows
    assert row in search(index, f"word:{piece['word_text']}").rows
    assert row not in search(index, f"text:{piece['word_text']}").rows
    assert search(index, f'"{piece["token"]}"').n == 0


@pytest.mark.parametrize("case", [False, True])
def test_each_mode_finds_what_a_look_at_every_token_finds(index: Index, case: bool) -> None:
    def same(text: str) -> str:
        return text if case else text.lower()

    expected = {
        "exact": lambda text: same(text) == same("The"),
        "prefix": lambda text: same(text).startswith(same("The")),
        "contains": lambda text: same("The") in same(text),
        "regex": lambda text: same("The") in same(text),
    }
    for mode, holds in expected.items():
        found = search(index, "The", mode, case=case).rows.tolist()  # type: ignore[arg-type]
        assert found == plainly(index, lambda token, holds=holds: any(map(holds, texts_of(token))))
        assert found
    assert search(index, "the*").rows.tolist() == search(index, "the", "prefix").rows.tolist()
    assert search(index, "/^the/").rows.tolist() == search(index, "the", "prefix").rows.tolist()


def test_compatible_characters_are_one(index: Index) -> None:
    strange = with_texts(index, ["\uff21\uff22\uff23", "\ufb01sh", "猫", "e\u0301te\u0301", "STRASSE"])
    queries = ["abc", "fish", "猫", unicodedata.normalize("NFC", "été"), "straße"]
    for row, query in enumerate(queries):
        found = search(strange, query).rows
        assert found[found < len(queries)].tolist() == [row], query
    assert search(strange, "abc", case=True).n == 0


def test_signs_of_the_language_can_be_looked_for(index: Index) -> None:
    strange = with_texts(index, ["-", "*", "/", '"', "a b", "wo*", "x:y", "-s", 'a"b', "//"])
    for query, row in {
        "-": 0,
        "*": 1,
        "/": 2,
        '"': 3,
        '"a b"': 4,
        '"wo*"': 5,
        '"x:y"': 6,
        '"-s"': 7,
        '"a\\"b"': 8,
        "//": 9,
    }.items():
        found = search(strange, query).rows
        assert found[found < 10].tolist() == [row], query


# ---------------------------------------------------------------------------------------------- columns and terms


def test_terms_mean_and_and_a_dash_leaves_out(index: Index) -> None:
    found = search(index, "upos:NOUN -deprel:obl /s$/")
    expected = plainly(
        index,
        lambda token: (
            token["upos"] == "NOUN"
            and token["deprel"] != "obl"
            and any(t.lower().endswith("s") for t in texts_of(token))
        ),
    )
    assert found.rows.tolist() == expected
    assert expected
    everything = np.sort(np.concatenate([search(index, "upos:NOUN").rows, search(index, "-upos:NOUN").rows]))
    assert everything.tolist() == list(range(index.n_tokens))


def test_a_column_is_named_in_the_query_or_beside_it(index: Index) -> None:
    verbs = index.tokens.index[index.tokens["upos"] == "VERB"].tolist()
    for found in (search(index, "VERB", column="upos"), search(index, "upos:verb"), search(index, "UPOS:VERB")):
        assert found.rows.tolist() == verbs
    assert search(index, "relation:nsubj").rows.tolist() == search(index, "nsubj", column="deprel").rows.tolist()
    assert search(index, "deprel:acl:relcl").rows.tolist() == plainly(index, lambda t: t["deprel"] == "acl:relcl")


def test_numbers_and_truths_are_looked_for_as_people_write_them(index: Index) -> None:
    number = int(index.sequences["sequence"].iloc[3])
    here = index.rows(number)
    assert search(index, f"sequence:{number}").rows.tolist() == list(range(here.start, here.stop))
    assert search(index, "head:2").rows.tolist() == plainly(index, lambda token: token["head"] == 2)
    assert search(index, "is_special:true", case=True).rows.tolist() == plainly(index, lambda t: t["is_special"])


def test_columns_of_sequences_find_all_their_tokens(index: Index) -> None:
    source = str(index.sequences["source"].iloc[2])
    assert search(index, f'source:"{source}"').rows.tolist() == list(range(*index.row_starts[2:4]))


def test_a_missing_value_is_found_by_no_term(index: Index) -> None:
    missing = index.tokens["upos"].isna().to_numpy()
    assert missing.any()
    assert not missing[search(index, "/.*/", column="upos").rows].any()
    assert not missing[search(index, "nan", column="upos").rows].any()


def test_an_empty_query_and_one_that_finds_nothing_are_results(index: Index) -> None:
    for query in ("", "   ", "xyzzyplugh"):
        hits = search(index, query)
        assert (hits.n, len(hits.sequences), len(hits.texts)) == (0, 0, 0)
        assert (hits.next_hit(3), hits.previous_hit(3)) == (None, None)
        assert len(sequence_list(index, hits)) == 0


def test_every_text_of_the_corpus_is_found_in_quotes(index: Index) -> None:
    for text in index.tokens["text"].unique():
        escaped = text.replace("\\", "\\\\").replace('"', '\\"')
        rows = search(index, f'"{escaped}"', case=True, column="text").rows
        assert rows.tolist() == np.flatnonzero(index.tokens["text"] == text).tolist()


# ---------------------------------------------------------------------------------------------- errors


def test_an_error_names_the_place_and_the_choices(index: Index) -> None:
    with pytest.raises(QKSpaceError, match=r"character 5: no column 'nosuch'.*upos"):
        search(index, "the nosuch:x")
    with pytest.raises(QKSpaceError, match=r"No column 'nosuch'.*upos"):
        search(index, "x", column="nosuch")
    with pytest.raises(QKSpaceError, match=r"character 5 of the query.*position 1"):
        search(index, "the /(/")
    with pytest.raises(QKSpaceError, match="character 5: the quote is not closed"):
        search(index, 'the "cat')
    with pytest.raises(QKSpaceError, match="exact, prefix, regex, contains"):
        search(index, "the", "fuzzy")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "expression",
    [
        "(a{1000}){1000}",
        "((a{99}){99}){99}",
        "a{99999999}",
        "(?R)",
        "a(?1)",
        "(?P<x>a(?&x))",
        "a" * 600,
        "(" * 450,
        "[",
        "*",
    ],
)
def test_an_expression_that_is_too_large_or_none_is_refused_before_it_is_tried(index: Index, expression: str) -> None:
    with pytest.raises(QKSpaceError, match="regular expression"):
        search(index, expression, "regex")


def test_an_expression_never_takes_long(index: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("qkspace.search.SECONDS", 0.2)
    slow = with_texts(index, ["a" * 3_000 + "b"])
    with pytest.raises(QKSpaceError, match=r"took longer than 0\.2 s"):  # without the limit this never ends
        search(slow, r"(a+)+(a+)+(a+)+\1\2\3$", "regex")


# ---------------------------------------------------------------------------------------------- what was found


def test_hits_are_counted_by_sequence_and_by_text(index: Index) -> None:
    hits = search(index, "a*")
    found = index.tokens.iloc[hits.rows]
    assert dict(hits.sequences.to_numpy().tolist()) == found.groupby("sequence").size().to_dict()
    assert dict(zip(hits.texts["text"], hits.texts["hits"], strict=True)) == found["text"].value_counts().to_dict()
    assert hits.texts["hits"].is_monotonic_decreasing
    assert np.all(np.diff(hits.rows) > 0)


def test_next_and_previous_go_round() -> None:
    nothing = pd.DataFrame()
    hits = Hits("x", np.array([2, 5, 9]), nothing, nothing)
    assert [hits.next_hit(row) for row in (0, 2, 4, 5, 8, 9, 100)] == [2, 5, 5, 9, 9, 2, 2]
    assert [hits.previous_hit(row) for row in (0, 2, 3, 5, 9, 100)] == [9, 9, 2, 2, 5, 9]


def test_pages_of_sequences_add_up_to_the_whole_list(index: Index) -> None:
    hits = search(index, "the")
    for sort in ("corpus", "hits", "longest", "shortest"):
        pages = [
            sequence_list(index, hits, start=at, count=7, sort=sort) for at in range(0, len(hits.sequences) + 7, 7)
        ]  # type: ignore[arg-type]
        joined = pd.concat(pages, ignore_index=True)
        assert dict(joined[["sequence", "hits"]].to_numpy().tolist()) == dict(hits.sequences.to_numpy().tolist())
        assert pages[0].attrs["n_sequences"] == len(joined)
        sizes = {"corpus": joined["sequence"], "hits": -joined["hits"], "longest": -joined["n_tokens"]}
        assert sizes.get(sort, joined["n_tokens"]).is_monotonic_increasing
    everything = sequence_list(index, count=10_000)
    assert everything["sequence"].tolist() == index.sequences["sequence"].tolist()
    assert everything["text"].tolist() == index.sequences["text"].tolist()
    assert not everything["hits"].any()
    with pytest.raises(QKSpaceError, match="corpus, hits, longest, shortest"):
        sequence_list(index, sort="alphabet")  # type: ignore[arg-type]
    with pytest.raises(QKSpaceError, match="start -1"):
        sequence_list(index, start=-1)


def test_a_decoder_is_searched_alike(decoder_index: Index) -> None:
    """Its tokens are byte-level: the vocabulary writes a space as Ġ, which nobody types before a word."""
    spaced = decoder_index.tokens[decoder_index.tokens["token"].str.fullmatch("Ġ[a-z]+")]
    for row, text in spaced["text"].items():
        assert row in search(decoder_index, text).rows
    assert not set(search(decoder_index, "Ġ*").rows) & set(spaced.index)


def test_a_query_is_cut_into_terms_where_people_expect() -> None:
    names = ["upos", "misc:x"]
    terms = parse(' a "b c" -upos:V* misc:x:/p q/ -"-d" ', "contains", ("text",), lambda name, place: name, names)
    assert [(t.value, t.mode, t.columns, t.excluded, t.place) for t in terms] == [
        ("a", "contains", ("text",), False, 2),
        ("b c", "contains", ("text",), False, 4),
        ("V", "prefix", ("upos",), True, 10),
        ("p q", "regex", ("misc:x",), False, 19),
        ("-d", "contains", ("text",), True, 32),
    ]
