"""A cluster of logical GPUs in virtual time: trials end at once, and the clock jumps
from one end to the next.
"""

import heapq
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, tzinfo
from types import SimpleNamespace
from unittest import mock

from orca_ray.process import NodeResources
from orca_ray.sweep.plan.trial_spec import TrialSpec
from orca_ray.sweep.run import recorder, trial_state
from orca_ray.sweep.run.controller import SweepController
from orca_ray.sweep.run.placement import GpuRequest, Placement
from tests.sweep.fakes import fake_reports

GPUS_PER_NODE = 8


class VirtualCluster:
    """Runs the trials that a controller chooses on logical GPUs, one trial a GPU.

    As on Ray, the placement decides how many trials are handed out, and those that find
    no free GPU wait in order.
    """

    def __init__(self, gpus: int, seconds: Callable[[TrialSpec], float]) -> None:
        """Store the number of GPUs and the function that returns the virtual duration
        of a trial.
        """
        self._gpus = gpus
        self._seconds = seconds
        self._nodes = [
            NodeResources(
                f"node{number}",
                2.0 * GPUS_PER_NODE,
                min(GPUS_PER_NODE, gpus - first),
                64.0,
                f"{number}",
            )
            for number, first in enumerate(range(0, gpus, GPUS_PER_NODE))
        ]
        self.now = 0.0
        """Virtual time in seconds."""
        self.busy = 0.0
        """Virtual GPU seconds of all trials so far."""

    def run(self, controller: SweepController) -> None:
        """Run trials until the controller has none."""
        requests = {
            (plan.task, plan.method): GpuRequest(1.0)
            for plan in controller.searches.plans
        }
        controller.placement = Placement(lambda: self._nodes, requests)
        waiting: deque[TrialSpec] = deque()
        running: dict[str, TrialSpec] = {}
        ends: list[tuple[float, str]] = []
        with self._virtual_dates():
            while True:
                while (trial := controller.next_trial()) is not None:
                    waiting.append(trial)
                while waiting and len(ends) < self._gpus:
                    trial = waiting.popleft()
                    running[trial.key] = trial
                    heapq.heappush(ends, self._start(controller, trial))
                if not ends:
                    break
                self.now, key = heapq.heappop(ends)
                (report,) = fake_reports(running.pop(key))
                controller.report(key, report.progress)
                controller.ended(key, report)
            controller.close()

    def _start(
        self, controller: SweepController, trial: TrialSpec
    ) -> tuple[float, str]:
        controller.started(trial.key)
        seconds = self._seconds(trial)
        self.busy += seconds
        return self.now + seconds, trial.key

    @contextmanager
    def _virtual_dates(self) -> Iterator[None]:
        """Context manager: records get virtual dates and durations, so that the
        controller learns the latter.
        """
        cluster = self

        class VirtualDate(datetime):
            @classmethod
            def now(cls, tz: tzinfo | None = UTC) -> datetime:  # type: ignore[override]
                return datetime.fromtimestamp(1e9 + cluster.now, tz)

        clock = SimpleNamespace(monotonic=lambda: cluster.now)
        with (
            mock.patch.object(trial_state, "datetime", VirtualDate),
            mock.patch.object(trial_state, "time", clock),
            mock.patch.object(recorder, "datetime", VirtualDate),
        ):
            yield
