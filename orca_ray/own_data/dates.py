"""Dates in a user's tables: which text is a date, and the numbers that dates become.

Arrow, which reads CSV files (`table_files`), makes time stamps in UTC of columns in ISO
8601, such as 2024-05-31 or 2024-05-31T12:30+02:00. A column that stays text, such as
2024-05, 31.5.2024 or 31 May 2024, is a column of dates if `find_date_form` finds an
order of day and month that suits its values; ``--columns NAME=day-first`` declares one.
Inputs are the numbers `DATE_PARTS` of a date.
"""

import re
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd

from orca_ray.data.rows import Array
from orca_ray.errors import UserError, quoted
from orca_ray.own_data import ColumnHow, Options, UserData, Warn, column_option

DatePart = Literal["day", "month", "weekday", "hour", "year_day"]
DATE_PARTS: tuple[DatePart, ...] = ("day", "month", "weekday", "hour", "year_day")
DateForm = Literal["", "day-first", "month-first"]
"""Order of day and month in text; "": ISO 8601, or time stamps."""
MOST_BAD_SHARE = 0.2
"""Largest share of values of a column that cannot be read and count as missing."""

_DATE = re.compile(
    r"(?P<first>\d{1,2}|[a-z]{3,9})(?P<mark>\.? |[/.-])"
    r"(?P<second>\d{1,2}|[a-z]{3,9})(?:[.,]{0,2} |[/.-])"
    r"(?P<year>\d{4}|\d\d)"
    r"(?:[ T,]+(?P<hour>\d{1,2}):(?P<minute>\d\d)"
    r"(?::(?P<seconds>\d\d)(?:\.\d+)?)?(?P<half> ?[ap]m)?)?",
    re.I,
)
_MONTHS = (
    "jan",
    "feb",
    "mar",
    "apr",
    "may",
    "jun",
    "jul",
    "aug",
    "sep",
    "oct",
    "nov",
    "dec",
)
_OTHER: dict[str, ColumnHow] = {
    "day-first": "month-first",
    "month-first": "day-first",
    "decimal-point": "decimal-comma",
}
"""The form with which a form may be confused."""
_MOST_CHARACTERS = 40
"""Length from which on a text is no date."""


def parse_dates(values: "pd.Series[Any]", form: DateForm = "") -> "pd.Series[Any]":
    """Return a column of time stamps or text as time stamps in UTC.

    Missing values and text that is no date become NaT.
    """
    if values.dtype.kind == "M":
        return pd.to_datetime(values, errors="coerce", utc=True)
    if form:
        values = values.astype(object).map(
            lambda value: _to_iso(value, form) if isinstance(value, str) else value
        )
    return pd.to_datetime(values, errors="coerce", utc=True, format="ISO8601")


def _to_iso(text: str, form: DateForm) -> str:
    """Return ``text`` in ISO 8601, if it is a date in the given ``form``.

    Other text is returned unchanged.
    """
    match = _DATE.fullmatch(text.strip()) if len(text) < _MOST_CHARACTERS else None
    if match is None:
        return text
    day = match["first"]
    month = match["second"]
    is_month_first = day.isalpha() or form == "month-first"
    if month.isdigit() and is_month_first:
        month = match["first"]
        day = match["second"]
    if month.isalpha():
        month = _month_number(month)
    elif match["mark"] == " ":  # 12 10 24 may be any number
        return text
    return f"{_full_year(match['year']):04}-{month:0>2}-{day:0>2}T{_clock(match)}"


def _month_number(name: str) -> str:
    """Return the number of the month with this English name, else the name itself."""
    short = name[:3].lower()
    return str(1 + _MONTHS.index(short)) if short in _MONTHS else name


def _full_year(digits: str) -> int:
    """Return the year that ``digits`` name; two digits name 1969 to 2068."""
    year = int(digits)
    if len(digits) > 2:
        return year
    return year + 1900 if year > 68 else year + 2000


def _clock(match: re.Match[str]) -> str:
    """Return the time of day in a match of `_DATE`, such as 14:30:00."""
    hour = int(match["hour"] or 0)
    half = (match["half"] or "").strip().lower()
    if half:
        hour = hour % 12  # 12 am is midnight, 12 pm is noon
    if half == "pm":
        hour += 12
    minute = match["minute"] or "00"
    seconds = match["seconds"] or "00"
    return f"{hour:02}:{minute}:{seconds}"


@dataclass(frozen=True)
class DateReading:
    """How the values of a column are read as dates."""

    form: DateForm | None
    """None: the values are no dates."""
    example: str = ""
    """Text that two forms read, but as different dates; "": one form fits more values.
    """


def find_date_form(valid: "pd.Series[Any]") -> DateReading:
    """Return the form in which most values ``valid`` are dates.

    It is "" for ISO 8601 and for time stamps, and None if too many values are no dates.
    If both orders of day and month fit equally well, the result has an example of text
    that they read as different dates. The day comes first if that text has points.
    """
    if valid.dtype.kind == "M":
        return DateReading("")
    counts = valid.astype(object).value_counts()
    texts = pd.Series(counts.index, dtype=object)
    day_first = parse_dates(texts, "day-first")
    month_first = parse_dates(texts, "month-first")
    num_iso = _num_dates(parse_dates(texts), counts)
    num_day_first = _num_dates(day_first, counts)
    num_month_first = _num_dates(month_first, counts)
    most = max(num_iso, num_day_first, num_month_first)
    if most < (1 - MOST_BAD_SHARE) * len(valid):
        return DateReading(None)
    if num_iso == most:
        return DateReading("")
    if num_day_first > num_month_first:
        return DateReading("day-first")
    if num_month_first > num_day_first:
        return DateReading("month-first")
    both_read = day_first.notna() & month_first.notna()
    doubtful = texts[(day_first != month_first) & both_read]
    if doubtful.empty:
        return DateReading("day-first")
    example = str(doubtful.iloc[0])
    if "." in example:
        return DateReading("day-first", example)
    return DateReading("month-first", example)


def _num_dates(dates: "pd.Series[Any]", counts: "pd.Series[int]") -> int:
    """Return the number of values that are dates.

    ``dates`` are the distinct values, ``counts`` their frequencies in the same order.
    """
    return int(counts[dates.notna().to_numpy()].sum())


def doubt_warning(form: str, example: str, name: str) -> str:
    """Return a warning that text such as ``example`` is read in ``form``.

    The warning names the option that declares the other form.
    """
    other = _OTHER[form]
    return (
        f"{quoted(example)} is read as {form}; if it is {other}:"
        f" {column_option(name, other)}"
    )


_EXAMPLES: dict[DateForm, str] = {
    "day-first": "31.5.2024",
    "month-first": "5/31/2024",
}
"""A date in each form other than ISO 8601, for messages."""


def as_dates(
    values: "pd.Series[Any]", form: DateForm, data: UserData, warn: Warn
) -> "pd.Series[Any]":
    """Return a column as time stamps; values that are no dates become NaT.

    ``warn`` is called with the first such value. Raises UserError, which names it, if
    more than a fifth of the values are no dates.
    """
    dates = parse_dates(values, form)
    bad_rows = np.flatnonzero((dates.isna() & values.notna()).to_numpy())
    if not len(bad_rows):
        return dates
    row = int(bad_rows[0])
    example = _EXAMPLES.get(form, "2024-05-31")
    problem = (
        f"column {quoted(values.name)}: expected a date such as {example}, found"
        f" {quoted(values.iloc[row])}"
    )
    if len(bad_rows) > MOST_BAD_SHARE * len(values):
        raise UserError(f"{data.place(row)}, {problem}")
    warn(f"{data.place(row)}, {problem}; it counts as missing")
    return dates


def date_part(dates: "pd.Series[Any]", part: DatePart) -> Array:
    """Return a part of each time stamp as float64, NaN if missing.

    The part ``day`` is the number of days since 1970.
    """
    if part == "day":
        days = dates.dt.tz_localize(None).to_numpy().astype("datetime64[D]")
        return np.where(
            np.isnat(days), np.nan, days.astype(np.int64).astype(np.float64)
        )
    # pandas has other names for two of the parts.
    numbers = getattr(
        dates.dt, {"weekday": "day_of_week", "year_day": "day_of_year"}.get(part, part)
    )
    return np.asarray(numbers.to_numpy(dtype=np.float64, na_value=np.nan))


def as_times(data: UserData, options: Options, warn: Warn) -> Array:
    """Return the data's times [N] as float64: numbers, or microseconds since 1970.

    The order of day and month is given by ``options.columns`` or found by
    `find_date_form`. ``warn`` is called if both orders fit. Raises UserError for values
    that are neither numbers nor dates.
    """
    assert data.times is not None
    if data.times.dtype.kind in "biuf":
        times = data.times.astype(np.float64)
        missing = np.isnan(times)
    else:
        dates = _parse_times(pd.Series(data.times), options, warn)
        times = dates.to_numpy(dtype="datetime64[us]").astype(np.float64)
        missing = dates.isna().to_numpy()
    if missing.any():
        row = int(np.flatnonzero(missing)[0])
        problem = (
            f"expected a number or a date as time, found {quoted(str(data.times[row]))}"
        )
        raise UserError(
            f"{data.place(row)}: {problem}; correct it, or leave out the row"
        )
    return np.asarray(times)


def _parse_times(
    values: "pd.Series[Any]", options: Options, warn: Warn
) -> "pd.Series[Any]":
    """Return times of text as time stamps, in the declared or the likeliest form."""
    declared = options.columns.get(options.time)
    if declared in ("day-first", "month-first"):
        return parse_dates(values, declared)
    reading = find_date_form(values.dropna())
    if reading.form and reading.example:
        warning = doubt_warning(reading.form, reading.example, options.time)
        warn(f"times: {warning}")
    return parse_dates(values, reading.form or "")
