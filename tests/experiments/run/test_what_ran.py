"""What is kept of the code that ran. Oracle: git itself, which applies the kept patch to a clean checkout."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from experiments.launch import snapshot
from experiments.run import provenance
from experiments.run.provenance import check_script, listed
from tests.support.stand_in_runs import ROOT, environment


def git(folder: Path, *arguments: str) -> str:
    named = ("-c", "user.name=t", "-c", "user.email=t@example.org", "-c", "safe.directory=*")
    return subprocess.check_output(["git", *named, "-C", str(folder), *arguments], text=True)


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A commit, a change, and two files that git does not know: a module, and one that is ignored."""
    folder = tmp_path / "checkout"
    (folder / "moco").mkdir(parents=True)
    (folder / "moco/a.py").write_text("one = 1\n")
    (folder / ".gitignore").write_text("runs/\n")
    git(folder, "init", "--quiet")
    git(folder, "add", ".")
    git(folder, "commit", "--quiet", "--message", "one")
    (folder / "moco/a.py").write_text("one = 2\n")
    (folder / "moco/new module.py").write_text("two = 2\n")
    (folder / "moco/runs").mkdir()
    (folder / "moco/runs/weights.py").write_text("x" * 1000)
    return folder


def changes(folder: Path) -> str:
    return provenance._changes(folder, listed(folder, "--others", "--exclude-standard", "--", "*.py"))


@pytest.mark.parametrize("how", ["plain", "GIT_DIR", "diff.external", "another owner"])
def test_the_kept_patch_makes_the_code_that_ran(
    checkout: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    if how == "GIT_DIR":
        git(tmp_path, "init", "--quiet", "other")
        monkeypatch.setenv("GIT_DIR", str(tmp_path / "other/.git"))
        monkeypatch.setenv("GIT_EXTERNAL_DIFF", "true")
    if how == "diff.external":
        for name, value in {"diff.external": "true", "diff.noprefix": "true", "color.diff": "always"}.items():
            git(checkout, "config", name, value)
    if how == "another owner":
        if os.geteuid():
            pytest.skip("only root can give a folder away")
        subprocess.run(["chown", "-R", "65534", str(checkout)], check=True)
    patch = tmp_path / "kept.diff"
    patch.write_text(changes(checkout))
    monkeypatch.undo()
    if how == "another owner":
        subprocess.run(["chown", "-R", str(os.geteuid()), str(checkout)], check=True)
    clean = tmp_path / "clean"
    subprocess.run(["git", "-c", "safe.directory=*", "clone", "--quiet", str(checkout), str(clean)], check=True)
    git(clean, "apply", str(patch))
    for name in ("moco/a.py", "moco/new module.py"):
        assert (clean / name).read_text() == (checkout / name).read_text()


def test_changes_without_end_are_named_not_kept(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(provenance, "MOST_BYTES", 5000)
    (checkout / "moco/a.py").write_text("".join(f"x{n} = {n}\n" for n in range(1000)))
    text = changes(checkout)
    assert len(text) < 1000
    assert text.startswith("# 0 MB of uncommitted changes, more than are kept")
    assert "moco/a.py" in text
    assert "moco/new module.py" in text


def test_a_copy_has_what_git_tracks_and_new_modules(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (checkout / "moco/data.bin").write_bytes(bytes(10))  # neither tracked nor a module
    found = [str(path.relative_to(checkout)) for path in snapshot.sources(checkout)]
    assert found == ["moco/a.py", "moco/new module.py"]
    monkeypatch.setattr(snapshot, "MOST_BYTES", 10)
    with pytest.raises(ValueError, match=r"a\.py alone has 0\.0 MB: is it code\? Move it out of the packages$"):
        snapshot.checked_size([checkout / "moco/a.py", checkout / "moco/new module.py"])


def test_the_sweep_file_of_a_second_checkout_is_refused(tmp_path: Path) -> None:
    """Its own code runs once it is named, by the very words of the refusal."""
    second = tmp_path / "second"
    for name in snapshot.PACKAGES:
        shutil.copytree(ROOT / name, second / name, ignore=shutil.ignore_patterns("__pycache__"))
    command = [sys.executable, str(second / "sweeps/queue_size.py"), "--dry-run"]
    env = environment(MOCO_RUNS=str(tmp_path / "runs"))
    said = subprocess.run(command, capture_output=True, text=True, check=False, env=env, cwd=tmp_path)
    assert said.returncode == 2
    assert said.stderr == (
        f"error: {second}/sweeps/queue_size.py: belongs to {second}, but the code that would run is that of {ROOT}; "
        f"PYTHONPATH={second} before the command runs its own\n"
    )
    check_script(ROOT / "sweeps/queue_size.py")
    check_script(tmp_path / "mine.py")
