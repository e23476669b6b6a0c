"""One run: fit, evaluate the best checkpoint on every split, write the run folder."""

from __future__ import annotations

import json
import logging
import sys
import warnings
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import lightning as L
from hydra.errors import HydraException, InstantiationException
from lightning.pytorch.callbacks import RichProgressBar
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from sdst.config.build import build
from sdst.config.checks import check_options, num_processes, precision, resolve_auto_options
from sdst.config.compose import explain
from sdst.config.schema import SelectConfig, TrainConfig
from sdst.data.predictions import write_predictions
from sdst.errors import UserError
from sdst.files.atomic import write_atomically, writing_below
from sdst.losses.criterion import Criterion
from sdst.metrics.evaluation import evaluate
from sdst.metrics.trivial import whole_video
from sdst.models.sdst import SDST
from sdst.training import checkpoint
from sdst.training.allocator import keep_freed_memory
from sdst.training.callbacks.checkpoints import (
    NONFINITE,
    CheckpointFiles,
    EpochLog,
    LossWatch,
    StepTimer,
    checkpoints,
)
from sdst.training.callbacks.preemption import StopOnSigterm
from sdst.training.loggers import show_predictions, start_wandb_run, tracked_run
from sdst.training.module import GroundingModule
from sdst.training.processes import is_first, is_started, make_environment, make_strategy, run_processes
from sdst.training.provenance import describe_run, peak_memory_gb, reset_peak_memory
from sdst.training.resume import batches_done, check_folder, run_lock
from sdst.training.run_folder import BEST, LAST
from sdst.untrusted.checkpoint import read_checkpoint

if TYPE_CHECKING:
    from sdst.data.datamodule import GroundingDataModule

logger = logging.getLogger(__name__)


def train(config: DictConfig, run_dir: Path, *, resume: bool = False) -> dict[str, Any]:
    """Fit, then evaluate the best checkpoint on every split that has annotations.

    All input is read and checked before anything is written or computed. Wherever it is ended, ``resume`` continues
    it to the same result.

    Args:
        config: A composed configuration (see :func:`sdst.config.compose.compose`).
        run_dir: Receives config.yaml, run.json, checkpoints, logs, submission files and at last metrics.json.
        resume: Continue the run of that folder from its last checkpoint, or from its beginning if it has none.

    Returns:
        The content of metrics.json.

    Raises:
        UserError: The folder holds a run already or cannot be written, or any input is bad.
        Stopped: SIGTERM has come.
    """
    if is_first():
        check_folder(run_dir, resume)  # before it writes anything
    else:
        logging.getLogger("sdst").setLevel(logging.ERROR)  # the first tells for all
    config.run_dir = str(run_dir)  # a multirun's job, or a run that was moved, is not where it was told to be
    OmegaConf.resolve(config)
    check_options(config)
    resolve_auto_options(config)
    world = num_processes(config.trainer)
    if world > 1 and not is_started():
        run_processes(world, _train_as_one_of_several, config, run_dir, resume)
        result: dict[str, Any] = json.loads((run_dir / "metrics.json").read_text(encoding="utf-8"))
        return result
    with tracked_run(), writing_below(run_dir), run_lock(run_dir) if is_first() else nullcontext():
        return _train_here(config, run_dir, resume, world)


def _train_here(config: DictConfig, run_dir: Path, resume: bool, world: int) -> dict[str, Any]:
    """Train in this process, the only one or one of ``world``."""
    keep_freed_memory()
    options = OmegaConf.to_object(config)
    assert isinstance(options, TrainConfig)
    for part in ("pytorch", "fabric"):
        logging.getLogger(f"lightning.{part}").setLevel(logging.WARNING)
    # Lightning's own, about a name in torch that it will change itself.
    warnings.filterwarnings("ignore", message=r"`isinstance\(treespec, LeafSpec\)` is deprecated")
    # A resumed run's folder of checkpoints is not empty.
    warnings.filterwarnings("ignore", message="Checkpoint directory .* exists and is not empty")
    # Ours is: EpochSampler leaves out what was done.
    warnings.filterwarnings("ignore", message=".*your dataloader is not resumable")
    # Every process computes the metrics of all.
    warnings.filterwarnings("ignore", message=".*sync_dist=True")
    L.seed_everything(options.seed, verbose=False)

    data: GroundingDataModule = build(config.data, levels=options.levels, seed=options.seed)
    splits = [split for split in data.paths if split != "train"]
    for split in ("train", *splits):
        if len(data.load(split)) < world:
            raise UserError(
                f"data.annotations.{split}: has fewer rows than trainer.devices = {world} processes"
            )
    data.warn_about_leaks()
    _check_selection(data, options.select)
    module = make_module(config, options, data.recipe)
    timer = StepTimer()
    trainer = _make_trainer(config, options.select, run_dir, timer)
    steps, validation = data.train_dataloader(), data.loader(options.select.split)
    for key, batches in (("limit_train_batches", len(steps)), ("limit_val_batches", len(validation))):
        limit = config.trainer[key]
        if isinstance(limit, float) and limit * batches < 1:
            raise UserError(f"trainer.{key}: {limit} of {batches} batches is none; give a larger share")
    begun = run_dir / LAST if resume and (run_dir / LAST).exists() else None
    if begun:
        stored = read_checkpoint(begun)
        checkpoint.require_unchanged(config.data.features, data.recipe, stored)
        checkpoint.load_weights(module, stored["state_dict"], begun)
        epoch, batches = batches_done(stored, begun)
        sampler: Any = steps.sampler
        sampler.resume(epoch, batches * data.batch_size)
    if trainer.is_global_zero:
        run_dir.mkdir(parents=True, exist_ok=True)
        facts = describe_run(module.model) | {"features": data.recipe}
        start_wandb_run(trainer.logger, run_dir, module.contents["config"], facts)
        write_atomically(run_dir / "config.yaml", OmegaConf.to_yaml(config))
    if trainer.is_global_zero and not (run_dir / "run.json").exists():
        write_atomically(run_dir / "run.json", json.dumps(facts, indent=2) + "\n")
        logger.info("%d trainable parameters; run folder %s", facts["parameters"]["total"], run_dir)

    reset_peak_memory()  # or a sweep's runs would be told the memory of those before them
    try:
        trainer.fit(
            module,
            steps,
            validation,
            ckpt_path=begun,
            weights_only=True,
        )
    except FloatingPointError as error:
        raise UserError(
            f"{run_dir}: training diverged in epoch {trainer.current_epoch + 1}: {error}; "
            f"{NONFINITE} there names its queries"
        ) from error
    fit_seconds = timer.fit_seconds
    if not module.metrics:  # the run was resumed after its last epoch
        trainer.validate(module, data.loader(options.select.split), verbose=False)
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
    best = read_checkpoint(run_dir / BEST)
    checkpoint.load_weights(module, best["state_dict"], run_dir / BEST)
    result["selected"]["epoch"] = best["epoch"]
    trainer.limit_val_batches = (
        1.0  # the limit shortens a run's validations; these numbers are of whole splits
    )
    for split in splits:
        module.split = split
        trainer.validate(module, data.loader(split), verbose=False)
        if module.metrics:
            result["best"][split] = module.metrics["brief"]
        if trainer.is_global_zero:
            write_predictions(run_dir / f"{split}_submission.jsonl", module.predictions)
        if trainer.is_global_zero and split == options.select.split:
            note = "SIMULATED features" if data.recipe["simulated"] else ""
            records = data.load(split).records
            show_predictions(trainer.logger, split, module.predictions, records, data.clip_seconds, note)
    if trainer.is_global_zero:
        # Written last: its presence says that the run is finished.
        write_atomically(run_dir / "metrics.json", json.dumps(result, indent=2) + "\n")
        logger.info("%s", _summary(result, run_dir))
    return result


def _train_as_one_of_several(config: DictConfig, run_dir: Path, resume: bool) -> None:
    """What each process of a run with several does."""
    try:
        train(config, run_dir, resume=resume)
    except (HydraException, OmegaConfBaseException) as error:
        raise explain(error) from error


def make_module(config: DictConfig, options: TrainConfig, recipe: dict[str, Any]) -> GroundingModule:
    """The untrained model with its losses, optimisation and decoding, for features of the given recipe."""
    plain: Any = OmegaConf.to_container(config)
    model = checkpoint.build_model(plain, recipe)
    if options.recompute:
        if not isinstance(model, SDST):
            raise UserError(f"recompute: {type(model).__name__} keeps all its activations; leave it false")
        model.recompute = True
    if options.compile is not None:
        model.compile(backend=options.compile)
    loss = options.loss
    criterion = Criterion(
        loss.weights,
        match_weights=loss.match_weights,
        alpha=loss.alpha,
        gamma=loss.gamma,
        temperature=loss.temperature,
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


def _make_trainer(config: DictConfig, select: SelectConfig, run_dir: Path, timer: StepTimer) -> L.Trainer:
    """The trainer with its logger, checkpoints and progress."""
    interactive = sys.stderr.isatty()
    try:
        trainer: L.Trainer = build(
            config.trainer,
            precision=precision(config.trainer),
            callbacks=[
                *checkpoints(run_dir, monitor=f"{select.split}/{select.metric}"),
                RichProgressBar(leave=True) if interactive else EpochLog(),
                LossWatch(run_dir),
                StopOnSigterm(run_dir),
                timer,
            ],
            plugins=[CheckpointFiles(), make_environment()],
            strategy=make_strategy(config.trainer, unused_parameters=not all(config.loss.weights.values())),
            logger=build(config.logger, save_dir=str(run_dir)),
            default_root_dir=run_dir,
            enable_progress_bar=interactive,
            enable_model_summary=False,
            num_sanity_val_steps=0,
            use_distributed_sampler=False,
        )
    except InstantiationException as error:  # Lightning's, about a device that is not there
        raise UserError(f"trainer: {' '.join(str(error.__cause__).split())}") from error
    return trainer


def _check_selection(data: GroundingDataModule, select: SelectConfig) -> None:
    """Refuse a selection that no epoch could be judged by; warn where it looks at the test split."""
    split, metric = select.split, select.metric
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
