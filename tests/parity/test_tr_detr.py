"""Inner results of TR-DETR equal the official code's: fused clips, the state that reads the cut, parts of losses."""

import pytest
import torch
from torch import Tensor, nn

from helpers.peers import official_batch, official_weights, oracle, tiny_model
from helpers.shared_data import needs_shared
from sdst.baselines.detr.highlights import clip_pairs, margin_loss, rank_loss, votes
from sdst.baselines.tr_detr import convert_official
from sdst.spans import cw_to_se

pytestmark = needs_shared


@pytest.fixture
def model() -> nn.Module:
    model = tiny_model("tr_detr")
    model.load_state_dict(convert_official(official_weights("tr_detr")))
    return model.eval()


@torch.no_grad()
def test_fused_clips_and_the_state_after_the_cut_equal_the_official_ones(model: nn.Module) -> None:
    io, inner = oracle("tr_detr"), {}

    def remember(name: str) -> None:
        model.get_submodule(name).register_forward_hook(lambda *call: inner.update({name: call[-1]}))

    remember("fuser")
    remember("read_cut")
    output = model(*official_batch(io).inputs())
    torch.testing.assert_close(inner["fuser"], io["mid.fuser"], atol=2e-5, rtol=2e-5)
    states: Tensor = inner["read_cut"][0]
    torch.testing.assert_close(states[:, -1], io["mid.gru_extractor"], atol=2e-5, rtol=2e-5)
    # One of the retrieved moments starts before the video, so its cut is empty.
    best = output.class_logits[:, -1].argmax(dim=1)
    start = cw_to_se(output.references[torch.arange(3), -1, best])[:, 0]
    assert (start < 0).tolist() == [False, False, True]


@torch.no_grad()
def test_parts_of_the_highlight_loss_equal_the_official_ones(model: nn.Module) -> None:
    io = oracle("tr_detr")
    batch = official_batch(io)
    scores = model(*batch.inputs()).saliency
    ranks = rank_loss(scores, None, votes(batch), batch.video_mask)
    torch.testing.assert_close(ranks, io["loss_part.rank"][0], atol=1e-5, rtol=1e-5)
    margin = margin_loss(scores, clip_pairs(batch))
    torch.testing.assert_close(margin, io["loss_part.margin"][0], atol=1e-5, rtol=1e-5)
