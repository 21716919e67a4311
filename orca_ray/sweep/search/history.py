"""Trials and suggestions of earlier runs of a sweep, read from the results store."""

from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Self

import pandas as pd

from orca_ray.errors import UserError
from orca_ray.results.record import Record, Status, SuggestionRow
from orca_ray.results.store import ResultsStore
from orca_ray.sweep.plan.spec import SweepSpec
from orca_ray.tasks.metrics import get_metric
from orca_ray.tasks.registry import get_task

Pair = tuple[str, str]
"""Names of a task and a method."""


@dataclass(frozen=True)
class History:
    """Trials and suggestions of earlier runs of a sweep and of its variants.

    A variant is the same sweep with another number of search trials. If the sweep and a
    variant have the same trial, the sweep's own record is used.
    """

    records: Mapping[str, Record] = field(default_factory=dict)
    """Record of each trial that does not run again, by trial key."""
    scores: Mapping[str, Sequence[float]] = field(default_factory=dict)
    """Validation score of each epoch, by trial key."""
    rerun: Mapping[str, Record] = field(default_factory=dict)
    """Record of each trial that has failed and runs again, by trial key."""
    attempts: Mapping[str, int] = field(default_factory=dict)
    """Number of the last stored attempt, by trial key.

    It contains the trials that have epochs or run again.
    """
    suggestions: Mapping[Pair, Sequence[SuggestionRow]] = field(default_factory=dict)
    """The journal, by (task, method): suggestions of the sweep, then of its variants.

    The suggestions of each of these sweeps are sorted by number.
    """

    @classmethod
    def read(
        cls, store: ResultsStore, spec: SweepSpec, *, retry: Collection[str] = ()
    ) -> Self:
        """Return the history of a sweep and of its variants in ``store``.

        Lost trials always run again. Other failed trials run again if ``retry`` holds
        their key or "" (all trials). Trials also run again if their scores are of
        another metric than that of the task now, or of another version of that metric.
        """
        variants = [
            name for name in store.scan().values("sweep") if spec.is_variant(name)
        ]
        records: dict[str, Record] = {}
        scores: dict[str, Sequence[float]] = {}
        rerun: dict[str, Record] = {}
        attempts: dict[str, int] = {}
        suggestions = defaultdict[Pair, list[SuggestionRow]](list)
        for sweep in (spec.sweep_id, *sorted(variants)):
            stored = _comparable(store.load(sweep))
            again = {
                key: record
                for key, record in stored.items()
                if _runs_again(record, key, retry)
            }
            new_reruns = {
                key: record for key, record in again.items() if key not in records
            }
            rerun = new_reruns | rerun
            kept = {key: row for key, row in stored.items() if key not in again}
            records = kept | records
            curves = store.curves(sweep=sweep)
            scores = _scores(curves) | scores
            for key, attempt in _attempts(curves, again):
                attempts[key] = max(attempt, attempts.get(key, 0))
            for suggestion in store.journal(sweep):
                suggestions[suggestion.task, suggestion.method].append(suggestion)
        return cls(records, scores, rerun, attempts, suggestions)


def _runs_again(record: Record, key: str, retry: Collection[str]) -> bool:
    """Return whether the trial of a record runs again; see `History.read`."""
    if record.status is Status.LOST:
        return True
    return record.status.failed and ("" in retry or key in retry)


def _attempts(
    curves: pd.DataFrame, again: Mapping[str, Record]
) -> Iterator[tuple[str, int]]:
    """Yield pairs of a trial key and the number of one of its stored attempts.

    There is one pair per trial with a learning curve, and one per record in ``again``.
    """
    last_attempts = curves.groupby("trial_key")["attempt"].max().fillna(0)
    for key, number in last_attempts.items():
        yield str(key), int(number)
    for key, record in again.items():
        yield key, record.attempts


def _comparable(records: Mapping[str, Record]) -> dict[str, Record]:
    """Return the records whose scores are of the present metric of their task.

    Records of a task that no longer exists are returned, too.
    """
    pairs = {(record.task, record.protocol) for record in records.values()}
    current = {
        (task, protocol): _current_metric(task, protocol) for task, protocol in pairs
    }
    comparable = {}
    for key, record in records.items():
        metric = current[record.task, record.protocol]
        if metric in (None, (record.metric, record.metric_version or 1)):
            comparable[key] = record
    return comparable


def _current_metric(task: str, protocol: str) -> tuple[str, int] | None:
    """Return name and version of a task's metric; None if there is no such task."""
    try:
        metric = get_metric(get_task(task).under(protocol).metric)
    except UserError:
        return None
    return metric.name, metric.version


def _scores(curves: pd.DataFrame) -> dict[str, Sequence[float]]:
    """Return the validation scores of the refine epochs of each trial, by its key."""
    refine = curves[
        (curves["stage"] == "refine") & curves["validation_score"].notna()
    ].sort_values("epoch")
    return {
        str(key): scores
        for key, scores in (
            refine.groupby("trial_key")["validation_score"].agg(list).items()
        )
    }
