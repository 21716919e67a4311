"""Exported networks and trees have the outputs of the model for any batch size.

The sums of trees are those of LightGBM, also at thresholds and for missing values.
"""

import copy
import itertools
import json
from collections.abc import Callable
from dataclasses import dataclass
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
from orca_ray.models import trees as trees_module
from orca_ray.models.trees import (
    BoostedBody,
    ForestBody,
    Tree,
    TreeBody,
    read_lightgbm_trees,
)
from orca_ray.predictor import Predictor
from orca_ray.testing.trials import CLASSES, make_task

from .conftest import Make

lightgbm = pytest.importorskip("lightgbm")
TORCH = tuple(int(part) for part in torch.__version__.split(".")[:2])
"""Major and minor version of torch."""
SAMPLES = 400
FEATURES = 6
ALL = pytest.mark.exhaustive


@dataclass(frozen=True)
class Problem:
    """A kind of target, and how LightGBM is trained on it."""

    target: Target
    objective: str
    columns: Callable[[np.ndarray], list[np.ndarray]]
    """Targets of each booster, from a number for each sample."""


PROBLEMS = {
    "two classes": Problem(Target("classes", 2), "binary", lambda z: [z > 0]),
    "three classes": Problem(
        Target("classes", 3), "multiclass", lambda z: [np.digitize(z, [-0.5, 0.5])]
    ),
    "labels": Problem(Target("labels", 2), "binary", lambda z: [z > 0, np.abs(z) > 1]),
    "number": Problem(Target("scalar"), "regression", lambda z: [z]),
}


@dataclass(frozen=True)
class Trained:
    """Trees, and the boosters and table that they were made of."""

    trees: BoostedBody
    boosters: list[Any]
    table: np.ndarray


def trained(kind: str, *, missing: bool) -> Trained:
    """Train LightGBM on a kind of target, and make trees of its boosters."""
    problem = PROBLEMS[kind]
    random = np.random.default_rng(0)
    table = random.normal(size=(SAMPLES, FEATURES)).astype(np.float32)
    z = table[:, 0] + table[:, 1] * table[:, 2]
    table[:, 3] = table[:, 3].round()  # splits between few values
    if missing:
        table[random.random(table.shape) < 0.2] = np.nan
    settings = {
        "objective": problem.objective,
        "num_class": 3 if problem.objective == "multiclass" else 1,
        "verbosity": -1,
    }
    boosters = [
        lightgbm.train(settings, lightgbm.Dataset(table, column), 7)
        for column in problem.columns(z)
    ]
    trees = BoostedBody(problem.target, FEATURES)
    trees.add_trees(read_lightgbm_trees(boosters))
    return Trained(trees, boosters, table)


def tokens(x: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(x.astype(np.float32))[:, :, None]


EXPORTING = pytest.mark.parametrize("exporting", [False, True])


@pytest.mark.parametrize("missing", [False, True])
@pytest.mark.parametrize("kind", PROBLEMS)
def test_sums_equal_those_of_lightgbm(
    kind: str, missing: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    fit = trained(kind, missing=missing)
    trees = fit.trees
    # At each threshold and beside it, where a rounded comparison would go the other
    # way; and values that training never saw: missing ones, zeros of both signs,
    # infinities.
    edges = trees.thresholds.numpy()
    edges = edges[np.abs(edges) > 1e-30]  # LightGBM takes values below 1e-35 as 0
    beside = [np.nextafter(edges, np.float32(sign * np.inf)) for sign in (-1, 1)]
    strange = np.array([np.nan, 0.0, -0.0, np.inf, -np.inf], np.float32)
    values = np.concatenate([edges, *beside, strange])
    difficult = np.random.default_rng(1).choice(values, (2000, FEATURES))
    rows = tokens(np.concatenate([fit.table, difficult]))
    raw = [
        booster.predict(rows[:, :, 0].numpy(), raw_score=True)
        for booster in fit.boosters
    ]
    np.testing.assert_array_equal(trees.sums(rows), np.column_stack(raw))
    outputs = trees(rows)
    assert outputs.shape == (len(rows), 1, trees.feature_width)
    assert torch.equal(outputs[:, 0, -trees.num_trained :], trees.sums(rows).float())
    assert len(outputs.unique()) > 50
    monkeypatch.setattr(torch.compiler, "is_exporting", lambda: True)
    assert torch.equal(trees(rows), outputs)


@EXPORTING
def test_a_tree_of_one_leaf_has_no_splits_and_no_trees_predict_zero(
    exporting: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    trees = BoostedBody(Target("scalar"), 2)
    constant = lightgbm.Dataset(np.zeros((30, 2)), np.full(30, 2.5))
    settings = {"objective": "regression", "verbosity": -1}
    trees.add_trees(read_lightgbm_trees([lightgbm.train(settings, constant, 1)]))
    monkeypatch.setattr(torch.compiler, "is_exporting", lambda: exporting)
    assert trees(torch.zeros(4, 2, 1)).flatten().tolist() == [2.5] * 4
    rows = torch.ones(4, 1, 2)
    for empty in (BoostedBody(Target("classes", 3), 2), ForestBody(2, 3)):
        assert torch.equal(empty(rows), torch.zeros(4, 1, 3))


def test_outputs_with_fewer_trees_get_trees_of_zero() -> None:
    x = np.arange(40.0)[:, None]
    settings = {"objective": "binary", "min_data_in_leaf": 5, "verbosity": -1}
    boosters = [
        lightgbm.train(settings, lightgbm.Dataset(x, x[:, 0] > 20), rounds)
        for rounds in (3, 1)
    ]
    trees = BoostedBody(Target("labels", 2), 1)
    trees.add_trees(read_lightgbm_trees(boosters))
    expected = np.column_stack(
        [booster.predict(x, raw_score=True) for booster in boosters]
    )
    np.testing.assert_array_equal(trees.sums(tokens(x)), expected)


@EXPORTING
@pytest.mark.parametrize(
    "body",
    [BoostedBody(Target("scalar"), 2), ForestBody(2, 1)],
    ids=["boosted", "forest"],
)
def test_a_tree_by_hand(
    body: TreeBody, exporting: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    trees = copy.deepcopy(body)
    rows = tokens(np.array([[0, -1], [0, 0], [1, 0], [np.nan, 0], [0, np.nan]]))
    trees.add_trees([TREE])
    monkeypatch.setattr(torch.compiler, "is_exporting", lambda: exporting)
    assert trees(rows).flatten().tolist() == [-1, 2, 3.5, 2, 2]
    with pytest.raises(ValueError, match="expected 2 features, got 1"):
        trees(rows[:, :1])


TREE = Tree(
    np.array([[1, 2, 1, 1], [0, 3, 4, 0], [0, 2, 2, 0], [0, 3, 3, 0], [0, 4, 4, 0]]),
    np.array([-0.5, 0, 0, 0, 0]),
    np.array([[0.0], [0], [-1], [2], [3.5]]),
)


@pytest.mark.parametrize(
    "body",
    [BoostedBody(Target("scalar"), 2), ForestBody(2, 1)],
    ids=["boosted", "forest"],
)
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"nodes": torch.zeros(5, 3)}, "not as many values as nodes"),
        ({"thresholds": torch.zeros(4)}, "not as many values as nodes"),
        ({"values": torch.zeros(6, 1)}, "not as many values as nodes"),
        ({"values": torch.zeros(5, 2)}, "not as many values as nodes"),
        ({"sizes": [4]}, "sizes do not add up to 5 nodes"),
        ({"sizes": [6]}, "sizes do not add up to 5 nodes"),
        ({"sizes": [5, 0]}, "sizes do not add up to 5 nodes"),
        ({"sizes": [6, -1]}, "sizes do not add up to 5 nodes"),
        (
            {"sizes": [2, 3]},
            "a child is not behind its parent",
        ),  # a child in another tree
        ({(0, 0): -1}, "a feature is not one of 0 to 1"),
        ({(2, 0): 2}, "a feature is not one of 0 to 1"),
        ({(1, 2): 5}, "a child is not behind its parent"),
        ({(1, 2): 2**31 - 1}, "a child is not behind its parent"),
        ({(1, 1): -(2**31)}, "a child is not behind its parent"),
        ({(1, 1): 0}, "a child is not behind its parent"),
        ({(1, 1): 1}, "a child is not behind its parent"),
        ({(4, 2): 3}, "a child is not behind its parent"),
    ],
)
def test_forged_trees_are_refused_before_they_are_walked(
    body: TreeBody, change: dict[Any, Any], message: str
) -> None:
    trees = copy.deepcopy(body)
    trees.add_trees([TREE])
    state = {name: value.clone() for name, value in trees.state_dict().items()}
    for name, value in change.items():
        if isinstance(name, str):
            state[name] = torch.as_tensor(value).to(state[name].dtype)
        else:
            state["nodes"][name] = value
    with pytest.raises(
        UserError, match=f"the trees of this model are damaged: .*{message}"
    ):
        copy.deepcopy(body).load_state_dict(state)


def test_trees_that_do_not_take_turns_or_are_too_deep_are_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with pytest.raises(UserError, match="1 cannot take turns for 3 outputs"):
        BoostedBody(Target("labels", 3), 2).add_trees([TREE])
    # 12 levels: a node with an even number has the next two nodes as children, and a
    # node with an odd number is a leaf, whose children are the node itself.
    numbers = np.arange(25)
    is_split = (numbers % 2 == 0) & (numbers < 24)
    nodes = np.zeros((25, 4), int)
    nodes[:, 1] = np.where(is_split, numbers + 1, numbers)
    nodes[:, 2] = np.where(is_split, numbers + 2, numbers)
    chain = Tree(nodes, np.zeros(25), np.zeros((25, 1)))
    monkeypatch.setattr(trees_module, "_MOST_LEVELS", 12)
    ForestBody(1, 1).add_trees([chain])
    monkeypatch.setattr(trees_module, "_MOST_LEVELS", 11)
    with pytest.raises(UserError, match="more than 11 levels"):
        ForestBody(1, 1).add_trees([chain])
    shared = np.array([[0, 1, 2, 0], [0, 2, 3, 0], [0, 2, 2, 0], [0, 3, 3, 0]])
    with pytest.raises(UserError, match="a node has two parents"):
        ForestBody(1, 1).add_trees([Tree(shared, np.zeros(4), np.zeros((4, 1)))])


def trained_model(make: Make, kind: str) -> Predictor:
    trees = trained(kind, missing=True).trees
    task = make_task(PROBLEMS[kind].target, (1, FEATURES))
    model: Predictor = make(task, "gradient_boosting")
    model.network.get_submodule("body").load_state_dict(trees.state_dict())
    return model


def require_libraries(to: str) -> None:
    """Skip the test if the libraries of an export format are missing."""
    if to == "onnx":
        pytest.importorskip("onnxscript")
        pytest.importorskip("onnxruntime")


SAMPLED_TREES = [("labels", "torch"), ("three classes", "onnx")]
"""Kinds of targets and formats that are tested always."""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "to"),
    [
        pytest.param(*case, marks=[] if case in SAMPLED_TREES else ALL)
        for case in itertools.product(PROBLEMS, FORMATS)
    ],
)
def test_an_exported_model_agrees(
    make: Make, to: str, kind: str, tmp_path: Path
) -> None:
    check_export(trained_model(make, kind), to, tmp_path, most=1e-6)


@pytest.mark.slow
def test_the_difference_is_that_from_the_compiled_walk(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    walk = TreeBody._walk

    def walk_to_other_leaves(self: TreeBody, rows: torch.Tensor) -> torch.Tensor:
        return (walk(self, rows) - 1).clamp(min=0)

    monkeypatch.setattr(TreeBody, "_walk", walk_to_other_leaves)
    with pytest.raises(UserError, match="differs from the model"):
        export_model(trained_model(make, "number"), "torch", tmp_path / "network")


TASKS = {
    "series": make_task(CLASSES),
    "number": make_task(Target("scalar"), (1, 30)),
    "field": make_task(Target("dense", shape=(8, 8)), (2, 8, 8)),
    "image": make_task(CLASSES, (1, 40, 40)),  # reduced with anti-aliasing
}
"""Task of each kind of data."""
SAMPLED = [
    ("torch", "series", "cnn"),
    ("onnx", "image", "nft"),
    ("torch", "number", "lora"),
    ("torch", "field", "fno"),
]
"""Formats, tasks and methods that are tested always."""
COMMON = [
    ("series", "minirocket"),
    ("series", "hydra"),
    ("field", "fno"),
    ("field", "unet"),
    *itertools.product(TASKS, ["nft", "cnn", "lora", "no_body"]),
]
"""Tasks and methods that are tested in both formats."""
FITTED = {"forest", "gradient_boosting", "kernel_ridge", "nearest"}
"""Methods that are nothing until they are fitted; they have their own tests."""
OTHERS = sorted({*all_methods()} - {method for _, method in COMMON} - FITTED)
"""Methods without a test of both formats."""
EVERY = [(to, *case) for to in FORMATS for case in COMMON]
"""All formats, tasks and methods."""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("to", "kind", "method"),
    [
        *SAMPLED,
        *(
            pytest.param(*case, marks=pytest.mark.exhaustive)
            for case in EVERY
            if case not in SAMPLED
        ),
    ],
)
def test_an_exported_network_agrees(
    make: Make, to: str, kind: str, method: str, tmp_path: Path
) -> None:
    if (to, kind) == ("onnx", "image") and TORCH < (2, 13):
        pytest.skip("torch before 2.13 may write ONNX files without anti-aliasing")
    check_export(make(TASKS[kind], method), to, tmp_path)


@pytest.mark.slow
@pytest.mark.exhaustive
@pytest.mark.parametrize("method", OTHERS)
def test_the_network_of_any_method_can_be_exported(
    make: Make, method: str, tmp_path: Path
) -> None:
    recipe = all_methods()[method]
    task = next(task for task in TASKS.values() if recipe.problem(task) is None)
    check_export(make(task, method), "torch", tmp_path)


def check_export(model: Predictor, to: str, tmp_path: Path, most: float = 1e-5) -> None:
    """Export a model; its outputs must differ by less than ``most``."""
    require_libraries(to)
    exported = export_model(model, to, tmp_path / "network")
    assert exported.difference is not None
    assert exported.difference < most
    assert [path.name for path in tmp_path.iterdir()] == ["network"]


@pytest.mark.slow
def test_a_torch_program_has_names_and_predicts_alone(
    make: Make, tmp_path: Path
) -> None:
    model = make(TASKS["number"])
    export_model(model, "torch", tmp_path / "network.pt2")
    extra = {"orca_ray.json": ""}
    program = torch.export.load(tmp_path / "network.pt2", extra_files=extra).module()
    about = json.loads(extra["orca_ray.json"])
    assert (about["input_shape"], about["outputs"]) == ([1, 30], "values")
    x = np.random.default_rng(0).normal(size=(7, 1, 30)).astype(np.float32)
    with torch.no_grad():
        outputs = program(torch.from_numpy(x)).numpy()
    assert np.allclose(outputs, model.predict(x), rtol=1e-5)


@pytest.mark.slow
def test_an_onnx_file_has_names_and_predicts_alone(
    series: Predictor, tmp_path: Path
) -> None:
    require_libraries("onnx")
    import onnxruntime

    export_model(series, "onnx", tmp_path / "network.onnx")
    session = onnxruntime.InferenceSession(
        str(tmp_path / "network.onnx"), providers=["CPUExecutionProvider"]
    )
    about = json.loads(session.get_modelmeta().custom_metadata_map["orca_ray"])
    assert (about["target"], about["preprocessing"]) == ("classes", None)
    x = np.random.default_rng(0).normal(size=(130, 2, 16)).astype(np.float32)
    assert np.allclose(
        session.run(None, {"inputs": x})[0], series.outputs(x), atol=1e-5
    )


@pytest.mark.slow
def test_a_network_that_differs_is_not_written(
    series: Predictor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(export, "TOLERANCE", -1.0)
    with pytest.raises(
        UserError, match=r"differs from the model by .* nothing was written"
    ):
        export_model(series, "torch", tmp_path / "network.pt2")
    assert not list(tmp_path.iterdir())
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(
        UserError,
        match=r"install the package 'onnxscript': pip install 'orca-ray\[export\]'",
    ):
        export_model(series, "onnx", tmp_path / "network.onnx")


@pytest.mark.slow
def test_the_command(
    series: Predictor, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = str(series.save(tmp_path / "model"))
    out = tmp_path / "network.pt2"
    assert run(["export", folder, "--to", "torch", "-o", str(out)]) == 0
    assert "largest difference from the model" in capsys.readouterr().out
    assert run(["export", folder, "--to", "torch", "-o", str(tmp_path)]) == 2
    assert "is a directory" in capsys.readouterr().err


def test_a_forest_of_a_million_trees_is_refused() -> None:
    forest = ForestBody(1, 1)
    number = 10**6
    state = {
        "nodes": torch.zeros(number, 4, dtype=torch.int32),
        "thresholds": torch.zeros(number),
        "values": torch.zeros(number, 1),
        "sizes": torch.ones(number, dtype=torch.int32),
    }
    with pytest.raises(UserError, match="1,000,000 trees"):
        forest.load_state_dict(state)
