"""Searcher, scheduler and callback for Ray Tune; they pass Tune's calls on to the conductor, which decides."""

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
from orca_ray.sweep.planning.searches import TrialSpec

logger = logging.getLogger(__name__)

MAX_ATTEMPTS = 6
"""How often a trial is started if its worker disappears each time. Errors raised by the trial itself are not retried.
Tune's own retries are off: it gives up on a trial that fails before it has started, e.g. on a node that just died."""
MAX_BACKOFF_SECONDS = 8.0
"""Longest pause before a trial whose worker disappeared starts again; other trials continue during the pause."""


class ConductorSearcher(Searcher):  # type: ignore[misc]  # ray is untyped
    """Gives Tune the trials that the conductor chooses, and gives the conductor the reports of these trials."""

    def __init__(self, conductor: Conductor, assign: Callable[[TrialSpec], Assignment]) -> None:
        super().__init__(metric="score", mode="min")
        self.conductor = conductor
        self._assign = assign
        self.keys: dict[str, str] = {}
        """`TrialSpec.key` of each running trial, by Tune's trial id."""
        self.reasons: dict[str, str] = {}
        """Last line of Tune's error for each trial whose worker disappeared, by Tune's trial id."""
        self.error: Exception | None = None
        """Exception in the driver itself, e.g. a full disk; it ends Tune's run and is raised afterwards."""

    def __getstate__(self) -> dict[str, Any]:
        """Return nothing to pickle: Tune saves its searcher to disk, but the conductor must not be copied."""
        return {}

    def suggest(self, trial_id: str) -> Any:
        """Return the config of the next trial, None if none can start now, or FINISHED if none will follow."""
        if self.error is not None:
            return Searcher.FINISHED
        with self._own_errors():
            trial = self.conductor.next_trial()
            if trial is None:
                return Searcher.FINISHED if self.conductor.done or self.conductor.control.stopping else None
            self.keys[trial_id] = trial.key
            return {"assignment": self._assign(trial).to_json()}
        return Searcher.FINISHED

    def tick(self) -> None:
        """Let the conductor write what is due, and apply requests."""
        with self._own_errors():
            self.conductor.tick()

    def report(self, trial_id: str, result: dict[str, Any]) -> bool:
        """Pass the report in ``result`` to the conductor; return True if the trial has ended or must stop."""
        report = TrialReport.from_json(result["report"])
        with self._own_errors():
            key, node = self.keys[trial_id], report.worker.node
            stop = self.conductor.report(key, report.progress, log=report.log, node=node)
            if stop or report.done:
                self.conductor.finish(self.keys.pop(trial_id), report.stopped_early() if stop else report)
            return stop or report.done
        return True

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Pass the last report of a trial to the conductor, or run the trial again if its worker disappeared.

        Tune passes all results of a trial to the scheduler, except the last one, which arrives here. A trial that the
        scheduler stopped has already been handled.
        """
        if trial_id not in self.keys or self.error is not None:
            return
        if error or not result or "report" not in result:
            if not self.conductor.control.stopping:  # trials that had not reported end so, too
                with self._own_errors():
                    self._lose(trial_id)
        else:
            self.report(trial_id, result)

    def _lose(self, trial_id: str) -> None:
        """Pause, then let the conductor restart a trial whose worker disappeared; the last attempt ends as ``lost``."""
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
        """Context manager: store an exception of the driver, which Tune would blame on the trial, in ``error``."""
        try:
            yield
        except Exception as error:
            self.error = error

    def save(self, checkpoint_path: str) -> None:
        """Do nothing: a sweep resumes from the results store, not from Tune's files."""

    def restore(self, checkpoint_path: str) -> None:
        """Do nothing; see :meth:`save`."""


class ConductorScheduler(FIFOScheduler):  # type: ignore[misc]
    """Starts trials in the order in which they are suggested, and stops those that the conductor stops."""

    def __init__(self, bridge: ConductorSearcher) -> None:
        super().__init__()
        self._bridge = bridge

    def on_trial_error(self, tune_controller: Any, trial: Any) -> None:
        """Store the last line of Tune's error, for the log, and for the record if the trial ends as ``lost``."""
        self._bridge.reasons[trial.trial_id] = _last_line(trial.error_file)
        super().on_trial_error(tune_controller, trial)

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        """Return STOP if the trial has ended or must stop, else CONTINUE."""
        ended = self._bridge.report(trial.trial_id, result)
        return str(TrialScheduler.STOP if ended else TrialScheduler.CONTINUE)


class ConductorHooks(Callback, Stopper):  # type: ignore[misc]
    """Tells the conductor when a trial starts, and ends Tune's run after an exception in the driver itself."""

    def __init__(self, bridge: ConductorSearcher) -> None:
        self._bridge = bridge

    def __getstate__(self) -> dict[str, Any]:
        """Return nothing to pickle; see `ConductorSearcher`."""
        return {}

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Tell the conductor that a trial has started."""
        if trial.trial_id in self._bridge.keys:
            self._bridge.conductor.started(self._bridge.keys[trial.trial_id])

    def on_step_end(self, iteration: int, trials: list[Any], **info: Any) -> None:
        """Let the conductor do its periodic work; Tune's loop makes about ten steps a second."""
        self._bridge.tick()

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Drop the report, which is stored by now: Tune keeps and saves the last result of every trial, to the end."""
        trial.last_result.pop("report", None)

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        """Return False: single trials are stopped by the scheduler."""
        return False

    def stop_all(self) -> bool:
        """Return whether the driver has had an exception or must stop; True makes Tune end all trials."""
        return self._bridge.error is not None or self._bridge.conductor.control.stopping


def _last_line(path: str | None) -> str:
    try:
        return Path(path or "").read_text(encoding="utf-8", errors="replace").strip().splitlines()[-1][:500]
    except (OSError, IndexError):
        return ""
