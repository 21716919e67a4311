"""The interface between the controller of a sweep and its searches."""

from abc import ABC, abstractmethod
from collections.abc import Collection, Iterator, Sequence
from typing import NamedTuple, Protocol

from orca_ray.results.record import Record, SuggestionRow
from orca_ray.sweep.plan.searches import SearchPlan
from orca_ray.sweep.plan.trial_spec import TrialSpec
from orca_ray.sweep.search.history import History


class PlanProgress(NamedTuple):
    """Progress of the trials of one plan."""

    plan: SearchPlan
    num_finished: int
    """Number of trials that have ended."""
    num_running: int
    """Number of trials that an executor has, or that wait for their next attempt."""
    num_remaining: int
    """Number of trials that have not ended, as far as it is known."""


class TrialSource(ABC):
    """Base class of searches, which decide which trial of their plans runs next.

    Only the thread of the controller calls it. The controller calls `take` when there
    is room for a trial of `next_plan`, and `finish` when the trial has ended. Results
    of the other methods may also change with time, between these calls.
    """

    is_open_ended: bool = False
    """Whether the number of trials is not known before the search is over.

    The trials of such a search are planned one by one. A trial is only taken when there
    is room for it, and no failed trial runs again.
    """

    ended_early: bool = False
    """Whether the search ended before its last trial, because hours were limited."""

    def __init__(self, plans: Sequence[SearchPlan]) -> None:
        """Store the plans, which are of one task and of different methods."""
        self.plans = list(plans)
        self.task = plans[0].task
        """Name of the task."""
        self.records: dict[str, Record] = {}
        """Records of ended trials, by trial key."""
        self.adopted: list[Record] = []
        """Unchanged records that were taken over from variants of the sweep."""

    @abstractmethod
    def progress(self) -> Sequence[PlanProgress]:
        """Return the progress of each plan."""

    @property
    @abstractmethod
    def unended(self) -> set[str]:
        """Keys of the trials that run or wait for their start.

        Further trials may follow.
        """

    @property
    @abstractmethod
    def done(self) -> bool:
        """Whether all trials have ended."""

    @abstractmethod
    def failures(self) -> Iterator[tuple[SearchPlan, str]]:
        """Yield each plan that has no score and will get none, with the reason."""

    @property
    def is_confirming(self) -> bool:
        """Whether only confirm trials are left."""
        return False

    @property
    def num_to_confirm(self) -> int:
        """Number of confirm trials that have yet to start.

        0 while no search trial has completed or runs.
        """
        return 0

    def end_search(self) -> None:
        """Start no more search trials.

        When those that run have ended, the best configuration is confirmed.
        """
        return

    def give_up(self) -> None:
        """Start no more trials. Call it only while no trial of the search runs."""
        return

    @abstractmethod
    def next_plan(self) -> SearchPlan | None:
        """Return the plan of the trial that `take` would return; None if there is none.

        `take` may still return None, if the next trial of the plan depends on running
        trials.
        """

    @abstractmethod
    def take(self) -> TrialSpec | None:
        """Return the next trial that can start now, and mark it as running.

        None if no trial can start now. The trial's suggestion must be stored before the
        trial starts (see :meth:`new_suggestions`).
        """

    @abstractmethod
    def finish(self, record: Record, scores: Sequence[float]) -> None:
        """Store the record of a running trial that has ended.

        ``scores`` are its validation scores, one per epoch.
        """

    def new_suggestions(self) -> list[SuggestionRow]:
        """Return the suggestions made since the last call, for the sweep's journal."""
        return []

    def stops(self, trial: TrialSpec, scores: Sequence[float]) -> bool:
        """Return whether a running trial must stop early now.

        ``scores`` are its validation scores, one per epoch.
        """
        return False


class MakeSources(Protocol):
    """Function that makes the `TrialSource` objects of a sweep."""

    def __call__(
        self,
        plans: Sequence[SearchPlan],
        history: History,
        *,
        running: Collection[str] = (),
    ) -> Sequence[TrialSource]:
        """Return the sources of the trials of ``plans``, rebuilt from ``history``.

        ``running`` are the keys of the trials that run now, if the sources are rebuilt
        while they run.
        """
