"""Splits and folds of own data, the same on every machine."""

import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pandas as pd

from orca_ray.data.layout import SplitName
from orca_ray.data.rows import Array
from orca_ray.data.splits import Indices
from orca_ray.errors import UserError, quoted, shorten
from orca_ray.own_data import Notes, Options, UserData
from orca_ray.own_data.dates import as_times

Splits = Mapping[SplitName, Indices]

LEAST_SAMPLES = 10
"""Least number of samples with a target."""
FEW_SAMPLES = 100
"""Number of samples below which a warning says that scores are rough."""
LEAST_PER_CLASS = 3
"""Least number of samples of a class: one in each split."""
LEAST_HOLDOUT = 200
"""Number of samples from which a random test split is held out by default."""
_TRIES = 50
"""Number of random orders of the groups that are tried.

The first order that puts every class into every split is taken.
"""
_NAMES: Mapping[str, SplitName] = {
    "train": "train",
    "training": "train",
    "val": "validation",
    "valid": "validation",
    "validation": "validation",
    "dev": "validation",
    "test": "test",
    "testing": "test",
}


class _Shares(NamedTuple):
    """Shares of the samples that become validation and test."""

    validation: float
    test: float


def draw(
    data: UserData,
    rows: Indices,
    classes: Array | None,
    options: Options,
    notes: Notes,
    *,
    test: bool = True,
) -> Splits:
    """Divide the samples ``rows`` into train, validation and, if held out, test.

    The result has the sorted indices of each split. The data's declared splits decide,
    else their times, else their groups; without all three, splits are random.
    ``classes`` [N] are class numbers; random splits get an equal share of each class.
    None: no classes. Test is held out as ``options.holdout`` says; by default, if the
    data have times or declare a test split, or have at least `LEAST_HOLDOUT` samples.
    Without ``test``, it is not.

    Raises UserError for too few samples, groups or times, unknown names of declared
    splits, and an empty split.
    """
    if len(rows) < LEAST_SAMPLES:
        raise UserError(
            f"{data.source}: expected at least {LEAST_SAMPLES} samples with a target,"
            f" found {len(rows)}"
        )
    if len(rows) < FEW_SAMPLES:
        notes.warn(f"{len(rows)} samples are few: scores will be rough")
    if test:
        is_held_out, why = _holdout(data, rows, options)
    else:
        is_held_out = False
        why = "no test split is wanted"
    parts = _divide(data, rows, classes, options, notes, is_held_out=is_held_out)
    if not is_held_out:
        del parts["test"]
    empty = [name for name, part in parts.items() if not len(part)]
    if empty:
        raise UserError(
            f"{data.source}: no sample is left for {' and '.join(empty)}; give more"
            " samples or groups"
        )
    if is_held_out:
        outer_test = f"{len(parts['test'])} samples are the outer test"
        notes.find("holdout", outer_test, why, "no-holdout")
    else:
        notes.find("holdout", "none: folds alone give the score", why, "holdout")
    return {name: np.sort(part) for name, part in parts.items()}


def _divide(
    data: UserData,
    rows: Indices,
    classes: Array | None,
    options: Options,
    notes: Notes,
    *,
    is_held_out: bool,
) -> dict[SplitName, Indices]:
    """Return the three splits, test being empty unless it is held out."""
    validation, test = options.fractions
    shares = _Shares(validation, test if is_held_out else 0.0)
    drawer = np.random.RandomState(options.seed)
    labels = np.zeros(len(data), dtype=np.int64) if classes is None else classes
    if data.splits is not None:
        notes.find("split", "as declared", "the data declare their splits")
        return _declared(data, rows, labels, shares, drawer, notes)
    if data.times is not None:
        parts = _by_time(data, rows, shares, options, notes)
        latest = "test" if is_held_out else "validation"
        why = f"{options.time or 'times'} is given: {latest} is latest"
        notes.find("split", "by time", why, "time")
        return parts
    if data.groups is not None:
        why = f"no value of {options.group or 'groups'} is in two splits"
        notes.find("split", "by group", why, "group")
        return _by_group(data, rows, labels, shares, options.seed)
    how = "random" if classes is None else "random, with equal shares of each class"
    notes.find("split", how, f"seed {options.seed}", "group, time, split, seed")
    return _at_random(rows, labels, shares, drawer)


def _at_random(
    rows: Indices, labels: Array, shares: _Shares, drawer: np.random.RandomState
) -> dict[SplitName, Indices]:
    """Draw the splits, each with an equal share of each class."""
    train = rows
    test = rows[:0]
    if shares.test:
        train, test = _share(train, labels, shares.test, drawer)
    fraction = shares.validation / (1 - shares.test)
    train, validation = _share(train, labels, fraction, drawer)
    return {"train": train, "validation": validation, "test": test}


def _holdout(data: UserData, rows: Indices, options: Options) -> tuple[bool, str]:
    """Return whether a test split is held out, and why."""
    if options.holdout is not None:
        return options.holdout, "given"
    if data.splits is not None and "test" in _declared_names(data, rows):
        return True, "the data declare a test split"
    if data.splits is None and data.times is not None:
        return True, "the latest samples show how later ones are predicted"
    if len(rows) >= LEAST_HOLDOUT:
        return True, f"{len(rows)} samples are enough"
    return False, f"{len(rows)} samples are fewer than {LEAST_HOLDOUT}"


def _share(
    rows: Indices, labels: Array, fraction: float, drawer: np.random.RandomState
) -> tuple[Indices, Indices]:
    """Draw a share ``fraction`` of each class in ``rows``; return other rows and share.

    At least one row of each class is drawn, but none of a class with a single row.
    """
    shuffled = drawer.permutation(rows)
    drawn = []
    for label in np.unique(labels[rows]):
        members = shuffled[labels[shuffled] == label]
        count = max(1, round(fraction * len(members))) if len(members) > 1 else 0
        drawn.append(members[:count])
    share = np.concatenate(drawn)
    return shuffled[~np.isin(shuffled, share)], share


_TRAIN = 0
"""Number of the split train in `_deal_groups`."""
_VALIDATION = 1
"""Number of the split validation in `_deal_groups`."""
_TEST = 2
"""Number of the split test in `_deal_groups`."""


def _by_group(
    data: UserData, rows: Indices, labels: Array, shares: _Shares, seed: int
) -> dict[SplitName, Indices]:
    """Draw splits that divide no group, if possible with every class in each split."""
    values, numbers = group_numbers(data, rows)
    held_out = [_TEST, _VALIDATION] if shares.test else [_VALIDATION]
    if len(values) <= len(held_out):
        listed = shorten(", ".join(values))
        raise UserError(
            f"{data.source}: a split by group needs {len(held_out) + 1} groups or more,"
            f" found {len(values)}: {listed}"
        )
    sizes = np.bincount(numbers)
    best: Array | None = None
    fewest = np.inf
    for attempt in range(_TRIES):
        order = np.random.RandomState(seed + attempt).permutation(len(values))
        split_of_row = _deal_groups(sizes, order, shares, held_out)[numbers]
        absent = _num_absent(labels[rows], split_of_row, [_TRAIN, *held_out])
        if absent < fewest:
            best = split_of_row
            fewest = absent
        if not absent:
            break
    return {
        "train": rows[best == _TRAIN],
        "validation": rows[best == _VALIDATION],
        "test": rows[best == _TEST],
    }


def _deal_groups(
    sizes: Array, order: Array, shares: _Shares, held_out: list[int]
) -> Array:
    """Return the number of the split of each group [G].

    ``sizes`` [G] are numbers of samples. Groups are dealt in ``order`` [G]: first to
    test, then to validation, then to train.
    """
    num_test = shares.test * sizes.sum()
    num_validation = shares.validation * sizes.sum()
    filled = np.cumsum(sizes[order]) - sizes[order] / 2
    is_test = filled <= num_test
    is_validation = ~is_test & (filled <= num_test + num_validation)
    splits = np.full(len(sizes), _TRAIN)
    splits[order[is_test]] = _TEST
    splits[order[is_validation]] = _VALIDATION
    # A first group that is larger than the share leaves test or validation without one.
    first = order[: len(held_out)]
    splits[first] = np.where(np.isin(held_out, splits), splits[first], held_out)
    return splits


def _num_absent(labels: Array, split_of_row: Array, splits: list[int]) -> int:
    """Return how many classes are absent from a split, summed over the splits.

    ``labels`` [N] are class numbers. A split without samples counts one more.
    """
    num_classes = len(np.unique(labels))
    absent = 0
    for split in splits:
        part = labels[split_of_row == split]
        absent += num_classes - len(np.unique(part))
        if not len(part):
            absent += 1
    return absent


def group_numbers(data: UserData, rows: Indices) -> tuple[Array, Array]:
    """Return the groups of ``rows`` as text, and the number of each row's group.

    None and NaN are one group each.
    """
    assert data.groups is not None
    return np.unique(
        [str(group) for group in data.groups[rows].tolist()], return_inverse=True
    )


def _by_time(
    data: UserData, rows: Indices, shares: _Shares, options: Options, notes: Notes
) -> dict[SplitName, Indices]:
    """Divide the samples in the order of their times; test is the latest."""
    times = as_times(data, options, notes.warn)[rows]
    if (np.diff(times) < 0).any():
        notes.warn("rows are not in the order of their times: they are sorted")
    order = rows[np.argsort(times, kind="stable")]
    ordered = np.sort(times, kind="stable")
    first = _time_border(ordered, 1 - (shares.validation + shares.test))
    second = _time_border(ordered, 1 - shares.test)
    if not 0 < first < second:
        found = f"{len(np.unique(ordered))} different times in {len(rows)} samples"
        raise UserError(
            f"{data.source}: a split by time needs different times, found {found}"
        )
    return {
        "train": order[:first],
        "validation": order[first:second],
        "test": order[second:],
    }


def _time_border(ordered: Array, share: float) -> int:
    """Return the place in sorted times [N] before which about a share of them lies.

    Samples of one time stay together: the border is the first sample of its time.
    """
    place = int(share * len(ordered))
    if place == len(ordered):
        return place
    return int(np.searchsorted(ordered, ordered[place]))


def _declared_names(data: UserData, rows: Indices) -> Array:
    """Return the declared split of each of ``rows``.

    Raises UserError, which names the row, for an unknown split.
    """
    assert data.splits is not None
    names = [str(value).strip().lower() for value in data.splits[rows].tolist()]
    for row, name in zip(rows.tolist(), names, strict=True):
        if name not in _NAMES:
            raise UserError(
                f"{data.place(row)}: expected a split train, validation or test, found"
                f" {quoted(str(data.splits[row]))}"
            )
    return np.array([_NAMES[name] for name in names])


def _declared(
    data: UserData,
    rows: Indices,
    labels: Array,
    shares: _Shares,
    drawer: np.random.RandomState,
    notes: Notes,
) -> dict[SplitName, Indices]:
    """Return the declared splits; one that is lacking is drawn from train."""
    names = _declared_names(data, rows)
    if not shares.test:
        names[names == "test"] = "train"
    parts: dict[SplitName, Indices] = {
        name: rows[names == name] for name in ("train", "validation", "test")
    }
    fractions: dict[SplitName, float] = {
        "test": shares.test,
        "validation": shares.validation,
    }
    for name, fraction in fractions.items():
        is_lacking = fraction > 0 and not len(parts[name])
        if is_lacking and len(parts["train"]):
            train, share = _share(parts["train"], labels, fraction, drawer)
            parts["train"] = train
            parts[name] = share
            notes.warn(
                f"the data declare no {name} split: a random share {fraction:g} of"
                " train is held out"
            )
    return parts


MOST_FOLDS = 5
"""Largest number of folds."""
MOST_REPEATED = 300
"""Largest number of samples whose folds are drawn twice."""
MOST_FOLDED = 20_000
"""Largest number of samples that are judged by folds."""
_MOST_GROUPS = 2000
"""Largest number of groups for `StratifiedGroupKFold`, which takes 0.3 ms a group."""
_MOST_LABELS = 1000
"""Largest number of labels by whose rarest folds are balanced."""


def plan_folds(
    num_samples: int, smallest: int, num_units: int, *, ordered: bool = False
) -> tuple[int, int]:
    """Return how many repeats R of how many folds K judge own data.

    (1, 1): the prepared split alone.

    - More than `MOST_FOLDED` samples: one split; its validation part of 15 % is large
      enough.
    - Otherwise 5 folds; fewer if the ``smallest`` class has fewer samples, but at least
      2, and at most ``num_units``, the number of groups, or of different inputs.
    - Up to `MOST_REPEATED` samples, the folds are drawn twice, unless all draws are
      equal: blocks in time (``ordered``), and one group a fold.

    ``num_samples`` is the number of samples of train and validation together.
    """
    folds = min(MOST_FOLDS, max(2, smallest), num_units)
    if num_samples > MOST_FOLDED or folds < 2:
        return 1, 1
    draws_differ = not ordered and folds < num_units
    repeats = 2 if num_samples <= MOST_REPEATED and draws_differ else 1
    return repeats, folds


@dataclass(frozen=True)
class _Units:
    """Units of samples that folds do not divide."""

    what: str
    """"times", "groups" or "different inputs"."""
    numbers: Array
    """Number of each sample's unit [N], from 0."""

    @property
    def count(self) -> int:
        """Number of units."""
        return int(self.numbers.max()) + 1


def draw_folds(
    data: UserData,
    rows: Indices,
    classes: Array | None,
    hashes: Array,
    options: Options,
    notes: Notes,
) -> Array | None:
    """Return the fold, 1 to K, of each of the samples ``rows`` [N]: int8 [R, N].

    Folds are drawn R times; `plan_folds` chooses R and K. ``rows`` are the samples of
    train and validation, in any order. Folds are blocks in time if the data have times.
    Otherwise each fold gets an equal share of each class, or of small and large
    targets; samples of one group stay together or, without groups, samples with equal
    inputs (equal ``hashes``, of all samples).

    None: the prepared split alone is used, because `plan_folds` says so or the data
    declare a validation split.
    """
    if data.splits is not None and "validation" in _declared_names(data, rows):
        notes.find("folds", "one split", "the data declare a validation split", "split")
        return None
    times = None if data.times is None else as_times(data, options, notes.warn)[rows]
    units = _units(data, rows, times, hashes)
    strata = _strata(data, rows, classes)
    smallest = len(rows)
    if classes is not None and times is None:
        smallest = _smallest_class(strata, units.numbers)
    repeats, count = plan_folds(
        len(rows), smallest, units.count, ordered=times is not None
    )
    if count == 1:
        why = f"there is only one of the {units.what}"
        if len(rows) > MOST_FOLDED:
            why = f"{len(rows)} samples are many"
        notes.find("folds", "one split", why)
        return None
    if times is not None:
        folds = _blocks(times, count)[None]
    else:
        seeds = range(options.seed, options.seed + repeats)
        folds = np.stack([_deal(units.numbers, strata, count, seed) for seed in seeds])
    _note_folds(folds, units, smallest, options, notes)
    if lacks_class(folds, rows, classes):
        notes.warn("not every fold has samples of every class")
    return folds.astype(np.int8)


def _units(data: UserData, rows: Indices, times: Array | None, hashes: Array) -> _Units:
    """Return the units of ``rows``: of one time, of one group, or with equal inputs."""
    if times is not None:
        return _Units("times", np.unique(times, return_inverse=True)[1])
    if data.groups is not None:
        return _Units("groups", group_numbers(data, rows)[1])
    return _Units("different inputs", np.unique(hashes[rows], return_inverse=True)[1])


def _smallest_class(classes: Array, units: Array) -> int:
    """Return the smallest number of units [N] that contain one of the classes [N]."""
    pairs = np.unique(np.stack([classes, units]), axis=1)
    return int(np.unique(pairs[0], return_counts=True)[1].min())


def _note_folds(
    folds: Array, units: _Units, smallest: int, options: Options, notes: Notes
) -> None:
    """Add to ``notes`` how many folds [R, N] there are, and a warning if they are few.

    ``smallest``: number of units of the smallest class.
    """
    repeats, num_samples = folds.shape
    count = folds.max()
    if count < MOST_FOLDS:
        few = f"{units.count} {units.what}"
        if smallest < units.count:
            few = f"{smallest} {units.what} of a class"
        notes.warn(
            f"scores come from {count} folds instead of {MOST_FOLDS}: train and"
            f" validation have {few}"
        )
    drawing = {"times": "blocks in time", "groups": "no group is divided"}
    how = drawing.get(units.what, f"seed {options.seed}")
    description = f"{count} folds"
    if repeats > 1:
        description += f", drawn {repeats} times"
    why = f"{num_samples} samples; {how}"
    notes.find("folds", description, why, "group, time, seed")


def lacks_class(folds: Array | None, rows: Indices, classes: Array | None) -> bool:
    """Return whether a fold of ``folds`` [R, N] has no sample of one of the classes.

    ``rows`` [N] are the samples of the folds, and ``classes`` those of all samples.
    """
    if folds is None or classes is None:
        return False
    labels = classes[rows]
    num_classes = len(np.unique(labels))
    return any(
        len(np.unique(labels[draw == fold])) < num_classes
        for draw in folds
        for fold in np.unique(draw)
    )


def _strata(data: UserData, rows: Indices, classes: Array | None) -> Array:
    """Return the numbers [N] by which folds are balanced.

    They are the classes, the rarest label of each sample, or tenths of the sorted
    targets.
    """
    if classes is not None:
        return np.asarray(classes[rows])
    y = data.y
    if y is None or y.ndim > 2 or y.shape[1:] > (_MOST_LABELS,):
        return np.zeros(len(rows), np.int64)
    if y.ndim == 1:
        numbers = pd.to_numeric(pd.Series(y[rows])).to_numpy()
        ranks = np.argsort(np.argsort(numbers, kind="stable"))
        num_strata = min(10, max(1, len(rows) // MOST_FOLDS))
        return np.asarray(ranks * num_strata // len(rows))
    positive = np.asarray(y[rows]) > 0
    rarest_first = positive[:, np.argsort(positive.sum(axis=0), kind="stable")]
    strata = np.where(rarest_first.any(axis=1), 1 + rarest_first.argmax(axis=1), 0)
    return np.where(np.bincount(strata)[strata] < MOST_FOLDS, 0, strata)


def _blocks(times: Array, count: int) -> Array:
    """Return the block of each time [N]: about ``count`` blocks of equal size.

    Block 1 is the latest; equal times are in one block.
    """
    ordered = np.sort(times)
    first = np.searchsorted(ordered, times, "left")
    end = np.searchsorted(ordered, times, "right")
    place = (first + end) / 2
    block_from_end = -(place * count // len(times))
    return np.asarray(1 + np.unique(block_from_end, return_inverse=True)[1])


def _deal(units: Array, strata: Array, count: int, seed: int) -> Array:
    """Return the fold, from 1, of each sample [N]; each stratum is in all folds.

    The samples of a unit are in one fold.
    """
    from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold

    _, first, numbers = np.unique(units, return_index=True, return_inverse=True)
    # units are numbered by their first samples
    numbers = np.argsort(np.argsort(first))[numbers]
    first = np.sort(first)
    with warnings.catch_warnings():
        # a class has fewer samples than there are folds
        warnings.simplefilter("ignore", UserWarning)
        if len(first) < len(numbers) and len(first) <= _MOST_GROUPS:
            grouped = StratifiedGroupKFold(count, shuffle=True, random_state=seed)
            folds = _numbered(grouped.split(strata, strata, numbers), len(numbers))
        else:
            stratified = StratifiedKFold(count, shuffle=True, random_state=seed)
            unit_folds = _numbered(stratified.split(first, strata[first]), len(first))
            folds = unit_folds[numbers]
    return np.asarray(1 + np.unique(folds, return_inverse=True)[1])


def _numbered(parts: Iterable[tuple[Array, Array]], length: int) -> Array:
    """Return the number of the fold of each item; ``parts`` are those of sklearn."""
    folds = np.zeros(length, np.int64)
    for number, (_, part) in enumerate(parts):
        folds[part] = number
    return folds
