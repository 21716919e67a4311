"""Raw files of a task: declaration, recorded hashes ("pins"), and access for builds.

A build makes a task's arrays from the raw files. It can be interrupted and continued.
"""

import contextlib
import hashlib
import json
import logging
import os
import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from orca_ray.data import cache
from orca_ray.data.rows import Array
from orca_ray.discovery import tables
from orca_ray.errors import UserError, quoted
from orca_ray.process import note_progress

logger = logging.getLogger(__name__)

LOCKS = ".locks"
"""Subdirectory of a raw directory that holds lock files."""
PINS = "orca-data.lock.json"
"""Name of the lock file of a raw directory.

The file stores a "pin" for each raw file without a published hash: the hash that the
file had when it was first read.
"""
_PINS_VERSION = 1
"""Version of the format of the lock file."""
PROGRESS = "progress.json"
"""JSON file that records how many items of each stage of a build are done."""
MARK = "orca_ray_generated"
"""Name of the root attribute of a generated HDF5 file.

Its value is JSON with task, samples, seed, version, equation and numerics.
"""

PDEBENCH_FILES: Mapping[str, str] = tables("orca_ray.data", "pdebench.toml")["files"]
"""File name in PDEBench of each task, by the second part of the task's name."""


@dataclass(frozen=True, kw_only=True)
class RawFile:
    """One raw file that a task reads.

    It may be an archive, which is unpacked after it was downloaded.
    """

    path: str
    """Path relative to the raw directory, with forward slashes."""
    urls: tuple[str, ...] = ()
    """URLs of the same file, tried in order; empty: only the user can supply it."""
    sha256: str = ""
    """Published SHA-256.

    "": there is none, so the hash of the first download is recorded in the lock file.
    """
    md5: str = ""
    """Published MD5, for a file without a published SHA-256; "": none."""
    num_bytes: int = 0
    """Approximate size in bytes, for cost estimates and the check of free disk space.

    0: the size is unknown.
    """
    unpacked: str = ""
    """For an archive: a path below the raw directory that exists after unpacking.

    "": the file is not an archive.
    """
    made_by: str = ""
    """For a file without a URL: the shell command that creates it; "": none."""

    def __post_init__(self) -> None:
        for path in (self.path, self.unpacked):
            if PurePosixPath(path).is_absolute() or ".." in PurePosixPath(path).parts:
                raise ValueError(
                    f"a raw file must be below the raw directory, got {path!r}"
                )

    @property
    def disk_bytes(self) -> int:
        """Approximate size on the disk, including the files unpacked from an archive.

        The unpacked files are estimated to be as large as a tar archive, or twice as
        large as a compressed archive.
        """
        if not self.unpacked:
            return self.num_bytes
        return self.num_bytes * (2 if self.path.endswith(".tar") else 3)

    def present(self, directory: Path) -> bool:
        """Return whether the file is in the raw directory ``directory``.

        For an archive, this is its unpacked content.
        """
        return (directory / (self.unpacked or self.path)).exists()


def missing(files: Sequence[RawFile], directory: Path) -> list[RawFile]:
    """Return the files that are not present in the raw directory ``directory``."""
    return [file for file in files if not file.present(directory)]


def check_missing(task: str, files: tuple[RawFile, ...], directory: Path) -> None:
    """Raise UserError if required raw files are missing or not unpacked.

    The message says how to get them.
    """
    packed = []
    absent = []
    for file in missing(files, directory):
        if file.unpacked and (directory / file.path).is_file():
            packed.append(file)
        else:
            absent.append(file)
    reasons = []
    if absent:
        reasons.append(_shortage(absent, files, f"not in {directory}"))
    if packed:
        reasons.append(_shortage(packed, files, f"in {directory} but not unpacked"))
    if not reasons:
        return
    by_hand = any(not (file.urls or file.made_by) for file in absent)
    made_by = next((file.made_by for file in absent if file.made_by), "")
    advice = how_to_get(task, directory, made_by=made_by, by_hand=by_hand)
    raise UserError(f"{task}: {'; '.join(reasons)}; {advice}")


def _shortage(lacking: Sequence[RawFile], files: Sequence[RawFile], where: str) -> str:
    """Return how many of the files are lacking, and the names of the first five."""
    names = ", ".join(file.path for file in lacking[:5])
    if len(lacking) > 5:
        names += f" and {len(lacking) - 5} more"
    return f"{len(lacking)} of {len(files)} raw files are {where}: {names}"


def how_to_get(
    task: str, directory: Path, *, made_by: str = "", by_hand: bool = False
) -> str:
    """Return advice on how to get missing raw files.

    The advice is to run the command ``made_by`` ("": ``data fetch``) or, if
    ``by_hand``, to download the files.
    """
    command = made_by or f"orca-sweep data fetch {task}"
    if directory != cache.home() / "raw" / task.split("/")[0]:
        option = "--raw" if command.startswith("orca-sweep data fetch") else "--out"
        command += f" {option} {shlex.quote(str(directory))}"
    advice = "download them yourself" if by_hand else f"run {command!r}"
    return (
        f"{advice}, or name the directory that has them: 'orca-sweep data prepare"
        f" {task} --raw DIR'"
    )


class Pin(NamedTuple):
    """Hash and size of one file, computed now or recorded in the lock file."""

    sha256: str
    num_bytes: int
    url: str = ""
    """URL from which the file was downloaded; "" for a file that the user supplied."""
    md5: str = ""
    """MD5 in hexadecimal, "" if not computed. The lock file does not store it."""


def hash_file(path: Path, *, with_md5: bool = False) -> Pin:
    """Return SHA-256 and size of a regular file.

    ``with_md5`` adds the MD5, for which the file is read again.
    """
    md5 = ""
    with cache.open_file(path) as stream, cache.read_errors(path):
        sha256 = hashlib.file_digest(stream, "sha256").hexdigest()
        num_bytes = stream.tell()
        if with_md5:
            stream.seek(0)
            digest = hashlib.md5(usedforsecurity=False)
            md5 = hashlib.file_digest(stream, lambda: digest).hexdigest()
    return Pin(sha256, num_bytes, "", md5)


class Pins:
    """The recorded hashes ("pins") of one raw directory, in ``orca-data.lock.json``.

    Users may share this file and keep it under version control. Several processes may
    add pins at the same time. An existing pin is never replaced: to accept a changed
    file, the user removes its entry by hand.
    """

    def __init__(self, directory: Path) -> None:
        self.path = directory / PINS

    def read(self) -> Mapping[str, Pin]:
        """Return all pins by path; empty if there is no lock file.

        Raises UserError if the lock file is invalid.
        """
        try:
            if not self.path.exists():
                return {}
            content = cache.read_json(self.path)
            if content["version"] != _PINS_VERSION:
                raise ValueError(
                    f"version {quoted(content['version'])}, expected {_PINS_VERSION}"
                )
            return {
                str(path): _pin_of_entry(entry)
                for path, entry in content["files"].items()
            }
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            problem = f"no lock file of orca-sweep ({type(error).__name__}: {error})"
            raise UserError(
                f"{self.path} is {problem}. Restore it from a copy, or remove it: then"
                f" the files of {self.path.parent} are trusted, and pinned, as they are"
                " now."
            ) from error

    def add(self, path: str, pin: Pin) -> Pin:
        """Return the recorded pin of ``path``; if there is none, record ``pin``.

        Raises UserError as `read` does.
        """
        with cache.lock(self.path):
            pins = dict(self.read())
            if path not in pins:
                pins[path] = pin
                self._write(pins)
            return pins[path]

    def _write(self, pins: Mapping[str, Pin]) -> None:
        """Write the lock file with these pins."""
        entries = {
            path: {"sha256": pin.sha256, "bytes": pin.num_bytes, "url": pin.url}
            for path, pin in sorted(pins.items())
        }
        content = {"version": _PINS_VERSION, "files": entries}
        with cache.disk_errors(self.path.parent):
            text = json.dumps(content, indent=2)
            cache.write_text(self.path, text + "\n", durable=True)


def _pin_of_entry(entry: Any) -> Pin:
    """Return the pin in an entry of the lock file; raise ValueError for others."""
    sha256 = entry["sha256"]
    num_bytes = entry["bytes"]
    url = entry.get("url", "")
    is_hash = isinstance(sha256, str) and re.fullmatch("[0-9a-f]{64}", sha256)
    is_size = type(num_bytes) is int and num_bytes >= 0
    if not is_hash or not is_size or not isinstance(url, str):
        raise ValueError(f"not an entry: {quoted(entry)}")
    return Pin(sha256, num_bytes, url)


@dataclass
class Workspace:
    """Files and progress of one build of a task's arrays.

    A build creates large arrays with `array`, and fills them in loops over `batches`.
    The next build can continue an interrupted one: `array` then returns the same
    arrays, and `batches` skips the finished items.
    """

    task: str
    raw: Path
    """Directory of the raw files."""
    directory: Path
    """Directory of the arrays.

    It is renamed to the prepared-data directory when the build is complete.
    """
    protocol: str = "held-out"
    """Protocol that selects the splits; see `prepared.under_protocol`."""
    identity: str = ""
    """Text that describes everything the build depends on (see `prepared.prepare`).

    A build with another identity is not continued.
    """
    whole: bool = False
    """Whether `check_count` refuses files that do not have the published number of
    samples.
    """
    _done: dict[str, int] = field(default_factory=dict)
    """Number of finished items of each stage."""

    def __post_init__(self) -> None:
        with contextlib.suppress(UserError, OSError, ValueError, KeyError, TypeError):
            content = cache.read_json(self.directory / PROGRESS)
            if content["identity"] == self.identity:
                self._done = dict(content["done"])

    def file(self, path: str) -> Path:
        """Return the path of a raw file or directory.

        Raises UserError if it is missing or special (pipe, device, /proc).
        """
        file = self.optional(path)
        if file is None:
            raise UserError(
                f"{self.task}: raw file {path} is not in {self.raw};"
                f" {how_to_get(self.task, self.raw)}"
            )
        return file

    def optional(self, path: str) -> Path | None:
        """Return the path of a raw file or directory, None if it is missing.

        Raises UserError if it is a pipe or device.
        """
        file = self.raw / path
        if not file.exists():
            return None
        cache.check_special(file, directories=True)
        return file

    def check_count(self, path: Path, found: int, published: int) -> None:
        """Compare the number of samples in a file with that of the published file.

        Scores on a part of the file are not comparable. A warning is logged if there
        are fewer samples; if the files must be `whole`, any difference is a UserError.
        """
        if self.whole and found != published:
            raise UserError(
                f"{path}: expected {published} samples, as in the published file, found"
                f" {found}"
            )
        if found < published:
            logger.warning(
                "%s holds %d samples; the published file has %d", path, found, published
            )

    def array(
        self, name: str, shape: tuple[int, ...], dtype: npt.DTypeLike = np.float32
    ) -> Array:
        """Return the array ``name``, such as ``train_x``, as a writable memory map.

        A new array holds zeros.
        """
        path = self.directory / f"{name}.npy"
        wanted_type = np.dtype(dtype)
        with cache.disk_errors(self.directory):
            if os.path.lexists(path):
                array = _existing_array(path, shape, wanted_type)
                if array is not None:
                    _reserve(path)  # in case the interrupted process had not done so
                    return array
                self._done = {}
                self._write_progress()
                path.unlink()
            num_bytes = float(np.prod(shape, dtype=np.int64)) * wanted_type.itemsize
            cache.check_space(self.directory, num_bytes)
            try:
                array = np.lib.format.open_memmap(
                    path, mode="w+", dtype=wanted_type, shape=shape
                )
                _reserve(path)
            except BaseException:
                path.unlink(missing_ok=True)
                raise
            return array

    def batches(
        self, stage: str, num_items: int, size: int, *arrays: Array
    ) -> Iterator[slice]:
        """Yield slices of at most ``size`` from 0 to ``num_items``.

        Items that an interrupted build finished are left out. After each slice,
        ``arrays`` are synced to disk and the progress is recorded under ``stage``, a
        unique name of this loop. An interruption loses the work of at most one slice.
        """
        first = self._done.get(stage, 0)
        if first:
            logger.info(
                "%s: %s goes on after %d of %d", self.task, stage, first, num_items
            )
        for start in range(first, num_items, size):
            end = min(start + size, num_items)
            yield slice(start, end)
            note_progress()
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
        cache.write_text(
            self.directory / PROGRESS,
            json.dumps({"identity": self.identity, "done": self._done}),
        )


def _existing_array(
    path: Path, shape: tuple[int, ...], dtype: np.dtype[Any]
) -> Array | None:
    """Return the array in a file, writable.

    Returns None if the file is a link or is truncated, or if its array has another
    shape or type.
    """
    if path.is_symlink():
        return None
    try:
        array: Array = np.lib.format.open_memmap(path, mode="r+")
    except ValueError:  # a process was killed before it wrote the header
        return None
    return array if (array.shape, array.dtype) == (shape, dtype) else None


def _reserve(path: Path) -> None:
    """Reserve disk space for a whole sparse file.

    Writing to a memory map on a full disk would kill the process.
    """
    if not hasattr(os, "posix_fallocate"):
        return
    with path.open("rb+") as stream:
        try:
            os.posix_fallocate(stream.fileno(), 0, path.stat().st_size)
        except OSError as error:
            if error.errno in cache.DISK_FULL:
                raise
            # the file system does not support it
            logger.debug("space for %s is not reserved: %s", path, error)
