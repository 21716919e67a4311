"""The error of the class with the largest error."""

import numpy as np

from orca_ray.data.rows import Array
from orca_ray.tasks.metrics import Metric


def worst_class_error(logits_NK: Array, y_N: Array) -> float:
    """Return the largest share of wrong samples over the classes in ``y_N``."""
    wrong_N = logits_NK.argmax(axis=1) != y_N
    return max(float(wrong_N[y_N == label].mean()) for label in np.unique(y_N))


METRIC = Metric(
    name="worst_class_error",
    title="worst-class error",
    definition=(
        "largest share, over classes, of a class's samples whose largest logit is not"
        " that of the class"
    ),
    source=(
        "Sagawa et al., Distributionally Robust Neural Networks, ICLR 2020, with"
        " classes as groups"
    ),
    function=worst_class_error,
    largest=1.0,
)
