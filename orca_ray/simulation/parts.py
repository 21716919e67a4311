"""Solved batches of a file to be, on the disk: what an interruption leaves and the next run goes on from."""

import contextlib
import json
import logging
import shutil
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from orca_ray.data import cache
from orca_ray.errors import UserError
from orca_ray.simulation.simulation import Fields

logger = logging.getLogger(__name__)

SETTINGS = "settings.json"
"""Says how the batches were made, in their directory."""


def directory_of(path: Path) -> Path:
    """Return the hidden directory that holds the batches of the file ``path`` until it is whole."""
    return path.with_name(f".{path.name}.parts")


@contextlib.contextmanager
def kept(path: Path, settings: Mapping[str, Any]) -> Iterator[Path]:
    """Yield the directory of the batches of ``path``; it goes when the block ends well, or when no batch is whole.

    Hold :func:`orca_ray.data.cache.lock` around this.

    Args:
        path: the file to be.
        settings: what a batch depends on; batches made otherwise are removed.
    """
    directory = directory_of(path)
    if _read_settings(directory) != settings:
        if left := num_samples(path):
            logger.warning("%s: %d samples that were solved with other settings are removed", path, left)
        shutil.rmtree(directory, ignore_errors=True)
        directory.mkdir(parents=True)
        (directory / SETTINGS).write_text(json.dumps(dict(settings)))
    _remove_cut_short(directory)
    try:
        yield directory
    except BaseException:
        _remove_cut_short(directory)
        if num_samples(path) == 0:
            shutil.rmtree(directory, ignore_errors=True)
        raise
    remove(path)


def remove(path: Path) -> None:
    """Remove the batches of ``path``; hold the lock."""
    shutil.rmtree(directory_of(path), ignore_errors=True)


def _remove_cut_short(directory: Path) -> None:
    for being_filled in directory.glob("*.tmp"):
        being_filled.unlink(missing_ok=True)


def _read_settings(directory: Path) -> Any:
    try:
        return json.loads((directory / SETTINGS).read_text())
    except (OSError, ValueError):
        return None


def num_samples(path: Path) -> int:
    """Return how many samples of the file ``path`` are solved and kept."""
    bounds = (part.stem.split("-") for part in directory_of(path).glob("*.npz"))
    return sum(int(stop) - int(start) for start, stop in bounds)


def is_there(directory: Path, start: int, stop: int) -> bool:
    """Whether the batch of samples ``start`` to ``stop`` (exclusive) is solved."""
    return _part(directory, start, stop).exists()


def save(directory: Path, start: int, stop: int, fields: Fields) -> None:
    """Keep a batch; it is there at once and whole, or not at all."""
    part = _part(directory, start, stop)
    being_filled = part.with_suffix(".tmp")
    with being_filled.open("wb") as stream:
        np.savez(stream, **fields)  # type: ignore[arg-type]  # numpy 2.0 takes any other keyword for an array
    cache.replace_file(being_filled, part)


def load(directory: Path, start: int, stop: int) -> Fields:
    """Return a batch; one that is damaged is removed, and UserError raised."""
    part = _part(directory, start, stop)
    try:
        with np.load(part) as held:
            return {name: held[name] for name in held.files}
    except (ValueError, EOFError, zipfile.BadZipFile) as error:
        part.unlink(missing_ok=True)
        told = "is removed: run the command again, which solves it anew"
        raise UserError(f"{part} was damaged ({error}) and {told}") from error


def _part(directory: Path, start: int, stop: int) -> Path:
    return directory / f"{start}-{stop}.npz"
