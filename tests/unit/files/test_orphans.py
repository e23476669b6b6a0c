"""Child processes end with their parent, whichever way it started them."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from torch.utils.data import DataLoader

from sdst.errors import UserError
from sdst.files.orphans import explain_dead_worker

PARENT = """
import multiprocessing, os, signal, sys, time
from sdst.files.orphans import begin_worker

def work():
    signal.signal(signal.SIGINT, signal.default_int_handler)
    begin_worker()
    os.kill(os.getpid(), signal.SIGINT)  # Ctrl-C is the parent's business
    print(os.getpid(), flush=True)
    time.sleep(600)

if __name__ == "__main__":
    method = sys.argv[1]
    if method == "os.fork":
        if os.fork() == 0:
            work()
    elif method == "joblib":
        from joblib.externals.loky import get_reusable_executor

        get_reusable_executor(1).submit(work)
    else:
        context = multiprocessing.get_context(method)
        for _ in range(2):
            context.Process(target=work).start()
    time.sleep(600)
"""


EARLY = """
import multiprocessing, os, sys
from sdst.files.orphans import end_with_parent

class Dead:
    pid, sentinel = int(sys.argv[1]), None

multiprocessing.process._parent_process = Dead()
end_with_parent()
input()
"""


def is_alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


@pytest.mark.parametrize(("method", "count"), [("fork", 2), ("spawn", 2), ("os.fork", 1), ("joblib", 1)])
def test_children_end_when_their_parent_is_killed(tmp_path: Path, method: str, count: int) -> None:
    if method == "joblib":
        pytest.importorskip("joblib")
    program = tmp_path / "parent.py"
    program.write_text(PARENT)
    parent = subprocess.Popen([sys.executable, str(program), method], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    children = [int(parent.stdout.readline()) for _ in range(count)]
    assert all(map(is_alive, children))
    parent.kill()
    parent.wait()
    deadline = time.monotonic() + 30
    while any(map(is_alive, children)):
        assert time.monotonic() < deadline, "a child outlives its parent"
        time.sleep(0.02)
    parent.stdout.close()


def test_death_of_a_loader_process_is_explained_in_one_line() -> None:
    with (
        pytest.raises(UserError, match=r"^a worker process has died.*; repeat, with a smaller --workers if"),
        explain_dead_worker("--workers", "repeat"),
    ):
        list(DataLoader([0, 1], num_workers=1, worker_init_fn=lambda _: os._exit(1)))
    for error in (RuntimeError, ConnectionResetError):
        with pytest.raises(error, match="another"), explain_dead_worker("--workers", "repeat"):
            raise error("another")


def test_death_of_a_process_that_sends_a_tensor_is_explained() -> None:
    context = torch.multiprocessing.get_context("fork")
    queue = context.SimpleQueue()
    sender = context.Process(target=lambda: (queue.put(torch.ones(2)), os._exit(0)))
    sender.start()
    sender.join()
    with (
        pytest.raises(UserError, match="a worker process has died"),
        explain_dead_worker("--workers", "repeat"),
    ):
        queue.get()


def test_a_child_whose_parent_died_before_it_could_watch_ends_too() -> None:
    dead = subprocess.Popen(["true"])
    dead.wait()
    child = subprocess.Popen([sys.executable, "-c", EARLY, str(dead.pid)], stdin=subprocess.PIPE)
    assert child.wait(30) == 1
    child.communicate()
