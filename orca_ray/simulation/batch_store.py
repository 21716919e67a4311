"""Storage of solved batches of samples, so that an interrupted generation of a file can be continued."""

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
"""JSON file in the hidden directory with the settings that its batches were solved with."""


@dataclass(frozen=True)
class BatchStore:
    """Stores the solved batches of the output file ``path`` in a hidden directory next to it, until it is complete."""

    path: Path

    @property
    def directory(self) -> Path:
        """The hidden directory that holds the batches."""
        return self.path.with_name(f".{self.path.name}.parts")

    @contextlib.contextmanager
    def opened(self, settings: Mapping[str, Any]) -> Iterator[None]:
        """Create the directory if needed; remove it after the block, unless the block fails and batches are stored.

        Batches that were stored with other ``settings`` are removed before the block. The caller must hold the lock of
        the output file (:func:`orca_ray.data.cache.lock`).
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
        """Remove all batches; the caller must hold the lock."""
        shutil.rmtree(self.directory, ignore_errors=True)

    def num_samples(self) -> int:
        """Return the number of samples in the stored batches."""
        bounds = (batch.stem.split("-") for batch in self.directory.glob("*.npz"))
        return sum(int(stop) - int(start) for start, stop in bounds)

    def has(self, start: int, stop: int) -> bool:
        """Return whether the batch of samples ``start`` to ``stop`` (exclusive) is stored."""
        return self._file(start, stop).exists()

    def save(self, start: int, stop: int, fields: Fields) -> None:
        """Store the ``fields`` of samples ``start`` to ``stop`` (exclusive) atomically."""
        file = self._file(start, stop)
        temporary = file.with_suffix(".tmp")
        with temporary.open("wb") as stream:
            np.savez(stream, **fields)  # type: ignore[arg-type]  # NumPy treats each keyword as an array name
        cache.replace_file(temporary, file)

    def load(self, start: int, stop: int) -> Fields:
        """Return the stored fields of a batch. A damaged batch is removed, and UserError is raised."""
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
            return json.loads((self.directory / SETTINGS).read_text())
        except (OSError, ValueError):
            return None
