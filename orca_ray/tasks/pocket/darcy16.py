"""Darcy flow on a 16×16 grid: from a piecewise constant permeability to the pressure."""

import numpy as np

from orca_ray.data import splits
from orca_ray.tasks import arrays
from orca_ray.tasks.pocket._sources import NEURALOPERATOR, operator_tensors, pocket_task
from orca_ray.tasks.task import SPLIT_SEED, Arrays, Target, Workspace

NUM_SAMPLES = (400, 100, 50)  # the test file holds 50


def _build(_: Workspace) -> Arrays:
    given, held_out = operator_tensors("darcy_train_16.pt"), operator_tensors("darcy_test_16.pt")
    x, y = given["x"][:, None].astype(np.float32), given["y"]
    train, validation = arrays.by_index(x, y, splits.split(len(x), NUM_SAMPLES[:2], SPLIT_SEED))
    return arrays.regression([train, validation, (held_out["x"][:, None].astype(np.float32), held_out["y"])])


TASK = pocket_task(
    "darcy16",
    title="Darcy flow, 16×16",
    modality="pde",
    input_shape=(1, 16, 16),
    target=Target("dense", shape=(16, 16)),
    loss="relative_l2",
    metric="relative_l2",
    target_scale="units",
    num_samples=NUM_SAMPLES,
    licence="BSD-3-Clause",
    citation="Li et al., Fourier neural operator for parametric partial differential equations, ICLR 2021",
    reference="https://arxiv.org/abs/2010.08895",
    packages=(NEURALOPERATOR,),
    build=_build,
    fingerprint="697ec9c9e7d3fee9",
)
