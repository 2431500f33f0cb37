"""Parts of a machine that some tests need: without one a user's test run skips and says so, and CI fails."""

from __future__ import annotations

import os
import shutil

import pytest

INSTALL = {
    "c++": "apt-get install g++",
    "chromium": "apt-get install chromium",
    "postgres": "apt-get install postgresql",
    "sbatch": "apt-get install slurm-wlm munge",
    "slurmdbd": "apt-get install slurmdbd mariadb-server",
    "mariadbd": "apt-get install slurmdbd mariadb-server",
}


def require_part(program: str) -> str:
    """The path of a program. Its absence skips the test, or fails it where the variable CI is set."""
    path = shutil.which(program)
    if path is None:
        message = f"{program} is not on this machine: {INSTALL.get(program, 'install it')}"
        if os.environ.get("CI"):
            pytest.fail(message)
        pytest.skip(message)
    return path
