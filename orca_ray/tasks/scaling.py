"""Mean and deviation of inputs and targets that are not standardised.

With them, models work on standardised values. This is needed because bodies are
pretrained on tokens of one scale, and outputs of new heads are near zero. Each task
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

_MOST_ROWS = 512
_MOST_BYTES = 2**28
_LEAST_ROWS = 8
_LARGEST_MEAN = 0.25
_DEVIATIONS = (0.5, 2.0)
"""Range of the deviation in which values of the scale ``measured`` count as
standardised; padding with zeros lowers deviations.
"""
_LEAST_SHARE = 0.1
_ROUNDING = 1e-6


def input_statistics(x: Rows, scale: Scale) -> tuple[Tensor, Tensor] | None:
    """Return mean and deviation of each channel of ``x`` [N, C, ...].

    They are [C, 1] or [C, 1, 1], and computed from at most 512 evenly spaced samples.
    With the scale ``measured``, a channel that is already standardised has mean 0 and
    deviation 1. A constant channel has deviation 1.
    Return None for the scale ``standardised``, and if all means are 0 and all
    deviations 1.
    """
    if scale == "standardised":
        return None
    values = _sample(x)
    pairs = [
        _statistics(values[:, channel], scale) for channel in range(values.shape[1])
    ]
    if all(pair == (0.0, 1.0) for pair in pairs):
        return None
    mean, deviation = torch.tensor(pairs, dtype=torch.float32).T.reshape(
        2, -1, *[1] * (values.ndim - 2)
    )
    return mean, deviation


def with_target_statistics(task: Task, data: PreparedData) -> PreparedData:
    """Return ``data`` with mean and deviation of the training targets, if needed.

    They are needed for a regression whose targets are not standardised. The scalars
    ``y_mean`` and ``y_std`` are computed from the training targets, unless ``data`` has
    such statistics already.
    """
    if (
        data.y_mean is not None
        or not get_loss(task.loss).regression
        or task.target_scale == "standardised"
    ):
        return data
    values = _sample(data.train.y)
    if task.target_scale == "measured" and _is_standardised(values):
        return data
    mean, deviation = (
        np.array(value, dtype=np.float32)
        for value in (values.mean(), values.std() or 1.0)
    )
    return replace(data, y_mean=mean, y_std=deviation)


def _sample(rows: Rows) -> np.ndarray:
    """Return evenly spaced rows as float64, as many as the limits above allow."""
    row_bytes = num_bytes(rows) // len(rows) * 2  # float64
    num_fitting = max(_LEAST_ROWS, _MOST_BYTES // max(1, row_bytes))
    num_rows = min(len(rows), _MOST_ROWS, num_fitting)
    indices = np.linspace(0, len(rows) - 1, num_rows).astype(np.int64)
    return np.asarray(rows[indices], dtype=np.float64)


def _is_standardised(values: np.ndarray) -> bool:
    """Return whether values are standardised.

    The mean is then about 0 and the deviation about 1, or all values are equal and near
    0.
    """
    low, high = _DEVIATIONS
    return bool(
        abs(values.mean()) <= _LARGEST_MEAN
        and (low <= values.std() <= high or not np.ptp(values))
    )


def _statistics(values: np.ndarray, scale: Scale) -> tuple[float, float]:
    """Return mean and deviation of one channel.

    The deviation has a lower limit: a tenth of the root mean square distance to the
    median, over the values that differ from the median. Without it, a channel in which
    less than 1 % of the values differ would get very large scaled values. The deviation
    is 1 if all values are equal up to rounding. With the scale ``measured``, a channel
    that is already standardised has mean 0 and deviation 1.
    """
    if scale == "measured" and _is_standardised(values):
        return 0.0, 1.0
    median = np.median(values)
    distances = np.abs(values - median)
    differing = distances[distances > _ROUNDING * abs(median)]
    least = _LEAST_SHARE * np.sqrt(np.mean(differing**2)) if len(differing) else 1.0
    return float(values.mean()), float(max(values.std(), least))
