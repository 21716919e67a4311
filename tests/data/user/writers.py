"""Write the same samples in every format that `orca_ray.data.user` reads."""

import json
import wave
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd

from orca_ray.data.rows import Array


def npz(path: Path, x: Array, y: Array) -> Path:
    np.savez(path / "data.npz", x=x, y=y)
    return path / "data.npz"


def npy(path: Path, x: Array, y: Array) -> Path:
    np.save(path / "x.npy", x)
    np.save(path / "y.npy", y)
    return path / "x.npy"


def hdf5(path: Path, x: Array, y: Array) -> Path:
    import h5py

    with h5py.File(path / "data.h5", "w") as file:
        file["inputs"], file["labels"] = x, y
    return path / "data.h5"


def mat5(path: Path, x: Array, y: Array) -> Path:
    import scipy.io

    scipy.io.savemat(path / "data.mat", {"X": x, "y": y}, do_compression=True)
    return path / "data.mat"


def mat73(path: Path, x: Array, y: Array) -> Path:
    import h5py

    with h5py.File(path / "v73.mat", "w") as file:
        file["X"], file["y"] = x.T, y[None]
    return path / "v73.mat"


def pt(path: Path, x: Array, y: Array) -> Path:
    import torch

    torch.save({"x": torch.tensor(x), "y": torch.tensor(y)}, path / "data.pt")
    return path / "data.pt"


def zarr(path: Path, x: Array, y: Array) -> Path:
    import zarr as library

    group = library.open_group(str(path / "data.zarr"), mode="w")
    for name, array in (("x", x), ("y", y)):
        group.create_array(name, shape=array.shape, dtype=array.dtype, chunks=(4, *array.shape[1:]))[:] = array
    return path / "data.zarr"


ARRAYS: Mapping[str, Callable[[Path, Array, Array], Path]] = {
    writer.__name__: writer for writer in (npz, npy, hdf5, mat5, mat73, pt, zarr)
}


def saved_dataset(path: Path, table: pd.DataFrame) -> Path:
    return arrow_folder(path / "saved", table)


def parquet(path: Path, table: pd.DataFrame) -> Path:
    table.to_parquet(path / "data.parquet", index=False)
    return path / "data.parquet"


def text(path: Path, table: pd.DataFrame, name: str = "data.csv", sep: str = ",", decimal: str = ".") -> Path:
    table.to_csv(path / name, index=False, sep=sep, decimal=decimal)
    return path / name


def arrow_folder(folder: Path, table: pd.DataFrame, features: Mapping[str, object] | None = None) -> Path:
    """Write the files of Hugging Face's ``Dataset.save_to_disk``."""
    import pyarrow as pa

    folder.mkdir(parents=True)
    content = pa.Table.from_pandas(table, preserve_index=False)
    with pa.ipc.new_stream(str(folder / "data-00000-of-00001.arrow"), content.schema) as stream:
        stream.write_table(content)
    (folder / "state.json").write_text(json.dumps({"_data_files": [{"filename": "data-00000-of-00001.arrow"}]}))
    (folder / "dataset_info.json").write_text(json.dumps({"features": features or {}}))
    return folder


TABLES: Mapping[str, Callable[[Path, pd.DataFrame], Path]] = {
    "csv": text,
    "tsv": partial(text, name="data.tsv", sep="\t"),
    "semicolons": partial(text, sep=";", decimal=","),
    "parquet": parquet,
    "saved_dataset": saved_dataset,
}


def tone(path: Path, hertz: float, *, rate: int = 8000, num_samples: int = 4000, channels: int = 1) -> None:
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
    made = Image.fromarray(pixels)
    (made if mode is None else made.convert(mode)).save(path)
