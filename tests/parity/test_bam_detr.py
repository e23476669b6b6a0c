"""What BAM-DETR adds equals the official code: features of boundaries, soft-NMS of qualities, parts of losses."""

import numpy as np
import pytest
import torch
from torch import nn

from helpers.composed import composed
from helpers.peers import criterion_of, official_batch, official_weights, oracle, tiny_model
from helpers.shared_data import needs_shared
from sdst.baselines.bam_detr import convert_official
from sdst.baselines.detr.highlights import clip_pairs, margin_loss, rank_loss, votes, wrong_words_loss
from sdst.config.checks import check_options, resolve_auto_options
from sdst.models.decoding import decode

pytestmark = needs_shared
NEAR = {"atol": 2e-5, "rtol": 2e-5}


@pytest.fixture
def model() -> nn.Module:
    model = tiny_model("bam_detr")
    model.load_state_dict(convert_official(official_weights("bam_detr")))
    return model.eval()


@torch.no_grad()
def test_boundary_features_equal_the_official_ones_and_no_parameter_changes(model: nn.Module) -> None:
    io, before = oracle("bam_detr"), {name: value.clone() for name, value in model.state_dict().items()}
    output = model(*official_batch(io).inputs())
    sides = io["out.memory_boundary"].chunk(2, dim=2)
    expected = torch.stack([side.tanh().mean(dim=2) for side in sides], dim=2)
    torch.testing.assert_close(output.boundaries, expected, **NEAR)
    torch.testing.assert_close(output.actionness, io["out.pred_quality"].squeeze(2), **NEAR)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize("padded", [False, True])
@torch.no_grad()
def test_windows_after_soft_nms_equal_the_official_ones(model: nn.Module, padded: bool) -> None:
    io = oracle("bam_detr", padded=padded)
    batch = official_batch(io)
    config = composed("model=bam_detr", "run_dir=x").copy()
    check_options(config)
    resolve_auto_options(config)
    assert (config.decode.score, config.decode.nms, config.decode.round_to) == ("actionness", "gaussian", 2.0)
    for i, prediction in enumerate(decode(model(*batch.inputs()), batch, config.decode)):
        expected = io[f"single{i}.windows_nms"]
        np.testing.assert_allclose(prediction.windows, expected, atol=2e-4)


@torch.no_grad()
def test_parts_of_the_highlight_loss_equal_the_official_ones(model: nn.Module) -> None:
    io = oracle("bam_detr")
    batch = official_batch(io)
    output = model.train()(*batch.inputs(), labels=batch)
    negatives = output.negative_saliency
    for part, value in {
        "margin": margin_loss(output.saliency, clip_pairs(batch)),
        "rank": rank_loss(output.saliency, negatives, votes(batch), batch.video_mask),
        "neg_pair": wrong_words_loss(negatives, batch.video_mask),
    }.items():
        torch.testing.assert_close(value, io[f"loss_part.{part}"][0], atol=1e-4, rtol=1e-5, msg=part)
    _, terms = criterion_of("bam_detr", model)(output, batch)
    assert "cls" not in terms
