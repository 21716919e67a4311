"""Viscous Burgers equation, viscosity 1.0, on a periodic line."""

from orca_ray.tasks.pdebench._declare import Problem, Reading, downloaded, stacked

PROBLEM = Problem(
    name="burgers",
    title="Burgers equation, viscosity 1.0",
    datafile=281365,
    md5="9021eba35332d127306f11ef84c1a60f",
    num_bytes=8_230_000_000,
    loss="rmse",
    input_scale="standardised",  # waves around 0, deviation 0.8
    target_scale="standardised",
    reading=Reading(layout=stacked("tensor"), grid=(1024,), time_stride=5, t_train=200, test_first=True),
)
TASK = downloaded(PROBLEM)
