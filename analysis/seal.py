"""The seal of a table: what the table was made from, kept in its file. `analysis.verify` compares it with the runs.

    inputs                   run ids, states, results, the numbers made of them, and the rule for a claim
    sealed                   a text with its seal
    seals_in                 the seals of a file

The seal is one line, `moco-seal 2 <inputs' sha256> <body's sha256> <inputs, packed>`: a comment in Markdown, LaTeX and
HTML, a last column in CSV. It guards against mistakes, not against forgers, who can edit both table and seal. Format 1 had
a hash of source files in place of numbers and rule.
"""

from __future__ import annotations

import base64
import csv
import hashlib
import html
import io
import json
import re
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import polars as pl

from analysis.stats import rule
from analysis.table import DIVERGED, Row, Table, dropped_by_hand
from experiments.store import schema
from experiments.store.schema import Manifest

VERSION: Final = 2
READABLE: Final = (1, 2)
# Of every seal; one over runs with readouts that were added later names its own in `fields`.
RUN_FIELDS: Final = (*schema.AT_END, "seconds", "commits", "hardware")
PLAN_FIELDS: Final = ("question", "claim", "published", "published_source")

_WORDS: Final = rf"moco-seal ([{READABLE[0]}-{READABLE[-1]}]) ([0-9a-f]{{64}}) ([0-9a-f]{{64}}) ([A-Za-z0-9+/=]+)"
_BEGIN: Final = {"md": "<!-- sealed table -->", "html": "<!-- sealed table -->", "tex": "% sealed table"}
_END: Final = {"md": "<!-- {} -->", "html": "<!-- {} -->", "tex": "% {}"}


def numbers(rows: Sequence[Row]) -> dict[str, dict[str, Any]]:
    """The numbers of each arm, to nine digits; further ones depend on the machine."""
    made: dict[str, dict[str, Any]] = {}
    for row in rows:
        of_arm: dict[str, Any] = {"n_done": row.n_done, "n_planned": row.n_planned}
        of_arm |= {name: [s.mean, s.std, s.n] for name, s in row.readouts.items() if s is not None}
        if (c := row.comparison) is not None:
            of_arm |= {"difference": [c.difference, c.low, c.high, c.n], "verdict": c.verdict}
            of_arm |= {"p": [c.p, c.p_holm, c.p_t, c.p_t_holm]}
        if (over := row.over_images) is not None:
            of_arm |= {"over_images": [over.low, over.high, over.seeds, over.images]}
        made[row.arm] = {name: _rounded(value) for name, value in of_arm.items()}
    return made


def _rounded(value: Any) -> Any:
    if isinstance(value, list):
        return [_rounded(part) for part in value]
    return float(f"{value:.9g}") if isinstance(value, float) else value


def inputs(manifest: Manifest, cells: pl.DataFrame, metric: str, rows: Sequence[Row]) -> dict[str, Any]:
    """What the table was made from, and its numbers, as plain data. A run is arm, seed, run id, state, then its fields."""
    added = [readout for readout in schema.ADDED if cells[readout].drop_nulls().len()]
    fields = (*RUN_FIELDS, *added)
    columns = ("arm", "seed", "run_id", "state", "diverged", *fields)
    runs = [
        [arm, seed, run_id, DIVERGED if diverged else state, *values]
        for arm, seed, run_id, state, diverged, *values in cells.select(columns).iter_rows()
    ]
    plan: dict[str, Any] = {name: manifest.get(name) for name in PLAN_FIELDS}
    plan["metric"] = manifest["metric"]
    plan |= {
        name: manifest.get(name) for name in ("shape", "factors", "max_seeds", "joined", "looks") if manifest.get(name)
    }
    if dropped := dropped_by_hand(manifest):
        plan["dropped"] = list(dropped)
    return {
        "label": manifest["label"],
        "metric": metric,
        "baseline": manifest["baseline"],
        "plan": plan,
        "rule": rule(),
        "numbers": numbers(rows),
        "runs": runs,
        **({"fields": list(fields)} if added else {}),
    }


def digest(value: object) -> str:
    """sha256 of canonical JSON; of text, of its bytes."""
    text = value if isinstance(value, str) else json.dumps(value, sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()


def note(table: Table) -> str:
    return f"Seal {digest(dict(table.inputs))[:12]}: `python -m analysis verify FILE` names what has changed since."


def _plain(body: str, format: str) -> str:
    """The body for comparison: without HTML character references and spaces at the ends of lines."""
    text = html.unescape(body) if format == "html" else body
    return "\n".join(line.rstrip() for line in text.strip().splitlines())


def sealed(text: str, table: Table, format: str, view: str) -> str:
    """The text with its seal. The format "text", for terminals, has none."""
    if format == "text":
        return text
    packed = json.dumps({**table.inputs, "view": view}, ensure_ascii=False).encode()
    payload = base64.b64encode(zlib.compress(packed)).decode()
    words = f"moco-seal {VERSION} {digest(dict(table.inputs))} {digest(_plain(text, format))} {payload}"
    if format == "csv":
        head, first, *rest = csv.reader(io.StringIO(text))
        return _written([[*head, "seal"], [*first, words], *([*row, ""] for row in rest)])
    return f"{_BEGIN[format]}\n{text.rstrip()}\n{_END[format].format(words)}\n"


def _written(rows: list[list[str]]) -> str:
    out = io.StringIO()
    csv.writer(out, lineterminator="\n").writerows(rows)
    return out.getvalue()


@dataclass(frozen=True)
class Seal:
    """A seal as read from a file. `edited`: the body is not the one that was sealed."""

    version: int
    inputs: dict[str, Any]
    view: str
    format: str
    body: str
    edited: bool


def format_of(path: Path) -> str:
    """Raises ValueError for a file that can carry no seal."""
    formats = {".md": "md", ".csv": "csv", ".tex": "tex", ".html": "html", ".htm": "html"}
    if path.suffix.lower() not in formats:
        raise ValueError(f"{path}: only .md, .csv, .tex and .html files carry a seal")
    return formats[path.suffix.lower()]


def seals_in(path: Path) -> list[Seal]:
    """All seals of a file, in order. Raises ValueError for none, or for one that is damaged."""
    format = format_of(path)
    text = path.read_text(encoding="utf-8")
    found = list(_of_csv(text) if format == "csv" else _of_comments(text, format))
    if not found:
        raise ValueError(f"{path}: carries no seal; tables written by `python -m analysis table SWEEP --out FILE` do")
    return [_unpacked(path, format, words, body) for words, body in found]


def _of_csv(text: str) -> Iterator[tuple[str, str]]:
    rows = list(csv.reader(io.StringIO(text)))
    if len(rows) > 1 and rows[0][-1:] == ["seal"]:
        yield rows[1][-1], _written([row[:-1] for row in rows])


def _of_comments(text: str, format: str) -> Iterator[tuple[str, str]]:
    end = re.escape(_END[format]).replace(re.escape("{}"), r"(moco-seal \d+ .*?)")
    for part in re.finditer(re.escape(_BEGIN[format]) + r"\n(.*?)\n" + end + r"$", text, re.DOTALL | re.MULTILINE):
        yield part[2], part[1]


def _unpacked(path: Path, format: str, words: str, body: str) -> Seal:
    match = re.fullmatch(_WORDS, words)
    try:
        if match is None:
            raise ValueError(f"not of version {' or '.join(map(str, READABLE))}")
        found = json.loads(zlib.decompress(base64.b64decode(match[4], validate=True)))
        view = found.pop("view")
        if digest(found) != match[2]:
            raise ValueError("its sum is another")
    except (ValueError, KeyError, zlib.error) as error:
        raise ValueError(f"{path}: its seal is damaged or of another version ({error}); make the table again") from None
    return Seal(int(match[1]), found, view, format, body, edited=digest(_plain(body, format)) != match[3])
