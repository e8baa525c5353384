"""Asked: what an analysis of words is asked for that cannot be.

In: an index, or an option. Out: an error that says what to do instead, or the words of it.
"""

from __future__ import annotations

from collections.abc import Sequence

from qkspace.index import Index
from qkspace.schema import QKSpaceError


def refuse_choice(name: str, value: str | None, known: Sequence[str | None]) -> None:
    """Raise where an option is none of its choices."""
    if value not in known:
        raise QKSpaceError(f"Unknown {name} {value!r}: expected one of {', '.join(each for each in known if each)}.")


def refuse_unfit(index: Index) -> None:
    """Raise where the attention of an index is not between the words of one text (`unfit`)."""
    if trouble := unfit(index):
        raise QKSpaceError(f"{index.root}: {trouble}.")


def unfit(index: Index) -> str:
    """Say why the attention of an index is not between the words of one text; "" where it is."""
    modality = index.manifest.get("modality", "text")
    if modality != "text" or "word" not in index.tokens:
        return f"there are no words in it: it is of {modality}; expected an index of text"
    if any(layer.crosses for layer in index.layers):
        return (
            "its attention goes from one text to another, and trees and mentions are within one; build an index of the encoder "
            "or of the decoder's own attention (--attention)"
        )
    return ""
