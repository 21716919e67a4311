"""File operations of the results store, in a local directory or on another file system or object store.

Writes are atomic: a reader sees a complete file or none. Paths are relative to the folder, with ``/`` between parts.
"""

from pathlib import Path
from urllib.parse import unquote, urlsplit

from orca_ray.errors import UserError
from orca_ray.paths import public_uri
from orca_ray.results.folder.base import TEMPORARY, Folder, S3Folder
from orca_ray.results.folder.local import LocalFolder

__all__ = ["TEMPORARY", "Folder", "LocalFolder", "S3Folder", "open_folder"]


def open_folder(uri: str | Path) -> Folder:
    """Return the folder at a path or URI. Raises `UserError` if `pyarrow.fs` has no file system for the URI."""
    if isinstance(uri, Path) or "://" not in uri:
        return LocalFolder(Path(uri))
    parts = urlsplit(uri)
    if parts.scheme == "s3":
        return S3Folder(uri)
    if parts.scheme != "file":
        return Folder(uri)
    if parts.netloc not in ("", "localhost"):
        shown = public_uri(uri, options=False)
        place = shown.removeprefix("file://")
        where = f"{shown} names the host {place.partition('/')[0]!r}, and a file URI reaches this machine only"
        raise UserError(f"{where}: give a path ({place}), or file:/// with an absolute one")
    return LocalFolder(Path(unquote(parts.path)))
