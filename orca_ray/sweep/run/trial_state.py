"""The one record of a trial that has not ended, which the controller owns; search and executors hold keys."""

import math
from dataclasses import dataclass, field
from datetime import datetime

from orca_ray.methods.reports import EpochProgress
from orca_ray.results.live import RunningTrial
from orca_ray.results.logs import LogStream
from orca_ray.sweep.plan.searches import TrialSpec
from orca_ray.sweep.search import Search


@dataclass
class TrialState:
    """A trial that has not ended, and the epochs that it has reported so far.

    It waits, for its first start or for its next attempt; then an executor has it (``handed_out``), and when it has a
    worker, it is ``placed``.
    """

    trial: TrialSpec
    search: Search
    started_at: datetime
    curve: list[EpochProgress] = field(default_factory=list)
    attempts: int = 1
    handed_out: float | None = None
    """Time of `FailureLedger.now` at which an executor got the trial; None: it waits."""
    placed: bool = False
    """Whether the trial has a worker."""
    node: str = ""
    """Host name of its worker's machine."""
    log: LogStream = field(default_factory=LogStream)

    @property
    def waits(self) -> bool:
        """Whether no executor has the trial."""
        return self.handed_out is None

    @property
    def scores(self) -> list[float]:
        """Validation scores of the refine epochs, in order."""
        return [point.validation_score for point in self.curve if point.validation_score is not None]

    def knows(self, point: EpochProgress) -> bool:
        """Return whether an epoch was reported before: a trial that resumes reports its earlier epochs again."""
        return any((seen.stage, seen.epoch) == (point.stage, point.epoch) for seen in self.curve)

    def live(self) -> RunningTrial:
        """Return what the live state of the sweep says about this trial."""
        trial, last = self.trial, self.curve[-1] if self.curve else None
        scores = [score for score in self.scores if math.isfinite(score)]
        return RunningTrial(
            key=trial.key, task=trial.task, method=trial.method, phase=trial.phase, seed=trial.seed,
            attempt=self.attempts, started_at=self.started_at.isoformat(), waiting=not self.placed, node=self.node,
            score=scores[-1] if scores else None, best=min(scores, default=None),
            stage=last.stage if last else "", epoch=last.epoch if last else 0, epochs=last.epochs if last else 0,
        )  # fmt: skip
