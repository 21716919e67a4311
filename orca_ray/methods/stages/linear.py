"""``linear``: logistic or ridge regression of features.

scikit-learn's ``LogisticRegression`` is not used, as it minimises only its own loss, on
the CPU: this one minimises the task's loss (class weights, ignored labels) on any
device.
"""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from scipy.optimize import minimize
from torch import Tensor, nn

from orca_ray.methods.options import LinearConfig
from orca_ray.methods.stages.ridge import RidgeStage
from orca_ray.methods.stages.ridge_regression import principal, standardise
from orca_ray.methods.stages.training_features import (
    training_features,
    training_rows,
    varying_columns,
)
from orca_ray.methods.stages.trial import NetworkRequest, Trial
from orca_ray.models.body import Body
from orca_ray.models.crossmodal import PooledHead
from orca_ray.models.features import FeatureBody, limit_features
from orca_ray.process import note_progress
from orca_ray.training.numerics import derive_seed

_STRENGTHS = tuple(10.0**exponent for exponent in np.linspace(-4, 2, 7))
"""Inverse penalties C that are tried in ascending order, until two in succession are no
better than the best so far.
"""
_NUM_PARTS = 4
"""Number of parts of the training samples, each of which is left out once."""
_MOST_SAMPLES_OF_PARTS = 1000
"""Number of training samples above which only the first part is left out."""
_LEAST_SAMPLES = 8
"""Number of training samples below which no part is left out, and C is 1."""
_MOST_COMPARED = 2**22
"""Largest number of feature values, over all samples, on which C are compared."""

_Loss = Callable[[Tensor, Tensor], Tensor]


class LinearStage(RidgeStage):
    """Stage that fits a ridge regression or, for classes and labels, a logistic one.

    The logistic regression minimises the task's loss. Its penalty is |w|² / (2 C N),
    where C has the least loss on left-out parts of the training samples.
    """

    def __init__(self, trial: Trial) -> None:
        super().__init__(trial, leave_one_out=True)

    @staticmethod
    def network(request: NetworkRequest, width: int) -> tuple[Body, nn.Module]:
        """Return body and head for ``width`` features; the weights are 0."""
        head = PooledHead(width, request.task.target)
        nn.init.zeros_(head.output.weight)
        nn.init.zeros_(head.output.bias)
        limit = request.hyperparameters.of(LinearConfig).limit
        return limit_features(FeatureBody(width), limit), head

    @torch.no_grad()
    def fit(self, epoch: int) -> None:
        """Fit the head to the `training_rows`, with the chosen penalty.

        ``epoch`` is not used.
        """
        trial = self._trial
        output = trial.model.head.output
        assert isinstance(output, nn.Linear)
        columns = varying_columns(trial)
        if trial.task.target.kind in ("scalar", "dense"):
            self.fit_by_leave_one_out(output, columns)
            return
        rows = training_rows(trial, columns=columns)
        features = training_features(trial, rows, columns=columns)
        mean, deviation = standardise(features)
        fitted = self._fit_logistic(features, rows, output.out_features)
        weight = fitted[1:] / deviation[:, None]
        output.weight.zero_()[:, columns] = weight.T.to(output.weight)
        output.bias.copy_(fitted[0] - mean @ weight)

    def _fit_logistic(
        self, features: Tensor, rows: np.ndarray, num_outputs: int
    ) -> Tensor:
        """Return biases and weights [1 + F, K] for standardised ``features`` [n, F]."""
        train_y = self._trial.data.train.y
        device = self._trial.device
        loss = self._trial.objective.training_loss(train_y, device)
        y = torch.from_numpy(np.asarray(train_y)[rows]).to(device)
        if y.is_floating_point():
            y = y.double()
        parts = self._parts(rows)
        if features.shape[0] >= features.shape[1]:
            return _fit_best(features.double(), y, loss, parts, num_outputs)
        # Weights outside the span of the samples are 0.
        basis, values, directions = principal(features)
        fitted = _fit_best(basis * values.sqrt(), y, loss, parts, num_outputs)
        return torch.cat([fitted[:1], directions @ fitted[1:]])

    def _parts(self, rows: np.ndarray) -> np.ndarray:
        """Return the number of the part of each of the training samples ``rows`` [n].

        All parts have about equal shares of each class.
        """
        trial = self._trial
        random = np.random.default_rng(derive_seed(trial.seed, "parts"))
        order = random.random(len(rows))
        if trial.task.target.kind == "classes":
            order += np.asarray(trial.data.train.y)[rows]
        ranks = np.argsort(np.argsort(order))
        return ranks % _NUM_PARTS


class _Division(NamedTuple):
    """Indices of samples to fit, and of samples left out."""

    fitted: Tensor
    left_out: Tensor


def _fit_best(
    x: Tensor, y: Tensor, loss: _Loss, parts: np.ndarray, num_outputs: int
) -> Tensor:
    """Return biases and weights [1 + R, K] for features ``x`` [N, R].

    The strength C is the one that is best for left-out parts; ``parts`` [N] are numbers
    of parts.
    """
    start = x.new_zeros(1 + x.shape[1], num_outputs)
    divisions = _divisions(parts, x.shape[1])
    strength = 1.0
    if divisions:
        strength, start = _best_strength(x, y, loss, divisions, start)
    return _minimise(x, y, loss, strength, start)


def _divisions(parts: np.ndarray, width: int) -> list[_Division]:
    """Return divisions of samples into fitted and left-out ones, by their ``parts``.

    Samples have ``width`` features. If there are many, only random ones are divided.
    """
    count = len(parts)
    if count < _LEAST_SAMPLES:
        return []
    num_divisions = _NUM_PARTS if count <= _MOST_SAMPLES_OF_PARTS else 1
    num_drawn = max(_MOST_SAMPLES_OF_PARTS, _MOST_COMPARED // width)
    drawn = np.sort(np.random.default_rng(0).permutation(count)[:num_drawn])
    drawn_parts = parts[drawn]
    return [
        _Division(
            torch.from_numpy(drawn[drawn_parts != number]),
            torch.from_numpy(drawn[drawn_parts == number]),
        )
        for number in range(num_divisions)
    ]


def _best_strength(
    x: Tensor, y: Tensor, loss: _Loss, divisions: Sequence[_Division], start: Tensor
) -> tuple[float, Tensor]:
    """Return the strength C with the least loss on left-out samples, and mean weights.

    The weights [1 + R, K] are averaged over the divisions.
    """
    least = math.inf
    best = 1.0
    num_worse = 0
    fits = [start] * len(divisions)
    for strength in _STRENGTHS:
        fits = [
            _minimise(x[division.fitted], y[division.fitted], loss, strength, weights)
            for division, weights in zip(divisions, fits, strict=True)
        ]
        losses = [
            loss(_logits(x[division.left_out], weights), y[division.left_out])
            for division, weights in zip(divisions, fits, strict=True)
        ]
        total = float(sum(losses))
        num_worse = num_worse + 1 if total >= least else 0
        if total < least:
            least = total
            best = strength
            start = torch.stack(fits).mean(dim=0)
        if num_worse == 2:
            break
    return best, start


def _logits(x: Tensor, weights: Tensor) -> Tensor:
    return x @ weights[1:] + weights[0]


@torch.enable_grad()
def _minimise(
    x: Tensor, y: Tensor, loss: _Loss, strength: float, start: Tensor
) -> Tensor:
    """Return biases and weights [1 + R, K] with the least penalised loss.

    L-BFGS finds them from ``start``, of the same shape.
    """

    def loss_and_gradient(flat: np.ndarray) -> tuple[float, np.ndarray]:
        note_progress()
        weights = torch.from_numpy(flat.reshape(start.shape)).to(x).requires_grad_()
        penalty = weights[1:].square().sum() / (2 * strength * len(x))
        penalised = loss(_logits(x, weights), y) + penalty
        (gradient,) = torch.autograd.grad(penalised, weights)
        return penalised.item(), gradient.cpu().numpy().ravel()

    result = minimize(
        loss_and_gradient,
        start.cpu().numpy().ravel(),
        jac=True,
        method="L-BFGS-B",
        options={"maxiter": 200, "ftol": 1e-8},
    )
    return torch.from_numpy(result.x.reshape(start.shape)).to(x)
