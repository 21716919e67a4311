"""Files of named arrays (NumPy, HDF5, MATLAB, PyTorch), and the choice of inputs and
targets among the arrays.

Large arrays are read as rows are selected.
"""

import math
import pickletools
import re
import zipfile
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, cast

import h5py
import numpy as np

from orca_ray.data import cache
from orca_ray.data.archives import archive_errors, check_growth
from orca_ray.data.hdf5 import (
    check_chunks,
    datasets,
    mat5_variables,
    open_hdf5,
    read_mat,
    read_texts,
)
from orca_ray.data.npy import Npz, read_npy
from orca_ray.data.rows import Array, LazyRows, RowIndex, joined_rows
from orca_ray.errors import UserError, printable, shorten, unknown_name
from orca_ray.own_data import TARGET_NAMES, Format, Inputs, Options, UserData

INPUT_NAMES = (
    "x",
    "inputs",
    "input",
    "data",
    "features",
    "images",
    "series",
    "signals",
)
_SPLITS = {
    "train": "train",
    "val": "validation",
    "valid": "validation",
    "validation": "validation",
    "test": "test",
}
_PART = re.compile(
    rf"(?:(?P<before>{'|'.join(_SPLITS)})_)?(?P<name>.*?)(?:_(?P<after>{'|'.join(_SPLITS)}))?\Z",
    re.I | re.S,
)
_NUMBERS = "biuf"
_TARGETS = "biufUS"
_SAMPLE_BYTES = 256.0
"""Memory that a sample takes beside its values: its hash, label, place in the splits.
"""

Shapes = Mapping[str, tuple[int, ...]]
Read = Callable[[str], Inputs]


def _read_npy(path: Path, options: Options, labelled: bool) -> UserData:
    files = (
        {path.stem: path, "target": _target_file(path, options)}
        if labelled
        else {path.stem: path}
    )
    arrays = {name: read_npy(file) for name, file in files.items()}
    shapes = {name: array.shape for name, array in arrays.items()}
    keys = Options(inputs=(path.stem,), target=("target",))
    return _choose(str(path), shapes, arrays.__getitem__, keys, labelled)


def _target_file(path: Path, options: Options) -> Path:
    """Return the file beside ``path`` that ``options`` name, or that has a usual name
    of targets.
    """
    if options.target:
        file = path.parent / options.target[0] if len(options.target) == 1 else path
        if not file.is_file():
            raise UserError(f"{path}: the target's file {file} does not exist")
        return file
    for beside in (
        path.with_name(f"{_renamed(path.stem, name)}.npy") for name in TARGET_NAMES
    ):
        if beside.is_file() and beside != path:
            return beside
    raise UserError(
        f"{path}: no targets: put them in y.npy beside it, or name their file with"
        " --target"
    )


def _renamed(stem: str, name: str) -> str:
    """Return the stem of the targets' file: x → y, x_train → y_train, data → labels."""
    parts = [name if part.lower() == "x" else part for part in stem.split("_")]
    return "_".join(parts) if name in parts else name


def _read_npz(path: Path, options: Options, labelled: bool) -> UserData:
    arrays = Npz(path)
    return _choose(str(path), arrays.shapes(), arrays.__getitem__, options, labelled)


def _read_hdf5(path: Path, options: Options, labelled: bool) -> UserData:
    shapes: dict[str, tuple[int, ...]] = {}
    types: dict[str, np.dtype[Any]] = {}

    with open_hdf5(path, ()) as file:
        for name, found in datasets(path, file):
            if found.shape:
                shapes[name], types[name] = tuple(found.shape), found.dtype

    def read(name: str, part: RowIndex) -> Array:
        rows, place = np.unique(np.arange(shapes[name][0])[part], return_inverse=True)
        if not len(rows):
            return np.empty((0, *shapes[name][1:]), types[name])
        dense = (
            len(rows) == rows[-1] - rows[0] + 1
        )  # h5py requires ascending indices, each once
        with open_hdf5(path, (name,)) as file:
            return np.asarray(
                file[name][slice(rows[0], rows[-1] + 1) if dense else rows]
            )[place]

    def rows(name: str) -> Any:
        if h5py.check_string_dtype(types[name]) is not None:
            return read_texts(path, name)
        if not types[name].hasobject:  # neither inputs nor targets
            with open_hdf5(path, (name,)) as file:
                check_chunks(path, name, file[name])
        return LazyRows(shapes[name], types[name], partial(read, name))

    return _choose(str(path), shapes, rows, options, labelled)


def _read_mat(path: Path, options: Options, labelled: bool) -> UserData:
    cache.check_special(path)
    if h5py.is_hdf5(path):
        with open_hdf5(path, ()) as file:
            items = {
                name: item for name, item in datasets(path, file) if "/" not in name
            }
            given = {
                name: tuple(item.shape[::-1])
                for name, item in items.items()
                if item.dtype.kind in "biuf"
            }
    else:
        given = {
            name: found.shape
            for name, found in mat5_variables(path).items()
            if found.is_numeric
        }
    shapes = {name: _column(shape) for name, shape in given.items()}

    def read(name: str) -> Array:
        array = read_mat(path, name)
        cache.check_memory(
            8.0 * math.prod(array.shape), f"{path}, {name}", "store it as .npy or .h5"
        )
        return array[slice(None)].reshape(shapes[name])

    return _choose(str(path), shapes, read, options, labelled)


def _column(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return the shape without axes of length 1 that MATLAB adds to vectors: [1, N] and
    [N, 1] are N values.
    """
    return (max(shape),) if len(shape) == 2 and min(shape) == 1 else shape


def _read_pt(path: Path, options: Options, labelled: bool) -> UserData:
    import torch

    _check_calls(path)
    try:
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except (
        Exception
    ) as error:  # PyTorch raises a dozen types, none documented, for a damaged file
        reason = shorten(str(error).split("\n")[0])
        raise UserError(
            f"{path}: expected tensors saved by torch.save, found something else:"
            f" {reason}"
        ) from error
    if isinstance(content, tuple | list) and len(content) == 2:
        content = dict(zip("xy", content, strict=True))
    if isinstance(content, torch.Tensor):
        content = {"x": content}
    if not isinstance(content, dict):
        raise UserError(
            f"{path}: expected a dict of tensors or a pair (x, y), found a"
            f" {type(content).__name__}"
        )
    arrays: dict[str, Array] = {}
    for name, value in content.items():
        if not torch.is_tensor(value):
            continue
        if (
            value.is_nested
            or value.is_meta
            or value.layout is not torch.strided
            or value.is_quantized
        ):
            found = (
                "found"
                f" {'a nested one' if value.is_nested else value.device if value.is_meta else value.layout}"
            )
            raise UserError(
                f"{path}, {name}: expected a dense tensor, {found}; call to_dense()"
                " before saving"
            )
        num_bytes = value.numel() * value.element_size()
        check_growth(
            path, num_bytes, value.untyped_storage().nbytes(), f", {name}"
        )  # expand() takes no storage
        plain = value.detach().resolve_conj().resolve_neg()
        if plain.dtype == torch.bfloat16:
            cache.check_memory(
                4.0 * plain.numel(), f"{path}, {name}", "save it as float16 or float32"
            )
            plain = plain.float()
        try:
            arrays[str(name)] = plain.numpy()
        except (TypeError, RuntimeError) as error:
            raise UserError(
                f"{path}, {name}: expected numbers that NumPy has, found {plain.dtype}"
            ) from error
    shapes = {name: array.shape for name, array in arrays.items()}
    return _choose(str(path), shapes, arrays.__getitem__, options, labelled)


def _check_calls(path: Path) -> None:
    """Raise UserError for a pickle that calls what PyTorch allows, but takes memory
    without storing anything.
    """
    expected = "file of tensors saved by torch.save"
    with (
        cache.open_file(path) as file,
        archive_errors(path, expected),
        zipfile.ZipFile(file) as archive,
    ):
        for member in (
            name for name in archive.namelist() if name.endswith("data.pkl")
        ):
            check_growth(path, archive.getinfo(member).file_size, path.stat().st_size)
            for operation, found, _ in pickletools.genops(archive.read(member)):
                if "GLOBAL" in operation.name and re.search(
                    "bytearray|_rebuild_device_tensor", str(found)
                ):
                    raise UserError(f"{path}: expected tensors, found {shorten(found)}")


def _choose(
    source: str, shapes: Shapes, read: Read, options: Options, labelled: bool
) -> UserData:
    """Return the samples of a file with named arrays; ``read`` returns the array of a
    name.

    Without options, inputs and targets are found by their usual names (`INPUT_NAMES`,
    `TARGET_NAMES`), or the inputs are the only array besides the targets. Arrays named
    x_train, x_test and so on become samples with declared splits. Unless ``labelled``,
    the inputs alone are read; there may be no other array.
    """
    parts = _parts(shapes, labelled)
    if parts:
        return _joined(source, shapes, parts, read, options, labelled)
    x_name = _key(source, shapes, options.inputs, INPUT_NAMES, "inputs")
    named = {
        "target": options.target,
        "group": (options.group,),
        "time": (options.time,),
        "split": (options.split,),
    }
    given = {
        what: [name for name in names if name and (labelled or name in shapes)]
        for what, names in named.items()
    }
    y_name = _key(source, shapes, given.pop("target"), TARGET_NAMES, "target")
    extra = [_key(source, shapes, names, (), what) for what, names in given.items()]
    left = [
        name for name in shapes if shapes[name] and name not in (x_name, y_name, *extra)
    ]
    if x_name is None and len(left) > 1:
        num = shapes[y_name][:1] if y_name else None
        left = [name for name in left if num in (None, shapes[name][:1])]
    if x_name is None and len(left) == 1:
        x_name = left.pop()
    if x_name is None:
        raise UserError(
            f"{source}: which array are the inputs? It has {_listed(shapes)}; name one"
            " with --inputs"
        )
    if not labelled:
        return UserData(x=_numeric(source, x_name, read(x_name)), source=source)
    if y_name is None:
        raise UserError(
            f"{source}: which array is the target? It has {_listed(shapes)}; name one"
            " with --target"
        )
    groups, times, splits = (
        None if name is None else _flat(source, name, read(name)) for name in extra
    )
    return UserData(
        x=_numeric(source, x_name, read(x_name)),
        y=_target(source, y_name, read(y_name)),
        source=source,
        target_names=(y_name,),
        groups=groups,
        times=times,
        splits=splits,
        notes=(f"not used: {', '.join(map(printable, left))}",) if left else (),
    )


def _numeric(source: str, name: str, x: Inputs) -> Inputs:
    """Return the inputs ``x``; raises UserError if they are no numbers, or a single
    number.
    """
    kind = getattr(x, "dtype", np.dtype("f4")).kind
    shape = getattr(x, "shape", (1,))
    if kind not in _NUMBERS or not shape:
        raise UserError(
            f"{source}, {printable(name)}: expected inputs [N, ...] of real numbers,"
            f" found {kind!r} {shape}"
        )
    if not len(x) or 0 in shape:
        found = f"found shape {list(shape)}" if len(x) else "found none"
        raise UserError(f"{source}, {printable(name)}: expected samples, {found}")
    cache.check_memory(
        _SAMPLE_BYTES * len(x),
        f"{source}, {printable(name)}: its {len(x)} samples",
        "give fewer",
    )
    return x


def _target(source: str, name: str, y: Inputs) -> Array:
    """Return the targets as an array, in memory unless memory-mapped; bytes become
    text.
    """
    shape = getattr(y, "shape", (1,))
    dtype = getattr(y, "dtype", np.dtype("f8"))
    cache.check_memory(
        float(max(8, dtype.itemsize)) * math.prod(shape),
        f"{source}, {name}",
        "give a smaller target",
    )
    if dtype.kind not in _TARGETS or not shape or 0 in shape:
        what = f"{dtype} of shape {list(shape)}"
        raise UserError(
            f"{source}, {printable(name)}: expected targets as numbers or text, found"
            f" {what}"
        )
    array = y if isinstance(y, np.ndarray) else np.asarray(cast(Array, y)[:])
    array = (
        np.char.decode(array, "utf-8", "replace") if array.dtype.kind == "S" else array
    )
    return array[:, 0] if array.ndim == 2 and array.shape[1] == 1 else array


def _flat(source: str, name: str, values: Inputs) -> Array:
    array = _target(source, name, values)
    if array.ndim != 1:
        raise UserError(
            f"{source}, {printable(name)}: expected one value a sample, found shape"
            f" {list(array.shape)}"
        )
    return array


def _key(
    source: str, shapes: Shapes, given: Sequence[str], usual: Sequence[str], what: str
) -> str | None:
    if len(given) > 1:
        raise UserError(
            f"{source}: expected one array for {what}, got {', '.join(given)}"
        )
    if given:
        if given[0] not in shapes:
            raise UserError(
                f"{source}: {unknown_name(f'{what} array', given[0], shapes)}"
            )
        return given[0]
    return next(
        (name for want in usual for name in shapes if name.lower() == want), None
    )


def _listed(shapes: Shapes) -> str:
    return (
        ", ".join(
            f"{printable(name)} {list(shape)}"
            for name, shape in list(shapes.items())[:20]
        )
        or "none"
    )


def _parts(shapes: Shapes, labelled: bool) -> dict[str, dict[str, str]]:
    """Return the names of inputs ("x") and targets ("y") by split, if arrays are named
    x_train, y_train and so on.
    """
    needed = {"x", "y"} if labelled else {"x"}
    found: dict[str, dict[str, str]] = {}
    for name in shapes:
        match = _PART.match(name)
        assert match is not None
        part = _SPLITS.get((match["before"] or match["after"] or "").lower())
        base = match["name"].lower()
        axis = "x" if base in INPUT_NAMES else "y" if base in TARGET_NAMES else ""
        if part and axis:
            found.setdefault(part, {})[axis] = name
    return (
        found
        if {"train", "test"} <= found.keys()
        and all(needed <= each.keys() for each in found.values())
        else {}
    )


def _joined(
    source: str,
    shapes: Shapes,
    parts: Mapping[str, Mapping[str, str]],
    read: Read,
    options: Options,
    labelled: bool,
) -> UserData:
    if options.inputs or (options.target and labelled):
        raise UserError(
            f"{source}: has arrays by split ({_listed(shapes)}); leave out --target and"
            " --inputs"
        )
    names = list(parts)
    xs = [
        cast(Array, _numeric(source, parts[part]["x"], read(parts[part]["x"])))
        for part in names
    ]
    ys = (
        [_target(source, parts[part]["y"], read(parts[part]["y"])) for part in names]
        if labelled
        else xs
    )
    for part, x, y in zip(names, xs, ys, strict=True):
        if len(x) != len(y):
            raise UserError(
                f"{source}: {parts[part]['x']} has {len(x)} samples and"
                f" {parts[part]['y']} {len(y)}"
            )
        if x.shape[1:] != xs[0].shape[1:] or y.shape[1:] != ys[0].shape[1:]:
            raise UserError(
                f"{source}: the arrays of {names[0]} and {part} have different shapes:"
                f" {_listed(shapes)}"
            )
    x = xs[0]
    for each in xs[1:]:
        x = cast(
            Array,
            joined_rows(x, each.astype(x.dtype) if each.dtype != x.dtype else each),
        )
    if not labelled:
        return UserData(x=x, source=source)
    splits = np.repeat(names, [len(each) for each in ys])
    return UserData(
        x=x,
        y=np.concatenate(ys),
        source=source,
        splits=splits,
        target_names=(parts["train"]["y"],),
    )


FORMATS = (
    Format("NumPy pair x.npy and y.npy", (".npy",), _read_npy),
    Format("NumPy archive", (".npz",), _read_npz),
    Format("HDF5 file", (".h5", ".hdf5", ".hdf"), _read_hdf5),
    Format("MATLAB file", (".mat",), _read_mat),
    Format("PyTorch tensors", (".pt", ".pth"), _read_pt),
)
