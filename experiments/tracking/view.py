"""The runs page of a sweep as a link opens it: what the sweep varies in columns, the best run first.

MLflow's page shows no param unless a reader picks its columns. It takes a whole view from the experiment's tag
`mlflow.sharedViewState.KEY` where the address says `viewStateShareKey=KEY`, as its own Share button makes them; an address
that names an order or a filter itself gets none of it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping

from experiments import schema

KEY = "moco"
TAG = f"mlflow.sharedViewState.{KEY}"
MOST = 8  # columns of params; more need scrolling


def metric_key(manifest: schema.Manifest) -> str:
    """What its runs are judged by: test readouts answer a question, a search looks at the validation images only."""
    return f"{'validation' if 'study' in manifest else 'test'}/{manifest['metric']}"


def shared_view(manifest: schema.Manifest, params: Iterable[Mapping[str, str]]) -> str:
    """The tag's value; `params`: of every run that has begun."""
    metric = f"metrics.`{metric_key(manifest)}`"
    shown = [f"params.`{name}`" for name in (*varied(manifest, list(params))[:MOST], "seed")]
    view = {"orderByKey": metric, "orderByAsc": False, "selectedColumns": [*shown, metric, "tags.`moco.state`"]}
    return json.dumps(view, separators=(",", ":"))


def varied(manifest: schema.Manifest, params: list[Mapping[str, str]]) -> list[str]:
    """Params of the fields that the sweep declares to vary, and of those the ones that do, as soon as any does."""
    trained = [one for one in params if one.get("arm") != schema.RANDOM_INIT]
    groups = tuple(manifest["varies"])
    names = dict.fromkeys(
        name for one in trained for name in one if name in groups or name.startswith(tuple(f"{g}." for g in groups))
    )
    different = [name for name in names if len({one.get(name) for one in trained}) > 1]
    return different or list(names)
