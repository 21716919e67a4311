"""Workspace of a task's ``build``: raw files, and arrays on the disk that an interrupted build continues."""

import contextlib
import json
import logging
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from orca_ray.data import cache
from orca_ray.data.raw import how_to_get
from orca_ray.data.rows import Array
from orca_ray.errors import UserError

logger = logging.getLogger(__name__)

PROGRESS = "progress.json"
"""File that lists the finished batches of a build."""


@dataclass
class Workspace:
    """One build of one task's arrays; large ones are made by `array` and filled in `batches`, which continue."""

    task: str
    raw: Path
    """Directory of the raw files."""
    directory: Path
    """Directory of the arrays; becomes the prepared directory when the build is complete."""
    protocol: str = "held-out"
    """Protocol of the splits; see `orca_ray.data.protocol`."""
    identity: str = ""
    """Everything the build depends on; a build of another identity is not continued."""
    _done: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        with contextlib.suppress(UserError, OSError, ValueError, KeyError, TypeError):
            content = cache.read_json(self.directory / PROGRESS)
            if content["identity"] == self.identity:
                self._done = dict(content["done"])

    def file(self, path: str) -> Path:
        """Return a raw file or directory; raises UserError if it is missing or special (FIFO, device, ``/proc``)."""
        found = self.optional(path)
        if found is None:
            raise UserError(f"{self.task}: raw file {path} is not in {self.raw}; {how_to_get(self.task, self.raw)}")
        return found

    def optional(self, path: str) -> Path | None:
        """Return a raw file or directory, or None if it is missing."""
        found = self.raw / path
        if found.exists():
            cache.refuse_special(found, directories=True)
            return found
        return None

    def array(self, name: str, shape: tuple[int, ...], dtype: npt.DTypeLike = np.float32) -> Array:
        """Return the writable array ``name`` (as ``train_x``, ``train_x.pairs``) on the disk; new ones hold zeros."""
        path = self.directory / f"{name}.npy"
        wanted = np.dtype(dtype)
        with cache.disk_errors(self.directory):
            if os.path.lexists(path):
                found: Array | None = None
                with contextlib.suppress(ValueError):  # its process was killed before the header was complete
                    found = None if path.is_symlink() else np.lib.format.open_memmap(path, mode="r+")
                if found is not None and found.shape == shape and found.dtype == wanted:
                    _reserve(path)  # the interruption may have come before
                    return found
                self._done = {}
                self._write_progress()
                path.unlink()
            cache.require_space(self.directory, float(np.prod(shape, dtype=np.int64)) * wanted.itemsize)
            try:
                made = np.lib.format.open_memmap(path, mode="w+", dtype=wanted, shape=shape)
                _reserve(path)
            except BaseException:
                path.unlink(missing_ok=True)
                raise
            return made

    def batches(self, stage: str, num_items: int, size: int, *arrays: Array) -> Iterator[slice]:
        """Yield slices of ``size`` items that are not done yet; ``arrays`` are flushed to the disk after each.

        ``stage`` names this pass over the items uniquely; ``size`` is the work that an interruption may cost.
        """
        if first := self._done.get(stage, 0):
            logger.info("%s: %s goes on after %d of %d", self.task, stage, first, num_items)
        for start in range(first, num_items, size):
            end = min(start + size, num_items)
            yield slice(start, end)
            for array in arrays:
                if isinstance(array, np.memmap):
                    array.flush()
            self._done[stage] = end
            self._write_progress()
            logger.info("%s: %s %d of %d", self.task, stage, end, num_items)

    @property
    def started(self) -> bool:
        """Whether any batch is done, so that the build is worth continuing."""
        return bool(self._done)

    def _write_progress(self) -> None:
        cache.write_text(self.directory / PROGRESS, json.dumps({"identity": self.identity, "done": self._done}))


def _reserve(path: Path) -> None:
    """Reserve the disk space of a sparse file; filling a mapped page without space would kill the process."""
    if not hasattr(os, "posix_fallocate"):
        return
    with path.open("rb+") as stream:
        try:
            os.posix_fallocate(stream.fileno(), 0, path.stat().st_size)
        except OSError as error:
            if error.errno in cache.DISK_FULL:
                raise
            logger.debug("space for %s is not reserved: %s", path, error)  # the file system cannot
