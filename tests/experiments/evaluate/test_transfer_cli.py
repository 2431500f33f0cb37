"""The command as people type it, on runs made of random weights. Oracles: scipy, a second call, sums by hand."""

from __future__ import annotations

import json
import pickle
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from experiments.__main__ import main
from experiments.evaluate.pool import EvaluationPool, Outcome
from experiments.evaluate.transfer import verb
from experiments.evaluate.transfer.run import record_of
from experiments.evaluate.transfer.spec import Job, changed, log_file, record_file
from experiments.evaluate.transfer.table import markdown, rows_of
from experiments.evaluate.transfer.worker import report
from experiments.plan.configs import create
from experiments.plan.registry import baseline_config
from experiments.plan.sweep import make_cell
from experiments.state.find import Found
from experiments.store import schema
from experiments.store.run import RunDirectory
from moco import checkpoint
from moco.config import Config, Data, ResNet, ViT
from moco.config.plain import to_plain
from moco.methods import supervised
from moco.model import build_query
from moco.transfer import scenes as drawn
from moco.transfer.recipes import recipe_for

SHORT = ("--set", "iterations=2", "batch=2", "warmup=0")


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MOCO_RUNS", str(tmp_path))
    monkeypatch.setattr(drawn, "COUNTS", {"train": 4, "validation": 2, "test": 2})
    drawn.scenes.cache_clear()
    yield tmp_path  # type: ignore[misc]
    drawn.scenes.cache_clear()


def small(seed: int = 0) -> Config:
    base = baseline_config("digits")
    return replace(
        base,
        encoder=ResNet(depth=8, stem="strided", width=8, batch_norm_splits=8),
        train=replace(base.train, seed=seed),
    )


def finished(root: Path, config: Config, classes: int = 0) -> Path:
    """A run directory whose encoder has the weights that a run begins with."""
    run = root / make_cell("arm", config.train.seed, config).run_id
    create(RunDirectory(run), config)
    query = build_query(config, classes)
    state = {"encoder": query.encoder.state_dict(), "head": query.head.state_dict(), "config": to_plain(config)}
    checkpoint.save(state, run / schema.ENCODER)
    return run


def test_a_run_keeps_a_record_and_is_not_fine_tuned_twice(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = finished(runs, small())
    arguments = ["transfer", str(run), "--task", "segmentation", *SHORT]
    assert main(arguments) == 0
    first = capsys.readouterr()
    assert "iteration 2/2" in first.err
    (record,) = (run / "transfer").glob("segmentation-scenes-*.json")
    written = json.loads(record.read_text())
    assert ["test/miou", f"{written['scores']['miou']:.4g}"] in [line.split() for line in first.out.splitlines()]
    assert (written["recipe"]["iterations"], written["on"], written["images"]) == (2, "test", [4, 2])
    assert main(arguments) == 0
    second = capsys.readouterr()
    assert (second.out, second.err) == (first.out, "")


def test_an_untrained_encoder_has_the_weights_that_the_run_began_with(
    runs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """This run was not trained: with BatchNorm measured anew in both, the scores are the same to the last bit."""
    run = finished(runs, small())
    arguments = ["transfer", str(run), "--task", "segmentation", *SHORT, "measure_norms=2", "--random-init"]
    assert main([*arguments, "--on", "validation"]) == 0
    lines = [line.rsplit(maxsplit=1) for line in capsys.readouterr().out.splitlines() if line.startswith("validation/")]
    ours = {name: value for name, value in lines if "(random init)" not in name}
    theirs = {name.removesuffix(" (random init)"): value for name, value in lines if "(random init)" in name}
    assert len(ours) == 13
    assert ours == theirs


def test_the_worker_says_what_is_wrong_with_a_run_and_goes_on(runs: Path) -> None:
    job = Job(changed(recipe_for("segmentation", "scenes"), SHORT[1:]))
    vit = replace(
        baseline_config("digits"),
        data=Data(name="digits", image_size=16),
        encoder=ViT(width=16, depth=1, heads=2, patch=4),
        key_encoder=replace(baseline_config("digits").key_encoder, shuffle=False),
    )
    outcome = report(finished(runs, vit), job)
    assert "need the maps of a ResNet; this encoder is a vision transformer" in outcome["error"]
    assert set(report(finished(runs, small()), job)) == {"run", "values"}


def test_a_supervised_run_gives_its_encoder_whatever_its_classes(runs: Path) -> None:
    base = supervised(small())
    config = replace(base, data=replace(base.data, name="digits4"))
    values = report(finished(runs, config, classes=4), Job(changed(recipe_for("segmentation", "scenes"), SHORT[1:])))
    assert values["values"]["miou"] is not None


def test_jobs_survive_the_way_to_a_worker_and_differ_by_what_matters() -> None:
    job = Job(recipe_for("instance", "coco"), root="/data", workers=4)
    assert pickle.loads(pickle.dumps(job)) == job
    assert replace(job, root="/else", workers=0, device="cpu").name == job.name
    assert replace(job, on="validation").name != job.name
    assert Job(changed(job.recipe, ["lr=0.01"])).name != job.name


def recorded(root: Path, config: Config, job: Job, scores: dict[str, float | None]) -> str:
    run = finished(root, config)
    facts = (run / schema.ENCODER).stat()
    file = run / "transfer" / f"{job.name}.json"
    file.parent.mkdir(exist_ok=True)
    file.write_text(json.dumps({"scores": scores, "encoder": [facts.st_mtime_ns, facts.st_size], "images": [4, 2]}))
    return run.name


def test_a_table_pairs_seeds_and_shows_what_is_missing(runs: Path) -> None:
    """Differences 2, 4, 6 over the three seeds that both have: 4 +- 4.303 * 2 / sqrt(3)."""
    job, cells = Job(recipe_for("segmentation", "scenes")), []
    for seed, (ours, zero) in enumerate([(30.0, 28.0), (31.0, 27.0), (35.0, 29.0)]):
        other = replace(small(seed), data=Data(name="digits", image_size=32))
        for arm, config, value in (("m=0.99", small(seed), ours), (schema.RANDOM_INIT, other, zero)):
            cells.append(Found(recorded(runs, config, job, {"miou": value, "pixel_accuracy": None}), "s", arm, seed))
    cells.append(Found("0123456789abcdef", "s", "m=0.99", 3))
    text = markdown("s", rows_of(runs, cells, job), job)
    assert "| m=0.99      | 3/4 | 32.0 ± 2.6 [25.4, 38.6] | —              | +4.0 [-1.0, +9.0]      |" in text
    assert "| random init | 3/3 | 28.0 ± 1.0 [25.5, 30.5] | —              | —                      |" in text
    run = runs / cells[0].run_id
    assert record_of(run, job) is not None
    (run / schema.ENCODER).write_bytes(b"trained anew")
    assert record_of(run, job) is None


def test_a_sweep_is_worked_off_by_processes(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Real workers; they draw the scenes in full, so of one run and few iterations."""
    run = finished(runs, small())
    job = Job(changed(recipe_for("segmentation", "scenes"), SHORT[1:]), on="validation", device="cpu")
    slots = verb.make_slots(1, 1, use_gpus=False)
    (outcome,) = EvaluationPool(slots, report, (job,)).outcomes([run])
    assert isinstance(outcome, Outcome)
    assert outcome.error is None
    record = json.loads(record_file(run, job).read_text())
    assert record["scores"] == outcome.values
    assert record["images"] == [160, 120]
    assert " iteration 2/2, " in log_file(run, job).read_text()
    assert record_of(run, job) is None  # here there are 4 scenes and 2


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--task", "detectio"], "--task detectio: there is none of that name, the choices are detection, instance"),
        (["--task", "detection", "--data", "cocoa"], "did you mean coco?"),
        (["--task", "segmentation", "--data", "coco"], "COCO has objects, not classes of pixels"),
        (["--task", "instance", "--data", "voc"], "have no masks; choose --data coco"),
        (["--task", "detection", "--data", "voc"], "say where it is, --root DIR; nothing is downloaded"),
        (["--task", "detection", "--data", "voc", "--root", "nowhere"], "nowhere: no such folder"),
        (["--task", "detection", "--set", "itertions=3"], "itertions: no such field; did you mean iterations?"),
        (["--task", "detection", "--set", "lr=fast"], "lr=fast: must be a number"),
        (["--task", "detection", "--set", "batch=1"], "BatchNorm needs 2 images or more"),
        (["--task", "detection", "--set", "sizes=64,0"], "sizes = (64, 0): must all be at least 1"),
        (["--task", "detection", "--set", "max_size=0"], "max_size = 0: must be at least 1"),
        (["--task", "detection", "--set", "anchors="], "anchors = (): detection needs the size of one at least"),
        (["--task", "detection", "--set", "anchors=16,-3"], "anchors = (16, -3): must all be at least 1"),
        (["--task", "detection", "--set", "proposals=0,10"], "proposals = (0, 10): must all be at least 1"),
        (["--task", "detection", "--set", "measure_norms=-3"], "measure_norms = -3: must be 0 or more"),
        (["--task", "detection", "--set", "weight_decay=-1"], "weight_decay = -1.0: must be 0 or more"),
        (["--task", "detection", "--set", "warmup=-1"], "warmup = -1: must be 0 or more"),
        (
            ["--task", "segmentation", "--set", "batch=1", "batch_norm=frozen", "head=deeplab"],
            "batch = 1: the BatchNorm of head=deeplab",
        ),
        (["--task", "segmentation", "--device", "gpu"], "--device gpu: must be auto, cpu, cuda or cuda:N"),
        (["--task", "segmentation", "--device", "cuda:99"], "--device cuda:99: torch sees "),
        (["--task", "detection", "--on", "train"], "--on train: must be one of test, validation"),
        (
            ["--task", "detection", "--data", "voc", "--on", "validation", "--root", "."],
            "has no validation split of ours",
        ),
        (["--task", "segmentation", "--recipe", "voc_c4"], "is for detection on voc, not for segmentation on scenes"),
        (["--task", "segmentation", "--workers", "-1"], "--workers -1: must be at least 0"),
        (["--task", "segmentation", "--seed", "1"], "a run has its own seed"),
    ],
)
def test_wrong_input_is_one_line_and_exit_2(
    arguments: list[str], words: str, runs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = finished(runs, small())
    assert main(["transfer", str(run), *arguments]) == 2
    said = capsys.readouterr().err
    assert words in said
    assert said.count("\n") == 1
    assert not (run / "transfer").exists()


def test_a_run_that_is_not_done_and_a_file_without_weights_are_refused(
    runs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = finished(runs, small())
    (run / schema.ENCODER).unlink()
    assert main(["transfer", str(run), "--task", "segmentation"]) == 2
    assert "the run is not done" in capsys.readouterr().err
    checkpoint.save({"layer1.0.conv1.weight": torch.zeros(3)}, runs / "other.pt")
    assert main(["transfer", str(runs / "other.pt"), "--task", "segmentation"]) == 2
    assert "neither a ResNet nor a ViT" in capsys.readouterr().err
