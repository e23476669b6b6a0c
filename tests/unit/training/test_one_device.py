"""A step stays on its device, and a GPU would be waited for in matching only.

The "meta" device stands in for a GPU: it has shapes but no values. So it refuses whatever would wait for a GPU (copying
to the CPU, ``item``, shapes that depend on values) and tensors of two devices in one operation.
"""

import contextlib
from typing import Any

import pytest
import torch
from torch import Tensor

from helpers.tiny_baselines import ALL_MODELS
from sdst.bench.workload import Shape, Workload
from sdst.config.compose import conf_dir

SHAPE = Shape(batch=3, clips=12, tokens=4, queries=5, levels=2, video_dim=6, text_dim=5)
SMALL = ["trainer=cpu", "model.dim=16", "model.heads=2"]
ATTENTIONS = sorted(path.stem for path in (conf_dir() / "attention").glob("*.yaml"))
SDST_VARIANTS = [
    *(f"attention={name}" for name in ATTENTIONS),
    "model.denoising_groups=2",
    "model.places=true",
    "model.references=random",
    "model.sharing=false",
    "levels.source=last",
    "recompute=true",
]


@pytest.fixture(autouse=True)
def on_meta(monkeypatch: pytest.MonkeyPatch) -> None:
    """Replace what the device lacks: values to match, and autocast, which does nothing to shapes."""

    def assign(matching_cost: Tensor, moment_mask: Tensor) -> Tensor:
        assert matching_cost.device == moment_mask.device
        return torch.empty(matching_cost.shape[:3], dtype=torch.long, device=matching_cost.device)

    def no_autocast(*_: Any, **__: Any) -> contextlib.AbstractContextManager[None]:
        return contextlib.nullcontext()

    for module in ("losses.matcher", "baselines.detr.criterion", "baselines.sg_detr"):
        monkeypatch.setattr(f"sdst.{module}.assign", assign)
    monkeypatch.setattr(torch, "autocast", no_autocast)


def step(*overrides: str) -> None:
    workload = Workload([*SMALL, *overrides], SHAPE)
    module, batch = workload.module.to("meta").train(), workload.batch.to("meta")
    total, _ = module.criterion(module(batch), batch)
    assert total.device.type == "meta"
    total.backward()
    assert any(parameter.grad is not None for parameter in module.parameters())


@pytest.mark.parametrize("variant", SDST_VARIANTS)
def test_a_step_of_sdst_waits_in_matching_only(variant: str) -> None:
    step(*variant.split())


@pytest.mark.parametrize("variant", [*ALL_MODELS, "sg_detr model.second_head=true"])
def test_a_step_of_any_other_model_waits_in_matching_only(variant: str) -> None:
    step(*f"model={variant}".split())


@torch.no_grad()
@pytest.mark.parametrize("name", ["sdst", *ALL_MODELS])
def test_no_prediction_waits(name: str) -> None:
    workload = Workload([*SMALL, f"model={name}"], SHAPE)
    module, batch = workload.module.to("meta").eval(), workload.batch.to("meta")
    output = module(batch)
    assert output.references.device.type == output.saliency.device.type == "meta"


def test_a_wait_and_a_second_device_are_refused() -> None:
    values = torch.ones(3, device="meta")
    for wait in (lambda: values.cpu(), lambda: values.sum().item(), lambda: values[values > 0]):
        with pytest.raises((NotImplementedError, RuntimeError)):
            wait()
    with pytest.raises(RuntimeError, match="not on the expected device"):
        values + torch.ones(3)
