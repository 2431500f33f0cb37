"""The Markdown notes that MLflow shows: of a sweep, and of each of its runs."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Iterable

from experiments import schema

MAX_NOTE = 8_000  # characters, MLflow's limit


def run_note(manifest: schema.Manifest, cell: schema.Cell) -> str:
    """What the run is for, and the command that makes this arm's runs."""
    return (
        f"{manifest['question']}\n\nArm **{cell['arm']}**, seed {cell['seed']}, of `{manifest['label']}`; "
        f"baseline **{manifest['baseline']}**.\n\n```\n{manifest['command']} --only {shlex.quote(cell['arm'])}\n```\n"
    )[:MAX_NOTE]


def sweep_note(manifest: schema.Manifest, done_arms: Iterable[str]) -> str:
    """The question, how to reproduce it, and how far each arm is. `done_arms`: the arm of each run that is done.

    A table that is too long for MLflow ends with how many arms are left out; the command is never cut.
    """
    head = [
        manifest["question"],  # plain: the list of experiments shows the Markdown as it is written
        f"Claim: {manifest['claim']}" if manifest["claim"] else "",
        f"Varies {', '.join(f'`{v}`' for v in manifest['varies'])}; read off `test/{manifest['metric']}`.",
        f"```\n{manifest['command']}\n```",
        f"Planned {manifest['updated']}.",
        "| arm | runs done |\n|---|---|\n",
    ]
    text = "\n\n".join(part for part in head if part)
    planned, done = Counter(cell["arm"] for cell in manifest["cells"]), Counter(done_arms)
    for i, arm in enumerate(manifest["arms"]):
        mark = " (baseline)" if arm == manifest["baseline"] else ""
        row = f"| {arm}{mark} | {done[arm]}/{planned[arm]} |\n"
        if len(text) + len(row) > MAX_NOTE - 40:
            return f"{text}\nand {len(manifest['arms']) - i} more arms\n"
        text += row
    return text
