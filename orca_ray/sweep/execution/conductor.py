"""The sweep's one mind: which trial next, stop or go on, what goes into the store. Executors only carry it out.

Not thread-safe: one thread of the driver owns it.
"""

import contextlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from orca_ray.errors import UserError
from orca_ray.results.record import CurvePoint, Record, Status
from orca_ray.results.store import ResultsStore
from orca_ray.sweep.execution.events import (
    Event,
    Listener,
    Message,
    SearchRow,
    Summary,
    TrialFinished,
    TrialProgress,
    TrialStarted,
)
from orca_ray.sweep.execution.report import make_record
from orca_ray.sweep.planning.searches import SearchPlan
from orca_ray.sweep.planning.trial import TrialSpec
from orca_ray.sweep.search.search import Search


@dataclass
class _Running:
    """What the driver has heard of a trial that is out."""

    trial: TrialSpec
    search: Search
    started_at: datetime
    curve: list[dict[str, Any]] = field(default_factory=list)
    attempts: int = 1

    @property
    def scores(self) -> list[float]:
        """Validation score of each refine epoch."""
        return [float(p["validation_score"]) for p in self.curve if p["validation_score"] is not None]


class Conductor:
    """Plans by replaying the store, hands out trials longest chain first, and writes every record."""

    def __init__(
        self,
        searches: Sequence[SearchPlan],
        store: ResultsStore,
        *,
        executor: str,
        costs: Mapping[str, float] | None = None,
        retry_failed: bool = False,
        listener: Listener | None = None,
    ) -> None:
        """Open the sweep.

        Args:
            searches: what to run.
            store: where finished trials are read from and records go.
            executor: name kept in the records.
            costs: guessed cost of a trial of each task, in any unit: the longest chain starts first.
            retry_failed: run failed trials again; ``lost`` ones always are.
            listener: told of everything that happens.
        """
        if not searches:
            raise UserError("nothing to run: the sweep has no task or no method")
        self._spec = searches[0].spec
        self._store, self._executor, self._costs = store, executor, dict(costs or {})
        self._listener = listener
        existing = {
            key: record
            for key, record in store.load(self._spec.sweep_id).items()
            if not (record.status is Status.LOST or (retry_failed and record.status.failed))
        }
        curves = self._stored_scores() if existing else {}
        self.searches = [Search(plan, existing, curves) for plan in searches]
        self.finished_before = sum(search.num_finished for search in self.searches)
        self._seconds: dict[tuple[str, str], float] = {}
        self._seconds_per_unit = 1.0
        self._running: dict[str, _Running] = {}
        self._lost: dict[str, _Running] = {}
        self._ran: list[Record] = []
        self._began = datetime.now(UTC)

    # -- what executors call -------------------------------------------------------------------------------------

    @property
    def done(self) -> bool:
        """Whether every trial has ended."""
        return not self._running and all(search.done for search in self.searches)

    def next_trial(self) -> TrialSpec | None:
        """Hand out the trial whose chain is longest, or None while all that can start is running."""
        ready = [search for search in self.searches if search.ready()]
        if not ready:
            return None
        search = max(ready, key=self._chain)
        trial = search.take()
        assert trial is not None
        lost = self._lost.pop(trial.key) if trial.key in self._lost else None
        self._running[trial.key] = lost or _Running(trial, search, datetime.now(UTC))
        return trial

    def started(self, key: str) -> None:
        """Note that a worker has begun a trial, which may have waited for a place."""
        item = self._running[key]
        if item.attempts == 1:
            item.started_at = datetime.now(UTC)
        self._emit(TrialStarted(key, item.trial.task, item.trial.method, item.trial.phase))

    def report(self, key: str, progress: Sequence[Mapping[str, Any]]) -> bool:
        """Take the epochs a trial has ended since its last report; return True if it must stop here.

        A trial that resumed on another node reports from its first epoch again; only new epochs count.
        """
        item = self._running[key]
        for point in progress:
            if not self._is_new(item, point):
                continue
            item.curve.append(dict(point))
            self._emit(
                TrialProgress(
                    key, item.trial.task, item.trial.method, point["stage"], point["epoch"], point["epochs"],
                    point["validation_score"], point["loss"], point["distance"],
                )
            )  # fmt: skip
            if self._stops(item):  # a resumed trial tells several epochs at once: each is judged, the rest dropped
                return True
        return False

    def finish(self, key: str, report: Mapping[str, Any]) -> Record:
        """Write the record of an ended trial and let its search go on.

        Args:
            key: the trial's key.
            report: last report of the runner: ``status``, ``error``, ``outcome``, ``place``.
        """
        item = self._running.pop(key)
        record = make_record(item.trial, self._spec, report, item.curve, item.started_at, self._executor, item.attempts)
        self._store.append([record], [self._curve_point(key, point) for point in item.curve])
        remove_checkpoint(checkpoint_directory(self._store), key)
        self._ran.append(record)
        self._learn_cost(record)
        item.search.finish(record, item.scores)
        self._emit(TrialFinished(record, item.search.num_remaining))
        return record

    def attempt(self, key: str) -> int:
        """Return which attempt of a running trial this is, from 1."""
        return self._running[key].attempts

    def give_back(self, key: str) -> None:
        """Take back a trial whose worker or node was lost; it is handed out again and resumes from its checkpoint."""
        item = self._running.pop(key)
        item.attempts += 1
        item.search.give_back(key)
        self._lost[key] = item
        self._emit(Message(f"{item.trial.task} {item.trial.method}: worker lost, attempt {item.attempts} follows"))

    # -- what the caller asks ------------------------------------------------------------------------------------

    def rows(self) -> tuple[SearchRow, ...]:
        """Return the plan as rows for a progress table."""
        return tuple(
            SearchRow(s.plan.task, s.plan.method, s.plan.body, s.plan.num_trials, s.num_finished) for s in self.searches
        )

    def summary(self, *, interrupted: bool = False) -> Summary:
        """Return how the sweep ended."""
        records = [record for search in self.searches for record in search.records.values()]
        unfinished = [f"{s.plan.task} {s.plan.method}: {s.failure}" for s in self.searches if s.failure]
        return Summary(
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
        """Delete checkpoints that ended trials have left behind, and their directory once it is empty."""
        directory = checkpoint_directory(self._store)
        for search in self.searches:
            for key in search.records:
                remove_checkpoint(directory, key)
        with contextlib.suppress(OSError):  # not there, or another sweep's state is in it
            directory.rmdir()

    # -- inside --------------------------------------------------------------------------------------------------

    def _chain(self, search: Search) -> float:
        """Return the expected seconds until a search is done if its trials run one after another."""
        plan = search.plan
        guess = self._costs.get(plan.task, 1.0) * self._seconds_per_unit
        return search.num_remaining * self._seconds.get((plan.task, plan.method), guess)

    def _learn_cost(self, record: Record) -> None:
        if record.status is Status.COMPLETED:
            self._seconds[record.task, record.method] = record.wall_seconds
            rates = [seconds / self._costs.get(task, 1.0) for (task, _), seconds in self._seconds.items()]
            self._seconds_per_unit = sum(rates) / len(rates)

    def _stops(self, item: _Running) -> bool:
        rule = self._spec.file.early_stopping
        if rule is None or item.trial.phase != "search":
            return False
        return rule.rule().stops(item.scores, item.trial.epochs, item.search.rivals(item.trial))

    @staticmethod
    def _is_new(item: _Running, point: Mapping[str, Any]) -> bool:
        return all((seen["stage"], seen["epoch"]) != (point["stage"], point["epoch"]) for seen in item.curve)

    def _curve_point(self, key: str, point: Mapping[str, Any]) -> CurvePoint:
        return CurvePoint(
            sweep=self._spec.sweep_id,
            trial_key=key,
            stage=point["stage"],
            epoch=point["epoch"],
            loss=point["loss"],
            distance=point["distance"],
            validation_score=point["validation_score"],
            learning_rate=point["learning_rate"],
            seconds=point["seconds"],
        )

    def _stored_scores(self) -> dict[str, list[float]]:
        curves = self._store.curves(sweep=self._spec.sweep_id)
        refine = curves[(curves["stage"] == "refine") & curves["validation_score"].notna()]
        ordered = refine.sort_values("epoch")
        return {str(key): list(group["validation_score"]) for key, group in ordered.groupby("trial_key")}

    def _emit(self, event: Event) -> None:
        if self._listener is not None:
            self._listener(event)


def count_notes(records: Iterable[Record]) -> dict[str, int]:
    """Return each sentence of the records' notes with the number of trials that have it, the most frequent first."""
    told = Counter(sentence for record in records for sentence in dict.fromkeys((record.notes or "").split("; ")))
    return {sentence: count for sentence, count in told.most_common() if sentence}


def checkpoint_directory(store: ResultsStore) -> Path:
    """Return where interrupted trials keep their state: beside the store, or in the cache for a remote store."""
    from orca_ray.data.cache import home

    return (store.local_path or home()) / "checkpoints"


def remove_checkpoint(directory: Path, key: str) -> None:
    """Delete what an ended trial left behind."""
    for pattern in (f"{key}.*", f".{key}.*"):  # a kill in the middle of a write leaves a hidden temporary
        for path in directory.glob(pattern):
            path.unlink(missing_ok=True)
