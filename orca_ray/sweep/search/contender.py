"""One configuration in the race of own data (see `race`): its hyper-parameters, and the
records of its folds.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from orca_ray.results.record import Record
from orca_ray.sweep.plan.schema import Scalar
from orca_ray.sweep.plan.searches import SearchPlan, num_epochs
from orca_ray.sweep.plan.trial_spec import TrialSpec

FOLD = "data.fold"
START = "refine.start"
ALL = -1
ALL_BUT_TEST = -2
"""Numbers in the place of a fold: of a training on all samples, and on all but those of
the outer test.
"""
SCHEDULE = {"refine.epochs", "refine.warmup_epochs"}


@dataclass
class Contender:
    """One configuration in a race, with the validation scores of its folds."""

    plan: SearchPlan
    """Plan of the method; each method of the race has one object."""
    values: Mapping[str, Scalar]
    """Hyper-parameters that differ from the first configuration of the method."""
    suggested: bool = False
    """Whether Optuna's sampler has suggested the values."""
    records: dict[int, Record] = field(default_factory=dict)
    """Records of the trials that ended, by fold."""
    running: set[int] = field(default_factory=set)

    @property
    def scores(self) -> dict[int, float]:
        """Validation scores by fold; a trial on the samples of all folds has none."""
        found = {
            fold: record.validation_score
            for fold, record in self.records.items()
            if not record.status.failed
        }
        return {
            fold: each
            for fold, each in found.items()
            if fold >= 0 and each is not None and math.isfinite(each)
        }

    @property
    def keys(self) -> set[str]:
        """Keys of the trials that ended."""
        return {record.trial_key for record in self.records.values()}

    @property
    def useful(self) -> bool:
        """Whether a trial ended without a failure."""
        return any(not record.status.failed for record in self.records.values())

    @property
    def variant(self) -> bool:
        """Whether more than the schedule differs from the first configuration."""
        return bool(self.values.keys() - SCHEDULE)

    @property
    def epochs(self) -> int:
        """Number of refine epochs of a trial."""
        return num_epochs({**self.plan.first, **self.values})

    @property
    def improves(self) -> bool:
        """Whether the best epoch of the first fold was in the last fifth of the epochs,
        or the last two.

        If the last epoch is kept, it was in the second half: when a cosine schedule has
        used four fifths of its rates.
        """
        first = self.records[min(self.scores)] if self.scores else None
        share = 0.5 if self.plan.first.get("refine.keep") == "last" else 0.8
        return first is not None and (first.best_epoch or 0) > max(
            min(share * self.epochs, self.epochs - 2), 1
        )

    def lacks(self, fold: int) -> bool:
        """Return whether no trial of a fold has started."""
        return fold not in self.records and fold not in self.running

    def extends(self, other: "Contender") -> bool:
        """Return whether this configuration is that of ``other`` with more epochs."""
        return (
            self.plan is other.plan
            and self.epochs > other.epochs
            and self.values == other.scheduled(self.epochs)
        )

    def scheduled(self, epochs: int) -> dict[str, Scalar]:
        """Return the hyper-parameters with a schedule of ``epochs``; if it is a short
        one, so is its warm-up.
        """
        first = self.plan.first
        values: dict[str, Scalar] = {**first, **self.values, "refine.epochs": epochs}
        if (usual := float(first.get("refine.warmup_epochs", 0))) > 0:
            values["refine.warmup_epochs"] = usual * min(
                1.0, epochs / num_epochs(first)
            )
        return changed(values, first)

    def trial(self, fold: int) -> TrialSpec:
        """Return the trial of a fold."""
        return self.plan.trial(
            {**self.values, **({FOLD: fold} if fold else {})},
            self.plan.confirm_seeds[0],
            "confirm",
        )


def changed(
    values: Mapping[str, Scalar], first: Mapping[str, Scalar]
) -> dict[str, Scalar]:
    """Return the values that differ from those of ``first``."""
    return {name: value for name, value in values.items() if first.get(name) != value}


def replaces(own: Mapping[int, Record], others: Mapping[int, Record]) -> bool:
    """Return whether all trials of ``others`` made the same networks as trials of the
    same folds that aligned less.

    ``orca_guarded`` makes those of ``nft`` where its guard keeps the embedder that is
    not aligned.
    """
    pairs = [(own[fold], two) for fold, two in others.items() if fold in own]
    alike = all(
        one.training_loss == two.training_loss is not None for one, two in pairs
    )
    alike = alike and all(
        one.validation_score == two.validation_score for one, two in pairs
    )
    return (
        0 < len(pairs) == len(others)
        and alike
        and all(one.align_seconds < two.align_seconds for one, two in pairs)
    )
