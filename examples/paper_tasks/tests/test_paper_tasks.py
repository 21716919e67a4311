"""The tasks against the conformance suites, and their arrays against the raw files."""

from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import pytest
from orca_ray_paper_tasks.domainnet import TASK
from PIL import Image
from raw_files import CORRUPTIONS, WRITERS, write_drug, write_sketch

from orca_ray.data import splits
from orca_ray.data.prepared import PreparedData
from orca_ray.sweep.plan.spec import published_settings
from orca_ray.tasks import arrays
from orca_ray.tasks.registry import get_task
from orca_ray.testing import RawFilesSuite, TaskSuite


class TestTasks(TaskSuite):
    names = tuple(WRITERS)

    def test_its_first_trial_is_the_published_configuration(self, name: str) -> None:
        assert published_settings(name)["align.distance"] == "otdd_reference"


class TestRawFiles(RawFilesSuite):
    writers = MappingProxyType(WRITERS)
    corruptions = MappingProxyType(CORRUPTIONS)
    published = True


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the raw files of DomainNet; tests must not change them."""
    directory = tmp_path_factory.mktemp("raw")
    write_sketch(directory)
    return directory


@pytest.fixture(scope="module")
def data(raw: Path, tmp_path_factory: pytest.TempPathFactory) -> PreparedData:
    return TASK.prepare(raw=raw, out=tmp_path_factory.mktemp("out") / "1")


def listed(raw: Path, name: str) -> list[tuple[Path, int]]:
    lines = (raw / f"sketch_{name}_mini.txt").read_text().split("\n")
    return [
        (raw / line.split()[0], int(line.split()[1])) for line in lines if line.strip()
    ]


def parts(raw: Path) -> list[Any]:
    return splits.stratified_split(
        np.array([label for _, label in listed(raw, "train")]), (80, 40), 0
    )


def resized(path: Path, side: int) -> Image.Image:
    return (
        Image.open(path).convert("RGB").resize((side, side), Image.Resampling.BILINEAR)
    )


def normalised(image: Image.Image) -> Any:
    scaled = np.asarray(image, np.float64) / 255
    return ((scaled - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]).transpose(2, 0, 1)


def test_test_images_are_resized_and_normalised(raw: Path, data: PreparedData) -> None:
    paths = listed(raw, "test")
    assert data.test.y.tolist() == [label for _, label in paths]
    for index in (0, 7, 39):
        expected = normalised(resized(paths[index][0], 224))
        np.testing.assert_allclose(
            data.test.x[slice(index, index + 1)][0], expected, atol=1e-6
        )


def test_training_images_are_cut_and_mirrored_once(
    raw: Path, data: PreparedData
) -> None:
    random = np.random.RandomState(0)
    corners = random.randint(33, size=(80, 2))
    mirrored = random.random_sample(80) < 0.5
    assert 20 < mirrored.sum() < 60
    paths = [listed(raw, "train")[i][0] for i in parts(raw)[0]]
    for index in range(6):
        top, left = map(int, corners[index])
        image = resized(paths[index], 256).crop((left, top, left + 224, top + 224))
        image = (
            image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
            if mirrored[index]
            else image
        )
        np.testing.assert_allclose(
            data.train.x[slice(index, index + 1)][0], normalised(image), atol=1e-6
        )


def test_validation_is_a_share_of_train_treated_like_test(
    raw: Path, data: PreparedData, tmp_path: Path
) -> None:
    chosen = [listed(raw, "train")[i] for i in parts(raw)[1]]
    assert data.validation.y.tolist() == [label for _, label in chosen]
    assert sorted(data.validation.y) == list(range(40))
    expected = normalised(resized(chosen[3][0], 224))
    np.testing.assert_allclose(data.validation.x[slice(3, 4)][0], expected, atol=1e-6)
    paper = TASK.prepare("paper", raw=raw, out=tmp_path / "1-paper")
    np.testing.assert_array_equal(paper.validation.y, data.validation.y)
    np.testing.assert_array_equal(paper.train.x[:4], data.train.x[:4])
    assert (
        (np.asarray(paper.validation.x[:]) != np.asarray(data.validation.x[:]))
        .any(axis=(1, 2, 3))
        .all()
    )


@pytest.mark.parametrize("name", ["ctrp", "gdsc"])
def test_rows_are_those_of_the_files(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(arrays, "_BATCH_BYTES", 7 * 4 * 3840)
    write_drug(tmp_path, name=name)
    data = get_task(f"drug/{name}").prepare(raw=tmp_path, out=tmp_path / "out" / "1")
    assert (len(data.train), len(data.validation), len(data.test)) == (27, 3, 8)
    assert data.y_mean is None
    features, labels = (
        np.load(tmp_path / f"drug_sep/{name}_train_{field}.npy")
        for field in ("feat", "label")
    )
    together = np.concatenate([data.train.x[:], data.validation.x[:]])
    order = [
        int(np.flatnonzero((features == row).all(axis=(1, 2)))[0]) for row in together
    ]
    assert sorted(order) == list(range(30))
    np.testing.assert_array_equal(
        np.concatenate([data.train.y, data.validation.y]), labels.reshape(-1)[order]
    )
    np.testing.assert_array_equal(
        data.test.x[:], np.load(tmp_path / f"drug_sep/{name}_test_feat.npy")
    )
    np.testing.assert_array_equal(
        data.test.y, np.load(tmp_path / f"drug_sep/{name}_test_label.npy").reshape(-1)
    )


def test_screens_are_read_from_their_own_files_of_any_width_of_numbers(
    tmp_path: Path,
) -> None:
    files = {
        name: {file.path for file in get_task(f"drug/{name}").files}
        for name in ("ctrp", "gdsc")
    }
    assert len(files["ctrp"]) == 4
    assert not files["ctrp"] & files["gdsc"]
    write_drug(tmp_path, name="ctrp")
    path = tmp_path / "drug_sep/ctrp_train_feat.npy"
    np.save(path, np.load(path).astype(np.uint8))
    assert (
        get_task("drug/ctrp")
        .prepare(raw=tmp_path, out=tmp_path / "out" / "1")
        .train.x.dtype
        == np.float32
    )
