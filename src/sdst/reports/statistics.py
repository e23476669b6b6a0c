"""Whether a difference is more than noise: over seeds, over queries, and over the columns of tables (App. M).

A matrix of scores has one row per method and one column per data set and metric. Higher is better; NaN is missing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
from scipy import stats

from sdst.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import ArrayLike, NDArray


@dataclass(frozen=True, slots=True)
class Friedman:
    """Result of the Friedman test, whose null hypothesis is that all methods are equally good."""

    statistic: float
    pvalue: float


@dataclass(frozen=True, slots=True)
class PairedDifference:
    """How method A differs from B over the seeds that both were trained with.

    Attributes:
        num_seeds: Pairs.
        mean: Of A - B, in the unit of the scores.
        std: Of A - B, the sample's; NaN for a single pair.
        t_pvalue: Of the paired t-test, two-sided; NaN where all differences are the same, as with a single pair.
        wilcoxon_pvalue: Of Wilcoxon's signed-rank test, two-sided. It cannot fall below 2^(1 - pairs), so fewer
            than six seeds never reach 0.05.
    """

    num_seeds: int
    mean: float
    std: float
    t_pvalue: float
    wilcoxon_pvalue: float


@dataclass(frozen=True, slots=True)
class QueryDifference:
    """How method A differs from B on the same queries.

    Attributes:
        mean: Of A - B, in the unit of the values.
        low: Lower end of the confidence interval of the mean.
        high: Its upper end. A difference whose interval contains 0 may be chance.
        confidence: The interval's, such as 0.95.
    """

    mean: float
    low: float
    high: float
    confidence: float


def rank_columns(scores: ArrayLike, ties: Literal["average", "dense"] = "average") -> NDArray[np.float64]:
    """Ranks of the methods in each column among those that have a score, 1 for the best; NaN stays NaN.

    Args:
        scores: (methods, columns).
        ties: Methods with equal scores share the mean of their ranks, or the best of them with no gap after it.
    """
    ranks = np.full(np.shape(scores), np.nan)
    for column, rank in zip(np.asarray(scores, dtype=np.float64).T, ranks.T, strict=True):
        present = ~np.isnan(column)
        rank[present] = stats.rankdata(-column[present], method=ties)
    return ranks


def friedman(scores: ArrayLike) -> Friedman:
    """Friedman's test over the columns as blocks, with scipy's correction for ties (eq. 29 has none).

    Args:
        scores: (methods, columns) without NaN, at least three methods.

    Raises:
        ValueError: A score is missing.
    """
    result = stats.friedmanchisquare(*_complete(scores))
    return Friedman(float(result.statistic), float(result.pvalue))


def nemenyi(scores: ArrayLike) -> NDArray[np.float64]:
    """P-values of Nemenyi's test after Friedman's, (methods, methods) and symmetric.

    Args:
        scores: (methods, columns) without NaN.

    Raises:
        UserError: scikit-posthocs is not installed.
        ValueError: A score is missing.
    """
    try:
        from scikit_posthocs import posthoc_nemenyi_friedman
    except ImportError as error:
        raise UserError(
            "scikit-posthocs: not installed; pip install 'sdst[stats]' for Nemenyi's test"
        ) from error
    return np.asarray(posthoc_nemenyi_friedman(_complete(scores).T), dtype=np.float64)


def paired_difference(a: Sequence[float], b: Sequence[float]) -> PairedDifference:
    """Compare two methods over seeds.

    Args:
        a: A's score with each seed.
        b: B's, with the same seeds in the same order.

    Raises:
        ValueError: The two differ in length, are empty or not finite.
    """
    difference = _differences(a, b)
    constant = bool((difference == difference[0]).all())  # the t-test would divide by zero
    return PairedDifference(
        len(difference),
        float(difference.mean()),
        float(difference.std(ddof=1)) if len(difference) > 1 else float("nan"),
        float("nan") if constant else float(stats.ttest_1samp(difference, 0).pvalue),
        float(stats.wilcoxon(difference).pvalue) if difference.any() else 1.0,
    )


def bootstrap_queries(
    a: ArrayLike,
    b: ArrayLike,
    rng: np.random.Generator,
    *,
    resamples: int = 10_000,
    confidence: float = 0.95,
) -> QueryDifference:
    """Compare two methods on the same queries by resampling the queries with replacement.

    It says how much the mean depends on which queries were asked, nothing about seeds. Queries of one video are
    drawn independently.

    Args:
        a: A's value for each query, such as its average precision; the metric is their mean.
        b: B's, for the same queries in the same order.
        rng: Draws the resamples.
        resamples: How many.
        confidence: Of the percentile interval, in (0, 1).

    Raises:
        ValueError: The two differ in length, are empty or not finite.
    """
    difference = _differences(a, b)
    size = len(difference)
    means = [difference[rng.integers(size, size=size)].mean() for _ in range(resamples)]
    tail = (1 - confidence) / 2
    low, high = np.quantile(means, [tail, 1 - tail])
    return QueryDifference(float(difference.mean()), float(low), float(high), confidence)


def _complete(scores: ArrayLike) -> NDArray[np.float64]:
    complete = np.asarray(scores, dtype=np.float64)
    if np.isnan(complete).any():
        raise ValueError("scores are missing; choose complete columns or methods first")
    return complete


def _differences(a: ArrayLike, b: ArrayLike) -> NDArray[np.float64]:
    """A - B, rounded so that differences which are equal on paper are equal here."""
    pair = [np.asarray(values, dtype=np.float64) for values in (a, b)]
    shapes = [values.shape for values in pair]
    if shapes[0] != shapes[1] or len(shapes[0]) != 1 or not pair[0].size or not np.isfinite(pair).all():
        raise ValueError(f"values must be as many finite numbers for both methods; their shapes are {shapes}")
    return np.round(pair[0] - pair[1], 9)
