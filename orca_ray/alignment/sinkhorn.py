"""Entropic optimal transport between uniform measures, solved by POT, differentiated by the envelope theorem.

With a_i = 1/n and b_j = 1/m, the problem is  OT(C) = min_P <P, C> + eps KL(P | a b^T)  over plans P with marginals a
and b. POT finds its potentials f, g without autograd; at the optimum OT = <a, f> + <b, g>, and dOT/dC = P, because the
potentials are stationary (envelope theorem; Feydy et al. 2019, arXiv:1810.08278). Backward is thus one
product with P: its cost and memory do not grow with the number of iterations.
"""

import logging
import math
from typing import Any

import ot
import torch
from torch import Tensor

logger = logging.getLogger(__name__)

RELATIVE_EPSILON = 0.05
"""eps as a share of the mean cost within the source: small against class gaps, large enough for tens of iterations."""

_TOLERANCE = 1e-7  # of the marginal's norm
_FIRST_ITERATIONS = 61  # one more than a multiple of the next, so that the last is checked
_MAX_ITERATIONS = 501
_ANNEALING = (64.0, 16.0, 4.0)  # times eps
_CHECK_EVERY = 10
_ABSORB_ABOVE = 1e100  # scalings up to here still leave 1e-108 of double precision's range; POT's 1e3 re-exponentiates
_SYMMETRIC_ITERATIONS = 40  # each at least halves the error


def epsilon_for(cost: Tensor, fallback: float = 1.0) -> float:
    """Return the regularisation for costs like those in ``cost`` [N, N]: `RELATIVE_EPSILON` of their mean.

    A source without any spread (one point, or copies of one) has mean cost 0 and takes ``fallback`` for the mean.
    """
    mean = float(cost.mean())
    return RELATIVE_EPSILON * (mean if mean > 0 else fallback)


def half_squared_distances(x_nD: Tensor, y_mD: Tensor) -> Tensor:
    """Return ½‖x_i − y_j‖² [n, m]. Centre the points first: the expanded form cancels badly far from the origin."""
    half_x = 0.5 * (x_nD * x_nD).sum(1, keepdim=True)
    half_y = 0.5 * (y_mD * y_mD).sum(1)
    return (half_x + half_y - x_nD @ y_mD.T).clamp_min(0)


def entropic_cost(cost_nm: Tensor, epsilon: float) -> Tensor:
    """Return OT(C), a scalar differentiable in ``cost_nm`` (float64).

    O(n m) a sweep, tens of sweeps where eps is about 0.05 of the mean cost. Where cost / eps varies by thousands, the
    sweeps end at their limit: the rows' marginals are exact even then, the columns' are off by a per cent or so. Put
    the side whose gradient matters in the rows, and enlarge eps if that is not good enough.
    """
    c = cost_nm.detach()
    # c-transforms: each row and column of the first kernel holds a 1, so nothing underflows as a whole.
    f = c.min(dim=1).values
    return _envelope(cost_nm, epsilon, (f, (c - f[:, None]).min(dim=0).values))


def self_entropic_cost(cost_nn: Tensor, epsilon: float) -> Tensor:
    """Return OT(C) for a symmetric cost with zero diagonal, as `entropic_cost` does.

    Alternating updates are slow here when points hardly see each other, so POT starts from the symmetric fixed point
    u ← (u a / K u)^½, which contracts by 2 or more a sweep (Feydy et al. 2019). No underflow: K_ii = 1.
    """
    n = len(cost_nn)
    kernel = torch.exp(-cost_nn.detach() / epsilon)
    u = torch.full_like(kernel[0], 1.0 / n**0.5)
    for _ in range(_SYMMETRIC_ITERATIONS):
        u = (u / (n * (kernel @ u))).sqrt()
    f = epsilon * torch.log(n * u)
    return _envelope(cost_nn, epsilon, (f, f))


def _envelope(cost_nm: Tensor, epsilon: float, start: tuple[Tensor, Tensor]) -> Tensor:
    value, plan_nm = _solve(cost_nm.detach(), epsilon, start)
    # The bracket is zero; its gradient with respect to the cost is the plan.
    return value + (plan_nm * (cost_nm - cost_nm.detach())).sum()


@torch.no_grad()
def _solve(cost_nm: Tensor, epsilon: float, start: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """Run POT's stabilised Sinkhorn; return the dual value and the plan, whose row sums are exact."""
    tolerance = _TOLERANCE / cost_nm.shape[1] ** 0.5
    plan, log = _pot(cost_nm, epsilon, start, tolerance, _FIRST_ITERATIONS)
    if log["err"][-1] > tolerance:
        # Where classes are far apart, mass between them settles slowly at this eps, but quickly at larger ones.
        for factor in _ANNEALING:
            _, log = _pot(cost_nm, factor * epsilon, start, 1e4 * tolerance, _FIRST_ITERATIONS)
            start = log["warmstart"]
        plan, log = _pot(cost_nm, epsilon, start, tolerance, _MAX_ITERATIONS)
    if log["err"][-1] > tolerance:
        logger.debug("sinkhorn %s stopped at marginal error %.1e", tuple(cost_nm.shape), float(log["err"][-1]))
    # POT's potentials are relative to the counting measure, the value's to a b^T.
    value = log["alpha"].mean() + log["beta"].mean() + epsilon * math.log(cost_nm.numel())
    return value, plan


def _pot(
    cost_nm: Tensor, epsilon: float, start: tuple[Tensor, Tensor], tolerance: float, max_iterations: int
) -> tuple[Tensor, dict[str, Any]]:
    n, m = cost_nm.shape
    solution: tuple[Tensor, dict[str, Any]] = ot.bregman.sinkhorn_stabilized(
        cost_nm.new_full((n,), 1.0 / n),
        cost_nm.new_full((m,), 1.0 / m),
        cost_nm,
        epsilon,
        numItermax=max_iterations,
        stopThr=tolerance,
        tau=_ABSORB_ABOVE,
        warmstart=start,
        print_period=_CHECK_EVERY,
        warn=False,
        log=True,
    )
    return solution
