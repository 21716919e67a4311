"""The dataset distance with value and gradient as in the ORCA reference.

The reference implementation is that of arXiv:2302.05738. Shapes: N source points i of K
classes (columns), n points j of one target class (rows), D features. Equal weights.

Sinkhorn iterations follow a fixed, decreasing list of temperatures (a "ladder") and end
before they converge. From potentials f [N] and g [n] and costs C [n, N], a step at
temperature e computes the soft minima

    f~_i = −e log mean_j exp((g_j − C_ji) / e),
    g~_j = −e log mean_i exp((f_i − C_ji) / e).

Both potentials are replaced by their soft minima in one step at the first temperature;
then averaged with the minima, f ← (f + f~) / 2, in one "half step" at each temperature;
then replaced again in one step at the last temperature.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from orca_ray.alignment.cost import CostMatrix
from orca_ray.alignment.distance import Diagnosis, Distance
from orca_ray.errors import UserError

MIN_CLASS = 2
"""Source classes with fewer points are left out."""
MAX_CLASS = 50_000
"""Source classes with more points are left out."""
_OUT_OF_RANGE = 0.1
"""A squared diameter d² must be below this times the square root of the largest float,
so that squares of d² do not overflow.
"""
_STEP_BYTES = 12 * 2**20
"""Cost matrices up to this size are stored during a call; larger ones are recomputed in
each step.
"""
_CONVERGED = 0.01
"""`Diagnosis.converged` is True if the L1 error of the marginals after the last step is
at most this.
"""
EPSILON = 0.1
"""The last temperature of every ladder, in units of squared features; ``entreg`` in the
ORCA reference.
"""
_LOG2_E = math.log2(math.e)
"""Factor on exponents of e that makes them exponents of 2."""
_FLOOR = -90.0
"""Exponents of 2 are clamped to at least this, because arithmetic with denormal float32
numbers is slow.
"""
_LEAST = 2.0**-50
"""Sums of exponentials below this are recomputed by `_robust_minima`.

Clamped terms add less than 1e-8 of this.
"""
_MOST = 2.0**100
"""Sums of exponentials above this are recomputed by `_robust_minima`."""
_REMEMBERED = 5
"""Number of steps of a ladder that affect its result; see `self_values`."""
_PHASES = (0.017, 0.146, 0.371, 0.629, 0.854, 0.983)
"""Chebyshev nodes in [0, 1], by which `self_value` interpolates."""


def ladder(squared_diameter: float) -> list[float]:
    """Return the ladder that starts at the temperature d² = ``squared_diameter``.

    It is d², then d², d²/4, d²/16 and so on above EPSILON, then EPSILON.
    """
    if squared_diameter <= 0:
        return [EPSILON, EPSILON]
    # Number of powers of 4 between EPSILON and d².
    steps = math.ceil(math.log(squared_diameter / EPSILON) / math.log(4.0))
    return [
        squared_diameter,
        *(squared_diameter * 0.25**k for k in range(steps)),
        EPSILON,
    ]


def self_values(
    cost: CostMatrix, squared_diameter: float, factor: float = 1.0
) -> Tensor:
    """Return a table [5, 6] of the mean of f after `solve`, for `self_value`.

    ``cost`` [N, N] is symmetric; the table is float64. The mean depends on the target
    only through the ladder, i.e. through the squared diagonal d² of the bounding box of
    these N points and the target. Rows are numbers of steps, 1 to 5 (powers of 4
    between EPSILON and d²; more steps make no difference, because each half step halves
    the effect of earlier ones). Columns are phases, the positions in (0, 1] of d²
    between two powers. ``squared_diameter`` is d² of the N points alone, the smallest
    possible d². The temperatures of the ladder are multiplied by ``factor``.
    """
    fewest_steps, _ = _steps_and_phase(squared_diameter)

    def mean_f(height: float) -> float:
        temperatures = [factor * e for e in ladder(EPSILON * 4.0**height)]
        # The value is the mean of f plus that of g, and g = f.
        return solve(cost, temperatures, symmetric=True).value / 2.0

    rows = [
        [mean_f(steps - 1 + phase) for phase in _PHASES]
        for steps in range(fewest_steps, _REMEMBERED + 1)
    ]
    # Rows of fewer steps are never read.
    unused = [rows[0]] * (fewest_steps - 1)
    return torch.tensor(unused + rows, dtype=torch.float64)


def self_value(values_SP: Tensor, squared_diameter: float) -> float:
    """Return the mean of f for d² = ``squared_diameter``.

    It is interpolated in a table of `self_values` (error 1e-6).
    """
    steps, phase = _steps_and_phase(squared_diameter)
    coefficients = np.linalg.solve(np.vander(_PHASES), values_SP[steps - 1].numpy())
    return float(np.polyval(coefficients, phase))


def _steps_and_phase(squared_diameter: float) -> tuple[int, float]:
    """Return row and column (a phase) of d² in a table of `self_values`."""
    height = math.log(max(squared_diameter / EPSILON, 1.0)) / math.log(4.0)
    steps = max(1, math.ceil(height))
    return min(steps, _REMEMBERED), height - (steps - 1)


@dataclass(frozen=True)
class Solution:
    """The potentials f and g after the last step of a ladder."""

    f_N: Tensor
    g_n: Tensor
    _cost: CostMatrix
    _last_f_N: Tensor
    _e: float

    @property
    def value(self) -> float:
        """Transport cost: the mean of f plus the mean of g."""
        return float(self.f_N.mean() + self.g_n.mean())

    def barycentres(self, x_ND: Tensor) -> tuple[Tensor, Tensor]:
        """Return P X [n, D] for X = ``x_ND``, and the mean [N] of P's rows.

        P [n, N] is the transport plan: P_ji is the softmax over i of (f_i − C_ji) / e,
        with f before the last step, because gradients pass that step alone.
        """
        product_nD = x_ND.new_empty(len(self.g_n), x_ND.shape[1])
        mass_N = torch.zeros_like(self.f_N)
        for rows, cost_rN in self._cost:
            exponents_rN = (self._last_f_N - cost_rN).mul_(1.0 / self._e)
            plan_rN, _ = _exponentials(exponents_rN, dim=1)
            plan_rN *= plan_rN.sum(1, keepdim=True).reciprocal_()
            mass_N += plan_rN.sum(0)
            torch.mm(plan_rN, x_ND, out=product_nD[rows])
        return product_nD, mass_N / len(self.g_n)


def solve(
    cost: CostMatrix,
    temperatures: list[float],
    start_N: Tensor | None = None,
    symmetric: bool = False,
) -> Solution:
    """Run one Sinkhorn step after another; return the last potentials.

    They start from f = ``start_N`` (default 0) and g = 0. ``temperatures`` is a ladder.
    ``symmetric``: rows and columns are the same points, and g = f. To add a cost h_i of
    source point i to C_ji, start with f = −h instead: the result has the same g, and an
    f that is lower by h.
    """
    f_N = cost.x_nD.new_zeros(cost.shape[1]) if start_N is None else start_N
    g_n = f_N if symmetric else f_N.new_zeros(cost.shape[0])
    # The first and the last step are whole, those between are half steps.
    steps = [temperatures[0], *temperatures, temperatures[-1]]
    last_f_N = f_N
    for number, e in enumerate(steps):
        soft_f_N, soft_g_n = soft_minima(cost, f_N, g_n, e, symmetric)
        last_f_N = f_N
        is_whole_step = number in (0, len(steps) - 1)
        share = 1.0 if is_whole_step else 0.5
        f_N = torch.lerp(f_N, soft_f_N, share)
        g_n = f_N if symmetric else torch.lerp(g_n, soft_g_n, share)
    return Solution(f_N, g_n, cost, last_f_N, steps[-1])


def soft_minima(
    cost: CostMatrix, f_N: Tensor, g_n: Tensor, e: float, symmetric: bool = False
) -> tuple[Tensor, Tensor]:
    """Return the soft minima f~ [N] and g~ [n] (see the module).

    ``symmetric``: g~ is f~. Both use one matrix T_ji = exp((f_i + g_j − C_ji) / e):
    f~_i = f_i − e log mean_j T_ji, g~_j likewise. That halves the number of
    exponentials. If a sum of T is too large or small to be accurate, `_robust_minima`
    recomputes all.
    """
    n, num_source = cost.shape
    scale = _LOG2_E / e
    scaled_f_N = f_N * scale
    scaled_g_n1 = (g_n * scale)[:, None]
    sums_n = torch.empty_like(g_n)
    sums_N = torch.zeros_like(f_N)
    for rows, cost_rN in cost:
        t_rN = torch.add(scaled_f_N, cost_rN, alpha=-scale).add_(scaled_g_n1[rows])
        # Without the clamp, most values underflow, which is ten times slower.
        t_rN.clamp_min_(_FLOOR).exp2_()
        sums_n[rows] = t_rN.sum(1)
        if not symmetric:
            sums_N += t_rN.sum(0)
    if symmetric:
        sums_N = sums_n
    extremes = torch.stack([*torch.aminmax(sums_n), *torch.aminmax(sums_N)]).tolist()
    if not all(_LEAST < extreme < _MOST for extreme in extremes):
        return _robust_minima(cost, f_N, g_n, e)
    soft_f_N = f_N - e * (sums_N.log() - math.log(n))
    soft_g_n = g_n - e * (sums_n.log() - math.log(num_source))
    return soft_f_N, soft_g_n


def _robust_minima(
    cost: CostMatrix, f_N: Tensor, g_n: Tensor, e: float
) -> tuple[Tensor, Tensor]:
    """Return the result of `soft_minima`, computed with logarithms of the sums."""
    logs_n = torch.empty_like(g_n)
    logs_N = torch.full_like(f_N, -torch.inf)
    for rows, cost_rN in cost:
        exponents_rN, peaks_r1 = _exponentials((f_N - cost_rN).mul_(1.0 / e), dim=1)
        logs_n[rows] = exponents_rN.sum(1).log() + peaks_r1[:, 0]
        exponents_rN, peaks_1N = _exponentials(
            (g_n[rows, None] - cost_rN).mul_(1.0 / e), dim=0
        )
        logs_N = torch.logaddexp(logs_N, exponents_rN.sum(0).log() + peaks_1N[0])
    soft_f_N = -e * (logs_N - math.log(len(g_n)))
    soft_g_n = -e * (logs_n - math.log(len(f_N)))
    return soft_f_N, soft_g_n


def _exponentials(exponents: Tensor, dim: int) -> tuple[Tensor, Tensor]:
    """Return exp(x − max x) and max x, with maxima along ``dim``.

    The exponentials overwrite x = ``exponents``.
    """
    peaks = exponents.amax(dim, keepdim=True)
    return exponents.sub_(peaks).mul_(_LOG2_E).clamp_min_(_FLOOR).exp2_(), peaks


class _Source:
    """Source points of the `_usable_classes`, centred and sorted by class.

    It also holds the bounding box of each class.
    """

    def __init__(self, x_ND: Tensor, y_N: Tensor) -> None:
        usable = _usable_classes(x_ND, y_N)
        self.notes = usable.notes
        # The samples of a class are consecutive, so that a class is a slice.
        order_N = torch.argsort(usable.y_N, stable=True)
        self.center_D = usable.x_ND.mean(0)
        self.x_ND = (usable.x_ND - self.center_D)[order_N]
        self.y_N = usable.y_N[order_N]
        ends = torch.bincount(usable.y_N).cumsum(0).tolist()
        self.classes = [
            slice(start, end) for start, end in zip([0, *ends], ends, strict=False)
        ]
        self.low_KD = torch.stack([self.x_ND[c].amin(0) for c in self.classes])
        self.high_KD = torch.stack([self.x_ND[c].amax(0) for c in self.classes])

    def diameters(self, x_nD: Tensor) -> tuple[float, list[float]]:
        """Return squared diagonals of the joint bounding box and of one box per class.

        The joint box contains ``x_nD`` and all source classes, with the class id as one
        more coordinate. The box of a class contains ``x_nD`` and the points of that
        class.
        """
        low_KD = torch.minimum(self.low_KD, x_nD.amin(0))
        high_KD = torch.maximum(self.high_KD, x_nD.amax(0))
        sides_D = high_KD.amax(0) - low_KD.amin(0)
        joint = float(sides_D.square().sum()) + len(self.classes) ** 2
        return joint, (high_KD - low_KD).square().sum(1).tolist()

    def label_distances(
        self, self_KSP: Tensor, x_nD: Tensor, cost: CostMatrix
    ) -> Tensor:
        """Return distances W [K], float64, of the source classes from another class.

        ``x_nD`` are the points of that other class. ``self_KSP`` are the `self_values`
        of the source classes; ``cost`` is C between ``x_nD`` and all source points. The
        cost in W is ‖x − y‖² = 2 C; so C is used with half the temperatures, which
        gives half the potentials.
        """
        w_K = []
        target_cost = CostMatrix(x_nD).store(_STEP_BYTES)
        _, squared_diameters = self.diameters(x_nD)
        for columns, self_SP, squared in zip(
            self.classes, self_KSP, squared_diameters, strict=True
        ):
            temperatures = [0.5 * e for e in ladder(squared)]
            target_solution = solve(target_cost, temperatures, symmetric=True)
            debiasing = self_value(self_SP, squared) + target_solution.value / 2.0
            across = solve(cost.columns(columns), temperatures).value
            w_K.append(2.0 * (across - debiasing))
        return torch.tensor(w_K, dtype=torch.float64)


class _ClassDistance(NamedTuple):
    """Distance S of one target class from the source, and how it was computed."""

    value: float
    error: float
    """L1 error of the marginals."""
    num_steps: int
    gradient_nD: Tensor


class ReferenceOTDD(Distance):
    """Distance ``otdd-exact`` of the ORCA reference.

    It serves to reproduce published results (protocol ``paper``).

    value = Σ_c share_c S(target class c, source), where share_c is the relative size of
    class c. S is a Sinkhorn divergence with cost ½‖x − y‖² + ½ W[class of x, class of
    y], and W a Sinkhorn divergence between the points of two classes with cost ‖x −
    y‖². The iterations for S and for W run through a list of decreasing temperatures,
    the `ladder`, from the squared diagonal of the points' bounding box to eps = 0.1,
    and stop there. Consequences:

    - The iterations do not converge if squared distances are much larger than eps,
      which is absolute: the plan's marginals are wrong by `diagnosis.error`, and the
      value can be negative.
    - The gradient is that of the last step alone, in closed form, not the gradient of
      the value.
    - Labels do not affect the gradient: W is treated as constant and, for one target
      class, cancels from the plan.
    - The bounding box for S has the class id as a coordinate, so the number of classes
      affects the ladder.
    - Target classes of one sample are left out, without rescaling the other shares;
      source classes of fewer than 2 or more than 50 000 samples are left out, too.
      `diagnosis.notes` reports both.
    - In float32, the value is infinite if squared distances are near 1e18; `fit` raises
      UserError for such a source.
    - If a target class has more samples than the source, the reference uses a random
      subset of it, and crashes if n % 256 == 1. Here, all points are used.

    For each target class of n points, a call takes two matrix products of n N D
    multiplications and about 30 passes over the n N costs, if the source has N points
    of D features.
    """

    name = "otdd_reference"
    version = 3
    uses_labels = True
    debiased = False
    symmetric = False
    exact_gradient = False
    precision = torch.float32

    def _source_terms(self, x_ND: Tensor, y_N: Tensor) -> Mapping[str, Tensor]:
        """Return tables of `self_values`, of each source class and of all of them."""
        source = _Source(x_ND, y_N)
        squared, _ = source.diameters(source.x_ND)
        if not _in_range(squared, source.x_ND.dtype):
            raise UserError(
                f"source features of shape {tuple(x_ND.shape)}: {self.name} computes in"
                f" {x_ND.dtype}, whose range their squared distances exceed; scale them"
                " down or choose another distance"
            )
        points = [source.x_ND[rows] for rows in source.classes]
        squared_diameters = (source.high_KD - source.low_KD).square().sum(1)
        self_KSP = torch.stack(
            [
                self_values(
                    CostMatrix(x_nD).store(), float(squared_diameter), factor=0.5
                )
                for x_nD, squared_diameter in zip(
                    points, squared_diameters, strict=True
                )
            ]
        )
        rows_of_w = []
        for x_nD in points:
            cost = CostMatrix(x_nD, source.x_ND).store()
            rows_of_w.append(source.label_distances(self_KSP, x_nD, cost))
        w_KK = torch.stack(rows_of_w)
        w_KK = (0.5 * (w_KK + w_KK.T)).fill_diagonal_(0.0).to(source.x_ND)
        labels = (source.y_N, source.y_N)
        source_cost = CostMatrix(source.x_ND, w_LK=w_KK, labels=labels).store()
        return {"self_KSP": self_KSP, "self_SP": self_values(source_cost, squared)}

    def _prepare(self, x_ND: Tensor, y_N: Tensor, terms: Mapping[str, Tensor]) -> None:
        self._usable_source = _Source(x_ND, y_N)
        self._self_KSP = terms["self_KSP"].cpu()
        self._self_SP = terms["self_SP"].cpu()

    def _distance(self, x_nD: Tensor, y_n: Tensor, shares_L: Tensor) -> Tensor:
        """Return the mean of the classes' distances, weighted by their shares.

        Its gradient is that of `_class_distance`.
        """
        total = 0.0
        gradient_nD = torch.zeros_like(x_nD)
        source = self._usable_source
        centred_nD = x_nD.detach().to(source.x_ND.dtype) - source.center_D
        sizes = torch.bincount(y_n).tolist()
        error = 0.0
        num_steps = 0
        for c, (share, size) in enumerate(zip(shares_L.tolist(), sizes, strict=True)):
            if size == 1:
                continue
            in_class = y_n == c
            result = self._class_distance(centred_nD[in_class], x_nD.requires_grad)
            total = total + share * result.value
            error = max(error, result.error)
            num_steps = max(num_steps, result.num_steps)
            gradient_nD[in_class] = share * result.gradient_nD.to(x_nD.dtype)
        notes = (*source.notes, *self._class_size_notes(sizes))
        self.diagnosis = Diagnosis(
            converged=error <= _CONVERGED,
            iterations=num_steps,
            error=error,
            notes=notes,
        )
        # The gradient of ``linear`` with respect to x_nD is gradient_nD.
        linear = (x_nD * gradient_nD).sum()
        return total + (linear - linear.detach())

    def _class_size_notes(self, sizes: list[int]) -> list[str]:
        """Return notes on target classes of one sample, or of very many."""
        notes = []
        num_singles = sizes.count(1)
        if num_singles == len(sizes):
            notes.append(
                "all target classes have one sample, so nothing is aligned: raise"
                " align.samples_per_class"
            )
        elif num_singles:
            notes.append(f"{num_singles} target classes of one sample left out")
        if max(sizes) > len(self._usable_source.x_ND):
            notes.append(
                f"a target class has {max(sizes)} samples, more than the source: all"
                " were used"
            )
        return notes

    def _class_distance(self, x_nD: Tensor, wants_gradient: bool) -> _ClassDistance:
        """Return the distance of one target class from the source.

        The points ``x_nD`` are relative to the source's mean. If they are too far from
        that mean, S is infinite and the gradient zero.
        """
        source = self._usable_source
        gradient_nD = torch.zeros_like(x_nD)
        squared, _ = source.diameters(x_nD)
        if not _in_range(squared, x_nD.dtype):
            # An L1 error of 2 is the largest possible one.
            return _ClassDistance(
                value=math.inf, error=2.0, num_steps=0, gradient_nD=gradient_nD
            )
        cost = CostMatrix(x_nD, source.x_ND).store(_STEP_BYTES)
        temperatures = ladder(squared)
        w_K = source.label_distances(self._self_KSP, x_nD, cost).to(x_nD)
        half_w_N = 0.5 * w_K[source.y_N]
        # ½ W, a cost of each source point, is added by the start of f: see `solve`.
        across = solve(cost, temperatures, start_N=-half_w_N)
        target_cost = CostMatrix(x_nD).store(_STEP_BYTES)
        within_target = solve(target_cost, temperatures, symmetric=True)
        value = (
            across.value
            + float(half_w_N.mean())
            - self_value(self._self_SP, squared)
            - within_target.value / 2.0
        )
        # Without a gradient, only the masses are needed: the points have no features.
        source_nD, mass_N = across.barycentres(
            source.x_ND if wants_gradient else source.x_ND[:, :0]
        )
        if wants_gradient:
            target_nD, _ = within_target.barycentres(x_nD)
            gradient_nD = (target_nD - source_nD) / len(x_nD)
        error = float((len(mass_N) * mass_N - 1.0).abs().mean())
        num_steps = len(temperatures) + 2  # `solve` adds a first and a last step
        return _ClassDistance(value, error, num_steps, gradient_nD)


def _in_range(squared_diameter: float, dtype: torch.dtype) -> bool:
    return squared_diameter < _OUT_OF_RANGE * math.sqrt(torch.finfo(dtype).max)


class _UsableClasses(NamedTuple):
    """Source points and labels without classes that are too small or too large."""

    x_ND: Tensor
    y_N: Tensor
    notes: tuple[str, ...]
    """A note on how many classes are left out."""


def _usable_classes(x_ND: Tensor, y_N: Tensor) -> _UsableClasses:
    """Return the samples of classes of a usable size, with a note on other classes.

    The classes are numbered anew. Raises UserError if no class has a usable size.
    """
    sizes_K = torch.bincount(y_N)
    usable_K = (sizes_K >= MIN_CLASS) & (sizes_K <= MAX_CLASS)
    if bool(usable_K.all()):
        return _UsableClasses(x_ND, y_N, ())
    if not bool(usable_K.any()):
        raise UserError(
            f"source features of shape {tuple(x_ND.shape)}: otdd_reference needs a"
            f" class of {MIN_CLASS} to {MAX_CLASS} samples, but the {len(sizes_K)}"
            f" classes have {int(sizes_K.min())} to {int(sizes_K.max())}; cluster the"
            " source into fewer classes or choose another distance"
        )
    usable_N = usable_K[y_N]
    note = (
        f"{int((~usable_K).sum())} of {len(sizes_K)} source classes left out, with"
        f" {int((~usable_N).sum())} samples: fewer than {MIN_CLASS} or more than"
        f" {MAX_CLASS} each"
    )
    _, renumbered_N = torch.unique(y_N[usable_N], return_inverse=True)
    return _UsableClasses(x_ND[usable_N], renumbered_N, (note,))


DISTANCE = ReferenceOTDD
