"""Zarr arrays from untrusted sources: what a chunk unfolds to is bounded before the chunk is decompressed.

The library zarr decompresses a chunk whatever it unfolds to. Read in zarr 3.1.6: `BatchedCodecPipeline.decode_batch`
gets the stored bytes of every chunk, of those inside shards too, and `V2Codec` has the codecs of version 2. Should a
later release pass them elsewhere, ``test_zarr_chunks_that_unfold_to_gigabytes`` fails.
"""

import bz2
import gzip
import io
import lzma
import math
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import zarr
from zarr.core.codec_pipeline import BatchedCodecPipeline

from orca_ray.data import cache
from orca_ray.data.archives import check_growth, damaged, max_bytes
from orca_ray.data.rows import Array, LazyRows, RowIndex
from orca_ray.errors import UserError

_MOST_ABSENT = 10_000
"""Number of chunks that may have no file; each takes 0.2 ms, and a few bytes of metadata declare any number."""
_STREAMS: Mapping[str, Callable[[Any], Any]] = {
    "zlib": partial(pa.CompressedInputStream, compression="gzip"),
    "gzip": gzip.open,
    "zstd": partial(pa.CompressedInputStream, compression="zstd"),
    "bz2": bz2.open,
    "lzma": lzma.open,
}
"""Streams of what a chunk unfolds to, by the name of the codec."""
_DECLARED = {"blosc": slice(4, 8), "lz4": slice(0, 4)}
"""Place of the unfolded size in the bytes of a chunk, for codecs that trust it."""


class BoundedPipeline(BatchedCodecPipeline):  # type: ignore[misc]
    """Decodes chunks as the library does, unless they unfold to more than 16 bytes a value and more than 256 MiB."""

    async def decode_batch(self, chunk_bytes_and_specs: Iterable[tuple[Any, Any]]) -> Iterable[Any]:
        """Return the decoded chunks; raises UserError for a chunk that unfolds to too much."""
        chunks, inner = list(chunk_bytes_and_specs), self.array_bytes_codec  # of version 2: holds all codecs
        of_version_2 = (*(getattr(inner, "filters", None) or ()), getattr(inner, "compressor", None))
        codecs = (*self.bytes_bytes_codecs, *of_version_2)
        names = [str(getattr(each, "codec_id", type(each).__name__.removesuffix("Codec").lower())) for each in codecs]
        packing = [name for name in names if name in _STREAMS or name in _DECLARED]
        if len(packing) > 1:
            raise UserError(f"expected chunks that are compressed once, found {' in '.join(packing)}")
        for content, spec in chunks if packing else ():
            most = max(max_bytes(0), math.prod(spec.shape) * 16)
            if content is not None and _unfolds_over(packing[0], content.to_bytes(), most):
                raise UserError(f"a chunk unfolds to more than {most} bytes; it may be an attack")
        decoded: Iterable[Any] = await super().decode_batch(chunks)
        return decoded


def _unfolds_over(codec: str, content: bytes, most: int) -> bool:
    if codec in _DECLARED:
        return int.from_bytes(content[_DECLARED[codec]], "little") > most
    if codec in ("zlib", "gzip") and 1040 * len(content) < most:  # deflate reaches a ratio of 1032
        return False
    size = 0
    with _STREAMS[codec](io.BytesIO(content)) as stream:
        while size <= most and (block := stream.read(2**20)):
            size += len(block)
    return size > most


zarr.registry.register_pipeline(BoundedPipeline)
_BOUNDED = {"codec_pipeline.path": f"{BoundedPipeline.__module__}.{BoundedPipeline.__name__}"}


def zarr_arrays(path: Path, stored: Mapping[str, tuple[int, int]]) -> dict[str, LazyRows]:
    """Return the arrays of a Zarr group by name; ``stored`` has the number and bytes of the files of each array.

    Raises UserError, also when rows are selected, for damaged metadata or chunks, and for arrays and chunks that unfold
    to much more than is stored.
    """
    try:
        with zarr.config.set(_BOUNDED):
            group = zarr.open_group(str(path), mode="r")
            return {str(name): _rows(path, str(name), array, stored) for name, array in group.arrays()}
    except UserError:
        raise
    except Exception as error:  # zarr has no exception class for damaged metadata
        raise damaged(path, "a Zarr group of arrays", error) from error


def _rows(path: Path, name: str, array: Any, stored: Mapping[str, tuple[int, int]]) -> LazyRows:
    """Return the rows of an array; sizes are checked when rows are selected, as unused arrays may have any."""
    dtype, shape, where = np.dtype(array.dtype), tuple(array.shape), f"{path}, {name}"
    if dtype.kind == "O":
        raise UserError(f"{where}: holds objects, which are not read: store numbers or text of fixed length")

    def read(part: RowIndex) -> Array:
        num_files, num_bytes = stored.get(name, (0, 0))
        chunk = tuple(array.shards or array.chunks)
        along = [-(-length // max(1, step)) for length, step in zip(shape, chunk, strict=True)]
        for declared in (shape, chunk):
            check_growth(path, math.prod(declared) * dtype.itemsize, num_bytes, f", {name}")
        if math.prod(along) > _MOST_ABSENT + num_files:
            raise UserError(f"{where}: expected {math.prod(along)} chunks, found {num_files} files; write larger ones")
        decoded = 2.0 * min(10, 1 + math.prod(along[1:])) * math.prod(chunk) * dtype.itemsize  # ten are read at once
        cache.check_memory(decoded, f"{where}: its chunks", "write smaller ones")
        try:
            with zarr.config.set(_BOUNDED):
                return np.asarray(array[part] if isinstance(part, slice) else array.oindex[part])
        except UserError as error:
            raise UserError(f"{where}: {error}") from error
        except Exception as error:  # codecs raise what they like for damaged chunks
            raise damaged(where, "whole chunks", error) from error

    return LazyRows(shape, dtype, read)
