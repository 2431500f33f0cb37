"""Do compute nodes see the folder of the runs? Asked before anything is begun there."""

from __future__ import annotations

import tempfile
from pathlib import Path

from experiments import schema
from experiments.grid import paragraph
from slurm.profiles import Profile
from slurm.sight import look, seen_by

SIGHT = "seen"  # who sees the runs root, in its folder for Slurm
NODE_LOCAL = (tempfile.gettempdir(), "/tmp", "/var/tmp", "/dev/shm")


def node_local(root: Path) -> list[str]:
    """A warning, for a runs root that other machines can hardly see."""
    local = next((folder for folder in NODE_LOCAL if root.is_relative_to(folder)), None)
    text = f"warning: {root} is under {local}, which compute nodes may not see; set MOCO_RUNS to a shared folder"
    return paragraph(text) if local else []


def looked_at(root: Path, profile: Profile) -> str | None:
    """Whether the nodes of the profile see the runs. Returns None if they do, and a job that has yet to look if all are busy.

    Raises Unseen, a ValueError, if they do not.
    """
    folder = root / schema.SLURM_FOLDER / SIGHT
    if seen_by(folder, profile) is not None:
        return None
    found = look(folder, profile, tell=lambda line: print("\n".join(paragraph(line)), flush=True))
    if found.node is not None:
        print(f"{found.node} sees it", flush=True)
        return None
    print(f"no node is free yet: the runs start if job {found.job} ends well, otherwise Slurm drops them", flush=True)
    return found.job
