"""Models to serve, and clients that ask for predictions, for the tests here."""

from pathlib import Path

import pytest
from starlette.testclient import TestClient

from orca_ray.data.rows import Target
from orca_ray.own_data.array_inputs import AudioInputs
from orca_ray.predictor import Predictor
from orca_ray.testing.suite import save_bert, save_vit
from orca_ray.testing.trials import CLASSES
from tests.serving.models import model, table_model
from tests.serving.requests import SERIES, client_of


@pytest.fixture(scope="module")
def models(
    module_home: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Predictor]:
    """A model of each form of requests and of each kind of target."""
    bert = save_bert(tmp_path_factory.mktemp("bert"))
    vit = save_vit(tmp_path_factory.mktemp("vit"))
    return {
        "mixed": table_model(bert),
        "unequal": model(bert, CLASSES, SERIES),
        "recordings": model(
            vit, CLASSES, AudioInputs(rate=8000, num_samples=1600, num_mels=16)
        ),
        "arrays": model(bert, Target("scalar"), None),
        "fields": model(vit, Target("dense", shape=(8, 8)), None, (2, 8, 8)),
    }


@pytest.fixture(scope="module")
def clients(models: dict[str, Predictor]) -> dict[str, TestClient]:
    return {name: client_of(model) for name, model in models.items()}
