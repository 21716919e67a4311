"""Own tasks: prepared once, found by name and verified.

New data are encoded as training data were, and are checked.
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
    """Return the preprocessing that is stored beside the prepared arrays."""
    return Preprocessing.from_json(
        cache.read_json(task.prepared_directory() / own.PREPROCESSING)
    )


def test_a_task_of_arrays_is_found_by_its_name() -> None:
    task = Task.from_arrays(X, Y, name="Waves")
    assert task.name.startswith("own/waves-")
    assert get_task(task.name) == task
    newest, *_ = get_benchmark("own")
    assert newest == task
    assert known_tasks()[task.name] == task
    assert task.name not in all_tasks()


def test_a_task_of_arrays_has_its_arrays() -> None:
    task = Task.from_arrays(X, Y, name="Waves")
    data = task.prepare()
    sizes = (len(data.train), len(data.validation), len(data.test))
    assert task.num_samples == sizes == (51, 9, 0)
    assert data.train.x.shape == (51, 2, 20)
    assert data.folds is not None
    assert data.folds.shape == (2, 60)
    prepared.verify(data)
    nothing = stored_preprocessing(task).inputs(UserData(x=X[:0]))
    np.testing.assert_array_equal(nothing, np.zeros((0, 2, 20)))


def test_the_same_data_are_prepared_once(monkeypatch: pytest.MonkeyPatch) -> None:
    def times(task: Task) -> dict[str, int]:
        files = task.prepared_directory().iterdir()
        return {path.name: path.stat().st_mtime_ns for path in files}

    task = Task.from_arrays(X, Y)
    first_times = times(task)
    monkeypatch.setattr(registration, "_build", lambda *_: pytest.fail("built again"))
    assert Task.from_arrays(X.copy(), Y).name == task.name
    assert times(task) == first_times


def test_the_arrays_are_those_that_new_data_give(tmp_path: Path) -> None:
    table = pd.DataFrame(
        {"a": RNG.normal(size=60), "b": RNG.choice(["u", "v"], 60), "kind": Y}
    )
    table.to_csv(tmp_path / "t.csv", index=False)
    data = read(tmp_path / "t.csv", Options(target=("kind",)))
    inferred = infer(data, Options(target=("kind",)))
    task = registration.register(inferred, data)
    preprocessing = stored_preprocessing(task)
    same = preprocessing.read(tmp_path / "t.csv", labelled=True)
    x = preprocessing.inputs(same)
    y = preprocessing.target.encode(cast(Array, same.y))
    stored = task.prepare()
    for split, rows in inferred.splits.items():
        np.testing.assert_array_equal(stored.splits[split].x[:], x[rows])
        np.testing.assert_array_equal(stored.splits[split].y, y[rows])
    table.drop(columns="kind").to_csv(tmp_path / "new.csv", index=False)
    new_x = preprocessing.inputs(preprocessing.read(tmp_path / "new.csv"))
    np.testing.assert_array_equal(new_x, x)


FEATURES = pd.DataFrame({"a": RNG.normal(size=60), "b": RNG.normal(size=60)})


def test_fields_have_one_scale() -> None:
    fields = RNG.normal(5, 3, size=(60, 20)).astype(np.float32)
    data = Task.from_arrays(X, fields).prepare()
    assert data.y_mean == pytest.approx(5, abs=0.5)
    assert data.y_std == pytest.approx(3, abs=0.5)
    assert data.train.y.shape == (51, 20)


def test_each_of_several_numbers_has_its_scale() -> None:
    task = Task.from_arrays(FEATURES, RNG.normal(size=(60, 2)) * [1, 100])
    assert (task.loss, task.metric) == ("mse", "rmse")
    deviations = task.prepare().y_std
    assert deviations is not None
    assert deviations.shape == (2,)
    assert 50 < deviations[1] / deviations[0] < 200


def test_one_number_has_its_scale() -> None:
    data = Task.from_arrays(FEATURES, RNG.normal(3, 2, 60)).prepare()
    assert data.y_mean is not None
    assert data.y_mean.shape == ()
    assert data.y_mean == pytest.approx(data.train.y.mean(), rel=1e-4)


def test_a_torch_dataset_is_read_item_by_item() -> None:
    data = Task.from_dataset(list(zip(X, Y, strict=True)), name="waves").prepare()
    expected = Task.from_arrays(X, Y).prepare()
    np.testing.assert_array_equal(data.train.x[:], expected.train.x[:])


def test_frames_and_options_of_arrays() -> None:
    frame = pd.DataFrame({"a": RNG.normal(size=60), 5: RNG.normal(size=60)})
    task = Task.from_arrays(
        frame,
        pd.Series(Y, name="kind"),
        groups=np.arange(60) // 5,
        metric="one_minus_macro_f1",
    )
    assert task.metric == "one_minus_macro_f1"
    assert task.domain == "tabular"


PATIENTS = pd.DataFrame(
    {"a": RNG.normal(size=60), "kind": Y, "patient": np.arange(60) // 5}
)


def test_groups_of_a_frame() -> None:
    task = Task.from_arrays(PATIENTS, "kind", group="patient")
    assert task.input_shape == (1, 1)
    data = task.prepare()
    assert data.units is not None
    assert np.bincount(data.units).tolist() == [5] * 12
    num_train = len(data.train)
    train_units = set(data.units[:num_train])
    other_units = set(data.units[num_train:])
    assert not train_units & other_units


def test_wrong_options_of_arrays_are_refused() -> None:
    with pytest.raises(
        UserError, match=r"unknown column 'patent'. Did you mean 'patient'"
    ):
        Task.from_arrays(PATIENTS, "kind", group="patent")
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
    assert digits.target == Target("classes", 10)
    assert digits.input_shape == (1, 8, 8)
    assert digits.body == "vit-s14"
    with pytest.raises(UserError, match=r"here: no declaration of a task"):
        own.task_from_json({"name": 1}, "here")


def test_arrays_in_memory_are_those_of_the_registered_task() -> None:
    data = UserData(x=X, y=Y)
    result = infer(data)
    in_memory = registration.in_memory(result, data)
    stored = registration.register(result, data).prepare()
    for name in ("train", "validation"):
        split = in_memory.splits[name]
        np.testing.assert_array_equal(split.x, stored.splits[name].x)
        np.testing.assert_array_equal(split.y, stored.splits[name].y)


def test_missing_tasks_are_named() -> None:
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


def test_a_task_without_its_arrays_is_prepared_from_the_same_data() -> None:
    task = Task.from_arrays(X, Y, name="waves")
    (task.prepared_directory() / "train_x.npy").unlink()
    assert get_task(task.name).prepared() is None
    with pytest.raises(
        UserError, match=r"its prepared data are missing or damaged in .*adapt' again"
    ):
        get_task(task.name).prepare()
    assert Task.from_arrays(X, Y, name="waves").prepared() is not None


def test_a_damaged_declaration_is_refused(caplog: pytest.LogCaptureFixture) -> None:
    task = Task.from_arrays(X, Y, name="waves")
    (task.prepared_directory() / own.DECLARATION).write_text("{}")
    with pytest.raises(UserError, match=r"task.json: no declaration of a task"):
        get_task(task.name)
    assert task.name not in known_tasks()
    assert "no declaration of a task" in caplog.text
    data = task.prepared()
    assert data is not None
    with pytest.raises(UserError, match=r"task.json changed since it was prepared"):
        prepared.verify(data)


NUMBERS = np.arange(60)
AGES = np.random.default_rng(0).normal(50, 10, 60)
TABLE = pd.DataFrame(
    {
        "age": np.where(NUMBERS % 9 == 0, np.nan, AGES),
        "city": [None if k == 5 else ["Bern", "Rom"][k % 2] for k in NUMBERS],
        "when": pd.date_range("2024-01-01", periods=60).strftime("%Y-%m-%d"),
    }
)


def fitted(x: Any, options: Options | None = None, **properties: Any) -> Preprocessing:
    data = UserData(x=x, y=Y[: len(x)], source="train", **properties)
    return infer(data, options).preprocessing


def new(x: Any, **properties: Any) -> UserData:
    return UserData(x=x, source="new", **properties)


def warned(preprocessing: Preprocessing, data: UserData) -> str:
    """Return the warnings of encoding new data."""
    warnings: list[str] = []
    preprocessing.inputs(data, warnings.append)
    return " | ".join(warnings)


def test_a_table_is_encoded_by_name() -> None:
    preprocessing = fitted(TABLE)
    x = preprocessing.inputs(new(TABLE))
    assert x.shape == (60, *preprocessing.encoder.shape)
    assert x.dtype == np.float32
    mixed_up = TABLE[["when", "city", "age"]].assign(extra=1)
    np.testing.assert_array_equal(preprocessing.inputs(new(mixed_up)), x)
    np.testing.assert_array_equal(preprocessing.inputs(new(TABLE.iloc[3:4])), x[3:4])
    names = [column.name for column in preprocessing.encoder.columns]  # type: ignore[union-attr]
    cities = x[:, :, names.index("city")]
    assert cities[0].tolist() == [1, 0]
    assert cities[5].tolist() == [0, 0], "it is missing"
    ages = x[:, 0, names.index("age")]
    assert abs(ages[0]) < 0.5, "the median"


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
    in_other_units = TABLE.assign(age=TABLE["age"] * 1000)
    assert "values around 5" in warned(preprocessing, new(in_other_units))
    elsewhere = TABLE.assign(city="Oslo")
    expected = "categories without a slot count as missing: Oslo"
    assert expected in warned(preprocessing, new(elsewhere))
    with_text = TABLE.assign(age=[*TABLE["age"].iloc[:-1].astype(object), "old"])
    expected = (
        "row 60, column 'age': expected a number, found 'old'; text counts as missing"
    )
    assert expected in warned(preprocessing, new(with_text))


LENGTHS_FIRST = RNG.normal(size=(60, 50, 4)) * [1, 10, 1, 5] + 3


def test_arrays_are_ordered_and_standardised() -> None:
    encoded = fitted(LENGTHS_FIRST).inputs(new(LENGTHS_FIRST))
    assert encoded.shape == (60, 4, 50)
    np.testing.assert_allclose(encoded.std(axis=(0, 2)), 1, atol=0.1)


def test_arrays_of_another_shape_are_refused() -> None:
    preprocessing = fitted(LENGTHS_FIRST)
    with pytest.raises(
        UserError,
        match=(
            r"new, row 1: expected shape \[50, 4\] \(axes LC\), found \[4, 50\]; the"
            r" order"
        ),
    ):
        preprocessing.inputs(new(LENGTHS_FIRST.transpose(0, 2, 1)))
    first = LENGTHS_FIRST[0]
    shorter = LENGTHS_FIRST[1][:49]
    with pytest.raises(UserError, match=r"b.npy: expected shape \[50, 4\]"):
        preprocessing.inputs(new([first, shorter], names=["a.npy", "b.npy"]))


def test_arrays_in_other_units_are_reported_and_missing_values_become_the_mean() -> (
    None
):
    preprocessing = fitted(LENGTHS_FIRST)
    warnings = warned(preprocessing, new(LENGTHS_FIRST * 1e4))
    assert "are they in other units?" in warnings
    assert warned(preprocessing, new(LENGTHS_FIRST * 2)) == ""
    incomplete = LENGTHS_FIRST.copy()
    incomplete[0, 0, 0] = np.nan
    assert preprocessing.inputs(new(incomplete))[0, 0, 0] == 0


def test_series_of_unequal_length_are_padded_with_the_mean_or_a_mask() -> None:
    series = [RNG.normal(5, 1, size=(2, 20 + k % 10)) for k in range(60)]
    preprocessing = fitted(series)
    assert preprocessing.encoder.shape == (2, 29)
    first = preprocessing.inputs(new(series))[0]
    assert not first[:, 20:].any()
    assert first[:, :20].all()
    with_mask = fitted(series, Options(mask=True))
    assert with_mask.encoder.shape == (3, 29)
    mask = with_mask.inputs(new(series))[0, 2]
    assert mask.tolist() == [1.0] * 20 + [0.0] * 9
    warnings = warned(preprocessing, new([np.full((2, 40), 5.0)]))
    assert "40 steps are cut to 29" in warnings
    with pytest.raises(UserError, match=r"expected 2 channels, found 3"):
        preprocessing.inputs(new([np.zeros((3, 20))]))


def test_images_of_unequal_size_are_resized_and_their_scale_checked() -> None:
    shapes = [(20 + k % 3, 24, 3) for k in range(60)]
    images = [RNG.integers(0, 256, shape).astype(np.uint8) for shape in shapes]
    preprocessing = fitted(images, kind_hint="images")
    assert preprocessing.encoder.shape == (3, 22, 22)
    assert preprocessing.inputs(new(images)).shape == (60, 3, 22, 22)
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
    recordings = []
    for k in range(60):
        steps = np.arange(4000 + 10 * k)
        recordings.append(np.sin(steps * (0.1 + 0.2 * (k % 3))).astype(np.float32))
    preprocessing = fitted(recordings, kind_hint="audio", rate=8000.0)
    assert preprocessing.encoder.shape[:2] == (1, 64)
    encoded = preprocessing.inputs(new(recordings[:5], rate=8000.0))
    assert np.isfinite(encoded).all()
    with pytest.raises(
        UserError, match=r"expected the sampling rate 8000 Hz, found 16000 Hz; resample"
    ):
        preprocessing.inputs(new(recordings[:5], rate=16000.0))


def test_new_classes_are_encoded_or_refused() -> None:
    target = fitted(TABLE).target
    assert target.label_names == ("0", "1", "2")
    texts = np.array(["2", None, "0"], dtype=object)
    assert target.encode(texts).tolist() == [2, -1, 0]
    assert target.encode(np.array([2.0, np.nan])).tolist() == [2, -1]
    with pytest.raises(UserError, match=r"unknown class '7'"):
        target.encode(np.array([7]))
    with pytest.raises(UserError, match=r"expected one label a sample"):
        target.encode(np.zeros((2, 2)))


@pytest.mark.parametrize(
    ("change", "expected"),
    [
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


@pytest.mark.parametrize("version", [1, 3, None, "2"])
def test_json_of_another_version_is_refused_with_what_to_do(version: object) -> None:
    content = {**fitted(TABLE).to_json(), "version": version}
    with pytest.raises(UserError, match=r"has version .*: install .* adapt again"):
        Preprocessing.from_json(content)
