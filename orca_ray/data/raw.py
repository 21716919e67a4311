"""Declaration of a task's raw files: paths, URLs, hashes, and the error message when they are missing."""

import shlex
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from orca_ray.data import cache
from orca_ray.errors import UserError

LOCKS = ".locks"
"""Subdirectory of a raw directory that holds lock files and stamp files (see `RawFile.unpacking`)."""


@dataclass(frozen=True, kw_only=True)
class RawFile:
    """One raw file that a task reads, or an archive that is unpacked after it was downloaded."""

    path: str
    """Path relative to the raw directory, with forward slashes."""
    urls: tuple[str, ...] = ()
    """URLs of the same file, tried in order; empty if only the user can supply the file."""
    sha256: str = ""
    """Published SHA-256; "": there is none, so the hash of the first download is recorded in the lock file."""
    md5: str = ""
    """Published MD5, for a file without a published SHA-256; "": none."""
    num_bytes: int = 0
    """Approximate size, for cost estimates and the check of free disk space; 0: unknown."""
    unpacked: str = ""
    """For an archive: a path relative to the raw directory that exists once it is unpacked; "": not an archive."""
    made_by: str = ""
    """For a file without a URL: the shell command that creates it; "": none."""
    optional: bool = False
    """Whether the task works without it."""

    def __post_init__(self) -> None:
        for path in (self.path, self.unpacked):
            if PurePosixPath(path).is_absolute() or ".." in PurePosixPath(path).parts:
                raise ValueError(f"a raw file must be below the raw directory, got {path!r}")

    @property
    def disk_bytes(self) -> int:
        """Approximate size on the disk, including what an archive unpacks to."""
        return self.num_bytes * (self.unpacked_factor + 1)

    @property
    def unpacked_factor(self) -> int:
        """Estimated ratio of the unpacked size to the size of the archive; 0 for a plain file."""
        return 0 if not self.unpacked else 1 if self.path.endswith(".tar") else 2

    def present(self, directory: Path) -> bool:
        """Return whether the file (of an archive: all its content) is in the raw directory ``directory``."""
        return (directory / (self.unpacked or self.path)).exists() and not self.unpacking(directory).exists()

    def unpacking(self, directory: Path) -> Path:
        """Return the path of the stamp file, which exists during, and after interrupted, moves of `archives.unpack`."""
        return directory / LOCKS / f"{self.path.replace('/', '+')}.unpacking"

    def lock(self, directory: Path) -> Path:
        """Return the path to lock (`cache.lock`) during the download."""
        return directory / LOCKS / self.path.replace("/", "+")


def missing(files: tuple[RawFile, ...], directory: Path) -> list[RawFile]:
    """Return the files that are not optional and not present in the raw directory ``directory``."""
    return [file for file in files if not file.optional and not file.present(directory)]


def refuse_missing(task: str, files: tuple[RawFile, ...], directory: Path) -> None:
    """Raise UserError if required raw files are missing or not unpacked; the message says how to get them."""
    lacking = missing(files, directory)
    if not lacking:
        return
    packed = [file for file in lacking if file.unpacked and (directory / file.path).is_file()]
    absent = [file for file in lacking if file not in packed]
    reasons = []
    for found, how in ((absent, f"not in {directory}"), (packed, f"in {directory} but not unpacked")):
        named = ", ".join(file.path for file in found[:5]) + f" and {len(found) - 5} more" * (len(found) > 5)
        reasons += [f"{len(found)} of {len(files)} raw files are {how}: {named}"] * bool(found)
    by_hand = any(not (file.urls or file.made_by) for file in absent)
    made_by = next((file.made_by for file in absent if file.made_by), "")
    raise UserError(f"{task}: {'; '.join(reasons)}; {how_to_get(task, directory, made_by=made_by, by_hand=by_hand)}")


def how_to_get(task: str, directory: Path, *, made_by: str = "", by_hand: bool = False) -> str:
    """Return advice for missing raw files: run ``made_by`` ("": the fetch command), or download them (``by_hand``)."""
    command = made_by or f"orca-sweep data fetch {task}"
    if directory != cache.home() / "raw" / task.split("/")[0]:
        option = "--out" if made_by.startswith("orca-sweep data generate") else "--raw"
        command += f" {option} {shlex.quote(str(directory))}"
    return (
        f"{'download them yourself' if by_hand else f'run {command!r}'}, "
        f"or name the directory that has them: 'orca-sweep data prepare {task} --raw DIR'"
    )
