"""Training loss and metric of a task; predictions for all samples of a split, and their score."""

import logging
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from orca_ray.data.rows import Rows, Target
from orca_ray.tasks.losses import get_loss
from orca_ray.tasks.metrics import get_metric
from orca_ray.training.feed import SplitInputs
from orca_ray.training.numerics import NotFiniteError, is_out_of_memory
from orca_ray.training.ranks import ALONE, Ranks

_log = logging.getLogger(__name__)
BATCH_SIZE = 64
"""Default batch size of `predict`. It is independent of the training batch size, so that scores do not depend on the
latter."""


@dataclass(frozen=True)
class Objective:
    """Loss and metric of a task, and how to decode model outputs.

    In scalar and dense tasks, loss and metric compare decoded outputs ``output * y_std + y_mean`` with the targets.
    """

    target: Target
    loss: str
    """Name in `orca_ray.tasks.losses`."""
    metric: str
    """Name in `orca_ray.tasks.metrics`; lower is better."""
    y_mean: np.ndarray | None = None
    """Mean of the training targets, broadcastable to ``target.output_shape``; None: outputs are not standardised."""
    y_std: np.ndarray | None = None
    """Standard deviation of the training targets, of the same shape as ``y_mean``."""

    def decoder(self, device: torch.device) -> Callable[[Tensor], Tensor]:
        """Return the function that maps outputs [B, *output_shape] on ``device`` to predictions of the same shape."""
        if self.y_mean is None or self.y_std is None or self.target.kind in ("classes", "labels"):
            return lambda output: output
        mean = torch.tensor(np.asarray(self.y_mean), dtype=torch.float32, device=device)
        std = torch.tensor(np.asarray(self.y_std), dtype=torch.float32, device=device)
        return lambda output: output * std + mean

    def training_loss(self, train_y: Rows, device: torch.device) -> Callable[[Tensor, Tensor], Tensor]:
        """Return the mean loss as a function of outputs [B, *output_shape] and targets [B, ...] on ``device``.

        Some losses derive class weights from ``train_y`` [N, ...], all training targets, or raise UserError.
        """
        decode, loss = self.decoder(device), get_loss(self.loss).make(train_y, self.target, device)
        return lambda outputs, targets: loss(decode(outputs), targets)

    def score(self, predictions: np.ndarray, targets: np.ndarray) -> float:
        """Return the metric of ``predictions`` for ``targets``, both of a whole split."""
        return float(get_metric(self.metric).compute(predictions, targets))


def predict(
    feed: SplitInputs, objective: Objective, batch_size: int = BATCH_SIZE, ranks: Ranks = ALONE
) -> tuple[np.ndarray, int]:
    """Return decoded float32 predictions [N, *output_shape] for the inputs of ``feed``, and the batch size used.

    The batch size used is ``batch_size``, halved until a batch fits in memory. Each of several ranks predicts a part of
    the samples, and all ranks get the predictions of all. Raises NotFiniteError if a prediction is NaN or infinite.
    """
    count = len(feed.inputs)
    own = ranks.share(count)
    while (predicted := _predict_if_it_fits(feed, objective, batch_size, own)) is None:
        _log.warning("%d samples did not fit the device's memory in evaluation: halved", batch_size)
        batch_size //= 2
    predictions = ranks.joined(predicted, count)
    if not np.isfinite(predictions).all():
        bad = int((~np.isfinite(predictions)).sum())
        raise NotFiniteError(f"{bad} of {predictions.size} predictions are not finite")
    return predictions, batch_size


def _predict_if_it_fits(feed: SplitInputs, objective: Objective, batch_size: int, rows: slice) -> np.ndarray | None:
    """Return predictions for ``rows``, or None if memory runs out: returning releases the exception's tensors."""
    try:
        decode = objective.decoder(feed.precision.device)
        with torch.no_grad(), feed.precision.active():
            samples = feed.samples().batches(feed.slices(batch_size, rows))
            parts = [decode(feed.outputs(inputs)) for (inputs,) in samples]
            return torch.cat(parts).cpu().numpy() if parts else np.empty((0, *objective.target.output_shape), "f4")
    except Exception as error:
        if batch_size == 1 or not is_out_of_memory(error):
            raise
    return None


def of_samples(
    predictions: np.ndarray, y: np.ndarray, group: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return predictions, targets and first rows of the samples of a split.

    Rows with equal ids in ``group`` [N] are one sample with their mean prediction and the target of the first row.
    """
    y = np.asarray(y)
    if group is None:
        return predictions, y, np.arange(len(y))
    _, firsts, members = np.unique(group, return_index=True, return_inverse=True)
    sums = np.zeros((len(firsts), *predictions.shape[1:]))
    np.add.at(sums, members, predictions)
    counts = np.bincount(members).reshape(-1, *[1] * (predictions.ndim - 1))
    return sums / counts, y[firsts], firsts


def score(predictions: np.ndarray, y: np.ndarray, objective: Objective, group: np.ndarray | None = None) -> float:
    """Return the metric of the samples of a whole split (see `of_samples`); lower is better.

    Raises NotFiniteError if it is NaN or infinite.
    """
    predictions, y, _ = of_samples(predictions, y, group)
    value = objective.score(predictions, y)
    if not np.isfinite(value):
        raise NotFiniteError(f"the score ({objective.metric}) is {value}")
    return value
