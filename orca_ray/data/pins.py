"""Lock file of a raw directory: for each file without a published hash, the hash at its first reading (its "pin")."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from orca_ray.data import cache
from orca_ray.errors import UserError, quoted

NAME = "orca-data.lock.json"
_VERSION = 1


class Pin(NamedTuple):
    """Hash and size of one file: as found on the disk, or as recorded in the lock file."""

    sha256: str
    num_bytes: int
    url: str = ""
    """URL from which the file was downloaded; "" for a file that the user supplied."""
    md5: str = ""
    """MD5 in hexadecimal, "" if not computed. The lock file does not store it."""


class Pins:
    """The recorded hashes ("pins") of one raw directory, in ``orca-data.lock.json``.

    Users may share this file and keep it under version control. Several processes may add pins at the same time. An
    existing pin is never replaced: to accept a changed file, the user removes its entry by hand.
    """

    def __init__(self, directory: Path) -> None:
        self.path = directory / NAME

    def read(self) -> Mapping[str, Pin]:
        """Return all pins by path below the raw directory, none without a lock file; UserError if that is invalid."""
        try:
            if not self.path.exists():
                return {}
            content = cache.read_json(self.path)
            if content["version"] != _VERSION:
                raise ValueError(f"version {quoted(content['version'])}, expected {_VERSION}")
            return {str(path): _pin(entry) for path, entry in content["files"].items()}
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise UserError(
                f"{self.path} is no lock file of orca-sweep ({type(error).__name__}: {error}). Restore it from a copy, "
                f"or remove it: then the files of {self.path.parent} are trusted, and pinned, as they are now."
            ) from error

    def add(self, path: str, pin: Pin) -> Pin:
        """Return the recorded pin of ``path``; if it has none, record ``pin``. Raises `UserError` as `read` does."""
        with cache.lock(self.path):
            pins = dict(self.read())
            if path not in pins:
                pins[path] = pin
                entries = {
                    name: {"sha256": each.sha256, "bytes": each.num_bytes, "url": each.url}
                    for name, each in sorted(pins.items())
                }
                with cache.disk_errors(self.path.parent):
                    text = json.dumps({"version": _VERSION, "files": entries}, indent=2)
                    cache.write_text(self.path, text + "\n", durable=True)
            return pins[path]


def _pin(entry: Any) -> Pin:
    sha256, num_bytes, url = entry["sha256"], entry["bytes"], entry.get("url", "")
    hexadecimal = isinstance(sha256, str) and len(sha256) == 64 and set(sha256) <= set("0123456789abcdef")
    if not hexadecimal or type(num_bytes) is not int or num_bytes < 0 or not isinstance(url, str):
        raise ValueError(f"not an entry: {quoted(entry)}")
    return Pin(sha256, num_bytes, url)
