"""The interface of executors, which run the trials of a sweep."""

import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Literal

from orca_ray.process import NodeResources, this_node
from orca_ray.sweep.messages.settings import TimeLimits, WorkerSettings
from orca_ray.sweep.plan.trial_spec import Resources
from orca_ray.sweep.run.controller import SweepController
from orca_ray.sweep.worker.staging import InlineStager, Staged, Stager
from orca_ray.sweep.worker.staging_items import StagingRequest

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ExecutorOptions:
    """Options of an executor: how it runs trials."""

    time: TimeLimits = field(default_factory=TimeLimits)
    """Time limits of a trial. The inline executor has none."""
    gpus_per_trial: float | Literal["auto"] | None = None
    """Number of GPUs of each trial, for which trials wait.

    ``auto``: a share of a GPU, by the measured memory of earlier trials. None: the
    number in the sweep file. In both cases, trials use a CPU if no node has a GPU.
    """

    @property
    def needs_gpus(self) -> bool:
        """Whether trials wait for GPUs if no node has any yet."""
        return isinstance(self.gpus_per_trial, float)


class Executor(AbstractContextManager["Executor"], ABC):
    """Base class of executors, which run the trials that a `SweepController` chooses.

    Executors report the progress of trials to the controller. Use an executor as a
    context manager in one thread: call ``open`` once, then ``run`` once. Leaving the
    context ends all processes that the executor started, even after an exception or
    Ctrl-C.
    """

    name: str
    """Name of the executor in records and on the command line."""
    where: str = ""
    """Where trials run, for users, e.g. "Ray cluster at 10.0.0.1:6379, 3 node(s), ...".

    ``open`` sets it.
    """
    grows: bool = False
    """Whether more nodes may join while the sweep runs; ``open`` sets it."""

    @abstractmethod
    def open(self, address: str | None) -> list[NodeResources]:
        """Join the cluster at ``address`` (None: start one), and return its nodes.

        Raises UserError if that fails.
        """

    def open_early(self, address: str | None) -> None:
        """Begin the work of ``open`` in another thread, if the work takes seconds.

        A later call of ``open`` waits for that thread.
        """
        return

    def nodes(self) -> list[NodeResources]:
        """Return the nodes that the cluster has now."""
        return [this_node()]

    def announce(self, demand: Mapping[Resources, int]) -> None:
        """Inform the cluster's autoscaler, if there is one, how many trials could run.

        ``demand`` has the number of trials by their resources.
        """

    def stager(
        self,
        requests: Sequence[StagingRequest],
        settings: WorkerSettings,
        progress: Callable[[str], None],
    ) -> Stager:
        """Return a stager that stages ``requests`` on the nodes.

        The stager calls ``progress`` with lines of text.
        """
        return InlineStager(requests, settings.staging, progress)

    def first_staged(self, stager: Stager) -> list[Staged]:
        """Wait until a task is staged or all tasks have failed (see `Stager.first`).

        Return the results of the tasks that were staged or failed so far.
        """
        return stager.first()

    @abstractmethod
    def run(
        self,
        controller: SweepController,
        settings: WorkerSettings,
        options: ExecutorOptions,
    ) -> bool:
        """Run trials until all have ended.

        Return True if Ctrl-C or a request to stop ended the run before that.
        """

    def close(self) -> None:
        """End all processes that this executor started."""
        return

    def __exit__(self, *_: object) -> None:
        self.close()
