"""Behaviour: what a head does over a corpus, and which heads do alike.

In: an index. Out: tables of the tokens that a head attends to and of the sequences on which it is most and least itself,
and the distances between heads. Recomputes attention from stored vectors some rows at a time; knows no map and no page.

    most_attended(index, layer=3, head=5)
    extreme_sequences(index, layer=3, head=5)
    nearest_heads(index, layer=3, head=5)
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from qkspace import store
from qkspace.app.language import say
from qkspace.index import Index
from qkspace.position import LayerPosition, attend_heads, with_sink
from qkspace.schema import BoolArray, FloatArray, IntArray, LayerSpec, QKSpaceError

if TYPE_CHECKING:
    import pandas as pd

    from qkspace.app.state import Language

By = Literal["total", "mean"]

MAX_SEQUENCES = 200  # that the behaviour of a head is looked at on
MAX_QUERIES = 1_024  # of one sequence; of a longer one so many are drawn
MAX_PAIRS = 30_000_000  # attention weights recomputed for one head: about a second
BLOCK_PAIRS = 1 << 20  # attention weights, or mixtures of two heads, held at a time
BLOCK_ROWS = 1 << 17  # tokens whose top keys are held at a time
QUERIES_PER_SEQUENCE = 16  # for distances, where there are sequences enough: reading keys costs more than using them
STEPS_MARGIN = 1.15  # so that chance seldom leaves too few queries
MIN_SEQUENCES = 32  # that distances are over, where there are so many, though fewer queries of each are used then
MIN_QUERIES = 64  # of an analysis that is asked for, whatever the work: two of each of so many sequences
MAX_MIXTURES = 8_000_000_000  # weights of mixtures of two heads: some ten seconds
TINY = 1e-30  # whose logarithm is finite, so that no weight times it is 0

SHARES = (
    "attention_to_previous",
    "attention_to_next",
    "attention_to_self",
    "attention_to_special",
    "attention_to_first",
)
# By what a head's behaviour on a sequence is judged: shares of attention, and two that do not grow with the sequence.
BEHAVIOUR = (*SHARES, "entropy_ratio", "distance_ratio")
STATISTICS = ("entropy", "attention_distance", *BEHAVIOUR)


# ---------------------------------------------------------------------------------------------- tokens attended to


def most_attended(
    index: Index, layer: int, head: int, *, top: int = 20, content: bool = True, by: By = "total", least: int = 1
) -> pd.DataFrame:
    """Return the tokens, by their text, that receive most attention from a head over the whole corpus.

        most_attended(index, 3, 5)                                  # in total
        most_attended(index, 3, 5, by="mean", least=10)             # for each time the token occurs
        most_attended(index, 3, 5, content=False)                   # special tokens too

    Summed over the stored top keys of every query, so a little less than all attention: attrs["stored_share"] is how much
    of it these hold.

    Args:
        index: an index.
        layer: from 0.
        head: from 0.
        top: how many texts at most.
        content: whether special tokens and the first tokens of a decoder's sequences (the usual sink) are left out, as
            queries and as keys.
        by: what comes first: "total" or "mean" attention.
        least: how often a text must occur.

    Returns:
        Columns text, is_special, count (how often it occurs), total (attention received), mean (of one occurrence; 1 is
        what every token of an encoder would get if attention were equal) and share (of all attention counted).

    Raises:
        QKSpaceError: no such head, or `by` is neither.
    """
    import pandas as pd

    if by not in ("total", "mean"):
        raise QKSpaceError(f"Tokens cannot be sorted by {by!r}; there are total, mean.")
    one, tokens = index.head(layer, head), index.tokens
    counted = is_content(index, one.spec) if content else np.ones(len(tokens), dtype=bool)
    received, stored = _received(one.top_key, one.top_attention, counted)
    special = tokens["is_special"].to_numpy(dtype=bool)
    codes, texts = pd.factorize(tokens["text"], use_na_sentinel=False)
    groups, group = np.unique(2 * codes[counted] + special[counted], return_inverse=True)
    total, count = np.bincount(group, weights=received[counted]), np.bincount(group)
    table = pd.DataFrame(
        {
            "text": [str(texts[code // 2]) for code in groups],
            "is_special": groups % 2 == 1,
            "count": count,
            "total": total,
            "mean": total / count,
            "share": total / max(float(total.sum()), TINY),
        }
    )
    table = table[(table["count"] >= least) & (table["total"] > 0)]
    table = table.sort_values(by, ascending=False, kind="stable").head(top).reset_index(drop=True)
    table.attrs["stored_share"] = stored
    return table


def is_content(index: Index, layer: LayerSpec) -> BoolArray:
    """Return which tokens are neither special nor the first of a sequence of a decoder: (token)."""
    ordinary = ~index.tokens["is_special"].to_numpy(dtype=bool)
    return ordinary & (index.tokens["position"].to_numpy() > 0) if layer.causal else ordinary


def _received(top_key: IntArray, top_attention: FloatArray, counted: BoolArray) -> tuple[FloatArray, float]:
    """Return the attention that each token gets from counted queries, (token), and the share of attention stored."""
    received, stored = np.zeros(len(counted)), 0.0
    for first in range(0, len(counted), BLOCK_ROWS):
        key, weight = top_key[first : first + BLOCK_ROWS], top_attention[first : first + BLOCK_ROWS]
        there = key >= 0
        stored += float(weight[there].sum(dtype=np.float64))
        there &= counted[first : first + BLOCK_ROWS, None]
        here = key[there]
        if here.size:  # keys are in the queries' own sequences, so near to them
            low = int(here.min())
            sums = np.bincount(here - low, weights=weight[there])
            received[low : low + len(sums)] += sums
    return received, stored / max(len(counted), 1)


# ---------------------------------------------------------------------------------------------- sequences


def sequence_scores(
    index: Index,
    layer: int,
    head: int,
    *,
    max_sequences: int = MAX_SEQUENCES,
    min_tokens: int = 1,
    seed: int = 0,
    language: Language = "en",
) -> pd.DataFrame:
    """Return what a head does on each of some sequences, and how unusual that is.

        scores = sequence_scores(index, 3, 5)
        scores.attrs["note"]                                        # which sequences were looked at

    The behaviour of a head on a sequence is what BEHAVIOUR lists: the shares of attention to the previous, next, own,
    special and first token, its entropy as a share of that of equal attention, and its mean distance as a share of that of
    equal attention. Each is a mean over the queries that may attend to such a token (that may attend to two or more), so
    that the length of a sequence matters little, and nan where there are none. (The table of heads counts queries without
    a next token as 0.) Each is put on one scale: less its median over sequences, divided by its standard deviation; nan
    counts as the median. `unusual` is the root mean square of these seven numbers: 0 is the most typical.

    Args:
        index: an index.
        layer: from 0.
        head: from 0.
        max_sequences: an index with more is looked at on so many, drawn at random; on fewer where they are long
            (MAX_PAIRS), and of sequences of more than MAX_QUERIES tokens on so many queries.
        min_tokens: shorter sequences are left out: a mean over few queries is unusual by chance.
        seed: of the draw.
        language: of the note.

    Returns:
        A row a sequence in the order of the corpus: sequence, n_tokens, unusual, entropy (nats), attention_distance
        (tokens) and BEHAVIOUR.

    Raises:
        QKSpaceError: no such head, max_sequences less than 1, or no sequence of min_tokens.
    """
    import pandas as pd

    one = index.head(layer, head)
    lengths = index.sequences["n_tokens"].to_numpy(dtype=np.int64)
    if max_sequences < 1:
        raise QKSpaceError(f"Behaviour is looked at on 1 sequence or more; got max_sequences {max_sequences}.")
    rng = np.random.default_rng(seed)
    usable = np.flatnonzero(lengths >= max(min_tokens, 1))
    if not len(usable):
        raise QKSpaceError(
            f"No sequence has {min_tokens} tokens; the longest has {lengths.max()}. Choose min_tokens less."
        )
    order = rng.permutation(usable)[:max_sequences]
    cost = np.cumsum(lengths[order] * np.minimum(lengths[order], MAX_QUERIES))
    chosen = np.sort(order[: max(1, int(np.searchsorted(cost, MAX_PAIRS, side="right")))])
    special = index.tokens["is_special"].to_numpy(dtype=bool)
    query, key = (store.read_array(_path(index.root, name, layer)) for name in ("query", "key"))
    position = index.position(layer)
    part = None if position is None else position.taken(np.array([head]))
    rows = np.empty((len(chosen), len(STATISTICS)))
    for i, s in enumerate(chosen):
        start, n = int(index.row_starts[s]), int(lengths[s])
        drawn = np.arange(n) if n <= MAX_QUERIES else np.sort(rng.choice(n, MAX_QUERIES, replace=False))
        keys = store.float_array(key[one.kv_head, start : start + n])
        queries = store.float_array(query[head, start : start + n])
        sequence = _Sequence(queries, keys, special[start : start + n], one.spec, part, index.n_source(int(s)), int(s))
        rows[i] = _statistics(sequence, drawn)
    table = pd.DataFrame(rows, columns=list(STATISTICS))
    table.insert(0, "sequence", index.sequences["sequence"].to_numpy()[chosen])
    table.insert(1, "n_tokens", lengths[chosen])
    table.insert(2, "unusual", np.sqrt(np.mean(_standardised(table) ** 2, axis=1)))
    least = "_least" if min_tokens > 1 else ""
    what = say(language, f"behaviour_sequences{least}", n=len(usable), least=min_tokens)
    note = "behaviour_part" if len(chosen) < len(usable) else "behaviour_all"
    table.attrs["note"] = say(language, note, n=len(chosen), what=what, seed=seed)
    return table


def typical_sequences(
    index: Index,
    layer: int,
    head: int,
    *,
    top: int = 5,
    max_sequences: int = MAX_SEQUENCES,
    min_tokens: int = 1,
    seed: int = 0,
    language: Language = "en",
) -> pd.DataFrame:
    """Return the sequences on which a head does most what it usually does; see `sequence_scores` for how that is found.

    Columns: those of `sequence_scores`, text, and words: what the head does most there. attrs["note"] says which sequences
    were looked at. language: of both.
    """
    options: dict[str, Any] = {"max_sequences": max_sequences, "min_tokens": min_tokens, "seed": seed}
    scores = sequence_scores(index, layer, head, **options, language=language)
    return _described(index, scores, top, language, extreme=False)


def extreme_sequences(
    index: Index,
    layer: int,
    head: int,
    *,
    top: int = 5,
    max_sequences: int = MAX_SEQUENCES,
    min_tokens: int = 1,
    seed: int = 0,
    language: Language = "en",
) -> pd.DataFrame:
    """Return the sequences on which a head does least what it usually does; see `sequence_scores` for how that is found.

        extreme_sequences(index, 3, 5, min_tokens=8)["words"][0]    # "attends to the next token 81 % of the time, ..."

    Columns: those of `sequence_scores`, text, and words: the one thing that is most unusual there, beside its median over
    the other sequences; nothing where both read the same. attrs["note"] says which sequences were looked at. language: of
    both.
    """
    options: dict[str, Any] = {"max_sequences": max_sequences, "min_tokens": min_tokens, "seed": seed}
    scores = sequence_scores(index, layer, head, **options, language=language)
    return _described(index, scores, top, language, extreme=True)


def _described(index: Index, scores: pd.DataFrame, top: int, language: Language, *, extreme: bool) -> pd.DataFrame:
    """Return the most unusual sequences, or the least, with their texts and what to say of each."""
    unusual, scaled = scores["unusual"].to_numpy(), np.abs(_standardised(scores))
    chosen = np.argsort(-unusual if extreme else unusual, kind="stable")[:top]
    contrast = extreme and len(scores) > 1
    words = [(_unusual(scores, scaled[i], i, language) if contrast else _usual(scores, i, language)) for i in chosen]
    place = np.searchsorted(index.sequences["sequence"].to_numpy(), scores["sequence"].to_numpy()[chosen])
    table = scores.iloc[chosen].reset_index(drop=True)
    table.insert(1, "text", index.sequences["text"].to_numpy()[place])
    table.insert(2, "words", words)
    table.attrs["note"] = scores.attrs["note"]
    return table


def _usual(scores: pd.DataFrame, i: int, language: Language) -> str:
    """Say to which kind of token the head attends most on a sequence."""
    shares = scores[list(SHARES)].iloc[i].to_numpy(dtype=np.float64)
    if np.isnan(shares).all():
        return say(language, "behaviour_not_finite")
    most = int(np.nanargmax(shares))
    return say(language, f"behaviour_{SHARES[most]}", here=100 * shares[most])


def _unusual(scores: pd.DataFrame, scaled: FloatArray, i: int, language: Language) -> str:
    """Say what is most unusual on a sequence, and its median over the others; nothing where no two such numbers differ."""
    if scores[list(SHARES)].iloc[i].isna().all():
        return say(language, "behaviour_not_finite")
    for at in np.argsort(-scaled, kind="stable"):
        values = scores[BEHAVIOUR[at]].to_numpy()
        others = np.delete(values, i)
        others = others[~np.isnan(others)]
        if not scaled[at] or not len(others):
            continue
        here, usual = 100 * float(values[i]), 100 * float(np.median(others))
        if f"{here:.0f}" != f"{usual:.0f}":
            said = say(language, f"behaviour_{BEHAVIOUR[at]}", here=here)
            return say(language, "behaviour_elsewhere", said=said, usual=usual)
    return ""


def _standardised(scores: pd.DataFrame) -> FloatArray:
    """Return BEHAVIOUR on one scale: (sequence, statistic); 0 where a statistic is nan or does not vary."""
    out = np.zeros((len(scores), len(BEHAVIOUR)))
    for i, name in enumerate(BEHAVIOUR):
        values = scores[name].to_numpy()
        there = ~np.isnan(values)
        if there.any() and (spread := values[there].std()) > 1e-6:  # below it, what is left is rounding
            out[there, i] = (values[there] - np.median(values[there])) / spread
    return out


@dataclass(frozen=True, slots=True, eq=False)
class _Sequence:
    """One head on one sequence: query, key (token, d_head), special (token), and what else its attention is made of."""

    query: FloatArray
    key: FloatArray
    special: BoolArray
    layer: LayerSpec
    position: LayerPosition | None  # of this head alone
    n_source: int | None
    number: int

    def allowed(self, at: IntArray) -> BoolArray:
        """Return which keys the queries at some positions may attend to: (query, key token)."""
        n = len(self.key)
        allowed = self.layer.allowed(n, self.n_source, at=at)
        added = None if self.position is None else self.position.of(n, self.number)
        return allowed if added is None else np.asarray(allowed & (added[0, at] > -np.inf))

    def attention(self, at: IntArray) -> FloatArray:
        """Return the attention of the queries at some positions: (query, key token)."""
        more: dict[str, Any] = {"at": at, "n_source": self.n_source, "number": self.number}
        attention = attend_heads(self.query[None, at], self.key[None], self.layer, self.position, **more)
        return np.asarray(attention[0])


def _statistics(sequence: _Sequence, drawn: IntArray) -> FloatArray:
    """Return STATISTICS of one head on one sequence; drawn: positions of the queries used."""
    n, special = len(sequence.key), sequence.special
    sums, counts = np.zeros(len(STATISTICS)), np.zeros(len(STATISTICS), dtype=np.int64)
    for at in np.array_split(drawn, min(len(drawn), math.ceil(len(drawn) * n / BLOCK_PAIRS))):
        allowed = sequence.allowed(at)
        attention = sequence.attention(at)
        n_allowed, offset = allowed.sum(axis=1), at[:, None] - np.arange(n)[None, :]
        distance = np.sum(attention * np.abs(offset), axis=1)
        entropy = -np.sum(attention * np.log(np.maximum(attention, TINY)), axis=1)
        equal = np.sum(np.abs(offset) * allowed, axis=1) / np.maximum(n_allowed, 1)
        every, choice = n_allowed > 0, n_allowed > 1
        one = np.full(len(at), not sequence.layer.crosses)  # of one sequence: else distances mean nothing
        parts: list[tuple[FloatArray, BoolArray]] = [
            (entropy, every),
            (distance, every & one),
        ]  # value, whether it counts
        to_first = np.arange(n)[None, :] == 0
        for keys in (offset == 1, offset == -1, offset == 0):  # as in SHARES
            parts.append((np.sum(attention * keys, axis=1), np.any(allowed & keys, axis=1) & one))
        for keys in (np.broadcast_to(special[None, :], offset.shape), to_first):
            parts.append((np.sum(attention * keys, axis=1), np.any(allowed & keys, axis=1)))
        parts.append((entropy / np.log(np.maximum(n_allowed, 2)), choice))
        parts.append((distance / np.where(choice, equal, 1.0), choice & one))
        sums += [float(value[counted].sum()) for value, counted in parts]
        counts += [int(counted.sum()) for _, counted in parts]
    mean: FloatArray = np.divide(sums, counts, out=np.full(len(sums), np.nan), where=counts > 0)
    return mean


def _path(root: Path, name: str, layer: int) -> Path:
    return root / name / f"L{layer:02d}.npy"


# ---------------------------------------------------------------------------------------------- distances between heads


@dataclass(frozen=True, slots=True, eq=False)
class Distances:
    """Distances (head of any layer, head of any layer), and how many queries and sequences they are a mean over.

    error: half the width of the 95 % interval of each, of the same shape; nan where fewer than two sequences were drawn.
    """

    distance: FloatArray
    error: FloatArray
    n_queries: int
    n_sequences: int


def head_distances(index: Index, *, max_tokens: int = 2_000, seed: int = 0) -> FloatArray:
    """Return how differently heads attend: the mean Jensen-Shannon divergence between all pairs, over the same queries.

        distance = head_distances(index)                            # heads in the order of index.head_table()

    JS(p, q) = (KL(p || m) + KL(q || m)) / 2 with m = (p + q) / 2, in nats, no root taken: between 0 and ln 2. Clark et al.
    (2019, What Does BERT Look At?, section 6) sum the same over all tokens; here it is a mean, nothing is smoothed, and
    queries that may attend to one key only do not count. It is `scipy.spatial.distance.jensenshannon` squared.

    The queries are drawn with `seed`, the same for every head, from random sequences: at most `max_tokens`, and fewer for
    many heads or long sequences, so that the work is bounded (MAX_MIXTURES). Every query of the corpus has the same weight
    (`draw_weighted`). The result is kept while the process lasts.

    Args:
        index: an index.
        max_tokens: queries to use.
        seed: of the draw.

    Returns:
        (head of any layer, head of any layer), float32, symmetric, 0 on the diagonal; nan for a head whose vectors are
        not finite. All 0 where no query has a choice. Not to be written to.

    Raises:
        QKSpaceError: max_tokens is less than 1.
    """
    return measured_distances(index, max_tokens=max_tokens, seed=seed).distance


def measured_distances(index: Index, *, max_tokens: int = 2_000, seed: int = 0, floor: int = 1) -> Distances:
    """Return the distances of `head_distances` with their 95 % error: how far they would move with other sequences.

    A distance is a ratio of sums over sequences, of divergence and of queries; its error is Student's quantile times the
    standard error of such a ratio (Cochran 1977, Sampling Techniques, section 6.4), of whole sequences since queries of one
    are alike. It is there too where the whole corpus was used: then it is of other texts of the kind. `floor` queries are
    used whatever the work, if there are so many.

    Raises:
        QKSpaceError: max_tokens is less than 1.
    """
    if max_tokens < 1:
        raise QKSpaceError(f"Distances between heads are a mean over 1 query or more; got max_tokens {max_tokens}.")
    stamp = (index.root / store.MANIFEST).stat()
    return _measured(index.root.resolve(), (stamp.st_mtime_ns, stamp.st_size), max_tokens, seed, floor)


def nearest_heads(
    index: Index,
    layer: int,
    head: int,
    *,
    top: int = 8,
    max_tokens: int = 2_000,
    seed: int = 0,
    language: Language = "en",
) -> pd.DataFrame:
    """Return the heads that attend most like one, the nearest first: layer, head and distance (see `head_distances`).

        nearest_heads(index, 3, 5, top=3)

    attrs["note"] says over how much it was measured, in `language`. Heads whose vectors are not finite are left out; all are
    where no query has a choice of keys.

    Raises:
        QKSpaceError: no such head.
    """
    import pandas as pd

    index.head(layer, head)
    found = measured_distances(index, max_tokens=max_tokens, seed=seed)
    heads = np.array([(number, h) for number, spec in enumerate(index.layers) for h in range(spec.n_heads)])
    here = int(np.flatnonzero((heads == (layer, head)).all(axis=1))[0])
    distance = found.distance[here] if found.n_queries else np.full(len(heads), np.nan)
    order = [i for i in np.argsort(distance, kind="stable") if i != here and not math.isnan(distance[i])][:top]
    table = pd.DataFrame({"layer": heads[order, 0], "head": heads[order, 1], "distance": distance[order]})
    measured = {"n_queries": found.n_queries, "n_sequences": found.n_sequences}
    table.attrs["note"] = say(language, "behaviour_distances", **measured)
    return table


@lru_cache(maxsize=8)
def _measured(root: Path, stamp: tuple[int, int], max_tokens: int, seed: int, floor: int) -> Distances:
    """Measure the distances; `stamp` tells an index from another built later in the same folder."""
    index = Index(root)
    n_heads = sum(layer.n_heads for layer in index.layers)
    lengths = index.sequences["n_tokens"].to_numpy(dtype=np.int64)
    first = int(_is_causal(index))  # a decoder's first query has no choice
    total, n_queries, n_pairs = RatioSums((n_heads, n_heads)), 0, n_heads * (n_heads + 1) // 2
    for s, at, weight in draw_weighted(lengths, max_tokens, n_pairs, seed=seed, first=first, floor=floor):
        sums, n_asking = _sequence_mixtures(index, int(index.row_starts[s]), int(lengths[s]), at, first)
        each = weight / len(at)
        total.add(each * _divergences(np.triu(sums) + np.triu(sums, 1).T), each * n_asking)
        n_queries += n_asking
    distance, error = total.ratio()
    distance, error = np.clip(distance, 0.0, math.log(2)).astype(np.float32), error.astype(np.float32)
    for array in (distance, error):
        array.setflags(write=False)
    return Distances(distance, error, n_queries, total.n)


def _sequence_mixtures(index: Index, start: int, n: int, at: IntArray, first: int) -> tuple[FloatArray, int]:
    """Return S(p, q) of the pairs of heads over some queries of a sequence, (head, head), and how many of these ask."""
    n_heads = sum(layer.n_heads for layer in index.layers)
    has_sink = any(layer.has_sink for layer in index.layers)
    sums, n_asking = np.zeros((n_heads, n_heads)), 0
    for part in np.array_split(at, min(len(at), math.ceil(len(at) * n * n_heads / (16 * BLOCK_PAIRS)))):
        weights = attention_of_all(index, start, n, part)
        n_asking += int(weights.any(axis=(0, 2)).sum())  # a token that asks nothing adds nothing
        allowed = part[:, None] >= np.arange(n)[None, :]  # of causal layers; what no head may attend to adds nothing
        if has_sink:
            weights = with_sink(weights)
            allowed = np.concatenate([allowed, np.ones((len(part), 1), dtype=bool)], axis=1)
        add_mixtures(sums, weights[:, allowed] if first else weights.reshape(n_heads, -1))
    return sums, n_asking


class RatioSums:
    """Sums over sequences of two quantities, of which each of many ratios and its error are made, one pass over them.

    Memory is that of three arrays of ratios, however many sequences there are.
    """

    def __init__(self, shape: tuple[int, ...]) -> None:
        """Begin with no sequence; shape: of the ratios."""
        self.n = 0  # sequences
        self._above, self._squared, self._crossed = (np.zeros(shape) for _ in range(3))
        self._below = self._below_squared = 0.0

    def add(self, above: FloatArray, below: float) -> None:
        """Add a sequence: above, of the shape of the ratios, and below, which they have in common."""
        self.n += 1
        self._above += above
        self._squared += above * above
        self._crossed += above * below
        self._below += below
        self._below_squared += below * below

    def ratio(self) -> tuple[FloatArray, FloatArray]:
        """Return the ratios of the sums and half the width of their 95 % intervals; 0 and nan where nothing was added."""
        from scipy.special import stdtrit

        if not self._below:
            return np.zeros_like(self._above), np.full_like(self._above, np.nan)
        ratio = self._above / self._below
        if self.n < 2:
            return ratio, np.full_like(ratio, np.nan)
        squares = self._squared - 2 * ratio * self._crossed + ratio**2 * self._below_squared
        standard = np.sqrt(np.maximum(squares, 0.0) * self.n / (self.n - 1)) / self._below
        return ratio, float(stdtrit(self.n - 1, 0.975)) * standard


def draw_weighted(
    lengths: IntArray,
    max_queries: int,
    n_pairs: int,
    *,
    seed: int = 0,
    first: int = 0,
    least: int = 2,
    floor: int = 1,
) -> Iterator[tuple[int, IntArray, float]]:
    """Yield places of sequences, the positions of the queries drawn of each, and their weight in all.

    A sequence is drawn with a chance that grows as its queries do, by steps of equal width through the queries of all in
    random order (systematic sampling with probability proportional to size: Madow 1949), and at each step about as many
    queries of it are. So each query of the corpus counts alike, and no long sequence that is hit by chance outweighs the rest.
    Where the bound allows all queries, all are drawn.

    Args:
        lengths: (sequence), its queries, and about as many keys.
        max_queries: to draw in all; fewer for many pairs or long sequences (MAX_MIXTURES).
        n_pairs: of heads, of each of which the attention is mixed.
        seed: of the draw.
        first: position from which a query has a choice.
        least: queries of a sequence that is drawn from.
        floor: queries that are drawn whatever the work, if max_queries are not fewer.
    """
    rng = np.random.default_rng(seed)
    usable = rng.permutation(np.flatnonzero(lengths >= max(least, first + 1)))
    if not len(usable):
        return
    n = lengths[usable] - first  # queries
    keys = float(np.sum(n * lengths[usable]) / n.sum())  # of a query
    left = min(max_queries, max(floor, int(MAX_MIXTURES / (n_pairs * keys))))
    each = min(QUERIES_PER_SEQUENCE, math.ceil(left / MIN_SEQUENCES))
    hits = n if left >= n.sum() else _hits(n, left, each, float(rng.random()))
    each = 1 if left >= n.sum() else each
    for s, n_queries, n_hits in zip(usable, n, hits, strict=True):
        n_drawn = min(int(n_queries), int(n_hits) * each, left)
        if n_drawn:
            yield int(s), np.sort(first + rng.permutation(int(n_queries))[:n_drawn]), float(n_hits)
        left -= n_drawn


def _hits(n: IntArray, wanted: int, each: int, start: float) -> IntArray:
    """Return how many steps fall on each sequence, (sequence), so that at `each` queries a step about enough can be drawn.

    The number of steps does not depend on where they fall: to add some after a look would favour long sequences.

    n: (sequence), their queries, more than are wanted in all; start: between 0 and 1, where the first step lies in its width.
    """
    ends = np.cumsum(n)
    found = float(np.sum(n / ends[-1] * np.minimum(n, each)))  # of a step, on average: short sequences have few to give
    n_steps = math.ceil(wanted / found * (1.0 if found == each else STEPS_MARGIN))
    steps = (np.arange(n_steps) + start) * (ends[-1] / n_steps)
    return np.bincount(np.searchsorted(ends, steps, side="right"), minlength=len(n))[: len(n)]


def _is_causal(index: Index) -> bool:
    return all(layer.causal for layer in index.layers)


def attention_of_all(index: Index, start: int, n: int, at: IntArray) -> FloatArray:
    """Return the attention of some queries of one sequence in every head: (head of any layer, query, key token).

    start, n: first row and length of the sequence; at: (query), positions in it.
    """
    rows = []
    place = int(np.searchsorted(index.row_starts, start, side="right")) - 1
    more: dict[str, Any] = {"at": at, "n_source": index.n_source(place), "number": place}
    for number, layer in enumerate(index.layers):
        query, key = (store.read_array(_path(index.root, name, number)) for name in ("query", "key"))
        queries = store.float_array(query[:, start + at])  # (head, query, d_head)
        keys = store.float_array(key[:, start : start + n])  # (kv_head, key token, d_head)
        rows.append(attend_heads(queries, keys, layer, index.position(number), **more))
    return np.concatenate(rows)


def add_mixtures(sums: FloatArray, weights: FloatArray, n_left: int | None = None) -> None:
    """Add S(p, q), the sum of M ln M with M = p + q, of pairs of heads to the upper half of `sums`, (head, head).

    weights: (head, query and key). Pairs are all of them; with n_left those of each head with itself, and of each of the
    first n_left heads with each of the others.
    """
    weights = np.maximum(weights, np.float32(TINY))
    n_heads, n = weights.shape
    size = max(1, BLOCK_PAIRS // (4 * n_heads))  # a mixture and its logarithm stay in the processor's cache
    for left in range(0, n, size):
        block = np.ascontiguousarray(weights[:, left : left + size])
        mixture, logarithm = np.empty_like(block), np.empty_like(block)
        for i in range(n_heads if n_left is None else n_left):
            first = i if n_left is None else n_left
            mixed, logged = mixture[first:], logarithm[first:]
            np.add(block[first:], block[i], out=mixed)
            np.log(mixed, out=logged)
            sums[i, first:] += np.vecdot(mixed, logged)
        if n_left is not None:
            np.add(block, block, out=mixture)
            np.log(mixture, out=logarithm)
            sums.ravel()[:: n_heads + 1] += np.vecdot(mixture, logarithm)  # the diagonal


def divergence(sums: FloatArray, n_queries: float) -> FloatArray:
    """Return the mean Jensen-Shannon divergence of the pairs whose S(p, q) over so many queries is in `sums`: (head, head).

    JS(p, q) = (S(p, p) + S(q, q)) / 4 - S(p, q) / 2: equal heads give 0 to the last digit.
    """
    mean = np.clip(_divergences(sums) / n_queries, 0.0, math.log(2))  # beyond is rounding
    return np.asarray(mean, dtype=np.float32)


def _divergences(sums: FloatArray) -> FloatArray:
    own = np.diag(sums)
    return np.asarray((own[:, None] + own[None, :]) / 4 - sums / 2)
