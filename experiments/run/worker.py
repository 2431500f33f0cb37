"""One attempt at one run: `python -m experiments.run.worker RUN_DIR`.

Holds the run's lock, trains, writes journal and status, and records how the attempt ended. Signals only set a flag, which
the trainer checks after each step; it then saves. After a killed attempt the next one resumes from the last checkpoint.

    attempt     the attempt; returns the state of the run
    main        the same as a command; exit codes DONE, FAILED, TAKEN, STOPPED
"""

from __future__ import annotations

import logging
import math
import os
import sys
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from experiments.plan.configs import config_of
from experiments.plan.sweep import total_steps
from experiments.run import distributed, provenance
from experiments.run.machine import gpu_driver, hardware, visible_gpus
from experiments.run.readouts import learn_registered
from experiments.run.stop import STOP_SIGNALS, TIME_LIMIT_SIGNAL, StopRequest, beating, logging_to
from experiments.run.system import SystemMetrics
from experiments.store import causes, metrics, schema
from experiments.store.files import Appender, age_of, now, read_json, replace_json
from experiments.store.journal import RESUMED_AT, add_line, last_values
from experiments.store.run import Busy, RunDirectory
from experiments.store.states import handling, this_process
from moco.errors import Diverged, GpuOutOfMemory, PeerFailed, PeerLost
from moco.evaluation.hits import hits_of
from moco.speed import Way

if TYPE_CHECKING:
    from moco.train import Record

DONE, FAILED, TAKEN, STOPPED = (
    0,
    1,
    73,
    75,
)  # exit codes: done, failed, another process has the run, saved and resumable
STATUS_SECONDS = 0.5  # between two writes of status.json, which waits for the disk,
STATUS_SHARE = 0.02  # so on a slow one they are further apart: at most so much of the time goes into them
SYNC_SECONDS = 1.0  # between two flushes of the journal to the disk

LOGGER = logging.getLogger("experiments.run.worker")
OnStatus = Callable[[schema.Status], None]


def main(arguments: list[str]) -> int:
    if len(arguments) != 1:
        print("usage: python -m experiments.run.worker RUN_DIR", file=sys.stderr)
        return 2
    try:
        distributed.adopt_step()
        state = attempt(Path(arguments[0]).absolute())
    except Busy as busy:
        print(f"{busy}; nothing started", file=sys.stderr)
        return TAKEN
    except ValueError as error:
        print(f"error: {error}", file=distributed.standard_error())
        return 2
    except Exception:
        if distributed.rank():
            return FAILED  # rank 0 prints the error
        raise
    return {schema.DONE: DONE, distributed.FOLLOWED: DONE, schema.FAILED: FAILED}.get(state, STOPPED)


def attempt(
    path: Path,
    *,
    on_status: OnStatus = lambda status: None,
    reraise: bool = False,
    on_signal: Callable[[str], None] = lambda name: None,
) -> str:
    """Continue the run at `path` until it is done, fails or is stopped; returns its state.

    `on_status`: called with the status whenever it is written. `reraise`: raise an error of the run after recording it.
    `on_signal`: called at the end with the name of a signal that was received, also if the run was done before it could
    stop. In a run of several processes this holds for rank 0; the others return `distributed.FOLLOWED`.
    Raises Busy if another process works on the run, ValueError if there is no run.
    """
    run = RunDirectory(path)
    stop = StopRequest(run)
    with handling(STOP_SIGNALS, stop.set):
        way = way_of(run)
        config = way.of(config_of(run)) if way else config_of(run)
        if distributed.rank():
            return distributed.follow(run, config, stop)
        log = logging_to(path / schema.LOG, "moco", LOGGER.name)
        with distributed.leading(config, stop) as peers, run.locked(), log:
            if (run.status() or {}).get("state") == schema.DONE and run.results() is not None:
                return schema.DONE  # by another process, since this one was started
            run.tidy()
            # Reads the heartbeat of a killed attempt, so before the first of this one.
            this = _Attempt(run, way, stop, on_status, peers)
            with beating(run, this.number):
                try:
                    return this.carry_out(reraise)
                finally:
                    if stop.signal is not None:
                        on_signal(stop.signal)
                    run.tidy()


def way_of(run: RunDirectory) -> Way | None:
    """What the launch has decided for all runs of a sweep in place of `auto`, if this node can do it."""
    way = None
    with suppress(ValueError, AttributeError):  # a damaged record of the launch: the run decides for itself
        way = Way.read((read_json(run.path / schema.ENVIRONMENT) or {}).get("way"))
    return way.here(distributed.size(), gpus=len(visible_gpus())) if way else None


class _Attempt:
    def __init__(
        self, run: RunDirectory, way: Way | None, stop: StopRequest, on_status: OnStatus, peers: distributed.Peers
    ) -> None:
        self.run, self.stop, self.on_status, self.peers, self.config = run, stop, on_status, peers, config_of(run)
        self.way, self.device = way, (way.of(self.config) if way else self.config).train.device
        self.began, self.wrote_status, self.status_cost, self.synced = time.monotonic(), 0.0, 0.0, 0.0
        before = run.status() or schema.Status()
        fresh = schema.Status(
            state=schema.RUNNING,
            reason=None,
            cause=None,
            diverged=False,
            step=before.get("step", 0),
            epoch=before.get("epoch", 0.0),
            images_per_s=None,
            knn=before.get("knn"),
        )
        self.status: schema.Status = {**fresh, **provenance.job_facts()}
        earlier = self.run.attempts()
        self.readouts: int | None = None  # of final readouts that were stopped: what they have kept
        self.number = 1 + sum(line["event"] == "start" for line in earlier)
        self._close_killed(earlier)
        self.earlier_seconds = sum(line.get("seconds", 0.0) for line in self.run.attempts())

    def _close_killed(self, earlier: list[schema.Attempt]) -> None:
        """Record the end of an earlier attempt that was killed, with the time that it lived by its last heartbeat.

        By the clock of its own process; an older version left only the time of day of its last heartbeat.
        """
        if not earlier or earlier[-1]["event"] == "end":
            return
        end = schema.Attempt(
            event="end",
            attempt=earlier[-1]["attempt"],
            time=now(),
            state=schema.LOST,
            reason="killed; found by the next attempt",
            cause=causes.KILLED,
        )
        lived = self.run.lived(earlier[-1]["attempt"])
        if lived is None and (age := self.run.heartbeat_age()) is not None:
            since = age_of(earlier[-1].get("time", "")) - age
            lived = since if 0 <= since < math.inf else None
        if lived is not None:  # without a heartbeat its length is not known
            end["seconds"] = round(lived, 3)
        self.run.append_attempt(end)

    def carry_out(self, reraise: bool) -> str:
        self._begin()
        try:
            state, reason, cause = self._train()
        except Exception as error:
            self.peers.abandon()
            LOGGER.error("%s", traceback.format_exc().rstrip())
            self.status["diverged"] = isinstance(error, Diverged)
            state = schema.LOST if isinstance(error, PeerLost) else schema.FAILED
            self._end(state, one_line(error), _cause(error))
            if reraise:
                raise
            return state
        self._end(state, reason, cause)
        return state

    def _begin(self) -> None:
        host, pid, started = this_process()
        code = provenance.code()
        line = schema.Attempt(
            event="start",
            attempt=self.number,
            time=now(),
            host=host,
            pid=pid,
            process_started=started,
            hardware=hardware(self.device),
            driver=gpu_driver(),
            commit=code.commit,
            uncommitted=code.uncommitted,
            ranks=distributed.size(),
        )
        self.run.append_attempt({**line, **provenance.job_facts()})
        LOGGER.info("attempt %d: process %d on %s, commit %s", self.number, pid, host, code.commit)
        if self.way:
            LOGGER.info("%s", self.way.line)
        self._write_status()

    def _train(self) -> tuple[str, str | None, str | None]:
        """State, reason and cause at the end of the iteration."""
        if self.stop():
            return self._stopped()
        self.status["total_steps"] = total_steps(self.config)
        self.records = self.run.records()
        if not self._finished():
            self._iterate()
        if not self._finished():
            return self._stopped()
        self._write_results()
        return schema.DONE, None, None

    def _iterate(self) -> None:
        # torch takes seconds: imported when the lock is held, so that a second process leaves at once.
        from moco.train import Paused, Resumed, train

        self.system = SystemMetrics(self.device)
        with self.run.journal() as journal:
            self.stop.before_save = journal.sync
            checkpoints = (self.run.path / name for name in (schema.CHECKPOINT, schema.PREVIOUS))
            if self.records and not any(map(os.path.lexists, checkpoints)):
                self._append(journal, {RESUMED_AT: 0})  # killed before its first checkpoint: start from the beginning
            for item in self.peers.train(lambda: train(self.config, self.run.path, self.stop, self.way)):
                if isinstance(item, Resumed):
                    self._append(journal, {RESUMED_AT: item.step})
                    self.status["step"] = item.step
                    LOGGER.info("resumed after step %d", item.step)
                elif isinstance(item, Paused):
                    self.status["step"], self.status["epoch"] = item.step, item.epoch
                    self.readouts = item.readouts
                else:
                    # Before the record that ends the run: a run that is done has its hits, or never had any.
                    self.run.add_hits(hits_of(item.values))
                    self._append(journal, self._line(item), sync=self._sync_due(item))
                    self._update_status(item)

    def _append(self, journal: Appender, line: dict[str, Any], *, sync: bool = True) -> None:
        """To the file and to `records`, so that the file is read only once."""
        journal.append(line, sync=sync)
        add_line(self.records, line)

    def _line(self, record: Record) -> dict[str, Any]:
        line = {"step": record.step, "epoch": record.epoch, "time": round(time.time(), 3), "values": record.values}
        system = self.system.due()
        return {**line, "system": system} if system else line

    def _sync_due(self, record: Record) -> bool:
        """Whether to flush to the disk: after an evaluation, whose checkpoint relies on its records; else every second."""
        evaluated = any(name.startswith(("validation/", "test/")) for name in record.values)
        due = evaluated or time.monotonic() - self.synced >= SYNC_SECONDS
        self.synced = time.monotonic() if due else self.synced
        return due

    def _update_status(self, record: Record) -> None:
        """From a record; written at most every `STATUS_SECONDS`, and always after a kNN evaluation."""
        self.status["step"], self.status["epoch"] = record.step, record.epoch
        self.status["images_per_s"] = record.values.get("speed/images_per_s", self.status["images_per_s"])
        if "validation/knn20_top1" in record.values:
            self.status["knn"] = record.values["validation/knn20_top1"]
            LOGGER.info("epoch %g: kNN %.1f %%", record.epoch, self.status["knn"])
            self.wrote_status = 0.0  # a search may decide on it to prune the run,
            self.stop.check_files_next()  # which then stops at the next step
        if time.monotonic() - self.wrote_status >= max(STATUS_SECONDS, self.status_cost / STATUS_SHARE):
            self._write_status()

    def _finished(self) -> bool:
        """Whether the final readouts are in the journal and the weights are saved."""
        final = any(name.startswith("test/") for record in self.records for name in record["values"])
        return final and (self.run.path / schema.ENCODER).exists()

    def _write_results(self) -> None:
        groups: dict[str, dict[str, float]] = {"test": {}, "validation": {}, "readout": {}}
        for name, value in last_values(self.records).items():
            group, _, readout = name.partition("/")
            if group in groups:
                groups[group][readout] = value
        seconds = round(self.earlier_seconds + self._seconds(), 3)
        learn_registered()
        results: dict[str, Any] = {**groups, "seconds": seconds, "steps": self.status["total_steps"]}
        if records := metrics.unshipped(groups["test"]):
            results["metrics"] = records
        replace_json(self.run.path / schema.RESULTS, results, sync=True)
        (self.run.path / schema.STOPPED_READOUTS).unlink(missing_ok=True)  # of an attempt that was killed at its end
        self.status["step"] = self.status["total_steps"]
        readouts = ", ".join(f"{k} {groups['test'][k]:.1f}" for k in schema.READOUTS if k in groups["test"])
        LOGGER.info("done in %.1f s: %s", seconds, readouts)

    def _stopped(self) -> tuple[str, str, str]:
        """State, reason and cause of a run that was asked to stop."""
        if self.run.cancel_requested():
            return schema.CANCELLED, "cancelled on request", causes.CANCELLED
        if self.stop.signal is None and (why := self.run.prune_requested()) is not None:
            return schema.PRUNED, why, causes.PRUNED
        cause = causes.TIME_LIMIT if self.stop.signal == TIME_LIMIT_SIGNAL.name else causes.STOPPED
        return schema.PREEMPTED, f"stopped by {self.stop.signal}", cause

    def _end(self, state: str, reason: str | None, cause: str | None) -> None:
        self.status["state"], self.status["reason"], self.status["cause"] = state, reason, cause
        self._write_status()
        line = schema.Attempt(
            event="end",
            attempt=self.number,
            time=now(),
            state=state,
            reason=reason,
            cause=cause,
            step=self.status["step"],
            seconds=round(self._seconds(), 3),
        )
        if self.readouts is not None:
            line["readouts"] = self.readouts
        self.run.append_attempt(line)
        if state != schema.DONE and state != schema.FAILED:
            LOGGER.info("%s after step %d: %s", state, self.status["step"], reason)

    def _seconds(self) -> float:
        return time.monotonic() - self.began

    def _write_status(self) -> None:
        began = time.monotonic()
        self.run.write_status(self.status)
        self.wrote_status = time.monotonic()
        self.status_cost = self.wrote_status - began
        self.on_status(self.status)


def _cause(error: BaseException) -> str:
    if isinstance(error, Diverged):
        return causes.DIVERGED
    if isinstance(error, PeerLost):
        return causes.PEER_LOST
    if isinstance(error, MemoryError):  # ours of a full GPU too, which has words of its own
        return causes.OUT_OF_MEMORY
    return causes.named(f"{type(error).__name__}: {error}") or causes.ERROR


def one_line(error: BaseException) -> str:
    """The first line of an error: without its type for a ValueError or an error of the run, else with it."""
    first = str(error).strip().splitlines()[0] if str(error).strip() else ""
    if isinstance(error, ValueError | Diverged | PeerLost | PeerFailed | GpuOutOfMemory):
        return first or type(error).__name__
    return f"{type(error).__name__}: {first}" if first else type(error).__name__


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
