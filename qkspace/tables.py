"""The columns of the tables of tokens and windows, and those that metadata adds to them.

In: sequences with their metadata. Out: Arrow columns of one type each, under names that no other column has. Knows no
tokenizer and no disk.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from typing import TYPE_CHECKING

from qkspace.schema import QKSpaceError, Scalar, TextSequence

if TYPE_CHECKING:
    import pyarrow as pa

TOKEN_COLUMNS = (
    *("sequence", "position", "token", "token_id", "text", "is_special"),
    *("word", "word_text", "start", "end", "kind"),
)
SEQUENCE_COLUMNS = ("sequence", "text", "n_tokens", "window", "source")
RESERVED = frozenset((*TOKEN_COLUMNS, *SEQUENCE_COLUMNS, "fold"))  # fold is added when the index is written


def metadata_columns(
    batch: Sequence[TextSequence], n_words: Sequence[int], word_columns: set[str], renamed: dict[str, str]
) -> tuple[dict[str, pa.Array], dict[str, pa.Array]]:
    """Return the columns of the words of a batch and those of its sequences, by the names that they are stored under.

    Args:
        batch: (sequence)
        n_words: (sequence)
        word_columns: The columns that the words of the corpus have so far: those of sequences give way to them.
        renamed: Where a column is not stored under its own name, the two names are added here.

    Raises:
        QKSpaceError: Two columns would be stored under one name.
    """
    of_words: dict[str, pa.Array] = {}
    of_sequences: dict[str, pa.Array] = {}

    def add(columns: dict[str, pa.Array], name: str, stored: str, values: Sequence[Scalar]) -> None:
        if stored in of_words or stored in of_sequences:
            raise QKSpaceError(
                f"Two columns of metadata would be stored as {stored!r}, one of them {name!r}: rename one."
            )
        columns[stored] = typed_column(values)
        if stored != name:
            renamed[name] = stored

    for name in dict.fromkeys(chain.from_iterable(s.word_metadata for s in batch)):
        values = [s.word_metadata.get(name, (None,) * n) for s, n in zip(batch, n_words, strict=True)]
        add(of_words, name, f"corpus_{name}" if name in RESERVED else name, list(chain.from_iterable(values)))
    for name in dict.fromkeys(chain.from_iterable(s.metadata for s in batch)):
        stored = f"sequence_{name}" if name in word_columns else f"corpus_{name}" if name in RESERVED else name
        add(of_sequences, name, stored, [s.metadata.get(name) for s in batch])
    return of_words, of_sequences


def typed_column(values: Sequence[Scalar]) -> pa.Array:
    """Return values as int64, float64, bool, dictionary-encoded string or null."""
    import pyarrow as pa

    kinds = set(map(type, values)) - {type(None)}
    if kinds <= {int, float} and all(abs(v) < 2**63 for v in values if isinstance(v, int)):
        kind = pa.null() if not kinds else pa.int64() if kinds == {int} else pa.float64()
        return pa.array(values, kind)
    if kinds == {bool}:
        return pa.array(values, pa.bool_())
    return pa.array([v if v is None else str(v) for v in values], pa.string()).dictionary_encode()
