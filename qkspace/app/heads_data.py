"""Heads data: what the figures of all heads show, as arrays.

In: an index with its tables of heads. Out: panels of dots, rows of bars and curves, and what there is to choose among. Knows no
widget and draws nothing.
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

CLASSES = (  # of keys, in the order of their panels
    *("special", "first", "punctuation", "previous", "next", "self", "row", "column", "cls"),
    *("special_to_special", "other_to_special"),
)
NAMED = {
    "special_to_special": "stat_attention_special_to_special",
    "other_to_special": "stat_attention_other_to_special",
}
TOGETHER = ("all", "all with punctuation")  # in the place of a relation, in the tables of relations
SAID_BETTER = {"self_text": "to_self", "sink": "to_cls"}  # of images, which both columns tell
MOST_VALUES = 30  # of a column that have a panel
CHOSEN_X = ("sink_share", "attention_to_special")  # what heads look at, across the figure of what matters
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
    head a row is of, -1 where of none. is_base: whether the row itself is a baseline.
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
    """Return a column of a table of heads, (row of `shown.head_table`), nan where the table lacks the head."""
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
        names.pop("loss_change", None)
        first = next((name for name in CHOSEN_X if name in names), "")
        return {"": names.pop(first, ""), **names}
    return {"": ""}


def looked_at(shown: Shown, aspect: str) -> str:
    """Return which statistic stands across in the figure of what matters."""
    names = statistic_names(shown)
    return aspect or next(name for name in CHOSEN_X if name in names)


# ---------------------------------------------------------------- panels


def where_panels(shown: Shown, column: str, *, weighted: bool, language: Language) -> list[Panel]:
    """Return where heads look: a panel a class of tokens, or a value of a column of the corpus."""
    table = table_of(shown.index, "surface")
    if table is None:
        return _old_panels(shown, language)
    groups = {str(value): rows for value, rows in table[table["column"] == column].groupby("value", sort=False)}
    values = list(groups)
    if not column:
        values.sort(key=lambda value: CLASSES.index(value) if value in CLASSES else len(CLASSES))
    panels = []
    for value in values[:MOST_VALUES]:
        of_value = groups[value]
        y = aligned(shown, of_value, "attention_by_value" if weighted else "attention")
        if np.isnan(y).all():
            continue
        uniform = by_layer(shown, aligned(shown, of_value, "uniform"))
        title = value if column else class_name(value, language)
        panels.append(Panel(title, y, y_name=say(language, "axis_attention"), uniform=uniform))
    return panels


def _old_panels(shown: Shown, language: Language) -> list[Panel]:
    """Return what the statistics of an index tell that was made before classes were counted; without equal attention."""
    table = shown.head_table
    known = [
        name for name in CLASSES if f"attention_to_{name}" in table and f"stat_attention_to_{name}" in strings(language)
    ]
    axis = say(language, "axis_attention")
    values = {name: table[f"attention_to_{name}"].to_numpy(dtype=np.float64) for name in known}
    return [Panel(class_name(name, language), y, y_name=axis) for name, y in values.items() if not np.isnan(y).all()]


def class_name(value: str, language: Language) -> str:
    """Return what the page calls a class of tokens; as it stands where it is none of ours."""
    return strings(language).get(NAMED.get(value, f"stat_attention_to_{value}"), value)


def entropy_panels(shown: Shown, language: Language) -> list[Panel]:
    """Return how spread out attention is: of all tokens, and of the first."""
    table = shown.head_table
    equal = table["entropy_uniform"].to_numpy(dtype=np.float64) if "entropy_uniform" in table else None
    first_equal = (
        table["entropy_first_uniform"].to_numpy(dtype=np.float64) if "entropy_first_uniform" in table else equal
    )
    axis = say(language, "axis_entropy")
    panels = []
    for name, uniform in (("entropy", equal), ("entropy_first", first_equal)):
        if name in table and table[name].notna().any():
            y, title = table[name].to_numpy(dtype=np.float64), say(language, f"panel_{name}")
            line = None if uniform is None else by_layer(shown, uniform)
            panels.append(Panel(title, y, y_name=axis, uniform=line, is_share=False))
    return panels


def behaviour_panels(shown: Shown, language: Language) -> list[Panel]:
    """Return the scores of known behaviours, with their 95 % intervals where there are any."""
    table = table_of(shown.index, "behaviours")
    if table is None:
        return []
    called, axis = strings(language), say(language, "axis_score")
    measured = [str(name) for name in table.columns if f"behaviour_{name}" in called and table[name].notna().any()]
    panels = []
    for name in measured:
        if SAID_BETTER.get(name) in measured:
            continue
        y, equal = aligned(shown, table, name), f"{name}_uniform"
        error = aligned(shown, table, f"{name}_error") if f"{name}_error" in table else None
        panels.append(
            Panel(
                called[f"behaviour_{name}"],
                y,
                y_name=axis,
                uniform=by_layer(shown, aligned(shown, table, equal)) if equal in table else None,
                low=None if error is None else y - error,
                high=None if error is None else y + error,
            )
        )
    return panels


def relation_panel(shown: Shown, relation: str, language: Language) -> Panel:
    """Return how often each head points along a relation, in the better of its two directions."""
    table = table_of(shown.index, "relations-all")
    assert table is not None, "the caller has looked"
    chosen = table[(table["relation"] == (relation or "all")) & (table["split"] == "report")]
    best = chosen.groupby(["layer", "head"])["accuracy"].max().reset_index()
    y = aligned(shown, best, "accuracy") if len(best) else np.full(len(shown.head_table), np.nan)
    offset = _offset_of(shown.index, relation or "all")
    uniform = None if offset is None else np.full(shown.index.n_layers, offset)
    title = aspects(shown, "relations", language).get(relation, relation)
    return Panel(title, y, y_name=say(language, "axis_accuracy"), uniform=uniform)


def _offset_of(index: Index, relation: str) -> float | None:
    table = table_of(index, "relations-best")
    found = None if table is None else table.loc[table["relation"] == relation, "offset_accuracy"]
    return None if found is None or found.empty else float(found.iloc[0])


def coreference_panels(shown: Shown, language: Language) -> list[Panel]:
    """Return how often each head finds the antecedent of a mention, with the nearest mention as baseline."""
    table, baselines = (table_of(shown.index, f"coreference{end}") for end in ("", "-baselines"))
    if table is None:
        return []
    uniform = None
    if baselines is not None and len(of_all := baselines[baselines["kind"] == "all"]):
        uniform = np.full(shown.index.n_layers, float(of_all["accuracy"].iloc[0]))
    axis = say(language, "axis_accuracy")
    return [Panel(say(language, "panel_coreference"), aligned(shown, table, "accuracy"), y_name=axis, uniform=uniform)]


def matters_panel(shown: Shown, aspect: str, language: Language) -> Panel | None:
    """Return what taking a head out changes, against what it looks at; None where it was not measured."""
    table = table_of(shown.index, "ablation")
    if table is None:
        return None
    of = looked_at(shown, aspect)
    x = shown.head_table[of].to_numpy(dtype=np.float64)
    low, high = (aligned(shown, table, end) if end in table else None for end in ("low", "high"))
    y, x_name = aligned(shown, table, "loss_change"), statistic_names(shown, language)[of]
    axis = say(language, f"axis_change_{table['measure'].iloc[0]}")
    return Panel("", y, x, x_name, axis, mean=False, low=low, high=high, is_share=False, x_is_share=is_share(of))


def among_panel(shown: Shown, distances: pd.DataFrame, aspect: str, language: Language) -> Panel:
    """Return the heads in the plane, near where they attend alike."""
    method = aspect or "mds"
    x, y = (aligned(shown, distances, f"{method}_{axis}") for axis in "xy")
    return Panel(say(language, f"panel_{method}"), y, x, mean=False, is_share=False, is_map=True)


def is_share(name: str) -> bool:
    """Tell whether a statistic is a share of 1, which is written as per cent."""
    return not any(part in name for part in NOT_SHARES)


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
