"""NumPy archives: one array for the inputs and one for the targets."""

from pathlib import Path

from orca_ray.data.npy import Npz
from orca_ray.own_data._named import choose
from orca_ray.own_data.format import Format
from orca_ray.own_data.options import Options
from orca_ray.own_data.user_data import UserData


def _read(path: Path, options: Options, labelled: bool) -> UserData:
    arrays = Npz(path)
    return choose(str(path), {name: arrays.shape(name) for name in arrays}, arrays.__getitem__, options, labelled)


FORMAT = Format("NumPy archive", (".npz",), _read)
