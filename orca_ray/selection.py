"""Selection of the model of own data: out-of-fold scores with intervals, the ensemble, and the verdict.

Every trial on own data stores its model and the model's outputs for its fold (`worker.models.OUTPUTS`). The outputs of
all folds of one configuration are predictions for samples that the predicting model has not seen. They decide; the
outer test split decides nothing.
"""

import json
import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load
from scipy.optimize import minimize_scalar
from scipy.special import expit, log_softmax, logit, softmax
from scipy.stats import beta

from orca_ray.data.prepared import PreparedData, held_rows, joined
from orca_ray.data.rows import Array
from orca_ray.errors import UserError
from orca_ray.methods.model_folder import CONFIG
from orca_ray.methods.registry import get_method
from orca_ray.methods.snapshot import averaging
from orca_ray.results.models import StoredModels
from orca_ray.results.record import Record, Status
from orca_ray.sweep.plan.searches import canonical_json
from orca_ray.sweep.search.race import FOLD
from orca_ray.sweep.worker.models import OUTPUTS
from orca_ray.tasks.metrics import get_metric
from orca_ray.tasks.task import Task

RESAMPLES, LEVEL = 400, 0.9
"""Number of bootstrap resamples of the samples, and the level of all intervals."""
MOST_CANDIDATES, MOST_STEPS = 15, 20
"""Largest number of configurations that an ensemble is selected from, and of steps of its greedy selection."""
_MOST_VALUES, _LEAST_DRAWN = 10**6, 100
"""Largest number of predicted values of a resample, unless it has as few samples as the second number."""
_LEAST = 1e-7


@dataclass(frozen=True)
class Candidate:
    """One configuration of a method, with the records of its folds."""

    method: str
    values: str
    """Hyper-parameters without the fold, as canonical JSON."""
    records: Mapping[int, Record]
    whole: bool
    """Whether the models of all records are stored, and not only the outputs of these models."""

    @property
    def name(self) -> str:
        """Method and body, for users."""
        body = next(iter(self.records.values())).body
        return self.method if body in ("", "none") else f"{self.method} on {body}"

    @property
    def seconds(self) -> float:
        """Mean duration of a trial."""
        return float(np.mean([record.wall_seconds for record in self.records.values()]))


@dataclass(frozen=True)
class Interval:
    """A score, or a ratio of scores, with its interval of the level `LEVEL`."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.4g} [{self.low:.4g}, {self.high:.4g}]"


@dataclass(frozen=True)
class Standing:
    """Row of the table of methods: the best configuration of a method."""

    method: str
    score: float
    low: float
    high: float
    num_folds: int
    seconds: float
    pretrained: bool


@dataclass(frozen=True)
class Choice:
    """Model that was chosen: configurations with their weights, and what is known of it."""

    parts: Sequence[tuple[Candidate, float]]
    score: Interval
    temperature: float = 1.0


@dataclass(frozen=True, kw_only=True)
class Report:
    """What a user wants to know of the model; the fields are JSON values."""

    metric: str
    score: float
    """Out-of-fold score (lower is better) of the chosen model."""
    low: float
    high: float
    num_samples: int
    """Number of samples of the out-of-fold score."""
    num_folds: int
    model: str
    """What the model is, in words."""
    baseline: str
    verdict: str
    holdout: float | None = None
    """Score on the outer test split, which no choice has seen; None: there is none."""
    num_holdout: int = 0
    standings: Sequence[Mapping[str, Any]] = ()
    """The best configuration of each method, best first: the fields of `Standing`."""
    curve: Sequence[tuple[float, float]] = ()
    """Seconds since the start, and the best validation score so far."""
    size_mb: float = 0.0
    latency_ms: float = 0.0
    """Time of a prediction for one sample, median of several, on this machine."""
    warnings: Sequence[str] = ()

    def to_json(self) -> dict[str, Any]:
        """Return the report as a dict of JSON values."""
        return json.loads(json.dumps(asdict(self)))  # type: ignore[no-any-return]


class Judge:
    """Judge of the configurations of one task by their out-of-fold outputs."""

    def __init__(self, task: Task, data: PreparedData, records: Sequence[Record], models: StoredModels) -> None:
        """Collect the candidates of the completed trials that have a stored model.

        Raises UserError if there is none.
        """
        self._task, self._data, self._models = task, data, models
        self._metric = get_metric(task.metric).compute
        self._average = averaging(task.target, task.loss)
        found: dict[tuple[str, str], dict[int, Record]] = {}
        lacking: set[tuple[str, str]] = set()
        self.final: dict[tuple[str, str], Record] = {}
        """Records of trials on all samples, by method and values."""
        for record in records:
            values = dict(json.loads(record.hyperparameters))
            fold = int(values.pop(FOLD, 0))
            place = record.method, canonical_json(values)
            if record.status is not Status.COMPLETED or record.validation_score is None:
                continue
            if fold == -1:
                self.final[place] = record
            elif OUTPUTS in (names := models.names(record.trial_key)):
                found.setdefault(place, {})[fold] = record
                lacking |= set() if CONFIG in names else {place}
        if not found.keys() - lacking:
            raise UserError(
                f"no trial of {task.name} has ended with a model: run the same command again, which continues it, and "
                "give more time with --minutes"
            )
        self._outputs: dict[str, Mapping[str, Array]] = {}
        self.candidates = [Candidate(*place, folds, place not in lacking) for place, folds in found.items()]

    @cached_property
    def leader(self) -> Candidate:
        """The candidate with the best score on the folds that it shares with each other candidate."""
        best, *others = (each for each in self.candidates if each.whole)
        for each in others:
            common = each.records.keys() & best.records.keys()
            if common and self._mean(each, common) < self._mean(best, common):
                best = each
        return best

    @cached_property
    def rows(self) -> Array:
        """Indices of the samples, of train and validation together, on which the leader has been scored."""
        return np.unique(np.concatenate([self._rows(fold) for fold in self.leader.records]))

    @cached_property
    def targets(self) -> Array:
        """Targets of the samples `rows`."""
        return np.asarray(joined(self._data.train, self._data.validation).y[self.rows])

    def ranked(self) -> list[Candidate]:
        """Return the candidates that have outputs for all `rows`, best out-of-fold score first."""
        able = [each for each in self.candidates if self.covers(each)]
        return sorted(able, key=lambda each: self.score(self.predictions(each)))

    def covers(self, candidate: Candidate) -> bool:
        """Return whether a candidate has outputs for all `rows`."""
        return set(self.leader.records) <= set(candidate.records)

    def predictions(self, candidate: Candidate) -> Array:
        """Return the out-of-fold predictions for `rows`: probabilities, or numbers, as mean over repeated divisions."""
        place = {row: number for number, row in enumerate(self.rows.tolist())}
        shape = self._part(next(iter(candidate.records.values())), "validation").shape[1:]
        total, count = np.zeros((len(self.rows), *shape)), np.zeros(len(self.rows))
        for fold in self.leader.records:
            chosen = [place[row] for row in self._rows(fold).tolist()]
            total[chosen] += self._part(candidate.records[fold], "validation")
            count[chosen] += 1
        return np.asarray(total / count.reshape(-1, *[1] * len(shape)))

    def held_out(self, choice: Choice) -> float | None:
        """Return the score of a chosen model's folds on the outer test split; None if there is none."""
        test = self._data.test
        if not len(test):
            return None
        mixed = sum(weight * self._on_test(candidate) for candidate, weight in choice.parts)
        return self._value(np.asarray(mixed), np.asarray(test.y))

    def score(self, predictions: Array) -> float:
        """Return the metric of predictions for `rows`."""
        return self._value(predictions, self.targets)

    def intervals(
        self, *predictions: Array, of: Callable[..., float] = lambda score: score, level: float = LEVEL
    ) -> Interval:
        """Return a function ``of`` of the scores of several predictions, with its bootstrap interval over samples."""
        random, found = np.random.default_rng(0), []
        # Of many samples, a part is drawn, whose scores spread more.
        count = min(len(self.rows), max(_LEAST_DRAWN, _MOST_VALUES // max(1, predictions[0][:1].size)))
        for _ in range(RESAMPLES):
            drawn = random.integers(len(self.rows), size=count)
            try:
                found.append(of(*(self._value(each[drawn], self.targets[drawn]) for each in predictions)))
            except (UserError, ValueError, ZeroDivisionError):  # a class may be absent
                continue
        value = of(*map(self.score, predictions))
        if self._task.metric == "error" and len(predictions) == 1:  # no resample of samples without an error has one
            wrong = value * len(self.rows)
            low, high = beta.ppf([0.5 - level / 2, 0.5 + level / 2], wrong + 0.5, len(self.rows) - wrong + 0.5)
            return Interval(value, min(float(low), value), float(high))
        tail, shrunk = 50 * (1 - level), math.sqrt(count / len(self.rows))
        low, high = np.percentile(found or [value], [tail, 100 - tail])
        if count < len(self.rows):
            low, high = (value + shrunk * (end - float(np.mean(found))) for end in (low, high))
        return Interval(value, min(float(low), value), max(float(high), value))

    def ensemble(self) -> Choice | None:
        """Return the ensemble of a greedy selection, if it beats the leader in nine of ten resamples; else None.

        The selection adds, with replacement, the candidate that improves the out-of-fold score the most (Caruana et
        al., 2004, "Ensemble selection from libraries of models").
        """
        candidates = [each for each in self.ranked() if each.whole][:MOST_CANDIDATES]
        outputs = [self.predictions(each) for each in candidates]
        chosen, total = list[int](), np.zeros_like(outputs[0])
        found: list[tuple[float, float, int]] = []
        for step in range(1, MOST_STEPS + 1):
            mixtures = [(total + each) / step for each in outputs]
            ranks = [(self.score(each), self._log_loss(each), number) for number, each in enumerate(mixtures)]
            best, smooth, number = min(ranks)  # an error has ties, which the log loss breaks
            chosen.append(number)
            total += outputs[number]
            found.append((best, smooth, step))
        size = min(found)[-1]
        counts = Counter(chosen[:size])
        if len(counts) < 2:
            return None
        single, total = outputs[0], np.asarray(sum(count * outputs[number] for number, count in counts.items()))
        gain = self.intervals(single, total / size, of=lambda one, several: one - several, level=0.8)
        if gain.low <= 0:
            return None
        parts = [(candidates[number], count / size) for number, count in counts.items()]
        return Choice(parts, self.intervals(total / size))

    def single(self, candidate: Candidate) -> Choice:
        """Return the choice of one configuration."""
        return Choice([(candidate, 1.0)], self.intervals(self.predictions(candidate)))

    def calibrated(self, choice: Choice) -> Choice:
        """Return a choice with the temperature that lowers the out-of-fold log loss, if it lowers it by over 1 %."""
        if self._average == "values":
            return choice
        mixed = np.asarray(sum(weight * self.predictions(candidate) for candidate, weight in choice.parts))

        def loss(log_temperature: float) -> float:
            return self._log_loss(mixed, math.exp(log_temperature))

        found = minimize_scalar(loss, bounds=(-2.0, 2.0), method="bounded")
        return replace(choice, temperature=math.exp(found.x)) if found.fun < 0.99 * loss(0.0) else choice

    def standings(self) -> list[Standing]:
        """Return the best configuration of each method that has outputs for all `rows`, best first."""
        found: dict[str, Standing] = {}
        for each in self.ranked():
            if each.method not in found:
                at = self.intervals(self.predictions(each))
                recipe = get_method(each.method)
                pretrained = recipe.pretrained and recipe.uses_body
                found[each.method] = Standing(
                    each.name, at.value, at.low, at.high, len(each.records), each.seconds, pretrained
                )
        return list(found.values())

    def verdict(self, choice: Choice) -> tuple[str, str]:
        """Return the name of the best baseline, and a sentence that says whether a pretrained transformer pays."""
        ranked = self.ranked()
        pretrained = [each for each in ranked if _is_pretrained(each)]
        plain = [each for each in ranked if not _is_pretrained(each)]
        if not plain:
            return "", "no baseline was compared"
        base = plain[0]
        if not pretrained:
            return base.name, f"{base.name} is the best of {len(ranked)} configurations; no transformer ended in time"
        best = pretrained[0]
        ratio = self.intervals(
            self.predictions(best), self.predictions(base), of=lambda one, other: one / other if other else math.inf
        )
        cost = f"{base.name}, which takes {base.seconds:.2g} s"
        if ratio.high < 1:
            return base.name, f"the transformer earns its cost: {best.name} has {ratio} of the error of {cost}"
        if ratio.low > 1:
            return base.name, f"the transformer does not pay: {best.name} has {ratio} of the error of {cost}"
        return base.name, f"{best.name} is not measurably better than {cost} ({ratio} of the error)"

    def curve(self) -> list[tuple[float, float]]:
        """Return seconds since the first trial began, and the best mean validation score so far, as it fell."""
        ended = sorted((record for each in self.candidates for record in each.records.values()), key=_finished)
        began, found = min(record.started_at for record in ended), list[tuple[float, float]]()
        for number, record in enumerate(ended, start=1):
            level = min(
                float(np.mean(scores))
                for each in self.candidates
                if (scores := [own.validation_score or 0.0 for own in each.records.values() if own in ended[:number]])
            )
            if not found or level < found[-1][1]:
                found.append(((record.finished_at - began).total_seconds(), level))
        return found

    def _value(self, predictions: Array, targets: Array) -> float:
        if self._average != "values":
            predictions = self._logits(predictions)
        return self._metric(predictions, targets)

    def _log_loss(self, chances: Array, temperature: float = 1.0) -> float:
        """Return the mean log loss of probabilities for `rows`; 0 for predictions that are no probabilities."""
        if self._average == "values":
            return 0.0
        logits = self._logits(chances) / temperature
        if self._average == "softmax":
            return float(-log_softmax(logits, axis=1)[np.arange(len(logits)), self.targets].mean())
        return float(np.mean(np.logaddexp(0, logits) - logits * self.targets.reshape(logits.shape)))

    def _logits(self, predictions: Array) -> Array:
        clipped = np.clip(predictions, _LEAST, 1 - _LEAST)
        return np.asarray(np.log(clipped) if self._average == "softmax" else logit(clipped))

    def _on_test(self, candidate: Candidate) -> Array:
        return np.asarray(np.mean([self._part(record, "test") for record in candidate.records.values()], axis=0))

    def _part(self, record: Record, split: str) -> Array:
        """Return the outputs of a trial's model for a split, as probabilities or numbers."""
        if record.trial_key not in self._outputs:
            content = self._models.read(record.trial_key, OUTPUTS)
            try:
                found = load(content or b"")
            except SafetensorError as error:
                raise UserError(f"{self._models.place(record.trial_key)}/{OUTPUTS} is damaged: {error}") from error
            change = {"softmax": lambda x: softmax(x, axis=1), "sigmoid": expit, "values": np.asarray}[self._average]
            self._outputs[record.trial_key] = {name: change(each.astype(np.float64)) for name, each in found.items()}
        return self._outputs[record.trial_key][split]

    def _rows(self, fold: int) -> Array:
        if fold:
            return held_rows(self._data, fold)
        train = len(self._data.train)
        return np.arange(train, train + len(self._data.validation))

    @staticmethod
    def _mean(candidate: Candidate, folds: set[int]) -> float:
        scores = (candidate.records[fold].validation_score for fold in folds)
        return float(np.mean([math.inf if score is None else score for score in scores]))


def _finished(record: Record) -> float:
    return record.finished_at.timestamp()


def _is_pretrained(candidate: Candidate) -> bool:
    recipe = get_method(candidate.method)
    return recipe.pretrained and recipe.uses_body
