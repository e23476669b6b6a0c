"""With the official weights, the DETR methods have outputs, losses, gradients and predictions of the official code.

The oracles' dropout is 0. The batch without padding is compared as a whole; each sample of the padded batch, whose
official results depend on its neighbours, with the official result for it alone.
"""

import importlib
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from helpers.composed import composed
from helpers.peers import (
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
from sdst.config.checks import resolve_auto_options
from sdst.errors import UserError
from sdst.models.decoding import decode

pytestmark = needs_shared
METHODS = ["moment_detr", "qd_detr", "cg_detr", "tr_detr", "bam_detr"]
OUTPUTS = {"atol": 1e-4, "rtol": 1e-4}
GRADIENTS = {"atol": 2e-4, "rtol": 2e-4}
TERMS = {
    "cls": "loss_label",
    "l1": "loss_span",
    "iou": "loss_giou",
    "act": "loss_quality",
    "sal": "loss_saliency",
    "align": "loss_ms_align",
    "ortho": "loss_orthogonal_dummy",
}
"""Term -> its official name, where that is not ``loss_TERM``."""


def method(name: str) -> Any:
    return importlib.import_module(f"sdst.baselines.{name}")


def official_model(name: str) -> nn.Module:
    model = tiny_model(name)
    model.load_state_dict(method(name).convert_official(official_weights(name)))
    return model.eval()


def class_logits(io: dict[str, Tensor], prefix: str) -> Tensor:
    """Logit of "is a moment", which is that of the quality where the official code ranks by it."""
    if f"{prefix}quality" in io:
        return io[f"{prefix}quality"].squeeze(-1).logit()
    logits = io[f"{prefix}logits"]
    return logits[..., 0] - logits[..., 1]


@pytest.mark.parametrize("name", METHODS)
@torch.no_grad()
def test_outputs_equal_the_official_outputs(name: str) -> None:
    io = oracle(name)
    batch = official_batch(io)
    output = official_model(name).train()(*batch.inputs(), labels=batch)
    layers = [*(f"aux{i}.pred_" for i in range(output.class_logits.shape[1] - 1)), "pred_"]
    for k, layer in enumerate(layers):
        torch.testing.assert_close(output.class_logits[:, k], class_logits(io, f"out.{layer}"), **OUTPUTS)
        torch.testing.assert_close(output.references[:, k], io[f"out.{layer}spans"], **OUTPUTS)
    torch.testing.assert_close(output.saliency, io["out.saliency_scores"], **OUTPUTS)
    if "out.saliency_scores_neg" in io:
        rows = getattr(output, "has_negative", slice(None))
        torch.testing.assert_close(output.negative_saliency[rows], io["out.saliency_scores_neg"], **OUTPUTS)


@pytest.mark.parametrize("name", METHODS)
def test_losses_matching_and_gradients_equal_the_official_ones(name: str) -> None:
    io = oracle(name)
    batch, model = official_batch(io), official_model(name).train()
    criterion = criterion_of(name, model)
    output = model(*batch.inputs(), labels=batch)
    by_level = criterion.by_level(output, batch)
    total, _ = criterion.combine(by_level)
    if "attn" in by_level:  # part of the official term, which misses ranks of a single sample
        missed = lone_ranks(output, batch)
        by_level["sal"] = by_level["sal"] + by_level.pop("attn") - missed
        total = total - criterion.weights["sal"] * missed
    for term, levels in by_level.items():
        official, values = TERMS.get(term, f"loss_{term}"), levels.reshape(-1)
        names = [*(f"{official}_{i}" for i in range(len(values) - 1)), official]
        torch.testing.assert_close(values, torch.cat([io[f"loss.{n}"] for n in names]), **OUTPUTS)
    torch.testing.assert_close(total, io["loss.total"][0], **OUTPUTS)

    assignment = criterion.assign(output, batch)
    for k in range(assignment.shape[1]):
        official_pairs = io["match.final" if k == assignment.shape[1] - 1 else f"match.aux{k}"]
        ours = [(int(b), int(m), int(assignment[b, k, m])) for b, m in (assignment[:, k] >= 0).nonzero()]
        assert sorted(ours) == sorted(tuple(pair) for pair in official_pairs.tolist())

    total.backward()
    official = {n.removeprefix("grad."): value for n, value in io.items() if n.startswith("grad.")}
    gradients = method(name).convert_official(official)
    parameters = dict(model.named_parameters())
    assert gradients
    for parameter, gradient in gradients.items():
        torch.testing.assert_close(parameters[parameter].grad, gradient, **GRADIENTS)
    norms = [p.grad.norm() if p.grad is not None else torch.tensor(0.0) for p in parameters.values()]
    torch.testing.assert_close(torch.stack(norms).norm(), io["grad_norm_total"][0], **GRADIENTS)


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("name", METHODS)
@torch.no_grad()
def test_each_sample_of_a_batch_equals_the_official_result_for_it_alone(name: str, padded: bool) -> None:
    io = oracle(name, padded=padded)
    batch, model = official_batch(io), official_model(name)
    output = model(*batch.inputs())
    config = composed(f"model={name}", "decode.round_to=null", "decode.nms=none", "run_dir=x").copy()
    resolve_auto_options(config)
    predictions = decode(output, batch, config.decode)
    for i, prediction in enumerate(predictions):
        clips = int(batch.video_mask[i].sum())
        (logits,) = class_logits(io, f"single{i}.pred_")
        torch.testing.assert_close(output.class_logits[i, -1], logits, **OUTPUTS)
        torch.testing.assert_close(output.references[i, -1], io[f"single{i}.pred_spans"][0], **OUTPUTS)
        saliency = io[f"single{i}.saliency_scores"][0]
        torch.testing.assert_close(output.saliency[i, :clips], saliency, **OUTPUTS)
        windows = io[f"single{i}.windows_before_rounding"].clone()
        windows[:, :2] = windows[:, :2].clamp(min=0, max=batch.records[i].duration)
        np.testing.assert_allclose(prediction.windows, windows, atol=2e-3)
        alone = model(*sample(batch, i).inputs())
        torch.testing.assert_close(alone.class_logits[0], output.class_logits[i], **OUTPUTS)


@pytest.mark.parametrize("name", METHODS)
def test_every_official_weight_is_converted_exactly_once(name: str) -> None:
    weights, module = official_weights(name), method(name)
    converted = module.convert_official(weights)
    assert converted.keys() == tiny_model(name).state_dict().keys()
    unused = {weight for weight in weights if weight.startswith(module.OFFICIAL_UNUSED)}
    assert len(converted) + len(unused) == len(weights)
    second_names = weights.keys() - set(sizes(name)["parameter_names"])
    assert unused <= {
        *sizes(name)["parameters_without_gradient"],
        *sizes(name)["parameters_with_zero_gradient"],
        *second_names,
    }
    with pytest.raises(UserError, match=r"unknown weight new\.weight"):
        module.convert_official(weights | {"new.weight": torch.zeros(1)})
