"""`moco VERB`: every command of the suite under one name.

    moco sweep queue_size --dry-run      a question of sweeps/, or a file of your own
    moco status, find, evaluate, ...     as python -m experiments VERB
    moco table, plot, report, ...        as python -m analysis VERB
    moco list, moco fields               what there is

The longer commands stay; each verb here has the flags and exit codes it has there.
"""

from __future__ import annotations

import runpy
import shlex
import sys
from collections.abc import Callable, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from experiments.plan.parser import run_quietly_past_reader
from experiments.store.named import nearest

DISTRIBUTION = "moco-ablation-suite"
EXAMPLE = """examples:
  moco sweep queue_size --dry-run        what would run, and for how long
  moco sweep queue_size                  run it here; --cluster NAME on a cluster
  moco status queue_size --watch         where it stands
  moco table queue_size --out table.md   the answer
  moco pretrain --baseline digits        one run

`moco VERB --help` lists the flags of a verb.
Exit codes: 0 done, 1 some of it failed, 2 wrong input and nothing started, 130 interrupted and to be continued."""

Main = Callable[[Sequence[str]], int]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command line and return its exit code."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    if not words or words[0] in ("-h", "--help", "help"):
        print(overview())
        return 0
    if words[0] in ("-V", "--version", "version"):
        print(f"moco {installed_version()}")
        return 0
    known = verbs()
    if words[0] not in known:
        near = nearest(words[0], known)
        meant = f"; did you mean {near}?" if near else ""
        print(f"error: {words[0]}: no such verb{meant} (moco --help lists what there is)", file=sys.stderr)
        return 2
    try:
        return run_quietly_past_reader(lambda: known[words[0]][1](words[1:]))
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


def installed_version() -> str:
    try:
        return version(DISTRIBUTION)
    except PackageNotFoundError:
        return "(not installed, run from a checkout)"


def verbs() -> dict[str, tuple[str, Main]]:
    """Name -> (what it does, the function that takes the rest of the command line), in the order of the overview."""
    from analysis.cli import main as analysis
    from analysis.parser import parser as analysis_parser
    from experiments.__main__ import main as experiments
    from experiments.__main__ import parser as experiments_parser
    from experiments.commands import catalogue

    def there(of: Callable[..., int], verb: str) -> Main:
        return lambda rest: of([verb, *rest], "moco")

    own: dict[str, tuple[str, Main]] = {
        "sweep": ("a question of sweeps/ by its name, or a file of your own; its flags follow", sweep),
        "list": ("the sweeps, baselines, readouts and clusters that there are", catalogue.listing),
        "fields": (
            "every field of a config: type, default, meaning, and what is part of a run's identity",
            catalogue.fields,
        ),
    }
    theirs = {name: (help, there(experiments, name)) for name, help in experiments_parser().summaries.items()}
    answers = {name: (help, there(analysis, name)) for name, help in analysis_parser().summaries.items()}
    if twice := own.keys() & theirs.keys() | theirs.keys() & answers.keys() | own.keys() & answers.keys():
        raise AssertionError(f"one verb, two commands: {', '.join(sorted(twice))}")
    return own | theirs | answers


def overview() -> str:
    """All verbs, a line each, and examples."""
    from experiments.launch.grid import described

    lines = described({name: summary for name, (summary, _) in verbs().items()})
    return "\n".join(["usage: moco VERB ...", "", *lines, "", EXAMPLE])


def sweep(rest: Sequence[str]) -> int:
    """`moco sweep NAME|FILE ...`: what `python sweeps/NAME.py ...` does."""
    from experiments.commands.catalogue import question_files
    from experiments.launch.grid import paragraph

    known = question_files()
    if not rest or rest[0] in ("-h", "--help"):
        print("usage: moco sweep NAME|FILE ...\n")
        print("\n".join(paragraph(f"NAME is one of {', '.join(known)}. `moco sweep NAME --help` lists the flags.")))
        return 0
    name, *flags = rest
    if name.startswith("-"):
        first = next((word for word in flags if word in known or word.endswith(".py")), "NAME")
        others = [word for word in rest if word != first]
        print(f"error: sweep {name}: the name comes first: moco sweep {shlex.join([first, *others])}", file=sys.stderr)
        return 2
    file = Path(name) if name.endswith(".py") else known.get(name)
    if file is None or not file.is_file():
        near = nearest(name, known)
        there = f"did you mean {near}?" if near else f"there are {', '.join(known)}; or give a file that ends in .py"
        print(f"error: sweep {name}: {'no such file' if file else 'no such sweep'}; {there}", file=sys.stderr)
        return 2
    sys.argv = [str(file), *flags]
    sys.path.insert(0, str(file.resolve().parent))  # where `python FILE` looks first
    try:
        runpy.run_path(str(file), run_name="__main__")
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    print(f"error: {file}: ends without main(SWEEP); add it as the last line", file=sys.stderr)
    return 2
