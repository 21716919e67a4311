"""OSULeaf: outlines of leaves as series of 427 points, six species."""

import numpy as np

from orca_ray.tasks import arrays
from orca_ray.tasks.pocket._sources import AEON, archive_series, pocket_classes, stratified
from orca_ray.tasks.task import Arrays, Workspace

NUM_SAMPLES = (150, 50, 242)  # the archive's own split is 200 and 242


def _build(_: Workspace) -> Arrays:
    series, labels = archive_series("OSULeaf", "TRAIN")
    test_series, test_labels = archive_series("OSULeaf", "TEST")
    train, validation = stratified(np.stack(series), labels, NUM_SAMPLES[:2])
    return arrays.classification([train, validation, (np.stack(test_series), test_labels)])


TASK = pocket_classes(
    "osuleaf",
    6,
    title="OSULeaf outlines",
    modality="time series",
    input_shape=(1, 427),
    num_samples=NUM_SAMPLES,
    licence="BSD-3-Clause (aeon); the UCR archive asks to be cited",
    citation="Gandhi, Content-based image retrieval: plant species, 2002; Dau et al., The UCR archive, 2019",
    reference="https://arxiv.org/abs/1810.07758",
    packages=(AEON,),
    build=_build,
    fingerprint="ec3b03b7bc546470",
)
