"""How far a map of one head can be trusted, measured on sequences that did not fit it.

In: the captured vectors of some sequences and where they lie on the map. Out: `Scores`.
Knows no projection method and no disk; every score compares logits with distances, and nothing else.

D[i, j] is the distance on the map between query i and key j of one sequence, for the pairs that the mask
allows. All such pairs are laid end to end, row (query) after row, so that one sum over segments serves
sequences of every length without padding.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from qkspace.schema import FloatArray, HeadSample, IntArray, Positions, QKSpaceError

Float64Array = NDArray[np.float64]

MAX_PAIRS = 2_000_000
MAX_TRUSTWORTHINESS_POINTS = 800
TRUSTWORTHINESS_NEIGHBOURS = 5
LOGIT_TIE = 1e-6  # two keys whose attention differs by less than a millionth are both the most attended
ZERO_VARIANCE = 1e-24  # relative to the sum of squares: below it, what is left is rounding


@dataclass(frozen=True, slots=True)
class Pairs:
    """All allowed (query, key) pairs of some whole sequences, one row (query) after another.

    query_token, key_token, row, logit, attention: (pair); row_starts: (row), where each row begins.
    query_token and key_token count in the sample they came from; row counts from 0 without gaps.
    """

    query_token: IntArray
    key_token: IntArray
    row: IntArray
    row_starts: IntArray
    logit: Float64Array
    attention: Float64Array
    n_sequences: int


@dataclass(frozen=True, slots=True)
class Scores:
    """The scores of one map; what each means is said by the function of its name.

    A score that is undefined for the head is nan: recall_* where no row has a choice (recall_*_content: of content
    keys), weighted_correlation where logits do not vary among the keys attended to, spearman where no row has three
    keys and logits that vary, trustworthiness for fewer than four points.
    `beta` is the sharpness at which `attention_kl` (nats) was reached, in 1 / (map unit)^2.
    """

    weighted_correlation: float
    recall1: float
    recall3: float
    recall1_content: float
    recall3_content: float
    attention_kl: float
    beta: float
    spearman: float
    trustworthiness: float
    n_queries: int
    n_sequences: int


def score(sample: HeadSample, positions: Positions, *, seed: int = 0) -> Scores:
    """Score a map of `sample`.

    `sample` may be raw or normalised, since attention is the same; only trustworthiness looks at the vectors
    themselves, so give the normalised ones to have it measured in the space that was projected. `positions`
    holds (token, dims) for the same tokens. At most about `MAX_PAIRS` pairs are used, of a share of the queries; `seed`
    chooses those, and the points for trustworthiness.

    Raises:
        QKSpaceError: if the positions are not finite or not of the same tokens, or the sample is unusable.
    """
    n_tokens = len(sample.query)
    if positions.query.shape != positions.key.shape or len(positions.query) != n_tokens:
        raise QKSpaceError(
            f"Positions must hold one query and one key for each of the {n_tokens} tokens of the sample; got query "
            f"{positions.query.shape} and key {positions.key.shape}. Score a map with the positions of this sample."
        )
    if not (np.isfinite(positions.query).all() and np.isfinite(positions.key).all()):
        raise QKSpaceError("Positions must be finite; the map holds nan or infinity. Fit the map again.")
    pairs = gather_pairs(sample, max_pairs=MAX_PAIRS, seed=seed)
    distance = pair_distance(pairs, positions)
    return _score(sample, pairs, distance, _trustworthiness(sample, positions, seed))


def no_map_scores(sample: HeadSample, *, seed: int = 0) -> Scores:
    """Score the Euclidean distance in the full space of `sample` (give it normalised): what no map need lose.

    Raises:
        QKSpaceError: if the sample has no sequence or values that are not finite.
    """
    pairs = gather_pairs(sample, max_pairs=MAX_PAIRS, seed=seed)
    query, key = sample.query.astype(np.float64), sample.key.astype(np.float64)
    squared = np.sum(query**2, axis=1)[pairs.query_token] + np.sum(key**2, axis=1)[pairs.key_token]
    distance = np.sqrt(np.maximum(squared - 2 * pairs.logit / sample.layer.scale, 0.0))  # |q|^2 + |k|^2 - 2 q.k
    return _score(sample, pairs, distance, 1.0 if 2 * len(query) >= 4 else float("nan"))


def attention(sample: HeadSample) -> list[Float64Array]:
    """Return the attention of each sequence: one (query token, key token) array each, 0 where not allowed.

    Raises:
        QKSpaceError: if the sample has no sequence or values that are not finite.
    """
    pairs = gather_pairs(sample, max_pairs=None)
    out = []
    bounds = np.searchsorted(pairs.query_token, sample.starts)
    for s, (start, end) in enumerate(zip(sample.starts[:-1], sample.starts[1:], strict=True)):
        here = slice(bounds[s], bounds[s + 1])
        matrix = np.zeros((end - start, end - start))
        matrix[pairs.query_token[here] - start, pairs.key_token[here] - start] = pairs.attention[here]
        out.append(matrix)
    return out


def gather_pairs(sample: HeadSample, *, max_pairs: int | None = MAX_PAIRS, seed: int = 0) -> Pairs:
    """Collect the allowed pairs of `sample` with their logit and attention, in float64.

    Where the sequences hold more than `max_pairs` pairs (n^2 for n tokens, masked or not), the same share of the queries
    of every sequence is drawn by `seed`, at least one of each. The order of queries is kept.

    Raises:
        QKSpaceError: if the sample has no sequence or values that are not finite.
    """
    sizes = np.diff(sample.starts).astype(np.int64)
    chosen = np.flatnonzero(sizes)
    if not len(chosen):
        raise QKSpaceError("The head sample holds no tokens; expected at least one sequence.")
    share = 1.0 if max_pairs is None else min(1.0, max_pairs / float(np.sum(sizes**2)))
    rng = np.random.default_rng(seed)
    query, key = sample.query.astype(np.float64), sample.key.astype(np.float64)
    if not (np.isfinite(query).all() and np.isfinite(key).all()):
        raise QKSpaceError("The query and key vectors must be finite. Capture the head again.")
    masks = {int(n): sample.layer.allowed(int(n)) for n in np.unique(sizes[chosen])}
    query_token, key_token, lengths, logit = [], [], [], []
    for s in chosen:
        start, n = int(sample.starts[s]), int(sizes[s])
        drawn = np.arange(n) if share == 1.0 else np.sort(rng.permutation(n)[: max(1, int(share * n))])
        allowed = masks[n][drawn]  # (drawn query, key token)
        rows, columns = np.nonzero(allowed)
        logit.append((sample.layer.scale * (query[start + drawn] @ key[start : start + n].T))[rows, columns])
        query_token.append(drawn[rows] + start)
        key_token.append(columns + start)
        lengths.append(allowed.sum(axis=1))
    row_lengths = np.concatenate(lengths)
    row_starts = np.cumsum(row_lengths) - row_lengths
    row = np.repeat(np.arange(len(row_lengths)), row_lengths)
    logits = np.concatenate(logit)
    weight = np.exp(logits - np.maximum.reduceat(logits, row_starts)[row])
    weight /= np.add.reduceat(weight, row_starts)[row]
    return Pairs(np.concatenate(query_token), np.concatenate(key_token), row, row_starts, logits, weight, len(chosen))


def pair_distance(pairs: Pairs, positions: Positions) -> Float64Array:
    """Return the Euclidean distance on the map of every pair: (pair)."""
    squared = np.zeros(len(pairs.row))
    for axis in range(positions.query.shape[1]):
        query, key = positions.query[:, axis].astype(np.float64), positions.key[:, axis].astype(np.float64)
        difference = query[pairs.query_token]
        difference -= key[pairs.key_token]
        difference *= difference
        squared += difference
    return np.sqrt(squared)


def _score(sample: HeadSample, pairs: Pairs, distance: Float64Array, trustworthiness: float) -> Scores:
    """Assemble the scores that depend on logits and distances alone."""
    content = np.flatnonzero(sample.is_content[pairs.query_token] & sample.is_content[pairs.key_token])
    everything = (pairs.row, pairs.logit, distance)
    content_only = (pairs.row[content], pairs.logit[content], distance[content])
    kl, beta = attention_kl(pairs, distance)
    return Scores(
        weighted_correlation=weighted_correlation(pairs, distance),
        recall1=recall(*everything, k=1),
        recall3=recall(*everything, k=3),
        recall1_content=recall(*content_only, k=1),
        recall3_content=recall(*content_only, k=3),
        attention_kl=kl,
        beta=beta,
        spearman=spearman(pairs, distance),
        trustworthiness=trustworthiness,
        n_queries=len(pairs.row_starts),
        n_sequences=pairs.n_sequences,
    )


def weighted_correlation(pairs: Pairs, distance: Float64Array) -> float:
    """Correlate logit and distance over all pairs, weighted by attention; -1 is perfect.

    The attention-weighted mean of its row is taken off both first, so that a translation of the keys, which
    attention cannot see, does not count. A map whose distances do not vary scores 0. Where the logits do not vary
    among the keys attended to (equal keys, or all attention on one key to the last digit) the result is nan.
    """
    return correlate(pairs, row_centred(pairs, pairs.logit), distance)


def row_centred(pairs: Pairs, values: Float64Array) -> Float64Array:
    """Take the attention-weighted mean of its row off each value: (pair)."""
    centred: Float64Array = values - np.add.reduceat(pairs.attention * values, pairs.row_starts)[pairs.row]
    return centred


def correlate(pairs: Pairs, centred_logit: Float64Array, distance: Float64Array) -> float:
    """Do the work of `weighted_correlation` for logits that are centred already (a search calls this often)."""
    centred = row_centred(pairs, distance)
    weighted_logit, weighted_distance = pairs.attention * centred_logit, pairs.attention * centred
    logit_variance = float(np.sum(weighted_logit * centred_logit))  # not @: BLAS threads fight over short vectors
    distance_variance = float(np.sum(weighted_distance * centred))
    if logit_variance <= ZERO_VARIANCE * float(np.sum(pairs.attention * pairs.logit**2)):
        return float("nan")
    if distance_variance <= ZERO_VARIANCE * float(np.sum(pairs.attention * distance**2)):
        return 0.0
    return float(np.sum(weighted_logit * centred)) / float(np.sqrt(logit_variance * distance_variance))


def recall(row: IntArray, logit: Float64Array, distance: Float64Array, *, k: int) -> float:
    """Return the share of queries whose most attended key is among the k nearest keys on the map.

    row, logit, distance: (pair), rows ascending; only the given pairs count, so that leaving out pairs leaves out
    keys. Ties in distance count against the map. Keys whose logit ties with the highest (within `LOGIT_TIE`) are
    equally right, and none of them stands in the way of another. A row without a choice, one with fewer than k
    keys besides the most attended (fewer than k + 1 allowed keys, unless keys tie), is not counted; nan where no
    row is left.
    """
    if not len(row):
        return float("nan")
    starts = np.flatnonzero(np.diff(row, prepend=-1))
    segment = np.repeat(np.arange(len(starts)), np.diff(starts, append=len(row)))
    best = logit >= np.maximum.reduceat(logit, starts)[segment] - LOGIT_TIE
    reach = np.minimum.reduceat(np.where(best, distance, np.inf), starts)
    nearer = np.add.reduceat(~best & (distance <= reach[segment]), starts, dtype=np.int64)
    has_choice = np.add.reduceat(~best, starts, dtype=np.int64) >= k
    return float(np.mean(nearer[has_choice] < k)) if has_choice.any() else float("nan")


def attention_kl(pairs: Pairs, distance: Float64Array) -> tuple[float, float]:
    """Return what the picture loses, and the best beta >= 0: mean KL(attention || softmax_j(-beta D^2)) in nats.

    The mean is over all queries, also those with a single allowed key, which lose nothing. The divergence is
    convex in beta; its minimum is found by bounded search in log beta, and beta = 0 (every key alike) is what a
    map gets that has nothing better to say.
    """
    from scipy.optimize import minimize_scalar

    squared = distance**2
    squared -= np.minimum.reduceat(squared, pairs.row_starts)[pairs.row]
    attended = float(np.sum(pairs.attention * squared))
    logit = pairs.logit - np.maximum.reduceat(pairs.logit, pairs.row_starts)[pairs.row]
    log_normaliser = np.log(np.add.reduceat(np.exp(logit), pairs.row_starts))
    negative_entropy = float(np.sum(pairs.attention * logit)) - float(log_normaliser.sum())

    def divergence(beta: float) -> float:
        normaliser = np.log(np.add.reduceat(np.exp(-beta * squared), pairs.row_starts)).sum()
        return (negative_entropy + beta * attended + float(normaliser)) / len(pairs.row_starts)

    flat = max(divergence(0.0), 0.0)
    if squared.mean() <= 0:
        return flat, 0.0
    bounds = (np.log(1e-4 / squared.mean()), np.log(1e8 / squared.mean()))
    found = minimize_scalar(
        lambda log_beta: divergence(float(np.exp(log_beta))), bounds=bounds, method="bounded", options={"xatol": 1e-3}
    )
    return (max(float(found.fun), 0.0), float(np.exp(found.x))) if found.fun < flat else (flat, 0.0)


def spearman(pairs: Pairs, distance: Float64Array) -> float:
    """Return the mean over queries of the rank correlation between logit and distance; -1 is perfect.

    Equal values share their mean rank. Rows with fewer than three allowed keys or with constant logits are left
    out (nan where none is left); a row in which all distances tie counts as 0.
    """
    lengths = np.diff(pairs.row_starts, append=len(pairs.row))
    middle = ((lengths - 1) / 2)[pairs.row]
    logit_rank, distance_rank = _row_ranks(pairs, pairs.logit) - middle, _row_ranks(pairs, distance) - middle
    logit_variance, distance_variance, covariance = (
        np.add.reduceat(product, pairs.row_starts)
        for product in (logit_rank**2, distance_rank**2, logit_rank * distance_rank)
    )
    counted = (lengths >= 3) & (logit_variance > 0)
    if not counted.any():
        return float("nan")
    norm = np.sqrt(logit_variance * distance_variance)[counted]
    return float(np.mean(np.divide(covariance[counted], norm, out=np.zeros_like(norm), where=norm > 0)))


def _row_ranks(pairs: Pairs, values: Float64Array) -> Float64Array:
    """Rank the values of each row from 0, equal values sharing their mean rank: (pair)."""
    order = np.lexsort((values, pairs.row))  # rows stay where they are, values ascend within each
    ordered = values[order]
    is_new = np.append(True, ordered[1:] != ordered[:-1])
    is_new[pairs.row_starts] = True
    starts = np.flatnonzero(is_new)
    lengths = np.diff(starts, append=len(values))
    ranks = np.empty(len(values))
    ranks[order] = np.repeat(starts + (lengths - 1) / 2, lengths)
    ranks -= pairs.row_starts[pairs.row]
    return ranks


def _trustworthiness(sample: HeadSample, positions: Positions, seed: int) -> float:
    """Return scikit-learn's trustworthiness of the map on queries and keys together, on a seeded draw of points."""
    from sklearn.manifold import trustworthiness

    vectors: FloatArray = np.concatenate([sample.query, sample.key]).astype(np.float64)
    places: FloatArray = np.concatenate([positions.query, positions.key]).astype(np.float64)
    if len(vectors) < 4:
        return float("nan")
    if len(vectors) > MAX_TRUSTWORTHINESS_POINTS:
        drawn = np.random.default_rng(seed).choice(len(vectors), MAX_TRUSTWORTHINESS_POINTS, replace=False)
        vectors, places = vectors[drawn], places[drawn]
    neighbours = min(TRUSTWORTHINESS_NEIGHBOURS, (len(vectors) - 1) // 2)
    return float(trustworthiness(vectors, places, n_neighbors=neighbours))
