"""The tasks of PDEBench on small files, compared with independent reading.

That reading equals the reference's own loader.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from orca_ray.data import prepared
from orca_ray.data.prepared import HELD_OUT, PAPER
from orca_ray.data.raw import Workspace
from orca_ray.data.rows import Array
from orca_ray.errors import UserError
from orca_ray.tasks.pdebench import _reading
from orca_ray.tasks.pdebench.problems import READINGS
from orca_ray.tasks.registry import get_benchmark, get_task
from tests.raw_files import pdebench as files

TASKS = tuple(files.LAYOUTS)
SPLITS = prepared.SPLITS


@dataclass(frozen=True)
class Expected:
    """What a task makes of its file."""

    shape: tuple[int, ...]
    """Shape of an input and of a target."""
    frame: int
    """Frame of the file that is the target of train and validation."""
    paper_test_frame: int
    """Frame that is the target of test under the protocol ``paper``."""


EXPECTED = {
    "advection": Expected((1, 256), 20, 20),
    "burgers": Expected((1, 1024), 20, 20),
    "cfd_1d": Expected((1, 3072), 10, 10),
    "diffusion_sorption": Expected((1, 1024), 100, 99),
    "diffusion_reaction_1d": Expected((1, 1024), 29, 99),
    "shallow_water": Expected((1, 128, 128), 100, 99),
    "diffusion_reaction_2d": Expected((1, 128, 128), 100, 99),
    "darcy": Expected((1, 64, 64), 1, 1),
    "cfd_2d": Expected((4, 64, 64), 2, 2),
}


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a directory with the files of all tasks; tests must not change it."""
    directory = tmp_path_factory.mktemp("raw")
    for task in TASKS:
        files.write(directory, task=task)
    return directory


def _read_by_hand(task: str, raw: Path) -> tuple[Array, dict[int, Array]]:
    """Return a file's inputs [N, C, *space], and targets by frame, not scaled."""
    layout = files.LAYOUTS[task]
    stride = {"advection": 4, "darcy": 2, "cfd_2d": 2}.get(task, 1)
    thin: tuple[Any, ...] = (..., *[slice(None, None, stride)] * len(layout.grid))
    frames = (EXPECTED[task].frame, EXPECTED[task].paper_test_frame)
    with h5py.File(raw / layout.file) as file:
        if isinstance(layout, files.Steady):
            inputs = file["nu"][...][:, None][thin]
            return inputs, dict.fromkeys(frames, file["tensor"][...][thin])
        if isinstance(layout, files.Seeds):
            samples = np.stack([file[name]["data"][...] for name in sorted(file)])
            values = np.moveaxis(samples, -1, 2)  # [N, T, C, *grid]
            targets = {frame: values[:, frame, -1:] for frame in frames}
            return values[:, 0, :1], targets
        values = np.stack([file[name][...] for name in layout.fields], axis=2)[thin]
        return values[:, 0], {frame: values[:, frame] for frame in frames}


def test_a_generated_task_is_the_downloaded_one_without_its_source() -> None:
    downloads = {task.short_name for task in get_benchmark("pdebench")}
    assert downloads == {*TASKS, *files.ORIGINALS}
    generations = {task.short_name for task in get_benchmark("pdebench_generated")}
    assert generations == set(TASKS)
    for name in TASKS:
        downloaded = get_task(f"pdebench/{name}")
        generated = get_task(f"pdebench_generated/{name}")
        assert generated == replace(
            downloaded,
            name=generated.name,
            title=f"{downloaded.title} (generated)",
            num_samples=None,
            terms="",
            licence=generated.licence,
            files=generated.files,
            fetcher=generated.fetcher,
            build=generated.build,
        )
        assert downloaded.num_samples is not None
        (published_file,) = downloaded.files
        (generated_file,) = generated.files
        assert generated_file.path == published_file.path == files.LAYOUTS[name].file
        assert generated_file.urls == ()
        url, *_ = published_file.urls
        assert url.startswith("https://")
        assert len(bytes.fromhex(published_file.md5)) == 16


def test_an_original_upload_is_read_as_the_corrected_one() -> None:
    for name in files.ORIGINALS:
        original = get_task(f"pdebench/{name}")
        corrected = get_task(f"pdebench/{name.removesuffix('_original')}")
        assert READINGS[name] == replace(
            READINGS[corrected.short_name], layout=READINGS[name].layout
        )
        assert original == replace(
            corrected,
            name=original.name,
            title=original.title,
            files=original.files,
            build=original.build,
        )
        (original_file,) = original.files
        (corrected_file,) = corrected.files
        assert original_file.path != corrected_file.path
        assert original_file.md5 != corrected_file.md5
        assert original_file.urls != corrected_file.urls


def test_a_generated_file_is_not_an_original_upload(tmp_path: Path) -> None:
    files.write(tmp_path, task="advection_original")
    with h5py.File(tmp_path / files.ORIGINALS["advection_original"].file, "r+") as file:
        file.attrs[files.MARK] = "{}"
    with pytest.raises(UserError, match="use the task pdebench_generated/advection,"):
        get_task("pdebench/advection_original").prepare(
            raw=tmp_path, out=tmp_path / "x"
        )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "protocol"),
    [
        *((name, PAPER) for name in TASKS),
        ("advection", HELD_OUT),
        ("cfd_1d", HELD_OUT),
        ("cfd_2d", HELD_OUT),
    ],
)
def test_a_file_is_prepared_as_reading_it_by_hand_says(
    name: str, protocol: str, raw: Path, tmp_path: Path
) -> None:
    data = get_task(f"pdebench/{name}").prepare(protocol, raw=raw, out=tmp_path / "out")
    inputs, targets = _read_by_hand(name, raw)
    rows = _reading.divide(len(inputs), READINGS[name].test_first)
    scaling_rows = rows["train"]
    if protocol == PAPER:
        scaling_rows = np.sort(np.concatenate([rows["train"], rows["validation"]]))
    expected = EXPECTED[name]
    shape = expected.shape
    for split in SPLITS:
        frame = expected.frame
        if protocol == PAPER and split == "test":
            frame = expected.paper_test_frame
        x = inputs[rows[split]]
        y = targets[frame][rows[split]]
        if name == "cfd_1d":
            x = _standardise(x, inputs[scaling_rows])
            y = _standardise(y, inputs[scaling_rows])
        if name == "cfd_2d":
            first_rows = scaling_rows[:100]
            x = _standardise(x, inputs[first_rows])
            y = _standardise(y, targets[frame][first_rows])
        prepared_split = data.splits[split]
        assert prepared_split.x.shape[1:] == prepared_split.y.shape[1:] == shape
        np.testing.assert_allclose(
            prepared_split.x[:], x.reshape(-1, *shape), rtol=1e-4, atol=1e-5
        )
        np.testing.assert_allclose(
            prepared_split.y[:], y.reshape(-1, *shape), rtol=1e-4, atol=1e-5
        )
    assert data.y_mean is None
    assert data.y_std is None


def _standardise(values: Array, of: Array) -> Array:
    """Return values by the mean and deviation of each place in the samples ``of``."""
    exact = of.astype(np.float64)
    result: Array = (values - exact.mean(axis=0)) / (exact.std(axis=0, ddof=1) + 1e-5)
    return result


@given(st.integers(10, 30_000), st.booleans())
def test_splits_are_the_references_and_cover_the_file(
    num_samples: int, test_first: bool
) -> None:
    division = _reading.divide(num_samples, test_first)
    everything = np.concatenate([division[split] for split in SPLITS])
    np.testing.assert_array_equal(np.sort(everything), np.arange(num_samples))
    assert all((np.diff(rows) > 0).all() for rows in division.values())
    assert len(division["validation"]) == num_samples // 10
    test = division["test"]
    if test_first:
        np.testing.assert_array_equal(test, np.arange(int(num_samples * 0.1)))
    else:
        np.testing.assert_array_equal(
            test, np.arange(int(num_samples * (1 - 0.1)), num_samples)
        )


@pytest.mark.parametrize(
    ("t_train", "num_frames", "protocol", "train", "test"),
    [
        (200, 41, HELD_OUT, 40, 40),
        (200, 41, PAPER, 40, 40),
        (101, 101, HELD_OUT, 100, 100),
        (101, 101, PAPER, 100, 99),
        (30, 101, HELD_OUT, 29, 29),
        (30, 101, PAPER, 29, 99),
        (30, 20, PAPER, 19, 19),
    ],
)
def test_the_target_frame_is_the_last_one_in_time(
    t_train: int, num_frames: int, protocol: str, train: int, test: int
) -> None:
    reading = _reading.Reading(
        layout=_reading.Steady, grid=(4,), t_train=t_train, test_first=True
    )
    assert reading.frames(num_frames, protocol) == {
        "train": train,
        "validation": train,
        "test": test,
    }


def test_the_last_frame_is_counted_after_thinning(tmp_path: Path) -> None:
    # Every fifth of 13 frames is taken: 0, 5 and 10, and not frame 12.
    path = tmp_path / files.LAYOUTS["advection"].file
    frames = np.arange(13, dtype=np.float32)[None, :, None]
    with h5py.File(path, "w") as file:
        file["tensor"] = np.broadcast_to(frames, (10, 13, 1024))
    data = get_task("pdebench/advection").prepare(raw=tmp_path, out=tmp_path / "out")
    assert np.unique(data.test.x[:]).tolist() == [0]
    assert np.unique(data.test.y[:]).tolist() == [10]


def test_only_the_frames_wanted_are_read_a_batch_at_a_time_and_a_task_has_an_end(
    tmp_path: Path,
) -> None:
    # A 2-D flow of 55 TB, of which hardly anything is stored.
    path = tmp_path / "large.hdf5"
    with h5py.File(path, "w") as file:
        for field in ("density", "pressure", "Vx", "Vy"):
            file.create_dataset(
                field, (10**7 + 1, 21, 128, 128), "f4", chunks=(3, 1, 128, 128)
            )
    with h5py.File(path) as file:
        samples = READINGS["cfd_2d"].layout(file, path, READINGS["cfd_2d"])
        assert samples.batch_size % 3 == 0
        assert samples.batch_size * 4 * 128 * 128 * 4 <= _reading.BATCH_BYTES
        assert samples.read(slice(200_000, 200_002), 20).shape == (2, 4, 64, 64)
        blocks = samples.read_batches(np.array([1, 5, 200]), 0)
        assert [len(block) for block in blocks] == [2, 1]
        message = "expected at most 10000000 simulations, found 10000001"
        with pytest.raises(UserError, match=message):
            _reading.build(Workspace("pdebench/cfd_2d", tmp_path, tmp_path), samples)


@pytest.mark.usefixtures("empty_home")
def test_a_task_to_be_generated_names_the_command_and_is_not_fetched() -> None:
    task = get_task("pdebench_generated/darcy")
    for action in (task.fetch, task.prepare):
        with pytest.raises(UserError, match="orca-sweep data generate pdebench/darcy"):
            action()
    task.raw_directory.mkdir(parents=True)
    files.write(task.raw_directory, task="darcy", generated=True)
    task.fetch()
    assert len(task.prepare().test) == 1
