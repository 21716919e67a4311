"""Zarr groups (extra ``adapt``); arrays are read row by row when they are selected."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from orca_ray.data import cache
from orca_ray.data.rows import Array, RowIndex
from orca_ray.errors import UserError, shorten
from orca_ray.own_data._named import choose
from orca_ray.own_data.format import Format
from orca_ray.own_data.options import Options
from orca_ray.own_data.user_data import UserData

CODECS = frozenset(
    {
        "blosc", "zlib", "gzip", "zstd", "lz4", "bz2", "lzma", "delta", "shuffle", "bitround", "fixedscaleoffset",
        "quantize", "crc32", "adler32", "crc32c", "bytes", "transpose", "sharding_indexed",
    }
)  # fmt: skip
"""Names of the codecs that are allowed."""
_CODEC_KEYS = ("compressor", "filters")
_METADATA = (".zarray", ".zmetadata", "zarr.json")


@dataclass(frozen=True)
class ZarrRows:
    """The rows of one array of a group."""

    array: Any
    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, part: RowIndex) -> Array:
        """Return the selected rows."""
        return np.asarray(self.array[part] if isinstance(part, slice) else self.array.oindex[part])


def _read(path: Path, options: Options, labelled: bool) -> UserData:
    _check_codecs(path)
    try:
        import zarr
    except ImportError as error:
        raise UserError(f"{path}: Zarr needs a library that is not installed: pip install 'orca-ray[adapt]'") from error
    try:
        group = zarr.open_group(str(path), mode="r")
        arrays = {str(name): array for name, array in group.arrays()}
    except Exception as error:
        raise UserError(f"{path}: expected a Zarr group of arrays: {shorten(error)}") from error
    if objects := [name for name, array in arrays.items() if np.dtype(array.dtype).kind == "O"]:
        raise UserError(
            f"{path}, {objects[0]}: holds objects, which are not read: store numbers or text of fixed length"
        )
    shapes = {name: tuple(array.shape) for name, array in arrays.items()}

    def rows(name: str) -> ZarrRows:
        return ZarrRows(arrays[name], shapes[name], np.dtype(arrays[name].dtype))

    return choose(str(path), shapes, rows, options, labelled)


def _check_codecs(path: Path) -> None:
    """Raise UserError for a codec that is not listed: one of numcodecs unpickles what it reads, whatever the type."""
    for file in (found for name in _METADATA for found in path.rglob(name)):
        if unknown := sorted(_codecs(cache.read_json(file)) - CODECS):
            raise UserError(f"{file}: expected compression by {', '.join(sorted(CODECS))}, found {unknown[0]!r}")


def _codecs(value: Any, *, codec: bool = False) -> set[str]:
    """Return the names of codecs in metadata of version 2 (compressor, filters: id) and 3 (codecs: name)."""
    if isinstance(value, list):
        return {name for each in value for name in _codecs(each, codec=codec)}
    if not isinstance(value, dict):
        return set()
    named = {str(value.get("id", value.get("name", "")))} if codec else set()
    inner = ((key in _CODEC_KEYS or key.endswith("codecs"), each) for key, each in value.items())
    return named | {name for inside, each in inner for name in _codecs(each, codec=inside)}


FORMAT = Format("Zarr group", (".zarr",), _read, folder=True, markers=(".zgroup", "zarr.json"))
