"""Predictions and scores over whole splits."""

import logging

import numpy as np
import torch
from torch import Tensor, nn

from orca_ray.data.prepared import Split
from orca_ray.data.rows import Rows
from orca_ray.training.errors import NotFiniteError
from orca_ray.training.feed import Feed
from orca_ray.training.objective import Objective
from orca_ray.training.precision import Precision, choose_precision

_log = logging.getLogger(__name__)

BATCH_SIZE = 64
"""Samples per forward pass where nobody has measured how many fit; never the batch size that a trial trains with, so
that a score does not depend on it."""


class Evaluator:
    """Scores whole splits in batches that fit the device, and keeps a size that fitted for the next time."""

    def __init__(self, objective: Objective) -> None:
        self._objective = objective
        self._fitted: int | None = None
        self.notes: list[str] = []
        """Fallbacks taken, one sentence each."""

    def evaluate(self, feed: Feed, split: Split, batch_size: int) -> float:
        """Return the metric of ``split``, whose inputs ``feed`` holds, in batches of at most ``batch_size``."""
        wanted = min(batch_size, len(split), self._fitted or batch_size)
        predictions, fitted = predict_feed(feed, self._objective, wanted)
        if fitted < wanted:
            self._fitted = fitted
            self.notes.append(f"{wanted} samples did not fit the device's memory in evaluation, {fitted} do")
        return score(predictions, split.y, self._objective, split.group)


def predict_feed(feed: Feed, objective: Objective, batch_size: int = BATCH_SIZE) -> tuple[np.ndarray, int]:
    """Return decoded predictions [N, *output_shape], float32, of what ``feed`` computes, and the batch size used.

    They stay on the device until the last batch is under way. Batches that do not fit its memory are halved: a
    prediction does not depend on its batch. Raises NotFiniteError when one is NaN or infinite.
    """
    while (predictions := _fitting_predictions(feed, objective, batch_size)) is None:
        _log.warning("%d samples did not fit the device's memory in evaluation: halved", batch_size)
        batch_size //= 2
    if not np.isfinite(predictions).all():
        raise NotFiniteError(
            f"{int((~np.isfinite(predictions)).sum())} of {predictions.size} predictions are not finite"
        )
    return predictions, batch_size


def _fitting_predictions(feed: Feed, objective: Objective, batch_size: int) -> np.ndarray | None:
    """Return None where a batch does not fit; by then the error is gone, and with it the tensors that it holds."""
    try:
        return _predictions(feed, objective, batch_size)
    except torch.OutOfMemoryError:
        if batch_size == 1:
            raise
    return None


def _predictions(feed: Feed, objective: Objective, batch_size: int) -> np.ndarray:
    decode = objective.decoder(feed.precision.device)
    batches: list[Tensor] = []
    with torch.no_grad(), feed.precision.active():
        for (inputs,) in feed.samples().batches(feed.parts(batch_size)):
            batches.append(decode(feed.outputs(inputs)))
        predictions: np.ndarray = torch.cat(batches).cpu().numpy()
    return predictions


def predict(
    model: nn.Module,
    x: Rows,
    objective: Objective,
    device: torch.device,
    batch_size: int = BATCH_SIZE,
    precision: Precision | None = None,
) -> np.ndarray:
    """Return decoded predictions [N, *output_shape] of ``model`` in evaluation mode for the inputs ``x`` [N, ...].

    ``precision`` None: the device's own for this body.
    """
    was_training = model.training
    model.eval()
    try:
        feed = Feed(x, model, precision or choose_precision("auto", device, feature_width(model)))
        return predict_feed(feed, objective, batch_size)[0]
    finally:
        model.train(was_training)


def feature_width(model: nn.Module) -> int:
    """Return the width of the body's features; 0 for a model whose body does not say."""
    return int(getattr(getattr(model, "body", None), "feature_width", 0))


def score(predictions: np.ndarray, y: np.ndarray, objective: Objective, group: np.ndarray | None = None) -> float:
    """Return the metric over a whole split, lower is better; raises NotFiniteError when it is NaN or infinite.

    Rows of one ``group`` [N] count as one sample: the mean of their predictions against the target of the first.
    """
    y = np.asarray(y)
    if group is not None:
        _, firsts, members = np.unique(group, return_index=True, return_inverse=True)
        predictions, y = _group_means(predictions, members, len(firsts)), y[firsts]
    value = objective.score(predictions, y)
    if not np.isfinite(value):
        raise NotFiniteError(f"the score ({objective.metric}) is {value}")
    return value


def _group_means(values: np.ndarray, members: np.ndarray, num_groups: int) -> np.ndarray:
    """Return the means [num_groups, ...] of values [N, ...] by the group that each row is a member of, [N]."""
    sums = np.zeros((num_groups, *values.shape[1:]))
    np.add.at(sums, members, values)
    counts = np.bincount(members, minlength=num_groups)
    means: np.ndarray = sums / counts.reshape(-1, *[1] * (values.ndim - 1))
    return means


def evaluate(
    model: nn.Module,
    x: Rows,
    y: np.ndarray,
    objective: Objective,
    device: torch.device,
    batch_size: int = BATCH_SIZE,
    precision: Precision | None = None,
) -> float:
    """Return the metric of ``model`` over the whole split (``x``, ``y``); lower is better."""
    return score(predict(model, x, objective, device, batch_size, precision), y, objective)
