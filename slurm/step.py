"""The job and the task that this process is, from Slurm's variables, which no other file reads.

Imports only the standard library.
"""

from __future__ import annotations

import re
import socket
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass

LOWEST_PORT, PORTS = 10_000, 20_000  # below the ports that systems hand out by themselves
ASK_SECONDS = 30.0


@dataclass(frozen=True)
class JobHere:
    """The job of this process: how often it was requeued, and which of its processes this is."""

    id: str  # "123", or "123_4" in an array
    restarts: int
    process: int  # from 0


def job_here(variables: Mapping[str, str]) -> JobHere | None:
    """None outside of a job."""
    array, task = variables.get("SLURM_ARRAY_JOB_ID"), variables.get("SLURM_ARRAY_TASK_ID")
    id = f"{array}_{task}" if array and task else variables.get("SLURM_JOB_ID")
    if not id:
        return None
    return JobHere(id, int(variables.get("SLURM_RESTART_COUNT", "0")), int(variables.get("SLURM_PROCID", "0")))


def element_here(variables: Mapping[str, str]) -> int:
    """The number of this process's element in its array; 0 in a job of its own."""
    return int(variables.get("SLURM_ARRAY_TASK_ID") or 0)


def torchrun_variables(variables: Mapping[str, str]) -> dict[str, str]:
    """RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR, MASTER_PORT of this task; empty for a step of one task, or under torchrun.

    MASTER_ADDR and MASTER_PORT that are set stay. Raises ValueError if the address of the first node cannot be found.
    """
    count = variables.get("SLURM_STEP_NUM_TASKS", "1")  # unlike SLURM_NTASKS, not set in a script that is no step
    if count == "1" or "WORLD_SIZE" in variables:
        return {}
    nodes = variables.get("SLURM_STEP_NODELIST") or variables["SLURM_JOB_NODELIST"]
    return {
        "RANK": variables["SLURM_PROCID"],
        "WORLD_SIZE": count,
        "LOCAL_RANK": variables["SLURM_LOCALID"],
        "MASTER_ADDR": variables.get("MASTER_ADDR") or address(first_node(nodes)),
        "MASTER_PORT": variables.get("MASTER_PORT") or str(port(variables)),
    }


def first_node(nodes: str) -> str:
    """The node of task 0, of a list as Slurm writes it: "n[3-5,9],m1" -> "n3"."""
    first = re.split(r",(?![^\[]*\])", nodes)[0]
    return re.sub(r"\[([^],-]+)[^]]*\]", r"\1", first)


def port(variables: Mapping[str, str]) -> int:
    """The same port for all tasks of a step, and probably no port of another job or step on the node."""
    job, step, restarts = (
        int(variables.get(name, "0")) for name in ("SLURM_JOB_ID", "SLURM_STEP_ID", "SLURM_RESTART_COUNT")
    )
    return LOWEST_PORT + (101 * job + 11 * step + restarts) % PORTS


def address(node: str) -> str:
    """The node's name if it can be resolved here, else the address that Slurm uses. Raises ValueError without one."""
    try:
        socket.getaddrinfo(node, None)
    except OSError:
        return _slurms_address(node)
    return node


def _slurms_address(node: str) -> str:
    try:
        result = subprocess.run(
            ["scontrol", "--oneliner", "show", "node", node],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=ASK_SECONDS,
            check=False,
        ).stdout
    except (OSError, subprocess.TimeoutExpired):
        result = ""
    if found := re.search(r"\bNodeAddr=(\S+)", result):
        return found[1]
    raise ValueError(f"{node}: this node's address is not to be found; set MASTER_ADDR in the profile's environment")
