"""The refine stage of one trial: training, choice of the best epoch, and the test."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, replace
from time import perf_counter
from typing import Any

from torch.nn import Parameter

from orca_ray.methods.reports import EpochProgress, Outcome, join_notes
from orca_ray.methods.stages.trial import Trial
from orca_ray.models.crossmodal import CrossModalModel
from orca_ray.training.config import RefineConfig
from orca_ray.training.evaluate import score
from orca_ray.training.gradient_accumulation import BatchTerm, StepTerm
from orca_ray.training.refine import RefineEpoch, RefineLoop


class RefineStage:
    """Stage that trains by gradients.

    If ``final``, it ends with the best weights and, if `Trial.test`, with a test.
    """

    parallel = True

    def __init__(
        self,
        trial: Trial,
        *,
        name: str = "refine",
        parameters: Callable[[CrossModalModel], Iterable[Parameter]] | None = None,
        config: RefineConfig | None = None,
        batch_term: BatchTerm | None = None,
        step_term: StepTerm | None = None,
        final: bool = True,
    ) -> None:
        """Plan the stage.

        Args:
            trial, name: the trial that the stage belongs to, and the stage's name in
                reports.
            parameters: returns the parameters to train; None: `Trial.trainable`.
            config: options; None: those of the trial.
            batch_term, step_term: losses that are added to the task's loss.
            final: whether the trial ends with this stage. If not, the model keeps the
                weights of the last epoch, and the validation scores are reported but do
                not count in the outcome.
        """
        self.name = name
        self._trial = trial
        self._final = final
        self._choose = parameters or trial.trainable
        self._config = config or trial.hyperparameters.refine
        self._terms = batch_term, step_term
        self._loop: RefineLoop | None = None
        self._test_seconds = 0.0
        self._test_score: float | None = None
        self._epoch: RefineEpoch | None = None

    @property
    def done(self) -> bool:
        """Whether all epochs have run."""
        return self._loop is not None and self._loop.done

    def step(self) -> EpochProgress:
        """Run one epoch, and return its report.

        The last epoch of a final stage also loads the best weights and, if the trial
        tests, tests them.
        """
        if self._loop is None:
            self._loop = self._make()
        loop = self._loop
        epoch = loop.step()
        self._epoch = epoch
        if loop.done and self._final:
            self._finish(loop)
        return EpochProgress(
            stage=self.name,
            epoch=epoch.epoch,
            epochs=self._config.epochs,
            loss=epoch.loss,
            validation_score=epoch.validation_score,
            learning_rate=epoch.learning_rate,
            seconds=epoch.seconds,
        )

    def add_to(self, outcome: Outcome) -> Outcome:
        """Return a copy of ``outcome`` with the last epoch's seconds added.

        A final stage also adds the best epoch and any test score.
        """
        loop = self._loop
        epoch = self._epoch
        assert loop is not None
        assert epoch is not None
        notes = join_notes(outcome.notes, [*loop.notes, *self._trial.artefacts.notes])
        if not self._final:
            return replace(
                outcome,
                align_seconds=outcome.align_seconds + epoch.seconds,
                notes=notes,
            )
        training_seconds = epoch.seconds - epoch.validation_seconds
        evaluation_seconds = epoch.validation_seconds + self._test_seconds
        return replace(
            outcome,
            **asdict(loop.throughput()),
            notes=notes,
            validation_score=loop.best_score,
            best_epoch=loop.best_epoch,
            epochs=epoch.epoch,
            training_loss=epoch.loss,
            refine_seconds=outcome.refine_seconds + training_seconds,
            evaluate_seconds=outcome.evaluate_seconds + evaluation_seconds,
            precision=loop.precision.name,
            micro_batch=loop.micro_batch,
            test_score=self._test_score,
        )

    def state_dict(self) -> Mapping[str, Any] | None:
        """Return the state for `load_state_dict`; None before the first step."""
        return self._loop.state_dict() if self._loop else None

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore the ``state`` of an interrupted stage, to continue from it."""
        self._loop = self._make()
        self._loop.load_state_dict(dict(state))

    def _finish(self, loop: RefineLoop) -> None:
        """Load the best weights and, if the trial tests, compute the test score."""
        started = perf_counter()
        loop.restore_best()
        if not self._trial.test:
            return
        test = self._trial.data.test
        predictions = loop.predict(test)
        self._test_score = score(predictions, test.y, self._trial.objective, test.group)
        self._test_seconds = perf_counter() - started
        self._trial.artefacts.after_test(predictions)

    def _make(self) -> RefineLoop:
        """Return the loop that trains."""
        trial = self._trial
        batch_term, step_term = self._terms
        return RefineLoop(
            trial.model,
            self._choose(trial.model),
            trial.data.train,
            trial.data.validation,
            trial.objective,
            self._config,
            seed=trial.seed,
            device=trial.device,
            augmentation=trial.augmentation,
            batch_term=batch_term,
            step_term=step_term,
            on_step=trial.on_step,
            ranks=trial.ranks,
            by_log_loss=trial.by_log_loss,
        )
