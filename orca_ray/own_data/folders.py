"""Folders with one file for each sample: images, recordings or arrays.

Sub-folders are classes, or a table has the labels.
"""

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from PIL import Image

from orca_ray.data import cache
from orca_ray.data.npy import read_npy
from orca_ray.data.readers import read_recording, read_rows
from orca_ray.data.rows import Array
from orca_ray.errors import UserError, printable, quoted, shorten
from orca_ray.own_data import Format, LazySamples, Options, UserData

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
"""Largest number of pixels of an image."""
_PIXEL_BYTES = 16
"""Memory that a pixel takes while its image is decoded."""
_CHECKED_BYTES = 2**26
"""Memory of a decoded image above which free memory is checked (takes 0.2 ms)."""


_TRANSPARENT = ("RGBA", "LA", "PA", "La", "RGBa")
"""Pillow's modes of images with transparency."""


def open_image(stream: BinaryIO, where: str) -> Any:
    """Return a Pillow image whose pixels are not read yet.

    Raises UserError for a format that is not in `IMAGE_FORMATS`, and for too many
    pixels.
    """
    try:
        image = Image.open(stream, formats=IMAGE_FORMATS)
    except Exception as error:  # Pillow's plug-ins raise many types for damaged headers
        expected = f"{where}: expected an image ({', '.join(IMAGE_FORMATS)})"
        raise UserError(
            f"{expected}, found something else: {shorten(error)}"
        ) from error
    num_pixels = image.width * image.height
    if num_pixels > _MOST_PIXELS:
        size = f"found {image.width} × {image.height}; reduce it"
        raise UserError(f"{where}: expected at most {_MOST_PIXELS:,} pixels, {size}")
    num_bytes = _PIXEL_BYTES * num_pixels
    if num_bytes > _CHECKED_BYTES:
        cache.check_memory(num_bytes, f"{where}: its pixels", "reduce it")
    return image


def decode(stream: BinaryIO, where: str, colour: str) -> Array:
    """Return the pixels of an image, [H, W] if ``colour`` is "grey", else [H, W, 3].

    The pixels are uint8, but float32 for images of 16 or 32 bits without colour, whose
    whole numbers are divided by 256. Transparent pixels are laid on white. Raises
    UserError for a damaged file.
    """
    image = open_image(stream, where)
    try:
        if image.mode[0] in "IF":  # Pillow would cut values above 255
            return _deep_pixels(image, colour)
        if image.mode in _TRANSPARENT or "transparency" in image.info:
            image = image.convert("RGBA")
            image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
        return np.array(image.convert("L" if colour == "grey" else "RGB"))
    except Exception as error:  # Pillow raises many types for damaged pixels too
        raise UserError(f"{where}: the image is damaged: {shorten(error)}") from error


def _deep_pixels(image: Any, colour: str) -> Array:
    """Return the pixels of an image of 16 or 32 bits as `decode` does, float32."""
    pixels: Array = np.asarray(image, dtype=np.float32)
    if image.mode != "F":  # whole numbers
        pixels = pixels / 256
    if colour == "grey":
        return pixels
    return np.repeat(pixels[..., None], 3, axis=2)


_SPLITS = {
    "train": "train",
    "training": "train",
    "test": "test",
    "testing": "test",
    "val": "validation",
    "valid": "validation",
    "validation": "validation",
}
"""Split by the name of a folder."""
_HIDDEN = (".", "__MACOSX")
"""How the names of hidden files and folders begin."""
_LABEL_TABLES = ("labels.csv", "metadata.csv")
"""Names of the table of labels; the first that exists is read."""
_RECORD = ".hea"
"""Suffix of the header of a WFDB record, whose other files have the same stem."""
_FILE_COLUMNS = ("file_name", "file", "filename", "path", "image")
"""Usual names of the column of files in a table of labels."""


@dataclass(frozen=True)
class Listing:
    """The files of a folder, one a sample, and what the folder declares."""

    folder: Path
    paths: list[Path]
    y: Array | None = None
    """Label of each file [N]; None: no labels."""
    splits: Array | None = None
    """Split of each file [N]; None: the folder declares no splits."""
    notes: list[str] = field(default_factory=list)
    """One sentence for each kind of files that are left out."""

    @property
    def names(self) -> list[str]:
        """Names of the files, relative to the folder."""
        if self.folder.is_file():
            return [_utf8(self.folder.name)]
        return [_utf8(path.relative_to(self.folder).as_posix()) for path in self.paths]

    def user_data(self, **properties: Any) -> UserData:
        """Return the samples with further ``properties`` of `UserData`, such as x."""
        return UserData(
            source=str(self.folder),
            target_names=("sub-folder",),
            names=self.names,
            y=self.y,
            splits=self.splits,
            **properties,
        )


def list_folder(
    folder: Path, suffixes: Sequence[str], options: Options, labelled: bool
) -> Listing:
    """Return the files with ``suffixes`` in a folder, with their labels and splits.

    A file's class is the name of the sub-folder that it is in; folders ``train`` and
    ``test`` that contain such sub-folders are splits. Files that are not in sub-folders
    get their labels from the column ``target`` of labels.csv (or metadata.csv), whose
    column ``file_name`` names them. If ``folder`` is a file, it is a single sample
    without a label. Unless ``labelled``, all files are samples without labels. Raises
    UserError if there are no files or, if ``labelled``, no labels, if the column of
    labels is unknown, or if the table has no row for a file.
    """
    if folder.is_file():
        return Listing(folder, [folder])
    visible = _visible_files(folder)
    paths = [file for file in visible if file.suffix.lower() in suffixes]
    records = {file.with_suffix("") for file in paths if file.suffix == _RECORD}
    visible = [
        file for file in visible if file in paths or file.with_suffix("") not in records
    ]
    if not paths:
        raise UserError(
            f"{folder}: expected files of type {', '.join(suffixes)} that are not"
            " hidden, found none"
        )
    table = _label_table(folder)
    listing = Listing(folder, paths, notes=_skipped_files(visible, {*paths, table}))
    if not labelled:
        return listing
    in_splits = _with_splits(listing)
    if any(in_splits.classes):
        return _with_classes(in_splits)
    if table is not None:
        y = _read_labels(table, [file.name for file in paths], options)
        return replace(in_splits.listing, y=y)
    raise UserError(
        f"{folder}: no labels: put the files of each class in a sub-folder, or add"
        " labels.csv"
    )


def _visible_files(folder: Path) -> list[Path]:
    """Return the files in a folder and its sub-folders, sorted, without hidden ones."""
    files = sorted(file for file in folder.rglob("*") if file.is_file())
    return [
        file
        for file in files
        if not any(part.startswith(_HIDDEN) for part in file.relative_to(folder).parts)
    ]


def _label_table(folder: Path) -> Path | None:
    for name in _LABEL_TABLES:
        if (folder / name).is_file():
            return folder / name
    return None


def _skipped_files(files: list[Path], used: set[Path | None]) -> list[str]:
    """Return a list with a note on files of other types; empty if there are none."""
    skipped = [
        file.name for file in files if file not in used and file.suffix != ".yaml"
    ]
    if not skipped:
        return []
    example = printable(skipped[0])
    return [f"{len(skipped)} files of other types are left out, such as {example}"]


@dataclass(frozen=True)
class _SplitListing:
    """A listing with its splits, and the class of each file."""

    listing: Listing
    classes: list[str]
    """Name of the sub-folder of each file; "" if the file is in no sub-folder."""


def _with_splits(listing: Listing) -> _SplitListing:
    """Return the listing with the splits that its sub-folders declare, if they do."""
    parts = [path.relative_to(listing.folder).parts for path in listing.paths]
    heads = {part[0].lower() for part in parts if len(part) > 1}
    if heads <= _SPLITS.keys() and len({_SPLITS[head] for head in heads}) > 1:
        splits = np.array([_SPLITS.get(part[0].lower(), "") for part in parts])
        listing = replace(listing, splits=splits)
        parts = [part[1:] for part in parts]
    classes = [_utf8(part[0]) if len(part) > 1 else "" for part in parts]
    return _SplitListing(listing, classes)


def _with_classes(in_splits: _SplitListing) -> Listing:
    """Return the listing of the files that are in the sub-folder of a class."""
    listing = in_splits.listing
    rows = [row for row, name in enumerate(in_splits.classes) if name]
    y = np.array([in_splits.classes[row] for row in rows])
    notes = list(listing.notes)
    num_outside = len(listing.paths) - len(rows)
    if num_outside:
        notes.append(
            f"{num_outside} files outside of the classes' sub-folders are left out"
        )
    if listing.splits is None:
        notes += _empty_folders(listing.folder, set(y.tolist()))
    return replace(
        listing,
        paths=[listing.paths[row] for row in rows],
        y=y,
        splits=None if listing.splits is None else listing.splits[rows],
        notes=notes,
    )


def _empty_folders(folder: Path, classes: set[str]) -> list[str]:
    """Return a list with a note on sub-folders without files; [] if all have some."""
    sub_folders = {_utf8(path.name) for path in folder.iterdir() if path.is_dir()}
    empty = sorted(name for name in sub_folders - classes if not name.startswith("."))
    if not empty:
        return []
    return [f"sub-folders without files: {', '.join(map(printable, empty))}"]


def _utf8(name: str) -> str:
    """Return the name of a file or folder with escapes for bytes that are not UTF-8.

    JSON and Parquet files cannot store such bytes.
    """
    return os.fsencode(name).decode(errors="backslashreplace")


def _read_labels(table: Path, names: list[str], options: Options) -> Array:
    """Return the label of each of the files ``names`` [N], from a table of labels.

    The labels are float64 if all are numbers, else text. Raises UserError if the column
    of labels is not clear, or if a file has no row.
    """
    header, rows = read_rows(table)
    header = [name.strip() for name in header] or [""]
    key = next((name for name in _FILE_COLUMNS if name in header), header[0])
    target = _target_column(table, header, key, options)
    for name in (key, target):
        if header.count(name) > 1:
            raise UserError(
                f"{table}: several columns are named {quoted(name)}; give each its own"
                " name"
            )
    file_place = header.index(key)
    label_place = header.index(target)
    label_of = {Path(row[file_place]).name: row[label_place] for row in rows}
    listed_names = [_listed_name(name, label_of) for name in names]
    for name, listed in zip(names, listed_names, strict=True):
        if listed is None:
            raise UserError(
                f"{table}, column {key}: no row for the file {quoted(name)}; add one,"
                " or remove the file"
            )
    labels = np.array([label_of[str(name)] for name in listed_names])
    try:
        return labels.astype(np.float64)
    except ValueError:
        return labels


def _listed_name(name: str, label_of: Mapping[str, str]) -> str | None:
    """Return the name under which a table of labels lists a file; None: it does not.

    A WFDB record may be listed as its header, its samples (.dat), or without a suffix.
    """
    names = [name]
    if name.endswith(_RECORD):
        stem = name.removesuffix(_RECORD)
        names += [stem, f"{stem}.dat"]
    return next((each for each in names if each in label_of), None)


def _target_column(table: Path, header: list[str], key: str, options: Options) -> str:
    """Return the column of labels: the one that options name, or the only one left.

    ``key`` is the column of the names of files.

    Raises UserError if there is no such column, or several.
    """
    candidates = [name for name in header if name != key]
    if options.target and options.target[0] in candidates:
        return options.target[0]
    if not options.target and len(candidates) == 1:
        return candidates[0]
    raise UserError(
        f"{table}: which column is the target? Name it with --target; columns:"
        f" {', '.join(candidates)}"
    )


def _read_image_folder(path: Path, options: Options, labelled: bool) -> UserData:
    """Return the images in a folder, which are decoded when they are selected.

    ``labelled``: whether labels are read (see `list_folder`).
    """
    listing = list_folder(path, IMAGE_SUFFIXES, options, labelled)
    paths = listing.paths
    modes = Counter(_mode(file) for file in evenly_spaced(paths, most=1000))
    is_grey = all(mode in GREY for mode in modes)
    colour = options.colour or ("grey" if is_grey else "rgb")
    notes = listing.notes
    if len(modes) > 1:
        listed = ", ".join(f"{mode} ({count})" for mode, count in modes.most_common())
        notes.append(
            f"images of several modes, {listed}, are all converted to {colour}"
        )
    return listing.user_data(
        x=LazySamples(len(paths), lambda row: _read_image(paths[row], colour)),
        kind_hint="images",
        notes=tuple(notes),
    )


def evenly_spaced(paths: list[Path], most: int) -> list[Path]:
    """Return at most ``most`` files, evenly spaced; they stand for all in a check."""
    rows = {int(row) for row in np.linspace(0, len(paths) - 1, min(len(paths), most))}
    return [paths[row] for row in sorted(rows)]


def _mode(path: Path) -> str:
    with cache.open_file(path) as stream:
        return str(open_image(stream, str(path)).mode)


def _read_image(path: Path, colour: str) -> Array:
    with cache.open_file(path) as stream:
        return decode(stream, str(path), colour)


AUDIO_SUFFIXES = (".wav", ".flac", ".ogg", ".mp3")
_MOST_SAMPLES = 2**27
"""Largest number of samples of a recording, all channels together."""
_MOST_RATIO = 1000
"""Largest ratio of sampling rates by which a recording is converted."""


def _read_audio_folder(path: Path, options: Options, labelled: bool) -> UserData:
    """Return the recordings in a folder, at one sampling rate.

    They are decoded when they are selected. ``labelled``: whether labels are read (see
    `list_folder`).
    """
    listing = list_folder(path, AUDIO_SUFFIXES, options, labelled)
    paths = listing.paths
    rates = Counter(
        _decode_recording(file)[1] for file in evenly_spaced(paths, most=100)
    )
    rate = options.rate or float(rates.most_common(1)[0][0])
    notes = listing.notes
    if len(rates) > 1:
        listed = ", ".join(f"{hertz} Hz ({n})" for hertz, n in rates.most_common())
        notes.append(
            f"recordings of several sampling rates, {listed}, are all converted to"
            f" {rate:g} Hz"
        )
    return listing.user_data(
        x=LazySamples(len(paths), lambda row: _read_waveform(paths[row], rate)),
        kind_hint="audio",
        rate=rate,
        notes=tuple(notes),
    )


def _decode_recording(path: Path) -> tuple[Array, int]:
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


def _read_waveform(path: Path, rate: float) -> Array:
    """Return a recording as one channel [n] float32 at ``rate`` Hz.

    Raises UserError if the recording's sampling rate is too far from ``rate``.
    """
    samples, stored_rate = _decode_recording(path)
    mono = samples.mean(axis=1)
    if stored_rate != rate:
        mono = resample(path, mono, stored_rate, rate)
    return np.asarray(mono, dtype=np.float32)


def resample(path: Path, samples: Array, stored_rate: float, rate: float) -> Array:
    """Return the samples [n] or [n, channels] of a recording, converted to ``rate`` Hz.

    Raises UserError if the sampling rates are too far apart.
    """
    from scipy.signal import resample_poly

    # The converted recording must not be too long.
    most = min(_MOST_RATIO, _MOST_SAMPLES / samples.size)
    if not 1 / _MOST_RATIO <= rate / stored_rate <= most:
        expected = f"{path}: expected a recording that can be converted to {rate:g} Hz"
        raise UserError(
            f"{expected}, found {len(samples):,} samples at {stored_rate:.12g} Hz;"
            " correct its rate, or leave it out"
        )
    ratio = Fraction(rate / stored_rate).limit_denominator(1000)
    return np.asarray(resample_poly(samples, ratio.numerator, ratio.denominator))


def _read_array_folder(path: Path, options: Options, labelled: bool) -> UserData:
    listing = list_folder(path, (".npy",), options, labelled)
    paths = listing.paths
    x = LazySamples(len(paths), lambda row: read_npy(paths[row], kind="biuf"))
    return listing.user_data(
        x=x, kind_hint="array", rate=options.rate, notes=tuple(listing.notes)
    )


FORMATS = (
    Format("folder of images", IMAGE_SUFFIXES, _read_image_folder, folder=True),
    Format("folder of recordings", AUDIO_SUFFIXES, _read_audio_folder, folder=True),
    Format("folder of arrays", (".npy",), _read_array_folder, folder=True),
)
