"""A tracker that writes a line of JSON for each event: ``--track json_lines:FILE``."""

import json
from pathlib import Path

from orca_ray.methods.reports import EpochProgress
from orca_ray.results.record import Record
from orca_ray.sweep.trackers.base import (
    Run,
    Tracker,
    TrackerKind,
    epoch_values,
    final_values,
)


class JsonLines(Tracker):
    """Tracker that appends to one file."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("a")

    def start(self, run: Run) -> None:
        """Write the task, the method and the hyper-parameters of a trial."""
        self._write(run.key, **run.tags, **run.hyperparameters)

    def log(self, key: str, progress: EpochProgress) -> None:
        """Write an epoch."""
        self._write(key, epoch=progress.epoch, **epoch_values(progress))

    def finish(self, key: str, record: Record) -> None:
        """Write the final scores."""
        self._write(key, status=record.status.value, **final_values(record))

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _write(self, key: str, **values: str | float) -> None:
        print(json.dumps({"trial": key, **values}), file=self._file, flush=True)


TRACKER = TrackerKind(
    "json_lines",
    "FILE",
    "json",
    lambda target: JsonLines(Path(target or "trials.jsonl").absolute()),
)
