"""Satellite: 24 classes of land cover, predicted from 46 observations of one pixel over a year.

Inputs are the values in the files, as in ORCA's code. NAS-Bench-360's own loaders standardise each series.
"""

from pathlib import Path

import numpy as np

from orca_ray.data.npy import read_npy
from orca_ray.data.readers import check_not_finite
from orca_ray.tasks.nasbench360._shared import BENCHMARK_PAPER, class_labels, entries, hosted, numbers, published_splits
from orca_ray.tasks.task import Array, Arrays, Target, Task, Workspace

TRAIN_FILE, TEST_FILE = "satellite_train.npy", "satellite_test.npy"
LENGTH = 46
NUM_CLASSES = 24  # numbered from 1 in the files
NUM_SAMPLES = (800_000, 100_000, 100_000)


def _build(workspace: Workspace) -> Arrays:
    path, test_path = workspace.file(TRAIN_FILE), workspace.file(TEST_FILE)
    num_published = sum(NUM_SAMPLES[:2])
    return published_splits(workspace, path, _series(path), _series(test_path), lambda x: x[:, None], num_published)


def _series(path: Path) -> tuple[Array, Array]:
    """Read a file; return series [N, 46] and classes [N], numbered from 0. Raises UserError if the file is invalid."""
    content = read_npy(path, pickled=True)
    if isinstance(content, np.ndarray) and content.shape == () and content.dtype == object:
        content = content.item()
    data, label = entries(path, content, "data", "label")
    data = numbers(path, "data", data, (None, LENGTH))
    check_not_finite(path, "data", data)
    return data, class_labels(path, "label", label, len(data), NUM_CLASSES, first=1)


TASK = Task(
    name="nasbench360/satellite",
    title="Satellite image time series",
    domain="time series",
    input_shape=(1, LENGTH),
    target=Target("classes", size=NUM_CLASSES),
    loss="cross_entropy",
    metric="error",
    input_scale="units",
    num_samples=NUM_SAMPLES,
    licence="GPL (as NAS-Bench-360 states)",
    citation="Petitjean, Inglada and Gançarski, Satellite image time series analysis under time warping, IEEE TGRS "
    f"2012; {BENCHMARK_PAPER}",
    reference="https://arxiv.org/abs/2110.05668",
    files=(
        hosted(TRAIN_FILE, f"satellite/{TRAIN_FILE}", 338_000_000),
        hosted(TEST_FILE, f"satellite/{TEST_FILE}", 37_000_000),
    ),
    build=_build,
)
