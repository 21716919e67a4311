"""Models of trials, in the folder of their results store.

``models/<key of the trial>/`` is a model folder. ``config.json`` is written last and
deleted first, so a directory without it is no model. On a local store, the directory of
a model can be used as it is.
"""

import contextlib
import shutil
from pathlib import Path

import pyarrow as pa

from orca_ray.errors import UserError
from orca_ray.results.folder import InStore, LocalFolder

DIRECTORY = "models"
"""Directory of a store that holds the models."""
_CONFIG = "config.json"
"""File without which a directory is no model."""
_FLOOR_BYTES = 2 * 2**30
"""Free bytes that models leave on the disk of a local store, for records."""


class StoredModels(InStore):
    """The models of a results store.

    Any machine that reaches the store reads, writes and deletes them. Every method
    raises UserError if the file system of the store fails.
    """

    def has(self, key: str) -> bool:
        """Return whether there is a complete model of the trial ``key``."""
        return _CONFIG in self.names(key)

    def place(self, key: str) -> str:
        """Return the path or URI of a model, without credentials."""
        return f"{self._folder.name}/{DIRECTORY}/{key}"

    def add(self, key: str, directory: Path) -> None:
        """Store the files in a local directory as the model of the trial ``key``.

        An earlier model is replaced. Raises UserError if less than 2 GiB would then be
        free on the disk of a local store.
        """
        files = sorted(path for path in directory.iterdir() if path.is_file())
        if isinstance(self._folder, LocalFolder):
            num_bytes = sum(path.stat().st_size for path in files)
            free = shutil.disk_usage(self._folder.path).free
            if free - num_bytes < _FLOOR_BYTES:
                raise UserError(
                    f"{self._folder.name} has {free / 2**30:.1f} GiB free, too little"
                    f" for a model of {num_bytes / 2**30:.1f} GiB and"
                    f" {_FLOOR_BYTES / 2**30:.0f} GiB for records: free some, or use"
                    " --keep-models best or none"
                )
        self.remove(key)
        # `_CONFIG` comes last, so that a model written in part does not count.
        for path in sorted(files, key=lambda path: path.name == _CONFIG):
            self._folder.upload(path, f"{DIRECTORY}/{key}/{path.name}")

    def fetch(self, key: str, directory: Path) -> None:
        """Copy the model of the trial ``key`` to a local directory.

        A model in the directory is replaced. Other files in it stay; the caller decides
        whether the directory may be used.
        """
        names = self._folder.names(f"{DIRECTORY}/{key}")
        directory.mkdir(parents=True, exist_ok=True)
        (directory / _CONFIG).unlink(missing_ok=True)
        # `_CONFIG` comes last, so that a model copied in part does not count.
        for name in sorted(names, key=lambda name: name == _CONFIG):
            self._folder.download(f"{DIRECTORY}/{key}/{name}", directory / name)

    def read(self, key: str, name: str) -> bytes | None:
        """Return the content of a file of a model; None if there is no such file."""
        try:
            return bytes(self._folder.read(f"{DIRECTORY}/{key}/{name}"))
        except FileNotFoundError:
            return None

    def write(self, key: str, name: str, content: bytes) -> None:
        """Write the file ``name`` of a model, in place of an earlier one."""
        self._folder.write(f"{DIRECTORY}/{key}/{name}", pa.py_buffer(content))

    def names(self, key: str) -> list[str]:
        """Return the names of the files that are stored for the trial ``key``."""
        return self._folder.names(f"{DIRECTORY}/{key}")

    def remove(self, key: str, *, keep: str = "") -> None:
        """Delete the model of the trial ``key``, even if it was written only in part.

        ``keep``: name of a file that stays.
        """
        names = self._folder.names(f"{DIRECTORY}/{key}", hidden=True)
        # `_CONFIG` comes first, so that a model deleted in part does not count.
        for name in sorted(set(names) - {keep}, key=lambda name: name != _CONFIG):
            self._folder.delete(f"{DIRECTORY}/{key}/{name}")
        if names and keep not in names and isinstance(self._folder, LocalFolder):
            with contextlib.suppress(OSError):  # a user may have put a directory there
                (self._folder.path / DIRECTORY / key).rmdir()
