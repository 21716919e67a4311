"""Tune's side of the conversation with the conductor: searcher, scheduler, callback."""

import json
import logging
from typing import Any

from ray.tune import Callback
from ray.tune.schedulers import FIFOScheduler, TrialScheduler
from ray.tune.search import Searcher

from orca_ray.sweep.conductor import Conductor
from orca_ray.sweep.executors.inline import stopped_early

logger = logging.getLogger(__name__)


class ConductorSearcher(Searcher):  # type: ignore[misc]  # ray is untyped
    """Hands the conductor's trials to Tune, and Tune's ends to the conductor."""

    def __init__(self, conductor: Conductor, worker_settings: dict[str, Any]) -> None:
        super().__init__(metric="score", mode="min")
        self.conductor = conductor
        self._settings = worker_settings
        self.keys: dict[str, str] = {}
        """Trial key of each running Tune trial."""

    def __getstate__(self) -> dict[str, Any]:
        """Pickle as nothing: Tune snapshots its searcher, and a conductor with its listener stays in its process."""
        return {}

    def suggest(self, trial_id: str) -> Any:
        """Return the next trial, None while all that can start is running, FINISHED at the end."""
        trial = self.conductor.next_trial()
        if trial is None:
            return Searcher.FINISHED if self.conductor.done else None
        self.keys[trial_id] = trial.key
        return {"trial": json.dumps(trial.to_config()), **self._settings}

    def report(self, trial_id: str, result: dict[str, Any]) -> bool:
        """Pass an epoch on; return True if the trial was ended by it."""
        report = json.loads(result["report"])
        key = self.keys[trial_id]
        stop = self.conductor.report(key, report["progress"])
        if report["done"]:
            self._finish(trial_id, report)
        elif stop:
            self._finish(trial_id, stopped_early(report))
        return bool(report["done"] or stop)

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """Nothing here: the scheduler has passed the result on already."""

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Take the last report of a trial that ended by itself, or of one whose worker was lost too often.

        Tune asks the scheduler about every result but a trial's last; one that the scheduler has stopped is known.
        """
        if trial_id not in self.keys:
            return
        if error or not result or "report" not in result:
            text = "the worker or its node was lost, and so were the ones it was retried on (out of memory?)"
            self._finish(trial_id, {"status": "lost", "error": text})
        else:
            self.report(trial_id, result)

    def _finish(self, trial_id: str, report: dict[str, Any]) -> None:
        self.conductor.finish(self.keys.pop(trial_id), report)

    def save(self, checkpoint_path: str) -> None:
        """Nothing to save: the results store is the only truth."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing to restore; see :meth:`save`."""


class ConductorScheduler(FIFOScheduler):  # type: ignore[misc]
    """First in, first out; a trial stops when the conductor says so."""

    def __init__(self, bridge: ConductorSearcher) -> None:
        super().__init__()
        self._bridge = bridge

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        """Return STOP for a trial that has ended or must end."""
        ended = self._bridge.report(trial.trial_id, result)
        return str(TrialScheduler.STOP if ended else TrialScheduler.CONTINUE)


class RetryNotes(Callback):  # type: ignore[misc]
    """Tells the conductor when trials really start, and when they start again."""

    def __init__(self, bridge: ConductorSearcher) -> None:
        self._bridge = bridge

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Note the start of a trial on its worker."""
        if trial.trial_id in self._bridge.keys:
            self._bridge.conductor.started(self._bridge.keys[trial.trial_id])

    def on_trial_recover(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Note a retry."""
        if trial.trial_id in self._bridge.keys:
            self._bridge.conductor.retried(self._bridge.keys[trial.trial_id])
