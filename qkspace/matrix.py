"""Matrix: the attention of one sequence as one matrix, of a head or averaged, and what each token receives.

In: an index and a sequence, or a live one. Out: words and weights. Draws nothing.

    matrix = matrix_of(index, 12)                                   # the last layer, averaged over its heads
    matrix.table()                                                  # its numbers, a row a query and key
    received(matrix)
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from qkspace.heads.words import layer_attention
from qkspace.index import Index
from qkspace.live import LiveSequence
from qkspace.schema import BoolArray, FloatArray, IntArray, QKSpaceError

if TYPE_CHECKING:
    import pandas as pd


MOST_PAIRS = 1 << 25  # of a query and a key in one matrix: 128 MiB


@dataclass(frozen=True, slots=True, eq=False)
class Matrix:
    """Attention over one sequence: asking (query), answering (key), their texts; attention and allowed (query, key).

    model: its name; of: which layer and head; sequence: which sequence, all in words. is_special: (key). position: (key),
    in the sequence. n_allowed: (query), to how many keys of the whole sequence it may attend. tokens: from which of its
    n_tokens to before which this is; a matrix of some holds what these give each other. Cross-attention asks with one text
    and answers with the other.
    """

    asking: list[str]
    answering: list[str]
    attention: FloatArray
    allowed: BoolArray
    is_special: BoolArray
    position: IntArray
    n_allowed: IntArray
    model: str
    of: str
    sequence: str
    tokens: tuple[int, int]
    n_tokens: int

    @property
    def is_part(self) -> bool:
        """Whether the sequence has tokens that are not here."""
        return self.tokens[1] - self.tokens[0] < self.n_tokens

    @property
    def where(self) -> str:
        """Which sequence, and which of its tokens, in words."""
        part = f", tokens {self.tokens[0] + 1} to {self.tokens[1]} of {self.n_tokens}" if self.is_part else ""
        return f"{self.sequence}{part}"

    def table(self) -> pd.DataFrame:
        """Return the matrix as a table, a row a pair of a query and a key that it may attend to.

        Columns: query, key (positions in the sequence, from 0), query_text, key_text, attention (a share, 0 to 1).
        """
        import pandas as pd

        query, key = np.nonzero(self.allowed)
        first = self.tokens[1] - len(self.asking)  # those that ask come last
        return pd.DataFrame(
            {
                "query": first + query,
                "key": self.position[key],
                "query_text": np.array(self.asking, dtype=object)[query],
                "key_text": np.array(self.answering, dtype=object)[key],
                "attention": self.attention[query, key],
            }
        )


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
        QKSpaceError: no such sequence, layer, head or tokens, or more of them than one matrix may hold.
    """
    number = index.n_layers - 1 if layer is None else layer
    index.head(number, head or 0)  # refuses what is not there
    heads = range(index.layers[number].n_heads) if head is None else [head]
    n_source: int | None = None
    part: Callable[[int, Sequence[int], IntArray], tuple[FloatArray, BoolArray]]
    if isinstance(sequence, LiveSequence):
        table, name, part = sequence.tokens, "the typed text", partial(_live_part, sequence)
    else:
        table, name = index.tokens.iloc[index.rows(sequence)], f"sequence {sequence}"
        n_source, part = index.n_source(index.place(sequence)), partial(_stored_part, index, sequence)
    inside = np.flatnonzero(within(tokens or (0, len(table)), len(table), name))
    asks = answers = inside
    if index.layers[number].crosses and n_source is not None:
        asks, answers = inside[inside >= n_source], inside[inside < n_source]
    _refuse(len(asks), len(answers), len(table), name)
    attention, allowed = part(number, heads, asks)
    texts, special = table["text"].astype(str).to_numpy(), table["is_special"].to_numpy(dtype=bool)
    return Matrix(
        asking=list(texts[asks]),
        answering=list(texts[answers]),
        attention=attention[:, answers],
        allowed=allowed[:, answers],
        is_special=special[answers],
        position=answers,
        n_allowed=allowed.sum(axis=1),
        model=index.model_name,
        of=f"layer {number}, " + (f"head {head}" if head is not None else f"mean of its {len(heads)} heads"),
        sequence=name,
        tokens=tokens or (0, len(table)),
        n_tokens=len(table),
    )


def within(tokens: tuple[int, int], n: int, name: str) -> BoolArray:
    """Return which of n tokens are from the first to before the last of two: (token)."""
    if len(tokens) != 2 or not all(isinstance(each, (int, np.integer)) for each in tokens):
        raise QKSpaceError(
            f"tokens are two numbers, the first token and the one after the last, as (0, {n}); got {tokens}."
        )
    first, last = tokens
    if not 0 <= first < last <= n:
        raise QKSpaceError(f"{name} has {n} tokens: tokens must be within (0, {n}); got ({first}, {last}).")
    place = np.arange(n)
    return (place >= first) & (place < last)


def _refuse(n_asks: int, n_answers: int, n: int, name: str) -> None:
    """Refuse a matrix of nothing, and one that memory might not hold."""
    if not n_asks or not n_answers:
        raise QKSpaceError(
            f"The layer reads another sequence, and of {name} {n_asks} tokens were chosen that ask and {n_answers} that "
            f"answer. Choose tokens on both sides of the border, or all {n}."
        )
    if n_asks * n > MOST_PAIRS:
        raise QKSpaceError(
            f"{n_asks:,} queries of {name} with {n:,} keys each are more than one matrix may hold, which is {MOST_PAIRS:,} "
            f"pairs. Choose some: tokens=(0, {min(MOST_PAIRS // n, 1000)})."
        )


def _stored_part(
    index: Index, sequence: int, layer: int, heads: Sequence[int], at: IntArray
) -> tuple[FloatArray, BoolArray]:
    """Return the attention of some queries, averaged over heads one by one, and to whom they may attend: (query, token)."""
    place, spec = index.place(sequence), index.layers[layer]
    attention = _mean(layer_attention(index, layer, place, at=at, heads=[head])[0] for head in heads)
    n = int(index.row_starts[place + 1] - index.row_starts[place])
    allowed = spec.allowed(n, index.n_source(place), at=at)
    if spec.position not in ("grid", "sequence") or (part := index.position(layer)) is None:
        return attention, allowed
    return attention, allowed & (np.asarray(part.head(0).of(n, place))[at] > -np.inf)


def _live_part(live: LiveSequence, layer: int, heads: Sequence[int], at: IntArray) -> tuple[FloatArray, BoolArray]:
    """As `_stored_part`, of a text that was typed."""
    n, part = len(live.tokens), live.positions[layer]
    attention = _mean(live.attention(layer, head)[at] for head in heads)
    allowed, added = live.layers[layer].allowed(n, at=at), None if part is None else part.of(n)
    return attention, allowed if added is None else np.asarray(allowed & (added[:, at] > -np.inf).any(axis=0))


def _mean(matrices: Iterable[FloatArray]) -> FloatArray:
    """Return the mean of matrices, of which no more than two are held."""
    rest = iter(matrices)
    total, count = next(rest).copy(), 1
    for each in rest:
        total += each
        count += 1
    return np.asarray(total / count)


def received(matrix: Matrix) -> pd.DataFrame:
    """Return what each token receives of the attention of a sequence, a row a token that answers.

    Columns: position (in the sequence), text, is_special, total (summed over the queries of the matrix: where it is of some
    tokens, over these), mean (over those of them that may attend to it), uniform (what `total` would be if each query
    attended equally to all keys of the whole sequence that it may attend to: 1 in an encoder).
    """
    import pandas as pd

    may = matrix.allowed.sum(axis=0)
    equal = matrix.allowed / np.maximum(matrix.n_allowed, 1)[:, None]
    total = matrix.attention.sum(axis=0, dtype=np.float64)
    return pd.DataFrame(
        {
            "position": matrix.position,
            "text": matrix.answering,
            "is_special": matrix.is_special,
            "total": total,
            "mean": np.divide(total, may, out=np.full(len(total), np.nan), where=may > 0),
            "uniform": equal.sum(axis=0),
        }
    )
