"""What refining minimises and what a model is scored by."""

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
    """Loss and metric of a task, and how raw model outputs become predictions.

    The model of a scalar or dense task predicts standardised values; ``decode`` turns them into the target's own
    units, in which loss and metric are computed (a relative error of standardised fields would mean something else).
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
        """Return the map from outputs [B, *output_shape] to predictions of the same shape, on ``device``."""
        if self.y_mean is None or self.y_std is None or self.target.kind in ("classes", "labels"):
            return lambda output: output
        mean = torch.tensor(np.asarray(self.y_mean), dtype=torch.float32, device=device)
        std = torch.tensor(np.asarray(self.y_std), dtype=torch.float32, device=device)
        return lambda output: output * std + mean

    def training_loss(self, train_y: Rows, device: torch.device) -> Callable[[Tensor, Tensor], Tensor]:
        """Return the mean loss of (outputs [B, *output_shape], targets [B, ...]), outputs decoded on ``device``.

        ``train_y`` [N, ...] are the targets that are trained on; some losses take their weights from them. Raises
        UserError where they do not determine the loss.
        """
        decode, loss = self.decoder(device), get_loss(self.loss).make(train_y, self.target, device)
        return lambda outputs, targets: loss(decode(outputs), targets)

    def score(self, predictions: np.ndarray, targets: np.ndarray) -> float:
        """Return the metric over a whole split; lower is better."""
        return float(get_metric(self.metric).compute(predictions, targets))
