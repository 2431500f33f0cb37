"""`moco VERB` is the longer command: the same text and exit code. Oracles: that command; full sentences; the config."""

from __future__ import annotations

import errno
import os
import re
import subprocess
import sys
from dataclasses import fields
from importlib.metadata import entry_points, version
from pathlib import Path

import pytest

from analysis.cli import VERBS
from experiments import console
from experiments.__main__ import main as experiments_main
from experiments.__main__ import parser as experiments_parser
from experiments.launch.grid import many
from experiments.plan.disk import no_room
from experiments.plan.field_list import GroupFacts, comments, groups
from experiments.plan.registry import baselines
from experiments.store.named import nearest
from moco.config import SGD, Config, Data, ResNet
from moco.config.plain import flatten
from sweeps import questions

ROOT = Path(__file__).parents[2]


def moco(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    try:
        code = console.main(words)
    except SystemExit as end:  # of argparse
        code = int(end.code or 0)
    out, err = capsys.readouterr()
    return code, out, err


def test_the_installed_word_is_this_function() -> None:
    (script,) = entry_points(group="console_scripts", name="moco")
    assert script.load() is console.main


def test_every_verb_of_both_commands_is_one_of_it(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = moco(capsys, "--help")
    shown = [line.split()[0] for line in out.partition("examples:")[0].splitlines()[2:] if line[:1].strip()]
    assert code == 0
    assert shown == ["sweep", "list", "fields", *experiments_parser().summaries, *VERBS]


def test_the_version_is_that_of_the_package(capsys: pytest.CaptureFixture[str]) -> None:
    assert moco(capsys, "--version") == (0, f"moco {version('moco-ablation-suite')}\n", "")


@pytest.mark.parametrize("words", [["status"], ["names"], ["status", "nothing"], ["evaluate", "nothing"]])
def test_a_verb_says_what_the_longer_command_says(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MOCO_RUNS", str(tmp_path))
    code = experiments_main(words)
    out, err = capsys.readouterr()
    assert moco(capsys, *words) == (code, out, err)


def test_a_sweep_by_its_name_is_the_file(tmp_path: Path) -> None:
    def run(*command: str) -> tuple[int, str]:
        env = {"MOCO_RUNS": str(tmp_path), "PATH": "/usr/bin:/bin", "PYTHONPATH": str(ROOT)}
        done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, check=False)
        assert not done.stderr
        return done.returncode, done.stdout

    word = "import sys; from experiments.console import main; sys.exit(main())"
    flags = ("--dry-run", "--seeds", "2", "--set", "train.epochs=3")
    code, shown = run(sys.executable, "-c", word, "sweep", "queue_size", *flags)
    assert (code, shown) == run(sys.executable, str(ROOT / "sweeps/queue_size.py"), *flags)
    assert code == 0
    assert shown.startswith(f"queue_size@digits,train.epochs=3 in {tmp_path}\n")


REFUSED = {
    ("statsu",): "error: statsu: no such verb; did you mean status? (moco --help lists what there is)",
    ("xyz",): "error: xyz: no such verb (moco --help lists what there is)",
    ("status", "--jsn"): "error: --jsn: no such option; did you mean --json? (moco status --help lists what there is)",
    (
        "pretrain",
        "--baseline",
        "digits",
        "--epochs",
        "2",
    ): "error: --epochs: no such option; a field of the config is set by "
    "--set train.epochs=VALUE (moco pretrain --help lists what there is)",
    (
        "pretrain",
        "--baseline",
        "digits",
        "--batch-size=2",
    ): "error: --batch-size=2: no such option; a field of the config is "
    "set by --set train.batch_size=VALUE (moco pretrain --help lists what there is)",
    ("status", "one", "two", "three"): "error: two: not expected here (moco status --help lists what there is)",
    ("sweep", "queue_siz"): "error: sweep queue_siz: no such sweep; did you mean queue_size?",
    (
        "sweep",
        "none.py",
    ): f"error: sweep none.py: no such file; there are {', '.join(questions())}; or give a file that ends in .py",
    (
        "sweep",
        "--dry-run",
        "momentum",
        "--seeds",
        "2",
    ): "error: sweep --dry-run: the name comes first: moco sweep momentum --dry-run --seeds 2",
    ("sweep", "--dry-run"): "error: sweep --dry-run: the name comes first: moco sweep NAME --dry-run",
    ("fields", "train.epoch_s"): "error: train.epoch_s: no field begins so; did you mean train.epochs?",
    ("list", "all"): "error: all: not expected here (moco list --help lists what there is)",
}


@pytest.mark.parametrize("words", REFUSED)
def test_a_slip_is_one_line_that_names_what_was_meant(
    words: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MOCO_RUNS", str(tmp_path / "runs"))
    assert moco(capsys, *words) == (2, "", REFUSED[words] + "\n")
    assert not (tmp_path / "runs").exists()


def test_one_is_not_many() -> None:
    assert [many(n, "finished run") for n in (0, 1, 2)] == ["0 finished runs", "1 finished run", "2 finished runs"]


def test_a_full_disk_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """/dev/full is Linux's own full disk."""
    monkeypatch.setenv("MOCO_RUNS", str(tmp_path / "runs"))
    (page := tmp_path / "look.html").symlink_to("/dev/full")
    assert experiments_main(["look", "--baseline", "digits", "--out", str(page)]) == 2
    assert capsys.readouterr().err == (
        f"error: No space left on device; free some space, or choose another place (runs are kept in {tmp_path / 'runs'})\n"
    )


@pytest.mark.parametrize(
    ("number", "file", "line"),
    [
        (errno.EROFS, "runs/a/lock", "Read-only file system; set MOCO_RUNS to another folder"),
        (errno.EACCES, "runs/a/lock", "Permission denied; set MOCO_RUNS to another folder"),
        (errno.EDQUOT, "page.html", "Disk quota exceeded; free some space, or choose another place"),
    ],
)
def test_of_a_disk_that_cannot_be_written_the_place_and_the_remedy_are_said(
    number: int, file: str, line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MOCO_RUNS", str(tmp_path / "runs"))
    assert no_room(OSError(number, os.strerror(number), str(tmp_path / file))) == f"{tmp_path / file}: {line}"
    with pytest.raises(OSError, match="Is a directory"):
        no_room(OSError(errno.EISDIR, os.strerror(errno.EISDIR)))


def test_of_several_that_begin_so_none_is_guessed() -> None:
    assert nearest("cifar10", baselines()) is None
    assert nearest("cifar10_moco_v1x", baselines()) == "cifar10_moco_v1"
    assert nearest("cifar10_simc", baselines()) == "cifar10_simclr"
    assert nearest("queue_siz", ["queue_size", "queue_size@digits", "momentum"]) == "queue_size"
    assert nearest("", baselines()) is None


def test_a_file_that_starts_nothing_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "mine.py"
    file.write_text("SWEEP = None\n")
    assert moco(capsys, "sweep", str(file)) == (
        2,
        "",
        f"error: {file}: ends without main(SWEEP); add it as the last line\n",
    )


def listed() -> dict[str, GroupFacts]:
    return {group.name: group for group in groups()}


@pytest.mark.parametrize("name", baselines())
def test_the_fields_are_those_of_every_config_and_the_identity_is_made_of_those_marked_so(name: str) -> None:
    config = baselines()[name]()
    facts = {f.path: f for group in groups() for f in group.fields}
    kinds = {path for path in flatten(config) if path.endswith(".kind")}
    assert flatten(config).keys() - kinds <= facts.keys()
    meant = {path for path in flatten(config) if path not in kinds and facts[path].identity}
    assert meant == flatten(config, cosmetic=False).keys() - kinds


def test_types_defaults_and_meanings_are_those_of_the_classes() -> None:
    of = {f.path: f for f in listed()["optim=sgd"].fields}
    assert (of["optim.lr"].default, of["optim.lr"].allowed) == ("0.03", "a finite number")
    assert [f.path for f in listed()["optim=sgd"].fields] == [
        f"optim.{f.name}" for f in fields(SGD) if f.name != "schedule"
    ]
    assert {"optim.schedule=step", "optim.schedule=cosine", "encoder=resnet", "encoder=vit"} <= listed().keys()
    assert listed()["encoder=resnet"].meaning == " ".join((ResNet.__doc__ or "").split())
    assert comments(Data)["max_corrupt"] == "unreadable files that are skipped by name before the run is refused"
    for text in comments(Data).values():
        assert re.sub(r"\s+", " ", text) in re.sub(r"\s+# |\s+", " ", (ROOT / "moco/config/data.py").read_text())


def test_every_group_of_a_config_is_there() -> None:
    assert {group.name.partition("=")[0].partition(".")[0] for group in groups()} == {f.name for f in fields(Config)}


def test_the_list_names_every_sweep_baseline_and_readout(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = moco(capsys, "list")
    first = [line.split()[0] for line in out.splitlines() if line.startswith("  ") and line[2:3].strip()]
    assert code == 0
    assert first[: len(questions()) + len(baselines())] == [*questions(), *baselines()]
