"""Read a corpus, sequence by sequence.

In: a file, standard input, a folder or the name of a Hugging Face data set. Out: a stream of `TextSequence` whose
memory does not grow with the corpus. Knows no tokenizer and no model.
"""

from __future__ import annotations

import codecs
import csv
import io
import json
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Literal, NoReturn, TypeGuard

from qkspace.schema import QKSpaceError, Scalar, TextSequence

if TYPE_CHECKING:
    import pyarrow as pa

SUFFIXES_OF_FORMAT = {
    "text": (".txt", ".md", ".text"),
    "jsonl": (".jsonl", ".ndjson"),
    "csv": (".csv",),
    "tsv": (".tsv",),
    "parquet": (".parquet",),
    "conllu": (".conllu", ".conll"),
}
FORMAT_OF_SUFFIX = {suffix: name for name, suffixes in SUFFIXES_OF_FORMAT.items() for suffix in suffixes}
FORMATS = (*SUFFIXES_OF_FORMAT, "datasets")
TEXT_COLUMNS = ("text", "sentence", "content")
WORD_COLUMNS = ("words", "tokens")
_ROW_FORMATS = ("jsonl", "csv", "tsv", "parquet", "datasets")
_MAX_FIELD = 2**24  # characters in one CSV field: the csv module's own limit, 131,072, is less than one long document
_NUMBER = re.compile(r"-?((0|[1-9][0-9]{0,17})(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]{1,2})?")
_CONLLU_COLUMNS = ("lemma", "upos", "xpos", "feats", "head", "deprel")

Row = Mapping[str, Any]
Located = tuple[str, Row]  # where the row is ("corpus.jsonl line 31"), and the row
Span = tuple[int, int]
_Token = tuple[str, str, int, int]  # of CoNLL-U: form, what follows it, and its words [first, last)


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
        format: One of `FORMATS`; None goes by the suffix of the file.
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
    chosen = _format(name, format)
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
        return _conllu(name, encoding)
    if chosen in ("csv", "tsv"):
        return _sequences(_delimited(name, encoding, tabs=chosen == "tsv"), text_column, _number)
    if chosen == "jsonl":
        return _sequences(_jsonl(name, encoding), text_column)
    return _sequences(_parquet(name) if chosen == "parquet" else _dataset(name, split, config), text_column)


# ---------------------------------------------------------------------------------------------- what the source is


def _format(name: str, asked: str | None) -> str:
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
    text_files = tuple(known for known in FORMATS if known not in ("parquet", "datasets"))
    meant = {
        "text_column": _ROW_FORMATS,
        "unit": ("text",),
        "split": ("datasets",),
        "config": ("datasets",),
        "encoding": text_files,
    }
    for option, formats in meant.items():
        if given[option] and chosen not in formats:
            raise QKSpaceError(
                f"{name} is read as {chosen}, where --{option.replace('_', '-')} means nothing: it is "
                f"for {', '.join(formats)}. Leave it out, or set --format."
            )


# ---------------------------------------------------------------------------------------------- files of text


@contextmanager
def _opened(name: str) -> Iterator[BinaryIO]:
    """Open a file, or lend standard input, which stays open."""
    if name == "-":
        yield sys.stdin.buffer
        return
    try:
        stream = Path(name).open("rb")  # noqa: SIM115 (closed below: only the opening is to be explained)
    except OSError as error:
        raise QKSpaceError(f"{name}: cannot be opened: {error.strerror}.") from error
    with stream:
        yield stream


def _where(name: str) -> str:
    return "standard input" if name == "-" else name


def _lines(name: str, encoding: str, *, keep_ends: bool = False) -> Iterator[tuple[int, str]]:
    """Yield the number (from 1) and the text of each line; lines end as in Unix, Windows or old Mac files only."""
    try:
        codec = "utf-8-sig" if codecs.lookup(encoding).name == "utf-8" else encoding
    except LookupError as error:
        raise QKSpaceError(
            f"Unknown encoding {encoding!r}: expected a name such as utf-8, latin-1, cp1252, utf-16 or shift_jis."
        ) from error
    with _opened(name) as stream:
        reader = io.TextIOWrapper(stream, encoding=codec, newline="" if keep_ends else None)
        number = 0
        try:
            for number, line in enumerate(reader, start=1):
                yield number, line if keep_ends else line.removesuffix("\n")
        except UnicodeDecodeError as error:
            _refuse_bytes(error, _where(name), number, encoding, stream)
        finally:
            reader.detach()  # or the reader would close standard input


def _refuse_bytes(error: UnicodeDecodeError, where: str, lines_read: int, encoding: str, stream: BinaryIO) -> NoReturn:
    """Say which byte cannot be decoded: all lines before the piece that failed have been read."""
    before = error.object[: error.start].decode(encoding, "replace")
    line = lines_read + 1 + before.replace("\r\n", "\n").replace("\r", "\n").count("\n")
    place = ""
    if stream.seekable():
        place = f" (byte {stream.tell() - len(error.object) + error.start} of the file, from 0)"
    raise QKSpaceError(
        f"{where} line {line}: byte 0x{error.object[error.start]:02X}{place} is not {encoding} ({error.reason}). "
        f"Say the encoding of the file with --encoding (for example --encoding latin-1), or repair the file."
    ) from error


def _text(name: str, encoding: str, unit: str) -> Iterator[TextSequence]:
    """Yield each line that is not blank, or each block between blank lines."""
    for first, last, block in _blocks(_lines(name, encoding), whole=unit == "paragraph"):
        numbers = f"line {first}" if first == last else f"lines {first}-{last}"
        yield TextSequence(" ".join(block), source=f"{_where(name)} {numbers}")


def _blocks(lines: Iterable[tuple[int, str]], *, whole: bool = True) -> Iterator[tuple[int, int, list[str]]]:
    """Yield (first line, last line, lines) of the blocks between blank lines, or of each line."""
    block: list[str] = []
    last = 0
    for number, line in lines:
        if block and (not whole or not line.strip()):
            yield last - len(block) + 1, last, block
            block = []
        if line.strip():
            block.append(line)
            last = number
    if block:
        yield last - len(block) + 1, last, block


# ---------------------------------------------------------------------------------------------- rows


def _jsonl(name: str, encoding: str) -> Iterator[Located]:
    """Yield the objects of a file with one JSON object a line; blank lines are passed over."""
    for number, line in _lines(name, encoding):
        where = f"{_where(name)} line {number}"
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
        except (json.JSONDecodeError, RecursionError) as error:
            raise QKSpaceError(
                f'{where}: not JSON ({error}); expected one object a line, such as {{"text": "..."}}.'
            ) from error
        if not isinstance(row, dict):
            raise QKSpaceError(f'{where}: expected a JSON object such as {{"text": "..."}}, got {_shown(row)}.')
        yield where, row


def _delimited(name: str, encoding: str, *, tabs: bool) -> Iterator[Located]:
    """Yield the rows of a CSV or TSV file as strings; the first row that is not blank names the columns."""
    csv.field_size_limit(max(csv.field_size_limit(), _MAX_FIELD))
    lines = (line for _, line in _lines(name, encoding, keep_ends=True))
    reader = csv.reader(
        lines, delimiter="\t" if tabs else ",", quoting=csv.QUOTE_NONE if tabs else csv.QUOTE_MINIMAL, strict=True
    )
    header: list[str] = []
    while True:
        where = f"{_where(name)} line {reader.line_num + 1}"
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


def _number(value: str) -> Scalar:
    """Return what a CSV value is: None where it is empty, a number where it reads as one, else itself."""
    if _NUMBER.fullmatch(value) is None:
        return value or None
    return int(value) if value.removeprefix("-").isdigit() else float(value)


def _parquet(name: str) -> Iterator[Located]:
    """Yield the rows of a Parquet file, some hundreds in memory at a time."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(name) as file:
            features = json.loads((file.schema_arrow.metadata or {}).get(b"huggingface", b"{}"))
            labels = _label_names(features.get("info", {}).get("features", {}))
            batches = file.iter_batches(batch_size=512, columns=_usable_columns(file.schema_arrow, name))
            rows = (row for batch in batches for row in batch.to_pylist())
            for number, row in enumerate(rows, start=1):
                where = f"{name} row {number}"
                yield where, _with_label_names(row, labels, where)
    except (pa.ArrowException, OSError) as error:
        raise QKSpaceError(f"{name}: cannot be read as Parquet ({error}).") from error


def _dataset(name: str, split: str | None, config: str | None) -> Iterator[Located]:
    """Yield the rows of a Hugging Face data set."""
    try:
        data, where = _loaded(name, split, config)
    except QKSpaceError:
        raise
    except Exception as error:  # whatever a builder, the network or a file of another format raises
        what = (
            "a folder, but not of a data set" if Path(name).is_dir() else "neither a file or folder here nor a data set"
        )
        raise QKSpaceError(
            f"{name} is {what} that could be loaded: {_reason(error)}. Check the spelling and the "
            f"network, or give a file ({', '.join(FORMAT_OF_SUFFIX)})."
        ) from error
    labels: Mapping[str, list[str]] = {}
    if data.features is not None:  # a stream of files may not know them before it is read
        data = data.select_columns(
            _usable_columns(data.features.arrow_schema, where)
        )  # images and audio stay undecoded
        labels = _label_names(data.features.to_dict())
    rows, number = iter(data.with_format(None)), 0
    while True:
        number += 1
        place = f"{where} row {number}"
        try:
            row = next(rows, None)
        except Exception as error:  # as above: rows are fetched and parsed here
            raise QKSpaceError(f"{place}: cannot be read: {_reason(error)}.") from error
        if row is None:
            return
        yield place, _with_label_names(row, labels, place)


def _reason(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".strip().rstrip(".")


def _loaded(name: str, split: str | None, config: str | None) -> tuple[Any, str]:
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


def _label_names(features: Mapping[str, Any]) -> dict[str, list[str]]:
    """Return the names of the labels in each column that is a `ClassLabel` or a list of them."""
    names = {}
    for column, feature in features.items():
        inner = feature[0] if isinstance(feature, list) else feature.get("feature", feature)
        if isinstance(inner, dict) and inner.get("_type") == "ClassLabel" and inner.get("names"):
            names[column] = list(inner["names"])
    return names


def _with_label_names(row: Row, labels: Mapping[str, list[str]], where: str) -> Row:
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


def _sequences(
    rows: Iterator[Located], text_column: str | None, convert: Callable[[str], Scalar] | None = None
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
        others = {column: convert(value) if convert else value for column, value in row.items() if column != chosen}
        yield _sequence(row[chosen], others, where, chosen)


def _text_column(row: Row, where: str, convert: Callable[[str], Scalar] | None) -> str:
    """Return the column that holds the text or the words, judging by the first row."""
    by_name = {column.lower(): column for column in reversed(list(row))}
    for column in (by_name[known] for known in (*TEXT_COLUMNS, *WORD_COLUMNS) if known in by_name):
        if row[column] is None or isinstance(row[column], str) or _is_words(row[column]):
            return column
    strings = [column for column, value in row.items() if isinstance(convert(value) if convert else value, str)]
    if len(strings) != 1:
        raise QKSpaceError(
            f"{where}: which column holds the text? None is called {', '.join(TEXT_COLUMNS + WORD_COLUMNS)}, and "
            f"{len(strings)} hold strings. Say which with --text-column: {', '.join(row)}."
        )
    return strings[0]


def _is_words(value: object) -> TypeGuard[list[str]]:
    return isinstance(value, list) and all(isinstance(word, str) for word in value)


def _is_scalar(value: object) -> bool:
    return value is None or isinstance(value, str | int | float)


def _shown(value: object) -> str:
    return f"{type(value).__name__} {str(value)[:60]!r}"


def _sequence(content: object, others: Row, where: str, column: str) -> TextSequence:
    """Return the sequence of one row, from its text or its words."""
    metadata = {name: value for name, value in others.items() if _is_scalar(value)}
    if content is None or isinstance(content, str):
        return TextSequence(content or "", metadata, source=where)
    if not _is_words(content):
        raise QKSpaceError(f"{where}: column {column!r} holds {_shown(content)}, expected a text or a list of words.")
    labels = {name: value for name, value in others.items() if isinstance(value, list) and all(map(_is_scalar, value))}
    for name, values in labels.items():
        if len(values) != len(content):
            raise QKSpaceError(
                f"{where}: column {name!r} has {len(values)} values for the {len(content)} words of "
                f"{column!r}, expected one a word. Repair the row or remove the column."
            )
    text, spans = _join([(word, " ") for word in content])
    return TextSequence(text, metadata, spans, {name: tuple(values) for name, values in labels.items()}, where)


def _join(forms: Iterable[tuple[str, str]]) -> tuple[str, tuple[Span, ...]]:
    """Return the text of forms, each with what follows it (but not at the end), and the span of each form."""
    pieces, spans, place = [], [], 0
    for form, after in forms:
        spans.append((place, place + len(form)))
        pieces += [form, after]
        place += len(form) + len(after)
    return "".join(pieces[:-1]), tuple(spans)


# ---------------------------------------------------------------------------------------------- CoNLL-U


def _conllu(name: str, encoding: str) -> Iterator[TextSequence]:
    """Yield the sentences of a CoNLL-U file: its words with their columns, its comments as metadata.

    Words carry lemma, upos, xpos, feats, head (1-based, 0 = root), deprel and each MISC key but SpaceAfter in lower
    case (`misc_<key>` where a column has that name; True where it has no value); "_" is None. Empty nodes (8.1) are
    passed over. `# newdoc id` is `document` for all sentences that follow it. The text is that of `# text` where the
    words are found in it in order, else the words joined as SpaceAfter says.
    """
    document: str | None = None
    for first, _, lines in _blocks(_lines(name, encoding)):
        comments = [line[1:].strip() for line in lines if line.startswith("#")]
        for comment in comments:
            if re.match(r"newdoc\b", comment):
                document = comment.partition("=")[2].strip() or None
        pairs = [comment.partition("=") for comment in comments if not re.match(r"(newdoc|newpar)\b", comment)]
        metadata: dict[str, Scalar] = {key.strip(): value.strip() for key, equals, value in pairs if equals}
        text = metadata.pop("text", None)
        if document is not None:
            metadata["document"] = document
        words, tokens = _conllu_words(lines, _where(name), first)
        if words:
            text, spans = _conllu_spans(words, tokens, str(text or ""))
            columns = dict.fromkeys(key for word in words for key in word if key != "form")
            labels = {key: tuple(word.get(key) for word in words) for key in columns}
            yield TextSequence(text, metadata, spans, labels, f"{_where(name)} line {first}")


def _conllu_words(lines: list[str], name: str, first: int) -> tuple[list[dict[str, Scalar]], list[_Token]]:
    """Return the words of a sentence, and its surface tokens (some of which are several words)."""
    words: list[dict[str, Scalar]] = []
    tokens: list[_Token] = []
    places: list[str] = []  # of the words
    for number, line in enumerate(lines, start=first):
        where = f"{name} line {number}"
        fields = line.split("\t")
        if line.startswith("#"):
            continue
        if len(fields) != 10:
            raise QKSpaceError(f"{where}: expected 10 columns with tabs between them, got {len(fields)}.")
        if re.fullmatch(r"[0-9]+\.[0-9]+", fields[0]):
            continue
        covered = tokens[-1][3] if tokens else 0
        is_range = re.fullmatch(r"[0-9]+-[0-9]+", fields[0]) is not None
        start, end = map(int, fields[0].split("-")) if is_range else (len(words) + 1, len(words) + 1)
        if start != len(words) + 1 or (fields[0] != str(start) and not start < end) or (is_range and covered >= start):
            raise QKSpaceError(f"{where}: expected word id {len(words) + 1}, or a range from it, got {fields[0]!r}.")
        if end > covered:
            tokens.append((fields[1], "" if "SpaceAfter=No" in fields[9].split("|") else " ", start - 1, end))
        if not is_range:
            words.append(_conllu_word(fields, where))
            places.append(where)
    _check_sentence(words, tokens, places, f"{name} line {first}")
    return words, tokens


def _check_sentence(words: list[dict[str, Scalar]], tokens: list[_Token], places: list[str], where: str) -> None:
    """Refuse a range or a head that goes beyond the end of a sentence."""
    n_words = len(words)
    if tokens and tokens[-1][3] > n_words:
        raise QKSpaceError(f"{where}: the sentence ends at word {n_words}, but a range goes to {tokens[-1][3]}.")
    for word, place in zip(words, places, strict=True):
        if int(word["head"] or 0) > n_words:
            raise QKSpaceError(f"{place}: head {word['head']} is not in the sentence, whose words are 1 to {n_words}.")


def _conllu_word(fields: list[str], where: str) -> dict[str, Scalar]:
    """Return the columns of one word."""
    word: dict[str, Scalar] = {"form": fields[1]}
    for column, value in zip(_CONLLU_COLUMNS, fields[2:8], strict=True):
        word[column] = None if value == "_" else value
    if word["head"] is not None:
        if not re.fullmatch("[0-9]+", fields[6]):
            raise QKSpaceError(f"{where}: expected the head to be the number of a word, 0 or _, got {fields[6]!r}.")
        word["head"] = int(fields[6])
    for item in [] if fields[9] == "_" else fields[9].split("|"):
        key, equals, value = item.partition("=")
        column = f"misc_{key.lower()}" if key.lower() in word else key.lower()
        if key != "SpaceAfter" and key:
            word[column] = (None if value == "_" else value) if equals else True
    return word


def _conllu_spans(words: list[dict[str, Scalar]], tokens: list[_Token], text: str) -> tuple[str, tuple[Span, ...]]:
    """Return the text of a sentence and the span of each word in it."""
    found, place = [], 0
    for form, *_ in tokens:
        place = text.find(form, place)
        if place < 0:
            text, spans = _join((form, after) for form, after, *_ in tokens)
            found = list(spans)
            break
        found.append((place, place + len(form)))
        place += len(form)
    spans_of_words: list[Span] = []
    for (start, end), (form, _, first, last) in zip(found, tokens, strict=True):
        forms = [str(word["form"]) for word in words[first:last]]
        parts = [(start, end)] * len(forms)
        if "".join(forms) == form:
            parts = [(start + left, start + right) for left, right in _join((part, "") for part in forms)[1]]
        spans_of_words += parts
    return text, tuple(spans_of_words)
