"""Columns of tables: dates and amounts in text, missing values, ids and leaks.

Advice in messages can be typed.
"""

import re
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import typer
from sklearn.feature_extraction.text import TfidfVectorizer

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
    column: Any, y: Any = Y, options: Options | None = None, **more_columns: Any
) -> Inferred:
    table = pd.DataFrame({"col": column, "noise": NOISE, **more_columns})
    data = UserData(x=table, y=np.asarray(y), source="my.csv")
    return infer(data, options, warn=lambda _: None)


def with_noise(column: Any) -> pd.DataFrame:
    return pd.DataFrame({"col": column, "noise": NOISE})


def all_warnings(result: Inferred) -> str:
    return " ".join(result.warnings)


def table_columns(result: Inferred) -> tuple[Column, ...]:
    encoder = result.preprocessing.encoder
    assert isinstance(encoder, TableInputs)
    return encoder.columns


def encoded(result: Inferred, table: pd.DataFrame) -> dict[str, Array]:
    """Return slot 0 of each column in its own unit, by name and part."""
    x = result.preprocessing.inputs(UserData(x=table), lambda _: None)
    values = {}
    for place, column in enumerate(table_columns(result)):
        name = f"{column.name} {column.part or ''}".strip()
        values[name] = x[:, 0, place] * column.std + column.mean
    return values


def form(result: Inferred) -> str:
    """Return the finding about numbers and dates in text; "": there is none."""
    for finding in result.findings:
        if finding.what == "numbers and dates in text":
            return finding.value
    return ""


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
    from_text = encoded(result, with_noise(column))["col"]
    np.testing.assert_allclose(from_text, AMOUNTS, atol=0.01)
    from_numbers = encoded(result, with_noise(AMOUNTS))["col"]
    np.testing.assert_allclose(from_numbers, AMOUNTS, atol=0.01)


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
    is_dropped = "'col' is left out" in all_warnings(result)
    assert is_dropped == (kind == "drop")


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("%m/%d/%Y", "col month-first"),
        ("%d/%m/%y", "col day-first"),
        ("%d.%m.%Y %H:%M", "col day-first"),
        ("%m/%d/%Y %I:%M %p", "col month-first"),
        ("%d-%b-%Y", "col day-first"),
        ("%B %d, %Y", "col day-first"),
        ("%Y/%m/%d", ""),
        ("%Y-%m-%dT%H:%M:%SZ", ""),
    ],
)
def test_dates_in_text(pattern: str, expected: str) -> None:
    column = DAYS.strftime(pattern)
    result = inferred(column)
    assert form(result) == expected
    values = encoded(result, with_noise(column))
    assert set(values) == {
        "noise",
        "col day",
        "col month",
        "col weekday",
        "col year_day",
    }
    days = (DAYS - pd.Timestamp(0)).days
    np.testing.assert_allclose(values["col day"], days, atol=0.1)
    np.testing.assert_allclose(values["col year_day"], DAYS.day_of_year, atol=0.1)
    assert "'col' is" not in all_warnings(result)


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


@pytest.mark.parametrize(
    ("column", "likely", "other"),
    [
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
    ],
)
def test_a_doubtful_order_is_said_and_can_be_overridden(
    column: list[str], likely: str, other: Any
) -> None:
    result = inferred(column)
    assert form(result) == f"col {likely}"
    advice = f"is read as {likely}; if it is {other}: --columns col={other}"
    assert advice in all_warnings(result)
    overridden = inferred(column, options=Options(columns={"col": other}))
    assert form(overridden) == f"col {other}"
    assert "is read as" not in all_warnings(overridden)


def test_times_in_text_are_read_by_their_values() -> None:
    times = DAYS.strftime("%d/%m/%Y").to_numpy(dtype=object)
    train = infer(UserData(x=SERIES, y=Y, times=times)).splits["train"]
    assert train.tolist() == list(range(len(train)))


def test_the_order_of_times_in_text_can_be_overridden() -> None:
    texts = [f"0{1 + k // 12}/0{1 + k % 9}/2023" for k in range(N)]
    data = UserData(x=SERIES, y=Y, times=np.array(texts, dtype=object))
    likely = infer(data, Options(time="when"))
    overridden = infer(data, Options(time="when", columns={"when": "day-first"}))
    assert "if it is day-first: --columns when=day-first" in all_warnings(likely)
    assert likely.splits["test"].tolist() != overridden.splits["test"].tolist()
    expected = "rows are not in the order of their times: they are sorted"
    assert expected in likely.warnings


def test_some_bad_dates_count_as_missing_and_many_are_refused() -> None:
    column = [*DAYS.strftime("%m/%d/%Y")[:-1], "soon"]
    result = inferred(column)
    problem = "expected a date such as 5/31/2024, found 'soon'"
    assert f"{problem}; it counts as missing" in all_warnings(result)
    table = pd.DataFrame({"col": ["soon"], "noise": [0.0]})
    with pytest.raises(UserError, match=f"row 1, column 'col': {problem}"):
        result.preprocessing.inputs(UserData(x=table))


def test_a_price_is_a_target() -> None:
    prices = np.array([f"${value:,.2f}" for value in AMOUNTS], dtype=object)
    result = inferred(NOISE**2, prices)
    assert result.task.target.kind == "scalar"
    y = result.preprocessing.target.encode(prices)
    np.testing.assert_allclose(y, AMOUNTS, rtol=1e-6)


def test_few_different_amounts_are_classes() -> None:
    shares = np.array(["5 %", "10 %"] * 30, dtype=object)
    target = inferred(NOISE**2, shares).preprocessing.target
    assert target.label_names == ("10 %", "5 %")


def test_missing_numbers_are_marked() -> None:
    numbers = np.arange(N)
    is_extreme = numbers % 6 == 1
    table = pd.DataFrame(
        {
            "gaps": np.where(numbers % 7 == 3, np.nan, RNG.normal(size=N)),
            "same": np.where(numbers % 2, np.nan, 1.0),
            "dates": pd.Series(DAYS).where(numbers % 5 > 0),
            "extreme": np.where(is_extreme, np.inf, RNG.normal(size=N)),
            "full": NOISE,
        }
    )
    result = infer(UserData(x=table, y=Y), warn=lambda _: None)
    x = result.preprocessing.inputs(UserData(x=table))
    columns = table_columns(result)
    for place, column in enumerate(columns):
        marks = x[:, 1, place]
        if column.name == "extreme":
            np.testing.assert_array_equal(marks, is_extreme)
        elif column.part in (None, "day"):
            np.testing.assert_array_equal(marks, table[column.name].isna())
        else:
            assert not marks.any()
    assert {"gaps", "same", "dates", "extreme"} <= {column.name for column in columns}
    warnings = all_warnings(result)
    assert "and a mark beside it says so: gaps, same, dates, extreme" in warnings
    assert re.search(
        r"column 'extreme': \d+ infinite or too large values count as missing", warnings
    )


def test_labels_keep_their_spaces() -> None:
    labels = np.array(["bus ", "bus", "car"], dtype=object)[Y]
    result = inferred(NOISE**2, labels)
    target = result.preprocessing.target
    assert target.label_names == ("bus", "bus ", "car")
    expected = (
        "labels 'bus ' and 'bus' differ only in case or spaces, and are different"
        " classes"
    )
    assert expected in result.warnings
    assert target.encode(labels[:3]).tolist() == [1, 0, 2]


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
    result = inferred(column, y, noise=RNG.normal(size=N))
    leaks = [text for text in result.warnings if "unless it is known" in text]
    if not expected:
        assert leaks == []
        return
    (leak,) = leaks
    assert f"column 'col' {expected}" in leak
    assert "leave it out (--columns col=drop)" in leak


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
    more_columns: Any = {name: values}
    result = inferred(NOISE**2, **more_columns)
    warnings = [text for text in result.warnings if f"column '{name}'" in text]
    if expected:
        assert len(warnings) == 1
        assert expected in warnings[0]
    else:
        assert warnings == []
    names = [column.name for column in table_columns(result)]
    assert (name in names) == ("left out" not in expected)


def test_a_feature_of_an_array_that_is_the_target() -> None:
    x = np.stack([NOISE * 2, RNG.normal(size=N)], axis=1)
    expected = (
        "'feature 1' is a one-to-one map of the target: leave it out unless it is known"
    )
    assert expected in all_warnings(infer(UserData(x=x, y=NOISE)))


def test_targets_that_are_an_id() -> None:
    with pytest.raises(
        UserError,
        match=(
            r"each of the 60 targets is different, .*; name a column of .* with"
            r" --target"
        ),
    ):
        inferred(NOISE, [f"n{k}" for k in range(N)])
    result = inferred(NOISE**2, np.arange(N) + 5)
    assert "the targets number the samples" in all_warnings(result)


def test_an_id_does_not_hide_copies() -> None:
    copied = np.tile(NOISE[:20], 3)
    result = inferred(copied, noise=copied, id=np.arange(N))
    expected = "have the inputs of a sample of another split"
    assert expected in all_warnings(result)


def _parsed(words: list[str]) -> AdaptOptions:
    """Return the options that the command ``adapt`` reads from these words."""
    command: Any = typer.main.get_command(app)
    context = command.commands["adapt"].make_context("adapt", ["data.csv", *words])
    fields = {
        name: value
        for name, value in context.params.items()
        if name in AdaptOptions.__dataclass_fields__
    }
    return AdaptOptions(**fields)


def _many_results() -> list[Inferred]:
    """Return what is inferred of data that give as much advice as possible."""
    labels = ["Cat", "cat", "dog"]
    y = np.array([labels[k % 3] for k in range(N)], dtype=object)
    more_columns: Any = {
        "a 'b'": [f"n{k}" for k in range(N)],
        "when": DAYS.strftime("%d/%m/%Y"),
        "t": np.arange(N),
    }
    unequal = [SERIES[k, :, : 30 + k % 9] for k in range(N)]
    all_data = [
        UserData(x=TABLE, y=y),
        UserData(x=TABLE.assign(**more_columns), y=y),
        UserData(x=TABLE.rename(columns={"patient": "patient id"}), y=y),
        UserData(x=SERIES, y=y),
        UserData(x=SERIES, y=y, times=np.arange(N)),
        UserData(x=SERIES, y=y, groups=np.arange(N) // 5),
        UserData(x=unequal, y=y),
    ]
    return [infer(data, warn=lambda _: None) for data in all_data]


def test_options_of_findings_are_those_of_the_command() -> None:
    names = set()
    for result in _many_results():
        for finding in result.findings:
            names |= set(finding.option.split(", "))
    names -= {""}
    assert {"columns", "seed", "target", "axes", "size"} <= names
    for name in names:
        is_flag = name in ("holdout", "no-holdout", "mask")
        _parsed([f"--{name}"] if is_flag else [f"--{name}", "1"])


def test_every_advice_can_be_typed(tmp_path: Path) -> None:
    """The command parses what a warning says after ``--``."""
    warnings = " ".join(all_warnings(result) for result in _many_results())
    advice = re.findall(r"--[a-z]+ (?:'(?:[^']|'\"'\"')*'|[^ ;)]+)", warnings)
    for text in advice:
        options = _parsed(shlex.split(text)).data_options()
        assert options.model_fields_set - {"target"}
    (with_quotes,) = {text for text in advice if "a '\"'\"'b" in text}
    rows = [f"n{k},{k % 7},{'ab'[k % 2]}" for k in range(N)]
    (tmp_path / "t.csv").write_text("\n".join(["a 'b',v,y", *rows]))
    options = _parsed(shlex.split(with_quotes)).data_options()
    encoder = infer(read(tmp_path / "t.csv", options), options).preprocessing.encoder
    assert isinstance(encoder, TableInputs)
    assert encoder.names == ("a 'b'", "v")


GENRES = ("Drama", "Crime", "Comedy", "Action", "Horror", "Romance")


def draw_genres(number: int) -> list[str]:
    random = np.random.default_rng(number)
    return list(random.choice(GENRES, random.integers(1, 4), replace=False))


def test_a_cell_of_several_categories_sets_the_slot_of_each() -> None:
    lists = [draw_genres(number) for number in range(N)]
    cells = [", ".join(genres) for genres in lists]
    result = inferred(cells)
    place, column = next(
        (place, column)
        for place, column in enumerate(table_columns(result))
        if column.name == "col"
    )
    assert column.categories == tuple(sorted(GENRES))
    x = result.preprocessing.inputs(UserData(x=with_noise(cells)))
    for row, genres in enumerate(lists):
        expected = [float(genre in genres) for genre in column.categories]
        assert x[row, :, place].tolist() == expected
    warnings: list[str] = []
    new_cells = ["Crime,  Western", None, "Drama"]
    new_table = pd.DataFrame({"col": new_cells, "noise": [0.0] * 3})
    x = result.preprocessing.inputs(UserData(x=new_table), warnings.append)
    assert x[:, :, place].sum(axis=1).tolist() == [1, 0, 1]
    assert "categories without a slot count as missing: Western" in warnings[0]


@pytest.mark.parametrize(
    "write",
    [
        lambda k: f"{k} Main Street, Springfield",  # as many parts as cells
        lambda k: "abcdefghijklmnopqrstuvwxyz"[k % 26],  # no parts
        lambda k: ["a", "b", "a, b"][k % 3],  # few values
    ],
)
def test_other_cells_are_not_divided(write: Any) -> None:
    result = inferred([write(k) for k in range(N)])
    assert "list" not in {column.kind for column in table_columns(result)}


SUBJECTS = ("boat river water sail wind", "bread oven flour yeast bake")


def draw_text(number: int) -> str:
    """Return a sentence about the subject ``number`` % 2."""
    random = np.random.default_rng(number)
    words = random.choice(SUBJECTS[number % 2].split(), 5).tolist()
    return " ".join(["it", "was", *words, f"word{number}"])


def test_free_text_becomes_the_tf_idf_of_frequent_words() -> None:
    texts = [draw_text(number) for number in range(N)]
    result = inferred(texts)
    assert "left out" not in all_warnings(result)
    read_again = Preprocessing.from_json(result.preprocessing.to_json())
    x = read_again.inputs(UserData(x=with_noise(texts)))
    (column,) = [each for each in table_columns(result) if each.kind == "text"]
    place = table_columns(result).index(column)
    expected_words = {"it", "was", *" ".join(SUBJECTS).split()}
    assert set(column.categories) == expected_words
    train_texts = [texts[row] for row in result.splits["train"]]
    vectorizer = TfidfVectorizer(vocabulary=column.categories, sublinear_tf=True)
    vectorizer.fit(train_texts)
    expected = vectorizer.transform(texts).toarray()
    np.testing.assert_allclose(x[:, : len(expected_words), place], expected, atol=1e-6)


def test_the_words_of_free_text_are_divided_among_columns() -> None:
    words = [f"word{number}" for number in range(100)]
    texts = [
        " ".join(np.random.default_rng(number).permutation(words))
        for number in range(N)
    ]
    result = inferred(texts)
    columns = table_columns(result)
    assert [len(each.categories) for each in columns] == [64, 36, 0]
    x = result.preprocessing.inputs(UserData(x=with_noise(texts)))
    assert x.shape == (N, 64, 3)
    np.testing.assert_allclose(x[:, :, :2].sum(axis=(1, 2)), 10, rtol=1e-4)
    missing = pd.DataFrame({"col": [None], "noise": [0.0]})
    assert not result.preprocessing.inputs(UserData(x=missing))[:, :, :2].any()


def test_names_are_no_free_text() -> None:
    result = inferred([f"Ms Jane Doe{number}" for number in range(N)])
    assert "as of names or free text" in all_warnings(result)


def test_a_word_without_a_weight_is_refused() -> None:
    texts = [draw_text(number) for number in range(N)]
    content = inferred(texts).preprocessing.to_json()
    for column in content["encoder"]["columns"]:
        column["weights"] = column["weights"][:1]
    with pytest.raises(UserError, match="a word needs one weight"):
        Preprocessing.from_json(content)
