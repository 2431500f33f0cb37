"""The command line of the benchmarks: how fast, against whom, measured in turns."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from difflib import get_close_matches

from tests.benchmarks.registry import benchmark_named, names
from tests.benchmarks.result import PEERS, Benchmark, Number, Options, as_json, as_text

DESCRIPTION = """Measure ours against a peer, in turns, and print the ratio first. On a CPU rates are per
core-second (the CPU time of all threads), on a GPU per second. Numbers measured so far: tests/benchmarks/BENCHMARKS.md."""


def add_arguments(verb: argparse.ArgumentParser) -> None:
    verb.description = DESCRIPTION
    verb.add_argument("name", choices=names(), metavar="NAME", help=", ".join(names()))
    verb.add_argument(
        "--against",
        choices=PEERS,
        default="plain",
        metavar="PEER",
        help="plain (default): the usual way, written by us; lightly: from PyPI, extra `bench`",
    )
    verb.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="default: cpu")
    verb.add_argument("--rounds", type=int, metavar="N", help="turns of each contender (default: mostly 5)")
    verb.add_argument("--threads", type=int, default=1, metavar="N", help="of torch, on a CPU (default: 1)")
    verb.add_argument(
        "--set",
        nargs="+",
        action="extend",
        default=[],
        metavar="NAME=NUMBER",
        help="sizes, e.g. batch=64; a wrong name lists what there is",
    )
    verb.add_argument("--json", action="store_true", help="one object: name, ratio, ours, peer, unit, machine, ...")


def measure(options: argparse.Namespace) -> int:
    """Prints the results. Raises ValueError for an option that means nothing."""
    from tests.benchmarks.machine import compute_on, machine, one_line
    from tests.benchmarks.peers import check

    if options.rounds is not None and options.rounds < 1:
        raise ValueError(f"--rounds {options.rounds}: must be at least 1")
    if options.threads < 1:
        raise ValueError(f"--threads {options.threads}: must be at least 1")
    check(options.against)
    chosen = benchmark_named(options.name)
    settings = with_settings(chosen, options.set)
    check_obeyed(chosen, options)
    compute_on(options.device, options.threads)
    asked = Options(options.against, options.device, options.rounds or chosen.rounds, options.threads, settings)
    results = chosen.run(asked)
    facts = machine(options.device)
    if "threads" not in chosen.obeys:
        facts["threads"] = None
    if options.json:
        print(as_json(options.name, results, facts))
        return 0
    for result in results:
        print(as_text(result))
    print(one_line(facts))
    return 0


def check_obeyed(chosen: Benchmark, options: argparse.Namespace) -> None:
    """Raises ValueError for an option that would change nothing."""
    for name, usual in {"against": "plain", "device": "cpu", "threads": 1}.items():
        asked = getattr(options, name)
        if asked != usual and name not in chosen.obeys:
            raise ValueError(f"--{name} {asked}: means nothing to {chosen.name}, {chosen.compares}; leave it out")


def with_settings(chosen: Benchmark, assignments: Sequence[str]) -> dict[str, Number]:
    """Defaults with NAME=NUMBER of the command line. Raises ValueError."""
    settings = dict(chosen.settings)
    for assignment in assignments:
        name, _, number = assignment.partition("=")
        if name not in settings:
            near = get_close_matches(name, settings, n=1)
            there = f"did you mean {near[0]}?" if near else f"there are {', '.join(settings) or 'none'}"
            raise ValueError(f"--set {assignment}: no such setting; {there}")
        try:
            value = type(settings[name])(number)
        except ValueError:
            kind = "a whole number" if isinstance(settings[name], int) else "a number"
            raise ValueError(f"--set {assignment}: must be {kind}, such as {settings[name]}") from None
        if value < (least := chosen.least.get(name, 1)):
            raise ValueError(f"--set {assignment}: must be {least} or more")
        settings[name] = value
    return settings
