"""Checks that readers and tasks share: non-finite values, wrong shapes, and labels out of range."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from orca_ray.data.rows import row_slices
from orca_ray.errors import UserError

Array = npt.NDArray[Any]

_SLICE_BYTES = 32 * 2**20


def refuse_not_finite(path: Path, field: str, array: Array) -> None:
    """Raise UserError with ``path``, ``field`` ("": none) and index of the first NaN or infinity.

    Large arrays are read slice by slice; integers and booleans always pass.
    """
    if array.dtype.kind not in "fc":
        return
    for start, values in _slices(array[None] if array.ndim == 0 else array):
        finite = np.isfinite(values)
        if not finite.all():
            index = [int(each) for each in np.argwhere(~finite)[0]]
            found = values[tuple(index)]
            index[0] += start
            raise UserError(f"{_place(path, field)}: expected finite numbers, found {found} at index {index}")


def refuse_shape(path: Path, field: str, array: Any, expected: tuple[int | None, ...]) -> None:
    """Raise UserError unless ``array`` (anything with a shape) has the expected one; None means any size."""
    shape = tuple(array.shape)
    if len(shape) == len(expected) and all(want in (None, size) for size, want in zip(shape, expected, strict=True)):
        return
    wanted = ", ".join("any" if size is None else str(size) for size in expected)
    raise UserError(f"{_place(path, field)}: expected shape [{wanted}], found {list(shape)}")


def refuse_labels(path: Path, field: str, y: Array, low: int, high: int) -> None:
    """Raise UserError unless all of ``y`` are whole numbers from ``low`` to ``high``, both included."""
    if y.dtype.kind not in "biuf":
        raise UserError(f"{_place(path, field)}: expected whole numbers, found {y.dtype.name}")
    for start, values in _slices(y.reshape(-1)):
        good = (values >= low) & (values <= high)
        if values.dtype.kind == "f":
            good &= values == np.floor(values)
        if not good.all():
            index = int(np.flatnonzero(~good)[0])
            raise UserError(
                f"{_place(path, field)}: expected labels from {low} to {high}, found {values[index]} at {start + index}"
            )


def _slices(rows: Array) -> Iterator[tuple[int, Array]]:
    return ((part.start, rows[part]) for part in row_slices(rows, _SLICE_BYTES))


def _place(path: Path, field: str) -> str:
    return f"{path}, {field}" if field else str(path)
