"""Decides which trial runs next and which one stops early, and stores the records; executors run the trials.

Not thread-safe: only one thread of the driver may use it.
"""

import contextlib
import math
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime

from orca_ray.data import cache
from orca_ray.errors import UserError
from orca_ray.methods.reports import Progress
from orca_ray.results.artefacts import ArtefactRow
from orca_ray.results.copying import copy_trials
from orca_ray.results.lease import Lease
from orca_ray.results.live import RunningTrial
from orca_ray.results.logs import LogRow
from orca_ray.results.record import CurvePoint, Record, Status
from orca_ray.results.store import ResultsStore
from orca_ray.results.writer import Writer
from orca_ray.sweep.execution import events
from orca_ray.sweep.execution.control import Control
from orca_ray.sweep.execution.messages import TrialReport, make_record
from orca_ray.sweep.execution.trial_log import LogStream
from orca_ray.sweep.planning.searches import SearchPlan, TrialSpec
from orca_ray.sweep.search import History, Search

_LOG_SECONDS = 10.0
"""How often the logs of running trials are stored."""


@dataclass
class _Running:
    """A running trial, and the epochs that it has reported so far."""

    trial: TrialSpec
    search: Search
    started_at: datetime
    curve: list[Progress] = field(default_factory=list)
    attempts: int = 1
    node: str = ""
    log: LogStream = field(default_factory=LogStream)

    def live(self) -> RunningTrial:
        """Return what the live state of the sweep says about this trial."""
        trial, last = self.trial, self.curve[-1] if self.curve else None
        scores = [score for score in self.scores if math.isfinite(score)]
        return RunningTrial(
            key=trial.key, task=trial.task, method=trial.method, phase=trial.phase, seed=trial.seed,
            attempt=self.attempts, started_at=self.started_at.isoformat(), node=self.node,
            score=scores[-1] if scores else None, best=min(scores, default=None),
            stage=last.stage if last else "", epoch=last.epoch if last else 0, epochs=last.epochs if last else 0,
        )  # fmt: skip

    @property
    def scores(self) -> list[float]:
        """Validation scores of the refine epochs, in order."""
        return [point.validation_score for point in self.curve if point.validation_score is not None]


class Conductor:
    """Chooses the trials of a sweep one at a time, and writes a record for each that ends."""

    def __init__(
        self,
        searches: Sequence[SearchPlan],
        store: ResultsStore,
        *,
        executor: str,
        trial_seconds: Mapping[tuple[str, str], float] | None = None,
        retry_failed: bool = False,
        listener: events.Listener | None = None,
        lease: Lease | None = None,
    ) -> None:
        """Rebuild the state of the sweep from the records in ``store``.

        Args:
            searches: plans of the searches to run.
            store: results store that records are read from and written to.
            executor: name of the executor, for the records.
            trial_seconds: relative cost of one trial of each (task, method), see `cost.trial_seconds`; only ratios
                matter. A pair without a value gets 1.
            retry_failed: whether to run failed trials again. Trials whose worker disappeared (status ``lost``) are
                always run again.
            listener: called with every event.
            lease: lease of the sweep, through which requests arrive; None, e.g. in tests: there are none.
        """
        if not searches:
            raise UserError("nothing to run: the sweep has no task or no method")
        self._spec = searches[0].spec
        self.sweep, self.executor = self._spec.sweep_id, executor
        self._store, self._estimates = store, dict(trial_seconds or {})
        self._emit: events.Listener = listener or (lambda event: None)
        self.checkpoints = (store.local_path or cache.home()) / "checkpoints"
        """Directory of the checkpoints: in the store's directory, or in the cache if the store is remote."""
        retried = {request.trial for request in lease.retried} if lease else set()
        history = History.read(store, self._spec, retry={*retried, *([""] if retry_failed else [])})
        self.searches = [Search(plan, history) for plan in searches]
        self.reused = self._reused()
        """Sentence about the trials of earlier runs that do not run again; "" if there is none."""
        self._adopt(self.searches)
        self.finished_before = sum(search.num_finished for search in self.searches)
        self._seconds: dict[tuple[str, str], float] = {}
        self._estimate_error = 1.0
        self._running: dict[str, _Running] = {}
        self._waiting: dict[str, _Running] = {}
        self.failures = FailureLedger()
        """Decides which failed trials run again, and on which nodes trials may run."""
        self.placement = Placement()
        """Decides which resources a trial gets, and whether it may start now; executors set their own."""
        self._ran: list[Record] = []
        self._began = datetime.now(UTC)
        self._writer = Writer(store, before=lease.check if lease else None)
        self._logged_at = time.monotonic()
        self.control = Control(self, lease, self._emit)
        """Requests to this sweep. Executors end all trials when it is ``stopping``."""

    @property
    def done(self) -> bool:
        """Whether all trials of the sweep have ended."""
        return not self._running and not self._waiting and all(search.done for search in self.searches)

    def next_trial(self) -> TrialSpec | None:
        """Return a trial to run, of the search with the most expected time left, or None if none can start now."""
        self.tick()
        if self.control.paused or self.control.stopping:
            return None
        for search in sorted(self.searches, key=self._seconds_left, reverse=True):
            if (trial := search.take()) is not None:
                if suggestions := search.new_suggestions():
                    self._writer.add(suggestions=suggestions)
                lost = self._lost.pop(trial.key, None)
                self._running[trial.key] = lost or _Running(trial, search, datetime.now(UTC))
                return trial
        return None

    def tick(self) -> None:
        """Write rows that are due, apply requests and publish the live state.

        Executors call it at least every few seconds, in the thread of the driver: from the loop of Tune, or after each
        epoch. `next_trial` and `report` call it, too. Raises UserError if the store fails or another driver took over.
        """
        self._writer.flush_due()
        if self.control.tick() and time.monotonic() - self._logged_at >= _LOG_SECONDS:
            self._logged_at = time.monotonic()
            self._writer.add(logs=[row for key in self._running for row in self._log_rows(key)])

    def close(self) -> None:
        """Write all rows that wait. To be called at the end, also after an exception."""
        self._writer.add(logs=[row for key in self._running for row in self._log_rows(key, ended=True)])
        self._writer.flush()

    def started(self, key: str) -> None:
        """Set the start time of a trial, which may have waited for resources, and emit `TrialStarted`."""
        item = self._running[key]
        item.placed = True
        if item.attempts == 1:
            item.started_at = datetime.now(UTC)
        self._emit(events.TrialStarted(key, item.trial.task, item.trial.method, item.trial.phase))

    def report(self, key: str, progress: Sequence[Progress], *, log: str = "", node: str = "") -> bool:
        """Add the epochs in ``progress`` to the curve of a running trial, and return whether it must be stopped early.

        A trial that resumes on another node reports its earlier epochs again; those already known are skipped. ``log``
        is what the worker logged since its last report, ``node`` its name.
        """
        self.tick()
        item = self._running[key]
        item.node = node or item.node
        item.log.add(log)
        for point in progress:
            if any((seen.stage, seen.epoch) == (point.stage, point.epoch) for seen in item.curve):
                continue
            item.curve.append(point)
            self._emit(events.TrialProgress(key, item.trial.task, item.trial.method, point))
            if item.search.stops(item.trial, item.scores):
                return True  # a resumed trial reports several epochs: later ones are dropped
        return key in self.control.cancelled

    def finish(self, key: str, report: TrialReport) -> Record:
        """Store and return the record of the trial ``key``, which ended with ``report``, and inform its search.

        The record is durable within seconds (`writer.Writer`), and the trial's checkpoint is deleted only then.
        """
        logs = self._log_rows(key, ended=True)
        item = self._running.pop(key)
        if key in self.control.cancelled:
            self.control.cancelled.remove(key)
            report = replace(report, status=Status.CANCELLED, error="cancelled by request")
        run = {"executor": self.executor, "attempts": item.attempts}
        record = make_record(item.trial, self._spec.sweep_id, report, item.curve, item.started_at, **run)
        artefacts = [ArtefactRow(record.sweep, key, **asdict(artefact)) for artefact in report.artefacts]
        self._writer.add(
            records=[record], curves=[self._curve_point(key, point) for point in item.curve], artefacts=artefacts,
            logs=logs, then=lambda: self._remove_checkpoint(key),
        )  # fmt: skip
        self.control.trial_ended()
        self._ran.append(record)
        self._learn_seconds(record)
        item.search.finish(record, item.scores)
        self._adopt([item.search])
        if self.done:
            self._writer.flush()
        self._emit(events.TrialFinished(record, item.search.num_remaining))
        return record

    def observe(self, key: str, report: TrialReport, node: str = "") -> None:
        """Take note of what a report shows about memory, and of the node (its id) on which the trial runs."""
        self.placement.learn(self._running[key].trial, report)
        if not (report.status and report.status.failed):
            self.failures.works(node, ended=report.done)

    def ended(self, key: str, report: TrialReport, node: str = "") -> Record | None:
        """Store the record of a trial that ended on ``node``; None if it failed and runs again (`failures.RULES`)."""
        self.observe(key, report, node)
        if report.status is not None and report.status.failed:
            return self.failed(key, Failure(CAUSES[report.status], report.error or "no message", node), report)
        return self.finish(key, report)

    def failed(self, key: str, failure: Failure, report: TrialReport | None = None) -> Record | None:
        """Let a trial wait for its next attempt, and return None; after its last attempt, store and return its record.

        ``report`` is the last one of the worker, if the worker reported the failure. The next attempt resumes from the
        trial's last checkpoint.
        """
        again = self.failures.retries(key, failure)
        for node in self.failures.new_quarantines():
            reason = self.failures.quarantined[node]
            self._emit(events.Message(f"no more trials on node {self.placement.node_name(node)}: {reason}"))
        if not again:
            last = report or TrialReport(status=RULES[failure.cause].status, error=failure.reason)
            return self.finish(key, last)
        item = self._waiting[key] = self._running.pop(key)
        item.attempts += RULES[failure.cause].counts
        name, reason = f"{item.trial.task} {item.trial.method}", (failure.reason.strip().splitlines() or [""])[-1]
        self._emit(events.Message(f"{name}: {failure.cause} ({reason[:200]}), attempt {item.attempts} follows"))
        return None

    def running(self, key: str) -> TrialSpec:
        """Return the running trial ``key``, with the resources that it has."""
        return self._running[key].trial

    def demand(self) -> Counter[Resources]:
        """Return how many trials could run at the same time if there were room for all, by their resources."""
        found: Counter[Resources] = Counter()
        for search in self.searches:
            resources = self.placement.resources(search.plan.trial({}, 0, "search"), History())
            most = max(self._spec.file.parallel, search.plan.num_confirm) if search.plan.num_search else math.inf
            found[resources] += int(min(search.num_remaining, most))
        return found

    def history(self, key: str) -> History:
        """Return the failures of the trial ``key`` so far."""
        return self.failures.history(key)

    def retry(self, key: str = "") -> int:
        """Run failed trials again (``key``, or all if it is empty), and return how many there are."""
        failed = [record for search in self.searches for record in search.records.values() if record.status.failed]
        again = {record.trial_key for record in failed if key in ("", record.trial_key)}
        if again:
            self._writer.flush()
            history = History.read(self._store, self._spec, retry=again)
            self.searches = [Search(search.plan, history, running=self._running) for search in self.searches]
            searches = {(search.plan.task, search.plan.method): search for search in self.searches}
            for item in self._running.values():
                item.search = searches[item.trial.task, item.trial.method]
        return len(again)

    def running_trials(self) -> list[RunningTrial]:
        """Return the running trials."""
        return [item.live() for item in self._running.values()]

    def seconds_left(self) -> float | None:
        """Estimate the seconds until the sweep is done, with as many workers as now; None if no trial has ended."""
        if not self._seconds:
            return None
        return sum(map(self._seconds_left, self.searches)) / max(1, len(self._running))

    def rows(self) -> tuple[events.SearchRow, ...]:
        """Return a row for each (task, method) of the sweep, with its number of trials, for a progress table."""
        plans = [(search.plan, search.num_finished) for search in self.searches]
        return tuple(events.SearchRow(p.task, p.method, p.body, p.num_trials, done) for p, done in plans)

    def summary(self, *, interrupted: bool = False) -> events.Summary:
        """Return the summary of the sweep so far."""
        records = [record for search in self.searches for record in search.records.values()]
        unfinished = [f"{s.plan.task} {s.plan.method}: {s.failure}" for s in self.searches if s.failure]
        return events.Summary(
            sweep=self._spec.sweep_id,
            planned=sum(search.plan.num_trials for search in self.searches),
            finished_before=self.finished_before,
            ran=len(self._ran),
            statuses={status: sum(r.status is status for r in records) for status in Status},
            failed=tuple(record for record in records if record.status.failed),
            interrupted=interrupted or not self.done,
            seconds=(datetime.now(UTC) - self._began).total_seconds(),
            unfinished=tuple(unfinished),
            deterministic=self._spec.deterministic,
            aligned=sum(bool(record.align_epochs) for record in records),
            reused=sum(bool(record.align_reused) for record in records),
            notes=count_notes(records),
            quarantined=tuple(
                f"{self.placement.node_name(node)}: {reason}" for node, reason in self.failures.quarantined.items()
            ),
        )

    def tidy(self) -> None:
        """Delete the checkpoints of trials that have ended, then the checkpoint directory if it is empty."""
        for search in self.searches:
            for key in search.records:
                self._remove_checkpoint(key)
        with contextlib.suppress(OSError):  # it does not exist, or holds another sweep's state
            self.checkpoints.rmdir()

    def _remove_checkpoint(self, key: str) -> None:
        for pattern in (f"{key}.*", f".{key}.*"):  # a kill in the middle of a write leaves a hidden temporary file
            for path in self.checkpoints.glob(pattern):
                path.unlink(missing_ok=True)

    def _seconds_left(self, search: Search) -> float:
        """Return the expected seconds of the trials of a search that have not started, one after another."""
        name = (search.plan.task, search.plan.method)
        estimate = self._estimates.get(name, 1.0) * self._estimate_error
        return (search.num_remaining - search.num_running) * self._seconds.get(name, estimate)

    def _learn_seconds(self, record: Record) -> None:
        """Store a completed trial's duration, and the mean ratio of durations to estimates, which scales the others."""
        if record.status is Status.COMPLETED:
            self._seconds[record.task, record.method] = record.wall_seconds
            errors = [seconds / self._estimates.get(name, 1.0) for name, seconds in self._seconds.items()]
            self._estimate_error = sum(errors) / len(errors)

    def _reused(self) -> str:
        records = [record for search in self.searches for record in search.records.values()]
        if not records:
            return ""
        search = sum(record.phase == "search" for record in records)
        planned = sum(search.plan.num_trials for search in self.searches)
        others = Counter(record.sweep for search in self.searches for record in search.adopted)
        origins = "".join(f", {number} of them from {sweep}" for sweep, number in sorted(others.items()))
        text = f"reuses {len(records)} of {planned} planned trials"
        return f"{text}: {search} search + {len(records) - search} confirm{origins}"

    def _adopt(self, searches: Sequence[Search]) -> None:
        """Copy the trials that searches take over from variants of the sweep, which have other numbers of trials."""
        copy_trials(self._store, [record for search in searches for record in search.adopted], self._spec.sweep_id)
        for search in searches:
            search.adopted.clear()

    def _log_rows(self, key: str, *, ended: bool = False) -> list[LogRow]:
        item = self._running[key]
        text = item.log.take(ended=ended)
        return [LogRow(self.sweep, key, item.attempts, datetime.now(UTC), text)] if text else []

    def _curve_point(self, key: str, point: Progress) -> CurvePoint:
        values = asdict(point)
        del values["epochs"]
        return CurvePoint(sweep=self._spec.sweep_id, trial_key=key, **values)


def count_notes(records: Iterable[Record]) -> dict[str, int]:
    """Return each distinct sentence in the records' ``notes`` with its number of records, most frequent first."""
    sentences = Counter(sentence for record in records for sentence in dict.fromkeys((record.notes or "").split("; ")))
    return {sentence: count for sentence, count in sentences.most_common() if sentence}
