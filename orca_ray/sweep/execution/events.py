"""Events of a running sweep, for listeners such as the progress table of the command line."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from orca_ray.results.record import Record, Status


@dataclass(frozen=True)
class SearchRow:
    """One (task, method) of the plan, with the number of its finished trials."""

    task: str
    method: str
    body: str
    planned: int
    finished: int


@dataclass(frozen=True)
class SweepStarted:
    """The plan is complete, and trials are about to start."""

    sweep: str
    executor: str
    where: str
    rows: tuple[SearchRow, ...]


@dataclass(frozen=True)
class TrialStarted:
    """A worker has started a trial."""

    trial_key: str
    task: str
    method: str
    phase: str


@dataclass(frozen=True)
class TrialProgress:
    """A trial has finished an epoch of one of its stages."""

    trial_key: str
    task: str
    method: str
    stage: str
    epoch: int
    epochs: int
    validation_score: float | None
    loss: float | None
    distance: float | None


@dataclass(frozen=True)
class TrialFinished:
    """A trial has ended, and its record is in the store."""

    record: Record
    remaining: int
    """Trials of the same (task, method) that have not ended."""


@dataclass(frozen=True)
class Message:
    """One line about a download, a retry or a warning."""

    text: str


@dataclass(frozen=True)
class Summary:
    """The end of a sweep. Counts include trials of earlier runs, but for ``ran``."""

    sweep: str
    planned: int
    finished_before: int
    ran: int
    statuses: dict[Status, int]
    failed: tuple[Record, ...] = ()
    interrupted: bool = False
    seconds: float = 0.0
    unfinished: tuple[str, ...] = ()
    """(task, method) pairs without a confirmed score, each with the reason."""
    deterministic: bool = False
    aligned: int = 0
    """Trials that aligned."""
    reused: int = 0
    """Trials among them that reused the aligned embedder of another trial."""
    notes: Mapping[str, int] = field(default_factory=dict)
    """Fallbacks that trials took, each with the number of trials, the most frequent first."""

    @property
    def up_to_date(self) -> bool:
        """Whether there was nothing left to run."""
        return self.ran == 0 and not self.interrupted


@dataclass(frozen=True)
class SweepFinished:
    """The sweep has ended."""

    summary: Summary


Event = SweepStarted | TrialStarted | TrialProgress | TrialFinished | Message | SweepFinished
Listener = Callable[[Event], None]
