"""What a task's ``build`` works with: its raw files, arrays on the disk to fill, and a place to go on from."""

import json
import logging
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from orca_ray.data import cache
from orca_ray.data.raw import how_to_get
from orca_ray.data.rows import Array
from orca_ray.errors import UserError

logger = logging.getLogger(__name__)

PROGRESS = "progress.json"
"""Says which batches are done, in the directory of a build."""


@dataclass
class Workspace:
    """One build of one task's arrays.

    Large arrays are made by `array` and filled batch by batch (`batches`): what was finished before an interruption is
    not done again. Small ones are simply returned by the build.
    """

    task: str
    raw: Path
    """Directory of the raw files."""
    directory: Path
    """Where arrays are made; becomes the prepared directory when the build is whole."""
    protocol: str = "held-out"
    """Whose splits are wanted; see `orca_ray.data.protocol`."""
    identity: str = ""
    """What the build depends on; a directory begun under another is begun anew."""
    _done: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._done = self._read_progress()

    def file(self, path: str) -> Path:
        """Return a raw file; raises UserError where it is not there."""
        found = self.raw / path
        if not found.exists():
            raise UserError(f"{self.task}: raw file {path} is not in {self.raw}; {how_to_get(self.task, self.raw)}")
        return found

    def optional(self, path: str) -> Path | None:
        """Return a raw file, or None where it is not there."""
        found = self.raw / path
        return found if found.exists() else None

    def array(self, name: str, shape: tuple[int, ...], dtype: npt.DTypeLike = np.float32) -> Array:
        """Return a writable array on the disk, zeros where it was not filled before.

        Args:
            name: of a prepared array, e.g. ``train_x``, or of a part of one, ``train_x.pairs``.
            shape: (N, ...), the same at every call.
            dtype: of the numbers.
        """
        path = self.directory / f"{name}.npy"
        wanted = np.dtype(dtype)
        with cache.disk_errors(self.directory):
            if path.exists():
                found = _begun(path)
                if found is not None and found.shape == shape and found.dtype == wanted:
                    _reserve(path)  # an interruption may have come before
                    return found
                self._forget()
            cache.require_space(self.directory, float(np.prod(shape, dtype=np.int64)) * wanted.itemsize)
            try:
                made = np.lib.format.open_memmap(path, mode="w+", dtype=wanted, shape=shape)
                _reserve(path)
            except BaseException:
                path.unlink(missing_ok=True)
                raise
            return made

    def batches(self, stage: str, num_items: int, size: int, *arrays: Array) -> Iterator[slice]:
        """Yield slices of ``size`` items that are not done yet; ``arrays`` are on the disk before the next one is told.

        Args:
            stage: name of this pass over the items, unique in the build.
            num_items: how many there are.
            size: of a batch: what one interruption may cost.
            arrays: what the batches fill.
        """
        start = self._done.get(stage, 0)
        if start:
            logger.info("%s: %s goes on after %d of %d", self.task, stage, start, num_items)
        for begin in range(start, num_items, size):
            end = min(begin + size, num_items)
            yield slice(begin, end)
            for array in arrays:
                if isinstance(array, np.memmap):
                    array.flush()
            self._done[stage] = end
            self._write_progress()
            logger.info("%s: %s %d of %d", self.task, stage, end, num_items)

    @property
    def started(self) -> bool:
        """Whether any batch is done, so that going on is worth more than beginning anew."""
        return bool(self._done)

    def _forget(self) -> None:
        self._done = {}
        self._write_progress()

    def _read_progress(self) -> dict[str, int]:
        try:
            content: dict[str, Any] = json.loads((self.directory / PROGRESS).read_text())
            return dict(content["done"]) if content["identity"] == self.identity else {}
        except (OSError, ValueError, KeyError, TypeError):
            return {}

    def _write_progress(self) -> None:
        temporary = self.directory / f"{PROGRESS}.tmp"
        temporary.write_text(json.dumps({"identity": self.identity, "done": self._done}))
        os.replace(temporary, self.directory / PROGRESS)


def _begun(path: Path) -> Array | None:
    """Return the array of a file, writable; None where its process was killed before the header was whole."""
    try:
        found: Array = np.lib.format.open_memmap(path, mode="r+")
    except ValueError:
        return None
    return found


def _reserve(path: Path) -> None:
    """Take the space of a file that is zeros so far; the system kills who fills a page that finds no room later."""
    if not hasattr(os, "posix_fallocate"):
        return
    with path.open("rb+") as stream:
        try:
            os.posix_fallocate(stream.fileno(), 0, path.stat().st_size)
        except OSError as error:
            if error.errno in cache.DISK_FULL:
                raise
            logger.debug("space for %s is not reserved: %s", path, error)  # a file system that cannot
