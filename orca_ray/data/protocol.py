"""The two protocols: which splits a trial uses for training, for selection (as validation), and for the score."""

from dataclasses import replace
from typing import cast

import numpy as np

from orca_ray.data.prepared import PreparedData, Split
from orca_ray.data.rows import Array, JoinedRows, Rows, num_bytes
from orca_ray.protocol import Protocol

HELD_OUT, PAPER = Protocol.HELD_OUT.value, Protocol.PAPER.value

JOINED_BYTES = 2**30
"""Inputs or targets up to this total size are joined by a copy in memory; larger ones become `JoinedRows`."""


def under_protocol(data: PreparedData, protocol: str) -> PreparedData:
    """Return the prepared data with the splits that a trial uses under ``protocol``.

    Under ``held-out``, these are the prepared splits: validation was split off the training data, and only confirm
    trials read test. ``paper`` follows the reference implementation of ORCA (``valid_split: False``): it trains on
    train and validation together, and selects epochs and hyper-parameters on test. Such scores are optimistic; they are
    comparable with published ones, but never shown on the same leaderboard as held-out scores. ``y_mean`` and ``y_std``
    are not recomputed for the joined training split.
    """
    if protocol != PAPER:
        return data
    train, validation = data.train, data.validation
    x, y = _joined(train.x, validation.x), _joined(train.y, validation.y)
    joined = Split(x, cast(Array, y), _joined_groups(train.group, validation.group))
    return replace(data, splits={"train": joined, "validation": data.test, "test": data.test})


def _joined(first: Rows, second: Rows) -> Rows:
    arrays = isinstance(first, np.ndarray) and isinstance(second, np.ndarray)
    if arrays and num_bytes(first) + num_bytes(second) <= JOINED_BYTES:
        joined: Rows = np.concatenate([first[:], second[:]])
        return joined
    return JoinedRows(first, second)


def _joined_groups(first: Array | None, second: Array | None) -> Array | None:
    """Concatenate sample ids [N] and [M]; the second ids are shifted so that no id occurs in both."""
    if first is None or second is None:
        return None
    return np.concatenate([first, second - second.min() + first.max() + 1])
