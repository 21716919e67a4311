"""Folds of own data, the same on every machine."""

import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pandas as pd

from orca_ray.data.rows import Array
from orca_ray.data.splits import Indices
from orca_ray.own_data import Notes, Options, UserData
from orca_ray.own_data.dates import as_times
from orca_ray.own_data.forward import LEAST_FOLDS, ForwardRule, draw_forward_folds
from orca_ray.own_data.splits import declared_names, group_numbers

MOST_FOLDS = 5
"""Largest number of folds."""
MOST_REPEATED = 300
"""Largest number of samples of data whose folds are drawn twice."""
MOST_FOLDED = 20_000
"""Largest number of samples of data that are divided into folds."""
_MOST_GROUPS = 2000
"""Largest number of groups for `StratifiedGroupKFold`, which takes 0.3 ms a group."""
_MOST_LABELS = 1000
"""Largest number of labels for which folds are balanced by a sample's rarest label."""


class FoldPlan(NamedTuple):
    """How often folds are drawn, and their number.

    (1, 1): there are no folds, and the prepared split is used.
    """

    repeats: int
    """Number of times that folds are drawn, R."""
    folds: int
    """Number of folds, K."""


def plan_folds(
    num_samples: int, smallest: int, num_units: int, *, ordered: bool = False
) -> FoldPlan:
    """Return how often folds are drawn, and their number.

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
        return FoldPlan(repeats=1, folds=1)
    draws_differ = not ordered and folds < num_units
    repeats = 2 if num_samples <= MOST_REPEATED and draws_differ else 1
    return FoldPlan(repeats, folds)


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
    inputs (equal ``hashes``, of all samples). With a `ForwardRule`, folds are later
    than what trains for them, and 0 is the number of samples that are in no fold.

    None: the prepared split alone is used, because `plan_folds` says so or the data
    declare a validation split.
    """
    if data.splits is not None and "validation" in declared_names(data, rows):
        notes.add_finding(
            "folds", "one split", "the data declare a validation split", "split"
        )
        return None
    rule = ForwardRule.of_data(data, options, notes)
    if rule is not None:
        return _draw_forward(rule, data, rows, classes, options, notes)
    times = None if data.times is None else as_times(data, options, notes.warn)[rows]
    units = _find_units(data, rows, times, hashes)
    strata = _find_strata(data, rows, classes)
    smallest = len(rows)
    if classes is not None and times is None:
        smallest = _smallest_class(strata, units.numbers)
    plan = plan_folds(len(rows), smallest, units.count, ordered=times is not None)
    if plan.folds == 1:
        why = f"there is only one of the {units.what}"
        if len(rows) > MOST_FOLDED:
            why = f"{len(rows)} samples are many"
        notes.add_finding("folds", "one split", why)
        return None
    if times is not None:
        folds = _divide_in_time(times, plan.folds)[None]
    else:
        seeds = range(options.seed, options.seed + plan.repeats)
        folds = np.stack(
            [
                _draw_fold_numbers(units.numbers, strata, plan.folds, seed)
                for seed in seeds
            ]
        )
    _note_folds(folds, units, smallest, options, notes)
    if lacks_class(folds, rows, classes):
        notes.warn("not every fold has samples of every class")
    return folds.astype(np.int8)


def _draw_forward(
    rule: ForwardRule,
    data: UserData,
    rows: Indices,
    classes: Array | None,
    options: Options,
    notes: Notes,
) -> Array:
    """Return the folds of a `ForwardRule` [1, N], and add them to ``notes``."""
    most = LEAST_FOLDS if len(rows) > MOST_FOLDED else MOST_FOLDS
    share = options.fractions[0]
    folds = draw_forward_folds(rule, data, rows, classes, most, share)
    count = folds.max()
    if count < most:
        notes.warn(
            f"scores come from {count} folds instead of {most}: more would train on"
            " too few earlier samples, or on one class"
        )
    num_judged = np.count_nonzero(folds)
    why = f"{num_judged} of {len(rows)} samples judge, {rule.describe(options)}"
    notes.add_finding("folds", f"{count} folds", why, "group, time, gap")
    return folds


def _find_units(
    data: UserData, rows: Indices, times: Array | None, hashes: Array
) -> _Units:
    """Return the units of ``rows``: samples of one time or group, or equal samples."""
    if times is not None:
        return _Units("times", np.unique(times, return_inverse=True)[1])
    if data.groups is not None:
        return _Units("groups", group_numbers(data, rows)[1])
    return _Units("different inputs", np.unique(hashes[rows], return_inverse=True)[1])


def _smallest_class(classes: Array, units: Array) -> int:
    """Return the number of units of the class that has the fewest units.

    ``classes`` [N] and ``units`` [N] are the numbers of each sample's class and unit.
    """
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
    notes.add_finding("folds", description, why, "group, time, seed")


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


def _find_strata(data: UserData, rows: Indices, classes: Array | None) -> Array:
    """Return the numbers [N] by which folds are balanced.

    They are the classes, the rarest label of each sample, or tenths of the sorted
    targets.
    """
    if classes is not None:
        return np.asarray(classes[rows])
    y = data.y
    if y is None or y.ndim > 2 or y.shape[1:] > (_MOST_LABELS,):
        return np.zeros(len(rows), np.int64)
    if y.ndim == 1:  # numbers: samples are balanced by their ranks
        numbers = pd.to_numeric(pd.Series(y[rows])).to_numpy()
        ranks = np.argsort(np.argsort(numbers, kind="stable"))
        num_strata = min(10, max(1, len(rows) // MOST_FOLDS))
        return np.asarray(ranks * num_strata // len(rows))
    # Several labels: stratum 0 has the samples without a label, or with a label that is
    # too rare to be in every fold.
    positive = np.asarray(y[rows]) > 0
    rarest_first = positive[:, np.argsort(positive.sum(axis=0), kind="stable")]
    strata = np.where(rarest_first.any(axis=1), 1 + rarest_first.argmax(axis=1), 0)
    return np.where(np.bincount(strata)[strata] < MOST_FOLDS, 0, strata)


def _divide_in_time(times: Array, count: int) -> Array:
    """Return the block of each time [N]: about ``count`` blocks of equal size.

    Block 1 is the latest; equal times are in one block.
    """
    ordered = np.sort(times)
    first = np.searchsorted(ordered, times, "left")
    end = np.searchsorted(ordered, times, "right")
    place = (first + end) / 2  # the middle of all samples of that time
    block_from_end = -(place * count // len(times))
    return np.asarray(1 + np.unique(block_from_end, return_inverse=True)[1])


def _draw_fold_numbers(units: Array, strata: Array, count: int, seed: int) -> Array:
    """Draw the fold, from 1, of each sample [N], with equal shares of each stratum.

    All samples of a unit are in one fold.
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
            folds = _fold_numbers(grouped.split(strata, strata, numbers), len(numbers))
        else:
            stratified = StratifiedKFold(count, shuffle=True, random_state=seed)
            unit_folds = _fold_numbers(
                stratified.split(first, strata[first]), len(first)
            )
            folds = unit_folds[numbers]
    return np.asarray(1 + np.unique(folds, return_inverse=True)[1])


def _fold_numbers(parts: Iterable[tuple[Array, Array]], length: int) -> Array:
    """Return the number of the fold of each item; ``parts`` are those of sklearn."""
    folds = np.zeros(length, np.int64)
    for number, (_, part) in enumerate(parts):
        folds[part] = number
    return folds
