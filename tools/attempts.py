"""A command in a process of its own: it is watched, perhaps ended at a chosen moment or given a bad disk.

The process leads a session, so that every process it has left behind is found in the session afterwards.
"""

import contextlib
import errno
import fcntl
import multiprocessing
import os
import re
import resource
import signal
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from fnmatch import fnmatch
from multiprocessing import connection
from pathlib import Path
from typing import Any

from helpers.forked import send_stderr_to, server
from sdst.cli import main

POLL = 0.002
"""Seconds between two looks at a process that waits for its signal."""
CALM_POLL = 0.05
"""Seconds between two looks at any other."""
TIMEOUT = 600
"""Seconds after which a process counts as hung."""
END_SECONDS = 60
"""Seconds that the other processes of a command have to end after its main process."""
MARK = "SDST_ATTEMPT"
"""Environment variable that names the main process, for child processes that leave its session."""
SHARED = Path("/dev/shm")
"""Shared memory."""
WRITTEN = (".*.tmp", "*.partial", "*.csv")
"""Names of files that show by their size that something is being written."""


@dataclass(frozen=True)
class Strike:
    """A signal at a chosen moment.

    Attributes:
        seconds: Processor seconds of the command after which the signal is sent.
        number: The signal.
        victims: Processes that get it, found from the main process; while there are none, it waits.
        writing: Whether it waits until a file is being written.
        holding: Whether the child processes are stopped until the main process has died and its locks were tried, so
            that a lock which they share is noticed however fast they end.
    """

    seconds: float
    number: signal.Signals = signal.SIGKILL
    victims: Callable[[int], list[int]] = lambda main: [main]
    writing: bool = False
    holding: bool = False


@dataclass
class Ending:
    """How a command ended, and what it left behind.

    Attributes:
        status: Exit status, negative for a signal.
        stderr: Standard error.
        seconds: Processor seconds.
        struck: Whether the signal was sent before the end.
        orphans: Command lines of processes that outlived the main one.
        locks: Files that are still locked.
        shared: Files of its processes in shared memory.
    """

    status: int = 0
    stderr: str = ""
    seconds: float = 0.0
    struck: bool = False
    orphans: list[str] = field(default_factory=list)
    locks: list[Path] = field(default_factory=list)
    shared: list[Path] = field(default_factory=list)


def attempt(
    command: list[str],
    folder: Path,
    *,
    limit: int | None = None,
    opens: int | None = None,
    strike: Strike | None = None,
    prepare: Callable[[], None] | None = None,
) -> Ending:
    """Run a command to its end.

    Args:
        command: Arguments of ``sdst``.
        folder: Output folder of the command.
        limit: Size of the largest file it can write, in bytes.
        opens: Number of times it can write to the folder.
        strike: Signal to send.
        prepare: Function that the process calls first; it must be defined in a module of ``helpers``.
    """
    ours, theirs = server().Pipe(duplex=False)
    process = server().Process(target=_run, args=(command, theirs, limit, opens, str(folder), prepare))
    process.start()
    theirs.close()
    ending, seen, sizes, shared = Ending(), {process.pid}, _sizes(folder), set(SHARED.iterdir())
    until = time.monotonic() + TIMEOUT
    waits = strike is not None
    while not connection.wait([process.sentinel], timeout=POLL if waits else CALM_POLL):
        alive = family(process.pid)
        seen.update(alive)
        ending.seconds = max(ending.seconds, processor_seconds(alive))
        if strike and waits and ending.seconds >= strike.seconds:
            if strike.writing:
                before, sizes = sizes, _sizes(folder)
            is_time = not strike.writing or bool(sizes - before)
            if is_time and (victims := strike.victims(process.pid)):
                waits, ending.struck = False, True
                _hit(victims, strike, process, folder, ending)
        assert time.monotonic() < until, f"{command} hangs"
    process.join()
    ending.status = process.exitcode
    until = time.monotonic() + END_SECONDS
    while (left := members(process.pid)) and time.monotonic() < until:
        seen.update(left)
        time.sleep(CALM_POLL)
    for pid, name in left.items():
        ending.orphans.append(name)
        _send(pid, signal.SIGKILL)
    ending.locks += held_locks(folder)
    ending.shared += [path for path in shared_memory(seen) if path not in shared]
    with open(ours.fileno(), closefd=False, errors="replace") as output:
        ending.stderr = output.read()
    return ending


def _run(
    command: list[str],
    output: connection.Connection,
    limit: int | None,
    opens: int | None,
    folder: str,
    prepare: Callable[[], None] | None,
) -> None:
    """Run the command in the process, perhaps on a bad disk."""
    os.setsid()
    os.environ[MARK] = str(os.getpid())
    multiprocessing.set_start_method("fork", force=True)  # as in a program, whose parent is not a fork server
    send_stderr_to(output)
    if prepare is not None:
        prepare()
    if limit is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    if opens is not None:
        sys.addaudithook(_read_only_after(opens, folder))
    try:
        sys.exit(main(command))
    finally:
        # A program does this when it ends, but a process of multiprocessing first waits for its child processes, and
        # joblib's then wait for more work.
        threading._shutdown()


def _read_only_after(opens: int, folder: str) -> Callable[[str, tuple[Any, ...]], None]:
    """Return an audit hook that refuses writes below a folder after ``opens`` writes."""
    left = opens

    def hook(event: str, details: tuple[Any, ...]) -> None:
        nonlocal left
        writes = event in ("os.mkdir", "os.rename", "os.remove")
        writes |= event == "open" and bool(details[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT))
        if writes and str(details[0]).startswith(folder):
            left -= 1
            if left < 0:
                raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(details[0]))

    return hook


def _hit(victims: list[int], strike: Strike, process: Any, folder: Path, ending: Ending) -> None:
    """Send the signal; stop the child processes meanwhile if the strike says so."""
    stopped = family(process.pid)[1:] if strike.holding else []
    for pid in stopped:
        _send(pid, signal.SIGSTOP)
    for pid in victims:
        _send(pid, strike.number)
    if strike.holding:
        process.join()
        ending.locks += held_locks(folder)
    for pid in stopped:
        _send(pid, signal.SIGCONT)


def _send(pid: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


# --- what is there ---


def family(process: int) -> list[int]:
    """Return a process and all its descendants."""
    found = [process]
    with contextlib.suppress(OSError):  # it has ended
        for task in Path(f"/proc/{process}/task").iterdir():
            found += [pid for child in (task / "children").read_text().split() for pid in family(int(child))]
    return found


def workers(main: int) -> list[int]:
    """Return the child processes that work for a main process: those started by multiprocessing or joblib.

    Other programs, such as git, and Python's resource trackers are left out. A fork counts once it has a second thread,
    with which it watches its parent, because a program to be started is a fork for a moment as well.
    """
    found = []
    for pid in family(main)[1:]:
        line = _command_line(pid)
        is_fork = line == _command_line(main) and _count_threads(pid) > 1
        if is_fork or "multiprocessing.spawn" in line or "popen_loky" in line:
            found.append(pid)
    return found


def _count_threads(process: int) -> int:
    try:
        return len(list(Path(f"/proc/{process}/task").iterdir()))
    except OSError:
        return 0


def members(leader: int) -> dict[int, str]:
    """Return the command lines of the living processes that a main process has started, directly or not."""
    found, mark = {}, f"{MARK}={leader}\0".encode()
    for path in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # it has ended, or belongs to another user
            state, _, _, session = (path / "stat").read_text().rpartition(")")[2].split()[:4]
            if state not in "ZX" and (int(session) == leader or mark in (path / "environ").read_bytes()):
                found[int(path.name)] = _command_line(int(path.name))
    return found


def _command_line(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ").strip()
    except OSError:
        return ""


def processor_seconds(processes: list[int]) -> float:
    """Return the processor time of the processes in seconds."""
    used = 0
    for process in processes:
        with contextlib.suppress(OSError):
            tasks = Path(f"/proc/{process}/task").iterdir()
            used += sum(int((task / "schedstat").read_text().split()[0]) for task in tasks)
    return used / 1e9


def held_locks(folder: Path) -> list[Path]:
    """Return the files below a folder whose lock is held."""
    found = []
    for path in [*folder.rglob("*.lock"), *folder.rglob("*.partial")]:
        with contextlib.suppress(FileNotFoundError), path.open() as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                found.append(path)
    return found


def shared_memory(processes: set[int]) -> list[Path]:
    """Return the files in shared memory that are named after one of the processes, as PyTorch's and joblib's are."""
    return [
        path
        for path in SHARED.iterdir()
        if processes & {int(number) for number in re.findall(r"\d+", path.name)}
    ]


def _sizes(folder: Path) -> set[tuple[Path, int]]:
    """Return the files being written, with their sizes."""
    found = set()
    for place, _, names in os.walk(folder):
        for name in names:
            if any(fnmatch(name, pattern) for pattern in WRITTEN):
                with contextlib.suppress(OSError):  # it has just been renamed
                    found.add((Path(place, name), Path(place, name).stat().st_size))
    return found
