"""Zarr groups (extra ``adapt``); arrays are read row by row when they are selected."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from orca_ray.data.rows import Array, RowIndex
from orca_ray.data.user._named import choose
from orca_ray.data.user.format import Format
from orca_ray.data.user.options import Options
from orca_ray.data.user.user_data import UserData
from orca_ray.errors import UserError, shorten


@dataclass(frozen=True)
class ZarrRows:
    """The rows of one array of a group."""

    array: Any
    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, part: RowIndex) -> Array:
        """Return the selected rows."""
        return np.asarray(self.array[part] if isinstance(part, slice) else self.array.oindex[part])


def _read(path: Path, options: Options, labelled: bool) -> UserData:
    try:
        import zarr
    except ImportError as error:
        raise UserError(f"{path}: Zarr needs a library that is not installed: pip install 'orca-ray[adapt]'") from error
    try:
        group = zarr.open_group(str(path), mode="r")
        arrays = {str(name): array for name, array in group.arrays()}
    except Exception as error:
        raise UserError(f"{path}: expected a Zarr group of arrays: {shorten(error)}") from error
    if objects := [name for name, array in arrays.items() if np.dtype(array.dtype).kind == "O"]:
        raise UserError(
            f"{path}, {objects[0]}: holds objects, which are not read: store numbers or text of fixed length"
        )
    shapes = {name: tuple(array.shape) for name, array in arrays.items()}

    def rows(name: str) -> ZarrRows:
        return ZarrRows(arrays[name], shapes[name], np.dtype(arrays[name].dtype))

    return choose(str(path), shapes, rows, options, labelled)


FORMAT = Format("Zarr group", (".zarr",), _read, folder=True, markers=(".zgroup", "zarr.json"))
