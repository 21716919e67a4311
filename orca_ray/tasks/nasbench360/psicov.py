"""PSICOV: distances between all residues of a protein, from related sequences.

Training uses DeepCov's proteins, scoring PSICOV's. Where the reference leaves a choice:

- A protein of more than 502 residues is cut to a window, drawn once and not every epoch. Windows of rows and columns
  are drawn independently in training, as in the reference, and are equal in validation and test, because the metric
  takes the separation of residues from their positions.
- ``held-out``: test is the first half of PSICOV's list and validation the second. ``paper``: test is the whole list;
  validation, which that protocol trains on, is held out of DeepCov.
"""

import re

import numpy as np

from orca_ray.data.protocol import PAPER
from orca_ray.data.readers import read_lines
from orca_ray.errors import UserError
from orca_ray.tasks.arrays import hold_out
from orca_ray.tasks.nasbench360._psicov import INPUT_BYTES, SHAPE, SIDE, Squares, read_protein
from orca_ray.tasks.nasbench360._shared import BENCHMARK_PAPER, hosted
from orca_ray.tasks.task import SPLIT_SEED, Arrays, Target, Task, Workspace

CLIP = 16.0  # Å, of training targets
_BATCH = 16  # about 70 MB


def _build(workspace: Workspace) -> Arrays:
    deepcov, psicov = _names(workspace, "deepcov"), _names(workspace, "psicov")
    half = len(psicov) // 2
    if workspace.protocol == PAPER:
        drawn = hold_out(workspace.raw / "protein/deepcov.lst", len(deepcov), half, SPLIT_SEED)
        train, validation = ([deepcov[i] for i in part] for part in drawn)
        parts = [("train", "deepcov", train), ("validation", "deepcov", validation), ("test", "psicov", psicov)]
    else:
        parts = [("train", "deepcov", deepcov), ("validation", "psicov", psicov[half:])]
        parts += [("test", "psicov", psicov[:half])]
    squares = {split: _squares(workspace, split, folder, names) for split, folder, names in parts}
    return {f"{split}_{axis}": getattr(each, axis) for split, each in squares.items() for axis in "xy"}


def _names(workspace: Workspace, folder: str) -> list[str]:
    path = workspace.file(f"protein/{folder}.lst")
    names = [line.split()[0] for line in read_lines(path)]
    if len(names) < 2:
        raise UserError(f"{path}: expected at least 2 proteins, one a line, found {len(names)}")
    for name in names:
        if not re.fullmatch(r"[\w.-]+", name):
            raise UserError(f"{path}: expected names of letters, digits, '_', '.' and '-', found {name!r}")
    return names


def _squares(workspace: Workspace, split: str, folder: str, names: list[str]) -> Squares:
    squares = Squares(workspace, split, len(names))
    clip = CLIP if folder == "deepcov" else np.inf
    shares = np.random.RandomState(SPLIT_SEED).random_sample((len(names), 2))
    if folder != "deepcov":
        shares[:, 1] = shares[:, 0]
    for part in workspace.batches(split, len(names), _BATCH, *squares.arrays):
        for index in range(part.start, part.stop):
            protein = read_protein(workspace.raw / "protein" / folder, names[index])
            squares.put(index, protein, (shares[index, 0], shares[index, 1]), clip)
    return squares


TASK = Task(
    name="nasbench360/psicov",
    title="PSICOV protein distances",
    modality="protein",
    input_shape=SHAPE,
    target=Target("dense", shape=(SIDE, SIDE)),
    loss="mse",
    metric="mae_lr_d8",
    paper_metric="mae_lr_d8_reference",
    input_scale="measured",
    target_scale="units",
    num_samples=(3456, 75, 75),
    input_bytes=INPUT_BYTES,
    licence="GPL (as NAS-Bench-360 states it)",
    citation="Jones et al., PSICOV, Bioinformatics, 2012; Adhikari, A fully open-source framework for deep learning "
    f"protein real-valued distances, Scientific Reports, 2020; {BENCHMARK_PAPER}",
    reference="https://doi.org/10.1038/s41598-020-70181-0",
    files=(
        # Its root holds deepcov.lst; NAS-Bench-360 and DASH make the folder for it.
        hosted("protein/protein.zip", "protein.zip", 1_100_000_000, unpacked="protein/deepcov.lst"),
    ),
    paper_splits=True,
    build=_build,
)
