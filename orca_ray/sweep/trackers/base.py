"""The interface of trackers, which send trials to an experiment tracker.

TensorBoard is an experiment tracker.
"""

import json
import logging
import queue
import re
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from typing import Self

from orca_ray.discovery import declared, modules, origin, with_plug_ins
from orca_ray.errors import UserError, lookup, quoted
from orca_ray.methods.reports import EpochProgress
from orca_ray.results.record import Record
from orca_ray.sweep import trackers
from orca_ray.sweep.plan.schema import Scalar
from orca_ray.sweep.run import events

logger = logging.getLogger(__name__)

_EPOCH = ("loss", "distance", "validation_score", "learning_rate", "seconds")
_FINAL = (
    "validation_score",
    "test_score",
    "best_epoch",
    "epochs",
    "distance_before",
    "distance_after",
    "wall_seconds",
    "peak_memory_mib",
    "samples_per_second",
    "num_parameters",
    "num_trainable",
    "attempts",
)


@dataclass(frozen=True, kw_only=True)
class Run:
    """Description of a trial for a tracker, which shows the trial as a run."""

    key: str
    """Key of the trial.

    A trial that continues after an interruption continues the run with the same key.
    """
    sweep: str
    tags: Mapping[str, str]
    """Task, method, phase and seed."""
    hyperparameters: Mapping[str, Scalar]

    @property
    def name(self) -> str:
        """Name of the run in the tracker: ``pocket/digits orca search 0 3f9a1c``."""
        return f"{' '.join(self.tags.values())} {self.key[:6]}"


class Tracker(ABC):
    """Base class of trackers, which write runs to one place.

    `Tracking` calls all methods in one thread. Methods may wait for a network.

    ``start`` is called once for each run, before other methods, even if the trial
    starts again. ``finish`` is called at most once. After an exception, only ``close``
    is called.
    """

    @abstractmethod
    def start(self, run: Run) -> None:
        """Create the run, or continue it if it exists."""

    @abstractmethod
    def log(self, key: str, progress: EpochProgress) -> None:
        """Add an epoch to a run that has started; an epoch may be logged twice."""

    @abstractmethod
    def finish(self, key: str, record: Record) -> None:
        """Add the final scores and the status to a started run, and end the run."""

    @abstractmethod
    def close(self) -> None:
        """End unfinished runs, as interrupted, and write what is buffered."""


@dataclass(frozen=True)
class TrackerKind:
    """Registry entry of a kind of tracker, for ``--track NAME[:TARGET]``."""

    name: str
    target: str
    """What the target is, for messages, e.g. ``DIR``."""
    module: str
    """Module that the tracker needs; the extra of orca-ray called ``name`` installs it.
    """
    open: Callable[[str], Tracker]
    """Function that returns a tracker for a target; "" is the default target.

    It raises UserError if the target cannot be used. It may read the environment and
    the working directory. Methods of the tracker must not, because Ray may delete the
    working directory of a submitted job. It does not wait for a network.
    """


def epoch_values(progress: EpochProgress) -> dict[str, float]:
    """Return the numbers that an epoch reports, by stage and name.

    A key is ``refine/validation_score``, for example. Values that are None are left
    out.
    """
    values = {name: getattr(progress, name) for name in _EPOCH}
    return {
        f"{progress.stage}/{name}": float(value)
        for name, value in values.items()
        if value is not None
    }


def final_values(record: Record) -> dict[str, float]:
    """Return the numbers of a record that trackers show, by field name.

    Values that are None are left out.
    """
    values = {name: getattr(record, name) for name in _FINAL}
    return {name: float(value) for name, value in values.items() if value is not None}


MAX_WAITING = 100_000
"""Largest number of events that wait for a tracker (a few tens of MiB).

If more events wait, the tracker is given up.
"""
CLOSE_SECONDS = 60.0
"""Seconds without progress after which the end of a sweep gives a tracker up."""


@cache
def all_trackers() -> Mapping[str, TrackerKind]:
    """Return all kinds of trackers by name; those of plug-ins are last.

    Raises ValueError if two modules of orca-ray declare the same name.
    """
    return with_plug_ins(
        "tracker", TrackerKind, declared(TrackerKind, "TRACKER", modules(trackers))
    )


def open_tracker(option: str) -> Tracker:
    """Return the tracker that ``NAME[:TARGET]`` names.

    Raises UserError for a wrong name or target, or a missing package.
    """
    name, colon, target = option.partition(":")
    kind = lookup("tracker", name, all_trackers())
    if colon and not target:
        raise UserError(
            f"--track {quoted(option)} names no {kind.target}: give"
            f" {name}:{kind.target}, or {name} alone"
        )
    if find_spec(kind.module) is None:
        package = kind.module if origin("tracker", name) else f"'orca-ray[{name}]'"
        raise UserError(
            f"--track {name} needs the package {kind.module}: pip install {package}"
        )
    return kind.open(target)


class _TrackerThread:
    """A tracker, the events that wait for it, and the thread that passes them on."""

    def __init__(self, option: str, tracker: Tracker) -> None:
        self._name = _without_password(option)
        self._tracker = tracker
        self._waiting: queue.Queue[events.Event | None] = queue.Queue(MAX_WAITING)
        self._sweep = ""
        self._started: set[str] = set()
        self._given_up = False
        self._thread = threading.Thread(
            target=self._work, name=f"track-{self._name}", daemon=True
        )
        self._thread.start()

    def put(self, event: events.Event | None) -> None:
        """Add an event without waiting for the tracker; None: no event follows."""
        try:
            if not self._given_up:
                self._waiting.put_nowait(event)
        except queue.Full:
            self._give_up("it is too slow")

    def close(self) -> None:
        """Wait until the tracker has written everything, or makes no progress."""
        self.put(None)
        # Larger than any number of waiting events, so that the first check passes.
        num_left = MAX_WAITING + 1
        while self._thread.is_alive():
            num_waiting = self._waiting.qsize()
            if num_waiting >= num_left:
                self._give_up(f"it made no progress for {CLOSE_SECONDS:.0f} s")
                return
            num_left = num_waiting
            self._thread.join(CLOSE_SECONDS)

    def _work(self) -> None:
        """Pass events to the tracker until None comes; the thread runs this method."""
        try:
            event = self._waiting.get()
            while event is not None:
                self._apply(event)
                event = self._waiting.get()
        except Exception as error:  # whatever a foreign library raises
            self._give_up(f"{type(error).__name__}: {error}")
            logger.debug("tracker %s", self._name, exc_info=True)
        try:
            self._tracker.close()
        except Exception as error:
            self._give_up(f"{type(error).__name__}: {error}")

    def _apply(self, event: events.Event) -> None:
        """Pass an event to the tracker; ignore events of no interest to it."""
        match event:
            case events.SweepStarted():
                self._sweep = event.sweep
            case events.TrialStarted():
                self._start(event, event.hyperparameters)
            case events.TrialProgress():
                self._tracker.log(event.trial_key, event.progress)
            case events.TrialFinished(record):
                self._start(
                    record, json.loads(record.hyperparameters)
                )  # it may have ended before an interruption
                self._started.discard(record.trial_key)
                self._tracker.finish(record.trial_key, record)

    def _start(
        self, trial: events.TrialStarted | Record, hyperparameters: Mapping[str, Scalar]
    ) -> None:
        """Start a run of the tracker for ``trial``, unless this was done before."""
        if (key := trial.trial_key) not in self._started:
            tags = {
                name: str(getattr(trial, name))
                for name in ("task", "method", "phase", "seed")
            }
            self._tracker.start(
                Run(
                    key=key,
                    sweep=self._sweep,
                    tags=tags,
                    hyperparameters=dict(hyperparameters),
                )
            )
            self._started.add(key)

    def _give_up(self, why: str) -> None:
        """Log once that the tracker gets no more events, and ``why``."""
        if not self._given_up:
            self._given_up = True
            why = _without_password(why.partition("\n")[0])
            logger.warning(
                "--track %s is given up, and the sweep goes on without it: %s",
                self._name,
                why,
            )


def _without_password(text: str) -> str:
    """Return ``text`` without user names and passwords in addresses.

    The text may be a message of a foreign library.
    """
    return re.sub(r"//[^/@\s]*@", "//", text)


class Tracking:
    """Listener that passes events on to trackers.

    It is a context manager. Leaving its block ends the runs of the trackers.
    """

    def __init__(self, options: Iterable[str]) -> None:
        """Open the trackers that ``options`` name.

        Raises UserError as `open_tracker` does.
        """
        self._opened = [
            (option, open_tracker(option)) for option in dict.fromkeys(options)
        ]
        self._threads: list[_TrackerThread] = []

    def __enter__(self) -> Self:
        self._threads = [
            _TrackerThread(option, tracker) for option, tracker in self._opened
        ]
        return self

    def __exit__(self, *_: object) -> None:
        for thread in self._threads:
            thread.close()

    def __call__(self, event: events.Event) -> None:
        """Pass an event on to all trackers, without waiting for them."""
        for thread in self._threads:
            thread.put(event)
