"""Warnings of leakage: from the target into the inputs, or between splits."""

import math
import re
import shlex
from collections.abc import Iterable, Mapping
from itertools import combinations
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from scipy.special import bdtrc

from orca_ray.data.layout import SplitName
from orca_ray.data.rows import Array
from orca_ray.data.splits import Indices
from orca_ray.errors import printable, quoted
from orca_ray.own_data import UserData, column_option

_GROUP_LIKE = re.compile(
    r"(^|_)"
    r"(id|ids|patient|subject|person|user|customer|session|site|hospital|group|family"
    r"|batch|speaker|record)"
    r"(_|$)"
    r"|(patient|subject|user|customer|session|group|speaker|record)_?(id|no|number|nr)$",
    re.I,
)
"""Names of columns that probably name groups."""
_CORRELATION = 0.99999
"""Correlation with the target from which a column is a rescaled copy of it."""
_LEAST_LEVELS = 5
"""Least number of different values of a column and of the target.

With fewer, the equal order of column and target may be chance.
"""
_MOST_COMPARED = 500
"""Largest number of samples of validation and test whose neighbours are computed."""
_LEAST_NEIGHBOURS = 150
"""Least number of samples of train of which the hundred nearest ones are near."""
_CHANCE = 1e-3
"""Largest probability of so many near neighbours by chance that is warned of."""
_MOST_ROWS = 20_000
"""Largest number of rows that are compared with the target."""


def target_columns(
    frame: pd.DataFrame, y: Array, *, classes: bool, table: bool
) -> list[str]:
    """Return warnings about columns that give the target away.

    Such a column is a one-to-one map of the target or, if it holds numbers, has the
    target's order.

    ``y`` [N] are class numbers if ``classes``, else numbers. A column of numbers gives
    classes away if each class has an interval of its own. ``table``: columns can be
    left out by an option.
    """
    warnings = []
    step = -(-len(y) // _MOST_ROWS)
    frame = frame.iloc[::step]
    y = y[::step]
    for name in frame.columns:
        relation = _relation(frame[name], y, classes=classes)
        if not relation:
            continue
        option = f" ({column_option(str(name), 'drop')})" if table else ""
        advice = f"leave it out{option} unless it is known before the target is"
        warnings.append(f"column {quoted(str(name))} {relation}: {advice}")
    return warnings


def _relation(column: "pd.Series[Any]", y: Array, *, classes: bool) -> str:
    """Return how a column gives the target away; "": it does not."""
    if classes and _maps(column, y):
        return "is a one-to-one map of the target"
    numbers = _numbers(column)
    if numbers is None:
        return ""
    is_valid = np.isfinite(numbers) & np.isfinite(y)
    if not classes:
        return _number_relation(numbers[is_valid], y[is_valid])
    if _separates(numbers[is_valid], y[is_valid]):
        return "separates the classes without an error"
    return ""


def _maps(column: "pd.Series[Any]", y: Array) -> bool:
    """Return whether each value of a column has a class [N] of its own."""
    codes, values = pd.factorize(column)
    num_classes = len(np.unique(y))
    if len(values) != num_classes or num_classes < 2:
        return False
    return _num_pairs(codes, y) == num_classes


def _num_pairs(first: Array, second: Array) -> int:
    """Return the number of different pairs of values at the same place."""
    pairs = np.unique(np.stack([first, second]), axis=1)
    return len(pairs.T)


def _numbers(column: "pd.Series[Any]") -> Array | None:
    """Return a column as float64, NaN for text and missing values.

    None for dates, and if most values are NaN.
    """
    if column.dtype.kind == "M":
        return None
    numbers = pd.to_numeric(column, errors="coerce").to_numpy(
        dtype=np.float64, na_value=np.nan
    )
    least = max(3, len(numbers) // 2)  # half of the values, and at least 3
    return numbers if np.isfinite(numbers).sum() >= least else None


def _separates(numbers: Array, y: Array) -> bool:
    """Return whether the values of each class [N] have an interval of their own."""
    num_classes = len(np.unique(y))
    if num_classes < 2:
        return False
    # A class that is left and entered again, or two classes with one value, give more
    # than one border a class.
    order = np.lexsort((y, numbers))
    num_borders = int((np.diff(y[order]) != 0).sum())
    is_shared = _num_pairs(numbers, y) > len(np.unique(numbers))
    return num_borders == num_classes - 1 and not is_shared


def _number_relation(numbers: Array, y: Array) -> str:
    """Return how ``numbers`` [N] give a target of numbers [N] away; "": they do not."""
    if min(len(np.unique(numbers)), len(np.unique(y))) < _LEAST_LEVELS:
        return ""
    if abs(np.corrcoef(numbers, y)[0, 1]) > _CORRELATION:
        return "is a one-to-one map of the target"
    rising = np.lexsort((y, numbers))
    falling = np.lexsort((-y, numbers))
    if (np.diff(y[rising]) >= 0).all() or (np.diff(y[falling]) <= 0).all():
        return "has the order of the target, as a rounded or rescaled copy has"
    return ""


def duplicates(
    data: UserData, hashes: Array, splits: Mapping[SplitName, Indices]
) -> list[str]:
    """Return a list with a warning if samples with equal inputs are in several splits.

    Samples with equal ``hashes`` [N] have equal inputs. The list is empty if there are
    no such samples.
    """
    first_samples: dict[Any, tuple[SplitName, int]] = {}
    copies: list[tuple[int, int, SplitName]] = []
    for split, rows in splits.items():
        for row, value in zip(rows.tolist(), hashes[rows].tolist(), strict=True):
            first_split, first_row = first_samples.setdefault(value, (split, row))
            if first_split != split:
                copies.append((first_row, row, split))
    if not copies:
        return []
    original, copy, split = copies[0]
    return [
        f"{len(copies)} samples of validation and test have the inputs of a sample of"
        f" another split, such as {_shown(data, original)} and"
        f" {_shown(data, copy)} ({split}): scores will be too good; remove the copies"
    ]


class _Neighbours(NamedTuple):
    """The neighbours of a sample in train."""

    nearest: int
    """Place of the nearest one in train."""
    distances: Array
    """Distances to the first, tenth and hundredth nearest one [3]."""

    @classmethod
    def of(cls, sketch: Array, train: Array) -> "_Neighbours":
        """Return the neighbours of ``sketch`` [D] among those of ``train`` [N, D]."""
        squares = np.square(train - sketch).sum(axis=1)
        ranked = np.partition(squares, (0, 9, 99))
        return cls(int(squares.argmin()), np.sqrt(ranked[[0, 9, 99]]))


def near_copies(
    data: UserData, sketches: Array, splits: Mapping[SplitName, Indices]
) -> list[str]:
    """Return a list with a warning if many samples are nearly equal to one of train.

    A sample is nearly equal to its nearest sample of train if the tenth nearest is ten
    times as far. By chance, this share of the samples depends on the number of
    dimensions in which samples vary, which follows from the distances to the tenth and
    the hundredth nearest. The warning is given if the share is larger by chance in one
    of a thousand cases at most.

    ``sketches`` [N, D] have about the distances of the samples.
    """
    train = splits["train"]
    held_out = np.concatenate(
        [rows for name, rows in splits.items() if name != "train"]
    )
    held_out = np.random.default_rng(0).permutation(held_out)[:_MOST_COMPARED]
    if len(train) < _LEAST_NEIGHBOURS:
        return []
    neighbours = [_Neighbours.of(sketches[row], sketches[train]) for row in held_out]
    first, tenth, hundredth = np.array([each.distances for each in neighbours]).T
    is_near = first < tenth / 10
    growth = float(np.median(np.log(hundredth / tenth.clip(min=1e-30))))
    dimensions = math.log(10) / max(growth, 1e-6)
    # The first of nine neighbours within the distance of the tenth is that near.
    chance = 1 - (1 - 0.1**dimensions) ** 9
    num_near = int(is_near.sum())
    if num_near < 2 or bdtrc(num_near - 1, len(held_out), chance) > _CHANCE:
        return []
    example = int(np.flatnonzero(is_near)[0])
    original = int(train[neighbours[example].nearest])
    copy = int(held_out[example])
    return [
        f"{num_near / len(held_out):.0%} of the samples of validation and test are"
        f" nearly equal to a sample of train, such as {_shown(data, original)} and"
        f" {_shown(data, copy)}: scores will be too good; keep the copies of a sample"
        " together (--group), or leave all but one out"
    ]


def _shown(data: UserData, row: int) -> str:
    return data.names[row] if data.names else f"row {row + 1}"


def group_columns(
    frame: pd.DataFrame, splits: Mapping[SplitName, Indices], candidates: Iterable[str]
) -> list[str]:
    """Return warnings about columns that seem to be groups, and that splits divide.

    A warning is about a column of ``candidates`` whose name suggests groups, with a
    value that is in several splits. The column must have at least two different values,
    and at least two rows for each value on average.
    """
    warnings = []
    for name in candidates:
        values = frame[name]
        if not _GROUP_LIKE.search(name):
            continue
        num_values = values.nunique()
        if not 1 < num_values <= len(values) / 2:
            continue
        divided = _in_several(
            set(values.iloc[rows].dropna().tolist()) for rows in splits.values()
        )
        if divided:
            text = (
                f"{len(divided)} of the {num_values} values of {quoted(name)} are in"
                " several splits"
            )
            warnings.append(
                f"{text}: if it names groups, such as patients, use --group"
                f" {shlex.quote(printable(name))}"
            )
    return warnings


def _in_several(parts: Iterable[set[Any]]) -> set[Any]:
    """Return the values that are in at least two of the sets."""
    common: set[Any] = set()
    for first, second in combinations(parts, 2):
        common |= first & second
    return common


def divided_groups(groups: Array, splits: Mapping[SplitName, Indices]) -> list[str]:
    """Return a list with a warning if a group has samples in several splits.

    ``groups`` [N] are the groups of all samples. The list is empty if no group has.
    """
    divided = _in_several(
        {str(group) for group in groups[rows].tolist()} for rows in splits.values()
    )
    if not divided:
        return []
    return [
        f"{len(divided)} values of the groups are in several splits, such as"
        f" {min(divided)!r}"
    ]
