"""Somebody who looks at every run's shown state again and again, and holds it against what can be seen without us.

Who holds a run is read from the kernel's list of locks, whether its job is in the queue from squeue. What changed during a
look proves nothing and is left out. D done, R running and so on are the states of `experiments.store.schema`.
"""

from __future__ import annotations

import os
import subprocess
import threading
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import TracebackType

from experiments.state.state import FRESH_SECONDS, state_of
from experiments.store import schema
from experiments.store.run import RunDirectory
from experiments.store.states import AT_REST
from tests.support.stand_in_runs import wait_until

LOOK_SECONDS = 0.3
END_SECONDS = 60.0  # from a worker's last word to its end, on a disk that is slow to flush
STALE_SECONDS = FRESH_SECONDS + 1.0  # what was true of a job so long ago may still be shown
AT_AN_END = ("COMPLETED", "CANCELLED", "FAILED", "TIMEOUT", "NODE_FAIL", "OUT_OF_MEMORY")


@dataclass(frozen=True)
class Facts:
    held: bool  # a process has locked the run
    results: bool
    said: str | None  # its last word
    job: str | None
    word: str | None  # of squeue on that job; None: it does not list it
    answered: bool  # by squeue


def facts(path: Path, words: dict[str, str] | None) -> Facts:
    status = RunDirectory(path).status() or schema.Status()
    job = status.get("job")
    word = (words or {}).get(job or "")
    return Facts(_is_held(path), (path / schema.RESULTS).exists(), status.get("state"), job, word, words is not None)


def _is_held(path: Path) -> bool:
    try:
        inode = os.stat(path / schema.LOCK).st_ino
    except FileNotFoundError:
        return False
    # "1: FLOCK  ADVISORY  WRITE 812 08:01:4711 0 EOF": the sixth word ends with the inode. A waiting one has "->" before.
    locks = [line.split() for line in Path("/proc/locks").read_text().splitlines()]
    return any("WRITE" in line and "->" not in line and line[5].endswith(f":{inode}") for line in locks)


def squeue() -> dict[str, str] | None:
    said = subprocess.run(
        ["squeue", "-h", "-r", "-t", "all", "-o", "%i %T"], capture_output=True, text=True, check=False
    )
    if said.returncode:
        return None
    return dict(line.split() for line in said.stdout.splitlines())


def is_true(state: str, seen: Facts) -> bool:
    """May a run that looks like this be shown in that state?"""
    over = not seen.answered or seen.word is None or seen.word in AT_AN_END
    match state:
        case schema.RUNNING:
            return seen.held
        case schema.DONE:  # its worker may still be ending: after its last word it writes the end of the attempt
            return seen.results and (not seen.held or seen.said == schema.DONE)
        case schema.QUEUED:
            return not seen.held and (not over or seen.job is None or not seen.answered)
        case schema.LOST if seen.said == schema.LOST:  # by somebody who saw its end
            return not seen.held and not seen.results
        case schema.MISSING | schema.LOST | schema.PREEMPTED:  # another job may be sent after it
            return not seen.held and over and not seen.results
    return state == seen.said  # failed, cancelled: at rest by its last word, also while its worker still ends


@dataclass
class Witness:
    """Looks for as long as the block lasts; at its end every look must have been true."""

    root: Path
    looks: int = 0
    shown: dict[str, list[str]] = field(default_factory=dict)  # run id -> states in the order in which they were shown
    wrong: list[str] = field(default_factory=list)
    _words: list[tuple[float, str, str]] = field(
        default_factory=list
    )  # of squeue, of the last moments: when, job, word
    _ended: threading.Event = field(default_factory=threading.Event)

    def look(self) -> None:
        paths = [config.parent for config in self.root.glob(f"*/{schema.CONFIG}")]
        before = {path: facts(path, words) for words in [squeue()] for path in paths}
        states = {path: state_of(path).state for path in paths}
        after = {path: facts(path, words) for words in [squeue()] for path in paths}
        self._remember(before)
        for path, state in states.items():
            if before[path] == after[path]:
                self._hear(path.name, state, before[path])

    def _remember(self, seen: dict[Path, Facts]) -> None:
        now = time.monotonic()
        self._words = [old for old in self._words if now - old[0] < STALE_SECONDS]
        self._words += [(now, one.job, one.word) for one in seen.values() if one.job and one.word]

    def _hear(self, run_id: str, state: str, seen: Facts) -> None:
        self.looks += 1
        story = self.shown.setdefault(run_id, [])
        if story[-1:] != [state]:
            story.append(state)
        lately = [replace(seen, word=word) for _, job, word in self._words if job == seen.job]
        if not any(is_true(state, one) for one in (seen, *lately)):
            self.wrong.append(f"{run_id} was shown as {state}: {seen}")

    def __enter__(self) -> Witness:
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def _watch(self) -> None:
        while not self._ended.wait(LOOK_SECONDS):
            self.look()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        self._thread.join()
        if error is None:
            self.look()
            assert self.looks > 0
            assert not self.wrong, "\n".join(self.wrong[:10])
            wait_until(lambda: not self._still_held(), END_SECONDS)

    def _still_held(self) -> list[str]:
        """Runs with a last word whose worker has not ended."""
        paths = [config.parent for config in self.root.glob(f"*/{schema.CONFIG}")]
        said = {path: (RunDirectory(path).status() or {}).get("state") for path in paths}
        return [path.name for path in paths if said[path] in AT_REST and _is_held(path)]
