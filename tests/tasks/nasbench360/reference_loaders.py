"""Run one data loader of the reference from its checkout and write what it yields; nothing of it is copied.

``python reference_loaders.py CHECKOUT LOADER RAW ARGUMENTS VALID CONSTANTS OUT.npz``; in a process of its own, for the
reference's modules have names as common as ``utils``. Shuffles are switched off, so that what it yields stands in the
order of its files.
"""

import ast
import importlib
import json
import os
import subprocess
import sys
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]


def reference_arrays(
    loader: str,
    raw: Path,
    directory: Path,
    *,
    valid: bool,
    arguments: Sequence[str] = (),
    constants: Mapping[int, int] | None = None,
) -> dict[str, Array]:
    """Return ``train_x``, ``train_y``, … of the reference's ``load_<loader>``.

    Args:
        loader: name after ``load_``.
        raw: directory of the raw files.
        directory: for what is written.
        valid: whether it holds validation samples out.
        arguments: what follows the batch size.
        constants: whole numbers of the loader's code to replace: the sizes of files that a twin does not have.
    """
    out = directory / f"reference-{loader}-{valid}.npz"
    settings = (json.dumps(arguments), int(valid), json.dumps(constants or {}))
    told = (os.environ["ORCA_REFERENCE"], loader, raw, *settings, out)
    subprocess.run([sys.executable, __file__, *map(str, told)], check=True, cwd=directory, capture_output=True)
    with np.load(out) as file:
        return {name: file[name] for name in file.files}


class Replaced(ast.NodeTransformer):
    """Replaces whole numbers and texts of code by others."""

    def __init__(self, constants: Mapping[int, int] | Mapping[str, str]) -> None:
        self._constants: Mapping[Any, Any] = constants

    def visit_Constant(self, node: ast.Constant) -> ast.Constant:
        if type(node.value) in (int, str):
            node.value = self._constants.get(node.value, node.value)
        return node


def _resize(module: Any, name: str, constants: dict[int, int]) -> None:
    tree = ast.parse(Path(module.__file__).read_text(encoding="utf-8"))
    found: list[ast.stmt] = [node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == name]
    resized = ast.Module(body=[Replaced(constants).visit(node) for node in found], type_ignores=[])
    exec(compile(resized, module.__file__, "exec"), module.__dict__)


def _tensors(dataset: Any) -> tuple[Array, Array]:
    if hasattr(dataset, "tensors"):
        x, y = dataset.tensors
        return x.numpy(), y.numpy()
    pairs = [dataset[i] for i in range(len(dataset))]
    return np.stack([x.numpy() for x, _ in pairs]), np.array([y for _, y in pairs])


def _accept_twin(raw: str) -> str:
    """Make torchvision take a CIFAR-100 of another checksum, unpacked below the working directory."""
    cifar = importlib.import_module("torchvision.datasets.cifar")
    setattr(cifar, "check_integrity", lambda *_: True)  # noqa: B010 - no attribute of a module, as mypy sees it
    with tarfile.open(Path(raw) / "cifar-100-python.tar.gz") as archive:
        archive.extractall("unpacked", filter="data")
    return "unpacked"


def main() -> None:
    """Write the arrays of one loader."""
    checkout, loader, raw, arguments, valid, constants, out = sys.argv[1:]
    sys.path.insert(0, str(Path(checkout) / "src"))
    module = importlib.import_module("data_loaders")
    if sizes := {int(key): value for key, value in json.loads(constants).items()}:
        _resize(module, f"load_{loader}", sizes)
    setattr(np.random, "permutation", np.arange)  # noqa: B010
    given = (_accept_twin(raw), 100, 4) if loader == "cifar" else (raw, 4, *json.loads(arguments))
    found = getattr(module, f"load_{loader}")(*given, valid_split=1 if valid == "1" else -1)
    arrays: dict[str, Array] = {}
    for split, part in zip(("train", "validation", "test"), found, strict=False):
        if part is not None:
            arrays[f"{split}_x"], arrays[f"{split}_y"] = _tensors(part.dataset)
    if len(found) == 4:
        arrays |= {"y_mean": found[3].mean.numpy(), "y_std": (found[3].std + found[3].eps).numpy()}
    np.savez(out, **arrays)  # type: ignore[arg-type]


if __name__ == "__main__":
    main()
