"""Coreference: which heads attend from a mention to its antecedent, without training.

In: an index whose corpus says which words are of one mention chain. Out: how often each head picks an antecedent, the best
heads on text that they were not chosen on, and what rules get there; of GAP also how often the right one of two names.
After Clark et al. 2019, What Does BERT Look At?, section 4.2.

    found = analyse(index)
    found.tables["coreference-best"]
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, get_args

import numpy as np

from qkspace.bootstrap import draw
from qkspace.console import SILENT, Console
from qkspace.heads.antecedents import WAYS, Candidates, Items, antecedents, choices, is_gap
from qkspace.heads.asked import refuse_choice, refuse_unfit, unfit
from qkspace.heads.found import Found
from qkspace.heads.mentions import KINDS, Marks, column_of, marks_of, no_chains
from qkspace.heads.picks import NAME_RULES, RULES, Rule, chance, head_scores
from qkspace.heads.splits import split
from qkspace.heads.tabulate import accuracy, heads_of
from qkspace.heads.words import Rows
from qkspace.index import Index
from qkspace.schema import BoolArray, FloatArray, IntArray, QKSpaceError

if TYPE_CHECKING:
    import pandas as pd

ALL = "all"
GENDERS = ("feminine", "masculine")
_OF_HEADS = (
    "Each head in the direction that is better over the mentions to choose by; accuracy and n are of the mentions to report "
    "on. "
)


@dataclass(frozen=True, slots=True, eq=False)
class _Measured:
    """What is measured of some items: how right each head is about each of them.

    ruled: the same items with the candidates that rules pick among. scores: (item, direction, head); choose, report: (item),
    on which side each is; how: the split, in words.
    """

    items: Items
    ruled: Items
    scores: FloatArray
    choose: BoolArray
    report: BoolArray
    how: str

    def of(self, group: str) -> BoolArray:
        """Return which items are counted under a group, which `ALL` are: (item)."""
        return np.array([group in (ALL, each) for each in self.items.groups], dtype=bool)


def analyse(
    index: Index,
    *,
    column: str | None = None,
    candidates: Candidates | None = None,
    rows: Rows = "mean",
    choose: str | None = None,
    report: str | None = None,
    seed: int = 0,
    console: Console = SILENT,
) -> Found:
    """Return how often each head attends most to an antecedent of a mention, and what rules get.

    Mentions that have an earlier one of their chain in the same sequence count. A head is right where, of all candidates,
    the mention's head word most attends to the head word of an antecedent ("mention to antecedent"), or where that most
    attends to it (the other direction; not in a decoder). Candidates that get alike share the pick.

    Args:
        index: an index of text.
        column: the column of chains; None takes the first of entity, coref, chain, mention whose values can be chains.
        candidates: all earlier "mentions", all earlier "nominals" (nouns, names and pronouns by upos, and heads of
            mentions), or all earlier "words". None takes mentions, but where most of them have no wrong one among these (a
            corpus that marks few things), nominals, or words where there is no upos.
        rows: how a word of several pieces attends; see `qkspace.heads.words.word_attention`.
        choose: file of the corpus by which the best heads are chosen; None is the first, or half of a single one.
        report: file on which they are reported; None is the last, or the other half.
        seed: of the halves, of the bootstrap, and of the sequences that are drawn where there are too many.
        console: where progress is shown.

    Returns:
        Tables coreference (a row a head: how right it is on the side to report on, in the direction that is better on the side
        to choose by), coreference-all (also by direction, kind and side), coreference-best,
        coreference-baselines; of GAP also coreference-gap, -gap-best and -gap-baselines, by the gender of the pronoun.

    Raises:
        QKSpaceError: there are no chains, or attention goes from one text to another; no mention has an antecedent; an option
            is none of its choices.
    """
    refuse_choice("candidates", candidates, (None, *get_args(Candidates)))
    refuse_choice("rows", rows, get_args(Rows))
    refuse_unfit(index)
    marks = marks_of(index, column)
    if column is not None and (trouble := no_chains(index, column, is_default=True)):
        console.say(f"warning: {trouble}.")
    candidates = candidates or _default(index, marks, seed, console)
    found, ruled = _found(index, marks, candidates, seed)
    measured = _measure(index, found, choose, report, seed, rows, console, ruled=ruled)
    tables = _tables(index, measured, seed, _note(marks, measured, candidates))
    if is_gap(index, marks) and (pairs := choices(index, marks, seed=seed)).items:
        of_names = _measure(index, pairs, choose, report, seed, rows, console, ruled=pairs)
        tables |= _gap_tables(index, of_names, seed)
    parameters = {"column": marks.column, "candidates": candidates, "rows": rows, "seed": seed, "split": measured.how}
    counts = {"n_mentions": found.n_mentions, "n_items": len(found.items), "n_elsewhere": found.n_elsewhere}
    return Found(tables, ("coreference",), parameters | counts)


def can_be_analysed(index: Index, column: str | None = None) -> str:
    """Say why an index cannot be analysed so; "" where it can, as far as is quickly told.

    column: of chains, as in `analyse`.
    """
    return unfit(index) or column_of(index, column)[1]


def _default(index: Index, marks: Marks, seed: int, console: Console) -> Candidates:
    """Return the candidates that leave most mentions a choice."""
    items = antecedents(index, marks, "mentions", seed=seed).items
    alone = sum(bool(item.gold.all()) for item in items)
    if 2 * alone <= len(items):
        return "mentions"
    other: Candidates = "words" if marks.upos is None else "nominals"
    console.say(
        f"{alone:,} of {len(items):,} mentions have no wrong one among the earlier mentions, so they pick among all earlier "
        f"{other}."
    )
    return other


def _found(index: Index, marks: Marks, candidates: Candidates, seed: int) -> tuple[Items, Items]:
    """Return the items, and the same with the candidates of rules: for words these are nouns, or mentions without upos."""
    if candidates == "nominals" and marks.upos is None:
        raise QKSpaceError(
            f"{index.root}: nouns are told by the column upos, which its corpus has not. Take candidates words or mentions, or "
            "build the index of CoNLL-U."
        )
    found = antecedents(index, marks, candidates, seed=seed)
    if not found.items:
        raise QKSpaceError(
            f"{index.root}: none of {found.n_mentions:,} mentions by the column {marks.column!r} has an earlier one of its "
            f"chain in its own sequence ({found.n_elsewhere:,} have one in another window of the text). Expected words with "
            "one value where they name one thing: name another column, or build with a greater --max-length."
        )
    if candidates != "words":
        return found, found
    others: Candidates = "mentions" if marks.upos is None else "nominals"
    return found, antecedents(index, marks, others, seed=seed, places=set(found.places.tolist()))


def _measure(
    index: Index,
    items: Items,
    choose: str | None,
    report: str | None,
    seed: int,
    rows: Rows,
    console: Console,
    *,
    ruled: Items,
) -> _Measured:
    """Part the items and score every head on them."""
    first, last, how = split(index, choose, report, seed, among=items.places)
    scores = head_scores(index, items.items, rows=rows, console=console)
    return _Measured(items, ruled, scores, np.isin(items.places, first), np.isin(items.places, last), how)


def _note(marks: Marks, measured: _Measured, candidates: Candidates) -> str:
    """Say what was measured over how much."""
    items = measured.items
    alone = sum(bool(item.gold.all()) for item in items.items)
    among = {"mentions": "earlier mentions", "nominals": "earlier nouns, names and pronouns", "words": "earlier words"}
    what = (
        f"Share of mentions (column {marks.column}) whose head word attends most to that of an antecedent among "
        f"{among[candidates]}: 1 is always, 0 never; of {len(items.items):,} mentions, {measured.choose.sum():,} to choose by "
        f"and {measured.report.sum():,} to report on, {alone:,} have no wrong candidate"
    )
    parts = [what]
    if candidates == "words":
        parts.append(
            "rules but chance pick among earlier nouns, names and pronouns (among mentions where there is no upos)"
        )
    if len(items.items) < items.n_all:
        parts.append(f"these were drawn at random of {items.n_all:,}")
    if items.n_elsewhere:
        parts.append(
            f"{items.n_elsewhere:,} more have antecedents in other windows of their text alone and are left out"
        )
    if items.n_broken:
        parts.append(f"{items.n_broken:,} brackets are left out that are malformed or without their other end")
    return "; ".join(parts) + "."


# ---------------------------------------------------------------------------------------------- tables


def _tables(index: Index, measured: _Measured, seed: int, note: str) -> dict[str, pd.DataFrame]:
    """Return the tables of antecedents."""
    groups = [ALL, *(kind for kind in KINDS if kind in measured.items.groups)]
    best = _best(index, measured, groups, seed).rename(columns={"group": "kind"})
    rules = _rules(measured, groups, RULES, seed).rename(columns={"group": "kind"})
    tables = {
        "coreference": _by_head(index, measured, KINDS).assign(coreference=lambda table: table["accuracy"]),
        "coreference-all": _all(index, measured, groups).rename(columns={"group": "kind"}),
        "coreference-best": best,
        "coreference-baselines": rules,
    }
    return _noted(tables, f"{note} {measured.how}")


def _gap_tables(index: Index, measured: _Measured, seed: int) -> dict[str, pd.DataFrame]:
    """Return the tables of the two names of GAP."""
    groups = [ALL, *(gender for gender in GENDERS if gender in measured.items.groups)]
    tables = {
        "coreference-gap": _by_head(index, measured, GENDERS),
        "coreference-gap-best": _best(index, measured, groups, seed).rename(columns={"group": "gender"}),
        "coreference-gap-baselines": _rules(measured, groups, NAME_RULES, seed).rename(columns={"group": "gender"}),
    }
    note = (
        f"Share of pronouns of GAP that mean exactly one of two names ({measured.choose.sum():,} to choose by, "
        f"{measured.report.sum():,} to report on), in which a head attends more to the right one: 1 is always, 0.5 is chance; "
        f"{measured.items.n_elsewhere:,} of which a window lacks a name are left out. {measured.how}"
    )
    return _noted(tables, note)


def _noted(tables: dict[str, pd.DataFrame], note: str) -> dict[str, pd.DataFrame]:
    """Give each table its note."""
    for name, table in tables.items():
        table.attrs["note"] = f"{_OF_HEADS}{note}" if name in ("coreference", "coreference-gap") else note
    return tables


def _mean(scores: FloatArray) -> FloatArray:
    """Return the mean over items in float64; nan where there are none."""
    return np.asarray(scores.mean(axis=0, dtype=np.float64)) if len(scores) else np.full(scores.shape[1:], np.nan)


def _by_head(index: Index, measured: _Measured, groups: Sequence[str]) -> pd.DataFrame:
    """Return a row a head: the direction that is better on one side, and how right it is in each group on the other."""
    import pandas as pd

    layer, head = heads_of(index).T
    means = _mean(measured.scores[measured.choose])  # (direction, head)
    better = np.nan_to_num(means, nan=-1.0).argmax(axis=0)
    table = pd.DataFrame({"layer": layer, "head": head, "direction": np.array(WAYS, dtype=object)[better]})
    for group in (ALL, *groups):
        inside = measured.of(group) & measured.report
        name = "" if group == ALL else f"_{group}"
        table[f"accuracy{name}"] = _mean(measured.scores[inside])[better, np.arange(len(head))]
        table[f"n{name}"] = int(inside.sum())
    return table


def _all(index: Index, measured: _Measured, groups: Sequence[str]) -> pd.DataFrame:
    """Return a row for each head, direction, group and side."""
    import pandas as pd

    layer, head = heads_of(index).T
    frames = []
    for side, on in (("choose", measured.choose), ("report", measured.report)):
        for group in groups:
            inside = on & measured.of(group)
            means = _mean(measured.scores[inside])
            for direction, mean in zip(WAYS, means, strict=True):
                columns = {"layer": layer, "head": head, "direction": direction, "group": group, "split": side}
                frames.append(pd.DataFrame({**columns, "n": int(inside.sum()), "accuracy": mean}))
    return pd.concat(frames, ignore_index=True).dropna(subset="accuracy").reset_index(drop=True)


def _best(index: Index, measured: _Measured, groups: Sequence[str], seed: int) -> pd.DataFrame:
    """Return the best head of each group, chosen on one side and reported on the other."""
    import pandas as pd

    layer, head = heads_of(index).T
    found: list[Mapping[str, Any]] = []
    for group in groups:
        inside = measured.of(group)
        choose, report = inside & measured.choose, inside & measured.report
        if not choose.any() or not report.any():
            continue
        means = _mean(measured.scores[choose])
        direction, best = np.unravel_index(int(np.nan_to_num(means, nan=-1.0).argmax()), means.shape)
        right = measured.scores[report, direction, best]
        found.append(
            {"group": group, "layer": int(layer[best]), "head": int(head[best]), "direction": WAYS[direction]}
            | {"n_choose": int(choose.sum()), "accuracy_choose": float(means[direction, best])}
            | _scores(right, measured.items.places[report], seed)
        )
    columns = ["group", "layer", "head", "direction", "n_choose", "accuracy_choose", "accuracy", "low", "high", "n"]
    return pd.DataFrame(found, columns=columns)


def _rules(measured: _Measured, groups: Sequence[str], rules: Mapping[str, Rule], seed: int) -> pd.DataFrame:
    """Return how right each rule is about the items that are reported on."""
    import pandas as pd

    found: list[Mapping[str, Any]] = []
    for name, rule in rules.items():
        right = np.array([rule(item) for item in (measured.items if rule is chance else measured.ruled).items])
        for group in groups:
            inside = measured.of(group) & measured.report
            if inside.any():
                found.append(
                    {"baseline": name, "group": group} | _scores(right[inside], measured.items.places[inside], seed)
                )
    return pd.DataFrame(found, columns=["baseline", "group", "n", "accuracy", "low", "high"])


def _scores(right: FloatArray, places: IntArray, seed: int) -> dict[str, Any]:
    """Return the mean over items with its 95 % interval over sequences."""
    unique, sequence = np.unique(places, return_inverse=True)
    mean, low, high = accuracy(right, sequence, draw(len(unique), seed))
    return {"accuracy": mean, "low": low, "high": high, "n": len(right)}
