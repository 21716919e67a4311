"""Ridge regression in float64 on the device of the features, with leave-one-out errors.

scikit-learn's ``RidgeCV`` is not used: it copies all features to float64 on the CPU,
and returns no leave-one-out predictions for the penalty that it chooses.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from orca_ray.process import note_progress

_BLOCK = 1024
"""Number of features that are converted to float64 at a time."""
_LEAST_SHARE = 1e-3
"""Least deviation of a feature relative to the median deviation; see
`feature_moments`.
"""


class RidgeFit(NamedTuple):
    """A linear ridge regression, and what it predicts for each sample left out."""

    weight: Tensor
    """[K, F]."""
    bias: Tensor
    """[K]."""
    predictions: Tensor
    """Leave-one-out predictions [N, K]."""


class LeftOutFit(NamedTuple):
    """A ridge regression of centred features."""

    weight: Tensor
    """[F, K]."""
    predictions: Tensor
    """Leave-one-out predictions [N, K]."""
    loss: float
    """Loss of the leave-one-out residuals."""


class Principal(NamedTuple):
    """Decomposition x = U sqrt(s) Vᵀ of features, in float64."""

    basis: Tensor
    """U [N, R], orthonormal."""
    values: Tensor
    """s [R], ascending."""
    directions: Tensor
    """V [F, R], orthonormal."""


def ridge(
    x: Tensor, y: Tensor, penalties: Sequence[float]
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield weights [K, F] and biases [K] of ridge regression for each penalty.

    Features ``x`` [N, F] are first standardised in place; then |y - x w - b|² + penalty
    |w|² is minimised for each column of ``y`` [N, K] float64. The smaller of the two
    equivalent systems, of size N or F, is solved, in float64.
    """
    mean, deviation = standardise(x, share=0)
    centre = y.mean(dim=0)
    is_dual = x.shape[0] <= x.shape[1]
    if is_dual:
        gram = _gram(x)
        right = y - centre
    else:
        gram = _gram(x.T)
        right = _product(x, y - centre)
    identity = torch.eye(len(gram), dtype=gram.dtype, device=gram.device)
    for penalty in penalties:
        factor = torch.linalg.cholesky(gram + penalty * identity)
        solution = torch.cholesky_solve(right, factor)
        weight = _product(x, solution) if is_dual else solution
        weight = weight / deviation[:, None]
        yield weight.T, centre - mean @ weight


def standardise(x: Tensor, share: float = _LEAST_SHARE) -> tuple[Tensor, Tensor]:
    """Standardise features ``x`` [N, F] in place; return their `feature_moments`."""
    mean, deviation = feature_moments(x, share)
    x.sub_(mean).div_(deviation)
    return mean, deviation


def feature_moments(x: Tensor, share: float = _LEAST_SHARE) -> tuple[Tensor, Tensor]:
    """Return means and deviations [F] of features ``x`` [N, F] in float64.

    The deviation of a feature is 1 if its own is less than ``share`` of the median:
    such a feature is noise, and a new value would be thousands of deviations away.
    """
    deviation, mean = torch.std_mean(x, dim=0, correction=0)
    deviation = deviation.double()
    least = max(1e-6, share * float(deviation.median()))
    return mean.double(), torch.where(deviation > least, deviation, 1.0)


def best_left_out(x: Tensor, y: Tensor, penalties: Sequence[float]) -> RidgeFit:
    """Return the `ridge` regression with the least squared leave-one-out error.

    The error of a sample is its residual, divided by 1 minus its leverage (Allen,
    1974). Features ``x`` [N, F] are standardised in place; ``y`` is [N, K] float64.
    """
    mean, deviation = standardise(x)
    fit = least_left_out(
        x, y, penalties, lambda residuals: float(residuals.square().mean())
    )
    weight = fit.weight / deviation[:, None]
    return RidgeFit(weight.T, y.mean(dim=0) - mean @ weight, fit.predictions)


def least_left_out(
    x: Tensor, y: Tensor, penalties: Sequence[float], loss: Callable[[Tensor], float]
) -> LeftOutFit:
    """Return the fit of the penalty whose leave-one-out residuals have the least loss.

    Features ``x`` [N, F] have the mean 0; ``loss`` gets residuals [N, K]. See
    `best_left_out`.
    """
    basis, values, directions = principal(x)
    centre = y.mean(dim=0)
    least = math.inf
    scale = values
    predictions = y
    rotated = basis.T @ (y - centre)
    for penalty in penalties:
        note_progress()
        shrinkage = values / (values + penalty)
        leverage = basis.square() @ shrinkage + 1 / len(x)
        fitted = basis @ (shrinkage[:, None] * rotated)
        residuals = (y - centre - fitted) / (1 - leverage).clamp(min=1e-9)[:, None]
        error = loss(residuals)
        if error < least:
            least = error
            scale = shrinkage / values.sqrt()
            predictions = y - residuals
    return LeftOutFit(directions @ (scale[:, None] * rotated), predictions, least)


def principal(x: Tensor) -> Principal:
    """Return the principal directions of features ``x`` [N, F].

    Directions in which ``x`` does not vary are left out, up to one.
    """
    is_dual = x.shape[0] <= x.shape[1]
    smaller = x if is_dual else x.T
    values, vectors = torch.linalg.eigh(_gram(smaller))
    varies = values > max(float(values[-1]) * 1e-10, 1e-12)
    varies[-1] = True
    values = values[varies].clamp(min=1e-12)
    vectors = vectors[:, varies]
    images = _product(smaller, vectors) / values.sqrt()
    if is_dual:
        return Principal(vectors, values, images)
    return Principal(images, values, vectors)


def _gram(x: Tensor) -> Tensor:
    """Return x xᵀ in float64, block by block."""
    total = x.new_zeros(len(x), len(x), dtype=torch.float64)
    for block in torch.split(x, _BLOCK, dim=1):
        total += block.double() @ block.double().T
    return total


def _product(x: Tensor, y: Tensor) -> Tensor:
    """Return xᵀ y in float64, block by block."""
    return torch.cat([block.double().T @ y for block in torch.split(x, _BLOCK, dim=1)])
