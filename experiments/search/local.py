"""The workers of a search on this machine: started, followed by the record that they write, stopped by Ctrl-C."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

from experiments import schema
from experiments.machine import Slot
from experiments.pool import STOP_SIGNALS, last_line
from experiments.processes import child_environment, handling
from experiments.progress import clock
from experiments.schema import SearchRecord, TrialRecord
from experiments.search.address import STORAGE
from experiments.search.record import arm_of, finished, read_record

LOOK_SECONDS = 0.2
WORKER = (sys.executable, "-m", "experiments.search.worker")
SHOWN = (schema.DONE, schema.PRUNED, schema.FAILED)


@dataclass
class View:
    """Says in a line what each trial came to, once."""

    path: Path
    told: set[int] = field(default_factory=set)
    seen: float = 0.0

    def skip_past(self) -> None:
        """What ended before this launch is not news."""
        record = read_record(self.path)
        self.told = {t["number"] for t in record["trials"] if t["state"] in SHOWN} if record else set()

    def look(self) -> SearchRecord | None:
        changed = self.path.stat().st_mtime if self.path.exists() else 0.0
        if changed == self.seen:
            return None
        self.seen = changed
        record = read_record(self.path)
        if record is not None:
            for trial in record["trials"]:
                if trial["state"] in SHOWN and trial["number"] not in self.told:
                    self.told.add(trial["number"])
                    print(line(record, trial, len(finished(record))), flush=True)
        return record


def line(record: SearchRecord, trial: TrialRecord, count: int) -> str:
    so_far = f"{count}/{record['budget']}"
    head = f"{so_far:<8}{arm_of(trial['number']):<10}"
    words = ["diverged" if trial.get("diverged") else trial["state"]]
    if trial.get("values"):
        words.append(", ".join(f"{m} {v:.4g}" for m, v in zip(record["metrics"], trial["values"] or [], strict=True)))
    elif trial.get("reason"):
        words.append(f"({trial['reason']})")
    if (hours := trial.get("hours")) is not None:
        words.append(clock(hours * 3600))
    words.append(" ".join(f"{name}={value}" for name, value in trial.get("settings", {}).items()))
    return head + "  ".join(words)


@dataclass
class Workers:
    """One process per slot."""

    path: Path
    slots: Sequence[Slot]
    address: str | None
    interrupts: int = 0
    processes: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def run(self, view: View) -> bool:
        """Until the budget is spent or nothing comes of going on. Returns False if it was interrupted."""
        before = -1
        with handling(STOP_SIGNALS, self._interrupt):
            while not self.interrupts and before < (done := self._finished()) < self._budget():
                before = done
                self._round(view)
        return not self.interrupts

    def _round(self, view: View) -> None:
        """Workers leave when enough is under way; where one of them died on the last trials, another round makes up for it."""
        self.processes = [self._start(slot) for slot in self.slots]
        while any(process.poll() is None for process in self.processes):
            view.look()
            time.sleep(LOOK_SECONDS)
        view.look()

    def _record(self) -> SearchRecord:
        record = read_record(self.path)
        assert record is not None
        return record

    def _finished(self) -> int:
        record = self._record()
        return record["budget"] if record["failure"] else len(finished(record))

    def _budget(self) -> int:
        return self._record()["budget"]

    def _start(self, slot: Slot) -> subprocess.Popen[bytes]:
        environment = child_environment(**slot.environment, PYTHONUNBUFFERED="1")
        if self.address is not None:
            environment[STORAGE] = self.address
        with self.log(slot.number).open("ab") as log:
            return subprocess.Popen(
                [*WORKER, str(self.path)], stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment,
                start_new_session=True,
            )  # fmt: skip

    def log(self, number: int) -> Path:
        return self.path.parent / read_label(self.path) / f"worker-{number}.txt"

    def _interrupt(self, number: int, frame: FrameType | None) -> None:
        """Once: save and leave. Twice: killed, and the next launch goes on from the checkpoints."""
        self.interrupts += 1
        for process in self.processes:
            with suppress(ProcessLookupError):
                if process.poll() is None:
                    os.killpg(process.pid, signal.SIGTERM if self.interrupts == 1 else signal.SIGKILL)

    def failures(self) -> list[str]:
        """The last words of workers that ended otherwise than they should."""
        return [
            f"a worker ended with exit code {process.returncode}: {last_line(self.log(slot.number))}"
            for slot, process in zip(self.slots, self.processes, strict=False)
            if process.returncode not in (0, None)
        ]


def read_label(path: Path) -> str:
    return path.name.removesuffix(".json")
