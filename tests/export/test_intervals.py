"""Intervals and sets of a loaded model, in Python and in files of predictions."""

import pickle
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from orca_ray.cli.app import run
from orca_ray.data.rows import Target
from orca_ray.errors import UserError
from orca_ray.export import write_predictions
from orca_ray.methods.conformal import Conformal
from orca_ray.predictor import Predictor
from orca_ray.tasks.task import Task
from orca_ray.testing.trials import CLASSES, make_data, make_task

from .conftest import Make

FIELD = make_task(Target("dense", shape=(8, 8)), (2, 8, 8))
NUMBER = make_task(Target("scalar"))
LABELS = make_task(Target("labels", size=3))
CLASS = make_task(CLASSES)


def inputs_of(task: Task) -> np.ndarray:
    return np.asarray(make_data(task).test.x)


def calibrated(make: Make, task: Task) -> Predictor:
    """Return a model whose scores are 0.01 to 0.99 for each output."""
    shape = () if task.target.kind == "classes" else task.target.output_shape
    scores = np.broadcast_to(
        np.arange(1, 100).reshape(-1, *[1] * len(shape)) / 100, (99, *shape)
    )
    return Predictor(
        make(task).snapshot(), device="cpu", conformal=Conformal.of(scores)
    )


@pytest.mark.parametrize("task", [NUMBER, FIELD], ids=["number", "field"])
def test_intervals_are_as_wide_as_the_level_needs(make: Make, task: Task) -> None:
    model = calibrated(make, task)
    x = inputs_of(task)
    low, high = model.predict_interval(x, 0.9)
    np.testing.assert_allclose(low, model.predict(x) - 0.9, atol=1e-5)
    np.testing.assert_allclose(high, model.predict(x) + 0.9, atol=1e-5)
    low, high = model.predict_interval(x, 0.5)
    np.testing.assert_allclose(high - low, 1, atol=1e-5)
    with pytest.raises(UserError, match="no classes: use predict_interval"):
        model.predict_sets(x)


def test_sets_have_all_classes_above_a_threshold(make: Make) -> None:
    model = calibrated(make, CLASS)
    x = inputs_of(CLASS)
    chances = model.predict_proba(x)
    sets = model.predict_sets(x, 0.7)
    is_likely = chances >= 0.3
    is_first = chances == chances.max(axis=1, keepdims=True)
    np.testing.assert_array_equal(sets, is_likely | is_first)
    with pytest.raises(UserError, match="use predict_sets"):
        model.predict_interval(x)


def test_a_copy_has_the_same_intervals(make: Make, tmp_path: Path) -> None:
    model = calibrated(make, NUMBER)
    x = inputs_of(NUMBER)
    expected = model.predict_interval(x)
    for copy in (
        Predictor.load(model.save(tmp_path / "model"), device="cpu"),
        pickle.loads(pickle.dumps(model)),
    ):
        np.testing.assert_array_equal(copy.predict_interval(x), expected)
    make(NUMBER).save(tmp_path / "model")
    with pytest.raises(UserError, match="adapt' again"):
        Predictor.load(tmp_path / "model", device="cpu").predict_interval(x)


def test_labels_have_no_intervals(make: Make) -> None:
    with pytest.raises(UserError, match="predicts labels: intervals are of numbers"):
        make(LABELS).predict_sets(inputs_of(LABELS))


@pytest.mark.parametrize("task", [NUMBER, FIELD], ids=["number", "field"])
def test_files_have_both_ends(make: Make, task: Task, tmp_path: Path) -> None:
    model = calibrated(make, task)
    x = inputs_of(task)
    low, high = model.predict_interval(x, 0.8)
    write_predictions(model, model.inputs(x), tmp_path / "a.parquet", interval=0.8)
    table = pq.read_table(tmp_path / "a.parquet")
    assert table.column_names == ["id", "prediction", "low", "high"]
    np.testing.assert_array_equal(table["low"].to_pylist(), low)
    write_predictions(model, model.inputs(x), tmp_path / "a.npz", interval=0.8)
    with np.load(tmp_path / "a.npz") as arrays:
        np.testing.assert_array_equal(arrays["high"], high)


def test_files_have_the_names_of_the_classes_in_a_set(
    make: Make, tmp_path: Path
) -> None:
    model = calibrated(make, CLASS)
    x = inputs_of(CLASS)
    sets = model.predict_sets(x, 0.7)
    write_predictions(model, model.inputs(x), tmp_path / "a.parquet", interval=0.7)
    texts = pq.read_table(tmp_path / "a.parquet")["set"].to_pylist()
    assert texts == ["; ".join(map(str, np.flatnonzero(row))) for row in sets]
    write_predictions(model, model.inputs(x), tmp_path / "a.npz", interval=0.7)
    with np.load(tmp_path / "a.npz") as arrays:
        np.testing.assert_array_equal(arrays["set"], sets)


@pytest.mark.parametrize(
    ("is_calibrated", "level", "message"),
    [
        (False, "0.9", "run 'orca-sweep adapt' again"),
        (True, "90", "give a level above 0 and below 1"),
        (True, "0.999", "allow at most 0.99"),
    ],
)
def test_the_command_says_why_it_has_no_intervals(
    make: Make,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    is_calibrated: bool,
    level: str,
    message: str,
) -> None:
    model = calibrated(make, NUMBER) if is_calibrated else make(NUMBER)
    folder = str(model.save(tmp_path / "model"))
    np.save(tmp_path / "x.npy", inputs_of(NUMBER))
    out = tmp_path / "out.csv"
    command = ["predict", folder, str(tmp_path / "x.npy"), "-o", str(out)]
    assert run([*command, "--interval", level]) == 2
    assert message in " ".join(capsys.readouterr().err.split())
    assert not out.exists()
