"""Read a corpus of files that are no text, one after another: images, sounds.

In: a folder, a file, or rows with a column of such files (JSONL, CSV, TSV, Parquet, data sets), and what is looked for.
Out: a stream of `MediaFile`, the files' own bytes with their metadata. Decodes nothing; memory does not grow with the corpus.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from qkspace.corpus import format_of
from qkspace.rows import (
    Located,
    Row,
    delimited_rows,
    fetched,
    is_scalar_value,
    jsonl_rows,
    label_names,
    loaded,
    number_or_string,
    parquet_rows,
    reason_of,
)
from qkspace.schema import QKSpaceError, Scalar

PATH_COLUMNS = ("file_name", "filename", "file_path", "filepath", "path", "file")
ROW_FORMATS = ("jsonl", "csv", "tsv", "parquet", "datasets")
_CORPUS_FILES = (".parquet", ".jsonl", ".ndjson", ".csv", ".tsv")
_ROWS_AT_ONCE = 16  # of a Parquet file, whose rows hold whole files


@dataclass(frozen=True, slots=True)
class Medium:
    """What is looked for. noun: "image"; article: "an"; option: of the column; columns: its names; feature: of data sets."""

    noun: str
    article: str
    option: str
    columns: tuple[str, ...]
    suffixes: tuple[str, ...]
    feature: str

    @property
    def plural(self) -> str:
        """Several of them, and the name of the format of a folder."""
        return f"{self.noun}s"

    @property
    def formats(self) -> tuple[str, ...]:
        """How a source may be read."""
        return (self.plural, *ROW_FORMATS)

    def is_name(self, name: str) -> bool:
        """Say whether a file is one, judging by its suffix."""
        return Path(name).suffix.lower() in self.suffixes


class MediaFile(NamedTuple):
    """One file: its bytes, metadata, the place to name in an error, and what it is called on the page."""

    encoded: bytes
    metadata: dict[str, Scalar]
    source: str
    name: str


def read_media(
    medium: Medium, source: str | Path, format: str | None, column: str | None, split: str | None, config: str | None
) -> Iterator[MediaFile]:
    """Yield the files of a corpus in order; arguments as of `read_images` and `read_sounds`.

    Raises:
        QKSpaceError: there is no such corpus, or a place in it that cannot be read, which the message names.
    """
    name = str(source)
    chosen = _format(medium, name, format)
    if column is not None and chosen == medium.plural:
        raise QKSpaceError(f"{name} is read as {medium.plural}, which have no columns: leave {medium.option} out.")
    if chosen != "datasets" and (split is not None or config is not None):
        raise QKSpaceError(f"{name} is read as {chosen}, where --split and --config mean nothing: leave them out.")
    if chosen == medium.plural:
        return _of_folder(medium, Path(name))
    if chosen == "datasets":
        return _of_rows(medium, _dataset_rows(medium, name, split, config), column, Path(name))
    if chosen in ("csv", "tsv"):
        rows = _number_rows(name, chosen)
    else:
        is_json = chosen == "jsonl"
        rows = jsonl_rows(name, "utf-8") if is_json else parquet_rows(name, batch_size=_ROWS_AT_ONCE, everything=True)
    return _of_rows(medium, rows, column, Path(name).parent)


def _format(medium: Medium, name: str, asked: str | None) -> str:
    """Return how a source is read."""
    noun, plural = medium.noun, medium.plural
    if asked is not None and asked not in medium.formats:
        raise QKSpaceError(f"Unknown format of {plural} {asked!r}: expected one of {', '.join(medium.formats)}.")
    if name == "-":
        raise QKSpaceError(
            f"{plural.capitalize()} cannot be read from standard input: give a folder, a file or a data set."
        )
    path = Path(name)
    holds = next(_files(medium, path), None) is not None if path.is_dir() else path.is_file() and medium.is_name(name)
    if asked == plural and not path.exists():
        raise QKSpaceError(f"{name}: no such file or folder (looked from {Path.cwd()}). Check the path.")
    if asked == plural or (asked is None and holds):
        return plural
    if asked is None and path.is_dir() and not holds_rows(path):
        raise QKSpaceError(
            f"{name}: there is no {noun} in this folder or below it. Expected files such as "
            f"{', '.join(medium.suffixes[:6])}, a file of rows ({', '.join(_CORPUS_FILES)}), or a data set written by "
            "save_to_disk."
        )
    found = format_of(name, asked)
    if found not in medium.formats:
        raise QKSpaceError(
            f"{name} is {found}, and the model reads {plural}. Expected a folder of {plural}, {medium.article} {noun}, or a "
            f"file with a column of {plural} ({', '.join(_CORPUS_FILES)})."
        )
    return found


def holds_rows(folder: Path) -> bool:
    """Tell whether a folder is of data, whatever else lies in it: written by save_to_disk, or with files of rows."""
    saved = any((folder / marker).is_file() for marker in ("state.json", "dataset_dict.json"))
    return saved or any(path.suffix.lower() in _CORPUS_FILES for path in folder.rglob("*"))


# ---------------------------------------------------------------------------------------------- a folder


def _files(medium: Medium, folder: Path) -> Iterator[Path]:
    """Yield the files in a folder and below, in order of their names; a link into a folder above is not gone into."""
    for here, folders, files in os.walk(folder, followlinks=True):
        above = {Path(here).resolve(), *Path(here).resolve().parents}
        folders[:] = sorted(
            name for name in folders if not name.startswith(".") and (Path(here) / name).resolve() not in above
        )
        yield from (Path(here) / name for name in sorted(files) if medium.is_name(name) and not name.startswith("."))


def _of_folder(medium: Medium, path: Path) -> Iterator[MediaFile]:
    """Yield the files of a folder, or the one that it is."""
    if not path.is_dir():
        yield MediaFile(_bytes_of(medium, path, str(path)), {"file": path.name}, str(path), path.name)
        return
    empty = True
    for file in _files(medium, path):
        empty = False
        relative = file.relative_to(path)
        label = relative.parent.as_posix()
        metadata: dict[str, Scalar] = {"file": relative.as_posix()}
        if label != ".":
            metadata["label"] = label
        yield MediaFile(_bytes_of(medium, file, str(file)), metadata, str(file), file.name)
    if empty:
        raise QKSpaceError(
            f"{path}: there is no {medium.noun} in this folder or below it ({', '.join(medium.suffixes)})."
        )


def _bytes_of(medium: Medium, path: Path, where: str) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise QKSpaceError(f"{where}: the {medium.noun} {path} cannot be opened: {error.strerror}.") from error


# ---------------------------------------------------------------------------------------------- rows


def _number_rows(name: str, kind: str) -> Iterator[Located]:
    """Yield the rows of a CSV or TSV file, whose values are numbers where they read as such."""
    for where, row in delimited_rows(name, "utf-8", tabs=kind == "tsv"):
        yield where, {column: number_or_string(value) for column, value in row.items()}


def _dataset_rows(medium: Medium, name: str, split: str | None, config: str | None) -> Iterator[Located]:
    """Yield the rows of a data set, whose files stay encoded."""
    import datasets

    kind = getattr(datasets, medium.feature)
    try:
        data, where = loaded(name, split, config)
        for column, feature in (data.features or {}).items():
            if isinstance(feature, kind):
                data = data.cast_column(column, kind(decode=False))
        labels = label_names(data.features.to_dict()) if data.features is not None else {}
    except QKSpaceError:
        raise
    except Exception as error:  # whatever a builder, the network or a file of another format raises
        raise QKSpaceError(
            f"{name} is no data set that could be loaded: {reason_of(error)}. Check the spelling and the network, or give a "
            f"folder of {medium.plural} or a file of rows ({', '.join(_CORPUS_FILES)})."
        ) from error
    yield from fetched(data, where, labels)


def _of_rows(medium: Medium, rows: Iterator[Located], column: str | None, folder: Path) -> Iterator[MediaFile]:
    """Yield the file of each row; paths are relative to `folder`."""
    chosen = None
    for where, row in rows:
        chosen = chosen or column or _column(medium, row, where)
        if chosen not in row:
            raise QKSpaceError(
                f"{where}: no column {chosen!r}; its columns are {', '.join(row)}. Say which holds the {medium.plural} with "
                f"{medium.option}."
            )
        encoded, path = _of_cell(medium, row[chosen], where, chosen, folder)
        metadata = {column: value for column, value in row.items() if column != chosen and is_scalar_value(value)}
        if path:
            metadata.setdefault("file", path)
        yield MediaFile(encoded, metadata, where, Path(path).name if path else where.rsplit("/", 1)[-1])


def _column(medium: Medium, row: Row, where: str) -> str:
    """Return the column that holds the files, judging by the first row."""
    holding = [column for column, value in row.items() if _may_be(medium, value)]
    by_name = {column.lower(): column for column in reversed(holding)}
    for known in (*medium.columns, f"{medium.columns[0]}_path", *PATH_COLUMNS):
        if known in by_name:
            return by_name[known]
    if len(holding) != 1:
        raise QKSpaceError(
            f"{where}: which column holds the {medium.plural}? {len(holding) or 'None'} of them hold {medium.plural} or paths "
            f"of {medium.plural}. Say which with {medium.option}: {', '.join(row)}."
        )
    return holding[0]


def _may_be(medium: Medium, value: object) -> bool:
    if isinstance(value, Mapping):
        return isinstance(value.get("bytes"), bytes) or isinstance(value.get("path"), str)
    return isinstance(value, bytes) or (isinstance(value, str) and medium.is_name(value))


def _of_cell(medium: Medium, value: object, where: str, column: str, folder: Path) -> tuple[bytes, str | None]:
    """Return the encoded file in a cell, and its path where one is stated."""
    path = value.get("path") if isinstance(value, Mapping) else value
    encoded = value.get("bytes") if isinstance(value, Mapping) else value
    path = path if isinstance(path, str) and path else None
    if isinstance(encoded, bytes):
        return encoded, path
    if path is None:
        raise QKSpaceError(
            f"{where}: column {column!r} holds {type(value).__name__} {str(value)[:60]!r}; expected {medium.article} "
            f"{medium.noun} as bytes, as a struct of bytes and path, or as the path of a file. Repair or remove the row."
        )
    if "://" in path:
        raise QKSpaceError(
            f"{where}: the {medium.noun} {path!r} lies on the network, from which none is fetched. Download it, or store its "
            "bytes."
        )
    return _bytes_of(medium, folder / path, where), path
