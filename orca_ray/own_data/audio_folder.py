"""Folders of recordings, one sub-folder a class. WAV needs no library, other formats soundfile (extra ``adapt``)."""

from collections import Counter
from functools import partial
from pathlib import Path

import numpy as np

from orca_ray.data import cache
from orca_ray.data.rows import Array
from orca_ray.data.wav import read_recording
from orca_ray.errors import UserError, shorten
from orca_ray.own_data._folders import FileSamples, list_folder
from orca_ray.own_data.format import Format
from orca_ray.own_data.options import Options
from orca_ray.own_data.user_data import UserData

SUFFIXES = (".wav", ".flac", ".ogg", ".mp3")
_NUM_HEADERS = 100  # recordings that are read to find the sampling rate
_MOST_SAMPLES = 2**27


def _read(path: Path, options: Options, labelled: bool) -> UserData:
    listing = list_folder(path, SUFFIXES, options, labelled)
    spaced = sorted({int(row) for row in np.linspace(0, len(listing.paths) - 1, min(len(listing.paths), _NUM_HEADERS))})
    rates = Counter(_recording(listing.paths[row])[1] for row in spaced)
    rate = options.rate or float(rates.most_common(1)[0][0])
    listed = ", ".join(f"{each} Hz ({count})" for each, count in rates.most_common())
    notes = (f"recordings of several sampling rates, {listed}, are all converted to {rate:g} Hz",) * (len(rates) > 1)
    return UserData(
        x=FileSamples(listing.paths, partial(_waveform, rate=rate)),
        y=listing.y, splits=listing.splits, kind_hint="audio", source=str(path), names=listing.names, rate=rate,
        target_names=("sub-folder",), notes=(*listing.notes, *notes),
    )  # fmt: skip


def _recording(path: Path) -> tuple[Array, int]:
    """Return the samples [n, channels] of a file, and its sampling rate in Hz."""
    if path.suffix.lower() == ".wav":
        return read_recording(path)
    try:
        import soundfile
    except ImportError as error:
        needed = "needs a library that is not installed: pip install 'orca-ray[adapt]', or convert it to WAV"
        raise UserError(f"{path}: {path.suffix} {needed}") from error
    with cache.open_file(path) as stream:
        try:
            with soundfile.SoundFile(stream) as file:
                samples = file.read(_MOST_SAMPLES // file.channels, dtype="float32", always_2d=True)
                return samples, int(file.samplerate)
        except Exception as error:  # libsndfile's errors, and those of its callbacks
            raise UserError(f"{path}: expected a recording: {shorten(error)}") from error


def _waveform(path: Path, rate: float) -> Array:
    """Return a recording as one channel [n] float32 at ``rate`` Hz."""
    samples, found = _recording(path)
    mono = samples.mean(axis=1)
    if found != rate:
        from fractions import Fraction

        from scipy.signal import resample_poly

        ratio = Fraction(rate / found).limit_denominator(1000)
        mono = resample_poly(mono, ratio.numerator, ratio.denominator)
    return np.asarray(mono, dtype=np.float32)


FORMAT = Format("folder of recordings", SUFFIXES, _read, folder=True)
