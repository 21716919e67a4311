"""Targets of own tasks: their kind, and their coding.

Targets are classes, labels, numbers or fields.
"""

import math
from collections import Counter
from collections.abc import Iterable
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
from orca_ray.own_data.amounts import AmountForm, find_amount_form, parse_amounts
from orca_ray.own_data.splits import LEAST_PER_CLASS, least_per_class


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
        """Return int64 [N] for classes, else float32 [N, ...].

        Missing classes are −1 and missing numbers NaN. Raises UserError for a class
        that the training data do not have, text where a number is needed, or other
        shapes.
        """
        if self.kind == "classes":
            return self._class_numbers(y)
        values = as_numbers(y, self.form)
        if self.kind == "labels":
            expected: tuple[int, ...] = (len(self.label_names),)
        elif self.kind == "scalar":
            expected = ()
        else:
            expected = self.given_shape
        if values.shape[1:] != expected:
            raise UserError(
                f"expected targets of shape {list(expected)}, found"
                f" {list(values.shape[1:])}"
            )
        if self.kind == "dense" and self.axes:
            values = values.transpose(0, *(axis + 1 for axis in self.axes))
        return np.ascontiguousarray(values, dtype=np.float32)

    def _class_numbers(self, y: Array) -> Array:
        """Return the number of each sample's class, int64 [N], −1 if missing.

        Spaces around a name are ignored, unless another name differs only by them.
        """
        # Exact names override stripped ones.
        number_of = {
            name.strip(): number for number, name in enumerate(self.label_names)
        }
        number_of |= {name: number for number, name in enumerate(self.label_names)}
        numbers = []
        for text in self.texts(y):
            if text is None:
                numbers.append(-1)
                continue
            number = number_of.get(text, number_of.get(text.strip()))
            if number is None:
                raise unknown_name(
                    "class", text, self.label_names, "The model knows only these."
                )
            numbers.append(number)
        return np.array(numbers, dtype=np.int64)

    def texts(self, y: Array) -> list[str | None]:
        """Return the name of each sample's class, None if missing.

        Raises UserError for targets of another shape.
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
        """Return predicted fields [N, *shape] with axes in the targets' given order."""
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
    """Return targets as float64, None as NaN.

    With a ``form``, as in `TargetCoding`, values that are no numbers are NaN; without
    one, UserError is raised, with the row of the first such value.
    """
    values = np.asarray(y)
    if values.dtype.kind in "biuf":
        return values.astype(np.float64)
    if form:
        return parse_amounts(pd.Series(values, dtype=object), form)
    numbers = []
    for row, value in enumerate(values.tolist()):
        try:
            numbers.append(math.nan if value is None else float(value))
        except (TypeError, ValueError):
            raise UserError(
                f"expected targets as numbers, found {quoted(value)} in row {row + 1}"
            ) from None
    return np.array(numbers)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def label_texts(y: Array) -> list[str | None]:
    """Return labels as text, None if missing.

    Whole numbers have no decimals, so that 1 and 1.0 both become "1".
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
    first_values: dict[str, Any] = {}
    for row, value in enumerate(np.asarray(y).tolist()):
        text = label_text(value)
        if text is None:
            continue
        first = first_values.setdefault(text, value)
        if isinstance(first, str) != isinstance(value, str):
            raise UserError(
                f"{source}: labels {first!r} and {value!r} (row {row + 1}) are written"
                " alike; make them equal if they are one class, else rename one"
            )
    names_by_letters: dict[str, list[str]] = {}
    for text in first_values:
        letters = "".join(text.casefold().split())
        names_by_letters.setdefault(letters, []).append(text)
    return [
        f"labels {shorten(' and '.join(map(repr, names)))} differ only in case or"
        " spaces, and are different classes"
        for names in names_by_letters.values()
        if len(names) > 1
    ]


MOST_CLASSES = 20
"""Whole numbers are classes if at most this many of them are different."""
MOST_CLASS_SHARE = 0.1
"""Whole numbers are classes only if their different values are at most this share of
the number of samples.
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
    test: bool = True,
) -> FittedTarget:
    """Return the coding of the targets ``y``.

    Samples without a target are left out, and so are those of a class with fewer
    samples than `least_per_class`, unless there is no ``test`` split at all.

    Raises UserError for a single class, a constant number, different labels with the
    same text (1 and "1"), and targets that do not fit ``options.kind``.
    """
    form = _amount_form(y, options)
    numbers = as_numbers(y, form) if form else y
    if options.kind:
        kind = options.kind
        why = "given"
    else:
        kind, why = _guess_kind(data, numbers)
    columns: tuple[str, ...] = ()
    if y.ndim == 2 and len(data.target_names) == y.shape[1]:
        columns = tuple(data.target_names)
    if kind == "classes":
        fitted = _fit_classes(data, y, columns, options if test else None, notes)
        description = f"{len(fitted.coding.label_names)} classes"
    elif kind == "labels":
        fitted = _fit_labels(data, y, columns)
        description = f"{y.shape[1:]} labels"
    else:
        fitted = _fit_numbers(data, numbers, kind, notes)
        fitted = replace(fitted, coding=fitted.coding.model_copy(update={"form": form}))
        description = f"a field {list(y.shape[1:])}"
        if kind == "scalar":
            description = f"one number {form}".rstrip()
    num_missing = len(y) - len(fitted.rows)
    if num_missing:
        first = int(np.setdiff1d(np.arange(len(y)), fitted.rows)[0])
        notes.warn(
            f"{num_missing} samples are left out, as they have no usable target; the"
            f" first is {data.place(first)}"
        )
    if data.target_names:
        description = f"{', '.join(data.target_names)}: {description}"
    notes.add_finding("target", description, why, "target, kind")
    return fitted


def _amount_form(y: Array, options: Options) -> AmountForm | Literal[""]:
    """Return the form in which all targets of text are numbers with a unit.

    "" if they are no such numbers, or if so few are different that they are classes.
    """
    if y.ndim != 1 or y.dtype.kind not in "OU":
        return ""
    texts = [value for value in y.tolist() if isinstance(value, str)]
    valid = pd.Series(texts, dtype=object)
    if options.kind != "scalar" and valid.nunique() <= MOST_CLASSES:
        return ""
    if not pd.to_numeric(valid, errors="coerce").isna().any():
        return ""
    form = find_amount_form(valid).form
    if form is None or not np.isfinite(parse_amounts(valid, form)).all():
        return ""
    return form


def _guess_kind(data: UserData, y: Array) -> tuple[TargetKind, str]:
    """Return the kind of target that the values suggest, and why."""
    if y.ndim > 2:
        return "dense", f"{y.ndim - 1} axes a sample"
    if y.ndim == 2:
        return _guess_kind_of_columns(data, y)
    if y.dtype.kind in "OUSb":
        texts = [value for value in y.tolist() if value is not None]
        has_truth_values = bool(texts) and isinstance(texts[0], bool)
        return "classes", "truth values" if has_truth_values else "text"
    if y.dtype.kind == "M":
        raise UserError(
            f"{data.source}: the target holds dates; give a number, such as days, or a"
            " class"
        )
    valid = y[np.isfinite(y)]
    num_values = len(np.unique(valid))
    most_classes = min(MOST_CLASSES, max(2, int(MOST_CLASS_SHARE * len(valid))))
    if num_values <= most_classes and (valid % 1 == 0).all():
        return "classes", f"{num_values} different whole numbers"
    return "scalar", f"{num_values} different numbers"


def _guess_kind_of_columns(data: UserData, y: Array) -> tuple[TargetKind, str]:
    """Return the kind of target that values [N, K] suggest, and why."""
    sample = y[:: max(1, len(y) // 10_000)]
    shape = getattr(data.x, "shape", ())
    # Targets with as many values as an input has steps are series.
    is_series = len(shape) > 1 and y.shape[1:] == shape[-1:]
    if is_series or not np.isin(sample, (0, 1)).all():
        return "dense", f"{y.shape[1]} numbers a sample"
    if (sample.sum(axis=1) == 1).all():
        return "classes", "one 1 in each row"
    return "labels", "columns of 0 and 1"


def _fit_classes(
    data: UserData,
    y: Array,
    columns: tuple[str, ...],
    options: Options | None,
    notes: Notes,
) -> FittedTarget:
    """Return the coding of the classes that have enough samples.

    Samples of other classes are left out.

    ``columns``: names of the columns of classes that are given as [N, K]. ``options``:
    those for `least_per_class`; None: one sample is enough.
    """
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
    least = 1 if options is None else least_per_class(counts.values(), options)
    rare = {text for text, count in counts.items() if count < least}
    names = _sorted_names(text for text in counts if text not in rare)
    _check_classes(data.source, counts, names, least)
    if rare:
        listed = shorten(", ".join(sorted(map(printable, rare))))
        notes.warn(
            f"classes with fewer than {least} samples cannot be in every split, and are"
            f" left out: {listed}"
        )
    number_of: dict[str | None, int] = {
        name: number for number, name in enumerate(names)
    }
    classes = np.array([number_of.get(text, -1) for text in texts], dtype=np.int64)
    return FittedTarget(
        coding.model_copy(update={"label_names": tuple(names)}),
        np.flatnonzero(classes >= 0),
        classes,
    )


def _sorted_names(names: Iterable[str]) -> list[str]:
    """Return the names of classes in the order of numbers, if all are, else of text."""
    names = list(names)
    if all(map(_is_number, names)):
        return sorted(names, key=float)
    return sorted(names, key=lambda name: (name.strip(), name))


def _check_classes(
    source: str, counts: Counter[str], names: list[str], least: int
) -> None:
    """Raise UserError for targets that are no classes, and for a single class.

    ``counts`` are the numbers of samples by class, ``names`` the classes with
    ``least`` samples or more.
    """
    if len(counts) > LEAST_PER_CLASS and max(counts.values()) == 1:
        raise UserError(
            f"{source}: each of the {len(counts)} targets is different, as an id or"
            " free text is; name a column of classes or numbers with --target"
        )
    if len(counts) == 1:
        raise UserError(
            f"{source}: every target is {next(iter(counts))!r}; two classes or more are"
            " needed"
        )
    if len(names) < 2:
        frequent = [
            f"{printable(text)} ({count})" for text, count in counts.most_common(10)
        ]
        listed = shorten(", ".join(frequent)) or "none"
        raise UserError(
            f"{source}: two classes of {least} samples or more are needed, found"
            f" {listed}"
        )


def _fit_labels(data: UserData, y: Array, columns: tuple[str, ...]) -> FittedTarget:
    """Return the coding of several labels [N, K] of 0 and 1.

    Samples with a missing label are left out.
    """
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


def _fit_numbers(
    data: UserData, y: Array, kind: TargetKind, notes: Notes
) -> FittedTarget:
    """Return the coding of one number a sample, or of fields."""
    if (kind == "scalar") != (y.ndim == 1):
        raise UserError(
            f"{data.source}: a target of kind {kind} does not have shape"
            f" {list(y.shape)}"
        )
    try:
        values = y if y.dtype.kind in "biuf" else as_numbers(y)
    except UserError as error:
        raise UserError(f"{data.source}: {error}") from error
    rows = np.flatnonzero(_is_finite(values))
    if kind == "scalar" and len(rows):
        _check_numbers(data.source, values[rows], notes)
    return FittedTarget(TargetCoding(kind=kind, shape=y.shape[1:]), rows)


def _is_finite(values: Array) -> Array:
    """Return whether all values of each sample are finite, [N]."""
    parts = []
    for part in row_slices(values):
        finite = np.isfinite(values[part])
        parts.append(finite.reshape(len(finite), -1).all(axis=1))
    return np.concatenate(parts)


def _check_numbers(source: str, values: Array, notes: Notes) -> None:
    """Raise UserError for a constant target; warn if ``values`` number the samples."""
    if values.min() == values.max():
        raise UserError(
            f"{source}: every target is {values[0]}; there is nothing to learn"
        )
    if (np.diff(np.sort(values)) == 1).all():
        notes.warn(
            "the targets number the samples, as an id does; name another column with"
            " --target if they are one"
        )


def without_absent(
    fitted: FittedTarget, parts: own_splits.Splits, notes: Notes
) -> tuple[FittedTarget, own_splits.Splits]:
    """Return target and splits without classes that train lacks.

    Samples of these classes are removed from validation and test. Raises UserError if
    train has a single class, or if no sample is left in a split.
    """
    names = fitted.coding.label_names
    classes = fitted.classes
    assert classes is not None
    present = np.unique(classes[parts["train"]])
    if len(present) == len(names):
        return fitted, parts
    if len(present) < 2:
        raise UserError(
            f"train has only the class {names[present[0]]!r}; split in another way"
            " (--group, --time, --split)"
        )
    notes.warn(
        f"train has no sample of class {_absent_names(names, present)}: such samples"
        " are left out of validation and test"
    )
    remaining = {
        split: rows[np.isin(classes[rows], present)] for split, rows in parts.items()
    }
    empty = [split for split, rows in remaining.items() if not len(rows)]
    if empty:
        raise UserError(
            f"{' and '.join(empty)} have only classes that train lacks; split in"
            " another way"
        )
    coding = fitted.coding.model_copy(
        update={"label_names": tuple(names[number] for number in present)}
    )
    renumbered = np.where(
        np.isin(classes, present), np.searchsorted(present, classes), -1
    )
    return replace(fitted, coding=coding, classes=renumbered), remaining


def _absent_names(names: tuple[str, ...], present: Array) -> str:
    """Return a text: the names of the classes whose numbers are not in ``present``."""
    absent = [name for number, name in enumerate(names) if number not in present]
    return shorten(", ".join(map(printable, absent)))


def warn_absent(fitted: FittedTarget, parts: own_splits.Splits, notes: Notes) -> bool:
    """Warn of each split that lacks a class, and return whether there is one."""
    assert fitted.classes is not None
    names = fitted.coding.label_names
    is_absent = False
    for split, rows in parts.items():
        present = np.unique(fitted.classes[rows])
        if len(present) < len(names):
            is_absent = True
            notes.warn(
                f"{split} has no sample of class {_absent_names(names, present)}: its"
                " score says nothing about that"
            )
    return is_absent
