"""Surface: what every head looks at over the whole corpus, as the build has summed it.

In: an index. Out: two tables, of classes of keys and of offsets. Recomputes nothing (`qkspace.surface` gathers).

    table = read(index)                            # layer, head, column, value, share_of_tokens, attention, ...
    table[(table["column"] == "") & (table["value"] == "next")]
    read(index, "profile")                         # layer, head, offset, attention, uniform
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from qkspace.index import Index
from qkspace.schema import QKSpaceError

if TYPE_CHECKING:
    import pandas as pd

TABLES = ("surface", "profile")


def is_there(index: Index) -> bool:
    """Tell whether an index has these tables: those built before there were any have none."""
    return all(f"{table}.parquet" in index.manifest["files"] for table in TABLES)


def read(index: Index, table: str = "surface") -> pd.DataFrame:
    """Return a table of what heads look at.

    Args:
        index: a finished index.
        table: "surface" has a row for each head and class of keys: the mean over all queries of the attention that goes to the
            class, the same by value, what equal attention to all allowed keys would give, and the share of tokens that are in
            it; column "" are the classes that every corpus has. "profile" has one for each head and offset, the position of
            the key less that of the query, the ends with all that is beyond.

    Raises:
        QKSpaceError: a table of another name, or an index without them.
    """
    if table not in TABLES:
        raise QKSpaceError(f"Unknown table {table!r} of what heads look at; choose one of {', '.join(TABLES)}.")
    if not is_there(index):
        raise QKSpaceError(
            f"{index.root} holds no {table}.parquet: it was built before qkspace summed what heads look at. Build it again "
            "with --overwrite."
        )
    found = index.table(table)
    found.attrs["note"] = _note(index, table)
    return found


def _note(index: Index, table: str) -> str:
    n_tokens, n_sequences = (int(index.manifest["corpus"].get(name, 0)) for name in ("n_tokens", "n_windows"))
    over = f"over all {n_tokens:,} tokens of {n_sequences:,} sequences that were read, stored or not"
    if table == "profile":
        return f"Mean attention by the position of the key less that of the query, {over}; a head's rows sum to 1."
    return (
        f"Mean share of attention that goes to each class of keys, {over}: 1 is all attention of every query, 0 none; "
        "uniform is what equal attention to all allowed keys would give."
    )
