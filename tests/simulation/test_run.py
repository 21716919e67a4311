"""Generating a file: whole or not there, the same however it is made, never over what is not ours."""

import json
from collections.abc import Sequence
from concurrent.futures import Future
from concurrent.futures.process import BrokenProcessPool
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest

from orca_ray import __version__
from orca_ray.errors import UserError
from orca_ray.simulation import advection, files, run
from orca_ray.simulation.simulation import Fields

TASK = "pdebench/advection"
FILE = advection.SIMULATION.file


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ORCA_RAY_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Advection two samples at a time."""
    monkeypatch.setattr(advection, "SIMULATION", replace(advection.SIMULATION, batch=2))


def _tensor(path: Path) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    with h5py.File(path) as file:
        found: np.ndarray[tuple[int, ...], np.dtype[np.float32]] = file["tensor"][:]
    return found


@pytest.mark.usefixtures("small")
def test_a_file_is_marked_as_generated_and_lies_where_its_task_reads_it(home: Path) -> None:
    told: list[tuple[int, int]] = []
    path, made = run.generate(TASK, 5, seed=3, progress=lambda done, total: told.append((done, total)))
    assert made
    assert path == home / "raw" / "pdebench_generated" / FILE
    assert told == [(2, 5), (4, 5), (5, 5)]
    with h5py.File(path) as file:
        marker = json.loads(file.attrs[files.MARKER])
    assert {key: marker[key] for key in ("task", "samples", "seed", "version")} == {
        "task": TASK,
        "samples": 5,
        "seed": 3,
        "version": __version__,
    }
    assert "0.4" in marker["equation"]
    assert marker["numerics"]
    assert np.abs(_tensor(path)).max(axis=(1, 2)).min() > 0  # every sample is there
    assert [entry.name for entry in path.parent.iterdir()] == [FILE]


def test_a_sample_depends_on_its_seed_and_number_alone(tmp_path: Path) -> None:
    few, _ = run.generate(TASK, 3, directory=tmp_path / "few")
    many, _ = run.generate(TASK, 18, directory=tmp_path / "many")
    other, _ = run.generate(TASK, 3, seed=1, directory=tmp_path / "other")
    np.testing.assert_allclose(_tensor(many)[:3], _tensor(few), atol=1e-6)
    assert not np.allclose(_tensor(other), _tensor(few))


def test_workers_make_the_same_file(tmp_path: Path) -> None:
    """Of 18 samples: two batches, by two processes."""
    told: list[int] = []
    alone, _ = run.generate(TASK, 18, directory=tmp_path / "one")
    shared, _ = run.generate(
        TASK, 18, directory=tmp_path / "two", workers=2, progress=lambda done, _: told.append(done)
    )
    np.testing.assert_array_equal(_tensor(alone), _tensor(shared))
    assert told == [16, 18]


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("stop", [KeyboardInterrupt, ArithmeticError, OSError])
def test_an_interruption_leaves_nothing(stop: type[BaseException], tmp_path: Path) -> None:
    def interrupt(done: int, _: int) -> None:
        if done == 4:
            raise stop("here")

    with pytest.raises(stop, match="here"):
        run.generate(TASK, 6, directory=tmp_path, progress=interrupt)
    assert list(tmp_path.iterdir()) == []


def test_an_interruption_ends_the_workers(tmp_path: Path) -> None:
    import multiprocessing

    def interrupt(done: int, _: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run.generate(TASK, 64, directory=tmp_path, workers=2, progress=interrupt)
    assert list(tmp_path.iterdir()) == []
    assert multiprocessing.active_children() == []


def test_the_death_of_a_worker_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def dead(*_: object) -> Future[list[str]]:
        future: Future[list[str]] = Future()
        future.set_exception(BrokenProcessPool("terminated abruptly"))
        return future

    monkeypatch.setattr(run, "_submit", dead)
    with pytest.raises(UserError, match=r"worker process died.*fewer --workers"):
        run.generate(TASK, 64, directory=tmp_path, workers=2)
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_told(tmp_path: Path) -> None:
    def full(*_: int) -> None:
        raise OSError("Can't write data (file write failed: errno = 28, error message = 'No space left on device')")

    with pytest.raises(UserError, match="no space left"):
        run.generate(TASK, 1, directory=tmp_path, progress=full)
    with pytest.raises(UserError, match="no space"):
        run.generate(TASK, 10**12, directory=tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_numbers_that_are_not_finite_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(rngs: Sequence[np.random.Generator]) -> Fields:
        return {"tensor": np.full((len(rngs), 201, 1024), np.nan, np.float32)}

    monkeypatch.setattr(advection, "SIMULATION", replace(advection.SIMULATION, solve=broken))
    with pytest.raises(ArithmeticError, match="tensor of samples 0 to 1 of seed 7"):
        run.generate(TASK, 2, seed=7, directory=tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_what_is_there_already_is_kept(tmp_path: Path) -> None:
    path, _ = run.generate(TASK, 2, directory=tmp_path)
    before = path.stat().st_mtime_ns
    assert run.generate(TASK, 2, directory=tmp_path) == (path, False)
    with pytest.raises(UserError, match=r"samples 2, seed 0.*--overwrite"):
        run.generate(TASK, 3, directory=tmp_path)
    assert path.stat().st_mtime_ns == before
    assert run.generate(TASK, 3, directory=tmp_path, overwrite=True) == (path, True)
    assert len(_tensor(path)) == 3


@pytest.mark.parametrize("content", [b"", b"not HDF5"])
def test_a_file_that_is_not_ours_is_never_replaced(tmp_path: Path, content: bytes) -> None:
    (tmp_path / FILE).write_bytes(content)
    with pytest.raises(UserError, match="left alone"):
        run.generate(TASK, 1, directory=tmp_path, overwrite=True)
    assert (tmp_path / FILE).read_bytes() == content


def test_a_downloaded_file_is_never_replaced(tmp_path: Path) -> None:
    with h5py.File(tmp_path / FILE, "w") as file:
        file["tensor"] = np.zeros(3)
    assert files.read_marker(tmp_path / FILE) is None
    with pytest.raises(UserError, match="left alone"):
        run.generate(TASK, 1, directory=tmp_path, overwrite=True)


@pytest.mark.parametrize(
    ("name", "samples", "seed", "workers", "told"),
    [
        ("pdebench/advektion", 1, 0, 1, "Did you mean 'pdebench/advection'"),
        (TASK, 0, 0, 1, "samples must be 1 or more, got 0"),
        (TASK, 1, -1, 1, "seed must be 0 or more, got -1"),
        (TASK, 1, 0, 0, "workers must be 1 or more, got 0"),
    ],
)
def test_what_cannot_be_is_refused(name: str, samples: int, seed: int, workers: int, told: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=told):
        run.generate(name, samples, seed=seed, workers=workers, directory=tmp_path)


def test_a_directory_that_cannot_be_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="a file is in the way"):
        run.generate(TASK, 1, directory=tmp_path / "file")
