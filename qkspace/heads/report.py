"""Report: what heads do, as tables to print and as files.

In: an index, with whatever analyses it holds. Out: titles and cells of tables, and Parquet or CSV of every table. Prints
nothing itself.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qkspace import store
from qkspace.export import write_table
from qkspace.heads import kept, surface
from qkspace.heads.analyse import ANALYSES, command
from qkspace.heads.labels import labels
from qkspace.index import Index
from qkspace.schema import QKSpaceError

if TYPE_CHECKING:
    import pandas as pd

STATISTICS = {  # columns of the table of heads and what a printed table calls them
    "attention_to_special": "special",
    "attention_to_punctuation": "punct.",
    "attention_to_previous": "previous",
    "attention_to_next": "next",
    "attention_to_self": "self",
    "sink_share": "sink",
    "entropy": "entropy",
    "attention_distance": "distance",
}
FOUND = {  # and those that analyses have added
    "previous_token": "previous token",
    "duplicate_token": "duplicate",
    "induction": "induction",
    "positional": "by place",
    "uas": "UAS",
    "coreference": "coreference",
    "probe_weight": "probe weight",
    "loss_change": "change without it",
    "loss_change_mean": "change with its mean",
    "nearest_distance": "nearest head at",
    "cluster": "cluster",
}
MOST_HEADS = 200
MOST_ROWS = 40  # of a printed table; all of them are in the files


@dataclass(frozen=True, slots=True)
class Printed:
    """A table to print: cells are text, the first of each row a name."""

    title: str
    columns: list[str]
    rows: list[list[str]]
    caption: str


@dataclass(frozen=True, slots=True)
class Summary:
    """What is printed of a table: title, columns with what they are called, and what is sorted by, the largest first.

    The column "head" is the head of a row, and "pair" the two heads of one.
    """

    title: str
    columns: dict[str, str]
    order: str = ""


_INTERVAL = {"low": "low", "high": "high"}
_CHANGE = {**_INTERVAL, "measure": "measured", "method": "by"}
_BEST = {"head": "head", "direction": "direction", "n": "n", "accuracy": "accuracy", **_INTERVAL}
SUMMARIES = {
    "ablation": Summary(
        "What changes without a head, most first",
        {"head": "head", "loss_change": "change", **_CHANGE},
        "loss_change",
    ),
    "mean-ablation": Summary(
        "What changes with its mean in the place of a head, most first",
        {"head": "head", "loss_change_mean": "change", **_CHANGE},
        "loss_change_mean",
    ),
    "distances-redundant": Summary(
        "Heads that attend alike", {"pair": "heads", "distance": "distance", "error": "error"}
    ),
    "relations-best": Summary(
        "The best head of each dependency relation, against always looking a fixed number of words away",
        {
            "relation": "relation",
            "head": "head",
            "direction": "direction",
            "n_report": "words",
            "accuracy": "accuracy",
            **_INTERVAL,
            "offset": "offset",
            "offset_accuracy": "its accuracy",
            "gain": "gain",
            "gain_low": "low",
            "gain_high": "high",
        },
        "n_report",
    ),
    "coreference-best": Summary("The best head at finding antecedents", {"kind": "mentions", **_BEST}),
    "coreference-gap-best": Summary(
        "The best head at telling which of two names a pronoun means (GAP)",
        {"gender": "passages", **_BEST},
    ),
    "coreference-gap-baselines": Summary(
        "Rules that tell which of two names a pronoun means (GAP)",
        {"baseline": "rule", "gender": "passages", "n": "n", "accuracy": "accuracy", **_INTERVAL},
    ),
    "coreference-baselines": Summary(
        "Rules that find antecedents",
        {"baseline": "rule", "kind": "mentions", "n": "n", "accuracy": "accuracy", **_INTERVAL},
    ),
    "probes-scores": Summary(
        "Trained probes: share of words whose head is found (UAS)",
        {"probe": "probe", "uas": "UAS", **_INTERVAL, "n_words": "words", "n_train": "trained on"},
        "uas",
    ),
}


def printed_tables(index: Index) -> list[Printed]:
    """Return what is to be said of the heads of an index: their statistics, and what its analyses found."""
    found = _heads(index)
    there = kept.tables(index)
    return found + [_printed(kept.read(index, name), how) for name, how in SUMMARIES.items() if name in there]


def hints(index: Index) -> list[str]:
    """Say which analyses the index could have and does not hold."""
    missing = [name for name, each in ANALYSES.items() if name not in kept.names(index) and not each.can(index)]
    return [f"Not measured yet: {name}, {ANALYSES[name].tells}. {command(index, name)}" for name in missing]


def write_tables(index: Index, folder: Path, *, csv: bool = False) -> list[Path]:
    """Write every table of the heads into a folder, and return the files.

    Args:
        index: an index.
        folder: made where it is not there; files of these names are replaced.
        csv: write CSV (UTF-8) and not Parquet.

    Raises:
        QKSpaceError: it cannot be written there.
    """
    table = index.head_table()
    tables = {"heads": table, "labels": labels(table)}
    if surface.is_there(index):
        tables |= {name: surface.read(index, name) for name in surface.TABLES}
    tables |= {name: kept.read(index, name) for name in kept.tables(index)}
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise QKSpaceError(
            f"{folder}: no folder can be made there ({error.strerror}). Name another for the tables."
        ) from error
    with store.disk_errors(folder):
        return [write_table(each, folder / f"{name}{'.csv' if csv else '.parquet'}") for name, each in tables.items()]


def _heads(index: Index) -> list[Printed]:
    """Return what the build has summed of each head, and what analyses have found of it."""
    table = index.head_table()
    label = labels(table)["label"].astype(str).tolist()
    left = len(table) - MOST_HEADS
    more = f" ({left:,} more heads: --tables FOLDER)" if left > 0 else ""
    looks = Printed(
        f"What heads look at, means over all {index.manifest['corpus']['n_tokens']:,} tokens of the corpus",
        *_of_heads(table, STATISTICS, label),
        "shares of attention, 1 is all of it; entropy in nats, distance in tokens; sink: to the one token of a sequence that "
        f"gets most. Labels: the thresholds of qkspace.heads.labels{more}",
    )
    if not any(name in table for name in FOUND):
        return [looks]
    found = "What analyses found of each head"
    return [looks, Printed(found, *_of_heads(table, FOUND), f"docs/heads.md says what each number is{more}")]


def _of_heads(
    table: pd.DataFrame, titles: dict[str, str], label: list[str] | None = None
) -> tuple[list[str], list[list[str]]]:
    """Return titles and cells of some columns of the table of heads, those that are there."""
    known = {name: title for name, title in titles.items() if name in table and not table[name].isna().all()}
    rows = []
    for i, row in enumerate(table.head(MOST_HEADS).to_dict(orient="records")):
        cells = [_cell(row[name]) if name != "cluster" else f"{row[name]:g}" for name in known]
        rows.append([_name(row), *([label[i]] if label else []), *cells])
    return ["head", *(["label"] if label else []), *known.values()], rows


def _printed(table: pd.DataFrame, summary: Summary) -> Printed:
    """Return the columns of a table that are printed of it."""
    some = table.sort_values(summary.order, ascending=False, kind="stable") if summary.order else table
    names = [name for name in summary.columns if name in some or name in ("head", "pair")]
    rows = [[_of_row(row, name) for name in names] for row in some.head(MOST_ROWS).to_dict(orient="records")]
    left = len(table) - len(rows)
    note = str(table.attrs.get("note", "")) + (f" ({left:,} more rows: --tables FOLDER)" if left else "")
    return Printed(summary.title, [summary.columns[name] for name in names], rows, note)


def _of_row(row: dict[Any, Any], name: str) -> str:
    if name == "pair":
        return f"L{row['layer_a']}H{row['head_a']} and L{row['layer_b']}H{row['head_b']}"
    return _name(row) if name == "head" else _cell(row[name])


def _name(row: dict[Any, Any]) -> str:
    layer, head = row["layer"], row["head"]
    return "-" if any(isinstance(n, float) and math.isnan(n) for n in (layer, head)) else f"L{int(layer)}H{int(head)}"


def _cell(value: object) -> str:
    if isinstance(value, str):
        return value
    return f"{value:,}" if isinstance(value, int) else _number(value)


def _number(value: Any) -> str:
    number = float(value)
    return "-" if math.isnan(number) else f"{number:,.0f}" if abs(number) >= 1000 else f"{number:.3f}"
