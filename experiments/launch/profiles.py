"""Profiles of clusters, and what one of them settles beside its jobs: where runs live, which MLflow remembers them."""

from __future__ import annotations

from slurm.profiles import Profile, load_profile, profile_names

__all__ = ["Profile", "load_profile", "profile_names"]
