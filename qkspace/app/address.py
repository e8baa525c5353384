"""Address: how what a visitor chose stands in the address of their page, part by part.

In: the arguments of an address, a stranger's word. Out: numbers, texts and choices that were checked, and the words of an
address for them. Knows no index and no state.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any
from urllib.parse import parse_qs

from qkspace.schema import QKSpaceError

Arguments = Mapping[str, Sequence[bytes]]
MAX_TEXT = 4_000  # characters of a search or a live sentence that an address may hold


def arguments_of(address: str) -> Arguments:
    """Return the arguments in the part of an address after the question mark."""
    said = parse_qs(address.lstrip("?"), keep_blank_values=True)
    return {name: [value.encode() for value in values] for name, values in said.items()}


def last(arguments: Arguments, name: str) -> str | None:
    """Return what the arguments last say of a name; None: nothing."""
    values = arguments.get(name)
    return values[-1].decode("utf-8", "replace") if values else None


def read_all(arguments: Arguments, readers: Mapping[str, Callable[[str, str, Any], Any]], of: Any) -> dict[str, Any]:
    """Return the parts that the arguments name, each as its reader reads it; `of`: what is shown, for readers that ask.

    Raises:
        QKSpaceError: a part asks for what is not there.
    """
    said = {name: last(arguments, name) for name in readers}
    return {name: readers[name](name, text, of) for name, text in said.items() if text is not None}


def written(value: Any) -> str:
    """Return the words of an address for a number, a text, yes or no, or nothing."""
    if isinstance(value, bool):
        return "1" if value else "0"
    return "" if value is None else f"{value:.6g}" if isinstance(value, float) else str(value)


def refuse(name: str, text: str, expected: str) -> QKSpaceError:
    """Return the error for a part of an address that cannot be shown."""
    return QKSpaceError(f"The address asks for {name} {text[:80]!r}; expected {expected}.")


def number(name: str, text: str, _of: object = None) -> int:
    """Read a whole number, not negative."""
    if not (text.isascii() and text.isdecimal() and len(text) < 10):
        raise refuse(name, text, "a number")
    return int(text)


def real(name: str, text: str, _of: object = None) -> float:
    """Read a number."""
    if not re.fullmatch(r"-?[0-9]{1,9}(\.[0-9]{1,9})?(e[+-]?[0-9]{1,2})?", text):
        raise refuse(name, text, "a number")
    return float(text)


def yes(name: str, text: str, _of: object = None) -> bool:
    """Read yes or no."""
    if text not in ("0", "1"):
        raise refuse(name, text, "0 or 1")
    return text == "1"


def short(name: str, text: str, _of: object = None) -> str:
    """Read a text that is not too long."""
    if len(text) > MAX_TEXT:
        raise refuse(name, text, f"at most {MAX_TEXT:,} characters")
    return text


def query(name: str, text: str, _of: object = None) -> str:
    """Read what is searched for."""
    return short(name, text).strip()


def one_of(*choices: str) -> Callable[[str, str, object], str]:
    """Return what reads one of a few words."""

    def read(name: str, text: str, _of: object = None) -> str:
        if text not in choices:
            raise refuse(name, text, " or ".join(choices))
        return text

    return read


def selected(name: str, text: str, n_tokens: int) -> tuple[str, int] | None:
    """Read a token as query or key, query-ROW or key-ROW; nothing: none."""
    if text == "":
        return None
    kind, _, row = text.partition("-")
    if kind not in ("query", "key") or not re.fullmatch("[0-9]{1,9}", row) or int(row) >= n_tokens:
        raise refuse(name, text, f"query-ROW or key-ROW with a row below {n_tokens}")
    return kind, int(row)
