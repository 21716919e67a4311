"""Fit the encoder of a table: its columns, how they are read, and their coding."""

import re
from collections import Counter
from dataclasses import dataclass
from typing import Any, Literal, cast

import numpy as np
import pandas as pd

from orca_ray.data.rows import Array
from orca_ray.data.splits import Indices
from orca_ray.errors import UserError, printable, quoted, shorten
from orca_ray.own_data import ColumnHow, Notes, Options, UserData, column_option
from orca_ray.own_data.amounts import AmountForm, find_amount_form
from orca_ray.own_data.dates import (
    DATE_PARTS,
    MOST_BAD_SHARE,
    DateForm,
    as_dates,
    date_part,
    doubt_warning,
    find_date_form,
)
from orca_ray.own_data.tables import (
    Column,
    Floats,
    TableInputs,
    column_texts,
    parse_numbers,
)
from orca_ray.own_data.texts import (
    Separator,
    count_parts,
    find_separator,
    fit_terms,
    is_free_text,
)

MOST_CATEGORIES = 64
"""Largest number of categories of a column that get a slot, the most frequent first."""
_MOST_PLAIN = 20
"""Largest number of different texts that are categories in any case."""
_COUNTED = {
    "number": "of numbers",
    "category": "of categories",
    "list": "of lists of categories",
    "date": "of dates",
    "text": "of free text",
}
_FORMS: dict[str, tuple[ColumnHow, DateForm | AmountForm]] = {
    "day-first": ("date", "day-first"),
    "month-first": ("date", "month-first"),
    "decimal-point": ("number", "decimal-point"),
    "decimal-comma": ("number", "decimal-comma"),
}
_NUMBERING = re.compile(
    r"(?i:^(|index|idx|unnamed.*|__index_level_\d+__)$)"
    r"|(?i:(^|[\W_])(row_?(id|no|number)?|id|ids|uid|uuid|guid|key|no|nr|number)$)"
    r"|[a-z](Id|ID|No|Nr)$"
)
"""Names of columns that probably number the rows."""


@dataclass(frozen=True)
class _Reading:
    """How a column is read."""

    kind: ColumnHow | Literal["list", "text"]
    form: DateForm | AmountForm = ""
    why: str = ""
    """Why the column is left out, or what is unusual about it."""
    separator: Separator = ""
    """Text between the parts of a list."""


def fit_table(
    data: UserData, train: Indices, options: Options, notes: Notes
) -> TableInputs:
    """Return the encoder of a table, measured on the rows ``train``.

    Columns that are constant, empty, row numbers, or text that differs in most rows are
    left out with a warning. Raises UserError if no column is left.
    """
    frame: pd.DataFrame = data.x  # type: ignore[assignment]
    names = list(map(str, frame.columns))
    for name in names:
        if names.count(name) > 1:
            raise UserError(
                f"{data.source}: several columns are named {quoted(name)}; give each"
                " its own name"
            )
    columns: list[Column] = []
    forms: list[str] = []
    for name in names:
        values = frame[name]
        reading = _usable_reading(name, values, options.columns.get(name), notes)
        if reading is None:
            continue
        columns += _encoded_columns(data, values, train, reading, notes)
        if reading.form:
            forms.append(f"{printable(name)} {reading.form}")
    if not columns:
        listed = "; ".join(notes.warnings)
        raise UserError(f"{data.source}: no column is left to predict from: {listed}")
    _note_columns(columns, forms, notes)
    # categories first, as in `openml._encoding.encode`
    order = sorted(columns, key=lambda column: column.kind != "category")
    return TableInputs(columns=tuple(order))


def _usable_reading(
    name: str, values: "pd.Series[Any]", how: ColumnHow | None, notes: Notes
) -> _Reading | None:
    """Return how a column is read; None if it is left out.

    What is unusual is added to ``notes`` as a warning. ``how`` is the user's option for
    the column.
    """
    if how == "drop":
        return None
    reading = _choose_reading(name, values, how)
    if reading.kind == "drop":
        is_number = values.dtype.kind in "biuf"
        keep = column_option(name, "number" if is_number else "category")
        notes.warn(
            f"column {quoted(name)} is left out: {reading.why}; to keep it: {keep}"
        )
        return None
    if reading.why:
        notes.warn(f"column {quoted(name)}: {reading.why}")
    return reading


def _note_columns(columns: list[Column], forms: list[str], notes: Notes) -> None:
    """Add to ``notes`` how many columns there are, and how their values are read."""
    filled = [printable(column.name) for column in columns if column.missing]
    if filled:
        listed = shorten(", ".join(filled), 300)
        notes.warn(
            "missing numbers become the median of train, and a mark beside it says so:"
            f" {listed}"
        )
    counts = []
    for kind, meaning in _COUNTED.items():
        count = len({column.name for column in columns if column.kind == kind})
        if count:
            counts.append(f"{count} {meaning}")
    notes.add_finding(
        "columns", ", ".join(counts), "by their types and values", "columns"
    )
    if forms:
        notes.add_finding(
            "numbers and dates in text",
            shorten(", ".join(forms), 300),
            "by their values",
            "columns",
        )


def _choose_reading(
    name: str, values: "pd.Series[Any]", how: ColumnHow | None
) -> _Reading:
    """Return how a column is read: as the option ``how`` says, else by its values."""
    if how in _FORMS:
        kind, form = _FORMS[how]
        return _Reading(kind, form)
    if how in ("category", "drop"):
        return _Reading(how)
    valid = values.dropna()
    if values.dtype.kind in "biuf":
        return _Reading(how) if how else _read_numbers(name, values, valid)
    if values.dtype.kind == "M":
        return _Reading("date")
    if valid.empty:
        return _Reading("number")
    if isinstance(valid.iloc[0], list | dict | bytes | np.ndarray):
        return _Reading("drop", why="its values are neither numbers nor text")
    return _read_text(name, values, valid, how)


def _read_numbers(
    name: str, values: "pd.Series[Any]", valid: "pd.Series[Any]"
) -> _Reading:
    """Return how a column of numbers is read: row numbers are left out."""
    is_whole = (
        values.dtype.kind != "b"
        and len(valid) == len(values)
        and bool((valid % 1 == 0).all())
    )
    if not is_whole or not valid.is_unique:
        return _Reading("number")
    if _NUMBERING.search(name):
        return _Reading("drop", why="it numbers the rows")
    if valid.max() - valid.min() != len(valid) - 1:
        return _Reading("number")
    advice = column_option(name, "drop")
    return _Reading(
        "number",
        why=f"its values number the rows; if they say nothing else: {advice}",
    )


def _read_text(
    name: str, values: "pd.Series[Any]", valid: "pd.Series[Any]", how: ColumnHow | None
) -> _Reading:
    """Return how a column of text is read: as numbers, dates or categories, or not.

    The option ``how`` decides; if there is none, the values decide.
    """
    if how == "date":
        return _date_reading(name, valid) or _Reading("date")
    numbers = _numbers_in_text(values, valid)
    is_mostly_numbers = len(numbers.text_rows) <= MOST_BAD_SHARE * len(valid)
    if how == "number" or is_mostly_numbers:
        return _number_reading(name, values, valid, numbers)
    return _date_reading(name, valid) or _category_reading(valid, numbers)


def _date_reading(name: str, valid: "pd.Series[Any]") -> _Reading | None:
    """Return how a column of dates in text is read; None: its values are no dates."""
    reading = find_date_form(valid)
    if reading.form is None:
        return None
    warning = ""
    if reading.example:
        warning = doubt_warning(reading.form, reading.example, name)
    return _Reading("date", reading.form, warning)


@dataclass(frozen=True)
class _NumbersInText:
    """The numbers that text of a column contains."""

    text_rows: Array
    """Indices of the rows whose text is no number."""
    form: AmountForm | Literal[""] = ""
    """How numbers with units are read."""
    example: str = ""
    """A number that can be read in two forms; "": none."""
    units: str = ""
    """Units of the numbers if there are several; such numbers are not read."""


def _numbers_in_text(
    values: "pd.Series[Any]", valid: "pd.Series[Any]"
) -> _NumbersInText:
    """Return the numbers in a column, read with units if this reads more of them."""
    _, text_rows = parse_numbers(values)
    if not len(text_rows):
        return _NumbersInText(text_rows)
    reading = find_amount_form(valid)
    if reading.form is None:
        return _NumbersInText(text_rows, units=reading.units)
    _, other_rows = parse_numbers(values, reading.form)
    if len(other_rows) < len(text_rows):
        return _NumbersInText(other_rows, reading.form, reading.example)
    return _NumbersInText(text_rows)


def _number_reading(
    name: str,
    values: "pd.Series[Any]",
    valid: "pd.Series[Any]",
    numbers: _NumbersInText,
) -> _Reading:
    """Return the reading of a column as numbers, with a warning about other text."""
    why = ""
    if len(numbers.text_rows):
        row = int(numbers.text_rows[0])
        cell = f"{quoted(values.iloc[row])} in row {row + 1}"
        why = (
            f"{len(numbers.text_rows)} of {len(valid)} values are text, such as {cell};"
            " they count as missing"
        )
    elif numbers.form and numbers.example:
        why = doubt_warning(numbers.form, numbers.example, name)
    return _Reading("number", numbers.form, why)


def _category_reading(valid: "pd.Series[Any]", numbers: _NumbersInText) -> _Reading:
    """Return the reading of a column as categories, lists of categories or free text.

    Other text that differs in most rows, such as names, is no input; such a column is
    left out.
    """
    num_values = valid.nunique()
    texts = [text for text in column_texts(valid) if text is not None]
    if num_values > _MOST_PLAIN:
        separator = find_separator(texts)
        if separator:
            return _Reading("list", separator=separator)
    # More than 20 values that occur less than twice on average are no categories.
    if num_values > _MOST_PLAIN and num_values > 0.5 * len(valid):
        if is_free_text(texts):
            return _Reading("text")
        why = (
            f"{num_values} of its {len(valid)} values are different, as of names or"
            " free text, which is no input: give numbers or categories derived from it"
        )
        if numbers.units:
            why = f"its numbers have several units ({numbers.units}); give all in one"
        return _Reading("drop", why=why)
    num_texts = len(numbers.text_rows)
    if num_texts == len(valid):
        return _Reading("category")
    return _Reading(
        "category",
        why=f"numbers and text are mixed ({num_texts} of {len(valid)} are text): each"
        " value counts as a category",
    )


def _encoded_columns(
    data: UserData,
    values: "pd.Series[Any]",
    train: Indices,
    reading: _Reading,
    notes: Notes,
) -> list[Column]:
    """Return the columns of the encoding that one column of the table becomes.

    If the column is constant in ``train``, there are none, and a warning is added to
    ``notes``.
    """
    if reading.kind in ("category", "list"):
        columns = _category_columns(values.iloc[train], reading)
    elif reading.kind == "text":
        columns = _free_text_columns(values.iloc[train])
    elif reading.kind == "date":
        form = cast(DateForm, reading.form)
        dates = as_dates(values, form, data, notes.warn)
        columns = _date_columns(values, dates.iloc[train], form)
    else:
        columns = _number_columns(values.iloc[train], reading, notes)
    if not columns:
        notes.warn(
            f"column {quoted(values.name)} is left out: it has one value, or none, in"
            " train"
        )
    return columns


def _category_columns(values: "pd.Series[Any]", reading: _Reading) -> list[Column]:
    """Return the column of a category whose most frequent values get slots.

    Of lists, the most frequent parts get slots.
    """
    texts = column_texts(values)
    is_missing = None in texts
    counts = Counter(text for text in texts if text is not None)
    if reading.separator:
        counts = count_parts(counts.elements(), reading.separator)
    names = sorted(counts)
    # of equally frequent values, the first by name: `sorted` keeps their order
    frequent = sorted(names, key=lambda text: -counts[text])[:MOST_CATEGORIES]
    if len(frequent) + is_missing < 2:
        return []
    categories = tuple(sorted(frequent))
    return [
        Column(
            name=str(values.name),
            kind="list" if reading.separator else "category",
            categories=categories,
            separator=reading.separator,
        )
    ]


def _free_text_columns(values: "pd.Series[Any]") -> list[Column]:
    """Return the columns of the words of free text, each with as many as a category."""
    texts = [text or "" for text in column_texts(values)]
    terms, weights = fit_terms(texts)
    return [
        Column(
            name=str(values.name),
            kind="text",
            categories=tuple(terms[first : first + MOST_CATEGORIES]),
            weights=tuple(weights[first : first + MOST_CATEGORIES]),
        )
        for first in range(0, len(terms), MOST_CATEGORIES)
    ]


def _date_columns(
    values: "pd.Series[Any]", dates: "pd.Series[Any]", form: DateForm
) -> list[Column]:
    """Return the columns of the parts of a date that are not constant in ``dates``."""
    # in a single year, the day of the year says what the day says
    parts = DATE_PARTS if dates.dt.year.nunique() > 1 else DATE_PARTS[:-1]
    columns = []
    for part in parts:
        column = Column(name=str(values.name), kind="date", part=part, form=form)
        measured = _with_statistics(column, date_part(dates, part))
        if measured is not None:
            columns.append(measured)
    return columns


def _number_columns(
    values: "pd.Series[Any]", reading: _Reading, notes: Notes
) -> list[Column]:
    """Return the column of a number, with a warning about values that are infinite."""
    name = str(values.name)
    numbers, text_rows = parse_numbers(values, reading.form)
    num_missing = values.isna().sum() + len(text_rows)
    num_infinite = int(np.isnan(numbers).sum() - num_missing)
    if num_infinite:
        notes.warn(
            f"column {quoted(name)}: {num_infinite} infinite or too large values count"
            " as missing"
        )
    column = _with_statistics(
        Column(name=name, kind="number", form=reading.form), numbers
    )
    return [] if column is None else [column]


def _with_statistics(column: Column, numbers: Floats) -> Column | None:
    """Return a column of numbers with its statistics.

    None if ``numbers`` are all equal, or all missing. Missing numbers are marked. The
    parts of a date have one common mark, which belongs to the first part.
    """
    valid = numbers[~np.isnan(numbers)]
    marks_missing = column.part in (None, DATE_PARTS[0])
    missing = marks_missing and len(valid) < len(numbers)
    if not len(valid):
        return None
    if valid.min() == valid.max() and not missing:
        return None
    fill = float(np.median(valid))
    complete = np.where(np.isnan(numbers), fill, numbers)
    return column.model_copy(
        update={
            "fill": fill,
            "mean": _rounded(complete.mean()),
            "std": _rounded(complete.std()) or 1.0,
            "missing": missing,
        }
    )


def _rounded(value: float) -> float:
    """Return a statistic with seven digits."""
    return float(f"{value:.7g}")
