"""Simulated searches on own data: seeded scenarios, and the decisions in them.

A scenario has methods, folds, durations and scores. `simulate` runs a scenario in
virtual time. Everything that a trial returns depends only on the seed of the scenario
and on the hyper-parameters of the trial.
"""

import heapq
import json
import math
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

from orca_ray.methods.registry import get_method
from orca_ray.results.record import Record, Status
from orca_ray.sweep.plan.loading import parse_spec
from orca_ray.sweep.plan.searches import SearchPlan, plan_searches
from orca_ray.sweep.plan.trial_spec import TrialSpec, canonical_json
from tests.results.factories import make_record

TEXT = """
name: adapt
benchmark: cabinet
methods: [METHODS]
tasks: [TASK]
settings: {refine.learning_rate: 1e-3, refine.epochs: 8, refine.warmup_epochs: 1}
space: {refine.learning_rate: {log_uniform: [1e-5, 1e-1]}}
per_method:
  forest: {space: {forest.splits: {choice: [best, random]}}}
  gradient_boosting:
    settings: {refine.epochs: 300}
    space:
      boosting.leaf_samples: {choice: [2, 5, 20]}
      boosting.columns: {choice: [0.5, 1.0]}
  cnn:
    settings:
      refine.epochs: 24
      refine.label_smoothing: 0.05
      refine.keep: last
    space:
      refine.learning_rate: {log_uniform: [1e-3, 2e-2]}
      cnn.width: {choice: [16, 32, 64]}
  unet:
    settings: {refine.epochs: 20}
    space: {refine.batch_size: {choice: [8, 16]}}
budgets:
  full: {search_trials: 0, confirm_seeds: [1]}
"""
TASKS = {
    "table": "cabinet/german",
    "series": "cabinet/acsf1",
    "field": "cabinet/allen_cahn",
    "image": "cabinet/faces",
}
"""Task of each kind of data; its data are not read."""
BASELINES = {
    "table": ("linear", "nearest", "kernel_ridge", "forest", "gradient_boosting"),
    "series": ("linear", "nearest", "minirocket", "minirocket_hydra", "cnn"),
    "field": ("linear", "unet", "fno"),
    "image": ("linear", "nearest", "forest", "cnn"),
}
"""Methods without a body, by kind of data."""
TRANSFORMERS = ("linear_probe", "nft", "orca_guarded", "orca", "scratch")
DIVISIONS = {
    "one split": (1, 0),
    "two folds": (2, 0),
    "three folds": (3, 0),
    "five folds": (5, 0),
    "two divisions of five": (10, 5),
    "three divisions of two": (6, 2),
}
"""Number of folds, and number of folds of one division (0: all), by name."""
MOST_DECISIONS = 45
"""Largest number of trials of one scenario."""


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What a search knows before its first trial."""

    folds: Sequence[int]
    division: int
    has_outer_test: bool
    num_classes: int
    num_held: float
    """Number of validation samples of a fold; infinite if scores are no shares."""
    sizes: Mapping[int, float]
    """Numbers of samples of all (-1), and of all but the outer test (-2), relative to
    those of a fold.
    """
    estimates: Mapping[tuple[str, str], float]
    """Expected seconds of a trial, by task and method."""
    deadline: float
    final: frozenset[tuple[str, str]] = frozenset()
    """Methods and hyper-parameters that train on all samples, instead of a search."""


class TrialSource(Protocol):
    """What a simulated search needs."""

    def take(self) -> TrialSpec | None:
        """Return the trial that starts now."""

    def finish(self, record: Record) -> None:
        """Take the record of a trial that has ended."""

    @property
    def done(self) -> bool:
        """Whether no trial can start any more."""


MakeSource = Callable[
    [
        Sequence[SearchPlan],
        Mapping[str, Record],
        Setting,
        Callable[[], float],
    ],
    TrialSource,
]
"""Function from plans, earlier records by trial key, setting and clock to a search."""


@dataclass(frozen=True)
class Behaviour:
    """How the trials of one method behave."""

    level: float
    """Score of many epochs."""
    gain: float
    """How much of the level the first epochs lack."""
    seconds_per_epoch: float
    failing: float
    """Share of trials that fail."""
    converged_loss: float
    """Training loss of many epochs."""


@dataclass
class Scenario:
    """Everything that decides how a simulated search goes."""

    seed: int
    now: float = 0.0
    decisions: list[str] = field(default_factory=list)
    records: dict[str, Record] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._draw = random.Random(self.seed)
        draw = self._draw
        self.kind = draw.choice(sorted(BASELINES))
        self.num_folds, self.division = DIVISIONS[draw.choice(sorted(DIVISIONS))]
        if draw.random() < 0.4:
            self.num_folds, self.division = DIVISIONS["five folds"]
        self.num_classes = draw.choice([0, 2, 10])
        self.has_outer_test = draw.random() < 0.6
        self.num_held = draw.choice([math.inf, 12.0, 40.0, 400.0])
        self.seconds = round(math.exp(draw.uniform(math.log(20), math.log(2500))), 1)
        self.num_workers = draw.choice([1, 1, 1, 2, 3])
        self.extra_seconds = draw.choice([0.05, 0.4, 3.0])
        baselines = BASELINES[self.kind]
        transformers = draw.sample(TRANSFORMERS, draw.randint(0, 4))
        sampled = draw.sample(baselines, draw.randint(1, len(baselines)))
        self.methods = [name for name in baselines if name in sampled]
        self.methods += [name for name in TRANSFORMERS if name in transformers]
        self.networks_lead = draw.random() < 0.7
        self.behaviours = {name: self._draw_behaviour(name) for name in self.methods}
        self.improving = draw.choice([0.2, 0.5, 0.9])
        self.estimates = self._draw_estimates()

    def _draw_behaviour(self, method: str) -> Behaviour:
        draw = self._draw
        recipe = get_method(method)
        share_of_time = 10 ** draw.uniform(-3.0, -0.5)
        if recipe.fitted:
            share_of_time /= draw.choice([2.0, 20.0, 200.0])
        seconds = self.seconds * share_of_time * recipe.relative_cost
        usual_epochs = {"gradient_boosting": 300, "cnn": 24, "unet": 20}.get(method, 8)
        level = draw.choice([0.0, 0.1, 0.2, 0.4]) + 0.1 * draw.random()
        if recipe.fitted and self.networks_lead:
            level += 0.2
        return Behaviour(
            level=round(level, 4),
            gain=round(draw.uniform(0.0, 1.5), 3),
            seconds_per_epoch=round(max(1e-4, seconds / usual_epochs), 5),
            failing=draw.choice([0.0, 0.0, 0.0, 0.2, 1.0]),
            converged_loss=draw.choice([0.0, 0.19, 0.25, 0.5]),
        )

    def _draw_estimates(self) -> dict[tuple[str, str], float]:
        draw = self._draw
        estimates = dict[tuple[str, str], float]()
        for plan in self.make_plans(self.methods):
            epochs = int(plan.first.get("refine.epochs", 1))
            seconds = epochs * self.behaviours[plan.method].seconds_per_epoch
            estimate = seconds * math.exp(draw.gauss(0, 0.7))
            if draw.random() < 0.9:
                estimates[plan.task, plan.method] = round(estimate, 4)
        return estimates

    def make_plans(self, methods: Sequence[str]) -> list[SearchPlan]:
        """Return the plans of ``methods``, with the text of the sweep file above."""
        text = TEXT.replace("METHODS", ", ".join(methods))
        spec = parse_spec(text.replace("TASK", TASKS[self.kind]))
        fingerprints = dict.fromkeys(spec.tasks, "0123456789abcdef")
        return plan_searches(spec, fingerprints, gpus=False)

    def make_setting(self, seconds: float) -> Setting:
        """Return the setting of a search that has ``seconds`` from now on."""
        folds = list(range(1, self.num_folds + 1)) if self.num_folds > 1 else [0]
        return Setting(
            folds=folds,
            division=self.division,
            has_outer_test=self.has_outer_test,
            num_classes=self.num_classes,
            num_held=self.num_held,
            sizes={-1: 1.5, -2: 1.25},
            estimates=self.estimates,
            deadline=self.now + seconds,
        )

    def make_draw(self, trial: TrialSpec, purpose: str) -> random.Random:
        """Return a generator that depends on the trial and on a purpose."""
        values = canonical_json(dict(trial.hyperparameters))
        return random.Random(f"{self.seed} {purpose} {trial.method} {values}")

    def compute_seconds(self, trial: TrialSpec) -> float:
        """Return the seconds of the stages of a trial."""
        behaviour = self.behaviours[trial.method]
        spread = math.exp(self.make_draw(trial, "seconds").gauss(0, 0.1))
        return round(trial.epochs * behaviour.seconds_per_epoch * spread, 4)

    def make_record_of(self, trial: TrialSpec) -> Record:
        """Return the record of a trial that ends now."""
        behaviour = self.behaviours[trial.method]
        draw = self.make_draw(trial, "outcome")
        fold = int(trial.hyperparameters.get("data.fold", 0))
        fails = draw.random() < behaviour.failing
        usual_epochs = 8
        lack = behaviour.gain * usual_epochs / (usual_epochs + trial.epochs)
        hardness = 1 + 0.3 * random.Random(f"{self.seed} fold {fold}").random()
        score = behaviour.level * (1 + lack) * hardness * math.exp(draw.gauss(0, 0.05))
        if math.isfinite(self.num_held):
            score = round(score * self.num_held) / self.num_held
        best_epoch = trial.epochs
        if draw.random() >= self.improving:
            best_epoch = max(1, round(trial.epochs * draw.random() ** 0.5))
        stages = self.compute_seconds(trial)
        aligns = get_method(trial.method).aligns
        loss = behaviour.converged_loss + draw.choice([0.001, 0.02])
        return make_record(
            trial_key=trial.key,
            task=trial.task,
            method=trial.method,
            phase="confirm",
            seed=trial.seed,
            status=Status.FAILED_OOM if fails else Status.COMPLETED,
            hyperparameters=json.dumps(dict(trial.hyperparameters)),
            wall_seconds=round(stages + self.extra_seconds, 4),
            align_seconds=round(0.2 * stages, 4) if aligns else 0.0,
            refine_seconds=round(0.7 * stages, 4) if aligns else round(0.9 * stages, 4),
            evaluate_seconds=round(0.1 * stages, 4),
            validation_score=None if fails else score,
            epochs=trial.epochs,
            best_epoch=best_epoch,
            training_loss=None if draw.random() < 0.1 else loss,
        )


def describe(trial: TrialSpec, plan: SearchPlan, now: float) -> str:
    """Return one line: when a trial starts, its method, fold and changed values."""
    values = dict(trial.hyperparameters)
    fold = values.pop("data.fold", 0)
    changes = [
        f"{name.partition('.')[2]}={value}"
        for name, value in values.items()
        if plan.first.get(name) != value
    ]
    return " ".join([f"{now:.3f}", trial.method, str(fold), *changes])


def run_search(
    scenario: Scenario, methods: Sequence[str], setting: Setting, make: MakeSource
) -> None:
    """Run one search of a scenario; add its decisions and records to the scenario."""
    plans = scenario.make_plans(methods)
    by_method = {plan.method: plan for plan in plans}
    source = make(plans, dict(scenario.records), setting, lambda: scenario.now)
    running = list[tuple[float, int, TrialSpec]]()
    count = 0

    def start_trials() -> None:
        nonlocal count
        while len(running) < scenario.num_workers:
            if len(scenario.decisions) >= MOST_DECISIONS:
                return
            trial = source.take()
            if trial is None:
                return
            count += 1
            line = describe(trial, by_method[trial.method], scenario.now)
            scenario.decisions.append(line)
            seconds = scenario.compute_seconds(trial) + scenario.extra_seconds
            heapq.heappush(running, (scenario.now + seconds, count, trial))

    start_trials()
    while running:
        ending = running[0][0]
        if ending - scenario.now > 3 and len(running) < scenario.num_workers:
            # A worker without a trial asks again: the time alone may decide.
            scenario.now = (scenario.now + ending) / 2
            start_trials()
            ending = running[0][0]
        scenario.now = ending
        _, _, trial = heapq.heappop(running)
        record = scenario.make_record_of(trial)
        scenario.records[trial.key] = record
        source.finish(record)
        start_trials()
    is_cut = len(scenario.decisions) >= MOST_DECISIONS
    if not is_cut:
        assert source.done
        scenario.decisions.append(f"{scenario.now:.3f} done")


def simulate(seed: int, make: MakeSource) -> list[str]:
    """Return the decisions of one scenario.

    It has a search of all methods and, as the seed says, one of fitted methods before,
    a continuation, and a final trial.
    """
    scenario = Scenario(seed)
    draw = random.Random(f"{seed} course")
    quick = [name for name in scenario.methods if get_method(name).fitted]
    if quick and draw.random() < 0.4:
        run_search(
            scenario, quick, scenario.make_setting(0.15 * scenario.seconds), make
        )
    run_search(
        scenario, scenario.methods, scenario.make_setting(scenario.seconds), make
    )
    if draw.random() < 0.3:
        more = scenario.seconds * draw.choice([0.3, 2.0])
        run_search(scenario, scenario.methods, scenario.make_setting(more), make)
    if draw.random() < 0.3:
        _run_final(scenario, draw, make)
    return scenario.decisions


def _run_final(scenario: Scenario, draw: random.Random, make: MakeSource) -> None:
    """Run the final trial of a configuration that has a score."""
    completed = [
        record for record in scenario.records.values() if not record.status.failed
    ]
    if not completed:
        return
    record = draw.choice(completed)
    values = json.loads(record.hyperparameters)
    values.pop("data.fold", None)
    if "refine.start" in values:
        return
    if "refine.epochs" in values:
        values["refine.epochs"] = max(1, values["refine.epochs"] - 1)
    final = frozenset({(record.method, canonical_json(values))})
    setting = replace(scenario.make_setting(math.inf), final=final)
    run_search(scenario, [record.method], setting, make)
