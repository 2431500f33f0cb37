"""The code that jobs will run, copied when they are submitted: edits that come later cannot change those that wait.

    $MOCO_RUNS/code/<hash>/          our packages as they were, read-only, and snapshot.json: which commit, which changes

The hash is that of the files and of the commit they were taken at. A copy is made beside its place and renamed, so it is
there whole or not at all. One that no unfinished run of a submission and no job of an evaluation needs any more is removed
after a day.
"""

from __future__ import annotations

import hashlib
import shutil
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

import moco
from experiments.launch.submissions import all_evaluation_submissions, all_submissions, may_still_run
from experiments.run import provenance
from experiments.store import schema
from experiments.store.files import replace_json
from experiments.store.run import RunDirectory
from experiments.store.states import AT_REST

PACKAGES = ("moco", "experiments", "slurm", "sweeps")  # what a job may import; the analysis is for login nodes
LEFT_OUT = ("__pycache__", ".ipynb_checkpoints")
DAY_SECONDS = 86400.0


@dataclass(frozen=True)
class Snapshot:
    """`files`: path inside the copy -> content."""

    hash: str
    files: dict[str, bytes]

    @staticmethod
    def of_this_code() -> Snapshot:
        root, digest = Path(moco.__file__).resolve().parents[1], hashlib.sha256()
        files = {str(path.relative_to(root)): path.read_bytes() for name in PACKAGES for path in _sources(root / name)}
        for name, content in files.items():
            digest.update(f"{name}\0{len(content)}\0".encode() + content)
        code = provenance.code()
        digest.update(f"{code.commit}\0{code.uncommitted}".encode())
        return Snapshot(digest.hexdigest()[:16], files)

    def path(self, root: Path) -> Path:
        return root / schema.CODE_FOLDER / self.hash

    def write(self, root: Path) -> Path:
        """Make the copy unless it is there. Raises OSError, with nothing left behind."""
        path = self.path(root)
        if path.exists():
            path.touch()  # in use again: its day begins anew
            return path
        staged = path.with_name(f".{self.hash}.{uuid4().hex[:12]}")
        try:
            self._copy_to(staged)
            staged.rename(path)
        except OSError:
            shutil.rmtree(staged, ignore_errors=True)
            if not path.exists():  # else someone else was first
                raise
        return path

    def _copy_to(self, staged: Path) -> None:
        for name, content in self.files.items():
            target = staged / name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(content)
            target.chmod(0o444)
        code = provenance.code()
        replace_json(
            staged / provenance.SNAPSHOT,
            {"commit": code.commit, "diff": code.diff, "untracked": list(code.untracked)},
        )


def _sources(package: Path) -> list[Path]:
    found = (path for path in package.rglob("*") if path.is_file() and not set(LEFT_OUT) & set(path.parts))
    return sorted(path for path in found if not path.name.startswith(".") and path.suffix != ".pyc")


def forget_unused(root: Path) -> list[str]:
    """Remove snapshots that are older than a day and that no run and no evaluation waits for; returns their names."""
    old = {path.name: path for path in (root / schema.CODE_FOLDER).glob("*") if _age(path) > DAY_SECONDS}
    if not old:
        return []
    for submission in all_submissions(root):
        if submission["code"] in old and any(_waits(root, run, job) for run, job in submission["jobs"].items()):
            del old[submission["code"]]
    for evaluation in all_evaluation_submissions(root):
        if evaluation["code"] in old and any(
            may_still_run(job, evaluation) for job in set(evaluation["jobs"].values())
        ):
            del old[evaluation["code"]]
    for path in old.values():
        shutil.rmtree(path, ignore_errors=True)
    return sorted(old)


def _age(path: Path) -> float:
    with suppress(FileNotFoundError):
        return time.time() - path.stat().st_mtime
    return 0.0


def _waits(root: Path, run_id: str, job: str) -> bool:
    """The run's status names this job: it may come back and need its code."""
    status = RunDirectory(root / run_id).status() or schema.Status()
    return status.get("job") == job and status.get("state") not in AT_REST
