"""The 42 tables of OpenML that the ORCA paper uses, from the papers on TabPFN and LIFT.

Test is a stratified random tenth, validation a tenth of the rest. Numbers are
standardised by statistics of the train split, and under the protocol ``paper`` of all
rows, as in ORCA's code. A row is a sequence of its columns; ``paper`` reads a row of
numbers alone as one token, as ORCA's code does. Classes with fewer than three rows are
left out, with a warning, because every split needs every class.
"""

import logging
import math
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from orca_ray.data import splits
from orca_ray.data.archives import check_growth
from orca_ray.data.cache import check_memory
from orca_ray.data.prepared import PAPER
from orca_ray.data.rows import Array
from orca_ray.data.splits import Indices
from orca_ray.discovery import tables
from orca_ray.errors import UserError
from orca_ray.tasks.arrays import name_arrays
from orca_ray.tasks.openml._table import fetch, raw_files, read_table
from orca_ray.tasks.task import SPLIT_SEED, Arrays, Target, Task, Workspace

if TYPE_CHECKING:
    import pandas as pd

logger = logging.getLogger(__name__)

_LISTED = tables("orca_ray.tasks.openml", "tables.toml")
_OF_ALL = _LISTED.pop("all")
TABLES: Mapping[int, Mapping[str, Any]] = {
    int(dataset_id): declared for dataset_id, declared in _LISTED.items()
}
"""Fields of each data set in ``tables.toml``, by the id of the data set on OpenML."""
LEAST_ROWS = 3
"""Least number of rows of a class: one in each split, so that the metric is defined."""


def build(dataset_id: int, workspace: Workspace) -> Arrays:
    """Return the arrays of one table.

    Raises the UserErrors of `read_table`, `classes`, `check_types`, `frequent` and
    `encode`.
    """
    name = workspace.task
    table, target = read_table(workspace, dataset_id)
    labels, names = classes(name, target)
    if "rows" in TABLES[dataset_id]:
        path = workspace.raw / raw_files(dataset_id)[1].path
        workspace.check_count(path, len(table), TABLES[dataset_id]["rows"])
        if workspace.whole:
            check_types(path, table, len(names), TABLES[dataset_id])
    kept = frequent(name, labels, names)
    labels = np.unique(labels[kept], return_inverse=True)[1]
    train, validation, test = split(labels, SPLIT_SEED)
    is_paper = workspace.protocol == PAPER
    fit = np.arange(len(labels)) if is_paper else train
    x_NLW = encode(name, table[kept], fit)
    is_numeric = x_NLW.shape[2] == 1
    if is_numeric:
        trained_on = np.concatenate([train, validation]) if is_paper else train
        x_NLW = _as_reference(dataset_id, x_NLW, trained_on)
    # Channels are W and the length is L; ``paper`` reads a row of numbers as one token.
    x = x_NLW if is_paper and is_numeric else x_NLW.transpose(0, 2, 1)
    y = labels.astype(np.int64)
    return name_arrays([(x[rows], y[rows]) for rows in (train, validation, test)])


def check_types(
    path: Path, table: "pd.DataFrame", num_classes: int, declared: Mapping[str, int]
) -> None:
    """Raise UserError if a table has other columns or classes than on OpenML.

    ``declared`` has their numbers: the fields ``numeric``, ``nominal`` and ``classes``
    of the table in ``tables.toml``. ``path`` is for the message.
    """
    found = {
        "numeric": table.select_dtypes("number").shape[1],
        "nominal": table.select_dtypes("category").shape[1],
        "classes": num_classes,
    }
    titles = {
        "numeric": "columns of numbers",
        "nominal": "columns of categories",
        "classes": "classes",
    }
    for field, count in found.items():
        if count != declared[field]:
            raise UserError(
                f"{path}: expected {declared[field]} {titles[field]}, as on OpenML,"
                f" found {count}"
            )


def _as_reference(
    dataset_id: int, x_NL1: npt.NDArray[np.float32], trained_on: Indices
) -> npt.NDArray[np.float32]:
    """Return a table of numbers as ORCA's code changes it.

    Some tables are standardised again, one loses a column.
    """
    if "standardised_again" in TABLES[dataset_id]:
        x_NL1 = standardise_again(x_NL1, trained_on)
    kept = TABLES[dataset_id].get("kept_columns", range(x_NL1.shape[1]))
    if max(kept) >= x_NL1.shape[1]:
        raise UserError(
            f"openml/{dataset_id}: expected at least {max(kept) + 1} columns, found"
            f" {x_NL1.shape[1]}"
        )
    return x_NL1[:, list(kept)]


def frequent(name: str, labels: Array, classes: Sequence[str]) -> npt.NDArray[np.bool_]:
    """Return the mask [N] of rows whose class has at least `LEAST_ROWS` rows.

    Log a warning that names rarer classes. ``name`` is the task's name. ``labels`` [N]
    are numbered from 0, with −1 for missing ones, whose rows are left out too.
    ``classes`` are the classes' names. Raises UserError if fewer than two classes are
    left.
    """
    counts = np.bincount(labels[labels >= 0], minlength=len(classes))
    rare = [k for k in range(len(classes)) if 0 < counts[k] < LEAST_ROWS]
    if rare:
        listed = ", ".join(f"{classes[k]} ({counts[k]})" for k in rare)
        text = (
            "%s: classes with fewer than %d rows cannot be in every split, and are left"
            " out: %s"
        )
        logger.warning(text, name, LEAST_ROWS, listed)
    if (counts >= LEAST_ROWS).sum() < 2:
        sizes = ", ".join(
            f"{label}: {count}" for label, count in zip(classes, counts, strict=True)
        )
        raise UserError(
            f"{name}: expected two classes or more of {LEAST_ROWS} rows each, found"
            f" {sizes or 'none'}"
        )
    return np.asarray((labels >= 0) & ~np.isin(labels, rare))


def split(labels: Array, seed: int) -> tuple[Indices, Indices, Indices]:
    """Return the indices of train, validation and test, each in random order.

    Test is a tenth of all rows, and validation a tenth of the remaining rows. Both are
    rounded up, and larger if each class needs a row: their rows are divided among the
    classes in proportion, with at least one row of each class. ``labels`` [N] are
    numbered from 0 without gaps, and each class must have at least `LEAST_ROWS` rows.
    """
    (order,) = splits.split(len(labels), [len(labels)], seed)
    counts = np.bincount(labels)
    test = _shares(counts)
    validation = _shares(counts - test)
    train_part = 0
    validation_part = 1
    test_part = 2
    part = np.full(len(labels), train_part, dtype=np.int8)
    for k in range(len(counts)):
        members = order[labels[order] == k]
        part[members[: test[k]]] = test_part
        part[members[test[k] : test[k] + validation[k]]] = validation_part
    train_indices, validation_indices, test_indices = (
        order[part[order] == number]
        for number in (train_part, validation_part, test_part)
    )
    return train_indices, validation_indices, test_indices


def _shares(counts: Array) -> npt.NDArray[np.int64]:
    """Return the rows of each class in a tenth of all, given the rows of each class.

    Largest remainders round up.
    """
    size = -(-int(counts.sum()) // 10)  # a tenth, rounded up
    exact = counts * size / counts.sum()
    shares: npt.NDArray[np.int64] = np.maximum(np.floor(exact), 1).astype(np.int64)
    spare = max(0, size - int(shares.sum()))
    shares[np.argsort(shares - exact, kind="stable")[:spare]] += 1
    return shares


Floats = npt.NDArray[np.float64]
MISSING = "NaN"
"""Category that stands for a missing value."""
_COPIES = 2
"""Number of copies in memory at once: rows in the order of the table, and by split."""
_EPSILON = 1e-5
"""Number that `standardise_again` adds to deviations."""


def classes(
    name: str, target: "pd.Series[Any]"
) -> tuple[npt.NDArray[np.int64], list[str]]:
    """Return the class numbers [N], and the names of the classes.

    Classes are those that occur in ``target``, numbered from 0: categories in the order
    in which the table declares them, whole numbers in ascending order. A missing class
    has the number −1. Raises UserError if the target has numbers that are not whole;
    ``name`` is the task's name, for the message.
    """
    if target.dtype == "category":
        occurring = target.cat.remove_unused_categories().cat
        return occurring.codes.to_numpy().astype(np.int64), list(occurring.categories)
    numbers = target.to_numpy()
    present = numbers[~np.isnan(numbers)]
    if not np.array_equal(present, np.round(present)):
        raise UserError(
            f"{name}: the target {target.name!r} holds numbers that are not whole,"
            " expected classes"
        )
    values = np.unique(present)
    labels = np.where(np.isnan(numbers), -1, np.searchsorted(values, numbers))
    return labels.astype(np.int64), [f"{value:.0f}" for value in values]


def encode(name: str, table: "pd.DataFrame", fit: Indices) -> npt.NDArray[np.float32]:
    """Return the N rows of a table as sequences [N, L, W] of L columns.

    Each column is encoded in W slots. Columns of categories come first. They are
    one-hot: there is a slot for each category that occurs in any row, sorted as text,
    with `MISSING` as a category. Columns of numbers follow, in the first slot: missing
    values are set to 0, then all are standardised by mean and deviation of the rows
    ``fit``. If no column has categories, columns with missing values are left out
    instead. Raises UserError if no column is left or the result does not fit the
    memory.
    """
    nominal = table.select_dtypes("category")
    numeric = table.select_dtypes("number")
    if nominal.shape[1] == 0:
        numeric = _complete(name, numeric)
    num_rows = len(table)
    length = nominal.shape[1] + numeric.shape[1]
    if length == 0:
        raise UserError(f"{name}: the table has no column left to predict from")
    texts = [
        nominal[column].astype(object).fillna(MISSING).to_numpy() for column in nominal
    ]
    # Categories, and the slot of each row.
    coded = [np.unique(column, return_inverse=True) for column in texts]
    counts = {
        column: len(categories)
        for column, (categories, _) in zip(nominal, coded, strict=True)
    }
    widest = max(counts, key=lambda column: counts[column], default="")
    width = max(1, counts.get(widest, 1))
    check_memory(
        _COPIES * 4.0 * num_rows * length * width,
        f"{name}: column {widest!r} has {width:,} categories, one slot each in"
        f" {num_rows:,} rows of {length} columns",
        "leave the column out (ignore_attribute in description.json)",
    )
    cells = 4 * num_rows * length
    check_growth(
        Path(name),
        cells * width,
        cells,
        f": column {widest!r} has {width:,} categories",
    )
    x_NLW = np.zeros((num_rows, length, width), dtype=np.float32)
    for i, (_, slots) in enumerate(coded):
        x_NLW[np.arange(num_rows), i, slots] = 1
    for i, column in enumerate(numeric, len(coded)):
        x_NLW[:, i, 0] = _standardised(numeric[column].fillna(0.0).to_numpy(), fit)
    return x_NLW


def _complete(name: str, numeric: "pd.DataFrame") -> "pd.DataFrame":
    """Return the columns without missing values; log the names of the others."""
    incomplete = [column for column in numeric if numeric[column].isna().any()]
    if incomplete:
        listed = ", ".join(map(str, incomplete))
        logger.info("%s: columns with missing values are left out: %s", name, listed)
    return numeric.drop(columns=incomplete)


def standardise_again(
    x_NLW: npt.NDArray[np.float32], fit: Indices
) -> npt.NDArray[np.float32]:
    """Return rows standardised again by statistics of the rows ``fit``.

    ORCA's code does this for some tables. The divisor is the deviation, whose variance
    divides by n − 1, plus 1e-5. A column that is constant in ``fit`` is only centred.
    """
    result = np.empty_like(x_NLW)
    for index in np.ndindex(x_NLW.shape[1:]):
        place = (slice(None), *index)
        result[place] = _standardised(
            x_NLW[place].astype(np.float64), fit, ddof=1, epsilon=_EPSILON
        )
    return result


def _standardised(
    values: Floats, fit: Indices, *, ddof: int = 0, epsilon: float = 0.0
) -> Floats:
    """Return ``values`` [N] standardised by mean and deviation of the rows ``fit``.

    The variance divides by n − ``ddof``, and ``epsilon`` is added to the deviation.
    Values that are constant in these rows are only centred. Sums are computed exactly
    (math.fsum), so that they do not depend on the processor.
    """
    fitted = values[fit]
    mean = math.fsum(fitted) / len(fitted)
    if fitted.min() == fitted.max():
        return values - float(fitted[0])
    std = math.sqrt(math.fsum((fitted - mean) ** 2) / (len(fitted) - ddof))
    return (values - mean) / (std + epsilon) if std > 0 else values - mean


def _task(dataset_id: int) -> Task:
    """Return the task of a data set that `TABLES` declares."""
    declared = TABLES[dataset_id]
    fields = dict(_OF_ALL)
    if "lift" in declared:
        fields["metric"] = "error"
    return Task(
        name=f"openml/{dataset_id}",
        title=f"{declared['name']} (OpenML {dataset_id})",
        input_shape=None,
        target=Target("classes", size=0),
        num_samples=None,
        reference=f"https://www.openml.org/d/{dataset_id}",
        files=raw_files(dataset_id),
        fetcher=partial(fetch, dataset_id),
        paper_splits="nominal_only" not in declared,
        build=partial(build, dataset_id),
        **fields,
    )


TASKS = tuple(map(_task, TABLES))
