"""Inputs from the columns of a table: which columns, and their coding. Letters: N rows, W slots, L columns."""

import re
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pandas as pd
from pydantic import BaseModel, ConfigDict, PositiveFloat

from orca_ray.data.rows import Array
from orca_ray.data.splits import Indices
from orca_ray.errors import UserError, nearest, printable, quoted, shorten
from orca_ray.own_data import Notes, Options, UserData, Warn
from orca_ray.own_data.dates import DATE_PARTS, DatePart, date_part, parse_dates
from orca_ray.own_data.targets import label_text

Floats = npt.NDArray[np.float64]
MOST_TEXT_SHARE = 0.2
"""Share of text in a column of numbers up to which the text counts as missing."""
STRONG_SHIFT = 20.0
"""Number of standard deviations from the training mean beyond which new values are probably in other units."""


class Column(BaseModel):
    """One column of the inputs: a number, a category, or a part of a date."""

    model_config = ConfigDict(extra="forbid", frozen=True, ser_json_inf_nan="constants")

    name: str
    kind: Literal["number", "category", "date"]
    part: DatePart | None = None
    """For a date: day since 1970, month, weekday or hour, as a number."""
    categories: tuple[str, ...] = ()
    """For a category: the values of the training split that have a slot; other values have none, so all slots are 0."""
    fill: float = 0.0
    """Median of the training split, which stands for a missing number."""
    mean: float = 0.0
    std: PositiveFloat = 1.0


class TableInputs(BaseModel):
    """Encoder of rows as [N, W, L]: L columns of W slots; a category is a 1 in its slot, a number is in slot 0."""

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
        if isinstance(data.x, pd.DataFrame):
            frame = data.x
        elif isinstance(data.x, np.ndarray) and data.x.ndim == 2 and data.x.shape[1] == len(self.names):
            frame = pd.DataFrame(data.x, columns=list(self.names))
        else:
            expected = f"expected a table with columns {shorten(', '.join(self.names))}"
            raise UserError(f"{data.source}: {expected}, found something else")
        found = list(map(str, frame.columns))
        if missing := [name for name in self.names if name not in found]:
            close = nearest(missing[0], found)
            question = f"; is it {close!r}?" if close else ""
            listed = shorten(", ".join(map(printable, found)))
            raise UserError(f"{data.source}: column {quoted(missing[0])} is missing{question} Columns: {listed}")
        x_NWL = np.zeros((len(frame), *self.shape), dtype=np.float32)
        for place, column in enumerate(self.columns):
            values = frame[column.name]
            if column.kind == "category":
                self._slots(x_NWL[:, :, place], column, texts(values), data, warn)
                continue
            numbers = date_part(values, column.part, data) if column.part else as_floats(values, data, warn)
            scaled = (np.where(np.isnan(numbers), column.fill, numbers) - column.mean) / column.std
            if len(scaled) and np.median(np.abs(scaled)) > STRONG_SHIFT and column.kind == "number":
                scale = f"values around {np.nanmedian(numbers):.3g}, in training {column.mean:.3g} ± {column.std:.3g}"
                warn(f"{data.source}, column {quoted(column.name)}: {scale}; are they in other units?")
            x_NWL[:, 0, place] = np.clip(scaled, -1e6, 1e6)
        return x_NWL

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the table's columns that are read, each once."""
        return tuple(dict.fromkeys(column.name for column in self.columns))

    @staticmethod
    def _slots(x_NW: Array, column: Column, values: list[str | None], data: UserData, warn: Warn) -> None:
        slot = {name: k for k, name in enumerate(column.categories)}
        rows = [row for row, value in enumerate(values) if value in slot]
        x_NW[rows, [slot[value] for value in values if value is not None and value in slot]] = 1
        if unknown := {value for value in values if value is not None and value not in slot}:
            listed = shorten(", ".join(map(printable, sorted(unknown)[:5])))
            warn(f"{data.source}, column {quoted(column.name)}: categories without a slot count as missing: {listed}")


def as_floats(values: "pd.Series[Any]", data: UserData, warn: Warn) -> Floats:
    """Return a column as float64; missing and infinite values become NaN, and so does text, which ``warn`` reports.

    Raises UserError, which names the first text, if more than a fifth of the values are text.
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
    """Return a column as float64, and the indices of rows with text. Missing and too large numbers and text are NaN."""
    numbers = pd.to_numeric(values, errors="coerce").to_numpy(dtype=np.float64, na_value=np.nan)
    bad = np.flatnonzero(np.isnan(numbers) & values.notna().to_numpy())
    return np.where(np.abs(numbers) <= np.finfo(np.float32).max, numbers, np.nan), bad


def texts(values: "pd.Series[Any]") -> list[str | None]:
    """Return a column as text, None for missing values; 1.0 becomes "1"."""
    return [
        label_text(None if missing else value) for value, missing in zip(values.tolist(), values.isna(), strict=True)
    ]


ColumnKind = Literal["number", "category", "date", "drop"]

MOST_CATEGORIES = 64
"""Largest number of categories of a column that get a slot; the most frequent ones do."""
_COUNTED = {"number": "of numbers", "category": "of categories", "date": "of dates"}
_ROW_NUMBER = re.compile(r"^(|id|index|idx|row|row_?(id|no|number)|unnamed.*|__index_level_\d+__)$", re.I)


def fit_table(data: UserData, train: Indices, options: Options, notes: Notes) -> TableInputs:
    """Return the encoder of a table, measured on the rows ``train``.

    Columns that are constant, empty, row numbers, or text that differs in most rows are left out with a warning. Raises
    UserError if no column is left.
    """
    frame: pd.DataFrame = data.x  # type: ignore[assignment]
    names = list(map(str, frame.columns))
    if twice := [name for name in names if names.count(name) > 1]:
        raise UserError(f"{data.source}: several columns are named {quoted(twice[0])}; give each its own name")
    columns: list[Column] = []
    filled: dict[str, int] = {}
    for name in names:
        if options.columns.get(name) == "drop":
            continue
        kind, why = _kind(name, frame[name], options.columns.get(name))
        if kind == "drop":
            kept = "number" if frame[name].dtype.kind in "biuf" else "category"
            notes.warn(f"column {quoted(name)} is left out: {why}; to keep it: columns: {{{name}: {kept}}}")
            continue
        if why:
            notes.warn(f"column {quoted(name)}: {why}")
        made = _columns(data, name, frame[name].iloc[train], kind, filled)
        if not made:
            notes.warn(f"column {quoted(name)} is left out: it has one value, or none, in train")
        columns += made
    if not columns:
        raise UserError(f"{data.source}: no column is left to predict from; see what was left out: {notes.warnings}")
    if filled:
        listed = shorten(", ".join(f"{printable(name)} ({count})" for name, count in filled.items()), 300)
        notes.warn(f"missing numbers are filled in with the medians of train: {listed}")
    order = sorted(columns, key=lambda column: column.kind != "category")  # as `openml._encoding.encode`
    counts = {kind: len({column.name for column in columns if column.kind == kind}) for kind in _COUNTED}
    found = ", ".join(f"{count} {_COUNTED[kind]}" for kind, count in counts.items() if count)
    notes.find("columns", found, "by their types and values", "columns: {name: number, category, date or drop}")
    return TableInputs(columns=tuple(order))


def _kind(name: str, values: "pd.Series[Any]", given: ColumnKind | None) -> tuple[ColumnKind, str]:
    """Return the kind of a column, and why it is left out or suspicious ("": it is neither)."""
    if given is not None:
        return given, ""
    known = values.dropna()
    if values.dtype.kind == "M":
        return "date", ""
    if values.dtype.kind in "biuf" or known.empty:
        whole = values.dtype.kind != "b" and len(known) == len(values) and bool((known % 1 == 0).all())
        numbered = bool(_ROW_NUMBER.match(name)) and whole and known.is_unique
        return ("drop", "it numbers the rows") if numbered else ("number", "")
    if isinstance(known.iloc[0], list | dict | bytes | np.ndarray):
        return "drop", "its values are neither numbers nor text"
    _, bad = parsed(values)
    text_share = len(bad) / len(known)
    if text_share <= MOST_TEXT_SHARE:
        if not len(bad):
            return "number", ""
        example = f"{quoted(values.iloc[int(bad[0])])} in row {int(bad[0]) + 1}"
        return "number", f"{len(bad)} of {len(known)} values are text, such as {example}; they count as missing"
    if parse_dates(known).notna().all():
        return "date", ""
    number = known.nunique()
    if number > 20 and number > 0.5 * len(known):
        return "drop", f"{number} of its {len(known)} values are different, as of names or free text"
    mixed = f"numbers and text are mixed ({len(bad)} of {len(known)} are text): each value counts as a category"
    return "category", mixed if text_share < 1 else ""


def _columns(
    data: UserData, name: str, values: "pd.Series[Any]", kind: ColumnKind, filled: dict[str, int]
) -> list[Column]:
    if kind == "category":
        counts: dict[str, int] = {}
        for text in texts(values):
            if text is not None:
                counts[text] = counts.get(text, 0) + 1
        kept = sorted(counts, key=lambda text: (-counts[text], text))[:MOST_CATEGORIES]
        missing = any(text is None for text in texts(values))
        return [Column(name=name, kind="category", categories=tuple(sorted(kept)))] if len(kept) + missing > 1 else []
    if kind == "date":
        parts = ((part, date_part(values, part, data)) for part in DATE_PARTS)
        return [made for part, numbers in parts if (made := _measured(name, "date", numbers, part)) is not None]
    numbers, _ = parsed(values)
    measured = _measured(name, "number", numbers)
    if measured is not None and (count := int(np.isnan(numbers).sum())):
        filled[name] = count
    return [measured] if measured is not None else []


def _measured(
    name: str, kind: Literal["number", "date"], numbers: Floats, part: DatePart | None = None
) -> Column | None:
    """Return a column of numbers with its statistics; None if it has fewer than two different values."""
    known = numbers[~np.isnan(numbers)]
    if not len(known) or known.min() == known.max():
        return None
    fill = float(np.median(known))
    complete = np.where(np.isnan(numbers), fill, numbers)
    mean, std = (float(f"{value:.7g}") for value in (complete.mean(), complete.std()))
    return Column(name=name, kind=kind, part=part, fill=fill, mean=mean, std=std or 1.0)
