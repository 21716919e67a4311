"""Own tasks: prepared once, found by name and verified; new data are encoded as
training data were, and are checked.
"""

import json
from pathlib import Path
from typing import Any, cast

import numpy as np
import pandas as pd
import pytest

from orca_ray.data import cache, prepared
from orca_ray.data.rows import Array, Target
from orca_ray.errors import UserError
from orca_ray.own_data import Options, UserData, read, registration
from orca_ray.own_data.infer_task import Preprocessing, infer
from orca_ray.tasks import registry as own
from orca_ray.tasks.registry import all_tasks, get_benchmark, get_task, known_tasks
from orca_ray.tasks.task import Task

RNG = np.random.default_rng(0)
Y = np.arange(60) % 3
X = RNG.normal(size=(60, 2, 20)) + Y[:, None, None]


def stored_preprocessing(task: Task) -> Preprocessing:
    """Return the preprocessing beside the prepared arrays, which is exported with
    models.
    """
    return Preprocessing.from_json(
        cache.read_json(task.prepared_directory() / own.PREPROCESSING)
    )


def test_a_task_of_arrays_is_found_by_its_name() -> None:
    task = Task.from_arrays(X, Y, name="Waves")
    assert task.name.startswith("own/waves-")
    assert get_task(task.name) == get_benchmark("own")[0] == known_tasks()[task.name]
    assert task.name not in all_tasks()
    data = task.prepare()
    assert (
        task.num_samples
        == (len(data.train), len(data.validation), len(data.test))
        == (51, 9, 0)
    )
    assert data.train.x.shape == (51, 2, 20)
    assert data.folds is not None
    assert data.folds.shape == (2, 60)
    prepared.verify(data)
    np.testing.assert_array_equal(
        stored_preprocessing(task).inputs(UserData(x=X[:0])), np.zeros((0, 2, 20))
    )


def test_the_same_data_are_prepared_once(monkeypatch: pytest.MonkeyPatch) -> None:
    task = Task.from_arrays(X, Y)
    made = {
        path.name: path.stat().st_mtime_ns
        for path in task.prepared_directory().iterdir()
    }
    monkeypatch.setattr(registration, "_build", lambda *_: pytest.fail("built again"))
    assert Task.from_arrays(X.copy(), Y).name == task.name
    assert made == {
        path.name: path.stat().st_mtime_ns
        for path in task.prepared_directory().iterdir()
    }


def test_the_arrays_are_those_that_new_data_give(tmp_path: Path) -> None:
    table = pd.DataFrame(
        {"a": RNG.normal(size=60), "b": RNG.choice(["u", "v"], 60), "kind": Y}
    )
    table.to_csv(tmp_path / "t.csv", index=False)
    data = read(tmp_path / "t.csv", Options(target=("kind",)))
    inferred = infer(data, Options(target=("kind",)))
    task = registration.register(inferred, data)
    preprocessing = stored_preprocessing(task)
    again = preprocessing.read(tmp_path / "t.csv", labelled=True)
    x = preprocessing.inputs(again)
    y = preprocessing.target.encode(cast(Array, again.y))
    stored = task.prepare()
    for split, rows in inferred.splits.items():
        np.testing.assert_array_equal(stored.splits[split].x[:], x[rows])
        np.testing.assert_array_equal(stored.splits[split].y, y[rows])
    table.drop(columns="kind").to_csv(tmp_path / "new.csv", index=False)
    np.testing.assert_array_equal(
        preprocessing.inputs(preprocessing.read(tmp_path / "new.csv")), x
    )


def test_targets_of_regressions_are_scaled() -> None:
    fields = RNG.normal(5, 3, size=(60, 20)).astype(np.float32)
    data = Task.from_arrays(X, fields).prepare()
    assert data.y_mean == pytest.approx(5, abs=0.5)
    assert data.y_std == pytest.approx(3, abs=0.5)
    assert data.train.y.shape == (51, 20)
    table = pd.DataFrame({"a": RNG.normal(size=60), "b": RNG.normal(size=60)})
    several = Task.from_arrays(table, RNG.normal(size=(60, 2)) * [1, 100])
    assert (several.loss, several.metric) == ("mse", "rmse")
    deviations = several.prepare().y_std
    assert deviations is not None
    assert deviations.shape == (2,)
    assert 50 < deviations[1] / deviations[0] < 200
    data = Task.from_arrays(table, RNG.normal(3, 2, 60)).prepare()
    assert data.y_mean is not None
    assert data.y_mean.shape == ()
    assert data.y_mean == pytest.approx(data.train.y.mean(), rel=1e-4)


def test_a_torch_dataset_is_read_item_by_item() -> None:
    task = Task.from_dataset(list(zip(X, Y, strict=True)), name="waves")
    np.testing.assert_array_equal(
        task.prepare().train.x[:], Task.from_arrays(X, Y).prepare().train.x[:]
    )


def test_groups_frames_and_options_of_arrays() -> None:
    frame = pd.DataFrame({"a": RNG.normal(size=60), 5: RNG.normal(size=60)})
    task = Task.from_arrays(
        frame,
        pd.Series(Y, name="kind"),
        groups=np.arange(60) // 5,
        metric="one_minus_macro_f1",
    )
    assert (task.metric, task.domain) == ("one_minus_macro_f1", "tabular")
    frame = pd.DataFrame(
        {"a": RNG.normal(size=60), "kind": Y, "patient": np.arange(60) // 5}
    )
    task = Task.from_arrays(frame, "kind", group="patient")
    assert task.input_shape == (1, 1)
    data = task.prepare()
    assert data.units is not None
    assert len(np.unique(data.units)) == 12
    assert all(np.bincount(data.units) == 5), "each patient has five samples"
    assert not {*data.units[: len(data.train)]} & {*data.units[len(data.train) :]}, (
        "and is in one split"
    )
    with pytest.raises(
        UserError, match=r"unknown column 'patent'. Did you mean 'patient'"
    ):
        Task.from_arrays(frame, "kind", group="patent")
    with pytest.raises(
        UserError, match=r"own data: .*unknown option 'metrik'. Did you mean 'metric'"
    ):
        Task.from_arrays(X, Y, metrik="error")
    with pytest.raises(UserError, match=r"data: 60 samples but 59 targets"):
        Task.from_arrays(X, Y[:59])


def test_a_declaration_survives_json() -> None:
    task = Task.from_arrays(X, Y)
    content = json.loads(json.dumps(own.task_to_json(task)))
    assert content["modality"] == task.domain == "time series"
    assert "domain" not in content
    assert own.task_from_json(content) == task
    digits = own.task_from_json(own.task_to_json(get_task("pocket/digits")))
    assert (digits.target, digits.input_shape, digits.body) == (
        Target("classes", 10),
        (1, 8, 8),
        "vit-s14",
    )
    with pytest.raises(UserError, match=r"here: no declaration of a task"):
        own.task_from_json({"name": 1}, "here")


def test_arrays_in_memory_are_those_of_the_registered_task() -> None:
    data = UserData(x=X, y=Y)
    result = infer(data)
    here = registration.in_memory(result, data)
    there = registration.register(result, data).prepare()
    for split in ("train", "validation"):
        np.testing.assert_array_equal(here.splits[split].x, there.splits[split].x)
        np.testing.assert_array_equal(here.splits[split].y, there.splits[split].y)


def test_missing_and_damaged_tasks(caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(
        UserError,
        match=r"unknown task 'own/none-123456'.*Allowed: none yet.*adapt DATA",
    ):
        get_task("own/none-123456")
    with pytest.raises(UserError, match=r"unknown task 'own/../x'"):
        get_task("own/../x")
    task = Task.from_arrays(X, Y, name="waves")
    with pytest.raises(UserError, match=f"Did you mean '{task.name}'"):
        get_task(task.name[:-1] + "x")
    (task.prepared_directory() / "train_x.npy").unlink()
    assert get_task(task.name).prepared() is None
    with pytest.raises(
        UserError, match=r"its prepared data are missing or damaged in .*adapt' again"
    ):
        get_task(task.name).prepare()
    assert Task.from_arrays(X, Y, name="waves").prepared() is not None, (
        "the same data prepare it again"
    )
    (task.prepared_directory() / own.DECLARATION).write_text("{}")
    with pytest.raises(UserError, match=r"task.json: no declaration of a task"):
        get_task(task.name)
    assert task.name not in known_tasks()
    assert "no declaration of a task" in caplog.text
    with pytest.raises(UserError, match=r"task.json changed since it was prepared"):
        prepared.verify(cast(prepared.PreparedData, task.prepared()))


TABLE = pd.DataFrame(
    {
        "age": np.where(
            np.arange(60) % 9 == 0, np.nan, np.random.default_rng(0).normal(50, 10, 60)
        ),
        "city": [None if k == 5 else ["Bern", "Rom"][k % 2] for k in range(60)],
        "when": pd.date_range("2024-01-01", periods=60).strftime("%Y-%m-%d"),
    }
)


def fitted(x: Any, options: Options | None = None, **given: Any) -> Preprocessing:
    return infer(
        UserData(x=x, y=Y[: len(x)], source="train", **given), options
    ).preprocessing


def new(x: Any, **given: Any) -> UserData:
    return UserData(x=x, source="new", **given)


def warned(preprocessing: Preprocessing, data: UserData) -> str:
    told: list[str] = []
    preprocessing.inputs(data, told.append)
    return " | ".join(told)


def test_a_table_is_encoded_by_name() -> None:
    preprocessing = fitted(TABLE)
    x = preprocessing.inputs(new(TABLE))
    assert x.shape == (60, *preprocessing.encoder.shape)
    assert x.dtype == np.float32
    mixed_up = TABLE[["when", "city", "age"]].assign(extra=1)
    np.testing.assert_array_equal(preprocessing.inputs(new(mixed_up)), x)
    np.testing.assert_array_equal(preprocessing.inputs(new(TABLE.iloc[3:4])), x[3:4])
    names = [column.name for column in preprocessing.encoder.columns]  # type: ignore[union-attr]
    assert x[0, :, names.index("city")].tolist() == [1, 0]
    assert x[5, :, names.index("city")].tolist() == [0, 0]
    assert abs(x[0, 0, names.index("age")]) < 0.5, "the median"


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda t: t.drop(columns="age"), "new: column 'age' is missing"),
        (
            lambda t: t.rename(columns={"city": "City"}),
            "column 'city' is missing; is it 'City'?",
        ),
        (
            lambda t: t.assign(age="old"),
            "new, row 1, column 'age': expected a number, found 'old'",
        ),
        (lambda t: t.assign(when="soon"), "new, row 1, column 'when': expected a date"),
    ],
)
def test_other_tables_are_refused(change: Any, expected: str) -> None:
    with pytest.raises(UserError, match=expected.replace("?", r"\?")):
        fitted(TABLE).inputs(new(change(TABLE)))


def test_suspicious_tables_are_reported() -> None:
    preprocessing = fitted(TABLE)
    assert warned(preprocessing, new(TABLE)) == ""
    assert "values around 5" in warned(
        preprocessing, new(TABLE.assign(age=TABLE["age"] * 1000))
    )
    assert "categories without a slot count as missing: Oslo" in warned(
        preprocessing, new(TABLE.assign(city="Oslo"))
    )
    one = TABLE.assign(age=[*TABLE["age"].iloc[:-1].astype(object), "old"])
    assert (
        "row 60, column 'age': expected a number, found 'old'; text counts as missing"
        in warned(preprocessing, new(one))
    )


def test_arrays_are_ordered_standardised_and_checked() -> None:
    x = RNG.normal(size=(60, 50, 4)) * [1, 10, 1, 5] + 3
    preprocessing = fitted(x)
    made = preprocessing.inputs(new(x))
    assert made.shape == (60, 4, 50)
    np.testing.assert_allclose(made.std(axis=(0, 2)), 1, atol=0.1)
    with pytest.raises(
        UserError,
        match=(
            r"new, row 1: expected shape \[50, 4\] \(axes LC\), found \[4, 50\]; the"
            r" order"
        ),
    ):
        preprocessing.inputs(new(x.transpose(0, 2, 1)))
    with pytest.raises(UserError, match=r"b.npy: expected shape \[50, 4\]"):
        preprocessing.inputs(new([x[0], x[1][:49]], names=["a.npy", "b.npy"]))
    assert "are they in other units?" in warned(preprocessing, new(x * 1e4))
    assert warned(preprocessing, new(x * 2)) == ""
    hole = x.copy()
    hole[0, 0, 0] = np.nan
    assert preprocessing.inputs(new(hole))[0, 0, 0] == 0


def test_series_of_unequal_length_are_padded_with_the_mean_or_a_mask() -> None:
    x = [RNG.normal(5, 1, size=(2, 20 + k % 10)) for k in range(60)]
    preprocessing = fitted(x)
    assert preprocessing.encoder.shape == (2, 29)
    made = preprocessing.inputs(new(x))
    assert not made[0, :, 20:].any()
    assert made[0, :, :20].all()
    masked = fitted(x, Options(mask=True))
    assert masked.encoder.shape == (3, 29)
    made = masked.inputs(new(x))
    assert made[0, 2].tolist() == [1.0] * 20 + [0.0] * 9
    assert "40 steps are cut to 29" in warned(
        preprocessing, new([np.full((2, 40), 5.0)])
    )
    with pytest.raises(UserError, match=r"expected 2 channels, found 3"):
        preprocessing.inputs(new([np.zeros((3, 20))]))


def test_images_of_unequal_size_are_resized_and_their_scale_checked() -> None:
    x = [
        RNG.integers(0, 256, size=(20 + k % 3, 24, 3)).astype(np.uint8)
        for k in range(60)
    ]
    preprocessing = fitted(x, kind_hint="images")
    assert preprocessing.encoder.shape == (3, 22, 22)
    assert preprocessing.inputs(new(x)).shape == (60, 3, 22, 22)
    assert preprocessing.reading.colour == "rgb"
    with pytest.raises(
        UserError, match=r"values up to 1, in training up to .*; multiply by 255"
    ):
        preprocessing.inputs(new([np.ones((20, 20, 3), np.float32)]))
    with pytest.raises(
        UserError, match=r"expected numbers with axes HWC, found uint8 of shape"
    ):
        preprocessing.inputs(new([np.ones((20, 20), np.uint8)]))


def test_recordings_need_their_rate() -> None:
    x = [
        np.sin(np.arange(4000 + 10 * k) * (0.1 + 0.2 * (k % 3))).astype(np.float32)
        for k in range(60)
    ]
    preprocessing = fitted(x, kind_hint="audio", rate=8000.0)
    assert preprocessing.encoder.shape[:2] == (1, 64)
    made = preprocessing.inputs(new(x[:5], rate=8000.0))
    assert np.isfinite(made).all()
    with pytest.raises(
        UserError, match=r"expected the sampling rate 8000 Hz, found 16000 Hz; resample"
    ):
        preprocessing.inputs(new(x[:5], rate=16000.0))


def test_targets_and_back() -> None:
    preprocessing = fitted(TABLE)
    assert preprocessing.target.label_names == ("0", "1", "2")
    assert preprocessing.target.encode(
        np.array(["2", None, "0"], dtype=object)
    ).tolist() == [2, -1, 0]
    assert preprocessing.target.encode(np.array([2.0, np.nan])).tolist() == [2, -1]
    with pytest.raises(UserError, match=r"unknown class '7'"):
        preprocessing.target.encode(np.array([7]))
    with pytest.raises(UserError, match=r"expected one label a sample"):
        preprocessing.target.encode(np.zeros((2, 2)))


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"version": 3}, "version"),
        ({"encoder": {"form": "picture"}}, "encoder"),
        ({"more": 1}, "more"),
        ({"target": {"kind": "colour"}}, "target.kind"),
    ],
)
def test_bad_json_is_refused_by_field(change: dict[str, Any], expected: str) -> None:
    content = {**fitted(TABLE).to_json(), **change}
    with pytest.raises(
        UserError,
        match=f"preprocessing.json: no valid preprocessing of version 2: {expected}",
    ):
        Preprocessing.from_json(content)
