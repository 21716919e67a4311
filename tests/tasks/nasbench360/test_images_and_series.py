"""Seven tasks of NAS-Bench-360: arrays are those of the files.

They are CIFAR-100, its sphere, Satellite, NinaPro, DeepSEA, ECG and Darcy flow.
"""

import io
import tarfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from orca_ray.data.prepared import SPLITS, PreparedData, under_protocol
from orca_ray.data.rows import Array
from orca_ray.errors import UserError
from orca_ray.tasks.augmentations import all_augmentations
from orca_ray.tasks.nasbench360 import darcy_flow, ecg
from orca_ray.tasks.registry import get_task
from orca_ray.tasks.task import Task
from tests.raw_files import nasbench360_series as files

CIFAR100 = get_task("nasbench360/cifar100")
DEEPSEA = get_task("nasbench360/deepsea")
ECG = get_task("nasbench360/ecg")


def prepare(
    task: Task,
    directory: Path,
    protocol: str = "held-out",
    *,
    write: Callable[[Path], object] | None = None,
) -> PreparedData:
    """Return the arrays that the task makes of raw files.

    ``write`` writes them; default: the task's own writer.
    """
    raw = directory / "raw"
    raw.mkdir(parents=True)
    if write is None:
        write = files.WRITERS[task.name]
    write(raw)
    return task.prepare(protocol, raw=raw, out=directory / protocol)


def training_rows(data: PreparedData) -> tuple[Array, Array]:
    """Return x and y of train and validation together: what the reference trains on."""
    joined = under_protocol(data, "paper").train
    return np.asarray(joined.x[:]), joined.y


def test_cifars_pixels_are_normalised_by_channel_and_its_augmentation_pads_with_black(
    tmp_path: Path,
) -> None:
    content = files.cifar100_content()
    content["test"]["data"][0] = np.repeat([0, 51, 255], 1024)
    content["test"]["data"][1] = 0
    test = prepare(
        CIFAR100, tmp_path, write=partial(files.save_cifar100, content=content)
    ).test
    expected = [-0.5071 / 0.2675, (0.2 - 0.4867) / 0.2565, (1 - 0.4408) / 0.2761]
    for extreme in (np.min, np.max):
        np.testing.assert_allclose(
            extreme(test.x[:1][0], axis=(1, 2)), expected, rtol=1e-6
        )
    assert test.y.tolist() == content["test"]["fine_labels"]
    padding = getattr(all_augmentations()[CIFAR100.augmentation], "padding")  # noqa: B009 - of that one class alone
    np.testing.assert_allclose(padding, test.x[:2][1][:, 0, 0], rtol=1e-6)


def test_a_link_in_the_archive_is_not_followed(tmp_path: Path) -> None:
    def write(raw: Path) -> None:
        with tarfile.open(raw / "cifar-100-python.tar.gz", "w:gz") as archive:
            member = tarfile.TarInfo("cifar-100-python/train")
            member.type = tarfile.SYMTYPE
            member.linkname = "train"
            archive.addfile(member, io.BytesIO())

    with pytest.raises(
        UserError, match="the archive has no file cifar-100-python/train"
    ):
        prepare(CIFAR100, tmp_path, write=write)


def _cifar(part: str) -> tuple[Array, Array]:
    content = files.cifar100_content()[part]
    mean = np.array([[[0.5071]], [[0.4867]], [[0.4408]]])
    std = np.array([[[0.2675]], [[0.2565]], [[0.2761]]])
    return (content["data"].reshape(-1, 3, 32, 32) / 255 - mean) / std, np.array(
        content["fine_labels"]
    )


def _spherical(part: str) -> tuple[Array, Array]:
    content = files.spherical_content()[part]
    return content["images"] / np.float32(255), content["labels"]


def _satellite(part: str) -> tuple[Array, Array]:
    content = files.satellite_content()[part]
    return content["data"][:, None].astype(np.float32), content["label"] - 1


@pytest.mark.parametrize(
    ("task", "content", "sizes", "of_a_class"),
    [
        (CIFAR100, _cifar, (200, 100, 100), 1),
        (get_task("nasbench360/spherical"), _spherical, (200, 100, 100), 1),
        (get_task("nasbench360/satellite"), _satellite, (96, 48, 48), 2),
    ],
)
def test_validation_is_carved_from_train_with_every_class(
    task: Task,
    content: Callable[[str], tuple[Array, Array]],
    sizes: tuple[int, ...],
    of_a_class: int,
    tmp_path: Path,
) -> None:
    data = prepare(task, tmp_path)
    assert (len(data.train), len(data.validation), len(data.test)) == sizes
    assert set(np.bincount(data.validation.y)) == {of_a_class}
    x, y = content("test")
    np.testing.assert_allclose(data.test.x[:], x, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(data.test.y, y)
    x, y = content("train")
    found, labels = training_rows(data)
    by_value, expected = (
        np.lexsort(rows.reshape(len(rows), -1)[:, ::7].round(3).T)
        for rows in (found, x)
    )
    np.testing.assert_allclose(found[by_value], x[expected], rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(labels[by_value], y[expected])


def test_electrodes_become_rows_and_bases_channels(tmp_path: Path) -> None:
    windows = prepare(get_task("nasbench360/ninapro"), tmp_path / "ninapro")
    sequences = prepare(DEEPSEA, tmp_path / "deepsea")
    content = files.deepsea_content()
    for split, name in zip(SPLITS, ("train", "val", "test"), strict=True):
        x, y = (
            np.load(tmp_path / f"ninapro/raw/ninaPro/{axis}_{name}.npy")
            for axis in ("ninapro", "label")
        )
        np.testing.assert_array_equal(
            windows.splits[split].x[:][:, 0], x.transpose(0, 2, 1).astype(np.float32)
        )
        np.testing.assert_array_equal(windows.splits[split].y, y)
        np.testing.assert_array_equal(
            sequences.splits[split].x[:], content[f"x_{name}"].transpose(0, 2, 1)
        )
        np.testing.assert_array_equal(sequences.splits[split].y, content[f"y_{name}"])


def test_other_types_of_numbers_give_the_same_arrays(tmp_path: Path) -> None:
    fingerprints = set()
    for dtype in (np.uint8, np.bool_, np.float64, np.int64):
        content = {
            key: array.astype(dtype) for key, array in files.deepsea_content().items()
        }
        write = partial(files.save_deepsea, content=content)
        fingerprints.add(
            prepare(DEEPSEA, tmp_path / np.dtype(dtype).name, write=write).fingerprint
        )
    assert len(fingerprints) == 1


LENGTHS = {"N": 2001, "A": 1084, "O": 1501, "~": 1051}
STARTS = {"N": [0, 500, 1000], "A": [0, 83], "O": [0, 250, 500], "~": [0, 25, 50]}


@pytest.mark.parametrize("protocol", ["held-out", "paper"])
def test_windows_begin_where_the_class_says_and_keep_the_order_of_records(
    protocol: str, tmp_path: Path
) -> None:
    from sklearn.model_selection import train_test_split

    letters = ["NAO~"[i % 4] for i in range(40)]
    ramps = [
        np.arange(LENGTHS[letter]) * (1 + i % 7) + i for i, letter in enumerate(letters)
    ]
    content = {"data": np.array(ramps, dtype=object), "label": letters}
    data = prepare(
        ECG, tmp_path, protocol, write=partial(files.save_ecg, content=content)
    )
    if protocol == "held-out":
        train, rest = train_test_split(range(40), test_size=0.2, random_state=0)
        validation, test = train_test_split(rest, test_size=0.5, random_state=0)
    else:
        rest, test = train_test_split(range(40), test_size=0.1, random_state=0)
        train, validation = train_test_split(rest, test_size=1 / 9, random_state=0)
    assert (len(train), len(validation), len(test)) == (32, 4, 4)
    for split, records in zip(SPLITS, (train, validation, test), strict=True):
        expected_x = []
        expected_y = []
        for record in records:
            letter = letters[record]
            length = LENGTHS[letter]
            # A ramp of n steps has mean (n - 1) / 2 and variance (n² - 1) / 12,
            # whatever its slope.
            ramp = (np.arange(length) - (length - 1) / 2) / np.sqrt(
                (length**2 - 1) / 12
            )
            expected_x += [ramp[start : start + 1000] for start in STARTS[letter]]
            expected_y += ["NAO~".index(letter)] * len(STARTS[letter])
        np.testing.assert_allclose(
            np.asarray(data.splits[split].x)[:, 0], expected_x, atol=1e-6
        )
        assert data.splits[split].y.tolist() == expected_y


@pytest.mark.parametrize(
    ("length", "label", "windows"),
    [
        (1000, 0, 0),
        (1001, 0, 1),
        (1500, 0, 1),
        (1501, 0, 2),
        (1083, 1, 1),
        (1084, 1, 2),
    ],
)
def test_a_window_that_ends_with_its_record_is_none(
    length: int, label: int, windows: int
) -> None:
    assert len(ecg._windows(np.arange(length), ecg.STRIDES[label])) == windows


def test_a_constant_record_becomes_zeros(tmp_path: Path) -> None:
    content = files.ecg_content()
    content["data"][:20] = [np.full(1300, 7, np.int16)] * 20
    x = np.asarray(
        prepare(ECG, tmp_path, write=partial(files.save_ecg, content=content)).train.x
    )
    assert np.isfinite(x).all()
    assert (x == 0).all(axis=(1, 2)).any()


def test_records_may_be_in_a_list(tmp_path: Path) -> None:
    content = files.ecg_content()
    listed = partial(files.save_ecg, content=content | {"data": list(content["data"])})
    expected = prepare(ECG, tmp_path / "array")
    assert (
        prepare(ECG, tmp_path / "list", write=listed).fingerprint
        == expected.fingerprint
    )
    assert all(set(expected.splits[split].y) == {0, 1, 2, 3} for split in SPLITS)


@pytest.mark.slow
@pytest.mark.parametrize(("protocol", "seen"), [("held-out", 11), ("paper", 12)])
def test_every_fifth_point_is_kept_and_statistics_are_of_what_trains(
    protocol: str, seen: int, tmp_path: Path
) -> None:
    data: Any = prepare(get_task("nasbench360/darcy_flow"), tmp_path, protocol)
    assert (len(data.train), len(data.validation), len(data.test)) == (11, 1, 3)
    content = files.darcy_content(12)
    test = files.darcy_content(3, 1)
    coefficients, solutions = (content[name][:, ::5, ::5] for name in ("coeff", "sol"))
    mean = coefficients[:seen].mean(axis=0)
    std = coefficients[:seen].std(axis=0, ddof=1) + 1e-5
    x, y = training_rows(data)
    np.testing.assert_allclose(
        x[:, 0], (coefficients - mean) / std, rtol=1e-5, atol=1e-5
    )
    # Coordinates run along columns in channel 1, and along rows in channel 2.
    ticks = np.broadcast_to(np.arange(85) / 84, (len(x), 85, 85))
    np.testing.assert_allclose(
        x[:, 1:], np.stack([ticks, ticks.swapaxes(1, 2)], axis=1), atol=1e-7
    )
    np.testing.assert_array_equal(y, solutions.astype(np.float32))
    np.testing.assert_allclose(
        data.test.x[:][:, 0],
        (test["coeff"][:, ::5, ::5] - mean) / std,
        rtol=1e-5,
        atol=1e-5,
    )
    np.testing.assert_array_equal(
        data.test.y, test["sol"][:, ::5, ::5].astype(np.float32)
    )
    np.testing.assert_allclose(data.y_mean, solutions[:seen].mean(axis=0), rtol=1e-6)
    np.testing.assert_allclose(
        data.y_std, solutions[:seen].std(axis=0, ddof=1) + 1e-5, rtol=1e-5
    )


@pytest.mark.slow
def test_files_of_matlab_5_and_7_3_give_the_same_arrays(tmp_path: Path) -> None:
    fingerprints = set()
    for name, save in (("5", files.save_matlab5), ("7.3", files.save_matlab73)):

        def write(
            raw: Path, save: Callable[[Path, files.Content], None] = save
        ) -> None:
            save(raw / darcy_flow.TRAIN_FILE, files.darcy_content(5))
            save(raw / darcy_flow.TEST_FILE, files.darcy_content(3, 1))

        fingerprints.add(
            prepare(
                get_task("nasbench360/darcy_flow"), tmp_path / name, write=write
            ).fingerprint
        )
    assert len(fingerprints) == 1
