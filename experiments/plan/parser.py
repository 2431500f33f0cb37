"""How command lines are read: a wrong one is one line on stderr and exit code 2."""

from __future__ import annotations

import argparse
import sys
from typing import NoReturn, Protocol


class Parser(argparse.ArgumentParser):
    """A wrong command line is one line, not a page of usage."""

    def error(self, message: str) -> NoReturn:
        print(f"error: {message} ({self.prog} --help lists what there is)", file=sys.stderr)
        sys.exit(2)


class AddVerb(Protocol):
    """`add_parser` of the verbs: the name, its help, and what argparse takes besides."""

    def __call__(self, name: str, *, help: str, allow_abbrev: bool, description: str | None = None) -> Parser: ...
