"""Shallow-water equations after the break of a round dam: height of the water."""

from orca_ray.tasks.pdebench._declare import Problem, Reading, downloaded, seeds

PROBLEM = Problem(
    name="shallow_water",
    title="Shallow water, radial dam break",
    datafile=133021,
    md5="75d838c47aa410694bdc912ea7f22282",
    num_bytes=6_620_000_000,
    num_samples=(800, 100, 100),
    loss="nrmse",
    reading=Reading(layout=seeds(1), grid=(128, 128), t_train=101, test_first=False),
    paper_splits=True,
)
TASK = downloaded(PROBLEM)
