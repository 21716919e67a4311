"""Warnings of leakage: from the target into the inputs, or between splits."""

import re
from collections.abc import Iterable, Mapping
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd

from orca_ray.data.layout import SplitName
from orca_ray.data.rows import Array
from orca_ray.data.splits import Indices
from orca_ray.errors import quoted
from orca_ray.own_data import UserData

_GROUP_LIKE = re.compile(
    r"(^|_)(id|ids|patient|subject|person|user|customer|session|site|hospital|group|family|batch|speaker|record)(_|$)"
    r"|(patient|subject|user|customer|session|group|speaker|record)_?(id|no|number|nr)$",
    re.I,
)
_CORRELATION = 0.99999


def target_columns(frame: pd.DataFrame, y: Array, *, classes: bool) -> list[str]:
    """Return warnings about columns that are equal to the target or a one-to-one map of the target.

    ``y`` [N] are class numbers if ``classes``, else numbers; for numbers, only linear maps count.
    """
    found = []
    for name in frame.columns:
        alike = _maps(frame[name], y) if classes else _is_linear(frame[name], y)
        if alike:
            column = quoted(str(name))
            advice = f"leave it out (columns: {{{name}: drop}}) unless it is known before the target is"
            found.append(f"column {column} is a one-to-one map of the target: {advice}")
    return found


def _maps(column: "pd.Series[Any]", y: Array) -> bool:
    codes, values = pd.factorize(column)
    number = len(np.unique(y))
    if len(values) != number or number < 2:
        return False
    return len(np.unique(np.stack([codes, y]), axis=1).T) == number


def _is_linear(column: "pd.Series[Any]", y: Array) -> bool:
    numbers = pd.to_numeric(column, errors="coerce").to_numpy(dtype=np.float64, na_value=np.nan)
    both = np.isfinite(numbers) & np.isfinite(y)
    if both.sum() < max(3, len(y) // 2) or not np.ptp(numbers[both]) or not np.ptp(y[both]):
        return False
    return bool(abs(np.corrcoef(numbers[both], y[both])[0, 1]) > _CORRELATION)


def duplicates(data: UserData, hashes: Array, splits: Mapping[SplitName, Indices]) -> list[str]:
    """Return one warning if samples with equal inputs (equal ``hashes`` [N]) are in different splits, else none."""
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
    shown = [data.names[row] if data.names else f"row {row + 1}" for row in (one, other)]
    text = f"{len(crossing)} samples of validation and test have the inputs of a sample of another split"
    return [f"{text}, such as {shown[0]} and {shown[1]} ({split}): scores will be too good; remove the copies"]


def group_columns(frame: pd.DataFrame, splits: Mapping[SplitName, Indices], candidates: Iterable[str]) -> list[str]:
    """Return warnings about ``candidates`` whose names suggest groups, and with a value that is in several splits.

    A column counts if it has at least two different values, and at least two rows per value on average.
    """
    found = []
    for name in candidates:
        values = frame[name]
        if not _GROUP_LIKE.search(name) or not 1 < (number := values.nunique()) <= len(values) / 2:
            continue
        kinds = [set(values.iloc[rows].dropna().tolist()) for rows in splits.values()]
        if crossing := set[Any]().union(*(one & other for one, other in combinations(kinds, 2))):
            text = f"{len(crossing)} of the {number} values of {quoted(name)} are in several splits"
            found.append(f"{text}: if it names groups, such as patients, use --group {name}")
    return found


def crossing(groups: Array, splits: Mapping[SplitName, Indices]) -> list[str]:
    """Return one warning if a group in ``groups`` [N] has samples in several splits, else none."""
    kinds = [{str(group) for group in groups[rows].tolist()} for rows in splits.values()]
    found = set[str]().union(*(one & other for one, other in combinations(kinds, 2)))
    return [f"{len(found)} values of the groups are in several splits, such as {min(found)!r}"] if found else []
