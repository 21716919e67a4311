"""Encodes the columns of a table as inputs and as class labels.

Letters: N rows, L columns, W slots of a column, which are the entries of its one-hot vector.
"""

import logging
import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from orca_ray.data.cache import check_memory
from orca_ray.data.splits import Indices
from orca_ray.errors import UserError
from orca_ray.tasks.openml._table import Column, Nominal, Numeric

logger = logging.getLogger(__name__)

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
