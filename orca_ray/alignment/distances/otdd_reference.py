"""The data set distance as the reference (ORCA, arXiv:2302.05738) computes it, value and gradient.

Letters: N source points of K classes, n points of one target class, D features.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import cast

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx, once_differentiable

from orca_ray.alignment.cost import Cost
from orca_ray.alignment.distance import Diagnosis, Distance
from orca_ray.alignment.ladder import ladder, self_value, self_values, solve
from orca_ray.errors import UserError

MIN_CLASS, MAX_CLASS = 2, 50_000
"""Source classes with fewer or more points than this are left out."""

_OUT_OF_RANGE = 0.1
"""Of the root of the largest number: squares of squared distances must not overflow."""
_CONVERGED = 0.01
"""L1 error of the marginals below which the ladder, which has no tolerance, counts as converged."""


@dataclass(frozen=True)
class _Source:
    """Source points in the order of their classes, about their mean."""

    x_ND: Tensor
    y_N: Tensor
    center_D: Tensor
    classes: tuple[slice, ...]
    low_KD: Tensor
    high_KD: Tensor
    """Bounding boxes of the classes."""

    @classmethod
    def of(cls, x_ND: Tensor, y_N: Tensor) -> "_Source":
        order_N = torch.argsort(y_N, stable=True)
        center_D = x_ND.mean(0)
        ends = torch.bincount(y_N).cumsum(0).tolist()
        classes = tuple(slice(start, end) for start, end in zip([0, *ends], ends, strict=False))
        x_ND = (x_ND - center_D)[order_N]
        low_KD = torch.stack([x_ND[c].amin(0) for c in classes])
        high_KD = torch.stack([x_ND[c].amax(0) for c in classes])
        return cls(x_ND, y_N[order_N], center_D, classes, low_KD, high_KD)

    def in_dtype(self, dtype: torch.dtype) -> "_Source":
        """Return the same points in another precision."""
        names = ("x_ND", "center_D", "low_KD", "high_KD")
        return replace(self, **{name: getattr(self, name).to(dtype) for name in names})

    def squared_diameter(self, x_nD: Tensor) -> float:
        """Return d² of the outer problem: the class id is another coordinate, K for the target."""
        high_D = torch.maximum(self.high_KD.amax(0), x_nD.amax(0))
        low_D = torch.minimum(self.low_KD.amin(0), x_nD.amin(0))
        return float((high_D - low_D).square().sum()) + len(self.classes) ** 2

    def class_diameters(self, x_nD: Tensor) -> list[float]:
        """Return d² of each class with other points."""
        gap_KD = torch.maximum(self.high_KD, x_nD.amax(0)) - torch.minimum(self.low_KD, x_nD.amin(0))
        squared: list[float] = gap_KD.square().sum(1).tolist()
        return squared


@dataclass(frozen=True)
class _ClassResult:
    value: float
    gradient_nD: Tensor | None
    iterations: int
    error: float


class ReferenceOTDD(Distance):
    """Objective ``otdd-exact`` of the reference, for comparison with its published results (protocol ``paper``).

    value = Σ_c shares_c S(target class c, source), each target class against the whole source. S is a Sinkhorn
    divergence with cost ½‖x − y‖² + ½ W, where W, the distance between the points' classes, is a Sinkhorn divergence
    between the classes' points with cost ‖x − y‖². Both run the `ladder` down to eps = 0.1 and stop there.

    Properties that differ from the other distances:

    - Neither problem is solved: the ladder has 8 to 12 steps, and where squared distances are large compared with
      eps = 0.1 (which is absolute, whatever the features' scale) the plan's marginals are far off; see
      `diagnosis.error`. A converged solver has another gradient. Hence not `debiased` (it can be negative) and not
      `symmetric`.
    - The gradient is that of the last step alone, not the value's own (`exact_gradient` is False).
    - Labels do not train: W is a constant, and with one class on the target's side it cancels from the plan.
    - Box diagonals include the class ids (the target's is K), so that the number of classes affects the ladder.
    - A target class of one sample is left out and its share is lost; source classes of fewer than 2 or more than
      50 000 samples are left out. `diagnosis.notes` reports both.
    - In float32 the value is infinite where squared distances come near 1e18; such a source is refused.
    - Where a target class has more samples than the source, the reference takes a random subset of it, and at
      n % 256 == 1 it crashes; this implementation uses all points.

    `fit` computes the costs within the source, which depend on the target through the last steps of the ladder only,
    and calls interpolate between them (`self_values`). The gradient is in closed form. A call takes two n N D products
    and about 30 passes over n N costs for each class.
    """

    name = "otdd_reference"
    version = 3
    uses_labels = True
    debiased = False
    symmetric = False
    exact_gradient = False
    precision = torch.float32

    def _source_terms(self, x_ND: Tensor, y_N: Tensor) -> Mapping[str, Tensor]:
        source = _Source.of(*_usable_classes(x_ND, y_N)[:2])
        squared = source.squared_diameter(source.x_ND)
        if not _in_range(squared, source.x_ND.dtype):
            raise UserError(
                f"source features of shape {tuple(x_ND.shape)}: {self.name} computes in {x_ND.dtype}, whose range "
                "their squared distances exceed; scale them down or choose another distance"
            )
        # Costs between classes are ‖x − y‖²: twice C, so that halved temperatures give halved potentials.
        points = [source.x_ND[c] for c in source.classes]
        diameters = (source.high_KD - source.low_KD).square().sum(1).tolist()
        self_KSP = torch.stack([self_values(Cost(x).store(), d, 0.5) for x, d in zip(points, diameters, strict=True)])
        w_KK = torch.zeros(len(points), len(points), dtype=torch.float64)
        for i, x in enumerate(points):
            w_i = _label_distances(source, self_KSP, x, Cost(x, source.x_ND).store(), self_KSP[i], source.classes[:i])
            w_KK[i, :i] = torch.tensor(w_i, dtype=torch.float64)
        labels = (source.y_N, source.y_N)
        cost = Cost(source.x_ND, None, (w_KK + w_KK.T).to(source.x_ND), labels).store()
        return {"self_KSP": self_KSP, "self_SP": self_values(cost, squared)}

    def _prepare(self, x_ND: Tensor, y_N: Tensor, terms: Mapping[str, Tensor]) -> None:
        x_ND, y_N, self._source_notes = _usable_classes(x_ND, y_N)
        self._sides = {x_ND.dtype: _Source.of(x_ND, y_N)}
        self._self_KSP, self._self_SP = terms["self_KSP"].cpu(), terms["self_SP"].cpu()

    def _side(self, dtype: torch.dtype) -> _Source:
        first = next(iter(self._sides))
        dtype = torch.promote_types(dtype, first)
        if dtype not in self._sides:
            self._sides[dtype] = self._sides[first].in_dtype(dtype)
        return self._sides[dtype]

    def _distance(self, x_nD: Tensor, y_n: Tensor, shares_L: Tensor) -> Tensor:
        return cast(Tensor, _ClassByClass.apply(x_nD, y_n, shares_L, self))  # type: ignore[no-untyped-call]

    def value_and_gradient(
        self, x_nD: Tensor, y_n: Tensor, shares_L: Tensor, wants_gradient: bool
    ) -> tuple[float, Tensor]:
        """Return the sum over classes and its gradient [n, D] (zeros unless wanted), and set `diagnosis`."""
        total, gradient_nD = 0.0, torch.zeros_like(x_nD)
        iterations, error, singles = 0, 0.0, 0
        source, sizes = self._side(x_nD.dtype), torch.bincount(y_n).tolist()
        for c, share in enumerate(shares_L.tolist()):
            if sizes[c] < 2:
                singles += 1
                continue
            ids = (y_n == c).nonzero()[:, 0]
            result = self._one_class(source, x_nD[ids].to(source.x_ND.dtype) - source.center_D, wants_gradient)
            total += share * result.value
            iterations, error = max(iterations, result.iterations), max(error, result.error)
            if result.gradient_nD is not None:
                gradient_nD[ids] = result.gradient_nD.mul_(share).to(x_nD.dtype)
        notes = list(self._source_notes)
        if singles == len(sizes):
            notes.append("all target classes have one sample, so nothing is aligned: raise align.samples")
        elif singles:
            notes.append(f"{singles} target classes of one sample left out")
        if max(sizes) > len(source.x_ND):
            notes.append(f"a target class has {max(sizes)} samples, more than the source: all were used")
        self.diagnosis = Diagnosis(error <= _CONVERGED, iterations, error, tuple(notes))
        return total, gradient_nD

    def _one_class(self, source: _Source, x_nD: Tensor, wants_gradient: bool) -> _ClassResult:
        """Compute one class's divergence from the source, for centred points [n, D]; infinite where too far."""
        squared = source.squared_diameter(x_nD)
        if not _in_range(squared, x_nD.dtype):
            return _ClassResult(math.inf, None, 0, 2.0)
        cost, temperatures = Cost(x_nD, source.x_ND).store(), ladder(squared)
        w_K = x_nD.new_tensor(_label_distances(source, self._self_KSP, x_nD, cost))
        half_w_N = 0.5 * w_K[source.y_N]
        # The label part of the cost adds to f and cancels from all else but the first step: see `solve`.
        across = solve(cost, temperatures, start_N=-half_w_N)
        own = solve(Cost(x_nD).store(), temperatures, symmetric=True)
        value = across.value + float(half_w_N.mean()) - self_value(self._self_SP, squared) - own.value / 2.0
        source_nD, mass_N = across.barycentres(source.x_ND if wants_gradient else source.x_ND[:, :0])
        error = float((len(mass_N) * mass_N - 1.0).abs().mean())
        gradient_nD = (own.barycentres(x_nD)[0] - source_nD).div_(len(x_nD)) if wants_gradient else None
        return _ClassResult(value, gradient_nD, len(temperatures) + 2, error)


class _ClassByClass(torch.autograd.Function):
    """The value, with the gradient that was computed with it."""

    @staticmethod
    def forward(ctx: FunctionCtx, x_nD: Tensor, y_n: Tensor, shares_L: Tensor, distance: ReferenceOTDD) -> Tensor:
        wants_gradient = ctx.needs_input_grad[0]  # type: ignore[attr-defined]
        value, gradient_nD = distance.value_and_gradient(x_nD, y_n, shares_L, wants_gradient)
        ctx.save_for_backward(gradient_nD)
        return x_nD.new_tensor(value)

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, grad: Tensor) -> tuple[Tensor, None, None, None]:
        (gradient_nD,) = ctx.saved_tensors  # type: ignore[attr-defined]
        return grad * gradient_nD, None, None, None


def _label_distances(
    source: _Source,
    self_KSP: Tensor,
    x_nD: Tensor,
    cost: Cost,
    self_SP: Tensor | None = None,
    classes: tuple[slice, ...] | None = None,
) -> list[float]:
    """Return W from source classes, by default all, to one more class.

    Args:
        source: the points.
        self_KSP: `self_values` of its classes.
        x_nD: points of the other class.
        cost: of all source points and these.
        self_SP: `self_values` of the other class, or None to solve its ladders.
        classes: some of the source's.
    """
    w_K, own_cost = [], Cost(x_nD).store() if self_SP is None else None
    classes = source.classes if classes is None else classes
    for c, class_SP, squared in zip(classes, self_KSP, source.class_diameters(x_nD), strict=False):
        temperatures = [0.5 * e for e in ladder(squared)]
        if own_cost is not None:
            own = solve(own_cost, temperatures, symmetric=True).value / 2.0
        else:
            assert self_SP is not None
            own = self_value(self_SP, squared)
        w_K.append(2.0 * (solve(cost.columns(c), temperatures).value - self_value(class_SP, squared) - own))
    return w_K


def _in_range(squared_diameter: float, dtype: torch.dtype) -> bool:
    return squared_diameter < _OUT_OF_RANGE * math.sqrt(torch.finfo(dtype).max)


def _usable_classes(x_ND: Tensor, y_N: Tensor) -> tuple[Tensor, Tensor, tuple[str, ...]]:
    """Leave out classes that are too small or too large; the note says how many."""
    sizes_K = torch.bincount(y_N)
    usable_K = (sizes_K >= MIN_CLASS) & (sizes_K <= MAX_CLASS)
    if bool(usable_K.all()):
        return x_ND, y_N, ()
    if not bool(usable_K.any()):
        raise UserError(
            f"source features of shape {tuple(x_ND.shape)}: otdd_reference needs a class of {MIN_CLASS} to {MAX_CLASS} "
            f"samples, but the {len(sizes_K)} classes have {int(sizes_K.min())} to {int(sizes_K.max())}; "
            "cluster the source into fewer classes or choose another distance"
        )
    usable_N = usable_K[y_N]
    note = (
        f"{int((~usable_K).sum())} of {len(sizes_K)} source classes left out, with {int((~usable_N).sum())} samples: "
        f"fewer than {MIN_CLASS} or more than {MAX_CLASS} each"
    )
    return x_ND[usable_N], torch.unique(y_N[usable_N], return_inverse=True)[1], (note,)


DISTANCE = ReferenceOTDD
