"""Workers that start at once: one process imports torch, and each run is a fork of it.

The fork is taken before any computation, from a process with a single thread, so a run is as separate as one started from
scratch: own process and session, own log, own threads; it can be killed without its siblings noticing. Where the import
leaves threads behind, the zygote says so and goes, and runs are started one by one.

Both ends speak JSON lines: `{"start": RUN_DIR, "environment": {...}}` down; `{"ready": true}`, `{"pid": n}` and
`{"ended": n, "status": code}` up. When the launcher is gone, the zygote goes; its runs go on.
"""

from __future__ import annotations

import gc
import json
import os
import select
import signal
import subprocess
import sys
import time
from importlib import import_module
from pathlib import Path
from typing import Any

from experiments.run.machine import THREADS
from experiments.store.schema import LOG

PRELOADED = ("moco.train",)


def serve() -> int:
    """The process that forks: `python -m experiments.worker --serve`."""
    for name in PRELOADED:
        import_module(name)
    from experiments.run.provenance import code

    code()  # asked once, before the checkout can change
    threads = len(os.listdir("/proc/self/task"))
    if threads != 1:
        _say({"ready": False, "reason": f"the import left {threads} threads"})
        return 1
    gc.collect()
    gc.freeze()  # children share these pages: the collector must not touch them
    _say({"ready": True})
    waker, wake = os.pipe()
    os.set_blocking(wake, False)
    signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda number, frame: None)
    return _Server(waker, wake).loop()


class _Server:
    def __init__(self, waker: int, wake: int) -> None:
        self.pipes = (waker, wake)
        self.received = b""

    def loop(self) -> int:
        while True:
            readable, _, _ = select.select([0, self.pipes[0]], [], [])
            if self.pipes[0] in readable:
                os.read(self.pipes[0], 4096)
                _reap()
            if 0 in readable:
                chunk = os.read(0, 65536)
                if not chunk:
                    return 0
                self.received += chunk
                self._obey()

    def _obey(self) -> None:
        *lines, self.received = self.received.split(b"\n")
        for line in lines:
            request = json.loads(line)
            pid = os.fork()
            if pid == 0:
                self._become_worker(Path(request["start"]), request["environment"])
            _say({"pid": pid})

    def _become_worker(self, path: Path, environment: dict[str, str]) -> None:
        """Never returns."""
        code = 1
        try:
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            for pipe in self.pipes:
                os.close(pipe)
            os.setsid()
            _redirect(path / LOG)
            os.environ.update(environment)
            code = _work(path)
        except BaseException as error:
            print(f"{type(error).__name__}: {error}", file=sys.stderr)
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)


def _work(path: Path) -> int:
    import torch

    from experiments.run.worker import main

    # The variables themselves are read when torch is loaded, which was before the fork.
    torch.set_num_threads(int(os.environ[THREADS]))
    return main([str(path)])


def _redirect(log: Path) -> None:
    nothing, file = os.open(os.devnull, os.O_RDONLY), os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
    for source, target in ((nothing, 0), (file, 1), (file, 2)):
        os.dup2(source, target)
    os.close(nothing)
    os.close(file)


def _reap() -> None:
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if pid == 0:
            return
        _say({"ended": pid, "status": os.waitstatus_to_exitcode(status)})


def _say(message: dict[str, Any]) -> None:
    """A launcher that is gone hears nothing; the loop notices at its next read."""
    try:
        os.write(1, json.dumps(message).encode() + b"\n")
    except BrokenPipeError:
        return


class Zygote:
    """The launcher's end. `start` gives the pid of a new worker; None when the zygote cannot serve (any more)."""

    def __init__(self, environment: dict[str, str]) -> None:
        self.exit_codes: dict[int, int] = {}
        self.ready = False
        self._received = b""
        self._answers: list[dict[str, Any]] = []
        self._process = subprocess.Popen(
            [sys.executable, "-m", "experiments.run.worker", "--serve"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=environment,
            start_new_session=True,
            bufsize=0,
        )

    def start(self, path: Path, environment: dict[str, str]) -> int | None:
        if not self.ready:
            self.ready = bool((self._wait_for("ready") or {}).get("ready"))
        if not self.ready or self._process.stdin is None:
            return None
        try:
            self._process.stdin.write(json.dumps({"start": str(path), "environment": environment}).encode() + b"\n")
        except BrokenPipeError:
            return None
        answer = self._wait_for("pid")
        return answer["pid"] if answer else None

    def abandon(self) -> None:
        """Do not wait for the import. No run hangs on it yet."""
        self._process.kill()

    def exit_code(self, pid: int, patience: float = 1.0) -> int | None:
        """Of a worker that is known to have ended; None if the zygote cannot tell. Its message may still be on the way."""
        deadline = time.monotonic() + patience
        while pid not in self.exit_codes and self._readable(deadline - time.monotonic()) and self._read():
            pass
        return self.exit_codes.pop(pid, None)

    def close(self) -> None:
        """The zygote goes when its input ends; its children, if any, go on."""
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()
        self._process.wait()

    def _wait_for(self, key: str) -> dict[str, Any] | None:
        """The next answer with that key; None once the zygote is gone."""
        while True:
            for answer in self._answers:
                if key in answer:
                    self._answers.remove(answer)
                    return answer
            if not self._read():
                return None

    def _read(self) -> bool:
        """Wait for something and sort it: ends of runs here, answers there. False at the end of the stream."""
        assert self._process.stdout is not None
        chunk = os.read(self._process.stdout.fileno(), 65536)
        *lines, self._received = (self._received + chunk).split(b"\n")
        for line in lines:
            message: dict[str, Any] = json.loads(line)
            if "ended" in message:
                self.exit_codes[message["ended"]] = message["status"]
            else:
                self._answers.append(message)
        return bool(chunk)

    def _readable(self, timeout: float) -> bool:
        assert self._process.stdout is not None
        return bool(select.select([self._process.stdout], [], [], max(0.0, timeout))[0])
