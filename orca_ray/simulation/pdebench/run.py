"""Generation of a data file: solve batches of samples, and store them.

Worker processes solve them if requested.
"""

import contextlib
import json
import logging
import multiprocessing
import shutil
import signal
import zipfile
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from functools import partial
from itertools import starmap
from pathlib import Path
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

from orca_ray.data import cache
from orca_ray.data.raw import LOCKS, MARK
from orca_ray.errors import UserError
from orca_ray.process import end_with_parent
from orca_ray.simulation import generators
from orca_ray.simulation.pdebench.simulation import Fields, Simulation, get_simulation
from orca_ray.version import __version__

logger = logging.getLogger(__name__)
DIRECTORY = "pdebench_generated"
"""Directory of generated files below the cache's ``raw``.

It is also the name of the benchmark that reads them.
"""
ReportSolved = Callable[[int, int], None]
"""Function that is called with the numbers of solved samples and of all samples."""
SETTINGS = "settings.json"
"""JSON file in `BatchStore.directory` with the settings of the stored batches."""
_TOUCHED_VALUES = 31 << 17
"""Number of values of an array that is freed before a batch is solved.

Freeing it makes glibc reuse blocks of up to this size, which is three times faster.
"""


@dataclass(frozen=True)
class BatchStore:
    """Store of the solved batches of the output file ``path``, until it is complete.

    The batches are in a hidden directory.
    """

    path: Path

    @property
    def directory(self) -> Path:
        """The hidden directory that holds the batches."""
        return self.path.with_name(f".{self.path.name}.parts")

    @contextlib.contextmanager
    def opened(self, settings: Mapping[str, Any]) -> Iterator[None]:
        """Create the directory if needed, and remove it after the block.

        It stays if the block failed and batches are stored. Stored batches that were
        solved with other ``settings`` are removed first. The caller must hold the
        file's lock.
        """
        stored_settings = None
        with contextlib.suppress(OSError, UserError):
            stored_settings = cache.read_json(self.directory / SETTINGS)
        if stored_settings != settings:
            samples = self.num_samples()
            if samples:
                logger.warning(
                    "%s: %d samples that were solved with other settings are removed",
                    self.path,
                    samples,
                )
            self.remove()
            self.directory.mkdir(parents=True)
            (self.directory / SETTINGS).write_text(json.dumps(dict(settings)))
        self._remove_temporary_files()
        try:
            yield
        except BaseException:
            self._remove_temporary_files()
            if self.num_samples() == 0:
                self.remove()
            raise
        self.remove()

    def remove(self) -> None:
        """Remove all stored batches; the caller must hold the file's lock."""
        shutil.rmtree(self.directory, ignore_errors=True)

    def num_samples(self) -> int:
        """Return the number of samples in the stored batches."""
        bounds = (batch.stem.split("-") for batch in self.directory.glob("*.npz"))
        return sum(int(stop) - int(start) for start, stop in bounds)

    def save(self, start: int, stop: int, fields: Fields) -> None:
        """Store the fields of samples ``start`` to ``stop`` (exclusive) atomically."""
        temporary = self.file(start, stop).with_suffix(".tmp")
        with temporary.open("wb") as stream:
            np.savez(stream, **fields)  # type: ignore[arg-type]  # numpy 2.0 takes any other keyword for an array
        cache.replace_file(temporary, self.file(start, stop))

    def load(self, start: int, stop: int) -> Fields:
        """Return the stored fields of a batch.

        A damaged batch is removed, and UserError is raised.
        """
        file = self.file(start, stop)
        try:
            with np.load(file) as arrays:
                return {name: arrays[name] for name in arrays.files}
        except (ValueError, EOFError, zipfile.BadZipFile) as error:
            file.unlink(missing_ok=True)
            raise UserError(
                f"{file} was damaged ({error}) and has been removed: run the command"
                " again to solve it anew"
            ) from error

    def file(self, start: int, stop: int) -> Path:
        """Return the path of the batch of samples ``start`` to ``stop`` (exclusive).

        The file exists once the samples are solved.
        """
        return self.directory / f"{start}-{stop}.npz"

    def _remove_temporary_files(self) -> None:
        for temporary in self.directory.glob("*.tmp"):
            temporary.unlink(missing_ok=True)


def data_file(name: str, directory: Path | None = None) -> Path:
    """Return the path of the data file of task ``name`` in ``directory``.

    None stands for the cache, where tasks read the file.
    """
    return (directory or cache.home() / "raw" / DIRECTORY) / get_simulation(name).file


def count_solved(name: str, directory: Path | None = None) -> int:
    """Return how many samples of a file are stored from an interrupted generation.

    The file is ``data_file(name, directory)``.
    """
    return BatchStore(data_file(name, directory)).num_samples()


def generate(
    name: str,
    samples: int,
    *,
    seed: int = 0,
    directory: Path | None = None,
    workers: int = 1,
    overwrite: bool = False,
    progress: ReportSolved | None = None,
) -> tuple[Path, bool]:
    """Generate the data file of task ``name``.

    Return the path of the file, and False if the same file existed already, else True.
    After an interruption, the next call with the same name, seed and directory
    continues with the stored batches.

    Args:
        samples, workers: number of samples in the file, and of processes that solve
            them.
        seed: seed of the random numbers. Sample i depends on the seed and on i only,
            not on ``samples`` or ``workers``.
        directory: directory of the file; None: see `data_file`.
        overwrite: whether to replace a file that was generated with other options.
        progress: called after every solved batch.

    Raises UserError for an unknown name, a number out of range, another file at the
    path, a full disk, a dead worker.
    """
    simulation = get_simulation(name)
    _check_number("samples", samples, least=1)
    _check_number("seed", seed, least=0)
    _check_number("workers", workers, least=1)
    path = data_file(name, directory)
    settings: dict[str, Any] = {
        "task": name,
        "seed": seed,
        "version": __version__,
        "equation": simulation.equation,
        "numerics": simulation.numerics,
    }
    marker = {**settings, "samples": samples}
    store = BatchStore(path)
    if _exists(path, marker, overwrite=overwrite) and not store.directory.exists():
        return path, False
    with cache.lock(path.parent / LOCKS / path.name, str(path)):
        # another process may have generated it meanwhile
        if _exists(path, marker, overwrite=overwrite):
            store.remove()  # left by a process that was killed before it removed them
            return path, False
        with _disk_errors(path.parent), store.opened(settings):
            # The stored batches and the file exist at the same time.
            num_bytes = simulation.layout.num_bytes
            num_stored = min(store.num_samples(), samples)
            cache.check_space(
                path.parent, 2 * num_bytes(samples) - num_bytes(num_stored)
            )
            _solve_all(simulation, samples, seed, workers, store, progress)
            _write_file(simulation, samples, marker, store)
    logger.info("%s: %d samples of seed %d in %s", name, samples, seed, path)
    return path, True


def _check_number(option: str, value: int, least: int) -> None:
    if value < least:
        raise UserError(f"{option} must be {least} or more, got {value}")


def _write_file(
    simulation: Simulation, samples: int, marker: Mapping[str, Any], store: BatchStore
) -> None:
    """Write the stored batches to the output file, which appears when complete."""
    import h5py

    # the store removes this file if the generation fails
    temporary = store.directory / f"{store.path.name}.tmp"
    with h5py.File(temporary, "w") as file:
        simulation.layout.create(file, samples)
        file.attrs[MARK] = json.dumps(marker, sort_keys=True)
        for start, stop in simulation.batches(samples):
            simulation.layout.write(file, start, store.load(start, stop))
    cache.replace_file(temporary, store.path)


def _exists(path: Path, marker: dict[str, Any], *, overwrite: bool) -> bool:
    """Return whether the file with this ``marker`` exists; UserError for another file.

    A file generated with other options may be there if ``overwrite`` is true.
    """
    import h5py

    if not path.exists():
        return False
    file_marker = None
    with (
        contextlib.suppress(OSError, KeyError, ValueError, TypeError),
        h5py.File(path) as file,
    ):
        file_marker = cache.parse_json(file.attrs[MARK], str(path))
    if file_marker == marker:
        return True
    if file_marker is None:
        raise UserError(
            f"{path} exists and was not generated: it is left alone; choose another"
            " --out"
        )
    if not overwrite:
        keys = ("task", "samples", "seed", "version")
        options = ", ".join(f"{key} {file_marker.get(key)}" for key in keys)
        raise UserError(
            f"{path} exists and was generated with other options ({options}); add"
            " --overwrite, or choose another --out"
        )
    return False


@contextlib.contextmanager
def _disk_errors(directory: Path) -> Iterator[None]:
    """Convert errors of a full or read-only disk, also those of h5py, to `UserError`.

    h5py does not set the number of the error.
    """
    try:
        with cache.disk_errors(directory):
            yield
    except OSError as error:
        if "No space left" not in str(error):  # h5py omits the error number
            raise
        raise UserError(
            f"no space left on the disk of {directory}: free some, or choose --out"
        ) from error


def _solve_all(
    simulation: Simulation,
    samples: int,
    seed: int,
    workers: int,
    store: BatchStore,
    progress: ReportSolved | None,
) -> None:
    """Solve and store the batches that are not stored, in order.

    An error terminates the workers at once.
    """
    missing = [
        (start, stop)
        for start, stop in simulation.batches(samples)
        if not store.file(start, stop).exists()
    ]
    num_solved = samples - sum(stop - start for start, stop in missing)
    name = simulation.name
    if num_solved:
        logger.info("%s: continues after %d of %d samples", name, num_solved, samples)
    with contextlib.ExitStack() as stack:
        results: Iterator[None]
        if workers == 1 or len(missing) < 2:
            results = starmap(partial(_solve, store, name, seed), missing)
        else:
            pool = stack.enter_context(_pool(min(workers, len(missing))))
            futures = [
                _submit(pool, store, name, seed, start, stop) for start, stop in missing
            ]
            results = map(Future.result, futures)
        for (start, stop), _ in zip(missing, results, strict=True):
            num_solved += stop - start
            if progress is not None:
                progress(num_solved, samples)


def _submit(pool: ProcessPoolExecutor, *batch: Any) -> Future[None]:
    """Submit a batch with SIGINT blocked.

    A worker that is started by it ignores Ctrl-C, which the parent handles.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        return pool.submit(_solve, *batch)
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})


def _solve(store: BatchStore, name: str, seed: int, start: int, stop: int) -> None:
    """Solve and store a batch.

    The fields are not returned: a worker terminated while it returns results would
    leave the parent waiting forever.
    """
    np.empty(_TOUCHED_VALUES)
    fields = get_simulation(name).solve(generators(seed, start, stop))
    for key, values in fields.items():
        if not np.isfinite(values).all():
            raise ArithmeticError(
                f"{name}: {key} of samples {start} to {stop - 1} of seed {seed} is not"
                " finite"
            )
    store.save(start, stop, fields)


@contextlib.contextmanager
def _pool(workers: int) -> Iterator[ProcessPoolExecutor]:
    """Yield a pool of single-threaded worker processes.

    They are terminated at the end of the block.
    """
    before = set(multiprocessing.active_children())
    pool = ProcessPoolExecutor(
        workers, multiprocessing.get_context("spawn"), initializer=_start_worker
    )
    try:
        yield pool
    except BrokenProcessPool as error:
        raise UserError(
            "a worker process died, most likely because memory ran out: run the command"
            " again with fewer --workers; it continues after the samples that are done"
        ) from error
    finally:
        for process in set(multiprocessing.active_children()) - before:
            process.terminate()
        pool.shutdown(wait=True, cancel_futures=True)


def _start_worker() -> None:
    threadpool_limits(limits=1)
    end_with_parent()
