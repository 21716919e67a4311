"""Ridge regression of the body's features, the last stage of MiniRocket and others."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from scipy.optimize import minimize_scalar
from torch import Tensor, nn

from orca_ray.data.rows import Array
from orca_ray.methods.stages.fitted import FittedStage
from orca_ray.methods.stages.ridge_regression import (
    best_left_out,
    feature_moments,
    ridge,
)
from orca_ray.methods.stages.training_features import (
    Columns,
    regression_targets,
    training_features,
    training_rows,
)
from orca_ray.methods.stages.trial import Trial
from orca_ray.models.crossmodal import PooledHead
from orca_ray.models.features import LimitedBody
from orca_ray.models.minirocket import MiniRocketBody
from orca_ray.process import note_progress
from orca_ray.training.evaluate import head_inputs, score
from orca_ray.training.numerics import derive_seed

PENALTIES = tuple(10.0**exponent for exponent in np.linspace(3, -3, 10))
"""Penalties that are tried on validation data, those of MiniRocket's authors.

Of equally good ones, the largest is chosen.
"""
FINE_PENALTIES = tuple(10.0**exponent for exponent in np.linspace(5, -4, 19))
"""Penalties that are tried by leave-one-out, where each takes no new fit."""
MOST_EXACT = 4096
"""Largest value of min(samples, features) for which leave-one-out uses all features."""
FEWER_FEATURES = 2048
"""Number of random features that leave-one-out uses of more samples and features."""


@dataclass(frozen=True)
class _Comparison:
    """Data on which penalties are compared: samples to fit, and samples held out."""

    features: Tensor
    """[N, 1, F]."""
    targets: Tensor
    """`regression_targets` [N, K] of the samples to fit."""
    held_features: Tensor
    """[n, 1, F]."""
    held_y: Array
    held_group: Array | None


class RidgeStage(FittedStage):
    """Stage that fits a ridge regression of the body's features in one epoch.

    MiniRocket's biases are fitted first: they are quantiles of the convolutions of
    random training series. The penalty has the best validation score or, with
    ``leave_one_out``, the best leave-one-out predictions of the training samples. In
    the latter case, logits are also scaled by the factor with which these predictions
    have the least training loss, and time and memory are bounded: if both samples and
    features are more than `MOST_EXACT`, `FEWER_FEATURES` random features are fitted.
    """

    def __init__(self, trial: Trial, *, leave_one_out: bool = False) -> None:
        super().__init__(trial)
        self._leave_one_out = leave_one_out

    @torch.no_grad()
    def fit(self, epoch: int) -> None:
        """Fit the biases of features, then the head; ``epoch`` is not used."""
        trial = self._trial
        head = trial.model.head
        assert isinstance(head, PooledHead)
        self._fit_biases()
        if self._leave_one_out:
            self.fit_by_leave_one_out(head.output, self._fitted_features())
        else:
            self._fit_by_comparison(head)

    def _fitted_features(self) -> Columns:
        """Return the features to fit: all, or random ones of very many.

        The features of MiniRocket and Hydra are random themselves, so that fewer of
        them are a smaller model of the same kind. What the others would have added was
        not measured.
        """
        trial = self._trial
        width = trial.model.body.feature_width
        if min(len(trial.data.train), width) <= MOST_EXACT:
            return slice(None)
        trial.artefacts.notes.append(
            f"fitted on {FEWER_FEATURES} of {width} features, drawn at random, to save"
            " time"
        )
        random = np.random.default_rng(derive_seed(trial.seed, "features"))
        drawn = random.choice(width, FEWER_FEATURES, replace=False)
        return torch.from_numpy(np.sort(drawn)).to(trial.device)

    def fit_by_leave_one_out(self, output: nn.Linear, columns: Columns) -> None:
        """Fit the layer ``output`` to the features ``columns`` of training samples.

        Leave-one-out predictions choose the penalty, and the scale of logits.
        """
        trial = self._trial
        rows = training_rows(trial, columns=columns)
        y = regression_targets(trial)[rows].to(trial.device)
        features = training_features(trial, rows, columns=columns)
        weight, bias, predictions = best_left_out(features, y, FINE_PENALTIES)
        factor = 1.0
        if trial.task.target.kind in ("classes", "labels"):
            factor, _ = scale_search(trial, rows)(predictions)
        output.weight.zero_()[:, columns] = (weight * factor).to(output.weight)
        output.bias.copy_(bias * factor)

    def _fit_biases(self) -> None:
        """Fit the biases of each `MiniRocketBody` in the model to random samples."""
        trial = self._trial
        random = np.random.default_rng(derive_seed(trial.seed, "biases"))

        def random_tokens(number: int) -> Tensor:
            rows = random.integers(len(trial.data.train), size=number)
            x = torch.from_numpy(np.asarray(trial.data.train.x[rows], np.float32))
            return trial.model.embed(x.to(trial.device))

        for part in trial.model.body.modules():
            if isinstance(part, MiniRocketBody):
                part.fit(random_tokens)

    def _fit_by_comparison(self, head: PooledHead) -> None:
        """Fit ``head`` with each penalty, and keep the best on held-out samples."""
        trial = self._trial
        comparison = self._comparison()
        decode = trial.objective.decoder(trial.device)
        targets = comparison.targets.to(trial.device)
        least = np.inf
        for weight, bias in ridge(comparison.features[:, 0], targets, PENALTIES):
            note_progress()
            head.output.weight.copy_(weight)
            head.output.bias.copy_(bias)
            outputs = decode(head(comparison.held_features)).cpu().numpy()
            held_score = score(
                outputs, comparison.held_y, trial.objective, comparison.held_group
            )
            if held_score < least:
                least = held_score
                best = {
                    name: value.clone()
                    for name, value in head.output.state_dict().items()
                }
        head.output.load_state_dict(best)

    def _comparison(self) -> _Comparison:
        """Return the training samples to fit, and the validation samples as held out.

        If the training data have the validation samples, too, because ``data.fold`` is
        negative, a random fifth of the training samples is held out instead.
        """
        trial = self._trial
        train = trial.data.train
        validation = trial.data.validation
        body = trial.model.body
        features, held_features = (
            torch.cat(list(head_inputs(trial.model, split.x, self._precision)))
            for split in (train, validation)
        )
        if isinstance(body, LimitedBody):
            body.set_limits(*feature_moments(features[:, 0]))
            features = body.clipped(features)
            held_features = body.clipped(held_features)
        y = regression_targets(trial)
        if trial.hyperparameters.data.fold >= 0:
            return _Comparison(
                features, y, held_features, validation.y, validation.group
            )
        random = np.random.default_rng(derive_seed(trial.seed, "penalty"))
        rows = random.permutation(len(y))
        held = rows[: len(y) // 5]
        others = rows[len(y) // 5 :]
        return _Comparison(
            features[others],
            y[others],
            features[held],
            np.asarray(train.y)[held],
            None if train.group is None else train.group[held],
        )


def scale_search(
    trial: Trial, rows: np.ndarray
) -> Callable[[Tensor], tuple[float, float]]:
    """Return a function that scales the logits [n, K] of the training samples ``rows``.

    The function returns the factor, 1/100 to 100, with the least training loss, and
    that loss.
    """
    loss = trial.objective.training_loss(trial.data.train.y, trial.device)
    y = torch.from_numpy(np.asarray(trial.data.train.y)[rows]).to(trial.device)

    def best_scale(logits: Tensor) -> tuple[float, float]:
        result = minimize_scalar(
            lambda exponent: float(loss((logits * 10.0**exponent).float(), y)),
            bounds=(-2, 2),
            method="bounded",
        )
        return float(10.0**result.x), float(result.fun)

    return best_scale
