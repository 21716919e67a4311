"""Records, learning curves and journal of suggestions that the results store has when a sweep starts."""

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Self

from orca_ray.errors import UserError
from orca_ray.results.record import Record, Status, Suggestion
from orca_ray.results.store import ResultsStore
from orca_ray.sweep.planning.spec import SweepSpec
from orca_ray.tasks.metrics import get_metric
from orca_ray.tasks.registry import get_task

Pair = tuple[str, str]
"""Names of a task and a method."""


@dataclass(frozen=True)
class History:
    """Trials and suggestions of earlier runs of a sweep, and of variants of it with another number of search trials.

    Where several have the same trial, the sweep's own record counts.
    """

    records: Mapping[str, Record] = field(default_factory=dict)
    """Record of each trial that does not run again, by trial key."""
    scores: Mapping[str, Sequence[float]] = field(default_factory=dict)
    """Validation score of each epoch, by trial key."""
    searched: Mapping[Pair, Sequence[Record]] = field(default_factory=dict)
    """Records of search trials in the order in which they started, those that run again included."""
    rerun: Mapping[str, Record] = field(default_factory=dict)
    """Record of each trial that has failed and runs again, by trial key."""
    suggestions: Mapping[Pair, Sequence[Suggestion]] = field(default_factory=dict)
    """The journal, by ascending number; the sweep's own suggestions are the first."""

    @classmethod
    def read(cls, store: ResultsStore, spec: SweepSpec, *, retry: Collection[str] = ()) -> Self:
        """Read the history of a sweep.

        Lost trials always run again, other failed ones if ``retry`` has their key, or "" for all of them. So do trials
        whose scores a new version of orca-ray would change: those of another metric than their task has now, or of
        another version of it.
        """
        variants = [name for name in store.scan().values("sweep") if spec.is_variant(name)]
        records: dict[str, Record] = {}
        scores: dict[str, Sequence[float]] = {}
        rerun: dict[str, Record] = {}
        searched, suggestions = defaultdict[Pair, list[Record]](list), defaultdict[Pair, list[Suggestion]](list)
        for sweep in (spec.sweep_id, *sorted(variants)):
            found = _comparable(store.load(sweep))
            again = {key: record for key, record in found.items() if _runs_again(record, retry)}
            rerun = {key: record for key, record in again.items() if key not in records} | rerun
            records = {key: record for key, record in found.items() if key not in again} | records
            scores = _scores(store, sweep) | scores if found else scores
            for record in sorted(found.values(), key=lambda each: (each.started_at, each.trial_key)):
                if record.phase == "search":
                    searched[record.task, record.method].append(record)
            for suggestion in store.journal(sweep):
                suggestions[suggestion.task, suggestion.method].append(suggestion)
        return cls(records, scores, searched, rerun, suggestions)


def _runs_again(record: Record, retry: Collection[str]) -> bool:
    wanted = "" in retry or record.trial_key in retry
    return record.status is Status.LOST or (record.status.failed and wanted)


def _comparable(records: Mapping[str, Record]) -> dict[str, Record]:
    """Return the records whose scores are of their task's present metric."""
    current = {each: _current_metric(*each) for each in {(r.task, r.protocol) for r in records.values()}}
    return {
        key: record
        for key, record in records.items()
        if current[record.task, record.protocol] in (None, (record.metric, record.metric_version or 1))
    }


def _current_metric(task: str, protocol: str) -> tuple[str, int] | None:
    """Return name and version of a task's metric; None if there is no such task any more."""
    try:
        metric = get_metric(get_task(task).under(protocol).metric)
    except UserError:
        return None
    return metric.name, metric.version


def _scores(store: ResultsStore, sweep: str) -> dict[str, Sequence[float]]:
    curves = store.curves(sweep=sweep)
    refine = curves[(curves["stage"] == "refine") & curves["validation_score"].notna()].sort_values("epoch")
    scores = defaultdict[str, list[float]](list)
    for key, score in zip(refine["trial_key"].tolist(), refine["validation_score"].tolist(), strict=True):
        scores[key].append(score)
    return dict(scores)
