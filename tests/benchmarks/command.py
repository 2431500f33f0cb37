"""The command line of the benchmarks: how fast, against whom, measured in turns."""

from __future__ import annotations

import argparse

from experiments.plan.overrides import change_numbers
from tests.benchmarks.registry import benchmark_named, names
from tests.benchmarks.result import PEERS, Benchmark, Options, as_json, as_text

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
    settings = change_numbers(chosen.settings, options.set, chosen.least)
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
