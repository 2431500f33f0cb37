"""The final encoder of a run as MLflow's logged model: its signature, and the path of its weights.

With `MOCO_UPLOAD_MODELS=1` the weights are uploaded too, as a traced program that `mlflow.pytorch.load_model` reads
without our code. That takes seconds and megabytes for each run, so it is off by default.
"""

from __future__ import annotations

import json
import logging
import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from experiments.tracking.mirror import Mirror, Weights

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import LoggedModel, Run

UPLOAD = "MOCO_UPLOAD_MODELS"
TAG = "moco.model"
NAME, KIND, EXTERNAL = "encoder", "moco encoder", "mlflow.model.isExternal"
BATCH = 2  # images in the example that is traced: a side of 1 would be taken for a constant


def upload_wanted() -> bool:
    """Raises ValueError for a value that is neither yes nor no."""
    wanted = os.environ.get(UPLOAD) or "0"
    if wanted not in ("0", "1"):
        raise ValueError(f"{UPLOAD} = {wanted}: must be 1 (upload the final encoders) or 0")
    return wanted == "1"


def tag_of(weights: Weights, upload: bool) -> str:
    return f"{'uploaded' if upload else 'path'} {weights.stamp}"


def push_model(client: MlflowClient, experiment: str, run: Run, mirror: Mirror) -> bool:
    """Make the run's logged model unless it is there as it should be; True if something was written."""
    weights, upload = mirror.weights, upload_wanted()
    if weights is None:
        return False
    tag, has = tag_of(weights, upload), run.data.tags.get(TAG, "")
    if has == tag or has == tag_of(weights, True):  # what is uploaded stays so
        return False
    model = _existing(client, experiment, run) or _create(client, experiment, run, mirror, weights)
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder) / "model"
        if upload:
            save_encoder(weights, place)
        else:
            place.mkdir()
            _describe(weights, model, run).save(str(place / "MLmodel"))
        client.log_model_artifacts(model.model_id, str(place))
    if upload:
        client.delete_logged_model_tag(model.model_id, EXTERNAL)
    client.finalize_logged_model(model.model_id, "READY")
    _link(client, run, model, weights)
    client.set_tag(run.info.run_id, TAG, tag)
    return True


def _existing(client: MlflowClient, experiment: str, run: Run) -> LoggedModel | None:
    """The model of an earlier sync that was killed before it set its tag."""
    found = client.search_logged_models([experiment], filter_string=f"source_run_id = '{run.info.run_id}'")
    return next((model for model in found if model.name == NAME), None)


def _create(client: MlflowClient, experiment: str, run: Run, mirror: Mirror, weights: Weights) -> LoggedModel:
    keys = ("moco.run_id", "moco.arm", "moco.seed", "moco.commit")
    tags = {key: mirror.tags[key] for key in keys if key in mirror.tags}
    params = {"path": str(weights.path), "input": f"(N, 3, {weights.image_size}, {weights.image_size})"}
    params |= {key: value for key, value in mirror.params.items() if key.startswith("encoder.")}
    tags = {**tags, EXTERNAL: "true"}
    return client.create_logged_model(experiment, NAME, run.info.run_id, tags, params, KIND)


def _link(client: MlflowClient, run: Run, model: LoggedModel, weights: Weights) -> None:
    from mlflow.entities import LoggedModelOutput

    linked = run.outputs.model_outputs if run.outputs else []
    if model.model_id not in {output.model_id for output in linked}:
        client.log_outputs(run.info.run_id, [LoggedModelOutput(model.model_id, weights.step)])


def _describe(weights: Weights, model: LoggedModel, run: Run) -> Any:
    """MLflow's description of a model whose weights are elsewhere."""
    from mlflow.models import Model

    facts = {EXTERNAL: True, "path": str(weights.path), **_preparation(weights)}
    return Model(
        run_id=run.info.run_id,
        model_uuid=model.model_id,
        model_id=model.model_id,
        signature=signature(weights.image_size),
        metadata=facts,
    )


def _preparation(weights: Weights) -> dict[str, Any]:
    """How pixels in 0..1 are normalised for the encoder."""
    return {"mean": list(weights.mean), "std": list(weights.std)}


def signature(side: int, features: int = -1) -> Any:
    """From normalised images (N, 3, side, side) to features (N, D), float32; -1 is a free or unknown size."""
    from mlflow.models import ModelSignature

    def tensor(name: str, shape: list[int]) -> str:
        return json.dumps([{"name": name, "type": "tensor", "tensor-spec": {"dtype": "float32", "shape": shape}}])

    images, result = tensor("images", [-1, 3, side, side]), tensor("features", [-1, features])
    return ModelSignature.from_dict({"inputs": images, "outputs": result})


def save_encoder(weights: Weights, place: Path) -> None:
    """An MLflow model at `place`: the encoder without its head, in evaluation mode, and `encoder.pt` beside it."""
    import mlflow.pytorch
    import torch

    from moco import checkpoint
    from moco.config import Config
    from moco.config.plain import from_plain
    from moco.encoders import build_encoder

    state = checkpoint.load(weights.path)
    encoder = build_encoder(from_plain(Config, state["config"]).encoder, weights.image_size)
    encoder.load_state_dict(state["encoder"])
    encoder.eval()
    images_B3SS = torch.zeros(BATCH, 3, weights.image_size, weights.image_size)
    logging.getLogger("mlflow.models.model").setLevel(logging.ERROR)
    with torch.no_grad():
        features = encoder(images_B3SS).shape[1]
        mlflow.pytorch.save_model(
            encoder,
            str(place),
            signature=signature(weights.image_size, features),
            input_example=images_B3SS,
            serialization_format="pt2",
            pip_requirements=[f"torch=={torch.__version__.partition('+')[0]}"],
            extra_files=[str(weights.path)],
            metadata=_preparation(weights),
        )


__all__ = ["TAG", "UPLOAD", "push_model", "save_encoder", "signature", "upload_wanted"]
