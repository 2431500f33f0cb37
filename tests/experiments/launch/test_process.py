"""Processes of their own, forked and started from scratch. Oracles: the process table, and what the child itself finds."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from experiments.launch.process import SLOWER, Child, Starter, Work
from experiments.store.files import replace_text
from experiments.store.states import is_alive
from tests.support.stand_in_runs import environment, wait_until


def report(path: str, code: int = 0) -> int:
    """What a child finds, as JSON; then it ends with `code`, or by that signal if it is negative."""
    torch = sys.modules.get("torch")
    facts = {
        "pid": os.getpid(),
        "parent": os.getppid(),
        "session": os.getsid(0),
        "input": os.readlink("/proc/self/fd/0"),
        "outputs": [os.readlink(f"/proc/self/fd/{n}") for n in (1, 2)],
        "variable": os.environ.get("A_VARIABLE"),
        "ours": [name for name in os.environ if name.startswith("MOCO_FORK")],
        "method": multiprocessing.get_start_method(),
        "interrupt": signal.getsignal(signal.SIGINT) is signal.default_int_handler,
        "threads": torch and torch.get_num_threads(),
        "cuda": torch and torch.cuda.is_initialized(),
    }
    print("before it ends", flush=True)
    Path(path).write_text(json.dumps(facts))
    if code < 0:
        os.kill(os.getpid(), -code)
    return code


def wait_for_file(path: str) -> int:
    while not Path(path).exists():
        time.sleep(0.01)
    return 0


def until_terminated(path: str) -> int:
    """Writes down its session, then which signal has ended it."""
    received: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, frame: received.append(number))
    replace_text(Path(path), str(os.getsid(0)))
    while not received:
        time.sleep(0.01)
    replace_text(Path(path), signal.Signals(received[0]).name)
    return 0


def fails() -> int:
    raise RuntimeError("out of luck")


def started(starter: Starter, folder: Path, *arguments: object, name: str = "child", **more: str) -> Child:
    child = starter.start(arguments, {"OMP_NUM_THREADS": "1", **more}, folder / f"{name}.txt", wanted=lambda: True)
    assert child is not None
    return child


@pytest.mark.parametrize("forks", [True, False])
@pytest.mark.parametrize("code", [0, 3, -signal.SIGKILL])
def test_a_child_has_its_own_session_log_and_environment_and_its_exit_code_is_known(
    forks: bool, code: int, tmp_path: Path
) -> None:
    starter = Starter(Work(report))
    starter.forks = forks
    child = started(starter, tmp_path, str(tmp_path / "facts"), code, A_VARIABLE=f"x{code}")
    assert child.wait() == code
    facts = json.loads((tmp_path / "facts").read_text())
    log = str(tmp_path / "child.txt")
    assert (facts["pid"], facts["session"], facts["input"], facts["outputs"]) == (
        child.pid,
        child.pid,
        os.devnull,
        [log, log],
    )
    assert (facts["variable"], facts["ours"], facts["interrupt"]) == (f"x{code}", [], True)
    assert facts["method"] == multiprocessing.get_context().get_start_method()
    assert (facts["parent"] == os.getpid()) == (not forks)
    assert Path(log).read_text() == "before it ends\n"
    assert "A_VARIABLE" not in os.environ


def test_an_error_is_the_last_line_of_the_log(tmp_path: Path) -> None:
    child = started(Starter(Work(fails)), tmp_path)
    assert child.wait() == 1
    assert (tmp_path / "child.txt").read_text().endswith("\nRuntimeError: out of luck\n")


# Launchers of their own, as a server belongs to the process that has started it.

LAUNCHER = """
import sys, time
from pathlib import Path
from experiments.launch.process import SLOWER, Starter, Work
from tests.experiments.launch import test_process as here
folder = Path({folder!r})
with (folder / "imports").open("a") as file:
    file.write("once\\n")
def start(work, *arguments, name="child", **more):
    return here.started(Starter(work), folder, *arguments, name=name, **more)
{rest}
"""


def launcher(folder: Path, rest: str, **more: str) -> subprocess.Popen[str]:
    """A script without a guard against being imported, as a user may write one."""
    script = folder / "script.py"
    script.write_text(LAUNCHER.format(folder=str(folder), rest=rest))
    return subprocess.Popen(
        [sys.executable, str(script)],
        env=environment(**more),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


@pytest.mark.parametrize("forks", [True, False])
def test_the_users_file_is_not_run_again_in_a_child(forks: bool, tmp_path: Path) -> None:
    rest = f"""
starter = Starter(Work(here.report))
starter.forks = {forks}
print(here.started(starter, folder, str(folder / "facts"), 3).wait())
"""
    assert launcher(tmp_path, rest).communicate(timeout=120) == ("3\n", None)
    assert (tmp_path / "imports").read_text() == "once\n"


def test_torch_is_imported_by_the_server_with_no_thread_and_no_gpu_touched(tmp_path: Path) -> None:
    rest = """
work = Work(here.report, ("moco.train",))
children = [start(work, str(folder / str(n)), name=f"log-{n}", OMP_NUM_THREADS=str(n)) for n in (1, 2)]
print([child.wait() for child in children])
"""
    assert launcher(tmp_path, rest).communicate(timeout=300) == ("[0, 0]\n", None)
    one, two = (json.loads((tmp_path / name).read_text()) for name in ("1", "2"))
    assert one["parent"] == two["parent"]
    assert (one["threads"], two["threads"]) == (1, 2)
    assert (one["cuda"], two["cuda"]) == (False, False)


def test_where_an_import_leaves_a_thread_a_child_is_started_from_scratch(tmp_path: Path) -> None:
    rest = """
sys.stderr = sys.stdout
print(start(Work(here.report, ("tests.support.leaves_a_thread",)), str(folder / "facts"), 3).wait())
"""
    process = launcher(tmp_path, rest)
    assert process.communicate(timeout=120) == (f"{SLOWER}\n3\n", None)
    assert json.loads((tmp_path / "facts").read_text())["parent"] == process.pid


def test_children_outlive_a_launcher_that_is_killed_and_do_not_hold_its_output(tmp_path: Path) -> None:
    rest = """
child = start(Work(here.wait_for_file), str(folder / "go"))
print(child.pid, flush=True)
time.sleep(1000)
"""
    process = launcher(tmp_path, rest)
    assert process.stdout is not None
    pid = int(process.stdout.readline())
    os.killpg(process.pid, signal.SIGKILL)  # as a terminal that closes, but for the signal
    assert process.communicate(timeout=60) == ("", None)
    assert is_alive(pid, None)
    (tmp_path / "go").touch()
    wait_until(lambda: not is_alive(pid, None))


def test_a_launcher_that_ends_by_an_error_does_not_wait_for_its_children(tmp_path: Path) -> None:
    rest = """
print(start(Work(here.wait_for_file), str(folder / "go")).pid, flush=True)
raise SystemExit(5)
"""
    process = launcher(tmp_path, rest)
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 5
    assert is_alive(int(out), None)
    (tmp_path / "go").touch()
    wait_until(lambda: not is_alive(int(out), None))


@pytest.mark.parametrize("forks", [True, False])
def test_in_the_launchers_session_a_child_is_deaf_to_what_slurm_sends_to_all_and_leaves_with_the_launcher(
    forks: bool, tmp_path: Path
) -> None:
    rest = f"""
import signal
signal.signal(signal.SIGUSR2, lambda number, frame: None)
starter = Starter(Work(here.until_terminated, own_session=False))
starter.forks = {forks}
first = here.started(starter, folder, str(folder / "first"))
print("started", flush=True)
sys.stdin.readline()
second = here.started(starter, folder, str(folder / "second"))
while not (folder / "second").exists():
    time.sleep(0.01)
second.send(signal.SIGTERM)
print(second.wait(), flush=True)
time.sleep(1000)
"""
    process = launcher(tmp_path, rest)
    assert process.stdout is not None
    assert process.stdin is not None
    assert process.stdout.readline() == "started\n"
    os.killpg(process.pid, signal.SIGUSR2)  # whether or not the child has begun
    process.stdin.write("\n")
    process.stdin.flush()
    assert process.stdout.readline() == "0\n"  # the server has not died of it, either
    wait_until((tmp_path / "first").exists)
    assert (tmp_path / "first").read_text() == str(process.pid)
    process.kill()
    process.wait()
    wait_until(lambda: (tmp_path / "first").read_text() == "SIGTERM")
    process.stdin.close()
    process.stdout.close()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_while_the_server_imports_starts_nothing(number: signal.Signals, tmp_path: Path) -> None:
    rest = """
import signal
from experiments.launch.local import Pool
from experiments.run.machine import Slot
signal.signal(signal.SIGINT, signal.default_int_handler)
pool = Pool([Slot(0, {"OMP_NUM_THREADS": "1"})], Work(here.report, ("tests.support.imports_slowly",)))
with pool.stoppable():
    print(pool.start(pool.slots[0], str(folder / "facts"), log=folder / "log"), pool.children)
"""
    process = launcher(tmp_path, rest, SLOW_IMPORT=str(tmp_path / "importing"))
    wait_until((tmp_path / "importing").exists)
    process.send_signal(number)
    assert process.communicate(timeout=60) == ("None {}\n", None)
    server = int((tmp_path / "importing").read_text() or "0")
    wait_until(lambda: not is_alive(server, None))
    assert not (tmp_path / "facts").exists()
