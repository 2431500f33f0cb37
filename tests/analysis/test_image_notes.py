"""What a table says of image files. Oracle: the records that the test wrote."""

from __future__ import annotations

import json
from pathlib import Path

from analysis.ablation import ablation_table
from analysis.frame import load_sweep
from experiments.commands.state import SweepStatus
from experiments.store import schema
from experiments.store.images import ONLY_NAMES
from moco.data.seen import Seen
from tests.support.analysis_runs import manifest, readouts, write_manifest, write_run

CONTENTS, NAMES = "0" * 32, "0" * 16


def store(root: Path, fingerprint: str, lines: dict[int, Seen]) -> schema.Manifest:
    """Two arms of two seeds on a folder; the runs of a seed in `lines` have a record."""
    planned = manifest({"K=64": [0, 1], "K=32": [0, 1]})
    for cell in planned["cells"]:
        cell["config"] = {"data": {"name": "folder", "fingerprint": fingerprint}}
        run = write_run(root, cell["arm"], cell["seed"], readouts(90.0 + cell["seed"], 90.0, 90.0, 90.0))
        if cell["seed"] in lines:
            (run / schema.IMAGES).write_text(json.dumps(lines[cell["seed"]].plain()))
    write_manifest(root, planned)
    return planned


def notes(root: Path) -> list[str]:
    return [
        n for n in ablation_table(*load_sweep(root, "queue_size")).notes if n.startswith(("Images", ONLY_NAMES[:10]))
    ]


def test_the_line_of_all_runs_stands_once(tmp_path: Path) -> None:
    seen = Seen(read=30, passed_over={".heic": 3, ".txt": 1})
    store(tmp_path, CONTENTS, {0: seen, 1: seen})
    assert notes(tmp_path) == ["Images: read 30, passed over 4 (.heic 3, .txt 1), skipped 0, 0 of one colour."]


def test_other_images_in_another_run_are_a_line_of_their_own(tmp_path: Path) -> None:
    store(tmp_path, CONTENTS, {0: Seen(read=30), 1: Seen(read=29, skipped=1)})
    assert [note[:16] for note in notes(tmp_path)] == ["Images: read 30,", "Images: read 29,"]


def test_runs_of_before_contents_were_compared_say_so_in_the_table_and_the_status(tmp_path: Path) -> None:
    """Also without a record, as they were written then."""
    planned = store(tmp_path, NAMES, {})
    assert notes(tmp_path) == [f"{ONLY_NAMES}."]
    said = " ".join(line.strip() for line in SweepStatus.of(tmp_path, planned).lines())
    assert ONLY_NAMES in said
    other = store(tmp_path / "other", CONTENTS, {})
    assert notes(tmp_path / "other") == []
    assert ONLY_NAMES not in " ".join(line.strip() for line in SweepStatus.of(tmp_path / "other", other).lines())


def test_a_damaged_record_is_one_named_problem(tmp_path: Path) -> None:
    store(tmp_path, CONTENTS, {0: Seen(read=30), 1: Seen(read=30)})
    (tmp_path / "K64-0" / schema.IMAGES).write_text("{")
    said: list[str] = []
    table = ablation_table(*load_sweep(tmp_path, "queue_size", said.append))
    assert len(said) == 1
    assert "K64-0/images.json" in said[0]
    assert table.rows[0].n_done == 2
