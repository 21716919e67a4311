"""The lock file of a raw directory: what each file was when it was first seen, where nobody published its hash."""

import contextlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from orca_ray.data import cache
from orca_ray.errors import UserError

NAME = "orca-data.lock.json"
_VERSION = 1


@dataclass(frozen=True)
class Pin:
    """What one file was when it was first seen."""

    sha256: str
    num_bytes: int
    url: str = ""
    """Where it came from; "" for a file that the user put there."""


class Pins:
    """The pins of one raw directory: ``orca-data.lock.json``, which may be shared, and kept under version control.

    Several processes may add to it at once. A pin that is there is never replaced: who trusts a changed file removes
    its entry by hand.
    """

    def __init__(self, directory: Path) -> None:
        self.path = directory / NAME

    def read(self) -> Mapping[str, Pin]:
        """Return all pins by the file's path; raises :class:`UserError` for a lock file that cannot be read."""
        try:
            text = self.path.read_text()
        except FileNotFoundError:
            return MappingProxyType({})
        except (OSError, UnicodeDecodeError) as error:
            raise self._unreadable(error) from error
        try:
            content = json.loads(text)
            if content["version"] != _VERSION:
                raise ValueError(f"version {content['version']!r}, expected {_VERSION}")
            return MappingProxyType({str(path): _pin(entry) for path, entry in content["files"].items()})
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise self._unreadable(error) from error

    def add(self, path: str, pin: Pin) -> Pin:
        """Pin a file unless it is pinned already, and return the pin that holds.

        Raises:
            UserError: the lock file cannot be read or written.
        """
        with cache.lock(self.path):
            pins = dict(self.read())
            if path not in pins:
                pins[path] = pin
                self._write(pins)
            return pins[path]

    def _write(self, pins: Mapping[str, Pin]) -> None:
        files = {
            path: {"sha256": pin.sha256, "bytes": pin.num_bytes, "url": pin.url} for path, pin in sorted(pins.items())
        }
        temporary = self.path.with_name(f"{NAME}.tmp")
        with cache.disk_errors(self.path.parent):
            try:
                temporary.write_text(json.dumps({"version": _VERSION, "files": files}, indent=2) + "\n")
                cache.replace_file(temporary, self.path)
            except BaseException:
                with contextlib.suppress(OSError):
                    os.unlink(temporary)
                raise

    def _unreadable(self, error: Exception) -> UserError:
        return UserError(
            f"{self.path} is no lock file of orca-sweep ({type(error).__name__}: {error}). Restore it from a copy, or "
            f"remove it: then the files of {self.path.parent} are trusted, and pinned, as they are now."
        )


def _pin(entry: Any) -> Pin:
    sha256, num_bytes, url = entry["sha256"], entry["bytes"], entry.get("url", "")
    hexadecimal = isinstance(sha256, str) and len(sha256) == 64 and set(sha256) <= set("0123456789abcdef")
    if not hexadecimal or type(num_bytes) is not int or num_bytes < 0 or not isinstance(url, str):
        raise ValueError(f"not an entry: {entry!r}")
    return Pin(sha256, num_bytes, url)
