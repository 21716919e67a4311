"""MLflow: an experiment per sweep, on a tracking server or in local files."""

import logging
import os
import re
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

_KEY_TAG = "orca_ray.trial_key"
"""Name of a tag of a run. It holds the trial's key, by which the run is found again."""


class MLflowTracker(Tracker):
    """Tracker that writes runs by MLflow's client."""

    def __init__(self, uri: str) -> None:
        self._uri = uri
        self._client: Any = None
        self._run_ids: dict[str, str] = {}

    def start(self, run: Run) -> None:
        """Create the experiment and the run, or continue the run if it exists."""
        if self._client is None:
            self._client = self._connect()
        experiment_id = self._experiment_id(run.sweep)
        matches = self._client.search_runs(
            [experiment_id], f"tags.`{_KEY_TAG}` = '{run.key}'", max_results=1
        )
        if matches:
            run_id = matches[0].info.run_id
            self._client.update_run(run_id, status="RUNNING")
        else:
            run_id = self._create(run, experiment_id)
        self._run_ids[run.key] = run_id

    def log(self, key: str, progress: EpochProgress) -> None:
        """Add the values of an epoch as metrics; their step is the epoch."""
        self._log_metrics(key, epoch_values(progress), progress.epoch)

    def finish(self, key: str, record: Record) -> None:
        """Add the final values, and the status as a tag, and end the run."""
        self._log_metrics(key, final_values(record), record.epochs)
        run_id = self._run_ids.pop(key)
        self._client.set_tag(run_id, "status", record.status.value)
        status = "FAILED" if record.status.failed else "FINISHED"
        self._client.set_terminated(run_id, status)

    def close(self) -> None:
        """Mark unfinished runs as killed; the sweep continues them."""
        for run_id in self._run_ids.values():
            self._client.set_terminated(run_id, "KILLED")

    def _connect(self) -> Any:
        """Return a client, which connects or makes a database when it is first used."""
        from mlflow import MlflowClient

        # At INFO, MLflow prints that it makes the tables of a database.
        logging.getLogger("mlflow").setLevel(logging.WARNING)
        return MlflowClient(self._uri)

    def _experiment_id(self, name: str) -> str:
        experiment = self._client.get_experiment_by_name(name)
        if experiment is not None:
            return str(experiment.experiment_id)
        return str(self._client.create_experiment(name))

    def _create(self, run: Run, experiment_id: str) -> str:
        """Create a run with its tags and hyper-parameters, and return its id."""
        from mlflow.entities import Param

        tags = {**run.tags, _KEY_TAG: run.key}
        created = self._client.create_run(experiment_id, tags=tags, run_name=run.name)
        run_id = str(created.info.run_id)
        parameters = [
            Param(name, str(value)) for name, value in run.hyperparameters.items()
        ]
        self._client.log_batch(run_id, params=parameters)
        return run_id

    def _log_metrics(self, key: str, values: dict[str, float], step: int) -> None:
        from mlflow.entities import Metric

        milliseconds = int(time.time() * 1000)
        metrics = [
            Metric(name, value, milliseconds, step) for name, value in values.items()
        ]
        self._client.log_batch(self._run_ids[key], metrics=metrics)


def _open(target: str) -> Tracker:
    """Return the tracker of ``--track mlflow:TARGET``.

    Without a target it writes to ``MLFLOW_TRACKING_URI``, or to ``mlflow.db``. Raises
    UserError if the target is a directory that cannot be written.
    """
    uri = target or os.environ.get("MLFLOW_TRACKING_URI", "")
    if not uri:
        uri = f"sqlite:///{Path('mlflow.db').absolute()}"
    is_address = re.match(r"[a-z][a-z0-9+.-]*:|databricks$|uc$", uri)
    if not is_address:
        directory = expand_user(uri).absolute()
        check_directory(directory, "the directory of --track mlflow")
        uri = directory.as_uri()
    if uri.startswith("file:"):
        # Since 3.13, MLflow refuses directories otherwise.
        os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")
    return MLflowTracker(uri)


TRACKER = TrackerKind("mlflow", "URI", "mlflow", _open)
