"""Compressible Navier–Stokes equations on a periodic line, viscosities 0.1: density, pressure and velocity.

The three fields are concatenated. Inputs and targets are standardised by the inputs' statistics and scored in these
units, as in the reference implementation of ORCA.
"""

from orca_ray.tasks.pdebench._declare import Problem, Reading, by_inputs, downloaded, stacked

PROBLEM = Problem(
    name="cfd_1d",
    title="Compressible flow, 1-D",
    datafile=164668,
    md5="45655bd77d006ab539c52b7fbcf099b9",
    num_bytes=12_410_000_000,
    loss="rmse",
    input_scale="standardised",
    target_scale="standardised",
    reading=Reading(
        layout=stacked("density", "pressure", "Vx"),
        grid=(1024,),
        time_stride=5,
        t_train=100,
        test_first=True,
        input_channels=(0, 1, 2),
        target_channels=(0, 1, 2),
        flattened=True,
        scaling=by_inputs,
    ),
    paper_splits=True,
)
TASK = downloaded(PROBLEM)
