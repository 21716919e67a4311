"""Entropic optimal transport between uniform measures on n and m points.

It is solved by POT and differentiable in the costs. The problem is OT = min_P <P, C> +
eps KL(P | a b^T) over plans P [n, m] with marginals a_i = 1/n and b_j = 1/m. At the
optimum the gradient dOT/dC is P (envelope theorem; Feydy et al. 2019,
arXiv:1810.08278), so the iterations themselves need no autograd. The dual potentials
are f [n] and g [m]; "scaled" costs and potentials are divided by eps.
"""

import math
import warnings
from dataclasses import dataclass, field
from typing import NamedTuple

import ot
import torch
from torch import Tensor

from orca_ray.alignment import distance
from orca_ray.alignment.cost import CostMatrix, call_recomputed
from orca_ray.alignment.distance import Diagnosis

RELATIVE_EPSILON = 0.05
"""eps divided by the mean cost within the source: small compared with gaps between
classes, yet fast to converge.
"""
TOLERANCE = 1e-7
"""Iterations stop when the L1 error of the plan's marginals (at most 2) is at most
this.
"""
_POT_ITERATIONS = 200
"""Largest number of POT's Sinkhorn iterations."""
_OWN_ITERATIONS = 500
"""Largest number of iterations of the solvers in this module."""
_NEWTON_STEPS = 60
"""Largest number of steps of Newton's method."""
_LARGEST_NEWTON = 2048
"""Newton's method is used only if the smaller side has at most this many points,
because it is slow for more.
"""
_LARGEST_MOVE = 50.0
"""Maximum change of a scaled potential in one step of Newton's method."""
_COPIES = 6
"""Peak memory of POT, including the costs, in float64 matrices [n, m] (5.1 measured).
"""


@dataclass
class SolverReport:
    """Report of how the transport problems in one call of a distance ended.

    It is summarised as the call's `Diagnosis`.
    """

    iterations: int = 0
    error: float = 0.0
    notes: list[str] = field(default_factory=list)

    def add(self, what: str, iterations: int, error: float) -> None:
        """Record iterations and L1 error of one problem.

        If the error is above `TOLERANCE`, add a note that names the problem by
        ``what``.
        """
        self.iterations = max(self.iterations, iterations)
        self.error = max(self.error, math.inf if math.isnan(error) else error)
        if not error <= TOLERANCE:  # true for NaN, too
            self.notes.append(
                f"the transport between {what} did not converge and its gradient is"
                " approximate: where that persists, bring the two sides to a similar"
                " scale, or align with l2 or mmd"
            )

    def add_recomputed(self, cost: CostMatrix) -> None:
        """Add a note that ``cost`` does not fit in memory.

        Its transport problem is then solved in blocks.
        """
        n, m = cost.shape
        self.notes.append(
            f"the transport between {cost.what} ({n} x {m} points) exceeds the memory"
            " of a call and recomputes its costs in each iteration: fewer samples"
            " (align.samples_per_class, align.source_samples) are much faster"
        )

    def diagnosis(self) -> Diagnosis:
        """Return the summary of all recorded problems."""
        return Diagnosis(
            self.error <= TOLERANCE,
            self.iterations,
            self.error,
            tuple(dict.fromkeys(self.notes)),
        )


class _Potentials(NamedTuple):
    """Scaled potentials at which a solver has stopped."""

    f_n: Tensor
    g_m: Tensor
    error: float
    """L1 error of the marginals of the plan."""
    iterations: int


def epsilon_for(mean_cost: float, x_ND: Tensor) -> float:
    """Return eps: `RELATIVE_EPSILON` times ``mean_cost``.

    If all points x are equal, it is `RELATIVE_EPSILON` times the mean of ‖x‖².
    """
    mean_square = float((x_ND * x_ND).sum(1).mean())
    # Centring equal points leaves rounding errors of 1e-16 of their norm; costs are
    # squares.
    if mean_cost > 1e-24 * mean_square:
        return RELATIVE_EPSILON * mean_cost
    if mean_square > 0:
        return RELATIVE_EPSILON * mean_square
    return RELATIVE_EPSILON


def transport(
    cost: CostMatrix,
    epsilon: float,
    report: SolverReport,
    start_m: Tensor | None = None,
) -> Tensor:
    """Return OT between target (rows) and source (columns).

    The scalar is differentiable in the costs. ``report`` gets the result of the
    solvers. POT's Sinkhorn iterations run up to 200 times, starting from g =
    ``start_m``. If they do not converge, Newton's method continues: with few points, or
    classes far apart, Sinkhorn would need more than 10 000 iterations. If the matrices
    exceed `distance.MEMORY_BYTES`, up to 500 iterations that recompute the costs in
    blocks replace both solvers.
    """
    n, m = cost.shape
    with torch.no_grad():
        g_m = cost.x_nD.new_zeros(m) if start_m is None else start_m / epsilon
        if _COPIES * 8 * n * m > distance.MEMORY_BYTES:
            report.add_recomputed(cost)
            potentials = _sinkhorn_in_blocks(cost, epsilon, g_m)
        else:
            potentials = _sinkhorn_and_newton(cost, epsilon, g_m)
        report.add(cost.what, potentials.iterations, potentials.error)
        value = epsilon * (potentials.f_n.mean() + potentials.g_m.mean())
    return _with_gradient(value, cost, epsilon, potentials.f_n, potentials.g_m)


def _sinkhorn_and_newton(cost: CostMatrix, epsilon: float, g_m: Tensor) -> _Potentials:
    """Run Sinkhorn from ``g_m``, then Newton's method if that has not converged."""
    scaled_nm = torch.cat([cost_rm / epsilon for _, cost_rm in cost])
    potentials = _sinkhorn(scaled_nm, g_m)
    if potentials.error <= TOLERANCE or min(scaled_nm.shape) > _LARGEST_NEWTON:
        return potentials
    improved = _newton(scaled_nm, potentials.f_n, potentials.g_m)
    return improved._replace(iterations=potentials.iterations + improved.iterations)


def self_transport(
    cost: CostMatrix, epsilon: float, report: SolverReport
) -> tuple[Tensor, Tensor]:
    """Return OT of points to themselves, and the potential f [n], equal to g.

    OT is a scalar that is differentiable in the costs. With K = exp(-C / eps) and u =
    exp(f / eps), the solver iterates u ← (u / mean_j K_ij u_j)^½ (Feydy et al. 2019).
    It needs tens of iterations, where POT's alternating updates need up to thousands.
    If K exceeds `distance.MEMORY_BYTES` / 2, it is recomputed in each iteration. The
    solver's result is added to ``report``.
    """
    n = cost.shape[0]
    blocks = cost.blocks

    def kernel(rows: slice) -> Tensor:
        return cost.rows(rows).mul_(-1.0 / epsilon).exp_()

    with torch.no_grad():
        stored: list[Tensor] | None = None
        # 8 bytes a float64, and K may take half of the memory.
        if 16 * n * n <= distance.MEMORY_BYTES:
            stored = [kernel(rows) for rows in blocks]
        else:
            report.add_recomputed(cost)
        u_n = cost.x_nD.new_ones(n)
        for iteration in range(1, _OWN_ITERATIONS + 1):
            kernels = map(kernel, blocks) if stored is None else stored
            sums_n = torch.cat([kernel_rn @ u_n for kernel_rn in kernels]) / n
            error = float((u_n * sums_n - 1.0).abs().mean())
            if error <= TOLERANCE or iteration == _OWN_ITERATIONS:
                break
            u_n = (u_n / sums_n).sqrt_()
        report.add(cost.what, iteration, error)
        f_n = u_n.log()
        value = epsilon * (2.0 * f_n.mean() - (u_n * sums_n).mean() + 1.0)
    return _with_gradient(value, cost, epsilon, f_n, f_n), epsilon * f_n


def _with_gradient(
    value: Tensor, cost: CostMatrix, epsilon: float, f_n: Tensor, g_m: Tensor
) -> Tensor:
    """Return ``value`` with the plan P as its gradient with respect to C.

    ``f_n`` and ``g_m`` are the scaled potentials that give P.
    """

    def linear_part(rows: slice) -> Tensor:
        cost_rm = cost.rows(rows)
        plan_rm = (f_n[rows, None] + g_m - cost_rm.detach() / epsilon).exp_()
        return (plan_rm * cost_rm).sum() / math.prod(cost.shape)

    if not torch.is_grad_enabled():
        return value
    needed_bytes = _COPIES * cost.x_nD.element_size() * math.prod(cost.shape)
    fits = needed_bytes <= distance.MEMORY_BYTES // 8
    for rows in cost.blocks:
        part = linear_part(rows) if fits else call_recomputed(linear_part, rows)
        value = value + (part - part.detach())
    return value


def _sinkhorn(scaled_nm: Tensor, g_m: Tensor) -> _Potentials:
    """Run POT's Sinkhorn iterations from the potential ``g_m``.

    The row marginals of the plan are exact.
    """
    n, m = scaled_nm.shape
    row_weights = scaled_nm.new_full((n,), 1.0 / n)
    column_weights = scaled_nm.new_full((m,), 1.0 / m)
    epsilon = 1.0  # the costs are divided by it already
    problem = (row_weights, column_weights, scaled_nm, epsilon)
    # A C-transform of g: each row of the first kernel contains a 1.
    f_n = (scaled_nm - g_m).amin(1)
    options = {
        "numItermax": _POT_ITERATIONS,
        "stopThr": TOLERANCE / math.sqrt(m),
        "log": True,
        "warmstart": (f_n, g_m),
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # `SolverReport` notes what they warn about
        _, log = ot.bregman.sinkhorn_stabilized(*problem, **options)
        f_n = log["logu"] + math.log(n)
        g_m = log["logv"] + math.log(m)
        iterations = log["n_iter"] + 1
        if not bool(torch.isfinite(log["logu"].sum() + log["logv"].sum())):
            # Slower, and never loses its precision.
            _, log = ot.bregman.sinkhorn_log(*problem, **options)
            f_n = log["log_u"] + math.log(n)
            g_m = log["log_v"] + math.log(m)
            iterations = log["niter"] + 1
    column_masses_m = (f_n[:, None] + g_m - scaled_nm).exp_().sum(0) / n
    error = float((column_masses_m - 1.0).abs().mean())
    return _Potentials(f_n, g_m, error, iterations)


def _sinkhorn_in_blocks(cost: CostMatrix, epsilon: float, g_m: Tensor) -> _Potentials:
    """Run log-domain Sinkhorn iterations from the potential ``g_m``, block by block.

    The row marginals of the plan are exact.
    """
    n, m = cost.shape
    f_n = cost.x_nD.new_empty(n)
    next_m = g_m
    for iteration in range(1, _OWN_ITERATIONS + 1):  # noqa: B007 (returned)
        g_m = next_m
        sums_m = torch.full_like(g_m, -torch.inf)
        for rows, cost_rm in cost:
            scaled_rm = cost_rm / epsilon
            f_n[rows] = math.log(m) - torch.logsumexp(g_m - scaled_rm, 1)
            column_sums_m = torch.logsumexp(f_n[rows, None] - scaled_rm, 0)
            sums_m = torch.logaddexp(sums_m, column_sums_m)
        next_m = math.log(n) - sums_m
        error = float(torch.expm1(g_m - next_m).abs().mean())
        if error <= TOLERANCE:
            break
    return _Potentials(f_n, g_m, error, iteration)


class _NewtonPoint(NamedTuple):
    """Scaled potential f [n], and what Newton's method needs at it."""

    f_n: Tensor
    g_m: Tensor
    """Optimal g for f; the column marginals of the plan are then exact."""
    plan_nm: Tensor
    """Plan P."""
    gap_n: Tensor
    """a − P 1, the mass that the rows of P lack."""

    @classmethod
    def at(cls, scaled_nm: Tensor, f_n: Tensor) -> "_NewtonPoint":
        """Return the point at the potential ``f_n`` for scaled costs."""
        n, m = scaled_nm.shape
        exponents_nm = f_n[:, None] - scaled_nm
        g_m = math.log(n) - torch.logsumexp(exponents_nm, 0)
        plan_nm = exponents_nm.add_(g_m).exp_().div_(n * m)
        return cls(f_n, g_m, plan_nm, 1.0 / n - plan_nm.sum(1))


def _newton(scaled_nm: Tensor, f_n: Tensor, g_m: Tensor) -> _Potentials:
    """Improve scaled potentials by Newton's method.

    With g eliminated, the dual objective is concave in f, with gradient a − P 1 and
    Hessian −(diag(P 1) − P diag(1/b) P^T) / eps (Cuturi & Peyré 2018). Steps are damped
    (Levenberg-Marquardt) and cost O(n² m + n³), with n the smaller.
    """
    n, m = scaled_nm.shape
    if n > m:
        swapped = _newton(scaled_nm.T, g_m, f_n)
        return swapped._replace(f_n=swapped.g_m, g_m=swapped.f_n)
    point = _NewtonPoint.at(scaled_nm, f_n)
    # Almost Newton's method; failed steps raise the damping.
    damping = 1e-12
    step = 0
    while float(point.gap_n.abs().sum()) > TOLERANCE and step < _NEWTON_STEPS:
        step += 1
        better_point = _newton_step(scaled_nm, point, damping)
        if better_point is None:
            damping *= 30.0
        else:
            point = better_point
            damping /= 10.0
    return _Potentials(point.f_n, point.g_m, float(point.gap_n.abs().sum()), step)


def _newton_step(
    scaled_nm: Tensor, point: _NewtonPoint, damping: float
) -> _NewtonPoint | None:
    """Return the point after a damped step; None if the step does not improve it."""
    n, m = scaled_nm.shape
    # 1e-300: a row of the plan may have underflowed to 0.
    diagonal_n = (1.0 / n - point.gap_n) * (1.0 + damping) + 1e-300
    # f is determined up to a constant only; the last term makes the matrix nonsingular.
    hessian_nn = torch.diag(diagonal_n) - m * (point.plan_nm @ point.plan_nm.T)
    factor_nn, failed = torch.linalg.cholesky_ex(hessian_nn + 1.0 / n**2)
    if bool(failed):
        return None
    move_n = torch.cholesky_solve(point.gap_n[:, None], factor_nn)[:, 0]
    length = min(1.0, _LARGEST_MOVE / float(move_n.abs().max()))
    moved = _NewtonPoint.at(scaled_nm, point.f_n + move_n * length)
    # The dual objective must rise, or the error of the marginals halve.
    gain = float((moved.f_n - point.f_n).mean() + (moved.g_m - point.g_m).mean())
    if gain > 0 or moved.gap_n.abs().sum() < 0.5 * point.gap_n.abs().sum():
        return moved
    return None
