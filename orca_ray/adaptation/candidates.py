"""The configurations that a model of own data is chosen from.

A model from a continued training belongs to the configuration that it started from.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from orca_ray.adaptation.configuration import (
    ALL,
    ALL_BUT_TEST,
    FOLD,
    START,
    Configuration,
)
from orca_ray.adaptation.last_training import FEW_FOLDS
from orca_ray.adaptation.levels import pessimistic_levels
from orca_ray.methods.model_folder import CONFIG
from orca_ray.results.models import StoredModels
from orca_ray.results.record import Record, Status
from orca_ray.sweep.plan.schema import Scalar
from orca_ray.sweep.worker.models import OUTPUTS

Identity = tuple[str, str]
"""Method and hyper-parameters of a configuration; see `Configuration.identity`."""


@dataclass(frozen=True)
class Candidates:
    """The completed trials of a task, by configuration."""

    configurations: Mapping[Identity, Configuration]
    """Configurations whose outputs are stored, with the records of their folds."""
    final: dict[Identity, Record] = field(default_factory=dict)
    """Records of trainings on all samples, or on all but the outer test.

    The key is the configuration whose model such a training started from, which may
    itself be a training on all but the outer test. A training that started from no
    model has its own configuration as its key.
    """
    identities: dict[str, Identity] = field(default_factory=dict)
    """Configuration of each completed trial, by trial key."""

    @property
    def has_model(self) -> bool:
        """Whether the models of all folds of some configuration are stored."""
        return any(each.has_models for each in self.configurations.values())

    def final_of(self, configuration: Configuration) -> Record | None:
        """Return the record of the training that started from a configuration.

        None if there is no such training.
        """
        return self.final.get(configuration.identity)


@dataclass(frozen=True)
class _Trial:
    """A completed trial, with its hyper-parameters."""

    record: Record
    fold: int
    values: Mapping[str, Scalar]
    """Hyper-parameters without the fold."""

    @property
    def identity(self) -> Identity:
        return Configuration(self.record.method, self.values).identity

    @property
    def start(self) -> str | None:
        """Key of the trial whose model this trial continued to train.

        None if this trial started from no model.
        """
        start = self.values.get(START)
        return str(start) if self.fold < 0 and start else None


def find_candidates(records: Sequence[Record], models: StoredModels) -> Candidates:
    """Return the configurations of completed trials whose outputs are stored."""
    configurations = dict[Identity, Configuration]()
    candidates = Candidates(configurations)
    continued = list[_Trial]()
    for record in records:
        if record.status is not Status.COMPLETED or record.validation_score is None:
            continue
        trial = _read_trial(record)
        identity = trial.identity
        candidates.identities[record.trial_key] = identity
        file_names = models.names(record.trial_key)
        has_outputs = OUTPUTS in file_names
        if trial.fold == ALL_BUT_TEST and not has_outputs:
            continue
        if trial.start is not None:
            continued.append(trial)
        elif trial.fold == ALL:
            candidates.final[identity] = record
        elif has_outputs:
            configuration = configurations.setdefault(
                identity, Configuration(record.method, trial.values)
            )
            configuration.records[trial.fold] = record
            if CONFIG not in file_names:
                configuration.has_models = False
    # These come last: the trial that they continue may be later in ``records``.
    for trial in continued:
        _add_continued_training(trial, candidates)
    return candidates


def _read_trial(record: Record) -> _Trial:
    values = dict(json.loads(record.hyperparameters))
    fold = int(values.pop(FOLD, 0))
    return _Trial(record, fold, values)


def _add_continued_training(trial: _Trial, candidates: Candidates) -> None:
    """Add a continued training to the configuration whose model it started from.

    A training on all samples is left out if that configuration has `FEW_FOLDS` folds,
    because the mean of the folds' models is used then.
    """
    origin = candidates.identities.get(trial.start or "")
    if origin is None:
        return
    configuration = candidates.configurations.get(origin)
    num_folds = 0 if configuration is None else len(configuration.records)
    if trial.fold == ALL_BUT_TEST or num_folds < FEW_FOLDS:
        candidates.final[origin] = trial.record


def rank_candidates(
    configurations: Sequence[Configuration], *, half_error: float
) -> list[Configuration]:
    """Return configurations in the order of `pessimistic_levels`, the best first.

    ``half_error`` is added to each score, because a fold without an error does not
    prove that a configuration makes none.
    """
    scores = [
        {
            fold: half_error + score_of(record)
            for fold, record in configuration.records.items()
        }
        for configuration in configurations
    ]
    order = np.argsort(pessimistic_levels(scores), kind="stable")
    return [configurations[number] for number in order]


def score_of(record: Record) -> float:
    """Return the validation score of a completed trial."""
    return 0.0 if record.validation_score is None else record.validation_score


def starts_from_another(record: Record) -> bool:
    """Return whether a trial continued the training of another trial's model."""
    return START in json.loads(record.hyperparameters)


def leaves_out_test(record: Record) -> bool:
    """Return whether a trial trained on all samples but the outer test."""
    return bool(json.loads(record.hyperparameters).get(FOLD) == ALL_BUT_TEST)
