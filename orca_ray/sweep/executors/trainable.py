"""The trainable for Ray Tune: an actor that runs one trial after another."""

import faulthandler
import threading
from typing import Any, ClassVar

import ray
from ray import tune

from orca_ray.data.cache import remove_abandoned
from orca_ray.process import note_progress
from orca_ray.results.record import Status
from orca_ray.sweep.executors.liveness import HeartbeatThread
from orca_ray.sweep.messages.causes import StagingError
from orca_ray.sweep.messages.settings import WorkerSettings
from orca_ray.sweep.plan.trial_spec import TrialSpec
from orca_ray.sweep.worker.runner import TrialRunner


class TrialActor(tune.Trainable):  # type: ignore[misc]  # ray is untyped
    """Trainable of Tune that runs trials; a step is one epoch.

    The pretrained body stays in memory between trials.
    """

    settings: ClassVar[WorkerSettings]

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """Construct the actor; this process ends if :meth:`setup` hangs.

        The driver does not watch an actor until it has started.
        """
        limit = min(self.settings.time.heartbeat, threading.TIMEOUT_MAX)
        faulthandler.dump_traceback_later(
            limit, exit=True
        )  # works even if the interpreter's lock is held
        super().__init__(*args, **kwargs)
        faulthandler.cancel_dump_traceback_later()

    def setup(self, config: dict[str, Any]) -> None:
        """Set up the trial in ``config``."""
        settings = self.settings
        settings.apply()
        if not hasattr(self, "_heartbeat"):
            remove_abandoned()  # of workers that were killed on this node
            self._node = (
                ray.get_runtime_context().get_node_id() if ray.is_initialized() else ""
            )
            self._heartbeat = HeartbeatThread(
                min(settings.time.heartbeat / 8, 30.0), self._node
            )
        self._heartbeat.follow(self.trial_id)
        self._runner = TrialRunner(TrialSpec.from_json(config["trial"]), settings)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Free the previous trial, and set up the trial in ``new_config``.

        Returns True, by which Tune knows that the actor was reused.
        """
        self._runner.close()
        self.setup(new_config)
        return True

    def step(self) -> dict[str, Any]:
        """Run one step of the trial, and return a dict for Tune.

        The dict has the report as JSON text, because Tune would flatten a nested dict.
        Raises RuntimeError after a CUDA error, and StagingError if this node cannot
        stage the trial's data.
        """
        note_progress()
        report = self._runner.step()
        if report.status is Status.FAILED_CODE and "CUDA error" in (report.error or ""):
            raise RuntimeError(
                report.error
            )  # Tune ends this process: its CUDA context is lost for later trials, too
        if report.status is Status.LOST:
            raise StagingError(
                report.error
            )  # of this node, not of the trial: the controller restarts it
        return {"report": report.to_json(), "done": report.done, "node": self._node}

    def cleanup(self) -> None:
        """Save a checkpoint of the trial if it has not ended, and free the model."""
        self._runner.interrupt()

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """Do nothing: `TrialRunner` saves checkpoints.

        Tune calls this method when it ends a reused actor.
        """

    def load_checkpoint(self, checkpoint: dict[str, Any] | None) -> None:
        """Do nothing; see :meth:`save_checkpoint`."""


def make_trainable(name: str, settings: WorkerSettings) -> type[TrialActor]:
    """Return a subclass of `TrialActor` called ``name``.

    Tune registers trainables by name, once per process.
    """
    return type(name, (TrialActor,), {"settings": settings})
