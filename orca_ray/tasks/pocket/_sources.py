"""Declarations and readers that several tasks of the benchmark share."""

import io
from dataclasses import replace
from typing import Any

import numpy as np

from orca_ray.data import packages, splits, timeseries
from orca_ray.data.bodies import PACKAGED_BODIES
from orca_ray.data.packages import Package
from orca_ray.data.rows import Array
from orca_ray.errors import UserError
from orca_ray.tasks import arrays
from orca_ray.tasks.task import SPLIT_SEED, Target, Task

AEON = Package(
    name="aeon",
    version="1.6.0",
    sha256="d05227086706f80111ac5fee8de4d5d3115bb3bcfd1c786c8629393055816409",
    licence="BSD-3-Clause",
    size_mb=6.4,
)
NEURALOPERATOR = Package(
    name="neuraloperator",
    version="0.3.0",
    sha256="483b358f2d9823c2ccb5dd0c1af8d21f879fd103806ad42959ebb975260e6ec4",
    licence="BSD-3-Clause",
    size_mb=4.0,
)


def archive_series(name: str, split: str) -> tuple[list[Array], Array]:
    """Read one split (TRAIN or TEST) of an archive data set: series [channels, length_i] and classes [N] from 0."""
    member = f"aeon/datasets/data/{name}/{name}_{split}.ts"
    series, labels = timeseries.parse_ts(packages.read_member(AEON, member).decode(), member)
    return series, np.array([int(label) - 1 for label in labels], dtype=np.int64)


def operator_tensors(file: str) -> dict[str, Array]:
    """Read one ``.pt`` file of simulations, tensors only, as arrays."""
    import torch

    content = packages.read_member(NEURALOPERATOR, f"neuralop/datasets/data/{file}")
    tensors = torch.load(io.BytesIO(content), weights_only=True)
    if not isinstance(tensors, dict) or not all(isinstance(value, torch.Tensor) for value in tensors.values()):
        raise UserError(f"{file} of {NEURALOPERATOR.requirement} is not a mapping of tensors")
    return {key: value.numpy() for key, value in tensors.items()}


def pocket_task(name: str, **declared: Any) -> Task:
    """Declare a task with a packaged body and standardised inputs."""
    task = Task(name=f"pocket/{name}", input_scale="standardised", **declared)
    return replace(task, body=PACKAGED_BODIES[task.kind])


def pocket_classes(name: str, size: int, *, metric: str = "error", **declared: Any) -> Task:
    """Declare a task of ``size`` classes."""
    target = Target("classes", size=size)
    return pocket_task(name, target=target, loss="cross_entropy", metric=metric, **declared)


def stratified(x: Array, labels: Array, sizes: tuple[int, ...]) -> list[arrays.Pair]:
    """Return (x, y) of as many parts as ``sizes``, in each of which every class has its share."""
    return arrays.by_index(x, labels, splits.stratified_split(labels, sizes, SPLIT_SEED))
