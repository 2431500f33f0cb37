"""`--confirm 5x3`: the best trials and the base once more, at seeds that the search has not seen. An ordinary sweep."""

from __future__ import annotations

import argparse
import re
from dataclasses import replace

from experiments import cli
from experiments.schema import SearchRecord, TrialRecord
from experiments.search.record import arm_of, front, ranked
from experiments.sweep import Sweep
from moco.config import Config
from moco.identity import from_plain, run_id

BASE = "base"


def sweep_name(record: SearchRecord) -> str:
    return f"{record['name']}_confirm"


def parse(text: str) -> tuple[int, int]:
    """`5x3`: trials and seeds. Raises ValueError for anything else."""
    match = re.fullmatch(r"([1-9]\d*)x([1-9]\d*)", text)
    if match is None:
        raise ValueError(f"--confirm {text}: write trials x seeds, such as 5x3")
    return int(match[1]), int(match[2])


def confirm(record: SearchRecord, options: argparse.Namespace, command: str) -> int:
    """Train, and print the sweep's table; returns its exit code. Raises ValueError where there is no finished trial."""
    count, seeds = parse(options.confirm)
    winners = best(record, count)
    if not winners:
        raise ValueError(f"--confirm {options.confirm}: {record['label']} has no finished trial yet; search first")
    sweep = confirmation(record, winners, seeds)
    flags = ["--cluster", options.cluster, *(["--baseline", options.baseline] if options.baseline else [])]
    set_ = [text for text in options.set if text.partition("=")[0].strip() != "train.seed"]  # the seeds are fresh ones
    flags += ["--set", *set_] if set_ else []
    flags += ["--max-parallel", str(options.workers)] if options.workers else []
    flags += [f"--{name.replace('_', '-')}" for name in ("dry_run", "retry", "yes", "wait") if getattr(options, name)]
    return cli.carry_out(sweep, cli.parser(sweep).parse_args(flags), command)


def best(record: SearchRecord, count: int) -> list[TrialRecord]:
    """The best by the search's own numbers, or its Pareto front; the base has an arm of its own."""
    base = _base_id(record)
    candidates = ranked(record) if len(record["metrics"]) == 1 else front(record)
    return [trial for trial in candidates if _seedless(trial) != base][:count]


def confirmation(record: SearchRecord, winners: list[TrialRecord], seeds: int) -> Sweep:
    def arms(base: Config) -> dict[str, Config]:
        return {BASE: base, **{arm_of(t["number"]): from_plain(Config, t["config"]) for t in winners}}

    used = [t["config"]["train"]["seed"] for t in record["trials"] if t.get("config")]
    return Sweep(
        name=sweep_name(record),
        question=f"Which of the {len(winners)} best trials of {record['label']} holds at fresh seeds?",
        claim="the best trial stays above the base",
        varies=tuple(record["space"]),
        arms=arms,
        baseline=BASE,
        base=record["base"],
        seeds=seeds,
        first_seed=max(used) + 1,
        metric=record["metrics"][0],
    )


def _base_id(record: SearchRecord) -> str:
    return _id(from_plain(Config, record["base_config"]))


def _seedless(trial: TrialRecord) -> str:
    return _id(from_plain(Config, trial["config"]))


def _id(config: Config) -> str:
    return run_id(replace(config, train=replace(config.train, seed=0)))
