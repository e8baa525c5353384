"""Kept: the tables of analyses, stored in the index that they are of.

In: an index and tables. Out: files in its folder `analyses`, which the manifest lists only when all of an analysis stand.
Knows no analysis.

    index = keep(index, "relations", {"relations": by_head, "relations-best": best}, head_columns=["uas"])
    read(index, "relations-best")
"""

from __future__ import annotations

import datetime
import math
import shutil
from collections.abc import Mapping, Sequence
from io import BytesIO
from typing import TYPE_CHECKING, Any

from qkspace import store
from qkspace.index import Index
from qkspace.schema import QKSpaceError

if TYPE_CHECKING:
    import pandas as pd

FOLDER = "analyses"
WAIT = 600.0  # seconds that a finished analysis waits for another command to let go of the index


def keep(
    index: Index,
    name: str,
    tables: Mapping[str, pd.DataFrame],
    *,
    head_columns: Sequence[str] = (),
    parameters: Mapping[str, Any] | None = None,
) -> Index:
    """Store the tables of an analysis, in the place of those of an earlier run of it, and return the index with them.

    Args:
        index: a finished index.
        name: of the analysis.
        tables: by their names, which are `name` or begin with it and a hyphen. `attrs` of a table are kept with it: "note",
            how it was measured, and "told", the same in short: names of sentences of the page with what stands in them.
        head_columns: columns of the table called `name`, which then has one row a head (layer, head), that
            `index.head_table()` is to have: what the atlas is sorted by.
        parameters: what the analysis was asked for.

    Raises:
        QKSpaceError: a table of another name, a head column that another analysis has, or another command has changed the
            index meanwhile.
    """
    wrong = [table for table in tables if table != name and not table.startswith(f"{name}-")]
    if wrong or (head_columns and name not in tables):
        raise QKSpaceError(f"The tables of {name!r} are called {name} or {name}-...; got {', '.join(tables)}.")
    entry = {
        "tables": list(tables),
        "head_columns": list(head_columns),
        "parameters": plain(dict(parameters or {})),
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }
    written = {table: _written(frame) for table, frame in tables.items()}  # all, before anything of an earlier run goes
    with store.disk_errors(index.root), store.locked(index.root, wait=WAIT):
        manifest = dict(store.read_manifest(index.root))
        if manifest["created"] != index.manifest["created"]:
            raise QKSpaceError(f"{index.root}: another command has just changed it. Run this one again.")
        _refuse_taken(manifest, name, head_columns)
        _drop(index, manifest, name)
        for table, content in written.items():
            with store.replacing(index.root / path(table)) as stream:
                stream.write(content)
        records = {path(table): store.file_record(index.root / path(table)) for table in tables}
        manifest["files"] = dict(sorted((manifest["files"] | records).items()))
        manifest["analyses"] = {**manifest["analyses"], name: entry}
        store.write_json(index.root / store.MANIFEST, manifest)
        shutil.rmtree(index.root / store.WORK / name, ignore_errors=True)  # what was finished of it
        if [path.name for path in (index.root / store.WORK).iterdir()] == ["lock"]:  # no other work that was begun
            store.end_work(index.root)
    return Index(index.root)


def remove(index: Index, name: str) -> Index:
    """Take an analysis and its tables out of an index.

    Raises:
        QKSpaceError: the index holds none of that name.
    """
    if name not in names(index):
        raise QKSpaceError(f"{index.root} holds no analysis {name!r}; it holds {', '.join(names(index)) or 'none'}.")
    with store.disk_errors(index.root), store.locked(index.root, wait=WAIT):
        manifest = dict(store.read_manifest(index.root))
        _drop(index, manifest, name)
        if [path.name for path in (index.root / store.WORK).iterdir()] == ["lock"]:
            store.end_work(index.root)
    return Index(index.root)


def _written(table: pd.DataFrame) -> bytes:
    stream = BytesIO()
    table.to_parquet(stream, index=False)
    return stream.getvalue()


def _refuse_taken(manifest: Mapping[str, Any], name: str, head_columns: Sequence[str]) -> None:
    for other, entry in manifest.get("analyses", {}).items():
        if other != name and (taken := set(entry["head_columns"]) & set(head_columns)):
            raise QKSpaceError(
                f"Heads have {', '.join(sorted(taken))} from {other} already: {name} must call it otherwise."
            )


def _drop(index: Index, manifest: dict[str, Any], name: str) -> None:
    """Take an analysis out of the manifest and then its files away, so that a killed run leaves nothing half-written."""
    analyses = dict(manifest.get("analyses", {}))
    gone = [path(table) for table in analyses.pop(name, {}).get("tables", ())]
    manifest["analyses"] = analyses
    manifest["files"] = {file: record for file, record in manifest["files"].items() if file not in gone}
    if gone:
        store.write_json(index.root / store.MANIFEST, manifest)
    for file in gone:
        (index.root / file).unlink(missing_ok=True)


def plain(value: Any) -> Any:
    """Return a value as JSON has it: numbers of numpy as Python's, tuples as lists, nan as null."""
    if isinstance(value, Mapping):
        return {str(key): plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [plain(each) for each in value]
    if hasattr(value, "item"):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value if isinstance(value, str | int | float | bool | None) else str(value)


def path(table: str) -> str:
    """Return the file of a table, within the folder of an index."""
    return f"{FOLDER}/{table}.parquet"


def names(index: Index) -> list[str]:
    """Return the analyses that an index holds, in the order in which they were first made."""
    return list(index.manifest.get("analyses", {}))


def tables(index: Index) -> list[str]:
    """Return the tables of all analyses that an index holds."""
    return [table for entry in index.manifest.get("analyses", {}).values() for table in entry["tables"]]


def read(index: Index, table: str) -> pd.DataFrame:
    """Return a table of an analysis that the index holds.

    Raises:
        QKSpaceError: the index has none of that name.
    """
    if table not in tables(index):
        there, how = ", ".join(tables(index)) or "none", _how(index, table)
        raise QKSpaceError(f"{index.root} holds no table {table!r} of its heads; it holds {there}. {how}")
    return index.table(f"{FOLDER}/{table}")


def _how(index: Index, table: str) -> str:
    """Say how a table is made that the index lacks, or why it cannot be."""
    from qkspace.heads.analyse import ANALYSES, command

    name = next((name for name in ANALYSES if table == name or table.startswith(f"{name}-")), None)
    if name is None:
        return f"Analyses: {', '.join(ANALYSES)}"
    trouble = ANALYSES[name].can(index).removesuffix(".")
    return f"{name} cannot be made of it: {trouble}." if trouble else f"Make it: {command(index, name)}"
