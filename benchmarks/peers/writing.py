"""Data sets as files: as a user would have them, and for the peers."""

import hashlib
import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image
from scipy.io import wavfile

from benchmarks.peers.parts import DataSet, Parts
from orca_ray.data.rows import Array


@dataclass(frozen=True)
class Written:
    """A data set in a folder, as a user would have it (``train``, ``test``) and for the
    peers.
    """

    data: DataSet
    folder: Path
    digest: str
    """Hash of all values; results of other values are not mixed with these."""

    @property
    def train(self) -> Path:
        """The file or folder that ``adapt`` gets."""
        return self.folder / self._name("train")

    @property
    def test(self) -> Path:
        """The file or folder that ``predict`` gets: inputs only."""
        return self.folder / self._name("test")

    @property
    def answers(self) -> Array:
        """Targets of the outer test; classes as text."""
        y: Array = np.load(self.folder / "answers.npy", allow_pickle=False)
        return y

    def _name(self, part: str) -> str:
        if self.data.in_folders:
            return part
        if self.data.kind == "table":
            return f"{part}.csv"
        return f"{part}.npz"


def write(data: DataSet, root: Path) -> Written:
    """Write the data set below ``root`` unless it is there, and return it.

    An interrupted call leaves nothing there.
    """
    folder = root / data.name
    if not folder.exists():
        scratch = root / f".{data.name}.{os.getpid()}"
        shutil.rmtree(scratch, ignore_errors=True)
        scratch.mkdir(parents=True)
        _write_files(data, scratch)
        try:
            scratch.rename(folder)
        except OSError:
            if not folder.exists():  # another process wrote it meanwhile
                raise
            shutil.rmtree(scratch)
    about = json.loads((folder / "about.json").read_text())
    return Written(data, folder, about["digest"])


def _write_files(data: DataSet, folder: Path) -> None:
    """Load a data set and write all of its files into a folder."""
    parts = data.load()
    train_y = _as_plain_array(parts.train_y)
    test_y = _as_plain_array(parts.test_y)
    np.save(folder / "answers.npy", test_y)
    if isinstance(parts.train_x, pd.DataFrame) and isinstance(
        parts.test_x, pd.DataFrame
    ):
        labelled = parts.train_x.assign(target=train_y)
        labelled.to_csv(folder / "train.csv", index=False)
        parts.test_x.to_csv(folder / "test.csv", index=False)
    else:
        arrays: dict[str, Any] = {"x": parts.train_x, "y": train_y}
        if parts.groups is not None:
            arrays["group"] = parts.groups
        if parts.times is not None:
            arrays["time"] = parts.times
        np.savez(folder / "train.npz", **arrays)
        np.savez(folder / "test.npz", x=parts.test_x)
        if data.rate:
            _write_recordings(parts, train_y, folder, data.rate)
        elif data.in_folders:
            _write_images(parts, train_y, folder)
    about: dict[str, Any] = {
        "kind": data.kind,
        "target": data.target,
        "digest": _digest(parts.train_x, train_y, parts.test_x, test_y),
        "train": list(parts.train_x.shape),
        "test": list(parts.test_x.shape),
        "classes": None,
    }
    if data.target == "classes":
        about["classes"] = len(set(train_y.tolist()))
    (folder / "about.json").write_text(json.dumps(about))


def _as_plain_array(targets: Array) -> Array:
    """Return targets without Python objects: NumPy saves those as pickles only."""
    return targets.astype(str) if targets.dtype.kind == "O" else targets


def _write_images(parts: Parts, labels: Array, folder: Path) -> None:
    images = np.asarray(parts.train_x)
    for number, (image, label) in enumerate(zip(images, labels, strict=True)):
        (folder / "train" / label).mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(folder / "train" / label / f"{number:05}.png")
    (folder / "test").mkdir()
    for number, image in enumerate(np.asarray(parts.test_x)):
        Image.fromarray(image).save(folder / "test" / f"{number:05}.png")


def _write_recordings(parts: Parts, labels: Array, folder: Path, rate: int) -> None:
    """Write series [N, 1, L], whose values are from -1 to 1, as WAV files."""
    recordings = np.rint(np.asarray(parts.train_x)[:, 0] * 32767).astype(np.int16)
    for number, (recording, label) in enumerate(zip(recordings, labels, strict=True)):
        (folder / "train" / label).mkdir(parents=True, exist_ok=True)
        wavfile.write(folder / "train" / label / f"{number:05}.wav", rate, recording)
    (folder / "test").mkdir()
    recordings = np.rint(np.asarray(parts.test_x)[:, 0] * 32767).astype(np.int16)
    for number, recording in enumerate(recordings):
        wavfile.write(folder / "test" / f"{number:05}.wav", rate, recording)


def _digest(*values: Array | pd.DataFrame) -> str:
    """Return twelve hexadecimal digits of the hash of arrays and data frames."""
    digest = hashlib.sha256()
    for value in values:
        if isinstance(value, pd.DataFrame):
            digest.update(value.to_csv(index=False).encode())
        else:
            digest.update(value.tobytes())
    return digest.hexdigest()[:12]
