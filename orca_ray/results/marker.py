"""The marker file of a results store, with the version of the tables' columns."""

import json
import logging
from typing import Any

import pyarrow as pa

from orca_ray.errors import NewerStoreError, UserError
from orca_ray.results.folder import Folder
from orca_ray.version import __version__

logger = logging.getLogger(__name__)

MARKER = "orca-ray-results.json"
"""Name of the marker file."""
SCHEMA_VERSION = 7
"""Version of the tables' columns.

Stores of versions 3 to 6 can be read; the first write changes their marker to this
version, so that an older orca-ray refuses the whole store instead of failing on single
files.
"""
_FORMAT = "orca-ray results"
"""Value of the marker's field ``format``."""


class Marker:
    """The marker file of a store.

    Methods raise UserError if the folder is no store, or a store of a later version.
    """

    def __init__(self, folder: Folder, *, create: bool) -> None:
        """Check the marker.

        ``create``: write a marker if the folder does not exist or is empty.
        """
        self._folder = folder
        if folder.kind() == "file":
            raise UserError(
                f"{folder.name} is a file, not a results store: give a directory with"
                " --results."
            )
        if self._read() is None:
            self._initialise(create)
        self._version = 0
        self.check()

    def upgrade(self) -> None:
        """Change the version in the marker of an older store to `SCHEMA_VERSION`.

        Call it before the first file of this version is written.
        """
        if self._version == SCHEMA_VERSION:
            return
        # Another process may have changed the marker, even to a newer version.
        content = self.check()
        if self._version < SCHEMA_VERSION:
            self._write(
                content | {"schema_version": SCHEMA_VERSION, "raised_by": __version__}
            )
            self._version = SCHEMA_VERSION
            logger.info(
                "raised %s to schema version %d", self._folder.name, SCHEMA_VERSION
            )

    def _initialise(self, create: bool) -> None:
        """Write a marker in a folder that has none.

        Raises UserError if the folder has other files, or without ``create``.
        """
        folder = self._folder
        names = folder.names() if folder.kind() == "directory" else []
        if MARKER in names:  # another process created the store meanwhile
            return
        if names:
            raise UserError(
                f"{folder.name} is not a results store: it has files but no {MARKER}."
                " Give another directory with --results, or an empty one."
            )
        if not create:
            raise UserError(
                f"no results at {folder.name}: run `orca-sweep benchmark NAME` first,"
                " or give another directory with --results."
            )
        folder.create()
        marker = {
            "format": _FORMAT,
            "schema_version": SCHEMA_VERSION,
            "created_by": __version__,
        }
        self._write(marker)

    def check(self) -> dict[str, Any]:
        """Return the content and store its version.

        Raises UserError if the marker is damaged, and NewerStoreError if it is newer
        than this orca-ray.
        """
        content = self._read()
        if content is None:
            content = {}
        version = content.get("schema_version")
        if content.get("format") != _FORMAT or not isinstance(version, int):
            intact = json.dumps({"format": _FORMAT, "schema_version": SCHEMA_VERSION})
            raise UserError(
                f"{self._folder.name}/{MARKER} is damaged, so this may not be a results"
                f" store. Restore the file with {intact} if it is one."
            )
        if version > SCHEMA_VERSION:
            creator = content.get("created_by", "unknown")
            raise NewerStoreError(
                f"{self._folder.name} was written by a newer orca-ray (schema"
                f" {version}, this one reads up to {SCHEMA_VERSION}; created by"
                f" {creator}), as {MARKER} says: upgrade orca-ray."
            )
        self._version = version
        return content

    def _read(self) -> dict[str, Any] | None:
        """Return the object in the file; None if there is no file.

        The object is empty if the content is not a JSON object.
        """
        try:
            content = self._folder.read(MARKER).to_pybytes()
        except FileNotFoundError:
            return None
        try:
            value = json.loads(content)
        except (ValueError, RecursionError):
            return {}
        return value if isinstance(value, dict) else {}

    def _write(self, content: dict[str, Any]) -> None:
        text = json.dumps(content, indent=1) + "\n"
        self._folder.write(MARKER, pa.py_buffer(text.encode()))
