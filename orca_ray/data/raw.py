"""Raw files of tasks as data: what they are called, where they come from, what they must hash to."""

import shlex
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from orca_ray.data import cache
from orca_ray.errors import UserError

LOCKS = ".locks"
"""Directory of locks and stamps in a raw directory."""


@dataclass(frozen=True, kw_only=True)
class RawFile:
    """One file that a task reads, or an archive that is unpacked once it is there."""

    path: str
    """Below the raw directory, with forward slashes."""
    urls: tuple[str, ...] = ()
    """Mirrors, tried in order; none where only the user can supply it."""
    sha256: str = ""
    """Published hash; "" where none is published: the first download pins it in the lock file."""
    md5: str = ""
    """Published MD5, where that is all there is."""
    num_bytes: int = 0
    """Rough size, for the check of free space and for plans; 0: not known."""
    unpacked: str = ""
    """For an archive: what must be there, below the raw directory, once it is unpacked where it lies; "": none."""
    made_by: str = ""
    """For a file without an address: the command that brings it."""
    optional: bool = False
    """Whether the task can do without."""

    def __post_init__(self) -> None:
        for path in (self.path, self.unpacked):
            if PurePosixPath(path).is_absolute() or ".." in PurePosixPath(path).parts:
                raise ValueError(f"a raw file lies below the raw directory, got {path!r}")

    @property
    def disk_bytes(self) -> int:
        """Rough size on the disk; of an archive with what it unpacks to: what compression saved is a guess."""
        return self.num_bytes * (self.unpacked_factor + 1)

    @property
    def unpacked_factor(self) -> int:
        """How many times its own size a file unpacks to, at a guess."""
        return 0 if not self.unpacked else 1 if self.path.endswith(".tar") else 2

    def present(self, directory: Path) -> bool:
        """Whether a build finds it in ``directory``, archives unpacked to the end."""
        return (directory / (self.unpacked or self.path)).exists() and not self.unpacking(directory).exists()

    def unpacking(self, directory: Path) -> Path:
        """Return the stamp that is there while what was unpacked is moved to its place, and when that was cut short."""
        return directory / LOCKS / f"{self._flat_name}.unpacking"

    def lock(self, directory: Path) -> Path:
        """Return what is locked while it is fetched."""
        return directory / LOCKS / self._flat_name

    @property
    def _flat_name(self) -> str:
        return self.path.replace("/", "+")


def missing(files: tuple[RawFile, ...], directory: Path) -> list[RawFile]:
    """Return the files that a build would miss in ``directory``."""
    return [file for file in files if not file.optional and not file.present(directory)]


def refuse_missing(task: str, files: tuple[RawFile, ...], directory: Path) -> None:
    """Raise UserError naming the raw files that are not in ``directory``, or not unpacked, and how to get them."""
    lacking = missing(files, directory)
    if not lacking:
        return
    packed = [file for file in lacking if file.unpacked and (directory / file.path).is_file()]
    absent = [file for file in lacking if file not in packed]
    told = [
        f"{len(found)} of {len(files)} raw files are {how}: {_named(found)}"
        for found, how in ((absent, f"not in {directory}"), (packed, f"in {directory} but not unpacked"))
        if found
    ]
    by_hand = any(not (file.urls or file.made_by) for file in absent)
    made_by = next((file.made_by for file in absent if file.made_by), "")
    raise UserError(f"{task}: {'; '.join(told)}; {how_to_get(task, directory, made_by=made_by, by_hand=by_hand)}")


def how_to_get(task: str, directory: Path, *, made_by: str = "", by_hand: bool = False) -> str:
    """Say how the raw files of a task come into ``directory``.

    Args:
        task: its full name.
        directory: where they are looked for.
        made_by: the command that makes them, where they are not fetched.
        by_hand: whether only the user can bring them.
    """
    command = made_by or f"orca-sweep data fetch {task}"
    if directory != cache.home() / "raw" / task.split("/")[0]:
        option = "--out" if made_by.startswith("orca-sweep data generate") else "--raw"
        command += f" {option} {shlex.quote(str(directory))}"
    return (
        f"{'download them yourself' if by_hand else f'run {command!r}'}, "
        f"or name the directory that has them: 'orca-sweep data prepare {task} --raw DIR'"
    )


def _named(files: list[RawFile]) -> str:
    return ", ".join(file.path for file in files[:5]) + (f" and {len(files) - 5} more" if len(files) > 5 else "")
