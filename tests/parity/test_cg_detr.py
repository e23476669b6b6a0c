"""CG-DETR in training: parts of its losses, and inputs of those on moments and sentences, equal the official ones."""

import torch

from helpers.composed import composed
from helpers.peers import official_batch, official_weights, oracle, sizes, tiny_model
from helpers.shared_data import needs_shared
from sdst.baselines.cg_detr import CGDETR, convert_official
from sdst.baselines.detr.adaptive import not_attended
from sdst.baselines.detr.highlights import (
    clip_pairs,
    margin_loss,
    rank_loss,
    votes,
    wrong_words_loss,
)
from sdst.baselines.detr.tokens import GuidedOutput, redundancy
from sdst.config.build import build
from sdst.types import Batch

pytestmark = needs_shared
CLOSE = {"atol": 1e-4, "rtol": 1e-4}


def trained(batch: Batch) -> tuple[CGDETR, GuidedOutput]:
    model = tiny_model("cg_detr")
    model.load_state_dict(convert_official(official_weights("cg_detr")))
    return model, model.train()(*batch.inputs(), labels=batch)


@torch.no_grad()
def test_tokens_and_attention_equal_the_official_ones() -> None:
    io = oracle("cg_detr")
    _, output = trained(official_batch(io))
    real = io["out.real_neg_mask"].bool()
    torch.testing.assert_close(output.has_negative, real)
    for ours, official in (
        (output.attention, "out.t2vattnvalues"),
        (output.negative_attention[real], "out.t2vattnvalues_neg"),
        (output.moment, "train_out.memory_moment"),
        (output.rest, "train_out.nmmemory_moment"),
        (output.sentence, "train_out.sentence_txt"),
        (output.dummy_sentence, "train_out.sentence_dummy"),
    ):
        torch.testing.assert_close(ours, io[official], **CLOSE)
    members = torch.einsum("btd,bd->bt", io["train_out.src_vid"], io["train_out.memory_moment"])
    torch.testing.assert_close(output.member_logits, members, **CLOSE)


@torch.no_grad()
def test_parts_of_the_losses_equal_the_official_ones() -> None:
    io = oracle("cg_detr")
    batch = official_batch(io)
    model, output = trained(batch)
    real, labels, mask = output.has_negative, votes(batch), batch.video_mask
    parts = {
        "margin": margin_loss(output.saliency, clip_pairs(batch)),
        "rank": rank_loss(output.saliency[real], output.negative_saliency[real], labels[real], mask[real]),
        "neg_pair": wrong_words_loss(output.negative_saliency[real], mask[real]),
        "attn_margin": margin_loss(output.attention, clip_pairs(batch)),
        "attn_rank": rank_loss(
            output.attention[real], output.negative_attention[real], labels[real], mask[real]
        ),
        "attn_neg_pair": not_attended(output.negative_attention[real]).sum(dim=1).mean(),
        "attn_bce": torch.nn.functional.binary_cross_entropy(output.attention, (labels > 0).float()),
        "ortho_dummy": redundancy(io["out.dummy_tokens"]).mean(),
        "ortho_prompt": redundancy(model.encoder.prompts),
    }
    for name, part in parts.items():
        torch.testing.assert_close(part, io[f"loss_part.{name}"][0], **CLOSE)


def test_the_number_of_parameters_is_the_official_one_without_those_that_have_no_effect() -> None:
    model = build(composed("model=cg_detr").model, video_dim=768, text_dim=1024, levels=1)
    positions, projection = (32 + 2) * 256, 2 * 1024 + (1024 + 1) * 256
    assert sum(p.numel() for p in model.parameters()) == 12_351_275 - positions - projection
    assert sizes("cg_detr")["hyper_parameters"]["num_dummies"] == len(model.dummies.tokens)
