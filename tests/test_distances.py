"""Tests of `qkspace.heads.distances`: against scipy, against whole corpora, and on planted heads."""

from __future__ import annotations

import math
import shutil
import warnings
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray
from scipy.cluster.hierarchy import dendrogram, is_valid_linkage, linkage
from scipy.spatial.distance import jensenshannon, pdist, squareform

from qkspace import behaviour, store
from qkspace.behaviour import MAX_MIXTURES, MIN_QUERIES, RatioSums, draw_weighted, head_distances, measured_distances
from qkspace.heads import kept
from qkspace.heads.distances import (
    analyse,
    choose_clusters,
    cluster_tree,
    dendrogram_layout,
    embed_umap,
    metric_mds,
)
from qkspace.index import Index
from qkspace.schema import LayerSpec, QKSpaceError

Logits = Callable[[int], NDArray[np.float32]]  # of a sequence of so many tokens: (query token, key token)


def planted(root: Path, lengths: list[int], layers: list[list[Logits]], *, causal: bool = False) -> Index:
    """Make an index by hand of heads given by their logits; keys are one-hot by position, so that queries are logits."""
    width, n = max(lengths), sum(lengths)
    position = np.concatenate([np.arange(length) for length in lengths])
    specs = []
    for number, heads in enumerate(layers):
        query = np.zeros((len(heads), n, width), dtype=np.float32)
        for head, logits in enumerate(heads):
            ends = np.cumsum(lengths)
            for end, length in zip(ends, lengths, strict=True):
                query[head, end - length : end, :length] = logits(length)
        store.write_array(root / "query" / f"L{number:02d}.npy", query)
        store.write_array(root / "key" / f"L{number:02d}.npy", np.eye(width, dtype=np.float32)[position][None])
        specs.append(asdict(LayerSpec("attention", len(heads), 1, width, scale=1.0, causal=causal)))
    store.write_table(root / "sequences.parquet", {"sequence": np.arange(len(lengths)), "n_tokens": np.array(lengths)})
    manifest = {"format": store.FORMAT, "format_version": store.FORMAT_VERSION, "layers": specs, "created": "now"}
    manifest |= {"corpus": {"n_tokens_stored": n}, "model": {"name": "planted"}, "made_from": {"name": "planted"}}
    store.write_json(root / store.MANIFEST, {**manifest, "check": {}, "maps": [], "files": {}})
    return Index(root)


def at_offset(offset: int, strength: float = 20.0) -> Logits:
    return lambda n: (strength * np.eye(n, k=offset)).astype(np.float32)


def equal(n: int) -> NDArray[np.float32]:
    return np.zeros((n, n), dtype=np.float32)


def to_first(n: int) -> NDArray[np.float32]:
    return np.broadcast_to(20 * (np.arange(n) == 0), (n, n)).astype(np.float32)


def matrix(pairs: pd.DataFrame, column: str = "distance") -> NDArray[np.float64]:
    """Return the pairs of a table as a square matrix."""
    return squareform(pairs[column].to_numpy(dtype=np.float64), checks=False)


# ---------------------------------------------------------------------------------------------- distances and errors


@pytest.mark.parametrize("causal", [False, True])
def test_pairs_are_scipys_mean_squared_distances_in_layers_of_unequal_heads(tmp_path: Path, causal: bool) -> None:
    noise = np.random.default_rng(0).normal(size=(9, 9)).astype(np.float32)
    layers: list[list[Logits]] = [
        [at_offset(-1, 3.0), equal, lambda n: 2 * noise[:n, :n]],
        [to_first, lambda n: noise[:n, :n]],
    ]
    index = planted(tmp_path, [4, 9, 6, 7], layers, causal=causal)
    table = analyse(index, max_queries=1_000).tables["distances-pairs"]
    heads = [index.head(0, 0), index.head(0, 1), index.head(0, 2), index.head(1, 0), index.head(1, 1)]
    rows = [np.concatenate([list(map(tuple_of(9), h.attention(s)[int(causal) :])) for s in range(4)]) for h in heads]
    for a, b, distance in zip(table["head_a"], table["head_b"], table["distance"], strict=True):
        expected = np.mean([jensenshannon(p, q) ** 2 for p, q in zip(rows[a], rows[b], strict=True)])
        assert distance == pytest.approx(expected, abs=3e-6)
    assert list(zip(table["head_a"], table["head_b"], strict=True)) == [
        (i, j) for i in range(5) for j in range(i + 1, 5)
    ]
    assert table["distance"].max() <= math.log(2)


def tuple_of(width: int) -> Callable[[NDArray[np.float32]], NDArray[np.float64]]:
    """Return what fills a row of attention up to a width, so that rows of all sequences stand together."""
    return lambda row: np.pad(row.astype(np.float64), (0, width - len(row)))


def test_a_sample_is_of_the_whole_and_its_error_covers_it(small_index: Index) -> None:
    """95 % intervals hold what the whole corpus gives, are no wider than they must be, and the sample leans to no side."""
    whole = measured_distances(small_index, max_tokens=10**6)
    upper = np.triu_indices(len(whole.distance), 1)
    assert whole.n_queries == small_index.n_tokens
    samples = [measured_distances(small_index, max_tokens=200, seed=seed) for seed in range(1, 25)]
    assert {sample.n_queries for sample in samples} == {200}
    off = np.array([(sample.distance - whole.distance)[upper] for sample in samples])
    error = np.array([sample.error[upper] for sample in samples])
    covered = (np.abs(off) <= error).mean()
    assert 0.88 < covered <= 1
    assert 1 < np.sqrt((error**2).mean() / (off**2).mean()) < 3.5
    assert np.abs(off.mean(axis=0)).mean() < 0.25 * error.mean()


def test_a_sample_does_not_lean_to_long_or_short_sequences(tmp_path: Path) -> None:
    """Two heads that are one over short sequences, where most sequences are, and apart over long ones, where most queries are.

    A draw of whole sequences alike would find them nearer, and one that looks at more until it has enough, farther apart.
    """
    odd: Logits = lambda n: to_first(n) if n > 20 else at_offset(1)(n)  # noqa: E731
    lengths = [4] * 50 + [60] * 10
    index = planted(tmp_path, np.random.default_rng(0).permutation(lengths).tolist(), [[at_offset(1), odd]])
    whole = head_distances(index, max_tokens=10_000)[0, 1]
    assert whole == pytest.approx(0.75 * math.log(2), rel=0.03)
    samples = [measured_distances(index, max_tokens=64, seed=seed) for seed in range(30)]
    mean = np.mean([sample.distance[0, 1] for sample in samples])
    assert mean == pytest.approx(whole, rel=0.04)
    covered = np.mean([abs(sample.distance[0, 1] - whole) <= sample.error[0, 1] for sample in samples])
    assert covered > 0.85


def test_more_queries_have_less_error(small_index: Index) -> None:
    few, many = (analyse(small_index, max_queries=n).tables["distances-pairs"]["error"] for n in (100, 800))
    assert many.median() < 0.6 * few.median()


def test_the_draw_gives_every_query_of_the_corpus_one_weight() -> None:
    lengths = np.array([2, 3, 40, 9, 300, 25, 8, 8, 120, 5] * 10)
    share = np.zeros(len(lengths))
    for seed in range(300):
        drawn = list(draw_weighted(lengths, 200, 1, seed=seed, first=1))
        total = sum(weight for _, _, weight in drawn)
        for s, at, weight in drawn:
            share[s] += weight / total / 300
            assert len(np.unique(at)) == len(at)
            assert at.min() >= 1
            assert at.max() < lengths[s]
        assert sum(len(at) for _, at, _ in drawn) <= 200
    by_length = [share[lengths == n].sum() for n in np.unique(lengths)]
    wanted = [(lengths[lengths == n] - 1).sum() / (lengths - 1).sum() for n in np.unique(lengths)]
    np.testing.assert_allclose(by_length, wanted, rtol=0.12, atol=0.002)


def test_all_queries_are_drawn_where_the_bound_allows_them() -> None:
    lengths = np.array([5, 1, 7, 2])
    drawn = {s: (at.tolist(), weight) for s, at, weight in draw_weighted(lengths, 99, 1)}
    assert drawn == {0: ([0, 1, 2, 3, 4], 5), 2: ([0, 1, 2, 3, 4, 5, 6], 7), 3: ([0, 1], 2)}


@pytest.mark.parametrize("n_heads", [72, 1_024, 4_096])
def test_the_work_is_bounded_whatever_heads_and_lengths(n_heads: int) -> None:
    """Mixtures of two heads made, queries times keys times pairs, are at most MAX_MIXTURES and some for chance."""
    n_pairs = n_heads * (n_heads + 1) // 2
    for lengths in (np.full(40_000, 25), np.full(8, 5_000), np.random.default_rng(0).geometric(0.02, size=5_000)):
        drawn = list(draw_weighted(lengths, 2_000, n_pairs))
        n_mixtures = n_pairs * sum(len(at) * int(lengths[s]) for s, at, _ in drawn)
        assert 0 < n_mixtures <= max(1.3 * MAX_MIXTURES, n_pairs * lengths.max())


def test_however_many_heads_some_queries_of_many_sequences_are_drawn_and_as_many_as_are_asked_for() -> None:
    """1,024 heads over texts of 4,096 tokens: the bound would leave three queries."""
    n_pairs = 1_024 * 1_025 // 2
    for lengths, n_sequences in ((np.full(900, 4_096), 32), (np.full(5, 4_096), 5)):
        assert sum(len(at) for _, at, _ in draw_weighted(lengths, 2_000, n_pairs)) == 3
        drawn = list(draw_weighted(lengths, 2_000, n_pairs, floor=MIN_QUERIES))
        assert len(drawn) >= n_sequences
        assert sum(len(at) for _, at, _ in drawn) == MIN_QUERIES
        assert sum(len(at) for _, at, _ in draw_weighted(lengths, 500, n_pairs, floor=500)) == 500
    assert sum(len(at) for _, at, _ in draw_weighted(lengths, 20, n_pairs, floor=MIN_QUERIES)) == 20


def test_the_error_of_a_ratio_is_that_of_its_residuals() -> None:
    rng = np.random.default_rng(3)
    below = rng.uniform(1, 9, size=400)
    above = below[:, None] * rng.uniform(0.1, 0.4, size=(400, 2))
    sums = RatioSums((2,))
    for y, x in zip(above, below, strict=True):
        sums.add(y, float(x))
    ratio, error = sums.ratio()
    expected = above.sum(axis=0) / below.sum()
    residual = above - expected * below[:, None]
    np.testing.assert_allclose(ratio, expected)
    np.testing.assert_allclose(error, 1.966 * residual.std(axis=0, ddof=1) * 20 / below.sum(), rtol=1e-3)


def test_one_sequence_has_no_error_and_so_no_redundant_pair(tmp_path: Path) -> None:
    found = analyse(planted(tmp_path, [8], [[equal, equal, to_first]])).tables
    assert found["distances-pairs"]["distance"].tolist()[0] == 0
    assert found["distances-pairs"]["error"].isna().all()
    assert found["distances-redundant"].empty


def test_many_heads_are_measured_on_some_queries_and_on_as_many_as_are_asked_for(
    small_index: Index, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(behaviour, "MAX_MIXTURES", 1)
    behaviour._measured.cache_clear()
    few, more = analyse(small_index), analyse(small_index, max_queries=300)
    assert few.parameters["n_queries"] == MIN_QUERIES
    assert few.parameters["n_sequences"] >= 32
    assert more.parameters["n_queries"] == 300
    assert head_distances(small_index).shape == (72, 72)
    assert measured_distances(small_index).n_queries == 1
    behaviour._measured.cache_clear()


def test_a_large_error_of_few_queries_is_said(small_index: Index) -> None:
    few, many = (analyse(small_index, max_queries=n).tables for n in (8, 1_000))
    pairs = few["distances-pairs"]
    middle, off = pairs["distance"].median(), pairs["error"].median()
    assert off > 0.25 * middle
    said = f"Queries are few, so that the error is large: {off:.3f} nats in the median, of distances of {middle:.3f}"
    for name in ("distances", "distances-pairs"):
        assert said in few[name].attrs["note"]
        assert "larger max_queries" in few[name].attrs["note"]
        assert "Queries are few" not in many[name].attrs["note"]


@pytest.mark.parametrize("causal", [False, True])
def test_where_no_query_has_a_choice_nothing_is_near(tmp_path: Path, causal: bool) -> None:
    """Sequences of one token."""
    layers = [[equal, to_first], [equal, at_offset(-1)]]
    index = planted(tmp_path, [1, 1, 1], layers, causal=causal)
    for found in (analyse(index), analyse(index, n_clusters=2)):
        table = found.tables["distances"]
        assert len(table) == 4
        assert table.iloc[:, 2:].isna().all(axis=None)
        assert found.tables["distances-pairs"][["distance", "error"]].isna().all(axis=None)
        assert len(found.tables["distances-tree"]) == len(found.tables["distances-redundant"]) == 0
        assert "no query of the corpus may attend to two keys" in table.attrs["note"]
        assert table.attrs["n_clusters"] == 0
        assert table.attrs["silhouette"] is table.attrs["mds_correlation"] is None


# ---------------------------------------------------------------------------------------------- redundant heads


def test_equal_heads_are_redundant_and_nearest_and_lie_together(tmp_path: Path) -> None:
    layers = [[at_offset(-1), to_first, equal], [at_offset(1), at_offset(-1)]]
    found = analyse(planted(tmp_path, [7, 9, 8, 12], layers)).tables
    redundant = found["distances-redundant"]
    assert redundant.to_numpy().tolist() == [[0, 0, 1, 1, 0, 0]]
    rows = found["distances"].set_index(["layer", "head"])
    same = ["mds_x", "mds_y"]
    np.testing.assert_allclose(rows.loc[(0, 0), same], rows.loc[(1, 1), same], atol=1e-3)
    assert rows.loc[(0, 0), ["nearest_layer", "nearest_head", "nearest_distance"]].tolist() == [1, 1, 0]
    assert rows.loc[(0, 0), "cluster"] == rows.loc[(1, 1), "cluster"]


def test_redundant_pairs_are_those_below_the_threshold_with_their_error(small_index: Index) -> None:
    found = analyse(small_index, redundant_below=0.06)
    pairs, redundant = found.tables["distances-pairs"], found.tables["distances-redundant"]
    near = pairs[pairs["distance"].astype(float) + pairs["error"] < 0.06]
    assert 0 < len(near) < len(pairs)
    assert sorted(redundant["distance"]) == sorted(near["distance"])
    assert redundant["distance"].is_monotonic_increasing
    table = small_index.head_table()
    places = {(int(r.layer), int(r.head)): i for i, r in enumerate(table.itertuples())}
    distance = matrix(pairs)
    for row in redundant.itertuples():
        here = distance[places[(row.layer_a, row.head_a)], places[(row.layer_b, row.head_b)]]
        assert here == pytest.approx(row.distance)


# ---------------------------------------------------------------------------------------------- maps


def test_mds_puts_points_of_a_plane_where_they_are() -> None:
    points = np.random.default_rng(1).normal(size=(30, 2)) * [3, 1]
    place, stress = metric_mds(squareform(pdist(points)))
    assert stress < 1e-3
    np.testing.assert_allclose(pdist(place), pdist(points), atol=0.01)
    assert np.argmax(place.std(axis=0)) == 0  # along its principal axis
    assert (place[np.argmax(np.abs(place), axis=0), [0, 1]] > 0).all()


def test_mds_is_no_worse_than_sklearns_own_and_says_its_stress() -> None:
    from sklearn.manifold import smacof

    points = np.random.default_rng(2).normal(size=(40, 6))
    distance = squareform(pdist(points))
    place, stress = metric_mds(distance)
    assert stress == pytest.approx(math.sqrt(((pdist(place) - pdist(points)) ** 2).sum() / (pdist(points) ** 2).sum()))
    other, _ = smacof(distance, n_init=1, random_state=9, normalized_stress=False, max_iter=300, eps=1e-6)
    least = math.sqrt(((pdist(other) - pdist(points)) ** 2).sum() / (pdist(points) ** 2).sum())
    assert stress <= 1.02 * least


def test_maps_of_a_real_model_keep_its_distances_and_the_seed_repeats_them(small_index: Index) -> None:
    found = analyse(small_index, seed=3)
    table, pairs = found.tables["distances"], found.tables["distances-pairs"]
    root = np.sqrt(pairs["distance"].to_numpy())
    correlation = {name: np.corrcoef(root, pdist(table[[f"{name}_x", f"{name}_y"]]))[0, 1] for name in ("mds", "umap")}
    assert correlation["mds"] > 0.75
    assert correlation["umap"] > 0.35
    assert table.attrs["mds_correlation"] == pytest.approx(correlation["mds"], abs=1e-4)
    assert 0.05 < table.attrs["mds_stress"] < 0.4
    behaviour._measured.cache_clear()
    again = analyse(small_index, seed=3)
    for name, tabled in found.tables.items():
        pd.testing.assert_frame_equal(tabled, again.tables[name])
    other = analyse(small_index, seed=4).tables["distances"]
    assert not np.allclose(other["umap_x"], table["umap_x"])


@pytest.mark.parametrize("n", [0, 1, 2, 3, 4, 5, 17])
def test_any_number_of_heads_has_places_and_no_warning(n: int) -> None:
    import umap

    assert umap.__version__  # what its import warns of is no matter here
    distance = squareform(pdist(np.random.default_rng(n).normal(size=(n, 3)))) if n > 1 else np.zeros((n, n))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        place, _ = metric_mds(distance)
        near = embed_umap(distance, start=place)
        cluster, _ = choose_clusters(distance, cluster_tree(distance))
    assert place.shape == near.shape == (n, 2)
    assert np.isfinite(place).all()
    assert np.isfinite(near).all()
    assert len(cluster) == n
    if n > 1:
        assert len(np.unique(place, axis=0)) == len(np.unique(near, axis=0)) == n
    elif n:
        assert place.tolist() == near.tolist() == [[0, 0]]


@pytest.mark.parametrize("layers", [[[equal]], [[equal], [equal]], [[to_first], [equal]]])
def test_an_index_of_one_or_two_heads_has_all_tables(tmp_path: Path, layers: list[list[Logits]]) -> None:
    found = analyse(planted(tmp_path, [5, 6, 7], layers)).tables
    n = len(layers)
    assert [len(found[f"distances{part}"]) for part in ("", "-pairs", "-tree")] == [n, n * (n - 1) // 2, n - 1]
    assert np.isfinite(found["distances"][["mds_x", "mds_y", "umap_x", "umap_y", "cluster"]]).all(axis=None)
    assert found["distances"]["nearest_head"].isna().all() == (n == 1)
    assert dendrogram_layout(found["distances-tree"]).leaves.tolist() == list(range(n))


# ---------------------------------------------------------------------------------------------- clusters


def groups(sizes: list[int]) -> NDArray[np.float64]:
    """Return distances between points in groups of some sizes, far from each other."""
    rng = np.random.default_rng(0)
    points = np.concatenate([rng.normal(size=(n, 3)) * 0.1 + 5 * np.eye(3)[i] for i, n in enumerate(sizes)])
    return squareform(pdist(points))


def test_groups_are_found_and_numbered_from_the_largest() -> None:
    distance = groups([3, 9, 5])
    cluster, silhouette = choose_clusters(distance, cluster_tree(distance))
    assert cluster.tolist() == [2] * 3 + [0] * 9 + [1] * 5
    assert silhouette is not None
    assert silhouette > 0.9


def test_clusters_that_are_none_are_said_to_be_none(small_index: Index, tmp_path: Path) -> None:
    """72 heads of MiniLM lie in no groups; heads of two kinds do."""
    table = analyse(small_index).tables["distances"]
    k, silhouette = table.attrs["n_clusters"], table.attrs["silhouette"]
    assert silhouette < 0.25
    assert f"No clear clusters: {k} clusters, mean silhouette {silhouette:.2f}" in table.attrs["note"]
    layers = [[at_offset(-1, 8 + i), lambda n, i=i: to_first(n) + at_offset(0, i)(n)] for i in range(4)]
    table = analyse(planted(tmp_path, [7, 9, 8, 12], layers)).tables["distances"]
    assert table["cluster"].tolist() in ([0, 1] * 4, [1, 0] * 4)
    assert f"nearest other head. 2 clusters, mean silhouette {table.attrs['silhouette']:.2f}" in table.attrs["note"]
    assert table.attrs["silhouette"] > 0.25


@pytest.mark.parametrize("distance", [groups([3, 4, 5]), np.ones((12, 12)) - np.eye(12), np.zeros((12, 12))])
def test_as_many_clusters_are_made_as_are_asked_for(distance: NDArray[np.float64]) -> None:
    """Where merges are of one height too."""
    for n in (1, 2, 5, 11, 12):
        cluster, silhouette = choose_clusters(distance, cluster_tree(distance), n)
        assert sorted(np.unique(cluster)) == list(range(n))
        assert (np.diff(np.bincount(cluster)) <= 0).all()
        assert (silhouette is None) == (n in (1, 12))


def test_heads_that_are_all_one_are_one_cluster(tmp_path: Path) -> None:
    found = analyse(planted(tmp_path, [6, 7], [[equal, equal], [equal, equal]]))
    assert found.tables["distances"]["cluster"].tolist() == [0, 0, 0, 0]
    assert len(found.tables["distances-redundant"]) == 6


def test_the_tree_is_scipys_and_is_drawn_as_scipy_draws_it(small_index: Index) -> None:
    for method in ("ward", "average", "complete"):
        found = analyse(small_index, linkage=method, n_clusters=5).tables
        root = np.sqrt(found["distances-pairs"]["distance"].to_numpy(dtype=np.float64))
        tree = found["distances-tree"][["left", "right", "height", "n_leaves"]].to_numpy()
        assert is_valid_linkage(tree)
        np.testing.assert_allclose(tree, linkage(root, method=method))
        drawn, expected = dendrogram_layout(found["distances-tree"]), dendrogram(tree, no_plot=True)
        assert drawn.leaves.tolist() == expected["leaves"]
        ours = sorted(map(tuple, np.round(np.hstack([5 + 10 * drawn.x, drawn.y]), 6).tolist()))
        theirs = np.hstack([np.array(expected["icoord"]), np.array(expected["dcoord"])])
        assert ours == sorted(map(tuple, np.round(theirs, 6).tolist()))
        assert found["distances"]["cluster"].nunique() == 5


def test_a_tree_that_is_one_long_chain_can_be_drawn() -> None:
    distance = np.abs(np.subtract.outer(*[1.01 ** np.arange(1_500)] * 2))
    tree = cluster_tree(distance, "average")
    table = pd.DataFrame({"left": tree[:, 0].astype(int), "right": tree[:, 1].astype(int), "height": tree[:, 2]})
    drawn = dendrogram_layout(table)
    assert sorted(drawn.leaves) == list(range(1_500))
    assert (drawn.y.max(axis=1) == tree[:, 2]).all()


# ---------------------------------------------------------------------------------------------- whole analyses


def test_a_head_that_is_not_finite_is_left_out(decoder_index: Index, tmp_path: Path) -> None:
    shutil.copytree(decoder_index.root, tmp_path / "index")
    path = tmp_path / "index" / "query" / "L01.npy"
    query = np.array(store.read_array(path))
    query[1] = np.nan
    store.write_array(path, query)
    found = analyse(Index(tmp_path / "index"), n_clusters=3).tables
    broken = (found["distances"]["layer"] == 1) & (found["distances"]["head"] == 1)
    assert found["distances"][broken].iloc[0, 2:].isna().all()
    assert found["distances"][~broken].notna().all(axis=None)
    touched = (found["distances-pairs"][["head_a", "head_b"]] == 5).any(axis=1)
    assert found["distances-pairs"]["distance"].isna().tolist() == touched.tolist()
    assert len(found["distances-tree"]) == 6
    assert sorted(dendrogram_layout(found["distances-tree"]).leaves) == list(range(7))


def test_what_is_kept_joins_the_table_of_heads(decoder_index: Index, tmp_path: Path) -> None:
    shutil.copytree(decoder_index.root, tmp_path / "index")
    found = analyse(Index(tmp_path / "index"), n_clusters=3)
    index = kept.keep(
        Index(tmp_path / "index"),
        "distances",
        found.tables,
        head_columns=found.head_columns,
        parameters=found.parameters,
    )
    heads = index.head_table()
    table = found.tables["distances"]
    assert heads[["layer", "head"]].to_numpy().tolist() == table[["layer", "head"]].to_numpy().tolist()
    assert heads["cluster"].tolist() == table["cluster"].tolist()
    for name, tabled in found.tables.items():
        stored = kept.read(index, name)
        pd.testing.assert_frame_equal(stored, tabled)
        assert stored.attrs == tabled.attrs
        assert " queries of 30 sequences" in tabled.attrs["note"] or name == "distances-tree"


def test_wrong_arguments_are_refused(decoder_index: Index) -> None:
    with pytest.raises(QKSpaceError, match="max_queries 0"):
        analyse(decoder_index, max_queries=0)
    with pytest.raises(QKSpaceError, match="n_clusters 0"):
        analyse(decoder_index, n_clusters=0)
    with pytest.raises(QKSpaceError, match="n_clusters 9"):
        analyse(decoder_index, n_clusters=9)
    for wrong in (-0.1, 5, math.nan):
        with pytest.raises(QKSpaceError, match=rf"from 0 to 0\.69 \(ln 2\); got {wrong}"):
            analyse(decoder_index, redundant_below=wrong)
    with pytest.raises(QKSpaceError, match="ward, average, complete"):
        analyse(decoder_index, linkage="single")  # type: ignore[arg-type]
