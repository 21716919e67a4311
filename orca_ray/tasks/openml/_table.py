"""Reads a table of OpenML, which has columns of categories and columns of numbers."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from orca_ray.data import cache
from orca_ray.data.gzip_stream import check_growth
from orca_ray.data.raw import Workspace
from orca_ray.data.readers import check_not_finite
from orca_ray.data.rows import Array
from orca_ray.errors import UserError, quoted, shorten
from orca_ray.tasks.openml._client import raw_files, read_description

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
