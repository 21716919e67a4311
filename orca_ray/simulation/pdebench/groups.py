"""Layout of PDEBench's files with one HDF5 group per sample."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from orca_ray.simulation.pdebench.simulation import Grid, TensorLayout

if TYPE_CHECKING:
    import h5py


@dataclass(frozen=True, kw_only=True)
class GroupLayout(TensorLayout):
    """Layout with one HDF5 group per sample, e.g. "0001".

    A group has ``data``, ``grid/*`` and the attribute ``config``.
    """

    compression: str | None

    def create(self, file: "h5py.File", samples: int) -> None:
        """Do nothing: `write` creates the group of each sample."""

    def write(
        self,
        file: "h5py.File",
        start: int,
        fields: Mapping[str, npt.NDArray[np.float32]],
    ) -> None:
        """Write the ``fields`` of successive samples, numbered from ``start``."""
        for number, values in enumerate(fields["data"], start):
            group = file.create_group(f"{number:04d}")
            group.create_dataset(
                "data", data=values, dtype=np.float32, compression=self.compression
            )
            for name, points in self.coordinates.items():
                group.create_dataset(
                    f"grid/{name}",
                    data=points.astype(np.float32),
                    compression=self.compression,
                )
            parameters = {**self.attributes, "seed": number}
            lines = [f"  {name}: {value}" for name, value in parameters.items()]
            group.attrs["config"] = "\n".join(["sim:", *lines, ""])


def group_layout(
    grid: Grid,
    channels: int,
    axes: str,
    parameters: Mapping[str, float],
    compression: str | None,
) -> GroupLayout:
    """Return a layout of samples with ``channels`` values at each point.

    The points are those of ``grid`` along ``axes``, e.g. "xy".
    """
    return GroupLayout(
        datasets={"data": (grid.num_frames, *[grid.num_cells] * len(axes), channels)},
        coordinates=dict.fromkeys(axes, grid.x) | {"t": grid.times},
        attributes=parameters,
        compression=compression,
    )
