"""Diffusion (0.5) and logistic growth (rate 1.0) on a periodic line."""

from orca_ray.tasks.pdebench._declare import Problem, Reading, downloaded, stacked

PROBLEM = Problem(
    name="diffusion_reaction_1d",
    title="Diffusion and reaction, 1-D",
    datafile=133177,
    md5="69a429239778d529cd419ed5888ea835",
    num_bytes=4_140_000_000,
    loss="nrmse",
    reading=Reading(layout=stacked("tensor"), grid=(1024,), t_train=30, test_first=True),
    paper_splits=True,
)
TASK = downloaded(PROBLEM)
