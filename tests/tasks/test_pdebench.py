"""The nine tasks of PDEBench on format twins, against independent reading and against the reference's own loader."""

import importlib
import os
import sys
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from orca_ray.data import prepared
from orca_ray.data.prepared import HELD_OUT, PAPER, PreparedData
from orca_ray.data.raw import MARK, Workspace
from orca_ray.errors import UserError
from orca_ray.tasks.pdebench import _declare, _layouts, _reading
from orca_ray.tasks.pdebench.problems import PROBLEMS
from orca_ray.tasks.registry import get_benchmark, get_task
from tests.twins import pdebench as twins

Array = npt.NDArray[Any]

TASKS = tuple(twins.LAYOUTS)
BY_NAME = {problem.name: problem for problem in PROBLEMS}
SPLITS = prepared.SPLITS
SHAPES = {
    "advection": (1, 256),
    "burgers": (1, 1024),
    "cfd_1d": (1, 3072),
    "diffusion_sorption": (1, 1024),
    "diffusion_reaction_1d": (1, 1024),
    "shallow_water": (1, 128, 128),
    "diffusion_reaction_2d": (1, 128, 128),
    "darcy": (1, 64, 64),
    "cfd_2d": (4, 64, 64),
}
TARGET_FRAMES = {
    # of the file, for train and validation, and for test under the protocol `paper`
    "advection": (20, 20),
    "burgers": (20, 20),
    "cfd_1d": (10, 10),
    "diffusion_sorption": (100, 99),
    "diffusion_reaction_1d": (29, 99),
    "shallow_water": (100, 99),
    "diffusion_reaction_2d": (100, 99),
    "darcy": (1, 1),
    "cfd_2d": (2, 2),
}


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a directory with the downloaded twins of all tasks; tests must not change it."""
    directory = tmp_path_factory.mktemp("raw")
    for task in TASKS:
        twins.write(directory, task=task)
    return directory


def _prepared(task: str, raw: Path, out: Path, protocol: str = HELD_OUT) -> PreparedData:
    return get_task(f"pdebench/{task}").prepare(protocol, raw=raw, out=out)


def _whole(task: str, raw: Path) -> tuple[Array, dict[int, Array]]:
    """Read a twin by hand: inputs [N, C, *space], and targets by frame, not scaled."""
    layout = twins.LAYOUTS[task]
    stride = {"advection": 4, "darcy": 2, "cfd_2d": 2}.get(task, 1)
    thin: tuple[Any, ...] = (..., *[slice(None, None, stride)] * len(layout.grid))
    frames = TARGET_FRAMES[task]
    with h5py.File(raw / layout.file) as file:
        if isinstance(layout, twins.Steady):
            return file["nu"][...][:, None][thin], dict.fromkeys(frames, file["tensor"][...][thin])
        if isinstance(layout, twins.Seeds):
            everything = np.stack([file[name]["data"][...] for name in sorted(file)])
            everything = np.moveaxis(everything, -1, 2)  # [N, T, C, *grid]
            return everything[:, 0, :1], {frame: everything[:, frame, -1:] for frame in frames}
        everything = np.stack([file[name][...] for name in layout.fields], axis=2)[thin]
        return everything[:, 0], {frame: everything[:, frame] for frame in frames}


def _rows(task: str, num_samples: int) -> dict[str, Array]:
    division = _reading.divide(num_samples, _reading_of(task).test_first)
    return {str(split): rows for split, rows in division.items()}


def _reading_of(task: str) -> _reading.Reading:
    return BY_NAME[task].reading


def test_both_benchmarks_hold_the_nine_tasks() -> None:
    assert {task.short_name for task in get_benchmark("pdebench")} == set(TASKS)
    assert {task.short_name for task in get_benchmark("pdebench_generated")} == set(TASKS)


@pytest.mark.parametrize("name", TASKS)
def test_a_generated_task_is_the_downloaded_one_without_its_source(name: str) -> None:
    downloaded, generated = get_task(f"pdebench/{name}"), get_task(f"pdebench_generated/{name}")
    for field in ("input_shape", "target", "loss", "metric", "body", "paper_splits"):
        assert getattr(downloaded, field) == getattr(generated, field)
    assert "generated" in generated.title
    assert generated.num_samples is None
    assert downloaded.num_samples is not None
    assert not generated.files[0].urls
    assert downloaded.files[0].path == generated.files[0].path == twins.LAYOUTS[name].file
    assert downloaded.files[0].urls[0].startswith("https://")
    assert len(bytes.fromhex(downloaded.files[0].md5)) == 16


@pytest.mark.slow
@pytest.mark.parametrize("protocol", [HELD_OUT, PAPER])
@pytest.mark.parametrize("name", TASKS)
def test_a_twin_is_prepared_as_reading_it_by_hand_says(name: str, protocol: str, raw: Path, tmp_path: Path) -> None:
    data = _prepared(name, raw, tmp_path / "out", protocol)
    inputs, targets = _whole(name, raw)
    rows = _rows(name, len(inputs))
    train_frame, test_frame = TARGET_FRAMES[name]
    for split in SPLITS:
        frame = test_frame if (protocol, split) == (PAPER, "test") else train_frame
        x, y = inputs[rows[split]], targets[frame][rows[split]]
        seen = np.sort(np.concatenate([rows["train"], rows["validation"]])) if protocol == PAPER else rows["train"]
        if name == "cfd_1d":
            x, y = _standardised(x, inputs[seen]), _standardised(y, inputs[seen])
        if name == "cfd_2d":
            x, y = _standardised(x, inputs[seen[:100]]), _standardised(y, targets[frame][seen[:100]])
        prepared_split = data.splits[split]
        assert prepared_split.x.shape[1:] == prepared_split.y.shape[1:] == SHAPES[name]
        np.testing.assert_allclose(prepared_split.x[:], x.reshape(-1, *SHAPES[name]), rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(prepared_split.y[:], y.reshape(-1, *SHAPES[name]), rtol=1e-4, atol=1e-5)
    assert data.y_mean is None
    assert data.y_std is None


def _standardised(values: Array, known: Array) -> Array:
    wide = known.astype(np.float64)
    result: Array = (values - wide.mean(axis=0)) / (wide.std(axis=0, ddof=1) + 1e-5)
    return result


@pytest.mark.parametrize("name", TASKS)
def test_no_sample_is_in_two_splits_and_none_is_lost(name: str, raw: Path, tmp_path: Path) -> None:
    data = _prepared(name, raw, tmp_path / "out")
    seen = [{row.tobytes() for row in data.splits[split].x[:]} for split in SPLITS]
    assert len(set.union(*seen)) == sum(map(len, seen)) == twins.LAYOUTS[name].num_samples
    assert [len(data.splits[split]) for split in SPLITS] == [len(rows) for rows in seen]


@given(st.integers(10, 30_000), st.booleans())
def test_splits_are_the_references_and_cover_the_file(num_samples: int, test_first: bool) -> None:
    division = _reading.divide(num_samples, test_first)
    everything = np.concatenate([division[split] for split in SPLITS])
    np.testing.assert_array_equal(np.sort(everything), np.arange(num_samples))
    assert all((np.diff(rows) > 0).all() for rows in division.values())
    assert len(division["validation"]) == num_samples // 10
    test = division["test"]
    if test_first:
        np.testing.assert_array_equal(test, np.arange(int(num_samples * 0.1)))
    else:
        np.testing.assert_array_equal(test, np.arange(int(num_samples * (1 - 0.1)), num_samples))


@given(
    st.lists(st.integers(1, 7), min_size=2, max_size=6),
    st.floats(-1e3, 1e3, allow_nan=False),
    st.integers(0, 2**32 - 1),
)
def test_statistics_do_not_depend_on_the_blocks(sizes: list[int], offset: float, seed: int) -> None:
    values = (np.random.RandomState(seed).randn(sum(sizes), 3) + offset).astype(np.float32)
    mean, scale = _reading.statistics(np.split(values, np.cumsum(sizes)[:-1]))
    wide = values.astype(np.float64)
    np.testing.assert_allclose(mean, wide.mean(axis=0), rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(scale, wide.std(axis=0, ddof=1) + 1e-5, rtol=1e-5)


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
def test_the_target_frame(t_train: int, num_frames: int, protocol: str, train: int, test: int) -> None:
    reading = _reading.Reading(layout=_layouts.Steady, grid=(4,), t_train=t_train, test_first=True)
    assert reading.frames(num_frames, protocol) == {"train": train, "validation": train, "test": test}


def test_the_last_frame_is_counted_after_thinning(tmp_path: Path) -> None:
    """13 frames, every fifth taken: 0, 5 and 10; frame 12 is none of them."""
    path = tmp_path / twins.LAYOUTS["advection"].file
    with h5py.File(path, "w") as file:
        file["tensor"] = np.arange(13, dtype=np.float32)[None, :, None] + np.zeros((10, 1, 1024), np.float32)
    data = _prepared("advection", tmp_path, tmp_path / "out")
    assert set(np.unique(data.test.x[:])) == {0}
    assert set(np.unique(data.test.y[:])) == {10}


def test_held_out_statistics_do_not_know_validation_and_test(tmp_path: Path) -> None:
    """Other values in validation and test rows must leave the training arrays what they were."""
    for name in ("cfd_1d", "cfd_2d"):
        twins.write(tmp_path, task=name)
        before = _prepared(name, tmp_path, tmp_path / f"{name}-before")
        rows = _rows(name, twins.LAYOUTS[name].num_samples)
        with h5py.File(tmp_path / BY_NAME[name].file, "r+") as file:
            for row in np.concatenate([rows["validation"], rows["test"]]):
                file["density"][row] *= 100
        after = _prepared(name, tmp_path, tmp_path / f"{name}-after")
        np.testing.assert_array_equal(before.train.x[:], after.train.x[:])
        np.testing.assert_array_equal(before.train.y[:], after.train.y[:])
        assert not np.array_equal(before.validation.x[:], after.validation.x[:])


class _Interrupting(_layouts.Stacked):
    """Stops at the second batch, once."""

    reads = 0
    stopped = False

    def read(self, rows: slice, frame: int) -> Array:
        if rows.start and not _Interrupting.stopped:
            _Interrupting.stopped = True
            raise KeyboardInterrupt
        _Interrupting.reads += rows.stop - rows.start
        return super().read(rows, frame)


def test_an_interrupted_build_goes_on_and_ends_the_same(
    raw: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_reading, "BATCH_BYTES", 8 * 4 * 1024)  # eight samples
    whole = _prepared("diffusion_reaction_1d", raw, tmp_path / "whole")
    reading = replace(BY_NAME["diffusion_reaction_1d"].reading, layout=partial(_Interrupting, fields=("tensor",)))
    task = _declare.downloaded(replace(BY_NAME["diffusion_reaction_1d"], reading=reading))
    with pytest.raises(KeyboardInterrupt):
        task.prepare(raw=raw, out=tmp_path / "parts")
    assert not (tmp_path / "parts").exists()
    before = _Interrupting.reads
    resumed = task.prepare(raw=raw, out=tmp_path / "parts")
    assert resumed.fingerprint == whole.fingerprint
    assert before == 2 * 8  # input and target of the first batch
    assert _Interrupting.reads - before == 2 * 8


def test_only_the_frames_wanted_are_read_a_batch_at_a_time(tmp_path: Path) -> None:
    """A 2-D flow of 1.4 TB, of which hardly anything is stored: two frames of the rows asked for are read, no more."""
    path = tmp_path / "large.hdf5"
    with h5py.File(path, "w") as file:
        for field in ("density", "pressure", "Vx", "Vy"):
            file.create_dataset(field, (250_000, 21, 128, 128), "f4", chunks=(3, 1, 128, 128))
    with h5py.File(path) as file:
        simulations = BY_NAME["cfd_2d"].reading.layout(file, path, BY_NAME["cfd_2d"].reading.grid)
        samples = _reading.Samples(simulations, BY_NAME["cfd_2d"].reading)
        assert samples.batch_size % 3 == 0
        assert samples.batch_size * 4 * 128 * 128 * 4 <= _reading.BATCH_BYTES
        assert samples.read(slice(200_000, 200_002), 20).shape == (2, 4, 64, 64)
        blocks = samples.chosen(np.array([1, 5, 200]), 0)
        assert [len(block) for block in blocks] == [2, 1]


def test_more_simulations_than_can_be_indexed_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "boundless.hdf5"
    with h5py.File(path, "w") as file:
        for field in ("density", "pressure", "Vx", "Vy"):
            file.create_dataset(field, (10**7 + 1, 21, 128, 128), "f4", chunks=(3, 1, 128, 128))
        simulations = BY_NAME["cfd_2d"].reading.layout(file, path, BY_NAME["cfd_2d"].reading.grid)
        with pytest.raises(UserError, match=r"expected at most 10000000 simulations, found 10000001"):
            _reading.build(Workspace("pdebench/cfd_2d", tmp_path, tmp_path), BY_NAME["cfd_2d"].reading, simulations)


def test_data_kept_in_another_file_is_refused(tmp_path: Path) -> None:
    twins.write(tmp_path, task="advection")
    path = tmp_path / twins.LAYOUTS["advection"].file
    path.rename(tmp_path / "other.hdf5")
    with h5py.File(path, "w") as file:
        file["tensor"] = h5py.ExternalLink("other.hdf5", "tensor")
    with pytest.raises(UserError, match="tensor: expected data in the file itself"):
        _prepared("advection", tmp_path, tmp_path / "out")


def test_generated_simulations_are_prepared_under_their_own_name_only(tmp_path: Path) -> None:
    twins.write(tmp_path, task="burgers", generated=True)
    data = get_task("pdebench_generated/burgers").prepare(raw=tmp_path, out=tmp_path / "out")
    assert data.name == "pdebench_generated/burgers"
    assert data.train.x.shape == (32, 1, 1024)
    assert MARK == twins.MARK == "orca_ray_generated"
    with pytest.raises(UserError, match="use the task pdebench_generated/burgers"):
        get_task("pdebench/burgers").prepare(raw=tmp_path, out=tmp_path / "other")


def test_what_is_to_be_generated_is_told_instead_of_fetched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ORCA_RAY_HOME", str(tmp_path))
    task = get_task("pdebench_generated/darcy")
    with pytest.raises(UserError, match="orca-sweep data generate pdebench/darcy"):
        task.fetch()
    with pytest.raises(UserError, match="orca-sweep data generate pdebench/darcy"):
        task.prepare()
    task.raw_directory.mkdir(parents=True)
    twins.write(task.raw_directory, task="darcy", generated=True)
    task.fetch()
    assert len(task.prepare().test) == 1


REFERENCE_NAMES = {
    "advection": "ADV",
    "burgers": "Burgers",
    "cfd_1d": "1DCFD",
    "diffusion_sorption": "DS",
    "diffusion_reaction_1d": "RD",
    "shallow_water": "SW",
    "diffusion_reaction_2d": "RD2D",
    "darcy": "Darcy",
    "cfd_2d": "2DCFD",
}


@pytest.fixture(scope="module")
def reference() -> Any:
    """Return the reference's module of loaders, from the checkout that ``ORCA_REFERENCE`` names."""
    checkout = os.environ.get("ORCA_REFERENCE")
    if not checkout:
        pytest.skip("no checkout of the reference: ORCA_REFERENCE is not set")
    sources = str(Path(checkout) / "src")
    sys.path.insert(0, sources)
    try:
        return importlib.import_module("data_loaders")
    finally:
        sys.path.remove(sources)


def _of_reference(reference: Any, task: str, raw: Path, monkeypatch: pytest.MonkeyPatch) -> Mapping[str, Array]:
    """Load a twin with the reference's ``load_pde``, which names a folder of its authors' machine for most sets."""
    for name in ("UNetDatasetSingle", "UNetDatasetSingleLarge", "UNetDatasetMult"):
        original = getattr(reference, name)

        def moved(filename: str, *, saved_folder: str, original: Any = original, **settings: Any) -> Any:
            return original(filename, saved_folder=str(raw), **settings)

        monkeypatch.setattr(reference, name, moved)
    train, _, test = reference.load_pde(str(raw), 4, dataset=REFERENCE_NAMES[task], num_workers=0)
    arrays = {}
    for split, loader in (("train", train), ("test", test)):
        pairs = [loader.dataset[index] for index in range(len(loader.dataset))]
        arrays[f"{split}_x"] = np.stack([x.numpy() for x, _ in pairs])
        arrays[f"{split}_y"] = np.stack([y.numpy() for _, y in pairs])
    return arrays


@pytest.mark.parametrize("name", TASKS)
def test_the_paper_protocol_is_the_references_loader(
    name: str, reference: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The reference scales 2-D flow by the first hundred samples of the file, all of train in a file this long.
    twins.write(tmp_path, task=name, num_samples=115 if name == "cfd_2d" else None)
    expected = _of_reference(reference, name, tmp_path, monkeypatch)
    data = _prepared(name, tmp_path, tmp_path / "out", PAPER)
    rows = _rows(name, len(expected["train_x"]) + len(expected["test_x"]))
    order = np.argsort(np.concatenate([rows["train"], rows["validation"]]))
    found = {
        "train_x": np.concatenate([data.train.x[:], data.validation.x[:]])[order],
        "train_y": np.concatenate([data.train.y, data.validation.y])[order],
        "test_x": data.test.x[:],
        "test_y": data.test.y,
    }
    for key, array in found.items():
        assert array.shape == expected[key].shape
        if name in ("cfd_1d", "cfd_2d"):
            np.testing.assert_allclose(array, expected[key], rtol=1e-4, atol=2e-5, err_msg=key)
        else:
            np.testing.assert_array_equal(array, expected[key], err_msg=key)
