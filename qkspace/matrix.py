"""Matrix: the attention of one sequence as one matrix, of a head or averaged, and what each token receives.

In: an index and a sequence, or a live one. Out: words and weights. Draws nothing.

    matrix = matrix_of(index, 12)                                   # the last layer, averaged over its heads
    received(matrix)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from qkspace.heads.words import layer_attention
from qkspace.index import Index
from qkspace.live import LiveSequence
from qkspace.schema import BoolArray, FloatArray, QKSpaceError

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, slots=True, eq=False)
class Matrix:
    """Attention over one sequence: asking (query), answering (key), their texts; attention and allowed (query, key).

    model: its name; of: which layer and head; sequence: which sequence, all in words. is_special: (key). Cross-attention asks
    with one text and answers with the other.
    """

    asking: list[str]
    answering: list[str]
    attention: FloatArray
    allowed: BoolArray
    is_special: BoolArray
    model: str
    of: str
    sequence: str


def matrix_of(
    index: Index,
    sequence: int | LiveSequence,
    *,
    layer: int | None = None,
    head: int | None = None,
    tokens: tuple[int, int] | None = None,
) -> Matrix:
    """Return the attention over one sequence as one matrix.

    Args:
        index: an index.
        sequence: a value of `index.sequences["sequence"]`, or what `index.live` returned.
        layer: from 0; None is the last.
        head: from 0; None is the mean of all heads of the layer.
        tokens: only those from the first to before the last of these two, from 0.

    Raises:
        QKSpaceError: no such sequence, layer, head or tokens.
    """
    number = index.n_layers - 1 if layer is None else layer
    index.head(number, head or 0)  # refuses what is not there
    chosen = list(range(index.layers[number].n_heads)) if head is None else [head]
    what = f"layer {number}, " + (f"head {head}" if head is not None else f"mean of its {len(chosen)} heads")
    if isinstance(sequence, LiveSequence):
        table, name = sequence.tokens, "the typed text"
        attention = np.mean([sequence.attention(number, each) for each in chosen], axis=0)
        allowed = _allowed(sequence, number)
    else:
        table, name = index.tokens.iloc[index.rows(sequence)], f"sequence {sequence}"
        attention = layer_attention(index, number, index.place(sequence))[chosen].mean(axis=0)
        allowed = index.allowed(number, sequence)
    inside = within(tokens or (0, len(table)), len(table), name)
    crosses = index.layers[number].crosses
    asks = inside & (allowed.any(axis=1) | (not crosses))
    answers = inside & (allowed.any(axis=0) | (not crosses))
    texts, special = table["text"].astype(str).to_numpy(), table["is_special"].to_numpy(dtype=bool)
    return Matrix(
        asking=list(texts[asks]),
        answering=list(texts[answers]),
        attention=attention[asks][:, answers],
        allowed=allowed[asks][:, answers],
        is_special=special[answers],
        model=index.model_name,
        of=what,
        sequence=name,
    )


def within(tokens: tuple[int, int], n: int, name: str) -> BoolArray:
    """Return which of n tokens are from the first to before the last of two: (token)."""
    first, last = tokens
    if not 0 <= first < last <= n:
        raise QKSpaceError(f"{name} has {n} tokens: tokens must be within (0, {n}); got ({first}, {last}).")
    place = np.arange(n)
    return (place >= first) & (place < last)


def _allowed(live: LiveSequence, layer: int) -> BoolArray:
    n, part = len(live.tokens), live.positions[layer]
    allowed, added = live.layers[layer].allowed(n), None if part is None else part.of(n)
    return allowed if added is None else np.asarray(allowed & (added > -np.inf).any(axis=0))


def received(matrix: Matrix) -> pd.DataFrame:
    """Return what each token receives of the attention of a sequence, a row a token that answers.

    Columns: position, text, is_special, total (summed over queries: what attention would give to a token if all were equal
    is `uniform`, 1 in an encoder), mean (over the queries that may attend to it).
    """
    import pandas as pd

    may = matrix.allowed.sum(axis=0)
    equal = matrix.allowed / np.maximum(matrix.allowed.sum(axis=1, keepdims=True), 1)
    total = matrix.attention.sum(axis=0, dtype=np.float64)
    return pd.DataFrame(
        {
            "position": np.arange(len(total)),
            "text": matrix.answering,
            "is_special": matrix.is_special,
            "total": total,
            "mean": np.divide(total, may, out=np.full(len(total), np.nan), where=may > 0),
            "uniform": equal.sum(axis=0),
        }
    )
