"""Rows of columns: JSONL, CSV, TSV, Parquet and data sets of Hugging Face.

In: the name of a file or of a data set. Out: its rows, each with the place to name in an error, and of each row a
`TextSequence`, from its text or its list of words. Knows no tokenizer; what the options mean is said in `corpus.read`.
"""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeGuard

from qkspace.files import FORMAT_OF_SUFFIX, read_lines, shown_name
from qkspace.schema import QKSpaceError, Scalar, TextSequence
from qkspace.spans import join_words

if TYPE_CHECKING:
    import pyarrow as pa

TEXT_COLUMNS = ("text", "sentence", "content")
WORD_COLUMNS = ("words", "tokens")
_MAX_FIELD = 2**24  # characters in one CSV field: the csv module's own limit, 131,072, is less than one long document
_NUMBER = re.compile(r"-?((0|[1-9][0-9]{0,17})(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]{1,2})?")

Row = Mapping[str, Any]
Located = tuple[str, Row]  # where the row is ("corpus.jsonl line 31"), and the row


# ---------------------------------------------------------------------------------------------- rows of a source


def jsonl_rows(name: str, encoding: str) -> Iterator[Located]:
    """Yield the objects of a file with one JSON object a line; blank lines are passed over."""
    for number, line in read_lines(name, encoding):
        where = f"{shown_name(name)} line {number}"
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            if "\\u" in line:
                json.dumps(row, ensure_ascii=False).encode()  # half of a surrogate pair is no character
        except UnicodeEncodeError as error:
            raise QKSpaceError(
                f"{where}: holds half of a surrogate pair (\\uD800 to \\uDFFF), which is no character: repair the line."
            ) from error
        except (ValueError, RecursionError) as error:  # also a number too long for Python
            raise QKSpaceError(
                f'{where}: not JSON ({error}); expected one object a line, such as {{"text": "..."}}.'
            ) from error
        if not isinstance(row, dict):
            raise QKSpaceError(f'{where}: expected a JSON object such as {{"text": "..."}}, got {_shown(row)}.')
        yield where, row


def delimited_rows(name: str, encoding: str, *, tabs: bool) -> Iterator[Located]:
    """Yield the rows of a CSV or TSV file as strings; the first row that is not blank names the columns."""
    csv.field_size_limit(max(csv.field_size_limit(), _MAX_FIELD))
    lines = (line for _, line in read_lines(name, encoding, keep_ends=True))
    reader = csv.reader(
        lines, delimiter="\t" if tabs else ",", quoting=csv.QUOTE_NONE if tabs else csv.QUOTE_MINIMAL, strict=True
    )
    header: list[str] = []
    while True:
        where = f"{shown_name(name)} line {reader.line_num + 1}"
        try:
            values = next(reader, None)
        except csv.Error as error:
            raise QKSpaceError(f"{where}: not {'TSV' if tabs else 'CSV'} ({error}).") from error
        if values is None:
            return
        if values and not header:
            header = [column or f"column_{place}" for place, column in enumerate(values, start=1)]
            if len(set(header)) < len(header):
                raise QKSpaceError(f"{where}: two columns have one name: {', '.join(header)}. Rename one.")
        elif values:
            if len(values) != len(header):
                raise QKSpaceError(f"{where}: expected {len(header)} fields ({', '.join(header)}), got {len(values)}.")
            yield where, dict(zip(header, values, strict=True))


def number_or_string(value: str) -> Scalar:
    """Return what a CSV value is: None where it is empty, a number where it reads as one, else itself."""
    if _NUMBER.fullmatch(value) is None:
        return value or None
    return int(value) if value.removeprefix("-").isdigit() else float(value)


def parquet_rows(name: str, *, batch_size: int = 512, everything: bool = False) -> Iterator[Located]:
    """Yield the rows of a Parquet file, so many in memory at a time; of all columns, or of those that hold scalars."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(name) as file:
            features = json.loads((file.schema_arrow.metadata or {}).get(b"huggingface", b"{}"))
            labels = label_names(features.get("info", {}).get("features", {}))
            columns = None if everything else _usable_columns(file.schema_arrow, name)
            batches = file.iter_batches(batch_size=batch_size, columns=columns)
            rows = (row for batch in batches for row in batch.to_pylist())
            for number, row in enumerate(rows, start=1):
                where = f"{name} row {number}"
                yield where, with_label_names(row, labels, where)
    except (pa.ArrowException, OSError) as error:
        raise QKSpaceError(f"{name}: cannot be read as Parquet ({error}).") from error


def dataset_rows(name: str, split: str | None, config: str | None) -> Iterator[Located]:
    """Yield the rows of a Hugging Face data set."""
    try:
        data, where = loaded(name, split, config)
    except QKSpaceError:
        raise
    except Exception as error:  # whatever a builder, the network or a file of another format raises
        is_folder = Path(name).is_dir()
        what = "a folder, but not of a data set" if is_folder else "neither a file or folder here nor a data set"
        raise QKSpaceError(
            f"{name} is {what} that could be loaded: {reason_of(error)}. Check the spelling and the "
            f"network, or give a file ({', '.join(FORMAT_OF_SUFFIX)})."
        ) from error
    labels: Mapping[str, list[str]] = {}
    if data.features is not None:  # a stream of files may not know them before it is read
        usable = _usable_columns(data.features.arrow_schema, where)
        data = data.select_columns(usable)  # images and audio stay undecoded
        labels = label_names(data.features.to_dict())
    return fetched(data, where, labels)


def fetched(data: Any, where: str, labels: Mapping[str, list[str]]) -> Iterator[Located]:
    """Yield the rows of a loaded data set, with the names of their labels."""
    rows, number = iter(data.with_format(None)), 0
    while True:
        number += 1
        place = f"{where} row {number}"
        try:
            row = next(rows, None)
        except Exception as error:  # whatever a builder, the network or a file raises: rows are fetched and parsed here
            raise QKSpaceError(f"{place}: cannot be read: {reason_of(error)}.") from error
        if row is None:
            return
        yield place, with_label_names(row, labels, place)


def reason_of(error: Exception) -> str:
    """Return the kind of an error and what it says."""
    return f"{type(error).__name__}: {error}".strip().rstrip(".")


def loaded(name: str, split: str | None, config: str | None) -> tuple[Any, str]:
    """Return one split of a data set and the words that name it."""
    import datasets

    saved = any((Path(name) / marker).is_file() for marker in ("state.json", "dataset_dict.json"))
    if saved and config is not None:
        raise QKSpaceError(f"{name} was written by save_to_disk, which has no configurations: leave --config out.")
    data = datasets.load_from_disk(name) if saved else datasets.load_dataset(name, config, streaming=True)
    if not isinstance(data, dict):
        if split is not None and str(data.split) != split:
            raise QKSpaceError(f"{name} is a single split ({data.split}), not {split!r}: leave --split out.")
        return data, name
    chosen = split or (next(iter(data)) if len(data) == 1 else "train")
    if chosen not in data:
        asked = f"no split {split!r}" if split else "several splits and none of them is train"
        raise QKSpaceError(f"{name} has {asked}: choose one of {', '.join(map(str, data))} with --split.")
    return data[chosen], f"{name} [{chosen}]"


def _usable_columns(schema: pa.Schema, where: str) -> list[str]:
    """Return the columns of an Arrow schema that hold scalars, or lists of scalars."""
    from pyarrow import types

    def is_scalar(kind: pa.DataType) -> bool:
        kind = kind.value_type if types.is_dictionary(kind) else kind
        tests = (
            types.is_string,
            types.is_large_string,
            types.is_string_view,
            types.is_integer,
            types.is_floating,
            types.is_boolean,
            types.is_null,
        )
        return any(test(kind) for test in tests)

    def is_list(kind: pa.DataType) -> bool:
        return bool(types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind))

    usable = [field.name for field in schema if is_scalar(field.type.value_type if is_list(field.type) else field.type)]
    if not usable:
        raise QKSpaceError(f"{where}: expected a column of texts, or of lists of words; got {', '.join(schema.names)}.")
    return usable


def label_names(features: Mapping[str, Any]) -> dict[str, list[str]]:
    """Return the names of the labels in each column that is a `ClassLabel` or a list of them."""
    names = {}
    for column, feature in features.items():
        inner = feature[0] if isinstance(feature, list) else feature.get("feature", feature)
        if isinstance(inner, dict) and inner.get("_type") == "ClassLabel" and inner.get("names"):
            names[column] = list(inner["names"])
    return names


def with_label_names(row: Row, labels: Mapping[str, list[str]], where: str) -> Row:
    """Return the row with the names of its labels; -1 is a label that is not known."""

    def name(column: str, label: int | None) -> str | None:
        if label is None or label == -1:
            return None
        if not 0 <= label < len(labels[column]):
            last = len(labels[column]) - 1
            raise QKSpaceError(f"{where}: column {column!r} holds label {label}, expected -1 to {last}.")
        return labels[column][label]

    named = dict(row)
    for column in labels.keys() & row.keys():
        value = row[column]
        named[column] = [name(column, label) for label in value] if isinstance(value, list) else name(column, value)
    return named


# ---------------------------------------------------------------------------------------------- a sequence of each row


def row_sequences(
    rows: Iterator[Located], text_column: str | None, convert: Callable[[Any], Any] = lambda value: value
) -> Iterator[TextSequence]:
    """Yield the sequence of each row; `convert` reads the values of a file that holds nothing but strings."""
    chosen = None
    for where, row in rows:
        if chosen is None:
            chosen = text_column or _text_column(row, where, convert)
        if chosen not in row:
            raise QKSpaceError(
                f"{where}: no column {chosen!r}; its columns are {', '.join(row)}. Say which holds the "
                f"text with --text-column."
            )
        others = {column: convert(value) for column, value in row.items() if column != chosen}
        yield _sequence(row[chosen], others, where, chosen)


def _text_column(row: Row, where: str, convert: Callable[[Any], Any]) -> str:
    """Return the column that holds the text or the words, judging by the first row."""
    by_name = {column.lower(): column for column in reversed(list(row))}
    for column in (by_name[known] for known in (*TEXT_COLUMNS, *WORD_COLUMNS) if known in by_name):
        if row[column] is None or isinstance(row[column], str) or _is_words(row[column]):
            return column
    strings = [column for column, value in row.items() if isinstance(convert(value), str)]
    if len(strings) != 1:
        raise QKSpaceError(
            f"{where}: which column holds the text? None is called {', '.join(TEXT_COLUMNS + WORD_COLUMNS)}, and "
            f"{len(strings)} hold strings. Say which with --text-column: {', '.join(row)}."
        )
    return strings[0]


def _is_words(value: object) -> TypeGuard[list[str]]:
    return isinstance(value, list) and all(isinstance(word, str) for word in value)


def is_scalar_value(value: object) -> bool:
    """Tell whether a value of a row can be metadata."""
    return value is None or isinstance(value, str | int | float)


def _shown(value: object) -> str:
    return f"{type(value).__name__} {str(value)[:60]!r}"


def _sequence(content: object, others: Row, where: str, column: str) -> TextSequence:
    """Return the sequence of one row, from its text or its words."""
    metadata = {name: value for name, value in others.items() if is_scalar_value(value)}
    if content is None or isinstance(content, str):
        return TextSequence(content or "", metadata, source=where)
    if not _is_words(content):
        raise QKSpaceError(f"{where}: column {column!r} holds {_shown(content)}, expected a text or a list of words.")
    labels = {
        name: value for name, value in others.items() if isinstance(value, list) and all(map(is_scalar_value, value))
    }
    for name, values in labels.items():
        if len(values) != len(content):
            raise QKSpaceError(
                f"{where}: column {name!r} has {len(values)} values for the {len(content)} words of "
                f"{column!r}, expected one a word. Repair the row or remove the column."
            )
    text, spans = join_words([(word, " ") for word in content])
    return TextSequence(text, metadata, spans, {name: tuple(values) for name, values in labels.items()}, where)
