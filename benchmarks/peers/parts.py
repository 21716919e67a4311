"""What a data set is: its declaration, its two outer parts, and the random split into
them.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import pandas as pd
from sklearn.model_selection import train_test_split

from orca_ray.data.packages import Package
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
    times: Array | None = None
    """Time of each training sample [N], which a user would give with ``--time time``;
    None: there are none.
    """


Kind = Literal["table", "series", "images", "fields"]
KINDS: tuple[Kind, ...] = ("table", "series", "images", "fields")
METRICS = {"classes": "error", "number": "rmse", "field": "relative_l2"}


@dataclass(frozen=True)
class DataSet:
    """One data set; ``tuning`` tells whether `adapt` may be tuned on it."""

    name: str
    kind: Kind
    target: Literal["classes", "number", "field"]
    load: Callable[[], Parts]
    package: Package | None = None
    """The package that the data are read from, unless scikit-learn has them or they are
    simulated.
    """
    tuning: bool = False
    options: tuple[str, ...] = ()
    """Options of ``adapt`` that a user of these data would give."""
    in_folders: bool = False
    """Whether ``adapt`` gets a folder of PNG or WAV files for each class."""
    rate: int = 0
    """Sampling rate in Hz of series that are recordings; 0: they are not."""
    later: bool = False
    """Whether the set was declared after the others; see `images`."""
    spoiled: bool = False
    """Whether the set is one of `spoiled`, which no report has."""
    new: bool = False
    """Whether the set is one of `fresh`, prepared after the search was frozen."""
    split_of: str = ""
    """Name of the set of which this is one of several outer splits; "": it has one."""

    @property
    def source(self) -> str:
        """Name under which the set is counted: that of the set that was split."""
        return self.split_of or self.name

    @property
    def metric(self) -> str:
        """Name of the metric, among those of orca-ray."""
        return METRICS[self.target]

    @property
    def half(self) -> str:
        """``new``, ``spoiled``, ``tuning`` or ``held-back``: how ``--sets`` selects the
        set.
        """
        if self.new:
            return "new"
        if self.spoiled:
            return "spoiled"
        return "tuning" if self.tuning else "held-back"


def split(
    x: Inputs,
    y: Array,
    test_size: float | int = TEST_SHARE,
    seed: int = SPLIT_SEED,
) -> Parts:
    """Divide samples at random into outer parts, with equal shares of each class.

    ``test_size`` is the share or the number of test samples.
    """
    classes = y if y.dtype.kind in "UO" else None
    train_x, test_x, train_y, test_y = train_test_split(
        x, y, test_size=test_size, random_state=seed, stratify=classes
    )
    return Parts(train_x, train_y, test_x, test_y)
