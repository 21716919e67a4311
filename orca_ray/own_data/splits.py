"""Splits of own data, the same on every machine."""

from collections.abc import Collection, Mapping
from typing import NamedTuple

import numpy as np

from orca_ray.data.layout import SplitName
from orca_ray.data.rows import Array
from orca_ray.data.splits import Indices
from orca_ray.errors import UserError, quoted, shorten
from orca_ray.own_data import Notes, Options, UserData
from orca_ray.own_data.dates import as_times
from orca_ray.own_data.forward import ForwardRule, require_division

Splits = Mapping[SplitName, Indices]

LEAST_SAMPLES = 10
"""Least number of samples with a target."""
FEW_SAMPLES = 100
"""Number of samples below which a warning says that scores are rough."""
LEAST_PER_CLASS = 3
"""Least number of samples of a class: one in each split."""
LEAST_WITHOUT_TEST = 2
"""Least number of samples of a class: one in train and one in validation."""
MOST_LEFT_OUT = 0.1
"""Largest share of the samples that is left out because their classes are small."""
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


def least_per_class(counts: Collection[int], options: Options) -> int:
    """Return how many samples a class needs; smaller classes are left out.

    ``counts`` are the numbers of samples of all classes. A class needs a sample in each
    split. No test split is drawn, so that two samples are enough, if otherwise more
    than `MOST_LEFT_OUT` of the samples would be left out.
    """
    if options.holdout:
        return LEAST_PER_CLASS
    usable = [count for count in counts if count >= LEAST_WITHOUT_TEST]
    num_small = sum(count for count in usable if count < LEAST_PER_CLASS)
    if num_small > MOST_LEFT_OUT * sum(usable):
        return LEAST_WITHOUT_TEST
    return LEAST_PER_CLASS


class _Shares(NamedTuple):
    """Shares of the samples that become validation and test."""

    validation: float
    test: float


def draw_splits(
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
    else their times, else their groups. Without all three, splits are random, with an
    equal share of each class; ``classes`` [N] are class numbers (None: no classes).
    With a `ForwardRule`, test is later than all other samples and of other groups, and
    samples that are neither are left out. Train then has samples that may not train for
    validation (see `ForwardRule.training_of_folds`), unless ``test`` is False.

    ``options.holdout`` says whether test is held out. By default, it is if the data
    have times, declare a test split, or have at least `LEAST_HOLDOUT` samples, and
    `LEAST_PER_CLASS` of each class; but not if a `ForwardRule` would then leave out
    more than `MOST_LEFT_OUT` of the samples.
    ``test``: whether there may be a test split at all.

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
    rule = ForwardRule.of_data(data, options, notes)
    if test:
        is_held_out, why = _decide_holdout(data, rows, classes, options, rule)
    else:
        is_held_out = False
        why = "no test split is wanted"
    if rule is None or data.splits is not None:
        parts = _divide(
            data, rows, classes, options, notes, rule=rule, is_held_out=is_held_out
        )
    else:
        parts = _split_forward(
            rule, data, rows, options, notes, is_held_out=is_held_out, folds=test
        )
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
        notes.add_finding("holdout", outer_test, why, "no-holdout")
    else:
        notes.add_finding("holdout", "none: folds alone give the score", why, "holdout")
    return {name: np.sort(part) for name, part in parts.items()}


def _divide(
    data: UserData,
    rows: Indices,
    classes: Array | None,
    options: Options,
    notes: Notes,
    *,
    rule: ForwardRule | None,
    is_held_out: bool,
) -> dict[SplitName, Indices]:
    """Return the three splits; test is empty unless it is held out."""
    validation, test = options.fractions
    shares = _Shares(validation, test if is_held_out else 0.0)
    drawer = np.random.RandomState(options.seed)
    labels = np.zeros(len(data), dtype=np.int64) if classes is None else classes
    if data.splits is not None:
        notes.add_finding("split", "as declared", "the data declare their splits")
        return _split_as_declared(data, rows, labels, shares, drawer, notes, rule)
    if data.times is not None:
        parts = _split_by_time(data, rows, shares, options, notes)
        latest = "test" if is_held_out else "validation"
        why = f"{options.time or 'times'} is given: {latest} is latest"
        notes.add_finding("split", "by time", why, "time")
        return parts
    if data.groups is not None:
        why = f"no value of {options.group or 'groups'} is in two splits"
        notes.add_finding("split", "by group", why, "group")
        return _split_by_group(data, rows, labels, shares, options.seed)
    how = "random" if classes is None else "random, with equal shares of each class"
    notes.add_finding("split", how, f"seed {options.seed}", "group, time, split, seed")
    return _split_at_random(rows, labels, shares, drawer)


def _split_forward(
    rule: ForwardRule,
    data: UserData,
    rows: Indices,
    options: Options,
    notes: Notes,
    *,
    is_held_out: bool,
    folds: bool,
) -> dict[SplitName, Indices]:
    """Return the three splits by a `ForwardRule`; test is empty unless it is held out.

    ``folds``: train keeps the samples that may train for some fold, though not for
    validation. Adds to ``notes`` how many samples are left out.
    """
    validation, test = options.fractions
    train = rows
    test_rows = rows[:0]
    if is_held_out:
        outer = require_division(rule, data, rows, test)
        train = outer.trained
        test_rows = outer.judged
        validation /= 1 - test
    inner = require_division(rule, data, train, validation)
    train = inner.trained
    if folds:
        train = np.setdiff1d(outer.trained if is_held_out else rows, inner.judged)
    latest = "test" if is_held_out else "validation"
    how = "by time" if rule.groups is None else "by time and group"
    why = f"{latest}: {rule.describe(options)}"
    notes.add_finding("split", how, why, "group, time, gap")
    num_left_out = len(rows) - len(train) - len(inner.judged) - len(test_rows)
    if num_left_out:
        notes.warn(
            f"{num_left_out} of {len(rows)} samples are left out: {_why_left_out(rule)}"
        )
    return {"train": train, "validation": inner.judged, "test": test_rows}


def _why_left_out(rule: ForwardRule) -> str:
    """Return why samples are neither trained on nor judged."""
    if rule.groups is None:
        return "they are in the gap before the judged samples"
    why = "they are earlier samples of groups that judge, or later ones of others"
    if rule.gap:
        why += ", or in the gap"
    return f"{why}; --no-holdout keeps them"


def _split_at_random(
    rows: Indices, labels: Array, shares: _Shares, drawer: np.random.RandomState
) -> dict[SplitName, Indices]:
    """Draw the splits, each with an equal share of each class."""
    train = rows
    test = rows[:0]
    if shares.test:
        train, test = _draw_share(train, labels, shares.test, drawer)
    # The share of validation among the samples that are not in test.
    fraction = shares.validation / (1 - shares.test)
    train, validation = _draw_share(train, labels, fraction, drawer)
    return {"train": train, "validation": validation, "test": test}


def _decide_holdout(
    data: UserData,
    rows: Indices,
    classes: Array | None,
    options: Options,
    rule: ForwardRule | None,
) -> tuple[bool, str]:
    """Return whether a test split is held out, and why.

    ``classes``: see `draw_splits`.
    """
    if options.holdout is not None:
        return options.holdout, "given"
    if data.splits is not None and "test" in declared_names(data, rows):
        return True, "the data declare a test split"
    if rule is not None and data.splits is None:
        outer = rule.divide(rows, options.fractions[1])
        num_kept = 0 if outer is None else len(outer.trained) + len(outer.judged)
        if len(rows) - num_kept > MOST_LEFT_OUT * len(rows):
            return False, f"it would leave out {len(rows) - num_kept} samples"
    if data.splits is None and data.times is not None:
        return True, "the latest samples show how later ones are predicted"
    if classes is not None:
        smallest = np.unique(classes[rows], return_counts=True)[1].min()
        if smallest < LEAST_PER_CLASS:
            return False, f"a class has {smallest} samples, for train and validation"
    if len(rows) >= LEAST_HOLDOUT:
        return True, f"{len(rows)} samples are enough"
    return False, f"{len(rows)} samples are fewer than {LEAST_HOLDOUT}"


def _draw_share(
    rows: Indices, labels: Array, fraction: float, drawer: np.random.RandomState
) -> tuple[Indices, Indices]:
    """Draw a share of each class in ``rows``; return the other rows and the drawn ones.

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


def _split_by_group(
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
    # Of several random divisions, the one with the fewest absent classes is taken.
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
    # A group goes to the split in whose share its middle sample falls.
    middles = np.cumsum(sizes[order]) - sizes[order] / 2
    is_test = middles <= num_test
    is_validation = ~is_test & (middles <= num_test + num_validation)
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


def _split_by_time(
    data: UserData, rows: Indices, shares: _Shares, options: Options, notes: Notes
) -> dict[SplitName, Indices]:
    """Divide the samples in the order of their times; the latest become test."""
    times = as_times(data, options, notes.warn)[rows]
    if (np.diff(times) < 0).any():
        notes.warn("rows are not in the order of their times: they are sorted")
    order = rows[np.argsort(times, kind="stable")]
    ordered = np.sort(times, kind="stable")
    first = _time_border(ordered, 1 - (shares.validation + shares.test))
    second = _time_border(ordered, 1 - shares.test)
    if not 0 < first < second:
        distinct = f"{len(np.unique(ordered))} different times in {len(rows)} samples"
        raise UserError(
            f"{data.source}: a split by time needs different times, found {distinct}"
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


def declared_names(data: UserData, rows: Indices) -> Array:
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


def _split_as_declared(
    data: UserData,
    rows: Indices,
    labels: Array,
    shares: _Shares,
    drawer: np.random.RandomState,
    notes: Notes,
    rule: ForwardRule | None,
) -> dict[SplitName, Indices]:
    """Return the declared splits; a missing split is drawn from train.

    With a ``rule``, it is the latest part of train.
    """
    names = declared_names(data, rows)
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
            if rule is None:
                kind = "random"
                train, share = _draw_share(parts["train"], labels, fraction, drawer)
            else:
                kind = "late"
                division = require_division(rule, data, parts["train"], fraction)
                share = division.judged
                train = division.trained
                if name == "validation":  # folds choose among all samples
                    train = np.setdiff1d(parts["train"], share)
            parts["train"] = train
            parts[name] = share
            notes.warn(
                f"the data declare no {name} split: a {kind} share {fraction:g} of"
                " train is held out"
            )
    return parts
