"""`train.speed` and `train.device`: what is decided for a sweep, and what a GPU that is full or missing says.

Oracles: seconds worked out by hand from the measured rates; torch's own switches; configs built from the remedies.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from experiments.launch.launch import Launch
from experiments.plan.baselines import digits
from experiments.plan.baselines_published import cifar10_moco_v1, imagenet_moco_v2, imagenet_moco_v3_vit_small
from experiments.plan.overrides import apply
from experiments.plan.sweep import make_cell
from experiments.run.worker import _cause, one_line
from experiments.store import causes
from moco.config import Config, Train
from moco.config.plain import from_plain, run_id, to_plain
from moco.data import load
from moco.errors import GpuOutOfMemory
from moco.methods import simclr
from moco.speed import Way, asked, decide, seconds_saved
from moco.trainer import Trainer, choose_device, naming_what_is_too_large, tell_torch, too_large


def on_a_gpu(*configs: Config, steps: int = 20_000, processes: int = 1) -> Way:
    return decide(configs, [steps] * len(configs), gpus=1, processes=processes)


@pytest.fixture(autouse=True)
def a_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CC", "true")  # a command that every machine has


def test_the_digits_are_put_on_the_cpu_and_the_line_says_why() -> None:
    way = on_a_gpu(digits())
    assert way.line == (
        "eager steps on the CPU: six epochs of the digits took 2.6 s on a CPU and 5.2 s on an H100; train.device=cuda "
        "uses the GPU"
    )
    assert (way.of(digits()).train.device, way.of(digits()).train.speed) == ("cpu", "eager")
    asked_for = apply(digits(), ["train.device=cuda"])
    assert on_a_gpu(asked_for).of(asked_for).train.device == "cuda"
    assert on_a_gpu(digits(), cifar10_moco_v1()).device == "cuda"  # one device for all arms


def test_compiling_is_taken_where_it_saves_more_than_it_costs() -> None:
    """97 steps of 512 an epoch; 1 / 9,973 - 1 / 42,936 s an image is 77 us, so a minute is saved after 1,523 steps."""
    config = cifar10_moco_v1()
    assert seconds_saved(config, 1) == pytest.approx(512 * (1 / 9_973 - 1 / 42_936))
    assert on_a_gpu(config, steps=200 * 97) == Way(
        "cuda", "graphs", "compiling costs about 60 s and would save 765 s by what an H100 did"
    )
    assert [on_a_gpu(config, steps=steps).speed for steps in (1_522, 1_523)] == ["eager", "graphs"]
    assert on_a_gpu(imagenet_moco_v2()).speed == "graphs"
    assert on_a_gpu(imagenet_moco_v3_vit_small()).speed == "compiled"  # with graphs it was not measured


def test_a_sweep_has_one_speed_for_all_its_arms() -> None:
    """The one that suits the arm which gains least; an arm that is not trained has no say."""
    long, short = cifar10_moco_v1(), apply(cifar10_moco_v1(), ["train.epochs=2"])
    untrained = apply(cifar10_moco_v1(), ["train.epochs=0"])
    assert decide([long, short], [19_400, 194], gpus=1).speed == "eager"
    assert decide([long, untrained], [19_400, 0], gpus=1).speed == "graphs"
    assert on_a_gpu(cifar10_moco_v1(), imagenet_moco_v3_vit_small()).speed == "compiled"
    own = apply(cifar10_moco_v1(), ["train.speed=compiled"])
    assert [on_a_gpu(long).of(c).train.speed for c in (long, own)] == ["graphs", "compiled"]


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ("train.deterministic=true", "compiled steps were not checked for it"),
        ("train.accumulate=2 encoder.batch_norm_parts=contiguous", "compiling needs whole batches"),
        ("encoder.depth=8", "was not measured; train.speed=graphs tries it"),
    ],
)
def test_where_nothing_is_known_steps_are_eager_and_the_reason_is_said(settings: str, reason: str) -> None:
    way = on_a_gpu(apply(cifar10_moco_v1(), settings.split()))
    assert way.speed == "eager"
    assert reason in way.line


def test_without_a_gpu_a_compiler_or_alone() -> None:
    config = cifar10_moco_v1()
    without = decide([config], [20_000], gpus=0)
    assert without == Way("auto", "eager", "no GPU is asked for here")
    assert without.line == "eager steps on the CPU: no GPU is asked for here"
    assert on_a_gpu(config, processes=4).speed == "compiled"  # graphs are for one process
    assert on_a_gpu(apply(config, ["train.device=cpu"])).device == "cpu"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CC", "no-such-compiler")
        assert on_a_gpu(config).reason == "no compiler here (no-such-compiler); gcc would make longer runs faster"
        elsewhere = Way("cuda", "graphs", "decided on another machine").here(gpus=1)
        assert (elsewhere.device, elsewhere.speed) == ("cuda", "eager")
        without = Way("cuda", "graphs", "decided on another machine").here(gpus=0)
        assert (without.device, without.speed) == ("auto", "eager")
        assert Way("cuda:1", "eager", "decided on another machine").here(gpus=0).device == "auto"
        assert Way("cpu", "eager", "decided on another machine").here(gpus=0).device == "cpu"
    assert Way("cuda", "graphs", "decided for one").here(processes=2, gpus=1).speed == "compiled"


def test_the_older_switches_keep_their_meaning_and_none_is_part_of_the_identity() -> None:
    for settings, speed in (
        ("", "auto"),
        ("train.compile=true", "compiled"),
        ("train.compile=true train.cuda_graphs=true", "graphs"),
        ("train.speed=eager", "eager"),
        ("train.speed=graphs train.deterministic=true", "graphs"),
    ):
        config = apply(digits(), settings.split())
        assert asked(config.train) == speed
        assert run_id(config) == run_id(digits())
    old = to_plain(apply(digits(), ["train.compile=true"]))
    del old["train"]["speed"], old["train"]["deterministic"]  # as a run of before has it
    assert asked(from_plain(Config, old).train) == "compiled"
    with pytest.raises(
        ValueError, match=r"train.speed = eager and train.compile = True.*older form of train.speed=comp"
    ):
        Train(speed="eager", compile=True)


def test_a_launch_knows_how_many_gpus_a_profile_gives_each_run(tmp_path: Path) -> None:
    """By which steps are compiled and not replayed on several; a run on none decides for itself."""
    one = make_cell("long", 0, cifar10_moco_v1())
    launch = Launch(tmp_path, "long", [one], "command")
    for gpus, way in ((1, ("cuda", "graphs")), (8, ("cuda", "compiled")), (0, ("auto", "eager"))):
        launch.environment["gpus"] = gpus
        assert (launch.way().device, launch.way().speed) == way


def test_a_decision_is_read_back_and_another_versions_is_not() -> None:
    way = on_a_gpu(cifar10_moco_v1())
    assert Way.read(way.record()) == way
    for other in (None, {}, {**way.record(), "speed": "warp"}, {**way.record(), "more": 1}, "graphs"):
        assert Way.read(other) is None


@pytest.fixture
def switches() -> Iterator[None]:
    cudnn = torch.backends.cudnn
    before = cudnn.benchmark, cudnn.deterministic, torch.are_deterministic_algorithms_enabled()
    yield
    cudnn.benchmark, cudnn.deterministic, algorithms = before
    torch.use_deterministic_algorithms(algorithms)


@pytest.mark.usefixtures("switches")
def test_what_torch_is_told_of_a_gpu_is_said_and_the_next_run_starts_from_its_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    gpu, cpu, cudnn = torch.device("cuda"), torch.device("cpu"), torch.backends.cudnn
    for wanted in (True, False):
        told = tell_torch(Train(deterministic=wanted), gpu)
        assert told == (
            "TF32 in convolutions on, in products off, cudnn.benchmark off, deterministic "
            + ("on" if wanted else "off")
        )
        assert (cudnn.deterministic, torch.are_deterministic_algorithms_enabled()) == (wanted, wanted)
    assert tell_torch(Train(), cpu) == ""
    assert tell_torch(Train(deterministic=True), cpu) == (
        "train.deterministic = True: changes nothing, a CPU repeats bit for bit anyway"
    )
    assert not cudnn.deterministic


@pytest.mark.usefixtures("switches")
@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def test_a_deterministic_run_repeats_and_resumes_to_the_bit(device: str) -> None:
    """One run straight through, the same again, and one that goes on from the first's state after half of its steps."""
    steps = 4 if device == "cpu" else 40
    config = apply(digits(), [f"train.device={device}", "train.deterministic=true"])
    data = load(config.data, print)

    def on(trainer: Trainer, until: int) -> Trainer:
        while trainer.step < until:
            for batch in trainer.batches.epoch(trainer.epoch, trainer.step % trainer.batches.steps_per_epoch):
                trainer.take_step(batch)
                if trainer.step == until:
                    break
        return trainer

    first, again, resumed = (Trainer(config, data, torch.device(device)) for _ in range(3))
    state = copy.deepcopy(on(first, steps // 2).state_dict())
    expected = on(first, steps).model.state_dict()
    resumed.load_state_dict(state)
    for other in (on(again, steps), on(resumed, steps)):
        assert all(torch.equal(tensor, expected[name]) for name, tensor in other.model.state_dict().items())


class Full:
    """A batch of a GPU that is full: whoever looks at it gets torch's error."""

    @property
    def query_view_B3SS(self) -> torch.Tensor:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")


def test_a_full_gpu_is_one_line_with_the_fields_to_turn_and_the_runs_cause() -> None:
    config = apply(digits(), ["train.device=cpu"])
    trainer = Trainer(config, load(config.data, print), torch.device("cpu"))
    trainer.step = 7
    with pytest.raises(GpuOutOfMemory) as error:
        trainer.take_step(Full())  # type: ignore[arg-type]
    assert (
        one_line(error.value)
        == str(error.value)
        == (
            "GPU out of memory at step 7: train.batch_size = 128 at data.image_size = 16 with train.precision = fp32 does not "
            "fit; set train.accumulate=2 (the same result), or train.precision=bf16, or train.batch_size=64 (another recipe), "
            "or give the run a GPU of its own"
        )
    )
    assert _cause(error.value) == causes.OUT_OF_MEMORY
    with pytest.raises(RuntimeError, match="shape"), naming_what_is_too_large(config, 0):
        raise RuntimeError("shape")


@pytest.mark.parametrize(
    "make", [digits, cifar10_moco_v1, imagenet_moco_v2, imagenet_moco_v3_vit_small, lambda: simclr(digits())]
)
def test_every_remedy_is_a_config_that_can_be_built(make) -> None:
    config = apply(make(), ["train.speed=graphs"])
    remedies = re.findall(r"(train\.\w+=\S+(?: train\.\w+=\S+)?)", too_large(config).partition("; set ")[2])
    assert len(remedies) >= 1
    for remedy in remedies:
        changed = apply(config, remedy.replace(",", "").split())
        assert changed.train != config.train
    cut = [remedy for remedy in remedies if "accumulate" in remedy]
    assert cut in ([], ["train.accumulate=2 train.speed=eager"])  # compiling needs whole batches
    assert bool(cut) == (make in (digits, imagenet_moco_v2))


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
@pytest.mark.parametrize("given", ["0", "GPU-0ab1", "MIG-1"])
def test_a_process_that_was_given_a_gpu_which_torch_does_not_see_fails(
    given: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", given)
    with pytest.raises(
        ValueError, match=rf"CUDA_VISIBLE_DEVICES = {given} gives this process a GPU, but torch \S+ sees none"
    ):
        choose_device("auto")
    assert choose_device("cpu").type == "cpu"
    for none in ("", "-1", "NoDevFiles"):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", none)
        assert choose_device("auto").type == "cpu"
    with pytest.raises(ValueError, match=r"train.device = cuda: torch sees 0 CUDA GPUs here; choose cpu, or another N"):
        choose_device("cuda")  # what a launch on GPUs decides
