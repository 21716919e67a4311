"""`gradient_boosting`: the trees are LightGBM's, are stored as bytes, and refuse what is no table."""

import importlib.util
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from orca_ray.data.prepared import PreparedData, Split
from orca_ray.data.rows import Target
from orca_ray.errors import UserError
from orca_ray.methods.hyperparameters import resolve
from orca_ray.methods.recipe import NO_BODY, Scalar, get_method
from orca_ray.methods.stages.adaptation import Adaptation
from orca_ray.models.trees import TreeBody
from orca_ray.tasks.task import Task
from orca_ray.testing.trials import CLASSES, TASK, make_data, make_task, run, start

lightgbm = pytest.importorskip("lightgbm")
TABLE = make_task(Target("scalar"), (1, 2))
ONE_SPLIT: dict[str, Scalar] = {
    "refine.epochs": 1,
    "boosting.rounds": 1,
    "boosting.leaves": 2,
    "boosting.learning_rate": 1.0,
    "boosting.leaf_samples": 1,
    "boosting.columns": 1.0,
}


def boost(task: Task = TASK, values: dict[str, Scalar] | None = None, data: PreparedData | None = None) -> Adaptation:
    adaptation = start(NO_BODY, "gradient_boosting", task=task, data=data, hyperparameters=values or {})
    run(adaptation)
    return adaptation


def trees(adaptation: Adaptation) -> TreeBody:
    assert isinstance(adaptation.model.body, TreeBody)
    return adaptation.model.body


def of_rows(x: np.ndarray, y: np.ndarray) -> PreparedData:
    """Return data whose splits are all equal."""
    split = Split(x.astype(np.float32), y)
    data = make_data(TABLE)
    return replace(data, splits={"train": split, "validation": split, "test": split}, y_mean=None, y_std=None)


def test_one_split_by_hand() -> None:
    # The second feature decides: 3 where it is 0, and 7 and 9, so 8, where it is 1. The first one is noise.
    x = np.array([[[0, 0]], [[1, 0]], [[0, 1]], [[1, 1]]])
    adaptation = boost(TABLE, {**ONE_SPLIT, "boosting.leaf_samples": 2}, of_rows(x, np.array([3, 3, 7, 9], np.float32)))
    assert trees(adaptation).num_values == 3  # a threshold and two leaves
    assert adaptation.result().test_score == pytest.approx(np.sqrt((0 + 0 + 1 + 1) / 4), abs=1e-5)  # RMSE


def test_epochs_continue_as_one_run_of_lightgbm() -> None:
    pieces, whole = (
        start(NO_BODY, "gradient_boosting", hyperparameters={"boosting.columns": 1.0, "boosting.rounds": rounds})
        for rounds in (5, 15)
    )
    for _ in range(3):
        pieces.step()
    whole.step()
    x = torch.from_numpy(make_data(TASK).test.x)
    assert whole.model(x).any()
    assert torch.equal(pieces.model(x), whole.model(x))


def test_the_trees_of_the_best_epoch_are_kept_and_patience_ends_the_trial() -> None:
    random, data = np.random.default_rng(0), make_data(TASK)
    noise = {name: replace(split, y=random.integers(3, size=len(split.y))) for name, split in data.splits.items()}
    options: dict[str, Scalar] = {"refine.epochs": 50, "boosting.rounds": 2, "boosting.patience": 3}
    adaptation = boost(TASK, options, replace(data, splits=noise))
    outcome = adaptation.result()
    assert outcome.best_epoch is not None
    assert outcome.epochs == outcome.best_epoch + 3
    [text] = trees(adaptation).models
    assert lightgbm.Booster(model_str=text).num_trees() == 3 * 2 * outcome.best_epoch
    assert outcome.num_parameters == outcome.num_trainable == trees(adaptation).num_values


def test_each_label_has_a_booster_and_two_classes_have_one_with_two_logits() -> None:
    adaptation = boost(make_task(Target("labels", size=3), (2, 16)))
    assert len(trees(adaptation).models) == 3
    assert adaptation.result().test_score == pytest.approx(0.0, abs=0.1)  # by chance: 0.5
    task = make_task(Target("classes", size=2), (2, 16))
    data = make_data(task)
    splits = {name: replace(split, y=split.y % 2) for name, split in data.splits.items()}
    adaptation = boost(task, data=replace(data, splits=splits))
    logits = adaptation.model(torch.from_numpy(splits["test"].x))
    assert logits.shape == (45, 2)
    assert not logits[:, 0].any()
    booster = lightgbm.Booster(model_str=trees(adaptation).models[0])
    assert booster.dump_model()["objective"].startswith("binary")


def test_it_is_saved_without_pickle_and_loads_into_a_model_without_trees(tmp_path: Path) -> None:
    adaptation, empty = boost(), start(NO_BODY, "gradient_boosting").model
    x = torch.tensor(make_data(TASK).test.x[:])
    assert not empty(x).any()
    save_file(adaptation.model.state_dict(), tmp_path / "model.safetensors")
    empty.load_state_dict(load_file(tmp_path / "model.safetensors"))
    assert torch.equal(empty(x), adaptation.model(x))
    x[:, 0, ::2] = torch.nan  # missing values
    assert empty(x).isfinite().all()


def test_trees_that_lightgbm_cannot_read_are_a_user_error() -> None:
    model = start(NO_BODY, "gradient_boosting").model
    assert isinstance(model.body, TreeBody)
    model.body.set_models(["tree\nno trees"])
    with pytest.raises(UserError, match="cannot read the trees of this model"):
        model(torch.zeros(1, 2, 16))


def test_what_it_cannot_adapt_to_or_do_without_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for task, message in (
        (make_task(Target("dense", shape=(16,)), (1, 16)), r"not a field of shape \(16,\)"),
        (make_task(CLASSES, (3, 40, 40)), r"4800 values \(shape \(3, 40, 40\)\).* at most 4096"),
    ):
        with pytest.raises(UserError, match=f"gradient_boosting cannot adapt to tiny/.*{message}"):
            start(NO_BODY, "gradient_boosting", task=task)
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(UserError, match=r"pip install 'orca-ray\[trees\]'"):
        start(NO_BODY, "gradient_boosting")


def test_options_and_costs() -> None:
    values = resolve("gradient_boosting", {}).relevant("gradient_boosting")
    assert {name.split(".")[0] for name in values} == {"data", "refine", "boosting"}
    assert [name for name in values if name.startswith("refine.")] == ["refine.epochs"]
    operations = get_method("gradient_boosting").operations
    assert operations is not None
    small, large = (operations(make_task(Target("labels", size=n), (n, 16)), values) for n in (2, 4))
    assert small is not None
    assert large == 4 * small  # twice the features, and twice the labels
    assert operations(replace(TASK, input_shape=None, input_kind="sequence"), values) is None
