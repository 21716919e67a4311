"""Training loss and metric of a task."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from orca_ray.data.rows import Rows
from orca_ray.data.target import Target
from orca_ray.tasks.losses import get_loss
from orca_ray.tasks.metrics import get_metric


@dataclass(frozen=True)
class Objective:
    """Loss and metric of a task, and the decoding of model outputs into predictions.

    The model of a scalar or dense task predicts standardised values. The decoder converts them into the target's units,
    which loss and metric use.
    """

    target: Target
    loss: str
    """Name in `orca_ray.tasks.losses`."""
    metric: str
    """Name in `orca_ray.tasks.metrics`; lower is better."""
    y_mean: np.ndarray | None = None
    """Mean of the training targets, broadcastable to ``target.output_shape``; None: outputs are not scaled."""
    y_std: np.ndarray | None = None
    """Standard deviation of the training targets, of the same shape as ``y_mean``."""

    def decoder(self, device: torch.device) -> Callable[[Tensor], Tensor]:
        """Return the function from outputs [B, *output_shape] to predictions of the same shape, on ``device``."""
        if self.y_mean is None or self.y_std is None or self.target.kind in ("classes", "labels"):
            return lambda output: output
        mean = torch.tensor(np.asarray(self.y_mean), dtype=torch.float32, device=device)
        std = torch.tensor(np.asarray(self.y_std), dtype=torch.float32, device=device)
        return lambda output: output * std + mean

    def training_loss(self, train_y: Rows, device: torch.device) -> Callable[[Tensor, Tensor], Tensor]:
        """Return the mean loss as a function of outputs [B, *output_shape] and targets [B, ...] on ``device``.

        Some losses derive weights from the training targets ``train_y`` [N, ...]; they raise UserError if they cannot.
        """
        decode, loss = self.decoder(device), get_loss(self.loss).make(train_y, self.target, device)
        return lambda outputs, targets: loss(decode(outputs), targets)

    def score(self, predictions: np.ndarray, targets: np.ndarray) -> float:
        """Return the metric over a whole split."""
        return float(get_metric(self.metric).compute(predictions, targets))
