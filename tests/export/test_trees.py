"""Trees as operations of torch: equal to LightGBM's own predictions, also at thresholds and for missing values."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from orca_ray.data.rows import Target
from orca_ray.errors import UserError
from orca_ray.export import FORMATS, export_model
from orca_ray.models.trees import TreeArrays, TreeBody
from orca_ray.predictor import Predictor
from orca_ray.testing.trials import make_task

from .conftest import Make

lightgbm = pytest.importorskip("lightgbm")
SAMPLES, FEATURES = 400, 6
ALL = pytest.mark.exhaustive
TARGETS: dict[str, tuple[Target, str, Callable[[np.ndarray], list[np.ndarray]]]] = {
    "two classes": (Target("classes", 2), "binary", lambda z: [z > 0]),
    "three classes": (Target("classes", 3), "multiclass", lambda z: [np.digitize(z, [-0.5, 0.5])]),
    "labels": (Target("labels", 2), "binary", lambda z: [z > 0, np.abs(z) > 1]),
    "number": (Target("scalar"), "regression", lambda z: [z]),
}


def trained(kind: str, *, missing: bool, rounds: int = 7) -> tuple[TreeBody, np.ndarray]:
    """Return trees of a kind of target, and the table that they were trained on."""
    target, objective, columns = TARGETS[kind]
    random = np.random.default_rng(0)
    x = random.normal(size=(SAMPLES, FEATURES)).astype(np.float32)
    z = x[:, 0] + x[:, 1] * x[:, 2]
    x[:, 3] = x[:, 3].round()  # splits between few values
    if missing:
        x[random.random(x.shape) < 0.2] = np.nan
    settings = {"objective": objective, "num_class": 3 if objective == "multiclass" else 1, "verbosity": -1}
    made = [lightgbm.train(settings, lightgbm.Dataset(x, column), rounds) for column in columns(z)]
    trees = TreeBody(target)
    trees.set_models([booster.model_to_string() for booster in made])
    return trees, x


def tokens(x: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(x.astype(np.float32))[:, :, None]


@pytest.mark.parametrize("missing", [False, True])
@pytest.mark.parametrize("kind", TARGETS)
def test_sums_equal_those_of_lightgbm(kind: str, missing: bool) -> None:
    trees, x = trained(kind, missing=missing)
    plain = trees.exportable()
    assert isinstance(plain, TreeArrays)
    # At each threshold and beside it, where a rounded comparison would go the other way; and values that training
    # never saw: missing ones, zeros of both signs, infinities.
    edges = plain.threshold.numpy()
    edges = edges[np.abs(edges) > 1e-30]  # LightGBM takes values below 1e-35 as 0
    beside = [np.nextafter(edges, np.float32(sign * np.inf)) for sign in (-1, 1)]
    strange = np.array([np.nan, 0.0, -0.0, np.inf, -np.inf], np.float32)
    values = np.concatenate([edges, *beside, strange])
    others = np.random.default_rng(1).choice(values, (2000, FEATURES))
    rows = tokens(np.concatenate([x, others]))
    assert torch.allclose(plain(rows), trees(rows), rtol=1e-6, atol=1e-7)
    assert plain(rows).shape == (len(rows), 1, trees.feature_width)
    assert len(plain(rows).unique()) > 50


def test_a_tree_of_one_leaf_has_no_splits_and_no_trees_predict_zero() -> None:
    trees = TreeBody(Target("scalar"))
    same = lightgbm.Dataset(np.zeros((30, 2)), np.full(30, 2.5))
    trees.set_models([lightgbm.train({"objective": "regression", "verbosity": -1}, same, 1).model_to_string()])
    assert trees.exportable()(torch.zeros(4, 2, 1)).flatten().tolist() == [2.5] * 4
    assert torch.equal(TreeBody(Target("classes", 3)).exportable()(torch.ones(4, 2, 1)), torch.zeros(4, 1, 3))


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"categorical_feature": [0]}, "splits by categories"), ({"zero_as_missing": True}, "zeros as missing")],
)
def test_splits_of_other_kinds_are_refused(settings: dict[str, Any], message: str) -> None:
    x = np.random.default_rng(0).integers(0, 5, (SAMPLES, 1)).astype(np.float64)
    table = lightgbm.Dataset(x, x[:, 0] % 2)
    booster = lightgbm.train({"objective": "regression", "verbosity": -1, **settings}, table, 1)
    trees = TreeBody(Target("scalar"))
    trees.set_models([booster.model_to_string()])
    with pytest.raises(UserError, match=message):
        trees.exportable()


def _made(make: Make, kind: str) -> Predictor:
    trees, _ = trained(kind, missing=True)
    model: Predictor = make(make_task(TARGETS[kind][0], (1, FEATURES)), "gradient_boosting")
    assert isinstance(model.network.body, TreeBody)
    model.network.body.set_models(trees.models)
    return model


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "to"),
    [
        pytest.param(kind, to, marks=[] if (kind, to) in {("labels", "torch"), ("three classes", "onnx")} else ALL)
        for kind in TARGETS
        for to in FORMATS
    ],
)
def test_an_exported_model_agrees(make: Make, to: str, kind: str, tmp_path: Path) -> None:
    if to == "onnx":
        pytest.importorskip("onnxscript")
        pytest.importorskip("onnxruntime")
    exported = export_model(_made(make, kind), to, tmp_path / "network")
    assert exported.difference is not None
    assert exported.difference < 1e-6


@pytest.mark.slow
def test_the_difference_is_that_from_lightgbm(make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    right = TreeArrays.forward
    monkeypatch.setattr(TreeArrays, "forward", lambda self, *given: right(self, *given) + 1)
    with pytest.raises(UserError, match="differs from the model"):
        export_model(_made(make, "number"), "torch", tmp_path / "network")
