"""Trainings on all samples, at the end of an adaptation.

Configurations of some methods can be fitted again within seconds.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from statistics import median

from orca_ray.adaptation.candidates import Identity, score_of
from orca_ray.adaptation.configuration import EPOCHS, Configuration, best_epoch_of
from orca_ray.adaptation.judge import Judge
from orca_ray.methods.registry import get_method
from orca_ray.results.record import Record
from orca_ray.sweep.plan.schema import Scalar
from orca_ray.sweep.plan.trial_spec import canonical_json

COPIES = "boosting.copies"
ROUNDS = "boosting.rounds"
LEAST_OVERRUN = 10.0
"""Seconds in which configurations may be fitted again to all samples, at the end, in
any case.
"""
MOST_OVERRUN = 0.1
"""The same as a share of all time."""
MOST_COPIES = 5
"""Number of boosted trees of all samples whose mean is a model, if nothing limits its
size, and if they take at most half of the time for fitting again.
"""
MOST_TREES = 20_000
"""Largest number of trees of all copies together."""
GROWTH = 1.5
"""Factor of the duration: all samples are more than those of a fold."""


@dataclass
class Refits:
    """The models that stand for configurations.

    For each configuration, that is one model of all samples, or those of the folds.
    """

    judge: Judge
    run_final: Callable[[Identity], Judge]
    """Function that runs the training on all samples of a method with some
    hyper-parameters, and returns a judge of the store after it.
    """
    seconds: float
    """Seconds of the whole adaptation."""
    is_single: bool = False
    """Whether the model must be one network."""
    has_limits: bool = False
    """Whether size or latency of the model is limited."""
    seconds_of_refits: float = field(default=0.0, init=False)
    """Expected duration of the trainings that have run."""

    def records_of(self, configuration: Configuration) -> list[Record]:
        """Return the records of the models that stand for a configuration.

        That is the model of all samples, or those of the folds.

        If the model must be one network, only that of the fold with the median score.
        """
        last = self.judge.trained(configuration)
        if last is None and get_method(configuration.method).refits:
            last = self._refit(configuration)
        if last is not None:
            return [last]
        records = sorted(configuration.records.values(), key=score_of)
        return [records[len(records) // 2]] if self.is_single else records

    def _refit(self, configuration: Configuration) -> Record | None:
        """Return the record of a configuration's training on all samples.

        The training runs first if the time is enough; None: it is not enough.

        The training has the median of the numbers of epochs that the folds chose, and
        several copies of boosted trees.
        """
        most_seconds = max(LEAST_OVERRUN, MOST_OVERRUN * self.seconds)
        seconds = GROWTH * configuration.mean_seconds
        values: dict[str, Scalar] = configuration.hyperparameters
        if EPOCHS in values:
            records = configuration.records.values()
            epochs = round(median(_chosen_epochs(record) for record in records))
            values[EPOCHS] = epochs
            if configuration.recipe.fitted:  # else an epoch takes next to nothing
                seconds *= epochs / median(record.epochs for record in records)
            copies = self._num_copies(values, epochs, most_seconds / 2 / seconds)
            if copies > 1:
                values[COPIES] = copies
                seconds = copies * seconds
        identity = (configuration.method, canonical_json(values))
        seconds += self.seconds_of_refits
        if identity not in self.judge.final and seconds <= most_seconds:
            self.seconds_of_refits = seconds
            self.judge.final.update(self.run_final(identity).final)
        return self.judge.final.get(identity)

    def _num_copies(
        self, values: dict[str, Scalar], epochs: int, most_copies: float
    ) -> int:
        """Return the number of copies of boosted trees of ``epochs`` rounds.

        1 for other methods, or if the model is limited.
        """
        if self.is_single or self.has_limits or ROUNDS not in values:
            return 1
        num_outputs = self.judge.outputs.task.target.num_outputs
        num_trees = epochs * float(values[ROUNDS]) * num_outputs
        return int(min(MOST_COPIES, MOST_TREES / num_trees, most_copies))


def _chosen_epochs(record: Record) -> int:
    """Return the number of epochs that the validation data of a fold chose."""
    best_epoch = best_epoch_of(record)
    return best_epoch if best_epoch > 0 else record.epochs
