"""Columns of tables: dates and amounts in text, missing values, ids, leaks, and advice
that can be typed.
"""

import re
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import typer

from orca_ray.cli.adapt import AdaptOptions
from orca_ray.cli.app import app
from orca_ray.data.rows import Array
from orca_ray.errors import UserError
from orca_ray.own_data import Options, UserData, read
from orca_ray.own_data.dates import parse_dates
from orca_ray.own_data.infer_task import Inferred, Preprocessing, infer
from orca_ray.own_data.tables import Column, TableInputs
from tests.own_data.test_infer_task import SERIES, TABLE, Y

N = 60
RNG = np.random.default_rng(0)
NOISE = RNG.normal(size=N)
DAYS = pd.date_range("2023-01-01", periods=N, freq="11D")


def inferred(
    column: Any, y: Any = Y, options: Options | None = None, **others: Any
) -> Inferred:
    table = pd.DataFrame({"col": column, "noise": NOISE, **others})
    return infer(
        UserData(x=table, y=np.asarray(y), source="my.csv"),
        options,
        warn=lambda _: None,
    )


def table_columns(result: Inferred) -> tuple[Column, ...]:
    encoder = result.preprocessing.encoder
    assert isinstance(encoder, TableInputs)
    return encoder.columns


def encoded(result: Inferred, table: pd.DataFrame) -> dict[str, Array]:
    """Return slot 0 of each column in its own unit, by name and part."""
    encoder = result.preprocessing.encoder
    assert isinstance(encoder, TableInputs)
    x = result.preprocessing.inputs(UserData(x=table), lambda _: None)
    return {
        f"{column.name} {column.part or ''}".strip(): (
            x[:, 0, place] * column.std + column.mean
        )
        for place, column in enumerate(encoder.columns)
    }


def form(result: Inferred) -> str:
    found = [
        each.value
        for each in result.findings
        if each.what == "numbers and dates in text"
    ]
    return found[0] if found else ""


AMOUNTS = np.round(np.linspace(-12, 4321, N), 2)


@pytest.mark.parametrize(
    ("write", "expected"),
    [
        (lambda v: f"{v:.2f}%", "decimal-point"),
        (lambda v: f"${v:,.2f}", "decimal-point"),
        (lambda v: f"({-v:.2f})" if v < 0 else f"{v:,.2f}", "decimal-point"),
        (lambda v: f"CHF {v:,.2f}".replace(",", "’"), "decimal-point"),
        (lambda v: f"{v:,.2f} €".replace(",", " ").replace(".", ","), "decimal-comma"),
        (lambda v: f"{v:,.2f}".translate(str.maketrans(",.", ".,")), "decimal-comma"),
        (
            lambda v: (
                f"{v:,.2f} kr".replace(",", "\u202f")
                .replace(".", ",")
                .replace("-", "−")
            ),
            "decimal-comma",
        ),
    ],
)
def test_numbers_with_units_and_separators(write: Any, expected: str) -> None:
    column = [write(value) for value in AMOUNTS]
    result = inferred(column)
    assert form(result) == f"col {expected}"
    read_again = Preprocessing.from_json(result.preprocessing.to_json())
    assert read_again == result.preprocessing
    np.testing.assert_allclose(
        encoded(result, pd.DataFrame({"col": column, "noise": NOISE}))["col"],
        AMOUNTS,
        atol=0.01,
    )
    np.testing.assert_allclose(
        encoded(result, pd.DataFrame({"col": AMOUNTS, "noise": NOISE}))["col"],
        AMOUNTS,
        atol=0.01,
    )


@pytest.mark.parametrize(
    ("column", "kind"),
    [
        ([f"{k}-{k + 9}" for k in range(N)], "drop"),
        ([f"10.0.0.{k}" for k in range(N)], "drop"),
        ([f"0{k} {k:03} {k:03}" for k in range(N)], "drop"),
        ([f"{k}:30" for k in range(N)], "drop"),
        ([f"{k} 12 24" for k in range(N)], "drop"),
        ([f"{'$€'[k % 2]}{k}" for k in range(N)], "drop"),
        ([["1990", "unknown"][k % 2] for k in range(N)], "category"),
    ],
)
def test_other_text_is_neither_number_nor_date(column: list[str], kind: str) -> None:
    result = inferred(column)
    assert form(result) == ""
    assert any("'col' is left out" in each for each in result.warnings) == (
        kind == "drop"
    )


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("%m/%d/%Y", "month-first"),
        ("%d/%m/%y", "day-first"),
        ("%d.%m.%Y %H:%M", "day-first"),
        ("%m/%d/%Y %I:%M %p", "month-first"),
        ("%d-%b-%Y", "day-first"),
        ("%B %d, %Y", "day-first"),
        ("%Y/%m/%d", ""),
        ("%Y-%m-%dT%H:%M:%SZ", ""),
    ],
)
def test_dates_in_text(pattern: str, expected: str) -> None:
    column = DAYS.strftime(pattern)
    result = inferred(column)
    assert form(result) == f"col {expected}".strip() * bool(expected)
    made = encoded(result, pd.DataFrame({"col": column, "noise": NOISE}))
    assert set(made) == {"noise", "col day", "col month", "col weekday", "col year_day"}
    np.testing.assert_allclose(made["col day"], (DAYS - pd.Timestamp(0)).days, atol=0.1)
    np.testing.assert_allclose(made["col year_day"], DAYS.day_of_year, atol=0.1)
    assert not [each for each in result.warnings if "'col' is" in each]


def test_columns_of_lists_are_left_out() -> None:
    result = inferred([[1.0, 2.0]] * N)
    assert [column.name for column in table_columns(result)] == ["noise"]
    assert "neither numbers nor text" in " ".join(result.warnings)


@pytest.mark.parametrize(
    ("clock", "hour"),
    [
        ("12:30 am", 0),
        ("1:30 AM", 1),
        ("11:30 am", 11),
        ("12:30 pm", 12),
        ("1:30 PM", 13),
        ("11:30pm", 23),
        ("12:30", 12),
        ("0:30", 0),
    ],
)
def test_hours_of_half_days(clock: str, hour: int) -> None:
    (date,) = parse_dates(pd.Series([f"5/31/2024 {clock}"]), "month-first")
    assert date == pd.Timestamp(2024, 5, 31, hour, 30, tz="UTC")


def test_a_doubtful_order_is_said_and_can_be_overridden() -> None:
    cases: Any = (
        (
            [f"0{1 + k % 9}/0{1 + k % 7}/2023" for k in range(N)],
            "month-first",
            "day-first",
        ),
        (
            [f"0{1 + k % 9}.0{1 + k % 7}.2023" for k in range(N)],
            "day-first",
            "month-first",
        ),
        (
            [f"{1 + k % 9},{100 + k} €" for k in range(N)],
            "decimal-point",
            "decimal-comma",
        ),
    )
    for column, taken, other in cases:
        result = inferred(column)
        assert form(result) == f"col {taken}"
        assert (
            f"is read as {taken}; if it is {other}: --columns col={other}"
            in " ".join(result.warnings)
        )
        given = inferred(column, options=Options(columns={"col": other}))
        assert form(given) == f"col {other}"
        assert "is read as" not in " ".join(given.warnings)


def test_times_in_text_are_read_by_their_values() -> None:
    times = DAYS.strftime("%d/%m/%Y").to_numpy(dtype=object)
    parts = infer(UserData(x=SERIES, y=Y, times=times)).splits
    assert parts["train"].tolist() == list(range(len(parts["train"])))
    doubtful = np.array(
        [f"0{1 + k // 12}/0{1 + k % 9}/2023" for k in range(N)], dtype=object
    )
    data = UserData(x=SERIES, y=Y, times=doubtful)
    first, second = (
        infer(data, Options(time="when", columns=c))  # type: ignore[arg-type]
        for c in ({}, {"when": "day-first"})
    )
    assert "if it is day-first: --columns when=day-first" in " ".join(first.warnings)
    assert first.splits["test"].tolist() != second.splits["test"].tolist()
    assert "rows are not in the order of their times: they are sorted" in first.warnings


def test_some_bad_dates_count_as_missing_and_many_are_refused() -> None:
    column = [*DAYS.strftime("%m/%d/%Y")[:-1], "soon"]
    result = inferred(column)
    assert (
        "expected a date such as 5/31/2024, found 'soon'; it counts as missing"
        in " ".join(result.warnings)
    )
    with pytest.raises(
        UserError,
        match="row 1, column 'col': expected a date such as 5/31/2024, found 'soon'",
    ):
        result.preprocessing.inputs(
            UserData(x=pd.DataFrame({"col": ["soon"], "noise": [0.0]}))
        )


def test_a_price_is_a_target() -> None:
    prices = np.array([f"${value:,.2f}" for value in AMOUNTS], dtype=object)
    result = inferred(NOISE**2, prices)
    assert result.task.target.kind == "scalar"
    np.testing.assert_allclose(
        result.preprocessing.target.encode(prices), AMOUNTS, rtol=1e-6
    )
    shares = np.array(["5 %", "10 %"] * 30, dtype=object)
    assert inferred(NOISE**2, shares).preprocessing.target.label_names == (
        "10 %",
        "5 %",
    )


def test_missing_numbers_are_marked() -> None:
    gaps = np.where(np.arange(N) % 7 == 3, np.nan, RNG.normal(size=N))
    same = np.where(np.arange(N) % 2, np.nan, 1.0)
    dates = pd.Series(DAYS).where(np.arange(N) % 5 > 0)
    extreme = np.where(np.arange(N) % 6 == 1, np.inf, RNG.normal(size=N))
    table = pd.DataFrame(
        {"gaps": gaps, "same": same, "dates": dates, "extreme": extreme, "full": NOISE}
    )
    result = infer(UserData(x=table, y=Y), warn=lambda _: None)
    x = result.preprocessing.inputs(UserData(x=table))
    columns = result.preprocessing.encoder.columns  # type: ignore[union-attr]
    for place, column in enumerate(columns):
        marked = column.part in (None, "day") and column.name != "full"
        absent = {"extreme": np.isinf(extreme)}.get(
            column.name, table[column.name].isna()
        )
        np.testing.assert_array_equal(x[:, 1, place], absent if marked else np.zeros(N))
    assert {"gaps", "same", "dates", "extreme"} <= {column.name for column in columns}
    warnings = " ".join(result.warnings)
    assert "and a mark beside it says so: gaps, same, dates, extreme" in warnings
    assert re.search(
        r"column 'extreme': \d+ infinite or too large values count as missing", warnings
    )


def test_labels_keep_their_spaces() -> None:
    labels = np.array(["bus ", "bus", "car"], dtype=object)[Y]
    result = inferred(NOISE**2, labels)
    assert result.preprocessing.target.label_names == ("bus", "bus ", "car")
    assert (
        "labels 'bus ' and 'bus' differ only in case or spaces, and are different"
        " classes" in result.warnings
    )
    assert result.preprocessing.target.encode(labels[:3]).tolist() == [1, 0, 2]


@pytest.mark.parametrize(
    ("column", "y", "expected"),
    [
        (NOISE * 3 + 1, NOISE, "is a one-to-one map of the target"),
        (np.exp(-NOISE), NOISE, "has the order of the target"),
        (np.round(NOISE, 1), NOISE, "has the order of the target"),
        (NOISE, np.round(NOISE, 1), "has the order of the target"),
        (NOISE + RNG.normal(size=N) * 0.1, NOISE, ""),
        (np.sign(NOISE), NOISE, ""),
        (Y * 10 + RNG.uniform(size=N), Y, "separates the classes without an error"),
        (Y + RNG.uniform(size=N) * 1.5, Y, ""),
        (RNG.permutation(1000)[:N] * 1.0, Y, ""),
    ],
)
def test_columns_that_tell_the_target(column: Array, y: Array, expected: str) -> None:
    found = [
        each
        for each in inferred(column, y, noise=RNG.normal(size=N)).warnings
        if "unless it is known" in each
    ]
    assert len(found) == bool(expected)
    assert not found or f"column 'col' {expected}" in found[0]
    assert not found or "leave it out (--columns col=drop)" in found[0]


@pytest.mark.parametrize(
    ("name", "values", "expected"),
    [
        ("customer_id", RNG.permutation(10**6)[:N], "is left out: it numbers the rows"),
        ("PassengerId", np.arange(N) + 7.0, "is left out: it numbers the rows"),
        ("paid", RNG.permutation(10**6)[:N], ""),
        (
            "step",
            np.arange(N)[::-1],
            "its values number the rows; if they say nothing else: --columns step=drop",
        ),
        ("site_id", np.arange(N) // 20, ""),
    ],
)
def test_numbers_that_are_ids(name: str, values: Any, expected: str) -> None:
    more: Any = {name: values}
    result = inferred(NOISE**2, **more)
    found = [each for each in result.warnings if f"column '{name}'" in each]
    assert len(found) == bool(expected)
    assert not found or expected in found[0]
    encoder = result.preprocessing.encoder
    assert isinstance(encoder, TableInputs)
    assert (name in encoder.names) == ("left out" not in expected)


def test_a_feature_of_an_array_that_is_the_target() -> None:
    warnings = " ".join(
        infer(
            UserData(x=np.stack([NOISE * 2, RNG.normal(size=N)], axis=1), y=NOISE)
        ).warnings
    )
    assert (
        "'feature 1' is a one-to-one map of the target: leave it out unless it is known"
        in warnings
    )


def test_targets_that_are_an_id() -> None:
    with pytest.raises(
        UserError,
        match=(
            r"each of the 60 targets is different, .*; name a column of .* with"
            r" --target"
        ),
    ):
        inferred(NOISE, [f"n{k}" for k in range(N)])
    assert "the targets number the samples" in " ".join(
        inferred(NOISE**2, np.arange(N) + 5).warnings
    )


def test_an_id_does_not_hide_copies() -> None:
    copied = np.tile(NOISE[:20], 3)
    result = inferred(copied, noise=copied, id=np.arange(N))
    assert "have the inputs of a sample of another split" in " ".join(result.warnings)


def _parsed(words: list[str]) -> AdaptOptions:
    command: Any = typer.main.get_command(app)
    given = command.commands["adapt"].make_context("adapt", ["data.csv", *words]).params
    return AdaptOptions(
        **{
            name: value
            for name, value in given.items()
            if name in AdaptOptions.__dataclass_fields__
        }
    )


def test_every_advice_can_be_typed(tmp_path: Path) -> None:
    """Each option of a finding is one of the command; what a warning says after ``--``
    is parsed by the command.
    """
    y = np.array([["Cat", "cat", "dog"][k % 3] for k in range(N)], dtype=object)
    more: Any = {
        "a 'b'": [f"n{k}" for k in range(N)],
        "when": DAYS.strftime("%d/%m/%Y"),
        "t": np.arange(N),
    }
    odd = TABLE.assign(**more)
    tables = (TABLE, odd, TABLE.rename(columns={"patient": "patient id"}))
    results = [infer(UserData(x=each, y=y), warn=lambda _: None) for each in tables]
    others: Any = ({}, {"times": np.arange(N)}, {"groups": np.arange(N) // 5})
    results += [infer(UserData(x=SERIES, y=y, **given)) for given in others]
    results += [infer(UserData(x=[SERIES[k, :, : 30 + k % 9] for k in range(N)], y=y))]
    names = {
        name
        for each in results
        for found in each.findings
        for name in found.option.split(", ")
        if name
    }
    assert {"columns", "seed", "target", "axes", "size"} <= names
    for name in names:
        _parsed(
            [
                f"--{name}",
                *{"holdout": [], "no-holdout": [], "mask": []}.get(name, ["1"]),
            ]
        )
    said = " ".join(" ".join(each.warnings) for each in results)
    advice = re.findall(r"--[a-z]+ (?:'(?:[^']|'\"'\"')*'|[^ ;)]+)", said)
    assert any("a '\"'\"'b" in each for each in advice)
    for text in advice:
        assert _parsed(shlex.split(text)).data_options().model_fields_set - {"target"}
    (tmp_path / "t.csv").write_text(
        "\n".join(["a 'b',v,y", *(f"n{k},{k % 7},{'ab'[k % 2]}" for k in range(N))])
    )
    given = _parsed(
        shlex.split(next(each for each in advice if "a '\"" in each))
    ).data_options()
    assert infer(  # type: ignore[union-attr]
        read(tmp_path / "t.csv", given), given
    ).preprocessing.encoder.names == (
        "a 'b'",
        "v",
    )
