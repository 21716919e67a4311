"""Runs trials one after another in this process, for tests, debugging and machines without Ray."""

import logging
import os
import platform

from orca_ray.sweep.execution.conductor import Conductor
from orca_ray.sweep.execution.executors.base import Executor
from orca_ray.sweep.execution.trial_runner import TrialRunner
from orca_ray.sweep.planning.searches import NodeResources

logger = logging.getLogger(__name__)


def this_node() -> NodeResources:
    """Return the resources of this machine: CPU cores that the process may use, visible GPUs, and total memory."""
    import psutil
    import torch

    memory = psutil.virtual_memory().total / 2**30
    return NodeResources(platform.node(), float(len(os.sched_getaffinity(0))), float(torch.cuda.device_count()), memory)


class InlineExecutor(Executor):
    """Runs one trial at a time in the calling process."""

    where = "this process"

    def open(self, address: str | None) -> list[NodeResources]:
        """Return this machine as the only node; log a warning if ``address`` is given, which is ignored."""
        if address is not None:
            logger.warning("--address %s is ignored: the inline executor runs in this process", address)
        return [this_node()]

    def run(self, conductor: Conductor, checkpoint_seconds: float) -> bool:
        """Run all trials and return False; after Ctrl-C, save a checkpoint of the current trial and return True."""
        while (trial := conductor.next_trial()) is not None:
            runner = TrialRunner(trial, conductor.checkpoints, checkpoint_seconds=checkpoint_seconds)
            try:
                self._run_trial(runner, conductor)
            except KeyboardInterrupt:
                runner.interrupt()
                return True
            finally:
                runner.close()
        return False

    @staticmethod
    def _run_trial(runner: TrialRunner, conductor: Conductor) -> None:
        key = runner.trial.key
        conductor.started(key)
        while True:
            report = runner.step()
            if conductor.report(key, report.progress):
                conductor.finish(key, report.stopped_early())
                return
            if report.done:
                conductor.finish(key, report)
                return
