"""Files of named arrays (NumPy, HDF5, MATLAB, PyTorch).

Options or usual names say which arrays are the inputs and the targets. Rows of large
arrays are read when they are selected.
"""

import math
import pickletools
import re
import zipfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np

from orca_ray.data import cache
from orca_ray.data.archives import archive_errors, check_growth
from orca_ray.data.hdf5_process import Hdf5Process, is_hdf5
from orca_ray.data.matlab import mat5_variables, read_mat
from orca_ray.data.npy import Npz, read_npy
from orca_ray.data.rows import Array, LazyRows, RowIndex, joined_rows
from orca_ray.errors import UserError, printable, quoted, shorten, unknown_name
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
_SPLIT_NAMES = "|".join(_SPLITS)
_PART = re.compile(
    rf"(?:(?P<before>{_SPLIT_NAMES})_)?(?P<name>.*?)(?:_(?P<after>{_SPLIT_NAMES}))?\Z",
    re.I | re.S,
)
"""Matches names of arrays, which may contain a split, as x_train and test_labels do."""
_NUMBERS = "biuf"
"""Kinds of NumPy's types that inputs may have."""
_TARGETS = "biufUS"
"""Kinds of NumPy's types that targets may have."""
_SAMPLE_BYTES = 256.0
"""Memory that a sample takes beside its values: hash, label, place in the splits."""

Shapes = Mapping[str, tuple[int, ...]]
Read = Callable[[str], Inputs]


def _read_npy(path: Path, options: Options, labelled: bool) -> UserData:
    """Return the samples of a .npy file.

    If ``labelled``, the targets are in another file beside it (see `_target_file`).
    """
    files = {"inputs": path}
    if labelled:
        _check_npy_options(path, options)
        files["target"] = _target_file(path, options)
    arrays = {name: read_npy(file) for name, file in files.items()}
    keys = Options(inputs=("inputs",), target=("target",))
    return _select_samples(
        str(path), _shapes(arrays), arrays.__getitem__, keys, labelled
    )


def _check_npy_options(path: Path, options: Options) -> None:
    """Raise UserError for options that name other arrays than the targets.

    A .npy file holds one array, so that such options would have no effect.
    """
    given = _given_options(options, ("inputs", "group", "time", "split"))
    if given:
        raise UserError(
            f"{path}: holds one array, and {given} cannot be read with it: put all"
            " arrays by name into one .npz file, as in np.savez('data.npz', x=x, y=y,"
            " group=group)"
        )


def _given_options(options: Options, names: Iterable[str]) -> str:
    """Return those of the options ``names`` that are set, as on the command line."""
    return ", ".join(f"--{name}" for name in names if getattr(options, name))


def _shapes(arrays: Mapping[str, Array]) -> Shapes:
    return {name: array.shape for name, array in arrays.items()}


def _target_file(path: Path, options: Options) -> Path:
    """Return the file beside ``path`` that holds the targets.

    ``options`` name it, or it has a usual name of targets.
    """
    if len(options.target) > 1:
        names = ", ".join(map(printable, options.target))
        raise UserError(
            f"{path}: the targets are one file, got {names}: give one name to --target"
        )
    if options.target:
        file = path.parent / options.target[0]
        if not file.is_file():
            raise UserError(f"{path}: the target's file {file} does not exist")
        if file.samefile(path):
            raise UserError(
                f"{path}: is given as inputs and as target: name the file of the"
                " targets with --target"
            )
        return file
    for name in TARGET_NAMES:
        file = path.with_name(f"{_target_stem(path.stem, name)}.npy")
        if file.is_file() and not file.samefile(path):
            return file
    raise UserError(
        f"{path}: no targets: put them in y.npy beside it, or name their file with"
        " --target"
    )


def _target_stem(stem: str, name: str) -> str:
    """Return the stem of the targets' file: x → y, x_train → y_train, data → labels."""
    parts = [name if part.lower() == "x" else part for part in stem.split("_")]
    return "_".join(parts) if name in parts else name


def _read_npz(path: Path, options: Options, labelled: bool) -> UserData:
    arrays = Npz(path)
    return _select_samples(
        str(path), arrays.shapes(), arrays.__getitem__, options, labelled
    )


def _read_hdf5(path: Path, options: Options, labelled: bool) -> UserData:
    """Return the samples of an HDF5 file, whose rows are read when they are selected.

    ``labelled``: whether targets are read.
    """
    file = Hdf5Process(path)
    arrays = {name: stored for name, stored in file.arrays().items() if stored.shape}
    shapes = {name: stored.shape or () for name, stored in arrays.items()}

    def open_rows(name: str) -> Any:
        if arrays[name].is_text:
            return file.read_texts(name)
        dtype = arrays[name].dtype
        read = partial(_read_rows, file.open_rows(name), shapes[name], dtype)
        return LazyRows(shapes[name], dtype, read)

    return _select_samples(str(path), shapes, open_rows, options, labelled)


def _read_rows(
    read: Callable[[Any], Array],
    shape: tuple[int, ...],
    dtype: np.dtype[Any],
    part: RowIndex,
) -> Array:
    """Return rows of an array in an HDF5 file.

    ``read`` is a function that reads the rows of a selection.
    """
    # h5py requires ascending indices, each once
    rows, place = np.unique(np.arange(shape[0])[part], return_inverse=True)
    if not len(rows):
        return np.empty((0, *shape[1:]), dtype)
    # A range of rows is read faster as a slice.
    is_range = len(rows) == rows[-1] - rows[0] + 1
    array = read(slice(rows[0], rows[-1] + 1) if is_range else rows)
    is_ordered = np.array_equal(place, np.arange(len(rows)))
    return array if is_ordered else array[place]


def _read_mat(path: Path, options: Options, labelled: bool) -> UserData:
    """Return the samples of a MATLAB file; ``labelled``: whether targets are read."""
    file = Hdf5Process(path) if is_hdf5(path) else None
    stored_shapes = _mat_shapes(path) if file is None else _mat73_shapes(file)
    shapes = {name: _vector_shape(shape) for name, shape in stored_shapes.items()}

    def read(name: str) -> Array:
        array = read_mat(path, name, file)
        cache.check_memory(
            8.0 * math.prod(array.shape),  # bytes, as float64
            f"{path}, {name}",
            "store it as .npy or .h5",
        )
        return array[slice(None)].reshape(shapes[name])

    return _select_samples(str(path), shapes, read, options, labelled)


def _mat_shapes(path: Path) -> Shapes:
    """Return the shapes of the numeric variables of a MATLAB 5 to 7 file."""
    variables = mat5_variables(path)
    return {
        name: variable.shape
        for name, variable in variables.items()
        if variable.is_numeric
    }


def _mat73_shapes(file: Hdf5Process) -> Shapes:
    """Return the shapes of the numeric variables of a MATLAB file of version 7.3."""
    # MATLAB reverses the axes in HDF5. A name with "/" is a part of a structure.
    return {
        name: stored.shape[::-1]
        for name, stored in file.arrays().items()
        if "/" not in name
        and stored.dtype.kind in _NUMBERS
        and stored.shape is not None
    }


def _vector_shape(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return the shape without axes of length 1 that MATLAB adds to vectors.

    [1, N] and [N, 1] are N values.
    """
    is_vector = len(shape) == 2 and min(shape) == 1
    return (max(shape),) if is_vector else shape


def _read_pt(path: Path, options: Options, labelled: bool) -> UserData:
    """Return the samples of tensors saved by PyTorch.

    ``labelled``: whether targets are read. Raises UserError for a file of other
    content, and for tensors that have no NumPy array.
    """
    import torch

    _check_calls(path)
    try:
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:  # a dozen types, none documented, for a damaged file
        reason = shorten(str(error).split("\n")[0])
        raise UserError(
            f"{path}: expected tensors saved by torch.save, found something else:"
            f" {reason}"
        ) from error
    # A pair (x, y) is named like a dict of tensors.
    if isinstance(content, tuple | list) and len(content) == 2:
        content = dict(zip("xy", content, strict=True))
    if isinstance(content, torch.Tensor):
        content = {"x": content}
    if not isinstance(content, dict):
        raise UserError(
            f"{path}: expected a dict of tensors or a pair (x, y), found a"
            f" {type(content).__name__}"
        )
    arrays = {
        str(name): _tensor_array(path, name, value)
        for name, value in content.items()
        if torch.is_tensor(value)
    }
    return _select_samples(
        str(path), _shapes(arrays), arrays.__getitem__, options, labelled
    )


def _tensor_array(path: Path, name: object, tensor: Any) -> Array:
    """Return a dense tensor as an array; raise UserError for other kinds of tensors."""
    import torch

    unusual = _unusual_kind(tensor)
    if unusual:
        raise UserError(
            f"{path}, {name}: expected a dense tensor, found {unusual}; call to_dense()"
            " before saving"
        )
    # A tensor made by expand() has many values, but little storage.
    num_bytes = tensor.numel() * tensor.element_size()
    check_growth(path, num_bytes, tensor.untyped_storage().nbytes(), f", {name}")
    dense = tensor.detach().resolve_conj().resolve_neg()
    if dense.dtype == torch.bfloat16:
        cache.check_memory(
            4.0 * dense.numel(), f"{path}, {name}", "save it as float16 or float32"
        )
        dense = dense.float()
    try:
        return cast(Array, dense.numpy())
    except (TypeError, RuntimeError) as error:
        raise UserError(
            f"{path}, {name}: expected numbers that NumPy has, found {dense.dtype}"
        ) from error


def _unusual_kind(tensor: Any) -> str:
    """Return the kind of a tensor that is not dense, in words; "" if it is dense."""
    import torch

    if tensor.is_nested:
        return "a nested one"
    if tensor.is_meta:
        return str(tensor.device)
    if tensor.layout is not torch.strided or tensor.is_quantized:
        return str(tensor.layout)
    return ""


_GROWING_CALLS = re.compile("bytearray|_rebuild_device_tensor")
"""Matches calls that allocate as much memory as their arguments say."""


def _check_calls(path: Path) -> None:
    """Raise UserError for a pickle with calls that allocate memory without stored data.

    PyTorch allows such calls.
    """
    with (
        cache.open_file(path) as file,
        archive_errors(path, "file of tensors saved by torch.save"),
        zipfile.ZipFile(file) as archive,
    ):
        for member in archive.namelist():
            if not member.endswith("data.pkl"):
                continue
            check_growth(path, archive.getinfo(member).file_size, path.stat().st_size)
            for operation, called, _ in pickletools.genops(archive.read(member)):
                if "GLOBAL" in operation.name and _GROWING_CALLS.search(str(called)):
                    raise UserError(
                        f"{path}: expected tensors, found {shorten(called)}"
                    )


def _select_samples(
    source: str, shapes: Shapes, read: Read, options: Options, labelled: bool
) -> UserData:
    """Return the samples of a file with named arrays.

    ``read`` returns the array of a name. Without options, inputs and targets are found
    by their usual names (`INPUT_NAMES`, `TARGET_NAMES`), or the inputs are the only
    array besides the targets. Arrays named x_train, x_test and so on become samples
    with declared splits. Unless ``labelled``, the inputs alone are read; there may be
    no other array.
    """
    parts = _names_by_split(shapes, labelled)
    if parts:
        return _join_splits(source, shapes, parts, read, options, labelled)
    roles = _find_roles(source, shapes, options, labelled)
    if roles.inputs is None:
        raise UserError(
            f"{source}: which array are the inputs? It has {_list_arrays(shapes)}; name"
            " one with --inputs"
        )
    if not labelled:
        x = _check_inputs(source, roles.inputs, read(roles.inputs))
        return UserData(x=x, source=source)
    if roles.target is None:
        raise UserError(
            f"{source}: which array is the target? It has {_list_arrays(shapes)}; name"
            " one with --target"
        )

    def read_flat(name: str | None) -> Array | None:
        return None if name is None else _read_vector(source, name, read(name))

    notes: tuple[str, ...] = ()
    if roles.unused:
        notes = (f"not used: {', '.join(map(printable, roles.unused))}",)
    return UserData(
        groups=read_flat(roles.group),
        times=read_flat(roles.time),
        splits=read_flat(roles.split),
        x=_check_inputs(source, roles.inputs, read(roles.inputs)),
        y=_read_target(source, roles.target, read(roles.target)),
        source=source,
        target_names=(roles.target,),
        notes=notes,
    )


@dataclass(frozen=True)
class _Roles:
    """Names of the arrays of a file, by what they are for; None: no array."""

    inputs: str | None
    target: str | None
    group: str | None
    time: str | None
    split: str | None
    unused: Sequence[str]
    """All other arrays, which are left out."""


def _find_roles(
    source: str, shapes: Shapes, options: Options, labelled: bool
) -> _Roles:
    """Return what the arrays are for, by options and usual names.

    Unless ``labelled``, only the inputs must be there.
    """

    def find(what: str, names: Sequence[str], usual: Sequence[str] = ()) -> str | None:
        return _find_array(
            source, shapes, _usable_names(names, shapes, labelled), usual, what
        )

    inputs = _find_array(source, shapes, options.inputs, INPUT_NAMES, "inputs")
    target = find("target", options.target, TARGET_NAMES)
    group = find("group", (options.group,))
    time = find("time", (options.time,))
    split = find("split", (options.split,))
    used = (inputs, target, group, time, split)
    unused = [name for name, shape in shapes.items() if shape and name not in used]
    if inputs is None:
        inputs = _only_input(unused, shapes, target)
        unused = [name for name in unused if name != inputs]
    roles = _Roles(inputs, target, group, time, split, unused)
    if labelled:
        _check_roles(source, roles)
    return roles


def _check_roles(source: str, roles: _Roles) -> None:
    """Raise UserError if the inputs or the target have another role, too.

    One array may be group, time and split: these only divide the samples.
    """
    for role, others in (
        ("inputs", ("target", "group", "time", "split")),
        ("target", ("group", "time", "split")),
    ):
        name = getattr(roles, role)
        for other in others:
            if name is not None and getattr(roles, other) == name:
                raise UserError(
                    f"{source}: array {quoted(name)} is given as {role} and as"
                    f" {other}: name another array with --{role} or --{other}"
                )


def _usable_names(names: Sequence[str], shapes: Shapes, labelled: bool) -> list[str]:
    """Return the names that options give, without empty ones.

    Unless ``labelled``, names that the file lacks are left out.
    """
    return [name for name in names if name and (labelled or name in shapes)]


def _only_input(
    candidates: list[str], shapes: Shapes, y_name: str | None
) -> str | None:
    """Return the only candidate for the inputs; None if there are several or none.

    Of several arrays, those with as many samples as the target ``y_name`` count.
    """
    if len(candidates) > 1 and y_name is not None:
        num_samples = shapes[y_name][:1]
        candidates = [name for name in candidates if shapes[name][:1] == num_samples]
    return candidates[0] if len(candidates) == 1 else None


def _check_inputs(source: str, name: str, x: Inputs) -> Inputs:
    """Check the inputs ``x``, and return them.

    Raises UserError if they are not numbers, have no samples, or need too much memory.
    """
    kind = getattr(x, "dtype", np.dtype("f4")).kind
    shape = getattr(x, "shape", (1,))
    if kind not in _NUMBERS or not shape:
        raise UserError(
            f"{source}, {printable(name)}: expected inputs [N, ...] of real numbers,"
            f" found {kind!r} {shape}"
        )
    if not len(x) or 0 in shape:
        problem = f"found shape {list(shape)}" if len(x) else "found none"
        raise UserError(f"{source}, {printable(name)}: expected samples, {problem}")
    cache.check_memory(
        _SAMPLE_BYTES * len(x),
        f"{source}, {printable(name)}: its {len(x)} samples",
        "give fewer",
    )
    return x


def _read_target(source: str, name: str, y: Inputs) -> Array:
    """Return the targets as an array, in memory unless memory-mapped.

    Bytes become text, and a single column [N, 1] becomes [N].
    """
    shape = getattr(y, "shape", (1,))
    dtype = getattr(y, "dtype", np.dtype("f8"))
    cache.check_memory(
        float(max(8, dtype.itemsize)) * math.prod(shape),
        f"{source}, {name}",
        "give a smaller target",
    )
    if dtype.kind not in _TARGETS or not shape or 0 in shape:
        raise UserError(
            f"{source}, {printable(name)}: expected targets as numbers or text, found"
            f" {dtype} of shape {list(shape)}"
        )
    array = y if isinstance(y, np.ndarray) else np.asarray(cast(Array, y)[:])
    if array.dtype.kind == "S":
        array = np.char.decode(array, "utf-8", "replace")
    is_column = array.ndim == 2 and array.shape[1] == 1
    return array[:, 0] if is_column else array


def _read_vector(source: str, name: str, values: Inputs) -> Array:
    """Return an array with one value for each sample [N].

    Raises UserError for another shape.
    """
    array = _read_target(source, name, values)
    if array.ndim != 1:
        raise UserError(
            f"{source}, {printable(name)}: expected one value a sample, found shape"
            f" {list(array.shape)}"
        )
    return array


def _find_array(
    source: str, shapes: Shapes, names: Sequence[str], usual: Sequence[str], what: str
) -> str | None:
    """Return the one array in ``names``, or without names the first ``usual`` one.

    ``usual`` are lower-case names, the most usual first. None if there is no such
    array. Raises UserError for several ``names``, and for a name that the file lacks.
    ``what``: the use of the array, for the message.
    """
    if len(names) > 1:
        raise UserError(
            f"{source}: expected one array for {what}, got {', '.join(names)}"
        )
    if names:
        if names[0] not in shapes:
            raise UserError(
                f"{source}: {unknown_name(f'{what} array', names[0], shapes)}"
            )
        return names[0]
    for usual_name in usual:
        for name in shapes:
            if name.lower() == usual_name:
                return name
    return None


def _list_arrays(shapes: Shapes) -> str:
    """Return the first 20 arrays with their shapes, for messages."""
    first = list(shapes.items())[:20]
    return ", ".join(f"{printable(name)} {list(shape)}" for name, shape in first) or (
        "none"
    )


def _names_by_split(shapes: Shapes, labelled: bool) -> dict[str, dict[str, str]]:
    """Return the names of inputs ("x") and targets ("y") by split.

    The arrays are named x_train, y_train and so on. The result is empty if train, test
    or an array of a split is missing.
    """
    parts: dict[str, dict[str, str]] = {}
    for name in shapes:
        match = _PART.match(name)
        assert match is not None
        split = _SPLITS.get((match["before"] or match["after"] or "").lower())
        base = match["name"].lower()
        if split and base in INPUT_NAMES:
            parts.setdefault(split, {})["x"] = name
        elif split and base in TARGET_NAMES:
            parts.setdefault(split, {})["y"] = name
    needed = {"x", "y"} if labelled else {"x"}
    # Each split needs all its arrays; otherwise, the names do not mean splits.
    has_all = all(needed <= names.keys() for names in parts.values())
    return parts if has_all and {"train", "test"} <= parts.keys() else {}


def _join_splits(
    source: str,
    shapes: Shapes,
    parts: Mapping[str, Mapping[str, str]],
    read: Read,
    options: Options,
    labelled: bool,
) -> UserData:
    """Return the samples of arrays by split, with these splits as declared ones.

    ``parts`` are the names of the arrays (see `_names_by_split`).
    """
    roles = ("target", "inputs", "group", "time", "split")
    given = _given_options(options, roles if labelled else ("inputs",))
    if given:
        raise UserError(
            f"{source}: has arrays by split ({_list_arrays(shapes)}); leave out {given}"
        )
    xs = [
        _check_inputs(source, names["x"], read(names["x"])) for names in parts.values()
    ]
    ys = []
    if labelled:
        ys = [
            _read_target(source, names["y"], read(names["y"]))
            for names in parts.values()
        ]
        _check_lengths(source, parts, xs, ys)
    _check_equal_shapes(source, shapes, list(parts), xs)
    x = cast(Array, xs[0])
    for other in xs[1:]:
        x = _with_rows(x, cast(Array, other))
    if not labelled:
        return UserData(x=x, source=source)
    _check_equal_shapes(source, shapes, list(parts), ys)
    return UserData(
        x=x,
        y=np.concatenate(ys),
        source=source,
        splits=np.repeat(list(parts), [len(y) for y in ys]),
        target_names=(parts["train"]["y"],),
    )


def _check_lengths(
    source: str,
    parts: Mapping[str, Mapping[str, str]],
    xs: Sequence[Inputs],
    ys: Sequence[Array],
) -> None:
    """Raise UserError if inputs and targets of a split have different lengths."""
    for names, x, y in zip(parts.values(), xs, ys, strict=True):
        if len(x) != len(y):
            raise UserError(
                f"{source}: {names['x']} has {len(x)} samples and {names['y']} {len(y)}"
            )


def _check_equal_shapes(
    source: str, shapes: Shapes, splits: list[str], arrays: Sequence[Any]
) -> None:
    """Raise UserError if the samples of two splits have different shapes."""
    for split, array in zip(splits, arrays, strict=True):
        if array.shape[1:] != arrays[0].shape[1:]:
            raise UserError(
                f"{source}: the arrays of {splits[0]} and {split} have different"
                f" shapes: {_list_arrays(shapes)}"
            )


def _with_rows(first: Array, second: Array) -> Array:
    """Return the rows of both arrays, in the type of the first."""
    if second.dtype != first.dtype:
        second = second.astype(first.dtype)
    return cast(Array, joined_rows(first, second))


FORMATS = (
    Format("NumPy pair x.npy and y.npy", (".npy",), _read_npy),
    Format("NumPy archive", (".npz",), _read_npz),
    Format("HDF5 file", (".h5", ".hdf5", ".hdf"), _read_hdf5),
    Format("MATLAB file", (".mat",), _read_mat),
    Format("PyTorch tensors", (".pt", ".pth"), _read_pt),
)
