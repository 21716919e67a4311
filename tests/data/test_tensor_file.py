"""Tensors of any memory format are written with their values in place.

Nothing else in the package writes safetensors files.
"""

import ast
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

import orca_ray
from orca_ray.data.tensor_file import save_tensors

FIELDS_NCHW = torch.arange(120.0).reshape(2, 3, 4, 5)


@pytest.mark.parametrize(
    "tensor",
    [
        FIELDS_NCHW.contiguous(memory_format=torch.channels_last),
        FIELDS_NCHW.permute(0, 2, 3, 1),
        torch.from_numpy(FIELDS_NCHW.numpy().transpose(3, 0, 2, 1)),
        FIELDS_NCHW[:, :, ::2],
        FIELDS_NCHW[:1, :, :1].expand(6, 3, 4, 5),
        torch.tensor(2.5),
    ],
    ids=["channels-last", "permuted", "numpy", "sliced", "expanded", "scalar"],
)
def test_a_tensor_of_any_memory_format_is_read_as_it_was(
    tensor: Tensor, tmp_path: Path
) -> None:
    save_tensors(tmp_path / "file", {"outputs": tensor})
    stored = load_file(tmp_path / "file")["outputs"]
    assert stored.shape == tensor.shape
    assert torch.equal(stored, tensor)


def _imports_a_writer(node: ast.AST) -> bool:
    """Return whether a statement imports a function that writes safetensors files."""
    if not isinstance(node, ast.ImportFrom) or node.module is None:
        return False
    names = [alias.name for alias in node.names]
    return node.module.startswith("safetensors") and any(
        name.startswith("save") for name in names
    )


def test_safetensors_files_are_written_in_one_place() -> None:
    package = Path(orca_ray.__file__).parent
    writers = []
    for path in package.rglob("*.py"):
        source = path.read_text()
        # most modules need not be parsed
        if "safetensors" in source and any(
            map(_imports_a_writer, ast.walk(ast.parse(source)))
        ):
            writers.append(path.relative_to(package).as_posix())
    assert writers == ["data/tensor_file.py"]
