"""A run of Ray Tune, in which the controller of the sweep makes all decisions.

The classes of this module are called by Tune, and pass the calls to the controller.
"""

import contextlib
import logging
import math
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

import ray
from ray import tune
from ray.exceptions import OutOfMemoryError, RayActorError, RayTaskError
from ray.tune import Callback, Stopper
from ray.tune.experiment import Trial
from ray.tune.schedulers import FIFOScheduler, TrialScheduler
from ray.tune.search import Searcher

from orca_ray.data.cache import scratch_directory
from orca_ray.sweep.executors import ray_private, trainable
from orca_ray.sweep.executors.liveness import CHECK_SECONDS, Deadlines, read_heartbeat
from orca_ray.sweep.messages.causes import CAUSES, Cause, Failure, bounded, classify
from orca_ray.sweep.messages.report import TrialReport
from orca_ray.sweep.messages.settings import WorkerSettings
from orca_ray.sweep.plan.trial_spec import Resources
from orca_ray.sweep.run.controller import SweepController

logger = logging.getLogger(__name__)


class TuneSearcher(Searcher):  # type: ignore[misc]  # ray is untyped
    """Searcher of Tune: passes on the controller's trials and Tune's reports."""

    def __init__(self, controller: SweepController, deadlines: Deadlines) -> None:
        super().__init__(metric="score", mode="min")
        self.controller = controller
        self.deadlines = deadlines
        self.keys: dict[str, str] = {}
        """Key of each trial that Tune has, by Tune's trial id, the oldest first."""
        self.losses: dict[str, tuple[Exception | None, str]] = {}
        """Ray's exception and its text, by Tune's id of a trial whose worker
        disappeared.
        """
        self.expired: dict[str, str] = {}
        """Exceeded time limit, as a sentence, by Tune's id of a trial whose worker was
        killed.
        """
        self.error: Exception | None = None
        """Exception in the driver itself, e.g. about a full disk.

        It ends Tune's run, and is raised afterwards.
        """
        self.interrupted = False
        """Whether the user wants to end the run."""

    def __getstate__(self) -> dict[str, Any]:
        """Return nothing to pickle.

        Tune saves its searcher to disk, but the controller must not be copied.
        """
        return {}

    def suggest(self, trial_id: str) -> Any:
        """Return the config of the next trial.

        Returns None if no trial can start now, FINISHED if no trial will start later.
        """
        if self.ending:
            return Searcher.FINISHED
        with self._own_errors():
            trial = self.controller.next_trial()
            if trial is None:
                return (
                    Searcher.FINISHED if self.controller.done or self.ending else None
                )
            self.keys[trial_id] = trial.key
            avoid = self.controller.placement.avoided(
                trial.resources, self.controller.failures.of(trial.key)
            )
            return {"trial": trial.to_json(), "avoid": avoid}
        return Searcher.FINISHED

    @property
    def ending(self) -> bool:
        """Whether Tune must end all trials.

        This is so after an exception in the driver, an interruption, or a request.
        """
        return (
            self.error is not None
            or self.interrupted
            or self.controller.control.stopping
        )

    def tick(self) -> None:
        """Call `SweepController.tick`: write rows that are due, and apply requests."""
        with self._own_errors():
            self.controller.tick()

    def report(self, trial_id: str, result: dict[str, Any]) -> bool:
        """Pass the report in ``result`` to the controller.

        Return whether the trial has ended or must stop.
        """
        report = TrialReport.from_json(result["report"])
        node = result.get("node", "")
        with self._own_errors():
            key = self.keys[trial_id]
            self.deadlines.reported(trial_id)
            stop = self.controller.report(
                key, report.progress, log=report.log, node=report.worker.node
            )
            if stop or report.done:
                self._forget(trial_id)
                self.controller.ended(
                    key, report.stopped_early() if stop else report, node
                )
            elif report.progress:  # its node works; staging alone does not show that
                self.controller.observe(key, report, node)
            return stop or report.done
        return True

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        """Pass the last report of a trial, or its failure, to the controller.

        If the worker disappeared, the controller decides whether the trial runs again.

        Tune calls this method with the last result of a trial; it passes all other
        results to the scheduler. Trials stopped by the scheduler have already been
        handled.
        """
        if trial_id not in self.keys or self.error is not None:
            return
        if error or not result or "report" not in result:
            if (
                not self.controller.control.stopping
            ):  # trials that had not reported end so, too
                with self._own_errors():
                    self._report_loss(trial_id)
        else:
            self.report(trial_id, result)

    def _report_loss(self, trial_id: str) -> None:
        """Report to the controller why the worker of a trial disappeared.

        The controller decides whether the trial runs again.
        """
        key = self.keys[trial_id]
        node, _ = read_heartbeat(trial_id)
        error, text = self.losses.pop(trial_id, (None, ""))
        failure = failure_of(error, text, node)
        reason = self.expired.pop(trial_id, "")
        if reason:
            failure = Failure(Cause.TIME, reason, node)
        logger.warning("trial %s: %s: %s", key, failure.cause, failure.reason)
        self._forget(trial_id)
        self.controller.failed(key, failure)

    def _forget(self, trial_id: str) -> None:
        """Remove the key, the deadline and the heartbeat of a trial that has ended."""
        del self.keys[trial_id]
        self.deadlines.ended(trial_id)
        with contextlib.suppress(
            Exception
        ):  # of several types, when the cluster is lost
            ray_private.key_value_store("del", trial_id)

    @contextmanager
    def _own_errors(self) -> Iterator[None]:
        """Context manager: store an exception of the driver in ``error``.

        Tune would treat it as a failure of the trial.
        """
        try:
            yield
        except Exception as error:
            self.error = error

    def save(self, checkpoint_path: str) -> None:
        """Do nothing: a sweep resumes from the results store, not from Tune's files."""

    def restore(self, checkpoint_path: str) -> None:
        """Do nothing; see :meth:`save`."""


class TuneScheduler(FIFOScheduler):  # type: ignore[misc]
    """Scheduler of Tune: chooses the trial for a free actor, and stops trials."""

    def __init__(self, searcher: TuneSearcher) -> None:
        super().__init__()
        self._searcher = searcher

    def choose_trial_to_run(self, tune_controller: Any) -> Any:
        """Return the trial that gets the next free actor; None if no trial is pending.

        It is the oldest trial for which no actor is starting.

        Tune's own choice is the oldest trial of all. If an actor is starting for that
        trial, Tune ends the starting actor. Where trials are shorter than the start of
        an actor, a cluster would never have more than its first few actors. Tune does
        not say for which trials actors are starting. This method assumes that they are
        the oldest ones, as many as there is room for.
        """
        controller = self._searcher.controller
        keys = self._searcher.keys
        pending = {
            trial.trial_id: trial
            for trial in tune_controller.get_live_trials()
            if trial.status == Trial.PENDING
        }
        for trial in pending.values():
            if (
                ray_private.actor_of(trial) is not None
            ):  # a free actor is being given to it
                self._searcher.deadlines.watch(trial.trial_id)
        oldest = next((name for name in keys if name in pending), None)
        if oldest is None:
            return None
        size = controller.trials[keys[oldest]].trial.resources
        # With thousands of workers, few trials are younger than the one that is chosen:
        # it is looked for from the end.
        num_younger = max(
            0, controller.in_flight[size] - controller.placement.capacity(size)
        )
        newest_first = (name for name in reversed(keys) if name in pending)
        same_size = (
            name
            for name in newest_first
            if controller.trials[keys[name]].trial.resources == size
        )
        return pending[next(islice(same_size, num_younger, None), oldest)]

    def on_trial_error(self, tune_controller: Any, trial: Any) -> None:
        """Store Ray's exception and Tune's text about a failed trial.

        `failure_of` finds the cause in them.
        """
        error = None
        text = ""
        with contextlib.suppress(
            Exception
        ):  # it may be of a class that only the worker has
            error = trial.get_pickled_error()
        with contextlib.suppress(OSError):
            text = Path(trial.error_file or "").read_text(
                encoding="utf-8", errors="replace"
            )
        self._searcher.losses[trial.trial_id] = error, text
        super().on_trial_error(tune_controller, trial)

    def on_trial_result(
        self, tune_controller: Any, trial: Any, result: dict[str, Any]
    ) -> str:
        """Return STOP if the trial has ended or must stop, else CONTINUE."""
        ended = self._searcher.report(trial.trial_id, result)
        return str(TrialScheduler.STOP if ended else TrialScheduler.CONTINUE)


class TuneCallback(Callback, Stopper):  # type: ignore[misc]
    """Callback and stopper of Tune.

    It reports starts of trials to the controller, and ends Tune's run if it must end.
    """

    def __init__(
        self,
        searcher: TuneSearcher,
        announce: Callable[[Mapping[Resources, int]], None],
    ) -> None:
        """Store the arguments.

        ``announce`` informs an autoscaler how many trials could run.
        """
        self._searcher = searcher
        self._announce = announce
        self._checked_at = -math.inf

    def __getstate__(self) -> dict[str, Any]:
        """Return nothing to pickle; see `TuneSearcher`."""
        return {}

    def on_trial_start(
        self, iteration: int, trials: list[Any], trial: Any, **info: Any
    ) -> None:
        """Inform the controller that a trial has started."""
        if trial.trial_id in self._searcher.keys:
            self._searcher.controller.started(self._searcher.keys[trial.trial_id])
            self._searcher.deadlines.watch(trial.trial_id)

    def on_step_begin(self, iteration: int, trials: list[Any], **info: Any) -> None:
        """Do periodic work, and kill the workers of trials that exceed a time limit.

        The periodic work is to write rows, to apply requests, and to announce waiting
        trials. Tune calls this method at least ten times a second, and reports the
        trials of killed workers as failed.
        """
        self._searcher.tick()
        if time.monotonic() - self._checked_at < CHECK_SECONDS:
            return
        self._checked_at = time.monotonic()
        self._announce(self._searcher.controller.demand())
        exceeded = self._searcher.deadlines.exceeded()
        if not exceeded:
            return
        for trial in trials:
            if trial.trial_id not in exceeded:
                continue
            actor = ray_private.actor_of(trial)
            if actor is not None:
                self._searcher.expired[trial.trial_id] = exceeded[trial.trial_id]
                self._searcher.deadlines.ended(trial.trial_id)
                ray.kill(actor)

    def on_trial_complete(
        self, iteration: int, trials: list[Any], trial: Any, **info: Any
    ) -> None:
        """Free the results of an ended trial; see `ray_private.forget_results`."""
        ray_private.forget_results(trial)  # its report is stored by now

    on_trial_error = on_trial_complete

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        """Return False: single trials are stopped by the scheduler."""
        return False

    def stop_all(self) -> bool:
        """Return whether Tune must end all trials (`TuneSearcher.ending`)."""
        return self._searcher.ending


def run_tune(
    searcher: TuneSearcher,
    settings: WorkerSettings,
    placement: Callable[[dict[str, Any]], tune.PlacementGroupFactory],
    announce: Callable[[Mapping[Resources, int]], None],
) -> None:
    """Run Tune until the searcher has no more trials.

    ``placement`` returns the resources of the trial in a config.
    """
    scheduler = TuneScheduler(searcher)
    hooks = TuneCallback(searcher, announce)
    tune_config = tune.TuneConfig(
        search_alg=searcher, scheduler=scheduler, num_samples=-1, reuse_actors=True
    )
    actor = trainable.make_trainable(f"orca_{uuid.uuid4().hex[:8]}", settings)
    with scratch_directory() as scratch:
        run_config = tune.RunConfig(
            name=f"orca-{uuid.uuid4().hex[:12]}",
            storage_path=str(scratch),
            verbose=0,
            log_to_file=False,
            failure_config=tune.FailureConfig(max_failures=0),  # the controller retries
            checkpoint_config=tune.CheckpointConfig(
                checkpoint_frequency=0, checkpoint_at_end=False
            ),
            callbacks=[hooks],
            stop=hooks,
        )
        tuner = tune.Tuner(
            tune.with_resources(actor, placement),
            tune_config=tune_config,
            run_config=run_config,
        )
        try:
            tuner.fit()
        except FileNotFoundError:
            # At its end Tune lists its files relative to the working directory, and Ray
            # may have deleted that.
            if not (searcher.ending or searcher.controller.done):
                raise


_MEMORY_MONITOR = ("running low on memory", "OutOfMemoryError", "NODE_OUT_OF_MEMORY")
"""Parts of messages about a worker that Ray's memory monitor killed.

The kernel's OOM killer is no sign: messages about any dead worker mention it as one of
several possible reasons.
"""


def failure_of(error: Exception | None, text: str, node: str = "") -> Failure:
    """Return the failure that ended a trial on ``node``.

    ``error`` is Ray's exception (None: unknown), and ``text`` Tune's text about it.
    """
    text = text or str(error or "no message from Ray")
    return Failure(_cause(error, text), bounded(text.strip()), node)


def _cause(error: Exception | None, text: str) -> Cause:
    """Return the cause of a failure, from Ray's exception and Tune's text about it."""
    if isinstance(error, RayActorError):
        if error.preempted:
            return Cause.PREEMPTED
        raised = error.actor_init_failed
    else:
        raised = isinstance(error, RayTaskError) and not isinstance(
            error.cause, RayActorError
        )
    if raised:  # by the worker, outside of the trial
        original = getattr(error, "cause", None)
        if not isinstance(original, Exception):
            return Cause.CODE
        return CAUSES[classify(original)]
    memory = isinstance(error, OutOfMemoryError) or any(
        sign in text for sign in _MEMORY_MONITOR
    )
    return Cause.MEMORY if memory else Cause.LOST
