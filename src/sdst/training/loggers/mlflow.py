"""MLflow: all runs in one local database, or on the server of ``MLFLOW_TRACKING_URI``."""

from __future__ import annotations

import logging
import os
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from lightning.pytorch.loggers import MLFlowLogger
from lightning.pytorch.utilities import rank_zero_only

from sdst.config.words import leaves
from sdst.errors import UserError
from sdst.files.atomic import write_atomically
from sdst.files.locks import lock
from sdst.training.loggers.tracker import Tracker, check_log_model, is_reachable, require_packages

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from sdst.training.run_folder import RunFolder

logger = logging.getLogger(__name__)

RUN_ID = "mlflow-run-id"
"""The file of a run folder with the id of its MLflow run, which a resumed run continues."""
DATABASE = "mlflow.db"
"""The file with all runs, in the folder of runs. MLflow no longer develops its store of plain files, and refuses it."""
ARTIFACTS = "mlflow-artifacts"
"""The folder beside it with the checkpoints that ``log_model`` stores."""
URI = "MLFLOW_TRACKING_URI"


class MlflowTracker(Tracker, MLFlowLogger):
    """An MLflow logger that logs each step of a run once; MLflow would keep both values of a repeated step."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._resumes = False
        self._logged: dict[str, int] = {}  # key -> last step that an earlier part of the run has logged

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Log metrics as values of a training step, without those that an earlier part of the run has logged."""
        # MLflow allows no @ in names. Lightning would drop it, and warn at each step.
        named = {key.replace("@", "_"): value for key, value in metrics.items()}
        new = {key: value for key, value in named.items() if step is None or step > self._last_step(key)}
        if new:
            super().log_metrics(new, step)

    def _last_step(self, key: str) -> int:
        if self._resumes and key not in self._logged:
            history = self.experiment.get_metric_history(str(self.run_id), key)
            self._logged[key] = max((point.step for point in history), default=-1)
        return self._logged.get(key, -1)

    def start(self, run: RunFolder, values: dict[str, Any]) -> None:
        """Start or continue the MLflow run of a run folder; its parameters cannot change, and are logged once."""
        from mlflow.exceptions import MlflowException

        self._resumes = self._run_id is not None
        before = os.environ.get(URI)
        try:
            client = self.experiment
            if self._resumes:
                client.update_run(str(self.run_id), status="RUNNING")
        except MlflowException as error:
            reason = " ".join(str(error).split())
            advice = f"check {URI}"
            if self._resumes:
                advice = f"give the {URI} or paths.runs that the run had, or remove {run.path / RUN_ID}"
            raise UserError(
                f"logger.mlflow: {self._tracking_uri} refuses the run ({reason}); {advice}"
            ) from error
        finally:
            if before is None:  # Lightning has let MLflow set it, for all later runs of the process
                os.environ.pop(URI, None)
        if not self._resumes:
            write_atomically(run.path / RUN_ID, f"{self.run_id}\n")
            self.log_hyperparams(dict(leaves(values)))


def mlflow_logger(
    save_dir: str,
    runs: str,
    experiment: str,
    group: str | None,
    tags: Sequence[str],
    name: str | None = None,
    log_model: bool | str = False,
) -> MLFlowLogger:
    """The logger of the MLflow run that belongs to a run folder.

    Args:
        save_dir: Run folder. An MLflow run that was begun in it is continued.
        runs: Folder of the local database, if ``MLFLOW_TRACKING_URI`` is not set.
        experiment: MLflow experiment, which wandb calls a project.
        group: Value of the tag ``group``, such as a table's name.
        tags: Words to find the run by: ``attention=standard`` is a tag with a value, other words get the value true.
        name: Name of the run; None for the names of its folder and of the folder above.
        log_model: Whether the best checkpoint is stored as an artifact at the end; ``all`` for every new best one.

    Raises:
        UserError: A package is not installed, the server does not answer, or the database cannot be used.
    """
    require_packages("mlflow", "mlflow")
    check_log_model("mlflow", log_model)
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")  # it reports uses to MLflow's makers
    place, given = Path(runs).absolute(), os.environ.get(URI)
    uri = given or f"sqlite:///{place / DATABASE}"
    _check(uri)
    with nullcontext() if given else _alone_in(place):
        _prepare(uri, experiment, None if given else (place / ARTIFACTS).as_uri())
    pairs = [word.partition("=") for word in tags]
    folder, begun = Path(save_dir).absolute(), Path(save_dir, RUN_ID)
    return MlflowTracker(
        experiment_name=experiment,
        run_name=name or f"{folder.parent.name}/{folder.name}",
        tracking_uri=uri,
        tags={key: value or "true" for key, _, value in pairs} | ({} if group is None else {"group": group}),
        log_model=log_model,
        run_id=begun.read_text(encoding="utf-8").strip() if begun.is_file() else None,
    )


def _check(uri: str) -> None:
    """Refuse a store for which a package is missing, or a server that does not answer."""
    place = urlsplit(uri)
    if place.scheme == "sqlite":
        require_packages("mlflow", "sqlalchemy", "alembic", "cryptography")
    elif place.scheme in ("http", "https"):
        port = place.port or {"http": 80}.get(place.scheme, 443)
        if not is_reachable(place.hostname or "", port):
            raise UserError(f"logger.mlflow: no server answers at {uri}; start it, or correct or unset {URI}")


@contextmanager
def _alone_in(runs: Path) -> Iterator[None]:
    """Keep the other jobs of a multirun from making the database at the same time."""
    runs.mkdir(parents=True, exist_ok=True)
    if not (runs / DATABASE).exists():
        logger.info("mlflow: making %s, which takes some seconds", runs / DATABASE)
    with (runs / f"{DATABASE}.lock").open("a") as file:
        lock(file, wait=True)
        yield


def _prepare(uri: str, experiment: str, artifacts: str | None) -> None:
    """Make the database and the experiment if they are missing."""
    # Imported here because it takes seconds, which a missing package should not cost.
    from mlflow.tracking import MlflowClient

    logging.getLogger("mlflow").setLevel(logging.WARNING)  # it logs each step of making a database
    try:
        client = MlflowClient(uri)
        if client.get_experiment_by_name(experiment) is None:
            client.create_experiment(experiment, artifacts)
    except Exception as error:  # MLflow's own, or that of one of its databases
        raise UserError(
            f"logger.mlflow: {uri} cannot be used ({' '.join(str(error).split())}); "
            f"correct {URI} or logger.mlflow.experiment"
        ) from error
