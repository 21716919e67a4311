"""Darcy flow with forcing 0.1: from the diffusion coefficient to the steady state."""

from orca_ray.tasks.pdebench._declare import Problem, Reading, Steady, downloaded

PROBLEM = Problem(
    name="darcy",
    title="Darcy flow, 64×64",
    datafile=133218,
    md5="294f9a03a4aa16b0e386469ca8b471be",
    num_bytes=1_310_000_000,
    loss="nrmse",
    reading=Reading(layout=Steady, grid=(128, 128), stride=2, t_train=1000, test_first=True),
)
TASK = downloaded(PROBLEM)
