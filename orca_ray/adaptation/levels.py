"""Levels of configurations that were judged on different folds of own data."""

import math
from collections.abc import Mapping, Sequence
from statistics import mean, median

_ROUNDS = 20


def levels(scores: Sequence[Mapping[int, float]]) -> list[float]:
    """Return the mean score of each of several configurations, freed of the difficulty
    of the folds that it was given.

    ``scores`` are scores by fold. Level and difficulty are the two main effects of the
    table of configurations and folds, and are fitted by least squares, weighted because
    the errors of a score are in proportion to its level (see `error_scales`): a fold is
    as difficult as the good configurations find it.
    """
    level = [mean(each.values()) for each in scores]
    folds = sorted({fold for each in scores for fold in each})
    for _ in range(_ROUNDS if scores else 0):
        scales = error_scales(level)
        weights = [(min(scales) / scale) ** 2 for scale in scales]
        hard = dict[int, float]()
        for fold in folds:
            known = [number for number, each in enumerate(scores) if fold in each]
            over = sum(
                weights[number] * (scores[number][fold] - level[number])
                for number in known
            )
            hard[fold] = over / sum(weights[number] for number in known)
        level = [
            mean(score - hard[fold] for fold, score in each.items()) for each in scores
        ]
    return level


def error_scales(level: Sequence[float]) -> list[float]:
    """Return what the errors of scores are in proportion to: their levels, but at least
    a tenth of the median level.

    If most levels are 0, that least is the smallest other one.
    """
    least = abs(median(level)) / 10 if level else 0.0
    least = least or min((abs(each) for each in level if each), default=1.0)
    return [max(each, least) for each in level]


def doubtful_levels(scores: Sequence[Mapping[int, float]]) -> list[float]:
    """Return the `levels` of configurations plus two of the standard errors that their
    folds leave.

    Errors are in proportion to the level. Their relative size is pooled over all
    configurations, as one has few folds.
    """
    level = levels(scores)
    scales = error_scales(level)
    over = [
        {fold: (value - at) / scale for fold, value in own.items()}
        for own, at, scale in zip(scores, level, scales, strict=True)
    ]
    hard = {
        fold: mean(own[fold] for own in over if fold in own)
        for fold in set[int]().union(*over)
    }
    rests = [value - hard[fold] for own in over for fold, value in own.items()]
    freedom = (
        len(rests) - len(scores) - len(hard) + 1
    )  # of the table of configurations and folds
    noise = math.sqrt(sum(rest**2 for rest in rests) / max(1, freedom))
    return [
        at + 2 * noise * scale / math.sqrt(len(own))
        for own, at, scale in zip(scores, level, scales, strict=True)
    ]
