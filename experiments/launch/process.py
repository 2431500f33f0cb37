"""Processes with a log and an environment of their own, forked from a server that has imported torch once.

The server is that of `multiprocessing`, prepared by `experiments.launch.fork_server`. It has a single thread and computes
nothing, so a forked child is as independent as a new interpreter: it can be killed without affecting the others, and it
outlives its launcher. The server lives as long as a child or the launcher. Without a server (not on Linux, or an import
leaves threads), "spawn" starts a new interpreter for each child.

    Work, Starter, Child            what processes do; starts them; a started one
    how_it_ended, last_line         exit code and log in words
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing import forkserver, process, resource_tracker
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import ModuleType
from typing import Any, NoReturn

from experiments.launch import fork_server
from experiments.run.machine import THREADS
from experiments.store.states import child_environment, is_alive, process_started

SERVER_GONE = 255  # exit code that multiprocessing gives a child whose server has died
TICK_SECONDS = 0.05
SLOWER = "warning: no fork server could be kept; each process imports torch itself, which takes some seconds more"


@dataclass(frozen=True)
class Work:
    """`function`: importable (never of `__main__`), returns the exit code. `preload`: modules that the server imports.

    `own_session`: signals of the terminal and of Slurm to all processes of the launcher's session do not reach it.
    """

    function: Callable[..., int | None]
    preload: tuple[str, ...] = ()
    own_session: bool = True


class Child:
    """A started process."""

    def __init__(self, started: BaseProcess) -> None:
        assert started.pid is not None
        self._process, self.pid, self._started = started, started.pid, process_started(started.pid)

    def is_alive(self) -> bool:
        if self._process.exitcode == SERVER_GONE:
            return is_alive(self.pid, self._started)
        return self._process.exitcode is None

    @property
    def exit_code(self) -> int | None:
        """Minus the signal that killed it; None while it is alive, and if its server died before it."""
        code = self._process.exitcode
        return None if code == SERVER_GONE else code

    def wait(self) -> int | None:
        """Its exit code once it has ended."""
        while self.is_alive():
            time.sleep(TICK_SECONDS)
        return self.exit_code

    def send(self, number: signal.Signals) -> None:
        """Does nothing if it has ended."""
        if self.is_alive():
            with suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def kill(self) -> None:
        """Kill it and the processes that it has started. Only for a child with a session of its own."""
        self.send(signal.SIGKILL)
        with suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)


class Starter:
    """Starts processes that do `work`."""

    def __init__(self, work: Work) -> None:
        self.work = work
        self.forks = sys.platform == "linux"

    def start(
        self, arguments: tuple[Any, ...], environment: Mapping[str, str], log: Path, wanted: Callable[[], bool]
    ) -> Child | None:
        """Start `function(*arguments)` in a process. The first start waits for the server's imports.

        `wanted`: whether to go on if the server ends meanwhile; returns None if not. Raises OSError if no process can be
        started.
        """
        if self.forks:
            try:
                return self._start("forkserver", arguments, environment, log)
            except (EOFError, ConnectionError):  # the server may not be forked, or was killed by `kill_server`
                if not wanted():
                    return None
                self.forks = False
                print(SLOWER, file=sys.stderr)
        return self._start("spawn", arguments, environment, log)

    def _start(self, method: str, arguments: tuple[Any, ...], environment: Mapping[str, str], log: Path) -> Child:
        context: Any = multiprocessing.get_context(method)
        own = child_environment(**environment, PYTHONUNBUFFERED="1")
        started = context.Process(target=_child, args=(self.work, arguments, own, str(log)))
        with self._launching(environment):
            started.start()
        process._children.discard(started)  # type: ignore[attr-defined]  # else the launcher waits for it at its exit
        return Child(started)

    @contextmanager
    def _launching(self, environment: Mapping[str, str]) -> Iterator[None]:
        """While the block runs, our environment is that of a new server or spawned child, and there is no main module.

        Otherwise multiprocessing would run the user's script again in every child, to find functions there.
        """
        more = child_environment(**environment, PYTHONUNBUFFERED="1")
        if self.forks:
            forkserver.set_forkserver_preload([fork_server.__name__])
            more[fork_server.PRELOAD] = ",".join(self.work.preload)
            more[fork_server.SESSION] = "own" if self.work.own_session else "shared"
        if not self.work.own_session:
            signal.pthread_sigmask(signal.SIG_BLOCK, fork_server.IGNORED)  # until it can handle them
        before, main = dict(os.environ), sys.modules["__main__"]
        os.environ.update(more)
        sys.modules["__main__"] = ModuleType("__main__")
        try:
            yield
        finally:
            sys.modules["__main__"] = main
            for name in more.keys() - before.keys():
                del os.environ[name]
            os.environ.update(before)
            if not self.work.own_session:
                signal.pthread_sigmask(signal.SIG_UNBLOCK, fork_server.IGNORED)


def kill_server() -> None:
    """Kill the server while it still imports and has no children."""
    pid = getattr(forkserver._forkserver, "_forkserver_pid", None)
    if pid is not None:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def _child(work: Work, arguments: tuple[Any, ...], environment: Mapping[str, str], log: str) -> NoReturn:
    """The main function of a new process."""
    if work.own_session:
        os.setsid()
        signal.signal(signal.SIGINT, signal.default_int_handler)  # whatever the launcher, or a shell's background, has
    else:
        fork_server.ignore(signal.SIGUSR2)  # until it has a handler: the launcher repeats its signals
        for number in fork_server.IGNORED - {signal.SIGUSR2}:
            signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, fork_server.IGNORED)
        threading.Thread(target=_end_with_launcher, daemon=True).start()
    descriptor = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
    for output in (1, 2):
        os.dup2(descriptor, output)
    os.close(descriptor)
    os.environ.clear()
    os.environ.update(environment)
    multiprocessing.set_start_method(None, force=True)  # processes that it starts itself use the default method
    tracker: Any = resource_tracker._resource_tracker  # the launcher's, which keeps its terminal open
    if tracker._fd is not None:
        os.close(tracker._fd)
        tracker._fd = None
    threads = environment.get(THREADS, "")
    if (torch := sys.modules.get("torch")) is not None and threads.isdigit():
        torch.set_num_threads(int(threads))  # torch read the variable when it was imported, before the fork
    sys.exit(work.function(*arguments))


def _end_with_launcher() -> None:
    """If the launcher is killed, send SIGTERM to this process, so that it saves and ends."""
    launcher = multiprocessing.parent_process()
    assert launcher is not None
    launcher.join()
    os.kill(os.getpid(), signal.SIGTERM)


def how_it_ended(code: int | None) -> str:
    """An exit code in words; None is an unknown one."""
    if code is None:
        return "ended"
    if code >= 0:
        return f"ended with exit code {code}"
    hint = " (out of memory?)" if code == -signal.SIGKILL else ""
    return f"killed by {signal.Signals(-code).name}{hint}"


def last_line(log: Path) -> str:
    """The last line of a log that is not empty."""
    try:
        lines = log.read_text(errors="replace").splitlines()
    except OSError:
        return "no log"
    return next((line.strip() for line in reversed(lines) if line.strip()), "empty log")
