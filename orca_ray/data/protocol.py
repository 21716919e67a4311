"""The two protocols: what a trial trains on, selects by and is scored on."""

from dataclasses import replace

import numpy as np

from orca_ray.data.prepared import PreparedData, Split


def under_protocol(data: PreparedData, protocol: str) -> PreparedData:
    """Return the splits that a trial sees under a protocol.

    ``held-out`` leaves them as prepared: validation is carved from train, and test is read by confirm trials only.
    ``paper`` is what the reference implementation of ORCA does (``valid_split: False``): it trains on train and
    validation together, and test is also what epochs and hyper-parameters are selected by. Scores under it are
    optimistic; they compare with published ones, and never share a board with held-out ones.

    The joined training split of ``paper`` is held in memory; target statistics stay those of the training split.
    """
    if protocol != "paper":
        return data
    train, validation = data.train, data.validation
    joined = Split(np.concatenate([train.x, validation.x]), np.concatenate([train.y, validation.y]))
    return replace(data, splits={"train": joined, "validation": data.test, "test": data.test})
