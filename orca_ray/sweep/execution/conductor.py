"""Decides which trial runs next and which one stops early, and stores the records; executors run the trials.

Not thread-safe: only one thread of the driver may use it.
"""

import contextlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime

from orca_ray.data import cache
from orca_ray.errors import UserError
from orca_ray.methods.reports import Progress
from orca_ray.results.artefacts import ArtefactRow
from orca_ray.results.record import CurvePoint, Record, Status
from orca_ray.results.store import ResultsStore
from orca_ray.sweep.execution import events
from orca_ray.sweep.execution.messages import TrialReport, make_record
from orca_ray.sweep.planning.searches import SearchPlan, TrialSpec
from orca_ray.sweep.search import Search, comparable_records


@dataclass
class _Running:
    """A running trial, and the epochs that it has reported so far."""

    trial: TrialSpec
    search: Search
    started_at: datetime
    curve: list[Progress] = field(default_factory=list)
    attempts: int = 1

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
        """
        if not searches:
            raise UserError("nothing to run: the sweep has no task or no method")
        self._spec = searches[0].spec
        self._store, self._executor, self._estimates = store, executor, dict(trial_seconds or {})
        self._emit: events.Listener = listener or (lambda event: None)
        self.checkpoints = (store.local_path or cache.home()) / "checkpoints"
        """Directory of the checkpoints: in the store's directory, or in the cache if the store is remote."""
        existing = {
            key: record
            for key, record in comparable_records(store, self._spec.sweep_id).items()
            if not (record.status is Status.LOST or (retry_failed and record.status.failed))
        }
        scores = self._stored_scores() if existing else {}
        self.searches = [Search(plan, existing, scores) for plan in searches]
        self.finished_before = sum(search.num_finished for search in self.searches)
        self._seconds: dict[tuple[str, str], float] = {}
        self._estimate_error = 1.0
        self._running: dict[str, _Running] = {}
        self._lost: dict[str, _Running] = {}
        self._ran: list[Record] = []
        self._began = datetime.now(UTC)

    @property
    def done(self) -> bool:
        """Whether all trials of the sweep have ended."""
        return not self._running and all(search.done for search in self.searches)

    def next_trial(self) -> TrialSpec | None:
        """Return a trial to run, of the search with the most expected time left, or None if none can start now."""
        for search in sorted(self.searches, key=self._seconds_left, reverse=True):
            if (trial := search.take()) is not None:
                lost = self._lost.pop(trial.key, None)
                self._running[trial.key] = lost or _Running(trial, search, datetime.now(UTC))
                return trial
        return None

    def started(self, key: str) -> None:
        """Set the start time of a trial, which may have waited for resources, and emit `TrialStarted`."""
        item = self._running[key]
        if item.attempts == 1:
            item.started_at = datetime.now(UTC)
        trial = item.trial
        self._emit(events.TrialStarted(key, trial.task, trial.method, trial.phase, trial.seed, trial.hyperparameters))

    def report(self, key: str, progress: Sequence[Progress]) -> bool:
        """Add the epochs in ``progress`` to the curve of a running trial, and return whether it must be stopped early.

        A trial that resumes on another node reports its earlier epochs again; those already known are skipped.
        """
        item = self._running[key]
        for point in progress:
            if any((seen.stage, seen.epoch) == (point.stage, point.epoch) for seen in item.curve):
                continue
            item.curve.append(point)
            self._emit(events.TrialProgress(key, item.trial.task, item.trial.method, point))
            if self._stops(item):  # a resumed trial reports several epochs: later ones are dropped
                return True
        return False

    def finish(self, key: str, report: TrialReport) -> Record:
        """Store and return the record of the trial ``key``, which ended with ``report``, and inform its search."""
        item = self._running.pop(key)
        run = {"executor": self._executor, "attempts": item.attempts}
        record = make_record(item.trial, self._spec.sweep_id, report, item.curve, item.started_at, **run)
        artefacts = [ArtefactRow(record.sweep, key, **asdict(artefact)) for artefact in report.artefacts]
        self._store.append([record], [self._curve_point(key, point) for point in item.curve], artefacts)
        self._remove_checkpoint(key)
        self._ran.append(record)
        self._learn_seconds(record)
        item.search.finish(record, item.scores)
        self._emit(events.TrialFinished(record, item.search.num_remaining))
        return record

    def attempt(self, key: str) -> int:
        """Return which attempt at the trial is running (1, 2, ...)."""
        return self._running[key].attempts

    def give_back(self, key: str) -> None:
        """Make a trial whose worker or node disappeared available again; it will resume from its last checkpoint."""
        item = self._running.pop(key)
        item.attempts += 1
        item.search.give_back(key)
        self._lost[key] = item
        name = f"{item.trial.task} {item.trial.method}"
        self._emit(events.Message(f"{name}: worker lost, attempt {item.attempts} follows"))

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
        """Return the expected seconds until a search is done if its trials run one after another."""
        name = (search.plan.task, search.plan.method)
        estimate = self._estimates.get(name, 1.0) * self._estimate_error
        return search.num_remaining * self._seconds.get(name, estimate)

    def _learn_seconds(self, record: Record) -> None:
        """Store a completed trial's duration, and the mean ratio of durations to estimates, which scales the others."""
        if record.status is Status.COMPLETED:
            self._seconds[record.task, record.method] = record.wall_seconds
            errors = [seconds / self._estimates.get(name, 1.0) for name, seconds in self._seconds.items()]
            self._estimate_error = sum(errors) / len(errors)

    def _stops(self, item: _Running) -> bool:
        rule = self._spec.file.early_stopping
        if rule is None or item.trial.phase != "search":
            return False
        return rule.stops(item.scores, item.trial.epochs, item.search.rivals(item.trial))

    def _curve_point(self, key: str, point: Progress) -> CurvePoint:
        values = asdict(point)
        del values["epochs"]
        return CurvePoint(sweep=self._spec.sweep_id, trial_key=key, **values)

    def _stored_scores(self) -> dict[str, list[float]]:
        curves = self._store.curves(sweep=self._spec.sweep_id)
        refine = curves[(curves["stage"] == "refine") & curves["validation_score"].notna()]
        ordered = refine.sort_values("epoch")
        return {str(key): list(group["validation_score"]) for key, group in ordered.groupby("trial_key")}


def count_notes(records: Iterable[Record]) -> dict[str, int]:
    """Return each distinct sentence in the records' ``notes`` with its number of records, most frequent first."""
    sentences = Counter(sentence for record in records for sentence in dict.fromkeys((record.notes or "").split("; ")))
    return {sentence: count for sentence, count in sentences.most_common() if sentence}
