"""Reads the parameters of a DINOv2 backbone from an ONNX file, under their Hugging Face names; runs no ONNX graph."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from orca_ray.errors import UserError

NUM_TENSORS = 223
"Number of tensors in the published checkpoint of a 12-layer Dinov2Model, mask token included"
_PREFIX = "backbone."


def read_dinov2(path: Path) -> dict[str, Tensor]:
    """Return the state dictionary of a Hugging Face Dinov2Model, with the names and shapes of published checkpoints.

    The ONNX exporter transposed linear weights and dropped their names. Each gets its name from the bias in the ``Add``
    that follows its ``MatMul``. The exporter also split the position embeddings into those of CLS and of the grid.

    Raises UserError if the file is unreadable or is not such a backbone.
    """
    import onnx
    from onnx import numpy_helper

    def tensor(name: str) -> Tensor:
        return torch.from_numpy(numpy_helper.to_array(values[name]).copy())

    try:
        graph = onnx.load(str(path)).graph
        values = {initializer.name: initializer for initializer in graph.initializer}
        state = {name.removeprefix(_PREFIX): tensor(name) for name in values if name.startswith(_PREFIX)}
        for name, anonymous in _linear_weights(graph, values).items():
            state[name] = tensor(anonymous).T.contiguous()
        state["embeddings.position_embeddings"] = torch.cat([tensor(name) for name in _positions(graph, values)], dim=1)
    except UserError:
        raise
    except Exception as error:  # onnx passes on protobuf's undocumented errors
        raise UserError(f"cannot read a DINOv2 backbone from {path}: {error}") from error
    state["embeddings.mask_token"] = torch.zeros(1, state["embeddings.cls_token"].shape[-1])
    if len(state) != NUM_TENSORS:
        raise UserError(f"{path} holds {len(state)} tensors of a DINOv2 backbone, expected {NUM_TENSORS}")
    return state


def _linear_weights(graph: Any, values: dict[str, Any]) -> dict[str, str]:
    """Return, for the name of each linear weight, the name of the ONNX initialiser that holds its transpose."""
    bias_after = {
        output: name
        for node in graph.node
        if node.op_type == "Add"
        for output in node.input
        for name in node.input
        if name.startswith(_PREFIX) and name.endswith(".bias")
    }
    return {
        bias_after[node.output[0]].removeprefix(_PREFIX).removesuffix(".bias") + ".weight": node.input[1]
        for node in graph.node
        if node.op_type == "MatMul" and node.input[1] in values and node.output[0] in bias_after
    }


def _positions(graph: Any, values: dict[str, Any]) -> tuple[str, str]:
    """Return the initialisers' names of both position tables: [1, 1, D] for CLS and [1, gh * gw, D] for the grid."""
    used = [(node.op_type, name) for node in graph.node for name in node.input if name in values]
    tables = [(kind, name) for kind, name in used if kind in ("Concat", "Reshape") and len(values[name].dims) == 3]
    if sorted(kind for kind, _ in tables) != ["Concat", "Reshape"]:
        raise UserError("the ONNX graph has no position table where a DINOv2 backbone has it")
    (_, prefix), (_, grid) = sorted(tables)
    return prefix, grid
