"""Small raw files of seven tasks of NAS-Bench-360.

They have the exact formats; there are also ways to corrupt them. All is seeded and
drawn so that classes can be told apart.
"""

import gzip
import io
import pickle
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from orca_ray.data.rows import Array
from orca_ray.testing.tasks import Corruption, Writer, changed, with_item
from tests.raw_files import Hostile, broken

Content = dict[str, Any]
Change = Callable[[Any], Any]

_CIFAR100 = "cifar-100-python.tar.gz"
_SPHERICAL = "s2_cifar100.gz"
_ECG = "challenge2017.pkl"
_DEEPSEA = "deepsea_filtered.npz"
_WINDOWS = "ninaPro/ninapro_test.npy"
_GESTURES = "ninaPro/label_train.npy"
_SMOOTH1 = "piececonst_r421_N1024_smooth1.mat"
_SMOOTH2 = "piececonst_r421_N1024_smooth2.mat"
_REFUSED = r"it asks for '(posix|nt|os)\.system', which is refused"


def _images(part: str, side: int) -> tuple[Array, Array]:
    """Return 300 training or 100 test images, and their classes [N].

    Images are uint8 [N, 3, side, side]. Images are noisy; their rows are bright or dark
    as their class says.
    """
    each = {"train": 3, "test": 1}[part]
    classes = np.random.RandomState(0).permutation(np.repeat(np.arange(100), each))
    patterns = 160 * np.random.RandomState(0).randint(0, 2, (100, 3, side, 1))
    noise = np.random.RandomState(each).randint(0, 64, (len(classes), 3, side, side))
    return (patterns[classes] + noise).astype(np.uint8), classes


def cifar100_content() -> Content:
    parts = {part: _images(part, 32) for part in ("train", "test")}
    return {
        part: {"fine_labels": y.tolist(), "data": x.reshape(len(x), -1)}
        for part, (x, y) in parts.items()
    }


def save_cifar100(raw: Path, content: Content) -> None:
    with tarfile.open(raw / _CIFAR100, "w:gz", compresslevel=1) as archive:
        for name, value in content.items():
            packed = pickle.dumps(value)
            member = tarfile.TarInfo(f"cifar-100-python/{name}")
            member.size = len(packed)
            archive.addfile(member, io.BytesIO(packed))


def spherical_content() -> Content:
    return {
        part: dict(zip(("images", "labels"), _images(part, 60), strict=True))
        for part in ("train", "test")
    }


def save_spherical(raw: Path, content: Content) -> None:
    with gzip.open(raw / _SPHERICAL, "wb", compresslevel=1) as stream:
        pickle.dump(content, stream)


def ecg_content() -> Content:
    """Return the content of the file: 80 records int16 and their letters.

    The records, as PhysioNet's, have 1200 to 1900 samples.
    """
    r = np.random.RandomState(0)
    # Drawn so that all letters are in every split of both protocols.
    label = np.array(list("NAO~"), dtype=object)[
        np.random.RandomState(1).permutation(80) % 4
    ]
    data = np.empty(len(label), dtype=object)
    for i, letter in enumerate(label):
        time = np.arange(r.randint(1200, 1900)) / 300
        beats = np.sin(2 * np.pi * (1.0 + 0.7 * "NAO~".index(letter)) * time) ** 15
        data[i] = (300 * beats + 20 * r.randn(len(time))).astype(np.int16)
    return {"data": data, "label": label}


def save_ecg(raw: Path, content: Content) -> None:
    (raw / _ECG).write_bytes(pickle.dumps(content))


def satellite_content() -> Content:
    """Return the content of the two files.

    They hold 144 and 48 series of 24 classes, numbered from 1.
    """
    content = {}
    for part, each in (("train", 6), ("test", 2)):
        r = np.random.RandomState(len(part))
        label = r.permutation(np.repeat(np.arange(1, 25), each))
        seasons = np.cos(2 * np.pi * (np.arange(46) / 46 - label[:, None] / 24))
        content[part] = {
            "data": 400 + 200 * seasons + 30 * r.randn(len(label), 46),
            "label": label,
        }
    return content


def save_satellite(raw: Path, content: Content) -> None:
    for part, value in content.items():
        np.save(raw / f"satellite_{part}.npy", value, allow_pickle=True)


def deepsea_content() -> Content:
    """Return the content of the file: 24, 9 and 12 sequences.

    Every label is both 0 and 1 in every split.
    """
    r = np.random.RandomState(0)
    content: Content = {}
    for name, count in (("train", 24), ("val", 9), ("test", 12)):
        bases = r.randint(0, 5, (count, 1000))  # the fifth is unknown: no base at all
        content[f"x_{name}"] = np.eye(5, 4, dtype=np.uint8)[bases]
        content[f"y_{name}"] = (
            (np.arange(count)[:, None] + np.arange(36)) % 3 == 0
        ).astype(np.uint8)
    return content


def save_deepsea(raw: Path, content: Content) -> None:
    np.savez(raw / _DEEPSEA, **content)


def darcy_content(count: int, seed: int = 0) -> Content:
    """Return coefficients of 3 and 12, and solutions, [N, 421, 421].

    The solutions fall with the coefficients, and vanish at the border.
    """
    r = np.random.RandomState(seed)
    blocks = np.kron(r.randn(count, 11, 11), np.ones((1, 39, 39)))[:, 4:425, 4:425]
    coefficients = np.where(blocks > 0, 12.0, 3.0)
    bump = np.sin(np.pi * np.linspace(0, 1, 421))
    bump[-1] = 0.0
    return {
        "coeff": coefficients,
        "sol": bump[:, None] * bump * (1 + r.rand(count, 1, 1)) / coefficients,
    }


def save_matlab5(path: Path, content: Content) -> None:
    """Write a compressed file of MATLAB 5 to 7.2."""
    from scipy.io import savemat

    savemat(path, content, do_compression=True)


def save_matlab73(path: Path, content: Content) -> None:
    """Write a file of MATLAB 7.3: HDF5 behind a header, and the last axis outermost."""
    import h5py

    with h5py.File(path, "w", userblock_size=512) as file:
        for name, fields in content.items():
            file.create_dataset(
                name,
                data=fields.transpose(2, 1, 0),
                compression="gzip",
                compression_opts=1,
            )
    with path.open("r+b") as stream:
        stream.write(b"MATLAB 7.3 MAT-file".ljust(124) + b"\x00\x02IM")


def write_ninapro(raw: Path) -> None:
    """Write the six files below ``ninaPro``.

    They have 72 training, 36 validation and 36 test windows of 18 gestures.
    """
    r = np.random.RandomState(0)
    (raw / "ninaPro").mkdir(exist_ok=True)
    gestures = r.randn(18, 1, 16)
    for name, each in (("train", 4), ("val", 2), ("test", 2)):
        labels = r.permutation(np.repeat(np.arange(18), each))
        np.save(raw / f"ninaPro/label_{name}.npy", labels)
        np.save(
            raw / f"ninaPro/ninapro_{name}.npy",
            gestures[labels] + 0.3 * r.randn(len(labels), 52, 16),
        )


def write_darcy_flow(raw: Path) -> None:
    """Write two files: 12 samples as MATLAB 5, and 3 as MATLAB 7.3.

    Both are at full resolution.
    """
    save_matlab5(raw / _SMOOTH1, darcy_content(12))
    save_matlab73(raw / _SMOOTH2, darcy_content(3, 1))


def _saved(
    save: Callable[[Path, Content], None], content: Callable[[], Content]
) -> Callable[..., Writer]:
    """Return a function that makes writers of changed content.

    It takes a change, and the part of the content to change ("": all).
    """

    def writer(change: Change = dict, part: str = "") -> Writer:
        def write(raw: Path) -> None:
            whole = content()
            save(raw, whole | {part: change(whole[part])} if part else change(whole))

        return write

    return writer


_cifar100 = _saved(save_cifar100, cifar100_content)
_spherical = _saved(save_spherical, spherical_content)
_ecg = _saved(save_ecg, ecg_content)
_satellite = _saved(save_satellite, satellite_content)
_deepsea = _saved(save_deepsea, deepsea_content)


def _darcy(change: Change) -> Writer:
    return lambda raw: save_matlab5(raw / _SMOOTH1, change(darcy_content(5)))


def _without(key: str) -> Change:
    return lambda content: {
        name: value for name, value in content.items() if name != key
    }


def _set(key: str, value: Any) -> Change:
    return lambda content: content | {key: value}


def _set_item(key: str, index: int, value: Any) -> Change:
    """Return what changes one item of an array of objects."""

    def change(content: Content) -> Content:
        items = content[key].copy()
        items[index] = value
        return content | {key: items}

    return change


WRITERS: dict[str, Writer] = {
    "nasbench360/cifar100": _cifar100(),
    "nasbench360/spherical": _spherical(),
    "nasbench360/ninapro": write_ninapro,
    "nasbench360/ecg": _ecg(),
    "nasbench360/satellite": _satellite(),
    "nasbench360/deepsea": _deepsea(),
    "nasbench360/darcy_flow": write_darcy_flow,
}

CORRUPTIONS: dict[str, list[Corruption]] = {
    "nasbench360/cifar100": [
        *broken(_CIFAR100, 1),
        (
            "other images",
            _cifar100(_set("data", np.zeros((300, 784), np.uint8)), "train"),
            r"data of train.*3072",
        ),
        (
            "no fine labels",
            _cifar100(_without("fine_labels"), "test"),
            "the key 'fine_labels' is missing",
        ),
        (
            "label 100",
            _cifar100(_set("fine_labels", [*range(100)] * 2 + [100] * 100), "train"),
            "train.*from 0 to 99",
        ),
        (
            "hostile pickle",
            _cifar100(_set("data", Hostile()), "train"),
            f"cifar-100-python/train.*{_REFUSED}",
        ),
    ],
    "nasbench360/spherical": [
        *broken(_SPHERICAL, 1),
        (
            "other side",
            _spherical(_set("images", np.zeros((100, 3, 32, 32), np.uint8)), "test"),
            "test.*60, 60",
        ),
        (
            "no labels",
            _spherical(_without("labels"), "train"),
            "the key 'labels' is missing",
        ),
        (
            "label out of range",
            _spherical(_set("labels", np.arange(300)), "train"),
            "labels of train.*from 0 to 99",
        ),
        ("hostile pickle", _spherical(_set("images", Hostile()), "train"), _REFUSED),
    ],
    "nasbench360/ninapro": [
        *broken("ninaPro/label_val.npy", 6),
        (
            "axes swapped",
            changed("ninaPro/ninapro_val.npy", lambda x: x.transpose(0, 2, 1)),
            "windows.*52, 16",
        ),
        (
            "NaN",
            changed(_WINDOWS, lambda x: with_item(x, -1, np.nan)),
            r"ninapro_test\.npy, windows.*nan",
        ),
        (
            "label out of range",
            changed(_GESTURES, lambda y: with_item(y, -1, 18)),
            "labels.*from 0 to 17",
        ),
        (
            "label between two",
            changed(_GESTURES, lambda y: y + 0.5),
            "labels.*from 0 to 17",
        ),
        (
            "fewer labels",
            changed(_GESTURES, lambda y: y[:-1]),
            r"label_train\.npy, labels.*72",
        ),
    ],
    "nasbench360/ecg": [
        *broken(_ECG, 1),
        ("no labels", _ecg(_without("label")), "the key 'label' is missing"),
        (
            "other label",
            _ecg(_set_item("label", 3, "X")),
            "label 3 is 'X'; allowed: N, A, O, ~",
        ),
        ("NaN", _ecg(_set_item("data", 7, np.full(1500, np.nan))), r"data\[7\].*nan"),
        (
            "two leads",
            _ecg(_set_item("data", 7, np.zeros((2, 900)))),
            r"data\[7\].*found \[2, 900\]",
        ),
        ("fewer labels", _ecg(_set("label", ["N"] * 79)), "80 records and label 79"),
        (
            "short records",
            _ecg(_set("data", [np.ones(900)] * 80)),
            "no record of the train split is longer than 1000",
        ),
        ("hostile pickle", _ecg(_set_item("data", 0, Hostile())), _REFUSED),
    ],
    "nasbench360/satellite": [
        *broken("satellite_test.npy", 2),
        ("no data", _satellite(_without("data"), "test"), "the key 'data' is missing"),
        (
            "no mapping",
            _satellite(lambda content: content["data"], "test"),
            r"satellite_test\.npy.*a mapping with",
        ),
        (
            "a step less",
            _satellite(_set("data", np.ones((144, 45))), "train"),
            "data.*46",
        ),
        (
            "ragged labels",
            _satellite(_set("label", [[[1], [2, 3]]] * 144), "train"),
            "label",
        ),
        ("huge labels", _satellite(_set("label", [10**30] * 144), "train"), "label"),
        (
            "no more than test",
            _satellite(lambda content: content | {"train": content["test"]}),
            "more than 48 training samples, because as many are held out",
        ),
        (
            "label from 0",
            _satellite(_set("label", np.arange(144) % 24), "train"),
            "label.*from 1 to 24",
        ),
        (
            "NaN",
            _satellite(_set("data", np.full((48, 46), np.nan)), "test"),
            r"satellite_test\.npy, data.*nan",
        ),
        ("hostile pickle", _satellite(_set("data", Hostile()), "train"), _REFUSED),
    ],
    "nasbench360/deepsea": [
        *broken(_DEEPSEA, 1),
        ("no validation", _deepsea(_without("x_val")), "x_val"),
        (
            "axes swapped",
            _deepsea(_set("x_train", np.zeros((24, 4, 1000), np.uint8))),
            "x_train.*1000, 4",
        ),
        (
            "NaN",
            _deepsea(_set("x_test", np.full((12, 1000, 4), np.nan))),
            "x_test must hold 0 and 1 only, found nan",
        ),
        (
            "label 2",
            _deepsea(_set("y_val", np.full((9, 36), 2))),
            "y_val must hold 0 and 1 only, found 2",
        ),
    ],
    "nasbench360/darcy_flow": [
        *broken(_SMOOTH2, 2),
        ("no solution", _darcy(_without("sol")), r"smooth1\.mat.*sol"),
        (
            "another grid",
            _darcy(_set("coeff", np.ones((5, 241, 241)))),
            r"coeff has .*\(5, 241, 241\), expected .*421",
        ),
        (
            "fewer solutions",
            _darcy(_set("sol", np.ones((4, 421, 421)))),
            "coeff holds 5 samples and sol 4",
        ),
        (
            "NaN",
            _darcy(_set("sol", np.full((5, 421, 421), np.nan))),
            r"smooth1\.mat, sol.*nan",
        ),
    ],
}
