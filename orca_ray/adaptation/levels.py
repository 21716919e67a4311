"""Levels of configurations that were judged on different folds of own data."""

import math
from collections.abc import Mapping, Sequence
from statistics import mean, median

NUM_ROUNDS = 20
"""Number of rounds in which levels and difficulties are fitted by turns."""
NUM_STANDARD_ERRORS = 2
"""Number of standard errors that are added to a level that is in doubt."""
MEDIAN_TO_LEAST = 10
"""Ratio of the median level to the level below which errors shrink no further."""


def levels(scores: Sequence[Mapping[int, float]]) -> list[float]:
    """Return the mean score of each configuration, without the difficulty of folds.

    ``scores`` are scores by fold. Level and difficulty are the two main effects of the
    table of configurations and folds, and are fitted by least squares, weighted because
    the errors of a score are in proportion to its level (see `error_scales`): a fold is
    as difficult as the good configurations find it.
    """
    level = [mean(scores_of_one.values()) for scores_of_one in scores]
    if not scores:
        return level
    folds = sorted({fold for scores_of_one in scores for fold in scores_of_one})
    for _ in range(NUM_ROUNDS):
        scales = error_scales(level)
        weights = [(min(scales) / scale) ** 2 for scale in scales]
        difficulty = {
            fold: _difficulty_of(fold, scores, level, weights) for fold in folds
        }
        level = [
            mean(score - difficulty[fold] for fold, score in scores_of_one.items())
            for scores_of_one in scores
        ]
    return level


def _difficulty_of(
    fold: int,
    scores: Sequence[Mapping[int, float]],
    level: Sequence[float],
    weights: Sequence[float],
) -> float:
    """Return the weighted mean by which the scores of a fold exceed the levels."""
    judged = [number for number, by_fold in enumerate(scores) if fold in by_fold]
    excess = sum(
        weights[number] * (scores[number][fold] - level[number]) for number in judged
    )
    return excess / sum(weights[number] for number in judged)


def error_scales(level: Sequence[float]) -> list[float]:
    """Return numbers in proportion to the errors of scores.

    They are the levels, but at least a tenth of the median level.

    If most levels are 0, the least number is the smallest other level.
    """
    least = abs(median(level)) / MEDIAN_TO_LEAST if level else 0.0
    if least == 0:
        least = min((abs(each) for each in level if each), default=1.0)
    return [max(each, least) for each in level]


def doubtful_levels(scores: Sequence[Mapping[int, float]]) -> list[float]:
    """Return the `levels` plus two of the standard errors that the folds leave.

    Errors are in proportion to the level. Their relative size is pooled over all
    configurations, as one has few folds.
    """
    level = levels(scores)
    scales = error_scales(level)
    excess = [
        {fold: (score - mean_score) / scale for fold, score in by_fold.items()}
        for by_fold, mean_score, scale in zip(scores, level, scales, strict=True)
    ]
    folds = set[int]().union(*excess)
    difficulty = {
        fold: mean(by_fold[fold] for by_fold in excess if fold in by_fold)
        for fold in folds
    }
    residuals = [
        value - difficulty[fold]
        for by_fold in excess
        for fold, value in by_fold.items()
    ]
    # Of the table of configurations and folds:
    num_degrees = len(residuals) - len(scores) - len(difficulty) + 1
    squares = sum(residual**2 for residual in residuals)
    noise = math.sqrt(squares / max(1, num_degrees))
    return [
        mean_score + NUM_STANDARD_ERRORS * noise * scale / math.sqrt(len(by_fold))
        for by_fold, mean_score, scale in zip(scores, level, scales, strict=True)
    ]
