"""How far a map of one head can be trusted, measured on sequences that did not fit it.

In: the captured vectors of some sequences and where they lie on the map. Out: `Scores`.
Knows no projection method and no disk; every score compares logits with distances, and nothing else.

Where position adds to the product of query and key, a map cannot show that part. What the map is asked is said score by
score: `recall` and `spearman` compare the model's own attention, all of it, with nearness; `attention_kl` and
`weighted_correlation` take the position part as known, because no map of the vectors could hold it (docs/method.md).

D[i, j] is the distance on the map between query i and key j of one sequence, for the pairs that the mask
allows. All such pairs are laid end to end, row (query) after row, so that one sum over segments serves
sequences of every length without padding.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from qkspace import bootstrap
from qkspace.schema import FloatArray, HeadSample, IntArray, Positions, QKSpaceError

Float64Array = NDArray[np.float64]

MAX_PAIRS = 2_000_000
MAX_TRUSTWORTHINESS_POINTS = 800
TRUSTWORTHINESS_NEIGHBOURS = 5
LOGIT_TIE = 1e-6  # two keys whose attention differs by less than a millionth are both the most attended
TINY = 1e-300  # what a row attends to keys in all is at least, where it is divided by
ZERO_VARIANCE = 1e-24  # relative to the sum of squares: below it, what is left is rounding


@dataclass(frozen=True, slots=True)
class Pairs:
    """All allowed (query, key) pairs of some whole sequences, one row (query) after another.

    query_token, key_token, row, logit, attention: (pair); row_starts: (row), where each row begins.
    query_token and key_token count in the sample they came from; row counts from 0 without gaps. logit and attention are
    the model's own; a row's attention sums to less than 1 where the head has a sink. Rows without an allowed key are not
    there, nor is a sequence of nothing else among the n_sequences.

    product: (pair), scale times query . key; content: (pair), the same after a cap, which is the logit less its position
    part; all three are one array where attention is the softmax of the product. row_attention: (row), what the keys of a
    row get together where a sink takes a share; None where that is 1.
    """

    query_token: IntArray
    key_token: IntArray
    row: IntArray
    row_starts: IntArray
    logit: Float64Array
    attention: Float64Array
    n_sequences: int
    product: Float64Array
    content: Float64Array
    row_attention: Float64Array | None = None

    @property
    def position(self) -> Float64Array | None:
        """What position adds to the logit of each pair: (pair); None where it adds nothing."""
        return None if self.content is self.logit else self.logit - self.content


@dataclass(frozen=True, slots=True)
class Scores:
    """The scores of one map; what each means is said by the function of its name.

    A score that is undefined for the head is nan: recall_* where no row has a choice (recall_*_content: of content
    keys), weighted_correlation where logits do not vary among the keys attended to, spearman where no row has three
    keys and logits that vary, trustworthiness for fewer than four points.
    `beta` is the sharpness at which `attention_kl` (nats) was reached, in 1 / (map unit)^2.

    `*_low` and `*_high` are the ends of a score's 95 % interval over sequences (`bootstrap`, beta held), nan where fewer
    than two sequences say anything. `no_map_*` is the score of Euclidean distance in the full normalised space, on the
    same pairs: what is missing to it was lost by the projection. Indexes of before these fields hold nan.
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
    weighted_correlation_low: float = math.nan
    weighted_correlation_high: float = math.nan
    recall1_low: float = math.nan
    recall1_high: float = math.nan
    recall3_low: float = math.nan
    recall3_high: float = math.nan
    recall1_content_low: float = math.nan
    recall1_content_high: float = math.nan
    recall3_content_low: float = math.nan
    recall3_content_high: float = math.nan
    attention_kl_low: float = math.nan
    attention_kl_high: float = math.nan
    spearman_low: float = math.nan
    spearman_high: float = math.nan
    no_map_weighted_correlation: float = math.nan
    no_map_recall1: float = math.nan
    no_map_recall3: float = math.nan
    no_map_recall1_content: float = math.nan
    no_map_recall3_content: float = math.nan
    no_map_attention_kl: float = math.nan
    no_map_spearman: float = math.nan


def score(sample: HeadSample, positions: Positions, *, seed: int = 0) -> Scores:
    """Score a map of `sample`.

    Give the normalised sample: attention is the same in every gauge, but trustworthiness and `no_map_*` look at the
    vectors themselves, and are meant for the space that was projected. `positions` holds (token, dims) for the same
    tokens. At most about `MAX_PAIRS` pairs are used, of a share of the queries; `seed` chooses those, the points for
    trustworthiness, and the resamples of the intervals.

    Raises:
        QKSpaceError: if the positions are not finite or not of the same tokens, or the sample is unusable.
    """
    n_tokens = len(sample.query)
    if positions.query.shape != positions.key.shape or len(positions.query) != n_tokens:
        raise QKSpaceError(
            f"Positions must hold one query and one key for each of the {n_tokens} tokens of the sample; got query "
            f"{positions.query.shape} and key {positions.key.shape}. Score a map with the positions of this sample."
        )
    placed = positions.query[sample.is_query], positions.key[sample.is_key]
    if not all(np.isfinite(places).all() for places in placed):
        raise QKSpaceError("Positions must be finite; the map holds nan or infinity. Fit the map again.")
    pairs = gather_pairs(sample, max_pairs=MAX_PAIRS, seed=seed)
    logit_rank = _row_ranks(pairs, pairs.logit)
    on_map, beta = _sums(sample, pairs, logit_rank, pair_distance(pairs, positions))
    without, _ = _sums(sample, pairs, logit_rank, full_distance(pairs, sample))
    times = bootstrap.draw(pairs.n_sequences, seed)
    values: dict[str, float] = {}
    for name, statistic in STATISTICS.items():
        values[name] = float(statistic(on_map[name].sum(axis=0)))
        values[f"{name}_low"], values[f"{name}_high"] = bootstrap.interval(on_map[name], statistic, times)
        values[f"no_map_{name}"] = float(statistic(without[name].sum(axis=0)))
    return Scores(
        beta=beta,
        trustworthiness=_trustworthiness(sample, positions, seed),
        n_queries=len(pairs.row_starts),
        n_sequences=pairs.n_sequences,
        **values,
    )


def fault(*samples: HeadSample) -> str | None:
    """Say why a head can be neither mapped nor scored: vectors that are not finite; None where it can."""
    vectors = [array for sample in samples for array in (sample.queries, sample.keys)]
    n_bad = sum(int((~np.isfinite(array).all(axis=1)).sum()) for array in vectors)
    n_all = sum(len(array) for array in vectors)
    return f"{n_bad:,} of {n_all:,} of its query and key vectors hold nan or infinity" if n_bad else None


def attention(sample: HeadSample) -> list[Float64Array]:
    """Return the attention of each sequence: one (query token, key token) array each, 0 where not allowed.

    Raises:
        QKSpaceError: if the sample has no sequence or values that are not finite.
    """
    pairs = gather_pairs(sample, max_pairs=None)
    out = []
    bounds = np.searchsorted(pairs.query_token, sample.starts)  # of pairs, which are in the order of queries
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
    if not (np.isfinite(sample.queries).all() and np.isfinite(sample.keys).all()):
        raise QKSpaceError("The query and key vectors must be finite. Capture the head again.")
    query, key = sample.query.astype(np.float64), sample.key.astype(np.float64)
    is_alike = sample.n_source is None and sample.bias is None  # sequences of one length have one mask
    masks = {int(n): sample.layer.allowed(int(n)) for n in np.unique(sizes[chosen])} if is_alike else {}
    query_token, key_token, lengths, product, bias, sink = [], [], [], [], [], []
    n_sequences = 0
    for s in chosen:
        start, n = int(sample.starts[s]), int(sizes[s])
        mask = masks[n] if is_alike else sample.allowed(int(s))
        asking = np.flatnonzero(mask.any(axis=1))
        drawn = asking
        if share < 1:
            drawn = np.sort(asking[rng.permutation(len(asking))[: max(1, int(share * len(asking)))]])
        if not len(drawn):
            continue
        allowed = mask[drawn]  # (drawn query, key token)
        rows, columns = np.nonzero(allowed)
        product.append((sample.layer.scale * (query[start + drawn] @ key[start : start + n].T))[rows, columns])
        query_token.append(drawn[rows] + start)
        key_token.append(columns + start)
        lengths.append(allowed.sum(axis=1))
        if sample.bias is not None:
            bias.append(np.asarray(sample.bias[s][drawn[rows], columns], dtype=np.float64))
        if sample.sink is not None:
            sink.append(np.full(len(drawn), sample.sink[s], dtype=np.float64))
        n_sequences += 1
    if not n_sequences:
        raise QKSpaceError("No token of the head sample may attend to any other; expected at least one that does.")
    row_lengths = np.concatenate(lengths)
    row_starts = np.cumsum(row_lengths) - row_lengths
    row = np.repeat(np.arange(len(row_lengths)), row_lengths)
    products = np.concatenate(product)
    own = products if sample.shift is None else products - sample.shift[np.concatenate(query_token)]
    contents = _capped(own, sample.layer.softcap)
    logits = contents + np.concatenate(bias) if bias else contents
    weight = _attention(logits, row, row_starts, np.concatenate(sink) if sink else None)
    of_tokens = np.concatenate(query_token), np.concatenate(key_token)
    total = np.add.reduceat(weight, row_starts) if sink else None
    return Pairs(*of_tokens, row, row_starts, logits, weight, n_sequences, products, contents, total)


def _capped(product: Float64Array, softcap: float | None) -> Float64Array:
    return product if softcap is None else np.asarray(softcap * np.tanh(product / softcap))


def _attention(logit: Float64Array, row: IntArray, row_starts: IntArray, sink: Float64Array | None) -> Float64Array:
    """Return the softmax of each row of pairs, and of its sink (row), whose share is nobody's: (pair)."""
    top = np.maximum.reduceat(logit, row_starts)
    if sink is not None:
        top = np.maximum(top, sink)
    weight: Float64Array = np.exp(logit - top[row])
    total = np.add.reduceat(weight, row_starts)
    if sink is not None:
        total += np.exp(sink - top)
    weight /= total[row]
    return weight


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


def full_distance(pairs: Pairs, sample: HeadSample) -> Float64Array:
    """Return the Euclidean distance in the full space of every pair: (pair); |q - k|^2 = |q|^2 + |k|^2 - 2 q.k."""
    query, key = sample.query.astype(np.float64), sample.key.astype(np.float64)
    squared = np.sum(query**2, axis=1)[pairs.query_token] + np.sum(key**2, axis=1)[pairs.key_token]
    squared -= 2 * pairs.product / sample.layer.scale
    distance: Float64Array = np.sqrt(np.maximum(squared, 0.0))
    return distance


def _sums(
    sample: HeadSample, pairs: Pairs, logit_rank: Float64Array, distance: Float64Array
) -> tuple[dict[str, Float64Array], float]:
    """Return for each score the sums that it is made of, (sequence, part), and the best beta."""
    content = np.flatnonzero(sample.is_content[pairs.query_token] & sample.is_content[pairs.key_token])
    everything = np.arange(len(pairs.row))
    divergence, beta = attention_kl(pairs, distance)
    rows = {
        "weighted_correlation": weighted_correlation(pairs, distance),
        "recall1": recall(pairs, distance, everything, k=1),
        "recall3": recall(pairs, distance, everything, k=3),
        "recall1_content": recall(pairs, distance, content, k=1),
        "recall3_content": recall(pairs, distance, content, k=3),
        "attention_kl": divergence,
        "spearman": spearman(pairs, logit_rank, distance),
    }
    sequence = np.searchsorted(sample.starts, pairs.query_token[pairs.row_starts], side="right")  # of each row
    first_rows = np.flatnonzero(np.diff(sequence, prepend=-1))
    return {name: np.add.reduceat(sums, first_rows, axis=0) for name, sums in rows.items()}, beta


def mean(sums: Float64Array) -> Float64Array:
    """Return sum / count of sums (..., 2): (...), nan where nothing was counted."""
    total, count = sums[..., 0], sums[..., 1]
    share: Float64Array = np.divide(total, count, out=np.full(count.shape, np.nan), where=count > 0)
    return share


def correlation(sums: Float64Array) -> Float64Array:
    """Return the correlation that the sums of `weighted_correlation`, (..., 5), amount to: (...)."""
    covariance, logit_variance, distance_variance, logit_square, distance_square = np.moveaxis(sums, -1, 0)
    is_varied = distance_variance > ZERO_VARIANCE * distance_square
    norm = np.sqrt(logit_variance * distance_variance)
    found = np.divide(covariance, norm, out=np.zeros(norm.shape), where=is_varied & (norm > 0))
    return np.where(logit_variance > ZERO_VARIANCE * logit_square, found, np.nan)


# The scores that have an interval and a no-map value, and how each is made of its sums.
STATISTICS: dict[str, bootstrap.Statistic] = {
    "weighted_correlation": correlation,
    "recall1": mean,
    "recall3": mean,
    "recall1_content": mean,
    "recall3_content": mean,
    "attention_kl": mean,
    "spearman": mean,
}


def weighted_correlation(pairs: Pairs, distance: Float64Array) -> Float64Array:
    """Correlate logit and distance over all pairs, weighted by attention: sums (row, 5) for `correlation`; -1 is perfect.

    The logit is that of content: what position adds to it is no matter of the vectors that lie on the map. The
    attention-weighted mean of its row is taken off both first, so that a translation of the keys, which
    attention cannot see, does not count. A map whose distances do not vary scores 0. Where the logits do not vary
    among the keys attended to (equal keys, or all attention on one key to the last digit) the result is nan.
    """
    products = _products(pairs, row_centred(pairs, pairs.content), distance)
    return np.stack([np.add.reduceat(product, pairs.row_starts) for product in products], axis=1)


def row_centred(pairs: Pairs, values: Float64Array) -> Float64Array:
    """Take the attention-weighted mean of its row off each value: (pair)."""
    mean = np.add.reduceat(pairs.attention * values, pairs.row_starts)
    if pairs.row_attention is not None:
        mean = mean / np.maximum(pairs.row_attention, TINY)
    centred: Float64Array = values - mean[pairs.row]
    return centred


def correlate(pairs: Pairs, centred_logit: Float64Array, distance: Float64Array) -> float:
    """Do all the work of `weighted_correlation` for logits that are centred already (a search calls this often)."""
    products = _products(pairs, centred_logit, distance)
    return float(correlation(np.array([np.sum(product) for product in products])))


def _products(pairs: Pairs, centred_logit: Float64Array, distance: Float64Array) -> tuple[Float64Array, ...]:
    """Return what is summed for a covariance, the two variances and, to tell these from rounding, two squares: (pair)."""
    centred = row_centred(pairs, distance)
    weighted_logit, weighted_distance = pairs.attention * centred_logit, pairs.attention * centred
    return (
        weighted_logit * centred,
        weighted_logit * centred_logit,
        weighted_distance * centred,
        pairs.attention * pairs.content**2,
        pairs.attention * distance**2,
    )


def recall(pairs: Pairs, distance: Float64Array, chosen: IntArray, *, k: int) -> Float64Array:
    """Count the queries whose most attended key is among the k nearest keys on the map: hits and queries counted, (row, 2).

    chosen: which pairs count, ascending; leaving out pairs leaves out keys. Ties in distance count against the map. Keys
    whose logit ties with the highest (within `LOGIT_TIE`) are equally right, and none of them stands in the way of
    another. A row without a choice, one with fewer than k keys besides the most attended (fewer than k + 1 allowed keys,
    unless keys tie), is not counted.
    """
    sums = np.zeros((len(pairs.row_starts), 2))
    if not len(chosen):
        return sums
    row, logit, distance = pairs.row[chosen], pairs.logit[chosen], distance[chosen]
    starts = np.flatnonzero(np.diff(row, prepend=-1))
    segment = np.repeat(np.arange(len(starts)), np.diff(starts, append=len(row)))
    best = logit >= np.maximum.reduceat(logit, starts)[segment] - LOGIT_TIE
    reach = np.minimum.reduceat(np.where(best, distance, np.inf), starts)
    nearer = np.add.reduceat(~best & (distance <= reach[segment]), starts, dtype=np.int64)
    has_choice = np.add.reduceat(~best, starts, dtype=np.int64) >= k
    sums[row[starts]] = np.stack([has_choice & (nearer < k), has_choice], axis=1)
    return sums


def attention_kl(pairs: Pairs, distance: Float64Array) -> tuple[Float64Array, float]:
    """Return what the picture loses, KL(attention || softmax_j(-beta D^2)) in nats and a count, (row, 2), and the best beta.

    What position adds to a logit is added to -beta D^2 too: no map of the vectors could hold it, and a perfect picture of
    the content loses nothing. Likewise the share of a sink is as the model has it. Every query counts, also one with a
    single allowed key, which loses nothing. The mean divergence is convex in beta >= 0; its minimum is found by bounded
    search in log beta, and beta = 0 (every key alike) is what a map gets that has nothing better to say.
    """
    from scipy.optimize import minimize_scalar

    starts = pairs.row_starts
    squared = distance**2
    squared -= np.minimum.reduceat(squared, starts)[pairs.row]
    attended = np.add.reduceat(pairs.attention * squared, starts)  # (row)
    logit = pairs.logit - np.maximum.reduceat(pairs.logit, starts)[pairs.row]
    negative_entropy = np.add.reduceat(pairs.attention * logit, starts)
    total = np.ones(len(starts)) if pairs.row_attention is None else pairs.row_attention
    negative_entropy -= total * np.log(np.add.reduceat(np.exp(logit), starts))
    position = pairs.position
    if position is not None:
        negative_entropy -= np.add.reduceat(pairs.attention * position, starts)

    def divergence(beta: float) -> Float64Array:
        shown = -beta * squared  # at most 0, and 0 in each row
        top: Float64Array | float = 0.0
        if position is not None:  # which may speak against the nearest key
            shown += position
            top = np.maximum.reduceat(shown, starts)
            shown -= top[pairs.row]
        return negative_entropy + beta * attended + total * (top + np.log(np.add.reduceat(np.exp(shown), starts)))

    beta = 0.0
    if squared.mean() > 0:
        found = minimize_scalar(
            lambda log_beta: float(divergence(float(np.exp(log_beta))).mean()),
            bounds=(np.log(1e-4 / squared.mean()), np.log(1e8 / squared.mean())),
            method="bounded",
            options={"xatol": 1e-3},
        )
        beta = float(np.exp(found.x)) if found.fun < divergence(0.0).mean() else 0.0
    lost = np.maximum(divergence(beta), 0.0)  # below 0 is rounding
    return np.stack([lost, np.ones_like(lost)], axis=1), beta


def spearman(pairs: Pairs, logit_rank: Float64Array, distance: Float64Array) -> Float64Array:
    """Return the rank correlation of logit and distance of each query, and whether it counts: (row, 2); -1 is perfect.

    Equal values share their mean rank. Rows with fewer than three allowed keys or with constant logits are left
    out; a row in which all distances tie counts as 0.
    """
    lengths = np.diff(pairs.row_starts, append=len(pairs.row))
    middle = ((lengths - 1) / 2)[pairs.row]
    centred_logit, centred_distance = logit_rank - middle, _row_ranks(pairs, distance) - middle
    logit_variance, distance_variance, covariance = (
        np.add.reduceat(product, pairs.row_starts)
        for product in (centred_logit**2, centred_distance**2, centred_logit * centred_distance)
    )
    counted = (lengths >= 3) & (logit_variance > 0)
    norm = np.sqrt(logit_variance * distance_variance)
    found = np.divide(covariance, norm, out=np.zeros_like(norm), where=counted & (norm > 0))
    return np.stack([found, counted], axis=1)


def _row_ranks(pairs: Pairs, values: Float64Array) -> Float64Array:
    """Rank the values of each row from 0, equal values sharing their mean rank: (pair)."""
    order = np.empty(len(values), dtype=np.int64)  # rows stay where they are, values ascend within each
    lengths = np.diff(pairs.row_starts, append=len(values))
    for length in np.unique(lengths):  # rows of one length are sorted together, which beats one long sort
        pair = pairs.row_starts[lengths == length][:, None] + np.arange(length)
        order[pair] = np.take_along_axis(pair, np.argsort(values[pair], axis=1), axis=1)
    ordered = values[order]
    is_new = np.append(True, ordered[1:] != ordered[:-1])
    is_new[pairs.row_starts] = True
    starts = np.flatnonzero(is_new)
    tied = np.diff(starts, append=len(values))
    ranks = np.empty(len(values))
    ranks[order] = np.repeat(starts + (tied - 1) / 2, tied)
    ranks -= pairs.row_starts[pairs.row]
    return ranks


def _trustworthiness(sample: HeadSample, positions: Positions, seed: int) -> float:
    """Return scikit-learn's trustworthiness of the map on queries and keys together, on a seeded draw of points."""
    from sklearn.manifold import trustworthiness

    vectors: FloatArray = np.concatenate([sample.queries, sample.keys]).astype(np.float64)
    shown = positions.query[sample.is_query], positions.key[sample.is_key]
    places: FloatArray = np.concatenate(shown).astype(np.float64)
    if len(vectors) < 4:
        return float("nan")
    if len(vectors) > MAX_TRUSTWORTHINESS_POINTS:
        drawn = np.random.default_rng(seed).choice(len(vectors), MAX_TRUSTWORTHINESS_POINTS, replace=False)
        vectors, places = vectors[drawn], places[drawn]
    neighbours = min(TRUSTWORTHINESS_NEIGHBOURS, (len(vectors) - 1) // 2)
    return float(trustworthiness(vectors, places, n_neighbors=neighbours))
