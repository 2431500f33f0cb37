"""Markdown for MLflow.

    run_note, sweep_note    the notes of a run and of a sweep: question, answer so far, how to reproduce it
    names_markdown          all names that stand in MLflow (`python -m experiments names`, NAMES.md)

Notes stay within MLflow's limit (`MAX_NOTE`): a long table is cut, the command never is.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from experiments.store import schema
from experiments.store.summary import paired, summarise
from experiments.tracking.mirror import Mirror

MAX_NOTE = 8_000  # characters, MLflow's limit
# Flags that are about one launch, not about the answer.
ONE_OFF = ("--force", "--retry", "--yes", "--wait", "--dry-run")

Key = tuple[str, str]  # run id, arm


@dataclass(frozen=True)
class Row:
    """An arm so far: the metric of each seed that is done, in percent."""

    arm: str
    planned: int
    values: Mapping[int, float]
    failed: int
    diverged: int


def rows(manifest: schema.Manifest, mirrors: Mapping[Key, Mirror]) -> list[Row]:
    """A row for each arm, the baseline first. A run without a value is missing, not 0."""
    cells: dict[str, list[schema.Cell]] = {arm: [] for arm in manifest["arms"]}
    for cell in manifest["cells"]:
        cells[cell["arm"]].append(cell)
    order = sorted(cells, key=lambda arm: arm != manifest["baseline"])
    return [_row(arm, cells[arm], mirrors, f"test/{manifest['metric']}") for arm in order]


def _row(arm: str, cells: Sequence[schema.Cell], mirrors: Mapping[Key, Mirror], metric: str) -> Row:
    begun = {cell["seed"]: mirrors[key] for cell in cells if (key := (cell["run_id"], arm)) in mirrors}
    done = {seed: mirror.last(metric) for seed, mirror in begun.items() if mirror.status == "FINISHED"}
    failed = [mirror for mirror in begun.values() if mirror.status == "FAILED"]
    diverged = sum(mirror.tags.get("moco.diverged") == "1" for mirror in failed)
    values = {seed: value for seed, value in done.items() if value is not None}
    return Row(arm, len(cells), values, len(failed) - diverged, diverged)


def table(manifest: schema.Manifest, arms: Sequence[Row], room: int) -> str:
    """The sweep's table: as many arms as fit into `room` characters, and the number of those left out."""
    text = f"| arm | runs done | {manifest['metric']}, % | against {cell_text(manifest['baseline'])}, same seeds |\n"
    text += "|---|---|---|---|\n"
    for i, row in enumerate(arms):
        line = _line(row, arms[0])
        if len(text) + len(line) > room - 40:
            return f"{text}\nand {len(arms) - i} more arms\n"
        text += line
    return text


def _line(row: Row, baseline: Row) -> str:
    parts = [f"{len(row.values)}/{row.planned}"]
    parts += [f"{count} {state}" for count, state in ((row.failed, "failed"), (row.diverged, "diverged")) if count]
    name = cell_text(row.arm) + (" (baseline)" if row is baseline else "")
    own, difference = summarise(list(row.values.values())), summarise(paired(row.values, baseline.values))
    against = f"{difference.mean:+.2f} (n={difference.n})" if difference and row is not baseline else ""
    return f"| {name} | {', '.join(parts)} | {own.text() if own else '-'} | {against} |\n"


def cell_text(text: str) -> str:
    """Text for a cell of a Markdown table."""
    return text.replace("|", "\\|")


def command_for(command: str, arm: str | None = None) -> str:
    """The command that trains the sweep's runs, or those of one arm, without the flags in `ONE_OFF` and --only."""
    arguments = shlex.split(command)
    kept: list[str] = []
    skipping = False
    for argument in arguments:
        skipping = argument == "--only" or (skipping and not argument.startswith("--"))
        if not skipping and argument not in ONE_OFF and not argument.startswith("--only="):
            kept.append(argument)
    return shlex.join([*kept, *(["--only", arm] if arm is not None else [])])


def reproduce(command: str, commit: str | None, uncommitted: str | None) -> str:
    """The commands that reproduce it, from `git checkout` on, as a code block."""
    lines = [f"git checkout {commit}"] if commit else []
    lines += [f"git apply {schema.DIFF}  # an artifact of this run"] if uncommitted else []
    return "```\n" + "\n".join([*lines, command]) + "\n```"


def run_note(manifest: schema.Manifest, cell: schema.Cell, mirror: Mirror, arms: Sequence[Row] | None) -> str:
    """The question, this run's result, the command that reproduces it, and once the sweep has ended its table."""
    result = mirror.last(f"test/{manifest['metric']}")
    answer = f"`{manifest['metric']}` **{result:.2f} %**" if result is not None else mirror.tags.get("moco.state", "")
    tags = mirror.tags
    command = command_for(manifest["command"], cell["arm"])
    parts = [
        manifest["question"],
        f"Arm **{cell['arm']}**, seed {cell['seed']}, of `{manifest['label']}`: {answer}. "
        f"Baseline **{manifest['baseline']}**.",
        reproduce(command, tags.get("moco.commit"), tags.get("moco.uncommitted")),
    ]
    text = "\n\n".join(parts) + "\n\n"
    if arms is None:
        return (text + "The sweep goes on; its table so far is in the note of the parent run.\n")[:MAX_NOTE]
    return (text + table(manifest, arms, MAX_NOTE - len(text)))[:MAX_NOTE]


def sweep_note(manifest: schema.Manifest, arms: Sequence[Row], commits: Iterable[str]) -> str:
    """The question, how to reproduce it, and the answer so far.

    A table that is too long for MLflow is cut; the command never is.
    """
    different = sorted(set(commits))
    mixed = f"Runs of {len(different)} commits: {', '.join(c[:12] for c in different)}." if len(different) > 1 else ""
    head = [
        manifest["question"],  # plain: the list of experiments shows the Markdown as it is written
        f"Claim: {manifest['claim']}" if manifest["claim"] else "",
        f"Varies {', '.join(f'`{v}`' for v in manifest['varies'])}; read off `test/{manifest['metric']}`.",
        reproduce(command_for(manifest["command"]), different[0] if len(different) == 1 else None, None),
        mixed,
        f"Intervals and verdicts: `python -m analysis table {shlex.quote(manifest['label'])}`. "
        f"Planned {manifest['updated']}.",
    ]
    text = "\n\n".join(part for part in head if part) + "\n\n"
    return text + table(manifest, arms, MAX_NOTE - len(text))


HEAD = """# Names in MLflow

Made by `python -m experiments names` from `experiments/store/metrics.py`, `schema.py` and `@readout`; a test writes it.

A sweep is an experiment, named by its label (`queue_size@digits,train.epochs=5`). In it a parent run `sweep NAME`, below it
a run `ARM seed=SEED` for every arm and seed. A search is shown the same way, its parent `search NAME`. Params of a run are
`arm`, `seed` and every field of the resolved config that defines it, flattened with dots (`negatives.size`). Its input is the
data set with a digest; its output the final encoder as logged model `encoder`, with signature and path, and with the weights
where `MOCO_UPLOAD_MODELS=1`.
"""


def names_markdown() -> str:
    parts = [
        HEAD,
        _section("Metrics", "key", schema.METRICS),
        _section("System metrics", "key", schema.SYSTEM_METRICS),
        _section("Metrics of a search's parent", "key", schema.STUDY_METRICS),
        _section("Tags", "tag", schema.TAGS),
        _section("Tags of MLflow's own", "tag", schema.MLFLOW_TAGS),
        _section("Artifacts", "file", schema.RUN_ARTIFACTS),
    ]
    return "\n".join(parts)


def _section(title: str, column: str, meanings: Mapping[str, str]) -> str:
    rows = [f"| `{name}` | {meaning.replace('|', chr(92) + '|')} |" for name, meaning in meanings.items()]
    return "\n".join([f"## {title}", "", f"| {column} | meaning |", "|---|---|", *rows, ""])
