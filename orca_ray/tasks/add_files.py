"""Add raw files that the user has to the raw directories of their tasks.

The files are found by the paths that tasks declare. They are checked as after a
download and read as before a trial, and are only then copied or linked.
"""

import bz2
import contextlib
import gzip
import hashlib
import lzma
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from orca_ray.data import archives, cache
from orca_ray.data.fetch import difference, part_of
from orca_ray.data.raw import LOCKS, Pin, Pins, RawFile, hash_file
from orca_ray.errors import UserError
from orca_ray.tasks import registry
from orca_ray.tasks.task import Task

Say = Callable[[str], None]
_OPENERS: Mapping[str, Callable[..., Any]] = {
    ".xz": lzma.open,
    ".gz": gzip.open,
    ".bz2": bz2.open,
}
"""Function that opens a compressed file, by the suffix after the declared name."""
_SCRATCH = ".tmp-add-"
"""Prefix of the names of the scratch directories in a raw directory."""
_MOST_FOLDERS = 1000
"""Largest number of folders that are searched; a home directory may hold far more."""
_REPORTED_BYTES = 50 * 10**6
"""Least size of a file whose hashing and copying are reported as progress."""
_BLOCK = 2**20
"""Size of the blocks that are copied at once."""


@dataclass(frozen=True)
class Found:
    """A task with raw files at the path that the user gave."""

    task: Task
    sources: Mapping[str, Path]
    """The user's files, by their paths below the raw directory."""
    folder: Path
    """Folder below which the files are."""


@dataclass(frozen=True)
class Added:
    """Files that `add` copied, linked or would copy for one task, and their splits."""

    task: Task
    num_files: int
    """Number of files that were not in the raw directory."""
    num_bytes: int
    """Size of these files."""
    num_samples: Mapping[str, int] = field(default_factory=dict)
    """Number of samples of each split; empty if no file had to be read, because each
    was there or has a published hash.
    """


def find(path: Path) -> list[Found]:
    """Return the tasks that have raw files at ``path``, sorted by name.

    ``path`` may be a file, the folder of a task or of a benchmark, or a folder of such
    folders. Raises UserError if there are none, or if files of a task are in several
    folders.
    """
    path = Path(os.path.abspath(path))
    cache.check_special(path, directories=True)
    found: dict[str, Found] = {}
    taken = set[Path]()
    for base in _bases(path):
        here = [_found_in(base, task, path) for task in _tasks_of(base)]
        for new in here:
            if not new.sources or taken.issuperset(new.sources.values()):
                continue
            name = new.task.name
            if name in found:
                raise UserError(
                    f"{path}: files of {name} are in {found[name].folder} and in"
                    f" {base}; give one of these folders"
                )
            found[name] = new
        taken |= {source for new in here for source in new.sources.values()}
    if not found:
        raise UserError(
            f"{path}: expected raw files under the names that tasks declare, found"
            " none; give a folder such as openml with 61/description.json and"
            " 61/data.arff, a folder of such folders, or one file. 'orca-sweep data"
            " list' lists the tasks"
        )
    return [found[name] for name in sorted(found)]


def _bases(path: Path) -> list[Path]:
    """Return the folders that may stand for a raw directory.

    These are the parents, because ``path`` may be below a raw directory, then the path
    itself, and the folders in it.
    """
    files = (file for task in registry.all_tasks().values() for file in task.files)
    depth = max(len(PurePosixPath(file.path).parts) for file in files)
    parents = list(path.parents)[:depth]
    parents.reverse()
    if not path.is_dir():
        return parents
    with cache.read_errors(path):
        folders = sorted(child for child in path.iterdir() if os.path.isdir(child))
    if len(folders) > _MOST_FOLDERS:
        raise UserError(
            f"{path}: expected at most {_MOST_FOLDERS} folders, found {len(folders)};"
            " give the folder of a benchmark or of a task"
        )
    return [*parents, path, *folders]


def _tasks_of(base: Path) -> list[Task]:
    """Return the tasks whose raw files may be in the folder ``base``.

    They are those of the benchmark with the folder's name. If there is none, they are
    all tasks, except those whose files are only ever generated: published files have
    the same names.
    """
    tasks = list(registry.all_tasks().values())
    of_benchmark = [task for task in tasks if task.benchmark == base.name]
    return of_benchmark or [
        task
        for task in tasks
        if not all(file.made_by and not file.urls for file in task.files)
    ]


def _found_in(base: Path, task: Task, path: Path) -> Found:
    """Return the files of ``task`` in the folder ``base`` that are in ``path``."""
    sources = {}
    for file in task.files:
        for suffix in ("", *_OPENERS):
            source = base / f"{file.path}{suffix}"
            # A broken link counts: it is refused by its name.
            if source.is_relative_to(path) and os.path.lexists(source):
                sources[file.path] = source
                break
    return Found(task, sources, base)


@dataclass(frozen=True)
class _File:
    """One file of the user."""

    source: Path
    content: Path
    """The same path, or that of a decompressed copy."""
    pin: Pin


_Files = Mapping[str, _File]
"""Files by their paths below the raw directory."""


def add(
    found: Found, *, link: bool = False, dry_run: bool = False, say: Say | None = None
) -> Added:
    """Check the files of a task, then copy them into its raw directory.

    Files that are there already are left alone. With ``link``, symbolic links are made
    instead of copies, except of compressed files, which are decompressed. With
    ``dry_run``, nothing is written. ``say`` is called with lines of text. A file with
    the published hash of another task of the benchmark is added to that task.

    Raises UserError, before anything is written, if a file is missing, is not the
    published or pinned one, or cannot be read as its task reads it, if it has another
    number of samples than the published file, or if another file is in its place.
    """
    raw = found.task.raw_directory
    _check_complete(found, raw)
    with _scratch(raw, dry_run) as scratch:
        files = _hashed(found, scratch, say)
        task = _task_of_hash(found.task, files)
        if task is not found.task:
            (file,) = files.values()
            files = {task.files[0].path: file}
        new = _new_files(task, files)
        is_published = all(file.sha256 or file.md5 for file in task.files)
        num_samples: Mapping[str, int] = {}
        if new and not is_published:
            num_samples = _read(task, files, found.folder, scratch)
        if not dry_run:
            for path, file in new.items():
                _place(file, raw, path, scratch, link=link, say=say)
            task.fetch_raw(raw, say)
    num_bytes = sum(file.pin.num_bytes for file in new.values())
    return Added(task, len(new), num_bytes, num_samples)


@contextlib.contextmanager
def _scratch(raw: Path, dry_run: bool) -> Iterator[Path]:
    """Context manager: yield a scratch directory on the disk of the raw directory.

    For a dry run, it is in the system's directory for temporary files.
    """
    if dry_run:
        with cache.scratch_directory() as scratch:
            yield scratch
        return
    cache.make_directory(raw)
    with cache.lock(raw / LOCKS / "add", f"files in {raw}"):
        # those of processes that were killed
        for abandoned in raw.glob(f"{_SCRATCH}*"):
            shutil.rmtree(abandoned, ignore_errors=True)
        with cache.scratch_directory(raw, _SCRATCH) as scratch, cache.disk_errors(raw):
            yield scratch


def _check_complete(found: Found, raw: Path) -> None:
    """Raise UserError if a file is neither given nor in the raw directory."""
    task = found.task
    lacking = [
        file.path
        for file in task.files
        if file.path not in found.sources and not file.present(raw)
    ]
    if lacking:
        raise UserError(
            f"{task.name}: {len(lacking)} of {len(task.files)} raw files are neither in"
            f" {found.folder} nor in {raw}: {', '.join(lacking)}"
        )


def _decompressed(source: Path, path: str, scratch: Path) -> Path:
    """Return the path of a file's content: ``source``, or a decompressed copy of it.

    Raises UserError if ``source`` is missing, special or damaged, or decompresses to
    more than 200 times its size.
    """
    size = cache.check_special(source)
    suffix = source.name.removeprefix(PurePosixPath(path).name)
    if not suffix:
        return source
    target = scratch / "decompressed" / path
    cache.make_directory(target.parent)
    allowed = archives.max_bytes(size)
    with (
        cache.open_file(source) as packed,
        archives.archive_errors(source, f"{suffix} file"),
        _OPENERS[suffix](packed) as stream,
        cache.create_file(target) as copy,
    ):
        while block := stream.read(_BLOCK):
            if copy.tell() + len(block) > allowed:
                raise archives.growth_error(source)
            copy.write(block)
    return target


def _hashed(found: Found, scratch: Path, say: Say | None) -> _Files:
    """Return the files of a task with their hashes, decompressed into ``scratch``."""
    files = {}
    for file in found.task.files:
        if file.path not in found.sources:
            continue
        source = found.sources[file.path]
        if say and cache.check_special(source) >= _REPORTED_BYTES:
            say(f"checking {source}")
        content = _decompressed(source, file.path, scratch)
        pin = hash_file(content, with_md5=bool(file.md5))
        files[file.path] = _File(source, content, pin)
    return files


def _task_of_hash(task: Task, files: _Files) -> Task:
    """Return ``task``, or the task of its benchmark with the published hash of a file.

    Two uploads of one set have the same name, and only their hashes tell which it is.
    """
    if len(task.files) > 1:
        return task
    (file,) = files.values()
    hashes = {file.pin.sha256, file.pin.md5} - {""}
    for other in registry.all_tasks().values():
        if other.benchmark == task.benchmark and len(other.files) == 1:
            (declared,) = other.files
            if hashes & {declared.sha256.lower(), declared.md5.lower()}:
                return other
    return task


def _new_files(task: Task, files: _Files) -> _Files:
    """Return the files that are not in the raw directory yet.

    Raises UserError unless each is the published one or the pinned one.
    """
    raw = task.raw_directory
    for declared in task.files:
        if declared.path in files:
            file = files[declared.path]
            problem = difference(declared, file.pin, Pins(raw))
            if problem:
                raise UserError(
                    f"{task.name}: {file.source} is not the file that is expected:"
                    f" {problem}"
                )
    return {
        path: file for path, file in files.items() if not _is_there(raw / path, file)
    }


def _is_there(target: Path, file: _File) -> bool:
    """Return whether a file with this content is in the raw directory.

    Raises UserError if there is another one. A broken link does not count.
    """
    if not target.exists():
        return False
    is_same_size = cache.check_special(target) == file.pin.num_bytes
    if is_same_size and hash_file(target).sha256 == file.pin.sha256:
        return True
    raise UserError(
        f"{target} is there with another content than {file.source}, and is not"
        " replaced; if the new one is right, remove the old one"
    )


def _read(task: Task, files: _Files, folder: Path, scratch: Path) -> dict[str, int]:
    """Read the files as the task reads them, and return the sizes of its splits.

    Error messages name the user's files, which are in ``folder``.
    """
    tree = scratch / "raw"
    arrays = scratch / "arrays"
    arrays.mkdir()
    try:
        for declared in task.files:
            _show(declared, tree, task.raw_directory, files.get(declared.path))
        return task.check_raw(tree, arrays)
    except UserError as error:
        text = str(error)
        for path, file in files.items():
            text = text.replace(str(tree / path), str(file.source))
        raise UserError(text.replace(str(tree), str(folder))) from error


def _show(declared: RawFile, tree: Path, raw: Path, file: _File | None) -> None:
    """Link a file of a task into the directory ``tree``, and unpack it there.

    None stands for a file that is in the raw directory ``raw`` already.
    """
    path = declared.path
    if file is None:
        path = declared.unpacked or path
    shown = tree / path
    shown.parent.mkdir(parents=True, exist_ok=True)
    shown.symlink_to(raw / path if file is None else file.content)
    if file is None:
        return
    if declared.unpacked:
        required = (tree / declared.unpacked).relative_to(shown.parent)
        archives.unpack(shown, shown.parent, required=str(required))
    else:
        archives.read_whole(shown)


def _place(
    file: _File, raw: Path, path: str, scratch: Path, *, link: bool, say: Say | None
) -> None:
    """Put a file in its place in the raw directory, in one step.

    A file in ``scratch`` is moved there; another one is linked or copied. Raises
    UserError if it changes meanwhile.
    """
    target = raw / path
    part = part_of(target)
    cache.make_directory(target.parent)
    with cache.lock(raw / LOCKS / path.replace("/", "+"), path):
        if file.content.is_relative_to(scratch):
            cache.replace_file(file.content, target)
            return
        try:
            if link:
                part.unlink(missing_ok=True)
                part.symlink_to(file.content)
                os.replace(part, target)
                return
            if say and file.pin.num_bytes >= _REPORTED_BYTES:
                say(f"copying {file.source}")
            cache.check_space(target.parent, file.pin.num_bytes)
            if _copy(file.content, part) != file.pin.sha256:
                raise UserError(f"{file.source} changed meanwhile; run again")
            cache.replace_file(part, target)
        finally:
            part.unlink(missing_ok=True)


def _copy(source: Path, target: Path) -> str:
    """Copy a file, and return its SHA-256."""
    digest = hashlib.sha256()
    with cache.open_file(source) as stream, cache.create_file(target) as copy:
        while block := stream.read(_BLOCK):
            digest.update(block)
            copy.write(block)
    return digest.hexdigest()
