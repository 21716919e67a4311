"""Inputs from the columns of a table: which columns, and their coding.

Letters of shapes: N rows, W slots, L columns.
"""

from typing import Any, Literal, Self, cast

import numpy as np
import numpy.typing as npt
import pandas as pd
from pydantic import BaseModel, ConfigDict, PositiveFloat, model_validator

from orca_ray.data.rows import Array
from orca_ray.errors import UserError, nearest, printable, quoted, shorten
from orca_ray.own_data import UserData, Warn
from orca_ray.own_data.amounts import AmountForm, parse_amounts
from orca_ray.own_data.dates import (
    MOST_BAD_SHARE,
    DateForm,
    DatePart,
    as_dates,
    date_part,
)
from orca_ray.own_data.targets import label_text
from orca_ray.own_data.texts import Separator, encode_terms, split_cell

Floats = npt.NDArray[np.float64]
STRONG_SHIFT = 20.0
"""Number of standard deviations from the training mean that suggest other units."""


class Column(BaseModel):
    """One column of the inputs.

    It is a number, a category, a list of categories, a part of a date, or some of the
    words of free text.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, ser_json_inf_nan="constants")

    name: str
    kind: Literal["number", "category", "date", "list", "text"]
    part: DatePart | None = None
    """For a date: day since 1970, month, weekday, hour or day of the year, as a number.
    """
    form: DateForm | AmountForm = ""
    """How text is read: the order of day and month, or the decimal mark; "": ISO 8601,
    or plain numbers.
    """
    categories: tuple[str, ...] = ()
    """For a category: the values of the training split that have a slot. For other
    values, all slots are 0. For a list, they are the parts of values, and for free text
    the words.
    """
    separator: Separator = ""
    """For a list: the text between its parts."""
    weights: tuple[float, ...] = ()
    """For free text: the inverse document frequency of each word."""
    fill: float = 0.0
    """Median of the training split, which replaces a missing number."""
    mean: float = 0.0
    std: PositiveFloat = 1.0
    missing: bool = False
    """Whether slot 1 is 1 for a missing number."""


class TableInputs(BaseModel):
    """Encoder of rows as [N, W, L]: L columns of W slots.

    A category is a 1 in its slot, and so is each part of a list. A number is in slot 0.
    The words of a column of free text are divided among several columns.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    form: Literal["table"] = "table"
    columns: tuple[Column, ...]

    @model_validator(mode="after")
    def _check_weights(self) -> Self:
        for column in self.columns:
            if len(column.weights) not in (0, len(column.categories)):
                raise ValueError(f"{column.name}: a word needs one weight")
        return self

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one encoded row: (W, L)."""
        widths = (
            max(len(column.categories), 1 + column.missing) for column in self.columns
        )
        return max(widths, default=1), len(self.columns)

    def encode(self, data: UserData, warn: Warn) -> Array:
        """Return the encoded rows, float32 [N, W, L].

        Calls ``warn`` for categories that were not in training, and for values of
        another scale. Raises UserError for a column that is missing, or has text where
        numbers were.
        """
        frame = self._frame(data)
        x_NWL = np.zeros((len(frame), *self.shape), dtype=np.float32)
        dates: dict[str, pd.Series[Any]] = {}
        for place, column in enumerate(self.columns):
            x_NW = x_NWL[:, :, place]
            values = frame[column.name]
            if column.kind == "text":
                continue
            if column.kind in ("category", "list"):
                _encode_categories(x_NW, column, column_texts(values), data, warn)
                continue
            if column.part is None:
                numbers = as_floats(values, data, warn, column.form)
            else:
                if column.name not in dates:
                    form = cast(DateForm, column.form)
                    dates[column.name] = as_dates(values, form, data, warn)
                numbers = date_part(dates[column.name], column.part)
            _encode_numbers(x_NW, column, numbers, data, warn)
        for name in self._names_of_texts:
            self._encode_free_text(x_NWL, frame[name])
        return x_NWL

    @property
    def has_texts(self) -> bool:
        """Whether a column holds lists of categories, or free text."""
        return any(column.kind in ("list", "text") for column in self.columns)

    @property
    def _names_of_texts(self) -> tuple[str, ...]:
        """Names of the table's columns of free text, each once."""
        names = [column.name for column in self.columns if column.kind == "text"]
        return tuple(dict.fromkeys(names))

    def _encode_free_text(self, x_NWL: Array, values: "pd.Series[Any]") -> None:
        """Write the TF-IDF of all words of a column into the slots of its parts."""
        places = [
            place
            for place, column in enumerate(self.columns)
            if column.kind == "text" and column.name == values.name
        ]
        parts = [self.columns[place] for place in places]
        terms = [term for part in parts for term in part.categories]
        weights = [weight for part in parts for weight in part.weights]
        texts = [text or "" for text in column_texts(values)]
        tf_idf = encode_terms(texts, terms, weights)
        first = 0
        for place, part in zip(places, parts, strict=True):
            end = first + len(part.categories)
            x_NWL[:, : end - first, place] = tf_idf[:, first:end]
            first = end

    def _frame(self, data: UserData) -> pd.DataFrame:
        """Return the rows as a table with the columns of training."""
        if isinstance(data.x, pd.DataFrame):
            _check_columns(self.names, data.x, data.source)
            return data.x
        if (
            isinstance(data.x, np.ndarray)
            and data.x.ndim == 2
            and data.x.shape[1] == len(self.names)
        ):
            return pd.DataFrame(data.x, columns=list(self.names))
        expected = f"expected a table with columns {shorten(', '.join(self.names))}"
        raise UserError(f"{data.source}: {expected}, found something else")

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the table's columns that are read, each once."""
        return tuple(dict.fromkeys(column.name for column in self.columns))


def _check_columns(names: tuple[str, ...], frame: pd.DataFrame, source: str) -> None:
    """Raise UserError if a table lacks one of the columns ``names``."""
    columns = list(map(str, frame.columns))
    missing = [name for name in names if name not in columns]
    if not missing:
        return
    similar = nearest(missing[0], columns)
    question = f"; is it {similar!r}?" if similar else ""
    listed = shorten(", ".join(map(printable, columns)))
    raise UserError(
        f"{source}: column {quoted(missing[0])} is missing{question} Columns: {listed}"
    )


def _encode_categories(
    x_NW: Array, column: Column, values: list[str | None], data: UserData, warn: Warn
) -> None:
    """Set the slot of each value, or of each part of a list, to 1.

    Values without a slot leave their row 0.
    """
    slot_of = {name: slot for slot, name in enumerate(column.categories)}
    unknown = set()
    for row, value in enumerate(values):
        if value is None:
            continue
        parts = split_cell(value, column.separator) if column.separator else [value]
        for part in parts:
            if part in slot_of:
                x_NW[row, slot_of[part]] = 1
            else:
                unknown.add(part)
    if unknown:
        listed = shorten(", ".join(map(printable, sorted(unknown)[:5])))
        warn(
            f"{data.source}, column {quoted(column.name)}: categories without a slot"
            f" count as missing: {listed}"
        )


def _encode_numbers(
    x_NW: Array, column: Column, numbers: Array, data: UserData, warn: Warn
) -> None:
    """Write standardised numbers into slot 0, and their missing mark into slot 1."""
    missing = np.isnan(numbers)
    if column.missing:
        x_NW[:, 1] = missing
    scaled = (np.where(missing, column.fill, numbers) - column.mean) / column.std
    x_NW[:, 0] = np.clip(scaled, -1e6, 1e6)  # standard deviations
    if column.kind != "number" or not len(scaled):
        return
    if np.median(np.abs(scaled)) > STRONG_SHIFT:
        scale = (
            f"values around {np.nanmedian(numbers):.3g}, in training"
            f" {column.mean:.3g} ± {column.std:.3g}"
        )
        warn(
            f"{data.source}, column {quoted(column.name)}: {scale}; are they in other"
            " units?"
        )


def as_floats(
    values: "pd.Series[Any]", data: UserData, warn: Warn, form: str = ""
) -> Floats:
    """Return a column as float64; missing and infinite values, and text, become NaN.

    ``warn`` is called with the first text. Raises UserError, which names it, if more
    than a fifth of the values are text.
    """
    numbers, text_rows = parse_numbers(values, form)
    if not len(text_rows):
        return numbers
    row = int(text_rows[0])
    problem = (
        f"column {quoted(values.name)}: expected a number, found"
        f" {quoted(values.iloc[row])}"
    )
    if len(text_rows) > MOST_BAD_SHARE * len(values):
        raise UserError(f"{data.place(row)}, {problem}; correct it or leave it empty")
    warn(f"{data.place(row)}, {problem}; text counts as missing")
    return numbers


def parse_numbers(values: "pd.Series[Any]", form: str = "") -> tuple[Floats, Array]:
    """Return a column as float64, and the indices of rows with text.

    Missing and too large numbers and text are NaN. ``form`` is that of `Column`: the
    decimal mark of numbers in text with units.
    """
    if form and values.dtype.kind not in "biuf":
        numbers = parse_amounts(values, form)
    else:
        numbers = pd.to_numeric(values, errors="coerce").to_numpy(
            dtype=np.float64, na_value=np.nan
        )
    text_rows = np.flatnonzero(np.isnan(numbers) & values.notna().to_numpy())
    fits_float32 = np.abs(numbers) <= np.finfo(np.float32).max
    return np.where(fits_float32, numbers, np.nan), text_rows


def column_texts(values: "pd.Series[Any]") -> list[str | None]:
    """Return a column as text, None for missing values; 1.0 becomes "1"."""
    labels = []
    pairs = zip(values.tolist(), values.isna().tolist(), strict=True)
    for value, is_missing in pairs:
        label = None if is_missing else label_text(value)
        if label is not None:
            label = label.strip()
        labels.append(label)
    return labels
