"""Tests of `qkspace.heads.labels`: heads of known attention get their labels, whatever the length of their texts."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray

from qkspace.heads.labels import COLUMNS, Thresholds, labels
from qkspace.index import Index
from qkspace.schema import QKSpaceError

Matrix = NDArray[np.float64]


def planted(n: int, *, causal: bool = False) -> dict[str, Matrix]:
    """Return attention of heads that do one thing over n tokens, [CLS] ... , ... [SEP], (query token, key token)."""
    allowed = np.tri(n) if causal else np.ones((n, n))
    broad = allowed / allowed.sum(axis=1, keepdims=True)

    def to(columns: list[int]) -> Matrix:
        one = np.zeros((n, n))
        one[:, columns] = 1 / len(columns)
        return one

    def beside(offset: int) -> Matrix:
        one = np.eye(n, k=offset)
        one[one.sum(axis=1) == 0] = broad[one.sum(axis=1) == 0]
        return one

    fifth = np.eye(n, k=-5) + 1e-3 * broad  # does what has no name
    return {
        "previous": beside(-1),
        "next": beside(1),
        "self": np.eye(n),
        "first": to([0]),
        "special": to([0, n - 1]),
        "punctuation": to([n // 2]),
        "broad": broad,
        "other": fifth / fifth.sum(axis=1, keepdims=True),
    }


def head_table(heads: dict[str, Matrix], *, causal: bool = False) -> pd.DataFrame:
    """Return what an index says of heads, computed as it is defined: means over queries, which may lack a neighbour."""
    rows = []
    for head, attention in enumerate(heads.values()):
        n = len(attention)
        n_allowed = np.arange(1, n + 1) if causal else np.full(n, n)
        rows.append(
            {
                "layer": 3,
                "head": head,
                "attention_to_special": attention[:, [0] if causal else [0, n - 1]].sum() / n,
                "attention_to_first": attention[:, 0].sum() / n,
                "attention_to_previous": np.trace(attention, offset=-1) / n,
                "attention_to_next": np.trace(attention, offset=1) / n,
                "attention_to_self": np.trace(attention) / n,
                "attention_to_punctuation": attention[:, n // 2].sum() / n,
                "entropy": -(attention * np.log(np.maximum(attention, 1e-30))).sum() / n,
                "entropy_uniform": np.log(n_allowed).mean(),
            }
        )
    return pd.DataFrame(rows)


@pytest.mark.parametrize("n", [12, 60, 500])
def test_planted_heads_of_an_encoder_get_their_labels_at_any_length(n: int) -> None:
    heads = planted(n)
    found = labels(head_table(heads))
    assert found["label"].tolist() == list(heads)
    value = found.set_index("label")["value"]
    assert value["next"] == pytest.approx((n - 1) / n)
    assert value[["self", "first", "special", "punctuation", "broad"]].tolist() == pytest.approx([1] * 5)
    assert np.isnan(value["other"])


@pytest.mark.parametrize("n", [12, 60, 500])
def test_planted_heads_of_a_decoder_get_their_labels_at_any_length(n: int) -> None:
    """Its special token is its first, and so the sink."""
    heads = {
        name: head for name, head in planted(n, causal=True).items() if name not in ("next", "special", "punctuation")
    }
    found = labels(head_table(heads, causal=True))
    assert found["label"].tolist() == list(heads)
    assert found.set_index("label")["all_labels"]["first"] == "first, special"


def test_as_many_nats_are_broad_over_short_texts_and_narrow_over_long_ones() -> None:
    table = pd.DataFrame({"layer": 0, "head": range(3), "entropy": 3.9, "entropy_uniform": [4.5, 7.0, 0.0]})
    assert labels(table)["label"].tolist() == ["broad", "other", "unmeasured"]


def test_the_most_specific_label_comes_first_and_all_are_named() -> None:
    of_text = {label: names for label, names in COLUMNS.items() if label not in ("row", "column")}
    every = {name: [0.95] for names in of_text.values() for name in names} | {
        "entropy": [3.0],
        "entropy_uniform": [3.0],
    }
    table = pd.DataFrame({"layer": [0], "head": [0], **every})
    one = labels(table).iloc[0]
    assert one["label"] == "induction"
    assert one["all_labels"] == ", ".join(of_text)
    order = []
    for name, columns in of_text.items():
        order.append(labels(table)["label"].iloc[0])
        assert order[-1] == name
        table = table.drop(columns=list(columns) or ["entropy"])
    assert order[:4] == ["induction", "duplicate", "previous", "next"]


def test_a_column_that_is_missing_takes_no_other_label_away() -> None:
    """An index of an earlier version knows no punctuation; an index of images has rows and columns."""
    heads = planted(20)
    found = labels(head_table(heads).drop(columns="attention_to_punctuation"))
    assert found["label"].tolist() == [name if name != "punctuation" else "other" for name in heads]
    images = pd.DataFrame(
        {"layer": 0, "head": range(4), "to_row": [0.9, 0.1, 0.1, 0.1], "to_column": [0.1, 0.7, 0.2, 0.1]}
    )
    images["to_cls"], images["to_self"] = [0, 0, 0.8, 0.1], [0, 0, 0, 0.6]
    assert labels(images)["label"].tolist() == ["row", "column", "first", "self"]


def test_beside_a_patch_is_its_row_first_and_what_is_no_image_has_neighbours_only() -> None:
    """The token before a patch is the one to its left: a head of rows attends to it too."""
    table = pd.DataFrame({"layer": 0, "head": range(3), "attention_to_previous": [0.6, 0.6, 0.1]})
    table["to_row"], table["to_column"], table["attention_to_next"] = [0.8, 0.3, 0.1], [0.0, 0.0, 0.7], [0.0, 0.0, 0.6]
    found = labels(table)
    assert found["label"].tolist() == ["row", "previous", "column"]
    assert found["all_labels"].tolist() == ["row, previous", "previous", "column, next"]
    for text in (table.drop(columns=["to_row", "to_column"]), table.assign(to_row=np.nan, to_column=np.nan)):
        assert labels(text)["label"].tolist() == ["previous", "previous", "next"]


def test_a_score_that_equal_attention_has_too_is_no_label() -> None:
    """What a vocabulary of three letters gives: 0.42 of attention to the same letter where 0.377 is chance."""
    table = pd.DataFrame({"layer": 0, "head": range(4), "duplicate_token": [0.427, 0.6, 0.58, 0.7]})
    assert labels(table)["label"].tolist() == ["duplicate"] * 4
    table["duplicate_token_uniform"] = [0.377, 0.39, 0.377, np.nan]
    found = labels(table)
    assert found["label"].tolist() == ["other", "duplicate", "duplicate", "duplicate"]
    assert np.isnan(found["value"][0])
    assert labels(table, Thresholds(gain=0.04))["label"].tolist() == ["duplicate"] * 4
    assert labels(table, Thresholds(gain=0.205))["label"].tolist() == ["other", "duplicate", "other", "duplicate"]
    table["positional"], table["positional_uniform"] = [0.9, 0.95, 0.95, 0.6], [0.75, 0.9, 0.5, 0.1]
    assert labels(table)["all_labels"].tolist() == ["", "duplicate", "duplicate, positional", "duplicate"]


def test_chance_on_random_tokens_takes_no_label_away_that_the_text_gives() -> None:
    table = pd.DataFrame({"layer": 0, "head": range(2), "attention_to_previous": [0.6, 0.2]})
    table["previous_token"], table["previous_token_uniform"] = [0.65, 0.65], [0.6, 0.6]
    found = labels(table)
    assert found["label"].tolist() == ["previous", "other"]
    assert found["value"][0] == 0.6


def test_scores_on_random_tokens_speak_where_text_does_not() -> None:
    table = pd.DataFrame({"layer": 1, "head": range(3), "attention_to_previous": [0.3, 0.6, np.nan]})
    table["previous_token"], table["induction"] = [0.9, np.nan, 0.1], [0.1, 0.7, np.nan]
    found = labels(table)
    assert found["label"].tolist() == ["previous", "induction", "other"]
    assert found["value"].tolist()[:2] == [0.9, 0.7]
    assert found["all_labels"].tolist() == ["previous", "induction, previous", ""]


def test_thresholds_are_exceeded_and_can_be_moved() -> None:
    table = pd.DataFrame({"layer": 0, "head": range(3), "attention_to_next": [0.5, 0.51, 0.3]})
    assert labels(table)["label"].tolist() == ["other", "next", "other"]
    assert labels(table, Thresholds(next=0.2))["label"].tolist() == ["next"] * 3
    assert labels(table, replace(Thresholds(), next=0.6))["label"].tolist() == ["other"] * 3


def test_a_head_without_numbers_is_unmeasured() -> None:
    table = head_table(planted(9))
    table.loc[2, table.columns[2:]] = np.nan
    found = labels(table)
    assert found["label"].tolist()[2] == "unmeasured"
    assert found["all_labels"].tolist()[2] == ""
    assert (found["label"] == "unmeasured").sum() == 1


def test_what_cannot_be_labelled_is_refused() -> None:
    with pytest.raises(QKSpaceError, match=r"the label broad is a share from 0 to 1; got 3\.8"):
        Thresholds(broad=3.8)
    with pytest.raises(QKSpaceError, match=r"the gain over equal attention is a share from 0 to 1; got -0\.1"):
        Thresholds(gain=-0.1)
    with pytest.raises(QKSpaceError, match="the table has layer, head"):
        labels(pd.DataFrame({"layer": [0], "head": [0]}))


def test_heads_of_a_real_model_do_what_their_labels_say(small_index: Index) -> None:
    """MiniLM has one perfect previous-token head, one next-token head, many that rest on [CLS], and a broad first layer."""
    table = small_index.head_table()
    found = labels(table).set_index(["layer", "head"])["label"]
    assert found[found == "previous"].index.tolist() == [(0, 2)]
    assert found[found == "next"].index.tolist() == [(1, 8)]
    assert (found == "first").sum() >= 8
    assert (found.loc[0] == "broad").sum() >= 4
    assert (found.loc[2:4] == "broad").sum() == 0
    attention = small_index.head(0, 2).attention(int(small_index.sequences["sequence"].iloc[0]))
    assert np.trace(attention, offset=-1) / (len(attention) - 1) > 0.8
