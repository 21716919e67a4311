"""Wisconsin diagnostic breast cancer: 30 measurements of cell nuclei, benign or malignant (OpenML 1510)."""

import numpy as np

from orca_ray.data import splits
from orca_ray.data.bodies import PACKAGED_BODIES
from orca_ray.tasks import arrays
from orca_ray.tasks.task import SPLIT_SEED, Arrays, Target, Task, Workspace

NUM_SAMPLES = (100, 150, 319)


def _build(_: Workspace) -> Arrays:
    from sklearn.datasets import load_breast_cancer

    features, labels = load_breast_cancer(return_X_y=True)
    x = features[:, None].astype(np.float32)
    parts = splits.stratified_split(labels, NUM_SAMPLES, SPLIT_SEED)
    return arrays.classification(arrays.by_index(x, labels, parts), axes=(0,))


TASK = Task(
    name="pocket/wdbc",
    title="Breast cancer, 100 labels",
    modality="tabular",
    input_shape=(1, 30),
    target=Target("classes", size=2),
    loss="cross_entropy",
    metric="one_minus_auroc",
    input_scale="standardised",
    body=PACKAGED_BODIES["sequence"],
    num_samples=NUM_SAMPLES,
    licence="CC-BY-4.0",
    citation="Wolberg, Mangasarian, Street and Street, Breast Cancer Wisconsin (Diagnostic), UCI, 1993",
    reference="https://doi.org/10.24432/C5DW2B",
    build=_build,
    fingerprint="df569aeca3747477",
)
