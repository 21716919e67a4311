"""FitzHugh–Nagumo diffusion and reaction in the plane: from the first activator field to a later inhibitor field.

Input and target are different quantities (channel 0 at the start, channel 1 at the end), as in the reference
implementation of ORCA.
"""

from orca_ray.tasks.pdebench._declare import Problem, Reading, downloaded, seeds

PROBLEM = Problem(
    name="diffusion_reaction_2d",
    title="Diffusion and reaction, 2-D",
    datafile=133017,
    md5="b8d0b86064193195ddc30c33be5dc949",
    num_bytes=13_240_000_000,
    num_samples=(800, 100, 100),
    loss="nrmse",
    input_scale="standardised",  # normal noise
    reading=Reading(
        layout=seeds(2), grid=(128, 128), t_train=101, test_first=False, input_channels=(0,), target_channels=(1,)
    ),
    paper_splits=True,
)
TASK = downloaded(PROBLEM)
