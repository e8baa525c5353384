"""Bootstrap: how far a score would move if other sequences had been drawn.

In: the sums of each sequence from which a score is made. Out: the ends of its 95 % interval.
Knows no head and no map; tokens of one sequence are alike, so whole sequences are drawn again, never tokens.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Float64Array = NDArray[np.float64]
Statistic = Callable[[Float64Array], Float64Array]  # sums (..., part), added over some sequences, to scores (...)

RESAMPLES = 200
ENDS = (2.5, 97.5)  # percentiles


def draw(n_sequences: int, seed: int) -> Float64Array:
    """Draw the sequences with replacement: how often each is in each resample, (resample, sequence)."""
    rng = np.random.default_rng(seed)
    drawn = (rng.integers(n_sequences, size=n_sequences) for _ in range(RESAMPLES))
    return np.stack([np.bincount(each, minlength=n_sequences) for each in drawn]).astype(np.float64)


def interval(sums: Float64Array, statistic: Statistic, times: Float64Array) -> tuple[float, float]:
    """Return the ends of the percentile interval (Efron 1979) of a score.

    sums: (sequence, part); times: what `draw` returned. Resamples in which the score is undefined are left out. Both
    ends are nan where fewer than two sequences say anything, since one alone shows no spread.
    """
    if np.count_nonzero(sums.any(axis=1)) < 2:
        return float("nan"), float("nan")
    scores = statistic(np.einsum("rs,sp->rp", times, sums))  # not @: the same to the last digit on any number of cores
    low, high = np.nanpercentile(scores, ENDS) if not np.isnan(scores).all() else (np.nan, np.nan)
    return float(low), float(high)
