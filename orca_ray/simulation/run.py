"""Generating a file: batches solved here or by worker processes, written in order, the file whole or not there."""

import contextlib
import logging
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

import numpy as np

from orca_ray import __version__
from orca_ray.data import cache
from orca_ray.errors import UserError
from orca_ray.simulation import files
from orca_ray.simulation.registry import simulation
from orca_ray.simulation.simulation import Fields, Simulation, generators, keep_memory

logger = logging.getLogger(__name__)

DIRECTORY = "pdebench_generated"
"""Below the raw directory: the benchmark that reads generated files, apart from the one that reads downloaded ones."""

Progress = Callable[[int, int], None]
"""Is told how many samples of how many are written."""

_AHEAD = 2
"""Batches a worker has beside the one it solves: enough to keep it busy, few enough to hold in memory."""


def target(name: str, directory: Path | None = None) -> Path:
    """Return where the file of a task goes: into ``directory``, or to where ``pdebench_generated`` looks for it."""
    return (directory or cache.home() / "raw" / DIRECTORY) / simulation(name).file


def generate(
    name: str,
    samples: int,
    *,
    seed: int = 0,
    directory: Path | None = None,
    workers: int = 1,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> tuple[Path, bool]:
    """Generate a task's file and return its path, and whether it was made now (rather than found, as asked for).

    Args:
        name: ``pdebench/task``, of :mod:`orca_ray.simulation.registry`.
        samples: how many.
        seed: sample i of one seed is the same in every file, whatever ``samples`` and ``workers`` are.
        directory: where to; None: the raw directory of ``pdebench_generated``.
        workers: processes.
        overwrite: whether a generated file that was made otherwise may be replaced.
        progress: is told after every batch.

    Raises:
        UserError: unknown name, numbers out of range, a file in the way, a full disk, a worker killed.
    """
    chosen = simulation(name)
    for option, value, least in (("samples", samples, 1), ("seed", seed, 0), ("workers", workers, 1)):
        if value < least:
            raise UserError(f"{option} must be {least} or more, got {value}")
    path = target(name, directory)
    marker = {
        "task": name,
        "samples": samples,
        "seed": seed,
        "version": __version__,
        "equation": chosen.equation,
        "numerics": chosen.numerics,
    }
    if path.exists() and _is_there(path, marker, overwrite=overwrite):
        return path, False
    with files.whole_file(path, chosen.layout.num_bytes(samples)) as file:
        chosen.layout.create(file, samples)
        files.mark(file, marker)
        with _batches(chosen, samples, seed, workers, path.parent) as batches:
            for start, stop, fields in batches:
                chosen.layout.write(file, start, fields)
                if progress is not None:
                    progress(stop, samples)
    logger.info("%s: %d samples of seed %d in %s", name, samples, seed, path)
    return path, True


def _is_there(path: Path, marker: dict[str, Any], *, overwrite: bool) -> bool:
    """Whether ``path`` is already what is wanted; raises UserError where it is something that must not be replaced."""
    found = files.read_marker(path)
    if found == marker:
        return True
    if found is None:
        raise UserError(
            f"{path} is there and is not a file that 'data generate' made: it is left alone; choose another --out"
        )
    if not overwrite:
        told = ", ".join(f"{key} {found.get(key)}" for key in ("task", "samples", "seed", "version"))
        raise UserError(f"{path} is there, generated otherwise ({told}); add --overwrite, or choose another --out")
    return False


@contextlib.contextmanager
def _batches(
    chosen: Simulation, samples: int, seed: int, workers: int, directory: Path
) -> Iterator[Iterator[tuple[int, int, Fields]]]:
    """Yield an iterator of (start, stop, fields), in order; what workers solve passes through ``directory``."""
    bounds = [(start, min(start + chosen.batch, samples)) for start in range(0, samples, chosen.batch)]
    if workers == 1 or len(bounds) == 1:
        yield ((start, stop, _solve(chosen.name, seed, start, stop)) for start, stop in bounds)
        return
    with cache.scratch_directory(directory) as scratch, _pool(min(workers, len(bounds))) as pool:
        yield _from_pool(pool, scratch, (chosen.name, seed), bounds, ahead=_AHEAD * workers)


def _from_pool(
    pool: ProcessPoolExecutor, scratch: Path, what: tuple[str, int], bounds: list[tuple[int, int]], ahead: int
) -> Iterator[tuple[int, int, Fields]]:
    waiting: list[tuple[int, int, Future[list[str]]]] = []
    to_come = iter(bounds)
    while True:
        while len(waiting) < ahead and (bound := next(to_come, None)) is not None:
            waiting.append((*bound, _submit(pool, scratch, *what, *bound)))
        if not waiting:
            return
        start, stop, future = waiting.pop(0)
        try:
            keys = future.result()
        except BrokenProcessPool as error:
            raise UserError(
                "a worker process died, most likely for want of memory: try fewer --workers (nothing was written)"
            ) from error
        paths = {key: _path(scratch, start, key) for key in keys}
        yield start, stop, {key: np.load(path) for key, path in paths.items()}
        for path in paths.values():
            path.unlink()


def _path(scratch: Path, start: int, key: str) -> Path:
    return scratch / f"{start}-{key}.npy"


def _submit(pool: ProcessPoolExecutor, scratch: Path, name: str, seed: int, start: int, stop: int) -> Future[list[str]]:
    """Submit a batch, which may start a worker; Ctrl-C waits meanwhile.

    A terminal sends it to all processes. A worker inherits that it is held back, for good: its parent will end it.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        return pool.submit(_solve_into, scratch, name, seed, start, stop)
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})


def _solve_into(scratch: Path, name: str, seed: int, start: int, stop: int) -> list[str]:
    """Leave the fields in files and return their names.

    They do not go through the pool's pipe: a worker that is ended while it writes a long message there leaves half of
    it, and the parent waits for the other half for ever.
    """
    fields = _solve(name, seed, start, stop)
    for key, values in fields.items():
        np.save(_path(scratch, start, key), values)
    return list(fields)


def _solve(name: str, seed: int, start: int, stop: int) -> Fields:
    keep_memory()
    fields = simulation(name).solve(generators(seed, start, stop))
    for key, values in fields.items():
        if not np.isfinite(values).all():
            raise ArithmeticError(f"{name}: {key} of samples {start} to {stop - 1} of seed {seed} is not finite")
    return fields


@contextlib.contextmanager
def _pool(workers: int) -> Iterator[ProcessPoolExecutor]:
    """Yield worker processes of one thread each; they end at once when the block does, however it does."""
    before = set(multiprocessing.active_children())
    threads = {name: os.environ.get(name) for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS")}
    os.environ.update(dict.fromkeys(threads, "1"))  # a child reads it when it imports numpy
    pool = ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), initializer=_follow_parent)
    try:
        yield pool
    finally:
        for name, value in threads.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
        for process in set(multiprocessing.active_children()) - before:
            process.terminate()
        pool.shutdown(wait=True, cancel_futures=True)


def _follow_parent() -> None:
    """End with the parent, even when it is killed."""
    parent = multiprocessing.parent_process()
    assert parent is not None

    def follow() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=follow, daemon=True).start()
