"""Results of every method on the device against the CPU in float32, and a few training steps of each."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from sdst.bench.gpu.processes import one_line
from sdst.bench.workload import AUTOCAST, Workload
from sdst.config.compose import group_choices
from sdst.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor

    from sdst.bench.gpu.settings import Settings
    from sdst.bench.report import Row

TOLERANCES = {"32-true": 1e-4, "16-mixed": 1e-2, "bf16-mixed": 5e-2}
"""``trainer.precision`` -> largest difference from the CPU in float32.

In half precision it is a median, not a norm, because rounding may flip a choice: a proposal, or the match of a query.
"""
GRADIENT_TOLERANCE = 1e-3
"""The same for all gradients together, in float32 alone."""
COMPARED = ("class_logits", "references", "saliency", "actionness")
"""Fields of the output that predictions are made of."""
NOISE = 0.02
"""Noise added to every parameter, because those that start at 0 would hide errors."""
STEPS = 2
"""Training steps of each method on the device."""


def agreement(settings: Settings, seconds: float) -> Iterator[Row]:
    """One row per method: its differences from the CPU in each precision, in evaluation mode.

    Products and convolutions in float32 use no TF32 here; in training, convolutions do, which is PyTorch's default.

    Raises:
        UserError: A method differs by more than the tolerances, or fails.
    """
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    models = group_choices()["model"]
    wrong: dict[str, str] = {}
    for model in models:
        try:
            row = compare(settings, model)
        except Exception as error:  # the other methods are compared all the same
            row = {"failed": one_line(error)}
        too_large = [
            f"{name} {row[name]:.1g} > {tolerance:g}"
            for name, tolerance in {**TOLERANCES, "gradient": GRADIENT_TOLERANCE}.items()
            if name in row and not row[name] <= tolerance  # also NaN
        ]
        if "failed" in row or too_large:
            wrong[model] = row.get("failed") or ", ".join(too_large)
        yield {"case": model, **row}
    if wrong:
        reasons = "; ".join(f"{model}: {reason}" for model, reason in wrong.items())
        raise UserError(f"{len(wrong)} of {len(models)} methods: {reasons}")


def compare(settings: Settings, model: str) -> Row:
    """Differences of one method, and its loss after some steps in the precision that training chooses."""
    overrides = [f"model={model}", *settings.sizes.model]
    if model == "sdst":
        overrides.extend(settings.sizes.sdst)
    reference = Workload([*overrides, "trainer.accelerator=cpu"], settings.sizes.check)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in reference.module.parameters():
            parameter.add_(NOISE * torch.randn(parameter.shape, generator=generator))
    there = Workload([*overrides, settings.accelerator], settings.sizes.check)
    there.module.load_state_dict(reference.module.state_dict())
    expected, expected_gradient = results(reference, torch.float32, gradient=True)
    row: Row = {}
    for precision in TOLERANCES:
        in_full = precision == "32-true"
        found, gradient = results(there, AUTOCAST.get(precision, torch.float32), gradient=in_full)
        measure = difference if in_full else half_difference
        row[precision] = max(measure(found[name], expected[name]) for name in expected)
        if in_full:
            row["gradient"] = difference(gradient, expected_gradient)
    there.dtype = AUTOCAST["16-mixed"] if settings.device == "cuda" else torch.float32
    there.module.train()
    for _ in range(STEPS):
        there.step()
    row[f"loss_after_{STEPS}_steps"] = loss = float(there.loss())
    if loss != loss:
        raise UserError(f"the loss is not a number after {STEPS} steps")
    return row


def results(workload: Workload, dtype: torch.dtype, *, gradient: bool) -> tuple[dict[str, Tensor], Tensor]:
    """What predictions are made of, the loss, and all gradients in one vector (empty unless wanted), on the CPU."""
    workload.module.eval()
    workload.dtype = dtype
    workload.module.zero_grad()
    with torch.set_grad_enabled(gradient):
        output = workload.forward()
        loss = workload.module.criterion(output, workload.batch)[0]
    if gradient:
        torch.autograd.backward(loss)
    found = {name: value for name in COMPARED if (value := getattr(output, name)) is not None}
    found["saliency"] = found["saliency"].masked_fill(~workload.batch.video_mask, 0)
    if output.anchors is not None:
        found["class_logits"] = found["class_logits"].masked_fill(~output.anchors.mask[:, None], 0)
        found["references"] = found["references"].masked_fill(~output.anchors.mask[:, None, :, None], 0)
    found["loss"] = loss
    gradients = [
        parameter.grad.flatten() for parameter in workload.module.parameters() if parameter.grad is not None
    ]
    plain = {name: value.detach().float().cpu() for name, value in found.items()}
    return plain, torch.cat(gradients).cpu() if gradients else torch.empty(0)


def difference(found: Tensor, expected: Tensor) -> float:
    """Norm of the difference, relative to the norm of what is expected."""
    return float((found - expected).norm() / expected.norm().clamp(min=1e-12))


def half_difference(found: Tensor, expected: Tensor) -> float:
    """Median of the differences, relative to the root mean square of what is expected."""
    size = expected.square().mean().sqrt().clamp(min=1e-12)
    return float((found - expected).abs().median() / size)
