"""Training losses by name, means over the batch [B]. Dense and scalar predictions arrive in the target's units."""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor
from torch.nn import functional

from orca_ray.errors import unknown_name

Loss = Callable[[Tensor, Tensor], Tensor]


def cross_entropy(logits_BK: Tensor, y_B: Tensor) -> Tensor:
    """Return the mean cross-entropy of classes ``y_B`` (int64)."""
    return functional.cross_entropy(logits_BK, y_B)


def bce(logits_BK: Tensor, y_BK: Tensor) -> Tensor:
    """Return the mean binary cross-entropy of labels ``y_BK`` (0 or 1, float), over samples and labels."""
    return functional.binary_cross_entropy_with_logits(logits_BK, y_BK)


def mse(predictions: Tensor, y: Tensor) -> Tensor:
    """Return the mean squared error over all values."""
    _same_shape(predictions, y)
    return functional.mse_loss(predictions, y)


def relative_l2(predictions: Tensor, y: Tensor) -> Tensor:
    """Return the mean over samples of ‖ŷ − y‖₂ / ‖y‖₂, the norms over all values of a sample.

    The gradient is zero, not NaN, for a sample that is met exactly.
    """
    _same_shape(predictions, y)
    tiny = torch.finfo(y.dtype).tiny
    error_B: Tensor = torch.linalg.vector_norm((predictions - y).flatten(1), dim=1)
    norm_B: Tensor = torch.linalg.vector_norm(y.flatten(1), dim=1)
    return (error_B / norm_B.clamp_min(tiny)).mean()


def _same_shape(predictions: Tensor, y: Tensor) -> None:
    if predictions.shape != y.shape:  # broadcasting would train on nonsense
        raise ValueError(f"predictions have shape {tuple(predictions.shape)}, targets {tuple(y.shape)}")


LOSSES: Mapping[str, Loss] = {
    "cross_entropy": cross_entropy,
    "bce": bce,
    "mse": mse,
    "relative_l2": relative_l2,
    "nrmse": relative_l2,
}


def get_loss(name: str) -> Loss:
    """Return a loss by name; raises :class:`UserError` naming the nearest one."""
    if name not in LOSSES:
        raise unknown_name("loss", name, LOSSES)
    return LOSSES[name]
