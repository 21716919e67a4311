"""Folders of ``.npy`` files with one sample each, one sub-folder a class; shapes may differ."""

from pathlib import Path

from orca_ray.data.npy import read_npy
from orca_ray.own_data._folders import FileSamples, list_folder
from orca_ray.own_data.format import Format
from orca_ray.own_data.options import Options
from orca_ray.own_data.user_data import UserData


def _read(path: Path, options: Options, labelled: bool) -> UserData:
    listing = list_folder(path, (".npy",), options, labelled)
    return UserData(
        x=FileSamples(listing.paths, lambda file: read_npy(file, kind="biuf")),
        y=listing.y, splits=listing.splits, kind_hint="array", source=str(path), names=listing.names, rate=options.rate,
        target_names=("sub-folder",), notes=listing.notes,
    )  # fmt: skip


FORMAT = Format("folder of arrays", (".npy",), _read, folder=True)
