"""`python -m experiments` whose jobs run the stand-in trainer: python -m tests.stand_in_verbs VERB [...]"""

from __future__ import annotations

import sys

from experiments.__main__ import main
from experiments.launch import job
from tests.support import stand_in_slurm

if __name__ == "__main__":
    vars(job)["work"] = stand_in_slurm.work
    sys.exit(main(sys.argv[1:]))
