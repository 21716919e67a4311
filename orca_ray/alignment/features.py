"""Labelled features, which distances compare, and their checks."""

from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from orca_ray.errors import UserError

_REMEDY = "check the arrays that they were computed from, and lower align.learning_rate if they grew while aligning"


@dataclass(frozen=True)
class SourceFeatures:
    """Embedded samples of a body's own modality, to which alignment moves the target's; raises UserError if invalid."""

    x: Tensor
    """[N, D] float features: the mean over an embedded sample's tokens."""
    y: Tensor
    """[N] integer class ids, any integers."""
    name: str
    """Name of the source, e.g. ``vocabulary``."""

    def __post_init__(self) -> None:
        check_features(f"source features {self.name!r}", self.x)
        check_labels(f"source labels {self.name!r}", self.y, self.x)

    def to(self, device: torch.device | str) -> Self:
        """Return the same features on ``device``."""
        return type(self)(self.x.to(device), self.y.to(device), self.name)


def check_features(what: str, x: Tensor) -> None:
    """Raise UserError unless ``x`` is a finite float matrix with at least one row and one column."""
    if x.ndim != 2 or 0 in x.shape or not x.is_floating_point():
        raise UserError(f"{what}: expected a float matrix [samples, features], got {x.dtype} of shape {tuple(x.shape)}")
    if not bool(torch.isfinite(torch.stack(torch.aminmax(x.detach()))).all()):  # allocates no mask
        bad = int((~torch.isfinite(x)).sum())
        raise UserError(f"{what} of shape {tuple(x.shape)}: {bad} of {x.numel()} values are NaN or infinite; {_REMEDY}")


def check_labels(what: str, y: Tensor, x: Tensor) -> None:
    """Raise UserError unless ``y`` contains one integer for each row of ``x``."""
    if y.ndim != 1 or len(y) != len(x) or y.is_floating_point() or y.is_complex() or y.dtype == torch.bool:
        raise UserError(f"{what}: expected {len(x)} integer class ids, got {y.dtype} of shape {tuple(y.shape)}")
