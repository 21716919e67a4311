"""The two layouts of PDEBench's HDF5 files, and functions to write a file batch by batch and read its marker."""

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from orca_ray.data import cache
from orca_ray.data.raw import MARK
from orca_ray.errors import UserError

if TYPE_CHECKING:
    import h5py

Coordinates = Mapping[str, npt.NDArray[np.float64]]


@dataclass(frozen=True, kw_only=True)
class TensorLayout:
    """Layout with one HDF5 dataset per quantity, samples along its first axis, and one dataset per coordinate."""

    datasets: Mapping[str, tuple[int, ...]]
    """Shape of one sample of each quantity, by dataset name."""
    coordinates: Coordinates
    attributes: Mapping[str, float]
    """Parameters of the equation, stored as attributes of the HDF5 root."""

    def num_bytes(self, samples: int) -> int:
        """Return the approximate size of a file of ``samples`` samples, without compression."""
        return samples * sum(4 * int(np.prod(shape)) for shape in self.datasets.values())

    def create(self, file: "h5py.File", samples: int) -> None:
        """Create the datasets for ``samples`` samples, and write coordinates and attributes."""
        for name, shape in self.datasets.items():
            file.create_dataset(name, shape=(samples, *shape), dtype=np.float32)
        for name, values in self.coordinates.items():
            file.create_dataset(name, data=values.astype(np.float32))
        file.attrs.update(self.attributes)

    def write(self, file: "h5py.File", start: int, fields: Mapping[str, npt.NDArray[np.float32]]) -> None:
        """Write a batch whose first sample has the number ``start``."""
        for name, values in fields.items():
            file[name][start : start + len(values)] = values


@dataclass(frozen=True, kw_only=True)
class GroupLayout:
    """Layout with one HDF5 group per sample, e.g. "0001", with ``data``, ``grid/*`` and the attribute ``config``."""

    shape: tuple[int, ...]
    """Shape of one sample: (T, X, 1) or (T, X, Y, C)."""
    grid: Coordinates
    parameters: Mapping[str, float]
    compression: str | None = "lzf"

    def num_bytes(self, samples: int) -> int:
        """Return the approximate size of a file of ``samples`` samples, without compression."""
        return samples * 4 * int(np.prod(self.shape))

    def create(self, file: "h5py.File", samples: int) -> None:
        """Do nothing: `write` creates the group of each sample."""

    def write(self, file: "h5py.File", start: int, fields: Mapping[str, npt.NDArray[np.float32]]) -> None:
        """Write a batch whose first sample has the number ``start``."""
        for number, values in enumerate(fields["data"], start):
            group = file.create_group(f"{number:04d}")
            group.create_dataset("data", data=values, dtype=np.float32, compression=self.compression)
            for name, points in self.grid.items():
                group.create_dataset(f"grid/{name}", data=points.astype(np.float32), compression=self.compression)
            lines = [f"  {name}: {value}" for name, value in {**self.parameters, "seed": number}.items()]
            group.attrs["config"] = "\n".join(["sim:", *lines, ""])


Layout = TensorLayout | GroupLayout


@contextlib.contextmanager
def atomic_file(path: Path, scratch: Path) -> Iterator["h5py.File"]:
    """Yield a new HDF5 file in directory ``scratch``; if the block succeeds, move it to ``path``, else delete it."""
    import h5py

    temporary = scratch / path.name
    try:
        with h5py.File(temporary, "w") as file:
            yield file
        cache.replace_file(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def disk_errors(directory: Path) -> Iterator[None]:
    """Convert the errors of a full or read-only disk, also those of h5py, into a :class:`UserError`."""
    try:
        with cache.disk_errors(directory):
            yield
    except OSError as error:
        if "No space left" not in str(error):  # h5py omits the error number
            raise
        raise UserError(f"no space left on the disk of {directory}: free some, or choose --out") from error


def read_marker(path: Path) -> dict[str, Any] | None:
    """Return the marker of a generated file (options that it was generated with); None for any other file."""
    import h5py

    try:
        with h5py.File(path) as file:
            return cache.parse_json(file.attrs[MARK], str(path))
    except (OSError, KeyError, ValueError, TypeError):
        return None
