"""The two protocols: the splits that a trial trains on, selects by, and is scored on."""

from dataclasses import replace
from typing import cast

import numpy as np

from orca_ray.data.prepared import PreparedData, Split
from orca_ray.data.rows import Array, JoinedRows, Rows, num_bytes
from orca_ray.protocol import Protocol

HELD_OUT, PAPER = Protocol.HELD_OUT.value, Protocol.PAPER.value

JOINED_BYTES = 2**30
"""Inputs or targets up to this size are copied when they are joined, larger ones are read from both arrays."""


def under_protocol(data: PreparedData, protocol: str) -> PreparedData:
    """Return the splits of a trial under a protocol.

    ``held-out`` returns the prepared splits: validation is carved from train, and only confirm trials read test.
    ``paper`` follows the reference implementation of ORCA (``valid_split: False``): it trains on train and validation
    together, and selects epochs and hyper-parameters on test. Its scores are optimistic: they are comparable with
    published ones, and never shown on one leaderboard with held-out ones. Its target statistics are those of the
    prepared training split, except for tasks with splits of their own.
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
    """Join sample ids [N] and [M]; those of the second set become distinct from those of the first."""
    if first is None or second is None:
        return None
    return np.concatenate([first, second - second.min() + first.max() + 1])
