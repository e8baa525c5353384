"""Read a corpus, sequence by sequence.

In: a file, standard input, a folder or the name of a Hugging Face data set. Out: a stream of `TextSequence` whose
memory does not grow with the corpus. Chooses the format; knows no tokenizer and no model.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Literal

from qkspace.conllu import read_conllu
from qkspace.files import FORMAT_OF_SUFFIX, SUFFIXES_OF_FORMAT, blocks, read_lines, shown_name
from qkspace.gap import is_gap, read_gap
from qkspace.rows import dataset_rows, delimited_rows, jsonl_rows, number_or_string, parquet_rows, row_sequences
from qkspace.schema import QKSpaceError, TextSequence

FORMATS = (*SUFFIXES_OF_FORMAT, "gap", "datasets")
_FORMATS_OF_OPTION = {
    "text_column": ("jsonl", "csv", "tsv", "parquet", "datasets"),
    "unit": ("text",),
    "split": ("datasets",),
    "config": ("datasets",),
    "encoding": ("text", "jsonl", "csv", "tsv", "conllu", "gap"),
}


def read(
    source: str | Path,
    *,
    format: str | None = None,
    text_column: str | None = None,
    unit: Literal["line", "paragraph"] = "line",
    split: str | None = None,
    config: str | None = None,
    encoding: str = "utf-8",
) -> Iterator[TextSequence]:
    """Yield the sequences of a corpus in order.

    A row (JSONL, CSV, TSV, Parquet, data sets) gives a text or a list of words, and its other scalars are metadata of
    the sequence. Words are joined by one space; each other list of scalars is then metadata of the words. What is
    nested deeper, and dates and bytes, are left out: they cannot colour a point. A text that is null is an empty one.
    Labels of a Hugging Face `ClassLabel` become their names. Rows are counted from 1. In CSV and TSV a value that
    reads as a number is one ("007", "nan" and "1_000" do not), an empty one is None, and a column without a name is
    `column_<number>`. Quotes mean nothing in TSV.

    Args:
        source: A file, a folder (of data files, or written by `save_to_disk`), the name of a data set on the Hugging
            Face hub, or "-" for standard input.
        format: One of `FORMATS`; None goes by the suffix of the file, and a .tsv with the columns of GAP is GAP.
        text_column: The column of the text, or of the list of words. None takes the first of "text", "sentence",
            "content", "words", "tokens" in the first row (in any case of letters), else its only string column.
        unit: In plain text, what a sequence is: each line that is not blank, or each block between blank lines.
        split: The split of a data set. None takes the only one, else "train".
        config: The configuration of a data set.
        encoding: The encoding of a file of text. A byte order mark of UTF-8 is accepted.

    Raises:
        QKSpaceError: There is no such corpus, or a place in it that cannot be read, which the message names.
    """
    if unit not in ("line", "paragraph"):
        raise QKSpaceError(f"Unknown unit {unit!r}: expected line or paragraph.")
    name = str(source)
    chosen = format_of(name, format)
    if chosen == "tsv" and format is None and text_column is None and is_gap(name, encoding):
        chosen = "gap"
    given = {
        "text_column": text_column is not None,
        "unit": unit != "line",
        "split": split is not None,
        "config": config is not None,
        "encoding": encoding != "utf-8",
    }
    _check_options(name, chosen, given)
    if chosen == "text":
        return _text(name, encoding, unit)
    if chosen == "conllu":
        return read_conllu(name, encoding)
    if chosen == "gap":
        return read_gap(name, encoding)
    if chosen in ("csv", "tsv"):
        return row_sequences(delimited_rows(name, encoding, tabs=chosen == "tsv"), text_column, number_or_string)
    if chosen == "jsonl":
        return row_sequences(jsonl_rows(name, encoding), text_column)
    return row_sequences(parquet_rows(name) if chosen == "parquet" else dataset_rows(name, split, config), text_column)


def format_of(name: str, asked: str | None) -> str:
    """Return the format of a source, having checked that a local one is there."""
    if asked is not None and asked not in FORMATS:
        raise QKSpaceError(f"Unknown corpus format {asked!r}: expected one of {', '.join(FORMATS)}.")
    if name == "-":
        if asked in ("parquet", "datasets"):
            raise QKSpaceError(f"Standard input cannot be read as {asked}: give a file or a folder.")
        return asked or "text"
    path = Path(name)
    if path.is_dir():
        if asked not in (None, "datasets"):
            raise QKSpaceError(f"{name} is a folder, and the format {asked} expects a file: give one of its files.")
        ours = sorted(p.name for p in path.iterdir() if FORMAT_OF_SUFFIX.get(p.suffix.lower()) == "conllu")
        if ours:
            raise QKSpaceError(
                f"{name} is a folder of CoNLL-U, which the reader of data sets does not know. Name the files: "
                f"{', '.join(ours)} (several may be given)."
            )
        return "datasets"
    if path.exists():
        found = asked or FORMAT_OF_SUFFIX.get(path.suffix.lower())
        if found is None:
            known = ", ".join(FORMAT_OF_SUFFIX)
            raise QKSpaceError(
                f"{name}: the suffix {path.suffix!r} tells no format (known: {known}); say which it is "
                f"with --format, one of {', '.join(FORMATS)}."
            )
        return found
    if asked == "datasets" or (asked is None and _is_hub_name(name)):
        return "datasets"
    raise QKSpaceError(
        f"{name}: no such file (looked from {Path.cwd()}). Check the path; a data set of the Hugging "
        f"Face hub is named NAME or OWNER/NAME, with --format datasets if NAME has a dot."
    )


def _is_hub_name(name: str) -> bool:
    """Say whether a name can be one of the hub: NAME or OWNER/NAME, without the suffix of a file."""
    return bool(re.fullmatch(r"\w[\w.-]*(/\w[\w.-]*)?", name)) and not re.search(r"\.[A-Za-z]\w*$", name)


def _check_options(name: str, chosen: str, given: Mapping[str, bool]) -> None:
    """Refuse an option that the format would ignore."""
    for option, formats in _FORMATS_OF_OPTION.items():
        if given[option] and chosen not in formats:
            raise QKSpaceError(
                f"{name} is read as {chosen}, where --{option.replace('_', '-')} means nothing: it is "
                f"for {', '.join(formats)}. Leave it out, or set --format."
            )


def _text(name: str, encoding: str, unit: str) -> Iterator[TextSequence]:
    """Yield each line that is not blank, or each block between blank lines."""
    for first, last, block in blocks(read_lines(name, encoding), whole=unit == "paragraph"):
        numbers = f"line {first}" if first == last else f"lines {first}-{last}"
        yield TextSequence(" ".join(block), source=f"{shown_name(name)} {numbers}")
