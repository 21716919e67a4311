"""Greedy selection of an ensemble by out-of-fold predictions.

Source: Caruana et al., 2004, "Ensemble selection from libraries of models".
"""

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from orca_ray.adaptation.choice import Choice, calibrate, is_better
from orca_ray.adaptation.configuration import Configuration
from orca_ray.adaptation.intervals import Judged
from orca_ray.adaptation.outputs import TrialOutputs
from orca_ray.adaptation.ties import MOST_CANDIDATES
from orca_ray.data.prepared import held_rows
from orca_ray.data.rows import Array

MOST_STEPS = 20
"""Largest number of steps of the greedy selection."""
LEAST_COMMON = 100
"""Least number of samples in the common folds of the best two methods for an ensemble
to be selected on these folds.
"""


class _Step(NamedTuple):
    """State of a greedy selection after one step. Steps are sorted by their fields."""

    score: float
    log_loss: float
    """Log loss, which decides between equal errors."""
    size: int
    """Number of configurations that were added, with repetitions."""


def select_ensemble(
    leader: Configuration, others: Sequence[Configuration], outputs: TrialOutputs
) -> Choice | None:
    """Return the ensemble of a greedy selection; None if the leader is as good.

    The selection adds, with replacement, the configuration that improves the
    out-of-fold score the most. ``others`` are ranked, the best first.
    """
    folds = _folds_to_select_on(leader, others, outputs)
    comparable = [each for each in others if folds <= each.records.keys()]
    candidates = [leader, *comparable[: MOST_CANDIDATES - 1]]
    judged = outputs.out_of_fold(*candidates)
    selected_numbers = _select_greedily(judged)
    counts = Counter(selected_numbers)
    if len(counts) < 2:
        return None
    size = len(selected_numbers)
    predictions = judged.predictions
    mixed = np.asarray(
        sum(count / size * predictions[number] for number, count in counts.items())
    )
    if not is_better(judged, mixed, predictions[0]):
        return None
    parts = [(candidates[number], count / size) for number, count in counts.items()]
    return calibrate(judged, parts, mixed)


def _folds_to_select_on(
    leader: Configuration, others: Sequence[Configuration], outputs: TrialOutputs
) -> set[int]:
    """Return the folds that an ensemble is selected on.

    These are the folds of the leader in the first division. If the best configuration
    of another method lacks some of them, and the common folds hold enough samples, the
    common folds are used.
    """
    folds = set(leader.records)
    if outputs.data.folds is not None:
        folds_of_division = folds & outputs.first_division
        if folds_of_division:
            folds = folds_of_division
    rival = next((each for each in others if each.method != leader.method), None)
    if rival is None:
        return folds
    common = folds & rival.records.keys()
    # Fold 0 is the prepared validation split, for which `held_rows` has no rows.
    num_common = sum(len(held_rows(outputs.data, fold)) for fold in common if fold)
    return common if num_common >= LEAST_COMMON else folds


def _select_greedily(judged: Judged) -> list[int]:
    """Return the numbers of the candidates in the best ensemble, with repetitions.

    A candidate's number is its index in ``judged.predictions``.
    """
    total: Array = np.zeros_like(judged.predictions[0])
    numbers = list[int]()
    steps = list[_Step]()
    for size in range(1, MOST_STEPS + 1):
        sort_keys = [
            _sort_key_of_mixture(judged, (total + predictions) / size, number)
            for number, predictions in enumerate(judged.predictions)
        ]
        score, log_loss, number = min(sort_keys)
        numbers.append(number)
        total = total + judged.predictions[number]
        steps.append(_Step(score, log_loss, size))
    return numbers[: min(steps).size]


def _sort_key_of_mixture(
    judged: Judged, mixture: Array, number: int
) -> tuple[float, float, int]:
    """Return the score of a mixture, its log loss, and ``number``.

    The log loss decides between mixtures with equal scores.
    """
    return judged.score(mixture), judged.log_loss(mixture), number
