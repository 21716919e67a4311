"""Cosmic: crops, ignored pixels, and where sky is added."""

import hashlib
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from orca_ray.data import splits
from orca_ray.data.prepared import PreparedData
from orca_ray.data.rows import Array
from orca_ray.errors import UserError
from orca_ray.tasks.nasbench360 import cosmic
from orca_ray.tasks.registry import get_task

TASK = get_task("nasbench360/cosmic")


@pytest.fixture(scope="module")
def paper(raw: Path, tmp_path_factory: pytest.TempPathFactory) -> PreparedData:
    return TASK.prepare(
        "paper", raw=raw, out=tmp_path_factory.mktemp("out") / "1-paper"
    )


def stamps(raw: Path, split: str) -> list[Path]:
    """Return the stamps of a split of ours, in its order."""
    listed = [
        raw / name
        for name in np.load(
            raw / f"cosmic/{'test' if split == 'test' else 'train'}_dirs.npy"
        )
    ]
    if split == "test":
        return listed
    train, validation = splits.split(12, (6, 6), 0)
    return [listed[i] for i in (train if split == "train" else validation)]


def sky(path: Path) -> float:
    return float(np.load(path.parent / "sky.npy")[int(path.name.split("_")[0]) - 1])


@pytest.mark.parametrize("split", ["train", "validation", "test"])
def test_targets_are_masks_with_ignored_pixels_marked(
    split: str, raw: Path, data: PreparedData
) -> None:
    y = data.splits[split].y  # type: ignore[index]
    paths = stamps(raw, split)
    assert y.shape == (6, 128, 128)
    for target, path in zip(y, paths, strict=True):
        stamp = np.load(path)[:, 64:192, 64:192]
        ignored = stamp[2] == 1 if len(stamp) == 3 else np.zeros((128, 128), bool)
        np.testing.assert_array_equal(target, np.where(ignored, -1, stamp[1]))
    assert set(np.unique(y)) == {-1, 0, 1}


def test_sky_is_added_to_training_images_only(raw: Path, data: PreparedData) -> None:
    factors = np.random.RandomState(0).uniform(-0.9, 3, 6)
    skies = [sky(path) for path in stamps(raw, "train")]
    for image, path, factor, level in zip(
        np.asarray(data.train.x), stamps(raw, "train"), factors, skies, strict=True
    ):
        np.testing.assert_allclose(
            image[0],
            np.load(path)[0, 64:192, 64:192] + factor * level,
            rtol=1e-6,
            atol=1e-4,
        )
    for split in ("validation", "test"):
        for image, path in zip(
            np.asarray(data.splits[split].x), stamps(raw, split), strict=True
        ):
            np.testing.assert_array_equal(image[0], np.load(path)[0, 64:192, 64:192])


def test_paper_adds_sky_everywhere_and_splits_alike(
    raw: Path, data: PreparedData, paper: PreparedData
) -> None:
    np.testing.assert_array_equal(paper.train.x[:], data.train.x[:])
    parts = (
        (paper.validation, data.validation, "validation"),
        (paper.test, data.test, "test"),
    )
    for number, (theirs, ours, split) in enumerate(parts, start=1):
        factors = np.random.RandomState(number).uniform(-0.9, 3, 6)
        added = [
            factor * sky(path)
            for factor, path in zip(factors, stamps(raw, split), strict=True)
        ]
        moved = theirs.x[:] - ours.x[:]
        np.testing.assert_allclose(
            moved.mean(axis=(1, 2, 3)), added, rtol=1e-4, atol=1e-4
        )
        np.testing.assert_array_equal(theirs.y, ours.y)


def test_a_sky_that_is_missing_is_an_error_where_it_is_needed(
    raw: Path, data: PreparedData, tmp_path: Path
) -> None:
    copied = Path(shutil.copytree(raw, tmp_path / "raw"))
    (copied / "cosmic/npy_test/f435w/12513/2/sky.npy").unlink()
    assert (
        TASK.prepare(raw=copied, out=tmp_path / "held-out").fingerprint
        == data.fingerprint
    )
    with pytest.raises(
        UserError,
        match=(
            r"nasbench360/cosmic: 1 of 3 folders of stamps have no sky\.npy.*12513/2; "
        ),
    ):
        TASK.prepare("paper", raw=copied, out=tmp_path / "paper")
    # The user chooses to add no sky.
    np.save(copied / "cosmic/npy_test/f435w/12513/2/sky.npy", np.zeros(2))
    chosen = TASK.prepare("paper", raw=copied, out=tmp_path / "paper")
    np.testing.assert_array_equal(chosen.test.x[:], data.test.x[:])


def linked(raw: Path, directory: Path, lists: Callable[[str], Array | None]) -> Path:
    """Return a directory with stamps, and with lists of train and test.

    ``lists`` returns the lists.
    """
    (directory / "cosmic").mkdir()
    for split in ("train", "test"):
        (directory / f"cosmic/npy_{split}").symlink_to(raw / f"cosmic/npy_{split}")
        names = lists(split)
        if names is not None:
            np.save(directory / f"cosmic/{split}_dirs.npy", names, allow_pickle=True)
    return directory


def test_without_lists_the_galaxy_fields_of_the_filter_are_read(
    raw: Path, data: PreparedData, tmp_path: Path
) -> None:
    found = TASK.prepare(
        raw=linked(raw, tmp_path, lambda _: None), out=tmp_path / "out" / "1"
    )
    listed = {
        target.tobytes()
        for split in (data.train, data.validation)
        for target in split.y
    }
    assert {
        target.tobytes()
        for split in (found.train, found.validation)
        for target in split.y
    } == listed
    assert len(listed) == 12
    assert {target.tobytes() for target in found.test.y} == {
        target.tobytes() for target in data.test.y
    }


def test_lists_may_come_from_another_machine(
    raw: Path, data: PreparedData, tmp_path: Path
) -> None:
    def moved(split: str) -> Array:
        names = np.load(raw / f"cosmic/{split}_dirs.npy")
        return np.array(
            [f"/mnt/shared{name.removeprefix('./cosmic')}" for name in names],
            dtype=object,
        )

    assert (
        TASK.prepare(
            raw=linked(raw, tmp_path, moved), out=tmp_path / "out" / "1"
        ).fingerprint
        == data.fingerprint
    )


def test_fields_with_galaxies_are_the_references() -> None:
    """Those that its script ``preprocess_cosmic.py`` calls GAL."""
    fields = sorted(
        f"{proposal}_{visit}"
        for proposal, visits in cosmic.GALAXY_VISITS.items()
        for visit in visits
    )
    assert len(fields) == 27
    assert (
        hashlib.sha256(" ".join(fields).encode())
        .hexdigest()
        .startswith("a8c489c0091af0f7")
    )
