"""The records that the stages hand to each other, and the one exception family.

In: nothing. Out: frozen dataclasses with their axes stated, and `QKSpaceError`.
Knows no disk, no model and no picture.

Terms: `logit` is scaled and before the softmax, `attention` is after it. Axis order everywhere:
(layer, head, token, d_head). Heads are 0-based and printed `L3H5`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

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

    The logit of head h is `scale * query[h, i] . key[h // group, j]`, where `group = n_heads // n_kv_heads`; with a
    `softcap` c it becomes `c * tanh(logit / c)`. Then the position part is added, where there is one: `position` says in
    which form it is stored (`qkspace.position`). Attention is the softmax over the allowed j, and where the layer
    `has_sink` over one more logit of the head's own that belongs to no key.

    Query i may attend to key j when `j <= i` (if `causal`) and `abs(i - j) < window` (if there is a window). Where the
    layer `crosses`, a sequence is laid out source first and only target tokens ask, of source tokens alone.
    """

    module: str
    n_heads: int
    n_kv_heads: int
    d_head: int
    scale: float
    causal: bool
    window: int | None = None
    softcap: float | None = None
    position: Literal["offset", "grid", "sequence"] | None = None
    has_sink: bool = False
    crosses: bool = False

    def allowed(self, n: int, n_source: int | None = None, *, at: IntArray | None = None) -> BoolArray:
        """Return who may attend to whom in one sequence of n tokens: (query token, key token).

        n_source: how many of them are of the source, where the layer crosses; at: only the queries at these positions.
        """
        key = np.arange(n)
        place = key if at is None else at
        if self.crosses:
            if n_source is None:
                raise QKSpaceError(f"{self.module} reads another sequence: say how many tokens are of the source.")
            return np.asarray((place[:, None] >= n_source) & (key[None, :] < n_source))
        offset = place[:, None] - key[None, :]
        allowed = offset >= 0 if self.causal else np.ones(offset.shape, dtype=bool)
        return allowed if self.window is None else allowed & (np.abs(offset) < self.window)

    @property
    def is_product(self) -> bool:
        """Whether attention is the softmax of the scaled product and of nothing else."""
        return self.softcap is None and self.position is None and not self.has_sink


@dataclass(frozen=True, slots=True)
class HeadSample:
    """The vectors of one head for some whole sequences, laid end to end.

    query, key: (token, d_head); starts: (sequence + 1), sequence s is rows starts[s]:starts[s + 1];
    is_content: (token), False for special tokens and for the first token of a decoder (the usual sink).

    Where attention is more than their product: bias, for each sequence what position adds to the logits, (query token,
    key token), -inf where not allowed; sink: (sequence), the logit that belongs to no key. Where the layer crosses,
    n_source: (sequence), how many tokens are of the source; the rows of those in `query`, and of the others in `key`, say
    nothing. shift: (token), what a translation of the keys has added to the scaled products of each query, which a soft cap
    and a sink would see: it is taken off before them.
    """

    query: FloatArray
    key: FloatArray
    starts: IntArray
    is_content: BoolArray
    layer: LayerSpec
    bias: tuple[FloatArray, ...] | None = None
    sink: FloatArray | None = None
    n_source: IntArray | None = None
    shift: FloatArray | None = None

    def __post_init__(self) -> None:
        n = len(self.query)
        if self.key.shape != self.query.shape or self.is_content.shape != (n,) or self.starts[-1] != n:
            raise QKSpaceError(
                f"A head sample needs query and key of one shape, a content mark for every token and starts that end "
                f"at the number of tokens; got query {self.query.shape}, key {self.key.shape}, "
                f"is_content {self.is_content.shape}, starts ending at {self.starts[-1]}."
            )
        needed = {"bias": self.layer.position is not None, "sink": self.layer.has_sink, "n_source": self.layer.crosses}
        for name, is_needed in needed.items():
            given = getattr(self, name)
            if is_needed and (given is None or len(given) != len(self.starts) - 1):
                raise QKSpaceError(f"A head sample of {self.layer.module} needs {name} of each of its sequences.")

    @property
    def is_query(self) -> BoolArray:
        """Which tokens ask: all, but where the layer crosses those of the target alone: (token)."""
        return np.ones(len(self.query), dtype=bool) if self.n_source is None else ~self._is_source

    @property
    def is_key(self) -> BoolArray:
        """Which tokens answer: all, but where the layer crosses those of the source alone: (token)."""
        return np.ones(len(self.key), dtype=bool) if self.n_source is None else self._is_source

    @property
    def _is_source(self) -> BoolArray:
        return is_source(np.diff(self.starts), np.asarray(self.n_source))

    @property
    def queries(self) -> FloatArray:
        """The queries of tokens that ask: (query, d_head)."""
        return self.query if self.n_source is None else self.query[self.is_query]

    @property
    def keys(self) -> FloatArray:
        """The keys of tokens that answer: (key, d_head)."""
        return self.key if self.n_source is None else self.key[self.is_key]

    def allowed(self, sequence: int) -> BoolArray:
        """Return who may attend to whom in one of the sequences, from 0: (query token, key token)."""
        n = int(self.starts[sequence + 1] - self.starts[sequence])
        allowed = self.layer.allowed(n, None if self.n_source is None else int(self.n_source[sequence]))
        return allowed if self.bias is None else allowed & (self.bias[sequence] > -np.inf)

    def changed(self, query: FloatArray, key: FloatArray, shift: FloatArray | None = None) -> HeadSample:
        """Return the sample with other vectors."""
        return replace(self, query=query, key=key, shift=shift)


def is_source(lengths: IntArray, n_source: IntArray) -> BoolArray:
    """Return which tokens of sequences laid end to end are of the source: (token)."""
    place = np.arange(int(lengths.sum())) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    return np.asarray(place < np.repeat(n_source, lengths))


@dataclass(frozen=True, slots=True)
class Positions:
    """Where the queries and keys of a head lie on a map: query and key, each (token, dims)."""

    query: FloatArray
    key: FloatArray
