"""Levels of configurations that were judged on different folds of own data."""

import math
from collections.abc import Mapping, Sequence
from statistics import mean, median

NUM_ROUNDS = 20
"""Number of rounds; each fits the difficulties of folds, then the levels."""
NUM_STANDARD_ERRORS = 2
"""Number of standard errors that `pessimistic_levels` adds to a level."""
MEDIAN_TO_LEAST = 10
"""Ratio of the median level to the least of the `error_scales`."""


def fit_levels(scores: Sequence[Mapping[int, float]]) -> list[float]:
    """Return the level of each configuration, on folds of one difficulty.

    ``scores`` maps folds to scores, for each configuration. The model is score = level
    of the configuration + difficulty of the fold, fitted by weighted least squares. The
    error of a score is taken as proportional to its level (see `error_scales`), so that
    good configurations, whose scores are low, count most for the difficulty of a fold.
    """
    levels = [mean(scores_of_one.values()) for scores_of_one in scores]
    if not scores:
        return levels
    folds = sorted({fold for scores_of_one in scores for fold in scores_of_one})
    for _ in range(NUM_ROUNDS):
        scales = error_scales(levels)
        weights = [(min(scales) / scale) ** 2 for scale in scales]
        difficulty = {
            fold: _difficulty_of(fold, scores, levels, weights) for fold in folds
        }
        levels = [
            mean(score - difficulty[fold] for fold, score in scores_of_one.items())
            for scores_of_one in scores
        ]
    return levels


def _difficulty_of(
    fold: int,
    scores: Sequence[Mapping[int, float]],
    levels: Sequence[float],
    weights: Sequence[float],
) -> float:
    """Return the weighted mean by which the scores of a fold exceed the levels."""
    # Numbers of the configurations that have a score on the fold.
    scored = [number for number, by_fold in enumerate(scores) if fold in by_fold]
    excess = sum(
        weights[number] * (scores[number][fold] - levels[number]) for number in scored
    )
    return excess / sum(weights[number] for number in scored)


def error_scales(levels: Sequence[float]) -> list[float]:
    """Return a number for each level, proportional to the error of a score.

    It is the level, but at least a tenth of the median level. If the median is 0, it
    is at least the smallest level that is not 0.
    """
    least = abs(median(levels)) / MEDIAN_TO_LEAST if levels else 0.0
    if least == 0:
        least = min((abs(level) for level in levels if level), default=1.0)
    return [max(level, least) for level in levels]


def pessimistic_levels(scores: Sequence[Mapping[int, float]]) -> list[float]:
    """Return the level of each configuration plus two standard errors.

    ``scores`` and levels are those of `fit_levels`. The errors of a score are
    proportional to its level. Their relative size is pooled over all configurations,
    because a single configuration has few folds.
    """
    levels = fit_levels(scores)
    scales = error_scales(levels)
    excess = [
        {fold: (score - level) / scale for fold, score in by_fold.items()}
        for by_fold, level, scale in zip(scores, levels, scales, strict=True)
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
    # Main effects of configurations and folds use up degrees of freedom.
    num_degrees = len(residuals) - len(scores) - len(difficulty) + 1
    squares = sum(residual**2 for residual in residuals)
    noise = math.sqrt(squares / max(1, num_degrees))
    return [
        level + NUM_STANDARD_ERRORS * noise * scale / math.sqrt(len(by_fold))
        for by_fold, level, scale in zip(scores, levels, scales, strict=True)
    ]
