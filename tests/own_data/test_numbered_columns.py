"""Series in tables whose columns are numbered steps."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from orca_ray.data.rows import Array
from orca_ray.errors import UserError
from orca_ray.own_data import Options, UserData, read
from orca_ray.own_data.infer_task import infer

X = np.random.default_rng(0).normal(size=(40, 2, 187)).astype(np.float32)
LABEL = np.array(["a", "b"] * 20)


def write(path: Path, columns: dict[str, Any]) -> Path:
    frame = pd.DataFrame(columns)
    if path.suffix == ".parquet":
        frame.to_parquet(path)
    else:
        frame.to_csv(path, index=False)
    return path


def steps(x: Array, name: str = "t{}") -> dict[str, Any]:
    return {name.format(step): x[:, step] for step in range(x.shape[1])}


def values(data: UserData) -> Array:
    assert isinstance(data.x, np.ndarray)
    return data.x


@pytest.mark.parametrize("name", ["t{}", "{}", "lead1_{:03}", "x.{:02}", "t 1 {}"])
@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_one_channel(name: str, suffix: str, tmp_path: Path) -> None:
    columns = {**steps(X[:, 0], name), "label": LABEL}
    path = write(tmp_path / f"data.{suffix}", columns)
    data = read(path, Options(axes="NL"))
    np.testing.assert_allclose(values(data), X[:, 0], rtol=1e-6)
    assert infer(data).task.input_shape == (1, 187)
    # new data without targets, of which all names may be numbers
    new = write(tmp_path / f"new.{suffix}", steps(X[:, 0], name))
    predicted = read(new, Options(axes="NL", target=("label",)), labelled=False)
    np.testing.assert_array_equal(values(predicted), values(data))
    with_axis = read(path, Options(axes="NCL"))
    np.testing.assert_array_equal(values(with_axis)[:, 0], values(data))


def test_two_channels_in_any_order_of_columns(tmp_path: Path) -> None:
    columns = {**steps(X[:, 0], "lead1_{:03}"), **steps(X[:, 1], "lead2_{:03}")}
    names = list(columns)
    shuffled = [names[0], *np.random.default_rng(1).permutation(names[1:])]
    path = write(
        tmp_path / "data.csv",
        {
            "label": LABEL,
            "age": X[:, 0, 0],
            **{name: columns[name] for name in shuffled},
        },
    )
    data = read(path, Options(axes="NCL"))
    np.testing.assert_allclose(values(data), X, rtol=1e-6)
    assert data.notes == ("columns not used beside the steps: age",)
    assert infer(data).task.input_shape == (2, 187)
    one = read(path, Options(axes="NL", inputs=tuple(steps(X[:, 1], "lead2_{:03}"))))
    np.testing.assert_allclose(values(one), X[:, 1], rtol=1e-6)
    with pytest.raises(UserError, match=r"found 2 .lead1_000 … lead1_186.*--axes NCL"):
        read(path, Options(axes="NL"))


def test_missing_values_are_missing_steps(tmp_path: Path) -> None:
    x = X[:, 0].copy()
    x[3, :] = np.nan
    x[:, 5] = np.nan
    path = write(tmp_path / "data.csv", {**steps(x), "label": LABEL})
    np.testing.assert_allclose(values(read(path, Options(axes="NL"))), x, rtol=1e-6)


def test_keys_of_new_rows_are_not_steps(tmp_path: Path) -> None:
    whole = np.arange(40 * 20).reshape(40, 20)  # differ in all rows, as ids do
    path = write(tmp_path / "new.csv", {"id": np.arange(40) + 7, **steps(whole)})
    data = read(path, Options(axes="NL"), labelled=False)
    assert list(data.keys) == ["id"]


@pytest.mark.parametrize(
    ("columns", "axes", "expected"),
    [
        (
            {name: part for name, part in steps(X[:, 0]).items() if name != "t17"},
            "NL",
            "columns t0 … t186 lack step 17: add it",
        ),
        (
            {**steps(X[:, 0], "a{}"), **steps(X[:, 1, :100], "b{}")},
            "NCL",
            "different steps: a0 … a186, b0 … b99",
        ),
        ({**steps(X[:, 0]), "t01": X[:, 0, 0]}, "NL", "'t1' and 't01' are the same"),
        ({"age": X[:, 0, 0], **steps(X[:, 0, :7])}, "NL", "such as t0 … t99, 8 at"),
        (
            {**steps(X[:, 0]), "t9": ["cold"] * 40},
            "NL",
            "column 't9': expected numbers",
        ),
    ],
)
def test_what_is_no_series_is_refused(
    columns: dict[str, Any], axes: str, expected: str, tmp_path: Path
) -> None:
    path = write(tmp_path / "data.csv", {**columns, "label": LABEL})
    with pytest.raises(UserError, match=expected) as caught:
        read(path, Options(axes=axes))
    assert "data.csv" in str(caught.value)


def notes(path: Path, columns: dict[str, Any]) -> str:
    data = read(write(path, {**columns, "label": LABEL}))
    assert data.kind_hint == "table"
    return " ".join(data.notes)


def test_numbered_columns_are_a_table_and_a_note_names_the_option(
    tmp_path: Path,
) -> None:
    path = tmp_path / "data.csv"
    assert notes(path, steps(X[:, 0, :10], "x{}")) == ""
    assert "t0 … t186 are read as features" in notes(path, steps(X[:, 0]))
    assert notes(path, steps(X[:, 0])).endswith("use --axes NL")
    both = {**steps(X[:, 0], "a{}"), **steps(X[:, 1], "b{}")}
    assert notes(path, both).endswith("use --axes NCL")
    with_gap = {name: part for name, part in both.items() if name != "a5"}
    assert notes(path, with_gap) == ""
    assert notes(path, {**steps(X[:, 0]), "t9": ["cold"] * 40}) == ""
    mostly_others = {f"x{'y' * place}": X[:, 0, 0] for place in range(200)}
    assert notes(path, {**mostly_others, **steps(X[:, 0])}) == ""


def test_a_first_row_of_numbers_that_are_no_steps_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "data.csv"
    for header in ("0.5,1.5,2.5", "0,1,2", "5,4,3,2,1,0,7,8,9"):
        path.write_text(f"{header}\n{header}\n")
        with pytest.raises(UserError, match="expected the columns' names in line 1"):
            read(path, Options(axes="NL"), labelled=False)
