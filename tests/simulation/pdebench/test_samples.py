"""Generated files have PDEBench's names and axes.

Samples are those on which equations and constants were tested.
"""

from dataclasses import replace
from pathlib import Path
from types import ModuleType

import h5py
import numpy as np
import numpy.typing as npt
import pytest

from orca_ray.errors import UserError
from orca_ray.simulation import centres, generators
from orca_ray.simulation.pdebench import cfd_1d, cfd_2d
from orca_ray.simulation.pdebench.simulation import get_simulation

SHAPES = {
    "cfd_1d": (
        "1D_CFD_Rand_Eta0.1_Zeta0.1_periodic_Train.hdf5",
        ("density", "Vx", "pressure"),
        (101, 1024),
    ),
    "cfd_2d": (
        "2D_CFD_Rand_M1.0_Eta0.1_Zeta0.1_periodic_128_Train.hdf5",
        ("density", "Vx", "Vy", "pressure"),
        (21, 128, 128),
    ),
}
"""File, data sets, and shape of a sample of each."""
SMALL: dict[ModuleType, tuple[int, ...]] = {
    cfd_1d: (2, 3, 32),
    cfd_2d: (2, 3, 16, 16),
}
"""Shape of a field of two samples on a small grid."""
DIGESTS = {
    "cfd_1d": [4.859139, -0.3788880, 51.78386],
    "cfd_2d": [7.641659, 0.03751492, 0.04334168, 38.45459],
}


def digest(array: npt.ArrayLike) -> float:
    """Return the mean with weights that differ from place to place.

    Other values or another order change the mean.
    """
    values = np.asarray(array, np.float64).ravel()
    return float((values * (1 + np.cos(np.arange(values.size)))).mean())


def _shrink(
    monkeypatch: pytest.MonkeyPatch,
    module: ModuleType,
    num_cells: int,
    end: float,
    num_frames: int,
) -> None:
    monkeypatch.setattr(
        module,
        "GRID",
        replace(module.GRID, num_cells=num_cells, end=end, num_frames=num_frames),
    )


@pytest.mark.parametrize("task", SHAPES)
def test_a_file(task: str, tmp_path: Path) -> None:
    name, fields, shape = SHAPES[task]
    chosen = get_simulation(f"pdebench/{task}")
    assert chosen.file == name
    with h5py.File(tmp_path / "x.h5", "w") as file:
        chosen.layout.create(file, 1)
        chosen.layout.write(
            file, 0, {field: np.ones((1, *shape), np.float32) for field in fields}
        )
        assert all(
            file[field].shape == (1, *shape) and file[field][:].min() == 1
            for field in fields
        )
        assert file["t-coordinate"][-2] == pytest.approx(1.0)


def test_another_name_is_refused() -> None:
    with pytest.raises(UserError, match="unknown simulation 'pdebench/cfd_3d'"):
        get_simulation("pdebench/cfd_3d")


def test_samples_are_what_they_were(monkeypatch: pytest.MonkeyPatch) -> None:
    """Digests of when tests of commit 641986f1 showed totals and convergence."""
    for module, shape in SMALL.items():
        _shrink(monkeypatch, module, shape[2], 0.1, 3)
        fields = module.SIMULATION.solve(generators(0, 0, 2))
        for values in fields.values():
            assert values.shape == shape
            assert values.dtype == np.float32
        assert all(fields[name].min() > 0 for name in ("density", "pressure"))
        expected = DIGESTS[module.SIMULATION.name.removeprefix("pdebench/")]
        digests = [digest(values) for values in fields.values()]
        assert digests == pytest.approx(expected, rel=1e-5)


def test_a_sample_is_the_same_whatever_is_solved_beside_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Every sample of a gas has its own time step."""
    _shrink(monkeypatch, cfd_1d, 64, 0.05, 2)
    together, alone = (
        cfd_1d.SIMULATION.solve(generators(4, start, 3)) for start in (0, 2)
    )
    for name, values in alone.items():
        np.testing.assert_array_equal(together[name][2], values[0])


def test_initial_fields_are_drawn_as_they_were() -> None:
    """Digests of when tests of commit a1f7156 compared draws with PDEBench's scripts.

    The tests compared shares, ranges and means over many draws, and the spectrum of the
    velocities of the plane.
    """
    x = centres(0.0, 1.0, 32)
    y = centres(0.0, 1.0, 24)
    gas = np.stack([cfd_1d.sample_initial(rng, x) for rng in generators(0, 0, 40)])
    plane = np.stack([cfd_2d.sample_initial(rng, y) for rng in generators(0, 0, 6)])
    assert [digest(gas), digest(plane)] == pytest.approx([21.48481, 9.587452], rel=1e-5)
