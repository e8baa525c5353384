"""The command line of what heads do: `qkspace heads`, `qkspace ablate` and `qkspace report --heads`.

In: arguments. Out: calls of the analyses and of their report, and an exit status.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from qkspace.console import Console
from qkspace.heads.analyse import ANALYSES
from qkspace.schema import QKSpaceError


def add_heads(heads: argparse.ArgumentParser) -> None:
    """Add which analyses are run, and on what."""
    heads.add_argument("index", type=Path)
    default = ", ".join(name for name, analysis in ANALYSES.items() if analysis.is_default)
    heads.add_argument(
        "--only",
        type=_names,
        default=(),
        help=f"analyses, with commas: {', '.join(ANALYSES)} (default: those of {default} that the corpus allows)",
    )
    heads.add_argument(
        "--choose", help="file of the corpus on which the best heads are chosen (default: the first, or half)"
    )
    heads.add_argument(
        "--report", help="file of the corpus on which they are reported (default: the last, or the rest)"
    )
    heads.add_argument("--column", help="column of mention chains (default: entity, coref, chain or mention)")
    heads.add_argument(
        "--vectors", type=Path, help="file of word vectors for the probes (default: the model's own embeddings)"
    )
    heads.add_argument(
        "--max-queries",
        type=_positive,
        help="queries that distances are measured on, however long it takes (default: some 2,000)",
    )
    heads.add_argument("--seed", type=int, help="of samples (default 0)")
    heads.add_argument("--overwrite", action="store_true", help="make anew also what is there with the same options")
    heads.add_argument(
        "--remove", type=_names, default=(), metavar="NAMES", help="take analyses out of the index, and do nothing else"
    )
    _add_model(heads)
    heads.set_defaults(run=_heads)


def add_ablate(ablate: argparse.ArgumentParser) -> None:
    """Add how heads are taken out, and by what it is measured."""
    ablate.add_argument("index", type=Path)
    ablate.add_argument(
        "--method",
        choices=("zero", "mean"),
        default="zero",
        help="what stands for the output of a head: zero (default), or its mean over the sample; an index can hold both",
    )
    ablate.add_argument(
        "--measure",
        choices=("auto", "masked", "causal", "output"),
        default="auto",
        help="loss at masked tokens, of the next token, or how far the model's output moves (default: what the model has)",
    )
    ablate.add_argument("--max-tokens", type=_positive, help="tokens of the sample of sequences that it is measured on")
    ablate.add_argument("--batch-tokens", type=_positive, help="padded tokens of a forward pass")
    ablate.add_argument("--device", choices=("auto", "cpu", "cuda"), help="where the model runs (default auto)")
    ablate.add_argument("--seed", type=int, help="of the sample (default 0)")
    ablate.add_argument("--overwrite", action="store_true", help="measure anew what is there")
    _add_model(ablate)
    ablate.set_defaults(run=_ablate)


def add_report(report: argparse.ArgumentParser) -> None:
    """Add what is reported of heads."""
    report.add_argument("--heads", action="store_true", help="print what heads do: statistics and what analyses found")
    report.add_argument(
        "--tables", type=Path, metavar="FOLDER", help="write every table of the heads there, as Parquet"
    )
    report.add_argument("--csv", action="store_true", help="write them as CSV")


def report_heads(options: argparse.Namespace, console: Console) -> int:
    """Print what heads do, and write the tables."""
    from qkspace.heads import report
    from qkspace.index import Index

    if options.csv and options.tables is None:
        raise QKSpaceError("--csv says how tables are written: say where with --tables FOLDER.")
    if options.json or options.intervals:
        raise QKSpaceError("--json and --intervals are of the scores of maps. Tables of heads: --tables FOLDER.")
    index = Index(options.index)
    if options.heads:
        for printed in report.printed_tables(index):
            console.table(printed.title, printed.columns, printed.rows, printed.caption)
        for line in report.hints(index):
            console.result(line)
    if options.tables is not None:
        there = {path.name for path in options.tables.glob("*")} if options.tables.is_dir() else set()
        paths = report.write_tables(index, options.tables, csv=options.csv)
        if others := sorted(there - {path.name for path in paths}):
            console.say(f"{options.tables} also holds what was not written now: {', '.join(others)}.")
        console.result(f"{options.tables}: {len(paths)} tables: {', '.join(path.name for path in paths)}")
    return 0


def _add_model(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", help="where the model is, where that is not where it was")
    parser.add_argument("--trust-remote-code", action="store_true", help="let that model run code of its own")


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a number from 1 on; got {text!r}")
    return int(text)


def _names(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(",") if name.strip())


def _heads(options: argparse.Namespace, console: Console) -> int:
    if options.remove:
        return _remove(options, console)
    return _run(
        options, options.only, ("choose", "report", "column", "vectors", "max_queries", "seed", "model"), console
    )


def _remove(options: argparse.Namespace, console: Console) -> int:
    from qkspace.heads import kept
    from qkspace.index import Index

    index = Index(options.index)
    for name in options.remove:
        index = kept.remove(index, name)
        console.say(f"{index.root} holds {name} no more.")
    return 0


def _ablate(options: argparse.Namespace, console: Console) -> int:
    names = ("measure", "max_tokens", "batch_tokens", "device", "seed", "model")
    only = tuple(name for name, analysis in ANALYSES.items() if analysis.settled.get("method") == options.method)
    return _run(options, only, names, console)


def _run(options: argparse.Namespace, only: tuple[str, ...], names: tuple[str, ...], console: Console) -> int:
    """Run analyses with the options that were given; what was not given is left to each."""
    from qkspace.heads import analyse
    from qkspace.index import Index

    given = {name: value for name in names if (value := getattr(options, name)) is not None}
    if options.trust_remote_code:
        given["trust_remote_code"] = True
    index = analyse.run(Index(options.index), only, overwrite=options.overwrite, console=console, **given)
    console.say(f"See them: qkspace report {index.root} --heads, or qkspace serve {index.root}")
    return 0
