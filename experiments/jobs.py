"""What the Slurm queue says of the jobs that runs are waiting in. One look serves all runs for a moment.

Absent is not dead: a controller that restarts, or one slow answer, must not send a second job after a run. A job is gone
when it is absent from two looks. Where nobody answers, nothing is known.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from slurm.launch import queue_states

FRESH_SECONDS = 1.0  # that long a look is good
APART_SECONDS = 0.3  # at least, between the two looks that prove an absence

GONE, SILENT = "GONE", "SILENT"  # beside Slurm's own words: absent twice; Slurm does not answer


@dataclass
class Queue:
    """`ask` gives job -> state, or None without an answer."""

    ask: Callable[[], dict[str, str] | None] = queue_states
    _looks: list[tuple[float, dict[str, str] | None]] = field(default_factory=list)  # the last two

    def state(self, job: str) -> str:
        """Slurm's word for a job or an array element; GONE or SILENT where it has none."""
        self._look_again(FRESH_SECONDS)
        word = self._word(job)
        if word is None:
            time.sleep(APART_SECONDS)
            self._look_again(0.0)
            word = self._word(job)
        return word or GONE

    def _look_again(self, older_than: float) -> None:
        if not self._looks or time.monotonic() - self._looks[-1][0] >= older_than:
            self._looks = [*self._looks[-1:], (time.monotonic(), self.ask())]

    def _word(self, job: str) -> str | None:
        """None while one look alone says that the job is not there."""
        found = self._looks[-1][1]
        if found is None:
            return SILENT
        if job in found:
            return found[job]
        before = [states for _, states in self._looks[:-1] if states is not None]
        return GONE if before and job not in before[-1] else None


QUEUE = Queue()
