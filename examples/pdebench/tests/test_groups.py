"""Simulations whose samples are groups of a file: the file's layout, and balances that its samples keep."""

from functools import cache
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt
import pytest
from test_samples import digest

from orca_ray.simulation.simulation import Array, GroupLayout, generators, get_simulation

GROUPS: dict[str, tuple[str, tuple[int, ...], str | None, float]] = {
    # file; shape of a sample; compression; time of the last frame
    "diffusion_sorption": ("1D_diff-sorp_NA_NA.h5", (101, 1024, 1), "lzf", 500.0),
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
        assert shapes == {"data": shape, **{f"grid/{axis}": (size,) for axis, size in axes}}
        assert file["0003/data"].compression == compression
        assert "seed: 3" in file["0003"].attrs["config"].splitlines()[-1]
        assert file["0003/grid/t"][-1] == pytest.approx(end)


def test_samples_are_what_they_were() -> None:
    """As when totals and the order of convergence were shown by tests of commit 641986f1."""
    assert digest(solved("diffusion_sorption")) == pytest.approx(0.2770998, rel=1e-5)


def _integral(rates: Array, interval: float) -> Array:
    """Simpson's rule along the first axis, of an odd number of frames."""
    assert len(rates) % 2 == 1
    weights = np.ones(len(rates))
    weights[1:-1:2], weights[2:-1:2] = 4, 2
    total: Array = interval / 3 * np.tensordot(weights, rates, axes=1)
    return total


def test_what_is_dissolved_and_sorbed_balances_what_the_ends_let_through() -> None:
    """D = 5e-4, porosity 0.29, density 2880, Freundlich's 3.5e-4 and 0.874; left u = 1, right u = -D u_x."""
    first = 20
    for sample in solved("diffusion_sorption").astype(np.float64):
        frames = sample[..., 0]
        assert 0 <= frames[0].min() == frames[0].max() <= 0.2
        held = frames + (1 - 0.29) / 0.29 * 2880 * 3.5e-4 * (frames + 1e-6) ** 0.874
        half = 0.5 / 1024
        inflow = 5e-4 * (1 - frames[:, 0]) / half
        outflow = frames[:, -1] * 5e-4 / (5e-4 + half)
        through = _integral((inflow - outflow)[first:], 5.0)
        assert (held[-1] - held[first]).mean() == pytest.approx(through, rel=2e-3)
        assert _integral(outflow[first:], 5.0) > 0.005 * through
