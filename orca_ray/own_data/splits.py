"""Splits and folds of own data, the same on every machine."""

import warnings
from collections.abc import Mapping

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
FEW_SAMPLES = 100
LEAST_PER_CLASS = 3
"""Least number of samples of a class: one in each split."""
LEAST_HOLDOUT = 200
"""Number of samples from which a random test split is held out by default."""
# random orders of groups, of which the first with every class in every split is taken
_TRIES = 50
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


def draw(
    data: UserData,
    rows: Indices,
    classes: Array | None,
    options: Options,
    notes: Notes,
    *,
    test: bool = True,
) -> Splits:
    """Divide the samples ``rows``; return the sorted indices of train, validation and,
    if held out, test.

    The data's declared splits decide, else their times, else their groups; without all
    three, splits are random. ``classes`` [N] are class numbers; random splits get an
    equal share of each class. None: no classes. Test is held out as ``options.holdout``
    says; by default, if the data have times or declare a test split, or have at least
    `LEAST_HOLDOUT` samples. Without ``test``, it is not.

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
    held_out, why = (
        _holdout(data, rows, options) if test else (False, "no test split is wanted")
    )
    shares = (options.fractions[0], options.fractions[1] if held_out else 0.0)
    drawer = np.random.RandomState(options.seed)
    labels = np.zeros(len(data), dtype=np.int64) if classes is None else classes
    if data.splits is not None:
        parts = _declared(data, rows, labels, shares, drawer, notes)
        notes.find("split", "as declared", "the data declare their splits")
    elif data.times is not None:
        parts = _by_time(data, rows, shares, options, notes)
        latest = "test" if held_out else "validation"
        notes.find(
            "split",
            "by time",
            f"{options.time or 'times'} is given: {latest} is latest",
            "time",
        )
    elif data.groups is not None:
        parts = _by_group(data, rows, labels, shares, options.seed)
        notes.find(
            "split",
            "by group",
            f"no value of {options.group or 'groups'} is in two splits",
            "group",
        )
    else:
        train, tested = (
            _share(rows, labels, shares[1], drawer) if held_out else (rows, rows[:0])
        )
        train, validation = _share(train, labels, shares[0] / (1 - shares[1]), drawer)
        parts = {"train": train, "validation": validation, "test": tested}
        how = "random" if classes is None else "random, with equal shares of each class"
        notes.find("split", how, f"seed {options.seed}", "group, time, split, seed")
    if not held_out:
        del parts["test"]
    if empty := [name for name, part in parts.items() if not len(part)]:
        raise UserError(
            f"{data.source}: no sample is left for {' and '.join(empty)}; give more"
            " samples or groups"
        )
    held = (
        f"{len(parts['test'])} samples are the outer test"
        if held_out
        else "none: folds alone give the score"
    )
    notes.find("holdout", held, why, "no-holdout" if held_out else "holdout")
    return {name: np.sort(part) for name, part in parts.items()}


def _holdout(data: UserData, rows: Indices, options: Options) -> tuple[bool, str]:
    """Return whether a test split is held out, and why."""
    if options.holdout is not None:
        return options.holdout, "given"
    if data.splits is not None and "test" in _declared_names(data, rows):
        return True, "the data declare a test split"
    if data.splits is None and data.times is not None:
        return True, "the latest samples show how later ones are predicted"
    enough = len(rows) >= LEAST_HOLDOUT
    return (
        enough,
        (
            f"{len(rows)} samples are"
            f" {'enough' if enough else f'fewer than {LEAST_HOLDOUT}'}"
        ),
    )


def _share(
    rows: Indices, labels: Array, fraction: float, drawer: np.random.RandomState
) -> tuple[Indices, Indices]:
    """Draw a share ``fraction`` of each class in ``rows``; return the other rows, then
    the share.

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


def _by_group(
    data: UserData, rows: Indices, labels: Array, shares: tuple[float, float], seed: int
) -> dict[SplitName, Indices]:
    values, numbers = group_numbers(data, rows)
    taken = [2, 1] if shares[1] else [1]  # numbers of the splits beside train
    if len(values) <= len(taken):
        listed = shorten(", ".join(values))
        needed = (
            f"a split by group needs {len(taken) + 1} groups or more, found"
            f" {len(values)}: {listed}"
        )
        raise UserError(f"{data.source}: {needed}")
    sizes = np.bincount(numbers)
    best: dict[SplitName, Indices] = {}
    fewest = np.inf
    for attempt in range(_TRIES):
        order = np.random.RandomState(seed + attempt).permutation(len(values))
        filled = np.cumsum(sizes[order]) - sizes[order] / 2
        test, validation = (fraction * len(rows) for fraction in shares[::-1])
        part = np.full(len(values), 0)
        part[order[filled <= test]] = 2
        part[order[(filled > test) & (filled <= test + validation)]] = 1
        # A first group that is larger than the share leaves test or validation without
        # one.
        first = order[: len(taken)]
        part[first] = np.where(np.isin(taken, part), part[first], taken)
        found: dict[SplitName, Indices] = {
            "train": rows[part[numbers] == 0],
            "validation": rows[part[numbers] == 1],
            "test": rows[part[numbers] == 2],
        }
        every = len(np.unique(labels[rows]))
        wanted = [
            each for number, each in enumerate(found.values()) if number in (0, *taken)
        ]
        absent = sum(
            every - len(np.unique(labels[each])) if len(each) else every + 1
            for each in wanted
        )
        if absent < fewest:
            best = found
            fewest = absent
        if not absent:
            break
    return best


def group_numbers(data: UserData, rows: Indices) -> tuple[Array, Array]:
    """Return the groups of ``rows`` as text, and the number of each row's group; None
    and NaN are one group each.
    """
    assert data.groups is not None
    return np.unique(
        [str(group) for group in data.groups[rows].tolist()], return_inverse=True
    )


def _by_time(
    data: UserData,
    rows: Indices,
    shares: tuple[float, float],
    options: Options,
    notes: Notes,
) -> dict[SplitName, Indices]:
    assert data.times is not None
    times = as_times(data, options, notes.warn)[rows]
    if (np.diff(times) < 0).any():
        notes.warn("rows are not in the order of their times: they are sorted")
    order = rows[np.argsort(times, kind="stable")]
    ordered = np.sort(times, kind="stable")
    places = [int(share * len(rows)) for share in (1 - sum(shares), 1 - shares[1])]
    # Samples of one time stay together: each border is moved to the first sample of its
    # time.
    first, second = (
        int(np.searchsorted(ordered, ordered[k])) if k < len(rows) else k
        for k in places
    )
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


def _declared_names(data: UserData, rows: Indices) -> Array:
    """Return the declared split of each of ``rows``; raises UserError, which names the
    row, for an unknown one.
    """
    assert data.splits is not None
    names = [str(value).strip().lower() for value in data.splits[rows].tolist()]
    if unknown := [place for place, name in enumerate(names) if name not in _NAMES]:
        row = int(rows[unknown[0]])
        found = quoted(str(data.splits[row]))
        raise UserError(
            f"{data.place(row)}: expected a split train, validation or test, found"
            f" {found}"
        )
    return np.array([_NAMES[name] for name in names])


def _declared(
    data: UserData,
    rows: Indices,
    labels: Array,
    shares: tuple[float, float],
    drawer: np.random.RandomState,
    notes: Notes,
) -> dict[SplitName, Indices]:
    names = _declared_names(data, rows)
    if not shares[1]:
        names[names == "test"] = "train"
    parts: dict[SplitName, Indices] = {
        name: rows[names == name] for name in ("train", "validation", "test")
    }
    lacking: list[tuple[SplitName, float]] = [
        ("test", shares[1]),
        ("validation", shares[0]),
    ]
    for name, fraction in lacking:
        if fraction and not len(parts[name]) and len(parts["train"]):
            parts["train"], parts[name] = _share(
                parts["train"], labels, fraction, drawer
            )
            notes.warn(
                f"the data declare no {name} split: a random share {fraction:g} of"
                " train is held out"
            )
    return parts


MOST_FOLDS = 5
MOST_REPEATED = 300
MOST_FOLDED = 20_000
"""Most folds; most samples whose folds are drawn twice; most samples that are judged by
folds.
"""
# `StratifiedGroupKFold` takes 0.3 ms a group; for labels, see `_strata`
_MOST_GROUPS = 2000
_MOST_LABELS = 1000


def plan_folds(
    num_samples: int, smallest: int, num_units: int, *, ordered: bool = False
) -> tuple[int, int]:
    """Return how many repeats R of how many folds K judge own data; (1, 1): the one
    prepared split.

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
    return (
        2 if num_samples <= MOST_REPEATED and not ordered and folds < num_units else 1
    ), folds


def draw_folds(
    data: UserData,
    rows: Indices,
    classes: Array | None,
    hashes: Array,
    options: Options,
    notes: Notes,
) -> Array | None:
    """Return the fold, 1 to K, of each of the samples ``rows`` [N], R times: int8 [R,
    N]; `plan_folds` chooses R and K.

    ``rows`` are the samples of train and validation, in any order. Folds are blocks in
    time if the data have times. Otherwise each fold gets an equal share of each class,
    or of small and large targets; samples of one group stay together or, without
    groups, samples with equal inputs (equal ``hashes``, of all samples).

    None: the prepared split alone is used, because `plan_folds` says so or the data
        declare a validation split.
    """
    if data.splits is not None and "validation" in _declared_names(data, rows):
        notes.find("folds", "one split", "the data declare a validation split", "split")
        return None
    times = None if data.times is None else as_times(data, options, notes.warn)[rows]
    if times is not None:
        what = "times"
        units = np.unique(times, return_inverse=True)[1]
    elif data.groups is not None:
        what = "groups"
        units = group_numbers(data, rows)[1]
    else:
        what = "different inputs"
        units = np.unique(hashes[rows], return_inverse=True)[1]
    strata = _strata(data, rows, classes)
    number = int(units.max()) + 1
    smallest = len(rows)
    if classes is not None and times is None:
        pairs = np.unique(np.stack([strata, units]), axis=1)
        smallest = int(np.unique(pairs[0], return_counts=True)[1].min())
    repeats, count = plan_folds(len(rows), smallest, number, ordered=times is not None)
    if count == 1:
        why = (
            f"{len(rows)} samples are many"
            if len(rows) > MOST_FOLDED
            else f"there is only one of the {what}"
        )
        notes.find("folds", "one split", why)
        return None
    if times is not None:
        folds = _blocks(times, count)[None]
    else:
        folds = np.stack(
            [
                _deal(units, strata, count, options.seed + repeat)
                for repeat in range(repeats)
            ]
        )
    if folds.max() < MOST_FOLDS:
        few = (
            f"{smallest} {what} of a class" if smallest < number else f"{number} {what}"
        )
        notes.warn(
            f"scores come from {folds.max()} folds instead of {MOST_FOLDS}: train and"
            f" validation have {few}"
        )
    if lacks_class(folds, rows, classes):
        notes.warn("not every fold has samples of every class")
    how = {"times": "blocks in time", "groups": "no group is divided"}.get(
        what, f"seed {options.seed}"
    )
    found = f"{folds.max()} folds" + (f", drawn {repeats} times" if repeats > 1 else "")
    notes.find("folds", found, f"{len(rows)} samples; {how}", "group, time, seed")
    return folds.astype(np.int8)


def lacks_class(folds: Array | None, rows: Indices, classes: Array | None) -> bool:
    """Return whether a fold of ``folds`` [R, N] of ``rows`` [N] has no sample of one of
    their ``classes``.
    """
    if folds is None or classes is None:
        return False
    labels = classes[rows]
    return any(
        len(np.unique(labels[each == k])) < len(np.unique(labels))
        for each in folds
        for k in np.unique(each)
    )


def _strata(data: UserData, rows: Indices, classes: Array | None) -> Array:
    """Return the numbers [N] by which folds are balanced: classes, rarest labels, or
    tenths of the sorted targets.
    """
    if classes is not None:
        return np.asarray(classes[rows])
    strata = np.zeros(len(rows), np.int64)
    if data.y is None or data.y.ndim > 2 or data.y.shape[1:] > (_MOST_LABELS,):
        return strata
    if data.y.ndim == 1:
        places = np.argsort(
            np.argsort(pd.to_numeric(pd.Series(data.y[rows])).to_numpy(), kind="stable")
        )
        return np.asarray(
            places * min(10, max(1, len(rows) // MOST_FOLDS)) // len(rows)
        )
    positive = np.asarray(data.y[rows]) > 0
    rarest_first = positive[:, np.argsort(positive.sum(axis=0), kind="stable")]
    strata = np.where(rarest_first.any(axis=1), 1 + rarest_first.argmax(axis=1), 0)
    return np.where(np.bincount(strata)[strata] < MOST_FOLDS, 0, strata)


def _blocks(times: Array, count: int) -> Array:
    """Return the block of each time [N]: about ``count`` blocks of equal size, 1 the
    latest; equal times share one.
    """
    ordered = np.sort(times)
    middle = (
        np.searchsorted(ordered, times, "left")
        + np.searchsorted(ordered, times, "right")
    ) / 2
    return np.asarray(
        1 + np.unique(-(middle * count // len(times)), return_inverse=True)[1]
    )


def _deal(units: Array, strata: Array, count: int, seed: int) -> Array:
    """Return the fold, from 1, of each sample [N]: the samples of a unit are in one
    fold, each stratum in all.
    """
    from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold

    _, first, units = np.unique(units, return_index=True, return_inverse=True)
    # numbered by their first samples
    units = np.argsort(np.argsort(first))[units]
    first = np.sort(first)
    grouped = len(first) < len(units) and len(first) <= _MOST_GROUPS
    if grouped:
        parts = StratifiedGroupKFold(count, shuffle=True, random_state=seed).split(
            strata, strata, units
        )
    else:
        parts = StratifiedKFold(count, shuffle=True, random_state=seed).split(
            first, strata[first]
        )
    folds = np.zeros(len(units) if grouped else len(first), np.int64)
    with warnings.catch_warnings():
        warnings.simplefilter(
            "ignore", UserWarning
        )  # a class has fewer samples than there are folds
        for k, (_, part) in enumerate(parts):
            folds[part] = k
    return np.asarray(
        1 + np.unique(folds if grouped else folds[units], return_inverse=True)[1]
    )
