"""The last stage of methods that fit their model without gradients: in closed form, or
as trees.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from time import perf_counter
from typing import Any

import numpy as np
import torch
from scipy.optimize import minimize_scalar
from torch import Tensor, nn
from torch.nn import functional as F

from orca_ray.data.prepared import Split
from orca_ray.methods.reports import EpochProgress, Outcome, joined
from orca_ray.methods.stages.trial import Trial
from orca_ray.models.crossmodal import PooledHead
from orca_ray.models.features import FeatureEmbedder, LimitedBody
from orca_ray.models.minirocket import MiniRocketBody
from orca_ray.process import note_progress
from orca_ray.training.evaluate import (
    BATCH_SIZE,
    SplitInputs,
    head_inputs,
    log_loss,
    predict,
    score,
)
from orca_ray.training.numerics import Precision, derive_seed


class FittedStage(ABC):
    """Base of stages that end a trial, fit without gradients, and validate each epoch.
    A subclass defines `fit`.

    The last epoch loads the best weights and, if `Trial.test`, tests them. Epochs,
    scores and state mean the same as in a `RefineStage`.
    """

    name = "refine"
    parallel = False
    batch_size = BATCH_SIZE
    """Number of samples in a forward pass of the evaluation."""

    def __init__(self, trial: Trial, epochs: int = 1, patience: int = 0) -> None:
        """Plan the stage; it ends after ``patience`` epochs without a better validation
        score (0: after ``epochs``).
        """
        self._trial = trial
        self._epochs = epochs
        self._patience = patience or math.inf
        self._precision = Precision("float32", trial.device)
        self._epoch = 0
        self._best_epoch = 0
        self._best_score = math.inf
        self._least = math.inf
        self._best: dict[str, Tensor] = {}
        self._test_score: float | None = None
        self._fit_seconds = self._evaluate_seconds = 0.0  # of the last step

    @abstractmethod
    def fit(self, epoch: int) -> float | None:
        """Fit the model further in ``epoch`` (0, 1, ...); return the mean training
        loss, None if it is not computed.
        """

    @property
    def done(self) -> bool:
        """Whether all epochs have run, or none of the last ``patience`` epochs was
        better than the best one before.
        """
        return (
            self._epoch >= self._epochs
            or self._epoch - self._best_epoch >= self._patience
        )

    def step(self) -> EpochProgress:
        """Run one epoch and return its report; raises NotFiniteError if a prediction or
        score is NaN or infinite.
        """
        started = perf_counter()
        self._trial.model.eval()
        loss = self.fit(self._epoch)
        fitted = perf_counter()
        value, predictions = self._evaluate(validation := self._trial.data.validation)
        decisive = value
        if self._trial.by_log_loss:
            decisive = log_loss(
                predictions, validation.y, self._trial.objective, validation.group
            )
        self._epoch += 1
        if decisive < self._least:
            self._best_epoch, self._best_score, self._best = (
                self._epoch,
                value,
                self._weights(),
            )
            self._least = decisive
        seconds = perf_counter() - started
        if self.done:
            self._trial.model.load_state_dict(self._best)
            if self._trial.test:
                self._test_score, predictions = self._evaluate(self._trial.data.test)
                self._trial.artefacts.after_test(predictions)
        self._fit_seconds = fitted - started
        self._evaluate_seconds = perf_counter() - fitted
        return EpochProgress(
            stage=self.name,
            epoch=self._epoch,
            epochs=self._epochs,
            loss=loss,
            validation_score=value,
            seconds=seconds,
        )

    def add_to(self, outcome: Outcome) -> Outcome:
        """Return a copy of ``outcome`` with the best epoch, any test score, and the
        last epoch's time added.

        If the body has fitted values that are no parameters (``num_values``), they
        count as parameters.
        """
        fitted = getattr(self._trial.model.body, "num_values", 0)
        return replace(
            outcome,
            num_parameters=fitted or outcome.num_parameters,
            num_trainable=fitted or outcome.num_trainable,
            validation_score=self._best_score,
            best_epoch=self._best_epoch,
            epochs=self._epoch,
            test_score=self._test_score,
            precision=self._precision.name,
            refine_seconds=outcome.refine_seconds + self._fit_seconds,
            evaluate_seconds=outcome.evaluate_seconds + self._evaluate_seconds,
            notes=joined(outcome.notes, self._trial.artefacts.notes),
        )

    def state_dict(self) -> Mapping[str, Any] | None:
        """Return the state for an exact resume; None before the first step."""
        if self._epoch == 0:
            return None
        return {
            "epoch": self._epoch,
            "best_epoch": self._best_epoch,
            "best_score": self._best_score,
            "least": self._least,
            "weights": self._weights(),
            "best": self._best,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore the ``state`` of an earlier stage, to continue where that stage was."""
        self._epoch = state["epoch"]
        self._best_epoch = state["best_epoch"]
        self._best_score = state["best_score"]
        self._trial.model.load_state_dict(state["weights"])
        self._best = dict(state["best"])
        self._least = state["least"]

    def _weights(self) -> dict[str, Tensor]:
        return {
            name: value.to("cpu", copy=True)
            for name, value in self._trial.model.state_dict().items()
        }

    def _evaluate(self, split: Split) -> tuple[float, np.ndarray]:
        """Return the metric of a split, and the predictions [N, *output_shape]."""
        trial = self._trial
        predictions, _ = predict(
            SplitInputs(split.x, trial.model, self._precision),
            trial.objective,
            self.batch_size,
        )
        return score(predictions, split.y, trial.objective, split.group), predictions


def regressed(trial: Trial) -> Tensor:
    """Return the training targets as float64 [N, K], to which the model's K outputs are
    fitted.

    Classes and labels are 1 if they apply, else -1. Scalar targets are standardised if
    the `Objective` has statistics.
    """
    y = torch.from_numpy(np.array(trial.data.train.y))
    if trial.task.target.kind == "classes":
        y = F.one_hot(y, trial.task.target.size)
    if trial.task.target.kind in ("classes", "labels"):
        return 2 * y.double() - 1
    mean = trial.objective.y_mean
    deviation = trial.objective.y_std
    if mean is not None and deviation is not None:
        y = (y - torch.tensor(np.asarray(mean))) / torch.tensor(np.asarray(deviation))
    return y.double().reshape(len(y), -1)


PENALTIES = tuple(10.0**exponent for exponent in np.linspace(3, -3, 10))
"""Penalties that are tried, the same as those of MiniRocket's authors; of equally good
ones, the largest is chosen.
"""
FINE = tuple(10.0**exponent for exponent in np.linspace(5, -4, 19))
"""Penalties that are tried by leave-one-out, where each takes no new fit."""
MOST_EXACT = 4096
"""Largest of the smaller number, samples or features, for which a penalty is chosen by
leave-one-out.
"""
MOST_VALUES = 2**26
"""Largest number of features of all training samples that are in memory; more samples
are drawn from.
"""
_BLOCK = 1024
_LEAST_SHARE = 1e-3


Columns = slice | Tensor
"""Features that a method fits: all, or the numbers of some of them."""


@torch.no_grad()
def varying(trial: Trial) -> Columns:
    """Return the features of a table or field that differ among the training samples;
    of other inputs, all features.

    Tables have a token of equal width for each column, so that most of their values may
    be constant.
    """
    if (
        not isinstance(trial.model.embedder, FeatureEmbedder)
        or trial.model.embedder.kind != "values"
    ):
        return slice(None)
    blocks = feature_blocks(trial, np.arange(len(trial.data.train)), encoded=False)
    first = next(blocks)
    found = (first != first[:1]).any(dim=0)
    for block in blocks:
        found |= (block != first[:1]).any(dim=0)
    return slice(None) if found.all() or not found.any() else torch.nonzero(found)[:, 0]


def training_rows(
    trial: Trial, most: int = MOST_VALUES, columns: Columns = slice(None)
) -> np.ndarray:
    """Return the sorted indices of the training samples to fit: all, or random ones if
    their features are too many.
    """
    number = len(trial.data.train)
    width = getattr(trial.model.embedder, "width", trial.model.body.feature_width)
    width = width if isinstance(columns, slice) else len(columns)
    most = max(2, min(most, MOST_VALUES // width))
    if number <= most:
        return np.arange(number)
    trial.artefacts.notes.append(
        f"fitted on {most} of {number} training samples, drawn at random, to save"
        " memory"
    )
    return np.sort(
        np.random.default_rng(derive_seed(trial.seed, "rows")).choice(
            number, most, replace=False
        )
    )


@torch.no_grad()
def features_of(
    trial: Trial,
    rows: np.ndarray,
    *,
    encoded: bool = True,
    columns: Columns = slice(None),
) -> Tensor:
    """Return the body's features [n, F] of the training samples ``rows``; unless
    ``encoded``, those before the body.

    The features of a `LimitedBody` set its limits.
    """
    found = torch.cat(
        [block[:, columns] for block in feature_blocks(trial, rows, encoded=encoded)]
    )
    if encoded and isinstance(body := trial.model.body, LimitedBody):
        body.set_limits(*_moments(found, _LEAST_SHARE), columns)
        return found.clamp(body.low[columns], body.high[columns])
    return found


@torch.no_grad()
def feature_blocks(
    trial: Trial, rows: np.ndarray, *, encoded: bool
) -> Iterator[Tensor]:
    """Yield what `features_of` returns for some of ``rows`` at a time."""
    for part in np.array_split(rows, math.ceil(len(rows) / BATCH_SIZE)):
        note_progress()
        x = torch.from_numpy(np.asarray(trial.data.train.x[part], np.float32)).to(
            trial.device
        )
        tokens = trial.model.embed(x)
        yield (trial.model.encode(tokens) if encoded else tokens)[:, 0]


class RidgeStage(FittedStage):
    """Stage that fits a ridge regression of the body's features in one epoch;
    MiniRocket's biases come first.

    The biases are quantiles of the convolutions of random training series. The penalty
    is the one that validates best or, with ``leave_one_out``, predicts each training
    sample best from all others; then logits are also scaled, by a factor with the least
    training loss of these predictions. If there are more than `MOST_EXACT` samples and
    features, validation data choose.
    """

    def __init__(self, trial: Trial, *, leave_one_out: bool = False) -> None:
        super().__init__(trial)
        self._leave_one_out = leave_one_out

    @torch.no_grad()
    def fit(self, epoch: int) -> None:
        """Fit the features' biases, then the head with each penalty, and keep the best;
        ``epoch`` is not used.
        """
        trial = self._trial
        data = self._trial.data
        body = trial.model.body
        head = trial.model.head
        assert isinstance(head, PooledHead)
        random = np.random.default_rng(derive_seed(trial.seed, "biases"))
        for part in body.modules():
            if isinstance(part, MiniRocketBody):
                part.fit(
                    lambda number: self._tokens(
                        random.integers(len(data.train), size=number)
                    )
                )
        if (
            self._leave_one_out
            and min(len(data.train), body.feature_width) <= MOST_EXACT
        ):
            self.fit_by_leave_one_out(head.output)
            return
        x, validation = (
            torch.cat(list(head_inputs(trial.model, split.x, self._precision)))
            for split in (data.train, data.validation)
        )
        if isinstance(body, LimitedBody):
            body.set_limits(*_moments(x[:, 0], _LEAST_SHARE))
            x = body.clipped(x)
            validation = body.clipped(validation)
        y = regressed(trial)
        held = data.validation
        if (
            trial.hyperparameters.data.fold == -1
        ):  # train has the validation data: a random fifth of it chooses instead
            rows = np.random.default_rng(
                derive_seed(trial.seed, "penalty")
            ).permutation(len(y))
            apart = rows[: len(y) // 5]
            others = rows[len(y) // 5 :]
            group = None if data.train.group is None else data.train.group[apart]
            held = Split(data.train.x, np.asarray(data.train.y)[apart], group)
            x, validation, y = x[others], x[apart], y[others]
        decode = trial.objective.decoder(trial.device)
        best = np.inf
        for weight, bias in ridge(x[:, 0], y.to(trial.device), PENALTIES):
            note_progress()
            head.output.weight.copy_(weight)
            head.output.bias.copy_(bias)
            value = score(
                decode(head(validation)).cpu().numpy(),
                held.y,
                trial.objective,
                held.group,
            )
            if value < best:
                best = value
                chosen = {
                    name: each.clone()
                    for name, each in head.output.state_dict().items()
                }
        head.output.load_state_dict(chosen)

    def fit_by_leave_one_out(self, output: nn.Linear) -> None:
        """Fit the layer ``output``, with the penalty and scale that the training
        samples choose.
        """
        trial = self._trial
        columns = varying(self._trial)
        rows = training_rows(trial, columns=columns)
        y = regressed(trial)[rows].to(trial.device)
        weight, bias, predictions = best_left_out(
            features_of(trial, rows, columns=columns), y, FINE
        )
        factor = 1.0
        if trial.task.target.kind in ("classes", "labels"):
            factor, _ = scaled(trial, rows)(predictions)
        output.weight.zero_()[:, columns] = (weight * factor).to(output.weight)
        output.bias.copy_(bias * factor)

    def _tokens(self, indices: np.ndarray) -> Tensor:
        x = torch.from_numpy(np.asarray(self._trial.data.train.x[indices], np.float32))
        return self._trial.model.embed(x.to(self._trial.device))


def ridge(
    x: Tensor, y: Tensor, penalties: Sequence[float]
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield the weights [K, F] and biases [K] of linear ridge regression for each
    penalty, in float64.

    Features ``x`` [N, F] are first standardised in place; then |y - x w - b|² + penalty
    |w|² is minimised for each column of ``y`` [N, K] float64. The smaller of the two
    equivalent systems, of size N or F, is solved.
    """
    mean, deviation = standardise(x, share=0)
    centre = y.mean(dim=0)
    dual = x.shape[0] <= x.shape[1]
    gram = _gram(x if dual else x.T)
    right = y - centre if dual else _product(x, y - centre)
    for penalty in penalties:
        factor = torch.linalg.cholesky(
            gram + penalty * torch.eye(len(gram), dtype=gram.dtype, device=gram.device)
        )
        solution = torch.cholesky_solve(right, factor)
        weight = (_product(x, solution) if dual else solution) / deviation[:, None]
        yield weight.T, centre - mean @ weight


def standardise(x: Tensor, share: float = _LEAST_SHARE) -> tuple[Tensor, Tensor]:
    """Standardise features ``x`` [N, F] in place; return their means and deviations [F]
    in float64 (see `_moments`).
    """
    mean, deviation = _moments(x, share)
    x.sub_(mean).div_(deviation)
    return mean, deviation


def _moments(x: Tensor, share: float) -> tuple[Tensor, Tensor]:
    """Return the means and deviations [F] of features ``x`` [N, F] in float64.

    The deviation of a feature is 1 if its own is less than ``share`` of the median:
    such a feature is noise, and a new value would be thousands of deviations away.
    """
    deviation, mean = (each.double() for each in torch.std_mean(x, dim=0, correction=0))
    least = max(1e-6, share * float(deviation.median()))
    return mean, torch.where(deviation > least, deviation, 1.0)


def best_left_out(
    x: Tensor, y: Tensor, penalties: Sequence[float]
) -> tuple[Tensor, Tensor, Tensor]:
    """Return weights and biases of `ridge` with the least squared leave-one-out error,
    and those predictions [N, K].

    The error of a sample is its residual, divided by 1 minus its leverage (Allen,
    1974). Features ``x`` [N, F] are standardised in place; ``y`` is [N, K] float64.
    """
    mean, deviation = standardise(x)
    weight, predictions, _ = least_left_out(
        x, y, penalties, lambda residuals: float(residuals.square().mean())
    )
    weight = weight / deviation[:, None]
    return weight.T, y.mean(dim=0) - mean @ weight, predictions


def least_left_out(
    x: Tensor, y: Tensor, penalties: Sequence[float], loss: Callable[[Tensor], float]
) -> tuple[Tensor, Tensor, float]:
    """Return weights [F, K], leave-one-out predictions [N, K] and their loss for the
    penalty with the least loss.

    Features ``x`` [N, F] have the mean 0; ``loss`` gets the leave-one-out residuals.
    See `best_left_out`.
    """
    basis, values, directions = principal(x)
    centre = y.mean(dim=0)
    best = math.inf
    found = (values, y)
    rotated = basis.T @ (y - centre)
    for penalty in penalties:
        note_progress()
        shrinkage = values / (values + penalty)
        leverage = basis.square() @ shrinkage + 1 / len(x)
        residuals = (y - centre - basis @ (shrinkage[:, None] * rotated)) / (
            1 - leverage
        ).clamp(min=1e-9)[:, None]
        if (error := loss(residuals)) < best:
            best = error
            found = (shrinkage / values.sqrt(), y - residuals)
    return directions @ (found[0][:, None] * rotated), found[1], best


def principal(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return U [N, R], s [R] ascending and V [F, R] with x = U sqrt(s) Vᵀ, U and V
    orthonormal, in float64.

    Directions in which ``x`` [N, F] does not vary are left out, up to one.
    """
    dual = x.shape[0] <= x.shape[1]
    values, vectors = torch.linalg.eigh(_gram(x if dual else x.T))
    kept = values > max(float(values[-1]) * 1e-10, 1e-12)
    kept[-1] = True
    values = values[kept].clamp(min=1e-12)
    vectors = vectors[:, kept]
    others = _product(x if dual else x.T, vectors) / values.sqrt()
    return (vectors, values, others) if dual else (others, values, vectors)


def scaled(trial: Trial, rows: np.ndarray) -> Callable[[Tensor], tuple[float, float]]:
    """Return a function of training samples' logits: the factor, 1/100 to 100, with the
    least loss, and that loss.
    """
    loss = trial.objective.training_loss(trial.data.train.y, trial.device)
    y = torch.from_numpy(np.asarray(trial.data.train.y)[rows]).to(trial.device)

    def best(logits: Tensor) -> tuple[float, float]:
        found = minimize_scalar(
            lambda exponent: float(loss((logits * 10.0**exponent).float(), y)),
            bounds=(-2, 2),
            method="bounded",
        )
        return float(10.0**found.x), float(found.fun)

    return best


def _gram(x: Tensor) -> Tensor:
    """Return x xᵀ in float64, block by block."""
    total = x.new_zeros(len(x), len(x), dtype=torch.float64)
    for block in torch.split(x, _BLOCK, dim=1):
        total += block.double() @ block.double().T
    return total


def _product(x: Tensor, y: Tensor) -> Tensor:
    """Return xᵀ y in float64, block by block."""
    return torch.cat([block.double().T @ y for block in torch.split(x, _BLOCK, dim=1)])
