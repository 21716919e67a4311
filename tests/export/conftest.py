"""Untrained models, as training does not matter to the tests of this directory."""

from collections.abc import Callable
from pathlib import Path

import pytest

from orca_ray.predictor import Predictor
from orca_ray.tasks.task import Task
from orca_ray.testing.suite import save_bert, save_vit
from orca_ray.testing.trials import CLASSES, QUICK, make_data, make_task, start

Make = Callable[..., Predictor]


@pytest.fixture(scope="module", autouse=True)
def home(module_home: Path) -> None:
    """Use a cache directory of the module's own."""


@pytest.fixture(scope="session")
def make(tmp_path_factory: pytest.TempPathFactory) -> Make:
    """Return a function that makes a model of a task by a method."""
    bodies = {
        "sequence": save_bert(tmp_path_factory.mktemp("b")),
        "image": save_vit(tmp_path_factory.mktemp("v")),
    }

    def make_model(task: Task, method: str = "nft") -> Predictor:
        adaptation = start(
            bodies[task.modality],
            method,
            task=task,
            data=make_data(task),
            hyperparameters=QUICK,
            standardise=True,
        )
        return Predictor(adaptation.snapshot(), device="cpu")

    return make_model


@pytest.fixture(scope="session")
def series(make: Make) -> Predictor:
    return make(make_task(CLASSES))
