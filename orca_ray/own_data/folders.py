"""Folders with one file a sample: images, recordings or arrays; one sub-folder a class,
or a table of labels.
"""

import os
from collections import Counter
from collections.abc import Sequence
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from PIL import Image

from orca_ray.data import cache
from orca_ray.data.npy import read_npy
from orca_ray.data.readers import read_recording, read_rows
from orca_ray.data.rows import Array
from orca_ray.errors import UserError, printable, quoted, shorten
from orca_ray.own_data import Format, Kind, LazySamples, Options, UserData

IMAGE_FORMATS = ("PNG", "JPEG", "BMP", "GIF", "TIFF", "WEBP", "PPM")
IMAGE_SUFFIXES = (
    ".png",
    ".jpg",
    ".jpeg",
    ".bmp",
    ".gif",
    ".tif",
    ".tiff",
    ".webp",
    ".pgm",
    ".ppm",
)
GREY = ("1", "L", "I", "I;16", "I;16B", "F", "LA", "La")
"""Pillow's modes of images without colour."""
_MOST_PIXELS = 2**26
# memory of a pixel while decoded; what is checked (it takes 0.2 ms)
_PIXEL_BYTES = 16
_CHECKED_BYTES = 2**26


def opened(stream: BinaryIO, where: str) -> Any:
    """Return a Pillow image, pixels not yet read; UserError for a format not in
    `IMAGE_FORMATS` and too many pixels.
    """
    try:
        image = Image.open(stream, formats=IMAGE_FORMATS)
    except Exception as error:  # Pillow's plug-ins raise many types for damaged headers
        expected = f"{where}: expected an image ({', '.join(IMAGE_FORMATS)})"
        raise UserError(
            f"{expected}, found something else: {shorten(error)}"
        ) from error
    if image.width * image.height > _MOST_PIXELS:
        found = f"found {image.width} × {image.height}; reduce it"
        raise UserError(f"{where}: expected at most {_MOST_PIXELS:,} pixels, {found}")
    if (num_bytes := _PIXEL_BYTES * image.width * image.height) > _CHECKED_BYTES:
        cache.check_memory(num_bytes, f"{where}: its pixels", "reduce it")
    return image


def decode(stream: BinaryIO, where: str, colour: str) -> Array:
    """Return the pixels, [H, W] if ``colour`` is "grey", else [H, W, 3].

    They are uint8, but float32 for images of 16 or 32 bits without colour, whose whole
    numbers are divided by 256. Transparent pixels are laid on white. Raises UserError
    for a damaged file.
    """
    image = opened(stream, where)
    try:
        if image.mode[0] in "IF":  # Pillow would cut values above 255
            pixels = np.asarray(image, dtype=np.float32) / (
                1 if image.mode == "F" else 256
            )
            return (
                pixels if colour == "grey" else np.repeat(pixels[..., None], 3, axis=2)
            )
        if (
            image.mode in ("RGBA", "LA", "PA", "La", "RGBa")
            or "transparency" in image.info
        ):
            image = image.convert("RGBA")
            image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
        return np.array(image.convert("L" if colour == "grey" else "RGB"))
    except Exception as error:  # as above
        raise UserError(f"{where}: the image is damaged: {shorten(error)}") from error


_SPLITS = {"train": "train", "training": "train", "test": "test", "testing": "test"}
_SPLITS |= dict.fromkeys(("val", "valid", "validation"), "validation")
_FILE_COLUMNS = ("file_name", "file", "filename", "path", "image")


def list_folder(
    folder: Path, kind: Kind, suffixes: Sequence[str], options: Options, labelled: bool
) -> tuple[list[Path], list[str], partial[UserData]]:
    """Return the files with ``suffixes``, notes on files left out, and a partial
    `UserData` without inputs and notes.

    A file's class is the name of the sub-folder that it is in; folders ``train`` and
    ``test`` that contain such sub-folders are splits. Files that are not in sub-folders
    get their labels from the column ``target`` of labels.csv (or metadata.csv), whose
    column ``file_name`` names them. If ``folder`` is a file, it is a single sample
    without a label. Unless ``labelled``, all files are samples without labels. Raises
    UserError if there are no files or, if ``labelled``, no labels, if the column of
    labels is unknown, or if the table has no row for a file.
    """
    data = partial(
        UserData, source=str(folder), kind_hint=kind, target_names=("sub-folder",)
    )
    if folder.is_file():
        return [folder], [], partial(data, names=[_utf8(folder.name)])
    every = sorted(file for file in folder.rglob("*") if file.is_file())
    hidden = (".", "__MACOSX")
    every = [
        file
        for file in every
        if not any(p.startswith(hidden) for p in file.relative_to(folder).parts)
    ]
    paths = [file for file in every if file.suffix.lower() in suffixes]
    if not paths:
        raise UserError(
            f"{folder}: expected files of type {', '.join(suffixes)} that are not"
            " hidden, found none"
        )
    table = next(
        (
            folder / name
            for name in ("labels.csv", "metadata.csv")
            if (folder / name).is_file()
        ),
        None,
    )
    chosen = {*paths, table}
    skipped = [
        file.name for file in every if file not in chosen and file.suffix != ".yaml"
    ]
    notes = (
        [
            f"{len(skipped)} files of other types are left out, such as"
            f" {printable(skipped[0])}"
        ]
        if skipped
        else []
    )
    parts = [file.relative_to(folder).parts for file in paths]
    splits = None
    heads = {part[0].lower() for part in parts if len(part) > 1}
    if heads and heads <= _SPLITS.keys() and len({_SPLITS[head] for head in heads}) > 1:
        splits = np.array([_SPLITS.get(part[0].lower(), "") for part in parts])
        parts = [part[1:] for part in parts]
    in_folders = [len(part) > 1 for part in parts]
    y: Array | None = None
    if not labelled:  # each file is a sample, wherever it is
        splits = None
    elif any(in_folders):
        kept = [row for row, inside in enumerate(in_folders) if inside]
        if len(kept) < len(parts):
            notes.append(
                f"{len(parts) - len(kept)} files outside of the classes' sub-folders"
                " are left out"
            )
        paths = [paths[row] for row in kept]
        parts = [parts[row] for row in kept]
        splits = None if splits is None else splits[kept]
        y = np.array([_utf8(part[0]) for part in parts])
        empty = [
            _utf8(each.name)
            for each in sorted(folder.iterdir())
            if each.is_dir() and splits is None
        ]
        if lacking := sorted(
            set(empty)
            - set(y.tolist())
            - {name for name in empty if name.startswith(".")}
        ):
            notes.append(
                f"sub-folders without files: {', '.join(map(printable, lacking))}"
            )
    elif table is not None:
        y = _labels(table, [file.name for file in paths], options)
    else:
        raise UserError(
            f"{folder}: no labels: put the files of each class in a sub-folder, or add"
            " labels.csv"
        )
    names = [_utf8(file.relative_to(folder).as_posix()) for file in paths]
    return paths, notes, partial(data, y=y, splits=splits, names=names)


def _utf8(name: str) -> str:
    """Return the name of a file or folder with bytes that are no UTF-8 as escapes,
    since nothing stores such bytes.
    """
    return os.fsencode(name).decode(errors="backslashreplace")


def _labels(table: Path, names: list[str], options: Options) -> Array:
    header, rows = read_rows(table)
    header = [name.strip() for name in header] or [""]
    key = next((name for name in _FILE_COLUMNS if name in header), header[0])
    others = [name for name in header if name != key]
    wanted = (
        options.target[0] if options.target else others[0] if len(others) == 1 else ""
    )
    if wanted not in others:
        raise UserError(
            f"{table}: which column is the target? Name it with --target; columns:"
            f" {', '.join(others)}"
        )
    if twice := [name for name in (key, wanted) if header.count(name) > 1]:
        raise UserError(
            f"{table}: several columns are named {quoted(twice[0])}; give each its own"
            " name"
        )
    found = {
        Path(row[header.index(key)]).name: row[header.index(wanted)] for row in rows
    }
    if missing := [name for name in names if name not in found]:
        raise UserError(
            f"{table}, column {key}: no row for the file {quoted(missing[0])}; add one,"
            " or remove the file"
        )
    labels = np.array([found[name] for name in names])
    try:
        return labels.astype(np.float64)
    except ValueError:
        return labels


def _read_image_folder(path: Path, options: Options, labelled: bool) -> UserData:
    paths, notes, data = list_folder(path, "images", IMAGE_SUFFIXES, options, labelled)
    modes = Counter(_mode(file) for file in _spaced(paths, 1000))
    colour = options.colour or (
        "grey" if all(mode in GREY for mode in modes) else "rgb"
    )
    listed = ", ".join(f"{mode} ({count})" for mode, count in modes.most_common())
    notes += (
        [f"images of several modes, {listed}, are all converted to {colour}"]
        if len(modes) > 1
        else []
    )
    return data(
        x=LazySamples(len(paths), lambda row: _decoded(paths[row], colour)),
        notes=tuple(notes),
    )


def _spaced(paths: list[Path], most: int) -> list[Path]:
    """Return at most ``most`` files, evenly spaced, that show the colours or the
    sampling rate.
    """
    rows = {int(row) for row in np.linspace(0, len(paths) - 1, min(len(paths), most))}
    return [paths[row] for row in sorted(rows)]


def _mode(path: Path) -> str:
    with cache.open_file(path) as stream:
        return str(opened(stream, str(path)).mode)


def _decoded(path: Path, colour: str) -> Array:
    with cache.open_file(path) as stream:
        return decode(stream, str(path), colour)


AUDIO_SUFFIXES = (".wav", ".flac", ".ogg", ".mp3")
_MOST_SAMPLES = 2**27
_MOST_RATIO = 1000  # of sampling rates


def _read_audio_folder(path: Path, options: Options, labelled: bool) -> UserData:
    paths, notes, data = list_folder(path, "audio", AUDIO_SUFFIXES, options, labelled)
    rates = Counter(_recording(file)[1] for file in _spaced(paths, 100))
    rate = options.rate or float(rates.most_common(1)[0][0])
    listed = ", ".join(f"{each} Hz ({count})" for each, count in rates.most_common())
    notes += [
        f"recordings of several sampling rates, {listed}, are all converted to"
        f" {rate:g} Hz"
    ] * (len(rates) > 1)
    return data(
        x=LazySamples(len(paths), lambda row: _waveform(paths[row], rate)),
        rate=rate,
        notes=tuple(notes),
    )


def _recording(path: Path) -> tuple[Array, int]:
    """Return the samples [n, channels] of a file, and its sampling rate in Hz."""
    if path.suffix.lower() == ".wav":
        return read_recording(path)
    try:
        import soundfile
    except ImportError as error:
        needed = (
            "needs a library that is not installed: pip install 'orca-ray[adapt]', or"
            " convert it to WAV"
        )
        raise UserError(f"{path}: {path.suffix} {needed}") from error
    with cache.open_file(path) as stream:
        try:
            with soundfile.SoundFile(stream) as file:
                samples = file.read(
                    _MOST_SAMPLES // file.channels, dtype="float32", always_2d=True
                )
                return samples, int(file.samplerate)
        except Exception as error:  # libsndfile's errors, and those of its callbacks
            raise UserError(
                f"{path}: expected a recording: {shorten(error)}"
            ) from error


def _waveform(path: Path, rate: float) -> Array:
    """Return a recording as one channel [n] float32 at ``rate`` Hz; UserError if its
    own rate is far from that.
    """
    samples, found = _recording(path)
    mono = samples.mean(axis=1)
    if found != rate:
        from scipy.signal import resample_poly

        most = min(_MOST_RATIO, _MOST_SAMPLES / len(mono))
        if not 1 / _MOST_RATIO <= rate / found <= most:
            expected = (
                f"{path}: expected a recording that can be converted to {rate:g} Hz"
            )
            raise UserError(
                f"{expected}, found {len(mono):,} samples at {found} Hz; correct its"
                " rate, or leave it out"
            )
        ratio = Fraction(rate / found).limit_denominator(1000)
        mono = resample_poly(mono, ratio.numerator, ratio.denominator)
    return np.asarray(mono, dtype=np.float32)


def _read_array_folder(path: Path, options: Options, labelled: bool) -> UserData:
    paths, notes, data = list_folder(path, "array", (".npy",), options, labelled)
    x = LazySamples(len(paths), lambda row: read_npy(paths[row], kind="biuf"))
    return data(x=x, rate=options.rate, notes=tuple(notes))


FORMATS = (
    Format("folder of images", IMAGE_SUFFIXES, _read_image_folder, folder=True),
    Format("folder of recordings", AUDIO_SUFFIXES, _read_audio_folder, folder=True),
    Format("folder of arrays", (".npy",), _read_array_folder, folder=True),
)
