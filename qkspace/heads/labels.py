"""Labels: what each head does in a word, by thresholds on what is said of it in the table of heads.

In: the table of heads. Out: a label for each. Knows no index: columns that the table lacks label nothing.

    labels(index.head_table())
    labels(index.head_table(), Thresholds(previous=0.4))
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

import numpy as np

from qkspace.schema import FloatArray, QKSpaceError

if TYPE_CHECKING:
    import pandas as pd

COLUMNS: dict[str, tuple[str, ...]] = {
    "induction": ("induction",),
    "duplicate": ("duplicate_token",),
    "previous": ("attention_to_previous", "previous_token"),
    "next": ("attention_to_next",),
    "self": ("attention_to_self", "to_self"),
    "row": ("to_row",),
    "column": ("to_column",),
    "first": ("attention_to_first", "to_cls"),
    "special": ("attention_to_special",),
    "punctuation": ("attention_to_punctuation",),
    "sink": ("sink_share",),
    "broad": (),  # entropy as a share of entropy_uniform
    "positional": ("positional",),
}
# What gives each label, the largest where there are several. Labels come in order of precedence, the most specific first:
# a mechanism found on random tokens, one place beside the token, a line of an image, one class of keys, any one key, none.
OTHER = "other"  # nothing is above its threshold
UNMEASURED = "unmeasured"  # no number is there: vectors that are not finite
NEIGHBOURS = (
    "previous",
    "next",
)  # of an image the patch to the left and to the right: less specific than its row or column


@dataclass(frozen=True, slots=True)
class Thresholds:
    """What must be exceeded for each label, a share of attention from 0 to 1 where nothing else is said.

    Those of previous, next, special, first and punctuation are Clark et al.'s (2019, What Does BERT Look At?, figure 6); self
    is like its neighbours. Those of the text are not corrected for chance, which is small in all but the shortest sequences:
    over three tokens, equal attention gives each a third; compare the column `uniform` of the table of the surface.

    gain: how much a column must at least be above what equal attention scores, wherever the table says that too (as
        `NAME_uniform`, of all that `qkspace.heads.behaviours` measures). Where letters are few, or keys, equal attention is
        much already.
    induction, duplicate: on random tokens that come twice, where equal attention scores some hundredths unless the vocabulary
        is small. The rest goes mostly to the first token, where such a head rests when it finds nothing. A convention, as all
        of these are.
    row, column: of an image, the token's own counting; a row of 14 is 7 % of a picture.
    first: of a decoder the usual sink, of BERT and ViT [CLS]. special: all special tokens together.
    sink: the one key of a sequence that receives most, or a learned sink, whichever it is.
    broad: entropy divided by that of equal attention. Clark et al. take 3.8 nats, over texts where equal attention has about
        4.5, which is this share, and means the same over texts of any length.
    positional: what position alone foretells; 1 for a head that looks at no token. Equal attention reaches that too, so
        broad goes before, and the gain keeps others out.
    """

    induction: float = 0.4
    duplicate: float = 0.4
    previous: float = 0.5
    next: float = 0.5
    self: float = 0.5
    row: float = 0.5
    column: float = 0.5
    first: float = 0.6
    special: float = 0.6
    punctuation: float = 0.6
    sink: float = 0.6
    broad: float = 0.84
    positional: float = 0.8
    gain: float = 0.2

    def __post_init__(self) -> None:
        """Check that each is a share.

        Raises:
            QKSpaceError: one is not.
        """
        for field in fields(self):
            value = getattr(self, field.name)
            if not 0 <= value <= 1:
                of = "gain over equal attention" if field.name == "gain" else f"label {field.name}"
                raise QKSpaceError(f"The threshold of the {of} is a share from 0 to 1; got {value}.")


DEFAULTS = Thresholds()


def labels(table: pd.DataFrame, thresholds: Thresholds = DEFAULTS) -> pd.DataFrame:
    """Return what each head does: the first label, in the order of COLUMNS, whose threshold it exceeds clearly above chance.

    Of an image, whose row and column are known, the previous and the next token are the patches beside: these labels then
    come after row and column.

    Args:
        table: a row a head, as of `index.head_table()`; those of COLUMNS are used that are there.
        thresholds: see `Thresholds`.

    Returns:
        A row a head, in the order of the table: layer, head, label ("other" where no threshold is exceeded, "unmeasured"
        where all numbers are nan), all_labels (joined by ", "; "" for none) and value (what gave the label; else nan).

    Raises:
        QKSpaceError: the table has no column that labels are made of.
    """
    import pandas as pd

    found = dict(_values(table, thresholds.gain))
    if not found:
        wanted = ", ".join(dict.fromkeys(name for names in COLUMNS.values() for name in names))
        raise QKSpaceError(f"Heads are labelled by {wanted} or entropy; the table has {', '.join(table.columns)}.")
    names = list(found)
    values = np.stack([found[name] for name in names], axis=1)  # (head, label)
    holds = values > np.array([getattr(thresholds, name) for name in names])  # nan does not
    first, any_holds = holds.argmax(axis=1), holds.any(axis=1)
    label = np.where(any_holds, np.array(names, dtype=object)[first], OTHER)
    label[np.isnan(values).all(axis=1)] = UNMEASURED
    return pd.DataFrame(
        {
            "layer": table["layer"].to_numpy(),
            "head": table["head"].to_numpy(),
            "label": label,
            "all_labels": [", ".join(name for name, there in zip(names, row, strict=True) if there) for row in holds],
            "value": np.where(any_holds, values[np.arange(len(values)), first], np.nan),
        }
    )


def _values(table: pd.DataFrame, gain: float) -> Iterator[tuple[str, FloatArray]]:
    """Yield the labels whose columns are there, in order of precedence, and what gives them: (head), 0 where it is chance."""
    for label in _order(table):
        if there := [name for name in COLUMNS[label] if name in table]:
            columns = np.stack([_above_chance(table, name, gain) for name in there])
            yield label, np.fmax.reduce(columns, axis=0)  # a number, if either is one
        elif label == "broad" and "entropy" in table and "entropy_uniform" in table:
            entropy, equal = (table[name].to_numpy(dtype=np.float64) for name in ("entropy", "entropy_uniform"))
            yield label, np.divide(entropy, equal, out=np.full(len(table), np.nan), where=equal > 0)


def _order(table: pd.DataFrame) -> list[str]:
    """Return the labels in order of precedence."""
    if "to_row" not in table or table["to_row"].isna().all():
        return list(COLUMNS)
    order = [label for label in COLUMNS if label not in NEIGHBOURS]
    place = order.index("column") + 1
    return [*order[:place], *NEIGHBOURS, *order[place:]]


def _above_chance(table: pd.DataFrame, name: str, gain: float) -> FloatArray:
    """Return a column, 0 where it is less than the gain above what equal attention scores: (head)."""
    value = table[name].to_numpy(dtype=np.float64, na_value=np.nan)
    if (equal := f"{name}_uniform") not in table:
        return value
    return np.where(value - table[equal].to_numpy(dtype=np.float64, na_value=np.nan) < gain, 0.0, value)  # nan stays
