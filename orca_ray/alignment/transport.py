"""Entropic optimal transport between uniform measures on points, solved by POT and differentiable in its costs.

The problem is  OT = min_P <P, C> + eps KL(P | a b^T)  over plans P [n, m] with marginals a_i = 1/n and b_j = 1/m. At
the optimum the gradient dOT/dC is P (envelope theorem; Feydy et al. 2019, arXiv:1810.08278), so the iterations
themselves need no autograd.
"""

import math
import warnings
from dataclasses import dataclass, field
from typing import cast

import ot
import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from orca_ray.alignment import distance
from orca_ray.alignment.blocks import half_squared_distances, row_blocks
from orca_ray.alignment.distance import Diagnosis
from orca_ray.errors import UserError

RELATIVE_EPSILON = 0.05
"""eps as a share of the mean cost within the source: small compared with gaps between classes, and large enough for
convergence within tens to hundreds of iterations."""

TOLERANCE = 1e-7
"""L1 error of a plan's marginals, of at most 2."""

_POT_ITERATIONS, _SELF_ITERATIONS = 200, 500
_NEWTON_STEPS, _LARGEST_NEWTON = 60, 2048
_LARGEST_MOVE = 50.0
"""Of a potential, in eps, within one step of Newton's."""
_COPIES = 6
"""Float64 matrices [n, m] that POT allocates at its peak, and the costs (measured: 5.1)."""


@dataclass
class Report:
    """Collects how the problems of one call ended, for its `Diagnosis`."""

    iterations: int = 0
    error: float = 0.0
    notes: list[str] = field(default_factory=list)

    def add(self, what: str, iterations: int, error: float) -> None:
        """Record one solved problem; ``what`` names its two sides."""
        self.iterations = max(self.iterations, iterations)
        self.error = max(self.error, math.inf if math.isnan(error) else error)
        if not error <= TOLERANCE:
            self.notes.append(
                f"the transport between {what} did not converge and its gradient is approximate: where that persists, "
                "bring the two sides to a similar scale, or align with bures or sliced"
            )

    def diagnosis(self) -> Diagnosis:
        """Summarise."""
        return Diagnosis(self.error <= TOLERANCE, self.iterations, self.error, tuple(dict.fromkeys(self.notes)))


def epsilon_for(mean_cost: float, x_ND: Tensor) -> float:
    """Return `RELATIVE_EPSILON` of the mean cost between all pairs of source points.

    A source ``x_ND`` without any spread (one point, or copies of one) uses its mean square instead.
    """
    mean_square = float((x_ND * x_ND).sum(1).mean())
    # Centring leaves 1e-16 of the points, squared.
    return RELATIVE_EPSILON * (mean_cost if mean_cost > 1e-24 * mean_square else mean_square or 1.0)


@dataclass(frozen=True)
class Side:
    """Points of one side and, where labels play a part, their class ids."""

    x_nD: Tensor
    y_n: Tensor | None = None


class Cost:
    """C_ij = ½‖x_i − z_j‖² + ½ W[label_i, label_j], [n, m], in blocks of rows.

    Args:
        rows: points [n, D].
        columns: points [m, D], or None for ``rows`` themselves: no point then costs anything to itself.
        w_LK: distances between the classes of rows and columns, or None where labels play no part.
        what: names the two sides, for messages.
    """

    def __init__(self, rows: Side, columns: Side | None, w_LK: Tensor | None, what: str) -> None:
        self._rows, self._columns, self._alone, self._w_LK = rows, columns or rows, columns is None, w_LK
        self.shape = n, m = len(rows.x_nD), len(self._columns.x_nD)
        self.blocks = row_blocks(n, 8 * m, rows.x_nD.device, what=what)

    def block(self, rows: slice) -> Tensor:
        """Return the costs of some rows [r, m], differentiable in the points and in W."""
        cost_rm = half_squared_distances(self._rows.x_nD[rows], self._columns.x_nD)
        if self._w_LK is not None:
            assert self._rows.y_n is not None
            assert self._columns.y_n is not None
            cost_rm = cost_rm + (0.5 * self._w_LK)[self._rows.y_n[rows]][:, self._columns.y_n]
        if self._alone:
            cost_rm.diagonal(rows.start).zero_()
        return cost_rm

    def transported(self, value: Tensor, epsilon: float, f_n: Tensor, g_m: Tensor) -> Tensor:
        """Return ``value`` with dOT/dC = P as its gradient; blocks of P are recomputed in the backward pass."""
        if torch.is_grad_enabled():
            for rows in self.blocks:
                arguments = (self._linear_part, rows, epsilon, f_n, g_m)
                part = cast(Tensor, checkpoint(*arguments, use_reentrant=False, preserve_rng_state=False))
                value = value + (part - part.detach())
        return value

    def _linear_part(self, rows: slice, epsilon: float, f_n: Tensor, g_m: Tensor) -> Tensor:
        cost_rm = self.block(rows)
        plan_rm = (f_n[rows, None] + g_m - cost_rm.detach()).mul_(1.0 / epsilon).exp_()
        return (plan_rm * cost_rm).sum() / math.prod(self.shape)


def transport(
    rows: Side,
    columns: Side,
    w_LK: Tensor | None,
    epsilon: float,
    report: Report,
    what: str,
    start_m: Tensor | None = None,
) -> Tensor:
    """Return OT between two sides, a scalar differentiable in the points of both and in ``w_LK``.

    POT iterates up to 200 times, on a stabilised kernel or, where that loses its precision, in the log domain. Newton's
    method takes over where that is not enough: with few points, or classes that are far apart, the plan is nearly a
    matching, and Sinkhorn's iterations take more than 10 000.

    Args:
        rows: the target.
        columns: the source.
        w_LK: distances between the classes of rows and columns, or None where labels play no part.
        epsilon: the regularisation, in units of the cost.
        report: records how the problem ended.
        what: names the two sides, for messages.
        start_m: the columns' potential to start from.

    Raises:
        UserError: where the matrices of the problem exceed `distance.MEMORY_BYTES`.
    """
    cost = Cost(rows, columns, w_LK, what)
    refuse_too_large(cost.shape, _COPIES, what)
    with torch.no_grad():
        n, m = cost.shape
        scaled_nm = torch.cat([cost.block(each) for each in cost.blocks]).mul_(1.0 / epsilon)
        f_n, g_m, iterations = _sinkhorn(scaled_nm, None if start_m is None else start_m / epsilon)
        error = float((m * (f_n[:, None] + g_m - scaled_nm).exp_().sum(0) / (n * m) - 1.0).abs().mean())
        if not error <= TOLERANCE and min(n, m) <= _LARGEST_NEWTON:
            f_n, g_m, error, steps = _newton(scaled_nm, f_n, g_m)
            iterations += steps
        report.add(what, iterations, error)
        value = epsilon * (f_n.mean() + g_m.mean())
    return cost.transported(value, epsilon, epsilon * f_n, epsilon * g_m)


def refuse_too_large(shape: tuple[int, int], copies: int, what: str) -> None:
    """Raise UserError where so many float64 matrices [n, m] exceed `distance.MEMORY_BYTES`."""
    n, m = shape
    needed = copies * 8 * n * m
    if needed > distance.MEMORY_BYTES:
        raise UserError(
            f"the transport between {what} ({n} x {m} samples) takes {needed / 1e6:.1f} MB, more than the "
            f"{distance.MEMORY_BYTES / 1e6:.1f} MB that a call may use; take fewer source samples "
            "(align.source_samples) or fewer target samples (align.samples), or align with bures or sliced"
        )


def _sinkhorn(scaled_nm: Tensor, g_m: Tensor | None) -> tuple[Tensor, Tensor, int]:
    """Return both potentials over eps, the rows' marginals being exact, and the number of iterations."""
    n, m = scaled_nm.shape
    a_n, b_m = scaled_nm.new_full((n,), 1.0 / n), scaled_nm.new_full((m,), 1.0 / m)
    g_m = scaled_nm.new_zeros(m) if g_m is None else g_m
    start = ((scaled_nm - g_m).amin(1), g_m)  # a C-transform: each row of the first kernel contains a 1
    options = {"numItermax": _POT_ITERATIONS, "stopThr": TOLERANCE / math.sqrt(m), "log": True, "warmstart": start}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # `Report` notes what they say
        _, log = ot.bregman.sinkhorn_stabilized(a_n, b_m, scaled_nm, 1.0, **options)
        if bool(torch.isfinite(log["logu"].sum() + log["logv"].sum())):
            return log["logu"] + math.log(n), log["logv"] + math.log(m), log["n_iter"] + 1
        _, log = ot.bregman.sinkhorn_log(a_n, b_m, scaled_nm, 1.0, **options)
    return log["log_u"] + math.log(n), log["log_v"] + math.log(m), log["niter"] + 1


def _newton(scaled_nm: Tensor, f_n: Tensor, g_m: Tensor) -> tuple[Tensor, Tensor, float, int]:
    """Return better potentials over eps, the L1 error of the marginals, and the number of steps.

    With one side's potentials eliminated the dual objective is concave in the other's: gradient a − P 1, Hessian
    −(diag(P 1) − P diag(1/b) P^T) / eps (Cuturi & Peyré, SIAM Review 60(4), 2018). The steps, in the smaller side's,
    are damped as in Levenberg's and Marquardt's method. Each takes O(n² m + n³).
    """
    n, m = scaled_nm.shape
    if n > m:
        g_m, f_n, error, steps = _newton(scaled_nm.T, g_m, f_n)
        return f_n, g_m, error, steps

    def at(f_n: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the other side's potential, the plan and the mass that the rows lack."""
        exponents_nm = f_n[:, None] - scaled_nm
        g_m = math.log(n) - torch.logsumexp(exponents_nm, 0)
        plan_nm = exponents_nm.add_(g_m).exp_().div_(n * m)
        return g_m, plan_nm, 1.0 / n - plan_nm.sum(1)

    (g_m, plan_nm, gap_n), damping, step = at(f_n), 1e-12, 0
    while float(gap_n.abs().sum()) > TOLERANCE and step < _NEWTON_STEPS:
        step += 1
        diagonal_n = (1.0 / n - gap_n) * (1.0 + damping) + 1e-300
        # A constant may be added to all potentials: the last term fixes it.
        factor_nn, failed = torch.linalg.cholesky_ex(torch.diag(diagonal_n) - m * (plan_nm @ plan_nm.T) + 1.0 / n**2)
        if not bool(failed):
            move_n = torch.cholesky_solve(gap_n[:, None], factor_nn)[:, 0]
            moved_n = f_n + move_n * min(1.0, _LARGEST_MOVE / float(move_n.abs().max()))
            tried_m, tried_nm, left_n = at(moved_n)
            gained = float((moved_n - f_n).mean() + (tried_m - g_m).mean())
            if gained > 0 or left_n.abs().sum() < 0.5 * gap_n.abs().sum():
                f_n, g_m, plan_nm, gap_n, damping = moved_n, tried_m, tried_nm, left_n, damping / 10.0
                continue
        damping *= 30.0
    return f_n, g_m, float(gap_n.abs().sum()), step


def self_transport(side: Side, w_LL: Tensor | None, epsilon: float, report: Report, what: str) -> tuple[Tensor, Tensor]:
    """Return OT between a side and itself, differentiable as `transport` is, and its potential [n].

    The iteration is the symmetric u ← (u a / K u)^½, whose error at least halves in each where the kernel is positive
    semi-definite (Feydy et al. 2019): some tens, where POT's alternating ones take up to thousands. A kernel that does
    not fit half of `distance.MEMORY_BYTES` is recomputed in each.
    """
    cost = Cost(side, None, w_LL, what)
    n = len(side.x_nD)
    with torch.no_grad():

        def kernel(rows: slice) -> Tensor:
            return cost.block(rows).mul_(-1.0 / epsilon).exp_()

        stored = [kernel(rows) for rows in cost.blocks] if 16 * n * n <= distance.MEMORY_BYTES else None
        if stored is None:
            report.notes.append(
                f"the transport between {what} ({n} x {n} points) exceeds the memory of a call and recomputes its "
                "costs in each iteration: fewer samples (align.samples, align.source_samples) are much faster"
            )
        u_n = side.x_nD.new_ones(n)
        for iteration in range(1, _SELF_ITERATIONS + 1):
            kernels = map(kernel, cost.blocks) if stored is None else stored
            sums_n = torch.cat([kernel_rn @ u_n for kernel_rn in kernels]) / n
            error = float((u_n * sums_n - 1.0).abs().mean())
            if error <= TOLERANCE or iteration == _SELF_ITERATIONS:
                break
            u_n = (u_n / sums_n).sqrt_()
        report.add(what, iteration, error)
        potential_n = epsilon * u_n.log()
        value = 2.0 * potential_n.mean() - epsilon * ((u_n * sums_n).mean() - 1.0)
    return cost.transported(value, epsilon, potential_n, potential_n), potential_n
