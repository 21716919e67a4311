"""Tune's searcher, scheduler and callback, which pass everything on to the conductor."""

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ray.tune import Callback, Stopper
from ray.tune.schedulers import FIFOScheduler, TrialScheduler
from ray.tune.search import Searcher

from orca_ray.results.record import Status
from orca_ray.sweep.execution.conductor import Conductor
from orca_ray.sweep.execution.messages import Assignment, TrialReport
from orca_ray.sweep.planning.trial import TrialSpec

logger = logging.getLogger(__name__)

MAX_ATTEMPTS = 6
"""Number of times a trial is started when its workers are lost; a trial's own errors are never retried. Tune's retries
are off, because it gives up on a trial that fails before it has started, as on a node that has just died."""
MAX_BACKOFF_SECONDS = 8.0
"""Longest pause of the driver before a lost trial starts again; running trials continue meanwhile."""


class ConductorSearcher(Searcher):  # type: ignore[misc]  # ray is untyped
    """Passes the conductor's trials to Tune, and their reports to the conductor."""

    def __init__(self, conductor: Conductor, assign: Callable[[TrialSpec], Assignment]) -> None:
        super().__init__(metric="score", mode="min")
        self.conductor = conductor
        self._assign = assign
        self.keys: dict[str, str] = {}
        """Trial key of each running Tune trial."""
        self.reasons: dict[str, str] = {}
        """Last line of Tune's error about a lost worker, by Tune trial."""
        self.error: Exception | None = None
        """Error of the driver itself, which ends the experiment."""

    def __getstate__(self) -> dict[str, Any]:
        """Pickle nothing: Tune snapshots its searcher, but the conductor must stay in its process."""
        return {}

    def suggest(self, trial_id: str) -> Any:
        """Return the next trial, None while all trials that can start are running, or FINISHED."""
        if self.error is not None:
            return Searcher.FINISHED
        trial = self.conductor.next_trial()
        if trial is None:
            return Searcher.FINISHED if self.conductor.done else None
        self.keys[trial_id] = trial.key
        return {"assignment": self._assign(trial).to_json()}

    def report(self, trial_id: str, result: dict[str, Any]) -> bool:
        """Pass a report on; return True if it ended the trial."""
        report = TrialReport.from_json(result["report"])
        with self._own_errors():
            stop = self.conductor.report(self.keys[trial_id], report.progress)
            if stop or report.done:
                self.conductor.finish(self.keys.pop(trial_id), report.stopped_early() if stop else report)
            return stop or report.done
        return True

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Pass on the last report of a trial that ended by itself, or give back a trial whose worker was lost.

        Tune shows the scheduler every result but a trial's last one. Trials stopped by the scheduler have already been
        handled.
        """
        if trial_id not in self.keys or self.error is not None:
            return
        if error or not result or "report" not in result:
            with self._own_errors():
                self._lose(trial_id)
        else:
            self.report(trial_id, result)

    def _lose(self, trial_id: str) -> None:
        """Give back a trial whose worker was lost, after a growing pause; end it after MAX_ATTEMPTS."""
        key = self.keys.pop(trial_id)
        attempt = self.conductor.attempt(key)
        reason = self.reasons.pop(trial_id, "") or "out of memory?"
        if attempt >= MAX_ATTEMPTS:
            text = f"the worker or its node was lost, {attempt} times; the last: {reason}"
            self.conductor.finish(key, TrialReport(status=Status.LOST, error=text))
            return
        logger.warning("trial %s: worker lost (%s)", key, reason)
        self.conductor.give_back(key)
        time.sleep(min(2.0 ** (attempt - 1), MAX_BACKOFF_SECONDS))  # Ray needs a moment to notice that a node is gone

    @contextmanager
    def _own_errors(self) -> Iterator[None]:
        """Store an error of the driver, such as a full disk; Tune would attribute it to the trial and retry."""
        try:
            yield
        except Exception as error:
            self.error = error

    def save(self, checkpoint_path: str) -> None:
        """Do nothing: the results store is the only truth."""

    def restore(self, checkpoint_path: str) -> None:
        """Do nothing; see :meth:`save`."""


class ConductorScheduler(FIFOScheduler):  # type: ignore[misc]
    """First in, first out; a trial stops when the conductor says so."""

    def __init__(self, bridge: ConductorSearcher) -> None:
        super().__init__()
        self._bridge = bridge

    def on_trial_error(self, tune_controller: Any, trial: Any) -> None:
        """Store Tune's error about a lost worker."""
        self._bridge.reasons[trial.trial_id] = _last_line(trial.error_file)
        super().on_trial_error(tune_controller, trial)

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        """Return STOP if the trial has ended or must end."""
        ended = self._bridge.report(trial.trial_id, result)
        return str(TrialScheduler.STOP if ended else TrialScheduler.CONTINUE)


class ConductorHooks(Callback, Stopper):  # type: ignore[misc]
    """Passes the start of a trial on, and ends the experiment after an error of the driver itself."""

    def __init__(self, bridge: ConductorSearcher) -> None:
        self._bridge = bridge

    def __getstate__(self) -> dict[str, Any]:
        """Pickle nothing, like the searcher."""
        return {}

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Pass the start of a trial on."""
        if trial.trial_id in self._bridge.keys:
            self._bridge.conductor.started(self._bridge.keys[trial.trial_id])

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        """Return False: no single trial is stopped."""
        return False

    def stop_all(self) -> bool:
        """Return True once there is an error."""
        return self._bridge.error is not None


def _last_line(path: str | None) -> str:
    try:
        return Path(path or "").read_text(encoding="utf-8", errors="replace").strip().splitlines()[-1][:500]
    except (OSError, IndexError):
        return ""
