"""The contract of a distance, which alignment minimises.

Letters in tensor names: N source points, n target points, D features, K source classes, L target classes.
"""

import logging
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Self, cast

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx

from orca_ray.alignment.features import SourceFeatures, check_features, check_labels
from orca_ray.errors import UserError

logger = logging.getLogger(__name__)

MEMORY_BYTES = 2**30
"""Working memory of one call; what the source takes, and the features themselves, come on top."""


@dataclass(frozen=True)
class Diagnosis:
    """How the solvers of one call ended; records tell the notes."""

    converged: bool = True
    """Whether every problem reached its tolerance; closed forms always do."""
    iterations: int = 0
    """Most iterations that any problem took."""
    error: float = 0.0
    """Largest L1 error of a plan's marginals, of at most 2."""
    notes: tuple[str, ...] = ()
    """Fallbacks taken, one sentence each: a class left out, a problem solved in chunks."""


class Distance(ABC):
    """A differentiable distance between labelled target features and fitted source features.

    ``distance = get_distance("otdd").fit(source)`` does all work that depends on the source alone, once;
    ``distance(features, labels)`` is then called once an align epoch, with every target class in it.

    What every implementation promises (and one parametrised test checks):

    - **Zero on itself** where it is `debiased`: the source's own features and labels are at distance 0, up to 1e-5 of
      the distance's scale, and nothing that was tried is at a negative one (theory promises it for costs between
      features alone, not for those between classes).
    - **Symmetric** where it says so: source and target may change places; entropic ones take their eps from the source,
      and differ by what another eps makes.
    - **Invariance** under a permutation of the points, and under any renaming of the labels of either side; label ids
      may be any integers, with gaps.
    - **Differentiable** in the features. Where `exact_gradient`, the gradient is that of the value at every point where
      it has one, with constants of the fit (a regularisation, a bandwidth) held fixed.
    - **Robust**: one sample, one class, one sample a class, duplicated points, any common scale of the two sides and
      sides of very different scale give a finite value and a finite gradient; half-precision features, too, a
      component that is too large for them being cut to their largest number. What a distance then leaves out, or a
      solver falls short of, is in `diagnosis`, and told once in the log.
    - **Pure**: equal inputs give equal values on one machine; no global random number is drawn and no input is changed.
      An instance may be called any number of times between two fits, from one thread.
    - **Precision and place**: computed on the source features' device in `precision`, or in float64 for float64
      features, whatever an enclosing autocast says; returned in float32, or in float64 for float64 features.
    - **Memory** stays below `MEMORY_BYTES` a call by working in chunks, or a UserError says what it would take.
    """

    name: str
    version: int = 1
    """Raise it when source terms, values or gradients change: terms and aligned embedders are kept on disk."""
    uses_labels: bool = False
    debiased: bool = True
    symmetric: bool = True
    exact_gradient: bool = True
    degree: int | None = None
    """Scaling both sides by s > 0 scales the value by s to this power; None: there is no such rule."""
    precision: torch.dtype = torch.float64

    def __init__(self) -> None:
        self._source: SourceFeatures | None = None
        self._single_class = False
        self.terms: dict[str, Tensor] = {}
        """Source-only terms by name, as `fit` takes them back."""
        self.diagnosis = Diagnosis()
        """Of the last call."""
        self._told: set[str] = set()

    def fit(self, source: SourceFeatures, terms: Mapping[str, Tensor] | None = None) -> Self:
        """Compute everything that depends on the source alone, and return self.

        Args:
            source: features [N, D] and class ids [N]; later calls run on their device.
            terms: what an earlier fit to the same source kept in `terms`; nothing is computed again then.
        """
        self._source = source
        self._told.clear()
        y_N = _consecutive(source.y)
        self._single_class = int(y_N.max()) == 0
        with torch.no_grad(), torch.autocast(source.x.device.type, enabled=False):
            x_ND = source.x.to(self._dtype(source.x))
            self.terms = dict(self._source_terms(x_ND, y_N) if terms is None else terms)
            self._prepare(x_ND, y_N, self.terms)
        return self

    def __call__(self, features: Tensor, labels: Tensor, shares: Tensor | None = None) -> Tensor:
        """Return the distance of the target from the source, a scalar.

        Args:
            features: target features [n, D], any floating type; the gradient flows into them.
            labels: integer class ids [n]; arbitrary ones.
            shares: what share of the data set each class has, [L] in ascending order of the class ids that occur;
                default: its share of ``labels``. Distances that go class by class weigh the classes with it, all
                others take the points as they come.

        Raises:
            UserError: for a wrong shape, another D than the source's, or a value that is not finite.
        """
        if self._source is None:
            raise RuntimeError(f"{type(self).__name__}: call fit(source) first")
        check_features("target features", features)
        check_labels("target labels", labels, features)
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
            x_nD = cast(Tensor, _Widen.apply(features, self._dtype(features)))  # type: ignore[no-untyped-call]
            value = self._distance(x_nD.to(device), y_n, shares_L)
        if self.uses_labels and self._single_class:
            note = (
                f"all {len(self._source.y)} source samples are of one class: target classes cannot be told apart by "
                "where they go (sources with several let them)"
            )
            self.diagnosis = replace(self.diagnosis, notes=(note, *self.diagnosis.notes))
        self._log_notes()
        return value.to(device=features.device, dtype=torch.promote_types(features.dtype, torch.float32))

    def _log_notes(self) -> None:
        for note in self.diagnosis.notes:
            if note not in self._told:
                self._told.add(note)
                logger.info("distance %s: %s", self.name, note)

    def _dtype(self, x: Tensor) -> torch.dtype:
        return torch.promote_types(self.precision, x.dtype)

    def _source_terms(self, x_ND: Tensor, y_N: Tensor) -> Mapping[str, Tensor]:
        """Return what is dear to compute of the source, to be kept on disk; features and class ids 0 … K-1."""
        return {}

    @abstractmethod
    def _prepare(self, x_ND: Tensor, y_N: Tensor, terms: Mapping[str, Tensor]) -> None:
        """Keep what calls need of the source; cheap beside `_source_terms`, whose result (on any device) it gets."""

    @abstractmethod
    def _distance(self, x_nD: Tensor, y_n: Tensor, shares_L: Tensor) -> Tensor:
        """Return the scalar for features, class ids 0 … L-1 all of which occur, and the classes' shares; set
        `diagnosis` where a solver or a fallback is at work."""


class _Widen(torch.autograd.Function):
    """Conversion to another precision; on the way back what the narrower one cannot hold is cut, not infinite."""

    @staticmethod
    def forward(ctx: FunctionCtx, x: Tensor, dtype: torch.dtype) -> Tensor:
        ctx.narrow = x.dtype  # type: ignore[attr-defined]
        return x.to(dtype)

    @staticmethod
    def backward(ctx: FunctionCtx, grad: Tensor) -> tuple[Tensor, None]:
        narrow: torch.dtype = ctx.narrow  # type: ignore[attr-defined]
        largest = torch.finfo(narrow).max
        return grad.clamp(-largest, largest).to(narrow), None


def _consecutive(labels: Tensor) -> Tensor:
    """Rename labels to 0 … K-1; no distance depends on the names, so sorted order will do."""
    _, consecutive = torch.unique(labels, return_inverse=True)
    return cast(Tensor, consecutive)
