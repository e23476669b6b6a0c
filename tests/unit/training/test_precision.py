"""Training in bfloat16 learns as in float32: the two curves differ less than half as much as those of two seeds."""

from pathlib import Path

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf

from helpers.corpus import make_corpus, make_rows
from sdst.bench.workload import Shape, Workload
from sdst.config.build import build
from sdst.config.compose import compose
from sdst.config.schema import TrainConfig
from sdst.data.datamodule import GroundingDataModule

SHAPE = Shape(batch=1, clips=6, tokens=4, queries=4, levels=2, video_dim=16, text_dim=16)
SEEDS = (0, 1, 2)
EPOCHS, BETWEEN = 12, 3


def curve(overrides: list[str], data: GroundingDataModule) -> list[float]:
    """The loss over all queries, in float32 and without dropout, before the training and every few epochs."""
    workload = Workload(overrides, SHAPE)
    loader = data.train_dataloader()

    def loss_of_all() -> float:
        workload.module.eval()
        with torch.no_grad():
            losses = [
                workload.module.criterion(workload.module(batch), batch)[0] for batch in data.loader("val")
            ]
        workload.module.train()
        return float(torch.stack(losses).mean())

    values = [loss_of_all()]
    for epoch in range(1, EPOCHS + 1):
        loader.sampler.set_epoch(epoch)
        for batch in loader:
            workload.batch = batch
            workload.step()
        if epoch % BETWEEN == 0:
            values.append(loss_of_all())
    return values


@pytest.mark.slow
def test_bfloat16_learns_as_float32_does_within_the_noise_of_seeds(tmp_path: Path) -> None:
    rows = make_rows("train", 16)
    learn = ["optim.lr=3e-3", "optim.warmup_ratio=1", "model.dropout=0.1", "data.batch_size=8"]
    overrides = [*make_corpus(tmp_path, {"train": rows, "val": rows}).overrides, *learn]
    config = compose([*overrides, "run_dir=none"])
    OmegaConf.resolve(config)
    options = OmegaConf.to_object(config)
    assert isinstance(options, TrainConfig)
    data = build(config.data, levels=options.levels, seed=0)
    full, half = (
        np.array([curve([*overrides, f"seed={seed}", f"trainer.precision={name}"], data) for seed in SEEDS])
        for name in ("32-true", "bf16-mixed")
    )
    assert (full[:, -1] < 0.6 * full[:, 0]).all()
    assert not np.array_equal(half[:, -1], full[:, -1])
    noise = full.std(axis=0, ddof=1)
    assert np.abs(half - full)[:, 1:].mean() < noise[1:].mean() / 2
