"""A number for an array, to write down what another implementation gave."""

from typing import Any

import numpy as np


def digest(array: Any) -> float:
    """Return the mean of an array with weights that differ from place to place: other values or another order show.

    Digests in tests are of arrays that were equal, up to rounding, to those of the reference's own loaders: of
    github.com/sjunhongshen/ORCA at 19b8c1c, run by the tests of this project at commit a1f7156.
    """
    values = np.asarray(array[:], np.float64).ravel()
    return float((values * (1 + np.cos(np.arange(values.size)))).mean())
