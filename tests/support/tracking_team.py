"""`python -m experiments serve` as a child process, and what tests do around it."""

from __future__ import annotations

import os
import selectors
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def serving(folder: Path, port: int, *arguments: str, **environment: str) -> Iterator[subprocess.Popen[str]]:
    """`serve` with these arguments, ended by Ctrl-C as a user ends it."""
    command = [sys.executable, "-m", "experiments", "serve", "--port", str(port), "--workers", "1", *arguments]
    env = {**os.environ, "MOCO_RUNS": str(folder), **environment}
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=env, start_new_session=True
    ) as process:
        try:
            yield process
        finally:
            process.send_signal(signal.SIGINT)
            process.wait(timeout=60)


def told_until(process: subprocess.Popen[str], last: str) -> str:
    assert process.stdout is not None
    lines = []
    for line in process.stdout:
        lines.append(line)
        if last in line:
            return "".join(lines)
    raise AssertionError("".join(lines))


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Watch:
    """The command lines of a server's processes, which name its port, looked at again and again for a secret."""

    def __init__(self, port: int, *secrets: str) -> None:
        self._port, self._secrets, self._ended, self.looks, self.found = (
            str(port),
            secrets,
            threading.Event(),
            0,
            set[str](),
        )
        self._thread = threading.Thread(target=self._look)

    def _look(self) -> None:
        while not self._ended.wait(0.02):
            self.looks += 1
            for file in Path("/proc").glob("[0-9]*/cmdline"):
                try:
                    line = file.read_text(errors="replace").replace("\0", " ")
                except OSError:
                    continue
                if self._port in line:  # other tests start servers of their own at the same time
                    self.found |= {line for secret in self._secrets if secret in line}

    def __enter__(self) -> Watch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()


class Line:
    """A port that leads to the server while it is open; closed, nobody listens there."""

    def __init__(self, to: int) -> None:
        self.to, self.port = to, free_port()

    @contextmanager
    def open(self) -> Iterator[None]:
        with socket.create_server(("127.0.0.1", self.port)) as listener, selectors.DefaultSelector() as both:
            ended = threading.Event()
            thread = threading.Thread(target=self._carry, args=(listener, both, ended))
            thread.start()
            try:
                yield
            finally:
                ended.set()
                thread.join()
                for key in list(both.get_map().values()):
                    key.fileobj.close()  # type: ignore[union-attr]

    def _carry(self, listener: socket.socket, both: selectors.BaseSelector, ended: threading.Event) -> None:
        both.register(listener, selectors.EVENT_READ)
        while not ended.is_set():
            for key, _ in both.select(timeout=0.05):
                if key.fileobj is listener:
                    here, there = listener.accept()[0], socket.create_connection(("127.0.0.1", self.to))
                    both.register(here, selectors.EVENT_READ, there)
                    both.register(there, selectors.EVENT_READ, here)
                    continue
                end: socket.socket = key.fileobj  # type: ignore[assignment]
                data = end.recv(1 << 16)
                if data:
                    key.data.sendall(data)
                    continue
                for side in (end, key.data):
                    both.unregister(side)
                    side.close()


def wait_until(condition: Callable[[], bool], seconds: float = 240.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.1)
