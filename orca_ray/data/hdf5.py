"""Readers of HDF5 files from untrusted sources, and of MATLAB files, which are HDF5
from version 7.3 on.

MATLAB versions 5 to 7 write the format "level 5". SciPy's ``loadmat`` is not used for
level 5, because it fails our tests with damaged files: one wrong byte in an
uncompressed file ends the process with a segmentation fault (SciPy 1.17). It also loads
whole arrays into memory. Format: "MAT-File Format", The MathWorks, chapter 1.
"""

import contextlib
import functools
import logging
import math
import os
import resource
import struct
import subprocess
import sys
import tempfile
import traceback
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np

from orca_ray.data import cache
from orca_ray.data.archives import (
    archive_errors,
    check_growth,
    damaged,
    max_bytes,
    swollen,
)
from orca_ray.data.npy import from_stream, mapped
from orca_ray.data.rows import Array, LazyRows, RowIndex
from orca_ray.errors import UserError, shorten

logger = logging.getLogger(__name__)

_HEADER_BYTES = 128
_MATRIX = 14
_COMPRESSED = 15
_STORED = {
    1: "i1",
    2: "u1",
    3: "i2",
    4: "u2",
    5: "i4",
    6: "u4",
    7: "f4",
    9: "f8",
    12: "i8",
    13: "u8",
}
"""NumPy type of each number type in the file format (the type in which numbers are
stored).
"""
_CLASSES = {
    6: "f8",
    7: "f4",
    8: "i1",
    9: "u1",
    10: "i2",
    11: "u2",
    12: "i4",
    13: "u4",
    14: "i8",
    15: "u8",
}
"""NumPy type of each array class in the file format (the type that MATLAB shows).

Stored types may be shorter.
"""
_OTHER_CLASSES = {1: "cell", 2: "struct", 3: "object", 4: "char", 5: "sparse"}
_COMPLEX = 0x08
_FLAGS = 6
_SIZES = 5
_NAME = 1
"""Types of the elements at the start of a variable, in the order of the file: flags,
shape, name.
"""
_MAX_ELEMENT_BYTES = 4096
_MAX_DESCRIPTION_BYTES = 3 * _MAX_ELEMENT_BYTES
_MAX_AXES = 64
_MAX_DEPTH = 64
_MAX_NAME_BYTES = 4096
_TEXTS_SECONDS = 5
_TEXTS_BYTES = 2**29
"""CPU time and memory that texts may take, beside what their file's size allows."""


@contextlib.contextmanager
def open_hdf5(path: Path, required: Sequence[str] | None = None) -> Iterator[Any]:
    """Yield an ``h5py.File`` opened for reading; errors of h5py inside the block become
    a `UserError`.

    ``required`` keys (``"tensor"``, ``"0001/data"``) must exist; only they may be read.
    None: all is looked at, which takes 0.1 ms for each data set.

    Raises UserError for a file that is not HDF5 or ends early, a missing key, any soft
    or external link, any data set with data in another file or that declares more than
    200 times its stored bytes, groups nested deeper than 64, and a chunk that cannot be
    read. A data set of texts may only be read by `read_texts`.
    """
    import h5py

    cache.open_file(
        path
    ).close()  # h5py would report a file without read permission as not HDF5
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
        *_, (last, _) = traceback.walk_tb(error.__traceback__)
        if not str(last.f_globals.get("__name__", "")).startswith("h5py"):
            raise
        raise damaged(path, "a whole HDF5 file", error) from error


def datasets(path: Path, file: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    """Yield name and ``h5py.Dataset`` of each data set at ``key`` or below, once;
    raises the errors of `open_hdf5`.
    """
    import h5py

    found = file
    names = key.strip("/").split("/") if key else []
    for depth, name in enumerate(names):
        if not isinstance(found, h5py.Group) or not found.id.links.exists(
            os.fsencode(name)
        ):
            inside = f" in {'/'.join(names[:depth])}" * bool(depth)
            held = (
                shorten(", ".join(map(str, list(found)[:20])))
                if isinstance(found, h5py.Group)
                else "an array"
            )
            raise UserError(
                f"{path}: expected key {key!r}, found no {name!r}{inside} but"
                f" {held or 'nothing'}"
            )
        found = _member(path, found, name, "/".join(names[: depth + 1]))
    if not isinstance(found, h5py.Dataset | h5py.Group):
        raise UserError(f"{path}, {key}: expected data, found {type(found).__name__}")
    yield from _below(path, found, names, set())


def _below(
    path: Path, found: Any, names: list[str], seen: set[int]
) -> Iterator[tuple[str, Any]]:
    import h5py

    where = "/".join(names)
    address = h5py.h5o.get_info(found.id).addr
    if address in seen or not isinstance(found, h5py.Dataset | h5py.Group):
        return
    seen.add(address)
    if isinstance(found, h5py.Dataset):
        if not found.dtype.hasobject:  # `read_texts` checks those
            _check_growth(path, where, found)
        yield where, found
        return
    if (
        len(names) > _MAX_DEPTH
    ):  # h5py's own visitors take minutes for 3,000 groups in each other
        raise UserError(
            f"{path}: expected groups in at most {_MAX_DEPTH} others, found"
            f" {shorten(where)}"
        )
    for name in found:
        yield from _below(
            path,
            _member(path, found, name, f"{where}/{name}".lstrip("/")),
            [*names, name],
            seen,
        )


def _member(path: Path, group: Any, name: str, where: str) -> Any:
    """Return a member of a group; a link is not followed, as what it points to may be a
    pipe.
    """
    import h5py

    if (kind := group.id.links.get_info(os.fsencode(name)).type) != h5py.h5l.TYPE_HARD:
        kinds = {h5py.h5l.TYPE_SOFT: "SoftLink", h5py.h5l.TYPE_EXTERNAL: "ExternalLink"}
        found = f"found a link ({kinds.get(kind, kind)})"
        raise UserError(
            f"{path}, {shorten(where)}: expected data in the file itself, {found}"
        )
    return group[name]


def _check_growth(path: Path, name: str, found: Any) -> None:
    if found.external or found.is_virtual:
        raise UserError(
            f"{path}, {shorten(name)}: expected data in the file itself, found data"
            " kept in another file"
        )
    if found.shape:
        chunk = math.prod(found.chunks or ()) * found.dtype.itemsize
        stored = min(found.id.get_storage_size(), path.stat().st_size)
        check_growth(path, max(found.nbytes, chunk), stored, f", {name}")


def check_chunks(path: Path, name: str, found: Any) -> None:
    """Raise UserError unless each chunk of an ``h5py.Dataset`` has its size: the
    library (2.0) trusts it, and crashes.

    Chunks with filters are all read and decompressed. Filters but gzip, shuffle and
    Fletcher's checksum are refused.
    """
    from h5py import h5z

    if not found.chunks:
        return
    properties = found.id.get_create_plist()
    where = f"{path}, {shorten(name)}"
    stored = list[Any]()
    filters = [
        properties.get_filter(number)[::3]
        for number in range(properties.get_nfilters())
    ]
    for number, text in filters:
        if number not in (
            h5z.FILTER_DEFLATE,
            h5z.FILTER_SHUFFLE,
            h5z.FILTER_FLETCHER32,
        ):
            raise UserError(
                f"{where}: expected no filter or gzip, found"
                f" {text.decode(errors='replace')!r}; store it again"
            )
    size = math.prod(found.chunks) * found.id.get_type().get_size()
    found.id.chunk_iter(stored.append)
    if sum(chunk.size for chunk in stored) > path.stat().st_size:
        raise UserError(
            f"{where}: expected chunks that do not overlap; fetch the file again"
        )
    for chunk in stored:
        if chunk.size == size and not filters:
            continue
        mask, content = (
            found.id.read_direct_chunk(chunk.chunk_offset) if chunk.size else (0, b"")
        )
        for place, (number, _) in reversed(list(enumerate(filters))):
            if number == h5z.FILTER_FLETCHER32 and not mask >> place & 1:
                content = content[:-4]
            elif number == h5z.FILTER_DEFLATE and not mask >> place & 1:
                try:
                    content = zlib.decompressobj().decompress(content, size + 8)
                except zlib.error:
                    content = b""
        if len(content) != size:
            raise UserError(
                f"{where}: expected chunks of {size} bytes, found {len(content)}; fetch"
                " the file again"
            )


def read_texts(path: Path, name: str) -> Array:
    """Return a data set of texts as an array of NumPy's text type, in the data set's
    shape.

    Another process reads them, with limits: what the library (2.0) finds in damaged
        texts, or in the value of texts
    that were not written, makes it take gigabytes of memory, read forever, or end the
    process.

    Raises UserError for damaged texts, and for texts that unfold to more than 200 times
    the size of the file.
    """
    if len(os.fsencode(name)) > _MAX_NAME_BYTES:
        raise UserError(
            f"{path}: expected names of at most {_MAX_NAME_BYTES} bytes, found"
            f" {shorten(name)}"
        )
    size = path.stat().st_size
    limits = _TEXTS_SECONDS + size // 2**20, _TEXTS_BYTES, max_bytes(size)
    command = [
        sys.executable,
        "-P",
        "-c",
        f"import {__name__} as reader; reader._write_texts()",
        str(path),
        name,
    ]
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
        "OPENBLAS_NUM_THREADS": "1",
    }
    environment["HDF5_PLUGIN_PRELOAD"] = "::"  # no filter is loaded from a file
    with (
        tempfile.TemporaryFile() as stream,
        contextlib.suppress(subprocess.TimeoutExpired),
    ):
        done = subprocess.run(
            [*command, *map(str, limits)],
            stdout=stream,
            stderr=subprocess.PIPE,
            env=environment,
            timeout=60 + 10 * limits[0],
        )
        stream.seek(0)
        if done.returncode == 0:
            return np.asarray(np.load(stream, allow_pickle=False))
        if done.returncode == 2:
            raise UserError(stream.read().decode(errors="surrogateescape"))
        logger.debug("reading %s ended with %s: %s", path, done.returncode, done.stderr)
    raise UserError(
        f"{path}, {shorten(name)}: expected texts, found damaged or too long ones;"
        " fetch the file again"
    )


def _write_texts() -> None:
    """Write an array of texts, or the reason to refuse them, to the standard output;
    see `read_texts`.
    """
    path = Path(sys.argv[1])
    name = sys.argv[2]
    seconds, num_bytes, allowed = map(int, sys.argv[3:])
    limits = {
        resource.RLIMIT_CPU: seconds,
        resource.RLIMIT_AS: num_bytes + 2 * allowed,
        resource.RLIMIT_CORE: 0,
    }
    for limit, value in limits.items():
        with contextlib.suppress(ValueError, OSError):  # a lower limit holds already
            resource.setrlimit(limit, (value, value))
    try:
        with open_hdf5(path, (name,)) as file:
            _check_growth(path, name, file[name])
            texts = np.asarray(file[name].asstr(errors="replace")[...])
            if 4 * max(map(len, texts.flat), default=0) * texts.size > allowed:
                raise swollen(path, f", {name}")
            np.save(sys.stdout.buffer, texts.astype("U"))
    except UserError as error:
        sys.stdout.buffer.write(str(error).encode(errors="surrogateescape"))
        sys.exit(2)


def read_mat(path: Path, name: str) -> LazyRows:
    """Return the numeric array ``name`` of a MATLAB file, with the axes in MATLAB's
    order.

    A slice ``array[a:b]`` along the first axis loads an array [b − a, ...]. Each slice
    may read the whole variable: use large slices. A compressed variable of over 64 MiB
    is decompressed to a temporary file in the cache directory.

    Raises UserError for a damaged file, for a file of another kind, and if ``name`` is
    missing or not numeric.
    """
    import h5py

    cache.check_special(path)
    if not h5py.is_hdf5(path):
        variables = mat5_variables(path)
        if name not in variables:
            raise UserError(
                f"{path}: expected an array {name!r}, found"
                f" {shorten(', '.join(variables)) or 'none'}"
            )
        variable = variables[name]
        if not variable.is_numeric:
            raise UserError(
                f"{path}, {name}: expected a numeric array, found MATLAB's"
                f" {variable.kind!r}"
            )
        load = functools.cache(lambda: read_mat5(path, variable))
        dtype = np.dtype(variable.kind)
        return LazyRows(variable.shape, dtype, lambda rows: load()[rows].astype(dtype))

    def read(rows: RowIndex) -> Array:
        with open_hdf5(path, (name,)) as file:
            return np.asarray(file[name][..., rows]).T

    with open_hdf5(path, (name,)) as file:
        found = file[name]
        if (
            not isinstance(found, h5py.Dataset)
            or found.dtype.kind not in "biuf"
            or not found.shape
        ):
            raise UserError(
                f"{path}, {name}: expected a numeric array, found {found!r}"
            )
        check_chunks(path, name, found)
        return LazyRows(tuple(found.shape[::-1]), found.dtype, read)


class Variable(NamedTuple):
    """Description of one array of a MATLAB file, with the place of its numbers."""

    name: str
    kind: str
    """NumPy type that MATLAB shows, e.g. "f8"; for an array that is not real numbers, a
    word such as "cell".
    """
    shape: tuple[int, ...]
    stored: np.dtype[Any]
    """Type in which the numbers are stored."""
    packed: tuple[int, int] | None
    """Position and length of the compressed bytes; None if the variable is not
    compressed.
    """
    start: int
    """Position of the first number: in the decompressed bytes of a compressed variable,
    else in the file.
    """

    @property
    def is_numeric(self) -> bool:
        """Whether the variable is a dense array of real numbers; `read_mat5` reads no
        other variable.
        """
        return self.kind in _CLASSES.values()


def mat5_variables(path: Path) -> dict[str, Variable]:
    """Return all variables of a MATLAB 5 to 7 file by name; only headers are read.

    UserError for a damaged file.
    """
    with archive_errors(path, "MATLAB file"), cache.open_file(path) as file:
        found = {}
        size = path.stat().st_size
        header = file.read(_HEADER_BYTES)
        endian = {b"IM": "<", b"MI": ">"}.get(header[126:128], "")
        if not endian or header[124:126] != struct.pack(f"{endian}H", 0x0100):
            raise ValueError("no header of level 5")
        position = _HEADER_BYTES
        while position < size:
            file.seek(position)
            kind, length = struct.unpack(f"{endian}II", file.read(8))
            start = position + 8
            position = start + length
            if kind not in (_MATRIX, _COMPRESSED) or position > size:
                raise ValueError(
                    f"an element of type {kind} and {length} bytes at byte {start - 8}"
                    f" of {size}"
                )
            if kind == _MATRIX:
                variable = _variable(
                    _Header(file.read(min(length, _MAX_DESCRIPTION_BYTES)), endian),
                    None,
                    start,
                )
            else:
                reader = _Header(
                    _inflated(file, start, length).read(_MAX_DESCRIPTION_BYTES), endian
                )
                variable = (
                    _variable(reader, (start, length), 0)
                    if reader.tag()[0] == _MATRIX
                    else None
                )
            if variable is not None:
                found[variable.name] = variable
        return found


def read_mat5(path: Path, variable: Variable) -> Array:
    """Return the array of a numeric variable in its stored type, read-only; a large
    array is memory-mapped.

    Raises UserError if the file is damaged, the array exceeds 200 times its compressed
    bytes, or the disk is full.
    """
    with archive_errors(path, "MATLAB file"), cache.open_file(path) as file:
        if variable.packed is None:
            return mapped(file, variable.stored, variable.shape, "F", variable.start)
        num_bytes = math.prod(variable.shape) * variable.stored.itemsize
        check_growth(path, num_bytes, variable.packed[1], f", {variable.name}")
        logger.info("unpacking %s of %s", variable.name, path)
        stream = _inflated(file, *variable.packed)
        stream.read(variable.start)
        return from_stream(stream, variable.stored, variable.shape, "F")


def _inflated(file: IO[bytes], start: int, size: int) -> Any:
    """Return a stream that decompresses ``size`` bytes of a file, in zlib format, from
    position ``start`` on.
    """
    import pyarrow as pa

    return pa.CompressedInputStream(
        pa.PythonFile(file, mode="r").get_stream(start, size), "gzip"
    )


class _Header:
    """Reads the elements at the start of a variable, one after the other.

    ``endian`` is "<" or ">".
    """

    def __init__(self, content: bytes, endian: str) -> None:
        self._content = content
        self.endian = endian
        self.position = 0

    def tag(self) -> tuple[int, int]:
        """Return type and length of the next element.

        An element of up to four bytes is stored inside its tag.
        """
        kind, size = struct.unpack_from(
            f"{self.endian}II", self._content, self.position
        )
        self.position += 8
        if kind >> 16:
            kind, size = kind & 0xFFFF, kind >> 16
            if size > 4:
                raise ValueError(f"a short element of {size} bytes")
            self.position -= 4
        return kind, size

    def element(self, expected: int) -> bytes:
        """Return the content of the next element; raises ValueError if its type is not
        ``expected``.
        """
        kind, size = self.tag()
        if kind != expected or size > _MAX_ELEMENT_BYTES:
            raise ValueError(
                f"an element of type {kind} and {size} bytes where type {expected}"
                " is due"
            )
        (content,) = struct.unpack_from(f"{size}s", self._content, self.position)
        self.position += size + -(self.position + size) % 8
        return bytes(content)


def _variable(
    reader: _Header, packed: tuple[int, int] | None, start: int
) -> Variable | None:
    """Read the header of a variable; return None for an unknown class (opaque objects,
    functions).
    """
    flags = int(np.frombuffer(reader.element(_FLAGS), f"{reader.endian}u4")[0])
    number = flags & 0xFF
    if number not in _CLASSES and number not in _OTHER_CLASSES:
        return None
    shape = tuple(np.frombuffer(reader.element(_SIZES), f"{reader.endian}i4").tolist())
    name = reader.element(_NAME).decode("latin1")
    if number in _OTHER_CLASSES or flags >> 8 & _COMPLEX:
        kind = "complex" if flags >> 8 & _COMPLEX else _OTHER_CLASSES[number]
        return Variable(name, kind, shape, np.dtype("V1"), packed, 0)
    code, length = reader.tag()
    if code not in _STORED:
        raise ValueError(f"numbers of type {code}")
    stored = np.dtype(f"{reader.endian}{_STORED[code]}")
    if (
        min(shape, default=-1) < 0
        or len(shape) > _MAX_AXES
        or length != math.prod(shape) * stored.itemsize
    ):
        raise ValueError(
            f"{length} bytes of {stored} for an array {name[:80]!r} of shape"
            f" {list(shape)[:8]}"
        )
    return Variable(
        name, _CLASSES[number], shape, stored, packed, start + reader.position
    )
