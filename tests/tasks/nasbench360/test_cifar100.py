"""CIFAR-100: read out of its archive as Python 2 wrote it, normalised per channel."""

import io
import tarfile
from pathlib import Path

import numpy as np
import pytest

from orca_ray.errors import UserError
from orca_ray.tasks.augmentations import all_augmentations
from orca_ray.tasks.nasbench360.cifar import CIFAR100 as TASK
from tests.tasks.nasbench360.twin_data import ordered, prepare, training_rows
from tests.twins.nasbench360_series_files import cifar100_content, save_cifar100


def test_pixels_are_normalised_by_channel_and_labels_are_the_fine_ones(tmp_path: Path) -> None:
    raw = tmp_path / "raw"
    raw.mkdir()
    content = cifar100_content()
    content["test"]["data"][0] = np.repeat([0, 51, 255], 1024)
    save_cifar100(raw, content)
    data = prepare(TASK, tmp_path)
    expected = [-0.5071 / 0.2675, (0.2 - 0.4867) / 0.2565, (1 - 0.4408) / 0.2761]
    np.testing.assert_allclose(data.test.x[:1][0].min(axis=(1, 2)), expected, rtol=1e-6)
    np.testing.assert_allclose(data.test.x[:1][0].max(axis=(1, 2)), expected, rtol=1e-6)
    assert data.test.y.tolist() == content["test"]["fine_labels"]


def test_validation_is_carved_from_train_with_every_class(tmp_path: Path) -> None:
    data = prepare(TASK, tmp_path)
    content = cifar100_content()["train"]
    assert (len(data.train), len(data.validation), len(data.test)) == (200, 100, 100)
    assert sorted(data.validation.y) == list(range(100))
    x, y = training_rows(data)
    given = content["data"].reshape(-1, 3, 32, 32)[:, 0].astype(np.float32)
    red, labels = ordered(np.abs(np.round((x[:, 0] * np.float32(0.2675) + np.float32(0.5071)) * 255)), y)
    expected = ordered(given, np.array(content["fine_labels"]))
    np.testing.assert_array_equal(red, expected[0])
    np.testing.assert_array_equal(labels, expected[1])


def test_what_its_augmentation_pads_with_is_a_black_pixel(tmp_path: Path) -> None:
    raw = tmp_path / "raw"
    raw.mkdir()
    content = cifar100_content()
    content["test"]["data"][:] = 0
    save_cifar100(raw, content)
    black = np.asarray(prepare(TASK, tmp_path).test.x[:1])[0, :, 0, 0]
    padding = getattr(all_augmentations()[TASK.augmentation], "padding")  # noqa: B009 - of that one class alone
    np.testing.assert_allclose(padding, black, rtol=1e-6)


def test_a_link_in_the_archive_is_not_followed(tmp_path: Path) -> None:
    raw = tmp_path / "raw"
    raw.mkdir()
    with tarfile.open(raw / "cifar-100-python.tar.gz", "w:gz") as archive:
        member = tarfile.TarInfo("cifar-100-python/train")
        member.type, member.linkname = tarfile.SYMTYPE, "train"
        archive.addfile(member, io.BytesIO())
    with pytest.raises(UserError, match="the archive has no file cifar-100-python/train"):
        prepare(TASK, tmp_path)
