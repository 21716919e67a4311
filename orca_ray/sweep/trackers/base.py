"""The interface of trackers, which show the trials of a sweep in an experiment tracker such as TensorBoard."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from orca_ray.methods.reports import EpochProgress
from orca_ray.results.record import Record
from orca_ray.sweep.plan.schema import Scalar

_EPOCH = ("loss", "distance", "validation_score", "learning_rate", "seconds")
_FINAL = (
    "validation_score", "test_score", "best_epoch", "epochs", "distance_before", "distance_after", "wall_seconds",
    "peak_memory_mib", "samples_per_second", "num_parameters", "num_trainable", "attempts",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Run:
    """A trial as a tracker shows it."""

    key: str
    """Key of the trial. A trial that continues after an interruption continues the run with the same key."""
    sweep: str
    tags: Mapping[str, str]
    """Task, method, phase and seed."""
    hyperparameters: Mapping[str, Scalar]

    @property
    def name(self) -> str:
        """A name for people, e.g. ``pocket/digits orca search 0 3f9a1c``."""
        return f"{' '.join(self.tags.values())} {self.key[:6]}"


class Tracker(ABC):
    """Writes runs to one place. `Tracking` calls all methods in one thread, which may wait for a network.

    ``start`` is called first for each run, and again if the trial starts again; ``finish`` at most once. After any
    exception no method but ``close`` is called.
    """

    @abstractmethod
    def start(self, run: Run) -> None:
        """Create the run, or continue it if it exists."""

    @abstractmethod
    def log(self, key: str, progress: EpochProgress) -> None:
        """Add an epoch to a run that has started; an epoch may be logged twice."""

    @abstractmethod
    def finish(self, key: str, record: Record) -> None:
        """Add the final scores and the status to a run that has started, and end it."""

    @abstractmethod
    def close(self) -> None:
        """End the runs that have not finished, as interrupted, and write what is buffered."""


@dataclass(frozen=True)
class TrackerKind:
    """A tracker that ``--track NAME[:TARGET]`` can name."""

    name: str
    target: str
    """What the target is, for messages, e.g. ``DIR``."""
    module: str
    """Module that the extra of this name installs."""
    open: Callable[[str], Tracker]
    """Return a tracker for a target, "" for the default one; raises UserError if the target cannot be used.

    It reads the environment and the working directory, which later methods must not: the working directory changes
    while trials run. It does not wait for a network.
    """


def epoch_values(progress: EpochProgress) -> dict[str, float]:
    """Return the values that an epoch reports, by names such as ``refine/validation_score``; None is left out."""
    found = ((name, getattr(progress, name)) for name in _EPOCH)
    return {f"{progress.stage}/{name}": float(value) for name, value in found if value is not None}


def final_values(record: Record) -> dict[str, float]:
    """Return the numbers of a record that trackers show, by field name; values that are None are left out."""
    found = ((name, getattr(record, name)) for name in _FINAL)
    return {name: float(value) for name, value in found if value is not None}
