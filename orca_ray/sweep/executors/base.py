"""The interface of executors, which run the trials of a sweep, and the executor that
runs them in this process.
"""

import contextlib
import logging
import math
import platform
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Literal

import psutil
import torch

from orca_ray.process import allowed_cpus, allowed_memory
from orca_ray.sweep.executors.liveness import TimeLimits
from orca_ray.sweep.plan.searches import NodeResources, Resources, TrialSpec
from orca_ray.sweep.run.controller import SweepController
from orca_ray.sweep.run.messages import TrialReport, WorkerSettings
from orca_ray.sweep.worker.runner import TrialRunner
from orca_ray.sweep.worker.staging import InlineStager, Staged, Stager
from orca_ray.sweep.worker.staging_items import StagingRequest

logger = logging.getLogger(__name__)

GIB_OF_WORKER = 0.75
"""Memory of a worker of Ray."""


@dataclass(frozen=True)
class ExecutorOptions:
    """Options of an executor: how it runs trials."""

    time: TimeLimits = field(default_factory=TimeLimits)
    """Time limits of a trial. The inline executor has none."""
    gpus_per_trial: float | Literal["auto"] | None = None
    """Number of GPUs of each trial, for which trials wait. ``auto``: by the measured
    memory of earlier trials; None: as the sweep file says; with ``auto`` and None,
    trials use a CPU if no node has a GPU.
    """

    @property
    def needs_gpus(self) -> bool:
        """Whether trials wait for GPUs if no node has any yet."""
        return isinstance(self.gpus_per_trial, float)


class Executor(AbstractContextManager["Executor"], ABC):
    """Base class of executors, which run the trials that a `SweepController` chooses,
    and report progress to it.

    Use it as a context manager in one thread: call ``open`` once, then ``run`` once.
    Leaving the context ends all processes that the executor started, even after an
    exception or Ctrl-C.
    """

    name: str
    """Name of the executor in records and on the command line."""
    where: str = ""
    """Where trials run, for users, e.g. "Ray cluster at 10.0.0.1:6379, 3 node(s), ...";
    ``open`` sets it.
    """
    grows: bool = False
    """Whether more nodes may join while the sweep runs; ``open`` sets it."""

    @abstractmethod
    def open(self, address: str | None) -> list[NodeResources]:
        """Join the cluster at ``address``, or start one if it is None; return its
        nodes. UserError if that fails.
        """

    def open_early(self, address: str | None) -> None:
        """Begin what ``open`` does in another thread, if it takes seconds; ``open``
        then waits for it.
        """
        return

    def nodes(self) -> list[NodeResources]:
        """Return the nodes that the cluster has now."""
        return [this_node()]

    def announce(self, demand: Mapping[Resources, int]) -> None:
        """Tell the cluster's autoscaler, if there is one, how many trials with which
        resources could run now.
        """

    def stager(
        self,
        requests: Sequence[StagingRequest],
        settings: WorkerSettings,
        progress: Callable[[str], None],
    ) -> Stager:
        """Return a stager that stages ``requests`` on the nodes and passes lines of
        text about it to ``progress``.
        """
        return InlineStager(requests, settings.staging, progress)

    def first_staged(self, stager: Stager) -> list[Staged]:
        """Wait until a task is staged or all have failed; return the tasks staged or
        failed so far (`Stager.first`).
        """
        return stager.first()

    @abstractmethod
    def run(
        self,
        controller: SweepController,
        settings: WorkerSettings,
        options: ExecutorOptions,
    ) -> bool:
        """Run trials until all have ended; return True if Ctrl-C or a request to stop
        ended the run before that.
        """

    def close(self) -> None:
        """End all processes that this executor started."""
        return

    def __exit__(self, *_: object) -> None:
        self.close()


def this_node() -> NodeResources:
    """Return the resources of this machine: CPU cores and memory that the process may
    use, and visible GPUs.
    """
    memory = min(psutil.virtual_memory().total, allowed_memory() or math.inf) / 2**30
    return NodeResources(
        platform.node(), float(allowed_cpus()), float(torch.cuda.device_count()), memory
    )


class InlineExecutor(Executor):
    """Executor that runs trials one by one in the calling process, for tests, debugging
    and machines without Ray.
    """

    name = "inline"
    where = "this process"

    def open(self, address: str | None) -> list[NodeResources]:
        """Return this machine as the only node; log a warning if ``address`` is given,
        which is ignored.
        """
        if address is not None:
            logger.warning(
                "--address %s is ignored: the inline executor runs in this process",
                address,
            )
        return [this_node()]

    def run(
        self,
        controller: SweepController,
        settings: WorkerSettings,
        options: ExecutorOptions,
    ) -> bool:
        """Run all trials and return False; after Ctrl-C or a request to stop, save a
        checkpoint and return True.
        """
        while (trial := self._next(controller)) is not None:
            runner = TrialRunner(trial, settings)
            try:
                self._run_trial(runner, controller)
            except KeyboardInterrupt:
                runner.interrupt()
                return True
            finally:
                runner.close()
        return False

    @staticmethod
    def _next(controller: SweepController) -> TrialSpec | None:
        """Return the next trial, after the end of a pause; None if there is none, or
        after Ctrl-C during a pause.
        """
        with contextlib.suppress(KeyboardInterrupt):
            while (trial := controller.next_trial()) is None and controller.pausing:
                time.sleep(0.5)
            return trial
        return None

    @staticmethod
    def _run_trial(runner: TrialRunner, controller: SweepController) -> None:
        key = runner.trial.key
        stop = False
        report = TrialReport()
        controller.started(key)
        while not (stop or report.done):
            report = runner.step()
            stop = controller.report(
                key, report.progress, log=report.log, node=report.worker.node
            )
            if controller.control.stopping and not (stop or report.done):
                raise KeyboardInterrupt
        controller.ended(key, report.stopped_early() if stop else report)


def num_workers(node: NodeResources) -> int:
    """Return how many workers of Ray fit on a node; the driver and Ray take as much
    memory as one (`GIB_OF_WORKER`).
    """
    return min(int(node.cpus), int(node.memory_gib / GIB_OF_WORKER) - 1)
