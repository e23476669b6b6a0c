"""With the official weights, FlashVTG has outputs, losses, gradients and predictions of the official code."""

import numpy as np
import pytest
import torch

from helpers.composed import composed
from helpers.peers import (
    CLIP_SECONDS,
    criterion_of,
    lone_ranks,
    official_batch,
    official_weights,
    oracle,
    sample,
    sizes,
    tiny_model,
)
from helpers.shared_data import needs_shared
from sdst.baselines.flash_vtg import OFFICIAL_UNUSED, FlashVTG, convert_official
from sdst.config.build import build
from sdst.config.checks import resolve_auto_options
from sdst.errors import UserError
from sdst.losses.points import assign_points
from sdst.models.decoding import decode
from sdst.spans import cw_to_se

pytestmark = needs_shared
OUTPUTS = {"atol": 1e-4, "rtol": 1e-4}
GRADIENTS = {"atol": 2e-4, "rtol": 2e-4}
TERMS = {"cls": "loss_cls", "l1": "loss_reg", "nce": "loss_sal", "label": "loss_label"}


def official_model() -> FlashVTG:
    model = tiny_model("flash_vtg")
    model.load_state_dict(convert_official(official_weights("flash_vtg")))
    return model.eval()


@torch.no_grad()
def test_outputs_in_training_equal_the_official_outputs() -> None:
    io = oracle("flash_vtg")
    batch = official_batch(io)
    output = official_model().train()(*batch.inputs(), labels=batch)
    start, end = (cw_to_se(output.references[:, 0]) * batch.num_clips.view(-1, 1, 1)).unbind(dim=-1)
    position, stride = output.anchors.position, output.anchors.stride
    real = output.has_negative
    torch.testing.assert_close(real, io["train_out.real_neg_mask"].bool())
    points = torch.cat([position[:, None], output.anchors.reach, stride[:, None]], dim=1)
    torch.testing.assert_close(points, io["train_out.point"])
    for ours, official in (
        (output.class_logits[:, 0], io["train_out.out_class"][..., 0]),
        (
            torch.stack([position - start, end - position], dim=-1) / stride[:, None],
            io["train_out.out_coord"],
        ),
        (output.saliency, io["train_out.saliency_scores"]),
        (output.negative_saliency[real], io["train_out.saliency_scores_neg"]),
        (output.attention, io["train_out.t2vattnvalues"]),
        (output.negative_attention[real], io["train_out.t2vattnvalues_neg"]),
        (output.dense, io["train_out.video_emb"]),
        (output.query, io["train_out.query_emb"][:, 0]),
    ):
        torch.testing.assert_close(ours, official, **OUTPUTS)


def test_losses_points_and_gradients_equal_the_official_ones() -> None:
    io = oracle("flash_vtg")
    batch, model = official_batch(io), official_model().train()
    output = model(*batch.inputs(), labels=batch)
    assignment = assign_points(output.anchors, batch.moments, batch.moment_mask, batch.num_clips)
    torch.testing.assert_close((assignment >= 0).float(), io["assign.class_target"])

    criterion = criterion_of("flash_vtg", model)
    criterion.weights["label"] = 1.0  # 0 in this configuration
    by_level = criterion.by_level(output, batch)
    for term, official in TERMS.items():
        torch.testing.assert_close(by_level[term], io[f"loss.{official}"][0], **OUTPUTS)
    missed = lone_ranks(output, batch)
    saliency = by_level["sal"] + by_level["attn"] - missed
    torch.testing.assert_close(saliency, io["loss.loss_saliency"][0], **OUTPUTS)
    total = criterion.combine(by_level)[0] - by_level["label"] - criterion.weights["sal"] * missed
    torch.testing.assert_close(total, io["loss.total"][0], **OUTPUTS)

    total.backward()
    official = {n.removeprefix("grad."): value for n, value in io.items() if n.startswith("grad.")}
    gradients = convert_official(official)
    parameters = dict(model.named_parameters())
    assert gradients
    for parameter, gradient in gradients.items():
        torch.testing.assert_close(parameters[parameter].grad, gradient, **GRADIENTS)
    norms = torch.stack([p.grad.norm() for p in parameters.values()])
    torch.testing.assert_close(norms.norm(), io["grad_norm_total"][0], **GRADIENTS)


@pytest.mark.parametrize("padded", [False, True])
@torch.no_grad()
def test_each_sample_of_a_batch_equals_the_official_result_for_it_alone(padded: bool) -> None:
    io = oracle("flash_vtg", padded=padded)
    batch, model = official_batch(io), official_model()
    # The official code converts clips to seconds by their length, not by the duration.
    batch.num_clips = torch.tensor([record.duration for record in batch.records]) / CLIP_SECONDS
    output = model(*batch.inputs())
    config = composed("model=flash_vtg", "run_dir=x").copy()
    resolve_auto_options(config)
    final = decode(output, batch, config.decode)
    config.decode.nms, config.decode.round_to = "none", None
    raw = decode(output, batch, config.decode)
    for i, record in enumerate(batch.records):
        clips = int(batch.video_mask[i].sum())
        for ours, official in (
            (output.saliency, io[f"single{i}.saliency_scores"]),
            (output.attention, io[f"single{i}.t2vattnvalues"]),
        ):
            torch.testing.assert_close(ours[i, :clips], official[0], **OUTPUTS)
        boundary = io[f"single{i}.boundary"].clone()
        boundary[:, :2] = boundary[:, :2].clamp(min=0, max=record.duration)
        np.testing.assert_allclose(raw[i].windows, boundary, atol=2e-3)
        suppressed = io[f"single{i}.windows_nms"]
        left = suppressed[suppressed[:, 2] > 0]
        np.testing.assert_allclose(final[i].windows[: len(left)], left, atol=2e-4)
        assert (final[i].windows[len(left) :, 2] == 0).all()
        alone = model(*sample(batch, i).inputs())
        torch.testing.assert_close(
            alone.class_logits[0, 0], output.class_logits[i, 0][output.anchors.mask[i]], **OUTPUTS
        )


def test_every_official_weight_is_converted_exactly_once() -> None:
    weights = official_weights("flash_vtg")
    converted = convert_official(weights)
    assert converted.keys() == tiny_model("flash_vtg").state_dict().keys()
    unused = [weight for weight in weights if weight.startswith(OFFICIAL_UNUSED)]
    assert len(converted) + len(unused) == len(weights)
    assert set(unused) <= set(sizes("flash_vtg")["parameters_without_gradient"])
    with pytest.raises(UserError, match=r"unknown weight new\.weight"):
        convert_official(weights | {"new.weight": torch.zeros(1)})


def test_the_number_of_parameters_is_the_official_one_without_those_that_have_no_effect() -> None:
    model = build(composed("model=flash_vtg").model, video_dim=768, text_dim=1024, levels=1)
    positions = (40 + 2) * 256
    assert sum(p.numel() for p in model.parameters()) == 10_600_473 - positions
