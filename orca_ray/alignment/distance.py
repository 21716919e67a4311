"""Source features, and the base class of the distances that alignment minimises.

Suffixes of tensor names give shapes: N source points, n target points, D features, K
source classes, L target classes.
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
"""Bytes that one call of a distance may use, in addition to the inputs and to what
`Distance.fit` stored.
"""


@dataclass(frozen=True, eq=False)
class SourceFeatures:
    """Features and labels of the source, to which the target is aligned.

    Two records are equal only if they are the same object. Raises UserError if features
    or labels are invalid.
    """

    x: Tensor
    """[N, D] float features; a sample's feature is the mean over its embedded tokens.
    """
    y: Tensor
    """[N] class ids: any integers, not necessarily consecutive."""
    name: str
    """Name of the source, e.g. ``prose``."""

    def __post_init__(self) -> None:
        _check_features(f"source features {self.name!r}", self.x)
        _check_labels(f"source labels {self.name!r}", self.y, self.x)

    def to(self, device: torch.device | str) -> Self:
        """Return a record with the same features and labels on ``device``."""
        return type(self)(self.x.to(device), self.y.to(device), self.name)


@dataclass(frozen=True)
class Diagnosis:
    """How the iterative solvers in one call of a distance ended."""

    converged: bool = True
    """Whether every solver reached its tolerance; True for distances in closed form."""
    iterations: int = 0
    """Largest number of iterations of any solver."""
    error: float = 0.0
    """Largest L1 error of the marginals of any transport plan; the maximum possible is
    2.
    """
    notes: tuple[str, ...] = ()
    """One sentence per fallback, e.g. that a class was left out; stored in the trial's
    record.
    """


class Distance(ABC):
    """Base class: a differentiable distance of target features from the source.

    Both sides have labels. ``distance = get_distance("otdd").fit(source)`` does the
    work that depends on the source alone; ``distance(features, labels)`` then returns
    the distance of target features, once per align epoch.

    Every subclass guarantees the following, which a parametrised test checks:

    - **Zero on itself**, if `debiased`: the distance of the source from itself is 0, up
      to 1e-5 of the distance's scale, and no tested target has a negative distance.
      (Theory guarantees that no distance is negative only if the costs depend on
      features alone, not if they include distances between classes.)
    - **Symmetry**, if `symmetric`: exchanging source and target does not change the
      value, apart from the strength of the regularisation, which depends on the source.
    - **Invariance**: neither the order of the points nor the class ids matter; class
      ids may be any integers.
    - **Differentiability** in the target features. If `exact_gradient`, the gradient is
      that of the value wherever the value is differentiable, with the regularisation or
      bandwidth that a call chooses treated as a constant.
    - **Robustness**: value and gradient are finite for a single sample, a single class,
      one sample per class, equal points, any common scale of both sides, and very
      different scales. Gradients of half-precision features are clamped to their range.
      `diagnosis` reports what was left out or did not converge; the log reports it
      once.
    - **Purity**: equal inputs give equal values on one machine. No input is modified
      and no global random state is used. An instance may be called any number of times
      after a fit, but from one thread only.
    - **Precision**: calls compute on the source features' device, in `precision` (in
      float64 for float64 features), and ignore an enclosing autocast. They return
      float32, or float64 for float64 features.
    - **Memory**: a call uses at most `MEMORY_BYTES`, by working in blocks, or raises a
      UserError that states its need.
    """

    name: str
    version: int = 1
    """Number to increase when source terms, values or gradients change: it invalidates
    what is cached on disk.
    """
    uses_labels: bool = False
    """Whether the distance depends on the labels."""
    debiased: bool = True
    symmetric: bool = True
    exact_gradient: bool = True
    degree: int | None = None
    """Multiplying all features by s > 0 multiplies the value by s ** degree; None if
    that holds for no degree.
    """
    learning_rate: float = 0.1
    """Initial learning rate of the align stage if ``align.learning_rate`` is 0: the
    change of a token in one Adam step, relative to the token's RMS (see
    `relative_steps`).
    """
    precision: torch.dtype = torch.float64

    def __init__(self) -> None:
        self._source: SourceFeatures | None = None
        self._single_class = False
        self.terms: dict[str, Tensor] = {}
        """Expensive results of the last `fit`, by name. Passing them to another `fit`
        to the same source skips their computation.
        """
        self.diagnosis = Diagnosis()
        self._logged: set[str] = set()

    def fit(
        self, source: SourceFeatures, terms: Mapping[str, Tensor] | None = None
    ) -> Self:
        """Fit this distance to ``source``; return this object.

        The fit computes everything that depends on the source alone. ``terms`` are the
        `terms` of an earlier fit to the same source; with them, the expensive
        computations are skipped.
        """
        self._source = source
        self._logged.clear()  # notes are logged once for each source
        y_N = _consecutive(source.y)
        self._single_class = int(y_N.max()) == 0
        with torch.no_grad(), torch.autocast(source.x.device.type, enabled=False):
            x_ND = source.x.to(self.dtype(source.x))
            self.terms = dict(self._source_terms(x_ND, y_N) if terms is None else terms)
            self._prepare(x_ND, y_N, self.terms)
        return self

    def __call__(
        self, features: Tensor, labels: Tensor, shares: Tensor | None = None
    ) -> Tensor:
        """Return the scalar distance of the target from the source.

        Raises UserError for invalid features or labels.

        Args:
            features: target features [n, D], any floating type; the gradient flows into
                them.
            labels: class ids [n], any integers.
            shares: share of each class in the whole data set, [L], in ascending order
                of the class ids in ``labels``; default: the shares in ``labels``. Only
                distances that are computed per class use them, as weights.
        """
        if self._source is None:
            raise RuntimeError(f"{type(self).__name__}: call fit(source) first")
        _check_features("target features", features)
        _check_labels("target labels", labels, features)
        num_features = self._source.x.shape[1]
        if features.shape[1] != num_features:
            raise UserError(
                f"target features: shape {tuple(features.shape)}, but the source has"
                f" {num_features} features; make the source features with the body (and"
                " image size) that is being adapted"
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
                # Gradients beyond the range of ``features`` would become infinite.
                x_nD.register_hook(lambda grad: grad.clamp(-largest, largest))  # type: ignore[no-untyped-call]
            value = self._distance(x_nD.to(device), y_n, shares_L)
        if self.uses_labels and self._single_class:
            note = (
                f"all {len(self._source.y)} source samples are of one class: target"
                " classes cannot be aligned to different ones (choose a source with"
                " several)"
            )
            self.diagnosis = replace(
                self.diagnosis, notes=(note, *self.diagnosis.notes)
            )
        self._log_new_notes()
        return value.to(
            device=features.device,
            dtype=torch.promote_types(features.dtype, torch.float32),
        )

    def _log_new_notes(self) -> None:
        for note in self.diagnosis.notes:
            if note not in self._logged:
                self._logged.add(note)
                logger.info("distance %s: %s", self.name, note)

    def dtype(self, x: Tensor) -> torch.dtype:
        """Return the floating-point type of computations with features ``x``."""
        return torch.promote_types(self.precision, x.dtype)

    def _source_terms(self, x_ND: Tensor, y_N: Tensor) -> Mapping[str, Tensor]:
        """Return the expensive source-only terms, which are cached on disk.

        Class ids are 0 … K-1.
        """
        return {}

    @abstractmethod
    def _prepare(self, x_ND: Tensor, y_N: Tensor, terms: Mapping[str, Tensor]) -> None:
        """Store the source terms that calls need.

        This is cheap, because ``terms`` is the result of `_source_terms`.
        """

    @abstractmethod
    def _distance(self, x_nD: Tensor, y_n: Tensor, shares_L: Tensor) -> Tensor:
        """Return the distance of the target points ``x_nD`` from the source.

        The class ids ``y_n`` contain every id from 0 to L-1. Set `diagnosis` if a
        solver was used.
        """


def _check_features(what: str, x: Tensor) -> None:
    """Raise UserError unless ``x`` is a matrix of finite floats; ``what`` names it."""
    if x.ndim != 2 or 0 in x.shape or not x.is_floating_point():
        raise UserError(
            f"{what}: expected a float matrix [samples, features], got {x.dtype} of"
            f" shape {tuple(x.shape)}"
        )
    # aminmax allocates no mask, and returns NaN if any value is NaN.
    extremes = torch.stack(torch.aminmax(x.detach()))
    if not bool(torch.isfinite(extremes).all()):
        num_bad = int((~torch.isfinite(x)).sum())
        raise UserError(
            f"{what} of shape {tuple(x.shape)}: {num_bad} of {x.numel()} values are NaN"
            " or infinite; check the arrays that they were computed from, and lower"
            " align.learning_rate if they grew while aligning"
        )


def _check_labels(what: str, y: Tensor, x: Tensor) -> None:
    is_integer = not (y.is_floating_point() or y.is_complex() or y.dtype == torch.bool)
    if not is_integer or y.ndim != 1 or len(y) != len(x):
        raise UserError(
            f"{what}: expected {len(x)} integer class ids, got {y.dtype} of shape"
            f" {tuple(y.shape)}"
        )


def _consecutive(labels: Tensor) -> Tensor:
    """Replace class ids by 0 … K-1, in ascending order of the ids."""
    return cast(Tensor, torch.unique(labels, return_inverse=True)[1])
