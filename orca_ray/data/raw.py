"""Declaration of raw files: names, addresses, hashes, and what to do when they are missing."""

import shlex
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from orca_ray.data import cache
from orca_ray.errors import UserError

LOCKS = ".locks"
"""Directory of locks and stamps in a raw directory."""


@dataclass(frozen=True, kw_only=True)
class RawFile:
    """One file that a task reads, or an archive that is unpacked after it was fetched."""

    path: str
    """Below the raw directory, with forward slashes."""
    urls: tuple[str, ...] = ()
    """Mirrors, tried in order; empty where only the user can supply the file."""
    sha256: str = ""
    """Published hash; "": the first download is pinned in the lock file."""
    md5: str = ""
    """Published MD5, where no SHA-256 is published."""
    num_bytes: int = 0
    """Approximate size, for plans and the check of free space; 0: unknown."""
    unpacked: str = ""
    """For an archive: a path below the raw directory that exists after it is unpacked; "": not an archive."""
    made_by: str = ""
    """For a file without an address: the command that makes it."""
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
        """Return whether a build finds it in ``directory``; an archive must be unpacked completely."""
        return (directory / (self.unpacked or self.path)).exists() and not self.unpacking(directory).exists()

    def unpacking(self, directory: Path) -> Path:
        """Return the stamp file that exists while unpacked members are moved, and after an interrupted move."""
        return directory / LOCKS / f"{self.path.replace('/', '+')}.unpacking"

    def lock(self, directory: Path) -> Path:
        """Return the path that is locked during the download."""
        return directory / LOCKS / self.path.replace("/", "+")


def missing(files: tuple[RawFile, ...], directory: Path) -> list[RawFile]:
    """Return the required files that are not in ``directory``."""
    return [file for file in files if not file.optional and not file.present(directory)]


def refuse_missing(task: str, files: tuple[RawFile, ...], directory: Path) -> None:
    """Raise UserError naming the raw files that are missing or not unpacked, and how to get them."""
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
    """Return how to get a task's raw files: by the command ``made_by``, by fetching, or only by the user's hand."""
    command = made_by or f"orca-sweep data fetch {task}"
    if directory != cache.home() / "raw" / task.split("/")[0]:
        option = "--out" if made_by.startswith("orca-sweep data generate") else "--raw"
        command += f" {option} {shlex.quote(str(directory))}"
    return (
        f"{'download them yourself' if by_hand else f'run {command!r}'}, "
        f"or name the directory that has them: 'orca-sweep data prepare {task} --raw DIR'"
    )
