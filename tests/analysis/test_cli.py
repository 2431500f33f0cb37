from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import polars as pl
import pytest

import analysis
from analysis.ablation import ablation_table
from analysis.cli import main
from analysis.formats import FORMATS, render
from analysis.frame import load_sweep
from analysis.parser import TABLE_SUFFIXES
from experiments.store import schema
from tests.support.analysis_runs import manifest, unfinished_store, write_journal, write_manifest


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    root = tmp_path / "runs"
    unfinished_store(root)
    for run in sorted(root.glob("K*")):
        write_journal(
            run,
            [(10 * e, float(e), {"validation/knn20_top1": 90.0 + e, "train/loss_over_chance": 0.9}) for e in (1, 2, 3)],
        )
    monkeypatch.setenv("MOCO_RUNS", str(root))
    monkeypatch.chdir(tmp_path)
    return root


@pytest.mark.parametrize(("suffix", "format"), TABLE_SUFFIXES.items())
def test_out_writes_what_its_suffix_names_and_makes_the_folder(store: Path, suffix: str, format: str) -> None:
    assert main(["table", "queue_size", "--out", f"a/b/answer{suffix}"]) == 0
    assert Path(f"a/b/answer{suffix}").read_text() == render(ablation_table(*load_sweep(store, "queue_size")), format)


def test_format_prints(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert sorted(TABLE_SUFFIXES.values()) == sorted(FORMATS)
    assert main(["table", "queue_size@digits", "--format", "csv", "--readout", "knn20_top1"]) == 0
    assert capsys.readouterr().out == render(
        ablation_table(*load_sweep(store, "queue_size"), metric="knn20_top1"), "csv"
    )


@pytest.mark.parametrize(("suffix", "begins"), [("svg", b"<?xml"), ("pdf", b"%PDF"), ("png", b"\x89PNG")])
def test_plot_writes_readouts_and_curves(store: Path, suffix: str, begins: bytes) -> None:
    assert main(["plot", "queue_size", "--format", suffix]) == 0
    assert Path(f"queue_size.{suffix}").read_bytes().startswith(begins)
    assert main(["plot", "queue_size", "--readout", "train/loss_over_chance", "--out", f"new/loss.{suffix}"]) == 0
    assert Path(f"new/loss.{suffix}").read_bytes().startswith(begins)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["table", "queue_siz"], "did you mean queue_size?"),
        (["table", "queue_size", "--out", "x.xlsx"], "end it in .txt, .md, .csv, .tex, .html"),
        (
            ["table", "queue_size", "--readout", "top1"],
            "not one of linear_top1, knn20_top1, knn200_top1, few_label_top1",
        ),
        (["plot", "queue_size", "--out", "x.gif"], "one of svg, pdf, png"),
        (["plot", "queue_size", "--out", "x.svg", "--format", "png"], "end it in .png"),
        (["plot", "queue_size", "--readout", "linear_top1", "train/loss"], "need a figure each"),
        (["plot", "queue_size", "--readout", "train/los"], "not one of train/loss,"),
        (["report", "queue_size", "--out", "x.pdf"], "end it in .html"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(
    store: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], said: str
) -> None:
    assert main(arguments) == 2
    captured = capsys.readouterr()
    assert said in captured.err
    assert captured.err.count("\n") == 1
    assert captured.out == ""
    assert list(Path.cwd().iterdir()) == [store]


def on_stderr(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert main(list(arguments)) == 2
    said = capsys.readouterr()
    assert (said.out, said.err.count("\n")) == ("", 1)
    return said.err


@pytest.mark.parametrize("verb", ["table", "plot", "report", "power", "decide"])
def test_every_verb_answers_an_empty_an_unknown_and_a_newer_store_in_one_line(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], verb: str
) -> None:
    assert "no sweep 'queue_sise' under " in (said := on_stderr(capsys, verb, "queue_sise"))
    assert "did you mean queue_size? there are queue_size@digits" in said
    write_manifest(store, manifest({"K=64": [0]}, store_version=schema.STORE_VERSION + 1))
    newer = schema.STORE_VERSION + 1
    assert f"written in store version {newer}, this program reads up to {schema.STORE_VERSION}: update it" in on_stderr(
        capsys, verb, "queue_size"
    )
    monkeypatch.setenv("MOCO_RUNS", str(tmp_path / "empty"))
    assert "run one first, such as `python sweeps/queue_size.py`" in on_stderr(capsys, verb, "queue_size")
    assert sorted(p.name for p in Path.cwd().iterdir()) == ["runs"]


def test_a_damaged_journal_line_is_reported_and_the_rest_drawn(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    journal = store / "K1024-0" / schema.JOURNAL
    first, _, *rest = journal.read_text().splitlines()
    journal.write_text("\n".join([first, '{"step": 20, "epo', *rest]) + "\n")
    assert main(["table", "queue_size"]) == 0
    assert capsys.readouterr().err == ""  # the table is not made from journals
    for arguments in (["plot", "queue_size", "--readout", "train/loss_over_chance"], ["report", "queue_size"]):
        assert main(arguments) == 0
        assert f"{journal}:2: damaged line; left out, the rest is used" in capsys.readouterr().err.splitlines()


def test_damaged_attempts_are_reported_with_the_table_too(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    attempts = store / "K1024-0" / schema.ATTEMPTS
    attempts.write_text(attempts.read_text() + '{"event": "en\n')
    assert main(["table", "queue_size"]) == 0
    said = capsys.readouterr()
    assert said.err == f"{attempts}:2: damaged line; left out, the rest is used\n"
    assert "1 damaged file left out, named when the table was made." in " ".join(said.out.split())


def test_decide_says_what_is_decided(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["decide", "queue_size", "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert (said["baseline"], said["undecided"], said["claim"]) == ("K=1024", ["K=128"], None)
    assert said["lost"] == ["K=256"]  # a seed of it failed
    assert said["arms"]["K=512"]["decided"] is True
    assert main(["decide", "queue_size"]) == 0
    assert capsys.readouterr().out.splitlines()[0] == "K=512: higher by 1.1 [0.9, 1.3], n=5"


@pytest.mark.parametrize("arguments", [["tabel", "x"], ["table", "queue_size", "--format", "pdf"], ["table"], []])
def test_a_mistyped_command_line_is_one_line_too(capsys: pytest.CaptureFixture[str], arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_a_table_is_made_without_plotting_torch_or_mlflow(store: Path) -> None:
    script = (
        "import sys; from analysis.cli import main; code = main(['table', 'queue_size']); "
        "slow = {'seaborn', 'matplotlib', 'pandas', 'torch', 'mlflow', 'scipy.stats'}; "
        "print(slow & set(sys.modules), code, file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=_checkout())
    assert done.stderr == "set() 0\n"


def test_a_reader_that_has_seen_enough_is_no_error(store: Path) -> None:
    module = f"{sys.executable} -m analysis table queue_size"
    done = subprocess.run(
        ["bash", "-c", f"set -o pipefail; {module} | true"], capture_output=True, text=True, cwd=_checkout()
    )
    assert done.stderr == ""


def _checkout() -> Path:
    return Path(analysis.__path__[0]).parent


class Links(HTMLParser):
    """Everything that a page would fetch."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.links: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.links += [value or "" for name, value in attrs if name in ("src", "href", "xlink:href", "srcset", "data")]


def test_a_report_is_one_file_that_fetches_nothing(store: Path) -> None:
    assert main(["report", "queue_size", "--out", "deep/report.html"]) == 0
    page = Path("deep/report.html").read_text()
    found = Links()
    found.feed(page)
    assert all(link.startswith(("#", "data:")) for link in found.links)
    assert not {"script", "iframe", "link", "img", "object"} & found.tags
    assert not re.search(r"@import|url\((?!#)", page)
    made = ablation_table(*load_sweep(store, "queue_size"))
    for said in (
        made.question,
        made.answer,
        "OutOfMemoryError: 2 GiB &amp; &lt;no&gt; more",
        "fedcba9+77aa88b (1 run)",
        "python sweeps/queue_size.py --seeds 5",
        "40 / 100",
    ):
        assert said in page
    assert page.count("<figure>") == 6


def test_the_same_runs_make_the_same_report(store: Path) -> None:
    assert (
        main(["report", "queue_size", "--out", "one.html"])
        == main(["report", "queue_size", "--out", "other.html"])
        == 0
    )
    assert Path("one.html").read_bytes() == Path("other.html").read_bytes()


def test_the_notebook_runs_on_a_store(store: Path) -> None:
    notebook = json.loads((Path(analysis.__path__[0]) / "notebooks" / "compare.ipynb").read_text())
    cells = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in cells)
    assert not any(line.startswith("def ") for cell in cells for line in cell["source"])
    shown: dict[str, object] = {}
    for cell in cells:
        exec("".join(cell["source"]), shown)
    assert shown["table"] == ablation_table(*load_sweep(store, "queue_size"))
    by_seed = shown["by_seed"]
    assert isinstance(by_seed, pl.DataFrame)
    assert by_seed["K=1024"].to_list() == [97.2, 97.9, 97.5, 98.1, 97.8]
    assert os.environ["MOCO_RUNS"] == str(store)
