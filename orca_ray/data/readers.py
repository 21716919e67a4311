"""Safe readers of text and WAV files, and checks of arrays; error messages name the file and the field.

No reader executes code from a file. pandas is not used for tables, because it silently fills short rows;
``scipy.io.wavfile`` is not, because it silently accepts a recording that ends early and drops an incomplete sample.
"""

import codecs
import csv
import io
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from orca_ray.data import cache
from orca_ray.data.rows import Array, row_slices
from orca_ray.errors import UserError, quoted, shorten

_SLICE_BYTES = 32 * 2**20
_PCM, _FLOAT, _EXTENSIBLE = 1, 3, 0xFFFE
_ENCODINGS = {(_PCM, 8), (_PCM, 16), (_PCM, 24), (_PCM, 32), (_FLOAT, 32), (_FLOAT, 64)}


def check_not_finite(path: Path, field: str, array: Array) -> None:
    """Raise UserError if an array holds a NaN or infinity; the message has ``path``, ``field`` ("": none) and index.

    Data are prepared as float32; a number beyond the range of float32 counts as infinite. Large arrays are read
    slice by slice; integers and booleans always pass.
    """
    if array.dtype.kind not in "fc":
        return
    rows = array[None] if array.ndim == 0 else array
    for part in row_slices(rows, _SLICE_BYTES):
        values = rows[part]
        with np.errstate(over="ignore", invalid="ignore"):
            finite = np.isfinite(values.astype("c8" if array.dtype.kind == "c" else "f4", copy=False))
        if not finite.all():
            index = [int(each) for each in np.argwhere(~finite)[0]]
            found = values[tuple(index)]
            index[0] += part.start
            expected = "expected finite numbers" + f" up to {np.finfo('f4').max} (float32)" * bool(np.isfinite(found))
            raise UserError(f"{_place(path, field)}: {expected}, found {found} at index {index}")


def check_shape(path: Path, field: str, array: Any, expected: tuple[int | None, ...]) -> None:
    """Raise UserError unless ``array.shape`` is ``expected``; None in ``expected`` allows any size of that axis."""
    shape = tuple(array.shape)
    if len(shape) == len(expected) and all(want in (None, size) for size, want in zip(shape, expected, strict=True)):
        return
    wanted = ", ".join("any" if size is None else str(size) for size in expected)
    raise UserError(f"{_place(path, field)}: expected shape [{wanted}], found {list(shape)}")


def check_labels(path: Path, field: str, y: Array, low: int, high: int) -> None:
    """Raise UserError unless all values of ``y`` are whole numbers from ``low`` to ``high`` (inclusive)."""
    if y.dtype.kind not in "biuf":
        raise UserError(f"{_place(path, field)}: expected whole numbers, found {y.dtype.name}")
    good = (y >= low) & (y <= high)
    if y.dtype.kind == "f":
        good &= y == np.floor(y)
    if not good.all():
        index = int(np.flatnonzero(~good)[0])
        expected = f"{_place(path, field)}: expected labels from {low} to {high}"
        raise UserError(f"{expected}, found {y.reshape(-1)[index]} at {index}")


def _place(path: Path, field: str) -> str:
    return f"{path}, {field}" if field else str(path)


def read_lines(path: Path) -> list[str]:
    """Return the non-empty lines of a UTF-8 text file, stripped; raises UserError if there are none."""
    lines = [line.strip() for line in decoded(path, cache.read_bytes(path)).split("\n")]
    if not any(lines):
        raise UserError(f"{path}: expected one entry a line, found an empty file")
    return [line for line in lines if line]


def read_csv(path: Path, columns: Sequence[str]) -> dict[str, list[str]]:
    """Return ``columns`` of a comma-separated table with a header line: a list of texts by column name.

    Raises UserError as `read_rows` does, unless each column is once in the header, and if there is no row.
    """
    header, rows = read_rows(path)
    if bad := [name for name in columns if header.count(name) != 1]:
        found = shorten(", ".join(header)) or "an empty file"
        count = header.count(bad[0])
        raise UserError(f"{path}: expected column {bad[0]!r} once in the header, found {count}: {found}")
    if not rows:
        raise UserError(f"{path}: expected rows below the header, found none")
    return {name: [row[header.index(name)] for row in rows] for name in columns}


def read_rows(path: Path) -> tuple[list[str], list[list[str]]]:
    """Return the header and the rows, as lists of texts, of a comma-separated table; both may be empty.

    Raises UserError if a row has not as many fields as the header.
    """
    text = decoded(path, cache.read_bytes(path))
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    rows = []
    try:
        header = next(reader, [])
        for row in filter(None, reader):
            if len(row) != len(header):
                expected = f"{len(header)} values ({shorten(', '.join(header))})"
                raise UserError(f"{path}, line {reader.line_num}: expected {expected}, found {len(row)}")
            rows.append(row)
    except csv.Error as error:
        raise UserError(f"{path}, line {reader.line_num}: expected a comma-separated table, {error}") from error
    return header, rows


def encoding_of(start: bytes) -> str:
    """Return the encoding of a text that begins with ``start``: UTF-16 if its mark is there, else UTF-8."""
    return "utf-16" if start.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) else "utf-8-sig"


def decoded(path: Path, content: bytes) -> str:
    """Return the text in the ``content`` of a file; UserError, with the line, for other bytes and for zero bytes."""
    try:
        text = content.decode(encoding_of(content))
    except UnicodeDecodeError as error:
        line = 1 + content.count(b"\n", 0, error.start)
        found = f"found byte {content[error.start]:#04x} in line {line}"
        raise UserError(f"{path}: expected text in UTF-8, {found}; save it as UTF-8") from error
    if "\0" in text:
        raise UserError(f"{path}: expected text, found a zero byte; the file is damaged, fetch it again")
    return text


def read_wav(path: Path, sample_rate: int) -> npt.NDArray[np.float32]:
    """Return the samples [n] of a mono recording as float32; PCM samples are scaled to [-1, 1).

    Raises UserError as `read_recording` does, for another rate than ``sample_rate`` (hertz), and for several channels.
    """
    samples, rate = read_recording(path)
    if rate != sample_rate:
        raise UserError(f"{path}: expected {sample_rate} samples a second, found {rate}; resample it")
    if samples.shape[1] != 1:
        raise UserError(f"{path}: expected one channel, found {samples.shape[1]}; mix them into one")
    return samples[:, 0]


def read_recording(path: Path) -> tuple[npt.NDArray[np.float32], int]:
    """Return the samples [n, channels] of a WAV file as float32, PCM scaled to [-1, 1), and its rate in hertz.

    PCM of 8 to 32 bits and floating point are supported. Raises UserError for other encodings, no samples, NaN or
    infinity, and a file that ends early.
    """
    chunks = _chunks(path, cache.read_bytes(path))
    if missing := [name for name in (b"fmt ", b"data") if name not in chunks]:
        raise UserError(f"{path}: expected a chunk {missing[0].decode()!r}, found {quoted(list(chunks))}")
    header, data = chunks[b"fmt "], chunks[b"data"]
    if len(header) < 16:
        raise UserError(f"{path}: expected 16 bytes in chunk 'fmt ', found {len(header)}")
    encoding, channels, rate, _, _, bits = struct.unpack_from("<HHIIHH", header)
    if encoding == _EXTENSIBLE and len(header) >= 26:
        (encoding,) = struct.unpack_from("<H", header, 24)
    if not channels or not rate:
        raise UserError(f"{path}: expected channels and a rate, found {channels} and {rate}")
    if (encoding, bits) not in _ENCODINGS:
        found = f"encoding {encoding} of {bits} bits"
        raise UserError(f"{path}: expected PCM of 8 to 32 bits or floating point, found {found}; convert it")
    if len(data) % (bits // 8 * channels):
        width = f"samples of {bits // 8 * channels} bytes"
        raise UserError(f"{path}: expected {width} in chunk 'data', found {len(data)} bytes")
    samples: Array = np.frombuffer(data, f"<f{bits // 8}") if encoding == _FLOAT else _pcm(data, bits // 8)
    if not len(samples):
        raise UserError(f"{path}: expected samples, found none")
    check_not_finite(path, "samples", samples)
    return samples.astype(np.float32, copy=False).reshape(-1, channels), rate


def _chunks(path: Path, content: bytes) -> dict[bytes, bytes]:
    """Return the chunks of a RIFF file by name, up to the chunk "data"; if a name occurs twice, the first one."""
    if content[:4] != b"RIFF" or content[8:12] != b"WAVE":
        raise UserError(f"{path}: expected a wav file ('RIFF', 'WAVE'), found {content[:12]!r}")
    chunks: dict[bytes, bytes] = {}
    position = 12
    while position + 8 <= len(content) and b"data" not in chunks:
        name, size = struct.unpack_from("<4sI", content, position)
        chunk = content[position + 8 : position + 8 + size]
        if len(chunk) != size:
            expected = f"{path}: expected {size} bytes in chunk {name!r}"
            raise UserError(f"{expected}, found {len(chunk)}; the file ends early, fetch it again")
        chunks.setdefault(name, chunk)
        position += 8 + size + size % 2
    return chunks


def _pcm(data: bytes, width: int) -> Array:
    values: Array
    if width == 1:  # the only unsigned width
        values = np.frombuffer(data, np.uint8).astype(np.int32) - 128
    elif width == 3:
        padded = np.zeros((len(data) // 3, 4), np.uint8)
        padded[:, 1:] = np.frombuffer(data, np.uint8).reshape(-1, 3)
        values, width = padded.view("<i4")[:, 0], 4
    else:
        values = np.frombuffer(data, f"<i{width}")
    return values.astype(np.float32) / np.float32(2 ** (8 * width - 1))  # exact, as it divides by a power of two
