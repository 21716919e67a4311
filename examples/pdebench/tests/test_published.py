"""Generated files have the names, axes, types and coordinates of PDEBench's; their
samples solve its equations.

The other test modules show that the numerics solve their equations; this one, that the
equations and constants are those published.
"""

from functools import cache
from pathlib import Path

import h5py
import numpy as np
import pytest
from orca_ray_pdebench import darcy, simulation
from orca_ray_pdebench.periodic import sample_waves
from orca_ray_pdebench.simulation import Fields, get_simulation
from scipy.integrate import simpson
from test_samples import digest

from orca_ray.data.raw import PDEBENCH_FILES
from orca_ray.simulation import Array, centres, generators

TENSORS: dict[
    str, tuple[dict[str, tuple[int, ...]], dict[str, float], float | None]
] = {
    # shape of a sample of each field; attributes; time of the last frame
    "advection": ({"tensor": (201, 1024)}, {"beta": 0.4}, 2.0),
    "burgers": ({"tensor": (201, 1024)}, {"Nu": 1.0}, 2.0),
    "diffusion_reaction_1d": ({"tensor": (101, 1024)}, {"Nu": 0.5, "rho": 1.0}, 1.0),
    "darcy": ({"nu": (128, 128), "tensor": (1, 128, 128)}, {"beta": 0.1}, None),
}


@cache
def solved(task: str, start: int = 0, stop: int = 4) -> Fields:
    """Return samples ``start`` to ``stop`` (exclusive) of seed 0, as the command solves
    them.
    """
    return get_simulation(f"pdebench/{task}").solve(generators(0, start, stop))


@pytest.mark.parametrize("task", TENSORS)
def test_a_file_of_tensors(task: str, tmp_path: Path) -> None:
    fields, attributes, end = TENSORS[task]
    chosen = get_simulation(f"pdebench/{task}")
    layout = chosen.layout
    assert (chosen.name, chosen.file) == (f"pdebench/{task}", PDEBENCH_FILES[task])
    frames, *grid = fields["tensor"]
    shapes: dict[str, tuple[int, ...]] = {
        f"{axis}-coordinate": (size,) for axis, size in zip("xy", grid, strict=False)
    }
    if end is not None:
        shapes["t-coordinate"] = (frames + 1,)
    shapes |= {name: (2, *shape) for name, shape in fields.items()}
    with h5py.File(tmp_path / "x.h5", "w") as file:
        layout.create(file, 2)
        layout.write(
            file,
            1,
            {name: np.ones((1, *shape), np.float32) for name, shape in fields.items()},
        )
        assert {name: values.shape for name, values in file.items()} == shapes
        assert all(values.dtype == np.float32 for values in file.values())
        assert dict(file.attrs) == attributes
        for name in fields:
            assert (file[name][0].max(), file[name][1].min()) == (0, 1)
        assert layout.num_bytes(2) == sum(4 * np.prod(shapes[name]) for name in fields)
        if end is not None:
            assert file["t-coordinate"][-2] == pytest.approx(end)
    assert simulation.simulations().keys() == {
        f"pdebench/{name}" for name in PDEBENCH_FILES
    }


DIGESTS = {
    "advection": [-0.1944397],
    "burgers": [0.1185520],
    "diffusion_reaction_1d": [0.6117932],
    "darcy": [0.3842565, 0.02219041],
}


def test_solved_samples_fit_the_file_and_are_what_they_were() -> None:
    """As when totals, exact solutions and the order of convergence of each equation
    were shown by tests of commit 641986f1.
    """
    found = {
        "burgers": solved("burgers", 0, 2),
        "diffusion_reaction_1d": solved("diffusion_reaction_1d"),
    }
    for task in ("advection", "darcy"):
        layout = get_simulation(f"pdebench/{task}").layout
        fields = solved(task)
        assert {
            name: values.shape[1:] for name, values in fields.items()
        } == layout.datasets
        assert all(
            values.dtype == np.float32 and np.ptp(values, axis=0).any()
            for values in fields.values()
        )
        found[task] = fields
    digests = {
        task: [digest(values) for values in fields.values()]
        for task, fields in found.items()
    }
    assert digests == {
        task: pytest.approx(expected, rel=1e-5) for task, expected in DIGESTS.items()
    }


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


def _cole_hopf(initial: Array, diffusion: float, t: float) -> Array:
    """Burgers' solution on a period of 1 from any initial field [X]: its transform
    solves the heat equation.
    """
    k = 2 * np.pi * np.fft.rfftfreq(len(initial), 1 / len(initial))
    mean = initial.mean()
    modes = np.fft.rfft(initial - mean)
    potential = np.fft.irfft(
        np.divide(modes, 1j * k, out=np.zeros_like(modes), where=k > 0)
    )
    heat = np.fft.rfft(np.exp(-potential / (2 * diffusion))) * np.exp(
        -diffusion * k**2 * t - 1j * k * mean * t
    )
    solution: Array = mean - 2 * diffusion * np.fft.irfft(1j * k * heat) / np.fft.irfft(
        heat
    )
    return solution


def test_burgers_is_what_the_transform_of_cole_and_hopf_makes_of_the_first_frame() -> (
    None
):
    """Nu is 1, and the coefficient of u_xx Nu / pi."""
    for frames in _sample("burgers", 2)["tensor"]:
        for frame in (2, 10, 60, 200):
            exact = _cole_hopf(frames[0], 0.318309886, 0.01 * frame)
            np.testing.assert_allclose(frames[frame], exact, atol=2e-4)


def test_diffusion_and_growth_balance() -> None:
    """What u and u^2 / 2 gain between two frames, from u_t = 0.5 u_xx + u (1 - u)."""
    k = 2j * np.pi * np.fft.rfftfreq(1024, 1 / 1024)
    first = 4
    last = 14
    steepest = 0.0
    for frames in _sample("diffusion_reaction_1d", 4)["tensor"]:
        assert (frames[0].min(), frames[0].max()) == (0, 1)
        u = frames[first : last + 1]
        slopes = np.fft.irfft(k * np.fft.rfft(u))
        assert (u[-1] - u[0]).mean() == pytest.approx(
            simpson((u * (1 - u)).mean(axis=1), dx=0.01, axis=0), rel=1e-3
        )
        gained = simpson(
            (u * u * (1 - u) - 0.5 * slopes**2).mean(axis=1), dx=0.01, axis=0
        )
        lost = float(simpson((0.5 * slopes**2).mean(axis=1), dx=0.01, axis=0))
        assert 0.5 * (u[-1] ** 2 - u[0] ** 2).mean() == pytest.approx(
            gained, abs=2e-3 * lost + 1e-6
        )
        steepest = max(steepest, lost)
    assert steepest > 1e-3


def test_the_source_of_darcy_leaves_through_the_edge() -> None:
    fields = _sample("darcy")
    assert set(np.unique(fields["nu"].astype(np.float32))) == {
        np.float32(0.1),
        np.float32(1.0),
    }
    for permeability, pressure in zip(
        fields["nu"], fields["tensor"][:, 0], strict=True
    ):
        through = 2 * permeability * pressure
        assert through[[0, -1]].sum() + through[:, [0, -1]].sum() == pytest.approx(
            0.1, rel=1e-5
        )


def test_initial_fields_are_drawn_as_they_were() -> None:
    """As when shares, ranges and means over many draws, and Darcy's threshold were
    shown to be those of PDEBench's scripts, by tests of commit a1f7156.
    """
    x = centres(0.0, 1.0, 32)
    found = {
        "waves": np.stack([sample_waves(rng)(x) for rng in generators(0, 0, 40)]),
        "darcy": np.stack(
            [darcy.sample_permeability(rng, x) for rng in generators(0, 0, 40)]
        ),
    }
    expected = {"waves": -0.04906781, "darcy": 0.5208029}
    assert {name: digest(fields) for name, fields in found.items()} == pytest.approx(
        expected, rel=1e-5
    )
    assert darcy.threshold() == pytest.approx(1.852145, rel=1e-5)
