"""Kinds of targets for tests that run with each of them."""

import pytest

from orca_ray.data.rows import Target

every_target = pytest.mark.parametrize(
    ("target", "input_shape"),
    [
        (Target("labels", size=3), (2, 16)),
        (Target("scalar"), (1, 30)),
        (Target("dense", shape=(16,)), (1, 16)),
        (Target("dense", shape=(8, 8)), (1, 8, 8)),
    ],
    ids=["labels", "scalar", "dense-1d", "dense-2d"],
)
"""Runs a test with each kind of target other than classes."""
