"""Mean and deviation of inputs and targets that are not standardised, so that models work on standardised values.

This is needed because bodies are pretrained on tokens of one scale, and outputs of new heads are near zero. Each task
declares the scale of its arrays (`Task.input_scale`, `Task.target_scale`).
"""

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from orca_ray.data.prepared import PreparedData
from orca_ray.data.rows import Rows, num_bytes
from orca_ray.tasks.losses import get_loss
from orca_ray.tasks.task import Scale, Task

_MOST_ROWS, _MOST_BYTES, _LEAST_ROWS = 512, 2**28, 8
_LARGEST_MEAN, _DEVIATIONS = 0.1, (0.5, 2.0)
"""An array of scale ``measured`` counts as standardised within these bounds; padding with zeros lowers deviations."""
_LEAST_SHARE = 0.1
"""Least deviation of a channel, relative to that of all values; a smaller one would make rare values very large."""


def input_statistics(x: Rows, scale: Scale) -> tuple[Tensor, Tensor] | None:
    """Return mean and deviation of each channel of the inputs ``x`` [N, C, ...], as [C, 1] or [C, 1, 1].

    They are computed from at most 512 evenly spaced samples. Return None if the inputs are already standardised.
    """
    values = _in_units(x, scale)
    if values is None:
        return None
    axes = (0, *range(2, values.ndim))
    mean, deviation = (getattr(values, name)(axis=axes, keepdims=True)[0] for name in ("mean", "std"))
    deviation = np.maximum(deviation, _LEAST_SHARE * values.std() or 1.0)
    return torch.from_numpy(mean).float(), torch.from_numpy(deviation).float()


def with_target_statistics(task: Task, data: PreparedData) -> PreparedData:
    """Return ``data`` with a scalar ``y_mean`` and ``y_std`` added, if it has none and a regression needs them."""
    if data.y_mean is not None or not get_loss(task.loss).regression:
        return data
    values = _in_units(data.train.y, task.target_scale)
    if values is None:
        return data
    mean, deviation = (np.array(value, dtype=np.float32) for value in (values.mean(), values.std() or 1.0))
    return replace(data, y_mean=mean, y_std=deviation)


def _in_units(rows: Rows, scale: Scale) -> np.ndarray | None:
    """Return evenly spaced samples of ``rows``, float64, if these are not standardised; return None if they are."""
    if scale == "standardised":
        return None
    row_bytes = num_bytes(rows) // len(rows) * 2  # float64
    number = min(len(rows), _MOST_ROWS, max(_LEAST_ROWS, _MOST_BYTES // max(1, row_bytes)))
    values = np.asarray(rows[np.linspace(0, len(rows) - 1, number).astype(np.int64)], dtype=np.float64)
    low, high = _DEVIATIONS
    standardised = abs(values.mean()) <= _LARGEST_MEAN and low <= values.std() <= high
    return None if scale == "measured" and standardised else values
