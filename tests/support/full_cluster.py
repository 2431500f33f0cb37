"""A cluster whose site takes only one job of a submission, and whose jobs end without having done anything."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

from experiments.run.cluster import Cluster, JobHere, Submission, Work

NAME = "tests.support.full_cluster"


class Full(Cluster):
    name = NAME

    def submit(self, submission: Submission, work: Work, paths: Sequence[Path]) -> list[str]:
        return ["1"]

    def withdraw(self, submission: Submission) -> None:
        shutil.rmtree(submission.folder, ignore_errors=True)

    def phases(self, owner: str) -> Mapping[str, tuple[str, str]]:
        return {}

    def cancel(self, jobs: Sequence[str]) -> None:
        return None

    def requeue(self, job: str) -> str | None:
        return None

    def log(self, folder: Path, job: str) -> Path | None:
        return None

    def here(self, variables: Mapping[str, str]) -> JobHere | None:
        return None


CLUSTER = Full()
