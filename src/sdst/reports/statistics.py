"""Significance tests across seeds, across queries, and across the columns of tables (App. M).

A matrix of scores has one row per method and one column per data set and metric. Higher is better; NaN means missing.
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
    """Difference between methods A and B over their common seeds.

    Attributes:
        num_seeds: Number of pairs.
        mean: Mean of A - B, in the unit of the scores.
        std: Sample standard deviation of A - B; NaN for a single pair.
        t_pvalue: P-value of the two-sided paired t-test; NaN if all differences are equal, as for a single pair.
        wilcoxon_pvalue: P-value of Wilcoxon's two-sided signed-rank test. It cannot fall below 2^(1 - pairs), so
            fewer than six seeds never reach 0.05.
    """

    num_seeds: int
    mean: float
    std: float
    t_pvalue: float
    wilcoxon_pvalue: float


@dataclass(frozen=True, slots=True)
class QueryDifference:
    """Difference between methods A and B on the same queries.

    Attributes:
        mean: Mean of A - B, in the unit of the values.
        low: Lower end of the confidence interval of the mean.
        high: Upper end of the confidence interval. If it contains 0, the difference may be chance.
        confidence: Confidence level of the interval, such as 0.95.
    """

    mean: float
    low: float
    high: float
    confidence: float


def rank_columns(scores: ArrayLike, ties: Literal["average", "dense"] = "average") -> NDArray[np.float64]:
    """Ranks of the methods in each column, 1 for the best; a missing score has no rank and stays NaN.

    Args:
        scores: (methods, columns) scores; NaN means missing.
        ties: Ranks of equal scores: their mean rank ("average"), or the same rank without a gap after it ("dense").
    """
    ranks = np.full(np.shape(scores), np.nan)
    for column, rank in zip(np.asarray(scores, dtype=np.float64).T, ranks.T, strict=True):
        present = ~np.isnan(column)
        rank[present] = stats.rankdata(-column[present], method=ties)
    return ranks


def friedman(scores: ArrayLike) -> Friedman:
    """Friedman's test with columns as blocks and scipy's correction for ties (eq. 29 has no correction).

    Args:
        scores: (methods, columns) scores without NaN, at least three methods.

    Raises:
        ValueError: A score is missing.
    """
    result = stats.friedmanchisquare(*_complete(scores))
    return Friedman(float(result.statistic), float(result.pvalue))


def nemenyi(scores: ArrayLike) -> NDArray[np.float64]:
    """P-values of Nemenyi's test after Friedman's, a symmetric (methods, methods) matrix.

    Args:
        scores: (methods, columns) scores without NaN.

    Raises:
        UserError: scikit-posthocs is not installed.
        ValueError: A score is missing.
    """
    try:
        from scikit_posthocs import posthoc_nemenyi_friedman
    except ImportError as error:
        raise UserError(
            "Nemenyi's test needs scikit-posthocs, which is not installed; pip install 'sdst[stats]'"
        ) from error
    return np.asarray(posthoc_nemenyi_friedman(_complete(scores).T), dtype=np.float64)


def paired_difference(a: Sequence[float], b: Sequence[float]) -> PairedDifference:
    """Compare two methods over seeds.

    Args:
        a: Score of method A for each seed.
        b: Score of method B for the same seeds in the same order.

    Raises:
        ValueError: The scores differ in number, are empty or not finite.
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

    The interval measures how much the mean depends on the choice of queries; it ignores variation across seeds. Queries
    of one video are drawn independently.

    Args:
        a: Value of method A for each query, such as its average precision; the metric is their mean.
        b: Value of method B for the same queries in the same order.
        rng: Random generator of the resamples.
        resamples: Number of resamples.
        confidence: Confidence level of the percentile interval, in (0, 1).

    Raises:
        ValueError: The values differ in number, are empty or not finite.
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
        raise ValueError("scores must not be missing (NaN); drop incomplete columns or methods first")
    return complete


def _differences(a: ArrayLike, b: ArrayLike) -> NDArray[np.float64]:
    """A - B, rounded so that differences that are equal in decimal are equal here, too."""
    pair = [np.asarray(values, dtype=np.float64) for values in (a, b)]
    shapes = [values.shape for values in pair]
    if shapes[0] != shapes[1] or len(shapes[0]) != 1 or not pair[0].size or not np.isfinite(pair).all():
        raise ValueError(
            f"both methods need the same number of finite values, at least one; got shapes {shapes}"
        )
    return np.round(pair[0] - pair[1], 9)
