"""HDF5 files as PDEBench lays them out, written batch by batch and there only when they are whole."""

import contextlib
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt

from orca_ray.data import cache
from orca_ray.data.pdebench_files import MARK
from orca_ray.errors import UserError

if TYPE_CHECKING:
    import h5py

Coordinates = Callable[[], Mapping[str, npt.NDArray[np.float64]]]


class Layout(Protocol):
    """Where the samples of a file are."""

    def num_bytes(self, samples: int) -> int:
        """Return about how large a file of so many samples is."""
        ...

    def create(self, file: "h5py.File", samples: int) -> None:
        """Make in an empty file all that does not wait for a sample."""
        ...

    def write(self, file: "h5py.File", start: int, fields: Mapping[str, npt.NDArray[np.float32]]) -> None:
        """Write a batch, the first of which is sample ``start``."""
        ...


@dataclass(frozen=True, kw_only=True)
class TensorLayout:
    """One dataset a quantity, samples along its first axis, and one dataset a coordinate."""

    datasets: Mapping[str, tuple[int, ...]]
    """Name to shape of one sample."""
    coordinates: Coordinates
    attributes: Mapping[str, float]
    """Parameters of the equation, at the root."""

    def num_bytes(self, samples: int) -> int:
        """Return about how large a file of so many samples is."""
        return samples * sum(4 * int(np.prod(shape)) for shape in self.datasets.values())

    def create(self, file: "h5py.File", samples: int) -> None:
        """Make the datasets, the coordinates and the attributes."""
        for name, shape in self.datasets.items():
            file.create_dataset(name, shape=(samples, *shape), dtype=np.float32)
        for name, values in self.coordinates().items():
            file.create_dataset(name, data=values.astype(np.float32))
        file.attrs.update(self.attributes)

    def write(self, file: "h5py.File", start: int, fields: Mapping[str, npt.NDArray[np.float32]]) -> None:
        """Write a batch, the first of which is sample ``start``."""
        for name, values in fields.items():
            file[name][start : start + len(values)] = values


@dataclass(frozen=True, kw_only=True)
class GroupLayout:
    """One group a sample, named by its number in four digits: ``data``, ``grid/*`` and its parameters in ``config``."""

    shape: tuple[int, ...]
    """Of one sample: (T, X, 1), (T, X, Y, C)."""
    grid: Coordinates
    parameters: Mapping[str, float]
    compression: str | None = "lzf"

    def num_bytes(self, samples: int) -> int:
        """Return about how large a file of so many samples is, not counting on compression."""
        return samples * 4 * int(np.prod(self.shape))

    def create(self, file: "h5py.File", samples: int) -> None:
        """Nothing: every sample brings its own group."""

    def write(self, file: "h5py.File", start: int, fields: Mapping[str, npt.NDArray[np.float32]]) -> None:
        """Write a batch, the first of which is sample ``start``."""
        for number, values in enumerate(fields["data"], start):
            group = file.create_group(f"{number:04d}")
            group.create_dataset("data", data=values, dtype=np.float32, compression=self.compression)
            for name, points in self.grid().items():
                group.create_dataset(f"grid/{name}", data=points.astype(np.float32), compression=self.compression)
            lines = [f"  {name}: {value}" for name, value in {**self.parameters, "seed": number}.items()]
            group.attrs["config"] = "\n".join(["sim:", *lines, ""])


@contextlib.contextmanager
def whole_file(path: Path, scratch: Path) -> Iterator["h5py.File"]:
    """Yield an HDF5 file to fill, in ``scratch`` on the same disk.

    It becomes ``path`` at once when the block ends well, and vanishes when it does not.
    """
    import h5py

    being_filled = scratch / path.name
    try:
        with h5py.File(being_filled, "w") as file:
            yield file
        cache.replace_file(being_filled, path)
    finally:
        being_filled.unlink(missing_ok=True)


@contextlib.contextmanager
def disk_errors(directory: Path) -> Iterator[None]:
    """Turn a full disk, or one that is not writable, into a :class:`UserError`."""
    try:
        with cache.disk_errors(directory):
            yield
    except OSError as error:
        if "No space left" in str(error):  # h5py raises it without its number
            raise UserError(f"no space left on the disk of {directory}: free some, or choose --out") from error
        raise


def mark(file: "h5py.File", marker: Mapping[str, Any]) -> None:
    """Say in a file that it is generated, and how."""
    file.attrs[MARK] = json.dumps(dict(marker), sort_keys=True)


def read_marker(path: Path) -> dict[str, Any] | None:
    """Return how ``path`` was generated, or None for a file that was not (or is no HDF5 file at all)."""
    import h5py

    try:
        with h5py.File(path) as file:
            content = json.loads(file.attrs[MARK])
    except (OSError, KeyError, ValueError, TypeError):
        return None
    return content if isinstance(content, dict) else None
