"""Heads' panels: the dots of every figure of all heads, as arrays.

In: an index with its tables of heads. Out: `Panel`s. Knows no widget and draws nothing.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from qkspace.app.heads_data import (
    ABLATIONS,
    MOST_VALUES,
    Panel,
    aligned,
    aspects,
    by_layer,
    is_share,
    looked_at,
    statistic_names,
    table_of,
)
from qkspace.app.language import say, strings

if TYPE_CHECKING:
    import pandas as pd

    from qkspace.app.select import Shown
    from qkspace.app.state import Language
    from qkspace.index import Index
    from qkspace.schema import FloatArray

CLASSES = (  # of keys, in the order of their panels
    *("special", "first", "punctuation", "previous", "next", "self", "row", "column", "cls"),
    *("special_to_special", "other_to_special"),
)
NAMED = {
    "special_to_special": "stat_attention_special_to_special",
    "other_to_special": "stat_attention_other_to_special",
}
SAID_BETTER = {"self_text": "to_self", "sink": "to_cls"}  # of images, which both columns tell
SURFACE = {
    "previous_token_text": "previous",
    "next_token_text": "next",
    "self_text": "self",
    "sink": "first",
}  # the same there
OF_ATTENTION = ("attention_to_", "sink_share")  # begin the names of shares of attention


def where_panels(shown: Shown, column: str, *, weighted: bool, language: Language) -> list[Panel]:
    """Return where heads look: a panel a class of tokens, or a value of a column of the corpus."""
    table = table_of(shown.index, "surface")
    if table is None:
        return _old_panels(shown, language)
    is_weighed = weighted and "attention_by_value" in table
    groups = {str(value): rows for value, rows in table[table["column"] == column].groupby("value", sort=False)}
    panels = []
    for value in _in_order(groups, column)[:MOST_VALUES]:
        of_value = groups[value]
        y = aligned(shown, of_value, "attention_by_value" if is_weighed else "attention")
        uniform = by_layer(shown, aligned(shown, of_value, "uniform"))
        if nothing(y) and nothing(uniform):
            continue
        title = value if column else class_name(value, language)
        panels.append(Panel(title, y, y_name=say(language, "axis_attention"), uniform=uniform))
    return panels


def _in_order(groups: dict[str, pd.DataFrame], column: str) -> list[str]:
    """Return classes in their own order, and values of a column by how many tokens have them, the commonest first."""
    if not column:
        return sorted(groups, key=lambda value: CLASSES.index(value) if value in CLASSES else len(CLASSES))
    return sorted(groups, key=lambda value: -float(groups[value]["share_of_tokens"].mean()))


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
        if nothing(y):
            continue
        error = aligned(shown, table, f"{name}_error") if f"{name}_error" in table else None
        panels.append(
            Panel(
                called[f"behaviour_{name}"],
                y,
                y_name=axis,
                uniform=by_layer(shown, aligned(shown, table, equal)) if equal in table else _equal(shown, name, y),
                low=None if error is None else y - error,
                high=None if error is None else y + error,
            )
        )
    return panels


def nothing(values: FloatArray) -> bool:
    """Tell whether values are unknown or 0 throughout: what no head can attend to, such as the next token of a decoder."""
    return not np.nan_to_num(values).any()


def _equal(shown: Shown, name: str, y: FloatArray) -> FloatArray | None:
    """Return what equal attention gives by layer of a behaviour that was measured where heads look is too."""
    table = table_of(shown.index, "surface")
    if table is None or name not in SURFACE:
        return None
    same = table[(table["column"] == "") & (table["value"] == SURFACE[name])]
    is_it = np.allclose(aligned(shown, same, "attention"), y, atol=1e-6, equal_nan=True)
    return by_layer(shown, aligned(shown, same, "uniform")) if is_it else None


def relation_panel(shown: Shown, relation: str, language: Language) -> Panel:
    """Return how often each head points along a relation, in the direction that is better on what one chooses by."""
    table = table_of(shown.index, "relations-all")
    assert table is not None, "the caller has looked"
    of_relation = table[table["relation"] == (relation or "all")]
    by_choice = of_relation[of_relation["split"] == "choose"].sort_values("accuracy", ascending=False, kind="stable")
    better = by_choice.drop_duplicates(["layer", "head"])[["layer", "head", "direction"]]
    reported = of_relation[of_relation["split"] == "report"].merge(better, on=["layer", "head", "direction"])
    y = aligned(shown, reported, "accuracy")
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
    if baselines is not None:
        nearest = baselines.loc[(baselines["kind"] == "all") & (baselines["baseline"] == "nearest"), "accuracy"]
        uniform = np.full(shown.index.n_layers, float(nearest.iloc[0])) if len(nearest) else None
    axis = say(language, "axis_accuracy")
    return [Panel(say(language, "panel_coreference"), aligned(shown, table, "accuracy"), y_name=axis, uniform=uniform)]


def matters_panels(shown: Shown, aspect: str, language: Language) -> list[Panel]:
    """Return what taking a head out changes, against what it looks at: a panel for zeros and one for its mean, if measured."""
    of = looked_at(shown, aspect)
    x, x_name = shown.head_table[of].to_numpy(dtype=np.float64), statistic_names(shown, language)[of]
    if of.startswith(OF_ATTENTION):
        x_name = say(language, "axis_share_of", what=x_name)
    panels = []
    for name, column in ABLATIONS.items():
        if (table := table_of(shown.index, name)) is None:
            continue
        low, high = (aligned(shown, table, end) if end in table else None for end in ("low", "high"))
        title, axis = say(language, f"panel_{name}"), say(language, f"axis_change_{table['measure'].iloc[0]}")
        panel = Panel(title, aligned(shown, table, column), x, x_name, axis, mean=False, low=low, high=high)
        panels.append(replace(panel, is_share=False, x_is_share=is_share(of)))
    return panels


def among_panel(shown: Shown, distances: pd.DataFrame, aspect: str, language: Language) -> Panel:
    """Return the heads in the plane, near where they attend alike."""
    method = aspect or "mds"
    x, y = (aligned(shown, distances, f"{method}_{axis}") for axis in "xy")
    return Panel(say(language, f"panel_{method}"), y, x, mean=False, is_share=False, is_map=True)
