"""Small files in the layouts of PDEBench: travelling waves, a few dozen samples, the true grids.

Single-file sets are stored contiguously and seed-group sets by chunks with lzf compression, as PDEBench's scripts write
them. Where all frames of the true number would be large, only those that a reader should want are written, and their
neighbours; the others are left at the fill value, which a reader that takes a wrong frame shows.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt

from orca_ray.testing.damages import Damage, Writer

Array = npt.NDArray[Any]

MARK = "orca_ray_generated"


@dataclass(frozen=True)
class Stacked:
    """One data set [N, T, *grid] a field, as `Data_Merge.py` of PDEBench writes it."""

    file: str
    fields: tuple[str, ...]
    num_frames: int
    grid: tuple[int, ...]
    num_samples: int

    def write(self, raw: Path, *, seed: int = 0, num_samples: int | None = None) -> None:
        waves = Waves(num_samples or self.num_samples, self.grid, seed)
        with h5py.File(raw / self.file, "w") as file:
            for number, field in enumerate(self.fields):
                frames = [waves.at(frame, number) for frame in range(self.num_frames)]
                file.create_dataset(field, data=np.stack(frames, axis=1))
            file["t-coordinate"] = np.linspace(0, 2, self.num_frames + 1, dtype=np.float32)
            file["x-coordinate"] = np.linspace(0, 1, self.grid[0], dtype=np.float32)
            file.attrs["Nu"] = 0.5


@dataclass(frozen=True)
class Seeds:
    """One group a seed with ``data`` [T, *grid, C] and ``grid``, as `gen_diff_sorp.py` of PDEBench writes it."""

    file: str
    channels: int
    num_frames: int
    grid: tuple[int, ...]
    num_samples: int
    written: tuple[int, ...] = ()
    """Frames that are written; (): all."""

    def write(self, raw: Path, *, seed: int = 0, num_samples: int | None = None) -> None:
        waves = Waves(num_samples or self.num_samples, self.grid, seed)
        frames = self.written or range(self.num_frames)
        channels = range(self.channels)
        fields = np.stack([np.stack([waves.at(f, number) for number in channels], axis=-1) for f in frames], axis=1)
        with h5py.File(raw / self.file, "w") as file:
            for sample, values in enumerate(fields):
                shape = (self.num_frames, *self.grid, self.channels)
                chunks = (1, *shape[1:]) if self.written else True
                data = file.create_dataset(f"{sample:04d}/data", shape, "f4", chunks=chunks, compression="lzf")
                for value, frame in zip(values, frames, strict=True):
                    data[frame] = value
                file[f"{sample:04d}/grid/x"] = np.linspace(0, 1, self.grid[0], dtype=np.float32)
                file[f"{sample:04d}/grid/t"] = np.linspace(0, 1, self.num_frames, dtype=np.float32)
                file[f"{sample:04d}"].attrs["config"] = f"sim:\n  seed: {sample}\n"


@dataclass(frozen=True)
class Steady:
    """``nu`` [N, *grid] and ``tensor`` [N, 1, *grid]: Darcy flow."""

    file: str
    grid: tuple[int, ...]
    num_samples: int

    def write(self, raw: Path, *, seed: int = 0, num_samples: int | None = None) -> None:
        waves = Waves(num_samples or self.num_samples, self.grid, seed)
        with h5py.File(raw / self.file, "w") as file:
            file["nu"] = np.where(waves.at(0, 0) > 1, np.float32(1.0), np.float32(0.1))
            file["tensor"] = waves.at(1, 1)[:, None]
            file["x-coordinate"] = np.linspace(0, 1, self.grid[0], dtype=np.float32)
            file.attrs["beta"] = 0.1


class Waves:
    """Samples of a positive field: 1 plus two waves along each axis that travel with time."""

    def __init__(self, num_samples: int, grid: tuple[int, ...], seed: int) -> None:
        random = np.random.RandomState(seed)
        axes = np.meshgrid(*(np.arange(points) / points for points in grid), indexing="ij")
        # One column of axes a sample would be [N, *grid]: phases are added sample by sample instead.
        self._axes = [2 * np.pi * axis.astype(np.float32) for axis in axes]
        self._phases = random.uniform(0, 2 * np.pi, (num_samples, len(grid), 2)).astype(np.float32)
        self._heights = random.uniform(0.05, 0.2, (num_samples, len(grid), 2)).astype(np.float32)
        self._shape = (num_samples, *grid)

    def at(self, frame: int, number: int) -> Array:
        """Return field ``number`` at a frame, float32 [N, *grid]."""
        field = np.ones(self._shape, np.float32)
        lead = (slice(None), *(None,) * (len(self._shape) - 1))
        for axis, positions in enumerate(self._axes):
            for mode in range(2):
                # sin(a + b) by parts: one sine a point, not one a point and sample
                shift = self._phases[:, axis, mode] + np.float32(0.1 * frame + number)
                wave = (mode + 1) * positions
                height = self._heights[:, axis, mode]
                field += (height * np.cos(shift))[lead] * np.sin(wave) + (height * np.sin(shift))[lead] * np.cos(wave)
        return field


LAYOUTS: dict[str, Stacked | Seeds | Steady] = {
    "advection": Stacked("1D_Advection_Sols_beta0.4.hdf5", ("tensor",), 21, (1024,), 40),
    "burgers": Stacked("1D_Burgers_Sols_Nu1.0.hdf5", ("tensor",), 21, (1024,), 40),
    "cfd_1d": Stacked("1D_CFD_Rand_Eta0.1_Zeta0.1_periodic_Train.hdf5", ("density", "pressure", "Vx"), 11, (1024,), 40),
    "diffusion_sorption": Seeds("1D_diff-sorp_NA_NA.h5", 1, 101, (1024,), 16),
    "diffusion_reaction_1d": Stacked("ReacDiff_Nu0.5_Rho1.0.hdf5", ("tensor",), 101, (1024,), 16),
    "shallow_water": Seeds("2D_rdb_NA_NA.h5", 1, 101, (128, 128), 16, written=(0, 99, 100)),
    "diffusion_reaction_2d": Seeds("2D_diff-react_NA_NA.h5", 2, 101, (128, 128), 16, written=(0, 99, 100)),
    "darcy": Steady("2D_DarcyFlow_beta0.1_Train.hdf5", (128, 128), 16),
    "cfd_2d": Stacked(
        "2D_CFD_Rand_M1.0_Eta0.1_Zeta0.1_periodic_128_Train.hdf5",
        ("density", "pressure", "Vx", "Vy"),
        3,
        (128, 128),
        16,
    ),
}


def write(raw: Path, *, task: str, generated: bool = False, seed: int = 0, num_samples: int | None = None) -> None:
    """Write the file of a task (its short name) below ``raw``, as downloaded or as generated."""
    layout = LAYOUTS[task]
    layout.write(raw, seed=seed, num_samples=num_samples)
    if generated:
        with h5py.File(raw / layout.file, "r+") as file:
            file.attrs[MARK] = json.dumps({"samples": layout.num_samples, "seed": seed})


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 6 // 10])


def _garble(path: Path) -> None:
    path.write_bytes(np.random.RandomState(0).bytes(4096))


def _flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[4] ^= 0xFF  # in the signature
    path.write_bytes(content)


def _replace(path: Path, name: str, change: Callable[[Array], Array]) -> None:
    with h5py.File(path, "r+") as file:
        values = change(file[name][...])
        del file[name]
        file[name] = values


def _delete(path: Path, name: str) -> None:
    with h5py.File(path, "r+") as file:
        del file[name]


def _few(path: Path, layout: Stacked | Seeds | Steady) -> None:
    with h5py.File(path, "r+") as file:
        if isinstance(layout, Seeds):
            for name in sorted(file)[5:]:
                del file[name]
            return
        for name in layout.fields if isinstance(layout, Stacked) else ("nu", "tensor"):
            values = file[name][:5]
            del file[name]
            file[name] = values


def _spoil(path: Path, name: str, where: tuple[Any, ...], value: float) -> None:
    with h5py.File(path, "r+") as file:
        file[name][where] = value


def _overwrite_chunk(path: Path, name: str) -> None:
    """Put bytes where a chunk is that lzf cannot unpack: they refer to what is before it. Unpacked, they are NaN."""
    with h5py.File(path, "r") as file:
        chunk = file[name].id.get_chunk_info(0)
    with path.open("r+b") as stream:
        stream.seek(chunk.byte_offset)
        stream.write(b"\xff" * chunk.size)


def _mark(path: Path, value: str) -> None:
    with h5py.File(path, "r+") as file:
        file.attrs[MARK] = value


def _unmark(path: Path) -> None:
    with h5py.File(path, "r+") as file:
        del file.attrs[MARK]


def _damages(layout: Stacked | Seeds | Steady) -> list[Damage]:
    """Return what can be wrong with a downloaded file of this layout."""
    general: list[Damage] = [
        ("missing", Path.unlink, "not in"),
        ("truncated", _cut, layout.file),
        ("garbage", _garble, layout.file),
        ("a flipped byte", _flip, layout.file),
        ("five samples", partial(_few, layout=layout), "at least 10 simulations.*found 5"),
        ("generated", partial(_mark, value="{}"), "use the task pdebench_generated/"),
    ]
    of_layout = {Stacked: _damages_of_stacked, Seeds: _damages_of_seeds, Steady: _damages_of_steady}[type(layout)]
    return _of_file(layout.file, general + of_layout(layout))


def _damages_of_generated(layout: Stacked | Seeds | Steady) -> list[Damage]:
    """Return what else can be wrong with a generated one, whose reader is the same."""
    marks: list[Damage] = [
        ("missing", Path.unlink, "orca-sweep data generate"),
        ("downloaded", _unmark, f"{MARK}.*found none.*pdebench/"),
        ("settings that are no JSON", partial(_mark, value="{samples: 3"), f"{MARK}.*JSON object"),
        ("settings that are a list", partial(_mark, value="[3]"), f"{MARK}.*JSON object"),
    ]
    return _of_file(layout.file, marks)


def _of_file(file: str, damages: list[Damage]) -> list[Damage]:
    return [(label, partial(_below, file, damage), pattern) for label, damage, pattern in damages]


def _below(file: str, damage: Callable[[Path], None], raw: Path) -> None:
    damage(raw / file)


def _damages_of_stacked(layout: Any) -> list[Damage]:
    last = layout.fields[-1]
    return [
        ("a field missing", partial(_delete, name=last), last),
        ("another grid", partial(_replace, name=last, change=lambda values: values[..., :-4]), last),
        ("one axis less", partial(_replace, name=last, change=lambda values: values[:, 0]), last),
        ("a data set without data", partial(_emptied, name=last), f"expected a data set '{last}', found none"),
        (
            "a number of samples that cannot be",
            partial(_boundless, layout=layout),
            "bytes are declared, 0 are stored",
        ),
        ("one frame", partial(_one_frame, layout=layout), "at least 2 frames.*found 1"),
        ("integers", partial(_replace, name=last, change=lambda values: values.astype(np.int32)), f"{last}.*int32"),
        ("NaN in an input", partial(_spoil, name=last, where=(3, 0, ..., 8), value=np.nan), last),
        ("infinite target", partial(_spoil, name=last, where=(0, slice(1, None), ..., 8), value=np.inf), last),
    ]


def _emptied(path: Path, name: str) -> None:
    with h5py.File(path, "r+") as file:
        del file[name]
        file[name] = h5py.Empty("f4")


def _boundless(path: Path, layout: Stacked) -> None:
    """Name a thousand million samples, hardly any of which is stored: their indices alone would fill the memory."""
    with h5py.File(path, "r+") as file:
        for name in layout.fields:
            shape, kind = (10**9, *file[name].shape[1:]), file[name].dtype
            del file[name]
            file.create_dataset(name, shape, kind, chunks=(1, *shape[1:]))


def _one_frame(path: Path, layout: Stacked) -> None:
    for name in layout.fields:
        _replace(path, name, lambda values: values[:, :1])


def _damages_of_seeds(layout: Any) -> list[Damage]:
    return [
        ("a seed without data", partial(_delete, name="0007/data"), "0007/data"),
        ("another grid", partial(_replace, name="0007/data", change=lambda values: values[:, :-4]), "0007/data"),
        ("fewer frames in one", partial(_replace, name="0007/data", change=lambda values: values[:-1]), "0007/data"),
        ("one channel more", partial(_replace, name="0000/data", change=_with_another_channel), "0000/data"),
        ("integers", partial(_replace, name="0007/data", change=lambda values: values.astype(np.int32)), "int32"),
        ("NaN in an input", partial(_spoil, name="0003/data", where=(0, ..., 8, 0), value=np.nan), "0003/data"),
        ("infinite target", partial(_spoil, name="0015/data", where=(100, ..., 8, -1), value=np.inf), "0015/data"),
        ("a chunk overwritten", partial(_overwrite_chunk, name="0004/data"), "0004/data.*(damaged block|finite)"),
    ]


def _with_another_channel(values: Array) -> Array:
    return np.concatenate([values, values[..., :1]], axis=-1)


def _damages_of_steady(_: Any) -> list[Damage]:
    return [
        ("no coefficient", partial(_delete, name="nu"), "nu"),
        ("no solution", partial(_delete, name="tensor"), "tensor"),
        ("another grid", partial(_replace, name="nu", change=lambda values: values[:, :-4]), "nu"),
        ("lengths that differ", partial(_replace, name="tensor", change=lambda values: values[:-1]), "tensor"),
        ("NaN in an input", partial(_spoil, name="nu", where=(3, 8, 8), value=np.nan), "nu"),
        ("infinite target", partial(_spoil, name="tensor", where=(0, 0, 8, 8), value=np.inf), "tensor"),
    ]


TWINS: dict[str, Writer] = {
    f"{benchmark}/{task}": partial(write, task=task, generated=generated)
    for benchmark, generated in (("pdebench", False), ("pdebench_generated", True))
    for task in LAYOUTS
}
BAD: dict[str, list[Damage]] = {
    **{f"pdebench/{task}": _damages(layout) for task, layout in LAYOUTS.items()},
    **{f"pdebench_generated/{task}": _damages_of_generated(layout) for task, layout in LAYOUTS.items()},
}
