"""The Tune trainable: an actor that stays warm and runs one trial after another."""

import os
from pathlib import Path
from typing import Any

from ray import tune

from orca_ray.sweep.execution.messages import Assignment
from orca_ray.sweep.execution.trial_runner import TrialRunner


class TrialActor(tune.Trainable):  # type: ignore[misc]  # ray is untyped
    """One step is one epoch of one stage; ``reset_config`` takes the next trial while the body stays loaded."""

    def setup(self, config: dict[str, Any]) -> None:
        """Take the first trial."""
        order = Assignment.from_json(config["assignment"])
        if order.home:
            os.environ["ORCA_RAY_HOME"] = order.home
        self._runner = TrialRunner(order.trial, Path(order.checkpoints), checkpoint_seconds=order.checkpoint_seconds)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Drop the previous trial and take the next one."""
        self._runner.close()
        self.setup(new_config)
        return True

    def step(self) -> dict[str, Any]:
        """Run one epoch; the report travels as JSON, so that Tune neither flattens nor inspects it."""
        report = self._runner.step()
        if report.done and "CUDA error" in (report.error or ""):
            os._exit(1)  # the CUDA context is lost for later trials too; the conductor restarts this one elsewhere
        return {"report": report.to_json(), "done": report.done}

    def cleanup(self) -> None:
        """Save the state of an unfinished trial."""
        self._runner.interrupt()

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """Do nothing: trials save their own checkpoints, by trial key. Tune calls this when it ends a reused actor."""

    def load_checkpoint(self, checkpoint: dict[str, Any] | None) -> None:
        """Do nothing; see :meth:`save_checkpoint`."""


def make_trainable(name: str) -> type[TrialActor]:
    """Return the trainable class under its own name, since Tune has one global registry per process."""
    return type(name, (TrialActor,), {})
