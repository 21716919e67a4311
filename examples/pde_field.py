"""A surrogate of a PDE: ``python examples/pde_field.py my-data``.

It maps permeability to pressure. It needs ``my-data/darcy.h5``, which ``make_data.py``
writes.
"""

import sys
from pathlib import Path

import h5py
import numpy as np

import orca_ray
from orca_ray.tasks.task import Task

NUM_NEW = 30
"""Number of fields to predict after training."""


def main(folder: Path) -> None:
    with h5py.File(folder / "darcy.h5") as file:
        # each [N, H, W]; inputs with channels are [N, C, H, W]
        x = file["permeability"][:]
        y = file["pressure"][:]
    task = Task.from_arrays(
        x[:-NUM_NEW],
        y[:-NUM_NEW],
        name="darcy",
        kind="dense",
        axes="NHW",
        licence="BSD-3-Clause",
    )
    print(
        f"{task.name}: inputs {task.input_shape}, targets {task.target.shape},"
        f" {task.metric}, {task.body}"
    )

    model = orca_ray.adapt(
        task, methods=["fno", "linear_probe"], executor="inline", minutes=1
    )
    pressure = model.predict(x[-NUM_NEW:])  # in the units of y
    print(model, model.evaluate(x[-NUM_NEW:], y[-NUM_NEW:]))
    print(
        f"largest error: {np.abs(pressure - y[-NUM_NEW:]).max():.3g}, pressures to"
        f" {y.max():.3g}"
    )
    model.save(folder / "darcy-model")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "my-data"))
