"""Units: what a model reads and predicts is standardised, whatever units a data set keeps its arrays in.

Bodies are pretrained on tokens of one scale, and heads start at outputs of zero. Most prepared arrays are standardised
already; those of some benchmarks are in the units of their files, so as to equal what the reference reads.
"""

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from orca_ray.data.prepared import PreparedData
from orca_ray.data.rows import Rows, num_bytes
from orca_ray.tasks.task import Task

_MOST_ROWS, _MOST_BYTES, _LEAST_ROWS = 512, 2**28, 8
_LARGEST_MEAN, _DEVIATIONS = 0.1, (0.5, 2.0)
"""Of arrays that count as standardised; padding with zeros lowers their deviation."""
_LEAST_SHARE = 0.1
"""Least deviation of a channel, of that of all values."""
_REGRESSIONS = ("mse", "nrmse", "relative_l2", "rmse")
"""Losses of predictions in the units of the target."""


def input_statistics(x: Rows) -> tuple[Tensor, Tensor] | None:
    """Return mean and deviation of each channel, [C, 1] or [C, 1, 1], to be taken out of the inputs ``x`` [N, C, ...].

    None where they are standardised already. Of many samples, some hundred evenly spaced ones are looked at.
    """
    values = _some(x)
    if _is_standardised(values):
        return None
    axes = (0, *range(2, values.ndim))
    mean, deviation = (getattr(values, name)(axis=axes, keepdims=True)[0] for name in ("mean", "std"))
    # What hardly varies, as the slot of a rare category, is not blown up.
    deviation = np.maximum(deviation, _LEAST_SHARE * values.std() or 1.0)
    return torch.from_numpy(mean).float(), torch.from_numpy(deviation).float()


def with_target_statistics(task: Task, data: PreparedData) -> PreparedData:
    """Return the data with one mean and one deviation of the targets, where a regression has none and needs them."""
    if data.y_mean is not None or task.loss not in _REGRESSIONS:
        return data
    values = _some(data.train.y)
    if _is_standardised(values):
        return data
    mean, deviation = (np.array(value, dtype=np.float32) for value in (values.mean(), values.std() or 1.0))
    return replace(data, y_mean=mean, y_std=deviation)


def _some(rows: Rows) -> np.ndarray:
    row_bytes = num_bytes(rows) // len(rows) * 2  # float64
    number = min(len(rows), _MOST_ROWS, max(_LEAST_ROWS, _MOST_BYTES // max(1, row_bytes)))
    chosen = np.linspace(0, len(rows) - 1, number).astype(np.int64)
    return np.asarray(rows[chosen], dtype=np.float64)


def _is_standardised(values: np.ndarray) -> bool:
    low, high = _DEVIATIONS
    return bool(abs(values.mean()) <= _LARGEST_MEAN and low <= values.std() <= high)
