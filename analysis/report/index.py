"""`write_all`: a report of every sweep, and a page of all sweeps with question, answer, progress, cost and link."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import quote

from analysis.ablation import ablation_table
from analysis.frame import Log, manifests, to_stderr
from analysis.report.failures import failure_summary
from analysis.report.page import page
from analysis.report.report import cost, report
from analysis.sources import RunDirectories
from analysis.tracked import known_server, pages_at
from analysis.words import NOTHING
from experiments.store import schema

INDEX: Final = "index.html"


@dataclass(frozen=True)
class Entry:
    """A sweep on the page; `file` is None for one that could not be read, and `answer` then says why."""

    label: str
    question: str
    answer: str
    done: str
    failed: str
    cost: str
    updated: str
    file: str | None

    @property
    def address(self) -> str | None:
        return quote(self.file) if self.file else None


def file_name(label: str) -> str:
    """The file name of a sweep's report: its label, with unsafe characters replaced."""
    return re.sub(r"[^A-Za-z0-9.=@,+_-]", "-", label) + ".html"


def write_all(root: Path, folder: Path, server: str | None = None, log: Log = to_stderr) -> list[Path]:
    """A report for each sweep under `root` and the page of all, into `folder`. `ValueError` for a store without sweeps."""
    planned = manifests(root, log)
    if not planned:
        raise ValueError(f"no sweeps under {root}: run one first, or set MOCO_RUNS to the folder that holds your runs")
    folder.mkdir(parents=True, exist_ok=True)
    source, address = RunDirectories(root), server or known_server(root)
    entries, written = [], []
    for manifest in planned:
        label = manifest["label"]
        if manifest["store_version"] > schema.STORE_VERSION:
            text = (
                f"written in store version {manifest['store_version']}; this program reads up to {schema.STORE_VERSION}"
            )
            entries.append(Entry(label, manifest.get("question", ""), text, NOTHING, "", NOTHING, "", None))
            continue
        loaded = source.load(label, log)
        pages = None
        if address:
            try:
                pages = pages_at(address, manifest)
            except ValueError as error:
                log(f"{label}: without links: {error}")
        path = folder / file_name(label)
        path.write_text(report(source, loaded, pages, INDEX, log), encoding="utf-8")
        table = ablation_table(*loaded)
        entries.append(
            Entry(
                label,
                table.question,
                table.answer,
                f"{table.n_done:,} of {table.n_planned:,}",
                failure_summary(loaded.cells),
                cost(loaded.cells),
                manifest["updated"],
                path.name,
            )
        )
        written.append(path)
    index = folder / INDEX
    index.write_text(page("index.html.j2", entries=entries, place=source.place), encoding="utf-8")
    return [*written, index]
