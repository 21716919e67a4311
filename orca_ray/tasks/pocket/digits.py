"""Handwritten digits, 8×8, from 200 labels."""

import numpy as np

from orca_ray.data import splits
from orca_ray.data.bodies import PACKAGED_BODIES
from orca_ray.tasks import arrays
from orca_ray.tasks.task import SPLIT_SEED, Arrays, Target, Task, Workspace

NUM_SAMPLES = (200, 200, 1000)


def _build(_: Workspace) -> Arrays:
    from sklearn.datasets import load_digits

    pixels, labels = load_digits(return_X_y=True)
    x = pixels.reshape(-1, 1, 8, 8).astype(np.float32)
    return arrays.classification(arrays.by_index(x, labels, splits.stratified_split(labels, NUM_SAMPLES, SPLIT_SEED)))


TASK = Task(
    name="pocket/digits",
    title="Handwritten digits, 200 labels",
    modality="image",
    input_shape=(1, 8, 8),
    target=Target("classes", size=10),
    loss="cross_entropy",
    metric="error",
    input_scale="standardised",
    body=PACKAGED_BODIES["image"],
    num_samples=NUM_SAMPLES,
    licence="CC-BY-4.0",
    citation="Alpaydin and Kaynak, Optical Recognition of Handwritten Digits, UCI, 1998",
    reference="https://doi.org/10.24432/C50P49",
    build=_build,
    fingerprint="b71a5de5f9859542",
)
