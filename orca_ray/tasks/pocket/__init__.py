"""Eight small tasks whose data are part of Python packages, with packaged bodies.

Inputs are standardised. The tasks are declared in ``tasks.toml``.
"""

import gzip
import io
import re
from collections.abc import Iterable
from dataclasses import replace
from pkgutil import resolve_name
from typing import Any

import numpy as np

from orca_ray.data import packages, splits
from orca_ray.data.rows import PACKAGED_BODIES, Array
from orca_ray.discovery import tables
from orca_ray.tasks import arrays
from orca_ray.tasks.task import SPLIT_SEED, Arrays, Package, Task, declared_task

Sizes = tuple[int, int, int]
"""Numbers of samples of train, validation and test."""

PACKAGES = {
    name: Package(name, **wheel)
    for name, wheel in tables(__name__, "packages.toml").items()
}


def _stratified(x: Array, labels: Array, sizes: tuple[int, ...]) -> list[arrays.Pair]:
    """Return (x, y) of disjoint random parts of the given ``sizes``.

    Each has the class proportions of ``labels``.
    """
    return arrays.by_index(
        x, labels, splits.stratified_split(labels, sizes, SPLIT_SEED)
    )


def _bundled(
    sizes: Sizes,
    *,
    loader: str,
    shape: tuple[int, ...],
    axes: tuple[int, ...] | None = None,
) -> Arrays:
    """Return the arrays of a data set of scikit-learn, with inputs of ``shape``."""
    x, labels = resolve_name(f"sklearn.datasets:{loader}")(return_X_y=True)
    return arrays.classification(
        _stratified(x.reshape(-1, *shape).astype(np.float32), labels, sizes), axes=axes
    )


def _csv(
    sizes: Sizes,
    *,
    package: str,
    member: str,
    shape: tuple[int, ...],
    skiprows: int = 0,
    axes: tuple[int, ...] | None = None,
) -> Arrays:
    """Return the arrays of a table in a package, with inputs of ``shape``.

    The last column is the label.
    """
    content = packages.read_member(PACKAGES[package], member)
    text = gzip.decompress(content) if member.endswith(".gz") else content
    table = np.loadtxt(io.BytesIO(text), delimiter=",", skiprows=skiprows)
    # Six of mfeat's 2000 shapes occur twice. Copies are removed, so that test does not
    # contain training samples.
    table = table[np.sort(np.unique(table, axis=0, return_index=True)[1])]
    x = table[:, :-1].reshape(-1, *shape).astype(np.float32)
    labels = table[:, -1].astype(np.int64)
    return arrays.classification(_stratified(x, labels, sizes), axes=axes)


def _archive(
    sizes: Sizes, *, name: str, length: int, axes: tuple[int, ...] | None = None
) -> Arrays:
    """Return the arrays of a UCR or UEA data set.

    Its series have at most ``length`` steps.
    """
    read = (read_series(name, split, length) for split in ("TRAIN", "TEST"))
    (x, y), test = ((x, np.array(labels).astype(np.int64) - 1) for x, labels in read)
    return arrays.classification([*_stratified(x, y, sizes[:2]), test], axes=axes)


def read_series(name: str, split: str, length: int) -> tuple[Array, list[str]]:
    """Return what `parse_series` returns for a UCR or UEA data set in aeon.

    ``split`` is TRAIN or TEST.
    """
    content = packages.read_member(
        PACKAGES["aeon"], f"aeon/datasets/data/{name}/{name}_{split}.ts"
    )
    return parse_series(content.decode(), length)


def parse_series(text: str, length: int) -> tuple[Array, list[str]]:
    """Return series [N, channels, length] and N labels from the text of a ``.ts`` file.

    The series are padded with NaN. Each line after ``@data`` is one series: ``:``
    separates channels, ``,`` separates values, and the last field is the label. The
    text is not checked, because the wheel's hash is verified.
    """
    lines = re.split(r"(?im)^@data\s*$", text)[1].strip().splitlines()
    rows = [line.strip().split(":") for line in lines]
    x = np.full((len(rows), len(rows[0]) - 1, length), np.nan)
    for series, (*channels, _) in zip(x, rows, strict=True):
        for channel, values in zip(series, channels, strict=True):
            numbers = [float(value) for value in values.split(",")]
            channel[: len(numbers)] = numbers
    return x, [row[-1] for row in rows]


def _darcy16(sizes: Sizes) -> Arrays:
    """Return the arrays of Darcy flow on a grid of 16 x 16 points."""
    given = _operator_tensors("darcy_train_16.pt")
    held_out = _operator_tensors("darcy_test_16.pt")
    x = given["x"][:, None].astype(np.float32)
    y = given["y"]
    train, validation = arrays.by_index(
        x, y, splits.split(len(x), sizes[:2], SPLIT_SEED)
    )
    return arrays.regression(
        [train, validation, (held_out["x"][:, None].astype(np.float32), held_out["y"])]
    )


def _burgers16(sizes: Sizes) -> Arrays:
    """Return the arrays of Burgers' equation, from the initial to the final field."""
    tensors = _operator_tensors("burgers_lowres.pt")
    x = tensors["input"][:, None].astype(np.float32)
    trajectories = tensors["output"]  # [N, 17 times, 16 points]
    parts = arrays.by_index(
        x, trajectories[:, -1], splits.split(len(x), sizes, SPLIT_SEED)
    )
    # The domain is periodic, so all points have the same distribution and share one
    # mean and deviation.
    return arrays.regression(parts, target_axes=(0, 1))


def _operator_tensors(file: str) -> dict[str, Array]:
    """Return the tensors in a ``.pt`` file of the package neuraloperator as arrays."""
    import torch

    content = packages.read_member(
        PACKAGES["neuraloperator"], f"neuralop/datasets/data/{file}"
    )
    return {
        key: value.numpy()
        for key, value in torch.load(io.BytesIO(content), weights_only=True).items()
    }


def _task(
    name: str,
    build: str,
    num_samples: Sizes,
    packages: Iterable[str] = (),
    arguments: Any = None,
    **declared: Any,
) -> Task:
    """Return a task from its declaration.

    ``build`` names the function of its arrays, which gets ``num_samples`` and
    ``arguments``. ``packages`` are names of `PACKAGES`.
    """
    task = declared_task(
        f"pocket/{name}",
        lambda _: resolve_name(build)(num_samples, **arguments or {}),
        input_scale="standardised",
        num_samples=num_samples,
        packages=tuple(PACKAGES[package] for package in packages),
        **declared,
    )
    return replace(task, body=PACKAGED_BODIES[task.modality])


TASKS = tuple(
    _task(name, **declared) for name, declared in tables(__name__, "tasks.toml").items()
)
