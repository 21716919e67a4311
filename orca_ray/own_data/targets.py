"""Targets of own tasks: their kind, and the coding of classes, labels, numbers and
fields.
"""

import math
from collections import Counter
from dataclasses import dataclass, replace
from typing import Any, Literal, Self

import numpy as np
import pandas as pd
from pydantic import BaseModel, ConfigDict, model_validator

from orca_ray.data.rows import Array, Target, TargetKind, row_slices
from orca_ray.data.splits import Indices
from orca_ray.errors import UserError, printable, quoted, shorten, unknown_name
from orca_ray.own_data import Notes, Options, UserData
from orca_ray.own_data import splits as own_splits
from orca_ray.own_data.amounts import AmountForm, amount_form, parse_amounts
from orca_ray.own_data.splits import LEAST_PER_CLASS


class TargetCoding(BaseModel):
    """Record of how a user's targets are encoded as the target array of a task."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: TargetKind
    label_names: tuple[str, ...] = ()
    """Names of the classes or labels, in the order of the model's outputs."""
    one_hot: tuple[str, ...] = ()
    """Names of the K columns, if classes are given as [N, K] with a single 1 in each
    row.
    """
    axes: tuple[int, ...] = ()
    """For a field: permutation from the given order of its axes to the model's order;
    (): unchanged.
    """
    shape: tuple[int, ...] = ()
    """Shape of a field in the model's order."""
    form: Literal["", "decimal-point", "decimal-comma"] = ""
    """Decimal mark of numbers in text with units, such as prices; "": plain numbers."""

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.axes and sorted(self.axes) != list(range(len(self.shape))):
            raise ValueError(
                f"axes {self.axes} are no permutation of those of shape {self.shape}"
            )
        return self

    @property
    def target(self) -> Target:
        """The target of the task."""
        return Target(self.kind, size=len(self.label_names) or 1, shape=self.shape)

    def encode(self, y: Array) -> Array:
        """Return int64 [N] for classes, else float32 [N, ...]; missing classes are −1
        and missing numbers NaN.

        Raises UserError for a class that the training data do not have, text where a
        number is needed, or other shapes.
        """
        if self.kind == "classes":
            number = {name.strip(): k for k, name in enumerate(self.label_names)}
            number |= {name: k for k, name in enumerate(self.label_names)}
            texts = self.texts(y)
            codes = [
                -1 if text is None else number.get(text, number.get(text.strip()))
                for text in texts
            ]
            if None in codes:
                unknown = str(texts[codes.index(None)])
                raise unknown_name(
                    "class", unknown, self.label_names, "The model knows only these."
                )
            return np.array(codes, dtype=np.int64)
        values = as_numbers(y, self.form)
        expected = {"labels": (len(self.label_names),), "scalar": ()}.get(
            self.kind, self.given_shape
        )
        if values.shape[1:] != expected:
            raise UserError(
                f"expected targets of shape {list(expected)}, found"
                f" {list(values.shape[1:])}"
            )
        if self.kind == "dense" and self.axes:
            values = values.transpose(0, *(axis + 1 for axis in self.axes))
        return np.ascontiguousarray(values, dtype=np.float32)

    def texts(self, y: Array) -> list[str | None]:
        """Return the name of each sample's class, None if missing; UserError for
        targets of another shape.
        """
        values = np.asarray(y)
        if not self.one_hot:
            if values.ndim != 1:
                raise UserError(
                    "expected one label a sample, found targets of shape"
                    f" {list(values.shape)}"
                )
            return label_texts(values)
        if values.shape[1:] != (len(self.one_hot),):
            raise UserError(
                f"expected targets [N, {len(self.one_hot)}], found shape"
                f" {list(values.shape)}"
            )
        return [self.one_hot[k] for k in values.argmax(axis=1)]

    def decode(self, fields: Array) -> Array:
        """Return predicted fields [N, *shape] with the axes in the order in which
        targets were given.
        """
        if not self.axes:
            return fields
        return fields.transpose(
            0, *(self.axes.index(axis) + 1 for axis in range(len(self.axes)))
        )

    @property
    def given_shape(self) -> tuple[int, ...]:
        """Shape of a field, with the axes in the order in which targets were given."""
        if not self.axes:
            return self.shape
        return tuple(
            self.shape[self.axes.index(axis)] for axis in range(len(self.axes))
        )


def as_numbers(y: Array, form: str = "") -> Array:
    """Return targets as float64, None as NaN; UserError, with the row, for the first
    other value that is no number.

    With a ``form``, as in `TargetCoding`, other values are NaN.
    """
    values = np.asarray(y)
    if values.dtype.kind in "biuf":
        return values.astype(np.float64)
    if form:
        return parse_amounts(pd.Series(values, dtype=object), form)
    try:
        return np.array(
            [math.nan if each is None else float(each) for each in values.tolist()]
        )
    except (TypeError, ValueError):
        row = next(
            row for row, each in enumerate(values.tolist()) if not _is_number(each)
        )
        raise UserError(
            f"expected targets as numbers, found {quoted(values.tolist()[row])} in row"
            f" {row + 1}"
        ) from None


def _is_number(value: Any) -> bool:
    try:
        return value is None or isinstance(float(value), float)
    except (TypeError, ValueError):
        return False


def label_texts(y: Array) -> list[str | None]:
    """Return labels as text, None if missing; whole numbers have no decimals, so that 1
    and 1.0 both become "1".
    """
    return [label_text(value) for value in np.asarray(y).tolist()]


def label_text(value: Any) -> str | None:
    """Return one label as text; None if it is missing: None, NaN or only spaces."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return None
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    text = str(value)
    return text if text.strip() else None


def check_collisions(y: Array, source: str) -> list[str]:
    """Return warnings about labels that differ only in case or spaces.

    Raises UserError for different labels with the same text, such as 1 and "1".
    """
    kinds: dict[str, Any] = {}
    for row, value in enumerate(np.asarray(y).tolist()):
        if (text := label_text(value)) is None:
            continue
        known = kinds.setdefault(text, value)
        if isinstance(known, str) != isinstance(value, str):
            found = f"labels {known!r} and {value!r} (row {row + 1}) are written alike"
            raise UserError(
                f"{source}: {found}; make them equal if they are one class, else"
                " rename one"
            )
    folded: dict[str, list[str]] = {}
    for text in kinds:
        folded.setdefault("".join(text.casefold().split()), []).append(text)
    alike = [names for names in folded.values() if len(names) > 1]
    return [
        f"labels {shorten(' and '.join(map(repr, names)))} differ only in case or"
        " spaces, and are different classes"
        for names in alike
    ]


MOST_CLASSES = 20
MOST_CLASS_SHARE = 0.1
"""Whole numbers are classes if at most 20 are different, and at most as many as a tenth
of the samples (or 2).
"""


@dataclass(frozen=True)
class FittedTarget:
    """The coding of targets, and which samples have a usable target."""

    coding: TargetCoding
    rows: Indices
    """Indices of the samples with a usable target."""
    classes: Array | None = None
    """Class numbers [N], −1 for samples without a usable class; None if the target is
    not of the kind ``classes``.
    """


def fit_target(
    data: UserData,
    y: Array,
    options: Options,
    notes: Notes,
    *,
    least: int = LEAST_PER_CLASS,
) -> FittedTarget:
    """Return the coding of the targets ``y``. Samples without a target or of too rare
    classes are left out.

    A class is too rare if it has fewer than ``least`` samples.

    Raises UserError for a single class, a constant number, different labels with the
    same text (1 and "1"), and targets that do not fit ``options.kind``.
    """
    form = _amount_form(y, options)
    numbers = as_numbers(y, form) if form else y
    kind, why = (options.kind, "given") if options.kind else _kind(data, numbers)
    columns = (
        tuple(data.target_names)
        if y.ndim == 2 and len(data.target_names) == y.shape[1]
        else ()
    )
    if kind == "classes":
        fitted = _classes(data, y, columns, notes, least)
        found = f"{len(fitted.coding.label_names)} classes"
    elif kind == "labels":
        fitted = _labels(data, y, columns)
        found = f"{y.shape[1:]} labels"
    else:
        fitted = _numbers(data, numbers, kind, notes)
        fitted = replace(fitted, coding=fitted.coding.model_copy(update={"form": form}))
        found = (
            f"one number {form}".rstrip()
            if kind == "scalar"
            else f"a field {list(y.shape[1:])}"
        )
    if missing := len(y) - len(fitted.rows):
        first = int(np.setdiff1d(np.arange(len(y)), fitted.rows)[0])
        notes.warn(
            f"{missing} samples are left out, as they have no usable target; the first"
            f" is {data.place(first)}"
        )
    named = f"{', '.join(data.target_names)}: " if data.target_names else ""
    notes.find("target", named + found, why, "target, kind")
    return fitted


def _amount_form(y: Array, options: Options) -> AmountForm | Literal[""]:
    """Return the form in which targets of text are numbers, all of them; "" if they are
    none, or few different ones.
    """
    values = y.tolist() if y.ndim == 1 and y.dtype.kind in "OU" else []
    known = pd.Series(
        [value for value in values if isinstance(value, str)], dtype=object
    )
    if options.kind != "scalar" and known.nunique() <= MOST_CLASSES:
        return ""
    form = (
        amount_form(known)[0]
        if pd.to_numeric(known, errors="coerce").isna().any()
        else None
    )
    return form if form and np.isfinite(parse_amounts(known, form)).all() else ""


def _kind(data: UserData, y: Array) -> tuple[TargetKind, str]:
    if y.ndim > 2:
        return "dense", f"{y.ndim - 1} axes a sample"
    if y.ndim == 2:
        sample = y[:: max(1, len(y) // 10_000)]
        shape = getattr(data.x, "shape", ())
        if not np.isin(sample, (0, 1)).all() or (
            len(shape) > 1 and y.shape[1:] == shape[-1:]
        ):
            return "dense", f"{y.shape[1]} numbers a sample"
        if (sample.sum(axis=1) == 1).all():
            return "classes", "one 1 in each row"
        return "labels", "columns of 0 and 1"
    if y.dtype.kind in "OUSb":
        text = [each for each in y.tolist() if each is not None]
        return "classes", (
            "truth values" if text and isinstance(text[0], bool) else "text"
        )
    if y.dtype.kind == "M":
        raise UserError(
            f"{data.source}: the target holds dates; give a number, such as days, or a"
            " class"
        )
    known = y[np.isfinite(y)]
    number = len(np.unique(known))
    if (known % 1 == 0).all() and number <= min(
        MOST_CLASSES, max(2, int(MOST_CLASS_SHARE * len(known)))
    ):
        return "classes", f"{number} different whole numbers"
    return "scalar", f"{number} different numbers"


def _classes(
    data: UserData, y: Array, columns: tuple[str, ...], notes: Notes, least: int
) -> FittedTarget:
    one_hot: tuple[str, ...] = ()
    if y.ndim == 2:
        one_hot = columns or tuple(map(str, range(y.shape[1])))
    elif y.ndim != 1:
        raise UserError(
            f"{data.source}: classes need one label a sample, found targets"
            f" {list(y.shape)}"
        )
    else:
        for warning in check_collisions(y, data.source):
            notes.warn(warning)
    coding = TargetCoding(kind="classes", one_hot=one_hot)
    texts = coding.texts(y)
    counts = Counter(text for text in texts if text is not None)
    if len(counts) > LEAST_PER_CLASS and max(counts.values()) == 1:
        found = (
            f"each of the {len(counts)} targets is different, as an id or free text is"
        )
        raise UserError(
            f"{data.source}: {found}; name a column of classes or numbers with --target"
        )
    rare = {text for text, count in counts.items() if count < least}
    names = [text for text in counts if text not in rare]
    if all(map(_is_number, names)):
        names.sort(key=float)
    else:
        names.sort(key=lambda name: (name.strip(), name))
    listed = (
        shorten(
            ", ".join(
                f"{printable(text)} ({count})" for text, count in counts.most_common(10)
            )
        )
        or "none"
    )
    if len(counts) == 1:
        raise UserError(
            f"{data.source}: every target is {next(iter(counts))!r}; two classes or"
            " more are needed"
        )
    if len(names) < 2:
        raise UserError(
            f"{data.source}: two classes of {least} samples or more are needed, found"
            f" {listed}"
        )
    if rare:
        listed = shorten(", ".join(sorted(map(printable, rare))))
        notes.warn(
            f"classes with fewer than {least} samples cannot be in every split, and are"
            f" left out: {listed}"
        )
    number = {name: k for k, name in enumerate(names)}
    classes = np.array(
        [-1 if text is None else number.get(text, -1) for text in texts], dtype=np.int64
    )
    return FittedTarget(
        coding.model_copy(update={"label_names": tuple(names)}),
        np.flatnonzero(classes >= 0),
        classes,
    )


def _labels(data: UserData, y: Array, columns: tuple[str, ...]) -> FittedTarget:
    if y.ndim != 2 or not np.isin(y[np.isfinite(y).all(axis=1)], (0, 1)).all():
        raise UserError(
            f"{data.source}: labels need targets [N, K] of 0 and 1, found {y.dtype}"
            f" {list(y.shape)}"
        )
    names = columns or tuple(map(str, range(y.shape[1])))
    return FittedTarget(
        TargetCoding(kind="labels", label_names=names),
        np.flatnonzero(np.isfinite(y).all(axis=1)),
    )


def _numbers(data: UserData, y: Array, kind: TargetKind, notes: Notes) -> FittedTarget:
    if (kind == "scalar") != (y.ndim == 1):
        raise UserError(
            f"{data.source}: a target of kind {kind} does not have shape"
            f" {list(y.shape)}"
        )
    try:
        values = y if y.dtype.kind in "biuf" else as_numbers(y)
    except UserError as error:
        raise UserError(f"{data.source}: {error}") from error
    finite = np.concatenate(
        [
            np.isfinite(values[part]).reshape(len(values[part]), -1).all(axis=1)
            for part in row_slices(values)
        ]
    )
    rows = np.flatnonzero(finite)
    if len(rows) and kind == "scalar" and values[rows].min() == values[rows].max():
        raise UserError(
            f"{data.source}: every target is {values[rows[0]]}; there is nothing to"
            " learn"
        )
    known = np.sort(values[rows]) if kind == "scalar" else values[:0]
    if (
        len(known)
        and known[-1] - known[0] == len(known) - 1
        and (np.diff(known) == 1).all()
    ):
        notes.warn(
            "the targets number the samples, as an id does; name another column with"
            " --target if they are one"
        )
    return FittedTarget(TargetCoding(kind=kind, shape=y.shape[1:]), rows)


def without_absent(
    fitted: FittedTarget, parts: own_splits.Splits, notes: Notes
) -> tuple[FittedTarget, own_splits.Splits]:
    """Return target and splits without classes that train lacks: validation and test
    lose the samples of these classes.

    Raises UserError if train has a single class, or if no sample is left in a split.
    """
    names = fitted.coding.label_names
    classes = fitted.classes
    assert classes is not None
    present = np.unique(classes[parts["train"]])
    if len(present) < len(names):
        lacking = [name for k, name in enumerate(names) if k not in present]
        if len(present) < 2:
            raise UserError(
                f"train has only the class {names[present[0]]!r}; split in another way"
                " (--group, --time, --split)"
            )
        listed = shorten(", ".join(map(printable, lacking)))
        notes.warn(
            f"train has no sample of class {listed}: such samples are left out of"
            " validation and test"
        )
        parts = {
            split: rows[np.isin(classes[rows], present)]
            for split, rows in parts.items()
        }
        coding = fitted.coding.model_copy(
            update={"label_names": tuple(names[k] for k in present)}
        )
        renumbered = np.where(
            np.isin(classes, present), np.searchsorted(present, classes), -1
        )
        fitted = replace(fitted, coding=coding, classes=renumbered)
        if empty := [split for split, rows in parts.items() if not len(rows)]:
            raise UserError(
                f"{' and '.join(empty)} have only classes that train lacks; split in"
                " another way"
            )
    return fitted, parts


def warn_absent(fitted: FittedTarget, parts: own_splits.Splits, notes: Notes) -> bool:
    """Add a warning to ``notes`` for each split that lacks a class; return whether
    there is such a split.
    """
    assert fitted.classes is not None
    absent = False
    for split, rows in parts.items():
        present = set(np.unique(fitted.classes[rows]).tolist())
        if lacking := [
            name for k, name in enumerate(fitted.coding.label_names) if k not in present
        ]:
            listed = shorten(", ".join(map(printable, lacking)))
            notes.warn(
                f"{split} has no sample of class {listed}: its score says nothing about"
                " that"
            )
            absent = True
    return absent
