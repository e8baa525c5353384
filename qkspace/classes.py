"""Classes: which tokens of a corpus share a value of metadata, as numbers that attention is summed by.

In: the tables of tokens that the reading stage left. Out: one flat binary of the class of each token in each column, read by
memory map, and the names of the classes. Knows no model and no attention.

A column counts where it says something of each token (not the same of a whole sequence) and is text or true and false, and
`kind`; of numbers only the row and column of a patch. Of a column with more than MOST_VALUES values the commonest are
classes; one with more than MOST_DIFFERENT is no set of classes.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from qkspace import store
from qkspace.schema import FloatArray, IntArray
from qkspace.tables import TOKEN_COLUMNS

if TYPE_CHECKING:
    import pyarrow as pa

MOST_VALUES = 64  # classes of a column
MOST_DIFFERENT = 256  # values of a column, beyond which it is taken for names and not for classes
MOST_CLASSES = 1024  # of all columns together, so that memory is bounded; later columns give way
GRID_COLUMNS = ("row", "column")  # of patches: the only numbers that are classes
NONE = 255  # the code of a token in no class of a column
BINARY, RECORD = "classes", "classes.json"


@dataclass(frozen=True, slots=True)
class TokenClasses:
    """The classes of all tokens that were read.

    columns: each with its values, the commonest first; codes: (token, column), the number of the value or NONE.
    """

    columns: tuple[tuple[str, tuple[str, ...]], ...]
    codes: NDArray[np.uint8]

    @property
    def names(self) -> list[tuple[str, str]]:
        """Column and value of each class, in the order of `one_hot`."""
        return [(column, value) for column, values in self.columns for value in values]

    def one_hot(self, tokens: IntArray) -> FloatArray:
        """Return 1 where a token is in a class: (token, class)."""
        sizes = [len(values) for _, values in self.columns]
        n_classes = sum(sizes)
        codes = np.asarray(self.codes[tokens]).astype(np.int64)  # (token, column)
        first = np.cumsum([0, *sizes])[:-1]
        place = np.where(codes == NONE, n_classes, codes + first)
        out = np.zeros((len(tokens), n_classes + 1), dtype=np.float32)  # the last takes what is in none
        np.put_along_axis(out, place, 1, axis=1)
        return out[:, :n_classes]


def write_classes(folder: Path) -> None:
    """Choose the classes of the tokens in the Parquet parts of a folder and write the code of each token beside them."""
    import pyarrow.parquet as pq

    parts = sorted(folder.glob("tokens-*.parquet"))
    columns = _columns(folder, parts)
    with store.replacing(folder / BINARY) as file:
        for part in parts:
            schema = pq.read_schema(part)
            codes = np.full((pq.read_metadata(part).num_rows, len(columns)), NONE, dtype=np.uint8)
            for i, (name, values) in enumerate(columns):
                if name in schema.names:
                    codes[:, i] = _codes(pq.read_table(part, columns=[name])[name], values)
            file.write(codes.tobytes())
    store.write_json(folder / RECORD, {"columns": [[name, list(values)] for name, values in columns]})


def read_classes(folder: Path, n_tokens: int) -> TokenClasses:
    """Open the classes of a folder by memory map, and make them first where they are not there yet."""
    if not (folder / RECORD).exists():
        write_classes(folder)
    columns = tuple((name, tuple(values)) for name, values in store.read_json(folder / RECORD)["columns"])
    shape = (n_tokens, len(columns))
    codes = np.memmap(folder / BINARY, dtype=np.uint8, mode="r", shape=shape) if columns else np.zeros(shape, np.uint8)
    return TokenClasses(columns, codes)


def _columns(folder: Path, parts: list[Path]) -> list[tuple[str, tuple[str, ...]]]:
    """Return the columns whose values are classes, and these values."""
    import pyarrow.parquet as pq

    of_sequences = {name for part in folder.glob("sequences-*.parquet") for name in pq.read_schema(part).names}
    others = of_sequences | set(TOKEN_COLUMNS) - {"kind"}
    found: dict[str, Counter[str]] = {}
    wrong: set[str] = set()
    for part in parts:
        for field in pq.read_schema(part):
            name = field.name
            if name in others or name in wrong:
                continue
            counts = found.setdefault(name, Counter())
            if _is_category(field):
                values = _text(pq.read_table(part, columns=[name])[name]).value_counts().to_pylist()
                counts.update({v["values"]: v["counts"] for v in values if v["values"] is not None})
            if not _is_category(field) or len(counts) > MOST_DIFFERENT:
                wrong.add(name)
    columns: list[tuple[str, tuple[str, ...]]] = []
    for name, counts in found.items():
        values = _commonest(counts)
        n_classes = sum(len(others) for _, others in columns) + len(values)
        if name not in wrong and values and n_classes <= MOST_CLASSES:
            columns.append((name, values))
    return columns


def _commonest(counts: Counter[str]) -> tuple[str, ...]:
    """Return the commonest values, the commonest first, and of equally common ones numbers in their order."""
    return tuple(sorted(counts, key=lambda value: (-counts[value], value.rjust(8)))[:MOST_VALUES])


def _is_category(field: pa.Field) -> bool:
    import pyarrow as pa

    kind = field.type.value_type if pa.types.is_dictionary(field.type) else field.type
    if field.name in GRID_COLUMNS and pa.types.is_integer(kind):
        return True
    return any(test(kind) for test in (pa.types.is_string, pa.types.is_boolean, pa.types.is_null))


def _text(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Return a column as text, true and false as "true" and "false"."""
    import pyarrow as pa

    return column.cast(pa.string())


def _codes(column: pa.ChunkedArray, values: tuple[str, ...]) -> NDArray[Any]:
    """Return the number of each value among some, NONE where it is none of them."""
    import pyarrow as pa
    import pyarrow.compute as pc

    found = pc.index_in(_text(column), value_set=pa.array(values, pa.string()))
    return np.asarray(found.fill_null(NONE).to_numpy(), dtype=np.uint8)
