"""One table of OpenML as its server gives it: columns of categories and of numbers.

Below the raw directory are ``<id>/description.json``, the server's answer about the data set, and ``<id>/data.arff``,
the table, whose MD5 the answer names; both are kept byte for byte.
"""

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
from orca_ray.tasks.openml._description import Description, read_description

Row = Sequence[Any]
Attribute = tuple[str, str | list[str]]
"""Name, and type or declared categories."""

NUMERIC = ("NUMERIC", "REAL", "INTEGER")
_MISSING = (None, "?")  # a quoted question mark is text to the reader, and missing to those who wrote it


@dataclass(frozen=True)
class Nominal:
    """A column of categories."""

    name: str
    declared: tuple[str, ...]
    """In the order of the table's header; some may not occur."""
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
    """The features of a data set, in the order of its table, and what to predict."""

    columns: tuple[Column, ...]
    target: Column


def description_path(dataset_id: int) -> str:
    """Return where a description lies, below the raw directory."""
    return f"{dataset_id}/description.json"


def table_path(dataset_id: int) -> str:
    """Return where a table lies, below the raw directory."""
    return f"{dataset_id}/data.arff"


def read_table(workspace: Workspace, dataset_id: int) -> Table:
    """Read a table.

    Raises:
        UserError: a file is missing; the description is not what it should be; the table has not the MD5 that the
            description names, is no ARFF, lacks the target, or has columns of text or numbers that are infinite.
    """
    description = read_description(workspace.file(description_path(dataset_id)), dataset_id)
    path = workspace.file(table_path(dataset_id))
    _refuse_changed(path, description.md5)
    attributes, rows = _parsed(path)
    if not rows:
        raise UserError(f"{path} has no rows")
    wanted = _wanted(path, attributes, description)
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
    """Return the columns of an ARFF file, and its rows, whole even where the file leaves out zeros."""
    import arff

    try:
        content = arff.loads(path.read_text(encoding="utf-8"))
    except (arff.ArffException, ValueError, LookupError, csv.Error) as error:
        raise UserError(f"{path} is not a table in ARFF: {_worded(error)}") from error
    return content["attributes"], content["data"]


def _worded(error: Exception) -> str:
    """Return what an error says; those of the reader cannot say it of text that has a percent sign."""
    message = getattr(error, "message", None)
    return str(message).replace("%d", str(getattr(error, "line", "?")), 1) if message else str(error)


def _wanted(path: Path, attributes: list[Attribute], description: Description) -> dict[str, int]:
    """Return the places of features and target by name."""
    names = [name for name, _ in attributes]
    if description.target not in names:
        raise UserError(f"{path} has no column {description.target!r}, the target; its columns: {', '.join(names)}")
    left_out = description.left_out - {description.target}
    return {name: i for i, name in enumerate(names) if name not in left_out}


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
