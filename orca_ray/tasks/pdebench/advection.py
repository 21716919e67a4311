"""Advection at speed 0.4 of a random wave on a periodic line."""

from orca_ray.tasks.pdebench._declare import Problem, Reading, downloaded, stacked

PROBLEM = Problem(
    name="advection",
    title="Advection, speed 0.4",
    datafile=255674,
    md5="d595bbfd2c659df995a93cd40d6ea568",
    num_bytes=8_230_000_000,
    loss="nrmse",
    input_scale="standardised",  # waves around 0, deviation 0.8
    target_scale="standardised",
    reading=Reading(layout=stacked("tensor"), grid=(1024,), stride=4, time_stride=5, t_train=200, test_first=True),
)
TASK = downloaded(PROBLEM)
