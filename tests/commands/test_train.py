"""``sdst train`` on tiny corpora: what a run writes, that it repeats and resumes exactly, and that it learns."""

import csv
import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from helpers.corpus import TINY, Corpus, make_corpus, make_rows
from helpers.forked import Command, die_at_step_8
from helpers.same_result import assert_equal, assert_same_result, load, read_json
from sdst.cli import main
from sdst.metrics import collector
from sdst.metrics.evaluation import evaluate
from sdst.training.module import GroundingModule
from sdst.training.resume import run_lock
from sdst.training.run_folder import BEST, LAST

Train = Callable[..., Path]
FINER = ["decode.round_to=null", "trainer.max_epochs=4"]


# --- what a run writes ---


def test_run_folder_has_configuration_origin_and_result(finished: Path, corpus: Corpus) -> None:
    config = yaml.safe_load((finished / "config.yaml").read_text())
    assert (config["model"]["dim"], config["seed"], config["run_dir"]) == (16, 0, str(finished))
    assert config["data"]["annotations"]["val"] == str(corpus.paths["val"])
    assert "${" not in (finished / "config.yaml").read_text()
    facts = read_json(finished / "run.json")
    assert {"command", "git", "versions", "machine", "parameters", "features"} <= set(facts)
    assert facts["features"]["simulated"] is True
    result = read_json(finished / "metrics.json")
    assert (result["dataset"], result["simulated"], result["epochs"]) == ("qvhighlights", True, 2)
    assert result["selected"].keys() == {"split", "metric", "epoch"}
    assert set(result["best"]) == {"val", "test"}
    assert (finished / "csv/version_0/metrics.csv").is_file()


def test_checkpoints_hold_weights_and_plain_configuration_and_run_no_code(finished: Path) -> None:
    config = yaml.safe_load((finished / "config.yaml").read_text())
    features = read_json(finished / "run.json")["features"]
    count = read_json(finished / "run.json")["parameters"]["total"]
    for name in (LAST, BEST):
        stored = load(finished / name)
        assert stored["sdst"] == {"version": 1, "config": config, "recipe": features}
        assert sum(weight.numel() for weight in stored["state_dict"].values()) == count
    assert "optimizer_states" not in load(finished / BEST)


def test_training_can_begin_with_the_weights_of_another_run(
    train: Train, finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    still = ["optim.lr=1e-30", "optim.weight_decay=0", "trainer.max_epochs=1"]
    run_dir = train(tmp_path / "tuned", f"init_from={finished}", *still)
    assert_equal(dict(load(run_dir / LAST)["state_dict"]), dict(load(finished / BEST)["state_dict"]))
    train(tmp_path / "wider", f"init_from={finished}", "model.dim=32", status=2)
    assert f"init_from={finished}: weights do not fit the configuration" in capsys.readouterr().err


@pytest.mark.parametrize("split", ["val", "test"])
def test_submission_passes_evaluate_with_the_numbers_that_the_run_logged(
    finished: Path, corpus: Corpus, capsys: pytest.CaptureFixture[str], split: str
) -> None:
    submission = finished / f"{split}_submission.jsonl"
    assert main(["evaluate", str(submission), str(corpus.paths[split]), "--json"]) == 0
    brief = json.loads(capsys.readouterr().out)["brief"]
    assert brief == read_json(finished / "metrics.json")["best"][split]
    with open(finished / "csv/version_0/metrics.csv", newline="") as file:
        logged = [row for row in csv.DictReader(file) if row[f"{split}/MR-full-mAP"]][-1]
    for name, value in brief.items():
        assert value is None or float(logged[f"{split}/{name}"]) == pytest.approx(value, abs=1e-4)


def test_best_checkpoint_has_the_best_validation(finished: Path) -> None:
    with open(finished / "csv/version_0/metrics.csv", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["val/MR-full-mAP"] and not row["test/loss"]]
    by_epoch = {int(row["epoch"]): float(row["val/MR-full-mAP"]) for row in rows}
    result = read_json(finished / "metrics.json")
    assert by_epoch[result["selected"]["epoch"]] == max(by_epoch[0], by_epoch[1])
    assert result["best"]["val"]["MR-full-mAP"] == pytest.approx(max(by_epoch[0], by_epoch[1]), abs=1e-4)
    assert load(finished / BEST)["epoch"] == result["selected"]["epoch"]


@pytest.mark.slow
@pytest.mark.processes
def test_console_script_draws_no_progress_bar_without_a_terminal(
    finished: Path, corpus: Corpus, tmp_path: Path
) -> None:
    script = Path(sys.executable).with_name("sdst")
    arguments = [script, "train", *corpus.overrides, "run_dir=here"]
    done = subprocess.run(arguments, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""
    assert f"submission files: {tmp_path / 'here'}" in done.stderr
    assert "SIMULATED" in done.stderr
    assert not set(done.stderr) & {"\x1b", "\r", "\x08"}  # nothing a progress bar would write
    assert sorted(path.name for path in tmp_path.iterdir()) == ["here"]
    assert_same_result(tmp_path / "here", finished)


# --- the same run again ---


@pytest.fixture(scope="module")
def uninterrupted(corpus: Corpus, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run_dir = tmp_path_factory.mktemp("uninterrupted") / "run"
    assert main(["train", *corpus.overrides, *FINER, f"run_dir={run_dir}"]) == 0
    return run_dir


@pytest.mark.slow
def test_same_seed_gives_the_same_run_with_any_number_of_workers(
    train: Train, tmp_path: Path, uninterrupted: Path
) -> None:
    assert_same_result(train(tmp_path / "same", *FINER, "data.num_workers=2"), uninterrupted)
    other = load(train(tmp_path / "other", *FINER, "seed=1") / LAST)
    assert not torch.equal(
        other["state_dict"]["model.queries"], load(uninterrupted / LAST)["state_dict"]["model.queries"]
    )


@pytest.mark.processes
def test_a_killed_run_resumed_as_latest_equals_an_uninterrupted_one_exactly(
    corpus: Corpus, tmp_path: Path, uninterrupted: Path
) -> None:
    arguments = [*corpus.overrides, *FINER, f"run_dir={tmp_path / 'runs/killed'}"]
    status, output = Command(["train", *arguments], die_at_step_8).wait()  # the second of the third epoch
    assert status == -signal.SIGKILL, output
    assert load(tmp_path / "runs/killed" / LAST)["epoch"] == 1
    shutil.copytree(uninterrupted, tmp_path / "runs/later")  # a finished run is not the one to resume
    assert main(["train", "resume=latest", f"paths.runs={tmp_path / 'runs'}"]) == 0
    assert_same_result(tmp_path / "runs/killed", uninterrupted)


class PowerCutError(Exception):
    pass


@pytest.mark.parametrize(
    ("method", "call"),
    [
        ("on_validation_epoch_end", 2),
        ("on_validation_epoch_end", 5),  # all epochs are done: the best checkpoint is being evaluated
        ("on_validation_epoch_end", 6),
    ],
)
def test_a_run_interrupted_anywhere_resumes_to_the_same_result(
    train: Train,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    uninterrupted: Path,
    method: str,
    call: int,
) -> None:
    original, calls = getattr(GroundingModule, method), []

    def interrupted(self: GroundingModule, *arguments: Any) -> Any:
        calls.append(None)
        if len(calls) == call:
            raise PowerCutError
        return original(self, *arguments)

    monkeypatch.setattr(GroundingModule, method, interrupted)
    run_dir = tmp_path / "run"
    with pytest.raises(PowerCutError):
        train(run_dir, *FINER)
    monkeypatch.undo()
    assert not (run_dir / "metrics.json").exists()
    stored = load(run_dir / LAST)
    stored["callbacks"]["StepTimer"]["fit_seconds"] += 1e6  # as if it had been trained for long
    torch.save(stored, run_dir / LAST)
    assert main(["train", f"resume={run_dir}"]) == 0
    assert_same_result(run_dir, uninterrupted)
    assert read_json(run_dir / "metrics.json")["fit_seconds"] > 1e6


def test_the_best_epoch_before_an_interruption_stays_the_best(
    train: Train, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    step, steps, scores = GroundingModule.training_step, [], iter([10.0, 50.0, 30.0, 20.0, 0.0, 0.0])

    def scored(*arguments: Any) -> dict[str, Any]:
        result = evaluate(*arguments)
        result["brief"]["MR-full-mAP"] = next(scores)
        return result

    def interrupted(self: GroundingModule, *arguments: Any) -> torch.Tensor:
        steps.append(None)
        if len(steps) == 7:  # the first of the third epoch
            raise PowerCutError
        return step(self, *arguments)

    monkeypatch.setattr(collector, "evaluate", scored)
    monkeypatch.setattr(GroundingModule, "training_step", interrupted)
    with pytest.raises(PowerCutError):
        train(tmp_path / "run", *FINER)
    assert main(["train", f"resume={tmp_path / 'run'}"]) == 0
    assert read_json(tmp_path / "run/metrics.json")["selected"]["epoch"] == 1


def test_resuming_with_more_epochs_continues_and_updates_the_folder(
    train: Train, tmp_path: Path, finished: Path
) -> None:
    run_dir = tmp_path / "run"
    shutil.copytree(finished, run_dir)
    (run_dir / "metrics.json").unlink()
    assert main(["train", f"resume={run_dir}", "trainer.max_epochs=3"]) == 0
    assert read_json(run_dir / "metrics.json")["epochs"] == 3
    assert yaml.safe_load((run_dir / "config.yaml").read_text())["trainer"]["max_epochs"] == 3
    assert_same_result(run_dir, train(tmp_path / "at once", "trainer.max_epochs=3"))


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def refusal(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    capsys.readouterr()
    assert main(["train", *arguments]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    return line


def test_a_finished_run_is_never_overwritten(
    finished: Path, corpus: Corpus, capsys: pytest.CaptureFixture[str]
) -> None:
    before = contents(finished)
    for arguments in ([*corpus.overrides, f"run_dir={finished}"], [f"resume={finished}"]):
        line = refusal(capsys, *arguments)
        assert str(finished) in line
        assert "finished" in line
        assert contents(finished) == before


def test_an_unfinished_run_is_refused_without_resume(
    finished: Path, corpus: Corpus, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(finished, tmp_path / "run")
    (tmp_path / "run/metrics.json").unlink()
    before = contents(tmp_path)
    line = refusal(capsys, *corpus.overrides, f"run_dir={tmp_path / 'run'}")
    assert f"resume={tmp_path / 'run'}" in line
    assert contents(tmp_path) == before


@pytest.mark.parametrize(
    ("override", "named"),
    [
        ("data=tacos", "another data, which cannot change"),
        ("model=sdst", "another model, which cannot change"),
        ("model.dim=32", "another model.dim, which cannot change"),
        ("levels.count=1", "another levels.count, which cannot change"),
        ("optim.lr=0.5", "another optim.lr, which cannot change"),
        ("seed=5", "another seed, which cannot change"),
        ("trainer.accumulate_grad_batches=2", "another trainer.accumulate_grad_batches, which cannot change"),
    ],
)
def test_resume_refuses_options_that_would_change_the_run(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], override: str, named: str
) -> None:
    shutil.copytree(finished, tmp_path / "run")
    (tmp_path / "run/metrics.json").unlink()
    before = contents(tmp_path)
    line = refusal(capsys, f"resume={tmp_path / 'run'}", override)
    assert str(tmp_path / "run") in line
    assert named in line
    assert contents(tmp_path) == before


def test_a_second_process_cannot_train_the_same_run(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_dir = tmp_path / "run"
    shutil.copytree(finished, run_dir)
    (run_dir / "metrics.json").unlink()
    latest = ["resume=latest", f"paths.runs={tmp_path}"]
    with run_lock(run_dir):  # a lock counts within a process too
        before = contents(run_dir)
        assert "another process trains this run" in refusal(capsys, f"resume={run_dir}")
        assert "no unfinished run" in refusal(capsys, *latest)
        assert contents(run_dir) == before
    (tmp_path / "run.yaml").touch()  # as beside the job of a sweep
    assert "no unfinished run" in refusal(capsys, *latest)
    (tmp_path / "run.yaml").unlink()
    assert main(["train", *latest]) == 0
    assert (run_dir / "metrics.json").exists()
    assert not (run_dir / "run.lock").exists()


def test_a_refused_run_leaves_no_folder(corpus: Corpus, tmp_path: Path) -> None:
    options = [*corpus.overrides, f"run_dir={tmp_path / 'run'}"]
    assert main(["train", *options, "trainer.limit_val_batches=0.001"]) == 2
    assert list(tmp_path.iterdir()) == []


def test_resume_finds_data_that_moved(
    corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("d/qvhighlights").mkdir(parents=True)
    for split, name in (("train", "train_release"), ("val", "val_release"), ("test", "test_with_gt")):
        shutil.copy(corpus.paths[split], f"d/qvhighlights/highlight_{name}.jsonl")
    shutil.copy(corpus.features, "d/qvhighlights.h5")
    command = ["data=qvhighlights", *TINY]
    assert main(["train", *command, "paths.data=d", "paths.features=d", "run_dir=run"]) == 0
    Path("run/metrics.json").unlink()
    Path("d").rename("moved here")
    moved = ["paths.data=moved here", "paths.features=moved here"]
    assert "needs data=NAME" in refusal(capsys, "resume=run", *moved)
    assert main(["train", "resume=run", *command, *moved]) == 0
    assert "moved here/qvhighlights.h5" in Path("run/config.yaml").read_text()


def test_limited_validation_leaves_the_metrics_of_the_best_checkpoint_whole(
    train: Train, corpus: Corpus, tmp_path: Path
) -> None:
    run_dir = train(tmp_path / "run", "trainer.limit_val_batches=1", "trainer.max_epochs=1")
    for split in ("val", "test"):
        predicted = (run_dir / f"{split}_submission.jsonl").read_text().splitlines()
        assert len(predicted) == len(corpus.paths[split].read_text().splitlines())


def test_resume_refuses_a_damaged_checkpoint_one_of_weights_alone_and_a_folder_without_a_run(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_dir = tmp_path / "run"
    shutil.copytree(finished, run_dir)
    (run_dir / "metrics.json").unlink()
    (run_dir / LAST).write_bytes((run_dir / LAST).read_bytes()[:5000])
    assert str(LAST) in refusal(capsys, f"resume={run_dir}")
    shutil.copy(run_dir / BEST, run_dir / LAST)
    assert "state of training is missing" in refusal(capsys, f"resume={run_dir}")
    assert "not a run folder" in refusal(capsys, f"resume={tmp_path}")


# --- search ---


def search(
    corpus: Corpus, folder: Path, capsys: pytest.CaptureFixture[str], *overrides: str
) -> tuple[int, list[str]]:
    """Exit status and error lines of a search for the learning rate."""
    pytest.importorskip("hydra_plugins.hydra_optuna_sweeper", reason="hydra-optuna-sweeper is not installed")
    fixed = [override for override in corpus.overrides if not override.startswith("optim.lr=")]
    status = main(["train", "-m", *fixed, "hydra/sweeper=optuna", f"run_dir={folder}", *overrides])
    return status, [line for line in capsys.readouterr().err.splitlines() if line.startswith("sdst: error")]


def test_a_search_reports_the_trial_with_the_highest_selected_metric(
    corpus: Corpus, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sampler = ["hydra/sweeper/sampler=random", "hydra.sweeper.sampler.seed=1", "hydra.sweeper.n_trials=6"]
    status, errors = search(corpus, tmp_path / "sweep", capsys, "optim.lr=1e-6,1e-1,-1", *sampler)
    assert status == 2
    assert "lr" in errors[0]
    values = {}
    for path in tmp_path.rglob("metrics.json"):
        rate = yaml.safe_load((path.parent / "config.yaml").read_text())["optim"]["lr"]
        values[rate] = read_json(path)["best"]["val"]["MR-full-mAP"]
    assert set(values) == {1e-6, 1e-1}
    found = yaml.safe_load((tmp_path / "sweep/optimization_results.yaml").read_text())
    assert found["best_value"] == max(values.values()) > min(values.values())
    assert values[float(found["best_params"]["optim.lr"])] == found["best_value"]


def test_a_search_whose_trials_are_all_refused_says_why(
    corpus: Corpus, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    status, errors = search(corpus, tmp_path / "sweep", capsys, "optim.lr=-1", "hydra.sweeper.n_trials=2")
    assert status == 2
    assert errors[0].count("lr") == 2


# --- steps ---


@pytest.mark.parametrize("accumulate", [1, 2])
def test_every_batch_of_every_epoch_draws_its_own_dropout(
    train: Train, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, accumulate: int
) -> None:
    step, seeds = GroundingModule.training_step, []

    def recorded(self: GroundingModule, *arguments: Any) -> torch.Tensor:
        seeds.append(torch.initial_seed())
        return step(self, *arguments)

    monkeypatch.setattr(GroundingModule, "training_step", recorded)
    train(tmp_path / "run", f"trainer.accumulate_grad_batches={accumulate}")
    assert len(set(seeds)) == len(seeds) == 6
    train(tmp_path / "other", "seed=1", "trainer.max_epochs=1")
    assert not set(seeds[:6]) & set(seeds[6:])


def test_logged_loss_is_the_weighted_sum_of_its_terms(train: Train, tmp_path: Path) -> None:
    run_dir = train(tmp_path / "run", "loss.weights.sal=0.5", "loss.weights.layer=0")
    with open(run_dir / "csv/version_0/metrics.csv", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["train/loss"]]
    weights = {"cls": 1, "l1": 1, "iou": 1, "act": 1, "sal": 0.5, "video": 0.1}
    assert len(rows) == 6
    for row in rows:
        terms = {key.removeprefix("train/loss_"): value for key, value in row.items() if "train/loss_" in key}
        assert terms.keys() == weights.keys()
        total = sum(weight * float(terms[name]) for name, weight in weights.items())
        assert float(row["train/loss"]) == pytest.approx(total, rel=1e-5)
        levels = {key: float(value) for key, value in row.items() if key.startswith("train/level_")}
        assert levels.keys() == {
            f"train/level_{k}/{name}" for k in (1, 2) for name in ("cls", "l1", "iou", "video")
        }
        for name, share in {"cls": 1, "l1": 1, "iou": 1, "video": 1 / 2}.items():
            both = sum(levels[f"train/level_{k}/{name}"] for k in (1, 2))
            assert share * both == pytest.approx(float(terms[name]), rel=1e-5)


@pytest.mark.parametrize("attention", ["standard", "deformable", "pure_init", "mixed_init"])
def test_every_attention_of_table_5_trains_and_repeats(train: Train, tmp_path: Path, attention: str) -> None:
    options = [f"attention={attention}", "trainer.max_epochs=1", "data.annotations.test=null"]
    first, second = (train(tmp_path / name, *options) for name in ("first", "second"))
    assert_equal(load(first / LAST)["state_dict"], load(second / LAST)["state_dict"])
    proposes = any(".propose." in name for name in load(first / LAST)["state_dict"])
    assert proposes == attention.endswith("_init")


def test_mixed_precision_trains_to_finite_but_other_weights(
    train: Train, tmp_path: Path, finished: Path
) -> None:
    weights = load(train(tmp_path / "run", "trainer.precision=bf16-mixed") / LAST)["state_dict"]
    assert all(weight.isfinite().all() and weight.dtype == torch.float32 for weight in weights.values())
    exact = load(finished / LAST)["state_dict"]
    assert any(not torch.equal(weights[name], exact[name]) for name in exact)


@pytest.mark.slow
def test_a_compiled_model_trains_to_the_same_weights(tmp_path: Path) -> None:
    from torch._dynamo.utils import counters

    rows = make_rows("train", 10)
    same = make_corpus(tmp_path, {"train": rows, "val": rows})  # one shape to compile
    short = [*same.overrides, "data.batch_size=10", "levels.count=1", "attention=standard"]
    counters.clear()
    runs = [tmp_path / "run", tmp_path / "eager"]
    assert main(["train", *short, f"run_dir={runs[1]}"]) == 0
    assert counters["frames"]["total"] == 0
    assert main(["train", *short, "compile=eager", f"run_dir={runs[0]}"]) == 0
    assert counters["frames"]["ok"] > 0
    weights, eager = (load(run / LAST)["state_dict"] for run in runs)
    assert weights.keys() == eager.keys()
    for name in eager:
        torch.testing.assert_close(weights[name], eager[name], rtol=1e-4, atol=1e-6)


def test_recomputing_activations_trains_to_the_same_weights(
    train: Train, finished: Path, tmp_path: Path
) -> None:
    weights, kept = (
        load(run / LAST)["state_dict"] for run in (train(tmp_path / "run", "recompute=true"), finished)
    )
    for name in kept:
        torch.testing.assert_close(weights[name], kept[name], rtol=0, atol=0)


# --- data sets and loggers ---


def test_a_test_split_without_labels_gives_a_submission_but_no_metrics(tmp_path: Path) -> None:
    rows = {split: make_rows(split, 4) for split in ("train", "val", "test")}
    rows["test"] = [{key: row[key] for key in ("qid", "query", "vid", "duration")} for row in rows["test"]]
    corpus = make_corpus(tmp_path, rows)
    assert main(["train", *corpus.overrides, f"run_dir={tmp_path / 'run'}"]) == 0
    assert set(read_json(tmp_path / "run/metrics.json")["best"]) == {"val"}
    submission = (tmp_path / "run/test_submission.jsonl").read_text().splitlines()
    assert sorted(json.loads(line)["qid"] for line in submission) == [row["qid"] for row in rows["test"]]


@pytest.mark.parametrize(("data", "splits"), [("charades", "train test"), ("tacos", "train val test")])
def test_datasets_with_one_moment_and_no_saliency_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], data: str, splits: str
) -> None:
    rows = {split: make_rows(split, 6, scores=False, text_qids=True) for split in splits.split()}
    corpus = make_corpus(tmp_path, rows, data, clip_seconds=1.0 if data == "charades" else 2.0)
    run_dir = tmp_path / "run"
    assert main(["train", *corpus.overrides, "trainer.max_epochs=1", f"run_dir={run_dir}"]) == 0
    result = read_json(run_dir / "metrics.json")
    assert result["dataset"] == data
    assert set(result["best"]) == set(splits.split()[1:])
    assert result["selected"]["split"] == splits.split()[1]
    capsys.readouterr()
    files = [str(run_dir / "test_submission.jsonl"), str(corpus.paths["test"])]
    assert main(["evaluate", *files, "--dataset", data, "--json"]) == 0
    brief = json.loads(capsys.readouterr().out)["brief"]
    assert brief == result["best"]["test"]
    assert {"MR-full-R1@0.3", "MR-full-mIoU"} <= set(brief)
    assert not any(name.startswith("HL") for name in brief)


# --- learning ---


@pytest.mark.slow
def test_training_overfits_one_batch(tmp_path: Path) -> None:
    rows = make_rows("train", 16)
    corpus = make_corpus(tmp_path, {"train": rows, "val": rows}, video_dim=64, text_dim=64)
    learn = [
        *("model.dropout=0", "model.drop_path=0", "model.dim=64", "model.heads=4", "model.num_queries=6"),
        *("optim.lr=4e-3", "optim.warmup_steps=10", "optim.decay_epochs=120", "optim.weight_decay=0"),
        *("data.batch_size=16", "trainer.max_epochs=150", "trainer.check_val_every_n_epoch=150"),
        *("decode.round_to=null", "trainer.log_every_n_steps=4"),
    ]
    overrides = [*corpus.overrides, *learn, f"paths.runs={tmp_path}", f"run_dir={tmp_path / 'run'}"]
    assert main(["train", *overrides]) == 0
    assert read_json(tmp_path / "run/metrics.json")["last"]["val"]["MR-full-R1@0.7"] > 95
