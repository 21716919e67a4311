"""Tune's side of the conversation with the conductor: searcher, scheduler, callback."""

import json
import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ray.tune import Callback, Stopper
from ray.tune.schedulers import FIFOScheduler, TrialScheduler
from ray.tune.search import Searcher

from orca_ray.sweep.execution.conductor import Conductor
from orca_ray.sweep.execution.executors.base import stopped_early

logger = logging.getLogger(__name__)

MAX_ATTEMPTS = 6
"""Times a trial is started when its workers are lost; a trial's own errors are never retried. Tune's own retries are
off: it gives up on a trial that fails before it has started again, as it does on a node that has just died."""
MAX_BACKOFF_SECONDS = 8.0
"""Longest pause of the driver before a lost trial starts again; running trials go on meanwhile."""


class ConductorSearcher(Searcher):  # type: ignore[misc]  # ray is untyped
    """Hands the conductor's trials to Tune, and Tune's ends to the conductor."""

    def __init__(self, conductor: Conductor, worker_settings: dict[str, Any]) -> None:
        super().__init__(metric="score", mode="min")
        self.conductor = conductor
        self._settings = worker_settings
        self.keys: dict[str, str] = {}
        """Trial key of each running Tune trial."""
        self.reasons: dict[str, str] = {}
        """Last line of what Tune says about a lost worker, by Tune trial."""
        self.error: Exception | None = None
        """What went wrong in the driver itself; ends the experiment."""

    def __getstate__(self) -> dict[str, Any]:
        """Pickle as nothing: Tune snapshots its searcher, and a conductor with its listener stays in its process."""
        return {}

    def suggest(self, trial_id: str) -> Any:
        """Return the next trial, None while all that can start is running, FINISHED at the end."""
        if self.error is not None:
            return Searcher.FINISHED
        trial = self.conductor.next_trial()
        if trial is None:
            return Searcher.FINISHED if self.conductor.done else None
        self.keys[trial_id] = trial.key
        return {"trial": json.dumps(trial.to_config()), **self._settings}

    def report(self, trial_id: str, result: dict[str, Any]) -> bool:
        """Pass an epoch on; return True if the trial was ended by it."""
        report = json.loads(result["report"])
        with self._own_errors():
            stop = self.conductor.report(self.keys[trial_id], report["progress"])
            if stop:
                self._finish(trial_id, stopped_early(report))
            elif report["done"]:
                self._finish(trial_id, report)
            return bool(stop or report["done"])
        return True

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """Nothing here: the scheduler has passed the result on already."""

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Take the last report of a trial that ended by itself, or back one whose worker was lost.

        Tune asks the scheduler about every result but a trial's last; one that the scheduler has stopped is known.
        """
        if trial_id not in self.keys or self.error is not None:
            return
        if error or not result or "report" not in result:
            with self._own_errors():
                self._lose(trial_id)
        else:
            self.report(trial_id, result)

    def _lose(self, trial_id: str) -> None:
        """Hand a trial out again after its worker was lost, later each time; give up after MAX_ATTEMPTS."""
        key = self.keys[trial_id]
        attempt = self.conductor.attempt(key)
        reason = self.reasons.pop(trial_id, "") or "out of memory?"
        if attempt >= MAX_ATTEMPTS:
            text = f"the worker or its node was lost, {attempt} times; the last: {reason}"
            self._finish(trial_id, {"status": "lost", "error": text})
            return
        logger.warning("trial %s: worker lost (%s)", key, reason)
        del self.keys[trial_id]
        self.conductor.give_back(key)
        time.sleep(min(2.0 ** (attempt - 1), MAX_BACKOFF_SECONDS))  # Ray needs a moment to notice that a node is gone

    def _finish(self, trial_id: str, report: dict[str, Any]) -> None:
        self.conductor.finish(self.keys.pop(trial_id), report)

    @contextmanager
    def _own_errors(self) -> Iterator[None]:
        """Keep an error of the driver, such as a full disk, which Tune would take for the trial's and try again."""
        try:
            yield
        except Exception as error:
            self.error = error

    def save(self, checkpoint_path: str) -> None:
        """Nothing to save: the results store is the only truth."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing to restore; see :meth:`save`."""


class ConductorScheduler(FIFOScheduler):  # type: ignore[misc]
    """First in, first out; a trial stops when the conductor says so."""

    def __init__(self, bridge: ConductorSearcher) -> None:
        super().__init__()
        self._bridge = bridge

    def on_trial_error(self, tune_controller: Any, trial: Any) -> None:
        """Keep what Tune says about a lost worker."""
        self._bridge.reasons[trial.trial_id] = _last_line(trial.error_file)
        super().on_trial_error(tune_controller, trial)

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        """Return STOP for a trial that has ended or must end."""
        ended = self._bridge.report(trial.trial_id, result)
        return str(TrialScheduler.STOP if ended else TrialScheduler.CONTINUE)


class StartNotes(Callback):  # type: ignore[misc]
    """Tells the conductor when trials really start."""

    def __init__(self, bridge: ConductorSearcher) -> None:
        self._bridge = bridge

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Note the start of a trial on its worker."""
        if trial.trial_id in self._bridge.keys:
            self._bridge.conductor.started(self._bridge.keys[trial.trial_id])


class StopOnError(Stopper):  # type: ignore[misc]
    """Ends the experiment once the driver itself has failed."""

    def __init__(self, bridge: ConductorSearcher) -> None:
        self._bridge = bridge

    def __getstate__(self) -> dict[str, Any]:
        """Pickle as nothing, like the searcher."""
        return {}

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        """Stop no single trial."""
        return False

    def stop_all(self) -> bool:
        """Stop all once there is an error."""
        return self._bridge.error is not None


def _last_line(path: str | None) -> str:
    try:
        return Path(path or "").read_text(encoding="utf-8", errors="replace").strip().splitlines()[-1][:500]
    except (OSError, IndexError):
        return ""
