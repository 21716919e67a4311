"""Selection of the model of own data: out-of-fold scores with intervals, the ensemble,
and the verdict.

Every trial on own data stores its model and the model's outputs for its fold
(`worker.models.OUTPUTS`). The outputs of all folds of one configuration are predictions
for samples that the predicting model has not seen. They decide. The outer test split
decides only between a network that trained on (see `Judge.leader`), all others, and the
mean of both.
"""

import json
import math
import operator
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from statistics import mean
from typing import Any

import numpy as np
from safetensors import SafetensorError
from scipy.optimize import minimize_scalar
from scipy.special import expit, softmax

from orca_ray.data.prepared import PreparedData, held_rows
from orca_ray.data.rows import Array, joined_rows
from orca_ray.errors import UserError
from orca_ray.intervals import Interval, Judged
from orca_ray.methods.model_folder import CONFIG
from orca_ray.methods.registry import get_method
from orca_ray.methods.snapshot import averaging
from orca_ray.results.models import StoredModels
from orca_ray.results.record import Record, Status
from orca_ray.sweep.plan.trial_spec import canonical_json
from orca_ray.sweep.search.contender import ALL, ALL_BUT_TEST, FOLD, START, replaces
from orca_ray.sweep.search.levels import doubtful_levels
from orca_ray.sweep.search.race import FEW_FOLDS
from orca_ray.sweep.worker.models import OUTPUTS, read_outputs
from orca_ray.tasks.task import Task

MOST_CANDIDATES = 15
MOST_STEPS = 20
"""Largest number of configurations that an ensemble is selected from, and of steps of
its greedy selection.
"""
FEW_SAMPLES = 100
USUAL = ("minirocket_hydra", "minirocket", "hydra")
"""Up to so many samples, candidates within one standard error of the leader count as
equal: a method that is usual for the kind of data becomes the leader, else the mean of
all of them replaces the leader. Resamples of 36 and 60 series had 0.87 and 0.96 of the
leader's error by that.
"""
SERIES = "time series"
LEAST_POOLED = 20
"""Number of held-out samples from which their score counts for the expected one."""
LEAST_COMMON = 100
"""Number of samples from which an ensemble may be selected on the folds that the best
two methods have in common.
"""


@dataclass(frozen=True)
class Candidate:
    """One configuration of a method, with the records of its folds."""

    method: str
    values: str
    """Hyper-parameters without the fold, as canonical JSON."""
    records: Mapping[int, Record]
    whole: bool
    """Whether the models of all records are stored, and not only the outputs of these
    models.
    """

    @property
    def name(self) -> str:
        """Method and body, for users."""
        body = next(iter(self.records.values())).body
        return self.method if body in ("", "none") else f"{self.method} on {body}"

    @property
    def pretrained(self) -> bool:
        """Whether the method adapts a pretrained body."""
        recipe = get_method(self.method)
        return recipe.pretrained and recipe.uses_body

    @property
    def seconds(self) -> float:
        """Mean duration of a trial."""
        return float(np.mean([record.wall_seconds for record in self.records.values()]))


@dataclass(frozen=True)
class Choice:
    """Model that was chosen: configurations with their weights, and what is known of
    it.
    """

    parts: Sequence[tuple[Candidate, float]]
    score: Interval
    judged: Judged
    """The samples that the score is of."""
    predictions: Array
    """Out-of-fold predictions for these samples [N, ...]: probabilities, or numbers."""
    temperature: float = 1.0
    outer: bool = False
    """Whether the samples are those of the outer test, as the model, or the first part
    of a mean, trained on with all others, before it went on with all samples.
    """


@dataclass(frozen=True, kw_only=True)
class Report:
    """Facts about the chosen model, for users; the fields are JSON values."""

    metric: str
    score: float
    """Score (lower is better) that the chosen model is expected to have on new samples;
    see `Judge.expected`.
    """
    low: float
    high: float
    out_of_fold: float
    num_samples: int
    """Number of samples of the out-of-fold score."""
    num_folds: int
    """0: the model, or a part of it, trained on after its fold, and the samples are
    those of the outer test.
    """
    model: str
    """What the model is, in words."""
    baseline: str
    verdict: str
    holdout: float | None = None
    """Score on the outer test split, which no choice has seen, or only the one of
    `Judge.ensemble`; None: no split.
    """
    num_holdout: int = 0
    standings: Sequence[Mapping[str, Any]] = ()
    """The best configuration of each method, best first; see `Judge.standings`."""
    curve: Sequence[tuple[float, float]] = ()
    """Seconds since the start, and the best validation score so far."""
    size_mb: float = 0.0
    latency_ms: float = 0.0
    """Time of a prediction for one sample, median of several, on this machine."""
    warnings: Sequence[str] = ()
    evidence: str = field(default="", repr=False)
    """Pictures of the out-of-fold predictions, as HTML; not a part of `to_json`."""

    def to_json(self) -> dict[str, Any]:
        """Return the report as a dict of JSON values."""
        values = json.loads(json.dumps(asdict(self)))
        del values["evidence"]
        return values  # type: ignore[no-any-return]


class Judge:
    """Judge of the configurations of one task by their out-of-fold outputs."""

    def __init__(
        self,
        task: Task,
        data: PreparedData,
        records: Sequence[Record],
        models: StoredModels,
    ) -> None:
        """Collect the candidates of the completed trials whose outputs are stored;
        UserError if none has a model.
        """
        self._task = task
        self._data = data
        self._models = models
        self._average = averaging(task.target, task.loss)
        self._outputs: dict[str, Mapping[str, Array]] = {}
        found: dict[tuple[str, str], dict[int, Record]] = {}
        lacking: set[tuple[str, str]] = set()
        self.refit_seconds = 0.0
        """Duration of the trials on all samples that ran for this judge."""
        self.final: dict[tuple[str, str], Record] = {}
        """Records of trials on all samples, or all but the outer test, by method and
        values: by those of the model that they started from, which may itself be one of
        all but the outer test.
        """
        self._places = places = dict[str, tuple[str, str]]()
        started: list[tuple[str, Record]] = []
        for record in records:
            values = dict(json.loads(record.hyperparameters))
            fold = int(values.pop(FOLD, 0))
            place = record.method, canonical_json(values)
            if record.status is not Status.COMPLETED or record.validation_score is None:
                continue
            places[record.trial_key] = place
            if fold == ALL_BUT_TEST and OUTPUTS not in models.names(record.trial_key):
                continue
            if fold < 0 and values.get(START):
                started.append((values[START], record))
            elif fold == ALL:
                self.final[place] = record
            elif OUTPUTS in (names := models.names(record.trial_key)):
                found.setdefault(place, {})[fold] = record
                lacking |= set() if CONFIG in names else {place}
        for start, record in started:
            if (origin := places.get(start)) and (
                _but_test(record) or len(found.get(origin, ())) < FEW_FOLDS
            ):
                self.final[origin] = record
        if not found.keys() - lacking:
            raise UserError(
                f"no trial of {task.name} has ended with a model: run the same command"
                " again, which continues it, and give more time with --minutes"
            )
        candidates = [
            Candidate(*place, folds, place not in lacking)
            for place, folds in found.items()
        ]
        held = (
            len(data.validation)
            if data.folds is None
            else len(data.folds[0]) / int(data.folds[0].max())
        )
        half = (
            0.5 / held if task.metric == "error" else 0.0
        )  # no error in one fold is not beyond doubt
        scores = [
            {k: half + (one.validation_score or 0.0) for k, one in each.records.items()}
            for each in candidates
        ]
        self.ranked = [
            candidates[number]
            for number in np.argsort(doubtful_levels(scores), kind="stable")
        ]
        """The candidates, the best first."""
        self._able = [each for each in self.ranked if each.whole]
        self._able = [
            each
            for each in self._able
            if not any(replaces(other.records, each.records) for other in self._able)
        ]
        self._few = len(data.train) + len(data.validation) <= FEW_SAMPLES
        self._network = next(
            (each for each in self.ranked if self.outer_record(each)), None
        )
        self._tied = self._leading()

    def judged(self, *candidates: Candidate) -> Judged:
        """Return the out-of-fold predictions of ``candidates``, which have a common
        fold, for the samples of all.

        Predictions of repeated divisions are averaged.
        """
        folds = sorted(set.intersection(*(set(each.records) for each in candidates)))
        targets = joined_rows(self._data.train.y, self._data.validation.y)
        train = len(self._data.train)
        rows = [
            held_rows(self._data, fold) if fold else np.arange(train, len(targets))
            for fold in folds
        ]
        known = np.unique(np.concatenate(rows))
        places = [np.searchsorted(known, each) for each in rows]
        counts = np.bincount(np.concatenate(places))
        found = []
        for candidate in candidates:
            parts = [
                self._part(candidate.records[fold], "validation") for fold in folds
            ]
            total = np.zeros((len(known), *parts[0].shape[1:]))
            for place, part in zip(places, parts, strict=True):
                total[place] += part
            found.append(total / counts.reshape(-1, *[1] * (total.ndim - 1)))
        return Judged(
            self._task.metric,
            self._average,
            targets[known],
            found,
            len(folds),
            self._units(known),
        )

    def outer_record(self, candidate: Candidate) -> Record | None:
        """Return the record of the training on all samples but the outer test, which
        judges it; None: there is none.
        """
        found = self.final.get((candidate.method, candidate.values))
        return found if found and _but_test(found) else None

    def trained(self, candidate: Candidate) -> Record | None:
        """Return the record of the last training of a network that trained on; None: it
        did not.
        """
        if (found := self.outer_record(candidate)) is None:
            last = self.final.get((candidate.method, candidate.values))
            return last if last and START in json.loads(last.hyperparameters) else None
        if last := self.final.get(self._places[found.trial_key]):
            judged = self._on_test(outputs := self._part(found, "test"))
            if judged.score(self._part(last, "test")) <= judged.score(
                outputs
            ):  # as it saw them; else it went astray
                return last
        return found

    @cached_property
    def leader(self) -> Candidate:
        """The candidate that trained on with all but the outer test, as the race gave
        it the time, unless the best of the others is measurably better on that test;
        else that one, whose models are stored; see `USUAL`.
        """
        if self._network is None or not self._tied:
            return self._network or self._tied[0]
        best = self._outer_outputs(self.single(self._tied[0]))
        network = self.single(self._network).predictions
        return (
            self._tied[0]
            if self._better(self._on_test(), best, network)
            else self._network
        )

    def single(self, candidate: Candidate) -> Choice:
        """Return the choice of one configuration."""
        if record := self.outer_record(candidate):
            judged = self._on_test(outputs := self._part(record, "test"))
            return Choice(
                [(candidate, 1.0)],
                judged.interval(outputs),
                judged,
                outputs,
                outer=True,
            )
        judged = self.judged(candidate)
        return self._calibrated(judged, [(candidate, 1.0)], judged.predictions[0])

    def ensemble(self) -> Choice | None:
        """Return an ensemble that beats the leader in nine of ten resamples; else None.

        If a network trained on with all samples but the outer test, that test judges,
        as the network's fold says too little: the ensemble is the mean of that network
        and of the best of all others, if its log loss is lower than that of the leader,
        unless its error is higher in three of four resamples.

        Of few samples, the mean of what is as good as the leader takes the place of
        None, and nothing that of a usual method. An ensemble of no more errors also
        beats the leader if the log loss is lower in nine of ten.
        """
        others = self._selected() if self._tied else None
        if self._network is None or not self._tied:
            return others
        beside = others or self.single(self._tied[0])
        leads = self._network is self.leader
        both = [self.single(self._network).predictions, self._outer_outputs(beside)]
        judged = self._on_test()
        mixed = np.mean(both, axis=0)
        best = both[0 if leads else 1]
        worse = judged.interval(mixed, best, of=operator.sub, level=0.5).low > 0
        if worse or judged.log_loss(mixed) >= judged.log_loss(
            best, temperature=1.0 if leads else beside.temperature
        ):
            return None if leads else others
        parts = [
            (self._network, 0.5),
            *((each, weight / 2) for each, weight in beside.parts),
        ]
        return Choice(parts, judged.interval(mixed), judged, mixed, outer=True)

    def _selected(self) -> Choice | None:
        """Return the ensemble of a greedy selection, if it beats the best that did not
        train on; see `ensemble`.

        The selection adds, with replacement, the candidate that improves the
        out-of-fold score the most (Caruana et al., 2004, "Ensemble selection from
        libraries of models").
        """
        leader = self._tied[0]
        if self._few and leader.method in USUAL and self._task.domain == SERIES:
            return None
        folds = set(leader.records)
        if self._data.folds is not None:  # one division covers all samples
            folds = folds & set(range(1, int(self._data.folds[0].max()) + 1)) or folds
        others = [each for each in self._able if each not in (leader, self._network)]
        rivals = (set(each.records) for each in others if each.method != leader.method)
        common = folds & next(rivals, folds)  # the best of another method may have few
        folds = (
            common
            if sum(len(held_rows(self._data, k)) for k in common if k) >= LEAST_COMMON
            else folds
        )
        able = [each for each in others if folds <= each.records.keys()]
        candidates = [leader, *able[: MOST_CANDIDATES - 1]]
        judged = self.judged(*candidates)
        outputs = judged.predictions
        chosen = list[int]()
        found = list[tuple[float, float, int]]()
        total = np.zeros_like(outputs[0])
        for step in range(1, MOST_STEPS + 1):
            mixtures = ((total + each) / step for each in outputs)
            ranks = [
                (judged.score(each), judged.log_loss(each), number)
                for number, each in enumerate(mixtures)
            ]
            best, smooth, number = min(
                ranks
            )  # an error has ties, which the log loss breaks
            chosen.append(number)
            total = total + outputs[number]
            found.append((best, smooth, step))
        size = min(found)[-1]
        counts = Counter(chosen[:size])
        if len(counts) < 2:
            return self._mean()
        mixed = np.asarray(
            sum(count / size * outputs[number] for number, count in counts.items())
        )
        if not self._better(judged, mixed, outputs[0]):
            return self._mean()
        return self._calibrated(
            judged,
            [(candidates[number], count / size) for number, count in counts.items()],
            mixed,
        )

    def _better(self, judged: Judged, one: Array, other: Array) -> bool:
        """Return whether predictions are better than others in nine of ten resamples of
        the samples.
        """
        measures: list[Callable[..., float]] = [judged.score]
        if self._task.metric == "error" and judged.score(one) <= judged.score(other):
            measures.append(judged.log_loss)
        gains = [
            judged.interval(other, one, of=operator.sub, level=0.8, measure=each)
            for each in measures
        ]
        return max(gain.low for gain in gains) > 0

    def expected(self, choice: Choice, outer: Interval | None) -> Interval:
        """Return the score that a chosen model is expected to have on new samples;
        ``outer`` is that of `held_out`.

        The interval of the samples out of fold is widened, because folds share training
        samples (Nadeau and Bengio, 2003, "Inference for the generalization error"), and
        pooled with that of the outer test split. The error of a network that trained on
        with more samples may be as much lower as it has more of them.
        """
        known = len(self._data.train) + len(self._data.validation)
        number = len(self._data.test)
        if choice.outer:
            whole = self.trained(choice.parts[0][0]) != self.outer_record(
                choice.parts[0][0]
            )
            return (
                replace(choice.score, low=choice.score.low * known / (known + number))
                if whole
                else choice.score
            )
        count = (
            known / len(self._data.validation)
            if self._data.folds is None
            else int(self._data.folds[0].max())
        )
        found = choice.score.widened(
            math.sqrt(1 + min(choice.judged.num_folds, count) / (count - 1))
        )
        if outer is not None and number >= LEAST_POOLED:
            found = found.pooled(outer)
        last = [self.final.get((each.method, each.values)) for each, _ in choice.parts]
        if any(
            record is not None and START in json.loads(record.hyperparameters)
            for record in last
        ):
            share = (1 - 1 / count) * known / (known + number)
            found = replace(found, low=share * found.low)
        return found

    def _mean(self) -> Choice | None:
        if len(self._tied) < 2:
            return None
        judged = self.judged(*self._tied)
        share = 1 / len(self._tied)
        return self._calibrated(
            judged,
            [(each, share) for each in self._tied],
            np.mean(judged.predictions, axis=0),
        )

    def _leading(self) -> list[Candidate]:
        """Return the best candidate that did not train on and, of few samples, those
        within one standard error of it.

        Of few samples, the best one needs all folds, or two if its method is usual for
        the kind of data. A usual method that is as good on the folds of both stands for
        all.
        """
        able = [each for each in self._able if each is not self._network]
        if not self._few or not able:
            return able[:1]
        wanted = (
            {0}
            if self._data.folds is None
            else {*range(1, int(self._data.folds[0].max()) + 1)}
        )
        names = USUAL if self._task.domain == SERIES else ()
        usual = [
            each
            for name in names
            for each in able
            if each.method == name and len(each.records) > 1
        ]
        able = [
            each for each in able if wanted <= each.records.keys() or each in usual
        ] or able
        for each in usual:
            if each is able[0] or any(map(_as_good, self._excess(able[0], each)[1:])):
                return [each]
        wanted = wanted & able[0].records.keys() or {*able[0].records}
        able = [each for each in able if wanted <= each.records.keys()][
            :MOST_CANDIDATES
        ]
        pairs = zip(able, self._excess(*able), strict=False)
        return [able[0], *(each for each, own in pairs if own.any() and _as_good(own))]

    def _excess(self, best: Candidate, *others: Candidate) -> list[Array]:
        """Return how much larger losses [N] are than those of the best, of all; []
        without common folds or losses.
        """
        if not set.intersection(*(set(each.records) for each in (best, *others))):
            return []
        judged = self.judged(best, *others)
        losses = [judged.losses(each) for each in judged.predictions]
        return [
            own - losses[0]
            for own in losses
            if own is not None and losses[0] is not None
        ]

    def held_out(self, choice: Choice) -> Interval | None:
        """Return the score of a chosen model's folds on the outer test split; None if
        there is none.
        """
        if not len(self._data.test):
            return None
        if choice.outer:
            return choice.score
        mixed = self._outer_outputs(choice)
        return self._on_test(mixed).interval(mixed)

    def _outer_outputs(self, choice: Choice) -> Array:
        """Return the mean predictions of a choice's folds for the outer test."""
        parts = [
            weight / len(candidate.records) * self._part(record, "test")
            for candidate, weight in choice.parts
            for record in candidate.records.values()
        ]
        return np.asarray(sum(parts))

    def standings(self) -> list[dict[str, Any]]:
        """Return the best configuration of each method, the best first.

        Keys: ``method`` (with its body), ``score``, ``low``, ``high``, ``num_folds``,
            ``seconds`` and ``pretrained``.
        """
        found: dict[str, dict[str, Any]] = {}
        for each in self.ranked:
            if each.method not in found:
                judged = self.judged(each)
                at = judged.interval(judged.predictions[0])
                found[each.method] = {
                    "method": each.name,
                    "score": at.value,
                    "low": at.low,
                    "high": at.high,
                    "num_folds": judged.num_folds,
                    "seconds": each.seconds,
                    "pretrained": each.pretrained,
                }
        return list(found.values())

    def verdict(self) -> tuple[str, str]:
        """Return the name of the best baseline, and a sentence that says whether a
        pretrained transformer pays.
        """
        transformer = next((each for each in self.ranked if each.pretrained), None)
        base = next((each for each in self.ranked if not each.pretrained), None)
        if base is None:
            return "", "no baseline was compared"
        if transformer is None:
            why = (
                f"is the best of {len(self.ranked)} configurations; no transformer"
                " ended in time"
            )
            return base.name, f"{base.name} {why}"
        cost = f"{base.name}, which takes {base.seconds:.2g} s"
        if not transformer.records.keys() & base.records.keys():
            return base.name, f"{transformer.name} is not measurably better than {cost}"
        judged = self.judged(transformer, base)
        cost += f", before {self._network.name} trained on" if self._network else ""
        half = (
            0.5 / len(judged.y) if self._average != "values" else 1e-7
        )  # of an error; a score may be 0
        ratio = judged.interval(
            *judged.predictions, of=lambda one, other: (one + half) / (other + half)
        )
        if ratio.high < 1:
            return (
                base.name,
                (
                    f"the transformer earns its cost: {transformer.name} has {ratio} of"
                    f" the error of {cost}"
                ),
            )
        if ratio.low > 1:
            return (
                base.name,
                (
                    f"the transformer does not pay: {transformer.name} has {ratio} of"
                    f" the error of {cost}"
                ),
            )
        why = (
            f"{ratio} of the error"
            if math.isfinite(ratio.high)
            else "all compared samples are of one group"
        )
        return (
            base.name,
            f"{transformer.name} is not measurably better than {cost} ({why})",
        )

    def curve(self) -> list[tuple[float, float]]:
        """Return seconds since the first trial began, and the lowest mean validation
        score so far, as it fell.
        """
        ended = [
            (record, number)
            for number, each in enumerate(self.ranked)
            for record in each.records.values()
        ]
        ended.sort(key=lambda pair: pair[0].finished_at)
        began = min(record.started_at for record, _ in ended)
        scores = defaultdict[int, list[float]](list)
        found = list[tuple[float, float]]()
        for record, number in ended:
            scores[number].append(record.validation_score or 0.0)
            level = min(map(mean, scores.values()))
            if not found or level < found[-1][1]:
                found.append(((record.finished_at - began).total_seconds(), level))
        return found

    def _calibrated(
        self, judged: Judged, parts: Sequence[tuple[Candidate, float]], mixed: Array
    ) -> Choice:
        """Return a choice with the temperature that lowers the out-of-fold log loss, if
        it lowers it by over 1 %.
        """
        choice = Choice(parts, judged.interval(mixed), judged, mixed)
        if self._average == "values":
            return choice
        found = minimize_scalar(
            lambda log: judged.log_loss(mixed, temperature=math.exp(log)),
            bounds=(-2.0, 2.0),
            method="bounded",
        )
        return (
            replace(choice, temperature=math.exp(found.x))
            if found.fun < 0.99 * judged.log_loss(mixed)
            else choice
        )

    def _on_test(self, *outputs: Array) -> Judged:
        test = self._data.test
        units = self._units(slice(-len(test), None))
        return Judged(
            self._task.metric, self._average, np.asarray(test.y), outputs, 0, units
        )

    def _units(self, rows: Array | slice) -> Array | None:
        return None if self._data.units is None else self._data.units[rows]

    def _part(self, record: Record, split: str) -> Array:
        """Return the outputs of a trial's model for a split, as probabilities or
        numbers.
        """
        if record.trial_key not in self._outputs:
            content = self._models.read(record.trial_key, OUTPUTS)
            path = f"{self._models.place(record.trial_key)}/{OUTPUTS}"
            try:
                found = read_outputs(content or b"")
            except SafetensorError as error:
                raise UserError(f"{path} is damaged: {error}") from error
            except UserError as error:
                raise UserError(f"{path}: {error}") from error
            change = {
                "softmax": lambda x: softmax(x, axis=1),
                "sigmoid": expit,
                "values": np.asarray,
            }[self._average]
            self._outputs[record.trial_key] = {
                name: change(each.astype(np.float64)) for name, each in found.items()
            }
        return self._outputs[record.trial_key][split]


def _as_good(excess: Array) -> bool:
    """Return whether the mean of larger losses [N] is at most one standard error."""
    return bool(excess.mean() <= excess.std(ddof=1) / math.sqrt(len(excess)))


def _but_test(record: Record) -> bool:
    return bool(json.loads(record.hyperparameters).get(FOLD) == ALL_BUT_TEST)
