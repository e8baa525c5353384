"""Drift: what is shown of the change of heads, as pure functions of the table of all heads.

In: `Comparison.drift`. Out: which measures there are, how much each head changed, in which order, and how that went from
checkpoint to checkpoint. Knows no widgets, no language and no arrays of tokens.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from qkspace.schema import BoolArray, FloatArray, IntArray

if TYPE_CHECKING:
    import pandas as pd

    from qkspace.comparison.reader import Comparison

MEASURES = ("js", "js_content", "value_js", "product_change", "logit_change", "query_cka", "key_cka", "match_cost")
ALIKE = ("query_cka", "key_cka")  # 1 where nothing changed
SIGNED = "_change"  # ends the names of measures that may go either way
GENERAL = ("attention_to_sink",)  # told where no plainer statistic says the same
RESTS = ("attention_to_first", "attention_to_special", "attention_to_sink")  # shares of nearly the same tokens
ONE_POINT = 0.01  # of attention, by which the changes of two such shares may differ and still be one,
ONE_FIFTH = 0.2  # or this part of the larger change
MAX_CURVES = 1_000  # heads whose curves are drawn; of more, those that changed most


def statistics(table: pd.DataFrame) -> list[str]:
    """Return the statistics of a head whose change is known, such as entropy."""
    names = [name.removesuffix(SIGNED) for name in table.columns if name.endswith(SIGNED)]
    return [name for name in names if f"{name}_base" in table]


def measures(table: pd.DataFrame) -> list[str]:
    """Return the columns by which heads can be coloured and sorted: those that say something of any head."""
    known = [*MEASURES, *(f"{name}{SIGNED}" for name in statistics(table))]
    return [name for name in known if name in table and bool(np.isfinite(table[name]).any())]


def is_signed(measure: str) -> bool:
    """Tell whether a measure says which way something changed, and not only how far."""
    return measure.endswith(SIGNED) and measure not in MEASURES


def amount(table: pd.DataFrame, measure: str) -> FloatArray:
    """Return how much each head changed by a measure, more being more change: (head)."""
    values = table[measure].to_numpy(dtype=np.float64)
    return np.asarray(1 - values if measure in ALIKE else np.abs(values))


def order(table: pd.DataFrame, measure: str) -> IntArray:
    """Return the heads, the most changed first and those of which nothing is known last: (head)."""
    much = amount(table, measure)
    return np.argsort(np.where(np.isnan(much), np.inf, -much), kind="stable")


def place(table: pd.DataFrame, layer: int, head: int) -> int:
    """Return the row of a head in the table of one checkpoint."""
    return int(np.flatnonzero((table["layer"] == layer) & (table["head"] == head))[0])


def is_quiet(table: pd.DataFrame) -> BoolArray:
    """Tell which heads changed no more than storing the vectors may make them seem to: (head)."""
    return np.asarray(table["js"].to_numpy() <= table["noise_floor"].to_numpy())


def span(comparison: Comparison, measure: str) -> tuple[float, float]:
    """Return the ends of the scale of a measure, over all checkpoints, so that they can be compared."""
    values = comparison.drift[measure].to_numpy(dtype=np.float64)
    values = values[np.isfinite(values)]
    if is_signed(measure):
        far = float(np.abs(values).max(initial=0.0)) or 1.0
        return -far, far
    if measure in ALIKE:
        return min(float(values.min(initial=1.0)), 0.999), 1.0
    return 0.0, float(values.max(initial=0.0)) or 1.0


def spreads(table: pd.DataFrame) -> dict[str, float]:
    """Return how far the heads of the base differ in each statistic: by it changes of different units are compared."""
    return {name: float(table[f"{name}_base"].std(ddof=0)) for name in statistics(table)}


def remarkable(row: Mapping[str, Any], spread: Mapping[str, float], top: int) -> list[str]:
    """Return the statistics of a head that changed most, the most first; only those whose interval leaves out 0."""
    found = []
    for name, usual in spread.items():
        change, low, high = (float(row[f"{name}{SIGNED}{end}"]) for end in ("", "_low", "_high"))
        if change and low * high > 0 and usual > 0:
            found.append((-abs(change) / usual, name in GENERAL, name))
    told: list[str] = []
    for _, _, name in sorted(found):
        if not any(_is_one(row, name, other) for other in told):
            told.append(name)
    return told[:top]


def _is_one(row: Mapping[str, Any], name: str, other: str) -> bool:
    """Tell whether two statistics say one thing: alike before and after, or changed alike on nearly the same tokens."""

    def far(end: str) -> float:
        return abs(float(row[f"{name}{end}"]) - float(row[f"{other}{end}"]))

    if name in RESTS and other in RESTS:
        larger = max(abs(float(row[f"{each}{SIGNED}"])) for each in (name, other))
        return far(SIGNED) <= max(ONE_POINT, ONE_FIFTH * larger)
    return max(far("_base"), far("_tuned")) < 1e-6


@dataclass(frozen=True, slots=True)
class Curves:
    """How a measure went from checkpoint to checkpoint.

    x: step or number of each checkpoint (checkpoint); values: (head, checkpoint); layer, head: of each curve (head);
    labels: of the checkpoints; is_step: x are steps of training, and not numbers from 0 for the base on.
    """

    x: FloatArray
    values: FloatArray
    layer: IntArray
    head: IntArray
    labels: tuple[str, ...]
    is_step: bool


def curves(comparison: Comparison, measure: str, layer: int, head: int) -> Curves:
    """Return the curves of all heads, of which the chosen one is the last; of very many, those that changed most.

    They begin with the base, which does not differ from itself.
    """
    labels = comparison.labels
    tables = [comparison.head_drift(label) for label in labels]
    start = 1.0 if measure in ALIKE else 0.0
    values = np.stack([table[measure].to_numpy(dtype=np.float64) for table in tables], axis=1)
    values = np.concatenate([np.full((len(values), 1), start), values], axis=1)
    much = np.stack([amount(table, measure) for table in tables])
    most = np.where(np.isnan(much), -1.0, much).max(axis=0)
    layers, heads = tables[0]["layer"].to_numpy(), tables[0]["head"].to_numpy()
    here = (layers == layer) & (heads == head)
    drawn = np.argsort(np.where(here, -np.inf, -most), kind="stable")[1:MAX_CURVES]
    drawn = np.append(drawn, np.flatnonzero(here))
    steps = [comparison.steps.get(label) for label in labels]
    known = [step for step in steps if step is not None]
    is_step = len(known) == len(labels) and known == sorted(set(known)) and known[0] > 0
    x = np.array([0, *known] if is_step else range(len(labels) + 1), dtype=np.float64)
    return Curves(x, values[drawn], layers[drawn], heads[drawn], labels, is_step)


def layer_curve(comparison: Comparison, measure: str, layer: int) -> FloatArray:
    """Return how the mean of a measure over the heads of a layer went, from the base on: (base and checkpoint)."""
    tables = [comparison.head_drift(label) for label in comparison.labels]
    means = [table.loc[table["layer"] == layer, measure].mean() for table in tables]
    return np.array([1.0 if measure in ALIKE else 0.0, *means], dtype=np.float64)
