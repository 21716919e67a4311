"""Solved batches on disk, from which the generation of a file continues after an interruption."""

import contextlib
import json
import logging
import shutil
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from orca_ray.data import cache
from orca_ray.errors import UserError
from orca_ray.simulation.simulation import Fields

logger = logging.getLogger(__name__)

SETTINGS = "settings.json"
"""File in the directory that describes how its batches were made."""


@dataclass(frozen=True)
class BatchStore:
    """The solved batches of the file ``path``, in a hidden directory next to it until the file is complete."""

    path: Path

    @property
    def directory(self) -> Path:
        """The hidden directory."""
        return self.path.with_name(f".{self.path.name}.parts")

    @contextlib.contextmanager
    def opened(self, settings: Mapping[str, Any]) -> Iterator[None]:
        """Create the directory for a block; remove it when the block succeeds, or when it fails without a batch.

        Batches made with other ``settings`` are removed. The caller holds :func:`orca_ray.data.cache.lock`.
        """
        if self._read_settings() != settings:
            if samples := self.num_samples():
                logger.warning("%s: %d samples that were solved with other settings are removed", self.path, samples)
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
        """Remove all batches; the caller holds the lock."""
        shutil.rmtree(self.directory, ignore_errors=True)

    def num_samples(self) -> int:
        """Return the number of samples that are solved."""
        bounds = (batch.stem.split("-") for batch in self.directory.glob("*.npz"))
        return sum(int(stop) - int(start) for start, stop in bounds)

    def has(self, start: int, stop: int) -> bool:
        """Return whether the batch of the samples ``start`` to ``stop`` (exclusive) is solved."""
        return self._file(start, stop).exists()

    def save(self, start: int, stop: int, fields: Fields) -> None:
        """Write a batch atomically."""
        file = self._file(start, stop)
        temporary = file.with_suffix(".tmp")
        with temporary.open("wb") as stream:
            np.savez(stream, **fields)  # type: ignore[arg-type]  # numpy 2.0 takes any other keyword for an array
        cache.replace_file(temporary, file)

    def load(self, start: int, stop: int) -> Fields:
        """Read a batch; a damaged one is removed and reported by a UserError."""
        file = self._file(start, stop)
        try:
            with np.load(file) as arrays:
                return {name: arrays[name] for name in arrays.files}
        except (ValueError, EOFError, zipfile.BadZipFile) as error:
            file.unlink(missing_ok=True)
            advice = "run the command again to solve it anew"
            raise UserError(f"{file} was damaged ({error}) and has been removed: {advice}") from error

    def _file(self, start: int, stop: int) -> Path:
        return self.directory / f"{start}-{stop}.npz"

    def _remove_temporary_files(self) -> None:
        for temporary in self.directory.glob("*.tmp"):
            temporary.unlink(missing_ok=True)

    def _read_settings(self) -> Any:
        try:
            return cache.read_json(self.directory / SETTINGS)
        except (OSError, UserError):
            return None
