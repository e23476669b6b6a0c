"""A script with a plain ``L.Trainer`` does what ``sdst train`` does: fit, validate, test, predict, resume."""

import csv
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning as L
import pytest
from lightning.pytorch.callbacks import ModelCheckpoint

from helpers.composed import composed
from helpers.corpus import Corpus, make_corpus, make_rows
from helpers.same_result import assert_equal, load, read_json
from sdst.data.datamodule import GroundingDataModule
from sdst.metrics.evaluation import evaluate
from sdst.training.builders import make_datamodule
from sdst.training.module import GroundingModule, make_module
from sdst.training.run_folder import BEST, LAST
from sdst.types import Prediction

SILENT: dict[str, Any] = {
    "accelerator": "cpu",
    "logger": False,
    "enable_checkpointing": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
    "num_sanity_val_steps": 0,
}
FINER = ["decode.round_to=null", "trainer.max_epochs=4"]

pytestmark = [
    pytest.mark.filterwarnings("ignore:The '.*_dataloader' does not have many workers"),
    pytest.mark.filterwarnings("ignore:The number of training batches"),
]


def parts(overrides: Sequence[str]) -> tuple[GroundingModule, GroundingDataModule, float]:
    """The module, the data module and the limit of the gradient."""
    config = composed(*overrides)
    L.seed_everything(config.seed, verbose=False)
    data = make_datamodule(config)
    return make_module(config, data.recipe), data, config.trainer.gradient_clip_val


def fitted(
    overrides: Sequence[str], **options: Any
) -> tuple[L.Trainer, GroundingModule, GroundingDataModule]:
    module, data, limit = parts(overrides)
    trainer = L.Trainer(**{"max_epochs": 2, "gradient_clip_val": limit, **SILENT, **options})
    trainer.fit(module, datamodule=data)
    return trainer, module, data


@pytest.fixture(scope="module")
def script(corpus: Corpus) -> tuple[L.Trainer, GroundingModule, GroundingDataModule]:
    """What a plain trainer has fitted. Its weights stay as they are."""
    return fitted(corpus.overrides)


def assert_equal_predictions(left: Sequence[Prediction], right: Sequence[Prediction]) -> None:
    by_qid = {prediction.qid: prediction for prediction in right}
    assert len(left) == len(right) == len(by_qid)
    for one in left:
        other = by_qid[one.qid]
        assert (one.vid, one.query) == (other.vid, other.query)
        assert one.windows.tolist() == other.windows.tolist()
        assert one.saliency is not None
        assert other.saliency is not None
        assert one.saliency.tolist() == other.saliency.tolist()


def test_a_plain_trainer_fits_to_the_weights_and_metrics_of_sdst_train(
    corpus: Corpus, finished: Path
) -> None:
    trainer, module, _ = fitted(corpus.overrides)
    assert_equal(dict(module.state_dict()), dict(load(finished / LAST)["state_dict"]))
    assert module.metrics["brief"] == read_json(finished / "metrics.json")["last"]["val"]
    with open(finished / "csv/version_0/metrics.csv", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["val/loss"] and row["epoch"] == "1"]
    logged = {key: value for key, value in trainer.callback_metrics.items() if key.startswith("val/")}
    assert "val/MR-full-mAP" in logged
    for key, value in logged.items():
        assert float(value) == pytest.approx(float(rows[0][key]), abs=1e-6)


def test_the_script_in_the_documentation_runs(
    corpus: Corpus, finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = (Path(__file__).parents[3] / "docs/training.md").read_text(encoding="utf-8")
    (script,) = re.findall(r"```py\n(.*?)```", text, flags=re.DOTALL)
    for written, tiny in (('["data=qvhighlights"]', "overrides"), ("max_epochs=60", "max_epochs=2")):
        assert written in script
        script = script.replace(written, tiny)
    monkeypatch.chdir(tmp_path)  # Lightning writes its log and checkpoints here
    names: dict[str, Any] = {"overrides": corpus.overrides}
    exec(script, names)
    assert names["module"].metrics["brief"] == read_json(finished / "metrics.json")["last"]["val"]


def test_validate_gives_the_metrics_of_the_last_epoch(
    script: tuple[L.Trainer, GroundingModule, GroundingDataModule], finished: Path
) -> None:
    trainer, module, data = script
    (logged,) = trainer.validate(module, datamodule=data, verbose=False)
    brief = read_json(finished / "metrics.json")["last"]["val"]
    assert set(logged) == {"val/loss"} | {f"val/{key}" for key, value in brief.items() if value is not None}
    assert logged["val/MR-full-mAP"] == pytest.approx(brief["MR-full-mAP"], abs=1e-4)


def test_test_and_predict_use_the_test_split_and_agree(
    script: tuple[L.Trainer, GroundingModule, GroundingDataModule],
) -> None:
    trainer, module, data = script
    (logged,) = trainer.test(module, datamodule=data, verbose=False)
    records = data.load("test").records
    assert_equal(evaluate(module.predictions, records, "qvhighlights"), module.metrics)
    brief = {f"test/{key}": value for key, value in module.metrics["brief"].items() if value is not None}
    assert set(logged) == {"test/loss", *brief}
    assert {key: logged[key] for key in brief} == pytest.approx(brief, abs=1e-4)

    batches: Any = trainer.predict(module, datamodule=data)
    predictions = [prediction for batch in batches for prediction in batch]
    assert {prediction.qid for prediction in predictions} == {record.qid for record in records}
    assert_equal_predictions(predictions, module.predictions)


def test_a_trainer_tests_and_predicts_without_a_fit(corpus: Corpus) -> None:
    module, data, _ = parts(corpus.overrides)
    trainer = L.Trainer(**SILENT)
    assert "test/MR-full-mAP" in trainer.test(module, datamodule=data, verbose=False)[0]
    batches: Any = trainer.predict(module, datamodule=data)
    assert sum(len(batch) for batch in batches) == 4


@pytest.mark.parametrize("steps", [None, 4, 5, 6], ids=lambda steps: f"after {steps or 'an epoch'}")
def test_lightnings_own_checkpoints_resume_to_the_weights_of_an_uninterrupted_fit(
    corpus: Corpus, tmp_path: Path, steps: int | None
) -> None:
    """With three steps an epoch, after an epoch's end, its first and second step, and its last before validation."""
    lightnings: dict[str, Any] = {
        "enable_checkpointing": True,
        "num_sanity_val_steps": 2,
        "default_root_dir": tmp_path,
        "logger": True,
    }
    if steps is None:
        begun, _, _ = fitted([*corpus.overrides, *FINER], max_epochs=2, **lightnings)
    else:
        saves = ModelCheckpoint(tmp_path / "saved", every_n_train_steps=steps, save_top_k=-1)
        begun, _, _ = fitted([*corpus.overrides, *FINER], max_steps=steps, callbacks=[saves], **lightnings)
    checkpoint = begun.checkpoint_callback.best_model_path  # type: ignore[union-attr]
    assert load(Path(checkpoint))["global_step"] == (steps or 6)

    module, data, limit = parts([*corpus.overrides, *FINER])
    for parameter in module.parameters():  # the checkpoint replaces them
        parameter.data.zero_()
    trainer = L.Trainer(max_epochs=4, gradient_clip_val=limit, **SILENT | lightnings)
    trainer.fit(module, datamodule=data, ckpt_path=checkpoint, weights_only=True)
    assert (trainer.current_epoch, trainer.global_step) == (4, 12)

    _, whole, _ = fitted([*corpus.overrides, *FINER], max_epochs=4)
    assert_equal(dict(module.state_dict()), dict(whole.state_dict()))
    assert module.metrics == whole.metrics


def test_a_data_set_without_val_validates_on_the_test_split(tmp_path: Path) -> None:
    rows = {split: make_rows(split, 6, scores=False, text_qids=True) for split in ("train", "test")}
    corpus = make_corpus(tmp_path, rows, "charades", clip_seconds=1.0)
    trainer, module, data = fitted(corpus.overrides, max_epochs=1)
    assert "test/MR-full-mIoU" in trainer.callback_metrics
    (validated,) = trainer.validate(module, datamodule=data, verbose=False)
    (tested,) = trainer.test(module, datamodule=data, verbose=False)
    assert validated == tested
    assert {prediction.qid for prediction in module.predictions} == {row["qid"] for row in rows["test"]}


def test_load_from_checkpoint_restores_the_module_of_a_run(corpus: Corpus, finished: Path) -> None:
    module = GroundingModule.load_from_checkpoint(finished)
    best = load(finished / BEST)
    assert_equal(dict(module.state_dict()), dict(best["state_dict"]))
    assert not module.training
    _, data, _ = parts(corpus.overrides)
    L.Trainer(**SILENT).validate(module, datamodule=data, verbose=False)
    assert module.metrics["brief"] == read_json(finished / "metrics.json")["best"]["val"]
