"""`python -m experiments evaluate`: the readouts of a finished run, or of an encoder file, once more or by other protocols."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from experiments import schema
from moco.config import Config
from moco.identity import from_plain

DEFAULT = ("linear", "knn", "few_label")


def evaluate(path: Path, protocols: Sequence[str]) -> dict[str, float | None]:
    """Readouts of `encoder.pt` at or in `path`; names as in the journal, values in percent.

    Raises ValueError for a path without weights, a file of another kind, an unknown protocol.
    """
    from moco import checkpoint
    from moco.data import load
    from moco.evaluation.readouts import features_for, protocol
    from moco.evaluation.unmoved import unmoved
    from moco.model import build_query
    from moco.trainer import choose_device

    chosen = {name: protocol(name) for name in protocols}
    file = weights_file(path)
    state = checkpoint.load(file)
    if not {"config", "encoder", "head"} <= set(state):
        raise ValueError(f"{file}: not the {schema.ENCODER} of a run: it holds {', '.join(map(str, state))}")
    config: Config = from_plain(Config, state["config"])
    data = load(config.data, lambda line: print(line, file=sys.stderr))
    query = build_query(config, len(data.classes))
    query.encoder.load_state_dict(state["encoder"])
    query.head.load_state_dict(state["head"])
    query.to(choose_device(config.train.device))
    with unmoved(query):
        features = features_for(list(chosen), query, data, config)
        readouts = [r for run in chosen.values() for r in run(features, config.evaluation, config.train.seed)]
    return dict(readouts)


def weights_file(path: Path) -> Path:
    """`encoder.pt` of a run directory, or the file itself."""
    file = path / schema.ENCODER if path.is_dir() else path
    if not file.exists():
        state = "the run is not done" if path.is_dir() else "no such file"
        raise ValueError(f"{file}: not there, {state}")
    return file
