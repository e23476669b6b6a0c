"""Complete trainings on simulated features: resumed, two at once, of a multirun, and of the paper's length."""

from __future__ import annotations

import math
import os
import signal
import time
from contextlib import suppress
from dataclasses import replace
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import torch

from sdst.bench.gpu.processes import CannotRunError, Task
from sdst.bench.gpu.simulated import data_overrides
from sdst.config.compose import compose
from sdst.errors import Stopped, UserError
from sdst.training.callbacks.step_timer import StepTimer
from sdst.training.run_folder import RunFolder
from sdst.untrusted.checkpoint import read_checkpoint

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from sdst.bench.gpu.settings import Settings
    from sdst.bench.report import Row

EPOCHS = 2
"""Epochs of the short trainings."""
KEPT = ("state_dict", "optimizer_states", "lr_schedulers", "global_step", "epoch")
"""Parts of the last checkpoint that an interruption must not change."""
COSTS = ("fit_seconds", "steps_per_second", "peak_memory_gb")
"""Entries of metrics.json that differ from run to run."""
JOBS = 2
"""Trainings that run at once."""
WARNING_SECONDS = 20
"""Time before its limit at which the paper-length training is stopped, to save and to end."""


def train(
    overrides: Sequence[str],
    run_dir: Path,
    *,
    resume: bool = False,
    stop: Callable[[int], bool] | None = None,
) -> Iterator[Row]:
    """Train, and yield the content of metrics.json; nothing if the run was stopped.

    Args:
        overrides: Overrides of ``sdst train``.
        run_dir: The run folder.
        resume: Continue the run there.
        stop: Function of the number of steps so far that says whether to send the process SIGTERM.
    """
    from sdst.training import fit  # imported here because it imports Lightning

    whole = StepTimer.on_train_batch_end

    def then_stop(timer: StepTimer, *arguments: Any) -> None:
        whole(timer, *arguments)
        if stop is not None and stop(timer.steps):
            os.kill(os.getpid(), signal.SIGTERM)

    StepTimer.on_train_batch_end = then_stop  # type: ignore[method-assign, assignment]  # nothing else runs here
    with suppress(Stopped):
        yield fit.train(compose(overrides), run_dir, resume=resume)


def interrupted(overrides: Sequence[str], run_dir: Path, steps: int) -> Iterator[Row]:
    """Train, send SIGTERM after a number of steps, and so stop after the next one."""
    yield from train(overrides, run_dir, stop=lambda done: done == steps)


def resumed(overrides: Sequence[str], run_dir: Path) -> Iterator[Row]:
    """Continue a run."""
    yield from train(overrides, run_dir, resume=True)


def resume(settings: Settings, seconds: float) -> Iterator[Row]:
    """Train deterministically without and with an interruption within the second epoch; all must be equal to the bit.

    Raises:
        UserError: Weights, optimizer or metrics differ.
    """
    for model in settings.sizes.resumed:
        overrides = _short(settings, f"model={model}", "trainer.deterministic=true")
        whole, parts = (settings.folder / f"resume-{model}-{name}" for name in ("whole", "parts"))
        per_epoch = math.ceil(settings.sizes.short[0] / settings.batch)
        start = time.monotonic()
        _run(settings, seconds, "train", overrides, whole)
        _run(settings, seconds, "interrupted", overrides, parts, per_epoch + 1)
        if RunFolder(parts).is_finished:
            raise UserError(f"{model}: the training finished before it was interrupted")
        _run(settings, seconds, "resumed", overrides, parts)
        # In a process of its own, because this one may not use PyTorch's threads before it forks again.
        differing = [row["part"] for row in _run(settings, seconds, "differing", whole, parts)]
        if differing:
            raise UserError(f"{model}: the resumed run differs in {', '.join(differing)}")
        yield {"case": f"{model}: equal to the bit", "seconds": time.monotonic() - start}


def differing(run: Path, other: Path) -> Iterator[Row]:
    """The parts of what two runs ended with that are not equal to the bit."""
    first, second = (_result(RunFolder(folder)) for folder in (run, other))
    yield from ({"part": name} for name in first if not equal(first[name], second[name]))


def _result(run: RunFolder) -> dict[str, Any]:
    last = read_checkpoint(run.last)
    metrics = {key: value for key, value in run.metrics().items() if key not in COSTS}
    return {name: last[name] for name in KEPT} | {"metrics": metrics}


def equal(a: Any, b: Any) -> bool:
    """Whether nested dicts and lists of tensors and plain values are equal bit for bit."""
    if isinstance(a, torch.Tensor):
        return isinstance(b, torch.Tensor) and torch.equal(a, b)
    if isinstance(a, dict):
        return isinstance(b, dict) and a.keys() == b.keys() and all(equal(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(equal, a, b))
    return bool(a == b)


def sharing(settings: Settings, seconds: float) -> Iterator[Row]:
    """One training alone, then two at once on the same GPU."""
    alone = _run(settings, seconds, "train", _short(settings), settings.folder / "alone")[0]
    yield {"case": "alone", **_costs(alone)}
    tasks = [
        _task(settings, "train", _short(settings, f"seed={seed}"), settings.folder / f"shared-{seed}")
        for seed in range(JOBS)
    ]
    both = [task.wait(seconds).require()[0] for task in tasks]
    for seed, metrics in enumerate(both):
        yield {"case": f"{JOBS} at once, number {seed + 1}", **_costs(metrics)}
    together = sum(metrics["steps_per_second"] for metrics in both)
    yield {"case": "both relative to one alone", "ratio": together / alone["steps_per_second"]}


def launcher(settings: Settings, seconds: float) -> Iterator[Row]:
    """A multirun through joblib, and the GPUs that its jobs claimed.

    Raises:
        UserError: A job failed, or two jobs that ran at once used the same GPU although there were several.
        CannotRunError: The launcher is not installed.
    """
    if not (find_spec("hydra_plugins") and find_spec("hydra_plugins.hydra_joblib_launcher")):
        raise CannotRunError("hydra-joblib-launcher is not installed")
    from sdst.cli import main  # Hydra's application, which is complete only once it is called

    gpus = torch.cuda.device_count() if settings.device == "cuda" else 0
    runs = settings.folder / "multirun"
    number = settings.sizes.jobs
    joblib = ["hydra/launcher=joblib", f"hydra.launcher.n_jobs={number}", f"paths.runs={runs}"]
    seeds = ",".join(map(str, range(number)))
    start = time.monotonic()
    status = main(["train", "-m", f"seed={seeds}", *_short(settings), *joblib])
    jobs = [RunFolder(path.parent) for path in sorted(runs.glob("jobs/*/metrics.json"))]
    if status != 0 or len(jobs) != number:
        raise UserError(f"{len(jobs)} of {number} jobs finished, exit status {status}")
    devices = [str(job.config().trainer.devices) for job in jobs]
    if gpus >= number and len(set(devices)) < number:
        raise UserError(f"jobs at once must be on different GPUs, were on {', '.join(devices)}")
    yield {
        "case": f"multirun with {number} jobs at once on {gpus} GPUs",
        "seconds": time.monotonic() - start,
        "devices": ", ".join(devices),
    }


def paper(settings: Settings, seconds: float) -> Iterator[Row]:
    """A training of the paper's length; where the limit is shorter, its time is extrapolated from the measured part."""
    run_dir = settings.folder / "paper"
    overrides = [
        *data_overrides(settings, "paper"),
        f"trainer.max_epochs={settings.sizes.epochs}",
        *settings.overrides,
    ]
    deadline = time.time() + seconds - WARNING_SECONDS
    task = _task(settings, "until", overrides, run_dir, deadline)
    finished = task.wait(seconds - WARNING_SECONDS / 4).require()
    steps = settings.sizes.epochs * math.ceil(settings.sizes.paper[0] / settings.batch)
    if finished:
        done, (metrics,) = steps, finished
        row = {"fit_seconds": metrics["fit_seconds"], "is": "measured", **_costs(metrics)}
    else:
        timer = _timer(read_checkpoint(RunFolder(run_dir).last))
        done = timer["steps"]
        row = extrapolate(timer, steps, settings.sizes.epochs)
    yield {
        "case": " ".join([f"{settings.sizes.epochs} epochs, {done} of {steps} steps", *settings.overrides]),
        **row,
    }


def until(overrides: Sequence[str], run_dir: Path, deadline: float) -> Iterator[Row]:
    """Train until a time of ``time.time``: the other clocks of two processes need not agree."""
    yield from train(overrides, run_dir, stop=lambda _: time.time() > deadline)


def extrapolate(timer: dict[str, Any], steps: int, epochs: int) -> Row:
    """The whole training's time from a part of it.

    Args:
        timer: State of ``StepTimer`` in the last checkpoint.
        steps: Steps of the whole training.
        epochs: Its epochs.
    """
    rate = timer["steps"] / timer["seconds"]
    ended = timer["steps"] * epochs // steps
    per_epoch = (timer["fit_seconds"] - timer["seconds"]) / ended if ended else None
    return {
        "fit_seconds": steps / rate + epochs * (per_epoch or 0),
        "is": "extrapolated" if ended else "extrapolated, without validation: no epoch ended",
        "steps_per_second": rate,
        "seconds_between_epochs": per_epoch,
    }


def _timer(checkpoint: dict[str, Any]) -> dict[str, Any]:
    states: dict[str, dict[str, Any]] = checkpoint["callbacks"]
    return next(state for name, state in states.items() if name.startswith(StepTimer.__name__))


def _short(settings: Settings, *overrides: str) -> list[str]:
    chosen = [each for each in data_overrides(settings, "short") if not _is_foreign(each, overrides)]
    return [*chosen, f"trainer.max_epochs={EPOCHS}", *overrides]


def _is_foreign(override: str, others: Sequence[str]) -> bool:
    """Whether an override is one of SDST's alone and the others choose another model."""
    other_model = any(each.startswith("model=") and each != "model=sdst" for each in others)
    return other_model and override.startswith(("model.num_queries", "model.roi_bins", "model.actionness"))


def _costs(metrics: dict[str, Any]) -> Row:
    return {"steps_per_second": metrics["steps_per_second"], "peak_gb": metrics["peak_memory_gb"]}


def _task(settings: Settings, function: str, *arguments: Any) -> Task:
    """A training in a process of its own, forked because this one has imported everything and touches no GPU."""
    forked = replace(settings, method="fork") if settings.method == "forkserver" else settings
    return Task(f"{__name__}:{function}", *arguments, settings=forked, log="trainings.log")


def _run(settings: Settings, seconds: float, function: str, *arguments: Any) -> list[Row]:
    """Run a training in a process of its own."""
    return _task(settings, function, *arguments).wait(seconds).require()
