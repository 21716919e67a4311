"""Generated files have PDEBench's layout, and samples solve its equations.

The other test modules show that the numerics solve their equations; this one, that the
equations and constants are those published.
"""

from functools import cache
from pathlib import Path
from typing import NamedTuple

import h5py
import numpy as np
import pytest
from scipy.integrate import simpson

from orca_ray.data.raw import PDEBENCH_FILES
from orca_ray.simulation import Array, centres, generators
from orca_ray.simulation.pdebench import darcy, simulation
from orca_ray.simulation.pdebench.periodic import sample_waves
from orca_ray.simulation.pdebench.simulation import Fields, get_simulation
from tests.simulation.pdebench.test_samples import digest


class File(NamedTuple):
    """What the file of a task is expected to hold."""

    fields: dict[str, tuple[int, ...]]
    """Shape of a sample of each field."""
    attributes: dict[str, float]
    end: float | None
    """Time of the last frame; None: the fields do not depend on time."""


FILES = {
    "advection": File({"tensor": (201, 1024)}, {"beta": 0.4}, 2.0),
    "burgers": File({"tensor": (201, 1024)}, {"Nu": 1.0}, 2.0),
    "diffusion_reaction_1d": File(
        {"tensor": (101, 1024)}, {"Nu": 0.5, "rho": 1.0}, 1.0
    ),
    "darcy": File({"nu": (128, 128), "tensor": (1, 128, 128)}, {"beta": 0.1}, None),
}


@cache
def solved(task: str, start: int = 0, stop: int = 4) -> Fields:
    """Return samples ``start`` to ``stop`` (exclusive) of seed 0.

    They are solved as by the command.
    """
    return get_simulation(f"pdebench/{task}").solve(generators(0, start, stop))


@pytest.mark.parametrize("task", FILES)
def test_a_file_of_tensors(task: str, tmp_path: Path) -> None:
    fields, attributes, end = FILES[task]
    chosen = get_simulation(f"pdebench/{task}")
    layout = chosen.layout
    assert chosen.name == f"pdebench/{task}"
    assert chosen.file == PDEBENCH_FILES[task]
    num_frames, *grid = fields["tensor"]
    shapes: dict[str, tuple[int, ...]] = {
        f"{axis}-coordinate": (size,) for axis, size in zip("xy", grid, strict=False)
    }
    if end is not None:
        shapes["t-coordinate"] = (num_frames + 1,)
    shapes |= {name: (2, *shape) for name, shape in fields.items()}
    ones = {name: np.ones((1, *shape), np.float32) for name, shape in fields.items()}
    with h5py.File(tmp_path / "x.h5", "w") as file:
        layout.create(file, 2)
        layout.write(file, 1, ones)
        assert {name: values.shape for name, values in file.items()} == shapes
        assert all(values.dtype == np.float32 for values in file.values())
        assert dict(file.attrs) == attributes
        for name in fields:
            assert (file[name][0].max(), file[name][1].min()) == (0, 1)
        if end is not None:
            assert file["t-coordinate"][-2] == pytest.approx(end)
    num_values = sum(np.prod(shapes[name]) for name in fields)
    assert layout.num_bytes(2) == 4 * num_values


def test_every_file_of_pdebench_has_a_simulation() -> None:
    names = {f"pdebench/{name}" for name in PDEBENCH_FILES}
    assert simulation.simulations().keys() == names


DIGESTS = {
    "advection": [-0.1944397],
    "burgers": [0.1185520],
    "diffusion_reaction_1d": [0.6117932],
    "darcy": [0.3842565, 0.02219041],
}


def test_solved_samples_fit_the_file_and_are_what_they_were() -> None:
    """Digests of when tests of commit 641986f1 showed totals and convergence."""
    samples = {
        "burgers": solved("burgers", 0, 2),
        "diffusion_reaction_1d": solved("diffusion_reaction_1d"),
        "advection": solved("advection"),
        "darcy": solved("darcy"),
    }
    for task in ("advection", "darcy"):
        fields = samples[task]
        shapes = {name: values.shape[1:] for name, values in fields.items()}
        assert shapes == get_simulation(f"pdebench/{task}").layout.datasets
        for values in fields.values():
            assert values.dtype == np.float32
            assert np.ptp(values, axis=0).any()
    for task, expected in DIGESTS.items():
        digests = [digest(values) for values in samples[task].values()]
        assert digests == pytest.approx(expected, rel=1e-5), task


def test_a_sample_is_the_same_whatever_is_solved_beside_it() -> None:
    together = solved("diffusion_reaction_1d")
    alone = solved("diffusion_reaction_1d", 2, 3)
    for name, values in alone.items():
        np.testing.assert_allclose(together[name][2], values[0], atol=2e-6)


def _sample(task: str, count: int = 4) -> dict[str, Array]:
    return {
        name: values.astype(np.float64)
        for name, values in solved(task, 0, count).items()
    }


def test_advection_moves_by_four_tenths_a_unit_of_time() -> None:
    x = (np.arange(1024) + 0.5) / 1024
    for frames in _sample("advection", 8)["tensor"]:
        for frame in (50, 200):
            moved = np.interp(x - 0.4 * 0.01 * frame, x, frames[0], period=1.0)
            np.testing.assert_allclose(frames[frame], moved, atol=0.01)


def cole_hopf(initial: Array, diffusion: float, t: float) -> Array:
    """Return Burgers' solution on a period of 1 from any initial field [X].

    Its transform solves the heat equation.
    """
    k = 2 * np.pi * np.fft.rfftfreq(len(initial), 1 / len(initial))
    mean = initial.mean()
    modes = np.fft.rfft(initial - mean)
    integral = np.divide(modes, 1j * k, out=np.zeros_like(modes), where=k > 0)
    potential = np.fft.irfft(integral)
    decay = np.exp(-diffusion * k**2 * t - 1j * k * mean * t)
    heat = np.fft.rfft(np.exp(-potential / (2 * diffusion))) * decay
    slope = np.fft.irfft(1j * k * heat)
    solution: Array = mean - 2 * diffusion * slope / np.fft.irfft(heat)
    return solution


def test_burgers_is_what_the_transform_of_cole_and_hopf_makes_of_the_first_frame() -> (
    None
):
    """Nu is 1, and the coefficient of u_xx Nu / pi."""
    for frames in _sample("burgers", 2)["tensor"]:
        for frame in (2, 10, 60, 200):
            exact = cole_hopf(frames[0], 0.318309886, 0.01 * frame)
            np.testing.assert_allclose(frames[frame], exact, atol=2e-4)


def test_diffusion_and_growth_balance() -> None:
    """u and u^2 / 2 gain between two frames what u_t = 0.5 u_xx + u (1 - u) says."""
    k = 2j * np.pi * np.fft.rfftfreq(1024, 1 / 1024)
    first = 4
    last = 14
    largest_loss = 0.0

    def integral(values: Array) -> float:
        return float(simpson(values.mean(axis=1), dx=0.01, axis=0))

    for frames in _sample("diffusion_reaction_1d", 4)["tensor"]:
        assert (frames[0].min(), frames[0].max()) == (0, 1)
        u = frames[first : last + 1]
        slopes = np.fft.irfft(k * np.fft.rfft(u))
        growth = integral(u * (1 - u))
        assert (u[-1] - u[0]).mean() == pytest.approx(growth, rel=1e-3)
        gain = integral(u * u * (1 - u) - 0.5 * slopes**2)
        loss = integral(0.5 * slopes**2)
        assert 0.5 * (u[-1] ** 2 - u[0] ** 2).mean() == pytest.approx(
            gain, abs=2e-3 * loss + 1e-6
        )
        largest_loss = max(largest_loss, loss)
    assert largest_loss > 1e-3


def test_the_source_of_darcy_leaves_through_the_edge() -> None:
    fields = _sample("darcy")
    values = np.unique(fields["nu"].astype(np.float32))
    assert values.tolist() == [np.float32(0.1), np.float32(1.0)]
    pressures = fields["tensor"][:, 0]
    for permeability, pressure in zip(fields["nu"], pressures, strict=True):
        flux = 2 * permeability * pressure
        outflow = flux[[0, -1]].sum() + flux[:, [0, -1]].sum()
        assert outflow == pytest.approx(0.1, rel=1e-5)


def test_initial_fields_are_drawn_as_they_were() -> None:
    """Digests of when tests of commit a1f7156 compared draws with PDEBench's scripts.

    The tests compared shares, ranges and means over many draws, and Darcy's threshold.
    """
    x = centres(0.0, 1.0, 32)
    waves = np.stack([sample_waves(rng)(x) for rng in generators(0, 0, 40)])
    permeabilities = np.stack(
        [darcy.sample_permeability(rng, x) for rng in generators(0, 0, 40)]
    )
    assert digest(waves) == pytest.approx(-0.04906781, rel=1e-5)
    assert digest(permeabilities) == pytest.approx(0.5208029, rel=1e-5)
    assert darcy.threshold() == pytest.approx(1.852145, rel=1e-5)
