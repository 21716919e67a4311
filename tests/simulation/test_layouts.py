"""The files of all tasks: names, axes, types and coordinates as PDEBench has them."""

from pathlib import Path
from types import ModuleType
from typing import Any

import h5py
import numpy as np
import pytest

from orca_ray.simulation import cfd_1d, cfd_2d, diffusion_reaction_2d
from orca_ray.simulation.simulation import GroupLayout, TensorLayout, generators, get_simulation, simulations
from tests.raw_files.pdebench import LAYOUTS

from .solved import solved

TENSORS: dict[str, tuple[dict[str, tuple[int, ...]], dict[str, float], float | None]] = {
    # shape of a sample of each field; attributes; time of the last frame
    "advection": ({"tensor": (201, 1024)}, {"beta": 0.4}, 2.0),
    "burgers": ({"tensor": (201, 1024)}, {"Nu": 1.0}, 2.0),
    "diffusion_reaction_1d": ({"tensor": (101, 1024)}, {"Nu": 0.5, "rho": 1.0}, 1.0),
    "cfd_1d": (dict.fromkeys(("density", "pressure", "Vx"), (101, 1024)), {"eta": 0.1, "zeta": 0.1}, 1.0),
    "cfd_2d": (
        dict.fromkeys(("density", "pressure", "Vx", "Vy"), (21, 128, 128)),
        {"eta": 0.1, "zeta": 0.1, "M": 1.0},
        1.0,
    ),
    "darcy": ({"nu": (128, 128), "tensor": (1, 128, 128)}, {"beta": 0.1}, None),
}
GROUPS: dict[str, tuple[tuple[int, ...], str | None, float]] = {
    # shape of a sample; compression; time of the last frame
    "diffusion_sorption": ((101, 1024, 1), "lzf", 500.0),
    "diffusion_reaction_2d": ((101, 128, 128, 2), "lzf", 5.0),
    "shallow_water": ((101, 128, 128, 1), None, 1.0),
}


def _shapes(found: h5py.File | h5py.Group) -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {}

    def note(name: str, item: Any) -> None:
        if isinstance(item, h5py.Dataset):
            assert item.dtype == np.float32, name
            shapes[name] = item.shape

    found.visititems(note)
    return shapes


@pytest.mark.parametrize("task", TENSORS)
def test_a_file_of_tensors(task: str, tmp_path: Path) -> None:
    fields, attributes, end = TENSORS[task]
    chosen = get_simulation(f"pdebench/{task}")
    layout = chosen.layout
    assert (chosen.name, chosen.file) == (f"pdebench/{task}", LAYOUTS[task].file)
    assert isinstance(layout, TensorLayout)
    frames, *grid = fields["tensor" if "tensor" in fields else "density"]
    shapes: dict[str, tuple[int, ...]] = {f"{axis}-coordinate": (size,) for axis, size in zip("xy", grid, strict=False)}
    if end is not None:
        shapes["t-coordinate"] = (frames + 1,)
    shapes |= {name: (2, *shape) for name, shape in fields.items()}
    with h5py.File(tmp_path / "x.h5", "w") as file:
        layout.create(file, 2)
        layout.write(file, 1, {name: np.ones((1, *shape), np.float32) for name, shape in fields.items()})
        assert _shapes(file) == shapes
        assert dict(file.attrs) == attributes
        for name in fields:
            assert file[name][0].max() == 0
            assert file[name][1].min() == 1
        assert layout.num_bytes(2) == sum(4 * np.prod(shapes[name]) for name in fields)
        if end is not None:
            assert file["t-coordinate"][-2] == pytest.approx(end)


@pytest.mark.parametrize("task", GROUPS)
def test_a_file_of_groups(task: str, tmp_path: Path) -> None:
    shape, compression, end = GROUPS[task]
    chosen = get_simulation(f"pdebench/{task}")
    layout = chosen.layout
    assert (chosen.name, chosen.file) == (f"pdebench/{task}", LAYOUTS[task].file)
    assert isinstance(layout, GroupLayout)
    with h5py.File(tmp_path / "x.h5", "w") as file:
        layout.create(file, 4)
        layout.write(file, 2, {"data": np.zeros((2, *shape), np.float32)})
        assert sorted(file) == ["0002", "0003"]
        axes = zip("txy", shape[:-1], strict=False)
        assert _shapes(file["0003"]) == {"data": shape, **{f"grid/{axis}": (size,) for axis, size in axes}}
        assert file["0003/data"].compression == compression
        assert "seed: 3" in file["0003"].attrs["config"].splitlines()[-1]
        assert file["0003/grid/t"][-1] == pytest.approx(end)
    assert {f"pdebench/{name}" for name in (*TENSORS, *GROUPS)} == set(simulations())


def _shrink(monkeypatch: pytest.MonkeyPatch, module: ModuleType, num_cells: int, end: float, num_frames: int) -> None:
    for name, value in (("NUM_CELLS", num_cells), ("END", end), ("NUM_FRAMES", num_frames)):
        monkeypatch.setattr(module, name, value)


def test_solved_samples_fit_the_file(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of advection and Darcy flow whole ones."""
    for task in ("advection", "darcy"):
        layout, fields = get_simulation(f"pdebench/{task}").layout, solved(task)
        assert isinstance(layout, TensorLayout)
        assert {name: values.shape[1:] for name, values in fields.items()} == layout.datasets
        assert all(values.dtype == np.float32 and np.ptp(values, axis=0).any() for values in fields.values())
    for module, shape in ((cfd_1d, (2, 3, 32)), (cfd_2d, (2, 3, 16, 16)), (diffusion_reaction_2d, (2, 3, 16, 16, 2))):
        _shrink(monkeypatch, module, shape[2], 0.1 if module is diffusion_reaction_2d else 0.02, 3)
        layout, fields = module.SIMULATION.layout, module.SIMULATION.solve(generators(0, 0, 2))
        assert set(fields) == (set(layout.datasets) if isinstance(layout, TensorLayout) else {"data"})
        assert {(values.shape, values.dtype.name) for values in fields.values()} == {(shape, "float32")}
        assert all(fields[name].min() > 0 for name in ("density", "pressure") if name in fields)


def test_a_sample_is_the_same_whatever_is_solved_beside_it() -> None:
    together, alone = solved("diffusion_reaction_1d"), solved("diffusion_reaction_1d", 2, 3)
    for name, values in alone.items():
        np.testing.assert_allclose(together[name][2], values[0], atol=2e-6)


def test_a_gas_is_the_same_whatever_is_solved_beside_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every sample has its own time step."""
    _shrink(monkeypatch, cfd_1d, 64, 0.05, 2)
    together, alone = (cfd_1d.SIMULATION.solve(generators(4, start, 3)) for start in (0, 2))
    for name, values in alone.items():
        np.testing.assert_array_equal(together[name][2], values[0])
