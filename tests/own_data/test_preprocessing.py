"""New data are encoded as training data were, and are checked."""

from typing import Any

import numpy as np
import pandas as pd
import pytest

from orca_ray.errors import UserError
from orca_ray.own_data import Options, UserData
from orca_ray.own_data.infer_task import Preprocessing, infer

RNG = np.random.default_rng(0)
Y = np.arange(60) % 3
TABLE = pd.DataFrame(
    {
        "age": np.where(np.arange(60) % 9 == 0, np.nan, RNG.normal(50, 10, 60)),
        "city": [None if k == 5 else ["Bern", "Rom"][k % 2] for k in range(60)],
        "when": pd.date_range("2024-01-01", periods=60).strftime("%Y-%m-%d"),
    }
)


def fitted(x: Any, options: Options | None = None, **given: Any) -> Preprocessing:
    kind = given.pop("kind_hint", "table" if isinstance(x, pd.DataFrame) else "array")
    return infer(UserData(x=x, y=Y[: len(x)], kind_hint=kind, source="train", **given), options).preprocessing


def new(x: Any, **given: Any) -> UserData:
    return UserData(x=x, source="new", kind_hint="table" if isinstance(x, pd.DataFrame) else "array", **given)


def warned(preprocessing: Preprocessing, data: UserData) -> str:
    told: list[str] = []
    preprocessing.inputs(data, told.append)
    return " | ".join(told)


def test_a_table_is_encoded_by_name() -> None:
    preprocessing = fitted(TABLE)
    x = preprocessing.inputs(new(TABLE))
    assert x.shape == (60, *preprocessing.input_shape)
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
        (lambda t: t.rename(columns={"city": "City"}), "column 'city' is missing; is it 'City'?"),
        (lambda t: t.assign(age="old"), "new, row 1, column 'age': expected a number, found 'old'"),
        (lambda t: t.assign(when="soon"), "new, row 1, column 'when': expected a date"),
    ],
)
def test_other_tables_are_refused(change: Any, expected: str) -> None:
    with pytest.raises(UserError, match=expected.replace("?", r"\?")):
        fitted(TABLE).inputs(new(change(TABLE)))


def test_suspicious_tables_are_reported() -> None:
    preprocessing = fitted(TABLE)
    assert warned(preprocessing, new(TABLE)) == ""
    assert "values around 5" in warned(preprocessing, new(TABLE.assign(age=TABLE["age"] * 1000)))
    assert "categories without a slot count as missing: Oslo" in warned(preprocessing, new(TABLE.assign(city="Oslo")))
    one = TABLE.assign(age=[*TABLE["age"].iloc[:-1].astype(object), "old"])
    assert "row 60, column 'age': expected a number, found 'old'; text counts as missing" in warned(
        preprocessing, new(one)
    )


def test_arrays_are_ordered_standardised_and_checked() -> None:
    x = RNG.normal(size=(60, 50, 4)) * [1, 10, 1, 5] + 3
    preprocessing = fitted(x)
    made = preprocessing.inputs(new(x))
    assert made.shape == (60, 4, 50)
    np.testing.assert_allclose(made.std(axis=(0, 2)), 1, atol=0.1)
    with pytest.raises(
        UserError, match=r"new, row 1: expected shape \[50, 4\] \(axes LC\), found \[4, 50\]; the order"
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
    assert preprocessing.input_shape == (2, 29)
    made = preprocessing.inputs(new(x))
    assert not made[0, :, 20:].any()
    assert made[0, :, :20].all()
    masked = fitted(x, Options(mask=True))
    assert masked.input_shape == (3, 29)
    made = masked.inputs(new(x))
    assert made[0, 2].tolist() == [1.0] * 20 + [0.0] * 9
    assert "40 steps are cut to 29" in warned(preprocessing, new([np.full((2, 40), 5.0)]))
    with pytest.raises(UserError, match=r"expected 2 channels, found 3"):
        preprocessing.inputs(new([np.zeros((3, 20))]))


def test_images_of_unequal_size_are_resized_and_their_scale_checked() -> None:
    x = [RNG.integers(0, 256, size=(20 + k % 3, 24, 3)).astype(np.uint8) for k in range(60)]
    preprocessing = fitted(x, kind_hint="images")
    assert preprocessing.input_shape == (3, 22, 22)
    assert preprocessing.inputs(new(x)).shape == (60, 3, 22, 22)
    assert preprocessing.reading.colour == "rgb"
    with pytest.raises(UserError, match=r"values up to 1, in training up to .*; multiply by 255"):
        preprocessing.inputs(new([np.ones((20, 20, 3), np.float32)]))
    with pytest.raises(UserError, match=r"expected numbers with axes HWC, found uint8 of shape"):
        preprocessing.inputs(new([np.ones((20, 20), np.uint8)]))


def test_recordings_need_their_rate() -> None:
    x = [np.sin(np.arange(4000 + 10 * k) * (0.1 + 0.2 * (k % 3))).astype(np.float32) for k in range(60)]
    preprocessing = fitted(x, kind_hint="audio", rate=8000.0)
    assert preprocessing.input_shape[:2] == (1, 64)
    made = preprocessing.inputs(new(x[:5], rate=8000.0))
    assert np.isfinite(made).all()
    with pytest.raises(UserError, match=r"expected the sampling rate 8000 Hz, found 16000 Hz; resample"):
        preprocessing.inputs(new(x[:5], rate=16000.0))


def test_targets_and_back() -> None:
    preprocessing = fitted(TABLE)
    assert preprocessing.label_names == ("0", "1", "2")
    assert preprocessing.targets(np.array(["2", None, "0"], dtype=object)).tolist() == [2, -1, 0]
    assert preprocessing.targets(np.array([2.0, np.nan])).tolist() == [2, -1]
    with pytest.raises(UserError, match=r"unknown class '7'"):
        preprocessing.targets(np.array([7]))
    with pytest.raises(UserError, match=r"expected one label a sample"):
        preprocessing.targets(np.zeros((2, 2)))


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"version": 2}, "version"),
        ({"encoder": {"form": "picture"}}, "encoder"),
        ({"more": 1}, "more"),
        ({"target": {"kind": "colour"}}, "target.kind"),
    ],
)
def test_bad_json_is_refused_by_field(change: dict[str, Any], expected: str) -> None:
    content = {**fitted(TABLE).to_json(), **change}
    with pytest.raises(UserError, match=f"preprocessing.json: no valid preprocessing of version 1: {expected}"):
        Preprocessing.from_json(content)
