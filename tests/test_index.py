"""Tests of `qkspace.index`: what an index gives back is the model's own attention and the maps that were scored."""

from __future__ import annotations

import shutil
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import Eager

import qkspace
from qkspace import fidelity
from qkspace.fidelity import Scores
from qkspace.gather import STATISTICS
from qkspace.index import Head, Index
from qkspace.schema import HeadSample, Positions, QKSpaceError

SOME_HEADS = [(0, 0), (1, 3), (3, 5), (5, 11)]


@pytest.fixture(params=["small_index", "decoder_index"])
def index(request: pytest.FixtureRequest) -> Index:
    """An encoder stored in float16, and a decoder with grouped keys stored in float32."""
    found: Index = request.getfixturevalue(request.param)
    return found


def heads(index: Index) -> list[Head]:
    chosen = [(layer, head) for layer, head in SOME_HEADS if layer < index.n_layers and head < index.n_heads]
    return [index.head(layer, head) for layer, head in chosen]


# ---------------------------------------------------------------------------------------------- tables


def test_open_gives_the_index_of_a_folder(small_index: Index, minilm: Path) -> None:
    index = qkspace.open(str(small_index.root))
    assert (index.n_layers, index.n_heads, index.d_head) == (6, 12, 32)
    assert index.maps == (("pca", 2), ("pca", 3))
    assert index.n_tokens == len(index.tokens)
    assert index.model_name in repr(index)
    assert minilm.name in index.model_name


def test_tokens_and_sequences_describe_the_same_rows(index: Index) -> None:
    tokens, sequences = index.tokens, index.sequences
    assert {"sequence", "position", "token", "token_id", "is_special", "word"} <= set(tokens)
    assert tokens.groupby("sequence").size().tolist() == sequences["n_tokens"].tolist()
    assert tokens["sequence"].is_monotonic_increasing
    for number, sequence in zip(sequences["sequence"], sequences.to_dict("records"), strict=True):
        rows = index.rows(number)
        part = tokens.iloc[rows]
        assert set(part["sequence"]) == {number}
        assert part["position"].tolist() == list(range(rows.stop - rows.start))
        for token in part[~part["is_special"]].to_dict("records"):
            stands_there = sequence["text"][token["start"] : token["end"]]
            assert stands_there == token["text"] or stands_there.isspace()


def test_token_ids_are_those_of_the_models_tokenizer(small_index: Index, minilm: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(minilm)
    for number, text in zip(small_index.sequences["sequence"], small_index.sequences["text"], strict=True):
        part = small_index.tokens.iloc[small_index.rows(number)]
        assert part["token_id"].tolist() == tokenizer(text)["input_ids"]
        assert part["is_special"].tolist() == [True, *[False] * (len(part) - 2), True]


def test_the_head_table_has_every_head_with_its_statistics_and_scores(index: Index) -> None:
    table = index.head_table()
    expected = [(layer, head) for layer in range(index.n_layers) for head in range(index.n_heads)]
    assert list(zip(table["layer"], table["head"], strict=True)) == expected
    scores = [f"{method}{dims}_{name}" for method, dims in index.maps for name in Scores.__dataclass_fields__]
    assert set(table) == {"layer", "head", *STATISTICS, *scores} - {"position_share"}
    row = table.set_index(["layer", "head"]).loc[(1, 3)]
    for method, dims in index.maps:
        found = index.head(1, 3).projection(method, dims).scores
        assert found is not None
        for name, value in asdict(found).items():
            assert row[f"{method}{dims}_{name}"] == pytest.approx(value, nan_ok=True)


def test_statistics_of_the_head_table_agree_with_attention(decoder_index: Index) -> None:
    """Everything read is stored here, so that the means can be taken from the stored vectors."""
    table = decoder_index.head_table().set_index(["layer", "head"])
    for head in heads(decoder_index):
        attention = [head.attention(sequence) for sequence in decoder_index.sequences["sequence"]]
        special = [
            decoder_index.tokens["is_special"].to_numpy()[decoder_index.rows(sequence)]
            for sequence in decoder_index.sequences["sequence"]
        ]
        expected = {
            "attention_to_self": sum(np.trace(a) for a in attention),
            "attention_to_previous": sum(np.trace(a, offset=-1) for a in attention),
            "attention_to_first": sum(a[:, 0].sum() for a in attention),
            "attention_to_special": sum(a[:, s].sum() for a, s in zip(attention, special, strict=True)),
            "attention_max": sum(a.max(axis=1).sum() for a in attention),
        }
        row = table.loc[(head.layer, head.head)]
        for name, total in expected.items():
            assert row[name] == pytest.approx(total / decoder_index.n_tokens, abs=1e-4)


# ---------------------------------------------------------------------------------------------- heads


def test_vectors_have_a_row_for_every_token(index: Index) -> None:
    for head in heads(index):
        assert head.query.shape == head.key.shape == (index.n_tokens, index.d_head)
        assert head.query.dtype == head.key.dtype == np.float32
        assert head.value_norm.shape == (index.n_tokens,)
        assert head.top_key.shape == head.top_attention.shape
        assert head.name == f"L{head.layer}H{head.head}"


def test_heads_of_a_group_share_their_key(decoder_index: Index) -> None:
    found = [decoder_index.head(0, head) for head in range(4)]
    assert [head.kv_head for head in found] == [0, 0, 1, 1]
    np.testing.assert_array_equal(found[0].key, found[1].key)
    assert not np.array_equal(found[1].key, found[2].key)
    assert not np.array_equal(found[0].query, found[1].query)


def test_attention_is_the_models_own(index: Index, eager: Eager) -> None:
    atol = {"float16": 5e-3, "float32": 1e-5}[index.manifest["made_from"]["storage"]]
    model, ids = index.manifest["model"]["name"], index.tokens["token_id"].tolist()
    every = [[index.head(layer, number) for number in range(index.n_heads)] for layer in range(index.n_layers)]
    for sequence in index.sequences["sequence"]:
        own = eager(model, ids[index.rows(sequence)])
        for layer in range(index.n_layers):
            attention = np.stack([head.attention(sequence) for head in every[layer]])
            np.testing.assert_allclose(attention, own[layer], atol=atol)


def test_top_keys_are_the_largest_of_the_models_own_attention(index: Index, eager: Eager) -> None:
    model = index.manifest["model"]["name"]
    for sequence in index.sequences["sequence"][::7]:
        rows = index.rows(sequence)
        own = eager(model, index.tokens["token_id"].tolist()[rows])
        for head in heads(index):
            expected = -np.sort(-own[head.layer][head.head], axis=1)
            weight, key = head.top_attention[rows], head.top_key[rows]
            k = min(weight.shape[1], rows.stop - rows.start)
            np.testing.assert_allclose(weight[:, :k], expected[:, :k], atol=5e-4)
            query, rank = np.nonzero(key >= 0)
            found = own[head.layer][head.head][query, key[query, rank] - rows.start]
            np.testing.assert_allclose(found, weight[query, rank], atol=5e-4)


# ---------------------------------------------------------------------------------------------- links


def all_pairs(head: Head) -> pd.DataFrame:
    """Every pair of the index with its attention, from the stored vectors."""
    parts = []
    for sequence in head.index.sequences["sequence"]:
        start = head.index.rows(sequence).start
        attention = head.attention(sequence)
        query, key = np.nonzero(attention > 0)
        parts.append(pd.DataFrame({"query": query + start, "key": key + start, "attention": attention[query, key]}))
    return pd.concat(parts, ignore_index=True)


@pytest.mark.parametrize("special", [True, False])
@pytest.mark.parametrize("itself", [True, False])
@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize("threshold", [0.0, 0.3])
def test_links_are_the_strongest_pairs_that_are_asked_for(
    special: bool, itself: bool, first: bool, threshold: float, index: Index
) -> None:
    head = index.head(1, 3)
    top = 40
    links = head.links(top, threshold=threshold, special=special, itself=itself, first=first)
    assert list(links) == ["query", "key", "attention"]
    assert len(links) <= top
    assert links["attention"].is_monotonic_decreasing
    assert (links["attention"] >= threshold).all()
    assert not links.duplicated(["query", "key"]).any()
    pairs = all_pairs(head)
    tokens = index.tokens
    for side in ("query", "key"):
        row = pairs[side].to_numpy()
        if not special:
            pairs = pairs[~tokens["is_special"].to_numpy()[row]]
            row = pairs[side].to_numpy()
        if not first:
            pairs = pairs[tokens["position"].to_numpy()[row] != 0]
    pairs = pairs if itself else pairs[pairs["query"] != pairs["key"]]
    weight = pairs.set_index(["query", "key"])["attention"]
    own = weight.loc[list(zip(links["query"], links["key"], strict=True))].to_numpy()  # fails on a pair not asked for
    np.testing.assert_allclose(links["attention"], own, atol=5e-3)
    expected = np.sort(weight.to_numpy())[::-1]
    n = min(top, int((expected > threshold + 5e-3).sum()))
    np.testing.assert_allclose(links["attention"].to_numpy()[:n], expected[:n], atol=5e-3)


def test_fewer_links_are_the_first_of_more(index: Index) -> None:
    head = index.head(1, 3)
    many = head.links(top=200)
    for top in (1, 7, 100):
        few = head.links(top=top)
        assert len(few) == top
        np.testing.assert_array_equal(few["attention"], many["attention"][:top])
    assert len(head.links(top=10**9)) == int((head.top_attention > 0).sum())
    assert head.links(top=100, threshold=1.01).empty
    assert head.links(top=0).empty
    with pytest.raises(QKSpaceError, match="0 or more; got -1"):
        head.links(top=-1)


# ---------------------------------------------------------------------------------------------- maps


def test_transform_puts_the_stored_vectors_where_the_map_has_them(index: Index) -> None:
    for head in heads(index):
        for method, dims in index.maps:
            view = head.projection(method, dims)
            assert view.query.shape == view.key.shape == (index.n_tokens, dims)
            placed = view.transform(query=head.query, key=head.key)
            np.testing.assert_allclose(placed.query, view.query, atol=1e-4)
            np.testing.assert_allclose(placed.key, view.key, atol=1e-4)
            some = view.transform(query=head.query[:3])
            np.testing.assert_allclose(some.query, view.query[:3], atol=1e-4)
            assert some.key.shape == (0, dims)


def test_scores_are_those_of_the_held_out_sequences(index: Index) -> None:
    held_out = index.sequences[index.sequences["fold"] == "score"]["sequence"]
    parts = [index.rows(sequence) for sequence in held_out]
    rows = np.concatenate([np.arange(part.start, part.stop) for part in parts])
    starts = np.concatenate([[0], np.cumsum([part.stop - part.start for part in parts])])
    content = ~index.tokens["is_special"].to_numpy()[rows]
    for head in heads(index):
        if head.spec.causal:
            content &= index.tokens["position"].to_numpy()[rows] > 0
        for method, dims in index.maps:
            view = head.projection(method, dims)
            sample = view.gauge.apply_to(HeadSample(head.query[rows], head.key[rows], starts, content, head.spec))
            expected = fidelity.score(sample, Positions(view.query[rows], view.key[rows]), seed=0)
            assert view.scores is not None
            for name, value in asdict(expected).items():
                atol = 2e-3 if name == "trustworthiness" else 1e-6  # equal vectors: rounding says which is nearer
                assert asdict(view.scores)[name] == pytest.approx(value, rel=1e-6, abs=atol, nan_ok=True), name


def test_a_head_that_is_not_mapped_says_why(unmapped_index: Index) -> None:
    view = unmapped_index.head(1, 2).projection("pca", 2)
    assert view.scores is None
    assert view.reason == "7 of 9 of its query and key vectors hold nan or infinity"
    assert np.isnan(view.query).all()
    with pytest.raises(QKSpaceError, match="L1H2 has no pca map in 2-D: 7 of 9"):
        view.transform(query=np.zeros((1, unmapped_index.d_head)))
    other = unmapped_index.head(1, 1).projection("pca", 2)
    assert other.reason is None
    assert other.scores is not None


def test_the_normalisation_of_a_map_leaves_attention_alone(index: Index) -> None:
    sequence = int(index.sequences["sequence"].iloc[3])
    rows = index.rows(sequence)
    for head in heads(index):
        for method, dims in index.maps:
            query, key = head.projection(method, dims).gauge.apply(head.query[rows], head.key[rows])
            logit = head.spec.scale * query @ key.T
            weight = np.where(head.spec.allowed(len(logit)), np.exp(logit - logit.max(axis=1, keepdims=True)), 0)
            weight /= weight.sum(axis=1, keepdims=True)
            np.testing.assert_allclose(weight, head.attention(sequence), atol=1e-4)


# ---------------------------------------------------------------------------------------------- said in words


@pytest.mark.parametrize("layer", [-1, 6, 99])
def test_a_layer_that_is_not_there_is_said(layer: int, small_index: Index) -> None:
    with pytest.raises(QKSpaceError, match=rf"There is no layer {layer}: .* has layers 0 to 5"):
        small_index.head(layer, 0)


@pytest.mark.parametrize("head", [-1, 12])
def test_a_head_that_is_not_there_is_said(head: int, small_index: Index) -> None:
    with pytest.raises(QKSpaceError, match=rf"There is no head {head} in layer 2: it has heads 0 to 11"):
        small_index.head(2, head)


@pytest.mark.parametrize(("method", "dims"), [("pca", 4), ("umap", 2), ("PCA", 2)])
def test_a_map_that_is_not_there_is_said(method: str, dims: int, small_index: Index) -> None:
    with pytest.raises(
        QKSpaceError, match=rf"no {method} map in {dims}-D; it has pca in 2-D, pca in 3-D\. .*--methods"
    ):
        small_index.head(0, 0).projection(method, dims)


@pytest.mark.parametrize("sequence", [-1, 60, 10**6])
def test_a_sequence_that_is_not_stored_is_said(sequence: int, small_index: Index) -> None:
    with pytest.raises(
        QKSpaceError, match=rf"Sequence {sequence} is not in this index, which stores 60 between 0 and 59"
    ):
        small_index.head(0, 0).attention(sequence)


def test_vectors_of_another_length_are_refused(small_index: Index) -> None:
    with pytest.raises(QKSpaceError, match="length 32"):
        small_index.head(0, 0).projection("pca", 2).transform(query=np.zeros((3, 31), dtype=np.float32))


# ---------------------------------------------------------------------------------------------- light


HEAVY = ("torch", "transformers", "bokeh", "sklearn", "umap", "pandas", "scipy", "joblib", "datasets")


def imported(statements: str, *arguments: str) -> set[str]:
    """Return which of the heavy packages a new Python has after some statements."""
    code = f"import sys\n{statements}\nprint(' '.join({{name.split('.')[0] for name in sys.modules}}))"
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=True)
    return set(done.stdout.split()) & set(HEAVY)


def test_importing_is_light_and_the_command_line_parses_without_the_engines() -> None:
    modules = "qkspace, qkspace.index, qkspace.store, qkspace.schema"
    assert imported(f"import {modules}\nfrom qkspace.cli import _parser\n_parser()") == set()


def test_an_index_is_read_and_drawn_without_the_engines(small_index: Index) -> None:
    statements = """
import qkspace
from qkspace.app import select
index = qkspace.open(sys.argv[1])
head = index.head(1, 3)
sequence = int(index.sequences["sequence"].iloc[0])
assert len(head.links(top=10)) == 10
assert head.attention(sequence).shape[0] == index.rows(sequence).stop
assert head.projection("pca", 2).scores is not None
head.projection("pca", 2).transform(query=head.query)
index.head_table()
shown = select.Shown(index)
state = select.State(layer=1, head=3, selected=("query", 4))
points = select.points(shown, state)
assert len(points["query"].place) == len(points["key"].place) == index.n_tokens
select.corpus_links(shown, state), select.selected_links(shown, state), select.colouring(shown, state)
"""
    assert (
        imported(statements, str(small_index.root)) & {"torch", "transformers", "sklearn", "umap", "datasets"} == set()
    )


def test_an_index_can_be_moved(decoder_index: Index, tmp_path: Path) -> None:
    copy = tmp_path / "elsewhere" / "renamed"
    shutil.copytree(decoder_index.root, copy)
    moved = qkspace.open(copy)
    pd.testing.assert_frame_equal(moved.tokens, decoder_index.tokens)
    pd.testing.assert_frame_equal(moved.head_table(), decoder_index.head_table())
