"""Directory of an unfinished build, which becomes the directory of prepared data."""

import contextlib
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from orca_ray.data import cache
from orca_ray.data.layout import ALLOWED, META, SPLITS, Array, Arrays, described, fingerprint, read_meta, stored
from orca_ray.data.rows import KINDS
from orca_ray.data.workspace import PROGRESS, Workspace
from orca_ray.errors import UserError


@contextlib.contextmanager
def unfinished(name: str, directory: Path, raw: Path, protocol: str, identity: str) -> Iterator[Workspace]:
    """Yield the workspace that an interrupted build of the same data left, or an empty one.

    Finished batches are stored for the next build, unless the input is at fault: then the directory is removed.
    """
    path = directory.parent / f".partial-{directory.name}"
    if path.is_symlink() or (path.exists() and not path.is_dir()):
        raise UserError(f"{path} is where an unfinished build is stored, and it is a link or no directory: remove it")
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
    """Return whether the same build would fail again: not after Ctrl-C, a full disk or memory, and system errors."""
    if isinstance(error, UserError):
        cause = error.__cause__
        return not (isinstance(cause, OSError) and cause.errno in cache.DISK_FULL)
    return not isinstance(error, KeyboardInterrupt | SystemExit | OSError | MemoryError)


def finish(name: str, directory: Path, arrays: Arrays, identity: str) -> str:
    """Write the arrays that are not in ``directory`` yet, and ``meta.json``; return the fingerprint.

    The files of an unfinished build are kept: an interruption is still possible.
    """
    _check_names(name, arrays)
    written = stored(arrays)
    inside = {key for key, array in written.items() if _is_file(array, directory / f"{key}.npy")}
    cache.require_space(directory, 1.1 * sum(array.nbytes for key, array in written.items() if key not in inside))
    entries = {}
    for key, array in sorted(written.items()):
        path = directory / f"{key}.npy"
        if isinstance(array, np.memmap) and key in inside:
            array.flush()
        else:
            _save(path, array)
        entries[key] = {
            "dtype": array.dtype.str,
            "shape": list(array.shape),
            "bytes": path.stat().st_size,
            "sha256": cache.sha256_file(path),
        }
    kinds = {key: str(getattr(array, "kind", "")) for key, array in arrays.items() if not isinstance(array, np.ndarray)}
    assert set(kinds.values()) <= set(KINDS), kinds
    found = fingerprint(arrays)
    meta = {"name": name, "fingerprint": found, "identity": identity, "kinds": kinds, "arrays": entries}
    cache.write_text(directory / META, json.dumps(meta, indent=2))
    return found


def _save(path: Path, array: Array) -> None:
    """Write an array, which may be a part of the file that it replaces."""
    fresh = path.with_name(f".{path.name}")
    fresh.unlink(missing_ok=True)
    np.save(fresh, np.asarray(array, order="C"), allow_pickle=False)
    os.replace(fresh, path)


def _is_file(array: Array, path: Path) -> bool:
    """Return whether an array is the whole of a file that the build made with `Workspace.array`."""
    if not isinstance(array, np.memmap) or array.filename is None or not path.exists():
        return False
    if Path(array.filename).resolve() != path.resolve():  # numpy resolves it
        return False
    whole = np.lib.format.open_memmap(path, mode="r")
    return array.flags.c_contiguous and (array.shape, array.dtype) == (whole.shape, whole.dtype)


def move(source: Path, directory: Path) -> None:
    """Replace ``directory`` by a finished build at once; its files are flushed to the disk before."""
    files = described(read_meta(source))
    for name in files:
        cache.flush(source / name)
    with cache.scratch_directory(directory.parent) as scratch, cache.disk_errors(directory.parent):
        # Only now: a build without it starts anew, one with it may read the other files.
        (source / PROGRESS).unlink(missing_ok=True)
        for path in source.iterdir():
            if path.name not in files:
                path.unlink()
        cache.replace_directory(source, directory, scratch)


def _check_names(name: str, arrays: Arrays) -> None:
    for split in SPLITS:
        if not all(f"{split}_{axis}" in arrays and len(arrays[f"{split}_{axis}"]) for axis in "xy"):
            hint = " Carve it from the training data; test data is never used for selection." * (split == "validation")
            raise UserError(f"task {name!r} has no {split} split ({split}_x and {split}_y).{hint}")
        if len({len(arrays[key]) for key in (f"{split}_x", f"{split}_y", f"{split}_group") if key in arrays}) > 1:
            raise UserError(f"task {name!r}: the arrays of {split} have different lengths")
    if extra := sorted(set(arrays) - set(ALLOWED)):
        raise UserError(f"task {name!r}: unexpected arrays {', '.join(extra)}; allowed: {', '.join(ALLOWED)}")
