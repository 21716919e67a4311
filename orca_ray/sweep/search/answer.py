"""The result of a candidate's trial, as the sampler sees it."""

import math
from collections.abc import Sequence
from typing import NamedTuple

from orca_ray.results.record import Record, Status


class Answer(NamedTuple):
    """Result of the trial of a candidate."""

    value: float | None
    """Best validation score (lower is better); None if the trial failed."""
    stopped_early: bool = False
    scores: Sequence[float] = ()
    """Validation score of each epoch."""

    @classmethod
    def from_record(cls, record: Record, scores: Sequence[float]) -> "Answer":
        """Return the answer in the record of a trial with the given validation scores per epoch."""
        value = None if record.status.failed else record.validation_score
        return cls(value, record.status is Status.STOPPED_EARLY, scores)

    @property
    def failed(self) -> bool:
        """Whether ``value`` is None or not finite."""
        return self.value is None or not math.isfinite(self.value)
