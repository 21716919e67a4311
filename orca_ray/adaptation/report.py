"""Report that users read about the chosen model of own data.

It contains the score of the model, the standings of the methods, and the verdict
whether pretraining pays.
"""

import json
import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from statistics import mean
from typing import Any, NamedTuple

from orca_ray.adaptation.candidates import score_of
from orca_ray.adaptation.choice import Choice
from orca_ray.adaptation.configuration import Configuration
from orca_ray.adaptation.intervals import Interval
from orca_ray.adaptation.judge import Judge
from orca_ray.adaptation.page_figures import make_evidence
from orca_ray.errors import counted
from orca_ray.methods.model_config import ModelConfig, describe_members
from orca_ray.tasks.metrics import get_metric

LEAST_COMMON_FOLDS = 2
"""Least number of folds that two methods must have in common for a verdict, where the
data have several folds.
"""
MOST_NAMES = 3
"""Largest number of configurations of an ensemble that the headline names."""
HALF_OF_NUMBERS = 1e-7
"""Number that is added to both scores of a ratio, if scores are no shares: a score may
be 0.
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
    """Number of folds of the out-of-fold score."""
    model: str
    """What the model is, in words."""
    baseline: str
    verdict: str
    headline: str = ""
    """What was found, e.g. "forest has an error of 9.7 % [6.1, 14.0]"."""
    holdout: float | None = None
    """Score on the outer test split; None: there is no split. The choice of the model
    did not use the split.
    """
    num_holdout: int = 0
    standings: Sequence[Mapping[str, Any]] = ()
    """The best configuration of each method, best first; see `make_standings`."""
    not_run: Sequence[Mapping[str, Any]] = ()
    """Methods without a trial: ``method``, and ``seconds`` that a trial would take."""
    importance: Mapping[str, Any] = field(default_factory=dict)
    """Permutation importance: ``features``, a list of `FeatureImportance`, and
    ``num_samples``; {}: it was not measured.
    """
    curve: Sequence[tuple[float, float]] = ()
    """Points of the seconds since the start and the best validation score so far."""
    has_intervals: bool = False
    """Whether `predict` makes intervals or sets of single predictions."""
    size_mb: float = 0.0
    latency_ms: float = 0.0
    """Time of a prediction for one sample, median of several, on this machine."""
    warnings: Sequence[str] = ()
    evidence: str = field(default="", repr=False)
    """Figure of the out-of-fold predictions, as HTML; `to_json` leaves it out."""

    def to_json(self) -> dict[str, Any]:
        """Return the report as a dict of JSON values."""
        values = json.loads(json.dumps(asdict(self)))
        del values["evidence"]
        return values  # type: ignore[no-any-return]


class Verdict(NamedTuple):
    """Whether a pretrained transformer pays."""

    baseline: str
    """Name of the best configuration without pretraining; "": there is none."""
    sentence: str


def make_report(
    judge: Judge,
    choice: Choice,
    config: ModelConfig,
    *,
    label_names: Sequence[str] = (),
    warnings: Sequence[str] = (),
    not_run: Mapping[str, float] | None = None,
) -> Report:
    """Return the report of a chosen model.

    Args:
        judge: the judge that chose.
        choice: the chosen configurations.
        config: configuration of the model.
        label_names: names of the classes or labels.
        warnings: warnings about the data.
        not_run: seconds that a trial would take of each method without a trial.
    """
    verdict = make_verdict(judge)
    outer = judge.held_out(choice)
    expected = judge.expected(choice, outer)
    return Report(
        metric=judge.outputs.task.metric,
        score=expected.value,
        low=expected.low,
        high=expected.high,
        out_of_fold=choice.score.value,
        num_samples=len(choice.judged.y),
        num_folds=choice.judged.num_folds,
        model=_describe_model(choice, config),
        holdout=None if outer is None else outer.value,
        num_holdout=judge.outputs.num_test,
        baseline=verdict.baseline,
        verdict=verdict.sentence,
        headline=make_headline(choice, judge.outputs.task.metric, expected),
        standings=make_standings(judge),
        curve=make_curve(judge),
        not_run=[
            {"method": method, "seconds": seconds}
            for method, seconds in (not_run or {}).items()
        ],
        warnings=tuple(warnings),
        evidence=make_evidence(choice.predictions, choice.judged.y, label_names),
    )


def _describe_model(choice: Choice, config: ModelConfig) -> str:
    """Return what the chosen model is, in words."""
    num_models = len(config.members) or 1
    is_ensemble = len(choice.parts) > 1
    if is_ensemble:
        description = f"ensemble: {describe_members(config)}"
    elif num_models == 1:
        description = choice.first.name
    else:
        description = f"the mean of {num_models} folds' models of {choice.first.name}"
    return description


def make_headline(choice: Choice, metric: str, score: Interval) -> str:
    """Return a sentence with the chosen model and the score expected of it."""
    names = list(dict.fromkeys(part.name for part, _ in choice.parts))
    if len(names) == 1:
        subject = names[0]
    elif len(names) <= MOST_NAMES:
        subject = f"The mean of {', '.join(names[:-1])} and {names[-1]}"
    else:
        subject = f"An ensemble of {len(names)} methods"
    if metric == "error":
        percents = [100 * value for value in (score.value, score.low, score.high)]
        value, low, high = (f"{percent:.1f}" for percent in percents)
        return f"{subject} has an error of {value} % [{low}, {high}]"
    value, low, high = (f"{end:.3g}" for end in (score.value, score.low, score.high))
    return f"{subject} has {get_metric(metric).title} {value} [{low}, {high}]"


def make_standings(judge: Judge) -> list[dict[str, Any]]:
    """Return the best configuration of each method, the best first.

    Keys: ``method`` (with its body), ``score``, ``low``, ``high``, ``num_folds``,
        ``seconds`` and ``pretrained``.
    """
    best_by_method = dict[str, Configuration]()
    for configuration in judge.ranked:
        best_by_method.setdefault(configuration.method, configuration)
    return [_standing(judge, each) for each in best_by_method.values()]


def _standing(judge: Judge, configuration: Configuration) -> dict[str, Any]:
    """Return the row of a configuration in `make_standings`."""
    judged = judge.outputs.out_of_fold(configuration)
    interval = judged.interval(judged.predictions[0])
    return {
        "method": configuration.name,
        "score": interval.value,
        "low": interval.low,
        "high": interval.high,
        "num_folds": judged.num_folds,
        "seconds": configuration.mean_seconds,
        "pretrained": configuration.is_pretrained,
    }


def make_verdict(judge: Judge) -> Verdict:
    """Return whether a pretrained transformer pays, compared with the best baseline."""
    transformer = next((each for each in judge.ranked if each.is_pretrained), None)
    baseline = next((each for each in judge.ranked if not each.is_pretrained), None)
    if baseline is None:
        return Verdict("", "no baseline was compared")
    if transformer is None:
        sentence = (
            f"{baseline.name} is the best of"
            f" {counted(len(judge.ranked), 'configuration')}; no transformer ended in"
            " time"
        )
        return Verdict(baseline.name, sentence)
    return Verdict(baseline.name, _compare(judge, transformer, baseline))


def _compare(judge: Judge, transformer: Configuration, baseline: Configuration) -> str:
    """Return a sentence that compares a transformer with the best baseline.

    The scores are those of the folds that both have. They must have at least
    `LEAST_COMMON_FOLDS`, unless the data have a single validation split.
    """
    name = transformer.name
    num_common = len(transformer.records.keys() & baseline.records.keys())
    num_needed = LEAST_COMMON_FOLDS if judge.outputs.division_size else 1
    if num_common < num_needed:
        return (
            f"{name} and {baseline.name} have too little in common to say which is"
            f" better: {_count(num_common, 'common fold')}, and a verdict takes"
            f" {num_needed}; more --minutes give more folds"
        )
    cost = f"{baseline.name}, which takes {baseline.mean_seconds:.2g} s"
    judged = judge.outputs.out_of_fold(transformer, baseline)
    # Half an error is added to both scores, so that their ratio is defined at 0.
    half = HALF_OF_NUMBERS
    if judged.average != "values":
        half = 0.5 / len(judged.y)
    ratio = judged.interval(
        *judged.predictions,
        of=lambda score, other: (score + half) / (other + half),
    )
    basis = f"{len(judged.y):,} samples of {_count(num_common, 'common fold')}"
    if not math.isfinite(ratio.high):
        basis += ", all of one group"
    has_share = f"{name} has {_times_the_error(ratio)} {cost} ({basis})"
    if ratio.high < 1:
        return f"the transformer earns its cost: {has_share}"
    if ratio.low > 1:
        return f"the transformer does not pay: {has_share}"
    if not math.isfinite(ratio.high):
        return f"{name} is not measurably better than {cost} ({basis})"
    return f"the transformer is not measurably better: {has_share}"


def _times_the_error(ratio: Interval) -> str:
    """Return a ratio of errors in words, e.g. "2.2 times the error [1.2, 7] of"."""
    value, low, high = map(_ratio_text, (ratio.value, ratio.low, ratio.high))
    return f"{value} times the error [{low}, {high}] of"


def _ratio_text(ratio: float) -> str:
    return f"{ratio:.0f}" if ratio >= 10 else f"{ratio:.2g}"


def _count(number: int, noun: str) -> str:
    """Return a number with its noun, e.g. "no common fold", "2 common folds"."""
    if number == 1:
        return f"1 {noun}"
    return f"{number or 'no'} {noun}s"


def make_curve(judge: Judge) -> list[tuple[float, float]]:
    """Return points (seconds, score) at which the best configuration's score fell.

    The seconds are those since the first trial began. The score is the lowest mean
    validation score of a configuration so far.
    """
    ended = [
        (record, number)
        for number, configuration in enumerate(judge.ranked)
        for record in configuration.records.values()
    ]
    ended.sort(key=lambda pair: pair[0].finished_at)
    began = min(record.started_at for record, _ in ended)
    scores = defaultdict[int, list[float]](list)
    points = list[tuple[float, float]]()
    for record, number in ended:
        scores[number].append(score_of(record))
        level = min(map(mean, scores.values()))
        if not points or level < points[-1][1]:
            points.append(((record.finished_at - began).total_seconds(), level))
    return points
