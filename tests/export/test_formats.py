"""Exported networks: equal outputs for any batch size, and what goes along with them."""

import itertools
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from orca_ray import export
from orca_ray.cli.app import run
from orca_ray.data.rows import Target
from orca_ray.errors import UserError
from orca_ray.export import FORMATS, export_model
from orca_ray.methods.registry import all_methods
from orca_ray.predictor import Predictor
from orca_ray.testing.trials import CLASSES, make_task

from .conftest import Make

pytestmark = pytest.mark.slow
TASKS = {
    "series": make_task(CLASSES),
    "number": make_task(Target("scalar"), (1, 30)),
    "field": make_task(Target("dense", shape=(8, 8)), (2, 8, 8)),
    "image": make_task(CLASSES, (1, 40, 40)),  # reduced with anti-aliasing
}


def _needs(to: str) -> None:
    if to == "onnx":
        pytest.importorskip("onnxscript")
        pytest.importorskip("onnxruntime")


SAMPLED = [
    ("torch", "series", "cnn"), ("onnx", "image", "nft"), ("torch", "number", "lora"), ("torch", "field", "fno"),
]  # fmt: skip
COMMON = [("series", "minirocket"), ("field", "fno"), *itertools.product(TASKS, ["nft", "cnn", "lora", "no_body"])]
OTHERS = sorted({*all_methods()} - {method for _, method in COMMON} - {"gradient_boosting"})
"""Methods of the package without a test of both formats; trees have theirs in test_trees.py."""
ALL = [(to, *case) for to in FORMATS for case in COMMON]


@pytest.mark.parametrize(
    ("to", "kind", "method"),
    [*SAMPLED, *(pytest.param(*case, marks=pytest.mark.exhaustive) for case in ALL if case not in SAMPLED)],
)
def test_an_exported_network_agrees(make: Make, to: str, kind: str, method: str, tmp_path: Path) -> None:
    _needs(to)
    _exported_agrees(make(TASKS[kind], method), to, tmp_path)


@pytest.mark.exhaustive
@pytest.mark.parametrize("method", OTHERS)
def test_the_network_of_any_method_can_be_exported(make: Make, method: str, tmp_path: Path) -> None:
    kind = next(kind for kind, task in TASKS.items() if all_methods()[method].problem(task) is None)
    _exported_agrees(make(TASKS[kind], method), "torch", tmp_path)


def _exported_agrees(model: Predictor, to: str, tmp_path: Path) -> None:
    exported = export_model(model, to, tmp_path / "network")
    assert exported.difference is not None
    assert exported.difference < 1e-5
    assert [path.name for path in tmp_path.iterdir()] == ["network"]


def test_a_torch_program_has_names_and_predicts_alone(make: Make, tmp_path: Path) -> None:
    model = make(TASKS["number"])
    export_model(model, "torch", tmp_path / "network.pt2")
    extra = {"orca_ray.json": ""}
    program = torch.export.load(tmp_path / "network.pt2", extra_files=extra).module()
    about = json.loads(extra["orca_ray.json"])
    assert (about["input_shape"], about["outputs"]) == ([1, 30], "values")
    x = np.random.default_rng(0).normal(size=(7, 1, 30)).astype(np.float32)
    with torch.no_grad():
        found = program(torch.from_numpy(x)).numpy()
    assert np.allclose(found, model.predict(x), rtol=1e-5)


def test_an_onnx_file_has_names_and_predicts_alone(series: Predictor, tmp_path: Path) -> None:
    _needs("onnx")
    import onnxruntime

    export_model(series, "onnx", tmp_path / "network.onnx")
    session = onnxruntime.InferenceSession(str(tmp_path / "network.onnx"), providers=["CPUExecutionProvider"])
    about = json.loads(session.get_modelmeta().custom_metadata_map["orca_ray"])
    assert (about["target"], about["preprocessing"]) == ("classes", None)
    x = np.random.default_rng(0).normal(size=(130, 2, 16)).astype(np.float32)
    assert np.allclose(session.run(None, {"inputs": x})[0], series.outputs(x), atol=1e-5)


def test_a_network_that_differs_is_not_written(
    series: Predictor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(export, "TOLERANCE", -1.0)
    with pytest.raises(UserError, match=r"differs from the model by .* nothing was written"):
        export_model(series, "torch", tmp_path / "network.pt2")
    assert not list(tmp_path.iterdir())
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"install the package 'onnxscript': pip install 'orca-ray\[export\]'"):
        export_model(series, "onnx", tmp_path / "network.onnx")


def test_the_command(series: Predictor, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder, out = str(series.save(tmp_path / "model")), tmp_path / "network.pt2"
    assert run(["export", folder, "--to", "torch", "-o", str(out)]) == 0
    assert "largest difference from the model" in capsys.readouterr().out
    assert run(["export", folder, "--to", "torch", "-o", str(tmp_path)]) == 2
    assert "is a directory" in capsys.readouterr().err
