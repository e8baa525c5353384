"""Heads data: the records that the figures of all heads are drawn from, the tables behind them, and how numbers are written.

In: an index with its tables of heads. Out: tables, columns aligned with the table of heads, and what there is to choose among.
Knows no widget and draws nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from qkspace.app.language import say, strings
from qkspace.heads import kept

if TYPE_CHECKING:
    from qkspace.app.select import Shown
    from qkspace.app.state import Figure, Language
    from qkspace.index import Index
    from qkspace.schema import FloatArray, IntArray

TOGETHER = ("all", "all with punctuation")  # in the place of a relation, in the tables of relations
MOST_VALUES = 30  # of a column that have a panel
CHOSEN_X = ("sink_share", "attention_to_special")  # what heads look at, across the figure of what matters
ABLATIONS = {"ablation": "loss_change", "mean-ablation": "loss_change_mean"}  # and the column of what changes
NOT_SHARES = ("entropy", "distance", "norm", "cluster", "loss_change", "weight")  # in the name of what is no share of 1


@dataclass(frozen=True, slots=True, eq=False)
class Panel:
    """A dot a head, and what it is compared with.

    y: (row of the table of heads), nan where nothing was measured; x: likewise, None where the dots stand by layer. title,
    x_name, y_name: in words. uniform: (layer), what equal attention to all would give; mean: whether the mean of each layer is
    drawn. low, high: ends of the interval of y, (row). is_share, x_is_share: of 1, written as per
    cent. is_map: places without a scale.
    """

    title: str
    y: FloatArray
    x: FloatArray | None = None
    x_name: str = ""
    y_name: str = ""
    uniform: FloatArray | None = None
    mean: bool = True
    low: FloatArray | None = None
    high: FloatArray | None = None
    is_share: bool = True
    x_is_share: bool = False
    is_map: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class Bars:
    """Rows with a value each and what it is compared with, the first on top.

    name, says, value, low, high: (row); base, base_low, base_high: (row), nan where a row has no baseline. layer, head: which
    head a row is of, -1 where of none. is_base: whether the row itself is a baseline. n: how many were counted, where it is the
    same in all rows.
    """

    title: str
    name: list[str]
    says: list[str]
    value: FloatArray
    low: FloatArray
    high: FloatArray
    base: FloatArray
    base_low: FloatArray
    base_high: FloatArray
    layer: IntArray
    head: IntArray
    is_base: list[bool]
    n: int | None = None


# ---------------------------------------------------------------- tables


@lru_cache(maxsize=32)
def table_of(index: Index, name: str) -> pd.DataFrame | None:
    """Return a table of an analysis, or "surface" or "profile" of the index itself; None where it has none."""
    if name in ("surface", "profile"):
        return index.table(name) if (index.root / f"{name}.parquet").exists() else None
    return kept.read(index, name) if name in kept.tables(index) else None


@lru_cache(maxsize=4)
def labels_of(shown: Shown) -> list[str]:
    """Return what each head does in a word (row of the table of heads), "" where nothing stands out."""
    from qkspace.heads.labels import OTHER, labels

    heads = shown.head_table[["layer", "head"]]
    found = heads.merge(labels(shown.head_table), on=["layer", "head"], how="left")
    return ["" if pd.isna(label) or label == OTHER else str(label) for label in found["label"]]


def aligned(shown: Shown, table: pd.DataFrame, column: str) -> FloatArray:
    """Return a column of a table of heads, (row of `shown.head_table`), nan where the table lacks the head, or the column."""
    if column not in table:
        return np.full(len(shown.head_table), np.nan)
    values = table.set_index(["layer", "head"])[column]
    places = pd.MultiIndex.from_frame(shown.head_table[["layer", "head"]])
    return np.asarray(values[~values.index.duplicated()].reindex(places), dtype=np.float64)


def by_layer(shown: Shown, values: FloatArray) -> FloatArray:
    """Return the mean of each layer, (layer), over the heads that have a value; nan where none has."""
    return by_layer_of(shown.head_table["layer"].to_numpy(), values)


def by_layer_of(layer: IntArray, values: FloatArray) -> FloatArray:
    """Return the mean of values of each layer, (layer); layer: of each value."""
    means = pd.Series(np.asarray(values, dtype=np.float64)).groupby(layer).mean()
    return np.asarray(means.reindex(range(int(layer.max()) + 1)), dtype=np.float64)


# ---------------------------------------------------------------- choices


def statistic_names(shown: Shown, language: Language = "en") -> dict[str, str]:
    """Return the statistics of heads, and what analyses found of them, with what the page calls them."""
    called = strings(language)
    table = shown.head_table
    known = [name for name in table.columns if f"stat_{name}" in called and name != "entropy_uniform"]
    return {str(name): called[f"stat_{name}"] for name in known if table[name].notna().any()}


def colour_choices(shown: Shown, language: Language = "en") -> dict[str, str]:
    """Return what dots can be coloured by, with what the page calls it."""
    own = {"label": say(language, "by_label"), "layer": say(language, "by_layer")}
    return own | statistic_names(shown, language)


def aspects(shown: Shown, figure: Figure, language: Language = "en") -> dict[str, str]:
    """Return what of a figure can be shown, "" being what it begins with; nothing where there is no choice."""
    index = shown.index
    if figure == "where" and (surface := table_of(index, "surface")) is not None:
        columns = [str(name) for name in surface["column"].unique() if name]
        return {"": say(language, "aspect_classes"), **{name: name for name in columns}} if columns else {}
    if figure == "profile":
        return {"": say(language, "aspect_curves"), "heat": say(language, "aspect_heat")}
    if figure == "among":
        return {"": say(language, "aspect_mds"), "umap": say(language, "aspect_umap")}
    if figure == "relations" and (table := table_of(index, "relations-best")) is not None:
        found = [str(name) for name in relations_in_order(table)["relation"]]
        both = {name: say(language, f"relation_{name.replace(' ', '_')}") for name in TOGETHER if name in found}
        both.pop("all", None)
        return {"": say(language, "relation_all"), **both, **{name: name for name in found if name not in TOGETHER}}
    if figure == "matters":
        names = statistic_names(shown, language)
        for column in ABLATIONS.values():  # which stand up
            names.pop(column, None)
        return {"": names.pop(looked_at(shown, "")), **names}
    return {"": ""}


def looked_at(shown: Shown, aspect: str) -> str:
    """Return which statistic stands across in the figure of what matters."""
    names = statistic_names(shown)
    return aspect or next((name for name in CHOSEN_X if name in names), next(iter(names)))


def values_of(shown: Shown, column: str) -> int:
    """Return how many values of a column of the corpus have been counted; 0 of the classes of tokens."""
    table = table_of(shown.index, "surface")
    return 0 if table is None or not column else int(table.loc[table["column"] == column, "value"].nunique())


# ---------------------------------------------------------------- what is written


def is_share(name: str) -> bool:
    """Tell whether a statistic is a share of 1, which is written as per cent."""
    return not any(part in name for part in NOT_SHARES)


def per_cent(share: float) -> str:
    """Write a share as per cent, with more decimals where it is small."""
    if np.isnan(share):
        return "-"
    return f"{100 * share:.1f} %" if share == 0 or abs(share) >= 0.001 else f"{100 * share:.2g} %"


def direction_sign(direction: str) -> str:
    """Return a direction as a sign: what points where."""
    return {"dependent to head": "dep → head", "head to dependent": "head → dep"}.get(direction, direction)


def relations_in_order(table: pd.DataFrame) -> pd.DataFrame:
    """Return the best heads of all relations: all of them together first, then what gains most over its offset."""
    together = table["relation"].isin(TOGETHER)
    rest = table[~together].sort_values("gain", ascending=False, kind="stable")
    return pd.concat([table[together], rest], ignore_index=True)


def head_names(layers: Sequence[int] | IntArray, heads: Sequence[int] | IntArray) -> list[str]:
    """Return heads as they are printed, such as L3H5."""
    return [f"L{int(layer)}H{int(head)}" for layer, head in zip(layers, heads, strict=True)]


def nearest_tips(shown: Shown, distances: pd.DataFrame, language: Language) -> list[str]:
    """Say of each head which other attends most like it (row of the table of heads)."""
    columns = {name: aligned(shown, distances, name) for name in ("nearest_layer", "nearest_head", "nearest_distance")}
    rows = zip(*columns.values(), strict=True)
    return [
        "" if np.isnan(far) else say(language, "tip_nearest", head=f"L{layer:.0f}H{head:.0f}", distance=f"{far:.3f}")
        for layer, head, far in rows
    ]


@lru_cache(maxsize=4)
def measured_distances(index: Index) -> dict[str, pd.DataFrame]:
    """Measure how far heads are apart, for a page of an index that does not hold it.

    Raises:
        QKSpaceError: it cannot be measured.
    """
    from qkspace.heads.distances import analyse

    return dict(analyse(index).tables)
