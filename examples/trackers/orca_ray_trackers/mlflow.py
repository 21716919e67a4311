"""MLflow: an experiment per sweep, on a tracking server or in a local database or
directory.
"""

import logging
import os
import re
import time
from pathlib import Path
from typing import Any

from orca_ray.methods.reports import EpochProgress
from orca_ray.paths import check_directory
from orca_ray.results.record import Record
from orca_ray.sweep.trackers.base import (
    Run,
    Tracker,
    TrackerKind,
    epoch_values,
    final_values,
)

_KEY = "orca_ray.trial_key"


class MLflowTracker(Tracker):
    """Tracker that writes runs by MLflow's client.

    A tag of each run is the key of its trial, to find the run again.
    """

    def __init__(self, uri: str) -> None:
        self._uri = uri
        self._client: Any = None
        self._open: dict[str, str] = {}

    def start(self, run: Run) -> None:
        """Create the experiment and the run if they do not exist, and log the
        hyperparameters.
        """
        from mlflow.entities import Param

        if self._client is None:
            from mlflow import MlflowClient

            logging.getLogger("mlflow").setLevel(
                logging.WARNING
            )  # it prints that it makes tables
            self._client = MlflowClient(self._uri)
        known = self._client.get_experiment_by_name(run.sweep)
        experiment = (
            known.experiment_id if known else self._client.create_experiment(run.sweep)
        )
        found = self._client.search_runs(
            [experiment], f"tags.`{_KEY}` = '{run.key}'", max_results=1
        )
        if found:
            identity = found[0].info.run_id
            self._client.update_run(identity, status="RUNNING")
        else:
            tags = {**run.tags, _KEY: run.key}
            created = self._client.create_run(experiment, tags=tags, run_name=run.name)
            identity = created.info.run_id
            given = [
                Param(name, str(value)) for name, value in run.hyperparameters.items()
            ]
            self._client.log_batch(identity, params=given)
        self._open[run.key] = identity

    def log(self, key: str, progress: EpochProgress) -> None:
        """Add the values of an epoch as metrics; their step is the epoch."""
        self._log(key, epoch_values(progress), progress.epoch)

    def finish(self, key: str, record: Record) -> None:
        """Add the final values, and the status as a tag, and end the run."""
        self._log(key, final_values(record), record.epochs)
        self._client.set_tag(self._open[key], "status", record.status.value)
        self._client.set_terminated(
            self._open.pop(key), "FAILED" if record.status.failed else "FINISHED"
        )

    def close(self) -> None:
        """Mark unfinished runs as killed; the sweep continues them."""
        for identity in self._open.values():
            self._client.set_terminated(identity, "KILLED")

    def _log(self, key: str, values: dict[str, float], step: int) -> None:
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        metrics = [Metric(name, value, now, step) for name, value in values.items()]
        self._client.log_batch(self._open[key], metrics=metrics)


def _open(target: str) -> Tracker:
    uri = (
        target
        or os.environ.get("MLFLOW_TRACKING_URI", "")
        or f"sqlite:///{Path('mlflow.db').absolute()}"
    )
    if not re.match(r"[a-z][a-z0-9+.-]*:|databricks$|uc$", uri):
        directory = Path(uri).expanduser().absolute()
        check_directory(directory, "the directory of --track mlflow")
        uri = directory.as_uri()
    if uri.startswith("file:"):  # otherwise MLflow refuses directories since 3.13
        os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")
    return MLflowTracker(uri)


TRACKER = TrackerKind("mlflow", "URI", "mlflow", _open)
