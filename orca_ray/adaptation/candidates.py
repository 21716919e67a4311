"""The configurations that a model of own data is chosen from.

A model from a continued training belongs to the configuration that it started from.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from orca_ray.adaptation.configuration import (
    ALL,
    FOLD,
    START,
    Configuration,
)
from orca_ray.adaptation.last_training import FEW_FOLDS
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

    configurations: dict[Identity, Configuration]
    """Configurations whose outputs are stored, with the records of their folds."""
    final: dict[Identity, Record] = field(default_factory=dict)
    """Records of trainings on all samples, by configuration.

    A training that continued that of a model belongs to the model's configuration.
    """

    @property
    def has_model(self) -> bool:
        """Whether the models of all folds of some configuration are stored."""
        return any(each.has_models for each in self.configurations.values())


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
        return str(start) if start else None


def find_candidates(records: Sequence[Record], models: StoredModels) -> Candidates:
    """Return the configurations of completed trials whose outputs are stored."""
    candidates = Candidates({})
    trials = [
        _read_trial(record)
        for record in records
        if record.status is Status.COMPLETED and record.validation_score is not None
    ]
    for trial in trials:
        if trial.fold == ALL and trial.start is None:
            candidates.final[trial.identity] = trial.record
        elif trial.fold >= 0:
            _add_fold(trial, candidates, models.names(trial.record.trial_key))
    by_key = {trial.record.trial_key: trial for trial in trials}
    for trial in trials:
        if trial.fold == ALL and trial.start in by_key:
            _add_continued_training(trial, by_key[trial.start], candidates)
    return candidates


def _add_fold(trial: _Trial, candidates: Candidates, file_names: Sequence[str]) -> None:
    """Add the trial of a fold to its configuration, if its outputs are stored."""
    if OUTPUTS not in file_names:
        return
    configuration = candidates.configurations.setdefault(
        trial.identity, Configuration(trial.record.method, trial.values)
    )
    configuration.records[trial.fold] = trial.record
    if CONFIG not in file_names:
        configuration.has_models = False


def _read_trial(record: Record) -> _Trial:
    values = dict(json.loads(record.hyperparameters))
    fold = int(values.pop(FOLD, 0))
    return _Trial(record, fold, values)


def _add_continued_training(
    trial: _Trial, origin: _Trial, candidates: Candidates
) -> None:
    """Add a continued training to the configuration whose model it started from.

    It is left out if that configuration has `FEW_FOLDS` folds, because the mean of the
    folds' models is used then.
    """
    configuration = candidates.configurations.get(origin.identity)
    if configuration is not None and len(configuration.records) < FEW_FOLDS:
        candidates.final[origin.identity] = trial.record


def score_of(record: Record) -> float:
    """Return the validation score of a completed trial."""
    return 0.0 if record.validation_score is None else record.validation_score


def starts_from_another(record: Record) -> bool:
    """Return whether a trial continued the training of another trial's model."""
    return START in json.loads(record.hyperparameters)
