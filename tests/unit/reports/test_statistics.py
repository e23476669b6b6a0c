"""Significance tests against published worked examples, scikit-posthocs, and naive implementations."""

import itertools
import math
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import integrate, stats

import sdst
from sdst.errors import UserError
from sdst.reports.published import describe, main_results, rank_differences, significance
from sdst.reports.statistics import bootstrap_queries, friedman, nemenyi, paired_difference, rank_columns

EXPERIMENTS = Path(sdst.__file__).parents[2] / "experiments"

# Demšar 2006 (JMLR 7, 1-30), the example of the Friedman test: AUC of C4.5, C4.5+m, C4.5+cf and C4.5+m+cf on 14
# data sets. The last two have 0.975 in the row before the last, but ranks 2 and 3: by a digit that is not printed.
DEMSAR = np.array(
    [
        [0.763, 0.768, 0.771, 0.798],
        [0.599, 0.591, 0.590, 0.569],
        [0.954, 0.971, 0.968, 0.967],
        [0.628, 0.661, 0.654, 0.657],
        [0.882, 0.888, 0.886, 0.898],
        [0.936, 0.931, 0.916, 0.931],
        [0.661, 0.668, 0.609, 0.685],
        [0.583, 0.583, 0.563, 0.625],
        [0.775, 0.838, 0.866, 0.875],
        [1.000, 1.000, 1.000, 1.000],
        [0.940, 0.962, 0.965, 0.962],
        [0.619, 0.666, 0.614, 0.669],
        [0.972, 0.981, 0.9751, 0.975],
        [0.957, 0.978, 0.946, 0.970],
    ]
).T

# Hollander and Wolfe 1973, p. 140 ff.: seconds to round first base in three ways, 22 players.
ROUNDING = np.fromstring(
    "5.40 5.50 5.55 5.85 5.70 5.75 5.20 5.60 5.50 5.55 5.50 5.40 5.90 5.85 5.70 5.45 5.55 5.60 5.40 5.40 5.35 "
    "5.45 5.50 5.35 5.25 5.15 5.00 5.85 5.80 5.70 5.25 5.20 5.10 5.65 5.55 5.45 5.60 5.35 5.45 5.05 5.00 4.95 "
    "5.50 5.50 5.40 5.45 5.55 5.50 5.55 5.55 5.35 5.45 5.50 5.55 5.50 5.45 5.25 5.65 5.60 5.40 5.70 5.65 5.55 "
    "6.30 6.30 6.25",
    sep=" ",
).reshape(22, 3)


def naive_ranks(column: list[float]) -> list[float]:
    """1 + number of better scores + half the number of other equal scores; NaN has no rank."""
    return [
        math.nan
        if math.isnan(mine)
        else 1 + sum(x > mine for x in column) + (sum(x == mine for x in column) - 1) / 2
        for mine in column
    ]


def naive_dense_ranks(column: list[float]) -> list[float]:
    better = [{x for x in column if x > mine} for mine in column]
    return [math.nan if math.isnan(mine) else 1 + len(b) for mine, b in zip(column, better, strict=True)]


def naive_nemenyi(scores: np.ndarray, first: int, second: int) -> float:
    """P(range of k standard normals > q), q the rank difference in units of its deviation, times sqrt(2)."""
    methods, columns = scores.shape
    ranks = np.array([naive_ranks(list(column)) for column in scores.T])
    difference = abs(ranks[:, first].mean() - ranks[:, second].mean())
    q = difference / math.sqrt(methods * (methods + 1) / (6 * columns)) * math.sqrt(2)
    smallest = integrate.quad(
        lambda z: stats.norm.pdf(z) * (stats.norm.cdf(z + q) - stats.norm.cdf(z)) ** (methods - 1), -10, 10
    )
    return 1 - methods * smallest[0]


@given(
    st.lists(
        st.lists(st.sampled_from([1.0, 2.0, 2.5, math.nan]), min_size=3, max_size=3), min_size=1, max_size=6
    )
)
def test_ranks_equal_a_naive_loop(rows: list[list[float]]) -> None:
    scores = np.array(rows)
    for ties, naive in (("average", naive_ranks), ("dense", naive_dense_ranks)):
        expected = np.array([naive(list(column)) for column in scores.T]).T
        np.testing.assert_array_equal(rank_columns(scores, ties), expected)


def test_average_ranks_of_demsar_2006() -> None:
    np.testing.assert_allclose(rank_columns(DEMSAR).mean(axis=1), [3.143, 2.000, 2.893, 1.964], atol=5e-4)


def test_friedman_statistic_of_demsar_2006_with_correction_for_ties() -> None:
    groups = [np.unique(column, return_counts=True)[1] for column in DEMSAR.T]
    tied = sum(float((counts**3 - counts).sum()) for counts in groups)
    correction = 1 - tied / (14 * 4 * (4**2 - 1))
    assert correction < 1
    assert friedman(DEMSAR).statistic * correction == pytest.approx(9.28, abs=5e-3)


def test_friedman_of_hollander_and_wolfe_1973() -> None:
    result = friedman(-ROUNDING.T)  # fast is good
    assert result.statistic == pytest.approx(11.143, abs=5e-4)
    assert result.pvalue == pytest.approx(0.003805, abs=5e-7)


def test_friedman_equals_equation_29_without_ties() -> None:
    scores = np.random.default_rng(0).normal(size=(5, 12))
    ranks = [naive_ranks(list(column)) for column in scores.T]
    sums = [sum(rank[method] for rank in ranks) for method in range(5)]
    expected = 12 / (12 * 5 * 6) * sum(total**2 for total in sums) - 3 * 12 * 6
    result = friedman(scores)
    assert result.statistic == pytest.approx(expected)
    assert result.pvalue == pytest.approx(stats.chi2.sf(expected, df=4))


def test_nemenyi_equals_the_studentized_range_distribution() -> None:
    pytest.importorskip("scikit_posthocs")
    for scores in (DEMSAR, -ROUNDING.T, np.random.default_rng(1).normal(size=(6, 9))):
        pvalues = nemenyi(scores)
        for first, second in itertools.combinations(range(len(scores)), 2):
            assert pvalues[first, second] == pytest.approx(naive_nemenyi(scores, first, second), abs=1e-6)
            assert pvalues[first, second] == pvalues[second, first]


def test_nemenyi_conclusions_of_demsar_2006() -> None:
    pytest.importorskip("scikit_posthocs")
    pvalues = nemenyi(DEMSAR)  # critical differences 1.25 at 0.05 and 1.12 at 0.10 against 1.143 and 1.179
    assert 0.05 < pvalues[0, 1] < 0.10
    assert 0.05 < pvalues[0, 3] < 0.10
    assert (pvalues[2] > 0.10).all()


@pytest.mark.parametrize("test", [friedman, nemenyi])
def test_missing_scores_raise(test) -> None:
    if test is nemenyi:
        pytest.importorskip("scikit_posthocs")
    with pytest.raises(ValueError, match="missing"):
        test([[1, 2], [2, math.nan], [3, 4]])


def test_missing_scikit_posthocs_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "scikit_posthocs", None)
    with pytest.raises(UserError, match=r"scikit-posthocs, .*sdst\[stats\]"):
        nemenyi(DEMSAR)


# --- seeds ---


def test_paired_difference_of_student_1908() -> None:
    """Hours of sleep gained with two drugs, 10 patients: t = 4.0621, p = 0.002833, as every textbook has it."""
    first = [0.7, -1.6, -0.2, -1.2, -0.1, 3.4, 3.7, 0.8, 0.0, 2.0]
    second = [1.9, 0.8, 1.1, 0.1, -0.1, 4.4, 5.5, 1.6, 4.6, 3.4]
    result = paired_difference(second, first)
    assert result.num_seeds == 10
    assert result.mean == pytest.approx(1.58)
    assert result.mean / (result.std / math.sqrt(10)) == pytest.approx(4.0621, abs=5e-5)
    assert result.t_pvalue == pytest.approx(0.002833, abs=5e-7)
    assert paired_difference(first, second).mean == -result.mean
    assert paired_difference(first, second).t_pvalue == result.t_pvalue


@settings(max_examples=30)
@given(st.lists(st.integers(-500, 500), min_size=2, max_size=8, unique_by=abs).filter(lambda d: 0 not in d))
def test_wilcoxon_equals_the_share_of_sign_patterns_at_least_as_extreme(differences: list[int]) -> None:
    order = sorted(differences, key=abs)
    total = len(order) * (len(order) + 1) / 2

    def distance(signs: tuple[bool, ...]) -> float:
        return abs(sum(rank for rank, positive in enumerate(signs, start=1) if positive) - total / 2)

    observed = distance(tuple(difference > 0 for difference in order))
    all_signs = list(itertools.product([False, True], repeat=len(order)))
    expected = sum(distance(signs) >= observed for signs in all_signs) / len(all_signs)
    base = np.full(len(differences), 55.5)
    result = paired_difference(list(base + np.array(differences) / 100), list(base))
    assert result.wilcoxon_pvalue == pytest.approx(expected)
    assert result.wilcoxon_pvalue >= 2 ** (1 - len(order))


def test_t_test_is_undefined_for_constant_differences() -> None:
    same = paired_difference([55.1, 55.2, 55.3], [54.1, 54.2, 54.3])  # unequal in binary, equal in print
    assert (same.mean, same.std) == (pytest.approx(1), 0)
    assert math.isnan(same.t_pvalue)
    assert same.wilcoxon_pvalue == 0.25
    none = paired_difference([1.0, 2.0], [1.0, 2.0])
    assert (none.mean, none.wilcoxon_pvalue) == (0, 1)
    single = paired_difference([2.0], [1.0])
    assert (single.num_seeds, single.mean, single.wilcoxon_pvalue) == (1, 1, 1)
    assert math.isnan(single.std)
    assert math.isnan(single.t_pvalue)


UNEQUAL = [([1.0, 2.0], [1.0]), ([], []), ([1.0, math.nan], [1.0, 2.0]), ([[1.0]], [[2.0]])]


@pytest.mark.parametrize(("a", "b"), UNEQUAL)
def test_unpaired_values_raise(a: list, b: list) -> None:
    with pytest.raises(ValueError, match="the same number of finite values"):
        paired_difference(a, b)
    with pytest.raises(ValueError, match="the same number of finite values"):
        bootstrap_queries(a, b, np.random.default_rng(0))


# --- queries ---


def test_bootstrap_of_many_queries_approaches_the_normal_interval() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.uniform(size=(2, 2000))
    result = bootstrap_queries(a, b, np.random.default_rng(1), resamples=4000, confidence=0.9)
    error = (a - b).std() / math.sqrt(2000)
    assert result.mean == pytest.approx((a - b).mean())
    assert result.confidence == 0.9
    assert result.low == pytest.approx(result.mean - 1.645 * error, abs=0.1 * error)
    assert result.high == pytest.approx(result.mean + 1.645 * error, abs=0.1 * error)


def test_bootstrap_of_two_queries_matches_the_exact_distribution() -> None:
    """The mean of a resample of {0, 1} is 0, 1/2 or 1 with probability 1/4, 1/2, 1/4."""
    rng = np.random.default_rng(0)
    a, b = [1.0, 0.0], [0.0, 0.0]
    half = bootstrap_queries(a, b, rng, resamples=2000, confidence=0.4)  # quantiles 0.3 and 0.7
    assert (half.low, half.mean, half.high) == (0.5, 0.5, 0.5)
    most = bootstrap_queries(a, b, rng, resamples=2000, confidence=0.6)  # quantiles 0.2 and 0.8
    assert (most.low, most.high) == (0, 1)


def test_bootstrap_keeps_pairs_and_is_reproducible() -> None:
    b = np.random.default_rng(0).uniform(size=100)
    result = bootstrap_queries(b + 0.25, b, np.random.default_rng(1), resamples=50)
    assert result.low == pytest.approx(0.25)
    assert result.high == pytest.approx(0.25)
    first, again, other = (
        bootstrap_queries(b, b[::-1], np.random.default_rng(s), resamples=50) for s in (2, 2, 3)
    )
    assert first == again
    assert first != other
    swapped = bootstrap_queries(b[::-1], b, np.random.default_rng(2), resamples=50)
    assert (swapped.low, swapped.high) == (pytest.approx(-first.high), pytest.approx(-first.low))


# --- the paper's own tables ---


def test_main_results_have_the_numbers_of_tables_1_and_2() -> None:
    scores = main_results(EXPERIMENTS)
    assert len(scores.methods) == 9
    assert len(scores.columns) == 13
    value = {
        (m, c): scores.values[i, j]
        for i, m in enumerate(scores.methods)
        for j, c in enumerate(scores.columns)
    }
    assert value["Moment-DETR", "test MR R1, @0.5"] == 52.89
    assert value["Moment-DETR", "TACoS, mIoU"] == 25.5
    assert value["Ours†", "test HD Very good, HIT@1"] == 69.13
    assert value["Flash-VTG†", "Charades-ST, R@0.7"] == 49.9
    missing = {(m, c) for (m, c), number in value.items() if math.isnan(number)}
    highlights = ("test HD Very good, mAP", "test HD Very good, HIT@1")
    expected = set(itertools.product(("BAM-DETR", "Flash-VTG†"), highlights))
    expected |= {(m, "Charades-ST, mIoU") for m in ("Moment-DETR", "QD-DETR", "Flash-VTG†")}
    assert missing == expected


def test_dropping_incomplete_columns_or_methods_keeps_the_rest() -> None:
    scores = main_results(EXPERIMENTS)
    columns, methods = scores.complete("columns"), scores.complete("methods")
    assert (columns.values.shape, methods.values.shape) == ((9, 10), (5, 13))
    assert methods.methods == ("UniVTG", "CG-DETR", "R2-Tuning", "SG-DETR†", "Ours†")
    for kept in (columns, methods):
        for i, method in enumerate(kept.methods):
            for j, column in enumerate(kept.columns):
                original = scores.values[scores.methods.index(method), scores.columns.index(column)]
                assert kept.values[i, j] == original


def test_wrong_ranks_in_table_o() -> None:
    found = {(d.method, d.column): (d.printed, d.computed) for d in rank_differences(EXPERIMENTS)}
    assert found == {  # read off Tab. 1 and 2 by eye
        ("CG-DETR", "test MR mAP, @0.5"): (5, 6),  # 64.51, below BAM-DETR's 64.57
        ("BAM-DETR", "Charades-ST, R@0.5"): (5, 4),  # 60.0, above R2-Tuning's 59.8
        ("R2-Tuning", "Charades-ST, R@0.5"): (4, 5),
        ("SG-DETR†", "Charades-ST, R@0.7"): (4, 3),  # 49.5, after 52.6 and 49.9
        ("UniVTG", "Charades-ST, mIoU"): (6, 5),  # 50.1, like CG-DETR, printed as 5
        ("BAM-DETR", "Charades-ST, mIoU"): (4, 3),  # 52.3, above R2-Tuning's 50.9
        ("R2-Tuning", "Charades-ST, mIoU"): (3, 4),
    }


def test_disagreements_between_the_papers_text_and_numbers() -> None:
    pytest.importorskip("scikit_posthocs")
    scores = main_results(EXPERIMENTS)
    by_columns, by_methods = (significance(scores.complete(drop)) for drop in ("columns", "methods"))
    assert by_columns.friedman.pvalue < 1e-10  # the text: above 0.05
    assert by_methods.friedman.pvalue < 1e-6
    same = {method for method, pvalue in by_columns.nemenyi.items() if pvalue >= 0.05}
    assert same == {"BAM-DETR", "R2-Tuning", "SG-DETR†", "Flash-VTG†"}  # the text: SG-DETR alone
    assert {method for method, pvalue in by_methods.nemenyi.items() if pvalue >= 0.05} == {
        "R2-Tuning",
        "SG-DETR†",
    }
    assert set(by_columns.nemenyi) == set(scores.methods) - {"Ours†"}

    text = describe(EXPERIMENTS)
    assert "9 methods, 10 columns, Friedman 74.85" in text
    assert "5 methods, 13 columns, Friedman 47.50" in text
    (line,) = [line for line in text.splitlines() if line.startswith("| Flash-VTG ")]
    assert line.split(" | ")[1:4] == ["0.0011", f"{by_columns.nemenyi['Flash-VTG†']:.4f}", ""]
    assert "7 ranks of Tab. O" in text
    assert text.count("\n- ") == 2 + 7
