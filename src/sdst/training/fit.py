"""One run: fit, evaluate the best checkpoint on every split, write the run folder."""

from __future__ import annotations

import json
import logging
import warnings
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import lightning as L
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from sdst.config.checks import MOMENT_TERMS, num_processes
from sdst.config.compose import explain
from sdst.config.schema import SelectConfig, TrainConfig
from sdst.config.words import hydra_words
from sdst.data.predictions import write_predictions
from sdst.errors import UserError
from sdst.features.allocator import keep_freed_memory
from sdst.files.atomic import write_atomically, writing_below
from sdst.files.orphans import explain_dead_worker
from sdst.metrics.evaluation import evaluate
from sdst.metrics.trivial import whole_video
from sdst.training import checkpoint
from sdst.training.builders import make_datamodule, make_trainer
from sdst.training.callbacks.step_timer import StepTimer
from sdst.training.complete import complete
from sdst.training.loggers.make import start_trackers
from sdst.training.loggers.predictions import show_predictions
from sdst.training.loggers.wandb import tracked_run
from sdst.training.module import make_module
from sdst.training.processes import is_first, is_started, run_processes
from sdst.training.provenance import describe_run, peak_memory_gb, reset_peak_memory
from sdst.training.resume import batches_done, check_folder, run_lock
from sdst.training.run_folder import RunFolder
from sdst.untrusted.checkpoint import read_checkpoint

if TYPE_CHECKING:
    from sdst.data.datamodule import GroundingDataModule
    from sdst.training.module import GroundingModule

logger = logging.getLogger(__name__)


def train(config: DictConfig, run_dir: Path, *, resume: bool = False) -> dict[str, Any]:
    """Train, then evaluate the best checkpoint on every split that has annotations.

    All input is read and checked before anything is written or computed. Wherever a run stops, ``resume`` continues
    it to the same result.

    Args:
        config: A composed configuration (see :func:`sdst.config.compose.compose`).
        run_dir: Run folder for config.yaml, run.json, checkpoints, logs, submission files and finally metrics.json.
        resume: Continue the run in that folder from its last checkpoint, or from the start if it has none.

    Returns:
        The content of metrics.json.

    Raises:
        UserError: The folder holds a run or cannot be written, any input is bad, or a loader worker has died.
        Stopped: SIGTERM or Ctrl-C has come; the run is saved.
        KeyboardInterrupt: Ctrl-C has come before the first step.
    """
    if is_first():
        check_folder(RunFolder(run_dir), resume)  # before anything is written
    else:
        logging.getLogger("sdst").setLevel(logging.ERROR)  # the first process logs for all
    config.run_dir = str(run_dir)  # the folder of a multirun's job or of a moved run is not the composed one
    config = complete(config)
    world = num_processes(config.trainer)
    if world > 1 and not is_started():
        run_processes(world, _train_as_one_of_several, config, run_dir, resume)
        return RunFolder(run_dir).metrics()
    workers = explain_dead_worker("data.num_workers", f"continue with resume={run_dir}")
    with tracked_run(), writing_below(run_dir), run_lock(run_dir) if is_first() else nullcontext(), workers:
        try:
            return _train_here(config, RunFolder(run_dir), resume, world)
        except SystemExit as end:
            if isinstance(
                end.__context__, KeyboardInterrupt
            ):  # Lightning turns an early Ctrl-C into status 1
                raise end.__context__ from None
            raise


def _train_as_one_of_several(config: DictConfig, run_dir: Path, resume: bool) -> None:
    """Train in one of several processes."""
    try:
        train(config, run_dir, resume=resume)
    except (HydraException, OmegaConfBaseException) as error:
        raise explain(error) from error


def _train_here(config: DictConfig, run: RunFolder, resume: bool, world: int) -> dict[str, Any]:
    """Train in this process, the only one or one of ``world``."""
    keep_freed_memory()
    _quiet_lightning()
    options = OmegaConf.to_object(config)
    assert isinstance(options, TrainConfig)
    L.seed_everything(options.seed, verbose=False)
    data = _read_data(config, options.select, world)
    module = make_module(config, data.recipe)
    timer = StepTimer()
    trainer = make_trainer(config, options.select, run, timer)
    _check_limits(config, data)
    data.hold(trainer.strategy.root_device)
    begun = _restore(config, run, data, module) if resume and run.last.exists() else None
    if begun is None and options.init_from is not None:
        checkpoint.begin_with(module.model, options.init_from)
    if trainer.is_global_zero:
        _write_origin(config, run, data, module, trainer)
    _fit(run, data, module, trainer, begun)
    fit_seconds = timer.fit_seconds
    if not module.metrics:  # the run was resumed after its last epoch
        trainer.validate(module, datamodule=data, verbose=False)
    result = {
        "dataset": data.dataset,
        "simulated": data.recipe["simulated"],
        "epochs": trainer.current_epoch,
        "fit_seconds": fit_seconds,
        "steps_per_second": timer.steps_per_second,
        "peak_memory_gb": peak_memory_gb(),
        "last": {options.select.split: module.metrics["brief"]},
        "selected": {"split": options.select.split, "metric": options.select.metric},
        "best": {},
    }
    if isinstance(trainer.limit_val_batches, int) or trainer.limit_val_batches < 1:  # 1 is one batch, 1.0 all
        # Part of a split is not the split: the "last" metrics and the choice of the epoch come from this part alone.
        result["selected"]["limit_val_batches"] = trainer.limit_val_batches
    if longer := data.longer_features():
        result["longer_features"] = longer
    if missing := data.missing_features():
        result["missing_features"] = missing
    _evaluate_best(run, data, module, trainer, result)
    if trainer.is_global_zero:
        # Written last: its presence says that the run is finished.
        write_atomically(run.metrics_path, json.dumps(result, indent=2) + "\n")
        logger.info("%s", _summary(result, run.path))
    return result


def _quiet_lightning() -> None:
    """Silence Lightning's messages that do not apply to this project."""
    for part in ("pytorch", "fabric"):
        logging.getLogger(f"lightning.{part}").setLevel(logging.WARNING)
    # About a name in torch that Lightning will change itself.
    warnings.filterwarnings("ignore", message=r"`isinstance\(treespec, LeafSpec\)` is deprecated")
    # A resumed run's folder of checkpoints is not empty.
    warnings.filterwarnings("ignore", message="Checkpoint directory .* exists and is not empty")
    # Loggers have a line per epoch at least.
    warnings.filterwarnings("ignore", message="The number of training batches .* is smaller than the logging")
    # Ours is resumable: EpochSampler leaves out the batches that are done.
    warnings.filterwarnings("ignore", message=".*your dataloader is not resumable")
    # Every process computes the metrics of all.
    warnings.filterwarnings("ignore", message=".*sync_dist=True")


def _read_data(config: DictConfig, select: SelectConfig, world: int) -> GroundingDataModule:
    """Read and check every split."""
    data = make_datamodule(config)
    for split in data.paths:
        if len(data.load(split)) < world:
            raise UserError(
                f"data.annotations.{split}: needs at least one row for each of {world} processes; lower trainer.devices"
            )
    _check_moments(config, data)
    data.warn_about_leaks()
    _check_selection(data, select)
    return data


def _check_moments(config: DictConfig, data: GroundingDataModule) -> None:
    """Refuse moment losses on rows without moments: the model would learn that there are none."""
    lacking = sum(record.windows is None for record in data.load("train").records)
    if lacking and config.decode.max_moments != 0:
        raise UserError(
            f"{data.paths['train']}: {lacking} rows lack relevant_windows; set decode.max_moments=0 and the weights "
            f"{', '.join(MOMENT_TERMS)} in loss.weights to 0 to train without moments, as data=tvsum does"
        )


def _check_limits(config: DictConfig, data: GroundingDataModule) -> None:
    """Refuse a share of the batches that is less than one batch."""
    sizes = {
        "limit_train_batches": len(data.train_dataloader()),
        "limit_val_batches": len(data.val_dataloader()),
    }
    for key, batches in sizes.items():
        limit = config.trainer[key]
        if isinstance(limit, float) and limit * batches < 1:
            raise UserError(
                f"trainer.{key}: {limit} of {batches} batches is less than one; give a larger share"
            )


def _restore(config: DictConfig, run: RunFolder, data: GroundingDataModule, module: GroundingModule) -> Path:
    """Check the run's last checkpoint and load its weights; Lightning restores the rest from it.

    Returns:
        The checkpoint.
    """
    stored = read_checkpoint(run.last)
    checkpoint.require_unchanged(config.data.features, data.recipe, stored)
    checkpoint.load_weights(module, stored["state_dict"], run.last)
    epoch, batches = batches_done(stored, run.last)
    # Checkpoints of older versions have no state of the data module.
    begun = stored.get(type(data).__qualname__, {})
    data.load_state_dict({**begun, "epoch": epoch, "batches": batches})
    return run.last


def _write_origin(
    config: DictConfig, run: RunFolder, data: GroundingDataModule, module: GroundingModule, trainer: L.Trainer
) -> None:
    """Write config.yaml and, unless the run is resumed, run.json."""
    run.path.mkdir(parents=True, exist_ok=True)
    facts = run.facts() or describe_run(module.model) | hydra_words() | {"features": data.recipe}
    start_trackers(trainer, run, module.contents["config"], facts)
    write_atomically(run.config_path, OmegaConf.to_yaml(config))
    if not run.facts_path.exists():
        write_atomically(run.facts_path, json.dumps(facts, indent=2) + "\n")
        logger.info("%d trainable parameters; run folder %s", facts["parameters"]["total"], run.path)


def _fit(
    run: RunFolder, data: GroundingDataModule, module: GroundingModule, trainer: L.Trainer, begun: Path | None
) -> None:
    """Train, from a checkpoint if the run was begun."""
    reset_peak_memory()  # otherwise a sweep's run would report the memory of the runs before it
    try:
        trainer.fit(module, datamodule=data, ckpt_path=begun, weights_only=True)
    except FloatingPointError as error:
        raise UserError(
            f"{run.path}: training diverged in epoch {trainer.current_epoch + 1}: {error}; "
            f"{run.nonfinite_path.name} there names its queries"
        ) from error


def _evaluate_best(
    run: RunFolder,
    data: GroundingDataModule,
    module: GroundingModule,
    trainer: L.Trainer,
    result: dict[str, Any],
) -> None:
    """Evaluate the best checkpoint on every whole split; add its metrics to ``result``, write the submissions."""
    best = read_checkpoint(run.best)
    checkpoint.load_weights(module, best["state_dict"], run.best)
    result["selected"]["epoch"] = best["epoch"]
    trainer.limit_val_batches = 1.0  # the limit is for validations during training
    for split in (split for split in data.paths if split != "train"):
        module.split = split
        trainer.validate(module, data.loader(split), verbose=False)
        if module.metrics:
            result["best"][split] = module.metrics["brief"]
        if not trainer.is_global_zero:
            continue
        write_predictions(run.predictions_path(split), module.predictions)
        if split == result["selected"]["split"]:
            note = "SIMULATED features" if result["simulated"] else ""
            records = data.load(split).records
            show_predictions(trainer.loggers, split, module.predictions, records, data.clip_seconds, note)


def _check_selection(data: GroundingDataModule, select: SelectConfig) -> None:
    """Refuse a split or metric that cannot select an epoch; warn if the test split selects."""
    split, metric = select.split, select.metric
    records = data.load(split).records
    if split == "train" or not all(record.is_labelled for record in records):
        raise UserError(f"select.split: must be a labelled evaluation split, got {split}; choose another")
    possible = evaluate(whole_video(records), records, data.dataset)["brief"]
    if possible.get(metric) is None:
        choices = ", ".join(key for key, value in possible.items() if value is not None)
        raise UserError(
            f"select.metric: {metric!r} has no value on {data.dataset} {split}; choose from {choices}"
        )
    if split == "test":
        logger.warning("the test split selects the best checkpoint; state this beside its numbers")


def _summary(result: dict[str, Any], run_dir: Path) -> str:
    chosen = result["selected"]
    lines = [
        f"best of {result['epochs']} epochs by {chosen['split']}/{chosen['metric']}: epoch {chosen['epoch'] + 1}"
        + (" (SIMULATED features)" if result["simulated"] else "")
        + (f", chosen on {chosen['limit_val_batches']} batches" if "limit_val_batches" in chosen else "")
    ]
    for split, brief in result["best"].items():
        values = "  ".join(f"{key} {value:.2f}" for key, value in brief.items() if value is not None)
        lines.append(f"{split}: {values}")
    lines.append(f"metrics, checkpoints and submission files: {run_dir}")
    return "\n".join(lines)
