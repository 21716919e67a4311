"""What alignment minimises: the contract of a distance, and the distances by name.

Letters in tensor names: N source points, n target points, D features, K source classes, L target classes.
"""

import importlib
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Self, cast

import torch
from torch import Tensor

from orca_ray.alignment.features import SourceFeatures, check_features, check_labels
from orca_ray.errors import UserError, unknown_name


class Distance(ABC):
    """A differentiable distance between labelled target features and fitted source features.

    ``distance = get_distance("otdd").fit(source)`` does all work that depends on the source alone, once;
    ``distance(features, labels)`` is then called once an align epoch, with every target class in it.

    What every implementation promises (and one parametrised test checks):

    - **Zero on itself**: the source's own features and labels are at distance 0, up to 1e-5 of the distance's scale.
    - **Invariance** under a permutation of the points, and under any renaming of the labels of either side; label ids
      may be any integers, with gaps.
    - **Differentiable** in the features. The gradient is that of the value, at every point where it has one, with
      constants of the fit (a regularisation, a bandwidth) held fixed.
    - **Robust**: one sample, one class, one sample a class, duplicated points and any common scale of the two sides
      give a finite value and a finite gradient. The scale of every regularisation is taken from the data.
    - **Pure**: equal inputs give equal values on one machine; no random number is drawn and no input is changed. An
      instance may be called any number of times between two fits, from one thread.
    - **Precision and place**: computed in float64 on the source features' device, whatever the precision of the
      features or an enclosing autocast; returned in float32, or in float64 for float64 features.
    """

    name: str

    def __init__(self) -> None:
        self._device: torch.device | None = None
        self._num_features = 0

    def fit(self, source: SourceFeatures) -> Self:
        """Compute everything that depends on the source alone, and return self.

        Args:
            source: features [N, D] and class ids [N]; later calls run on their device.
        """
        self._device = source.x.device
        self._num_features = source.x.shape[1]
        with torch.no_grad():
            self._fit(source.x.double(), _consecutive(source.y))
        return self

    def __call__(self, features: Tensor, labels: Tensor) -> Tensor:
        """Return the distance of the target from the source, a scalar.

        Args:
            features: target features [n, D], any floating type; the gradient flows into them.
            labels: integer class ids [n]; arbitrary ones.

        Raises:
            UserError: for a wrong shape, another D than the source's, or a value that is not finite.
        """
        if self._device is None:
            raise RuntimeError(f"{type(self).__name__}: call fit(source) first")
        check_features("target features", features)
        check_labels("target labels", labels, features)
        if features.shape[1] != self._num_features:
            raise UserError(
                f"target features: shape {tuple(features.shape)}, but the source has {self._num_features} features; "
                "make the source features with the body (and image size) that is being adapted"
            )
        x_nD = features.to(device=self._device, dtype=torch.float64)
        value = self._distance(x_nD, _consecutive(labels.to(self._device)))
        return value.to(device=features.device, dtype=torch.promote_types(features.dtype, torch.float32))

    @abstractmethod
    def _fit(self, x_ND: Tensor, y_N: Tensor) -> None:
        """Keep what depends on the source alone: float64 features, class ids 0 … K-1 all of which occur."""

    @abstractmethod
    def _distance(self, x_nD: Tensor, y_n: Tensor) -> Tensor:
        """Return the float64 scalar for float64 features and class ids 0 … L-1 all of which occur."""


def _consecutive(labels: Tensor) -> Tensor:
    """Rename labels to 0 … K-1; no distance depends on the names, so sorted order will do."""
    _, consecutive = torch.unique(labels, return_inverse=True)
    return cast(Tensor, consecutive)


# name → where its class (or factory) is. Imported on demand: a distance costs its own imports only.
_DISTANCES = {
    "otdd": "otdd:OTDD",
    "otdd-gaussian": "otdd:OTDD",
    "otdd-entropic": "otdd:EntropicOTDD",
    "mmd": "mmd:MMD",
    "l2": "l2:L2",
}


def distance_names() -> list[str]:
    """Names that `get_distance` understands; ``otdd`` is short for ``otdd-gaussian``."""
    return sorted(_DISTANCES)


def get_distance(name: str) -> Distance:
    """Build the distance called ``name``, not fitted yet.

    Raises:
        UserError: for an unknown name, with the nearest one.
    """
    if name not in _DISTANCES:
        raise unknown_name("distance", name, _DISTANCES)
    module, attribute = _DISTANCES[name].split(":")
    factory = getattr(importlib.import_module(f"orca_ray.alignment.{module}"), attribute)
    return cast(Callable[[], Distance], factory)()
