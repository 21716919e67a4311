"""Records, learning curves and journal of suggestions that the results store has when a sweep starts."""

import json
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import Self

import pandas as pd

from orca_ray.errors import UserError
from orca_ray.results.record import Record, Status, SuggestionRow
from orca_ray.results.store import ResultsStore
from orca_ray.sweep.plan.schema import Scalar
from orca_ray.sweep.plan.searches import SearchPlan
from orca_ray.sweep.plan.spec import SweepSpec
from orca_ray.sweep.search.sampler import NUM_STARTUP, Suggestion, SuggestionSampler
from orca_ray.tasks.metrics import get_metric
from orca_ray.tasks.registry import get_task

Pair = tuple[str, str]
"""Names of a task and a method."""


@dataclass(frozen=True)
class History:
    """Trials and suggestions of earlier runs of a sweep, and of variants of it with another number of search trials.

    If several of these sweeps have the same trial, the sweep's own record counts.
    """

    records: Mapping[str, Record] = field(default_factory=dict)
    """Record of each trial that does not run again, by trial key."""
    scores: Mapping[str, Sequence[float]] = field(default_factory=dict)
    """Validation score of each epoch, by trial key."""
    searched: Mapping[Pair, Sequence[Record]] = field(default_factory=dict)
    """Records of search trials in the order in which they started, those that run again included."""
    rerun: Mapping[str, Record] = field(default_factory=dict)
    """Record of each trial that has failed and runs again, by trial key."""
    attempts: Mapping[str, int] = field(default_factory=dict)
    """Highest number of an attempt that is stored, by the key of each trial that has epochs or runs again."""
    suggestions: Mapping[Pair, Sequence[SuggestionRow]] = field(default_factory=dict)
    """The journal: suggestions of the sweep itself, then of its variants, each by ascending number."""

    @classmethod
    def read(cls, store: ResultsStore, spec: SweepSpec, *, retry: Collection[str] = ()) -> Self:
        """Return what ``store`` holds of earlier runs of a sweep and of its variants.

        Lost trials always run again, other failed trials if ``retry`` holds their key or "" (all trials). Trials also
        run again if their scores are of another metric than the task has now, or of another version of that metric,
        since a new version of orca-ray would change these scores.
        """
        variants = [name for name in store.scan().values("sweep") if spec.is_variant(name)]
        records: dict[str, Record] = {}
        scores: dict[str, Sequence[float]] = {}
        rerun: dict[str, Record] = {}
        attempts: dict[str, int] = {}
        searched, suggestions = defaultdict[Pair, list[Record]](list), defaultdict[Pair, list[SuggestionRow]](list)
        for sweep in (spec.sweep_id, *sorted(variants)):
            found = _comparable(store.load(sweep))
            again = {
                key: record
                for key, record in found.items()
                if record.status is Status.LOST or (record.status.failed and ("" in retry or key in retry))
            }
            rerun = {key: record for key, record in again.items() if key not in records} | rerun
            records = {key: record for key, record in found.items() if key not in again} | records
            curves = store.curves(sweep=sweep)
            scores = _scores(curves) | scores
            last = curves.groupby("trial_key")["attempt"].max().fillna(0)
            for key, number in (*last.items(), *((key, record.attempts) for key, record in again.items())):
                attempts[str(key)] = max(int(number), attempts.get(str(key), 0))
            for record in sorted(found.values(), key=lambda each: (each.started_at, each.trial_key)):
                if record.phase == "search":
                    searched[record.task, record.method].append(record)
            for suggestion in store.journal(sweep):
                suggestions[suggestion.task, suggestion.method].append(suggestion)
        return cls(records, scores, searched, rerun, attempts, suggestions)


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


def _scores(curves: pd.DataFrame) -> dict[str, Sequence[float]]:
    refine = curves[(curves["stage"] == "refine") & curves["validation_score"].notna()].sort_values("epoch")
    return {str(key): scores for key, scores in refine.groupby("trial_key")["validation_score"].agg(list).items()}


def restored(plan: SearchPlan, history: History, sampler: SuggestionSampler) -> list[Suggestion]:
    """Return the suggestions of a search that earlier runs have made, by ascending number.

    A suggestion belongs to the search if its trial key is the same now as in the earlier run; another body, other data
    or other fixed hyper-parameters change the key. A suggestion keeps its number in the journal. It gets a new number
    if the store is older than the journal, if its number is taken, or if it has number 0 but is not the first
    configuration any more: the number of the start-up suggestion with equal values, else the lowest free number.
    """
    if not plan.num_search:
        return []
    numbered: dict[int, Suggestion] = {}
    others: dict[str, Suggestion] = {}
    seen: set[str] = set()
    first = _key(plan, sampler.draw(0))
    for key, suggestion, own in _suggested(plan, history):
        number = suggestion.number
        if key in seen and not own:
            continue
        if number < 0 or number in numbered or (number == 0 and key != first):
            others.setdefault(key, suggestion)
        else:
            numbered[number] = suggestion
            seen.add(key)
    others = {key: suggestion for key, suggestion in others.items() if key not in seen}
    for number in range(NUM_STARTUP if others else 0):
        if number not in numbered and (key := _key(plan, sampler.draw(number))) in others:
            numbered[number] = others.pop(key)._replace(number=number)
    free = (number for number in count(1) if number not in numbered)
    numbered |= {number: suggestion._replace(number=number) for suggestion, number in zip(others.values(), free)}  # noqa: B905
    return [numbered[number] for number in sorted(numbered) if number < plan.num_search]


def _suggested(plan: SearchPlan, history: History) -> Iterator[tuple[str, Suggestion, bool]]:
    """Yield trial key, suggestion (number -1: none) and whether it is in the sweep's own journal."""
    pair, journaled = (plan.task, plan.method), set()
    for entry in history.suggestions.get(pair, ()):
        values = json.loads(entry.values)
        if _key(plan, values) == entry.trial_key:
            journaled.add(entry.trial_key)
            suggestion = Suggestion(entry.number, values, entry.known)
            yield entry.trial_key, suggestion, entry.sweep == plan.spec.sweep_id
    space = plan.spec.space(*pair)
    for record in history.searched.get(pair, ()):
        if record.trial_key in journaled:
            continue
        values = {name: value for name, value in json.loads(record.hyperparameters).items() if name in space}
        if _key(plan, values) == record.trial_key:
            yield record.trial_key, Suggestion(-1, values), False


def _key(plan: SearchPlan, values: Mapping[str, Scalar]) -> str:
    """Return the key of the search trial with ``values``; "" if no trial can have them."""
    try:
        return plan.trial(values, plan.spec.file.seed, "search").key
    except (TypeError, ValueError, OverflowError):  # e.g. a number of epochs in a foreign file that is no number
        return ""
