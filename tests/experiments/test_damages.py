"""Seeded damages of every kind of file, and what the verbs then do. The whole: `python -m tests.support.damages`.

Oracle: the same verb on the sound store. Every number that it prints stands there too, or the damaged file is named.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from experiments.store import schema
from experiments.store.run import RUNS_VARIABLE
from tests.support.damages import TABLE, Damage, Verb, build, carry_out, examine, verbs, verdict

COUNT = 100


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    root = tmp_path_factory.mktemp("damages") / "runs"
    return root, build(root)


@pytest.fixture(autouse=True)
def _here(store: tuple[Path, list[str]], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(RUNS_VARIABLE, str(store[0]))
    monkeypatch.setenv("MOCO_TRACKING", "off")


def test_a_damage_is_no_traceback_no_silent_number_and_no_harm_to_a_neighbour(
    store: tuple[Path, list[str]], tmp_path: Path
) -> None:
    root, runs = store
    chosen = verbs(runs, tmp_path, every=False)
    wrong = [f"{damage}: {verb}: {what}" for damage, verb, what in examine(root, tmp_path, chosen, COUNT, 0)]
    assert not wrong, "\n".join(wrong)


def test_a_wrong_number_would_be_seen(store: tuple[Path, list[str]]) -> None:
    """As an older version wrote them, without checksums, one digit flipped in the results and in the journal passes every
    check of types and of one against the other."""
    root, (_, second, *_) = store
    verb, paths = (
        Verb("analysis", tuple(TABLE), numbers=True),
        [root / second / n for n in (schema.RESULTS, schema.JOURNAL)],
    )
    sound, contents = carry_out(verb), [path.read_bytes() for path in paths]
    results, journal = json.loads(contents[0]), [json.loads(line) for line in contents[1].splitlines()]
    results["test"][schema.KNN20] += 1
    for record in journal:
        record.pop("crc32", None)
        if f"test/{schema.KNN20}" in record.get("values", {}):
            record["values"][f"test/{schema.KNN20}"] += 1
    del results["crc32"]
    try:
        paths[0].write_text(json.dumps(results))
        paths[1].write_text("".join(f"{json.dumps(record)}\n" for record in journal))
        found = carry_out(verb)
        damage = Damage(os.path.relpath(paths[0], root), "bit", 0)
        assert "numbers that the sound store has not" in str(verdict(verb, sound, found, damage))
    finally:
        for path, content in zip(paths, contents, strict=True):
            path.write_bytes(content)
