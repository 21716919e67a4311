"""Handwritten digits, 8×8, from 200 labels."""

import numpy as np

from orca_ray.tasks import arrays
from orca_ray.tasks.pocket._sources import pocket_classes, stratified
from orca_ray.tasks.task import Arrays, Workspace

NUM_SAMPLES = (200, 200, 1000)


def _build(_: Workspace) -> Arrays:
    from sklearn.datasets import load_digits

    pixels, labels = load_digits(return_X_y=True)
    x = pixels.reshape(-1, 1, 8, 8).astype(np.float32)
    return arrays.classification(stratified(x, labels, NUM_SAMPLES))


TASK = pocket_classes(
    "digits",
    10,
    title="Handwritten digits, 200 labels",
    modality="image",
    input_shape=(1, 8, 8),
    num_samples=NUM_SAMPLES,
    licence="CC-BY-4.0",
    citation="Alpaydin and Kaynak, Optical Recognition of Handwritten Digits, UCI, 1998",
    reference="https://doi.org/10.24432/C50P49",
    build=_build,
    fingerprint="b71a5de5f9859542",
)
