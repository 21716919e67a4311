"""The choice of the model of own data, by the stored outputs of trials.

Out-of-fold predictions decide. The outer test decides only between a network whose
training was continued (see `Judge.leader`), the best of all other configurations, and
the mean of both.
"""

import math
import operator
from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property

import numpy as np

from orca_ray.adaptation.candidates import (
    find_candidates,
    leaves_out_test,
    rank_candidates,
    starts_from_another,
)
from orca_ray.adaptation.choice import Choice, calibrate, is_better, mean_choice
from orca_ray.adaptation.configuration import Configuration
from orca_ray.adaptation.ensemble import select_ensemble
from orca_ray.adaptation.folds import LEAST_TEST_SAMPLES
from orca_ray.adaptation.intervals import Interval
from orca_ray.adaptation.outputs import TrialOutputs
from orca_ray.adaptation.ties import find_leaders, has_few_samples, usual_methods
from orca_ray.data.prepared import PreparedData
from orca_ray.errors import UserError
from orca_ray.results.models import StoredModels
from orca_ray.results.record import Record
from orca_ray.tasks.task import Task

LEVEL_OF_WORSE = 0.5
"""Level of the two-sided interval of a difference of errors.

Its lower end is above zero if the difference is positive in three of four resamples.
"""


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
        """Records of trainings on all samples, or on all but the outer test; see
        `Candidates.final`.
        """
        # Half of one error on the validation samples of a fold (see `rank_candidates`).
        half_error = 0.5 / self.outputs.num_held if task.metric == "error" else 0.0
        configurations = list(self._candidates.configurations.values())
        self.ranked = rank_candidates(configurations, half_error=half_error)
        """The configurations, the best first."""
        self.network = next(
            (each for each in self.ranked if self.outer_record(each)), None
        )
        """The configuration whose training was continued on all samples but the outer
        test; None: there is no such configuration.
        """
        self._eligible = self._find_eligible()
        self._leaders = find_leaders(self._eligible, self.outputs)

    def _find_eligible(self) -> list[Configuration]:
        """Return the configurations with stored models, the best first.

        `network` and configurations that others make redundant are left out.
        """
        stored = [each for each in self.ranked if each.has_models]
        return [
            each
            for each in stored
            if each is not self.network
            and not any(other.makes_redundant(each) for other in stored)
        ]

    def outer_record(self, configuration: Configuration) -> Record | None:
        """Return the record of the training on all samples but the outer test.

        The outer test judges that training. None: there was no such training.
        """
        record = self._candidates.final_of(configuration)
        if record is None or not leaves_out_test(record):
            return None
        return record

    def last_training(self, configuration: Configuration) -> Record | None:
        """Return the record of the last continued training of a configuration.

        The last one is not used if it has a worse score on the outer test than the
        training before it. None: the training was not continued.
        """
        before_test = self.outer_record(configuration)
        if before_test is None:
            last = self._candidates.final_of(configuration)
            return last if last is not None and starts_from_another(last) else None
        identity = self._candidates.identities[before_test.trial_key]
        last = self.final.get(identity)
        if last is None:
            return before_test
        before = self.outputs.of(before_test, "test")
        judged = self.outputs.on_test(before)
        # The last training used the test samples: a worse score on them is a failure.
        score = judged.score(self.outputs.of(last, "test"))
        return last if score <= judged.score(before) else before_test

    @cached_property
    def leader(self) -> Configuration:
        """The best configuration whose models are stored.

        If there is a `network`, it is the leader, because the search gave the time to
        it, unless the best of all other configurations is measurably better on the
        outer test.
        """
        if self.network is None:
            return self._leaders[0]
        if not self._leaders:
            return self.network
        best = self._leaders[0]
        best_outputs = self.outputs.mean_for_test(self.single(best).parts)
        network_outputs = self.single(self.network).predictions
        judged = self.outputs.on_test()
        is_measurably_better = is_better(judged, best_outputs, network_outputs)
        return best if is_measurably_better else self.network

    def single(self, configuration: Configuration) -> Choice:
        """Return the choice of one configuration."""
        parts = [(configuration, 1.0)]
        record = self.outer_record(configuration)
        if record is None:
            judged = self.outputs.out_of_fold(configuration)
            return calibrate(judged, parts, judged.predictions[0])
        predictions = self.outputs.of(record, "test")
        judged = self.outputs.on_test(predictions)
        score = judged.interval(predictions)
        return Choice(parts, score, judged, predictions, outer=True)

    def ensemble(self) -> Choice | None:
        """Return an ensemble that is better than the leader; None: there is none.

        Without a `network`, the ensemble must be better in nine of ten resamples (see
        `is_better`). With few samples, configurations that tie with the leader are
        averaged if no ensemble is better; but if the leader's method is usual for the
        kind of data, the leader stays alone (see `ties`).

        With a `network`, the outer test decides, because the only fold of the network
        says too little. The ensemble is the mean of the network and of the best choice
        from all other configurations. It is returned if its log loss is lower than that
        of the leader, unless its error is higher in three of four resamples.
        """
        others = self._ensemble_of_others() if self._leaders else None
        if self.network is None or not self._leaders:
            return others
        beside = others if others is not None else self.single(self._leaders[0])
        mean = self._mean_with_network(self.network, beside)
        if mean is not None:
            return mean
        return None if self.network is self.leader else others

    def _mean_with_network(
        self, network: Configuration, beside: Choice
    ) -> Choice | None:
        """Return the mean of ``network`` and ``beside``.

        None if the mean is not better than the leader on the outer test.
        """
        network_outputs = self.single(network).predictions
        beside_outputs = self.outputs.mean_for_test(beside.parts)
        if network is self.leader:
            best_outputs = network_outputs
            temperature = 1.0
        else:
            best_outputs = beside_outputs
            temperature = beside.temperature
        judged = self.outputs.on_test()
        mixed = np.mean([network_outputs, beside_outputs], axis=0)
        excess = judged.interval(
            mixed, best_outputs, of=operator.sub, level=LEVEL_OF_WORSE
        )
        best_log_loss = judged.log_loss(best_outputs, temperature=temperature)
        if excess.low > 0 or judged.log_loss(mixed) >= best_log_loss:
            return None
        halves = [(configuration, weight / 2) for configuration, weight in beside.parts]
        parts = [(network, 0.5), *halves]
        return Choice(parts, judged.interval(mixed), judged, mixed, outer=True)

    def _ensemble_of_others(self) -> Choice | None:
        """Return the ensemble of all configurations but `network`.

        None if the best of these configurations is as good.
        """
        leader = self._leaders[0]
        few_samples = has_few_samples(self.outputs)
        if few_samples and leader.method in usual_methods(self.outputs):
            return None
        others = [each for each in self._eligible if each is not leader]
        selected = select_ensemble(leader, others, self.outputs)
        if selected is not None or len(self._leaders) < 2:
            return selected
        judged = self.outputs.out_of_fold(*self._leaders)
        return mean_choice(judged, self._leaders)

    def held_out(self, choice: Choice) -> Interval | None:
        """Return the score on the outer test of the mean of a choice's folds.

        None if there is no outer test.
        """
        if not self.outputs.num_test:
            return None
        if choice.outer:
            return choice.score
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
        if choice.outer:
            last = self.last_training(choice.first)
            if last == self.outer_record(choice.first):
                return choice.score
            return replace(choice.score, low=choice.score.low * num_known / num_samples)
        # Each fold holds out one of so many equal parts of the samples.
        num_parts = num_known / self.outputs.num_held
        if self.outputs.division_size:
            num_parts = self.outputs.division_size
        num_folds = min(choice.judged.num_folds, num_parts)
        # The variance grows by the ratio of validation to training samples.
        score = choice.score.widened(math.sqrt(1 + num_folds / (num_parts - 1)))
        if outer is not None and self.outputs.num_test >= LEAST_TEST_SAMPLES:
            score = score.pooled(outer)
        if any(
            self._has_continued_training(configuration)
            for configuration, _ in choice.parts
        ):
            # Samples of a fold's training, as a share of all samples.
            share = (1 - 1 / num_parts) * num_known / num_samples
            score = replace(score, low=share * score.low)
        return score

    def _has_continued_training(self, configuration: Configuration) -> bool:
        """Return whether the training of a configuration's model was continued."""
        record = self._candidates.final_of(configuration)
        return record is not None and starts_from_another(record)
