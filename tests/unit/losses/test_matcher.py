"""The Hungarian matching equals brute force over all pairings, and its cost equals a naive loop."""

from itertools import permutations
from math import exp, log

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sdst.losses.matcher import match, matching_cost

WEIGHTS = {"cls": 1.0, "l1": 0.7, "iou": 1.3}
ALPHA, GAMMA = 0.25, 2.0


def naive_cost(logit: float, predicted: list[float], true: list[float]) -> float:
    p = 1 / (1 + exp(-logit))
    cls = ALPHA * (1 - p) ** GAMMA * -log(p) - (1 - ALPHA) * p**GAMMA * -log(1 - p)
    (c, w), (tc, tw) = predicted, true
    overlap = max(0.0, min(c + w / 2, tc + tw / 2) - max(c - w / 2, tc - tw / 2))
    iou = overlap / (w + tw - overlap)
    return WEIGHTS["cls"] * cls + WEIGHTS["l1"] * (abs(c - tc) + abs(w - tw)) + WEIGHTS["iou"] * (1 - iou)


def least_cost(cost: list[list[float]]) -> float:
    """Return the lowest total cost of all one-to-one pairings of rows (queries) and columns (moments)."""
    rows, columns = len(cost), len(cost[0])
    if rows >= columns:
        return min(
            sum(cost[q][g] for g, q in enumerate(order)) for order in permutations(range(rows), columns)
        )
    return min(sum(cost[q][g] for q, g in enumerate(order)) for order in permutations(range(columns), rows))


def problem(seed: int, samples: int, levels: int, queries: int, moments: int) -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(samples, levels, queries, generator=generator)
    references = torch.rand(samples, levels, queries, 2, generator=generator) * 0.9 + 0.05
    true = torch.rand(samples, moments, 2, generator=generator) * 0.9 + 0.05
    return logits, references, true, torch.ones(samples, moments, dtype=torch.bool)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**31), st.integers(1, 5), st.integers(1, 5), st.data())
def test_matching_has_the_lowest_cost_of_all_one_to_one_matchings(seed, queries, moments, data):
    logits, references, true, mask = problem(seed, 2, 2, queries, moments)
    mask[0] = torch.tensor(data.draw(st.lists(st.booleans(), min_size=moments, max_size=moments)))
    assignment = match(logits, references, true, mask, WEIGHTS)
    for b in range(2):
        valid = mask[b].nonzero().flatten().tolist()
        for k in range(2):
            pairs = [(q, g) for q, g in enumerate(assignment[b, k].tolist()) if g >= 0]
            assert len(pairs) == min(queries, len(valid))
            assert len({g for _, g in pairs}) == len(pairs)
            assert {g for _, g in pairs} <= set(valid)
            if valid:
                cost = [
                    [
                        naive_cost(logits[b, k, q].item(), references[b, k, q].tolist(), true[b, g].tolist())
                        for g in valid
                    ]
                    for q in range(queries)
                ]
                total = sum(cost[q][valid.index(g)] for q, g in pairs)
                assert total == pytest.approx(least_cost(cost), abs=1e-4)


@pytest.mark.parametrize("name", ["cls", "l1", "iou"])
def test_each_cost_alone_decides_the_matching(name):
    """Each query is the best of one cost: class, distance or overlap."""
    true = torch.tensor([[[0.5, 0.1]]])
    references = torch.tensor([[[[0.9, 0.9], [0.55, 0.01], [0.5, 0.4]]]])
    logits = torch.tensor([[[3.0, 0.0, 0.0]]])
    best = {"cls": 0, "l1": 1, "iou": 2}[name]
    weights = {key: float(key == name) for key in WEIGHTS}
    assert match(logits, references, true, torch.ones(1, 1, dtype=torch.bool), weights).tolist() == [
        [[0 if q == best else -1 for q in range(3)]]
    ]


def test_permuting_queries_permutes_the_assignment():
    logits, references, true, mask = problem(1, 2, 3, 6, 4)
    order = torch.randperm(6, generator=torch.Generator().manual_seed(0))
    expected = match(logits, references, true, mask, WEIGHTS)[:, :, order]
    assert torch.equal(match(logits[:, :, order], references[:, :, order], true, mask, WEIGHTS), expected)


def test_padded_moments_and_other_samples_change_nothing():
    logits, references, true, mask = problem(2, 3, 2, 5, 3)
    expected = match(logits, references, true, mask, WEIGHTS)
    padded, padded_mask = torch.zeros(3, 7, 2), torch.zeros(3, 7, dtype=torch.bool)
    padded[:, :3], padded_mask[:, :3] = true, mask
    assert torch.equal(match(logits, references, padded, padded_mask, WEIGHTS), expected)
    alone = [match(*(x[i : i + 1] for x in (logits, references, true, mask)), WEIGHTS) for i in range(3)]
    assert torch.equal(torch.cat(alone), expected)


@pytest.mark.parametrize("width", [0, 2])
def test_without_moments_no_query_is_matched(width):
    logits, references, true, _ = problem(3, 2, 2, 4, width)
    assignment = match(logits, references, true, torch.zeros(2, width, dtype=torch.bool), WEIGHTS)
    assert torch.equal(assignment, torch.full((2, 2, 4), -1))


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_the_error_about_a_cost_that_is_not_finite_names_sample_and_level(value):
    logits, references, true, mask = problem(4, 3, 2, 4, 2)
    references[2, 1, 3, 0] = value
    with pytest.raises(FloatingPointError, match="sample 2, level 1"):
        match(logits, references, true, mask, WEIGHTS)


def test_extreme_logits_do_not_raise():
    _, references, true, mask = problem(5, 1, 1, 3, 2)
    assignment = match(torch.tensor([[[-500.0, 500.0, 500.0]]]), references, true, mask, WEIGHTS)
    assert assignment[0, 0, 0] == -1


def test_half_precision_is_matched_in_float32():
    logits, references, true, _ = problem(6, 2, 2, 6, 3)
    logits, references = logits.half(), references.half()
    half, full = (
        matching_cost(*inputs, true, WEIGHTS, alpha=ALPHA, gamma=GAMMA)
        for inputs in ((logits, references), (logits.float(), references.float()))
    )
    assert half.dtype == torch.float32
    assert torch.equal(half, full)
