"""Tests of `qkspace.behaviour`: against sums over whole attention matrices, and against scipy's Jensen-Shannon distance."""

from __future__ import annotations

import math
import re
import shutil
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray
from scipy.spatial.distance import jensenshannon

from qkspace import behaviour, store
from qkspace.behaviour import (
    BEHAVIOUR,
    SHARES,
    extreme_sequences,
    head_distances,
    most_attended,
    nearest_heads,
    sequence_scores,
    typical_sequences,
)
from qkspace.index import Index
from qkspace.position import attend, attend_heads
from qkspace.schema import LayerSpec, QKSpaceError


@pytest.fixture(params=["small_index", "decoder_index"])
def index(request: pytest.FixtureRequest) -> Index:
    """An encoder stored in float16, and a decoder with grouped keys stored in float32."""
    found: Index = request.getfixturevalue(request.param)
    return found


def planted(
    root: Path, lengths: list[int], logits: Callable[[int, int], NDArray[np.float32]], *, causal: bool
) -> Index:
    """Make an index of one layer of two heads by hand: keys are one-hot by position, so that queries are logits.

    logits(sequence, n) gives those of the first head, (query token, key token); the second attends to all alike.
    """
    width, n = max(lengths), sum(lengths)
    layer = LayerSpec("attention", n_heads=2, n_kv_heads=1, d_head=width, scale=1.0, causal=causal)
    position = np.concatenate([np.arange(length) for length in lengths])
    query = np.zeros((2, n, width), dtype=np.float32)
    start = 0
    for sequence, length in enumerate(lengths):
        query[0, start : start + length, :length] = logits(sequence, length)
        start += length
    key = np.eye(width, dtype=np.float32)[position][None]
    store.write_array(root / "query" / "L00.npy", query)
    store.write_array(root / "key" / "L00.npy", key)
    number = np.repeat(np.arange(len(lengths)), lengths)
    columns = {
        "sequence": number,
        "position": position,
        "text": [f"t{p}" for p in position],
        "is_special": position < 0,
    }
    store.write_table(root / "tokens.parquet", columns)
    texts = [f"sequence {i}" for i in range(len(lengths))]
    store.write_table(
        root / "sequences.parquet", {"sequence": np.arange(len(lengths)), "text": texts, "n_tokens": np.array(lengths)}
    )
    manifest = {"format": store.FORMAT, "format_version": store.FORMAT_VERSION, "layers": [asdict(layer)]}
    manifest |= {"corpus": {"n_tokens_stored": n}, "model": {"name": "planted"}, "made_from": {"name": "planted"}}
    store.write_json(root / store.MANIFEST, {**manifest, "check": {}, "maps": [], "files": {}})
    return Index(root)


def to_next(strength: float) -> Callable[[int, int], NDArray[np.float32]]:
    """Return logits that are high for the next token, but in sequence 3, where they are high for the token itself."""
    return lambda sequence, n: (strength * np.eye(n, k=int(sequence != 3))).astype(np.float32)


# ---------------------------------------------------------------------------------------------- tokens attended to


def test_most_attended_sums_the_stored_attention_that_each_text_receives(index: Index) -> None:
    one, tokens = index.head(1, 2), index.tokens
    table = most_attended(index, 1, 2, top=10_000, content=False)
    expected: dict[str, float] = {}
    for keys, weights in zip(one.top_key, one.top_attention, strict=True):
        for key, weight in zip(keys, weights, strict=True):
            if key >= 0:
                text = tokens["text"].iloc[key]
                expected[text] = expected.get(text, 0.0) + float(weight)
    totals = table.groupby("text")["total"].sum().to_dict()
    assert totals == pytest.approx({text: total for text, total in expected.items() if total > 0}, rel=1e-5)
    assert table["share"].sum() == pytest.approx(1)
    assert table["total"].is_monotonic_decreasing
    assert table.attrs["stored_share"] == pytest.approx(sum(expected.values()) / len(tokens), rel=1e-5)
    assert (table["mean"] * table["count"]).to_numpy() == pytest.approx(table["total"].to_numpy())


def test_content_leaves_out_special_tokens_and_the_sink_of_a_decoder(index: Index) -> None:
    one, tokens = index.head(1, 1), index.tokens
    content = ~tokens["is_special"].to_numpy()
    if one.spec.causal:
        content &= tokens["position"].to_numpy() > 0
    table = most_attended(index, 1, 1, top=10_000)
    assert not table["is_special"].any()
    assert (
        dict(zip(table["text"], table["count"], strict=True)).items()
        <= dict(tokens["text"][content].value_counts()).items()
    )
    both = (one.top_key >= 0) & content[:, None] & content[one.top_key]
    assert table["total"].sum() == pytest.approx(float(one.top_attention[both].sum()), rel=1e-4)


def test_tokens_by_mean_must_occur_often_enough(index: Index) -> None:
    table = most_attended(index, 0, 0, by="mean", least=5)
    assert table["mean"].is_monotonic_decreasing
    assert table["count"].min() >= 5
    with pytest.raises(QKSpaceError, match="total, mean"):
        most_attended(index, 0, 0, by="most")  # type: ignore[arg-type]


def test_blocks_change_nothing(index: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = most_attended(index, 1, 3), sequence_scores(index, 1, 3)
    monkeypatch.setattr(behaviour, "BLOCK_ROWS", 7)
    monkeypatch.setattr(behaviour, "BLOCK_PAIRS", 50)
    pd.testing.assert_frame_equal(most_attended(index, 1, 3), whole[0], rtol=1e-6)
    pd.testing.assert_frame_equal(sequence_scores(index, 1, 3), whole[1], rtol=1e-4, atol=1e-6)


# ---------------------------------------------------------------------------------------------- sequences


def test_scores_are_those_of_the_attention_matrix(index: Index) -> None:
    scores = sequence_scores(index, 1, 2).set_index("sequence")
    assert scores.index.tolist() == index.sequences["sequence"].tolist()
    causal = index.layers[1].causal
    for number, row in scores.iterrows():
        attention = index.head(1, 2).attention(int(number)).astype(np.float64)
        special = index.tokens["is_special"].to_numpy()[index.rows(int(number))]
        n = len(attention)
        offset = np.abs(np.arange(n)[:, None] - np.arange(n)[None, :])
        allowed = np.tri(n) if causal else np.ones((n, n))
        entropy = -np.sum(attention * np.log(np.maximum(attention, 1e-30)), axis=1)
        first = int(causal)  # query from which there is a choice
        expected = {
            "attention_to_previous": np.trace(attention, offset=-1) / (n - 1),
            "attention_to_next": math.nan if causal else np.trace(attention, offset=1) / (n - 1),
            "attention_to_self": np.trace(attention) / n,
            "attention_to_special": attention[:, special].sum() / n,
            "attention_to_first": attention[:, 0].sum() / n,
            "entropy": entropy.mean(),
            "entropy_ratio": (entropy[first:] / np.log(allowed.sum(axis=1))[first:]).mean(),
            "attention_distance": (attention * offset).sum() / n,
            "distance_ratio": np.mean(
                (attention * offset).sum(axis=1)[first:]
                / ((allowed * offset).sum(axis=1) / allowed.sum(axis=1))[first:]
            ),
        }
        for name, value in expected.items():
            assert row[name] == pytest.approx(value, abs=1e-5, nan_ok=True), name


def test_the_sequence_that_differs_is_the_extreme_one_and_words_say_how(tmp_path: Path) -> None:
    index = planted(tmp_path, [9] * 12, to_next(6.0), causal=False)
    scores = sequence_scores(index, 0, 0)
    assert int(scores["sequence"][scores["unusual"].argmax()]) == 3
    assert extreme_sequences(index, 0, 0, top=3)["sequence"].tolist()[0] == 3
    row = extreme_sequences(index, 0, 0, top=1).iloc[0]
    share = math.exp(6) / (math.exp(6) + 8)
    to_self = float(scores["attention_to_self"][0])
    assert row["words"] in {
        f"attends to the token itself {100 * share:.0f} % of the time, elsewhere {100 * to_self:.0f} %",
        f"attends to the next token {100 * row['attention_to_next']:.0f} % of the time, elsewhere {100 * share:.0f} %",
    }
    typical = typical_sequences(index, 0, 0, top=11)
    assert 3 not in typical["sequence"].tolist()
    assert typical["words"][0] == f"attends to the next token {100 * share:.0f} % of the time"


def test_the_length_of_a_sequence_does_not_make_it_extreme(tmp_path: Path) -> None:
    """A head that always looks at the next token does the same on 3 tokens and on 30."""
    index = planted(
        tmp_path, [30, 3, 12, 30, 3, 21], lambda sequence, n: np.eye(n, k=1, dtype=np.float32) * 40, causal=False
    )
    scores = sequence_scores(index, 0, 0)
    assert scores["attention_to_next"].to_numpy() == pytest.approx(1.0 - np.zeros(6), abs=1e-4)


def test_equal_attention_has_the_largest_entropy_and_the_distance_of_chance(tmp_path: Path) -> None:
    for causal in (False, True):
        index = planted(tmp_path / str(causal), [5, 8, 2], to_next(3.0), causal=causal)
        scores = sequence_scores(index, 0, 1)
        for name in ("entropy_ratio", "distance_ratio"):
            assert scores[name].to_numpy() == pytest.approx(np.ones(3), abs=1e-5)


@pytest.mark.parametrize("causal", [False, True])
def test_one_token_sequences_have_no_choice_and_break_nothing(tmp_path: Path, causal: bool) -> None:
    index = planted(tmp_path, [1, 4, 1], to_next(2.0), causal=causal)
    scores = sequence_scores(index, 0, 0)
    assert scores["attention_to_self"].tolist()[::2] == [1, 1]
    assert scores[["attention_to_next", "attention_to_previous", "entropy_ratio"]].iloc[[0, 2]].isna().all(axis=None)
    assert np.isfinite(scores["unusual"]).all()
    assert len(extreme_sequences(index, 0, 0)) == len(typical_sequences(index, 0, 0)) == 3
    alone = planted(tmp_path / "alone", [1], to_next(2.0), causal=causal)
    assert sequence_scores(alone, 0, 0)["unusual"].tolist() == [0]
    assert extreme_sequences(alone, 0, 0)["words"][0] == "attends to the token itself 100 % of the time"


def test_a_part_of_the_sequences_is_drawn_by_seed_and_said(index: Index) -> None:
    n = len(index.sequences)
    whole, part = sequence_scores(index, 0, 1), sequence_scores(index, 0, 1, max_sequences=9, seed=4)
    assert whole.attrs["note"] == f"all {n:,} sequences"
    assert part.attrs["note"] == f"9 of {n:,} sequences, drawn at random (seed 4)"
    assert extreme_sequences(index, 0, 1, max_sequences=9, seed=4).attrs["note"] == part.attrs["note"]
    same = whole.set_index("sequence").loc[part["sequence"], list(BEHAVIOUR)]
    np.testing.assert_array_equal(part[list(BEHAVIOUR)], same)
    assert part["sequence"].tolist() == sequence_scores(index, 0, 1, max_sequences=9, seed=4)["sequence"].tolist()
    assert part["sequence"].tolist() != sequence_scores(index, 0, 1, max_sequences=9, seed=5)["sequence"].tolist()


def test_a_long_sequence_is_looked_at_on_a_part_of_its_queries(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    index = planted(tmp_path, [40, 40, 40], to_next(5.0), causal=False)
    whole = sequence_scores(index, 0, 0)
    monkeypatch.setattr(behaviour, "MAX_QUERIES", 10)
    part = sequence_scores(index, 0, 0)
    assert part["attention_to_next"].to_numpy() == pytest.approx(whole["attention_to_next"].to_numpy(), abs=1e-5)
    monkeypatch.setattr(behaviour, "MAX_PAIRS", 900)  # 400 for each
    assert len(sequence_scores(index, 0, 0)) == 2
    monkeypatch.setattr(behaviour, "MAX_PAIRS", 1)
    assert len(sequence_scores(index, 0, 0)) == 1


def test_short_sequences_can_be_left_out(index: Index) -> None:
    scores = sequence_scores(index, 0, 0, min_tokens=12)
    assert scores["sequence"].tolist() == index.sequences["sequence"][index.sequences["n_tokens"] >= 12].tolist()
    with pytest.raises(QKSpaceError, match="No sequence has 9999 tokens"):
        sequence_scores(index, 0, 0, min_tokens=9999)


def test_extreme_sequences_carry_their_own_text_and_scores(index: Index) -> None:
    scores = sequence_scores(index, 1, 0).set_index("sequence")
    texts = index.sequences.set_index("sequence")["text"]
    for table in (extreme_sequences(index, 1, 0, top=4), typical_sequences(index, 1, 0, top=4)):
        assert len(table) == 4
        for row in table.to_dict("records"):
            assert row["text"] == texts[row["sequence"]]
            assert row["unusual"] == scores.loc[row["sequence"], "unusual"]
    assert extreme_sequences(index, 1, 0)["unusual"].iloc[0] == scores["unusual"].max()
    assert typical_sequences(index, 1, 0)["unusual"].iloc[0] == scores["unusual"].min()
    assert set(SHARES) < set(BEHAVIOUR)


def test_what_is_unusual_reads_otherwise_than_what_is_usual_in_both_languages(index: Index) -> None:
    n_said = 0
    for head in range(4):
        english, japanese = (
            extreme_sequences(index, 1, head, top=8, min_tokens=5, language=language) for language in ("en", "ja")
        )
        for here, there in zip(english["words"], japanese["words"], strict=True):
            numbers = re.findall(r"(\d+) %", here)
            assert numbers == re.findall(r"(\d+) %", there)
            assert not here or len(set(numbers)) == 2
            assert not re.search("[a-z]", there)
            n_said += bool(here)
        assert english["sequence"].tolist() == japanese["sequence"].tolist()
        assert not re.search("[a-z]", japanese.attrs["note"])
        assert "elsewhere" not in " ".join(typical_sequences(index, 1, head)["words"])
    assert n_said > 8


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("window", [None, 1, 4])
def test_rows_of_attention_are_those_of_the_whole_matrix(causal: bool, window: int | None) -> None:
    rng = np.random.default_rng(0)
    query, key = rng.normal(size=(2, 9, 3)).astype(np.float32)
    layer = LayerSpec("attention", 1, 1, 3, scale=0.7, causal=causal, window=window)
    at = np.array([0, 3, 8])
    found = attend_heads(query[None, at], key[None], layer, at=at)[0]
    np.testing.assert_allclose(found, attend(query, key, layer)[at], atol=1e-6)


# ---------------------------------------------------------------------------------------------- distances between heads


def literal_distances(index: Index) -> NDArray[np.float64]:
    """Return the mean Jensen-Shannon divergence of each pair of heads over all queries with a choice, one by one."""
    heads = [index.head(layer, h) for layer, spec in enumerate(index.layers) for h in range(spec.n_heads)]
    total, count = np.zeros((len(heads), len(heads))), 0
    for number in index.sequences["sequence"]:
        attention = np.array([head.attention(int(number)) for head in heads], dtype=np.float64)
        for query in range(int(index.layers[0].causal), attention.shape[1]):
            if attention.shape[2] > 1:
                rows = attention[:, query]
                total += np.array([[jensenshannon(p, q) ** 2 for q in rows] for p in rows])
                count += 1
    return total / count


def part_of(index: Index, root: Path, n_layers: int, n_sequences: int) -> Index:
    """Copy the vectors of the first layers and sequences of an index into one that has nothing else."""
    n = int(index.row_starts[n_sequences])
    for layer in range(n_layers):
        for name in ("query", "key"):
            array = store.read_array(index.root / name / f"L{layer:02d}.npy")
            store.write_array(root / name / f"L{layer:02d}.npy", np.array(array[:, :n]))
    sequences = index.sequences.iloc[:n_sequences]
    store.write_table(
        root / "sequences.parquet", {name: sequences[name].to_numpy() for name in ("sequence", "n_tokens")}
    )
    manifest = dict(index.manifest, layers=index.manifest["layers"][:n_layers], files={})
    manifest["corpus"] = {**manifest["corpus"], "n_tokens_stored": n}
    store.write_json(root / store.MANIFEST, manifest)
    return Index(root)


def test_distances_are_scipys_mean_squared_jensen_shannon_distance(index: Index, tmp_path: Path) -> None:
    small = part_of(index, tmp_path / "part", 2, 3)
    found = head_distances(small, max_tokens=10_000)
    expected = literal_distances(small)
    assert found.shape == expected.shape == (2 * small.n_heads, 2 * small.n_heads)
    np.testing.assert_allclose(found, expected, atol=3e-6)
    assert expected.max() > 0.05


def test_distances_are_symmetric_bounded_and_nought_to_itself(index: Index) -> None:
    distance = head_distances(index)
    np.testing.assert_array_equal(distance, distance.T)
    np.testing.assert_array_equal(np.diag(distance), 0)
    assert (distance >= 0).all()
    assert (distance <= math.log(2)).all()
    off_diagonal = distance[~np.eye(len(distance), dtype=bool)]
    assert off_diagonal.min() > 1e-5


def test_heads_that_are_copies_have_no_distance_and_are_nearest(decoder_index: Index, tmp_path: Path) -> None:
    """Heads 1 and 0 of layer 0 read one key head; equal queries make them one."""
    index = part_of(decoder_index, tmp_path / "copies", 2, 8)
    path = index.root / "query" / "L00.npy"
    query = np.array(store.read_array(path))
    query[1] = query[0]
    store.write_array(path, query)
    assert head_distances(index)[0, 1] == 0
    assert head_distances(index)[0, 2] > 1e-4
    nearest = nearest_heads(index, 0, 1, top=3)
    assert nearest.iloc[0].tolist() == [0, 0, 0]


def test_heads_that_share_no_key_are_as_far_as_can_be(tmp_path: Path) -> None:
    """A head that looks at the next token alone, and one at itself alone."""
    index = planted(tmp_path, [2, 2, 2], lambda sequence, n: np.eye(n, dtype=np.float32) * 60, causal=False)
    query = np.array(store.read_array(tmp_path / "query" / "L00.npy"))
    query[1] = query[0][:, ::-1]
    store.write_array(tmp_path / "query" / "L00.npy", query)
    assert head_distances(index)[0, 1] == pytest.approx(math.log(2), abs=1e-6)


@pytest.mark.parametrize("causal", [False, True])
def test_one_token_sequences_say_nothing_of_distances(tmp_path: Path, causal: bool) -> None:
    def to_previous(sequence: int, n: int) -> NDArray[np.float32]:
        return 3 * np.eye(n, k=-1, dtype=np.float32)

    alone = planted(tmp_path / "alone", [1, 1], to_previous, causal=causal)
    np.testing.assert_array_equal(head_distances(alone), np.zeros((2, 2)))
    assert nearest_heads(alone, 0, 0).empty
    without = planted(tmp_path / "without", [6, 4], to_previous, causal=causal)
    among = planted(tmp_path / "among", [6, 4, 1, 1, 1], to_previous, causal=causal)
    np.testing.assert_allclose(head_distances(among), head_distances(without), atol=1e-6)
    assert head_distances(among)[0, 1] > 1e-3


def test_a_sample_comes_near_the_whole_and_is_said(small_index: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = head_distances(small_index, max_tokens=100_000)
    part = head_distances(small_index, max_tokens=300, seed=3)
    assert np.abs(part - whole).max() < 0.08
    assert np.abs(part - whole).mean() < 0.015
    assert " 300 queries of " in nearest_heads(small_index, 0, 0, max_tokens=300, seed=3).attrs["note"]
    monkeypatch.setattr(behaviour, "MAX_MIXTURES", 72 * 73 / 2 * 16 * 50)
    monkeypatch.setattr(behaviour, "BLOCK_PAIRS", 1 << 10)
    n_queries = behaviour._measured.__wrapped__(small_index.root, (0, 0), 2_000, 0, 1).n_queries
    assert 20 < n_queries < 100


def test_nearest_heads_are_those_of_the_matrix(index: Index) -> None:
    distance, table = head_distances(index), index.head_table()
    here = int(table.index[(table["layer"] == 1) & (table["head"] == 3)][0])
    nearest = nearest_heads(index, 1, 3, top=5)
    places = [
        int(table.index[(table["layer"] == row.layer) & (table["head"] == row.head)][0]) for row in nearest.itertuples()
    ]
    assert here not in places
    assert nearest["distance"].to_numpy() == pytest.approx(distance[here, places])
    assert nearest["distance"].tolist() == sorted(np.delete(distance[here], here))[:5]
    assert len(nearest_heads(index, 1, 3, top=10_000)) == len(table) - 1


def test_a_rebuilt_index_is_measured_again_and_a_result_cannot_be_written_to(
    decoder_index: Index, tmp_path: Path
) -> None:
    first = part_of(decoder_index, tmp_path / "index", 1, 3)
    before = head_distances(first)
    assert head_distances(first) is before
    with pytest.raises(ValueError, match="read-only"):
        before[0, 1] = 1
    shutil.rmtree(first.root)
    after = head_distances(part_of(decoder_index, tmp_path / "index", 1, 6))
    assert not np.array_equal(before, after)


def test_a_head_whose_vectors_are_not_finite_is_no_neighbour(decoder_index: Index, tmp_path: Path) -> None:
    index = part_of(decoder_index, tmp_path / "broken", 2, 4)
    path = index.root / "query" / "L01.npy"
    query = np.array(store.read_array(path))
    query[2] = np.nan
    store.write_array(path, query)
    distance = head_distances(index)
    broken = np.arange(8) == 6
    assert np.isnan(distance[broken]).all()
    assert np.isfinite(distance[~broken][:, ~broken]).all()
    assert len(nearest_heads(index, 0, 0, top=20)) == 6


def test_wrong_arguments_are_refused(index: Index) -> None:
    with pytest.raises(QKSpaceError, match="no layer 99"):
        nearest_heads(index, 99, 0)
    with pytest.raises(QKSpaceError, match="no head 99"):
        sequence_scores(index, 0, 99)
    with pytest.raises(QKSpaceError, match="max_tokens 0"):
        head_distances(index, max_tokens=0)
    with pytest.raises(QKSpaceError, match="max_sequences 0"):
        sequence_scores(index, 0, 0, max_sequences=0)
