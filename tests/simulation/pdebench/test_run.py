"""Generation of files: atomic and reproducible; other files are kept; the command."""

import contextlib
import errno
import json
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from concurrent.futures.process import BrokenProcessPool
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from orca_ray import __version__
from orca_ray.cli.app import run as run_command
from orca_ray.data import cache
from orca_ray.data.raw import LOCKS, MARK
from orca_ray.errors import UserError
from orca_ray.simulation.pdebench import run
from orca_ray.simulation.pdebench.run import BatchStore
from orca_ray.simulation.pdebench.simulation import Fields, get_simulation

TASK = "pdebench/advection"
ADVECTION = get_simulation(TASK)
FILE = ADVECTION.file
pytestmark = pytest.mark.usefixtures("empty_home")


@pytest.fixture
def empty_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give a test an empty cache directory, and a working directory.

    Return the path of the cache.
    """
    monkeypatch.setenv("ORCA_RAY_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    return tmp_path / "home"


def main(*arguments: str) -> int:
    """Run ``orca-sweep data generate``, and return its exit code."""
    return run_command(["data", "generate", *arguments])


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "get_simulation", lambda _: replace(ADVECTION, batch=2))


def _entries(directory: Path) -> list[str]:
    """Return the entries of a directory except its locks."""
    return sorted(entry.name for entry in directory.iterdir() if entry.name != LOCKS)


def _tensor(path: Path) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    with h5py.File(path) as file:
        values: np.ndarray[tuple[int, ...], np.dtype[np.float32]] = file["tensor"][:]
    return values


@pytest.mark.usefixtures("small")
def test_a_file_is_marked_as_generated_and_lies_where_its_task_reads_it(
    empty_home: Path,
) -> None:
    reports: list[tuple[int, int]] = []
    path, is_new = run.generate(
        TASK,
        5,
        seed=3,
        progress=lambda num_done, total: reports.append((num_done, total)),
    )
    assert is_new
    assert path == empty_home / "raw" / "pdebench_generated" / FILE
    assert reports == [(2, 5), (4, 5), (5, 5)]
    with h5py.File(path) as file:
        marker = json.loads(file.attrs[MARK])
    expected = {"task": TASK, "samples": 5, "seed": 3, "version": __version__}
    assert {key: marker[key] for key in expected} == expected
    assert "0.4" in marker["equation"]
    assert marker["numerics"]
    assert np.abs(_tensor(path)).max(axis=(1, 2)).min() > 0  # every sample is there
    assert _entries(path.parent) == [FILE]


def _interrupted(tmp_path: Path) -> None:
    """Solve two of three batches."""

    def interrupt(count: int, _: int) -> None:
        if count == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run.generate(TASK, 6, directory=tmp_path, progress=interrupt)


def _counted(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """Return a list that every batch is noted in when it is solved."""
    solved: list[tuple[int, int]] = []
    original = run._solve

    def noting(store: BatchStore, name: str, seed: int, start: int, stop: int) -> None:
        solved.append((start, stop))
        original(store, name, seed, start, stop)

    monkeypatch.setattr(run, "_solve", noting)
    return solved


@pytest.mark.usefixtures("small")
def test_what_an_interruption_or_a_kill_leaves_is_not_solved_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, _ = run.generate(TASK, 6, directory=tmp_path / "whole")
    solved = _counted(monkeypatch)
    out = tmp_path / "out"
    _interrupted(out)
    assert not (out / FILE).exists()
    assert run.count_solved(TASK, out) == 4
    # what a kill leaves while a batch or the file is written
    for name in ("4-6.tmp", f"{FILE}.tmp"):
        (BatchStore(out / FILE).directory / name).write_bytes(b"half")
    reports: list[int] = []
    path, is_new = run.generate(
        TASK, 6, directory=out, progress=lambda num_done, _: reports.append(num_done)
    )
    assert is_new
    assert solved == [(0, 2), (2, 4), (4, 6)]
    assert reports == [6]
    np.testing.assert_array_equal(_tensor(path), _tensor(whole))
    assert _entries(out) == [FILE]
    assert run.count_solved(TASK, out) == 0


@pytest.mark.usefixtures("small")
def test_another_number_of_samples_goes_on_too_and_another_seed_begins_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    solved = _counted(monkeypatch)
    _interrupted(tmp_path)
    path, _ = run.generate(TASK, 5, directory=tmp_path)
    assert solved == [(0, 2), (2, 4), (4, 5)]
    assert len(_tensor(path)) == 5

    other = tmp_path / "other"
    _interrupted(other)
    del solved[:]
    path, _ = run.generate(TASK, 6, seed=1, directory=other)
    assert "4 samples that were solved with other settings are removed" in caplog.text
    assert solved == [(0, 2), (2, 4), (4, 6)]
    assert not np.array_equal(_tensor(path)[:4], _tensor(tmp_path / FILE)[:4])
    assert _entries(other) == [FILE]


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("damage", ["cut", "flipped", "empty"])
def test_a_damaged_batch_is_reported_and_solved_again(
    damage: str, tmp_path: Path
) -> None:
    _interrupted(tmp_path)
    batch = BatchStore(tmp_path / FILE).directory / "2-4.npz"
    content = bytearray(batch.read_bytes())
    content[len(content) // 2] ^= 1
    batch.write_bytes(
        {"cut": content[:-100], "flipped": content, "empty": bytearray()}[damage]
    )
    with pytest.raises(
        UserError, match=r"2-4\.npz was damaged .* run the command again"
    ):
        run.generate(TASK, 6, directory=tmp_path)
    assert not (tmp_path / FILE).exists()
    run.generate(TASK, 6, directory=tmp_path)
    assert _entries(tmp_path) == [FILE]


@pytest.mark.parametrize(
    ("what", "error", "message"),
    [
        ("_solve", KeyboardInterrupt("here"), "here"),
        # While a batch is stored, as the system reports it, or while the file is
        # written, as h5py does.
        (
            "save",
            OSError("Can't write data (error message = 'No space left on device')"),
            "no space left",
        ),
        ("save", OSError(errno.ENOSPC, "No space left on device"), "no space left"),
        (
            "_submit",
            BrokenProcessPool("terminated"),
            "worker process died.*fewer --workers; it continues",
        ),
    ],
)
def test_an_error_in_the_first_batch_leaves_nothing(
    what: str,
    error: BaseException,
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def failing(*_: object) -> Future[None]:
        if what != "_submit":
            raise error
        future: Future[None] = Future()
        future.set_exception(error)
        return future

    monkeypatch.setattr(BatchStore if what == "save" else run, what, failing)
    with pytest.raises(type(error) if what == "_solve" else UserError, match=message):
        run.generate(
            TASK, 64, directory=tmp_path, workers=2 if what == "_submit" else 1
        )
    assert _entries(tmp_path) == []


def test_a_file_that_another_process_made_meanwhile_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The lock is held by one that makes the same file."""
    original = cache.lock

    @contextlib.contextmanager
    def slow(path: Path, what: str) -> Iterator[None]:
        monkeypatch.setattr(cache, "lock", original)
        run.generate(TASK, 2, directory=tmp_path)
        with original(path, what):
            yield

    monkeypatch.setattr(cache, "lock", slow)
    path, is_new = run.generate(TASK, 2, directory=tmp_path)
    assert not is_new
    assert len(_tensor(path)) == 2


def test_two_processes_end_when_interrupted_and_solve_what_one_does(
    tmp_path: Path,
) -> None:
    """They solve the two batches of 18 samples.

    A sample depends on its seed and number alone.
    """
    import multiprocessing

    def interrupt(num_done: int, _: int) -> None:
        raise KeyboardInterrupt

    many = tmp_path / "many"
    with pytest.raises(KeyboardInterrupt):
        run.generate(TASK, 18, directory=many, workers=2, progress=interrupt)
    assert multiprocessing.active_children() == []
    assert not (many / FILE).exists()
    assert run.count_solved(TASK, many) >= 16
    BatchStore(many / FILE).remove()
    reports: list[int] = []
    run.generate(
        TASK,
        18,
        directory=many,
        workers=2,
        progress=lambda num_done, _: reports.append(num_done),
    )
    assert reports == [16, 18]
    few, _ = run.generate(TASK, 3, directory=tmp_path)
    other_seed, _ = run.generate(TASK, 3, seed=1, directory=tmp_path / "other")
    values = _tensor(many / FILE)
    np.testing.assert_allclose(values[:3], _tensor(few), atol=1e-6)
    assert np.abs(values).max(axis=(1, 2)).min() > 0
    assert not np.allclose(_tensor(other_seed), _tensor(few))


def test_numbers_that_are_not_finite_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(rngs: Sequence[np.random.Generator]) -> Fields:
        return {"tensor": np.full((len(rngs), 201, 1024), np.nan, np.float32)}

    monkeypatch.setattr(
        run, "get_simulation", lambda _: replace(ADVECTION, solve=broken)
    )
    with pytest.raises(ArithmeticError, match="tensor of samples 0 to 1 of seed 7"):
        run.generate(TASK, 2, seed=7, directory=tmp_path)
    assert _entries(tmp_path) == []


def test_what_is_there_already_is_kept(tmp_path: Path) -> None:
    path, _ = run.generate(TASK, 2, directory=tmp_path)
    before = path.stat().st_mtime_ns
    BatchStore(path).directory.mkdir()
    assert run.generate(TASK, 2, directory=tmp_path) == (path, False)
    assert not BatchStore(path).directory.exists()
    with pytest.raises(UserError, match=r"samples 2, seed 0.*--overwrite"):
        run.generate(TASK, 3, directory=tmp_path)
    assert path.stat().st_mtime_ns == before
    assert run.generate(TASK, 3, directory=tmp_path, overwrite=True) == (path, True)
    assert len(_tensor(path)) == 3


@pytest.mark.parametrize("content", [b"", b"not HDF5", None])
def test_a_file_that_is_not_ours_is_never_replaced(
    tmp_path: Path, content: bytes | None
) -> None:
    with h5py.File(tmp_path / FILE, "w") as file:
        file["tensor"] = np.zeros(3)
    if content is not None:
        (tmp_path / FILE).write_bytes(content)
    before = (tmp_path / FILE).read_bytes()
    with pytest.raises(UserError, match="left alone"):
        run.generate(TASK, 1, directory=tmp_path, overwrite=True)
    assert (tmp_path / FILE).read_bytes() == before


@pytest.mark.parametrize(
    ("name", "samples", "options", "message"),
    [
        ("pdebench/advektion", 1, {}, "Did you mean 'pdebench/advection'"),
        (TASK, 0, {}, "samples must be 1 or more, got 0"),
        (TASK, 1, {"seed": -1}, "seed must be 0 or more, got -1"),
        (TASK, 1, {"workers": 0}, "workers must be 1 or more, got 0"),
        (TASK, 10**12, {}, "no space"),
    ],
)
def test_bad_options_are_refused(
    name: str, samples: int, options: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=message):
        run.generate(name, samples, directory=tmp_path, **options)
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="a file is in the way"):
        run.generate(TASK, 1, directory=tmp_path / "file")


def test_a_file_is_made_where_its_task_reads_it(
    empty_home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = empty_home / "raw" / "pdebench_generated" / FILE
    assert main(TASK, "--samples", "2") == 0
    assert path.is_file()
    assert f"pdebench/advection: 2 samples, 1.6 MiB, {path}" in capsys.readouterr().out
    assert main(TASK, "--samples", "2") == 0
    assert "already there" in capsys.readouterr().out
    assert main(TASK, "-n", "1", "--seed", "9", "--out", "new", "-q") == 0
    assert capsys.readouterr() == ("", "")
    assert Path("new", FILE).is_file()


def test_an_interruption_prints_what_is_kept(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    original = run._solve
    arguments = (TASK, "--samples", "20", "--out", "new")
    allowed = [0, 16]

    def interrupt(
        store: BatchStore, name: str, seed: int, start: int, stop: int
    ) -> None:
        if start == allowed[0]:
            raise KeyboardInterrupt
        original(store, name, seed, start, stop)

    monkeypatch.setattr(run, "_solve", interrupt)
    assert main(*arguments) == 130
    assert capsys.readouterr().err.endswith("interrupted: no file was written\n")
    assert not Path("new").exists()
    allowed.pop(0)
    assert main(*arguments) == 130
    ending = "16 samples are stored, and the same command continues from there"
    assert f"interrupted: no file was written: {ending}" in capsys.readouterr().err


@pytest.mark.parametrize("place", ["pipe", "/proc/self/new", "/dev/null", "link"])
def test_special_files_are_refused_before_they_are_opened(
    place: str, capsys: pytest.CaptureFixture[str]
) -> None:
    os.mkfifo("pipe")
    Path("link").symlink_to("pipe")
    assert main(TASK, "-n", "1", "--out", place) == 2
    error = capsys.readouterr().err
    assert "is a named pipe" in error or "is inside /" in error
