"""Inputs from the columns of a table. Letters: N rows, W slots, L columns."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict

from orca_ray.data.rows import Array
from orca_ray.errors import UserError, nearest, printable, quoted, shorten
from orca_ray.own_data import UserData
from orca_ray.own_data.targets import label_text

if TYPE_CHECKING:
    import pandas as pd

Warn = Callable[[str], None]
Floats = npt.NDArray[np.float64]
DatePart = Literal["day", "month", "weekday", "hour"]
DATE_PARTS: tuple[DatePart, ...] = ("day", "month", "weekday", "hour")
MOST_TEXT_SHARE = 0.2
"""Share of text in a column of numbers up to which the text counts as missing."""
STRONG_SHIFT = 20.0
"""Deviations from the training mean beyond which new values are probably in other units."""


class Column(BaseModel):
    """One column of the inputs: a number, a category, or a part of a date."""

    model_config = ConfigDict(extra="forbid", frozen=True, ser_json_inf_nan="constants")

    name: str
    kind: Literal["number", "category", "date"]
    part: DatePart | None = None
    """For a date: day since 1970, month, weekday or hour, as a number."""
    categories: tuple[str, ...] = ()
    """For a category: the values of the training split that have a slot; others have none, so all slots are 0."""
    fill: float = 0.0
    """Median of the training split, which stands for a missing number."""
    mean: float = 0.0
    std: float = 1.0


class TableInputs(BaseModel):
    """Encodes rows as [N, W, L]: one position for each column, with a slot for each category, or a number in slot 0."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    form: Literal["table"] = "table"
    columns: tuple[Column, ...]

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one encoded row: (W, L)."""
        return max([1, *(len(column.categories) for column in self.columns)]), len(self.columns)

    def encode(self, data: UserData, warn: Warn) -> Array:
        """Return the encoded rows, float32 [N, W, L].

        Raises UserError for a column that is missing, or has text where numbers were; reports categories that were not
        in training and values of another scale to ``warn``.
        """
        frame: pd.DataFrame = as_frame(data, self.names)
        self._check_missing(data, frame)
        x_NWL = np.zeros((len(frame), *self.shape), dtype=np.float32)
        for place, column in enumerate(self.columns):
            values = frame[column.name]
            if column.kind == "category":
                self._slots(x_NWL[:, :, place], column, texts(values), data, warn)
                continue
            numbers = as_dates(values, column.part, data) if column.part else as_floats(values, data, warn)
            scaled = (np.where(np.isnan(numbers), column.fill, numbers) - column.mean) / column.std
            if len(scaled) and np.median(np.abs(scaled)) > STRONG_SHIFT and column.kind == "number":
                found = f"values around {np.nanmedian(numbers):.3g}, in training {column.mean:.3g} ± {column.std:.3g}"
                warn(f"{data.source}, column {quoted(column.name)}: {found}; are they in other units?")
            x_NWL[:, 0, place] = np.clip(scaled, -1e6, 1e6)
        return x_NWL

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the table's columns that are read, each once."""
        return tuple(dict.fromkeys(column.name for column in self.columns))

    def _check_missing(self, data: UserData, frame: "pd.DataFrame") -> None:
        found = list(map(str, frame.columns))
        if missing := [name for name in self.names if name not in found]:
            close = nearest(missing[0], found)
            question = f"; is it {close!r}?" if close else ""
            listed = shorten(", ".join(map(printable, found)))
            raise UserError(f"{data.source}: column {quoted(missing[0])} is missing{question} Columns: {listed}")

    @staticmethod
    def _slots(x_NW: Array, column: Column, values: list[str | None], data: UserData, warn: Warn) -> None:
        slot = {name: k for k, name in enumerate(column.categories)}
        rows = [row for row, value in enumerate(values) if value in slot]
        x_NW[rows, [slot[value] for value in values if value is not None and value in slot]] = 1
        if unknown := {value for value in values if value is not None and value not in slot}:
            listed = shorten(", ".join(map(printable, sorted(unknown)[:5])))
            warn(f"{data.source}, column {quoted(column.name)}: categories without a slot count as missing: {listed}")


def as_frame(data: UserData, names: tuple[str, ...] = ()) -> "pd.DataFrame":
    """Return the table; raises UserError if the samples are no table."""
    import pandas as pd

    if isinstance(data.x, pd.DataFrame):
        return data.x
    if isinstance(data.x, np.ndarray) and data.x.ndim == 2 and data.x.shape[1] == len(names):
        return pd.DataFrame(data.x, columns=list(names))
    raise UserError(f"{data.source}: expected a table with columns {shorten(', '.join(names))}, found something else")


def as_floats(values: "pd.Series[Any]", data: UserData, warn: Warn) -> Floats:
    """Return a column as float64 with NaN for missing and infinite values, and for a fifth of text at most.

    Raises UserError for the first text if there is more.
    """
    numbers, bad = parsed(values)
    if len(bad):
        row = int(bad[0])
        found = f"column {quoted(values.name)}: expected a number, found {quoted(values.iloc[row])}"
        if len(bad) > MOST_TEXT_SHARE * len(values):
            raise UserError(f"{data.place(row)}, {found}; correct it or leave it empty")
        warn(f"{data.place(row)}, {found}; text counts as missing")
    return numbers


def parsed(values: "pd.Series[Any]") -> tuple[Floats, Array]:
    """Return a column as float64, and its rows of text. NaN replaces missing values, text and too large numbers."""
    import pandas as pd

    numbers = pd.to_numeric(values, errors="coerce").to_numpy(dtype=np.float64, na_value=np.nan)
    bad = np.flatnonzero(np.isnan(numbers) & values.notna().to_numpy())
    return np.where(np.abs(numbers) <= np.finfo(np.float32).max, numbers, np.nan), bad


def as_dates(values: "pd.Series[Any]", part: DatePart, data: UserData) -> Floats:
    """Return a part of dates as float64, NaN for missing ones; raises UserError for the first that is no date."""
    import pandas as pd

    dates = pd.to_datetime(values, errors="coerce", utc=True, format=None if values.dtype.kind == "M" else "ISO8601")
    if len(bad := np.flatnonzero((dates.isna() & values.notna()).to_numpy())):
        found = f"column {quoted(values.name)}: expected a date such as 2024-05-31, found {quoted(values.iloc[bad[0]])}"
        raise UserError(f"{data.place(int(bad[0]))}, {found}")
    if part == "day":
        days = dates.dt.tz_localize(None).to_numpy().astype("datetime64[D]")
        return np.where(np.isnat(days), np.nan, days.astype(np.int64).astype(np.float64))
    values = getattr(dates.dt, "day_of_week" if part == "weekday" else part)
    return np.asarray(values.to_numpy(dtype=np.float64, na_value=np.nan))


def texts(values: "pd.Series[Any]") -> list[str | None]:
    """Return a column as text, None for missing values; whole numbers have no decimals."""
    return [
        label_text(None if missing else value) for value, missing in zip(values.tolist(), values.isna(), strict=True)
    ]
