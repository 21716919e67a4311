"""Folders of images, one sub-folder a class; each image is decoded when it is selected."""

from collections import Counter
from functools import partial
from pathlib import Path

import numpy as np

from orca_ray.data import cache
from orca_ray.data.rows import Array
from orca_ray.own_data import _images
from orca_ray.own_data._folders import FileSamples, list_folder
from orca_ray.own_data.format import Format
from orca_ray.own_data.options import Options
from orca_ray.own_data.user_data import UserData

_NUM_HEADERS = 1000  # images whose header is read to find the colours


def _read(path: Path, options: Options, labelled: bool) -> UserData:
    listing = list_folder(path, _images.SUFFIXES, options, labelled)
    modes = Counter(_mode(listing.paths[row]) for row in _spaced(len(listing.paths)))
    colour = options.colour or ("grey" if all(mode in _images.GREY for mode in modes) else "rgb")
    listed = ", ".join(f"{mode} ({count})" for mode, count in modes.most_common())
    notes = (f"images of several modes, {listed}, are all converted to {colour}",) if len(modes) > 1 else ()
    return UserData(
        x=FileSamples(listing.paths, partial(_decoded, colour=colour)),
        y=listing.y, splits=listing.splits, kind_hint="images", source=str(path), names=listing.names,
        target_names=("sub-folder",), notes=(*listing.notes, *notes),
    )  # fmt: skip


def _spaced(count: int) -> list[int]:
    return sorted({int(row) for row in np.linspace(0, count - 1, min(count, _NUM_HEADERS))})


def _mode(path: Path) -> str:
    with cache.open_file(path) as stream:
        return str(_images.opened(stream, str(path)).mode)


def _decoded(path: Path, colour: str) -> Array:
    with cache.open_file(path) as stream:
        return _images.decode(stream, str(path), colour)


FORMAT = Format("folder of images", _images.SUFFIXES, _read, folder=True)
