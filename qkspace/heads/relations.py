"""Relations: how often a head of attention points from a word to its head in the tree, for each dependency relation.

In: an index of a corpus with trees. Out: the share of words of each relation whose head a head of attention finds, untrained,
beside what the best fixed offset finds; the best head of a relation is chosen on some sentences and reported on others.
Knows no page.

    found = analyse(index)
    found.tables["relations-best"]

After Clark et al. (2019, What Does BERT Look At?, section 4.2): a word's head is taken to be the other word that it attends to
most ("dependent to head"), or that attends to it most ("head to dependent"). They choose the best head on the very sentences
that they report it on, and count the root as an error where all words are counted; neither is done here.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any, get_args

import numpy as np

from qkspace.bootstrap import Float64Array, draw
from qkspace.console import SILENT, Console
from qkspace.heads.asked import refuse_choice, refuse_unfit, unfit
from qkspace.heads.attachment import SCORES, Counts, count, groups_of, read_sentences
from qkspace.heads.found import Found
from qkspace.heads.pointing import DIRECTIONS
from qkspace.heads.splits import split, told
from qkspace.heads.tabulate import accuracy, heads_of, share
from qkspace.heads.trees import COLUMNS, main_relation, refuse_without_trees, trees_of
from qkspace.heads.words import Rows
from qkspace.index import Index
from qkspace.schema import BoolArray, IntArray, QKSpaceError

if TYPE_CHECKING:
    import pandas as pd

# words from the dependent to its head; of equally good ones the first is taken
OFFSETS = (1, -1, 2, -2, 3, -3, 4, -4, 5, -5)
MIN_COUNT = 50  # words of a relation, in both splits, from which its best head is chosen

_COLUMN_OF = {"": "accuracy", "offset_": "offset_accuracy", "gain_": "gain"}
_POINTING = (
    "the other word that a word attends to most (dependent to head), or that attends to it most (head to dependent), is its "
    "head in the tree"
)
_WHAT = {
    "relations": f"uas: share of words, punctuation left out, of which {_POINTING}, whichever is better on the sentences to "
    "choose by; 1 is all of them, 0 none. n_best: relations whose best head it is, subtypes not counted.",
    "relations-all": f"Share of the words of a relation of which {_POINTING}; 1 is all of them, 0 none.",
    "relations-best": f"accuracy: share of the words of a relation, its subtypes among them, of which {_POINTING}, by the one "
    "head of attention that does best; offset_accuracy: the same of always looking so many words away from the dependent; "
    "gain: their difference; 1 is all words, 0 none; low and high: ends of 95 % intervals by a bootstrap over sequences.",
}


# ---------------------------------------------------------------------------------------------- the analysis


def analyse(
    index: Index,
    *,
    choose: str | None = None,
    report: str | None = None,
    seed: int = 0,
    min_count: int = MIN_COUNT,
    rows: Rows = "mean",
    offsets: Iterable[int] = OFFSETS,
    subtypes: bool = True,
    max_sequences: int | None = None,
    console: Console = SILENT,
) -> Found:
    """Count how often each head finds the head of a word, for each dependency relation, and choose the best of each.

        analyse(index, choose="en_ewt-ud-dev.conllu", report="en_ewt-ud-test.conllu")

    Accuracy is over words, all sentences together. Attention is between words (`qkspace.heads.words`), special tokens left
    out. A word points to one of the other words; where it can see none (the first word of a decoder) that is an error, and
    so is, for every head and offset, a word whose head has no token or is in another window. Roots, which have no head among
    the words, are not counted.

    Args:
        index: an index with the columns `head` and `deprel`, as CoNLL-U gives them.
        choose: the file that heads and offsets are chosen by (`qkspace.heads.splits`).
        report: the file that they are reported on.
        seed: of the dealing, the drawing and the bootstrap.
        min_count: words that a relation needs in both splits for its best head to be chosen.
        rows: the row of a word is the "mean" of those of its pieces, or the "first".
        offsets: those that are compared, in words from the dependent to its head.
        subtypes: whether a subtype (acl:relcl) is also counted by itself; the relation (acl) includes it in any case.
        max_sequences: of each split, drawn at random; None: as many as take about half a minute.
        console: where progress is shown.

    Returns:
        Tables relations (a row a head), relations-all (a row a head, direction, relation and split) and relations-best (a row
        a relation, the most frequent first; "all" is the unlabelled attachment score without punctuation). Intervals are
        95 %, by a bootstrap over sequences.

    Raises:
        QKSpaceError: the corpus has no trees, or too little of them to choose and to report.
    """
    tried = _checked(index, offsets, min_count, max_sequences, rows)
    *places, how = split(index, choose, report, seed, among=_with_trees(index))
    by, on = (read_sentences(index, each, tried, max_sequences=max_sequences, seed=seed) for each in places)
    of_by, of_on = (groups_of(each, subtypes=subtypes) for each in (by, on))
    names = [*SCORES, *sorted((of_by | of_on).keys() - set(SCORES), key=lambda name: (-len(of_on.get(name, ())), name))]
    none = np.zeros(0, dtype=np.int64)
    groups = [[each.get(name, none) for name in names] for each in (of_by, of_on)]
    chosen = count(index, by, groups[0], rows=rows, console=console, label="Relations: choosing heads")
    best = chosen.correct.reshape(len(names), -1).argmax(axis=1)
    reported = count(index, on, groups[1], best=best, rows=rows, console=console, label="Relations: reporting them")
    heads = heads_of(index)
    of_best = _best_table(names, heads, best, chosen, reported, min_count, tried, seed)
    tables = {
        "relations": _head_table(heads, chosen, reported, of_best),
        "relations-all": _all_table(names, heads, {"choose": chosen, "report": reported}),
        "relations-best": of_best,
    }
    note = _note(how, chosen, reported)
    for name, table in tables.items():
        table.attrs["note"] = f"{_WHAT[name]} {note}"
    of_best.attrs["told"] = [told(index, places, seed), *_told(chosen, reported)]
    parameters: dict[str, Any] = {
        "choose": choose,
        "report": report,
        "seed": seed,
        "min_count": min_count,
        "rows": rows,
    }
    parameters |= {"offsets": tried, "subtypes": subtypes, "max_sequences": max_sequences}
    return Found(tables, ("uas",), parameters)


def can_be_analysed(index: Index) -> str:
    """Say why an index cannot be analysed so; "" where it can, as far as is quickly told."""
    if trouble := unfit(index):
        return trouble
    missing = [name for name in COLUMNS if name not in index.tokens or not index.tokens[name].notna().any()]
    return f"its corpus has no column {' and no column '.join(missing)} with values, so no trees" if missing else ""


def _checked(index: Index, offsets: Iterable[int], min_count: int, most: int | None, rows: str) -> list[int]:
    """Return the offsets, having checked everything that was asked for."""
    refuse_without_trees(index)
    refuse_unfit(index)
    refuse_choice("rows", rows, get_args(Rows))
    tried = [int(offset) for offset in offsets]
    if not tried or 0 in tried:
        raise QKSpaceError(f"Offsets are words away from a word, such as -2, -1, 1, 2; got {tried}.")
    if min_count < 1 or (most is not None and most < 1):
        raise QKSpaceError(f"min_count and max_sequences are 1 or more; got {min_count} and {most}.")
    return tried


def _with_trees(index: Index) -> IntArray:
    """Return the places of the sequences with words that have a head, which others of the corpus may lack."""
    counted = (trees_of(index).head > 0) & (index.tokens["word"].to_numpy() >= 0)
    return np.flatnonzero(np.add.reduceat(counted, index.row_starts[:-1]))


# ---------------------------------------------------------------------------------------------- tables


def _head_table(heads: IntArray, chosen: Counts, reported: Counts, of_best: pd.DataFrame) -> pd.DataFrame:
    """Return a row a head: its attachment score in the direction that was better on the sentences to choose by."""
    import pandas as pd

    direction = chosen.correct[0].argmax(axis=1)  # of all without punctuation
    uas, with_punctuation = (
        share(np.take_along_axis(reported.correct[i], direction[:, None], axis=1)[:, 0], reported.n[i])
        for i in range(len(SCORES))
    )
    is_main = [name not in SCORES and name == main_relation(name) for name in of_best["relation"]]
    often = of_best[is_main].groupby(["layer", "head"]).size()
    return pd.DataFrame(
        {
            "layer": heads[:, 0],
            "head": heads[:, 1],
            "uas": uas,
            "uas_direction": np.array(DIRECTIONS)[direction],
            "uas_with_punctuation": with_punctuation,
            "n_best": [int(often.get((layer, head), 0)) for layer, head in heads],
        }
    )


def _all_table(names: list[str], heads: IntArray, counts: dict[str, Counts]) -> pd.DataFrame:
    """Return a row a split, relation, head and direction."""
    import pandas as pd

    parts = []
    for name, each in counts.items():
        n_groups, n_heads, n_directions = each.correct.shape
        n = np.repeat(each.n, n_heads * n_directions)
        right = each.correct.ravel()
        head = np.tile(np.repeat(heads, n_directions, axis=0), (n_groups, 1))
        columns = {
            "layer": head[:, 0],
            "head": head[:, 1],
            "direction": np.tile(np.array(DIRECTIONS), n_groups * n_heads),
            "relation": np.repeat(np.array(names), n_heads * n_directions),
            "split": name,  # choose or report
            "n": n,
            "correct": right,
            "accuracy": share(right, n),
        }
        parts.append(pd.DataFrame(columns))
    return pd.concat(parts, ignore_index=True)


def _best_table(
    names: list[str],
    heads: IntArray,
    best: IntArray,
    chosen: Counts,
    reported: Counts,
    min_count: int,
    offsets: list[int],
    seed: int,
) -> pd.DataFrame:
    """Return a row a relation: the head and the offset chosen on one split, and how right they are on the other."""
    import pandas as pd

    times = draw(len(reported.sentences.words), seed)
    rows: list[dict[str, Any]] = []
    for i, name in enumerate(names):
        if min(chosen.n[i], reported.n[i]) < (1 if name in SCORES else min_count):
            continue
        head, direction = divmod(int(best[i]), len(DIRECTIONS))
        offset = int(chosen.sentences.offset_correct[:, chosen.group[i]].sum(axis=1).argmax())
        by_offset = reported.sentences.offset_correct[offset, reported.group[i]]
        found = chosen.correct[i, head, direction]
        row = {"relation": name, "n_choose": int(chosen.n[i]), "n_report": int(reported.n[i])}
        row |= {"layer": int(heads[head, 0]), "head": int(heads[head, 1]), "direction": DIRECTIONS[direction]}
        row |= {"accuracy_choose": found / chosen.n[i]} | _scores(reported, i, by_offset, times)
        rows.append(row | {"offset": offsets[offset]})
    columns = ["relation", "n_choose", "n_report", "layer", "head", "direction", "accuracy_choose", "accuracy"]
    columns += [
        "low",
        "high",
        "offset",
        "offset_accuracy",
        "offset_low",
        "offset_high",
        "gain",
        "gain_low",
        "gain_high",
    ]
    return pd.DataFrame(rows, columns=columns)


def _scores(reported: Counts, group: int, by_offset: BoolArray, times: Float64Array) -> dict[str, float]:
    """Return the accuracy of the best head of a group, that of an offset, and their difference, with their intervals."""
    sentence = reported.sentences.sentence[reported.group[group]]
    by_head = reported.by_best[group].astype(np.float64)
    scores: dict[str, float] = {}
    for name, value in (("", by_head), ("offset_", by_offset), ("gain_", by_head - by_offset)):
        scores[_COLUMN_OF[name]], scores[f"{name}low"], scores[f"{name}high"] = accuracy(value, sentence, times)
    return scores


def _note(how: str, chosen: Counts, reported: Counts) -> str:
    """Say over how much was measured."""
    samples = (chosen.sentences, reported.sentences)
    drawn = [f"{len(each.words):,} of {each.n_given:,}" for each in samples if len(each.words) < each.n_given]
    outside = sum(each.n_outside for each in samples)
    note = f"{how} Words with a head: {chosen.n[1]:,} and {reported.n[1]:,}, roots not counted."
    note += f" Drawn at random of these sequences: {' and '.join(drawn)}." if drawn else ""
    lost = f" {outside:,} words whose head has no token in their sequence count as wrong."
    return note + (lost if outside else "")


def _told(chosen: Counts, reported: Counts) -> Iterator[list[Any]]:
    """Say the same by sentences of the page and what stands in them."""
    samples = (chosen.sentences, reported.sentences)
    if any(len(each.words) < each.n_given for each in samples):
        yield ["how_drawn", {"n_choose": len(samples[0].words), "n_report": len(samples[1].words)}]
    yield ["how_relations", {"n_choose": int(chosen.n[1]), "n_report": int(reported.n[1])}]
    if outside := sum(each.n_outside for each in samples):
        yield ["how_outside", {"n": int(outside)}]
