"""Viscous Burgers equation on 16 points: from the initial to the final field, viscosity 0.01."""

import numpy as np

from orca_ray.data import splits
from orca_ray.tasks import arrays
from orca_ray.tasks.pocket._sources import NEURALOPERATOR, operator_tensors, pocket_task
from orca_ray.tasks.task import SPLIT_SEED, Arrays, Target, Workspace

NUM_SAMPLES = (400, 100, 400)


def _build(_: Workspace) -> Arrays:
    tensors = operator_tensors("burgers_lowres.pt")
    x, trajectories = tensors["input"][:, None].astype(np.float32), tensors["output"]  # [N, 17 times, 16 points]
    parts = arrays.by_index(x, trajectories[:, -1], splits.split(len(x), NUM_SAMPLES, SPLIT_SEED))
    # The domain is periodic, so all points have the same distribution.
    return arrays.regression(parts, target_axes=(0, 1))


TASK = pocket_task(
    "burgers16",
    title="Burgers equation, 16 points",
    modality="pde",
    input_shape=(1, 16),
    target=Target("dense", shape=(16,)),
    loss="nrmse",
    metric="nrmse",
    target_scale="units",
    num_samples=NUM_SAMPLES,
    licence="BSD-3-Clause",
    citation="Li et al., Physics-informed neural operator for learning partial differential equations, 2021",
    reference="https://arxiv.org/abs/2111.03794",
    packages=(NEURALOPERATOR,),
    build=_build,
    fingerprint="ec002cc2f200d7ac",
)
