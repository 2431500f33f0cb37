"""The stand-in trainer of `tests.stand_in` inside real Slurm jobs: python -m tests.stand_in_slurm [flags of a sweep]"""

from __future__ import annotations

import os
import sys

from tests.stand_in import replace_trainer, sweep, worker


def work(path: str) -> str:
    """What an element does, by its name in this module."""
    replace_trainer()
    from experiments.job import work as real

    return real(path)


def pack(file: str) -> dict[str, str]:
    """What an element with several runs does."""
    from experiments import pack as real

    vars(real)["WORKER"] = (*real.WORKER[:-1], "tests.stand_in_slurm", "--worker")
    return real.work(file)


def main() -> None:
    from experiments import job
    from experiments import pack as packs
    from tests import stand_in_slurm

    vars(job)["work"] = stand_in_slurm.work
    vars(packs)["work"] = stand_in_slurm.pack
    sweep()


if __name__ == "__main__":
    if sys.argv[1:2] == ["--worker"]:
        from experiments.pack import die_with

        die_with(os.getppid())
        sys.exit(worker(sys.argv[2:]))
    main()
