"""Splits of own data, the same on every machine, and warnings of leakage between splits or from the target."""

import re
from collections.abc import Iterable, Mapping
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd

from orca_ray.data.layout import SplitName
from orca_ray.data.rows import Array
from orca_ray.data.splits import Indices
from orca_ray.errors import UserError, quoted, shorten
from orca_ray.own_data import Notes, Options, UserData
from orca_ray.own_data.dates import as_times

Splits = Mapping[SplitName, Indices]

LEAST_SAMPLES, FEW_SAMPLES = 10, 100
LEAST_PER_CLASS = 3
"""Least number of samples of a class: one in each split."""
_TRIES = 50  # random orders of groups, of which the first with every class in every split is taken
_NAMES: Mapping[str, SplitName] = {
    "train": "train", "training": "train", "val": "validation", "valid": "validation", "validation": "validation",
    "dev": "validation", "test": "test", "testing": "test",
}  # fmt: skip


def draw(
    data: UserData, rows: Indices, classes: Array | None, options: Options, notes: Notes, *, test: bool = True
) -> Splits:
    """Divide the samples ``rows``; return the sorted indices of train, validation and test.

    The data's declared splits decide, else their times, else their groups; without all three, splits are random.
    ``classes`` [N] are class numbers; random splits get an equal share of each class. None: no classes. Without
    ``test``, only train and validation are drawn, at random; the data then must not have groups, times or splits.

    Raises UserError for too few samples, groups or times, unknown names of declared splits, and an empty split.
    """
    if len(rows) < LEAST_SAMPLES:
        raise UserError(f"{data.source}: expected at least {LEAST_SAMPLES} samples with a target, found {len(rows)}")
    if len(rows) < FEW_SAMPLES:
        notes.warn(f"{len(rows)} samples are few: scores of validation and test will be rough")
    drawer = np.random.RandomState(options.seed)
    labels = np.zeros(len(data), dtype=np.int64) if classes is None else classes
    if not test:
        assert data.splits is data.times is data.groups is None, "a split without test is random"
        held_in, validation = _share(rows, labels, options.fractions[0], drawer)
        parts: dict[SplitName, Indices] = {"train": held_in, "validation": validation}
    elif data.splits is not None:
        parts = _declared(data, rows, labels, options, notes)
        notes.find("split", "as declared", "the data declare their splits")
    elif data.times is not None:
        parts = _by_time(data, rows, options)
        notes.find("split", "by time", f"{options.time or 'times'} is given: test is latest", "time")
    elif data.groups is not None:
        parts = _by_group(data, rows, labels, options)
        notes.find("split", "by group", f"no value of {options.group or 'groups'} is in two splits", "group")
    else:
        train, tested = _share(rows, labels, options.fractions[1], drawer)
        train, validation = _share(train, labels, options.fractions[0] / (1 - options.fractions[1]), drawer)
        parts = {"train": train, "validation": validation, "test": tested}
        how = "random" if classes is None else "random, with equal shares of each class"
        notes.find("split", how, f"seed {options.seed}", "group, time, split, fractions, seed")
    if empty := [name for name, part in parts.items() if not len(part)]:
        raise UserError(f"{data.source}: no sample is left for {' and '.join(empty)}; give more samples or groups")
    return {name: np.sort(part) for name, part in parts.items()}


def _share(rows: Indices, labels: Array, fraction: float, drawer: np.random.RandomState) -> tuple[Indices, Indices]:
    """Draw a share ``fraction`` of each class in ``rows``; return the other rows, then the share.

    At least one row of each class is drawn, but none of a class with a single row.
    """
    shuffled = drawer.permutation(rows)
    taken = []
    for label in np.unique(labels[rows]):
        members = shuffled[labels[shuffled] == label]
        count = max(1, round(fraction * len(members))) if len(members) > 1 else 0
        taken.append(members[:count])
    share = np.concatenate(taken)
    return shuffled[~np.isin(shuffled, share)], share


def _by_group(data: UserData, rows: Indices, labels: Array, options: Options) -> dict[SplitName, Indices]:
    assert data.groups is not None
    # As text, None and NaN are one group each.
    values, numbers = np.unique([str(group) for group in data.groups[rows].tolist()], return_inverse=True)
    if len(values) < 3:
        listed = shorten(", ".join(values))
        raise UserError(f"{data.source}: a split by group needs 3 groups or more, found {len(values)}: {listed}")
    sizes = np.bincount(numbers)
    best: dict[SplitName, Indices] = {}
    fewest = np.inf
    for attempt in range(_TRIES):
        order = np.random.RandomState(options.seed + attempt).permutation(len(values))
        filled = np.cumsum(sizes[order]) - sizes[order] / 2
        test, validation = (fraction * len(rows) for fraction in options.fractions[::-1])
        part = np.full(len(values), 0)
        part[order[filled <= test]] = 2
        part[order[(filled > test) & (filled <= test + validation)]] = 1
        # A first group that is larger than the share leaves test or validation without one.
        part[order[:2]] = np.where(np.isin([2, 1], part), part[order[:2]], [2, 1])
        found: dict[SplitName, Indices] = {
            "train": rows[part[numbers] == 0], "validation": rows[part[numbers] == 1], "test": rows[part[numbers] == 2]
        }  # fmt: skip
        every = len(np.unique(labels[rows]))
        absent = sum(every - len(np.unique(labels[each])) if len(each) else every + 1 for each in found.values())
        if absent < fewest:
            best, fewest = found, absent
        if not absent:
            break
    return best


def _by_time(data: UserData, rows: Indices, options: Options) -> dict[SplitName, Indices]:
    assert data.times is not None
    times = as_times(data, data.times)[rows]
    order = rows[np.argsort(times, kind="stable")]
    ordered = np.sort(times, kind="stable")
    shares = (1 - sum(options.fractions), 1 - options.fractions[1])
    # Samples of one time stay together: each border is moved to the first sample of its time.
    first, second = (int(np.searchsorted(ordered, ordered[int(share * len(rows))])) for share in shares)
    if not 0 < first < second:
        found = f"{len(np.unique(ordered))} different times in {len(rows)} samples"
        raise UserError(f"{data.source}: a split by time needs different times, found {found}")
    return {"train": order[:first], "validation": order[first:second], "test": order[second:]}


def _declared(data: UserData, rows: Indices, labels: Array, options: Options, notes: Notes) -> dict[SplitName, Indices]:
    assert data.splits is not None
    names = [str(value).strip().lower() for value in data.splits.tolist()]
    if unknown := [row for row in rows if names[row] not in _NAMES]:
        found = quoted(str(data.splits[unknown[0]]))
        raise UserError(f"{data.place(int(unknown[0]))}: expected a split train, validation or test, found {found}")
    kinds = np.array([_NAMES.get(name, "train") for name in names])
    parts: dict[SplitName, Indices] = {name: rows[kinds[rows] == name] for name in ("train", "validation", "test")}
    lacking: list[tuple[SplitName, float]] = [("test", options.fractions[1]), ("validation", options.fractions[0])]
    drawer = np.random.RandomState(options.seed)
    for name, fraction in lacking:
        if not len(parts[name]) and len(parts["train"]):
            parts["train"], parts[name] = _share(parts["train"], labels, fraction, drawer)
            notes.warn(f"the data declare no {name} split: a random share {fraction:g} of train is held out")
    return parts


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
