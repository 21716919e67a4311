"""Write the same samples in every format that `orca_ray.own_data` reads."""

import json
import struct
import wave
from collections.abc import Callable, Mapping
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import scipy.io
import torch

from orca_ray.data.rows import Array

Arrays = Mapping[str, Array]


def hdf5(path: Path, **arrays: Array) -> None:
    with h5py.File(path, "w") as file:
        for name, array in arrays.items():
            file[name] = array


def self_pointing(folder: Path, place: str, *, x: Array, y: Array) -> Path:
    """Write an HDF5 file with a tree of groups or chunks that contains itself.

    ``place`` is "child" or "sibling", of the tree of the file's group or, with "chunks
    ", of the data set ``x``. The format is described in "HDF5 File Format
    Specification", version 1 B-trees.
    """
    path = folder / "a.h5"
    with h5py.File(path, "w", libver=("earliest", "v108")) as file:
        file.create_dataset("x", data=x, chunks=(5, *x.shape[1:]))
        file["y"] = y
    content = bytearray(path.read_bytes())
    is_of_chunks = place.startswith("chunks ")
    kind = 1 if is_of_chunks else 0
    tree = content.index(b"TREE" + bytes([kind, 0]))
    address = struct.pack("<Q", tree)
    if place.endswith("child"):
        content[tree + 5] = 1  # the level: its children are nodes
        # A key is the offset of a name, or size, mask and offsets of a chunk, one for
        # each axis and one for the bytes of a value.
        start = tree + 24 + (8 + 8 * (x.ndim + 1) if is_of_chunks else 8)
    else:
        start = tree + 16
    content[start : start + 8] = address
    path.write_bytes(content)
    return path


def _npy(path: Path, arrays: Arrays) -> None:
    np.save(path, arrays["x"])
    targets = arrays.get("kind", arrays.get("y", np.zeros(3)))
    np.save(path.with_name("y.npy"), targets)


def _npz(path: Path, arrays: Arrays) -> None:
    np.savez(path, **arrays)  # type: ignore[arg-type]


def _h5(path: Path, arrays: Arrays) -> None:
    named = dict(arrays)
    if "x" in named:
        named["inputs"] = named.pop("x")
    hdf5(path, **named)


def _mat5(path: Path, arrays: Arrays) -> None:
    scipy.io.savemat(path, dict(arrays), do_compression=True)


def _mat73(path: Path, arrays: Arrays) -> None:
    hdf5(path, **{name: np.atleast_2d(array.T) for name, array in arrays.items()})


def _pt(path: Path, arrays: Arrays) -> None:
    tensors = {name: torch.tensor(array) for name, array in arrays.items()}
    torch.save(tensors, path)


ARRAYS: Mapping[str, Callable[[Path, Arrays], object]] = {
    "x.npy": _npy,
    "data.npz": _npz,
    "data.h5": _h5,
    "data.mat": _mat5,
    "v73.mat": _mat73,
    "data.pt": _pt,
}
"""Writers of arrays by the name of the file."""


def arrow_folder(
    folder: Path, table: pd.DataFrame, features: Mapping[str, object] | None = None
) -> Path:
    """Write the files of Hugging Face's ``Dataset.save_to_disk``."""
    import pyarrow as pa

    folder.mkdir(parents=True)
    content = pa.Table.from_pandas(table, preserve_index=False)
    name = "data-00000-of-00001.arrow"
    with pa.ipc.new_stream(str(folder / name), content.schema) as stream:
        stream.write_table(content)
    state = {"_data_files": [{"filename": name}]}
    info = {"features": features or {}}
    (folder / "state.json").write_text(json.dumps(state))
    (folder / "dataset_info.json").write_text(json.dumps(info))
    return folder


TABLES: Mapping[str, Callable[[Path, pd.DataFrame], object]] = {
    "data.csv": lambda path, table: table.to_csv(path, index=False),
    "data.tsv": lambda path, table: table.to_csv(path, index=False, sep="\t"),
    "semicolons.csv": lambda path, table: table.to_csv(
        path, index=False, sep=";", decimal=","
    ),
    "data.parquet": lambda path, table: table.to_parquet(path, index=False),
    "saved": arrow_folder,
}
"""Writers of tables by the name of the file."""


def tone(
    path: Path,
    hertz: float,
    *,
    rate: int = 8000,
    num_samples: int = 4000,
    channels: int = 1,
) -> None:
    """Write a sine as WAV of 16 bits."""
    path.parent.mkdir(parents=True, exist_ok=True)
    wave_N = 20_000 * np.sin(2 * np.pi * hertz * np.arange(num_samples) / rate)
    with wave.open(str(path), "wb") as file:
        file.setnchannels(channels)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(np.repeat(wave_N.astype("<i2"), channels).tobytes())


def image(path: Path, pixels: Array, mode: str | None = None) -> None:
    """Write an image, converted to a Pillow ``mode``."""
    from PIL import Image

    path.parent.mkdir(parents=True, exist_ok=True)
    picture = Image.fromarray(pixels)
    if mode is not None:
        picture = picture.convert(mode)
    picture.save(path)
