"""Copies of the code for jobs, made when they are submitted, so that later edits do not change waiting jobs.

    $MOCO_RUNS/code/<hash>/          our packages, read-only, and snapshot.json with the commit and uncommitted changes

The hash is that of the files and the commit. A copy is written beside its place and renamed, so that it is complete or
absent. Copies older than a day that no unfinished run or evaluation needs are removed (`forget_unused`).
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
MOST_BYTES = 20 * 10**6  # of code


@dataclass(frozen=True)
class Snapshot:
    """`files`: path inside the copy -> content."""

    hash: str
    files: dict[str, bytes]

    @staticmethod
    def of_this_code() -> Snapshot:
        """The packages as they are on disk now."""
        root, digest = Path(moco.__file__).resolve().parents[1], hashlib.sha256()
        files = {str(path.relative_to(root)): path.read_bytes() for path in checked_size(sources(root))}
        for name, content in files.items():
            digest.update(f"{name}\0{len(content)}\0".encode() + content)
        code = provenance.code()
        digest.update(f"{code.commit}\0{code.uncommitted}".encode())
        return Snapshot(digest.hexdigest()[:16], files)

    def path(self, root: Path) -> Path:
        return root / schema.CODE_FOLDER / self.hash

    def write(self, root: Path) -> Path:
        """Make the copy unless it exists. Raises OSError, and leaves nothing behind."""
        path = self.path(root)
        if path.exists():
            path.touch()  # in use again, so it stays for another day
            return path
        staged = path.with_name(f".{self.hash}.{uuid4().hex[:12]}")
        try:
            self._copy_to(staged)
            staged.rename(path)
        except OSError:
            shutil.rmtree(staged, ignore_errors=True)
            if not path.exists():  # else another process has made it
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


def sources(root: Path) -> list[Path]:
    """The files of our packages. In a checkout: those that git tracks, and untracked modules that it does not ignore."""
    everything = [path for name in PACKAGES for path in _all_files(root / name)]
    if not (root / ".git").exists():
        return everything
    tracked = provenance.listed(root, "--", *PACKAGES)
    new = provenance.listed(root, "--others", "--exclude-standard", "--", *(f"{name}/*.py" for name in PACKAGES))
    names = sorted({*tracked, *new})
    return [root / name for name in names if (root / name).is_file()] or everything


def _all_files(package: Path) -> list[Path]:
    found = (path for path in package.rglob("*") if path.is_file() and not set(LEFT_OUT) & set(path.parts))
    return sorted(path for path in found if not path.name.startswith(".") and path.suffix != ".pyc")


def checked_size(files: list[Path]) -> list[Path]:
    """The files. Raises ValueError if they are too many bytes for code."""
    sizes = {path: path.stat().st_size for path in files}
    if (total := sum(sizes.values())) > MOST_BYTES:
        largest = max(sizes, key=lambda path: sizes[path])
        raise ValueError(
            f"the code that jobs would get a copy of has {total / 1e6:.0f} MB, more than {MOST_BYTES / 1e6:.0f} MB; "
            f"{largest} alone has {sizes[largest] / 1e6:.1f} MB: is it code? Move it out of the packages"
        )
    return files


def forget_unused(root: Path) -> list[str]:
    """Remove copies that are older than a day and that no run and no evaluation needs. Returns their hashes."""
    old = {path.name: path for path in (root / schema.CODE_FOLDER).glob("*") if _age(path) > DAY_SECONDS}
    if not old:
        return []
    for submission in all_submissions(root):
        if submission["code"] in old and any(_is_needed(root, run, job) for run, job in submission["jobs"].items()):
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


def _is_needed(root: Path, run_id: str, job: str) -> bool:
    """Whether the unfinished run still belongs to this job, which may come back and need its code."""
    status = RunDirectory(root / run_id).status() or schema.Status()
    return status.get("job") == job and status.get("state") not in AT_REST
