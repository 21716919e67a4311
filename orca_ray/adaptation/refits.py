"""Refits: trainings on all samples at the end of an adaptation.

They are for methods that can be fitted again within seconds.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from statistics import median

from orca_ray.adaptation.candidates import Identity, score_of
from orca_ray.adaptation.configuration import EPOCHS, Configuration, best_epoch_of
from orca_ray.adaptation.folds import Folds
from orca_ray.adaptation.judge import Judge
from orca_ray.methods.registry import get_method
from orca_ray.results.record import Record
from orca_ray.sweep.plan.schema import Scalar
from orca_ray.sweep.plan.trial_spec import canonical_json

COPIES = "boosting.copies"
ROUNDS = "boosting.rounds"
LEAST_OVERRUN = 10.0
"""Seconds that all refits together may always take."""
MOST_OVERRUN = 0.1
"""Share of the time of the adaptation that all refits together may take."""
MOST_COPIES = 5
"""Largest number of copies of boosted trees, fitted to all samples with different
seeds, whose mean is the model.
"""
MOST_TREES = 20_000
"""Largest number of trees of all copies together."""


@dataclass
class Refits:
    """Refits of one adaptation, and the models that stand for its configurations."""

    judge: Judge
    run_final: Callable[[Identity], Judge]
    """Function that trains a method with given hyper-parameters on all samples, and
    returns a new judge that has the record of that training.
    """
    seconds: float
    """Seconds of the whole adaptation."""
    is_single: bool = False
    """Whether the model must be one network."""
    has_limits: bool = False
    """Whether size or latency of the model is limited."""
    seconds_of_refits: float = field(default=0.0, init=False)
    """Expected duration of all refits that have run."""

    def records_of(self, configuration: Configuration) -> list[Record]:
        """Return the records of the models that stand for a configuration.

        That is the model that was trained on all samples, else the models of the folds.
        If the model must be one network, it is only the fold with the median score.
        """
        last = self.judge.last_training(configuration)
        if last is None and get_method(configuration.method).refits:
            last = self._refit(configuration)
        if last is not None:
            return [last]
        records = sorted(configuration.records.values(), key=score_of)
        return [records[len(records) // 2]] if self.is_single else records

    def _refit(self, configuration: Configuration) -> Record | None:
        """Train a configuration on all samples, and return the record.

        It is not trained again if there is such a record. None if the time is not
        enough.

        The number of epochs is the median of the best epochs of the folds. Boosted
        trees are trained in several copies.
        """
        most_seconds = max(LEAST_OVERRUN, MOST_OVERRUN * self.seconds)
        growth = Folds.of_data(self.judge.outputs.data).growth
        seconds = growth * configuration.mean_seconds
        values: dict[str, Scalar] = configuration.hyperparameters
        if EPOCHS in values:
            records = configuration.records.values()
            epochs = round(median(_best_number_of_epochs(each) for each in records))
            values[EPOCHS] = epochs
            if configuration.recipe.fitted:  # else an epoch takes next to nothing
                seconds *= epochs / median(record.epochs for record in records)
            # All copies together may take half of the time.
            copies = self._num_copies(values, epochs, most_seconds / 2 / seconds)
            if copies > 1:
                values[COPIES] = copies
                seconds = copies * seconds
        identity = (configuration.method, canonical_json(values))
        # The limit holds for all trainings on all samples together.
        seconds += self.seconds_of_refits
        if identity not in self.judge.final and seconds <= most_seconds:
            self.seconds_of_refits = seconds
            self.judge.final.update(self.run_final(identity).final)
        return self.judge.final.get(identity)

    def _num_copies(
        self, values: dict[str, Scalar], epochs: int, most_copies: float
    ) -> int:
        """Return the number of copies of boosted trees to train for ``epochs``.

        The number is 1 for other methods, for a model that must be one network, and for
        a model of limited size or latency. ``most_copies``: number of copies that fit
        into half of the time.
        """
        if self.is_single or self.has_limits or ROUNDS not in values:
            return 1
        num_outputs = self.judge.outputs.task.target.num_outputs
        num_trees = epochs * float(values[ROUNDS]) * num_outputs
        return int(min(MOST_COPIES, MOST_TREES / num_trees, most_copies))


def _best_number_of_epochs(record: Record) -> int:
    """Return the best epoch of a trial; all its epochs if no epoch was validated."""
    best_epoch = best_epoch_of(record)
    return best_epoch if best_epoch > 0 else record.epochs
