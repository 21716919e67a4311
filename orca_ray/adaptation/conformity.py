"""Conformity scores of a chosen model: how far its predictions are from the targets.

The predictions are those of `Choice`: each is made by models that have not seen the
sample.
"""

import numpy as np
from scipy.special import softmax

from orca_ray.adaptation.choice import Choice
from orca_ray.adaptation.intervals import LEAST_PROBABILITY
from orca_ray.data.rows import Array
from orca_ray.methods.conformal import Conformal


def make_conformal(choice: Choice) -> Conformal | None:
    """Return the record from which intervals or sets of single predictions are made.

    Samples without a target are left out. None: the model predicts labels or masks, or
    `Conformal.of` stores no record of these samples.
    """
    y = choice.judged.y
    predictions = choice.predictions
    match choice.judged.average:
        case "softmax":
            known = np.flatnonzero(y >= 0)
            probabilities = _sharpened(predictions[known], choice.temperature)
            scores = 1 - probabilities[np.arange(len(known)), y[known]]
        case "values":
            is_known = np.isfinite(y.reshape(len(y), -1)).all(axis=1)
            scores = np.abs(y[is_known].astype(np.float64) - predictions[is_known])
        case _:
            return None
    return Conformal.of(np.maximum(scores, 0))


def _sharpened(probabilities: Array, temperature: float) -> Array:
    """Return probabilities [N, K] whose logits are divided by ``temperature``."""
    if temperature == 1:
        return probabilities
    logits = np.log(np.maximum(probabilities, LEAST_PROBABILITY))
    return np.asarray(softmax(logits / temperature, axis=1))
