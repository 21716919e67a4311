"""Simulations whose samples are groups of a file.

The layout of the file, and balances that its samples keep.
"""

from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np
import numpy.typing as npt
import pytest
from scipy.integrate import simpson

from orca_ray.simulation import generators
from orca_ray.simulation.pdebench import diffusion_reaction_2d, shallow_water
from orca_ray.simulation.pdebench.groups import GroupLayout
from orca_ray.simulation.pdebench.simulation import get_simulation
from tests.simulation.pdebench.test_samples import digest


class File(NamedTuple):
    """What the file of a task is expected to be."""

    name: str
    shape: tuple[int, ...]
    """Shape of a sample."""
    compression: str | None
    end: float
    """Time of the last frame."""


FILES = {
    "diffusion_sorption": File("1D_diff-sorp_NA_NA.h5", (101, 1024, 1), "lzf", 500.0),
    "diffusion_reaction_2d": File(
        "2D_diff-react_NA_NA.h5", (101, 128, 128, 2), "lzf", 5.0
    ),
    "shallow_water": File("2D_rdb_NA_NA.h5", (101, 128, 128, 1), None, 1.0),
}


@cache
def solved(task: str) -> npt.NDArray[np.float32]:
    """Return sample 0 of seed 0 [1, *shape], as the command solves it."""
    return get_simulation(f"pdebench/{task}").solve(generators(0, 0, 1))["data"]


@pytest.mark.parametrize("task", FILES)
def test_a_file_of_groups(task: str, tmp_path: Path) -> None:
    expected = FILES[task]
    simulation = get_simulation(f"pdebench/{task}")
    layout = simulation.layout
    assert simulation.name == f"pdebench/{task}"
    assert simulation.file == expected.name
    assert isinstance(layout, GroupLayout)
    shapes: dict[str, tuple[int, ...]] = {}

    def note(path: str, item: Any) -> None:
        if isinstance(item, h5py.Dataset):
            assert item.dtype == np.float32, path
            shapes[path] = item.shape

    with h5py.File(tmp_path / "x.h5", "w") as file:
        layout.create(file, 4)
        layout.write(file, 2, {"data": np.zeros((2, *expected.shape), np.float32)})
        assert sorted(file) == ["0002", "0003"]
        file["0003"].visititems(note)
        axes = zip("txy", expected.shape[:-1], strict=False)
        grid_shapes = {f"grid/{axis}": (size,) for axis, size in axes}
        assert shapes == {"data": expected.shape, **grid_shapes}
        assert file["0003/data"].compression == expected.compression
        assert "seed: 3" in file["0003"].attrs["config"].splitlines()[-1]
        assert file["0003/grid/t"][-1] == pytest.approx(expected.end)


def test_samples_are_what_they_were(monkeypatch: pytest.MonkeyPatch) -> None:
    """Digests of when tests of commit 641986f1 showed totals and convergence."""
    digests = {"diffusion_sorption": digest(solved("diffusion_sorption"))}
    for module, num_cells, end, num_channels in (
        (diffusion_reaction_2d, 16, 0.1, 2),
        (shallow_water, 32, 1.0, 1),
    ):
        grid = replace(module.GRID, num_cells=num_cells, end=end, num_frames=3)
        monkeypatch.setattr(module, "GRID", grid)
        values = module.SIMULATION.solve(generators(0, 0, 2))["data"]
        assert values.shape == (2, 3, num_cells, num_cells, num_channels)
        assert values.dtype == np.float32
        name = module.SIMULATION.name.removeprefix("pdebench/")
        digests[name] = digest(values)
    expected = {
        "diffusion_sorption": 0.2770998,
        "diffusion_reaction_2d": -0.006804193,
        "shallow_water": 1.046231,
    }
    assert digests == pytest.approx(expected, rel=1e-5)


def test_what_is_dissolved_and_sorbed_balances_what_the_ends_let_through() -> None:
    """D = 5e-4, porosity 0.29, density 2880, Freundlich's 3.5e-4 and 0.874.

    At the left end u = 1, at the right end u = -D u_x.
    """
    first = 20
    for sample in solved("diffusion_sorption").astype(np.float64):
        frames = sample[..., 0]
        assert 0 <= frames[0].min() == frames[0].max() <= 0.2
        sorbed = (1 - 0.29) / 0.29 * 2880 * 3.5e-4 * (frames + 1e-6) ** 0.874
        content = frames + sorbed
        half_cell = 0.5 / 1024
        inflow = 5e-4 * (1 - frames[:, 0]) / half_cell
        outflow = frames[:, -1] * 5e-4 / (5e-4 + half_cell)
        gain = simpson((inflow - outflow)[first:], dx=5.0, axis=0)
        assert (content[-1] - content[first]).mean() == pytest.approx(gain, rel=2e-3)
        assert simpson(outflow[first:], dx=5.0, axis=0) > 0.005 * gain


def test_activator_and_inhibitor_balance() -> None:
    """Means and mean squares change as the equations on [-1, 1]^2 say.

    u_t = 1e-3 Lap u + u - u^3 - 5e-3 - v and v_t = 5e-3 Lap v + u - v.
    """
    first = 40
    frames = solved("diffusion_reaction_2d")[0].astype(np.float64)
    assert frames[0].mean() == pytest.approx(0, abs=0.02)
    assert frames[0].std() == pytest.approx(1, abs=0.02)
    u = frames[first:, ..., 0]
    v = frames[first:, ..., 1]
    cell = 2 / 128

    def integral(values: npt.NDArray[np.float64]) -> float:
        return float(simpson(values, dx=0.05, axis=0))

    for field, growth, diffusion in (
        (u, u - u**3 - 5e-3 - v, 1e-3),
        (v, u - v, 5e-3),
    ):
        squares = sum(
            (np.diff(field, axis=axis) ** 2).sum(axis=(1, 2)) for axis in (1, 2)
        )
        steepness = squares / cell**2 / 128**2
        mean_growth = integral(growth.mean(axis=(1, 2)))
        assert (field[-1] - field[0]).mean() == pytest.approx(mean_growth, abs=1e-5)
        loss = integral(diffusion * steepness)
        gain = integral((field * growth).mean(axis=(1, 2)))
        assert 0.5 * (field[-1] ** 2 - field[0] ** 2).mean() == pytest.approx(
            gain - loss, abs=5e-3 * loss
        )
