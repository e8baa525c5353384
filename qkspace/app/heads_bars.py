"""Heads' bars: the tables of relations, coreference and probes as rows with intervals and baselines.

In: an index with its tables of heads. Out: `Bars`. Knows no widget and draws nothing.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from qkspace.app.heads_data import TOGETHER, Bars, direction_sign, head_names, per_cent, relations_in_order, table_of
from qkspace.app.language import say, strings

if TYPE_CHECKING:
    from qkspace.app.state import Language
    from qkspace.index import Index
    from qkspace.schema import FloatArray

OWN_PROBES = ("attention", "attention and words")  # all others are what they are compared with


def relation_bars(index: Index, language: Language) -> Bars | None:
    """Return the best head of every relation and its best offset; None where it was not measured."""
    table = table_of(index, "relations-best")
    if table is None or table.empty:
        return None
    table = relations_in_order(table)
    names = head_names(table["layer"].to_numpy(), table["head"].to_numpy())
    columns = (table[name] for name in ("direction", "offset", "n_report", "gain"))
    says = [
        f"{100 * gain:+.0f} · {name} {direction_sign(direction)} · {say(language, 'bar_offset', offset=f'{offset:+.0f}')}"
        f" · n = {n:,.0f}"
        for name, direction, offset, n, gain in zip(names, *columns, strict=True)
    ]
    together = {name: say(language, f"relation_{name.replace(' ', '_')}") for name in TOGETHER}
    return _bars(
        "",
        table,
        name=[together.get(relation, str(relation)) for relation in table["relation"]],
        says=says,
        base="offset_accuracy",
        is_base=[False] * len(table),
    )


def coreference_bars(index: Index, language: Language) -> list[Bars]:
    """Return a group of rows a kind of mention: the best head, and the baselines; of GAP also by the gender of the pronoun."""
    return [*_groups(index, "coreference", "kind", language), *_groups(index, "coreference-gap", "gender", language)]


def _groups(index: Index, of: str, column: str, language: Language) -> list[Bars]:
    best, baselines = table_of(index, f"{of}-best"), table_of(index, f"{of}-baselines")
    if best is None or baselines is None:
        return []
    groups = []
    for group in best[column].astype(str):
        own, others = best[best[column] == group].head(1), baselines[baselines[column] == group]
        both = pd.concat([own, others.assign(layer=-1, head=-1)], ignore_index=True)
        names = head_names(own["layer"].to_numpy(), own["head"].to_numpy())
        called = [_best(name, str(way), language) for name, way in zip(names, own.get("direction", [""]), strict=False)]
        called += [_named(f"baseline_{name}", str(name), language) for name in others["baseline"]]
        title = _named(f"{'mention' if of == 'coreference' else 'gap'}_{group}", group, language)
        is_base = [False] * len(own) + [True] * len(others)
        says, counts = [per_cent(value) for value in both["accuracy"]], both["n"].fillna(0).astype(int)
        n = int(counts.iloc[0]) if counts.nunique() == 1 else None
        if n is None:
            says = [f"{value} · n = {each:,}" for value, each in zip(says, counts, strict=True)]
        groups.append(replace(_bars(title, both, name=called, says=says, is_base=is_base), n=n))
    return groups


def _best(head: str, direction: str, language: Language) -> str:
    """Name the row of a best head: with the direction in which it is, where the table tells it."""
    if not direction:
        return say(language, "bar_best_head", head=head)
    way = _named(f"direction_{direction}", direction, language)
    return say(language, "bar_directed", head=head, direction=way)


def probe_bars(index: Index, language: Language) -> Bars | None:
    """Return how much of the tree probes find, the best first; None where none was trained."""
    table = table_of(index, "probes-scores")
    if table is None or table.empty:
        return None
    table = table.sort_values("uas", ascending=False, kind="stable").reset_index(drop=True)
    table = table.assign(accuracy=table["uas"], layer=-1, head=-1)
    names = [_named(f"probe_{name}", str(name), language) for name in table["probe"]]
    is_base = [name not in OWN_PROBES for name in table["probe"]]
    says = [per_cent(value) for value in table["uas"]]
    if "uas_with_punctuation" in table:
        more = [say(language, "bar_punctuation", share=per_cent(share)) for share in table["uas_with_punctuation"]]
        says = [f"{text} · {also}" for text, also in zip(says, more, strict=True)]
    counts = [say(language, "bar_probe", n=int(n)) for n in table["n_words"].fillna(0)]
    says = [f"{text} · {n}" for text, n in zip(says, counts, strict=True)]
    return _bars("", table, name=names, says=says, is_base=is_base)


def _named(name: str, text: str, language: Language) -> str:
    """Return what the page calls a row; as the table says it where the page has no name for it."""
    key = "".join(letter if letter.isalnum() else "_" for letter in name)
    return strings(language).get(key, text)


def _bars(
    title: str, table: pd.DataFrame, *, name: list[str], says: list[str], is_base: list[bool], base: str = ""
) -> Bars:
    """Return the rows of a table with columns accuracy, low, high, layer and head, and of their baseline `base` if any."""

    def column(of: str) -> FloatArray:
        return _numbers(table, of)

    ends = [base.replace("accuracy", end) if base else "" for end in ("low", "high")]
    places: dict[str, Any] = {each: table[each].fillna(-1).to_numpy(dtype=np.int64) for each in ("layer", "head")}
    return Bars(
        *(title, _distinct(name), says, column("accuracy"), column("low"), column("high")),
        *(column(base), column(ends[0]), column(ends[1])),
        **places,
        is_base=is_base,
    )


def _numbers(table: pd.DataFrame, of: str) -> FloatArray:
    if of not in table:
        return np.full(len(table), np.nan)
    return np.asarray(table[of], dtype=np.float64)


def _distinct(names: list[str]) -> list[str]:
    """Return names of which no two are alike, as the axis of a figure wants them."""
    seen: dict[str, int] = {}
    for i, name in enumerate(names):
        seen[name] = seen.get(name, 0) + 1
        names = names if seen[name] == 1 else [*names[:i], f"{name} ({seen[name]})", *names[i + 1 :]]
    return names
