"""``sdst train``: compose the configuration, fit, evaluate the best checkpoint on every split, write the run folder."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import hydra
import lightning as L
import torch
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from lightning.pytorch.callbacks import Callback, ModelCheckpoint, RichProgressBar
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from sdst.baselines.trivial import whole_video
from sdst.checkpoint import build_model
from sdst.config import TrainConfig, build, compose, conf_dir, explain, register_schema
from sdst.errors import UserError
from sdst.jsonfiles import write_atomically
from sdst.losses.criterion import Criterion
from sdst.metrics.evaluation import evaluate
from sdst.module import GroundingModule
from sdst.predictions import write_predictions
from sdst.provenance import describe_run

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sdst.data.datamodule import GroundingDataModule

logger = logging.getLogger(__name__)

LAST = Path("checkpoints/last.ckpt")
BEST = Path("checkpoints/best.ckpt")


def main(argv: Sequence[str]) -> int:
    """Hydra application over conf/train.yaml; ``resume=latest`` or ``resume=FOLDER`` continues a run."""
    os.environ["HYDRA_FULL_ERROR"] = "1"  # exceptions reach us instead of Hydra's own report
    resumed = [arg.partition("=")[2] for arg in argv if arg.startswith("resume=")]
    try:
        if resumed and resumed[-1] not in ("", "null"):
            overrides = [arg for arg in argv if not arg.startswith("resume=")]
            run_dir, config = stored_run(resumed[-1], overrides)
            train(config, run_dir, resume=True)
        else:
            sys.argv = ["sdst train", *argv]
            _run_hydra()
    except (HydraException, OmegaConfBaseException) as error:
        raise explain(error) from error
    return 0


def _run_hydra() -> None:
    """One run, or all of a multirun; what is wrong with a job's input is told after the others are done."""
    refused: list[UserError] = []

    def job(config: DictConfig) -> None:
        run_dir = Path(HydraConfig.get().runtime.output_dir)
        try:
            train(config, run_dir)
        except UserError as error:
            refused.append(error)
            with contextlib.suppress(OSError):
                run_dir.rmdir()  # made by Hydra; stays where it holds anything

    register_schema()
    hydra.main(version_base="1.3", config_path=str(conf_dir().resolve()), config_name="train")(job)()
    if refused:
        raise UserError("; ".join(str(error) for error in refused))


def stored_run(resume: str, overrides: Sequence[str]) -> tuple[Path, DictConfig]:
    """Folder and configuration of the run to continue: as stored, with single values overridden.

    Raises:
        UserError: There is no such run, it is finished, or an override would make another run of it.
    """
    given = compose(overrides)
    if resume == "latest":
        unfinished = [
            path.parents[1]
            for path in Path(given.paths.runs).rglob(str(LAST))
            if not (path.parents[1] / "metrics.json").exists()
        ]
        if not unfinished:
            raise UserError(f"resume=latest: no unfinished run with a checkpoint below {given.paths.runs}")
        run_dir = max(unfinished, key=lambda folder: (folder / LAST).stat().st_mtime)
    else:
        run_dir = Path(resume)
    if not (run_dir / "config.yaml").is_file():
        raise UserError(f"resume={resume}: {run_dir} is no run folder (it has no config.yaml)")
    config = OmegaConf.merge(OmegaConf.structured(TrainConfig), OmegaConf.load(run_dir / "config.yaml"))
    assert isinstance(config, DictConfig)
    for key in (override.lstrip("+~").partition("=")[0] for override in overrides):
        value = OmegaConf.select(given, key)
        if not OmegaConf.is_config(value):
            OmegaConf.update(config, key, value)
        elif value != OmegaConf.select(config, key):
            raise UserError(f"resume={resume}: {run_dir} was made with another {key}; start a new run for it")
    return run_dir, config


def train(config: DictConfig, run_dir: Path, *, resume: bool = False) -> dict[str, Any]:
    """Fit, then evaluate the best checkpoint on every split that has annotations.

    All input is read and checked before anything is written or computed.

    Args:
        config: A composed configuration (see :func:`sdst.config.compose`).
        run_dir: Receives config.yaml, run.json, checkpoints, logs, submission files and at last metrics.json.
        resume: Continue the run of that folder from its last checkpoint.

    Returns:
        The content of metrics.json.

    Raises:
        UserError: The folder holds a run already, or any input is bad.
    """
    _check_free(run_dir, resume)
    OmegaConf.resolve(config)
    plain = OmegaConf.to_container(config)
    assert isinstance(plain, dict)
    options = OmegaConf.to_object(config)
    assert isinstance(options, TrainConfig)

    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    L.seed_everything(options.seed, verbose=False)
    data: GroundingDataModule = build(config.data, levels=options.levels, seed=options.seed)
    splits = [split for split in data.paths if split != "train"]
    for split in ("train", *splits):
        data.load(split)
    select = options.select
    _check_selection(data, select.split, select.metric)
    model = build_model({str(key): value for key, value in plain.items()}, data.recipe)
    if options.compile is not None:
        model.compile(backend=options.compile)
    module = GroundingModule(
        model,
        Criterion(
            options.loss.weights,
            match_weights=options.loss.match_weights,
            alpha=options.loss.alpha,
            gamma=options.loss.gamma,
            temperature=options.loss.temperature,
        ),
        options.optim,
        options.decode,
        dataset=data.dataset,
        split=select.split,
        seed=options.seed,
        config={str(key): value for key, value in plain.items()},
        recipe=data.recipe,
    )
    interactive = sys.stderr.isatty()
    trainer = build(
        config.trainer,
        precision=_precision(config.trainer.precision),
        callbacks=[
            *_checkpoints(run_dir, monitor=f"{select.split}/{select.metric}"),
            RichProgressBar() if interactive else EpochLog(),
        ],
        logger=build(config.logger, save_dir=str(run_dir)),
        default_root_dir=run_dir,
        enable_progress_bar=interactive,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        use_distributed_sampler=False,
    )
    if trainer.is_global_zero and not resume:
        run_dir.mkdir(parents=True, exist_ok=True)
        write_atomically(run_dir / "config.yaml", OmegaConf.to_yaml(config))
        facts = describe_run(model) | {"features": data.recipe}
        write_atomically(run_dir / "run.json", json.dumps(facts, indent=2) + "\n")
        logger.info("%d trainable parameters; run folder %s", facts["parameters"]["total"], run_dir)

    started = time.monotonic()
    trainer.fit(
        module,
        data.train_dataloader(),
        data.loader(select.split),
        ckpt_path=run_dir / LAST if resume else None,
        weights_only=True,
    )
    result: dict[str, Any] = {
        "dataset": data.dataset,
        "simulated": data.recipe["simulated"],
        "epochs": trainer.current_epoch,
        "fit_seconds": round(time.monotonic() - started, 1),
        "last": {select.split: module.metrics["brief"]},
    }
    best = torch.load(run_dir / BEST, map_location="cpu", weights_only=True)
    module.load_state_dict(best["state_dict"])
    result["selected"] = {"split": select.split, "metric": select.metric, "epoch": best["epoch"]}
    result["best"] = {}
    for split in splits:
        module.split = split
        trainer.validate(module, data.loader(split), verbose=False)
        if module.metrics:
            result["best"][split] = module.metrics["brief"]
        if trainer.is_global_zero:
            write_predictions(run_dir / f"{split}_submission.jsonl", module.predictions)
    if trainer.is_global_zero:
        # Written last: its presence says that the run is finished.
        write_atomically(run_dir / "metrics.json", json.dumps(result, indent=2) + "\n")
        logger.info("%s", _summary(result, run_dir))
    return result


class EpochLog(Callback):
    """One line per epoch where there is no terminal for a progress bar."""

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Log the epoch's loss and the metrics of the last validation."""
        shown = {
            key: value
            for key, value in trainer.callback_metrics.items()
            if key == "train/loss" or key.endswith(("MR-full-mAP", "MR-full-R1@0.5", "HL-min-VeryGood-mAP"))
        }
        text = "  ".join(f"{key} {float(value):.2f}" for key, value in shown.items())
        if trainer.is_global_zero:
            logger.info("epoch %d/%s  %s", trainer.current_epoch + 1, trainer.max_epochs, text)


def _checkpoints(run_dir: Path, monitor: str) -> list[ModelCheckpoint]:
    """The weights of the best epoch, and everything that resuming needs of the last one."""
    best = ModelCheckpoint(
        run_dir / BEST.parent,
        BEST.stem,
        monitor,
        mode="max",
        save_weights_only=True,
        save_on_train_epoch_end=True,
        enable_version_counter=False,
    )
    last = ModelCheckpoint(
        run_dir / LAST.parent, LAST.stem, save_on_train_epoch_end=True, enable_version_counter=False
    )
    return [best, last]  # in this order: the last checkpoint remembers which epoch was the best


def _check_free(run_dir: Path, resume: bool) -> None:
    if (run_dir / "metrics.json").exists():
        raise UserError(
            f"{run_dir}: holds a finished run, which is never overwritten; choose another run_dir"
        )
    if resume and not (run_dir / LAST).is_file():
        raise UserError(f"{run_dir}: has no {LAST} to resume from; start the run anew in another folder")
    if not resume and (run_dir / "config.yaml").exists():
        raise UserError(
            f"{run_dir}: holds an unfinished run; continue it with resume={run_dir} or choose another run_dir"
        )


def _check_selection(data: GroundingDataModule, split: str, metric: str) -> None:
    """Refuse a selection that no epoch could be judged by; warn where it looks at the test split."""
    records = data.load(split).records
    if split == "train" or any(record.windows is None for record in records):
        raise UserError(f"select.split: {split} is no labelled evaluation split; choose another")
    possible = evaluate(whole_video(records), records, data.dataset)["brief"]
    if possible.get(metric) is None:
        choices = ", ".join(key for key, value in possible.items() if value is not None)
        raise UserError(
            f"select.metric: {metric!r} has no value on {data.dataset} {split}; choose from {choices}"
        )
    if split == "test":
        logger.warning("the best checkpoint is selected on the test split; say so beside its numbers")


def _precision(wanted: str) -> str:
    if wanted != "auto":
        return wanted
    return "16-mixed" if torch.cuda.is_available() else "32-true"


def _summary(result: dict[str, Any], run_dir: Path) -> str:
    chosen = result["selected"]
    lines = [
        f"best of {result['epochs']} epochs by {chosen['split']}/{chosen['metric']}: epoch {chosen['epoch'] + 1}"
        + (" (SIMULATED features)" if result["simulated"] else "")
    ]
    for split, brief in result["best"].items():
        values = "  ".join(f"{key} {value:.2f}" for key, value in brief.items() if value is not None)
        lines.append(f"{split}: {values}")
    lines.append(f"metrics, checkpoints and submission files: {run_dir}")
    return "\n".join(lines)
