"""Weights & Biases: a group of runs per sweep.

``WANDB_MODE=offline`` writes files for ``wandb sync``.
"""

import os
from typing import Any

from orca_ray.errors import UserError
from orca_ray.methods.reports import EpochProgress
from orca_ray.results.record import Record
from orca_ray.sweep.trackers.base import (
    Run,
    Tracker,
    TrackerKind,
    epoch_values,
    final_values,
)

_MODES_WITHOUT_KEY = ("offline", "dryrun", "disabled", "shared")
"""Values of ``WANDB_MODE`` with which wandb needs no API key."""
_MAX_TAG = 64
"""Largest length of a tag that Weights & Biases accepts."""


class WandbTracker(Tracker):
    """Tracker that writes several runs at a time from one process.

    The id of a run is the key of its trial.
    """

    def __init__(self, project: str, directory: str) -> None:
        self._project = project
        self._directory = directory
        self._runs: dict[str, Any] = {}

    def start(self, run: Run) -> None:
        """Create the run, or continue it."""
        import wandb

        # Statistics, code and output would be the driver's, which trains nothing.
        settings = wandb.Settings(
            silent=True,
            console="off",
            x_disable_stats=True,
            disable_git=True,
            disable_code=True,
            init_timeout=60,
        )
        self._runs[run.key] = wandb.init(
            project=self._project,
            dir=self._directory,
            id=run.key,
            name=run.name,
            group=run.sweep,
            job_type=run.tags["phase"],
            config={**run.hyperparameters, **run.tags},
            resume="allow",
            tags=[f"{name}: {value}"[:_MAX_TAG] for name, value in run.tags.items()],
            reinit="create_new",
            settings=settings,
        )

    def log(self, key: str, progress: EpochProgress) -> None:
        """Add the values of an epoch, with the stage's epoch as the charts' axis."""
        axis = f"{progress.stage}/epoch"
        if progress.epoch == 1:
            self._runs[key].define_metric(f"{progress.stage}/*", step_metric=axis)
        self._runs[key].log({axis: progress.epoch, **epoch_values(progress)})

    def finish(self, key: str, record: Record) -> None:
        """Add the final values and the status to the run's summary, and end the run."""
        run = self._runs.pop(key)
        run.summary.update({**final_values(record), "status": record.status.value})
        run.finish(exit_code=int(record.status.failed))

    def close(self) -> None:
        """End unfinished runs as failed; the sweep continues them."""
        for run in self._runs.values():
            run.finish(exit_code=1)


def _open(target: str) -> Tracker:
    """Return the tracker of ``--track wandb:TARGET``, where the target is a project.

    Raises UserError if wandb would need an API key and has none.
    """
    import wandb

    # Otherwise the first run would ask for a key on the terminal, below the table of
    # progress.
    needs_key = wandb.setup().settings.mode not in _MODES_WITHOUT_KEY
    if needs_key and not wandb.login(prompt=False):
        raise UserError(
            "--track wandb: no API key on this machine. Type `wandb login`, set"
            " WANDB_API_KEY, or set WANDB_MODE=offline to write runs to files for"
            " `wandb sync`"
        )
    project = target or os.environ.get("WANDB_PROJECT", "orca-ray")
    return WandbTracker(project, os.environ.get("WANDB_DIR", os.getcwd()))


TRACKER = TrackerKind("wandb", "PROJECT", "wandb", _open)
