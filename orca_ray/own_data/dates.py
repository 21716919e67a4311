"""Dates in a user's tables: which text is a date, and the numbers that dates become.

Arrow, which reads CSV files (`table_files`), makes time stamps in UTC of columns in ISO
8601, such as 2024-05-31 or 2024-05-31T12:30+02:00. A column that stays text, such as
2024-05, 31.5.2024 or 31 May 2024, is a column of dates if `date_form` finds an order of
day and month that suits its values; ``--columns NAME=day-first`` declares one. Inputs
are the numbers `DATE_PARTS` of a date.
"""

import re
from typing import Any, Literal

import numpy as np
import pandas as pd

from orca_ray.data.rows import Array
from orca_ray.errors import UserError, quoted
from orca_ray.own_data import ColumnHow, Options, UserData, Warn, as_typed

DatePart = Literal["day", "month", "weekday", "hour", "year_day"]
DATE_PARTS: tuple[DatePart, ...] = ("day", "month", "weekday", "hour", "year_day")
DateForm = Literal["", "day-first", "month-first"]
"""Order of day and month in text; "": ISO 8601, or time stamps."""
MOST_BAD_SHARE = 0.2
"""Share of the values of a column up to which values that cannot be read count as
missing.
"""

_DATE = re.compile(
    r"(?P<first>\d{1,2}|[a-z]{3,9})(?P<mark>\.?"
    r" |[/.-])(?P<second>\d{1,2}|[a-z]{3,9})(?:[.,]{0,2} |[/.-])"
    r"(?P<year>\d{4}|\d\d)"
    r"(?:["
    r" T,]+(?P<hour>\d{1,2}):(?P<minute>\d\d)(?::(?P<seconds>\d\d)(?:\.\d+)?)?(?P<half>"
    r" ?[ap]m)?)?",
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


def parse_dates(values: "pd.Series[Any]", form: DateForm = "") -> "pd.Series[Any]":
    """Return a column of time stamps or text as time stamps in UTC; NaT for missing
    values and other text.
    """
    if values.dtype.kind == "M":
        return pd.to_datetime(values, errors="coerce", utc=True)
    if form:
        values = values.astype(object).map(
            lambda value: _iso(value, form) if isinstance(value, str) else value
        )
    return pd.to_datetime(values, errors="coerce", utc=True, format="ISO8601")


def _iso(text: str, form: DateForm) -> str:
    """Return a date with its day before or after its month in ISO 8601; other text is
    returned as it is.
    """
    found = _DATE.fullmatch(text.strip()) if len(text) < 40 else None
    if found is None:
        return text
    day = found["first"]
    month = found["second"]
    if month.isdigit() and (day.isalpha() or form == "month-first"):
        day, month = month, day
    if month.isalpha():
        month = (
            str(1 + _MONTHS.index(month[:3].lower()))
            if month[:3].lower() in _MONTHS
            else month
        )
    elif (
        " " in found["mark"] and "." not in found["mark"]
    ):  # 12 10 24 may be any number
        return text
    year = int(found["year"])
    if len(found["year"]) == 2:
        year += 1900 if year > 68 else 2000
    hour = int(found["hour"] or 0)
    if half := (found["half"] or "").strip().lower():
        hour = hour % 12 + (12 if half == "pm" else 0)
    clock = f"{hour:02}:{found['minute'] or '00'}:{found['seconds'] or '00'}"
    return f"{year:04}-{month:0>2}-{day:0>2}T{clock}"


def date_form(known: "pd.Series[Any]") -> tuple[DateForm | None, str]:
    """Return the form in which most values ``known`` are dates, None if in no form; and
    an example if two forms fit.
    """
    if known.dtype.kind == "M":
        return "", ""
    numbers = known.astype(object).value_counts()
    different = pd.Series(numbers.index, dtype=object)
    iso, day_first, month_first = (
        parse_dates(different, form) for form in ("", "day-first", "month-first")
    )
    read = [
        int(numbers[dates.notna().to_numpy()].sum())
        for dates in (iso, day_first, month_first)
    ]
    if max(read) < (1 - MOST_BAD_SHARE) * len(known):
        return None, ""
    if read[0] == max(read):
        return "", ""
    differ = different[
        (day_first != month_first) & day_first.notna() & month_first.notna()
    ]
    if read[1] != read[2] or differ.empty:
        return ("day-first" if read[1] >= read[2] else "month-first"), ""
    return ("day-first" if "." in differ.iloc[0] else "month-first"), str(
        differ.iloc[0]
    )


def unsure(form: str, example: str, name: str) -> str:
    """Return the warning that text such as ``example`` is read in ``form``, and how the
    other form is declared.
    """
    other = _OTHER[form]
    return (
        f"{quoted(example)} is read as {form}; if it is {other}:"
        f" {as_typed(name, other)}"
    )


def as_dates(
    values: "pd.Series[Any]", form: DateForm, data: UserData, warn: Warn
) -> "pd.Series[Any]":
    """Return a column as time stamps; other values become NaT, and the first of them is
    reported to ``warn``.

    Raises UserError, which names the first other value, if more than a fifth of the
    values are no dates.
    """
    dates = parse_dates(values, form)
    if len(bad := np.flatnonzero((dates.isna() & values.notna()).to_numpy())):
        row = int(bad[0])
        like = {"day-first": "31.5.2024", "month-first": "5/31/2024"}.get(
            form, "2024-05-31"
        )
        found = (
            f"column {quoted(values.name)}: expected a date such as {like}, found"
            f" {quoted(values.iloc[row])}"
        )
        if len(bad) > MOST_BAD_SHARE * len(values):
            raise UserError(f"{data.place(row)}, {found}")
        warn(f"{data.place(row)}, {found}; it counts as missing")
    return dates


def date_part(dates: "pd.Series[Any]", part: DatePart) -> Array:
    """Return days since 1970, month, weekday, hour or day of the year of time stamps,
    float64, NaN if missing.
    """
    if part == "day":
        days = dates.dt.tz_localize(None).to_numpy().astype("datetime64[D]")
        return np.where(
            np.isnat(days), np.nan, days.astype(np.int64).astype(np.float64)
        )
    numbers = getattr(
        dates.dt, {"weekday": "day_of_week", "year_day": "day_of_year"}.get(part, part)
    )
    return np.asarray(numbers.to_numpy(dtype=np.float64, na_value=np.nan))


def as_times(data: UserData, options: Options, warn: Warn) -> Array:
    """Return the data's times [N] as float64, numbers unchanged, dates in microseconds
    since 1970.

    The order of day and month is that of ``options.columns``, or found by `date_form`;
    ``warn`` gets a doubtful one. Raises UserError for other values.
    """
    assert data.times is not None
    if data.times.dtype.kind in "biuf":
        values = data.times.astype(np.float64)
        missing = np.isnan(values)
    else:
        times = pd.Series(data.times)
        given = options.columns.get(options.time)
        form, example = (
            (given, "")
            if given in ("day-first", "month-first")
            else date_form(times.dropna())
        )
        if example:
            warn(f"times: {unsure(str(form), example, options.time)}")
        dates = parse_dates(times, form or "")
        missing = dates.isna().to_numpy()
        values = dates.to_numpy(dtype="datetime64[us]").astype(np.float64)
    if missing.any():
        row = int(np.flatnonzero(missing)[0])
        found = (
            f"expected a number or a date as time, found {quoted(str(data.times[row]))}"
        )
        raise UserError(f"{data.place(row)}: {found}; correct it, or leave out the row")
    return np.asarray(values)
