"""Analyse: run analyses of the heads of an index, one after another, and keep what each of them found.

In: an index and the names of analyses. Out: the index with their tables. An analysis is kept when it is done, so a killed run
loses at most the one that it was in.

    index = run(index, ["distances", "relations"])
    table(index, "relations-best")
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any

from qkspace.console import SILENT, Console
from qkspace.heads import kept
from qkspace.heads.found import Found
from qkspace.index import Index
from qkspace.schema import QKSpaceError


@dataclass(frozen=True, slots=True)
class Analysis:
    """One analysis: what it tells, which options its `analyse` takes, and whether it is run where none is named.

    can: why an index cannot be analysed so with some options; "" where it can, as far as is quickly told. module: where its
    `analyse` is, if not in the one of its name; settled: arguments of it that make this analysis what it is.
    """

    tells: str
    options: tuple[str, ...]
    can: Callable[..., str]
    is_default: bool = True
    module: str = ""
    settled: Mapping[str, str] = field(default_factory=dict)


def _always(_index: Index, **_options: Any) -> str:
    return ""


def _has_trees(index: Index, **_options: Any) -> str:
    from qkspace.heads.relations import can_be_analysed

    return can_be_analysed(index)


def _has_chains(index: Index, column: str | None = None, **_options: Any) -> str:
    from qkspace.heads.coreference import can_be_analysed

    return can_be_analysed(index, column)


def _can_run(index: Index, **_options: Any) -> str:
    from qkspace.heads.ablation import can_be_analysed

    return can_be_analysed(index)


SPLIT = ("choose", "report", "seed")
MODEL = ("model", "trust_remote_code")
SAMPLE = ("measure", "max_tokens", "batch_tokens", "device", "seed")
ANALYSES: dict[str, Analysis] = {
    "behaviours": Analysis(
        "previous-token, duplicate-token, induction and positional heads", (*MODEL, "seed"), _always
    ),
    "distances": Analysis(
        "which heads attend alike: distances, clusters, redundant pairs", ("seed", "max_queries"), _always
    ),
    "relations": Analysis("which dependency relations a head points along, without training", SPLIT, _has_trees),
    "coreference": Analysis("which heads find the antecedent of a mention", (*SPLIT, "column"), _has_chains),
    "probes": Analysis(
        "how much of a dependency tree all heads together know: trained probes, and their baselines",
        (*SPLIT, *MODEL, "vectors"),
        _has_trees,
        is_default=False,
    ),
    "ablation": Analysis(
        "what changes when a head is taken out (qkspace ablate)",
        (*MODEL, *SAMPLE),
        _can_run,
        is_default=False,
        settled={"method": "zero"},
    ),
    "mean-ablation": Analysis(
        "what changes when its mean stands in the place of a head (qkspace ablate --method mean)",
        (*MODEL, *SAMPLE),
        _can_run,
        is_default=False,
        module="ablation",
        settled={"method": "mean"},
    ),
}


def run(
    index: Index,
    only: Sequence[str] = (),
    *,
    overwrite: bool = False,
    console: Console = SILENT,
    **options: Any,  # of the analyses
) -> Index:
    """Run analyses of the heads of an index, keep their tables in it, and return it with them.

    What the index holds already, made with the same options, is not made again; where none is named and no option is given,
    nor is what was made with others. An index holds one of each: one with other options takes its place.

    Args:
        index: a finished index.
        only: names of analyses (`ANALYSES`); none: all that its corpus allows, but those that take minutes (probes and both
            ablations).
        overwrite: make anew what is there.
        console: where progress is shown.
        **options: what `ANALYSES` lists; each goes to those analyses that take it.

    Raises:
        QKSpaceError: an unknown analysis or option, or one that this index does not allow.
    """
    _refuse_names(only)
    _refuse_options(only or [name for name, analysis in ANALYSES.items() if analysis.is_default], options)
    chosen = _chosen(index, only, options, console)
    for name in chosen:
        asked = {key: value for key, value in options.items() if key in ANALYSES[name].options}
        if not overwrite and name in kept.names(index):
            was = index.manifest["analyses"][name]["parameters"].get("asked")
            if was == kept.plain(asked):
                console.say(f"{name}: there already, with the same options.")
                continue
            if not only and not asked:
                console.say(
                    f"{name}: there already, with options of its own ({_said(was)}). --overwrite makes it anew."
                )
                continue
            console.say(f"{name}: takes the place of the one with other options ({_said(was)}).")
        try:
            found = analyse(index, name, console=console, **asked)
        except QKSpaceError as error:
            if only:
                raise
            console.say(f"{name}: left out. {error}")
            continue
        parameters = {**found.parameters, "asked": asked}
        index = kept.keep(index, name, found.tables, head_columns=found.head_columns, parameters=parameters)
        console.say(f"{name}: {ANALYSES[name].tells}. Kept: {', '.join(found.tables)}.")
    return index


def analyse(index: Index, name: str, *, console: Console = SILENT, **options: Any) -> Found:
    """Run one analysis and return what it found, without keeping it.

    Raises:
        QKSpaceError: there is no such analysis, an option is settled by its name, or the index does not allow it.
    """
    _refuse_names([name])
    analysis = ANALYSES[name]
    for option in options.keys() & analysis.settled.keys():
        _refuse_settled(option)
    module = import_module(f"qkspace.heads.{analysis.module or name}")
    found: Found = module.analyse(index, console=console, **analysis.settled, **options)
    return found


def command(index: Index, name: str) -> str:
    """Return the command that makes an analysis."""
    root, method = shlex.quote(str(index.root)), ANALYSES[name].settled.get("method")
    if method is None:
        return f"qkspace heads {root} --only {name}"
    return f"qkspace ablate {root}" + (f" --method {method}" if method != "zero" else "")


def _chosen(index: Index, only: Sequence[str], options: dict[str, Any], console: Console) -> list[str]:
    """Return the analyses to run, refusing or leaving out what the index does not allow."""
    chosen = []
    for name, analysis in ANALYSES.items():
        if name not in only and (only or not analysis.is_default):
            continue
        trouble = analysis.can(index, **options)
        if trouble and only:
            raise QKSpaceError(f"{index.root} cannot be analysed for {name}: {trouble.removesuffix('.')}.")
        if trouble:
            console.say(f"{name}: left out, {trouble.removesuffix('.')}.")
        else:
            chosen.append(name)
    return chosen


def _refuse_names(names: Sequence[str]) -> None:
    if unknown := [name for name in names if name not in ANALYSES]:
        raise QKSpaceError(f"There is no analysis {', '.join(unknown)}; there are {', '.join(ANALYSES)}.")


def _refuse_options(names: Sequence[str], options: dict[str, Any]) -> None:
    known = {option for name in names for option in ANALYSES[name].options}
    for option in options.keys() - known:
        takers = [name for name, analysis in ANALYSES.items() if option in analysis.options]
        if takers:
            raise QKSpaceError(
                f"{option} is an option of {' and '.join(takers)}, which is not asked for: --only {takers[0]}"
            )
        _refuse_settled(option)
        raise QKSpaceError(f"{', '.join(names)}: no such option as {option}; there are {', '.join(sorted(known))}.")


def _refuse_settled(option: str) -> None:
    """Refuse an option that is no choice, as the name of an analysis settles it."""
    each = [f"{name} ({found})" for name, analysis in ANALYSES.items() if (found := analysis.settled.get(option))]
    if each:
        raise QKSpaceError(f"{option} is settled by the analysis: {', '.join(each)}. Name the one that you mean.")


def _said(asked: dict[str, Any] | None) -> str:
    """Say with which options something was made."""
    return ", ".join(f"{name} {value}" for name, value in asked.items()) if asked else "none"
