"""Profiles and the queue's words. Oracles: sentences in full; sbatch's own option names."""

from __future__ import annotations

from pathlib import Path

import pytest

from experiments.launch.options import cluster_profile
from experiments.run.cluster import RUNNING
from experiments.state.state import GONE, UNKNOWN, Answer, Queue
from slurm import dev_cluster
from slurm.profiles import Profile, flags, load_profile, profile_names, seconds_of


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    (tmp_path / "moco/profiles").mkdir(parents=True)
    return tmp_path / "moco/profiles"


def test_every_shipped_profile_can_be_read(home: Path) -> None:
    assert profile_names() == ["a100", "dev", "h100", "slurm", "slurm_ddp"]
    assert [load_profile(name).name for name in profile_names()] == profile_names()
    assert load_profile("slurm").partition is None  # Slurm's own default


def test_the_users_profile_goes_before_the_shipped_one(home: Path) -> None:
    (home / "dev.toml").write_text(
        'partition = "mine"\ntime = 30\nenvironment = {A = "b c"}\nsetup = ["module load x"]'
    )
    assert load_profile("dev") == Profile(
        "dev", partition="mine", time="30", environment={"A": "b c"}, setup=("module load x",)
    )
    (home / "other.toml").touch()
    assert profile_names() == ["a100", "dev", "h100", "other", "slurm", "slurm_ddp"]


def test_fields_become_the_options_of_sbatch() -> None:
    full = Profile(
        "x",
        partition="p",
        account="a",
        qos="q",
        gres="gpu:a100:2",
        constraint="c",
        cpus=3,
        memory="8G",
        time="1-00:00:00",
    )
    assert full.options() == {
        "partition": "p",
        "account": "a",
        "qos": "q",
        "gres": "gpu:a100:2",
        "constraint": "c",
        "mem": "8G",
        "time": "1-00:00:00",
        "nodes": "1",
        "ntasks-per-node": "2",
        "cpus-per-task": "3",
    }


def test_a_run_on_several_gpus_has_a_process_for_each() -> None:
    spread = load_profile("slurm_ddp")
    assert (spread.nodes, spread.gpus_per_node, spread.tasks) == (2, 4, 4)
    table = {
        "gpu": (1, None),
        "gpu:3": (3, None),
        "gpu:a100:2": (2, "a100"),
        "gpu:a100": (1, "a100"),
        "shard:4": (0, None),
    }
    for gres, (count, kind) in table.items():
        one = Profile("x", gres=gres)
        assert (one.gpus_per_node, one.tasks, one.gpu_kind) == (count, max(1, count), kind)
    assert Profile("x", gpus=4, tasks_per_node=1).tasks == 1
    assert Profile("x", gpus=1, constraint="h100").gpu_kind == "h100"


@pytest.mark.parametrize(
    ("time", "seconds"),
    [("90", 5400), ("1:30", 90), ("08:00:00", 28800), ("1-0", 86400), ("2-12:30", 217800), ("1-00:00:01", 86401)],
)
def test_time_limits_as_sbatch_reads_them(time: str, seconds: int) -> None:
    assert seconds_of(time) == seconds


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('partiton = "gpu"', "partiton: no such field; the fields are partition, account"),
        ('cpus = "4"', "cpus = '4': must be a whole number"),
        ("gpus = true", "gpus = True: must be a whole number"),
        ("cpus = 0", "cpus = 0: must be at least 1"),
        ("nodes = 0", "nodes = 0: must be at least 1"),
        ("tasks_per_node = 0", "tasks_per_node = 0: must be at least 1"),
        ('account = "my project"', "account = 'my project': must be one word"),
        ('tracking_mode = "later"', "tracking_mode = 'later': must be one of direct, spool, off"),
        (
            'time = "00:02:00"',
            "signal_seconds = 120: must be less than time = '00:02:00', or every run is told to save",
        ),
        ('gpus = 1\ngres = "gpu:1"', "gres = 'gpu:1' and gpus = 1: give one of them"),
        ('time = "eight"', 'time = \'eight\': must be minutes, "HH:MM:SS" or "D-HH:MM:SS"'),
        ('memory = "16 gigs"', "memory = '16 gigs': must be a number and a unit, \"32G\""),
        ('setup = "module load"', "setup = 'module load': must be a list of strings"),
        ("environment = {A = 1}", "environment = {'A': 1}: must be a table of strings"),
        ("qos = 3", "qos = 3: must be a string"),
        ("gpus = 'a100'", "gpus = 'a100': must be a whole number, or as \"a100:2\""),
        ("gpu_type = 'a100'", "gpu_type = 'a100': says nothing without gpus"),
        ("[sbatch]\ntime = 3", "sbatch: time is the field time of the profile"),
        ("[sbatch]\ngpus = 2", "sbatch: gpus is the field gpus of the profile; write it there"),
        ("[sbatch]\njob-name = 'x'", "sbatch: job-name is set by the submission itself"),
        ("[sbatch]\n'-x' = 'n7'", "sbatch: '-x' must be the long name of an option, without dashes before it"),
        ('[sbatch]\ncomment = "a\\nb"', "sbatch: comment = 'a\\nb': must be one line"),
        ("[sbatch]\nexclude = ['n7']", "sbatch: exclude = ['n7']: must be a string, a whole number, true or false"),
        ("[environment]\n'A; reboot' = 'x'", "environment: 'A; reboot' is no name of a variable"),
        ("srun = '--x'", "srun = '--x': must be a list of strings"),
        ("inherits = 'bad'", "inherits = bad: no such profile"),
        ("cpus = ", "Invalid value"),
    ],
)
def test_a_wrong_profile_is_one_line_with_its_file(home: Path, text: str, message: str) -> None:
    (home / "bad.toml").write_text(text)
    with pytest.raises(ValueError, match=r"^[^\n]*$") as caught:
        load_profile("bad")
    assert str(caught.value).startswith(f"{home / 'bad.toml'}: {message}")
    if "partiton" in text:
        assert str(caught.value).endswith("; did you mean partition?")


def test_a_profile_inherits_field_by_field(home: Path) -> None:
    (home / "site.toml").write_text(
        'partition = "p"\ngpus = 1\n[environment]\nA = "1"\nB = "1"\n[sbatch]\nexclude = "n7"\nexclusive = true\n'
    )
    (home / "mine.toml").write_text(
        'inherits = "site"\ngpus = "a100:2"\n[environment]\nB = "2"\n[sbatch]\nexclusive = false\n"mail-type" = "END"\n'
    )
    mine = load_profile("mine", ("time=2:00:00", "sbatch.exclude=n8", "setup=module load x"))
    assert mine == Profile(
        "mine",
        partition="p",
        gpus=2,
        gpu_type="a100",
        environment={"A": "1", "B": "2"},
        sbatch={"exclude": "n8", "exclusive": "", "mail-type": "END"},
        time="2:00:00",
        setup=("module load x",),
    )
    assert {"--gpus-per-node=a100:2", "--exclude=n8", "--exclusive", "--mail-type=END"} <= set(flags(mine.options()))
    assert (mine.gpu_kind, mine.tasks) == ("a100", 2)
    assert load_profile("mine", ("gres=gpu:v100:4",)).gpus is None  # one way to ask for GPUs replaces the other
    (home / "dev.toml").write_text('inherits = "dev"\nmemory = "1G"\n')  # of its own name: the shipped one
    assert (load_profile("dev").partition, load_profile("dev").memory) == ("dev", "1G")
    for one, other in (("one", "other"), ("other", "one")):
        (home / f"{one}.toml").write_text(f'inherits = "{other}"\n')
    with pytest.raises(ValueError, match=r"inherits = '(one|other)': goes in a circle$"):
        load_profile("one")


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("time", "--cluster-set time: must be FIELD=VALUE, such as time=2:00:00 or sbatch.exclude=n7"),
        ("tme=3", "--cluster-set tme: no such field; the fields are partition, "),
        ("cpus=four", "--cluster-set cpus = 'four': must be a whole number"),
        ("sbatch=n7", "--cluster-set sbatch=n7: must be sbatch.NAME=VALUE"),
        ("environment=TOKEN=abc", "--cluster-set environment=***: must be environment.NAME=VALUE"),
        ("time.x=3", "--cluster-set time.x=3: must be time=VALUE"),
        ("cpus=0", "--cluster-set cpus=0, "),
    ],
)
def test_a_wrong_setting_is_one_line(setting: str, message: str) -> None:
    with pytest.raises(ValueError, match=r"^[^\n]*$") as caught:
        load_profile("dev", (setting,))
    assert str(caught.value).startswith(message)


def test_settings_without_a_profile_are_refused() -> None:
    with pytest.raises(
        ValueError, match=r"^--cluster-set cpus=2: changes a profile, and there is none; add --cluster NAME$"
    ):
        cluster_profile("local", settings=("cpus=2",))


def test_an_unknown_profile_is_told_what_there_is(home: Path) -> None:
    with pytest.raises(
        ValueError, match=r"^a10: no such profile; there are a100, dev, h100, slurm, slurm_ddp; did you mean a100?"
    ):
        load_profile("a10")


def test_a_job_is_gone_when_two_looks_miss_it() -> None:
    """One look may fall into a moment when the controller does not know its jobs."""
    running = {"7": (RUNNING, "RUNNING")}
    answers: list[Answer] = [running, {}, running]
    queue = Queue(lambda cluster, owner: answers.pop(0))
    assert queue.phase("8").phase == GONE  # two looks
    assert queue.phase("7").phase == RUNNING  # missed once, seen again: a third look
    assert answers == []


def test_silence_is_not_absence() -> None:
    answers: list[Answer] = [None, None]
    assert Queue(lambda cluster, owner: answers.pop(0)).phase("7").phase == UNKNOWN
    answers = [{}, None]
    assert Queue(lambda cluster, owner: answers.pop(0)).phase("7").phase == UNKNOWN


def test_the_dev_cluster_refuses_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(dev_cluster, "PROGRAMS", ("slurm-that-is-not-there",))
    assert dev_cluster.main(["up", "--folder", str(tmp_path)]) == 2
    wanted = "error: slurm-that-is-not-there: not on this machine; apt-get install slurm-wlm munge\n"
    assert capsys.readouterr().err == wanted
    monkeypatch.setattr(dev_cluster, "PROGRAMS", ())
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    assert dev_cluster.main(["up", "--folder", str(tmp_path)]) == 2
    assert capsys.readouterr().err.startswith("error: needs root, ")
    assert list(tmp_path.iterdir()) == []


def test_a_wrong_setting_beside_a_secret_does_not_show_it() -> None:
    with pytest.raises(
        ValueError, match=r"^--cluster-set cpus=0 'environment.ADA_TOKEN=\*\*\*', .*cpus = 0: must be"
    ) as error:
        load_profile("slurm", ("cpus=0", "environment.ADA_TOKEN=abc"))
    assert "abc" not in str(error.value)
