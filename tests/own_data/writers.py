"""Write the same samples in every format that `orca_ray.own_data` reads."""

import json
import wave
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd
import scipy.io
import torch

from orca_ray.data.rows import Array


def _npy(path: Path, x: Array, y: Array) -> None:
    np.save(path, x)
    np.save(path.with_name("y.npy"), y)


def hdf5(path: Path, **arrays: Array) -> None:
    with h5py.File(path, "w") as file:
        for name, array in arrays.items():
            file[name] = array


def write_zarr(path: Path, x: Array, y: Array, **options: Any) -> None:
    import zarr

    group = zarr.open_group(str(path), mode="w")
    for name, array in (("x", x), ("y", y)):
        group.create_array(name, data=array, chunks=(4, *array.shape[1:]), **options)


ARRAYS: Mapping[str, Callable[[Path, Array, Array], object]] = {
    "data.npz": lambda path, x, y: np.savez(path, x=x, y=y),
    "x.npy": _npy,
    "data.h5": lambda path, x, y: hdf5(path, inputs=x, labels=y),
    "data.mat": lambda path, x, y: scipy.io.savemat(path, {"X": x, "y": y}, do_compression=True),
    "v73.mat": lambda path, x, y: hdf5(path, X=x.T, y=y[None]),
    "data.pt": lambda path, x, y: torch.save({"x": torch.tensor(x), "y": torch.tensor(y)}, path),
    "data.zarr": write_zarr,
}
"""Writers of samples by the name of the file."""


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


TABLES: Mapping[str, Callable[[Path, pd.DataFrame], object]] = {
    "data.csv": lambda path, table: table.to_csv(path, index=False),
    "data.tsv": lambda path, table: table.to_csv(path, index=False, sep="\t"),
    "semicolons.csv": lambda path, table: table.to_csv(path, index=False, sep=";", decimal=","),
    "data.parquet": lambda path, table: table.to_parquet(path, index=False),
    "saved": arrow_folder,
}
"""Writers of tables by the name of the file."""


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
