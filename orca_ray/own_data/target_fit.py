"""Infer the kind and coding of own targets."""

from collections import Counter
from dataclasses import dataclass, replace

import numpy as np

from orca_ray.data.rows import Array, TargetKind, row_slices
from orca_ray.data.splits import Indices
from orca_ray.errors import UserError, printable, shorten
from orca_ray.own_data import Options, UserData
from orca_ray.own_data import splits as own_splits
from orca_ray.own_data.array_inputs import ArrayInputs
from orca_ray.own_data.findings import Notes
from orca_ray.own_data.splits import LEAST_PER_CLASS
from orca_ray.own_data.targets import TargetCoding, as_numbers, check_collisions, in_order

MOST_CLASSES, MOST_CLASS_SHARE = 20, 0.1
"""Whole numbers are classes if there are at most 20 different ones, and at most a tenth of the samples."""


@dataclass(frozen=True)
class FittedTarget:
    """The coding of targets, and the samples that have one."""

    coding: TargetCoding
    rows: Indices
    """Samples with a target."""
    classes: Array | None = None
    """Class numbers [N], −1 for samples without one; None for other kinds."""


def fit_target(
    data: UserData, y: Array, options: Options, notes: Notes, *, least: int = LEAST_PER_CLASS
) -> FittedTarget:
    """Return the coding of the targets ``y``. Samples without one, and of classes too rare to split, are left out.

    A class is too rare if it has fewer than ``least`` samples.

    Raises UserError for one class, a constant number, colliding labels, and targets that do not fit ``options.kind``.
    """
    kind, why = (options.kind, "given") if options.kind else _kind(data, y)
    columns = tuple(data.target_names) if y.ndim == 2 and len(data.target_names) == y.shape[1] else ()
    if kind == "classes":
        fitted = _classes(data, y, columns, notes, least)
        found = f"{len(fitted.coding.label_names)} classes"
    elif kind == "labels":
        fitted, found = _labels(data, y, columns), f"{y.shape[1:]} labels"
    else:
        fitted, found = _numbers(data, y, kind), "one number" if kind == "scalar" else f"a field {list(y.shape[1:])}"
    if missing := len(y) - len(fitted.rows):
        first = int(np.setdiff1d(np.arange(len(y)), fitted.rows)[0])
        notes.warn(f"{missing} samples are left out, as they have no usable target; the first is {data.place(first)}")
    named = f"{', '.join(data.target_names)}: " if data.target_names else ""
    notes.find("target", named + found, why, "kind (classes, labels, scalar or dense)")
    return fitted


def _kind(data: UserData, y: Array) -> tuple[TargetKind, str]:
    if y.ndim > 2:
        return "dense", f"{y.ndim - 1} axes a sample"
    if y.ndim == 2:
        sample = y[:: max(1, len(y) // 10_000)]
        shape = getattr(data.x, "shape", ())
        if not np.isin(sample, (0, 1)).all() or (len(shape) > 1 and y.shape[1:] == shape[-1:]):
            return "dense", f"{y.shape[1]} numbers a sample"
        if (sample.sum(axis=1) == 1).all():
            return "classes", "one 1 in each row"
        return "labels", "columns of 0 and 1"
    if y.dtype.kind in "OUSb":
        text = [each for each in y.tolist() if each is not None]
        return "classes", "truth values" if text and isinstance(text[0], bool) else "text"
    if y.dtype.kind == "M":
        raise UserError(f"{data.source}: the target holds dates; give a number, such as days, or a class")
    known = y[np.isfinite(y)]
    number = len(np.unique(known))
    if (known % 1 == 0).all() and number <= min(MOST_CLASSES, max(2, int(MOST_CLASS_SHARE * len(known)))):
        return "classes", f"{number} different whole numbers"
    return "scalar", f"{number} different numbers"


def _classes(data: UserData, y: Array, columns: tuple[str, ...], notes: Notes, least: int) -> FittedTarget:
    one_hot: tuple[str, ...] = ()
    if y.ndim == 2:
        one_hot = columns or tuple(map(str, range(y.shape[1])))
    elif y.ndim != 1:
        raise UserError(f"{data.source}: classes need one label a sample, found targets {list(y.shape)}")
    else:
        for warning in check_collisions(y, data.source):
            notes.warn(warning)
    texts = TargetCoding(kind="classes", one_hot=one_hot).texts(y)
    counts = Counter(text for text in texts if text is not None)
    rare = {text for text, count in counts.items() if count < least}
    names = in_order([text for text in counts if text not in rare])
    listed = shorten(", ".join(f"{printable(text)} ({count})" for text, count in counts.most_common(10))) or "none"
    if len(counts) == 1:
        raise UserError(f"{data.source}: every target is {next(iter(counts))!r}; two classes or more are needed")
    if len(names) < 2:
        raise UserError(f"{data.source}: two classes of {least} samples or more are needed, found {listed}")
    if rare:
        listed = shorten(", ".join(sorted(map(printable, rare))))
        notes.warn(f"classes with fewer than {least} samples cannot be in every split, and are left out: {listed}")
    number = {name: k for k, name in enumerate(names)}
    classes = np.array([-1 if text is None else number.get(text, -1) for text in texts], dtype=np.int64)
    coding = TargetCoding(kind="classes", label_names=names, one_hot=one_hot)
    return FittedTarget(coding, np.flatnonzero(classes >= 0), classes)


def _labels(data: UserData, y: Array, columns: tuple[str, ...]) -> FittedTarget:
    if y.ndim != 2 or not np.isin(y[np.isfinite(y).all(axis=1)], (0, 1)).all():
        raise UserError(f"{data.source}: labels need targets [N, K] of 0 and 1, found {y.dtype} {list(y.shape)}")
    names = columns or tuple(map(str, range(y.shape[1])))
    return FittedTarget(TargetCoding(kind="labels", label_names=names), np.flatnonzero(np.isfinite(y).all(axis=1)))


def _numbers(data: UserData, y: Array, kind: TargetKind) -> FittedTarget:
    if (kind == "scalar") != (y.ndim == 1):
        raise UserError(f"{data.source}: a target of kind {kind} does not have shape {list(y.shape)}")
    try:
        values = y if y.dtype.kind in "biuf" else as_numbers(y)
    except UserError as error:
        raise UserError(f"{data.source}: {error}") from error
    finite = np.concatenate(
        [np.isfinite(values[part]).reshape(len(values[part]), -1).all(axis=1) for part in row_slices(values)]
    )
    rows = np.flatnonzero(finite)
    if len(rows) and kind == "scalar" and values[rows].min() == values[rows].max():
        raise UserError(f"{data.source}: every target is {values[rows[0]]}; there is nothing to learn")
    return FittedTarget(TargetCoding(kind=kind, shape=y.shape[1:]), rows)


def without_absent(
    fitted: FittedTarget, parts: own_splits.Splits, notes: Notes
) -> tuple[FittedTarget, own_splits.Splits]:
    """Return target and splits without classes that train lacks; their samples are left out of validation and test."""
    names, classes = fitted.coding.label_names, fitted.classes
    assert classes is not None
    present = np.unique(classes[parts["train"]])
    if len(present) < len(names):
        lacking = [name for k, name in enumerate(names) if k not in present]
        if len(present) < 2:
            raise UserError(
                f"train has only the class {names[present[0]]!r}; split in another way (group, time, split)"
            )
        listed = shorten(", ".join(map(printable, lacking)))
        notes.warn(f"train has no sample of class {listed}: such samples are left out of validation and test")
        parts = {split: rows[np.isin(classes[rows], present)] for split, rows in parts.items()}
        coding = fitted.coding.model_copy(update={"label_names": tuple(names[k] for k in present)})
        renumbered = np.where(np.isin(classes, present), np.searchsorted(present, classes), -1)
        fitted = replace(fitted, coding=coding, classes=renumbered)
        if empty := [split for split, rows in parts.items() if not len(rows)]:
            raise UserError(f"{' and '.join(empty)} have only classes that train lacks; split in another way")
    return fitted, parts


def warn_absent(fitted: FittedTarget, parts: own_splits.Splits, notes: Notes) -> bool:
    """Warn of classes without a sample in validation or test; return whether there are any."""
    assert fitted.classes is not None
    absent = False
    for split, rows in parts.items():
        present = set(np.unique(fitted.classes[rows]).tolist())
        if lacking := [name for k, name in enumerate(fitted.coding.label_names) if k not in present]:
            listed = shorten(", ".join(map(printable, lacking)))
            notes.warn(f"{split} has no sample of class {listed}: its score says nothing about that")
            absent = True
    return absent


def with_field_axes(coding: TargetCoding, encoder: ArrayInputs) -> TargetCoding:
    """Return the coding of a field with its channels first, if they are last as given."""
    spatial, shape = encoder.shape[1:], coding.shape
    last = len(shape) == len(spatial) + 1 and shape[:-1] == spatial and shape[1:] != spatial
    if not last:
        return coding
    axes = (len(shape) - 1, *range(len(shape) - 1))
    return coding.model_copy(update={"axes": axes, "shape": tuple(shape[axis] for axis in axes)})
