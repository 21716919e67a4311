"""Splits and folds whose models are judged on later samples of unseen groups."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Self

import numpy as np

from orca_ray.data.rows import Array
from orca_ray.data.splits import Indices
from orca_ray.errors import UserError
from orca_ray.own_data import Notes, Options, UserData
from orca_ray.own_data.dates import as_times

LEAST_TRAINED = 5
"""Least number of samples that train for a fold, or for the outer test."""
LEAST_FOLDS = 2
"""Least number of folds."""
_MOST_BORDERS = 64
"""Largest number of times that are tried as the beginning of a judged part."""
_MICROSECONDS_OF_DAY = 86_400e6


@dataclass(frozen=True)
class Division:
    """Samples that are judged, and those that may train for them."""

    trained: Indices
    judged: Indices


@dataclass(frozen=True)
class ForwardRule:
    """Rule that says which samples may train a model that others judge.

    A sample may train if its time, plus ``gap``, is before the times of all judged
    samples, and if its group is the group of none of them.
    """

    times: Array
    """Time of each sample [N]: numbers, or microseconds since 1970."""
    groups: Array | None
    """Number of the group of each sample [N]; None: only times count."""
    gap: float
    """Time that is left out before the judged samples, in the units of ``times``."""
    seed: int
    """Seed of the order of groups that are equally good to judge."""
    unit: str = ""
    """Unit of the option ``gap``, for messages: " days", or "" for that of the times.
    """

    @classmethod
    def of_data(cls, data: UserData, options: Options, notes: Notes) -> Self | None:
        """Return the rule that data and options ask for.

        None: they ask for none, because there are no times, or neither groups nor a
        gap. Raises UserError for a gap without times, or with declared splits.
        """
        if options.gap is not None:
            _check_gap(data)
        if data.times is None or (data.groups is None and options.gap is None):
            return None
        groups = None
        if data.groups is not None:
            names = [str(group) for group in data.groups.tolist()]
            groups = np.unique(names, return_inverse=True)[1]
        gap = options.gap or 0.0
        unit = ""
        if data.times.dtype.kind not in "biuf":
            gap *= _MICROSECONDS_OF_DAY
            unit = " days"
        times = as_times(data, options, notes.warn)
        return cls(times, groups, gap, options.seed, unit)

    def may_train(self, rows: Indices, judged: Indices) -> Array:
        """Return which of ``rows`` [N] may train for ``judged`` samples: bool [N]."""
        is_allowed = self.times[rows] + self.gap < self.times[judged].min()
        if self.groups is not None:
            is_allowed &= ~np.isin(self.groups[rows], self.groups[judged])
        return np.asarray(is_allowed)

    def divide(self, rows: Indices, share: float) -> Division | None:
        """Return the division of ``rows`` that leaves out the fewest samples.

        About ``share`` of the samples that are kept are judged. None: there is no
        division with `LEAST_TRAINED` samples that train.
        """
        best: Division | None = None
        best_merit = -np.inf
        for border in self._borders(rows):
            division = self.judge_from(rows, border, np.inf, share)
            if division is None:
                continue
            num_judged = len(division.judged)
            num_kept = num_judged + len(division.trained)
            merit = num_kept - abs(num_judged - share * num_kept)
            if merit > best_merit:
                best = division
                best_merit = merit
        return best

    def _borders(self, rows: Indices) -> Array:
        """Return times between which about equally many of ``rows`` lie.

        With groups, as many first times of groups are added: a group that begins then
        has no earlier samples to leave out.
        """
        order = rows[np.argsort(self.times[rows], kind="stable")]
        borders = _evenly_spaced(self.times[order])
        if self.groups is None:
            return np.unique(borders)
        firsts = np.unique(self.groups[order], return_index=True)[1]
        starts = np.sort(self.times[order][firsts])
        return np.unique(np.concatenate([borders, _evenly_spaced(starts)]))

    def judge_from(
        self, rows: Indices, start: float, end: float, share: float
    ) -> Division | None:
        """Return the division that judges samples from ``start`` on, before ``end``.

        Without groups, all samples of that time are judged. Otherwise groups judge
        until ``share`` of the samples that are kept are judged: first those that lose
        the fewest earlier samples for each judged one. None: fewer than
        `LEAST_TRAINED` samples are left to train, or none is judged.
        """
        times = self.times[rows]
        is_late = (times >= start) & (times < end)
        is_early = times + self.gap < start
        if self.groups is not None:
            is_judging = self._judging_groups(rows, is_early, is_late, share)
            is_late &= is_judging[self.groups[rows]]
            is_early &= ~is_judging[self.groups[rows]]
        if not is_late.any() or is_early.sum() < LEAST_TRAINED:
            return None
        return Division(trained=rows[is_early], judged=rows[is_late])

    def _judging_groups(
        self, rows: Indices, is_early: Array, is_late: Array, share: float
    ) -> Array:
        """Return which groups judge: bool [G]; see `judge_from`."""
        assert self.groups is not None
        num_groups = int(self.groups.max()) + 1
        num_early = np.bincount(self.groups[rows[is_early]], minlength=num_groups)
        num_late = np.bincount(self.groups[rows[is_late]], minlength=num_groups)
        drawn = np.random.RandomState(self.seed).permutation(num_groups)
        drawn = drawn[num_late[drawn] > 0]
        order = drawn[np.argsort(num_early[drawn] / num_late[drawn], kind="stable")]
        num_judged = np.cumsum(num_late[order])
        num_trained = num_early.sum() - np.cumsum(num_early[order])
        is_enough = num_judged >= share * (num_judged + num_trained)
        count = 1 + int(np.argmax(is_enough)) if is_enough.any() else len(order)
        # Groups without earlier samples cost nothing.
        count = max(count, int((num_early[order] == 0).sum()))
        is_judging = np.zeros(num_groups, dtype=bool)
        is_judging[order[:count]] = True
        return is_judging

    def training_of_folds(
        self, rows: Indices, validation: Indices, folds: Array
    ) -> Array:
        """Return which of ``rows`` [N] train for each fold: bool [1 + K, N].

        The first row is for the ``validation`` split, and row k for fold k of ``folds``
        [1, N].
        """
        judged = [validation]
        judged += [rows[folds[0] == fold] for fold in range(1, folds.max() + 1)]
        return np.stack([self.may_train(rows, part) for part in judged])

    def describe(self, options: Options) -> str:
        """Return the rule in words, for the findings."""
        parts = ["all later than what trains"]
        if options.gap:
            parts.append(f"by more than {options.gap:g}{self.unit}")
        if self.groups is not None:
            parts.append("and of other groups")
        return " ".join(parts)


def _evenly_spaced(times: Array) -> Array:
    """Return at most `_MOST_BORDERS` of sorted times, evenly spaced."""
    places = np.linspace(0, len(times) - 1, min(_MOST_BORDERS, len(times)))
    return np.asarray(times[places.astype(np.int64)])


def _check_gap(data: UserData) -> None:
    """Raise UserError if a gap has no effect on ``data``."""
    if data.times is None:
        raise UserError(
            f"{data.source}: --gap is a time that is left out between training and"
            " validation, and no times are given: name their column with --time, or"
            " leave out --gap"
        )
    if data.splits is not None:
        raise UserError(
            f"{data.source}: the data declare their splits, so that --gap has no"
            " effect: leave out --gap or --split"
        )


def require_division(
    rule: ForwardRule, data: UserData, rows: Indices, share: float
) -> Division:
    """Return `ForwardRule.divide`; raise UserError if there is no division."""
    division = rule.divide(rows, share)
    if division is None:
        raise _undivided(rule, data, rows)
    return division


def _undivided(rule: ForwardRule, data: UserData, rows: Indices) -> UserError:
    """Return the error that says why ``rows`` cannot be divided."""
    num_times = len(np.unique(rule.times[rows]))
    found = f"{len(rows)} samples with {num_times} different times"
    remedy = "give more times"
    if rule.groups is not None:
        found += f" and {len(np.unique(rule.groups[rows]))} groups"
        remedy = "give more groups, or leave out --group or --time"
    if rule.gap:
        remedy += ", or a smaller --gap"
    needed = f"{LEAST_TRAINED} samples or more, of two classes if there are classes,"
    where = "before the judged ones"
    if rule.groups is not None:
        where += " and of other groups"
    return UserError(
        f"{data.source}: a split by time needs {needed} {where}, found {found}:"
        f" {remedy}"
    )


def draw_forward_folds(
    rule: ForwardRule,
    data: UserData,
    rows: Indices,
    classes: Array | None,
    most_folds: int,
    share: float,
) -> Array:
    """Return the fold of each of ``rows`` [N]: int8 [1, N]; 0: in no fold.

    Times are divided into one block more than there are folds. Each block but the
    earliest is a fold: `ForwardRule.judge_from` chooses what it judges. Fold 1 is the
    latest. There are fewer than ``most_folds`` if a fold would have too few samples or
    classes to train. Raises UserError if there are not `LEAST_FOLDS`.
    """
    for count in range(most_folds, LEAST_FOLDS - 1, -1):
        divisions = list(_divide_blocks(rule, rows, count, share))
        if all(_is_usable(division, classes) for division in divisions):
            break
    else:
        raise _undivided(rule, data, rows)
    folds = np.zeros(len(data), dtype=np.int8)
    for number, division in enumerate(divisions, start=1):
        assert division is not None
        folds[division.judged] = number
    return folds[rows][None]


def _divide_blocks(
    rule: ForwardRule, rows: Indices, count: int, share: float
) -> Iterator[Division | None]:
    """Yield the division of each fold, the latest first."""
    ordered = np.sort(rule.times[rows])
    places = np.arange(count, 0, -1) * len(rows) // (count + 1)
    end = np.inf
    for start in ordered[places]:
        yield rule.judge_from(rows, start, end, share)
        end = start


def _is_usable(division: Division | None, classes: Array | None) -> bool:
    """Return whether a fold can be trained: with two classes, if there are classes."""
    if division is None:
        return False
    return classes is None or len(np.unique(classes[division.trained])) > 1
