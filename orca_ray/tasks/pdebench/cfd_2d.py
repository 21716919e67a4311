"""Compressible Navier–Stokes equations in a periodic square, Mach 1.0, viscosities 0.1: four fields, 64×64.

Inputs and targets are standardised by their own frame's statistics over the first hundred training samples and scored
in these units, as in the reference implementation of ORCA.
"""

from orca_ray.tasks.pdebench._declare import Problem, Reading, by_frame, downloaded, stacked

PROBLEM = Problem(
    name="cfd_2d",
    title="Compressible flow, 2-D, 64×64",
    datafile=164691,
    md5="75a34f34a3dcd9bc8ae4b7adf8bf372c",
    num_bytes=55_050_000_000,
    loss="nrmse",
    input_scale="standardised",
    target_scale="standardised",
    reading=Reading(
        layout=stacked("density", "pressure", "Vx", "Vy"),
        grid=(128, 128),
        stride=2,
        t_train=21,
        test_first=False,
        input_channels=(0, 1, 2, 3),
        target_channels=(0, 1, 2, 3),
        scaling=by_frame,
    ),
    paper_splits=True,
)
TASK = downloaded(PROBLEM)
