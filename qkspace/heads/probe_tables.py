"""Probe tables: what trained probes found, as tables.

In: of each probe, which words it was right about and what its weights are. Out: its score with an interval, its accuracy by
relation, the weight of each head. Trains nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from qkspace.bootstrap import Float64Array, draw, interval
from qkspace.heads.pointing import DIRECTIONS
from qkspace.heads.probe_data import Sentence
from qkspace.heads.tabulate import heads_of
from qkspace.heads.trees import main_relation
from qkspace.index import Index
from qkspace.schema import BoolArray, IntArray

if TYPE_CHECKING:
    import pandas as pd

WHAT = {
    "probes-scores": "The share of words, punctuation left out, whose head each probe finds (UAS; 1 is all), and with "
    "punctuation; intervals are 95 %, by a bootstrap over sentences.",
    "probes-relations": "The share of words of each relation whose head a probe finds; 1 is all.",
    "probes-weights": "The weight of each head in a probe where a word meets its head, attention divided by its standard "
    "deviation: its mean, and the mean of its size (importance); 0 is no use.",
    "probes": "The share that a head has of all weights of the probe of attention alone, attention divided by its standard "
    "deviation; heads that attend alike share what either could have.",
}


@dataclass(frozen=True, slots=True, eq=False)
class Result:
    """What a probe found. counts: (sentence, 4), right and counted words without punctuation, and with it.

    correct, relation: (word that is counted). weights: of each direction and head, (2, head of any layer), their mean and
    their mean size; None where the probe has none. says: how it was chosen. n_train: sentences.
    """

    name: str
    says: str
    counts: Float64Array
    correct: BoolArray
    relation: NDArray[np.object_]
    n_train: int
    seconds: float
    weights: tuple[NDArray[np.float32], NDArray[np.float32]] | None = None


def result(
    name: str,
    sentences: Sequence[Sentence],
    predicted: Sequence[IntArray],
    **known: Any,  # the other fields
) -> Result:
    """Return what a probe found, by the heads that it predicts: (word) a sentence."""
    counts, correct, relation = [], [], []
    for sentence, found in zip(sentences, predicted, strict=True):
        right, counted = (found == sentence.head) & (sentence.head >= 0), sentence.is_counted
        plain = counted & ~sentence.is_punct
        counts.append([(right & plain).sum(), plain.sum(), (right & counted).sum(), counted.sum()])
        correct.append(right[counted])
        relation.append(sentence.relation[counted])
    sums = np.array(counts, dtype=np.float64)
    return Result(name, counts=sums, correct=np.concatenate(correct), relation=np.concatenate(relation), **known)


def tables_of(index: Index, results: Sequence[Result], note: str, seed: int) -> dict[str, pd.DataFrame]:
    """Return the tables of probes, by name; note: what is to be said of all; seed: of the bootstrap."""
    weighed = [each for each in results if each.weights is not None]
    tables = {"probes-scores": _scores(results, seed), "probes-relations": _relations(results)}
    if weighed:
        tables["probes-weights"] = _weights(index, weighed)
    if any(each.name == "attention" for each in weighed):
        tables["probes"] = _by_head(tables["probes-weights"])
    for name, table in tables.items():
        table.attrs["note"] = f"{WHAT[name]} {note}"
    return tables


def _scores(results: Sequence[Result], seed: int) -> pd.DataFrame:
    import pandas as pd

    times = draw(len(results[0].counts), seed)
    rows = []
    for each in results:
        row: dict[str, Any] = {"probe": each.name}
        for columns, suffix in ((slice(0, 2), ""), (slice(2, 4), "_with_punctuation")):
            sums = each.counts[:, columns]
            low, high = interval(sums, _share, times)
            row |= {f"uas{suffix}": float(_share(sums.sum(axis=0))), f"low{suffix}": low, f"high{suffix}": high}
            row |= {f"n_words{suffix}": int(sums[:, 1].sum())}
        rows.append(row | {"n_train": each.n_train, "seconds": each.seconds, "chosen": each.says})
    return pd.DataFrame(rows).sort_values("uas", ascending=False, kind="stable", ignore_index=True)


def _share(sums: Float64Array) -> Float64Array:
    share: Float64Array = np.divide(
        sums[..., 0], sums[..., 1], out=np.full(sums.shape[:-1], np.nan), where=sums[..., 1] > 0
    )
    return share


def _relations(results: Sequence[Result]) -> pd.DataFrame:
    """Return how many words of each relation are right; a relation with subtypes counts its words of all of them."""
    import pandas as pd

    parts = []
    for each in results:
        main = np.array([main_relation(label) for label in each.relation], dtype=object)
        both = np.concatenate([main, each.relation[each.relation != main]])
        correct = np.concatenate([each.correct, each.correct[each.relation != main]])
        right = pd.DataFrame({"relation": both, "correct": correct}).groupby("relation")["correct"]
        parts.append(right.agg(n="size", accuracy="mean").reset_index().assign(probe=each.name))
    table: pd.DataFrame = pd.concat(parts, ignore_index=True)[["probe", "relation", "n", "accuracy"]]
    return table.sort_values(["n", "relation"], ascending=[False, True], kind="stable", ignore_index=True)


def _weights(index: Index, results: Sequence[Result]) -> pd.DataFrame:
    import pandas as pd

    heads = heads_of(index)
    parts = [
        pd.DataFrame({"probe": each.name, "layer": heads[:, 0], "head": heads[:, 1], "direction": direction}).assign(
            weight=each.weights[0][i], importance=each.weights[1][i]
        )
        for each in results
        if each.weights is not None
        for i, direction in enumerate(DIRECTIONS)
    ]
    return pd.concat(parts, ignore_index=True)


def _by_head(weights: pd.DataFrame) -> pd.DataFrame:
    """Return the share of each head of the importance in the probe of attention alone."""
    table = weights[weights["probe"] == "attention"].groupby(["layer", "head"], as_index=False)["importance"].sum()
    share = table["importance"] / max(float(table["importance"].sum()), 1e-30)
    by_head: pd.DataFrame = table[["layer", "head"]].assign(probe_weight=share)
    return by_head
