"""Diffusion and sorption of a solute in ground water, on a line."""

from orca_ray.tasks.pdebench._declare import Problem, Reading, downloaded, seeds

PROBLEM = Problem(
    name="diffusion_sorption",
    title="Diffusion and sorption",
    datafile=133020,
    md5="9d466d1213065619d087319e16d9a938",
    num_bytes=4_140_000_000,
    loss="nrmse",
    reading=Reading(layout=seeds(1), grid=(1024,), t_train=101, test_first=False),
    paper_splits=True,
)
TASK = downloaded(PROBLEM)
