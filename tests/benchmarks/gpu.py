"""What a GPU does with the suite, when one is at hand for minutes.

python -m tests.benchmarks.gpu [--total SECONDS] [--cifar DIR] [PART:LIMIT ...]

Parts run one after the other, each a process that ends at its limit in seconds; parts whose times do not count can share the
card: `repeats+devices:60`. Results are JSON lines, written as they come to $OUT/gpu.jsonl (runs/gpu without OUT), and what a
part says on stderr goes to a file of its name beside it. Without a GPU the same paths run at toy size,
traced and not compiled.
"""

from __future__ import annotations

import argparse
import faulthandler
import json
import multiprocessing
import os
import signal
import sys
import time
import traceback
import warnings
from collections.abc import Callable
from functools import partial
from multiprocessing.process import BaseProcess
from pathlib import Path

# Before the fork, so that no part waits for it. Nothing here may ask CUDA anything: a process forked after that has none.
from tests.benchmarks import gpu_numbers, gpu_speed

PARTS: dict[str, Callable[..., None]] = {**gpu_numbers.PARTS, **gpu_speed.PARTS}
# The most important first; a minute less of the total is a part less at the end.
USUAL = (
    "tests+repeats+devices:75",
    "step_parts:110",
    "step:110",
    "loop:80",
    "digits:40",
    "resnet50:130",
    "vit:90",
    "readouts:60",
    "cifar:280",
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", metavar="PART[+PART]:LIMIT", help=f"of {', '.join(PARTS)}")
    parser.add_argument("--total", type=float, default=3600.0, help="seconds for all parts together")
    parser.add_argument("--cifar", metavar="DIR", help="CIFAR-10 as a folder, train/<class>/* and val/<class>/*")
    parser.add_argument("--epochs", type=int, default=100, help="of the part cifar")
    options = parser.parse_args()
    planned = [part.rpartition(":") for part in options.parts or USUAL]
    unknown = {name for names, _, _ in planned for name in names.split("+")} - set(PARTS)
    if unknown:
        parser.error(f"{', '.join(sorted(unknown))}: no such part; there are {', '.join(PARTS)}")
    out = Path(os.environ.get("OUT", "runs/gpu"))
    out.mkdir(parents=True, exist_ok=True)
    os.environ.setdefault(
        "TORCHINDUCTOR_CACHE_DIR", str(out.resolve().parent / "inductor")
    )  # parts share what they compiled
    if options.cifar:
        os.environ["CIFAR"] = str(Path(options.cifar).resolve())
    os.environ["CIFAR_EPOCHS"] = str(options.epochs)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended from outside"))  # and the part at work with it
    end = time.monotonic() + options.total
    for names, _, limit in planned:
        left = min(float(limit), end - time.monotonic())
        if left < 5:
            write(out, part=names, skipped="no time is left")
            continue
        together([(name, start(name, out)) for name in names.split("+")], left, out)


def start(name: str, out: Path) -> BaseProcess:
    process = multiprocessing.get_context("fork").Process(target=run, args=(name, out), name=name)
    process.start()
    return process


def together(processes: list[tuple[str, BaseProcess]], limit: float, out: Path) -> None:
    end = time.monotonic() + limit
    try:
        for name, process in processes:
            process.join(max(0.0, end - time.monotonic()))
            if process.is_alive():
                assert process.pid is not None
                os.kill(process.pid, signal.SIGUSR1)  # it writes where it is to its file
                time.sleep(0.5)
                write(out, part=name, ended=f"at its limit of {limit:.0f} s")
            elif process.exitcode:
                write(out, part=name, ended=f"with exit code {process.exitcode}")
    finally:
        for _, process in processes:
            if process.is_alive():
                assert process.pid is not None
                os.killpg(process.pid, signal.SIGKILL)
                process.join()


def run(name: str, out: Path) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    os.setpgid(0, 0)  # its compilers and readers end with it
    log = os.open(out / f"{name}.log", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(log, 2)
    sys.stderr = os.fdopen(2, "w", buffering=1, closefd=False)
    faulthandler.register(signal.SIGUSR1, file=2, all_threads=True)
    warnings.filterwarnings("ignore")
    report, started = partial(write, out, part=name), time.monotonic()
    if not gpu_speed.on_gpu():
        gpu_speed.rehearsing()
    try:
        PARTS[name](report)
    except Exception as error:  # the other parts are worth having
        report(error=f"{type(error).__name__}: {error}"[:600])
        traceback.print_exc()
    report(seconds=time.monotonic() - started)


def write(out: Path, **values: object) -> None:
    rounded = {name: float(f"{value:.5g}") if isinstance(value, float) else value for name, value in values.items()}
    line = json.dumps(rounded)
    print(line, flush=True)
    with (out / "gpu.jsonl").open("a") as file:
        file.write(line + "\n")


if __name__ == "__main__":
    main()
