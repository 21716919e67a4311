"""The prepared data of small raw files, and rows compared whatever their order."""

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from orca_ray.data.prepared import PreparedData, under_protocol
from orca_ray.tasks.task import Task
from tests.raw_files.nasbench360_series import WRITERS

Array = npt.NDArray[Any]


def raw_files(task: Task, directory: Path) -> Path:
    """Write the task's raw files below ``directory`` once, and return where they are."""
    raw = directory / "raw"
    if not raw.exists():
        raw.mkdir(parents=True)
        WRITERS[task.name](raw)
    return raw


def prepare(task: Task, directory: Path, protocol: str = "held-out") -> PreparedData:
    """Return what the task makes of the raw files in ``directory / "raw"``, written if there are none."""
    return task.prepare(protocol, raw=raw_files(task, directory), out=directory / protocol)


def training_rows(data: PreparedData) -> tuple[Array, Array]:
    """Return x and y of train and validation together: what the reference trains on."""
    joined = under_protocol(data, "paper").train
    return np.asarray(joined.x[:]), joined.y
