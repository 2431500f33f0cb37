"""The uploaded encoder computes what the run's own does, and MLflow knows its signature."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

from experiments.store import schema
from experiments.store.mlflow import QUIET
from experiments.tracking.store import embedded_uri, open_store
from experiments.tracking.sync import sync
from moco import checkpoint
from moco.config import Config
from moco.config.plain import from_plain
from moco.encoders import build_encoder
from tests.support import tracking_runs as runs
from tests.support.tracking_content import run_named

pytestmark = [
    pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy:DeprecationWarning"),  # mlflow's own
    pytest.mark.filterwarnings("ignore::DeprecationWarning:torch"),
]


def test_an_upload_is_asked_for_by_a_variable_and_gives_the_same_features(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    for name, value in QUIET.items():
        monkeypatch.setenv(name, value)
    shutil.copy(runs.fresh_store(tmp_path_factory.getbasetemp()), tmp_path / schema.MLFLOW_DATABASE)
    cell = runs.planned(tmp_path, seeds=1)["cells"][0]
    config: Config = from_plain(Config, cell["config"])
    torch.manual_seed(0)
    encoder = build_encoder(config.encoder, config.data.image_size)
    images_B3SS = torch.randn(16, 3, config.data.image_size, config.data.image_size)
    encoder(images_B3SS)  # running statistics that are not those of a new one
    run = runs.finish(tmp_path, cell)
    state = {"config": cell["config"], "encoder": encoder.state_dict(), "head": {}, "step": 200}
    checkpoint.save(state, run.path / schema.ENCODER)

    monkeypatch.setenv("MOCO_UPLOAD_MODELS", "maybe")
    (warning,) = sync(tmp_path).warnings
    assert "MOCO_UPLOAD_MODELS = maybe: must be 1 (upload the final encoders) or 0" in warning
    monkeypatch.setenv("MOCO_UPLOAD_MODELS", "0")
    assert sync(tmp_path).warnings == ()
    ((*_, files),) = run_named(tmp_path, "K=256 seed=0")["models"]
    assert files == ["MLmodel"]
    monkeypatch.setenv("MOCO_UPLOAD_MODELS", "1")
    assert sync(tmp_path).runs == 1
    assert sync(tmp_path).runs == 0
    ((name, *_, tags, outputs, files),) = run_named(tmp_path, "K=256 seed=0")["models"]
    assert (name, outputs, "mlflow.model.isExternal" in tags) == ("encoder", [(1,)], False)
    assert {"MLmodel", "data", "extra_files"} <= set(files)

    import mlflow
    import mlflow.pytorch

    mlflow.set_tracking_uri(embedded_uri(tmp_path))
    (model,) = open_store(tmp_path).search_logged_models(["1"])
    signature = mlflow.models.get_model_info(model.model_uri).signature
    encoder.eval()
    with torch.no_grad():
        expected_BD = encoder(images_B3SS)
        loaded = mlflow.pytorch.load_model(model.model_uri)
        torch.testing.assert_close(loaded(images_B3SS), expected_BD)
    side = config.data.image_size
    assert signature.inputs.inputs[0].shape == (-1, 3, side, side)
    assert signature.outputs.inputs[0].shape == (-1, expected_BD.shape[1])
