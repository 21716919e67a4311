"""Predictions and scores over whole splits."""

import logging

import numpy as np
import torch

from orca_ray.training.errors import NotFiniteError, is_out_of_memory
from orca_ray.training.feed import Feed
from orca_ray.training.objective import Objective

_log = logging.getLogger(__name__)
BATCH_SIZE = 64
"""Evaluation batch size where none was measured. Not the training batch size, so that scores do not depend on it."""


def predict(feed: Feed, objective: Objective, batch_size: int = BATCH_SIZE) -> tuple[np.ndarray, int]:
    """Return decoded float32 predictions [N, *output_shape] for the inputs of ``feed``, and the batch size used.

    Predictions stay on the device until all batches are launched. Batches that do not fit its memory are halved, which
    changes no prediction. Raises NotFiniteError when a prediction is NaN or infinite.
    """
    while (predictions := _predict_if_it_fits(feed, objective, batch_size)) is None:
        _log.warning("%d samples did not fit the device's memory in evaluation: halved", batch_size)
        batch_size //= 2
    if not np.isfinite(predictions).all():
        bad = int((~np.isfinite(predictions)).sum())
        raise NotFiniteError(f"{bad} of {predictions.size} predictions are not finite")
    return predictions, batch_size


def _predict_if_it_fits(feed: Feed, objective: Objective, batch_size: int) -> np.ndarray | None:
    """Return None when a batch does not fit; returning first releases the tensors that the error refers to."""
    try:
        decode = objective.decoder(feed.precision.device)
        with torch.no_grad(), feed.precision.active():
            samples = feed.samples().batches(feed.slices(batch_size))
            return torch.cat([decode(feed.outputs(inputs)) for (inputs,) in samples]).cpu().numpy()
    except Exception as error:
        if batch_size == 1 or not is_out_of_memory(error):
            raise
    return None


def score(predictions: np.ndarray, y: np.ndarray, objective: Objective, group: np.ndarray | None = None) -> float:
    """Return the metric over a whole split, lower is better; raises NotFiniteError when it is NaN or infinite.

    Rows with equal ``group`` [N] are one sample: the mean of their predictions is compared with the first row's target.
    """
    y = np.asarray(y)
    if group is not None:
        _, firsts, members = np.unique(group, return_index=True, return_inverse=True)
        sums = np.zeros((len(firsts), *predictions.shape[1:]))
        np.add.at(sums, members, predictions)
        counts = np.bincount(members).reshape(-1, *[1] * (predictions.ndim - 1))
        predictions, y = sums / counts, y[firsts]
    value = objective.score(predictions, y)
    if not np.isfinite(value):
        raise NotFiniteError(f"the score ({objective.metric}) is {value}")
    return value
