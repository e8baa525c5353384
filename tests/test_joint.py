"""Tests of joint maps: every head in one space, by one gauge that keeps the attention of each and one projection."""

from __future__ import annotations

import itertools
import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import MakeCheckpoint
from killing import KILLED, Driver, assert_same_index, listing

from qkspace import report, store, unfold
from qkspace.cli import main
from qkspace.extend import project
from qkspace.index import Head, Index
from qkspace.maps import MOST_JOINT_TOKENS, SampleRows, Wanted, pool, refuse_unlike, shares
from qkspace.pipeline import build
from qkspace.plan import Parameters
from qkspace.position import attend
from qkspace.schema import LayerSpec, QKSpaceError

Make = Callable[..., Path]
FOUR_HEADS = {"num_attention_heads": 2, "num_key_value_heads": 1}  # two in each of two layers
STEPS = 60  # of a joint unfold: what heads share is the same however good it is
LAYER = LayerSpec("planted", n_heads=2, n_kv_heads=1, d_head=8, scale=0.5, causal=True)


@pytest.fixture(scope="module", autouse=True)
def few_steps() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(unfold, "JOINT_STEPS", STEPS)
        yield


@pytest.fixture(scope="module")
def make_index(tmp_path_factory: pytest.TempPathFactory, make_checkpoint: MakeCheckpoint, sentences: list[str]) -> Make:
    """Build an index of a tiny Llama of two layers, its four heads of queries reading two of keys."""
    folder = tmp_path_factory.mktemp("joint")
    corpus = folder / "corpus.txt"
    corpus.write_text("\n".join(sentences[:16]) + "\n", encoding="utf-8")

    def make(name: str, *, family: str = "llama", model: dict[str, Any] | None = None, **options: Any) -> Path:
        checkpoint = str(make_checkpoint(family, **(model or {})))
        given = {"methods": ["pca"], "dims": [2], "n_jobs": 1, "seed": 5, **options}
        return build(checkpoint, corpus, out=folder / name, **given).root

    return make


@pytest.fixture(scope="module")
def base(make_index: Make) -> Path:
    """An index with one map a head. Only to be read."""
    return make_index("base")


@pytest.fixture(scope="module")
def expected(make_index: Make) -> Path:
    """A build with joint maps from the first. Only to be read."""
    return make_index("expected", joint=True)


@pytest.fixture
def root(base: Path, tmp_path: Path) -> Path:
    return shutil.copytree(base, tmp_path / "index")


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Driver:
    return Driver(tmp_path_factory.mktemp("driver"))


def heads(index: Index) -> list[Head]:
    return [index.head(i, head) for i, layer in enumerate(index.layers) for head in range(layer.n_heads)]


def command(root: Path, *more: str) -> list[str]:
    return ["project", str(root), "--joint", "--methods", "pca", "--dims", "2", "--n-jobs", "1", *more]


# ---------------------------------------------------------------------------------------------- one space


@pytest.mark.parametrize("method", ["pca", "unfold", "tsne"])
def test_a_vector_lies_at_one_place_whatever_head_it_is_placed_through(method: str, root: Path) -> None:
    index = project(root, (method,), dims=(2,), joint=True, n_jobs=1)
    assert index.maps == (("pca", 2), (f"joint-{method}", 2))
    query, key = index.head(1, 2).query, index.head(1, 2).key
    views = [head.projection(f"joint-{method}") for head in heads(index)]
    for view in views:
        places = view.transform(query, key)
        np.testing.assert_array_equal(places.query, views[0].transform(query).query)
        np.testing.assert_array_equal(places.key, views[0].transform(key=key).key)
        stored = view.transform(view.head.query, view.head.key)
        np.testing.assert_allclose(stored.query, view.query, atol=1e-3 * np.ptp(view.query))
        np.testing.assert_allclose(stored.key, view.key, atol=1e-3 * np.ptp(view.key))


def test_heads_that_are_copies_of_each_other_have_the_same_places(root: Path) -> None:
    """L0H1 becomes a copy of L0H0, with whose keys it reads, and L1H3 one of L0H0 with other files and keys of its own."""
    for name, copies in (("query", ((0, 1), (1, 3))), ("key", ((1, 1),))):
        arrays = [np.load(root / name / f"L{i:02d}.npy") for i in range(2)]
        for layer, head in copies:
            arrays[layer][head] = arrays[0][0]
        for i, array in enumerate(arrays):
            np.save(root / name / f"L{i:02d}.npy", array)
    index = project(root, ("pca", "unfold"), dims=(2,), joint=True, n_jobs=1)
    for method in ("joint-pca", "joint-unfold"):
        first, second, third, other = (index.head(*p).projection(method) for p in ((0, 0), (0, 1), (1, 3), (1, 0)))
        for copy in (second, third):
            np.testing.assert_array_equal(copy.query, first.query)
            np.testing.assert_array_equal(copy.key, first.key)
            assert copy.scores == first.scores
        assert not np.allclose(other.query, first.query)


@pytest.mark.parametrize("normalise", ["auto", "none", "sphere", "balanced"])
@pytest.mark.parametrize("storage", ["float16", "float32"])
def test_attention_before_the_joint_gauge_is_that_after_it_for_every_head(
    storage: str, normalise: str, make_index: Make
) -> None:
    root = make_index(f"{storage} {normalise}", methods=["joint-pca"], storage=storage, normalise=normalise)
    index = Index(root)
    assert index.layers[0].n_kv_heads < index.layers[0].n_heads
    for head in heads(index):
        query, key = head.projection("joint-pca").gauge.apply(head.query, head.key)
        for sequence in index.sequences["sequence"][:6]:
            rows = index.rows(sequence)
            after = attend(query[rows], key[rows], head.spec)
            np.testing.assert_allclose(after, head.attention(sequence), atol=1e-4, rtol=0)


def test_a_joint_map_is_as_good_as_pca_of_the_head_where_there_is_one_head(make_index: Make) -> None:
    """With one head nothing is shared: the sample is the head's own, but for the order of its sequences."""
    one = {"num_hidden_layers": 1, "num_attention_heads": 1, "num_key_value_heads": 1}
    head = Index(make_index("one head", model=one, joint=True)).head(0, 0)
    own, joint = (head.projection(method) for method in ("pca", "joint-pca"))
    assert joint.gauge.matrix_name == own.gauge.matrix_name
    for side in ("query", "key"):
        ours, theirs = (getattr(view, side) for view in (own, joint))
        np.testing.assert_allclose(theirs, ours, atol=1e-3 * np.ptp(ours))


# ---------------------------------------------------------------------------------------------- the sample


@pytest.mark.parametrize("n_heads", [1, 3, 7, 40, 300])
@pytest.mark.parametrize("n_sequences", [1, 7, 40, 400])
def test_sequences_are_dealt_out_evenly_and_none_twice_to_one_head(n_heads: int, n_sequences: int) -> None:
    lengths = np.random.default_rng(0).integers(3, 30, n_sequences)
    dealt = shares(lengths, n_heads, seed=1)
    sizes = {len(sequences) for sequences in dealt}
    assert len(dealt) == n_heads and len(sizes) == 1
    assert all(len(np.unique(sequences)) == len(sequences) > 0 for sequences in dealt)
    counts = np.bincount(np.concatenate(dealt), minlength=n_sequences)
    assert counts.max() - counts.min() <= 1
    assert lengths[np.concatenate(dealt)].sum() <= MOST_JOINT_TOKENS
    again = shares(lengths, n_heads, seed=1)
    assert all(np.array_equal(a, b) for a, b in zip(dealt, again, strict=True))


def test_the_pooled_sample_is_bounded_where_sequences_are_long_and_heads_are_many() -> None:
    lengths = np.full(6, 1_000)
    dealt = shares(lengths, 1_000, seed=0)
    assert lengths[np.concatenate(dealt)].sum() == MOST_JOINT_TOKENS
    assert sorted(map(len, shares(np.array([90_000]), 4, seed=0))) == [0, 0, 0, 1]  # never nothing


def test_the_pooled_sample_holds_whole_sequences_of_each_head_in_turn() -> None:
    rng = np.random.default_rng(0)
    rows = SampleRows.of(np.array([10, 40, 70]), np.array([4, 2, 3]), np.zeros(9, dtype=bool))
    takes = [rows.take(np.array(chosen, dtype=np.int64)) for chosen in ([2, 0], [1], [])]
    assert takes[0].rows.tolist() == [70, 71, 72, 10, 11, 12, 13]
    assert takes[0].starts.tolist() == [0, 3, 7]
    samples = [take.sample(*rng.normal(size=(2, len(take.rows), 8)), LAYER) for take in takes]
    pooled = pool(samples)
    assert pooled.starts.tolist() == [0, 3, 5, 9]
    np.testing.assert_array_equal(pooled.query[:3], samples[0].query[:3])
    np.testing.assert_array_equal(pooled.key[3:5], samples[1].key)
    np.testing.assert_array_equal(pooled.query[5:], samples[0].query[3:])
    assert np.flatnonzero(~pooled.is_content).tolist() == [0, 3, 5]  # a decoder's first tokens


# ---------------------------------------------------------------------------------------------- refused


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"d_head": 16}, "layer 1 has d_head 16 and not 8"),
        ({"scale": 0.25}, "layer 1 has scale 0.25 and not 0.5"),
        ({"causal": False}, "layer 1 has causal False and not True"),
        ({"window": 6}, "layer 1 has window 6 and not None"),
    ],
)
def test_layers_that_attend_unlike_each_other_are_refused_by_what_differs(change: dict[str, Any], said: str) -> None:
    layers = [LAYER, replace(LAYER, module="other", n_heads=4, **change)]
    refuse_unlike(layers, Wanted((("pca", 2), ("unfold", 2)), "auto", 0), 20)  # each head for itself: no matter
    with pytest.raises(QKSpaceError, match=rf"joint-pca needs layers that attend alike.*{said}.*Leave the joint"):
        refuse_unlike(layers, Wanted((("pca", 2), ("joint-pca", 2)), "auto", 0), 20)


def test_windows_that_no_sequence_fills_are_alike() -> None:
    layers = [replace(LAYER, window=20), LAYER, replace(LAYER, window=64)]
    refuse_unlike(layers, Wanted((("joint-pca", 2),), "auto", 0), 20)
    with pytest.raises(QKSpaceError, match="layer 1 has window None and not 20"):
        refuse_unlike(layers, Wanted((("joint-pca", 2),), "auto", 0), 21)


def test_an_index_whose_layers_differ_is_refused_and_left_as_it_was(root: Path) -> None:
    manifest = store.read_manifest(root)
    manifest["layers"][1]["scale"] *= 2
    store.write_json(root / store.MANIFEST, manifest)
    before = listing(root)
    with pytest.raises(QKSpaceError, match="layer 1 has scale"):
        project(root, ("pca",), dims=(2,), joint=True, n_jobs=1)
    assert listing(root) == before


def test_what_has_no_joint_form_is_refused_with_the_choices(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = listing(root)
    with pytest.raises(
        QKSpaceError, match=r"'attentionviz-pca' has no joint form; --joint takes unfold, pca, tsne, umap"
    ):
        project(root, ("attentionviz-pca",), joint=True)
    with pytest.raises(QKSpaceError, match=r"cannot be normalised by 'attentionviz'.*auto, none, sphere"):
        project(root, ("joint-pca",), normalise="attentionviz")
    with pytest.raises(QKSpaceError, match="'attentionviz-pca' has no joint form"):
        Parameters(methods=("attentionviz-pca",), joint=True)
    assert main(command(root, "--normalise", "attentionviz")) == 1
    assert "cannot be normalised by 'attentionviz'" in " ".join(capsys.readouterr().err.split())
    assert listing(root) == before


def test_joint_is_besides_the_maps_of_a_build_and_each_map_is_made_once() -> None:
    both = [("unfold", 2), ("pca", 2), ("joint-unfold", 2), ("joint-pca", 2)]
    assert Parameters(methods=("unfold", "pca"), dims=(2,), joint=True).maps == both
    assert Parameters(methods=("pca", "joint-pca"), dims=(2,), joint=True).maps == [both[1], both[3]]
    assert Parameters(methods=("joint-pca",), dims=(2,)).maps == [both[3]]


# ---------------------------------------------------------------------------------------------- in the index


def test_a_build_and_an_addition_make_the_same_joint_map(root: Path, expected: Path) -> None:
    project(root, ("pca",), dims=(2,), joint=True, n_jobs=2)
    assert listing(root / "maps") == listing(expected / "maps")
    ours, theirs = (store.read_manifest(folder) for folder in (root, expected))
    assert (ours["maps"], ours["files"]) == (theirs["maps"], theirs["files"])
    assert "maps/joint-pca2/common.npz" in ours["files"]
    assert theirs["made_from"]["methods"] == ["pca", "joint-pca"]
    assert store.verify(root) == store.verify(expected) == []


def test_a_head_keeps_no_copy_of_what_all_heads_share(expected: Path) -> None:
    index = Index(expected)
    for head in heads(index):
        own = store.read_arrays(index.map_path("joint-pca", 2, head.layer, head.head, "npz"))
        assert own and all(name.startswith("scores.") for name in own)


def test_scores_are_in_the_report(expected: Path, capsys: pytest.CaptureFixture[str]) -> None:
    index = Index(expected)
    table = index.head_table()
    for row, head in enumerate(heads(index)):
        scores = head.projection("joint-pca").scores
        assert scores is not None and 0 <= scores.recall1 <= 1
        assert table["joint-pca2_recall1"][row] == scores.recall1
    assert len(report.score_rows(index, "joint-pca", 2)[1]) == 8 + 1  # and the mean
    assert main(["report", str(expected), "--json"]) == 0
    said = json.loads(capsys.readouterr().out)["heads"]
    assert [head["joint-pca2_attention_kl"] for head in said] == table["joint-pca2_attention_kl"].tolist()


def spoil(root: Path, chosen: list[tuple[int, int]]) -> None:
    """Put nan into a query of these heads, in every sequence."""
    starts = Index(root).row_starts[:-1]
    for layer, head in chosen:
        query = np.load(root / "query" / f"L{layer:02d}.npy")
        query[head, starts] = np.nan
        np.save(root / "query" / f"L{layer:02d}.npy", query)


def test_a_head_that_cannot_be_mapped_says_why_and_leaves_the_others_their_space(root: Path) -> None:
    spoil(root, [(0, 2)])
    index = project(root, ("pca",), dims=(2,), joint=True, n_jobs=1)
    for head in heads(index):
        view = head.projection("joint-pca")
        is_spoilt = head.name == "L0H2"
        assert np.isnan(view.query).all() == is_spoilt
        assert ("nan or infinity" in (view.reason or "")) == is_spoilt
    with pytest.raises(QKSpaceError, match="L0H2 has no joint-pca map in 2-D"):
        index.head(0, 2).projection("joint-pca").transform(index.head(0, 0).query)


def test_an_index_of_which_no_head_can_be_mapped_is_finished_nonetheless(root: Path) -> None:
    spoil(root, [(layer, head) for layer in range(2) for head in range(4)])
    index = project(root, ("pca",), dims=(2,), joint=True, n_jobs=1)
    assert all(head.projection("joint-pca").reason for head in heads(index))


# ---------------------------------------------------------------------------------------------- killed


def test_a_run_killed_before_any_flush_leaves_the_old_index_and_ends_in_the_same(
    driver: Driver, make_index: Make, tmp_path: Path
) -> None:
    base = make_index("four heads", model=FOUR_HEADS)
    whole = shutil.copytree(base, tmp_path / "whole")
    assert driver.run(command(whole)) == 0, driver.log.read_text()
    n = 0
    while True:
        n += 1
        root = shutil.copytree(base, tmp_path / f"killed-{n}")
        status = driver.run(command(root), flush=n)
        if status == 0:
            break
        assert status == KILLED, driver.log.read_text()
        assert (root / store.MANIFEST).read_bytes() == (base / store.MANIFEST).read_bytes()
        assert Index(root).maps == (("pca", 2),)
        assert driver.run(command(root)) == 0, driver.log.read_text()
        assert_same_index(root, whole)
    assert n == 1 + 1 + 1 + 2 * 4 + 1 + 1  # the plan, what is common, two files a head, the scores, the manifest


def test_what_was_fitted_and_heads_that_were_placed_are_not_made_again(driver: Driver, root: Path) -> None:
    assert driver.run(command(root), flush=8) == KILLED
    kept = {path: path.stat().st_mtime_ns for path in (root / "maps" / "joint-pca2").glob("*.npz")}
    assert store.common_path(root, "joint-pca", 2) in kept
    assert 1 < len(kept) < 9
    assert driver.run(command(root)) == 0, driver.log.read_text()
    assert {path: path.stat().st_mtime_ns for path in kept} == kept


def test_a_build_that_was_killed_after_its_common_fit_goes_on(
    driver: Driver, make_checkpoint: MakeCheckpoint, sentences: list[str], tmp_path: Path
) -> None:
    corpus = tmp_path / "corpus.txt"
    corpus.write_text("\n".join(sentences[:16]) + "\n", encoding="utf-8")
    arguments = ["build", "--model", str(make_checkpoint("llama", **FOUR_HEADS)), "--corpus", str(corpus), "--joint"]
    arguments += ["--methods", "pca", "--dims", "2", "--n-jobs", "1", "--out"]
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert driver.run([*arguments, str(whole)]) == 0, driver.log.read_text()
    for n in itertools.chain([12], itertools.count(6, 2)):  # each goes on from where the one before was killed
        assert driver.run([*arguments, str(killed)], flush=n) == KILLED, driver.log.read_text()
        if store.common_path(killed, "joint-pca", 2).exists():
            break
    assert driver.run([*arguments, str(killed)]) == 0, driver.log.read_text()
    assert_same_index(killed, whole)
