"""DomainNet's sketches: prepared images and labels against the raw files."""

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from orca_ray.data import splits
from orca_ray.data.prepared import PreparedData
from orca_ray.tasks.domainnet import TASK


def read_list(raw: Path, name: str) -> list[tuple[Path, int]]:
    """Return the path and the class of every image in a list."""
    lines = (raw / f"sketch_{name}_mini.txt").read_text().split("\n")
    entries = [line.split() for line in lines if line.strip()]
    return [(raw / path, int(label)) for path, label in entries]


def train_and_validation(raw: Path) -> list[Any]:
    """Return the indices of the training and of the validation images."""
    labels = np.array([label for _, label in read_list(raw, "train")])
    return splits.stratified_split(labels, (80, 40), 0)


def resize(path: Path, side: int) -> Image.Image:
    image = Image.open(path).convert("RGB")
    return image.resize((side, side), Image.Resampling.BILINEAR)


def normalise(image: Image.Image) -> Any:
    scaled = np.asarray(image, np.float64) / 255
    return ((scaled - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]).transpose(2, 0, 1)


def test_test_images_are_resized_and_normalised(raw: Path, data: PreparedData) -> None:
    entries = read_list(raw, "test")
    assert data.test.y.tolist() == [label for _, label in entries]
    for index in (0, 7, 39):
        path, _ = entries[index]
        (x,) = data.test.x[slice(index, index + 1)]
        np.testing.assert_allclose(x, normalise(resize(path, 224)), atol=1e-6)


def test_training_images_are_cut_and_mirrored_once(
    raw: Path, data: PreparedData
) -> None:
    random = np.random.RandomState(0)
    corners = random.randint(33, size=(80, 2))
    is_mirrored = random.random_sample(80) < 0.5
    assert 20 < is_mirrored.sum() < 60
    train, _ = train_and_validation(raw)
    entries = read_list(raw, "train")
    for index in range(6):
        path, _ = entries[train[index]]
        top, left = map(int, corners[index])
        image = resize(path, 256).crop((left, top, left + 224, top + 224))
        if is_mirrored[index]:
            image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        (x,) = data.train.x[slice(index, index + 1)]
        np.testing.assert_allclose(x, normalise(image), atol=1e-6)


def test_validation_is_a_share_of_train_treated_like_test(
    raw: Path, data: PreparedData, tmp_path: Path
) -> None:
    _, validation = train_and_validation(raw)
    entries = [read_list(raw, "train")[index] for index in validation]
    assert data.validation.y.tolist() == [label for _, label in entries]
    assert sorted(data.validation.y) == list(range(40))
    path, _ = entries[-1]
    *_, x = data.validation.x[:]
    np.testing.assert_allclose(x, normalise(resize(path, 224)), atol=1e-6)
    paper = TASK.prepare("paper", raw=raw, out=tmp_path / "1-paper")
    np.testing.assert_array_equal(paper.validation.y, data.validation.y)
    np.testing.assert_array_equal(paper.train.x[:4], data.train.x[:4])
    differs = np.asarray(paper.validation.x[:]) != np.asarray(data.validation.x[:])
    assert differs.any(axis=(1, 2, 3)).all()
