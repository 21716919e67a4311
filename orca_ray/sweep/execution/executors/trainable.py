"""The Tune trainable: an actor that stays warm and runs one trial after another."""

import json
import os
from pathlib import Path
from typing import Any

from ray import tune

from orca_ray.sweep.execution.trial_runner import TrialRunner
from orca_ray.sweep.planning.trial import TrialSpec


class TrialActor(tune.Trainable):  # type: ignore[misc]  # ray is untyped
    """One step is one epoch of one stage; ``reset_config`` takes the next trial with the body still loaded."""

    def setup(self, config: dict[str, Any]) -> None:
        """Take the first trial."""
        if config["home"]:
            os.environ["ORCA_RAY_HOME"] = config["home"]
        trial = TrialSpec.from_config(json.loads(config["trial"]))
        self._runner = TrialRunner(trial, Path(config["checkpoints"]), checkpoint_seconds=config["checkpoint_seconds"])

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Drop the previous trial and take the next one."""
        self._runner.close()
        self.setup(new_config)
        return True

    def step(self) -> dict[str, Any]:
        """Run one epoch; the report travels as JSON, so that Tune neither flattens nor inspects it."""
        report = self._runner.step()
        if report["done"] and "CUDA error" in (report["error"] or ""):
            os._exit(1)  # the context is lost for every later trial here: Tune starts this one again in a new process
        return {"report": json.dumps(report), "done": report["done"]}

    def cleanup(self) -> None:
        """Keep the state of an unfinished trial."""
        self._runner.interrupt()

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """Nothing: trials keep their own checkpoints, found by trial key. Tune asks when it ends a reused actor."""

    def load_checkpoint(self, checkpoint: dict[str, Any] | None) -> None:
        """Nothing; see :meth:`save_checkpoint`."""


def make_trainable(name: str) -> type[TrialActor]:
    """Return the trainable under a name of its own: Tune keeps one global registry a process."""
    return type(name, (TrialActor,), {})
