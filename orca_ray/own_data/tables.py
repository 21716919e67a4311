"""Inputs from the columns of a table: which columns, and their coding.

Letters: N rows, W slots, L columns.
"""

import re
from dataclasses import dataclass
from typing import Any, Literal, cast

import numpy as np
import numpy.typing as npt
import pandas as pd
from pydantic import BaseModel, ConfigDict, PositiveFloat

from orca_ray.data.rows import Array
from orca_ray.data.splits import Indices
from orca_ray.errors import UserError, nearest, printable, quoted, shorten
from orca_ray.own_data import ColumnHow, Notes, Options, UserData, Warn, as_typed
from orca_ray.own_data.amounts import AmountForm, amount_form, parse_amounts
from orca_ray.own_data.dates import (
    DATE_PARTS,
    MOST_BAD_SHARE,
    DateForm,
    DatePart,
    as_dates,
    date_form,
    date_part,
    unsure,
)
from orca_ray.own_data.targets import label_text

Floats = npt.NDArray[np.float64]
STRONG_SHIFT = 20.0
"""Number of standard deviations from the training mean beyond which new values are
probably in other units.
"""


class Column(BaseModel):
    """One column of the inputs: a number, a category, or a part of a date."""

    model_config = ConfigDict(extra="forbid", frozen=True, ser_json_inf_nan="constants")

    name: str
    kind: Literal["number", "category", "date"]
    part: DatePart | None = None
    """For a date: day since 1970, month, weekday, hour or day of the year, as a number.
    """
    form: DateForm | AmountForm = ""
    """How text is read: the order of day and month, or the decimal mark; "": ISO 8601,
    or plain numbers.
    """
    categories: tuple[str, ...] = ()
    """For a category: the values of the training split that have a slot; other values
    have none, so all slots are 0.
    """
    fill: float = 0.0
    """Median of the training split, which stands for a missing number."""
    mean: float = 0.0
    std: PositiveFloat = 1.0
    missing: bool = False
    """Whether slot 1 is 1 for a missing number."""


class TableInputs(BaseModel):
    """Encoder of rows as [N, W, L]: L columns of W slots; a category is a 1 in its
    slot, a number is in slot 0.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    form: Literal["table"] = "table"
    columns: tuple[Column, ...]

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one encoded row: (W, L)."""
        widths = (
            max(len(column.categories), 1 + column.missing) for column in self.columns
        )
        return max(widths, default=1), len(self.columns)

    def encode(self, data: UserData, warn: Warn) -> Array:
        """Return the encoded rows, float32 [N, W, L].

        Raises UserError for a column that is missing, or has text where numbers were;
        reports categories that were not in training and values of another scale to
        ``warn``.
        """
        if isinstance(data.x, pd.DataFrame):
            frame = data.x
        elif (
            isinstance(data.x, np.ndarray)
            and data.x.ndim == 2
            and data.x.shape[1] == len(self.names)
        ):
            frame = pd.DataFrame(data.x, columns=list(self.names))
        else:
            expected = f"expected a table with columns {shorten(', '.join(self.names))}"
            raise UserError(f"{data.source}: {expected}, found something else")
        found = list(map(str, frame.columns))
        if missing := [name for name in self.names if name not in found]:
            close = nearest(missing[0], found)
            question = f"; is it {close!r}?" if close else ""
            listed = shorten(", ".join(map(printable, found)))
            raise UserError(
                f"{data.source}: column {quoted(missing[0])} is missing{question}"
                f" Columns: {listed}"
            )
        x_NWL = np.zeros((len(frame), *self.shape), dtype=np.float32)
        dates: dict[str, pd.Series[Any]] = {}
        for place, column in enumerate(self.columns):
            values = frame[column.name]
            if column.kind == "category":
                self._slots(x_NWL[:, :, place], column, texts(values), data, warn)
                continue
            if column.part:
                if column.name not in dates:
                    dates[column.name] = as_dates(
                        values, cast(DateForm, column.form), data, warn
                    )
                numbers = date_part(dates[column.name], column.part)
            else:
                numbers = as_floats(values, data, warn, column.form)
            if column.missing:
                x_NWL[:, 1, place] = np.isnan(numbers)
            scaled = (
                np.where(np.isnan(numbers), column.fill, numbers) - column.mean
            ) / column.std
            if (
                len(scaled)
                and np.median(np.abs(scaled)) > STRONG_SHIFT
                and column.kind == "number"
            ):
                scale = (
                    f"values around {np.nanmedian(numbers):.3g}, in training"
                    f" {column.mean:.3g} ± {column.std:.3g}"
                )
                warn(
                    f"{data.source}, column {quoted(column.name)}: {scale}; are they in"
                    " other units?"
                )
            x_NWL[:, 0, place] = np.clip(scaled, -1e6, 1e6)
        return x_NWL

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the table's columns that are read, each once."""
        return tuple(dict.fromkeys(column.name for column in self.columns))

    @staticmethod
    def _slots(
        x_NW: Array,
        column: Column,
        values: list[str | None],
        data: UserData,
        warn: Warn,
    ) -> None:
        slot = {name: k for k, name in enumerate(column.categories)}
        rows = [row for row, value in enumerate(values) if value in slot]
        x_NW[
            rows,
            [slot[value] for value in values if value is not None and value in slot],
        ] = 1
        if unknown := {
            value for value in values if value is not None and value not in slot
        }:
            listed = shorten(", ".join(map(printable, sorted(unknown)[:5])))
            warn(
                f"{data.source}, column {quoted(column.name)}: categories without a"
                f" slot count as missing: {listed}"
            )


def as_floats(
    values: "pd.Series[Any]", data: UserData, warn: Warn, form: str = ""
) -> Floats:
    """Return a column as float64; missing and infinite values become NaN, and so does
    text, which ``warn`` reports.

    Raises UserError, which names the first text, if more than a fifth of the values are
    text.
    """
    numbers, bad = parsed(values, form)
    if len(bad):
        row = int(bad[0])
        found = (
            f"column {quoted(values.name)}: expected a number, found"
            f" {quoted(values.iloc[row])}"
        )
        if len(bad) > MOST_BAD_SHARE * len(values):
            raise UserError(f"{data.place(row)}, {found}; correct it or leave it empty")
        warn(f"{data.place(row)}, {found}; text counts as missing")
    return numbers


def parsed(values: "pd.Series[Any]", form: str = "") -> tuple[Floats, Array]:
    """Return a column as float64, and the indices of rows with text. Missing and too
    large numbers and text are NaN.

    ``form`` is that of `Column`: of the decimal mark in text with units.
    """
    if form and values.dtype.kind not in "biuf":
        numbers = parse_amounts(values, form)
    else:
        numbers = pd.to_numeric(values, errors="coerce").to_numpy(
            dtype=np.float64, na_value=np.nan
        )
    bad = np.flatnonzero(np.isnan(numbers) & values.notna().to_numpy())
    return np.where(np.abs(numbers) <= np.finfo(np.float32).max, numbers, np.nan), bad


def texts(values: "pd.Series[Any]") -> list[str | None]:
    """Return a column as text, None for missing values; 1.0 becomes "1"."""
    missing = values.isna().tolist()
    labels = [
        None if gone else label_text(value)
        for value, gone in zip(values.tolist(), missing, strict=True)
    ]
    return [label and label.strip() for label in labels]


MOST_CATEGORIES = 64
"""Largest number of categories of a column that get a slot; the most frequent ones do.
"""
_COUNTED = {"number": "of numbers", "category": "of categories", "date": "of dates"}
_FORMS: dict[str, tuple[ColumnHow, DateForm | AmountForm]] = {
    "day-first": ("date", "day-first"),
    "month-first": ("date", "month-first"),
    "decimal-point": ("number", "decimal-point"),
    "decimal-comma": ("number", "decimal-comma"),
}
_NUMBERING = re.compile(
    r"(?i:^(|index|idx|unnamed.*|__index_level_\d+__)$)"
    r"|(?i:(^|[\W_])(row_?(id|no|number)?|id|ids|uid|uuid|guid|key|no|nr|number)$)|[a-z](Id|ID|No|Nr)$"
)


@dataclass(frozen=True)
class _Reading:
    """How a column is read."""

    kind: ColumnHow
    form: DateForm | AmountForm = ""
    why: str = ""
    """Why the column is left out, or what is unusual about it."""


def fit_table(
    data: UserData, train: Indices, options: Options, notes: Notes
) -> TableInputs:
    """Return the encoder of a table, measured on the rows ``train``.

    Columns that are constant, empty, row numbers, or text that differs in most rows are
    left out with a warning. Raises UserError if no column is left.
    """
    frame: pd.DataFrame = data.x  # type: ignore[assignment]
    names = list(map(str, frame.columns))
    if twice := [name for name in names if names.count(name) > 1]:
        raise UserError(
            f"{data.source}: several columns are named {quoted(twice[0])}; give each"
            " its own name"
        )
    columns: list[Column] = []
    forms: list[str] = []
    for name in names:
        if options.columns.get(name) == "drop":
            continue
        read = _read(name, frame[name], options.columns.get(name))
        if read.kind == "drop":
            kept: ColumnHow = (
                "number" if frame[name].dtype.kind in "biuf" else "category"
            )
            notes.warn(
                f"column {quoted(name)} is left out: {read.why}; to keep it:"
                f" {as_typed(name, kept)}"
            )
            continue
        if read.why:
            notes.warn(f"column {quoted(name)}: {read.why}")
        made = _columns(data, frame[name], train, read, notes)
        if not made:
            notes.warn(
                f"column {quoted(name)} is left out: it has one value, or none, in"
                " train"
            )
        columns += made
        forms += [f"{printable(name)} {read.form}"] if read.form else []
    if not columns:
        listed = "; ".join(notes.warnings)
        raise UserError(f"{data.source}: no column is left to predict from: {listed}")
    if filled := [printable(column.name) for column in columns if column.missing]:
        listed = shorten(", ".join(filled), 300)
        notes.warn(
            "missing numbers become the median of train, and a mark beside it says so:"
            f" {listed}"
        )
    order = sorted(
        columns, key=lambda column: column.kind != "category"
    )  # as `openml._encoding.encode`
    counts = {
        kind: len({column.name for column in columns if column.kind == kind})
        for kind in _COUNTED
    }
    found = ", ".join(
        f"{count} {_COUNTED[kind]}" for kind, count in counts.items() if count
    )
    notes.find("columns", found, "by their types and values", "columns")
    if forms:
        notes.find(
            "numbers and dates in text",
            shorten(", ".join(forms), 300),
            "by their values",
            "columns",
        )
    return TableInputs(columns=tuple(order))


def _read(name: str, values: "pd.Series[Any]", given: ColumnHow | None) -> _Reading:
    """Return how a column is read: as ``given``, if it is, else by its values."""
    known = values.dropna()
    plain = values.dtype.kind in "biuf"
    if declared := _FORMS.get(given or ""):
        return _Reading(*declared)
    if given in ("category", "drop") or (given is not None and plain):
        return _Reading(given)
    if values.dtype.kind == "M":
        return _Reading("date")
    if plain or known.empty:
        whole = (
            plain
            and values.dtype.kind != "b"
            and len(known) == len(values)
            and bool((known % 1 == 0).all())
        )
        if not whole or not known.is_unique:
            return _Reading("number")
        if _NUMBERING.search(name):
            return _Reading("drop", why="it numbers the rows")
        ordered = known.max() - known.min() == len(known) - 1
        counted = (
            "its values number the rows; if they say nothing else:"
            f" {as_typed(name, 'drop')}"
        )
        return _Reading("number", why=counted if ordered else "")
    if isinstance(known.iloc[0], list | dict | bytes | np.ndarray):
        return _Reading("drop", why="its values are neither numbers nor text")
    return _read_text(name, values, known, given)


def _read_text(
    name: str,
    values: "pd.Series[Any]",
    known: "pd.Series[Any]",
    given: ColumnHow | None,
) -> _Reading:
    _, bad = parsed(values)
    form, example = amount_form(known) if len(bad) and given != "date" else (None, "")
    units = "" if form else example
    if form and len(fewer := parsed(values, form)[1]) < len(bad):
        bad = fewer
    else:
        form = None
    if given == "number" or (given is None and len(bad) <= MOST_BAD_SHARE * len(known)):
        why = unsure(form, example, name) if form and example else ""
        if len(bad):
            cell = f"{quoted(values.iloc[int(bad[0])])} in row {int(bad[0]) + 1}"
            why = (
                f"{len(bad)} of {len(known)} values are text, such as {cell}; they"
                " count as missing"
            )
        return _Reading("number", form or "", why)
    order, example = date_form(known)
    if order is not None or given == "date":
        return _Reading(
            "date",
            order or "",
            unsure(order, example, name) if order and example else "",
        )
    number = known.nunique()
    if number > 20 and number > 0.5 * len(known):
        if units:
            return _Reading(
                "drop", why=f"its numbers have several units ({units}); give all in one"
            )
        what = (
            f"{number} of its {len(known)} values are different, as of names or free"
            " text, which is no input"
        )
        return _Reading(
            "drop", why=f"{what}: give numbers or categories derived from it"
        )
    mixed = (
        f"numbers and text are mixed ({len(bad)} of {len(known)} are text): each value"
        " counts as a category"
    )
    return _Reading("category", why=mixed if len(bad) < len(known) else "")


def _columns(
    data: UserData,
    values: "pd.Series[Any]",
    train: Indices,
    read: _Reading,
    notes: Notes,
) -> list[Column]:
    """Return the columns of the encoding that one column of the table becomes; none if
    it is constant in ``train``.
    """
    name = str(values.name)
    given = values.iloc[train]
    if read.kind == "category":
        counts: dict[str, int] = {}
        for text in texts(given):
            if text is not None:
                counts[text] = counts.get(text, 0) + 1
        kept = sorted(counts, key=lambda text: (-counts[text], text))[:MOST_CATEGORIES]
        missing = any(text is None for text in texts(given))
        return (
            [Column(name=name, kind="category", categories=tuple(sorted(kept)))]
            if len(kept) + missing > 1
            else []
        )
    if read.kind == "date":
        dates = as_dates(values, cast(DateForm, read.form), data, notes.warn).iloc[
            train
        ]
        parts = (
            DATE_PARTS if dates.dt.year.nunique() > 1 else DATE_PARTS[:-1]
        )  # in one year, it says what days say
        plain = [
            Column(name=name, kind="date", part=part, form=read.form) for part in parts
        ]
        made = [
            _measured(column, date_part(dates, part))
            for column, part in zip(plain, parts, strict=True)
        ]
        return [column for column in made if column is not None]
    numbers, bad = parsed(given, read.form)
    if extreme := int(np.isnan(numbers).sum() - given.isna().sum() - len(bad)):
        notes.warn(
            f"column {quoted(name)}: {extreme} infinite or too large values count as"
            " missing"
        )
    measured = _measured(Column(name=name, kind="number", form=read.form), numbers)
    return [] if measured is None else [measured]


def _measured(column: Column, numbers: Floats) -> Column | None:
    """Return a column of numbers with its statistics; None if ``numbers`` are all
    equal, or all missing.

    Missing numbers are marked; of a date, the first part marks them for all parts.
    """
    known = numbers[~np.isnan(numbers)]
    missing = len(known) < len(numbers) and column.part in (None, DATE_PARTS[0])
    if not len(known) or (known.min() == known.max() and not missing):
        return None
    fill = float(np.median(known))
    complete = np.where(np.isnan(numbers), fill, numbers)
    mean, std = (float(f"{value:.7g}") for value in (complete.mean(), complete.std()))
    return column.model_copy(
        update={"fill": fill, "mean": mean, "std": std or 1.0, "missing": missing}
    )
