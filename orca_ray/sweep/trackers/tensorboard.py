"""TensorBoard: event files in ``DIR/SWEEP/TASK/METHOD/KEY``.

They are written by tensorboardX, which Ray Tune installs.
"""

import time
from pathlib import Path
from typing import Any

from orca_ray.methods.reports import EpochProgress
from orca_ray.paths import check_directory, expand_user
from orca_ray.results.record import Record
from orca_ray.sweep.trackers.base import (
    Run,
    Tracker,
    TrackerKind,
    epoch_values,
    final_values,
)


class TensorBoardTracker(Tracker):
    """Tracker that writes event files below one directory."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._open: dict[str, tuple[Run, Any]] = {}

    def start(self, run: Run) -> None:
        """Open a file of TensorBoard for the run.

        The file tells TensorBoard to drop the epochs of an interrupted attempt, because
        they are logged again.
        """
        from tensorboardX import SummaryWriter

        folder = (
            self._directory
            / run.sweep
            / run.tags["task"]
            / run.tags["method"]
            / run.key
        )
        # Without a suffix, two writers that open in the same second write to the same
        # file.
        writer = SummaryWriter(
            str(folder), purge_step=0, filename_suffix=f".{time.time_ns()}"
        )
        writer.add_text(
            "run", "\n".join(f"- {name}: {value}" for name, value in run.tags.items())
        )
        self._open[run.key] = run, writer

    def log(self, key: str, progress: EpochProgress) -> None:
        """Write the values of an epoch, with the epoch as step.

        They are flushed at once, so that TensorBoard shows running trials.
        """
        writer = self._open[key][1]
        for name, value in epoch_values(progress).items():
            writer.add_scalar(name, value, progress.epoch)
        writer.flush()

    def finish(self, key: str, record: Record) -> None:
        """Add the final values and a row of hyperparameters, and close the writer."""
        from tensorboardX.summary import hparams

        run, writer = self._open.pop(key)
        finals = {
            f"final/{name}": value for name, value in final_values(record).items()
        }
        for name, value in finals.items():
            writer.add_scalar(name, value, record.epochs)
        for summary in hparams(
            {**run.hyperparameters, **run.tags, "status": record.status.value}, finals
        ):
            writer.file_writer.add_summary(summary)
        writer.close()

    def close(self) -> None:
        """Close the writers of unfinished runs."""
        for _, writer in self._open.values():
            writer.close()


def _open(target: str) -> Tracker:
    directory = expand_user(target or "runs").absolute()
    check_directory(directory, "the directory of --track tensorboard")
    return TensorBoardTracker(directory)


TRACKER = TrackerKind("tensorboard", "DIR", "tensorboardX", _open)
