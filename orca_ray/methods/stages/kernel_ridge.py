"""``kernel_ridge``: ridge regression of Gaussian kernels around training samples.

scikit-learn's ``Nystroem`` and ``KernelRidge`` are not used: they have no leave-one-out
errors, by which the width and the penalty are chosen here without new fits.
"""

import numpy as np
import torch
from torch import Tensor, nn

from orca_ray.methods.stages.fitted import FittedStage
from orca_ray.methods.stages.ridge import FINE_PENALTIES, scale_search
from orca_ray.methods.stages.ridge_regression import least_left_out, standardise
from orca_ray.methods.stages.training_features import (
    scaled_targets,
    training_features,
    training_rows,
    varying_columns,
)
from orca_ray.methods.stages.trial import NetworkRequest
from orca_ray.models.body import Body
from orca_ray.models.features import MOST_LANDMARKS, KernelBody
from orca_ray.models.trees import OutputHead
from orca_ray.process import note_progress
from orca_ray.training.numerics import derive_seed

_WIDTHS = tuple(2.0**exponent for exponent in range(-4, 3))
"""Factors of the squared distances that are tried, relative to the inverse of their
mean.
"""
MOST_FITTED = 10_000
"""Largest number of training samples that are fitted."""
_COMPARED = 500
"""Largest number of training samples that compare widths."""
_MOST_STORED = 2**24
"""Largest number of values of all landmarks."""
_BLOCK = 256
"""Number of samples whose kernels are computed at a time."""


class KernelStage(FittedStage):
    """Stage that fits a ridge regression of Gaussian kernels around training samples.

    It has one epoch. The samples that kernels are around are the landmarks of the
    Nyström method (Williams and Seeger, 2001), which is exact if all samples are
    landmarks. Width and penalty are those with the least loss of leave-one-out
    predictions: the squared error or, for classes and labels, the task's loss
    (`scale_search`).
    """

    batch_size = 256

    @staticmethod
    def network(request: NetworkRequest, width: int) -> tuple[Body, nn.Module]:
        """Return body and head for ``width`` features, without landmarks."""
        target = request.task.target
        return KernelBody(width, target.num_outputs), OutputHead(target.output_shape)

    @torch.no_grad()
    def fit(self, epoch: int) -> None:
        """Choose the width on some samples, then fit all, up to `MOST_FITTED`.

        ``epoch`` is not used.
        """
        trial = self._trial
        body = trial.model.body
        assert isinstance(body, KernelBody)
        columns = varying_columns(trial)
        random = np.random.default_rng(derive_seed(trial.seed, "landmarks"))
        rows = random.permutation(training_rows(trial, MOST_FITTED))
        features = training_features(trial, rows, encoded=False)
        mean, deviation = standardise(features.clone())
        scale = torch.zeros_like(body.scale)
        num_columns = len(scale[columns])
        # The exponent of a kernel is then -1/2 times the mean squared difference of
        # standardised features.
        scale[columns] = (0.5 / num_columns) ** 0.5 / deviation[columns].to(scale)
        body.mean = mean.float()
        few = slice(_COMPARED)
        losses = [
            self._fit_kernels(body, features[few], rows[few], scale * width**0.5)
            for width in _WIDTHS
        ]
        best_width = _WIDTHS[int(np.argmin(losses))]
        self._fit_kernels(body, features, rows, scale * best_width**0.5)

    def _fit_kernels(
        self, body: KernelBody, features: Tensor, rows: np.ndarray, scale: Tensor
    ) -> float:
        """Fit ``body`` to the training samples ``rows``; return the leave-one-out loss.

        ``features`` [n, F] are those of the samples; ``scale`` [F] multiplies centred
        features.
        """
        note_progress()
        trial = self._trial
        y, scales = (part.to(trial.device) for part in scaled_targets(trial, rows))
        body.scale = scale
        num_landmarks = max(2, min(MOST_LANDMARKS, _MOST_STORED // len(scale)))
        body.keys = body.standardised(features[:num_landmarks]).half()
        root = _cholesky(body.kernels(body.keys))
        kernels = torch.cat(
            [
                body.kernels(body.standardised(block))
                for block in torch.split(features, _BLOCK)
            ]
        )
        x = torch.linalg.solve_triangular(root, kernels.T, upper=False).T
        mean = x.mean(dim=0)
        if trial.task.target.kind in ("classes", "labels"):
            best_scale = scale_search(trial, rows)
            fit = least_left_out(
                x - mean,
                y,
                FINE_PENALTIES,
                lambda residuals: best_scale(y - residuals)[1],
            )
            factor, _ = best_scale(fit.predictions)
        else:
            fit = least_left_out(
                x - mean,
                y,
                FINE_PENALTIES,
                lambda residuals: float(residuals.square().mean()),
            )
            factor = 1.0
        body.values = (
            factor
            * scales
            * torch.linalg.solve_triangular(root.T, fit.weight, upper=True)
        )
        body.weights = factor * scales * (y.mean(dim=0) - mean @ fit.weight)
        return fit.loss


def _cholesky(kernels: Tensor) -> Tensor:
    """Return the Cholesky root of kernels [L, L], also if landmarks are equal."""
    identity = torch.eye(len(kernels)).to(kernels)
    root: Tensor = torch.linalg.cholesky(kernels + 1e-6 * identity)
    return root
