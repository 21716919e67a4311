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
from orca_ray.adaptation.judge import Judge
from orca_ray.adaptation.page_figures import make_evidence
from orca_ray.methods.model_config import ModelConfig, describe_members

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
    """Number of folds of the out-of-fold score. 0: the training of the model, or of a
    part of it, was continued, and the samples are those of the outer test.
    """
    model: str
    """What the model is, in words."""
    baseline: str
    verdict: str
    holdout: float | None = None
    """Score on the outer test split; None: there is no split. The choice of the model
    did not use the split, except as `Judge.leader` and `Judge.ensemble` say.
    """
    num_holdout: int = 0
    standings: Sequence[Mapping[str, Any]] = ()
    """The best configuration of each method, best first; see `make_standings`."""
    curve: Sequence[tuple[float, float]] = ()
    """Points of the seconds since the start and the best validation score so far."""
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
) -> Report:
    """Return the report of a chosen model.

    Args:
        judge: the judge that chose.
        choice: the chosen configurations.
        config: configuration of the model.
        label_names: names of the classes or labels.
        warnings: warnings about the data.
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
        standings=make_standings(judge),
        curve=make_curve(judge),
        warnings=tuple(warnings),
        evidence=make_evidence(choice.predictions, choice.judged.y, label_names),
    )


def _describe_model(choice: Choice, config: ModelConfig) -> str:
    """Return what the chosen model is, in words."""
    first = choice.first.name
    num_models = len(config.members) or 1
    is_ensemble = len(choice.parts) > 1
    if is_ensemble:
        description = f"ensemble: {describe_members(config)}"
    elif num_models == 1:
        description = first
    else:
        description = f"the mean of {num_models} folds' models of {first}"
    if not choice.outer:
        return description
    subject = f"{first} " if is_ensemble else ""
    return f"{description}, {subject}trained on after the comparison"


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
            f"{baseline.name} is the best of {len(judge.ranked)} configurations; no"
            " transformer ended in time"
        )
        return Verdict(baseline.name, sentence)
    return Verdict(baseline.name, _compare(judge, transformer, baseline))


def _compare(judge: Judge, transformer: Configuration, baseline: Configuration) -> str:
    """Return a sentence that compares a transformer with the best baseline.

    The scores are those of the folds that both have.
    """
    name = transformer.name
    cost = f"{baseline.name}, which takes {baseline.mean_seconds:.2g} s"
    if not transformer.records.keys() & baseline.records.keys():
        return f"{name} is not measurably better than {cost}"
    if judge.network is not None:
        cost += f", before {judge.network.name} trained on"
    judged = judge.outputs.out_of_fold(transformer, baseline)
    # Half an error is added to both scores, so that their ratio is defined at 0.
    half = HALF_OF_NUMBERS
    if judged.average != "values":
        half = 0.5 / len(judged.y)
    ratio = judged.interval(
        *judged.predictions,
        of=lambda score, other: (score + half) / (other + half),
    )
    share = f"{ratio} of the error"
    if ratio.high < 1:
        return f"the transformer earns its cost: {name} has {share} of {cost}"
    if ratio.low > 1:
        return f"the transformer does not pay: {name} has {share} of {cost}"
    if not math.isfinite(ratio.high):
        share = "all compared samples are of one group"
    return f"{name} is not measurably better than {cost} ({share})"


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
