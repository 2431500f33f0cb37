"""Converts the config of a run directory, which the store keeps in plain values, to and from `Config`."""

from __future__ import annotations

from experiments.store.run import RunDirectory
from moco.config import Config
from moco.config.plain import from_plain, to_plain


def config_of(run: RunDirectory) -> Config:
    """Raises ValueError if the directory holds no run, or one of a version that cannot be read."""
    config: Config = from_plain(Config, run.config())
    return config


def create(run: RunDirectory, config: Config) -> None:
    """Make the directory with its config, whole or not at all. An existing directory stays as it is."""
    run.create(to_plain(config))


def update_config(run: RunDirectory, config: Config) -> None:
    """Take over cosmetic fields (paths, workers, device) of a later launch; the identity stays."""
    run.update_config(to_plain(config))
