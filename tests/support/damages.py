"""Seeded damages of every kind of file of a store, and what the verbs then do.

    python -m tests.support.damages --count 500     every verb after each damage; prints what went wrong, exit 1 if anything

A damage is a bit, a block of zeros, a truncation, a value of the wrong type, a deletion or a loop of links. After each the
verbs run in this process on a store of real runs. Wrong is: an error that is no clear line, a number that the sound store
does not have and no word about the damage, and a change of any file of a neighbour.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import io
import os
import random
import re
import shutil
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from experiments.plan.manifest import write_manifest
from experiments.plan.sweep import Cell, Sweep, plan
from experiments.run import provenance
from experiments.run.worker import attempt
from experiments.store import files, schema
from experiments.store.manifests import manifest_path
from experiments.store.run import RUNS_VARIABLE
from moco.config import Config, Evaluation, Queue
from tests.support.stand_in_runs import prepared

KINDS = ("bit", "zeros", "truncation", "wrong type", "deletion", "loop")
VALUES = (
    b"5",
    b"[]",
    b"null",
    b'"text"',
    b'{"state": 7, "test": 3, "label": [], "event": {}, "values": 1}',
    b"\xff\xfe{}",
)
SIZES = (128, 256)
SETTINGS = (
    *(
        "train.epochs=1",
        "train.batch_size=256",
        "train.log_every=2",
        "train.device=cpu",
        "train.checkpoint_minutes=1e-4",
    ),
    *("evaluation.knn_every=0", "evaluation.linear_epochs=2", "evaluation.few_label_draws=1"),
)
SEARCHES = Path(__file__).parents[1] / "fixtures/store_v1/store" / schema.SEARCHES_FOLDER
TABLE = ["table", "damages", "--readout", schema.KNN20]


def base() -> Config:
    from experiments.plan.baselines import digits

    plain = digits()
    train = replace(plain.train, epochs=1, batch_size=256, log_every=2, device="cpu", checkpoint_minutes=1e-4)
    return replace(plain, train=train, evaluation=Evaluation(knn_every=0, linear_epochs=2, few_label_draws=1))


def question() -> Sweep:
    return Sweep(
        name="damages",
        question="What does a damaged file harm?",
        claim="its own run",
        varies=("negatives.size",),
        arms=lambda given: {f"K={size}": replace(given, negatives=Queue(size)) for size in SIZES},
        baseline=f"K={SIZES[0]}",
    )


def cells() -> list[Cell]:
    return list(plan(question(), base(), base_name="digits", seeds=1).cells())


def build(root: Path) -> list[str]:
    """A sweep of two arms and the untrained network at one seed, run by the real worker, and the record of a search.

    Returns the runs' ids, the baseline's first.
    """
    planned = plan(question(), base(), base_name="digits", seeds=1)
    write_manifest(root, planned, "python sweeps/damages.py")
    for cell in planned.cells():
        run = prepared(root, cell)
        run.describe(provenance.environment("python sweeps/damages.py"), "diff --git a/x b/x\n")
        assert attempt(run.path) == schema.DONE
    shutil.copytree(SEARCHES, root / schema.SEARCHES_FOLDER)
    return [cell.run_id for cell in planned.cells()]


@dataclass(frozen=True)
class Damage:
    """What was done to a file, in words for the report."""

    file: str  # below the root
    kind: str
    seed: int

    def __str__(self) -> str:
        return f"{self.kind} of {self.file} (seed {self.seed})"

    def do(self, root: Path) -> None:
        path, draw = root / self.file, random.Random(self.seed)
        content = path.read_bytes()
        if self.kind == "deletion":
            path.unlink()
        elif self.kind == "loop":
            path.unlink()
            path.symlink_to(path.name)
        elif self.kind == "truncation":
            path.write_bytes(content[: draw.randrange(len(content))] if content else b"")
        elif self.kind == "wrong type":
            path.write_bytes(draw.choice(VALUES) + b"\n")
        elif content:
            place = draw.randrange(len(content))
            size = 1 if self.kind == "bit" else min(512, len(content) - place)
            new = bytes([content[place] ^ 1 << draw.randrange(8)]) if self.kind == "bit" else bytes(size)
            path.write_bytes(content[:place] + new + content[place + size :])


def damages(root: Path, count: int, seed: int) -> list[Damage]:
    """Every kind to every file in turn, then again with other seeds."""
    names = sorted(str(path.relative_to(root)) for path in root.rglob("*") if path.is_file() and _counts(path))
    pairs = [(name, kind) for kind in KINDS for name in names]
    draw = random.Random(seed)
    draw.shuffle(pairs)
    return [Damage(*pairs[number % len(pairs)], seed + number) for number in range(count)]


def _counts(path: Path) -> bool:
    """All but MLflow's database, which is a view of its own, and its artifacts."""
    return schema.MLFLOW_DATABASE not in path.name and schema.MLFLOW_ARTIFACTS not in path.parts


@dataclass(frozen=True)
class Verb:
    """A command. `program`: experiments, analysis or sweep. `numbers`: its numbers are those of the runs."""

    program: str
    arguments: tuple[str, ...]
    numbers: bool = False

    def __str__(self) -> str:
        return " ".join((self.program, *self.arguments))


def verbs(run_ids: Sequence[str], out: Path, *, every: bool) -> list[Verb]:
    first, second, *_ = run_ids
    few = [
        Verb("experiments", ("status",)),
        Verb("experiments", ("status", "damages", "--json"), numbers=True),
        Verb("experiments", ("status", first)),
        Verb("experiments", ("logs", first)),
        Verb("experiments", ("find", "K=256")),
        Verb("experiments", ("retry", "damages")),
        Verb("analysis", tuple(TABLE), numbers=True),
        Verb("analysis", ("decide", "damages"), numbers=True),
        Verb("experiments", ("export", second, "--to", "safetensors", "--out", str(out / "export"))),
    ]
    if not every:
        return few
    return [
        *few,
        Verb("experiments", ("doctor",)),
        Verb("experiments", ("logs", "damages")),
        Verb("experiments", ("evaluate", first, "--protocol", "knn")),
        Verb("experiments", ("cancel", "damages")),
        Verb("experiments", ("throttle", "damages", "1")),
        Verb("experiments", ("names",)),
        Verb("experiments", ("sync",)),
        Verb("experiments", ("adopt", "toy")),
        Verb("analysis", ("power", "damages"), numbers=True),
        Verb("analysis", ("search", "toy", "--out", str(out / "search"))),
        Verb("sweep", ("--seeds", "1", "--dry-run")),
        Verb("sweep", ("--seeds", "1", "--yes")),
        Verb("analysis", ("plot", "damages", "--out", str(out / "plot.png"))),
        Verb("analysis", ("report", "damages", "--out", str(out / "report.html"))),
        Verb("analysis", ("verify", str(out / "table.md"))),
    ]


@dataclass(frozen=True)
class Result:
    code: int
    out: str
    err: str
    trace: str  # of an error that no line explains


def carry_out(verb: Verb) -> Result:
    """In this process. What it warned of before is forgotten, so that it warns again."""
    files._warned.clear()
    main = _main(verb.program)
    out, err, code, trace = io.StringIO(), io.StringIO(), 0, ""
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            code = main(list(verb.arguments))
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else 1
        except BaseException:
            trace = traceback.format_exc()
    return Result(code, out.getvalue(), err.getvalue(), trace)


def _main(program: str) -> Callable[[Sequence[str]], int]:
    from importlib import import_module

    if program == "sweep":
        from experiments.commands.sweep import run

        def sweep(arguments: Sequence[str]) -> int:
            return run(question(), [*arguments, "--set", *SETTINGS])

        return sweep
    main: Callable[[Sequence[str]], int] = import_module(
        "analysis.cli" if program == "analysis" else "experiments.__main__"
    ).main
    return main


NUMBER = re.compile(r"(?<![\w.])\d+\.\d+")


def verdict(verb: Verb, sound: Result, found: Result, damage: Damage) -> str | None:
    """What is wrong with the result after a damage; None if nothing is."""
    if found.trace or "Traceback (most recent call last)" in found.out.replace(sound.out, "") + found.err:
        return f"traceback\n{found.trace or found.err[-1500:]}"
    if found.code not in (0, 1, 2):
        return f"exit code {found.code}"
    if found.code == 2 and not found.err.strip():
        return "exit code 2 without a word"
    if verb.numbers and found.code == 0:
        new = set(NUMBER.findall(found.out)) - set(NUMBER.findall(sound.out))
        named = Path(damage.file).name in found.err + found.out
        if new and not named:
            return f"numbers that the sound store has not, and no word: {sorted(new)[:5]}"
    return None


def digests(root: Path, without: str) -> dict[str, str]:
    """Of all files of the runs but those of the damaged one and those that a verb may write."""
    return {
        str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(root.rglob("*"))
        if path.is_file()
        and not path.is_symlink()
        and _counts(path)
        and path.relative_to(root).parts[0] != without
        and len(path.relative_to(root).parts) == 2
        and len(path.parent.name) == 16
    }


def examine(root: Path, out: Path, chosen: Sequence[Verb], count: int, seed: int) -> Iterator[tuple[Damage, Verb, str]]:
    """Yields what went wrong. The store at `root` is left as it was."""
    pristine = out / "pristine"
    shutil.copytree(root, pristine, symlinks=True)

    def restore() -> None:
        """MLflow's database stays: a connection of this process is open on it."""
        for path in root.iterdir():
            if not path.name.startswith("mlflow"):
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        for path in pristine.iterdir():
            if path.name.startswith("mlflow"):
                continue
            if path.is_dir():
                shutil.copytree(path, root / path.name, symlinks=True)
            else:
                shutil.copy2(path, root / path.name)

    sound = {}
    for verb in chosen:
        sound[verb] = carry_out(verb)
        restore()
    for damage in damages(pristine, count, seed):
        damage.do(root)
        owner = damage.file.partition("/")[0]
        before = digests(root, owner)
        for verb in chosen:
            found = carry_out(verb)
            if (wrong := verdict(verb, sound[verb], found, damage)) is not None:
                yield damage, verb, wrong
            if verb.arguments[0] in WRITES or found.trace:
                if verb.arguments[0] not in WRITES and digests(root, owner) != before:
                    yield damage, verb, "a file of a neighbour has changed"
                restore()
                damage.do(root)
        if digests(root, owner) != before:
            yield damage, chosen[-1], "a file of a neighbour has changed"
        restore()


WRITES = ("cancel", "evaluate", "sync", "throttle", "--seeds")


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.support.damages", description=__doc__)
    parser.add_argument("--count", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--few", action="store_true", help="the verbs of the test suite only")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        root, out = Path(folder) / "runs", Path(folder) / "out"
        out.mkdir()
        os.environ[RUNS_VARIABLE] = str(root)
        chosen = verbs(build(root), out, every=not options.few)
        carry_out(Verb("analysis", (*TABLE, "--out", str(out / "table.md"))))
        if not options.few:
            carry_out(Verb("experiments", ("sync",)))
        wrong = 0
        for damage, verb, what in examine(root, out, chosen, options.count, options.seed):
            wrong += 1
            print(f"{damage}: {verb}: {what}", flush=True)
        assert manifest_path(root, "damages@digits").parent.is_dir()
    print(f"{options.count} damages x {len(chosen)} verbs: {wrong} wrong")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
