"""What the raw files of seven tasks of NAS-Bench-360 hold, in small, and how their formats are written.

All is seeded and drawn so that classes can be told apart.
"""

import gzip
import io
import pickle
import struct
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
Content = dict[str, Any]


def _save_string(pickler: Any, value: str | bytes) -> None:
    raw = value.encode("latin1") if isinstance(value, str) else value
    head = b"U" + bytes([len(raw)]) if len(raw) < 256 else b"T" + struct.pack("<i", len(raw))
    pickler.write(head + raw)
    pickler.memoize(value)


class _Python2Pickler(pickle._Pickler):
    """Writes text and bytes as Python 2 wrote its strings."""

    dispatch: ClassVar[dict[Any, Any]] = {**pickle._Pickler.dispatch, str: _save_string, bytes: _save_string}


def python2_pickle(value: Any) -> bytes:
    """Pickle as Python 2 with numpy 1 did, protocol 2."""
    stream = io.BytesIO()
    _Python2Pickler(stream, protocol=2).dump(value)
    return stream.getvalue().replace(b"numpy._core.multiarray\n", b"numpy.core.multiarray\n")


def images_of(classes: Array, side: int, seed: int) -> Array:
    """Return noisy colour images uint8 [N, 3, side, side] whose rows are bright or dark as their class says."""
    r = np.random.RandomState(seed)
    patterns = 160 * np.random.RandomState(0).randint(0, 2, (100, 3, side, 1))
    return (patterns[classes] + r.randint(0, 64, (len(classes), 3, side, side))).astype(np.uint8)


def cifar100_content() -> dict[str, Content]:
    """Return what the files of the archive hold: 300 training and 100 test images, and the names of the classes."""
    content: dict[str, Content] = {}
    for name, each in (("train", 3), ("test", 1)):
        fine = np.random.RandomState(0).permutation(np.repeat(np.arange(100), each))
        content[name] = {
            "filenames": [f"pair_{number:02}_s_{i:06}.png" for i, number in enumerate(fine)],
            "batch_label": f"{name}ing batch 1 of 1",
            "fine_labels": fine.tolist(),
            "coarse_labels": (fine // 5).tolist(),
            "data": images_of(fine, 32, each).reshape(len(fine), -1),
        }
    return {**content, "meta": {"fine_label_names": [f"{number:02}" for number in range(100)]}}


def save_cifar100(raw: Path, content: dict[str, Content], pickled: Callable[[Any], bytes] = python2_pickle) -> None:
    """Write ``cifar-100-python.tar.gz``."""
    with tarfile.open(raw / "cifar-100-python.tar.gz", "w:gz", compresslevel=1) as archive:
        for name, value in content.items():
            packed = pickled(value)
            member = tarfile.TarInfo(f"cifar-100-python/{name}")
            member.size = len(packed)
            archive.addfile(member, io.BytesIO(packed))


def spherical_content() -> dict[str, Content]:
    """Return what the file holds: 300 training and 100 test images."""
    content: dict[str, Content] = {}
    for name, each in (("train", 3), ("test", 1)):
        labels = np.random.RandomState(0).permutation(np.repeat(np.arange(100), each))
        content[name] = {"images": images_of(labels, 60, each), "labels": labels}
    return content


def save_spherical(raw: Path, content: Any) -> None:
    """Write ``s2_cifar100.gz``."""
    with gzip.open(raw / "s2_cifar100.gz", "wb", compresslevel=1) as stream:
        pickle.dump(content, stream)


def ecg_content() -> Content:
    """Return what the file holds: 80 records int16, as PhysioNet's, of 1200 to 1900 samples, and their letters."""
    r = np.random.RandomState(0)
    # Drawn so that all letters are in every split of both protocols.
    label = np.array(list("NAO~"), dtype=object)[np.random.RandomState(1).permutation(80) % 4]
    data = np.empty(len(label), dtype=object)
    for i, letter in enumerate(label):
        time = np.arange(r.randint(1200, 1900)) / 300
        beats = np.sin(2 * np.pi * (1.0 + 0.7 * "NAO~".index(letter)) * time) ** 15
        data[i] = (300 * beats + 20 * r.randn(len(time))).astype(np.int16)
    return {"data": data, "label": label}


def save_ecg(raw: Path, content: Any) -> None:
    """Write ``challenge2017.pkl``."""
    (raw / "challenge2017.pkl").write_bytes(pickle.dumps(content))


def satellite_content(part: str) -> Content:
    """Return what the file of a part holds: 144 or 48 series of 24 classes, numbered from 1."""
    r = np.random.RandomState(len(part))
    label = r.permutation(np.repeat(np.arange(1, 25), {"train": 6, "test": 2}[part]))
    seasons = np.cos(2 * np.pi * (np.arange(46) / 46 - label[:, None] / 24))
    return {"data": 400 + 200 * seasons + 30 * r.randn(len(label), 46), "label": label}


def save_satellite(raw: Path, part: str, content: Any) -> None:
    """Write ``satellite_train.npy`` or ``satellite_test.npy``."""
    np.save(raw / f"satellite_{part}.npy", content, allow_pickle=True)


def deepsea_content() -> Content:
    """Return what the file holds: 24, 9 and 12 sequences, every label both 0 and 1 in every split."""
    r = np.random.RandomState(0)
    content: Content = {}
    for name, count in (("train", 24), ("val", 9), ("test", 12)):
        bases = r.randint(0, 5, (count, 1000))  # the fifth is unknown: no base at all
        content[f"x_{name}"] = np.eye(5, 4, dtype=np.uint8)[bases]
        content[f"y_{name}"] = ((np.arange(count)[:, None] + np.arange(36)) % 3 == 0).astype(np.uint8)
    return content


def save_deepsea(raw: Path, content: Content) -> None:
    """Write ``deepsea_filtered.npz``."""
    np.savez(raw / "deepsea_filtered.npz", **content)


def darcy_content(count: int, seed: int = 0) -> Content:
    """Return coefficients of 3 and 12, and solutions that fall with them and vanish at the border, [N, 421, 421]."""
    r = np.random.RandomState(seed)
    blocks = np.kron(r.randn(count, 11, 11), np.ones((1, 39, 39)))[:, 4:425, 4:425]
    coefficients = np.where(blocks > 0, 12.0, 3.0)
    bump = np.sin(np.pi * np.linspace(0, 1, 421))
    bump[-1] = 0.0
    return {"coeff": coefficients, "sol": bump[:, None] * bump * (1 + r.rand(count, 1, 1)) / coefficients}


def save_matlab5(path: Path, content: Content) -> None:
    """Write a compressed file of MATLAB 5 to 7.2."""
    from scipy.io import savemat

    savemat(path, content, do_compression=True)


def save_matlab73(path: Path, content: Content) -> None:
    """Write a file of MATLAB 7.3: HDF5 behind a header, and the last axis outermost."""
    import h5py

    with h5py.File(path, "w", userblock_size=512) as file:
        for name, fields in content.items():
            file.create_dataset(name, data=fields.transpose(2, 1, 0), compression="gzip", compression_opts=1)
    with path.open("r+b") as stream:
        stream.write(b"MATLAB 7.3 MAT-file".ljust(124) + b"\x00\x02IM")
