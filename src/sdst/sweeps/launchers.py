"""Checks of a launcher, and its errors in one line; the launchers' options are in ``conf/hydra/launcher``."""

from __future__ import annotations

import shutil
from contextlib import contextmanager
from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import torch
from omegaconf import OmegaConf

from sdst.errors import UserError
from sdst.files.orphans import end_with_parent

if TYPE_CHECKING:
    from collections.abc import Iterator

    from omegaconf import DictConfig


def check_launcher(launcher: DictConfig) -> None:
    """Refuse a launcher whose jobs could not start, before any work.

    Args:
        launcher: The composed ``hydra.launcher``.

    Raises:
        UserError: Its package is not installed, Slurm is not on this machine, or Ray would wait forever for a GPU.
    """
    plugin, _, name = launcher._target_.removeprefix("hydra_plugins.").partition(".")
    if not launcher._target_.startswith("hydra_plugins."):  # Hydra's own, which runs one job after the other
        return
    package = plugin.replace("_", "-")
    if not (find_spec("hydra_plugins") and find_spec(f"hydra_plugins.{plugin}")):
        raise UserError(f"the launcher needs {package}, which is not installed; pip install {package}")
    if name.endswith(".SlurmLauncher") and shutil.which("srun") is None:
        raise UserError(
            "hydra/launcher=submitit_slurm needs Slurm's srun, which was not found; start the sweep on a login node"
        )
    if name.endswith(".RayLauncher") and _wants_missing_gpu(launcher):
        raise UserError(
            "hydra/launcher=ray gives each job a GPU, and this machine has none; "
            "add hydra.launcher.ray.remote.num_gpus=0"
        )


def end_idle_jobs_with_sweep(launcher: DictConfig) -> None:
    """Let joblib's processes watch the sweep from their start, because a job does so only once it has begun.

    Otherwise those that wait for their first job when the sweep is killed keep their memory for five minutes.

    Args:
        launcher: The composed ``hydra.launcher``.
    """
    if not launcher._target_.endswith(".JoblibLauncher"):
        return
    joblib: Any = import_module("joblib.parallel")  # without types, and perhaps not installed

    class WatchingBackend(joblib.BACKENDS["loky"]):  # type: ignore[misc, name-defined]
        def configure(self, *args: Any, **kwargs: Any) -> Any:
            # It is set already in a second multirun of this process.
            kwargs.setdefault("initializer", end_with_parent)
            return super().configure(*args, **kwargs)

    joblib.register_parallel_backend("loky", WatchingBackend)


def _wants_missing_gpu(ray: DictConfig) -> bool:
    here = OmegaConf.select(ray, "ray.init.address") == "local"
    return here and bool(OmegaConf.select(ray, "ray.remote.num_gpus")) and torch.cuda.device_count() == 0


@contextmanager
def explain_launcher() -> Iterator[None]:
    """Turn an error of a launcher's library into one line; jobs store their own errors and raise none.

    Raises:
        UserError: The cluster was not reached, refused the jobs, or ended one of them.
    """
    try:
        yield
    except Exception as error:
        library = type(error).__module__.partition(".")[0]
        if library not in ("joblib", "ray", "submitit") and not isinstance(error, ConnectionError):
            raise
        reason = " ".join(str(error).split())
        raise UserError(
            f"the launcher failed: {reason}; check its options, and repeat the command to run the jobs that are left"
        ) from error
