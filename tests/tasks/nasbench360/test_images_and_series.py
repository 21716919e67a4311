"""CIFAR-100, on the plane and the sphere, Satellite, NinaPro and DeepSEA: arrays are those of the files."""

import io
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from orca_ray.data.prepared import SPLITS
from orca_ray.errors import UserError
from orca_ray.tasks.augmentations import all_augmentations
from orca_ray.tasks.nasbench360 import deepsea, ninapro, satellite
from orca_ray.tasks.nasbench360.cifar import CIFAR100, SPHERICAL
from orca_ray.tasks.task import Task
from tests.raw_files import nasbench360_series as files
from tests.tasks.nasbench360.raw_data import Array, prepare, training_rows


def test_cifars_pixels_are_normalised_by_channel_and_its_augmentation_pads_with_black(tmp_path: Path) -> None:
    (tmp_path / "raw").mkdir()
    content = files.cifar100_content()
    content["test"]["data"][0], content["test"]["data"][1] = np.repeat([0, 51, 255], 1024), 0
    files.save_cifar100(tmp_path / "raw", content)
    test = prepare(CIFAR100, tmp_path).test
    expected = [-0.5071 / 0.2675, (0.2 - 0.4867) / 0.2565, (1 - 0.4408) / 0.2761]
    for extreme in (np.min, np.max):
        np.testing.assert_allclose(extreme(test.x[:1][0], axis=(1, 2)), expected, rtol=1e-6)
    assert test.y.tolist() == content["test"]["fine_labels"]
    padding = getattr(all_augmentations()[CIFAR100.augmentation], "padding")  # noqa: B009 - of that one class alone
    np.testing.assert_allclose(padding, test.x[:2][1][:, 0, 0], rtol=1e-6)


def test_a_link_in_the_archive_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "raw").mkdir()
    with tarfile.open(tmp_path / "raw" / "cifar-100-python.tar.gz", "w:gz") as archive:
        member = tarfile.TarInfo("cifar-100-python/train")
        member.type, member.linkname = tarfile.SYMTYPE, "train"
        archive.addfile(member, io.BytesIO())
    with pytest.raises(UserError, match="the archive has no file cifar-100-python/train"):
        prepare(CIFAR100, tmp_path)


def _cifar(part: str) -> tuple[Array, Array]:
    content = files.cifar100_content()[part]
    mean, std = np.array([[[0.5071]], [[0.4867]], [[0.4408]]]), np.array([[[0.2675]], [[0.2565]], [[0.2761]]])
    return (content["data"].reshape(-1, 3, 32, 32) / 255 - mean) / std, np.array(content["fine_labels"])


def _spherical(part: str) -> tuple[Array, Array]:
    content = files.spherical_content()[part]
    return content["images"] / np.float32(255), content["labels"]


def _satellite(part: str) -> tuple[Array, Array]:
    content = files.satellite_content(part)
    return content["data"][:, None].astype(np.float32), content["label"] - 1


@pytest.mark.parametrize(
    ("task", "content", "sizes", "of_a_class"),
    [
        (CIFAR100, _cifar, (200, 100, 100), 1),
        (SPHERICAL, _spherical, (200, 100, 100), 1),
        (satellite.TASK, _satellite, (96, 48, 48), 2),
    ],
)
def test_validation_is_carved_from_train_with_every_class(
    task: Task, content: Callable[[str], tuple[Array, Array]], sizes: tuple[int, ...], of_a_class: int, tmp_path: Path
) -> None:
    data = prepare(task, tmp_path)
    assert (len(data.train), len(data.validation), len(data.test)) == sizes
    assert set(np.bincount(data.validation.y)) == {of_a_class}
    x, y = content("test")
    np.testing.assert_allclose(data.test.x[:], x, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(data.test.y, y)
    x, y = content("train")
    found, labels = training_rows(data)
    by_value, expected = (np.lexsort(rows.reshape(len(rows), -1)[:, ::7].round(3).T) for rows in (found, x))
    np.testing.assert_allclose(found[by_value], x[expected], rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(labels[by_value], y[expected])


def test_electrodes_become_rows_and_bases_channels(tmp_path: Path) -> None:
    windows = prepare(ninapro.TASK, tmp_path / "ninapro")
    sequences, content = prepare(deepsea.TASK, tmp_path / "deepsea"), files.deepsea_content()
    for split, name in zip(SPLITS, ("train", "val", "test"), strict=True):
        x, y = (np.load(tmp_path / f"ninapro/raw/ninaPro/{axis}_{name}.npy") for axis in ("ninapro", "label"))
        np.testing.assert_array_equal(windows.splits[split].x[:][:, 0], x.transpose(0, 2, 1).astype(np.float32))
        np.testing.assert_array_equal(windows.splits[split].y, y)
        np.testing.assert_array_equal(sequences.splits[split].x[:], content[f"x_{name}"].transpose(0, 2, 1))
        np.testing.assert_array_equal(sequences.splits[split].y, content[f"y_{name}"])


def test_other_types_of_numbers_give_the_same_arrays(tmp_path: Path) -> None:
    fingerprints = set()
    for dtype in (np.uint8, np.bool_, np.float64, np.int64):
        directory = tmp_path / np.dtype(dtype).name
        (directory / "raw").mkdir(parents=True)
        files.save_deepsea(
            directory / "raw", {key: array.astype(dtype) for key, array in files.deepsea_content().items()}
        )
        fingerprints.add(prepare(deepsea.TASK, directory).fingerprint)
    assert len(fingerprints) == 1
