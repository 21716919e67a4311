"""The executor that runs trials in the calling process."""

import contextlib
import logging
import math
import time

from orca_ray.methods.registry import get_method
from orca_ray.process import NodeResources, interrupted_at, this_node
from orca_ray.results.record import Status
from orca_ray.sweep.messages.report import TrialReport
from orca_ray.sweep.messages.settings import WorkerSettings
from orca_ray.sweep.plan.trial_spec import TrialSpec
from orca_ray.sweep.run.controller import SweepController
from orca_ray.sweep.run.executor import Executor, ExecutorOptions
from orca_ray.sweep.worker.runner import TrialRunner

logger = logging.getLogger(__name__)


class InlineExecutor(Executor):
    """Executor that runs trials one by one in the calling process.

    It serves tests, debugging and machines without Ray.
    """

    name = "inline"
    where = "this process"

    def open(self, address: str | None) -> list[NodeResources]:
        """Return this machine as the only node.

        An ``address`` is ignored, with a warning.
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
        """Run all trials and return False.

        After Ctrl-C or a request to stop, save a checkpoint and return True.
        """
        while True:
            trial = self._next(controller)
            if trial is None:
                return False
            runner = TrialRunner(trial, settings)
            try:
                with interrupted_at(_deadline(trial, controller)):
                    self._run_trial(runner, controller)
            except KeyboardInterrupt:
                controller.control.stop_if_time_is_over()
                runner.interrupt()
                return True
            finally:
                runner.close()

    @staticmethod
    def _next(controller: SweepController) -> TrialSpec | None:
        """Return the next trial; during a pause, wait for its end.

        None if no trial is left, or after Ctrl-C during a pause.
        """
        with contextlib.suppress(KeyboardInterrupt):
            trial = controller.next_trial()
            while trial is None and controller.pausing:
                time.sleep(0.5)
                trial = controller.next_trial()
            return trial
        return None

    @staticmethod
    def _run_trial(runner: TrialRunner, controller: SweepController) -> None:
        """Run a trial to its end, and pass its reports to the controller.

        Raises KeyboardInterrupt if the sweep must stop before.
        """
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


def _deadline(trial: TrialSpec, controller: SweepController) -> float:
    """Return when a trial is interrupted, as a time of `time.monotonic`.

    A fitted method has one long step, which is interrupted at the deadline of the
    sweep. Other trials end after an epoch, so that their checkpoint is saved. The first
    trial of a sweep runs to its end, because a sweep must have a result.
    """
    has_result = any(
        record.status is Status.COMPLETED for record in controller.searches.records
    )
    if has_result and get_method(trial.method).fitted:
        return controller.control.deadline
    return math.inf
