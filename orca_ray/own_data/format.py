"""`Format`: how one kind of file or folder is read."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from orca_ray.own_data.options import Options
from orca_ray.own_data.user_data import UserData


@dataclass(frozen=True)
class Format:
    """One kind of file or folder of users. Modules of this package declare theirs as ``FORMAT``."""

    name: str
    """Name for messages, such as "NumPy archive (.npz)"."""
    suffixes: tuple[str, ...]
    """Suffixes of its files in lower case; for a folder, those of the files in it."""
    read: Callable[[Path, Options, bool], UserData]
    """Function of path, options and whether a target is required. Raises UserError for wrong content."""
    folder: bool = False
    """Whether it reads a folder of files with these suffixes."""
    markers: tuple[str, ...] = ()
    """For a folder that is recognised by one of its files: names or patterns of that file."""
