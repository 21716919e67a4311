"""Raw files of tasks as data: what they are called, where they come from, what they must hash to."""

from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from orca_ray.errors import UserError


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

    def present(self, directory: Path) -> bool:
        """Whether a build finds it in ``directory``, archives unpacked."""
        return (directory / (self.unpacked or self.path)).exists()


def missing(files: tuple[RawFile, ...], directory: Path) -> list[RawFile]:
    """Return the files that a build would miss in ``directory``."""
    return [file for file in files if not file.optional and not file.present(directory)]


def refuse_missing(task: str, files: tuple[RawFile, ...], directory: Path) -> None:
    """Raise UserError naming the raw files that are not in ``directory``, and how to get them."""
    absent = missing(files, directory)
    if not absent:
        return
    named = ", ".join(file.path for file in absent[:5]) + (f" and {len(absent) - 5} more" if len(absent) > 5 else "")
    by_hand = any(not (file.urls or file.made_by) for file in absent)
    command = next((file.made_by for file in absent if file.made_by), f"orca-sweep data fetch {task}")
    raise UserError(
        f"{task}: {len(absent)} of {len(files)} raw files are not in {directory}: {named}; "
        f"{'download them yourself' if by_hand else f'run {command!r}'}, "
        f"or name the directory that has them: 'orca-sweep data prepare {task} --raw DIR'"
    )
