"""Base of the last stage of methods that fit their model without gradients.

Such methods fit in closed form, or grow trees.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import replace
from time import perf_counter
from typing import Any

import numpy as np
from torch import Tensor

from orca_ray.data.prepared import Split
from orca_ray.methods.reports import EpochProgress, Outcome, join_notes
from orca_ray.methods.stages.trial import Trial
from orca_ray.training.evaluate import (
    BATCH_SIZE,
    SplitInputs,
    log_loss,
    predict,
    score,
)
from orca_ray.training.numerics import Precision


class FittedStage(ABC):
    """Base of last stages that fit without gradients; a subclass defines `fit`.

    Each epoch is validated. The last epoch loads the best weights and, if `Trial.test`,
    tests them. Epochs, scores and state mean the same as in a `RefineStage`.
    """

    name = "refine"
    parallel = False
    batch_size = BATCH_SIZE
    """Number of samples in a forward pass of the evaluation."""

    def __init__(self, trial: Trial, epochs: int = 1, patience: int = 0) -> None:
        """Plan ``epochs`` epochs, and fewer if the validation score stops improving.

        The stage ends after ``patience`` epochs without a better score; 0: no limit.
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
        self._fit_seconds = 0.0
        """Duration of fitting in the last step."""
        self._evaluate_seconds = 0.0
        """Duration of all else in the last step."""

    @abstractmethod
    def fit(self, epoch: int) -> float | None:
        """Fit the model in ``epoch`` (0, 1, ...); return the mean training loss.

        The loss is None if it is not computed.
        """

    @property
    def done(self) -> bool:
        """Whether all epochs have run, or ``patience`` epochs since the best one."""
        is_complete = self._epoch >= self._epochs
        return is_complete or self._epoch - self._best_epoch >= self._patience

    def step(self) -> EpochProgress:
        """Run one epoch and return its report.

        Raises NotFiniteError if a prediction or score is NaN or infinite.
        """
        trial = self._trial
        started = perf_counter()
        trial.model.eval()
        loss = self.fit(self._epoch)
        fit_end = perf_counter()
        validation_score = self._validate()
        seconds = perf_counter() - started
        if self.done:
            trial.model.load_state_dict(self._best)
            if trial.test:
                self._test_score, predictions = self._evaluate(trial.data.test)
                trial.artefacts.after_test(predictions)
        self._fit_seconds = fit_end - started
        self._evaluate_seconds = perf_counter() - fit_end
        return EpochProgress(
            stage=self.name,
            epoch=self._epoch,
            epochs=self._epochs,
            loss=loss,
            validation_score=validation_score,
            seconds=seconds,
        )

    def _validate(self) -> float:
        """Return the validation score of an epoch, and keep the weights of the best
        one.

        The best epoch has the lowest score or, if `Trial.by_log_loss`, the lowest log
        loss.
        """
        trial = self._trial
        validation = trial.data.validation
        validation_score, predictions = self._evaluate(validation)
        decisive = validation_score
        if trial.by_log_loss:
            decisive = log_loss(
                predictions, validation.y, trial.objective, validation.group
            )
        self._epoch += 1
        if decisive < self._least:
            self._least = decisive
            self._best_epoch = self._epoch
            self._best_score = validation_score
            self._best = self._weights()
        return validation_score

    def add_to(self, outcome: Outcome) -> Outcome:
        """Return a copy of ``outcome`` with the best epoch and any test score.

        The duration of the last step is added. If the body has fitted values that are
        no parameters (``num_values``), they count as parameters.
        """
        num_fitted = getattr(self._trial.model.body, "num_values", 0)
        return replace(
            outcome,
            num_parameters=num_fitted or outcome.num_parameters,
            num_trainable=num_fitted or outcome.num_trainable,
            validation_score=self._best_score,
            best_epoch=self._best_epoch,
            epochs=self._epoch,
            test_score=self._test_score,
            precision=self._precision.name,
            refine_seconds=outcome.refine_seconds + self._fit_seconds,
            evaluate_seconds=outcome.evaluate_seconds + self._evaluate_seconds,
            notes=join_notes(outcome.notes, self._trial.artefacts.notes),
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
        """Restore the ``state`` of an interrupted stage, to continue from it."""
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
