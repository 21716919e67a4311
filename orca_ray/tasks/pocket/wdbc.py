"""Wisconsin diagnostic breast cancer: 30 measurements of cell nuclei, benign or malignant (OpenML 1510)."""

import numpy as np

from orca_ray.tasks import arrays
from orca_ray.tasks.pocket._sources import pocket_classes, stratified
from orca_ray.tasks.task import Arrays, Workspace

NUM_SAMPLES = (100, 150, 319)


def _build(_: Workspace) -> Arrays:
    from sklearn.datasets import load_breast_cancer

    features, labels = load_breast_cancer(return_X_y=True)
    x = features[:, None].astype(np.float32)
    return arrays.classification(stratified(x, labels, NUM_SAMPLES), axes=(0,))


TASK = pocket_classes(
    "wdbc",
    2,
    title="Breast cancer, 100 labels",
    modality="tabular",
    input_shape=(1, 30),
    metric="one_minus_auroc",
    num_samples=NUM_SAMPLES,
    licence="CC-BY-4.0",
    citation="Wolberg, Mangasarian, Street and Street, Breast Cancer Wisconsin (Diagnostic), UCI, 1993",
    reference="https://doi.org/10.24432/C5DW2B",
    build=_build,
    fingerprint="df569aeca3747477",
)
