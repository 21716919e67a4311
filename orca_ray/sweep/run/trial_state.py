"""The state of a trial that has not ended.

The controller owns one `TrialState` for each trial. Searches and executors hold only
the keys of trials.
"""

import math
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime

from orca_ray.methods.reports import EpochProgress
from orca_ray.results.live import RunningTrial
from orca_ray.results.logs import LogStream
from orca_ray.sweep.plan.trial_spec import TrialSpec
from orca_ray.sweep.search import TrialSource


@dataclass(frozen=True)
class Start:
    """The time at which a trial started, of two clocks."""

    at: datetime = field(default_factory=lambda: datetime.now(UTC))
    monotonic: float = field(default_factory=lambda: time.monotonic())

    def seconds(self) -> float:
        """Return the seconds since then, also if the system's time was set."""
        return time.monotonic() - self.monotonic


@dataclass
class TrialState:
    """A trial that has not ended, and the epochs that it has reported so far.

    At first, the trial waits for its start or its next attempt. Then it is handed out
    to an executor. When it has a worker, it is ``placed``.
    """

    trial: TrialSpec
    search: TrialSource
    start: Start = field(default_factory=Start)
    """When the trial was created or, later, when it got a worker."""
    curve: list[EpochProgress] = field(default_factory=list)
    attempts: int = 1
    """Number of attempts in this run of the sweep, the present one included."""
    earlier_attempts: int = 0
    """Number of attempts that the store knows of.

    They were made in earlier runs, or before the trial had to run again.
    """
    handed_out: float = 0.0
    """Time of `FailureLedger.now` at which the trial was handed out to an executor."""
    placed: bool = False
    """Whether the trial has a worker."""
    node: str = ""
    """Host name of the machine of the trial's worker."""
    log: LogStream = field(default_factory=LogStream)

    @property
    def attempt(self) -> int:
        """Number of the present attempt among all attempts at the trial, from 1."""
        return self.earlier_attempts + self.attempts

    def has_reported(self, point: EpochProgress) -> bool:
        """Return whether the curve has the epoch of ``point``."""
        epoch = (point.stage, point.epoch)
        return any((earlier.stage, earlier.epoch) == epoch for earlier in self.curve)

    @property
    def scores(self) -> list[float]:
        """Validation scores of the refine epochs, in order."""
        return [
            point.validation_score
            for point in self.curve
            if point.validation_score is not None
        ]

    def live(self) -> RunningTrial:
        """Return the entry for this trial in the sweep's live state."""
        trial = self.trial
        last = self.curve[-1] if self.curve else None
        scores = [score for score in self.scores if math.isfinite(score)]
        return RunningTrial(
            key=trial.key,
            task=trial.task,
            method=trial.method,
            phase=trial.phase,
            seed=trial.seed,
            attempt=self.attempt,
            started_at=self.start.at.isoformat(),
            waiting=not self.placed,
            node=self.node,
            score=scores[-1] if scores else None,
            best=min(scores, default=None),
            stage=last.stage if last else "",
            epoch=last.epoch if last else 0,
            epochs=last.epochs if last else 0,
        )
