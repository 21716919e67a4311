"""Checks that readers share: what is not finite, of another shape, or out of range is refused by name."""

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from orca_ray.errors import UserError

Array = npt.NDArray[Any]

_SLICE_BYTES = 32 * 2**20


def refuse_not_finite(path: Path, field: str, array: Array) -> None:
    """Raise UserError with the place of the first NaN or infinity; large arrays are read slice by slice.

    Args:
        path: of the file, for the message.
        field: of the file, for the message; "" where it has but one.
        array: of any shape; integers and booleans always pass.
    """
    if array.dtype.kind not in "fc":
        return
    rows = array[None] if array.ndim == 0 else array
    for start, part in _slices(rows):
        finite = np.isfinite(part)
        if not finite.all():
            place = [int(index) for index in np.argwhere(~finite)[0]]
            found = part[tuple(place)]
            place[0] += start
            raise UserError(f"{_place(path, field)}: expected finite numbers, found {found} at index {place}")


def refuse_shape(path: Path, field: str, array: Any, expected: tuple[int | None, ...]) -> None:
    """Raise UserError unless ``array`` (anything with a shape) has the expected one; None stands for any size."""
    shape = tuple(array.shape)
    if len(shape) == len(expected) and all(want in (None, size) for size, want in zip(shape, expected, strict=True)):
        return
    wanted = ", ".join("any" if size is None else str(size) for size in expected)
    raise UserError(f"{_place(path, field)}: expected shape [{wanted}], found {list(shape)}")


def refuse_labels(path: Path, field: str, y: Array, low: int, high: int) -> None:
    """Raise UserError unless all of ``y`` are whole numbers from ``low`` to ``high``, both included."""
    if y.dtype.kind not in "biuf":
        raise UserError(f"{_place(path, field)}: expected whole numbers, found {y.dtype.name}")
    for start, part in _slices(y.reshape(-1)):
        good = (part >= low) & (part <= high)
        if part.dtype.kind == "f":
            good &= part == np.floor(part)
        if not good.all():
            index = int(np.flatnonzero(~good)[0])
            raise UserError(
                f"{_place(path, field)}: expected labels from {low} to {high}, found {part[index]} at {start + index}"
            )


def _slices(rows: Array) -> list[tuple[int, Array]]:
    size = max(1, _SLICE_BYTES // max(1, rows.nbytes // max(1, len(rows))))
    return [(start, rows[start : start + size]) for start in range(0, len(rows), size)]


def _place(path: Path, field: str) -> str:
    return f"{path}, {field}" if field else str(path)
