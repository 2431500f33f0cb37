"""The stand-in trainer of `tests.support.stand_in` inside real Slurm jobs: python -m tests.support.stand_in_slurm [flags]"""

from __future__ import annotations

from experiments.launch.process import Work
from tests.support.stand_in import replace_trainer, sweep, worker


def work(path: str) -> str:
    """What an element does, by its name in this module."""
    replace_trainer()
    from experiments.launch.job import work as real

    return real(path)


def pack(file: str) -> dict[str, str]:
    """What an element with several runs does."""
    from experiments.launch import pack as real

    return real.work(file, Work(worker, own_session=False))


def main() -> None:
    from experiments.launch import job
    from experiments.launch import pack as packs
    from tests.support import stand_in_slurm

    vars(job)["work"] = stand_in_slurm.work
    vars(packs)["work"] = stand_in_slurm.pack
    sweep()


if __name__ == "__main__":
    main()
