"""Files of named arrays: NumPy, HDF5, MATLAB, PyTorch and Zarr. Large ones are read as rows are selected."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from orca_ray.data import cache
from orca_ray.data.hdf5 import mat5_variables, open_hdf5, read_mat
from orca_ray.data.npy import Npz, read_npy
from orca_ray.data.rows import Array, RowIndex
from orca_ray.errors import UserError, shorten
from orca_ray.own_data.named_arrays import TARGET_NAMES, choose
from orca_ray.own_data.user_data import Format, Options, UserData


def _read_npy(path: Path, options: Options, labelled: bool) -> UserData:
    files = {path.stem: path}
    if options.target:
        (given,) = options.target if len(options.target) == 1 else ("",)
        files["target"] = path.parent / given if given else path
    else:
        beside = [path.with_name(f"{_renamed(path.stem, name)}.npy") for name in TARGET_NAMES]
        found = [each for each in beside if each.is_file() and each != path]
        if found:
            files["target"] = found[0]
    if labelled and "target" not in files:
        raise UserError(f"{path}: no targets: put them in y.npy beside it, or name their file with --target")
    if "target" in files and not files["target"].is_file():
        if labelled:
            raise UserError(f"{path}: the target's file {files['target']} does not exist")
        del files["target"]
    arrays = {name: read_npy(file) for name, file in files.items()}
    shapes = {name: array.shape for name, array in arrays.items()}
    keys = Options(inputs=(path.stem,), target=("target",) if "target" in files else ())
    return choose(str(path), shapes, arrays.__getitem__, keys, labelled)


def _renamed(stem: str, name: str) -> str:
    """Return the stem of the targets' file: x → y, x_train → y_train, data → labels."""
    parts = stem.split("_")
    return (
        "_".join([name if part.lower() == "x" else part for part in parts]) if "x" in stem.lower().split("_") else name
    )


def _read_npz(path: Path, options: Options, labelled: bool) -> UserData:
    arrays = Npz(path)
    return choose(str(path), {name: arrays.shape(name) for name in arrays}, arrays.__getitem__, options, labelled)


@dataclass(frozen=True)
class Hdf5Rows:
    """The rows of one data set, read from the file when they are selected."""

    path: Path
    key: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, part: RowIndex) -> Array:
        """Return the selected rows; h5py requires ascending indices, each once."""
        rows, place = np.unique(np.arange(len(self))[part], return_inverse=True)
        if not len(rows):
            return np.empty((0, *self.shape[1:]), self.dtype)
        dense = len(rows) == rows[-1] - rows[0] + 1
        with open_hdf5(self.path) as file:
            return np.asarray(file[self.key][slice(rows[0], rows[-1] + 1) if dense else rows])[place]


def _read_hdf5(path: Path, options: Options, labelled: bool) -> UserData:
    import h5py

    shapes: dict[str, tuple[int, ...]] = {}
    types: dict[str, np.dtype[Any]] = {}

    def visit(name: str, found: Any) -> None:
        if isinstance(found, h5py.Dataset) and found.shape:
            shapes[name], types[name] = tuple(found.shape), found.dtype

    with open_hdf5(path) as file:
        file.visititems(visit)

    def rows(name: str) -> Any:
        if h5py.check_string_dtype(types[name]) is None:
            return Hdf5Rows(path, name, shapes[name], types[name])
        with open_hdf5(path) as file:
            return np.asarray(file[name].asstr()[:], dtype="U")

    return choose(str(path), shapes, rows, options, labelled)


def _read_mat(path: Path, options: Options, labelled: bool) -> UserData:
    shapes = {name: _column(shape) for name, shape in _shapes(path).items()}

    def read(name: str) -> Array:
        array = read_mat(path, name)
        cache.check_memory(float(np.prod(array.shape)) * 8, f"{path}, {name}", "store it as .npy or .h5")
        return array[slice(None)].reshape(shapes[name])

    return choose(str(path), shapes, read, options, labelled)


def _shapes(path: Path) -> dict[str, tuple[int, ...]]:
    import h5py

    cache.check_special(path)
    if not h5py.is_hdf5(path):
        return {name: found.shape for name, found in mat5_variables(path).items() if found.is_numeric}
    with open_hdf5(path) as file:
        found = {name: item for name, item in file.items() if isinstance(item, h5py.Dataset)}
        return {name: tuple(item.shape[::-1]) for name, item in found.items() if item.dtype.kind in "biuf"}


def _column(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return the shape without axes of length 1 that MATLAB adds to vectors: [1, N] and [N, 1] are N values."""
    return (max(shape),) if len(shape) == 2 and min(shape) == 1 else shape


def _read_pt(path: Path, options: Options, labelled: bool) -> UserData:
    import torch

    cache.check_special(path)
    try:
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:  # PyTorch raises a dozen types, none documented, for a damaged file
        reason = shorten(str(error).split("\n")[0])
        raise UserError(f"{path}: expected tensors saved by torch.save, found something else: {reason}") from error
    if isinstance(content, tuple | list) and len(content) == 2:
        content = dict(zip("xy", content, strict=True))
    if isinstance(content, torch.Tensor):
        content = {"x": content}
    if not isinstance(content, dict):
        raise UserError(f"{path}: expected a dict of tensors or a pair (x, y), found a {type(content).__name__}")
    arrays = {str(name): _array(path, name, value) for name, value in content.items() if torch.is_tensor(value)}
    shapes = {name: array.shape for name, array in arrays.items()}
    return choose(str(path), shapes, arrays.__getitem__, options, labelled)


def _array(path: Path, name: object, tensor: Any) -> Array:
    import torch

    if tensor.layout is not torch.strided or tensor.is_quantized:
        raise UserError(
            f"{path}, {name}: expected a dense tensor, found {tensor.layout}; call to_dense() before saving"
        )
    plain = tensor.detach()
    array: Array = (plain.float() if plain.dtype == torch.bfloat16 else plain).numpy()
    return array


CODECS = frozenset(
    {
        "blosc", "zlib", "gzip", "zstd", "lz4", "bz2", "lzma", "delta", "shuffle", "bitround", "fixedscaleoffset",
        "quantize", "crc32", "adler32", "crc32c", "bytes", "transpose", "sharding_indexed",
    }
)  # fmt: skip
"""Names of the codecs that are allowed."""
_CODEC_KEYS = ("compressor", "filters")
_METADATA = (".zarray", ".zmetadata", "zarr.json")


@dataclass(frozen=True)
class ZarrRows:
    """The rows of one array of a group."""

    array: Any
    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, part: RowIndex) -> Array:
        """Return the selected rows."""
        return np.asarray(self.array[part] if isinstance(part, slice) else self.array.oindex[part])


def _read_zarr(path: Path, options: Options, labelled: bool) -> UserData:
    _check_codecs(path)
    try:
        import zarr
    except ImportError as error:
        raise UserError(f"{path}: Zarr needs a library that is not installed: pip install 'orca-ray[adapt]'") from error
    try:
        group = zarr.open_group(str(path), mode="r")
        arrays = {str(name): array for name, array in group.arrays()}
    except Exception as error:
        raise UserError(f"{path}: expected a Zarr group of arrays: {shorten(error)}") from error
    if objects := [name for name, array in arrays.items() if np.dtype(array.dtype).kind == "O"]:
        raise UserError(
            f"{path}, {objects[0]}: holds objects, which are not read: store numbers or text of fixed length"
        )
    shapes = {name: tuple(array.shape) for name, array in arrays.items()}

    def rows(name: str) -> ZarrRows:
        return ZarrRows(arrays[name], shapes[name], np.dtype(arrays[name].dtype))

    return choose(str(path), shapes, rows, options, labelled)


def _check_codecs(path: Path) -> None:
    """Raise UserError for a codec that is not listed: one of numcodecs unpickles what it reads, whatever the type."""
    for file in (found for name in _METADATA for found in path.rglob(name)):
        if unknown := sorted(_codecs(cache.read_json(file)) - CODECS):
            raise UserError(f"{file}: expected compression by {', '.join(sorted(CODECS))}, found {unknown[0]!r}")


def _codecs(value: Any, *, codec: bool = False) -> set[str]:
    """Return the names of codecs in metadata of version 2 (compressor, filters: id) and 3 (codecs: name)."""
    if isinstance(value, list):
        return {name for each in value for name in _codecs(each, codec=codec)}
    if not isinstance(value, dict):
        return set()
    named = {str(value.get("id", value.get("name", "")))} if codec else set()
    inner = ((key in _CODEC_KEYS or key.endswith("codecs"), each) for key, each in value.items())
    return named | {name for inside, each in inner for name in _codecs(each, codec=inside)}


FORMATS = (
    Format("NumPy pair x.npy and y.npy", (".npy",), _read_npy),
    Format("NumPy archive", (".npz",), _read_npz),
    Format("HDF5 file", (".h5", ".hdf5", ".hdf"), _read_hdf5),
    Format("MATLAB file", (".mat",), _read_mat),
    Format("PyTorch tensors", (".pt", ".pth"), _read_pt),
    Format("Zarr group", (".zarr",), _read_zarr, folder=True, markers=(".zgroup", "zarr.json")),
)
