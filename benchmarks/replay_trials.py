"""Trials of all methods that `adapt` compares, run once and stored, for `replay`.

``python -m benchmarks.replay_trials --work DIR [--sets tuning] [--passes 1,2,3,4,5]
[--limit 150]``

Each data set of ``benchmarks/adapt_peers.py`` is prepared as `adapt` prepares it. Each
trial stores its record, the outputs for its fold and for the outer test of the prepared
data, and the outputs for the outer test of ``adapt_peers`` (`PEER_OUTPUTS`), which no
training has seen. Weights are deleted after each trial. Durations are processor time of
one thread (`benchmarks.cpu_clock`).

The passes are `PASSES`. A pass runs on all sets before the next one starts, so that the
stored trials are balanced whenever the script is stopped. A second start continues: a
stored trial never runs again, and a failed trial stays failed.
"""

# ruff: noqa: T201 - a benchmark prints its progress

import argparse
import io
import json
import os
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

os.environ.setdefault("OMP_NUM_THREADS", "1")

import benchmarks.cpu_clock  # isort: skip  # noqa: F401 - before all modules that take times
from benchmarks.adapt_peers import chosen_sets
from benchmarks.peers.parts import DataSet
from benchmarks.peers.writing import Written, write
from orca_ray.adaptation.configuration import (
    ALL,
    EPOCHS,
    FOLD,
    Configuration,
    changed_values,
)
from orca_ray.adaptation.expected_seconds import busy_seconds
from orca_ray.adaptation.refits import COPIES, MOST_COPIES, ROUNDS
from orca_ray.adaptation.sweep import SLOW_IMPORTS, AdaptationSweep
from orca_ray.data.rows import Array
from orca_ray.errors import UserError
from orca_ray.options import KeepModels
from orca_ray.own_data import make_options, read
from orca_ray.own_data.infer_task import infer
from orca_ray.own_data.registration import register
from orca_ray.predictor import Predictor
from orca_ray.results.models import StoredModels
from orca_ray.results.record import Record, Status
from orca_ray.sweep.executors import make_executor
from orca_ray.sweep.plan.schema import Scalar
from orca_ray.sweep.plan.searches import SearchPlan, num_epochs
from orca_ray.sweep.plan.trial_spec import TrialSpec
from orca_ray.sweep.run.driver import run_sweep
from orca_ray.sweep.search.history import History
from orca_ray.sweep.search.sampler import suggest
from orca_ray.sweep.search.source import PlanProgress, TrialSource
from orca_ray.sweep.worker.models import OUTPUTS
from orca_ray.tasks.task import Task

PEER_OUTPUTS = "peer_outputs.npy"
"""File with a model's outputs for the outer test of ``adapt_peers``."""
NUM_SUGGESTED = 3
"""Number of suggested configurations of each method with a search space."""
LONGEST_OF_FIRST_PASS = 40.0
"""Largest expected number of seconds of a trial of the first pass."""
LONGEST = 60.0
"""Largest expected number of seconds of a trial of the other passes."""
GRACE_SECONDS = 120.0
"""Seconds after the limit of a pass at which its last trial is interrupted."""


@dataclass(frozen=True)
class Wanted:
    """A trial to run: a method, the values that differ from its first configuration,
    and a fold or `ALL`.
    """

    plan: SearchPlan
    values: dict[str, Scalar]
    fold: int

    @cached_property
    def trial(self) -> TrialSpec:
        """The trial, as the search of `adapt` would run it."""
        values = {**self.values, FOLD: self.fold}
        return self.plan.trial(values, self.plan.confirm_seeds[0], "confirm")

    @property
    def epochs(self) -> int:
        """Number of refine epochs; 1 for a method without epochs."""
        return num_epochs(self.trial.hyperparameters)


def with_share_of_epochs(plan: SearchPlan, share: float) -> dict[str, Scalar]:
    """Return the values of a schedule with a share of the usual epochs, at least 1."""
    usual = Configuration(plan.method, {}, plan.first)
    return usual.values_of_schedule(max(1, int(share * usual.epochs)))


def shorter_schedules(plan: SearchPlan) -> list[dict[str, Scalar]]:
    """Return the values of schedules with 1/2, 1/4, … of the epochs, down to one."""
    schedules = []
    epochs = num_epochs(plan.first)
    while EPOCHS in plan.first and epochs > 1:
        epochs //= 2
        usual = Configuration(plan.method, {}, plan.first)
        schedules.append(usual.values_of_schedule(epochs))
    return schedules


def suggested_values(plan: SearchPlan) -> list[dict[str, Scalar]]:
    """Return the values that Optuna suggests before it knows any score."""
    history: list[tuple[dict[str, Scalar], float | None]] = [({}, None)]
    while plan.space and len(history) <= NUM_SUGGESTED:
        suggested = suggest(plan.first, plan.space, history)
        values = changed_values({**plan.first, **suggested}, plan.first)
        history.append((values, None))
    return [values for values, _ in history[1:]]


def first_pass(plan: SearchPlan) -> Iterator[Wanted]:
    """Yield the usual configuration and its shorter schedules on the first fold."""
    for values in (*shorter_schedules(plan), {}):
        yield Wanted(plan, values, 1)


def second_pass(plan: SearchPlan) -> Iterator[Wanted]:
    """Yield two more folds, and trainings on all samples."""
    half = with_share_of_epochs(plan, 0.5)
    for fold in (2, ALL, 3):
        yield Wanted(plan, {}, fold)
    if EPOCHS in plan.first:
        yield Wanted(plan, half, 2)
        yield Wanted(plan, half, ALL)


def refits(plan: SearchPlan, history: History) -> Iterator[Wanted]:
    """Yield the fit of boosted trees to all samples with the best number of epochs.

    Like `orca_ray.adaptation.refits`, it has several copies.
    """
    record = history.records.get(Wanted(plan, {}, 1).trial.key)
    if record is not None and record.best_epoch and ROUNDS in plan.first:
        usual = Configuration(plan.method, {}, plan.first)
        values = usual.values_of_schedule(record.best_epoch)
        yield Wanted(plan, {**values, COPIES: MOST_COPIES}, ALL)


def third_pass(plan: SearchPlan) -> Iterator[Wanted]:
    """Yield longer schedules of methods that are trained by gradients."""
    if EPOCHS in plan.first and not plan.recipe.fitted:
        for factor in (2, 4):
            values = with_share_of_epochs(plan, factor)
            yield Wanted(plan, values, 1)
            yield Wanted(plan, values, ALL)


def fourth_pass(plan: SearchPlan) -> Iterator[Wanted]:
    """Yield the usual configuration on the fourth and fifth fold."""
    for fold in (4, 5):
        yield Wanted(plan, {}, fold)


def fifth_pass(plan: SearchPlan) -> Iterator[Wanted]:
    """Yield suggested configurations on two folds."""
    for values in suggested_values(plan):
        for fold in (1, 2):
            yield Wanted(plan, values, fold)


PASSES: dict[int, Callable[[SearchPlan], Iterator[Wanted]]] = {
    1: first_pass,
    2: second_pass,
    3: third_pass,
    4: fourth_pass,
    5: fifth_pass,
}
"""Trials of each method that a pass runs, by number of the pass."""


class TrialList(TrialSource):
    """Source that hands out the trials of one pass, within a limit of seconds.

    The seconds of trials that an earlier run has stored count.
    """

    is_open_ended = True

    def __init__(
        self,
        plans: Sequence[SearchPlan],
        history: History,
        wanted: Sequence[Wanted],
        *,
        limit: float,
        longest: float,
        keep_outputs: Callable[[Record], None],
    ) -> None:
        """Store the arguments.

        ``keep_outputs`` is called with the record of each trial that completes.
        """
        super().__init__(plans)
        self._limit = limit
        self._longest = longest
        self._keep_outputs = keep_outputs
        # Optuna may suggest the same values again.
        by_key = {each.trial.key: each for each in wanted}
        self._wanted = [
            each for key, each in by_key.items() if key not in history.records
        ]
        self._ended = list(history.records.values())
        self._used = sum(
            record.wall_seconds for record in self._ended if record.trial_key in by_key
        )
        self._running: set[str] = set()

    def progress(self) -> list[PlanProgress]:
        """Return the numbers of ended, running and remaining trials by method."""
        rows = []
        for plan in self.plans:
            methods = [record.method for record in self.records.values()]
            remaining = sum(each.plan.method == plan.method for each in self._wanted)
            rows.append(
                PlanProgress(plan, methods.count(plan.method), 0, remaining + 1)
            )
        return rows

    @property
    def unended(self) -> set[str]:
        """Keys of the trials that run."""
        return self._running

    @property
    def done(self) -> bool:
        """Whether no trial runs and none fits into the limit."""
        return not self._running and self._next() is None

    def failures(self) -> Iterator[tuple[SearchPlan, str]]:
        """Yield nothing: a method without a score is no failure here."""
        return iter(())

    def next_plan(self) -> SearchPlan | None:
        """Return the plan of the next trial."""
        wanted = self._next()
        return None if wanted is None else wanted.plan

    def take(self) -> TrialSpec | None:
        """Return the next trial, and mark it as running."""
        wanted = self._next()
        if wanted is None:
            return None
        self._wanted.remove(wanted)
        self._running.add(wanted.trial.key)
        return wanted.trial

    def finish(self, record: Record, scores: Sequence[float]) -> None:
        """Store a record, keep the outputs of its model, and print a line."""
        self.records[record.trial_key] = record
        self._ended.append(record)
        self._running.discard(record.trial_key)
        self._used += record.wall_seconds
        if record.status is Status.COMPLETED:
            self._keep_outputs(record)
        print_record(record)

    def _next(self) -> Wanted | None:
        """Return the first trial that is short enough and fits into the limit."""
        for wanted in self._wanted:
            seconds = self._expected_seconds(wanted)
            if seconds <= min(self._longest, self._limit - self._used):
                return wanted
        return None

    def _expected_seconds(self, wanted: Wanted) -> float:
        """Return the seconds of the stored trial with the nearest number of epochs,
        scaled by the epochs; 0 if no trial of the method is stored.
        """
        stored = [each for each in self._ended if each.method == wanted.plan.method]
        if not stored:
            return 0.0
        nearest = min(stored, key=lambda each: abs(epochs_of(each) - wanted.epochs))
        busy = busy_seconds(nearest)
        ratio = wanted.epochs / epochs_of(nearest)
        return nearest.wall_seconds - busy + ratio * busy


def epochs_of(record: Record) -> int:
    """Return the number of epochs that a trial was given; it may have ended earlier."""
    return num_epochs(json.loads(record.hyperparameters))


def print_record(record: Record) -> None:
    """Print one line about an ended trial."""
    score = record.validation_score
    print(
        f"{time.strftime('%H:%M:%S')} {record.method} epochs {epochs_of(record)}"
        f" {record.status.value} {record.wall_seconds:.1f} s"
        f" score {'none' if score is None else f'{score:.4g}'}",
        record.error.splitlines()[-1][:200] if record.error else "",
        flush=True,
    )


@dataclass(frozen=True)
class ReplaySet:
    """A data set, its prepared task, and the results store of its trials."""

    written: Written
    task: Task
    results: Path

    @classmethod
    def prepare(cls, data: DataSet, work: Path) -> "ReplaySet":
        """Prepare a data set below the folder ``work``, unless it is prepared."""
        written = write(data, work / "sets")
        options = make_options("adapt", adapt_options(data))
        samples = read(str(written.train), options)
        task = register(infer(samples, options, gpus=False), samples)
        return cls(written, task, work / "results" / data.name)

    def run(self, number: int, limit: float) -> None:
        """Run the trials of a pass that are not stored.

        In the first pass, the shortest schedules come first.
        """
        models = StoredModels(str(self.results))

        def make_sources(
            plans: Sequence[SearchPlan],
            history: History,
            *,
            running: Collection[str] = (),
        ) -> list[TrialList]:
            if not plans:
                return []
            wanted = [each for plan in plans for each in PASSES[number](plan)]
            if number == 1:
                wanted.sort(key=lambda each: each.epochs)
            if number == 2:
                wanted += [each for plan in plans for each in refits(plan, history)]
            source = TrialList(
                plans,
                history,
                wanted,
                limit=limit,
                longest=LONGEST_OF_FIRST_PASS if number == 1 else LONGEST,
                keep_outputs=partial(self._keep_outputs, models),
            )
            return [source]

        run_sweep(
            AdaptationSweep(task=self.task).spec(),
            str(self.results),
            executor=make_executor("inline"),
            keep_models=KeepModels.ALL,
            deadline=time.monotonic() + limit + GRACE_SECONDS,
            make_sources=make_sources,
        )

    def _keep_outputs(self, models: StoredModels, record: Record) -> None:
        """Store a model's outputs for the peers' test, and delete the model."""
        key = record.trial_key
        if not models.has(key):
            return  # a run that was killed had kept the outputs, but stored no record
        predictor = Predictor.load(self.results / "models" / key)
        chunks = self._peer_inputs(predictor)
        outputs = np.concatenate([predictor.outputs_of(chunk) for chunk in chunks])
        models.remove(key, keep=OUTPUTS)
        stream = io.BytesIO()
        np.save(stream, outputs.astype(np.float32))
        models.write(key, PEER_OUTPUTS, stream.getvalue())

    def _peer_inputs(self, predictor: Predictor) -> list[Array]:
        """Return the encoded inputs of the peers' test, which are read once."""
        cached: list[Array] | None = _PEER_INPUTS.get(self.task.name)
        if cached is None:
            cached = list(predictor.inputs(self.written.test).chunks(print))
            _PEER_INPUTS[self.task.name] = cached
        return cached


_PEER_INPUTS: dict[str, list[Array]] = {}
"""Encoded inputs of the peers' test, by name of the task."""


def adapt_options(data: DataSet) -> dict[str, Any]:
    """Return the options with which ``adapt_peers`` calls `adapt`."""
    options: dict[str, Any] = {"metric": data.metric}
    if not data.in_folders:
        options["target"] = "target" if data.kind == "table" else "y"
    names = data.options[::2]
    for name, value in zip(names, data.options[1::2], strict=True):
        options[name.removeprefix("--")] = value
    return options


def main() -> None:
    """Run all passes over all sets."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--work", type=Path, required=True, help="folder of the stores")
    parser.add_argument("--sets", default="tuning", help="as of adapt_peers")
    parser.add_argument("--passes", default="1,2,3,4,5", help="numbers of the passes")
    parser.add_argument(
        "--limit", type=float, default=150.0, help="seconds of a set and a pass"
    )
    options = parser.parse_args()
    work = options.work.resolve()
    for name in SLOW_IMPORTS:
        import_module(name)
    for number in map(int, options.passes.split(",")):
        for data in chosen_sets(options.sets.split(",")):
            print(f"pass {number}: {data.name}", flush=True)
            try:
                ReplaySet.prepare(data, work).run(number, options.limit)
            except UserError as error:
                print(f"{data.name}: {error}", flush=True)


if __name__ == "__main__":
    main()
