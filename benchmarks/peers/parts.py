"""The two outer parts of a data set, and the random split into them."""

from dataclasses import dataclass

import pandas as pd
from sklearn.model_selection import train_test_split

from orca_ray.data.rows import Array

TEST_SHARE = 0.3
SPLIT_SEED = 0
Inputs = Array | pd.DataFrame


@dataclass(frozen=True)
class Parts:
    """Inputs and targets of the two outer parts: arrays [N, ...] or data frames of N
    rows, and targets [N, ...].
    """

    train_x: Inputs
    train_y: Array
    test_x: Inputs
    test_y: Array
    groups: Array | None = None
    """Group of each training sample [N], which a user would give with ``--group
    group``; None: there are none.
    """


def split(x: Inputs, y: Array) -> Parts:
    """Divide samples at random into outer parts, with equal shares of each class."""
    classes = y if y.dtype.kind in "UO" else None
    train_x, test_x, train_y, test_y = train_test_split(
        x, y, test_size=TEST_SHARE, random_state=SPLIT_SEED, stratify=classes
    )
    return Parts(train_x, train_y, test_x, test_y)
