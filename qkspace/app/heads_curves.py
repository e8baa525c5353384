"""Heads' curves: attention by relative distance, and the tree of heads that attend alike, as lines.

In: an index with its tables of heads. Out: arrays of a profile and of a dendrogram. Knows no widget and draws nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from qkspace.app.heads_data import aligned, table_of

if TYPE_CHECKING:
    import pandas as pd

    from qkspace.app.select import Shown
    from qkspace.schema import FloatArray, IntArray


@dataclass(frozen=True, slots=True, eq=False)
class Profiles:
    """Attention of all heads by relative distance: offset (offset), key less query; attention and uniform (row, offset).

    Rows are those of `Shown.head_table`; the first and the last offset hold all that lies beyond.
    """

    offset: IntArray
    attention: FloatArray
    uniform: FloatArray


def profiles(shown: Shown) -> Profiles | None:
    """Return the profiles of all heads; None where the index was made before they were."""
    table = table_of(shown.index, "profile")
    if table is None:
        return None
    rows = shown.head_table[["layer", "head"]]
    both = [
        table.pivot_table(index=["layer", "head"], columns="offset", values=name) for name in ("attention", "uniform")
    ]
    places = list(zip(rows["layer"], rows["head"], strict=True))
    attention, uniform = (np.asarray(each.reindex(places), dtype=np.float64) for each in both)
    return Profiles(both[0].columns.to_numpy(dtype=np.int64), attention, uniform)


@dataclass(frozen=True, slots=True, eq=False)
class Tree:
    """A dendrogram: xs, ys, the lines of its joins (join, 4); leaves: rows of the table of heads from the top down.

    A leaf stands at height 0 and at the number of its place, and joins lie to the left of it.
    """

    xs: FloatArray
    ys: FloatArray
    leaves: IntArray


def tree_of(shown: Shown, distances: pd.DataFrame, joins: pd.DataFrame) -> Tree:
    """Return the dendrogram of the tables distances and distances-tree (`qkspace.heads.distances`)."""
    from qkspace.heads.distances import dendrogram_layout

    drawn = dendrogram_layout(joins)
    measured = np.flatnonzero(np.isfinite(aligned(shown, distances, "cluster")))  # of which the tree is
    return Tree(drawn.y, drawn.x, measured[drawn.leaves])
