"""One table of OpenML: columns of categories and of numbers."""

import csv
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from orca_ray.data.rows import Array
from orca_ray.data.workspace import Workspace
from orca_ray.errors import UserError
from orca_ray.tasks.openml._client import raw_files, read_description

Row = Sequence[Any]
Attribute = tuple[str, str | list[str]]
"""Name, and type or declared categories."""

NUMERIC = ("NUMERIC", "REAL", "INTEGER")
_MISSING = (None, "?")  # the reader takes a quoted question mark for text; uploaders mean a missing value


@dataclass(frozen=True)
class Nominal:
    """A column of categories."""

    name: str
    declared: tuple[str, ...]
    """Declared categories in the order of the header; some may not occur."""
    values: tuple[str | None, ...]
    """[N]; None: missing."""

    def rows(self, chosen: Array) -> Self:
        """Return the column with the rows of a mask [N] only."""
        return replace(self, values=tuple(value for value, kept in zip(self.values, chosen, strict=True) if kept))


@dataclass(frozen=True)
class Numeric:
    """A column of numbers."""

    name: str
    values: npt.NDArray[np.float64]
    """[N]; NaN: missing."""

    def rows(self, chosen: Array) -> Self:
        """Return the column with the rows of a mask [N] only."""
        return replace(self, values=self.values[chosen])


Column = Nominal | Numeric


@dataclass(frozen=True)
class Table:
    """The features of a data set, in the order of its table, and the target."""

    columns: tuple[Column, ...]
    target: Column


def read_table(workspace: Workspace, dataset_id: int) -> Table:
    """Read a table.

    Raises UserError if a file is missing, the description is invalid, or the table has another MD5 than its description
    says, is not ARFF, lacks the target, or has columns of text or infinite numbers.
    """
    description_path, path = (workspace.file(file.path) for file in raw_files(dataset_id))
    description = read_description(description_path, dataset_id)
    _refuse_changed(path, description.md5)
    attributes, rows = _parsed(path)
    if not rows:
        raise UserError(f"{path} has no rows")
    names = [name for name, _ in attributes]
    if description.target not in names:
        raise UserError(f"{path} has no column {description.target!r}, the target; its columns: {', '.join(names)}")
    wanted = {name: i for i, name in enumerate(names) if name not in description.left_out - {description.target}}
    columns = {name: _column(path, attributes[i], [row[i] for row in rows]) for name, i in wanted.items()}
    target = columns.pop(description.target)
    return Table(tuple(columns.values()), target)


def _refuse_changed(path: Path, md5: str) -> None:
    with path.open("rb") as stream:
        found = hashlib.file_digest(stream, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
    if found != md5:
        raise UserError(
            f"{path} has MD5 {found}, expected {md5} as description.json beside it says: it is truncated or changed; "
            f"remove it and fetch it again"
        )


def _parsed(path: Path) -> tuple[list[Attribute], list[Row]]:
    """Return the columns and the rows of an ARFF file, sparse rows with their zeros."""
    import arff

    try:
        content = arff.loads(path.read_text(encoding="utf-8"))
    except (arff.ArffException, ValueError, LookupError, csv.Error) as error:
        raise UserError(f"{path} is not a table in ARFF: {_worded(error)}") from error
    return content["attributes"], content["data"]


def _worded(error: Exception) -> str:
    """Return an error's message; the reader's own formatting fails for text with a percent sign."""
    message = getattr(error, "message", None)
    return str(message).replace("%d", str(getattr(error, "line", "?")), 1) if message else str(error)


def _column(path: Path, attribute: Attribute, values: list[Any]) -> Column:
    name, kind = attribute
    if isinstance(kind, list):
        return Nominal(name, tuple(kind), tuple(None if value in _MISSING else value for value in values))
    if kind.upper() not in NUMERIC:
        raise UserError(f"{path}: column {name!r} is of type {kind}, expected categories or {', '.join(NUMERIC)}")
    numbers = np.array([np.nan if value is None else value for value in values], dtype=np.float64)
    if np.isinf(numbers).any():
        raise UserError(f"{path}: column {name!r} has an infinite value in row {int(np.isinf(numbers).argmax())}")
    return Numeric(name, numbers)
