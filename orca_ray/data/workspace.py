"""Access to raw files, and arrays on disk to fill, for a task's ``build``; an interrupted build can be continued."""

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
"""JSON file that records how many items of each stage of a build are done."""


@dataclass
class Workspace:
    """One build of one task's arrays, which creates large arrays with `array` and fills them in a loop over `batches`.

    After an interruption, the next build gets the same arrays again, and `batches` skips the finished items.
    """

    task: str
    raw: Path
    """Directory of the raw files."""
    directory: Path
    """Directory of the arrays; it is renamed to the prepared-data directory when the build is complete."""
    protocol: str = "held-out"
    """Protocol that selects the splits; see `orca_ray.data.protocol`."""
    identity: str = ""
    """Text that describes what the build depends on (see `prepared.prepare`); if it changed, a build starts anew."""
    _done: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        with contextlib.suppress(UserError, OSError, ValueError, KeyError, TypeError):
            content = cache.read_json(self.directory / PROGRESS)
            if content["identity"] == self.identity:
                self._done = dict(content["done"])

    def file(self, path: str) -> Path:
        """Return the path of a raw file or directory; UserError if it is missing or special (pipe, device, /proc)."""
        found = self.optional(path)
        if found is None:
            raise UserError(f"{self.task}: raw file {path} is not in {self.raw}; {how_to_get(self.task, self.raw)}")
        return found

    def optional(self, path: str) -> Path | None:
        """Return the path of a raw file or directory as `file` does, but None if it is missing."""
        found = self.raw / path
        if found.exists():
            cache.refuse_special(found, directories=True)
            return found
        return None

    def array(self, name: str, shape: tuple[int, ...], dtype: npt.DTypeLike = np.float32) -> Array:
        """Return the array ``name`` (e.g. ``train_x``, ``train_x.pairs``), a writable memory map; a new one is zero."""
        path = self.directory / f"{name}.npy"
        wanted = np.dtype(dtype)
        with cache.disk_errors(self.directory):
            if os.path.lexists(path):
                found: Array | None = None
                with contextlib.suppress(ValueError):  # a process was killed before it wrote the header
                    found = None if path.is_symlink() else np.lib.format.open_memmap(path, mode="r+")
                if found is not None and found.shape == shape and found.dtype == wanted:
                    _reserve(path)  # in case the interrupted process had not done so
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
        """Yield slices of ``size`` of the ``num_items`` items, except those that an interrupted build has done.

        After each slice, ``arrays`` are synced to disk and the progress is recorded under ``stage``, a unique name of
        this loop. An interruption loses the work of at most one slice.
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
        """Whether any batch is done; only then is an interrupted build continued."""
        return bool(self._done)

    def _write_progress(self) -> None:
        cache.write_text(self.directory / PROGRESS, json.dumps({"identity": self.identity, "done": self._done}))


def _reserve(path: Path) -> None:
    """Reserve disk space for a whole sparse file: writing to a memory map on a full disk would kill the process."""
    if not hasattr(os, "posix_fallocate"):
        return
    with path.open("rb+") as stream:
        try:
            os.posix_fallocate(stream.fileno(), 0, path.stat().st_size)
        except OSError as error:
            if error.errno in cache.DISK_FULL:
                raise
            logger.debug("space for %s is not reserved: %s", path, error)  # the file system does not support it
