"""Source features, and the contract of a distance, which alignment minimises.

Letters in tensor names: N source points, n target points, D features, K source classes, L target classes.
"""

import logging
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Self, cast

import torch
from torch import Tensor

from orca_ray.errors import UserError

logger = logging.getLogger(__name__)
MEMORY_BYTES = 2**30
"""Working memory of one call, excluding the source's terms and the features themselves."""


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
        _check_features(f"source features {self.name!r}", self.x)
        _check_labels(f"source labels {self.name!r}", self.y, self.x)

    def to(self, device: torch.device | str) -> Self:
        """Return the same features on ``device``."""
        return type(self)(self.x.to(device), self.y.to(device), self.name)


@dataclass(frozen=True)
class Diagnosis:
    """How the solvers of one call ended; the notes are stored in records."""

    converged: bool = True
    """Whether every problem reached its tolerance; True for closed forms."""
    iterations: int = 0
    """Largest number of iterations of any problem."""
    error: float = 0.0
    """Largest L1 error of a plan's marginals, of at most 2."""
    notes: tuple[str, ...] = ()
    """Fallbacks taken, one sentence each: a class left out, a problem solved in blocks."""


class Distance(ABC):
    """A differentiable distance between labelled target features and fitted source features.

    ``distance = get_distance("otdd").fit(source)`` does all work that depends on the source alone, once;
    ``distance(features, labels)`` is then called once an align epoch, with all target classes.

    Every implementation guarantees, and one parametrised test checks:

    - **Zero on itself** where it is `debiased`: the source's own features and labels are at distance 0, up to 1e-5 of
      the distance's scale, and no other tested ones at a negative distance (theory guarantees this for costs between
      features alone, not for those between classes).
    - **Symmetry** where it is `symmetric`: source and target may be exchanged, up to the effect of the regularisation,
      which the source determines.
    - **Invariance** under permutations of the points and renaming of the labels of either side; label ids may be any
      integers, with gaps.
    - **Differentiability** in the features. Where `exact_gradient`, the gradient is the value's own wherever that has
      one, with constants of the call (a regularisation, a bandwidth) held fixed.
    - **Robustness**: one sample, one class, one sample a class, duplicated points, any common scale of the two sides
      and sides of very different scale give a finite value and gradient. Gradients of half-precision features are
      clamped to their range. `diagnosis` reports, and the log once, what is left out or did not converge.
    - **Purity**: equal inputs give equal values on one machine; no global random state is used and no input is
      modified. An instance may be called any number of times between two fits, from one thread.
    - **Precision**: computed on the source features' device in `precision`, or in float64 for float64 features,
      whatever an enclosing autocast says; returned in float32, or in float64 for float64 features.
    - **Memory** stays below `MEMORY_BYTES` a call, by working in blocks, or a UserError states what it would take.
    """

    name: str
    version: int = 1
    """Increase it when source terms, values or gradients change: terms and aligned embedders are cached on disk."""
    uses_labels: bool = False
    debiased: bool = True
    symmetric: bool = True
    exact_gradient: bool = True
    degree: int | None = None
    """Scaling both sides by s > 0 scales the value by s to this power; None where no power does."""
    precision: torch.dtype = torch.float64

    def __init__(self) -> None:
        self._source: SourceFeatures | None = None
        self._single_class = False
        self.terms: dict[str, Tensor] = {}
        """Source-only terms by name, which another `fit` accepts."""
        self.diagnosis = Diagnosis()
        self._logged: set[str] = set()

    def fit(self, source: SourceFeatures, terms: Mapping[str, Tensor] | None = None) -> Self:
        """Compute everything that depends on the source alone, unless ``terms`` of an earlier fit to it are given.

        Calls run on the device of the source's features. Returns self.
        """
        self._source = source
        self._logged.clear()
        y_N = _consecutive(source.y)
        self._single_class = int(y_N.max()) == 0
        with torch.no_grad(), torch.autocast(source.x.device.type, enabled=False):
            x_ND = source.x.to(self.dtype(source.x))
            self.terms = dict(self._source_terms(x_ND, y_N) if terms is None else terms)
            self._prepare(x_ND, y_N, self.terms)
        return self

    def __call__(self, features: Tensor, labels: Tensor, shares: Tensor | None = None) -> Tensor:
        """Return the distance of the target from the source, a scalar; raises UserError for invalid features or labels.

        Args:
            features: target features [n, D], any floating type; the gradient flows into them.
            labels: integer class ids [n], arbitrary ones.
            shares: each class's share of the data set, [L] in ascending order of the class ids that occur; default: its
                share of ``labels``. Distances that go class by class weight the classes by it; others ignore it.
        """
        if self._source is None:
            raise RuntimeError(f"{type(self).__name__}: call fit(source) first")
        _check_features("target features", features)
        _check_labels("target labels", labels, features)
        num_features = self._source.x.shape[1]
        if features.shape[1] != num_features:
            raise UserError(
                f"target features: shape {tuple(features.shape)}, but the source has {num_features} features; "
                "make the source features with the body (and image size) that is being adapted"
            )
        self.diagnosis = Diagnosis()
        device = self._source.x.device
        y_n = _consecutive(labels.to(device))
        sizes_L = torch.bincount(y_n)
        shares_L = sizes_L / len(y_n) if shares is None else shares.to(device)
        assert shares_L.shape == sizes_L.shape, "a share for each class that occurs"
        with torch.autocast(device.type, enabled=False):
            x_nD = features.to(self.dtype(features))
            if x_nD.requires_grad and x_nD.dtype != features.dtype:
                largest = torch.finfo(features.dtype).max
                x_nD.register_hook(lambda grad: grad.clamp(-largest, largest))  # type: ignore[no-untyped-call]
            value = self._distance(x_nD.to(device), y_n, shares_L)
        if self.uses_labels and self._single_class:
            note = (
                f"all {len(self._source.y)} source samples are of one class: target classes cannot be aligned to "
                "different ones (choose a source with several)"
            )
            self.diagnosis = replace(self.diagnosis, notes=(note, *self.diagnosis.notes))
        for note in self.diagnosis.notes:
            if note not in self._logged:
                self._logged.add(note)
                logger.info("distance %s: %s", self.name, note)
        return value.to(device=features.device, dtype=torch.promote_types(features.dtype, torch.float32))

    def dtype(self, x: Tensor) -> torch.dtype:
        """Return the type that calls with features ``x`` compute in."""
        return torch.promote_types(self.precision, x.dtype)

    def _source_terms(self, x_ND: Tensor, y_N: Tensor) -> Mapping[str, Tensor]:
        """Return the expensive source-only terms, which are cached on disk; class ids are 0 … K-1."""
        return {}

    @abstractmethod
    def _prepare(self, x_ND: Tensor, y_N: Tensor, terms: Mapping[str, Tensor]) -> None:
        """Store what calls need of the source; cheap, given the result of `_source_terms` on any device."""

    @abstractmethod
    def _distance(self, x_nD: Tensor, y_n: Tensor, shares_L: Tensor) -> Tensor:
        """Return the scalar for class ids 0 … L-1, all of which occur; set `diagnosis` if it can say anything."""


def _check_features(what: str, x: Tensor) -> None:
    """Raise UserError unless ``x`` is a finite float matrix with at least one row and one column."""
    if x.ndim != 2 or 0 in x.shape or not x.is_floating_point():
        raise UserError(f"{what}: expected a float matrix [samples, features], got {x.dtype} of shape {tuple(x.shape)}")
    if not bool(torch.isfinite(torch.stack(torch.aminmax(x.detach()))).all()):  # allocates no mask
        bad = int((~torch.isfinite(x)).sum())
        raise UserError(
            f"{what} of shape {tuple(x.shape)}: {bad} of {x.numel()} values are NaN or infinite; check the arrays that "
            "they were computed from, and lower align.learning_rate if they grew while aligning"
        )


def _check_labels(what: str, y: Tensor, x: Tensor) -> None:
    """Raise UserError unless ``y`` contains one integer for each row of ``x``."""
    if y.ndim != 1 or len(y) != len(x) or y.is_floating_point() or y.is_complex() or y.dtype == torch.bool:
        raise UserError(f"{what}: expected {len(x)} integer class ids, got {y.dtype} of shape {tuple(y.shape)}")


def _consecutive(labels: Tensor) -> Tensor:
    """Rename labels to 0 … K-1 in sorted order."""
    return cast(Tensor, torch.unique(labels, return_inverse=True)[1])
