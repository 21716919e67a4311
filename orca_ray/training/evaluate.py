"""Predictions and scores over whole splits."""

import numpy as np
import torch
from torch import Tensor, nn

from orca_ray.training.errors import NotFiniteError
from orca_ray.training.feed import Feed, ModelFeed
from orca_ray.training.objective import Objective

BATCH_SIZE = 64
"""Samples per forward pass; fixed, so that a score does not depend on the batch size a trial trains with."""


def predict_feed(
    feed: Feed, num_samples: int, objective: Objective, device: torch.device, batch_size: int = BATCH_SIZE
) -> np.ndarray:
    """Return decoded predictions [num_samples, *output_shape], float32, of what ``feed`` computes.

    Raises NotFiniteError when one of them is NaN or infinite.
    """
    decode = objective.decoder(device)
    batches: list[Tensor] = []
    with torch.no_grad():
        for start in range(0, num_samples, batch_size):
            indices = np.arange(start, min(start + batch_size, num_samples))
            batches.append(decode(feed(indices)).cpu())
    predictions: np.ndarray = torch.cat(batches).numpy()
    if not np.isfinite(predictions).all():
        raise NotFiniteError(
            f"{int((~np.isfinite(predictions)).sum())} of {predictions.size} predictions are not finite"
        )
    return predictions


def predict(
    model: nn.Module, x: np.ndarray, objective: Objective, device: torch.device, batch_size: int = BATCH_SIZE
) -> np.ndarray:
    """Return decoded predictions [N, *output_shape] of ``model`` in evaluation mode for the inputs ``x`` [N, ...]."""
    was_training = model.training
    model.eval()
    try:
        return predict_feed(ModelFeed(model, x, device), len(x), objective, device, batch_size)
    finally:
        model.train(was_training)


def score(predictions: np.ndarray, y: np.ndarray, objective: Objective) -> float:
    """Return the metric over a whole split, lower is better; raises NotFiniteError when it is NaN or infinite."""
    value = objective.score(predictions, np.asarray(y))
    if not np.isfinite(value):
        raise NotFiniteError(f"the score ({objective.metric}) is {value}")
    return value


def evaluate(
    model: nn.Module,
    x: np.ndarray,
    y: np.ndarray,
    objective: Objective,
    device: torch.device,
    batch_size: int = BATCH_SIZE,
) -> float:
    """Return the metric of ``model`` over the whole split (``x``, ``y``); lower is better."""
    return score(predict(model, x, objective, device, batch_size), y, objective)
