"""Two real processes on a CPU take the same step as one process, and they end together."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch

from helpers.corpus import Corpus
from helpers.forked import Command, fork_ranks, server, terminate_at_step_2
from helpers.ranks import DENOISING, end_in_different_ways, gradients, save_gradients, share
from helpers.same_result import assert_same_result
from sdst.cli import main
from sdst.errors import UserError
from sdst.training.processes import run_processes
from sdst.training.run_folder import BEST, LAST

pytestmark = [pytest.mark.processes, pytest.mark.slow]

SMALL_STEPS = ["data.batch_size=2", "loss.weights.act=0"]  # one head gets no gradient at all
SHARES = [(0, 1), (2, 3, 0)]
"""Sample indices per process: shares of different lengths with a common video; sample 0 fills up the second share."""


@pytest.fixture
def forked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fork the training processes, so that they do not repeat the imports."""
    context = server()
    monkeypatch.setattr(torch.multiprocessing, "get_context", lambda method: context)


def test_two_processes_compute_the_loss_and_gradients_of_the_whole_batch(
    forked: None, tmp_path: Path
) -> None:
    names = ["sdst", DENOISING, "r2_tuning"]
    run_processes(2, save_gradients, names, SHARES, tmp_path)
    for name in names:
        whole = gradients(name, share(name, (0, 1, 2, 3)))
        assert len(whole) > 20
        for rank in range(2):
            found = torch.load(tmp_path / f"{name}-{rank}.pt", weights_only=True)
            assert found.keys() == whole.keys()
            for key, expected in whole.items():
                torch.testing.assert_close(found[key], expected, rtol=1e-4, atol=1e-6, msg=f"{name} {key}")


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("refuses", r"^f\.h5: no such file$"),
        ("breaks", "process 2 of 2 ended with exit status 1"),
        ("dies", "process 2 of 2 ended with SIGKILL"),
    ],
)
def test_failure_of_one_process_ends_all_processes(forked: None, how: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        run_processes(2, end_in_different_ways, how)


def start(
    corpus: Corpus, run_dir: Path, *overrides: str, prepare: Sequence[Callable[[], None]] = ()
) -> Command:
    arguments = [*corpus.overrides, "trainer.devices=2", f"run_dir={run_dir}", *overrides]
    return Command(["train", *arguments], fork_ranks, *prepare)


@pytest.fixture(scope="module")
def pair(corpus: Corpus, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """Folder of a two-process run, started as a user starts it, and the lines it printed."""
    run_dir = tmp_path_factory.mktemp("pair") / "run"
    arguments = [*corpus.overrides, "trainer.devices=2", f"run_dir={run_dir}", *SMALL_STEPS]
    program = "import sys; from sdst.cli import main; sys.exit(main())"
    done = subprocess.run(
        [sys.executable, "-c", program, "train", *arguments], stderr=subprocess.PIPE, text=True
    )
    assert done.returncode == 0, done.stderr
    return run_dir, done.stderr.splitlines()


def test_two_processes_write_one_run_whose_metrics_match_its_predictions(
    pair: tuple[Path, list[str]], corpus: Corpus, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_dir, lines = pair
    for line in ("trainable parameters", "epoch 1/2", "best of 2 epochs", "train: 10 queries"):
        assert sum(line in other for other in lines) == 1
    assert not [line for line in lines if "Warning" in line or "distributed" in line]
    result = json.loads((run_dir / "metrics.json").read_text())
    assert torch.load(run_dir / LAST, weights_only=True)["global_step"] == 2 * 3  # 10 queries, 2 x 2 a step
    for split in ("val", "test"):
        rows = [json.loads(line) for line in (run_dir / f"{split}_submission.jsonl").read_text().splitlines()]
        annotated = [json.loads(line)["qid"] for line in corpus.paths[split].read_text().splitlines()]
        assert sorted(row["qid"] for row in rows) == sorted(annotated)
        predicted = tmp_path / f"{split}.jsonl"
        files = ["--features", str(corpus.features), "--annotations", str(corpus.paths[split])]
        assert main(["predict", "--checkpoint", str(run_dir / BEST), *files, "--out", str(predicted)]) == 0
        capsys.readouterr()
        assert main(["evaluate", str(predicted), str(corpus.paths[split]), "--json"]) == 0
        assert json.loads(capsys.readouterr().out)["brief"] == result["best"][split]


def test_two_process_run_stopped_by_sigterm_resumes_to_the_same_result(
    pair: tuple[Path, list[str]], corpus: Corpus, tmp_path: Path
) -> None:
    run_dir = tmp_path / "run"
    status, lines = start(corpus, run_dir, *SMALL_STEPS, prepare=[terminate_at_step_2]).wait()
    assert status == 143
    assert lines[-1] == f"stopped by SIGTERM; continue with: sdst train resume={run_dir}"
    assert not [line for line in lines if "Error" in line or "Warning" in line]
    assert torch.load(run_dir / LAST, weights_only=True)["global_step"] == 2  # the first epoch has 3
    status, lines = Command(["train", f"resume={run_dir}"], fork_ranks).wait()
    assert status == 0, lines
    assert_same_result(run_dir, pair[0])


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="needs Linux to find the processes")
def test_killed_process_ends_the_run_with_a_one_line_error(corpus: Corpus, tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    process = start(corpus, run_dir, "trainer.max_epochs=100000")
    while not (run_dir / LAST).exists():
        assert process.is_alive, process.wait()
        time.sleep(0.1)
    ranks = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    assert len(ranks) == 2
    os.kill(int(ranks[1]), signal.SIGKILL)
    status, lines = process.wait()
    assert status == 2
    assert lines[-1].startswith("sdst: error: trainer.devices: process 2 of 2 ended with SIGKILL")
    assert not any(Path(f"/proc/{rank}").exists() for rank in ranks)
    torch.load(run_dir / LAST, weights_only=True)  # it loads, so it is complete


@pytest.mark.parametrize("devices", ["0", "-1", "[]", "[0,0]", "[-1]", "auto", "1.5", "true"])
def test_train_refuses_invalid_devices(
    corpus: Corpus, tmp_path: Path, capsys: pytest.CaptureFixture[str], devices: str
) -> None:
    arguments = [*corpus.overrides, f"trainer.devices={devices}", f"run_dir={tmp_path / 'run'}"]
    assert main(["train", *arguments]) == 2
    assert "trainer.devices" in capsys.readouterr().err


def test_two_devices_are_refused_for_short_splits_resumed_runs_and_sweeps(
    forked: None, corpus: Corpus, finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "one.jsonl").write_text(corpus.paths["test"].read_text().splitlines()[0])
    arguments = [*corpus.overrides, "trainer.devices=2", f"data.annotations.test={tmp_path / 'one.jsonl'}"]
    assert main(["train", *arguments, f"run_dir={tmp_path / 'run'}"]) == 2
    assert "data.annotations.test: needs at least one row for each of 2" in capsys.readouterr().err
    assert main(["train", f"resume={finished}", "trainer.devices=2"]) == 2
    assert "was started with trainer.devices=1" in capsys.readouterr().err
    assert main(["sweep", "table3", "trainer.devices=2", f"paths.runs={tmp_path}"]) == 2
    assert "one device" in capsys.readouterr().err
