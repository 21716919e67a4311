"""Exported networks and trees: equal outputs for any batch size; trees as operations of torch equal LightGBM's own.

Predictions of trees are compared at thresholds and for missing values, too.
"""

import itertools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from orca_ray import export
from orca_ray.cli.app import run
from orca_ray.data.rows import Target
from orca_ray.errors import UserError
from orca_ray.export import FORMATS, export_model
from orca_ray.methods.registry import all_methods
from orca_ray.models.trees import TreeArrays, TreeBody
from orca_ray.predictor import Predictor
from orca_ray.testing.trials import CLASSES, make_task

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
    trees = TreeBody(target, FEATURES)
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
    raw = [lightgbm.Booster(model_str=text).predict(rows[:, :, 0].numpy(), raw_score=True) for text in trees.models]
    np.testing.assert_array_equal(trees(rows)[:, 0, -trees.num_trained :], np.column_stack(raw).astype(np.float32))
    assert plain(rows).shape == (len(rows), 1, trees.feature_width)
    assert len(plain(rows).unique()) > 50


def test_a_tree_of_one_leaf_has_no_splits_and_no_trees_predict_zero() -> None:
    trees = TreeBody(Target("scalar"), 2)
    same = lightgbm.Dataset(np.zeros((30, 2)), np.full(30, 2.5))
    trees.set_models([lightgbm.train({"objective": "regression", "verbosity": -1}, same, 1).model_to_string()])
    assert trees.exportable()(torch.zeros(4, 2, 1)).flatten().tolist() == [2.5] * 4
    assert torch.equal(TreeBody(Target("classes", 3), 2).exportable()(torch.ones(4, 2, 1)), torch.zeros(4, 1, 3))


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"categorical_feature": [0]}, "splits by categories"), ({"zero_as_missing": True}, "zeros as missing")],
)
def test_splits_of_other_kinds_are_refused(settings: dict[str, Any], message: str) -> None:
    x = np.random.default_rng(0).integers(0, 5, (SAMPLES, 1)).astype(np.float64)
    table = lightgbm.Dataset(x, x[:, 0] % 2)
    booster = lightgbm.train({"objective": "regression", "verbosity": -1, **settings}, table, 1)
    trees = TreeBody(Target("scalar"), 1)
    trees.set_models([booster.model_to_string()])
    with pytest.raises(UserError, match=message):
        trees.exportable()


TREE = """\
tree

Tree=0
num_leaves=3
num_cat=0
split_feature=1 0
threshold=-0.5 1e-35
decision_type=2 10
left_child=-1 -2
right_child=1 -3
leaf_value=-1 2 3.5

end of trees
"""


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("Tree=0", "Tree", "there are none"),
        ("num_leaves=3", "num_leaves=1000000000", "3 values for 1000000000 leaves"),
        ("leaf_value=-1 2 3.5", "leaf_value=-1 2 nan", "leaf_value are not numbers"),
        ("leaf_value=-1 2 3.5", "leaf_value=-1 2 1e999", "values are not finite"),
        ("threshold=-0.5 1e-35", "threshold=-0.5", "3 leaves and not one split less"),
        ("split_feature=1 0", "split_feature=1 2", "a feature is not one of 0 to 1"),
        ("split_feature=1 0", "split_feature=-1 0", "a feature is not one of 0 to 1"),
        ("split_feature=1 0", "split_feature=1 1e3", "tree 0: invalid literal"),
        ("split_feature=1 0", "split_feature=1 99999999999999999999", "tree 0: "),
        ("right_child=1 -3", "right_child=9 -3", "not every node is the child of one split"),
        ("right_child=1 -3", "right_child=1 -9", "not every node is the child of one split"),
        ("right_child=1 -3", "right_child=0 -3", "not every node is the child of one split"),
        ("left_child=-1 -2\nright_child=1 -3", "left_child=-1 1\nright_child=-2 -3", "a split is above its parent"),
        ("decision_type=2 10", "decision_type=2 11", "splits by categories"),
        ("decision_type=2 10", "decision_type=2 12", "unknown type of split"),
        ("num_cat=0", "num_cat=1", "splits by categories"),
        ("num_cat=0", "num_cat=0\nis_linear=1", "linear models"),
    ],
)
def test_forged_trees_are_refused_before_lightgbm_reads_them(old: str, new: str, message: str) -> None:
    trees, rows = TreeBody(Target("scalar"), 2), tokens(np.array([[0, -1], [0, 0], [1, 0], [np.nan, 0], [0, np.nan]]))
    trees.set_models([TREE])
    assert trees(rows).flatten().tolist() == [-1, 2, 3.5, 2, 2]
    assert TREE.count(old) == 1
    trees.set_models([TREE.replace(old, new)])
    with pytest.raises(UserError, match=f"the trees of this model are damaged: .*{message}"):
        trees(rows)
    with pytest.raises(UserError, match=message):
        trees.exportable()
    trees.text = torch.tensor([255], dtype=torch.uint8)
    with pytest.raises(UserError, match="not UTF-8"):
        trees.exportable()


def test_trees_that_do_not_take_turns_are_refused() -> None:
    for target, models in ((Target("classes", 3), [TREE]), (Target("labels", 3), [TREE, TREE])):
        trees = TreeBody(target, 2)
        trees.set_models(models)
        with pytest.raises(UserError, match="cannot take turns for 3 outputs"):
            trees(torch.zeros(1, 2, 1))


def test_a_mutated_text_predicts_or_is_refused() -> None:
    """Any mutation that LightGBM believed ended the process."""
    trained_trees, x = trained("three classes", missing=True)
    [text], random = trained_trees.models, np.random.default_rng(0)
    head = text.index("\nTree=0")
    refused = 0
    for _ in range(300):
        content = bytearray(text.encode())
        for place in random.integers(head, text.index("end of trees"), random.integers(1, 4)):
            content[place] = random.choice(list(b"0123456789-. =\n"))
        trees = TreeBody(Target("classes", 3), FEATURES)
        trees.set_models([content.decode()])
        try:
            assert trees(tokens(x)).isfinite().all()
        except UserError:
            refused += 1
    assert 30 < refused < 270


def _made(make: Make, kind: str) -> Predictor:
    trees, _ = trained(kind, missing=True)
    model: Predictor = make(make_task(TARGETS[kind][0], (1, FEATURES)), "gradient_boosting")
    assert isinstance(model.network.body, TreeBody)
    model.network.body.set_models(trees.models)
    return model


def _needs(to: str) -> None:
    if to == "onnx":
        pytest.importorskip("onnxscript")
        pytest.importorskip("onnxruntime")


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
    _exported_agrees(_made(make, kind), to, tmp_path, most=1e-6)


@pytest.mark.slow
def test_the_difference_is_that_from_lightgbm(make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    right = TreeArrays.forward
    monkeypatch.setattr(TreeArrays, "forward", lambda self, *given: right(self, *given) + 1)
    with pytest.raises(UserError, match="differs from the model"):
        export_model(_made(make, "number"), "torch", tmp_path / "network")


TASKS = {
    "series": make_task(CLASSES),
    "number": make_task(Target("scalar"), (1, 30)),
    "field": make_task(Target("dense", shape=(8, 8)), (2, 8, 8)),
    "image": make_task(CLASSES, (1, 40, 40)),  # reduced with anti-aliasing
}
SAMPLED = [
    ("torch", "series", "cnn"), ("onnx", "image", "nft"), ("torch", "number", "lora"), ("torch", "field", "fno"),
]  # fmt: skip
COMMON = [
    ("series", "minirocket"), ("series", "hydra"), ("field", "fno"), ("field", "unet"),
    *itertools.product(TASKS, ["nft", "cnn", "lora", "no_body"]),
]  # fmt: skip
OTHERS = sorted({*all_methods()} - {method for _, method in COMMON} - {"forest", "gradient_boosting", "nearest"})
"""Methods without a test of both formats; those that are nothing until they are fitted have their own."""
EVERY = [(to, *case) for to in FORMATS for case in COMMON]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("to", "kind", "method"),
    [*SAMPLED, *(pytest.param(*case, marks=pytest.mark.exhaustive) for case in EVERY if case not in SAMPLED)],
)
def test_an_exported_network_agrees(make: Make, to: str, kind: str, method: str, tmp_path: Path) -> None:
    _exported_agrees(make(TASKS[kind], method), to, tmp_path)


@pytest.mark.slow
@pytest.mark.exhaustive
@pytest.mark.parametrize("method", OTHERS)
def test_the_network_of_any_method_can_be_exported(make: Make, method: str, tmp_path: Path) -> None:
    kind = next(kind for kind, task in TASKS.items() if all_methods()[method].problem(task) is None)
    _exported_agrees(make(TASKS[kind], method), "torch", tmp_path)


def _exported_agrees(model: Predictor, to: str, tmp_path: Path, most: float = 1e-5) -> None:
    _needs(to)
    exported = export_model(model, to, tmp_path / "network")
    assert exported.difference is not None
    assert exported.difference < most
    assert [path.name for path in tmp_path.iterdir()] == ["network"]


@pytest.mark.slow
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


@pytest.mark.slow
def test_an_onnx_file_has_names_and_predicts_alone(series: Predictor, tmp_path: Path) -> None:
    _needs("onnx")
    import onnxruntime

    export_model(series, "onnx", tmp_path / "network.onnx")
    session = onnxruntime.InferenceSession(str(tmp_path / "network.onnx"), providers=["CPUExecutionProvider"])
    about = json.loads(session.get_modelmeta().custom_metadata_map["orca_ray"])
    assert (about["target"], about["preprocessing"]) == ("classes", None)
    x = np.random.default_rng(0).normal(size=(130, 2, 16)).astype(np.float32)
    assert np.allclose(session.run(None, {"inputs": x})[0], series.outputs(x), atol=1e-5)


@pytest.mark.slow
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


@pytest.mark.slow
def test_the_command(series: Predictor, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder, out = str(series.save(tmp_path / "model")), tmp_path / "network.pt2"
    assert run(["export", folder, "--to", "torch", "-o", str(out)]) == 0
    assert "largest difference from the model" in capsys.readouterr().out
    assert run(["export", folder, "--to", "torch", "-o", str(tmp_path)]) == 2
    assert "is a directory" in capsys.readouterr().err
