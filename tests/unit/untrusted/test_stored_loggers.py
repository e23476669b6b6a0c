"""Loggers of a stored run: its own may be built, none that sends the run or a key to a stranger's server."""

from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import yaml
from omegaconf import OmegaConf

from helpers.composed import composed
from sdst.cli import main
from sdst.config.compose import group_choices
from sdst.errors import UserError
from sdst.training.resume import stored_run
from sdst.untrusted.loggers import check_stored_loggers

STRANGE: list[dict[str, Any]] = [
    {
        "_target_": "lightning.pytorch.loggers.WandbLogger",
        "project": "p",
        "settings": {"base_url": "http://host"},
    },
    {
        "_target_": "sdst.training.loggers.wandb.wandb_logger",
        "project": "p",
        "settings": {"base_url": "http://host"},
    },
    {"_target_": "sdst.training.loggers.wandb.wandb_logger", "project": "p", "config": "/etc/passwd"},
    {"_target_": "lightning.pytorch.loggers.MLFlowLogger", "tracking_uri": "http://host"},
    {"_target_": "sdst.training.loggers.mlflow.mlflow_logger", "tracking_uri": "http://host"},
    {"_target_": "lightning.pytorch.loggers.CSVLogger", "save_dir": "/elsewhere"},
    {"_target_": "lightning.pytorch.loggers.CSVLogger", "name": "/elsewhere"},
    {"_target_": "lightning.pytorch.loggers.TensorBoardLogger", "name": "tb", "version": "../../elsewhere"},
    {"_target_": "lightning.pytorch.loggers.TensorBoardLogger", "sub_dir": "$HOME"},
    {"name": "csv"},
]


@pytest.mark.parametrize("node", STRANGE)
def test_a_logger_that_could_name_a_server_is_refused(node: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=r"run: logger\.x.* of this stored run .*trust=true"):
        check_stored_loggers({"csv": {"_target_": "lightning.pytorch.loggers.CSVLogger"}, "x": node}, "run")


@pytest.mark.parametrize("choice", group_choices()["logger"])
def test_the_loggers_that_users_choose_are_accepted(choice: str) -> None:
    loggers: Any = OmegaConf.to_container(composed(f"logger={choice}").logger, resolve=True)
    before = deepcopy(loggers)
    check_stored_loggers(loggers, "run")
    assert loggers == before  # accepted as it is: nothing is dropped in silence


def test_resuming_a_strangers_run_asks_for_trust(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config: Any = OmegaConf.to_container(composed(), resolve=True)
    config["logger"] = {"w": STRANGE[0]}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    assert main(["train", f"resume={tmp_path}"]) == 2
    assert "add trust=true if the run is yours" in capsys.readouterr().err
    assert main(["train", f"resume={tmp_path}", "trust=true"]) == 2  # goes on to what else is wrong
    assert "trust" not in capsys.readouterr().err
    assert main(["train", "trust=true"]) == 2
    assert "trust=true is about the run that resume=RUN names" in capsys.readouterr().err
    assert main(["train", f"resume={tmp_path}", "trust=yes"]) == 2
    assert "trust must be true or false" in capsys.readouterr().err


def test_a_database_for_all_runs_lies_above_the_run_or_where_the_user_says(tmp_path: Path) -> None:
    run_dir = tmp_path / "runs/run"
    run_dir.mkdir(parents=True)

    def place(stored: Path, *overrides: str) -> str:
        config: Any = OmegaConf.to_container(composed("logger=mlflow"), resolve=True)
        config["logger"]["mlflow"]["runs"] = str(stored)
        (run_dir / "config.yaml").write_text(yaml.safe_dump(config))
        return str(stored_run(str(run_dir), overrides)[1].logger.mlflow.runs)

    assert place(tmp_path / "runs") == str(tmp_path / "runs")
    assert place(tmp_path / "runs", "paths.runs=mine") == "mine"
    assert place(tmp_path / "others") == composed().paths.runs
