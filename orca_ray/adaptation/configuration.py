"""One configuration of a method on own data, with the records of its folds."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from orca_ray.methods.recipe import NO_BODY, Recipe
from orca_ray.methods.registry import get_method
from orca_ray.results.record import Record
from orca_ray.sweep.plan.schema import Scalar
from orca_ray.sweep.plan.searches import num_epochs
from orca_ray.sweep.plan.trial_spec import canonical_json

FOLD = "data.fold"
"""Hyper-parameter with the number of the fold that a trial is validated on."""
START = "refine.start"
"""Hyper-parameter with the key of the trial whose model a training starts from."""
EPOCHS = "refine.epochs"
WARMUP_EPOCHS = "refine.warmup_epochs"
ALL = -1
"""Fold number that stands for a training on all samples."""
SCHEDULE = {EPOCHS, WARMUP_EPOCHS}
"""Hyper-parameters that say only how long a training takes."""
LATE_SHARE = 0.5
"""If the best epoch comes after this share of the epochs, more epochs may help.

After half of the epochs, a cosine schedule has used four fifths of the sum of its
learning rates.
"""


@dataclass(eq=False)
class Configuration:
    """One configuration of a method, with the records of its folds."""

    method: str
    values: Mapping[str, Scalar]
    """Hyper-parameters that differ from those of ``first``, without the fold."""
    first: Mapping[str, Scalar] = field(default_factory=dict)
    """Hyper-parameters of the first configuration of the method. Empty if they are not
    known; ``values`` then holds all hyper-parameters.
    """
    records: dict[int, Record] = field(default_factory=dict)
    """Records of the trials that have ended, by fold or `ALL`."""
    running: set[int] = field(default_factory=set)
    """Folds of the trials that run."""
    has_models: bool = True
    """Whether the models of all records are stored, and not only their outputs."""

    @property
    def hyperparameters(self) -> dict[str, Scalar]:
        """All hyper-parameters, without the fold."""
        return {**self.first, **self.values}

    @property
    def identity(self) -> tuple[str, str]:
        """Method, and all hyper-parameters as canonical JSON."""
        return self.method, canonical_json(self.hyperparameters)

    @property
    def recipe(self) -> Recipe:
        """The method's recipe."""
        return get_method(self.method)

    @property
    def name(self) -> str:
        """Method and body, for users."""
        body = next(iter(self.records.values())).body
        if body in ("", NO_BODY):
            return self.method
        return f"{self.method} on {body}"

    @property
    def is_pretrained(self) -> bool:
        """Whether the method adapts a pretrained body."""
        return self.recipe.pretrained and self.recipe.uses_body

    @property
    def has_succeeded(self) -> bool:
        """Whether a trial has ended without a failure."""
        return any(not record.status.failed for record in self.records.values())

    @property
    def is_variant(self) -> bool:
        """Whether more than the schedule differs from the first configuration."""
        return bool(self.values.keys() - SCHEDULE)

    @property
    def has_folds(self) -> bool:
        """Whether the trial of a fold runs or has ended."""
        return bool((self.records.keys() | self.running) - {ALL})

    @property
    def values_without_schedule(self) -> str:
        """`values` without those of the schedule, as canonical JSON."""
        return canonical_json(
            {name: self.values[name] for name in self.values.keys() - SCHEDULE}
        )

    @property
    def trial_keys(self) -> set[str]:
        """Keys of the trials that have ended."""
        return {record.trial_key for record in self.records.values()}

    @property
    def scores(self) -> dict[int, float]:
        """Finite validation scores by fold, of trials that did not fail.

        A training on the samples of all folds has no score.
        """
        scores = dict[int, float]()
        for fold, record in self.records.items():
            score = record.validation_score
            if fold < 0 or record.status.failed or score is None:
                continue
            if math.isfinite(score):
                scores[fold] = score
        return scores

    @property
    def mean_seconds(self) -> float:
        """Mean duration of the trials that have ended."""
        return float(np.mean([record.wall_seconds for record in self.records.values()]))

    @property
    def epochs(self) -> int:
        """Number of refine epochs of a trial."""
        return num_epochs(self.hyperparameters)

    @property
    def usual_epochs(self) -> int:
        """Number of refine epochs of the first configuration of the method."""
        return num_epochs(self.first)

    @property
    def first_record(self) -> Record | None:
        """Record of the lowest fold that has a score; None: no fold has one."""
        scores = self.scores
        return self.records[min(scores)] if scores else None

    @property
    def has_late_best_epoch(self) -> bool:
        """Whether the best epoch of the first fold is in the second half of the epochs.

        Then more epochs may help.
        """
        record = self.first_record
        return record is not None and best_epoch_of(record) > LATE_SHARE * self.epochs

    def lacks(self, fold: int) -> bool:
        """Return whether no trial of a fold has started."""
        return fold not in self.records and fold not in self.running

    def extends(self, other: "Configuration") -> bool:
        """Return whether this configuration is that of ``other`` with more epochs."""
        return (
            self.method == other.method
            and self.epochs > other.epochs
            and self.values == other.values_of_schedule(self.epochs)
        )

    def values_of_schedule(self, epochs: int) -> dict[str, Scalar]:
        """Return `values` as they would be with a schedule of ``epochs``.

        Only values that differ from `first` are returned. With fewer epochs than the
        method's first configuration has, the warm-up is shorter by the same factor.
        """
        values = {**self.hyperparameters, EPOCHS: epochs}
        usual_warmup = float(self.first.get(WARMUP_EPOCHS, 0))
        if usual_warmup > 0:
            values[WARMUP_EPOCHS] = usual_warmup * min(1.0, epochs / self.usual_epochs)
        return changed_values(values, self.first)

    def makes_redundant(self, other: "Configuration") -> bool:
        """Return whether ``other`` made the same networks, but aligned for longer.

        Each trial of ``other`` must have made the same network as the trial of this
        configuration on the same fold.

        ``orca_guarded`` makes the networks of ``nft`` where its guard keeps the
        embedder that is not aligned.
        """
        if not other.records or not other.records.keys() <= self.records.keys():
            return False
        return all(
            _is_same_with_more_alignment(record, self.records[fold])
            for fold, record in other.records.items()
        )


def _is_same_with_more_alignment(record: Record, cheaper: Record) -> bool:
    return (
        record.training_loss is not None
        and record.training_loss == cheaper.training_loss
        and record.validation_score == cheaper.validation_score
        and record.align_seconds > cheaper.align_seconds
    )


def best_epoch_of(record: Record) -> int:
    """Return the best epoch of a trial; 0 if no epoch was validated."""
    return 0 if record.best_epoch is None else record.best_epoch


def changed_values(
    values: Mapping[str, Scalar], first: Mapping[str, Scalar]
) -> dict[str, Scalar]:
    """Return the values that differ from those of ``first``."""
    return {name: value for name, value in values.items() if first.get(name) != value}
