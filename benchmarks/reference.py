"""The reference implementation of ORCA, run from a checkout: its own OTDD, and seeded
features to compare on.

Nothing of it is copied. Its distance package is imported from the checkout, and of its
training modules, which drag in every data loader, single functions are compiled on
their own. What newer libraries have broken is repaired first. Needs geomloss, joblib,
tqdm and munkres or their stand-ins; only geomloss has none.
"""

import ast
import importlib
import logging
import os
import sys
import types
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import TensorDataset

CHECKOUT_VARIABLE = "ORCA_REFERENCE"

# Imported by the package for plots and bookkeeping that the distance has no part in.
_UNUSED = (
    ("seaborn",),
    ("adjustText",),
    ("munkres",),
    ("matplotlib", "matplotlib.pyplot", "matplotlib.cm"),
    ("mpl_toolkits", "mpl_toolkits.axes_grid1"),
)


class _Anything:
    """An attribute of a module that is not there; never called."""

    def __getattr__(self, name: str) -> "_Anything":
        if name.startswith("__"):
            raise AttributeError(name)
        return _Anything()

    def __call__(self, *_: Any, **__: Any) -> "_Anything":
        return _Anything()


class _StandIn(types.ModuleType):
    """A module that has every attribute."""

    __path__: list[str] = []  # noqa: RUF012 - what makes it a package

    def __getattr__(self, name: str) -> _Anything:
        if name.startswith("__"):
            raise AttributeError(name)
        return _Anything()


@dataclass(frozen=True)
class ReferenceOtdd:
    """The reference's OTDD."""

    otdd: Callable[..., Tensor]
    """``otdd(feats, src_train_dataset=…, exact=…)``, of its ``embedder.py``."""
    dataset_distance: Any
    """Its class ``DatasetDistance``."""

    def __call__(
        self, x_nD: Tensor, source_x: Tensor, source_y: Tensor, exact: bool
    ) -> tuple[float, Tensor]:
        """Return value and gradient [n, D] of one target class, as its align epoch
        computes them.
        """
        np.random.seed(0)
        torch.manual_seed(0)  # its class statistics are summed in a random order
        x_nD = x_nD.detach().clone().requires_grad_()
        value = self.otdd(
            x_nD, src_train_dataset=TensorDataset(source_x, source_y), exact=exact
        )
        value.backward()  # type: ignore[no-untyped-call]
        assert x_nD.grad is not None
        return value.item(), x_nD.grad


def reference_checkout() -> Path | None:
    """Return the folder that ``ORCA_REFERENCE`` names, or None."""
    name = os.environ.get(CHECKOUT_VARIABLE)
    return Path(name) if name else None


def load_otdd(checkout: Path) -> ReferenceOtdd:
    """Import the reference's OTDD from a checkout.

    Raises:
        FileNotFoundError: where the folder is no checkout.
    """
    embedder = checkout / "src" / "embedder.py"
    packages = checkout / "src" / "otdd"
    if not embedder.is_file() or not packages.is_dir():
        raise FileNotFoundError(
            f"{checkout}: no checkout of the reference (src/embedder.py and src/otdd"
            " are missing)"
        )
    repair_libraries()
    sys.path.insert(0, str(packages))
    logging.disable(logging.WARNING)
    distance = importlib.import_module("otdd.pytorch.distance")
    logging.disable(logging.NOTSET)
    names = {"torch": torch, "np": np, "DatasetDistance": distance.DatasetDistance}
    return ReferenceOtdd(
        compile_function(embedder, "otdd", names), distance.DatasetDistance
    )


def compile_function(
    path: Path, name: str, names: dict[str, Any]
) -> Callable[..., Any]:
    """Compile one top-level function of a module, with ``names`` for its globals."""
    tree = ast.parse(path.read_text(encoding="utf-8"), str(path))
    found: list[ast.stmt] = [
        node
        for node in tree.body
        if isinstance(node, ast.FunctionDef) and node.name == name
    ]
    assert len(found) == 1, f"{path}: {len(found)} functions {name}"
    scope = dict(names)
    exec(compile(ast.Module(body=found, type_ignores=[]), str(path), "exec"), scope)
    function: Callable[..., Any] = scope[name]
    return function


def repair_libraries() -> None:
    """Put back what the reference takes from older libraries; stand in for what is not
    installed and not used.
    """
    os.environ.setdefault("MPLBACKEND", "Agg")
    for group in _UNUSED:
        try:
            for name in group:
                importlib.import_module(name)
        except ImportError:
            sys.modules.update({name: _StandIn(name) for name in group})
    setattr(torch.Tensor, "symeig", _symeig)  # noqa: B010 - gone since torch 1.13
    geomloss = importlib.import_module("geomloss")
    if not hasattr(
        geomloss, "utils"
    ):  # moved in geomloss 0.3; its losses are unchanged
        utilities = importlib.import_module("geomloss._legacy.utils")
        geomloss.utils = utilities  # type: ignore[attr-defined]
        sys.modules["geomloss.utils"] = utilities


def _symeig(matrix: Tensor, eigenvectors: bool = False, upper: bool = True) -> Any:
    assert eigenvectors
    return torch.linalg.eigh(matrix, UPLO="U" if upper else "L")


@dataclass(frozen=True)
class Features:
    """A source of 5000 labelled points and one target class."""

    source_x: Tensor
    source_y: Tensor
    target: Tensor

    def to(self, device: str) -> "Features":
        """Return the same features on a device."""
        return Features(
            self.source_x.to(device), self.source_y.to(device), self.target.to(device)
        )


def make_features(
    n: int,
    num_features: int,
    rms: float = 8.0,
    imbalance: float = 0.0,
    seed: int = 0,
    num_source: int = 5000,
) -> Features:
    """Draw stand-ins for mean-pooled embeddings: class means, a low-rank part of
    decaying spectrum, white noise.

    Args:
        n: target points.
        num_features: D; 768 comes with 7 source classes, as the reference's text
            source, others with 10.
        rms: root mean square distance between two source points; beside eps = 0.1 it
            decides how hard transport is.
        imbalance: class sizes are proportional to exp(−imbalance k).
        seed: of numpy's frozen MT19937.
        num_source: N.
    """
    r = np.random.RandomState(seed)
    num_classes = 7 if num_features == 768 else 10
    shares = np.exp(-imbalance * np.arange(num_classes))
    sizes = np.maximum(2, np.floor(shares / shares.sum() * num_source).astype(int))
    sizes[0] += num_source - sizes.sum()
    labels = np.repeat(np.arange(num_classes), sizes)
    basis = r.randn(32, num_features) / np.sqrt(num_features)
    means = r.randn(num_classes, num_features) / np.sqrt(num_features)
    source = _cloud(r, num_source, basis) + means[labels]
    target_basis = 0.7 * basis + 0.7 * r.randn(32, num_features) / np.sqrt(num_features)
    offset = r.randn(num_features)
    target = _cloud(r, n, target_basis)
    scale = rms / np.sqrt(2.0 * ((source - source.mean(0)) ** 2).sum(1).mean())
    target = target * scale + 0.5 * rms * offset / np.linalg.norm(offset)
    order = r.permutation(num_source)
    return Features(
        torch.from_numpy((source * scale)[order].astype(np.float32)),
        torch.from_numpy(labels[order].astype(np.int64)),
        torch.from_numpy(target.astype(np.float32)),
    )


def _cloud(r: np.random.RandomState, n: int, basis: np.ndarray) -> np.ndarray:
    spectrum = 1.0 / np.sqrt(1.0 + np.arange(len(basis)))
    low_rank = (r.randn(n, len(basis)) * spectrum) @ basis
    return np.asarray(
        low_rank + 0.3 * r.randn(n, basis.shape[1]) / np.sqrt(basis.shape[1])
    )
