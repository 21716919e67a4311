"""Lists of files whose paths are those of another machine."""

import os
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from orca_ray.errors import UserError


def located(raw: Path, listing: Path, names: Sequence[str]) -> list[str]:
    """Return the paths of the files that ``listing`` names, in its order.

    They are looked for in ``raw`` and in the list's folder, without as many of the first folders of their names as
    the first name needs: ``/mnt/data/chunks/a.wav`` may be ``chunks/a.wav`` on this machine.

    Raises UserError for no names, a name with ``..`` or a missing file, naming list, row and file.
    """
    if not names:
        raise UserError(f"{listing}: expected one file a row, found none")
    root, first = _root(raw, listing, names[0])
    paths = []
    for row, name in enumerate(names, start=1):
        parts = _parts(listing, row, name)
        path = os.path.join(root, *parts[first:])
        if not os.path.isfile(path):
            raise UserError(f"{listing}, row {row}: expected a file {path} for {name}, found none")
        paths.append(path)
    return paths


def _root(raw: Path, listing: Path, name: str) -> tuple[Path, int]:
    parts = _parts(listing, 1, name)
    for first in range(len(parts)):
        for root in (raw, listing.parent):
            if root.joinpath(*parts[first:]).is_file():
                return root, first
    raise UserError(f"{listing}, row 1: expected {name}, or the end of it, below {raw}, found no such file")


def _parts(listing: Path, row: int, name: str) -> tuple[str, ...]:
    path = PurePosixPath(name)
    if ".." in path.parts or not path.name:
        raise UserError(f"{listing}, row {row}: expected a file below the raw directory, found {name!r}")
    return path.relative_to("/").parts if path.is_absolute() else path.parts
