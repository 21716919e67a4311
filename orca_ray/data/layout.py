"""Format of directories of prepared data: array names, fingerprint and ``meta.json``.

The functions of this module write and replace such directories.
"""

import contextlib
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np

from orca_ray.data import cache
from orca_ray.data.raw import PROGRESS, Workspace
from orca_ray.data.rows import KINDS, Array, Rows, row_slices
from orca_ray.errors import UserError

Arrays = Mapping[str, Array | Rows]
"""Arrays by name: ``train_x``, ``train_y``, …, ``test_y`` (all `REQUIRED`), and
optional ones (see `ALLOWED`).
"""
Build = Callable[[Workspace], Arrays]
"""A task's function that makes its arrays from the raw files."""
SplitName = Literal["train", "validation", "test"]
SPLITS: tuple[SplitName, ...] = ("train", "validation", "test")
STATISTICS = ("y_mean", "y_std")
REQUIRED = tuple(f"{split}_{axis}" for split in SPLITS for axis in "xy")
ALLOWED = (
    *REQUIRED,
    *(f"{split}_group" for split in SPLITS),
    *STATISTICS,
    "folds",
    "fold_training",
    "units",
)

META = "meta.json"


class Damaged(Exception):
    """Raised if ``meta.json`` is missing or invalid, or does not match the files."""


def fingerprint(arrays: Arrays) -> str:
    """Return the first 16 hex digits of a SHA-256 over the arrays.

    It covers their names, types, shapes and bytes.
    """
    digest = hashlib.sha256()
    for name, array in sorted(stored_arrays(arrays).items()):
        little = array.dtype.newbyteorder("<")
        digest.update(f"{name} {little.str} {array.shape}\n".encode())
        rows = array[None] if array.ndim == 0 else array
        for part in row_slices(rows):
            digest.update(
                np.ascontiguousarray(rows[part]).astype(little, copy=False).tobytes()
            )
    return digest.hexdigest()[:16]


def stored_arrays(arrays: Arrays) -> dict[str, Array]:
    """Return the arrays to write to files, by name.

    Composite rows give an array per part, e.g. ``train_x.pairs``.
    """
    written: dict[str, Array] = {}
    for key, array in arrays.items():
        if isinstance(array, np.ndarray):
            written[key] = array
        else:
            parts: Mapping[str, Array] = getattr(array, "parts")  # noqa: B009 - composite rows have them
            written |= {f"{key}.{part}": value for part, value in parts.items()}
    return written


def read_meta(directory: Path) -> dict[str, Any]:
    """Return the content of ``meta.json``.

    Raises `Damaged` if it is missing or invalid.
    """
    path = directory / META
    try:
        meta = cache.read_json(path)
        _check_meta(meta)
    except (UserError, OSError, KeyError, TypeError, AttributeError) as error:
        raise Damaged(
            f"{path} is unreadable ({type(error).__name__}: {error})"
        ) from error
    return meta


def _check_meta(meta: dict[str, Any]) -> None:
    """Raise TypeError, KeyError or AttributeError if a field is missing or wrong."""
    documents = meta.get("documents", {})
    texts = [meta["fingerprint"], meta.get("name", ""), meta.get("identity", "")]
    texts += [*meta.get("kinds", {}).values(), *documents.values()]
    sizes = []
    for entry in meta["arrays"].values():
        texts += [entry["dtype"], entry["sha256"]]
        sizes += [entry["bytes"], *entry["shape"]]
    has_paths = any("/" in key for key in (*meta["arrays"], *documents))
    has_texts = all(type(text) is str for text in texts)
    has_sizes = all(type(size) is int for size in sizes)
    if has_paths or not has_texts or not has_sizes:
        raise TypeError("unexpected types")


def stored_files(meta: Mapping[str, Any]) -> set[str]:
    """Return the names of all files of the prepared data that ``meta`` describes.

    They include ``meta.json``.
    """
    return {META, *(f"{key}.npy" for key in meta["arrays"]), *meta.get("documents", {})}


@contextlib.contextmanager
def open_workspace(
    name: str, directory: Path, raw: Path, protocol: str, identity: str
) -> Iterator[Workspace]:
    """Context manager: yield the workspace of an interrupted build, else a new one.

    The interrupted build must have the same ``identity``. At the end of the block, the
    workspace is kept for the next build if a batch is finished, and the block was
    interrupted (Ctrl-C, SystemExit), ran out of memory or disk space, or had an
    input/output error. In all other cases, it is removed, because the next build would
    probably fail with the same error. Raises UserError if the workspace's path is a
    link or a file.
    """
    path = directory.parent / f".partial-{directory.name}"
    if path.is_symlink() or (path.exists() and not path.is_dir()):
        raise UserError(
            f"{path} is where an unfinished build is stored, and it is a link or no"
            " directory: remove it"
        )
    cache.make_directory(path)
    workspace = Workspace(name, raw, path, protocol, identity)
    if not workspace.started:
        shutil.rmtree(path)
        path.mkdir()
    resumable = False
    try:
        with cache.disk_errors(path):
            yield workspace
    except BaseException as error:
        resumable = workspace.started and not _at_fault(error)
        raise
    finally:
        if not resumable:
            shutil.rmtree(path, ignore_errors=True)


def _at_fault(error: BaseException) -> bool:
    """Return whether an error is probably one of the build, and would recur.

    Ctrl-C, a full disk, too little memory and errors of the system may not recur.
    """
    if isinstance(error, UserError):
        cause = error.__cause__
        return not (isinstance(cause, OSError) and cause.errno in cache.DISK_FULL)
    return not isinstance(error, KeyboardInterrupt | SystemExit | OSError | MemoryError)


def finish_build(
    name: str,
    directory: Path,
    arrays: Arrays,
    identity: str,
    documents: Mapping[str, str] | None = None,
) -> str:
    """Complete the build in ``directory``, and return the fingerprint.

    Missing arrays and ``meta.json`` are written. ``documents`` are other files to
    write, as text by name. Raises UserError for missing, empty or unexpected arrays,
    and if the disk is full.

    The progress file of the build is kept, so that the build can continue if it is
    interrupted before `move_build`.
    """
    _check_names(name, arrays)
    entries = _write_arrays(directory, stored_arrays(arrays))
    kinds = {
        key: str(getattr(array, "kind", ""))
        for key, array in arrays.items()
        if not isinstance(array, np.ndarray)
    }
    assert set(kinds.values()) <= set(KINDS), kinds
    hashes = {}
    for document, text in (documents or {}).items():
        cache.write_text(directory / document, text)
        hashes[document] = cache.sha256_file(directory / document)
    meta: dict[str, Any] = {
        "name": name,
        "fingerprint": fingerprint(arrays),
        "identity": identity,
        "kinds": kinds,
        "arrays": entries,
    }
    if hashes:
        meta["documents"] = hashes
    cache.write_text(directory / META, json.dumps(meta, indent=2))
    return str(meta["fingerprint"])


def _write_arrays(
    directory: Path, arrays: Mapping[str, Array]
) -> dict[str, dict[str, Any]]:
    """Write the arrays that are not yet in their files; return their descriptions.

    An array is in its file if it is a memory map of the file.
    """
    mapped = {
        key
        for key, array in arrays.items()
        if _is_file(array, directory / f"{key}.npy")
    }
    new_bytes = sum(array.nbytes for key, array in arrays.items() if key not in mapped)
    cache.check_space(directory, 1.1 * new_bytes)  # with a margin
    entries = {}
    for key, array in sorted(arrays.items()):
        path = directory / f"{key}.npy"
        if isinstance(array, np.memmap) and key in mapped:
            array.flush()
        else:
            _save(array, path)
        entries[key] = {
            "dtype": array.dtype.str,
            "shape": list(array.shape),
            "bytes": path.stat().st_size,
            "sha256": cache.sha256_file(path),
        }
    return entries


def _save(array: Array, path: Path) -> None:
    """Write an array to a second file, and rename that file to ``path``.

    The array may be a memory map of ``path``.
    """
    temporary = path.with_name(f".{path.name}")
    temporary.unlink(missing_ok=True)
    np.save(temporary, np.asarray(array, order="C"), allow_pickle=False)
    os.replace(temporary, path)


def _is_file(array: Array, path: Path) -> bool:
    """Return whether the array is a memory map of the whole file ``path``.

    `Workspace.array` returns such arrays.
    """
    if not isinstance(array, np.memmap) or array.filename is None or not path.exists():
        return False
    # NumPy stores the resolved path.
    if Path(array.filename).resolve() != path.resolve():
        return False
    whole = np.lib.format.open_memmap(path, mode="r")
    is_whole = (array.shape, array.dtype) == (whole.shape, whole.dtype)
    return is_whole and array.flags.c_contiguous


def move_build(source: Path, directory: Path) -> None:
    """Sync the files of the finished build ``source`` to disk, and rename it.

    The build then replaces ``directory``.
    """
    files = stored_files(read_meta(source))
    for name in files:
        cache.flush(source / name)
    with (
        cache.scratch_directory(directory.parent) as scratch,
        cache.disk_errors(directory.parent),
    ):
        # Not earlier: without the progress file, an interrupted build cannot continue
        # from its other files.
        (source / PROGRESS).unlink(missing_ok=True)
        for path in source.iterdir():
            if path.name not in files:
                path.unlink()
        cache.replace_directory(source, directory, scratch)


def _check_names(name: str, arrays: Arrays) -> None:
    """Raise UserError for missing, empty, unequally long or unexpected arrays."""
    for split in SPLITS:
        # samples that are judged by folds need no test split
        may_be_empty = split == "test" and "folds" in arrays
        if not _has_split(arrays, split, may_be_empty=may_be_empty):
            hint = ""
            if split == "validation":
                hint = (
                    " Carve it from the training data; test data is never used for"
                    " selection."
                )
            raise UserError(
                f"task {name!r} has no {split} split ({split}_x and {split}_y).{hint}"
            )
        keys = (f"{split}_x", f"{split}_y", f"{split}_group")
        if len({len(arrays[key]) for key in keys if key in arrays}) > 1:
            raise UserError(
                f"task {name!r}: the arrays of {split} have different lengths"
            )
    extra = sorted(set(arrays) - set(ALLOWED))
    if extra:
        raise UserError(
            f"task {name!r}: unexpected arrays {', '.join(extra)}; allowed:"
            f" {', '.join(ALLOWED)}"
        )


def _has_split(arrays: Arrays, split: SplitName, *, may_be_empty: bool) -> bool:
    """Return whether ``arrays`` has the inputs and targets of a split.

    Unless they ``may_be_empty``, they must have samples.
    """
    for key in (f"{split}_x", f"{split}_y"):
        if key not in arrays:
            return False
        if not len(arrays[key]) and not may_be_empty:
            return False
    return True
