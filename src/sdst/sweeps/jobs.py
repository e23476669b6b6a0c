"""A job is one training, identified by everything its result depends on.

Sweeps therefore share jobs, skip finished ones and retry the others. The folder of jobs holds for each job::

    IDENTITY.yaml   its resolved configuration, frozen at launch
    IDENTITY.lock   locked by the process that trains it
    IDENTITY.log    the log of its training
    IDENTITY/       its run folder: with metrics.json if it is finished, with failed.txt if it failed
"""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
import traceback
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from omegaconf import OmegaConf

from sdst.config.stored import stored_config, with_first_names
from sdst.data.fingerprint import fingerprint
from sdst.errors import UserError
from sdst.files.atomic import write_atomically
from sdst.files.locks import lock
from sdst.sweeps.gpus import claim_gpu
from sdst.training.run_folder import RunFolder, Status

if TYPE_CHECKING:
    from collections.abc import Iterator

    from omegaconf import DictConfig

logger = logging.getLogger(__name__)

NOT_IDENTITY = (
    "group",
    "name",
    "tags",
    "run_dir",
    "resume",
    "recompute",
    "logger",
    "paths",
    "trainer.accelerator",
    "trainer.devices",
    "data.num_workers",
    "data.cache",
    "data.features",
    "data.annotations",
)
"""Keys that do not change a job's result, so they are left out of its identity. Files count by content, not by name."""


def identity(config: DictConfig) -> str:
    """Compute 12 hexadecimal digits that depend on everything a training's result depends on, and on nothing else.

    Features enter through their :func:`~sdst.data.fingerprint.fingerprint`, which samples them.

    Args:
        config: A composed configuration; its annotations and features are read.

    Raises:
        UserError: An annotation or feature file is missing or cannot be used.
    """
    resolved: Any = OmegaConf.to_container(config, resolve=True)
    essence = with_first_names(resolved)
    data = essence["data"]
    files = {split: path and _file_hash(path) for split, path in data["annotations"].items()}
    features = _features_hash(data["features"], data["pooling"])
    for key in NOT_IDENTITY:
        *parents, leaf = key.split(".")
        node = essence
        for parent in parents:
            node = node[parent]
        node.pop(leaf, None)
    essence["content"] = {"annotations": files, "features": features}
    return hashlib.sha256(json.dumps(essence, sort_keys=True).encode()).hexdigest()[:12]


def freeze(config: DictConfig, jobs: Path, name: str) -> None:
    """Write a job's configuration, with absolute paths, for the process that will train it.

    Args:
        config: Configuration of the job.
        jobs: Folder of jobs.
        name: The job's identity.
    """
    config = config.copy()
    config.run_dir = str(jobs / name)
    OmegaConf.resolve(config)
    for split, path in config.data.annotations.items():
        config.data.annotations[split] = path and str(Path(path).absolute())
    config.data.features = str(Path(config.data.features).absolute())
    write_atomically(jobs / f"{name}.yaml", OmegaConf.to_yaml(config))


def status(jobs: Path, name: str) -> Status:
    """State of a job, from the files in its run folder."""
    return RunFolder(jobs / name).status


def run_job(jobs: Path, name: str, *, wait: bool, jobs_per_gpu: int = 1) -> Status | Literal["busy"]:
    """Train a frozen job unless it is finished; a failure is written to its folder and log, not raised.

    Args:
        jobs: Folder of jobs.
        name: The job's identity.
        wait: If another process trains the job, wait for its result instead of returning ``busy``.
        jobs_per_gpu: Number of jobs that may share a GPU.
    """
    run_dir = jobs / name
    with _locked(jobs / f"{name}.lock", wait) as free:
        if not free:
            return "busy"
        if status(jobs, name) == "finished":
            return "finished"
        RunFolder(run_dir).failed_path.unlink(missing_ok=True)
        with _log_to(jobs / f"{name}.log"):
            try:
                config = stored_config(jobs / f"{name}.yaml")
                with claim_gpu(jobs_per_gpu) as gpu:
                    if gpu is not None and config.trainer.devices == 1:
                        config.trainer.devices = [gpu]
                    train_once(run_dir, config)
            except Exception as error:
                reason = f"{error}\n" if isinstance(error, UserError) else traceback.format_exc()
                logger.info("%s", reason.rstrip())
                run_dir.mkdir(parents=True, exist_ok=True)
                write_atomically(RunFolder(run_dir).failed_path, reason)
    return status(jobs, name)


def train_once(run_dir: Path, config: DictConfig) -> dict[str, Any]:
    """Return the content of metrics.json, from the finished run in this folder, or after resuming or starting it.

    A resumed run keeps its configuration except for the keys in :data:`NOT_IDENTITY`.
    """
    # Imported here because it takes seconds, and commands that only read jobs do not need it.
    from sdst.training.fit import train

    files = RunFolder(run_dir)
    if files.is_finished:
        logger.info("%s: already trained; remove the folder to train again", run_dir)
        return files.metrics()
    if files.last.is_file():
        begun = files.config()
        for key in NOT_IDENTITY:
            if (value := OmegaConf.select(config, key)) is not None:
                OmegaConf.update(begun, key, value, merge=False)
        return train(begun, run_dir, resume=True)
    if files.is_begun:  # interrupted before the end of its first epoch
        shutil.rmtree(run_dir)
    return train(config, run_dir)


@contextmanager
def _locked(path: Path, wait: bool) -> Iterator[bool]:
    """Hold a lock that ends with the process; yields False if another process has it and ``wait`` is false."""
    with path.open("a") as file:
        yield lock(file, wait=wait)


class _JobLog(logging.FileHandler):
    """A log file that raises if it cannot be written, instead of printing a traceback and going on."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802  # its name in logging
        """Raise the current exception."""
        raise


@contextmanager
def _log_to(path: Path) -> Iterator[None]:
    """Send the package's log to a file instead of the terminal, which shows one line per job."""
    package = logging.getLogger("sdst")
    handler = _JobLog(path, encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
    level, propagate = package.level, package.propagate
    package.addHandler(handler)
    package.setLevel(logging.INFO)
    package.propagate = False
    try:
        yield
    finally:
        package.removeHandler(handler)
        package.setLevel(level)
        package.propagate = propagate
        handler.close()


def _file_hash(path: str) -> str:
    try:
        return _hash(path, Path(path).stat().st_mtime_ns)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); check the path") from error


@lru_cache
def _hash(path: str, _mtime: int) -> str:
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


def _features_hash(path: str, pooling: str) -> str:
    file = Path(path)
    return _fingerprint(path, pooling, file.stat().st_mtime_ns if file.is_file() else 0)


@lru_cache
def _fingerprint(path: str, pooling: str, _mtime: int) -> str:
    return fingerprint(Path(path), pooling)
