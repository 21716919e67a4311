"""The search and the choice of `adapt`, replayed on stored trials in simulated time.

``python -m benchmarks.replay [--tables benchmarks/replay] [--sets crx,darcy]
[--minutes 0.5,2,5] [--speeds 1,2] [--policies policy,equal,random] [--out FILE]``

`AdaptationSearch` asks for trials as it does in `adapt` on one core. A stored trial of
``replay_trials`` answers each of them, and its seconds pass on a simulated clock.
`Judge` then chooses the model. A policy is a way to ask for trials:

- ``policy``: the search of this tree.
- ``equal``: the usual configuration of each method, on one fold after the other.
- ``random``: stored trials on folds, in random order.

The report gives the error of the chosen model on the outer test of ``adapt_peers``,
which no trial has seen, divided by the least error of any single stored trial.

Not every trial is stored. `Answers` describes which stored trial answers for another
one; the report counts these answers.
"""

# ruff: noqa: T201 - a benchmark prints its table

import argparse
import inspect
import json
import math
import os
import sys
import tempfile
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from datetime import UTC, datetime, timedelta
from functools import cached_property
from pathlib import Path
from statistics import geometric_mean, median
from typing import Protocol, cast

import numpy as np
from safetensors.numpy import save
from scipy.special import expit, softmax

from benchmarks.replay_table import (
    FOLDER,
    PEERS,
    TEST,
    VALIDATION,
    StoredTrial,
    TrialTable,
    read_table,
    table_names,
)
from orca_ray.adaptation.choice import Choice
from orca_ray.adaptation.configuration import ALL, EPOCHS, FOLD, SCHEDULE, Configuration
from orca_ray.adaptation.folds import Folds
from orca_ray.adaptation.intervals import Judged
from orca_ray.adaptation.judge import Judge
from orca_ray.adaptation.search import AdaptationSearch
from orca_ray.adaptation.sweep import ENDING_SECONDS, ENDING_SHARE, AdaptationSweep
from orca_ray.data.cache import HOME_VARIABLE
from orca_ray.data.prepared import PreparedData
from orca_ray.data.rows import Array
from orca_ray.errors import UserError
from orca_ray.methods.model_folder import CONFIG
from orca_ray.methods.registry import get_method
from orca_ray.methods.snapshot import averaging
from orca_ray.results.models import StoredModels
from orca_ray.results.record import Record, Status
from orca_ray.sweep.plan.schema import Dimension, Scalar
from orca_ray.sweep.plan.searches import SearchPlan, plan_searches
from orca_ray.sweep.plan.trial_spec import TrialSpec, canonical_json
from orca_ray.sweep.search.history import History
from orca_ray.sweep.worker.models import OUTPUTS
from orca_ray.tasks.registry import DECLARATION, own_directory, task_to_json
from orca_ray.tasks.task import Task

START = "refine.start"
"""Hyper-parameter with the key of the trial whose model a training starts from."""
LEAST_SECONDS = 0.01
"""Least duration of a simulated trial, so that each simulation ends."""
SIMILAR_EPOCHS = 1.5
"""Largest ratio of epochs at which a stored fit to all samples stands for a refit."""
SHARE_OF_METHODS = 0.5
"""Share of the methods that must be stored on a fold, so that a replay has the fold."""
BEGIN = datetime(2000, 1, 1, tzinfo=UTC)
"""Start of each simulated search."""


@dataclass
class Clock:
    """Simulated clock."""

    now: float = 0.0
    """Seconds since the start of the search."""

    def __call__(self) -> float:
        return self.now


class Source(Protocol):
    """What a simulation needs of a search."""

    def take(self) -> TrialSpec | None: ...

    def finish(self, record: Record, scores: Sequence[float]) -> None: ...


@dataclass(frozen=True)
class Found:
    """A stored trial that answers for a simulated one."""

    stored: StoredTrial
    how: str
    """``exact``, ``epochs``, ``continued``, ``suggested`` or ``hole``."""


class Answers:
    """Answers to simulated trials from the stored trials of one data set.

    A trial is answered by the stored one that has the same hyper-parameters and fold
    (``exact``), else with the nearest number of epochs (``epochs``); its seconds are
    scaled by the ratio of the epochs. A suggested configuration that is not stored is
    answered by the stored suggestions of its method in turn (``suggested``). A training
    that continues another one is answered by a training on all samples with as many
    epochs as both (``continued``); if it leaves out the outer test, its outputs for
    that test are the mean of the folds'. All other trials fail (``hole``), after the
    seconds of the stored trial of the method with the nearest fold.

    The first trial that needs an alignment takes the seconds of the alignment.
    """

    def __init__(self, table: TrialTable, speed: float = 1.0) -> None:
        """Index the stored trials; durations are divided by ``speed``."""
        self._speed = speed
        self._task = table.task
        self._average = averaging(table.task.target, table.task.loss)
        self._by_fold = defaultdict[tuple[str, int], list[StoredTrial]](list)
        self._by_method = defaultdict[str, list[StoredTrial]](list)
        self._seconds_of_alignment: dict[str, float] = {}
        for trial in table.trials:
            method = trial.record.method
            self._by_fold[method, trial.fold].append(trial)
            self._by_method[method].append(trial)
            key = alignment_key(trial.values, trial.fold)
            seconds = trial.record.align_seconds
            known = self._seconds_of_alignment.get(key, 0.0)
            self._seconds_of_alignment[key] = max(seconds, known)
        self._aligned: set[str] = set()
        self._suggestions = defaultdict[str, list[str]](list)
        """The suggestions of each method that are not stored, in order."""
        self._epochs: dict[str, int] = {}
        """Number of epochs of each simulated trial, with those that it continues."""
        self.outputs: dict[str, Mapping[str, Array]] = {}
        """Outputs of each simulated trial, by trial key."""
        self.counts = Counter[str]()
        """Number of answers, by `Found.how`."""

    def find(self, trial: TrialSpec) -> Found:
        """Return the stored trial that answers for ``trial``.

        Raises KeyError if no trial of the method is stored.
        """
        values, fold = split_fold(trial.hyperparameters)
        is_continued = values.pop(START, None) is not None
        if fold < 0:
            fold = ALL
        pool = self._by_fold[trial.method, fold]
        if is_continued:
            kept = [each for each in pool if not is_suggested(each, trial.method, self)]
            if not kept:
                return self._hole(trial, fold)
            return Found(nearest(kept, self._total_epochs(trial)), "continued")
        equal = [each for each in pool if same_values(each.values, values)]
        if equal:
            best = nearest(equal, trial.epochs)
            how = "exact" if best.epochs == trial.epochs else "epochs"
            return Found(best, how)
        return self._find_suggested(trial, values, fold)

    def usual_values(self, method: str) -> Mapping[str, Scalar]:
        """Return the hyper-parameters of the first stored trial of a method."""
        return self._by_method[method][0].values

    def suggestions_of(self, method: str) -> list[str]:
        """Return the stored suggestions for a method, as `without_schedule` does."""
        suggested = [
            without_schedule(each.values)
            for each in self._by_method[method]
            if is_suggested(each, method, self)
        ]
        return list(dict.fromkeys(suggested))

    def answer(self, trial: TrialSpec, now: float) -> Record:
        """Return the record of a simulated trial that starts at the time ``now``."""
        found = self.find(trial)
        self.counts[found.how] += 1
        stored = found.stored.record
        values, fold = split_fold(trial.hyperparameters)
        ratio = trial.epochs / found.stored.epochs
        self._epochs[trial.key] = trial.epochs
        if START in values:
            self._epochs[trial.key] = self._total_epochs(trial)
        align = self._align(found.stored, values, fold)
        refine = ratio * stored.refine_seconds
        evaluate = stored.evaluate_seconds
        busy = stored.align_seconds + stored.refine_seconds + stored.evaluate_seconds
        seconds = stored.wall_seconds - busy + align + refine + evaluate
        seconds = max(LEAST_SECONDS, seconds / self._speed)
        is_hole = found.how == "hole"
        best_epoch = stored.best_epoch
        if best_epoch is not None:
            best_epoch = min(trial.epochs, math.ceil(ratio * best_epoch))
        if not is_hole:
            self.outputs[trial.key] = self._outputs(found.stored, fold)
        return replace(
            stored,
            trial_key=trial.key,
            hyperparameters=canonical_json(dict(trial.hyperparameters)),
            status=Status.FAILED_CODE if is_hole else stored.status,
            best_epoch=best_epoch,
            epochs=max(1, round(ratio * stored.epochs)),
            wall_seconds=seconds,
            align_seconds=align / self._speed,
            refine_seconds=refine / self._speed,
            evaluate_seconds=evaluate / self._speed,
            started_at=BEGIN + timedelta(seconds=now),
            finished_at=BEGIN + timedelta(seconds=now + seconds),
        )

    def seconds(self, trial: TrialSpec) -> float:
        """Return about how long a trial takes."""
        stored = self.find(trial).stored
        ratio = trial.epochs / stored.epochs
        return ratio * stored.record.wall_seconds / self._speed

    def peers_outputs(self, key: str) -> Array | None:
        """Return a simulated trial's predictions for the peers' test, if stored."""
        outputs = self.outputs[key].get(PEERS)
        return None if outputs is None else self.as_predictions(outputs)

    def refit(self, configuration: Configuration) -> Array | None:
        """Return the predictions for the peers' test of a refit to all samples.

        None if no similar fit is stored.
        """
        values = dict(configuration.hyperparameters)
        pool = [
            each
            for each in self._by_fold[configuration.method, ALL]
            if PEERS in each.outputs and same_values(each.values, values)
        ]
        records = configuration.records.values()
        epochs = median(record.best_epoch or record.epochs for record in records)
        if not pool:
            return None
        best = nearest(pool, epochs)
        if abs(math.log(best.epochs / epochs)) > math.log(SIMILAR_EPOCHS):
            return None
        return self.as_predictions(best.outputs[PEERS])

    def as_predictions(self, outputs: Array) -> Array:
        """Return probabilities for logits; numbers are unchanged."""
        if self._average == "softmax":
            return np.asarray(softmax(outputs, axis=1))
        return np.asarray(expit(outputs)) if self._average == "sigmoid" else outputs

    def _find_suggested(
        self, trial: TrialSpec, values: Mapping[str, Scalar], fold: int
    ) -> Found:
        """Return the stored suggestion that answers for a suggestion."""
        method = trial.method
        stored = self.suggestions_of(method)
        names = self._suggestions[method]
        name = without_schedule(values)
        if name not in names:
            names.append(name)
        if stored:
            wanted = stored[names.index(name) % len(stored)]
            pool = [
                each
                for each in self._by_fold[method, fold]
                if without_schedule(each.values) == wanted
            ]
            if pool:
                return Found(nearest(pool, trial.epochs), "suggested")
        return self._hole(trial, fold)

    def _hole(self, trial: TrialSpec, fold: int) -> Found:
        pool = self._by_method[trial.method]
        if not pool:
            raise KeyError(trial.method)
        distance = min(abs(each.fold - fold) for each in pool)
        near = [each for each in pool if abs(each.fold - fold) == distance]
        return Found(nearest(near, trial.epochs), "hole")

    def _total_epochs(self, trial: TrialSpec) -> int:
        """Return the epochs of a continued training and of those before it."""
        start = str(dict(trial.hyperparameters)[START])
        return trial.epochs + self._epochs.get(start, 0)

    def _align(
        self, stored: StoredTrial, values: Mapping[str, Scalar], fold: int
    ) -> float:
        """Return the seconds of the alignment of a simulated trial.

        Methods with the same alignment share it.
        """
        if not stored.record.align_epochs:
            return stored.record.align_seconds
        key = alignment_key(values, fold)
        if key in self._aligned:
            return 0.0
        self._aligned.add(key)
        stored_key = alignment_key(stored.values, stored.fold)
        return self._seconds_of_alignment[stored_key]

    def _outputs(self, stored: StoredTrial, fold: int) -> Mapping[str, Array]:
        """Return the outputs of a simulated trial on a fold."""
        if fold >= ALL or TEST not in stored.outputs:
            return stored.outputs
        # The stored training has seen the outer test.
        method = stored.record.method
        of_folds = [
            each.outputs[TEST]
            for each in self._by_method[method]
            if each.fold > 0
            and TEST in each.outputs
            and without_schedule(each.values) == without_schedule(stored.values)
            and each.epochs == stored.epochs
        ]
        if not of_folds:
            return stored.outputs
        return {**stored.outputs, TEST: np.mean(of_folds, axis=0)}


def is_suggested(trial: StoredTrial, method: str, answers: Answers) -> bool:
    """Return whether more than the schedule differs from the usual configuration."""
    return not same_values(trial.values, answers.usual_values(method))


def split_fold(hyperparameters: Mapping[str, Scalar]) -> tuple[dict[str, Scalar], int]:
    """Return the other hyper-parameters, and the number of the fold."""
    values = dict(hyperparameters)
    return values, int(values.pop(FOLD, 0))


def without_schedule(values: Mapping[str, Scalar]) -> str:
    """Return canonical JSON of hyper-parameters without the schedule.

    Copies of boosted trees do not count: they are only in a refit.
    """
    ignored = {*SCHEDULE, "boosting.copies"}
    return canonical_json({key: values[key] for key in values.keys() - ignored})


def same_values(values: Mapping[str, Scalar], others: Mapping[str, Scalar]) -> bool:
    """Return whether at most the schedule differs."""
    return without_schedule(values) == without_schedule(others)


def alignment_key(values: Mapping[str, Scalar], fold: int) -> str:
    """Return the hyper-parameters that decide on an alignment, and the fold."""
    names = [name for name in values if name.startswith(("align.", "embedder."))]
    return canonical_json({FOLD: fold, **{name: values[name] for name in names}})


def nearest(trials: Sequence[StoredTrial], epochs: float) -> StoredTrial:
    """Return the stored trial with the nearest number of epochs, as a ratio."""
    return min(trials, key=lambda each: abs(math.log(each.epochs / epochs)))


class ReplayedModels:
    """The part of `StoredModels` that `Judge` uses, for simulated trials."""

    def __init__(self, outputs: Mapping[str, Mapping[str, Array]]) -> None:
        self._outputs = outputs

    def names(self, key: str) -> list[str]:
        """Return the names of the files of a model."""
        return [OUTPUTS, CONFIG] if self._outputs.get(key) else []

    def place(self, key: str) -> str:
        """Return a name of the model for error messages."""
        return f"replay/{key}"

    def read(self, key: str, name: str) -> bytes | None:
        """Return the outputs of a trial as a file."""
        assert name == OUTPUTS
        stored = self._outputs[key]
        arrays = {
            split: np.ascontiguousarray(stored[split], dtype=np.float32)
            for split in (VALIDATION, TEST)
            if split in stored and len(stored[split])
        }
        return save(arrays, metadata={"format": "np"})


class FixedOrder:
    """Source that hands out trials in a fixed order, as far as they fit."""

    def __init__(
        self,
        trials: Sequence[TrialSpec],
        answers: Answers,
        clock: Clock,
        deadline: float,
    ) -> None:
        self._trials = list(trials)
        self._answers = answers
        self._clock = clock
        self._deadline = deadline

    def take(self) -> TrialSpec | None:
        """Return the first trial that fits into the remaining time."""
        for trial in self._trials:
            if self._clock.now + self._answers.seconds(trial) <= self._deadline:
                self._trials.remove(trial)
                return trial
        return None

    def finish(self, record: Record, scores: Sequence[float]) -> None:
        """Do nothing: the order does not depend on results."""


@dataclass(frozen=True)
class Problem:
    """One search to simulate."""

    table: TrialTable
    plans: Sequence[SearchPlan]
    data: PreparedData
    folds: Folds
    answers: Answers
    clock: Clock
    deadline: float
    speed: float


def make_problem(table: TrialTable, minutes: float, speed: float) -> Problem:
    """Return the search of a data set with a time limit on a machine of some speed."""
    seconds = 60 * minutes
    data = first_division(table.data)
    return Problem(
        table=table,
        plans=make_plans(table),
        data=data,
        folds=stored_folds(table, folds_of(table.task, data)),
        answers=Answers(table, speed),
        clock=Clock(),
        deadline=seconds - min(ENDING_SECONDS, ENDING_SHARE * seconds),
        speed=speed,
    )


def folds_of(task: Task, data: PreparedData) -> Folds:
    """Return the folds of the data, for trees with and without the argument ``task``.

    Trees before the policy of issue 49 take both.
    """
    make: Callable[..., Folds] = Folds.of_data
    if "task" in inspect.signature(make).parameters:
        return make(task, data)
    return make(data)


def first_division(data: PreparedData) -> PreparedData:
    """Return the data with the folds of their first division only."""
    return data if data.folds is None else replace(data, folds=data.folds[:1])


def stored_folds(table: TrialTable, folds: Folds) -> Folds:
    """Return the folds of which most methods have a stored trial."""
    methods = {trial.record.method for trial in table.trials}
    num_methods = Counter(
        fold for _, fold in {(each.record.method, each.fold) for each in table.trials}
    )
    numbers = [
        fold
        for fold in folds.numbers
        if num_methods[fold] >= SHARE_OF_METHODS * len(methods)
    ]
    return replace(folds, numbers=numbers or folds.numbers[:1])


def make_plans(table: TrialTable) -> list[SearchPlan]:
    """Return the plans of the stored methods, in the order of this tree."""
    register_declaration(table.task)
    stored = {trial.record.method for trial in table.trials}
    chosen = AdaptationSweep(task=table.task).chosen_methods()
    methods = [method for method in chosen if method in stored]
    spec = AdaptationSweep(task=table.task, methods=methods).spec()
    fingerprints = {table.task.name: table.data.fingerprint}
    answers = Answers(table)
    plans = list[SearchPlan]()
    for plan in plan_searches(spec, fingerprints, gpus=False):
        kind = SearchPlan if answers.suggestions_of(plan.method) else PlanWithoutSpace
        values = {each.name: getattr(plan, each.name) for each in fields(plan)}
        plans.append(kind(**{**values, "source": table.sources[plan.method]}))
    return plans


class PlanWithoutSpace(SearchPlan):
    """Plan of a method of which no suggestion is stored: nothing is suggested."""

    @cached_property
    def space(self) -> Mapping[str, Dimension]:
        """The empty search space."""
        return {}


def register_declaration(task: Task) -> None:
    """Write the declaration of a task, without data, to the cache directory."""
    directory = own_directory(task.name)
    if not directory.exists():
        directory.mkdir(parents=True)
        (directory / DECLARATION).write_text(json.dumps(task_to_json(task)))


def search_of_tree(problem: Problem) -> Source:
    """Return the search of this tree."""
    return AdaptationSearch(
        problem.plans,
        History(),
        problem.folds,
        deadline=problem.deadline,
        estimates={
            method: seconds / problem.speed
            for method, seconds in problem.table.estimates.items()
        },
        clock=problem.clock,
    )


def equal_folds(problem: Problem) -> Source:
    """Return all methods' usual configurations, on one fold after the other."""
    trials = [
        trial_of(plan, plan.first, fold)
        for fold in problem.folds.numbers
        for plan in problem.plans
    ]
    return FixedOrder(trials, problem.answers, problem.clock, problem.deadline)


def random_order(problem: Problem) -> Source:
    """Return the stored trials on folds in random order."""
    plan_of = {plan.method: plan for plan in problem.plans}
    trials = [
        trial_of(plan_of[each.record.method], each.values, each.fold)
        for each in problem.table.trials
        if each.fold in problem.folds.numbers and each.record.method in plan_of
    ]
    order = np.random.default_rng(0).permutation(len(trials))
    shuffled = [trials[number] for number in order]
    return FixedOrder(shuffled, problem.answers, problem.clock, problem.deadline)


POLICIES: dict[str, Callable[[Problem], Source]] = {
    "policy": search_of_tree,
    "equal": equal_folds,
    "random": random_order,
}


def trial_of(plan: SearchPlan, values: Mapping[str, Scalar], fold: int) -> TrialSpec:
    """Return the trial of hyper-parameters on a fold."""
    return plan.trial({**values, FOLD: fold}, plan.confirm_seeds[0], "confirm")


def simulate(problem: Problem, source: Source) -> list[Record]:
    """Run a search in simulated time, and return the records of its trials.

    A trial that runs at the deadline is lost, unless no other trial has completed.
    """
    records = list[Record]()
    while (trial := source.take()) is not None:
        record = problem.answers.answer(trial, problem.clock.now)
        end = problem.clock.now + record.wall_seconds
        has_result = any(each.status is Status.COMPLETED for each in records)
        if end > problem.deadline and has_result:
            break
        problem.clock.now = end
        source.finish(record, [])
        records.append(record)
    return records


@dataclass(frozen=True)
class Outcome:
    """What came of one simulated search."""

    name: str
    kind: str
    minutes: float
    speed: float
    policy: str
    error: float
    """Error of the chosen model on the outer test of ``adapt_peers``."""
    ratio: float
    """Error relative to the least error of a single stored trial."""
    chosen: str
    seconds: float = 0.0
    counts: Mapping[str, int] = field(default_factory=dict)

    def __str__(self) -> str:
        counts = " ".join(f"{how} {n}" for how, n in sorted(self.counts.items()))
        return (
            f"{self.name} {self.minutes:g} min ×{self.speed:g} {self.policy}:"
            f" {self.error:.4g} ({self.ratio:.3f}) {self.chosen};"
            f" {self.seconds:.0f} s, {counts}"
        )


def replay(table: TrialTable, minutes: float, speed: float, policy: str) -> Outcome:
    """Simulate one search, and return what came of it."""
    problem = make_problem(table, minutes, speed)
    records = simulate(problem, POLICIES[policy](problem))
    models = cast(StoredModels, ReplayedModels(problem.answers.outputs))
    errors = single_errors(table, problem.answers)
    try:
        judge = Judge(table.task, problem.data, records, models)
        choice = judge.ensemble() or judge.single(judge.leader)
    except UserError:
        error = max(errors)
        chosen = "no model"
    else:
        mixed = predictions_of(choice, judge, problem.answers)
        error = error_of(mixed, table)
        chosen = describe(choice, judge)
    return Outcome(
        table.name,
        table.kind,
        minutes,
        speed,
        policy,
        error,
        (error + half_error(table)) / (min(errors) + half_error(table)),
        chosen,
        problem.clock.now,
        problem.answers.counts,
    )


def predictions_of(choice: Choice, judge: Judge, answers: Answers) -> Array:
    """Return the predictions of a chosen model for the outer test of the peers."""
    parts = [
        weight * predictions_of_part(configuration, judge, answers)
        for configuration, weight in choice.parts
    ]
    return np.asarray(sum(parts))


def predictions_of_part(
    configuration: Configuration, judge: Judge, answers: Answers
) -> Array:
    """Return the predictions of the model that stands for a configuration.

    That is its training on all samples, if it is stored, else the mean of its folds.
    """
    last = judge.last_training(configuration)
    predictions = None
    if last is not None:
        predictions = answers.peers_outputs(last.trial_key)
    elif get_method(configuration.method).refits:
        predictions = answers.refit(configuration)
    if predictions is not None:
        return predictions
    of_folds = [answers.peers_outputs(key) for key in configuration.trial_keys]
    return np.asarray(np.mean([each for each in of_folds if each is not None], axis=0))


def error_of(predictions: Array, table: TrialTable) -> float:
    """Return the error of predictions on the outer test of the peers."""
    average = averaging(table.task.target, table.task.loss)
    judged = Judged(table.task.metric, average, table.answers, [predictions], 0)
    return judged.score(predictions)


def half_error(table: TrialTable) -> float:
    """Return half of one error if the metric is a share of errors; else 0."""
    return 0.5 / len(table.answers) if table.task.metric == "error" else 0.0


def single_errors(table: TrialTable, answers: Answers) -> list[float]:
    """Return the errors of all stored trials on the outer test of the peers."""
    return [
        error_of(answers.as_predictions(trial.outputs[PEERS]), table)
        for trial in table.trials
        if PEERS in trial.outputs
    ]


def describe(choice: Choice, judge: Judge) -> str:
    """Return the parts of a chosen model in words."""
    parts = []
    for configuration, weight in choice.parts:
        last = judge.last_training(configuration)
        trained = f"{len(configuration.records)} folds"
        if last is not None:
            trained = "all samples"
        values = configuration.hyperparameters
        epochs = f" {values[EPOCHS]} epochs" if EPOCHS in values else ""
        parts.append(f"{weight:.2g} {configuration.method}{epochs} ({trained})")
    return " + ".join(parts)


def report(outcomes: Sequence[Outcome]) -> str:
    """Return the geometric means by kind, time and speed as a Markdown table."""
    policies = list(dict.fromkeys(each.policy for each in outcomes))
    kinds = [*dict.fromkeys(each.kind for each in outcomes), "all"]
    settings = list(dict.fromkeys((each.minutes, each.speed) for each in outcomes))
    lines = [
        f"| kind | sets | minutes | speed | {' | '.join(policies)} |",
        f"|---|---|---|---|{'---|' * len(policies)}",
    ]
    for kind in kinds:
        for minutes, speed in settings:
            of_row = [
                each
                for each in outcomes
                if kind in (each.kind, "all")
                and (each.minutes, each.speed) == (minutes, speed)
            ]
            names = {each.name for each in of_row}
            cells = [
                f"{geometric_mean([e.ratio for e in of_row if e.policy == policy]):.3f}"
                for policy in policies
            ]
            lines.append(
                f"| {kind} | {len(names)} | {minutes:g} | {speed:g} |"
                f" {' | '.join(cells)} |"
            )
    return "\n".join(lines)


def main() -> None:
    """Replay all policies on all tables, and print the report."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tables", type=Path, default=FOLDER)
    parser.add_argument("--sets", default="", help="names; default: all tables")
    parser.add_argument("--minutes", default="0.5,2,5")
    parser.add_argument("--speeds", default="1,2")
    parser.add_argument("--policies", default=",".join(POLICIES))
    parser.add_argument("--out", type=Path, help="file of the report")
    options = parser.parse_args()
    names = options.sets.split(",") if options.sets else table_names(options.tables)
    outcomes = list[Outcome]()
    with tempfile.TemporaryDirectory() as home:
        os.environ[HOME_VARIABLE] = home
        for name in names:
            table = read_table(name, options.tables)
            for minutes in map(float, options.minutes.split(",")):
                for speed in map(float, options.speeds.split(",")):
                    for policy in options.policies.split(","):
                        outcomes.append(replay(table, minutes, speed, policy))
                        print(outcomes[-1], file=sys.stderr, flush=True)
    lines = [report(outcomes), "", *map(str, outcomes)]
    if options.out:
        options.out.write_text("\n".join(lines) + "\n", encoding="utf-8")
    print(lines[0])


if __name__ == "__main__":
    main()
