"""With the official weights, UniVTG has outputs, losses, gradients and predictions of the official code.

The oracles' dropout is 0. The batch without padding is compared as a whole; each sample of the padded batch, in which
the official convolutions read padding, with the official result for it alone.
"""

import numpy as np
import pytest
import torch
from torch import nn

from helpers.composed import composed
from helpers.peers import criterion_of, official_batch, official_weights, oracle, sample, sizes, tiny_model
from helpers.shared_data import needs_shared
from sdst.baselines.univtg import OFFICIAL_UNUSED, assign_clips, convert_official
from sdst.config.checks import resolve_auto_options
from sdst.errors import UserError
from sdst.models.decoding import decode
from sdst.spans import cw_to_se

pytestmark = needs_shared
OUTPUTS = {"atol": 1e-4, "rtol": 1e-4}
GRADIENTS = {"atol": 2e-4, "rtol": 2e-4}
TERMS = {"cls": "f", "l1": "b", "iou": "g", "inter": "s_inter", "intra": "s_intra"}
"""Term -> its official name."""


def tiny() -> nn.Module:
    """The model at the oracle's width; its feed-forward networks are not a multiple of it."""
    model = tiny_model("univtg")
    width, hidden = (sizes("univtg")["hyper_parameters"][name] for name in ("hidden_dim", "dim_feedforward"))
    for layer in model.encoder:
        layer.ffn.linear1, layer.ffn.linear2 = nn.Linear(width, hidden), nn.Linear(hidden, width)
    return model


def official_model() -> nn.Module:
    model = tiny()
    model.load_state_dict(convert_official(official_weights("univtg")))
    return model.eval()


@torch.no_grad()
def test_outputs_equal_the_official_outputs() -> None:
    io = oracle("univtg")
    batch = official_batch(io)
    output = official_model().train()(*batch.inputs(), labels=batch)
    probability = io["out.pred_logits"][..., 0]
    torch.testing.assert_close(output.class_logits[:, 0].sigmoid(), probability, **OUTPUTS)
    offsets = cw_to_se(output.references[:, 0]) - io["target.timestamp"]
    torch.testing.assert_close(offsets, io["out.pred_spans"], **OUTPUTS)
    torch.testing.assert_close(output.saliency - probability, io["out.saliency_scores"], **OUTPUTS)
    torch.testing.assert_close(output.dense, io["out.vid_mem_proj"], **OUTPUTS)
    torch.testing.assert_close(output.query, io["out.txt_mem_proj"][:, 0], **OUTPUTS)


@pytest.mark.parametrize("padded", [False, True])
@torch.no_grad()
def test_points_and_their_moments_equal_the_official_ones(padded: bool) -> None:
    io = oracle("univtg", padded=padded)
    batch = official_batch(io)
    anchors = official_model()(*batch.inputs()).anchors
    times = anchors.position / batch.num_clips[:, None] * anchors.mask
    torch.testing.assert_close(times, io["target.timestamp"][..., 0])
    assignment = assign_clips(anchors, batch)
    assert torch.equal(assignment >= 0, io["target.timestamp_window"].bool())
    moments = batch.moments.gather(1, assignment.clamp(min=0)[..., None].expand(-1, -1, 2))
    expected = cw_to_se(moments).where(assignment[..., None] >= 0, 0)
    torch.testing.assert_close(expected, io["target.span_labels_nn"], atol=1e-6, rtol=0)


def test_losses_and_gradients_equal_the_official_ones() -> None:
    io = oracle("univtg")
    batch, model = official_batch(io), official_model().train()
    criterion = criterion_of("univtg", model)
    total, terms = criterion(model(*batch.inputs(), labels=batch), batch)
    assert terms.keys() == TERMS.keys()
    for term, official in TERMS.items():
        torch.testing.assert_close(terms[term], io[f"loss.loss_{official}"][0], **OUTPUTS)
    torch.testing.assert_close(total, io["loss.total"][0], **OUTPUTS)

    total.backward()
    stored = {n.removeprefix("grad."): value for n, value in io.items() if n.startswith("grad.")}
    parameters = dict(model.named_parameters())
    assert stored
    for parameter, gradient in convert_official(stored).items():
        torch.testing.assert_close(parameters[parameter].grad, gradient, **GRADIENTS)
    norms = [p.grad.norm() for p in parameters.values()]
    torch.testing.assert_close(torch.stack(norms).norm(), io["grad_norm_total"][0], **GRADIENTS)
    for official, norm in zip(sizes("univtg")["parameter_names"], io["grad_norms"], strict=True):
        for name in convert_official({official: torch.zeros(1)}):
            torch.testing.assert_close(parameters[name].grad.norm(), norm, **GRADIENTS)


@pytest.mark.parametrize("padded", [False, True])
@torch.no_grad()
def test_each_sample_of_a_batch_equals_the_official_result_for_it_alone(padded: bool) -> None:
    io = oracle("univtg", padded=padded)
    batch, model = official_batch(io), official_model()
    output = model(*batch.inputs())
    config = composed("model=univtg", "run_dir=x").copy()
    resolve_auto_options(config)
    assert config.decode.round_to is None
    predictions = decode(output, batch, config.decode)
    for i, prediction in enumerate(predictions):
        clips = int(batch.video_mask[i].sum())
        probability = io[f"single{i}.pred_logits"][0, :, 0]
        torch.testing.assert_close(output.class_logits[i, 0, :clips].sigmoid(), probability, **OUTPUTS)
        offsets = cw_to_se(output.references[i, 0, :clips]) - io["target.timestamp"][i, :clips]
        torch.testing.assert_close(offsets, io[f"single{i}.pred_spans"][0], **OUTPUTS)
        np.testing.assert_allclose(prediction.saliency, io[f"single{i}.saliency_submission"], atol=1e-3)
        np.testing.assert_allclose(prediction.windows, io[f"single{i}.windows_nms"], atol=2e-3)
        alone = model(*sample(batch, i).inputs())
        torch.testing.assert_close(alone.class_logits[0], output.class_logits[i, :, :clips], **OUTPUTS)


def test_losses_of_a_padded_batch_are_those_of_its_samples_alone() -> None:
    batch, model = official_batch(oracle("univtg", padded=True)), official_model().train()
    criterion = criterion_of("univtg", model)
    together = criterion.by_level(model(*batch.inputs(), labels=batch), batch)
    expected, points = (
        dict.fromkeys(("cls", "l1", "iou"), torch.tensor(0.0)),
        dict.fromkeys(("cls", "l1", "iou"), 0),
    )
    for i in range(len(batch)):
        one = sample(batch, i)
        output = model(*one.inputs(), labels=one)
        terms = criterion.by_level(output, one)
        foreground = int((assign_clips(output.anchors, one) >= 0).sum())
        for term, count in {"cls": int(one.video_mask.sum()), "l1": foreground, "iou": foreground}.items():
            expected[term] = expected[term] + terms[term] * count
            points[term] += count
    for term, value in expected.items():
        torch.testing.assert_close(together[term], value / points[term], **OUTPUTS)


def test_every_official_weight_is_converted_exactly_once() -> None:
    weights = official_weights("univtg")
    converted = convert_official(weights)
    assert converted.keys() == tiny().state_dict().keys()
    unused = [weight for weight in weights if weight.startswith(OFFICIAL_UNUSED)]
    assert len(converted) + len(unused) == len(weights)
    assert set(unused) == set(sizes("univtg")["parameters_without_gradient"])
    with pytest.raises(UserError, match=r"unknown weight new\.weight"):
        convert_official(weights | {"new.weight": torch.zeros(1)})
