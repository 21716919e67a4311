"""Read a user's file or folder safely: no code from it runs, no pickle is loaded, and sizes are limited."""

import functools
import sys
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from orca_ray.data import cache
from orca_ray.discovery import declared, modules
from orca_ray.errors import UserError, quoted
from orca_ray.own_data.user_data import (
    TASK_FILE,
    Finding,
    Format,
    Inputs,
    Kind,
    LazySamples,
    Notes,
    Options,
    Samples,
    UserData,
    make_options,
    read_options,
)

__all__ = [
    "Finding", "Format", "Inputs", "Kind", "LazySamples", "Notes", "Options", "Samples", "UserData", "all_formats",
    "make_options", "options_of", "read", "read_options",
]  # fmt: skip

_MOST_LISTED = 10_000  # files of a folder that are looked at to find its format


@functools.cache
def all_formats() -> Mapping[str, Format]:
    """Return all formats by name."""
    return declared(Format, "FORMAT", modules(sys.modules[__name__]))


def options_of(path: Path, options: Options | None = None) -> tuple[Path, Options]:
    """Return the path of the data and all options: those given, then those of a ``task.yaml``.

    ``path`` is the data, a folder with its own ``task.yaml``, or a YAML file whose ``data`` names the data.
    """
    options = options or Options()
    file = path if path.suffix.lower() in (".yaml", ".yml") else path / TASK_FILE
    if not file.is_file():
        return path, options
    found = read_options(file)
    if file == path and not found.data:
        raise UserError(f"{path}: expected the line 'data: PATH', relative to this file")
    return file.parent / found.data if found.data else path, options.over(found)


def read(path: Path | str, options: Options | None = None, *, labelled: bool = True) -> UserData:
    """Return the samples in a file or folder; large arrays are memory-mapped, and files of a folder read when selected.

    ``labelled``: whether a target is required; if not, ``y`` is None for data without a target.

    Raises UserError for a missing path, an unknown type, a file of other content than its suffix says, a missing or
    ambiguous column or key, parts of unequal lengths, and damaged or too large files.
    """
    path, options = options_of(Path(path).expanduser(), options)
    cache.check_special(path, directories=True)
    form = _folder_format(path) if path.is_dir() else _file_format(path)
    return replace(form.read(path, options, labelled), options=options)


def _file_format(path: Path) -> Format:
    suffix = path.suffix.lower()
    for form in sorted(all_formats().values(), key=lambda form: form.folder):  # one image is a folder of one
        if suffix in form.suffixes and not form.markers:
            return form
    raise UserError(f"{path}: unknown type of file {quoted(suffix)}; allowed: {_allowed()}")


def _folder_format(path: Path) -> Format:
    folders = [form for form in all_formats().values() if form.folder]
    for form in folders:
        if any(any(path.glob(marker)) for marker in form.markers):
            return form
    counts: Counter[str] = Counter()
    for number, file in enumerate(path.rglob("*")):
        counts[file.suffix.lower()] += not file.name.startswith(".") and file.is_file()
        if number == _MOST_LISTED:
            break
    found = {form.name: sum(counts[suffix] for suffix in form.suffixes) for form in folders}
    best = max(folders, key=lambda form: found[form.name])
    if not found[best.name]:
        seen = ", ".join(suffix or "(none)" for suffix, count in counts.most_common(5) if count) or "no files"
        raise UserError(f"{path}: the folder has files of type {seen}, none of which is known; allowed: {_allowed()}")
    return best


def _allowed() -> str:
    return "; ".join(f"{form.name} ({', '.join(form.suffixes)})" for form in all_formats().values())
