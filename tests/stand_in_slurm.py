"""The stand-in trainer of `tests.stand_in` inside real Slurm jobs: python -m tests.stand_in_slurm [flags of a sweep]"""

from __future__ import annotations

from tests.stand_in import replace_trainer, sweep


def work(path: str) -> str:
    """What an element does, by its name in this module."""
    replace_trainer()
    from experiments.job import work as real

    return real(path)


def main() -> None:
    from experiments import job
    from tests import stand_in_slurm

    vars(job)["work"] = stand_in_slurm.work
    sweep()


if __name__ == "__main__":
    main()
