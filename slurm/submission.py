"""What is to be submitted, before any program of Slurm hears of it."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from uuid import uuid4

from slurm.profiles import Profile

Work = Callable[[str], object]  # function that an element calls with its path; importable, never of __main__


@dataclass(frozen=True)
class Submission:
    """Arrays of one profile that run the same code. `folder`, a new one, gets their scripts and logs; nodes must see it.

    `environment` is set on the node; the profile's has priority. `needs`: folders without which a job ends at once.
    `behind`: arrays that must have ended, so that no more runs go at a time than are wanted.
    """

    profile: Profile
    folder: Path
    title: str
    max_parallel: int | None = None
    environment: Mapping[str, str] = field(default_factory=dict)
    needs: Sequence[Path] = ()
    behind: Sequence[str] = ()
    afterwards: str | None = None  # a module that is run on the node, with the path and the log, where work ends badly
    only_if: str | None = None  # a job that must succeed first; if it fails, Slurm removes these from the queue

    @property
    def throttle(self) -> int | None:
        """Elements that may run at a time; None for no limit."""
        return self.max_parallel or self.profile.array_parallelism

    @property
    def name(self) -> str:
        """Of its jobs. Unique, so that they can be cancelled before their ids are known."""
        title = re.sub(r"[^\w.=@+-]", "_", self.title)[:100]
        return f"{title}.{self.folder.name.rpartition('-')[2]}"


def new_folder(parent: Path) -> Path:
    """The path of a folder for a new submission. It is made when something is written into it."""
    return parent / f"{time.strftime('%Y%m%dT%H%M%S')}-{uuid4().hex[:6]}"
