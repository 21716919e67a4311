"""Safe readers of text and WAV files, and checks of arrays.

Error messages name the file and the field. No reader executes code from a file. pandas
is not used for tables, because it silently fills short rows.
"""

import codecs
import csv
import io
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from orca_ray.data import cache
from orca_ray.data.archives import damaged
from orca_ray.data.rows import Array, row_slices
from orca_ray.errors import UserError, shorten

_SLICE_BYTES = 32 * 2**20
"""Size of the slices in which large arrays are read."""


def check_not_finite(path: Path, field: str, array: Array) -> None:
    """Raise UserError if an array contains NaN or infinity.

    The message contains ``path``, ``field`` ("": none) and the index. A number beyond
    the range of float32 counts as infinite, because data are prepared as float32. Large
    arrays are read slice by slice. Integers and booleans are always finite.
    """
    if array.dtype.kind not in "fc":
        return
    single = "c8" if array.dtype.kind == "c" else "f4"
    rows = array[None] if array.ndim == 0 else array
    for part in row_slices(rows, _SLICE_BYTES):
        values = rows[part]
        with np.errstate(over="ignore", invalid="ignore"):
            finite = np.isfinite(values.astype(single, copy=False))
        if not finite.all():
            first, *inner = np.argwhere(~finite)[0].tolist()
            value = values[(first, *inner)]
            expected = "expected finite numbers"
            if np.isfinite(value):
                expected += f" up to {np.finfo('f4').max} (float32)"
            index = [part.start + first, *inner]
            raise UserError(
                f"{_place(path, field)}: {expected}, found {value} at index {index}"
            )


def check_shape(
    path: Path, field: str, array: Any, expected: tuple[int | None, ...]
) -> None:
    """Raise UserError unless ``array.shape`` is ``expected``.

    None in ``expected`` allows any size of that axis.
    """
    shape = tuple(array.shape)
    if len(shape) == len(expected):
        sizes = zip(shape, expected, strict=True)
        if all(allowed in (None, size) for size, allowed in sizes):
            return
    listed = ", ".join("any" if size is None else str(size) for size in expected)
    raise UserError(
        f"{_place(path, field)}: expected shape [{listed}], found {list(shape)}"
    )


def check_labels(path: Path, field: str, y: Array, low: int, high: int) -> None:
    """Raise UserError unless all values of ``y`` are whole numbers in a range.

    The range is ``low`` to ``high``, inclusive.
    """
    if y.dtype.kind not in "biuf":
        raise UserError(
            f"{_place(path, field)}: expected whole numbers, found {y.dtype.name}"
        )
    is_label = (y >= low) & (y <= high)
    if y.dtype.kind == "f":
        is_label &= np.equal(y, np.floor(y))
    if not is_label.all():
        index = int(np.flatnonzero(~is_label)[0])
        raise UserError(
            f"{_place(path, field)}: expected labels from {low} to {high}, found"
            f" {y.reshape(-1)[index]} at {index}"
        )


def _place(path: Path, field: str) -> str:
    return f"{path}, {field}" if field else str(path)


def read_lines(path: Path) -> list[str]:
    """Return the non-empty lines of a UTF-8 text file, stripped.

    Raises UserError if there are none.
    """
    text = decode_text(path, cache.read_bytes(path))
    lines = [line.strip() for line in text.split("\n") if line.strip()]
    if not lines:
        raise UserError(f"{path}: expected one entry a line, found an empty file")
    return lines


def read_csv(path: Path, columns: Sequence[str]) -> dict[str, list[str]]:
    """Return ``columns`` of a comma-separated table with a header line.

    The result has a list of texts by column name. Raises UserError as `read_rows` does,
    unless each column is once in the header, and if there is no row.
    """
    header, rows = read_rows(path)
    for name in columns:
        count = header.count(name)
        if count != 1:
            listed = shorten(", ".join(header)) or "an empty file"
            raise UserError(
                f"{path}: expected column {name!r} once in the header, found {count}:"
                f" {listed}"
            )
    if not rows:
        raise UserError(f"{path}: expected rows below the header, found none")
    places = {name: header.index(name) for name in columns}
    return {name: [row[place] for row in rows] for name, place in places.items()}


def read_rows(path: Path) -> tuple[list[str], list[list[str]]]:
    """Return the header and the rows, as lists of texts, of a comma-separated table.

    Both may be empty. Raises UserError if a row has not as many fields as the header.
    """
    text = decode_text(path, cache.read_bytes(path))
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    rows = []
    try:
        header = next(reader, [])
        for row in filter(None, reader):
            if len(row) != len(header):
                expected = f"{len(header)} values ({shorten(', '.join(header))})"
                raise UserError(
                    f"{path}, line {reader.line_num}: expected {expected}, found"
                    f" {len(row)}"
                )
            rows.append(row)
    except csv.Error as error:
        raise UserError(
            f"{path}, line {reader.line_num}: expected a comma-separated table, {error}"
        ) from error
    return header, rows


def encoding_of(start: bytes) -> str:
    """Return the encoding of a text that begins with ``start``.

    It is UTF-16 if the text begins with the byte order mark of UTF-16, else UTF-8.
    """
    has_mark = start.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    return "utf-16" if has_mark else "utf-8-sig"


def decode_text(path: Path, content: bytes) -> str:
    """Return the text in the ``content`` of a file.

    Raises UserError, with the line, for bytes that are no text and for zero bytes.
    """
    try:
        text = content.decode(encoding_of(content))
    except UnicodeDecodeError as error:
        line = 1 + content.count(b"\n", 0, error.start)
        raise UserError(
            f"{path}: expected text in UTF-8, found byte {content[error.start]:#04x} in"
            f" line {line}; save it as UTF-8"
        ) from error
    if "\0" in text:
        raise UserError(
            f"{path}: expected text, found a zero byte; the file is damaged, fetch it"
            " again"
        )
    return text


def read_wav(path: Path, sample_rate: int) -> npt.NDArray[np.float32]:
    """Return the samples [n] of a mono recording as float32.

    PCM samples are scaled to [-1, 1). Raises UserError as `read_recording` does, for
    another rate than ``sample_rate`` (hertz), and for several channels.
    """
    samples, rate = read_recording(path)
    if rate != sample_rate:
        raise UserError(
            f"{path}: expected {sample_rate} samples a second, found {rate};"
            " resample it"
        )
    if samples.shape[1] != 1:
        raise UserError(
            f"{path}: expected one channel, found {samples.shape[1]}; mix them into one"
        )
    return samples[:, 0]


def read_recording(path: Path) -> tuple[npt.NDArray[np.float32], int]:
    """Return the samples [n, channels] of a WAV file, and its rate in hertz.

    Samples are float32, PCM scaled to [-1, 1). PCM of 8 to 64 bits and floating point
    are supported. Raises UserError for other encodings, no samples, NaN or infinity,
    and a file that ends early.
    """
    from scipy.io import wavfile

    content = cache.read_bytes(path)
    # Bytes 4 to 7 have the number of bytes that follow them.
    declared = int.from_bytes(content[4:8], "little") + 8
    if content[:4] == b"RIFF" and len(content) < declared:  # SciPy reads what there is
        raise UserError(
            f"{path}: expected {declared} bytes, found {len(content)}; the file ends"
            " early, fetch it again"
        )
    try:
        with warnings.catch_warnings():
            # about chunks of other programs
            warnings.simplefilter("ignore", wavfile.WavFileWarning)
            rate, samples = wavfile.read(io.BytesIO(content))
    except Exception as error:  # SciPy has no exception class for damaged files
        raise damaged(path, "a wav file of PCM or floating point", error) from error
    if not len(samples) or not rate:
        raise UserError(
            f"{path}: expected samples and a rate, found {len(samples)} and {rate}"
        )
    check_not_finite(path, "samples", samples)
    return _scale_samples(samples).reshape(len(samples), -1), rate


def _scale_samples(samples: Array) -> npt.NDArray[np.float32]:
    """Return samples as float32; PCM samples are scaled to [-1, 1).

    They are divided by a power of two, which is exact.
    """
    values = samples.astype(np.float32)
    if samples.dtype.kind == "f":
        return values
    half = np.float32(2 ** (8 * samples.dtype.itemsize - 1))
    if samples.dtype.kind == "u":  # samples of 8 bits
        values = values - half
    return values / half
