"""Tensors of any memory format are written with their values in place, and nothing else
in the package writes safetensors files.
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


def test_safetensors_files_are_written_in_one_place() -> None:
    package = Path(orca_ray.__file__).parent
    users = {
        path.relative_to(package).as_posix(): source
        for path in package.rglob("*.py")
        if "safetensors" in (source := path.read_text())
    }
    writers = [
        name
        for name, source in users.items()
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.ImportFrom)
        and (node.module or "").startswith("safetensors")
        and any(alias.name.startswith("save") for alias in node.names)
    ]
    assert writers == ["data/tensor_file.py"]
