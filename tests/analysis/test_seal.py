"""A table under its seal. Oracles: the one change that was made, named in full; a file nobody touched."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from analysis import ablation, rule_one, stats
from analysis.cli import main
from analysis.seal import seals_in
from analysis.verify import verify
from experiments.store import schema
from experiments.store.summary import Summary
from tests.support.analysis_runs import manifest, readouts, run_id, unfinished_store, write_manifest, write_run

EXAMPLE = Path(__file__).parents[1] / "fixtures/sealed_format_1/queue_size.md"
RULE_1 = Path(__file__).parents[1] / "fixtures/sealed_rule_1"
FORMATS = ("md", "csv", "tex", "html")


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    unfinished_store(tmp_path / "runs")
    monkeypatch.setenv("MOCO_RUNS", str(tmp_path / "runs"))
    monkeypatch.chdir(tmp_path)
    return tmp_path / "runs"


def written(format: str) -> Path:
    path = Path(f"table.{format}")
    assert main(["table", "queue_size", "--out", str(path)]) == 0
    return path


@pytest.mark.parametrize("format", FORMATS)
def test_a_table_that_nobody_touched_holds(store: Path, format: str, capsys: pytest.CaptureFixture[str]) -> None:
    path = written(format)
    capsys.readouterr()
    assert main(["verify", str(path)]) == 0
    assert capsys.readouterr().out == f"table.{format}: nothing has changed since it was made\n"


def result(root: Path) -> None:
    path = root / run_id("K=512", 3) / schema.RESULTS
    results = json.loads(path.read_text())
    results["test"][schema.LINEAR] = 98.9
    path.write_text(json.dumps(results))


def state(root: Path) -> None:
    path = root / run_id("K=256", 2) / schema.STATUS
    path.write_text(json.dumps(json.loads(path.read_text()) | {"state": schema.CANCELLED}))


def begun(root: Path) -> None:
    write_run(root, "K=128", 4, readouts(97.1, 1, 1, 1), seconds=50.0)


def replanned(root: Path) -> None:
    seeds = list(range(5))
    arms = {"K=1024": [*seeds, 5], "K=512": seeds, "K=256": seeds, schema.RANDOM_INIT: seeds}
    made = manifest(arms, published={"K=1024": 57.5, "K=512": 56.4})
    made["published_source"] = "He et al. 2020 (arXiv:1911.05722), Fig. 3, ImageNet, ResNet-50"
    made["claim"] = "falls"
    made["cells"][6]["run_id"] = "another"
    write_manifest(root, made)


CHANGES: list[tuple[Callable[[Path], None], list[str]]] = [
    (result, ["K=512 seed 3 (K512-3): linear_top1 was 99.0, is 98.9"]),
    (state, ["K=256 seed 2 (K256-2): was running, is cancelled"]),
    (begun, ["K=128 seed 4 (K128-4): was missing, is done"]),
    (
        replanned,
        [
            "K=512 seed 0: was run K512-0, is run another: its config has changed",
            *(f"K=128 seed {seed} (K128-{seed}): no longer planned" for seed in range(5)),
            "K=1024 seed 5 (K1024-5): planned since, missing",
            "plan: claim was rises, is falls",
        ],
    ),
]


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize(("change", "said"), CHANGES, ids=[c.__name__ for c, _ in CHANGES])
def test_what_has_changed_is_named(
    store: Path, format: str, change: Callable[[Path], None], said: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    path = written(format)
    change(store)
    capsys.readouterr()
    assert main(["verify", str(path)]) == 1
    assert capsys.readouterr().out.splitlines() == said


@pytest.mark.parametrize(
    ("format", "old", "new"),
    [
        ("md", "**98.8 ± 0.3**", "**99.8 ± 0.3**"),
        ("csv", "98.78,", "99.78,"),
        ("tex", r"\textbf{98.8", r"\textbf{99.8"),
        ("html", "98.8 &#177;", "99.8 &#177;"),
    ],
)
def test_an_edited_table_is_found_out_and_the_place_named(store: Path, format: str, old: str, new: str) -> None:
    path = written(format)
    text = path.read_text()
    assert text.count(old) == 1
    path.write_text(text.replace(old, new))
    (line,) = verify(path, store)
    assert line.startswith("the file: its table was edited after it was made; line ")
    assert "99." in line
    assert "should have" in line


def test_line_ends_of_another_system_are_no_edit(store: Path) -> None:
    path = written("md")
    path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))
    assert verify(path, store) == []


def test_another_rule_for_a_claim_is_named(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = written("md")
    monkeypatch.setattr(stats, "RULE_VERSION", stats.RULE_VERSION + 1)
    assert verify(path, store) == ["the rule for a claim: version was 2, is 3"]


def test_other_numbers_of_the_same_runs_are_named(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A statistics code that measures every difference 0.25 points too high, for instance."""
    path = written("md")
    compare = ablation.compare

    def biased(values: dict[int, float], baseline: dict[int, float], **how: Any) -> stats.Comparison | None:
        return compare({seed: value + 0.25 for seed, value in values.items()}, baseline, **how)

    monkeypatch.setattr(ablation, "compare", biased)
    changes = verify(path, store)
    assert all("of the same runs" in line for line in changes)
    assert any(line.startswith("K=512: of the same runs difference was [") for line in changes)


def test_wording_and_source_text_are_no_part_of_a_seal(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = written("md")
    monkeypatch.setattr(ablation, "notes", lambda *table: ("other words",))
    monkeypatch.setattr(ablation, "answer", lambda *table: "another sentence")
    assert verify(path, store) == []


@pytest.fixture
def example(tmp_path: Path) -> Path:
    """The runs that the kept table was made of, a seal of format 1, written down from its seal."""
    root = tmp_path / "example"
    (sealed,) = seals_in(EXAMPLE)
    then = sealed.inputs
    assert sealed.version == 1
    names: dict[str, list[int]] = {}
    for arm, seed, *_ in then["runs"]:
        names.setdefault(arm, []).append(seed)
    names = {then["baseline"]: names[then["baseline"]], **names}
    planned = manifest(names, **then["plan"])
    places = {(arm, seed): run for arm, seed, run, *_ in then["runs"]}
    for cell in planned["cells"]:
        cell["run_id"] = places[cell["arm"], cell["seed"]]
    write_manifest(root, planned)
    for run in then["runs"]:
        arm, seed, name, _, *readouts_of, seconds, commits, hardware = run
        test = {k: v for k, v in zip(schema.AT_END, readouts_of, strict=True) if v is not None}
        attempts = [
            {
                "event": "start",
                "commit": commit.partition("+")[0],
                "uncommitted": commit.partition("+")[2] or None,
                "hardware": on,
            }
            for commit, on in zip(commits, hardware * len(commits), strict=False)
        ]
        write_run(root, arm, seed, test, seconds=seconds, attempts=attempts).rename(root / name)
    return root


def test_a_table_sealed_in_format_1_still_holds(example: Path) -> None:
    notes: list[str] = []
    assert verify(EXAMPLE, example, notes.append) == []
    assert notes == ["its seal is of format 1: numbers are compared, its hash of source files is not"]


def test_a_changed_run_under_format_1_is_named(example: Path) -> None:
    run = seals_in(EXAMPLE)[0].inputs["runs"][0]
    path = example / run[2] / schema.RESULTS
    results = json.loads(path.read_text())
    results["test"][schema.LINEAR] = 12.5
    path.write_text(json.dumps(results))
    assert verify(EXAMPLE, example) == [f"{run[0]} seed {run[1]} ({run[2]}): linear_top1 was {run[4]}, is 12.5"]


def test_tampering_under_format_1_is_found(example: Path, tmp_path: Path) -> None:
    path = tmp_path / "edited.md"
    path.write_text(EXAMPLE.read_text().replace("| 98.7 ± 0.3 |", "| 99.7 ± 0.3 |"))
    (line,) = verify(path, example)
    assert line.startswith("the file: its table was edited after it was made; line ")
    assert line.endswith("of the table: the same runs make other numbers of K=512")


def test_other_statistics_under_format_1_are_found(example: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    summarise = rule_one.summarise

    def biased(values: list[float]) -> Summary | None:
        return summarise([value + 1.0 for value in values])

    monkeypatch.setattr(rule_one, "summarise", biased)
    changes = verify(EXAMPLE, example)
    assert len(changes) == len({run[0] for run in seals_in(EXAMPLE)[0].inputs["runs"]})
    assert all("the same runs make other numbers of" in line for line in changes)


@pytest.mark.parametrize("format", FORMATS)
def test_a_table_sealed_under_rule_1_still_holds(store: Path, format: str) -> None:
    """Written by the program of that rule, from the same runs; a run that changes since is named as before."""
    path, notes = RULE_1 / f"unfinished.{format}", list[str]()
    assert seals_in(path)[0].inputs["rule"] == rule_one.RULE
    assert verify(path, store, notes.append) == []
    assert notes == ["made under rule 1 for a claim: its numbers are compared with what that rule makes of the runs"]
    result(store)
    assert verify(path, store) == CHANGES[0][1]


def test_other_statistics_under_rule_1_are_found(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compare = rule_one.compare

    def biased(values: dict[int, float], baseline: dict[int, float], **how: Any) -> stats.Comparison | None:
        return compare({seed: value + 0.25 for seed, value in values.items()}, baseline, **how)

    monkeypatch.setattr(rule_one, "compare", biased)
    changes = verify(RULE_1 / "unfinished.md", store)
    assert any(line.startswith("K=512: of the same runs difference was [") for line in changes)


def test_a_text_with_several_tables_and_a_report_verify_too(store: Path) -> None:
    table = written("md").read_text()
    Path("readme.md").write_text(f"# Title\n\n{table}\nmore\n\n{table}")
    assert len(seals_in(Path("readme.md"))) == 2
    assert verify(Path("readme.md"), store) == []
    assert main(["report", "queue_size", "--out", "report.html"]) == 0
    assert verify(Path("report.html"), store) == []
    result(store)
    assert verify(Path("report.html"), store) == [CHANGES[0][1][0]]


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        (
            "plain.md",
            "no seal here",
            "carries no seal; tables written by `python -m analysis table SWEEP --out FILE` do",
        ),
        ("table.txt", "", "only .md, .csv, .tex and .html files carry a seal"),
        (
            "torn.md",
            "<!-- sealed table -->\nx\n<!-- moco-seal 1 00 11 zz -->\n",
            "its seal is damaged or of another version",
        ),
        ("newer.md", "<!-- sealed table -->\nx\n<!-- moco-seal 3 ff -->\n", "make the table again"),
    ],
)
def test_a_file_without_a_sound_seal_is_one_line(
    store: Path, name: str, content: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    Path(name).write_text(content)
    assert main(["verify", name]) == 2
    shown = capsys.readouterr().err
    assert said in shown
    assert shown.count("\n") == 1


def test_a_seal_whose_contents_were_swapped_is_damaged(store: Path) -> None:
    one, other = written("md").read_text(), Path("other.md")
    result(store)
    two = written("md").read_text()
    packed = [text.rsplit(" ", 2)[1] for text in (one, two)]
    other.write_text(one.replace(packed[0], packed[1]))
    with pytest.raises(ValueError, match="its sum is another"):
        verify(other, store)


def test_a_sweep_that_this_store_lacks_is_a_mistake_of_the_user(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = written("md")
    monkeypatch.setenv("MOCO_RUNS", str(tmp_path / "elsewhere"))
    capsys.readouterr()
    assert main(["verify", str(path)]) == 2
    assert "no sweeps under" in capsys.readouterr().err
