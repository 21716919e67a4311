"""The last training of a search, on all samples.

The search holds out folds to compare configurations. Methods that can be fitted within
seconds are fitted to all samples at the end (`refits`). A network takes longer.
Therefore its training is continued: from the model of its first fold, on all samples.

Where a network has `FEW_FOLDS` folds, the mean of their models is used instead.
"""

from dataclasses import dataclass

from orca_ray.adaptation.configuration import START, Configuration
from orca_ray.adaptation.situation import Situation

RATE = "refine.learning_rate"
FEW_FOLDS = 3
"""Number of folds from which the mean of their models stands for a configuration.

Each of the models has seen other samples, so that together they have seen all of them.
"""
RATE_FACTOR = 0.5
"""Factor of the learning rate: a part of the decreasing schedule is over."""
MOST_EPOCHS = 2.0
"""Largest number of epochs of a last training, relative to the epochs before."""
SAFETY = 1.25
"""Factor of the expected duration of a trial. The product must fit into the remaining
time.
"""


@dataclass(frozen=True)
class LastTraining:
    """A configuration whose training may be continued on all samples."""

    origin: Configuration
    seconds_per_epoch: float
    """Expected seconds of an epoch over all samples, times `SAFETY`."""

    @property
    def seconds_kept(self) -> float:
        """Seconds that other trials leave for this training."""
        return self.seconds_per_epoch * self.origin.epochs

    def in_time(self, seconds: float) -> Configuration | None:
        """Return the training that fits into so many seconds; None: no epoch does."""
        epochs = int(
            min(seconds / self.seconds_per_epoch, MOST_EPOCHS * self.origin.epochs)
        )
        if epochs < 1:
            return None
        origin = self.origin
        values = origin.values_of_schedule(epochs)
        values[START] = origin.records[min(origin.scores)].trial_key
        values[RATE] = RATE_FACTOR * float(origin.hyperparameters[RATE])
        return Configuration(origin.method, values, origin.first)


def find_last_training(
    configuration: Configuration, situation: Situation
) -> LastTraining | None:
    """Return the last training of a configuration.

    None for a method that is fitted within seconds or that aligns, for a configuration
    with `FEW_FOLDS` folds, and if the training was continued before.
    """
    recipe = configuration.recipe
    if recipe.refits or recipe.fitted or recipe.aligns:
        return None
    if RATE not in configuration.first or len(configuration.scores) >= FEW_FOLDS:
        return None
    starts = {each.values.get(START) for each in situation.configurations}
    if starts & configuration.trial_keys:
        return None
    seconds = SAFETY * situation.folds.growth * situation.seconds(configuration)
    return LastTraining(configuration, seconds / configuration.epochs)
