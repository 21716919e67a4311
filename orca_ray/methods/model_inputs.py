"""Convert data given to a trained model into batches of inputs.

Errors name the row or file at fault.
"""

import logging
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from orca_ray.data.rows import Array, stacked
from orca_ray.errors import UserError
from orca_ray.methods.model_config import TaskSummary
from orca_ray.own_data import UserData, read
from orca_ray.own_data.infer_task import Preprocessing

logger = logging.getLogger(__name__)

BATCH_SIZE = 64
"""Number of inputs in a forward pass, the same as in the evaluation of a trial."""
_MOST_BYTES = 64 * 2**20
"""Largest size of the samples that are read at a time."""


@dataclass(frozen=True)
class ModelInputs:
    """Reader of samples to predict, which are read slice by slice."""

    data: UserData
    task: TaskSummary
    preprocessing: Preprocessing | None

    @classmethod
    def of(
        cls, x: Any, task: TaskSummary, preprocessing: Preprocessing | None
    ) -> "ModelInputs":
        """Return the samples in ``x``.

        ``x`` is an array, tensor, table, list of arrays, `UserData`, or a path to read.
        Raises UserError if ``x`` is none of these, cannot be read, or has no samples,
        and without ``preprocessing``, if its shape or type is not that of the task.
        """
        data = _user_data(x, preprocessing)
        if len(data) == 0:
            raise UserError(f"{data.source} has no samples: give at least one")
        if preprocessing is None:
            _check_shape(data, task)
        return cls(data, task, preprocessing)

    def __len__(self) -> int:
        return len(self.data)

    def chunks(self, warn: Callable[[str], None] = logger.warning) -> Iterator[Array]:
        """Yield float32 inputs [n, *input_shape] in order.

        n is a multiple of `BATCH_SIZE`, except in the last array. At most about 64 MiB
        of samples are read at a time. ``warn`` is called with a message for suspicious
        samples that can still be predicted. Raises UserError, with the row or file, for
        values that the model cannot take.
        """
        row_bytes = 4 * math.prod(self.task.input_shape)
        size = max(1, min(self.data.batch_size(), _MOST_BYTES // row_bytes))
        waiting = list[Array]()
        num_waiting = 0
        first = 0
        for part in self.data.batches(size):
            waiting.append(self._inputs(part, first, warn))
            num_waiting += len(part)
            first += len(part)
            if num_waiting >= BATCH_SIZE:
                joined = waiting[0] if len(waiting) == 1 else np.concatenate(waiting)
                num_whole = num_waiting // BATCH_SIZE * BATCH_SIZE
                yield joined[:num_whole]
                waiting = [joined[num_whole:]]
                num_waiting -= num_whole
        if num_waiting:
            yield np.concatenate(waiting)

    def _inputs(self, part: UserData, first: int, warn: Callable[[str], None]) -> Array:
        """Return the inputs of ``part``, whose first sample has the index ``first``."""
        if self.preprocessing is not None:
            inputs = self.preprocessing.inputs(part, warn)
            return np.ascontiguousarray(inputs, dtype=np.float32)
        with np.errstate(over="ignore", invalid="ignore"):
            inputs = np.ascontiguousarray(np.asarray(part.x), dtype=np.float32)
        finite = np.isfinite(inputs).reshape(len(inputs), -1).all(axis=1)
        if not finite.all():
            row = int(np.flatnonzero(~finite)[0])
            place = f"{part.source}, row {first + row + 1}"
            if part.names:
                place = part.place(row)
            raise UserError(
                f"{place} has values that are not finite (NaN or infinite): fill them"
                " in or leave it out"
            )
        return inputs


def read_data(
    path: Path | str, preprocessing: Preprocessing | None, *, labelled: bool
) -> UserData:
    """Return the samples in a file or folder, in the training data's format.

    ``labelled``: targets are required.
    """
    if preprocessing is None:
        return read(path, labelled=labelled)
    return preprocessing.read(path, labelled=labelled)


def _user_data(x: Any, preprocessing: Preprocessing | None) -> UserData:
    """Return the samples in ``x`` as `UserData`; see `ModelInputs.of`."""
    if isinstance(x, UserData):
        return x
    if isinstance(x, str | Path):
        return read_data(x, preprocessing, labelled=False)
    if hasattr(x, "iloc"):
        return UserData(x=x, source="the table")
    if hasattr(x, "detach"):  # a tensor
        x = x.detach().cpu().numpy()
    if isinstance(x, list | tuple):
        x = stacked(x)
    is_array = hasattr(x, "shape") and hasattr(x, "__getitem__") and len(x.shape) > 0
    if isinstance(x, list) or is_array:
        return UserData(x=x, source="the inputs")
    raise UserError(
        f"cannot predict from a {type(x).__name__}: give an array of samples, a pandas"
        " table, a list of arrays, or the path of a file or folder"
    )


def _check_shape(data: UserData, task: TaskSummary) -> None:
    """Raise UserError unless the samples are numbers of the task's input shape."""
    expected = task.input_shape
    sizes = ", ".join(map(str, expected))
    needed = f"the model takes numbers of shape (N, {sizes})"
    if not hasattr(data.x, "shape"):
        raise UserError(f"{data.source}: the samples have unequal shapes; {needed}")
    shape = tuple(data.x.shape)
    if shape[1:] != expected:
        advice = _advice(shape, expected)
        raise UserError(f"{data.source} has shape {shape}; {needed}{advice}")
    dtype = np.dtype(getattr(data.x, "dtype", np.float32))
    if dtype.kind not in "biuf":
        raise UserError(f"{data.source} has values of type {dtype}; {needed}")


def _advice(shape: tuple[int, ...], expected: tuple[int, ...]) -> str:
    """Return advice on how an array of ``shape`` becomes samples of shape ``expected``.

    The advice is "" if no way is known.
    """
    if shape == expected:
        return ": for one sample, give x[None]"
    if sorted(shape[1:]) == sorted(expected):
        order = (0, *_order_of_axes(shape, expected))
        return f": its axes seem to be in another order, try np.transpose(x, {order})"
    if len(shape) == len(expected) and expected == (1, *shape[1:]):
        return ": its axis of channels seems to be missing, try x[:, None]"
    return ""


def _order_of_axes(shape: tuple[int, ...], expected: tuple[int, ...]) -> list[int]:
    """Return the axes of an array of ``shape``, without axis 0, of sizes ``expected``.

    The axes other than axis 0 have these sizes in any order. A request may have 63
    axes, so not all their orders are tried.
    """
    axes = list(range(1, len(shape)))
    order = list[int]()
    for size in expected:
        axis = next(axis for axis in axes if shape[axis] == size)
        axes.remove(axis)
        order.append(axis)
    return order
