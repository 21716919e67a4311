"""Generation of a file: solve batches of samples (if requested, in worker processes), store them, write the file."""

import contextlib
import json
import logging
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

from orca_ray import __version__
from orca_ray.data import cache
from orca_ray.data.pdebench_files import MARK
from orca_ray.data.raw import LOCKS
from orca_ray.errors import UserError
from orca_ray.simulation import files
from orca_ray.simulation.batch_store import BatchStore
from orca_ray.simulation.simulation import Bounds, Fields, Simulation, generators, get_simulation, reuse_freed_memory

logger = logging.getLogger(__name__)

DIRECTORY = "pdebench_generated"
"""Subdirectory for generated files, named after the benchmark that reads them."""

Progress = Callable[[int, int], None]
"""Called with the number of solved samples and the total number of samples."""


def target(name: str, directory: Path | None = None) -> Path:
    """Return the path of a task's file in ``directory`` (None: where the benchmark ``pdebench_generated`` reads it)."""
    return (directory or cache.home() / "raw" / DIRECTORY) / get_simulation(name).file


def solved(name: str, directory: Path | None = None) -> int:
    """Return how many samples an interrupted generation has solved and stored; arguments as for `target`."""
    return BatchStore(target(name, directory)).num_samples()


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
    """Generate a task's file; return its path, and True if it was generated now, False if it existed already.

    After an interruption, the next call with the same name, seed and directory continues with the stored batches.

    Args:
        name: ``pdebench/task``.
        samples: number of samples.
        seed: random seed; sample i depends only on ``seed`` and i, not on ``samples`` or ``workers``.
        directory: directory of the file; None: the default of `target`.
        workers: number of processes.
        overwrite: whether to replace a file that was generated with other options.
        progress: called after every batch.

    Raises UserError for an unknown name, a number out of range, a file that must not be replaced, a full disk, and a
    killed worker process.
    """
    chosen = get_simulation(name)
    for option, value, least in (("samples", samples, 1), ("seed", seed, 0), ("workers", workers, 1)):
        if value < least:
            raise UserError(f"{option} must be {least} or more, got {value}")
    path = target(name, directory)
    settings: dict[str, Any] = {"task": name, "seed": seed, "version": __version__}
    settings |= {"equation": chosen.equation, "numerics": chosen.numerics}
    marker = {**settings, "samples": samples}
    store = BatchStore(path)
    if _exists(path, marker, overwrite=overwrite) and not store.directory.exists():
        return path, False
    with cache.lock(path.parent / LOCKS / path.name, str(path)):
        if _exists(path, marker, overwrite=overwrite):  # another process has generated it meanwhile
            store.remove()  # batches left by a process that was killed before it removed them
            return path, False
        with files.disk_errors(path.parent), store.opened(settings):
            # The stored batches and the file both need space.
            num_bytes = chosen.layout.num_bytes
            cache.require_space(path.parent, 2 * num_bytes(samples) - num_bytes(min(store.num_samples(), samples)))
            _solve_all(chosen, samples, seed, workers, store, progress)
            with files.atomic_file(path, store.directory) as file:
                chosen.layout.create(file, samples)
                file.attrs[MARK] = json.dumps(marker, sort_keys=True)
                for bounds in chosen.batches(samples):
                    chosen.layout.write(file, bounds[0], store.load(*bounds))
    logger.info("%s: %d samples of seed %d in %s", name, samples, seed, path)
    return path, True


def _exists(path: Path, marker: dict[str, Any], *, overwrite: bool) -> bool:
    """Return whether the requested file exists at ``path``; raises UserError for a file that must not be replaced."""
    if not path.exists():
        return False
    found = files.read_marker(path)
    if found == marker:
        return True
    if found is None:
        raise UserError(f"{path} exists and was not made by 'data generate': it is left alone; choose another --out")
    if not overwrite:
        options = ", ".join(f"{key} {found.get(key)}" for key in ("task", "samples", "seed", "version"))
        raise UserError(
            f"{path} exists and was generated with other options ({options}); add --overwrite, or choose another --out"
        )
    return False


def _solve_all(
    chosen: Simulation, samples: int, seed: int, workers: int, store: BatchStore, progress: Progress | None
) -> None:
    missing = [bounds for bounds in chosen.batches(samples) if not store.has(*bounds)]
    done = samples - sum(stop - start for start, stop in missing)
    if done:
        logger.info("%s: continues after %d of %d samples", chosen.name, done, samples)
    # Closing the generator ends the workers at once, also when ``progress`` raises.
    with contextlib.closing(_solved(store, chosen.name, seed, missing, workers)) as batches:
        for start, stop in batches:
            done += stop - start
            if progress is not None:
                progress(done, samples)


def _solved(
    store: BatchStore, name: str, seed: int, missing: list[Bounds], workers: int
) -> Generator[Bounds, None, None]:
    """Solve and store the ``missing`` batches; yield the bounds of each, in order, once it is stored."""
    if workers == 1 or len(missing) < 2:
        for bounds in missing:
            _solve_and_store(store, name, seed, *bounds)
            yield bounds
        return
    with _pool(min(workers, len(missing))) as pool:
        try:
            futures = [_submit(pool, store, name, seed, *bounds) for bounds in missing]
            for bounds, future in zip(missing, futures, strict=True):
                future.result()
                yield bounds
        except BrokenProcessPool as error:
            raise UserError(
                "a worker process died, most likely because memory ran out: run the command again with fewer "
                "--workers; it continues after the samples that are done"
            ) from error


def _submit(pool: ProcessPoolExecutor, *batch: Any) -> Future[None]:
    """Submit a batch with SIGINT blocked, which a newly started worker inherits: only the parent handles Ctrl-C."""
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        return pool.submit(_solve_and_store, *batch)
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})


def _solve_and_store(store: BatchStore, name: str, seed: int, start: int, stop: int) -> None:
    # Results do not go through the pool's pipe: the parent would wait for ever for a worker killed while sending.
    store.save(start, stop, _solve(name, seed, start, stop))


def _solve(name: str, seed: int, start: int, stop: int) -> Fields:
    reuse_freed_memory()
    fields = get_simulation(name).solve(generators(seed, start, stop))
    for key, values in fields.items():
        if not np.isfinite(values).all():
            raise ArithmeticError(f"{name}: {key} of samples {start} to {stop - 1} of seed {seed} is not finite")
    return fields


@contextlib.contextmanager
def _pool(workers: int) -> Iterator[ProcessPoolExecutor]:
    """Yield a pool of single-threaded worker processes; terminate them at the end of the block."""
    before = set(multiprocessing.active_children())
    pool = ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), initializer=_start_worker)
    try:
        yield pool
    finally:
        for process in set(multiprocessing.active_children()) - before:
            process.terminate()
        pool.shutdown(wait=True, cancel_futures=True)


def _start_worker() -> None:
    """Limit this worker process to one thread, and make it exit when its parent exits or is killed."""
    threadpool_limits(limits=1)
    parent = multiprocessing.parent_process()
    assert parent is not None

    def wait() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()
