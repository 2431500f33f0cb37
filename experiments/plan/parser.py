"""Parsing of command lines: errors are one line on stderr and exit code 2."""

from __future__ import annotations

import argparse
import os
import shlex
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn, Protocol

from experiments.store.secrets import without_secrets


class Parser(argparse.ArgumentParser):
    """Prints an error in one line, without the usage."""

    def error(self, message: str) -> NoReturn:
        print(f"error: {message} ({self.prog} --help lists what there is)", file=sys.stderr)
        sys.exit(2)


class AddVerb(Protocol):
    """The type of `add_parser` of the verbs."""

    def __call__(self, name: str, *, help: str, allow_abbrev: bool, description: str | None = None) -> Parser: ...


def add_set(to: argparse.ArgumentParser) -> None:
    """Add the flag `--set FIELD=VALUE ...`."""
    to.add_argument(
        "--set",
        nargs="+",
        action="extend",
        default=[],
        metavar="FIELD=VALUE",
        help="override a field of the baseline, e.g. train.epochs=40 optim.lr=0.03; optim=adamw switches a kind",
    )


def command_line(arguments: Sequence[str]) -> str:
    """The command that was given, as one types it at the top of the checkout, without the passwords in it."""
    script = Path(sys.argv[0])
    shown = f"{script.parent.name}/{script.name}" if script.parent.name == "sweeps" else script.name
    return shlex.join(["python", shown, *map(without_secrets, arguments)])


def run_quietly_past_reader(command: Callable[[], int]) -> int:
    """The exit code of a command; 0 if whoever reads its output leaves before the end, as in `status | head`."""
    try:
        code = command()
        sys.stdout.flush()  # here, not at exit, where Python would complain about the closed pipe
        return code
    except BrokenPipeError:  # discard what is still buffered
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
