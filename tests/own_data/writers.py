"""Write the same samples in every format that `orca_ray.own_data` reads."""

import json
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


def _npy(path: Path, arrays: Arrays) -> None:
    np.save(path, arrays["x"])
    targets = [array for name, array in arrays.items() if name in ("kind", "y")]
    np.save(path.with_name("y.npy"), targets[0] if targets else np.zeros(3))


ARRAYS: Mapping[str, Callable[[Path, Arrays], object]] = {
    "x.npy": _npy,
    "data.npz": lambda path, arrays: np.savez(path, **arrays),  # type: ignore[arg-type]
    "data.h5": lambda path, arrays: hdf5(
        path, **{{"x": "inputs"}.get(k, k): v for k, v in arrays.items()}
    ),
    "data.mat": lambda path, arrays: scipy.io.savemat(
        path, dict(arrays), do_compression=True
    ),
    "v73.mat": lambda path, arrays: hdf5(
        path, **{k: np.atleast_2d(v.T) for k, v in arrays.items()}
    ),
    "data.pt": lambda path, arrays: torch.save(
        {k: torch.tensor(v) for k, v in arrays.items()}, path
    ),
}
"""Writers of arrays by the name of the file."""


def arrow_folder(
    folder: Path, table: pd.DataFrame, features: Mapping[str, object] | None = None
) -> Path:
    """Write the files of Hugging Face's ``Dataset.save_to_disk``."""
    import pyarrow as pa

    folder.mkdir(parents=True)
    content = pa.Table.from_pandas(table, preserve_index=False)
    with pa.ipc.new_stream(
        str(folder / "data-00000-of-00001.arrow"), content.schema
    ) as stream:
        stream.write_table(content)
    (folder / "state.json").write_text(
        json.dumps({"_data_files": [{"filename": "data-00000-of-00001.arrow"}]})
    )
    (folder / "dataset_info.json").write_text(json.dumps({"features": features or {}}))
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
    made = Image.fromarray(pixels)
    (made if mode is None else made.convert(mode)).save(path)
