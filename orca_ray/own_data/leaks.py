"""Warnings of leakage: from the target into the inputs, or between splits."""

import re
import shlex
from collections.abc import Iterable, Mapping
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd

from orca_ray.data.layout import SplitName
from orca_ray.data.rows import Array
from orca_ray.data.splits import Indices
from orca_ray.errors import printable, quoted
from orca_ray.own_data import UserData, as_typed

_GROUP_LIKE = re.compile(
    r"(^|_)(id|ids|patient|subject|person|user|customer|session|site|hospital|group|family|batch|speaker|record)(_|$)"
    r"|(patient|subject|user|customer|session|group|speaker|record)_?(id|no|number|nr)$",
    re.I,
)
_CORRELATION = 0.99999
_LEAST_LEVELS = 5
"""Least number of different values of a column, and of a target, whose equal order is
no chance.
"""
_MOST_ROWS = 20_000  # rows that are compared with the target


def target_columns(
    frame: pd.DataFrame, y: Array, *, classes: bool, table: bool
) -> list[str]:
    """Return warnings about columns that tell the target: one-to-one maps and, of
    numbers, columns in its order.

    ``y`` [N] are class numbers if ``classes``, else numbers. A column of numbers tells
    classes if each class has an interval of its own. ``table``: columns can be left out
    by an option.
    """
    found = []
    step = -(-len(y) // _MOST_ROWS)
    frame = frame.iloc[::step]
    y = y[::step]
    for name in frame.columns:
        what = ""
        if classes and _maps(frame[name], y):
            what = "is a one-to-one map of the target"
        elif (numbers := _numbers(frame[name])) is not None:
            what = _tells(numbers, y, classes=classes)
        if what:
            how = f" ({as_typed(str(name), 'drop')})" if table else ""
            advice = f"leave it out{how} unless it is known before the target is"
            found.append(f"column {quoted(str(name))} {what}: {advice}")
    return found


def _maps(column: "pd.Series[Any]", y: Array) -> bool:
    codes, values = pd.factorize(column)
    number = len(np.unique(y))
    if len(values) != number or number < 2:
        return False
    return len(np.unique(np.stack([codes, y]), axis=1).T) == number


def _numbers(column: "pd.Series[Any]") -> Array | None:
    """Return a column as float64, NaN for text and missing values; None for dates, and
    if most values are NaN.
    """
    if column.dtype.kind == "M":
        return None
    numbers = pd.to_numeric(column, errors="coerce").to_numpy(
        dtype=np.float64, na_value=np.nan
    )
    return numbers if np.isfinite(numbers).sum() >= max(3, len(numbers) // 2) else None


def _tells(numbers: Array, y: Array, *, classes: bool) -> str:
    """Return how the order of ``numbers`` [N] tells the target ``y`` [N]; "": it does
    not.
    """
    known = np.isfinite(numbers) & np.isfinite(y)
    numbers = numbers[known]
    y = y[known]
    order = np.lexsort((y, numbers))
    levels = len(np.unique(numbers))
    targets = len(np.unique(y))
    if classes:
        # A class that is left and entered again, or two classes with one value, give
        # more than one border a class.
        borders = int((np.diff(y[order]) != 0).sum())
        shared = len(np.unique(np.stack([numbers, y]), axis=1).T) > levels
        apart = targets > 1 and borders == targets - 1 and not shared
        return "separates the classes without an error" if apart else ""
    if levels < _LEAST_LEVELS or targets < _LEAST_LEVELS:
        return ""
    if abs(np.corrcoef(numbers, y)[0, 1]) > _CORRELATION:
        return "is a one-to-one map of the target"
    falling = np.lexsort((-y, numbers))
    same = (np.diff(y[order]) >= 0).all() or (np.diff(y[falling]) <= 0).all()
    return (
        "has the order of the target, as a rounded or rescaled copy has" if same else ""
    )


def duplicates(
    data: UserData, hashes: Array, splits: Mapping[SplitName, Indices]
) -> list[str]:
    """Return one warning if samples with equal inputs (equal ``hashes`` [N]) are in
    different splits, else none.
    """
    first: dict[Any, tuple[SplitName, int]] = {}
    crossing: list[tuple[int, int, SplitName]] = []
    for split, rows in splits.items():
        for row, value in zip(rows.tolist(), hashes[rows].tolist(), strict=True):
            known, other = first.setdefault(value, (split, row))
            if known != split:
                crossing.append((other, row, split))
    if not crossing:
        return []
    one, other, split = crossing[0]
    shown = [
        data.names[row] if data.names else f"row {row + 1}" for row in (one, other)
    ]
    text = (
        f"{len(crossing)} samples of validation and test have the inputs of a sample of"
        " another split"
    )
    return [
        f"{text}, such as {shown[0]} and {shown[1]} ({split}): scores will be too good;"
        " remove the copies"
    ]


def group_columns(
    frame: pd.DataFrame, splits: Mapping[SplitName, Indices], candidates: Iterable[str]
) -> list[str]:
    """Return warnings about ``candidates`` whose names suggest groups, and with a value
    that is in several splits.

    A column counts if it has at least two different values, and at least two rows per
    value on average.
    """
    found = []
    for name in candidates:
        values = frame[name]
        if (
            not _GROUP_LIKE.search(name)
            or not 1 < (number := values.nunique()) <= len(values) / 2
        ):
            continue
        kinds = [set(values.iloc[rows].dropna().tolist()) for rows in splits.values()]
        if crossing := set[Any]().union(
            *(one & other for one, other in combinations(kinds, 2))
        ):
            text = (
                f"{len(crossing)} of the {number} values of {quoted(name)} are in"
                " several splits"
            )
            found.append(
                f"{text}: if it names groups, such as patients, use --group"
                f" {shlex.quote(printable(name))}"
            )
    return found


def crossing(groups: Array, splits: Mapping[SplitName, Indices]) -> list[str]:
    """Return one warning if a group in ``groups`` [N] has samples in several splits,
    else none.
    """
    kinds = [
        {str(group) for group in groups[rows].tolist()} for rows in splits.values()
    ]
    found = set[str]().union(*(one & other for one, other in combinations(kinds, 2)))
    return (
        [
            f"{len(found)} values of the groups are in several splits, such as"
            f" {min(found)!r}"
        ]
        if found
        else []
    )
