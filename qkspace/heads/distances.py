"""Heads among heads: which of them attend alike, as distances, two maps, a tree of clusters and a list of the redundant.

In: an index. Out: tables. What a distance is, `qkspace.behaviour` says; knows no page and no behaviour of a head.

    found = analyse(index)
    found.tables["distances"]                                       # a row a head: its places, cluster and nearest head
    dendrogram_layout(found.tables["distances-tree"])

Distances in the tables are mean Jensen-Shannon divergences, in nats. The maps and the tree are of their square roots: the
root of a Jensen-Shannon divergence is a distance between points of a Hilbert space (Fuglede and Topsoe 2004), and so is the
root of a mean of them, whereas the divergence itself breaks the triangle inequality. (Clark et al. 2019, What Does BERT Look
At?, section 6, embed the divergences as they are, which draws near heads nearer and far ones farther.) The tree is Ward's,
which the roots allow, being Euclidean; average linkage parts one odd head after another from a single large cluster.
"""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from qkspace.behaviour import MIN_QUERIES, Distances, measured_distances
from qkspace.console import SILENT, Console
from qkspace.heads.found import Found
from qkspace.index import Index
from qkspace.schema import BoolArray, FloatArray, IntArray, QKSpaceError

if TYPE_CHECKING:
    import pandas as pd

Linkage = Literal["ward", "average", "complete"]
LINKAGES: tuple[Linkage, ...] = ("ward", "average", "complete")

MAX_QUERIES = 2_000  # to measure on, fewer where the work would be too much
MUCH_ERROR = 0.25  # of the median distance: the note then says so
REDUNDANT = 0.05  # nats, see `redundant_heads`
CLEAR = 0.25  # mean silhouette: below it there is no substantial structure (Kaufman and Rousseeuw 1990)
MAX_CLUSTERS = 20  # that are tried: more have no colours, and no names
STARTS = 4  # of metric MDS at random, beside the one from classical MDS
MAX_STARTED = 200_000  # pairs of heads; of more, classical MDS is the only start: a minute otherwise
STEPS = 300
NEIGHBOURS = 15  # of UMAP: umap-learn's default
LEAST_UMAP = 4  # heads; of fewer it has nothing to choose


def analyse(
    index: Index,
    *,
    max_queries: int | None = None,
    seed: int = 0,
    linkage: Linkage = "ward",
    n_clusters: int | None = None,
    redundant_below: float = REDUNDANT,
    console: Console = SILENT,
) -> Found:
    """Measure how differently the heads of an index attend, and place, cluster and compare them by it.

    Args:
        index: an index.
        max_queries: queries to measure on, drawn at random, each of the corpus with the same chance; so many whatever the
            work. By default MAX_QUERIES, fewer for many heads or long sequences, so that the work is bounded, but not fewer
            than MIN_QUERIES.
        seed: of the draw and of both maps.
        linkage: how the distance between clusters is made of those between their heads: "ward", "average" or "complete".
        n_clusters: how many clusters; by default as many as `choose_clusters` finds.
        redundant_below: nats under which a pair is called redundant, its error added (`redundant_heads`).
        console: where to say what goes on.

    Returns:
        Tables distances (a row a head), distances-pairs (a row a pair, heads by their row of `index.head_table()`),
        distances-tree (a row a merge, as scipy numbers them: the leaves are the heads whose cluster is not nan, in order)
        and distances-redundant. Heads whose vectors are not finite are nan; all are where no query may attend to two keys. In
        attrs of the first: mds_stress (Kruskal's stress-1: 0 is a perfect map, and 0.2 a poor one), mds_correlation and
        umap_correlation (Pearson's, of what is between heads on the map with the root of their distance), silhouette (of the
        clusters, 1 where they lie apart and 0 where they touch) and n_clusters.

    Raises:
        QKSpaceError: max_queries or n_clusters is less than 1, there are fewer heads than clusters, the linkage is unknown,
            or redundant_below is not a divergence.
    """
    _refuse(max_queries, linkage, n_clusters, redundant_below)
    heads = np.array([(number, h) for number, spec in enumerate(index.layers) for h in range(spec.n_heads)])
    console.say(f"Distances between {len(heads):,} heads ...")
    measured = _measured(index, max_queries, seed)
    finite = np.isfinite(np.diag(measured.distance))
    root = np.sqrt(measured.distance[np.ix_(finite, finite)].astype(np.float64))
    tree = cluster_tree(root, linkage)
    cluster, silhouette = choose_clusters(root, tree, n_clusters)
    console.say("Maps of the heads ...")
    mds, stress = metric_mds(root, seed=seed)
    umap = embed_umap(root, start=mds, seed=seed)
    over = f"over {measured.n_queries:,} queries of {measured.n_sequences:,} sequences"
    few = _few(measured, _n_queries(index))
    if few:
        console.say(few)
    table = _head_rows(heads, finite, measured.distance, mds, umap, cluster)
    table.attrs = {
        "note": f"How differently heads attend, by the mean Jensen-Shannon divergence {over} (nats; 0: alike, 0.69: no key "
        "in common): places of each head on maps of its root, its cluster (0 the largest), and the nearest other head."
        + "".join(f" {said}" for said in (_clusters_said(cluster, silhouette), few) if said),
        "mds_stress": stress,
        "mds_correlation": _correlation(mds, root),
        "umap_correlation": _correlation(umap, root),
        "silhouette": silhouette,
        "n_clusters": len(np.unique(cluster)),
    }
    if not few:  # else its note says more
        of = {"n_queries": measured.n_queries, "n_sequences": measured.n_sequences}
        table.attrs["told"] = [["how_distances", of]]
    redundant = redundant_heads(heads, measured, redundant_below)
    redundant.attrs["note"] = (
        f"Pairs of heads whose mean Jensen-Shannon divergence {over}, its 95 % error added, is below {redundant_below:g} nats."
    )
    tables = {
        "distances": table,
        "distances-pairs": _pair_rows(measured, over, few),
        "distances-tree": _tree_rows(tree, linkage),
        "distances-redundant": redundant,
    }
    parameters = {
        "max_queries": max_queries,
        "seed": seed,
        "linkage": linkage,
        "n_clusters": table.attrs["n_clusters"],
        "redundant_below": redundant_below,
        "n_queries": measured.n_queries,
        "n_sequences": measured.n_sequences,
    }
    return Found(tables, ("cluster", "nearest_distance"), parameters)


def _refuse(max_queries: int | None, linkage: str, n_clusters: int | None, redundant_below: float) -> None:
    if max_queries is not None and max_queries < 1:
        raise QKSpaceError(f"Distances between heads are a mean over 1 query or more; got max_queries {max_queries}.")
    if linkage not in LINKAGES:
        raise QKSpaceError(f"There is no linkage {linkage!r}; there are {', '.join(LINKAGES)}.")
    if n_clusters is not None and n_clusters < 1:
        raise QKSpaceError(f"Heads are put into 1 cluster or more; got n_clusters {n_clusters}.")
    if not 0 <= redundant_below <= math.log(2):
        raise QKSpaceError(f"redundant_below is a divergence in nats, from 0 to 0.69 (ln 2); got {redundant_below}.")


def _measured(index: Index, max_queries: int | None, seed: int) -> Distances:
    """Return the distances over the queries that were asked for; all nan where none of them may attend to two keys."""
    n_queries, floor = (MAX_QUERIES, MIN_QUERIES) if max_queries is None else (max_queries, max_queries)
    measured = measured_distances(index, max_tokens=n_queries, seed=seed, floor=floor)
    if measured.n_queries:
        return measured
    return replace(measured, distance=np.full_like(measured.distance, np.nan))


def _n_queries(index: Index) -> int:
    """Return how many queries of a corpus may attend to two keys."""
    lengths = index.sequences["n_tokens"].to_numpy(dtype=np.int64)
    return int((lengths[lengths > 1] - int(all(layer.causal for layer in index.layers))).sum())


def _few(measured: Distances, n_queries: int) -> str:
    """Say that the queries are few, where the error is large for it or there are none; n_queries: of the corpus."""
    if not measured.n_queries:
        return "Nothing was measured: no query of the corpus may attend to two keys."
    distance, error = (array[np.triu_indices(len(array), 1)] for array in (measured.distance, measured.error))
    there = np.isfinite(distance)
    if measured.n_queries >= MAX_QUERIES or not there.any():
        return ""
    more = (
        "a larger max_queries takes longer and gives less" if measured.n_queries < n_queries else "all that there are"
    )
    if measured.n_sequences < 2:
        return f"The queries are of one sequence, so that the error is unknown ({more})."
    middle, off = float(np.median(distance[there])), float(np.median(error[there]))
    if off <= MUCH_ERROR * middle:
        return ""
    return f"Queries are few, so that the error is large: {off:.3f} nats in the median, of distances of {middle:.3f} ({more})."


def _clusters_said(cluster: IntArray, silhouette: float | None) -> str:
    """Say how far apart the clusters lie; nothing where that is undefined."""
    if silhouette is None:
        return ""
    found = f"{len(np.unique(cluster))} clusters, mean silhouette {silhouette:.2f} (1: far apart, 0: touching)"
    return f"{found}." if silhouette >= CLEAR else f"No clear clusters: {found}."


# ---------------------------------------------------------------------------------------------- maps


def metric_mds(distance: FloatArray, *, seed: int = 0) -> tuple[FloatArray, float]:
    """Place points in the plane so that their distances are near to given ones (metric MDS, by SMACOF).

    Of several starts the best is kept: that of classical MDS, which is not random, and STARTS at random. The axes are the
    principal ones of the result, with the sign that makes the farthest point positive, so that a picture stays as it is.

    Args:
        distance: (point, point), symmetric.
        seed: of the random starts.

    Returns:
        Places (point, 2), and their stress-1: the root of the squared errors over the squared distances (Kruskal 1964).
    """
    from sklearn.manifold import smacof  # what sklearn's MDS calls, whose options have changed their names

    n = len(distance)
    if n < 2 or not distance.any():
        return np.zeros((n, 2)), 0.0
    options: dict[str, Any] = {"n_init": 1, "max_iter": STEPS, "eps": 1e-6, "normalized_stress": False}
    starts: list[FloatArray | None] = [_classical_mds(distance)]
    starts += [None] * (STARTS if n * (n - 1) // 2 <= MAX_STARTED else 0)
    best, least = np.zeros((n, 2)), math.inf
    for number, start in enumerate(starts):
        place, _ = smacof(distance, init=start, random_state=seed + number, **options)
        if (stress := _stress(place, distance)) < least:
            best, least = place, stress
    return _upright(best), least


def _classical_mds(distance: FloatArray) -> FloatArray:
    """Return the two principal coordinates of points by their distances (Torgerson 1952): (point, 2)."""
    squared = distance**2
    centred = squared - squared.mean(axis=0) - squared.mean(axis=1)[:, None] + squared.mean()
    values, vectors = np.linalg.eigh(-centred / 2)
    places: FloatArray = vectors[:, :-3:-1] * np.sqrt(np.maximum(values[:-3:-1], 0.0))
    return places


def _stress(place: FloatArray, distance: FloatArray) -> float:
    from scipy.spatial.distance import pdist, squareform

    wanted = squareform(distance, checks=False)
    return float(np.sqrt(np.sum((pdist(place) - wanted) ** 2) / np.sum(wanted**2)))


def _correlation(place: FloatArray, distance: FloatArray) -> float | None:
    """Return Pearson's correlation of distances on a map with those that it is of; None where either does not vary."""
    from scipy.spatial.distance import pdist, squareform

    if len(distance) < 3:
        return None
    drawn, wanted = pdist(place), squareform(distance, checks=False)
    if not drawn.std() or not wanted.std():
        return None
    return float(np.corrcoef(drawn, wanted)[0, 1])


def _upright(place: FloatArray) -> FloatArray:
    centred = place - place.mean(axis=0)
    turned = centred @ np.linalg.svd(centred, full_matrices=False)[2].T
    turned *= np.sign(turned[np.argmax(np.abs(turned), axis=0), np.arange(turned.shape[1])] + 1e-300)
    return np.asarray(turned)


def embed_umap(distance: FloatArray, *, start: FloatArray, seed: int = 0) -> FloatArray:
    """Place points in the plane so that near ones stay near (UMAP, McInnes et al. 2018): (point, 2).

    Fewer than LEAST_UMAP points stay where they start, since each is then a neighbour of every other.

    Args:
        distance: (point, point), symmetric.
        start: (point, 2), where the search starts: places by MDS, so that what is far apart is not placed by chance.
        seed: of the search.
    """
    if len(distance) < LEAST_UMAP or not distance.any():
        return start.copy()
    from umap import UMAP

    options: dict[str, Any] = {"metric": "precomputed", "init": start.astype(np.float32), "random_state": seed}
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="using precomputed metric")  # no place can be turned into a head
        method = UMAP(min(NEIGHBOURS, len(distance) - 1), 2, n_jobs=1, **options)
        return np.asarray(method.fit_transform(distance), dtype=np.float64)


# ---------------------------------------------------------------------------------------------- clusters


@dataclass(frozen=True, slots=True, eq=False)
class Dendrogram:
    """A tree laid out to be drawn: leaves at 0, 1, 2 ... of one axis, heights along the other.

    leaves: (leaf), which leaf of the tree stands at each place. x, y: (merge, 4), the corners of each merge's bracket, from
    the top of its left branch up, across, and down to the top of its right one.
    """

    leaves: IntArray
    x: FloatArray
    y: FloatArray


def cluster_tree(distance: FloatArray, method: Linkage = "ward") -> FloatArray:
    """Return the hierarchical clusters of points: (merge, 4), scipy's linkage matrix.

    distance: (point, point), Euclidean where the method is Ward's (1963).
    """
    from scipy.cluster.hierarchy import linkage
    from scipy.spatial.distance import squareform

    if len(distance) < 2:
        return np.zeros((0, 4))
    return np.asarray(linkage(squareform(distance, checks=False), method=method))


def choose_clusters(
    distance: FloatArray, tree: FloatArray, n_clusters: int | None = None
) -> tuple[IntArray, float | None]:
    """Cut a tree of points into clusters, numbered from the largest.

    Left to choose, it takes of 2 to MAX_CLUSTERS clusters the number with the best mean silhouette (Rousseeuw 1987), the
    smaller of equals; of fewer than 3 points, and of points that are all one, one cluster.

    Returns:
        The cluster of each point (point), and the mean silhouette: 1 for clusters that lie apart, 0 for such as touch, None
        where it is undefined.

    Raises:
        QKSpaceError: n_clusters is less than 1, or more than there are points; of no point there is no cluster.
    """
    n = len(distance)
    if n_clusters is not None and (n_clusters < 1 or n_clusters > n > 0):
        raise QKSpaceError(
            f"The {n} heads that were measured are put into 1 cluster to {n} of them; got n_clusters {n_clusters}."
        )
    if n_clusters is not None and n:
        cluster = _cut(tree, n, n_clusters)
        return cluster, _silhouette(distance, cluster)
    best: IntArray = np.zeros(n, dtype=np.int64)
    score: float | None = None
    for k in range(2, min(MAX_CLUSTERS, n - 1) + 1 if distance.any() else 0):
        cluster = _cut(tree, n, k)
        here = _silhouette(distance, cluster)
        if here is not None and (score is None or here > score):
            best, score = cluster, here
    return best, score


def _cut(tree: FloatArray, n: int, n_clusters: int) -> IntArray:
    """Return the cluster of each of n points after all but the last n_clusters - 1 merges, the largest first."""
    member: IntArray = np.arange(n)
    for step, (left, right) in enumerate(tree[: n - n_clusters, :2].astype(np.int64).tolist()):
        member[(member == left) | (member == right)] = n + step
    _, first, cluster, size = np.unique(member, return_index=True, return_inverse=True, return_counts=True)
    rank = np.empty(len(size), dtype=np.int64)
    rank[np.lexsort((first, -size))] = np.arange(len(size))
    return np.asarray(rank[cluster])


def _silhouette(distance: FloatArray, cluster: IntArray) -> float | None:
    from sklearn.metrics import silhouette_score

    if not 2 <= len(np.unique(cluster)) < len(cluster):
        return None
    return float(silhouette_score(distance, cluster, metric="precomputed"))


def dendrogram_layout(tree: pd.DataFrame) -> Dendrogram:
    """Return where to draw the merges of a table distances-tree; no recursion, so a chain of any length is drawn."""
    sides, height = tree[["left", "right"]].to_numpy(dtype=np.int64), tree["height"].to_numpy(dtype=np.float64)
    n = len(tree) + 1
    leaves, waiting = [], [2 * n - 2]
    while waiting:
        node = waiting.pop()
        if node < n:
            leaves.append(node)
        else:
            waiting += [int(sides[node - n, 1]), int(sides[node - n, 0])]
    across, up = np.zeros(2 * n - 1), np.zeros(2 * n - 1)
    across[leaves], up[n:] = np.arange(n), height
    for step, (left, right) in enumerate(sides):
        across[n + step] = (across[left] + across[right]) / 2
    left, right = sides.T
    x = np.stack([across[left], across[left], across[right], across[right]], axis=1)
    return Dendrogram(np.array(leaves), x, np.stack([up[left], height, height, up[right]], axis=1))


# ---------------------------------------------------------------------------------------------- tables


def redundant_heads(heads: IntArray, measured: Distances, below: float = REDUNDANT) -> pd.DataFrame:
    """Return the pairs of heads that attend so much alike that one of them may do, the nearest first.

    A pair counts if its distance and its error together are below the threshold, so that a pair is not listed by the luck
    of the draw; of a single sequence the error is unknown, and none is listed. With the total variation T between two heads
    (the share of attention that lies elsewhere), T^2 / 2 <= JS <= T ln 2: the default of 0.05 nats says that between 7 and
    32 % of attention does. That is a convention and no law; and heads that look alike may write different values.

    heads: (head, layer and number). Columns: layer_a, head_a, layer_b, head_b, distance, error.
    """
    import pandas as pd

    a, b = np.triu_indices(len(heads), 1)
    distance, error = measured.distance[a, b], measured.error[a, b]
    near = np.flatnonzero(distance.astype(np.float64) + error < below)  # nan is not
    near = near[np.argsort(distance[near], kind="stable")]
    return pd.DataFrame(
        {
            "layer_a": heads[a[near], 0],
            "head_a": heads[a[near], 1],
            "layer_b": heads[b[near], 0],
            "head_b": heads[b[near], 1],
            "distance": distance[near],
            "error": error[near],
        }
    )


def _head_rows(
    heads: IntArray, finite: BoolArray, distance: FloatArray, mds: FloatArray, umap: FloatArray, cluster: IntArray
) -> pd.DataFrame:
    import pandas as pd

    def of_all(values: NDArray[Any]) -> NDArray[Any]:
        every = np.full((len(heads), *values.shape[1:]), np.nan)
        every[finite] = values
        return every if not finite.all() else values

    others = np.where(np.eye(len(heads), dtype=bool) | np.isnan(distance), np.inf, distance)
    nearest = np.argmin(others, axis=1)
    there = np.isfinite(others[np.arange(len(heads)), nearest])
    near = np.where(there[:, None], heads[nearest], np.nan) if not there.all() else heads[nearest]
    mds, umap = of_all(mds), of_all(umap)
    return pd.DataFrame(
        {
            "layer": heads[:, 0],
            "head": heads[:, 1],
            "mds_x": mds[:, 0],
            "mds_y": mds[:, 1],
            "umap_x": umap[:, 0],
            "umap_y": umap[:, 1],
            "cluster": of_all(cluster),
            "nearest_layer": near[:, 0],
            "nearest_head": near[:, 1],
            "nearest_distance": np.where(there, others[np.arange(len(heads)), nearest], np.nan),
        }
    )


def _pair_rows(measured: Distances, over: str, few: str) -> pd.DataFrame:
    import pandas as pd

    a, b = np.triu_indices(len(measured.distance), 1)
    table = pd.DataFrame(
        {
            "head_a": a.astype(np.int32),
            "head_b": b.astype(np.int32),
            "distance": measured.distance[a, b],
            "error": measured.error[a, b],
        }
    )
    table.attrs["note"] = (
        f"The mean Jensen-Shannon divergence of each pair of heads {over} (nats; 0: they attend alike, 0.69: to no key in "
        "common) and half the width of its 95 % interval; heads by their row of the table of heads, from 0."
        + f" {few}"
        * bool(few)
    )
    return table


def _tree_rows(tree: FloatArray, linkage: Linkage) -> pd.DataFrame:
    import pandas as pd

    table = pd.DataFrame(
        {
            "step": np.arange(len(tree)),
            "left": tree[:, 0].astype(np.int64),
            "right": tree[:, 1].astype(np.int64),
            "height": tree[:, 2],
            "n_leaves": tree[:, 3].astype(np.int64),
        }
    )
    table.attrs["note"] = (
        f"Clusters of heads by {linkage} linkage of the roots of their distances, a row a merge: with n heads that were "
        "measured, numbered from 0 in their order, the merge of row i makes number n + i, at this height."
    )
    return table
