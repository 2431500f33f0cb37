"""What a search says in tables and figures. Oracles: closed forms of the scales, the record's own numbers, what is drawn."""

from __future__ import annotations

import statistics
from pathlib import Path

import pytest

from analysis.cli import main
from analysis.figures.search import axes_of, contour, figures, history, importances, pareto
from analysis.search import best_so_far, confirmation, find_search, table
from experiments.search.definition import Choice, Complement, Given, Log, Powers
from experiments.search.space import to_plain
from experiments.store.files import replace_json
from experiments.store.schema import SearchRecord
from experiments.store.search_record import record_path
from tests.support.analysis_runs import manifest, readouts, write_manifest, write_run

SPACE = {
    "optim": Choice("sgd", "adamw"),
    "optim.lr": Given("optim", {"sgd": Log(0.01, 1.0), "adamw": Log(1e-4, 1e-2)}),
    "negatives.size": Powers(128, 1024),
    "key_encoder.momentum": Complement(0.9, 0.9999),
}
POINTS = [(90.0, 0.5), (92.5, 0.25), (95.0, 1.0), (91.0, 0.75)]  # percent, GPU-hours: 1 and 2 are the front


def record(root: Path) -> SearchRecord:
    trials = [
        {
            "number": n,
            "state": "done",
            "values": list(values),
            "reported": {},
            "source": "base" if n == 0 else "drawn",
            "hours": values[1],
            "run_id": f"{n:016x}",
            "config": {"train": {"seed": 0}},
            "settings": {
                "optim": "sgd",
                "optim.lr": str(10 ** -(n / 2)),
                "negatives.size": str(128 * 2**n),
                "key_encoder.momentum": "0.99",
            },
        }
        for n, values in enumerate(POINTS)
    ]
    trials.append({"number": 4, "state": "pruned", "values": None, "reported": {"10": 70.0, "20": 75.0}})
    plain = {
        "store_version": 1,
        "name": "search_x",
        "label": "search_x@digits",
        "study": "search_x@digits",
        "storage": "journal",
        "question": "What is best?",
        "base": "digits",
        "base_config": {"train": {"seed": 0}},
        "space": to_plain(SPACE),
        "metrics": ["knn20_top1", "gpu_hours"],
        "directions": ["maximize", "minimize"],
        "limits": {},
        "sampler": "tpe",
        "pruner": "none",
        "seed": 0,
        "budget": 5,
        "command": "python sweeps/search_x.py",
        "trials": trials,
        "ranking": [2, 1, 3, 0],
        "front": [2, 1],
        "importances": {"knn20_top1": {"optim.lr if optim=sgd": 0.75, "optim": 0.25}},
        "failure": None,
        "updated": "2026-01-01T00:00:00.000+00:00",
    }
    path = record_path(root, "search_x@digits")
    path.parent.mkdir(parents=True)
    replace_json(path, plain)
    return find_search(root, "search_x")


def test_scales_in_closed_form(tmp_path: Path) -> None:
    kind, rate, size, momentum = axes_of(record(tmp_path))
    assert [kind.place("sgd"), kind.place("adamw"), kind.place("lars")] == [0.0, 1.0, None]
    assert rate.place("0.01") == pytest.approx(0.5)  # 1e-4 to 1
    assert [size.place(str(k)) for k in (128, 256, 1024)] == pytest.approx([0, 1 / 3, 1])
    assert list(size.ticks().values()) == ["128", "256", "512", "1024"]
    assert momentum.place("0.99") == pytest.approx(1 / 3)  # 1 - m falls from 0.1 to 0.0001


def test_the_best_so_far() -> None:
    assert best_so_far({0: 3.0, 2: 5.0, 3: 4.0}, maximise=True) == [(0, 3.0), (2, 5.0), (3, 5.0)]
    assert best_so_far({0: 3.0, 2: 5.0, 3: 2.0}, maximise=False) == [(0, 3.0), (2, 3.0), (3, 2.0)]


def test_the_table_puts_the_front_first_and_names_the_base(tmp_path: Path) -> None:
    rows = [row.split()[:4] for row in table(tmp_path, record(tmp_path)).splitlines() if "optim=" in row]
    assert rows == [
        ["front", "2", "95.00", "1.00"],
        ["front", "1", "92.50", "0.25"],
        ["3", "3", "91.00", "0.75"],
        ["4", "0", "(base)", "90.00"],
    ]


def test_what_is_drawn_is_the_record(tmp_path: Path) -> None:
    found = record(tmp_path)
    front = pareto(found)
    assert front is not None
    ax = front.axes[0]
    assert ax.lines[0].get_xydata().tolist() == [[0.25, 92.5], [1.0, 95.0]]  # type: ignore[union-attr]
    assert [text.get_text() for text in ax.texts] == ["1", "2"]
    pruned, done = history(found).axes[0].collections
    assert pruned.get_offsets().tolist() == [[4.0, 75.0]]  # type: ignore[union-attr]
    assert done.get_offsets().tolist() == [[n, v] for n, (v, _) in enumerate(POINTS)]  # type: ignore[union-attr]
    assert [bar.get_width() for bar in importances(found).axes[0].patches] == [0.25, 0.75]  # type: ignore[attr-defined]
    assert contour(found).axes[0].get_xlabel() == "optim.lr"  # of the numbers, the more important one
    assert set(figures(found)) == {"history", "importances", "slices", "contour", "parallel", "pareto"}


def test_the_command_writes_them_all_and_a_wrong_name_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    record(tmp_path)
    monkeypatch.setenv("MOCO_RUNS", str(tmp_path))
    assert main(["search", "search_x", "--out", str(tmp_path / "figures"), "--format", "png"]) == 0
    assert len(list((tmp_path / "figures").glob("*.png"))) == 6
    capsys.readouterr()
    assert main(["search", "search_y"]) == 2
    assert capsys.readouterr().err == (
        f"error: no search 'search_y' under {tmp_path}: did you mean search_x?; one begins with python sweeps/search_moco.py\n"
    )


@pytest.mark.parametrize(("rate", "theirs"), [(0.1, True), (0.3, False)])
def test_a_confirmation_under_another_label_counts_if_it_has_the_trials_settings(
    tmp_path: Path, rate: float, theirs: bool
) -> None:
    found = record(tmp_path)
    for trial in found["trials"][:4]:
        trial["config"] = {"optim": {"lr": 0.1}, "train": {"seed": 0, "epochs": 2}}
    config = {"optim": {"lr": rate}, "train": {"seed": 7, "epochs": 2}}
    planned = manifest({"base": [7], "trial-2": [7]}, name="search_x_confirm", label="search_x_confirm@digits,a=b")
    for cell in planned["cells"]:
        cell["config"] = config
        path = write_run(tmp_path, cell["arm"], 7, readouts(1, 1, 1, 1))
        replace_json(path / "results.json", {"test": {}, "validation": {"knn20_top1": 91.0}})
    write_manifest(tmp_path, planned)
    assert [row.arm for row in confirmation(tmp_path, found)] == (["base", "trial-2"] if theirs else [])


def confirm(
    root: Path, found: SearchRecord, values: dict[str, dict[int, float | None]], rates: dict[str, float]
) -> None:
    """A confirmation under the search's own label; None: the run has not ended."""
    for trial in found["trials"][:4]:
        trial["config"] = {"optim": {"lr": trial["number"] / 10}, "train": {"seed": 0}}
    found["base_config"] = {"optim": {"lr": 0.0}, "train": {"seed": 0}}
    arms = {arm: list(by_seed) for arm, by_seed in values.items()}
    planned = manifest(arms, name="search_x_confirm", label="search_x_confirm@digits", joined=[])
    for cell in planned["cells"]:
        cell["config"] = {"optim": {"lr": rates[cell["arm"]]}, "train": {"seed": cell["seed"]}}
        value = values[cell["arm"]][cell["seed"]]
        if value is not None:
            path = write_run(root, cell["arm"], cell["seed"], readouts(1, 1, 1, 1))
            replace_json(path / "results.json", {"test": {}, "validation": {"knn20_top1": value}})
    write_manifest(root, planned)


def test_a_confirmation_of_the_study_before_is_not_shown_as_that_of_the_new_one(tmp_path: Path) -> None:
    """The trials of both have the same names: only those with the same config are compared."""
    found, seeds = record(tmp_path), range(7, 12)
    values: dict[str, dict[int, float | None]] = {
        arm: {s: at + s / 10 for s in seeds} for arm, at in (("base", 80.0), ("trial-1", 82.0), ("trial-2", 84.0))
    }
    confirm(tmp_path, found, values, {"base": 0.0, "trial-1": 0.1, "trial-2": 0.9})
    assert [row.arm for row in confirmation(tmp_path, found)] == ["trial-1", "base"]
    found["base_config"] = {"optim": {"lr": 0.7}, "train": {"seed": 0}}
    assert confirmation(tmp_path, found) == []


def test_a_trial_that_lacks_seeds_is_ranked_last_and_has_no_advantage(tmp_path: Path) -> None:
    found, seeds = record(tmp_path), range(7, 13)
    values: dict[str, dict[int, float | None]] = {
        "base": {s: 80.0 + s % 2 for s in seeds},
        "trial-1": {s: 80.5 + (s + s // 3) % 2 for s in seeds},
        "trial-2": {s: 90.0 + s % 3 if s < 10 else None for s in seeds},
        "trial-3": dict.fromkeys(seeds),
    }
    confirm(tmp_path, found, values, {arm: i / 10 for i, arm in enumerate(values)})
    rows = {row.arm: row for row in confirmation(tmp_path, found)}
    assert list(rows) == ["trial-1", "base", "trial-2", "trial-3"]
    assert [row.against_base is None for row in rows.values()] == [False, True, True, True]
    assert [row.shrunken is None for row in rows.values()] == [False, True, True, True]
    shown = [line.split()[1:4] for line in table(tmp_path, found).splitlines() if " trial-" in line]
    assert [(arm, n) for arm, n, _ in shown] == [("trial-1", "6/6"), ("trial-2", "3/6"), ("trial-3", "0/6")]
    # Alone, as if the others had no trial: its own advantage by the closed form of `analysis.advantage`.
    d = [float(values["trial-1"][s] or 0) - float(values["base"][s] or 0) for s in seeds]
    mean, error = statistics.fmean(d), statistics.variance(d) / len(d)
    spread = max(0.0, mean**2 - error)
    assert rows["trial-1"].shrunken == pytest.approx(mean * spread / (spread + error) if spread else 0.0)
