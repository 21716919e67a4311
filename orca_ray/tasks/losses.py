"""Training losses by name.

Dense and scalar predictions are compared with targets in the units of the targets.
Every loss is a mean over the B samples of a batch, and the term of a sample does not
depend on other samples. So the gradient of a batch is the same if it is accumulated
over smaller batches that are weighted by their number of samples.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache, partial
from pkgutil import resolve_name
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from orca_ray.data.rows import Rows, Target
from orca_ray.discovery import tables, with_plug_ins
from orca_ray.errors import UserError, lookup
from orca_ray.tasks.metrics import IGNORED, check_other_shape

Loss = Callable[[Tensor, Tensor], Tensor]
"""Function of predictions [B, *output_shape] and targets [B, ...] that returns a
scalar.
"""
LossFactory = Callable[[Rows, Target, torch.device], Loss]
"""Function of training targets [N, ...], whose statistics it may use, the target and a
device, that returns the loss.
"""

FOCAL_FLOOR = 1e-9
"""Number added to a probability before its logarithm, as in ORCA's code."""
_bce = functional.binary_cross_entropy_with_logits


@dataclass(frozen=True)
class TrainingLoss:
    """A training loss: its function, definition and source."""

    name: str
    definition: str
    """Definition in words."""
    source: str
    """Origin of the definition or convention."""
    make: LossFactory
    regression: bool = False
    """Whether predictions are values in the units of the targets, and not logits."""


def _weighted_cross_entropy(
    train_y: Rows, target: Target, device: torch.device
) -> Loss:
    """Return the cross-entropy weighted by class.

    A sample of class c has the weight w_c = N / (K n_c). N is the number of training
    samples, K of classes, and n_c of training samples of class c. The loss is the
    weighted sum divided by B. ORCA's code uses torch's weighted mean, which divides by
    the weights' sum in the batch instead.

    Raises UserError if a class has no training sample.
    """
    counts = np.bincount(np.asarray(train_y), minlength=target.size)
    absent = np.flatnonzero(counts == 0)
    if len(absent):
        raise UserError(
            "weights of inverse class frequency need every class among the training"
            f" targets; {len(absent)} of {target.size} are not there, the first of them"
            f" class {absent[0]}"
        )
    weights_K = torch.tensor(
        len(train_y) / (len(counts) * counts), dtype=torch.float32, device=device
    )

    def loss(logits_BK: Tensor, y_B: Tensor) -> Tensor:
        loss_B = functional.cross_entropy(logits_BK, y_B, reduction="none")
        return (weights_K[y_B] * loss_B).mean()

    return loss


def _softmax_focal(logits_BK: Tensor, y_B: Tensor) -> Tensor:
    """Return the focal loss with alpha 1 and gamma 0.

    It is the mean of −log(p + 1e-9), where p is the softmax probability of the true
    class. The constant 1e-9 bounds the loss of a sample by 20.7. Samples near this
    bound have almost no gradient.
    """
    log_p_B = functional.log_softmax(logits_BK, dim=1).gather(1, y_B[:, None])
    return -torch.logaddexp(log_p_B, log_p_B.new_full((), math.log(FOCAL_FLOOR))).mean()


def _bce_pos(weight: float, logits_BK: Tensor, y_BK: Tensor) -> Tensor:
    return _bce(logits_BK, y_BK, pos_weight=logits_BK.new_full((), weight))


_bce_pos4 = partial(_bce_pos, 4.0)
_bce_pos10 = partial(_bce_pos, 10.0)


def _masked_bce(logits: Tensor, y: Tensor) -> Tensor:
    """Return the mean binary cross-entropy over all pixels.

    An ignored pixel adds the constant log 2, no gradient.
    """
    check_other_shape(logits, y)
    return _bce(torch.where(y == IGNORED, 0.0, logits), y)


def _mse(predictions: Tensor, y: Tensor) -> Tensor:
    check_other_shape(predictions, y)
    return functional.mse_loss(predictions, y)


def _rmse(predictions: Tensor, y: Tensor) -> Tensor:
    """Return the mean over samples of a sample's RMSE.

    A sample with error 0 has gradient 0 and not NaN.
    """
    check_other_shape(predictions, y)
    difference = predictions - y
    difference_BD = difference.flatten(1) if y.ndim > 1 else difference[:, None]
    norm_B: Tensor = torch.linalg.vector_norm(difference_BD, dim=1)
    return norm_B.mean() / math.sqrt(difference_BD.shape[1])


def _relative_l2(predictions: Tensor, y: Tensor) -> Tensor:
    """Return the mean over samples of ‖ŷ − y‖₂ / ‖y‖₂, ŷ predicted.

    A sample with error 0 has gradient 0, not NaN.
    """
    check_other_shape(predictions, y)
    error_B: Tensor = torch.linalg.vector_norm((predictions - y).flatten(1), dim=1)
    norm_B: Tensor = torch.linalg.vector_norm(y.flatten(1), dim=1)
    return (error_B / norm_B.clamp_min(torch.finfo(y.dtype).tiny)).mean()


def _declared(
    name: str, *, function: str = "", make: str = "", **words: Any
) -> TrainingLoss:
    """Return a training loss, given the names of its functions.

    ``function`` names a loss that needs no training targets, ``make`` a `LossFactory`.
    One of them is given. ``words`` are other fields of `TrainingLoss`.
    """
    factory = (
        resolve_name(make)
        if make
        else lambda train_y, target, device: resolve_name(function)
    )
    return TrainingLoss(name, make=factory, **words)


@cache
def all_losses() -> Mapping[str, TrainingLoss]:
    """Return all losses by name, those of plug-ins last."""
    shipped = {
        name: _declared(name, **words)
        for name, words in tables("orca_ray.tasks", "losses.toml").items()
    }
    return with_plug_ins("loss", TrainingLoss, shipped)


def get_loss(name: str) -> TrainingLoss:
    """Return a loss by name; raises UserError for an unknown one."""
    return lookup("loss", name, all_losses())
