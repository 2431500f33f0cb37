"""`moco list` and `moco fields`: what there is to run, to start from, to measure and to set."""

from __future__ import annotations

import ast
import importlib.util
from collections.abc import Mapping, Sequence
from pathlib import Path

from experiments.launch.grid import described, paragraph
from experiments.plan.parser import Parser
from experiments.store.named import nearest


def listing(rest: Sequence[str]) -> int:
    """Print the sweeps, baselines, readouts and clusters, each with what it is."""
    from experiments.plan.registry import baselines
    from experiments.run.cluster import profile_names
    from experiments.store.metrics import PROTOCOLS

    Parser(prog="moco list", description=listing.__doc__, allow_abbrev=False).parse_args(rest)
    parts = {
        "sweeps: moco sweep NAME": {name: _first_line(file) for name, file in question_files().items()},
        "baselines: --baseline NAME": {name: _first_sentence(make.__doc__) for name, make in baselines().items()},
        "readouts: moco evaluate RUN --protocol NAME": PROTOCOLS,
        "clusters: --cluster NAME": {"local": "a pool on this machine"} | dict.fromkeys(profile_names(), "a profile"),
    }
    for title, entries in parts.items():
        print("\n".join([title, *described(entries, indent="  "), ""]))
    return 0


def fields(rest: Sequence[str]) -> int:
    """Print every field of a config with its type, default and meaning, or the groups and fields that begin with a name."""
    from experiments.plan.field_list import groups

    parser = Parser(prog="moco fields", description=fields.__doc__, allow_abbrev=False)
    parser.add_argument("begin", nargs="?", default="", metavar="NAME", help="train, optim=sgd, negatives.size, ...")
    begin: str = parser.parse_args(rest).begin
    known = list(groups())
    chosen = [
        (group, [f for f in group.fields if group.name.startswith(begin) or f.path.startswith(begin)])
        for group in known
    ]
    if not any(of for _, of in chosen):
        near = nearest(begin, [name for group in known for name in (group.name, *(f.path for f in group.fields))])
        raise ValueError(
            f"{begin}: no field begins so; {f'did you mean {near}?' if near else 'moco fields lists them all'}"
        )
    for group, own in chosen:
        if not own and not (begin and group.name.startswith(begin)):
            continue
        print("\n".join([group.name, *paragraph(group.meaning, "  ")]))
        for f in own:
            print(f"  {f.path} = {f.default}")
            cosmetic = "" if f.identity else "Not part of a run's identity."
            print(
                "\n".join(
                    paragraph(" ".join(filter(None, (f"{f.allowed}.", _sentence(f.meaning), cosmetic))), "      ")
                )
            )
        print()
    return 0


def question_files() -> Mapping[str, Path]:
    """The files of `sweeps/` by their names, wherever the package is installed."""
    found = importlib.util.find_spec("sweeps")
    folders = list(found.submodule_search_locations or ()) if found else []
    return {file.stem: file for folder in folders for file in sorted(Path(folder).glob("[!_]*.py"))}


def _first_line(file: Path) -> str:
    """Of the docstring, up to the command: the question."""
    first = (ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))) or "").partition("\n")[0]
    return first.partition("  ")[0]


def _first_sentence(docstring: str | None) -> str:
    return " ".join((docstring or "").partition("\n\n")[0].split()).partition(". ")[0].rstrip(".")


def _sentence(text: str) -> str:
    return f"{text[0].upper()}{text[1:].rstrip('.')}." if text else ""
