"""Options that a run sets itself are refused in one line; those that it passes on, such as loggers, work."""

from collections.abc import Callable
from pathlib import Path

import pytest

from helpers.corpus import Corpus
from helpers.same_result import assert_same_result
from sdst.config.compose import compose
from sdst.errors import UserError
from sdst.training.builders import make_datamodule
from sdst.training.complete import SET_BY_SDST
from sdst.training.module import make_module

Train = Callable[..., Path]
FROM_RUN = [
    ("+data.seed=1", "data.seed", "give seed instead"),
    ("+data.levels={count:1}", "data.levels", "give levels instead"),
    ("+data.validation_split=test", "data.validation_split", "give select.split instead"),
]


@pytest.mark.parametrize(
    ("override", "named", "advice"),
    [*((f"+trainer.{key}=null", f"trainer.{key}", "remove it") for key in SET_BY_SDST), *FROM_RUN],
    ids=lambda text: text.partition("=")[0],
)
def test_what_a_run_sets_itself_is_refused_before_anything_is_written(
    train: Train,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    override: str,
    named: str,
    advice: str,
) -> None:
    train(tmp_path / "runs/run", override, status=2)
    (line,) = capsys.readouterr().err.splitlines()
    assert f"{named}: set " in line
    assert line.endswith(advice)
    assert not list(tmp_path.rglob("run"))


@pytest.mark.parametrize(("override", "named", "advice"), FROM_RUN, ids=lambda text: text.partition("=")[0])
def test_a_script_gives_the_data_module_no_options_of_the_run(
    corpus: Corpus, override: str, named: str, advice: str
) -> None:
    with pytest.raises(UserError, match=f"{named}: .*{advice}"):
        make_datamodule(compose([*corpus.overrides, override]))


def test_a_strategy_is_passed_to_the_trainer(train: Train, finished: Path, tmp_path: Path) -> None:
    assert_same_result(train(tmp_path / "run", "+trainer.strategy=auto"), finished)


@pytest.mark.parametrize(
    ("choice", "loggers"),
    [
        ("csv", {"csv"}),
        ("wandb", {"wandb"}),
        ("tensorboard", {"tensorboard"}),
        ("mlflow", {"mlflow"}),
        ("many", {"csv", "wandb", "tensorboard"}),
        ("[mlflow,tensorboard]", {"mlflow", "tensorboard"}),
        ("[csv,wandb]", {"csv", "wandb"}),
        ("none", set()),
    ],
)
def test_a_choice_of_loggers_composes(choice: str, loggers: set[str]) -> None:
    assert set(compose([f"logger={choice}"]).logger) == loggers


def test_cuda_graphs_are_left_out_where_there_is_no_gpu(
    corpus: Corpus, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiled = []
    monkeypatch.setattr("torch.nn.Module.compile", lambda _, **options: compiled.append(options))
    config = compose([*corpus.overrides, "compile=inductor", "compile_mode=reduce-overhead"])
    data = make_datamodule(config)
    with caplog.at_level("INFO", "sdst"):
        make_module(config, data.recipe)
    assert caplog.messages[-1] == "compile_mode=reduce-overhead has no effect, because training is on the CPU"
    config.trainer.accelerator = "gpu"
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.version.cuda", "13.0")
    monkeypatch.setattr("torch.cuda.get_device_capability", lambda: (9, 0))
    make_module(config, data.recipe)
    config.compile_mode = None
    make_module(config, data.recipe)
    assert [options["mode"] for options in compiled] == [None, "reduce-overhead", None]
