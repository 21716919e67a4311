"""The pitch of a tone: three classes of noisy sine waves of 32 values."""

import numpy as np

from orca_ray.data.npy import read_npy
from orca_ray.data.readers import check_labels, check_not_finite, check_shape
from orca_ray.data.splits import stratified_split
from orca_ray.tasks.arrays import by_index, classification
from orca_ray.tasks.task import SPLIT_SEED, Arrays, RawFile, Target, Task, Workspace


def build(workspace: Workspace) -> Arrays:
    """Read waves [N, 1, 32] and pitches [N], and split them 60 : 20 : 20.

    Raises UserError for a damaged file.
    """
    x_path = workspace.file("tones_x.npy")
    y_path = workspace.file("tones_y.npy")
    x = read_npy(x_path, kind="f")
    y = read_npy(y_path, kind="iu")
    check_shape(x_path, "", x, (None, 1, 32))
    check_not_finite(x_path, "", x)
    check_shape(y_path, "", y, (len(x),))
    check_labels(y_path, "", y, 0, 2)
    fifth = len(x) // 5
    parts = stratified_split(y, (len(x) - 2 * fifth, fifth, fifth), SPLIT_SEED)
    return classification(by_index(np.asarray(x, np.float32), y, parts))


TASK = Task(
    name="example/tones",
    title="Pitch of a tone",
    domain="time series",
    input_shape=(1, 32),
    target=Target("classes", size=3),
    loss="smoothed_cross_entropy",
    metric="worst_class_error",
    augmentation="sign_flip",
    num_samples=(60, 20, 20),
    licence="CC0-1.0",
    citation="nobody, synthetic",
    reference="https://example.org/tones",
    files=(RawFile(path="tones_x.npy"), RawFile(path="tones_y.npy")),
    input_scale="standardised",
    build=build,
)
