"""Small files in the layouts of PDEBench.

They have random fields, a few dozen samples, and the true grids. Single-file sets are
stored contiguously and seed-group sets by chunks with lzf compression, as PDEBench's
scripts write them. Where all frames of the true number would be large, only those that
a reader should want are written, and their neighbours; the others are left at the fill
value, which a reader that takes a wrong frame shows.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from orca_ray.data.rows import Array
from orca_ray.testing.tasks import Corruption, Writer
from tests.raw_files import broken

MARK = "orca_ray_generated"


@dataclass(frozen=True)
class Stacked:
    """One data set [N, T, *grid] a field, as `Data_Merge.py` of PDEBench writes it."""

    file: str
    fields: tuple[str, ...]
    num_frames: int
    grid: tuple[int, ...]
    num_samples: int

    def write(self, raw: Path, *, num_samples: int | None = None) -> None:
        fields = partial(field, num_samples or self.num_samples, self.grid)
        with h5py.File(raw / self.file, "w") as file:
            for number, name in enumerate(self.fields):
                frames = [fields(frame, number) for frame in range(self.num_frames)]
                file.create_dataset(name, data=np.stack(frames, axis=1))
            file["t-coordinate"] = np.linspace(
                0, 2, self.num_frames + 1, dtype=np.float32
            )
            file["x-coordinate"] = np.linspace(0, 1, self.grid[0], dtype=np.float32)
            file.attrs["Nu"] = 0.5


@dataclass(frozen=True)
class Seeds:
    """Write one group a seed with ``data`` [T, *grid, C] and ``grid``.

    `gen_diff_sorp.py` of PDEBench writes such files.
    """

    file: str
    channels: int
    num_frames: int
    grid: tuple[int, ...]
    num_samples: int
    written: tuple[int, ...] = ()
    """Frames that are written; (): all."""

    def write(self, raw: Path, *, num_samples: int | None = None) -> None:
        fields = partial(field, num_samples or self.num_samples, self.grid)
        frames = self.written or range(self.num_frames)
        channels = range(self.channels)
        values = np.stack(
            [
                np.stack([fields(f, number) for number in channels], axis=-1)
                for f in frames
            ],
            axis=1,
        )
        with h5py.File(raw / self.file, "w") as file:
            for sample, frames_of_sample in enumerate(values):
                shape = (self.num_frames, *self.grid, self.channels)
                chunks = (1, *shape[1:]) if self.written else True
                data = file.create_dataset(
                    f"{sample:04d}/data", shape, "f4", chunks=chunks, compression="lzf"
                )
                for value, frame in zip(frames_of_sample, frames, strict=True):
                    data[frame] = value
                file[f"{sample:04d}/grid/x"] = np.linspace(
                    0, 1, self.grid[0], dtype=np.float32
                )
                file[f"{sample:04d}/grid/t"] = np.linspace(
                    0, 1, self.num_frames, dtype=np.float32
                )
                file[f"{sample:04d}"].attrs["config"] = f"sim:\n  seed: {sample}\n"


@dataclass(frozen=True)
class Steady:
    """``nu`` [N, *grid] and ``tensor`` [N, 1, *grid]: Darcy flow."""

    file: str
    grid: tuple[int, ...]
    num_samples: int

    def write(self, raw: Path, *, num_samples: int | None = None) -> None:
        fields = partial(field, num_samples or self.num_samples, self.grid)
        with h5py.File(raw / self.file, "w") as file:
            file["nu"] = np.where(fields(0, 0) > 1.5, np.float32(1.0), np.float32(0.1))
            file["tensor"] = fields(1, 1)[:, None]
            file["x-coordinate"] = np.linspace(0, 1, self.grid[0], dtype=np.float32)
            file.attrs["beta"] = 0.1


def field(num_samples: int, grid: tuple[int, ...], frame: int, number: int) -> Array:
    """Return field ``number`` at a frame, float32 [N, *grid].

    Its values are random, from 1 to 2.
    """
    drawn = np.random.RandomState(100 * number + frame).random_sample(
        (num_samples, *grid)
    )
    return (1 + drawn).astype(np.float32)


Layout = Stacked | Seeds | Steady

_CFD_2D = "2D_CFD_Rand_M1.0_Eta0.1_Zeta0.1_periodic_128_Train.hdf5"
LAYOUTS: dict[str, Layout] = {
    "advection": Stacked(
        "1D_Advection_Sols_beta0.4.hdf5", ("tensor",), 21, (1024,), 40
    ),
    "burgers": Stacked("1D_Burgers_Sols_Nu1.0.hdf5", ("tensor",), 21, (1024,), 40),
    "cfd_1d": Stacked(
        "1D_CFD_Rand_Eta0.1_Zeta0.1_periodic_Train.hdf5",
        ("density", "pressure", "Vx"),
        11,
        (1024,),
        40,
    ),
    "diffusion_sorption": Seeds("1D_diff-sorp_NA_NA.h5", 1, 101, (1024,), 16),
    "diffusion_reaction_1d": Stacked(
        "ReacDiff_Nu0.5_Rho1.0.hdf5", ("tensor",), 101, (1024,), 16
    ),
    "shallow_water": Seeds(
        "2D_rdb_NA_NA.h5", 1, 101, (128, 128), 16, written=(0, 99, 100)
    ),
    "diffusion_reaction_2d": Seeds(
        "2D_diff-react_NA_NA.h5", 2, 101, (128, 128), 16, written=(0, 99, 100)
    ),
    "darcy": Steady("2D_DarcyFlow_beta0.1_Train.hdf5", (128, 128), 16),
    "cfd_2d": Stacked(_CFD_2D, ("density", "pressure", "Vx", "Vy"), 3, (128, 128), 16),
}
ORIGINALS: dict[str, Layout] = {
    f"{task}_original": replace(layout, file=f"original/{layout.file}")
    for task, layout in LAYOUTS.items()
    if task in ("advection", "burgers")
}
"""Layouts of the uploads that were corrected later; no such file is generated."""


def write(
    raw: Path, *, task: str, generated: bool = False, num_samples: int | None = None
) -> None:
    """Write the file of a task (its short name) below ``raw``.

    It is as downloaded or as generated.
    """
    layout = (LAYOUTS | ORIGINALS)[task]
    (raw / layout.file).parent.mkdir(exist_ok=True)
    layout.write(raw, num_samples=num_samples)
    if generated:
        with h5py.File(raw / layout.file, "r+") as file:
            file.attrs[MARK] = json.dumps({"samples": layout.num_samples, "seed": 0})


def _edited(edit: Callable[[h5py.File], object]) -> Writer:
    def corrupt(path: Path) -> None:
        with h5py.File(path, "r+") as file:
            edit(file)

    return corrupt


def _without(name: str) -> Writer:
    return _edited(lambda file: file.pop(name))


def _changed(name: str, change: Callable[[Array], Any]) -> Writer:
    """Return a corruption that replaces a data set.

    ``change`` maps its array to another one, or to none.
    """
    return _edited(lambda file: _put(file, name, change(file[name][...])))


def _put(file: h5py.File, name: str, values: Any) -> None:
    del file[name]
    file[name] = values


def _spoilt(name: str, where: tuple[Any, ...], value: float) -> Writer:
    return _edited(lambda file: file[name].__setitem__(where, value))


def _marked(value: str) -> Writer:
    return _edited(lambda file: file.attrs.__setitem__(MARK, value))


def _overwrite_chunk(path: Path, name: str) -> None:
    """Put bytes where a chunk is that lzf cannot unpack.

    They refer to what is before it. Unpacked, they are NaN.
    """
    with h5py.File(path, "r") as file:
        chunk = file[name].id.get_chunk_info(0)
    with path.open("r+b") as stream:
        stream.seek(chunk.byte_offset)
        stream.write(b"\xff" * chunk.size)


def _boundless(file: h5py.File, fields: tuple[str, ...]) -> None:
    """Name a thousand million samples, hardly any of which is stored.

    Their indices alone would fill the memory.
    """
    for name in fields:
        shape = (10**9, *file[name].shape[1:])
        kind = file[name].dtype
        del file[name]
        file.create_dataset(name, shape, kind, chunks=(1, *shape[1:]))


def _corruptions(layout: Layout) -> list[Corruption]:
    """Return what can be wrong with a downloaded file of this layout."""
    general: list[Corruption] = [
        (
            "five samples",
            lambda path: layout.write(path.parent, num_samples=5),
            "at least 10 simulations.*found 5",
        ),
        ("generated", _marked("{}"), "use the task pdebench_generated/"),
    ]
    by_layout = {
        Stacked: _corruptions_of_stacked,
        Seeds: _corruptions_of_seeds,
        Steady: _corruptions_of_steady,
    }
    return [
        *broken(layout.file, 1),
        *_of_file(layout.file, general + by_layout[type(layout)](layout)),
    ]


def _corruptions_of_generated(layout: Layout) -> list[Corruption]:
    """Return what else can be wrong with a generated one, whose reader is the same."""
    marks: list[Corruption] = [
        ("missing", Path.unlink, "orca-sweep data generate"),
        (
            "downloaded",
            _edited(lambda file: file.attrs.pop(MARK)),
            f"{MARK}.*found none.*pdebench/",
        ),
        ("settings that are no JSON", _marked("{samples: 3"), f"{MARK}.*JSON object"),
        ("settings that are a list", _marked("[3]"), f"{MARK}.*JSON object"),
    ]
    return _of_file(layout.file, marks)


def _of_file(file: str, corruptions: list[Corruption]) -> list[Corruption]:
    """Return corruptions of a raw directory with the file ``file``.

    ``corruptions`` take the path of the file.
    """
    return [
        (label, lambda raw, corrupt=corrupt: corrupt(raw / file), pattern)  # type: ignore[misc]
        for label, corrupt, pattern in corruptions
    ]


def _corruptions_of_stacked(layout: Any) -> list[Corruption]:
    last = layout.fields[-1]
    boundless = _edited(partial(_boundless, fields=layout.fields))

    def one_frame(file: h5py.File) -> None:
        for name in layout.fields:
            _put(file, name, file[name][:, :1])

    return [
        ("a field missing", _without(last), last),
        ("another grid", _changed(last, lambda values: values[..., :-4]), last),
        ("one axis less", _changed(last, lambda values: values[:, 0]), last),
        (
            "no data",
            _changed(last, lambda _: h5py.Empty("f4")),
            f"expected a data set '{last}', found none",
        ),
        (
            "a number of samples that cannot be",
            boundless,
            "bytes are declared, 0 are stored",
        ),
        ("one frame", _edited(one_frame), "at least 2 frames.*found 1"),
        (
            "integers",
            _changed(last, lambda values: values.astype(np.int32)),
            f"{last}.*int32",
        ),
        ("NaN in an input", _spoilt(last, (3, 0, ..., 8), np.nan), last),
        ("infinite target", _spoilt(last, (0, slice(1, None), ..., 8), np.inf), last),
    ]


def _corruptions_of_seeds(_: Any) -> list[Corruption]:
    data = "0007/data"
    return [
        ("a seed without data", _without(data), data),
        ("another grid", _changed(data, lambda values: values[:, :-4]), data),
        ("fewer frames in one", _changed(data, lambda values: values[:-1]), data),
        (
            "one channel more",
            _changed("0000/data", lambda x: np.concatenate([x, x[..., :1]], axis=-1)),
            "0000/data",
        ),
        ("integers", _changed(data, lambda values: values.astype(np.int32)), "int32"),
        ("NaN in an input", _spoilt("0003/data", (0, ..., 8, 0), np.nan), "0003/data"),
        (
            "infinite target",
            _spoilt("0015/data", (100, ..., 8, -1), np.inf),
            "0015/data",
        ),
        (
            "overwritten",
            partial(_overwrite_chunk, name="0004/data"),
            "0004/data.*(damaged block|finite)",
        ),
    ]


def _corruptions_of_steady(_: Any) -> list[Corruption]:
    return [
        ("no coefficient", _without("nu"), "nu"),
        ("no solution", _without("tensor"), "tensor"),
        ("another grid", _changed("nu", lambda values: values[:, :-4]), "nu"),
        (
            "lengths that differ",
            _changed("tensor", lambda values: values[:-1]),
            "tensor",
        ),
        ("NaN in an input", _spoilt("nu", (3, 8, 8), np.nan), "nu"),
        ("infinite target", _spoilt("tensor", (0, 0, 8, 8), np.inf), "tensor"),
    ]


WRITERS: dict[str, Writer] = {
    f"{benchmark}/{task}": partial(write, task=task, generated=generated)
    for benchmark, generated in (("pdebench", False), ("pdebench_generated", True))
    for task in (LAYOUTS if generated else LAYOUTS | ORIGINALS)
}
CORRUPTIONS: dict[str, list[Corruption]] = {
    **{
        f"pdebench/{task}": _corruptions(layout)
        for task, layout in (LAYOUTS | ORIGINALS).items()
    },
    **{
        f"pdebench_generated/{task}": _corruptions_of_generated(layout)
        for task, layout in LAYOUTS.items()
    },
}
