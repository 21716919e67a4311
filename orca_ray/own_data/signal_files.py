"""Folders of EDF files or WFDB records: physiological signals of several channels.

Letters of shapes: C channels, L steps.
"""

import math
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from orca_ray.data import cache
from orca_ray.data.rows import Array
from orca_ray.errors import UserError, printable, quoted, shorten, unknown_name
from orca_ray.own_data import Format, LazySamples, Options, UserData
from orca_ray.own_data.folders import evenly_spaced, list_folder, resample

SIGNAL_SUFFIXES = (".edf", ".hea")
_MOST_VALUES = 2**27
"""Largest number of values of a file, all channels together."""
_MOST_HEADER_BYTES = 2**20
"""Largest size of a header of WFDB."""
_VALUE_BYTES = 24
"""Memory that a value takes while its file is read: three numbers of 8 bytes."""
_CHECKED_BYTES = 2**26
"""Memory of a file's values above which free memory is checked."""
_NUM_HEADERS = 100
"""Largest number of files whose headers decide on channels and rate."""
_PLAIN_FORMATS = ("8", "16", "24", "32", "61", "80", "160", "212", "310", "311")
"""Formats of WFDB's files of samples that are read: all without compression."""


@dataclass(frozen=True)
class SignalHeader:
    """What the header of a file says about its signals."""

    channels: dict[str, int]
    """Number of each channel in the file, by its unique name."""
    rate: float
    """Sampling rate in Hz of these channels."""
    notes: tuple[str, ...] = ()
    """One sentence for each kind of signals that are left out."""


def read_header(path: Path) -> SignalHeader:
    """Return what a file says about its signals, without their values.

    Raises UserError for a damaged file, one that declares more values than it has, and
    for a format that is not read.
    """
    if path.suffix.lower() == ".edf":
        return _edf_header(path, _open_edf(path))
    return _wfdb_header(path)


def read_signals(path: Path, channels: Sequence[str], rate: float) -> Array:
    """Return the ``channels`` of a file at ``rate`` Hz: float32 [C, L], or [L] of one.

    Missing values are NaN. Raises the UserErrors of `read_header`, and one for a
    channel that the file lacks.
    """
    header = read_header(path)
    for name in channels:
        if name not in header.channels:
            raise unknown_name("channel", name, header.channels, f"({path})")
    numbers = [header.channels[name] for name in channels]
    is_edf = path.suffix.lower() == ".edf"
    read_values = _read_edf if is_edf else _read_wfdb
    x_LC = read_values(path, numbers)
    if not len(x_LC):
        raise UserError(f"{path}: expected samples, found none")
    if header.rate != rate:
        x_LC = resample(path, x_LC, header.rate, rate)
    x_CL = np.ascontiguousarray(x_LC.T, dtype=np.float32)
    return x_CL[0] if len(channels) == 1 else x_CL


def _unique_names(labels: Sequence[str]) -> list[str]:
    """Return a name for each label: "ECG", then "ECG#2"; "#1" for an empty label."""
    names = []
    counts = Counter[str]()
    for label in labels:
        counts[label] += 1
        is_unique = label and counts[label] == 1
        names.append(label if is_unique else f"{label}#{counts[label]}")
    return names


def _check_values(path: Path, num_values: int) -> None:
    """Raise UserError if a file has too many values, or too many for the memory."""
    if num_values > _MOST_VALUES:
        raise UserError(
            f"{path}: expected at most {_MOST_VALUES:,} values, found {num_values:,};"
            " cut the recording"
        )
    num_bytes = _VALUE_BYTES * num_values
    if num_bytes > _CHECKED_BYTES:
        cache.check_memory(num_bytes, f"{path}: its signals", "cut the recording")


@contextmanager
def _reading(path: Path, what: str) -> Iterator[None]:
    """Turn errors and warnings of a library that reads ``path`` into UserErrors."""
    try:
        with warnings.catch_warnings():
            # of files that end early
            warnings.simplefilter("error", UserWarning)
            warnings.simplefilter("ignore", RuntimeWarning)
            yield
    except UserError:
        raise
    except ImportError as error:
        raise UserError(
            f"{path}: {path.suffix} needs a library that is not installed: pip install"
            " 'orca-ray[signals]'"
        ) from error
    except Exception as error:  # both libraries raise many types for damaged files
        raise UserError(f"{path}: expected {what}: {shorten(error)}") from error


def _open_edf(path: Path) -> Any:
    """Return an EDF file whose values are memory-mapped."""
    size = cache.check_special(path)
    with _reading(path, "a whole EDF file"):
        import edfio

        file = edfio.read_edf(path, lazy_load_data=True, header_encoding="latin-1")
        if file.reserved.startswith("EDF+D"):
            raise UserError(
                f"{path}: has interruptions (EDF+D), which a series cannot show: write"
                " a file without them (EDF+C)"
            )
        _check_values(path, size // 2)  # a value has two bytes
        return file


def _edf_header(path: Path, file: Any) -> SignalHeader:
    """Return the channels of an EDF file that have the rate of most of them.

    Of equally frequent rates, it is the higher one.
    """
    with _reading(path, "a whole EDF file"):
        signals = file.signals
        rates = [float(signal.sampling_frequency) for signal in signals]
        names = _unique_names([signal.label.strip() for signal in signals])
    if not signals:
        raise UserError(f"{path}: expected signals, found none")
    counts = Counter(rates)
    rate = max(counts, key=lambda each: (counts[each], each))
    if not (math.isfinite(rate) and rate > 0):
        raise UserError(f"{path}: expected a sampling rate above 0, found {rate:g}")
    channels = {
        name: number for number, name in enumerate(names) if rates[number] == rate
    }
    left_out = [name for name in names if name not in channels]
    if not left_out:
        return SignalHeader(channels, rate)
    listed = shorten(", ".join(map(printable, left_out)))
    note = f"signals of another rate than {rate:g} Hz are left out: {listed}"
    return SignalHeader(channels, rate, (note,))


def _read_edf(path: Path, numbers: Sequence[int]) -> Array:
    """Return the signals with these numbers, in physical units [L, C]."""
    file = _open_edf(path)
    with _reading(path, "a whole EDF file"):
        return np.stack(
            [file.signals[number].data.astype(np.float32) for number in numbers], axis=1
        )


def _wfdb_header(path: Path) -> SignalHeader:
    """Return the channels of a WFDB record, after a check of what it declares."""
    if cache.check_special(path) > _MOST_HEADER_BYTES:
        raise UserError(
            f"{path}: expected a header of at most {_MOST_HEADER_BYTES:,} bytes"
        )
    record = _record_name(path)
    with _reading(path, "a WFDB header"):
        import wfdb

        header = wfdb.rdheader(record)
        if not isinstance(header, wfdb.Record):
            raise UserError(
                f"{path}: has several segments: write each as a record of its own, or"
                " all as one"
            )
        _check_wfdb(path, header)
        rate = float(header.fs)
        names = _unique_names([(name or "").strip() for name in header.sig_name])
    if not (math.isfinite(rate) and rate > 0):
        raise UserError(f"{path}: expected a sampling rate above 0, found {rate:g}")
    return SignalHeader({name: number for number, name in enumerate(names)}, rate)


def _record_name(path: Path) -> str:
    """Return the name by which wfdb opens a record: its path without the suffix.

    Raises UserError for a path that the library would take for an address.
    """
    place = str(path.absolute())
    if "::" in place or path.suffix != ".hea":
        raise UserError(
            f"{path}: expected a path that ends with .hea, and has no '::', which the"
            " library takes for an address; rename it"
        )
    return place.removesuffix(".hea")


def _check_wfdb(path: Path, header: Any) -> None:
    """Raise UserError for a header that does not describe the files that it names.

    A value takes one byte at least, so that the size of the files bounds their number.
    """
    num_signals = header.n_sig
    if not num_signals or num_signals != len(header.file_name or ()):
        found = len(header.file_name or ())
        raise UserError(
            f"{path}: declares {num_signals} signals, and describes {found}"
        )
    formats = sorted({str(each) for each in header.fmt} - set(_PLAIN_FORMATS))
    if formats:
        raise UserError(
            f"{path}: expected samples in one of WFDB's formats"
            f" {', '.join(_PLAIN_FORMATS)}, found {', '.join(formats)}; write the"
            " record in format 16"
        )
    num_bytes = sum(_sample_bytes(path, name) for name in set(header.file_name))
    # without a length, the library takes that of the files
    num_frames = header.sig_len or 0
    num_values = num_frames * sum(each or 1 for each in header.samps_per_frame)
    if num_values > num_bytes:
        raise UserError(
            f"{path}: declares {num_values:,} values, and its files have {num_bytes:,}"
            " bytes; fetch them again"
        )
    _check_values(path, num_bytes)
    longest_skew = max(each or 0 for each in header.skew)
    if longest_skew and longest_skew >= num_frames:
        raise UserError(f"{path}: a skew of {longest_skew} is longer than the record")


def _sample_bytes(path: Path, name: str) -> int:
    """Return the size of a file of samples that the header ``path`` names."""
    if Path(name).name != name:
        raise UserError(f"{path}: {quoted(name)} is not beside the header")
    return cache.check_special(path.with_name(name))


def _read_wfdb(path: Path, numbers: Sequence[int]) -> Array:
    """Return the signals with these numbers, in physical units [L, C]."""
    record = _record_name(path)
    with _reading(path, "a whole WFDB record"):
        import wfdb

        read = wfdb.rdrecord(record, channels=list(numbers))
        return np.asarray(read.p_signal, dtype=np.float32)


def _read_signal_folder(path: Path, options: Options, labelled: bool) -> UserData:
    """Return the signals in a folder, with equal channels and at one sampling rate.

    They are read when they are selected. ``options.inputs`` are the names of the
    channels; by default, all that the files have in common. ``labelled``: whether
    labels are read (see `list_folder`).
    """
    listing = list_folder(path, SIGNAL_SUFFIXES, options, labelled)
    paths = listing.paths
    headers = [read_header(file) for file in evenly_spaced(paths, most=_NUM_HEADERS)]
    notes = list(listing.notes)
    notes += dict.fromkeys(note for header in headers for note in header.notes)
    rates = Counter(header.rate for header in headers)
    rate = options.rate or rates.most_common(1)[0][0]
    if len(rates) > 1:
        listed = ", ".join(f"{hertz:g} Hz ({n})" for hertz, n in rates.most_common())
        notes.append(
            f"signals of several sampling rates, {listed}, are all converted to"
            f" {rate:g} Hz"
        )
    channels = options.inputs or _common_channels(path, headers, notes)
    return listing.user_data(
        x=LazySamples(len(paths), lambda row: read_signals(paths[row], channels, rate)),
        kind_hint="array",
        rate=rate,
        channels=tuple(channels),
        notes=tuple(notes),
    )


def _common_channels(
    path: Path, headers: Sequence[SignalHeader], notes: list[str]
) -> list[str]:
    """Return the channels that all headers have, in the order of the first one."""
    common = [
        name
        for name in headers[0].channels
        if all(name in header.channels for header in headers)
    ]
    every = dict.fromkeys(name for header in headers for name in header.channels)
    listed = shorten(", ".join(printable(name) for name in every if name not in common))
    if not common:
        raise UserError(
            f"{path}: no channel is in all files; name those to read with --inputs, and"
            f" remove files without them; channels: {listed}"
        )
    if listed:
        notes.append(f"channels that some files lack are left out: {listed}")
    return common


FORMATS = (
    Format(
        "folder of signals (EDF, WFDB)",
        SIGNAL_SUFFIXES,
        _read_signal_folder,
        folder=True,
    ),
)
