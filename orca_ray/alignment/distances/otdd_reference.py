"""The data set distance as the reference (ORCA, arXiv:2302.05738) computes it, value and gradient."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx, once_differentiable

from orca_ray.alignment import ladder, self_values
from orca_ray.alignment.cost_matrix import LabelledCost
from orca_ray.alignment.distance import Diagnosis, Distance
from orca_ray.alignment.reference_labels import (
    FIT_BYTES,
    Labels,
    SinkhornLabels,
    SortedSource,
)
from orca_ray.errors import UserError

MIN_CLASS, MAX_CLASS = 2, 50_000
"""Source classes with fewer or more points than this are left out."""

_OUT_OF_RANGE = 0.1  # of the root of the largest number: squares of squared distances must not overflow
_CONVERGED = 0.01  # of the marginals' L1 error; the ladder itself has no tolerance


@dataclass(frozen=True)
class _ClassResult:
    """Divergence of one class, its gradient and how the ladder ended."""

    value: float
    gradient_nD: Tensor | None
    iterations: int
    error: float


class ReferenceOTDD(Distance):
    """Objective ``otdd-exact`` of the reference, for comparison with its published results (protocol ``paper``).

    value = sum_c shares_c S(target class c, source), one class of the target at a time against the whole source. S is
    a Sinkhorn divergence with cost ½‖x − y‖² + ½ W, where W, the distance between the points' classes, is a Sinkhorn
    divergence between the classes' points with cost ‖x − y‖². Both run the `ladder` down to eps = 0.1 and stop there.

    What to know before reading anything into it:

    - Neither problem is solved: the ladder has 8 to 12 steps, and where squared distances are large beside eps = 0.1
      (which is absolute, whatever the features' scale) the plan's marginals are far off; `diagnosis.error` tells. A
      converged solver has another gradient. Hence not `debiased` (it can be negative) and not `symmetric`.
    - The gradient is that of the last step alone, so not the value's own (`exact_gradient` is False).
    - Labels do not train: W is a constant, and with one class on the target's side it cancels from the plan.
    - Box diagonals include the class ids (the target's is K), so that the number of classes has a say in the ladder.
    - A target class of one sample is left out, its share lost; so are source classes of fewer than 2 or more than
      50 000 samples. `diagnosis.notes` says so.
    - In float32 the value is infinite where squared distances come near 1e18, and such a source is refused.
    - Where a target class has more samples than the source, the reference draws a random subset of it, and at
      n % 256 == 1 it crashes; here all points count.

    Costs within the source depend on the ladder, and so on the target, by the ladder's last steps only: `fit` computes
    them at six phases between which calls interpolate (relative error of the value about 1e-6). On CPUs with units for
    bfloat16 the plan is multiplied with the source in it where that adds less than a thousandth to the gradient, unless
    algorithms are to be deterministic. A call takes about 15 passes over the n N costs of each class and 4 n N D
    operations, and below 20 MB, the gradient included.
    """

    name = "otdd_reference"
    version = 2
    uses_labels = True
    debiased = False
    symmetric = False
    exact_gradient = False
    precision = torch.float32

    def __init__(self) -> None:
        super().__init__()
        self._labels = self._make_labels()

    def _make_labels(self) -> Labels:
        return SinkhornLabels()

    def _source_terms(self, x_ND: Tensor, y_N: Tensor) -> Mapping[str, Tensor]:
        source = SortedSource.of(*_kept_classes(x_ND, y_N)[:2])
        if not _in_range(source.squared_diameter(source.x_ND), source.x_ND.dtype):
            raise UserError(
                f"source features of shape {tuple(x_ND.shape)}: {self.name} computes in {x_ND.dtype}, whose range "
                "their squared distances exceed; scale them down or choose another distance"
            )
        terms, w_KK = self._labels.source_terms(source)
        cost = LabelledCost(source.x_ND, source.y_N, w_KK, FIT_BYTES)
        squared = source.squared_diameter(source.x_ND) + len(source.classes) ** 2
        return {**terms, "self_SP": self_values.by_phase(cost, squared)}

    def _prepare(self, x_ND: Tensor, y_N: Tensor, terms: Mapping[str, Tensor]) -> None:
        x_ND, y_N, self._source_notes = _kept_classes(x_ND, y_N)
        source = SortedSource.of(x_ND, y_N)
        self._sources = {source.x_ND.dtype: source}
        self._self_phases: list[list[float]] = terms["self_SP"].tolist()
        self._labels.prepare(source, terms)

    def _source_in(self, dtype: torch.dtype) -> SortedSource:
        if dtype not in self._sources:
            self._sources[dtype] = next(iter(self._sources.values())).to(dtype)
        return self._sources[dtype]

    def _distance(self, x_nD: Tensor, y_n: Tensor, shares_L: Tensor) -> Tensor:
        return cast(Tensor, _ClassByClass.apply(x_nD, y_n, shares_L, self))  # type: ignore[no-untyped-call]

    def value_and_gradient(
        self, x_nD: Tensor, y_n: Tensor, shares_L: Tensor, wants_gradient: bool
    ) -> tuple[float, Tensor]:
        """Return the sum over classes and its gradient [n, D] (zeros unless wanted), and set `diagnosis`."""
        total, gradient_nD = 0.0, None
        notes, iterations, error = list(self._source_notes), 0, 0.0
        source = self._source_in(torch.promote_types(x_nD.dtype, next(iter(self._sources))))
        singles, largest = 0, 0
        for c, share in enumerate(shares_L.tolist()):
            ids = (y_n == c).nonzero()[:, 0]
            largest = max(largest, len(ids))
            if len(ids) < 2:
                singles += 1
                continue
            points = x_nD if len(ids) == len(x_nD) else x_nD[ids]
            points = points.to(source.x_ND.dtype) - source.center_D
            result = self._one_class(source, points, wants_gradient)
            total += share * result.value
            iterations, error = max(iterations, result.iterations), max(error, result.error)
            if result.gradient_nD is not None:
                part = result.gradient_nD.mul_(share).to(x_nD.dtype)
                if len(ids) == len(x_nD):  # the only class: its samples are all there are, in order
                    gradient_nD = part
                else:
                    gradient_nD = torch.zeros_like(x_nD) if gradient_nD is None else gradient_nD
                    gradient_nD[ids] = part
        if singles == len(shares_L):
            notes.append("all target classes have one sample, so nothing is aligned: raise align.samples")
        elif singles:
            notes.append(f"{singles} target classes of one sample left out")
        if largest > len(source.x_ND):
            notes.append(f"a target class has {largest} samples, more than the source: all were used")
        self.diagnosis = Diagnosis(error <= _CONVERGED, iterations, error, tuple(notes))
        return total, torch.zeros_like(x_nD) if gradient_nD is None else gradient_nD

    def _one_class(self, source: SortedSource, x_nD: Tensor, wants_gradient: bool) -> _ClassResult:
        """Compute one class's divergence from the source, for centred points [n, D]; infinite where too far."""
        squared = source.squared_diameter(x_nD) + len(source.classes) ** 2
        if not _in_range(squared, x_nD.dtype):
            return _ClassResult(math.inf, None, 0, 2.0)
        costs = source.costs(x_nD)
        w_K, label_gradient = self._labels.to_target(source, x_nD, costs)
        temperatures = ladder.ladder(squared)
        gradient_nD = torch.zeros_like(x_nD) if wants_gradient else None
        n = len(x_nD)
        own = ladder.solve_self(costs.own, temperatures, spends=True)
        if gradient_nD is not None:
            own.carry(x_nD, gradient_nD, 1.0 / n)
        own_value = own.value / 2.0
        del own  # its memory goes first
        # The part of W cancels from f but for the first step: see `ladder.solve`.
        across = ladder.solve(costs.across, temperatures, start_N=-0.5 * w_K[source.y_N], spends=True)
        # Where the source's part is small beside the target's own (it is centred), its rounding does not show.
        mass_N = across.carry(source.x_ND, gradient_nD, -1.0 / n, coarse=True)
        value = across.value + float(0.5 * source.shares_K @ w_K)
        value -= self_values.at_phase(self._self_phases, squared) + own_value
        if gradient_nD is not None and label_gradient is not None:
            label_gradient(_label_weights(source, mass_N), gradient_nD)
        error = float((len(mass_N) * mass_N - 1.0).abs().mean())
        return _ClassResult(value, gradient_nD, len(temperatures) + 2, error)


class _ClassByClass(torch.autograd.Function):
    """The value, with a gradient that is known by the time that the value is."""

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


def _in_range(squared_diameter: float, dtype: torch.dtype) -> bool:
    return squared_diameter < _OUT_OF_RANGE * math.sqrt(torch.finfo(dtype).max)


def _label_weights(source: SortedSource, mass_N: Tensor) -> Tensor:
    """Return what the reference's autograd multiplies dW [K] with: half its share in either direction's last step."""
    carried_K = torch.stack([mass_N[c].sum() for c in source.classes])
    return 0.5 * (source.shares_K + carried_K)


def _kept_classes(x_ND: Tensor, y_N: Tensor) -> tuple[Tensor, Tensor, tuple[str, ...]]:
    """Leave out classes that are too small or too large, and say how many."""
    sizes_K = torch.bincount(y_N)
    kept_K = (sizes_K >= MIN_CLASS) & (sizes_K <= MAX_CLASS)
    if bool(kept_K.all()):
        return x_ND, y_N, ()
    if not bool(kept_K.any()):
        raise UserError(
            f"source features of shape {tuple(x_ND.shape)}: otdd_reference needs a class of {MIN_CLASS} to {MAX_CLASS} "
            f"samples, but the {len(sizes_K)} classes have {int(sizes_K.min())} to {int(sizes_K.max())}; "
            "cluster the source into fewer classes or choose another distance"
        )
    kept_N = kept_K[y_N]
    note = (
        f"{int((~kept_K).sum())} of {len(sizes_K)} source classes left out, with {int((~kept_N).sum())} samples: "
        f"fewer than {MIN_CLASS} or more than {MAX_CLASS} each"
    )
    return x_ND[kept_N], torch.unique(y_N[kept_N], return_inverse=True)[1], (note,)


DISTANCE = ReferenceOTDD
