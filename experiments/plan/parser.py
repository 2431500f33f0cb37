"""Parsing of command lines: errors are one line on stderr and exit code 2."""

from __future__ import annotations

import argparse
import os
import shlex
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn, Protocol

from experiments.plan.field_list import groups
from experiments.store.named import nearest
from experiments.store.secrets import words_without_secrets


class Parser(argparse.ArgumentParser):
    """Prints an error in one line, without the usage; of an option that it does not have, with what was probably meant."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.summaries: dict[str, str] = {}  # of a parser with verbs: verb -> what it does, in the order of `--help`

    def error(self, message: str) -> NoReturn:
        print(f"error: {message} ({self.prog} --help lists what there is)", file=sys.stderr)
        sys.exit(2)

    def parse_known_args(  # type: ignore[override]
        self, args: Sequence[str] | None = None, namespace: argparse.Namespace | None = None
    ) -> tuple[argparse.Namespace, list[str]]:
        """As argparse's, but what is not known is an error here, where the options of the verb are at hand."""
        found, unknown = super().parse_known_args(args, namespace)
        if unknown:
            self.error(f"{unknown[0]}: {self._not_there(unknown[0].partition('=')[0])}")
        return found, unknown

    def _not_there(self, word: str) -> str:
        if not word.startswith("-"):
            return "not expected here"
        if "--set" in self._option_string_actions and (path := field_called(word.lstrip("-").replace("-", "_"))):
            return f"no such option; a field of the config is set by --set {path}=VALUE"
        near = nearest(word, self._option_string_actions)
        return f"no such option{f'; did you mean {near}?' if near else ''}"


def field_called(name: str) -> str | None:
    """`train.epochs` for `epochs` or `train.epochs`, if one field of a config is called so."""
    paths = {f.path for group in groups() for f in group.fields if name in (f.path, f.path.rpartition(".")[2])}
    return paths.pop() if len(paths) == 1 else None


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
    return shlex.join(["python", shown, *words_without_secrets(arguments)])


def script() -> Path | None:
    """The file that was started, of a sweep or a search; None where Python was started in another way."""
    file = Path(sys.argv[0]).absolute()
    return file if file.suffix == ".py" and file.stem != "__main__" and file.is_file() else None


def run_quietly_past_reader(command: Callable[[], int]) -> int:
    """The exit code of a command; 0 if whoever reads its output leaves before the end, as in `status | head`."""
    try:
        code = command()
        sys.stdout.flush()  # here, not at exit, where Python would complain about the closed pipe
        return code
    except BrokenPipeError:  # discard what is still buffered
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
