"""Darcy flow: the pressure, predicted from the permeability.

The permeability is piecewise constant; both are at every fifth point of a 421×421 grid.
Input channel 0 is the permeability, standardised pointwise. Channels 1 and 2 are the
coordinates of each point in the unit square, along the last axis and along the rows.
Targets are in their own units, with pointwise ``y_mean`` and ``y_std``. As in ORCA's
code, variances divide by n − 1, and 1e-5 is added to deviations. Statistics are
computed from the 900 training samples, and under the protocol ``paper`` from train and
validation (1000 samples).
"""

from pathlib import Path

import numpy as np

from orca_ray.data.matlab import read_mat
from orca_ray.data.prepared import PAPER
from orca_ray.data.readers import check_not_finite
from orca_ray.errors import UserError
from orca_ray.tasks.arrays import name_arrays, pointwise_statistics
from orca_ray.tasks.task import Array, Arrays, Workspace

TRAIN_FILE = "piececonst_r421_N1024_smooth1.mat"
TEST_FILE = "piececonst_r421_N1024_smooth2.mat"
RESOLUTION = 421
STEP = 5
SIDE = 85
NUM_SAMPLES = (900, 100, 100)

# samples: 360 MB at full resolution; each read of a MATLAB 7.3 file scans all of it
_BATCH = 256
_FEWEST = 3  # samples: two for a deviation, one for validation


def _build(workspace: Workspace) -> Arrays:
    """Return the arrays of the task.

    The last tenth of the training file is for validation. Under ``paper``, statistics
    include these samples.
    """
    x, y = _fields(workspace, TRAIN_FILE, sum(NUM_SAMPLES[:2]))
    x_test, y_test = _fields(workspace, TEST_FILE, NUM_SAMPLES[2])
    num_train = len(x) - max(1, len(x) // 10)
    num_seen = len(x) if workspace.protocol == PAPER else num_train
    x_mean, x_std = pointwise_statistics([x[:num_seen]])
    y_mean, y_std = pointwise_statistics([y[:num_seen]])
    inputs, test_inputs = ((fields - x_mean) / x_std for fields in (x, x_test))
    parts = (
        (inputs[:num_train], y[:num_train]),
        (inputs[num_train:], y[num_train:]),
        (test_inputs, y_test),
    )
    return {
        **name_arrays([(_with_grid(x), np.array(y)) for x, y in parts]),
        "y_mean": y_mean,
        "y_std": y_std,
    }


def _with_grid(permeability: Array) -> Array:
    """Return inputs [N, 3, 85, 85] of a ``permeability`` [N, 85, 85].

    They are the permeability and both coordinates, in [0, 1], of each point.
    """
    ticks = np.linspace(0, 1, SIDE, dtype=np.float32)
    return np.stack(np.broadcast_arrays(permeability, ticks, ticks[:, None]), axis=1)


def _fields(workspace: Workspace, file: str, most: int) -> tuple[Array, Array]:
    """Return the first ``most`` permeabilities and pressures of a file.

    They are its ``coeff`` and ``sol``, [N, 85, 85] each.
    """
    path = workspace.file(file)
    coefficients, solutions = (
        _subsampled(workspace, path, field, most) for field in ("coeff", "sol")
    )
    if len(coefficients) != len(solutions):
        raise UserError(
            f"{path}: coeff holds {len(coefficients)} samples and sol {len(solutions)}"
        )
    workspace.check_count(path, len(coefficients), most)
    return coefficients, solutions


def _subsampled(workspace: Workspace, path: Path, field: str, most: int) -> Array:
    """Return at most ``most`` fields [N, 85, 85] of a file: every `STEP`-th point."""
    source = read_mat(path, field)
    shape = tuple(source.shape)
    if len(shape) != 3 or shape[0] < _FEWEST or shape[1:] != (RESOLUTION, RESOLUTION):
        expected = f"(at least {_FEWEST}, {RESOLUTION}, {RESOLUTION})"
        raise UserError(f"{path}: {field} has shape {shape}, expected {expected}")
    name = f"{path.stem}.{field}"
    fields = workspace.array(name, (min(most, shape[0]), SIDE, SIDE))
    for part in workspace.batches(name, len(fields), _BATCH, fields):
        points = np.asarray(source[part])[:, ::STEP, ::STEP]
        check_not_finite(path, field, points)
        fields[part] = points
    return fields
