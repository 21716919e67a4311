"""Targets of own tasks: the coding of classes, labels, numbers and fields, and back."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict

from orca_ray.data.rows import Array, Target, TargetKind
from orca_ray.errors import UserError, quoted, shorten, unknown_name


class TargetCoding(BaseModel):
    """How targets of a user become the target array of a task."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: TargetKind
    label_names: tuple[str, ...] = ()
    """Names of the classes or labels, in the order of the model's outputs."""
    one_hot: tuple[str, ...] = ()
    """Names of the K columns, if classes are given as [N, K] with a single 1 in each row."""
    axes: tuple[int, ...] = ()
    """For a field: permutation of its given axes to the model's; (): unchanged."""
    shape: tuple[int, ...] = ()
    """Shape of a field in the model's order."""

    @property
    def target(self) -> Target:
        """The target of the task."""
        return Target(self.kind, size=len(self.label_names) or 1, shape=self.shape)

    def encode(self, y: Array) -> Array:
        """Return int64 [N] for classes, else float32 [N, ...]; missing classes are −1 and missing numbers NaN.

        Raises UserError for a class that the training data do not have, text where a number is needed, or other shapes.
        """
        if self.kind == "classes":
            number = {name: k for k, name in enumerate(self.label_names)}
            texts = self.texts(y)
            if unknown := [text for text in texts if text is not None and text not in number]:
                raise unknown_name("class", unknown[0], self.label_names, "The model knows only these.")
            return np.array([-1 if text is None else number[text] for text in texts], dtype=np.int64)
        values = as_numbers(y)
        expected = {"labels": (len(self.label_names),), "scalar": ()}.get(self.kind, self.given_shape)
        if values.shape[1:] != expected:
            raise UserError(f"expected targets of shape {list(expected)}, found {list(values.shape[1:])}")
        if self.kind == "dense" and self.axes:
            values = values.transpose(0, *(axis + 1 for axis in self.axes))
        return np.ascontiguousarray(values, dtype=np.float32)

    def texts(self, y: Array) -> list[str | None]:
        """Return the names of the samples' classes, None for missing ones; UserError for another number of columns."""
        values = np.asarray(y)
        if not self.one_hot:
            if values.ndim != 1:
                raise UserError(f"expected one label a sample, found targets of shape {list(values.shape)}")
            return label_texts(values)
        if values.shape[1:] != (len(self.one_hot),):
            raise UserError(f"expected targets [N, {len(self.one_hot)}], found shape {list(values.shape)}")
        return [self.one_hot[k] for k in values.argmax(axis=1)]

    def decode(self, fields: Array) -> Array:
        """Return predicted fields [N, *shape] with the axes in the order in which targets were given."""
        if not self.axes:
            return fields
        return fields.transpose(0, *(self.axes.index(axis) + 1 for axis in range(len(self.axes))))

    @property
    def given_shape(self) -> tuple[int, ...]:
        """Shape of a field, with the axes in the order in which targets were given."""
        if not self.axes:
            return self.shape
        return tuple(self.shape[self.axes.index(axis)] for axis in range(len(self.axes)))


def as_numbers(y: Array) -> Array:
    """Return targets as float64; raises UserError with the row of the first that is no number."""
    values = np.asarray(y)
    if values.dtype.kind in "biuf":
        return values.astype(np.float64)
    try:
        return np.array([math.nan if each is None else float(each) for each in values.tolist()])
    except (TypeError, ValueError):
        row = next(row for row, each in enumerate(values.tolist()) if not _is_number(each))
        raise UserError(f"expected targets as numbers, found {quoted(values.tolist()[row])} in row {row + 1}") from None


def _is_number(value: Any) -> bool:
    try:
        return value is None or isinstance(float(value), float)
    except (TypeError, ValueError):
        return False


def label_texts(y: Array) -> list[str | None]:
    """Return labels as text, None for missing ones; whole numbers have no decimals, so that 1 and 1.0 are one label."""
    return [label_text(value) for value in np.asarray(y).tolist()]


def label_text(value: Any) -> str | None:
    """Return one label as text; None if it is missing (None, NaN or empty)."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return None
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value).strip() or None


def check_collisions(y: Array, source: str) -> list[str]:
    """Return warnings about labels that differ only in case or inner spaces.

    Raises UserError for labels of two types that are written alike, such as 1 and "1", or "a" and "a ".
    """
    values = np.asarray(y).tolist()
    kinds: dict[str, Any] = {}
    for row, value in enumerate(values):
        text = label_text(value)
        if text is None:
            continue
        known = kinds.setdefault(text, value)
        if isinstance(known, str) != isinstance(value, str) or (isinstance(value, str) and known != value):
            found = f"labels {known!r} and {value!r} (row {row + 1}) are written alike"
            raise UserError(f"{source}: {found}; make them equal if they are one class, else rename one")
    folded: dict[str, list[str]] = {}
    for text in kinds:
        folded.setdefault("".join(text.casefold().split()), []).append(text)
    alike = [names for names in folded.values() if len(names) > 1]
    return [f"labels {shorten(' and '.join(map(repr, names)))} differ only in case or spaces" for names in alike]


def in_order(names: Sequence[str]) -> tuple[str, ...]:
    """Return label names sorted: as numbers if all are, else as text."""
    if all(_is_number(name) for name in names):
        return tuple(sorted(names, key=float))
    return tuple(sorted(names))
