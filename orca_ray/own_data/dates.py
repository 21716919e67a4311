"""Dates in a user's tables: which text is a date, and the numbers that dates become.

Arrow, which reads CSV files (`table_files`), makes time stamps in UTC of columns in ISO 8601, such as 2024-05-31 or
2024-05-31T12:30+02:00. A column that stays text, such as 2024-05 or text of a Parquet file, is a column of dates if
`parse_dates` understands all values; ``columns: {NAME: date}`` in a ``task.yaml`` declares one. Inputs are the numbers
`DATE_PARTS` of a date.
"""

from typing import Any, Literal

import numpy as np
import pandas as pd

from orca_ray.data.rows import Array
from orca_ray.errors import UserError, quoted
from orca_ray.own_data import UserData

DatePart = Literal["day", "month", "weekday", "hour"]
DATE_PARTS: tuple[DatePart, ...] = ("day", "month", "weekday", "hour")


def parse_dates(values: "pd.Series[Any]") -> "pd.Series[Any]":
    """Return a column of time stamps or ISO 8601 text as time stamps in UTC; NaT for missing values and other text."""
    return pd.to_datetime(values, errors="coerce", utc=True, format=None if values.dtype.kind == "M" else "ISO8601")


def date_part(values: "pd.Series[Any]", part: DatePart, data: UserData) -> Array:
    """Return days since 1970, month, weekday or hour of dates, float64, NaN if missing; UserError for other values."""
    dates = parse_dates(values)
    if len(bad := np.flatnonzero((dates.isna() & values.notna()).to_numpy())):
        found = f"column {quoted(values.name)}: expected a date such as 2024-05-31, found {quoted(values.iloc[bad[0]])}"
        raise UserError(f"{data.place(int(bad[0]))}, {found}")
    if part == "day":
        days = dates.dt.tz_localize(None).to_numpy().astype("datetime64[D]")
        return np.where(np.isnat(days), np.nan, days.astype(np.int64).astype(np.float64))
    numbers = getattr(dates.dt, "day_of_week" if part == "weekday" else part)
    return np.asarray(numbers.to_numpy(dtype=np.float64, na_value=np.nan))


def as_times(data: UserData, times: Array) -> Array:
    """Return times [N] as float64, numbers unchanged, dates in microseconds since 1970; UserError for other values."""
    if times.dtype.kind in "biuf":
        values = times.astype(np.float64)
        missing = np.isnan(values)
    else:
        dates = parse_dates(pd.Series(times))
        missing, values = dates.isna().to_numpy(), dates.to_numpy(dtype="datetime64[us]").astype(np.float64)
    if missing.any():
        row = int(np.flatnonzero(missing)[0])
        raise UserError(f"{data.place(row)}: expected a number or a date as time, found {quoted(str(times[row]))}")
    return np.asarray(values)
