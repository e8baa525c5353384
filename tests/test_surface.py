"""Tests of what is summed of attention while extracting: planted heads give what theory says, real ones what their maps say."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import MakeCheckpoint
from numpy.typing import NDArray
from test_pairs import corpus, encoder_decoder, made  # noqa: F401 (fixtures)

from qkspace import extract as extract_module
from qkspace import store, units
from qkspace.capture import AttentionCall, _Chunks
from qkspace.classes import MOST_DIFFERENT, MOST_VALUES, TokenClasses, read_classes
from qkspace.extract import Keep, _buffers, _UnitRows, plan_units
from qkspace.feed import Tokens
from qkspace.gather import SUMMED, Gatherer
from qkspace.heads import surface
from qkspace.index import Index
from qkspace.pipeline import build
from qkspace.schema import LayerSpec, QKSpaceError
from qkspace.selfcheck import Check
from qkspace.surface import OFFSETS, REACH
from qkspace.surface_tables import BUILT_IN, SurfaceTables, surface_tables

LENGTHS = (7, 5, 2, 1, 7)  # the longest not in one run, so that padding stands between sequences
WORDS = ("NOUN", "VERB", "DET")


# ---------------------------------------------------------------------------------------------- planted heads


def planted_corpus(lengths: tuple[int, ...] = LENGTHS) -> Tokens:
    """A corpus of sequences between [CLS] and [SEP], whose tokens between them have a class in turn."""
    starts = np.concatenate([[0], np.cumsum(lengths)])
    special = np.concatenate([[i in (0, n - 1) for i in range(n)] for n in lengths]).astype(bool)
    kind = np.where(special, 1, 255).astype(np.uint8)
    kind[np.flatnonzero(~special)[::3]] = 0  # punctuation
    pos = np.where(special, 255, np.arange(starts[-1]) % 3).astype(np.uint8)
    classes = TokenClasses((("kind", ("punctuation", "special")), ("upos", WORDS)), np.stack([kind, pos], axis=1))
    return Tokens(np.zeros(starts[-1], int), special, starts, np.ones(len(lengths), dtype=bool), classes=classes)


def gathered(
    tokens: Tokens,
    heads: list[NDArray[np.float32]],
    *,
    values: list[NDArray[np.float32]] | None = None,
    causal: bool = False,
    window: int | None = None,
    has_sink: bool = False,
    step: int | None = None,
    batches: list[list[int]] | None = None,
) -> tuple[SurfaceTables, dict[str, NDArray[np.float64]]]:
    """Put planted attention through the gathering code and return its tables and the means of SUMMED."""
    n_heads, lengths = len(heads[0]), tokens.lengths
    layer = LayerSpec("planted", n_heads, n_heads, 4, 1.0, causal, window, has_sink=has_sink)
    check = Check.__new__(Check)
    object.__setattr__(check, "layers", (layer,))
    object.__setattr__(check, "positions", (None,))
    keep = Keep(3, "float32")
    (unit,) = plan_units(tokens, (layer,), keep)
    rows = _UnitRows(check, tokens, unit, _buffers((layer,), unit.n_rows, keep))
    gatherer, total = Gatherer((0,)), None
    for batch in batches or [list(range(len(lengths)))]:
        sequences = np.asarray(batch)
        n = int(lengths[sequences].max())
        attention = np.full(
            (len(batch), n_heads, n, n), 1 / n, dtype=np.float32
        )  # what a model makes of padding: anything
        value = np.ones((len(batch), n_heads, n, 4), dtype=np.float32)
        for i, s in enumerate(sequences):
            m = lengths[s]
            attention[i, :, :m] = 0
            attention[i, :, :m, :m] = heads[s]
            if values is not None:
                value[i, :, :m] = values[s]
        whole = torch.from_numpy(attention)
        size = step or n
        chunks = _Chunks(lambda rows, whole=whole: (None, whole[:, :, rows]), n, size)
        allowed = torch.from_numpy(layer.allowed(n))
        inside = torch.from_numpy(np.arange(n)[None] < lengths[sequences][:, None])
        vectors = torch.zeros(len(batch), n_heads, n, 4)
        mask = allowed[None, None] & inside[:, None, None]
        call = AttentionCall(0, "planted", vectors, vectors, torch.from_numpy(value), chunks, mask, 1.0)
        gatherer.begin(rows, sequences, torch.device("cpu"))
        gatherer.see(call)
        found = [gatherer.sums[0], gatherer.surface[0], gatherer.shared.counts]
        total = found if total is None else [a + b for a, b in zip(total, found, strict=True)]
    assert total is not None
    means = dict(zip(SUMMED, total[0].T / int(lengths.sum()), strict=True))
    return surface_tables((layer,), [total[1]], total[2], tokens.classes), means


def shift(n: int, offset: int) -> NDArray[np.float32]:
    """Attention to the one key so far behind the query, none where there is no such key."""
    return np.eye(n, k=offset, dtype=np.float32)


def rows_of(tables: SurfaceTables, head: int = 0) -> pd.DataFrame:
    table = pd.DataFrame(tables.surface)
    return table[table["head"] == head].set_index(["column", "value"])


def test_a_perfect_next_token_head_gives_the_share_of_tokens_that_have_a_next_one() -> None:
    tokens = planted_corpus((6,))
    tables, means = gathered(tokens, [shift(6, 1)[None]])
    row = rows_of(tables).loc[("", "next")]
    assert row["attention"] == pytest.approx(5 / 6, abs=1e-7)
    assert row["attention_by_value"] == pytest.approx(5 / 6, abs=1e-7)
    assert row["share_of_tokens"] == pytest.approx(5 / 6)
    assert means["attention_to_next"][0] == pytest.approx(5 / 6, abs=1e-7)
    assert means["attention_distance"][0] == pytest.approx(5 / 6, abs=1e-7)
    for name in ("previous", "self", "first"):
        assert rows_of(tables).loc[("", name), "attention"] == 0
    several, _ = gathered(planted_corpus(), [shift(n, 1)[None] for n in LENGTHS])
    n, without = sum(LENGTHS), len(LENGTHS)
    assert rows_of(several).loc[("", "next"), "attention"] == pytest.approx((n - without) / n, abs=1e-7)


@pytest.mark.parametrize(("causal", "window"), [(False, None), (True, None), (True, 3), (False, 2)])
def test_a_head_that_attends_to_all_alike_is_what_uniform_says_of_every_class(causal: bool, window: int | None) -> None:
    layer = LayerSpec("planted", 1, 1, 4, 1.0, causal, window)
    heads = []
    for n in LENGTHS:
        allowed = layer.allowed(n).astype(np.float32)
        heads.append((allowed / allowed.sum(axis=1, keepdims=True))[None])
    tables, means = gathered(planted_corpus(), heads, causal=causal, window=window)
    table = rows_of(tables)
    np.testing.assert_allclose(table["attention"], table["uniform"], rtol=1e-6)
    np.testing.assert_allclose(table["attention_by_value"], table["uniform"], rtol=1e-6)  # all values are as long
    np.testing.assert_allclose(tables.profile["attention"], tables.profile["uniform"], rtol=1e-6, atol=1e-9)
    for name in ("sink_share", "entropy_first"):
        np.testing.assert_allclose(tables.heads[name], tables.heads[f"{name}_uniform"], rtol=1e-6, atol=1e-7)
    assert means["entropy"][0] == pytest.approx(means["entropy_uniform"][0], rel=1e-6)


def test_without_a_mask_uniform_is_the_share_of_a_class_in_each_sequence() -> None:
    tokens = planted_corpus()
    tables, _ = gathered(tokens, [shift(n, 0)[None] for n in LENGTHS])
    names, one_hot = tokens.classes.names, tokens.classes.one_hot(np.arange(tokens.starts[-1]))
    owner = np.repeat(np.arange(len(LENGTHS)), LENGTHS)
    for i, name in enumerate(names):
        shares = [one_hot[owner == s, i].mean() for s in range(len(LENGTHS))]
        expected = np.average(shares, weights=LENGTHS)
        assert rows_of(tables).loc[name, "uniform"] == pytest.approx(expected, rel=1e-6)
        assert rows_of(tables).loc[name, "share_of_tokens"] == pytest.approx(one_hot[:, i].mean(), rel=1e-6)
        assert rows_of(tables).loc[name, "attention"] == pytest.approx(one_hot[:, i].mean(), rel=1e-6)  # each to itself
    assert rows_of(tables).loc[("", "first"), "uniform"] == pytest.approx(len(LENGTHS) / sum(LENGTHS), rel=1e-6)


def test_a_head_that_rests_on_cls_has_a_sink_and_no_entropy() -> None:
    heads = [np.eye(n, dtype=np.float32)[[0] * n][None] for n in LENGTHS]
    tables, _ = gathered(planted_corpus(), heads)
    table = rows_of(tables)
    for name in ("special", "first", "special_to_special", "other_to_special"):
        assert table.loc[("", name), "attention"] == pytest.approx(1, abs=1e-6)
        assert table.loc[("", name), "attention_by_value"] == pytest.approx(1, abs=1e-6)
    assert table.loc[("", "punctuation"), "attention"] == 0
    assert tables.heads["sink_share"][0] == pytest.approx(1, abs=1e-6)
    assert tables.heads["entropy_first"][0] == pytest.approx(0, abs=1e-6)
    expected = np.mean([math.log(n) for n in LENGTHS])
    assert tables.heads["entropy_first_uniform"][0] == pytest.approx(expected, rel=1e-6)


def test_a_causal_head_of_previous_tokens() -> None:
    heads = [shift(n, -1) for n in LENGTHS]
    for head in heads:
        head[0, 0] = 1  # the first has itself alone
    tables, means = gathered(planted_corpus(), [head[None] for head in heads], causal=True)
    n, s = sum(LENGTHS), len(LENGTHS)
    table = rows_of(tables)
    assert table.loc[("", "previous"), "attention"] == pytest.approx((n - s) / n, abs=1e-7)
    assert table.loc[("", "self"), "attention"] == pytest.approx(s / n, abs=1e-7)
    assert table.loc[("", "next"), "attention"] == table.loc[("", "next"), "uniform"] == 0
    assert means["attention_to_previous"][0] == pytest.approx((n - s) / n, abs=1e-7)
    profile = pd.DataFrame(tables.profile).set_index("offset")
    assert (profile.loc[1:, ["attention", "uniform"]] == 0).all(axis=None)
    assert profile["attention"].sum() == pytest.approx(1, abs=1e-6)


def test_what_rows_lack_to_one_goes_to_the_sink_of_no_key() -> None:
    heads = [np.eye(n, dtype=np.float32)[[0] * n][None] * 0.25 for n in LENGTHS]
    tables, _ = gathered(planted_corpus(), heads, has_sink=True)
    assert tables.heads["sink_share"][0] == pytest.approx(1, abs=1e-6)
    assert np.sum(tables.profile["attention"]) == pytest.approx(0.25, abs=1e-6)
    assert np.sum(tables.profile["uniform"]) == pytest.approx(1, abs=1e-6)


def drawn(lengths: tuple[int, ...], n_heads: int, *, causal: bool) -> tuple[Any, Any]:
    """Random attention and values, with zeros where a causal mask is."""
    rng = np.random.default_rng(0)
    heads, values = [], []
    for n in lengths:
        weight = rng.gamma(0.5, size=(n_heads, n, n)) * (np.tri(n) if causal else 1)
        heads.append((weight / weight.sum(axis=2, keepdims=True)).astype(np.float32))
        values.append(rng.normal(size=(n_heads, n, 4)).astype(np.float32))
    return heads, values


def literal(
    heads: list[NDArray[Any]],
    norms: list[NDArray[Any]],
    special: list[NDArray[np.bool_]],
    members: list[dict[tuple[str, str], NDArray[np.bool_]]],
) -> tuple[dict[tuple[str, str], list[float]], NDArray[np.float64], dict[str, float]]:
    """Count everything of one head, sequence by sequence and pair by pair: (query, key) attention, norms of the keys.

    Returns attention and attention by value to each class, the profile, sink_share and entropy_first.
    """
    sums: dict[tuple[str, str], list[float]] = {}
    profile, n_queries, n_special = np.zeros(len(OFFSETS)), 0, 0
    sink, entropy = 0.0, 0.0
    for attention, norm, is_special, classes in zip(heads, norms, special, members, strict=True):
        n = len(attention)
        weighted = attention * norm
        weighted = weighted / weighted.sum(axis=1, keepdims=True)
        sink += attention.sum(axis=0).max()
        first = attention[0][attention[0] > 0]
        entropy -= float((first * np.log(first)).sum())
        query, key = np.indices((n, n))
        wanted = {("", name): key == query + offset for name, offset in (("previous", -1), ("next", 1), ("self", 0))}
        wanted |= {name: chosen[key] for name, chosen in classes.items()}
        wanted |= {("", "special"): is_special[key], ("", "first"): key == 0}
        for name, asking in (("special_to_special", is_special), ("other_to_special", ~is_special)):
            wanted |= {("", name): asking[query] & is_special[key]} if asking.any() else {}
        for name, pairs in wanted.items():
            both = sums.setdefault(name, [0.0, 0.0])
            both[0] += float(attention[pairs].sum())
            both[1] += float(weighted[pairs].sum())
        np.add.at(profile, np.clip(key - query, -REACH, REACH) + REACH, attention)
        n_queries, n_special = n_queries + n, n_special + int(is_special.sum())
    counts = {("", "special_to_special"): n_special, ("", "other_to_special"): n_queries - n_special}
    found = {}
    for name, both in sums.items():
        found[name] = [value / counts.get(name, n_queries) for value in both]
    return found, profile / n_queries, {"sink_share": sink / n_queries, "entropy_first": entropy / len(heads)}


def members_of(tokens: Tokens) -> list[dict[tuple[str, str], NDArray[np.bool_]]]:
    one_hot = tokens.classes.one_hot(np.arange(tokens.starts[-1])) > 0
    found = []
    for first, last in zip(tokens.starts[:-1], tokens.starts[1:], strict=True):
        each = dict(zip(tokens.classes.names, one_hot[first:last].T, strict=True))
        found.append({**each, ("", "punctuation"): each["kind", "punctuation"]})
    return found


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("step", [None, 1, 3, 50])
def test_every_sum_is_the_literal_one_however_rows_and_batches_are_cut(causal: bool, step: int | None) -> None:
    lengths = (90, 3, 75, 1, 150)  # beyond the reach of the profile, and beyond a block
    tokens = planted_corpus(lengths)
    heads, values = drawn(lengths, 2, causal=causal)
    batches = None if step != 50 else [[4], [0, 2], [1, 3]]
    tables, means = gathered(tokens, heads, values=values, causal=causal, step=step, batches=batches)
    special = [tokens.is_special[a:b] for a, b in zip(tokens.starts[:-1], tokens.starts[1:], strict=True)]
    for head in range(2):
        norms = [np.linalg.norm(value[head], axis=1) for value in values]
        chosen = [attention[head].astype(np.float64) for attention in heads]
        found, profile, single = literal(chosen, norms, special, members_of(tokens))
        table = rows_of(tables, head)
        assert set(table.index) == set(found)
        for name, (plain, by_value) in found.items():
            assert table.loc[name, "attention"] == pytest.approx(plain, rel=1e-4, abs=1e-6), name
            assert table.loc[name, "attention_by_value"] == pytest.approx(by_value, rel=1e-4, abs=1e-6), name
        rows = np.asarray(tables.profile["head"]) == head
        np.testing.assert_allclose(tables.profile["attention"][rows], profile, rtol=1e-4, atol=1e-6)
        for name, value in single.items():
            assert tables.heads[name][head] == pytest.approx(value, rel=1e-4, abs=1e-6), name
        distance = sum((a * np.abs(np.subtract.outer(range(len(a)), range(len(a))))).sum() for a in chosen)
        assert means["attention_distance"][head] == pytest.approx(distance / sum(lengths), rel=1e-4)


# ---------------------------------------------------------------------------------------------- real models


def classes_of(index: Index, rows: slice) -> dict[tuple[str, str], NDArray[np.bool_]]:
    """Which tokens of some rows are in each class that the index has a row for, as its table of tokens says."""
    named = surface.read(index).drop_duplicates(["column", "value"])
    tokens, found = index.tokens.iloc[rows], {}
    for column, value in zip(named["column"], named["value"], strict=True):
        if column:
            shown = [str(int(v)) if isinstance(v, float) and v == v else str(v) for v in tokens[column].tolist()]
            found[column, value] = np.asarray(shown) == value
    found["", "punctuation"] = (tokens["kind"] == "punctuation").to_numpy()
    return found


def compare(index: Index, places: list[tuple[int, int]], tolerance: float) -> pd.DataFrame:
    """Check every row of some heads against attention as the stored vectors give it; return the table of classes."""
    table = surface.read(index).set_index(["layer", "head", "column", "value"])
    profiles = surface.read(index, "profile")
    sequences = index.sequences["sequence"].tolist()
    rows = [index.rows(sequence) for sequence in sequences]
    special = [index.tokens["is_special"].to_numpy()[part] for part in rows]
    members = [classes_of(index, part) for part in rows]
    columns = index.head_table().set_index(["layer", "head"])
    for layer, number in places:
        head = index.head(layer, number)
        attention = [head.attention(sequence).astype(np.float64) for sequence in sequences]
        norms = [head.value_norm[part] for part in rows]
        found, profile, single = literal(attention, norms, special, members)
        for name, (plain, by_value) in found.items():
            row = table.loc[(layer, number, *name)]
            assert row["attention"] == pytest.approx(plain, abs=tolerance), name
            assert row["attention_by_value"] == pytest.approx(by_value, abs=tolerance), name
        chosen = (profiles["layer"] == layer) & (profiles["head"] == number)
        np.testing.assert_allclose(profiles.loc[chosen, "attention"], profile, atol=tolerance)
        for name, value in single.items():
            assert columns.loc[(layer, number), name] == pytest.approx(value, abs=5 * tolerance), name
        for name in ("special", "first", "punctuation", "previous", "next", "self"):
            shown = columns.loc[(layer, number)]
            assert shown[f"attention_to_{name}"] == pytest.approx(found["", name][0], abs=tolerance)
            assert shown[f"attention_to_{name}_by_value"] == pytest.approx(found["", name][1], abs=tolerance)
    return table


def test_an_encoder_over_trees(small_index: Index) -> None:
    table = compare(small_index, [(0, 3), (2, 7), (5, 11)], 1e-3)
    assert {"kind", "upos", "deprel"} <= set(table.index.get_level_values("column"))
    assert not {"sent_id", "lemma_id", "head", "corpus"} & set(table.index.get_level_values("column"))
    assert ("upos", "NOUN") in {name[2:] for name in table.index}


def test_a_trained_decoder(tmp_path: Path, stories: Path, sentences: list[str]) -> None:
    text = tmp_path / "plain.txt"
    text.write_text("\n".join(sentences[:6]) + "\n", encoding="utf-8")
    options: dict[str, Any] = {"methods": ["pca"], "dims": [2], "normalise": "none", "storage": "float32", "n_jobs": 1}
    index = build(str(stories), text, out=tmp_path / "index", **options)
    compare(index, [(0, 0), (2, 5), (4, 7)], 1e-4)
    table = index.head_table()
    np.testing.assert_allclose(table["attention_to_next_by_value"], 0, atol=1e-7)
    np.testing.assert_allclose(table["entropy_first"], 0, atol=1e-6)


def test_a_window_beside_grouped_keys(tmp_path: Path, make_checkpoint: MakeCheckpoint, sentences: list[str]) -> None:
    text = tmp_path / "plain.txt"
    text.write_text("\n".join(sentences[:8]) + "\n", encoding="utf-8")
    options: dict[str, Any] = {"methods": ["pca"], "dims": [2], "normalise": "none", "storage": "float32", "n_jobs": 1}
    index = build(str(make_checkpoint("mistral")), text, out=tmp_path / "index", **options)
    compare(index, [(0, 0), (1, 3)], 1e-4)
    profile = surface.read(index, "profile")
    assert (profile.loc[profile["offset"].between(-REACH, -6), ["attention", "uniform"]] == 0).all(axis=None)
    sums = profile.groupby(["layer", "head"])[["attention", "uniform"]].sum()
    np.testing.assert_allclose(sums, 1, atol=1e-5)


def test_patches_of_pictures_have_rows_and_columns_as_classes(pictures_index: Index) -> None:
    table = compare(pictures_index, [(0, 1), (11, 2)], 1e-4)
    assert {"kind", "row", "column"} <= set(table.index.get_level_values("column"))
    rows = table.sort_index().loc[(0, 1, "row")]
    assert rows["uniform"].to_numpy() == pytest.approx(14 / 197, rel=1e-5)
    assert rows["share_of_tokens"].to_numpy() == pytest.approx(14 / 197, rel=1e-5)


def test_attention_across_has_classes_of_the_source_and_no_neighbours(made: Any) -> None:  # noqa: F811
    index = made("bart", "cross")
    table = surface.read(index).set_index(["layer", "head", "column", "value"])
    profile = surface.read(index, "profile")
    assert profile["attention"].isna().all()
    for layer, number in ((0, 1), (1, 3)):
        head, sums, n_queries, sink = index.head(layer, number), {}, 0, 0.0
        for place, sequence in enumerate(index.sequences["sequence"]):
            rows, n = index.rows(sequence), index.n_source(place)
            attention = head.attention(sequence)[n:, :n].astype(np.float64)
            weighted = attention * head.value_norm[rows][:n]
            weighted /= weighted.sum(axis=1, keepdims=True)
            special = index.tokens["is_special"].to_numpy()[rows][:n]
            wanted = {("", "special"): special, ("", "first"): np.arange(n) == 0}
            wanted |= {name: chosen[:n] for name, chosen in classes_of(index, rows).items()}
            for name, chosen in wanted.items():
                both = sums.setdefault(name, np.zeros(3))
                equal = chosen.mean() * len(attention)
                both += [attention[:, chosen].sum(), weighted[:, chosen].sum(), equal]
            n_queries, sink = n_queries + len(attention), sink + attention.sum(axis=0).max()
        for name, values in sums.items():
            row = table.loc[(layer, number, *name), ["attention", "attention_by_value", "uniform"]].to_numpy(
                dtype=float
            )
            np.testing.assert_allclose(row, values / n_queries, atol=1e-4, err_msg=str(name))
        shown = index.head_table().set_index(["layer", "head"]).loc[(layer, number)]
        assert shown["sink_share"] == pytest.approx(sink / n_queries, abs=1e-4)
    beside = table.loc[(slice(None), slice(None), "", ["previous", "next", "self"]), ["attention", "share_of_tokens"]]
    assert beside.isna().all(axis=None)


# ---------------------------------------------------------------------------------------------- files


OPTIONS: dict[str, Any] = {"methods": ["pca"], "dims": [2], "normalise": "none", "n_jobs": 1, "storage": "float32"}
TABLES = ("heads", "surface", "profile")


def test_a_build_that_was_killed_goes_on_to_the_same_tables(
    tmp_path: Path, make_checkpoint: MakeCheckpoint, sentences: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    text, model = tmp_path / "plain.txt", str(make_checkpoint("bert"))
    text.write_text("\n".join(sentences[:20]) + "\n", encoding="utf-8")
    monkeypatch.setattr(extract_module, "UNIT_TOKENS", 100)
    whole = build(model, text, out=tmp_path / "whole", **OPTIONS)
    finish, done = units.UnitFiles.finish, []

    def killed(self: Any, unit: Any, result: Any) -> None:
        if len(done) == 2:
            raise KeyboardInterrupt
        done.append(unit)
        finish(self, unit, result)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(units.UnitFiles, "finish", killed)
        build(model, text, out=tmp_path / "killed", **OPTIONS)
    again: list[Any] = []

    def counted(self: Any, unit: Any, result: Any) -> None:
        again.append(unit)
        finish(self, unit, result)

    monkeypatch.setattr(units.UnitFiles, "finish", counted)
    resumed = build(model, text, out=tmp_path / "killed", **OPTIONS)
    assert {unit.number for unit in again}.isdisjoint({unit.number for unit in done})
    for name in TABLES:
        pd.testing.assert_frame_equal(resumed.table(name), whole.table(name), check_exact=True)


def test_the_tables_run_over_all_that_is_read(
    tmp_path: Path, make_checkpoint: MakeCheckpoint, sentences: list[str]
) -> None:
    text, model = tmp_path / "plain.txt", str(make_checkpoint("llama"))
    text.write_text("\n".join(sentences[:20]) + "\n", encoding="utf-8")
    whole = build(model, text, out=tmp_path / "whole", **OPTIONS)
    part = build(model, text, out=tmp_path / "part", max_tokens=100, **OPTIONS)
    assert part.n_tokens <= 100 < whole.n_tokens
    for name in TABLES:
        pd.testing.assert_frame_equal(part.table(name), whole.table(name), check_exact=True)


def test_the_tables_are_listed_and_an_index_without_them_opens_and_says_what_to_do(
    tmp_path: Path, decoder_index: Index
) -> None:
    assert {f"{name}.parquet" for name in TABLES} <= set(decoder_index.manifest["files"])
    assert surface.is_there(decoder_index)
    table = surface.read(decoder_index)
    n_heads = decoder_index.n_layers * decoder_index.n_heads
    assert (table.groupby(["column", "value"]).size() == n_heads).all()
    assert table.loc[table["column"] == "", "value"].tolist()[: len(BUILT_IN)] == list(BUILT_IN)
    old = tmp_path / "old"
    old.mkdir()
    for path in decoder_index.root.iterdir():
        if path.name not in ("surface.parquet", "profile.parquet", "manifest.json"):
            (old / path.name).symlink_to(path)
    manifest = dict(decoder_index.manifest)
    manifest["files"] = {k: v for k, v in manifest["files"].items() if k not in ("surface.parquet", "profile.parquet")}
    store.write_json(old / "manifest.json", manifest)
    index = Index(old)
    assert len(index.head_table()) == n_heads
    assert not surface.is_there(index)
    with pytest.raises(QKSpaceError, match=r"built before.*Build it again with --overwrite"):
        surface.read(index)
    with pytest.raises(QKSpaceError, match="choose one of surface, profile"):
        surface.read(decoder_index, "heads")


def test_classes_are_few_values_of_words_and_the_commonest_of_many(tmp_path: Path) -> None:
    n = 2 * (MOST_DIFFERENT + 1)
    many = [f"v{i % (MOST_VALUES + 6)}" for i in range(n)]
    first = {
        "sequence": np.zeros(n, dtype=np.int32),
        "kind": ["word"] * (n - 1) + ["special"],
        "tag": many,
        "lemma": [f"l{i}" for i in range(n)],
        "genre": ["news"] * n,
        "head": np.arange(n) % 3,
        "is_name": [i % 2 == 0 for i in range(n)],
    }
    store.write_table(tmp_path / "tokens-000000.parquet", first)
    second = {"sequence": np.ones(2, dtype=np.int32), "kind": ["word", "word"], "tag": [None, "v3"]}
    store.write_table(tmp_path / "tokens-000001.parquet", second)
    store.write_table(tmp_path / "sequences-000000.parquet", {"sequence": [0, 1], "genre": ["news", "news"]})
    classes = read_classes(tmp_path, n + 2)
    values = dict(classes.columns)
    assert set(values) == {"kind", "tag", "is_name"}
    assert values["kind"] == ("word", "special")
    assert len(values["tag"]) == MOST_VALUES
    counts = pd.Series([*many, "v3"]).value_counts()
    assert min(counts[value] for value in values["tag"]) >= max(counts.drop(list(values["tag"])))
    one_hot = classes.one_hot(np.arange(n + 2))
    column = classes.names.index(("tag", "v3"))
    assert np.flatnonzero(one_hot[:, column]).tolist() == [*(i for i, value in enumerate(many) if value == "v3"), n + 1]
    assert one_hot[n].tolist() == [float(name == ("kind", "word")) for name in classes.names]  # null is no value
    assert one_hot[0, classes.names.index(("is_name", "true"))] == 1
    again = read_classes(tmp_path, n + 2)  # of what was written
    assert again.columns == classes.columns
    np.testing.assert_array_equal(again.codes, classes.codes)
