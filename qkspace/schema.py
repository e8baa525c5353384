"""The records that the stages hand to each other, and the one exception family.

In: nothing. Out: frozen dataclasses with their axes stated, and `QKSpaceError`.
Knows no disk, no model and no picture.

Terms: `logit` is scaled and before the softmax, `attention` is after it. Axis order everywhere:
(layer, head, token, d_head). Heads are 0-based and printed `L3H5`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.floating[Any]]
IntArray = NDArray[np.integer[Any]]
BoolArray = NDArray[np.bool_]
Scalar = str | int | float | bool | None


class QKSpaceError(ValueError):
    """What qkspace raises for input it cannot use: what it got, what it expected, what to do."""


@dataclass(frozen=True, slots=True)
class TextSequence:
    """One sequence of a corpus before tokenisation.

    `word_spans` are the [start, end) characters of each word in `text`, in order; `word_metadata` has one
    value a word in each column. Where `word_spans` is None the words are found by rule
    (`qkspace.spans.find_words`). `source` is the place to name in an error ("corpus.jsonl line 31").
    """

    text: str
    metadata: Mapping[str, Scalar] = field(default_factory=dict)
    word_spans: tuple[tuple[int, int], ...] | None = None
    word_metadata: Mapping[str, tuple[Scalar, ...]] = field(default_factory=dict)
    source: str = ""


@dataclass(frozen=True, slots=True)
class LayerSpec:
    """What is needed to recompute the attention of one layer from its queries and keys.

    Attention of head h is softmax over the allowed j of `scale * query[h, i] . key[h // group, j]`, where
    `group = n_heads // n_kv_heads`. Query i may attend to key j when `j <= i` (if `causal`) and
    `abs(i - j) < window` (if there is a window).
    """

    module: str
    n_heads: int
    n_kv_heads: int
    d_head: int
    scale: float
    causal: bool
    window: int | None = None

    def allowed(self, n: int) -> BoolArray:
        """Return who may attend to whom in one sequence of n tokens: (query token, key token)."""
        offset = np.arange(n)[:, None] - np.arange(n)[None, :]
        allowed = offset >= 0 if self.causal else np.ones((n, n), dtype=bool)
        return allowed if self.window is None else allowed & (np.abs(offset) < self.window)


@dataclass(frozen=True, slots=True)
class HeadSample:
    """The vectors of one head for some whole sequences, laid end to end.

    query, key: (token, d_head); starts: (sequence + 1), sequence s is rows starts[s]:starts[s + 1];
    is_content: (token), False for special tokens and for the first token of a decoder (the usual sink).
    """

    query: FloatArray
    key: FloatArray
    starts: IntArray
    is_content: BoolArray
    layer: LayerSpec

    def __post_init__(self) -> None:
        n = len(self.query)
        if self.key.shape != self.query.shape or self.is_content.shape != (n,) or self.starts[-1] != n:
            raise QKSpaceError(
                f"A head sample needs query and key of one shape, a content mark for every token and starts that end "
                f"at the number of tokens; got query {self.query.shape}, key {self.key.shape}, "
                f"is_content {self.is_content.shape}, starts ending at {self.starts[-1]}."
            )


@dataclass(frozen=True, slots=True)
class Positions:
    """Where the queries and keys of a head lie on a map: query and key, each (token, dims)."""

    query: FloatArray
    key: FloatArray
