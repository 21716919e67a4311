"""What a running sweep tells its listeners; the command line draws its progress table from these."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from orca_ray.results.record import Record, Status


@dataclass(frozen=True)
class SearchRow:
    """One (task, method) of the plan and how much of it is done."""

    task: str
    method: str
    body: str
    planned: int
    finished: int


@dataclass(frozen=True)
class SweepStarted:
    """The plan is made and trials are about to start."""

    sweep: str
    executor: str
    where: str
    rows: tuple[SearchRow, ...]


@dataclass(frozen=True)
class TrialStarted:
    """A trial was handed to a worker."""

    trial_key: str
    task: str
    method: str
    phase: str


@dataclass(frozen=True)
class TrialProgress:
    """A trial ended an epoch of one of its stages."""

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
    """A trial ended and its record is in the store."""

    record: Record
    remaining: int
    """Trials of the same (task, method) that are still to come."""


@dataclass(frozen=True)
class Message:
    """Something worth a line: a download, a retry, a warning."""

    text: str


@dataclass(frozen=True)
class Summary:
    """How a sweep ended."""

    sweep: str
    planned: int
    finished_before: int
    ran: int
    statuses: dict[Status, int]
    failed: tuple[Record, ...] = ()
    interrupted: bool = False
    seconds: float = 0.0
    unfinished: tuple[str, ...] = field(default=())
    """(task, method) pairs without a confirmed score, each with the reason."""
    deterministic: bool = False
    aligned: int = 0
    """Trials of the sweep that aligned."""
    reused: int = 0
    """Those among them that took over the aligned embedder of another trial."""
    notes: Mapping[str, int] = field(default_factory=dict)
    """Fallbacks that trials of the sweep took, each with the number of trials, the most frequent first."""

    @property
    def up_to_date(self) -> bool:
        """Whether there was nothing left to run."""
        return self.ran == 0 and not self.interrupted


@dataclass(frozen=True)
class SweepFinished:
    """The sweep is over."""

    summary: Summary


Event = SweepStarted | TrialStarted | TrialProgress | TrialFinished | Message | SweepFinished
Listener = Callable[[Event], None]
