"""The names that stand in MLflow, as Markdown, made from `schema.py`: `python -m experiments names`."""

from __future__ import annotations

from collections.abc import Mapping

from experiments import schema

HEAD = """# Names in MLflow

Made by `python -m experiments names` from `experiments/schema.py`; a test holds this file against it.

A sweep is an experiment, named by its label (`queue_size@digits,train.epochs=5`). In it a parent run `sweep NAME`, below it
a run `ARM seed=SEED` for every arm and seed. A search is shown the same way, its parent `search NAME`. Params of a run are
`arm`, `seed` and every field of the resolved config that defines it, flattened with dots (`negatives.size`). Its input is the
data set with a digest; its output the final encoder as logged model `encoder`, with signature and path, and with the weights
where `MOCO_UPLOAD_MODELS=1`.
"""


def names_markdown() -> str:
    parts = [
        HEAD,
        _section("Metrics", "key", schema.METRICS),
        _section("System metrics", "key", schema.SYSTEM_METRICS),
        _section("Metrics of a search's parent", "key", schema.STUDY_METRICS),
        _section("Tags", "tag", schema.TAGS),
        _section("Tags of MLflow's own", "tag", schema.MLFLOW_TAGS),
        _section("Artifacts", "file", schema.RUN_ARTIFACTS),
    ]
    return "\n".join(parts)


def _section(title: str, column: str, meanings: Mapping[str, str]) -> str:
    rows = [f"| `{name}` | {meaning.replace('|', chr(92) + '|')} |" for name, meaning in meanings.items()]
    return "\n".join([f"## {title}", "", f"| {column} | meaning |", "|---|---|", *rows, ""])
