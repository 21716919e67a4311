"""Write small data sets of five kinds: ``python examples/make_data.py my-data``.

``orca-sweep adapt`` can be tried with them.

- ``wine.csv``: a table of 142 wines with 13 measurements and the cultivar (UCI, in
  scikit-learn);
- ``basic_motions.npz``: 64 recordings of a watch's sensors, 6 channels, 100 steps, 4
  activities (UEA, in aeon);
- ``digits/``: 600 images of handwritten digits in a folder for each digit (UCI, in
  scikit-learn);
- ``darcy.h5``: 300 permeabilities and the pressures that they cause, fields of 16 x 16
  (in neuraloperator);
- ``tones/``: 120 synthetic recordings of three wave forms in a folder for each.

The folder ``new`` has further samples of each kind, without their targets: 36 wines
with the number of their bottle, 16 recordings of the watch, 50 images, 30
permeabilities and 12 recordings.

The data of packages are downloaded once, as for the benchmark ``pocket``.
"""

import io
import sys
from pathlib import Path

import h5py
import numpy as np
import torch
from PIL import Image
from scipy.io import wavfile
from sklearn.datasets import load_digits, load_wine

from orca_ray.data import packages
from orca_ray.tasks.pocket import PACKAGES, read_series

RATE = 8000
"""Sampling rate of the tones in Hz."""
CULTIVARS = np.array(["barolo", "grignolino", "barbera"])
"""Names of scikit-learn's classes of wine."""


def wine(folder: Path) -> None:
    table = load_wine(as_frame=True).frame
    table["cultivar"] = CULTIVARS[table.pop("target")]
    is_new = table.index % 5 == 0
    table[~is_new].to_csv(folder / "wine.csv", index=False)
    new = table[is_new].drop(columns="cultivar")
    new["bottle"] = [f"W{row:03}" for row in new.index]
    new.to_csv(folder / "new" / "wine.csv", index=False)


def basic_motions(folder: Path) -> None:
    x_train, y_train = read_series("BasicMotions", "TRAIN", length=100)
    x_test, y_test = read_series("BasicMotions", "TEST", length=100)
    x = np.concatenate([x_train, x_test]).astype(np.float32)
    y = np.concatenate([y_train, y_test]).astype(str)
    is_new = np.arange(len(x)) % 5 == 0
    np.savez(folder / "basic_motions.npz", x=x[~is_new], y=y[~is_new])
    np.savez(folder / "new" / "basic_motions.npz", x=x[is_new])


def digits(folder: Path) -> None:
    images, labels = load_digits(return_X_y=True)
    for number in range(650):
        place = folder / "new" / "digits"
        if number < 600:
            place = folder / "digits" / str(labels[number])
        place.mkdir(parents=True, exist_ok=True)
        pixels = (images[number].reshape(8, 8) * 255 / 16).astype(np.uint8)
        Image.fromarray(pixels).save(place / f"{number:04}.png")


def darcy(folder: Path) -> None:
    content = packages.read_member(
        PACKAGES["neuraloperator"], "neuralop/datasets/data/darcy_train_16.pt"
    )
    tensors = torch.load(io.BytesIO(content), weights_only=True)
    with h5py.File(folder / "darcy.h5", "w") as file:
        file["permeability"] = tensors["x"][:300].numpy().astype(np.float32)
        file["pressure"] = tensors["y"][:300].numpy().astype(np.float32)
    with h5py.File(folder / "new" / "darcy.h5", "w") as file:
        file["permeability"] = tensors["x"][300:330].numpy().astype(np.float32)


def tones(folder: Path) -> None:
    random = np.random.default_rng(0)
    time = np.arange(RATE) / RATE
    for number in range(132):
        phase = random.uniform(200, 800) * time + random.uniform()
        waves = {
            "sine": np.sin(2 * np.pi * phase),
            "square": np.sign(np.sin(2 * np.pi * phase)),
            "sawtooth": 2 * (phase % 1) - 1,
        }
        form = ("sine", "square", "sawtooth")[number % 3]
        noisy = 0.5 * waves[form] + random.normal(0, 0.1, RATE)
        samples = (np.clip(noisy, -1, 1) * 32767).astype(np.int16)
        place = folder / "tones" / form if number < 120 else folder / "new" / "tones"
        place.mkdir(parents=True, exist_ok=True)
        wavfile.write(place / f"{number:03}.wav", RATE, samples)


def main(folder: Path) -> None:
    """Write all data sets to ``folder``."""
    (folder / "new").mkdir(parents=True, exist_ok=True)
    for write in (wine, basic_motions, digits, darcy, tones):
        write(folder)


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "my-data"))
