"""PyTorch files of tensors: a mapping by name, or a pair (inputs, targets). Only tensors are loaded (weights_only)."""

from pathlib import Path
from typing import Any

from orca_ray.data import cache
from orca_ray.data.rows import Array
from orca_ray.errors import UserError, shorten
from orca_ray.own_data._named import choose
from orca_ray.own_data.format import Format
from orca_ray.own_data.options import Options
from orca_ray.own_data.user_data import UserData


def _read(path: Path, options: Options, labelled: bool) -> UserData:
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


FORMAT = Format("PyTorch tensors", (".pt", ".pth"), _read)
