"""Twins of seven tasks of NAS-Bench-360, and ways to damage them."""

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from orca_ray.testing.damages import Array, Damage, Hostile, Writer, changed, cut, deleted, garbage, rewritten
from tests.twins import nasbench360_series_files as files

Change = Callable[[Any], Any]

_CIFAR100, _SPHERICAL = "cifar-100-python.tar.gz", "s2_cifar100.gz"
_ECG, _DEEPSEA = "challenge2017.pkl", "deepsea_filtered.npz"
_SMOOTH1, _SMOOTH2 = "piececonst_r421_N1024_smooth1.mat", "piececonst_r421_N1024_smooth2.mat"
_REFUSED = r"it asks for '(posix|nt|os)\.system', which is refused"


def write_ninapro(raw: Path) -> None:
    """Write the six files below ``ninaPro``: 72 training, 36 validation and 36 test windows of 18 gestures."""
    r = np.random.RandomState(0)
    (raw / "ninaPro").mkdir(exist_ok=True)
    gestures = r.randn(18, 1, 16)
    for name, each in (("train", 4), ("val", 2), ("test", 2)):
        labels = r.permutation(np.repeat(np.arange(18), each))
        np.save(raw / f"ninaPro/label_{name}.npy", labels)
        np.save(raw / f"ninaPro/ninapro_{name}.npy", gestures[labels] + 0.3 * r.randn(len(labels), 52, 16))


def write_satellite(raw: Path) -> None:
    """Write the two files: 144 training and 48 test series."""
    for part in ("train", "test"):
        files.save_satellite(raw, part, files.satellite_content(part))


def _train_is_test(raw: Path) -> None:
    files.save_satellite(raw, "train", files.satellite_content("test"))


def write_darcy_flow(raw: Path) -> None:
    """Write the two files: 12 samples as MATLAB 5, and 3 as MATLAB 7.3, both at full resolution."""
    files.save_matlab5(raw / _SMOOTH1, files.darcy_content(12))
    files.save_matlab73(raw / _SMOOTH2, files.darcy_content(3, 1))


def _flipped(name: str, place: float) -> Writer:
    def change(content: bytes) -> bytes:
        position = int(place * len(content))
        return content[:position] + bytes([content[position] ^ 0x55]) + content[position + 1 :]

    return lambda raw: rewritten(raw / name, change)


def _cifar100(change: Change, part: str = "train") -> Writer:
    """Return what changes one pickle of the archive, and writes it as today's Python does."""
    content = files.cifar100_content
    return lambda raw: files.save_cifar100(raw, content() | {part: change(content()[part])}, pickle.dumps)


def _spherical(part: str, change: Change) -> Writer:
    content = files.spherical_content
    return lambda raw: files.save_spherical(raw, content() | {part: change(content()[part])})


def _ecg(change: Change) -> Writer:
    return lambda raw: files.save_ecg(raw, change(files.ecg_content()))


def _satellite(part: str, change: Change) -> Writer:
    return lambda raw: files.save_satellite(raw, part, change(files.satellite_content(part)))


def _deepsea(change: Change) -> Writer:
    return lambda raw: files.save_deepsea(raw, change(files.deepsea_content()))


def _darcy(change: Change) -> Writer:
    return lambda raw: files.save_matlab5(raw / _SMOOTH1, change(files.darcy_content(5)))


def _without(key: str) -> Change:
    return lambda content: {name: value for name, value in content.items() if name != key}


def _set(key: str, value: Any) -> Change:
    return lambda content: content | {key: value}


def _set_item(key: str, index: int, value: Any) -> Change:
    """Return what changes one item of an array of objects."""

    def change(content: files.Content) -> files.Content:
        items = content[key].copy()
        items[index] = value
        return content | {key: items}

    return change


def _last(array: Array, value: Any) -> Array:
    """Return a copy in which the last number is another."""
    copy = np.array(array, dtype=np.float64 if isinstance(value, float) else array.dtype)
    copy.flat[-1] = value
    return copy


TWINS: dict[str, Writer] = {
    "nasbench360/cifar100": lambda raw: files.save_cifar100(raw, files.cifar100_content()),
    "nasbench360/spherical": lambda raw: files.save_spherical(raw, files.spherical_content()),
    "nasbench360/ninapro": write_ninapro,
    "nasbench360/ecg": lambda raw: files.save_ecg(raw, files.ecg_content()),
    "nasbench360/satellite": write_satellite,
    "nasbench360/deepsea": lambda raw: files.save_deepsea(raw, files.deepsea_content()),
    "nasbench360/darcy_flow": write_darcy_flow,
}

BAD: dict[str, list[Damage]] = {
    "nasbench360/cifar100": [
        ("missing", deleted(_CIFAR100), r"1 of 1 raw files are not in .*cifar-100-python\.tar\.gz"),
        ("truncated", cut(_CIFAR100), r"cifar-100-python\.tar\.gz"),
        ("byte flipped", _flipped(_CIFAR100, 0.5), r"cifar-100-python\.tar\.gz"),
        ("garbage", garbage(_CIFAR100), r"cifar-100-python\.tar\.gz"),
        ("other images", _cifar100(_set("data", np.zeros((300, 784), np.uint8))), r"data of train.*3072"),
        ("no fine labels", _cifar100(_without("fine_labels"), "test"), "the key 'fine_labels' is missing"),
        ("label out of range", _cifar100(_set("fine_labels", [*range(100)] * 2 + [100] * 100)), "train.*from 0 to 99"),
        ("hostile pickle", _cifar100(_set("data", Hostile())), f"cifar-100-python/train.*{_REFUSED}"),
    ],
    "nasbench360/spherical": [
        ("missing", deleted(_SPHERICAL), r"1 of 1 raw files are not in .*s2_cifar100\.gz"),
        ("truncated", cut(_SPHERICAL), r"s2_cifar100\.gz"),
        ("byte flipped", _flipped(_SPHERICAL, 0.5), r"s2_cifar100\.gz"),
        ("garbage", garbage(_SPHERICAL), r"s2_cifar100\.gz"),
        ("other side", _spherical("test", _set("images", np.zeros((100, 3, 32, 32), np.uint8))), "test.*60, 60"),
        ("no labels", _spherical("train", _without("labels")), "the key 'labels' is missing"),
        ("label out of range", _spherical("train", _set("labels", np.arange(300))), "labels of train.*from 0 to 99"),
        ("hostile pickle", _spherical("train", _set("images", Hostile())), _REFUSED),
    ],
    "nasbench360/ninapro": [
        ("missing", deleted("ninaPro/label_val.npy"), r"1 of 6 raw files are not in .*ninaPro/label_val\.npy"),
        ("truncated", cut("ninaPro/ninapro_train.npy"), r"ninapro_train\.npy"),
        ("garbage", garbage("ninaPro/ninapro_test.npy"), r"ninapro_test\.npy"),
        ("axes swapped", changed("ninaPro/ninapro_val.npy", lambda x: x.transpose(0, 2, 1)), "windows.*52, 16"),
        ("NaN", changed("ninaPro/ninapro_test.npy", lambda x: _last(x, np.nan)), r"ninapro_test\.npy, windows.*nan"),
        ("label out of range", changed("ninaPro/label_train.npy", lambda y: _last(y, 18)), "labels.*from 0 to 17"),
        ("label between two", changed("ninaPro/label_train.npy", lambda y: y + 0.5), "labels.*from 0 to 17"),
        ("fewer labels", changed("ninaPro/label_train.npy", lambda y: y[:-1]), r"label_train\.npy, labels.*72"),
    ],
    "nasbench360/ecg": [
        ("missing", deleted(_ECG), r"1 of 1 raw files are not in .*challenge2017\.pkl"),
        ("truncated", cut(_ECG), r"challenge2017\.pkl"),
        ("garbage", garbage(_ECG), r"challenge2017\.pkl"),
        ("no labels", _ecg(_without("label")), "the key 'label' is missing"),
        ("other label", _ecg(_set_item("label", 3, "X")), "label 3 is 'X'; allowed: N, A, O, ~"),
        ("NaN", _ecg(_set_item("data", 7, np.full(1500, np.nan))), r"data\[7\].*nan"),
        ("two leads", _ecg(_set_item("data", 7, np.zeros((2, 900)))), r"data\[7\].*found \[2, 900\]"),
        ("fewer labels", _ecg(_set("label", ["N"] * 79)), "80 records and label 79"),
        ("short records", _ecg(_set("data", [np.ones(900)] * 80)), "no record of the train split is longer than 1000"),
        ("hostile pickle", _ecg(_set_item("data", 0, Hostile())), _REFUSED),
    ],
    "nasbench360/satellite": [
        ("missing", deleted("satellite_test.npy"), r"1 of 2 raw files are not in .*satellite_test\.npy"),
        ("truncated", cut("satellite_train.npy"), r"satellite_train\.npy"),
        ("garbage", garbage("satellite_train.npy"), r"satellite_train\.npy"),
        ("no data", _satellite("test", _without("data")), "the key 'data' is missing"),
        ("no mapping", _satellite("test", lambda content: content["data"]), r"satellite_test\.npy.*a mapping with"),
        ("a step less", _satellite("train", _set("data", np.ones((144, 45)))), "data.*46"),
        ("ragged labels", _satellite("train", _set("label", [[[1], [2, 3]]] * 144)), "label"),
        ("text for labels", _satellite("train", _set("label", "N" * 144)), "label"),
        ("huge labels", _satellite("train", _set("label", [10**30] * 144)), "label"),
        ("a number for labels", _satellite("train", _set("label", 144)), "label"),
        ("no more than test", _train_is_test, "more than 48 training samples, because as many are held out"),
        ("label from 0", _satellite("train", _set("label", np.arange(144) % 24)), "label.*from 1 to 24"),
        ("NaN", _satellite("test", _set("data", np.full((48, 46), np.nan))), r"satellite_test\.npy, data.*nan"),
        ("hostile pickle", _satellite("train", _set("data", Hostile())), _REFUSED),
    ],
    "nasbench360/deepsea": [
        ("missing", deleted(_DEEPSEA), r"1 of 1 raw files are not in .*deepsea_filtered\.npz"),
        ("truncated", cut(_DEEPSEA), r"deepsea_filtered\.npz"),
        ("byte flipped", _flipped(_DEEPSEA, 0.3), r"deepsea_filtered\.npz"),
        ("garbage", garbage(_DEEPSEA), r"deepsea_filtered\.npz"),
        ("no validation", _deepsea(_without("x_val")), "x_val"),
        ("axes swapped", _deepsea(_set("x_train", np.zeros((24, 4, 1000), np.uint8))), "x_train.*1000, 4"),
        ("NaN", _deepsea(_set("x_test", np.full((12, 1000, 4), np.nan))), "x_test must hold 0 and 1 only, found nan"),
        ("label 2", _deepsea(_set("y_val", np.full((9, 36), 2))), "y_val must hold 0 and 1 only, found 2"),
    ],
    "nasbench360/darcy_flow": [
        ("missing", deleted(_SMOOTH2), r"1 of 2 raw files are not in .*smooth2\.mat"),
        ("truncated", cut(_SMOOTH1), r"smooth1\.mat"),
        ("garbage", garbage(_SMOOTH2), r"smooth2\.mat"),
        ("no solution", _darcy(_without("sol")), r"smooth1\.mat.*sol"),
        ("another grid", _darcy(_set("coeff", np.ones((5, 241, 241)))), r"coeff has .*\(5, 241, 241\), expected .*421"),
        ("fewer solutions", _darcy(_set("sol", np.ones((4, 421, 421)))), "coeff holds 5 samples and sol 4"),
        ("NaN", _darcy(_set("sol", np.full((5, 421, 421), np.nan))), r"smooth1\.mat, sol.*nan"),
    ],
}
