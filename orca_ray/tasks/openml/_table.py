"""Reads a table of OpenML, with columns of categories and of numbers; encodes inputs and class labels."""

import hashlib
import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from orca_ray.data import cache
from orca_ray.data.cache import check_memory
from orca_ray.data.gzip_stream import check_growth
from orca_ray.data.raw import Workspace
from orca_ray.data.readers import check_not_finite
from orca_ray.data.rows import Array
from orca_ray.data.splits import Indices
from orca_ray.errors import UserError, quoted, shorten
from orca_ray.tasks.openml._client import raw_files, read_description

logger = logging.getLogger(__name__)

Row = Sequence[Any]
Attribute = tuple[str, str | list[str]]
"""Declaration of a column: its name, and its type or its categories."""

NUMERIC = ("NUMERIC", "REAL", "INTEGER")
_CELL_BYTES = 40.0  # memory of one number in the lists that the ARFF reader makes
_MISSING = (None, "?")  # the ARFF reader reads a quoted question mark as text, but uploaders mean a missing value


@dataclass(frozen=True)
class Nominal:
    """A column of categories."""

    name: str
    declared: tuple[str, ...]
    """Declared categories in the order of the header; some may not occur."""
    values: tuple[str | None, ...]
    """The N values of the column; None: missing."""

    def rows(self, chosen: Array) -> Self:
        """Return the column with the rows of a mask [N] only."""
        return replace(self, values=tuple(value for value, kept in zip(self.values, chosen, strict=True) if kept))


@dataclass(frozen=True)
class Numeric:
    """A column of numbers."""

    name: str
    values: npt.NDArray[np.float64]
    """The values of the column, [N]; NaN: missing."""

    def rows(self, chosen: Array) -> Self:
        """Return the column with the rows of a mask [N] only."""
        return replace(self, values=self.values[chosen])


Column = Nominal | Numeric


@dataclass(frozen=True)
class Table:
    """The feature columns of a data set, in the order of its file, and the target column."""

    columns: tuple[Column, ...]
    target: Column


def read_table(workspace: Workspace, dataset_id: int) -> Table:
    """Read the table of the data set ``dataset_id``.

    Raises UserError if a file is missing, the description is invalid, or the table has another MD5 than its description
    says, is not ARFF, has no rows, lacks the target column, or has columns of free text or infinite numbers.
    """
    description_path, path = (workspace.file(file.path) for file in raw_files(dataset_id))
    description = read_description(description_path, dataset_id)
    _check_changed(path, description.md5)
    attributes, rows = _parsed(path)
    if not rows:
        raise UserError(f"{path} has no rows")
    names = [name for name, _ in attributes]
    if description.target not in names:
        absent = quoted(description.target)
        raise UserError(f"{path} has no column {absent}, the target; its columns: {quoted(names)}")
    wanted = {name: i for i, name in enumerate(names) if name not in description.left_out - {description.target}}
    columns = {name: _column(path, attributes[i], [row[i] for row in rows]) for name, i in wanted.items()}
    target = columns.pop(description.target)
    return Table(tuple(columns.values()), target)


def _check_changed(path: Path, md5: str) -> None:
    with path.open("rb") as stream:
        found = hashlib.file_digest(stream, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
    if found != md5:
        raise UserError(
            f"{path} has MD5 {found}, expected {md5} as description.json beside it says: it is truncated or changed; "
            f"remove it and fetch it again"
        )


def _parsed(path: Path) -> tuple[list[Attribute], list[Row]]:
    """Return the declared columns and the rows of an ARFF file; sparse rows are filled with zeros."""
    import arff

    try:
        text = cache.read_bytes(path).decode().replace("\r\n", "\n").replace("\r", "\n")
        starts = [line.strip()[:10].upper() for line in text.split("\n")]
        cells = starts.count("@ATTRIBUTE") * sum(start.startswith("{") for start in starts)
        check_growth(path, 8 * cells, len(text), " as rows with all their zeros")
        cache.check_memory(_CELL_BYTES * max(cells, len(text) / 2), f"{path}: its table", "give a smaller table")
        content = arff.loads(text)
    except (UserError, MemoryError):
        raise
    except Exception as error:  # the ARFF reader raises other exceptions than it documents
        raise UserError(f"{path} is not a table in ARFF: {shorten(_worded(error))}") from error
    return content["attributes"], content["data"]


def _worded(error: Exception) -> str:
    """Return the message of an ARFF reader's error, whose own ``__str__`` fails for text with a percent sign."""
    message = getattr(error, "message", None)
    return str(message).replace("%d", str(getattr(error, "line", "?")), 1) if message else str(error)


def _column(path: Path, attribute: Attribute, values: list[Any]) -> Column:
    name, kind = attribute
    if isinstance(kind, list):
        return Nominal(name, tuple(kind), tuple(None if value in _MISSING else value for value in values))
    where = f"column {quoted(name)}"
    if kind.upper() not in NUMERIC:
        raise UserError(f"{path}: {where} is of type {kind}, expected categories or {', '.join(NUMERIC)}")
    numbers = np.array([np.nan if value is None else value for value in values], dtype=np.float64)
    check_not_finite(path, where, np.where(np.isnan(numbers), 0.0, numbers))
    return Numeric(name, numbers)


Floats = npt.NDArray[np.float64]
MISSING = "NaN"
"""Category that stands for a missing value."""
_COPIES = 2  # in memory at once: rows in the order of the table, and rows by split
_EPSILON = 1e-5  # added to deviations by `standardise_again`


def classes(name: str, target: Column) -> tuple[npt.NDArray[np.int64], list[str]]:
    """Return labels [N], −1 for missing ones, and the names of the classes that occur in ``target``.

    Classes that occur are numbered from 0: categories in the order in which the table declares them, whole numbers in
    ascending order. Raises UserError if the target has numbers that are not whole; ``name`` is the task's.
    """
    if isinstance(target, Nominal):
        found = set(target.values)
        occurring = [each for each in target.declared if each in found]
        number = {each: k for k, each in enumerate(occurring)}
        return np.array([-1 if each is None else number[each] for each in target.values], dtype=np.int64), occurring
    known = target.values[~np.isnan(target.values)]
    if not np.array_equal(known, np.round(known)):
        raise UserError(f"{name}: the target {target.name!r} holds numbers that are not whole, expected classes")
    values = np.unique(known)
    labels = np.where(np.isnan(target.values), -1, np.searchsorted(values, target.values))
    return labels.astype(np.int64), [f"{value:.0f}" for value in values]


def encode(name: str, columns: Sequence[Column], fit: Indices) -> npt.NDArray[np.float32]:
    """Return the rows of a table as sequences of encoded columns, [N, L, W].

    Columns of categories come first. They are one-hot: there is a slot for each category that occurs in any row, sorted
    as text, with `MISSING` as a category. Columns of numbers follow, in the first slot: missing values are set to 0,
    then all are standardised by mean and deviation of the rows ``fit``. If no column has categories, columns with
    missing values are left out instead. Raises UserError if no column is left or the result does not fit the memory.
    """
    nominal = [column for column in columns if isinstance(column, Nominal)]
    numeric = [column for column in columns if isinstance(column, Numeric)]
    if not nominal:
        numeric = _complete(name, numeric)
    if not nominal and not numeric:
        raise UserError(f"{name}: the table has no column left to predict from")
    num_rows, length = len(columns[0].values), len(nominal) + len(numeric)
    slots = [_slots(column) for column in nominal]
    width = max([1, *map(len, slots)])
    widest = next((column.name for column, each in zip(nominal, slots, strict=True) if len(each) == width), "")
    check_memory(
        _COPIES * 4.0 * num_rows * length * width,
        f"{name}: column {widest!r} has {width:,} categories, one slot each in {num_rows:,} rows of {length} columns",
        "leave the column out (ignore_attribute in description.json)",
    )
    x_NLW = np.zeros((num_rows, length, width), dtype=np.float32)
    for i, (column, slot) in enumerate(zip(nominal, slots, strict=True)):
        x_NLW[np.arange(num_rows), i, [slot[_known(value)] for value in column.values]] = 1
    for i, numbers in enumerate((each.values for each in numeric), len(nominal)):
        x_NLW[:, i, 0] = _standardised(np.where(np.isnan(numbers), 0.0, numbers), fit)
    return x_NLW


def standardise_again(x_NLW: npt.NDArray[np.float32], fit: Indices) -> npt.NDArray[np.float32]:
    """Return the rows standardised again by statistics of the rows ``fit``, as ORCA's code does for some tables.

    The divisor is the unbiased deviation plus 1e-5. A column that is constant in ``fit`` is only centred.
    """
    again = np.empty_like(x_NLW)
    for index in np.ndindex(x_NLW.shape[1:]):
        place = (slice(None), *index)
        again[place] = _standardised(x_NLW[place].astype(np.float64), fit, unbiased=1, epsilon=_EPSILON)
    return again


def _complete(name: str, columns: Sequence[Numeric]) -> list[Numeric]:
    complete = [column for column in columns if not np.isnan(column.values).any()]
    if len(complete) < len(columns):
        left_out = ", ".join(column.name for column in columns if np.isnan(column.values).any())
        logger.info("%s: columns with missing values are left out: %s", name, left_out)
    return complete


def _slots(column: Nominal) -> dict[str, int]:
    return {category: i for i, category in enumerate(sorted(set(map(_known, column.values))))}


def _known(value: str | None) -> str:
    return MISSING if value is None else value


def _standardised(values: Floats, fit: Indices, *, unbiased: int = 0, epsilon: float = 0.0) -> Floats:
    """Return ``values`` [N] standardised by mean and deviation of the rows ``fit``; if constant there, only centred.

    Sums are computed exactly (math.fsum), so that they do not depend on the processor.
    """
    chosen = values[fit]
    mean = math.fsum(chosen) / len(chosen)
    if chosen.min() == chosen.max():
        return values - float(chosen[0])
    std = math.sqrt(math.fsum((chosen - mean) ** 2) / (len(chosen) - unbiased))
    return (values - mean) / (std + epsilon) if std > 0 else values - mean
