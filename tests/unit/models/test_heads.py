"""The prediction heads equal plain loops."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from sdst.models.heads import ActionnessHead, class_head, regression_head, saliency_scores
from sdst.models.interpolation import ClipAxis

DIM, BINS = 4, 5
COUNTS, EXTENTS = [7, 1, 4], [7.0, 0.8, 4.3]


def example(context: float = 1.0) -> tuple[ActionnessHead, torch.Tensor, torch.Tensor, ClipAxis]:
    """The head, (B, T, d) features with NaN where padded, (B, M = 6, 2) references, the axis."""
    torch.manual_seed(0)
    mask = torch.arange(max(COUNTS)) < torch.tensor(COUNTS)[:, None]
    dense = torch.randn(len(COUNTS), max(COUNTS), DIM).masked_fill(~mask.unsqueeze(-1), torch.nan)
    axis = ClipAxis(mask, torch.tensor(COUNTS).float(), torch.tensor(EXTENTS))
    return ActionnessHead(DIM, BINS, 8, context), dense, torch.rand(len(COUNTS), 6, 2), axis


@pytest.mark.parametrize("context", [1.0, 1.5])
def test_actionness_equals_a_loop_over_the_bins_of_each_moment(context):
    head, dense, references, axis = example(context)
    got = head(dense, references, axis)
    assert got.shape == (3, 6)
    for b, (count, extent) in enumerate(zip(COUNTS, EXTENTS, strict=True)):
        for m in range(6):
            centre, width = references[b, m].tolist()
            bins, width = [], context * width
            for n in range(BINS):
                time = centre - width / 2 + width * (n + 0.5) / BINS
                position = time * extent - 0.5
                bins += [np.interp(position, range(count), dense[b, :count, c]) for c in range(DIM)]
            expected = head.mlp(torch.tensor(bins, dtype=torch.float32)).sigmoid()
            torch.testing.assert_close(got[b, m], expected[0])


def test_actionness_sends_gradients_to_the_features_and_not_to_the_moments():
    head, dense, references, axis = example()
    dense = dense.nan_to_num(0).requires_grad_()
    references.requires_grad_()
    head(dense, references, axis).sum().backward()
    assert references.grad is None
    assert dense.grad[axis.mask].any()
    assert not dense.grad[~axis.mask].any()
    assert all(parameter.grad.any() for parameter in head.parameters())


def test_saliency_is_the_cosine_of_clip_and_query():
    torch.manual_seed(0)
    dense, text = torch.randn(2, 3, 5), torch.randn(2, 5)
    got = saliency_scores(dense.bfloat16(), text.bfloat16())
    assert got.dtype == torch.float32
    for i in range(2):
        for t in range(3):
            a, b = dense[i, t].bfloat16().double(), text[i].bfloat16().double()
            assert got[i, t].item() == pytest.approx((a @ b / (a.norm() * b.norm())).item(), abs=1e-6)
    torch.testing.assert_close(
        saliency_scores(10 * dense, 0.1 * text), F.cosine_similarity(dense, text[:, None], -1)
    )


def test_class_probability_starts_at_one_percent_and_the_regression_at_zero():
    torch.manual_seed(0)
    logits = class_head(16)(torch.zeros(1, 16))
    assert logits.sigmoid().item() == pytest.approx(0.01)
    assert not regression_head(16)(torch.randn(3, 16)).any()
