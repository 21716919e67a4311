"""What is found in own data: inferred properties with their reasons, and warnings of leakage between splits."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from itertools import combinations
from typing import TYPE_CHECKING, Any

import numpy as np

from orca_ray.data.layout import SplitName
from orca_ray.data.rows import Array
from orca_ray.data.splits import Indices
from orca_ray.errors import quoted
from orca_ray.own_data import UserData

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Finding:
    """One inferred property of own data."""

    what: str
    """The property, such as "target"."""
    value: str
    why: str
    option: str
    """Option of :class:`orca_ray.own_data.Options` that overrides it, with an example; "": none."""

    def __str__(self) -> str:
        override = f"; to override: {self.option}" if self.option else ""
        return f"{self.what}: {self.value} ({self.why}{override})"


@dataclass
class Notes:
    """Collects findings and warnings while a task is inferred."""

    findings: list[Finding] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    def find(self, what: str, value: object, why: str, option: str = "") -> None:
        """Add a finding."""
        self.findings.append(Finding(what, str(value), why, option))

    def warn(self, text: str) -> None:
        """Add a warning, once."""
        if text not in self.warnings:
            self.warnings.append(text)


_GROUP_LIKE = re.compile(
    r"(^|_)(id|ids|patient|subject|person|user|customer|session|site|hospital|group|family|batch|speaker|record)(_|$)"
    r"|(patient|subject|user|customer|session|group|speaker|record)_?(id|no|number|nr)$",
    re.I,
)
_CORRELATION = 0.99999


def target_columns(frame: "pd.DataFrame", y: Array, *, classes: bool) -> list[str]:
    """Return warnings about columns that are equal to the target, or a one-to-one map of it.

    ``y`` [N] are class numbers (``classes``) or numbers, for which a linear map counts.
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
    import pandas as pd

    codes, values = pd.factorize(column)
    number = len(np.unique(y))
    if len(values) != number or number < 2:
        return False
    return len(np.unique(np.stack([codes, y]), axis=1).T) == number


def _is_linear(column: "pd.Series[Any]", y: Array) -> bool:
    import pandas as pd

    numbers = pd.to_numeric(column, errors="coerce").to_numpy(dtype=np.float64, na_value=np.nan)
    both = np.isfinite(numbers) & np.isfinite(y)
    if both.sum() < max(3, len(y) // 2) or not np.ptp(numbers[both]) or not np.ptp(y[both]):
        return False
    return bool(abs(np.corrcoef(numbers[both], y[both])[0, 1]) > _CORRELATION)


def duplicates(data: UserData, hashes: Array, splits: Mapping[SplitName, Indices]) -> list[str]:
    """Return a warning if samples with equal inputs, given by ``hashes`` [N], are in different splits."""
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


def group_columns(frame: "pd.DataFrame", splits: Mapping[SplitName, Indices], candidates: Iterable[str]) -> list[str]:
    """Return warnings about columns that look like groups by name, and whose values are in several splits.

    A column counts if its values repeat: 2 rows a value or more on average, and more than one value.
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


def crossing(values: Array, splits: Mapping[SplitName, Indices], what: str) -> list[str]:
    """Return a warning if a group (``values`` [N]) is in several splits."""
    kinds = [{str(value) for value in values[rows].tolist()} for rows in splits.values()]
    found = set[str]().union(*(one & other for one, other in combinations(kinds, 2)))
    return [f"{len(found)} values of {what} are in several splits, such as {min(found)!r}"] if found else []
