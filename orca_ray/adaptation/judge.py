"""The choice of the model of own data, by the stored outputs of trials.

Out-of-fold predictions decide. The outer test decides nothing.
"""

import math
from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property

from orca_ray.adaptation.candidates import find_candidates, starts_from_another
from orca_ray.adaptation.choice import (
    Choice,
    find_usual,
    mean_choice,
    rank_by_outputs,
    select_ensemble,
)
from orca_ray.adaptation.configuration import Configuration
from orca_ray.adaptation.folds import LEAST_TEST_SAMPLES
from orca_ray.adaptation.intervals import Interval
from orca_ray.adaptation.last_training import FEW_FOLDS
from orca_ray.adaptation.outputs import TrialOutputs
from orca_ray.adaptation.portfolio import kind_of_data, methods_in_order
from orca_ray.data.prepared import PreparedData
from orca_ray.errors import UserError
from orca_ray.results.models import StoredModels
from orca_ray.results.record import Record
from orca_ray.tasks.task import Task


class Judge:
    """Judge of the configurations of one task by their out-of-fold outputs."""

    def __init__(
        self,
        task: Task,
        data: PreparedData,
        records: Sequence[Record],
        models: StoredModels,
    ) -> None:
        """Collect the configurations of completed trials whose outputs are stored.

        Raises UserError if no configuration has a model.
        """
        self.outputs = TrialOutputs(task, data, models)
        self._candidates = find_candidates(records, models)
        if not self._candidates.has_model:
            raise UserError(
                f"no trial of {task.name} has ended with a model: run the same command"
                " again, which continues it, and give more time with --minutes"
            )
        self.final = self._candidates.final
        """Records of trainings on all samples; see `Candidates.final`."""
        configurations = list(self._candidates.configurations.values())
        self.ranked = rank_by_outputs(configurations, self.outputs)
        """The configurations, the best first."""

    @cached_property
    def eligible(self) -> list[Configuration]:
        """The configurations with stored models, in the order in which they are chosen.

        Configurations that others make redundant are left out. The order is that of
        `ranked`, except that a configuration of a more usual method, if it is as good
        and complete, comes first (`find_usual`).
        """
        stored = [each for each in self.ranked if each.has_models]
        remaining = [
            each
            for each in stored
            if not any(other.makes_redundant(each) for other in stored)
        ]
        usual = find_usual(
            remaining[0],
            filter(self.is_complete, remaining[1:]),
            methods_in_order(kind_of_data(self.outputs.task)),
            self.outputs,
        )
        return [usual, *(each for each in remaining if each is not usual)]

    @property
    def leader(self) -> Configuration:
        """The best configuration whose models are stored."""
        return self.eligible[0]

    def last_training(self, configuration: Configuration) -> Record | None:
        """Return the record of the continued training of a configuration.

        None: the training was not continued.
        """
        record = self.final.get(configuration.identity)
        return record if record is not None and starts_from_another(record) else None

    def is_complete(self, configuration: Configuration) -> bool:
        """Return whether a configuration has a model that stands for all samples.

        That is a refit, the mean of `FEW_FOLDS` folds, or a training on all samples.
        """
        return (
            configuration.recipe.refits
            or len(configuration.scores) >= FEW_FOLDS
            or configuration.identity in self.final
        )

    def single(self, configuration: Configuration) -> Choice:
        """Return the choice of one configuration."""
        return mean_choice(self.outputs.out_of_fold(configuration), [configuration])

    def ensemble(self) -> Choice | None:
        """Return an ensemble that is better than the leader; None: there is none.

        Besides the leader, only complete configurations join it.
        """
        others = filter(self.is_complete, self.eligible[1:])
        return select_ensemble([self.leader, *others], self.outputs)

    def held_out(self, choice: Choice) -> Interval | None:
        """Return the score on the outer test of the mean of a choice's folds.

        None if there is no outer test.
        """
        if not self.outputs.num_test:
            return None
        mixed = self.outputs.mean_for_test(choice.parts)
        return self.outputs.on_test(mixed).interval(mixed)

    def expected(self, choice: Choice, outer: Interval | None) -> Interval:
        """Return the score that a chosen model is expected to have on new samples.

        ``outer`` is the result of `held_out`.

        The out-of-fold interval is widened, because folds share training samples
        (Nadeau and Bengio, 2003, "Inference for the generalization error"). It is then
        pooled with ``outer``, if the outer test split is large enough. If a training
        was continued on more samples, the low end is divided by the factor by which
        their number grew.
        """
        num_known = self.outputs.num_known
        num_samples = num_known + self.outputs.num_test
        # Each fold holds out one of so many equal parts of the samples.
        num_parts = num_known / self.outputs.num_held
        if self.outputs.division_size:
            num_parts = self.outputs.division_size
        num_folds = min(choice.judged.num_folds, num_parts)
        # The variance grows by the ratio of validation to training samples.
        score = choice.score.widened(math.sqrt(1 + num_folds / (num_parts - 1)))
        if outer is not None and self.outputs.num_test >= LEAST_TEST_SAMPLES:
            score = score.pooled(outer)
        if any(self.last_training(configuration) for configuration, _ in choice.parts):
            # Samples of a fold's training, as a share of all samples.
            share = (1 - 1 / num_parts) * num_known / num_samples
            score = replace(score, low=share * score.low)
        return score
