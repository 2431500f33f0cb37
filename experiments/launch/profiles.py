"""Profiles of clusters, and what one settles beside its jobs: where runs live, and which MLflow remembers them."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from experiments.store.run import RUNS_VARIABLE, runs_root
from experiments.tracking.store import user_uri
from slurm.profiles import Profile, load_profile, profile_names


@dataclass(frozen=True)
class Settings:
    """`tracking`: address of an MLflow server or database; None for the store beside the runs."""

    root: Path
    tracking: str | None

    @staticmethod
    def of(profile: Profile | None) -> Settings:
        """The environment goes before the profile."""
        root, tracking = runs_root(), user_uri()
        if profile is not None and profile.runs_root and not os.environ.get(RUNS_VARIABLE):
            root = Path(os.path.expanduser(profile.runs_root)).absolute()
        if profile is not None and profile.tracking and tracking is None:
            tracking = os.path.expanduser(profile.tracking)
        return Settings(root, tracking)


__all__ = ["Profile", "Settings", "load_profile", "profile_names"]
