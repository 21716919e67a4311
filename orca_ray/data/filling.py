"""The directory of an unfinished build, and how it becomes that of prepared data."""

import contextlib
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from orca_ray.data import cache
from orca_ray.data.layout import ALLOWED, META, SPLITS, Array, Arrays, fingerprint, stored
from orca_ray.data.meta import described, read_meta
from orca_ray.data.rows import KINDS
from orca_ray.data.workspace import PROGRESS, Workspace
from orca_ray.errors import UserError


@contextlib.contextmanager
def partial(name: str, directory: Path, raw: Path, protocol: str, identity: str) -> Iterator[Workspace]:
    """Give the directory that an interrupted build of the same left, or an empty one; bad input leaves none behind.

    Finished batches stay where the input was not at fault: the next build goes on from them.
    """
    begun = directory.parent / f".partial-{directory.name}"
    cache.make_directory(begun)
    workspace = Workspace(name, raw, begun, protocol, identity)
    if not workspace.started:
        _empty(begun)
    kept = False
    try:
        with cache.disk_errors(begun):
            yield workspace
    except BaseException as error:
        kept = workspace.started and not _at_fault(error)
        raise
    finally:
        if not kept:
            shutil.rmtree(begun, ignore_errors=True)


def _at_fault(error: BaseException) -> bool:
    """Whether the same build would fail again: on anything but Ctrl-C, a full disk or memory, and the system."""
    if isinstance(error, UserError):
        cause = error.__cause__
        return not (isinstance(cause, OSError) and cause.errno in cache.DISK_FULL)
    return not isinstance(error, KeyboardInterrupt | SystemExit | OSError | MemoryError)


def _empty(directory: Path) -> None:
    for path in directory.iterdir():
        path.unlink()


def finish(name: str, directory: Path, arrays: Arrays, identity: str) -> str:
    """Write what is not in ``directory`` yet, and ``meta.json``; return the fingerprint.

    What a build goes on from stays: an interruption may still come.
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
    found = fingerprint(arrays)
    meta = {"name": name, "fingerprint": found, "identity": identity, "kinds": _kinds(arrays), "arrays": entries}
    (directory / META).write_text(json.dumps(meta, indent=2))
    return found


def _save(path: Path, array: Array) -> None:
    """Write an array, which may be a part of the very file that it replaces."""
    fresh = path.with_name(f".{path.name}")
    np.save(fresh, np.asarray(array, order="C"), allow_pickle=False)
    os.replace(fresh, path)


def _kinds(arrays: Arrays) -> dict[str, str]:
    kinds = {key: str(getattr(array, "kind", "")) for key, array in arrays.items() if not isinstance(array, np.ndarray)}
    assert set(kinds.values()) <= set(KINDS), kinds
    return kinds


def _is_file(array: Array, path: Path) -> bool:
    """Whether an array is the whole of a file that the build made with `Workspace.array`, as it lies there."""
    if not isinstance(array, np.memmap) or array.filename is None or not path.exists():
        return False
    if Path(array.filename).resolve() != path.resolve():  # numpy resolves it
        return False
    whole = np.lib.format.open_memmap(path, mode="r")
    return array.flags.c_contiguous and (array.shape, array.dtype) == (whole.shape, whole.dtype)


def move(partial: Path, directory: Path) -> None:
    """Let a finished directory take the place of another one, at once; what it holds is on the disk by then."""
    kept = described(read_meta(partial))
    for name in kept:
        cache.flush(partial / name)
    with cache.scratch_directory(directory.parent) as scratch, cache.disk_errors(directory.parent):
        # Not before: without it a build begins anew, and with it, it may read what else is here.
        (partial / PROGRESS).unlink(missing_ok=True)
        for path in partial.iterdir():
            if path.name not in kept:
                path.unlink()
        if directory.exists():
            os.replace(directory, scratch / "replaced")
        os.replace(partial, directory)


def _check_names(name: str, arrays: Arrays) -> None:
    for split in SPLITS:
        if not all(f"{split}_{axis}" in arrays and len(arrays[f"{split}_{axis}"]) for axis in "xy"):
            hint = " Carve it from the training data; test data is never used for selection." * (split == "validation")
            raise UserError(f"task {name!r} has no {split} split ({split}_x and {split}_y).{hint}")
        if len({len(arrays[key]) for key in (f"{split}_x", f"{split}_y", f"{split}_group") if key in arrays}) > 1:
            raise UserError(f"task {name!r}: the arrays of {split} have different lengths")
    if extra := sorted(set(arrays) - set(ALLOWED)):
        raise UserError(f"task {name!r}: unexpected arrays {', '.join(extra)}; allowed: {', '.join(ALLOWED)}")
