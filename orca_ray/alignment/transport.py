"""Entropic optimal transport between uniform measures on n and m points, solved by POT,
differentiable in the costs.

The problem is  OT = min_P <P, C> + eps KL(P | a b^T)  over plans P [n, m] with
marginals a_i = 1/n and b_j = 1/m. At the optimum the gradient dOT/dC is P (envelope
theorem; Feydy et al. 2019, arXiv:1810.08278), so the iterations themselves need no
autograd. The dual potentials are f [n] and g [m]; "scaled" costs and potentials are
divided by eps.
"""

import math
import warnings
from dataclasses import dataclass, field

import ot
import torch
from torch import Tensor

from orca_ray.alignment import distance
from orca_ray.alignment.cost import CostMatrix, recomputed
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
_OWN_ITERATIONS = 500
_NEWTON_STEPS = 60
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
    """Collector of how the transport problems in one call of a distance ended, for the
    call's `Diagnosis`.
    """

    iterations: int = 0
    error: float = 0.0
    notes: list[str] = field(default_factory=list)

    def add(self, what: str, iterations: int, error: float) -> None:
        """Record iterations and L1 error of one problem; above `TOLERANCE`, add a note
        that names it by ``what``.
        """
        self.iterations = max(self.iterations, iterations)
        self.error = max(self.error, math.inf if math.isnan(error) else error)
        if not error <= TOLERANCE:
            self.notes.append(
                f"the transport between {what} did not converge and its gradient is"
                " approximate: where that persists, bring the two sides to a similar"
                " scale, or align with l2 or mmd"
            )

    def add_recomputed(self, cost: CostMatrix) -> None:
        """Add a note that ``cost`` does not fit in memory, so that its transport
        problem is solved in blocks.
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


def epsilon_for(mean_cost: float, x_ND: Tensor) -> float:
    """Return eps: `RELATIVE_EPSILON` times ``mean_cost``, or times the mean of ‖x‖² if
    all points x are equal.
    """
    mean_square = float((x_ND * x_ND).sum(1).mean())
    # Centring equal points leaves rounding errors of 1e-16 of their norm; costs are
    # squares.
    return RELATIVE_EPSILON * (
        mean_cost if mean_cost > 1e-24 * mean_square else mean_square or 1.0
    )


def transport(
    cost: CostMatrix,
    epsilon: float,
    report: SolverReport,
    start_m: Tensor | None = None,
) -> Tensor:
    """Return OT between target (rows) and source (columns), a scalar differentiable in
    the costs; extend ``report``.

    POT's Sinkhorn iterations run up to 200 times, starting from g = ``start_m``. If
    they do not converge, Newton's method continues: with few points, or classes far
    apart, Sinkhorn would need more than 10 000 iterations. If the matrices exceed
    `distance.MEMORY_BYTES`, up to 500 iterations that recompute the costs in blocks
    replace both solvers.
    """
    n, m = cost.shape
    with torch.no_grad():
        g_m = cost.x_nD.new_zeros(m) if start_m is None else start_m / epsilon
        if _COPIES * 8 * n * m > distance.MEMORY_BYTES:
            report.add_recomputed(cost)
            f_n, g_m, error, iterations = _sinkhorn_in_blocks(cost, epsilon, g_m)
        else:
            scaled_nm = torch.cat([cost_rm / epsilon for _, cost_rm in cost])
            f_n, g_m, iterations = _sinkhorn(scaled_nm, g_m)
            error = float(
                ((f_n[:, None] + g_m - scaled_nm).exp_().sum(0) / n - 1.0).abs().mean()
            )
            if not error <= TOLERANCE and min(n, m) <= _LARGEST_NEWTON:
                f_n, g_m, error, steps = _newton(scaled_nm, f_n, g_m)
                iterations += steps
        report.add(cost.what, iterations, error)
        value = epsilon * (f_n.mean() + g_m.mean())
    return _with_gradient(value, cost, epsilon, f_n, g_m)


def self_transport(
    cost: CostMatrix, epsilon: float, report: SolverReport
) -> tuple[Tensor, Tensor]:
    """Return OT of points to themselves, a scalar differentiable in the costs, and the
    potential f [n], equal to g.

    With K = exp(-C / eps) and u = exp(f / eps), iterates u ← (u / mean_j K_ij u_j)^½
    (Feydy et al. 2019), tens of times; POT's alternating updates need up to thousands.
    If K exceeds `distance.MEMORY_BYTES` / 2, it is recomputed in each iteration. The
    solver's result is added to ``report``.
    """
    n = cost.shape[0]
    blocks = cost.blocks
    with torch.no_grad():

        def kernel(rows: slice) -> Tensor:
            return cost.rows(rows).mul_(-1.0 / epsilon).exp_()

        stored = (
            [kernel(rows) for rows in blocks]
            if 16 * n * n <= distance.MEMORY_BYTES
            else None
        )
        if stored is None:
            report.add_recomputed(cost)
        u_n = cost.x_nD.new_ones(n)
        for iteration in range(1, _OWN_ITERATIONS + 1):
            sums_n = (
                torch.cat(
                    [kernel_rn @ u_n for kernel_rn in stored or map(kernel, blocks)]
                )
                / n
            )
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
    """Return ``value`` with the plan P, given by the scaled potentials, as its gradient
    with respect to C.
    """

    def linear_part(rows: slice) -> Tensor:
        cost_rm = cost.rows(rows)
        plan_rm = (f_n[rows, None] + g_m - cost_rm.detach() / epsilon).exp_()
        return (plan_rm * cost_rm).sum() / math.prod(cost.shape)

    small = (
        _COPIES * cost.x_nD.element_size() * math.prod(cost.shape)
        <= distance.MEMORY_BYTES // 8
    )
    for rows in cost.blocks if torch.is_grad_enabled() else ():
        part = linear_part(rows) if small else recomputed(linear_part, rows)
        value = value + (part - part.detach())
    return value


def _sinkhorn(scaled_nm: Tensor, g_m: Tensor) -> tuple[Tensor, Tensor, int]:
    """Run POT's Sinkhorn iterations from the potential ``g_m``.

    Returns both scaled potentials and the number of iterations. The row marginals of
    the plan are exact.
    """
    n, m = scaled_nm.shape
    weights = scaled_nm.new_full((n,), 1.0 / n), scaled_nm.new_full((m,), 1.0 / m)
    start = (
        (scaled_nm - g_m).amin(1),
        g_m,
    )  # a C-transform: each row of the first kernel contains a 1
    options = {
        "numItermax": _POT_ITERATIONS,
        "stopThr": TOLERANCE / math.sqrt(m),
        "log": True,
        "warmstart": start,
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # `Report` notes what they warn about
        _, log = ot.bregman.sinkhorn_stabilized(*weights, scaled_nm, 1.0, **options)
        if bool(torch.isfinite(log["logu"].sum() + log["logv"].sum())):
            return (
                log["logu"] + math.log(n),
                log["logv"] + math.log(m),
                log["n_iter"] + 1,
            )
        _, log = ot.bregman.sinkhorn_log(
            *weights, scaled_nm, 1.0, **options
        )  # slower, and never loses its precision
    return log["log_u"] + math.log(n), log["log_v"] + math.log(m), log["niter"] + 1


def _sinkhorn_in_blocks(
    cost: CostMatrix, epsilon: float, g_m: Tensor
) -> tuple[Tensor, Tensor, float, int]:
    """Return scaled potentials, L1 error and iterations of log-domain Sinkhorn; row
    marginals are exact.
    """
    n, m = cost.shape
    f_n = cost.x_nD.new_empty(n)
    next_m = g_m
    for iteration in range(1, _OWN_ITERATIONS + 1):  # noqa: B007 (returned)
        g_m, sums_m = next_m, torch.full_like(g_m, -torch.inf)
        for rows, cost_rm in cost:
            scaled_rm = cost_rm / epsilon
            f_n[rows] = math.log(m) - torch.logsumexp(g_m - scaled_rm, 1)
            sums_m = torch.logaddexp(
                sums_m, torch.logsumexp(f_n[rows, None] - scaled_rm, 0)
            )
        next_m = math.log(n) - sums_m
        error = float(torch.expm1(g_m - next_m).abs().mean())
        if error <= TOLERANCE:
            break
    return f_n, g_m, error, iteration


def _newton(
    scaled_nm: Tensor, f_n: Tensor, g_m: Tensor
) -> tuple[Tensor, Tensor, float, int]:
    """Improve scaled potentials by Newton's method; return them, the L1 error of the
    marginals, and the steps.

    With g eliminated, the dual objective is concave in f, with gradient a − P 1 and
    Hessian −(diag(P 1) − P diag(1/b) P^T) / eps (Cuturi & Peyré 2018). Steps are damped
    (Levenberg-Marquardt) and cost O(n² m + n³), with n the smaller.
    """
    n, m = scaled_nm.shape
    if n > m:
        g_m, f_n, error, steps = _newton(scaled_nm.T, g_m, f_n)
        return f_n, g_m, error, steps

    def at(f_n: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the optimal g for ``f_n``, the plan P, and a − P 1, the mass that its
        rows lack.
        """
        exponents_nm = f_n[:, None] - scaled_nm
        g_m = math.log(n) - torch.logsumexp(exponents_nm, 0)
        plan_nm = exponents_nm.add_(g_m).exp_().div_(n * m)
        return g_m, plan_nm, 1.0 / n - plan_nm.sum(1)

    (g_m, plan_nm, gap_n), damping, step = at(f_n), 1e-12, 0
    while float(gap_n.abs().sum()) > TOLERANCE and step < _NEWTON_STEPS:
        step += 1
        diagonal_n = (1.0 / n - gap_n) * (1.0 + damping) + 1e-300
        # f is determined up to a constant only; the last term makes the matrix
        # nonsingular.
        factor_nn, failed = torch.linalg.cholesky_ex(
            torch.diag(diagonal_n) - m * (plan_nm @ plan_nm.T) + 1.0 / n**2
        )
        if not bool(failed):
            move_n = torch.cholesky_solve(gap_n[:, None], factor_nn)[:, 0]
            moved_n = f_n + move_n * min(1.0, _LARGEST_MOVE / float(move_n.abs().max()))
            tried_m, tried_nm, left_n = at(moved_n)
            gained = float((moved_n - f_n).mean() + (tried_m - g_m).mean())
            if gained > 0 or left_n.abs().sum() < 0.5 * gap_n.abs().sum():
                f_n = moved_n
                g_m = tried_m
                plan_nm = tried_nm
                gap_n = left_n
                damping = damping / 10.0
                continue
        damping *= 30.0
    return f_n, g_m, float(gap_n.abs().sum()), step
