"""The folder on any file system or object store through which nodes share what they have staged."""

import json
import logging
from collections.abc import Callable, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

import pyarrow as pa

from orca_ray.data import cache
from orca_ray.errors import UserError
from orca_ray.results.folder import open_folder

logger = logging.getLogger(__name__)


class SharedFolder:
    """Folder of published files and directories, each with a manifest ``<path>.manifest.json`` of SHA-256 hashes.

    The manifest is written last, so that a copy without one is incomplete and counts as missing. Any number of nodes
    may publish and read at the same time. Methods raise UserError if the folder cannot be reached.
    """

    def __init__(self, uri: str) -> None:
        self._folder = open_folder(uri)
        self.name = self._folder.name
        """The URI without user name and password, for messages."""

    def bring(self, path: str, root: Path, progress: Callable[[str], None]) -> bool:
        """Copy the published ``path`` below the local directory ``root``, and replace atomically what is there.

        Returns False if ``path`` is not published, or if a hash is wrong also after a second copy. The caller must hold
        a lock, so that no other process of the node copies ``path``.
        """
        hashes = self._manifest(path)
        if not hashes:
            return False
        target = root / path
        cache.make_directory(target.parent)
        for _ in range(2):  # a copy may be damaged on its way
            with cache.scratch_directory(target.parent) as scratch, cache.disk_errors(target.parent):
                copy = scratch / target.name
                wrong = self._copy(path, copy, hashes)
                if not wrong:
                    cache.replace_directory(copy, target, scratch)
                    return True
            progress(f"{self.name}/{path}: {wrong} is damaged or missing")
        return False

    def publish(self, path: str, root: Path, *, replace: bool) -> None:
        """Copy ``path`` from the local directory ``root`` to this folder; keep an existing copy unless ``replace``."""
        if not replace and self._manifest(path) is not None:
            return
        source = root / path
        files = sorted(file for file in source.rglob("*") if file.is_file()) if source.is_dir() else [source]
        names = {file: "" if file == source else file.relative_to(source).as_posix() for file in files}
        hashes = {name: cache.sha256_file(file) for file, name in names.items()}
        self._folder.create()
        for file, name in names.items():
            self._folder.upload(file, str(PurePosixPath(path, name)))
        content = json.dumps({"files": hashes}, indent=1).encode()
        self._folder.write(f"{path}.manifest.json", pa.py_buffer(content))

    def names(self, directory: str) -> list[str]:
        """Return the names of the files and directories that are published in ``directory``."""
        suffix = ".manifest.json"
        return [name.removesuffix(suffix) for name in self._folder.names(directory) if name.endswith(suffix)]

    def read_json(self, path: str) -> dict[str, Any]:
        """Return the object in a JSON file; {} if the file is missing, holds something else, or cannot be read."""
        try:
            return cache.parse_json(self._folder.read(path).to_pybytes(), path)
        except (FileNotFoundError, UserError) as error:
            logger.debug("%s/%s: %s", self.name, path, error)
            return {}

    def _copy(self, path: str, copy: Path, hashes: Mapping[str, str]) -> str | None:
        """Copy the files in ``hashes`` below ``copy``; return the name of the first whose hash is wrong, or None."""
        for name, expected in hashes.items():
            file = copy / name if name else copy
            file.parent.mkdir(parents=True, exist_ok=True)
            try:
                self._folder.download(str(PurePosixPath(path, name)), file)
            except FileNotFoundError:
                return name or path
            if cache.sha256_file(file) != expected:
                return name or path
            cache.flush(file)
        return None

    def _manifest(self, path: str) -> dict[str, str] | None:
        """Return the SHA-256 of each file by its name relative to ``path`` ("" for a single file); None without one."""
        files = self.read_json(f"{path}.manifest.json").get("files")
        if files is None:
            return None
        paths = [PurePosixPath(name) for name in files] if isinstance(files, dict) else None
        if paths is None or any(path.is_absolute() or ".." in path.parts for path in paths):
            logger.warning("%s/%s.manifest.json is not a manifest of files", self.name, path)
            return None
        return {str(name): str(value) for name, value in files.items()}
