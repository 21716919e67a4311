"""Write small data sets of five kinds to try ``orca-sweep adapt`` with: ``python examples/make_data.py my-data``.

- ``wine.csv``: a table of 178 wines with 13 measurements and the cultivar (UCI, in scikit-learn);
- ``basic_motions.npz``: 80 recordings of a watch's sensors, 6 channels, 100 steps, 4 activities (UEA, in aeon);
- ``digits/``: 600 images of handwritten digits in a folder for each digit (UCI, in scikit-learn);
- ``darcy.h5``: 300 permeabilities and the pressures that they cause, fields of 16 x 16 (in neuraloperator);
- ``tones/``: 120 synthetic recordings of three wave forms in a folder for each.

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

from orca_ray.data import packages, readers
from orca_ray.tasks.pocket import PACKAGES

RATE = 8000
CULTIVARS = np.array(["barolo", "grignolino", "barbera"])
ACTIVITIES = {"Standing": 0, "Running": 1, "Walking": 2, "Badminton": 3}


def wine(folder: Path) -> None:
    table = load_wine(as_frame=True).frame
    table["cultivar"] = CULTIVARS[table.pop("target")]
    table.to_csv(folder / "wine.csv", index=False)


def basic_motions(folder: Path) -> None:
    parts = [f"aeon/datasets/data/BasicMotions/BasicMotions_{split}.ts" for split in ("TRAIN", "TEST")]
    read = [readers.parse_ts(packages.read_member(PACKAGES["aeon"], member).decode(), member) for member in parts]
    x = np.stack([series for found, _ in read for series in found]).astype(np.float32)
    y = np.concatenate([labels for _, labels in read])
    np.savez(folder / "basic_motions.npz", x=x, y=np.array(y, dtype=str))


def digits(folder: Path) -> None:
    images, labels = load_digits(return_X_y=True)
    for number, (image, label) in enumerate(zip(images[:600], labels[:600], strict=True)):
        (folder / "digits" / str(label)).mkdir(parents=True, exist_ok=True)
        pixels = (image.reshape(8, 8) * 255 / 16).astype(np.uint8)
        Image.fromarray(pixels).save(folder / "digits" / str(label) / f"{number:04}.png")


def darcy(folder: Path) -> None:
    content = packages.read_member(PACKAGES["neuraloperator"], "neuralop/datasets/data/darcy_train_16.pt")
    tensors = torch.load(io.BytesIO(content), weights_only=True)
    with h5py.File(folder / "darcy.h5", "w") as file:
        file["permeability"] = tensors["x"][:300].numpy().astype(np.float32)
        file["pressure"] = tensors["y"][:300].numpy().astype(np.float32)


def tones(folder: Path) -> None:
    random = np.random.default_rng(0)
    time = np.arange(RATE) / RATE
    for number in range(120):
        form = ("sine", "square", "sawtooth")[number % 3]
        phase = random.uniform(200, 800) * time + random.uniform()
        wave = {
            "sine": np.sin(2 * np.pi * phase),
            "square": np.sign(np.sin(2 * np.pi * phase)),
            "sawtooth": 2 * (phase % 1) - 1,
        }
        noisy = 0.5 * wave[form] + random.normal(0, 0.1, RATE)
        (folder / "tones" / form).mkdir(parents=True, exist_ok=True)
        wavfile.write(
            folder / "tones" / form / f"{number:03}.wav", RATE, (np.clip(noisy, -1, 1) * 32767).astype(np.int16)
        )


def main(folder: Path) -> None:
    """Write all data sets to ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    for write in (wine, basic_motions, digits, darcy, tones):
        write(folder)


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "my-data"))
