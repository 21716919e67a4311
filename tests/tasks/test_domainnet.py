"""DomainNet: images against torchvision's own transforms."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from orca_ray.data import splits
from orca_ray.data.prepared import PreparedData
from orca_ray.tasks.domainnet import TASK

transforms = pytest.importorskip("torchvision.transforms")


def listed(raw: Path, name: str) -> list[tuple[Path, int]]:
    lines = (raw / f"sketch_{name}_mini.txt").read_text().split("\n")
    return [(raw / line.split()[0], int(line.split()[1])) for line in lines if line.strip()]


def parts(raw: Path) -> list[Any]:
    return splits.stratified_split(np.array([label for _, label in listed(raw, "train")]), (80, 40), 0)


def normalised(image: Any) -> Any:
    steps = [transforms.ToTensor(), transforms.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])]
    return transforms.Compose(steps)(image).numpy()


def test_test_images_are_resized_and_normalised(raw: Path, data: PreparedData) -> None:
    paths = listed(raw, "test")
    assert data.test.y.tolist() == [label for _, label in paths]
    for index in (0, 7, 39):
        image = Image.open(paths[index][0]).convert("RGB")
        expected = normalised(transforms.Resize((224, 224))(image))
        np.testing.assert_allclose(data.test.x[slice(index, index + 1)][0], expected, atol=1e-6)


def test_training_images_are_cut_and_mirrored_once(raw: Path, data: PreparedData) -> None:
    random = np.random.RandomState(0)
    corners, mirrored = random.randint(33, size=(80, 2)), random.random_sample(80) < 0.5
    assert 20 < mirrored.sum() < 60
    paths = [listed(raw, "train")[i][0] for i in parts(raw)[0]]
    for index in range(6):
        image = transforms.functional.resize(Image.open(paths[index]).convert("RGB"), (256, 256))
        image = transforms.functional.crop(image, *map(int, corners[index]), 224, 224)
        image = transforms.functional.hflip(image) if mirrored[index] else image
        np.testing.assert_allclose(data.train.x[slice(index, index + 1)][0], normalised(image), atol=1e-6)


def test_validation_is_a_share_of_train_treated_like_test(raw: Path, data: PreparedData, tmp_path: Path) -> None:
    chosen = [listed(raw, "train")[i] for i in parts(raw)[1]]
    assert data.validation.y.tolist() == [label for _, label in chosen]
    assert sorted(data.validation.y) == list(range(40))
    expected = normalised(transforms.Resize((224, 224))(Image.open(chosen[3][0]).convert("RGB")))
    np.testing.assert_allclose(data.validation.x[slice(3, 4)][0], expected, atol=1e-6)
    paper = TASK.prepare("paper", raw=raw, out=tmp_path / "1-paper")
    np.testing.assert_array_equal(paper.validation.y, data.validation.y)
    np.testing.assert_array_equal(paper.train.x[:4], data.train.x[:4])
    assert (np.asarray(paper.validation.x[:]) != np.asarray(data.validation.x[:])).any(axis=(1, 2, 3)).all()
