"""Generating a file: batches solved here or by worker processes, kept on the disk, then the whole file at once."""

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
from orca_ray.data.raw import LOCKS
from orca_ray.errors import UserError
from orca_ray.simulation import files, parts
from orca_ray.simulation.registry import simulation
from orca_ray.simulation.simulation import Fields, Simulation, generators, keep_memory

logger = logging.getLogger(__name__)

DIRECTORY = "pdebench_generated"
"""Below the raw directory: the benchmark that reads generated files, apart from the one that reads downloaded ones."""

Progress = Callable[[int, int], None]
"""Is told how many samples of how many are solved."""


def target(name: str, directory: Path | None = None) -> Path:
    """Return where the file of a task goes: into ``directory``, or to where ``pdebench_generated`` looks for it."""
    return (directory or cache.home() / "raw" / DIRECTORY) / simulation(name).file


def solved(name: str, directory: Path | None = None) -> int:
    """Return how many samples of a task an interruption left solved; arguments as of `target`."""
    return parts.num_samples(target(name, directory))


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

    What an interruption leaves solved is not solved again by the next call with the same name, seed and directory.

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
    settings = {
        "task": name,
        "seed": seed,
        "version": __version__,
        "equation": chosen.equation,
        "numerics": chosen.numerics,
    }
    marker = {**settings, "samples": samples}
    if _is_there(path, marker, overwrite=overwrite) and not parts.directory_of(path).exists():
        return path, False
    with cache.lock(path.parent / LOCKS / path.name, str(path)):
        if _is_there(path, marker, overwrite=overwrite):  # another process was faster
            parts.remove(path)  # of one that ended before it had tidied up
            return path, False
        with files.disk_errors(path.parent), parts.kept(path, settings) as scratch:
            _require_space(path, chosen, samples)
            _solve_all(chosen, samples, seed, workers, scratch, progress)
            _write(path, chosen, samples, scratch, marker)
    logger.info("%s: %d samples of seed %d in %s", name, samples, seed, path)
    return path, True


def _is_there(path: Path, marker: dict[str, Any], *, overwrite: bool) -> bool:
    """Whether ``path`` is already what is wanted; raises UserError where it is something that must not be replaced."""
    if not path.exists():
        return False
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


def _require_space(path: Path, chosen: Simulation, samples: int) -> None:
    """Raise UserError where the disk has no room for the batches that are not there yet, and for the file itself."""
    num_bytes = chosen.layout.num_bytes
    cache.require_space(path.parent, 2 * num_bytes(samples) - num_bytes(min(parts.num_samples(path), samples)))


def _bounds(chosen: Simulation, samples: int) -> list[tuple[int, int]]:
    return [(start, min(start + chosen.batch, samples)) for start in range(0, samples, chosen.batch)]


def _solve_all(
    chosen: Simulation, samples: int, seed: int, workers: int, scratch: Path, progress: Progress | None
) -> None:
    """Leave every batch in ``scratch``; those that are there already are not solved again."""
    missing = [bound for bound in _bounds(chosen, samples) if not parts.is_there(scratch, *bound)]
    done = samples - sum(stop - start for start, stop in missing)
    if done:
        logger.info("%s: goes on after %d of %d samples", chosen.name, done, samples)
    with _solved(scratch, (chosen.name, seed), missing, workers) as batches:
        for start, stop in batches:
            done += stop - start
            if progress is not None:
                progress(done, samples)


def _write(path: Path, chosen: Simulation, samples: int, scratch: Path, marker: dict[str, Any]) -> None:
    with files.whole_file(path, scratch) as file:
        chosen.layout.create(file, samples)
        files.mark(file, marker)
        for start, stop in _bounds(chosen, samples):
            chosen.layout.write(file, start, parts.load(scratch, start, stop))


@contextlib.contextmanager
def _solved(
    scratch: Path, what: tuple[str, int], bounds: list[tuple[int, int]], workers: int
) -> Iterator[Iterator[tuple[int, int]]]:
    """Yield an iterator over the batches in order, each of which is kept when it is told."""
    if workers == 1 or len(bounds) < 2:
        yield _one_by_one(scratch, what, bounds)
        return
    with _pool(min(workers, len(bounds))) as pool:
        yield _from_pool(pool, scratch, what, bounds)


def _one_by_one(scratch: Path, what: tuple[str, int], bounds: list[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    for bound in bounds:
        _solve_into(scratch, *what, *bound)
        yield bound


def _from_pool(
    pool: ProcessPoolExecutor, scratch: Path, what: tuple[str, int], bounds: list[tuple[int, int]]
) -> Iterator[tuple[int, int]]:
    try:
        futures = [_submit(pool, scratch, *what, *bound) for bound in bounds]
        for bound, future in zip(bounds, futures, strict=True):
            future.result()
            yield bound
    except BrokenProcessPool as error:
        raise UserError(
            "a worker process died, most likely for want of memory: run the command again with fewer --workers, it "
            "goes on from the samples that are done"
        ) from error


def _submit(pool: ProcessPoolExecutor, scratch: Path, name: str, seed: int, start: int, stop: int) -> Future[None]:
    """Submit a batch, which may start a worker; Ctrl-C waits meanwhile.

    A terminal sends it to all processes. A worker inherits that it is held back, for good: its parent will end it.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        return pool.submit(_solve_into, scratch, name, seed, start, stop)
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})


def _solve_into(scratch: Path, name: str, seed: int, start: int, stop: int) -> None:
    """Solve a batch and keep it on the disk.

    It does not go through the pool's pipe: a worker that is ended while it writes a long message there leaves half of
    it, and the parent waits for the other half for ever.
    """
    parts.save(scratch, start, stop, _solve(name, seed, start, stop))


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
