"""Reader of HDF5 files from untrusted sources.

A user's file is read by a process of its own, which calls these functions
(`orca_ray.data.hdf5_process`). Files of benchmarks that have a declared hash may be
read by any process.
"""

import contextlib
import math
import os
import traceback
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from orca_ray.data import cache
from orca_ray.data.archives import (
    check_growth,
    damaged,
    growth_error,
)
from orca_ray.data.hdf5_chunks import chunk_grid
from orca_ray.data.rows import Array
from orca_ray.errors import UserError, quoted, shorten

_MAX_DEPTH = 64
"""Largest depth of groups in groups."""


@contextlib.contextmanager
def open_hdf5(path: Path, required: Sequence[str] | None = None) -> Iterator[Any]:
    """Context manager: yield an ``h5py.File`` that is opened for reading.

    Errors of h5py inside the block become a `UserError`. The keys ``required``
    (``"tensor"``, ``"0001/data"``) must exist, and only they may be read. None: all
    data sets are checked and may be read. A check takes 0.1 ms for each data set.

    Raises UserError for a file that is not HDF5 or ends early, a missing key, any soft
    or external link, any data set with data in another file or that declares more than
    200 times its stored bytes, groups nested deeper than 64, and a chunk that cannot be
    read. A data set of texts may only be read by `decode_texts`.
    """
    import h5py

    # h5py would report a file without read permission as not HDF5
    cache.open_file(path).close()
    try:
        if not h5py.is_hdf5(path):
            raise UserError(
                f"{path}: expected an HDF5 file, found something else; fetch the file"
                " again"
            )
        with h5py.File(path, "r") as file:
            for key in ("",) if required is None else required:
                for _ in datasets(path, file, key):
                    pass
            yield file
    except (UserError, MemoryError):
        raise
    except Exception as error:
        # h5py has no exception class for damaged files.
        *_, (frame, _) = traceback.walk_tb(error.__traceback__)
        if not str(frame.f_globals.get("__name__", "")).startswith("h5py"):
            raise
        raise damaged(path, "a whole HDF5 file", error) from error


def datasets(path: Path, file: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    """Yield name and ``h5py.Dataset`` of each data set at ``key`` or below, once.

    Raises the errors of `open_hdf5`.
    """
    import h5py

    item = file
    names = key.strip("/").split("/") if key else []
    for depth, name in enumerate(names):
        if not _has_member(item, name):
            raise _missing_key(path, key, names[:depth], name, item)
        item = _member(path, item, name, "/".join(names[: depth + 1]))
    if not isinstance(item, h5py.Dataset | h5py.Group):
        raise UserError(f"{path}, {key}: expected data, found {type(item).__name__}")
    yield from _below(path, item, names, set())


def _has_member(item: Any, name: str) -> bool:
    import h5py

    return isinstance(item, h5py.Group) and item.id.links.exists(os.fsencode(name))


def _missing_key(
    path: Path, key: str, parents: list[str], name: str, item: Any
) -> UserError:
    """Return the error that ``item``, at ``parents``, has no member ``name``."""
    import h5py

    content = "an array"
    if isinstance(item, h5py.Group):
        content = shorten(", ".join(map(str, list(item)[:20]))) or "nothing"
    place = f" in {'/'.join(parents)}" if parents else ""
    return UserError(
        f"{path}: expected key {key!r}, found no {name!r}{place} but {content}"
    )


def _below(
    path: Path, item: Any, names: list[str], visited: set[int]
) -> Iterator[tuple[str, Any]]:
    """Yield the data sets at ``item`` and below that were not visited before.

    ``visited`` are addresses in the file; those that are visited now are added.
    """
    import h5py

    where = "/".join(names)
    address = h5py.h5o.get_info(item.id).addr
    if address in visited or not isinstance(item, h5py.Dataset | h5py.Group):
        return
    visited.add(address)
    if isinstance(item, h5py.Dataset):
        if not item.dtype.hasobject:  # `decode_texts` checks those
            _check_growth(path, where, item)
        yield where, item
        return
    # h5py's own visitors take minutes for 3,000 groups in each other
    if len(names) > _MAX_DEPTH:
        raise UserError(
            f"{path}: expected groups in at most {_MAX_DEPTH} others, found"
            f" {shorten(where)}"
        )
    for name in item:
        if not isinstance(name, str):  # h5py returns other names as bytes
            raise UserError(
                f"{path}: expected names in UTF-8, found {quoted(name)} in"
                f" {shorten(where) or 'the file'}; rename it"
            )
        member = _member(path, item, name, f"{where}/{name}".lstrip("/"))
        yield from _below(path, member, [*names, name], visited)


def _member(path: Path, group: Any, name: str, where: str) -> Any:
    """Return a member of a group; raise UserError if it is a link.

    A link is not followed, because it may point to a pipe.
    """
    import h5py

    kind = group.id.links.get_info(os.fsencode(name)).type
    if kind != h5py.h5l.TYPE_HARD:
        kinds = {h5py.h5l.TYPE_SOFT: "SoftLink", h5py.h5l.TYPE_EXTERNAL: "ExternalLink"}
        raise UserError(
            f"{path}, {shorten(where)}: expected data in the file itself, found a link"
            f" ({kinds.get(kind, kind)})"
        )
    return group[name]


def _check_growth(path: Path, name: str, dataset: Any) -> None:
    """Raise UserError if a data set declares more than its stored bytes allow."""
    if dataset.external or dataset.is_virtual:
        raise UserError(
            f"{path}, {shorten(name)}: expected data in the file itself, found data"
            " kept in another file"
        )
    if dataset.shape:
        chunk_bytes = math.prod(dataset.chunks or ()) * dataset.dtype.itemsize
        stored = min(dataset.id.get_storage_size(), path.stat().st_size)
        check_growth(path, max(dataset.nbytes, chunk_bytes), stored, f", {name}")


def check_chunks(path: Path, name: str, dataset: Any) -> None:
    """Raise UserError unless all chunks of an ``h5py.Dataset`` have the right size.

    The HDF5 library (2.0) does not check the size, and crashes if it is wrong. Chunks
    with filters are all read and decompressed. Other filters than gzip, shuffle and
    Fletcher's checksum are refused.
    """
    if not dataset.chunks:
        return
    where = f"{path}, {shorten(name)}"
    filters = _filters(dataset, where)
    size = math.prod(dataset.chunks) * dataset.id.get_type().get_size()
    chunks = list[Any]()
    dataset.id.chunk_iter(chunks.append)
    if sum(chunk.size for chunk in chunks) > path.stat().st_size:
        raise UserError(
            f"{where}: expected chunks that do not overlap; fetch the file again"
        )
    for chunk in chunks:
        if chunk.size == size and not filters:
            continue
        num_bytes = 0
        if chunk.size:
            mask, content = dataset.id.read_direct_chunk(chunk.chunk_offset)
            num_bytes = _unfiltered_size(content, filters, mask, size)
        if num_bytes != size:
            raise UserError(
                f"{where}: expected chunks of {size} bytes, found {num_bytes}; fetch"
                " the file again"
            )


def _filters(dataset: Any, where: str) -> list[int]:
    """Return the numbers of the filters of a data set, in the order of their use."""
    from h5py import h5z

    allowed = (h5z.FILTER_DEFLATE, h5z.FILTER_SHUFFLE, h5z.FILTER_FLETCHER32)
    properties = dataset.id.get_create_plist()
    filters = []
    for place in range(properties.get_nfilters()):
        number, _, _, text = properties.get_filter(place)
        if number not in allowed:
            raise UserError(
                f"{where}: expected no filter or gzip, found"
                f" {text.decode(errors='replace')!r}; store it again"
            )
        filters.append(number)
    return filters


def _unfiltered_size(content: bytes, filters: list[int], mask: int, most: int) -> int:
    """Return the size of a chunk's ``content`` without its filters; 0 if damaged.

    Bit k of ``mask`` says that filter k was not used. At most 8 bytes more than
    ``most`` are decompressed.
    """
    from h5py import h5z

    for place, number in reversed(list(enumerate(filters))):
        if mask >> place & 1:
            continue
        if number == h5z.FILTER_FLETCHER32:
            content = content[:-4]  # the checksum
        elif number == h5z.FILTER_DEFLATE:
            try:
                content = zlib.decompressobj().decompress(content, most + 8)
            except zlib.error:
                content = b""
    return len(content)


def start_of_numbers(dataset: Any) -> int | None:
    """Return where a file has the numbers of a data set, as NumPy has them in memory.

    None: they are in chunks, in another form, of another kind, or were not written.
    """
    start = dataset.id.get_offset()
    if not _has_form_of_memory(dataset) or not dataset.nbytes or start is None:
        return None
    is_whole = dataset.id.get_storage_size() == dataset.nbytes
    return int(start) if is_whole else None


def _has_form_of_memory(dataset: Any) -> bool:
    """Return whether a file has numbers as NumPy has them in memory."""
    from h5py import h5t

    is_same_type = h5t.py_create(dataset.dtype) == dataset.id.get_type()
    return dataset.dtype.kind in "iuf" and is_same_type


def starts_of_chunks(dataset: Any) -> Array | None:
    """Return where a file has each chunk of a data set, as NumPy has it in memory.

    The array has an axis for each axis of the data set. None: the numbers are not in
    chunks, compressed, in another form, of another kind, or not all written. The
    sizes of the chunks must have been checked (`check_chunks`).
    """
    if not dataset.chunks or not dataset.nbytes or not _has_form_of_memory(dataset):
        return None
    if dataset.id.get_create_plist().get_nfilters():
        return None
    grid = chunk_grid(dataset.shape, dataset.chunks)
    chunks = list[Any]()
    dataset.id.chunk_iter(chunks.append)
    starts = {chunk.chunk_offset: chunk.byte_offset for chunk in chunks}
    offsets = [
        tuple(number * size for number, size in zip(place, dataset.chunks, strict=True))
        for place in np.ndindex(grid)
    ]
    if set(starts) != set(offsets):
        return None
    return np.array([starts[offset] for offset in offsets], np.int64).reshape(grid)


def decode_texts(path: Path, name: str, allowed_bytes: int) -> Array:
    """Return a data set of texts as an array of NumPy's text type, in its shape.

    Only a process with limits may call it (`orca_ray.data.hdf5_process`): damaged
    texts, and damaged fill values of texts that were not written, make the HDF5 library
    (2.0) take gigabytes of memory, read forever, or end the process.

    Raises UserError for damaged texts, and for texts that take more than
    ``allowed_bytes``.
    """
    with open_hdf5(path, (name,)) as file:
        _check_growth(path, name, file[name])
        texts = np.asarray(file[name].asstr(errors="replace")[...])
        # NumPy takes 4 bytes a character, for each text as for the longest one.
        longest = max(map(len, texts.flat), default=0)
        if 4 * longest * texts.size > allowed_bytes:
            raise growth_error(path, f", {name}")
        return texts.astype("U")
