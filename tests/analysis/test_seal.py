"""A table under its seal. Oracles: the one change that was made, named in full; a file nobody touched."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from analysis import seal
from analysis.cli import main
from analysis.seal import seals_in
from analysis.verify import verify
from experiments.store import schema
from tests.support.analysis_runs import manifest, readouts, run_id, unfinished_store, write_manifest, write_run

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


def test_other_code_is_named_together_with_what_it_makes_of_the_same_runs(
    store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(seal, "code_version", lambda: "aaaaaaaaaaaa")
    path = written("md")
    monkeypatch.setattr(seal, "code_version", lambda: "bbbbbbbbbbbb")
    assert verify(path, store) == [
        "statistics: code aaaaaaaaaaaa has become bbbbbbbbbbbb; the table it makes of these runs is the same"
    ]


def test_the_code_version_is_that_of_the_files(monkeypatch: pytest.MonkeyPatch) -> None:
    here = seal.code_version()
    assert len(here) == 12
    monkeypatch.setattr(seal, "STATISTICS", seal.STATISTICS[:-1])
    seal.code_version.cache_clear()
    assert seal.code_version() != here
    seal.code_version.cache_clear()


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
        ("newer.md", "<!-- sealed table -->\nx\n<!-- moco-seal 2 ff -->\n", "make the table again"),
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
