"""Events that a running sweep sends to its listener.

The progress table of the command line is such a listener.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import NamedTuple

from orca_ray.methods.reports import EpochProgress
from orca_ray.results.live import Row
from orca_ray.results.record import Record, Status
from orca_ray.sweep.plan.schema import Scalar


class SweepStarted(NamedTuple):
    """Event: data of at least one task are ready, and trials are about to start."""

    sweep: str
    where: str
    """Description of the machine or cluster, for users."""
    rows: tuple[Row, ...]


class TaskStaged(NamedTuple):
    """Event: the data of a task are on a node, and its trials can start.

    ``rows`` include trials of earlier runs.
    """

    rows: tuple[Row, ...]


class TrialStarted(NamedTuple):
    """Event: a worker has started a trial."""

    trial_key: str
    task: str
    method: str
    phase: str
    seed: int = 0
    hyperparameters: Mapping[str, Scalar] = MappingProxyType({})


class TrialProgress(NamedTuple):
    """Event: a trial has finished an epoch of one of its stages."""

    trial_key: str
    task: str
    method: str
    progress: EpochProgress


class TrialWaits(NamedTuple):
    """Event: a trial has failed, and waits for its next attempt."""

    trial_key: str
    task: str
    method: str


class TrialFinished(NamedTuple):
    """Event: a trial has ended; its record is in the store within seconds."""

    record: Record
    remaining: int
    """Trials of the same (task, method) that have not ended."""


class TimeLeft(NamedTuple):
    """Event: estimate of the seconds until the sweep is done.

    Sent about once a second, once a trial has completed.
    """

    seconds: float


class Message(NamedTuple):
    """Event: a line of text for the user, e.g. about a download."""

    text: str
    passing: bool = False
    """Whether the text is out of date once a trial reports, e.g. text about staging."""
    is_alarm: bool = False
    """Whether a person should know it who does not watch the sweep."""


@dataclass(frozen=True)
class Summary:
    """Summary of an ended sweep.

    Counts include trials of earlier runs of the same sweep, except ``ran``.
    """

    sweep: str
    planned: int
    finished_before: int
    ran: int
    statuses: dict[Status, int]
    failed: tuple[Record, ...] = ()
    interrupted: bool = False
    time_over: bool = False
    """Whether the sweep was interrupted by its deadline, and not by a user."""
    seconds: float = 0.0
    unfinished: tuple[str, ...] = ()
    """Lines "task method: reason" for each (task, method) without a test score.

    The reason is that the task has no data, or that trials failed.
    """
    deterministic: bool = False
    aligned: int = 0
    """Number of trials with an align stage."""
    reused: int = 0
    """Number of ``aligned`` trials that reused the alignment of another trial."""
    notes: Mapping[str, int] = field(default_factory=dict)
    """Number of trials by note in their records, the most frequent note first.

    An example is a note on a class that was left out.
    """
    limit: str = ""
    """Sentence about the limit of hours that ended the sweep; "" if none did."""
    quarantined: tuple[str, ...] = ()
    """Lines "node: reason" for each node that got no more trials."""
    models: Mapping[str, str] = field(default_factory=dict)
    """Path or URI of the best model of each task, if models are kept."""
    missing_models: Mapping[str, str] = field(default_factory=dict)
    """Task of each trial whose model should be in the store and is not, by trial key.
    """

    @property
    def up_to_date(self) -> bool:
        """Whether no trial had to run, because all had ended in earlier runs."""
        return self.ran == 0 and not self.interrupted


class SweepFinished(NamedTuple):
    """Event: the sweep has ended or was interrupted."""

    summary: Summary


Event = (
    SweepStarted
    | TaskStaged
    | TrialStarted
    | TrialProgress
    | TrialWaits
    | TrialFinished
    | TimeLeft
    | Message
    | SweepFinished
)
Listener = Callable[[Event], None]
