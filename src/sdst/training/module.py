"""The LightningModule: steps, logging, optimizers around a model and its losses; and how it is built."""

from __future__ import annotations

import logging
import math
from typing import TYPE_CHECKING, Any

import lightning as L
import numpy as np
import torch
from omegaconf import OmegaConf

from sdst.baselines.detr.model import DetrModel
from sdst.config.schema import Decoding
from sdst.config.stored import as_config
from sdst.errors import UserError
from sdst.losses.criterion import Criterion
from sdst.metrics.collector import PredictionCollector
from sdst.models.decoding import decode
from sdst.models.sdst import SDST
from sdst.training.checkpoint import build_model, contents, load
from sdst.training.complete import as_options, complete
from sdst.training.gather import gather, pad_alike, world_size
from sdst.training.optim import make_optimizer
from sdst.untrusted.checkpoint import KEY

if TYPE_CHECKING:
    from pathlib import Path

    from lightning.pytorch.utilities.types import OptimizerLRScheduler
    from omegaconf import DictConfig
    from torch import Tensor, nn

    from sdst.config.schema import Optimization, TrainConfig
    from sdst.types import Batch, Output, Prediction, Qid


logger = logging.getLogger(__name__)

OLDEST_FOR_GRAPHS = (7, 0)
"""Compute capability that the kernels of ``compile=inductor`` need."""
SHOWN_METRICS = ("MR-full-R1@0.5", "MR-full-mAP", "HL-min-VeryGood-mAP", "mAP")
"""Metrics that the progress bar shows; all others are logged too."""


class GroundingModule(L.LightningModule):
    """Trains and evaluates any model that maps a batch's tensors to an ``Output``.

    Args:
        model: Called with (video, video_mask, text, text_mask, num_clips).
        criterion: Losses and their weights.
        optimization: Optimizer and schedule.
        decoding: Options of decoding outputs to predictions.
        dataset: Data set whose metrics are computed.
        split: Split that validation evaluates; the prefix of its metrics. Tests log under ``test``.
        seed: Seed of dropout and stochastic depth.
        config: The resolved configuration, for the checkpoint.
        recipe: How the features were made, for the checkpoint.

    Attributes:
        metrics: Metrics of the last evaluation; empty without labels.
        predictions: Predictions of the last evaluation, of all processes.
        qids: Queries of the current batch.
    """

    def __init__(
        self,
        model: nn.Module,
        criterion: Criterion,
        optimization: Optimization,
        decoding: Decoding,
        *,
        dataset: str,
        split: str,
        seed: int,
        config: dict[str, Any],
        recipe: dict[str, Any],
    ) -> None:
        super().__init__()
        self.model = model
        self.criterion = criterion
        self.optimization = optimization
        self.decoding = decoding
        self.split = split
        self.seed = seed
        self.collector = PredictionCollector(dataset)
        self.contents = contents(config, recipe)
        self.metrics: dict[str, Any] = {}
        self.predictions: list[Prediction] = []
        self.qids: list[Qid] = []

    def forward(self, batch: Batch) -> Output:
        """The model's output for a batch; in training some models read the labels too."""
        truth: dict[str, Any] = {}
        if self.training and isinstance(self.model, SDST) and self.model.denoising.groups:
            truth = {"truth": (batch.moments, batch.moment_mask)}
        elif self.training and isinstance(self.model, DetrModel):
            truth = {"labels": batch}
        output: Output = self.model(*batch.inputs(), **truth)
        return output

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        """Seed this batch's dropout by its place in the run, so that a resumed run draws the same."""
        entropy = [self.seed, self.current_epoch, batch_idx, self.global_rank]
        torch.manual_seed(int(np.random.SeedSequence(entropy).generate_state(1)[0]))

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """One step. Logs the loss, and at logged steps every unweighted term, also by level, and the learning rate.

        ``LearningRateMonitor`` would write the rate to a row of its own in the CSV log, without its epoch, and would
        log nothing in a script that does not add it.
        """
        self.qids = [record.qid for record in batch.records]
        batch = pad_alike(batch)
        output, batch = gather(self(batch), batch)
        self.qids = [record.qid for record in batch.records]
        by_level = self.criterion.by_level(output, batch)
        total, terms = self.criterion.combine(by_level)
        self.log("train/loss", total, batch_size=len(batch), prog_bar=True)
        # Lightning's bookkeeping of so many values takes a tenth of a small model's step.
        every: int = self.trainer.log_every_n_steps  # type: ignore[attr-defined]  # set by its logger connector
        if (self.global_step + 1) % every == 0:
            logged = {f"train/loss_{name}": term for name, term in terms.items()}
            for name, values in by_level.items():
                if values.dim():
                    # Proposals come before level 1.
                    first = (
                        0 if output.proposal_logits is not None and len(values) > output.text.shape[1] else 1
                    )
                    logged |= {f"train/level_{first + k}/{name}": value for k, value in enumerate(values)}
            logged["lr"] = torch.tensor(self.trainer.optimizers[0].param_groups[0]["lr"])
            self.log_dict(logged, batch_size=len(batch))
        return total * world_size()

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Predict a batch of the split that validation evaluates, and log its loss if it has labels."""
        self._evaluate_batch(batch, self.split)

    def on_validation_epoch_end(self) -> None:
        """Evaluate the split and log the metrics of its table."""
        self._evaluate_split(self.split)

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        """Predict a batch of the test split, and log its loss if it has labels."""
        self._evaluate_batch(batch, "test")

    def on_test_epoch_end(self) -> None:
        """Evaluate the test split and log the metrics of its table."""
        self._evaluate_split("test")

    def predict_step(self, batch: Batch, batch_idx: int) -> list[Prediction]:
        """One prediction per query of the batch."""
        return decode(self(batch), batch, self.decoding)

    def _evaluate_batch(self, batch: Batch, prefix: str) -> None:
        self.qids = [record.qid for record in batch.records]
        output = self(batch)
        self.collector.update(decode(output, batch, self.decoding), batch.records)
        if all(record.is_labelled for record in batch.records):
            total, _ = self.criterion(output, batch)
            self.log(f"{prefix}/loss", total, batch_size=len(batch), on_epoch=True, sync_dist=True)

    def _evaluate_split(self, prefix: str) -> None:
        self.metrics = self.collector.compute()
        self.predictions, _ = self.collector.gather()
        self.collector.reset()
        # All processes computed the same numbers from the same gathered rows.
        for key, value in self.metrics.get("brief", {}).items():
            if value is not None:
                self.log(f"{prefix}/{key}", value, prog_bar=key in SHOWN_METRICS)

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """AdamW over the model's parameters, scheduled by the step."""
        _ = self.trainer.estimated_stepping_batches  # the trainer counts its batches
        steps = math.ceil(self.trainer.num_training_batches / self.trainer.accumulate_grad_batches)
        optimizer, schedule = make_optimizer(self.optimization, self.model.parameters(), steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    @classmethod
    def load_from_checkpoint(cls, checkpoint_path: str | Path, map_location: Any = None) -> GroundingModule:  # type: ignore[override]  # a checkpoint holds its own arguments
        """The module of a checkpoint with its weights, in evaluation mode, for any ``Trainer``.

        Args:
            checkpoint_path: A checkpoint, or a run folder for its best one.
            map_location: Device of the weights; None for the CPU.

        Raises:
            UserError: The file is missing, not a checkpoint of this project, or its weights do not fit.
        """
        model, config, recipe = load(checkpoint_path)
        module = make_module(as_config(config, checkpoint_path), recipe)
        module.model.load_state_dict(model.state_dict())
        return module.to(map_location or "cpu").eval()

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add the configuration and the recipe as plain values, so that a checkpoint is enough to predict."""
        checkpoint[KEY] = self.contents


def make_module(config: DictConfig, recipe: dict[str, Any]) -> GroundingModule:
    """The untrained model with its losses, optimisation and decoding.

    Args:
        config: A composed configuration.
        recipe: How the features were made: ``recipe`` of the data module.

    Raises:
        UserError: An option is bad.
    """
    config = complete(config)
    options = as_options(config)
    plain: Any = OmegaConf.to_container(config)
    model = build_model(plain, recipe)
    if options.recompute:
        if not isinstance(model, SDST):
            raise UserError(f"recompute: {type(model).__name__} keeps all its activations; leave it false")
        model.recompute = True
    if options.compile is not None:
        model.compile(backend=options.compile, mode=_compile_mode(options, config.trainer.accelerator))
    loss = options.loss
    # A method with its own losses names their class as ``criterion``; SDST and R2-Tuning's heads share one.
    criterion_type: type[Criterion] = getattr(model, "criterion", Criterion)
    criterion = criterion_type(
        loss.weights,
        match_weights=loss.match_weights,
        alpha=loss.alpha,
        gamma=loss.gamma,
        temperature=loss.temperature,
        over_levels=loss.over_levels,
    )
    return GroundingModule(
        model,
        criterion,
        options.optim,
        options.decode,
        dataset=config.data.name,
        split=options.select.split,
        seed=options.seed,
        config=plain,
        recipe=recipe,
    )


def _compile_mode(options: TrainConfig, accelerator: str) -> str | None:
    """The mode of ``torch.compile``; where CUDA graphs cannot be used it is None, and a log line says why."""
    if options.compile_mode is None:
        return None
    lacking = ""
    if accelerator == "cpu" or not torch.cuda.is_available():
        lacking = "training is on the CPU"
    elif torch.version.cuda is None or torch.cuda.get_device_capability() < OLDEST_FOR_GRAPHS:
        lacking = f"{torch.cuda.get_device_name()} is not a GPU that torch.compile captures"
    if lacking:
        logger.info("compile_mode=%s has no effect, because %s", options.compile_mode, lacking)
        return None
    return options.compile_mode
