"""What is inferred from own data; bad data give a clear error or a warning."""

import json
from typing import Any

import numpy as np
import pandas as pd
import pytest

from orca_ray.data.rows import Array
from orca_ray.errors import UserError
from orca_ray.own_data import Options, UserData
from orca_ray.own_data.infer_task import Inferred, Preprocessing, infer
from orca_ray.own_data.registration import in_memory

RNG = np.random.default_rng(0)
Y = np.arange(60) % 3
SERIES = RNG.normal(size=(60, 4, 50)) + Y[:, None, None]


def inferred(
    x: Any, y: Any, options: Options | None = None, **properties: Any
) -> Inferred:
    data = UserData(x=x, y=np.asarray(y), source="my.npz", **properties)
    return infer(data, options)


def found(result: Inferred, what: str) -> str:
    """Return the value of the finding about a property."""
    return next(finding.value for finding in result.findings if finding.what == what)


def all_warnings(result: Inferred) -> str:
    return " | ".join(result.warnings)


@pytest.mark.parametrize(
    ("shape", "axes", "input_shape"),
    [
        ((4, 50), "NCL", (4, 50)),
        ((50, 4), "NLC", (4, 50)),
        ((16, 16), "NHW", (1, 16, 16)),
        ((3, 16, 20), "NCHW", (3, 16, 20)),
        ((16, 20, 3), "NHWC", (3, 16, 20)),
        ((50,), "NL", (1, 50)),
    ],
)
def test_axes(shape: tuple[int, ...], axes: str, input_shape: tuple[int, ...]) -> None:
    result = inferred(RNG.normal(size=(60, *shape)), Y)
    assert found(result, "axes") == axes
    assert result.task.input_shape == input_shape
    body = "minilm-l6" if len(input_shape) == 2 else "vit-s14"
    assert result.task.body == f"{body}:layers=4"


@pytest.mark.parametrize(
    ("x", "whole"), [(SERIES, "minilm-l6"), (SERIES[:, None], "vit-s14")]
)
def test_the_default_body_is_whole_on_gpus(x: Any, whole: str) -> None:
    data = UserData(x=x, y=Y)
    cpu = infer(data, gpus=False)
    gpu = infer(data, gpus=True)
    assert cpu.body == f"{whole}:layers=4"
    assert gpu.body == whole
    assert found(gpu, "body") == whole
    assert cpu.findings[-1].why.endswith(
        f"; four layers: trials run on a CPU; --body {whole} takes all"
    )
    assert gpu.findings[-1].why.endswith("; whole body: trials run on a GPU")
    assert cpu.task == gpu.task, "what is registered is the same on all machines"
    chosen = infer(data, Options(body="mpnet-base"), gpus=True)
    assert chosen.body == "mpnet-base"


def test_axes_can_be_overridden() -> None:
    assert inferred(SERIES, Y, Options(axes="NHW")).task.input_shape == (1, 4, 50)


def test_columns_of_different_scales_are_features() -> None:
    columns = inferred(RNG.normal(size=(60, 5)) * [1, 100, 1, 1, 1], Y)
    assert found(columns, "axes") == "NF"
    assert columns.task.domain == "tabular"


@pytest.mark.parametrize(
    ("y", "kind", "size", "loss", "metric"),
    [
        (Y, "classes", 3, "cross_entropy", "error"),
        (np.array(["a", "b", "c"])[Y], "classes", 3, "cross_entropy", "error"),
        (Y == 1, "classes", 2, "cross_entropy", "error"),
        (np.arange(60) % 12 == 0, "classes", 2, "cross_entropy", "one_minus_auroc"),
        (np.eye(3)[Y], "classes", 3, "cross_entropy", "error"),
        (
            np.stack([Y == 1, Y < 2], axis=1).astype(float),
            "labels",
            2,
            "bce",
            "one_minus_auroc",
        ),
        (RNG.normal(size=60), "scalar", 1, "mse", "rmse"),
        (np.arange(60), "scalar", 1, "mse", "rmse"),
        (RNG.normal(size=(60, 2)), "dense", 1, "relative_l2", "relative_l2"),
        (np.zeros((60, 50)) + (Y == 1)[:, None], "dense", 1, "rmse", "rmse"),
    ],
)
def test_targets(y: Any, kind: str, size: int, loss: str, metric: str) -> None:
    task = inferred(SERIES, y).task
    assert (task.target.kind, task.target.size) == (kind, size)
    assert (task.loss, task.metric) == (loss, metric)


@pytest.mark.parametrize(
    ("y", "kind", "size"),
    [
        (Y, "scalar", 1),
        (np.arange(60) // 6, "classes", 10),
        (np.eye(3)[Y], "labels", 3),
    ],
)
def test_the_kind_can_be_overridden(y: Any, kind: Any, size: int) -> None:
    target = inferred(SERIES, y, Options(kind=kind)).task.target
    assert (target.kind, target.size) == (kind, size)


def test_channels_last_fields_are_put_first_and_back() -> None:
    y = RNG.normal(size=(60, 16, 18, 2))
    result = inferred(RNG.normal(size=(60, 16, 18, 3)), y)
    coding = result.preprocessing.target
    assert result.task.target.shape == (2, 16, 18)
    np.testing.assert_array_equal(coding.decode(coding.encode(y)), y.astype(np.float32))


NHWC = Options(axes="NHWC")
TSET = np.array(["train"] * 40 + ["tset"] * 20)
DECLARED = np.array(["train"] * 40 + ["test"] * 20)


@pytest.mark.parametrize(
    ("x", "y", "properties", "expected"),
    [
        (
            SERIES,
            np.zeros(60, int),
            {},
            "every target is '0'; two classes or more are needed",
        ),
        (
            SERIES,
            np.full(60, 1.5),
            {},
            "every target is 1.5; there is nothing to learn",
        ),
        (SERIES[:6], Y[:6], {}, "expected at least 10 samples with a target, found 6"),
        (
            SERIES[:9],
            np.repeat(list("abcd"), [1, 1, 1, 6]),
            {},
            "two classes of 3 samples or more are needed, found d",
        ),
        (
            SERIES,
            np.array([1, "1"] * 30, dtype=object),
            {},
            "labels 1 and '1' \\(row 2\\) are written alike",
        ),
        (
            SERIES,
            np.array([f"n{max(k, 2)}" for k in range(60)]),
            {},
            "two classes of 3 samples or more are needed",
        ),
        (
            SERIES,
            np.full(60, np.datetime64("2024-01-01")),
            {},
            "the target holds dates",
        ),
        (
            [np.zeros((2, 5))] * 30 + [np.zeros(5)] * 30,
            Y,
            {},
            "samples have different numbers of axes",
        ),
        (
            [np.zeros((2, 5, 6))] * 30 + [np.zeros((3, 5, 6))] * 30,
            Y,
            {},
            "samples have 2 to 3 channels",
        ),
        (np.zeros(60), Y, {}, "give features as \\[N, F\\]"),
        (
            SERIES,
            Y,
            {"options": NHWC},
            "axes NHWC do not fit samples of shape \\[4, 50\\]; allowed: NCL, NLC, NHW",
        ),
        (np.zeros((60, 2, 3, 4, 5)), Y, {}, "samples of 4 axes"),
        (
            SERIES,
            Y,
            {"options": Options(kind="dense")},
            "a target of kind dense does not have shape",
        ),
        (
            SERIES,
            Y,
            {"options": Options(metric="eror")},
            "unknown metric 'eror'. Did you mean 'error'",
        ),
        (
            SERIES,
            np.where(Y == 1, np.nan, 1.5),
            {"options": Options(kind="scalar")},
            "there is nothing to learn",
        ),
        (
            SERIES,
            Y,
            {"options": Options(holdout=True), "groups": Y % 2},
            "needs 3 groups or more, found 2: 0, 1",
        ),
        (
            SERIES,
            Y,
            {"times": np.array(["soon"] * 60)},
            "row 1: expected a number or a date as time, found 'soon'",
        ),
        (
            SERIES,
            Y,
            {"times": np.zeros(60)},
            "needs different times, found 1 different times in 60 samples",
        ),
        (
            SERIES,
            Y,
            {"splits": TSET},
            "row 41: expected a split train, validation or test, found 'tset'",
        ),
    ],
)
def test_data_that_nothing_can_be_learnt_from(
    x: Any, y: Any, properties: dict[str, Any], expected: str
) -> None:
    with pytest.raises(UserError, match=expected):
        inferred(x, y, **properties)


def test_numbers_with_extremes_at_the_beginning_are_not_constant() -> None:
    for y in (-np.arange(60.0), np.arange(60.0)):
        assert found(inferred(SERIES, y), "target") == "one number"


def test_without_test_all_samples_are_used_and_single_ones_are_in_train() -> None:
    names = np.array(["single", *["a", "b"] * 29, "a"])
    result = infer(UserData(x=SERIES, y=names), test=False)
    assert set(result.splits) == {"train", "validation"}
    train = result.splits["train"]
    validation = result.splits["validation"]
    assert sorted([*train, *validation]) == list(range(60))
    assert 0 in train
    assert result.task.num_samples == (len(train), len(validation), 0)
    assert result.preprocessing.target.label_names == ("a", "b", "single")


def test_warnings_where_training_can_go_on() -> None:
    y = np.array([["Cat", "cat", "dog"][k % 3] for k in range(60)], dtype=object)
    y[:2] = "rare"
    y[7] = None
    x = SERIES.copy()
    x[:, 2] = 5
    x[3, 0, 4] = np.inf
    warnings = all_warnings(inferred(x, y))
    for expected in (
        (
            "classes with fewer than 3 samples cannot be in every split, and are left"
            " out: rare"
        ),
        "labels 'Cat' and 'cat' differ only in case or spaces",
        (
            "3 samples are left out, as they have no usable target; the first is"
            " my.npz, row 1"
        ),
        "1 of 4 channels are constant or empty in train: 3",
        "1 samples have missing or infinite values",
        "57 samples are few",
    ):
        assert expected in warnings, expected


def test_every_class_is_in_every_split_and_parts_are_disjoint() -> None:
    y = np.repeat(np.arange(4), [3, 10, 40, 7])
    splits = inferred(SERIES, y).splits
    rows = np.concatenate(list(splits.values()))
    assert sorted(rows.tolist()) == list(range(60))
    for split_rows in splits.values():
        assert set(y[split_rows]) == {0, 1, 2, 3}


def test_the_seed_decides_the_split() -> None:
    y = np.repeat(np.arange(4), [3, 10, 40, 7])

    def draw(options: Options | None = None) -> dict[str, list[int]]:
        splits = inferred(SERIES, y, options).splits
        return {name: rows.tolist() for name, rows in splits.items()}

    assert draw() == draw()
    assert draw() != draw(Options(seed=1))


def test_groups_stay_together() -> None:
    groups = np.array([f"p{k // 5}" for k in range(60)])
    splits = inferred(SERIES, Y, groups=groups).splits
    num_groups = [len(set(groups[rows])) for rows in splits.values()]
    assert sum(num_groups) == len(set(groups)) == 12
    for rows in splits.values():
        assert set(Y[rows]) == {0, 1, 2}


def test_the_latest_samples_are_test() -> None:
    times = np.repeat(np.arange(20)[::-1], 3)
    splits = inferred(SERIES, Y, times=times).splits
    assert times[splits["train"]].max() < times[splits["validation"]].min()
    assert times[splits["validation"]].max() < times[splits["test"]].min()
    dates = np.array([f"2024-01-{1 + k // 3:02}" for k in range(60)])
    splits = inferred(SERIES, Y, times=dates).splits
    assert min(dates[splits["test"]].tolist()) > "2024-01-16"


def test_declared_splits_without_validation() -> None:
    result = inferred(SERIES, Y, splits=DECLARED)
    assert "the data declare no validation split" in all_warnings(result)
    assert set(result.splits["test"].tolist()) == set(range(40, 60))


def test_classes_that_train_lacks_are_left_out() -> None:
    y = np.where(np.arange(60) >= 55, 9, Y)
    result = inferred(SERIES, y, splits=DECLARED)
    expected = "train has no sample of class 9: such samples are left out"
    assert expected in all_warnings(result)
    assert result.task.target.size == 3
    assert result.splits["test"].tolist() == list(range(40, 55))


def test_classes_that_test_lacks_are_reported() -> None:
    y = np.where((np.arange(60) < 40) & (Y == 2), 9, Y)
    result = inferred(SERIES, y, splits=DECLARED)
    assert "test has no sample of class 9" in all_warnings(result)


NUMBERS = np.arange(60)
TABLE = pd.DataFrame(
    {
        "id": NUMBERS,
        "age": np.where(NUMBERS % 9 == 0, np.nan, RNG.normal(50, 10, 60)),
        "city": RNG.choice(["Bern", "Rom"], 60),
        "name": [f"n{k}" for k in NUMBERS],
        "constant": 1.0,
        "mixed": np.where(NUMBERS % 20 == 0, "x", (NUMBERS % 7).astype(str)),
        "both": np.where(NUMBERS % 2 == 1, "a", (NUMBERS % 7).astype(str)),
        "when": pd.date_range("2024-01-01", periods=60),
        "patient": NUMBERS // 3,
        "code": np.array(["u", "v", "w"])[Y],
    }
)


def test_columns_and_their_warnings() -> None:
    result = inferred(TABLE, Y)
    warnings = all_warnings(result)
    for expected in (
        "column 'id' is left out: it numbers the rows",
        "column 'name' is left out: 60 of its 60 values are different",
        "column 'constant' is left out: it has one value",
        (
            "column 'mixed': 3 of 60 values are text, such as 'x' in row 1; they count"
            " as missing"
        ),
        (
            "column 'both': numbers and text are mixed (30 of 60 are text): each value"
            " counts as a category"
        ),
        "missing numbers become the median of train, and a mark beside it says so: age",
        "of the 20 values of 'patient' are in several splits",
        "column 'code' is a one-to-one map of the target",
        "column 'when' holds dates and the split is not by time",
    ):
        assert expected in warnings, expected
    assert found(result, "columns") == "3 of numbers, 3 of categories, 1 of dates"


def test_options_keep_and_drop_columns() -> None:
    options = Options(
        columns={"name": "category", "age": "drop", "code": "drop", "id": "number"}
    )
    result = inferred(TABLE, Y, options)
    assert found(result, "columns") == "3 of numbers, 3 of categories, 1 of dates"
    assert "'code'" not in all_warnings(result)
    assert "'id'" not in all_warnings(result)


def test_equal_samples_in_several_splits() -> None:
    copied = SERIES.copy()
    copied[30:] = copied[:30]
    table = pd.DataFrame({"a": NUMBERS % 20, "b": [f"v{k % 20}" for k in NUMBERS]})
    expected = "have the inputs of a sample of another split, such as row"
    assert expected in all_warnings(inferred(copied, Y))
    assert expected in all_warnings(inferred(table, Y))
    assert "have the inputs" not in all_warnings(inferred(SERIES, Y))


def _near_copies(x: Array) -> list[str]:
    """Return the warnings about near copies in samples [N, 8, 8] of three classes."""
    result = infer(UserData(x=x, y=np.arange(len(x)) % 3), warn=lambda _: None)
    return [text for text in result.warnings if "nearly equal" in text]


def _draw_curve(count: int) -> Array:
    """Return samples on a curve, whose neighbours are near."""
    angles = RNG.uniform(0, 6, (count, 1, 1))
    return np.sin(angles + np.arange(64).reshape(8, 8) / 9)


def test_near_copies_in_several_splits_are_named() -> None:
    originals = RNG.normal(size=(120, 8, 8))
    copies = np.concatenate([originals] * 4)
    copies += 0.01 * RNG.normal(size=copies.shape)
    (warning,) = _near_copies(copies)
    assert "100% of the samples of validation and test are nearly equal" in warning
    few_copies = RNG.normal(size=(480, 8, 8))
    few_copies[400:] = few_copies[:80] + 0.01 * RNG.normal(size=(80, 8, 8))
    (warning,) = _near_copies(few_copies)
    assert "--group" in warning


@pytest.mark.parametrize(
    "x",
    [
        RNG.normal(size=(480, 8, 8)),
        RNG.normal(size=(480, 8, 2)) @ RNG.normal(size=(2, 8)),
        RNG.uniform(size=(480, 1, 1)) * np.arange(64).reshape(8, 8),
        _draw_curve(480),
        RNG.normal(size=(480, 8, 8)).cumsum(axis=2).cumsum(axis=1),
    ],
    ids=["noise", "some dimensions", "one dimension", "curve", "smooth"],
)
def test_neighbours_by_chance_are_no_copies(x: Array) -> None:
    assert _near_copies(x) == []


def test_the_name_follows_content_and_options() -> None:
    def name_of(x: Any, y: Any, **options: Any) -> str:
        return inferred(x, y, Options(**options)).task.name

    name = name_of(SERIES, Y)
    assert name == name_of(SERIES.copy(), Y.copy())
    assert name == name_of(SERIES, Y, title="x")
    changed = SERIES.copy()
    changed[0, 0, 0] += 1
    assert len({name, name_of(changed, Y), name_of(SERIES, 1 - Y)}) == 3
    assert name_of(SERIES, Y, seed=3) != name
    assert name_of(SERIES, Y, name="My data!").startswith("own/my_data-")
    table = pd.DataFrame({"a": np.arange(60.0) ** 2, "b": Y})
    number_first = name_of(table, Y, columns={"a": "number", "b": "category"})
    category_first = name_of(table, Y, columns={"b": "category", "a": "number"})
    assert number_first == category_first


@pytest.mark.filterwarnings("error")
def test_columns_of_every_type_of_pandas_survive_json() -> None:
    table = pd.DataFrame(
        {
            "truth": pd.Series([True, False, None] * 20, dtype=object),
            "boolean": pd.array([True, False, None] * 20, dtype="boolean"),
            "Int64": pd.array([1, None, 3] * 20, dtype="Int64"),
            "category": pd.Categorical(RNG.choice(["a", "b"], 60)),
            "string": pd.Series(
                RNG.choice(['p"\\\0', "ü\n🙂", " ", "nan"], 60), dtype="string"
            ),
            "zone": pd.date_range("2024-01-01", periods=60, tz="Europe/Zurich"),
            "far": ["0001-01-01", "9999-12-31"] * 30,
            "time": pd.to_timedelta(np.arange(60), unit="h"),
            "huge": RNG.normal(size=60) * 1e38,
        }
    )
    preprocessing = inferred(table, Y).preprocessing
    names = {"category": set[str](), "date": set[str](), "number": set[str]()}
    for column in preprocessing.encoder.columns:  # type: ignore[union-attr]
        names[column.kind].add(column.name)
    # pandas 2 cannot represent dates of the years 1 and 9999.
    has_far_dates = int(pd.__version__.split(".")[0]) >= 3
    far_dates = {"far"} if has_far_dates else set[str]()
    assert names["date"] == {"zone", *far_dates}
    assert names["category"] == {"category", "string", "far"} - far_dates
    assert set().union(*names.values()) == set(table.columns)
    x = preprocessing.inputs(UserData(x=table))
    assert np.isfinite(x).all()
    assert np.abs(x).max() < 20
    stored = json.loads(json.dumps(preprocessing.to_json()))
    loaded = Preprocessing.from_json(stored)
    assert loaded == preprocessing
    np.testing.assert_array_equal(loaded.inputs(UserData(x=table)), x)


@pytest.mark.filterwarnings("error")
def test_too_large_numbers_count_as_missing() -> None:
    large = SERIES.copy()
    large[0, 0, 0] = 1e300
    large[1, 0, 0] = -1e38
    x = inferred(large, Y).preprocessing.inputs(UserData(x=large))
    assert x[0, 0, 0] == 0
    assert np.isfinite(x).all()


@pytest.mark.parametrize("scales", [1.0, [1.0, 100.0, 1.0, 1.0, 0.01, 1.0]])
def test_several_numbers_of_features_are_a_table_with_a_scale_for_each(
    scales: Any,
) -> None:
    x = RNG.normal(size=(60, 6)) * scales
    y = x[:, :3] * [1, 10, 1000]
    result = inferred(x, y)
    assert result.task.domain == "tabular"
    assert result.task.target.shape == (3,)
    assert result.task.metric == "rmse"
    prepared = in_memory(result, UserData(x=x, y=y))
    assert prepared.y_std is not None
    train_y = prepared.train.y[:]
    np.testing.assert_allclose(prepared.y_std, train_y.std(axis=0), rtol=1e-5)
    assert inferred(x, y, Options(axes="NL")).task.domain == "field"
    assert inferred(x, np.roll(x, 1)).task.domain == "field"
