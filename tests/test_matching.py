"""Tests of `qkspace.comparison.matching`: heads shuffled, layers removed, another model; against scipy and literal loops."""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import MakeCheckpoint
from numpy.typing import NDArray
from scipy.spatial.distance import jensenshannon

from qkspace import behaviour, store
from qkspace.behaviour import head_distances
from qkspace.comparison import matching
from qkspace.comparison.matching import Matching, match_heads, same_shape
from qkspace.comparison.units import common_units
from qkspace.index import Index
from qkspace.pipeline import build
from qkspace.pooling import pool
from qkspace.schema import QKSpaceError

Make = Callable[..., Index]


@pytest.fixture(scope="module")
def make(tmp_path_factory: pytest.TempPathFactory, sentences: list[str]) -> Make:
    """Build an index of a checkpoint over thirty sentences, or over the texts that are given."""

    def built(model: Path, lines: list[str] | None = None) -> Index:
        folder = tmp_path_factory.mktemp("matching")
        corpus = folder / "plain.txt"
        corpus.write_text("\n".join(lines or sentences[:30]) + "\n", encoding="utf-8")
        options: dict[str, Any] = {
            "methods": ["pca"],
            "dims": [2],
            "normalise": "none",
            "storage": "float32",
            "n_jobs": 1,
        }
        return build(str(model), corpus, out=folder / "index", **options)

    return built


@pytest.fixture(scope="module")
def bert(make: Make, make_checkpoint: MakeCheckpoint) -> Index:
    return make(make_checkpoint("bert"))


@pytest.fixture(scope="module")
def gpt2(make: Make, make_checkpoint: MakeCheckpoint) -> Index:
    return make(make_checkpoint("gpt2"))


@pytest.fixture(scope="module")
def across(small_index: Index, make_checkpoint: MakeCheckpoint, small_corpus: tuple[Path, Path], tmp_path_factory: Any):  # noqa: ANN201
    """MiniLM and a tiny BERT with a tokenizer of its own, over the same corpus, and their words."""
    out = tmp_path_factory.mktemp("across") / "index"
    tiny = build(
        str(make_checkpoint("bert")), list(small_corpus), out=out, methods=["pca"], dims=[2], normalise="none", n_jobs=1
    )
    return small_index, tiny, common_units(small_index, tiny)


def shuffled(checkpoint: Path, folder: Path, orders: list[list[int]]) -> Path:
    """Save a BERT whose head h of layer l is head orders[l][h] of another: it computes the same."""
    import torch
    from transformers import AutoModel

    shutil.copytree(checkpoint, folder)
    model = AutoModel.from_pretrained(folder)
    with torch.no_grad():
        for layer, order in zip(model.encoder.layer, orders, strict=True):
            width = layer.attention.self.attention_head_size
            rows = torch.tensor([h * width + i for h in order for i in range(width)])
            for linear in (layer.attention.self.query, layer.attention.self.key, layer.attention.self.value):
                linear.weight.copy_(linear.weight[rows].clone())
                linear.bias.copy_(linear.bias[rows].clone())
            out = layer.attention.output.dense
            out.weight.copy_(out.weight[:, rows].clone())
    model.save_pretrained(folder)
    return folder


def shortened(checkpoint: Path, folder: Path) -> Path:
    """Save a BERT without its last layer."""
    from transformers import AutoModel

    shutil.copytree(checkpoint, folder)
    model = AutoModel.from_pretrained(folder)
    model.encoder.layer = model.encoder.layer[:-1]
    model.config.num_hidden_layers -= 1
    model.save_pretrained(folder)
    return folder


def copied(index: Index, root: Path) -> Index:
    shutil.copytree(index.root, root)
    return Index(root)


def literal_distance(base: Index, tuned: Index, pair: tuple[tuple[int, int], tuple[int, int]]) -> float:
    """Return the mean divergence of two heads over all queries with a choice, one by one."""
    units, total, count = common_units(base, tuned), 0.0, 0
    for place in range(units.n_sequences):
        one = units.sequence(place)
        rows = []
        for index, head, start, unit in (
            (base, pair[0], one.base_rows.start, one.base_unit),
            (tuned, pair[1], one.tuned_rows.start, one.tuned_unit),
        ):
            attention = index.head(*head).attention(int(index.tokens["sequence"].iloc[start])).astype(np.float64)
            rows.append(pool(attention[None], unit, unit, one.n_units)[0])
        choice = ((rows[0] > 0) | (rows[1] > 0)).sum(axis=1) > 1
        total += sum(jensenshannon(p, q) ** 2 for p, q in zip(rows[0][choice], rows[1][choice], strict=True))
        count += int(choice.sum())
    return total / count


def check(found: Matching, base: Index, tuned: Index) -> None:
    """Check what must hold of all matchings."""
    n_base, n_tuned = (sum(layer.n_heads for layer in index.layers) for index in (base, tuned))
    assert found.base.tolist() == base.head_table()[["layer", "head"]].to_numpy().tolist()
    assert found.distance.shape == (n_base, n_tuned)
    assert found.distance.dtype == np.float32
    assert (found.distance >= 0).all()
    assert (found.distance <= np.float32(math.log(2))).all()
    places = tuned.head_table()[["layer", "head"]].to_numpy().tolist()
    to = [places.index(head) for head in found.tuned.tolist()]
    np.testing.assert_array_equal(found.cost, found.distance[np.arange(n_base), to])
    assert found.is_shared.sum() == max(n_base - n_tuned, 0)
    assert len(set(np.array(to)[~found.is_shared])) == min(n_base, n_tuned)
    np.testing.assert_array_equal(found.cost[found.is_shared], found.distance[found.is_shared].min(axis=1))


# ---------------------------------------------------------------------------------------------- distances


@pytest.mark.parametrize("name", ["bert", "gpt2"])
def test_an_index_and_itself_match_head_for_head_and_cost_nothing(
    name: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    index: Index = request.getfixturevalue(name)
    same = copied(index, tmp_path / "copy")
    found = match_heads(index, same, common_units(index, same))
    check(found, index, same)
    np.testing.assert_array_equal(found.cost, 0)
    np.testing.assert_array_equal(found.tuned, found.base)
    np.testing.assert_allclose(found.distance, head_distances(index), atol=1e-6)
    assert found.n_queries == min(2_000, index.n_tokens - index.layers[0].causal * len(index.sequences))
    assert found.distance[found.distance > 0].min() > 1e-4


def test_distances_in_words_are_scipys_over_pooled_attention(bert: Index, gpt2: Index) -> None:
    """An encoder and a decoder with another tokenizer."""
    units = common_units(bert, gpt2)
    assert units.kind == "word"
    found = match_heads(bert, gpt2, units, max_queries=100_000)
    check(found, bert, gpt2)
    for head, other in (((0, 0), (0, 0)), ((1, 2), (0, 3)), ((1, 3), (1, 1))):
        expected = literal_distance(bert, gpt2, (head, other))
        assert found.distance[4 * head[0] + head[1], 4 * other[0] + other[1]] == pytest.approx(expected, abs=3e-6)
        assert expected > 0.01


def test_blocks_and_parts_change_nothing(bert: Index, gpt2: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = match_heads(bert, gpt2, common_units(bert, gpt2))
    monkeypatch.setattr(behaviour, "BLOCK_PAIRS", 640)
    monkeypatch.setattr(matching, "HELD", 3_000)
    part = match_heads(bert, gpt2, common_units(bert, gpt2))
    np.testing.assert_allclose(part.distance, whole.distance, atol=1e-6)
    assert part.n_queries == whole.n_queries


def test_a_sample_is_drawn_by_seed_and_comes_near_the_whole(
    bert: Index, gpt2: Index, monkeypatch: pytest.MonkeyPatch
) -> None:
    units = common_units(bert, gpt2)
    whole = match_heads(bert, gpt2, units, max_queries=100_000)
    one, again, other = (match_heads(bert, gpt2, units, max_queries=120, seed=seed) for seed in (3, 3, 4))
    assert one.n_queries == 120 < whole.n_queries == len(units.table)
    np.testing.assert_array_equal(one.distance, again.distance)
    assert not np.array_equal(one.distance, other.distance)
    assert np.abs(one.distance - whole.distance).mean() < 0.03
    monkeypatch.setattr(behaviour, "MAX_MIXTURES", 8 * 8 * 15 * 40)
    assert 5 < match_heads(bert, gpt2, units).n_queries < 80


# ---------------------------------------------------------------------------------------------- who is matched


def test_shuffled_heads_are_found_again(
    bert: Index, make: Make, make_checkpoint: MakeCheckpoint, tmp_path: Path
) -> None:
    orders = [[2, 0, 3, 1], [3, 2, 0, 1]]
    tuned = make(shuffled(make_checkpoint("bert"), tmp_path / "shuffled", orders))
    units = common_units(bert, tuned)
    assert units.kind == "token"
    found = match_heads(bert, tuned, units)
    check(found, bert, tuned)
    assert found.tuned.tolist() == [[layer, order.index(h)] for layer, order in enumerate(orders) for h in range(4)]
    assert found.cost.max() < 1e-5
    assert not found.is_shared.any()
    assert same_shape(bert, tuned)


def test_a_model_without_its_last_layer_matches_in_the_layers_it_has(
    bert: Index, make: Make, make_checkpoint: MakeCheckpoint, tmp_path: Path
) -> None:
    short = make(shortened(make_checkpoint("bert"), tmp_path / "short"))
    assert not same_shape(bert, short)
    found = match_heads(bert, short, common_units(bert, short))
    check(found, bert, short)
    assert found.tuned[:4].tolist() == found.base[:4].tolist()
    assert found.cost[:4].max() < 1e-5
    assert found.is_shared.tolist() == [False] * 4 + [True] * 4
    assert found.cost[4:].min() > 1e-3
    back = match_heads(short, bert, common_units(short, bert))
    check(back, short, bert)
    assert back.tuned.tolist() == back.base.tolist()
    np.testing.assert_allclose(back.distance, found.distance.T, atol=1e-6)


def test_minilm_and_a_tiny_bert_are_matched_in_words(across: Any) -> None:
    base, tuned, units = across
    assert units.kind == "word"
    assert not same_shape(base, tuned)
    found = match_heads(base, tuned, units)
    check(found, base, tuned)
    assert (found.base[found.is_shared] != 0).any()
    assert found.is_shared.sum() == 72 - 8
    back = match_heads(tuned, base, units_reversed := common_units(tuned, base))
    check(back, tuned, base)
    assert len(units_reversed.table) == len(units.table)
    pairs = {(*a, *b) for a, b in zip(found.base.tolist(), found.tuned.tolist(), strict=True)}
    assert {(*b, *a) for a, b in zip(back.base.tolist(), back.tuned.tolist(), strict=True)} <= pairs


def test_the_whole_is_considered_and_not_each_head_alone(bert: Index, tmp_path: Path) -> None:
    """Two heads of the tuned model made alike: each head of the base still gets one of its own."""
    twins = copied(bert, tmp_path / "twins")
    query, key = (np.array(store.read_array(twins.root / name / "L00.npy")) for name in ("query", "key"))
    query[1], key[1] = query[0], key[0]
    store.write_array(twins.root / "query" / "L00.npy", query)
    store.write_array(twins.root / "key" / "L00.npy", key)
    found = match_heads(bert, twins, common_units(bert, twins))
    check(found, bert, twins)
    assert set(map(tuple, found.tuned[:2].tolist())) == {(0, 0), (0, 1)}
    np.testing.assert_array_equal(found.distance[:, 0], found.distance[:, 1])
    nearest = found.distance.argmin(axis=1)
    assert len(set(nearest)) < 8  # so that the nearest of each would not do
    others = [h for h in range(8) if h != 1]
    np.testing.assert_array_equal(found.cost[2:], 0)
    assert np.diag(found.distance)[others].max() == 0


def test_a_head_that_cannot_be_measured_is_given_away_last(bert: Index, tmp_path: Path) -> None:
    broken = copied(bert, tmp_path / "broken")
    query: NDArray[np.float32] = np.array(store.read_array(broken.root / "query" / "L01.npy"))
    query[2] = np.nan
    store.write_array(broken.root / "query" / "L01.npy", query)
    found = match_heads(bert, broken, common_units(bert, broken))
    assert found.tuned.tolist() == found.base.tolist()
    assert np.isnan(found.cost).tolist() == [h == 6 for h in range(8)]
    assert np.isnan(found.distance[:, 6]).all()


# ---------------------------------------------------------------------------------------------- refusals


def test_wrong_arguments_and_corpora_without_a_choice_are_refused(
    bert: Index, make: Make, make_checkpoint: MakeCheckpoint
) -> None:
    with pytest.raises(QKSpaceError, match="max_queries 0"):
        match_heads(bert, bert, common_units(bert, bert), max_queries=0)
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(make_checkpoint("bert"))
    word = next(w for w in tokenizer.get_vocab() if w.isalpha() and len(w) > 3)
    alone = make(make_checkpoint("bert"), [word])
    units = common_units(alone, alone)
    assert match_heads(alone, alone, units).n_queries == 3  # [CLS], the word and [SEP] have a choice
    lone = copied_without_choice(alone)
    with pytest.raises(QKSpaceError, match="choice of keys"):
        match_heads(lone, lone, common_units(lone, lone))


def copied_without_choice(index: Index) -> Index:
    """Return an index whose layers see no token but the query's own."""
    root = index.root.parent / "lone"
    shutil.copytree(index.root, root)
    manifest = store.read_json(root / store.MANIFEST)
    for layer in manifest["layers"]:
        layer["window"] = 1
    store.write_json(root / store.MANIFEST, manifest)
    return Index(root)
