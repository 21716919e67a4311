"""NumPy archives: one array for the inputs and one for the targets."""

import zipfile
from pathlib import Path

import numpy as np

from orca_ray.data import cache
from orca_ray.data.gzip_stream import archive_errors
from orca_ray.data.npy import Npz
from orca_ray.data.user._named import choose
from orca_ray.data.user.format import Format
from orca_ray.data.user.options import Options
from orca_ray.data.user.user_data import UserData


def _read(path: Path, options: Options, labelled: bool) -> UserData:
    with cache.open_file(path) as file, archive_errors(path, "archive (.npz)"), zipfile.ZipFile(file) as archive:
        names = [name.removesuffix(".npy") for name in archive.namelist() if name.endswith(".npy")]
        shapes = {name: _shape(archive, name) for name in names}
    npz = Npz(path, names)
    return choose(str(path), shapes, npz.__getitem__, options, labelled)


def _shape(archive: zipfile.ZipFile, name: str) -> tuple[int, ...]:
    with archive.open(f"{name}.npy") as stream:
        version = np.lib.format.read_magic(stream)
        read = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}[version]
        return tuple(map(int, read(stream)[0]))


FORMAT = Format("NumPy archive", (".npz",), _read)
