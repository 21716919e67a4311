"""The marker file of a results store: says that a folder is a store, and the version of
the tables' columns.
"""

import json
import logging
from typing import Any

import pyarrow as pa

from orca_ray.errors import UserError
from orca_ray.results.folder import Folder
from orca_ray.version import __version__

logger = logging.getLogger(__name__)

MARKER = "orca-ray-results.json"
SCHEMA_VERSION = 7
"""Version of the tables' columns. Stores of versions 3 to 6 can be read; the first
write changes their marker to this version, so that an older orca-ray refuses the whole
store instead of failing on single files.
"""
_FORMAT = "orca-ray results"


class Marker:
    """The marker file of a store.

    Methods raise UserError if the folder is no store, or a store of a later version.
    """

    def __init__(self, folder: Folder, *, create: bool) -> None:
        """Check the marker; with ``create``, write one if the folder does not exist or
        is empty.
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
        self._check()

    def claim(self) -> None:
        """Write `SCHEMA_VERSION` to the marker of an older store, before the first file
        of this version is written.
        """
        if self._version == SCHEMA_VERSION:
            return
        content = (
            self._check()
        )  # again: another process may have changed it, even to a newer version
        if self._version < SCHEMA_VERSION:
            self._write(
                {**content, "schema_version": SCHEMA_VERSION, "raised_by": __version__}
            )
            self._version = SCHEMA_VERSION
            logger.info(
                "raised %s to schema version %d", self._folder.name, SCHEMA_VERSION
            )

    def _initialise(self, create: bool) -> None:
        folder = self._folder
        names = folder.names() if folder.kind() == "directory" else []
        if MARKER in names:  # another process created the store meanwhile
            return
        if names:
            advice = "Give another directory with --results, or an empty one."
            raise UserError(
                f"{folder.name} is not a results store: it has files but no {MARKER}."
                f" {advice}"
            )
        if not create:
            advice = (
                "run `orca-sweep benchmark NAME` first, or give another directory with"
                " --results."
            )
            raise UserError(f"no results at {folder.name}: {advice}")
        folder.create()
        self._write(
            {
                "format": _FORMAT,
                "schema_version": SCHEMA_VERSION,
                "created_by": __version__,
            }
        )

    def _check(self) -> dict[str, Any]:
        """Return the content and store its version; raise UserError if it is damaged,
        or newer than this orca-ray.
        """
        content = self._read() or {}
        version = content.get("schema_version")
        if content.get("format") != _FORMAT or not isinstance(version, int):
            right = json.dumps({"format": _FORMAT, "schema_version": SCHEMA_VERSION})
            advice = f"Restore the file with {right} if it is one."
            raise UserError(
                f"{self._folder.name}/{MARKER} is damaged, so this may not be a results"
                f" store. {advice}"
            )
        if version > SCHEMA_VERSION:
            found = f"schema {version}, this one reads up to {SCHEMA_VERSION}"
            found += f"; created by {content.get('created_by', 'unknown')}"
            raise UserError(
                f"{self._folder.name} was written by a newer orca-ray ({found}), as"
                f" {MARKER} says: upgrade orca-ray."
            )
        self._version = version
        return content

    def _read(self) -> dict[str, Any] | None:
        """Return the object in the file: None if there is no file, an empty one if its
        content is not an object.
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
        self._folder.write(
            MARKER, pa.py_buffer(json.dumps(content, indent=1).encode() + b"\n")
        )
