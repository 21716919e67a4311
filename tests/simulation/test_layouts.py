"""The files of all tasks: names, axes, types and coordinates as PDEBench has them."""

from pathlib import Path
from types import ModuleType
from typing import Any

import h5py
import numpy as np
import pytest

from orca_ray.simulation import cfd_1d, cfd_2d, diffusion_reaction_2d
from orca_ray.simulation.files import GroupLayout, TensorLayout
from orca_ray.simulation.simulation import generators, get_simulation, simulations

from .solved import solved

SINGLE: dict[str, tuple[str, dict[str, tuple[int, ...]], dict[str, float]]] = {
    "advection": (
        "1D_Advection_Sols_beta0.4.hdf5",
        {"tensor": (2, 201, 1024), "x-coordinate": (1024,), "t-coordinate": (202,)},
        {"beta": 0.4},
    ),
    "burgers": (
        "1D_Burgers_Sols_Nu1.0.hdf5",
        {"tensor": (2, 201, 1024), "x-coordinate": (1024,), "t-coordinate": (202,)},
        {"Nu": 1.0},
    ),
    "diffusion_reaction_1d": (
        "ReacDiff_Nu0.5_Rho1.0.hdf5",
        {"tensor": (2, 101, 1024), "x-coordinate": (1024,), "t-coordinate": (102,)},
        {"Nu": 0.5, "rho": 1.0},
    ),
    "cfd_1d": (
        "1D_CFD_Rand_Eta0.1_Zeta0.1_periodic_Train.hdf5",
        {
            **dict.fromkeys(("density", "pressure", "Vx"), (2, 101, 1024)),
            "x-coordinate": (1024,),
            "t-coordinate": (102,),
        },
        {"eta": 0.1, "zeta": 0.1},
    ),
    "cfd_2d": (
        "2D_CFD_Rand_M1.0_Eta0.1_Zeta0.1_periodic_128_Train.hdf5",
        {
            **dict.fromkeys(("density", "pressure", "Vx", "Vy"), (2, 21, 128, 128)),
            **dict.fromkeys(("x-coordinate", "y-coordinate"), (128,)),
            "t-coordinate": (22,),
        },
        {"eta": 0.1, "zeta": 0.1, "M": 1.0},
    ),
    "darcy": (
        "2D_DarcyFlow_beta0.1_Train.hdf5",
        {
            "nu": (2, 128, 128),
            "tensor": (2, 1, 128, 128),
            **dict.fromkeys(("x-coordinate", "y-coordinate"), (128,)),
        },
        {"beta": 0.1},
    ),
}
GROUPS: dict[str, tuple[str, dict[str, tuple[int, ...]], str | None]] = {
    "diffusion_sorption": (
        "1D_diff-sorp_NA_NA.h5",
        {"data": (101, 1024, 1), "grid/x": (1024,), "grid/t": (101,)},
        "lzf",
    ),
    "diffusion_reaction_2d": (
        "2D_diff-react_NA_NA.h5",
        {"data": (101, 128, 128, 2), "grid/x": (128,), "grid/y": (128,), "grid/t": (101,)},
        "lzf",
    ),
    "shallow_water": (
        "2D_rdb_NA_NA.h5",
        {"data": (101, 128, 128, 1), "grid/x": (128,), "grid/y": (128,), "grid/t": (101,)},
        None,
    ),
}
ENDS = {"burgers": 2.0, "cfd_1d": 1.0, "diffusion_sorption": 500.0, "diffusion_reaction_2d": 5.0, "shallow_water": 1.0}


def _shapes(found: h5py.File | h5py.Group) -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {}

    def note(name: str, item: Any) -> None:
        if isinstance(item, h5py.Dataset):
            assert item.dtype == np.float32, name
            shapes[name] = item.shape

    found.visititems(note)
    return shapes


def test_the_tables_here_name_all_that_can_be_generated() -> None:
    assert {f"pdebench/{name}" for name in (*SINGLE, *GROUPS)} == set(simulations())
    for name in simulations():
        assert get_simulation(name).name == name


@pytest.mark.parametrize("task", SINGLE)
def test_a_file_of_tensors(task: str, tmp_path: Path) -> None:
    file_name, shapes, attributes = SINGLE[task]
    chosen = get_simulation(f"pdebench/{task}")
    layout = chosen.layout
    assert chosen.file == file_name
    assert isinstance(layout, TensorLayout)
    with h5py.File(tmp_path / "x.h5", "w") as file:
        layout.create(file, 2)
        ones = {name: np.ones((1, *shape), np.float32) for name, shape in layout.datasets.items()}
        layout.write(file, 1, ones)
        assert _shapes(file) == shapes
        assert dict(file.attrs) == attributes
        for name in layout.datasets:
            assert file[name][0].max() == 0
            assert file[name][1].min() == 1
        assert layout.num_bytes(2) == sum(4 * np.prod(shapes[name]) for name in layout.datasets)
        if task in ENDS:
            assert file["t-coordinate"][-2] == pytest.approx(ENDS[task])


@pytest.mark.parametrize("task", GROUPS)
def test_a_file_of_groups(task: str, tmp_path: Path) -> None:
    file_name, shapes, compression = GROUPS[task]
    chosen = get_simulation(f"pdebench/{task}")
    layout = chosen.layout
    assert chosen.file == file_name
    assert isinstance(layout, GroupLayout)
    with h5py.File(tmp_path / "x.h5", "w") as file:
        layout.create(file, 4)
        layout.write(file, 2, {"data": np.zeros((2, *shapes["data"]), np.float32)})
        assert sorted(file) == ["0002", "0003"]
        assert _shapes(file["0003"]) == shapes
        assert file["0003/data"].compression == compression
        assert "seed: 3" in file["0003"].attrs["config"].splitlines()[-1]
        assert file["0003/grid/t"][-1] == pytest.approx(ENDS[task])


def _shrink(monkeypatch: pytest.MonkeyPatch, module: ModuleType, num_cells: int, end: float, num_frames: int) -> None:
    for name, value in (("NUM_CELLS", num_cells), ("END", end), ("NUM_FRAMES", num_frames)):
        monkeypatch.setattr(module, name, value)


@pytest.mark.parametrize("task", ["advection", "burgers", "diffusion_reaction_1d", "darcy"])
def test_solved_samples_fit_the_file(task: str) -> None:
    chosen = get_simulation(f"pdebench/{task}")
    assert isinstance(chosen.layout, TensorLayout)
    fields = solved(task)
    assert {name: values.shape for name, values in fields.items()} == {
        name: (4, *shape) for name, shape in chosen.layout.datasets.items()
    }
    for values in fields.values():
        assert values.dtype == np.float32
        assert np.isfinite(values).all()
        assert not np.array_equal(values[0], values[1])


def test_smaller_gases_fit_theirs(monkeypatch: pytest.MonkeyPatch) -> None:
    _shrink(monkeypatch, cfd_1d, 32, 0.02, 3)
    _shrink(monkeypatch, cfd_2d, 16, 0.02, 3)
    for module, shape in ((cfd_1d, (2, 3, 32)), (cfd_2d, (2, 3, 16, 16))):
        fields = module.SIMULATION.solve(generators(0, 0, 2))
        assert isinstance(module.SIMULATION.layout, TensorLayout)
        assert set(fields) == set(module.SIMULATION.layout.datasets)
        assert {values.shape for values in fields.values()} == {shape}
        assert fields["density"].min() > 0
        assert fields["pressure"].min() > 0


def test_smaller_groups_fit_theirs(monkeypatch: pytest.MonkeyPatch) -> None:
    _shrink(monkeypatch, diffusion_reaction_2d, 16, 0.1, 3)
    values = diffusion_reaction_2d.SIMULATION.solve(generators(0, 0, 2))["data"]
    assert values.shape == (2, 3, 16, 16, 2)
    assert values.dtype == np.float32


@pytest.mark.parametrize("task", ["burgers", "diffusion_reaction_1d", "diffusion_sorption"])
def test_a_sample_is_the_same_whatever_is_solved_beside_it(task: str) -> None:
    together, alone = solved(task), solved(task, 2, 3)
    for name, values in alone.items():
        np.testing.assert_allclose(together[name][2], values[0], atol=2e-6)


def test_a_gas_is_the_same_whatever_is_solved_beside_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every sample has its own time step."""
    _shrink(monkeypatch, cfd_1d, 64, 0.05, 2)
    together, alone = (cfd_1d.SIMULATION.solve(generators(4, start, 3)) for start in (0, 2))
    for name, values in alone.items():
        np.testing.assert_array_equal(together[name][2], values[0])
