"""Simulations whose samples are groups of a file: the file's layout, and balances that
its samples keep.
"""

from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt
import pytest
from orca_ray_pdebench import diffusion_reaction_2d, shallow_water
from orca_ray_pdebench.groups import GroupLayout
from orca_ray_pdebench.simulation import get_simulation
from scipy.integrate import simpson
from test_samples import digest

from orca_ray.simulation import generators

GROUPS: dict[str, tuple[str, tuple[int, ...], str | None, float]] = {
    # file; shape of a sample; compression; time of the last frame
    "diffusion_sorption": ("1D_diff-sorp_NA_NA.h5", (101, 1024, 1), "lzf", 500.0),
    "diffusion_reaction_2d": ("2D_diff-react_NA_NA.h5", (101, 128, 128, 2), "lzf", 5.0),
    "shallow_water": ("2D_rdb_NA_NA.h5", (101, 128, 128, 1), None, 1.0),
}


@cache
def solved(task: str) -> npt.NDArray[np.float32]:
    """Return sample 0 of seed 0 [1, *shape], as the command solves it."""
    return get_simulation(f"pdebench/{task}").solve(generators(0, 0, 1))["data"]


@pytest.mark.parametrize("task", GROUPS)
def test_a_file_of_groups(task: str, tmp_path: Path) -> None:
    name, shape, compression, end = GROUPS[task]
    chosen = get_simulation(f"pdebench/{task}")
    layout = chosen.layout
    assert (chosen.name, chosen.file) == (f"pdebench/{task}", name)
    assert isinstance(layout, GroupLayout)
    with h5py.File(tmp_path / "x.h5", "w") as file:
        layout.create(file, 4)
        layout.write(file, 2, {"data": np.zeros((2, *shape), np.float32)})
        assert sorted(file) == ["0002", "0003"]
        shapes: dict[str, tuple[int, ...]] = {}

        def note(path: str, item: Any) -> None:
            if isinstance(item, h5py.Dataset):
                assert item.dtype == np.float32, path
                shapes[path] = item.shape

        file["0003"].visititems(note)
        axes = zip("txy", shape[:-1], strict=False)
        assert shapes == {
            "data": shape,
            **{f"grid/{axis}": (size,) for axis, size in axes},
        }
        assert file["0003/data"].compression == compression
        assert "seed: 3" in file["0003"].attrs["config"].splitlines()[-1]
        assert file["0003/grid/t"][-1] == pytest.approx(end)


def test_samples_are_what_they_were(monkeypatch: pytest.MonkeyPatch) -> None:
    """As when totals and the order of convergence were shown by tests of commit
    641986f1.
    """
    found = {"diffusion_sorption": digest(solved("diffusion_sorption"))}
    for module, cells, end, channels in (
        (diffusion_reaction_2d, 16, 0.1, 2),
        (shallow_water, 32, 1.0, 1),
    ):
        monkeypatch.setattr(
            module, "GRID", replace(module.GRID, num_cells=cells, end=end, num_frames=3)
        )
        values = module.SIMULATION.solve(generators(0, 0, 2))["data"]
        assert (values.shape, values.dtype.name) == (
            (2, 3, cells, cells, channels),
            "float32",
        )
        found[module.SIMULATION.name.removeprefix("pdebench/")] = digest(values)
    expected = {
        "diffusion_sorption": 0.2770998,
        "diffusion_reaction_2d": -0.006804193,
        "shallow_water": 1.046231,
    }
    assert found == pytest.approx(expected, rel=1e-5)


def test_what_is_dissolved_and_sorbed_balances_what_the_ends_let_through() -> None:
    """D = 5e-4, porosity 0.29, density 2880, Freundlich's 3.5e-4 and 0.874; left u = 1,
    right u = -D u_x.
    """
    first = 20
    for sample in solved("diffusion_sorption").astype(np.float64):
        frames = sample[..., 0]
        assert 0 <= frames[0].min() == frames[0].max() <= 0.2
        held = frames + (1 - 0.29) / 0.29 * 2880 * 3.5e-4 * (frames + 1e-6) ** 0.874
        half = 0.5 / 1024
        inflow = 5e-4 * (1 - frames[:, 0]) / half
        outflow = frames[:, -1] * 5e-4 / (5e-4 + half)
        through = simpson((inflow - outflow)[first:], dx=5.0, axis=0)
        assert (held[-1] - held[first]).mean() == pytest.approx(through, rel=2e-3)
        assert simpson(outflow[first:], dx=5.0, axis=0) > 0.005 * through


def test_activator_and_inhibitor_balance() -> None:
    """Means and mean squares, from u_t = 1e-3 Lap u + u - u^3 - 5e-3 - v and v_t = 5e-3
    Lap v + u - v on [-1, 1]^2.
    """
    first = 40
    frames = solved("diffusion_reaction_2d")[0].astype(np.float64)
    assert (frames[0].mean(), frames[0].std()) == (
        pytest.approx(0, abs=0.02),
        pytest.approx(1, abs=0.02),
    )
    u = frames[first:, ..., 0]
    v = frames[first:, ..., 1]
    growth = {"u": u - u**3 - 5e-3 - v, "v": u - v}
    for name, field, diffusion in (("u", u, 1e-3), ("v", v, 5e-3)):
        steepness = (
            sum((np.diff(field, axis=axis) ** 2).sum(axis=(1, 2)) for axis in (1, 2))
            / (2 / 128) ** 2
            / 128**2
        )
        mean = simpson(growth[name].mean(axis=(1, 2)), dx=0.05, axis=0)
        assert (field[-1] - field[0]).mean() == pytest.approx(mean, abs=1e-5)
        lost = float(simpson(diffusion * steepness, dx=0.05, axis=0))
        gained = simpson((field * growth[name]).mean(axis=(1, 2)), dx=0.05, axis=0)
        assert 0.5 * (field[-1] ** 2 - field[0] ** 2).mean() == pytest.approx(
            gained - lost, abs=5e-3 * lost
        )
