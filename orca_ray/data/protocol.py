"""The two protocols: what a trial trains on, selects by and is scored on."""

from dataclasses import replace
from typing import cast

import numpy as np

from orca_ray.data.prepared import PreparedData, Split
from orca_ray.data.rows import Array, JoinedRows, Rows, num_bytes
from orca_ray.protocol import Protocol

HELD_OUT, PAPER = Protocol.HELD_OUT.value, Protocol.PAPER.value

JOINED_BYTES = 2**30
"""Inputs or targets up to this size are copied when they are joined; larger ones are read from where they are."""


def under_protocol(data: PreparedData, protocol: str) -> PreparedData:
    """Return the splits that a trial sees under a protocol.

    ``held-out`` leaves them as prepared: validation is carved from train, and test is read by confirm trials only.
    ``paper`` is what the reference implementation of ORCA does (``valid_split: False``): it trains on train and
    validation together, and test is also what epochs and hyper-parameters are selected by. Scores under it are
    optimistic; they compare with published ones, and never share a board with held-out ones.

    Target statistics of ``paper`` stay those of the prepared training split, but for tasks that have splits of their
    own under it.
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
    """Join ids [N] and [M] of samples; those of the second set are others, whatever their numbers."""
    if first is None or second is None:
        return None
    return np.concatenate([first, second - second.min() + first.max() + 1])
