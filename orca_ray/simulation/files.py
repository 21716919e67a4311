"""HDF5 files in PDEBench's layouts, written batch by batch and moved into place when complete."""

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
    """One dataset per quantity, with samples along the first axis, and one per coordinate."""

    datasets: Mapping[str, tuple[int, ...]]
    """Shape of one sample by dataset name."""
    coordinates: Coordinates
    attributes: Mapping[str, float]
    """Parameters of the equation, stored as root attributes."""

    def num_bytes(self, samples: int) -> int:
        """Return the approximate size of a file of ``samples`` samples, without compression."""
        return samples * sum(4 * int(np.prod(shape)) for shape in self.datasets.values())

    def create(self, file: "h5py.File", samples: int) -> None:
        """Create datasets, coordinates and attributes."""
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
    """One group per sample, named by its four-digit number, with ``data``, ``grid/*`` and the attribute ``config``."""

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
    """Yield a new HDF5 file in ``scratch`` (same disk), moved to ``path`` when the block succeeds, else removed."""
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
    """Turn errors of a full or read-only disk into a :class:`UserError`."""
    try:
        with cache.disk_errors(directory):
            yield
    except OSError as error:
        if "No space left" not in str(error):  # h5py omits the error number
            raise
        raise UserError(f"no space left on the disk of {directory}: free some, or choose --out") from error


def read_marker(path: Path) -> dict[str, Any] | None:
    """Return how ``path`` was generated; None if it was not, or is not an HDF5 file."""
    import h5py

    try:
        with h5py.File(path) as file:
            return cache.parse_json(file.attrs[MARK], str(path))
    except (OSError, KeyError, ValueError, TypeError):
        return None
