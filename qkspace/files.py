"""Files of text, line by line.

In: the name of a file, or "-" for standard input. Out: its lines with their numbers, of which one piece at a time is in
memory; and which format a suffix tells. Knows nothing of what the lines mean.
"""

from __future__ import annotations

import codecs
import io
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, NoReturn

from qkspace.schema import QKSpaceError

SUFFIXES_OF_FORMAT = {
    "text": (".txt", ".md", ".text"),
    "jsonl": (".jsonl", ".ndjson"),
    "csv": (".csv",),
    "tsv": (".tsv",),
    "parquet": (".parquet",),
    "conllu": (".conllu", ".conll"),
}
FORMAT_OF_SUFFIX = {suffix: name for name, suffixes in SUFFIXES_OF_FORMAT.items() for suffix in suffixes}


def shown_name(name: str) -> str:
    """Return what a message calls a file."""
    return "standard input" if name == "-" else name


def read_lines(name: str, encoding: str, *, keep_ends: bool = False) -> Iterator[tuple[int, str]]:
    """Yield the number (from 1) and the text of each line; lines end as in Unix, Windows or old Mac files only.

    Raises:
        QKSpaceError: The file cannot be opened, or a byte of it (which is named) is not of the encoding.
    """
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
            _refuse_bytes(error, shown_name(name), number, encoding, stream)
        finally:
            reader.detach()  # or the reader would close standard input


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


def blocks(lines: Iterable[tuple[int, str]], *, whole: bool = True) -> Iterator[tuple[int, int, list[str]]]:
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
