"""Spherical CIFAR-100: the images projected onto the northern hemisphere, rotated at random, as 60×60 maps."""

from pathlib import Path
from typing import Any

import numpy as np

from orca_ray.data import safe_pickle
from orca_ray.data.archives import open_gzip
from orca_ray.tasks.nasbench360._shared import BENCHMARK_PAPER, class_labels, entries, hosted, numbers, published_splits
from orca_ray.tasks.task import Array, Arrays, Target, Task, Workspace

FILE = "s2_cifar100.gz"
SHAPE = (3, 60, 60)
NUM_CLASSES = 100
NUM_SAMPLES = (40_000, 10_000, 10_000)


def _build(workspace: Workspace) -> Arrays:
    path = workspace.file(FILE)
    with open_gzip(path) as stream:
        train, test = entries(path, safe_pickle.load(stream, str(path)), "train", "test")
    given, held_out = _images(path, "train", train), _images(path, "test", test)
    return published_splits(workspace, path, given, held_out, _scaled, sum(NUM_SAMPLES[:2]))


def _images(path: Path, part: str, content: Any) -> tuple[Array, Array]:
    """Return images uint8 [N, 3, 60, 60] and their classes [N]."""
    images, labels = entries(path, content, "images", "labels")
    images = numbers(path, f"images of {part}", images, (None, *SHAPE), "u")
    return images, class_labels(path, f"labels of {part}", labels, len(images), NUM_CLASSES)


def _scaled(images: Array) -> Array:
    return np.asarray(images.astype(np.float32) / np.float32(255))


TASK = Task(
    name="nasbench360/spherical",
    title="Spherical CIFAR-100",
    modality="image on a sphere",
    input_shape=SHAPE,
    target=Target("classes", size=NUM_CLASSES),
    loss="cross_entropy",
    metric="error",
    input_scale="units",
    num_samples=NUM_SAMPLES,
    licence="CC-BY-SA (as NAS-Bench-360 states)",
    citation=f"Cohen, Geiger, Köhler and Welling, Spherical CNNs, ICLR 2018; {BENCHMARK_PAPER}",
    reference="https://arxiv.org/abs/1801.10130",
    terms="Share alike: what is made of the data must be passed on under the same licence.",
    files=(hosted(FILE, "spherical/s2_cifar100.gz", 285_000_000),),
    build=_build,
)
